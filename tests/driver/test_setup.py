"""From what people pass to a method, a starting point and its precision."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

import gfopt
from gfopt import registry
from gfopt.driver.setup.arguments import as_solution, check_frozen
from gfopt.driver.setup.method import auto_method
from gfopt.driver.setup.setup import setup
from gfopt.protocol import as_method, innermost


@pytest.mark.parametrize(
    ("x0", "x64", "dtypes"),
    [
        (1.5, True, ["float64"]),
        (2, True, ["float64"]),
        ([1, 2], True, ["float64"]),
        ((1.0, 2), True, ["float64"]),
        (np.float32([1, 2]), True, ["float64"]),
        (np.arange(3), True, ["float64"]),
        (jnp.ones(2), False, ["float32"]),
        (jnp.arange(3), False, ["float32"]),
        (jnp.ones(2, jnp.bfloat16), False, ["bfloat16"]),
        ({"a": jnp.ones(2), "b": np.ones(1)}, True, ["float32", "float64"]),
        (
            {"a": jnp.ones(2), "b": jnp.ones(1, jnp.bfloat16)},
            False,
            ["float32", "bfloat16"],
        ),
        ([np.ones(2), 3.0], True, ["float64", "float64"]),
    ],
)
def test_the_starting_point_decides_the_precision(x0, x64, dtypes):
    made = setup("open_es", x0)
    assert made.x64 is x64
    assert [str(leaf.dtype) for leaf in jax.tree.leaves(made.x0)] == dtypes
    assert not jax.config.jax_enable_x64


def test_double_precision_jax_arrays_are_searched_in_it():
    with jax.enable_x64(True):
        x0 = jnp.ones(2)
    made = setup("open_es", x0)
    assert made.x64 and made.x0.dtype == np.float64


def test_the_starting_point_is_not_the_callers_array():
    x0 = np.ones(2)
    made = setup("open_es", x0)
    x0[:] = 5
    assert made.x0.tolist() == [1, 1]


def test_lists_of_numbers_are_vectors_and_other_trees_stay():
    assert as_solution([1, 2.5]).tolist() == [1, 2.5]
    assert as_solution([[1, 2], [3, 4]]).shape == (2, 2)
    ragged = as_solution([[1, 2], [3]])
    assert ragged == [[1, 2], [3]]
    assert isinstance(as_solution({"a": [1, 2]})["a"], list)


def test_auto():
    sizes = {2: "cma_es", 1000: "cma_es", 2000: "cr_fm_nes", 10**5: "open_es"}
    assert {size: auto_method(size) for size in sizes} == sizes
    small = setup("auto", np.ones(3), sigma0=0.7)
    assert small.optimizer == gfopt.CMAES(sigma=0.7)
    assert isinstance(small.hosted, gfopt.Separable) and small.hosted.stops
    model = small.hosted.inner
    assert isinstance(model, gfopt.LQCMAES) and model.sigma == 0.7
    again = setup("auto", np.ones(3), sigma0=0.7, restarts=True).hosted
    assert isinstance(again.inner, gfopt.Restarts) and again.inner.inner == model
    assert not again.stops
    bounded = setup("auto", np.ones(3), bounds=(0.0, 2.0), restarts=True).hosted
    assert isinstance(bounded.inner.inner, gfopt.Restarts)
    # where values are noisy, options are given or there are many numbers: no model
    for made in (
        setup("auto", np.ones(3), allows_model=False),
        setup("auto", np.ones(3), options={"active": False}),
        setup("auto", np.ones(41)),
    ):
        assert made.hosted is made.optimizer
    assert isinstance(setup("auto", jnp.ones(2000)).optimizer, gfopt.CRFMNES)


@pytest.mark.parametrize("sigma0", [0.01, 1.0, 100.0])
def test_auto_bears_a_wrong_scale(sigma0):
    """From 1e3 away, sigma off by 100 either way: some 1,000 evaluations each."""

    def rosenbrock(x):
        return float(100 * (x[1] - x[0] ** 2) ** 2 + (1 - x[0]) ** 2)

    found = gfopt.minimize(
        rosenbrock, [1e3, 1e3], sigma0=sigma0, budget=1500, target=1e-8, seed=1
    )
    assert found.success and found.path == "host"


def sigmas(made):
    """The first standard deviation of each coordinate."""
    optimizer = made.optimizer
    if not isinstance(optimizer, gfopt.Bounded):
        return optimizer.sigma
    assert optimizer.inner.sigma == 1
    return jax.tree.map(np.asarray, optimizer.space.scale)


@pytest.mark.parametrize(
    ("x0", "words", "expected"),
    [
        (np.zeros(2), {}, 0.3),  # 0.3 max(1, rms(x0))
        (np.array([10.0, -10.0]), {}, 3.0),
        (np.array([10.0, -10.0]), {"sigma0": 0.5}, 0.5),
        (np.zeros(2), {"bounds": [(-5, 5), (0, 1)]}, [2.0, 0.2]),  # a fifth
        (np.zeros(2), {"bounds": (-5, 5)}, [2.0, 2.0]),
        (np.zeros(2), {"bounds": (None, 5)}, [0.3, 0.3]),
        (np.zeros(2), {"bounds": [(-5, 5), (None, 1)]}, [2.0, 0.3]),
        (np.zeros(2), {"bounds": [(-np.inf, 5), (-1, 1)]}, [0.3, 0.4]),
        (np.zeros(2), {"bounds": scipy.optimize.Bounds(-1, [1, 4])}, [0.4, 1.0]),
        (np.zeros(2), {"bounds": (-5, 5), "sigma0": 0.25}, [0.25, 0.25]),
        (np.zeros(2), {"sigma0": [0.1, 0.2]}, [0.1, 0.2]),
        (np.zeros(2), {"sigma0": np.array([0.2, 0.2])}, 0.2),
    ],
)
def test_the_first_step_size(x0, words, expected):
    np.testing.assert_allclose(sigmas(setup("cma_es", x0, **words)), expected)


def test_a_step_size_for_every_leaf():
    x0 = {"a": np.zeros(2), "b": np.zeros((1, 3))}
    found = sigmas(setup("cma_es", x0, {"a": [0.1, 0.2], "b": 0.5}))
    assert found["a"].tolist() == [0.1, 0.2] and found["b"].tolist() == [[0.5] * 3]
    made = setup("cma_es", x0, {"a": 0.5, "b": np.full(3, 0.5)})
    assert made.optimizer.sigma == 0.5


def test_a_space_brings_its_scale():
    space = gfopt.spaces.Space(np.zeros(2), np.ones(2), np.array([0.1, 0.4]))
    assert sigmas(setup("cma_es", np.full(2, 0.5), bounds=space)).tolist() == [0.1, 0.4]
    made = setup("cma_es", np.full(2, 0.5), 0.3, space)
    assert sigmas(made).tolist() == [0.3, 0.3]


def test_methods_for_networks_keep_their_own_step_size():
    default = gfopt.OpenES().sigma
    assert setup("open_es", np.full(3, 100.0)).optimizer.sigma == default
    made = setup("open_es", np.zeros(2), bounds=[(0, 10), (None, None)])
    np.testing.assert_allclose(sigmas(made), [2.0, default])


def test_options_may_set_the_step_size_themselves():
    made = setup("cma_es", np.zeros(2), options={"sigma": 0.7, "population_size": 9})
    assert made.optimizer == gfopt.CMAES(population_size=9, sigma=0.7)
    bounded = setup("cma_es", np.zeros(2), bounds=(-1, 1), options={"sigma": 0.7})
    assert bounded.optimizer.inner.sigma == 0.7
    assert np.asarray(bounded.optimizer.space.scale).tolist() == [0.4, 0.4]


def test_an_optimizer_is_taken_as_it_is():
    optimizer = gfopt.CMAES(sigma=0.4)
    assert setup(optimizer, np.zeros(2)).optimizer is optimizer
    bounded = setup(optimizer, np.zeros(2), bounds=(-1, 1)).optimizer
    # but for where candidates are drawn
    assert dataclasses.replace(bounded.inner, box=None) == optimizer
    assert np.array_equal(bounded.inner.box.upper, [2.5, 2.5])


UNEQUAL = [(0, 1000), (0, 0.1), (None, 1)]
SIZED = [row for row in registry.METHODS.values() if row.sigma and not row.tokens]
AROUND = {
    "alone": lambda method: method,
    "reevaluated": gfopt.Reevaluated,
    "rule": gfopt.FeasibilityRule,
    "lagrangian": gfopt.AugmentedLagrangian,
    "novelty": lambda method: gfopt.Novelty(method, 2),
    "restarts": gfopt.Restarts,
}


def scale_of(optimizer):
    """One standard deviation of each coordinate, in units of x."""
    sigma = getattr(innermost(optimizer), "sigma", 1.0)
    return sigma * np.asarray(as_method(optimizer).search_space.scale)


@pytest.mark.parametrize("row", SIZED, ids=lambda row: row.name)
def test_an_object_has_the_scale_of_its_name(row):
    """CMA-ES as an object had one scale for 1000 and 0.1, and no sigma0."""
    x0 = np.full(3, 0.05)
    options = {row.sigma: 1.0}
    if row.name == "deep_ga":
        options["elitism"] = False
    method, words = registry.method(row.name, options), {"bounds": UNEQUAL}
    named = scale_of(setup(row.name, x0, **words).optimizer)
    np.testing.assert_allclose(
        scale_of(setup(method, x0, **words).optimizer)[:2], named[:2]
    )
    assert scale_of(setup(method, x0, **words).optimizer)[2] == 1.0
    given = setup(row.name, x0, options=options, **words).optimizer
    np.testing.assert_allclose(
        scale_of(given), scale_of(setup(method, x0, **words).optimizer)
    )
    for sigma0 in (0.3, [3.0, 0.01, 0.5]):
        for bounds in (None, UNEQUAL):
            found = setup(method, x0, sigma0, bounds).optimizer
            expected = setup(row.name, x0, sigma0, bounds).optimizer
            if isinstance(expected, gfopt.Bounded):
                np.testing.assert_allclose(scale_of(found), scale_of(expected))
            assert innermost(found).sigma == innermost(expected).sigma


@pytest.mark.parametrize("name", AROUND)
def test_within_a_wrapper_it_has_that_scale_too(name):
    method = AROUND[name](gfopt.CMAES(sigma=1.0))
    x0 = np.full(3, 0.05)
    np.testing.assert_allclose(
        scale_of(setup(method, x0, bounds=UNEQUAL).optimizer), [200, 0.02, 1]
    )
    made = setup(method, x0, [3.0, 0.01, 0.5], UNEQUAL).optimizer
    np.testing.assert_allclose(scale_of(made), [3.0, 0.01, 0.5])
    alone = setup(method, x0, 0.7).optimizer
    assert type(alone) is type(method) and innermost(alone).sigma == 0.7


def test_bounds_of_very_different_widths_are_searched_by_an_object():
    def fun(x):
        return jnp.sum((x / jnp.array([1000, 0.1]) - 0.3) ** 2)

    for method in (gfopt.CMAES(sigma=1.0), "cma_es"):
        found = gfopt.minimize(
            fun,
            None,
            bounds=[(0, 1000), (0, 0.1)],
            method=method,
            budget=600,
            target=1e-8,
        )
        assert found.success and found.nfev < 300


def test_frozen_leaves_are_the_other_half():
    x = {"w": np.ones(2), "b": np.ones(1), "c": [np.ones(1), np.ones(2)]}
    chosen, frozen = gfopt.partition(x, lambda path, leaf: path in ("w", "c/1"))
    check_frozen(chosen, frozen)
    check_frozen(x, None)
    for wrong in (x, {"w": None}, frozen | {"w": 1.0}, 3.0, frozen | {"d": None}):
        with pytest.raises(ValueError, match="frozen must be the other half of x0"):
            check_frozen(chosen, wrong)
