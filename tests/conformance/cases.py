"""What the suite runs over: every registered method, alone and within bounds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conformance.configurations import Configuration, configuration
from programs import cheap_jit

import gfopt
from gfopt import registry
from gfopt.core.evaluate import Evaluator, Request, judged, vmapped
from gfopt.core.objective import Inputs, Objective
from gfopt.methods_table import Row
from gfopt.protocol import Optimizer
from gfopt.types import Evaluation, Population

LOW, HIGH = -2.5, 3.0  # bounds of every number, where there are some
SCALE = 1.25
VMAPPED = vmapped()
X0 = jnp.array([1.0, -0.5, 0.25, 2.0, -1.5])
TOKENS = jnp.array([3, 7, 3, 0, 11], jnp.int32)  # where solutions are token sequences
HIDDEN = jnp.array([5, 2, 8, 8, 1], jnp.int32)  # what those look for
KEY = jax.random.key(1)


@dataclass(frozen=True)
class Case:
    """A method as the suite runs it.

    Attributes:
        row: its row in the table of methods.
        bounded: whether ``Bounded`` is around it.
    """

    row: Row
    bounded: bool

    @property
    def configuration(self) -> Configuration:
        """How the suite runs the method."""
        return configuration(self.row)

    @property
    def numbers(self) -> dict[str, float]:
        """The hyperparameters among its options; of a part, ``"part.name"``."""
        options = dict(self.configuration.options)
        leaves = jax.tree_util.tree_leaves_with_path(options)
        return {
            ".".join([path[0].key, *(key.name for key in path[1:])]): leaf
            for path, leaf in leaves
            if isinstance(leaf, float)
        }

    @property
    def x0(self) -> jax.Array:
        """The starting solution: five numbers or tokens."""
        return TOKENS if self.row.tokens else X0

    @property
    def distance(self) -> Callable[[Any], jax.Array]:
        """Returns what the search tests minimise: 0 at best, 5 at zeros."""
        return mismatches if self.row.tokens else shifted

    def has(self, flag: str) -> bool:
        """Tells whether the row claims a capability."""
        return flag in self.row.flags

    def make(self, like: Any = None, **options: Any) -> Optimizer:
        """Makes the optimizer, for solutions ``like`` this one (a vector of 5).

        An option ``"part.name"`` is a field of a part.
        """
        whole = {k: v for k, v in options.items() if "." not in k}
        fields = {**self.configuration.options, **whole}
        inner = registry.method(self.row.name, fields)
        for name in options.keys() - whole.keys():
            part, field = name.split(".")
            changed = replace(getattr(inner, part), **{field: options[name]})
            inner = replace(inner, **{part: changed})
        if not self.bounded:
            return inner
        like = jnp.zeros(5) if like is None else like
        sides = (
            jax.tree.map(lambda leaf, side=side: np.full(np.shape(leaf), side), like)
            for side in (LOW, HIGH, SCALE)
        )
        return gfopt.Bounded(inner, gfopt.spaces.Space(*sides))

    def sizes(self, *wanted: int) -> list[dict[str, int]]:
        """Returns options for population sizes, as near to ``wanted`` as it takes."""
        if not self.has("population_size"):
            return [{}]
        even = self.has("pairs")
        possible = [max(size, self.configuration.smallest) for size in wanted]
        return [
            {"population_size": size}
            for size in dict.fromkeys(n + n % 2 if even else n for n in possible)
        ]


# a vocabulary says which tokens are allowed: they know no bounds
ALL = [
    Case(row, bounded)
    for row in registry.METHODS.values()
    for bounded in ((False,) if row.tokens else (False, True))
]
NUMBERS = [case for case in ALL if not case.row.tokens]


def name_of(case: Case) -> str:
    """Returns a case's name in test ids."""
    return f"{case.row.name}{'-bounded' if case.bounded else ''}"


def over(cases: list[Case]) -> pytest.MarkDecorator:
    """Parametrises a test; all tests of a method run where it is compiled."""
    return pytest.mark.parametrize(
        "case",
        [
            pytest.param(
                case, id=name_of(case), marks=pytest.mark.xdist_group(case.row.name)
            )
            for case in cases
        ],
    )


each_case = over(ALL)
each_method = over([case for case in ALL if not case.bounded])
each_case_of_numbers = over(NUMBERS)
each_method_of_numbers = over([case for case in NUMBERS if not case.bounded])


def methods_with(flag: str) -> pytest.MarkDecorator:
    """Parametrises over the methods that claim a capability."""
    return over([case for case in ALL if not case.bounded and case.has(flag)])


