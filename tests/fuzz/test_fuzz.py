"""Any bytes give a valid object or one documented line, never another exception: short runs and earlier failures."""

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fuzz.targets import BETWEEN, TARGETS

SEEDS = Path(__file__).parent / "seeds"
STARTS = {name: sorted(path for path in (SEEDS / name).iterdir()) for name in TARGETS}

# Pieces that each format acts on; arbitrary bytes come between them.
PIECES = {
    "config": (
        *("name: x\n", "engines: ", "{e: {kind: fake, ", "seed: ", "benchmarks: [{source: stdlib}]\n", "candidates: "),
        *("&a ", "*a", "<<: *a\n", "[", "]", "{", "}", ": ", "- ", "!!int ", "!!float x", "!!bool ", "!!timestamp 1"),
        *(
            "!!python/name:os.system ",
            "2024-99-99",
            "0x" + "f" * 4000,
            "9" * 5000,
            "1e999",
            ".nan",
            '"\\ud800"',
            "---\n",
        ),
    ),
    "run": (
        *("q1 Q0 d1 1 ", "0.5 tag\n", "nan", "1e999", "1_0", "\0", "\x1f\x8b", "\ufeff", "\u2028", "٣", "\r"),
        *("# ", "\u00a0", "\t\v", " more text\n", "qid Q0 docno rank score tag\n"),
    ),
    "qrels": (
        *("q1\td1\t1\n", "q1 0 d1 1\n", "score\n", "999999999999", "-1", "\0", "٣", "\t", "9" * 5000, "\ufeff"),
        *(
            "query-id\tcorpus-id\tscore\n",
            "label qid docno\n",
            "#",
            '"',
            '""',
            "\u00a0",
            "1.0\n",
            "1e999",
            "2e5\n",
            ",",
        ),
    ),
    "beir": (
        *('{"_id": "d1", "text": "x"}\n', '{"_id": ', '"\\u0000"', '"\\ud800"', '"title": ', "[" * 900, "9" * 5000),
        *("NaN", "null", "true", '"text": "a"}\n', "q1\td1\t1\n", BETWEEN.decode()),
    ),
    "answer": (
        *('{"data": [', '{"results": [', '"index": ', '"score": ', '"relevance_score": ', '"label": "1"', '"probs": ['),
        *("1e308", "-1e308", "NaN", "Infinity", "true", "null", "[" * 985 + "]" * 985, "9" * 4000, "}", "]", ", "),
    ),
    "header": ("Wed, 21 Oct 2015 07:28:00 GMT", "+9999", "99:99:99", "9" * 400, "²", "-1", "1.5"),
}
PIECES["template"] = PIECES["config"]

names = ("score", "label", "index", "data", "results", "probs", "relevance_score", "usage", "meta", "tokens", "")
numbers = st.integers(-2, 3) | st.floats() | st.just(10**400) | st.sampled_from([1.7e308, -1.7e308, 0.0, 1.0])
answers = st.recursive(
    st.none() | st.booleans() | numbers | st.sampled_from(["1", "0", "", "LABEL_0"]) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(names), inner, max_size=4),
    max_leaves=20,
)


def near(name: str) -> st.SearchStrategy[bytes]:
    """Pieces of the format, or a valid file in which pieces replace some bytes."""
    pieces = [piece.encode() for piece in PIECES.get(name, ())] or [b"PK\x01\x02", b"PK\x05\x06", b"\xff\xff\xff\xff"]
    some = st.lists(st.sampled_from(pieces) | st.binary(max_size=4), max_size=12).map(b"".join)
    starts = st.sampled_from([path.read_bytes() for path in STARTS[name]])
    shares = st.floats(0, 1)
    return some | st.builds(_spliced, starts, shares, shares, some)


def _spliced(start: bytes, first: float, second: float, piece: bytes) -> bytes:
    cut, end = sorted((int(first * len(start)), int(second * len(start))))
    return start[:cut] + piece + start[end:]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz")


@pytest.mark.parametrize(
    ("name", "path"), [pytest.param(name, path, id=f"{name}/{path.name}") for name in TARGETS for path in STARTS[name]]
)
def test_earlier_failures_give_a_valid_object_or_one_line(name: str, path: Path, folder: Path) -> None:
    TARGETS[name](path.read_bytes(), folder)


@pytest.mark.parametrize("name", TARGETS)
def test_any_bytes_give_a_valid_object_or_one_line(name: str, folder: Path) -> None:
    @settings(max_examples=100, deadline=None)
    @given(near(name))
    def feed(data: bytes) -> None:
        TARGETS[name](data, folder)

    feed()


@settings(max_examples=150, deadline=None)
@given(answers)
def test_any_json_of_a_server_gives_finite_scores_or_one_line(folder: Path, document: object) -> None:
    TARGETS["answer"](json.dumps(document).encode(), folder)
