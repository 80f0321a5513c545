"""Scores over HTTP: one engine for all servers, with one dialect per server."""

import hashlib
import os
import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any, ClassVar, NamedTuple

from engines.base import (
    BadOptions,
    Call,
    Counts,
    Description,
    Engine,
    EngineUnavailable,
    Options,
    ScoreKind,
    ScoringFailed,
    Truncation,
    by_query,
    not_utf8,
    require,
    require_installed,
)
from engines.model_files import require_model
from engines.prompts.encoder import Prompt, PromptEncoder
from engines.prompts.template import load_template
from engines.remote import dialects
from engines.remote.answers import RAW, LogOdds, log_odds, refuse_softmax, usage
from engines.remote.dialects.base import Batch, Dialect
from engines.remote.options import TEMPLATE, RemoteOptions
from engines.remote.prompt_text import PAD, TextEncoder, load_tokenizer
from engines.remote.transport import Budget, HttpAnswer, Limits, TooLarge, Transport, trust
from engines.storage import resolve, shadowed, tried


class RequestJob(NamedTuple):
    """One request, and the pairs whose scores it gives."""

    batch: Batch
    pairs: Sequence[tuple[str, str]]

    def parts(self, size: int) -> Iterator["RequestJob"]:
        """The job in requests of at most `size` inputs."""
        for first in range(0, len(self.pairs), size):
            inputs = self.batch.inputs[first : first + size]
            yield RequestJob(self.batch._replace(inputs=inputs), self.pairs[first : first + size])


class CallRecord:
    """Times and tokens of the answers to one call of `score`, in the order of their arrival."""

    def __init__(self, budget: Budget) -> None:
        self.budget = budget
        self._first_bytes_s: list[float] = []
        self._tokens: list[int | None] = []

    def add(self, first_byte_s: float, tokens: int | None) -> None:
        self._first_bytes_s.append(first_byte_s)
        self._tokens.append(tokens)

    def call(self) -> Call:
        known = [tokens for tokens in self._tokens if tokens is not None]
        tokens = sum(known) if len(known) == len(self._tokens) else None
        return Call(min(self._first_bytes_s, default=None), tokens)


