"""Requests and answers of every dialect against golden files, and the conversion of answers to log-odds."""

import json
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engines import ScoringFailed
from engines.base import EngineFailed, ScoreKind
from engines.prompts.template import Labels, load_template
from engines.remote.answers import log_odds, refuse_softmax, usage
from engines.remote.dialects import DIALECTS, find
from engines.remote.dialects.base import OTHER, Batch, Value
from engines.remote.transport import HttpAnswer

FOLDER = Path(__file__).parent / "dialects"
LABELS = load_template("mxbai-v2-seq").labels


def golden(name: str) -> Any:
    return json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))


def test_every_dialect_has_its_golden_file() -> None:
    assert sorted(path.stem for path in FOLDER.glob("*.json")) == sorted(DIALECTS)


@pytest.mark.parametrize("name", DIALECTS)
def test_a_request_has_the_form_that_the_server_documents(name: str) -> None:
    file = golden(name)
    request = find(name).request(Batch(**file["batch"]))
    assert json.loads(json.dumps(request._asdict())) == file["request"]


@pytest.mark.parametrize("name", DIALECTS)
def test_an_answer_is_read_with_labels_by_name_and_inputs_by_index(name: str) -> None:
    file, dialect = golden(name), find(name)
    scores = [log_odds(value, LABELS, dialect.score_kind) for value in dialect.scores(file["response"])]
    assert [score.value for score in scores] == pytest.approx(file["log_odds"], abs=1e-12)
    assert not any(score.saturated for score in scores)


@pytest.mark.parametrize("name", DIALECTS)
def test_unknown_fields_are_ignored(name: str) -> None:
    def more(part: Any) -> Any:
        if isinstance(part, dict):
            return {**{key: more(value) for key, value in part.items()}, "new_in_2027": [None]}
        return [more(item) for item in part] if isinstance(part, list) else part

    response = golden(name)["response"]
    assert find(name).scores(more(response)) == find(name).scores(response)


def without_each_field(document: Any) -> list[tuple[str, Any]]:
    """For every field of an object in a document: its name and a copy of the document without it."""
    if isinstance(document, list):
        return [
            (name, [*document[:i], part, *document[i + 1 :]])
            for i, item in enumerate(document)
            for name, part in without_each_field(item)
        ]
    if not isinstance(document, dict):
        return []
    here = [(name, {key: value for key, value in document.items() if key != name}) for name in document]
    return here + [
        (name, {**document, key: part}) for key, value in document.items() for name, part in without_each_field(value)
    ]


@pytest.mark.parametrize("name", DIALECTS)
def test_a_missing_field_is_named_unless_it_is_unused(name: str) -> None:
    response, read = golden(name)["response"], find(name).scores
    named = set()
    for field, shortened in without_each_field(response):
        try:
            assert read(shortened) == read(response), field
        except ScoringFailed as error:
            named.add(field)
            assert field in str(error) and "\n" not in str(error)
    assert named == {
        "tei": {"score", "label"},
        "baseten": {"score", "label"},
        "infinity": {"data", "score", "label"},
        "vllm": {"data", "index", "label", "probs"},
        "tei-rerank": {"index", "score"},
        "vllm-score": {"data", "index", "score"},
    }.get(name, {"results", "index", "relevance_score"})


@pytest.mark.parametrize("name", DIALECTS)
@pytest.mark.parametrize(
    "document", [None, 3, "text", True, {}, {"data": None}, {"results": 1, "data": {}}, [3], [[3]]]
)
def test_an_answer_of_another_shape_is_a_one_line_error(name: str, document: Any) -> None:
    with pytest.raises(ScoringFailed) as raised:
        find(name).scores(document)
    assert "\n" not in str(raised.value) and len(str(raised.value)) < 200


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ([{"index": 0, "score": 1}, {"index": 0, "score": 2}], "index 0 among 2 scores"),
        ([{"index": 0, "score": 1}, {"index": 2, "score": 2}], "index 2 among 2 scores"),
        ([{"index": -1, "score": 1}], "index -1 among 1 scores"),
        ([{"index": 0.0, "score": 1}], "no 'index' (an integer)"),
    ],
)
def test_every_index_must_occur_once(entries: Any, message: str) -> None:
    with pytest.raises(ScoringFailed) as raised:
        find("tei-rerank").scores(entries)
    assert message in str(raised.value)


