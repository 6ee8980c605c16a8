"""Noise on parameter trees: families, the law of their draws, sums."""

from gfopt.noise.noise import Noise, gaussian, rademacher
from gfopt.noise.perturbation.low_rank_noise import LowRankNoise, low_rank
from gfopt.noise.perturbation.perturbed import Perturbed
from gfopt.noise.table import NoiseTable

__all__ = [
    "LowRankNoise",
    "Noise",
    "NoiseTable",
    "Perturbed",
    "gaussian",
    "low_rank",
    "rademacher",
]
