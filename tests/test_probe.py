"""Every fault that a probe looks for is produced on purpose and detected by the check for it."""

import json
import math
import random
import shutil
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

import engines
from engines.base import Description, Pair, PromptOptions, ScoringFailed
from engines.fake import Fake, FakeOptions
from engines.prompts.encoder import Prompt, PromptEncoder
from engines.torch.engine import TorchEngine
from harness.config import EngineEntry
from harness.probe.canaries import CANARIES, FILLER, GOLDEN_PAIRS, filler_words, long_pairs
from harness.probe.faults import CHECKS, ProbeCheck, examine
from harness.probe.subject import ProbedEngine, Reference
from harness.probe.verb import trust

ROOT = Path(__file__).parents[1]
DEMO: dict[str, Any] = {"kind": "torch", "model": str(ROOT / "checkpoints/demo"), "template": "demo", "max_tokens": 164}
BENCHMARKS = [{"source": "stdlib", "name": "stdlib-code"}]  # never loaded by these tests

Crispbench = Callable[..., Any]


class Sound(Fake):
    """An engine without a fault: the words that query and document share, on a scale like that of log-odds."""

    def __init__(self, options: FakeOptions | None = None) -> None:
        super().__init__(options or FakeOptions())

    def score(self, pairs: Sequence[Pair]) -> list[float]:
        return [10 * score - 4 for score in super().score(pairs)]


class Shifted(Sound):
    def __init__(self, by: int = 1) -> None:
        super().__init__()
        self.by = by

    def score(self, pairs: Sequence[Pair]) -> list[float]:
        scores = super().score(pairs)
        by = self.by % len(scores)
        return scores[by:] + scores[:by]


class SortedByScore(Sound):
    """A client that ignores the index of a server that answers best first."""

    def score(self, pairs: Sequence[Pair]) -> list[float]:
        return sorted(super().score(pairs), reverse=True)


class ReadAtThePadding(Sound):
    """Scores every document that is shorter than the longest of its batch at its padding."""

    def score(self, pairs: Sequence[Pair]) -> list[float]:
        longest = max(len(pair.document) for pair in pairs)
        scores = zip(super().score(pairs), pairs, strict=True)
        return [score if len(pair.document) == longest else score / 2 for score, pair in scores]


class DifferentOnRepeat(Sound):
    """Answers a repeated request with different scores."""

    last: Sequence[Pair] = ()

    def score(self, pairs: Sequence[Pair]) -> list[float]:
        again, self.last = self.last == pairs, list(pairs)
        return [score + 0.5 * again for score in super().score(pairs)]


class ReusesPrompts(Sound):
    """Scores a prompt slightly differently after its first occurrence."""

    def score(self, pairs: Sequence[Pair]) -> list[float]:
        scores = []
        for pair, score in zip(pairs, super().score(pairs), strict=True):
            scores.append(score + 0.25 * (pair in self.seen))
            self.seen.add(pair)
        return scores

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[Pair] = set()


class Probabilities(Sound):
    """Probabilities as a 16-bit endpoint returns them: everything above 0.999 becomes 1."""

    def score(self, pairs: Sequence[Pair]) -> list[float]:
        return [round(sigmoid(5 * score), 3) for score in super().score(pairs)]


class ExactProbabilities(Sound):
    def score(self, pairs: Sequence[Pair]) -> list[float]:
        return [sigmoid(2 * score) for score in super().score(pairs)]


class DifferencesOfProbabilities(Sound):
    """Subtracts the two numbers of a server that sends probabilities where logits were asked for."""

    def score(self, pairs: Sequence[Pair]) -> list[float]:
        return [sigmoid(2 * score) - sigmoid(-2 * score) for score in super().score(pairs)]


class Similarity(Sound):
    def score(self, pairs: Sequence[Pair]) -> list[float]:
        return [0.5 + score / 20 for score in super().score(pairs)]


