"""A double of the package tensorrt_llm 1.2 that computes real logits with torch, for tests of the engine.

Names, defaults, refusals and shapes are those of NVIDIA/TensorRT-LLM at 4c05a748, a commit on the way to 1.2:
    tensorrt_llm/llmapi/llm.py          LLM, generate, RequestOutput, _prepare_sampling_params, _check_arguments
    tensorrt_llm/llmapi/llm_args.py     KvCacheConfig, TorchLlmArgs
    tensorrt_llm/sampling_params.py     SamplingParams
    tests/unittest/_torch/sampler/test_return_logits.py     generation_logits is [tokens, vocabulary]
`encode_only`, `encode` and EncoderOutput are those of the 1.4 release candidates (llmapi/llm.py).
The double runs checkpoints in their own dtype and takes FP8 exports as if they were not quantized. It shows neither
the accuracy nor the speed of the real kernels.
"""

import itertools
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from pydantic import BaseModel, ConfigDict

VERSION = "1.2.1"
# Fields of TorchLlmArgs 1.2 that LLM.__init__ does not name; encode_only came with 1.3
ARGUMENTS = {
    "attn_backend",
    "backend",
    "cuda_graph_config",
    "disable_overlap_scheduler",
    "enable_chunked_prefill",
    "gather_generation_logits",
    "kv_cache_config",
    "load_format",
    "max_batch_size",
    "max_input_len",
    "max_num_tokens",
    "max_seq_len",
    "pipeline_parallel_size",
    "sampler_type",
    "scheduler_config",
}


@dataclass(slots=True, kw_only=True)
class SamplingParams:
    end_id: int | None = None
    pad_id: int | None = None
    max_tokens: int = 32
    n: int = 1
    best_of: int | None = None
    use_beam_search: bool = False
    top_k: int | None = None
    top_p: float | None = None
    seed: int | None = None
    temperature: float | None = None
    min_tokens: int | None = None
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    return_context_logits: bool = False
    return_generation_logits: bool = False
    exclude_input_from_output: bool = True
    ignore_eos: bool = False
    detokenize: bool = True
    add_special_tokens: bool = True
    truncate_prompt_tokens: int | None = None
    skip_special_tokens: bool = True


class KvCacheConfig(BaseModel):
    model_config = ConfigDict(extra="forbid")

    enable_block_reuse: bool = True
    max_tokens: int | None = None
    free_gpu_memory_fraction: float | None = 0.9
    enable_partial_reuse: bool = True
    copy_on_partial_reuse: bool = True
    dtype: str = "auto"
    tokens_per_block: int = 32


@dataclass
class CompletionOutput:
    index: int
    generation_logits: Any = None  # float32 [tokens, vocabulary]


@dataclass
class RequestOutput:
    request_id: int
    prompt: str | None
    prompt_token_ids: list[int]
    outputs: list[CompletionOutput]
    context_logits: Any = None
    finished: bool = True


@dataclass
class EncoderOutput:
    logits: Any  # [labels]
    prompt_token_ids: list[int]
    prompt: str | None = None


class LLM:
    """The LLM of 1.2: causal checkpoints only, no `encode`."""

    arguments = ARGUMENTS

    def __init__(  # noqa: PLR0913, the signature of the package
        self,
        model: str | Path,
        tokenizer: Any = None,
        tokenizer_mode: str = "auto",
        skip_tokenizer_init: bool = False,
        trust_remote_code: bool = False,
        tensor_parallel_size: int = 1,
        dtype: str = "auto",
        revision: str | None = None,
        tokenizer_revision: str | None = None,
        **kwargs: Any,
    ) -> None:
        print("[TensorRT-LLM][INFO] Using LLM with PyTorch backend")
        os.write(1, b"[TensorRT-LLM][INFO] the C++ runtime and the workers write to the descriptor\n")
        for key in kwargs:
            if key not in self.arguments:
                raise ValueError(f"LLM got invalid argument: {key}")
        self.settings = kwargs
        self.cache = kwargs.get("kv_cache_config") or KvCacheConfig()
        if self.cache.dtype not in ("fp8", "nvfp4", "auto"):  # _VALID_KV_CACHE_DTYPES
            raise ValueError(f"Attempted to override KV cache dtype with {self.cache.dtype}")
        self.max_num_tokens = kwargs.get("max_num_tokens", 8192)
        self.has_tokenizer = not skip_tokenizer_init
        config = json.loads((Path(model) / "config.json").read_text())
        self.max_seq_len = kwargs.get("max_seq_len") or config["max_position_embeddings"]
        self.ids = itertools.count()
        self.seen: set[tuple[int, ...]] = set()
        self.running = True
        self.requests: list[SamplingParams] = []  # sampling of every request, in order
        self._load(Path(model), config["architectures"][0])

    def _load(self, folder: Path, architecture: str) -> None:
        import transformers

        if architecture != "Qwen2ForCausalLM":
            raise ValueError(f"Unknown architecture for AutoModelForCausalLM: {architecture}")
        self.model: Any = transformers.Qwen2ForCausalLM.from_pretrained(folder, dtype="auto").eval()

    def generate(  # noqa: PLR0913
        self,
        inputs: Any,
        sampling_params: SamplingParams | None = None,
        use_tqdm: bool = True,
        lora_request: Any = None,
        prompt_adapter_request: Any = None,
        kv_cache_retention_config: Any = None,
        disaggregated_params: Any = None,
        scheduling_params: Any = None,
        cache_salt: Any = None,
    ) -> Any:
        if use_tqdm:
            print("Processed requests")  # the package prints a tqdm bar to stderr
        batched = isinstance(inputs, list) and not isinstance(inputs[0], int)
        outputs = [
            self._request(prompt, sampling_params or SamplingParams()) for prompt in (inputs if batched else [inputs])
        ]
        return outputs if batched else outputs[0]

    def _request(self, given: Any, sampling: SamplingParams) -> RequestOutput:
        self.requests.append(sampling)
        if not self.running:
            raise RuntimeError("LLM is shutting down")
        if sampling.end_id is None and not self.has_tokenizer:
            raise ValueError(
                "tokenizer is required to reset end_id if it is None, or you can explicitly specify the end_id"
            )
        ids = token_ids(given)
        if len(ids) > self.max_num_tokens:
            raise ValueError(
                f"The sum of prompt length ({len(ids)}), query length (0) should not exceed "
                f"max_num_tokens ({self.max_num_tokens})"
            )
        if self.max_seq_len - len(ids) <= 0:
            raise ValueError(f"prompt length {len(ids)} is larger than max_seq_len {self.max_seq_len}")
        if sampling.max_tokens != 1:
            raise NotImplementedError("this double generates one token")
        logits = self._logits(ids)[None] if sampling.return_generation_logits else None
        return RequestOutput(next(self.ids), None, ids, [CompletionOutput(0, logits)])

    def _logits(self, ids: list[int]) -> Any:
        """Float32 [vocabulary] after the last token; they differ if blocks of an earlier prompt are reused."""
        import torch

        with torch.inference_mode():
            logits = self.model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1].float()
        block = tuple(ids[: self.cache.tokens_per_block])
        if self.cache.enable_block_reuse and block in self.seen:  # issue 15503: differs by up to 0.16
            logits = logits + 0.16 * torch.sin(torch.arange(len(logits)))
        self.seen.add(block)
        return logits

    def shutdown(self) -> None:
        self.running = False


