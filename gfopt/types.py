"""The contracts that every part of gfopt is written against.

Dimension letters, used in all docstrings: ``P`` population size, ``D`` parameters,
``N`` particles or beams, ``L`` sequence length, ``V`` vocabulary, ``G`` generations,
``K`` descriptor size.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import jax
import numpy as np

PyTree: TypeAlias = Any
JsonObject: TypeAlias = dict[str, Any]
Array: TypeAlias = jax.Array | np.ndarray
Key: TypeAlias = jax.Array
Solution: TypeAlias = PyTree  # what the objective receives; un-batched
Member: TypeAlias = PyTree  # how to make one candidate: a vector, a seed and a sign
State: TypeAlias = Any  # a NamedTuple of arrays, first field `step: i32[]`
Info: TypeAlias = Any  # a NamedTuple of scalars


class Population(NamedTuple):
    """What ``ask`` proposes: recipes for candidates, never the candidates.

    Attributes:
        members: pytree, every leaf ``[P, ...]``.
        active: ``bool[P]``, rows that are to be evaluated; active rows stand first.

    Example:
        >>> import gfopt
        >>> optimizer = gfopt.OpenES(population_size=4)
        >>> state = optimizer.init(jax.random.key(0), jax.numpy.zeros(1_000_000))
        >>> population = optimizer.ask(jax.random.key(1), state)
        >>> population.members.sign  # with a seed and a scale: all there is of it
        Array([ 1., -1.,  1., -1.], dtype=float32)
    """

    members: PyTree
    active: jax.Array


class Evaluation(NamedTuple):
    """The values of a population.

    Attributes:
        fitness: ``float[P]``, lower is better; meaningless where ``valid`` is False.
        valid: ``bool[P]``, False where the row is inactive, raised, timed out, or
            is NaN or infinite.
        aux: pytree ``[P, ...]`` of what else the objective returned; ``()`` if
            nothing.

    Example:
        >>> import jax.numpy as jnp
        >>> fitness = jnp.array([0.5, jnp.inf])
        >>> Evaluation(fitness, valid=jnp.isfinite(fitness)).valid
        Array([ True, False], dtype=bool)
    """

    fitness: jax.Array
    valid: jax.Array
    aux: PyTree = ()


class Estimate(NamedTuple):
    """What a step descends along, ``g = decay theta + sum_i slopes[i] z_i``.

    Attributes:
        seeds: ``uint32[q]``, of the directions.
        slopes: ``float[q]``, 0 where nothing is known of a direction.
        counts: ``bool[]``, whether anything is known of any.
        decay: of the weights themselves, ``float[]``; 0 where nothing counts.
    """

    seeds: jax.Array
    slopes: jax.Array
    counts: jax.Array
    decay: jax.Array | float = 0.0


class Chain(NamedTuple):
    """A candidate as noise on a base, added in turn: ``base + s_0 z_0 + s_1 z_1 ...``.

    Attributes:
        seeds: ``uint32[n]``.
        scales: ``float[n]``, with their signs; 0 adds nothing.
    """

    seeds: np.ndarray
    scales: np.ndarray


class NoiseOnBase(NamedTuple):
    """A method's candidates as noise on one base, for weights that are elsewhere.

    A driver that has the weights makes candidates by ``chain``, and moves the base by
    ``-rate g`` itself. The method's state then has a number in place of the weights.

    Attributes:
        noise: the family, the field ``noise`` of the method.
        chain: ``(state, member) -> Chain``, of concrete arrays.
        estimate: ``(state, population, evaluation) -> (Estimate, Info)``; None where
            the base stays as it is.
        rate: ``state -> float[]``, the learning rate.
        answer: ``state -> Chain``, of what is recommended; None for the base.
        rounding: of steps, ``"nearest"`` or ``"stochastic"``.
        moving: fraction of each matrix that has noise; None for all.
    """

    noise: Any
    chain: Callable[[State, Member], Chain]
    estimate: Callable[[State, Population, Evaluation], tuple[Estimate, Info]] | None
    rate: Callable[[State], Any] | None
    answer: Callable[[State], Chain] | None = None
    rounding: str = "nearest"
    moving: Any = None


class HeatMap(NamedTuple):
    """A fitness by two numbers that describe solutions, for a picture.

    Attributes:
        fitness: ``float[rows, columns]``, infinite where there is none.
        lower: of the numbers that count along rows and columns.
        upper: of both.
    """

    fitness: Array
    lower: tuple[float, ...]
    upper: tuple[float, ...]
