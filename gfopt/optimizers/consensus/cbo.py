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

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from gfopt import checks
from gfopt.core import schedules, trees
from gfopt.mirror_maps import MirrorMap
from gfopt.noise import law, threefry
from gfopt.optimizers import vectors
from gfopt.optimizers.consensus import particles as crowd
from gfopt.optimizers.consensus import steps
from gfopt.optimizers.consensus import weights as weighing
from gfopt.optimizers.consensus.particles import CBOState, Particles
from gfopt.optimizers.consensus.weights import EffectiveSampleSize
from gfopt.protocol import Method
from gfopt.pytree import pytree, static
from gfopt.types import Evaluation, Key, Member, Population, Solution


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
        >>> bool(jnp.sum(result.recommended**2) < 1e-4)
        True
    """

    population_size: int = static(default=60)
    sigma: schedules.Hyperparameter = 1.0
    alpha: Any = EffectiveSampleSize(0.2)
    drift: schedules.Hyperparameter = 1.0
    diffusion: schedules.Hyperparameter = 1.3
    dt: schedules.Hyperparameter = 0.9
    noise: str = static(default="anisotropic")
    integrator: str = static(default="euler")
    convention: str = static(default="sqrt_dt")
    directions: str = static(default="gaussian")
    floor: schedules.Hyperparameter = 0.0
    longest: schedules.Hyperparameter | None = None
    frozen_steps: int = static(default=1)
    is_sampling: bool = static(default=False)
    memory: str | None = static(default=None)
    memory_drift: schedules.Hyperparameter = 0.4
    memory_diffusion: schedules.Hyperparameter | None = None
    memory_rate: schedules.Hyperparameter = 1.0
    memory_sharpness: schedules.Hyperparameter = 30.0
    kernel: str | None = static(default=None)
    kernel_width: schedules.Hyperparameter = 1.0
    batch_size: int | None = static(default=None)
    update: str = static(default="all")
    kick: schedules.Hyperparameter | None = None
    kick_distance: schedules.Hyperparameter = 1e-5
    patience: int | None = static(default=None)
    reduction: schedules.Hyperparameter | None = None
    min_particles: int = static(default=10)
    mirror: Any = static(default=None)
    first_decay: schedules.Hyperparameter = 0.9
    second_decay: schedules.Hyperparameter = 0.99
    is_forced: bool = static(default=False)
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
            ("directions", tuple(law.KINDS)),
            ("memory", (None, "best", "smooth")),
            ("kernel", (None, *weighing.KERNELS)),
            ("update", ("all", "batch")),
        ):
            value = getattr(self, name)
            names = " or ".join(map(repr, known))
            if name == "noise":  # elsewhere a family, which is called directions here
                names += ", with the family of the draws in directions"
            checks.instance(name, value, (str, type(None)), names)
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
        steps.refuse_explosive(self, x0.size)
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
        count = self.frozen_steps * (1 if self.memory is None else 2)
        seeds = threefry.seeds(key, count + 1)
        draws = [self._noise(state, seeds[index]) for index in range(count)]
        moved, size = state.particles, count // self.frozen_steps
        for turn in range(self.frozen_steps):
            of_turn = draws[turn * size : (turn + 1) * size]
            moved = steps.moved(self, state, moved, of_turn)
        rows = jnp.arange(self.population_size)
        evaluated = crowd.num_evaluated(self, state)
        moves = jnp.array(self.update == "all") | (rows < evaluated)
        x = jnp.where(moves[:, None], moved.position, state.particles.position)
        # those that were let go are where they make no difference
        gone = (rows >= state.num_active)[:, None]
        x = jnp.where(gone, crowd.dual(self, state.consensus), x)
        # the first generation is x0 + sigma z
        start = state.particles.position + crowd.at(self, "sigma", state) * draws[0]
        has_started = jnp.any(jnp.isfinite(state.particles.fitness))
        x = jnp.where(has_started, x, start).astype(state.alpha.dtype)
        moved = moved._replace(position=vectors.limited(x))
        if self.batch_size is not None and self.batch_size < self.population_size:
            order = crowd.order(self, seeds[-1], state)
            moved = jax.tree.map(lambda leaf: leaf[order], moved)
        return Population(moved, rows < evaluated)

    def decode(self, state: CBOState, member: Member) -> Solution:
        """Returns the particle's position as a solution."""
        return vectors.unflat(crowd.primal(self, member.position), state.center)

    def tell(
        self, state: CBOState, population: Population, evaluation: Evaluation
    ) -> tuple[CBOState, CBOInfo]:
        """Takes the particles where they moved, and finds their consensus."""
        valid = evaluation.valid
        fitness = jnp.where(valid, evaluation.fitness, jnp.inf)
        particles, points = crowd.remembered(
            self, state, population.members, fitness.astype(state.alpha.dtype)
        )
        counts = population.active & jnp.isfinite(particles.fitness)
        alpha = weighing.alpha_at(self.alpha, state.step, particles.fitness, counts)
        weights = weighing.consensus_weights(particles.fitness, counts, alpha)
        consensus = weighing.weighted_mean(weights, points)
        best = jnp.minimum(state.best_fitness, jnp.min(particles.fitness))
        num_stalled = jnp.where(best < state.best_fitness, 0, state.num_stalled + 1)
        change = jnp.max(jnp.abs(consensus - state.consensus))
        is_stagnant = change < crowd.at(self, "kick_distance", state)
        if self.patience is not None:
            is_stagnant |= num_stalled >= self.patience
        num_active, variance = crowd.left(self, state, particles.position)
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
        new = trees.chosen(learnt, new, state)
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
        consensus = crowd.primal(self, crowd.dual(self, state.consensus))
        return vectors.unflat(consensus, state.center)

    def stop(self, state: CBOState) -> dict[str, jax.Array]:
        """Returns the reasons to stop, each ``bool[]``; with a kick there is none.

        ``tol_x``: the particles are one point; ``tol_fun``: they have one value;
        ``diverged``: one has run away to where numbers end.
        """
        x, fitness = state.particles.position, state.particles.fitness
        can_stop = jnp.any(jnp.isfinite(fitness)) & (self.kick is None)
        return {
            "tol_x": can_stop & vectors.is_small(x, crowd.at(self, "tol_x", state)),
            "tol_fun": can_stop
            & vectors.is_level(fitness, crowd.at(self, "tol_fun", state)),
            "diverged": vectors.has_left(x),
        }

    def _noise(self, state: CBOState, seed: jax.Array) -> jax.Array:
        shape = state.particles.position.shape

        def draw(kind: str) -> jax.Array:
            z = law.noise_rows(kind, seed, 0, 0, *shape)
            return z.astype(state.alpha.dtype)

        if self.directions == "gaussian":
            return draw("gaussian")
        # a first generation of signs would lie on the corners of a cube
        first = state.step == 0
        return lax.cond(first, lambda: draw("gaussian"), lambda: draw("rademacher"))
