"""CMA-ES beside its oracle and beside pycma, given the same samples."""

from __future__ import annotations

import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from programs import cheap_jit

import gfopt
from gfopt.core.evaluate import decode_rows, judged
from gfopt.optimizers.cma.cma_es import CMAES, CMAESMember
from gfopt.optimizers.cma.parameters import constants
from gfopt.optimizers.cma.root import root_gap
from gfopt.types import Population

with warnings.catch_warnings():  # what other packages warn about is not our concern
    warnings.simplefilter("ignore")
    import cma


@pytest.fixture(autouse=True)
def x64() -> Any:
    """Runs every test here in double precision."""
    with jax.enable_x64(True):
        yield


def rotation(dimension: int, seed: int = 0) -> np.ndarray:
    """Returns a random orthogonal matrix."""
    normal = np.random.default_rng(seed).normal(size=(dimension, dimension))
    return np.linalg.qr(normal)[0]


def ellipsoid(dimension: int, condition: float, seed: int = 0) -> np.ndarray:
    """Returns the matrix H of a rotated ellipsoid x'Hx."""
    q = rotation(dimension, seed)
    scales = condition ** (np.arange(dimension) / max(1, dimension - 1))
    return q.T @ np.diag(scales) @ q


def programs(optimizer: CMAES) -> Any:
    """Returns ``ask``, ``tell`` of a fitness, and the candidates, compiled."""
    return (
        cheap_jit(optimizer.ask),
        cheap_jit(lambda s, p, f: optimizer.tell(s, p, judged(f, p.active, ()))[0]),
        cheap_jit(lambda s, p: decode_rows(optimizer, s, p.members)),
    )


@pytest.mark.parametrize(
    ("dimension", "size", "active"),
    [(1, 4, True), (4, 16, True), (5, 7, False), (10, 10, True), (3, 2, True)],
)
def test_steps_as_its_oracle(dimension: int, size: int, active: bool) -> None:
    c = constants(dimension, size)
    weights = c.weights if active else np.maximum(c.weights, 0)
    x0, h = np.linspace(-1, 2, dimension), ellipsoid(dimension, 1e3)
    oracle = oracles.CMAES(
        x0,
        0.5,
        weights,
        c.c_sigma,
        c.d_sigma,
        c.c_c,
        c.c_1,
        c.c_mu,
        root_gap(dimension, size),
    )
    optimizer = CMAES(population_size=size, sigma=0.5, active=active)
    ask, tell, candidates = programs(optimizer)
    state = optimizer.init(jax.random.key(0), jnp.asarray(x0))
    for step in range(30):
        population = ask(jax.random.key(step), state)
        z = np.asarray(population.members.z)
        x = oracle.candidates(z)
        np.testing.assert_allclose(candidates(state, population), x, 1e-10, 1e-12)
        fitness = np.array([row @ h @ row for row in x])
        oracle.tell(z, fitness)
        state = tell(state, population, jnp.asarray(fitness))
        for ours, theirs in (
            (state.mean, oracle.mean),
            (state.sigma, oracle.sigma),
            (state.covariance, oracle.covariance),
            (state.path_sigma, oracle.path_sigma),
            (state.root @ state.path_c, oracle.path_c),
        ):
            np.testing.assert_allclose(ours, theirs, rtol=1e-10, atol=1e-12)


