"""A step of the mean along a search gradient, by any optax optimizer; ClipUp.

ClipUp keeps a velocity of bounded length and uses only the direction of the gradient,
so that its settings are distances in parameter space:

    v <- momentum * v - learning_rate * g / |g|
    v <- v * min(1, max_velocity / |v|)
    theta <- theta + v

Source: Toklu, Liskowski, Srivastava (2020), "ClipUp: a simple and powerful optimizer
for distribution-based policy evolution", arXiv 2008.02387.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from gfopt import checks
from gfopt.core import schedules, trees
from gfopt.fusion import zero_after
from gfopt.types import PyTree, Solution, State

if TYPE_CHECKING:
    import optax  # takes a tenth of a second: imported only for methods that descend


class Default(NamedTuple):
    """The default transform and learning rate of a method."""

    transform: Callable[[], optax.GradientTransformation]
    learning_rate: float


@functools.cache  # one object, so that equal methods share a program
def sgd() -> optax.GradientTransformation:
    """Returns ``-gradient``."""
    import optax

    return optax.sgd(1.0)


@functools.cache
def adam() -> optax.GradientTransformation:
    """Returns the negative gradient in units of its running size."""
    import optax

    return optax.chain(optax.scale_by_adam(), optax.scale(-1.0))


def set_fields(optimizer: Any) -> None:
    """Checks ``transform`` and ``learning_rate`` and stores the latter."""
    if optimizer.transform is not None:
        import optax

        kind = optax.GradientTransformation
        checks.instance("transform", optimizer.transform, kind, "an optax optimizer")
    schedules.set_schedules(optimizer, "learning_rate", check=checks.non_negative)


def start(optimizer: Any, default: Default, mean: Solution) -> PyTree:
    """Returns the transform's first state."""
    transform = optimizer.transform or default.transform()
    return trees.strongly_typed(transform.init(mean))


def learning_rate(optimizer: Any, default: Default, state: State) -> Any:
    """Returns the learning rate of this step; 1 for a transform of the user's."""
    rate = optimizer.learning_rate
    if rate is None:
        rate = default.learning_rate if optimizer.transform is None else 1.0
    return schedules.at("learning_rate", rate, state.step)


def plain_factor(optimizer: Any, default: Default) -> float:
    """Returns ``c`` of a transform that is ``u = -c g``, whatever ``g`` and ``theta``.

    It is tried on a few gradients, from tiny to huge, in which clipping would show.

    Raises:
        ValueError: for another transform, such as one with a state.
    """
    transform = optimizer.transform or default.transform()
    factor = _plain_factor(transform)
    if factor is None:
        raise ValueError(
            "method must have gradient descent as its transform, such as "
            "transform=optax.sgd(1.0), since the state of another one is as large as "
            f"the weights; got {checks.shown(optimizer)}"
        )
    return factor


@functools.cache
def _plain_factor(transform: optax.GradientTransformation) -> float | None:
    theta = np.array([1, 0, -3, 2], np.float32)
    with jax.ensure_compile_time_eval():
        state = transform.init(theta)
        if jax.tree.leaves(state):
            return None

        def update(gradient: np.ndarray) -> np.ndarray:
            return np.asarray(transform.update(gradient, state, theta)[0])

        factor = -float(update(np.ones(4, np.float32))[0])
        tried = np.array([[0, 0, 0, 0], [1e-12, -1, 3, 0], [1e18, -2e18, 0, 1]])
        tried = tried.astype(np.float32)
        is_plain = all(np.allclose(update(g), -factor * g, 1e-6, 0) for g in tried)
    return factor if is_plain else None


def step(
    optimizer: Any,
    default: Default,
    state: State,
    gradient: PyTree,
    counts: jax.Array,
    added: Callable[[Solution, PyTree], Solution] | None = None,
) -> tuple[Solution, PyTree, jax.Array]:
    """Moves ``state.mean`` by ``learning_rate * transform(gradient)``.

    If ``counts`` is False or the gradient is not finite, the mean and the state of the
    transform are unchanged. ``added(mean, step)`` combines the two; None for their sum.

    Returns:
        The mean, the transform's state and the norm of the gradient.
    """
    import optax

    transform = optimizer.transform or default.transform()
    rate = learning_rate(optimizer, default, state)
    gradient = trees.cast_like(gradient, state.mean)
    norm = optax.tree.norm(gradient)
    old = (state.mean, state.transform)

    def moved() -> tuple[Solution, PyTree]:
        updates, new = transform.update(gradient, state.transform, state.mean)
        change = jax.tree.map(lambda u: rate * u, updates)
        if added is None:
            mean = jax.tree.map(lambda m, c: m + c, state.mean, change)
        else:
            mean = added(state.mean, change)
        return trees.cast_like((mean, new), old)

    # a select between old and new would copy both moments
    usable = counts & jnp.isfinite(norm)
    return (*lax.cond(usable, moved, lambda: old), norm)


def penalty(optimizer: Any, state: State, weights: jax.Array) -> PyTree:
    """Returns ``weight_decay * mean``, to which the search gradient is added in place.

    The sum waits for its ``weights``, so that it is not made while candidates exist.
    """
    decay = schedules.at("weight_decay", optimizer.weight_decay, state.step)
    decay = decay + zero_after(weights)
    return jax.tree.map(lambda m: decay * m.astype(weights.dtype), state.mean)


class ClipUpState(NamedTuple):
    """The velocity, a tree like the parameters."""

    velocity: PyTree


@functools.cache  # equal optimizers are one object, so that they share a program
def clip_up(
    learning_rate: float = 0.1,
    max_velocity: float | None = None,
    momentum: float = 0.9,
) -> optax.GradientTransformation:
    """Returns the optimizer of PGPE: steps of bounded length, for use with optax.

    Args:
        learning_rate: how much a gradient adds to the velocity.
        max_velocity: maximum length of a step; None for twice the learning rate.
        momentum: fraction of the velocity that remains.

    Raises:
        TypeError: for an argument that is not a number.
        ValueError: for one out of range.

    Source: Toklu et al. (2020), arXiv 2008.02387.

    Example:
        >>> import optax
        >>> optimizer, theta = clip_up(0.1), jnp.array([3.0, 4.0])
        >>> state = optimizer.init(theta)
        >>> updates, state = optimizer.update(2 * theta, state)
        >>> optax.apply_updates(theta, updates)
        Array([2.94, 3.92], dtype=float32)
    """
    import optax

    checks.positive("learning_rate", learning_rate)
    longest = 2 * learning_rate if max_velocity is None else max_velocity
    checks.positive("max_velocity", longest)
    checks.share("momentum", momentum)

    def init(params: PyTree) -> ClipUpState:
        return ClipUpState(jax.tree.map(jnp.zeros_like, params))

    def update(
        gradient: PyTree, state: ClipUpState, params: PyTree = None
    ) -> tuple[PyTree, ClipUpState]:
        del params
        # without a direction there is no push
        push = learning_rate * _inverse(optax.tree.norm(gradient))
        velocity = jax.tree.map(
            lambda v, g: momentum * v - push * g, state.velocity, gradient
        )
        shrink = jnp.minimum(1, longest * _inverse(optax.tree.norm(velocity)))
        velocity = jax.tree.map(
            lambda v, old: (shrink * v).astype(old.dtype), velocity, state.velocity
        )
        return velocity, ClipUpState(velocity)

    return optax.GradientTransformation(init, update)


def _inverse(length: jax.Array) -> jax.Array:
    """Returns ``1 / length``, or 0 for a length of 0."""
    return jnp.where(length > 0, 1 / jnp.where(length > 0, length, 1), 0)
