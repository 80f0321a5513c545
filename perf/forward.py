"""The packed forward on a CPU: transformers' own forward, `decoder`, and the ceiling of their matrix products.

The model has Qwen2.5-0.5B's shape with fewer layers and random weights; tokenizer, documents and the one query are
real. Arms take turns in one process, and a ratio is the median over rounds with its 95% interval. `--clock thread`
counts the time of one thread alone, for a machine with other work; `--memory` measures peak memory instead of speed.

OMP_NUM_THREADS=2 python perf/forward.py --tokenizer qwen2-tokenizer/tokenizer.json --corpus nfcorpus/corpus.jsonl
"""

import argparse
import ctypes
import json
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
import transformers
from scipy.stats import quantile_test
from tokenizers import Tokenizer
from torch import Tensor, nn

from engines.prompts.encoder import Prompt, PromptEncoder
from engines.prompts.template import load_template
from engines.torch import memory, quantized
from engines.torch.forward import cpu, packed, packs
from engines.torch.prepacked import PrepackedLinear

VOCABULARY = 4096  # token ids are taken modulo this size: the values of an embedding do not change the time
QUERY = "do cholesterol statin drugs cause breast cancer?"
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "int8": torch.float32}
CLOCKS = {"wall": time.perf_counter, "thread": time.thread_time}


class ForwardArm(NamedTuple):
    """One way to score the prompt in one precision."""

    precision: str
    name: str
    run: Callable[[], Tensor]


def build(precision: str, layers: int, *, prepack: bool) -> Any:
    """A random backbone of Qwen2.5-0.5B's shape, converted as the engine converts it."""
    library: Any = transformers
    torch.manual_seed(0)
    config = library.Qwen2Config(
        vocab_size=VOCABULARY,
        hidden_size=896,
        intermediate_size=4864,
        num_hidden_layers=layers,
        num_attention_heads=14,
        num_key_value_heads=2,
        rope_parameters={"rope_type": "default", "rope_theta": 1e6},
    )
    backbone = library.Qwen2Model(config).eval()
    backbone.set_attn_implementation(packed.NAME)
    quantized.convert(backbone, precision, {})
    for parameter in backbone.parameters():
        parameter.data = parameter.data.to(DTYPES[precision])
    if prepack:
        assert packed.fits(backbone)
        cpu.prepack(backbone)
    return backbone


def read_prompt(tokenizer: Path, documents: Sequence[str], max_tokens: int = 8192) -> Prompt:
    encoder = PromptEncoder(load_template("mxbai-v2-seq"), Tokenizer.from_file(str(tokenizer)), max_tokens=max_tokens)
    prompt = encoder.encode(QUERY, documents)
    small = [[token % VOCABULARY for token in ids] for ids in (prompt.prefix, *prompt.tails)]
    return prompt._replace(prefix=small[0], tails=small[1:])


def read_documents(corpus: Path, count: int) -> list[str]:
    with corpus.open() as lines:
        documents = [json.loads(line) for line in islice(lines, count)]
    return [f"{document.get('title', '')} {document['text']}".strip() for document in documents]


@contextmanager
def transformers_forward() -> Iterator[None]:
    """Let `packed.score` treat the model as one that `decoder` cannot compute."""
    before = packed.fits
    packed.fits = lambda backbone: False
    try:
        yield
    finally:
        packed.fits = before


def arms(precision: str, layers: int, prompt: Prompt, budget: int) -> list[ForwardArm]:
    head = torch.linspace(-1, 1, 896)
    threads = torch.get_num_threads()
    theirs, ours = (build(precision, layers, prepack=prepack) for prepack in (False, True))

    def before() -> Tensor:
        with transformers_forward():
            return packed.score(theirs, head, prompt, budget=budget)[0]

    return [
        ForwardArm(precision, "transformers", before),
        ForwardArm(precision, "decoder", lambda: packed.score(ours, head, prompt, budget=budget, threads=threads)[0]),
    ]


# Ceiling


def matrix_flops(prompt: Prompt, layers: int, budget: int) -> float:
    """Operations of the weight products that `decoder` computes, without attention.

    The last layer's q, o and MLP are computed only for one token per tail.
    """
    computed = sum(
        len(prompt.prefix) + sum(len(prompt.tails[i]) for i in pack)
        for pack in packs.spread(
            [len(tail) for tail in prompt.tails], len(prompt.prefix), budget, torch.get_num_threads()
        ).packs
    )
    keys, others = 2 * 2 * 128 * 896, 2 * (2 * 896 * 896 + 3 * 896 * 4864)
    return float(layers * keys * computed + others * ((layers - 1) * computed + len(prompt.tails)))


@torch.inference_mode()
def ceiling(precision: str, clock: Callable[[], float], rounds: int) -> float:
    """FLOP per second over a layer's matrices, each with the kernel and the number of tokens that are quickest here."""
    spent = flops = 0.0
    for outputs, inputs, times in ((896, 896, 2), (128, 896, 2), (4864, 896, 2), (896, 4864, 1)):
        work = 2.0 * outputs * inputs
        rates = [work * tokens / _best_s(run, clock, rounds) for tokens, run in _products(precision, outputs, inputs)]
        spent += times * work / max(rates)
        flops += times * work
    return flops / spent


