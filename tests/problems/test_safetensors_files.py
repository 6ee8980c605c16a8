"""A folder of Hugging Face's files: the right logits, or a refusal that says why."""

from __future__ import annotations

import contextlib
import json
import struct
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from problems import decoder_oracle

import gfopt
from gfopt.problems import load_safetensors
from gfopt.problems.language_models.hugging_face.config_fields import fields_table
from gfopt.problems.language_models.hugging_face.config_file import read_config
from gfopt.problems.language_models.hugging_face.llama_config import model_of, shapes
from gfopt.problems.language_models.hugging_face.quantization_config import block_of
from gfopt.problems.language_models.llama import Llama

pytest.importorskip("safetensors", reason="pip install 'gfopt[lm]'")

CONFIG: dict[str, Any] = {
    "model_type": "llama",
    "tie_word_embeddings": True,
    "hidden_size": 24,
    "intermediate_size": 14,
    "vocab_size": 11,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_hidden_layers": 2,
    "hidden_act": "silu",
    "rope_theta": 50.0,
    "rms_norm_eps": 1e-5,
}
TEXT = np.array([3, 1, 4, 1, 5, 9])
QUERY = "model.layers.0.self_attn.q_proj"
DTYPES = {
    "float32": "F32",
    "float16": "F16",
    "bfloat16": "BF16",
    "float8_e4m3fn": "F8_E4M3",
    "float8_e5m2": "F8_E5M2",
    "int8": "I8",
    "int32": "I32",
    "int64": "I64",
}


def drawn(config: dict[str, Any]) -> dict[str, np.ndarray]:
    """Returns the tensors that a Llama of this configuration has."""
    draw = np.random.default_rng(0)
    width, inner = config["hidden_size"], config["intermediate_size"]
    heads = config["num_attention_heads"]
    size = config.get("head_dim") or width // heads
    rows = {
        "self_attn.q_proj": (heads * size, width),
        "self_attn.k_proj": (config["num_key_value_heads"] * size, width),
        "self_attn.v_proj": (config["num_key_value_heads"] * size, width),
        "self_attn.o_proj": (width, heads * size),
        "mlp.gate_proj": (inner, width),
        "mlp.up_proj": (inner, width),
        "mlp.down_proj": (width, inner),
    }
    shapes = {"model.embed_tokens.weight": (config["vocab_size"], width)}
    shapes["model.norm.weight"] = (width,)
    if not config["tie_word_embeddings"]:
        shapes["lm_head.weight"] = (config["vocab_size"], width)
    for layer in range(config["num_hidden_layers"]):
        start = f"model.layers.{layer}."
        for name in ("input_layernorm", "post_attention_layernorm"):
            shapes[f"{start}{name}.weight"] = (width,)
        for name, shape in rows.items():
            shapes[f"{start}{name}.weight"] = shape
            kind = "mlp_bias" if name.startswith("mlp") else "attention_bias"
            if config.get(kind):
                shapes[f"{start}{name}.bias"] = shape[:1]
    return {
        name: (draw.normal(size=shape) * 0.3).astype(np.float32)
        for name, shape in shapes.items()
    }


def write(path: Path, tensors: dict[str, np.ndarray]) -> None:
    """Writes a safetensors file of any dtype: a header and the bytes."""
    header, place, parts = {}, 0, []
    for name, value in tensors.items():
        data = np.ascontiguousarray(value).tobytes()
        header[name] = {
            "dtype": DTYPES[value.dtype.name],
            "shape": list(value.shape),
            "data_offsets": [place, place + len(data)],
        }
        place += len(data)
        parts.append(data)
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(parts))


class Folder:
    """A folder that a test changes before it is loaded."""

    def __init__(self, path: Path, **config: Any) -> None:
        self.path = path
        self.config = CONFIG | config
        self.tensors = drawn(self.config)

    def load(self, **options: Any) -> Any:
        (self.path / "config.json").write_text(json.dumps(self.config))
        write(self.path / "model.safetensors", self.tensors)
        return load_safetensors(self.path, **options)

    def refused(self, match: str, **options: Any) -> None:
        with pytest.raises(ValueError, match=match):
            self.load(**options)

    def logits(self, tensors: dict[str, Any] | None = None) -> np.ndarray:
        return decoder_oracle.logits(self.config, tensors or self.tensors, TEXT)


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


