"""`crispbench probe`: load the engines of a config and check them for every known fault."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml

import engines
from engines.base import BadOptions, Engine, EngineError, EngineFailed, EngineUnavailable, Pair, Retriever
from engines.own_errors import closing, own_errors_as
from engines.prompts.template import load_template
from harness import preflight, progress
from harness.config import EngineEntry, choose, read_config
from harness.outcome import Outcome, worst
from harness.probe.canaries import CANARIES, GOLDEN_MODELS, GOLDEN_PAIRS, filler_words, long_pairs
from harness.probe.faults import ProbeCheck, examine
from harness.probe.subject import ProbedEngine, Reference, max_tokens
from harness.run.loop import checked


@dataclass(frozen=True)
class ProbeOptions:
    """The engines to probe, and the terms of their checks."""

    engines: Sequence[str] = ()  # empty: all engines of the config
    reference: str | None = None  # trusted engine of the config
    golden: str | None = None  # published checkpoint of engines whose model name does not identify it: base or large
    tolerance: float = 0.2  # log-odds between two scores of a pair; bf16 sums depend on the batch, steps of 0.0625

    def __post_init__(self) -> None:
        if not self.tolerance >= 0:  # also true for NaN, which no difference exceeds
            raise BadOptions(f"tolerance {self.tolerance!r}: expected 0 or more log-odds, such as 0.2")


@dataclass(frozen=True)
class EngineProbe:
    """The checks of one engine, or the reason why it could not be loaded."""

    checks: Sequence[ProbeCheck] = ()
    unavailable: str = ""

    @property
    def outcome(self) -> Outcome:
        if self.unavailable:
            return Outcome.INCOMPLETE
        return Outcome.FAIL if any(check.verdict == "fail" for check in self.checks) else Outcome.PASS

    @property
    def verdict(self) -> str:
        """The outcome as documents and the terminal write it."""
        return "unavailable" if self.unavailable else self.outcome

    def document(self) -> dict[str, Any]:
        reason = {"reason": self.unavailable} if self.unavailable else {}
        return {"verdict": self.verdict, **reason, "checks": [check._asdict() for check in self.checks]}

    def lines(self, name: str) -> Iterator[str]:
        yield f"{name}: {self.verdict}"
        for check in self.checks:
            yield f"  {check.name:<14} {check.verdict:<8} {check.seen}"
            if check.verdict == "fail":
                yield f"  {'':<14} {'':<8} means: {check.meaning}"


@dataclass(frozen=True)
class ProbeResult:
    """The probed engines by name."""

    engines: Mapping[str, EngineProbe]

    @property
    def outcome(self) -> Outcome:
        """FAIL if a check of any engine failed, INCOMPLETE if an engine could not be loaded, else PASS."""
        return worst(engine.outcome for engine in self.engines.values()) or Outcome.PASS

    def document(self) -> dict[str, Any]:
        return {"engines": {name: engine.document() for name, engine in self.engines.items()}}

    def lines(self) -> list[str]:
        """The verdict and the checks of every engine, one line each."""
        return [line for name, engine in self.engines.items() for line in engine.lines(name)]


def probe(config: Path, options: ProbeOptions, *, say: Callable[[str], None]) -> ProbeResult:
    """Probe engines of a config. An engine that cannot be loaded is reported through `say`, and the rest are probed.

    Raises ConfigError or BadOptions before an engine is loaded, EngineUnavailable if the reference or every engine
    is unavailable, ScoringFailed if the reference has no scores.
    """
    settings = read_config(config)
    chosen = choose(settings, options.engines)
    left_out = preflight.check_engines(settings, chosen, say).left_out
    reference = None
    if options.reference is not None:
        (trusted,) = choose(settings, [options.reference])
        reference = trust(trusted, settings.engines[trusted])
    probes: dict[str, EngineProbe] = {}
    for name in chosen:
        if name in left_out.errors:
            probes[name] = EngineProbe(unavailable=left_out.reasons[name])
            continue
        trusted_scores = reference if name != options.reference else None  # the reference is not compared with itself
        try:
            probes[name] = EngineProbe(_examine(name, settings.engines[name], trusted_scores, options))
        except EngineError as error:
            if isinstance(error, BadOptions) and not probes:
                raise
            left_out.add(name, error)
            probes[name] = EngineProbe(unavailable=str(error))
        else:
            left_out.announce()
    if all(engine.unavailable for engine in probes.values()):
        raise EngineUnavailable(f"no engine could be probed: {left_out}")
    left_out.announce()
    return ProbeResult(probes)


def _examine(name: str, entry: EngineEntry, reference: Reference | None, options: ProbeOptions) -> list[ProbeCheck]:
    with _loaded(name, entry) as engine:
        golden = GOLDEN_MODELS.get(engine.describe().model, options.golden)
        prompt = entry.options.prompt
        instructed = prompt is not None and bool(prompt.instruction)
        return examine(ProbedEngine(engine, options.tolerance, reference, golden, instructed))


def trust(name: str, entry: EngineEntry) -> Reference:
    """Scores of a trusted engine; if its template ends in a newline, also scores of the prompt without it."""
    with _loaded(name, entry) as engine:
        limit = max_tokens(engine)
        scores = _score(engine, [pair for canary in CANARIES for pair in canary.pairs])
        long = {} if isinstance(engine, Retriever) else _score(engine, long_pairs(CANARIES, filler_words(limit)[-1]))
    with TemporaryDirectory() as folder:
        stripped = _stripped(name, entry, Path(folder))
        if isinstance(stripped, str):
            return Reference(name, scores, long, limit, None, stripped)
        with _loaded(f"{name} without its last newline", stripped) as engine:
            return Reference(name, scores, long, limit, _score(engine, list(scores)))


@contextmanager
def _loaded(name: str, entry: EngineEntry) -> Iterator[Engine]:
    """The engine, loaded and prepared with every document that it is going to score."""
    with progress.waiting(f"loading {name}"):
        loaded = engines.load(entry.kind, entry.options)
    with closing(loaded) as engine, progress.waiting(f"probing {name}"):
        if engine.prepares != "nothing":
            pairs = [*(pair for canary in CANARIES for pair in canary.pairs), *GOLDEN_PAIRS]
            if not isinstance(engine, Retriever):
                pairs += [pair for words in filler_words(max_tokens(engine)) for pair in long_pairs(CANARIES, words)]
            with own_errors_as(EngineUnavailable):
                engine.prepare([pair.document for pair in pairs], analysis="english")
        yield engine


def _score(engine: Engine, pairs: Sequence[Pair]) -> dict[Pair, float]:
    with own_errors_as(EngineFailed):
        return dict(zip(pairs, checked(engine.score(pairs), pairs), strict=True))


def _stripped(name: str, entry: EngineEntry, folder: Path) -> EngineEntry | str:
    """The same engine without the last newline of its template, or the reason why that is impossible."""
    prompt = entry.options.prompt
    if prompt is None or not prompt.exact:
        return f"a reference of kind {entry.kind} does not show what another prompt would score; torch does"
    template = load_template(prompt.template, entry.options.config_folder)
    *pieces, last = template.pieces
    if not last.endswith("\n"):
        return f"the reference's template {template.name} does not end in a newline"
    file = folder / "stripped.yaml"
    changed = template.model_dump(mode="json") | {"pieces": [*pieces, last.rstrip("\n")]}
    file.write_text(yaml.safe_dump(changed), encoding="utf-8")
    return EngineEntry.read(
        name, {"kind": entry.kind, **entry.given, "template": str(file)}, entry.options.config_folder
    )
