"""One check per fault of an engine that claims to be a model. Every fault is known from a real server or conversion.

The checks see only scores, so that an endpoint is examined in the same way as a local model.
"""

import random
from collections.abc import Callable, Mapping
from statistics import fmean, median
from typing import Literal, NamedTuple

from engines.base import Pair, Retriever, ScoringFailed
from harness.probe.canaries import (
    CANARIES,
    GOLDEN,
    GOLDEN_PAIRS,
    GOLDEN_TEMPLATE,
    GOLDEN_TOLERANCE,
    filler_words,
    long_pairs,
)
from harness.probe.subject import ProbedEngine, max_tokens
from harness.report import notation

CheckVerdict = Literal["pass", "fail", "skipped", "unknown"]

TAU = 0.98  # Kendall's tau against a reference: 1% of the pairs of scores may be in the opposite order
SIGNIFICANT = 0.05  # two-sided
CLOSE = 0.99  # a larger probability is close to 1
SATURATED = 1e-7  # distance from 0 or 1; two float32 numbers lie between 1 - 1e-7 and 1
SMALLEST_LIMIT = 128  # tokens; with fewer, prompt and canary leave no room for filler
KEPT = 1 / 3  # share of the lead of relevant documents that must remain beyond the limit
NEAR = 1 / 3  # share of the distance between the scores with and without a newline
JUMP = 0.5  # share of the score range of short documents; a larger jump means that another token is read


class ProbeCheck(NamedTuple):
    """The result of one check."""

    name: str
    verdict: CheckVerdict
    seen: str  # the numbers, in one line
    meaning: str  # the likely cause of a failure, in one line


class Finding(NamedTuple):
    """The verdict of a check, and the numbers behind it."""

    verdict: CheckVerdict
    seen: str


def examine(subject: ProbedEngine) -> list[ProbeCheck]:
    """Run every check, in the order to read them. Checks that a fault makes meaningless are skipped."""
    checks: list[ProbeCheck] = []
    meaningless = ""
    for name, (look, meaning) in CHECKS.items():
        try:
            finding = Finding("skipped", meaningless) if meaningless else look(subject)
        except ScoringFailed as error:
            finding = Finding("fail", f"no score: {error}")
            if name == "finite":
                meaningless = "meaningless without scores"
        checks.append(ProbeCheck(name, *finding, meaning))
        if name == "constant" and finding.verdict == "fail":
            meaningless = "meaningless when all scores are equal"
    return checks


def finite(subject: ProbedEngine) -> Finding:
    first = next(iter(subject.failures.values()), "")
    if not subject.canaries:
        raise ScoringFailed(first)
    scored = len(subject.together)
    if first:
        return Finding("fail", f"{len(subject.failures)} of {len(CANARIES)} queries have no scores: {first}")
    return Finding("pass", f"{scored} pairs in {len(CANARIES)} queries, each with a finite score")


def constant(subject: ProbedEngine) -> Finding:
    """A score head broken by FP8 returned only zeros (vLLM issue 35849)."""
    scores = list(subject.together.values())
    if subject.spread == 0:
        return Finding("fail", f"all {len(scores)} scores are {scores[0]:g}")
    return Finding("pass", f"{len(set(scores))} different scores from {min(scores):.4g} to {max(scores):.4g}")


def repeat(subject: ProbedEngine) -> Finding:
    again = dict(zip(subject.pairs, subject.score(subject.pairs), strict=True))
    return _same(subject, subject.together, again, "the same call twice")


def twins(subject: ProbedEngine) -> Finding:
    """Reused cache blocks moved the logits of a repeated prompt by up to 0.16 (TensorRT-LLM issue 15503).

    The first prompt must therefore be new: a query with the document of the next query.
    """
    first, last = {}, {}
    for canary, following in zip(subject.canaries, [*subject.canaries[1:], subject.canaries[0]], strict=True):
        pair = Pair(canary.query, following.relevant)
        scores = [*subject.score([pair, pair]), *subject.score([pair])]
        first[pair], last[pair] = min(scores), max(scores)
    return _same(subject, first, last, "a new document twice in a call and once more")


def order(subject: ProbedEngine) -> Finding:
    shuffled = list(subject.pairs)
    random.Random(0).shuffle(shuffled)
    mixed = dict(zip(shuffled, subject.score(shuffled), strict=True))
    return _same(subject, subject.together, mixed, "the same pairs in another order")


def alone(subject: ProbedEngine) -> Finding:
    return _same(subject, subject.together, subject.alone, "each pair alone and all together")