def logits_of(found: Any) -> jax.Array:
    return jax.jit(found.model.logits)(found.weights, TEXT[None])[0]


def test_logits_are_those_of_the_files(folder: Folder) -> None:
    found = folder.load()
    assert found.tokenizer is None
    expected = folder.logits()
    np.testing.assert_allclose(logits_of(found), expected, atol=1e-4)
    model = gfopt.tokens.CachedModel(found.model, found.weights)
    first, cache = model.start(jnp.array(TEXT[:4]), 2)
    rest, _ = model.extend(cache, jnp.array(TEXT[4:]))
    np.testing.assert_allclose(first, expected[3], atol=1e-4)
    np.testing.assert_allclose(rest, expected[4:], atol=1e-4)


def test_files_come_in_parts(folder: Folder) -> None:
    folder.load()
    (folder.path / "model.safetensors").unlink()
    names = sorted(folder.tensors)
    parts = {"a.safetensors": names[:5], "b.safetensors": names[5:]}
    for file, own in parts.items():
        write(folder.path / file, {name: folder.tensors[name] for name in own})
    found = load_safetensors(folder.path)
    np.testing.assert_allclose(logits_of(found), folder.logits(), atol=1e-4)
    index = folder.path / "model.safetensors.index.json"
    named = {name: file for file, own in parts.items() for name in own}
    index.write_text(json.dumps({"weight_map": named}))
    write(folder.path / "other.safetensors", folder.tensors)  # the index leads
    assert load_safetensors(folder.path).weights["embedding"].shape == (11, 24)
    index.write_text(json.dumps({"weight_map": named | {"x": "a.safetensors"}}))
    with pytest.raises(ValueError, match=r"a.safetensors must hold x, as weight_map"):
        load_safetensors(folder.path)
    index.write_text(json.dumps({"weight_map": named | {"x": "c.safetensors"}}))
    with pytest.raises(ValueError, match=r"must hold c.safetensors, which weight_map"):
        load_safetensors(folder.path)
    index.write_text("{}")
    with pytest.raises(ValueError, match="index.json must have weight_map"):
        load_safetensors(folder.path)
    index.unlink()
    with pytest.raises(ValueError, match="must hold each tensor once; got .*other"):
        load_safetensors(folder.path)


# -- tensors


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        (f"{QUERY}.bias", (24,)),
        ("model.layers.0.self_attn.q_norm.weight", (6,)),
        ("model.layers.2.input_layernorm.weight", (24,)),
        ("norm.weight", (24,)),
        ("score.weight", (2, 24)),
        (f"{QUERY}.weight_scale", (24,)),
    ],
)
def test_a_tensor_that_is_not_used_is_refused(
    name: str, shape: tuple[int, ...], folder: Folder
) -> None:
    expected = folder.logits()
    folder.tensors[name] = np.ones(shape, np.float32)
    folder.refused(f"uses; got {name} of model.safetensors .F32.*ignore=\\('{name}'")
    ours = logits_of(folder.load(ignore=[name]))
    np.testing.assert_allclose(ours, expected, atol=1e-4)


@pytest.mark.parametrize("name", ["model.norm.weight", f"{QUERY}.weight"])
def test_a_tensor_that_is_missing_is_named(name: str, folder: Folder) -> None:
    del folder.tensors[name]
    folder.refused(f"must hold the tensor {name}, as .*config.json says")


def test_shapes_and_dtypes_are_those_of_the_configuration(folder: Folder) -> None:
    folder.config["intermediate_size"] = 15
    folder.refused(r"gate_proj.weight of .*F32 .14, 24.. must have shape .15, 24.")
    folder.config["intermediate_size"] = 14
    folder.tensors["model.norm.weight"] = np.ones(24, np.int8)
    folder.refused(r"model.norm.weight of .*\(I8 .24..* must have a dtype of F32, F16")
    folder.tensors["model.norm.weight"] = np.ones(24, np.int32)
    folder.refused(r"model.norm.weight of .*\(I32 ")


def test_a_head_beside_a_tied_embedding_is_its_equal(folder: Folder) -> None:
    head = folder.tensors["model.embed_tokens.weight"].copy()
    folder.tensors["lm_head.weight"] = head
    np.testing.assert_allclose(logits_of(folder.load()), folder.logits(), atol=1e-4)
    head[0, 0] += 1
    folder.refused("lm_head.weight of .* must equal the embedding, as tie_word_embed")
    folder.config["tie_word_embeddings"] = False
    np.testing.assert_allclose(logits_of(folder.load()), folder.logits(), atol=1e-4)
    del folder.tensors["lm_head.weight"]
    folder.refused("must hold the tensor lm_head.weight")


