"""The remote engine over real HTTP: its requests, its description and its options."""

import itertools
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import engines
from engines import BadOptions, Engine, EngineUnavailable, Pair, ScoringFailed
from engines.base import EngineFailed
from engines.prompts.encoder import PromptEncoder
from engines.prompts.template import load_template
from engines.remote.prompt_text import PAD
from tests.engines.server import INFO, Call, Server, sigmoid, truth

PAIRS = [Pair(query, f"{query} in document {i}") for query in ("a cat", "b") for i in range(7)]
CARD = load_template("mxbai-v2-seq")


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as running:
        yield running


@pytest.fixture
def remote(server: Server, classifier: str, tiny_template: str) -> Iterator[Callable[..., Engine]]:
    """Makes an engine that talks to the server in a dialect, with the options that the dialect needs."""
    made = []

    def make(dialect: str = "infinity", **options: Any) -> Engine:
        needed: dict[str, Any] = {
            "baseten": {"url": f"{server.url}/sync"},
            "vllm": {"tokenizer": classifier, "template": tiny_template},
        }
        named = {} if dialect in ("tei", "baseten", "tei-rerank") else {"model": "served"}
        settings = {"dialect": dialect, "url": server.url, **named, **needed.get(dialect, {}), **options}
        made.append(engines.load("remote", settings))
        return made[-1]

    yield make
    for engine in made:
        engine.close()


def card(pair: Pair) -> str:
    return CARD.render(pair.query, pair.document)


TEXT_SCORES: dict[str, Callable[[Pair], float]] = {
    "tei": lambda pair: truth(card(pair)),
    "baseten": lambda pair: truth(card(pair)),
    "infinity": lambda pair: truth(card(pair) + PAD),  # protected, because the server strips its inputs
    "tei-rerank": lambda pair: truth(card(pair)),
    "vllm-score": lambda pair: truth(card(pair)),
    "vllm-rerank": lambda pair: truth(card(pair)),
    "cohere": lambda pair: truth(pair.query + pair.document),
    "jina": lambda pair: truth(pair.query + pair.document),
}


@pytest.mark.parametrize("dialect", TEXT_SCORES)
def test_every_pair_gets_the_score_of_its_own_prompt(dialect: str, remote: Callable[..., Engine]) -> None:
    expected = [TEXT_SCORES[dialect](pair) for pair in PAIRS]
    assert remote(dialect, batch_size=3).score(PAIRS) == pytest.approx(expected, abs=1e-9)


def test_a_prompt_that_stripping_cannot_change_gets_no_suffix(remote: Callable[..., Engine]) -> None:
    engine = remote("infinity", template="demo")
    assert engine.score(PAIRS) == pytest.approx(
        [truth(load_template("demo").render(*pair)) for pair in PAIRS], abs=1e-9
    )
    assert engine.describe().details["final_newline"] == "kept"


def test_token_ids_equal_those_of_the_local_engines(
    remote: Callable[..., Engine], server: Server, tokenizer: Any, tiny_template: str
) -> None:
    pairs = [*PAIRS, Pair("<|im_end|>", "x <|im_start|> " * 30)]
    encoder = PromptEncoder(load_template(tiny_template), tokenizer, max_tokens=40)
    prompts = [encoder.encode(pair.query, [pair.document]) for pair in pairs]
    ids = [prompt.prefix + prompt.tails[0] for prompt in prompts]
    engine = remote("vllm", max_tokens=40, batch_size=4, concurrency=1)
    assert engine.score(pairs) == [truth(str(prompt)) for prompt in ids]
    assert [prompt for call in server.posts for prompt in call.body["input"]] == ids
    assert engine.counts().truncated == 1 and engine.counts().special_text == 2


@pytest.mark.parametrize(("dialect", "sizes"), [("tei", [5, 5, 4]), ("vllm", [5, 5, 4]), ("vllm-rerank", [5, 2, 5, 2])])
def test_a_request_holds_one_batch_at_most_and_one_query_if_its_route_has_a_query(
    dialect: str, sizes: list[int], remote: Callable[..., Engine], server: Server
) -> None:
    remote(dialect, batch_size=5, concurrency=1).score(PAIRS)
    bodies = [call.body for call in server.posts]
    inputs = [body.get("inputs") or body.get("input") or body["documents"] for body in bodies]
    assert list(map(len, inputs)) == sizes


