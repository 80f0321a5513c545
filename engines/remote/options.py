"""Options of a remote endpoint, checked before anything is sent."""

import re
from ipaddress import ip_address
from typing import Annotated, ClassVar, Literal, Self
from urllib.parse import SplitResult, urlsplit

from pydantic import Field, PositiveInt, field_validator, model_validator

from engines.base import BadOptions, Options, PromptOptions, ScoreKind
from engines.prompts.template import load_template
from engines.remote import dialects
from engines.spelling import expected

TEMPLATE = "mxbai-v2-seq"
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Seconds = Positive


class RemoteOptions(Options):
    incidental: ClassVar[frozenset[str]] = frozenset(
        ("requests_per_minute", "timeout_s", "attempts", "retry_budget_s", "api_key_env", "verify", "proxy")
    )
    dialect: str
    url: str  # base of the dialect's routes, without a user, a query or a fragment
    model: str = ""  # the name under which the server serves it
    template: str | None = None  # None: mxbai-v2-seq; cohere and jina have their own prompt
    instruction: str = ""
    tokenizer: str | None = None  # a folder with tokenizer.json, or a name on the hub; None: nothing is cut here
    max_tokens: PositiveInt | None = None  # limit of the whole prompt, cut to fit; None: the template's or the server's
    final_newline: Literal["auto", "keep", "protect"] = "auto"  # protect: append the pad token
    batch_size: PositiveInt | None = None  # inputs per request; None: the dialect's
    concurrency: PositiveInt = 4  # requests at a time
    requests_per_minute: Positive | None = None  # the service's own limit; None: as many as concurrency allows
    timeout_s: Seconds = 120.0  # limit of one attempt, from its start to the last byte
    # Tries of one request. None: 5 of a request that fails by itself, and as many as retry_budget_s allows while the
    # server is busy or away.
    attempts: PositiveInt | None = None
    retry_budget_s: Seconds = 120.0  # how long a query waits for a server that answers none of its requests
    # What the server sends: logit (raw logits), probability (a sigmoid or softmax), own (any other number); None: what
    # the dialect's own server sends. Servers with equal routes differ, and an answer does not say which it is.
    score_kind: Literal["logit", "probability", "own"] | None = None
    api_key_env: str | None = None  # the environment variable that holds the key
    verify: str | None = None  # a PEM file of certificate authorities instead of the public ones
    proxy: str | None = None  # url of the HTTP proxy for every request; variables of the environment are not read

    @field_validator("dialect")
    @classmethod
    def _is_known(cls, dialect: str) -> str:
        if dialect not in dialects.names():
            raise ValueError(expected(dialect, dialects.names()))
        try:
            dialects.find(dialect)
        except BadOptions as error:
            raise ValueError(str(error)) from None
        return dialect

    @model_validator(mode="after")
    def _keeps_the_key(self) -> Self:
        """Refuse a url or a name that may hold a secret, without repeating it: errors are written to files."""
        if self.api_key_env is not None and not re.fullmatch(r"[A-Z_][A-Z0-9_]*", self.api_key_env):
            raise ValueError(
                "api_key_env must be the name of an environment variable (A-Z, 0-9, _), not the key itself"
            )
        parts = _split(self.url, "url")
        if self.proxy is not None and _split(self.proxy, "proxy").path not in ("", "/"):
            raise ValueError("proxy has a path; expected http(s)://HOST[:PORT]")
        if self.api_key_env and parts.scheme == "http" and not _is_loopback(parts.hostname or ""):
            raise ValueError(f"the key of {self.api_key_env} is not sent in the clear to {parts.hostname}: use https")
        if self.api_key_env and parts.scheme == "http" and self.proxy is not None:
            raise ValueError(f"the key of {self.api_key_env} is not sent in the clear through a proxy: use https")
        ending = dialects.find(self.dialect).url_ending
        if not self.url.rstrip("/").endswith(ending):
            raise ValueError(f"url {self.url!r}: expected a url that ends in {ending}, as those of {self.dialect} do")
        return self

    @model_validator(mode="after")
    def _fits_the_dialect(self) -> Self:
        """Refuse a missing option that the dialect needs, and an option that would have no effect."""
        dialect = dialects.find(self.dialect)
        if dialect.needs_model and not self.model:
            raise ValueError(f"dialect {self.dialect} needs `model`, the name under which the server serves it")
        if dialect.form == "ids" and not self.tokenizer:
            raise ValueError(f"dialect {self.dialect} sends token ids: set `tokenizer` to the model's folder or name")
        if dialect.form == "pair":
            for name in ("template", "instruction", "tokenizer", "max_tokens"):
                if getattr(self, name):
                    raise ValueError(f"{name} has no effect: the service behind {self.dialect} makes its own prompt")
            return self
        if self.max_tokens and not self.tokenizer:
            raise ValueError(f"max_tokens = {self.max_tokens} needs the model's `tokenizer` to count and cut")
        load_template(self.template or TEMPLATE, self.config_folder).instruction_line(self.instruction)
        return self

    @property
    def kind(self) -> ScoreKind:
        """The kind of the numbers that the server sends."""
        return ScoreKind(self.score_kind) if self.score_kind else dialects.find(self.dialect).score_kind

    @property
    def prompt(self) -> PromptOptions | None:
        if dialects.find(self.dialect).form == "pair":
            return None
        return PromptOptions(self.template or TEMPLATE, self.instruction, exact=False)

    @property
    def requests_at_a_time(self) -> int:
        return self.concurrency


def _split(url: str, option: str) -> SplitResult:
    """The parts of a url that names a server and nothing else. Raises ValueError, which does not repeat the url."""
    expected = "expected http(s)://HOST[:PORT][/PATH] in ASCII"
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise ValueError(f"{option} cannot be read; {expected}") from None
    if not re.fullmatch(r"https?://[!-~]+", url) or not parts.hostname or port == 0:
        raise ValueError(f"{option} cannot be read; {expected}")
    if "@" in url or "?" in url or "#" in url:
        step = "and a key in api_key_env" if option == "url" else "and no password"
        raise ValueError(f"{option} holds a user, a query or a fragment; {expected}, {step}")
    return parts


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False
