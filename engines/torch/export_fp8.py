"""FP8 post-training quantisation by NVIDIA's ModelOpt: from a full checkpoint and calibration pairs to an FP8 one.

Every weight matrix and every matrix of activations gets one E4M3 scale; scales of activations come from the largest
magnitude in the calibration prompts. The score head (`score`, `lm_head`), embeddings and the KV cache stay unchanged.
It knows nothing of benchmarks: the caller says where the pairs come from.
"""

import copy
import hashlib
import io
import json
import math
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import PositiveInt

from engines.base import BadOptions, Counts, Options, ScoringFailed, by_query, require, require_installed
from engines.model_files import locate, require_model
from engines.prompts.encoder import PromptEncoder
from engines.prompts.template import load_template

REPORT = "quantization_report.json"
# ModelOpt leaves lm_head out, but it would quantise the two rows of a classifier that make the score.
HEAD = {"quantizer_name": "*score*", "enable": False}
# Copied byte for byte: transformers 5 changes a tokenizer of type qwen2 when it saves one.
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
)
PACKAGES = ("nvidia-modelopt", "torch", "transformers", "tokenizers", "safetensors")


class ExportOptions(Options):
    model: str  # a folder, or a name on the hub
    revision: str | None = None
    template: str = "mxbai-v2-seq"
    instruction: str = ""
    max_tokens: PositiveInt | None = None  # limit of the whole prompt, cut to fit; None: the template's


class Calibration(NamedTuple):
    """Pairs whose prompts give typical activations, and their source."""

    pairs: Sequence[tuple[str, str]]
    source: Mapping[str, Any]  # copied into the report


def export_fp8(options: ExportOptions, calibration: Calibration, out: Path, *, on_prompt: Callable[[int], None]) -> Any:
    """Write the FP8 checkpoint with its report to the new folder `out`; returns the report.

    `out` appears once it is complete. `on_prompt(1)` is called after each prompt. Raises BadOptions if `out` exists or
    there are no pairs, EngineUnavailable, and ScoringFailed for a prompt without ids.
    """
    check_out(out)
    if not calibration.pairs:
        raise BadOptions("no pairs to calibrate with: choose a benchmark whose first stage finds candidates")
    template = load_template(options.template)
    with _quiet():
        quantization, export = (require(f"modelopt.torch.{part}", extra="fp8") for part in ("quantization", "export"))
    import torch

    from engines.torch import checkpoint

    model = locate(options.model)
    opened = checkpoint.open_model(model, options.revision)
    if opened.scales:
        raise BadOptions(f"model {options.model!r} is already in FP8: expected a full checkpoint")
    encoder = PromptEncoder(
        template,
        opened.tokenizer,
        max_tokens=options.max_tokens,
        positions=getattr(opened.model.config, "max_position_embeddings", None),
        instruction=options.instruction,
    )
    prompts = _encode(encoder, calibration.pairs)
    with _partial(out) as folder:
        with _quiet():
            _quantize(quantization, opened.model, prompts.ids, on_prompt)
            export.export_hf_checkpoint(
                opened.model, dtype=torch.float32, export_dir=folder
            )  # weights are divided by their scales in it
        find = partial(checkpoint.find_file, model, options.revision)
        for name in TOKENIZER_FILES:
            if source := find(name):
                shutil.copyfile(source, folder / name)
        _complete_config(find("config.json"), folder / "config.json")
        report = {
            "format": 1,
            "model": options.model,
            "revision": opened.revision,
            "architecture": opened.architecture,
            **_examine(folder),
            "calibration": {
                **calibration.source,
                "template": template.name,
                "template_sha256": template.sha256,
                "instruction": options.instruction,
                **prompts.document(),
            },
            "versions": {name: version(name) for name in PACKAGES},
        }
        (folder / REPORT).write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return report


def preflight(options: ExportOptions) -> None:
    """Look for the package, the template and the checkpoint in seconds. Raises BadOptions or EngineUnavailable."""
    load_template(options.template).instruction_line(options.instruction)
    require_model(options.model, None, revision=options.revision, extra="torch")
    require_installed("modelopt", extra="fp8")


def check_out(out: Path) -> None:
    """Raise BadOptions if `out` exists: no checkpoint is overwritten."""
    if out.exists():
        raise BadOptions(f"{out} exists: name a folder that does not, or remove this one")


