"""The forward that computes a backbone on this device, chosen and checked once, when an engine is made.

`packed` computes any model on any device. `fused`, for GPUs, launches fewer kernels, compiled where this machine can
compile, and never waits for the device. It is used only if it reproduces the numbers of `packed` for a small prompt.
"""

from collections.abc import Callable, Mapping
from functools import partial
from itertools import accumulate, pairwise
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from engines.base import EngineUnavailable, first_line
from engines.torch.forward import cpu, gpu, packed, stream
from engines.torch.forward.gpu import Fused
from engines.torch.forward.graphs import Graphs
from engines.torch.forward.stream import Sheet
from engines.torch.quantized import QuantizedLinear

Kernels = Literal["auto", "compiled", "fused", "packed"]
# Largest relative difference of the small prompt's hidden states. In 16 bit the order of roundings differs; in 8 bit
# some codes then round the other way. A model with another product, rotation or sum differs by 0.3 and more.
TOLERANCE = {"exact": 1e-3, "16 bit": 0.1, "8 bit": 0.2}
PREFIX, TAILS = 11, (9, 17, 3, 30)  # tokens of the small prompt


class ForwardSettings(NamedTuple):
    kernels: Kernels = "auto"
    cuda_graphs: bool = False
    fast_accumulation: bool = False


class Launcher(NamedTuple):
    score: Callable[..., tuple[Tensor, int]]  # (prompt, budget=tokens) -> scores [tails] on the device, computed tokens
    ends_only: bool  # whether the last layer computes only the tokens from which scores are read
    how: Mapping[str, str]  # for an engine's description


def choose(backbone: nn.Module, head: Tensor, settings: ForwardSettings) -> Launcher:
    """The quickest forward for this device and this backbone, or the one that `settings` name.

    `head` is float32 [hidden]. Raises EngineUnavailable for CUDA graphs on a device or with kernels that have none.
    """
    parameter = next(backbone.parameters())
    kernels = settings.kernels
    has_kernel = packed.has_kernel(parameter.device, parameter.dtype)
    if kernels == "auto":
        kernels = "compiled" if has_kernel else "packed"
    if settings.cuda_graphs and (kernels == "packed" or not parameter.is_cuda):
        raise EngineUnavailable(
            f"cuda_graphs on device {parameter.device.type} with kernels {kernels}: expected a CUDA device, and "
            "kernels compiled or fused; otherwise leave cuda_graphs out"
        )
    if kernels == "packed":
        return _packed(backbone, head, {})
    made = gpu.fuse(backbone, fast_accumulation=settings.fast_accumulation)
    if made is None or not agrees(backbone, made):
        return _packed(backbone, head, {"kernels": "packed: fused does not compute this architecture"})
    how = {"attention": "varlen_attn" if has_kernel else "sdpa per segment", "kernels": "fused"}
    if kernels == "compiled":
        made, how["kernels"] = compile_or_not(made)
    forward: stream.Forward = partial(_forward, made, parameter.device)
    if settings.cuda_graphs:
        forward = Graphs(partial(gpu.forward, made), parameter.device)
        how["cuda_graphs"] = "by bucket"
    if settings.fast_accumulation:
        how["accumulation"] = "fast"
    return Launcher(partial(stream.score, forward, head), True, how)


def _packed(backbone: nn.Module, head: Tensor, how: Mapping[str, str]) -> Launcher:
    cpu.prepack(backbone)
    how = {"attention": packed.attention_name(backbone), **how}
    fits = packed.fits(backbone)
    threads = torch.get_num_threads() if fits else 1
    return Launcher(partial(packed.score, backbone, head, threads=threads), fits, how)


def _forward(made: Fused, device: torch.device, sheet: Sheet) -> Tensor:
    return gpu.forward(made, stream.place(sheet, device))


def _small(backbone: nn.Module) -> tuple[list[int], list[list[int]]]:
    """The prefix and tails of the small prompt, in ids that any vocabulary has."""
    embedding = backbone.get_submodule("embed_tokens")
    assert isinstance(embedding, nn.Embedding)
    vocabulary = embedding.num_embeddings
    tokens = [token % vocabulary for token in range(1, PREFIX + sum(TAILS) + 1)]
    ends = [PREFIX, *(PREFIX + stop for stop in accumulate(TAILS))]
    return tokens[:PREFIX], [tokens[start:end] for start, end in pairwise(ends)]


@torch.inference_mode()
def agrees(backbone: nn.Module, made: Fused) -> bool:
    """Whether both forwards give the same hidden states for a small prompt: equal modules may hide other formulas."""
    parameter = next(backbone.parameters())
    prefix, tails = _small(backbone)
    kernel = packed.has_kernel(parameter.device, parameter.dtype)
    layout = packed.lay_out(prefix, tails, parameter.device, kernel=kernel)
    expected = packed._forward_generic(backbone, layout).float()
    fused = _forward(made, parameter.device, stream.lay_out(prefix, tails)).float()
    eight_bit = any(isinstance(module, QuantizedLinear) for module in backbone.modules())
    kind = "8 bit" if eight_bit else "exact" if parameter.dtype == torch.float32 else "16 bit"
    return bool((fused - expected).norm() <= TOLERANCE[kind] * expected.norm())


@torch.inference_mode()
def compile_or_not(made: Fused) -> tuple[Fused, str]:
    """The compiled forward and its name; where this machine cannot compile, the given one and the reason."""
    fast = gpu.compiled(made)
    device = next(made.backbone.parameters()).device
    prefix, tails = _small(made.backbone)
    try:
        for some in (tails, tails[:1]):  # the compiler makes a separate function for one row
            sheet = stream.lay_out(prefix, some)
            _forward(gpu.varying(fast), device, sheet)
        with torch.compiler.set_stance("fail_on_recompile"):  # a recompilation could cost seconds in every pack
            for some in ([*tails, *tails[:2]], tails[1:2]):
                _forward(fast, device, stream.lay_out(prefix[1:], some))
    except Exception as error:  # compilers raise errors of any type: no gcc, no Triton, a full disk
        return made, f"fused, not compiled: {first_line(error)}"
    return fast, "compiled"
