"""Whole models in GGUF files that the package gguf writes: computed, or refused."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gfopt
from gfopt.core.objective import Inputs
from gfopt.lazy.lazy import materialise
from gfopt.problems.language_models import gguf_fields, language_models
from gfopt.problems.language_models.gguf_tokenizer import INSTALL
from gfopt.problems.language_models.hugging_face.tensor_files import read_tensors
from gfopt.quantization.gguf_blocks import LAYOUTS

gguf = pytest.importorskip("gguf", reason=INSTALL)
pytest.importorskip("tokenizers", reason=INSTALL)

WIDTH, INNER, HEADS, SHARED, SIZE = 256, 512, 4, 2, 64
FIELDS: dict[str, Any] = {
    "general.architecture": "llama",
    "llama.block_count": 3,
    "llama.attention.head_count": HEADS,
    "llama.attention.head_count_kv": SHARED,
    "llama.rope.freq_base": 1e4,
    "llama.attention.layer_norm_rms_epsilon": 1e-5,
    "llama.embedding_length": WIDTH,
    "llama.feed_forward_length": INNER,
    "llama.context_length": 64,
    "tokenizer.ggml.model": "gpt2",
    "tokenizer.ggml.pre": "smollm",
    "tokenizer.ggml.tokens": ["a", "b", "ab", "<end>"],
    "tokenizer.ggml.merges": ["a b"],
    "tokenizer.ggml.token_type": [1, 1, 1, 3],
}
LAYER = {
    "attn_q": (HEADS * SIZE, WIDTH),
    "attn_k": (SHARED * SIZE, WIDTH),
    "attn_v": (SHARED * SIZE, WIDTH),
    "attn_output": (WIDTH, HEADS * SIZE),
    "ffn_gate": (INNER, WIDTH),
    "ffn_up": (INNER, WIDTH),
    "ffn_down": (WIDTH, INNER),
    "attn_norm": (WIDTH,),
    "ffn_norm": (WIDTH,),
}
SHAPES = {
    "token_embd.weight": (4, WIDTH),
    "output_norm.weight": (WIDTH,),
    **{
        f"blk.{i}.{name}.weight": shape
        for i in range(3)
        for name, shape in LAYER.items()
    },
}
TOKENS = np.array([[0, 2, 1, 3, 1]])


def add(writer: Any, name: str, value: Any) -> None:
    if isinstance(value, str):
        writer.add_string(name, value)
    elif isinstance(value, list):
        writer.add_array(name, value)
    elif isinstance(value, bool):
        writer.add_bool(name, value)
    elif isinstance(value, int):
        writer.add_uint32(name, value)
    else:
        writer.add_float32(name, value)


def coded(w: np.ndarray, kind: str, draw: Any) -> np.ndarray:
    """Returns blocks of a type; the package quantizes to the types without sub-scales.

    For those with them all bits are drawn, scales apart: weights as large as others.
    """
    which = gguf.GGMLQuantizationType[kind]
    size, num_bytes = gguf.GGML_QUANT_SIZES[which]
    if kind == "IQ4_NL":
        return np.zeros((len(w), w.shape[1] // size * num_bytes), np.uint8)
    if not kind.endswith("K"):
        return gguf.quants.quantize(w, which)
    data = draw.integers(0, 256, (len(w), w.shape[1] // size, num_bytes))
    data, place = data.astype(np.uint8), 0
    for field, length in LAYOUTS[kind].fields.items():
        if field in ("scale", "minimum"):
            half = draw.uniform(2e-5, 4e-5, data.shape[:2]).astype(np.float16)
            data[..., place : place + 2] = half[..., None].view(np.uint8)
        place += length
    return data.reshape(len(w), -1)


def write(
    path: Path,
    fields: dict[str, Any] | None = None,
    shapes: dict[str, Any] | None = None,
    types: dict[str, str] | None = None,
) -> Path:
    """Writes a model; a shape or a field of None is left out."""
    draw, types = np.random.default_rng(0), types or {}
    fields = FIELDS | (fields or {})
    writer = gguf.GGUFWriter(path, fields.pop("general.architecture"))
    for name, value in fields.items():
        if value is not None:
            add(writer, name, value)
    for name, shape in (SHAPES | (shapes or {})).items():
        if shape is None:
            continue
        w = draw.normal(size=shape).astype(np.float32)
        w = 1 + 0.1 * w if "norm" in name else w / np.sqrt(shape[-1])
        kind = types.get(name, "F32")
        writer.add_tensor(
            name, coded(w, kind, draw), raw_dtype=gguf.GGMLQuantizationType[kind]
        )
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def matrices(*kinds: str) -> dict[str, str]:
    """Returns the type of each layer's matrices, one kind for each layer."""
    return {
        f"blk.{i}.{name}.weight": kind
        for i, kind in enumerate(kinds)
        for name in LAYER
        if "norm" not in name
    }


