"""Measures agree with hand calculations, with brute force and with the figures of trec_eval."""

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ir_measures
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ir_measures import AP, RR, R, nDCG

from harness.figures.measures import (
    HEADLINE,
    MEASURES,
    TIE_AWARE,
    Ties,
    evaluate,
    in_order,
    measure,
    oracle,
    random_order,
    rank,
    recall,
    recount,
    tie_aware_ndcg,
)
from harness.records import Score

# Four judged documents; the ranking holds three of them and an unjudged one.
GRADES = {"best": 2, "good": 1, "bad": 0, "lost": 1}
RANKING = ["bad", "best", "unjudged", "good"]


def scored(*values: float, names: str = "abcdefgh") -> list[Score]:
    """Scores of documents a, b, c, ... in first-stage order."""
    return [Score(name, rank, value) for rank, (name, value) in enumerate(zip(names, values, strict=False), start=1)]


@pytest.mark.parametrize(
    ("name", "by_hand"),
    [
        # gains 0 2 0 1: 2/log2(3) + 1/log2(5) = 1.261860 + 0.430677 = 1.692536
        # ideal 2 1 1:   2 + 1/log2(3) + 1/log2(4) = 2 + 0.630930 + 0.5 = 3.130930
        ("nDCG@10", 0.540586),  # 1.692536 / 3.130930
        ("AP", 0.333333),  # 3 relevant documents, two of them at ranks 2 and 4: (1/2 + 2/4) / 3
        ("RR@10", 0.5),  # the first relevant is at rank 2
        ("R@100", 0.666667),  # 2 of 3 relevant
        ("Judged@10", 0.75),  # 3 of the 4 returned
    ],
)
def test_a_measure_equals_its_hand_calculation(name: str, by_hand: float) -> None:
    values = measure({"q": GRADES}, {"q": RANKING}, MEASURES)
    assert values[name]["q"] == pytest.approx(by_hand, abs=5e-7)


def test_gain_is_linear_in_the_grade() -> None:
    # grades 1, 2 in that order: (1 + 2/log2(3)) / (2 + 1/log2(3)) = 2.261860 / 2.630930; exponential gain gives 0.79671
    values = measure({"q": {"a": 1, "b": 2}}, {"q": ["a", "b"]}, [nDCG @ 10])
    assert values[HEADLINE]["q"] == pytest.approx(0.85972, abs=5e-6)
    assert tie_aware_ndcg(scored(2.0, 1.0), {"a": 1, "b": 2}, 10) == pytest.approx(0.85972, abs=5e-6)


def test_equal_scores_keep_the_order_of_the_first_stage_for_any_ids() -> None:
    tied = scored(1.0, 1.0, 2.0, names="zab")
    assert rank(tied) == rank(tied[::-1]) == ["b", "z", "a"]
    # trec_eval would put z first, because its id is higher.
    values = evaluate({"q": {"a": 1}}, {"q": [Score("a", 1, 0.0), Score("z", 2, 0.0)]}).per_query
    assert values["RR@10"]["q"] == 1.0


@pytest.mark.parametrize(("better", "worse"), [(0.99999999, 0.99999998), (12.0000001, 12.0), (-18.0, -18.00000001)])
def test_scores_closer_than_the_resolution_of_float32_keep_their_order(better: float, worse: float) -> None:
    # The relevant document has the lower id and the worse first-stage rank, so any tie would put it second.
    scores = {"q": [Score("z", 1, worse), Score("a", 2, better)]}
    assert evaluate({"q": {"a": 1}}, scores).per_query["RR@10"]["q"] == 1.0


def test_a_query_without_scores_counts_zero_and_stays_in_the_denominator() -> None:
    qrels = {"found": {"a": 1}, "failed": {"a": 1}, "empty": {"a": 1}}
    values = evaluate(qrels, {"found": scored(1.0), "empty": []}).per_query
    assert [str(measure) for measure in MEASURES] + [TIE_AWARE] == list(values)
    assert values[HEADLINE] == {"found": 1.0, "failed": 0.0, "empty": 0.0}
    assert all(by_query.keys() == qrels.keys() and by_query["failed"] == 0.0 for by_query in values.values())


