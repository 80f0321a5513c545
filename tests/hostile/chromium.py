"""Pages in a headless browser: the lines of their console and the requests that they send to any host."""

import contextlib
import shutil
import subprocess
import threading
from collections.abc import Iterator, Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import NamedTuple

BROWSER = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)
PATIENCE_S = 60  # loading takes 2 s; an open dialog stops the clock of the page
SWITCHES = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-default-apps"),
    "--disable-features=NetworkTimeServiceQuerying,OptimizationHints",
    *("--enable-logging=stderr", "--log-level=0", "--virtual-time-budget=3000", "--dump-dom"),
)


class Activity(NamedTuple):
    console: list[str]  # lines of the pages, including refusals by their own policy
    requests: list[str]  # host and path of every request other than for the pages


def visit(pages: Mapping[str, tuple[str, bytes]], profile: Path) -> Activity:
    """Load every page (path -> type and content) in its own frame."""
    assert BROWSER is not None
    frames = "".join(f'<iframe src="{path}" width=900 height=900></iframe>' for path in pages)
    answers = {"/": ("text/html", f"<!doctype html><title>all</title>{frames}".encode()), **pages}
    with _served(answers) as (port, requests):
        errors, ended = _run(
            [
                BROWSER,
                *SWITCHES,
                f"--user-data-dir={profile}",
                f"--host-resolver-rules=MAP * 127.0.0.1:{port}",
                f"http://pages.example:{port}/",
            ]
        )
    console = [line for line in errors.splitlines() if ":CONSOLE" in line]
    if not ended:
        console.append(f"the pages did not finish within {PATIENCE_S} s: a dialog is open")
    expected = {*answers, "/favicon.ico"}
    foreign = [request for request in requests if request.removeprefix(f"pages.example:{port}") not in expected]
    missing = [path for path in pages if f"pages.example:{port}{path}" not in requests]
    assert not missing or not ended, f"not loaded: {missing}"
    return Activity(console, foreign)


def _run(command: Sequence[str]) -> tuple[str, bool]:
    """The log of the browser, and whether it ended by itself."""
    try:
        done = subprocess.run(command, capture_output=True, timeout=PATIENCE_S)
        errors, ended = done.stderr, True
    except subprocess.TimeoutExpired as error:
        errors, ended = error.stderr or b"", False
    return errors.decode(errors="replace"), ended


@contextlib.contextmanager
def _served(answers: Mapping[str, tuple[str, bytes]]) -> Iterator[tuple[int, list[str]]]:
    requests: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            requests.append(f"{self.headers['Host']}{self.path}")
            kind, content = answers.get(self.path, ("text/plain", b""))
            self.send_response(200)
            self.send_header("Content-Type", f"{kind}; charset=utf-8")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        try:
            yield server.server_port, requests
        finally:
            server.shutdown()
            thread.join()
