"""The notes that a report derives from the raw results of an engine."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest

from engines.base import Counts, Description, ScoreKind, Truncation
from engines.fake import Fake
from harness.run import rows


class Endpoint(Fake):
    """An engine with the description and the counts of a remote server."""

    described: ClassVar[Description]
    counted: ClassVar[Counts]  # per query

    def score(self, pairs: Sequence[tuple[str, str]]) -> list[float]:
        self._counts += self.counted
        return [score / 100 for score in super().score(pairs)]

    def describe(self) -> Description:
        return self.described


@pytest.fixture
def noted(
    config: Callable[..., Path],
    crispbench: Callable[..., Any],
    animals: Path,
    tmp_path: Path,
    register: Callable[..., None],
) -> Callable[..., tuple[str, ...]]:
    """The notes of a run of five queries with five documents each."""

    def run(description: Description, counted: Counts) -> tuple[str, ...]:
        register("endpoint", type("EndpointToday", (Endpoint,), {"described": description, "counted": counted}))
        benchmarks = [{"source": "beir", "path": str(animals), "name": "animals"}]
        path = config(engines={"far": {"kind": "endpoint"}}, benchmarks=benchmarks)
        assert crispbench("run", path, "--out", tmp_path / "out").code == 0
        (row,) = rows.engine_rows(tmp_path / "out/far")
        assert (row.queries, row.pairs) == (5, 25)
        return tuple(row.notes)

    return run


@pytest.mark.parametrize(
    ("description", "counted", "note"),
    [
        (
            Description(score_kind=ScoreKind.PROBABILITY),
            Counts(saturated=2),
            "scores are log-odds of the server's probabilities; "
            "10 of 25 were 0 or 1 and have no order among themselves",
        ),
        (Description(), Counts(saturated=1), "5 of 25 scores were 0 or 1 and have no order among themselves"),
        (
            Description(truncation=Truncation.BY_SERVER),  # no template: the server's prompt is its own
            Counts(),
            "the service makes its own prompt: where it cuts texts that are too long, if it does, is unknown",
        ),
        (
            Description(truncation=Truncation.BY_SERVER, template="mxbai-v2-seq"),
            Counts(),
            "the server cuts prompts that are too long, at an unknown length: set `tokenizer` to cut documents here",
        ),
        (
            Description(truncation=Truncation.REFUSED, template="mxbai-v2-seq"),
            Counts(),
            "the server refuses prompts that are too long: set `tokenizer` to cut documents here",
        ),
        (Description(), Counts(retries=3), "15 requests were repeated and 0 split; latencies include that"),
        (
            Description(),
            Counts(paced=3),
            "15 requests waited for their turn under requests_per_minute; latencies include that",
        ),
        (
            Description(),
            Counts(server_queue_us=1500, server_inference_us=20_000),
            "the server's own time per query, summed over its requests: queue 1.5 ms, inference 20.0 ms",
        ),
        (
            Description(score_kind=ScoreKind.LOG_ODDS, truncation=Truncation.HERE),
            Counts(requests=1),  # the scores of this engine lie in [0, 0.1]
            "every score lies in [0, 1], as a sigmoid's: if the server sends no logits, set score_kind: probability",
        ),
        (Description(score_kind=ScoreKind.LOG_ODDS, truncation=Truncation.HERE), Counts(), None),
    ],
)
def test_every_reservation_about_the_scores_of_a_server_is_a_note(
    description: Description, counted: Counts, note: str | None, noted: Callable[..., tuple[str, ...]]
) -> None:
    assert noted(description, counted) == (() if note is None else (note,))
