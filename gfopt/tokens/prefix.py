"""An evaluator that reads of each candidate only what its beam has not read.

The children of a beam are evaluated together, from the one cache of their parent: a row
is the new token, the score's tail and its target. One group is in memory at a time, so
that a step holds the beams' caches and one more.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from gfopt import checks
from gfopt.core.evaluate import Request, judged
from gfopt.pytree import pytree
from gfopt.tokens.beam_search import BeamSearch
from gfopt.tokens.scores import Continuation
from gfopt.types import Evaluation, Key, PyTree


@pytree
class SharedPrefix:
    """Evaluates candidates from their parents' caches, a parent at a time."""

    def __call__(self, request: Request) -> Evaluation:
        """Evaluates the active rows of a population."""
        key, objective, _, state, population, inputs = request
        optimizer: Any = request.optimizer
        is_search = isinstance(optimizer, BeamSearch)
        if not is_search or not hasattr(objective.fun, "continued"):
            raise TypeError(
                "shared_prefix needs a score that goes on from a cache, such as "
                "gfopt.tokens.Targeted, and a method with beams, such as "
                f"gfopt.tokens.Beast; got {checks.shown(objective.fun)} and "
                f"{type(optimizer).__name__}"
            )
        shared = dataclasses.replace(objective, fun=objective.fun.continued)
        members, active = population.members, population.active
        count = state.beams.alive.shape[0]
        size = optimizer.num_candidates
        # the rows of each beam's candidates, in whatever order they stand
        rows = jnp.argsort(members.slot)[: count * size].reshape(count, size)

        def keyed(row: jax.Array) -> Key | None:
            return jax.random.fold_in(key, row) if objective.takes_key else None

        def group(rows: jax.Array) -> tuple[jax.Array, PyTree]:
            parent = members.parent[rows[0]]
            cache = jax.tree.map(lambda leaf: leaf[parent], state.beams.cache)

            def one(row: jax.Array) -> tuple[jax.Array, PyTree]:
                text = Continuation(cache, members.token[row][None], jnp.int32(1))
                return shared.value(text, keyed(row), inputs)

            return jax.vmap(one)(rows)

        empty = jax.eval_shape(group, rows[0])

        def nothing(rows: jax.Array) -> tuple[jax.Array, PyTree]:
            return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), empty)

        def used(rows: jax.Array) -> tuple[jax.Array, PyTree]:
            return lax.cond(jnp.any(active[rows]), group, nothing, rows)

        def children() -> tuple[jax.Array, PyTree]:
            found = lax.map(used, rows)

            def placed(leaf: jax.Array) -> jax.Array:
                flat = leaf.reshape(count * size, *leaf.shape[2:])
                whole = jnp.zeros((active.shape[0], *flat.shape[1:]), leaf.dtype)
                return whole.at[rows.ravel()].set(flat)

            return jax.tree.map(placed, found)

        def finalists() -> tuple[jax.Array, PyTree]:
            def one(row: jax.Array) -> tuple[jax.Array, PyTree]:
                member = jax.tree.map(lambda leaf: leaf[row], members)
                text = optimizer.decode(state, member)
                return objective.value(text, keyed(row), inputs)

            return jax.vmap(one)(jnp.arange(active.shape[0]))

        if optimizer.num_trials:  # these are not children of the beams
            fitness, aux = lax.cond(state.waits, finalists, children)
        else:
            fitness, aux = children()
        return judged(fitness, active, aux)


def shared_prefix() -> SharedPrefix:
    """Returns the evaluator of a beam's candidates that starts from the beams' caches.

    The score must read the same prompt by the same model as the method. Values equal
    those without it up to rounding.

    Example:
        >>> import gfopt
        >>> from gfopt.tokens import Beast, FunctionModel, Targeted
        >>> bigrams = jnp.arange(16.0).reshape(4, 4) % 5
        >>> model = FunctionModel(lambda table, tokens: table[tokens], bigrams)
        >>> prompt, empty = jnp.array([0]), jnp.full(4, -1)
        >>> score = Targeted(model, prompt, target=jnp.array([3, 3]))
        >>> beast = Beast(model, prompt, beam_width=3, num_candidates=2)
        >>> runs = [gfopt.run(beast, score, empty, key=jax.random.key(0),
        ...                   generations=3, evaluator=evaluator).recommended
        ...         for evaluator in (shared_prefix(), gfopt.vmapped())]
        >>> bool((runs[0] == runs[1]).all())
        True
    """
    return SharedPrefix()
