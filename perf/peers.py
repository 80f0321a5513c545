"""Speed of our engine beside its peers: one random-weight checkpoint of the true shape, the same real pairs, in turns.

Every peer has its own environment and its own process, and all are loaded at once. In a round each takes one turn, in
random order. docs/speed.md says what the columns mean.

python -m perf.peers --json peers.json
"""

import argparse
import json
import os
import signal
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil

from harness import machine
from perf import peer_checkpoint, peer_environments, peer_figures, peer_pairs, peer_rounds, peer_table
from perf.peer_checkpoint import SHAPES, WEIGHT_BYTES, weights_bytes
from perf.peer_figures import Contender, PeerRow
from perf.peer_pairs import Work
from perf.peer_protocol import PeerFailed
from perf.peer_rounds import OURS, PEERS, PeerMeasurement, Setting, say

PROCESS_BYTES = 400 << 20  # Python, torch and a round's hidden states, without the weights
BATCH = 32  # mxbai-rerank's batch size


def main(arguments: Sequence[str] | None = None) -> int:
    """Return the exit code: 1 for scores that disagree, 2 for a wrong option, 5 for a contender without figures."""
    options = parse(arguments)
    missing = install(options.peers)
    if options.install:
        return complain(missing, [])
    load_average = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="peers-") as scratch:
        setting = prepare(options, Path(scratch))
        contenders = [contender for contender in choose(options) if contender.peer not in missing]
        work = peer_pairs.find_work(setting.workload, setting.shape, setting.checkpoints.causal, PEERS[OURS].template)
        refuse_beyond_memory(setting, contenders, work.longest_tokens)
        try:
            templates = {PEERS[contender.peer].template for contender in contenders}
            references = {name: peer_rounds.reference(setting, name) for name in sorted(templates)}
        except PeerFailed as error:
            say(f"our engine gives no reference scores: {error}")
            return 5
        measured = peer_rounds.measure(setting, contenders, options.rounds, options.seed)
    measured.missing.update(missing)
    rows = peer_table.make_rows(setting, measured, references, work)
    print(peer_table.heading(setting, measured, references, work))
    print(f"{machine.machine().cpu}, {options.threads} threads; load average before: {load_average:.1f}\n")
    print(peer_table.table(rows))
    if options.json:
        document = as_json(options, setting, measured, rows, work)
        document |= {"load_average_before": load_average, "references": references}
        options.json.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    return complain(measured.missing, peer_figures.disagreements(rows))


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=positive, default=5, help="turns of each contender; an interval needs 5")
    parser.add_argument("--documents", type=positive, default=24, help="documents per query")
    parser.add_argument("--queries", type=positive, default=1)
    parser.add_argument("--size", choices=SHAPES, default="base", help="the 0.5B or the 1.5B shape")
    parser.add_argument("--layers", type=positive, default=6, help="layers of the checkpoint; base has 24, large 28")
    parser.add_argument("--peers", nargs="+", choices=PEERS, default=list(PEERS))
    parser.add_argument("--precisions", nargs="+", choices=WEIGHT_BYTES, default=list(WEIGHT_BYTES))
    parser.add_argument("--threads", type=positive, default=len(os.sched_getaffinity(0)), help="threads per process")
    parser.add_argument("--seed", type=int, default=0, help="seed of the weights and of the order of turns")
    parser.add_argument("--folder", type=Path, help="keep the checkpoints here")
    parser.add_argument("--data", type=Path, default=peer_pairs.COLLECTIONS, help="has nfcorpus/ and qwen2-tokenizer/")
    parser.add_argument("--json", type=Path, help="write machine, versions, every turn and every figure to this file")
    parser.add_argument("--install", action="store_true", help="make the peers' environments and exit")
    options = parser.parse_args(arguments)
    if not choose(options):
        parser.error(f"{', '.join(options.peers)} have none of the precisions {', '.join(options.precisions)}")
    if options.json and not options.json.parent.is_dir():
        parser.error(f"--json {options.json}: its folder does not exist; make it first")
    return options


def positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: expected a whole number from 1 on")
    return int(text)


def choose(options: argparse.Namespace) -> list[Contender]:
    return [
        Contender(peer, precision)
        for peer in options.peers
        for precision in PEERS[peer].precisions
        if precision in options.precisions
    ]


def install(peers: Sequence[str]) -> dict[str, str]:
    """Make the environments that are missing. Returns the peers that have none, with the reason."""
    missing = {}
    for peer in peers:
        requirements = PEERS[peer].requirements
        if requirements is None or peer_environments.is_installed(peer, requirements):
            continue
        say(f"installing {peer}")
        try:
            peer_environments.install(peer, requirements)
        except peer_environments.NotInstalled as error:
            missing[peer] = f"not installed: {error}"
    return missing


def prepare(options: argparse.Namespace, scratch: Path) -> Setting:
    shape = SHAPES[options.size]._replace(layers=options.layers)
    tokenizer = peer_pairs.find_tokenizer(options.data)
    say(f"making checkpoints of {shape.parameters / 1e6:.0f}M parameters with the tokenizer in {tokenizer.name}/")
    checkpoints = peer_checkpoint.build(shape, tokenizer, (options.folder or scratch).resolve(), seed=options.seed)
    workload = peer_pairs.find_workload(options.data, options.queries, options.documents)
    return Setting(shape, checkpoints, workload, options.threads, scratch)


def refuse_beyond_memory(setting: Setting, contenders: Sequence[Contender], longest_tokens: int) -> None:
    """Exit if the contenders together do not fit into memory, before the system kills one of them."""
    needed = sum(weights_bytes(setting.shape, contender.precision) + PROCESS_BYTES for contender in contenders)
    if any(PEERS[contender.peer].has_all_logits for contender in contenders):
        batch = min(BATCH, max(map(len, setting.workload.lists)))
        needed += 4 * batch * longest_tokens * setting.shape.vocabulary
    free = psutil.virtual_memory().available
    if needed > free:
        say(
            f"{len(contenders)} contenders need about {needed / 2**30:.1f} GiB at once, {free / 2**30:.1f} GiB are "
            "available: name fewer --documents, --layers, --peers or --precisions"
        )
        raise SystemExit(2)


def as_json(
    options: argparse.Namespace, setting: Setting, measured: PeerMeasurement, rows: Sequence[PeerRow], work: Work
) -> dict[str, Any]:
    """Everything that a reader needs to compute the table again, and the machine that it was measured on."""
    return {
        "machine": machine.record(),
        "options": {name: str(value) if isinstance(value, Path) else value for name, value in vars(options).items()},
        "requirements": peer_rounds.pins(options.peers),
        "shape": setting.shape._asdict(),
        "workload": {"benchmark": setting.workload.name, "pairs": setting.workload.lists},
        "work": work._asdict(),
        "contenders": {str(contender): about for contender, about in measured.about.items()},
        "missing": measured.missing,
        "rows": [peer_figures.as_json(row) for row in rows],
        "turns": [turn._asdict() for turn in measured.turns],
        "ceilings": [ceiling._asdict() for ceiling in measured.ceilings],
    }


def complain(missing: Mapping[str, str], disagreements: Sequence[str]) -> int:
    """Print what went wrong and return the exit code."""
    for name, reason in missing.items():
        say(f"{name} is missing: {reason}")
    for line in disagreements:
        say(line)
    if missing:
        return 5
    return 1 if disagreements else 0


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the peers' processes end first
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