class Prompts(NamedTuple):
    ids: list[list[int]]
    counts: Counts

    def document(self) -> dict[str, Any]:
        """The report's entries; `ids_sha256` is the hash of the ids as JSON, one prompt a line."""
        lines = "".join(json.dumps(ids) + "\n" for ids in self.ids)
        return {
            "prompts": len(self.ids),
            "tokens": sum(map(len, self.ids)),
            "longest_tokens": max(map(len, self.ids)),
            "truncated": self.counts.truncated or 0,
            "truncated_queries": self.counts.truncated_queries or 0,
            "ids_sha256": hashlib.sha256(lines.encode()).hexdigest(),
        }


def _encode(encoder: PromptEncoder, pairs: Sequence[tuple[str, str]]) -> Prompts:
    ids: list[list[int]] = []
    counts = Counts()
    for query, documents in by_query(pairs):
        prompt = encoder.encode(query, documents)
        ids += [prompt.prefix + tail for tail in prompt.tails]
        counts += prompt.counts
    return Prompts(ids, counts)


def _quantize(modelopt: Any, model: Any, prompts: Sequence[Sequence[int]], on_prompt: Callable[[int], None]) -> None:
    """Calibrate in float32: in fp16 some Qwen2 layers overflow, and an infinite scale makes every code zero."""
    import torch

    kept = [(parameter, parameter.dtype) for parameter in model.parameters()]
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model.float().to(device).eval()

    @torch.no_grad()
    def read_prompts(quantized: Any) -> None:
        for ids in prompts:
            quantized.base_model(input_ids=torch.tensor([ids], device=device), use_cache=False)
            on_prompt(1)

    config = copy.deepcopy(modelopt.FP8_DEFAULT_CFG)
    config["quant_cfg"].append(HEAD)
    modelopt.quantize(model, config, read_prompts)
    for parameter, dtype in kept:
        parameter.data = parameter.data.to(dtype)


def _complete_config(source: Path | None, exported: Path) -> None:
    """Add the source config's other entries to the export, and the entries that transformers 4 and TensorRT-LLM read.

    transformers 5 writes only `rope_parameters` and `dtype`. Without `rope_theta` version 4 assumes 10,000, and every
    score is wrong.
    """
    config = json.loads(exported.read_text(encoding="utf-8"))
    for name, value in (json.loads(source.read_text(encoding="utf-8")) if source else {}).items():
        config.setdefault(name, value)
    rope = config.get("rope_parameters") or {}
    if "rope_theta" in rope:
        config.setdefault("rope_theta", rope["rope_theta"])
    if "dtype" in config:
        config.setdefault("torch_dtype", config["dtype"])
    exported.write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")


def _examine(folder: Path) -> dict[str, Any]:
    """Contents of the written checkpoint, for the report. Raises ScoringFailed for a scale that decodes nothing."""
    from safetensors import safe_open

    quantization = json.loads((folder / "hf_quant_config.json").read_text(encoding="utf-8"))["quantization"]
    scales: dict[str, float] = {}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(str(path), framework="pt") as file:
            names = [name for name in file.keys() if name.endswith("_scale")]  # not a mapping: it has only this method
            scales |= {name: float(file.get_tensor(name)) for name in names}
    broken = next((name for name, scale in scales.items() if not (math.isfinite(scale) and scale > 0)), None)
    if broken is not None:
        raise ScoringFailed(f"{broken} = {scales[broken]}: expected a finite number over 0; are its weights all zero?")
    document: dict[str, Any] = {
        "quantization": quantization["quant_algo"],
        "kv_cache": quantization["kv_cache_quant_algo"],
        "excluded_modules": quantization["exclude_modules"],
    }
    for kind in ("weight_scale", "input_scale"):
        values = [scale for name, scale in scales.items() if name.endswith(kind)]
        document[kind] = {"count": len(values), "min": min(values), "max": max(values)}
    return document


@contextmanager
def _partial(out: Path) -> Iterator[Path]:
    """A folder beside `out` that is renamed to `out` at the end, or removed after an error."""
    out.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    try:
        yield folder
        check_out(out)
        folder.chmod(0o755)  # mkdtemp and safetensors write for their owner only
        for path in folder.iterdir():
            path.chmod(0o644)
        folder.rename(out)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence ModelOpt, which prints its progress to standard output and warns of every newer transformers."""
    with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        yield