def test_without_any_scores_every_query_counts_zero() -> None:
    evaluation = evaluate({"q": {"a": 1}, "r": {"a": 1}}, {})
    assert evaluation.per_query["AP"] == {"q": 0.0, "r": 0.0}
    assert evaluation.tie_rate == 0.0


def test_a_negative_grade_is_not_relevant() -> None:
    # gains 0 2: 2/log2(3) = 1.261860; ideal 2 1: 2.630930
    grades, ranking = {"best": 2, "spam": -1, "junk": -2, "lost": 1}, ["junk", "best", "spam"]
    assert measure({"q": grades}, {"q": ranking}, MEASURES)[HEADLINE]["q"] == pytest.approx(0.479625, abs=5e-7)
    scores = [Score(doc_id, rank, -rank) for rank, doc_id in enumerate(ranking, start=1)]
    assert tie_aware_ndcg(scores, grades, 10) == pytest.approx(0.479625, abs=5e-7)
    assert measure({"q": {"spam": -1}}, {"q": ["spam"]}, MEASURES)[HEADLINE]["q"] == 0.0


def test_a_query_without_judgements_does_not_affect_the_queries_after_it() -> None:
    qrels = {"a": {"d": 1}, "nothing judged": {}, "z": {"d": 1}}
    values = evaluate(qrels, {query_id: [Score("d", 1, 0.5)] for query_id in qrels}).per_query
    assert values[HEADLINE] == {"a": 1.0, "nothing judged": 0.0, "z": 1.0}
    assert values[TIE_AWARE] == values[HEADLINE]


def test_the_tie_rate_is_the_share_of_documents_that_tie_within_their_query() -> None:
    scores = {"q": scored(1.0, 1.0, 0.5), "r": scored(1.0)}  # two of four; scores of two queries never tie
    assert evaluate({"q": {"a": 1}, "r": {"a": 1}}, scores).tie_rate == 0.5


