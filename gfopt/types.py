"""The contracts that every part of gfopt is written against.

Dimension letters, used in all docstrings: ``P`` population size, ``D`` parameters,
``N`` particles or beams, ``L`` sequence length, ``V`` vocabulary, ``G`` generations,
``K`` descriptor size.
"""

from __future__ import annotations

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
