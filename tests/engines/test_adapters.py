"""Adapters as trees and as files: what they change is what we change."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from engines.small_models import (
    LAYERS,
    SHAPES,
    small_adapter,
    small_model,
    write_config,
    write_gguf,
)

import gfopt
from gfopt import engines
from gfopt.core.evaluate import Request, decode_rows
from gfopt.core.objective import Inputs
from gfopt.engines.peft_files import CONFIG, MODULES, WEIGHTS
from gfopt.problems import export_gguf, export_safetensors, load_gguf, load_safetensors
from gfopt.quantization import gguf_files

TOKENS = jnp.array([[3, 1, 4, 1, 5, 9]])


def test_a_merged_model_is_the_adapted_one() -> None:
    found, adapter = small_model(), small_adapter()
    lazy = engines.with_adapter(found.weights, adapter, 0.5)
    dense = engines.merged(found.weights, adapter, 0.5)
    for name, factors in adapter.items():
        change = 0.5 * factors["b"].astype(np.float64) @ factors["a"]
        expected = np.float64(found.weights["layers"][name]) + change
        np.testing.assert_allclose(dense["layers"][name], expected, atol=1e-6)
    with gfopt.lazy.count_materialisations() as made:
        logits = jax.jit(found.model.logits)(lazy, TOKENS)
    assert made.list == []
    expected = jax.jit(found.model.logits)(dense, TOKENS)
    np.testing.assert_allclose(logits, expected, atol=1e-4)


def test_a_member_of_low_rank_noise_is_an_adapter() -> None:
    layers = small_model().weights["layers"]
    searched = {"layers": {name: layers[name] for name in ("down", "attention_norm")}}
    noise = gfopt.low_rank(rank=2, exclude="*norm")
    member = jax.jit(noise.add)(searched, jnp.uint32(5), 0.1)
    adapter = engines.adapter_of(member)
    assert {*adapter} == {"down"}
    assert adapter["down"]["a"].shape == (LAYERS, 2, SHAPES["down"][1])
    again = engines.merged(searched, adapter)["layers"]["down"]
    expected = gfopt.lazy.materialise(member)["layers"]["down"]
    np.testing.assert_allclose(again, expected, atol=1e-6)
    member = jax.jit(gfopt.low_rank().add)({"layers": {"norm": jnp.ones((8, 8))}}, 5, 1)
    with pytest.raises(ValueError, match="got some on 'norm'"):
        engines.adapter_of(member)
    with pytest.raises(ValueError, match="LowRank leaves in its layers; got none"):
        engines.adapter_of(searched)


def test_members_of_an_adapter_share_the_codes_of_a_quantized_model() -> None:
    """Low-rank noise on an adapter over 4-bit weights: as if each member were dense."""
    found = small_model()
    codes = gfopt.quantization.quantize(
        found.weights, min_size=200, group_size=16, where=lambda path, _: "down" in path
    )
    adapter = engines.new_adapter(codes, 2, targets=["down"])
    x0, fixed = gfopt.partition(adapter, lambda path, leaf: path.endswith("/b"))
    method = gfopt.OpenES(population_size=2, sigma=0.3, noise=gfopt.low_rank())
    state = method.init(jax.random.key(0), x0)

    def loss(adapter: Any, weights: Any) -> Any:
        return found.model.logits(engines.with_adapter(weights, adapter), TOKENS).std()

    @jax.jit
    def values(population: Any, codes: Any) -> Any:
        objective, inputs = gfopt.Objective(loss), Inputs(frozen=fixed, args=(codes,))
        request = Request(state.step, objective, method, state, population, inputs)
        return gfopt.vmapped()(request).fitness

    @jax.jit
    def dense(population: Any, codes: Any) -> Any:
        changed = decode_rows(method, state, population.members)
        weights = gfopt.lazy.materialise(codes)
        return jax.vmap(lambda x: loss(gfopt.merge(x, fixed), weights))(changed)

    population = method.ask(jax.random.key(1), state)
    with gfopt.lazy.count_materialisations() as made:
        fitness = values(population, codes)
    assert made.list == []
    np.testing.assert_allclose(fitness, dense(population, codes), rtol=1e-4)
    assert np.ptp(fitness) > 1e-3


def test_changes_add_up_and_are_found_again() -> None:
    """One adapter of the accumulated rank; the closest one of a lower rank."""
    found = small_model()
    parts = [small_adapter(rank, rank) for rank in (1, 2)]
    both = engines.joined(parts)
    once = engines.merged(found.weights, both)
    twice = engines.merged(engines.merged(found.weights, parts[0]), parts[1])
    np.testing.assert_allclose(once["layers"]["up"], twice["layers"]["up"], atol=1e-5)
    for rank in (1, 3, 9):
        near = engines.adapter_between(found.weights, once, rank)
        change = np.float64(once["layers"]["key"] - found.weights["layers"]["key"])
        left = change - np.float64(near["key"]["b"]) @ np.float64(near["key"]["a"])
        values = np.linalg.svd(change, compute_uv=False)
        expected = np.sqrt((values[:, rank:] ** 2).sum(1))
        np.testing.assert_allclose(
            np.linalg.norm(left, axis=(1, 2)), expected, atol=1e-5
        )
    with pytest.raises(ValueError, match="must change the same matrices"):
        engines.joined([parts[0], {"up": parts[1]["up"]}])


@pytest.mark.parametrize(
    ("adapter", "error", "message"),
    [
        ([], TypeError, "adapter must be a dict of factors"),
        ({}, ValueError, "adapter must have a matrix; got none"),
        ({"up": 3}, ValueError, "and b .* for each matrix"),
        (
            {"norm": small_adapter()["up"]},
            ValueError,
            "matrices of weights; got 'norm'",
        ),
        ({"up": small_adapter()["down"]}, ValueError, r"fit up, \(2, 32, 16\)"),
    ],
)
def test_what_is_no_adapter_is_refused(
    adapter: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        engines.with_adapter(small_model().weights, adapter)


@pytest.mark.parametrize("targets", ["query", [], ["norm"]])
def test_targets_are_matrices_of_the_model(targets: Any) -> None:
    with pytest.raises(ValueError, match="targets must be .* query, key, value"):
        engines.new_adapter(small_model().weights, targets=targets)


# -- files of Hugging Face


def test_files_of_peft_change_the_files_of_the_model_alike(tmp_path: Path) -> None:
    """The merged model's file is the base's plus B A of the adapter's file."""
    safetensors = pytest.importorskip("safetensors.numpy", reason=gguf_files.INSTALL)
    found, adapter = small_model(), small_adapter(3)
    like = write_config(tmp_path / "like")
    export_safetensors(found.weights, tmp_path / "base", like, dtype="float32")
    changed = engines.with_adapter(found.weights, adapter)
    export_safetensors(changed, tmp_path / "merged", like, dtype="float32")
    engines.save_peft(adapter, tmp_path / "adapter", found.model, base="small")

    base, merged, file = (
        safetensors.load_file(tmp_path / name)
        for name in (
            "base/model.safetensors",
            "merged/model.safetensors",
            f"adapter/{WEIGHTS}",
        )
    )
    config = json.loads((tmp_path / "adapter" / CONFIG).read_text())
    factor = config["lora_alpha"] / config["r"]
    assert {*config["target_modules"]} == {m.split(".")[1] for m in MODULES.values()}
    for number in range(LAYERS):
        for module in MODULES.values():
            start = f"base_model.model.model.layers.{number}.{module}.lora_"
            change = file.pop(f"{start}B.weight") @ file.pop(f"{start}A.weight")
            name = f"model.layers.{number}.{module}.weight"
            expected = base[name] + factor * change
            np.testing.assert_allclose(merged[name], expected, atol=1e-5)
    assert not file

    again = load_safetensors(tmp_path / "base")
    jax.tree.map(np.testing.assert_array_equal, again.weights, found.weights)
    read = engines.load_peft(tmp_path / "adapter", found.model)
    jax.tree.map(np.testing.assert_array_equal, read, adapter)


