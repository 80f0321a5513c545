"""The analysis that a lexical first stage needs for mteb's language codes (ISO 639-3 and a script, `deu-Latn`).

The names of analyses are those of engines/bm25/analysis.py; other languages are split into words and not stemmed.
"""

from collections.abc import Sequence

ANALYSES = {
    "ara": "arabic", "arb": "arabic", "ben": "bengali", "cat": "catalan", "ces": "czech", "cmn": "chinese",
    "dan": "danish", "deu": "german", "ell": "greek", "eng": "english", "epo": "esperanto", "est": "estonian",
    "eus": "basque", "fas": "persian", "fin": "finnish", "fra": "french", "gle": "irish", "hin": "hindi",
    "hun": "hungarian", "hye": "armenian", "ind": "indonesian", "ita": "italian", "jpn": "japanese",
    "kor": "korean", "lit": "lithuanian", "nep": "nepali", "nld": "dutch", "nno": "norwegian", "nob": "norwegian",
    "nor": "norwegian", "npi": "nepali", "pes": "persian", "pol": "polish", "por": "portuguese", "ron": "romanian",
    "rus": "russian", "sot": "sesotho", "spa": "spanish", "srp": "serbian", "swa": "swahili", "swe": "swedish",
    "swh": "swahili", "tam": "tamil", "tel": "telugu", "tha": "thai", "tur": "turkish", "vie": "vietnamese",
    "yid": "yiddish", "yor": "yoruba", "zho": "chinese",
}  # fmt: skip
PROGRAM = "Code"  # script of programming languages, as in python-Code


def analysis_of(languages: Sequence[str]) -> str:
    """`code` if any of the languages is a programming language, else the analysis of the first one."""
    if any(language.endswith(f"-{PROGRAM}") for language in languages):
        return "code"
    code = languages[0].partition("-")[0] if languages else "eng"
    return ANALYSES.get(code, "simple")
