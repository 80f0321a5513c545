"""Index terms in every kind of script, and the nDCG@10 that BM25 reaches with them on real collections."""

import unicodedata
from collections.abc import Callable
from pathlib import Path

import pytest

from engines import BadOptions, load
from engines.base import Retriever
from engines.bm25.analysis import names, terms
from harness.benchmarks import load as load_benchmark
from harness.figures.measures import HEADLINE, MEASURES, measure


@pytest.mark.parametrize(
    ("analysis", "text", "expected"),
    [
        ("german", "Die Häuser der Straße, 3 Kilometer", ["die", "haus", "der", "strass", "3", "kilom"]),
        ("french", "L'été dernier, les chevaux", ["l", "été", "derni", "le", "cheval"]),
        ("spanish", "Los niños corrían", ["los", "niñ", "corr"]),
        ("swedish", "husen HUSETS", ["hus", "hus"]),
        ("finnish", "taloissamme", ["talo"]),
        ("russian", "Красивые дома Москвы", ["красив", "дом", "москв"]),
        ("greek", "ΟΙ ΔΡΟΜΟΙ της Αθήνας", ["οι", "δρομ", "τ", "αθην"]),
        ("turkish", "IRMAK İstanbul kitaplarımız", ["ırmak", "istanbul", "kitap"]),  # I is the capital of ı
        ("arabic", "الْكِتَابُ والمدارس", ["كتاب", "والمدارس"]),  # short vowels are marks within the word
        ("hindi", "हिन्दी में पढ़ती", ["हिन्द", "म", "पढ़"]),
        ("persian", "می\u200cروم", ["روم"]),  # a zero-width non-joiner within the word
        ("bengali", "বাংলা ভাষা", ["বাংলা", "ভাষা"]),
        ("korean", "서울은 대한민국의 수도", ["서울은", "대한민국의", "수도"]),
        ("vietnamese", "Hà Nội", ["hà", "nội"]),
        ("simple", "The CATS, 3.5 _x", ["the", "cats", "3", "5", "_x"]),
        (
            "chinese",
            "北京大学 (PKU) 成立于1898年。我",
            ["北京", "京大", "大学", "pku", "成立", "立于", "1898", "年", "我"],
        ),
        ("chinese", "한국 中 𠮷野", ["한국", "中", "𠮷野"]),  # a character beyond the first 65,536
        ("japanese", "東京タワーは遠い", ["東京", "京タ", "タワ", "ワー", "ーは", "は遠", "遠い"]),
        ("japanese", "ﾀﾜｰ ＡＢＣ１２", ["タワ", "ワー", "abc12"]),  # half-width and full-width
        # a consonant with its vowels and marks is one character: ก รุ ง เท พ, ปี
        ("thai", "กรุงเทพ ปี 2500 Bangkok", ["กรุ", "รุง", "งเท", "เทพ", "ปี", "2500", "bangkok"]),
        ("thai", "", []),
        ("simple", "?! \u0301", []),
    ],
)
def test_terms_are_the_words_or_pairs_of_characters_of_the_script(
    analysis: str, text: str, expected: list[str]
) -> None:
    assert [unicodedata.normalize("NFC", term) for term in terms(text, analysis)] == [
        unicodedata.normalize("NFC", term) for term in expected
    ]


@pytest.mark.parametrize("analysis", ["simple", "french", "vietnamese"])
def test_a_combining_accent_gives_the_same_term_as_a_composed_one(analysis: str) -> None:
    text = "été Nội café"
    assert terms(unicodedata.normalize("NFD", text), analysis) == terms(text, analysis)


@pytest.mark.parametrize("analysis", names())
def test_every_analysis_finds_terms_in_every_script_and_none_in_punctuation(analysis: str) -> None:
    for text in ("Haus 12", "дом", "घर", "บ้าน", "家", "いえ", "집", "بيت"):
        assert all(term.strip() for term in terms(text, analysis)) and terms(text, analysis), text
    assert terms(" ,.!? \n", analysis) == []
    assert terms("\ud800", analysis) == []  # half of a surrogate pair is not a letter


def test_every_language_of_the_stemmer_is_known_and_its_older_algorithms_are_not() -> None:
    Stemmer = pytest.importorskip("Stemmer")
    assert {name for name in Stemmer.algorithms() if "porter" not in name} <= set(names())
    assert not [name for name in names() if "porter" in name]


def test_an_unknown_analysis_is_an_error_that_names_the_known_ones() -> None:
    with pytest.raises(
        BadOptions, match=r"'klingon' is not known to BM25; expected one of english, code, arabic, .*yoruba: "
    ):
        terms("qapla", "klingon")


@pytest.mark.parametrize(
    ("folder", "analysis", "measured"),
    [
        ("xquad/ar", "arabic", 0.9352),
        ("xquad/de", "german", 0.9419),
        ("xquad/hi", "hindi", 0.9560),
        ("xquad/ru", "russian", 0.9532),
        ("xquad/th", "thai", 0.9708),
        ("xquad/zh", "chinese", 0.9669),
        ("cmrc2018", "chinese", 0.9833),
    ],
)
def test_bm25_reaches_its_recorded_ndcg_on_real_collections(
    folder: str, analysis: str, measured: float, shared_data: Callable[[str], Path]
) -> None:
    benchmark = load_benchmark("beir", {"path": shared_data(f"{folder}/beir"), "queries": 1190})
    doc_ids = list(benchmark.documents)
    with load("bm25", {}) as engine:
        assert isinstance(engine, Retriever)
        engine.prepare(benchmark.documents.values(), analysis=analysis)
        lists = {key: [doc_ids[at] for at in engine.search(text, 10)] for key, text in benchmark.queries.items()}
    values = measure(benchmark.qrels, lists, MEASURES[:1])[HEADLINE]
    assert sum(values.values()) / len(values) == pytest.approx(measured, abs=0.02)