def test_connections_stay_open(remote: Callable[..., Engine], server: Server) -> None:
    engine = remote("tei", batch_size=1, concurrency=2)
    for _ in range(5):
        engine.score(PAIRS)
    assert len(server.posts) == 5 * len(PAIRS)
    assert len({call.peer for call in server.calls}) <= 2


def test_concurrency_is_the_number_of_requests_that_run_at_once(remote: Callable[..., Engine], server: Server) -> None:
    together, lock, running, peak = threading.Barrier(3, timeout=20), threading.Lock(), 0, 0

    def plan(call: Call) -> None:
        nonlocal running, peak
        with lock:
            running += 1
            peak = max(peak, running)
        together.wait()  # fails the request unless three requests run together
        with lock:
            running -= 1

    server.plan = plan
    pairs = PAIRS[:12]
    assert remote("tei", batch_size=1, concurrency=3).score(pairs) == [truth(card(pair)) for pair in pairs]
    assert peak == 3


def test_waiting_for_a_slot_does_not_count_against_the_timeout(remote: Callable[..., Engine], server: Server) -> None:
    server.plan = lambda call: time.sleep(0.25)  # type: ignore[func-returns-value]
    engine = remote("tei", batch_size=1, concurrency=1, timeout_s=2, attempts=1)
    assert engine.score(PAIRS[:10]) == [truth(card(pair)) for pair in PAIRS[:10]]  # 2.5 s in total


