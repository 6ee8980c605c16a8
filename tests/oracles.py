"""Slow oracles: NumPy loops written from the papers, in float64.

They share no code with gfopt. A test gives them the noise that a method drew and the
fitness of its candidates, and compares what comes out, step by step.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

Array = np.ndarray


def tied_ranks(fitness: Array) -> Array:
    """Ranks from 0 (best); equal values share the mean of their ranks."""
    ranks = np.zeros(len(fitness))
    for i, value in enumerate(fitness):
        better = sum(other < value for other in fitness)
        equal = sum(other == value for other in fitness)
        ranks[i] = better + (equal - 1) / 2
    return ranks


def centered_ranks(fitness: Array) -> Array:
    """Salimans et al. (2017), section 2: 1/2 for the best down to -1/2."""
    return 0.5 - tied_ranks(fitness) / (len(fitness) - 1)


@dataclass
class Adam:
    """Kingma & Ba (2015), arXiv 1412.6980, algorithm 1."""

    rate: float
    b1: float = 0.9
    b2: float = 0.999
    eps: float = 1e-8
    t: int = 0
    m: Array | float = 0.0
    v: Array | float = 0.0

    def step(self, gradient: Array) -> Array:
        """Returns what is added to the parameters."""
        self.t += 1
        self.m = self.b1 * self.m + (1 - self.b1) * gradient
        self.v = self.b2 * self.v + (1 - self.b2) * gradient**2
        m_hat = self.m / (1 - self.b1**self.t)
        v_hat = self.v / (1 - self.b2**self.t)
        return -self.rate * m_hat / (np.sqrt(v_hat) + self.eps)


@dataclass
class SGD:
    """Plain gradient descent."""

    rate: float

    def step(self, gradient: Array) -> Array:
        """Returns what is added to the parameters."""
        return -self.rate * gradient


@dataclass
class OpenES:
    """Salimans et al. (2017), arXiv 1703.03864, algorithm 2, and its code's L2 term.

    A pair of which one half failed is left out, of the ranks and of the sum.
    """

    theta: Array
    sigma: float
    descent: Adam | SGD
    weight_decay: float = 0.0

    def candidates(self, noise: Sequence[Array], signs: Sequence[int]) -> list[Array]:
        """Returns ``theta + sigma s z`` for each row."""
        return [
            self.theta + self.sigma * s * z for z, s in zip(noise, signs, strict=True)
        ]

    def gradient(
        self, noise: Sequence[Array], signs: Sequence[int], fitness: Array
    ) -> Array:
        """Returns ``-1 / (P sigma) sum_p u_p s_p z_p``, rows with NaN left out."""
        size = len(fitness)
        pair = 2 if len(set(signs)) == 2 else 1
        kept = [
            row
            for row in range(size)
            if not np.any(np.isnan(fitness[row - row % pair : row - row % pair + pair]))
        ]
        total = np.zeros_like(self.theta)
        for row, utility in zip(kept, centered_ranks(fitness[kept]), strict=True):
            total += utility * signs[row] * noise[row]
        return -total / (size * self.sigma)

    def tell(
        self, noise: Sequence[Array], signs: Sequence[int], fitness: Array
    ) -> None:
        """Takes one step."""
        gradient = self.gradient(noise, signs, fitness)
        self.theta = self.theta + self.descent.step(
            gradient + self.weight_decay * self.theta
        )


def mezo_step(
    theta: Array, z: Array, losses: tuple[float, float], eps: float, rate: float
) -> Array:
    """Malladi et al. (2023), arXiv 2305.17333, algorithm 1, in place as written there.

    Args:
        theta: the weights, ``[D]``.
        z: this step's noise.
        losses: at ``theta + eps z`` and at ``theta - eps z``.
        eps: the radius.
        rate: the learning rate.
    """
    theta = theta.copy()
    theta += eps * z  # l+ is measured here
    theta -= 2 * eps * z  # and l- here
    theta += eps * z
    projected = (losses[0] - losses[1]) / (2 * eps)
    for i in range(len(theta)):
        theta[i] -= rate * projected * z[i]
    return theta


@dataclass
class CMAES:
    """Hansen, "The CMA evolution strategy: a tutorial", arXiv 1604.00772, figure 6.

    The strategy parameters are arguments (the tutorial's table 1 gives defaults). The
    root of C is renewed every ``gap`` steps, and the candidates are made with it.
    """

    mean: Array
    sigma: float
    weights: Array  # [P], best first, the negative ones too
    c_sigma: float
    d_sigma: float
    c_c: float
    c_1: float
    c_mu: float
    gap: int = 1
    step: int = 0
    covariance: Array = field(default_factory=lambda: np.zeros(0))
    root: Array = field(default_factory=lambda: np.zeros(0))
    inverse_root: Array = field(default_factory=lambda: np.zeros(0))
    path_sigma: Array = field(default_factory=lambda: np.zeros(0))
    path_c: Array = field(default_factory=lambda: np.zeros(0))

    def __post_init__(self) -> None:
        n = len(self.mean)
        self.covariance = self.root = self.inverse_root = np.eye(n)
        self.path_sigma, self.path_c = np.zeros(n), np.zeros(n)

    def candidates(self, z: Array) -> list[Array]:
        """Eq. 38-40: ``m + sigma C^{1/2} z_k``."""
        return [self.mean + self.sigma * self.root @ row for row in z]

    def tell(self, z: Array, fitness: Array) -> None:
        """Eq. 41-47."""
        n, lam = len(self.mean), len(fitness)
        order = np.argsort(fitness, kind="stable")
        y = [self.root @ z[k] for k in order]
        mu = sum(w > 0 for w in self.weights)
        mu_eff = sum(self.weights[:mu]) ** 2 / sum(w**2 for w in self.weights[:mu])
        y_w = sum(self.weights[i] * y[i] for i in range(mu))
        self.mean = self.mean + self.sigma * y_w

        c = self.c_sigma
        self.path_sigma = (1 - c) * self.path_sigma + math.sqrt(
            c * (2 - c) * mu_eff
        ) * (self.inverse_root @ y_w)
        length = math.sqrt(sum(p**2 for p in self.path_sigma))
        chi = math.sqrt(n) * (1 - 1 / (4 * n) + 1 / (21 * n**2))
        self.sigma *= math.exp(c / self.d_sigma * (length / chi - 1))

        bias = math.sqrt(1 - (1 - c) ** (2 * (self.step + 1)))
        h = 1.0 if length / bias < (1.4 + 2 / (n + 1)) * chi else 0.0
        c = self.c_c
        self.path_c = (1 - c) * self.path_c + h * math.sqrt(c * (2 - c) * mu_eff) * y_w

        change = np.outer(self.path_c, self.path_c) * self.c_1
        for i in range(lam):
            weight = self.weights[i]
            if weight < 0:
                weight *= n / sum(v**2 for v in self.inverse_root @ y[i])
            change += self.c_mu * weight * np.outer(y[i], y[i])
        delta = (1 - h) * c * (2 - c)
        keep = 1 + self.c_1 * delta - self.c_1 - self.c_mu * sum(self.weights)
        self.covariance = keep * self.covariance + change

        self.step += 1
        if self.step % self.gap == 0:
            values, basis = np.linalg.eigh(self.covariance)
            self.root = basis @ np.diag(np.sqrt(values)) @ basis.T
            self.inverse_root = basis @ np.diag(1 / np.sqrt(values)) @ basis.T
