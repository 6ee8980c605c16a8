"""What the suite runs over: every registered method, alone and within bounds."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gfopt
from gfopt import registry
from gfopt.core.evaluate import judged, vmapped
from gfopt.core.lazy import materialise
from gfopt.core.objective import Inputs, as_objective
from gfopt.driver.step import step_keys
from gfopt.types import Evaluation, Optimizer, Population

LOW, HIGH = -2.5, 3.0  # bounds of every number, where there are some
SCALE = 1.25


@dataclass(frozen=True)
class Case:
    """A method as the suite runs it.

    Attributes:
        row: its row in the registry.
        bounded: whether ``Bounded`` is around it.
    """

    row: registry.Row
    bounded: bool

    def has(self, flag: str) -> bool:
        """Tells whether the row claims a capability."""
        return flag in self.row.flags

    def make(self, like: Any = None, **options: Any) -> Optimizer:
        """Makes the optimizer, for solutions ``like`` this one (a vector of 5)."""
        inner = registry.method(self.row.name, {**self.row.test, **options})
        if not self.bounded:
            return inner
        like = jnp.zeros(5) if like is None else like
        sides = (
            jax.tree.map(lambda leaf, side=side: np.full(np.shape(leaf), side), like)
            for side in (LOW, HIGH, SCALE)
        )
        return gfopt.Bounded(inner, gfopt.Space(*sides))

    def sizes(self, *wanted: int) -> list[dict[str, int]]:
        """Returns options for population sizes, as near to ``wanted`` as it takes."""
        if not self.has("population_size"):
            return [{}]
        even = self.has("pairs")
        return [
            {"population_size": size}
            for size in dict.fromkeys(n + n % 2 if even else n for n in wanted)
        ]


ALL = [
    Case(row, bounded)
    for row in registry.METHODS.values()
    for bounded in (False, True)
]


def name_of(case: Case) -> str:
    """Returns a case's name in test ids."""
    return f"{case.row.name}{'-bounded' if case.bounded else ''}"


each_case = pytest.mark.parametrize("case", ALL, ids=name_of)
each_method = pytest.mark.parametrize(
    "case", [case for case in ALL if not case.bounded], ids=name_of
)


def methods_with(flag: str) -> pytest.MarkDecorator:
    """Parametrises over the methods that claim a capability."""
    cases = [case for case in ALL if not case.bounded and case.has(flag)]
    return pytest.mark.parametrize("case", cases, ids=name_of)


def sphere(x: Any) -> jax.Array:
    """A quadratic over any tree; its terms are added in float32 or wider."""
    return sum(
        jnp.sum((leaf.astype(jnp.promote_types(leaf.dtype, jnp.float32)) - 0.5) ** 2)
        for leaf in jax.tree.leaves(x)
    )


def evaluate(optimizer: Optimizer, state: Any, population: Population) -> Evaluation:
    """Evaluates a population on ``sphere`` with the default evaluator."""
    objective = as_objective(sphere)
    key = jax.random.key(0)
    return vmapped()(key, objective, optimizer, state, population, Inputs())


def told(
    optimizer: Optimizer, state: Any, population: Population, fitness: Any
) -> tuple[Any, Any]:
    """Tells a fitness by hand; NaN and infinities are failures, as in the core."""
    wide = jnp.result_type(jnp.float32, *jax.tree.leaves(optimizer.recommend(state)))
    evaluation = judged(jnp.asarray(fitness, wide), population.active, ())
    return optimizer.tell(state, population, evaluation)


@dataclasses.dataclass
class Counter:
    """A compiled generation that counts how often it is traced."""

    objective: Any = sphere
    traces: int = 0

    def __post_init__(self) -> None:
        objective = as_objective(self.objective)

        @jax.jit
        def step(optimizer: Optimizer, key: jax.Array, state: Any) -> tuple[Any, Any]:
            self.traces += 1
            keys = step_keys(key, state.step)
            population = optimizer.ask(keys.ask, state)
            evaluation = vmapped()(
                keys.evaluate, objective, optimizer, state, population, Inputs()
            )
            return optimizer.tell(state, population, evaluation)

        self.step = step


def solutions(optimizer: Optimizer, state: Any, population: Population) -> list[Any]:
    """Decodes a population one member at a time, as dense solutions."""
    count = population.active.shape[0]
    members = [
        jax.tree.map(lambda leaf, row=row: leaf[row], population.members)
        for row in range(count)
    ]
    return [materialise(optimizer.decode(state, member)) for member in members]


def same_bits(a: Any, b: Any) -> None:
    """Asserts that two trees have equal structure, types, and every bit in common."""
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for (path, left), right in zip(
        jax.tree_util.tree_leaves_with_path(a), jax.tree.leaves(b), strict=True
    ):
        where = jax.tree_util.keystr(path)
        left, right = np.asarray(left), np.asarray(right)
        assert (left.shape, left.dtype) == (right.shape, right.dtype), where
        assert left.tobytes() == right.tobytes(), f"{where}: {left} != {right}"


def close(a: Any, b: Any, rtol: float = 1e-5, atol: float = 1e-6) -> None:
    """Asserts that two trees are equal up to rounding."""
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for (path, left), right in zip(
        jax.tree_util.tree_leaves_with_path(a), jax.tree.leaves(b), strict=True
    ):
        left, right = np.asarray(left, np.float64), np.asarray(right, np.float64)
        name = jax.tree_util.keystr(path)
        np.testing.assert_allclose(left, right, rtol, atol, err_msg=name)


def no_nan(tree: Any) -> None:
    """Asserts that no number in a tree is NaN."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        assert not np.any(np.isnan(np.asarray(leaf, np.float64))), (
            jax.tree_util.keystr(path)
        )


def types_of(tree: Any) -> Any:
    """Returns structure, shapes, dtypes and weak types of a tree."""
    return jax.tree.structure(tree), [
        (jnp.shape(leaf), leaf.dtype, getattr(leaf, "weak_type", False))
        for leaf in jax.tree.leaves(tree)
    ]

