"""Access to NVML, NVIDIA's management library. A GPU or a driver may not support some of its functions."""

from typing import Any


def open_nvml() -> tuple[Any, list[Any]]:
    """NVML and the handles of its GPUs; None and no handles if the package or a working driver is missing."""
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
    """The result of a function of NVML; None if this GPU or this driver does not support it."""
    try:
        return getattr(nvml, function)(*arguments)
    except nvml.NVMLError:
        return None
