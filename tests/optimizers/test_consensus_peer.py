"""Given the same noise, one step is CBXpy's."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gfopt
from gfopt import consensus
from gfopt.consensus.cbo import CBO
from gfopt.noise import law, threefry

cbx = pytest.importorskip(
    "cbx.dynamics", reason="pip install --no-deps cbx  # and numpy, scipy, matplotlib"
)
SIZE, DIMENSION, KEY = 12, 3, jax.random.key(3)
TOLERANCE = {"rtol": 1e-5, "atol": 1e-5}


def energy(x: Any) -> Any:
    """A quadratic with ripples, for the rows of ``[..., D]``; NumPy or JAX."""
    return (2 * (x - 0.3) ** 2 + x**4 / 10).sum(-1)


def noise_of(number: int, size: int = SIZE) -> np.ndarray:
    """Returns the noise of our move from ``KEY``."""
    seed = threefry.seeds(KEY, 3)[number]
    return np.asarray(law.noise_rows("gaussian", seed, 0, 0, size, DIMENSION))


def start() -> np.ndarray:
    """Returns the particles before the step, ``[N, D]``."""
    return np.random.default_rng(0).normal(size=(SIZE, DIMENSION)).astype(np.float32)


def ours(**options: Any) -> np.ndarray:
    """Makes one step from ``start`` with the consensus that ``tell`` finds there."""
    method = CBO(**{"population_size": SIZE, **options})
    state = method.init(KEY, jnp.zeros(DIMENSION))
    x = jnp.asarray(start())
    if method.mirror is not None:
        x = jax.vmap(method.mirror.to_dual)(x)
    population = method.ask(KEY, state)
    population = population._replace(members=population.members._replace(position=x))
    solutions = jax.vmap(lambda m: method.decode(state, m))(population.members)
    found = gfopt.Evaluation(energy(solutions), population.active)
    state, _ = method.tell(state, population, found)
    members = method.ask(KEY, state).members
    return np.asarray(jax.vmap(lambda m: method.decode(state, m))(members))


def theirs(name: str, **options: Any) -> np.ndarray:
    """Makes one step of a CBXpy dynamic that draws the same noise."""
    draws = iter([noise_of(0), noise_of(1)])

    def sampler(size: Any = None) -> np.ndarray:
        return next(draws)[None].astype(float)

    dynamic = getattr(cbx, name)(
        energy,
        f_dim="3D",
        check_f_dims=False,
        x=start()[None].astype(float),
        sampler=sampler,
        verbosity=0,
        **options,
    )
    dynamic.step()
    return dynamic.x[0]


NUMBERS = {"alpha": 4.0, "dt": 0.1}


@pytest.mark.parametrize("kind", ["anisotropic", "isotropic"])
def test_cbo(kind: str) -> None:
    found = ours(scaling=kind, drift=1.5, diffusion=0.6, **NUMBERS)
    expected = theirs("CBO", noise=kind, lamda=1.5, sigma=0.6, **NUMBERS)
    np.testing.assert_allclose(found, expected, **TOLERANCE)


def test_constant_noise_is_a_floor() -> None:
    found = ours(diffusion=0.0, floor=0.6, **NUMBERS)
    expected = theirs("CBO", noise="constant", sigma=0.6, **NUMBERS)
    np.testing.assert_allclose(found, expected, **TOLERANCE)


def test_memory() -> None:
    memory = consensus.BestMemory(drift=0.4)
    found = ours(memory=memory, diffusion=0.6, **NUMBERS)
    expected = theirs(
        "CBOMemory", noise="anisotropic", lamda_memory=0.4, sigma=0.6, **NUMBERS
    )
    np.testing.assert_allclose(found, expected, **TOLERANCE)


@pytest.mark.parametrize(
    ("kernel", "name"),
    [
        ("gaussian", "Gaussian"),
        ("laplace", "Laplace"),
        ("constant", "Constant"),
        ("inverse_quadratic", "InverseQuadratic"),
    ],
)
def test_polarised(kernel: str, name: str) -> None:
    found = ours(kernel=consensus.Kernel(kernel, width=0.8), diffusion=0.6, **NUMBERS)
    expected = theirs(
        "PolarCBO", noise="anisotropic", kernel=name, kappa=0.8, sigma=0.6, **NUMBERS
    )
    np.testing.assert_allclose(found, expected, **TOLERANCE)


@pytest.mark.parametrize("mode", ["sampling", "optimization"])
def test_consensus_based_sampling(mode: str) -> None:
    """CBXpy's slip: its docstring has the exponential factor, its code Euler's."""
    scaling = consensus.Covariance(is_sampling=mode == "sampling")
    found = ours(scaling=scaling, diffusion=2**0.5, **NUMBERS)
    expected = theirs("CBS", mode=mode, lamda=1.0, **NUMBERS)
    np.testing.assert_allclose(found, expected, **TOLERANCE)
    exact = ours(
        scaling=scaling,
        integrator=consensus.Exponential(),
        diffusion=1.0,
        **NUMBERS,
    )
    assert 1e-3 < np.abs(exact - expected).max() < 0.2


def test_adam() -> None:
    """As there, the drift has no time step."""
    found = ours(integrator="adam", drift=0.7, diffusion=0.6, **NUMBERS)
    expected = theirs("AdamCBO", noise="anisotropic", lamda=0.7, sigma=0.6, **NUMBERS)
    np.testing.assert_allclose(found, expected, **TOLERANCE)


@pytest.mark.parametrize(
    ("mirror", "name"),
    [
        (gfopt.mirror_maps.Ball(0.9), {"name": "ProjectionBall", "radius": 0.9}),
        (
            gfopt.mirror_maps.Ball(1.1, surface=True),
            {"name": "ProjectionSphere", "r": 1.1},
        ),
    ],
    ids=["ball", "sphere"],
)
def test_mirror(mirror: Any, name: Any) -> None:
    """CBXpy's slip: it evaluates the first particles before they are projected."""
    inside = np.asarray(jax.vmap(mirror.to_primal)(jnp.asarray(start())))
    found = ours(mirror=mirror, diffusion=0.6, **NUMBERS)
    draw = noise_of(0)[None].astype(float)
    dynamic = cbx.MirrorCBO(
        energy,
        f_dim="3D",
        check_f_dims=False,
        x=inside[None].astype(float),
        sampler=lambda size=None: draw,
        verbosity=0,
        noise="anisotropic",
        mirrormap=name,
        sigma=0.6,
        **NUMBERS,
    )
    dynamic.y = start()[None].astype(float)
    dynamic.step()
    np.testing.assert_allclose(found, dynamic.x[0], **TOLERANCE)


