"""JSON over HTTP: requests with a deadline, retries with back-off, and errors in one line.

It runs on an event loop because only there a deadline covers the whole request: name, connection, TLS, headers and
body, even if a server sends one byte a second. Proxy variables and .netrc are not read (trust_env), so that the key
goes to the configured host and nowhere else.
"""

import json
import random
import ssl
import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, NamedTuple

from engines.base import EngineUnavailable, ScoringFailed, require
from engines.storage import resolve

if TYPE_CHECKING:
    import httpx

# Statuses after which the same request may succeed later; every other status is final.
TRANSIENT = {408, 429, 500, 502, 503, 504}
TOO_LARGE = {413, 422}  # TEI sends 422 where its documentation says 413
NEXT_STEPS = {
    400: "the server refuses this request: are dialect and model right, and is max_tokens within its limit?",
    401: "is api_key_env the right key?",
    403: "is api_key_env the key of this model?",
    404: "is this the right url, dialect and model?",
    413: "lower max_tokens",
    422: "lower max_tokens, or is it another dialect?",
    424: "the server's model failed; see its log",
}


class HttpAnswer(NamedTuple):
    status: int
    headers: Mapping[str, str]
    document: Any  # parsed JSON; for any other body its first text
    first_byte_s: float  # arrival of the first byte, on the clock `time.perf_counter`


class Limits(NamedTuple):
    timeout_s: float  # limit of one attempt, from its start to the last byte
    attempts: int
    connections: int


class Budget:
    """Seconds left for failed attempts and the waits between them, over all requests of one call."""

    def __init__(self, seconds: float) -> None:
        self.left_s = seconds


class TooLarge(ScoringFailed):
    """The request is too large for the server (413 or 422): a part of the inputs may fit."""


class _Transient(Exception):
    def __init__(self, reason: str, after_s: float = 0.0) -> None:
        super().__init__(reason)
        self.after_s = after_s


class Transport:
    """Requests to one server, with one key, over connections that stay open. Its coroutines run on one event loop."""

    def __init__(self, url: str, limits: Limits, *, authorization: str = "", verify: str | None = None) -> None:
        self.retries = 0
        self._url, self._limits = url, limits
        self._secret = authorization.partition(" ")[2]
        self._random = random.Random()
        self._httpx: Any = require("httpx", extra="remote")
        self._anyio: Any = require("anyio", extra="remote")
        self._client: httpx.AsyncClient = self._httpx.AsyncClient(
            headers={"Authorization": authorization} if authorization else {},
            verify=_trust(verify),
            timeout=None,  # `_attempt` sets the deadline
            limits=self._httpx.Limits(max_connections=limits.connections, max_keepalive_connections=limits.connections),
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
        """The final answer, after retries. Raises ScoringFailed when attempts or budget are used up."""
        for attempt, pause_s in enumerate(pauses_s(self._random), start=1):
            started = time.monotonic()
            try:
                return await self._attempt(method, path, content)
            except _Transient as error:
                wait_s = max(pause_s, error.after_s)
                budget.left_s -= time.monotonic() - started + wait_s
                last = attempt == self._limits.attempts
                if last or budget.left_s < 0:
                    limit = f"attempts = {attempt}" if last else f"attempt {attempt}, retry_budget_s is used up"
                    raise ScoringFailed(f"{self._url}{path}: {error} ({limit})") from None
                self.retries += 1
                await self._anyio.sleep(wait_s)
        raise AssertionError("pauses have no end")

    async def _attempt(self, method: str, path: str, content: bytes | None) -> HttpAnswer:
        headers = {"Content-Type": "application/json"} if content is not None else {}
        try:
            with self._anyio.fail_after(self._limits.timeout_s):
                request = self._client.stream(method, self._url + path, content=content, headers=headers)
                async with request as response:
                    first_byte_s = time.perf_counter()
                    await response.aread()
        except TimeoutError:
            raise _Transient(f"no complete answer within timeout_s = {self._limits.timeout_s:g}") from None
        except self._httpx.HTTPError as error:
            reason = self.line(f"{type(error).__name__}: {error}").rstrip(": ")
            if isinstance(error, self._httpx.ConnectError) and _is_tls(error):
                raise ScoringFailed(f"{self._url}: {reason}; for your own certificate authority set `verify`") from None
            raise _Transient(reason) from None
        if response.status_code in TRANSIENT:
            after_s = retry_after_s(response.headers.get("retry-after", ""), datetime.now(UTC))
            raise _Transient(f"{response.status_code} {self.line(response.text)}".rstrip(), after_s)
        try:
            document = json.loads(response.content)
        except (ValueError, RecursionError):
            if response.is_success and method == "POST":  # cut short, or the page of a proxy
                raise _Transient(f"the answer is not JSON but {self.line(response.text)[:80]!r}") from None
            document = self.line(response.text)
        return HttpAnswer(response.status_code, response.headers, document, first_byte_s)

    def _refused(self, answer: HttpAnswer, path: str) -> ScoringFailed:
        if 300 <= answer.status < 400:
            target = self.line(answer.headers.get("location", "nowhere"))
            return ScoringFailed(f"{self._url}{path}: redirected to {target}, which is not followed: set `url` to it")
        kind = TooLarge if answer.status in TOO_LARGE else ScoringFailed
        message = self.line(_written(answer.document))
        step = NEXT_STEPS.get(answer.status, "see the server's log")
        return kind(f"{self._url}{path}: {answer.status} {message}: {step}")


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


def retry_after_s(value: str, now: datetime) -> float:
    """Seconds to wait by a Retry-After header, a number or a date (RFC 9110, 10.2.3); 0 if it cannot be read."""
    if value.strip().isdecimal():
        return float(value.strip())
    try:
        at = parsedate_to_datetime(value)
    except (ValueError, OverflowError):
        return 0.0
    return max(0.0, (at.replace(tzinfo=at.tzinfo or UTC) - now).total_seconds())


def _trust(authorities: str | None) -> ssl.SSLContext | bool:
    if authorities is None:
        return True
    try:
        return ssl.create_default_context(cafile=resolve(authorities))
    except OSError as error:  # ssl.SSLError is one
        raise EngineUnavailable(f"verify = {authorities!r}: {error}; expected a PEM file of authorities") from None


def _is_tls(error: BaseException | None) -> bool:
    """Whether TLS was refused. A connection that is cut during the handshake does not count."""
    while error is not None:
        if isinstance(error, ssl.SSLError):
            return not isinstance(error, ssl.SSLEOFError | ssl.SSLZeroReturnError)
        error = error.__cause__ or error.__context__
    return False
