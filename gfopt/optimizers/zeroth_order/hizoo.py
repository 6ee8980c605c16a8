"""HiZOO: zeroth-order SGD with a diagonal Hessian from the same forward passes.

    z ~ N(0, I),   l0 = f(theta),   l+- = f(theta +- eps H^(-1/2) z)
    c = |l+ + l- - 2 l0| / (2 eps^2)
    H <- (1 - a) H + a c z^2 H
    theta <- theta - lr (l+ - l-) / (2 eps) H^(-1/2) z

all elementwise. On a quadratic with the diagonal Hessian L, H settles around
(D + 2) / 2 L, for which the expected step is ``-2 lr / (D + 2) L^(-1) gradient``.

Source: Zhao, Dang, Ye, Dai, Qian, Tsang (2024), arXiv 2402.15173, algorithm 1 with
``H = Sigma^(-1)``. Its released code puts the estimate of the Hessian into Sigma.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gfopt import checks
from gfopt.core import schedules, trees
from gfopt.noise import noise, threefry
from gfopt.noise.perturbation.perturbed import perturbed
from gfopt.optimizers.evolution_strategies.seeded import SignedSeed
from gfopt.protocol import Method
from gfopt.pytree import pytree
from gfopt.types import Evaluation, Key, Member, Population, PyTree, Solution

_NOISE = noise.gaussian()  # the squares of signs carry no information


class HiZOOState(NamedTuple):
    """``step``, the weights ``theta`` and ``H^(-1/2)``, a tree like them."""

    step: jax.Array
    mean: Solution
    spread: PyTree

    @property
    def hessian(self) -> PyTree:
        """The diagonal ``H``."""
        return jax.tree.map(lambda s: s**-2.0, self.spread)


class HiZOOInfo(NamedTuple):
    """Diagnostics of one step.

    Attributes:
        projected_gradient: ``p``, 0 where the step was skipped.
        curvature: ``c``, 0 where a loss was invalid.
        loss: at the weights themselves, NaN where it was invalid.
        skipped: whether two losses were invalid, so that nothing moved.
    """

    projected_gradient: jax.Array
    curvature: jax.Array
    loss: jax.Array
    skipped: jax.Array


@pytree
class HiZOO(Method):
    """Hessian-informed zeroth-order SGD: three forward passes a step.

    The diagonal takes as much memory as the weights; directions and steps are made
    where they are used, and take none.

    Args:
        learning_rate: step size, or a schedule.
        eps: finite-difference radius, in units of ``H^(-1/2)``, or a schedule.
        hessian_rate: ``a``, how fast the diagonal follows its estimates, or a schedule.

    Raises:
        TypeError: for an argument of the wrong type.
        ValueError: for one out of range.

    Example:
        >>> import gfopt
        >>> scales = jnp.array([1.0, 10.0, 100.0])
        >>> result = gfopt.run(gfopt.HiZOO(learning_rate=0.05, hessian_rate=0.2),
        ...                    lambda x: jnp.sum(scales * x**2), jnp.ones(3),
        ...                    key=jax.random.key(0), generations=300)
        >>> bool(jnp.sum(result.recommended**2) < 0.01)
        True
    """

    learning_rate: schedules.Hyperparameter = 1e-3
    eps: schedules.Hyperparameter = 1e-2
    hessian_rate: schedules.Hyperparameter = 1e-2

    follows_slopes = True

    def __post_init__(self) -> None:
        schedules.set_schedules(self, "learning_rate", check=checks.non_negative)
        schedules.set_schedules(self, "eps")
        schedules.set_schedules(self, "hessian_rate", check=checks.share)

    @property
    def population_size(self) -> int:
        """Three: the weights and the pair."""
        return 3

    def init(self, key: Key, solution: Solution) -> HiZOOState:
        """Starts with ``theta`` at ``solution`` and ``H`` at 1."""
        mean = trees.starting_point(solution)
        return HiZOOState(jnp.int32(0), mean, trees.filled(mean, 1.0))

    def ask(self, key: Key, state: HiZOOState) -> Population:
        """Proposes the weights, then one seed with both signs."""
        wide = trees.wide_dtype(state.mean)
        eps = jnp.asarray(schedules.at("eps", self.eps, state.step), wide)
        seed = threefry.seeds(
            key, 2
        )  # the row of sign 0 needs a seed as well, but any will do
        members = SignedSeed(
            # three equal ones would send XLA's simplifier round in circles
            jnp.concatenate([seed, seed[1:]]),
            jnp.array([0.0, 1.0, -1.0], jnp.float32),
            jnp.broadcast_to(threefry.round_significant(eps), 3),
        )
        return Population(members, jnp.ones(3, bool))

    def decode(self, state: HiZOOState, member: Member) -> Solution:
        """Returns ``theta + sign * eps * H^(-1/2) z`` as lazy leaves."""
        by = member.seed, member.sign * member.scale, _NOISE.kind
        return perturbed(state.mean, *by, units=state.spread)

    def tell(
        self, state: HiZOOState, population: Population, evaluation: Evaluation
    ) -> tuple[HiZOOState, HiZOOInfo]:
        """Updates ``H`` by three valid losses, then steps by two of them or more."""
        eps = population.members.scale[0]
        middle, plus, minus = evaluation.fitness
        # c = |l+ + l- - 2 l0| / (2 eps^2)
        curvature = jnp.abs((plus - middle) + (minus - middle)) / (2 * eps**2)
        is_whole = jnp.all(evaluation.valid) & jnp.isfinite(curvature)
        curvature = jnp.where(is_whole, curvature, 0)
        # p = (l+ - l-) / (2 eps); l0 stands for a half that is invalid
        high, low = jnp.where(evaluation.valid[1:], evaluation.fitness[1:], middle)
        width = jnp.maximum(jnp.sum(evaluation.valid[1:]), 1) * eps
        projected = (high - low) / width
        usable = (jnp.sum(evaluation.valid) > 1) & jnp.isfinite(projected)
        projected = jnp.where(usable, projected, 0)
        share = schedules.at("hessian_rate", self.hessian_rate, state.step)
        share = jnp.where(is_whole, share, 0)
        rate = schedules.at("learning_rate", self.learning_rate, state.step)
        seed = population.members.seed[1]

        def updated(s: jax.Array, z: jax.Array, words: Any) -> jax.Array:
            # H <- (1 - a) H + a c z^2 H, with s = H^(-1/2)
            new = s * jax.lax.rsqrt(1 - share + share * curvature * z**2)
            limits = jnp.finfo(s.dtype)
            least = (limits.max / 4) ** -0.5  # so that H is finite as well
            return jnp.clip(new, least, limits.tiny**-0.5).astype(s.dtype)

        one = jnp.ones(1, projected.dtype)
        spread = _NOISE.add_weighted(state.spread, seed[None], one, added=updated)

        def moved(m: jax.Array, s: jax.Array, z: jax.Array) -> jax.Array:
            return (m - rate * projected * s * z.astype(s.dtype)).astype(m.dtype)

        # redrawn inside the sum: when compiled, it is never in memory
        z = _NOISE.sample(state.mean, seed)
        mean = jax.tree.map(moved, state.mean, spread, z)
        loss = jnp.where(evaluation.valid[0], middle, jnp.nan)
        info = HiZOOInfo(projected, curvature, loss, ~usable)
        return HiZOOState(state.step + 1, mean, spread), info

    def recommend(self, state: HiZOOState) -> Solution:
        """Returns ``theta``."""
        return state.mean
