"""Fitness shaping: sums, ties, failures, invariance."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import gfopt
from gfopt import shaping

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


def test_utilities_are_those_of_the_paper():
    """Wierstra et al.: the first half gets ln(n/2 + 1) - ln k, over its sum, - 1/n."""
    n = 8
    raw = np.maximum(0, np.log(n / 2 + 1) - np.log(np.arange(1, n + 1)))
    found = shaping.nes_utilities(jnp.arange(float(n))[::-1], jnp.ones(n, bool))
    np.testing.assert_allclose(found[::-1], raw / raw.sum() - 1 / n, rtol=1e-5)


def test_the_best_share_and_the_softest_minimum():
    values = jnp.array([3.0, 1.0, 2.0, 0.0])
    every = jnp.ones(4, bool)
    np.testing.assert_allclose(shaping.truncation(0.5)(values, every), [0, 0.5, 0, 0.5])
    np.testing.assert_allclose(shaping.truncation(0.0)(values, every), [0, 0, 0, 1])
    expected = np.exp(-np.asarray(values) / 2)
    found = shaping.softmin(2.0)(values + 1e4, every)
    np.testing.assert_allclose(found, expected / expected.sum(), rtol=1e-5)


@pytest.mark.parametrize("make", [shaping.truncation, shaping.softmin])
def test_equal_shapings_are_one_object(make):
    assert make(0.5) is make(0.5) and make(0.5) is not make(0.25)
    method = gfopt.OpenES(shaping=make(0.5))
    assert method == gfopt.OpenES(shaping=make(0.5))


@pytest.mark.parametrize(
    ("make", "value", "message"),
    [
        (shaping.truncation, 1.5, "fraction must be a number from 0 to 1; got 1.5"),
        (shaping.truncation, np.nan, "fraction must be a number from 0 to 1"),
        (shaping.softmin, 0.0, "temperature must be a finite number above 0; got 0.0"),
    ],
)
def test_bad_arguments_are_named(make, value, message):
    with pytest.raises(ValueError, match=message):
        make(value)
