"""The gate over recorded folders: few and many launches, other machines, missing recordings."""

import json
import math
import shutil
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from engines.base import BadOptions
from harness.ab.margins import RECORDED_MARGINS as MARGINS
from harness.check import page, verb
from harness.check.baselines import StoredLaunches
from harness.check.findings import Change, CheckRow
from harness.check.sides import read
from harness.check.times import Logs, adjusted, fewest_launches, trial
from harness.check.verb import CheckOptions, CheckResult, check, read_options
from harness.outcome import Outcome
from harness.store import FILE, NotComparable, StoreError
from tests.check_folders import MACHINE, SETTINGS, changed, record, record_launches, score
from tests.conftest import printed

STEADY = (1.0, 1.002, 0.998, 1.004, 0.996)  # launches of a quiet machine
SLOW = tuple(1.1 * value for value in STEADY)


ENOUGH = 0.06  # margin of nDCG@10 at which the 60 queries of `scored` can pass


def gate(baseline: Sequence[Path], current: Sequence[Path], options: CheckOptions | None = None) -> CheckResult:
    """A check against several folders; outside of tests only the baseline store can name several."""
    stored = StoredLaunches(list(baseline), "2026-11-25T08:00:00+00:00", "abc")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(verb, "find", lambda *_: stored)
        return check("main", [str(folder) for folder in current], options or CheckOptions(quality=ENOUGH))


def options(margins: Sequence[str] = (), allow: Sequence[str] = ()) -> CheckOptions:
    return read_options(margins, allow, store=Path("none"), last=1)


QUALITY_ONLY = ["latency=none", f"nDCG@10={ENOUGH}"]


def retime(engine: Path, seconds: float) -> Path:
    """Sets the times that a run recorded: 0.9 to 1.1 times `seconds` in uncorrelated order."""
    with closing(sqlite3.connect(engine / FILE)) as store:
        ids = [row[0] for row in store.execute("SELECT query_id FROM samples WHERE NOT warmup")]
        ranks = np.random.default_rng(0).permutation(len(ids))
        values = [seconds * (0.9 + 0.2 * (rank + 1) / len(ids)) for rank in ranks]
        store.executemany("UPDATE samples SET service_s = ? WHERE query_id = ?", zip(values, ids, strict=True))
        store.commit()
    return engine


def retimed(scored: Path, folder: Path, times: Sequence[float]) -> list[Path]:
    """Copies of a scored engine, one per launch, with these times."""
    copies = (shutil.copytree(scored / "good", folder / str(number) / "good") for number in range(len(times)))
    return [retime(Path(copy), seconds) for copy, seconds in zip(copies, times, strict=True)]


def rows(result: CheckResult) -> dict[str, CheckRow]:
    return {f"{row.subject} {row.metric}".strip(): row for row in (*result.quality.rows, *result.latency.rows)}


@pytest.fixture(scope="module")
def scored_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return score(tmp_path_factory.mktemp("scored"))


@pytest.fixture
def scored(scored_once: Path, tmp_path: Path) -> Path:
    """A run of 60 queries: the fake engine, the same engine again, a wild one and one that fails on a query."""
    return Path(shutil.copytree(scored_once / "r", tmp_path / "r"))


def test_equal_launches_pass_and_slower_ones_are_a_regression(tmp_path: Path) -> None:
    baseline = record_launches(tmp_path / "a", STEADY)
    same, slow = (record_launches(tmp_path / name, times) for name, times in (("b", STEADY), ("c", SLOW)))
    assert gate(baseline, same).outcome == "pass"
    result = gate(baseline, slow)
    assert result.outcome == "regression"
    p50, throughput = rows(result)["single-stream p50"], rows(result)["single-stream throughput"]
    assert (p50.baseline, p50.current) == (pytest.approx(1.0, rel=0.002), pytest.approx(1.1, rel=0.002))
    assert p50.change is not None and p50.change.value == pytest.approx(0.1)
    # A time that is 10% longer changes throughput by 1/1.1 - 1; the margin is a time that is 2% longer.
    assert throughput.change is not None and throughput.change.value == pytest.approx(1 / 1.1 - 1)
    assert throughput.margin == pytest.approx(1 / 1.02 - 1)
    assert gate(slow, baseline).outcome == "pass"  # faster


