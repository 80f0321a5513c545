"""infinity (michaelfeil/infinity) as a process on loopback: CPU, fp32, one thread, no telemetry, no hub."""

import os
import socket
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import httpx

from tests.servers import environment

START_S = 180  # limit until the server answers
LIFE_S = 900  # then the server is killed


@contextmanager
def serve(models: Mapping[str, Path], log: Path) -> Iterator[str]:
    """Yields the url of a server of these checkpoints (served name -> folder), which ends with the block."""
    environment.install("infinity")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [str(environment.interpreter("infinity").with_name("infinity_emb")), "v2"]
    command += ["--host", "127.0.0.1", "--port", str(port), "--device", "cpu", "--dtype", "float32"]
    command += ["--no-compile", "--no-bettertransformer", "--no-model-warmup"]
    for name, folder in models.items():
        command += ["--model-id", str(folder), "--served-model-name", name]
    quiet = {"DO_NOT_TRACK": "1", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    with log.open("wb") as output:
        process = subprocess.Popen(command, env={**os.environ, **quiet}, stdout=output, stderr=subprocess.STDOUT)
    limit = threading.Timer(LIFE_S, process.kill)
    limit.start()
    try:
        url = f"http://127.0.0.1:{port}"
        wait(url, process, log)
        yield url
    finally:
        limit.cancel()
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def wait(url: str, process: "subprocess.Popen[bytes]", log: Path) -> None:
    """Wait until the server answers. Raises RuntimeError with the end of its log if it ends or takes too long."""
    until = time.monotonic() + START_S
    while process.poll() is None and time.monotonic() < until:
        try:
            if httpx.get(f"{url}/health", timeout=5, trust_env=False).is_success:
                return
        except httpx.TransportError:
            time.sleep(0.2)
    raise RuntimeError(f"infinity does not answer (exit {process.poll()}):\n{log.read_text()[-2000:]}")
