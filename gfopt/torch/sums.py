"""Sums of noise on a tensor, drawn a block at a time and added in place."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch

from gfopt.noise import law as jax_law
from gfopt.torch import law
from gfopt.torch.low_rank import LowRankSum


class Sum(NamedTuple):
    """``sum_i weights[i] z_i`` on one tensor.

    Attributes:
        kind: of the noise.
        path_hash: crc32 of the tensor's path.
        seeds: of the noises.
        weights: as many numbers.
        limit: a number, weights above it have no noise; None: all have it.
        in_turn: whether each is rounded to the tensor's type, as one candidate is made
            of another; else the sum is rounded once.
    """

    kind: str
    path_hash: int
    seeds: Sequence[int]
    weights: Sequence[float]
    limit: float | None = None
    in_turn: bool = False

    def parts(self) -> tuple[Sum]:
        """Returns the sum in parts that fit into memory: it is streamed."""
        return (self,)

    def layout(self, shape: tuple[int, ...]) -> tuple[int, int]:
        """Returns the rows and columns in which a tensor is added to."""
        return jax_law.layout(shape)

    def block_rows(self, columns: int, device: torch.device) -> int:
        """Returns how many rows to add at a time."""
        return law.block_rows(self.kind, columns, device)

    def added(
        self,
        old: torch.Tensor,
        rows: torch.Tensor,
        columns: int,
        out: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Returns ``old`` plus these rows of the sum, in float32 or wider if not exact.

        Args:
            old: the tensor in those rows, ``[len(rows) * columns]`` or cut short.
            rows: ``int32[r]``.
            columns: of the tensor's layout.
            out: where to write it, if it is of the same dtype.
        """
        if self.in_turn:
            for seed, weight in zip(self.seeds, self.weights, strict=True):
                one = self._replace(seeds=[seed], weights=[weight], in_turn=False)
                old = one.added(old, rows, columns, out).to(old.dtype)
            return old
        wide = old.to(torch.promote_types(old.dtype, torch.float32))
        total = torch.zeros_like(wide) if len(self.seeds) > 1 else None
        for seed, weight in zip(self.seeds, self.weights, strict=True):
            of = self.kind, seed, self.path_hash
            z = law.noise_rows(*of, rows, columns, law.ROOM)
            z = z.reshape(-1)[: len(wide)]
            if self.limit is not None:
                z = torch.where(old.abs() <= self.limit, z, 0)
            if total is None:  # with one rounding, exact for signs
                return torch.add(wide, z, alpha=weight, out=out)
            total.add_(z, alpha=weight)
        # -0 + 0 would be another 0
        return wide if total is None else torch.where(total == 0, wide, wide + total)


def add_into(
    out: torch.Tensor,
    base: torch.Tensor,
    by: Sum | LowRankSum,
    rounding_seed: int | None = None,
) -> torch.Tensor:
    """Writes ``base + sum_i weights[i] z_i`` to ``out``, and returns that.

    Args:
        out: a tensor of its shape, or ``base`` itself.
        base: the weights.
        by: the sum.
        rounding_seed: round narrow tensors up or down at random; None for to the
            nearest.
    """
    if not (out.is_contiguous() and base.is_contiguous()):
        dense = base.contiguous()
        found = torch.empty_like(dense, dtype=out.dtype)
        return out.copy_(add_into(found, dense, by, rounding_seed))
    rows, columns = by.layout(tuple(base.shape))
    old, new = base.view(-1), out.view(-1)
    is_random = rounding_seed is not None and base.element_size() < 4
    step = by.block_rows(columns, base.device)
    if is_random:  # a word for each number
        step = min(step, law.block_rows("gaussian", columns, base.device))
    for start in range(0, rows, step):
        stop = min(rows, start + step)
        some = torch.arange(start, stop, dtype=torch.int32, device=base.device)
        part = slice(start * columns, min(stop * columns, len(old)))
        same = new[part] if new.dtype == old.dtype and old.element_size() >= 4 else None
        found = by.added(old[part], some, columns, same)
        if is_random:
            bits = law.words(rounding_seed or 0, by.path_hash, some, columns, which=1)
            found = stochastic(found, bits.view(-1)[: len(found)], base.dtype)
        if found is not same:
            new[part] = found
    return out


def stochastic(x: torch.Tensor, bits: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Rounds float32 numbers to a narrow type, up or down at random.

    The same as ``gfopt.noise.rounding.stochastic``.

    Args:
        x: ``float32[n]``.
        bits: ``int32[n]``, random words, of which the upper 23 bits count.
        dtype: ``bfloat16`` or ``float16``.

    Source: Gupta et al. (ICML 2015), arXiv 1502.02551, section 3.
    """
    info = torch.finfo(dtype)
    digits = round(-math.log2(info.eps))
    least = round(math.log2(info.tiny))
    # s = 2 ** (exponent - digits), by the bits of a float32; it is a normal number
    exponent = x.view(torch.int32).bitwise_right_shift(23).bitwise_and_(255)
    exponent = exponent.clamp_(min=max(127 + least, digits + 1)).sub_(digits)
    spacing = exponent.bitwise_left_shift_(23).view(torch.float32)
    # all exact: the spacing is a power of two
    share = x / spacing
    whole = share.floor()
    chance = (bits >> 9).bitwise_and_(0x7FFFFF).to(torch.float32).mul_(2.0**-23)
    rounded = (whole + (chance < share - whole)) * spacing
    return torch.where(x.isfinite(), rounded, x).to(dtype)
