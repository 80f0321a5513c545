"""Under every fault of a server or its network, a pair has its own score or no score, and no call waits forever."""

import itertools
import random
import re
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import engines
import engines.remote.transport
from engines import BadOptions, Engine, EngineUnavailable, Pair, ScoringFailed
from engines.base import EngineFailed
from engines.prompts.template import load_template
from engines.remote.transport import TooLarge, pauses_s, retry_after_s
from tests.engines.server import FAULTS, TRANSIENT, Call, Server, truth

DEMO = load_template("demo")
PAIRS = [Pair("a query", f"document {i}") for i in range(8)]
TRUTH = [truth(DEMO.render(*pair)) for pair in PAIRS]
PERMANENT = {
    "401": "401 .*is api_key_env the right key",
    "402": "402 .*is the account's quota used up",
    "403": "403 .*is api_key_env the key of this model",
    "404": "404 .*is this the right url, dialect and model",
    "424": "424 .*the server's model failed",
    "nan": "score is nan, expected a finite number",
    "infinite": "score is inf, expected a finite number",
    "null": "score is None, expected a finite number",
    "text": "score is '0.5', expected a finite number",
    "true": "score is True, expected a finite number",
    "huge": "score is 1000.*, expected a finite number",
    "wrong count": "7 scores for 8 pairs",
    "object": r"the answer is \{'colour': 'red'\}, expected a list",
    "redirect": r"redirected to http://elsewhere.invalid/predict\?q=1, which is not followed",
}
GIVES_UP = {
    "reset": "ReadError|RemoteProtocolError|WriteError",
    "reset mid-body": "ReadError|RemoteProtocolError",
    "429": "429 .*injected",
    "500": "500 .*injected",
    "502": "502 .*injected",
    "503": "503 .*injected",
    "504": "504 .*injected",
    "520": "520 .*injected",
    "529": "529 .*injected",
    "page": "not JSON but '<html>Please wait</html>'",
    "half": "not JSON but",
    "nested": "not JSON but",
    "empty": "not JSON but ''",
}
WHOLE_ENGINE = ("401", "402", "404", "redirect")  # no other query would have scores either
TOO_LARGE = ("400", "413", "422")
SLOW = ("hang", "trickle body", "trickle header")


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as running:
        yield running


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pauses between attempts last a thousandth of their usual time."""
    monkeypatch.setattr(engines.remote.transport, "pauses_s", lambda draw: (pause / 1000 for pause in pauses_s(draw)))


def remote(server: Server, **options: Any) -> Engine:
    return engines.load("remote", {"dialect": "tei", "url": server.url, "template": "demo", **options})


def failure(server: Server, **options: Any) -> str:
    """The one-line message with which scoring fails."""
    with remote(server, **options) as engine:
        return failed(engine)[0]


def failed(engine: Engine) -> tuple[str, bool]:
    """The one-line message with which scoring fails, and whether the engine failed rather than these pairs."""
    with pytest.raises(ScoringFailed) as raised:
        engine.score(PAIRS)
    line = str(raised.value)
    assert "\n" not in line and len(line) < 600 and "/predict" in line
    return line, isinstance(raised.value, EngineFailed)


# Retries


@pytest.mark.parametrize("fault", [*TRANSIENT, "nested", "empty"])
def test_a_transient_error_is_retried(fault: str, server: Server, quick: None) -> None:
    plan = itertools.chain([fault, fault], itertools.repeat(None))
    server.plan = lambda call: next(plan)
    with remote(server) as engine:
        assert engine.score(PAIRS) == TRUTH
        assert engine.counts().retries == 2
        assert engine.counts().requests == 1
    assert len(server.posts) == 3


@pytest.mark.parametrize("fault", GIVES_UP)
def test_the_final_error_has_the_last_reason_and_the_number_of_attempts(
    fault: str, server: Server, quick: None
) -> None:
    server.plan = lambda call: fault
    with remote(server, attempts=3) as engine:
        line, whole_engine = failed(engine)
    assert whole_engine == (fault in ("reset", "429", "502", "503", "504", "520", "529"))
    assert len(server.posts) == 3
    assert line.endswith("(attempts = 3)")
    assert re.search(GIVES_UP[fault], line)


@pytest.mark.parametrize("fault", PERMANENT)
def test_a_permanent_error_is_not_retried(fault: str, server: Server) -> None:
    server.plan = lambda call: fault
    with remote(server) as engine:
        line, whole_engine = failed(engine)
    assert re.search(PERMANENT[fault], line)
    assert whole_engine == (fault in WHOLE_ENGINE)
    assert len(server.posts) == 1


@pytest.mark.parametrize("fault", ["duplicate index", "null", "wrong count"])
def test_an_answer_with_indexes_is_checked(fault: str, server: Server) -> None:
    server.plan = lambda call: fault
    with remote(server, dialect="vllm-rerank", model="served") as engine, pytest.raises(ScoringFailed):
        engine.score(PAIRS)


def test_every_fault_of_the_test_server_is_covered() -> None:
    tried = {*TRANSIENT, *PERMANENT, *GIVES_UP, *SLOW, "429 in 1 s", "429 in 2.5 s", "429 in an hour", *TOO_LARGE}
    assert set(FAULTS) - tried == {
        "duplicate index",
        "echo",
        "late body",
        "percent",
        "raw logits",
        "saturated",
        "softmax",
        "winner",
    }  # covered above, in test_remote_key and in test_remote


# Time


@pytest.mark.parametrize("fault", SLOW)
def test_a_server_that_never_finishes_is_cut_off_at_the_deadline(fault: str, server: Server) -> None:
    server.plan = lambda call: fault
    line = failure(server, timeout_s=0.3, attempts=1)
    assert "no complete answer within timeout_s = 0.3 (attempts = 1)" in line


def test_retry_after_sets_the_wait(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    waits = watched_waits(monkeypatch)
    plan = iter(["429 in 1 s", "429 in 0 s", "503", "429 in 2.5 s", None])
    server.plan = lambda call: next(plan)
    with remote(server) as engine:
        assert engine.score(PAIRS) == TRUTH
    assert waits[0] == 1.0  # the header's second is longer than the first pause
    assert 0.25 <= waits[1] <= 0.5 and 0.5 <= waits[2] <= 1.0  # the second and the third pause
    assert waits[3] == 2.5


def watched_waits(monkeypatch: pytest.MonkeyPatch, on_wait: Callable[[], None] = lambda: None) -> list[float]:
    """Records the seconds of every wait of a request. No wait takes any time, but the clock shows it as passed."""
    import anyio

    waits: list[float] = []
    sleep, current_time = anyio.sleep, anyio.current_time

    async def record(seconds: float) -> None:
        waits.append(seconds)
        on_wait()
        await sleep(0)

    monkeypatch.setattr(anyio, "sleep", record)
    monkeypatch.setattr(anyio, "current_time", lambda: current_time() + sum(waits))
    return waits


@pytest.mark.parametrize("fault", ["429", "502", "503", "504", "520", "529"])
def test_a_busy_server_is_waited_for_as_long_as_the_retry_budget_lasts(
    fault: str, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits = watched_waits(monkeypatch)
    server.plan = lambda call: None if sum(waits) > 60 else fault  # a minute, as after ten calls of ten in a minute
    with remote(server) as engine:
        assert engine.score(PAIRS) == TRUTH
    assert 60 < sum(waits) <= 120 and len(waits) > 5


def test_a_busy_server_ends_the_wait_with_the_budget_and_not_with_the_attempts(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits = watched_waits(monkeypatch)
    server.plan = lambda call: "503"
    with remote(server) as engine:
        line, whole_engine = failed(engine)
    assert line.endswith('503 {"error": "injected 503"} (retry_budget_s = 120 is used up)') and whole_engine
    assert 120 - 16 <= sum(waits) <= 120  # the next pause would last 8 to 16 s


def test_a_request_that_fails_by_itself_has_five_attempts(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    watched_waits(monkeypatch)
    server.plan = lambda call: "500"
    with remote(server) as engine:
        line, whole_engine = failed(engine)
    assert line.endswith("(5 attempts)") and not whole_engine
    assert len(server.posts) == 5


def test_every_answer_renews_the_budget_of_its_query(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    waits = watched_waits(monkeypatch)
    plan = itertools.cycle(["429 in 1 s", "429 in 1 s", None])
    server.plan = lambda call: next(plan)
    with remote(server, batch_size=1, concurrency=1, retry_budget_s=4) as engine:
        assert engine.score(PAIRS) == TRUTH
    assert sum(waits) >= 16  # two seconds for each of eight requests


def test_a_wait_beyond_the_budget_is_not_started(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    waits = watched_waits(monkeypatch)
    server.plan = lambda call: "429 in an hour"
    assert failure(server).endswith("(the server asks to wait 3600 s, which retry_budget_s = 120 does not allow)")
    assert waits == [] and len(server.posts) == 1


def test_all_requests_of_a_query_share_one_retry_budget(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    waits = watched_waits(monkeypatch)
    server.plan = lambda call: "429 in 1 s"
    line = failure(server, batch_size=1, concurrency=4, retry_budget_s=5.5)
    assert re.search("retry_budget_s = 5.5 (is used up|does not allow)", line)
    assert sum(waits) <= 5.5 and len(waits) >= 3


def test_every_query_has_its_own_retry_budget(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    watched_waits(monkeypatch)
    with remote(server, retry_budget_s=1.5) as engine:
        for _ in range(3):
            plan = iter(["429 in 1 s", None])
            server.plan = lambda call, plan=plan: next(plan)  # type: ignore[misc]
            assert engine.score(PAIRS) == TRUTH


def test_pauses_double_up_to_a_limit_with_jitter_in_the_upper_half() -> None:
    pauses = list(itertools.islice(pauses_s(random.Random(7)), 9))
    longest = [0.25, 0.5, 1, 2, 4, 8, 16, 16, 16]
    assert all(limit / 2 <= pause <= limit for pause, limit in zip(pauses, longest, strict=True))
    assert pauses == list(itertools.islice(pauses_s(random.Random(7)), 9))
    assert pauses != list(itertools.islice(pauses_s(random.Random(8)), 9))


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("7", 7.0),
        (" 0 ", 0.0),
        ("Tue, 24 Nov 2026 12:00:30 GMT", 30.0),
        ("Tue, 24 Nov 2026 13:00:30 +0100", 30.0),
        ("Tue, 24 Nov 2026 11:59:00 GMT", 0.0),
        ("Tue, 24 Nov 2026 12:00:30", 30.0),
        ("soon", 0.0),
        ("", 0.0),
        ("-5", 0.0),
        ("1.5", 1.5),
        (" 0.25", 0.25),
        ("2.", 2.0),
        (".5", 0.0),
        ("1e3", 0.0),
        ("nan", 0.0),
        ("inf", 0.0),
        ("9" * 400, float("inf")),
    ],
)
def test_retry_after_is_a_number_or_a_date(header: str, seconds: float) -> None:
    assert retry_after_s(header, datetime(2026, 11, 24, 12, 0, 0, tzinfo=UTC)) == seconds


@given(st.text(max_size=40))
def test_any_retry_after_gives_a_wait_of_zero_seconds_or_more(header: str) -> None:
    assert retry_after_s(header, datetime(2026, 11, 24, tzinfo=UTC)) >= 0


# A server that is gone


def test_a_server_that_dies_is_waited_for_once_and_then_no_longer(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits = watched_waits(monkeypatch)
    with remote(server) as engine:
        assert engine.score(PAIRS) == TRUTH
        server.die()
        line, whole_engine = failed(engine)
        assert "ConnectError" in line and line.endswith("(retry_budget_s = 120 is used up)") and whole_engine
        assert 120 - 16 <= sum(waits) <= 120
        waits.clear()
        line, whole_engine = failed(engine)
        assert line.endswith("(5 attempts)") and whole_engine
        assert sum(waits) < 4


def test_a_server_that_comes_back_in_time_answers_the_query(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    waits = watched_waits(monkeypatch, on_wait=lambda: server.revive() if len(waits) == 6 else None)
    with remote(server) as engine:
        assert engine.score(PAIRS) == TRUTH
        server.die()
        assert engine.score(PAIRS) == TRUTH
    assert len(waits) == 6  # one more than a request that fails by itself has


def test_a_server_that_never_answered_is_reported_after_a_few_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    waits = watched_waits(monkeypatch)
    with Server() as server:
        pass
    with pytest.raises(EngineUnavailable, match=r"ConnectError.*5 attempts.*start the server"):
        remote(server)
    assert sum(waits) < 4


# Limits of the server


@pytest.mark.parametrize("limit", [1, 3, 5])
def test_a_batch_that_is_too_large_is_split_and_the_size_that_was_taken_is_kept(limit: int, server: Server) -> None:
    server.max_inputs = limit
    with remote(server) as engine:
        assert engine.score(PAIRS) == TRUTH
        first, taken = engine.counts(), {1: 1, 3: 2, 5: 4}[limit]  # halves of 8 until the server takes them
        assert (first.requests, first.splits) == (8 // taken, {1: 3, 3: 2, 5: 1}[limit])
        assert engine.score(PAIRS) == TRUTH
        later = engine.counts() - first
    assert (later.requests, later.splits) == (8 // taken, 0)
    assert [size(call) for call in server.posts[-(8 // taken) :]] == [taken] * (8 // taken)


@pytest.mark.parametrize("limit", [1, 3, 5, 7])
def test_a_limit_that_the_server_names_is_kept_after_one_refused_request(limit: int, server: Server) -> None:
    server.max_inputs, server.names_limit = limit, True
    with remote(server) as engine:
        assert engine.score(PAIRS) == TRUTH
        assert engine.score(PAIRS) == TRUTH
        assert engine.counts().splits == 1
    assert max(map(size, server.posts[1:])) == limit


def size(call: Call) -> int:
    return len(call.body["inputs"])


@pytest.mark.parametrize(
    ("message", "limit"),
    [
        ("batch size 64 > maximum allowed batch size 32", 32),
        ("List should have at most 24 items after validation, not 64", 24),
        ("Too many documents: 64 (limit: 50)", 50),
        ("max_client_batch_size=16 exceeded", 16),
        ("number of texts must be less than or equal to 10", 10),
        ("expected <= 8 inputs", 8),
        ("payload limit of 2 MB exceeded", 32),  # the rest name no number of inputs: half of 64
        ("maximum context length is 16 tokens", 32),
        ("must have at most 40 characters", 32),
        ("maximum allowed batch size 64", 32),
        ("maximum allowed batch size 0", 32),
        ("too large", 32),
    ],
)
def test_the_limit_is_read_from_the_servers_message(message: str, limit: int) -> None:
    assert TooLarge("a line", message).limit(64) == limit


@pytest.mark.parametrize("fault", TOO_LARGE)
def test_a_single_pair_that_is_too_long_is_named_and_teaches_no_limit(fault: str, server: Server) -> None:
    server.plan = lambda call: fault if any("document 5" in text for (text,) in call.body["inputs"]) else None
    with remote(server) as engine:
        line, whole_engine = failed(engine)
        assert f"{fault} " in line and "max_tokens" in line and not whole_engine
        assert line.endswith("for query 'a query' and document 'document 5' (10 characters)")
        server.plan = lambda call: None
        assert engine.score(PAIRS) == TRUTH
    assert size(server.posts[-1]) == 8


def test_a_too_long_pair_of_a_later_query_is_named(server: Server) -> None:
    server.plan = lambda call: "413" if call.body["query"].endswith("second<|im_end|>") else None
    with remote(server, dialect="vllm-rerank", model="served", batch_size=1, concurrency=1) as engine:
        with pytest.raises(ScoringFailed, match="for query 'second' and document 'other'"):
            engine.score([*PAIRS, Pair("second", "other")])


def test_requests_per_minute_spaces_the_requests_and_counts_those_that_waited(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits = watched_waits(monkeypatch)
    with remote(server, batch_size=2, concurrency=1, requests_per_minute=10) as engine:
        assert engine.score(PAIRS) == TRUTH  # four requests
        assert engine.counts().paced == 3
    assert waits == pytest.approx([6, 6, 6], abs=0.5)


def test_attempts_are_spaced_as_well(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    waits = watched_waits(monkeypatch)
    plan = iter(["429 in 0 s", None])
    server.plan = lambda call: next(plan)
    with remote(server, requests_per_minute=2) as engine:
        assert engine.score(PAIRS) == TRUTH
    assert sum(waits) == pytest.approx(30, abs=0.5)


# Redirects and TLS


@pytest.mark.parametrize("status", ["301", "302", "303", "307", "308"])
def test_a_redirect_is_never_followed(status: str, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(FAULTS, "redirect", lambda handler, _: handler.reply(int(status), b"", {"Location": target}))
    monkeypatch.setenv("ENDPOINT_KEY", "key-that-stays")
    with Server() as destination:
        target = f"{destination.url}/predict"
        server.plan = lambda call: "redirect"
        assert f"redirected to {target}, which is not followed: set `url` to it" in failure(
            server, api_key_env="ENDPOINT_KEY"
        )
        assert destination.calls == []


def test_a_redirect_of_the_info_route_is_reported_before_the_first_query(server: Server) -> None:
    server.info = {"/info": 302}
    with pytest.raises(EngineUnavailable, match=r"/info: redirected to nowhere, which is not followed"):
        remote(server)


def test_the_engine_waits_for_a_server_that_is_still_starting(server: Server, quick: None) -> None:
    answers = iter([503, 503, {"model_id": "ready"}])

    class Starting(dict[str, Any]):
        def get(self, name: str, default: Any = None) -> Any:
            return next(answers)

    server.info = Starting()
    with remote(server) as engine:
        assert engine.describe().model == "ready"


def test_an_untrusted_certificate_is_refused_and_the_message_names_verify(certificate: tuple[str, str]) -> None:
    with Server(certificate=certificate) as server:
        with pytest.raises(EngineUnavailable, match=r"certificate verify failed.*set `verify`"):
            remote(server)
        assert server.calls == []
        with remote(server, verify=certificate[0]) as engine:
            assert engine.score(PAIRS) == TRUTH


def test_a_verify_file_that_is_missing_or_not_pem_is_an_error(tmp_path: Path, server: Server) -> None:
    path = tmp_path / "authorities.pem"
    with pytest.raises(BadOptions, match=r"verify = .*no such file, tried /.*authorities\.pem"):
        remote(server, verify=str(path))
    path.write_text("no certificate")
    with pytest.raises(EngineUnavailable, match=r"expected a PEM file"):
        remote(server, verify=str(path))
    assert server.calls == []


def test_https_to_a_server_without_tls_is_an_ssl_error(server: Server) -> None:
    with pytest.raises(EngineUnavailable, match="SSL"):
        remote(server, url=server.url.replace("http:", "https:"))


# All faults at once


DIALECT_TRUTHS: dict[str, Callable[[Pair], float]] = {
    "tei": lambda pair: truth(DEMO.render(*pair)),
    "infinity": lambda pair: truth(DEMO.render(*pair)),
    "vllm-rerank": lambda pair: truth(DEMO.render(*pair)),
    "vllm-score": lambda pair: truth(DEMO.render(*pair)),
    "cohere": lambda pair: truth(pair.query + pair.document),
}
DIALECT_OPTIONS: dict[str, dict[str, Any]] = {
    "tei": {},
    "cohere": {"dialect": "cohere", "model": "served", "template": None},
    **{name: {"dialect": name, "model": "served"} for name in ("infinity", "vllm-rerank", "vllm-score")},
}
WRONG = ("nan", "null", "wrong count", "object", "400", "424", "403")


@pytest.fixture(scope="module")
def storm() -> Iterator[Server]:
    with Server() as server:
        yield server


class Weather(NamedTuple):
    dialect: str
    sizes: list[int]  # documents of each query
    batch_size: int
    concurrency: int
    limit: int  # inputs that the server takes in one request
    wrong: float  # share of answers with a permanent fault
    seed: int


weathers = st.builds(
    Weather,
    dialect=st.sampled_from(sorted(DIALECT_TRUTHS)),
    sizes=st.lists(st.integers(0, 40), min_size=1, max_size=4),
    batch_size=st.integers(1, 9),
    concurrency=st.integers(1, 8),
    limit=st.integers(1, 12),
    wrong=st.sampled_from([0.0, 0.0, 0.02]),
    seed=st.integers(0, 10_000),
)


@settings(max_examples=120, deadline=None)
@given(weathers)
def test_under_random_faults_every_pair_has_its_own_score_or_the_call_fails(storm: Server, weather: Weather) -> None:
    draw, lock = random.Random(weather.seed), threading.Lock()

    def plan(call: Any) -> str | None:
        with lock:
            lot = draw.random()
            return draw.choice(WRONG) if lot < weather.wrong else draw.choice(TRANSIENT) if lot < 0.3 else None

    storm.plan, storm.max_inputs = plan, weather.limit
    pairs = [Pair(f"query {q}", f"document {d % 17}") for q, size in enumerate(weather.sizes) for d in range(size)]
    options = {"batch_size": weather.batch_size, "concurrency": weather.concurrency, "attempts": 60}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engines.remote.transport, "pauses_s", lambda _: itertools.repeat(0.0))
        with remote(storm, **DIALECT_OPTIONS[weather.dialect], **options) as engine:
            try:
                scores = engine.score(pairs)
            except ScoringFailed:
                assert weather.wrong > 0
                return
            counts = engine.counts()
    assert scores == pytest.approx([DIALECT_TRUTHS[weather.dialect](pair) for pair in pairs], abs=1e-9)
    assert (counts.requests or 0) >= -(-len(pairs) // min(weather.batch_size, weather.limit))
