"""The parent's side of a launch: it starts a process, gives it turns, and notices when it dies."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from engines.base import Description, EngineError
from harness import children
from harness.ab.journal import Journal
from harness.ab.pinning import pinned
from harness.ab.records import Arm, LaunchPair, LaunchPlan, LoadedLaunch, Round, Turn, TurnConditions
from harness.ab.schedule import order, requests, steps, warmup_numbers
from harness.ab.sides import AbSide
from harness.ab.warmup import MOST_TURNS, is_steady

PATIENCE_S = 10.0  # time for a process to free its memory and end


class LaunchFailed(EngineError):
    """A process could not load its engine, could not score, or died; the run is invalid."""


class EngineProcess:
    """A launch of one engine. Use `EngineProcess.start`, which ends it."""

    def __init__(self, side: AbSide, launch_pair: int, child: subprocess.Popen[str], log: Path) -> None:
        self._side, self._launch_pair, self._child, self._log = side, launch_pair, child, log

    @classmethod
    @contextmanager
    def start(cls, side: AbSide, launch_pair: int, log: Path, cores: Sequence[int] = ()) -> Iterator["EngineProcess"]:
        """Start the process on these cores, or on all if none are given.

        Its output goes to `log`, and Ctrl-C reaches it as the end of its input.
        """
        with log.open("w", encoding="utf-8") as stderr, pinned(cores):
            child = subprocess.Popen(
                [sys.executable, "-m", "harness.ab.launch"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                encoding="utf-8",
                env=children.environment(),
                start_new_session=True,
            )
        try:
            yield cls(side, launch_pair, child, log)
        finally:
            _end(child)

    def request(self, command: Mapping[str, Any]) -> dict[str, Any]:
        """The reply to one command. Raises LaunchFailed."""
        assert self._child.stdin is not None and self._child.stdout is not None
        try:
            self._child.stdin.write(json.dumps(command) + "\n")
            self._child.stdin.flush()
        except BrokenPipeError:
            pass  # the last reply of the process may give the reason
        line = self._child.stdout.readline()
        reply: dict[str, Any] = json.loads(line) if line.endswith("\n") else {"error": self._death()}
        if "error" in reply:
            side = self._side
            raise LaunchFailed(
                f"engine {side.name!r} ({side.arm}), launch pair {self._launch_pair}: {reply['error']}; "
                f"the run is incomplete, and its log is {self._log}"
            )
        return reply

    def _death(self) -> str:
        code = self._child.wait()
        lines = self._log.read_text(encoding="utf-8", errors="replace").split("\n")
        last = next((line.strip() for line in reversed(lines) if line.strip()), "")
        ending = f"was killed by signal {-code}" if code < 0 else f"ended with code {code}"
        return f"its process {ending}; it {f'last printed {last[:200]!r}' if last else 'printed nothing'}"


def run_launch_pair(
    sides: Sequence[AbSide],
    plan: LaunchPlan,
    journal: Journal,
    *,
    number: int,
    logs: Path,
    goes_on: Callable[[float], bool] = lambda share: True,
) -> LaunchPair | None:
    """Start both processes, let them warm up and take turns, and end them. `number` is that of the launch pair.

    `goes_on` is asked before the first turn and after each with the share of the requests that were scored; None is
    returned if it says no. Each turn is in the journal before the next begins. Raises LaunchFailed.
    """
    by_arm = {side.arm: side for side in sides}
    rounds: dict[Arm, list[Round]] = {"A": [], "B": []}
    with ExitStack() as stack:
        takers: dict[Arm, TurnTaker] = {}
        for arm in order(number):
            log = logs / f"{number}-{arm}.log"
            process = stack.enter_context(EngineProcess.start(by_arm[arm], number, log, plan.cores))
            loaded = process.request(vars(by_arm[arm].setup))
            loaded["description"] = Description.read(loaded["description"])
            journal.launch(LoadedLaunch(number, arm, **loaded))
            takers[arm] = TurnTaker(process, by_arm[arm], number, journal)
        queries, scored = len(sides[0].setup.query_ids), 0
        if not goes_on(0.0):
            return None
        for arm in order(number):
            for turn in takers[arm].warm_up(warmup_numbers(plan, queries)):
                scored += len(turn.service_s)
                if not goes_on(scored / (scored + requests(plan))):
                    return None
        warm, scored = scored, 0
        for step in steps(plan, number, queries):
            turn = takers[step.arm].take(step.round, step.numbers, warmup=1)
            rounds[step.arm].append(turn.measured)
            scored += len(turn.service_s)
            if not goes_on((warm + scored) / (warm + requests(plan))):
                return None
    return LaunchPair(rounds["A"], rounds["B"])


class TurnTaker(NamedTuple):
    """Gives turns to one process and writes them to the journal."""

    process: EngineProcess
    side: AbSide
    launch_pair: int
    journal: Journal

    def take(self, round_: int, numbers: Sequence[int], *, warmup: int) -> Turn:
        """One turn over the queries at these positions, of which the first `warmup` do not count."""
        setup = self.side.setup
        reply = self.process.request({"numbers": numbers})
        turn = Turn(
            launch_pair=self.launch_pair,
            arm=self.side.arm,
            round=round_,
            query_ids=[setup.query_ids[index] for index in numbers],
            pairs=[len(setup.questions[index][1]) for index in numbers],
            service_s=reply["service_s"],
            warmup=warmup,
            conditions=TurnConditions(**reply["conditions"]),
        )
        self.journal.turn(turn)
        return turn

    def warm_up(self, numbers: Sequence[int]) -> Iterator[Turn]:
        """The warm-up turn, again and again until its times are steady."""
        turns: list[Sequence[float]] = []
        while numbers and len(turns) < MOST_TURNS and not is_steady(turns):
            turn = self.take(0, numbers, warmup=len(numbers))
            turns.append(turn.service_s)
            yield turn


def _end(child: subprocess.Popen[str]) -> None:
    """Close the input of the process and wait; kill the process if it does not end by itself."""
    assert child.stdin is not None and child.stdout is not None
    try:
        child.stdin.close()
    except BrokenPipeError:
        pass
    try:
        child.wait(PATIENCE_S)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()
    child.stdout.close()