def test_of_a_tied_table_either_name_is_saved(folder: Folder) -> None:
    expected = folder.logits()
    table = folder.tensors.pop("model.embed_tokens.weight")
    folder.tensors["lm_head.weight"] = table
    np.testing.assert_allclose(logits_of(folder.load()), expected, atol=1e-4)


def test_rates_that_a_file_holds_are_those_we_compute(folder: Folder) -> None:
    name = "model.layers.1.self_attn.rotary_emb.inv_freq"
    rates = (50.0 ** (-np.arange(0, 6, 2) / 6)).astype(np.float32)
    folder.tensors[name] = rates
    folder.load()
    folder.tensors[name] = rates / 2
    folder.refused(f"{name} of .* must have the rates that .*config.json says")


# -- codes


def coded(folder: Folder, dtype: Any, per: str) -> dict[str, Any]:
    """Puts codes and scales in place of all matrices, and returns their values."""
    values = dict(folder.tensors)
    for name, w in folder.tensors.copy().items():
        if not name.endswith("proj.weight"):
            continue
        most = 127 if dtype == np.int8 else 200
        if per == "group":
            scales = np.abs(w.reshape(len(w), 2, -1)).max(-1) / most
            wide = np.repeat(scales, w.shape[1] // 2, axis=1)
        elif per == "row":
            scales = np.abs(w).max(1, keepdims=True) / most
            wide = scales
        elif per == "vector":
            scales = np.abs(w).max(1) / most
            wide = scales[:, None]
        else:
            scales = np.float32([np.abs(w).max() / most])
            wide = scales
        codes = w / wide
        codes = np.round(codes) if dtype == np.int8 else codes
        folder.tensors[name] = codes.astype(dtype)
        folder.tensors[f"{name}_scale"] = scales.astype(np.float32)
        values[name] = folder.tensors[name].astype(np.float64) * wide
    return values


@pytest.mark.parametrize(
    ("dtype", "per"),
    [
        (np.int8, "row"),
        (np.int8, "vector"),
        (np.int8, "group"),
        (jnp.float8_e4m3fn, "row"),
        (jnp.float8_e5m2, "matrix"),
    ],
    ids=["int8-row", "int8-vector", "int8-group", "e4m3-row", "e5m2-matrix"],
)
def test_codes_are_read_with_their_scales(dtype: Any, per: str, folder: Folder) -> None:
    """As ``Quantized`` leaves, which are never made dense."""
    values = coded(folder, dtype, per)
    folder.config["quantization_config"] = {
        "quant_method": "compressed-tensors",
        "format": "int-quantized" if dtype == np.int8 else "float-quantized",
        "config_groups": {"group_0": {"weights": {"num_bits": 8, "symmetric": True}}},
    }
    found = folder.load()
    assert isinstance(found.weights["layers"]["query"], gfopt.quantization.Quantized)
    with gfopt.lazy.count_materialisations() as made:
        ours = logits_of(found)
    assert made.list == []
    np.testing.assert_allclose(ours, folder.logits(values), atol=1e-4)
    if per == "group":
        weights = folder.config["quantization_config"]["config_groups"]["group_0"]
        weights["weights"] |= {"strategy": "group", "group_size": 4}
        folder.refused(r"the scales of .* block \(1, 4\)")
    scales, _ = gfopt.partition(found.weights)
    assert scales["layers"]["query"].scales.shape[:2] == (2, 24)


def test_float8_codes_have_scales_for_blocks(folder: Folder) -> None:
    folder.config["quantization_config"] = {
        "quant_method": "fp8",
        "activation_scheme": "dynamic",
        "weight_block_size": [16, 10],
    }
    values, draw = dict(folder.tensors), np.random.default_rng(1)
    for name, w in folder.tensors.copy().items():
        if name.endswith("proj.weight"):
            rows, columns = (
                -(-size // by) for size, by in zip(w.shape, (16, 10), strict=True)
            )
            scales = draw.uniform(0.5, 2, (rows, columns)).astype(np.float32)
            wide = np.kron(scales, np.ones((16, 10)))[: w.shape[0], : w.shape[1]]
            folder.tensors[name] = w.astype(jnp.float8_e4m3fn)
            folder.tensors[f"{name}_scale_inv"] = scales
            values[name] = folder.tensors[name].astype(np.float64) * wide
    np.testing.assert_allclose(
        logits_of(folder.load()), folder.logits(values), atol=1e-4
    )
    folder.config["quantization_config"]["weight_block_size"] = [16, 16]
    folder.refused(r"scales of .*_proj.weight.* block \(16, 16\)")


def test_layers_of_different_types_are_stacks_of_their_own(folder: Folder) -> None:
    """One layer keeps its floating-point weights, as recipes do for the first."""
    plain = folder.tensors.copy()
    values = coded(folder, np.int8, "row")
    for name in plain:
        if name.startswith("model.layers.0."):
            values[name] = folder.tensors[name] = plain[name]
            folder.tensors.pop(f"{name}_scale", None)
    found = folder.load()
    assert [own.stack for own in found.model.layers] == [0, 1]
    with gfopt.lazy.count_materialisations() as made:
        ours = logits_of(found)
    assert made.list == []
    np.testing.assert_allclose(ours, folder.logits(values), atol=1e-4)


def test_codes_that_are_not_read_are_refused(folder: Folder) -> None:
    coded(folder, np.int8, "row")
    scale = folder.tensors.pop(f"{QUERY}.weight_scale")
    folder.refused(f"must hold {QUERY}.weight_scale, floating-point numbers for the")
    folder.tensors[f"{QUERY}.weight_scale"] = scale[:5]
    folder.refused(f"the scales of {QUERY}.weight .* must be one number, or one for")
    folder.tensors[f"{QUERY}.weight_scale"] = np.full_like(scale, np.nan)
    folder.refused(f"{QUERY}.weight .* must have finite scales")
    folder.tensors[f"{QUERY}.weight_scale"] = scale
    folder.tensors[f"{QUERY}.weight_zero_point"] = np.zeros((24, 1), np.int8)
    folder.refused(f"got {QUERY}.weight_zero_point")
    folder.tensors.pop(f"{QUERY}.weight_zero_point")
    folder.tensors[f"{QUERY}.weight"] = np.full((24, 24), np.nan, jnp.float8_e4m3fn)
    folder.refused(f"{QUERY}.weight .* must have finite codes")
    folder.tensors.pop(f"{QUERY}.weight")
    folder.tensors[f"{QUERY}.qweight"] = np.zeros((24, 3), np.int32)
    folder.refused(f"{QUERY}.qweight.*such codes are not read: take a GGUF")
    folder.tensors[f"{QUERY}.weight_packed"] = np.zeros((24, 3), np.int32)
    folder.refused(f"must hold {QUERY}.weight_shape, .24, 24. as .* got none")
    folder.tensors[f"{QUERY}.weight_shape"] = np.int64([24, 23])
    folder.refused(f"must hold {QUERY}.weight_shape, .* got .24, 23.")
    folder.tensors[f"{QUERY}.weight_shape"] = np.int64([24, 24])
    folder.tensors[f"{QUERY}.weight_packed"] = np.zeros((24, 5), np.int32)
    folder.refused(f"{QUERY}.weight_packed .* must have shape .24, 3., for 24 codes")


GPTQ = {"quant_method": "gptq", "bits": 4}
STATIC = {"group_0": {"input_activations": {"dynamic": False}}}
ROTATED = {"config_groups": {"R1": {"type": "hadamard"}}}
FLOAT8 = {"quant_method": "fp8"}
THREE_BITS = {"group_0": {"weights": {"num_bits": 3}}}
TWO_SIZES = {
    name: {"weights": {"strategy": "group", "group_size": size}}
    for name, size in (("a", 32), ("b", 64))
}


@pytest.mark.parametrize(
    ("quantization", "match"),
    [
        (GPTQ, "quant_method in quantization_config of .* got 'gptq'"),
        ({"bits": 4}, "quant_method in quantization_config of .* got None"),
        ({"format": "marlin-24"}, "got format: 'marlin-24'"),
        ({"config_groups": STATIC}, "input_activations of .* got dynamic: False"),
        ({"config_groups": THREE_BITS}, "group_0.weights of .* got num_bits: 3"),
        ({"config_groups": TWO_SIZES}, "must have one group_size; got .'32', '64'"),
        ({"transform_config": ROTATED}, "got transform_config: .'config_groups'"),
        ({"kv_cache_scheme": {"num_bits": 8}}, "got kv_cache_scheme"),
        (FLOAT8 | {"activation_scheme": "static"}, "got activation_scheme: 'static'"),
        (FLOAT8 | {"weight_block_size": [128]}, "got weight_block_size: .128."),
        ("gptq", "quantization_config of .* must be an object; got 'gptq'"),
    ],
)
def test_other_quantization_is_refused(
    quantization: Any, match: str, folder: Folder
) -> None:
    if isinstance(quantization, dict) and "bits" not in quantization:
        known = {"quant_method": "compressed-tensors", "format": "int-quantized"}
        quantization = known | quantization
    folder.config["quantization_config"] = quantization
    folder.refused(match)


# -- config.json


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"model_type": "mamba"}, "model_type of .*config.json must be one of llama"),
        ({"model_type": "gemma3"}, "gemma3_text; got 'gemma3'"),
        ({"hidden_act": "quick_gelu"}, "hidden_act of .* must be .* got 'quick_gelu'"),
        ({"rope_scaling": {"factor": 2}}, "rope_scaling of .* must have a rope_type"),
        ({"rope_scaling": {"type": "yarn"}}, "rope_type of default, linear, llama3"),
        ({"rope_scaling": {"type": "linear"}}, "type linear, the fields factor; got"),
        ({"rope_parameters": {"rope_type": "llama3"}}, "the fields factor, low_freq"),
        ({"rope_parameters": {"partial_rotary_factor": 0.5}}, "partial_rotary_factor"),
        ({"rope_parameters": 3}, "rope_parameters of .* must be an object; got 3"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor of .* null or 1"),
        ({"rope_theta": -1.0}, "rope_theta .* finite number above 0; got -1.0"),
        ({"rope_theta": "10"}, "rope_theta of .* must be a number; got '10'"),
        ({"num_key_value_heads": 3}, "must be a multiple of num_key_value_heads"),
        ({"num_attention_heads": 10}, "hidden_size of .* multiple of num_attention"),
        ({"num_hidden_layers": 2.5}, "num_hidden_layers of .* must be an integer"),
        ({"num_hidden_layers": 1}, "got model.layers.1.input_layernorm.weight"),
        ({"head_dim": 5}, "head_dim of .* must be even; got 5"),
        ({"hidden_size": None}, "must have a value of hidden_size"),
        ({"rms_norm_eps": None}, "must have a value of rms_norm_eps"),
        ({"mlp_bias": True}, "must hold the tensor model.layers.0.mlp.gate_proj.bias"),
        ({"attention_bias": 1}, "attention_bias of .* must be true or false; got 1"),
        ({"num_experts": 8}, r"llama models; got num_experts: 8 .*ignore=\('num_exp"),
        ({"sliding_window": 4}, "llama models; got sliding_window: 4"),
        ({"rope_interleaved": True}, "rope_interleaved of .* null or False; got True"),
    ],
)
def test_a_field_that_is_not_computed_is_refused(
    change: dict[str, Any], match: str, folder: Folder
) -> None:
    folder.config |= change
    folder.refused(match)


