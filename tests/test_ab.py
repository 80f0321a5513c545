"""A/B runs with real processes: turns, records, the canary, engines that fail or die, killed runs."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest

from engines.base import BadOptions, Description
from harness.ab import canary, journal, page, result, verb
from harness.ab.journal import Journal
from harness.ab.launches import LaunchFailed
from harness.ab.margins import MARGINS, read_margins
from harness.ab.records import ARMS, METRICS, LaunchPair, LaunchPlan, LoadedLaunch, Metric, Round
from harness.ab.result import MetricResult
from harness.ab.verb import AbOptions, AbResult
from harness.ab.verdict import judge, slowdowns
from harness.config import ConfigError
from harness.store import StoreError
from tests.conftest import ROOT, printed, write_beir

WORDS = ("cat", "dog", "bird", "fish", "worm")
SMALL = LaunchPlan(max_pairs=2, rounds=2, queries=5, warmup=3)
WIDE: dict[Metric, float] = {"p50": 0.5, "throughput": 0.5}

# A plugin package that is installed for the launched processes.
ODD_ENGINES = '''
"""Engines for one test file; they exist in every process that has this folder on its path."""
import os, signal
from engines.base import Description, EngineUnavailable
from engines.fake import Fake

class Chatty(Fake):
    def __init__(self, options):
        print("loading, please wait")
        super().__init__(options)

class Deadly(Fake):
    calls = 0
    def score(self, pairs):
        Deadly.calls += 1
        if Deadly.calls > 12:
            os.write(2, b"out of memory in block 7\\n")
            os.kill(os.getpid(), signal.SIGKILL)
        return super().score(pairs)

class Absent(Fake):
    def __init__(self, options):
        raise EngineUnavailable("no GPU here: pip install 'odd[gpu]'")

class Restless(Fake):
    def describe(self):
        return Description(model="restless", revision=str(os.getpid()))
'''


@pytest.fixture
def odd_engines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "installed"
    (folder / "odd-1.0.dist-info").mkdir(parents=True)
    (folder / "odd_engines.py").write_text(ODD_ENGINES)
    (folder / "odd-1.0.dist-info/METADATA").write_text("Metadata-Version: 2.1\nName: odd\nVersion: 1.0\n")
    names = ("Chatty", "Deadly", "Absent", "Restless")
    points = "".join(f"{name.lower()} = odd_engines:{name}\n" for name in names)
    (folder / "odd-1.0.dist-info/entry_points.txt").write_text(f"[crispbench.engines]\n{points}")
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(folder), str(ROOT)]))


def config_in(folder: Path) -> Path:
    beir = write_beir(
        folder / "animals",
        {f"d-{word}": f"a {word} is an animal" for word in WORDS},
        {f"q-{word}": f"animal {word}" for word in WORDS},
        {f"q-{word}": {f"d-{word}": 1} for word in WORDS},
    )
    kinds = ("chatty", "deadly", "absent", "restless", "bm25")
    config = {
        "name": "small",
        "engines": {
            "quick": {"kind": "fake"},
            "slow": {"kind": "fake", "delay_s": 0.005},
            "failing": {"kind": "fake", "fail_on": "worm"},
            "nan": {"kind": "fake", "nan_on": "worm"},
            **{kind: {"kind": kind} for kind in kinds},
        },
        "benchmarks": [{"source": "beir", "path": str(beir)}, {"source": "beir", "path": "/no/such/folder"}],
        "candidates": {"k": 3},
    }
    path = folder / "small.yaml"
    path.write_text(json.dumps(config))  # JSON is YAML
    return path


def trimmed(path: Path) -> Path:
    """Removes the kinds that exist only where the fixture `odd_engines` is active."""
    config = json.loads(path.read_text())
    config["engines"] = {name: entry for name, entry in config["engines"].items() if entry["kind"] in ("fake", "bm25")}
    path.write_text(json.dumps(config))
    return path


@pytest.fixture
def odd_config(tmp_path: Path, odd_engines: None) -> Path:
    return config_in(tmp_path)


def ab(config: Path, *names: str, plan: LaunchPlan = SMALL, **terms: Any) -> AbResult:
    return verb.ab(config, names, AbOptions(plan=plan, **terms), out=config.parent / "out", say=lambda _: None)


def lines(folder: Path, event: str) -> list[dict[str, Any]]:
    written = [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]
    return [line for line in written if line["event"] == event]


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> AbResult:
    return ab(trimmed(config_in(tmp_path_factory.mktemp("ab"))), "quick", "bm25", margins=WIDE)


def test_every_launch_runs_in_a_separate_process(ran: AbResult) -> None:
    launches = lines(ran.folder, "launch")
    assert [launch["arm"] for launch in launches] == ["A", "B", "B", "A"]
    assert len({launch["pid"] for launch in launches}) == 4


def test_rounds_alternate_in_the_order_abba_and_then_baab(ran: AbResult) -> None:
    turns = [(turn["launch_pair"], turn["arm"], turn["round"]) for turn in lines(ran.folder, "turn") if turn["round"]]
    assert turns == [
        *[(1, "A", 1), (1, "B", 1), (1, "B", 2), (1, "A", 2)],
        *[(2, "B", 1), (2, "A", 1), (2, "A", 2), (2, "B", 2)],
    ]


def test_each_engine_warms_up_in_two_to_six_equal_turns_before_its_first_round(ran: AbResult) -> None:
    turns = lines(ran.folder, "turn")
    for _, launch in groupby(turns, lambda turn: turn["launch_pair"]):
        arms = [turn["arm"] for turn in launch if not turn["round"]]
        assert arms in ([arms[0]] * first + [arms[-1]] * second for first in range(2, 7) for second in range(2, 7))
    samples = [line for line in lines(ran.folder, "sample") if not line["round"]]
    for _, launch in groupby(samples, lambda line: (line["launch_pair"], line["arm"])):
        scored = [line["query_id"] for line in launch]
        assert scored == scored[:3] * (len(scored) // 3)


def test_both_engines_score_the_same_queries_in_the_same_order(ran: AbResult) -> None:
    samples = sorted(lines(ran.folder, "sample"), key=lambda line: (line["launch_pair"], line["arm"]))
    scored = [
        [(line["query_id"], line["pairs"], line["round"]) for line in launch if line["round"]]
        for _, launch in groupby(samples, lambda line: (line["launch_pair"], line["arm"]))
    ]
    assert len(scored) == 4
    assert all(launch == scored[0] for launch in scored)
    assert {pairs for _, pairs, _ in scored[0]} == {3}


def test_warmup_is_recorded_and_does_not_count(ran: AbResult) -> None:
    warmup = [line["round"] for line in lines(ran.folder, "sample") if line["warmup"] and line["round"]]
    assert sorted(warmup) == [1] * 4 + [2] * 4  # each of 4 launches: one at the start of each of two rounds
    assert all(line["warmup"] for line in lines(ran.folder, "sample") if not line["round"])
    samples = journal.read(ran.folder)
    for arm in ARMS:
        launches = samples.complete_launches(arm)
        assert [[len(block.service_s) for block in launch] for launch in launches] == [[5, 5], [5, 5]]


def test_the_verdict_follows_from_the_recorded_samples(ran: AbResult) -> None:
    samples = journal.read(ran.folder)
    pairs = zip(samples.complete_launches("A"), samples.complete_launches("B"), strict=True)
    findings = judge([slowdowns(LaunchPair(*both), WIDE) for both in pairs], WIDE, most=2)
    assert {name: MetricResult.of(finding) for name, finding in findings.items()} == ran.metrics


def test_the_result_records_engines_machine_and_candidates_and_is_complete(ran: AbResult) -> None:
    document = json.loads((ran.folder / "ab.json").read_text())
    assert document == json.loads(json.dumps(ran.document()))
    assert result.read(ran.folder).document() == document
    assert document["complete"] is True
    plan = {"max_pairs": 2, "minutes": 30.0, "rounds": 2, "queries": 5, "warmup": 3, "cores": []}
    assert document["plan"] == plan
    assert (document["format"], document["stop"], document["launch_pairs"], document["most"]) == (2, "max_pairs", 2, 2)
    assert document["arms"]["B"] == {"engine": "bm25", "kind": "bm25", "options": {}}
    for arm in ("A", "B"):
        assert document["records"][arm]["machine"]["cpu"]
        assert document["records"][arm]["versions"]["python"]
    assert len(document["benchmark"]["candidates"]["sha256"]) == 64
    assert len(lines(ran.folder, "end")) == 1


def test_the_report_is_written_beside_the_samples(ran: AbResult) -> None:
    assert {path.name for path in ran.folder.iterdir()} >= {*page.FILES, "samples.jsonl", "ab.json"}
    text = (ran.folder / "ab.md").read_text()
    assert "**INCONCLUSIVE" in text and "ratios.png" in text and "| p50 |" in text
    assert (ran.folder / "ratios.svg").read_text().lstrip().startswith("<?xml")


def test_the_page_of_a_recorded_run_is_reproduced_byte_for_byte(ran: AbResult) -> None:
    page.write(replace(result.read(ran.folder), folder=ran.folder / "logs"))
    for name in ("index.html", "ab.md", "table.tex", "ratios.svg"):
        assert (ran.folder / "logs" / name).read_bytes() == (ran.folder / name).read_bytes()


def test_two_launch_pairs_decide_nothing_and_the_report_names_the_number_needed(ran: AbResult) -> None:
    assert ran.outcome == "inconclusive"
    text = printed(ran.report())
    assert "2 launch pairs cannot show a regression on one of 2 metrics: at least 6 are needed" in text
    assert max(map(len, text.splitlines())) <= 110
    assert "to know more of p50, throughput: about " in text
    assert text.splitlines()[-1] == "INCONCLUSIVE: no decision on p50, throughput after 2 launch pairs"


def test_an_earlier_run_is_kept_without_fresh(ran: AbResult) -> None:
    before = (ran.folder / "samples.jsonl").read_bytes()
    config = ran.folder.parent / "small.yaml"
    with pytest.raises(ConfigError, match="holds an earlier run: --fresh"):
        ab(config, "quick", "bm25")
    assert (ran.folder / "samples.jsonl").read_bytes() == before


def test_output_printed_by_an_engine_goes_to_its_log(odd_config: Path) -> None:
    ran = ab(odd_config, "quick", "chatty", plan=LaunchPlan(1, None, 1, 5, 1))
    assert ran.document()["complete"]
    assert "loading, please wait" in (ran.folder / "logs/1-B.log").read_text()


@pytest.mark.parametrize(
    ("engine", "message"),
    [
        ("absent", "engine 'absent' (B), launch pair 1: no GPU here: pip install 'odd[gpu]'"),
        ("deadly", "its process was killed by signal 9; it last printed 'out of memory in block 7'"),
        ("failing", "query 'animal worm' holds 'worm', which this engine fails on"),
        ("nan", "score nan for document 'a worm is an animal': expected a finite number"),
        ("restless", "engine B: description 'revision' was"),
    ],
)
def test_a_failing_engine_ends_the_run_with_one_line_and_leaves_it_incomplete(
    odd_config: Path, engine: str, message: str
) -> None:
    with pytest.raises(LaunchFailed) as caught:
        ab(odd_config, "quick", engine, plan=LaunchPlan(max_pairs=2, rounds=3, queries=5, warmup=1))
    assert message in str(caught.value) and "\n" not in str(caught.value)
    folder = odd_config.parent / "out"
    document = json.loads((folder / "ab.json").read_text())
    assert (document["complete"], document["error"]) == (False, str(caught.value))
    assert lines(folder, "end") == [] and lines(folder, "launch") != []
    assert not (folder / "ab.md").exists()


def test_measurements_before_the_death_of_an_engine_are_kept(odd_config: Path) -> None:
    with pytest.raises(LaunchFailed):
        ab(odd_config, "quick", "deadly", plan=LaunchPlan(max_pairs=1, rounds=3, queries=5, warmup=0))
    kept = [(turn["arm"], turn["round"]) for turn in lines(odd_config.parent / "out", "turn")]
    # B scores 6 queries in its first round and 6 in its second; the 13th is in its third.
    assert kept == [("A", 1), ("B", 1), ("B", 2), ("A", 2), ("A", 3)]
    assert gone(*(launch["pid"] for launch in lines(odd_config.parent / "out", "launch")))


def gone(*pids: int) -> bool:
    """Whether the processes have ended, reaped or not, within ten seconds."""
    for _ in range(200):
        if not any(alive(pid) for pid in pids):
            return True
        time.sleep(0.05)
    return False


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    stat = Path(f"/proc/{pid}/stat")
    try:
        return stat.read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:  # it has just ended, or this system has no /proc
        return not Path("/proc").exists()


COMMAND = """
import sys
from pathlib import Path
from harness.ab.verb import AbOptions, ab
from harness.ab.records import LaunchPlan
config = Path(sys.argv[1])
ab(config, ("quick", "slow"), AbOptions(plan=LaunchPlan(50, None, 50, 5, 1)), out=config.parent / "out", say=print)
"""


def test_a_killed_run_keeps_its_samples_is_incomplete_and_leaves_no_process(tmp_path: Path) -> None:
    config = trimmed(config_in(tmp_path))
    parent = subprocess.Popen([sys.executable, "-c", COMMAND, str(config)], cwd=ROOT, stderr=subprocess.DEVNULL)
    samples = tmp_path / "out/samples.jsonl"
    try:
        while parent.poll() is None and (not samples.exists() or samples.read_text().count('"turn"') < 4):
            time.sleep(0.05)
    finally:
        parent.send_signal(signal.SIGKILL)
        assert parent.wait() == -signal.SIGKILL
    whole = [json.loads(line) for line in samples.read_text().split("\n")[:-1]]
    assert sum(line["event"] == "turn" for line in whole) >= 4
    assert json.loads((tmp_path / "out/ab.json").read_text())["complete"] is False
    assert gone(*(line["pid"] for line in whole if line["event"] == "launch"))
    kept = journal.read(tmp_path / "out")
    assert (kept.complete, kept.complete_launches("A")) == (False, [])  # every launch was cut short
    with pytest.raises(StoreError, match="the run is incomplete"):
        result.read(tmp_path / "out")


Slower = Callable[[float], list[int]]


@pytest.fixture
def slower(monkeypatch: pytest.MonkeyPatch) -> Slower:
    """Replaces processes by computed times; B is slower by a share. Returns the launch pairs in their order."""

    def give(share: float) -> list[int]:
        seen: list[int] = []

        def launch_pair(sides: object, plan: object, journal: Journal, *, number: int, **_: object) -> LaunchPair:
            seen.append(number)
            for arm in ARMS:
                journal.launch(LoadedLaunch(number, arm, 1, 0.1, Description(), versions={}, machine={}))
            b = 0.05 * (1 + share) * (1 + 0.001 * number)
            return LaunchPair([Round([0.05] * 5, [3] * 5)] * 20, [Round([b] * 5, [3] * 5)] * 20)

        monkeypatch.setattr(verb, "run_launch_pair", launch_pair)
        return seen

    return give


@pytest.mark.parametrize(
    ("share", "launch_pairs", "sentence"),
    [
        (0.2, 10, "REGRESSION: B is slower than the margin allows (p50, p95, throughput), after 10 launch pairs"),
        (0.0, 8, "PASS: B is not slower than the margins allow (p50, p95, throughput), after 8 launch pairs"),
    ],
)
def test_a_run_ends_at_the_look_that_decides(
    tmp_path: Path, slower: Slower, share: float, launch_pairs: int, sentence: str
) -> None:
    seen = slower(share)
    ran = ab(trimmed(config_in(tmp_path)), "quick", "slow", plan=LaunchPlan())
    assert seen == list(range(1, launch_pairs + 1))
    assert (ran.stop, ran.launch_pairs, ran.document()["outcome"]) == ("decided", launch_pairs, ran.outcome)
    assert printed(ran.report()).splitlines()[-1] == sentence


def test_a_run_that_measures_no_metric_is_inconclusive_and_has_a_page(tmp_path: Path, slower: Slower) -> None:
    slower(0.0)
    ran = ab(trimmed(config_in(tmp_path)), "quick", "slow", margins={"p99": 0.1})
    assert printed(ran.report()).splitlines()[-1] == "INCONCLUSIVE: no metric was measured"
    assert ran.page.is_file()


def test_the_noise_floor_of_a_canary_is_used_by_the_next_run(tmp_path: Path, slower: Slower) -> None:
    slower(0.005)
    config = trimmed(config_in(tmp_path))
    ran = ab(config, "quick", plan=LaunchPlan(max_pairs=6), canary=True)
    assert ran.folder == tmp_path / "out/canary"
    assert [ran.setup.arms[arm].engine for arm in ARMS] == ["quick", "quick"]
    # Slowdowns are 1.005 times 1.001 to 1.006. One look at 6 launch pairs leaves P(W <= 0) = 1/64 below the lower end,
    # as three tests share 5%, and P(W <= 2) = 3/64 above the upper end: the smallest, and the average of 4 and 6.
    assert "\nA against A: p50 ratio 1.009 [1.006, 1.010], p95" in printed(ran.report())
    after = ab(config, "quick", "slow", plan=LaunchPlan(max_pairs=6))
    assert after.document()["noise_floor"]["metrics"]["p50"] == pytest.approx(1.005 * 1.005 - 1, abs=1e-5)
    assert "noise floor, A against A: p50 1.0%, p95 1.0%, throughput 1.0%" in after.notes


@pytest.mark.parametrize("share", [0.06, -0.06])
def test_a_noise_floor_above_a_margin_is_noted_in_either_direction(
    tmp_path: Path, slower: Slower, share: float
) -> None:
    slower(share)
    config = trimmed(config_in(tmp_path))
    ab(config, "quick", plan=LaunchPlan(max_pairs=6), canary=True)
    notes = ab(config, "quick", "slow", plan=LaunchPlan(max_pairs=6)).notes
    assert any(note.startswith("the noise floor exceeds the margin of p50, p95, throughput") for note in notes)


def test_a_noise_floor_of_another_engine_is_not_used(tmp_path: Path, slower: Slower) -> None:
    slower(0.0)
    config = trimmed(config_in(tmp_path))
    ab(config, "bm25", canary=True)
    ran = ab(config, "quick", "slow")
    assert any("is not used: engine 'bm25', its options or machine differ" in note for note in ran.notes)


@pytest.mark.parametrize(
    ("names", "canary", "message"),
    [
        (("quick", "missing"), False, "engine 'missing' is not in the config; expected one of quick, slow"),
        (("quick",), False, "engines quick: expected two different ones"),
        (("quick", "quick"), False, "expected two different ones"),
        ((), True, "engines none: expected two different ones"),
    ],
)
def test_engines_that_cannot_be_compared_are_refused_before_a_launch(
    tmp_path: Path, names: tuple[str, ...], canary: bool, message: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        ab(trimmed(config_in(tmp_path)), *names, canary=canary)
    assert message in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_margins_are_read_from_the_command_line() -> None:
    assert read_margins([], MARGINS) == {"p50": 0.03, "p95": 0.05, "p99": 0.10, "throughput": 0.05}
    assert read_margins(["p50=0.01", "p99=none"], MARGINS) == {"p50": 0.01, "p95": 0.05, "throughput": 0.05}


@pytest.mark.parametrize("text", ["p42=0.1", "p50", "p50=fast", "p50=5", "p50=-0.1", "p50=nan"])
def test_a_margin_that_cannot_be_read_is_refused(text: str) -> None:
    with pytest.raises(BadOptions, match="margin '" + text):
        read_margins([text], MARGINS)


def test_margins_that_leave_no_metric_are_refused() -> None:
    with pytest.raises(BadOptions, match="every metric is left out"):
        read_margins([f"{name}=none" for name in METRICS], MARGINS)


RECORDED = ROOT / "tests/recorded/ab"


def test_a_run_of_the_first_format_still_reads() -> None:
    run = result.read(RECORDED)
    document = json.loads((RECORDED / "ab.json").read_text(encoding="utf-8"))
    for name, metric in document["metrics"].items():
        assert run.metrics[name].launch_slowdowns == metric["launch_slowdowns"]
        assert (run.metrics[name].lo, run.metrics[name].outcome) == (metric["lo"], metric["outcome"])
    assert (run.outcome, run.launch_pairs, run.setup.plan.max_pairs) == ("regression", 6, 6)
    text = printed(page.build(run))
    assert "a second set of 6 launch pairs confirmed the first, which is shown" in text
    assert text.splitlines()[-1] == (
        "REGRESSION: B is slower than the margin allows (p50, throughput), after 6 launch pairs"
    )
    floor = canary.read(RECORDED)
    assert floor == run.noise_floor
    assert floor is not None and floor.engine == "quick"


def test_samples_of_the_first_format_still_read() -> None:
    samples = journal.read(RECORDED)
    assert (samples.complete, len(samples.launches), len(samples.turns)) == (True, 24, 48)
    assert samples.launches[0].description.model == "word overlap"
    for arm in ARMS:
        launches = samples.complete_launches(arm)  # both of its sets of six
        assert [[len(block.service_s) for block in launch] for launch in launches] == [[5]] * 12