@pytest.mark.filterwarnings("ignore::FutureWarning")  # peft of transformers
def test_peft_computes_what_we_do(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch", reason="pip install torch transformers peft")
    peft = pytest.importorskip("peft", reason="pip install torch transformers peft")
    transformers = pytest.importorskip("transformers")
    found, adapter = small_model(), small_adapter(3)
    like = write_config(tmp_path / "like")
    export_safetensors(found.weights, tmp_path / "base", like, dtype="float32")
    engines.save_peft(adapter, tmp_path / "adapter", found.model)
    base = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    model = peft.PeftModel.from_pretrained(base, tmp_path / "adapter").eval()
    with torch.no_grad():
        theirs = model(torch.tensor(np.asarray(TOKENS))).logits.numpy()
    ours = found.model.logits(engines.with_adapter(found.weights, adapter), TOKENS)
    np.testing.assert_allclose(ours, theirs, atol=1e-5)
    model.save_pretrained(tmp_path / "theirs")  # with all fields of a configuration
    read = engines.load_peft(tmp_path / "theirs", found.model)
    jax.tree.map(np.testing.assert_array_equal, read, adapter)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("peft_type", "IA3", "peft_type of .* must be 'LORA'; got 'IA3'"),
        ("use_rslora", True, "use_rslora of .* must be False; got True"),
        ("r", 0, "r of .* must be a number above 0; got 0"),
        ("lora_alpha", None, "lora_alpha of .* must be a number above 0"),
    ],
)
def test_adapters_of_another_kind_are_refused(
    field: str, value: Any, message: str, tmp_path: Path
) -> None:
    pytest.importorskip("safetensors", reason=gguf_files.INSTALL)
    model = small_model().model
    engines.save_peft(small_adapter(), tmp_path, model)
    config = json.loads((tmp_path / CONFIG).read_text()) | {field: value}
    (tmp_path / CONFIG).write_text(json.dumps(config))
    with pytest.raises(ValueError, match=message):
        engines.load_peft(tmp_path, model)


