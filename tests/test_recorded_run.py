"""Every verb reads a run that was recorded before descriptions were typed, and its numbers are unchanged.

tests/recorded/run was made on 2026-11-28 by `crispbench run --limit 5` and `crispbench latency` from

    engines:
      fake:      {kind: fake}
      demo-fp32: {kind: torch, model: checkpoints/demo, template: demo, precision: fp32, device: cpu, max_tokens: 164}
    benchmarks: [{source: stdlib, name: stdlib-topics, queries: 20}]
    candidates: {source: bm25, k: 10}
    latency: {scenario: [single-stream, server, offline], queries: 120, warmup: 2, rate: 6, min_duration_s: 1}
"""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from engines.base import Description, Device, ScoreKind
from harness.compare import comparability
from harness.latency import recording
from harness.latency.verb import write_page
from harness.manifest import Manifest
from harness.run import rows
from harness.run.page import content
from harness.store import Store

RECORDED = Path(__file__).parent / "recorded" / "run"
Crispbench = Callable[..., Any]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A writable copy of the recorded run."""
    return Path(shutil.copytree(RECORDED, tmp_path / "run"))


def test_a_recorded_run_gives_its_measures_byte_for_byte() -> None:
    read = rows.read(RECORDED)
    for engine in ("fake", "demo-fp32"):
        document = rows.measures_document([row for row in read if row.engine == engine])
        stored = (RECORDED / engine / "measures.json").read_text(encoding="utf-8")
        assert json.dumps(document, indent=1, sort_keys=True, ensure_ascii=False) + "\n" == stored


def test_old_descriptions_are_completed_when_they_are_read() -> None:
    with Store.read(RECORDED / "demo-fp32") as store:
        manifest = store.manifest()
    assert manifest is not None
    demo = manifest.description
    assert (demo.score_kind, demo.demonstration, demo.device) == (ScoreKind.LOG_ODDS, True, Device("cpu"))
    assert (demo.max_tokens, demo.weights_mb, demo.random_seed) == (164, 14.9, None)
    header = recording.read(RECORDED / "demo-fp32/latency/server.jsonl").header
    assert header.description == demo and header.part_of is None
    with Store.read(RECORDED / "fake") as store:
        fake = store.manifest()
    assert fake is not None and fake.description == Description(model="word overlap")


def test_a_rewritten_old_manifest_keeps_its_content() -> None:
    """Old stores can be resumed: the rewritten manifest differs only in fields that the old format leaves out."""
    document = json.loads((RECORDED / "demo-fp32/manifest.json").read_text(encoding="utf-8"))
    written = Manifest.read(document).document()
    added = {"score_kind": "logit_diff", "demonstration": "true"}
    assert written == {**document, "format": 2, "description": {**document["description"], **added}}
    assert Manifest.read(written) == Manifest.read(document)


def test_an_old_store_can_be_resumed(run: Path) -> None:
    manifest = Manifest.read(json.loads((run / "fake/manifest.json").read_text(encoding="utf-8")))
    with Store.open(run / "fake", manifest) as store:
        assert len(store.done("stdlib-topics")) == 5


def test_report_reads_an_old_run_and_warns_about_its_demonstration_model(run: Path, crispbench: Crispbench) -> None:
    answer = crispbench("report", run)
    assert answer.code == 0 and "demonstration model" in answer.out
    page = (run / "report/report.md").read_text(encoding="utf-8")
    assert "checkpoints/demo fp32 demo" in page


def test_compare_and_check_read_an_old_run(run: Path, crispbench: Crispbench) -> None:
    assert comparability.read(run / "demo-fp32").scale == comparability.ScoreScale(ScoreKind.LOG_ODDS)
    assert comparability.read(run / "fake").scale == comparability.ScoreScale(ScoreKind.OWN, "fake")
    again = shutil.copytree(run, run.parent / "again")
    answer = crispbench("compare", run / "demo-fp32", again / "demo-fp32", "--json")
    (compared,) = json.loads(answer.out)["comparisons"]
    assert [field["field"] for field in compared["differing"]] == []
    assert [fidelity["candidate"]["drift"]["maximum"] for fidelity in compared["fidelity"]] == [0.0]
    checked = json.loads(crispbench("check", run / "demo-fp32", again / "demo-fp32", "--json").out)
    assert [row["current"] == row["baseline"] for row in checked["quality"]["rows"]] == [True]
    assert {row["subject"] for row in checked["latency"]["rows"]} == {"single-stream", "server", "offline"}


def test_the_latency_page_reads_an_old_run(run: Path) -> None:
    write_page(run, ["fake", "demo-fp32"])
    page = (run / "report/latency/latency.md").read_text(encoding="utf-8")
    assert "| demo-fp32 | single-stream | 120 |" in page and "| fake | server | 120 |" in page
    summary = json.loads((run / "demo-fp32/latency/server.json").read_text(encoding="utf-8"))
    recorded = recording.read(RECORDED / "demo-fp32/latency/server.jsonl")
    assert summary["settings"] == recorded.header.document()["settings"]
    assert recorded.end is not None and summary["end"] == json.loads(json.dumps(recorded.end.document()))


def test_only_a_declared_demonstration_model_causes_the_warning() -> None:
    (row, *_) = rows.read(RECORDED)
    model = Description(model="acme/democracy-reranker", precision="bf16", score_kind=ScoreKind.LOG_ODDS)
    named = replace(row, model="acme/democracy-reranker bf16", description=model)
    assert content.DEMO not in content.build([named], "").warnings
    declared = replace(named, description=replace(model, demonstration=True))
    assert content.DEMO in content.build([declared], "").warnings


@pytest.mark.parametrize("model", ["acme/democracy-reranker", "acme/my-demo", "demo/reranker"])
def test_a_name_that_contains_demo_does_not_make_an_old_model_a_demonstration(model: str) -> None:
    document = json.loads((RECORDED / "demo-fp32/manifest.json").read_text(encoding="utf-8"))
    document["description"]["model"] = model
    assert not Manifest.read(document).description.demonstration


def test_a_manifest_of_an_unknown_format_is_refused() -> None:
    document = json.loads((RECORDED / "fake/manifest.json").read_text(encoding="utf-8"))
    with pytest.raises(ValueError, match="its format is 3, this version reads 1 and 2"):
        Manifest.read({**document, "format": 3})