class SwappedLabels(Sound):
    def score(self, pairs: Sequence[Pair]) -> list[float]:
        return [-score for score in super().score(pairs)]


class RandomWeights(Sound):
    def score(self, pairs: Sequence[Pair]) -> list[float]:
        return [random.Random(str(pair)).gauss() for pair in pairs]


class CutFromTheRight(Sound):
    """Cuts the rendered prompt to 200 words; without its end the score depends on the last remaining word."""

    def describe(self) -> Description:
        return Description(model="word overlap", max_tokens=200)

    def score(self, pairs: Sequence[Pair]) -> list[float]:
        scores = []
        for pair, score in zip(pairs, super().score(pairs), strict=True):
            prompt = [*pair.query.split(), *pair.document.split(), "Relevance:"][:200]
            scores.append(score if prompt[-1] == "Relevance:" else 0.01 * len(prompt[-1]))
        return scores


class CutElsewhere(CutFromTheRight):
    """Scores a cut prompt at another token: the order stays, the level changes."""

    def score(self, pairs: Sequence[Pair]) -> list[float]:
        long = [len(pair.document.split()) > 200 for pair in pairs]
        return [score - 9 * cut for score, cut in zip(Sound.score(self, pairs), long, strict=True)]


class RefusesLong(Sound):
    def score(self, pairs: Sequence[Pair]) -> list[float]:
        if any(len(pair.document.split()) > 4096 for pair in pairs):
            raise ScoringFailed("HTTP 400: this model's maximum context length is 4096")
        return super().score(pairs)


class OneScoreTooFew(Sound):
    def score(self, pairs: Sequence[Pair]) -> list[float]:
        return super().score(pairs)[1:]


class FailsInLargeBatches(Sound):
    def score(self, pairs: Sequence[Pair]) -> list[float]:
        if len(pairs) > 32:
            raise ScoringFailed("HTTP 422: batch size 42 > maximum allowed batch size 32")
        return super().score(pairs)


def sigmoid(score: float) -> float:
    return 1 / (1 + math.exp(-score))


def verdicts(checks: Sequence[ProbeCheck], verdict: str) -> set[str]:
    return {check.name for check in checks if check.verdict == verdict}


def seen(checks: Sequence[ProbeCheck], name: str) -> str:
    return next(check.seen for check in checks if check.name == name)


def probe(engine: engines.Engine, **against: Any) -> list[ProbeCheck]:
    return examine(ProbedEngine(engine, **{"tolerance": 0.2, **against}))


# The texts


def test_canaries_have_distinct_short_pairs() -> None:
    pairs = [pair for canary in CANARIES for pair in canary.pairs]
    assert len(set(pairs)) == len(pairs) == 3 * len(CANARIES) == 42
    assert max(len(pair.document.split()) for pair in pairs) <= 25


def test_long_documents_differ_only_at_their_start_and_fit_or_exceed_the_limit() -> None:
    within, beyond = filler_words(1000)
    assert (within, beyond) == (400, 1250)  # words, which make about 520 and more than 1,250 tokens
    shorter, longer = long_pairs(CANARIES, within), long_pairs(CANARIES, beyond)
    assert len(longer) == 8
    assert all(long.document.startswith(short.document) for short, long in zip(shorter, longer, strict=True))
    assert {long.document.split()[-500:][0] for long in longer} <= set(FILLER.split())
    assert len(filler_words(None)) > 2


# One fault at a time


def test_a_sound_engine_fails_nothing() -> None:
    checks = probe(Sound())
    assert [check.name for check in checks] == list(CHECKS)
    assert verdicts(checks, "fail") == set()
    assert verdicts(checks, "unknown") == {"newline"}
    assert verdicts(checks, "skipped") == {"parity", "golden"}


