"""Names of devices in a config, and whether this machine has them. Imports torch only to look for a GPU."""

from typing import Annotated

from pydantic import AfterValidator

from engines.spelling import expected

KINDS = ("auto", "cpu", "cuda", "mps", "xpu", "npu", "hpu")


def check_name(name: str) -> str:
    """The name, such as `cuda` or `cuda:1`. Raises ValueError for one that is not a device of PyTorch."""
    kind, colon, index = name.partition(":")
    if kind not in KINDS:
        meant = "cuda" if kind.lower() == "gpu" else kind
        raise ValueError(f"not a device; {expected(meant, KINDS)}, or cuda:1 for a second GPU")
    if colon and (kind in ("auto", "cpu", "mps") or not (index.isascii() and index.isdecimal())):
        raise ValueError("expected a number behind the colon of a GPU, such as cuda:1")
    return name


DeviceName = Annotated[str, AfterValidator(check_name)]


def require_device(name: str) -> None:
    """Raise EngineUnavailable for a device that this machine does not have."""
    if name not in ("auto", "cpu"):
        from engines.torch.device import pick_device

        pick_device(name)