def test_what_says_nothing_is_taken(folder: Folder) -> None:
    folder.config |= {"sliding_window": None, "rope_interleaved": False}
    folder.config |= {"use_cache": True, "num_experts": 8}
    expected = folder.logits()
    found = folder.load(ignore=("num_*xperts",))
    np.testing.assert_allclose(logits_of(found), expected, atol=1e-4)
    with pytest.raises(TypeError, match="ignore must be a tuple of names"):
        folder.load(ignore="num_experts")
    with pytest.raises(ValueError, match="tokenizer must be there to encode texts"):
        found.continued("a text", 1)


def test_files_that_are_missing_or_damaged_are_named(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder.load()
    file, config = folder.path / "model.safetensors", folder.path / "config.json"
    whole = file.read_bytes()
    file.write_bytes(whole[:-1])
    with pytest.raises(ValueError, match="model.safetensors must be a whole safetens"):
        load_safetensors(folder.path)
    file.unlink()
    with pytest.raises(ValueError, match="folder must hold the weights"):
        load_safetensors(folder.path)
    file.write_bytes(whole)
    (folder.path / "adapter_config.json").write_text("{}")
    with pytest.raises(ValueError, match="whole model; got .* adapter_config.json"):
        load_safetensors(folder.path)
    (folder.path / "adapter_config.json").unlink()
    config.write_text("[]")
    with pytest.raises(ValueError, match=r"config.json must hold a JSON object"):
        load_safetensors(folder.path)
    config.write_text("{")
    with pytest.raises(ValueError, match=r"config.json must hold JSON"):
        load_safetensors(folder.path)
    config.unlink()
    with pytest.raises(ValueError, match="folder must hold config.json"):
        load_safetensors(folder.path)
    config.write_text(json.dumps(CONFIG))
    monkeypatch.setitem(sys.modules, "safetensors", None)
    with pytest.raises(ImportError, match="gfopt\\[lm\\]"):
        load_safetensors(folder.path)


def test_the_documentation_has_the_table_of_fields() -> None:
    page = Path(__file__).parents[2] / "docs" / "language_models.md"
    assert fields_table() in page.read_text()


@pytest.mark.parametrize(
    ("name", "gone", "old"),
    [
        (
            "llama_3",
            ("rope_parameters",),
            {
                "rope_theta": 500.0,
                "rope_scaling": {
                    "type": "llama3",
                    "factor": 8.0,
                    "low_freq_factor": 1.0,
                    "high_freq_factor": 4.0,
                    "original_max_position_embeddings": 32,
                },
            },
        ),
        ("qwen2", ("rope_parameters", "layer_types"), {"rope_theta": 1e4}),
        ("smollm3", ("layer_types", "no_rope_layers"), {}),
        ("gemma", ("hidden_act",), {"hidden_act": "gelu", "hidden_activation": None}),
        ("gemma2", ("layer_types",), {"hidden_act": "gelu_pytorch_tanh"}),
        (
            "gemma3_text",
            ("rope_parameters", "layer_types"),
            {
                "rope_theta": 1e4,
                "rope_local_base_freq": 100.0,
                "rope_scaling": {"rope_type": "linear", "factor": 8.0},
                "_sliding_window_pattern": 2,
            },
        ),
    ],
)
def test_the_older_form_of_a_configuration_is_the_same_model(
    name: str, gone: tuple[str, ...], old: dict[str, Any], tmp_path: Path
) -> None:
    source = Path(__file__).parent / "model_files" / name / "config.json"
    fields = json.loads(source.read_text())
    path = tmp_path / "config.json"
    path.write_text(json.dumps({k: fields[k] for k in fields if k not in gone} | old))
    expected = model_of(read_config(source), source)
    assert model_of(read_config(path), path) == expected


def test_published_configurations_are_read(tmp_path: Path) -> None:
    """Every field of these is known, and means what it should."""
    file = Path(__file__).parent / "model_files" / "published.json"
    models = {}
    for name, fields in json.loads(file.read_text()).items():
        path = tmp_path / "config.json"
        path.write_text(json.dumps(fields))
        if name == "embeddinggemma-300m":
            with pytest.raises(ValueError, match="use_bidirectional_attention of"):
                read_config(path)
        else:
            models[name] = model_of(read_config(path), path)
    llama = models["Llama-3.1-8B"]
    factors = llama.layers[0].rotary.factors
    assert (llama.num_heads, llama.num_key_value_heads, llama.rope_base) == (32, 8, 5e5)
    assert factors[0] == 1 and factors[-1] == 8 and len(factors) == 64
    assert models["Qwen2.5-7B"] == Llama(28, 4, 1e6, 1e-6)
    assert models["Qwen3-14B"] == Llama(40, 8, 1e6, 1e-6)
    turning = [not own.rotary.factors for own in models["SmolLM3-3B"].layers]
    assert turning == [True, True, True, False] * 9
    gemma = models["gemma-3-12b, its text"]
    assert [own.window for own in gemma.layers] == [*[1024] * 5, None] * 8
    assert gemma.layers[0].rotary == (1e4, ()) and gemma.layers[5].rotary == (1e6, (8,))
    assert (gemma.attention_scale, gemma.embedding_scale) == (1 / 16, 3840**0.5)
    assert (gemma.activation, gemma.logit_cap) == ("gelu_tanh", None)


ODD = ([[]], "x", -1, 2.5, True, None, {"x": 1})


def test_odd_values_are_read_or_refused_by_the_field(tmp_path: Path) -> None:
    folder, path = Path(__file__).parent / "model_files", tmp_path / "config.json"
    num_refused = 0
    kinds = "llama_3 mistral qwen2 smollm3 gemma2 gemma3_text compressed_packed4"
    for name in kinds.split():
        source = folder / name / "config.json"
        fields = json.loads(source.read_text())
        places = [(fields, name) for name in fields]
        inner = [fields["rope_parameters"], fields.get("quantization_config")]
        inner += [group for group in inner[:1] for group in group.values()]
        for group in (inner[1] or {}).get("config_groups", {}).values():
            inner += [group, group["weights"]]
        places += [
            (one, name) for one in inner if isinstance(one, dict) for name in one
        ]
        for holder, name in places:
            own = holder[name]
            for value in ODD:
                holder[name] = value
                path.write_text(json.dumps(fields))
                try:
                    config = read_config(path)
                    block_of(config["quantization_config"], path, ())
                    shapes(config, path)
                    model_of(config, path)
                except ValueError as error:
                    num_refused += 1
                    # a size is seen beside another one
                    named = any(n in str(error) for n in (name.lstrip("_"), "rope_par"))
                    assert named or " multiple of " in str(error), error
            holder[name] = own
    assert num_refused > 500


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.floats(0, 1), st.integers(1, 255)), min_size=1))
def test_a_flip_in_the_header_is_refused_or_harmless(
    folder: Folder, flips: list[tuple[float, int]]
) -> None:
    """No other error, and no memory that the file's size does not justify."""
    folder.load()
    path = folder.path / "model.safetensors"
    data = bytearray(path.read_bytes())
    (size,) = struct.unpack_from("<Q", data)
    for place, mask in flips:
        data[round(place * (size + 7))] ^= mask
    path.write_bytes(data)
    with contextlib.suppress(ValueError):
        weights = load_safetensors(folder.path).weights
        assert sum(leaf.nbytes for leaf in jax.tree.leaves(weights)) < 8 * len(data)