@pytest.mark.parametrize(
    ("engine", "failed"),
    [
        (Shifted, {"order", "alone"}),
        (SortedByScore, {"order", "alone"}),
        (ReadAtThePadding, {"alone"}),
        (DifferentOnRepeat, {"repeat"}),
        (ReusesPrompts, {"twins"}),
        (Probabilities, {"scale"}),
        (ExactProbabilities, {"scale"}),
        (DifferencesOfProbabilities, {"scale"}),
        (SwappedLabels, {"relevance"}),
        (RandomWeights, {"relevance"}),
        (CutFromTheRight, {"long document"}),
        (CutElsewhere, {"long document"}),
        (RefusesLong, {"long document"}),
        (OneScoreTooFew, {"finite"}),
        (FailsInLargeBatches, {"finite"}),
        (lambda: FailsInLargeBatches(FakeOptions(fail_on="Himmel")), {"finite"}),
        (lambda: Sound(FakeOptions(constant=True)), {"constant"}),
        (lambda: Sound(FakeOptions(nan_on="Saturn")), {"finite"}),
        (lambda: Sound(FakeOptions(fail_on="Himmel")), {"finite"}),
    ],
)
def test_every_fault_is_detected_by_its_own_check(engine: Callable[[], Sound], failed: set[str]) -> None:
    assert verdicts(probe(engine()), "fail") == failed


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 41))
def test_shifted_scores_are_detected_at_any_distance(by: int) -> None:
    checks = probe(Shifted(by))
    assert {"order", "alone"} <= verdicts(checks, "fail")
    assert "relevance" in verdicts(checks, "pass")  # this check sends one pair at a time


@settings(max_examples=20, deadline=None)
@given(st.floats(0.001, 1000))
def test_a_wrong_order_is_detected_on_any_scale(factor: float) -> None:
    class Scaled(Shifted):
        def score(self, pairs: Sequence[Pair]) -> list[float]:
            return [factor * score for score in super().score(pairs)]

    assert {"order", "alone"} <= verdicts(probe(Scaled()), "fail")


def test_a_query_without_scores_affects_no_other_check() -> None:
    checks = probe(Sound(FakeOptions(nan_on="Saturn")))
    assert seen(checks, "finite").startswith("1 of 14 queries have no scores: score nan for document 'Saturn is")
    assert "in 13 of 13 queries" in seen(checks, "relevance")
    assert verdicts(checks, "skipped") == {"parity", "golden"}


def test_without_any_score_the_other_checks_are_skipped() -> None:
    checks = probe(OneScoreTooFew())
    assert seen(checks, "finite") == "no score: the engine returned 2 scores for 3 pairs"
    assert verdicts(checks, "skipped") == set(CHECKS) - {"finite"}


def test_a_constant_engine_passes_nothing_that_compares_scores() -> None:
    checks = probe(Sound(FakeOptions(constant=True)))
    assert seen(checks, "constant") == "all 42 scores are -4"
    assert verdicts(checks, "pass") == {"finite"}


def test_saturated_probabilities_fail_and_similarities_in_that_range_do_not() -> None:
    assert "of them within 1e-07 of 0 or 1" in seen(probe(Probabilities()), "scale")
    assert "as a sigmoid's" in seen(probe(ExactProbabilities()), "scale")
    assert "scale" in verdicts(probe(Similarity()), "unknown")


def test_swapped_labels_and_random_weights_are_distinguished() -> None:
    swapped, chance = seen(probe(SwappedLabels()), "relevance"), seen(probe(RandomWeights()), "relevance")
    assert swapped.startswith("relevant above irrelevant in 0 of 14 queries") and swapped.endswith("wrong way round")
    assert chance.endswith("does not distinguish relevant from irrelevant documents")
    assert "p 0.00012" in swapped  # 2 / 2**14, by hand


def test_a_refused_long_document_is_reported_with_the_message_of_the_server() -> None:
    assert seen(probe(RefusesLong()), "long document").endswith("HTTP 400: this model's maximum context length is 4096")


def test_a_limit_without_room_for_filler_is_not_judged() -> None:
    class Short(CutFromTheRight):
        def describe(self) -> Description:
            return Description(max_tokens=64)

    assert "long document" in verdicts(probe(Short()), "skipped")


