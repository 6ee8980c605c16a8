"""A feasibility rule: constraints ``g(x) <= 0`` for unconstrained methods.

Feasible candidates rank by their fitness and before all others, which rank by the sum
of their violations:

    f'(x) = min(f(x), 1e30)                          where all g_k(x) <= 0
    f'(x) = 1e30 (1000 + ln sum_k max(g_k(x), 0))    elsewhere

so that values stay comparable from step to step, even for methods that keep them. The
logarithm orders violations of all magnitudes within the precision of a float.

Source: Deb, "An efficient constraint handling method for genetic algorithms" (Computer
Methods in Applied Mechanics and Engineering 186, 2000), eq. 4. Deviation: the violation
is on a logarithmic scale above any fitness, not added to the worst one so far.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from gfopt import checks
from gfopt.core import trees
from gfopt.core.constraints import ConstraintValues, is_feasible
from gfopt.core.evaluate import best_row
from gfopt.lazy import lazy
from gfopt.optimizers.wrappers.bounded import refuse_slopes
from gfopt.protocol import Optimizer, Wrapper
from gfopt.pytree import pytree
from gfopt.types import Array, Evaluation, Info, Key, Population, Solution, State

MOST_KEPT = 1 << 20  # size up to which the best feasible solution is stored
FEASIBLE = 1e30  # the largest fitness that a feasible candidate is given


class Best(NamedTuple):
    """The best feasible solution so far.

    Attributes:
        fitness: ``float[]``, infinite before there is one.
        solution: a tree like the solution; ``()`` where it is too large to copy.
    """

    fitness: jax.Array
    solution: Solution


class RuleState(NamedTuple):
    """The step, the inner method's state, and the best feasible solution."""

    step: jax.Array
    inner: State
    best: Best


@pytree
class FeasibilityRule(Wrapper):
    """Runs ``inner`` with feasible candidates ranked before all others.

    Args:
        inner: a method that uses only the order of values.

    Raises:
        TypeError: for an argument of the wrong type, or a method of finite differences.

    Example:
        >>> import gfopt
        >>> rule = gfopt.FeasibilityRule(gfopt.DifferentialEvolution(sigma=1.0))
        >>> objective = gfopt.Objective(lambda x: jnp.sum(x**2),
        ...                             constraints=(lambda x: 1 - x[0],))
        >>> result = gfopt.run(rule, objective, jnp.full(2, 3.0),
        ...                    key=jax.random.key(0), generations=100)
        >>> bool(result.recommended[0] >= 1), abs(result.recommended).round(1)
        (True, Array([1., 0.], dtype=float32))
    """

    inner: Optimizer

    def __post_init__(self) -> None:
        checks.instance("inner", self.inner, Optimizer, "a gfopt optimizer")
        refuse_slopes(self.inner, "constraints")

    def init(self, key: Key, solution: Solution) -> RuleState:
        """Starts the inner method."""
        inner = self.inner.init(key, solution)
        return RuleState(inner.step, inner, no_best(solution))

    def tell(
        self, state: State, population: Population, evaluation: Evaluation
    ) -> tuple[State, Info]:
        """Tells the inner method the fitness of feasible rows, above it the others."""
        best = self.updated_best(state, population, evaluation)
        unconstrained, values = separated(evaluation, 1)
        excess = jnp.sum(jnp.maximum(values, 0), axis=1)
        # the logarithm orders violations of all magnitudes within a float's precision
        order = jnp.log(jnp.maximum(excess, jnp.finfo(excess.dtype).tiny))
        worst = FEASIBLE * (1000 + order)
        limited = jnp.minimum(
            unconstrained.fitness, FEASIBLE
        )  # larger ones are feasible as well
        fitness = jnp.where(is_feasible(evaluation), limited, worst)
        unconstrained = unconstrained._replace(
            fitness=fitness.astype(unconstrained.fitness.dtype)
        )
        inner, info = self.inner.tell(state.inner, population, unconstrained)
        return RuleState(inner.step, inner, best), info

    def updated_best(
        self, state: State, population: Population, evaluation: Evaluation
    ) -> Best:
        """Returns the best feasible solution, this generation's included."""
        index, fitness = best_row(evaluation)
        is_better = fitness < state.best.fitness
        best = jnp.where(is_better, fitness, state.best.fitness)
        best = best.astype(state.best.fitness.dtype)
        if not jax.tree.leaves(state.best.solution):
            return Best(best, ())
        member = jax.tree.map(lambda leaf: leaf[index], population.members)
        solution = lazy.materialise(self.decode(state, member))
        return Best(best, trees.select(is_better, solution, state.best.solution))

    def recommend(self, state: State) -> Solution:
        """Returns the best feasible solution; before there is one, the method's."""
        own = super().recommend(state)
        if not jax.tree.leaves(state.best.solution):
            return own
        return trees.select(jnp.isfinite(state.best.fitness), state.best.solution, own)


def separated(evaluation: Evaluation, count: int) -> tuple[Evaluation, Array]:
    """Returns the evaluation without constraints, and their values ``[P, M]``."""
    if not isinstance(evaluation.aux, ConstraintValues):  # no row came back
        return evaluation, jnp.zeros((evaluation.valid.size, count))
    values, aux = evaluation.aux
    valid = evaluation.valid & jnp.all(jnp.isfinite(values), axis=1)
    return Evaluation(evaluation.fitness, valid, aux), values


def no_best(solution: Solution) -> Best:
    """Returns the placeholder for the best feasible solution."""
    solution = trees.starting_point(solution)
    infinite = jnp.full((), jnp.inf, trees.wide_dtype(solution))
    is_small = trees.num_parameters(solution) <= MOST_KEPT
    return Best(infinite, jax.tree.map(jnp.array, solution) if is_small else ())
