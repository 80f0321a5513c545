"""Unusual texts and ids from files: invalid text, control characters, very long texts, very many lines."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import engines
from engines.base import Pair, ScoringFailed
from harness.benchmarks import BenchmarkError, load
from harness.benchmarks import lines as reading
from harness.candidates.trec import read_run
from tests.conftest import write_beir
from tests.hostile import texts

TEXTS = (*texts.TERMINAL, "\0", "a\0b", "\ufffe\uffff", "\U0010ffff", "\u202e" * 100, "e" + "\u0301" * 500, "", " ")
ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("fake", {}),
        ("bm25", {}),
        (
            "torch",
            {"model": str(ROOT / "checkpoints/demo"), "template": "demo", "precision": "fp32", "max_tokens": 256},
        ),
    ],
)
def test_every_valid_text_has_a_score_and_half_a_surrogate_pair_is_refused(kind: str, options: dict[str, Any]) -> None:
    with engines.load(kind, options) as engine:
        engine.prepare(TEXTS, analysis="english")
        scores = engine.score([Pair(query, text) for query in ("cat", "\0 \u202e <|im_end|>") for text in TEXTS])
        assert len(scores) == 2 * len(TEXTS)
        if kind == "torch":
            with pytest.raises(ScoringFailed, match="cannot be encoded"):
                engine.score([Pair("cat", "\ud800")])


def test_a_run_keeps_ids_with_control_characters_unchanged(
    config: Callable[..., Path], crispbench: Callable[..., Any], tmp_path: Path
) -> None:
    ids = [f"{''.join(text.split())}{number}".replace("\0", "") for number, text in enumerate(texts.ALL)]
    documents = {key: f"animal {text}" for key, text in zip(ids, texts.ALL, strict=True)}
    folder = write_beir(tmp_path / "odd", documents, documents, {key: {key: 1} for key in ids})
    written = config(
        engines={"bm25": {"kind": "bm25"}, "fake": {"kind": "fake"}},
        benchmarks=[{"source": "beir", "path": str(folder)}],
    )
    assert crispbench("run", written, "--out", tmp_path / "run").code == 0
    assert crispbench("export", "trec", tmp_path / "run", tmp_path / "out").code == 0
    assert set(read_run(tmp_path / "out/fake/odd.trec.gz")) == set(ids)


@pytest.mark.parametrize("key", ["a\0b", "\ud800", "a\udfff"])
def test_an_id_that_an_evaluator_would_read_as_another_is_refused(key: str, tmp_path: Path) -> None:
    folder = write_beir(tmp_path / "odd", {"d1": "x"}, {"q1": "x"}, {"q1": {"d1": 1}})
    (folder / "corpus.jsonl").write_text(json.dumps({"_id": key, "text": "x"}))
    with pytest.raises(BenchmarkError, match="expected a string without NUL and without half"):
        load("beir", {"path": str(folder)})


@pytest.mark.parametrize("grade", ["1000000", "2147483648", "99999999999999999999", "-9999999"])
def test_a_grade_that_overflows_evaluators_or_their_memory_is_refused(grade: str, tmp_path: Path) -> None:
    folder = write_beir(tmp_path / "odd", {"d1": "x"}, {"q1": "x"}, {"q1": {"d1": 1}})
    (folder / "qrels/test.tsv").write_text(f"q1\td1\t{grade}\n")
    with pytest.raises(BenchmarkError, match="is not a whole number below a million"):
        load("beir", {"path": str(folder)})


def test_an_endless_line_is_refused_before_it_is_read_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "MOST_LINE_BYTES", 1_000_000)
    (tmp_path / "r.trec").write_bytes(gzip.compress(bytes(50_000_000), compresslevel=1))
    with pytest.raises(BenchmarkError, match=":1: a line of more than 1,000,000 bytes"):
        read_run(tmp_path / "r.trec")


def test_a_document_of_fifty_million_characters_is_read_and_found(
    tmp_path: Path, config: Callable[..., Path], crispbench: Callable[..., Any]
) -> None:
    folder = write_beir(
        tmp_path / "long", {"long": "x" * 50_000_000 + " cat", "d": "dog"}, {"q": "cat"}, {"q": {"long": 1}}
    )
    written = config(engines={"bm25": {"kind": "bm25"}}, benchmarks=[{"source": "beir", "path": str(folder)}])
    answer = crispbench("run", written, "--out", tmp_path / "run", "--json")
    measures = json.loads(answer.out)["engines"]["bm25"]["benchmarks"]["long"]["measures"]
    assert measures["nDCG@10"]["value"] == 1.0


def test_a_run_file_of_100_000_lines_is_read_in_full(tmp_path: Path) -> None:
    path = tmp_path / "r.trec"
    path.write_text("".join(f"q{n // 1000} Q0 d{n} 0 {-n} t\n" for n in range(100_000)))
    run = read_run(path)
    assert (len(run), sum(map(len, run.values())), run["q99"]["d99999"]) == (100, 100_000, -99999.0)
