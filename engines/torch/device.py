"""The device of a model: from the name in a config, and for a description. Imports torch."""

import torch

from engines.base import Device, EngineUnavailable


def pick_device(name: str) -> torch.device:
    """The device of that name; `auto` takes CUDA, then MPS, then the CPU. Raises EngineUnavailable."""
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        return torch.device(next(kind for kind, here in available.items() if here))
    kind = name.partition(":")[0]
    if not available.get(kind, False):
        here = ", ".join(kind for kind, is_here in available.items() if is_here)
        raise EngineUnavailable(f"device {name!r} is not available here; available are {here}")
    return torch.device(name)


def described(device: torch.device) -> Device:
    """The device for a description; a GPU has its driver's name."""
    return Device.read(torch.cuda.get_device_name(device) if device.type == "cuda" else device.type)