def scale(subject: ProbedEngine) -> Finding:
    """A sigmoid in bf16 rounds every strong candidate to 1.0 (ggozad/haiku.rag, pull request 529).

    The difference of two probabilities in the place of two logits, from -1 to 1, does the same.
    """
    scores = list(subject.together.values())
    lowest, highest = min(scores), max(scores)
    seen = f"{len(scores)} scores from {lowest:.4g} to {highest:.4g}"
    if isinstance(subject.engine, Retriever):
        return Finding("skipped", f"{seen}; a retriever scores by similarity")
    if -1 <= lowest < -CLOSE and CLOSE < highest <= 1:
        return Finding("fail", f"{seen}: within -1 and 1 and close to both, as differences of two probabilities")
    if lowest < 0 or highest > 1:
        return Finding("pass", f"{seen} are not probabilities")
    saturated = sum(min(score, 1 - score) <= SATURATED for score in scores)
    if saturated > 1:
        return Finding("fail", f"{seen}, {saturated} of them within {SATURATED:g} of 0 or 1")
    if lowest < 1 - CLOSE and highest > CLOSE:
        return Finding("fail", f"{seen}: within 0 and 1 and close to both, as a sigmoid's")
    return Finding("unknown", f"{seen}: probabilities that do not saturate here, or another scale with this range")


def relevance(subject: ProbedEngine) -> Finding:
    signs = _signs(subject)
    won = f"{signs.wins} of {signs.wins + signs.losses}"
    seen = f"relevant above irrelevant in {won} queries, by {signs.mean:.3g} on average, p {signs.p:.2g}"
    if signs.p >= SIGNIFICANT:
        return Finding("fail", f"{seen}: does not distinguish relevant from irrelevant documents")
    return Finding("pass", seen) if signs.wins > signs.losses else Finding("fail", f"{seen}: the wrong way round")


def long_document(subject: ProbedEngine) -> Finding:
    """A relevant beginning must still count when the filler behind it exceeds the limit.

    If a prompt is cut at its end, the score is read in the middle of the filler: the scores of relevant and irrelevant
    documents converge, or all scores jump. A model that shows relevance at any token hides this fault, unless a
    reference has the same limit.
    """
    limit = max_tokens(subject.engine)
    if isinstance(subject.engine, Retriever):
        return Finding("skipped", "a retriever has no prompt that could lose its end")
    if limit is not None and limit < SMALLEST_LIMIT:
        return Finding("skipped", f"a limit of {limit} tokens leaves no room for filler")
    shortest, *longer = filler_words(limit)
    try:
        within = subject.score_alone(long_pairs(subject.canaries, shortest))
        for words in longer:
            beyond = subject.score_alone(long_pairs(subject.canaries, words))
            lengths = f"{shortest} and {words} words of filler"
            finding = _survives(subject, list(within.values()), list(beyond.values()), lengths)
            if finding.verdict == "fail":
                return finding
    except ScoringFailed as error:
        return Finding("fail", f"a long document has no score: {error}")
    return _beside_reference(subject, beyond, finding)


def newline(subject: ProbedEngine) -> Finding:
    """infinity strips the text of a request, and jinja drops the last newline of a template."""
    reference = subject.reference
    if reference is None:
        return Finding("unknown", "scores alone do not show which token is read; a reference does (--reference NAME)")
    if reference.stripped is None:
        return Finding("unknown", reference.no_stripped)
    whole, stripped = (fmean(_gaps(subject.alone, scores)) for scores in (reference.scores, reference.stripped))
    seen = f"mean difference from {reference.name} {whole:.3g} with the newline, {stripped:.3g} without"
    if min(whole, stripped) >= NEAR * fmean(_gaps(reference.stripped, reference.scores)):
        return Finding("unknown", f"{seen}: close to neither, or the newline makes no difference")
    return Finding("pass" if whole < stripped else "fail", seen)


def parity(subject: ProbedEngine) -> Finding:
    reference = subject.reference
    if reference is None:
        return Finding("skipped", "no reference to compare with (--reference NAME)")
    from scipy.stats import kendalltau

    gaps = _gaps(subject.alone, reference.scores)
    theirs = [reference.scores[pair] for pair in subject.alone]
    tau = float(kendalltau(list(subject.alone.values()), theirs).statistic)
    largest = notation.beside_figure(max(gaps), subject.tolerance)
    seen = (
        f"difference from {reference.name} at most {largest}, mean {fmean(gaps):.3g}, "
        f"Kendall's tau {notation.beside(tau, TAU, 4)}"
    )
    good = max(gaps) <= subject.tolerance and tau >= TAU
    return Finding("pass" if good else "fail", f"{seen} (bounds {notation.exact(subject.tolerance)} and {TAU})")