def test_adapters_that_are_not_whole_are_named(tmp_path: Path) -> None:
    safetensors = pytest.importorskip("safetensors.numpy", reason=gguf_files.INSTALL)
    model = small_model().model
    engines.save_peft(small_adapter(), tmp_path, model)
    whole = safetensors.load_file(tmp_path / WEIGHTS)
    for name, message in (
        ("base_model.model.model.layers.1.mlp.up_proj.lora_B.weight", "every layer"),
        ("base_model.model.lm_head.lora_A.weight", "must change .* got .*lm_head"),
    ):
        changed = {**whole}
        if changed.pop(name, None) is None:
            changed[name] = np.zeros((2, 2), np.float32)
        safetensors.save_file(changed, tmp_path / WEIGHTS)
        with pytest.raises(ValueError, match=message):
            engines.load_peft(tmp_path, model)
    (tmp_path / WEIGHTS).write_bytes(b"12345678")
    with pytest.raises(ValueError, match="whole safetensors file"):
        engines.load_peft(tmp_path, model)


def test_columns_that_are_contiguous_are_written_as_they_are(tmp_path: Path) -> None:
    """Version 0.8 of safetensors alone writes such arrays in the wrong order."""
    safetensors = pytest.importorskip("safetensors.numpy", reason=gguf_files.INSTALL)
    adapter = jax.tree.map(np.asfortranarray, small_adapter())
    engines.save_peft(adapter, tmp_path, small_model().model)
    found = safetensors.load_file(tmp_path / WEIGHTS)
    name = "base_model.model.model.layers.1.mlp.up_proj.lora_A.weight"
    np.testing.assert_array_equal(found[name], adapter["up"]["a"][1])


