"""Low-rank noise on a tensor: two thin factors, never multiplied out for a product.

    sum_i weights[i] A_i B_i^T / sqrt(rank),   A_i [R, rank], B_i [C, rank]

The factors are those of ``gfopt.low_rank`` on a tree of the same names.

Source: Sarkar et al. (2025), arXiv 2511.16652 (EGGROLL).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F

from gfopt.noise.perturbation.plans import Plan
from gfopt.torch import law

# A sum holds the factors of as many members as fit into so many numbers, and adds to
# as many elements of a tensor at a time, by parts of a quarter
FACTORS = 1 << 22
BLOCK = 1 << 20


class LowRankSum:
    """A weighted sum of low-rank noises on one tensor.

    Args:
        kind: of the factors.
        rank: their columns.
        plan: the tensor's matrices, and the hash of its factors' path.
        seeds: of the noises.
        weights: as many numbers.
    """

    def __init__(
        self,
        kind: str,
        rank: int,
        plan: Plan,
        seeds: Sequence[int],
        weights: Sequence[float],
    ):
        self.kind, self.path_hash = kind, plan.path
        self.seeds, self.weights = seeds, weights
        self._plan, self._rank = plan, rank
        self._held: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    def parts(self) -> Iterator[LowRankSum]:
        """Yields the sum in parts whose factors may be held at once."""
        _, rows, columns = self._plan.sizes
        size = max(1, FACTORS // (self._rank * (rows + columns)))
        for start in range(0, len(self.seeds), size):
            some = slice(start, start + size)
            by = self._plan, self.seeds[some], self.weights[some]
            yield LowRankSum(self.kind, self._rank, *by)

    def layout(self, shape: tuple[int, ...]) -> tuple[int, int]:
        """Returns the rows of all matrices, and their columns."""
        layers, rows, columns = self._plan.sizes
        return layers * rows, columns

    def block_rows(self, columns: int, device: torch.device) -> int:
        """Returns how many rows to add at a time."""
        return max(1, BLOCK // columns)

    def _factors(
        self, layer: int, like: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns ``A^T [n rank, R]`` and ``B^T [n rank, C]``, weighted, of a layer."""
        if layer not in self._held:
            _, rows, columns = self._plan.sizes
            first = layer * self._rank
            index = torch.arange(first, first + self._rank, dtype=torch.int32)
            index = index.to(like.device)
            of = self.path_hash, index, rows + columns
            drawn = [law.noise_rows(self.kind, seed, *of) for seed in self.seeds]
            z = torch.cat(drawn).to(like.dtype)
            scale = torch.tensor(self.weights, dtype=like.dtype, device=like.device)
            scale = (scale / math.sqrt(self._rank)).repeat_interleave(self._rank)
            # a stack of matrices is gone through once
            self._held = {layer: (z[:, :rows], z[:, rows:] * scale[:, None])}
        return self._held[layer]

    def added(
        self,
        old: torch.Tensor,
        rows: torch.Tensor,
        columns: int,
        out: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Returns ``old`` plus these rows of the sum, in float32 or wider.

        Args:
            old: the tensor in those rows, ``[len(rows) * columns]``.
            rows: ``int32[r]``.
            columns: of the matrices.
            out: where to write it, if it is of the same dtype.
        """
        wide = old.to(torch.promote_types(old.dtype, torch.float32)).view(-1, columns)
        found = torch.empty_like(wide) if out is None else out.view(wide.shape)
        layers, height, _ = self._plan.sizes
        if layers == 1:
            a, b = self._factors(0, wide)
            return torch.addmm(wide, a[:, rows].t(), b, out=found).view(-1)
        layer = rows // height
        for number in sorted(set(layer.tolist())):
            some = layer == number
            a, b = self._factors(number, wide)
            part = a[:, rows[some] - number * height].t()
            found[some] = torch.addmm(wide[some], part, b)
        return found.view(-1)

    def linear(
        self, x: torch.Tensor, base: torch.Tensor, offset: torch.Tensor | None
    ) -> torch.Tensor:
        """Returns ``x (W + sum)^T + offset`` for a matrix ``W``, by two thin products.

        Args:
            x: ``float[..., C]``.
            base: ``float[R, C]``, of the same dtype.
            offset: ``float[R]``, or None.
        """
        a, b = self._factors(0, base)
        found = F.linear(x, base, offset)
        found.view(-1, found.shape[-1]).addmm_(F.linear(x, b).view(-1, len(b)), a)
        return found
