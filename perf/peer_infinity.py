"""infinity's server over the classifier checkpoint as a peer's process, reached over loopback as its users reach it.

This process runs in the project's own environment, the server in infinity's; memory is the server's. The scores are
log-odds of two probabilities, and their time includes HTTP and the rendering of the prompt.
"""

import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from engines import load
from perf.peer_protocol import LOAD_S, Loaded, serve

DTYPES = {"fp32": "float32", "bf16": "bfloat16"}


@contextmanager
def loaded(spec: Mapping[str, Any]) -> Iterator[Loaded]:
    with server(spec) as (url, pid):
        options = {
            "dialect": "infinity",
            "url": url,
            "model": "peer",
            "tokenizer": spec["classifier"],
            "template": spec["template"],
            "timeout_s": 3600.0,
            "attempts": 1,
        }
        with load("remote", options) as engine:

            def score(pairs: Sequence[Sequence[str]]) -> list[float]:
                return engine.score([(query, document) for query, document in pairs])

            yield Loaded(score, {**engine.describe().document(), "dtype": DTYPES[spec["precision"]]}, pid)


@contextmanager
def server(spec: Mapping[str, Any]) -> Iterator[tuple[str, int]]:
    """URL and process id of a server that answers. The server ends with the block."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [str(Path(spec["environment"]) / "bin/infinity_emb"), "v2", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--engine", "torch", "--device", "cpu", "--dtype", DTYPES[spec["precision"]]]
    command += ["--no-compile", "--no-bettertransformer", "--no-model-warmup"]
    command += ["--model-id", spec["classifier"], "--served-model-name", "peer"]
    process = subprocess.Popen(command, stdout=2)  # its output goes to this process's log
    try:
        url = f"http://127.0.0.1:{port}"
        wait(f"{url}/health", process)
        yield url, process.pid
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def wait(url: str, process: "subprocess.Popen[bytes]") -> None:
    """Wait until the server answers. Raises RuntimeError if it ends or takes too long."""
    import httpx

    until = time.monotonic() + LOAD_S - 60
    while process.poll() is None and time.monotonic() < until:
        try:
            if httpx.get(url, timeout=5, trust_env=False).is_success:
                return
        except httpx.TransportError:
            time.sleep(0.2)
    raise RuntimeError(f"infinity does not answer (exit code {process.poll()}): its output above says why")


if __name__ == "__main__":
    serve(loaded)
