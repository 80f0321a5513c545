"""What a config needs is looked for before anything is loaded: keys, packages, devices, folders, templates, the hub."""

import json
import os
import shutil
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest

import engines
from engines import hub
from engines.base import BadOptions, EngineUnavailable
from harness.config import read_config
from harness.preflight import check_benchmarks, check_engines

ROOT = Path(__file__).parents[1]
DEMO = ROOT / "checkpoints/demo"
Crispbench = Callable[..., Any]
WITHOUT_KEY = {"kind": "remote", "dialect": "jina", "url": "https://localhost", "model": "m", "api_key_env": "ABSENT"}


@pytest.fixture
def run(config: Callable[..., Path], animals: Path, crispbench: Crispbench, tmp_path: Path) -> Callable[..., Any]:
    """Runs a config with these engines over five queries."""

    def run(engines: dict[str, Any], *options: str, **entries: Any) -> Any:
        whole = {"benchmarks": [{"source": "beir", "path": str(animals)}], **entries}
        return crispbench("run", config(engines=engines, **whole), "--out", tmp_path / "out", *options)

    return run


# Before the first pair


def test_an_engine_that_cannot_score_is_named_before_the_first_pair_and_the_others_score(
    run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    loaded: list[str] = []
    load = engines.load
    monkeypatch.setattr(engines, "load", lambda kind, options: loaded.append(kind) or load(kind, options))
    answer = run({"first": {"kind": "fake"}, "second": WITHOUT_KEY, "gpu": {**torch_demo(), "device": "cuda:9"}})
    assert answer.code == 5
    lines = answer.err.splitlines()
    assert lines[0] == (
        "crispbench: engine second: environment variable ABSENT is not set: it must hold the endpoint's key"
    )
    assert lines[1].startswith("crispbench: engine gpu: device 'cuda:9' is not available here")
    assert "remote" not in loaded and "torch" not in loaded and "fake" in loaded
    assert "ABSENT" in (tmp_path / "out/report/report.md").read_text()


def test_a_run_without_any_engine_that_can_score_ends_in_one_line_and_writes_nothing(
    run: Callable[..., Any], tmp_path: Path
) -> None:
    answer = run({"one": WITHOUT_KEY, "two": WITHOUT_KEY})
    assert (answer.code, len(answer.err.splitlines())) == (5, 1)
    assert answer.err.count("ABSENT") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("verb", ["latency", "probe", "doctor"])
def test_other_verbs_name_it_too(
    verb: str, config: Callable[..., Path], animals: Path, crispbench: Crispbench, tmp_path: Path
) -> None:
    path = config(engines={"key": WITHOUT_KEY}, benchmarks=[{"source": "beir", "path": str(animals)}])
    out = ("--out", tmp_path / "out") if verb == "latency" else ()
    answer = crispbench(verb, path, *out)
    assert answer.code != 0 and "environment variable ABSENT is not set" in answer.err + answer.out


def test_ab_names_it_before_the_benchmark_is_loaded(config: Callable[..., Path], crispbench: Crispbench) -> None:
    path = config(
        engines={"fake": {"kind": "fake"}, "key": WITHOUT_KEY}, benchmarks=[{"source": "beir", "path": "nowhere"}]
    )
    answer = crispbench("ab", path, "--engine", "fake", "--engine", "key")
    reason = "environment variable ABSENT is not set: it must hold the endpoint's key"
    assert (answer.code, answer.err) == (5, f"crispbench: an engine cannot score: key: {reason}\n")


def test_doctor_says_of_every_engine_of_a_config_whether_it_is_ready(
    config: Callable[..., Path], animals: Path, crispbench: Crispbench
) -> None:
    path = config(
        engines={"words": {"kind": "fake"}, "key": WITHOUT_KEY}, benchmarks=[{"source": "beir", "path": str(animals)}]
    )
    answer = crispbench("doctor", path, "--json")
    checks = {check["name"]: check for check in json.loads(answer.out)["checks"]}
    assert (checks["engine words"]["ok"], checks["engine words"]["detail"]) == (True, "ready")
    assert not checks["engine key"]["ok"] and checks["benchmarks"]["ok"]
    assert answer.code == 1


# Mistakes in the config, exit 2


def torch_demo(**options: Any) -> dict[str, Any]:
    return {"kind": "torch", "model": str(DEMO), "template": "demo", "precision": "fp32", **options}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": "/nowhere/demo"}, "model '/nowhere/demo': no such folder, tried /nowhere/demo"),
        ({"model": "./none"}, f"model './none': no such folder, tried {Path.cwd() / 'none'} and /"),
        ({"model": "a/b/c"}, "model 'a/b/c': no such folder, tried /"),
        ({"model": "two words"}, "model 'two words': no such folder, tried /"),
        ({"model": str(DEMO.parent / "dmeo")}, f"did you mean '{DEMO}'?"),
        ({"model": str(DEMO / "config.json")}, "config.json is a file: name the folder of the checkpoint"),
        ({"model": str(ROOT / "docs")}, f"the folder {ROOT / 'docs'} has no config.json: name one that has it"),
        ({"model": "package:engines/none"}, "model 'package:engines/none': no such folder, tried /"),
        ({"template": "mine.yaml"}, "template 'mine.yaml' is not known; expected one of demo, "),
        ({"device": "gpu"}, "device = 'gpu': not a device; did you mean 'cuda'? expected one of auto, cpu, cuda"),
        ({"device": "cuda:first"}, "expected a number behind the colon of a GPU, such as cuda:1"),
    ],
)
def test_a_mistake_in_the_second_engine_ends_the_run_before_the_first_scores(
    run: Callable[..., Any], tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    answer = run({"first": {"kind": "fake"}, "second": torch_demo(**changes)})
    assert (answer.code, len(answer.err.splitlines())) == (2, 1)
    assert message in answer.err
    assert not (tmp_path / "out").exists()


def test_a_missing_file_of_the_second_benchmark_ends_the_run_before_the_first_is_loaded(
    run: Callable[..., Any], animals: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("harness.benchmarks.beir.BeirFolder.load", lambda *_: pytest.fail("loaded"))
    one = {"source": "beir", "path": str(animals)}
    for second, message in (
        ({**one, "path": "/nowhere"}, "/nowhere: no such folder, tried /nowhere; set `path`"),
        ({**one, "split": "dev"}, "qrels/dev.tsv: no such file"),
        ({**one, "candidates": {"source": "run", "path": "/no.trec"}}, "/no.trec: no such file, tried /no.trec"),
    ):
        answer = run({"fake": {"kind": "fake"}}, benchmarks=[one, {"name": "second", **second}])
        assert (answer.code, len(answer.err.splitlines())) == (2, 1)
        assert message in answer.err


def test_a_missing_file_of_authorities_is_a_mistake() -> None:
    options = {**WITHOUT_KEY, "api_key_env": None, "verify": "none.pem"}
    del options["kind"]
    with pytest.raises(BadOptions, match=rf"verify = 'none.pem': no such file, tried {Path.cwd()}/none.pem"):
        engines.preflight("remote", engines.options("remote", options))


def test_a_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    options = engines.options("cross_encoder", {"model": "any/model"})
    with pytest.raises(EngineUnavailable, match=r"pip install 'crispbench\[sentence-transformers\]'"):
        engines.preflight("cross_encoder", options)


# A template that is not set

UNSET = "`template` is not set, so mxbai-v2-seq is used, and the checkpoint's files name"


def test_a_checkpoint_that_names_another_template_or_none_is_said_in_terminal_and_report(
    run: Callable[..., Any], tmp_path: Path
) -> None:
    silent = tmp_path / "silent"
    shutil.copytree(DEMO, silent)
    document = json.loads((silent / "config.json").read_text())
    del document["crispbench_template"]
    (silent / "config.json").write_text(json.dumps(document))
    unset = {name: value for name, value in torch_demo().items() if name != "template"}
    answer = run({"named": unset, "none": {**unset, "model": str(silent)}, "right": torch_demo()}, "--limit", "1")
    assert answer.err.splitlines() == [
        f"crispbench: engine named: {UNSET} demo: set `template: demo`",
        f"crispbench: engine none: {UNSET} none: set `template` to the one that it was trained with",
    ]
    report = (tmp_path / "out/report/report.md").read_text()
    assert report.count("is not set, so mxbai-v2-seq is used") == 2
    run({"right": torch_demo(), "named": unset}, "--engine", "right", "--limit", "1")
    assert "files name demo" in (tmp_path / "out/report/report.md").read_text()  # of the engine of the earlier call


def test_a_pipe_in_a_checkpoint_is_not_read_for_a_template(tmp_path: Path) -> None:
    shutil.copytree(DEMO, tmp_path / "model")
    (tmp_path / "model/config.json").unlink()
    os.mkfifo(tmp_path / "model/config.json")
    (note,) = engines.preflight("torch", engines.options("torch", {"model": str(tmp_path / "model")}))
    assert "files name none" in note


# The hub


@pytest.fixture
def online(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Callable[[str], None]]:
    """Names the hub's address for one test; afterwards the libraries are as they were."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub-cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    yield lambda endpoint: monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", endpoint)
    hub._unreachable.cache_clear()
    hub._went_offline.clear()


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("torch", {"model": "owner/model"}),
        ("torch", {"model": str(DEMO), "weights": "random", "tokenizer": "owner/model"}),
        ("cross_encoder", {"model": "owner/model"}),
        ("bi_encoder", {"model": "owner/model"}),
        ("remote", {"dialect": "vllm", "url": "http://localhost", "model": "m", "tokenizer": "owner/model"}),
    ],
)
def test_a_hub_that_does_not_answer_is_asked_once_and_is_one_line(
    online: Callable[[str], None], kind: str, options: dict[str, Any], capfd: pytest.CaptureFixture[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:  # accepts a connection and closes it without an answer
        asked: list[int] = []

        def hang_up() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                asked.append(1)
                connection.close()

        threading.Thread(target=hang_up, daemon=True).start()
        online(f"http://127.0.0.1:{server.getsockname()[1]}")
        for _ in range(2):
            with pytest.raises(EngineUnavailable) as raised:
                engines.load(kind, options)
            message = str(raised.value)
            assert "owner/model' is not in the hub's cache, and http://127.0.0.1:" in message
            assert "cannot be reached" in message and f"tried {Path.cwd() / 'owner/model'}" in message
            assert "\n" not in message
    assert len(asked) == 1
    assert capfd.readouterr().err == ""


def test_without_a_network_a_name_that_is_in_no_cache_says_why(online: Callable[[str], None]) -> None:
    huggingface_hub.constants.HF_HUB_OFFLINE = True
    with pytest.raises(EngineUnavailable, match="is not in the hub's cache, and HF_HUB_OFFLINE is set: download it"):
        engines.load("torch", {"model": "owner/model"})


@pytest.mark.parametrize("name", ["owner/model", "gpt2", "BAAI/bge-reranker-v2-m3", "a_b/c.d"])
def test_a_name_on_the_hub_is_recognised(name: str) -> None:
    assert hub.is_name(name)


@pytest.mark.parametrize("name", ["a/b/c", "./model", "~/model", "/model", "two words", "a--b", "..", "C:\\model", ""])
def test_a_path_is_not_taken_for_a_name_on_the_hub(name: str) -> None:
    assert not hub.is_name(name)


# Paths


def beside(folder: Path, animals: Path) -> Path:
    """A config whose relative paths lie beside it."""
    folder.mkdir()
    shutil.copytree(animals, folder / "data")
    shutil.copytree(DEMO, folder / "model")
    shutil.copy(ROOT / "configs/templates/demo.yaml", folder / "mine.yaml")
    (folder / "first.trec").write_text("q-cat Q0 d-cat 1 1 t\n")
    (folder / "bench.yaml").write_text(
        "name: beside\n"
        "engines: {m: {kind: torch, model: model, template: mine.yaml, precision: fp32}}\n"
        "benchmarks:\n"
        "- {source: beir, path: data, name: one, candidates: {source: run, path: first.trec}}\n"
    )
    return folder / "bench.yaml"


def test_relative_paths_are_looked_for_beside_the_config_and_recorded_as_written(
    tmp_path: Path, animals: Path, crispbench: Crispbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = beside(tmp_path / "configs", animals)
    (tmp_path / "elsewhere").mkdir()
    manifests = []
    for working in (tmp_path / "elsewhere", path.parent):
        monkeypatch.chdir(working)
        assert crispbench("run", path, "--out", tmp_path / "out").code == 0  # the second call finds everything done
        manifests.append((tmp_path / "out/m/manifest.json").read_bytes())
    assert manifests[0] == manifests[1]
    manifest = json.loads(manifests[0])
    assert (manifest["options"]["model"], manifest["description"]["model"]) == ("model", "model")
    assert manifest["benchmarks"]["one"]["candidates"]["parameters"] == {"path": "first.trec"}


def test_of_two_files_with_one_relative_path_the_working_directory_has_the_one_that_is_used_and_a_line_says_so(
    tmp_path: Path, animals: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = beside(tmp_path / "configs", animals)
    for name in ("data", "model"):
        shutil.copytree(path.parent / name, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    config, said = read_config(path), list[str]()
    check_benchmarks(config, (), said.append)
    check_engines(config, ["m"], said.append)
    ending = "beside the config: the working directory comes first"
    assert said == [
        f"crispbench: one: 'data' is {tmp_path}/data, and not {tmp_path}/configs/data {ending}",
        f"crispbench: engine m: 'model' is {tmp_path}/model, and not {tmp_path}/configs/model {ending}",
    ]


def test_a_missing_relative_path_names_both_places(
    tmp_path: Path, animals: Path, crispbench: Crispbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = beside(tmp_path / "configs", animals)
    shutil.rmtree(path.parent / "data")
    monkeypatch.chdir(tmp_path)
    answer = crispbench("run", path)
    assert answer.code == 2
    assert f"data: no such folder, tried {tmp_path}/data and {tmp_path}/configs/data" in answer.err


def test_ab_gives_its_processes_the_folder_of_the_config(
    tmp_path: Path, animals: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from harness.ab import sides

    config = read_config(beside(tmp_path / "configs", animals))
    monkeypatch.chdir(tmp_path)
    side, _ = sides.both(config, ("m", "m"), sides.first_task(config, 5))
    assert side.setup.config_folder == str(tmp_path / "configs")
