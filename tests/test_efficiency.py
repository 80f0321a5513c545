"""The cost of a pair, computed by hand; reasons for unknown figures; random weights measure speed only."""

from pathlib import Path
from typing import Any

import pytest

from harness.config import ConfigError
from harness.latency.efficiency import Efficiency, efficiency
from harness.latency.recording import Recording
from harness.run import verb
from harness.run.verb import RunOptions
from tests import recordings

COUNTS = {
    "tokens": 2000,
    "computed_tokens": 1600,
    "padded_tokens": 400,
    "flops": 80_000_000_000,
    "computed_flops": 60_000_000_000,
    "computed_bytes": 2_000_000_000,
}
CEILING = {"flops_per_s": 16e9, "bytes_per_s": 10e9, "dtype": "bfloat16", "how": "cpu"}
H200 = {**recordings.GPU, "name": "NVIDIA H200", "energy_j": 500.0}


def recorded(end: dict[str, Any] | None = None, gpus: tuple[dict[str, Any], ...] = (H200,), **header: Any) -> Recording:
    whole = {
        "engine": "large",
        "scenario": "offline",
        "description": {"device": "NVIDIA H200"},
        "settings": {"price_per_hour": 3.6},
        "ceiling": CEILING,
        **header,
    }
    finished = {"seconds": 40.0, "counts": COUNTS, "telemetry": {"gpus": list(gpus)}, **(end or {})}
    return Recording(recordings.header(**whole), (), recordings.end(**finished))


def computed(recording: Recording, pairs: int = 100, duration_s: float = 10.0) -> Efficiency:
    return efficiency(recording, pairs, duration_s)


def test_every_figure_equals_the_one_computed_by_hand() -> None:
    assert computed(recorded()) == Efficiency(
        tokens=2000,
        computed_tokens=1600,
        padded_tokens=400,
        flops_per_s=8e9,
        computed_flops_per_s=6e9,
        mfu=0.5,  # 8 of 16 GFLOP/s
        utilisation=0.375,
        intensity=30.0,
        joules_per_1000_pairs=5000.0,  # 500 J for 100 pairs
        dollars_per_1m_pairs=pytest.approx(100.0),  # 0.001 $/s x 10 s for 100 pairs
        unknown={},
    )


def test_a_shared_prefix_may_raise_mfu_over_one_but_not_the_utilisation() -> None:
    figures = computed(recorded(ceiling={**CEILING, "flops_per_s": 7e9}))
    assert figures.mfu == pytest.approx(8 / 7)
    assert figures.utilisation == pytest.approx(6 / 7)


def test_more_than_the_ceiling_is_reported_as_a_ceiling_measured_too_low() -> None:
    figures = computed(recorded(ceiling={**CEILING, "flops_per_s": 5e9}))
    assert (figures.mfu, figures.utilisation) == (None, None)
    assert figures.unknown["mfu"].startswith("the engine reached 120% of the ceiling")


def test_totals_of_a_closed_loop_cover_its_whole_time() -> None:
    figures = computed(recorded(scenario="sweep"))
    assert figures.flops_per_s == 2e9  # in 40 s
    assert figures.joules_per_1000_pairs == pytest.approx(500 / 40 * 10 / 100 * 1000)
    assert figures.dollars_per_1m_pairs == pytest.approx(100.0)


@pytest.mark.parametrize(
    ("change", "figure", "reason"),
    [
        ({"ceiling": None}, "mfu", "the ceiling of its matrix products was not measured"),
        ({"end": {"counts": {}}}, "mfu", "the engine does not count its operations"),
        ({"end": {"counts": {}}}, "tokens", "the engine does not count them"),
        ({"end": {"counts": {"tokens": 5}}}, "padded_tokens", "the engine does not count them"),
        ({"description": {"device": "cpu"}}, "joules_per_1000_pairs", "the energy of a CPU is not measured"),
        (
            {"description": {}},
            "joules_per_1000_pairs",
            "the engine does not state on which device of this machine it ran",
        ),
        (
            {"gpus": ()},
            "joules_per_1000_pairs",
            "the energy can be attributed only if there is one GPU, and 0 were seen",
        ),
        (
            {"gpus": (H200, H200)},
            "joules_per_1000_pairs",
            "the energy can be attributed only if there is one GPU, and 2 were seen",
        ),
        ({"gpus": ({**H200, "energy_j": None},)}, "joules_per_1000_pairs", "the GPU does not report its energy"),
        ({"settings": {}}, "dollars_per_1m_pairs", "the config has no latency.price_per_hour for this engine"),
        ({"settings": {"price_per_hour": None}}, "dollars_per_1m_pairs", "the config has no latency.price_per_hour"),
        ({"settings": {"price_per_hour": {"base": 2}}}, "dollars_per_1m_pairs", "the config has no latency.price"),
    ],
)
def test_an_unknown_figure_is_none_and_has_a_reason(change: dict[str, Any], figure: str, reason: str) -> None:
    figures = computed(recorded(**change))
    assert getattr(figures, figure) is None
    assert figures.unknown[figure].startswith(reason)


def test_a_price_may_be_given_per_engine() -> None:
    figures = computed(recorded(settings={"price_per_hour": {"large": 7.2, "base": 1.0}}))
    assert figures.dollars_per_1m_pairs == pytest.approx(200.0)


def test_a_measurement_without_an_end_or_without_answers_has_no_figures() -> None:
    killed = computed(Recording(HEADER, (), None))
    assert killed.tokens is None and killed.mfu is None and killed.joules_per_1000_pairs is None
    assert set(killed.unknown.values()) == {"the measurement has no end"}
    nothing = computed(recorded(), pairs=0)
    assert nothing.unknown["joules_per_1000_pairs"] == nothing.unknown["dollars_per_1m_pairs"] == "no pair was answered"
    old = recorded(ceiling=None)
    assert computed(old).unknown == {"mfu": "the ceiling of its matrix products was not measured"}


HEADER = recorded().header


CONFIG = """
name: shapes
engines:
  shape: {kind: torch, model: nowhere, weights: random, template: mxbai-v2}
  words: {kind: bm25}
benchmarks: [{source: stdlib, name: stdlib-code, queries: 2}]
candidates: {source: bm25, k: 2}
"""


class Loading(Exception):
    pass


def test_a_run_refuses_random_weights_before_loading_and_accepts_the_other_engines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(*_: object) -> None:
        raise Loading

    def run(*names: str) -> None:
        verb.run(config, RunOptions(engines=names), out=tmp_path / "out", say=print)

    monkeypatch.setattr(verb, "prepare_available", load)
    config = tmp_path / "config.yaml"
    config.write_text(CONFIG)
    expected = r"^engine 'shape' has `weights: random`, .*`crispbench latency`.*`crispbench ab`"
    with pytest.raises(ConfigError, match=expected):
        run()
    assert not (tmp_path / "out").exists()
    with pytest.raises(Loading):
        run("words")
