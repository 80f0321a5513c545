"""The side-by-side speed run (perf/peers.py) without the peers: figures, processes, a run of our engine alone."""

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engines import Pair, load
from engines.prompts.template import load_template
from perf import peer_checkpoint, peer_environments, peer_figures, peer_pairs, peer_rounds, peers
from perf.peer_checkpoint import SHAPES, PeerShape
from perf.peer_figures import Contender, PeerAgreement, PeerCeiling, PeerRow, PeerTurn
from perf.peer_protocol import PeerFailed, PeerProcess
from perf.peer_rounds import PEERS, Peer, Setting
from tests.conftest import write_beir

TINY = PeerShape(hidden=64, heads=4, kv_heads=2, intermediate=96, layers=2, vocabulary=8000)
OURS, OTHER = Contender("crispbench", "fp32"), Contender("other", "fp32")
PAIRS = [Pair("a query", "short"), Pair("a query", "a longer document")]


@pytest.fixture
def brief_ceiling(monkeypatch: pytest.MonkeyPatch) -> None:
    """Times the same matrix products for a shorter period."""
    for name, value in (("SECONDS", 0.01), ("COPY_SECONDS", 0.01), ("COPY_BYTES", 1 << 20)):
        monkeypatch.setattr(f"engines.torch.ceiling.{name}", value)


def turns(seconds: dict[Contender, list[float]]) -> list[PeerTurn]:
    return [
        PeerTurn(number, 0, contender, turn_s, [0.0], None, None)
        for contender, times_s in seconds.items()
        for number, turn_s in enumerate(times_s)
    ]


def row(contender: Contender, largest_difference: float) -> PeerRow:
    return PeerRow(
        contender,
        "mxbai-v2",
        1.0,
        1.0,
        None,
        None,
        None,
        1.0,
        None,
        None,
        None,
        1,
        PeerAgreement(largest_difference, 1.0),
    )


# Figures


def test_pairing_by_round_cancels_a_drift_of_the_machine() -> None:
    ratio = peer_figures.ratio(turns({OURS: [1, 2, 4, 8, 16], OTHER: [3, 6, 12, 24, 48]}), OTHER, OURS)
    assert ratio == pytest.approx((3, 3, 3))


def test_the_interval_of_five_rounds_reaches_from_the_smallest_to_the_largest_ratio() -> None:
    # The limits of 5 rounds are the extreme Walsh averages, that is the extreme rounds: probability 1/32 beyond either.
    ratio = peer_figures.ratio(turns({OURS: [1] * 5, OTHER: [2, 2, 2.5, 3, 2]}), OTHER, OURS)
    assert ratio is not None
    assert (ratio.lo, ratio.hi) == pytest.approx((2, 3))


def test_four_rounds_have_a_ratio_and_no_interval() -> None:
    assert peer_figures.ratio(turns({OURS: [2] * 4, OTHER: [1] * 4}), OTHER, OURS) == (pytest.approx(0.5), None, None)


def test_a_round_with_only_one_of_the_two_does_not_count() -> None:
    ratio = peer_figures.ratio(turns({OURS: [1, 1, 100], OTHER: [2, 2]}), OTHER, OURS)
    assert ratio is not None and ratio.value == pytest.approx(2)


def test_a_contender_has_no_ratio_to_itself_or_to_one_that_did_not_run() -> None:
    assert peer_figures.ratio(turns({OURS: [1.0]}), OURS, OURS) is None
    assert peer_figures.ratio(turns({OTHER: [1.0]}), OTHER, OURS) is None


def test_agreement_is_the_worst_round_and_tau_within_each_query() -> None:
    reference = [1.0, 2.0, 3.0, 9.0, 8.0]  # a query with three documents and one with two
    swapped = [2.0, 1.0, 3.0, 9.0, 8.5]  # one of three pairs is swapped: tau is 1/3, and 1 for the second query
    agreement = peer_figures.agreement(reference, [reference, swapped], [3, 2])
    assert agreement == (1.0, pytest.approx((1 + 1 + 1 / 3 + 1) / 4))


