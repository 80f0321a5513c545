"""Comparisons of recorded runs: refusals, verdicts per query, and the document that `--json` prints."""

import json
import re
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from engines.base import BadOptions
from harness.compare.comparison import Comparison, Field
from harness.compare.page import content
from harness.compare.verb import LOSSES_SHOWN, CompareOptions, compare
from harness.store import FILE, NotComparable, StoreError
from tests import recordings

ROOT = Path(__file__).parents[1]
SCHEMA = json.loads((ROOT / "docs/compare.schema.json").read_text(encoding="utf-8"))
NEEDED = 1928  # queries that decide with 80% power if two of 60 queries lose 0.36907

Record = Callable[..., Path]


@pytest.fixture
def record(tmp_path: Path) -> Record:
    """Writes a RUN/ENGINE folder of this name, as `recordings.write` does."""
    return lambda name, lost=0, **changes: recordings.write(tmp_path / "run" / name, lost, **changes)


def test_equal_scores_pass_only_if_the_queries_exclude_a_loss_that_none_of_them_shows(record: Record) -> None:
    # 1 - 0.025 ** (1 / 60) = 0.0596; of a loss of everything on 6 of 100 queries, 60 queries show none in 2.5%
    old, new = record("old"), record("new")
    (comparison,) = compare(old, [new], CompareOptions(margin=0.06)).comparisons
    (effect,) = comparison.effects
    assert comparison.verdict.outcome == effect.outcome == "pass"
    assert effect.difference == (0.0, pytest.approx(-0.0596, abs=1e-4), 0.0, 0.0, 1.0)
    assert (effect.p.value, effect.standardised, effect.wins, effect.ties, effect.losses) == (1.0, None, 0, 60, 0)
    assert effect.note == "nDCG@10 differs on no query; it may differ on up to 6.0% of queries (97.5% confidence)"
    assert comparison.losses == () and comparison.notes == ()
    assert [field.name for field in comparison.differing] == ["engine"]
    (effect,) = compare(old, [new], CompareOptions(margin=0.059)).comparisons[0].effects
    assert effect.outcome == "inconclusive"


@pytest.mark.parametrize("lost", [0, 1])
def test_no_changed_query_and_one_never_pass_by_themselves(record: Record, lost: int) -> None:
    comparison = compared(record, lost, 60, None)
    (effect,) = comparison.effects
    assert comparison.verdict.outcome == effect.outcome == "inconclusive"
    assert "cannot be known from 60 queries: rare losses that none of them shows may cost 0.0596" in effect.note
    assert "736 queries are the fewest that exclude 0.005" in effect.note
    assert "(it cannot be known from 60 queries)" in content.sentence(comparison)


def test_736_equal_queries_are_the_fewest_that_pass_at_the_default_margin(record: Record) -> None:
    # 0.025 = 0.995 ** 735.9
    (effect,) = compared(record, 0, 735, None).effects
    assert (effect.outcome, effect.needed) == ("inconclusive", 736)
    assert compared(record, 0, 736, None).effects[0].outcome == "pass"


def test_a_planted_loss_is_a_regression_with_figures_computed_by_hand(record: Record) -> None:
    (comparison,) = compare(record("old"), [record("new", lost=30)], CompareOptions()).comparisons
    (effect,) = comparison.effects
    assert effect.reference == 1.0
    assert effect.candidate == pytest.approx(0.81546, abs=1e-5)  # half of the queries have nDCG@10 = 1 / log2(3)
    assert effect.difference.value == pytest.approx(-0.18454, abs=1e-5)
    assert (effect.wins, effect.ties, effect.losses) == (0, 30, 30)
    # 30 losses of equal size d and 30 zeros: mean -d/2, variance d^2/4 * 60/59
    assert effect.standardised == pytest.approx(-((59 / 60) ** 0.5))
    assert comparison.verdict.outcome == "regression" and comparison.verdict.regressions == ("small",)
    assert len(comparison.losses) == LOSSES_SHOWN
    worst = comparison.losses[0]
    assert (worst.query_id, worst.text) == ("q000", None)
    assert [tuple(move) for move in worst.moves] == [("a", 1, 1, 2, 3.0, 2.0), ("b", 0, 2, 1, 2.0, 3.0)]
    assert "--config" in comparison.notes[0]