@pytest.mark.parametrize("bad", [None, math.nan, math.inf, "0.5", True, [1], 10**400])
def test_a_value_that_is_not_a_finite_number_is_refused(bad: Any) -> None:
    with pytest.raises(ScoringFailed, match="expected a finite number"):
        find("tei").scores([[{"label": "1", "score": bad}, {"label": "0", "score": 0}]])
    with pytest.raises(ScoringFailed, match="expected a finite number"):
        find("vllm").scores({"data": [{"index": 0, "label": "1", "probs": [0, bad]}]})
    with pytest.raises(ScoringFailed, match="expected a finite number"):
        find("cohere").scores({"results": [{"index": 0, "relevance_score": bad}]})


def test_a_label_that_occurs_twice_is_refused() -> None:
    with pytest.raises(ScoringFailed, match="label '1' occurs twice"):
        find("tei").scores([[{"label": "1", "score": 1}, {"label": "1", "score": 0}]])


# From answers to log-odds


@pytest.mark.parametrize(
    ("answer", "kind", "expected"),
    [
        ({"1": 2.0, "0": 0.5}, ScoreKind.LOG_ODDS, 1.5),
        ({"0": 0.5, "1": 2.0}, ScoreKind.LOG_ODDS, 1.5),
        ({"1": 2.0, OTHER: 0.5}, ScoreKind.LOG_ODDS, 1.5),  # vLLM names only the larger label
        ({"0": 2.0, OTHER: 0.5}, ScoreKind.LOG_ODDS, -1.5),
        (2.25, ScoreKind.LOG_ODDS, 2.25),  # one label: the value is the log-odds
        (-2.25, ScoreKind.LOGIT, -2.25),
        (117.0, ScoreKind.OWN, 117.0),
        ({"LABEL_0": 2.25}, ScoreKind.LOG_ODDS, 2.25),  # the only label of a model, as transformers calls it
        ({"1": 2.25}, ScoreKind.LOGIT, 2.25),  # the config says that the model has one label
        ({"1": 0.75}, ScoreKind.PROBABILITY, math.log(3)),  # its probability, whether another label exists or not
        ({"1": 2.0, "0": 0.5}, ScoreKind.LOGIT, 1.5),
        (0.75, ScoreKind.PROBABILITY, math.log(3)),
        ({"1": 0.75, "0": 0.25}, ScoreKind.PROBABILITY, math.log(3)),
        ({"1": 2.0**-60, "0": 1.0}, ScoreKind.PROBABILITY, -60 * math.log(2)),
        ({"1": 1.0, "0": 2.0**-60}, ScoreKind.PROBABILITY, 60 * math.log(2)),  # log(p / (1 - p)) is infinite
        (0.5, ScoreKind.OPAQUE, 0.0),
    ],
)
def test_log_odds_match_a_computation_by_hand(answer: Value, kind: ScoreKind, expected: float) -> None:
    assert log_odds(answer, LABELS, kind)[:2] == (pytest.approx(expected, rel=1e-12), False)


@pytest.mark.parametrize(
    ("answer", "kind", "bound"),
    [
        ({"1": 1.0, "0": 0.0}, ScoreKind.PROBABILITY, 149 * math.log(2)),  # float32: 2**-149 is the smallest
        ({"1": 0.0, "0": 1.0}, ScoreKind.PROBABILITY, -149 * math.log(2)),
        (1.0, ScoreKind.PROBABILITY, math.log(2**24 - 1)),  # 1 - 2**-24 is the largest below 1
        (0.0, ScoreKind.PROBABILITY, -149 * math.log(2)),
        (1.0, ScoreKind.OPAQUE, math.log(2.0**53 - 1)),
        (0.0, ScoreKind.OPAQUE, -1074 * math.log(2)),
    ],
)
def test_a_saturated_probability_becomes_a_finite_bound_and_is_marked(
    answer: Value, kind: ScoreKind, bound: float
) -> None:
    assert log_odds(answer, LABELS, kind)[:2] == (pytest.approx(bound, rel=1e-12), True)


