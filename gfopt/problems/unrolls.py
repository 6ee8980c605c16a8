"""Problems that are unrolled in parts: each member continues from its own state.

Source of the toy problem: Tallec, Ollivier (2017), "Unbiased online recurrent
optimization", arXiv 1702.05043 (influence balancing); Vicol, Metz,
Sohl-Dickstein (2021), arXiv 2112.13835, use it for persistent ES.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from gfopt import checks
from gfopt.core import trees
from gfopt.core.objective import Objective
from gfopt.pytree import pytree, static
from gfopt.types import Evaluation, PyTree, Solution


class Unrolls(NamedTuple):
    """The context of an unrolled problem.

    Attributes:
        inner: the members' inner states, a tree with leaves ``[P, ...]``.
        part: ``i32[]``, how many parts of this episode are done.
    """

    inner: PyTree
    part: jax.Array


def unrolled(
    unroll: Callable[..., tuple[jax.Array, PyTree]],
    start: PyTree,
    *,
    population_size: int,
    num_unrolls: int,
) -> Objective:
    """Makes the objective of a problem that is unrolled in parts.

    A step of the method evaluates one part of the episode, for each member from where
    it was; after ``num_unrolls`` of them all start again.

    Args:
        unroll: ``(x, inner[, batch], *args) -> (loss, inner)``, one part.
        start: the inner state in which an episode begins.
        population_size: members, ``P``.
        num_unrolls: parts of an episode, ``K``.

    Returns:
        The objective.

    Raises:
        TypeError: for an argument of the wrong type.
        ValueError: for one out of range.

    Example:
        >>> import gfopt
        >>> def two_steps(x, inner):  # of gradient descent on y**2, with step size x
        ...     inner = inner - x * 2 * inner
        ...     inner = inner - x * 2 * inner
        ...     return inner**2, inner
        >>> objective = unrolled(two_steps, jnp.float32(1), population_size=20,
        ...                      num_unrolls=3)
        >>> optimizer = gfopt.PersistentES(population_size=20, num_unrolls=3,
        ...                                learning_rate=0.01)
        >>> result = gfopt.run(optimizer, objective, jnp.float32(0.2),
        ...                    key=jax.random.key(0), generations=90)
        >>> bool(abs(result.recommended - 0.5) < 0.1)
        True
    """
    checks.is_callable("unroll", unroll)
    checks.integer("population_size", population_size, 1)
    checks.integer("num_unrolls", num_unrolls, 1)
    start = trees.strongly_typed(jax.tree.map(jnp.asarray, start))
    first = jax.tree.map(
        lambda leaf: jnp.broadcast_to(leaf, (population_size, *leaf.shape)), start
    )

    def fun(
        x: Solution, *rest: PyTree, context: Unrolls, row: jax.Array
    ) -> tuple[jax.Array, PyTree]:
        return unroll(x, jax.tree.map(lambda leaf: leaf[row], context.inner), *rest)

    def update(context: Unrolls, evaluation: Evaluation) -> Unrolls:
        part = (context.part + 1) % num_unrolls
        return Unrolls(trees.select(part > 0, evaluation.aux, first), part)

    context = Unrolls(first, jnp.int32(0))
    return Objective(fun, has_aux=True, takes_row=True, context=context, update=update)


@pytree
class InfluenceBalancing:
    """A linear system whose one parameter acts one way soon, and the other way late.

    ``s <- A s + theta b``, with 1/2 on and above the diagonal of A, and b = 1 for the
    first ``num_positive`` states, -1 for the others. The loss is ``(s_1 - 1)^2 / 2``.
    At once, theta raises ``s_1``; in the end it is ``2 theta (positive - negative)``. A
    gradient through few steps has the wrong sign.

    Args:
        num_states: n.
        num_positive: how many states theta raises, fewer than half.
        unroll_length: steps in one part of an episode.

    Raises:
        TypeError: for an argument that is not an integer.
        ValueError: for one out of range.

    Source: Tallec, Ollivier (2017), arXiv 1702.05043.

    Example:
        >>> problem = InfluenceBalancing()
        >>> whole = lambda theta: problem.loss(theta, num_unrolls=10)
        >>> bool(jax.grad(whole)(0.5) > 0), float(problem.answer)
        (True, -0.16666666666666666)
    """

    num_states: int = static(default=23)
    num_positive: int = static(default=10)
    unroll_length: int = static(default=10)

    def __post_init__(self) -> None:
        checks.integer("num_states", self.num_states, 2)
        checks.integer("num_positive", self.num_positive, 1)
        checks.integer("unroll_length", self.unroll_length, 1)
        most = (self.num_states - 1) // 2
        checks.within("num_positive", self.num_positive, 1, most)

    @property
    def answer(self) -> float:
        """The theta that is best in the long run."""
        return 1 / (2 * (2 * self.num_positive - self.num_states))

    def unroll(self, theta: jax.Array, state: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Returns the mean loss of one part of an episode, and the last state."""
        theta = jnp.reshape(theta, ())
        b = jnp.where(jnp.arange(self.num_states) < self.num_positive, 1.0, -1.0)

        def turn(state: jax.Array, _: None) -> tuple[jax.Array, jax.Array]:
            above = jnp.append(state[1:], 0)
            state = (state + above) / 2 + theta * b
            return state, (state[0] - 1) ** 2 / 2

        state, losses = jax.lax.scan(turn, state, None, length=self.unroll_length)
        return jnp.mean(losses), state

    def objective(self, population_size: int, num_unrolls: int) -> Objective:
        """Returns the objective of a method that takes a step after each part."""
        return unrolled(
            self.unroll,
            jnp.zeros(self.num_states),
            population_size=population_size,
            num_unrolls=num_unrolls,
        )

    def loss(self, theta: jax.Array, num_unrolls: int) -> jax.Array:
        """Returns the mean loss of a whole episode."""

        def part(state: jax.Array, _: None) -> tuple[jax.Array, jax.Array]:
            loss, state = self.unroll(theta, state)
            return state, loss

        start = jnp.zeros(self.num_states)
        return jnp.mean(jax.lax.scan(part, start, None, length=num_unrolls)[1])
