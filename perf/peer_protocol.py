"""Protocol of a peer's process: one JSON line of pairs in, one of seconds, scores and peak memory out.

It needs only the standard library, because `serve` runs in every peer's environment. It knows no peer.
"""

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[1]
LOAD_S = 600.0
ROUND_S = 3600.0
END_S = 30.0
ALONE = {"DO_NOT_TRACK": "1", "HF_HUB_OFFLINE": "1"}  # no telemetry, no downloads


class PeerFailed(Exception):
    """A peer's process ended, took too long or gave an error; the message is one line for the user."""


class Loaded(NamedTuple):
    """A peer that is ready."""

    score: Callable[[Sequence[Sequence[str]]], Sequence[float]]  # (query, document) pairs to log-odds, in order
    about: Mapping[str, str]  # what a reader needs to repeat the run
    pid: int  # process that holds the weights


class PeerAnswer(NamedTuple):
    seconds: float
    scores: list[float]
    cpu_s: float | None  # processor time of the process that holds the weights, all threads
    peak_bytes: int | None  # peak memory of that process since its start


def serve(load: Callable[[Mapping[str, Any]], AbstractContextManager[Loaded]]) -> None:
    """Load what the first argument (JSON) names, then answer until stdin ends. Output of libraries goes to stderr."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that a server of a peer ends with it
    with os.fdopen(os.dup(1), "w", buffering=1) as answers:
        os.dup2(2, 1)
        try:
            with load(json.loads(sys.argv[1])) as loaded:
                answers.write(json.dumps({"about": dict(loaded.about)}) + "\n")
                for line in sys.stdin:
                    pairs = json.loads(line)
                    before_s, started = cpu_s(loaded.pid), time.perf_counter()
                    scores = [float(score) for score in loaded.score(pairs)]
                    seconds, after_s = time.perf_counter() - started, cpu_s(loaded.pid)
                    used_s = None if before_s is None or after_s is None else after_s - before_s
                    answer = PeerAnswer(seconds, scores, used_s, peak_bytes(loaded.pid))
                    answers.write(json.dumps(answer._asdict()) + "\n")
        except Exception as error:
            reason = " ".join(str(error).split())[:500]
            answers.write(json.dumps({"error": f"{type(error).__name__}: {reason}"}) + "\n")
            raise


def peak_bytes(pid: int) -> int | None:
    """Peak resident memory of a process (VmHWM); None where the system does not report it."""
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace")
    except OSError:
        return None
    for line in status.splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return None


def cpu_s(pid: int) -> float | None:
    """Processor time of a process since its start; None where the system does not report it."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
    except OSError:
        return None
    fields = stat.rpartition(")")[2].split()  # utime and stime, proc(5); the name before them may hold anything
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class PeerProcess:
    """A peer's process, loaded. A context manager: leaving it ends the process."""

    def __init__(self, python: Path, module: str, spec: Mapping[str, Any], *, threads: int, log: Path) -> None:
        """Start and load. Raises PeerFailed with the end of the log."""
        self._log = log
        environment = {**os.environ, **ALONE, "OMP_NUM_THREADS": str(threads)}
        with log.open("wb") as errors:
            self._process = subprocess.Popen(
                [str(python), "-m", module, json.dumps(spec)],
                cwd=ROOT,
                env=environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                start_new_session=True,  # Ctrl-C reaches it only through this process
            )
        try:
            started = time.perf_counter()
            self.about: dict[str, str] = self._read(LOAD_S)["about"]
            self.load_s = time.perf_counter() - started
        except BaseException:
            self.close()
            raise

    def score(self, pairs: Sequence[Sequence[str]]) -> PeerAnswer:
        """Scores, with the seconds that the peer's process measured around them. Raises PeerFailed."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps([list(pair) for pair in pairs]) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self._failed("its process ended") from None
        answer = PeerAnswer(**self._read(ROUND_S))
        if len(answer.scores) != len(pairs) or not all(abs(score) < float("inf") for score in answer.scores):
            raise PeerFailed(f"{len(pairs)} pairs gave {len(answer.scores)} scores, not all of them finite")
        return answer

    def close(self) -> None:
        """End the process: first by the end of its input, then by signals."""
        assert self._process.stdin is not None and self._process.stdout is not None
        try:
            self._process.stdin.close()
        except BrokenPipeError:
            pass
        for stop in (self._process.terminate, self._process.kill):
            try:
                self._process.wait(END_S)
            except subprocess.TimeoutExpired:
                stop()
        self._process.wait()
        self._process.stdout.close()

    def __enter__(self) -> "PeerProcess":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _read(self, timeout_s: float) -> dict[str, Any]:
        assert self._process.stdout is not None
        # Every request has one answer, so no second line waits in our buffer, where select would not see it.
        if not select.select([self._process.stdout], [], [], timeout_s)[0]:
            raise self._failed(f"no answer within {timeout_s:.0f} s")
        line = self._process.stdout.readline()
        if not line:
            raise self._failed("its process ended")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise PeerFailed(answer["error"])
        return answer

    def _failed(self, what: str) -> PeerFailed:
        try:
            code = self._process.wait(1)  # its output ends a moment before it does
        except subprocess.TimeoutExpired:
            code = None
        lines = self._log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        return PeerFailed(f"{what} (exit {code}): {lines[-1] if lines else 'it printed nothing'}")