class Remote(Engine):
    options_type: ClassVar[type[Options]] = RemoteOptions
    options: RemoteOptions
    concurrent: ClassVar[bool] = True

    @classmethod
    def preflight(cls, options: RemoteOptions) -> Sequence[str]:
        """Everything except the server, which may be started later."""
        require_installed("httpx", "anyio", extra="remote")
        _authorization(options, dialects.find(options.dialect))
        folder, notes = options.config_folder, tuple[str, ...]()
        if options.tokenizer is not None:
            require_installed("tokenizers", extra="remote")
            notes += require_model(
                options.tokenizer, folder, what="tokenizer", files=("tokenizer.json",), extra="remote"
            )
        if options.verify is not None:
            if not resolve(options.verify, folder).is_file():
                raise BadOptions(f"verify = {options.verify!r}: no such file, tried {tried(options.verify, folder)}")
            trust(resolve(options.verify, folder))
        paths = (path for path in (options.verify, options.template) if path is not None)
        return (*notes, *(note for path in paths for note in shadowed(path, folder)))

    def __init__(self, options: RemoteOptions) -> None:
        super().__init__(options)
        self._dialect, self._kind = dialects.find(options.dialect), options.kind
        self._template = load_template(options.template or TEMPLATE, options.config_folder)
        self._counts = Counts()
        self._counting = threading.Lock()
        self._last = threading.local()  # several threads may call at a time; `last_call` is per thread
        self._description = _described(options, self._dialect)
        self._anyio: Any = require("anyio", extra="remote")
        tokenizer = load_tokenizer(options.tokenizer, options.config_folder) if options.tokenizer else None
        self._most = options.batch_size or self._dialect.batch_size  # inputs per request; refused requests lower it
        self._transport = Transport(
            options.url.rstrip("/"),
            Limits(options.timeout_s, options.attempts, options.concurrency, options.requests_per_minute),
            authorization=_authorization(options, self._dialect),
            verify=None if options.verify is None else resolve(options.verify, options.config_folder),
            proxy=options.proxy,
        )
        with ExitStack() as stack:
            self._portal = stack.enter_context(require("anyio.from_thread", extra="remote").start_blocking_portal())
            stack.callback(self._portal.call, self._transport.close)
            self._slots = self._portal.call(self._anyio.Semaphore, options.concurrency)
            stated = self._ask_server()
            self._encoder = self._make_encoder(tokenizer, _longest(options, stated.get(self._dialect.longest)))
            self._most = min(self._most, _count(stated.get(self._dialect.most)) or self._most)
            self._describe_server(stated)
            self._open = stack.pop_all()

    def score(self, pairs: Sequence[tuple[str, str]]) -> list[float]:
        jobs, record = list(self._jobs(pairs)), CallRecord(Budget(self.options.retry_budget_s))
        future = self._portal.start_task_soon(self._request_all, jobs, record)
        try:
            scores: list[LogOdds] = future.result()
        except BaseException:  # an interrupt stops running requests and drops waiting ones
            future.cancel()
            raise
        if self._kind in RAW:
            with self._named(""):
                refuse_softmax(scores)
        self._count(Counts(saturated=sum(score.saturated for score in scores)))
        self._last.call = record.call()
        return [score.value for score in scores]

    def describe(self) -> Description:
        return self._description

    def counts(self) -> Counts:
        paced = None if self.options.requests_per_minute is None else self._transport.paced
        return replace(self._counts, retries=self._transport.retries, paced=paced)

    def last_call(self) -> Call:
        call: Call = getattr(self._last, "call", Call())
        return call

    def close(self) -> None:
        self._open.close()

    def _make_encoder(self, tokenizer: Any, longest: int | None) -> PromptEncoder | TextEncoder | None:
        """The encoder that turns pairs into prompts; None if the service does. Adds to the description.

        `longest` is the longest prompt in tokens that the server takes; None: unknown.
        """
        options, dialect, template = self.options, self._dialect, self._template
        if dialect.form == "pair":
            return None
        self._description = replace(self._description, template=template.name, template_sha256=template.sha256)
        limits: dict[str, Any] = {"max_tokens": options.max_tokens, "positions": longest}
        if tokenizer is not None:
            self._detail("tokenizer_sha256", hashlib.sha256(tokenizer.to_str().encode()).hexdigest())
        if dialect.form == "ids":
            assert tokenizer is not None
            encoder = PromptEncoder(template, tokenizer, **limits, instruction=options.instruction)
            self._description = replace(self._description, max_tokens=encoder.max_tokens)
            return encoder
        wanted = options.final_newline == "protect" or (options.final_newline == "auto" and dialect.strips)
        protect = wanted and template.pieces[-1][-1:].isspace()
        self._detail("final_newline", f"protected by {PAD}" if protect else "kept")
        texts = TextEncoder(template, tokenizer, **limits, instruction=options.instruction, protect=protect)
        if tokenizer is not None:
            self._description = replace(self._description, max_tokens=texts.max_tokens)
        return texts

    def _detail(self, name: str, value: str) -> None:
        self._description = replace(self._description, details={**self._description.details, name: value})

    def _ask_server(self) -> dict[str, str]:
        """What the info routes state, by field.

        Raises EngineUnavailable for a server that is absent, refuses the key or serves other models.
        """
        budget = Budget(self.options.retry_budget_s)
        stated: dict[str, str] = {}
        for path, names in self._dialect.info.items():
            try:
                document = self._portal.call(self._transport.get, path, budget)
            except ScoringFailed as error:
                raise EngineUnavailable(f"{error}; start the server, or correct {_reach(self.options)}") from None
            entry = _entry(document, self.options.model)
            if entry is None and "id" in names:
                served = self._transport.line(", ".join(_served(document)))
                raise EngineUnavailable(
                    f"{self.options.url}{path}: the server serves {served}, and not model = {self.options.model!r}"
                )
            stated |= {name: self._transport.line(str(entry[name])) for name in names if entry and name in entry}
        return stated

    def _describe_server(self, stated: Mapping[str, str]) -> None:
        for name, value in stated.items():
            self._detail(f"server_{name}", value)
        model = self.options.model or stated.get("model_id") or self._description.model
        self._description = replace(self._description, model=model)

    def _jobs(self, pairs: Sequence[tuple[str, str]]) -> Iterator[RequestJob]:
        batches = [self._batch(query, documents) for query, documents in by_query(pairs)]
        if self._dialect.form in ("prompt", "ids") and batches:  # one request may mix queries
            inputs: list[Any] = [text for batch in batches for text in batch.inputs]
            batches = [batches[0]._replace(inputs=inputs)]
        start = 0
        for batch in batches:
            whole = RequestJob(batch, pairs[start : start + len(batch.inputs)])
            yield from whole.parts(self._most)
            start += len(batch.inputs)

    def _batch(self, query: str, documents: Sequence[str]) -> Batch:
        """One query's documents in the form of this dialect."""
        model = self.options.model
        for text in (query, *documents):
            _check_encodable(text)
        if self._encoder is None:
            return Batch(documents, query, model)
        encoded = self._encoder.encode(query, documents)
        self._count(encoded.counts)
        if isinstance(encoded, Prompt):
            return Batch([encoded.prefix + tail for tail in encoded.tails], model=model)
        if self._dialect.form == "halves":
            return Batch(encoded.tails, encoded.prefix, model)
        return Batch([encoded.prefix + tail for tail in encoded.tails], model=model)

    async def _request_all(self, jobs: Sequence[RequestJob], record: CallRecord) -> list[LogOdds]:
        """Scores in the order of the jobs. The first failure stops the other requests."""
        scores: list[list[LogOdds]] = [[] for _ in jobs]

        async def request(index: int) -> None:
            async with self._slots:
                scores[index] = await self._request(jobs[index], record)

        try:
            async with self._anyio.create_task_group() as group:
                for index in range(len(jobs)):
                    group.start_soon(request, index)
        except ExceptionGroup as failed:
            raise failed.exceptions[0] from None
        return [score for part in scores for score in part]

    async def _request(self, job: RequestJob, record: CallRecord) -> list[LogOdds]:
        """One score per pair of the job. A request that is too large for the server is split.

        If the server takes all parts, the request had too many inputs, and none will have as many again. A part that it
        refuses alone is an input that is too long.
        """
        if len(job.pairs) > self._most:  # learnt while the job was waiting
            return await self._request_parts(job, self._most, record)
        path, body = self._dialect.request(job.batch)
        try:
            answer = await self._transport.post(path, body, record.budget)
        except TooLarge as error:
            if len(job.pairs) == 1:
                query, document = job.pairs[0]
                length = f"{len(document):,} characters"
                raise ScoringFailed(
                    f"{error}, for query {query[:60]!r} and document {document[:60]!r} ({length})"
                ) from None
            self._count(Counts(splits=1))
            size = error.limit(len(job.pairs))
            scores = await self._request_parts(job, size, record)
            self._most = min(self._most, size)
            return scores
        with self._named(path):
            return self._read(answer, job, record)

    async def _request_parts(self, job: RequestJob, size: int, record: CallRecord) -> list[LogOdds]:
        return [score for part in job.parts(size) for score in await self._request(part, record)]

    def _read(self, answer: HttpAnswer, job: RequestJob, record: CallRecord) -> list[LogOdds]:
        """One score per pair of the job from the server's answer."""
        counts = replace(usage(answer), requests=1)
        if not self._dialect.counts_tokens:
            counts = replace(counts, tokens=None)
        self._count(counts)
        record.add(answer.first_byte_s, counts.tokens)
        values = self._dialect.scores(answer.document)
        if len(values) != len(job.pairs):
            raise ScoringFailed(f"{len(values)} scores for {len(job.pairs)} pairs")
        return [log_odds(value, self._template.labels, self._kind) for value in values]

    @contextmanager
    def _named(self, path: str) -> Iterator[None]:
        """Puts the route before the message of an answer that cannot be used, and keeps the key out of it."""
        try:
            yield
        except ScoringFailed as error:
            raise type(error)(self._transport.line(f"{self.options.url}{path}: {error}")) from None

    def _count(self, counts: Counts) -> None:
        with self._counting:  # the event loop and all threads that call `score` add to them
            self._counts += counts


