"""Runs in truss's own environment: reads a JSON list of configs on stdin, writes truss's verdict on each to stdout.

It repeats both checks of `truss push`: it reads the config, then refuses unknown fields.
"""

import json
import logging
import os
import sys
import warnings
from collections.abc import Iterator
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"  # otherwise truss reads the checkpoint's config.json from the hub
logging.disable(logging.CRITICAL)

from pydantic import BaseModel  # noqa: E402
from truss.base.truss_config import TrussConfig  # noqa: E402


def validate(config: dict[str, Any]) -> dict[str, Any]:
    """`error`: the message or null · `unknown`: fields that truss does not know · `config`: as truss reads it."""
    try:
        read = TrussConfig.from_dict(config)
        read.validate_forbid_extra()
    except (ValueError, Warning) as error:  # truss warns of a deprecated value
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