def test_a_loss_within_the_noise_is_inconclusive_and_the_note_states_the_queries_needed(record: Record) -> None:
    available = {"entry": {"available": 5000}}
    old, new = record("old", **available), record("new", lost=2, **available)
    (comparison,) = compare(old, [new], CompareOptions()).comparisons
    (effect,) = comparison.effects
    assert effect.outcome == comparison.verdict.outcome == "inconclusive"
    # Two losses of 0.36907 among 60 have a standard deviation of 0.0668. At 1,928 queries their mean has a standard
    # error of 0.00152; with an unseen loss its 97.5% quantile is 0.00372, and 0.00372 + 0.84162 * 0.00152 = 0.005
    assert effect.needed == NEEDED
    assert effect.note.endswith(f"; about {NEEDED:,} queries would decide with 80% power, assuming no true difference")


def compared(record: Record, lost: int, queries: int, available: int | None) -> Comparison:
    entry = {} if available is None else {"available": available}
    lost_by = {f"old-{queries}-{available}": 0, f"new-{queries}-{available}": lost}
    old, new = (record(name, lost=count, queries=queries, entry=entry) for name, count in lost_by.items())
    (comparison,) = compare(old, [new], CompareOptions()).comparisons
    return comparison


def test_more_queries_than_the_benchmark_has_are_never_proposed(record: Record) -> None:
    """If one query fewer exists than the 60 queries need, none is proposed."""
    for available in (60, NEEDED - 1):
        (effect,) = compared(record, 2, 60, available).effects
        assert effect.needed is None
        assert effect.note.endswith(
            f"; even all {available:,} queries that exist are too few for a margin of 0.005: add benchmarks, or choose "
            "a wider margin before the next run"
        )
    assert compared(record, 2, 60, NEEDED).effects[0].needed == NEEDED
    (effect,) = compared(record, 2, 60, None).effects
    assert effect.note.endswith("assuming no true difference, if the benchmark has as many")


def test_many_losses_among_few_queries_are_a_regression(record: Record) -> None:
    """No number of queries is the least for a regression: 20 losses are clear, whatever was not drawn."""
    (effect,) = compared(record, 20, 20, None).effects
    assert effect.outcome == "regression" and effect.difference.hi < -0.2
    # Three losses among three queries: one candidate in eight loses as often by chance.
    assert compared(record, 3, 3, None).effects[0].outcome == "inconclusive"


def test_an_interval_below_zero_says_that_the_candidate_ranks_worse(record: Record) -> None:
    sides = [record(name, lost=lost) for name, lost in (("old", 0), ("new", 30))]
    (comparison,) = compare(sides[0], [sides[1]], CompareOptions(margin=0.1845)).comparisons
    assert comparison.verdict.outcome == "inconclusive"
    assert "at the margin of 0.1845 (it ranks worse, but perhaps by less than that)" in content.sentence(comparison)
    (unsure,) = compare(record("a"), [record("b", lost=2)], CompareOptions()).comparisons
    assert unsure.effects[0].difference.hi > 0.0
    assert "at the margin of 0.005 (it cannot be known from 60 queries): nDCG@10" in content.sentence(unsure)


def test_a_wider_margin_turns_a_regression_into_a_pass(record: Record) -> None:
    old, new = record("old"), record("new", lost=30)
    assert compare(old, [new], CompareOptions(margin=0.35)).outcome == "pass"
    assert compare(old, [new], CompareOptions(margin=0.1845)).outcome == "inconclusive"


def test_swapped_runs_mirror_the_difference_and_its_p_but_not_its_bounds(record: Record) -> None:
    """A loss that was not seen may be total, a gain only as large as those that were seen."""
    old, new = record("old", lost=7), record("new", lost=23)
    effect, mirrored = (
        compare(*sides, CompareOptions()).comparisons[0].effects[0] for sides in ((old, [new]), (new, [old]))
    )
    assert effect.difference.value == -mirrored.difference.value < 0
    assert effect.p == mirrored.p
    assert effect.difference.lo < -mirrored.difference.hi


