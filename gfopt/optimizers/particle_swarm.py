"""Particle swarm optimization with constriction and a global best.

    v <- w v + c_1 r_1 (b - x) + c_2 r_2 (g - x),   r_1, r_2 ~ U[0, 1)^D
    x <- x + v

``b`` is the best point of the particle so far, ``g`` the best of the swarm. Each
coordinate has its own random numbers. The first generation is ``x0`` and
``x0 + sigma z``, ``z ~ N(0, I)``, at rest.

Source: Clerc, Kennedy (2002), IEEE Trans. Evolutionary Computation 6(1), 58-73: with
``c = 2.05`` for both and the constriction 0.7298 the factors are ``w = 0.7298`` and
``c_1 = c_2 = 1.49618``.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from gfopt import checks
from gfopt.core import schedules, trees
from gfopt.noise import threefry
from gfopt.optimizers import vectors
from gfopt.protocol import Method
from gfopt.pytree import pytree, static
from gfopt.types import Evaluation, Key, Member, Population, Solution


class Particle(NamedTuple):
    """Where a particle is, ``[D]``, and the step that brought it there, ``[D]``."""

    position: jax.Array
    velocity: jax.Array


class ParticleSwarmState(NamedTuple):
    """The swarm.

    Attributes:
        step: ``i32[]``.
        center: the starting solution.
        particles: positions and velocities, ``float[P, D]`` each.
        best_positions: ``float[P, D]``, the best of each particle so far.
        best_fitness: ``float[P]``, infinite before a particle has a value.
    """

    step: jax.Array
    center: Solution
    particles: Particle
    best_positions: jax.Array
    best_fitness: jax.Array


class ParticleSwarmInfo(NamedTuple):
    """Diagnostics of one step.

    Attributes:
        best_fitness: the best of the swarm so far.
        spread: longest edge of the box around the particles' bests.
        speed: root mean square of the velocities' coordinates.
    """

    best_fitness: jax.Array
    spread: jax.Array
    speed: jax.Array


@pytree
class ParticleSwarm(Method):
    """Particle swarm optimization on any pytree.

    Args:
        population_size: number of particles, ``P``.
        sigma: standard deviation of the first generation.
        inertia: ``w``, or a schedule.
        cognitive: ``c_1``, the pull of a particle's own best, or a schedule.
        social: ``c_2``, the pull of the swarm's best, or a schedule.
        tol_x: stop where the particles' bests differ by less in every coordinate.
        tol_fun: stop where their values differ by less.

    Raises:
        TypeError: for an argument of the wrong type.
        ValueError: for one out of range.

    Example:
        >>> import gfopt
        >>> method = ParticleSwarm(population_size=20, sigma=1.0)
        >>> result = gfopt.run(method, lambda x: jnp.sum(x**2), jnp.ones(3),
        ...                    key=jax.random.key(0), generations=80)
        >>> bool(jnp.sum(result.recommended**2) < 1e-4)
        True
    """

    population_size: int = static(default=20)
    sigma: schedules.Number = 1.0
    inertia: schedules.Hyperparameter = 0.7298
    cognitive: schedules.Hyperparameter = 1.49618
    social: schedules.Hyperparameter = 1.49618
    tol_x: schedules.Number = 1e-11
    tol_fun: schedules.Number = 1e-12

    def __post_init__(self) -> None:
        checks.integer("population_size", self.population_size, 1)
        schedules.set_numbers(self, "sigma")
        schedules.set_numbers(self, "tol_x", "tol_fun", check=checks.non_negative)
        names = "inertia", "cognitive", "social"
        schedules.set_schedules(self, *names, check=checks.non_negative)

    def init(self, key: Key, solution: Solution) -> ParticleSwarmState:
        """Starts with all particles at ``solution``; ``ask`` spreads them."""
        center = trees.starting_point(solution)
        positions = jnp.tile(vectors.flat(center), (self.population_size, 1))
        return ParticleSwarmState(
            step=jnp.int32(0),
            center=center,
            particles=Particle(positions, jnp.zeros_like(positions)),
            best_positions=positions + 0,
            best_fitness=jnp.full(self.population_size, jnp.inf, positions.dtype),
        )

    def ask(self, key: Key, state: ParticleSwarmState) -> Population:
        """Moves every particle, ``[P, D]``."""
        (x, v), b = state.particles, state.best_positions
        size, dimension = x.shape
        z, draws = threefry.normal_and_uniform(
            key, size, dimension, 2 * dimension, x.dtype
        )
        g = vectors.best(b, state.best_fitness)
        # v <- w v + c_1 r_1 (b - x) + c_2 r_2 (g - x)
        velocity = schedules.at("inertia", self.inertia, state.step) * v
        pull = schedules.at("cognitive", self.cognitive, state.step)
        velocity += pull * draws[:, :dimension] * (b - x)
        pull = schedules.at("social", self.social, state.step)
        velocity += pull * draws[:, dimension:] * (g - x)
        has_started = jnp.any(jnp.isfinite(state.best_fitness))
        velocity = jnp.where(has_started, velocity, 0)
        start = schedules.at("sigma", self.sigma, state.step) * z.at[0].set(0)
        position = x + jnp.where(has_started, velocity, start)
        moved = Particle(position.astype(x.dtype), velocity.astype(x.dtype))
        return Population(jax.tree.map(vectors.limited, moved), jnp.ones(size, bool))

    def decode(self, state: ParticleSwarmState, member: Member) -> Solution:
        """Returns the particle's position as a solution."""
        return vectors.unflat(member.position, state.center)

    def tell(
        self, state: ParticleSwarmState, population: Population, evaluation: Evaluation
    ) -> tuple[ParticleSwarmState, ParticleSwarmInfo]:
        """Moves the swarm, and updates the particles' bests."""
        fitness = evaluation.fitness.astype(state.best_fitness.dtype)
        improved = evaluation.valid & (fitness < state.best_fitness)
        # a particle without a value is not pulled back to where it came from
        takes = improved | jnp.isinf(state.best_fitness)
        position, _ = population.members
        new = ParticleSwarmState(
            step=state.step,
            center=state.center,
            particles=population.members,
            best_positions=jnp.where(takes[:, None], position, state.best_positions),
            best_fitness=jnp.where(improved, fitness, state.best_fitness),
        )
        # without a valid row there is nothing to learn: the swarm moves elsewhere
        has_valid = jnp.any(evaluation.valid)
        new = trees.select(has_valid, new, state)
        info = ParticleSwarmInfo(
            jnp.min(new.best_fitness),
            vectors.size(new.best_positions),
            jnp.sqrt(jnp.mean(new.particles.velocity**2)),
        )
        return new._replace(step=state.step + 1), info

    def recommend(self, state: ParticleSwarmState) -> Solution:
        """Returns the best of the swarm so far."""
        best = vectors.best(state.best_positions, state.best_fitness)
        return vectors.unflat(best, state.center)

    def stop(self, state: ParticleSwarmState) -> dict[str, jax.Array]:
        """Returns the reasons to stop, each ``bool[]``.

        ``tol_x``: the particles' bests are one point; ``tol_fun``: they are one value;
        ``diverged``: one has reached the largest number allowed.
        """
        has_started = jnp.any(jnp.isfinite(state.best_fitness))
        is_small = vectors.is_small(state.best_positions, self.tol_x)
        return {
            "tol_x": has_started & is_small,
            "tol_fun": vectors.is_level(state.best_fitness, self.tol_fun),
            "diverged": vectors.has_left(state.best_positions),
        }
