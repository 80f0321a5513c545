"""What a measurement's pairs cost: tokens, arithmetic against this machine's measured ceiling, energy, money.

Computed from a recording; a figure that cannot be known is None, with the reason.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from engines.base import Counts
from harness.latency.recording import Header, Recording

SECONDS_PER_HOUR = 3600.0

Reasons = dict[str, str]


class Efficiency(NamedTuple):
    """Of the whole measurement, warm-up left out. `unknown` holds the reason for each figure that is None."""

    tokens: int | None  # of all prompts, each pair alone
    computed_tokens: int | None  # that went through the model
    padded_tokens: int | None  # of the computed ones, padding
    flops_per_s: float | None  # of the prompts, each pair alone
    computed_flops_per_s: float | None
    mfu: float | None  # flops_per_s over the ceiling: over 1 is possible where pairs share a computed prefix
    utilisation: float | None  # computed_flops_per_s over the ceiling: what is left up to 1 is idle or not a product
    intensity: float | None  # computed floating-point operations for each byte that they move at the least
    joules_per_1000_pairs: float | None
    dollars_per_1m_pairs: float | None
    unknown: Mapping[str, str]

    def document(self) -> dict[str, Any]:
        return {**self._asdict(), "unknown": dict(self.unknown)}


def efficiency(recorded: Recording, pairs: int, duration_s: float) -> Efficiency:
    """Figures of `pairs` answered pairs in `duration_s`, in which time spent on waiting for requests is included."""
    unknown: Reasons = {}
    counts, counted_s = _counts(recorded, unknown), seconds_of_counts(recorded, duration_s)
    computed, moved = counts.computed_flops, counts.computed_bytes
    found = Efficiency(
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
    return _against_the_ceiling(found, recorded.header, unknown)


def seconds_of_counts(recorded: Recording, duration_s: float) -> float:
    """The time that the totals at the end belong to: of a closed loop all of it, its beginning and end included."""
    whole = recorded.end is not None and recorded.header.scenario == "sweep"
    return recorded.end.seconds if recorded.end is not None and whole else duration_s


def _rate(count: int | None, seconds: float) -> float | None:
    return count / seconds if count and seconds > 0 else None


def _per_pair(per_s: float | None, duration_s: float, pairs: int, of: float) -> float | None:
    return per_s * duration_s / pairs * of if per_s is not None and pairs else None


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


def _against_the_ceiling(found: Efficiency, header: Header, unknown: Reasons) -> Efficiency:
    ceiling = header.ceiling
    if "mfu" in unknown:
        return found
    if found.flops_per_s is None or found.computed_flops_per_s is None:
        unknown["mfu"] = "the engine does not count its operations"
        return found
    if ceiling is None:
        unknown["mfu"] = "no ceiling of its products was measured"
        return found
    utilisation = found.computed_flops_per_s / ceiling.flops_per_s
    if utilisation > 1:
        unknown["mfu"] = (
            f"it computed {utilisation:.0%} of the measured ceiling, so that was measured while the machine had less "
            "to give; measure again without other load"
        )
        return found
    return found._replace(mfu=found.flops_per_s / ceiling.flops_per_s, utilisation=utilisation)


def _watts(recorded: Recording, seconds: float, unknown: Reasons) -> float | None:
    """Of the one GPU that there is, from its own energy counter; what it draws when idle is part of it."""
    device = recorded.header.description.device
    gpus = recorded.end.telemetry.gpus if recorded.end is not None else ()
    energy_j = gpus[0].energy_j if len(gpus) == 1 else None
    if recorded.end is None:
        reason = "the measurement has no end"
    elif device is None:
        reason = "the engine does not say on which device of this machine it ran"
    elif device.kind == "cpu":
        reason = "no energy counter is read for a CPU"
    elif len(gpus) != 1:
        reason = f"{len(gpus)} GPUs were seen, and one is needed to know whose energy it is"
    elif energy_j is None:
        reason = "the GPU tells no energy"
    else:
        return energy_j / seconds if seconds > 0 else None
    unknown["joules_per_1000_pairs"] = reason
    return None


def _dollars_per_s(header: Header, unknown: Reasons) -> float | None:
    price = header.settings.price_per_hour
    if isinstance(price, Mapping):
        price = price.get(header.engine)
    if price is None:
        unknown["dollars_per_1m_pairs"] = "the config has no latency.price_per_hour for it"
        return None
    return float(price) / SECONDS_PER_HOUR
