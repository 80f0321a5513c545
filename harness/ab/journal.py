"""The raw record of an A/B run: JSON lines, written as they come, never edited.

First line `plan`, then `launch`, `turn` and `sample` lines, last line `end`. A file without its last line is of a run
that was killed; what it has is kept.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, TextIO

from harness.ab.conditions import marks
from harness.ab.records import Arm, Born, Launch, Round, Turn, TurnConditions

FILE = "samples.jsonl"
FORMAT = 1  # 1: first version, 2026-11


class Marked(NamedTuple):
    """A launch that something happened to."""

    set: int
    launch_pair: int
    arm: Arm
    marks: list[str]


class Journal:
    """Use `Journal.open`."""

    def __init__(self, file: TextIO) -> None:
        self._file = file
        self.launches: list[Born] = []
        self._conditions: dict[tuple[int, int, Arm], list[TurnConditions]] = {}

    @classmethod
    @contextmanager
    def open(cls, folder: Path, plan: Mapping[str, Any]) -> Iterator["Journal"]:
        """A new journal in this folder; without errors, it ends with its last line."""
        with (folder / FILE).open("w", encoding="utf-8") as file:
            journal = cls(file)
            journal._write({"event": "plan", "format": FORMAT, **plan})
            yield journal
            journal._write({"event": "end"})

    def launch(self, born: Born) -> None:
        self.launches.append(born)
        self._write(born.line())

    def turn(self, turn: Turn) -> None:
        if turn.round:
            self._conditions.setdefault((turn.set, turn.launch_pair, turn.arm), []).append(turn.conditions)
        self._write(*turn.lines())

    def marked(self) -> list[Marked]:
        """Launches during which others worked or a clock changed."""
        found = [Marked(*place, marks(turns)) for place, turns in self._conditions.items()]
        return [launch for launch in found if launch.marks]

    def _write(self, *lines: Mapping[str, Any]) -> None:
        self._file.write("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
        self._file.flush()


def read_launches(folder: Path, arm: Arm) -> list[Launch]:
    """The complete launches of one engine in the first set, for `verdict.check`. Raises OSError, ValueError."""
    rounds: dict[int, dict[int, tuple[list[float], list[int]]]] = {}
    wanted = 0
    for text in (folder / FILE).read_text(encoding="utf-8").split("\n")[:-1]:  # a kill may have cut the last line
        line = json.loads(text)
        if line["event"] == "plan":
            wanted = line["rounds"] * line["queries"]
        if line["event"] == "sample" and (line["set"], line["arm"]) == (1, arm) and not line["warmup"]:
            times, pairs = rounds.setdefault(line["launch_pair"], {}).setdefault(line["round"], ([], []))
            times.append(line["service_s"])
            pairs.append(line["pairs"])
    launches = [[Round(*block) for block in launch.values()] for launch in rounds.values()]
    return [launch for launch in launches if sum(len(block.service_s) for block in launch) == wanted]