def test_the_values_of_a_query_do_not_depend_on_the_other_queries(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("harness.figures.measures.AT_ONCE", 3)
    qrels = {f"q{number}": {"abcdefgh"[number]: 1 + number % 2, "x": 1} for number in range(8)}
    # Some lists have ties: 5, 7, 11 and 13 modulo 2 are all 1.
    scores = {query_id: scored(5 % n, 7 % n, 11 % n, 13 % n) for n, query_id in enumerate(qrels, start=2)}
    together = evaluate(qrels, scores)
    for query_id, grades in qrels.items():
        alone = evaluate({query_id: grades}, {query_id: scores[query_id]})
        assert {name: values[query_id] for name, values in together.per_query.items()} == {
            name: values[query_id] for name, values in alone.per_query.items()
        }
    assert together.pairs == 32


def test_an_engine_is_constant_if_every_list_of_several_documents_has_one_score() -> None:
    qrels = {"q": {"a": 1}, "r": {"a": 1}}
    assert evaluate(qrels, {"q": scored(0.5, 0.5, 0.5), "r": scored(1.0)}).constant
    assert not evaluate(qrels, {"q": scored(0.5, 0.5, 0.5), "r": scored(1.0, 0.5)}).constant
    assert not evaluate(qrels, {"q": scored(0.5), "r": scored(1.0)}).constant  # no list has two scores to compare
    assert not evaluate(qrels, {}).constant


def test_recall_and_oracle_of_candidates_equal_their_hand_calculation() -> None:
    qrels = {"q": {"a": 2, "d": 1, "g": -1, "x": 1}, "r": {"b": 0, "c": 1}, "s": {"a": 1}}
    lists = {"q": tuple("gfedcba"), "r": tuple("hgfb"), "s": ()}
    assert recall(qrels, lists, 7) == pytest.approx((2 / 3 + 0 + 0) / 3)  # a and d out of a, d and x
    assert recall(qrels, lists, 4) == pytest.approx((1 / 3 + 0 + 0) / 3)  # d alone is among g, f, e, d
    # The ideal 2 1 1 gives 2 + 0.630930 + 0.5 = 3.130930; the best order a d gives 2 + 0.630930.
    assert oracle(qrels, lists) == pytest.approx(2.630930 / 3.130930 / 3, abs=1e-6)


def test_the_expectation_over_three_tied_documents_is_the_mean_of_three_ranks() -> None:
    # The ranks 1, 2 and 3 are equally likely: (1 + 0.630930 + 0.5) / 3.
    assert tie_aware_ndcg(scored(0.0, 0.0, 0.0), {"b": 1}, 10) == pytest.approx(0.710310, abs=5e-7)


@settings(max_examples=60, deadline=None)
@given(
    values=st.lists(st.sampled_from([0.0, 1.0, 2.0]), min_size=1, max_size=5),
    grades=st.dictionaries(st.sampled_from("abcdefg"), st.integers(-1, 3), min_size=1),
    k=st.integers(1, 6),
)
def test_tie_aware_ndcg_is_the_mean_over_every_order_of_the_tied_documents(
    values: list[float], grades: dict[str, int], k: int
) -> None:
    scores = scored(*values)
    orders = [
        [score.doc_id for score in order]
        for order in itertools.permutations(scores)
        if all(before.value >= after.value for before, after in itertools.pairwise(order))
    ]
    numbered = {str(number): order for number, order in enumerate(orders)}  # every order becomes one query
    ndcg = measure(dict.fromkeys(numbered, grades), numbered, [nDCG @ k])[f"nDCG@{k}"]
    assert tie_aware_ndcg(in_order(scores), grades, k) == pytest.approx(sum(ndcg.values()) / len(ndcg), abs=1e-9)


@settings(max_examples=60, deadline=None)
@given(
    values=st.lists(st.sampled_from([0.0, 1.0, 1.0 + 1e-9, 1.0 + 1e-6, -3.5, 1e300]), min_size=1, max_size=8),
    grades=st.dictionaries(st.sampled_from("abcdefgh"), st.integers(0, 3), min_size=1),
)
def test_equal_scores_by_trec_evals_rule_give_what_pytrec_eval_computes_from_the_scores(
    values: list[float], grades: dict[str, int]
) -> None:
    names = [nDCG @ 3, AP, RR, R @ 2]
    scores = scored(*values, names="hcaebgdf")
    run = {score.doc_id: score.value for score in scores}
    recounted = recount({"q": grades}, {"q": scores}, names, Ties.TREC_EVAL)
    for result in ir_measures.iter_calc(names, {"q": grades}, {"q": run}):
        assert recounted[str(result.measure)]["q"] == pytest.approx(result.value, abs=1e-12)


def test_each_rule_has_its_order_of_equal_scores() -> None:
    tied = scored(1.0, 1.0 + 1e-12, 2.0, 1.0, names="zabc")  # 1e-12 is nothing in float32
    assert "".join(rank(tied, Ties.FIRST_STAGE)) == "bazc"
    assert "".join(rank(tied, Ties.TREC_EVAL)) == "bzca"
    assert "".join(rank(tied, Ties.ASCENDING_IDS)) == "bacz"


@settings(max_examples=30, deadline=None)
@given(values=st.lists(st.floats(-30, 30), min_size=1, max_size=8, unique=True))
def test_without_ties_the_tie_aware_value_equals_the_plain_one(values: list[float]) -> None:
    evaluation = evaluate({"q": {"a": 2, "c": 1, "h": 1}}, {"q": scored(*values)})
    assert evaluation.tie_rate == 0.0
    assert evaluation.per_query[TIE_AWARE]["q"] == pytest.approx(evaluation.per_query[HEADLINE]["q"], abs=1e-9)


def test_random_order_is_the_mean_over_all_orders_of_the_candidates() -> None:
    # The relevant document of two is worth 1 at rank 1 and 1/log2(3) = 0.630930 at rank 2; the mean is 0.815465.
    # A query without candidates counts 0, so the mean over both queries is half of that.
    qrels = {"q": {"a": 1}, "empty": {"a": 1}}
    assert random_order(qrels, {"q": ["b", "a"], "empty": []}) == pytest.approx(0.407732, abs=1e-6)


def test_the_oracle_is_the_value_of_the_best_order() -> None:
    # Candidates bad, good, best in the order 2 1 0: (2 + 0.630930) / 3.130930 = 0.840303. Query r has no candidates.
    qrels = {"q": GRADES, "r": {"best": 1}}
    assert oracle({"q": GRADES}, {"q": ["bad", "good", "best"]}) == pytest.approx(0.840303, abs=5e-7)
    assert oracle(qrels, {"q": ["bad", "good", "best"], "r": []}) == pytest.approx(0.840303 / 2, abs=5e-7)


# The figures over all queries in out.test.aq, a file of trec_eval. Values per query are given below.
TREC_EVAL = {
    "nDCG@10": 0.3016,
    "AP": 0.1785,
    "RR": 0.4064,
    "Rprec": 0.2174,
    "Bpref": 0.1981,
    "nDCG": 0.4021,
    "P@5": 0.2667,
    "P@10": 0.3000,
    "P@100": 0.2467,
    "R@10": 0.0317,
    "R@100": 0.4980,
    "R@1000": 0.5997,
    "nDCG@5": 0.2768,
    "nDCG@20": 0.3525,
    "AP@100": 0.1622,
    "Success@5": 0.3333,
}


def test_the_example_of_trec_eval_gives_the_figures_of_trec_eval(
    shared_data: Callable[[str], Path], crispbench: Callable[..., Any]
) -> None:
    folder = shared_data("metrics-check/trec_eval")
    options = [argument for name in TREC_EVAL for argument in ("--measure", name)]
    answer = crispbench("measure", folder / "results.test", folder / "qrels.test", *options, "--per-query", "--json")
    assert (answer.code, answer.err) == (0, "")
    measures = json.loads(answer.out)["measures"]
    assert {name: round(entry["value"], 4) for name, entry in measures.items()} == TREC_EVAL
    per_query = {query_id: round(value, 4) for query_id, value in measures["nDCG@10"]["per_query"].items()}
    assert per_query == {"301": 0.1518, "302": 0.7530, "303": 0.0000}
    assert {entry["queries"] for entry in measures.values()} == {3}


@pytest.mark.parametrize(("name", "published"), [("trec-covid", 0.5947), ("trec-news", 0.3952)])
def test_bm25_runs_of_anserini_give_the_published_ndcg(
    name: str, published: float, shared_data: Callable[[str], Path], crispbench: Callable[..., Any]
) -> None:
    folder = shared_data(f"metrics-check/{name}")
    (qrels,) = folder.glob("qrels.*")
    answer = crispbench("measure", folder / "BM25.trec", qrels, "--measure", "nDCG@10", "--json")
    assert round(json.loads(answer.out)["measures"]["nDCG@10"]["value"], 4) == published


def test_a_judged_query_missing_from_the_run_counts_zero_and_is_named(
    tmp_path: Path, crispbench: Callable[..., Any]
) -> None:
    (tmp_path / "run.trec").write_text("q1 Q0 d 1 0.5 tag\n")
    (tmp_path / "qrels.txt").write_text("q1 0 d 1\nq2 0 d 1\n")
    answer = crispbench("measure", tmp_path / "run.trec", tmp_path / "qrels.txt", "--measure", "AP", "--json")
    warning = f"1 of 2 judged queries are not in {tmp_path / 'run.trec'} and count 0: q2"
    assert json.loads(answer.out) == {
        "measures": {"AP": {"value": 0.5, "queries": 2}},
        "missing": ["q2"],
        "warnings": [warning],
    }
    assert answer.err.count("\n") == 1 and "1 of 2" in answer.err and "q2" in answer.err


def test_measure_orders_equal_scores_by_document_id_as_trec_eval_does(
    tmp_path: Path, crispbench: Callable[..., Any]
) -> None:
    # trec_eval sorts ids as strings in descending order: d9 before d10.
    (tmp_path / "run.trec").write_text("q Q0 d10 1 0.5 tag\nq Q0 d9 2 0.5 tag\n")
    (tmp_path / "qrels.txt").write_text("q 0 d10 1\n")
    answer = crispbench("measure", tmp_path / "run.trec", tmp_path / "qrels.txt", "--measure", str(RR))
    assert answer.out == "RR\tall\t0.5000\t(1 queries)\n"


def test_counts_are_sums_over_the_judged_queries(tmp_path: Path, crispbench: Callable[..., Any]) -> None:
    (tmp_path / "run.trec").write_text("q1 Q0 d 1 0.5 tag\nq1 Q0 e 2 0.4 tag\n")
    (tmp_path / "qrels.txt").write_text("q1 0 d 1\nq1 0 e 0\nq2 0 d 1\nq2 0 f 2\n")
    names = ("num_q", "num_ret", "num_rel", "num_rel_ret", "NumRel(rel=2)", "ndcg@10")
    options = [argument for name in names for argument in ("--measure", name)]
    answer = crispbench("measure", tmp_path / "run.trec", tmp_path / "qrels.txt", *options)
    # as trec_eval 10 -c prints them; with -l 2 it prints 3 for num_rel as well, whose grades of at least 2 are one
    assert [line.split("\t")[:3] for line in answer.out.splitlines()] == [
        ["NumQ", "all", "2"],
        ["NumRet", "all", "2"],
        ["NumRel", "all", "3"],
        ["NumRet(rel=1)", "all", "1"],
        ["NumRel(rel=2)", "all", "1"],
        ["nDCG@10", "all", "0.5000"],
    ]


def test_a_run_whose_ranks_contradict_its_scores_is_warned_about(
    tmp_path: Path, crispbench: Callable[..., Any]
) -> None:
    (tmp_path / "run.trec").write_text("q1 Q0 d 2 0.5 tag\nq1 Q0 e 1 0.4 tag\nq2 Q0 d 1 2 tag\nq2 Q0 e 2 1 tag\n")
    (tmp_path / "qrels.txt").write_text("q1 0 d 1\nq2 0 d 1\n")
    answer = crispbench("measure", tmp_path / "run.trec", tmp_path / "qrels.txt", "--measure", "RR")
    assert (answer.code, answer.out) == (0, "RR\tall\t1.0000\t(2 queries)\n")
    assert "queries whose rank column disagrees with their scores; the scores decide: 1 (q1)" in answer.err


def test_a_run_that_retrieves_nothing_that_is_judged_is_warned_about(
    tmp_path: Path, crispbench: Callable[..., Any]
) -> None:
    (tmp_path / "run.trec").write_text("q1 Q0 d.txt 1 0.5 tag\nq2 Q0 e.txt 1 0.4 tag\n")
    (tmp_path / "qrels.txt").write_text("q1 0 d 1\nq1 0 e 0\nq2 0 d 1\n")
    answer = crispbench("measure", tmp_path / "run.trec", tmp_path / "qrels.txt", "--measure", "nDCG@10")
    assert answer.code == 0 and answer.err.count("\n") == 1
    assert "none of its 2 documents for 2 judged queries is among the 3 judged ones: compare the ids" in answer.err


def test_a_grade_above_gdevals_limit_is_one_line_of_usage(tmp_path: Path, crispbench: Callable[..., Any]) -> None:
    (tmp_path / "run.trec").write_text("q-1 Q0 d 1 0.5 tag\n")
    (tmp_path / "qrels.txt").write_text("q-1 0 d 5\n")
    answer = crispbench("measure", tmp_path / "run.trec", tmp_path / "qrels.txt", "--measure", "ERR@10")
    assert (answer.code, answer.out) == (2, "") and answer.err.count("\n") == 1
    assert "query 'q-1', document 'd': grade 5 is too high for ERR@10" in answer.err


def test_recall_counts_a_query_without_candidates_as_zero() -> None:
    qrels = {"q": {"a": 1, "b": 2, "c": 0}, "r": {"d": 1}}
    assert recall(qrels, {"q": ["c", "a", "b"]}, 2) == pytest.approx((1 / 2 + 0) / 2)
