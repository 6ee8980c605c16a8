"""Consensus-based optimization (CBO): particles drift to their weighted mean.

    c   = sum_i w_i x_i,   w_i ~ exp(-alpha f(x_i))
    x_i <- x_i - lambda dt (x_i - c) + sigma sqrt(dt) S(x_i - c) z_i,   z ~ N(0, I)

lambda is ``drift`` here, sigma is ``diffusion``, and ``sigma``, as in all methods, is
the standard deviation of the first generation. The other published schemes are choices
of this one's parts, ``S`` among them; ``variants.py`` names them.

Sources: Pinnau, Totzeck, Tse, Martin (2017), Math. Models Methods Appl. Sci. 27;
Carrillo, Jin, Li, Zhu (2021), ESAIM COCV 27 (anisotropic noise, batches).
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType, NoneType
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from gfopt import checks
from gfopt.consensus import weights as consensus_weights
from gfopt.consensus.integrators import Adam, Euler, Exponential, Motion
from gfopt.consensus.kernels import SHAPES, Kernel
from gfopt.consensus.memories import BestMemory, SmoothMemory
from gfopt.consensus.particles import CBOState, Kick, Particles, Reduction, order
from gfopt.consensus.scalings import Anisotropic, Cloud, Covariance, Isotropic, Scaling
from gfopt.consensus.weights import EffectiveSampleSize
from gfopt.core import schedules, trees
from gfopt.mirror_maps import MirrorMap
from gfopt.noise import law, threefry
from gfopt.noise.noise import Noise
from gfopt.optimizers import vectors
from gfopt.protocol import Method
from gfopt.pytree import pytree, static
from gfopt.types import Evaluation, Key, Member, Population, Solution

#: The parts by name, each with its defaults, for files of options.
PARTS: Mapping[str, Mapping[str, object]] = MappingProxyType(
    {
        "scaling": {
            "anisotropic": Anisotropic(),
            "isotropic": Isotropic(),
            "covariance": Covariance(),
        },
        "integrator": {
            "euler": Euler(),
            "exponential": Exponential(),
            "adam": Adam(),
        },
        "memory": {"best": BestMemory(), "smooth": SmoothMemory()},
        "kernel": {shape: Kernel(shape) for shape in SHAPES},
    }
)


_KINDS: Mapping[str, tuple[tuple[type, ...], str]] = MappingProxyType(
    {
        "noise": ((Noise,), "a gfopt.noise.Noise"),
        "scaling": ((Scaling,), "Anisotropic(), Isotropic() or Covariance()"),
        "integrator": ((Euler,), "Euler(), Exponential() or Adam()"),
        "memory": ((BestMemory, NoneType), "BestMemory(), SmoothMemory() or None"),
        "kernel": ((Kernel, NoneType), "a Kernel(...) or None"),
        "kick": ((Kick, NoneType), "a Kick(...) or None"),
        "reduction": ((Reduction, NoneType), "a Reduction(...) or None"),
        "mirror": ((MirrorMap, NoneType), "a mirror map or None"),
        "moves_all": ((bool,), "True or False"),
    }
)


class CBOInfo(NamedTuple):
    """Diagnostics of one step.

    Attributes:
        best_fitness: the best so far.
        spread: longest edge of the box around the particles.
        alpha: of this consensus.
        effective_sample_size: particles that make up the consensus.
        is_stagnant: whether a kick comes next.
        num_active: particles that are left.
    """

    best_fitness: jax.Array
    spread: jax.Array
    alpha: jax.Array
    effective_sample_size: jax.Array
    is_stagnant: jax.Array
    num_active: jax.Array


@pytree
class CBO(Method):
    """Consensus-based optimization on any pytree.

    The parts of a scheme (``scaling``, ``integrator``, ``memory``, ``kernel``,
    ``kick``, ``reduction``) are objects of ``gfopt.consensus``. In a file of options
    the first four may be names: ``"isotropic"`` for ``Isotropic()``.

    Args:
        population_size: number of particles, ``N``.
        sigma: standard deviation of the first generation.
        alpha: inverse temperature of the weights: a number, a schedule, or an
            ``EffectiveSampleSize``.
        drift: ``lambda``, or a schedule.
        diffusion: the papers' sigma, or a schedule. CBX.jl's noise is root 2 stronger.
        dt: the time step, or a schedule.
        floor: ``delta``, of a noise that does not vanish, or a schedule.
        noise: a ``Noise``: ``gaussian()``, or the cheaper ``rademacher()``.
        scaling: ``S``: ``Anisotropic``, ``Isotropic`` or ``Covariance``.
        integrator: ``Euler``, ``Exponential`` or ``Adam``.
        num_moves: time steps from one consensus to the next.
        memory: ``BestMemory`` or ``SmoothMemory``: the consensus is that of the points
            that the particles remember; None: of the particles themselves.
        kernel: polarised: a ``Kernel`` gives each particle a consensus of its own, of
            the points near it; None for one consensus.
        batch_size: particles that are evaluated at a step, in random order without
            repetition; None for all.
        moves_all: whether all particles move at a step, or only those of the batch.
        kick: a ``Kick`` adds noise at a stagnation; None for never.
        reduction: a ``Reduction`` lets particles go as their variance falls; None to
            keep all.
        mirror: a ``MirrorMap``, such as ``Ball``, ``Box`` or ``Simplex``; None for no
            constraint.
        tol_x: stop where the particles differ by less in every coordinate.
        tol_fun: stop where their values differ by less.

    Raises:
        TypeError: for an argument of the wrong type.
        ValueError: for one out of range; by ``init``, for explosive noise.

    Example:
        >>> import gfopt
        >>> method = CBO(population_size=40, sigma=1.0)
        >>> result = gfopt.run(method, lambda x: jnp.sum(x**2), jnp.ones(3),
        ...                    key=jax.random.key(0), generations=100)
        >>> bool(jnp.sum(result.recommended**2) < 1e-4)
        True
    """

    population_size: int = static(default=60)
    sigma: schedules.Hyperparameter = 1.0
    alpha: consensus_weights.Alpha = EffectiveSampleSize(0.2)
    drift: schedules.Hyperparameter = 1.0
    diffusion: schedules.Hyperparameter = 1.3
    dt: schedules.Hyperparameter = 0.9
    floor: schedules.Hyperparameter = 0.0
    noise: Noise = static(default=Noise("gaussian"))
    scaling: Scaling = Anisotropic()
    integrator: Euler = Euler()
    num_moves: int = static(default=1)
    memory: BestMemory | None = None
    kernel: Kernel | None = None
    batch_size: int | None = static(default=None)
    moves_all: bool = static(default=True)
    kick: Kick | None = None
    reduction: Reduction | None = None
    mirror: MirrorMap | None = static(default=None)
    tol_x: schedules.Hyperparameter = 1e-11
    tol_fun: schedules.Hyperparameter = 1e-12

    def __post_init__(self) -> None:
        checks.integer("population_size", self.population_size, 2)
        checks.integer("num_moves", self.num_moves, 1)
        if self.batch_size is not None:
            checks.integer("batch_size", self.batch_size, 1)
        for name, parts in PARTS.items():
            value = getattr(self, name)
            if isinstance(value, str):
                checks.one_of(name, value, parts)
                schedules.set_fields(self, **{name: parts[value]})
        for name, (kinds, what) in _KINDS.items():
            checks.instance(name, getattr(self, name), kinds, what)
        schedules.set_fields(self, alpha=consensus_weights.alpha_field(self.alpha))
        schedules.set_schedules(self, "sigma", "dt")
        names = "drift", "diffusion", "floor", "tol_x", "tol_fun"
        schedules.set_schedules(self, *names, check=checks.non_negative)

    def init(self, key: Key, solution: Solution) -> CBOState:
        """Starts with all particles at ``solution``; ``ask`` spreads them."""
        center = trees.starting_point(solution)
        x0 = vectors.flat(center)
        diffusion = checks.concrete(self.diffusion)  # None for a schedule or a tracer
        drift = checks.concrete(self.drift)
        limit = self.scaling.diffusion_limit(self.drift, x0.size)
        if diffusion is not None and diffusion >= limit:
            raise ValueError(
                f"diffusion must be below {limit:.3g} for isotropic noise in {x0.size} "
                f"dimensions and a drift of {drift:g}, or the particles "
                f"fly apart; got {float(diffusion):g}. Take scaling='anisotropic', or "
                "Isotropic(allow_divergence=True)"
            )
        start = x0 if self.mirror is None else self.mirror.to_dual(x0)
        position = jnp.tile(start, (self.population_size, 1))
        zero = jnp.zeros((), x0.dtype)
        return CBOState(
            step=jnp.int32(0),
            center=center,
            particles=Particles(
                position,
                jnp.full(self.population_size, jnp.inf, x0.dtype),
                () if self.memory is None else jnp.tile(x0, (self.population_size, 1)),
                self.integrator.moments(position),
                self.integrator.moments(position),
            ),
            consensus=x0 + 0,
            alpha=zero,
            best_fitness=jnp.full((), jnp.inf, x0.dtype),
            num_stalled=jnp.int32(0),
            is_stagnant=jnp.zeros((), bool),
            num_active=jnp.int32(self.population_size),
            variance=zero + 0,
        )

    def ask(self, key: Key, state: CBOState) -> Population:
        """Moves the particles, ``[N, D]``; those to be evaluated stand first."""
        size = 1 if self.memory is None else 2  # draws per move
        seeds = threefry.seeds(key, self.num_moves * size + 1)
        draws = [self._draw(state, seeds[i]) for i in range(self.num_moves * size)]
        moved = state.particles
        for first in range(0, len(draws), size):
            moved = self._moved(state, moved, draws[first : first + size])
        rows, batch = jnp.arange(self.population_size), self._batch(state)
        moves = jnp.array(self.moves_all) | (rows < batch)
        x = jnp.where(moves[:, None], moved.position, state.particles.position)
        # those that have left are where they make no difference
        gone = (rows >= state.num_active)[:, None]
        x = jnp.where(gone, self._dual(state.consensus), x)
        # the first generation is x0 + sigma z
        sigma = schedules.at("sigma", self.sigma, state.step)
        start = state.particles.position + sigma * draws[0]
        has_started = jnp.any(jnp.isfinite(state.particles.fitness))
        x = jnp.where(has_started, x, start).astype(state.alpha.dtype)
        moved = moved._replace(position=vectors.limited(x))
        if self.batch_size is not None and self.batch_size < self.population_size:
            turn = order(state, seeds[-1], batch)
            moved = jax.tree.map(lambda leaf: leaf[turn], moved)
        return Population(moved, rows < batch)

    def decode(self, state: CBOState, member: Member) -> Solution:
        """Returns the particle's position as a solution."""
        return vectors.unflat(self._primal(member.position), state.center)

    def tell(
        self, state: CBOState, population: Population, evaluation: Evaluation
    ) -> tuple[CBOState, CBOInfo]:
        """Takes the particles where they moved, and finds their consensus."""
        valid = evaluation.valid
        fitness = jnp.where(valid, evaluation.fitness, jnp.inf)
        fitness = fitness.astype(state.alpha.dtype)
        particles, points = self._remembered(state, population.members, fitness)
        values = particles.fitness
        counts = population.active & jnp.isfinite(values)
        alpha = consensus_weights.alpha_at(self.alpha, state.step, values, counts)
        weights = consensus_weights.consensus_weights(values, counts, alpha)
        consensus = consensus_weights.weighted_mean(weights, points)
        best = jnp.minimum(state.best_fitness, jnp.min(values))
        num_stalled = jnp.where(best < state.best_fitness, 0, state.num_stalled + 1)
        change = jnp.max(jnp.abs(consensus - state.consensus))
        is_stagnant = jnp.zeros((), bool)
        if self.kick is not None:
            is_stagnant = self.kick.is_due(change, num_stalled, state.step)
        num_active, variance = state.num_active, state.variance
        if self.reduction is not None:
            num_active, variance = self.reduction.reduced(state, particles.position)
        new = CBOState(
            step=state.step,
            center=state.center,
            particles=particles,
            consensus=consensus,
            alpha=alpha,
            best_fitness=best,
            num_stalled=jnp.where(is_stagnant, 0, num_stalled),
            is_stagnant=is_stagnant,
            num_active=num_active,
            variance=variance,
        )
        # without one valid row nothing was learnt: the particles move another way
        has_valid = jnp.any(valid)
        new = trees.select(has_valid, new, state)
        info = CBOInfo(
            new.best_fitness,
            vectors.size(new.particles.position),
            new.alpha,
            consensus_weights.effective_sample_size(weights),
            new.is_stagnant,
            new.num_active,
        )
        return new._replace(step=state.step + 1), info

    def recommend(self, state: CBOState) -> Solution:
        """Returns the consensus."""
        consensus = self._primal(self._dual(state.consensus))
        return vectors.unflat(consensus, state.center)

    def stop(self, state: CBOState) -> dict[str, jax.Array]:
        """Returns the reasons to stop, each ``bool[]``; with a kick there is none.

        ``tol_x``: the particles are one point; ``tol_fun``: they have one value;
        ``diverged``: one has run away to where numbers end.
        """
        x, fitness = state.particles.position, state.particles.fitness
        can_stop = jnp.any(jnp.isfinite(fitness)) & (self.kick is None)
        tol_x = schedules.at("tol_x", self.tol_x, state.step)
        tol_fun = schedules.at("tol_fun", self.tol_fun, state.step)
        return {
            "tol_x": can_stop & vectors.is_small(x, tol_x),
            "tol_fun": can_stop & vectors.is_level(fitness, tol_fun),
            "diverged": vectors.has_left(x),
        }

    def _primal(self, y: jax.Array) -> jax.Array:
        """Returns the numbers that satisfy the constraint, ``[D]``."""
        return y if self.mirror is None else self.mirror.to_primal(y)

    def _dual(self, x: jax.Array) -> jax.Array:
        """Returns the numbers that a particle moves, ``[D]``."""
        return x if self.mirror is None else self.mirror.to_dual(x)

    def _batch(self, state: CBOState) -> jax.Array:
        """Returns how many rows are evaluated at a step, ``i32[]``."""
        size = self.batch_size or self.population_size
        return jnp.minimum(state.num_active, size)

    def _draw(self, state: CBOState, seed: jax.Array) -> jax.Array:
        shape = state.particles.position.shape

        def draw(kind: str) -> jax.Array:
            z = law.noise_rows(kind, seed, 0, 0, *shape)
            return z.astype(state.alpha.dtype)

        kind = self.noise.kind
        if kind == "gaussian":
            return draw(kind)
        # a first generation of signs would lie on the corners of a cube
        first = state.step == 0
        return lax.cond(first, lambda: draw("gaussian"), lambda: draw(kind))

    def _remembered(
        self, state: CBOState, particles: Particles, fitness: jax.Array
    ) -> tuple[Particles, jax.Array]:
        """Returns the particles with their fitness, and the points of the consensus."""
        x = jax.vmap(self._primal)(particles.position)
        if self.memory is None:
            return particles._replace(fitness=fitness), x
        dt = schedules.at("dt", self.dt, state.step)
        particles = self.memory.updated(particles, x, fitness, dt, state.step)
        return particles, particles.memory

    def _moved(
        self, state: CBOState, particles: Particles, draws: list[jax.Array]
    ) -> Particles:
        """Returns the particles after one time step, with the consensus at rest."""
        step, x = state.step, particles.position
        counts = jnp.isfinite(particles.fitness)
        counts &= jnp.arange(len(x)) < self._batch(state)
        logs = consensus_weights.log_weights(particles.fitness, counts, state.alpha)
        weights = jnp.exp(logs) / jnp.maximum(jnp.sum(jnp.exp(logs)), 1)
        solutions, target = jax.vmap(self._primal)(x), state.consensus
        points = solutions if self.memory is None else particles.memory
        if self.kernel is not None:
            target = self.kernel.consensus(
                solutions, points, logs, state.alpha, target, step
            )
        diffusion = schedules.at("diffusion", self.diffusion, step)
        floor = schedules.at("floor", self.floor, step)
        if self.kick is not None:
            kick = schedules.at("strength", self.kick.strength, step)
            floor = floor + kick * state.is_stagnant
        strength = self.scaling.strength(state.alpha)
        motion = Motion(
            drift=schedules.at("drift", self.drift, step),
            diffusion=strength * diffusion,
            floor=strength * floor,
            dt=schedules.at("dt", self.dt, step),
            scaling=self.scaling,
            cloud=Cloud(step, points, state.consensus, weights),
        )
        moved = self.integrator.moved(motion, particles, solutions - target, draws[0])
        if self.memory is None:
            return moved
        # a second step, to the particle's own memory, as CBXpy's
        drift = schedules.at("drift", self.memory.drift, step)
        shake = drift * diffusion
        if self.memory.diffusion is not None:
            shake = schedules.at("diffusion", self.memory.diffusion, step)
        motion = motion._replace(drift=drift, diffusion=strength * shake, floor=0.0)
        distance = jax.vmap(self._primal)(moved.position) - points
        x = moved.position + self.integrator.step(motion, distance, draws[1])
        return moved._replace(position=x)
