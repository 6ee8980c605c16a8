"""Solutions from elsewhere as members of a population: the inverse of ``decode``.

A solution that lies far outside of the distribution would move it at one blow, so its
step is shortened to the length that samples have at most, but for rare ones:

    z = C^{-1/2} (x - m) / sigma,   z <- z min(1, c / |z|),
    c = sqrt(D) + 2 D / (D + 2)

Source: Hansen, "Injecting external solutions into CMA-ES" (2011), arXiv 1110.4181,
section 2 with ``c_y``. The step of the mean needs no limit of its own: one candidate is
a part of it only, and sigma grows by one e-fold a step at most.
"""

from __future__ import annotations

import functools
from typing import Any

import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jax.scipy.linalg import solve_triangular

from gfopt.core import vectors
from gfopt.optimizers.bounded import Bounded
from gfopt.optimizers.cma_es import CMAES, CMAESMember, CMAESState
from gfopt.optimizers.cma_parameters import shortened
from gfopt.optimizers.cross_entropy import CrossEntropy, CrossEntropyState
from gfopt.types import Member, Solution, State


@functools.singledispatch
def encode(optimizer: Any, state: State, solution: Solution) -> Member:
    """Returns the member that decodes to a solution, or to one nearer to the mean.

    Args:
        optimizer: a method whose row has the flag ``injects``, also within bounds.
        state: the method's state.
        solution: what ``decode`` would return.

    Raises:
        TypeError: for another method.

    Example:
        >>> import gfopt, jax, jax.numpy as jnp
        >>> method, x = gfopt.CMAES(sigma=0.5), jnp.array([1.2, 0.9])
        >>> state = method.init(jax.random.key(0), jnp.ones(2))
        >>> method.decode(state, encode(method, state, x))
        Array([1.2, 0.9], dtype=float32)
    """
    raise TypeError(
        "optimizer must be a method that takes injected solutions; "
        f"got {type(optimizer).__name__}"
    )


@encode.register
def _(optimizer: CMAES, state: CMAESState, solution: Solution) -> Member:
    step = ravel_pytree(solution)[0] - ravel_pytree(state.mean)[0]
    whitened = solve_triangular(state.root, step / state.sigma, lower=True)
    z = shortened(whitened.astype(state.root.dtype))
    return CMAESMember(z, state.root @ z)


@encode.register
def _(optimizer: CrossEntropy, state: CrossEntropyState, solution: Solution) -> Member:
    step = vectors.flat(solution) - vectors.flat(state.mean)
    std = jnp.maximum(state.std, jnp.finfo(state.std.dtype).tiny)
    return shortened((step / std).astype(state.std.dtype))


@encode.register
def _(optimizer: Bounded, state: State, solution: Solution) -> Member:
    return encode(optimizer.inner, state, optimizer.space.search(solution))