def golden(subject: ProbedEngine) -> Finding:
    if subject.golden is None:
        return Finding(
            "skipped", "no published scores for this model name; if it is a published model, add --golden base or large"
        )
    scores = list(subject.score_alone(GOLDEN_PAIRS).values())
    published = GOLDEN[subject.golden]
    gap = max(abs(score - value) for score, value in zip(scores, published, strict=True))
    given, expected = (", ".join(f"{score:g}" for score in row) for row in (scores, published))
    seen = f"{given}, published for {subject.golden} {expected}: maximum difference {gap:.3g}"
    template = subject.engine.describe().template or GOLDEN_TEMPLATE
    if template != GOLDEN_TEMPLATE or subject.instructed:
        prompt = f"{template} with an instruction" if subject.instructed else template
        return Finding("unknown", f"{seen}, which holds for template {GOLDEN_TEMPLATE} and not for {prompt}")
    return Finding("pass" if gap <= GOLDEN_TOLERANCE else "fail", f"{seen} (bound {GOLDEN_TOLERANCE})")


CHECKS: dict[str, tuple[Callable[[ProbedEngine], Finding], str]] = {
    "finite": (finite, "NaN, infinity, an error or too few numbers where every pair needs one number"),
    "constant": (constant, "the input is ignored, or the score head is broken by low precision"),
    "repeat": (repeat, "scores change from call to call by more than rounding does"),
    "twins": (twins, "equal documents in one call have different scores: the state of an earlier prompt is reused"),
    "order": (order, "scores are given to the wrong pairs"),
    "alone": (alone, "a score depends on the rest of its batch: wrong padding, or wrong pairs if `order` fails too"),
    "scale": (scale, "probabilities, which round to the same number for strong candidates; use raw scores"),
    "relevance": (relevance, "labels are swapped, weights are random or the prompt template is missing"),
    "long document": (long_document, "a prompt over the limit is refused or loses its end, where the score is read"),
    "newline": (newline, "the last newline of the prompt is stripped, so the score of another token is read"),
    "parity": (parity, "another model, template or precision than the reference"),
    "golden": (golden, "not the published checkpoint, or not with its prompt"),
}


def _same(subject: ProbedEngine, before: Mapping[Pair, float], after: Mapping[Pair, float], what: str) -> Finding:
    gaps = _gaps(before, after)
    beyond = sum(gap > subject.limit for gap in gaps)
    seen = f"{what}: maximum difference {max(gaps):.3g} (bound {subject.limit:.3g})"
    return Finding("fail", f"{seen}, {beyond} of {len(gaps)} beyond it") if beyond else Finding("pass", seen)


def _gaps(ours: Mapping[Pair, float], theirs: Mapping[Pair, float]) -> list[float]:
    """Absolute differences, for every pair of `ours`."""
    return [abs(score - theirs[pair]) for pair, score in ours.items()]


class _Signs(NamedTuple):
    """A sign test of relevant against irrelevant documents."""

    wins: int  # queries whose relevant document scores above the mean of the irrelevant ones
    losses: int
    mean: float  # mean lead of the relevant document
    p: float


def _signs(subject: ProbedEngine) -> _Signs:
    """The exact sign test over the queries; equal scores are left out."""
    from scipy.stats import binomtest

    leads = []
    for canary in subject.canaries:
        relevant, *irrelevant = (subject.alone[pair] for pair in canary.pairs)
        leads.append(relevant - fmean(irrelevant))
    wins, losses = sum(lead > 0 for lead in leads), sum(lead < 0 for lead in leads)
    p = float(binomtest(wins, wins + losses).pvalue) if wins + losses else 1.0
    return _Signs(wins, losses, fmean(leads), p)


def _survives(subject: ProbedEngine, within: list[float], beyond: list[float], lengths: str) -> Finding:
    """Compare scores of the same beginnings, relevant and irrelevant in turn, with less and with more filler."""
    before, after = (fmean(scores[::2]) - fmean(scores[1::2]) for scores in (within, beyond))
    jump = median(late - early for early, late in zip(within, beyond, strict=True))
    seen = f"{lengths}: relevant {before:.3g} and {after:.3g} above irrelevant, scores move by {jump:.3g}"
    if abs(jump) > JUMP * subject.spread:
        return Finding("fail", seen)
    if abs(before) <= subject.limit or _signs(subject).p >= SIGNIFICANT:
        return Finding("unknown", f"{seen}: relevance has no effect within the limit either")
    return Finding("pass" if after / before >= KEPT else "fail", seen)


def _beside_reference(subject: ProbedEngine, beyond: Mapping[Pair, float], finding: Finding) -> Finding:
    """The finding; a failure if the reference agrees on short documents and differs on long ones."""
    reference = subject.reference
    if reference is None or reference.max_tokens != max_tokens(subject.engine):
        return finding
    if not set(beyond) <= set(reference.long) or max(_gaps(subject.alone, reference.scores)) > subject.tolerance:
        return finding
    gap = max(_gaps(beyond, reference.long))
    seen = f"{finding.seen}; difference from {reference.name} at most {gap:.3g}"
    return Finding("fail" if gap > subject.tolerance else finding.verdict, seen)
