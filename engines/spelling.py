"""Known names beside a name that is not known. A leaf, shared with the harness."""

from collections.abc import Iterable
from difflib import get_close_matches

SIMILAR = 0.6  # smallest share of common characters of two similar names (difflib's own default)


def closest(name: str, known: Iterable[str]) -> str | None:
    """The known name that is most similar to `name`, in lower or upper case; None if no name is similar."""
    by_lower = {other.lower(): other for other in known if len(other) > 1}  # every short name is similar to `k`
    near = get_close_matches(name.lower(), by_lower, n=1, cutoff=SIMILAR)
    return by_lower[near[0]] if near else None


def expected(name: object, known: Iterable[str]) -> str:
    """The end of a message about an unknown name: `did you mean 'torch'? expected one of bm25, torch`."""
    names = list(known)
    near = closest(name, names) if isinstance(name, str) else None
    question = "" if near is None else f"did you mean {near!r}? "
    return f"{question}expected one of {', '.join(names)}"
