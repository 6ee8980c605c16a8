"""The published schemes of consensus-based optimization, by name.

Each is a choice of ``CBO``'s fields; any of them may be changed.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from gfopt import checks
from gfopt.optimizers.consensus import CBO
from gfopt.optimizers.consensus_weights import EffectiveSampleSize

VARIANTS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        # Carrillo, Jin, Li, Zhu (2021), ESAIM COCV 27
        "anisotropic": {"alpha": 1e5, "dt": 0.1, "diffusion": 1.5},
        # Pinnau, Totzeck, Tse, Martin (2017); 2 lambda > d sigma^2, here up to d = 12
        "isotropic": {
            "noise": "isotropic",
            "alpha": 1e5,
            "dt": 0.1,
            "diffusion": 0.4,
        },
        # Fornasier, Huang, Klemenc, Malaspina, arXiv 2602.11677: noise that stays
        "delta": {
            "alpha": 1e5,
            "dt": 0.1,
            "diffusion": 0.0,
            "floor": 0.5,
        },
        # the same authors: the consensus rests while the particles move for any time
        "freezing": {
            "integrator": "exponential",
            "alpha": 1e5,
            "dt": 1.0,
            "diffusion": 0.0,
            "floor": 0.5,
        },
        # Grassi, Pareschi (2021), M3AS 31; Riedl (2023), Eur. J. Applied Mathematics
        "memory": {"memory": "best", "alpha": 1e5, "dt": 0.1},
        "smooth_memory": {"memory": "smooth", "alpha": 1e5, "dt": 0.1},
        # Fornasier, Richtarik, Riedl, Sun, arXiv 2310.16610
        "truncated": {
            "alpha": 1e5,
            "dt": 0.1,
            "diffusion": 2.0,
            "longest": 1.0,
        },
        # Bungert, Roith, Wacker, arXiv 2211.05238
        "polarised": {
            "kernel": "gaussian",
            "alpha": 100.0,
            "dt": 0.1,
            "diffusion": 1.0,
        },
        # Carrillo, Hoffmann, Stuart, Vaes (2022), Studies in Applied Mathematics 148(3)
        "sampling": {
            "noise": "covariance",
            "integrator": "exponential",
            "is_sampling": True,
            "alpha": 1.0,
            "diffusion": 1.0,
            "dt": 0.1,
        },
        # the same authors; a little more noise than theirs, or the particles meet early
        "sampling_optimization": {
            "noise": "covariance",
            "integrator": "exponential",
            "population_size": 300,
            "alpha": EffectiveSampleSize(0.4),
            "diffusion": 1.05,
            "dt": 2.0,
        },
        # Chen, Jin, Lyu, arXiv 2012.04827
        "adam": {
            "integrator": "adam",
            "alpha": 1e5,
            "drift": 0.1,
            "diffusion": 1.0,
            "dt": 0.1,
        },
    }
)


def consensus_variant(name: str, **options: Any) -> CBO:
    """Makes a published scheme of consensus-based optimization.

    Args:
        name: a key of ``VARIANTS``.
        **options: fields of ``CBO`` that are to be others.

    Raises:
        ValueError: for an unknown name.

    Example:
        >>> consensus_variant("polarised", kernel_width=0.5).kernel
        'gaussian'
    """
    checks.one_of("name", name, VARIANTS)
    return CBO(**{**VARIANTS[name], **options})
