"""Every measure of ir_measures gives the value of trec_eval 10, or of a hand calculation, or is refused in one line."""

import ir_measures
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ir_measures import Measure

from harness.figures.measure_names import is_count, parse, parse_all
from harness.figures.measures import measure, summary
from harness.figures.providers import PROVIDERS, check_grades

# Graded judgements with junk of grade -2, as TREC's Web track has them; `web-2` has nothing but junk, and the run lacks
# `web-4`. Ids have dashes, which gdeval would cut off.
QRELS = {
    "web-1": {"a": 3, "b": 1, "c": 0, "d": -2, "e": 2},
    "web-2": {"a": -2, "b": -2},
    "web-3": {"a": 1, "z": 0},
    "web-4": {"lost": 2},
}
RUN = {"web-1": ["x", "a", "d", "b", "c"], "web-2": ["b", "a"], "web-3": ["z", "a"]}

# Printed by trec_eval 10.0 -c, with -l 2 for `rel=2` and -J for `judged_only=True`. Because trec_eval itself ends with
# a segmentation fault on `web-2`, its grades were 0 there, which are not relevant either.
TREC_EVAL = {
    "num_q": 4,
    "num_ret": 9,
    "num_rel": 5,
    "num_rel_ret": 3,
    "map": 0.2083,
    "AP(rel=2)": 0.0625,
    "AP(judged_only=True)": 0.2917,
    "map_cut_2": 0.1667,
    "ndcg": 0.2797,
    "ndcg_cut_3": 0.2571,
    "nDCG(judged_only=True)@3": 0.3484,
    "recip_rank": 0.25,
    "RR(rel=2)": 0.125,
    "P_3": 0.1667,
    "P(rel=2)@3": 0.0833,
    "P(judged_only=True)@3": 0.25,
    "recall_4": 0.4167,
    "R(rel=2)@4": 0.125,
    "Rprec": 0.0833,
    "Rprec(rel=2)": 0.125,
    "bpref": 0.1667,
    "Bpref(rel=2)": 0.125,
    "infAP": 0.2292,
    "infAP(rel=2)": 0.0625,
    "set_P": 0.225,
    "SetP(judged_only=True)": 0.2917,
    "set_recall": 0.4167,
    "SetR(rel=2)": 0.125,
    "set_map": 0.1917,
    "set_F": 0.2917,
    "set_F_2.0": 0.3239,
    "SetF(rel=2)": 0.0714,
    "set_relative_P": 0.4167,
    "success_1": 0.0,
    "success_2": 0.5,
    "Success(rel=2)@2": 0.25,
    "iprec_at_recall_0.00": 0.25,
    "iprec_at_recall_1.00": 0.125,
}

BY_HAND = {
    # a grade g stops the reader with (2^g - 1) / 16: 7/16 at rank 2, then 9/16 of them go on to 1/16 at rank 4:
    # web-1 7/16/2 + 9/16 * 1/16/4 = 0.227539; web-3 1/16/2 = 0.03125; the mean of four is 0.064697
    "ERR@10": 0.064697,
    # web-1 gains 7 and 1 at ranks 2 and 4: 7/1.584963 + 1/2.321928 = 4.847185; ideal 7 3 1: 9.392789; 0.516054
    # web-3 1/1.584963 = 0.630930; the mean of four is 0.286746
    "nDCG(dcg='exp-log2')@10": 0.286746,
    "nDCG(gains={1: 1, 2: 3, 3: 7})@10": 0.286746,
    "nDCG(gains={0: 0, 1: 0, 2: 0, 3: 1})": 0.630930 / 4,  # only a counts, at rank 2 of web-1
    "RR@10": 0.25,
    "Judged@10": (4 / 5 + 1 + 1 + 0) / 4,  # x alone is not judged; web-4 has no documents
    # web-3: overlap 0 at depth 1 and 1/2 at depth 2, weights 1 and 0.95: 0.475; the ideal has 1 + 0.475: 0.322034
    "NumRel(rel=2)": 3,
    "NumRet(rel=2)": 1,
}


def value(name: str, qrels: dict[str, dict[str, int]] = QRELS, run: dict[str, list[str]] = RUN) -> float:
    parsed = parse(name)
    return summary(str(parsed), measure(qrels, run, [parsed])[str(parsed)])