def test_one_recording_per_side_never_decides_about_times(tmp_path: Path) -> None:
    for slower in (1.0, 10.0):
        baseline, current = record(tmp_path / f"a{slower}" / "e", 1.0), record(tmp_path / f"b{slower}" / "e", slower)
        result = check(str(baseline), [str(current)], CheckOptions(store=tmp_path))
        assert result.outcome == "inconclusive"
        row = rows(result)["single-stream p50"]
        assert row.change is not None and (row.change.lo, row.change.hi) == (None, None)
        assert row.reason.startswith("1 and 1 launches are too few for an interval; 4 of each can decide")


def test_one_launch_against_nineteen_decides_and_against_eighteen_does_not() -> None:
    logs = Logs([0.001 * number for number in range(19)], [0.5])  # p = 1/20
    assert [row.outcome for row in adjusted([trial("server", "p50", logs, 0.03)])] == ["regression"]
    logs = Logs(logs.baseline[1:], logs.current)
    assert [row.outcome for row in adjusted([trial("server", "p50", logs, 0.03)])] == ["inconclusive"]


@pytest.mark.parametrize(("tests", "launches"), [(1, 3), (3, 4), (7, 5), (12, 5), (13, 6)])
def test_the_fewest_launches_decide_and_one_launch_fewer_does_not(tests: int, launches: int) -> None:
    """C(6, 3) = 20, C(8, 4) = 70, C(10, 5) = 252."""
    assert fewest_launches(tests) == launches
    far = Logs([0.0] * launches, [1.0] * launches)
    assert {row.outcome for row in adjusted([trial("server", "p50", far, 0.03)] * tests)} == {"regression"}
    few = Logs(far.baseline[1:], far.current[1:])
    assert {row.outcome for row in adjusted([trial("server", "p50", few, 0.03)] * tests)} == {"inconclusive"}


def test_holm_counts_all_scenarios(tmp_path: Path) -> None:
    """Three launches per side: p = 1/20, which is red for one metric and not for two."""
    sides = [record_launches(tmp_path / name, times[:3]) for name, times in (("a", STEADY), ("b", SLOW))]
    alone = options(["p95=none", "throughput=none"])
    assert gate(*sides, alone).outcome == "regression"
    for name, times in (("a", STEADY), ("b", SLOW)):
        record_launches(tmp_path / name, times[:3], scenario="server")
    result = gate(*sides, alone)
    assert (result.outcome, rows(result)["server p50"].p_holm) == ("inconclusive", pytest.approx(0.1))
    assert "Holm" in rows(result)["server p50"].reason


def test_server_has_no_throughput_and_offline_has_no_percentiles(tmp_path: Path) -> None:
    for name in ("a", "b"):
        for scenario in ("server", "offline"):
            record_launches(tmp_path / name, STEADY, scenario=scenario)
    by_name = rows(gate(*(sorted((tmp_path / name).glob("*/e")) for name in ("a", "b"))))
    assert list(by_name) == ["server p50", "server p95", "server p99", "offline throughput"]
    assert (by_name["server p99"].outcome, by_name["server p99"].reason) == (
        None,
        "not measured: 80 effective of 80 samples, 299 needed",
    )


def test_another_machine_is_not_comparable_unless_allowed_with_doubled_margins(tmp_path: Path) -> None:
    baseline = record_launches(tmp_path / "a", STEADY)
    current = record_launches(
        tmp_path / "b", [1.02 * seconds for seconds in STEADY], machine=changed(MACHINE, cpu="Xeon")
    )
    result = gate(baseline, current)
    assert result.outcome == "not comparable"
    assert "different machine: cpu EPYC -> Xeon" in rows(result)["single-stream"].reason
    allowed = gate(baseline, current, CheckOptions(allow=("machine",)))
    assert (allowed.outcome, rows(allowed)["single-stream p50"].margin) == ("pass", 2 * MARGINS["p50"])
    assert any(
        note.startswith("the times are of another machine, so the margins are doubled: cpu EPYC -> Xeon")
        for note in allowed.notes
    )
    assert "the margins are doubled" in printed(allowed.report())
    slow = record_launches(tmp_path / "c", SLOW, machine=changed(MACHINE, cpu="Xeon"))
    assert gate(baseline, slow, CheckOptions(allow=("machine",))).outcome == "regression"


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ({"settings": changed(SETTINGS, queries=81)}, "queries 80 -> 81"),
        ({"settings": changed(SETTINGS, seed=1)}, "seed 0 -> 1"),
        ({"benchmark": "topics"}, "benchmark words -> topics"),
        (
            {"benchmark_entry": {"revision": "r2", "candidates": {"sha256": "cd" * 32}}},
            "revision r1 -> r2; the lists of candidates changed",
        ),
        ({"description": {"template": "u"}}, "template t -> u (--allow template)"),
    ],
)
def test_times_of_different_work_are_not_comparable(tmp_path: Path, header: dict[str, object], message: str) -> None:
    result = gate(record_launches(tmp_path / "a", STEADY), record_launches(tmp_path / "b", STEADY, **header))
    assert result.outcome == "not comparable"
    assert rows(result)["single-stream"].reason == f"different work: {message}"


