"""Causal rerankers in NVIDIA's TensorRT-LLM: one step of generation, from which the two labels' logits are read.

Written for TensorRT-LLM 1.2 (LLM API, PyTorch backend). A classifier conversion takes the encode-only route of later
versions.
"""

import importlib
import json
import math
import os
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Self

from pydantic import Field, PositiveInt, model_validator

from engines.base import (
    Counts,
    Description,
    Device,
    Engine,
    EngineUnavailable,
    Options,
    PromptOptions,
    ScoreKind,
    ScoringFailed,
    by_query,
    first_line,
    is_installed,
    require,
)
from engines.model_files import (
    DEMONSTRATION,
    check_vocabulary,
    label_rows,
    locate,
    require_model,
    unset_template,
    weights_revision,
)
from engines.model_settings import check_transformer
from engines.prompts.encoder import PromptEncoder
from engines.prompts.template import Labels, load_template
from engines.storage import shadowed

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from torch import Tensor

# https://nvidia.github.io/TensorRT-LLM/installation/linux.html; the source package on PyPI fetches the same wheel
INSTALL = "pip install --extra-index-url https://pypi.nvidia.com 'tensorrt_llm==1.2.*'"
FP8_CAPABILITY = (8, 9)  # Ada and Hopper compute in FP8, Ampere does not: TensorRT-LLM's support matrix
PRECISIONS = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16"}


class TensorRTLLMOptions(Options):
    model: str  # a folder, or a name on the hub
    revision: str | None = None
    template: str = "mxbai-v2-seq"
    instruction: str = ""
    max_tokens: PositiveInt | None = None  # limit of the whole prompt, cut to fit; None: the template's
    max_batch_size: PositiveInt = 64  # prompts per forward
    max_num_tokens: PositiveInt = 16384  # tokens per forward, which also limit one prompt: it is cut to fit
    cache_tokens: bool = True  # tokenise every document once, before scoring; False: with every query
    kv_cache_fraction: float = Field(default=0.5, gt=0, le=1)  # share of the GPU memory that the weights leave free

    @model_validator(mode="after")
    def _template_takes_the_instruction(self) -> Self:
        load_template(self.template, self.config_folder).instruction_line(self.instruction)
        return self

    @property
    def prompt(self) -> PromptOptions:
        return PromptOptions(self.template, self.instruction, exact=True)


class Files(NamedTuple):
    """A checkpoint on disk, before any weight is read."""

    name: str
    revision: str
    folder: Path
    config: Mapping[str, Any]
    weights: str  # how the weights are quantized; "none" for full weights
    tokenizer: "Tokenizer"

    @property
    def architecture(self) -> str:
        return str((self.config.get("architectures") or ["none"])[0])

    @property
    def is_classifier(self) -> bool:
        return self.architecture.endswith("ForSequenceClassification")

    @property
    def demonstration(self) -> bool:
        return self.config.get(DEMONSTRATION) is True

    @property
    def precision(self) -> str:
        dtype = str(self.config.get("dtype") or self.config.get("torch_dtype") or "auto")
        return PRECISIONS.get(dtype, dtype) if self.weights == "none" else self.weights.lower()


class Head(NamedTuple):
    """The logits of one prompt: their number, and which of them belong to the labels."""

    width: int
    positive: int
    negative: int | None  # None for a single label, whose logit is the log-odds

    def log_odds(self, logits: "Tensor | None") -> float:
        """Positive minus negative logit of one prompt, from [1, 1, width], [1, width] or [width].

        Raises ScoringFailed for any other shape. The result may be infinite or NaN.
        """
        # 2 dimensions in 1.2 (its tests/unittest/_torch/sampler/test_return_logits.py), 3 in a report on 1.3
        shape = None if logits is None else tuple(logits.shape)
        if logits is None or shape not in {(1, 1, self.width), (1, self.width), (self.width,)}:
            raise ScoringFailed(f"TensorRT-LLM gave logits of shape {shape}, expected (1, {self.width}) for one prompt")
        values = logits.flatten()
        return float(values[self.positive]) - (0.0 if self.negative is None else float(values[self.negative]))


