"""The published schemes of consensus-based optimization, by name.

Each is a choice of ``CBO``'s fields; any of them may be changed.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from gfopt import checks
from gfopt.consensus.cbo import CBO
from gfopt.consensus.integrators import Adam, Exponential
from gfopt.consensus.kernels import Kernel
from gfopt.consensus.memories import BestMemory, SmoothMemory
from gfopt.consensus.scalings import Anisotropic, Covariance, Isotropic
from gfopt.consensus.weights import EffectiveSampleSize

#: What makes each scheme what it is.
SCHEMES: Mapping[str, Mapping[str, object]] = MappingProxyType(
    {
        # Carrillo, Jin, Li, Zhu (2021), ESAIM COCV 27
        "anisotropic": {},
        # Pinnau, Totzeck, Tse, Martin (2017); 2 lambda > d sigma^2, here up to d = 12
        "isotropic": {"scaling": Isotropic(), "diffusion": 0.4},
        # Fornasier, Huang, Klemenc, Malaspina, arXiv 2602.11677: noise that stays
        "delta": {"diffusion": 0.0, "floor": 0.5},
        # the same authors: the consensus rests while the particles move for any time
        "freezing": {"integrator": Exponential(), "diffusion": 0.0, "floor": 0.5},
        # Grassi, Pareschi (2021), M3AS 31; Riedl (2023), Eur. J. Applied Mathematics
        "memory": {"memory": BestMemory()},
        "smooth_memory": {"memory": SmoothMemory()},
        # Fornasier, Richtarik, Riedl, Sun, arXiv 2310.16610
        "truncated": {"scaling": Anisotropic(max_distance=1.0)},
        # Bungert, Roith, Wacker, arXiv 2211.05238
        "polarised": {"kernel": Kernel("gaussian")},
        # Carrillo, Hoffmann, Stuart, Vaes (2022), Studies in Applied Mathematics 148(3)
        "sampling": {
            "scaling": Covariance(is_sampling=True),
            "integrator": Exponential(),
            "alpha": 1.0,
            "diffusion": 1.0,
        },
        # the same authors; a little more noise than theirs, or the particles meet early
        "sampling_optimization": {
            "scaling": Covariance(),
            "integrator": Exponential(),
            "population_size": 300,
            "alpha": EffectiveSampleSize(0.4),
            "diffusion": 1.05,
            "dt": 2.0,
        },
        # Chen, Jin, Lyu, arXiv 2012.04827
        "adam": {"integrator": Adam(), "drift": 0.1, "diffusion": 1.0},
    }
)

#: Constants in the regime of the papers' theorems: a sharp consensus, small steps.
CONSTANTS: Mapping[str, Mapping[str, object]] = MappingProxyType(
    {
        "anisotropic": {"alpha": 1e5, "dt": 0.1, "diffusion": 1.5},
        "isotropic": {"alpha": 1e5, "dt": 0.1},
        "delta": {"alpha": 1e5, "dt": 0.1},
        "freezing": {"alpha": 1e5, "dt": 1.0},
        "memory": {"alpha": 1e5, "dt": 0.1},
        "smooth_memory": {"alpha": 1e5, "dt": 0.1},
        "truncated": {"alpha": 1e5, "dt": 0.1, "diffusion": 2.0},
        "polarised": {"alpha": 100.0, "dt": 0.1, "diffusion": 1.0},
        "sampling": {"dt": 0.1},
        "sampling_optimization": {},
        "adam": {"alpha": 1e5, "dt": 0.1},
    }
)

VARIANTS: Mapping[str, Mapping[str, object]] = MappingProxyType(
    {name: {**SCHEMES[name], **CONSTANTS[name]} for name in SCHEMES}
)


def consensus_variant(name: str, *, tuned: bool = False, **options: Any) -> CBO:
    """Makes a published scheme of consensus-based optimization.

    Its constants, ``CONSTANTS[name]``, lie where the papers' theorems hold: small steps
    towards the best particle, ``alpha = 1e5`` and ``dt = 0.1`` for most of them. The
    defaults of ``CBO`` were tuned for few evaluations instead; the page of ``cbo`` says
    what each scheme reaches with either.

    Args:
        name: a key of ``SCHEMES``.
        tuned: use the defaults of ``CBO`` for all that is not the scheme itself.
        **options: other values for fields of ``CBO``.

    Raises:
        TypeError: for an argument of the wrong type.
        ValueError: for an unknown name.

    Example:
        >>> consensus_variant("polarised", population_size=20).kernel
        Kernel(shape='gaussian', width=1.0)
        >>> consensus_variant("memory").dt
        0.1
        >>> consensus_variant("memory", tuned=True).dt
        0.9
    """
    checks.one_of("name", name, VARIANTS)
    checks.instance("tuned", tuned, bool, "True or False")
    fields = SCHEMES[name] if tuned else VARIANTS[name]
    return CBO(**{**fields, **options})
