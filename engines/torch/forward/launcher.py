"""Which forward computes a backbone on this device, chosen and tried out once, when an engine is made.

`packed` computes any model anywhere. On a GPU `fused` has fewer kernels, compiled if this machine can, and waits for
nothing. It is taken if it gives the numbers that `packed` gives for a small prompt.
"""

from collections.abc import Callable, Mapping
from functools import partial
from itertools import accumulate, pairwise
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from engines.base import EngineUnavailable
from engines.torch.forward import cpu, gpu, packed, stream
from engines.torch.forward.gpu import Fused
from engines.torch.forward.graphs import Graphs
from engines.torch.forward.stream import Sheet
from engines.torch.quantized import QuantizedLinear

Kernels = Literal["auto", "compiled", "fused", "packed"]
# Of the small prompt's hidden states. In 16 bit the order of roundings differs; in 8 bit some codes then round the
# other way. A model that multiplies, turns or adds otherwise differs by 0.3 and more.
TOLERANCE = {"exact": 1e-3, "16 bit": 0.1, "8 bit": 0.2}
PREFIX, TAILS = 11, (9, 17, 3, 30)  # tokens of the small prompt


class ForwardSettings(NamedTuple):
    kernels: Kernels = "auto"
    cuda_graphs: bool = False
    fast_accumulation: bool = False


class Launcher(NamedTuple):
    # of a prompt, with another `budget` on request: scores [tails] on the device, and the tokens computed for them
    score: Callable[..., tuple[Tensor, int]]
    ends_only: bool  # whether the last layer computes only what scores are read from
    how: Mapping[str, str]  # for an engine's description


def choose(backbone: nn.Module, head: Tensor, budget: int, settings: ForwardSettings) -> Launcher:
    """The quickest forward that this device and this backbone have, or the one that is asked for.

    Raises EngineUnavailable for CUDA graphs where there can be none.
    """
    parameter = next(backbone.parameters())
    wanted = settings.kernels
    has_kernel = packed.has_kernel(parameter.device, parameter.dtype)
    if wanted == "auto":
        wanted = "compiled" if has_kernel else "packed"
    if settings.cuda_graphs and (wanted == "packed" or not parameter.is_cuda):
        raise EngineUnavailable(
            f"cuda_graphs on device {parameter.device.type} with kernels {wanted}: expected a CUDA device, and kernels "
            "compiled or fused; else leave it out"
        )
    if wanted == "packed":
        return _packed(backbone, head, budget, {})
    made = gpu.fuse(backbone, fast_accumulation=settings.fast_accumulation)
    if made is None or not agrees(backbone, made):
        return _packed(backbone, head, budget, {"kernels": "packed: fused does not compute this architecture"})
    how = {"attention": "varlen_attn" if has_kernel else "sdpa per segment", "kernels": "fused"}
    if wanted == "compiled":
        made, how["kernels"] = compile_or_not(made)
    forward: stream.Forward = partial(_forward, made, parameter.device)
    if settings.cuda_graphs:
        forward = Graphs(partial(gpu.forward, made), parameter.device)
        how["cuda_graphs"] = "by bucket"
    if settings.fast_accumulation:
        how["accumulation"] = "fast"
    return Launcher(partial(stream.score, forward, head, budget=budget), True, how)


def _packed(backbone: nn.Module, head: Tensor, budget: int, how: Mapping[str, str]) -> Launcher:
    cpu.prepack(backbone)
    how = {"attention": packed.attention_name(backbone), **how}
    fits = packed.fits(backbone)
    threads = torch.get_num_threads() if fits else 1
    return Launcher(partial(packed.score, backbone, head, budget=budget, threads=threads), fits, how)


def _forward(made: Fused, device: torch.device, sheet: Sheet) -> Tensor:
    return gpu.forward(made, stream.place(sheet, device))


def _small(backbone: nn.Module) -> tuple[list[int], list[list[int]]]:
    """A prefix and tails that any vocabulary has."""
    embedding = backbone.get_submodule("embed_tokens")
    assert isinstance(embedding, nn.Embedding)
    known = embedding.num_embeddings
    tokens = [token % known for token in range(1, PREFIX + sum(TAILS) + 1)]
    ends = [PREFIX, *(PREFIX + stop for stop in accumulate(TAILS))]
    return tokens[:PREFIX], [tokens[start:end] for start, end in pairwise(ends)]


@torch.inference_mode()
def agrees(backbone: nn.Module, made: Fused) -> bool:
    """Whether both forwards give the same hidden states for a small prompt. Parts alone do not tell."""
    parameter = next(backbone.parameters())
    prefix, tails = _small(backbone)
    kernel = packed.has_kernel(parameter.device, parameter.dtype)
    layout = packed.lay_out(prefix, tails, parameter.device, kernel=kernel)
    expected = packed._forward_generic(backbone, layout).float()
    found = _forward(made, parameter.device, stream.lay_out(prefix, tails)).float()
    eight_bit = any(isinstance(module, QuantizedLinear) for module in backbone.modules())
    kind = "8 bit" if eight_bit else "exact" if parameter.dtype == torch.float32 else "16 bit"
    return bool((found - expected).norm() <= TOLERANCE[kind] * expected.norm())


@torch.inference_mode()
def compile_or_not(made: Fused) -> tuple[Fused, str]:
    """The compiled forward, and what it is called; as it came, with the reason, where this machine cannot compile."""
    fast = gpu.compiled(made)
    device = next(made.backbone.parameters()).device
    prefix, tails = _small(made.backbone)
    try:
        for some in (tails, tails[:1]):  # of one row a compiler makes a function of its own
            sheet = stream.lay_out(prefix, some)
            _forward(gpu.varying(fast), device, sheet)
        with torch.compiler.set_stance("fail_on_recompile"):  # or every pack could take seconds
            for some in ([*tails, *tails[:2]], tails[1:2]):
                _forward(fast, device, stream.lay_out(prefix[1:], some))
    except Exception as error:  # compilers raise what they like: no gcc, no Triton, a full disk
        return made, f"fused, not compiled: {(str(error).strip() or type(error).__name__).splitlines()[0]}"
    return fast, "compiled"
