"""Fitness shaping: sums, ties, failures, invariance."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gfopt.core import shaping

SIZE = 6
SHAPINGS = {
    "centered_rank": shaping.centered_rank,
    "nes_utilities": shaping.nes_utilities,
    "standardised": shaping.standardised,
    "raw": shaping.raw,
    "truncation": shaping.truncation(0.5),
    "softmin": shaping.softmin(2.0),
}
BY_RANK = ("centered_rank", "nes_utilities", "truncation")
# one length, few distinct values: ties are common and nothing is compiled anew
fitness = st.lists(st.integers(-3, 3), min_size=SIZE, max_size=SIZE)
valid = st.lists(st.booleans(), min_size=SIZE, max_size=SIZE)


def weights(name, values, is_valid=(True,) * SIZE):
    values = jnp.where(jnp.array(is_valid), jnp.array(values, jnp.float32), jnp.nan)
    return np.asarray(SHAPINGS[name](values, jnp.array(is_valid)))


@pytest.mark.parametrize("name", SHAPINGS)
@given(fitness, valid)
def test_failures_weigh_nothing_and_do_not_count(name, values, is_valid):
    found = weights(name, values, is_valid)
    assert np.all(np.isfinite(found))
    assert np.all(found[~np.array(is_valid)] == 0)
    if any(is_valid):
        alone = np.array(values, np.float32)[np.array(is_valid)]
        there = np.asarray(SHAPINGS[name](jnp.array(alone), jnp.ones(alone.size, bool)))
        np.testing.assert_allclose(found[np.array(is_valid)], there, atol=1e-6)


@pytest.mark.parametrize("name", SHAPINGS)
@given(fitness)
def test_equal_fitness_weighs_the_same_and_better_never_less(name, values):
    found = weights(name, values)
    for i in range(SIZE):
        for j in range(SIZE):
            if values[i] == values[j]:
                assert found[i] == pytest.approx(found[j], abs=1e-6)
            elif values[i] < values[j]:
                assert found[i] >= found[j] - 1e-6


@pytest.mark.parametrize("name", BY_RANK)
@given(fitness)
def test_a_monotone_transform_changes_nothing(name, values):
    before = weights(name, values)
    after = weights(name, [np.exp(value) + 7 for value in values])
    np.testing.assert_array_equal(before, after)


@pytest.mark.parametrize(
    ("name", "total"),
    [("centered_rank", 0), ("nes_utilities", 0), ("truncation", 1), ("softmin", 1)],
)
@given(fitness)
def test_sums(name, total, values):
    assert weights(name, values).sum() == pytest.approx(total, abs=1e-5)


def test_centered_ranks_are_those_of_the_paper():
    """Reference check E1: -1/2 to 1/2, std sqrt((n + 1) / (12 (n - 1)))."""
    n = 101
    values = jnp.array(np.random.default_rng(0).permutation(n), jnp.float32)
    found = np.asarray(shaping.centered_rank(values, jnp.ones(n, bool)))
    assert (found.min(), found.max()) == (-0.5, 0.5)
    assert found.std() == pytest.approx(np.sqrt((n + 1) / (12 * (n - 1))), rel=1e-6)
    assert found[int(np.argmin(values))] == 0.5


@pytest.mark.parametrize("name", ["centered_rank", "nes_utilities", "standardised"])
def test_a_constant_objective_moves_nothing(name):
    np.testing.assert_allclose(weights(name, [2] * SIZE), 0, atol=1e-7)


def test_one_failed_half_spoils_its_pair():
    found = shaping.pairs_valid(jnp.array([True, True, True, False, False, True]))
    assert found.tolist() == [True, True, False, False, False, False]
