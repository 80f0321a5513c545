"""The noise floor: what this machine shows of a difference where there is none, from a run of A against A."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

FOLDER = "canary"


def read(folder: Path) -> dict[str, Any] | None:
    """The noise floor of the complete canary run beside an A/B run; None if there is none.

    Per metric, how far from no change its interval reaches, as a share: 0.01 for [0.995, 1.01].
    """
    try:
        document = json.loads((folder / FOLDER / "ab.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if not document.get("complete"):
        return None
    return {
        "engine": document["arms"]["A"]["engine"],
        "options": document["arms"]["A"]["options"],
        "machine": document["records"]["A"]["machine"],
        "metrics": {name: reach(entry) for name, entry in document["metrics"].items()},
    }


def reach(entry: Mapping[str, Any]) -> float | None:
    """The further end of an interval, as a share; None where there is no interval."""
    if entry["lo"] is None or entry["hi"] is None:
        return None
    return math.expm1(max(abs(math.log(entry["lo"])), abs(math.log(entry["hi"]))))