def test_a_model_is_exported_to_another_folder_and_whole(tmp_path: Path) -> None:
    pytest.importorskip("safetensors", reason=gguf_files.INSTALL)
    found, like = small_model(), write_config(tmp_path / "like")
    with pytest.raises(ValueError, match="folder must be another one than like"):
        export_safetensors(found.weights, like, like)
    without = {k: v for k, v in found.weights.items() if k != "norm"}
    with pytest.raises(ValueError, match="weights must have 'norm'"):
        export_safetensors(without, tmp_path / "x", like)
    (like / "tokenizer.json").write_text("{}")
    export_safetensors(found.weights, tmp_path / "half", like)
    assert (tmp_path / "half" / "tokenizer.json").read_text() == "{}"
    config = json.loads((tmp_path / "half" / "config.json").read_text())
    assert config["dtype"] == "bfloat16"


# -- files of llama.cpp


@pytest.mark.parametrize("architecture", ["llama", "qwen2"])
def test_files_of_llama_cpp_change_the_model_s_file_alike(
    architecture: str, tmp_path: Path
) -> None:
    gguf = pytest.importorskip("gguf", reason=gguf_files.INSTALL)
    found, adapter = small_model(), small_adapter(3)
    like = write_gguf(tmp_path / "like.gguf", architecture)
    export_gguf(found.weights, tmp_path / "base.gguf", like, kind="F32")
    changed = engines.with_adapter(found.weights, adapter)
    export_gguf(changed, tmp_path / "merged.gguf", like, kind="F32")
    path = tmp_path / "adapter.gguf"
    engines.save_gguf_adapter(adapter, path, found.model, architecture=architecture)

    reader = gguf.GGUFReader(path)
    fields = {name: field.contents() for name, field in reader.fields.items()}
    assert fields["general.type"] == "adapter"
    assert fields["general.architecture"] == architecture
    assert fields["adapter.type"] == "lora"
    factors = {tensor.name: np.array(tensor.data) for tensor in reader.tensors}
    base, merged = (
        {t.name: np.array(t.data) for t in gguf.GGUFReader(tmp_path / name).tensors}
        for name in ("base.gguf", "merged.gguf")
    )
    for name, matrix in base.items():
        if f"{name}.lora_a" not in factors:
            np.testing.assert_array_equal(merged[name], matrix)
            continue
        a, b = factors.pop(f"{name}.lora_a"), factors.pop(f"{name}.lora_b")
        scale = fields["adapter.lora.alpha"] / len(a)
        np.testing.assert_allclose(merged[name], matrix + scale * b @ a, atol=1e-5)
    assert not factors

    again = load_gguf(tmp_path / "base.gguf").weights
    jax.tree.map(np.testing.assert_array_equal, again, found.weights)


def test_exported_types_are_the_package_s_own(tmp_path: Path) -> None:
    gguf = pytest.importorskip("gguf", reason=gguf_files.INSTALL)
    found, like = small_model(), write_gguf(tmp_path / "like.gguf")
    export_gguf(found.weights, tmp_path / "half.gguf", like)
    tensors = {t.name: t for t in gguf.GGUFReader(tmp_path / "half.gguf").tensors}
    assert tensors["blk.0.ffn_up.weight"].tensor_type.name == "F16"
    assert tensors["output_norm.weight"].tensor_type.name == "F32"
    with pytest.raises(ValueError, match="kind must be one of"):
        export_gguf(found.weights, tmp_path / "x.gguf", like, kind="Q2_K")
    with pytest.raises(ValueError, match="weights must have what"):
        layers = {k: v for k, v in found.weights["layers"].items() if k != "up"}
        export_gguf(
            found.weights | {"layers": layers}, tmp_path / "x.gguf", like, kind="F32"
        )
