"""How figures and foreign text are written, in every format. An unknown figure is "-", never a zero."""

import math
import unicodedata
from collections.abc import Collection, Iterable

MISSING = "-"
MINUS = "\N{MINUS SIGN}"
MOST_PLACES = 17  # decimals with which every number below 1 prints as itself
REPLACED = "\N{REPLACEMENT CHARACTER}"
TAB = "\t"
JOINERS = "\N{ZERO WIDTH JOINER}\N{ZERO WIDTH NON-JOINER}"  # parts of words and of emoji


def decimal(value: float | None) -> str:
    """A measure with four decimals, the precision of published tables (0.3512 is their 35.12)."""
    return MISSING if value is None or not math.isfinite(value) else f"{value:.4f}".replace("-", MINUS)


def signed(value: float | None, places: int = 4) -> str:
    """A difference with its sign; a difference that rounds to zero has no sign."""
    if value is None or not math.isfinite(value):
        return MISSING
    text = f"{value:+.{places}f}"
    return f"{0:.{places}f}" if float(text) == 0 else text.replace("-", MINUS)


def interval(lo: float | None, hi: float | None) -> str:
    """`[lo, hi]`, or an empty text if an end is unknown."""
    is_known = lo is not None and hi is not None and math.isfinite(lo) and math.isfinite(hi)
    return f"[{decimal(lo)}, {decimal(hi)}]" if is_known else ""


def signed_interval(lo: float, hi: float, places: int = 4) -> str:
    """`[lo, hi]` of a difference, or an empty text if an end is unknown."""
    return f"[{signed(lo, places)}, {signed(hi, places)}]" if math.isfinite(lo) and math.isfinite(hi) else ""


def places(values: Iterable[float | None], limits: Collection[float], least: int) -> int:
    """Fewest decimals, `least` or more, with which every value prints on its own side of every limit.

    A verdict says on which side of a limit a figure lies, and its print must not say otherwise: -0.00498 passes a limit
    of -0.005, and with four decimals it would print as -0.0050.
    """
    known = [value for value in values if value is not None and math.isfinite(value)]
    pairs = [(value, limit) for value in known for limit in limits]
    enough = (
        digits
        for digits in range(least, MOST_PLACES)
        if all(_side(round(value, digits), round(limit, digits)) == _side(value, limit) for value, limit in pairs)
    )
    return next(enough, MOST_PLACES)


def beside(value: float, limit: float, least: int) -> str:
    """A figure with as many decimals as it takes to print it on its own side of a limit."""
    return f"{value:.{places([value], [limit], least)}f}"


def beside_figure(value: float, limit: float) -> str:
    """The same with three significant digits, or with more if three would print it on another side of the limit."""
    text = f"{value:.3g}"
    return text if _side(float(text), limit) == _side(value, limit) else beside(value, limit, 3)


def exact(value: float) -> str:
    """A number that a user chose, without rounding: 0.005, 50, 49.96."""
    text = f"{value:g}"
    return text if float(text) == value else repr(value)


def _side(value: float, limit: float) -> int:
    return (value > limit) - (value < limit)


def duration(seconds: float | None) -> str:
    """Seconds with three significant digits and their unit: 0.046 ms, 45.6 ms, 1.00 s."""
    if seconds is None or not math.isfinite(seconds):
        return MISSING
    if seconds < 0.9995:  # from here on three digits read "1.00 s"
        return f"{significant(seconds * 1e3)} ms"
    return f"{significant(seconds)} s"


def significant(value: float | None) -> str:
    """Three significant digits: 0.046, 4.56, 45.6, 456, 4,560,000."""
    if value is None or not math.isfinite(value):
        return MISSING
    if 0 <= value < 0.0005:
        return "<0.001"
    value = float(f"{value:.3g}")
    decimals = 0 if value >= 100 else 1 if value >= 10 else 2 if value >= 1 else 3
    return f"{value:,.{decimals}f}"


def percent(share: float | None) -> str:
    """A share with one decimal; only a share of exactly 1 is "100%", and only 0 is "0%"."""
    if share is None or not math.isfinite(share):
        return MISSING
    if share in (0, 1):
        return f"{share:.0%}"
    text = f"{share:.1%}"
    return {"0.0%": "<0.1%", "100.0%": ">99.9%"}.get(text, text)


def plain(text: str) -> str:
    """Foreign text on one line, without terminal control, text-direction and undecodable characters."""
    return visible(" ".join(text.split()))


def visible(text: str) -> str:
    """The same with its spaces and tabs kept, for lines that are aligned or hold columns."""
    return "".join(REPLACED if _acts(char) else char for char in text)


def _acts(char: str) -> bool:
    return unicodedata.category(char) in ("Cc", "Cf", "Cs") and char not in JOINERS and char != TAB
