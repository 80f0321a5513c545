"""Token ids on disk: a prompt from the cache equals the template's own, even after damage to the file."""

import copy
import os
import resource
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from threading import Thread

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from engines import ScoringFailed
from engines.prompts.encoder import Prompt, PromptEncoder
from engines.prompts.template import Template, load_template
from engines.prompts.token_cache import TokenCache

ROOT = Path(__file__).parents[2]
IDENTITY = {"tokenizer": "a", "tokenizers": "1"}
IDS = {"one": [1], "": [], "drei": [3, 151643, 3], "猫" * 9: list(range(40))}
TEXTS = list(IDS)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CRISPBENCH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "tokens"


@pytest.fixture
def cache() -> Iterator[TokenCache]:
    made = TokenCache(IDENTITY)
    yield made
    made.close()


@pytest.fixture
def encoder(tokenizer: Tokenizer, tiny_template: str) -> Iterator[PromptEncoder]:
    made = PromptEncoder(load_template(tiny_template), tokenizer, max_tokens=40)
    yield made
    made.close()


@pytest.fixture
def tokenised(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every text that an encoder tokenises as content during the test."""
    seen: list[str] = []
    real = PromptEncoder._encode_content

    def recorded(self: PromptEncoder, texts: list[str]) -> list[list[int]]:
        seen.extend(texts)
        return real(self, texts)

    monkeypatch.setattr(PromptEncoder, "_encode_content", recorded)
    return seen


def reopened() -> dict[str, list[int]]:
    """The ids that a newly opened cache finds; it then stores the missing ones, as a run does."""
    cache = TokenCache(IDENTITY)
    stored = cache.find(TEXTS)
    cache.keep({text: ids for text, ids in IDS.items() if text not in stored})
    cache.close()
    assert stored.items() <= IDS.items()
    return stored


# Ids

SPECIALS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
awkward = st.text(alphabet=" \n\r\t.?!'s1aehrtqy é́中\u00a0\u2028<|>{}", max_size=14)
text = st.lists(
    st.one_of(
        awkward,
        st.text(max_size=20),
        st.sampled_from([*SPECIALS, "{document}", " \n", "...\n\n", "the query", " sear"]),
    ),
    max_size=3,
).map("".join)
OWN = {
    "name": "own",
    "description": "text next to the document joins it: ' sear' is one token here, ' searery' six",
    "source": "this test",
    "labels": {"positive": "1", "negative": "0"},
    "pieces": ["a <|im_start|>", "{query}", "th{document}ery\n", "<|im_end|>"],
}


def by_rule(template: Template, tokenizer: Tokenizer, query: str, document: str, max_tokens: int) -> list[int]:
    """Ids by the template's rule: every piece alone, content as plain text, the query and the document cut to fit."""

    def ids(piece: str, *, content: bool) -> list[int]:
        tokenizer.encode_special_tokens = content
        try:
            return list(tokenizer.encode(piece, add_special_tokens=False).ids)
        finally:
            tokenizer.encode_special_tokens = False

    filled = [template.fill(piece, query, document) for piece in template.pieces]
    parts = [ids(text, content="{" in piece) for text, piece in zip(filled, template.pieces, strict=True)]

    def fit(index: int, slot: str, value: str, room: int) -> None:
        if len(parts[index]) > room:
            before, after = template.fill(template.pieces[index].replace(slot, "\0")).split("\0")
            end = ids(after, content=True)
            parts[index] = ids(before + value, content=True)[: room - len(end)] + end

    first, last = template.query_piece, template.document_piece
    left = max_tokens - sum(len(part) for part in parts[:first] + parts[last + 1 :])
    between = sum(len(part) for part in parts[first + 1 : last])
    least = sum(len(ids(side, content=True)) for side in template.pieces[last].split("{document}")) + 1
    fit(first, "{query}", query, min(left * 3 // 4, left - between - least))
    fit(last, "{document}", document, left - between - len(parts[first]))
    return [token for part in parts for token in part]


Rule = Callable[[str, str, int], list[int]]


@pytest.fixture(params=["mxbai-v2-seq qwen2", "mxbai-v2 qwen2", "demo demo", "mxbai-v2-seq tiny", "own tiny"])
def rule(request: pytest.FixtureRequest, tokenizer: Tokenizer) -> Iterator[tuple[PromptEncoder, Rule]]:
    """An encoder, and the rule that gives the expected ids of a query, a document and a limit."""
    name, _, vocabulary = request.param.partition(" ")
    tokenizers: dict[str, Callable[[], Tokenizer]] = {
        "qwen2": lambda: request.getfixturevalue("qwen2"),
        "demo": lambda: Tokenizer.from_file(str(ROOT / "checkpoints/demo/tokenizer.json")),
        "tiny": lambda: tokenizer,
    }
    used = tokenizers[vocabulary]()
    template = Template.model_validate(OWN) if name == "own" else load_template(name)
    encoder = PromptEncoder(template, used, max_tokens=8192)
    yield encoder, lambda query, document, limit: by_rule(template, used, query, document, limit)
    encoder.close()


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    query=text,
    documents=st.lists(st.tuples(text, st.booleans()), max_size=4),
    room=st.one_of(st.integers(3, 25), st.just(8000)),
    longer_when_prepared=st.integers(-9, 9),
)
@example(query="q", documents=[("a sear", True), ("a per", False)], room=3, longer_when_prepared=0)
def test_prepared_documents_give_exactly_the_ids_of_the_templates_own_rule(
    rule: tuple[PromptEncoder, Rule],
    query: str,
    documents: list[tuple[str, bool]],
    room: int,
    longer_when_prepared: int,
) -> None:
    encoder, expected = rule
    encoder.max_tokens = 8192
    least = encoder.encode(query, [""])
    limit = len(least.prefix) + len(least.tails[0]) + room
    encoder.max_tokens = limit + longer_when_prepared  # documents prepared for cutting are not always cut
    encoder.prepare([document for document, prepared in documents if prepared])
    encoder.max_tokens = limit
    texts = [document for document, _ in documents]
    kept = encoder.encode(query, texts)
    assert [kept.prefix + tail for tail in kept.tails] == [expected(query, text, limit) for text in texts]
    without = copy.copy(encoder)
    without._cache = None
    assert without.encode(query, texts) == kept  # including the counts of cut documents and special texts


# Tokenised once


def test_a_prepared_document_is_not_tokenised_again_by_any_query_or_encoder(
    encoder: PromptEncoder, tokenizer: Tokenizer, tiny_template: str, tokenised: list[str]
) -> None:
    documents = ["a document", "the query " * 30, "a document"]
    encoder.prepare(documents)
    assert [text for text in tokenised if text] == ["a document", "the query " * 30]
    prompts = [encoder.encode(query, documents) for query in ("one", "two")]
    second = PromptEncoder(load_template(tiny_template), tokenizer, max_tokens=60)
    second.prepare([*documents, "new"])
    longer = second.encode("one", documents)
    second.close()
    assert [len(tail) for tail in longer.tails] > [len(tail) for tail in prompts[0].tails]
    assert [text for text in tokenised if text in {*documents, "new"}] == ["a document", "the query " * 30, "new"]


def test_a_document_that_will_be_cut_is_also_prepared_without_its_suffix(
    tokenizer: Tokenizer, tokenised: list[str]
) -> None:
    encoder = PromptEncoder(Template.model_validate(OWN), tokenizer, max_tokens=40)
    long = "query " * 40
    encoder.prepare(["short", long])
    assert tokenised[-3:] == ["thshortery\n", f"th{long}ery\n", f"th{long}"]
    tokenised.clear()
    assert encoder.encode("a", ["short", long]).counts.truncated == 1
    assert not any("short" in text or long in text for text in tokenised)
    encoder.close()


def test_another_tokenizer_has_its_own_cache(
    encoder: PromptEncoder, tokenizer: Tokenizer, tiny_template: str, folder: Path
) -> None:
    encoder.prepare(["a document"])
    extended = Tokenizer.from_str(tokenizer.to_str())
    extended.add_tokens(["document"])
    extended_encoder = PromptEncoder(load_template(tiny_template), extended, max_tokens=40)
    extended_encoder.prepare(["a document"])
    assert extended.token_to_id("document") in extended_encoder.encode("q", ["a document"]).tails[0]
    extended_encoder.close()
    assert len(list(folder.iterdir())) == 2


def test_scoring_writes_nothing_to_the_cache(encoder: PromptEncoder, folder: Path) -> None:
    encoder.prepare(["a document"])
    (path,) = folder.iterdir()
    before = path.read_bytes()
    encoder.encode("query", ["a document", "a new one"])
    assert path.read_bytes() == before


def test_an_encoder_that_was_not_prepared_leaves_nothing_on_disk(encoder: PromptEncoder, folder: Path) -> None:
    encoder.encode("query", ["a document"])
    assert not folder.exists()


def test_a_lone_surrogate_fails_its_query_and_not_the_preparation(encoder: PromptEncoder) -> None:
    encoder.prepare(["a document", "\ud800"])
    assert len(encoder.encode("query", ["a document"]).tails) == 1
    with pytest.raises(ScoringFailed, match="UTF-8"):
        encoder.encode("query", ["a document", "\ud800"])


def test_documents_are_read_once_and_encoded_a_chunk_at_a_time(
    encoder: PromptEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engines.prompts.encoder.CHUNK", 10)
    sizes: list[int] = []
    real = TokenCache.keep

    def recorded(self: TokenCache, ids: Mapping[str, Sequence[int]]) -> None:
        sizes.append(len(ids))
        real(self, ids)

    monkeypatch.setattr(TokenCache, "keep", recorded)
    documents = iter(["12345", "67890", "a" * 50, "1", "2", "3"])
    encoder.prepare(documents)
    assert sizes == [2, 1, 3]
    assert list(documents) == []


def test_another_thread_finds_prepared_documents(encoder: PromptEncoder, tokenised: list[str]) -> None:
    encoder.prepare(["a document"])
    prompts: list[Prompt] = []
    thread = Thread(target=lambda: prompts.append(encoder.encode("query", ["a document"])))
    thread.start()
    thread.join()
    assert prompts == [encoder.encode("query", ["a document"])]
    assert tokenised.count("a document") == 1


# File


def test_a_cache_finds_the_ids_of_its_own_identity_only(cache: TokenCache, folder: Path) -> None:
    assert cache.find(TEXTS) == {}
    cache.keep(IDS)
    assert cache.find([*TEXTS, "absent", "\ud800"]) == IDS
    same = TokenCache(IDENTITY)
    assert same.find(TEXTS) == IDS
    different = TokenCache({**IDENTITY, "tokenizers": "2"})
    assert different.find(TEXTS) == {}
    same.close()
    different.close()
    assert len(list(folder.iterdir())) == 2


def test_more_texts_than_fit_one_statement_are_found(cache: TokenCache) -> None:
    many = {str(number): [number] for number in range(2500)}
    cache.keep(many)
    assert cache.find(list(many)) == many


def test_the_file_holds_the_identity_of_the_cache(cache: TokenCache) -> None:
    connection = sqlite3.connect(cache.path)
    assert dict(connection.execute("SELECT name, value FROM identity")) == {"format": "1", **IDENTITY}
    connection.close()


def test_a_closed_cache_finds_and_keeps_nothing(cache: TokenCache, caplog: pytest.LogCaptureFixture) -> None:
    cache.keep(IDS)
    cache.close()
    cache.keep({"two": [2]})
    assert cache.find([*TEXTS, "two"]) == {}
    assert caplog.records == []


def test_any_flipped_bit_is_repaired_and_no_wrong_id_is_read(
    cache: TokenCache, caplog: pytest.LogCaptureFixture
) -> None:
    cache.keep(IDS)
    cache.close()
    whole = cache.path.read_bytes()
    written = [position for position, byte in enumerate(whole) if byte]  # pages are mostly empty
    losses = []
    for number, position in enumerate(written[::13]):
        damaged = bytearray(whole)
        damaged[position] ^= 1 << number % 8
        cache.path.write_bytes(damaged)
        caplog.clear()
        losses.append(len(IDS) - len(reopened()))
        assert len(caplog.records) <= 1
        reopened()  # damage that only a write detects loses the ids found before it
        assert reopened() == IDS
    assert 0 < sum(losses) < len(losses) * len(IDS)


def test_ids_of_another_text_are_not_read(cache: TokenCache, caplog: pytest.LogCaptureFixture) -> None:
    cache.keep(IDS)
    connection = sqlite3.connect(cache.path)
    row = connection.execute("SELECT checksum, ids FROM texts WHERE length(ids) = 160").fetchone()
    with connection:
        connection.execute("UPDATE texts SET checksum = ?, ids = ?", row)
    connection.close()
    assert cache.find(TEXTS) == {TEXTS[-1]: IDS[TEXTS[-1]]}
    assert len(caplog.records) == 1


@pytest.mark.parametrize("kept", [0, 1, 100, 16384, 20000, 32768, -16384, -1])
def test_a_truncated_file_is_rebuilt(kept: int, cache: TokenCache) -> None:
    cache.keep(IDS)
    cache.close()
    cache.path.write_bytes(cache.path.read_bytes()[:kept])
    reopened()
    assert reopened() == IDS


def test_a_file_that_is_not_a_database_is_replaced_with_one_warning(
    cache: TokenCache, caplog: pytest.LogCaptureFixture
) -> None:
    cache.close()
    cache.path.write_bytes(b"no database " * 5000)
    assert reopened() == {}
    assert reopened() == IDS
    (record,) = caplog.records
    assert record.getMessage() == f"crispbench: {cache.path} is damaged: lost ids are encoded again"


def test_damage_to_an_open_cache_loses_its_ids_with_one_warning(
    cache: TokenCache, caplog: pytest.LogCaptureFixture
) -> None:
    cache.keep(IDS)
    with cache.path.open("r+b") as file:
        file.write(os.urandom(cache.path.stat().st_size))
    cache.find(TEXTS)
    cache.keep(IDS)
    assert cache.find(TEXTS) == IDS
    assert len(caplog.records) == 1
    assert reopened() == IDS


def test_damage_to_rows_and_then_to_the_whole_file_is_repaired(
    cache: TokenCache, caplog: pytest.LogCaptureFixture
) -> None:
    cache.keep(IDS)
    connection = sqlite3.connect(cache.path)
    with connection:
        connection.execute("UPDATE texts SET ids = x'00000000' WHERE checksum % 2 = 1")
    connection.close()
    assert 0 < len(cache.find(TEXTS)) < len(IDS)
    cache.path.write_bytes(b"no database " * 5000)
    cache.find(TEXTS)
    cache.keep(IDS)
    assert cache.find(TEXTS) == IDS
    assert len(caplog.records) == 1


def test_without_a_cache_folder_there_is_one_warning_and_prompts_stay_the_same(
    encoder: PromptEncoder, folder: Path, caplog: pytest.LogCaptureFixture, tokenised: list[str]
) -> None:
    expected = encoder.encode("query", ["a document", "other"])
    folder.parent.write_text("a file, where a folder should be")
    tokenised.clear()
    encoder.prepare(["a document"])
    encoder.prepare(["other"])
    assert "a document" not in tokenised  # it could not be stored
    assert encoder.encode("query", ["a document", "other"]) == expected
    (record,) = caplog.records
    assert record.getMessage().startswith(f"crispbench: new token ids are not stored on disk, at {folder}")
    assert "Not a directory" in record.getMessage()


def test_a_read_only_file_is_used(
    cache: TokenCache, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache.keep(IDS)
    cache.close()
    real = sqlite3.connect

    def only_to_read(path: Path, **settings: object) -> sqlite3.Connection:  # file modes do not bind root
        return real(f"file:{path}?mode=ro", uri=True, **settings)  # type: ignore[call-overload, no-any-return]

    monkeypatch.setattr("engines.prompts.token_cache.sqlite3.connect", only_to_read)
    read_only = TokenCache(IDENTITY)
    assert read_only.find(TEXTS) == IDS
    assert caplog.records == []
    read_only.keep({"new": [9]})
    read_only.keep({"newer": [9]})
    assert read_only.find(["new", "newer", *TEXTS]) == IDS
    read_only.close()
    (record,) = caplog.records
    assert "attempt to write a readonly database" in record.getMessage()


def test_a_full_disk_is_one_warning_and_loses_only_new_ids(cache: TokenCache, caplog: pytest.LogCaptureFixture) -> None:
    cache.keep(IDS)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (cache.path.stat().st_size + 16384, limits[1]))
    try:
        cache.keep({f"long {number}": list(range(3000)) for number in range(20)})
        cache.keep({"two": [2]})
        assert cache.find(["long 0", "long 19", "two", *TEXTS]) == IDS
        assert not cache.keeps
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert len(caplog.records) == 1
    assert reopened() == IDS


WRITER = """
import sys
sys.path[:0] = [{tests!r}]
from test_token_cache import IDENTITY, TokenCache
cache = TokenCache(IDENTITY)
print("ready", flush=True)
sys.stdin.readline()
for number in range(0, 300, 3)[:: int(sys.argv[1])]:
    rows = {{str(i): [i] * 50 for i in range(number, number + 5)}}
    assert cache.find(list(rows)).items() <= rows.items()
    cache.keep(rows)
    assert cache.find(list(rows)) == rows
print("done", flush=True)
while len(sys.argv) > 2:
    cache.keep({{str(i): [i] * 50 for i in range(3000)}})
"""
WRITTEN = {str(number): [number] * 50 for number in range(302)}


@pytest.fixture
def writers() -> Iterator[Callable[..., list[subprocess.Popen[str]]]]:
    started: list[subprocess.Popen[str]] = []

    def start(*steps: Sequence[str]) -> list[subprocess.Popen[str]]:
        code, pipe = WRITER.format(tests=str(Path(__file__).parent)), subprocess.PIPE
        command = [sys.executable, "-c", code]
        for step in steps:
            started.append(
                subprocess.Popen([*command, *step], cwd=ROOT, stdin=pipe, stdout=pipe, stderr=pipe, text=True)
            )
        for writer in started:
            assert writer.stdin is not None and writer.stdout is not None
            assert writer.stdout.readline() == "ready\n"
        for writer in started:
            assert writer.stdin is not None
            writer.stdin.write("go\n")
            writer.stdin.flush()
        return started

    yield start
    for writer in started:
        writer.kill()
        writer.communicate(timeout=60)


def test_two_processes_can_write_at_once(
    writers: Callable[..., list[subprocess.Popen[str]]], cache: TokenCache, caplog: pytest.LogCaptureFixture
) -> None:
    answers = [writer.communicate(timeout=60) for writer in writers(["1"], ["-1"])]
    assert answers == [("done\n", "")] * 2
    assert cache.find(list(WRITTEN)) == WRITTEN
    assert caplog.records == []


def test_a_process_killed_while_writing_leaves_an_intact_file(
    writers: Callable[..., list[subprocess.Popen[str]]], cache: TokenCache, caplog: pytest.LogCaptureFixture
) -> None:
    (writer,) = writers(["1", "on and on"])
    assert writer.stdout is not None
    assert writer.stdout.readline() == "done\n"
    journal = cache.path.with_name(f"{cache.path.name}-journal")
    while not journal.exists():  # in the middle of a transaction
        assert writer.poll() is None
    writer.send_signal(signal.SIGKILL)
    writer.wait(timeout=60)
    assert cache.find(list(WRITTEN)) == WRITTEN
    cache.keep(IDS)
    assert sorted(path.name for path in cache.path.parent.iterdir()) == [cache.path.name]
    assert caplog.records == []
    connection = sqlite3.connect(cache.path)
    assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    connection.close()