# -- whatever is changed: the logits of the plain loop, or a refusal that names it

FIELDS = st.sampled_from(
    [
        {"hidden_act": "relu"},
        {"hidden_act": "gelu_pytorch_tanh"},
        {"head_dim": 8},
        {"rope_theta": 1e4},
        {"rope_scaling": {"type": "linear", "factor": 4.0}},
        {"rms_norm_eps": 1.0},
        {"attention_bias": True},
        {"mlp_bias": True},
        {"num_hidden_layers": 1},
        {"num_hidden_layers": 3},
        {"num_key_value_heads": 4},
        {"tie_word_embeddings": False},
        {"intermediate_size": 9},
        {"hidden_act": "mish"},
        {"rope_scaling": {"type": "dynamic", "factor": 4.0}},
        {"use_sliding_window": True},
        {"logits_scaling": 2.0},
    ]
)


@settings(max_examples=40)
@given(
    changes=st.lists(FIELDS, max_size=3),
    files_follow=st.booleans(),
    with_tensor=st.booleans(),
    data=st.data(),
)
def test_any_change_is_computed_or_named(
    changes: list[dict[str, Any]],
    files_follow: bool,
    with_tensor: bool,
    data: st.DataObject,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    new: dict[str, Any] = {}
    for change in changes:
        new |= change
    folder = Folder(tmp_path_factory.mktemp("model"), **(new if files_follow else {}))
    folder.config = CONFIG | new
    changed = bool(new)
    if with_tensor:
        name = data.draw(st.sampled_from(sorted(folder.tensors)))
        kept = folder.tensors.pop(name)
        renamed = name.replace("proj", "projection").replace("norm", "norms")
        if data.draw(st.booleans()):
            folder.tensors[renamed] = kept
        changed = True
    try:
        found = folder.load()
    except ValueError as error:
        # what the tensors don't agree with is seen at one of them
        named = ("model.layers.", "model.norm", "model.embed", "lm_head", *new)
        assert changed and any(name in str(error) for name in named), error
        return
    with jax.disable_jit():
        ours = found.model.logits(found.weights, TEXT[None, :3])[0]
    expected = decoder_oracle.logits(folder.config, folder.tensors, TEXT[:3])
    np.testing.assert_allclose(ours, expected, atol=1e-4)