def logits_of(found: Any) -> jax.Array:
    return jax.jit(found.model.logits)(found.weights, TOKENS)


MIXTURES = {
    "one Q4_1": matrices("Q4_0", "Q4_1", "Q4_0"),
    "one Q8_0": matrices("Q8_0", "Q4_0", "Q4_0"),
    # as files named Q4_K_M: some matrices of some layers have more bits
    "Q4_K_M": matrices("Q4_K", "Q4_K", "Q4_K")
    | {
        "blk.0.attn_v.weight": "Q6_K",
        "blk.0.ffn_down.weight": "Q6_K",
        "blk.2.ffn_down.weight": "Q6_K",
        "token_embd.weight": "Q6_K",
    },
    "Q5_K": matrices("Q5_K", "Q5_0", "Q5_1"),
    "half precision": matrices("F16", "BF16", "F32"),
}


@pytest.mark.parametrize("name", MIXTURES)
def test_layers_of_different_types_are_computed(name: str, tmp_path: Path) -> None:
    path = write(tmp_path / "mixed.gguf", types=MIXTURES[name])
    dense = language_models.load_gguf(path)
    assert isinstance(dense.weights["layers"], dict)
    found = language_models.load_gguf(path, quantized=True)
    with gfopt.lazy.count_materialisations() as made:
        ours = logits_of(found)
    assert made.list == []
    expected = logits_of(dense)
    assert np.abs(expected).max() > 0.5
    np.testing.assert_allclose(ours, expected, atol=2e-5)
    if name != "half precision":
        assert len(found.weights["layers"]) in (2, 3)
        language_models.save_gguf(found.weights, tmp_path / "same.gguf", path)
        assert (tmp_path / "same.gguf").read_bytes() == path.read_bytes()


def test_stacks_of_different_types_are_tuned_and_continued(tmp_path: Path) -> None:
    path = write(tmp_path / "mixed.gguf", types=MIXTURES["Q4_K_M"])
    found = language_models.load_gguf(path, quantized=True)
    model = gfopt.tokens.CachedModel(found.model, found.weights)
    expected = logits_of(found)[0]
    read = gfopt.Objective(
        lambda m: -m.extend(m.start(TOKENS[0, :2], 9)[1], TOKENS[0, 2:])[0].sum()
    )
    value = read.value(model, None, Inputs())[0]
    np.testing.assert_allclose(value, -expected[2:].sum(), rtol=1e-4)
    scales, codes = gfopt.partition(found.weights)

    def loss(weights: Any) -> jax.Array:
        return -jnp.mean(
            jax.nn.log_softmax(found.model.logits(weights, TOKENS))[..., 1]
        )

    run = gfopt.run(
        gfopt.QZO(1e-2, relative=True),
        loss,
        scales,
        frozen=codes,
        key=jax.random.key(0),
        generations=20,
    )
    losses = np.asarray(run.history["loss"])
    assert losses[-5:].mean() < losses[:5].mean()
    language_models.save_gguf(
        gfopt.merge(run.recommended, codes), tmp_path / "tuned.gguf", path
    )
    tuned = language_models.load_gguf(tmp_path / "tuned.gguf", quantized=True)
    assert loss(materialise(tuned.weights)) < loss(materialise(found.weights))


