"""Consensus-based optimization, and the parts of which its schemes are made."""

from gfopt.consensus.integrators import Adam, Euler, Exponential
from gfopt.consensus.kernels import Kernel
from gfopt.consensus.memories import BestMemory, SmoothMemory
from gfopt.consensus.particles import Kick, Reduction
from gfopt.consensus.scalings import Anisotropic, Covariance, Isotropic
from gfopt.consensus.variants import consensus_variant
from gfopt.consensus.weights import EffectiveSampleSize

__all__ = [
    "Adam",
    "Anisotropic",
    "BestMemory",
    "Covariance",
    "EffectiveSampleSize",
    "Euler",
    "Exponential",
    "Isotropic",
    "Kernel",
    "Kick",
    "Reduction",
    "SmoothMemory",
    "consensus_variant",
]