def test_equal_scores_have_no_tau() -> None:
    assert peer_figures.agreement([1.0, 2.0], [[1.0, 1.0]], [2]).tau is None


def test_mfu_is_relative_to_the_ceiling_of_the_same_round_and_precision() -> None:
    ceilings = [PeerCeiling(0, 0, "fp32", 100.0), PeerCeiling(1, 0, "fp32", 50.0), PeerCeiling(0, 0, "bf16", 1.0)]
    # 80 of 100 operations per second in the first round and 20 of 50 in the second: 80% and 40%.
    assert peer_figures.mfu(turns({OURS: [1, 4]}), ceilings, OURS, 80) == pytest.approx(0.6)
    assert peer_figures.mfu(turns({OURS: [1, 4]}), ceilings[2:], OURS, 80) is None


@pytest.mark.parametrize(("difference", "named"), [(1e-3, False), (1.1e-3, True), (float("nan"), True)])
def test_a_float32_peer_with_different_scores_is_named(difference: float, named: bool) -> None:
    lines = peer_figures.disagreements([row(OTHER, difference), row(Contender("other", "bf16"), difference)])
    assert [line.partition(" differs")[0] for line in lines] == ["other fp32"] * named


def test_the_work_of_a_query_equals_its_hand_calculation() -> None:
    # One layer: q and o 4x4, k and v 2x4, gate, up and down 8x4: 16+16+8+8+96 = 144 numbers. A prefix of 2 tokens and
    # tails of 1 and 3 make 6 tokens; keys 1+2, 3, 3+4+5. Three layers: 3 (2x144x6 + 4x4x18) = 6048.
    shape = PeerShape(hidden=4, heads=2, kv_heads=1, intermediate=8, layers=3, vocabulary=10)
    assert peer_pairs.work_of(shape, 2, [1, 3]) == (8, 5, 6, 6048)


# Checkpoints


@pytest.mark.parametrize(("size", "parameters"), [("base", 494_032_768), ("large", 1_543_714_304)])
def test_the_shapes_have_the_published_number_of_parameters(size: str, parameters: int) -> None:
    assert SHAPES[size].parameters == parameters  # Qwen2.5-0.5B and Qwen2.5-1.5B


def test_int8_weights_are_bytes_in_the_layers_and_float32_elsewhere() -> None:
    shape = SHAPES["base"]
    assert peer_checkpoint.weights_bytes(shape, "fp32") == 1_976_131_072
    embeddings = 4 * 151_936 * 896
    small = 24 * 4 * (896 + 2 * 128 + 2 * 896) + 4 * 896  # biases and norms
    assert peer_checkpoint.weights_bytes(shape, "int8") == embeddings + small + 24 * 14_909_440


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> peer_checkpoint.Checkpoints:
    return peer_checkpoint.build(TINY, peer_pairs.DEMO, tmp_path_factory.mktemp("peers"), seed=0)


def test_the_classifier_has_the_scores_of_the_causal_checkpoint(checkpoints: peer_checkpoint.Checkpoints) -> None:
    scores = []
    for folder in checkpoints:
        options = {"model": str(folder), "precision": "fp32", "device": "cpu", "template": "mxbai-v2"}
        with load("torch", options) as engine:
            scores.append(engine.score(PAIRS))
    assert scores[0] == pytest.approx(scores[1], abs=1e-6)
    assert scores[0][0] != scores[0][1]


def test_transformers_loads_exactly_the_weights_of_the_checkpoint(checkpoints: peer_checkpoint.Checkpoints) -> None:
    from transformers import Qwen2ForCausalLM, Qwen2ForSequenceClassification

    for auto, folder in ((Qwen2ForCausalLM, checkpoints.causal), (Qwen2ForSequenceClassification, checkpoints[1])):
        model, report = auto.from_pretrained(folder, output_loading_info=True)
        assert not report["missing_keys"] and not report["unexpected_keys"] and not report["mismatched_keys"]
        assert model.config.rope_parameters["rope_theta"] == 1e6


