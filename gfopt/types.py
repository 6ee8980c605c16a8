"""The contracts that every part of gfopt is written against.

Dimension letters, used in all docstrings: ``P`` population size, ``D`` parameters,
``N`` particles or beams, ``L`` sequence length, ``V`` vocabulary, ``G`` generations,
``K`` descriptor size.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol, TypeAlias, runtime_checkable

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


@runtime_checkable
class Optimizer(Protocol):
    """A search method: five pure functions on a frozen dataclass that is a pytree.

    Hyperparameters are leaves (numbers, arrays or tracers), configuration is static.
    Randomness enters through ``init`` and ``ask`` only.

    Example:
        >>> import gfopt
        >>> isinstance(gfopt.CMAES(), Optimizer)
        True
    """

    def init(self, key: Key, solution: Solution) -> State:
        """Returns the first state, with strongly typed leaves."""

    def ask(self, key: Key, state: State) -> Population:
        """Proposes a population; does not change the state."""

    def decode(self, state: State, member: Member) -> Solution:
        """Makes one solution from one un-batched member, without randomness."""

    def tell(
        self, state: State, population: Population, evaluation: Evaluation
    ) -> tuple[State, Info]:
        """Takes the evaluated population in; deterministic."""

    def recommend(self, state: State) -> Solution:
        """Returns the method's answer if it were stopped now."""