@pytest.mark.parametrize(
    ("entry", "named"),
    [
        ({"revision": "r2"}, "small revision is 'r1' and 'r2'"),
        ({"split": "dev"}, "small split is 'test' and 'dev'"),
        ({"remove_self": True}, "small remove_self is False and True"),
        ({"candidates": {"source": "bm25", "k": 3, "sha256": "cd" * 32}}, "compared: small candidates.k is 10 and 3."),
        ({"candidates": {"sha256": "cd" * 32}}, "compared: small has different lists of candidates."),
        ({"revision": f"sha256:{'ab' * 8}"}, "compared: small revision is 'r1' and 'sha256:abababababababab'."),
    ],
)
def test_runs_with_different_inputs_are_not_comparable(entry: dict[str, Any], named: str, record: Record) -> None:
    with pytest.raises(NotComparable, match=re.escape(named)):
        compare(record("old"), [record("new", entry=entry)], CompareOptions())


def test_different_query_sets_are_refused_even_if_all_queries_are_scored(record: Record) -> None:
    with pytest.raises(NotComparable, match="small has 60 and 59 queries, 1 of them in one run only"):
        compare(record("old"), [record("new", queries=59)], CompareOptions())


def test_different_grades_are_refused(record: Record) -> None:
    old, new = record("old"), record("new")
    with sqlite3.connect(new / FILE) as connection:
        connection.execute("UPDATE qrels SET grade = 2 WHERE query_id = 'q003' AND doc_id = 'a'")
    connection.close()
    with pytest.raises(NotComparable, match="small has different grades in its qrels"):
        compare(old, [new], CompareOptions())


def test_runs_without_a_common_benchmark_are_refused_with_both_lists(record: Record) -> None:
    with pytest.raises(NotComparable, match=r"they share no benchmark \(small; other\)"):
        compare(record("old"), [record("new", benchmarks=("other",))], CompareOptions())


def test_a_benchmark_in_only_one_run_is_named_and_left_out(record: Record) -> None:
    old, new = record("old", benchmarks=("small", "more")), record("new", benchmarks=("small", "another"))
    (comparison,) = compare(old, [new], CompareOptions()).comparisons
    assert [effect.name for effect in comparison.effects] == ["small"]
    assert comparison.left_out == (f"more is only in {old}", f"another is only in {new}")


def test_two_templates_are_refused_unless_allowed(record: Record) -> None:
    old = record("old", description={"template": "card", "template_sha256": "1" * 64})
    new = record("new", description={"template": "reference", "template_sha256": "2" * 64})
    with pytest.raises(NotComparable, match=r"template is card and reference \(--allow"):
        compare(old, [new], CompareOptions())
    assert compare(old, [new], CompareOptions(margin=0.1, allow=("template",))).outcome == "pass"


def test_an_engine_without_a_template_may_be_compared_with_one_that_has_a_template(record: Record) -> None:
    new = record("new", description={"template": "card", "template_sha256": "1" * 64, "precision": "fp8"})
    (comparison,) = compare(record("old"), [new], CompareOptions()).comparisons
    assert Field("description.precision", None, "fp8") in comparison.differing


def test_a_missing_query_makes_the_run_incomplete_instead_of_shrinking_the_denominator(record: Record) -> None:
    old, new = record("old"), record("new", scored=58)
    message = r"incomplete on small: 2 of 60 queries have no scores \(q058, q059\)"
    with pytest.raises(StoreError, match=message) as caught:
        compare(old, [new], CompareOptions())
    assert not isinstance(caught.value, NotComparable)
    with pytest.raises(StoreError, match=message):
        compare(new, [old], CompareOptions())
    with pytest.raises(StoreError, match=message):
        compare(old, [record("fine")], CompareOptions(noise=new))


def test_a_run_whose_scores_are_all_equal_is_invalid(record: Record) -> None:
    new = record("new")
    with sqlite3.connect(new / FILE) as connection:
        connection.execute("UPDATE scores SET score = 0")
    connection.close()
    with pytest.raises(StoreError, match="invalid on small: all scores of every query are equal"):
        compare(record("old"), [new], CompareOptions())