def test_several_threads_can_score_at_once(remote: Callable[..., Engine]) -> None:
    engine = remote("tei", batch_size=2)
    jobs = [PAIRS[i % 7 :: 2] for i in range(40)]
    with ThreadPoolExecutor(8) as pool:
        scores = list(pool.map(engine.score, jobs))
    assert scores == [[truth(card(pair)) for pair in job] for job in jobs]
    assert engine.counts().requests == sum(-(-len(job) // 2) for job in jobs)


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Ctrl-C raises KeyboardInterrupt, even if a shell started the tests in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_an_interrupt_stops_requests_and_starts_no_others(remote: Callable[..., Engine], server: Server) -> None:
    engine, main = remote("tei", batch_size=1, concurrency=2), threading.main_thread().ident
    assert main is not None
    numbers = itertools.count(1)

    def plan(call: Call) -> str:
        if next(numbers) == 2:
            signal.pthread_kill(main, signal.SIGINT)
        return "hang"

    server.plan = plan
    with pytest.raises(KeyboardInterrupt):
        engine.score(PAIRS)
    server.plan = lambda call: None
    assert engine.score(PAIRS[:1]) == [truth(card(PAIRS[0]))]
    assert len(server.posts) == 3


def portals() -> set[threading.Thread]:
    """Threads of event loops, which include those of engines that other tests left open."""
    return {thread for thread in threading.enumerate() if "portal" in thread.name}


def test_closing_ends_the_thread(remote: Callable[..., Engine]) -> None:
    before = portals()
    engine = remote("tei")
    assert len(portals() - before) == 1
    engine.close()
    assert portals() <= before


def test_token_usage_and_times_of_the_server_are_counted(remote: Callable[..., Engine], server: Server) -> None:
    server.headers = {"x-queue-time": "3", "x-inference-time": "12", "x-compute-tokens": "40", "x-total-time": "15.5"}
    engine = remote("tei", batch_size=7)
    engine.score(PAIRS)
    assert engine.counts().document() == {
        "requests": 2,
        "retries": 0,
        "saturated": 0,
        "special_text": 0,
        "tokens": 80,
        "server_queue_us": 6000,
        "server_inference_us": 24000,
        "server_total_us": 31000,
    }


def test_a_call_records_its_first_byte_and_its_tokens(remote: Callable[..., Engine], server: Server) -> None:
    server.headers = {"x-compute-tokens": "5"}
    engine = remote("tei", batch_size=7)
    assert engine.last_call() == (None, None)
    engine.score(PAIRS)
    assert engine.last_call().tokens == 10  # two requests of 5 tokens
    server.plan = lambda call: "late body"
    engine.score(PAIRS[:7])
    headers_s, body_s = server.late_body_s
    first_byte_s, tokens = engine.last_call()
    assert first_byte_s is not None and headers_s < first_byte_s < body_s
    assert tokens is None  # the server sent no usage


def test_each_thread_sees_its_own_last_call(remote: Callable[..., Engine], server: Server) -> None:
    engine = remote("tei", batch_size=1)
    server.headers = {"x-compute-tokens": "5"}
    answered = threading.Barrier(2)

    def score(pairs: int) -> int | None:
        engine.score(PAIRS[:pairs])
        answered.wait(10)  # the other thread has its answers, too
        return engine.last_call().tokens

    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(score, (1, 4))) == [5, 20]


def test_saturated_probabilities_are_counted(remote: Callable[..., Engine], server: Server) -> None:
    server.plan = lambda call: "saturated"
    engine = remote("infinity", batch_size=7)
    assert engine.score(PAIRS[:3])[0] == pytest.approx(103.28, abs=0.01)
    assert engine.counts().saturated == 1


# Description


def test_the_description_names_the_prompt_the_server_and_the_kind_of_score(
    remote: Callable[..., Engine], server: Server, classifier: str, tiny_template: str
) -> None:
    described = remote("infinity", tokenizer=classifier, max_tokens=900).describe().document()
    assert len(described.pop("tokenizer_sha256")) == 64 and described.pop("httpx")
    assert described == {
        "model": "served",
        "dialect": "infinity",
        "url": server.url,
        "input": "prompt as text",
        "score_kind": "probability",
        "truncation": "of the document, here",
        "batch_size": "32",
        "template": "mxbai-v2-seq",
        "template_sha256": CARD.sha256,
        "max_tokens": "900",
        "final_newline": "protected by <|endoftext|>",
        "server_id": "served",
        "server_backend": "torch",
    }
    assert remote("vllm", template=tiny_template).describe().score_kind == "logit_diff"


@pytest.mark.parametrize(
    ("dialect", "expected"),
    [
        ("tei", {"server_model_sha": "abc", "server_version": "1.9.3", "model": "tei-model"}),
        ("baseten", {"server_model_dtype": "float16"}),
        ("vllm-score", {"server_version": "0.33.0", "server_root": "org/model", "final_newline": "kept"}),
        ("tei", {"truncation": "none: what is too long is refused"}),
        ("infinity", {"truncation": "by the server, unknown"}),
        ("cohere", {"score_kind": "opaque", "truncation": "by the server, unknown"}),
        ("jina", {"input": "query and document as they are, the prompt is the service's"}),
    ],
)
def test_metadata_of_the_server_is_recorded(
    dialect: str, expected: dict[str, str], remote: Callable[..., Engine]
) -> None:
    assert expected.items() <= remote(dialect).describe().document().items()


@pytest.mark.parametrize("info", [{}, {"/info": 403}, {"/info": 405}, {"/info": b"<html>"}, {"/info": [1]}])
def test_a_server_without_metadata_works(info: Any, remote: Callable[..., Engine], server: Server) -> None:
    server.info = info
    engine = remote("tei")
    assert engine.score(PAIRS[:1]) == [truth(card(PAIRS[0]))]
    assert not any(name.startswith("server_") for name in engine.describe().document())


# What a server sends


@pytest.mark.parametrize("dialect", ["cohere", "jina"])
def test_raw_logits_of_a_rerank_route_are_scores_if_the_config_says_so(
    dialect: str, remote: Callable[..., Engine], server: Server
) -> None:
    server.plan = lambda call: "raw logits"  # as llama.cpp, LocalAI and NIM answer
    engine = remote(dialect, score_kind="logit")
    assert engine.score(PAIRS) == [truth(pair.query + pair.document) for pair in PAIRS]
    assert engine.describe().score_kind == "logit"


def test_raw_logits_are_refused_unless_the_config_says_so(remote: Callable[..., Engine], server: Server) -> None:
    server.plan = lambda call: "raw logits"
    with pytest.raises(EngineFailed, match=r"is no probability in \[0, 1\].*set score_kind to logit"):
        remote("jina").score(PAIRS)


def test_any_other_number_is_a_score_as_it_is(remote: Callable[..., Engine], server: Server) -> None:
    server.plan = lambda call: "percent"
    engine = remote("cohere", score_kind="own")
    expected = [100 * sigmoid(truth(pair.query + pair.document)) for pair in PAIRS]
    assert engine.score(PAIRS) == pytest.approx(expected, abs=1e-9)
    assert engine.describe().score_kind == "opaque"  # the scale of this service's model, and of no other engine


@pytest.mark.parametrize("dialect", ["vllm", "tei"])
def test_a_softmax_where_logits_were_asked_for_is_refused_with_the_way_on(
    dialect: str, remote: Callable[..., Engine], server: Server
) -> None:
    server.plan = lambda call: "softmax"  # as vLLM before 0.11.2, which does not know use_activation
    with pytest.raises(EngineFailed, match=r"softmax where raw logits were asked for.*score_kind: probability"):
        remote(dialect, template="demo", batch_size=1).score(PAIRS)
    as_logits = remote(dialect, template="demo", score_kind="probability").score(PAIRS)
    server.plan = lambda call: None
    assert as_logits == pytest.approx(remote(dialect, template="demo").score(PAIRS), abs=1e-9)


def test_a_server_that_names_the_winning_label_alone_is_refused(remote: Callable[..., Engine], server: Server) -> None:
    server.plan = lambda call: "winner"
    with pytest.raises(EngineFailed, match=r"/classify: the server gives a score of label '0' alone"):
        remote("infinity").score(PAIRS)


# What a server states before the first query


def test_prompts_are_cut_to_the_length_that_the_server_states(
    remote: Callable[..., Engine], server: Server, tiny_template: str
) -> None:
    server.info = {**INFO, "/v1/models": {"data": [{"id": "served", "max_model_len": 40}]}}
    engine = remote("vllm", template=tiny_template)
    assert engine.describe().max_tokens == 40
    engine.score([Pair("q", "x <|im_start|> " * 30)])
    assert [len(ids) for ids in server.posts[-1].body["input"]] == [40]
    assert engine.counts().truncated == 1
    assert remote("vllm", template=tiny_template, max_tokens=30).describe().max_tokens == 30


def test_text_prompts_are_cut_to_the_length_that_the_server_states(
    remote: Callable[..., Engine], server: Server, classifier: str
) -> None:
    server.info = {"/info": {"model_id": "m", "max_input_length": 60}}
    engine = remote("tei", template="demo", tokenizer=classifier)
    assert engine.describe().max_tokens == 60
    engine.score([Pair("q", "x " * 200)])
    assert engine.counts().truncated == 1


def test_a_request_has_no_more_inputs_than_the_server_states(remote: Callable[..., Engine], server: Server) -> None:
    server.info = {"/info": {"model_id": "m", "max_client_batch_size": 5}}
    remote("tei", batch_size=9, concurrency=1).score(PAIRS)
    assert [len(call.body["inputs"]) for call in server.posts] == [5, 5, 4]


def test_a_limit_above_that_of_the_server_is_refused_before_the_first_query(
    remote: Callable[..., Engine], server: Server
) -> None:
    server.info = {**INFO, "/v1/models": {"data": [{"id": "served", "max_model_len": 512}]}}
    with pytest.raises(EngineUnavailable, match=r"max_tokens = 513: the server at .* takes at most 512 tokens; lower"):
        remote("vllm", max_tokens=513)
    assert server.posts == []


@pytest.mark.parametrize("stated", [None, 0, -1, "many", 4096.5, [3]])
def test_a_length_that_cannot_be_read_limits_nothing(
    stated: Any, remote: Callable[..., Engine], server: Server
) -> None:
    server.info = {**INFO, "/v1/models": {"data": [{"id": "served", "max_model_len": stated}]}}
    assert remote("vllm", max_tokens=9000).describe().max_tokens == 9000


@pytest.mark.parametrize(("dialect", "path"), [("vllm", "/v1/models"), ("infinity", "/models")])
def test_a_model_that_the_server_does_not_serve_is_named_before_the_first_query(
    dialect: str, path: str, remote: Callable[..., Engine], server: Server
) -> None:
    server.info = {path: {"data": [{"id": "base"}, {"id": "large"}]}}
    with pytest.raises(EngineUnavailable, match=f"{path}: the server serves base, large, and not model = 'served'"):
        remote(dialect)
    server.info = {path: {"data": []}}  # a gateway that lists nothing
    assert remote(dialect).describe().model == "served"


# Servers that cannot be reached


def test_an_unreachable_server_is_a_one_line_error_with_its_url(remote: Callable[..., Engine]) -> None:
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{reserved.getsockname()[1]}"
        with pytest.raises(EngineUnavailable) as raised:
            remote("tei", url=url, attempts=1)
    assert f"{url}/info: ConnectError" in str(raised.value) and "start the server" in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_refused_key_is_reported_before_the_first_query(remote: Callable[..., Engine], server: Server) -> None:
    server.info = {"/info": 401}
    with pytest.raises(EngineUnavailable, match=r"401 .*is api_key_env the right key"):
        remote("tei")


def test_an_engine_that_fails_to_start_leaves_no_thread(remote: Callable[..., Engine], server: Server) -> None:
    before = portals()
    server.info = {"/info": 401}
    with pytest.raises(EngineUnavailable):
        remote("tei")
    assert portals() <= before


# Options


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"dialect": "tie"},
            "dialect = 'tie': did you mean 'tei'? expected one of baseten",
        ),
        ({"url": "localhost:8080"}, "url cannot be read; expected http(s)://HOST[:PORT][/PATH]"),
        ({"url": "ftp://host"}, "url cannot be read"),
        ({"url": "http://"}, "url cannot be read"),
        ({"url": "http://host:port"}, "url cannot be read"),
        ({"url": "http://host:99999"}, "url cannot be read"),
        ({"url": "http://ho st"}, "url cannot be read"),
        ({"url": "http://höst"}, "url cannot be read"),
        ({"url": "http://[::1"}, "url cannot be read"),
        ({"dialect": "infinity"}, "dialect infinity needs `model`"),
        ({"dialect": "vllm", "model": "m"}, "dialect vllm sends token ids: set `tokenizer`"),
        ({"dialect": "baseten"}, "expected a url that ends in /sync"),
        ({"dialect": "cohere", "model": "m", "template": "mxbai-v2"}, "template has no effect"),
        ({"dialect": "jina", "model": "m", "tokenizer": "t"}, "tokenizer has no effect"),
        ({"max_tokens": 100}, "max_tokens = 100 needs the model's `tokenizer`"),
        ({"template": "typo"}, "template 'typo' is not known"),
        ({"template": "demo", "instruction": "find it"}, "template demo has no place for the instruction"),
        ({"instruction": "a\nb"}, "holds a newline"),
        ({"timeout_s": 0}, "timeout_s = 0: input should be greater than 0"),
        ({"retry_budget_s": float("inf")}, "retry_budget_s = inf"),
        ({"attempts": 0}, "attempts = 0"),
        ({"requests_per_minute": 0}, "requests_per_minute = 0"),
        ({"score_kind": "logits"}, "score_kind = 'logits': input should be 'logit', 'probability' or 'own'"),
        ({"proxy": "proxy:3128"}, "proxy cannot be read; expected http(s)://HOST[:PORT]"),
        ({"proxy": "socks5://proxy:1080"}, "proxy cannot be read"),
        ({"proxy": ""}, "proxy cannot be read"),
        ({"proxy": "http://proxy:3128/path"}, "proxy has a path"),
        ({"concurrency": -1}, "concurrency = -1"),
        ({"batch_size": 2.5}, "batch_size = 2.5"),
        ({"final_newline": "maybe"}, "final_newline = 'maybe'"),
    ],
)
def test_a_wrong_option_is_a_one_line_error_before_any_request(options: dict[str, Any], message: str) -> None:
    with pytest.raises(BadOptions) as raised:
        engines.options("remote", {"dialect": "tei", "url": "https://host/path", **options})
    assert message in str(raised.value) and "\n" not in str(raised.value)


