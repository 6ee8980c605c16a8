"""Noise in torch is JAX's noise."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch", reason="pip install 'gfopt[torch]'")

from gfopt.core.numpy_programs.random import encrypt  # noqa: E402
from gfopt.noise import law as jax_law  # noqa: E402
from gfopt.noise import rounding  # noqa: E402
from gfopt.torch import law, sums  # noqa: E402

WORDS = st.integers(0, 2**32 - 1)
# vectors in one row and in several, matrices of whole and of broken words, stacks
SHAPES = [(), (1,), (7,), (4097,), (9000,), (5, 3), (40, 32), (2, 65), (3, 2, 33)]
SHAPES += [(130, 600), (2, 40000)]  # in several blocks


@settings(deadline=None, max_examples=60)
@given(WORDS, WORDS, st.lists(WORDS, min_size=1, max_size=5), st.integers(1, 9))
def test_words_are_those_of_the_cipher(
    seed: int, path: int, rows: list[int], count: int
) -> None:
    row = np.array(rows, np.uint32)
    grid = np.broadcast_arrays(row[:, None], np.arange(count, dtype=np.uint32))
    with np.errstate(over="ignore"):
        expected = encrypt(np.uint32(seed), np.uint32(path), *grid)
    index = torch.from_numpy(row.view(np.int32))
    for which in (0, 1):
        found = law.words(seed, path, index, count, which).numpy().view(np.uint32)
        assert (found == expected[which]).all()


def drawn(kind: str, seed: int, path: int, shape: tuple[int, ...]) -> np.ndarray:
    """Returns the noise of a leaf, as torch adds it to zeros."""
    zeros = torch.zeros(shape)
    sums.add_into(zeros, zeros, sums.Sum(kind, path, [seed], [1.0]))
    return zeros.numpy()


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_noise_is_that_of_jax(shape: tuple[int, ...]) -> None:
    for seed, path in [(0, 0), (2**32 - 1, 2**31)]:
        by = np.uint32(seed), path, shape
        signs = np.asarray(jax_law.noise_leaf("rademacher", *by))
        assert (drawn("rademacher", seed, path, shape) == signs).all()
        normals = np.asarray(jax_law.noise_leaf("gaussian", *by))
        found = drawn("gaussian", seed, path, shape)
        # one unit of 12 significant bits, in a few of 10,000
        np.testing.assert_allclose(found, normals, rtol=2**-11)
        assert (found != normals).mean() <= max(1e-3, 2 / normals.size)


@settings(deadline=None, max_examples=40)
@given(
    st.floats(width=32, allow_nan=False),
    WORDS,
    st.sampled_from([("bfloat16", torch.bfloat16), ("float16", torch.float16)]),
)
def test_stochastic_rounding_is_that_of_jax(x: float, word: int, dtype: object) -> None:
    name, theirs = dtype
    bits = np.array([word], np.uint32)
    if 0 < abs(x) < 2**-126 or abs(x) > 6e4:  # flushed to 0 by XLA; overflow
        x = 1.0
    expected = rounding.stochastic(jnp.float32([x]), jnp.array(bits), jnp.dtype(name))
    words = torch.from_numpy(bits.view(np.int32))
    found = sums.stochastic(torch.tensor([x]), words, theirs)
    assert found.item() == float(expected[0])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_leaves_of_other_widths_get_the_same_noise(dtype: torch.dtype) -> None:
    base = torch.linspace(-2, 2, 77 * 33).reshape(77, 33).to(dtype)
    by = sums.Sum("rademacher", 5, [9], [2.0**-3])
    expected = (
        base.double() + 2.0**-3 * torch.from_numpy(drawn("rademacher", 9, 5, (77, 33)))
    ).to(dtype)
    assert torch.equal(sums.add_into(torch.empty_like(base), base, by), expected)
    # and so do those of another layout in memory
    turned = base.t().contiguous().t()
    assert torch.equal(sums.add_into(turned, turned, by), expected)


def test_a_sum_of_several_leaves_the_sign_of_zero() -> None:
    base = torch.full((64,), -0.0)
    sums.add_into(base, base, sums.Sum("rademacher", 1, [1, 1], [0.5, -0.5]))
    assert base.signbit().all() and not base.any()
