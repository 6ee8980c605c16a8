"""Sixteen functions for consensus-based methods: eight, and each moved and turned.

They are those of the literature on consensus-based optimization, most of them with
many minima. Every one is f(R (x - x*)) with the value 0 at x*, written once for NumPy
and for JAX.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gfopt.problems.problem import Problem
from gfopt.research.suites.compiled import Compiled

DIMENSION = 20


def _ellipsoid(z: Any, np: Any) -> Any:
    scales = 1e3 ** np.linspace(0, 1, z.shape[-1])
    return np.sum(scales * z**2, -1)


def _rosenbrock(z: Any, np: Any) -> Any:
    x = z + 1
    return np.sum(
        100 * (x[..., 1:] - x[..., :-1] ** 2) ** 2 + (1 - x[..., :-1]) ** 2, -1
    )


def _ackley(z: Any, np: Any) -> Any:
    mean, waves = np.mean(z**2, -1), np.mean(np.cos(2 * np.pi * z), -1)
    # e - exp(waves), written so that it is 0 at 0 in single precision, too
    return -20 * np.expm1(-0.2 * np.sqrt(mean)) - np.e * np.expm1(waves - 1)


def _rastrigin(z: Any, np: Any) -> Any:
    return np.sum(z**2 + 10 * (1 - np.cos(2 * np.pi * z)), -1)


def _griewank(z: Any, np: Any) -> Any:
    x = 20 * z  # its domain is [-600, 600], ours about [-3, 3]
    i = np.sqrt(np.arange(1, z.shape[-1] + 1))
    return np.sum(x**2, -1) / 4000 - np.prod(np.cos(x / i), -1) + 1


def _levy(z: Any, np: Any) -> Any:
    w = 1 + z / 4
    middle = (w - 1) ** 2 * (1 + 10 * np.sin(np.pi * w + 1) ** 2)
    last = (w[..., -1] - 1) ** 2 * (1 + np.sin(2 * np.pi * w[..., -1]) ** 2)
    return np.sin(np.pi * w[..., 0]) ** 2 + np.sum(middle[..., :-1], -1) + last


def _ripples(z: Any, np: Any) -> Any:
    scales = 10 ** np.linspace(0, 1, z.shape[-1])
    return np.sum(scales * z**2 + 2 * (1 - np.cos(5 * z)), -1) / 10


#: Called with ``z: [..., D]`` and the module that computes.
FUNCTIONS: dict[str, Callable[[Any, Any], Any]] = {
    "sphere": lambda z, np: np.sum(z**2, -1),
    "ellipsoid": _ellipsoid,
    "rosenbrock": _rosenbrock,
    "ackley": _ackley,
    "rastrigin": _rastrigin,
    "griewank": _griewank,
    "levy": _levy,
    "ripples": _ripples,
}


def place_of(
    is_moved: bool, dimension: int = DIMENSION
) -> tuple[np.ndarray, np.ndarray, tuple[float, float]]:
    """Returns the optimum ``[D]``, the rotation ``[D, D]`` and the box of a problem."""
    if not is_moved:
        return np.zeros(dimension), np.eye(dimension), (-3.0, 3.0)
    rng = np.random.default_rng(7)
    optimum = rng.uniform(-2, 2, dimension)
    rotation, r = np.linalg.qr(rng.standard_normal((dimension, dimension)))
    return optimum, rotation * np.sign(np.diag(r)), (-1.5, 4.5)


def problems() -> list[Problem]:
    """Returns the sixteen; runs start uniformly within the bounds."""
    return [
        Problem(
            Compiled(_function, name, is_moved),
            bounds=[place_of(is_moved)[2]] * DIMENSION,
            optimum=0.0,
            name=f"{name}{'_moved' if is_moved else ''}",
        )
        for is_moved in (False, True)
        for name in FUNCTIONS
    ]


def _function(name: str, is_moved: bool) -> Callable[[jax.Array], jax.Array]:
    optimum, rotation, _ = place_of(is_moved)

    def value(x: jax.Array) -> jax.Array:
        return jnp.maximum(FUNCTIONS[name](rotation @ (x - optimum), jnp), 0)

    return value