class TensorRTLLM(Engine):
    options_type: ClassVar[type[Options]] = TensorRTLLMOptions
    options: TensorRTLLMOptions
    prepares = "candidates"

    @classmethod
    def preflight(cls, options: TensorRTLLMOptions) -> Sequence[str]:
        if not is_installed("tensorrt_llm"):
            raise EngineUnavailable(f"tensorrt_llm is not installed: {INSTALL}")
        _gpu()
        folder = options.config_folder
        notes = require_model(options.model, folder, revision=options.revision, extra="torch")
        if "template" not in options.model_fields_set:
            return (*notes, *unset_template(options.model, folder, options.template))
        return (*notes, *shadowed(options.template, folder))

    def __init__(self, options: TensorRTLLMOptions) -> None:
        super().__init__(options)
        template = load_template(options.template, options.config_folder)
        with _stdout_kept_clean():
            package = _package()
        gpu = _gpu()
        files = _open(options.model, options.revision, options.config_folder)
        _check_fits(files, gpu.capability, package)
        positions = files.config.get("max_position_embeddings", math.inf)
        self._encoder = PromptEncoder(
            template,
            files.tokenizer,
            max_tokens=options.max_tokens,
            positions=int(min(options.max_num_tokens, positions - 1)),  # one token is generated
            instruction=options.instruction,
        )
        max_tokens = self._encoder.max_tokens
        self._head = (
            _classifier_head(files, template.labels) if files.is_classifier else _causal_head(files, self._encoder)
        )
        self._encode_only = files.is_classifier
        # The LLM has no tokenizer, so it needs an end id. The id has no effect: only one token is generated.
        self._sampling = package.SamplingParams(
            max_tokens=1,
            temperature=0.0,
            return_generation_logits=True,
            end_id=0,
            ignore_eos=True,
            add_special_tokens=False,
            detokenize=False,
        )
        self._llm = self._load(package, files, max_tokens)
        self._counts = Counts()
        self._description = Description(
            model=files.name,
            revision=files.revision,
            precision=files.precision,
            template=template.name,
            template_sha256=template.sha256,
            max_tokens=max_tokens,
            device=Device("gpu", gpu.name),
            score_kind=ScoreKind.LOG_ODDS,
            demonstration=files.demonstration,
            details={
                "architecture": files.architecture,
                "quantization": files.weights,
                "route": "encode_only" if self._encode_only else "one generated token",
                "kv_cache": "none" if self._encode_only else "16 bit, no block reuse",
                "tokenizer_sha256": self._encoder.tokenizer_sha256,
                "document_tokens": "prepared" if options.cache_tokens else "with every query",
                "max_batch_size": str(options.max_batch_size),
                "max_num_tokens": str(options.max_num_tokens),
                "kv_cache_fraction": str(options.kv_cache_fraction),
                "tensorrt_llm": package.version,
            },
        )

    def prepare(self, documents: Collection[str], *, analysis: str) -> None:
        if self.options.cache_tokens:
            self._encoder.prepare(documents)

    def score(self, pairs: Sequence[tuple[str, str]]) -> list[float]:
        scores: list[float] = []
        for query, documents in by_query(pairs):
            scores += self._score_query(query, documents)
        return scores

    def describe(self) -> Description:
        return self._description

    def counts(self) -> Counts:
        return self._counts

    def close(self) -> None:
        self._llm.shutdown()
        self._encoder.close()

    def _load(self, package: "Package", files: Files, max_tokens: int) -> Any:
        arguments = {
            "model": str(files.folder),
            "skip_tokenizer_init": True,  # prompts are token ids
            "max_batch_size": self.options.max_batch_size,
            "max_num_tokens": self.options.max_num_tokens,
            "max_seq_len": max_tokens + 1,
        }
        if self._encode_only:
            arguments["encode_only"] = True
        else:
            # Reused blocks change the logits by up to 0.16: NVIDIA/TensorRT-LLM issue 15503.
            # "auto" is the checkpoint's own type, which is never 8 bit: _open refuses it.
            arguments["kv_cache_config"] = package.KvCacheConfig(
                enable_block_reuse=False, dtype="auto", free_gpu_memory_fraction=self.options.kv_cache_fraction
            )
        try:
            with _stdout_kept_clean():
                return package.LLM(**arguments)
        except (OSError, RuntimeError, TypeError, ValueError) as error:
            raise EngineUnavailable(
                f"TensorRT-LLM {package.version} cannot load {files.name!r} ({files.architecture}): {first_line(error)}"
            ) from None

    def _score_query(self, query: str, documents: Sequence[str]) -> list[float]:
        prompt = self._encoder.encode(query, documents)
        prompts = [prompt.prefix + tail for tail in prompt.tails]
        try:
            logits = self._encode(prompts) if self._encode_only else self._generate(prompts)
        except (RuntimeError, TypeError, ValueError) as error:
            raise ScoringFailed(f"TensorRT-LLM failed at query {query[:60]!r}: {first_line(error)}") from None
        scores = [self._head.log_odds(row) for row in logits]
        bad = next((score for score in scores if not math.isfinite(score)), None)
        if bad is not None:
            raise ScoringFailed(
                f"the model gave {bad} in {self._description.precision} for query {query[:60]!r}: compare it with "
                "kind torch in bf16"
            )
        self._counts += prompt.counts + Counts(tokens=sum(map(len, prompts)))
        return scores

    def _generate(self, prompts: list[list[int]]) -> "list[Tensor | None]":
        inputs = [{"prompt_token_ids": ids} for ids in prompts]
        outputs = self._llm.generate(inputs, self._sampling, use_tqdm=False)
        _check_order(prompts, outputs)
        return [output.outputs[0].generation_logits for output in outputs]

    def _encode(self, prompts: list[list[int]]) -> "list[Tensor | None]":
        logits: list[Tensor | None] = []
        for batch in _batches(prompts, self.options.max_batch_size, self.options.max_num_tokens):
            outputs = self._llm.encode([{"prompt_token_ids": ids} for ids in batch], add_special_tokens=False)
            _check_order(batch, outputs)
            logits += [output.logits for output in outputs]
        return logits


