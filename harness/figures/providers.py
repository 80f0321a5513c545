"""The providers of ir_measures: which one computes a measure, what they are given, and what they cannot compute.

Every provider is given plain numbers as ids, because some of them read ids in their own way: gdeval drops everything up
to the last dash of a query's id and accepts only digits after it, and pytrec_eval ends an id at a NUL character.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import count
from typing import Any, NamedTuple

import ir_measures
from ir_measures import Measure, nDCG

from harness.records import Qrels

COUNTS = {"NumQ", "NumRel", "NumRet"}  # their summary is a sum over the queries, as ir_measures' aggregators have it
MOST_LEVEL = 1000  # largest `rel` and gain: pytrec_eval reads beyond its memory for a level above the highest grade
GRADES = 1_000_000  # grades are below it: pytrec_eval allocates memory for every grade up to the highest
GDEVAL_GRADES = 4  # the highest grade in gdeval.pl, which divides every gain by 2 to this power

# Providers of ir_measures in the order in which they are asked. Left out: cwl_eval cuts lists at 1,000 documents and
# normalises what is left; accuracy divides by zero; ranx and trectools compute the same measures once more.
PROVIDERS = tuple(
    ir_measures.providers.registry[name] for name in ("pytrec_eval", "judged", "msmarco", "gdeval", "compat")
)
BY_SUBTOPIC = {"ERR_IA", "nERR_IA", "alpha_DCG", "alpha_nDCG", "NRBP", "nNRBP", "AP_IA", "P_IA", "StRecall"}


class Value(NamedTuple):
    """The value of a measure for one query."""

    measure: str
    query_id: str
    value: float


class Plain(NamedTuple):
    """Judgements and ranked documents with numbers as ids."""

    query_ids: Mapping[str, str]  # number of a query -> its id
    grades: Mapping[str, Mapping[str, int]]
    run: Mapping[str, Mapping[str, float]]  # scores n, n-1, ..., 1


def provider_of(measure: Measure) -> Any:
    """The provider that computes a measure; None for a count, which needs none. Raises ValueError."""
    measure.validate_params()  # type: ignore[no-untyped-call]
    if measure.NAME in COUNTS:
        return None
    supporting = [provider for provider in PROVIDERS if provider.supports(measure)]
    available = next((provider for provider in supporting if provider.is_available()), None)
    if available is None:
        raise ValueError(_missing(measure, supporting))
    return available


def check_grades(measures: Sequence[Measure], qrels: Qrels) -> None:
    """Raises a one-line ValueError for a grade with which one of the measures would be wrong."""
    exponential = next((measure for measure in measures if _is_of(measure, "gdeval")), None)
    interpolated = [measure for measure in measures if measure.NAME == "IPrec"]
    for query_id, grades in qrels.items():
        for doc_id, grade in grades.items():
            if type(grade) is not int or abs(grade) >= GRADES:
                raise ValueError(f"{_where(query_id, doc_id, grade)}, expected a whole number below {GRADES:,}")
            if exponential is not None and grade > GDEVAL_GRADES:
                raise ValueError(
                    f"{_where(query_id, doc_id, grade)} is too high for {exponential}, which gdeval defines for grades "
                    f"up to {GDEVAL_GRADES}; {_instead(exponential, max(grades.values()))}"
                )
        for measure in interpolated:
            _check_interpolation(measure, query_id, grades)


def _where(query_id: str, doc_id: str, grade: object) -> str:
    return f"query {query_id!r:.80}, document {doc_id!r:.80}: grade {grade!r:.40}"


def calculate(measures: Sequence[Measure], qrels: Qrels, ranked: Mapping[str, Sequence[str]]) -> Iterator[Value]:
    """Values for every query of `ranked` that has documents and judgements; one that is not given is 0.

    Measures with different parameters are computed apart: pytrec_eval's provider gives an nDCG the gains of another one
    in the same call.
    """
    plain = _plain(qrels, ranked)
    groups: dict[tuple[str, str], list[Measure]] = {}
    for measure in measures:
        provider = provider_of(measure)
        if provider is None:
            for query_id in ranked:
                yield Value(str(measure), query_id, _count(measure, qrels[query_id], ranked[query_id]))
        else:
            groups.setdefault((provider.NAME, _shared(measure)), []).append(measure)
    for (name, _), group in groups.items():
        judged = _computable(group[0], plain.grades) if name == "pytrec_eval" else plain.grades
        run = {number: plain.run[number] for number in judged}
        for result in ir_measures.providers.registry[name].iter_calc(group, judged, run) if run else ():
            if result.query_id not in judged:
                raise ValueError(f"{name} returned a value of {result.measure} for a query that was not given")
            yield Value(str(result.measure), plain.query_ids[result.query_id], float(result.value))


def count_without_documents(measure: Measure, grades: Mapping[str, int]) -> float:
    """The value of a measure for a query without documents: what is counted in the judgements alone, otherwise 0."""
    return _count(measure, grades, ()) if measure.NAME in COUNTS else 0.0


def _plain(qrels: Qrels, ranked: Mapping[str, Sequence[str]]) -> Plain:
    query_ids, judged, run = {}, {}, {}
    shown = ((query_id, docs) for query_id, docs in ranked.items() if docs and qrels.get(query_id))
    for number, (query_id, docs) in enumerate(shown, start=1):
        name = str(number)
        numbers = {doc_id: str(position) for position, doc_id in enumerate(docs, start=1)}
        unranked = count(len(docs) + 1)
        query_ids[name] = query_id
        run[name] = {str(position): float(len(docs) + 1 - position) for position in range(1, len(docs) + 1)}
        judged[name] = {numbers.get(doc_id) or str(next(unranked)): grade for doc_id, grade in qrels[query_id].items()}
    return Plain(query_ids, judged, run)


def _shared(measure: Measure) -> str:
    """The parameters that measures of one call to a provider have in common: all except the one after `@`."""
    defaults = {name: info.default for name, info in measure.SUPPORTED_PARAMS.items()}
    return str(sorted((k, str(v)) for k, v in measure.params.items() if k != measure.AT_PARAM and v != defaults[k]))


def _computable(measure: Measure, judged: Mapping[str, Mapping[str, int]]) -> dict[str, Mapping[str, int]]:
    """The queries with a relevant document. Without one, every measure of pytrec_eval is 0 by its definition.

    pytrec_eval reads the levels of an earlier query if no grade reaches 0, and ends the process if all are -2 or lower.
    """
    gains, level = measure.params.get("gains", {}), measure.params.get("rel", 1)
    return {
        number: grades
        for number, grades in judged.items()
        if any(gains.get(grade, grade) >= level for grade in grades.values())
    }


def _count(measure: Measure, grades: Mapping[str, int], docs: Sequence[str]) -> float:
    level: Any = measure["rel"] if "rel" in measure.SUPPORTED_PARAMS else None
    if measure.NAME == "NumQ":
        return 1.0
    if measure.NAME == "NumRel":
        return float(sum(grade >= level for grade in grades.values()))
    if "rel" not in measure.params:
        return float(len(docs))
    return float(sum(grades.get(doc_id, 0) >= level for doc_id in docs))


def _check_interpolation(measure: Measure, query_id: str, grades: Mapping[str, int]) -> None:
    """Raise where the versions of trec_eval differ: up to 9, which pytrec_eval holds, they round up, 10 to the nearest.

    The number rounded is that of the relevant documents which make up the recall (m_iprec_at_recall.c).
    """
    share = measure["recall"] * sum(grade >= measure["rel"] for grade in grades.values())
    if int(share + 0.9) != int(share + 0.5):
        raise ValueError(
            f"{measure} of query {query_id!r:.80} differs between trec_eval 9 and 10, which round "
            f"{share:g} relevant documents differently; leave the measure out"
        )


def _instead(measure: Measure, highest: int) -> str:
    """The measure of pytrec_eval with the gains of one of gdeval, if there is one."""
    if measure.NAME != nDCG.NAME or 2**highest - 1 > MOST_LEVEL:
        return "leave the measure out"
    gains = ", ".join(f"{grade}: {2**grade - 1}" for grade in range(1, highest + 1))
    return f"write nDCG(gains={{{gains}}})@{measure['cutoff']}"


def _is_of(measure: Measure, provider: str) -> bool:
    found = provider_of(measure)
    return found is not None and found.NAME == provider


def _missing(measure: Measure, supporting: Sequence[Any]) -> str:
    """The reason why nothing computes a measure."""
    if supporting:
        return f"its provider {supporting[0].NAME} is not available: {supporting[0].install_instructions()}"
    if measure.NAME in BY_SUBTOPIC:
        return "it needs judgements by subtopic, which judgements of three or four columns do not have"
    if measure.NAME == "Accuracy":
        return "it is undefined for a query whose list holds only relevant documents, or none"
    if "cutoff" in measure.SUPPORTED_PARAMS and any(provider.supports(measure @ 10) for provider in PROVIDERS):
        return f"it needs a cutoff, such as {measure @ 10}"
    return "no provider that has been verified here computes it"
