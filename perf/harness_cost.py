"""What the harness costs around an engine, against its targets; exit 1 if a target is missed.

Only the demo's measurement has a real engine, the others have the fake one.

python -m perf.harness_cost                        # everything, about 15 minutes on two idle cores
python -m perf.harness_cost help speed --queries 1000
python -m perf.harness_cost curves --plots docs    # writes docs/harness-cost-*.svg
"""

import argparse
import json
import os
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from perf.synthetic import Size, beir_15, write

COMMAND = (sys.executable, "-m", "harness")
POLL_S = 0.05
KILLED_AT = 0.9  # share of the queries that are committed when the run is killed
CURVES = {"queries": (500, 1000, 2000, 4000), "k": (10, 30, 100, 300), "words": (10, 30, 100, 300, 1000)}


class Figure(NamedTuple):
    name: str
    value: float
    unit: str
    target: float | None = None
    at_least: bool = False

    @property
    def missed(self) -> bool:
        if self.target is None:
            return False
        return self.value < self.target if self.at_least else self.value > self.target

    @property
    def line(self) -> str:
        bound = "" if self.target is None else f"{'at least' if self.at_least else 'at most'} {self.target:,g}"
        return f"{self.name:<52} {self.value:>12,.4g} {self.unit:<8} {bound:<18} {'MISSED' if self.missed else ''}"


class Ended(NamedTuple):
    """A process that has ended, as the system reports it."""

    wall_s: float
    cpu_s: float  # user and system time
    peak_bytes: int


class Cost(NamedTuple):
    """Seconds of processor time for one benchmark with the fake engine."""

    pairs: int
    engine_s: float
    loop_s: float  # loop and store, without the engine
    measures_s: float  # from raw scores to a report's row, with its intervals


def measure_help(folder: Path, queries: int) -> Iterator[Figure]:
    times = [_run([*COMMAND, "--help"], folder / "help.txt").wall_s for _ in range(5)]
    yield Figure("crispbench --help, best of 5", min(times), "s", 0.5)


def measure_speed(folder: Path, queries: int) -> Iterator[Figure]:
    cost = _cost(write(folder / "speed", {"speed": queries}), folder / "speed-results")
    spent = sum(cost[1:])
    yield Figure(f"loop, store and measures, {cost.pairs:,} pairs", cost.pairs / spent, "pairs/s", 50_000, True)
    for name, seconds in zip(("fake engine", "loop and store", "measures"), cost[1:], strict=True):
        yield Figure(f"  {name}, processor time a pair", 1e6 * seconds / cost.pairs, "us")


def measure_demo(folder: Path, queries: int) -> Iterator[Figure]:
    """The demo's classifier. The loop is from a benchmark's first query to its last; the rest is set-up and report."""
    times = json.loads(_child("_demo", folder))
    yield Figure("demo-fp32: outside engine.score, of the loop", 100 * (1 - times["score_s"] / times["loop_s"]), "%", 3)
    yield Figure("demo-fp32: loop", times["loop_s"], "s")
    yield Figure("demo-fp32: whole command", times["whole_s"], "s")
    yield Figure("demo-fp32: set-up and report, of the command", 100 * (1 - times["loop_s"] / times["whole_s"]), "%")


def measure_full(folder: Path, queries: int) -> Iterator[Figure]:
    """Benchmarks as large as BEIR's 15 sets: run, killed at 90% of the queries, resumed to the end, reported."""
    sizes = beir_15()
    out = folder / "full-results"
    command = [*COMMAND, "run", str(write(folder / "full", sizes)), "--out", str(out)]
    total = sum(sizes.values())
    killed, at, _ = _watch(command, out, until=round(KILLED_AT * total))
    resumed, _, first_s = _watch(command, out, until=None, committed=at)
    yield Figure(f"BEIR-15, {total:,} queries: run and resumed run", killed.wall_s + resumed.wall_s, "s", 600)
    yield Figure("BEIR-15: processor time of both", killed.cpu_s + resumed.cpu_s, "s")
    yield Figure("BEIR-15: peak memory", max(killed.peak_bytes, resumed.peak_bytes) / 1e9, "GB", 4)
    yield Figure(f"BEIR-15: killed after {at:,} queries, until scoring goes on", first_s, "s", 10)
    report = _run([*COMMAND, "report", str(out)], folder / "report.txt")
    yield Figure("BEIR-15: report", report.wall_s, "s", 60)
    yield Figure("BEIR-15: report, processor time", report.cpu_s, "s")
    yield Figure("BEIR-15: report, peak memory", report.peak_bytes / 1e9, "GB", 4)
    yield Figure("BEIR-15: index.html", (out / "report/index.html").stat().st_size / 1e6, "MB")
    yield Figure("BEIR-15: store", (out / "fake/scores.sqlite").stat().st_size / 1e6, "MB")


