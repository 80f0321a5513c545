"""The hub of models and data sets: what a name on it looks like, and whether its files can be had now. A leaf.

huggingface_hub asks an unreachable hub for every file six times with growing pauses, half a minute a file. So the hub
is asked once per process, without repetition; if it does not answer, all libraries are put into their offline mode, in
which they look into the cache alone.
"""

import os
import re
import sys
from collections.abc import Sequence
from functools import cache
from typing import Any

from engines.base import EngineUnavailable, first_line, require

NAME = re.compile(r"(?:[A-Za-z0-9_][\w.-]*/)?[A-Za-z0-9_][\w.-]*", re.ASCII)
LONGEST_NAME = 96  # characters, huggingface_hub's own limit
TIMEOUT_S = 5.0


def is_name(text: str) -> bool:
    """Whether a text can be the name of a model on the hub: `NAME` or `OWNER/NAME`."""
    return len(text) <= LONGEST_NAME and NAME.fullmatch(text) is not None and "--" not in text and ".." not in text


def absence(extra: str) -> str:
    """Why nothing can be downloaded, as the end of a sentence; empty if the hub answers. `extra` installs its library.

    Raises EngineUnavailable without huggingface_hub.
    """
    hub = require("huggingface_hub", extra=extra)
    unreachable = _unreachable(hub.constants.ENDPOINT) if not hub.constants.HF_HUB_OFFLINE or _went_offline else ""
    return unreachable or ("HF_HUB_OFFLINE is set" if hub.constants.HF_HUB_OFFLINE else "")


def require_files(model: str, names: Sequence[str], *, what: str, revision: str | None, extra: str) -> None:
    """Raise EngineUnavailable, in seconds, unless one of these files of a model is in the cache or on the hub.

    `what` is the word for it in messages, such as tokenizer.
    """
    hub = require("huggingface_hub", extra=extra)
    cached = (hub.try_to_load_from_cache(model, name, revision=revision) for name in names)
    if any(isinstance(path, str) for path in cached):
        absence(extra)  # without an answer the libraries take the copy at once
        return
    absent = absence(extra)
    if absent:
        raise EngineUnavailable(
            f"{what} {model!r} is not in the hub's cache, and {absent}: download it once where the hub can be reached, "
            "or name a folder that has it"
        )
    problems = [_problem(hub, model, name, revision) for name in names]
    if all(problems):
        raise EngineUnavailable(f"{what} {model!r}: {problems[0]}")


def _problem(hub: Any, model: str, name: str, revision: str | None) -> str:
    """Why the hub does not give a file; empty if it does, or if it cannot say so now."""
    errors = hub.errors
    try:
        hub.get_hf_file_metadata(hub.hf_hub_url(model, name, revision=revision), timeout=TIMEOUT_S)
    except errors.GatedRepoError:
        return "its owner grants access on its page on the hub: ask there, and set HF_TOKEN"
    except errors.RepositoryNotFoundError:
        return f"{hub.constants.ENDPOINT} has no model of this name, or it needs an account: check it, or set HF_TOKEN"
    except errors.RevisionNotFoundError:
        return f"it has no revision {revision!r}"
    except errors.EntryNotFoundError:
        return f"it has no {name} on the hub: expected a checkpoint"
    except Exception:  # loading tries again, with repetitions
        return ""
    return ""


_went_offline: list[str] = []  # the hubs that did not answer


@cache
def _unreachable(endpoint: str) -> str:
    session = require("huggingface_hub.utils", extra="torch").get_session()
    try:
        session.head(endpoint, timeout=TIMEOUT_S)
    except Exception as error:  # the HTTP library's own, which differs between versions of huggingface_hub
        _went_offline.append(endpoint)
        _use_the_cache_alone()
        return f"{endpoint} cannot be reached ({first_line(error)})"
    return ""


def _use_the_cache_alone() -> None:
    os.environ["HF_HUB_OFFLINE"] = "1"  # for child processes and for libraries that are imported later
    sys.modules["huggingface_hub"].constants.HF_HUB_OFFLINE = True
    if "datasets" in sys.modules:
        sys.modules["datasets"].config.HF_HUB_OFFLINE = True
