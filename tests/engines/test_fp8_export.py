"""ModelOpt's FP8 checkpoints, written and read again, against the weights that they were made from."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from engines import BadOptions, Engine, EngineUnavailable, Pair, ScoringFailed, load
from engines.torch import checkpoint
from engines.torch.export_fp8 import HEAD, REPORT, Calibration, ExportOptions, export_fp8
from engines.torch.quantized import QuantizedLinear

pytest.importorskip("modelopt", reason="nvidia-modelopt is not installed")

PAIRS = [Pair(query, "a cat sat on the mat " * n) for query in ("cats", "where is the document?", "") for n in range(4)]
Export = Callable[..., Path]


@pytest.fixture(scope="module")
def export(tmp_path_factory: pytest.TempPathFactory, tiny_template: str) -> Export:
    def make(model: str, on_prompt: Callable[[int], None] = lambda count: None, **options: Any) -> Path:
        out: Path = options.pop("out", None) or tmp_path_factory.mktemp("exports") / "fp8"
        export_options = ExportOptions(model=model, template=tiny_template, **options)
        export_fp8(export_options, Calibration(PAIRS, {"benchmark": "cats"}), out, on_prompt=on_prompt)
        return out

    return make


@pytest.fixture(scope="module")
def exported(classifier: str, export: Export) -> Path:
    return export(classifier)


@pytest.fixture
def copied(exported: Path, tmp_path: Path) -> Path:
    """An export that a test may spoil."""
    return Path(shutil.copytree(exported, tmp_path / "copied"))


@pytest.fixture
def open_engine(tiny_template: str) -> Callable[..., Engine]:
    def make(model: Path | str, precision: str = "fp8-sim") -> Engine:
        return load("torch", {"model": str(model), "template": tiny_template, "precision": precision, "device": "cpu"})

    return make


def weights(folder: Path | str) -> dict[str, Tensor]:
    return dict(load_file(Path(folder) / "model.safetensors"))


def layers(tensors: dict[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """Name and values of every quantised layer."""
    for name in tensors:
        if name.endswith(".weight_scale"):
            layer = name.removesuffix(".weight_scale")
            yield layer, tensors[f"{layer}.weight"].float() * tensors[name]


@pytest.mark.parametrize("fixture", ["causal", "classifier", "one_label"])
def test_every_weight_is_within_half_a_step_of_e4m3_and_the_rest_is_untouched(
    fixture: str, export: Export, request: pytest.FixtureRequest
) -> None:
    folder = request.getfixturevalue(fixture)
    before, after = weights(folder), weights(export(folder))
    quantised = dict(layers(after))
    assert len(quantised) == 2 * 7  # q, k, v, o, gate, up, down of two layers
    for name, values in quantised.items():
        exact, scale = before[f"{name}.weight"].float(), after[f"{name}.weight_scale"]
        assert after[f"{name}.weight"].dtype == torch.float8_e4m3fn
        # half of the last of 3 mantissa bits, or half of 2**-9 below 2**-6; the scale maps the largest weight to 448
        bound = torch.maximum(exact.abs() * 2**-4, scale * 2**-10) * 1.0001
        assert ((values - exact).abs() <= bound).all()
        assert float(scale) == pytest.approx(float(exact.abs().max()) / 448, rel=1e-6)
    untouched = before.keys() - {f"{name}.weight" for name in quantised}
    assert {"model.embed_tokens.weight", "model.norm.weight"} <= untouched
    assert ("score.weight" in untouched) == (fixture != "causal")
    for name in untouched:
        assert after[name].dtype == before[name].dtype
        assert torch.equal(after[name], before[name])
    assert after.keys() - before.keys() == {
        f"{name}.{kind}_scale" for name in quantised for kind in ("weight", "input")
    }


def test_the_head_of_a_half_precision_checkpoint_keeps_its_bytes(make_checkpoint: Any, export: Export) -> None:
    def halve(tensors: dict[str, Any]) -> None:
        tensors.update({name: tensor.half() for name, tensor in tensors.items()})

    folder = make_checkpoint(["0", "1"], change=halve, dtype="float16")
    out = export(folder)
    before, after = weights(folder), weights(out)
    assert after["score.weight"].dtype == torch.float16
    assert torch.equal(after["score.weight"], before["score.weight"])
    assert torch.equal(after["model.embed_tokens.weight"], before["model.embed_tokens.weight"])
    config = json.loads((out / "config.json").read_text())
    assert (config["dtype"], config["torch_dtype"]) == ("float16", "float16")


def test_input_scales_are_the_largest_activations_of_the_calibration(
    classifier: str, export: Export, tiny_template: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # every token goes through every layer
    monkeypatch.setattr("engines.torch.forward.packed.fits", lambda backbone: False)
    largest: dict[str, float] = {}
    engine: Any = load("torch", {"model": classifier, "template": tiny_template, "precision": "fp32", "device": "cpu"})
    for name, module in engine._backbone.named_modules():
        if isinstance(module, torch.nn.Linear):

            def watch(module: Any, inputs: Any, name: str = name) -> None:
                largest[name] = max(largest.get(name, 0), float(inputs[0].abs().max()))

            module.register_forward_pre_hook(watch)
    engine.score(PAIRS)
    after = weights(export(classifier))
    assert len(largest) == 14
    for name, value in largest.items():
        assert float(after[f"model.{name}.input_scale"]) == pytest.approx(value / 448, rel=1e-4)


def test_the_simulation_agrees_with_that_of_modelopt(classifier: str, exported: Path, tiny_template: str) -> None:
    import copy
    import warnings

    tokens = torch.randn(1, 50, 32, generator=torch.Generator().manual_seed(1))
    opened = checkpoint.open_model(classifier, None)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import modelopt.torch.quantization as modelopt

        config = copy.deepcopy(modelopt.FP8_DEFAULT_CFG)
        config["quant_cfg"].append(HEAD)
        modelopt.quantize(opened.model, config, lambda model: model.base_model(input_ids=torch.arange(300)[None]))
    engine: Any = load(
        "torch", {"model": str(exported), "template": tiny_template, "precision": "fp8-sim", "device": "cpu"}
    )
    compared = 0
    for name, ours in engine._backbone.named_modules():
        if isinstance(ours, QuantizedLinear):
            theirs = opened.model.base_model.get_submodule(name)
            assert ours.input_scale is not None
            theirs.input_quantizer.amax = ours.input_scale * 448
            rows = tokens if theirs.in_features == 32 else tokens.repeat(1, 1, 2)[..., : theirs.in_features]
            bias = ours.bias
            ours.bias = None if bias is None else torch.nn.Parameter(theirs.bias.detach())  # modelopt's, in float32
            with torch.no_grad():
                output, expected = ours(rows), theirs(rows)
            # x / scale and x * (448 / amax) round differently: a few codes differ by one step
            assert float((output - expected).norm() / expected.norm()) < 0.003
            assert float((output - expected).abs().median()) < 1e-5 * float(expected.abs().max())
            compared += 1
    assert compared == 14


def test_the_configs_have_what_other_loaders_need(exported: Path, classifier: str) -> None:
    config = json.loads((exported / "config.json").read_text())
    source = json.loads(Path(classifier, "config.json").read_text())
    assert config["quantization_config"]["quant_algo"] == "FP8"
    assert "kv_cache_scheme" not in config["quantization_config"]
    assert config["architectures"] == source["architectures"]
    assert config["id2label"] == {"0": "0", "1": "1"}
    assert config["rope_theta"] == source["rope_parameters"]["rope_theta"]  # what transformers 4 reads
    quantization = json.loads((exported / "hf_quant_config.json").read_text())["quantization"]
    assert (quantization["quant_algo"], quantization["kv_cache_quant_algo"]) == ("FP8", None)
    assert "score" in quantization["exclude_modules"]
    assert (exported / "tokenizer.json").read_bytes() == Path(classifier, "tokenizer.json").read_bytes()


def test_the_report_records_the_model_the_scales_and_the_calibration(exported: Path, classifier: str) -> None:
    report = json.loads((exported / REPORT).read_text())
    after = weights(exported)
    inputs = [float(value) for name, value in after.items() if name.endswith("input_scale")]
    assert report["model"] == classifier
    assert report["revision"].startswith("sha256:")
    assert report["quantization"] == "FP8"
    assert report["excluded_modules"] == ["model.embed_tokens", "score"]
    assert report["input_scale"] == {"count": 14, "min": min(inputs), "max": max(inputs)}
    assert report["calibration"]["benchmark"] == "cats"
    assert report["calibration"]["prompts"] == len(PAIRS)
    assert len(report["calibration"]["ids_sha256"]) == 64
    assert report["versions"]["nvidia-modelopt"]


def test_the_hash_of_the_calibration_changes_with_its_prompts(exported: Path, classifier: str, export: Export) -> None:
    def hash_of(folder: Path) -> str:
        return str(json.loads((folder / REPORT).read_text())["calibration"]["ids_sha256"])

    assert hash_of(export(classifier)) == hash_of(exported)
    assert hash_of(export(classifier, max_tokens=20)) != hash_of(exported)


# The engine on an export


def test_the_engine_uses_the_scales_of_the_checkpoint(
    exported: Path, classifier: str, open_engine: Callable[..., Engine]
) -> None:
    with open_engine(exported) as engine, open_engine(classifier) as dynamic, open_engine(classifier, "fp32") as exact:
        description = engine.describe().document()
        assert description["linear_layers"] == "14 QuantizedLinear float8_e4m3fn"
        assert description["activation_scales"] == "by matrix, of the checkpoint"
        assert dynamic.describe().details["activation_scales"] == "by token, as they come"
        exact_scores, scores, dynamic_scores = (
            torch.tensor(opened.score(PAIRS)) for opened in (exact, engine, dynamic)
        )
    assert float(torch.corrcoef(torch.stack([exact_scores, scores]))[0, 1]) > 0.98
    assert not torch.equal(scores, dynamic_scores)
    assert not torch.equal(scores, exact_scores)


@pytest.mark.parametrize("precision", ["auto", "fp32", "bf16", "int8"])
def test_an_export_is_refused_in_another_precision(
    exported: Path, precision: str, open_engine: Callable[..., Engine]
) -> None:
    with pytest.raises(
        EngineUnavailable, match=r"holds FP8 weights, which .* does not compute: use precision fp8 or fp8-sim"
    ):
        open_engine(exported, precision)


def test_an_export_without_one_of_its_scales_is_refused(copied: Path, open_engine: Callable[..., Engine]) -> None:
    tensors = weights(copied)
    del tensors["model.layers.1.mlp.up_proj.input_scale"]
    save_file(tensors, copied / "model.safetensors", {"format": "pt"})
    with pytest.raises(EngineUnavailable, match="14 scales of weights and 13 of inputs: expected one finite number"):
        open_engine(copied)


@pytest.mark.parametrize("scale", [torch.tensor(0.0), torch.tensor(torch.inf), torch.tensor(torch.nan), torch.ones(32)])
def test_a_scale_that_is_not_one_finite_number_over_0_is_refused(
    copied: Path, scale: Tensor, open_engine: Callable[..., Engine]
) -> None:
    tensors = weights(copied)
    tensors["model.layers.1.mlp.up_proj.input_scale"] = scale
    save_file(tensors, copied / "model.safetensors", {"format": "pt"})
    with pytest.raises(EngineUnavailable, match="14 scales of weights and 14 of inputs: expected one finite number"):
        open_engine(copied)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"quant_algo": "NVFP4"}, "quantised by 'modelopt' to 'NVFP4': expected full weights, or FP8 of modelopt"),
        ({"quant_method": "gptq", "quant_algo": None}, "quantised by 'gptq' to None: expected"),
        ({"kv_cache_scheme": {"num_bits": 8}}, "to 'FP8' with an 8-bit KV cache: expected"),
    ],
)
def test_other_quantised_checkpoints_are_refused(
    copied: Path, changed: dict[str, Any], message: str, open_engine: Callable[..., Engine]
) -> None:
    config = json.loads((copied / "config.json").read_text())
    config["quantization_config"].update(changed)
    (copied / "config.json").write_text(json.dumps(config))
    with pytest.raises(EngineUnavailable, match=message) as raised:
        open_engine(copied)
    assert "\n" not in str(raised.value)


# Failures leave no incomplete checkpoint


def test_an_existing_folder_is_not_overwritten(classifier: str, export: Export, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    with pytest.raises(BadOptions, match="mine exists: name a folder that does not"):
        export(classifier, out=tmp_path / "mine")
    assert list((tmp_path / "mine").iterdir()) == []


@pytest.mark.parametrize("error", [KeyboardInterrupt, ScoringFailed])
def test_an_interrupted_export_leaves_no_folder(
    classifier: str, export: Export, tmp_path: Path, error: type[BaseException]
) -> None:
    def stop(count: int) -> None:
        raise error

    with pytest.raises(error):
        export(classifier, stop, out=tmp_path / "fp8")
    assert list(tmp_path.iterdir()) == []


def test_a_layer_of_zeros_has_no_scale_and_is_named(make_checkpoint: Any, export: Export, tmp_path: Path) -> None:
    def clear(tensors: dict[str, Any]) -> None:
        tensors["model.layers.1.mlp.up_proj.weight"] = torch.zeros_like(tensors["model.layers.1.mlp.up_proj.weight"])

    with pytest.raises(ScoringFailed, match=r"up_proj.weight_scale = 0.0: expected a finite number over 0"):
        export(make_checkpoint(["0", "1"], change=clear), out=tmp_path / "fp8")
    assert list(tmp_path.iterdir()) == []


def test_an_export_is_not_quantised_again(exported: Path, export: Export) -> None:
    with pytest.raises(BadOptions, match="is already in FP8: expected a full checkpoint"):
        export(str(exported))


def test_a_calibration_without_pairs_is_refused(classifier: str, tmp_path: Path) -> None:
    with pytest.raises(BadOptions, match="no pairs to calibrate with"):
        export_fp8(ExportOptions(model=classifier), Calibration([], {}), tmp_path / "fp8", on_prompt=lambda count: None)


def test_quantising_and_loading_write_nothing_to_the_terminal(
    classifier: str, export: Export, open_engine: Callable[..., Engine], capfd: pytest.CaptureFixture[str]
) -> None:
    with open_engine(export(classifier)) as engine:
        engine.score(PAIRS)
    captured = capfd.readouterr()
    assert (captured.out, captured.err) == ("", "")