@pytest.mark.parametrize(("name", "printed"), TREC_EVAL.items())
def test_a_measure_has_the_value_of_trec_eval(name: str, printed: float) -> None:
    assert value(name) == pytest.approx(printed, abs=5.1e-5)


@pytest.mark.parametrize(("name", "by_hand"), BY_HAND.items())
def test_a_measure_that_trec_eval_lacks_has_the_value_of_a_hand_calculation(name: str, by_hand: float) -> None:
    assert value(name) == pytest.approx(by_hand, abs=6e-6)  # gdeval prints five decimals


def test_compatibility_is_the_rank_biased_overlap_with_the_ideal_list() -> None:
    # Documents z a, ideal a. Overlap 0 at depth 1 and 1/2 at depth 2, which weighs 0.95; the ideal list itself has 1
    # and 1/2: 0.475 / 1.475.
    assert value("Compat", {"q-1": {"a": 1, "z": 0}}, {"q-1": ["z", "a"]}) == pytest.approx(0.322034, abs=1e-6)


def test_measures_computed_together_equal_those_computed_alone() -> None:
    # pytrec_eval's provider would give nDCG@10 the gains of another nDCG, and NumRet the judged documents alone
    names = [*TREC_EVAL, *BY_HAND, "Compat"]
    together = measure(QRELS, RUN, [parse(name) for name in names])
    for name in names:
        parsed = parse(name)
        assert together[str(parsed)] == measure(QRELS, RUN, [parsed])[str(parsed)]


IDS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=6)
VARIANTS = sorted({str(parse(name)) for name in (*TREC_EVAL, *BY_HAND, "Compat", "Judged") if name[:3] != "ERR"})


@settings(max_examples=25, deadline=None)
@given(queries=st.lists(IDS, min_size=4, max_size=4, unique=True), documents=st.lists(IDS, min_size=7, unique=True))
def test_values_do_not_depend_on_the_ids(queries: list[str], documents: list[str]) -> None:
    renamed_query = dict(zip(QRELS, queries, strict=True))
    renamed = dict(zip(["x", "a", "b", "c", "d", "e", "z", "lost"], [*documents[:7], "\0"], strict=True))
    qrels = {renamed_query[q]: {renamed[d]: grade for d, grade in grades.items()} for q, grades in QRELS.items()}
    run = {renamed_query[q]: [renamed[d] for d in docs] for q, docs in RUN.items()}
    chosen = [parse(name) for name in VARIANTS if "exp-log2" not in name]
    values, expected = measure(qrels, run, chosen), measure(QRELS, RUN, chosen)
    for name, by_query in expected.items():
        assert {renamed_query[q]: number for q, number in by_query.items()} == values[name]


@pytest.mark.parametrize("name", ["ERR@5", "nDCG(dcg='exp-log2')@5"])
def test_ids_that_gdeval_would_cut_at_a_dash_or_refuse_keep_their_queries_apart(name: str) -> None:
    qrels = {"a-1": {"d-1": 1}, "b-1": {"d-1": 1}, "three": {"x y": 1}}
    values = measure(qrels, {"a-1": ["d-1"], "b-1": ["e", "d-1"], "three": ["no"]}, [parse(name)])[name]
    # ERR: 1/16, and half of it at rank 2; nDCG: 1, and 1/log2(3)
    expected = {"ERR@5": [1 / 16, 1 / 32, 0.0], "nDCG(dcg='exp-log2')@5": [1.0, 0.63093, 0.0]}
    assert list(values) == list(qrels)
    assert list(values.values()) == pytest.approx(expected[name], abs=6e-6)


def variants(name: str) -> list[str]:
    base: Measure = ir_measures.measures.registry[name]
    options = [
        "",
        *(f"({key}={sample})" for key in base.SUPPORTED_PARAMS for sample in SAMPLES if key not in ("cutoff",)),
    ]
    return [f"{name}{option}{cut}" for option in options for cut in CUTS]


