"""A run that the version before typed descriptions recorded is read by every verb, with the numbers of then.

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
    """A copy that may be written to."""
    return Path(shutil.copytree(RECORDED, tmp_path / "run"))


def test_its_rows_give_the_measures_of_then_byte_by_byte() -> None:
    read = rows.read(RECORDED)
    for engine in ("fake", "demo-fp32"):
        document = rows.measures_document([row for row in read if row.engine == engine])
        stored = (RECORDED / engine / "measures.json").read_text(encoding="utf-8")
        assert json.dumps(document, indent=1, sort_keys=True, ensure_ascii=False) + "\n" == stored


def test_its_descriptions_gain_what_their_version_did_not_write() -> None:
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


def test_its_manifests_say_the_same_when_they_are_written_again() -> None:
    """So a store of then is resumed: the two versions differ in nothing but what an old manifest leaves out."""
    document = json.loads((RECORDED / "demo-fp32/manifest.json").read_text(encoding="utf-8"))
    written = Manifest.read(document).document()
    added = {"score_kind": "logit_diff", "demonstration": "true"}
    assert written == {**document, "format": 2, "description": {**document["description"], **added}}
    assert Manifest.read(written) == Manifest.read(document)


def test_its_store_is_resumed(run: Path) -> None:
    manifest = Manifest.read(json.loads((run / "fake/manifest.json").read_text(encoding="utf-8")))
    with Store.open(run / "fake", manifest) as store:
        assert len(store.done("stdlib-topics")) == 5


def test_report_reads_it_and_says_that_a_demonstration_model_was_scored(run: Path, crispbench: Crispbench) -> None:
    answer = crispbench("report", run)
    assert answer.code == 0 and "demonstration model" in answer.out
    page = (run / "report/report.md").read_text(encoding="utf-8")
    assert "checkpoints/demo fp32 demo" in page


def test_compare_and_check_read_it(run: Path, crispbench: Crispbench) -> None:
    assert comparability.read(run / "demo-fp32").scale == comparability.ScoreScale(ScoreKind.LOG_ODDS)
    assert comparability.read(run / "fake").scale == comparability.ScoreScale(ScoreKind.OWN, "fake")
    again = shutil.copytree(run, run.parent / "again")
    answer = crispbench("compare", run / "demo-fp32", again / "demo-fp32", "--json")
    (compared,) = json.loads(answer.out)["comparisons"]
    assert [field["field"] for field in compared["differing"]] == []
    assert [each["candidate"]["drift"]["maximum"] for each in compared["fidelity"]] == [0.0]
    checked = json.loads(crispbench("check", run / "demo-fp32", again / "demo-fp32", "--json").out)
    assert [row["current"] == row["baseline"] for row in checked["quality"]["rows"]] == [True]
    assert {row["subject"] for row in checked["latency"]["rows"]} == {"single-stream", "server", "offline"}


def test_the_latency_page_reads_it(run: Path) -> None:
    write_page(run, ["fake", "demo-fp32"])
    page = (run / "report/latency/latency.md").read_text(encoding="utf-8")
    assert "| demo-fp32 | single-stream | 120 |" in page and "| fake | server | 120 |" in page
    summary = json.loads((run / "demo-fp32/latency/server.json").read_text(encoding="utf-8"))
    recorded = recording.read(RECORDED / "demo-fp32/latency/server.jsonl")
    assert summary["settings"] == recorded.header.document()["settings"]
    assert recorded.end is not None and summary["end"] == json.loads(json.dumps(recorded.end.document()))


def test_only_a_model_that_says_so_is_a_demonstration() -> None:
    (row, *_) = rows.read(RECORDED)
    model = Description(model="acme/democracy-reranker", precision="bf16", score_kind=ScoreKind.LOG_ODDS)
    named = replace(row, model="acme/democracy-reranker bf16", description=model)
    assert content.DEMO not in content.build([named], "").warnings
    said = replace(named, description=replace(model, demonstration=True))
    assert content.DEMO in content.build([said], "").warnings


@pytest.mark.parametrize("model", ["acme/democracy-reranker", "acme/my-demo", "demo/reranker"])
def test_a_model_of_an_old_run_is_no_demonstration_because_of_a_part_of_its_name(model: str) -> None:
    document = json.loads((RECORDED / "demo-fp32/manifest.json").read_text(encoding="utf-8"))
    document["description"]["model"] = model
    assert not Manifest.read(document).description.demonstration


def test_a_manifest_of_another_format_is_refused() -> None:
    document = json.loads((RECORDED / "fake/manifest.json").read_text(encoding="utf-8"))
    with pytest.raises(ValueError, match="its format is 3, this version reads 1 and 2"):
        Manifest.read({**document, "format": 3})
