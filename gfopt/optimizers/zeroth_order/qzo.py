"""QZO: a quantized model, fine-tuned through its scales by forward passes alone.

    d = (f((Delta + eps z) * codes) - f((Delta - eps z) * codes)) / (2 eps)
    d' = min(max(d, -C), C)
    Delta <- max(Delta - lr d' z, min_scale)

Only the scales ``Delta`` move; the integer codes are the frozen half of the model
(``gfopt.partition``). The scales are perturbed where a layer uses them, so that nothing
drifts and there is no second copy. Other weights in the trainable half take the same
step without a lower limit; a negative scale, which some files have, stays negative.

The clipped estimate is biased. For normal ``z`` and a linear loss with gradient
``g``, Stein's lemma gives

    E[clip(g'z, -C, C) z] = g erf(C / (sqrt(2) |g|)),

the same direction with a shorter step: in expectation, the gradient's norm is clipped.

Source: Shang et al. (2025), arXiv 2505.13430, algorithm 1; its theorem 1 (the clipped
estimate is unbiased) does not hold. The relative form is ours.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp

from gfopt import checks
from gfopt.core import schedules, trees
from gfopt.lazy import lazy
from gfopt.noise import noise
from gfopt.noise.perturbation.perturbed import perturbed
from gfopt.optimizers import descent
from gfopt.optimizers.zeroth_order.zeroth_order import TwoSided
from gfopt.pytree import pytree, static
from gfopt.types import Evaluation, Info, Key, Member, Population, Solution, State

if TYPE_CHECKING:
    import optax
from gfopt.optimizers.zeroth_order.scale_steps import (
    _added,
    _scale_added,
    scales_stepped,
)

_WINDOW = 128  # steps whose |d| the state keeps
_ABSOLUTE = descent.Default(descent.sgd, 1e-4)
_RELATIVE = descent.Default(descent.sgd, 1e-2)


class QZOState(NamedTuple):
    """``step``, the trainable half, and what ``Info`` counts.

    Attributes:
        step: tells so far.
        mean: the scales, and other weights that are trained with them.
        slopes: the latest ``|d|``, newest last; -1 for none.
        num_clipped: directions whose ``d`` was clipped.
        num_used: directions that had two valid losses.
        num_counted: steps that had such a direction.
        transform: state of the optax optimizer, if there is one.
    """

    step: jax.Array
    mean: Solution
    slopes: jax.Array
    num_clipped: jax.Array
    num_used: jax.Array
    num_counted: jax.Array
    transform: Any


class QZOInfo(NamedTuple):
    """Diagnostics of one step.

    Attributes:
        seed: of the first direction.
        projected_gradient: its ``d'``, 0 where the step was skipped.
        learning_rate: of this step.
        loss: mean of the losses, NaN where the step was skipped.
        clipped_share: fraction of all directions so far that were clipped.
        median_slope: median of the latest ``|d|``, at most 128 of them.
        slope_90: their 90th percentile.
        slope_99: their 99th percentile.
        largest_slope: largest of them.
        skipped: whether no direction had two valid losses, so that nothing moved.
        num_skipped: such steps so far.
    """

    seed: jax.Array
    projected_gradient: jax.Array
    learning_rate: jax.Array
    loss: jax.Array
    clipped_share: jax.Array
    median_slope: jax.Array
    slope_90: jax.Array
    slope_99: jax.Array
    largest_slope: jax.Array
    skipped: jax.Array
    num_skipped: jax.Array


@pytree
class QZO(TwoSided):
    """Quantized zeroth-order optimization: forward passes of a model of a few bits.

    Args:
        learning_rate: step size, or a schedule; None for 1e-4, for 1e-2 if relative,
            or for 1 with a transform. It should fall with the number of scales: the
            paper takes 1e-7 for 5e7 of them; 1e-4 suits a few hundred.
        eps: finite-difference radius, or a schedule. A fraction of the scales if
            relative, else in their units: a tenth of a scale is large.
        clip: ``C``, bound of the directional derivative, or a schedule; None for no
            bound. The docs show its effect on the estimate.
        min_scale: smallest absolute value of a scale.
        population_size: forward passes a step, two for each direction. More directions
            take no memory.
        relative: scale the noise of each scale by the scale, to first order a step in
            its logarithm.
        noise: ``gaussian()`` (the paper's) or ``rademacher()`` (the cheapest).
        transform: any complete optax optimizer, such as ``optax.adam(1.0)``. The
            estimate and its state are trees like the scales, small next to the codes.
        rounding: ``"nearest"``, or ``"stochastic"`` for float16 and bfloat16 scales.

    Raises:
        TypeError: for an argument of the wrong type.
        ValueError: for one out of range, or an odd population.

    Example:
        >>> import gfopt
        >>> model = {"w": jax.random.normal(jax.random.key(0), (32, 64))}
        >>> scales, codes = gfopt.partition(gfopt.quantization.quantize(model))
        >>> x = jax.random.normal(jax.random.key(1), (16, 32))
        >>> def loss(model):
        ...     return jnp.mean((x @ model["w"] - 1) ** 2)
        >>> result = gfopt.run(gfopt.QZO(1e-3), loss, scales, frozen=codes,
        ...                    key=jax.random.key(2), generations=300)
        >>> history = result.history["loss"]
        >>> bool(history[-1] < 0.8 * history[0])
        True
    """

    learning_rate: schedules.Hyperparameter | None = None
    eps: schedules.Hyperparameter = 1e-3
    clip: schedules.Hyperparameter | None = 100.0
    min_scale: schedules.Number = 1e-7
    population_size: int = static(default=2)
    relative: bool = static(default=False)
    noise: noise.Noise = static(default_factory=noise.gaussian)
    transform: optax.GradientTransformation | None = static(default=None)
    rounding: str = static(default="nearest")

    def __post_init__(self) -> None:
        checks.integer("population_size", self.population_size, 2, even=True)
        checks.instance("noise", self.noise, noise.Noise, "gaussian() or rademacher()")
        checks.instance("relative", self.relative, bool, "True or False")
        self._check()
        schedules.set_schedules(self, "eps")
        if self.clip is not None:
            schedules.set_schedules(self, "clip", check=checks.non_negative)
        schedules.set_numbers(self, "min_scale")

    def log_header(self) -> dict[str, str]:
        """Returns what a log of (seed, d', learning rate) must also hold."""
        own = {"min_scale": repr(float(self.min_scale)), "relative": str(self.relative)}
        return super().log_header() | own

    def noise_on_base(self) -> None:
        """Returns None: the scales of quantized weights move."""

    def init(self, key: Key, solution: Solution) -> QZOState:
        """Starts with the scales at ``solution``."""
        mean = trees.starting_point(solution)
        slopes = jnp.full(_WINDOW, -1, trees.wide_dtype(mean))
        zero = jnp.int32(0)
        own = self.transform is not None
        transform = descent.start(self, _ABSOLUTE, mean) if own else ()
        return QZOState(zero, mean, slopes, zero, zero, zero, transform)

    @property
    def _default(self) -> descent.Default:
        return _RELATIVE if self.relative else _ABSOLUTE

    def rate(self, state: State) -> schedules.Number:
        """Returns the learning rate of this step."""
        return descent.learning_rate(self, self._default, state)

    def decode(self, state: State, member: Member) -> Solution:
        """Returns ``Delta + sign * eps * z`` as lazy leaves."""
        units = jax.tree.map(
            lambda leaf, is_scale: leaf if self.relative and is_scale else None,
            state.mean,
            lazy.scale_parts(state.mean),
        )
        scale = member.sign * member.scale
        return perturbed(state.mean, member.seed, scale, self.noise.kind, units=units)

    def tell(
        self, state: State, population: Population, evaluation: Evaluation
    ) -> tuple[QZOState, Info]:
        """Adds ``-lr mean(d' z)`` in place; a pair with an invalid loss weighs nothing.

        Returns:
            ``(QZOState, QZOInfo)``.
        """
        pairs = self._pairs(population, evaluation)
        # d' = min(max(d, -C), C)
        clipped = pairs.slopes
        if self.clip is not None:
            bound = schedules.at("clip", self.clip, state.step)
            clipped = jnp.clip(clipped, -bound, bound).astype(clipped.dtype)
        rate, counts = self.rate(state), jnp.any(pairs.usable)
        mean, transform = self._descended(
            state, pairs.seeds, clipped / pairs.share, rate, counts
        )
        sizes = jnp.where(pairs.usable, jnp.abs(pairs.slopes), -1)
        # float64 data give float64 losses, whatever the weights are
        sizes = sizes.astype(state.slopes.dtype)
        slopes = jnp.concatenate([state.slopes, sizes])[-_WINDOW:]
        new = QZOState(
            state.step + 1,
            mean,
            slopes,
            state.num_clipped + jnp.sum(clipped != pairs.slopes, dtype=jnp.int32),
            state.num_used + jnp.sum(pairs.usable, dtype=jnp.int32),
            state.num_counted + counts,
            transform,
        )
        used = jnp.maximum(new.num_used, 1).astype(slopes.dtype)
        median, slope_90, slope_99, largest = _percentiles(slopes)
        info = QZOInfo(
            pairs.seeds[0],
            clipped[0],
            jnp.asarray(rate, slopes.dtype),
            pairs.loss,
            new.num_clipped / used,
            median,
            slope_90,
            slope_99,
            largest,
            ~counts,
            new.step - new.num_counted,
        )
        return new, info

    def _descended(
        self,
        state: QZOState,
        seeds: jax.Array,
        slopes: jax.Array,
        rate: schedules.Number,
        counts: jax.Array,
    ) -> tuple[Solution, Any]:
        """Returns the mean and the transform's state after a step, if it ``counts``."""
        rule = self.min_scale, self.relative
        if self.transform is None:
            by = self.noise, self.rounding, state.mean, seeds, slopes, rate
            return scales_stepped(*by, *rule), ()

        def added(mean: Solution, change: Solution) -> Solution:
            return jax.tree.map(
                lambda m, c, is_scale: (_scale_added if is_scale else _added)(
                    m, c, None, *rule
                ),
                mean,
                change,
                lazy.scale_parts(mean),
            )

        gradient = self.noise.weighted_sum(state.mean, seeds, slopes)
        return descent.step(self, self._default, state, gradient, counts, added)[:2]


def _percentiles(slopes: jax.Array) -> list[jax.Array]:
    """Returns the 50th, 90th, 99th and 100th percentile, 0 where there are none."""
    ordered = jnp.maximum(jnp.sort(slopes), 0)  # unused places come first
    size, count = slopes.shape[0], jnp.sum(slopes >= 0)
    shares = (0.5, 0.9, 0.99, 1.0)
    ranks = [jnp.ceil(share * count).astype(jnp.int32) for share in shares]
    return [ordered[jnp.clip(size - count + rank - 1, 0, size - 1)] for rank in ranks]
