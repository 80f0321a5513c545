"""Targets of fuzzing: each takes any bytes and ends with a valid object or with its documented one-line error.

`pytest tests/fuzz` feeds them for seconds; `python -m tests.fuzz TARGET SECONDS` feeds one for longer.
"""

import json
import math
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from engines.base import BadOptions, ScoringFailed
from engines.prompts.template import Labels, load_template, read_template
from engines.remote import dialects
from engines.remote.answers import log_odds, usage
from engines.remote.transport import HttpAnswer, retry_after_s
from harness.benchmarks import BenchmarkError
from harness.benchmarks.beir import BeirFolder
from harness.benchmarks.beir_archive import check
from harness.benchmarks.judgements import read_qrels
from harness.candidates.trec import read_run_file
from harness.config import ConfigError, read_config

Target = Callable[[bytes, Path], None]
BETWEEN = b"\n----\n"  # separates the files of a BEIR folder in one input
FILES = ("corpus.jsonl", "queries.jsonl", "qrels/test.tsv")
LONGEST_LINE = 2_000  # characters of an error, including the path of the file


def written(data: bytes, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def one_line(error: Exception) -> None:
    """Asserts that an error is one printable line whose length does not grow with the input."""
    text = str(error)
    assert len(text.splitlines()) == 1, text
    assert len(text) < LONGEST_LINE, f"{len(text)} characters: {text[:300]}"
    text.encode()


def config(data: bytes, folder: Path) -> None:
    try:
        read_config(written(data, folder / "config.yaml"))
    except ConfigError as error:
        one_line(error)


def template(data: bytes, folder: Path) -> None:
    read_template.cache_clear()
    try:
        load_template(str(written(data, folder / "template.yaml")))
    except BadOptions as error:
        one_line(error)


def run(data: bytes, folder: Path) -> None:
    try:
        trec_run = read_run_file(written(data, folder / "run.trec"))
    except BenchmarkError as error:
        one_line(error)
    else:
        assert all(math.isfinite(score) for scores in trec_run.scores.values() for score in scores.values())


def qrels(data: bytes, folder: Path) -> None:
    try:
        qrels_file = read_qrels(written(data, folder / "qrels.tsv"))
    except BenchmarkError as error:
        one_line(error)
    else:
        assert all(abs(grade) < 1_000_000 for grades in qrels_file.grades.values() for grade in grades.values())
        assert "\0" not in "".join(qrels_file.grades)


def beir(data: bytes, folder: Path) -> None:
    for name, part in zip(FILES, [*data.split(BETWEEN), b"", b""], strict=False):
        written(part, folder / "beir" / name)
    try:
        benchmark = BeirFolder(path=folder / "beir").load()
    except BenchmarkError as error:
        one_line(error)
    else:
        for text in (*benchmark.queries, *benchmark.documents, *benchmark.documents.values()):
            text.encode()
        assert benchmark.queries.keys() == benchmark.qrels.keys()


def archive(data: bytes, folder: Path) -> None:
    try:
        check(written(data, folder / "tiny.zip"), "http://host/tiny.zip", None)
    except BenchmarkError as error:
        one_line(error)


def answer(data: bytes, folder: Path) -> None:
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):  # the transport reports this error
        return
    for dialect in map(dialects.find, dialects.names()):
        try:
            values = dialect.scores(document)
            scores = [log_odds(value, Labels(positive="1", negative="0"), dialect.score_kind) for value in values]
        except ScoringFailed as error:
            one_line(error)
        else:
            assert all(math.isfinite(score.value) for score in scores)
    counts = usage(HttpAnswer(200, {}, document, first_byte_s=0.0))
    assert all(type(count) is int and count >= 0 for count in counts.document().values())


def header(data: bytes, folder: Path) -> None:
    text = data.decode("latin-1")
    assert retry_after_s(text, datetime(2026, 11, 25, tzinfo=UTC)) >= 0
    counts = usage(HttpAnswer(200, {"x-queue-time": text, "x-compute-tokens": text}, None, first_byte_s=0.0))
    assert all(type(count) is int and count >= 0 for count in counts.document().values())


TARGETS: dict[str, Target] = {
    target.__name__: target for target in (config, template, run, qrels, beir, archive, answer, header)
}