def test_another_rate_is_not_comparable_in_the_open_loop_and_another_objective_always_is(tmp_path: Path) -> None:
    for scenario, outcome in (("server", "not comparable"), ("single-stream", "pass")):
        changes = {"settings": changed(SETTINGS, rate=6.0, slo_ms=50.0)}
        sides = [
            record_launches(tmp_path / scenario / name, STEADY, scenario=scenario, **header)
            for name, header in (("a", {}), ("b", changes))
        ]
        assert gate(*sides).outcome == outcome


def test_an_invalid_recording_makes_the_check_invalid_unless_there_is_a_regression(
    tmp_path: Path,
) -> None:
    baseline = record_launches(tmp_path / "a", STEADY)
    current = record_launches(tmp_path / "b", STEADY)
    record(current[2], 1.0, settings=changed(SETTINGS, min_duration_s=1e6))
    result = gate(baseline, current)
    assert result.outcome == "invalid"
    assert "a recording is INVALID: too short" in rows(result)["single-stream"].reason
    for folders, times in ((baseline, STEADY), (current, SLOW)):
        for folder, seconds in zip(folders, times, strict=True):
            record(folder, seconds, "server")
    assert gate(baseline, current).outcome == "regression"


def test_a_killed_recording_is_invalid(tmp_path: Path) -> None:
    sides = [record_launches(tmp_path / name, STEADY) for name in ("a", "b")]
    path = sides[1][0] / "latency/single-stream.jsonl"
    path.write_text("".join(path.read_text(encoding="utf-8").splitlines(keepends=True)[:-1]), encoding="utf-8")
    result = gate(*sides)
    assert result.outcome == "invalid" and "INCOMPLETE: killed" in rows(result)["single-stream"].reason


def test_quality_is_judged_by_the_rules_of_compare(scored: Path, tmp_path: Path) -> None:
    def outcome(name: str) -> CheckResult:
        return check(str(scored / "good"), [str(scored / name)], options(QUALITY_ONLY))

    assert outcome("again").outcome == "pass"
    assert outcome("again").latency.reason == "left out by --margin latency=none"
    wild = outcome("wild")
    row = rows(wild)["words nDCG@10"]
    assert (wild.outcome, row.outcome, row.margin) == ("regression", "regression", -ENOUGH)
    assert row.baseline == 1.0 and row.current is not None and row.current < 0.8
    failing = outcome("failing")
    assert failing.outcome == "invalid" and "1 of 60 queries have no scores (q-bay)" in failing.quality.reason


def test_lost_quality_is_a_regression_even_if_times_are_undecided_or_invalid(scored: Path, tmp_path: Path) -> None:
    for name in ("good", "wild"):
        record(scored / name, 1.0)
    result = check(str(scored / "good"), [str(scored / "wild")], CheckOptions(store=tmp_path))
    assert (result.outcome, result.latency.outcome) == ("regression", "inconclusive")
    record(scored / "wild", 1.0, settings=changed(SETTINGS, min_duration_s=1e6))
    result = check(str(scored / "good"), [str(scored / "wild")], CheckOptions(store=tmp_path))
    assert (result.outcome, result.latency.outcome) == ("regression", "invalid")


def test_recordings_missing_on_one_side_are_reported_and_the_common_ones_are_judged(
    scored: Path, tmp_path: Path
) -> None:
    baseline = record_launches(tmp_path / "a", STEADY)
    current = record_launches(tmp_path / "b", STEADY)
    for folder in baseline:
        record(folder, 1.0, "server")
    result = gate(baseline, current)
    assert result.outcome == "pass"
    assert rows(result)["server"].reason == "not recorded by CURRENT"
    assert "not recorded" in printed(result.report())
    times_only = record(tmp_path / "t" / "e", 1.0)
    result = check(str(times_only), [str(scored / "again")], CheckOptions(store=tmp_path))
    assert (result.outcome, result.quality.reason) == ("not comparable", "not recorded by the baseline")


