"""What a method makes of failures, ties, huge numbers and transformed fitness."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import jax
import numpy as np
import pytest
from conformance import cases
from conformance.cases import KEY, Case

from gfopt.protocol import Optimizer
from gfopt.types import Evaluation, Population

STEPS = 3
Spoil: TypeAlias = Callable[[np.ndarray, np.random.Generator], np.ndarray]


def where(condition: Any, wrong: float) -> Spoil:
    """Returns a spoiling that puts ``wrong`` where a condition on the row holds."""
    return lambda f, rng: np.where(condition(np.arange(f.size), f.size), wrong, f)


# fitness [P] from the true one and a generator; what is not finite is a failure
SPOILED: dict[str, Spoil] = {
    "fifth_fails": lambda f, rng: np.where(rng.uniform(size=f.shape) < 0.2, np.nan, f),
    "all_fail": lambda f, rng: np.full_like(f, np.nan),
    "all_infinite": lambda f, rng: np.resize([np.inf, -np.inf], f.shape),
    "one_is_left": where(lambda row, size: row != 1, np.inf),
    "first_half_fails": where(lambda row, size: row < size // 2, np.nan),
    "ties": lambda f, rng: np.round(f),
    "constant": lambda f, rng: np.full_like(f, 3.0),
    "huge": lambda f, rng: np.resize([3e38, -3e38], f.shape),
    "tiny": lambda f, rng: np.resize([1e-45, 0.0, -0.0], f.shape),
}


# what failed is noted there, not to be asked for again; lq_cma_es has a state for it
NOTED = {
    "coordinate_search": ("lines", "num_asked", "failed", "retries"),
    "bayesian_optimization": ("points", "is_used"),
}


def generations(case: Case, spoil: Spoil) -> list[tuple[Population, Any]]:
    """Returns populations and states of a few steps on a spoiled sphere."""
    rng = np.random.default_rng(0)
    optimizer = case.make()
    state = cases.init(optimizer, KEY, case.x0)
    found = []
    for step in range(STEPS):
        population = cases.ask(optimizer, jax.random.key(step), state)
        evaluation = cases.evaluate(optimizer, state, population)
        spoiled = spoil(np.asarray(evaluation.fitness), rng)
        state, _ = told(optimizer, state, population, spoiled)
        found.append((population, state))
    return found


def told(
    optimizer: Optimizer,
    state: Any,
    population: Population,
    fitness: Any,
) -> tuple[Any, Any]:
    """Tells a fitness by hand; as in the core, what is not finite is a failure."""
    found = cases.judge(np.asarray(fitness, np.float32), population.active, ())
    return cases.tell(optimizer, state, population, found)


@cases.each_case
@pytest.mark.parametrize("kind", SPOILED)
def test_no_number_is_ever_nan(case: Case, kind: str) -> None:
    optimizer = case.make()
    for population, state in generations(case, SPOILED[kind]):
        cases.no_nan((population, state, cases.recommend(optimizer, state)))


@cases.each_case
@pytest.mark.parametrize("kind", ["all_fail", "all_infinite"])
def test_without_a_valid_row_only_the_counter_moves(case: Case, kind: str) -> None:
    first = cases.init(case.make(), KEY, case.x0)
    _, last = generations(case, SPOILED[kind])[-1]
    assert last.step == STEPS
    if case.row.name == "lq_cma_es":
        first, last = first.cma, last.cma
    own = NOTED.get(case.row.name, ())
    last = last._replace(**{name: getattr(first, name) for name in own})
    cases.same_bits(last._replace(step=first.step), first)


@cases.each_method
def test_after_a_failed_step_a_good_one_counts(case: Case) -> None:
    spoiled = iter([np.nan, 0.0, 0.0])
    _, (_, state), _ = generations(case, lambda f, rng: f + np.float32(next(spoiled)))
    first = cases.init(case.make(), KEY, case.x0)
    changed = jax.tree.map(
        lambda a, b: np.any(np.asarray(a) != np.asarray(b)), state[1:], first[1:]
    )
    assert any(jax.tree.leaves(changed))


@cases.methods_with("pairs")
def test_a_constant_objective_moves_nothing(case: Case) -> None:
    # E3: f constant, update exactly 0: a pair's two halves cancel
    _, state = generations(case, SPOILED["constant"])[-1]
    cases.same_bits(cases.recommend(case.make(), state), case.x0)


@cases.each_method
def test_failed_members_weigh_nothing(case: Case) -> None:
    """The same valid rows give the same update, whatever the failed ones returned."""
    optimizer, state, population, evaluation = cases.first_step(case)
    failed = np.arange(len(population.active)) % 5 == 1

    def update(wrong: float) -> Any:
        fitness = np.where(failed, np.float32(wrong), evaluation.fitness)
        marked = Evaluation(fitness, np.asarray(population.active) & ~failed)
        return cases.tell(optimizer, state, population, marked)[0]

    cases.same_bits(update(-1e9), update(1e9))


@cases.each_method
def test_only_the_order_counts_where_the_row_says_so(case: Case) -> None:
    # E4: f, 3 f + 7 and exp(f - 10) give trajectories with the same bits
    transforms: list[Spoil] = [
        lambda f, rng: f,
        lambda f, rng: 3 * f.astype(np.float64) + 7,
        lambda f, rng: np.exp(f.astype(np.float64) - 10),
    ]
    expected, *others = (generations(case, transform) for transform in transforms)

    def answers(steps: list[tuple[Population, Any]]) -> list[Any]:
        populations = [population.members for population, _ in steps]
        recommended = cases.recommend(case.make(), steps[-1][1])
        return jax.tree.leaves((populations, recommended))

    def is_same(other: list[tuple[Population, Any]]) -> bool:
        pairs = zip(answers(expected), answers(other), strict=True)
        return all(np.array_equal(a, b) for a, b in pairs)

    same = all(map(is_same, others))
    assert same == case.has("rank_based"), (
        f"{case.row.name} is flagged rank_based: {case.has('rank_based')}; "
        f"transformed values gave the same steps: {same}"
    )


@cases.methods_with("tolerates_stale")
def test_a_late_generation_is_used(case: Case) -> None:
    optimizer, state, late, evaluation = cases.first_step(case)
    present = cases.ask(optimizer, jax.random.key(2), state)
    found = cases.evaluate(optimizer, state, present)
    new, _ = cases.tell(optimizer, state, present, found)
    newer, _ = told(optimizer, new, late, np.asarray(evaluation.fitness) - 100.0)
    cases.no_nan(newer)
    answers = (np.asarray(cases.recommend(optimizer, s)) for s in (new, newer))
    assert np.any(np.not_equal(*answers))
