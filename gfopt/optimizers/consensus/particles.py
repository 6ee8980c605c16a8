"""What the particles are, what they remember, and which of them take part."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gfopt.core import schedules
from gfopt.noise import law
from gfopt.types import Solution


class Particles(NamedTuple):
    """What a particle is; every leaf has the leading axis ``N``.

    Attributes:
        position: ``float[N, D]``, before the mirror map if there is one.
        fitness: ``float[N]`` of the memory, else of the position; infinite where none.
        memory: ``float[N, D]``, ``()`` without memory.
        first: ``float[N, D]``, Adam's mean of the distances, or ``()``.
        second: ``float[N, D]``, Adam's mean of their squares, or ``()``.
    """

    position: jax.Array
    fitness: jax.Array
    memory: Any
    first: Any
    second: Any


class CBOState(NamedTuple):
    """The particles and their consensus.

    Attributes:
        step: ``i32[]``.
        center: the starting solution.
        particles: where they are; those of the last batch stand first.
        consensus: ``float[D]``.
        alpha: ``float[]``, of the last consensus.
        best_fitness: ``float[]``, the best so far.
        num_stalled: ``i32[]``, steps since it was found.
        is_stagnant: ``bool[]``, whether the next step is a kick.
        num_active: ``i32[]``, particles that are left; they stand first.
        variance: ``float[]``, of the particles, which decides how many are left.
    """

    step: jax.Array
    center: Solution
    particles: Particles
    consensus: jax.Array
    alpha: jax.Array
    best_fitness: jax.Array
    num_stalled: jax.Array
    is_stagnant: jax.Array
    num_active: jax.Array
    variance: jax.Array


def at(method: Any, name: str, state: CBOState) -> Any:
    """Returns a hyperparameter's value at this step."""
    return schedules.at(name, getattr(method, name), state.step)


def num_evaluated(method: Any, state: CBOState) -> jax.Array:
    """Returns how many rows are evaluated at a step, ``i32[]``."""
    size = method.batch_size or method.population_size
    return jnp.minimum(state.num_active, size)


def primal(method: Any, y: jax.Array) -> jax.Array:
    """Returns the numbers that satisfy the constraint, ``[D]``."""
    return y if method.mirror is None else method.mirror.to_primal(y)


def dual(method: Any, x: jax.Array) -> jax.Array:
    """Returns the numbers that a particle moves, ``[D]``."""
    return x if method.mirror is None else method.mirror.to_dual(x)


def remembered(
    method: Any, state: CBOState, members: Particles, fitness: jax.Array
) -> tuple[Particles, jax.Array]:
    """Returns the particles with their fitness, and the points of the consensus."""
    x = jax.vmap(partial(primal, method))(members.position)
    if method.memory is None:
        return members._replace(fitness=fitness), x
    known, found = members.fitness, jnp.isfinite(fitness)
    if method.memory == "best":
        rate = jnp.where(fitness < known, 1.0, 0.0)
    else:
        # y <- y + kappa dt (x - y) (1 + tanh(beta (f(y) - f(x)))) / 2;
        # f(y) is not evaluated but follows f(x) at the rate at which y follows x
        gain = jnp.where(found & jnp.isfinite(known), known - fitness, 0)
        sharpness = at(method, "memory_sharpness", state)
        follow = at(method, "memory_rate", state) * at(method, "dt", state)
        rate = follow * (1 + jnp.tanh(sharpness * gain)) / 2
    # a particle that has seen nothing takes its memory along
    rate = jnp.where(found, jnp.clip(rate, 0, 1), 0)
    rate = jnp.where(jnp.isinf(known), 1, rate).astype(x.dtype)
    y = members.memory + rate[:, None] * (x - members.memory)
    mixed = (1 - rate) * known + rate * fitness
    mixed = jnp.where(rate == 0, known, jnp.where(rate == 1, fitness, mixed))
    return members._replace(fitness=mixed, memory=y), y


def left(method: Any, state: CBOState, x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns how many particles are left, and their variance."""
    if method.reduction is None:
        return state.num_active, state.variance
    share = (jnp.arange(len(x)) < state.num_active)[:, None] / state.num_active
    distance = x - jnp.sum(share * x, axis=0)
    variance = jnp.sum(share * distance**2) / x.shape[1]
    # N <- N (1 - mu + mu var_after / var_before), never more
    ratio = variance / jnp.where(state.variance > 0, state.variance, variance)
    ratio = jnp.where(jnp.isfinite(ratio), jnp.minimum(ratio, 1), 1)
    kept = 1 - at(method, "reduction", state) * (1 - ratio)
    least = jnp.minimum(method.min_particles, state.num_active)
    num = jnp.maximum(jnp.round(state.num_active * kept).astype(jnp.int32), least)
    return num, variance.astype(x.dtype)


def order(method: Any, seed: jax.Array, state: CBOState) -> jax.Array:
    """Returns an order of the rows that puts the next batch first, ``i32[N]``.

    The rows take turns, and are shuffled where all have had theirs.
    """
    rows, live = jnp.arange(method.population_size), state.num_active
    batch = num_evaluated(method, state)
    coins = law.noise_rows("gaussian", seed, 1, 0, 1, len(rows))[0]
    shuffled = jnp.argsort(jnp.where(rows < live, coins, jnp.inf))
    turned = jnp.where(rows < live, (rows + batch) % live, rows)
    return jnp.where(state.step % jnp.maximum(live // batch, 1), turned, shuffled)
