"""BEIR's datasets by name: beir downloads them from a server on loopback; they are checked before extraction."""

import contextlib
import csv
import hashlib
import io
import json
import sys
import tempfile
import threading
import zipfile
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engines.base import BadOptions
from engines.storage import cache_folder
from harness.benchmarks import BenchmarkError, load
from harness.benchmarks.beir_archive import MD5

pytestmark = [
    pytest.mark.skipif(find_spec("beir") is None, reason="beir is not installed: pip install 'crispbench[mteb]'"),
    pytest.mark.filterwarnings("default::DeprecationWarning", "default::FutureWarning"),  # beir's imports raise them
]

FILES = {
    "tiny/corpus.jsonl": '{"_id": "d1", "title": null, "text": "cats purr"}\n{"_id": "d2", "text": "dogs bark"}\n',
    "tiny/queries.jsonl": '{"_id": "q1", "text": "who purrs"}\n',
    "tiny/qrels/test.tsv": "query-id\tcorpus-id\tscore\nq1\td1\t1\n",
}


def packed(files: Mapping[str, str]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return buffer.getvalue()


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *arguments: Any) -> None:
        pass


@contextlib.contextmanager
def served(folder: Path) -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder))) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def fetch(tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """Loads a dataset whose archive has this content: `fetch(content, md5=...)`."""
    (tmp_path / "server").mkdir()
    with served(tmp_path / "server") as url:

        def load_from(content: bytes, **options: Any) -> Any:
            (tmp_path / "server/tiny.zip").write_bytes(content)
            return load("beir_archive", {"name": "tiny", "url": url, "folder": str(tmp_path / "data")} | options)

        yield load_from


def test_a_dataset_is_downloaded_once_and_equals_its_folder(fetch: Callable[..., Any], tmp_path: Path) -> None:
    content = packed(FILES)
    first = fetch(content, md5=hashlib.md5(content).hexdigest())
    assert dict(first.documents) == {"d1": "cats purr", "d2": "dogs bark"}  # beir itself fails on a title that is null
    again = fetch(b"the server has something else now")
    folder = load("beir", {"path": str(tmp_path / "data/tiny"), "name": "tiny"})
    assert first == again == folder
    assert sorted(path.name for path in (tmp_path / "data").iterdir()) == ["tiny"]


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        (b"<html>not found</html>", {}, "not a complete zip archive, it begins with '<html>not found</html>'"),
        (packed(FILES)[:-30], {}, "not a complete zip archive"),
        (packed(FILES), {"md5": "0" * 32}, "has md5 [0-9a-f]{32}, expected 0{32}"),
        (packed({**FILES, "../outside.txt": "x"}), {}, "member '../outside.txt' would leave the folder"),
        (packed({**FILES, "tiny/../../outside.txt": "x"}), {}, "would leave the folder"),
        (packed({**FILES, "/outside.txt": "x"}), {}, "member '/outside.txt' would leave the folder"),
        (packed({**FILES, "C:\\outside.txt": "x"}), {}, "would leave the folder"),
        (packed({**FILES, "tiny\\..\\..\\outside.txt": "x"}), {}, "would leave the folder"),
        (packed({"other/corpus.jsonl": ""}), {}, "the archive holds no folder 'tiny'"),
        (packed(FILES), {"name": "absent"}, "not a complete zip archive, it begins with '<!DOCTYPE"),
        (packed(FILES), {"url": "http://127.0.0.1:9"}, "cannot be downloaded .*put the dataset into"),
    ],
    ids=["page", "cut", "md5", "slip", "inner", "absolute", "drive", "backslash", "folder", "absent", "network"],
)
def test_an_untrusted_archive_is_refused_in_one_line_and_leaves_no_file(
    fetch: Callable[..., Any], tmp_path: Path, content: bytes, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(BenchmarkError, match=message) as raised:
        fetch(content, **options)
    assert len(str(raised.value).splitlines()) == 1
    assert list((tmp_path / "data").iterdir()) == []
    assert not list(tmp_path.rglob("outside.txt"))


def test_an_archive_with_a_corrupt_member_leaves_no_file(fetch: Callable[..., Any], tmp_path: Path) -> None:
    content = packed(FILES).replace(b"cats purr", b"cats hiss", 1)  # the checksum inside the archive is now wrong
    with pytest.raises(BenchmarkError, match="Bad CRC-32"):
        fetch(content)
    assert list((tmp_path / "data").iterdir()) == []


def test_a_part_of_a_dataset_is_named_with_a_slash(fetch: Callable[..., Any]) -> None:
    forums = {name.replace("tiny/", "tiny/android/"): text for name, text in FILES.items()}
    made = fetch(packed(forums), name="tiny/android")
    assert (made.name, list(made.queries)) == ("tiny/android", ["q1"])


@pytest.mark.parametrize(("name", "split", "remove_self"), [("msmarco", "dev", True), ("scifact", "test", False)])
def test_a_known_dataset_is_evaluated_as_beirs_table_does(
    tmp_path: Path, name: str, split: str, remove_self: bool
) -> None:
    for path, text in FILES.items():
        target = tmp_path / path.replace("tiny/", f"{name}/").replace("test", split)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)
    made = load("beir_archive", {"name": name, "folder": str(tmp_path)})
    assert (made.split, made.remove_self) == (split, remove_self)