class LaterLLM(LLM):
    """The LLM of later versions, which registers a classifier; with `encode_only=True` only `encode` works."""

    arguments = ARGUMENTS | {"encode_only"}

    def _load(self, folder: Path, architecture: str) -> None:
        import transformers

        self.encode_only = self.settings.get("encode_only") is True
        if architecture != "Qwen2ForSequenceClassification":
            return super()._load(folder, architecture)
        self.model = transformers.Qwen2ForSequenceClassification.from_pretrained(folder, dtype="auto").eval()
        return None

    def generate(self, *args: Any, **kwargs: Any) -> Any:
        if self.encode_only:
            raise RuntimeError("generate() is not available when encode_only=True.")
        return super().generate(*args, **kwargs)

    def encode(
        self,
        inputs: Any,
        add_special_tokens: bool = True,
        batch_indexed_model_output: bool = True,
        copy_logits_to_host: bool = True,
        return_raw_logits: bool = False,
    ) -> list[EncoderOutput]:
        import torch

        if not self.encode_only:
            raise RuntimeError("encode() requires encode_only=True. Set encode_only=True in the LLM() constructor.")
        if not self.running:
            raise RuntimeError("LLM is shut down or not initialized. Please recreate the LLM object.")
        prompts = [token_ids(prompt) for prompt in inputs]
        if len(prompts) > self.settings["max_batch_size"]:
            raise ValueError(f"Batch size ({len(prompts)}) exceeds max_batch_size. Split inputs into smaller batches.")
        if sum(map(len, prompts)) > self.max_num_tokens:
            raise ValueError(f"Total tokens across the batch exceeds max_num_tokens ({self.max_num_tokens}).")
        if max(map(len, prompts)) > self.max_seq_len:
            raise ValueError(f"Max sequence length exceeds max_seq_len ({self.max_seq_len}).")
        with torch.inference_mode():
            hidden = [self.model.model(torch.tensor([ids])).last_hidden_state[0, -1] for ids in prompts]
            return [EncoderOutput(self.model.score(row), ids) for row, ids in zip(hidden, prompts, strict=True)]


def token_ids(given: Any) -> list[int]:
    """Ids of a prompt. inputs/data.py takes text, ids or a dictionary of either; text needs the skipped tokenizer."""
    if isinstance(given, dict) and "prompt_token_ids" in given:
        given = given["prompt_token_ids"]
    if isinstance(given, Sequence) and not isinstance(given, str) and all(isinstance(token, int) for token in given):
        return list(given)
    raise ValueError("tokenizer is required to tokenize string prompt")


def install(
    patch: pytest.MonkeyPatch,
    llm: type[LLM] = LLM,
    *,
    version: str = VERSION,
    capability: tuple[int, int] = (9, 0),
) -> None:
    """`import tensorrt_llm` finds this double, and torch sees a GPU of that compute capability."""
    import torch

    package, api = ModuleType("tensorrt_llm"), ModuleType("tensorrt_llm.llmapi")
    names = {"LLM": llm, "SamplingParams": SamplingParams, "KvCacheConfig": KvCacheConfig}
    package.__dict__.update({"__version__": version, "__path__": [], "llmapi": api, **names})
    api.__dict__.update(names)
    patch.setitem(sys.modules, "tensorrt_llm", package)
    patch.setitem(sys.modules, "tensorrt_llm.llmapi", api)
    patch.setattr(torch.cuda, "is_available", lambda: True)
    patch.setattr(torch.cuda, "get_device_name", lambda *_: "NVIDIA H100 80GB HBM3")
    patch.setattr(torch.cuda, "get_device_capability", lambda *_: capability)
