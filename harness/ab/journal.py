"""The raw record of an A/B run, samples.jsonl: JSON lines, written as they come, never edited.

The first line is `plan`, followed by `launch`, `turn` and `sample` lines; the last line is `end`. A killed run leaves a
file without its last line, and the content of such a file is kept.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any, TextIO

from engines.base import Description, first_line
from harness import files
from harness.ab.conditions import marks
from harness.ab.records import (
    Arm,
    Launch,
    LaunchPlan,
    LoadedLaunch,
    MarkedLaunch,
    Round,
    Turn,
    TurnConditions,
)
from harness.ab.warmup import unsteady
from harness.store import StoreError

FILE = "samples.jsonl"
FORMAT = 2  # 1: first version, 2026-11, with a second set of launches to confirm a regression; 2: one set, with looks
READ = (1, 2)
MAX_BYTES = 256 * 2**20  # of a journal, some million samples


class Journal:
    """The writing side of samples.jsonl. Use `Journal.open`."""

    def __init__(self, file: TextIO) -> None:
        self._file = file
        self.launches: list[LoadedLaunch] = []
        self._conditions: dict[tuple[int, Arm], list[TurnConditions]] = {}
        self._warmup: dict[tuple[int, Arm], list[Sequence[float]]] = {}

    @classmethod
    @contextmanager
    def open(cls, folder: Path, plan: LaunchPlan) -> Iterator["Journal"]:
        """A new journal in this folder. Its last line, `end`, is written only if no error occurs."""
        with (folder / FILE).open("w", encoding="utf-8") as file:
            journal = cls(file)
            journal._write({"event": "plan", "format": FORMAT, **asdict(plan)})
            yield journal
            journal._write({"event": "end"})

    def launch(self, launch: LoadedLaunch) -> None:
        self.launches.append(launch)
        self._write({"event": "launch", **vars(launch), "description": launch.description.document()})

    def turn(self, turn: Turn) -> None:
        position = (turn.launch_pair, turn.arm)
        if turn.round:
            self._conditions.setdefault(position, []).append(turn.conditions)
        else:
            self._warmup.setdefault(position, []).append(turn.service_s)
        self._write(*_turn_lines(turn))

    def marked(self) -> list[MarkedLaunch]:
        """Launches during which other processes worked or a clock changed, or whose times never became steady."""
        launches = [
            MarkedLaunch(*position, [*marks(turns), *unsteady(self._warmup.get(position, ()))])
            for position, turns in self._conditions.items()
        ]
        return [launch for launch in launches if launch.marks]

    def _write(self, *lines: Mapping[str, Any]) -> None:
        self._file.write("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
        self._file.flush()


@dataclass(frozen=True)
class Samples:
    """The content of samples.jsonl."""

    plan: LaunchPlan
    launches: tuple[LoadedLaunch, ...]
    turns: tuple[Turn, ...]
    complete: bool  # False if the run was killed or failed

    def complete_launches(self, arm: Arm) -> list[Launch]:
        """The complete launches of one engine, as `verdict.judge` takes them."""
        rounds: dict[int, list[Round]] = {}
        for turn in self.turns:
            if turn.arm == arm and turn.round:
                rounds.setdefault(turn.launch_pair, []).append(turn.measured)
        return [
            launch
            for launch in rounds.values()
            if sum(len(block.service_s) for block in launch) == self.plan.queries_of_a_launch
        ]


def read(folder: Path) -> Samples:
    """The samples of a run, complete or not; a line that a kill cut short is left out. Raises StoreError."""
    path = folder / FILE
    try:
        text = files.read_text(path, most_bytes=MAX_BYTES)
        lines = [files.parse_json(line) for line in text.split("\n")[:-1]]
        plan, *events = lines
        if plan.pop("event") != "plan" or plan.pop("format") not in READ:
            raise ValueError(f"its first line is not a plan of format {' or '.join(map(str, READ))}")
        events = [_one_set(event, plan.get("launch_pairs", 0)) for event in events]
        return Samples(
            plan=LaunchPlan.read(plan),
            launches=tuple(_read_launch(line) for line in events if line["event"] == "launch"),
            turns=tuple(_read_turns(events)),
            complete=bool(events) and events[-1]["event"] == "end",
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise StoreError(f"{path} cannot be read ({first_line(error)}); expected what `crispbench ab` wrote") from None


def _turn_lines(turn: Turn) -> Iterator[dict[str, Any]]:
    """One line for the turn, then one for every query."""
    position = {"launch_pair": turn.launch_pair, "arm": turn.arm, "round": turn.round}
    yield {"event": "turn", **position, **turn.conditions._asdict()}
    samples = zip(turn.query_ids, turn.pairs, turn.service_s, strict=True)
    for number, (query_id, pairs, service_s) in enumerate(samples):
        sample = {"query_id": query_id, "pairs": pairs, "service_s": service_s, "warmup": number < turn.warmup}
        yield {"event": "sample", **position, **sample}


def _one_set(event: dict[str, Any], launch_pairs: int) -> dict[str, Any]:
    """A line of any format. In format 1 a second set of launches counted its launch pairs from 1 again."""
    set_ = event.pop("set", 1)
    if set_ > 1:
        event["launch_pair"] += (set_ - 1) * launch_pairs
    return event


def _read_launch(line: Mapping[str, Any]) -> LoadedLaunch:
    fields = {name: value for name, value in line.items() if name not in ("event", "description")}
    return LoadedLaunch(**fields, description=Description.read(line["description"]))


def _read_turns(events: list[dict[str, Any]]) -> Iterator[Turn]:
    """A `turn` line with the `sample` lines that follow it."""
    for index, line in enumerate(events):
        if line["event"] != "turn":
            continue
        samples = []
        for follower in islice(events, index + 1, None):
            if follower["event"] != "sample":
                break
            samples.append(follower)
        yield Turn(
            launch_pair=line["launch_pair"],
            arm=line["arm"],
            round=line["round"],
            query_ids=[sample["query_id"] for sample in samples],
            pairs=[sample["pairs"] for sample in samples],
            service_s=[sample["service_s"] for sample in samples],
            warmup=sum(sample["warmup"] for sample in samples),
            conditions=TurnConditions(**{name: line[name] for name in TurnConditions._fields}),
        )
