"""Scores of (query, document) pairs from any engine, in one call."""

from collections.abc import Iterable, Iterator
from pathlib import Path

import engines
from engines.base import BadOptions, Pair
from harness.run.loop import checked


def score(
    model: str | Path | None, pairs: Iterable[tuple[str, str]], *, engine: str = "torch", **options: object
) -> list[float]:
    """One finite score per (query, document) pair, in the order of the pairs; higher is more relevant.

    `model` is a folder or a name on the hub, None for an engine without the option `model`, such as bm25. `engine` is
    one of `crispbench list engines`; the other keywords are its options, as a config has them. The scores are raw:
    log-odds `logit("1") - logit("0")` of a reranker, a cosine of a bi-encoder, the BM25 score of bm25, for which the
    documents of `pairs` are the corpus. Consecutive pairs of one query share work. The engine is loaded for this call
    and closed after it: `engines.load` keeps one loaded.

    Raises TypeError for something that is not two strings, BadOptions for an unknown engine, a wrong option or random
    weights, EngineUnavailable if the model cannot be loaded, and ScoringFailed if any pair has no score.
    """
    checked_pairs = list(_pairs(pairs))
    values = options if model is None else {"model": str(model), **options}
    if engines.options(engine, values).speed_only:
        raise BadOptions(f"engine {engine!r} has weights: random, whose scores mean nothing: name a trained model")
    if not checked_pairs:
        return []
    with engines.load(engine, values) as loaded:
        if loaded.prepares == "corpus":
            loaded.prepare(list(dict.fromkeys(pair.document for pair in checked_pairs)), analysis="english")
        return checked(loaded.score(checked_pairs), checked_pairs)


def _pairs(pairs: Iterable[tuple[str, str]]) -> Iterator[Pair]:
    for position, pair in enumerate(pairs):
        texts = () if isinstance(pair, str) else tuple(pair)
        if len(texts) != 2 or not all(isinstance(text, str) for text in texts):
            raise TypeError(f"pairs[{position}] is {pair!r:.80}: expected (query, document), two strings")
        yield Pair(*texts)