def sphere(x: Any) -> jax.Array:
    """A quadratic over any tree; its terms are added in float32 or wider.

    Token ids count a quarter: the values are then about as large.
    """
    wide = [
        leaf.astype(jnp.promote_types(leaf.dtype, jnp.float32))
        * (0.25 if jnp.issubdtype(leaf.dtype, jnp.integer) else 1.0)
        for leaf in jax.tree.leaves(x)
    ]
    return sum(jnp.sum((leaf - 0.5) ** 2) for leaf in wide)


def shifted(x: jax.Array) -> jax.Array:
    """A quadratic with its minimum at ones."""
    return jnp.sum((x - 1) ** 2)


def mismatches(tokens: jax.Array) -> jax.Array:
    """What tokens are not those of the hidden sequence, the later the worse."""
    weights = jnp.array([0.5, 0.75, 1.0, 1.25, 1.5])
    return jnp.sum(weights * (tokens != HIDDEN))


def seen_sphere(x: Any) -> tuple[jax.Array, Any]:
    """Returns the sphere and the solution itself."""
    return sphere(x), x


TRACES: Counter[str] = Counter()  # of the functions below, in this process


@jax.jit
def init(optimizer: Optimizer, key: jax.Array, x0: Any) -> Any:
    """``optimizer.init``, compiled once for all tests of a shape."""
    TRACES["init"] += 1
    return optimizer.init(key, x0)


@jax.jit
def ask(optimizer: Optimizer, key: jax.Array, state: Any) -> Population:
    """``optimizer.ask``, compiled."""
    TRACES["ask"] += 1
    return optimizer.ask(key, state)


@jax.jit
def tell(
    optimizer: Optimizer, state: Any, population: Population, evaluation: Evaluation
) -> tuple[Any, Any]:
    """``optimizer.tell``, compiled."""
    TRACES["tell"] += 1
    return optimizer.tell(state, population, evaluation)


@jax.jit
def recommend(optimizer: Optimizer, state: Any) -> Any:
    """``optimizer.recommend``, compiled."""
    return optimizer.recommend(state)


@jax.jit
def stop(optimizer: Optimizer, state: Any) -> dict[str, jax.Array]:
    """``optimizer.stop``, compiled."""
    return optimizer.stop(state)


judge = jax.jit(judged)


@partial(jax.jit, static_argnames=("objective", "evaluator"))
def evaluate(
    optimizer: Optimizer,
    state: Any,
    population: Population,
    objective: Callable[[Any], Any] = seen_sphere,
    evaluator: Evaluator = VMAPPED,
) -> Evaluation:
    """Evaluates a population; ``aux`` are the solutions that the objective saw."""
    TRACES["evaluate"] += 1
    problem, key = Objective(objective, has_aux=True), jax.random.key(0)
    return evaluator(Request(key, problem, optimizer, state, population, Inputs()))


def first_step(case: Case) -> tuple[Optimizer, Any, Any, Any]:
    """Returns an optimizer, its first state, population and evaluation."""
    optimizer = case.make()
    state = init(optimizer, KEY, case.x0)
    population = ask(optimizer, KEY, state)
    return optimizer, state, population, evaluate(optimizer, state, population)


class Steps(NamedTuple):
    """What a few steps in one program lead to.

    Attributes:
        first: the first state.
        last: the last one.
        seen: ``[num_steps, P, ...]``, the solutions that the objective saw.
        recommended: at the end.
    """

    first: Any
    last: Any
    seen: Any
    recommended: Any


@partial(cheap_jit, static_argnames="num_steps")
def steps(optimizer: Optimizer, x0: Any, num_steps: int) -> Steps:
    """Takes a few steps on the sphere, in one program."""

    def step(state: Any, key: jax.Array) -> tuple[Any, Any]:
        population = optimizer.ask(key, state)
        evaluation = evaluate(optimizer, state, population)
        return optimizer.tell(state, population, evaluation)[0], evaluation.aux

    first = optimizer.init(KEY, x0)
    last, seen = jax.lax.scan(step, first, jax.random.split(KEY, num_steps))
    return Steps(first, last, seen, optimizer.recommend(last))


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
        assert not np.any(np.isnan(np.asarray(leaf, np.float64))), jax.tree_util.keystr(
            path
        )


def types_of(tree: Any) -> Any:
    """Returns structure, shapes, dtypes and weak types of a tree."""
    return jax.tree.structure(tree), [
        (jnp.shape(leaf), leaf.dtype, getattr(leaf, "weak_type", False))
        for leaf in jax.tree.leaves(tree)
    ]