def test_a_checkpoint_is_reused_and_replaced_for_another_seed(tmp_path: Path) -> None:
    def make(seed: int) -> tuple[bytes, int]:
        weights = peer_checkpoint.build(TINY._replace(layers=1), peer_pairs.DEMO, tmp_path, seed=seed).causal
        return (weights / "model.safetensors").read_bytes(), (weights / "model.safetensors").stat().st_mtime_ns

    first = make(0)
    assert make(0) == first
    assert make(1)[0] != first[0]


# Prompts


def rendered(template: str, query: str, document: str) -> str:
    """Renders a chat template as transformers does."""
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    messages = [{"role": "query", "content": query}, {"role": "document", "content": document}]
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(template).render(messages=messages)


@given(query=st.text(), document=st.text())
def test_the_chat_template_renders_the_same_text_as_ours(query: str, document: str) -> None:
    template = load_template("mxbai-v2-seq")
    assert rendered(peer_rounds.chat_template(template), query, document) == template.render(query, document)


def test_the_chat_template_keeps_the_texts_of_a_prompt_literally() -> None:
    odd = ("{{ 1 }} \"a\" 'b' \\n \\ {% if %}\n", "{query}", "é\n\n", "{document}", "\n ")
    template = load_template("mxbai-v2-seq").model_copy(update={"pieces": odd, "instruction": ""})
    assert rendered(peer_rounds.chat_template(template), "q", "d") == template.render("q", "d")


# Processes


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], str]:
    """Writes a peer whose `score(pairs)` is this code; returns its name."""

    def write(name: str, code: str) -> str:
        (tmp_path / f"{name}.py").write_text(
            "import os, sys\nfrom contextlib import contextmanager\nfrom perf.peer_protocol import Loaded, serve\n"
            f"calls = []\ndef score(pairs):\n    calls.append(pairs)\n    {code}\n"
            "@contextmanager\ndef loaded(spec):\n    yield Loaded(score, {'of': spec['precision']}, os.getpid())\n"
            "serve(loaded)\n"
        )
        return name

    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return write


LENGTHS = "return [len(document) for _, document in pairs]"


def start(module: str, folder: Path) -> PeerProcess:
    return PeerProcess(Path(sys.executable), module, {"precision": "fp32"}, threads=3, log=folder / "log.txt")


def test_a_process_answers_even_if_its_libraries_print(module: Callable[[str, str], str], tmp_path: Path) -> None:
    with start(module("noisy", f"print('loading 100%', flush=True); {LENGTHS}"), tmp_path) as process:
        assert process.about == {"of": "fp32"}
        answer = process.score([Pair("q", "four"), Pair("q", "größer\nals")])
        assert answer.scores == [4.0, 10.0]
        assert answer.seconds > 0
        assert answer.peak_bytes is None or answer.peak_bytes > 2**20
        assert process.score([Pair("q", "again")]).scores == [5.0]
    assert (tmp_path / "log.txt").read_text().count("loading 100%") == 2


def test_a_process_reports_the_processor_time_of_one_turn_without_earlier_ones(
    module: Callable[[str, str], str], tmp_path: Path
) -> None:
    burn = "import time; end = time.process_time() + 0.3 * (len(calls) == 1)"
    code = f"{burn}\n    while time.process_time() < end: pass\n    {LENGTHS}"
    with start(module("busy", code), tmp_path) as process:
        used = [process.score([Pair("q", "d")]).cpu_s for _ in range(2)]
    if None not in used:  # the system reports it
        assert used == [pytest.approx(0.3, abs=0.1), pytest.approx(0, abs=0.1)]


