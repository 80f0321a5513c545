"""perf/gpu.py in its smallest setting on a CPU, without the packages that it does not need, and its parts."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from perf import gpu, gpu_measures, gpu_table, gpu_texts
from perf.gpu_measures import Ceilings, Figures, GpuArm, Meter, Result
from perf.gpu_texts import TextPlan
from tests.conftest import write_beir

ROOT = Path(__file__).parents[1]
# Packages that a bare GPU image lacks, and packages that the script does not need.
ABSENT = (
    "scipy sklearn ir_measures bm25s pytrec_eval mteb beir datasets "
    "sentence_transformers modelopt httpx ray matplotlib typer rich jinja2 pynvml"
).split()
BARE = f"""
import sys
for name in {ABSENT}:
    sys.modules[name] = None
from engines.torch import ceiling
ceiling.SECONDS, ceiling.COPY_SECONDS, ceiling.COPY_BYTES = 0.01, 0.01, 1 << 20
from perf import gpu
raise SystemExit(gpu.main(sys.argv[1:]))
"""
ROW = Figures(
    size="large",
    arm="bf16 compiled",
    kernels="compiled",
    queries=30,
    pairs=3000,
    tokens_per_pair=400.0,
    load_s=20.0,
    p50_s=0.2,
    p95_s=0.25,
    small_p50_s=0.05,
    pairs_per_s=600.0,
    tokens_per_s=240_000.0,
    useful_flops_per_s=6e14,
    computed_flops_per_s=5e14,
    mfu=0.65,
    single_stream_mfu=0.6,
    watts=600.0,
    joules_per_pair=1.0,
    peak_gib=9.0,
)


@pytest.fixture(scope="module")
def smallest(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Any]:
    """Output and JSON of the script, run in a process that cannot import the packages of ABSENT."""
    out = tmp_path_factory.mktemp("gpu") / "gpu.json"
    size = ["--size", "tiny", "--device", "cpu", "--queries", "2", "--documents", "5", "--words", "12"]
    ran = subprocess.run(
        [sys.executable, "-c", BARE, *size, "--out", str(out)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr[-2000:]
    return ran.stdout, json.loads(out.read_text())


def test_the_smallest_setting_measures_every_arm_without_the_absent_packages(
    smallest: tuple[str, Any],
) -> None:
    page, report = smallest
    assert [row["arm"] for row in report["figures"]] == list(gpu.CPU_ARMS)
    assert {row["kernels"] for row in report["figures"]} == {"packed", "fused"}
    assert all(row["pairs"] == 10 and row["p50_s"] > 0 and row["mfu"] > 0 for row in report["figures"])
    assert all(row["watts"] is None and row["peak_gib"] is None and row["p95_s"] is None for row in report["figures"])
    assert set(report["ceilings"]) == {"tiny bf16", "tiny fp8-sim"}
    assert "| tiny | bf16 fused |" in page and "not measured" in page


def test_every_kernel_gives_the_scores_of_the_forward_of_transformers(smallest: tuple[str, Any]) -> None:
    agreements = {(row["arm"], row["reference"]): row for row in smallest[1]["agreements"]}
    assert agreements["tiny, bf16 fused", "tiny, bf16 packed"]["tau"] > 0.7
    same = agreements["tiny, fp8-sim fused", "tiny, fp8-sim packed"]
    assert same["largest_difference"] < same["spread"]


def test_tau_is_concordant_minus_discordant_pairs_over_all_pairs() -> None:
    assert gpu_measures.tau([1, 2, 3, 4], [10, 20, 30, 40]) == 1
    assert gpu_measures.tau([1, 2, 3, 4], [4, 3, 2, 1]) == -1
    assert gpu_measures.tau([1, 2, 3, 4], [1, 3, 2, 4]) == pytest.approx(4 / 6)  # 5 of 6 pairs agree
    assert gpu_measures.tau([1, 1, 2], [1, 2, 3]) == pytest.approx(2 / 3)  # a tie is neither concordant nor discordant


def test_an_agreement_covers_the_queries_of_both_arms() -> None:
    agreement = gpu_measures.agreement("a", [[1.0, 2.0], [0.0, 5.0]], "b", [[1.5, 2.0]])
    assert (agreement.queries, agreement.largest_difference, agreement.spread, agreement.tau) == (1, 0.5, 0.25, 1.0)


def test_an_arm_beyond_the_budget_is_named_and_a_failing_arm_does_not_stop_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = iter(range(0, 1000, 60))
    monkeypatch.setattr("perf.gpu.time.perf_counter", lambda: next(clock))

    def measure(arm: GpuArm, *_: object) -> Result:
        if arm.name == "broken":
            raise RuntimeError("no such kernel\nsecond line")
        return Result(ROW, [], {}, [])

    monkeypatch.setattr(gpu_measures, "measure", measure)
    arms = [GpuArm("large", name, {}, 1) for name in ("first", "broken", "second", "third")]
    results, _, left_out = gpu.run(arms, [], "cpu", 430)  # the fourth arm would begin at 420 s and take 60 s
    assert list(results) == ["large, first", "large, second"]
    assert left_out == {"large, broken": "no such kernel", "large, third": "no time left"}


@pytest.mark.parametrize(
    ("changes", "verdicts"),
    [
        ({}, ["met", "not measured", "met", "not measured"]),
        ({"mfu": 0.59, "p50_s": 0.25}, ["missed", "not measured", "missed", "not measured"]),
        ({"mfu": None}, ["not measured", "not measured", "met", "not measured"]),
        ({"size": "base"}, ["not measured"] * 4),
    ],
)
def test_targets_are_compared_with_the_large_model(changes: dict[str, Any], verdicts: list[str]) -> None:
    page = gpu_table.markdown({}, {}, [ROW._replace(**changes)], [], {})
    rows = [line for line in page.splitlines() if line.startswith("| large") and "=" in line]
    assert [row.split("|")[-2].strip() for row in rows] == verdicts


def test_fp8_is_compared_with_the_fastest_bf16() -> None:
    slow = ROW._replace(arm="bf16 packed", pairs_per_s=300.0)
    fp8 = ROW._replace(arm="fp8 compiled", pairs_per_s=750.0, p50_s=0.17)
    page = gpu_table.markdown({}, {}, [slow, ROW, fp8], [], {})
    assert "| large fp8 / bf16, pairs/s | >= 1.3 | 1.250 | missed |" in page
    assert "| large fp8, p50 of 100 documents, s | <= 0.18 | 0.170 | met |" in page


def test_drawn_texts_are_reproducible() -> None:
    first = gpu_texts.draw(2, 3, words=9)
    assert first == gpu_texts.draw(2, 3, words=9)
    assert [len(plan.documents) for plan in first] == [3, 3]
    assert all(6 <= len(document.split()) <= 12 for plan in first for document in plan.documents)


def test_texts_are_read_in_order_and_a_bad_line_is_named(tmp_path: Path) -> None:
    path = tmp_path / "texts.jsonl"
    rows = [{"query": f"q{i}", "documents": ["a", "b", "c"]} for i in range(3)]
    path.write_text("\n".join(map(json.dumps, rows)))
    assert gpu_texts.read(path, 2, 2) == [TextPlan("q0", ["a", "b"]), TextPlan("q1", ["a", "b"])]
    path.write_text('{"query": "q0"}')
    with pytest.raises(ValueError, match=r"texts\.jsonl:1: KeyError\('documents'\): expected an object with query"):
        gpu_texts.read(path, 2, 2)


def test_texts_of_a_beir_folder_are_judged_queries_with_documents_from_bm25(tmp_path: Path) -> None:
    documents = {"d1": "red cats sleep", "d2": "red dogs run", "d3": "the sea is blue"}
    queries = {"q1": "blue", "q2": "red cats", "q3": "red"}
    folder = write_beir(tmp_path / "beir", documents, queries, {"q1": {"d3": 1}, "q2": {"d1": 1}})
    out = tmp_path / "texts.jsonl"
    gpu_texts.main([str(folder), str(out), "--documents", "2"])  # q1 has one document, q3 no judgement
    assert gpu_texts.read(out, 10, 10) == [TextPlan("red cats", ["red cats sleep", "red dogs run"])]


def test_a_cpu_has_neither_energy_nor_peak_memory() -> None:
    meter = Meter("cpu")
    assert (meter.joules(), meter.peak_gib()) == (None, None)


def test_a_ceiling_is_measured_once_per_size_and_precision() -> None:
    class Engine:
        measured = 0

        def ceiling(self) -> None:
            self.measured += 1

    engine: Any = Engine()
    ceilings = Ceilings()
    for size, precision in (("large", "bf16"), ("large", "bf16"), ("large", "fp8"), ("base", "bf16")):
        ceilings.of(GpuArm(size, "arm", {"precision": precision}, 1), engine)
    assert engine.measured == 3
