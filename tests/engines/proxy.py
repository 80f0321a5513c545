"""An HTTP proxy on loopback that keeps every byte it was sent: requests for a tunnel (CONNECT) and plain ones."""

import contextlib
import http.client
import select
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit


class Proxy:
    """A context manager that serves; `heads` holds the first line of every request, `seen` all bytes of clients."""

    def __init__(self, *, refuses: int | None = None) -> None:
        self.heads: list[str] = []
        self.seen = bytearray()
        self.refuses = refuses  # status with which every request is refused
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"owner": self}))
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> "Proxy":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    owner: Proxy
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_CONNECT(self) -> None:
        if self._is_refused():
            return
        host, _, port = self.path.rpartition(":")
        with socket.create_connection((host, int(port))) as target:
            self.send_response(200)
            self.end_headers()
            self._relay(target)
        self.close_connection = True

    def do_GET(self) -> None:
        self._forward(b"")

    def do_POST(self) -> None:
        self._forward(self.rfile.read(int(self.headers["content-length"])))

    def _is_refused(self) -> bool:
        self.owner.heads.append(self.requestline)
        self.owner.seen += f"{self.requestline}\n{self.headers}".encode()
        if self.owner.refuses is None:
            return False
        self.send_response(self.owner.refuses)
        self.send_header("Content-Length", "0")
        self.end_headers()
        return True

    def _relay(self, target: socket.socket) -> None:
        other = {self.connection: target, target: self.connection}
        with contextlib.suppress(OSError):
            while True:
                for source in select.select(list(other), [], [], 10)[0]:
                    data = source.recv(65536)
                    if not data:
                        return
                    if source is self.connection:
                        self.owner.seen += data
                    other[source].sendall(data)

    def _forward(self, body: bytes) -> None:
        if self._is_refused():
            return
        self.owner.seen += body
        parts = urlsplit(self.path)
        connection = http.client.HTTPConnection(parts.netloc, timeout=10)
        connection.request(self.command, parts.path, body or None, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        content = answer.read()
        connection.close()
        self.send_response(answer.status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)
