"""NVML, NVIDIA's interface to its GPUs: how it is opened, and an answer or None to each question."""

from typing import Any


def open_nvml() -> tuple[Any, list[Any]]:
    """NVML and its GPUs; None where there is no package, no driver, or one that does not answer."""
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