def test_one_query_decides_nothing(record: Record) -> None:
    for lost in (0, 1):
        (effect,) = compared(record, lost, 1, lost + 1).effects
        assert (effect.outcome, effect.needed) == ("inconclusive", None)
        assert effect.note.endswith("a benchmark has only one query, so the spread over queries is unknown")


def test_a_constant_loss_has_no_spread_and_is_still_a_regression(record: Record) -> None:
    (effect,) = compare(record("old"), [record("new", lost=60)], CompareOptions()).comparisons[0].effects
    assert effect.outcome == "regression"
    assert effect.difference.lo < effect.difference.value < effect.difference.hi < -0.3
    assert effect.difference.value == pytest.approx(-0.36907, abs=1e-5)
    assert effect.standardised is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (CompareOptions(margin=0.0), "margin 0.0"),
        (CompareOptions(margin=-0.01), "margin -0.01"),
        (CompareOptions(allow=("machine",)), "allow 'machine': expected one of template"),
    ],
)
def test_meaningless_options_are_refused_before_anything_is_read(options: CompareOptions, message: str) -> None:
    with pytest.raises(BadOptions, match=re.escape(message)):
        compare(Path("nowhere"), [Path("elsewhere")], options)


def test_a_folder_against_itself_and_a_folder_without_results_are_errors(record: Record, tmp_path: Path) -> None:
    old = record("old")
    with pytest.raises(BadOptions, match="given twice"):
        compare(old, [old / ".." / "old"], CompareOptions())
    with pytest.raises(StoreError, match="expected a RUN/ENGINE folder"):
        compare(old, [tmp_path], CompareOptions())


def test_drift_is_judged_against_the_noise_floor(record: Record) -> None:
    old, again, new = record("old"), record("again", shift=0.5), record("new", shift=0.25)
    for candidate, repeated, exceeded in ((new, again, False), (again, new, True)):
        (fidelity,) = compare(old, [candidate], CompareOptions(noise=repeated)).comparisons[0].fidelity
        assert fidelity.noise is not None and fidelity.repeated is not None
        assert fidelity.noise.exceeded is exceeded
        assert fidelity.repeated.drift is not None
        assert fidelity.noise.repeated == pytest.approx(fidelity.repeated.drift.mean_absolute)


@pytest.mark.parametrize(
    ("kind", "score_kind", "same"),
    [
        ("torch", None, True),
        ("bm25", None, False),
        ("remote", "logit_diff", True),
        ("remote", "probability", True),
        ("remote", "opaque", False),
        ("cross_encoder", "logit", True),
    ],
)
def test_drift_is_shown_only_for_scores_on_the_same_scale(
    kind: str, score_kind: str | None, same: bool, record: Record
) -> None:
    new = record("new", kind=kind, description={"score_kind": score_kind} if score_kind else {})
    (fidelity,) = compare(record("old"), [new], CompareOptions()).comparisons[0].fidelity
    assert (fidelity.candidate.drift is not None) is same
    assert fidelity.candidate.tau.mean == 1.0


def test_opaque_scores_share_a_scale_only_within_one_model(record: Record) -> None:
    opaque, same, another = (
        record(name, kind="remote", description={"score_kind": "opaque", "model": model})
        for name, model in (("own", "m1"), ("same", "m1"), ("other", "m2"))
    )
    drifts = [
        comparison.fidelity[0].candidate.drift
        for comparison in compare(opaque, [same, another], CompareOptions()).comparisons
    ]
    assert drifts[0] is not None and drifts[1] is None


def test_a_benchmark_without_a_noise_floor_is_named(record: Record) -> None:
    old, new = (record(name, benchmarks=("small", "more")) for name in ("old", "new"))
    (comparison,) = compare(old, [new], CompareOptions(noise=record("again"))).comparisons
    assert comparison.left_out == (f"noise floor of more: {old.parent / 'again'} does not have this benchmark",)
    assert [fidelity.noise is not None for fidelity in comparison.fidelity] == [True, False]


