"""One generation, written once for every driver."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gfopt.core.evaluate import Evaluator, Request, best_row
from gfopt.core.numpy_programs.random import encrypt
from gfopt.core.objective import Inputs, Objective
from gfopt.noise import threefry
from gfopt.protocol import Optimizer
from gfopt.types import Evaluation, Info, Key, Population, PyTree, State


class StepKeys(NamedTuple):
    """What a step may draw from, all derived from the run's key and the step."""

    ask: Key
    evaluate: Key
    batch: Key


class StepRecord(NamedTuple):
    """What the history keeps of a step: scalars only.

    Attributes:
        best_fitness: the best of this step, lower is better; NaN if none is valid.
        num_evaluations: rows that were evaluated.
        num_valid: rows that came back with a finite number.
        info: the method's own diagnostics.
    """

    best_fitness: jax.Array
    num_evaluations: jax.Array
    num_valid: jax.Array
    info: Info


def seed_keys(seed: int) -> np.ndarray:
    """Returns the key data of ``init`` and of the run: ``uint32[2, 2]``.

    ``jax.random.split(jax.random.key(seed))``, as ``run`` splits its key, in NumPy:
    a host driver would compile three programs for it.
    """
    words = np.array([seed >> 32, seed & 0xFFFFFFFF], np.uint32)
    counter = np.zeros(2, np.uint32), np.arange(2, dtype=np.uint32)
    with np.errstate(over="ignore"):
        return np.stack(encrypt(words[0], words[1], *counter), axis=1)


def wrapped(key_data: jax.Array) -> Key:
    """Returns the key of ``uint32[..., 2]`` words, whatever the default kind of key."""
    return jax.random.wrap_key_data(key_data, impl="threefry2x32")


@partial(jax.jit, inline=True)  # outside of a program it would be twenty of them
def run_keys(key: Key) -> tuple[Key, Key]:
    """Returns the keys of ``init`` and of the run, ``jax.random.split(key)``.

    For a threefry key the cipher is written out, which fuses: ``jax.random`` loops over
    its rounds, a dozen small programs to compile and to run.
    """
    if str(jax.random.key_impl(key)) != "threefry2x32":
        first, second = jax.random.split(key)
        return first, second
    words = jax.random.key_data(key)
    first, second = _split(words[0], words[1], 2)
    return first, second


@partial(jax.jit, inline=True)
def step_keys(run_key: Key, step: jax.Array) -> StepKeys:
    """Returns the keys of a step: a crash between ask and tell is asked again.

    They are ``split(fold_in(run_key, step), 3)``, written out as in ``run_keys``: in a
    small generation the loops would be half of the time.
    """
    if str(jax.random.key_impl(run_key)) != "threefry2x32":
        return StepKeys(*jax.random.split(jax.random.fold_in(run_key, step), 3))
    words = jax.random.key_data(run_key)
    counter = np.uint32(0), jnp.asarray(step).astype(jnp.uint32)
    first, second = threefry.encrypt((words[0], words[1]), counter)
    return StepKeys(*_split(first, second, 3))


def keys_of_step(seed: int, step: int) -> StepKeys:
    """Returns the keys of a step of the run with this seed, outside of a program."""
    return step_keys(wrapped(seed_keys(seed)[1]), jnp.int32(step))


def _split(first: jax.Array, second: jax.Array, count: int) -> list[Key]:
    """Returns the keys of a key of two words, each by itself: few of them are used."""
    counters = [(np.uint32(0), np.uint32(i)) for i in range(count)]
    pairs = [threefry.encrypt((first, second), counter) for counter in counters]
    return [wrapped(jnp.stack(pair)) for pair in pairs]


def record(evaluation: Evaluation, info: Info) -> StepRecord:
    """Returns what the history keeps of a step."""
    _, best = best_row(evaluation)
    best = jnp.where(jnp.isfinite(best), best, jnp.nan)
    return StepRecord(
        best_fitness=best,
        num_evaluations=jnp.int32(evaluation.valid.shape[0]),
        num_valid=jnp.sum(evaluation.valid, dtype=jnp.int32),
        info=info,
    )


def generation(
    optimizer: Optimizer,
    objective: Objective,
    evaluator: Evaluator,
    keys: StepKeys,
    state: State,
    inputs: Inputs,
    allowance: jax.Array | None = None,
) -> tuple[State, PyTree, StepRecord, Population, Evaluation]:
    """Asks, evaluates and tells, once.

    Args:
        optimizer: the method.
        objective: what is minimised.
        evaluator: a traceable evaluator.
        keys: this step's keys.
        state: the method's state.
        inputs: what the evaluation needs beside the solution.
        allowance: how many rows may still be evaluated, or None for all.

    Returns:
        ``(state, context, record, population, evaluation)``.
    """
    population = optimizer.ask(keys.ask, state)
    if allowance is not None:
        rows = jnp.arange(population.active.shape[0])
        population = population._replace(active=population.active & (rows < allowance))
    request = Request(keys.evaluate, objective, optimizer, state, population, inputs)
    evaluation = evaluator(request)
    state, info = optimizer.tell(state, population, evaluation)
    context = inputs.context
    if objective.update is not None:
        context = objective.update(context, evaluation)
    row = record(evaluation, info)
    row = row._replace(num_evaluations=jnp.sum(population.active, dtype=jnp.int32))
    return state, context, row, population, evaluation


def population_size(optimizer: Optimizer, state: State) -> int:
    """Returns the number of rows that ``ask`` proposes, without asking."""

    def active(state: State) -> jax.Array:
        return optimizer.ask(jax.random.key(0), state).active

    return jax.eval_shape(active, state).shape[0]


@jax.jit
def num_active(optimizer: Optimizer, state: State) -> jax.Array:
    """Returns how many rows of the next population are to be evaluated: ``i32[]``.

    They follow from the state, not from the key: the compiler drops the rest of ask.
    """
    population = optimizer.ask(jax.random.key(0), state)
    return jnp.sum(population.active, dtype=jnp.int32)