@given(st.floats(0, 1), st.floats(0, 1))
def test_probabilities_of_a_service_keep_their_order(first: float, second: float) -> None:
    low, high = sorted((first, second))
    below, above = (log_odds(p, LABELS, ScoreKind.OPAQUE).value for p in (low, high))
    assert math.isfinite(below) and math.isfinite(above) and below <= above


@given(st.floats(0, 1, width=32), st.floats(0, 1, width=32))
def test_probabilities_in_float32_keep_their_order(first: float, second: float) -> None:
    low, high = sorted((first, second))
    below, above = (log_odds(p, LABELS, ScoreKind.PROBABILITY).value for p in (low, high))
    assert math.isfinite(below) and math.isfinite(above) and below <= above


@given(st.floats(-100, 100))
def test_log_odds_survive_a_softmax_of_two_labels(logit: float) -> None:
    softmax = {"1": 1 / (1 + math.exp(-logit)), "0": 1 / (1 + math.exp(logit))}
    assert log_odds(softmax, LABELS, ScoreKind.PROBABILITY).value == pytest.approx(logit, abs=1e-9)


@pytest.mark.parametrize(
    "answer",
    [
        {"LABEL_0": 0.5, "LABEL_1": 0.5},
        {"1": 0.5, "0": 0.25, "2": 0.25},
        {"yes": 0.5, OTHER: 0.5},
        {"1": 0.5, "2": 0.5},
        {"1": 0.5, "0": 0.25, OTHER: 0.25},
    ],
)
def test_labels_are_never_guessed_from_their_position(answer: Value) -> None:
    with pytest.raises(ScoringFailed, match="expected '1' and '0': set id2label"):
        log_odds(answer, LABELS, ScoreKind.PROBABILITY)


@pytest.mark.parametrize(
    ("label", "kind"),
    [
        (
            "0",
            ScoreKind.PROBABILITY,
        ),  # the winner of a pipeline with top_k = 1; its probability of 0.9 is not that of 1
        ("0", ScoreKind.LOG_ODDS),
        ("0", ScoreKind.LOGIT),
        ("1", ScoreKind.LOG_ODDS),  # the winner's logit is no log-odds
        ("LABEL_0", ScoreKind.PROBABILITY),
        ("LABEL_1", ScoreKind.PROBABILITY),
        ("LABEL_1", ScoreKind.LOG_ODDS),  # there is a LABEL_0 as well
        ("LABEL_1", ScoreKind.LOGIT),
    ],
)
def test_a_label_alone_that_may_be_the_winner_of_several_is_refused(label: str, kind: ScoreKind) -> None:
    with pytest.raises(
        EngineFailed, match=f"label '{label}' alone.*set it to return all labels .top_k: null"
    ) as raised:
        log_odds({label: 0.9}, LABELS, kind)
    assert ("set score_kind: logit" in str(raised.value)) == (kind is ScoreKind.LOG_ODDS)


@pytest.mark.parametrize("kind", [ScoreKind.LOG_ODDS, ScoreKind.LOGIT, ScoreKind.PROBABILITY])
def test_a_label_alone_with_another_name_is_refused(kind: ScoreKind) -> None:
    with pytest.raises(EngineFailed, match=r"labels are \['toxic'\], expected '1' and '0': set id2label"):
        log_odds({"toxic": 0.9}, LABELS, kind)


@pytest.mark.parametrize("name", ["tei", "baseten", "infinity"])
def test_a_winner_alone_is_read_with_its_name(name: str) -> None:
    answer = [[{"label": "0", "score": 0.9}], [{"label": "1", "score": 0.8}]]
    assert find(name).scores({"data": answer} if name == "infinity" else answer) == [{"0": 0.9}, {"1": 0.8}]


@pytest.mark.parametrize(("probs", "classes"), [([0.9], 2), ([0.9, 0.1], 3), ([0.5, 0.3, 0.2], 3), ([], 0)])
def test_vllm_must_send_the_logits_of_all_classes(probs: list[float], classes: int) -> None:
    answer = {"data": [{"index": 0, "label": "LABEL_0", "probs": probs, "num_classes": classes}]}
    with pytest.raises(ScoringFailed, match=f"of {classes} classes, expected all of one or two"):
        find("vllm").scores(answer)