# With a reference


def trusted(engine: Fake, **parts: Any) -> Reference:
    scores = {pair: engine.score([pair])[0] for canary in CANARIES for pair in canary.pairs}
    return Reference(**{"name": "trusted", "scores": scores, "long": {}, "max_tokens": None, "stripped": None, **parts})


def test_scores_equal_to_the_reference_are_at_par() -> None:
    checks = probe(Sound(), reference=trusted(Sound()))
    assert "parity" in verdicts(checks, "pass")
    assert seen(checks, "parity") == (
        "difference from trusted at most 0, mean 0, Kendall's tau 1.0000 (bounds 0.2 and 0.98)"
    )


def test_one_score_beyond_the_tolerance_is_not_at_par() -> None:
    reference = trusted(Sound())
    moved = {**reference.scores, CANARIES[0].pairs[0]: reference.scores[CANARIES[0].pairs[0]] + 0.3}
    checks = probe(Sound(), reference=reference._replace(scores=moved))
    assert verdicts(checks, "fail") == {"parity"} and "at most 0.3, mean 0.00714" in seen(checks, "parity")  # 0.3 / 42
    assert "parity" in verdicts(probe(Sound(), reference=reference._replace(scores=moved), tolerance=0.31), "pass")


def test_a_different_order_of_nearly_equal_scores_is_not_at_par() -> None:
    class Noisy(Sound):
        def score(self, pairs: Sequence[Pair]) -> list[float]:
            noise = [random.Random(str(pair)).uniform(-0.15, 0.15) for pair in pairs]
            return [score + part for score, part in zip(super().score(pairs), noise, strict=True)]

    checks = probe(Noisy(), reference=trusted(Sound()))
    assert verdicts(checks, "fail") == {"parity"} and "at most 0.1" in seen(checks, "parity")


@pytest.mark.parametrize(
    ("offset", "verdict"), [(0.0, "pass"), (0.2, "pass"), (0.5, "unknown"), (0.8, "fail"), (1.0, "fail")]
)
def test_a_stripped_newline_is_judged_by_the_nearer_scores(offset: float, verdict: str) -> None:
    whole = trusted(Sound()).scores
    stripped = {pair: score + 1 for pair, score in whole.items()}
    ours = {pair: score + offset for pair, score in whole.items()}

    class Between(Sound):
        def score(self, pairs: Sequence[Pair]) -> list[float]:
            return [ours.get(pair, offset) for pair in pairs]

    checks = probe(Between(), reference=trusted(Sound(), stripped=stripped))
    assert "newline" in verdicts(checks, verdict)


def test_a_newline_that_makes_no_difference_is_not_judged() -> None:
    reference = trusted(Sound())
    assert "newline" in verdicts(probe(Sound(), reference=reference._replace(stripped=reference.scores)), "unknown")


# Published scores


class Published(Sound):
    """Returns the given scores for the golden pairs."""

    def __init__(self, scores: Sequence[float], template: str = "mxbai-v2") -> None:
        super().__init__()
        self.golden, self.template = dict(zip(GOLDEN_PAIRS, scores, strict=True)), template

    def score(self, pairs: Sequence[Pair]) -> list[float]:
        return [self.golden.get(pair, score) for pair, score in zip(pairs, super().score(pairs), strict=True)]

    def describe(self) -> Description:
        return Description(template=self.template)


BASE, LARGE = (9.1875, 0.5625, 4.0), (12.125, -1.375, 9.6875)


@pytest.mark.parametrize(
    ("golden", "scores", "verdict"),
    [
        ("base", BASE, "pass"),
        ("large", LARGE, "pass"),
        ("base", (9.0, 0.7, 4.1), "pass"),
        ("base", (9.1875, 0.5625, 4.25), "fail"),
        ("base", LARGE, "fail"),
        ("large", BASE, "fail"),
    ],
)
def test_published_checkpoints_are_recognised_by_three_scores(
    golden: str, scores: Sequence[float], verdict: str
) -> None:
    assert "golden" in verdicts(probe(Published(scores), golden=golden), verdict)