def measure_curves(folder: Path, queries: int) -> Iterator[Figure]:
    """One of queries, k and words per document varies; the others stay at 1,000, 100 and 60."""
    for axis, values in CURVES.items():
        costs = {value: _point(folder / f"{axis}-{value}", axis, value) for value in values}
        for value, cost in costs.items():
            yield Figure(f"{axis} = {value:,}: engine", cost.engine_s, "s")
            yield Figure(f"{axis} = {value:,}: loop and store", cost.loop_s, "s")
            yield Figure(f"{axis} = {value:,}: measures", cost.measures_s, "s")
        (folder / f"harness-cost-{axis}.svg").write_bytes(_plot(axis, costs))


def _point(folder: Path, axis: str, value: int) -> Cost:
    size = Size(**{axis: value}) if axis != "queries" else Size()
    return _cost(write(folder, {"one": value if axis == "queries" else 1000}, size), folder / "results")


def _cost(config_path: Path, out: Path) -> Cost:
    """Cost of one benchmark in the real loop, store and measures. Candidates are read before the clock starts."""
    from engines.fake import Fake
    from harness.config import read_config
    from harness.run import rows
    from harness.run.loop import score_engine
    from harness.run.tasks import Selection, prepare

    config = read_config(config_path)
    tasks = prepare(config, Selection())
    entries = [task.entry for task in tasks]  # the manifest's entries, with recall and bounds of the candidates
    assert entries
    spent = [0.0]

    def timed(engine: Fake, pairs: Sequence[object], score: Callable[..., list[float]] = Fake.score) -> list[float]:
        started = time.process_time()
        try:
            return score(engine, pairs)
        finally:
            spent[0] += time.process_time() - started

    original, Fake.score = Fake.score, timed  # type: ignore[method-assign,assignment]
    try:
        started = time.process_time()
        score_engine("fake", config.engines["fake"], tasks, out, fresh=True)
        scored_s = time.process_time() - started
    finally:
        Fake.score = original  # type: ignore[method-assign]
    started = time.process_time()
    (row,) = rows.engine_rows(out)
    return Cost(row.pairs, spent[0], scored_s - spent[0], time.process_time() - started)


def _demo(folder: Path) -> None:
    """Runs in a process of its own; the clock starts with it."""
    started = time.perf_counter()
    from harness.run import loop, verb
    from harness.store import Store

    loop_s = [0.0]
    score_task = loop.score_task

    def timed(*arguments: object) -> None:
        began = time.perf_counter()
        score_task(*arguments)  # type: ignore[arg-type]
        loop_s[0] += time.perf_counter() - began

    loop.score_task = timed  # type: ignore[assignment]
    path = Path("configs/demo.yaml")
    outcome = verb.run(path, verb.RunOptions(engines=["demo-fp32"], fresh=True), out=folder / "demo", say=print)
    whole_s = time.perf_counter() - started
    with Store.read(outcome.folder / "demo-fp32") as store:
        score_s = sum(sample.service_s for row in outcome.rows for sample in store.samples(row.benchmark))
    print(json.dumps({"whole_s": whole_s, "loop_s": loop_s[0], "score_s": score_s}))


def _child(name: str, folder: Path) -> str:
    code = f"from perf import harness_cost; from pathlib import Path; harness_cost.{name}(Path({str(folder)!r}))"
    done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, check=True, text=True)
    return done.stdout.splitlines()[-1]


def _run(command: Sequence[str], log: Path) -> Ended:
    started = time.perf_counter()
    with log.open("wb") as file:
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT)
        ended = _ended(process, started)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)}: exit {process.returncode}\n{log.read_text()[-2000:]}")
    return ended


