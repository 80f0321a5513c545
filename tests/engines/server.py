"""A server on loopback that speaks every dialect, knows the true score of every text, and fails on demand.

`Server.plan` chooses the fault of every POST: the name of one of FAULTS, or None.
"""

import contextlib
import hashlib
import json
import math
import random
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Mapping
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

INFO = {
    "/info": {"model_id": "tei-model", "model_sha": "abc", "model_dtype": "float16", "version": "1.9.3"},
    "/models": {"data": [{"id": "served", "backend": "torch", "stats": {"queue_absolute": 3}, "created": 1}]},
    "/v1/models": {"data": [{"id": "other", "root": "x"}, {"id": "served", "root": "org/model", "created": 5}]},
    "/version": {"version": "0.33.0"},
}


def truth(text: str) -> float:
    """The log-odds of a prompt, a multiple of 1/64 in [-12, 12], which is exact in every float type."""
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return (int.from_bytes(digest, "big") % 1537) / 64 - 12


def sigmoid(logit: float) -> float:
    return 1 / (1 + math.exp(-logit))


class Call(NamedTuple):
    method: str
    path: str
    headers: Mapping[str, str]
    body: Any
    peer: int  # port of the client; every connection has its own


def answer(path: str, body: Any, draw: random.Random) -> Any:
    """The JSON of a correct answer: labels, and entries with an index, come in random order."""
    path = path.removeprefix("/sync")
    if path == "/predict":
        return [_labels(text, draw, raw=True) for (text,) in body["inputs"]]
    if path == "/classify" and isinstance(body["input"][0], str):
        data = [_labels(text.strip(), draw, raw=False) for text in body["input"]]
        return {"object": "classify", "data": data, "usage": {"prompt_tokens": 7, "total_tokens": 7}}
    if path == "/classify":
        return {"data": _shuffled([_vllm(i, ids) for i, ids in enumerate(body["input"])], draw)}
    if path == "/score":
        entries = [{"index": i, "score": truth(body["text_1"] + text)} for i, text in enumerate(body["text_2"])]
        return {"data": entries, "usage": {"prompt_tokens": 7, "total_tokens": 7}}
    if "texts" in body:  # TEI
        entries = [{"index": i, "score": truth(body["query"] + text)} for i, text in enumerate(body["texts"])]
        return _shuffled(entries, draw)
    raw = path == "/rerank"  # vLLM returns logits here; Cohere and Jina return probabilities
    texts = [body["query"] + text for text in body["documents"]]
    values = [truth(text) if raw else sigmoid(truth(text)) for text in texts]
    return {"results": _shuffled([{"index": i, "relevance_score": v} for i, v in enumerate(values)], draw)}


def _labels(text: str, draw: random.Random, *, raw: bool) -> list[dict[str, Any]]:
    logit = truth(text)
    values = {"1": logit / 2, "0": -logit / 2} if raw else {"1": sigmoid(logit), "0": sigmoid(-logit)}
    return _shuffled([{"score": value, "label": label} for label, value in values.items()], draw)


def _vllm(index: int, ids: list[int]) -> dict[str, Any]:
    logit = truth(str(ids))
    return {"index": index, "label": str(int(logit > 0)), "probs": [-logit / 2, logit / 2], "num_classes": 2}


def _shuffled(entries: list[Any], draw: random.Random) -> list[Any]:
    return draw.sample(entries, len(entries))


Handler = Callable[["_Handler", Any], None]


class Server:
    """A context manager that serves; `calls` holds every request, in order."""

    def __init__(self, *, certificate: tuple[str, str] | None = None) -> None:
        self.calls: list[Call] = []
        self.plan: Callable[[Call], str | None] = lambda call: None
        self.max_inputs = 10_000
        self.names_limit = False  # whether a refused batch is told how many inputs are accepted
        self.redirect = "http://elsewhere.invalid/predict?q=1"
        self.info: Mapping[str, Any] = INFO
        self.headers: dict[str, str] = {}
        self.draw = random.Random(0)
        self.released = threading.Event()
        self.late_body_s: list[float] = []  # clock before the headers and before the body of "late body"
        self.connections: list[socket.socket] = []
        self._certificate = certificate
        self.scheme = "https" if certificate else "http"
        self._server = self._bound(0)

    def _bound(self, port: int) -> "_Quiet":
        server = _Quiet(("127.0.0.1", port), type("Handler", (_Handler,), {"owner": self}))
        if self._certificate:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*self._certificate)
            server.socket = context.wrap_socket(server.socket, server_side=True)
        return server

    @property
    def url(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self._server.server_port}"

    @property
    def posts(self) -> list[Call]:
        return [call for call in self.calls if call.method == "POST"]

    def __enter__(self) -> "Server":
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.released.set()
        self.die()

    def die(self) -> None:
        """Refuse connections and cut those that are open, as a process that ended. No handler may call this."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
        for connection in self.connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def revive(self) -> None:
        """Serve at the same port again."""
        self._server = self._bound(self._server.server_port)
        self.__enter__()


class _Quiet(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Tests cut connections on purpose: nothing is printed."""


