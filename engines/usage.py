"""What an answer says of the work behind it: tokens, and the server's own share of the time."""

import re

from engines.transport import Answer

# TEI's headers x-...-time, in milliseconds; those of a batch are means over its texts
TIMES = ("compute", "queue", "tokenization", "inference", "total")


def usage(answer: Answer) -> dict[str, int]:
    """Counts that the server told: `tokens` that it read, and its times as `server_queue_us` and so on."""
    times = {name: _microseconds(answer.headers.get(f"x-{name}-time", "")) for name in TIMES}
    told = {f"server_{name}_us": us for name, us in times.items() if us is not None}
    tokens = _tokens(answer)
    return told if tokens is None else {**told, "tokens": tokens}


def _microseconds(milliseconds: str) -> int | None:
    return round(float(milliseconds) * 1000) if re.fullmatch(r"\d{1,12}(\.\d+)?", milliseconds) else None


def _tokens(answer: Answer) -> int | None:
    """From `usage` (infinity, vLLM, Jina), `meta.tokens` (Cohere) or the header of TEI."""
    document = answer.document if isinstance(answer.document, dict) else {}
    meta = document.get("meta")
    told = document.get("usage") or (meta.get("tokens") if isinstance(meta, dict) else None)
    if isinstance(told, dict):
        counts = (told.get(name) for name in ("prompt_tokens", "input_tokens", "total_tokens"))
        return next((count for count in counts if type(count) is int and count >= 0), None)
    header = answer.headers.get("x-compute-tokens", "")
    return int(header) if re.fullmatch(r"\d{1,12}", header) else None
