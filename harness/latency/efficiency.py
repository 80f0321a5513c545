"""The cost of a measurement's pairs: tokens, arithmetic relative to this machine's measured ceiling, energy and money.

All figures are computed from a recording. A figure that cannot be known is None and has a reason.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from engines.base import Counts
from harness.latency.recording import Header, Recording

SECONDS_PER_HOUR = 3600.0

Reasons = dict[str, str]


class Efficiency(NamedTuple):
    """Figures of a whole measurement without its warm-up. `unknown` holds the reason for every figure that is None."""

    tokens: int | None  # tokens of all prompts, as if every pair were computed alone
    computed_tokens: int | None  # tokens that went through the model
    padded_tokens: int | None  # computed tokens that are padding
    flops_per_s: float | None  # useful operations, as if every pair were computed alone
    computed_flops_per_s: float | None  # operations that were computed
    mfu: float | None  # flops_per_s / ceiling, which may exceed 1 if pairs share a computed prefix
    utilisation: float | None  # computed_flops_per_s / ceiling; the rest to 1 is waiting or not a matrix product
    intensity: float | None  # computed floating-point operations per byte that they must at least move
    joules_per_1000_pairs: float | None
    dollars_per_1m_pairs: float | None
    unknown: Mapping[str, str]

    def document(self) -> dict[str, Any]:
        return {**self._asdict(), "unknown": dict(self.unknown)}


def efficiency(recorded: Recording, pairs: int, duration_s: float) -> Efficiency:
    """Figures for `pairs` answered pairs in `duration_s`, which includes the time spent waiting for requests."""
    unknown: Reasons = {}
    counts, counted_s = _counts(recorded, unknown), seconds_of_counts(recorded, duration_s)
    computed, moved = counts.computed_flops, counts.computed_bytes
    counted = Efficiency(
        tokens=counts.tokens,
        computed_tokens=counts.computed_tokens,
        padded_tokens=counts.padded_tokens,
        flops_per_s=_rate(counts.flops, counted_s),
        computed_flops_per_s=_rate(computed, counted_s),
        mfu=None,
        utilisation=None,
        intensity=computed / moved if computed and moved else None,
        joules_per_1000_pairs=_per_pair(_watts(recorded, counted_s, unknown), duration_s, pairs, 1e3),
        dollars_per_1m_pairs=_per_pair(_dollars_per_s(recorded.header, unknown), duration_s, pairs, 1e6),
        unknown=unknown,
    )
    if not pairs:
        unknown |= dict.fromkeys(("joules_per_1000_pairs", "dollars_per_1m_pairs"), "no pair was answered")
    return _against_the_ceiling(counted, recorded.header, unknown)


def seconds_of_counts(recorded: Recording, duration_s: float) -> float:
    """The time that the final counts cover. For a closed loop this is the whole measurement, with its start and end."""
    whole = recorded.end is not None and recorded.header.scenario == "sweep"
    return recorded.end.seconds if recorded.end is not None and whole else duration_s


def _rate(count: int | None, seconds: float) -> float | None:
    return count / seconds if count and seconds > 0 else None


def _per_pair(per_s: float | None, duration_s: float, pairs: int, unit: float) -> float | None:
    """The amount for `unit` pairs."""
    return per_s * duration_s / pairs * unit if per_s is not None and pairs else None


def _counts(recorded: Recording, unknown: Reasons) -> Counts:
    if recorded.end is None:
        unknown["tokens"] = unknown["computed_tokens"] = unknown["mfu"] = "the measurement has no end"
        return Counts()
    counts = recorded.end.counts
    shown = {
        "tokens": counts.tokens,
        "computed_tokens": counts.computed_tokens,
        "padded_tokens": counts.padded_tokens,
    }
    unknown |= {name: "the engine does not count them" for name, count in shown.items() if count is None}
    return counts


def _against_the_ceiling(counted: Efficiency, header: Header, unknown: Reasons) -> Efficiency:
    ceiling = header.ceiling
    if "mfu" in unknown:
        return counted
    if counted.flops_per_s is None or counted.computed_flops_per_s is None:
        unknown["mfu"] = "the engine does not count its operations"
        return counted
    if ceiling is None:
        unknown["mfu"] = "the ceiling of its matrix products was not measured"
        return counted
    utilisation = counted.computed_flops_per_s / ceiling.flops_per_s
    if utilisation > 1:
        unknown["mfu"] = (
            f"the engine reached {utilisation:.0%} of the ceiling, so the machine was slower while the ceiling was "
            "measured; measure again without other load"
        )
        return counted
    return counted._replace(mfu=counted.flops_per_s / ceiling.flops_per_s, utilisation=utilisation)


def _watts(recorded: Recording, seconds: float, unknown: Reasons) -> float | None:
    """Mean power of the only GPU from its own energy counter, including its idle power."""
    device = recorded.header.description.device
    gpus = recorded.end.telemetry.gpus if recorded.end is not None else ()
    energy_j = gpus[0].energy_j if len(gpus) == 1 else None
    if recorded.end is None:
        reason = "the measurement has no end"
    elif device is None:
        reason = "the engine does not state on which device of this machine it ran"
    elif device.kind == "cpu":
        reason = "the energy of a CPU is not measured"
    elif len(gpus) != 1:
        reason = f"the energy can be attributed only if there is one GPU, and {len(gpus)} were seen"
    elif energy_j is None:
        reason = "the GPU does not report its energy"
    else:
        return energy_j / seconds if seconds > 0 else None
    unknown["joules_per_1000_pairs"] = reason
    return None


def _dollars_per_s(header: Header, unknown: Reasons) -> float | None:
    price = header.settings.price_per_hour
    if isinstance(price, Mapping):
        price = price.get(header.engine)
    if price is None:
        unknown["dollars_per_1m_pairs"] = "the config has no latency.price_per_hour for this engine"
        return None
    return float(price) / SECONDS_PER_HOUR