def test_the_effective_sample_size() -> None:
    """CBXpy halves alpha, not its logarithm: it ends within 3 of the wanted alpha."""
    from cbx.scheduler import effective_sample_size

    values = energy(start().astype(float))
    dynamic = cbx.CBO(
        energy, f_dim="3D", check_f_dims=False, x=start()[None], verbosity=0
    )
    dynamic.energy = values[None]
    effective_sample_size(eta=0.4, maximum=10.0, solve_max_it=60).update(dynamic)
    alpha = gfopt.consensus.EffectiveSampleSize(0.4).solve(
        jnp.asarray(values, jnp.float32), jnp.ones(SIZE, bool)
    )
    np.testing.assert_allclose(alpha, dynamic.alpha[0, 0], 1e-2)


def test_batches_of_memory_are_ours_alone() -> None:
    """CBXpy's slip: batched, it takes the energies of all for memories of a batch."""
    options = {"noise": "anisotropic", "sigma": 0.6, **NUMBERS}
    with pytest.raises(ValueError, match="broadcast"):
        theirs("CBOMemory", batch_args={"size": 4}, **options)
    ours(memory="best", batch_size=4, **NUMBERS)


def test_a_wrong_batch_option_is_refused_here_only() -> None:
    """CBXpy's slip: its notebook's ``batch_size`` is no key that its code reads."""
    dynamic = cbx.CBO(
        energy,
        f_dim="3D",
        check_f_dims=False,
        x=start()[None],
        verbosity=0,
        batch_args={"batch_size": 4},
    )
    assert not dynamic.batched
    with pytest.raises(TypeError, match="batch_args"):
        CBO(batch_args={"batch_size": 4})