def _products(precision: str, outputs: int, inputs: int) -> Iterator[tuple[int, Callable[[], object]]]:
    for tokens in (256, 512, 1024):
        layer = nn.Linear(inputs, outputs, bias=False).to(DTYPES[precision])
        rows = torch.randn(tokens, inputs).to(DTYPES[precision])
        if precision != "int8":
            yield tokens, partial(F.linear, rows, layer.weight)
            yield tokens, partial(PrepackedLinear(layer), rows)
            continue
        arithmetic = quantized.ARITHMETIC["int8"]
        codes = quantized.encode_by_row(layer.weight.detach(), arithmetic)
        yield tokens, partial(torch._int_mm, quantized.encode_by_row(rows, arithmetic).codes, codes.codes.T)
        eight_bit = quantized.QuantizedLinear(codes, None, arithmetic)
        eight_bit.prepack()
        if eight_bit.is_prepacked:
            yield tokens, partial(eight_bit.multiply_codes, quantized.encode_around_zero(rows.clone()))


def _best_s(run: Callable[[], object], clock: Callable[[], float], rounds: int) -> float:
    run()
    times = []
    for _ in range(4 * rounds):
        started = clock()
        run()
        times.append(clock() - started)
    return min(times)


# Report


def interval(values: Sequence[float]) -> str:
    ends = quantile_test(values).confidence_interval(0.95)
    return f"{statistics.median(values):.2f} [{ends.low:.2f}, {ends.high:.2f}]"


def compare(options: argparse.Namespace) -> None:
    memory.keep_what_is_freed()  # as the engine does
    prompt = read_prompt(options.tokenizer, read_documents(options.corpus, options.documents))
    clock, count = CLOCKS[options.clock], len(prompt.tails)
    print(f"{count} documents, {len(prompt.prefix)} + {sum(map(len, prompt.tails))} tokens, {options.layers} layers,")
    print(f"budget {options.budget}, {torch.get_num_threads()} threads, {options.rounds} rounds, {options.clock} clock")
    all_arms = [arm for name in options.precisions for arm in arms(name, options.layers, prompt, options.budget)]
    times: dict[tuple[str, str], list[float]] = {(arm.precision, arm.name): [] for arm in all_arms}
    for round_number in range(options.rounds + 1):
        for arm in all_arms[:: 1 if round_number % 2 else -1]:
            started = clock()
            arm.run()
            if round_number:  # round 0 is the warm-up
                times[arm.precision, arm.name].append(clock() - started)
    print("precision  arm           pairs/s  of the ceiling  to transformers    to bf16 decoder")
    for (precision, name), seconds in times.items():
        peak = ceiling(precision, clock, options.rounds)
        share = matrix_flops(prompt, options.layers, options.budget) / statistics.median(seconds) / peak
        to_theirs, to_bf16 = (
            interval(np.divide(times[other], seconds).tolist()) if other in times else "-"
            for other in ((precision, "transformers"), ("bf16", "decoder"))
        )
        speed = count / statistics.median(seconds)
        print(f"{precision:9}  {name:12}  {speed:7.2f}  {share:5.0%} of {peak / 1e9:4.0f}  {to_theirs:17}  {to_bf16}")


def measure_memory(options: argparse.Namespace) -> None:
    """Peak resident memory while scoring a document of 8,192 tokens, above the memory held before."""
    precision = options.precisions[0]
    backbone = build(precision, options.layers, prepack=True)
    text = " ".join(read_documents(options.corpus, 100))
    prompt = read_prompt(options.tokenizer, [text])
    ctypes.CDLL(None).malloc_trim(0)  # holes left by the construction would be reused first and hide memory
    Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM to the memory that is resident now
    before = _status_bytes("VmRSS")
    packed.score(backbone, torch.linspace(-1, 1, 896), prompt, budget=options.budget)
    peak = _status_bytes("VmHWM") - before
    tokens = len(prompt.prefix) + len(prompt.tails[0])
    print(f"{precision}: {tokens} tokens, peak {peak / 1e6:.0f} MB over {before / 1e6:.0f} MB")


def _status_bytes(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokenizer", type=Path, required=True, help="Qwen2's tokenizer.json")
    parser.add_argument("--corpus", type=Path, required=True, help="corpus.jsonl in BEIR's format")
    parser.add_argument("--documents", type=int, default=24)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--budget", type=int, default=2048)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--precisions", nargs="+", choices=DTYPES, default=["fp32", "bf16", "int8"])
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    parser.add_argument("--memory", action="store_true", help="peak memory of the first precision")
    options = parser.parse_args()
    (measure_memory if options.memory else compare)(options)


if __name__ == "__main__":
    main()
