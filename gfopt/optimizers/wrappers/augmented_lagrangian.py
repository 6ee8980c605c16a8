"""An augmented Lagrangian: constraints ``g(x) <= 0`` for unconstrained methods.

The inner method, which must compare only candidates of one generation, minimises

    h(x) = f(x) + sum_k phi_k(g_k(x))
    phi(g) = gamma g + omega g^2 / 2  where gamma + omega g >= 0
    phi(g) = -gamma^2 / (2 omega)     elsewhere

Let f_m, g_m be the weighted means over the better half by h; they stand for the values
at the new mean. Each step ends with

    gamma <- max(0, gamma + omega g_m / 5)
    omega <- omega chi^(1/4)  where omega g_m^2 < 3 |change of h_m| / D
                              or 5 |change of g_m| < |g_m|
    omega <- omega / chi      elsewhere

A constraint has no weight until a tenth of a generation violates it; then gamma and
omega start at ``iqr(f) / (D iqr(g))`` and 2/5 of that, with interquartile ranges.

Source: Atamna, Auger and Hansen, "Linearly convergent evolution strategies via
augmented Lagrangian constraint handling" (FOGA 2017), algorithm 1 and section 8.2.
Deviations: means over candidates replace an evaluation of the mean; omega changes only
where the constraint is active; chi is 1.15; the initial coefficients are nearly those
of pycma 4.5.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from gfopt import checks
from gfopt.core import trees
from gfopt.optimizers.wrappers.feasibility_rule import (
    Best,
    FeasibilityRule,
    no_best,
    separated,
)
from gfopt.protocol import Optimizer, as_method, innermost
from gfopt.pytree import pytree, static
from gfopt.types import Evaluation, Info, Key, Member, Population, Solution, State

CHI = 1.15
DAMPING = 5.0


class LagrangianState(NamedTuple):
    """The inner method's state and the constraints' coefficients.

    Attributes:
        step: ``i32[]``.
        inner: the inner method's state.
        best: the best feasible solution.
        multipliers: ``gamma``, ``float[M]``.
        penalties: ``omega``, ``float[M]``, 0 before a constraint has a weight.
        last_fitness: ``f_m`` of the last step, ``float[]``.
        last_values: ``g_m`` of the last step, ``float[M]``.
    """

    step: jax.Array
    inner: State
    best: Best
    multipliers: jax.Array
    penalties: jax.Array
    last_fitness: jax.Array
    last_values: jax.Array


@pytree
class AugmentedLagrangian(FeasibilityRule):
    """Runs ``inner`` on the augmented Lagrangian, whose coefficients it adapts.

    Args:
        inner: a method that does not keep values between steps, such as CMA-ES.
        num_constraints: ``M``, in total.

    Raises:
        TypeError: for an argument of the wrong type.
        ValueError: where ``num_constraints`` is below 1.

    Example:
        >>> import gfopt
        >>> lagrangian = gfopt.AugmentedLagrangian(gfopt.CMAES(), num_constraints=1)
        >>> objective = gfopt.Objective(lambda x: jnp.sum(x**2),
        ...                             constraints=(lambda x: 1 - x[0],))
        >>> result = gfopt.run(lagrangian, objective, jnp.full(2, 3.0),
        ...                    key=jax.random.key(0), generations=100)
        >>> bool(result.recommended[0] >= 1), jnp.abs(result.recommended).round(2)
        (True, Array([1., 0.], dtype=float32))
    """

    num_constraints: int = static(default=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.integer("num_constraints", self.num_constraints, 1)

    def init(self, key: Key, solution: Solution) -> State:
        """Starts the inner method, the constraints without weight."""
        inner = self.inner.init(key, solution)
        best = no_best(solution)
        zero = jnp.zeros((), best.fitness.dtype)
        zeros = [jnp.zeros(self.num_constraints, zero.dtype) for _ in range(3)]
        return LagrangianState(
            step=inner.step,
            inner=inner,
            best=best,
            multipliers=zeros[0],
            penalties=zeros[1],
            last_fitness=zero,
            last_values=zeros[2],
        )

    def tell(
        self, state: State, population: Population, evaluation: Evaluation
    ) -> tuple[State, Info]:
        """Tells the inner method h, then adapts the coefficients."""
        best = self.updated_best(state, population, evaluation)
        unconstrained, values = separated(evaluation, self.num_constraints)
        valid = unconstrained.valid
        dtype = state.penalties.dtype
        f = jnp.where(valid, unconstrained.fitness, jnp.nan).astype(dtype)
        g = jnp.where(valid[:, None], values, jnp.nan).astype(dtype)
        dimension = trees.num_parameters(self.decode(state, _first(population)))

        # a constraint gets its weight when a tenth of a generation first violates it
        share = jnp.sum(g > 0, axis=0) / jnp.maximum(jnp.sum(valid), 1)
        is_new = (state.penalties == 0) & (share > 0.1)
        slope = _spread(f) / (
            dimension * jnp.maximum(_spread(g), jnp.finfo(dtype).tiny)
        )
        is_new &= (slope > 0) & jnp.isfinite(slope)
        gamma = jnp.where(is_new, slope, state.multipliers)
        omega = jnp.where(is_new, 0.4 * slope, state.penalties)

        h = f + _penalty(g, gamma, omega)
        unconstrained = unconstrained._replace(fitness=jnp.where(valid, h, jnp.inf))
        inner, info = self.inner.tell(state.inner, population, unconstrained)

        weights = _weights(unconstrained)
        f_m = weights @ jnp.where(valid, f, 0)
        g_m = weights @ jnp.where(valid[:, None], g, 0)
        h_m = f_m + _penalty(g_m, gamma, omega)
        last = state.last_fitness + _penalty(state.last_values, gamma, omega)
        # omega must grow where it is small relative to h, or where g hardly changes
        is_weak = omega * g_m**2 < 3 * jnp.abs(h_m - last) / dimension
        is_weak |= 5 * jnp.abs(g_m - state.last_values) < jnp.abs(g_m)
        factor = jnp.where(is_weak, CHI**0.25, 1 / CHI)
        is_felt = (gamma + omega * g_m > 0) & ~is_new
        new = state._replace(
            step=inner.step,
            inner=inner,
            best=best,
            multipliers=jnp.maximum(gamma + omega * g_m / DAMPING, 0),
            penalties=jnp.where(is_felt, omega * factor, omega),
            last_fitness=f_m,
            last_values=g_m,
        )
        has_valid = jnp.any(valid)
        old = state._replace(step=inner.step, inner=inner)
        return trees.select(has_valid, new, old), info


def constrained(optimizer: Optimizer, num_constraints: int) -> Optimizer:
    """Wraps a method in the wrapper that suits it.

    Args:
        optimizer: a method, bounded or not.
        num_constraints: ``M``.

    Raises:
        TypeError: for a method of finite differences.
    """
    if as_method(innermost(optimizer)).has_margin:
        return AugmentedLagrangian(optimizer, num_constraints)
    return FeasibilityRule(optimizer)


def _first(population: Population) -> Member:
    return jax.tree.map(lambda leaf: leaf[0], population.members)


def _weights(evaluation: Evaluation) -> jax.Array:
    """Returns weights of sum 1 of the better half: ``ln((P + 1) / 2) - ln(rank)``."""
    size = evaluation.fitness.shape[0]
    rank = jnp.argsort(jnp.argsort(evaluation.fitness))
    weights = jnp.log((size + 1) / 2) - jnp.log1p(rank)
    weights = jnp.where(evaluation.valid, jnp.maximum(weights, 0), 0)
    weights = weights.astype(evaluation.fitness.dtype)
    return weights / jnp.maximum(jnp.sum(weights), jnp.finfo(weights.dtype).tiny)


def _spread(values: jax.Array) -> jax.Array:
    """Returns the interquartile range of each column, ignoring NaN."""
    low, high = jnp.nanquantile(values, jnp.array([0.25, 0.75]), axis=0)
    return high - low


def _penalty(g: jax.Array, gamma: jax.Array, omega: jax.Array) -> jax.Array:
    """Returns ``sum_k phi_k(g_k)``; constraints without weight add nothing."""
    has_weight = omega > 0
    outside = gamma * g + omega * g * g / 2
    inside = -gamma * gamma / (2 * jnp.where(has_weight, omega, 1))
    each = jnp.where(gamma + omega * g >= 0, outside, inside)
    return jnp.sum(jnp.where(has_weight, each, 0), axis=-1)