class Package(NamedTuple):
    """The parts of tensorrt_llm that are used here."""

    version: str
    LLM: Any
    SamplingParams: Any
    KvCacheConfig: Any


class GPU(NamedTuple):
    name: str
    capability: tuple[int, int]


def _package() -> Package:
    try:
        package = importlib.import_module("tensorrt_llm")
        api = importlib.import_module("tensorrt_llm.llmapi")
    except (ImportError, OSError, RuntimeError) as error:  # a missing CUDA library is an OSError or a RuntimeError
        raise EngineUnavailable(f"tensorrt_llm cannot be imported ({first_line(error)}): {INSTALL}") from None
    version = str(package.__version__)
    if tuple(map(int, version.split(".")[:2])) < (1, 2):
        raise EngineUnavailable(f"tensorrt_llm is {version}, expected 1.2 or later: {INSTALL}")
    return Package(version, api.LLM, api.SamplingParams, api.KvCacheConfig)


def _gpu() -> GPU:
    torch = require("torch", extra="torch")
    if not torch.cuda.is_available():
        raise EngineUnavailable("TensorRT-LLM needs an NVIDIA GPU and none is visible: use kind torch on this machine")
    return GPU(torch.cuda.get_device_name(), torch.cuda.get_device_capability())


def _open(model: str, revision: str | None, config_folder: Path | None) -> Files:
    """The checkpoint's folder and the contents of its files. Raises EngineUnavailable."""
    from engines.torch.checkpoint import load_tokenizer

    hub = require("huggingface_hub", extra="torch")
    try:
        folder = Path(locate(model, config_folder))
        if not folder.is_dir():
            folder = Path(hub.snapshot_download(model, revision=revision, allow_patterns=["*.json", "*.safetensors"]))
        check_transformer(str(folder))
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        exported = folder / "hf_quant_config.json"  # ModelOpt's own file; config.json repeats it
        quantized = json.loads(exported.read_text(encoding="utf-8"))["quantization"] if exported.is_file() else {}
        tokenizer = load_tokenizer(str(folder), None)
    except (OSError, ValueError, KeyError) as error:
        raise EngineUnavailable(
            f"model {model!r} cannot be read: {first_line(error)}; expected a folder with a checkpoint, or a hub name"
        ) from None
    settings = {**(config.get("quantization_config") or {}), **quantized}
    cache = settings.get("kv_cache_quant_algo") or settings.get("kv_cache_scheme")
    if cache:  # NVIDIA/TensorRT-LLM issue 4218: an 8-bit cache breaks Qwen2.5
        raise EngineUnavailable(
            f"model {model!r} quantizes its KV cache ({cache}), which breaks Qwen2.5's scores: export it again with "
            "16-bit keys and values (kv_cache_quant_algo null)"
        )
    commit = (
        "" if folder == Path(locate(model, config_folder)) else folder.name
    )  # the hub's cache names its folders by commit
    weights = str(settings.get("quant_algo") or settings.get("quant_method") or "none")
    return Files(model, commit or weights_revision(str(folder)), folder, config, weights, tokenizer)


