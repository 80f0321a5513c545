"""Speed of the torch engine on a GPU: true shapes, random weights, 100 documents per query, about 9 minutes.

python -m perf.gpu --texts texts.jsonl --tokenizer FOLDER --out gpu.json

The script needs torch, transformers, numpy and safetensors. It measures the ceiling, every precision and every way to
launch, one after the other in the same process, and prints a table with the targets beside the figures. Arms that no
longer fit into --budget-s are left out and named. docs/gpu.md says what the columns mean.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from engines import EngineError
from engines.base import first_line
from perf import gpu_measures, gpu_texts
from perf.gpu_measures import Ceilings, Figures, GpuArm, Meter, Result, ScoreAgreement
from perf.gpu_table import markdown

ROOT = Path(__file__).parents[1]
DEMO = ROOT / "checkpoints" / "demo"
SIZES = ("large", "base", "tiny")
TINY = {
    "architectures": ["Qwen2ForCausalLM"],
    "model_type": "qwen2",
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 8192,
    "max_position_embeddings": 2048,
}
# name -> options of the engine and the largest number of queries, in the order of measurement, most important first
GPU_ARMS: dict[str, tuple[dict[str, object], int]] = {
    "bf16 compiled": ({"precision": "bf16", "kernels": "compiled"}, 1000),
    "fp8 compiled, fast sums": ({"precision": "fp8", "kernels": "compiled", "fast_accumulation": True}, 1000),
    "fp8 compiled": ({"precision": "fp8", "kernels": "compiled"}, 1000),
    "bf16 packed": ({"precision": "bf16", "kernels": "packed"}, 1000),
    "bf16 compiled, graphs": ({"precision": "bf16", "kernels": "compiled", "cuda_graphs": True}, 1000),
    "bf16 fused": ({"precision": "bf16", "kernels": "fused"}, 1000),
    "fp8-sim packed": ({"precision": "fp8-sim", "kernels": "packed"}, 3),
}
CPU_ARMS: dict[str, tuple[dict[str, object], int]] = {
    "bf16 packed": ({"precision": "bf16", "kernels": "packed"}, 1000),
    "bf16 fused": ({"precision": "bf16", "kernels": "fused"}, 1000),
    "fp8-sim packed": ({"precision": "fp8-sim", "kernels": "packed"}, 3),
    "fp8-sim fused": ({"precision": "fp8-sim", "kernels": "fused"}, 3),
}
REFERENCE = "bf16 packed"  # transformers' own forward
SIMULATED = "fp8-sim packed"


class GpuReport(NamedTuple):
    machine: dict[str, Any]
    settings: dict[str, Any]
    ceilings: dict[str, Any]
    figures: list[Figures]
    agreements: list[ScoreAgreement]
    left_out: dict[str, str]  # "size, arm" -> reason
    descriptions: dict[str, Any]
    seconds: dict[str, list[float]]


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)
    device = pick(options.device)
    plans = (
        gpu_texts.read(options.texts, options.queries, options.documents)
        if options.texts
        else gpu_texts.draw(options.queries, options.documents, options.words)
    )
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["CRISPBENCH_CACHE"] = scratch  # so token ids are as cold as on a fresh machine
        results, ceilings, left_out = run(list(arms(options, device, Path(scratch))), plans, device, options.budget_s)
    report = GpuReport(
        machine=machine(device),
        settings={name: str(value) for name, value in vars(options).items()},
        ceilings={name: ceiling and ceiling._asdict() for name, ceiling in ceilings.measured.items()},
        figures=[result.figures for result in results.values()],
        agreements=agreements(results),
        left_out=left_out,
        descriptions={key: result.description for key, result in results.items()},
        seconds={key: result.seconds for key, result in results.items()},
    )
    if options.out:
        options.out.write_text(json.dumps(as_json(report), indent=1), encoding="utf-8")
    print(markdown(report.machine, report.ceilings, report.figures, report.agreements, left_out))
    return 0 if results and not left_out else 5


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", action="append", choices=SIZES, help="default: large and base")
    parser.add_argument("--arm", action="append", help="only arms whose name contains this text; may be repeated")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--texts", type=Path, help="made by perf.gpu_texts; default: drawn words")
    parser.add_argument("--tokenizer", type=Path, default=DEMO, help="folder with tokenizer.json; default: the demo's")
    parser.add_argument("--queries", type=int, default=30)
    parser.add_argument("--documents", type=int, default=100)
    parser.add_argument("--words", type=int, default=gpu_texts.WORDS, help="words of a drawn document")
    parser.add_argument("--budget-s", type=float, default=540.0, help="seconds after which no further arm begins")
    parser.add_argument("--out", type=Path, help="JSON file for every figure, with the raw times")
    return parser.parse_args(arguments)


def pick(device: str) -> str:
    import torch

    return ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device


def arms(options: argparse.Namespace, device: str, scratch: Path) -> Iterator[GpuArm]:
    """Every arm of the requested sizes, large first."""
    for size in options.size or ("large", "base"):
        model = ROOT / "configs" / "shapes" / size
        if size == "tiny":
            model = scratch / "tiny"
            model.mkdir()
            (model / "config.json").write_text(json.dumps(TINY))
        for name, (own, queries) in (GPU_ARMS if device.startswith("cuda") else CPU_ARMS).items():
            if any(part in name for part in options.arm or [""]):
                common = {"model": str(model), "tokenizer": str(options.tokenizer), "weights": "random"}
                yield GpuArm(size, name, {**common, "device": device, **own}, queries)


def run(
    requested: Sequence[GpuArm], plans: Sequence[gpu_texts.TextPlan], device: str, budget_s: float
) -> tuple[dict[str, Result], Ceilings, dict[str, str]]:
    """Measure the arms that fit into the budget. The reason why an arm failed is kept."""
    results: dict[str, Result] = {}
    left_out: dict[str, str] = {}
    ceilings, meter = Ceilings(), Meter(device)
    started_s, longest_s = time.perf_counter(), 0.0
    for arm in requested:
        key, began_s = f"{arm.size}, {arm.name}", time.perf_counter()
        if began_s - started_s + longest_s > budget_s:
            left_out[key] = "no time left"
            continue
        try:
            results[key] = gpu_measures.measure(arm, plans, ceilings, meter)
        except (EngineError, RuntimeError, OSError) as error:
            left_out[key] = first_line(error)
        took_s = time.perf_counter() - began_s
        longest_s = max(longest_s, took_s)
        print(f"{key}: {left_out.get(key, 'done')}, {took_s:.1f} s", file=sys.stderr, flush=True)
    return results, ceilings, left_out


def agreements(results: dict[str, Result]) -> list[ScoreAgreement]:
    """Scores of every arm against transformers' own forward in bf16; fp8 arms also against the simulation."""
    pairs = []
    for key, result in results.items():
        size, _, name = key.partition(", ")
        simulated = [SIMULATED] if name.startswith("fp8") else []
        for reference in (REFERENCE, *simulated):
            other = results.get(f"{size}, {reference}")
            if other is not None and name != reference:
                pairs.append(gpu_measures.agreement(key, result.scores, f"{size}, {reference}", other.scores))
    return pairs


def machine(device: str) -> dict[str, Any]:
    import platform

    import torch
    import transformers

    facts: dict[str, Any] = {"python": platform.python_version(), "torch": str(torch.__version__)}
    facts |= {"transformers": transformers.__version__, "device": device, "cores": os.cpu_count()}
    if device.startswith("cuda"):
        properties = torch.cuda.get_device_properties(device)
        facts |= {"device": properties.name, "cuda": torch.version.cuda, "gib": properties.total_memory / 2**30}
        facts |= {"multiprocessors": properties.multi_processor_count}
    return facts


def as_json(report: GpuReport) -> dict[str, Any]:
    return report._asdict() | {
        "figures": [figures._asdict() for figures in report.figures],
        "agreements": [agreement._asdict() for agreement in report.agreements],
    }


if __name__ == "__main__":
    raise SystemExit(main())