def _ended(process: "subprocess.Popen[bytes]", started: float) -> Ended:
    """Wait for the process to end. Only wait4 reports the peak memory of one child."""
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    unit = 1 if sys.platform == "darwin" else 1024
    return Ended(time.perf_counter() - started, used.ru_utime + used.ru_stime, used.ru_maxrss * unit)


class Watched(NamedTuple):
    ended: Ended
    committed: int  # queries when it was killed or had ended
    first_s: float  # from its start to its first committed query


def _watch(command: Sequence[str], out: Path, *, until: int | None, committed: int = 0) -> Watched:
    """Watch a run: kill it when `until` queries are committed, or let it end."""
    started, first_s = time.perf_counter(), 0.0
    with out.with_suffix(".log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
        while not first_s or until is not None:
            time.sleep(POLL_S)
            now = _committed(out / "fake/scores.sqlite")
            if now > committed and not first_s:
                first_s = time.perf_counter() - started
            if until is not None and now >= until:
                process.send_signal(signal.SIGKILL)
                break
            if os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT):
                break
        ended = _ended(process, started)
    if process.returncode not in (0, -signal.SIGKILL):
        raise SystemExit(f"{' '.join(command)}: exit {process.returncode}; see {log.name}")
    return Watched(ended, _committed(out / "fake/scores.sqlite"), first_s)


def _committed(store: Path) -> int:
    try:
        connection = sqlite3.connect(f"{store.absolute().as_uri()}?mode=ro", uri=True)
        try:
            return int(connection.execute("SELECT count(*) FROM samples").fetchone()[0])
        finally:
            connection.close()
    except sqlite3.OperationalError:  # the store does not exist yet
        return 0


def _plot(axis: str, costs: dict[int, Cost]) -> bytes:
    from matplotlib.figure import Figure as Canvas
    from matplotlib.ticker import FuncFormatter, LogLocator

    from harness.report.plots import PALETTE, Plot, drawing, saved

    labels = {"queries": "queries", "k": "candidates per query", "words": "words per document"}
    with drawing():
        figure = Canvas(figsize=(4.6, 2.9), layout="constrained")
        axes = figure.subplots()
        for index, name in enumerate(("fake engine", "loop and store", "measures")):
            seconds = [cost[1 + index] for cost in costs.values()]
            axes.plot(list(costs), seconds, marker="o", color=PALETTE[index], label=name)
        axes.set(xscale="log", yscale="log", xlabel=labels[axis], ylabel="processor time, s")
        axes.set_xticks(list(costs), [f"{value:,}" for value in costs], minor=False)
        axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 3.0)))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda seconds, _: f"{seconds:g}"))
        axes.minorticks_off()
        axes.legend()
        return saved(Plot(axis, "", ""), figure).svg


MEASURED: dict[str, Callable[[Path, int], Iterator[Figure]]] = {
    "help": measure_help,
    "speed": measure_speed,
    "demo": measure_demo,
    "full": measure_full,
    "curves": measure_curves,
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="*", help=f"any of {', '.join(MEASURED)}; default: all")
    parser.add_argument("--queries", type=int, default=5000, help="queries of the measurement `speed`")
    parser.add_argument("--plots", type=Path, help="folder to copy the plots of the curves to")
    arguments = parser.parse_args()
    unknown = set(arguments.what) - MEASURED.keys()
    if unknown:
        parser.error(f"{', '.join(sorted(unknown))}: expected one of {', '.join(MEASURED)}")
    from harness import machine

    os.environ.setdefault("OMP_NUM_THREADS", "1")
    facts = machine.machine()
    print(f"{facts.cpu}, {facts.cores} cores, load average {os.getloadavg()[0]:.1f} before", flush=True)
    missed = 0
    with tempfile.TemporaryDirectory() as name:
        os.environ["CRISPBENCH_CACHE"] = f"{name}/cache"
        for what in arguments.what or MEASURED:
            for figure in MEASURED[what](Path(name), arguments.queries):
                print(figure.line, flush=True)
                missed += figure.missed
        for plot in Path(name).glob("harness-cost-*.svg") if arguments.plots else ():
            (arguments.plots / plot.name).write_bytes(plot.read_bytes())
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
