"""JSON over HTTP: requests with a deadline, retries with back-off, and errors in one line.

It runs on an event loop because only there a deadline covers the whole request: name, connection, TLS, headers and
body, even if a server sends one byte a second. Proxy variables and .netrc are not read (trust_env), so that the key
goes to the configured host and nowhere else.

A request that fails is tried again as long as that can help. A server that is busy, starting or away for a while has
the time of the call's budget. Any other failure belongs to the request, which has TRIES.
"""

import json
import math
import random
import re
import ssl
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from enum import Enum, auto
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from engines.base import EngineFailed, EngineUnavailable, ScoringFailed, require
from engines.storage import resolve

if TYPE_CHECKING:
    import httpx

# Statuses after which the same request may succeed later; every other status is final. LATER: the server is busy or
# starting, or a gateway waits for it (520 to 529 are Cloudflare's for an origin that does not answer).
LATER = {429, 502, 503, 504, *range(520, 530)}
TRANSIENT = LATER | {408, 500}
TRIES = 5  # of one request that fails in another way; the pauses between them last 2.8 s on average
TOO_LARGE = {400, 413, 422}  # TEI sends 422 where its documentation says 413; vLLM and Cohere send 400
REFUSES_ALL = {401, 402, 404, 405, 407}  # the key, account, route or proxy is wrong, whatever the request holds
NEXT_STEPS = {
    400: "the server refuses this request: are dialect and model right, and is max_tokens within its limit?",
    401: "is api_key_env the right key?",
    402: "is the account's quota used up?",
    403: "is api_key_env the key of this model?",
    404: "is this the right url, dialect and model?",
    407: "the proxy wants a user and a password: use one that does not, such as a local one that adds them",
    413: "a text is too long: raise the server's limit, or lower max_tokens where the prompt is made here",
    422: "a text is too long (see max_tokens), or is it another dialect?",
    424: "the server's model failed; see its log",
}


class HttpAnswer(NamedTuple):
    status: int
    headers: Mapping[str, str]
    document: Any  # parsed JSON; for any other body its first text
    first_byte_s: float  # arrival of the first byte, on the clock `time.perf_counter`


class Limits(NamedTuple):
    timeout_s: float  # limit of one attempt, from its start to the last byte
    attempts: int | None  # of one request; None: TRIES of those that the budget does not limit
    connections: int
    requests_per_minute: float | None = None  # attempts that start within a minute; None: as many as there are