def _described(options: RemoteOptions, dialect: Dialect) -> Description:
    """The description before the first request."""
    beyond = Truncation.BY_SERVER if dialect.cuts else Truncation.REFUSED
    return Description(
        model=options.model or options.url,
        truncation=Truncation.HERE if options.tokenizer else beyond,
        # A service's own scale belongs to its model; OWN would be one scale for all remote engines.
        score_kind=ScoreKind.OPAQUE if options.kind is ScoreKind.OWN else options.kind,
        details={
            "dialect": options.dialect,
            "url": options.url,
            "input": _INPUTS[dialect.form],
            "batch_size": str(options.batch_size or dialect.batch_size),
            "httpx": str(require("httpx", extra="remote").__version__),
        },
    )


_INPUTS = {
    "prompt": "prompt as text",
    "ids": "prompt as token ids",
    "halves": "prompt as text in two halves",
    "pair": "query and document as they are, the prompt is the service's",
}


def _authorization(options: RemoteOptions, dialect: Dialect) -> str:
    """Value of the header, empty without a key. Raises EngineUnavailable, which never holds the key."""
    if options.api_key_env is None:
        return ""
    key = os.environ.get(options.api_key_env, "")
    if not key:
        raise EngineUnavailable(
            f"environment variable {options.api_key_env} is not set: it must hold the endpoint's key"
        )
    if not re.fullmatch(r"[!-~]+", key):
        raise EngineUnavailable(
            f"environment variable {options.api_key_env} holds a space, a newline or a character that is not ASCII: "
            "set it to the key alone"
        )
    return f"{dialect.auth} {key}"