def test_the_only_logit_of_vllm_is_read_with_its_name() -> None:
    answer = {"data": [{"index": 0, "label": "LABEL_0", "probs": [1.5], "num_classes": 1}]}
    assert find("vllm").scores(answer) == [{"LABEL_0": 1.5}]


# A softmax where logits were asked for


def softmax(logit: float, round_to: Callable[[float], float]) -> dict[str, float]:
    return {"1": round_to(1 / (1 + math.exp(-logit))), "0": round_to(1 / (1 + math.exp(logit)))}


def bfloat16(value: float) -> float:
    """The nearest number with 8 significant bits."""
    fraction, exponent = math.frexp(value)
    return math.ldexp(round(fraction * 256) / 256, exponent)


@given(
    st.lists(st.floats(-12, 12), min_size=2, max_size=50), st.sampled_from([float, bfloat16, partial(round, ndigits=2)])
)
def test_a_softmax_is_never_taken_for_logits(logits: list[float], round_to: Callable[[float], float]) -> None:
    scores = [log_odds(softmax(logit, round_to), LABELS, ScoreKind.LOG_ODDS) for logit in logits]
    with pytest.raises(EngineFailed, match=r"are a softmax where raw logits were asked for: .*score_kind: probability"):
        refuse_softmax(scores)


@given(st.floats(-12, 12))
def test_a_single_softmax_in_float64_is_not_taken_for_logits(logit: float) -> None:
    with pytest.raises(EngineFailed):
        refuse_softmax([log_odds(softmax(logit, float), LABELS, ScoreKind.LOG_ODDS)])


def test_logits_of_which_one_pair_adds_up_to_1_are_logits() -> None:
    pairs = [{"1": 0.75, "0": 0.25}, {"1": 0.9, "0": 0.2}, {"1": 3.0, "0": -2.0}]
    refuse_softmax([log_odds(pair, LABELS, ScoreKind.LOG_ODDS) for pair in pairs[:2]])
    refuse_softmax([log_odds(pair, LABELS, ScoreKind.LOG_ODDS) for pair in (pairs[0], pairs[2])])
    refuse_softmax([log_odds({"1": 0.745, "0": 0.25}, LABELS, ScoreKind.LOG_ODDS)])  # one pair, by chance
    refuse_softmax([])


def test_labels_come_from_the_template() -> None:
    yes_no = Labels(positive="yes", negative="no")
    assert log_odds({"no": 1.0, "yes": 4.0}, yes_no, ScoreKind.LOG_ODDS).value == 3.0


@pytest.mark.parametrize("answer", [1.5, -0.1, {"1": 1.5, "0": -0.5}])
def test_a_logit_is_not_taken_for_a_probability(answer: Value) -> None:
    with pytest.raises(EngineFailed, match=r"no probability .*set score_kind to logit"):
        log_odds(answer, LABELS, ScoreKind.PROBABILITY)


def test_probabilities_of_independent_labels_are_refused() -> None:
    with pytest.raises(ScoringFailed, match="do not add up to 1"):
        log_odds({"1": 0.9, "0": 0.4}, LABELS, ScoreKind.PROBABILITY)


# Usage


@pytest.mark.parametrize(
    ("document", "headers", "expected"),
    [
        ({"usage": {"prompt_tokens": 7, "total_tokens": 8}}, {}, {"tokens": 7}),
        ({"usage": {"total_tokens": 8}}, {}, {"tokens": 8}),
        ({"meta": {"tokens": {"input_tokens": 12}}}, {}, {"tokens": 12}),
        ([], {"x-compute-tokens": "9"}, {"tokens": 9}),
        ([], {"x-queue-time": "3", "x-inference-time": "1.25"}, {"server_queue_us": 3000, "server_inference_us": 1250}),
        ({"usage": {"prompt_tokens": "many"}, "meta": None}, {"x-total-time": "soon"}, {}),
        ({"usage": [], "meta": 3}, {"x-compute-tokens": "-1", "x-queue-time": "nan"}, {}),
    ],
)
def test_tokens_and_times_come_from_the_servers_answer(document: Any, headers: dict[str, str], expected: Any) -> None:
    assert usage(HttpAnswer(200, headers, document, first_byte_s=0.0)).document() == expected
