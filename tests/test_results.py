"""What the raw results of an engine say in words."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest

from engines.base import Pair
from engines.fake import Fake
from harness.run import rows


class Endpoint(Fake):
    """Tells what a server's engine tells."""

    said: ClassVar[Mapping[str, str]] = {}
    counted: ClassVar[Mapping[str, int]] = {}  # per query

    def score(self, pairs: Sequence[Pair]) -> list[float]:
        self._counts.update(self.counted)
        return super().score(pairs)

    def describe(self) -> Mapping[str, str]:
        return {**super().describe(), **self.said}


@pytest.fixture
def noted(
    config: Callable[..., Path],
    crispbench: Callable[..., Any],
    animals: Path,
    tmp_path: Path,
    register: Callable[..., None],
) -> Callable[..., tuple[str, ...]]:
    """The notes of a run of five queries with five documents each."""

    def run(said: Mapping[str, str], counted: Mapping[str, int]) -> tuple[str, ...]:
        register("endpoint", type("EndpointToday", (Endpoint,), {"said": said, "counted": counted}))
        benchmarks = [{"source": "beir", "path": str(animals), "name": "animals"}]
        path = config(engines={"far": {"kind": "endpoint"}}, benchmarks=benchmarks)
        assert crispbench("run", path, "--out", tmp_path / "out").code == 0
        (row,) = rows.engine_rows(tmp_path / "out/far")
        assert (row.queries, row.pairs) == (5, 25)
        return tuple(row.notes)

    return run


@pytest.mark.parametrize(
    ("said", "counted", "note"),
    [
        (
            {"score_kind": "probability"},
            {"saturated": 2},
            "scores are log-odds of the server's probabilities; "
            "10 of 25 were 0 or 1 and keep no order among themselves",
        ),
        ({}, {"saturated": 1}, "5 of 25 scores were 0 or 1 and keep no order among themselves"),
        (
            {"truncation": "by the server, unknown"},
            {},
            "the server cuts what is too long, where is not known: set `tokenizer` to cut documents here",
        ),
        (
            {"truncation": "none: what is too long is refused"},
            {},
            "documents are not cut and the server refuses what is too long: set `tokenizer` to cut documents here",
        ),
        ({}, {"retries": 3}, "15 requests were repeated and 0 split; latencies include that"),
        (
            {},
            {"server_queue_us": 1500, "server_inference_us": 20_000},
            "the server's own time per query, summed over its requests: queue 1.5 ms, inference 20.0 ms",
        ),
        ({"score_kind": "logit_diff", "truncation": "of the document, here"}, {"requests": 1}, None),
    ],
)
def test_what_a_reader_must_know_of_a_servers_scores_is_a_note(
    said: Mapping[str, str], counted: Mapping[str, int], note: str | None, noted: Callable[..., tuple[str, ...]]
) -> None:
    assert noted(said, counted) == (() if note is None else (note,))
