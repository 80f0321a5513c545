"""From a text to its index terms, by the name of its language. It knows nothing of indexes or scores.

`english` and `code` are Lucene's EnglishAnalyzer; `code` also splits identifiers. Languages with a stemmer in PyStemmer
have stemmed words. `chinese`, `japanese` and `thai`, which put no space between words, have pairs of neighbouring
characters, as Lucene's CJKAnalyzer, and whole words of other scripts. `simple` has words.
"""

import re
import sys
import unicodedata
from collections.abc import Callable, Iterable
from functools import cache
from itertools import groupby

from engines.base import BadOptions, require
from engines.spelling import expected

# Lucene's EnglishAnalyzer, as Anserini runs it: words by Unicode rules (an apostrophe or a full stop inside a
# word stays, "3.5" is one word), possessive removed, these 33 stop words, Porter's stemmer.
ENGLISH_WORD = re.compile(r"\w+(?:['’.]\w+)*")
POSSESSIVE = re.compile(r"['’][sS]$")
STOP_WORDS = frozenset(
    "a an and are as at be but by for if in into is it no not of on or such that the their then there these they "
    "this to was will with".split()
)
# Borders inside an identifier: camelCase, PascalCase, HTTPServer, snake_case; sha256 stays one word
IDENTIFIER_BORDER = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])|_+")
# Han with its iteration marks, hiragana, katakana and its extensions
CJK = r"\u2e80-\u2fdf\u3005-\u3007\u3021-\u3029\u3040-\u30fa\u30fc-\u30ff\u31f0-\u31ff\u3400-\u9fff\uf900-\ufaff"
CJK += r"\U00016fe0-\U00016ff1\U0001aff0-\U0001b16f\U00020000-\U0003ffff"
# A letter with the vowel before it and the marks and vowels after it (Theeramunkong et al. 2000, "Character cluster
# based Thai information retrieval"). XQuAD nDCG@10 is 0.971 with pairs of these and 0.918 with single code points.
THAI = r"[\u0e40-\u0e44]?[\u0e01-\u0e3a\u0e40-\u0e4e][\u0e30-\u0e3a\u0e45\u0e47-\u0e4e]*"
CHARACTER = {"chinese": f"[{CJK}]", "japanese": f"[{CJK}]", "thai": THAI}
# Languages of MIRACL and Mr.TyDi without a stemmer in Snowball, analysed like `simple`
UNSTEMMED = ("bengali", "korean", "simple", "swahili", "telugu", "vietnamese", "yoruba")
JOINERS = "\u200c\u200d"  # zero-width; inside words of Persian and Indic scripts

Analyzer = Callable[[str], list[str]]


def names() -> list[str]:
    """Names of all analyses, `english` and `code` first."""
    return ["english", "code", *sorted({*_snowball(), *CHARACTER, *UNSTEMMED} - {"english"})]


def terms(text: str, analysis: str) -> list[str]:
    """The index terms of a text, in order. Raises BadOptions for an unknown analysis."""
    return analyzer(analysis)(text)


@cache
def analyzer(analysis: str) -> Analyzer:
    """The function from text to terms by the name of an analysis. Raises BadOptions, EngineUnavailable."""
    if analysis == "english":
        return _english
    if analysis == "code":
        return lambda text: _english(IDENTIFIER_BORDER.sub(" ", text))
    if analysis in CHARACTER:
        return _paired(CHARACTER[analysis])
    if analysis in UNSTEMMED:
        return _words
    if analysis in _snowball():
        return _stemmed(analysis)
    raise BadOptions(
        f"analysis {analysis!r} is not known to BM25; {expected(analysis, names())}: "
        "take simple for any other language with spaces"
    )


def _snowball() -> list[str]:
    """Languages of PyStemmer, without its older algorithms for English and Dutch."""
    return [name for name in require("Stemmer", extra="bm25").algorithms() if "porter" not in name]


def _english(text: str) -> list[str]:
    words = (POSSESSIVE.sub("", word) for word in ENGLISH_WORD.findall(text.lower()))
    return list(_stem("porter")([word for word in words if word not in STOP_WORDS]))


def _stemmed(language: str) -> Analyzer:
    stem = _stem(language)
    if language == "turkish":  # its capitals of ı and i are I and İ, while `lower` follows English
        return lambda text: list(stem(_words(text.translate({ord("I"): "ı", ord("İ"): "i"}))))
    return lambda text: list(stem(_words(text)))


@cache
def _stem(algorithm: str) -> Callable[[list[str]], list[str]]:
    stem: Callable[[list[str]], list[str]] = require("Stemmer", extra="bm25").Stemmer(algorithm).stemWords
    return stem


def _words(text: str) -> list[str]:
    """Runs of letters, digits and marks in lower case; in NFC, so that é is one character however it was typed."""
    return _word().findall(unicodedata.normalize("NFC", text).lower())


def _paired(character: str) -> Analyzer:
    """Pairs of neighbouring characters in a run of a script; a single character stays alone.

    Compatibility forms are equal: full-width Latin and half-width katakana give the same words as the usual forms.
    """
    run, single = re.compile(f"(?:{character})+"), re.compile(character)

    def cut(text: str) -> list[str]:
        terms: list[str] = []
        text = unicodedata.normalize("NFKC", text).lower()
        end = 0
        for match in run.finditer(text):
            terms += _word().findall(text, end, match.start())
            characters, end = single.findall(match[0]), match.end()
            terms += ["".join(characters[start : start + 2]) for start in range(max(1, len(characters) - 1))]
        return terms + _word().findall(text, end)

    return cut


@cache
def _word() -> re.Pattern[str]:
    r"""Runs of `\w` and of marks, which `\w` excludes: vowel signs of Hindi, Thai and Arabic would cut words."""
    marks = (number for number in range(sys.maxunicode + 1) if unicodedata.category(chr(number))[0] == "M")
    ranges = "".join(f"{chr(first)}-{chr(last)}" for first, last in _runs(marks))
    return re.compile(rf"\w[\w{ranges}{JOINERS}]*")


def _runs(numbers: Iterable[int]) -> list[tuple[int, int]]:
    """First and last number of each run of consecutive numbers; the numbers ascend."""
    grouped = groupby(enumerate(numbers), key=lambda item: item[1] - item[0])
    runs = [[number for _, number in group] for _, group in grouped]
    return [(run[0], run[-1]) for run in runs]