def test_two_runs_whose_times_differ_tenfold_never_pass(scored: Path, tmp_path: Path) -> None:
    before, now = retimed(scored, tmp_path, (0.01, 0.1))
    for terms in (options([f"nDCG@10={ENOUGH}"]), options(["p50=0.05", f"nDCG@10={ENOUGH}"])):
        result = check(str(before), [str(now)], terms)
        row = rows(result)["run words p50"]
        assert (result.outcome, result.quality.outcome, row.outcome) == ("inconclusive", "pass", "inconclusive")
        assert row.change is not None and row.change.value == pytest.approx(9.0)
        assert "4 of each can decide: repeat `crispbench latency`, one --out per launch" in row.reason
    assert check(str(before), [str(now)], options(QUALITY_ONLY)).outcome == "pass"


def test_the_times_of_several_runs_are_judged_like_recordings(scored: Path, tmp_path: Path) -> None:
    before, same, slow = (
        retimed(scored, tmp_path / name, [0.01 * value for value in times])
        for name, times in (("a", STEADY), ("b", STEADY), ("c", SLOW))
    )
    assert gate(before, same).outcome == "pass"
    result = gate(before, slow)
    assert (result.outcome, result.quality.outcome) == ("regression", "pass")
    p50 = rows(result)["run words p50"]
    assert (p50.baseline, p50.current) == (pytest.approx(0.01, rel=0.02), pytest.approx(0.011, rel=0.02))
    assert any("the machine was not watched" in note for note in result.notes)


def test_recordings_of_both_sides_take_precedence_over_the_times_of_runs(scored: Path, tmp_path: Path) -> None:
    before, now = (retimed(scored, tmp_path / name, [seconds] * 5) for name, seconds in (("a", 0.01), ("b", 0.1)))
    for folders in (before, now):
        for folder, seconds in zip(folders, STEADY, strict=True):
            record(folder, seconds)
    result = gate(before, now)
    assert result.outcome == "pass" and not any(row.subject.startswith("run ") for row in result.latency.rows)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("UPDATE samples SET warmup = 1 WHERE query_id = 'q-ca'", "its queries were scored by 2 processes"),
        (
            'UPDATE manifest SET document = replace(document, \'"cpu": "\', \'"cpu": "Other \')',
            "different machine: cpu",
        ),
    ],
)
def test_times_of_runs_that_cannot_be_compared_give_the_reason_and_no_pass(
    scored: Path, tmp_path: Path, change: str, reason: str
) -> None:
    before, now = retimed(scored, tmp_path, (0.01, 0.01))
    with closing(sqlite3.connect(now / FILE)) as store:
        store.execute(change)
        store.commit()
    result = check(str(before), [str(now)], CheckOptions(quality=ENOUGH, store=tmp_path))
    row = rows(result)["run words"]
    assert (result.outcome, result.quality.outcome, row.outcome) == ("inconclusive", "pass", "inconclusive")
    assert reason in row.reason and "latency=none" in row.reason


def test_times_of_workers_side_by_side_are_not_those_of_a_launch(scored: Path, tmp_path: Path) -> None:
    before, now = retimed(scored, tmp_path, (0.01, 0.01))
    (now / "workers.json").write_text('{"workers": []}')
    result = check(str(before), [str(now)], CheckOptions(store=tmp_path))
    assert result.outcome == "inconclusive" and "workers of Ray" in rows(result)["run words"].reason


@pytest.mark.parametrize(
    ("margins", "subject", "reason"),
    [
        (["p99=0.1"], "single-stream p99", "80 effective of 80 samples, 299 needed: measure more requests"),
        (["p50=0.1"], "server", "not recorded by CURRENT: record it with `crispbench latency`"),
        (["nDCG@10=0.01"], "quality", "not recorded by either side: record it with `crispbench run`"),
    ],
)
def test_a_margin_that_was_asked_for_and_not_judged_is_inconclusive_with_the_next_step(
    tmp_path: Path, margins: Sequence[str], subject: str, reason: str
) -> None:
    baseline, current = (record_launches(tmp_path / name, STEADY) for name in ("a", "b"))
    for folder in baseline:
        record(folder, 1.0, "server")
    assert gate(baseline, current, options()).outcome == "pass"
    result = gate(baseline, current, options(margins))
    assert result.outcome == "inconclusive"
    given = result.quality.reason if subject == "quality" else rows(result)[subject].reason
    assert reason in given