def test_published_scores_apply_only_to_their_own_prompt() -> None:
    checks = probe(Published(LARGE, "mxbai-v2-seq"), golden="base")
    assert "golden" in verdicts(checks, "unknown")
    assert "maximum difference 5.69, which holds for template mxbai-v2 and not for mxbai-v2-seq" in seen(
        checks, "golden"
    )
    assert "golden" in verdicts(probe(Published(LARGE), golden="base", instructed=True), "unknown")
    # An endpoint that does not state its template:
    assert "golden" in verdicts(probe(Published(LARGE, ""), golden="base"), "fail")


# The demo checkpoint, sound and broken


@pytest.fixture
def of(config: Callable[..., Path]) -> Callable[..., Path]:
    """Writes a config of these engines."""
    return lambda **entries: config(engines=entries, benchmarks=BENCHMARKS)


def outcome(answer: Any, engine: str) -> dict[str, str]:
    """The verdict of every check."""
    return {check["name"]: check["verdict"] for check in json.loads(answer.out)["engines"][engine]["checks"]}


def failing(answer: Any, engine: str) -> set[str]:
    return {name for name, verdict in outcome(answer, engine).items() if verdict == "fail"}


def test_the_demo_checkpoint_passes_in_both_precisions(crispbench: Crispbench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    answer = crispbench("probe", "configs/probe.yaml", "--reference", "demo-fp32", "--json")
    assert (answer.code, answer.err) == (0, "")
    assert set(outcome(answer, "demo-bf16").values()) == {"pass", "unknown", "skipped"}
    assert outcome(answer, "demo-bf16")["parity"] == outcome(answer, "demo-bf16")["long document"] == "pass"
    assert outcome(answer, "demo-fp32")["parity"] == "skipped"  # it is the reference


def test_a_checkpoint_with_swapped_labels_is_detected(
    of: Callable[..., Path], tmp_path: Path, crispbench: Crispbench
) -> None:
    folder = shutil.copytree(DEMO["model"], tmp_path / "swapped")
    settings = json.loads((folder / "config.json").read_text())
    settings.update(id2label={"0": "1", "1": "0"}, label2id={"1": 0, "0": 1})
    (folder / "config.json").write_text(json.dumps(settings))
    answer = crispbench("probe", of(swapped={**DEMO, "model": str(folder)}), "--json")
    assert (answer.code, failing(answer, "swapped")) == (1, {"relevance"})


class CutTorch(TorchEngine):
    """Cuts the whole prompt from the right, as servers that truncate do."""

    def __init__(self, options: Any) -> None:
        super().__init__(options)
        self._encoder = CutEncoder(self._encoder)  # type: ignore[assignment]


class CutEncoder:
    def __init__(self, encoder: PromptEncoder) -> None:
        self.encoder, self.limit = encoder, encoder.max_tokens
        encoder.max_tokens = 100_000

    def prepare(self, documents: Collection[str]) -> None:
        self.encoder.prepare(documents)

    def close(self) -> None:
        self.encoder.close()

    def encode(self, query: str, documents: Sequence[str]) -> Prompt:
        prompt = self.encoder.encode(query, documents)
        return prompt._replace(tails=[tail[: self.limit - len(prompt.prefix)] for tail in prompt.tails])


def test_a_prompt_cut_from_the_right_is_detected_against_a_reference(
    of: Callable[..., Path], register: Callable[..., None], crispbench: Crispbench
) -> None:
    register("cut_torch", CutTorch)
    answer = crispbench("probe", of(good=DEMO, cut={**DEMO, "kind": "cut_torch"}), "--reference", "good", "--json")
    assert (answer.code, failing(answer, "cut")) == (1, {"long document"})
    assert outcome(answer, "good")["long document"] == "pass"


@pytest.fixture
def lined(tmp_path: Path) -> Callable[[str], dict[str, Any]]:
    """The demo with a tokenizer that keeps newlines and a template with the given end."""
    folder = shutil.copytree(DEMO["model"], tmp_path / "lined")
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    tokenizer["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] += "|\n"
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    template = yaml.safe_load((ROOT / "configs/templates/demo.yaml").read_text())

    def entry(end: str) -> dict[str, Any]:
        path = tmp_path / f"lined-{len(end)}.yaml"
        pieces = [*template["pieces"][:-1], template["pieces"][-1] + end]
        path.write_text(yaml.safe_dump({**template, "name": "lined", "pieces": pieces}))
        return {**DEMO, "model": str(folder), "template": str(path)}

    return entry


def test_a_server_that_strips_the_prompt_is_detected_against_a_reference(
    of: Callable[..., Path], lined: Callable[[str], dict[str, Any]], crispbench: Crispbench
) -> None:
    path = of(good=lined("\n"), half={**lined("\n"), "precision": "bf16"}, stripped=lined(""))
    answer = crispbench("probe", path, "--reference", "good", "--json")
    assert answer.code == 1
    assert failing(answer, "stripped") == {"newline", "parity"}
    assert failing(answer, "half") == failing(answer, "good") == set()
    assert outcome(answer, "half")["newline"] == "pass"


def test_a_reference_whose_template_has_no_final_newline_is_reported() -> None:
    reference = trust("demo", EngineEntry.read("demo", {**DEMO, "precision": "fp32"}))
    assert reference.stripped is None
    assert reference.no_stripped == "the reference's template demo does not end in a newline"
    assert (reference.max_tokens, len(reference.scores), len(reference.long)) == (164, 42, 8)
    assert "kind fake" in trust("fake", EngineEntry.read("fake", {"kind": "fake"})).no_stripped


# The command


def test_a_retriever_is_prepared_and_gets_only_the_checks_that_apply(
    of: Callable[..., Path], crispbench: Crispbench
) -> None:
    answer = crispbench("probe", of(bm25={"kind": "bm25"}), "--json")
    assert (answer.code, failing(answer, "bm25")) == (0, set())
    assert outcome(answer, "bm25")["relevance"] == "pass"
    assert outcome(answer, "bm25")["scale"] == outcome(answer, "bm25")["long document"] == "skipped"


def test_every_check_has_a_line_and_a_failed_one_is_explained(of: Callable[..., Path], crispbench: Crispbench) -> None:
    answer = crispbench("probe", of(good={"kind": "fake"}, broken={"kind": "fake", "constant": True}))
    assert (answer.code, answer.err) == (1, "")
    good, broken = answer.out.split("broken: fail\n")
    lines = good.splitlines()
    assert lines[0] == "good: pass"
    assert [line[2:17].strip() for line in lines[1:]] == list(CHECKS)
    assert "fail     all 42 scores are 0\n" in broken
    assert broken.count("means: ") == 1 and "means: the input is ignored" in broken


def test_json_holds_every_check_and_its_meaning(of: Callable[..., Path], crispbench: Crispbench) -> None:
    answer = crispbench("probe", of(good={"kind": "fake"}, broken={"kind": "fake", "constant": True}), "--json")
    document = json.loads(answer.out)
    assert (answer.code, answer.err) == (1, "")
    assert {name: probed["verdict"] for name, probed in document["engines"].items()} == {
        "good": "pass",
        "broken": "fail",
    }
    checks = document["engines"]["broken"]["checks"]
    assert all(list(check) == ["name", "verdict", "seen", "meaning"] and "\n" not in check["seen"] for check in checks)
    assert (
        crispbench("probe", of(good={"kind": "fake"}, broken={"kind": "fake"}), "--engine", "good", "--json").code == 0
    )


def test_an_engine_that_cannot_be_loaded_is_named_and_the_others_are_probed(
    small: Path, moody: Any, crispbench: Crispbench
) -> None:
    moody.missing_package = True
    answer = crispbench("probe", small, "--json")
    assert answer.code == 5
    assert answer.err == "crispbench: engine moody: moodypackage cannot be imported: pip install 'moody'\n"
    document = json.loads(answer.out)["engines"]
    assert document["moody"]["verdict"] == "unavailable" and "moodypackage" in document["moody"]["reason"]
    assert document["fake"]["verdict"] == "pass"
    alone = crispbench("probe", small, "--engine", "moody")
    assert (alone.code, alone.out) == (5, "") and "no engine could be probed: moody: moodypackage" in alone.err


def test_a_model_with_published_scores_is_recognised_by_its_name(
    of: Callable[..., Path], register: Callable[..., None], crispbench: Crispbench
) -> None:
    class Named(Published):
        def __init__(self, options: FakeOptions) -> None:
            super().__init__(BASE)

        def describe(self) -> Description:
            return Description(model="mixedbread-ai/mxbai-rerank-base-v2", template="mxbai-v2")

    register("named", Named)
    answer = crispbench("probe", of(named={"kind": "named"}, fake={"kind": "fake"}), "--golden", "large", "--json")
    assert outcome(answer, "named")["golden"] == "pass"  # its name holds `base`
    assert failing(answer, "fake") == {"golden"}  # --golden declares it to be large


def test_published_scores_are_not_applied_to_a_config_with_an_instruction(
    of: Callable[..., Path], register: Callable[..., None], crispbench: Crispbench
) -> None:
    class InstructedOptions(FakeOptions):
        instruction: str = ""

        @property
        def prompt(self) -> PromptOptions:
            return PromptOptions("mxbai-v2", self.instruction, exact=True)

    class Instructed(Published):
        options_type = InstructedOptions

        def __init__(self, options: FakeOptions) -> None:
            super().__init__(BASE)

    register("instructed", Instructed)
    path = of(plain={"kind": "instructed"}, with_instruction={"kind": "instructed", "instruction": "Find the author."})
    answer = crispbench("probe", path, "--golden", "base", "--json")
    assert (outcome(answer, "plain")["golden"], outcome(answer, "with_instruction")["golden"]) == ("pass", "unknown")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--engine", "typo"], "engine 'typo' is not in the config; expected one of fake"),
        (["--reference", "typo"], "engine 'typo' is not in the config; expected one of fake"),
        (["--golden", "small"], "'small'"),
        (["--tolerance", "-1"], "tolerance -1.0: expected 0 or more log-odds"),
        (["--tolerance", "nan"], "tolerance nan: expected 0 or more log-odds"),
        (["--tolerance", "much"], "--tolerance"),
    ],
)
def test_a_wrong_argument_is_a_usage_error_in_one_line(
    of: Callable[..., Path], crispbench: Crispbench, arguments: list[str], message: str
) -> None:
    answer = crispbench("probe", of(fake={"kind": "fake"}), *arguments)
    assert (answer.code, answer.out) == (2, "")
    assert message in answer.err and answer.err.startswith("crispbench: ") and answer.err.count("\n") == 1


def test_a_reference_without_scores_is_an_error_in_one_line(of: Callable[..., Path], crispbench: Crispbench) -> None:
    path = of(fake={"kind": "fake"}, broken={"kind": "fake", "fail_on": "planet"})
    answer = crispbench("probe", path, "--reference", "broken")
    assert (answer.code, answer.out) == (5, "")
    assert "which this engine fails on" in answer.err and answer.err.count("\n") == 1


def test_help_has_an_example_with_a_shipped_config(crispbench: Crispbench) -> None:
    answer = crispbench("probe", "--help")
    text = " ".join(answer.out.split())
    assert "Example: crispbench probe configs/probe.yaml --engine demo-bf16 --reference demo-fp32" in text
    assert answer.code == 0 and "--json" in text
