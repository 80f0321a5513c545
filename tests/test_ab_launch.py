"""The parts around a launch: the schedule, garbage collection, the load of other processes."""

import gc
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engines.base import Description, EngineError, Pair
from engines.fake import Fake, FakeOptions
from harness.ab import conditions, launch
from harness.ab import journal as journals
from harness.ab.journal import Journal
from harness.ab.records import LaunchPlan, LoadedLaunch, Round, Turn, TurnConditions
from harness.ab.schedule import queries_wanted, steps, warmup_numbers
from harness.latency.conditions import cores


@given(st.integers(1, 4), st.integers(1, 6), st.integers(1, 9), st.integers(0, 9), st.integers(1, 60))
def test_both_engines_score_the_same_queries_in_every_round(
    launch_pair: int, rounds: int, queries: int, warmup: int, available: int
) -> None:
    by_arm: dict[str, list[tuple[int, Sequence[int]]]] = {"A": [], "B": []}
    for step in steps(LaunchPlan(1, None, rounds, queries, warmup), launch_pair, available):
        by_arm[step.arm].append((step.round, step.numbers))
    assert by_arm["A"] == by_arm["B"]
    assert [len(numbers) - 1 for _, numbers in by_arm["A"]] == [queries] * rounds
    assert all(0 <= number < available for _, numbers in by_arm["A"] for number in numbers)


def test_with_enough_queries_a_launch_scores_no_query_twice() -> None:
    plan = LaunchPlan(rounds=3, queries=4, warmup=5)
    queries = queries_wanted(plan)
    scored = [number for step in steps(plan, 1, queries) if step.arm == "A" for number in step.numbers]
    assert sorted([*scored, *warmup_numbers(plan, queries)]) == list(range(queries))


def test_the_order_within_a_launch_pair_is_abba_and_alternates_with_baab() -> None:
    orders = ["".join(step.arm for step in steps(LaunchPlan(rounds=4), number, 50)) for number in (1, 2, 3)]
    assert orders == ["ABBAABBA", "BAABBAAB", "ABBAABBA"]


def test_every_line_is_on_disk_before_the_next_one_is_written(tmp_path: Path) -> None:
    with Journal.open(tmp_path, LaunchPlan(rounds=1, queries=2)) as journal:
        journal.launch(LoadedLaunch(1, "A", 1, 0.1, Description(model="m"), versions={}, machine={}))
        journal.turn(Turn(1, "A", 1, ["w", "q", "r"], [3, 3, 3], [0.9, 0.1, 0.2], 1, turn()))
        written = (tmp_path / "samples.jsonl").read_text().splitlines()
        assert [json.loads(line)["event"] for line in written] == ["plan", "launch", "turn", *["sample"] * 3]
    samples = journals.read(tmp_path)
    assert samples.complete_launches("A") == [[Round([0.1, 0.2], [3, 3])]]
    assert (samples.complete, samples.launches[0].description) == (True, Description(model="m"))


def test_a_journal_that_a_kill_cut_short_is_read_up_to_the_cut(tmp_path: Path) -> None:
    with Journal.open(tmp_path, LaunchPlan(rounds=1, queries=1)) as journal:
        journal.turn(Turn(1, "B", 1, ["q"], [3], [0.1], 0, turn()))
        journal.turn(Turn(2, "B", 1, ["q"], [3], [0.2], 0, turn()))
    path = tmp_path / "samples.jsonl"
    path.write_text(path.read_text().rpartition('"service_s": 0.2')[0])
    assert journals.read(tmp_path).complete_launches("B") == [[Round([0.1], [3])]]


class Attentive(Fake):
    """Records whether garbage could be collected while it scored."""

    def __init__(self) -> None:
        super().__init__(FakeOptions())
        self.seen: list[bool] = []

    def score(self, pairs: Sequence[Pair]) -> list[float]:
        self.seen.append(gc.isenabled())
        return super().score(pairs)


def test_no_garbage_is_collected_while_an_engine_is_timed() -> None:
    engine = Attentive()
    answer = launch.take(engine, [[Pair("a", "b")]] * 3)
    assert engine.seen == [False] * 3
    assert gc.isenabled()
    assert len(answer["service_s"]) == 3


def test_garbage_is_collected_again_after_an_engine_failed() -> None:
    with pytest.raises(EngineError):
        launch.take(Fake(FakeOptions(fail_on="a")), [[Pair("a", "b")]])
    assert gc.isenabled()


def test_the_time_of_a_query_includes_the_call_to_score() -> None:
    (slept_s,) = launch.take(Fake(FakeOptions(delay_s=0.02)), [[Pair("a", "b")]])["service_s"]
    assert slept_s >= 0.02


def test_a_launch_describes_its_engine_and_serves_turns_until_its_input_ends() -> None:
    replies: list[dict[str, Any]] = []
    questions = [["q", ["d"]], ["r", ["d", "e"]]]
    setup = {"kind": "fake", "options": {}, "query_ids": ["1", "2"], "questions": questions, "documents": []}
    launch.serve(
        iter([json.dumps(setup | {"analysis": "english"}), json.dumps({"numbers": [1, 0, 1]})]), replies.append
    )
    assert [len(reply.get("service_s", [])) for reply in replies] == [0, 3]
    assert replies[0]["pid"] == os.getpid()
    assert gc.get_freeze_count() == 0
    assert replies[0]["description"] == {"model": "word overlap"}


def turn(
    others_cores: float | None = 0.0, cpu: float | None = 2600.0, gpu: float | None = None, wall_s: float = 1.0
) -> TurnConditions:
    return TurnConditions(wall_s, others_cores, 2, 0.5, cpu, gpu)


@pytest.mark.parametrize(
    ("turns", "marks"),
    [
        ([turn(), turn(0.19)], []),
        ([turn(0.0, wall_s=9.0), turn(1.5, wall_s=1.0)], []),  # 0.15 of a core over the whole launch
        ([turn(0.1), turn(0.5)], ["other processes kept 0.3 of 2 cores busy"]),
        ([turn(None), turn(None)], []),
        ([turn(cpu=2600.0), turn(cpu=2500.0)], []),
        ([turn(cpu=2600.0), turn(cpu=2400.0)], ["the CPU clock ranged from 2,400 to 2,600 MHz"]),
        ([turn(gpu=1980.0), turn(gpu=1200.0)], ["the GPU clock ranged from 1,200 to 1,980 MHz"]),
        ([turn(cpu=None), turn(cpu=None)], []),
    ],
)
def test_a_launch_is_marked_when_other_processes_worked_or_a_clock_changed(
    turns: list[TurnConditions], marks: list[str]
) -> None:
    assert conditions.marks(turns) == marks


def test_the_load_of_other_processes_excludes_our_own() -> None:
    now = conditions.start()
    earlier = now.before._replace(busy_s=(now.before.busy_s or 0) - 7.0, own_s=now.before.own_s - 3.0)
    during = conditions.since(conditions.Start(now.at_s - 2.0, earlier))
    assert during.others_cores == pytest.approx((7 - 3) / 2, rel=0.2)  # the machine keeps working while it is read
    assert during.cores == len(cores())


def test_the_load_of_other_processes_is_unknown_where_the_system_does_not_count_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(conditions, "open_nvml", lambda: (None, []))
    now = conditions.start()
    during = conditions.since(now._replace(before=now.before._replace(busy_s=None)))
    assert (during.others_cores, during.gpu_mhz) == (None, None)