SAMPLES = ("0", "1", "2", "0.5", "1.5", "True", "'1'", "None", "{1: 2}", "{'1': 2}", "{1: 0.5}", "10**9", "999999999")
CUTS = ("", "@0", "@1", "@3", "@0.5", "@1.0", "@True", "@'5'", "@-1", "@1000000", "@99999999999999999999", "@5@5")


@pytest.mark.parametrize("name", sorted(ir_measures.measures.registry))
def test_any_parameters_of_any_measure_give_values_from_0_to_1_or_one_line(name: str) -> None:
    """Without a check, some of these end the process: it has to be this one."""
    computed: list[Measure] = []
    for text in variants(name):
        try:
            computed.append(parse(text))
        except ValueError as error:
            assert "\n" not in str(error) and str(error).startswith(f"measure {text!r} cannot be computed (")
    some = [parsed for parsed in computed if "ERR" not in str(parsed) and "exp" not in str(parsed)] + computed[:1]
    for parsed in some:
        try:
            check_grades([parsed], QRELS)
        except ValueError as error:
            assert parsed.NAME == "IPrec" and "\n" not in str(error)
        values = measure(QRELS, RUN, [parsed])[str(parsed)]
        assert values.keys() == QRELS.keys()
        assert is_count(str(parsed)) or all(0 <= number <= 1 for number in values.values())


@pytest.mark.parametrize(
    ("name", "grade", "reason"),
    [
        (
            "ERR@10",
            5,
            "query 'q-1', document 'd': grade 5 is too high for ERR@10, which gdeval defines for grades up to 4",
        ),
        ("ERR@10", 5, "leave the measure out"),
        ("nDCG(dcg='exp-log2')@3", 5, "write nDCG(gains={1: 1, 2: 3, 3: 7, 4: 15, 5: 31})@3"),
        ("nDCG(dcg='exp-log2')@3", 999_999, "leave the measure out"),
        ("nDCG@10", 1_000_000, "grade 1000000, expected a whole number below 1,000,000"),
        ("nDCG@10", -(2**40), "expected a whole number below 1,000,000"),
        ("nDCG@10", 0.5, "grade 0.5, expected a whole number"),
        ("nDCG@10", True, "grade True, expected a whole number"),
        ("nDCG@10", None, "grade None, expected a whole number"),
    ],
)
def test_a_grade_that_a_measure_cannot_read_is_refused(name: str, grade: int, reason: str) -> None:
    with pytest.raises(ValueError, match="q-1") as raised:
        check_grades([parse(name)], {"q-1": {"d": grade}})
    assert reason in str(raised.value) and "\n" not in str(raised.value)


def test_interpolated_precision_is_refused_where_trec_eval_9_and_10_differ() -> None:
    three = {"a": 1, "b": 1, "c": 2}
    # 0.4 of 3 relevant documents are 1.2: trec_eval 9 takes 2 of them, trec_eval 10 takes 1
    with pytest.raises(ValueError, match=r"IPrec@0.4 of query 'q' differs between trec_eval 9 and 10"):
        check_grades([parse("IPrec@0.4")], {"q": three})
    check_grades([parse("IPrec@0.5"), parse("IPrec@0"), parse("IPrec@1"), parse("IPrec(rel=2)@0.5")], {"q": three})


@pytest.mark.parametrize("grade", [-1, -2, -3])
def test_a_query_whose_grades_are_all_negative_scores_0_and_leaves_the_others_alone(grade: int) -> None:
    qrels = {"before": {"d": 2}, "junk": {"d": grade, "e": grade}, "after": {"d": 1}}
    run = {query_id: ["d", "e"] for query_id in qrels}
    for name in ("nDCG@10", "AP", "RR@10", "R@100", "Bpref", "infAP", "ERR@10", "nDCG(dcg='exp-log2')@10", "Compat"):
        values = measure(qrels, run, [parse(name)])[name]
        assert values["junk"] == 0.0 < min(values["before"], values["after"])
    assert measure(qrels, run, [parse("Judged@1")])["Judged@1"]["junk"] == 1.0


def test_without_perl_the_measures_of_gdeval_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    gdeval = next(provider for provider in PROVIDERS if provider.NAME == "gdeval")
    monkeypatch.setattr(gdeval, "_is_available", False)
    with pytest.raises(ValueError, match="its provider gdeval is not available: Install perl"):
        parse("ERR@10")
    assert str(parse("nDCG@10")) == "nDCG@10"