def test_a_throughput_that_no_recording_has_cannot_be_asked_for_in_vain(tmp_path: Path) -> None:
    sides = [record_launches(tmp_path / name, STEADY, scenario="server") for name in ("a", "b")]
    assert gate(*sides).outcome == "pass"
    result = gate(*sides, options(["throughput=0.02"]))
    assert result.outcome == "inconclusive"
    assert rows(result)["latency throughput"].reason.startswith("no recording of both sides has throughput: record it")


def test_quality_that_only_the_baseline_has_is_no_pass_and_quality_that_only_the_current_side_has_is_noted(
    scored: Path, tmp_path: Path
) -> None:
    with_scores = retimed(scored, tmp_path / "s", STEADY)
    for folder, seconds in zip(with_scores, STEADY, strict=True):
        record(folder, seconds)
    without = record_launches(tmp_path / "t", STEADY)
    result = gate(with_scores, without)
    assert (result.outcome, result.latency.outcome) == ("inconclusive", "pass")
    assert "not recorded by CURRENT: record it with `crispbench run`" in result.quality.reason
    assert gate(with_scores, without, options(["nDCG@10=none"])).outcome == "pass"
    assert gate(without, with_scores).outcome == "pass"


def test_folders_that_contradict_each_other_are_refused(tmp_path: Path) -> None:
    first, second = record(tmp_path / "a" / "e", 1.0), record(tmp_path / "b" / "e", 1.0)
    (tmp_path / "empty").mkdir()
    for baseline, current, error, message in (
        (first, [first], BadOptions, "is on both sides"),
        (first, [second, second], BadOptions, "is given twice"),
        (first, [], BadOptions, "no CURRENT folder"),
        (first, [tmp_path / "empty"], StoreError, "holds neither scores.sqlite nor latency"),
        (tmp_path / "nowhere", [first], BadOptions, "nowhere' is neither a folder nor a baseline of .*: none"),
    ):
        with pytest.raises(error, match=message):
            check(str(baseline), [str(folder) for folder in current], CheckOptions(store=tmp_path))


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ({"machine": changed(MACHINE, cores="4")}, "cores 2 -> 4"),
        ({"options": {"model": "n"}}, "option model m -> n"),
        ({"settings": changed(SETTINGS, warmup=3)}, "warmup 10 -> 3"),
    ],
)
def test_launches_of_one_side_with_different_engines_or_machines_are_refused(
    tmp_path: Path, header: dict[str, object], message: str
) -> None:
    baseline = record_launches(tmp_path / "a", STEADY)
    mixed = [*record_launches(tmp_path / "b", STEADY), record(tmp_path / "c" / "e", 1.0, **header)]
    for sides in ((baseline, mixed), (mixed, baseline)):
        with pytest.raises(NotComparable, match=message):
            gate(*sides, CheckOptions(allow=("machine", "template")))


def test_a_changed_engine_is_judged_and_named(tmp_path: Path) -> None:
    current = record_launches(tmp_path / "b", STEADY, description={"model": "m", "precision": "fp8", "template": "t"})
    result = gate(record_launches(tmp_path / "a", STEADY), current)
    assert result.outcome == "pass"
    assert "precision bf16 -> fp8" in result.notes[0]


def test_margins_and_allowances_are_read_and_unknown_ones_are_refused() -> None:
    terms = options(["nDCG@10=0.02", "p50=0.1", "p99=none"], ["machine"])
    assert (terms.quality, terms.slower, terms.allow) == (
        0.02,
        {"p50": 0.1, "p95": 0.05, "throughput": 0.02},
        ("machine",),
    )
    assert terms.asked == {"nDCG@10", "p50"}
    assert (options(["nDCG@10=none"]).quality, options(QUALITY_ONLY).slower) == (None, {})
    for margins, allow, message in (
        (["p42=0.1"], [], "a name from nDCG@10, p50, p95, p99, throughput"),
        (["p50=much"], [], "from 0 to below 1, such as p50=0.05"),
        (["latency=0.1"], [], "expected latency=none, or a margin of p50, p95, p99, throughput"),
        (["nDCG@10=0"], [], "above 0 and below 1"),
        (["nDCG@10=none", "latency=none"], [], "every metric is left out"),
        ([], ["gpu"], "expected one of template, machine"),
    ):
        with pytest.raises(BadOptions, match=message):
            options(margins, allow)


