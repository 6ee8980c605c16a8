"""A family of noise on the leaves that are tuned: candidates seen, steps made."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
import torch
from torch.overrides import TorchFunctionMode

from gfopt import checks
from gfopt.noise.law import KINDS
from gfopt.noise.noise import Noise
from gfopt.noise.perturbation.plans import DENSE, EXCLUDED, Plan, plans_of
from gfopt.torch import law, sums
from gfopt.torch.low_rank import LowRankSum
from gfopt.torch.perturbation import Perturbed
from gfopt.torch.trees import Leaf, leaves_of, nested
from gfopt.types import Chain, Estimate


class Noises:
    """Noise on leaves, by the law of a family.

    Args:
        family: ``gaussian()``, ``rademacher()`` or ``low_rank()``.
        leaves: what is tuned.
        moving: fraction of each matrix that has noise, by the size of its weights now;
            None for all.

    Raises:
        ValueError: for a pattern of the family that matches no leaf.
    """

    def __init__(self, family: Any, leaves: list[Leaf], moving: float | None = None):
        self._family = family
        self._places = [
            _Place(leaf, plan, None if moving is None else _limit(leaf.tensor, moving))
            for leaf, plan in zip(leaves, _plans(family, leaves), strict=True)
            if plan.choice != EXCLUDED and leaf.tensor.numel()
        ]

    def _sum(
        self,
        place: _Place,
        seeds: Sequence[int],
        weights: Sequence[float],
        in_turn: bool = False,
    ) -> sums.Sum | LowRankSum:
        """Returns ``sum_i weights[i] z_i`` on a tensor."""
        kind, (_, plan, limit) = self._family.kind, place
        if plan.choice == DENSE:
            return sums.Sum(kind, plan.path, seeds, weights, limit, in_turn)
        return LowRankSum(kind, self._family.rank, plan, seeds, weights)

    def seen(self, chain: Chain) -> Perturbed:
        """Returns the context in which functions see a candidate."""
        by = _listed(chain)
        pairs = ((place.leaf.tensor, self._sum(place, *by)) for place in self._places)
        return Perturbed(pairs)

    def write(self, chain: Chain) -> None:
        """Writes a candidate into the tensors."""
        by = _listed(chain)
        for place in self._places:
            tensor = place.leaf.tensor.detach()
            sums.add_into(tensor, tensor, self._sum(place, *by))

    def move(self, found: Estimate, rate: float, rounding: str = "nearest") -> None:
        """Adds ``-rate g`` to the tensors."""
        seeds, slopes = np.asarray(found.seeds), np.asarray(found.slopes)
        random = int(seeds[0]) if rounding == "stochastic" else None
        for place in self._places:
            tensor, own = place.leaf.tensor.detach(), place.leaf.learning_rate
            own = rate if own is None else own
            if found.decay:
                tensor.mul_(1 - own * float(found.decay))
            weights = -slopes.dtype.type(own) * slopes
            if weights.any():
                total = self._sum(place, seeds.tolist(), weights.tolist())
                for part in total.parts():
                    sums.add_into(tensor, tensor, part, random)


class _Place(NamedTuple):
    """A leaf, the noise that it gets, and the largest ``|w|`` that has any."""

    leaf: Leaf
    plan: Plan
    limit: float | None


def _listed(chain: Chain) -> tuple[list[int], list[float], bool]:
    """Returns seeds, scales of 12 significant bits, and that they are added in turn."""
    scales = torch.tensor(np.asarray(chain.scales), dtype=torch.float32)
    rounded = law.round_significant(scales).tolist()
    return chain.seeds.tolist(), rounded, len(rounded) > 1


def _plans(family: Any, leaves: list[Leaf]) -> list[Plan]:
    """Returns what noise each leaf gets."""
    shapes = [tuple(leaf.tensor.shape) for leaf in leaves]
    if not family.is_lazy:
        pairs = zip(leaves, shapes, strict=True)
        return [Plan(leaf.path_hash, DENSE, shape) for leaf, shape in pairs]
    named = zip(leaves, shapes, strict=True)
    like = {leaf.name: np.broadcast_to(np.float32(0), shape) for leaf, shape in named}
    plans, _, structure = plans_of(family, nested(like))
    order = jax.tree.leaves(nested({leaf.name: i for i, leaf in enumerate(leaves)}))
    return [plan for _, plan in sorted(zip(order, plans, strict=True))]


def _limit(tensor: torch.Tensor, moving: float) -> float | None:
    """Returns the largest ``|w|`` that moves in Sparse MeZO, None where all do."""
    if tensor.ndim < 2:
        return None
    size = tensor.detach().abs().flatten()
    # as jnp.quantile counts, in the width of the weights
    kind = np.float64 if tensor.dtype == torch.float64 else np.float32
    place = int(kind(moving) * kind(len(size) - 1))
    return size.kthvalue(place + 1).values.item() or None


def perturbed(
    parameters: Any, seed: int, scale: float, kind: str = "gaussian"
) -> TorchFunctionMode:
    """Returns a context in which torch's functions see ``w + scale z``.

    Equal to ``gfopt.noise`` on a tree of the same names, and to the last bit for signs.
    Linear layers and embeddings take no memory beside a block; another function that
    uses a weight makes the whole of that one, for the time of its call. Narrow weights
    are multiplied in float32, and rounded once perturbed by other functions.

    Args:
        parameters: an ``nn.Module`` or named parameters, as of ``Tuner``.
        seed: 32 bits.
        scale: rounded to 12 significant bits, so that ``scale z`` is exact.
        kind: of the noise, ``"gaussian"`` or ``"rademacher"``.

    Raises:
        TypeError, ValueError: for parameters without names, or an unknown kind.

    Example:
        >>> layer = torch.nn.Linear(3, 2, bias=False)
        >>> x = torch.eye(3)
        >>> with torch.no_grad():
        ...     before = layer(x)
        ...     with perturbed(layer, seed=1, scale=0.5, kind="rademacher"):
        ...         moved = layer(x)
        ...     bool(((moved - before).abs() > 0.49).all())
        ...     torch.equal(layer(x), before)
        True
        True
    """
    checks.one_of("kind", kind, KINDS)
    chain = Chain(np.array([seed]), np.array([scale]))
    return Noises(Noise(kind), leaves_of(parameters)).seen(chain)