@pytest.mark.parametrize(
    ("given_name", "read"),
    [
        ("ndcg_cut_10", "nDCG@10"),
        ("ndcg_cut.10", "nDCG@10"),
        ("map", "AP"),
        ("map_cut_100", "AP@100"),
        ("recip_rank", "RR"),
        ("P_10", "P@10"),
        ("P.10", "P@10"),
        ("recall_100", "R@100"),
        ("iprec_at_recall_0.10", "IPrec@0.1"),
        ("set_F", "SetF"),
        ("set_F.0.5", "SetF(beta=0.5)"),
        ("num_rel_ret", "NumRet(rel=1)"),
        ("ndcg@10", "nDCG@10"),
        ("NDCG@10", "nDCG@10"),
        ("mrr@10", "RR@10"),
        ("MAP@100", "AP@100"),
        ("recall@100", "R@100"),
        ("precision@5", "P@5"),
        ("hit_rate@5", "Success@5"),
        ("Hits@5", "Success@5"),
        ("ap(rel=2)", "AP(rel=2)"),
        ("ndcg_at_10", "nDCG@10"),
        ("hit_rate_at_1", "Success@1"),
        ("mrr_at_1000", "RR@1000"),
        (" nDCG@10 ", "nDCG@10"),
        ("IPrec@1", "IPrec@1.0"),
    ],
)
def test_the_names_of_trec_eval_and_mteb_in_any_case_are_read(given_name: str, read: str) -> None:
    assert str(parse(given_name)) == read


def test_a_list_of_parameters_as_trec_eval_takes_it_is_a_measure_for_each() -> None:
    names = ["ndcg_cut.2,10", "P_5,10", "nDCG@10", "iprec_at_recall.0.1,0.2", "nDCG(gains={1: 1, 2: 3})@10"]
    assert [str(parsed) for parsed in parse_all(names)] == [
        "nDCG@2", "nDCG@10", "P@5", "P@10", "IPrec@0.1", "IPrec@0.2", "nDCG(gains={2:3})@10"
    ]  # fmt: skip
    assert [str(parsed) for parsed in parse_all([ir_measures.nDCG @ 10, "ndcg@10"])] == ["nDCG@10"]
    with pytest.raises(ValueError, match="measure 'P_0' cannot be computed"):
        parse_all(["P_5,0"])


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("ndcg_10", "trec_eval's ndcg has no parameter, write nDCG@10"),
        ("recip_rank.10", "trec_eval's recip_rank has no parameter, write RR@10"),
        ("bpref_10", "trec_eval's bpref has no parameter)"),
        ("P_10abc", "measure not found: P_10abc"),
        ("gm_map", "measure not found: gm_map"),
        ("P_10.5", "invalid literal"),
        ("ndcg_cut", "it needs a cutoff, such as ndcg_cut_10"),
        ("map_cut", "it needs a cutoff, such as map_cut_10"),
        ("success", "it needs a cutoff, such as success_10"),
        ("P_5,10,x", "measure not found: P_5"),
        ("P_0", "cutoff = 0, expected a whole number from 1 to 1,000,000"),
        ("nCDG@10", "measure not found: nCDG, did you mean 'ndcg'?"),
        ("recip_rang", "did you mean 'recip_rank'?"),
        ("utility", "measure not found: utility)"),
        ("IPrec@0.333", "recall = 0.333, expected 0.00 to 1.00 with two decimals"),
        ("Compat(p=1.0)", "p = 1.0, expected a number between 0 and 1"),
        ("nDCG(dcg='exp-log2')", "it needs a cutoff, such as nDCG(dcg='exp-log2')@10"),
        ("RBP(rel=1)", "no provider that has been verified here computes it"),
        ("x" * 300, "300 characters"),
        ("(" * 150, "cannot be computed"),
    ],
)
def test_a_name_that_is_nearly_one_is_refused_with_the_reason(name: str, reason: str) -> None:
    with pytest.raises(ValueError, match="cannot be computed") as raised:
        parse(name)
    assert reason in str(raised.value) and "\n" not in str(raised.value)
