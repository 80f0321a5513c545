"""Runs inside of truss's own environment: a JSON list of configs on stdin, on stdout what truss says of each.

It takes the two steps in which `truss push` checks a config: reading it, and refusing fields that are not known.
"""

import json
import logging
import os
import sys
import warnings
from collections.abc import Iterator
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"  # truss looks at the checkpoint's config.json on the hub if it can
logging.disable(logging.CRITICAL)

from pydantic import BaseModel  # noqa: E402
from truss.base.truss_config import TrussConfig  # noqa: E402


def validate(config: dict[str, Any]) -> dict[str, Any]:
    """`error` or null · `unknown`: fields that truss keeps without knowing them · `config`: as truss reads it."""
    try:
        read = TrussConfig.from_dict(config)
        read.validate_forbid_extra()
    except (ValueError, Warning) as error:  # a deprecated value is an error
        return {"error": " ".join(str(error).split()), "unknown": [], "config": None}
    return {"error": None, "unknown": list(unknown(read)), "config": read.model_dump(mode="json")}


def unknown(part: Any, path: str = "") -> Iterator[str]:
    if isinstance(part, BaseModel):
        yield from (f"{path}{name}" for name in part.model_extra or {})
        for name in type(part).model_fields:
            yield from unknown(getattr(part, name), path if name == "root" else f"{path}{name}.")


if __name__ == "__main__":
    warnings.simplefilter("error")
    json.dump([validate(config) for config in json.load(sys.stdin)], sys.stdout)
