"""Scores over HTTP: one engine for all servers, with one dialect per server."""

import hashlib
import os
import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any, ClassVar, NamedTuple

from engines.base import (
    Call,
    Counts,
    Description,
    Engine,
    EngineUnavailable,
    Options,
    ScoringFailed,
    Truncation,
    by_query,
    not_utf8,
    require,
)
from engines.prompts.encoder import Prompt, PromptEncoder
from engines.prompts.template import load_template
from engines.remote import dialects
from engines.remote.answers import LogOdds, log_odds, usage
from engines.remote.dialects.base import Batch, Dialect
from engines.remote.options import TEMPLATE, RemoteOptions
from engines.remote.prompt_text import PAD, TextEncoder, load_tokenizer
from engines.remote.transport import Budget, Limits, TooLarge, Transport


class RequestJob(NamedTuple):
    """One request, and the pairs whose scores it gives."""

    batch: Batch
    pairs: Sequence[tuple[str, str]]

    def part(self, first: int, last: int) -> "RequestJob":
        return RequestJob(self.batch._replace(inputs=self.batch.inputs[first:last]), self.pairs[first:last])


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

    def __init__(self, options: RemoteOptions) -> None:
        super().__init__(options)
        self._dialect = dialects.find(options.dialect)
        self._template = load_template(options.template or TEMPLATE)
        self._counts = Counts()
        self._counting = threading.Lock()
        self._last = threading.local()  # several threads may call at a time; `last_call` is per thread
        self._description = _described(options, self._dialect)
        self._anyio: Any = require("anyio", extra="remote")
        self._transport = Transport(
            options.url.rstrip("/"),
            Limits(options.timeout_s, options.attempts, options.concurrency),
            authorization=_authorization(options, self._dialect),
            verify=options.verify,
        )
        self._encoder = self._make_encoder()
        with ExitStack() as stack:
            self._portal = stack.enter_context(require("anyio.from_thread", extra="remote").start_blocking_portal())
            stack.callback(self._portal.call, self._transport.close)
            self._slots = self._portal.call(self._anyio.Semaphore, options.concurrency)
            self._description = self._with_server(self._description)
            self._open = stack.pop_all()

    def score(self, pairs: Sequence[tuple[str, str]]) -> list[float]:
        jobs, record = list(self._jobs(pairs)), CallRecord(Budget(self.options.retry_budget_s))
        future = self._portal.start_task_soon(self._request_all, jobs, record)
        try:
            scores: list[LogOdds] = future.result()
        except BaseException:  # an interrupt stops running requests and drops waiting ones
            future.cancel()
            raise
        self._count(Counts(saturated=sum(score.saturated for score in scores)))
        self._last.call = record.call()
        return [score.value for score in scores]

    def describe(self) -> Description:
        return self._description

    def counts(self) -> Counts:
        return replace(self._counts, retries=self._transport.retries)

    def last_call(self) -> Call:
        call: Call = getattr(self._last, "call", Call())
        return call

    def close(self) -> None:
        self._open.close()

    def _make_encoder(self) -> PromptEncoder | TextEncoder | None:
        """The encoder that turns pairs into prompts; None if the service does. Adds to the description."""
        options, dialect, template = self.options, self._dialect, self._template
        if dialect.form == "pair":
            return None
        tokenizer = load_tokenizer(options.tokenizer) if options.tokenizer else None
        self._description = replace(self._description, template=template.name, template_sha256=template.sha256)
        if tokenizer is not None:
            self._detail("tokenizer_sha256", hashlib.sha256(tokenizer.to_str().encode()).hexdigest())
        if dialect.form == "ids":
            assert tokenizer is not None
            encoder = PromptEncoder(template, tokenizer, max_tokens=options.max_tokens, instruction=options.instruction)
            self._description = replace(self._description, max_tokens=encoder.max_tokens)
            return encoder
        wanted = options.final_newline == "protect" or (options.final_newline == "auto" and dialect.strips)
        protect = wanted and template.pieces[-1][-1:].isspace()
        self._detail("final_newline", f"protected by {PAD}" if protect else "kept")
        texts = TextEncoder(
            template, tokenizer, max_tokens=options.max_tokens, instruction=options.instruction, protect=protect
        )
        if tokenizer is not None:
            self._description = replace(self._description, max_tokens=texts.max_tokens)
        return texts

    def _detail(self, name: str, value: str) -> None:
        self._description = replace(self._description, details={**self._description.details, name: value})

    def _with_server(self, description: Description) -> Description:
        """Adds what the info routes state. Raises EngineUnavailable for a server that is absent or refuses the key."""
        budget = Budget(self.options.retry_budget_s)
        stated: dict[str, str] = {}
        for path, names in self._dialect.info.items():
            try:
                document = self._portal.call(self._transport.get, path, budget)
            except ScoringFailed as error:
                raise EngineUnavailable(f"{error}; start the server, or correct url, api_key_env or verify") from None
            entry = _entry(document, self.options.model)
            stated |= {f"server_{name}": self._transport.line(str(entry[name])) for name in names if name in entry}
        model = self.options.model or stated.get("server_model_id") or description.model
        return replace(description, model=model, details={**description.details, **stated})

    def _jobs(self, pairs: Sequence[tuple[str, str]]) -> Iterator[RequestJob]:
        size = self.options.batch_size or self._dialect.batch_size
        batches = [self._batch(query, documents) for query, documents in by_query(pairs)]
        if self._dialect.form in ("prompt", "ids") and batches:  # one request may mix queries
            inputs: list[Any] = [text for batch in batches for text in batch.inputs]
            batches = [batches[0]._replace(inputs=inputs)]
        start = 0
        for batch in batches:
            whole = RequestJob(batch, pairs[start : start + len(batch.inputs)])
            yield from (whole.part(first, first + size) for first in range(0, len(batch.inputs), size))
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
        """One score per pair of the job. A request that is too large for the server is split in two."""
        path, body = self._dialect.request(job.batch)
        try:
            answer = await self._transport.post(path, body, record.budget)
        except TooLarge as error:
            if len(job.pairs) == 1:
                query, document = job.pairs[0]
                raise ScoringFailed(f"{error}, for query {query[:60]!r} and document {document[:60]!r}") from None
            self._count(Counts(splits=1))
            middle = len(job.pairs) // 2
            first = await self._request(job.part(0, middle), record)
            return first + await self._request(job.part(middle, len(job.pairs)), record)
        counts = replace(usage(answer), requests=1)
        if not self._dialect.counts_tokens:
            counts = replace(counts, tokens=None)
        self._count(counts)
        record.add(answer.first_byte_s, counts.tokens)
        try:
            values = self._dialect.scores(answer.document)
            if len(values) != len(job.pairs):
                raise ScoringFailed(f"{len(values)} scores for {len(job.pairs)} pairs")
            return [log_odds(value, self._template.labels, self._dialect.score_kind) for value in values]
        except ScoringFailed as error:
            raise ScoringFailed(self._transport.line(f"{self.options.url}{path}: {error}")) from None

    def _count(self, counts: Counts) -> None:
        with self._counting:  # the event loop and all threads that call `score` add to them
            self._counts += counts


def _described(options: RemoteOptions, dialect: Dialect) -> Description:
    """The description before the first request."""
    beyond = Truncation.BY_SERVER if dialect.cuts else Truncation.REFUSED
    return Description(
        model=options.model or options.url,
        truncation=Truncation.HERE if options.tokenizer else beyond,
        score_kind=dialect.score_kind,
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


def _entry(document: Any, model: str) -> Mapping[str, Any]:
    """The object that an info route returns; for a list below `data` its entry of this model."""
    entries = document.get("data") if isinstance(document, dict) else None
    if isinstance(entries, list):
        return next((entry for entry in entries if isinstance(entry, dict) and entry.get("id") == model), {})
    return document if isinstance(document, dict) else {}


def _check_encodable(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise not_utf8(error) from None