CONVERTED = {"llama_2": "llama", "llama_3": "llama", "qwen2_tied": "qwen2"}
CONVERTED |= {"qwen3": "qwen3"}


@pytest.mark.parametrize("name", CONVERTED)
def test_a_model_of_transformers_has_its_logits(name: str, tmp_path: Path) -> None:
    """As its tensors are named by the package gguf, and saved back bit for bit."""
    kind, folder = CONVERTED[name], Path(__file__).parent / "model_files" / name
    config = json.loads((folder / "config.json").read_text())
    heads, rope = config["num_attention_heads"], config["rope_parameters"]
    fields = {
        "block_count": config["num_hidden_layers"],
        "attention.head_count": heads,
        "attention.head_count_kv": config["num_key_value_heads"],
        "attention.layer_norm_rms_epsilon": config["rms_norm_eps"],
        "rope.freq_base": float(rope["rope_theta"]),
        "embedding_length": config["hidden_size"],
        "feed_forward_length": config["intermediate_size"],
        "vocab_size": config["vocab_size"],
    }
    writer = gguf.GGUFWriter(tmp_path / "model.gguf", kind)
    for field, value in fields.items():
        add(writer, f"{kind}.{field}", value)
    for field in FIELDS:
        if field.startswith("tokenizer"):
            add(writer, field, FIELDS[field])
    arch = getattr(gguf.MODEL_ARCH, kind.upper())
    names = gguf.get_tensor_name_map(arch, config["num_hidden_layers"])
    for tensor in read_tensors(folder).values():
        w = np.asarray(tensor.read(), np.float32)
        if kind == "llama" and ("q_proj" in tensor.name or "k_proj" in tensor.name):
            field = (
                "num_attention_heads" if "q_" in tensor.name else "num_key_value_heads"
            )
            turned = w.reshape(config[field], 2, -1, w.shape[1])
            w = turned.swapaxes(1, 2).reshape(w.shape)
        writer.add_tensor(names.get_name(tensor.name, (".weight", ".bias")), w)
    if rope["rope_type"] == "llama3":
        # 1 / factors as the converter of llama.cpp writes them
        size, length = config["head_dim"], rope["original_max_position_embeddings"]
        waves = (
            length * rope["rope_theta"] ** (-np.arange(0, size, 2) / size) / 2 / np.pi
        )
        smooth = np.clip((waves - rope["low_freq_factor"]) / 3, 0, 1)
        factors = 1 / ((1 - smooth) / rope["factor"] + smooth)
        writer.add_tensor("rope_freqs.weight", factors.astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    found = language_models.load_gguf(tmp_path / "model.gguf")
    logits = jax.jit(found.model.logits)(
        found.weights, np.load(folder.parent / "tokens.npy")
    )
    np.testing.assert_allclose(logits, np.load(folder / "logits.npy"), atol=5e-5)
    language_models.save_gguf(
        found.weights, tmp_path / "same.gguf", tmp_path / "model.gguf"
    )
    whole = (tmp_path / "model.gguf").read_bytes()
    assert (tmp_path / "same.gguf").read_bytes() == whole


def test_heads_biases_and_factors_are_computed(tmp_path: Path) -> None:
    """Against the same weights as one stack, with zeros for biases that are missing."""
    more = {
        "output.weight": (4, WIDTH),
        "rope_freqs.weight": (SIZE // 2,),
        "blk.1.attn_q.bias": (HEADS * SIZE,),
        "blk.1.ffn_down.bias": (WIDTH,),
    }
    path = write(tmp_path / "more.gguf", shapes=more)
    found = language_models.load_gguf(path)
    tensors = {t.name: np.array(t.data) for t in gguf.GGUFReader(path).tensors}
    same = np.testing.assert_array_equal
    same(found.weights["head"], tensors["output.weight"])
    factors = found.model.layers[0].rotary.factors
    same(np.float32(factors), tensors["rope_freqs.weight"])
    first, second = found.weights["layers"]
    same(second["query_bias"][0], tensors["blk.1.attn_q.bias"])
    same(second["down_bias"][0], tensors["blk.1.ffn_down.bias"])
    zeros = {name: 0 * leaf for name, leaf in second.items() if "bias" in name}
    others = first | {name: jnp.concatenate([z, z]) for name, z in zeros.items()}
    whole = {
        name: jnp.stack([leaf[0], second[name][0], leaf[1]])
        for name, leaf in others.items()
    }
    layers = tuple(own._replace(stack=0) for own in found.model.layers)
    model = dataclasses.replace(found.model, layers=layers)
    expected = model.logits(found.weights | {"layers": whole}, TOKENS)
    np.testing.assert_allclose(logits_of(found), expected, atol=1e-5)
    plain = found.weights | {"layers": whole | {n: 0 * whole[n] for n in zeros}}
    assert np.abs(expected - model.logits(plain, TOKENS)).max() > 1e-3


def test_the_documentation_has_the_fields() -> None:
    page = (Path(__file__).parents[2] / "docs" / "quantized.md").read_text()
    for name in (*gguf_fields.FIELDS, *gguf_fields.FIXED):
        assert f"`{name}`" in page


def test_defaults_are_those_of_llama_cpp(tmp_path: Path) -> None:
    whole = language_models.load_gguf(write(tmp_path / "whole.gguf"))
    gone = {"llama.rope.freq_base": None, "llama.embedding_length": None}
    found = language_models.load_gguf(write(tmp_path / "less.gguf", gone))
    assert found.model == whole.model and found.model.rope_base == 1e4
    scaled = {"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 4.0}
    found = language_models.load_gguf(write(tmp_path / "linear.gguf", scaled))
    assert found.model.layers[0].rotary.factors == (4.0,)


MISSING = (
    "llama.block_count",
    "llama.attention.head_count",
    "llama.attention.layer_norm_rms_epsilon",
    "tokenizer.ggml.model",
    "tokenizer.ggml.pre",
    "tokenizer.ggml.tokens",
    "tokenizer.ggml.merges",
    "tokenizer.ggml.token_type",
)


@pytest.mark.parametrize("name", MISSING)
def test_a_field_that_is_missing_is_named(name: str, tmp_path: Path) -> None:
    path = write(tmp_path / "less.gguf", {name: None})
    with pytest.raises(ValueError, match=f"less.gguf must have the field {name}"):
        language_models.load_gguf(path)
    if name.startswith("tokenizer"):
        own = language_models.load_gguf(write(tmp_path / "whole.gguf")).tokenizer
        found = language_models.load_gguf(path, tokenizer=own)
        assert found.encode(["ab"])[0].tolist() == [[2]]


@pytest.mark.parametrize(
    ("fields", "match"),
    [
        (
            {"general.architecture": "gemma"},
            "type llama, qwen2, qwen3; got .*of type 'gemma'",
        ),
        ({"llama.expert_count": 8}, "llama.expert_count of .* must be 0"),
        (
            {"llama.attention.sliding_window": 8},
            "sliding_window of .* must be 'missing",
        ),
        ({"llama.logit_scale": 0.5}, "llama.logit_scale of .* must be 0.0 or 1.0"),
        ({"llama.rope.scaling.type": "yarn"}, "rope.scaling.type of .* got 'yarn'"),
        ({"llama.rope.dimension_count": 32}, "rope.dimension_count of .* must be 64"),
        ({"llama.embedding_length": 128}, "llama.embedding_length of .* must be 256"),
        ({"llama.attention.head_count": 3}, "head_count of .* must cut the 256 rows"),
        ({"llama.attention.head_count": 8}, "blk.0.attn_k.weight .* must have the sha"),
        ({"llama.attention.head_count": [4, 4, 4]}, "head_count of .* an integer"),
        ({"llama.block_count": 2}, "with 2 layers uses; got blk.2.attn_k.weight"),
        ({"llama.block_count": 4}, "must have the tensor blk.3.attn_k.weight"),
        ({"tokenizer.ggml.pre": "llama-bpe"}, "ggml.pre of .* got 'llama-bpe' .*token"),
        ({"tokenizer.ggml.model": "llama"}, "ggml.model of .* must be 'gpt2'"),
        ({"tokenizer.ggml.add_bos_token": True}, "add_bos_token of .* must be False"),
        ({"tokenizer.ggml.merges": ["a c"]}, "ggml.merges of .* must be pairs of its"),
        ({"tokenizer.ggml.token_type": [1]}, "token_type of .* each of the 4 tokens"),
    ],
)
def test_a_field_that_is_not_computed_is_refused(
    fields: dict[str, Any], match: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=match):
        language_models.load_gguf(write(tmp_path / "other.gguf", fields))


def test_what_the_logits_don_t_need_is_ignored(tmp_path: Path) -> None:
    plain = language_models.load_gguf(write(tmp_path / "plain.gguf"))
    more = {"blk.1.attn_q_norm.weight": (SIZE,), "rope_freqs.weight": (5,)}
    path = write(tmp_path / "more.gguf", {"llama.logit_scale": 0.5}, more)
    names = ("llama.logit_scale", "blk.*.attn_q_norm.weight", "rope_freqs.weight")
    found = language_models.load_gguf(path, ignore=names)
    assert found.model == plain.model
    np.testing.assert_array_equal(logits_of(found), logits_of(plain))
    language_models.save_gguf(found.weights, tmp_path / "same.gguf", path)
    assert (tmp_path / "same.gguf").read_bytes() == path.read_bytes()


def test_a_part_of_a_model_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a-00001-of-00002.gguf", {"split.count": 2})
    with pytest.raises(ValueError, match="a whole model; got .*, one of 2 parts"):
        language_models.load_gguf(path)


def test_the_other_byte_order_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "big.gguf"
    writer = gguf.GGUFWriter(path, "llama", endianess=gguf.GGUFEndian.BIG)
    writer.add_tensor("w", np.ones(3, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(ValueError, match="in this machine's byte order; got .*big"):
        language_models.load_gguf(path)


@pytest.mark.parametrize(
    ("shapes", "match"),
    [
        ({"blk.1.attn_q_norm.weight": (SIZE,)}, "uses; got blk.1.attn_q_norm.weight"),
        ({"blk.1.attn_q.weight": None}, "must have the tensor blk.1.attn_q.weight"),
        ({"token_embd.weight": None}, "must have the tensor token_embd.weight"),
        ({"blk.1.ffn_up.weight": (500, WIDTH)}, "blk.1.ffn_up.weight .* the shape"),
        ({"rope_freqs.weight": (5,)}, "rope_freqs.weight of .* must have 32 numbers"),
        ({"blk.1.attn_v.bias": (3,)}, "blk.1.attn_v.bias of .* the shape .128,."),
    ],
)
def test_a_tensor_that_is_not_what_we_compute_is_refused(
    shapes: dict[str, Any], match: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=match):
        language_models.load_gguf(write(tmp_path / "other.gguf", shapes=shapes))


def test_types_that_are_not_computed_name_their_tensor(tmp_path: Path) -> None:
    """IQ4_NL is read dense, as the package gguf does, and not as it is."""
    path = write(tmp_path / "other.gguf", types={"blk.1.attn_q.weight": "IQ4_NL"})
    with pytest.raises(ValueError, match="got IQ4_NL for blk.1.attn_q.weight"):
        language_models.load_gguf(path, quantized=True)
    assert language_models.load_gguf(path).weights["layers"]["query"].shape == (
        3,
        256,
        256,
    )


def test_packages_that_are_missing_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "whole.gguf")
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(ImportError, match="load_gguf needs tokenizers"):
        language_models.load_gguf(path)