def _check_fits(files: Files, capability: tuple[int, int], package: Package) -> None:
    """Raise EngineUnavailable for a checkpoint that this version or this GPU cannot run."""
    if files.is_classifier and not hasattr(package.LLM, "encode"):
        raise EngineUnavailable(
            f"model {files.name!r} is a classifier ({files.architecture}), which TensorRT-LLM {package.version} does "
            "not run: name its causal checkpoint, such as mixedbread-ai/mxbai-rerank-large-v2, or use kind torch"
        )
    if not files.is_classifier and not files.architecture.endswith("ForCausalLM"):
        raise EngineUnavailable(f"architecture {files.architecture!r}: expected ...ForCausalLM")
    if "fp8" in files.weights.lower() and capability < FP8_CAPABILITY:
        here, needed = (".".join(map(str, version)) for version in (capability, FP8_CAPABILITY))
        raise EngineUnavailable(
            f"model {files.name!r} is in FP8 and this GPU has compute capability {here}, expected {needed} or later: "
            "use the bf16 checkpoint"
        )


def _causal_head(files: Files, encoder: PromptEncoder) -> Head:
    known = int(files.config["vocab_size"])
    check_vocabulary(files.name, known, files.tokenizer.get_vocab_size())
    return Head(known, *encoder.label_ids())


def _classifier_head(files: Files, labels: Labels) -> Head:
    id2label = files.config.get("id2label") or {}
    return Head(1, 0, None) if len(id2label) == 1 else Head(2, *label_rows(id2label, labels))


def _check_order(prompts: list[list[int]], outputs: Sequence[Any]) -> None:
    """Raise ScoringFailed unless output i belongs to prompt i."""
    if len(outputs) != len(prompts):
        raise ScoringFailed(f"TensorRT-LLM gave {len(outputs)} outputs for {len(prompts)} prompts")
    for index, (ids, output) in enumerate(zip(prompts, outputs, strict=True)):
        if list(output.prompt_token_ids) != ids:
            raise ScoringFailed(f"output {index} of TensorRT-LLM belongs to another prompt: its token ids differ")


def _batches(prompts: list[list[int]], most: int, most_tokens: int) -> Iterator[list[list[int]]]:
    """Consecutive prompts in batches that one forward takes."""
    batch: list[list[int]] = []
    for ids in prompts:
        if batch and (len(batch) == most or sum(map(len, batch)) + len(ids) > most_tokens):
            yield batch
            batch = []
        batch.append(ids)
    yield batch


@contextmanager
def _stdout_kept_clean() -> Iterator[None]:
    """Send the output of the library and its worker processes to stderr: stdout belongs to `--json`."""
    sys.stdout.flush()
    before = os.dup(1)
    os.dup2(2, 1)
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        os.dup2(before, 1)
        os.close(before)
