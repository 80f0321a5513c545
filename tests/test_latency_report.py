"""The page of `crispbench latency`: figures with their intervals, or the reason for a missing figure."""

import io
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from harness.figures.percentiles import objective
from harness.latency.load import Timing
from harness.latency.page import content, plots
from harness.latency.page.content import MeasuredScenario
from harness.latency.recording import Recording
from harness.latency.summary import Summary, summarise
from harness.report import press
from harness.report.content import Section
from tests import recordings
from tests.recordings import MACHINE, QUIET

QUALITY = {"value": 0.35124, "lo": 0.3, "hi": 0.4}


def timings(count: int, *, first_byte: bool = False) -> tuple[Timing, ...]:
    """Service times of 1 to `count` hundredths of a second, with neighbours on opposite sides of the middle.

    Every request is sent 10 ms late. The first byte arrives after half of the service time.
    """
    dealt = [n // 2 + 1 if n % 2 == 0 else (count + 1) // 2 + n // 2 + 1 for n in range(count)]
    return tuple(
        Timing(
            f"q{n}",
            n * 10.0,
            n * 10 + 0.01,
            n * 10 + 0.01 + value / 100,
            10,
            100 * value,
            first_byte_s=n * 10 + 0.01 + value / 200 if first_byte else None,
        )
        for n, value in enumerate(dealt)
    )


def measured(
    engine: str = "large",
    scenario: str = "server",
    count: int = 100,
    quality: Mapping[str, float] | None = None,
    *,
    first_byte: bool = False,
    **header: Any,
) -> MeasuredScenario:
    offline = (Timing("", 0.0, 0.0, 20.0, 10 * count, None),)
    whole = {
        "engine": engine,
        "description": {"model": "mxbai", "precision": "bf16", "device": "cpu"},
        "scenario": scenario,
        "benchmark": "NFCorpus",
        **header,
        "settings": {"queries": count, "rate": 2.0, "workers": 8, **header.get("settings", {})},
    }
    made = offline if scenario == "offline" else timings(count, first_byte=first_byte)
    return MeasuredScenario(summarise(Recording(recordings.header(**whole), made, recordings.end())), quality)


def write(scenarios: Sequence[MeasuredScenario], folder: Path) -> list[Path]:
    drawn = plots.draw([scenario.summary for scenario in scenarios])
    return press.write(content.build(scenarios, "run"), folder, name=content.NAME, plots=drawn)


def table(*scenarios: MeasuredScenario) -> list[list[str]]:
    section, _ = content.build(scenarios, "run").sections
    assert section.table is not None
    return [[cell.text for cell in line] for line in section.table.cells]


def notes(*scenarios: MeasuredScenario) -> list[str]:
    section, _ = content.build(scenarios, "run").sections
    return [note.line for note in section.notes]


def test_a_percentile_is_shown_with_its_interval_and_a_missing_one_with_its_sample_count() -> None:
    assert content.COLUMNS[3:7] == ("p50", "p90", "p95", "p99")
    response, service = table(measured(quality=QUALITY))
    assert response == [
        "large",
        "server",
        "100",
        "510 ms [410 ms, 620 ms]",  # ranks 40 and 61 of 100, plus 10 ms of delay
        "910 ms [850 ms, 970 ms]",  # ranks 84 and 96
        "960 ms [910 ms, 1.01 s]",  # ranks 90 and 100
        "- n_eff 100 < 299",
        "1.01",  # 1000 pairs in 991.01 s
        "510",  # 505,000 tokens
        "0.3512 [0.3000, 0.4000]",
        "VALID",
    ]
    assert service[:4] == ["large", "service", "", "500 ms [400 ms, 610 ms]"]


def test_an_unknown_end_of_an_interval_is_a_dash() -> None:
    (line,) = table(measured(scenario="single-stream", count=70))
    assert line[5].endswith(", -]")  # the upper end of a p95 needs 72 samples, not 70


def test_the_time_to_the_first_byte_starts_at_the_send_and_has_its_own_line() -> None:
    *_, first_byte = table(measured(first_byte=True))
    assert first_byte[:4] == ["large", "first byte", "", "250 ms [200 ms, 305 ms]"]  # half of the service time


def test_offline_shows_its_query_count_and_throughput() -> None:
    (line,) = table(measured(scenario="offline"))
    assert line[2:5] == ["100", "- all in one call", "- all in one call"]
    assert line[7:] == ["50.0", "-", "-", "VALID"]  # 1000 pairs in 20 s; tokens and quality are unknown


def test_every_cause_of_an_invalid_measurement_is_printed() -> None:
    invalid = measured(before={**QUIET, "heat_events": None}, settings={"min_duration_s": 5000.0})
    lines = notes(invalid)
    assert "large, server: INVALID: too short: 991.0 s of at least 5000 s; raise latency.queries" in lines
    assert "large, server: not checked: heat" in lines
    assert table(invalid)[0][-1] == "INVALID"


def test_a_note_on_all_measurements_is_printed_once() -> None:
    lines = notes(measured("a", warmup=[recordings.warmup()] * 3), measured("b", warmup=[recordings.warmup()] * 3))
    assert [line for line in lines if "warm-up" in line] == ["all: 3 warm-up requests, not counted"]


def test_a_note_on_every_scenario_of_an_engine_names_the_engine_alone() -> None:
    warmup = {"warmup": [recordings.warmup()] * 3}
    lines = notes(
        measured("a", **warmup), measured("a", "offline", **warmup), measured("b", **warmup), measured("b", "offline")
    )
    assert "a; b, server: 3 warm-up requests, not counted" in lines


def test_a_part_of_a_time_is_joined_to_its_line() -> None:
    section, _ = content.build([measured("a", "offline"), measured("b", first_byte=True), measured("c")], "").sections
    assert section.table is not None
    parts = [number for number, line in enumerate(section.table.cells) if line[1].value in ("service", "first byte")]
    assert parts == sorted(section.table.joined) == [2, 3, 5]


def test_repeated_queries_failed_warm_up_and_conservative_bounds_are_noted() -> None:
    scenario = measured(distinct_queries=40, warmup=[recordings.warmup(), recordings.warmup("no")])
    text = "\n".join(notes(scenario))
    assert "40 queries were sent 100 times in all, so caches may have answered" in text
    assert "2 warm-up requests, not counted; 1 of them failed" in text
    assert (
        "upper bounds with 99% confidence: p50" in text
        and "p99" not in text.split("with 99% confidence")[1].split("\n")[0]
    )
    assert "poisson arrivals, 2/s, one call at a time" in text
    assert "poisson arrivals, 2/s, at most 8 under way" in "\n".join(notes(measured(concurrent=True)))


def test_an_objective_is_printed_with_its_slow_requests() -> None:
    scenario = measured()
    values = [timing.response_s for timing in scenario.summary.answered]
    text = "\n".join(notes(MeasuredScenario(replace(scenario.summary, objective=objective(values, 0.955)))))
    assert "p99 within 955 ms: inconclusive; 6 of 100 requests took longer" in text


def test_energy_is_per_pair_and_a_missing_gpu_figure_is_a_dash() -> None:
    summary = measured().summary
    end = recordings.end(telemetry={"gpus": [{**recordings.GPU, "temperature_c": None}]})
    lines = notes(MeasuredScenario(replace(summary, end=end)))
    assert "large, server: H100: peak memory 10.0 GiB, power 400 W, energy 8.00 J per pair, at most - °C" in lines


COUNTS = {
    "tokens": 1200,
    "computed_tokens": 1000,
    "padded_tokens": 100,
    "flops": 40_000_000_000_000,
    "computed_flops": 30_000_000_000_000,
    "computed_bytes": 1_000_000_000_000,
}
CEILING = {"flops_per_s": 4e12, "bytes_per_s": 20e9, "dtype": "bfloat16", "how": "cpu, threads 2"}


def counted(engine: str = "large", counts: Mapping[str, int] = COUNTS, **header: Any) -> MeasuredScenario:
    """An offline scenario: 1,000 pairs in 20 s."""
    summary = measured(engine, "offline", **{"ceiling": CEILING, "settings": {"price_per_hour": 3.6}, **header}).summary
    (timing,) = summary.answered
    return MeasuredScenario(summarise(Recording(summary.header, (timing,), recordings.end(counts=counts))))


def efficiency(*scenarios: MeasuredScenario) -> Section:
    _, section = content.build(scenarios, "run").sections
    return section


def test_efficiency_names_useful_computed_and_padded_tokens_mfu_energy_and_cost() -> None:
    section = efficiency(counted())
    (line,) = section.table.cells
    assert dict(zip(section.table.columns, (cell.text for cell in line), strict=True)) == {
        "engine": "large",
        "scenario": "offline",
        "pairs/s": "50.0",
        "tokens/s": "60.0",
        "tokens": "1,200",
        "computed": "1,000",
        "padding": "10.0%",
        "MFU": "50.0% 2.00 TFLOP/s",
        "computed / ceiling": "37.5% 1.50 TFLOP/s",
        "J per 1,000 pairs": "-",
        "$ per 1M pairs": "20.0",  # 0.001 $/s at 50 pairs/s
    }
    assert [source.line for source in section.sources] == [
        "large: ceiling 4.00 TFLOP/s in bfloat16, 20.0 GB/s of memory (cpu, threads 2)"
    ]
    assert section.sentence == "large uses the largest share of its ceiling, 37.5% in offline."


def test_every_reason_for_a_missing_figure_is_printed_once() -> None:
    bare = {"counts": {}, "ceiling": None}
    section = efficiency(counted(), counted("a", **bare), counted("b", **bare))
    assert [note.line for note in section.notes] == [
        "all: J per 1,000 pairs: not known, because the energy of a CPU is not measured",
        "a, offline; b, offline: tokens, computed, padding: not known, because the engine does not count them",
        "a, offline; b, offline: MFU: not known, because the engine does not count its operations",
    ]
    assert [cell.text for cell in section.table.cells[1][4:9]] == ["-"] * 5
    assert (
        efficiency(counted("a", **bare)).sentence == "The share of the ceiling is not known for any valid measurement."
    )


def test_random_weights_are_marked_and_have_no_quality() -> None:
    description = {"model": "configs/shapes/base", "weights": "random, seed 0", "precision": "bf16", "device": "cpu"}
    scenario = measured("shape", quality=QUALITY, description=description)
    assert table(scenario)[0][-2] == "- random weights"
    assert (
        "shape, server: the weights are random (seed 0): the speed is that of the model, but the scores mean nothing"
        in notes(scenario)
    )
    (engine,) = content.build([scenario], "run").engines
    assert engine.model == "configs/shapes/base random, seed 0 bf16"


def test_the_roofline_is_drawn_only_with_a_ceiling_and_counted_operations() -> None:
    def roofline(*scenarios: MeasuredScenario) -> list[bytes]:
        drawn = plots.draw([scenario.summary for scenario in scenarios])
        return [plot.svg for plot in drawn if plot.name == "roofline"]

    assert roofline(counted(ceiling=None)) == roofline(counted(counts={})) == []
    (first,), (same,) = roofline(counted()), roofline(counted())
    (faster,) = roofline(counted(counts={**COUNTS, "computed_flops": 60_000_000_000_000}))
    (higher,) = roofline(counted(ceiling={**CEILING, "flops_per_s": 8e12}))
    (invalid,) = roofline(MeasuredScenario(replace(counted().summary, verdict="INVALID")))
    assert first == same
    assert len({first, faster, higher, invalid}) == 4


def test_measurements_on_different_machines_cause_a_warning() -> None:
    xeon = {**MACHINE, "cpu": "Xeon"}
    (warning,) = content.build([measured("a"), measured("b", machine=xeon)], "run").warnings
    assert warning == "a, server and b, server were measured on different machines: cpu 'EPYC' and 'Xeon'"
    assert content.build([measured("a"), measured("b")], "run").warnings == ()


def test_the_sentence_names_the_fastest_valid_measurement() -> None:
    slow, quick = measured("slow", "single-stream", 120), measured("quick", "single-stream", 80)
    invalid = MeasuredScenario(replace(measured("wrong", "single-stream", 40).summary, verdict="INVALID"))
    section, _ = content.build([slow, quick, invalid], "run").sections
    assert section.sentence == "2 of 3 measurements are valid. quick has the lowest p50 of single-stream, 410 ms."


def test_every_format_of_the_page_holds_the_same_table(tmp_path: Path) -> None:
    scenarios = [measured("<b>|large", quality=QUALITY), measured("base", "single-stream"), measured("base", "offline")]
    files = write(scenarios, tmp_path)
    pictures = [f"{name}.{kind}" for name in ("ecdf", "histogram", "size") for kind in ("svg", "png")]
    assert [file.name for file in files] == ["index.html", "latency.md", "table.tex", *pictures]
    page, text = (file.read_text(encoding="utf-8") for file in files[:2])
    console = Console(file=io.StringIO(), width=250)
    press.show(content.build(scenarios, ""), console)
    assert isinstance(console.file, io.StringIO)
    for shown in (page, text, console.file.getvalue()):
        assert "0.3512" in shown and "410 ms, 620 ms" in shown and "all in one call" in shown
    assert "<b>|" not in page and "&lt;b&gt;\\|large" in text


def test_equal_measurements_give_equal_plots() -> None:
    summaries = [measured().summary, measured("base", "single-stream").summary]
    assert [plot.svg for plot in plots.draw(summaries)] == [plot.svg for plot in plots.draw(summaries)]


def test_measurements_without_times_have_no_plot() -> None:
    assert plots.draw([measured(scenario="offline").summary]) == []
    assert plots.draw([]) == []


@pytest.mark.parametrize("change", ["lo", "verdict"])
def test_the_plot_shows_intervals_and_validity(change: str) -> None:
    def drawn(summary: Summary) -> bytes:
        return plots.draw([summary])[0].svg

    summary = measured(scenario="single-stream").summary
    p50 = summary.response["p50"]
    changed = {
        "lo": replace(summary, response={**summary.response, "p50": p50._replace(lo=0.1)}),
        "verdict": replace(summary, verdict="INVALID"),
    }[change]
    assert drawn(changed) != drawn(summary)


def test_the_page_of_an_empty_folder_states_that_there_is_no_measurement(tmp_path: Path) -> None:
    write([], tmp_path)
    assert "The folder has no measurements yet." in (tmp_path / "index.html").read_text()
