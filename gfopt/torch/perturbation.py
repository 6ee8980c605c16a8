"""Perturbed weights that never exist: noise is made where a weight is used.

While the context is open, torch's functions see ``w + scale z`` in place of ``w``. The
weights themselves are not written to, so nothing drifts, and no copy of them is kept:
a product makes the noise of a block of rows, adds it, and multiplies.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode

from gfopt.torch import sums
from gfopt.torch.low_rank import LowRankSum

Added: TypeAlias = sums.Sum | LowRankSum

# Rows of a matrix are perturbed and multiplied up to this many numbers at a time.
BLOCK = 1 << 20

# what is asked of a tensor that is the same for the perturbed one
_FORM = {"device", "dtype", "is_leaf", "layout", "ndim", "requires_grad", "shape"}
_FORM |= {"dim", "is_contiguous", "is_floating_point", "numel", "size", "stride"}


class Perturbed(TorchFunctionMode):
    """Replaces weights among the arguments of torch's functions."""

    def __init__(self, leaves: Iterable[tuple[torch.Tensor, Added]]):
        super().__init__()
        self._sums = {id(tensor): by for tensor, by in leaves}
        self._spaces: dict[tuple[torch.device, torch.dtype], torch.Tensor] = {}
        self.seen: set[int] = set()

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Calls ``func`` with what stands for its arguments."""
        kwargs = kwargs or {}
        if not any(map(self._holds, (*args, *kwargs.values()))):
            return func(*args, **kwargs)
        name = getattr(func, "__name__", "")
        if name == "__get__":  # of a property
            name = getattr(getattr(func, "__self__", None), "__name__", "")
        if name in _FORM:
            return func(*args, **kwargs)
        product = _PRODUCTS.get(func)
        found = product and product(self, *args, **kwargs)
        if found is not None:
            return found
        dense = {key: self._dense(value) for key, value in kwargs.items()}
        return func(*map(self._dense, args), **dense)

    def _holds(self, value: Any) -> bool:
        if isinstance(value, list | tuple):  # as the weights of a recurrent network
            return any(map(self._holds, value))
        return id(value) in self._sums

    def _dense(self, value: Any, dtype: torch.dtype | None = None) -> Any:
        """Returns the whole perturbed weight, in its own dtype or another."""
        if isinstance(value, list | tuple) and self._holds(value):
            return type(value)(map(self._dense, value))
        if id(value) not in self._sums:
            return value
        base = value.detach()
        return sums.add_into(
            torch.empty_like(base, dtype=dtype), base, self._use(value)
        )

    def _use(self, value: torch.Tensor) -> Added:
        self.seen.add(id(value))
        return self._sums[id(value)]

    def linear(
        self, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None
    ) -> torch.Tensor | None:
        """Returns ``x (w + scale z)^T + b``, by blocks of the rows of ``w``."""
        if id(weight) not in self._sums:
            return None
        base = weight.detach()
        is_narrow = base.element_size() < 4
        if base.ndim != 2 or not base.numel():
            return None
        by, (rows, columns) = self._use(weight), base.shape
        step = min(rows, max(1, BLOCK // columns))
        wide = x.to(torch.float32) if is_narrow else x
        result, offset = None, None
        if bias is not None:
            offset = self._dense(bias, torch.float32 if is_narrow else None).to(wide)
        if isinstance(by, LowRankSum) and not is_narrow:
            return by.linear(x, base, offset)
        for start in range(0, rows, step):
            stop = min(rows, start + step)
            index = torch.arange(start, stop, dtype=torch.int32, device=base.device)
            some = base[start:stop]
            matrix = self._at(some, by, index, self._space(some, step * columns))
            added = None if offset is None else offset[start:stop]
            block = F.linear(wide, matrix, added)
            dtype = x.dtype if is_narrow else block.dtype
            if step == rows:
                return block.to(dtype)
            if result is None:
                result = block.new_empty((*x.shape[:-1], rows), dtype=dtype)
            result[..., start:stop] = block
        return result

    def _space(self, some: torch.Tensor, size: int) -> torch.Tensor:
        """Returns room for numbers that are used up at once.

        It is taken again: memory that is mapped anew for each matrix takes as long as
        its noise. A product that a gradient goes through keeps its own.
        """
        key = some.device, torch.promote_types(some.dtype, torch.float32)
        found = self._spaces.get(key)
        if found is None or len(found) < size or torch.is_grad_enabled():
            found = torch.empty(size, dtype=key[1], device=key[0])
            self._spaces[key] = found
        return found

    def _at(
        self, some: torch.Tensor, by: Added, rows: torch.Tensor, space: torch.Tensor
    ) -> torch.Tensor:
        """Writes ``some[r, C]`` of a matrix plus the noise of those rows."""
        columns = some.shape[1]
        step = by.block_rows(columns, some.device)
        found = space[: some.numel()]
        for start in range(0, len(rows), step):
            part = slice(start, start + step)
            new = found[start * columns :][: len(rows[part]) * columns]
            old = some[part].reshape(-1)
            added = by.added(old, rows[part], columns, new)
            if added is not new:  # a sum of several
                new.copy_(added)
        return found.view(some.shape)

    def embedding(
        self,
        input: torch.Tensor,
        weight: torch.Tensor,
        padding_idx: int | None = None,
        max_norm: float | None = None,
        *args: Any,
        **kwargs: Any,
    ) -> torch.Tensor | None:
        """Returns the rows that are looked up, and makes the noise of no others."""
        if id(weight) not in self._sums or max_norm is not None:
            return None
        if input.numel() >= weight.shape[0] or not input.numel():
            return None
        base, index = weight.detach(), input.reshape(-1)
        some, rows = base[index], index.to(torch.int32)
        wide = torch.promote_types(base.dtype, torch.float32)
        space = torch.empty(some.numel(), dtype=wide, device=base.device)
        some = self._at(some, self._use(weight), rows, space)
        return some.to(base.dtype).reshape(*input.shape, base.shape[1])


_PRODUCTS: dict[Any, Callable[..., torch.Tensor | None]] = {
    F.linear: Perturbed.linear,
    F.embedding: Perturbed.embedding,
}
