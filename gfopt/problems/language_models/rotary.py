"""Rotary positions: the rates of a head's pairs, and how the pairs are turned.

    angle(t, i) = t rate_i,    rate_i = base^(-2 i / s) / factor_i

for the pair ``i`` of a head of ``s`` numbers. Scaled positions are factors: one number
for linear scaling, a ramp for that of Llama 3, infinity for layers without positions.

Sources: Su et al. (2021), arXiv 2104.09864, section 3.2; Chen et al. (2023), arXiv
2306.15595, for linear scaling; Grattafiori et al. (2024), arXiv 2407.21783, section
3.4.1, for Llama 3.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from gfopt.types import PyTree

NO_POSITIONS = (math.inf,)


class Rotary(NamedTuple):
    """How fast the pairs of a head turn.

    Attributes:
        base: of the wavelengths.
        factors: each divides the rate of one pair; one number for all of them, () for
            none.
    """

    base: float
    factors: tuple[float, ...] = ()

    def rates(self, size: int) -> np.ndarray:
        """Returns ``rate_i``, ``f64[s / 2]``."""
        factors = np.asarray(self.factors or (1.0,))
        return self.base ** (-np.arange(0, size, 2) / size) / factors


def llama3_factors(
    size: int, base: float, *, factor: float, low: float, high: float, length: float
) -> tuple[float, ...]:
    """Returns the factors of Llama 3: long waves are stretched, short ones stay.

    With ``n`` the waves that fit into the old context and
    ``share = (n - low) / (high - low)``, cut to 0..1,

        1 / factor_i = (1 - share) / factor + share.

    Args:
        size: of a head, ``s``.
        base: of the wavelengths.
        factor: of the longest waves.
        low: waves that fewer fit into the context than this are stretched in full.
        high: waves that more fit into the context than this are not.
        length: of the context before it was stretched.

    Example:
        >>> factors = llama3_factors(8, 1e4, factor=8.0, low=1.0, high=4.0, length=512)
        >>> [round(number, 2) for number in factors]
        [1.0, 1.0, 8.0, 8.0]
    """
    waves = length * Rotary(base).rates(size) / (2 * math.pi)
    share = np.clip((waves - low) / (high - low), 0, 1)
    return tuple((1 / ((1 - share) / factor + share)).tolist())


def tables(
    rates: np.ndarray, length: int, dtype: DTypeLike
) -> tuple[jax.Array, jax.Array]:
    """Returns cosine and sine of the angles, ``[..., L, 1, s / 2]``."""
    angles = (np.arange(length)[:, None] * rates[..., None, :])[..., None, :]
    return jnp.asarray(np.cos(angles), dtype), jnp.asarray(np.sin(angles), dtype)


def turned(heads: jax.Array, turns: tuple[jax.Array, jax.Array]) -> jax.Array:
    """Turns the pairs ``(2i, 2i + 1)`` of ``[B, L, H, s]``."""
    cosine, sine = turns
    even, odd = heads[..., 0::2], heads[..., 1::2]
    pairs = [even * cosine - odd * sine, even * sine + odd * cosine]
    return jnp.stack(pairs, axis=-1).reshape(heads.shape)


def neighbours(rows: PyTree, size: int) -> PyTree:
    """Brings the pairs ``(i, i + s / 2)`` of each head's rows to ``(2i, 2i + 1)``.

    Example:
        >>> neighbours(np.arange(8), 4).tolist()
        [0, 2, 1, 3, 4, 6, 5, 7]
    """
    pairs = rows.reshape(-1, 2, size // 2, *rows.shape[1:])
    return pairs.swapaxes(1, 2).reshape(rows.shape)


def halves(rows: PyTree, size: int) -> PyTree:
    """Brings the pairs ``(2i, 2i + 1)`` of each head's rows to ``(i, i + s / 2)``."""
    pairs = rows.reshape(-1, size // 2, 2, *rows.shape[1:])
    return pairs.swapaxes(1, 2).reshape(rows.shape)
