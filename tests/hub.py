"""A hub of datasets on loopback: it answers `datasets` and `huggingface_hub` from a folder.

It serves `ROOT/<organisation>/<name>/...` at every revision; set HF_ENDPOINT to `Hub.url`.
"""

import contextlib
import csv
import hashlib
import json
import threading
import urllib.parse
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

MAIN = "0" * 40  # the commit of every revision that is a name

CARD = """---
configs:
- config_name: default
  data_files: [{split: test, path: qrels/test.jsonl}]
- config_name: corpus
  data_files: [{split: corpus, path: corpus.jsonl}]
- config_name: queries
  data_files: [{split: queries, path: queries.jsonl}]
---
"""


class Hub:
    """Datasets below `root`; `requests` lists the method and path of every request, in order."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.requests: list[str] = []
        self.url = ""

    def add_beir(self, name: str, folder: Path) -> None:
        """Add a BEIR folder in mteb's layout: three configs over JSON lines."""
        target = self.root / name
        (target / "qrels").mkdir(parents=True)
        (target / "README.md").write_text(CARD)
        for part in ("corpus.jsonl", "queries.jsonl"):
            (target / part).symlink_to(folder / part)
        with (folder / "qrels/test.tsv").open(newline="") as file:
            judged = [{**row, "score": int(row["score"])} for row in csv.DictReader(file, delimiter="\t")]
        (target / "qrels/test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in judged))

    def files(self, name: str) -> dict[str, Path]:
        base = self.root / name
        return {path.relative_to(base).as_posix(): path for path in base.rglob("*") if path.is_file()}

    @contextlib.contextmanager
    def serve(self) -> Iterator["Hub"]:
        handler = type("HandlerOfThisHub", (Handler,), {"hub": self})
        with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
            self.url = f"http://127.0.0.1:{server.server_port}"
            thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
            thread.start()
            try:
                yield self
            finally:
                server.shutdown()
                thread.join()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def do_GET(self) -> None:
        self._answer()

    do_HEAD = do_GET

    def log_message(self, format: str, *arguments: Any) -> None:
        self.hub.requests.append(f"{self.command} {self.path}")

    def _answer(self) -> None:
        url = urllib.parse.urlparse(self.path)
        parts = [urllib.parse.unquote(part) for part in url.path.strip("/").split("/")]
        match parts:
            case ["api", "datasets", organisation, name, *rest] if self.hub.files(f"{organisation}/{name}"):
                self._answer_api(f"{organisation}/{name}", rest, url.query)
            case ["api", *_]:
                self._send_json({"error": "Repository not found"}, status=404, code="RepoNotFound")
            case ["datasets", organisation, name, "resolve", revision, *path]:
                self._send_file(self.hub.files(f"{organisation}/{name}").get("/".join(path)), revision)
            case _:
                self._send_json({"error": "not here"}, status=404, code="EntryNotFound")

    def _answer_api(self, name: str, rest: list[str], query: str) -> None:
        files = self.hub.files(name)
        match rest:
            case [] | ["revision", _]:
                siblings = [{"rfilename": path} for path in files]
                self._send_json(
                    {"id": name, "sha": commit(rest[1] if rest else ""), "siblings": siblings, "private": False}
                )
            case ["tree", _, *folder]:
                recursive = urllib.parse.parse_qs(query).get("recursive", [""])[0].lower() == "true"
                self._send_json(list(tree(files, "/".join(folder), recursive=recursive)))
            case _:
                self._send_json({"error": "not here"}, status=404, code="EntryNotFound")

    def _send_file(self, path: Path | None, revision: str) -> None:
        if path is None:
            self._send_json({"error": "Entry not found"}, status=404, code="EntryNotFound")
            return
        content = path.read_bytes()
        headers = {"ETag": f'"{hashlib.sha1(content).hexdigest()}"', "X-Repo-Commit": commit(revision)}
        self._send(200, content, headers)

    def _send_json(self, document: Any, *, status: int = 200, code: str = "") -> None:
        headers = {"content-type": "application/json", "X-Repo-Commit": MAIN}
        self._send(status, json.dumps(document).encode(), {**headers, **({"X-Error-Code": code} if code else {})})

    def _send(self, status: int, content: bytes, headers: Mapping[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "content-length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


def commit(revision: str) -> str:
    return revision if len(revision) == 40 else MAIN


def tree(files: Mapping[str, Path], folder: str, *, recursive: bool) -> Iterator[dict[str, Any]]:
    """Files and folders below a folder; without `recursive`, only those directly in it."""
    folders: set[str] = set()
    prefix = f"{folder}/" if folder else ""
    for path, file in files.items():
        if not path.startswith(prefix):
            continue
        *between, _ = path.removeprefix(prefix).split("/")
        folders |= {
            prefix + "/".join(between[: i + 1]) for i in range(len(between) if recursive else min(len(between), 1))
        }
        if recursive or not between:
            yield entry(path, file)
    for name in sorted(folders):
        yield {"type": "directory", "path": name, "size": 0, "oid": hashlib.sha1(name.encode()).hexdigest()}


def entry(path: str, file: Path) -> dict[str, Any]:
    content = file.read_bytes()
    oid = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()  # git's blob hash
    return {"type": "file", "path": path, "size": len(content), "oid": oid}