def test_a_process_gets_its_number_of_threads(module: Callable[[str, str], str], tmp_path: Path) -> None:
    with start(module("threads", "return [int(os.environ['OMP_NUM_THREADS'])]"), tmp_path) as process:
        assert process.score([Pair("q", "d")]).scores == [3.0]


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("raise ValueError('no room\\nfor it')", "ValueError: no room for it"),
        ("print('out of memory', file=sys.stderr, flush=True); os._exit(9)", r"ended \(exit 9\): out of memory"),
        ("return [1.0]", "2 pairs gave 1 scores"),
        ("return [float('nan')] * 2", "not all of them finite"),
    ],
    ids=["raises", "dies", "too few", "not finite"],
)
def test_a_process_without_scores_names_the_reason(
    code: str, reason: str, module: Callable[[str, str], str], tmp_path: Path
) -> None:
    with start(module("fails", code), tmp_path) as process, pytest.raises(PeerFailed, match=reason):
        process.score(PAIRS)


def test_closing_a_process_ends_it(module: Callable[[str, str], str], tmp_path: Path) -> None:
    with start(module("pid", "return [os.getpid()]"), tmp_path) as process:
        (pid,) = process.score([Pair("q", "d")]).scores
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid), 0)


@pytest.mark.usefixtures("brief_ceiling")
def test_a_contender_that_fails_is_left_out_and_the_others_take_every_turn(
    module: Callable[[str, str], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    second = "os._exit(1) if len(calls) == 3 else None"  # the first call is the warm-up
    for name, code in (("steady", LENGTHS), ("failing", f"{second}; {LENGTHS}"), ("absent", "os._exit(1)")):
        monkeypatch.setitem(PEERS, name, Peer(module(name, code), ("fp32",), "mxbai-v2", None))
    workload = peer_pairs.Workload("two", [PAIRS])
    folders = peer_checkpoint.Checkpoints(tmp_path, tmp_path)
    setting = Setting(TINY, folders, workload, threads=1, logs=tmp_path)
    measured = peer_rounds.measure(setting, [Contender(name, "fp32") for name in ("steady", "failing", "absent")], 3, 0)
    assert {name: reason.partition(":")[0] for name, reason in measured.missing.items()} == {
        "failing fp32": "round 2",
        "absent fp32": "its process ended (exit 1)",
    }
    assert [turn.round for turn in measured.turns if turn.contender.peer == "steady"] == [0, 1, 2]
    assert [ceiling.round for ceiling in measured.ceilings] == [0, 1, 2]
    positions = [turn.position for turn in measured.turns if turn.round == 0] + [measured.ceilings[0].position]
    assert sorted(positions) == [0, 1, 2]


# Environments


@pytest.mark.parametrize("peer", [name for name, peer in PEERS.items() if peer.requirements])
def test_every_version_of_an_environment_is_pinned_and_torch_is_ours(peer: str) -> None:
    (lines,) = peer_rounds.pins([peer]).values()
    assert all(line.count("==") == 1 and " " not in line for line in lines)
    ours = (Path(__file__).parents[1] / "constraints.txt").read_text().splitlines()
    assert {line for line in lines if line.startswith("torch==")} == {
        line for line in ours if line.startswith("torch==")
    }


def test_an_environment_counts_as_installed_only_with_the_pinned_versions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peer_environments, "FOLDER", tmp_path)
    wanted = tmp_path / "requirements.txt"
    wanted.write_text("one==1\n")
    assert not peer_environments.is_installed("peer", wanted)
    (tmp_path / "peer").mkdir()
    (tmp_path / "peer/installed.txt").write_text("one==1\n")
    assert peer_environments.is_installed("peer", wanted)
    wanted.write_text("one==2\n")
    assert not peer_environments.is_installed("peer", wanted)


# The command


@pytest.mark.usefixtures("brief_ceiling")
def test_our_engine_is_measured_alone_where_a_peer_cannot_be_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(SHAPES, "base", TINY)
    (tmp_path / "nfcorpus").mkdir()
    texts = {"d1": "snack", "d2": "a snack or not a snack", "d3": "no snack for dinner", "d4": "a whole meal"}
    write_beir(tmp_path / "nfcorpus/beir", texts, {"q": "to snack or not"}, {"q": {"d1": 1}})
    wanted = tmp_path / "requirements.txt"
    wanted.write_text("./nothing-here\n")
    monkeypatch.setattr(peer_environments, "FOLDER", tmp_path / "environments")
    monkeypatch.setitem(PEERS, "mxbai-rerank", PEERS["mxbai-rerank"]._replace(requirements=wanted))
    arguments = "--peers crispbench mxbai-rerank --precisions fp32 bf16 --rounds 1 --documents 2 --layers 2 --threads 1"
    out = tmp_path / "peers.json"
    assert peers.main([*arguments.split(), "--data", str(tmp_path), "--json", str(out)]) == 5
    printed = capsys.readouterr()
    assert "mxbai-rerank is missing: not installed: ERROR: Invalid requirement" in printed.err
    assert "NFCorpus: 2 pairs" in printed.out
    document = json.loads(out.read_text())
    in_fp32, in_bf16 = document["rows"]
    assert in_fp32["contender"] == {"peer": "crispbench", "precision": "fp32"}
    assert in_fp32["agreement"] == {"largest_difference": 0.0, "tau": 1.0}
    turns = {turn["contender"][1]: turn for turn in document["turns"]}
    assert turns["fp32"]["scores"] == document["references"]["mxbai-v2"]
    assert in_fp32["to_bf16"]["value"] == pytest.approx(turns["fp32"]["seconds"] / turns["bf16"]["seconds"])
    assert in_bf16["to_bf16"] is None
    assert sorted(pair[1] for pair in document["workload"]["pairs"][0]) == ["a snack or not a snack", "snack"]
    assert document["machine"]["versions"]["torch"]
    assert list(document["missing"]) == ["mxbai-rerank"]
    assert not (tmp_path / "environments/mxbai-rerank/installed.txt").exists()
    assert (tmp_path / "environments/.gitignore").read_text() == "*\n"


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ("--rounds 0", "expected a whole number from 1 on"),
        ("--peers mxbai-rerank --precisions int8", "mxbai-rerank have none of the precisions int8"),
        ("--peers missing", "invalid choice: 'missing'"),
        ("--json nowhere/peers.json", "--json nowhere/peers.json: its folder does not exist"),
    ],
)
def test_a_wrong_option_is_refused_before_anything_is_built(
    arguments: str, problem: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as refused:
        peers.main(arguments.split())
    assert refused.value.code == 2
    assert problem in capsys.readouterr().err


@pytest.mark.parametrize(
    ("peer", "needed"),
    [
        # 494,032,768 float32 numbers and 400 MiB for both of two processes
        ("sentence-transformers", 2 * (1_976_131_072 + 419_430_400)),
        # the same, and the logits of 2 prompts of 100 tokens over 151,936 tokens
        ("mxbai-rerank", 2 * (1_976_131_072 + 419_430_400) + 4 * 2 * 100 * 151_936),
    ],
)
def test_contenders_that_exceed_the_memory_are_refused_before_they_are_loaded(
    peer: str, needed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = peer_checkpoint.Checkpoints(tmp_path, tmp_path)
    setting = Setting(SHAPES["base"], folders, peer_pairs.Workload("two", [PAIRS]), threads=1, logs=tmp_path)
    contenders = [OURS, Contender(peer, "fp32")]
    available = psutil.virtual_memory()
    monkeypatch.setattr(psutil, "virtual_memory", lambda: available._replace(available=needed))
    peers.refuse_beyond_memory(setting, contenders, 100)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: available._replace(available=needed - 1))
    with pytest.raises(SystemExit) as stopped:
        peers.refuse_beyond_memory(setting, contenders, 100)
    assert stopped.value.code == 2
    assert "2 contenders need about 4." in capsys.readouterr().err


def test_disagreeing_scores_exit_1_and_a_missing_contender_exits_5() -> None:
    assert peers.complain({}, []) == 0
    assert peers.complain({}, ["other fp32 differs"]) == 1
    assert peers.complain({"other": "died"}, ["x"]) == 5
