"""A first stage that orders its candidates no better than chance is named above all figures, with a probable cause."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from harness.benchmarks import load
from harness.candidates.alarms import alarms, commonest_script
from harness.candidates.first_stage import retrieve
from harness.candidates.stages import BM25Stage
from harness.records import Benchmark, Candidates

NEAR = "is near a random order"


def made(queries: int = 40, documents: int = 60) -> Benchmark:
    """Query i has the one relevant document i."""
    ids = [f"q{number}" for number in range(queries)]
    qrels = {query_id: {f"d{number}": 1} for number, query_id in enumerate(ids)}
    texts = {f"d{number}": f"text {number}" for number in range(documents)}
    return Benchmark("made", "1", dict.fromkeys(ids, "text"), texts, qrels)


def ranked(
    benchmark: Benchmark, order: Callable[[str], Sequence[str]], source: str = "run", k: int = 100
) -> Candidates:
    return Candidates(source, k, {}, {query_id: tuple(order(query_id)) for query_id in benchmark.queries})


def relevant_at(rank: int, length: int = 20) -> Callable[[str], list[str]]:
    def order(query_id: str) -> list[str]:
        others = [f"d{number}" for number in range(60) if f"d{number}" != f"d{query_id[1:]}"][: length - 1]
        return [*others[: rank - 1], f"d{query_id[1:]}", *others[rank - 1 :]]

    return order


def at_every_rank(query_id: str) -> list[str]:
    """Over the 40 queries, the relevant document is at each of the 20 ranks twice."""
    return relevant_at(1 + int(query_id[1:]) % 20)(query_id)


def test_a_good_order_raises_no_alarm() -> None:
    for rank in (1, 2, 5):
        assert alarms(made(), ranked(made(), relevant_at(rank))) == ()


def test_a_random_and_a_reversed_order_are_named_with_both_figures() -> None:
    # chance: one relevant document of 20 gains the mean of 1 / log2(rank + 1) over ranks 1 to 10, 4.5436 / 20
    (alarm,) = alarms(made(), ranked(made(), at_every_rank))
    assert f"(run) {NEAR}: nDCG@10 0.2272, in random order 0.2272; check" in alarm
    (alarm,) = alarms(made(), ranked(made(), relevant_at(20)))
    assert "nDCG@10 0.0000, in random order 0.2272; check that the run file belongs to this benchmark" in alarm


@pytest.mark.parametrize(
    ("candidates", "why"),
    [
        (ranked(made(), relevant_at(20), "native"), "reranking tasks list candidates in no order"),
        (ranked(made(), relevant_at(1, length=1), "bm25", k=1), "one candidate was asked for"),
        (ranked(made(), relevant_at(1, length=1)), "the run file has one document per query"),
        (ranked(made(), relevant_at(1, length=1), "bm25"), "the search finds exactly what is relevant"),
    ],
)
def test_candidates_without_an_order_raise_no_alarm(candidates: Candidates, why: str) -> None:
    assert alarms(made(), candidates) == (), why


def test_a_search_that_finds_single_documents_by_chance_is_named() -> None:
    found = ranked(made(), lambda query_id: relevant_at(1, 1)(query_id) if query_id < "q2" else ["d59"], "bm25")
    assert len(alarms(made(), found)) == 1


def chinese(folder: Path) -> Path:
    texts = ["猫喜欢喝牛奶", "狗在公园里跑步", "火车今天晚点了", "苹果树开花了", "医生建议多喝水", "学生们正在考试"]
    questions = ["猫喜欢什么", "狗在哪里", "火车怎么了", "什么开花", "医生说什么", "NBA 球迷学生们正在考试吗"]
    (folder / "qrels").mkdir(parents=True)
    for name, lines, letter in (("corpus", texts, "d"), ("queries", questions, "q")):
        rows = [json.dumps({"_id": f"{letter}{number}", "text": line}) for number, line in enumerate(lines)]
        (folder / f"{name}.jsonl").write_text("\n".join(rows), encoding="utf-8")
    (folder / "qrels/test.tsv").write_text("".join(f"q{number}\td{number}\t1\n" for number in range(len(texts))))
    lines = (folder / "corpus.jsonl").read_text().splitlines()
    rows = [*lines, json.dumps({"_id": "d6", "text": "NBA"})]
    (folder / "corpus.jsonl").write_text("\n".join(rows), encoding="utf-8")
    return folder


def test_chinese_that_is_analysed_as_english_names_the_script_and_the_option(tmp_path: Path) -> None:
    path = str(chinese(tmp_path / "folder"))
    alarm = retrieve(load("beir", {"path": path}), BM25Stage()).alarms[-1]
    assert "the first stage (bm25) is near a random order: nDCG@10 0.0000, in random order 0.0000" in alarm
    assert "its analysis is 'english' and most letters are CJK: set `analysis` of the benchmark" in alarm
    assert retrieve(load("beir", {"path": path, "analysis": "chinese"}), BM25Stage()).alarms == ()


def test_the_terminal_and_the_report_say_it(
    tmp_path: Path, config: Callable[..., Path], crispbench: Callable[..., Any]
) -> None:
    benchmark = {"source": "beir", "path": str(chinese(tmp_path / "folder"))}
    answer = crispbench(
        "run", config(engines={"fake": {"kind": "fake"}}, benchmarks=[benchmark]), "--out", tmp_path / "o"
    )
    assert NEAR in answer.err and NEAR in answer.out
    assert NEAR in (tmp_path / "o/report/report.md").read_text()
    assert NEAR in (tmp_path / "o/report/index.html").read_text()


def test_the_commonest_script_is_that_of_most_letters() -> None:
    assert commonest_script(["Кот пьёт молоко", "cat"]) == "CYRILLIC"
    assert commonest_script(["12 !", ""]) == "unknown"
