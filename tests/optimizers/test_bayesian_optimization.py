"""Bayesian optimization: the process, what it expects, and searches by it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from scipy import integrate, stats

import gfopt
from gfopt.optimizers.bayesian import acquisition, gaussian_process
from gfopt.optimizers.bayesian.bayesian_optimization import BayesianOptimization
from gfopt.optimizers.bayesian.gaussian_process import Hyperparameters
from gfopt.optimizers.bayesian.warping import warped
from gfopt.spaces import categorical, integer, real

RNG = np.random.default_rng(0)
POINTS, VALUES, AT = RNG.random((7, 3)), RNG.normal(size=7), RNG.random((5, 3))
LENGTHS, NOISE = np.array([0.5, 1.0, 2.0]), 1e-2
KNOWN = np.arange(10) < 7


@pytest.fixture(autouse=True)
def double_precision() -> Iterator[None]:
    with jax.enable_x64(True):
        yield


def process() -> Any:
    """Returns the process of seven points in a buffer of ten."""
    parameters = Hyperparameters(jnp.log(LENGTHS), jnp.log(NOISE))
    points = jnp.concatenate([POINTS, np.full((3, 3), 9.0)])
    values = jnp.concatenate([VALUES, np.full(3, 1e9)])
    return gaussian_process.conditioned(parameters, points, values, jnp.asarray(KNOWN))


def test_a_process_predicts_as_the_textbook() -> None:
    mean, std, _ = oracles.gaussian_process(POINTS, VALUES, LENGTHS, NOISE, AT)
    found = gaussian_process.predicted(process(), jnp.asarray(AT))
    np.testing.assert_allclose(found, (mean, std), rtol=1e-9)


def test_the_slope_is_that_of_the_likelihood() -> None:
    numbers = np.append(np.log(LENGTHS), math.log(NOISE))

    def posterior(numbers: np.ndarray) -> float:
        lengths, noise = np.exp(numbers[:3]), float(np.exp(numbers[3]))
        return oracles.gaussian_process(POINTS, VALUES, lengths, noise, AT)[2]

    steps = 1e-5 * np.eye(4)
    slope = [(posterior(numbers - e) - posterior(numbers + e)) / 2e-5 for e in steps]
    found = gaussian_process._slope(process())
    np.testing.assert_allclose(np.append(*found), slope, rtol=1e-5)


def test_a_fit_finds_which_coordinate_matters() -> None:
    points = RNG.random((40, 2))
    values = warped(jnp.asarray(np.sin(6 * points[:, 0])))
    parameters = gaussian_process.prior(2, points.dtype)
    known = jnp.ones(40, bool)
    for _ in range(5):
        parameters = gaussian_process.fitted(
            parameters, jnp.asarray(points), values, known
        )
    lengths = np.exp(parameters.lengths)
    assert lengths[0] < 1 and lengths[1] > 3 * lengths[0]
    assert np.exp(parameters.noise) < 1e-3


def test_float32_leaves_a_process_finite() -> None:
    near = RNG.normal(size=(40, 3)) * 1e-4
    points = jnp.asarray(20 + np.concatenate([near, RNG.normal(size=(40, 3))]), "f4")
    values, known = warped(jnp.sum((points - 20) ** 2, axis=1)), jnp.ones(80, bool)
    short = Hyperparameters(jnp.full(3, -2.0, "f4"), jnp.asarray(-11.3, "f4"))
    parameters = gaussian_process.fitted(short, points, values, known)
    process = gaussian_process.conditioned(parameters, points, values, known)
    assert np.all(np.isfinite(gaussian_process.predicted(process, points)))


@pytest.mark.parametrize("u", [3.0, 0.0, -2.0, -4.999, -5.001, -9.0])
def test_the_expected_improvement_is_its_integral(u: float) -> None:
    std = 0.7
    gain = lambda z: max(u - z, 0) * stats.norm.pdf(z)  # noqa: E731
    expected, _ = integrate.quad(gain, -40, u, points=[u - 1, u - 0.1], epsabs=0)
    found = acquisition.log_expected_improvement(
        jnp.asarray(-u * std), jnp.asarray(std), jnp.asarray(0.0)
    )
    np.testing.assert_allclose(found, math.log(std * expected), rtol=1e-3)


def test_values_keep_their_order_and_bad_ones_are_drawn_in() -> None:
    fitness = jnp.asarray([3.0, 1.0, 2.0, 1e9, jnp.inf, 0.0])
    z = np.asarray(warped(fitness))
    np.testing.assert_array_equal(np.argsort(z[[0, 1, 2, 3, 5]]), [4, 1, 2, 0, 3])
    assert z[4] == 0
    assert np.mean(z[:4].sum() + z[5]) == pytest.approx(0)
    # equal distances below the median are equal
    assert z[2] - z[1] == pytest.approx(z[1] - z[5])
    assert not np.any(warped(jnp.full(4, jnp.inf)))
    assert not np.any(warped(jnp.full(4, 2.0)))


def searched(fun: Any, x0: Any, bounds: Any, budget: int, **options: Any) -> Any:
    return gfopt.minimize(
        gfopt.Objective(fun, traceable=False),
        x0,
        bounds=bounds,
        method="bayesian_optimization",
        options={"num_points": budget, **options},
        budget=budget,
    )


def test_it_finds_a_minimum_with_few_evaluations() -> None:
    """Branin has 1.09 at best among 40 uniform points, in the median."""

    def branin(x: np.ndarray) -> float:
        a, b = 5.1 / (4 * math.pi**2), 5 / math.pi
        bowl = (x[1] - a * x[0] ** 2 + b * x[0] - 6) ** 2
        return bowl + 10 * (1 - 1 / (8 * math.pi)) * math.cos(x[0]) + 10 - 0.397887

    result = searched(branin, [5.0, 10.0], [(-5, 10), (0, 15)], 40)
    assert result.fun < 1e-2
    assert result.path == "host"


def test_it_knows_integers_log_scales_and_choices() -> None:
    asked = []

    def fun(x: dict[str, Any]) -> float:
        asked.append({name: float(value) for name, value in x.items()})
        place = 0.0 if x["kind"] == 2 else 1.0
        return (x["n"] - 6) ** 2 + math.log10(x["rate"] / 0.1) ** 2 + place

    bounds = {
        "n": integer(0, 9),
        "rate": real(1e-3, 1e3, log=True),
        "kind": categorical(3),
    }
    result = searched(fun, {"n": 0, "rate": 100.0, "kind": 0}, bounds, 40)
    assert result.x["n"] == 6 and result.x["kind"] == 2 and result.fun < 1e-3
    assert all(x["n"] in range(10) and x["kind"] in range(3) for x in asked)


def test_it_begins_within_a_bound_on_one_side() -> None:
    result = searched(lambda x: float(np.sum(x)), [0.1] * 4, (0, None), 5)
    assert result.nfev == 5 and np.min(result.state.points) >= 0


def test_a_choice_among_many_does_not_take_the_budget() -> None:
    for options, size in ((2, 4), (30, 5)):  # x0, and min(1 + options, 2 * 2) points
        bounds = {"x": real(0, 1), "kind": categorical(options)}
        search = gfopt.AskTell(
            "bayesian_optimization", {"x": 0.5, "kind": 0}, bounds=bounds
        )
        assert len(search.ask()) == size


def test_a_region_that_fails_is_left() -> None:
    failed = []

    def fun(x: np.ndarray) -> float:
        if x[0] > 0.5:
            failed.append(x)
            raise RuntimeError("no convergence")
        return float((x[0] - 0.4) ** 2 + (x[1] - 0.7) ** 2)

    result = searched(fun, [0.1, 0.1], (0, 1), 30)
    assert result.fun < 1e-3
    assert 0 < len(failed) < 15  # of 30, where half of the box fails


def test_points_of_a_batch_lie_apart() -> None:
    options = {"num_points": 16, "batch_size": 4}
    search = gfopt.AskTell(
        "bayesian_optimization", [0.0, 0.0], bounds=(-2, 2), options=options
    )
    for _ in range(3):
        trials = search.ask(4)
        points = np.array([trial.solution for trial in trials])
        apart = np.linalg.norm(points[:, None] - points, axis=-1)
        assert np.min(apart + np.eye(4)) > 0.01
        for trial in trials:
            search.tell(trial, float(np.sum((trial.solution - 1) ** 2)))


def told(values: list[float], **options: Any) -> Any:
    """Returns a search in 2-D in which these values came one after another."""
    left = iter(values)
    return searched(lambda x: next(left), [0.0, 0.0], (-1, 1), len(values), **options)


def test_the_best_point_is_never_forgotten() -> None:
    result = told([0.0, *range(1, 9)], num_points=4)
    np.testing.assert_array_equal(result.state.fitness, [0.0, 8.0, 7.0, 6.0])
    np.testing.assert_array_equal(result.recommended, [0.0, 0.0])


def test_the_region_follows_what_was_found() -> None:
    values = [1.0, 1.1, 1.2] + [1.5] * 8 + [-10.0, -100.0, -1000.0] + [0.0] * 4
    result = told(values)
    # the first step; two times four without a gain; three gains; four without
    radius = [0.8] * 4 + [0.4] * 4 + [0.2] * 3 + [0.4] * 4 + [0.2]
    np.testing.assert_allclose(result.history["radius"], radius)


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"num_points": 3}, ValueError, "num_points"),
        ({"batch_size": 0}, ValueError, "batch_size"),
        ({"sigma": -1.0}, ValueError, "sigma"),
    ],
)
def test_a_wrong_argument_is_named(options: Any, error: Any, match: str) -> None:
    with pytest.raises(error, match=match):
        BayesianOptimization(**options)
