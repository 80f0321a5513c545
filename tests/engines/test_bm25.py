"""BM25's terms and scores, computed by hand."""

import math
from typing import Any

import pytest

from engines import BadOptions, Pair, ScoringFailed, load
from engines.bm25.engine import BM25

CORPUS = ["Cat, cat and the dog.", "A dog!", "bird bird bird bird"]


def bm25(documents: list[str], collection: str = "english", **options: Any) -> BM25:
    engine = load("bm25", options)
    assert isinstance(engine, BM25)
    engine.prepare(documents, analysis=collection)
    return engine


@pytest.mark.parametrize(
    ("text", "terms"),
    [
        ("The runners were running", ["runner", "were", "run"]),  # "were" is not among Lucene's 33 stop words
        ("Einstein's theories", ["einstein", "theori"]),
        ("Einstein’s", ["einstein"]),
        ("don't", ["don't"]),
        ("version 3.5, U.S.A.", ["version", "3.5", "u.s.a"]),
        ("BRCA1-mutated cells/tissue", ["brca1", "mutat", "cell", "tissu"]),
        ("snake_case camelCase", ["snake_cas", "camelcas"]),
        ("of the and", []),
        ("", []),
        ("Straße café", ["straße", "café"]),
    ],
)
def test_english_terms_equal_those_of_lucenes_analyzer(text: str, terms: list[str]) -> None:
    assert bm25([], "english").terms(text) == terms


@pytest.mark.parametrize(
    ("text", "terms"),
    [
        ("camelCase", ["camel", "case"]),
        ("snake_case", ["snake", "case"]),
        ("parseHTTPServer2Go", ["pars", "http", "server2", "go"]),
        ("__init__(self, maxValue=3.5)", ["init", "self", "max", "valu", "3.5"]),
        ("SCREAMING_SNAKE", ["scream", "snake"]),
        ("os.path.join", ["os.path.join"]),
        ("sha256", ["sha256"]),
        ("the user's", ["user"]),
    ],
)
def test_code_terms_are_the_words_inside_identifiers(text: str, terms: list[str]) -> None:
    assert bm25([], "code").terms(text) == terms


def test_scores_match_lucenes_formula_by_hand() -> None:
    # N = 3, lengths 3, 1, 4, mean 8/3, k1 = 0.9, b = 0.4
    # cat: idf ln(1 + 2.5/1.5), in document 1 twice: 2 / (2 + 0.9 (0.6 + 0.4 * 3/(8/3))) = 2 / 2.945
    # dog: idf ln(1 + 1.5/2.5), in document 1 once: 1 / 1.945
    #      and in document 2 once: 1 / (1 + 0.9 (0.6 + 0.4 * 1/(8/3))) = 1 / 1.675
    cat, dog = math.log(1 + 2.5 / 1.5), math.log(1 + 1.5 / 2.5)
    with bm25(CORPUS) as engine:
        scores = engine.score([Pair(query, document) for query in ("cats", "cat dog") for document in CORPUS])
    expected = [cat * 2 / 2.945, 0, 0, cat * 2 / 2.945 + dog / 1.945, dog / 1.675, 0]
    assert scores == pytest.approx(expected, abs=1e-6)


def test_a_word_that_occurs_twice_in_a_query_counts_twice() -> None:
    engine = bm25(CORPUS)
    once, twice = engine.score([Pair("cat", CORPUS[0]), Pair("cat cat", CORPUS[0])])
    assert twice == pytest.approx(2 * once)


def test_k1_and_b_come_from_the_options() -> None:
    # no length normalisation and k1 = 1: 2 / (2 + 1)
    score = bm25(CORPUS, k1=1.0, b=0.0).score([Pair("cat", CORPUS[0])])[0]
    assert score == pytest.approx(math.log(1 + 2.5 / 1.5) * 2 / 3, abs=1e-6)


def test_search_ranks_by_score_and_leaves_out_documents_without_query_terms() -> None:
    engine = bm25(CORPUS)
    assert engine.search("dog", 10) == [1, 0]
    assert engine.search("dog", 1) == [1]
    assert engine.search("zebra", 10) == []
    assert engine.search("zebra bird", 10) == [2]


def test_search_keeps_the_order_of_the_corpus_among_equal_scores() -> None:
    documents = [("once here", "here, here again", "nothing")[number % 3] for number in range(300)]
    assert bm25(documents).search("here", 300) == [*range(1, 300, 3), *range(0, 300, 3)]


def test_a_duplicate_document_is_found_twice_with_one_score() -> None:
    engine = bm25(["a cat", "a dog", "a cat"])
    assert engine.search("cat", 10) == [0, 2]
    assert len(set(engine.score([Pair("cat", "a cat")] * 2))) == 1


@pytest.mark.parametrize("query", ["", "the", "?!", "zebra"])
def test_a_query_without_known_terms_scores_zero_everywhere(query: str) -> None:
    engine = bm25(CORPUS)
    assert engine.score([Pair(query, document) for document in CORPUS]) == [0, 0, 0]
    assert engine.search(query, 10) == []


@pytest.mark.parametrize("documents", [[], [""], ["the", "of"]])
def test_a_search_of_a_corpus_without_terms_finds_nothing(documents: list[str]) -> None:
    engine = bm25(documents)
    assert engine.search("cat", 10) == []
    assert engine.score([Pair("cat", document) for document in documents]) == [0] * len(documents)


def test_a_new_corpus_replaces_the_old_one() -> None:
    engine = bm25(CORPUS)
    engine.prepare(["readFile here"], analysis="code")
    assert engine.search("file", 10) == [0]
    with pytest.raises(ScoringFailed, match="document 'A dog!' was not in the corpus"):
        engine.score([Pair("dog", "A dog!")])


def test_the_analysis_option_overrides_that_of_the_collection() -> None:
    assert bm25(["readFile"], "english", analysis="code").search("file", 1) == [0]
    assert bm25(["readFile"], "english").search("file", 1) == []


def test_an_analysis_that_bm25_does_not_know_is_refused() -> None:
    with pytest.raises(BadOptions, match="analysis 'klingon' is not known to BM25; expected one of english, code, "):
        bm25(CORPUS, "klingon")


def test_scoring_and_search_without_a_corpus_fail() -> None:
    engine = load("bm25", {})
    assert isinstance(engine, BM25)
    with pytest.raises(ScoringFailed, match="has no corpus: call prepare first"):
        engine.score([Pair("cat", "a cat")])
    with pytest.raises(ScoringFailed, match="call prepare first"):
        engine.search("cat", 10)


@pytest.mark.parametrize(("options", "message"), [({"b": 1.5}, "b = 1.5"), ({"k1": -1}, "k1 = -1")])
def test_parameters_out_of_range_are_refused(options: dict[str, float], message: str) -> None:
    with pytest.raises(BadOptions, match=message):
        load("bm25", options)


def test_the_description_holds_the_parameters() -> None:
    description = load("bm25", {"k1": 1.2, "analysis": "code"}).describe().document()
    assert "k1=1.2, b=0.4" in description["model"]
    assert description["analysis"] == "code"