def _longest(options: RemoteOptions, stated: str | None) -> int | None:
    """The longest prompt in tokens that the server takes, from what it states; None if it states nothing.

    Raises EngineUnavailable if the config allows more.
    """
    longest = _count(stated)
    if longest and options.max_tokens and options.max_tokens > longest:
        raise EngineUnavailable(
            f"max_tokens = {options.max_tokens}: the server at {options.url} takes at most {longest} tokens; lower "
            "max_tokens, or leave it out"
        )
    return longest


def _count(stated: str | None) -> int | None:
    """A number above zero that a server states; None for anything else."""
    return int(stated) if stated and re.fullmatch(r"[1-9][0-9]{0,8}", stated) else None


def _reach(options: RemoteOptions) -> str:
    """The options that decide whether a server can be reached, for a message."""
    variables = [name for name in _PROXY_VARIABLES if os.environ.get(name)]
    if options.proxy is None and variables:
        return f"url, api_key_env or verify; {variables[0]} is set and not read: to use a proxy, name it in `proxy`"
    return "url, api_key_env, verify or proxy"


_PROXY_VARIABLES = ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy", "HTTP_PROXY", "http_proxy")


def _entry(document: Any, model: str) -> Mapping[str, Any] | None:
    """The object that an info route returns; for a list of models its entry of this model, None if it has none."""
    if _served(document):
        return next((entry for entry in document["data"] if isinstance(entry, dict) and entry.get("id") == model), None)
    return document if isinstance(document, dict) else {}


def _served(document: Any) -> list[str]:
    """The models in the answer of an info route that lists them."""
    entries = document.get("data") if isinstance(document, dict) else None
    listed = entries if isinstance(entries, list) else []
    return [str(entry["id"]) for entry in listed if isinstance(entry, dict) and "id" in entry]


def _check_encodable(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise not_utf8(error) from None
