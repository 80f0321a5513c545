"""Is this engine the model it says it is? Loads the engines of a config and looks for every known fault in each."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal, NamedTuple

import yaml

import engines
from engines.base import BadOptions, Engine, EngineUnavailable, Pair, Retriever
from engines.prompts.template import load_template
from harness import progress
from harness.config import EngineEntry, choose, read_config
from harness.probe.canaries import CANARIES, GOLDEN_MODELS, GOLDEN_PAIRS, filler_words, long_pairs
from harness.probe.faults import ProbeCheck, examine
from harness.probe.subject import ProbedEngine, Reference, max_tokens
from harness.run.loop import checked


@dataclass(frozen=True)
class ProbeOptions:
    """What the engines are held against."""

    tolerance: float  # in log-odds
    reference: str | None = None  # an engine of the config that is trusted
    golden: str | None = None  # the published checkpoint that an engine is whose name does not say it

    def __post_init__(self) -> None:
        if not self.tolerance >= 0:  # NaN as well: nothing would ever be beyond it
            raise BadOptions(f"tolerance {self.tolerance!r}: expected 0 or more log-odds, such as 0.2")


class ProbeResult(NamedTuple):
    verdict: Literal["pass", "fail", "unavailable"]
    checks: Sequence[ProbeCheck]
    reason: str = ""  # why it is unavailable

    def document(self) -> dict[str, Any]:
        reason = {"reason": self.reason} if self.reason else {}
        return {"verdict": self.verdict, **reason, "checks": [check._asdict() for check in self.checks]}

    def lines(self, name: str) -> Iterator[str]:
        yield f"{name}: {self.verdict}"
        for check in self.checks:
            yield f"  {check.name:<14} {check.verdict:<8} {check.seen}"
            if check.verdict == "fail":
                yield f"  {'':<14} {'':<8} means: {check.meaning}"


def probe_config(
    path: Path, names: Sequence[str], against: ProbeOptions, *, say: Callable[[str], None]
) -> Mapping[str, ProbeResult]:
    """Probe the engines of these names (none: all). Those that cannot be loaded are named; the others go on.

    Raises ConfigError or BadOptions before an engine is loaded, EngineUnavailable if the reference or every engine
    is, ScoringFailed if the reference has no scores.
    """
    config = read_config(path)
    chosen = choose(config, names)
    reference = None
    if against.reference is not None:
        (trusted,) = choose(config, [against.reference])
        reference = trust(trusted, config.engines[trusted])
    probed: dict[str, ProbeResult] = {}
    for name in chosen:
        own = reference if name != against.reference else None
        try:
            checks = probe_engine(name, config.engines[name], own, against)
            probed[name] = ProbeResult("fail" if any(check.verdict == "fail" for check in checks) else "pass", checks)
        except EngineUnavailable as error:
            say(f"crispbench: engine {name}: {error}")
            probed[name] = ProbeResult("unavailable", (), str(error))
    if all(one.verdict == "unavailable" for one in probed.values()):
        raise EngineUnavailable(f"no engine could be probed: {'; '.join(one.reason for one in probed.values())}")
    return probed


def probe_engine(name: str, entry: EngineEntry, reference: Reference | None, against: ProbeOptions) -> list[ProbeCheck]:
    with _loaded(name, entry) as engine:
        golden = GOLDEN_MODELS.get(engine.describe().model, against.golden)
        instructed = bool(entry.options.get("instruction"))
        return examine(ProbedEngine(engine, against.tolerance, reference, golden, instructed))


def trust(name: str, entry: EngineEntry) -> Reference:
    """The reference's scores, and where its template ends in a newline also those of the prompt without it."""
    with _loaded(name, entry) as engine:
        limit = max_tokens(engine)
        scores = _score(engine, [pair for canary in CANARIES for pair in canary.pairs])
        long = {} if isinstance(engine, Retriever) else _score(engine, long_pairs(CANARIES, filler_words(limit)[-1]))
    with TemporaryDirectory() as folder:
        stripped = _stripped(entry, Path(folder))
        if isinstance(stripped, str):
            return Reference(name, scores, long, limit, None, stripped)
        with _loaded(f"{name} without its last newline", stripped) as engine:
            return Reference(name, scores, long, limit, _score(engine, list(scores)))


@contextmanager
def _loaded(name: str, entry: EngineEntry) -> Iterator[Engine]:
    """The engine, which has seen every document that it is going to be asked for."""
    with progress.waiting(f"loading {name}"):
        loaded = engines.load(entry.kind, entry.options)
    with loaded as engine, progress.waiting(f"probing {name}"):
        if engine.prepares != "nothing":
            pairs = [*(pair for canary in CANARIES for pair in canary.pairs), *GOLDEN_PAIRS]
            if not isinstance(engine, Retriever):
                pairs += [pair for words in filler_words(max_tokens(engine)) for pair in long_pairs(CANARIES, words)]
            engine.prepare([pair.document for pair in pairs], analysis="english")
        yield engine


def _score(engine: Engine, pairs: Sequence[Pair]) -> dict[Pair, float]:
    return dict(zip(pairs, checked(engine.score(pairs), pairs), strict=True))


def _stripped(entry: EngineEntry, folder: Path) -> EngineEntry | str:
    """The same engine with a template that lacks the last newline, or why there is none."""
    name = getattr(engines.options(entry.kind, entry.options), "template", None)
    if entry.kind != "torch" or name is None:
        return f"the reference is of kind {entry.kind}; only torch shows what another prompt would score"
    template = load_template(name)
    *pieces, last = template.pieces
    if not last.endswith("\n"):
        return f"the reference's template {template.name} does not end in a newline"
    file = folder / "stripped.yaml"
    changed = template.model_dump(mode="json") | {"pieces": [*pieces, last.rstrip("\n")]}
    file.write_text(yaml.safe_dump(changed), encoding="utf-8")
    return EngineEntry(kind=entry.kind, **{**entry.options, "template": str(file)})
