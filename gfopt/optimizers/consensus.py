"""Consensus-based optimization (CBO): particles drift to their weighted mean.

    c   = sum_i w_i x_i,   w_i ~ exp(-alpha f(x_i))
    x_i <- x_i - lambda dt (x_i - c) + sigma sqrt(dt) S(x_i - c) z_i,   z ~ N(0, I)

``S`` is ``diag(x - c)`` (anisotropic noise), ``|x - c|`` (isotropic) or the root of the
weighted covariance. lambda is ``drift`` here, sigma is ``diffusion``, and ``sigma``, as
in all methods, is the standard deviation of the first generation. The other published
schemes are choices of this one's fields; ``consensus_variants.py`` names them.

Sources: Pinnau, Totzeck, Tse, Martin (2017), Math. Models Methods Appl. Sci. 27;
Carrillo, Jin, Li, Zhu (2021), ESAIM COCV 27 (anisotropic noise, batches).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from gfopt import checks
from gfopt.core import noise, schedules, trees, vectors
from gfopt.optimizers import consensus_steps as steps
from gfopt.optimizers import consensus_weights as weighing
from gfopt.optimizers.consensus_weights import EffectiveSampleSize
from gfopt.optimizers.mirror_maps import MirrorMap
from gfopt.types import Evaluation, Key, Member, Population, Solution


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


@partial(
    jax.tree_util.register_dataclass,
    data_fields=[
        "sigma",
        "alpha",
        "drift",
        "diffusion",
        "dt",
        "floor",
        "longest",
        "memory_drift",
        "memory_diffusion",
        "memory_rate",
        "memory_sharpness",
        "kernel_width",
        "kick",
        "kick_distance",
        "reduction",
        "first_decay",
        "second_decay",
        "tol_x",
        "tol_fun",
    ],
    meta_fields=[
        "population_size",
        "noise",
        "integrator",
        "convention",
        "directions",
        "frozen_steps",
        "is_sampling",
        "memory",
        "kernel",
        "batch_size",
        "update",
        "patience",
        "min_particles",
        "mirror",
        "is_forced",
    ],
)
@dataclass(frozen=True)
class CBO:
    """Consensus-based optimization on any pytree.

    Args:
        population_size: number of particles, ``N``.
        sigma: standard deviation of the first generation.
        alpha: inverse temperature of the weights: a number, a schedule, or an
            ``EffectiveSampleSize``.
        drift: ``lambda``, or a schedule.
        diffusion: the papers' sigma, or a schedule.
        dt: the time step, or a schedule.
        noise: ``"anisotropic"``, ``"isotropic"`` or ``"covariance"``.
        integrator: ``"euler"``; ``"exponential"``, exact for a consensus at rest and
            so stable for any ``dt``; ``"adam"``, Euler with Adam's mean of the drift.
        convention: ``"sqrt_dt"``, or ``"sqrt_2dt"`` for a noise that is root 2 larger.
        directions: ``"gaussian"``, or ``"rademacher"`` for signs, the cheaper noise.
        floor: ``delta``, of a noise that does not vanish, or a schedule.
        longest: ``M``: in the noise, no distance counts as longer; None for any.
        frozen_steps: moves from one consensus to the next.
        is_sampling: scale the noise by ``sqrt(1 + alpha)``: with the covariance the
            particles then sample ``exp(-f)``.
        memory: ``"best"``: the consensus is that of the best points that each particle
            has seen; ``"smooth"``: of a mean of good ones; None: of the particles.
        memory_drift: strength of the pull to a particle's own memory, or a schedule.
        memory_diffusion: the same of its noise; None for ``memory_drift diffusion``.
        memory_rate: ``kappa``, how fast a smooth memory follows.
        memory_sharpness: ``beta``, how clear it must be that a point is better.
        kernel: polarised: each particle has its own consensus, of those that this
            kernel calls near: ``"gaussian"``, ``"laplace"``, ``"constant"`` or
            ``"inverse_quadratic"``; None for one consensus.
        kernel_width: ``kappa``.
        batch_size: particles that are evaluated at a step, in random order without
            repetition; None for all.
        update: ``"all"`` particles move at a step, or those of the ``"batch"``.
        kick: strength of a noise that is added once at a stagnation; None for never.
        kick_distance: the consensus stagnates where it moves less in each coordinate.
        patience: so it does without a better value in so many steps; None for any.
        reduction: share of the particles that goes as their variance does, from 0 to
            1; None to keep all.
        min_particles: how many stay.
        mirror: a ``MirrorMap``, such as ``Ball``, ``Box`` or ``Simplex``; None for no
            constraint.
        first_decay: Adam's ``beta_1``.
        second_decay: Adam's ``beta_2``.
        is_forced: take isotropic noise that is too strong for particles to meet.
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
        >>> bool(jnp.sum(result.x**2) < 1e-4)
        True
    """

    population_size: int = 50
    sigma: schedules.Hyperparameter = 1.0
    alpha: Any = EffectiveSampleSize(0.2)
    drift: schedules.Hyperparameter = 1.0
    diffusion: schedules.Hyperparameter = 1.5
    dt: schedules.Hyperparameter = 0.8
    noise: str = "anisotropic"
    integrator: str = "euler"
    convention: str = "sqrt_dt"
    directions: str = "gaussian"
    floor: schedules.Hyperparameter = 0.0
    longest: schedules.Hyperparameter | None = None
    frozen_steps: int = 1
    is_sampling: bool = False
    memory: str | None = "best"
    memory_drift: schedules.Hyperparameter = 0.4
    memory_diffusion: schedules.Hyperparameter | None = None
    memory_rate: schedules.Hyperparameter = 1.0
    memory_sharpness: schedules.Hyperparameter = 30.0
    kernel: str | None = None
    kernel_width: schedules.Hyperparameter = 1.0
    batch_size: int | None = None
    update: str = "all"
    kick: schedules.Hyperparameter | None = None
    kick_distance: schedules.Hyperparameter = 1e-5
    patience: int | None = None
    reduction: schedules.Hyperparameter | None = None
    min_particles: int = 10
    mirror: Any = None
    first_decay: schedules.Hyperparameter = 0.9
    second_decay: schedules.Hyperparameter = 0.99
    is_forced: bool = False
    tol_x: schedules.Hyperparameter = 1e-11
    tol_fun: schedules.Hyperparameter = 1e-12

    def __post_init__(self) -> None:
        for name, least in (
            ("population_size", 2),
            ("frozen_steps", 1),
            ("min_particles", 1),
            ("batch_size", 1),
            ("patience", 1),
        ):
            value = getattr(self, name)
            if value is not None or name in ("population_size", "frozen_steps"):
                checks.integer(name, value, least)
        for name, known in (
            ("noise", steps.NOISES),
            ("integrator", steps.INTEGRATORS),
            ("convention", tuple(steps.CONVENTIONS)),
            ("directions", tuple(noise.KINDS)),
            ("memory", (None, "best", "smooth")),
            ("kernel", (None, *steps.KERNELS)),
            ("update", ("all", "batch")),
        ):
            value = getattr(self, name)
            checks.instance(name, value, (str, type(None)), "a name")
            checks.one_of(name, value, known)
        for name in ("is_sampling", "is_forced"):
            checks.instance(name, getattr(self, name), bool, "True or False")
        if self.mirror is not None:
            checks.instance("mirror", self.mirror, MirrorMap, "a mirror map")
        field, positive, share = schedules.field, checks.positive, checks.share
        kinds = {"sigma": positive, "dt": positive, "kernel_width": positive}
        kinds |= dict.fromkeys(("reduction", "first_decay", "second_decay"), share)
        optional = ("longest", "memory_diffusion", "kick", "reduction")
        rest: tuple[str, ...] = ("drift", "diffusion", "floor", "memory_drift")
        rest += ("memory_rate", "memory_sharpness", "kick_distance", "tol_x", "tol_fun")
        schedules.set_fields(
            self,
            alpha=weighing.alpha_field(self.alpha),
            **{
                name: field(name, value, kinds.get(name, checks.non_negative))
                for name in dict.fromkeys((*kinds, *optional, *rest))
                if (value := getattr(self, name)) is not None or name not in optional
            },
        )

    def init(self, key: Key, solution: Solution) -> CBOState:
        """Starts with all particles at ``solution``; ``ask`` spreads them."""
        center = trees.starting_point(solution)
        x0 = vectors.flat(center)
        self._refuse_explosive(x0.size)
        start = x0 if self.mirror is None else self.mirror.to_dual(x0)
        position = jnp.tile(start, (self.population_size, 1))
        zero, is_adam = jnp.zeros((), x0.dtype), self.integrator == "adam"
        return CBOState(
            step=jnp.int32(0),
            center=center,
            particles=Particles(
                position,
                jnp.full(self.population_size, jnp.inf, x0.dtype),
                () if self.memory is None else jnp.tile(x0, (self.population_size, 1)),
                jnp.zeros_like(position) if is_adam else (),
                jnp.zeros_like(position) if is_adam else (),
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
        seeds = noise.seeds(key, 2 * self.frozen_steps + 1)
        particles, rows = state.particles, jnp.arange(self.population_size)
        has_started = jnp.any(jnp.isfinite(particles.fitness))
        moved, z = particles, jnp.zeros(())
        for turn in range(self.frozen_steps):
            draws = [
                self._noise(state, seeds[2 * turn + one])
                for one in range(1 if self.memory is None else 2)
            ]
            z = draws[0] if turn == 0 else z
            moved = self._moved(state, moved, draws)
        moves = self.update == "all" or rows < self._batch(state)
        x = jnp.where((has_started & moves)[..., None], moved.position, particles[0])
        x += jnp.where(has_started, 0, self._at("sigma", state) * z)
        # those that were let go are where they make no difference
        gone = (rows >= state.num_active)[:, None]
        x = jnp.where(gone & has_started, self._dual(state.consensus), x)
        moved = moved._replace(position=vectors.limited(x.astype(state.alpha.dtype)))
        if self._is_batched:
            order = self._order(seeds[-1], state)
            moved = jax.tree.map(lambda leaf: leaf[order], moved)
        return Population(moved, rows < self._batch(state))

    def decode(self, state: CBOState, member: Member) -> Solution:
        """Returns the particle's position as a solution."""
        return vectors.unflat(self._primal(member.position), state.center)

    def tell(
        self, state: CBOState, population: Population, evaluation: Evaluation
    ) -> tuple[CBOState, CBOInfo]:
        """Takes the particles where they moved, and finds their consensus."""
        valid = evaluation.valid
        fitness = jnp.where(valid, evaluation.fitness, jnp.inf)
        particles, points = self._remembered(
            state, population.members, fitness.astype(state.alpha.dtype)
        )
        counts = population.active & jnp.isfinite(particles.fitness)
        alpha = weighing.alpha_at(self.alpha, state.step, particles.fitness, counts)
        weights = weighing.consensus_weights(particles.fitness, counts, alpha)
        consensus = steps.weighted_mean(weights, points)
        best = jnp.minimum(state.best_fitness, jnp.min(particles.fitness))
        num_stalled = jnp.where(best < state.best_fitness, 0, state.num_stalled + 1)
        change = jnp.max(jnp.abs(consensus - state.consensus))
        is_stagnant = change < self._at("kick_distance", state)
        if self.patience is not None:
            is_stagnant |= num_stalled >= self.patience
        num_active, variance = self._left(state, particles.position)
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
        learnt = jnp.any(valid)
        new = jax.tree.map(lambda a, b: jnp.where(learnt, a, b), new, state)
        info = CBOInfo(
            new.best_fitness,
            vectors.size(new.particles.position),
            new.alpha,
            weighing.effective_sample_size(weights),
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

        ``tol_x``: the particles are one point; ``tol_fun``: they have one value.
        """
        x, fitness = state.particles.position, state.particles.fitness
        can_stop = jnp.any(jnp.isfinite(fitness)) & (self.kick is None)
        return {
            "tol_x": can_stop & vectors.is_small(x, self._at("tol_x", state)),
            "tol_fun": can_stop & vectors.is_level(fitness, self._at("tol_fun", state)),
        }

    @property
    def _is_batched(self) -> bool:
        return self.batch_size is not None and self.batch_size < self.population_size

    def _at(self, name: str, state: CBOState) -> Any:
        return schedules.at(name, getattr(self, name), state.step)

    def _batch(self, state: CBOState) -> jax.Array:
        """Returns how many rows are evaluated."""
        size = self.population_size if self.batch_size is None else self.batch_size
        return jnp.minimum(state.num_active, size)

    def _primal(self, y: jax.Array) -> jax.Array:
        return y if self.mirror is None else self.mirror.to_primal(y)

    def _dual(self, x: jax.Array) -> jax.Array:
        return x if self.mirror is None else self.mirror.to_dual(x)

    def _noise(self, state: CBOState, seed: jax.Array) -> jax.Array:
        shape = state.particles.position.shape

        def draw(kind: str) -> jax.Array:
            return noise.noise_rows(kind, seed, 0, 0, *shape).astype(state.alpha.dtype)

        if self.directions == "gaussian":
            return draw("gaussian")
        # a first generation of signs would lie on the corners of a cube
        first = state.step == 0
        return lax.cond(first, lambda: draw("gaussian"), lambda: draw("rademacher"))

    def _moved(
        self, state: CBOState, particles: Particles, draws: list[jax.Array]
    ) -> Particles:
        """Returns the particles after one time step, with the consensus at rest."""
        x, drift, dt = (
            particles.position,
            self._at("drift", state),
            self._at("dt", state),
        )
        rows = jnp.arange(len(x))
        counts = jnp.isfinite(particles.fitness) & (rows < self._batch(state))
        logs = weighing.log_weights(particles.fitness, counts, state.alpha)
        weights = jnp.exp(logs) / jnp.maximum(jnp.sum(jnp.exp(logs)), 1)
        primal, target = jax.vmap(self._primal)(x), state.consensus
        points = primal if self.memory is None else particles.memory
        if self.kernel is not None:
            target = steps.polarised(
                self.kernel,
                self._at("kernel_width", state),
                state.alpha,
                primal,
                points,
                logs,
                target,
            )
        scale: Any = steps.CONVENTIONS[self.convention]
        if self.is_sampling:
            scale = scale * jnp.sqrt(1 + state.alpha)
        diffusion = self._at("diffusion", state)
        floor = self._at("floor", state)
        if self.kick is not None:
            floor = floor + self._at("kick", state) * state.is_stagnant
        longest = None if self.longest is None else self._at("longest", state)
        pull = self._at("memory_drift", state)
        shake = pull * diffusion
        if self.memory_diffusion is not None:
            shake = self._at("memory_diffusion", state)

        def step(
            distance: jax.Array, z: jax.Array, drift: Any, diffusion: Any, floor: Any
        ) -> jax.Array:
            def scatter(z: jax.Array) -> jax.Array:
                root = None
                if self.noise == "covariance":
                    root = steps.covariance_root(points - state.consensus, weights)
                return steps.diffused(self.noise, distance, z, longest, root)

            return steps.moved(
                "exponential" if self.integrator == "exponential" else "euler",
                distance,
                z,
                drift=drift,
                diffusion=scale * diffusion,
                floor=scale * floor,
                dt=dt,
                diffuse=(self.noise, scatter),
            )

        distance = primal - target
        if self.integrator == "adam":
            # m, v: means of x - c and of its square;
            # x <- x - lambda (m_hat / (sqrt(v_hat) + eps) - noise)
            b1, b2 = self._at("first_decay", state), self._at("second_decay", state)
            m = b1 * particles.first + (1 - b1) * distance
            v = b2 * particles.second + (1 - b2) * distance**2
            count = jnp.maximum(state.step, 1)
            m_hat = m / jnp.maximum(1 - b1**count, 1e-8)
            v_hat = v / jnp.maximum(1 - b2**count, 1e-8)
            spread = step(distance, draws[0], 0.0, diffusion, floor)
            x = x - drift * (m_hat / (jnp.sqrt(v_hat) + 1e-8) - spread)
            particles = particles._replace(
                first=m.astype(x.dtype), second=jnp.minimum(v, vectors.LIMIT)
            )
        else:
            x = x + step(distance, draws[0], drift, diffusion, floor)
        if self.memory is not None:
            # a second step, to the particle's own memory, as CBXpy's
            distance = jax.vmap(self._primal)(x) - particles.memory
            x = x + step(distance, draws[1], pull, shake, 0.0)
        return particles._replace(position=x)

    def _remembered(
        self, state: CBOState, members: Particles, fitness: jax.Array
    ) -> tuple[Particles, jax.Array]:
        """Returns the particles with their fitness, and the points of the consensus."""
        x = jax.vmap(self._primal)(members.position)
        if self.memory is None:
            return members._replace(fitness=fitness), x
        known, found = members.fitness, jnp.isfinite(fitness)
        if self.memory == "best":
            rate = jnp.where(fitness < known, 1.0, 0.0)
        else:
            # y <- y + kappa dt (x - y) (1 + tanh(beta (f(y) - f(x)))) / 2;
            # f(y) is not evaluated but follows f(x) at the rate at which y follows x
            gain = jnp.where(found & jnp.isfinite(known), known - fitness, 0)
            sharpness = self._at("memory_sharpness", state)
            follow = self._at("memory_rate", state) * self._at("dt", state)
            rate = follow * (1 + jnp.tanh(sharpness * gain)) / 2
        rate = jnp.where(jnp.isinf(known), 1, jnp.clip(rate, 0, 1))
        rate = jnp.where(found, rate, 0).astype(x.dtype)
        y = members.memory + rate[:, None] * (x - members.memory)
        mixed = (1 - rate) * known + rate * fitness
        mixed = jnp.where(rate == 0, known, jnp.where(rate == 1, fitness, mixed))
        return members._replace(fitness=mixed, memory=y), y

    def _left(self, state: CBOState, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Returns how many particles are left, and their variance."""
        if self.reduction is None:
            return state.num_active, state.variance
        share = (jnp.arange(len(x)) < state.num_active)[:, None] / state.num_active
        distance = x - jnp.sum(share * x, axis=0)
        variance = jnp.sum(share * distance**2) / x.shape[1]
        # N <- N (1 - mu + mu var_after / var_before), never more
        ratio = variance / jnp.where(state.variance > 0, state.variance, variance)
        ratio = jnp.where(jnp.isfinite(ratio), jnp.minimum(ratio, 1), 1)
        kept = 1 - self._at("reduction", state) * (1 - ratio)
        least = jnp.minimum(self.min_particles, state.num_active)
        num = jnp.maximum(jnp.round(state.num_active * kept).astype(jnp.int32), least)
        return num, variance.astype(x.dtype)

    def _order(self, seed: jax.Array, state: CBOState) -> jax.Array:
        """Returns an order of the rows that puts the next batch first, ``i32[N]``.

        The rows take turns, and are shuffled where all have had theirs.
        """
        rows, live = jnp.arange(self.population_size), state.num_active
        batch = self._batch(state)
        coins = noise.noise_rows("gaussian", seed, 1, 0, 1, len(rows))[0]
        shuffled = jnp.argsort(jnp.where(rows < live, coins, jnp.inf))
        turned = jnp.where(rows < live, (rows + batch) % live, rows)
        return jnp.where(state.step % jnp.maximum(live // batch, 1), turned, shuffled)

    def _refuse_explosive(self, dimension: int) -> None:
        """Refuses isotropic noise with ``2 lambda <= D sigma^2``, where it is known."""
        found = [checks.concrete(a) for a in (self.drift, self.diffusion)]
        numbers = [number for number in found if number is not None]
        if (
            self.noise != "isotropic"
            or self.is_forced
            or self.longest is not None
            or any(
                isinstance(a, schedules.Schedule) for a in (self.drift, self.diffusion)
            )
            or len(numbers) < 2
        ):
            return
        drift, diffusion = (float(number) for number in numbers)
        strength = dimension * (steps.CONVENTIONS[self.convention] * diffusion) ** 2
        if 2 * drift <= strength:
            raise ValueError(
                "diffusion must be such that 2 drift > D diffusion^2, or the particles "
                f"fly apart: isotropic noise in D = {dimension} has 2 lambda = "
                f"{2 * drift:g} <= d sigma^2 = {strength:g}; take anisotropic noise "
                f"or is_forced=True; got {checks.shown(self.diffusion)}"
            )
