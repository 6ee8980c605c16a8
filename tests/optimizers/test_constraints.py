"""Constraints: coefficients as in the paper, answers that are feasible, both paths."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
import scipy.optimize

import gfopt
from gfopt.core.constraints import as_constraints, is_feasible, values, values_at
from gfopt.optimizers.wrappers.augmented_lagrangian import constrained

BOX = scipy.optimize.LinearConstraint([[1.0, 0.0, 0.0]], -5, 0.2)
BALL = scipy.optimize.NonlinearConstraint(lambda x: x @ x, -np.inf, 4)


def sphere(x: Any) -> Any:
    return ((x - 2) ** 2).sum()


def half(x: Any) -> Any:
    return x.sum() - 1


def count(x: np.ndarray) -> float:
    """A function that JAX cannot trace."""
    return float(np.sum((x - 2) ** 2))


@pytest.mark.parametrize("fun", [sphere, count], ids=["compiled", "host"])
def test_the_best_is_feasible_and_near(fun: Any) -> None:
    result = gfopt.minimize(
        fun, [4.0, 3.0, 0.0], constraints=half, budget=1500, seed=1, sigma0=0.5
    )
    assert result.path == ("compiled" if fun is sphere else "host")
    for x in (result.x, result.recommended):
        assert x.sum() <= 1
        np.testing.assert_allclose(x, 1 / 3, atol=0.01)
    assert result.fun == pytest.approx(sphere(result.x)) and not result.failures
    best = result.history["best"]
    assert np.isnan(best[0]) and best[-1] == result.fun
    assert np.nanmin(result.history["fitness"]) == result.fun


@pytest.mark.parametrize("method", ["differential_evolution", "one_plus_one", "snes"])
def test_other_methods_keep_constraints(method: str) -> None:
    result = gfopt.minimize(
        sphere, jnp.zeros(3), method=method, constraints=half, budget=1500, seed=2
    )
    kind = gfopt.AugmentedLagrangian if method == "snes" else gfopt.FeasibilityRule
    assert isinstance(result.optimizer, kind)
    assert result.x.sum() <= 1 and result.fun < 8.9  # 8.33, from 12


def test_every_form_of_constraints() -> None:
    constraints = as_constraints([half, BOX, BALL])
    x = np.array([1.0, 2.0, 0.5])
    found = values(constraints, x)
    np.testing.assert_allclose(found, [2.5, -6.0, 0.8, 1.25])
    np.testing.assert_allclose(jax.jit(lambda x: values(constraints, x))(x), found)
    np.testing.assert_allclose(values_at(constraints, x), found)
    stacked = values((lambda x: x[:, :2] - 1,), np.ones((4, 3)), batched=True)
    assert stacked.shape == (4, 2)
    result = gfopt.minimize(
        sphere, [0.0, 0.0, 0.0], constraints=[BOX, BALL], budget=2000, seed=1
    )
    # on the ball and the plane: x = (.2, sqrt(3.96 / 2), sqrt(3.96 / 2))
    np.testing.assert_allclose(result.x, [0.2, 1.4071, 1.4071], atol=0.02)


@pytest.mark.parametrize(
    ("constraints", "error", "words"),
    [
        (3.0, TypeError, "constraints must be a function"),
        ({"type": "ineq", "fun": half}, TypeError, "constraints must be a function"),
        (
            scipy.optimize.LinearConstraint([[1.0, 0, 0]], 1, 1),
            ValueError,
            "must leave room between lb and ub",
        ),
        (lambda x: "a", TypeError, "constraints must return real numbers"),
        (lambda x: (), ValueError, "constraints must return at least one"),
    ],
)
def test_bad_constraints_are_named(constraints: Any, error: Any, words: str) -> None:
    with pytest.raises(error, match=words):
        gfopt.minimize(sphere, [0.0] * 3, constraints=constraints, budget=10)


def test_a_method_of_finite_differences_is_refused() -> None:
    for refused in (
        lambda: constrained(gfopt.MeZO(), 1),
        lambda: gfopt.Bounded(
            gfopt.MeZO(), gfopt.spaces.Space(0.0, 9.0, 1.0, integer=True)
        ),
        lambda: gfopt.minimize(sphere, [0.0], method="mezo", constraints=half),
    ):
        with pytest.raises(TypeError, match="not one of finite differences"):
            refused()


def test_nothing_feasible_is_no_answer() -> None:
    result = gfopt.minimize(
        sphere, [0.0] * 2, constraints=lambda x: 1.0 + jnp.sum(x**2), budget=60
    )
    assert np.isnan(result.fun) and result.nfev == 60


def test_a_constraint_that_fails_is_a_failed_evaluation() -> None:
    def g(x: np.ndarray) -> float:
        if x[0] > 2.02:
            raise ArithmeticError("too large")
        return float(x[0]) - 2

    result = gfopt.minimize(count, [2.0, 0.0], constraints=g, budget=300, seed=1)
    assert result.failures.keys() == {"ArithmeticError: too large"}
    assert result.x[0] <= 2 and result.fun < 0.1


def test_constraints_come_with_aux_keys_bounds_and_integers() -> None:
    def f(key: Any, x: Any) -> Any:
        return ((x - 3.6) ** 2).sum(), x

    objective = gfopt.Objective(f, takes_key=True, has_aux=True)
    result = gfopt.minimize(
        objective,
        [0.0, 0.0],
        bounds=[gfopt.spaces.integer(0, 9), (0, 9)],
        constraints=lambda x: x.sum() - 5.5,
        budget=800,
        seed=3,
    )
    assert result.x[0] in (2, 3) and result.x.sum() <= 5.5
    assert result.fun < 3.25  # (3, 2.5): 1.57; (2, 3.5): 2.57


def test_the_lagrangian_follows_the_paper() -> None:
    """Step by step against a plain loop, with failures among the rows."""
    with jax.enable_x64(True):
        optimizer = gfopt.AugmentedLagrangian(gfopt.CMAES(), num_constraints=2)
        state = optimizer.init(jax.random.key(0), jnp.ones(3))
        rng = np.random.default_rng(1)
        peer = oracles.Lagrangian(3, 2)
        tell, ask = jax.jit(optimizer.tell), jax.jit(optimizer.ask)
        for step in range(12):
            population = ask(jax.random.key(step), state)
            size = population.active.size
            f = rng.normal(size=size) * 3
            g = rng.normal(size=(size, 2)) * [1, 0.1] + [0.2, -0.3 + 0.05 * step]
            valid = rng.random(size) > 0.2
            told = gfopt.Evaluation(
                jnp.asarray(np.where(valid, f, np.inf)),
                jnp.asarray(valid),
                gfopt.ConstraintValues(jnp.asarray(g)),
            )
            state, _ = tell(state, population, told)
            peer.tell(f[valid], g[valid], size)
            np.testing.assert_allclose(state.multipliers, peer.gamma, rtol=1e-9)
            np.testing.assert_allclose(state.penalties, peer.omega, rtol=1e-9)
    assert np.all(np.asarray(state.penalties) > 0)


def test_the_rule_orders_feasible_first_then_by_excess() -> None:
    seen = {}

    class Spy:
        """An optimizer that shows what it is told."""

        def init(self, key: Any, solution: Any) -> Any:
            return gfopt.RandomSearch(population_size=4).init(key, solution)

        def ask(self, key: Any, state: Any) -> Any:
            return gfopt.RandomSearch(population_size=4).ask(key, state)

        def decode(self, state: Any, member: Any) -> Any:
            return gfopt.RandomSearch(population_size=4).decode(state, member)

        def tell(self, state: Any, population: Any, evaluation: Any) -> Any:
            seen["fitness"] = np.asarray(evaluation.fitness)
            return state, ()

        def recommend(self, state: Any) -> Any:
            return state.center

    rule = gfopt.FeasibilityRule(Spy())
    state = rule.init(jax.random.key(0), jnp.zeros(2))
    population = rule.ask(jax.random.key(1), state)
    g = jnp.array([[-1.0, -1.0], [1e-6, -9.0], [0.0, 0.0], [3.0, 1.0]])
    evaluation = gfopt.Evaluation(
        jnp.array([5.0, -9.0, 7.0, -9.0]), jnp.ones(4, bool), gfopt.ConstraintValues(g)
    )
    assert is_feasible(evaluation).tolist() == [True, False, True, False]
    state, _ = rule.tell(state, population, evaluation)
    assert np.argsort(seen["fitness"]).tolist() == [0, 2, 1, 3]
    assert seen["fitness"][[0, 2]].tolist() == [5, 7]
    assert float(state.best.fitness) == 5
    huge = evaluation._replace(fitness=jnp.array([1e37, -9.0, 7.0, -9.0]))
    rule.tell(state, population, huge)
    assert np.argsort(seen["fitness"]).tolist() == [2, 0, 1, 3]
    first = jax.tree.map(lambda leaf: leaf[0], population.members)
    np.testing.assert_array_equal(rule.recommend(state), rule.decode(state, first))