names = st.text(st.characters(exclude_categories=["Cs", "Cc", "Zl", "Zp"]), min_size=1, max_size=4).map(str.strip)
ids = names.filter(bool)


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # beir's loader leaves its files open
@settings(max_examples=40, deadline=None)
@given(
    grades=st.dictionaries(
        ids, st.dictionaries(ids, st.integers(0, 2), min_size=1, max_size=3), min_size=1, max_size=3
    ),
    quoting=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC]),
    ending=st.sampled_from(["\n", "\r\n"]),
)
def test_a_folder_that_beirs_own_loader_reads_is_read_the_same(
    grades: dict[str, dict[str, int]], quoting: "csv._QuotingType", ending: str
) -> None:
    from beir.datasets.data_loader import GenericDataLoader

    documents = {doc_id: {"text": f"text of {doc_id}", "title": "T"} for judged in grades.values() for doc_id in judged}
    grades["judged"] = {next(iter(documents)): 1}
    file = io.StringIO()
    writer = csv.writer(file, delimiter="\t", quoting=quoting, lineterminator=ending)
    writer.writerow(["query-id", "corpus-id", "score"])
    writer.writerows((query_id, doc_id, grade) for query_id in grades for doc_id, grade in grades[query_id].items())
    corpus = [json.dumps({"_id": doc_id, **document, "metadata": {}}) for doc_id, document in documents.items()]
    queries = [json.dumps({"_id": query_id, "text": f"text of {query_id}"}) for query_id in grades]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "qrels").mkdir()
        (folder / "qrels/test.tsv").write_bytes(file.getvalue().encode())
        (folder / "corpus.jsonl").write_text("\n".join(corpus))
        (folder / "queries.jsonl").write_text("\n".join(queries))
        with contextlib.redirect_stderr(io.StringIO()):  # its progress bar
            _, texts, qrels = GenericDataLoader(str(folder)).load("test")
        made = load("beir", {"path": str(folder)})
    assert (made.qrels, made.queries) == (qrels, texts) == (grades, {key: f"text of {key}" for key in grades})
    assert made.documents == {key: f"T text of {key}" for key in documents}


def test_an_unknown_dataset_name_is_refused_with_the_list_of_published_names(tmp_path: Path) -> None:
    with pytest.raises(BenchmarkError, match="BEIR has no public dataset 'bioasq'; expected one of arguana"):
        load("beir_archive", {"name": "bioasq", "folder": str(tmp_path)})
    with pytest.raises(BadOptions, match=r"name = '\.\./scifact'"):
        load("beir_archive", {"name": "../scifact"})


def test_the_official_checksums_are_those_of_the_installed_beir() -> None:
    from importlib.metadata import metadata

    table = str(metadata("beir").get_payload())
    assert len(MD5) == 15
    assert [name for name, md5 in MD5.items() if f"{name}.zip" not in table or f"``{md5}``" not in table] == []


def test_datasets_are_kept_in_the_cache_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CRISPBENCH_CACHE", str(tmp_path))
    assert cache_folder("beir") == tmp_path / "beir"
    monkeypatch.delenv("CRISPBENCH_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder("beir") == tmp_path / ".cache/crispbench/beir"


def test_without_beir_the_line_names_the_extra(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "beir.util", None)
    with pytest.raises(BenchmarkError, match=r"pip install 'crispbench\[mteb\]'"):
        load("beir_archive", {"name": "scifact", "folder": str(tmp_path)})
