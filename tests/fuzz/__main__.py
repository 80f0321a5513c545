"""Long coverage-guided runs of some targets or all.  python -m tests.fuzz [TARGET...] [SECONDS per target]

Needs atheris. A failing input is written to build/fuzz/TARGET/; after the fix, move it to tests/fuzz/seeds/TARGET/.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

SEEDS = Path(__file__).parent / "seeds"
WORK = Path("build/fuzz")


def main(names: list[str], seconds: int) -> int:
    """Fuzz the targets in turn, each in its own process because libFuzzer ends it; the exit code is 1 if one failed."""
    from tests.fuzz.targets import TARGETS

    failed = []
    for name in names or TARGETS:
        corpus = WORK / name / "corpus"
        corpus.mkdir(parents=True, exist_ok=True)
        print(f"== {name}: {seconds} s", flush=True)
        limits = [f"-max_total_time={seconds}", "-timeout=20", "-rss_limit_mb=2048", "-max_len=8192", "-verbosity=0"]
        folders = [f"-artifact_prefix={WORK / name}/", str(corpus), str(SEEDS / name)]
        command = [sys.executable, "-m", "tests.fuzz", "--within", name, *limits, *folders]
        if subprocess.run(command).returncode:
            failed.append(name)
    print(f"failed: {', '.join(failed)}; the inputs are below {WORK}" if failed else "no target failed")
    return int(bool(failed))


def within(name: str, arguments: list[str]) -> None:
    """Run the fuzzer in this process; it never returns."""
    import atheris

    with atheris.instrument_imports(include=["engines", "harness", "yaml"]):
        from tests.fuzz.targets import TARGETS
    with tempfile.TemporaryDirectory() as folder:
        atheris.Setup([sys.argv[0], *arguments], lambda data: TARGETS[name](data, Path(folder)))
        atheris.Fuzz()


if __name__ == "__main__":
    if sys.argv[1:2] == ["--within"]:
        within(sys.argv[2], sys.argv[3:])
    else:
        named = [word for word in sys.argv[1:] if not word.isdecimal()]
        times = [int(word) for word in sys.argv[1:] if word.isdecimal()]
        sys.exit(main(named, times[0] if times else 300))