def test_several_candidates_are_ranked_in_a_matrix_with_letters(record: Record) -> None:
    folders = [record("old"), record("same"), record("worse", lost=30), record("worst", lost=60)]
    contest = compare(folders[0], folders[1:], CompareOptions(margin=0.06))
    assert contest.outcome == "regression"
    assert [comparison.verdict.outcome for comparison in contest.comparisons] == ["pass", "regression", "regression"]
    (matrix,) = contest.matrices
    assert [(standing.engine, standing.letters) for standing in matrix.standings] == [
        ("old", "a"), ("same", "a"), ("worse", "b"), ("worst", "c"),
    ]  # fmt: skip
    duel = next(duel for duel in matrix.duels if (duel.better, duel.worse) == ("old", "same"))
    assert (duel.difference, duel.p, duel.p_holm) == (0.0, 1.0, 1.0)


def test_engines_that_differ_only_before_holm_share_a_letter(record: Record) -> None:
    # 6 losses of one size: 2 of 64 sign flips, p = 0.031; the smallest of 3 p-values is multiplied by 3
    (matrix,) = compare(record("old"), [record("same"), record("six", lost=6)], CompareOptions()).matrices
    assert {standing.letters for standing in matrix.standings} == {"a"}
    assert [duel.p for duel in matrix.duels] == [1.0, 0.03125, 0.03125]
    assert [duel.p_holm for duel in matrix.duels] == [1.0, 0.09375, 0.09375]


def test_engines_with_the_same_name_are_distinguished_by_their_run(record: Record, tmp_path: Path) -> None:
    old = record("fp16")
    moved = tmp_path / "other"
    (tmp_path / "run").rename(moved)
    (comparison,) = compare(moved / "fp16", [record("fp16", lost=3)], CompareOptions()).comparisons
    assert old.is_dir() and (comparison.reference.name, comparison.candidate.name) == ("other/fp16", "run/fp16")


def test_the_document_matches_its_schema_and_is_plain_json(record: Record) -> None:
    Draft202012Validator.check_schema(SCHEMA)
    old, new = record("old", benchmarks=("small", "more")), record("new", lost=30, benchmarks=("small", "more"))
    bm25 = record("bm25", lost=60, benchmarks=("small", "more"), kind="bm25")
    for contest in (
        compare(old, [new, bm25], CompareOptions(noise=record("again", benchmarks=("small", "more"), shift=0.1))),
        compare(record("one", queries=1), [record("two", queries=1)], CompareOptions()),
    ):
        document = json.loads(json.dumps(contest.document(), allow_nan=False))
        Draft202012Validator(SCHEMA).validate(document)
        assert document["outcome"] == contest.outcome
        assert document["comparisons"][0]["effects"][0]["difference"]["value"] == (
            contest.comparisons[0].effects[0].difference.value
        )


def test_the_schema_rejects_unknown_and_missing_fields(record: Record) -> None:
    document = compare(record("old"), [record("new")], CompareOptions()).document()
    assert list(Draft202012Validator(SCHEMA).iter_errors({**document, "more": 1}))
    del document["comparisons"][0]["effects"][0]["p"]
    assert list(Draft202012Validator(SCHEMA).iter_errors(document))


def test_query_texts_come_from_the_config_only_at_the_recorded_revision(
    animals: Path, config: Callable[..., Path], crispbench: Callable[..., Any], tmp_path: Path
) -> None:
    engines = {"good": {"kind": "fake"}, "bad": {"kind": "fake", "noise": 5.0}}
    written = config(engines=engines, benchmarks=[{"source": "beir", "path": str(animals)}], candidates={"k": 3})
    assert crispbench("run", written, "--out", tmp_path / "r", "--limit", 4).code == 0
    folders = tmp_path / "r/good", [tmp_path / "r/bad"]
    (comparison,) = compare(*folders, CompareOptions(config=written)).comparisons
    assert comparison.losses and comparison.notes == ()
    assert all(loss.text == f"animal {loss.query_id.removeprefix('q-')}" for loss in comparison.losses)
    queries = animals / "queries.jsonl"
    queries.write_text(queries.read_text(encoding="utf-8").replace("animal ", "beast "), encoding="utf-8")
    (comparison,) = compare(*folders, CompareOptions(config=written)).comparisons
    assert all(loss.text is None for loss in comparison.losses)
    assert "does not give animals in the recorded revision" in comparison.notes[0]
