"""Fixtures that tests share: small BEIR folders, configs, the command line, engines for one test, real collections."""

import io
import json
import os
import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar, NamedTuple

import pytest
import yaml
from rich.console import Console

import engines
from engines.base import Engine, EngineUnavailable, Pair
from engines.fake import Fake, FakeOptions
from harness.cli import main
from harness.report import press
from harness.report.content import Report

ROOT = Path(__file__).parents[1]


def printed(report: Report) -> str:
    """A report as text of 110 columns, as a log shows it."""
    text = io.StringIO()
    press.show(report, Console(file=text, width=110))
    return "\n".join(line.rstrip() for line in text.getvalue().splitlines())


class Answer(NamedTuple):
    """The exit code and the output of a command."""

    code: int
    out: str
    err: str


def write_beir(
    folder: Path,
    documents: Mapping[str, str],
    queries: Mapping[str, str],
    qrels: Mapping[str, Mapping[str, int]],
) -> Path:
    (folder / "qrels").mkdir(parents=True)
    for name, texts in (("corpus", documents), ("queries", queries)):
        lines = (json.dumps({"_id": key, "text": text}) for key, text in texts.items())
        (folder / f"{name}.jsonl").write_text("\n".join(lines), encoding="utf-8")
    judged = [f"{query_id}\t{doc_id}\t{grade}" for query_id in qrels for doc_id, grade in qrels[query_id].items()]
    (folder / "qrels/test.tsv").write_text("\n".join(["query-id\tcorpus-id\tscore", *judged]), encoding="utf-8")
    return folder


@pytest.fixture(autouse=True)
def no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands print as into a pipe, even if the environment asks for colours: rich and typer read these variables."""
    for name in ("FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE", "GITHUB_ACTIONS", "PY_COLORS", "COLUMNS"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Tests and the commands that they start store candidates in a temporary folder, never in the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CRISPBENCH_CACHE", str(tmp_path_factory.mktemp("crispbench")))
        yield


@pytest.fixture(scope="session")
def data() -> Path:
    """The folder with real tokenizers and benchmarks: $CRISPBENCH_DATA, else ../shared/data beside the checkout."""
    beside = ROOT.parent / "shared" / "data"
    folder = Path(os.environ.get("CRISPBENCH_DATA", beside))
    if not folder.is_dir():
        pytest.skip("needs the data folder: set CRISPBENCH_DATA")
    return folder


@pytest.fixture
def beir(tmp_path: Path) -> Callable[..., Path]:
    """Writes a BEIR folder into the folder of the test: `beir("animals", documents, queries, qrels)`."""
    return lambda name, documents, queries, qrels: write_beir(tmp_path / name, documents, queries, qrels)


@pytest.fixture
def animals(beir: Callable[..., Path]) -> Path:
    """Five queries and five documents that all contain "animal"; one document has the other word of each query."""
    words = ("cat", "dog", "bird", "fish", "worm")
    return beir(
        "animals",
        {f"d-{word}": f"a {word} is an animal" for word in words},
        {f"q-{word}": f"animal {word}" for word in words},
        {f"q-{word}": {f"d-{word}": 1} for word in words},
    )


@pytest.fixture
def config(tmp_path: Path) -> Callable[..., Path]:
    """Writes a config: `config(engines={...}, benchmarks=[...])`."""

    def write(**entries: Any) -> Path:
        path = tmp_path / "config.yaml"
        path.write_text(yaml.safe_dump({"name": "small", **entries}, sort_keys=False), encoding="utf-8")
        return path

    return write


@pytest.fixture
def crispbench(capsys: pytest.CaptureFixture[str]) -> Callable[..., Answer]:
    """Runs a command in this process."""

    def run(*arguments: object) -> Answer:
        capsys.readouterr()
        code = main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return Answer(code, captured.out, captured.err)

    return run


@pytest.fixture
def register(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, type[Engine]], None]:
    """Adds an engine to the table for one test, in its own module, as a package would."""

    def add(name: str, engine: type[Engine]) -> None:
        module = ModuleType(f"{name}_engine", doc=f"The engine {name}, made for a test.")
        setattr(module, engine.__name__, engine)
        monkeypatch.setattr(engine, "__module__", module.__name__)
        monkeypatch.setitem(sys.modules, module.__name__, module)
        monkeypatch.setitem(engines.ENGINES, name, f"{module.__name__}:{engine.__name__}")

    return add


class Moody(Fake):
    """The fake engine with failures outside its options: a query that fails in one run may succeed in the next."""

    queries: ClassVar[list[str]]  # query of every call, in order
    prepared: ClassVar[list[str]]  # documents of every call of prepare
    answers: ClassVar[dict[str, Any]]  # query -> scores to return or exception to raise
    missing_package: ClassVar[bool]

    def __init__(self, options: FakeOptions) -> None:
        if self.missing_package:
            raise EngineUnavailable("moodypackage cannot be imported: pip install 'moody'")
        super().__init__(options)

    def score(self, pairs: Sequence[Pair]) -> list[float]:
        self.queries.append(pairs[0].query)
        answer = self.answers.get(pairs[0].query)
        if isinstance(answer, BaseException):
            raise answer
        return super().score(pairs) if answer is None else list(answer)

    def prepare(self, documents: Collection[str], *, analysis: str) -> None:
        self.prepared.extend(documents)


@pytest.fixture
def moody(register: Callable[..., None]) -> type[Moody]:
    state = {"queries": [], "prepared": [], "answers": {}, "missing_package": False}
    engine = type("MoodyToday", (Moody,), state)
    register("moody", engine)
    return engine


@pytest.fixture
def small(animals: Path, config: Callable[..., Path]) -> Path:
    """A config with the animals, the fake engine and the moody engine."""
    return config(
        engines={"fake": {"kind": "fake"}, "moody": {"kind": "moody"}},
        benchmarks=[{"source": "beir", "path": str(animals)}],
        candidates={"k": 3},
    )


@pytest.fixture
def shared_data() -> Callable[[str], Path]:
    """The path of a file or folder of the real collections; the test is skipped if it is absent."""

    def find(name: str) -> Path:
        data = Path(os.environ.get("CRISPBENCH_DATA") or ROOT.parent / "shared/data")
        if not (data / name).exists():
            pytest.skip(f"no {name} among the collections; set CRISPBENCH_DATA to their folder")
        return data / name

    return find
