"""NVML, NVIDIA's interface to its GPUs: opening it, and calling its functions, which may be unsupported."""

from typing import Any


def open_nvml() -> tuple[Any, list[Any]]:
    """NVML and its GPUs; None without the package, without a driver, or if the driver does not answer."""
    try:
        import pynvml
    except ImportError:
        return None, []
    try:
        pynvml.nvmlInit()
        return pynvml, [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(pynvml.nvmlDeviceGetCount())]
    except pynvml.NVMLError:
        return None, []


def answer(nvml: Any, function: str, *arguments: Any) -> Any:
    """What a function of NVML returns; None when this GPU or this driver does not support it."""
    try:
        return getattr(nvml, function)(*arguments)
    except nvml.NVMLError:
        return None
