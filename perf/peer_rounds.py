"""Loads all contenders, each in a process of its own, and gives them their turns. Knows no table and no option."""

import random
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

from engines.prompts.template import Template, load_template
from perf import peer_environments
from perf.peer_checkpoint import Checkpoints, PeerShape
from perf.peer_figures import Contender, PeerCeiling, PeerTurn
from perf.peer_pairs import Workload, layers
from perf.peer_protocol import PeerFailed, PeerProcess

ROOT = Path(__file__).parents[1]
OURS, IMPLEMENTATION = "crispbench", "mxbai-rerank"
WARMUP_PAIRS = 2


class Peer(NamedTuple):
    module: str
    precisions: tuple[str, ...]
    template: str  # the prompt and how it is tokenised
    requirements: Path | None  # None: it runs in the project's own environment
    is_server: bool = False  # our process starts it in its environment and sends it requests over loopback
    has_all_logits: bool = False  # it computes the vocabulary's logits of every token


PEERS = {
    OURS: Peer("perf.peer_engine", ("fp32", "bf16", "int8"), "mxbai-v2", None),
    IMPLEMENTATION: Peer(
        "perf.peer_mxbai_rerank",
        ("fp32",),
        "mxbai-v2",
        ROOT / "perf/requirements-mxbai-rerank.txt",
        has_all_logits=True,
    ),
    "sentence-transformers": Peer(
        "perf.peer_sentence_transformers",
        ("fp32", "bf16"),
        "mxbai-v2-seq",
        ROOT / "perf/requirements-sentence-transformers.txt",
    ),
    "infinity": Peer(
        "perf.peer_infinity",
        ("fp32", "bf16"),
        "mxbai-v2-seq",
        ROOT / "tests/servers/requirements-infinity.txt",
        is_server=True,
    ),
}


class Setting(NamedTuple):
    """Everything that the contenders have in common."""

    shape: PeerShape
    checkpoints: Checkpoints
    workload: Workload
    threads: int
    logs: Path  # folder


class PeerMeasurement(NamedTuple):
    turns: list[PeerTurn]
    ceilings: list[PeerCeiling]
    about: dict[Contender, dict[str, str]]  # description of every contender that was loaded
    missing: dict[str, str]  # contender -> reason why it has no figures


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def reference(setting: Setting, template: str) -> list[float]:
    """Scores of our engine in float32. Raises PeerFailed."""
    with _open(setting, Contender(OURS, "fp32"), template) as process:
        return process.score(setting.workload.pairs).scores


def measure(setting: Setting, contenders: Sequence[Contender], rounds: int, seed: int) -> PeerMeasurement:
    """Load and warm up all contenders, then give each one turn per round. One that fails is left out from then on."""
    measured = PeerMeasurement([], [], {}, {})
    with ExitStack() as stack:
        loaded: dict[Contender, PeerProcess] = {}
        for contender in contenders:
            say(f"loading {contender}")
            try:
                process = stack.enter_context(_open(setting, contender, PEERS[contender.peer].template))
                process.score(setting.workload.pairs[:WARMUP_PAIRS])
            except PeerFailed as error:
                measured.missing[str(contender)] = str(error)
                continue
            loaded[contender] = process
            measured.about[contender] = {**process.about, "load_s": f"{process.load_s:.1f}"}
        order = random.Random(seed)
        for number in range(rounds):
            _round(setting, loaded, measured, number, order)
    return measured


def _round(
    setting: Setting, loaded: dict[Contender, PeerProcess], measured: PeerMeasurement, number: int, order: random.Random
) -> None:
    """One turn of each contender and of the ceiling of each precision, in random order."""
    turns: list[tuple[Contender, Callable[[int], None]]] = []
    for contender, process in loaded.items():
        turns.append((contender, _turn(setting, contender, process, measured, number)))
    for precision in sorted({contender.precision for contender in loaded}):
        turns.append((Contender("ceiling", precision), _ceiling(setting, precision, measured, number)))
    order.shuffle(turns)
    for position, (contender, take) in enumerate(turns):
        try:
            take(position)
        except PeerFailed as error:
            measured.missing[str(contender)] = f"round {number + 1}: {error}"
            loaded.pop(contender).close()


def _turn(
    setting: Setting, contender: Contender, process: PeerProcess, measured: PeerMeasurement, number: int
) -> Callable[[int], None]:
    def take(position: int) -> None:
        answer = process.score(setting.workload.pairs)
        measured.turns.append(PeerTurn(number, position, contender, *answer))
        say(f"round {number + 1}: {contender}, {answer.seconds:.2f} s")

    return take


def _ceiling(setting: Setting, precision: str, measured: PeerMeasurement, number: int) -> Callable[[int], None]:
    def take(position: int) -> None:
        import torch

        from engines.torch.ceiling import measure
        from engines.torch.checkpoint import DTYPES

        torch.set_num_threads(setting.threads)
        shape, device = layers(setting.shape), torch.device("cpu")
        ceiling = measure(shape, precision=precision, dtype=DTYPES[precision], device=device)
        assert ceiling is not None  # a CPU has a clock
        measured.ceilings.append(PeerCeiling(number, position, precision, ceiling.flops_per_s))

    return take


def _open(setting: Setting, contender: Contender, template: str) -> PeerProcess:
    peer = PEERS[contender.peer]
    own = Path(sys.executable)
    python = own if peer.requirements is None or peer.is_server else peer_environments.interpreter(contender.peer)
    log = setting.logs / f"{contender.peer}-{contender.precision}.log"
    return PeerProcess(python, peer.module, _spec(setting, contender, template), threads=setting.threads, log=log)


def _spec(setting: Setting, contender: Contender, template: str) -> dict[str, Any]:
    known = load_template(template)
    return {
        "causal": str(setting.checkpoints.causal),
        "classifier": str(setting.checkpoints.classifier),
        "precision": contender.precision,
        "template": template,
        "chat_template": chat_template(known),
        "labels": [known.labels.positive, known.labels.negative],
        "environment": str(peer_environments.FOLDER / contender.peer),
    }


def chat_template(template: Template) -> str:
    """A prompt as Jinja that renders messages of the roles `query` and `document`, as sentence-transformers wants.

    Its texts are string literals, which Jinja reads as Python does; Jinja drops the last newline of other text.
    """
    query, document = "\x00query\x00", "\x00document\x00"
    before, rest = template.render(query, document).split(query)
    between, after = rest.split(document)
    content = "(messages | selectattr('role', 'eq', '{}') | map(attribute='content') | first)"
    parts = [repr(before), content.format("query"), repr(between), content.format("document"), repr(after)]
    return "{{ " + " ~ ".join(parts) + " }}"


def pins(peers: Sequence[str]) -> Mapping[str, list[str]]:
    """Exact versions in every environment except our own."""
    files = {peer: PEERS[peer].requirements for peer in peers}
    return {
        peer: [line for line in file.read_text(encoding="utf-8").splitlines() if line and not line.startswith("#")]
        for peer, file in files.items()
        if file is not None
    }