def peer(x0: np.ndarray, sigma: float, **options: Any) -> Any:
    """Returns a silent pycma run that starts from the identity."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        es = cma.CMAEvolutionStrategy(x0, sigma, {"verbose": -9, "seed": 1, **options})
    return es


@pytest.mark.parametrize("population_size", [2, 3, 7, 10, 25, 100])
def test_weights_and_rates_are_those_of_pycma(population_size: int) -> None:
    for dimension in (1, 2, 3, 5, 10, 20, 40, 100):
        es = peer(np.ones(dimension), 1.0, popsize=population_size)
        c = constants(dimension, population_size)
        np.testing.assert_allclose(c.weights, [*es.sp.weights], rtol=1e-12, atol=1e-14)
        ours = (c.mu_eff, c.c_1, c.c_mu, c.c_c)
        theirs = (es.sp.weights.mueff, es.sp.c1, es.sp.cmu, es.sp.cc)
        np.testing.assert_allclose(ours, theirs, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("dimension", [5, 10, 20, 40, 100])
def test_step_size_rates_are_those_of_pycma(dimension: int) -> None:
    """With the default population, where pycma neither caps nor dampens otherwise."""
    es = peer(np.ones(dimension), 1.0)
    es.ask()
    es.adapt_sigma.initialize(es)
    c = constants(dimension, es.popsize)
    state = CMAES().init(jax.random.key(0), jnp.ones(dimension))
    shapes = jax.eval_shape(CMAES().ask, jax.random.key(0), state)
    assert shapes.active.shape == (es.popsize,)
    ours, theirs = (c.c_sigma, c.d_sigma), (es.adapt_sigma.cs, es.adapt_sigma.damps)
    np.testing.assert_allclose(ours, theirs, rtol=1e-12)


def test_steps_as_pycma_given_its_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same steps for 40 generations; p_sigma, which turns otherwise, is ours."""
    dimension, size = 4, 16  # here our root is renewed at every step, as there
    c = constants(dimension, size)
    assert root_gap(dimension, size) == 1
    x0, h = np.ones(dimension), ellipsoid(dimension, 1e3)
    optimizer = CMAES(population_size=size, sigma=0.5)
    ask, tell, _ = programs(optimizer)
    state = optimizer.init(jax.random.key(0), jnp.asarray(x0))
    drawn: list[np.ndarray] = []
    es = peer(
        x0,
        0.5,
        popsize=size,
        # y there is B D z', so that z' = D^-1 B'y
        randn=lambda count, dimension: drawn[-1] @ es.sm.B / es.sm.D,
        seed=np.nan,
        updatecovwait=0,
        CMA_mirrors=0,
    )
    # pycma starts from slightly different axes, and knows E|z| to more digits
    es.sm.C[:], es.sm.B[:], es.sm.D[:] = np.eye(dimension), np.eye(dimension), 1
    chi = staticmethod(lambda dimension: c.chi)
    monkeypatch.setattr(cma.utilities.math.Mh, "chiN", chi)
    for step in range(40):
        population = ask(jax.random.key(step), state)
        drawn.append(np.asarray(population.members.y))
        candidates = es.ask()
        if step == 0:
            es.adapt_sigma.cs, es.adapt_sigma.damps = c.c_sigma, c.d_sigma
        else:  # C^{-1/2} A p_sigma
            whiten = es.sm.B / es.sm.D @ es.sm.B.T
            es.adapt_sigma.ps = whiten @ state.root @ state.path_sigma
        fitness = [float(x @ h @ x) for x in candidates]
        es.tell(candidates, fitness)
        state = tell(state, population, jnp.asarray(fitness))
        np.testing.assert_allclose(state.mean, es.mean, rtol=1e-6, atol=1e-7)
        np.testing.assert_allclose(state.sigma, es.sigma, rtol=1e-6)
        np.testing.assert_allclose(state.covariance, es.sm.C, rtol=1e-6, atol=1e-7)
        path_c = state.root @ state.path_c
        np.testing.assert_allclose(path_c, es.pc, rtol=1e-6, atol=1e-7)
    assert min(fitness) < 1e-2


def test_a_rotated_problem_is_the_same_problem() -> None:
    # E6: with the steps rotated alike, f(Rx) gives the sequence that f(x) gives
    dimension, size = 5, 8
    r, h = rotation(dimension, 1), np.diag(100.0 ** (np.arange(dimension) / 4))
    optimizer = CMAES(population_size=size, sigma=0.5)
    ask, tell, candidates = programs(optimizer)
    x0 = np.linspace(0.5, 1.5, dimension)
    state = optimizer.init(jax.random.key(0), jnp.asarray(r @ x0))
    other = optimizer.init(jax.random.key(0), jnp.asarray(x0))
    for step in range(50):
        population = ask(jax.random.key(step), state)
        steps = population.members.y @ r  # R'y for each row
        z = jnp.linalg.solve(other.root, steps.T).T
        turned = Population(CMAESMember(z, steps), population.active)
        x, y = candidates(state, population), candidates(other, turned)
        first = jnp.einsum("ki,ij,kj->k", x, h, x)
        second = jnp.einsum("ki,ij,kj->k", y @ r.T, h, y @ r.T)
        np.testing.assert_allclose(first, second, rtol=1e-4)
        state, other = tell(state, population, first), tell(other, turned, second)
    assert first.min() < 0.05  # from about 20