class _Handler(BaseHTTPRequestHandler):
    owner: Server
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # headers and body go in one packet; otherwise every answer waits 40 ms for a delayed ACK

    def setup(self) -> None:
        super().setup()
        self.owner.connections.append(self.connection)

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        self._record(None)
        info = self.owner.info.get(self.path.removeprefix("/sync"))
        if isinstance(info, int):
            self.reply(info, {"error": "no"})
        else:
            self.reply(404 if info is None else 200, info)

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        fault = self.owner.plan(self._record(body))
        document = answer(self.path, body, self.owner.draw)
        size, most = len(_inputs(body)), self.owner.max_inputs
        if size > most:
            limit = f" {most}" if self.owner.names_limit else ""
            message = f"batch size {size} > maximum allowed batch size{limit}"
            self.reply(422, {"error": message, "error_type": "Validation"})
        elif fault is not None:
            FAULTS[fault](self, document)
        else:
            self.reply(200, document, self.owner.headers)

    def _record(self, body: Any) -> Call:
        call = Call(self.command, self.path, dict(self.headers.items()), body, self.client_address[1])
        self.owner.calls.append(call)
        return call

    def reply(self, status: int, document: Any, headers: Mapping[str, str] | None = None) -> None:
        self.write(status, document if isinstance(document, bytes) else json.dumps(document).encode(), headers)

    def write(self, status: int, body: bytes, headers: Mapping[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)
        self.wfile.flush()

    def reset(self) -> None:
        """Cut the connection with a TCP reset (RST)."""
        self.close_connection = True
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()


def _inputs(body: Any) -> Any:
    return next(body[name] for name in ("inputs", "input", "texts", "text_2", "documents") if name in body)


def _entries(document: Any) -> list[dict[str, Any]]:
    """The objects that hold scores in an answer of any dialect."""
    groups = document if isinstance(document, list) else document.get("data", document.get("results"))
    return [entry for group in groups for entry in (group if isinstance(group, list) else [group])]


def _change(value: Any) -> Handler:
    """A fault that replaces the first score."""

    def fault(handler: _Handler, document: Any) -> None:
        entry = _entries(document)[0]
        name = next(name for name in ("score", "relevance_score", "probs") if name in entry)
        entry[name] = [value] * 2 if name == "probs" else value
        handler.reply(200, document)

    return fault


def _status(code: int, headers: Mapping[str, str] | None = None) -> Handler:
    return lambda handler, _: handler.reply(code, {"error": f"injected {code}"}, headers)


def _wrong_count(handler: _Handler, document: Any) -> None:
    entries = document if isinstance(document, list) else document.get("data", document.get("results"))
    entries.pop()
    handler.reply(200, document)


def _duplicate_index(handler: _Handler, document: Any) -> None:
    entries = _entries(document)
    entries[-1]["index"] = entries[0]["index"]
    handler.reply(200, document)


def _reset_mid_body(handler: _Handler, document: Any) -> None:
    body = json.dumps(document).encode()
    handler.send_response(200)
    handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    handler.wfile.write(body[: len(body) // 2])
    handler.wfile.flush()
    handler.reset()


def _trickle(text: Callable[[Any], bytes]) -> Handler:
    """A fault that sends single bytes for six seconds and never finishes."""

    def fault(handler: _Handler, document: Any) -> None:
        with contextlib.suppress(OSError):
            for byte in text(document)[:300]:
                handler.wfile.write(bytes([byte]))
                handler.wfile.flush()
                if handler.owner.released.wait(0.02):
                    break
        handler.reset()

    return fault


def _late_body(handler: _Handler, document: Any) -> None:
    body = json.dumps(document).encode()
    handler.owner.late_body_s.append(time.perf_counter())
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body))
    handler.wfile.flush()
    handler.owner.released.wait(0.5)
    handler.owner.late_body_s.append(time.perf_counter())
    handler.wfile.write(body)
    handler.wfile.flush()


def _hang(handler: _Handler, document: Any) -> None:
    handler.owner.released.wait(10)
    handler.reset()


def _saturated(handler: _Handler, document: Any) -> None:
    document["data"][0] = [{"label": "0", "score": 0.0}, {"label": "1", "score": 1.0}]
    handler.reply(200, document)


def _raw_logits(handler: _Handler, document: Any) -> None:
    for entry in _entries(document):
        score = entry["relevance_score"]
        entry["relevance_score"] = round(64 * math.log(score / (1 - score))) / 64  # truth is a multiple of 1/64
    handler.reply(200, document)


def _percent(handler: _Handler, document: Any) -> None:
    for entry in _entries(document):
        entry["relevance_score"] *= 100
    handler.reply(200, document)


def _softmax(handler: _Handler, document: Any) -> None:
    """The probabilities of two labels in the place of their logits."""
    if isinstance(document, list):  # TEI: a list of labels per text
        for labels in document:
            odds = labels[0]["score"] - labels[1]["score"]
            labels[0]["score"], labels[1]["score"] = sigmoid(odds), sigmoid(-odds)
    else:
        for entry in document["data"]:
            odds = entry["probs"][1] - entry["probs"][0]
            entry["probs"] = [sigmoid(-odds), sigmoid(odds)]
    handler.reply(200, document)


def _winner(handler: _Handler, document: Any) -> None:
    """The label with the highest score alone, as pipelines answer with top_k = 1."""
    winners = [[max(labels, key=lambda entry: float(entry["score"]))] for labels in document["data"]]
    handler.reply(200, {**document, "data": winners})


def _redirect(handler: _Handler, document: Any) -> None:
    handler.reply(307, b"", {"Location": handler.owner.redirect})


def _echo(handler: _Handler, document: Any) -> None:
    """A careless server: its message repeats the refused key."""
    handler.reply(403, {"error": f"key {handler.headers['Authorization']!r} is not allowed here"})


SPACES = b'{"data": ' + b" " * 1000
FAULTS: dict[str, Handler] = {
    "reset": lambda handler, _: handler.reset(),
    "reset mid-body": _reset_mid_body,
    "429": _status(429),
    "429 in 0 s": _status(429, {"Retry-After": "0"}),
    "429 in 1 s": _status(429, {"Retry-After": "1"}),
    "429 in 2.5 s": _status(429, {"Retry-After": "2.5"}),
    "429 in an hour": _status(429, {"Retry-After": "3600"}),
    "429 at a date": lambda handler, _: handler.reply(429, {}, {"Retry-After": formatdate(time.time(), usegmt=True)}),
    **{
        str(code): _status(code)
        for code in (400, 401, 402, 403, 404, 413, 422, 424, 500, 502, 503, 504, *range(520, 530))
    },
    "page": lambda handler, _: handler.write(200, b"<html>Please wait</html>"),
    "half": lambda handler, document: handler.write(200, json.dumps(document).encode()[:-3]),
    "nested": lambda handler, _: handler.write(200, b"[" * 100_000),
    "empty": lambda handler, _: handler.write(200, b""),
    "nan": _change(math.nan),
    "infinite": _change(math.inf),
    "null": _change(None),
    "text": _change("0.5"),
    "true": _change(True),
    "huge": _change(10**400),
    "saturated": _saturated,
    "wrong count": _wrong_count,
    "duplicate index": _duplicate_index,
    "object": lambda handler, _: handler.reply(200, {"colour": "red"}),
    "late body": _late_body,
    "trickle body": _trickle(lambda _: b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n" + SPACES),
    "trickle header": _trickle(lambda _: b"HTTP/1.1 200 OK\r\nX-Padding: " + b"x" * 1000),
    "hang": _hang,
    "redirect": _redirect,
    "raw logits": _raw_logits,
    "percent": _percent,
    "softmax": _softmax,
    "winner": _winner,
    "echo": _echo,
}
# faults after which the same request may succeed
TRANSIENT = (
    "reset",
    "reset mid-body",
    "429",
    "429 in 0 s",
    "429 at a date",
    "500",
    "502",
    "503",
    "504",
    *map(str, range(520, 530)),
    "page",
    "half",
)