class Budget:
    """The time that one call waits for a server that answers none of its requests. Every answer renews it."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.answered_s: float | None = None  # when an answer came last, on the event loop's clock

    def left_s(self, started_s: float, now_s: float) -> float:
        """Seconds that a request of this call may still wait if its first attempt began at `started_s`."""
        since_s = started_s if self.answered_s is None else max(started_s, self.answered_s)
        return self.seconds - (now_s - since_s)


class TooLarge(ScoringFailed):
    """The server refuses the request as it is (400, 413 or 422): a part of the inputs may be accepted."""

    def __init__(self, message: str, answer: str) -> None:
        super().__init__(message)
        self._answer = answer

    def limit(self, inputs: int) -> int:
        """The number of inputs to send after `inputs` were too many: the server's own limit if it names one."""
        named = (int(found[1]) for found in _LIMIT.finditer(self._answer))
        return next((limit for limit in named if 1 <= limit < inputs), -(-inputs // 2))


# The number in "batch size 64 > maximum allowed batch size 32", "at most 2048 items" and the like, unless it counts
# something else than inputs.
_LIMIT = re.compile(
    r"(?:max|at most|no more than|up to|limit|less than or equal|<=|≤)\D{0,40}?(\d{1,9})"
    r"(?![\d.,]*[\s_-]*(?:[kmg]i?b\b|byte|token|char))",
    re.IGNORECASE,
)


class _Cause(Enum):
    """What an attempt failed for."""

    ABSENT = auto()  # no connection was made
    BUSY = auto()  # a status of LATER
    SILENT = auto()  # no complete answer in time, or a connection that was cut before one began
    BROKEN = auto()  # another status, an answer that breaks off or is no JSON: the request may be to blame


class _Transient(Exception):
    """One failed attempt, after which the same request may succeed."""

    def __init__(self, reason: str, cause: _Cause, after_s: float = 0.0) -> None:
        super().__init__(reason)
        self.cause = cause
        self.after_s = after_s  # the server asks to wait so long


class Transport:
    """Requests to one server, with one key, over connections that stay open. Its coroutines run on one event loop."""

    def __init__(
        self,
        url: str,
        limits: Limits,
        *,
        authorization: str = "",
        verify: str | Path | None = None,
        proxy: str | None = None,
    ) -> None:
        self.retries = 0
        self.paced = 0  # requests that waited for their turn under requests_per_minute
        self._url, self._limits = url, limits
        self._through = f" through the proxy {proxy}" if proxy else ""
        self._secret = authorization.partition(" ")[2]
        self._is_there = False  # the server has answered and was not found gone since
        self._next_turn_s = 0.0  # when the next request may start, on the event loop's clock
        self._random = random.Random()
        self._httpx: Any = require("httpx", extra="remote")
        self._anyio: Any = require("anyio", extra="remote")
        self._client: httpx.AsyncClient = self._httpx.AsyncClient(
            headers={"Authorization": authorization} if authorization else {},
            verify=trust(verify),
            timeout=None,  # `_attempt` sets the deadline
            limits=self._httpx.Limits(max_connections=limits.connections, max_keepalive_connections=limits.connections),
            proxy=proxy,
            trust_env=False,
            follow_redirects=False,
        )

    async def close(self) -> None:
        await self._client.aclose()

    async def get(self, path: str, budget: Budget) -> Any:
        """The answer of a GET route; None if there is no such route. Raises ScoringFailed: see `_request`."""
        answer = await self._request("GET", path, None, budget)
        if answer.status == 401 or 300 <= answer.status < 400:
            raise self._refused(answer, path)
        return answer.document if answer.status < 300 else None

    async def post(self, path: str, body: Mapping[str, Any], budget: Budget) -> HttpAnswer:
        """The JSON answer to a JSON body. Raises ScoringFailed, and TooLarge where fewer inputs may fit."""
        content = json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode()
        answer = await self._request("POST", path, content, budget)
        if answer.status >= 300:
            raise self._refused(answer, path)
        return answer

    def line(self, text: str) -> str:
        """A server's text as one short line without the key."""
        text = " ".join((text.replace(self._secret, "***") if self._secret else text).split())
        return text if len(text) <= 300 else f"{text[:297]}..."

    async def _request(self, method: str, path: str, content: bytes | None, budget: Budget) -> HttpAnswer:
        """The final answer, after retries.

        Raises ScoringFailed when attempts or budget are used up; EngineFailed if the server answered nothing of a call.
        """
        now_s: Callable[[], float] = self._anyio.current_time
        started_s, own_failures = now_s(), 0
        for attempt, pause_s in enumerate(pauses_s(self._random), start=1):
            if method == "POST":
                await self._turn()
            try:
                answer = await self._attempt(method, path, content)
                budget.answered_s = now_s()
                return answer
            except _Transient as error:
                own_failures += not self._passes(error)
                wait_s = max(pause_s, error.after_s)
                limit = self._reached(attempt, own_failures) or _beyond(budget, started_s, now_s(), error, wait_s)
                if limit:
                    raise self._given_up(f"{path}: {error} ({limit})", error, budget) from None
                self.retries += 1
                await self._anyio.sleep(wait_s)
        raise AssertionError("pauses have no end")

    def _reached(self, attempt: int, own_failures: int) -> str:
        """The limit of attempts that is reached, in words; empty if none is."""
        if attempt == self._limits.attempts:
            return f"attempts = {attempt}"
        return f"{TRIES} attempts" if self._limits.attempts is None and own_failures == TRIES else ""

    def _passes(self, error: _Transient) -> bool:
        """Whether the failure is a state of the server that will pass. A server that never answered may not exist."""
        return error.cause is _Cause.BUSY or (error.cause is _Cause.ABSENT and self._is_there)

    def _given_up(self, what: str, error: _Transient, budget: Budget) -> ScoringFailed:
        if error.cause is _Cause.ABSENT:
            self._is_there = False
        of_the_engine = error.cause is not _Cause.BROKEN and budget.answered_s is None
        return (EngineFailed if of_the_engine else ScoringFailed)(f"{self._url}{what}")

    async def _turn(self) -> None:
        """Wait until the next request may start."""
        if self._limits.requests_per_minute is None:
            return
        now_s = self._anyio.current_time()
        turn_s = max(now_s, self._next_turn_s)
        self._next_turn_s = turn_s + 60 / self._limits.requests_per_minute
        if turn_s > now_s:
            self.paced += 1
            await self._anyio.sleep(turn_s - now_s)

    async def _attempt(self, method: str, path: str, content: bytes | None) -> HttpAnswer:
        headers = {"Content-Type": "application/json"} if content is not None else {}
        first_byte_s = math.inf
        try:
            with self._anyio.fail_after(self._limits.timeout_s):
                request = self._client.stream(method, self._url + path, content=content, headers=headers)
                async with request as response:
                    first_byte_s = time.perf_counter()
                    await response.aread()
        except TimeoutError:
            raise _Transient(
                f"no complete answer within timeout_s = {self._limits.timeout_s:g}", _Cause.SILENT
            ) from None
        except self._httpx.HTTPError as error:
            raise self._broken(error, begun=first_byte_s < math.inf) from None
        self._is_there = True
        if response.status_code in TRANSIENT:
            raise _Transient(
                f"{response.status_code} {self.line(response.text)}".rstrip(),
                _Cause.BUSY if response.status_code in LATER else _Cause.BROKEN,
                retry_after_s(response.headers.get("retry-after", ""), datetime.now(UTC)),
            )
        try:
            document = json.loads(response.content)
        except (ValueError, RecursionError):
            if response.is_success and method == "POST":  # cut short, or the page of a proxy
                shown = self.line(response.text)[:80]
                raise _Transient(f"the answer is not JSON but {shown!r}", _Cause.BROKEN) from None
            document = self.line(response.text)
        return HttpAnswer(response.status_code, response.headers, document, first_byte_s)

    def _broken(self, error: "httpx.HTTPError", *, begun: bool) -> ScoringFailed | _Transient:
        """What a connection that failed or broke off means; `begun` says whether an answer had begun.

        A program that forwards a port, such as that of Docker, accepts connections for a server that is gone.
        """
        reason = self.line(f"{type(error).__name__}: {error}").rstrip(": ")
        if not isinstance(error, self._httpx.ConnectError | self._httpx.ProxyError):
            return _Transient(reason, _Cause.BROKEN if begun else _Cause.SILENT)
        if _is_tls(error):
            return EngineFailed(f"{self._url}: {reason}; for your own certificate authority set `verify`")
        return _Transient(f"{reason}{self._through}", _Cause.ABSENT)

    def _refused(self, answer: HttpAnswer, path: str) -> ScoringFailed:
        if 300 <= answer.status < 400:
            target = self.line(answer.headers.get("location", "nowhere"))
            return EngineFailed(f"{self._url}{path}: redirected to {target}, which is not followed: set `url` to it")
        written = _written(answer.document)
        step = NEXT_STEPS.get(answer.status, "see the server's log")
        message = f"{self._url}{path}: {answer.status} {self.line(written)}: {step}"
        if answer.status in TOO_LARGE:
            return TooLarge(message, written)
        return EngineFailed(message) if answer.status in REFUSES_ALL else ScoringFailed(message)


def _written(document: Any) -> str:
    """An answer as text. JSON that is just shallow enough for the parser is too deep for the writer."""
    try:
        return document if isinstance(document, str) else json.dumps(document)
    except RecursionError:
        return "an answer that is nested too deeply to be shown"


def pauses_s(draw: random.Random) -> Iterator[float]:
    """Endless seconds between attempts: the limit doubles from 0.25 to 16, and each is drawn from the upper half.

    Many clients that failed together should not retry together (Brooker, Exponential Backoff And Jitter, 2015).
    """
    longest_s = 0.25
    while True:
        yield draw.uniform(longest_s / 2, longest_s)
        longest_s = min(2 * longest_s, 16)


def _beyond(budget: Budget, started_s: float, now_s: float, error: _Transient, wait_s: float) -> str:
    """The reason why a request may not wait any longer; empty if it may."""
    left_s = budget.left_s(started_s, now_s)
    if wait_s <= left_s:
        return ""
    if error.after_s > left_s:
        return f"the server asks to wait {error.after_s:g} s, which retry_budget_s = {budget.seconds:g} does not allow"
    return f"retry_budget_s = {budget.seconds:g} is used up"


def retry_after_s(value: str, now: datetime) -> float:
    """Seconds to wait by a Retry-After header, a number or a date (RFC 9110, 10.2.3); 0 if it cannot be read.

    The RFC has whole seconds. Many servers send fractions.
    """
    if re.fullmatch(r"[0-9]+(\.[0-9]*)?", value.strip()):
        return float(value.strip())
    try:
        at = parsedate_to_datetime(value)
    except (ValueError, OverflowError):
        return 0.0
    return max(0.0, (at.replace(tzinfo=at.tzinfo or UTC) - now).total_seconds())


def trust(authorities: str | Path | None) -> ssl.SSLContext | bool:
    """The certificate authorities of a PEM file; True for the public ones. Raises EngineUnavailable."""
    if authorities is None:
        return True
    try:
        return ssl.create_default_context(cafile=resolve(authorities))
    except OSError as error:  # ssl.SSLError is one
        raise EngineUnavailable(f"verify = {str(authorities)!r}: {error}; expected a PEM file of authorities") from None


def _is_tls(error: BaseException | None) -> bool:
    """Whether TLS was refused. A connection that is cut during the handshake does not count."""
    while error is not None:
        if isinstance(error, ssl.SSLError):
            return not isinstance(error, ssl.SSLEOFError | ssl.SSLZeroReturnError)
        error = error.__cause__ or error.__context__
    return False
