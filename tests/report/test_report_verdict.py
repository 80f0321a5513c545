from collections.abc import Callable

from harness.records import Percentile, Row
from harness.run.page.verdict import sentence

MakeRow = Callable[..., Row]


def test_an_engine_ranks_better_when_the_interval_excludes_zero(row: MakeRow) -> None:
    # The difference is 0.25 for every query, so every resample has the same mean.
    text = sentence([row(), row("large", (0.75, 0.5, 0.75, 0.5), pairs_per_s=617.25)])
    assert text == (
        "large has the highest nDCG@10 (0.6250): over 4 queries it ranks better than the baseline bm25 "
        "(+0.2500 [+0.2500, +0.2500]); it takes 12.5 ms per query at p50 and scores 0.500 times as "
        "many pairs/s as bm25."
    )


def test_an_engine_cannot_be_told_apart_when_the_interval_contains_zero(row: MakeRow) -> None:
    text = sentence([row(), row("same", (0.25, 0.5, 0.25, 0.75))])
    assert "same has the highest nDCG@10 (0.4375): over 4 queries it cannot be told apart from the baseline" in text


def test_equal_engines_cannot_be_told_apart(row: MakeRow) -> None:
    text = sentence([row("twin"), row("other")])
    assert "it cannot be told apart from other (0.0000 [0.0000, 0.0000])" in text


def test_the_best_engine_is_also_compared_with_a_baseline_that_is_not_second(row: MakeRow) -> None:
    rows_of_three = [row(), row("small", (0.625, 0.375, 0.625, 0.375)), row("large", (0.75, 0.5, 0.75, 0.5))]
    text = sentence(rows_of_three)
    assert "ranks better than small (+0.1250 [+0.1250, +0.1250])" in text
    assert "ranks better than the baseline bm25 (+0.2500 [+0.2500, +0.2500])" in text


def test_incomplete_and_invalid_engines_are_named_and_not_ranked(rows: list[Row]) -> None:
    text = sentence(rows[:4])
    assert text.startswith("large has the highest")
    assert text.endswith("Left out: half (incomplete, 75.0% of the queries scored), broken (invalid).")


def test_engines_over_other_candidates_are_not_compared(row: MakeRow) -> None:
    text = sentence([row(), row("large"), row("dense", (1, 1, 1, 1), candidates={"sha256": "cd"})])
    assert text.endswith("Left out: dense (different candidates or queries).")


def test_a_lone_complete_engine_is_not_ranked(rows: list[Row]) -> None:
    text = sentence([rows[0], rows[2]])
    assert "bm25 is the only engine with a complete run (nDCG@10 0.3750), so nothing is ranked." in text


def test_without_a_complete_engine_nothing_is_ranked(rows: list[Row]) -> None:
    assert sentence(rows[2:4]).startswith("No engine has a complete run, so nothing is ranked.")


def test_one_query_cannot_tell_engines_apart(row: MakeRow) -> None:
    assert "one query cannot tell engines apart" in sentence([row(quality=(0.5,)), row("large", (0.75,))])


def test_an_unknown_speed_is_not_mentioned(row: MakeRow) -> None:
    unknown = {"p50": Percentile(None, 4, 20), "pairs_per_s": None}
    text = sentence([row(**unknown), row("large", (0.75, 0.5, 0.75, 0.5), **unknown)])
    assert "p50" not in text and "pairs/s" not in text
