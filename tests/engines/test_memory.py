"""Memory of tensors that safetensors maps from a file: it is given back early, and no value is lost."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer

from engines.torch.memory import give_back
from perf.peer_checkpoint import PeerShape, build, weights_bytes

ROOT = Path(__file__).parents[2]
MB = 1 << 20
SHAPE = PeerShape(
    hidden=512, heads=8, kv_heads=2, intermediate=2048, layers=24, vocabulary=400
)  # 91 million parameters
# Prints two numbers in MiB: the peak of memory that loading added, and the memory that closing gave back.
LOADING = """
import re, sys
from pathlib import Path
from engines import load
from engines.torch import checkpoint
import engines.torch.forward.launcher, transformers.models.qwen2.modeling_qwen2

def status_mib(name):
    return int(re.search(name + r":\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) // 1024

before = status_mib("VmHWM")
model, template, precision = sys.argv[1:]
engine = load("torch", {"model": model, "template": template, "precision": precision, "device": "cpu"})
taken, held = status_mib("VmHWM") - before, status_mib("VmRSS")
engine.close()
print(taken, held - status_mib("VmRSS"))
"""

linux = pytest.mark.skipif(sys.platform != "linux", reason="/proc shows mapped memory on Linux only")


def file_pages() -> int:
    """Bytes of mapped files that are resident in this process."""
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("RssFile:"))


@linux
def test_pages_of_a_file_leave_memory_and_are_read_again_on_access(tmp_path: Path) -> None:
    numbers = torch.arange(16 * MB, dtype=torch.int32)
    save_file({"numbers": numbers}, tmp_path / "weights.safetensors")
    mapped = load_file(tmp_path / "weights.safetensors")["numbers"]
    total = mapped.sum()
    read = file_pages()
    give_back(mapped)
    assert file_pages() < read - 60 * MB
    assert mapped.sum() == total == numbers.sum()


def test_tensors_that_share_a_page_or_are_not_mapped_keep_their_values(tmp_path: Path) -> None:
    written = {f"{n}": torch.full((n * 700 + 1,), float(n)) for n in range(9)}  # 4 bytes to 22 KB, pages of 4 KB
    save_file(written, tmp_path / "weights.safetensors")
    mapped = load_file(tmp_path / "weights.safetensors")
    elsewhere = torch.ones(3, MB)
    changed = mapped["8"]
    changed[0] = -1  # the changed page is private to this process
    for tensor in (mapped["5"], mapped["2"], mapped["0"], elsewhere, elsewhere[1], elsewhere.T, torch.empty(0)):
        give_back(tensor)
    give_back(torch.empty(5, device="meta"))
    assert elsewhere.sum() == 3 * MB
    assert changed[0] == -1
    for name, tensor in written.items():
        assert torch.equal(mapped[name][1:], tensor[1:])


@pytest.fixture(scope="module")
def model(tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    tokenizer.save(str(folder / "tokenizer.json"))
    return build(SHAPE, folder, folder, seed=0).causal


@linux
@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8"])
def test_loading_holds_one_copy_of_the_weights_and_closing_frees_it(
    model: Path, tiny_template: str, precision: str
) -> None:
    child = subprocess.run(
        [sys.executable, "-c", LOADING, str(model), tiny_template, precision],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert child.returncode == 0, child.stderr
    weights = weights_bytes(SHAPE, precision)
    taken, given_back = (int(figure) * MB for figure in child.stdout.split())
    assert weights < taken < weights + 150 * MB
    assert given_back > 0.9 * weights