def test_the_table_fits_a_ci_log_and_gives_every_reason_once(scored: Path, tmp_path: Path) -> None:
    for name, times in (("good", STEADY), ("wild", SLOW)):
        for scenario in ("single-stream", "server", "offline"):
            record(scored / name, times[0], scenario)
    result = check(str(scored / "good"), [str(scored / "wild")], CheckOptions(store=tmp_path))
    lines = printed(result.report()).splitlines()
    assert max(map(len, lines)) <= 110
    assert next(line for line in lines if line.startswith(" words ")).split()[-1] == "regression"
    assert lines[-1] == "REGRESSION: quality regression (words); latency inconclusive"
    assert sum("1 and 1 launches" in note.text for note in result.report().sections[0].notes) == 1
    paths = page.write(result, tmp_path / "out")
    assert [path.name for path in paths] == ["index.html", "check.md", "table.tex", "check.json"]
    assert paths[1].read_text(encoding="utf-8").count("\n| ") == 1 + len(rows(result))


def test_a_printed_change_lies_on_its_own_side_of_the_margin() -> None:
    for change, margin, unit, shown in (
        (Change(-0.001, -0.00498, 0.001, 0.975), -0.005, "nDCG", ["-0.00100", "[-0.00498, +0.00100]", "-0.00500"]),
        (Change(0.02, 0.01, 0.02996, 0.95), 0.03, "s", ["+2.000%", "[+1.000%, +2.996%]", "+3.000%"]),
        (Change(0.02, 0.01, 0.0296, 0.95), 0.03, "s", ["+2.00%", "[+1.00%, +2.96%]", "+3.00%"]),
    ):
        row = CheckRow("words", "m", unit, 1.0, 1.0, change, margin, outcome=Outcome.PASS)  # type: ignore[arg-type]
        cells = [cell.value for cell in page._cells(row)]
        assert cells[4:7] == shown


def test_the_document_is_plain_json_with_a_version_and_the_exit_code(tmp_path: Path) -> None:
    sides = [record_launches(tmp_path / name, times) for name, times in (("a", STEADY), ("b", SLOW))]
    document = json.loads(json.dumps(gate(*sides).document(), allow_nan=False))
    assert (document["format"], document["outcome"], document["exit"]) == (1, "regression", 1)
    first = document["latency"]["rows"][0]
    assert first["change"]["value"] == pytest.approx(0.1) and first["metric"] == "p50"
    assert document["baseline"]["launches"] == 5


def test_a_real_recording_describes_its_work(
    scored_once: Path, crispbench: Callable[..., object], tmp_path: Path
) -> None:
    """The fields that decide about comparability are recorded under their names on every machine."""
    crispbench("latency", scored_once / "config.yaml", "--engine", "good", "--out", tmp_path)
    (launch,) = read([tmp_path / "good"]).launches["single-stream"]
    assert None not in launch.work.values()
    assert (launch.work["benchmark"], launch.work["queries"]) == ("words", 40)


# Standard deviations: every launch has a constant offset of 1.5% and starts at a random point of the machine's drift of
# 1%. The percentiles of one launch vary by some parts in a thousand (100 requests with 3% noise).
OFFSET, DRIFT, OWN = 0.015, 0.01, 0.004
TRIALS = 120


def share(slower: float, launches: int, margin: float, outcome: str) -> float:
    """Share of simulated checks with this outcome: three metrics, whose launches share offset and drift."""
    rng, count = np.random.default_rng(20261125), 0
    for _ in range(TRIALS):
        common = rng.normal(0, math.hypot(OFFSET, DRIFT), (2, launches))
        trials = []
        for metric in ("p50", "p95", "throughput"):
            a, b = common + rng.normal(0, OWN, common.shape)
            trials.append(trial("single-stream", metric, Logs(a, b + math.log1p(slower)), margin))  # type: ignore[arg-type]
        outcomes = {row.outcome for row in adjusted(trials)}
        count += outcome in outcomes if outcome == "regression" else outcomes == {outcome}
    return count / TRIALS


def test_equal_engines_are_red_in_at_most_five_percent_even_without_a_margin() -> None:
    assert 0 < share(0.0, 5, 1e-9, "regression") <= 0.05  # no alarm at all would mean a blind gate


def test_a_slowdown_equal_to_the_margin_is_red_and_passes_in_at_most_five_percent_each() -> None:
    assert share(0.03, 5, 0.03, "regression") <= 0.05
    assert share(0.03, 5, 0.03, "pass") <= 0.05


def test_five_launches_detect_a_slowdown_of_ten_percent_and_ten_launches_one_of_seven() -> None:
    assert share(0.10, 5, 0.03, "regression") >= 0.95
    assert share(0.07, 10, 0.03, "regression") >= 0.95
