"""The key goes to the configured server and nowhere else: no file, log, message or record of a run holds it."""

import json
import logging
import sqlite3
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import engines
from engines import BadOptions, Engine, EngineUnavailable, Pair, ScoringFailed
from engines.prompts.template import load_template
from tests.engines.proxy import Proxy
from tests.engines.server import Server, truth

KEY = "sk-Zq7xW0rtle5s.secret/+=~"
NAME = "CRISPBENCH_TEST_KEY"
DEMO = load_template("demo")


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as running:
        yield running


@pytest.fixture
def key(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv(NAME, KEY)
    return KEY


def remote(server: Server, **options: Any) -> Engine:
    settings = {"dialect": "tei", "url": server.url, "template": "demo", "api_key_env": NAME, "attempts": 1}
    return engines.load("remote", {**settings, **options})


@pytest.mark.parametrize(
    ("options", "header"),
    [
        ({"dialect": "tei"}, f"Bearer {KEY}"),
        ({"dialect": "infinity", "model": "served"}, f"Bearer {KEY}"),
        ({"dialect": "baseten", "url": "/sync"}, f"Api-Key {KEY}"),
        ({"dialect": "tei", "api_key_env": None}, None),
    ],
)
def test_the_key_is_sent_in_the_header_that_the_server_expects(
    options: dict[str, Any], header: str | None, server: Server, key: str
) -> None:
    with remote(server, **{**options, "url": server.url + options.get("url", "")}) as engine:
        engine.score([Pair("q", "d")])
    assert {call.headers.get("Authorization") for call in server.calls} == {header}
    assert {call.path.startswith("/sync") for call in server.calls} == {"url" in options}


def test_a_missing_variable_is_named(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    for value in (None, ""):
        monkeypatch.setenv(NAME, value) if value is not None else monkeypatch.delenv(NAME, raising=False)
        with pytest.raises(EngineUnavailable, match=f"environment variable {NAME} is not set"):
            remote(server)
    assert server.calls == []


@pytest.mark.parametrize("bad", [f"{KEY}\n", f"{KEY}\r\nX-Injected: 1", f" {KEY}", "schlüssel", "ключ", "a\tb"])
def test_a_key_that_no_header_can_hold_is_a_one_line_error_without_the_key(
    bad: str, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(NAME, bad)
    with pytest.raises(EngineUnavailable) as raised:
        remote(server)
    assert str(raised.value).startswith(f"environment variable {NAME} holds a space, a newline or a character")
    assert bad.strip() not in str(raised.value) and "\n" not in str(raised.value)
    assert server.calls == []


@pytest.mark.parametrize("host", ["example.org", "10.0.0.1", "0.0.0.0", "localhost.example.org", "127.0.0.1.nip.io"])
def test_a_key_is_not_sent_in_the_clear(host: str, key: str) -> None:
    with pytest.raises(BadOptions, match=f"the key of {NAME} is not sent in the clear to {host}: use https"):
        engines.options("remote", {"dialect": "tei", "url": f"http://{host}:8080", "api_key_env": NAME})


@pytest.mark.parametrize("url", ["https://example.org", "http://localhost:1", "http://127.0.0.1", "http://[::1]:80/x"])
def test_tls_and_loopback_may_carry_a_key(url: str) -> None:
    engines.options("remote", {"dialect": "tei", "url": url, "api_key_env": NAME})


@pytest.mark.parametrize(
    "options",
    [
        {"url": f"https://user:{KEY}@host"},
        {"url": f"https://{KEY}@host"},
        {"url": f"https://host/?key={KEY}"},
        {"url": f"https://host/#{KEY}"},
        {"url": f"https://host:{KEY}/"},
        {"url": f"https:/{KEY}"},
        {"proxy": f"http://user:{KEY}@proxy:3128"},
        {"proxy": f"http://proxy:3128/?key={KEY}"},
        {"proxy": f"http://proxy:{KEY}"},
        {"proxy": f"http://proxy:3128/{KEY}"},
        {"api_key_env": KEY},
        {"api_key_env": "abcdEFGH1234"},
    ],
)
def test_a_secret_in_the_wrong_option_is_refused_and_not_repeated(options: dict[str, Any]) -> None:
    with pytest.raises(BadOptions) as raised:
        engines.options("remote", {"dialect": "tei", "url": "https://host", **options})
    trace = "".join(traceback.format_exception(raised.value))
    assert KEY not in trace and "abcdEFGH1234" not in str(raised.value) and "\n" not in str(raised.value)


# Through a proxy


def test_a_proxy_carries_a_tunnel_and_sees_the_host_alone(certificate: tuple[str, str], key: str) -> None:
    with Server(certificate=certificate) as server, Proxy() as proxy:
        with remote(server, proxy=proxy.url, verify=certificate[0]) as engine:
            assert engine.score([Pair("my query", "my document")]) == [truth(DEMO.render("my query", "my document"))]
        assert {call.headers["Authorization"] for call in server.calls} == {f"Bearer {KEY}"}
        assert set(proxy.heads) == {f"CONNECT {server.url.removeprefix('https://')} HTTP/1.1"}
        assert len(proxy.seen) > 500
        assert not any(text in proxy.seen for text in (KEY.encode(), b"Bearer", b"my query", b"predict"))


def test_a_server_without_tls_is_reached_through_a_proxy_if_there_is_no_key(server: Server) -> None:
    with Proxy() as proxy, remote(server, proxy=proxy.url, api_key_env=None) as engine:
        assert engine.score([Pair("q", "d")]) == [truth(DEMO.render("q", "d"))]
        assert proxy.heads == [f"GET {server.url}/info HTTP/1.1", f"POST {server.url}/predict HTTP/1.1"]


@pytest.mark.parametrize("url", ["http://127.0.0.1:1", "http://localhost"])
def test_a_key_is_not_sent_through_a_proxy_in_the_clear(url: str, key: str) -> None:
    options = {"dialect": "tei", "url": url, "api_key_env": NAME, "proxy": "http://proxy:3128"}
    with pytest.raises(BadOptions, match=f"the key of {NAME} is not sent in the clear through a proxy: use https"):
        engines.options("remote", options)


@pytest.mark.parametrize("status", [403, 407, 502])
def test_a_proxy_that_opens_no_tunnel_is_named(status: int, key: str) -> None:
    with Proxy(refuses=status) as proxy, pytest.raises(EngineUnavailable) as raised:
        engines.load("remote", {"dialect": "tei", "url": "https://host.invalid", "proxy": proxy.url, "attempts": 1})
    assert f"ProxyError: {status} " in str(raised.value) and f"through the proxy {proxy.url}" in str(raised.value)


def test_a_proxy_that_is_absent_is_named(server: Server) -> None:
    with Proxy() as proxy:
        pass
    with pytest.raises(EngineUnavailable, match=f"ConnectError.*through the proxy {proxy.url}"):
        remote(server, proxy=proxy.url, api_key_env=None)
    assert server.calls == []


def test_a_proxy_variable_that_is_not_read_is_named_if_the_server_cannot_be_reached(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", f"http://user:{KEY}@proxy.invalid:1")
    server.die()
    with pytest.raises(EngineUnavailable, match="HTTPS_PROXY is set and not read: to use a proxy, name it in `proxy`"):
        remote(server, api_key_env=None)


@pytest.mark.parametrize("fault", ["echo", "401", "reset", "redirect", "echo in labels"])
def test_no_error_message_holds_the_key(fault: str, server: Server, key: str) -> None:
    if fault == "echo in labels":
        fault, server.redirect = "redirect", f"https://elsewhere.invalid/?key={KEY}"
    server.plan = lambda call: fault
    with remote(server) as engine, pytest.raises(ScoringFailed) as raised:
        engine.score([Pair("q", "d")])
    output = "".join(traceback.format_exception(raised.value)) + repr(vars(engine)) + repr(engine)
    assert KEY not in output
    assert ("***" in str(raised.value)) == (fault == "echo" or "elsewhere.invalid/?key" in server.redirect)


@pytest.mark.usefixtures("key")
def test_no_file_and_no_log_of_a_whole_run_holds_the_key(
    server: Server,
    animals: Path,
    config: Callable[..., Path],
    crispbench: Callable[..., Any],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    server.info = {"/info": {"model_id": f"model of {KEY}"}}
    faults = iter(["echo", "echo"])
    server.plan = lambda call: next(faults, None) if "cat" in json.dumps(call.body) else None
    path = config(
        engines={"far": {"kind": "remote", "dialect": "tei", "url": server.url, "api_key_env": NAME, "attempts": 2}},
        benchmarks=[{"source": "beir", "path": str(animals)}],
        candidates={"k": 3},
    )
    command = ("run", path, "--out", tmp_path / "out", "--json")
    first = crispbench(*command)
    assert first.code == 5  # one query failed
    with sqlite3.connect(tmp_path / "out/far/scores.sqlite") as store:
        (error,) = store.execute("SELECT error FROM failures").fetchall()[0]
    store.close()
    assert "403" in error and "***" in error
    server.plan = lambda call: None
    second = crispbench(*command)
    assert second.code == 0  # the same command completes the run
    manifest = json.loads((tmp_path / "out/far/manifest.json").read_text())
    assert manifest["description"]["server_model_id"] == "model of ***"
    output = first.out + first.err + second.out + second.err + caplog.text
    assert "HTTP Request" in caplog.text  # the HTTP library has logged
    files = [file for file in tmp_path.rglob("*") if file.is_file()]
    assert len(files) > 10
    assert [file for file in files if KEY.encode() in file.read_bytes()] == []
    assert KEY not in output and json.dumps(KEY)[1:-1] not in output
    assert all(call.headers["Authorization"] == f"Bearer {KEY}" for call in server.calls)
