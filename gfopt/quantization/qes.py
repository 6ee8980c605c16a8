"""QES: an evolution strategy whose solutions are the codes of a quantized model.

    W_p = W + s_p delta_p,        delta_p = sigma z_p rounded at random to whole codes
    u = learning_rate / (P sigma) sum_p F_p s_p delta_p + decay e
    W <- W + round(u),            e <- u - round(u)

with ``F`` the shaped fitness and antithetic pairs ``s = +1, -1`` on one ``z``; a step
that would leave the range of the codes is left out, here and above. There is no float
copy of the weights. What rounding leaves, the residual ``e``, is not stored either: it
is replayed from the seeds and scores of the latest generations. A step takes the memory
of quantized inference.

Source: Xu, Miikkulainen, Qiu (2026), arXiv 2602.03120: error feedback, and stateless
seed replay. Ours: the residual is at most half a code where the range stops a step, and
starts from 0; where it is stored, it is in int8 and not in float16.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from gfopt import checks, shaping
from gfopt.core import schedules, trees
from gfopt.noise import leaves as noise_leaves
from gfopt.noise import noise, threefry
from gfopt.noise.perturbation.perturbed import Perturbed
from gfopt.optimizers.evolution_strategies.seeded import Seeded
from gfopt.pytree import pytree, static
from gfopt.quantization.code_updates import Generations, Moved, Stepping, moved
from gfopt.quantization.quantized import Quantized
from gfopt.quantization.stepped import Packing, Stepped
from gfopt.types import Evaluation, Key, Member, Population, PyTree, Solution


class QESState(NamedTuple):
    """``step``, the codes, and what their residual is made of.

    Attributes:
        step: tells so far.
        mean: the codes ``W``, packed, and other weights that are trained with them.
        generations: those that are replayed.
        residual: for each leaf ``int8``, one for each code, None if it has none; empty
            if it is replayed.
    """

    step: jax.Array
    mean: Solution
    generations: Generations
    residual: list[jax.Array | None]


class QESInfo(NamedTuple):
    """Diagnostics of one step.

    Attributes:
        sigma: of this step.
        num_valid: rows that have a value.
        moved_share: fraction of the codes that this step changed.
        blocked_share: fraction of the codes that were at the end of their range and
            would have left it.
    """

    sigma: jax.Array
    num_valid: jax.Array
    moved_share: jax.Array
    blocked_share: jax.Array


@pytree
class QES(Seeded):
    """Quantized evolution strategy: steps of integer codes, drawn from seeds.

    Args:
        population_size: candidates a step, ``P``, in antithetic pairs.
        sigma: of the perturbation, in codes, or a schedule; with signs it is the chance
            of a code to move by one. Other weights: in their units.
        learning_rate: step size, or a schedule.
        decay: of the residual, from 0 to 1, or a schedule.
        window: generations before this one from which the residual is replayed, each
            at the time of ``P / 2`` draws; None to store it, a byte for each code.
        noise: ``rademacher()`` or ``gaussian()``.
        shaping: ``(fitness[P], valid[P]) -> weights[P]``.

    Raises:
        TypeError: for an argument of the wrong type.
        ValueError: for one out of range, or an odd population.

    Example:
        >>> import gfopt
        >>> model = {"w": jax.random.normal(jax.random.key(0), (32, 64))}
        >>> quantized = gfopt.quantization.quantize(model)
        >>> codes, scales = gfopt.partition(quantized, codes=True)
        >>> x = jax.random.normal(jax.random.key(1), (16, 32))
        >>> def loss(model):
        ...     return jnp.mean((x @ model["w"] - 1) ** 2)
        >>> result = gfopt.run(gfopt.QES(), loss, codes, frozen=scales,
        ...                    key=jax.random.key(2), generations=200)
        >>> history = result.history["fitness"]
        >>> bool(history[-1] < 0.8 * history[0]), result.recommended["w"].codes.dtype
        (True, dtype('uint8'))
    """

    population_size: int = static(default=16)
    sigma: schedules.Hyperparameter = 0.02
    learning_rate: schedules.Hyperparameter = 0.1
    decay: schedules.Hyperparameter = 0.9
    window: int | None = static(default=8)
    noise: noise.Noise = static(default_factory=noise.rademacher)
    shaping: shaping.Shaping = static(default=shaping.standardised)

    def __post_init__(self) -> None:
        checks.integer("population_size", self.population_size, 2, even=True)
        if self.window is not None:
            checks.integer("window", self.window, 0)
        checks.instance("noise", self.noise, noise.Noise, "gaussian() or rademacher()")
        checks.is_callable("shaping", self.shaping, shaping.KIND)
        schedules.set_schedules(self, "sigma")
        schedules.set_schedules(self, "learning_rate", check=checks.non_negative)
        schedules.set_schedules(self, "decay", check=checks.share)

    @property
    def group_size(self) -> int:
        """Each row is decoded alone, to lazy leaves."""
        return 1

    def _is_cached(self, solution: Solution) -> bool:
        return False

    def init(self, key: Key, solution: Solution) -> QESState:
        """Starts with the codes, and perhaps other weights, at ``solution``."""
        mean = trees.starting_point(solution, codes=True)
        count, pairs = self.window or 0, self.population_size // 2
        generations = Generations(
            jnp.zeros((count, pairs), jnp.uint32),
            jnp.zeros((count, 2 * pairs), jnp.float32),
            jnp.ones(count, jnp.float32),
        )
        residual: list[jax.Array | None] = []
        if self.window is None:
            residual = [
                None if packing is None else jnp.zeros(packing.shape(w.shape), jnp.int8)
                for packing, w in zip(
                    _packings(mean), jax.tree.leaves(mean), strict=True
                )
            ]
        return QESState(jnp.int32(0), mean, generations, residual)

    def decode(self, state: QESState, member: Member) -> Solution:
        """Returns ``W + s delta`` as lazy leaves; of other weights ``s sigma z``."""
        seed, sign, scale, _ = member
        kind = self.noise.kind

        def leaf(packing: Packing | None, path: int, w: jax.Array) -> PyTree:
            if packing is not None:
                return Stepped(w, seed, sign, scale, packing, path, kind)
            return Perturbed(w, seed, sign * scale, path, kind) if w.size else w

        paths, leaves, structure = trees.flatten_with_hash(state.mean)
        parts = zip(_packings(state.mean), paths, leaves, strict=True)
        return jax.tree.unflatten(structure, [leaf(*part) for part in parts])

    def tell(
        self, state: QESState, population: Population, evaluation: Evaluation
    ) -> tuple[QESState, QESInfo]:
        """Steps the codes in place; a pair with an invalid half weighs nothing."""
        members, kind = population.members, self.noise.kind
        valid = shaping.pairs_valid(evaluation.valid)
        counts = jnp.any(valid)
        rate = schedules.at("learning_rate", self.learning_rate, state.step)
        decay = jnp.asarray(schedules.at("decay", self.decay, state.step))
        seeds, sigma = members.seed[::2], members.scale[0]
        # u = learning_rate / (P sigma) sum_p F_p s_p delta_p + decay e
        share = self.shaping(evaluation.fitness, valid) * rate / self.population_size
        weights = threefry.round_significant((share / sigma).astype(jnp.float32))
        latest = Generations(seeds, weights, sigma.astype(jnp.float32))
        generations = jax.tree.map(
            lambda old, new: jnp.concatenate([old, new[None]]),
            state.generations,
            latest,
        )
        by = Stepping(kind, generations, decay, counts)
        change = self._per_draw(share * members.sign)
        paths, leaves, structure = trees.flatten_with_hash(state.mean)
        packings, no_codes = _packings(state.mean), jnp.int32(0)

        def stepped(
            packing: Packing | None, path: int, w: jax.Array, e: jax.Array | None
        ) -> Moved:
            if packing is not None:
                return moved(by, w, packing, path, e)
            new = noise_leaves.add_weighted_leaf(kind, path, w, seeds, change)
            return Moved(new, None, no_codes, no_codes)

        before = state.residual or [None] * len(leaves)
        parts = zip(packings, paths, leaves, before, strict=True)
        new, residual, *counted = zip(*(stepped(*part) for part in parts), strict=True)
        num_codes = sum(
            packing.num_codes(w.size)
            for packing, w in zip(packings, leaves, strict=True)
            if packing is not None
        )
        after = QESState(
            state.step + 1,
            jax.tree.unflatten(structure, new),
            trees.select(
                counts, jax.tree.map(lambda x: x[1:], generations), state.generations
            ),
            [*residual] if self.window is None else [],
        )
        shares = [sum(part, no_codes) / max(num_codes, 1) for part in counted]
        return after, QESInfo(sigma, jnp.sum(evaluation.valid), *shares)

    def recommend(self, state: QESState) -> Solution:
        """Returns the codes ``W``."""
        return state.mean


def _packings(tree: PyTree) -> list[Packing | None]:
    """Returns for each array of a tree how its codes are packed; None for others."""
    found: list[Packing | None] = []
    for node in jax.tree.leaves(tree, is_leaf=lambda x: isinstance(x, Quantized)):
        if not isinstance(node, Quantized):
            found.append(None)
            continue
        for path, _ in jax.tree_util.tree_leaves_with_path(node):
            packing = Packing(node.group_size, node.bits)
            found.append(packing if trees.path_name(path) == "codes" else None)
    return found