def test_a_missing_tokenizer_is_an_error_before_any_request(
    remote: Callable[..., Engine], tmp_path: Any, server: Server
) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadOptions, match=r"tokenizer '.*/empty': the folder /.*/empty has no tokenizer\.json"):
        remote("tei", tokenizer=str(tmp_path / "empty"))
    with pytest.raises(EngineUnavailable, match=r"tokenizer 'absent/model' is not in the hub's cache"):
        remote("tei", tokenizer="absent/model")
    assert server.calls == []


def test_proxies_of_the_environment_are_ignored(
    remote: Callable[..., Engine], server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Server() as proxy:
        for name in ("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "ALL_PROXY", "all_proxy"):
            monkeypatch.setenv(name, proxy.url)
        monkeypatch.delenv("NO_PROXY", raising=False)
        monkeypatch.delenv("no_proxy", raising=False)
        remote("tei").score(PAIRS)
        assert proxy.calls == [] and server.posts


def test_a_lone_surrogate_has_no_score(remote: Callable[..., Engine], server: Server) -> None:
    for dialect in ("tei", "cohere", "vllm"):
        with pytest.raises(ScoringFailed, match="cannot be encoded as UTF-8"):
            remote(dialect).score([Pair("query", "a \ud800 document")])
    assert server.posts == []


def test_an_endpoint_with_a_tokenizer_needs_no_torch(server: Server, tokenizer: Any, tmp_path: Path) -> None:
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    options = {"dialect": "tei", "url": server.url, "template": "demo", "tokenizer": str(tmp_path)}
    code = f"import sys, engines; engines.load('remote', {options}).close(); print('torch' in sys.modules)"
    root = Path(engines.__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
