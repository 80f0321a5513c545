"""One of our engines as a model of mteb: `mteb.evaluate(MtebModel("torch", {...}), task)`.

It implements mteb's SearchProtocol, the only hook that shows where a query ends. It must not have an attribute
`predict`: mteb would take it for a cross-encoder and never call `search`.
"""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

import engines
from engines.base import BadOptions, Description, Pair, ScoringFailed
from harness import machine
from harness.benchmarks.base import require
from harness.benchmarks.languages import analysis_of
from harness.benchmarks.mteb import query_texts
from harness.benchmarks.stored import Picked, StoredDocuments, StoredTable
from harness.run.loop import checked

HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
# mteb makes a folder of a revision. Windows, tar and scp have a meaning of their own for the colon of "sha256:...".
NO_FOLDER = re.compile(r'[<>:"/\\|?*\x00-\x1f]')


class MtebModel:
    """Scores the candidates of a reranking task with one call of the engine per query.

    mteb's cache does not know the first stage of a converted task, and would return results of another first stage.
    Name it in `first_stage` ("bm25-k100" and the hash of its lists), or evaluate with `cache=None`.
    """

    def __init__(self, kind: str, options: Mapping[str, Any], *, first_stage: str = "task") -> None:
        """Raises BadOptions or EngineUnavailable."""
        require("mteb", extra="mteb")
        validated = engines.options(kind, options)
        if validated.speed_only:
            raise BadOptions(f"engine {kind!r} has random weights, whose scores mean nothing: use `crispbench latency`")
        self._engine = engines.load(kind, validated)
        description = self._engine.describe()
        versions = machine.versions()
        self.mteb_model_meta = model_meta(kind, description, first_stage, [kind, dict(options), versions, first_stage])

    def index(self, corpus: StoredTable, *, task_metadata: Any, hf_subset: str, **_: object) -> None:
        self._documents = StoredDocuments(corpus)
        self._analysis = analysis_of(task_metadata.hf_subsets_to_langscripts.get(hf_subset, ()))
        if self._engine.prepares == "corpus":
            self._engine.prepare(self._documents.values(), analysis=self._analysis)

    def search(
        self,
        queries: Any,
        *,
        top_k: int,
        top_ranked: Mapping[str, Sequence[str]] | None = None,
        **_: object,
    ) -> dict[str, dict[str, float]]:
        """The best `top_k` documents of every query with their scores, `descending`, in our order.

        Raises ScoringFailed if a score is missing.
        """
        if top_ranked is None:
            raise ScoringFailed(
                "a reranker needs candidates, and this task has none: "
                "task.convert_to_reranking(PREDICTIONS, top_k=100) takes those of a first stage"
            )
        texts = dict(query_texts(queries))
        if self._engine.prepares == "candidates":
            shown = dict.fromkeys(doc_id for query_id in texts for doc_id in top_ranked.get(query_id, ()))
            self._engine.prepare(Picked(self._documents, shown), analysis=self._analysis)
        return {
            query_id: self._scores(text, list(dict.fromkeys(top_ranked.get(query_id, ()))), top_k)
            for query_id, text in texts.items()
        }

    def close(self) -> None:
        self._engine.close()

    def _scores(self, query: str, doc_ids: Sequence[str], top_k: int) -> dict[str, float]:
        pairs = [Pair(query, self._documents[doc_id]) for doc_id in doc_ids]
        values = checked(self._engine.score(pairs), pairs) if pairs else []
        best = sorted(zip(doc_ids, values, strict=True), key=lambda scored: -scored[1])[:top_k]
        return dict(zip((doc_id for doc_id, _ in best), descending([value for _, value in best]), strict=True))


def descending(best_first: Sequence[float]) -> list[float]:
    """Nearly the same scores, each lower than the one before it in float32.

    mteb orders scores that are equal in float32 by document id, descending; here they keep the first stage's order, so
    that mteb computes the figures of `crispbench export mteb`. A score moves by the smallest step, because mteb's nAUC
    needs scores and not ranks.
    """
    separated: list[float] = []
    largest = np.finfo(np.float32).max / 2  # room for steps below the lowest score
    lowest_so_far = np.float32(np.inf)
    for value in np.clip(np.asarray(best_first, dtype=np.float64), -largest, largest).astype(np.float32):
        lowest_so_far = min(value, np.nextafter(lowest_so_far, np.float32(-np.inf)))
        separated.append(float(lowest_so_far))
    return separated


def model_meta(kind: str, description: Description, first_stage: str, fingerprinted: object) -> Any:
    """mteb's ModelMeta. Everything that changes a score is in `experiment_kwargs`, by which mteb separates results."""
    models = require("mteb.models", extra="mteb")
    model = description.model
    identity = json.dumps([description.document(), fingerprinted], sort_keys=True, default=str)
    named = {"precision": description.precision, "template": description.template}
    shown = {name: value for name, value in named.items() if value}
    return models.ModelMeta.create_empty(
        overwrites={
            "name": model if HUB_NAME.fullmatch(model) else f"crispbench/{kind}",
            "revision": NO_FOLDER.sub("-", description.revision) or "no_revision_available",
            "experiment_kwargs": {
                "engine": kind,
                "fingerprint": hashlib.sha256(identity.encode()).hexdigest()[:16],
                "first_stage": first_stage,
                **shown,
            },
        }
    )
