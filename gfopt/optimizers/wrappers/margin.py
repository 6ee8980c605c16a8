"""A margin for integers and choices: none of their values ever becomes impossible.

A shrinking normal distribution soon lies within the interval of one integer. Then all
candidates are alike, and there is nothing to learn. The margin keeps the probability of
leaving the interval at ``alpha = 1 / (D P)`` for each coordinate. It moves the mean m,
and stretches the candidates' distances to it by a, which the inner method does not see:

    x = m + a (y - m),   y ~ N(m, s^2),   p- , p+ = P(x beyond the interval's ends)

The inner method's step of the mean is also stretched by a. Between two other integers,
p <- max(alpha / 2, p) at both ends, and m and a are those of the distribution with
these probabilities. With other integers on one side only, the mean moves so near to
that end that p >= alpha, and a stays. Each of k choices has its own coordinate, and the
largest decides: the other coordinates move so near to it that each choice has the
probability ``alpha``.

Source: Hamano, Saito, Nomura and Shirakawa, "CMA-ES with margin" (GECCO 2022), arXiv
2205.13482, algorithm 1 and section 4. Deviations: the mean's step is stretched; what
the ends gain, the interval loses, without rescaling the three; the fold mirrors the
first and the last integer; choices are not in the paper.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.special import ndtri

from gfopt import checks
from gfopt.core import trees
from gfopt.lazy import lazy
from gfopt.protocol import Method, Optimizer, Wrapper, as_method
from gfopt.pytree import pytree
from gfopt.spaces.axis import Axis
from gfopt.spaces.spaces import Space
from gfopt.types import Evaluation, Info, Key, Member, Population, Solution, State


class MarginState(NamedTuple):
    """The inner method's state, and how far its candidates are stretched.

    Attributes:
        step: ``i32[]``.
        inner: the inner method's state, its mean corrected.
        stretch: ``a``, a tree like the mean, close to 1.
    """

    step: jax.Array
    inner: State
    stretch: Solution


@pytree
class Margin(Wrapper):
    """Runs ``inner``, a method with a normal distribution, in a space with integers.

    It searches in the coordinates of ``Bounded``, which must wrap it; ``minimize`` adds
    both as needed.

    Args:
        inner: a method with ``standard_deviations(state)`` and a state with ``mean``.
        space: where the integers and choices are.

    Raises:
        TypeError: for another method, or an argument of the wrong type.

    Example:
        >>> import gfopt
        >>> space = gfopt.spaces.Space(jnp.zeros(2), jnp.full(2, 9.0), jnp.ones(2),
        ...                     integer=jnp.array([True, False]))
        >>> optimizer = gfopt.Bounded(gfopt.Margin(gfopt.CMAES(), space), space)
        >>> result = gfopt.run(optimizer, lambda x: jnp.sum((x - 3.3) ** 2),
        ...                    jnp.ones(2), key=jax.random.key(0), generations=60)
        >>> result.recommended.round(4)
        Array([3. , 3.3], dtype=float32)
    """

    inner: Optimizer
    space: Space

    def __post_init__(self) -> None:
        checks.instance("inner", self.inner, Optimizer, "a gfopt optimizer")
        if not as_method(self.inner).has_margin:
            raise TypeError(
                "inner must be a method with a normal distribution, such as "
                f"gfopt.CMAES; got {checks.shown(self.inner)}"
            )
        checks.instance("space", self.space, Space, "a gfopt.spaces.Space")

    @property
    def can_restart(self) -> bool:
        """Whether the method inside can."""
        return as_method(self.inner).can_restart

    @property
    def late_members(self) -> str:
        """As the method inside."""
        return as_method(self.inner).late_members

    drawn_within = Method.drawn_within  # candidates are stretched afterwards

    def init(self, key: Key, solution: Solution) -> MarginState:
        """Starts the inner method."""
        inner = self.inner.init(key, solution)
        return MarginState(inner.step, inner, jax.tree.map(jnp.ones_like, inner.mean))

    def decode(self, state: MarginState, member: Member) -> Solution:
        """Returns ``m + a (y - m)``."""
        return jax.tree.map(
            lambda y, m, a: m + a * (y - m),
            lazy.materialise(super().decode(state, member)),
            state.inner.mean,
            state.stretch,
        )

    def decode_group(self, state: MarginState, members: Member) -> Solution:
        """Returns ``m + a (y - m)`` of a group."""
        return jax.tree.map(
            lambda y, m, a: m + a * (y - m),
            super().decode_group(state, members),
            state.inner.mean,
            state.stretch,
        )

    def encode(self, state: MarginState, solution: Solution) -> Member:
        """Encodes ``y = m + (x - m) / a``."""
        y = jax.tree.map(
            lambda x, m, a: m + (x - m) / a, solution, state.inner.mean, state.stretch
        )
        return super().encode(state, y)

    def standard_deviations(self, state: MarginState) -> Solution:
        """Returns those of the inner method, stretched."""
        return jax.tree.map(
            jnp.multiply, super().standard_deviations(state), state.stretch
        )

    def tell(
        self, state: MarginState, population: Population, evaluation: Evaluation
    ) -> tuple[MarginState, Info]:
        """Tells the inner method, then corrects its mean and the stretch."""
        inner, info = self.inner.tell(state.inner, population, evaluation)
        moved = jax.tree.map(
            lambda new, old, a: old + a * (new - old),
            inner.mean,
            state.inner.mean,
            state.stretch,
        )
        alpha = 1 / (trees.num_parameters(moved) * jnp.sum(population.active))

        def leaf(axis: Axis, y: jax.Array, a: jax.Array, std: jax.Array) -> Any:
            s = a * std
            if axis.choices:
                return _near_choices(y, s, alpha), a
            mean, factor = _with_margin(y, s, *axis.steps(y), alpha)
            return mean.astype(y.dtype), (a * factor).astype(a.dtype)

        deviations = as_method(self.inner).standard_deviations(inner)
        pairs = self.space.map(leaf, moved, state.stretch, deviations)
        mean, stretch = jax.tree.transpose(
            jax.tree.structure(moved), jax.tree.structure((0, 0)), pairs
        )
        return MarginState(inner.step, inner._replace(mean=mean), stretch), info


def _with_margin(
    m: jax.Array, s: jax.Array, below: jax.Array, above: jax.Array, alpha: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Returns the mean with the margin, and the factor of the standard deviation.

    Args:
        m: the mean.
        s: the standard deviation of the candidates.
        below: distance to the lower end of the mean's interval; infinite if none.
        above: the same for the upper end.
        alpha: the smallest probability of leaving the interval.
    """
    s = jnp.maximum(s, jnp.finfo(s.dtype).tiny)
    has_below, has_above = jnp.isfinite(below), jnp.isfinite(above)
    # p <- max(alpha / 2, p);  m - q- s = lower end,  m + q+ s = upper end
    most = _quantile(alpha / 2, s)
    down, up = jnp.minimum(below / s, most), jnp.minimum(above / s, most)
    is_narrow = has_below & has_above & (jnp.maximum(below, above) > most * s)
    down, up = (jnp.where(is_narrow, q, 1) for q in (down, up))
    std = jnp.where(is_narrow, (below + above) / (down + up), s)
    mean = jnp.where(is_narrow, m - below + down * std, m)
    # one end: |m - end| <= q(alpha) s
    reach = _quantile(alpha, s) * s
    to_above, to_below = (jnp.maximum(end - reach, 0) for end in (above, below))
    mean = jnp.where(has_above & ~has_below, m + to_above, mean)
    mean = jnp.where(has_below & ~has_above, m - to_below, mean)
    return mean, std / s


def _quantile(alpha: jax.Array, like: jax.Array) -> jax.Array:
    """Returns q with ``P(z > q) = alpha`` for a standard normal z."""
    return -ndtri(jnp.asarray(alpha, like.dtype))


def _near_choices(m: jax.Array, s: jax.Array, alpha: jax.Array) -> jax.Array:
    """Moves the means ``[..., k]`` so near to the largest that all can win."""
    best = jnp.argmax(m, axis=-1, keepdims=True)
    most, its = (jnp.take_along_axis(v, best, axis=-1) for v in (m, s))
    # P(x_j > x_best) >= alpha, x_j - x_best ~ N(m_j - m_best, s_j^2 + s_best^2)
    reach = _quantile(alpha, s) * jnp.sqrt(s * s + its * its)
    return jnp.maximum(m, most - reach).astype(m.dtype)
