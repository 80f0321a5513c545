"""What a config needs, looked for in seconds before anything is loaded: packages, keys, devices, folders, data."""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import NamedTuple

import engines
from engines.base import BadOptions, EngineUnavailable
from engines.own_errors import own_errors_as
from harness.benchmarks import BenchmarkUnavailable
from harness.candidates import stages
from harness.config import Config, ConfigError
from harness.left_out import LeftOut


class Readiness(NamedTuple):
    """What is known of engines before they are loaded."""

    notes: Mapping[str, Sequence[str]]  # engine -> what a reader of its figures should know
    left_out: LeftOut  # the engines that cannot score


def check_engines(config: Config, chosen: Sequence[str], say: Callable[[str], None], *, fewest: int = 1) -> Readiness:
    """Look for what these engines need, and say what is noteworthy or missing.

    Raises ConfigError for a mistake in the config, and EngineUnavailable if fewer than `fewest` engines can score.
    """
    ready = examine_engines(config, chosen, say)
    for name, notes in ready.notes.items():
        for note in notes:
            say(f"crispbench: engine {name}: {note}")
    if chosen and len(chosen) - len(ready.left_out.errors) < fewest:
        problem = "no engine could score" if fewest == 1 else "an engine cannot score"
        raise EngineUnavailable(f"{problem}: {ready.left_out}")
    ready.left_out.announce()
    return ready


def examine_engines(config: Config, chosen: Sequence[str], say: Callable[[str], None]) -> Readiness:
    """What is known of these engines before they are loaded. Raises ConfigError for a mistake in the config."""
    notes, left_out = dict[str, Sequence[str]](), LeftOut(say)
    for name in chosen:
        entry = config.engines[name]
        try:
            notes[name] = engines.preflight(entry.kind, entry.options)
        except BadOptions as error:
            raise ConfigError(f"engine {name!r}: {error}") from None
        except EngineUnavailable as error:
            left_out.add(name, error)
    return Readiness({name: lines for name, lines in notes.items() if lines}, left_out)


def check_benchmarks(config: Config, names: Collection[str], say: Callable[[str], None]) -> dict[str, str]:
    """Look for the data and the first stages of these benchmarks, or of all for no names.

    Returns the benchmarks that cannot be loaded here and now, each with its reason: loading names them. Only members
    of suites have a name before they are loaded, so all other benchmarks are looked for. Raises BenchmarkError or
    ConfigError for a mistake.
    """
    said, missing = set[str](), dict[str, str]()
    for entry in config.entries:
        if entry.name is not None and names and entry.name not in names:
            continue
        title = entry.name or entry.benchmark.title
        stage = entry.benchmark.candidates or config.candidates
        try:
            with own_errors_as(BenchmarkUnavailable):
                notes = (*entry.benchmark.source.preflight(), *stages.preflight(stage))
        except BadOptions as error:
            raise ConfigError(f"{title}: {error}") from None
        except (BenchmarkUnavailable, EngineUnavailable) as error:
            missing[title] = str(error)
            continue
        for note in notes:
            if note not in said:
                said.add(note)
                say(f"crispbench: {title}: {note}")
    return missing