@pytest.mark.parametrize(("active", "bound"), [(True, 6400), (False, 8500)])
def test_solves_a_rotated_ellipsoid_in_time(active: bool, bound: int) -> None:
    # E6: condition 1e6, n = 10, from 1 with sigma 1 to 1e-9; pycma's median is 4240
    h = jnp.asarray(ellipsoid(10, 1e6))
    optimizer, size = CMAES(sigma=1.0, active=active), 10

    @cheap_jit
    @jax.vmap
    def evaluations(key: jax.Array) -> jax.Array:
        result = gfopt.run(
            optimizer, lambda x: x @ h @ x, jnp.ones(10), key=key, generations=1000
        )
        solved = result.history["fitness"] <= 1e-9
        return jnp.where(jnp.any(solved), size * (jnp.argmax(solved) + 1), jnp.inf)

    found = evaluations(jax.random.split(jax.random.key(0), 11))
    assert np.median(found) <= bound, found
    assert np.all(np.isfinite(found))


def test_single_precision_bears_a_condition_that_it_cannot_store() -> None:
    """1e10, where a float32 matrix C has lost its small half to rounding."""
    q = jnp.asarray(rotation(10), jnp.float32)
    scales = jnp.asarray(1e5 ** (np.arange(10) / 9), jnp.float32)

    @cheap_jit
    @jax.vmap
    def best(key: jax.Array) -> jax.Array:
        result = gfopt.run(
            CMAES(sigma=1.0),
            lambda x: jnp.sum((scales * (q @ x)) ** 2),
            jnp.ones(10, jnp.float32),
            key=key,
            generations=900,
        )
        return result.history["fitness"].min()

    found = best(jax.random.split(jax.random.key(0), 5))
    assert found.dtype == jnp.float32
    assert np.all(found < 1e-8), found


def test_failures_stand_last_and_weigh_nothing() -> None:
    """The step is that of a population of the valid rows."""
    optimizer = CMAES(population_size=8, sigma=0.5)
    ask, tell, _ = programs(optimizer)
    state = optimizer.init(jax.random.key(0), jnp.ones(4))
    population = ask(jax.random.key(1), state)
    new = tell(state, population, jnp.arange(8.0).at[0].set(jnp.nan))
    smaller = CMAES(population_size=7, sigma=0.5)
    rows = jax.tree.map(lambda leaf: leaf[1:], population)
    expected = programs(smaller)[1](state, rows, jnp.arange(1.0, 8.0))
    for name in ("mean", "sigma", "covariance"):
        ours, theirs = getattr(new, name), getattr(expected, name)
        np.testing.assert_allclose(ours, theirs, rtol=1e-12, atol=1e-12)


def test_says_why_it_stops() -> None:
    optimizer = CMAES(sigma=0.5, tol_fun=1e-3)
    run = cheap_jit(
        lambda key: (
            gfopt.run(
                optimizer, lambda x: jnp.sum(x**2), jnp.ones(3), key=key, generations=60
            ).state
        )
    )
    reasons = optimizer.stop(run(jax.random.key(0)))
    assert [name for name, holds in reasons.items() if holds] == ["tol_fun"]


def test_too_many_numbers_are_refused() -> None:
    x0 = jax.ShapeDtypeStruct((30_000,), jnp.float32)
    with pytest.raises(ValueError, match="at most 20000.*30000.*open_es"):
        jax.eval_shape(CMAES().init, jax.random.key(0), x0)
