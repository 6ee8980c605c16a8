"""Slow oracles: NumPy loops written from the papers, in float64.

They share no code with gfopt. A test gives them the noise that a method drew and the
fitness of its candidates, and compares what comes out, step by step.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import scipy.linalg

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


@dataclass
class ClipUp:
    """Toklu et al. (2020), arXiv 2008.02387."""

    rate: float
    longest: float
    momentum: float = 0.9
    velocity: Array | float = 0.0

    def step(self, gradient: Array) -> Array:
        """Returns what is added to the parameters."""
        length = math.sqrt(sum(g**2 for g in gradient))
        push = -self.rate * gradient / length if length > 0 else 0.0
        self.velocity = self.momentum * self.velocity + push
        speed = math.sqrt(sum(v**2 for v in self.velocity))
        if speed > self.longest:
            self.velocity = self.longest * self.velocity / speed
        return self.velocity


@dataclass
class PGPE:
    """Sehnke et al. (2010), in pairs, and Toklu et al.'s clipped deviations.

    A pair of which one half failed is left out, of utilities, baseline and sums.
    """

    mean: Array
    std: Array
    descent: Adam | SGD | ClipUp
    utilities: Callable[[Array], Array]
    std_rate: float = 0.1
    max_change: float = 0.2

    def candidates(self, noise: Sequence[Array]) -> list[Array]:
        """Returns ``m + s`` and ``m - s`` for each ``s = sigma z``."""
        return [self.mean + sign * self.std * z for z in noise for sign in (1, -1)]

    def tell(self, noise: Sequence[Array], fitness: Array) -> None:
        """Takes one step; ``noise`` has one row for each pair."""
        pairs = fitness.reshape(-1, 2)
        kept = [i for i in range(len(pairs)) if not np.any(np.isnan(pairs[i]))]
        rewards = self.utilities(pairs[kept].ravel()).reshape(-1, 2)
        baseline = np.mean(rewards)
        by_mean, by_std = np.zeros_like(self.mean), np.zeros_like(self.mean)
        for i, (plus, minus) in zip(kept, rewards, strict=True):
            s = self.std * noise[i]
            by_mean += (plus - minus) / 2 * s
            r = (plus + minus) / 2 - baseline
            by_std += r * (s**2 - self.std**2) / self.std
        self.mean = self.mean + self.descent.step(-by_mean / len(pairs))
        change = self.std_rate * by_std / len(pairs)
        most = self.max_change * self.std
        self.std = self.std + np.minimum(np.maximum(change, -most), most)


def ars_step(
    theta: Array, noise: Sequence[Array], fitness: Array, best: int, rate: float
) -> Array:
    """Mania et al. (2018), arXiv 1803.07055, algorithm 2.

    Args:
        theta: the weights, ``[D]``.
        noise: one row for each pair.
        fitness: ``[P]``, of ``theta + nu z`` and ``theta - nu z`` in turn; NaN for
            failures, whose pairs are left out.
        best: number of directions that are used.
        rate: the step size.
    """
    pairs = fitness.reshape(-1, 2)
    kept = [i for i in range(len(pairs)) if not np.any(np.isnan(pairs[i]))]
    kept = sorted(kept, key=lambda i: min(pairs[i]))[:best]
    deviation = np.std(pairs[kept])
    total = sum((pairs[i, 0] - pairs[i, 1]) * noise[i] for i in kept)
    return theta - rate / (len(kept) * deviation) * total


def low_rank_noise(a: Array, b: Array) -> Array:
    """Sarkar et al. (2025), arXiv 2511.16652: ``E = A B^T / sqrt(r)``."""
    (rows, rank), columns = a.shape, len(b)
    change = np.zeros((rows, columns))
    for i in range(rows):
        for j in range(columns):
            change[i, j] = sum(a[i, k] * b[j, k] for k in range(rank)) / np.sqrt(rank)
    return change


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


def sparse_mezo_step(
    theta: Array,
    z: Array,
    losses: tuple[float, float],
    eps: float,
    rate: float,
    limits: Array,
) -> Array:
    """Liu et al. (2024), arXiv 2402.15751, algorithm 1: MeZO with a mask of its own.

    Args:
        theta: the weights, ``[D]``.
        z: this step's noise.
        losses: at ``theta + eps m z`` and at ``theta - eps m z``.
        eps: the radius.
        rate: the learning rate.
        limits: ``h`` of each weight's layer, ``[D]``.
    """
    masked = z.copy()
    for i in range(len(theta)):
        if abs(theta[i]) > limits[i]:
            masked[i] = 0
    return mezo_step(theta, masked, losses, eps, rate)


def svrg_steps(
    theta: Array,
    loss: Callable[[Array, Array], float],
    batches: Sequence[Array],
    pool: Array,
    orders: Sequence[Sequence[int]],
    eps: float,
    rate: float,
) -> Array:
    """Gautam et al. (2024), arXiv 2404.08080, algorithm 2, along a pool of directions.

    Args:
        theta: the weights, ``[D]``.
        loss: ``(weights, batch) -> float``.
        batches: a period's mini-batches; those that have no step measure the anchor.
        pool: the period's directions, ``[q, D]``.
        orders: for each step the directions that it moves along.
        eps: the radius.
        rate: the learning rate.
    """

    def slope(x: Array, z: Array, batch: Array) -> float:
        return (loss(x + eps * z, batch) - loss(x - eps * z, batch)) / (2 * eps)

    num_anchor = len(batches) - len(orders)
    anchor = theta.copy()
    at_anchor = [
        np.mean([slope(anchor, z, batch) for batch in batches[:num_anchor]])
        for z in pool
    ]
    for batch, order in zip(batches[num_anchor:], orders, strict=True):
        step = np.zeros_like(theta)
        for i in order:
            p = slope(theta, pool[i], batch) - slope(anchor, pool[i], batch)
            step += (p + at_anchor[i]) * pool[i] / len(order)
        theta = theta - rate * step
    return theta


def qzo_step(
    scales: Array,
    z: Array,
    losses: tuple[float, float],
    eps: float,
    rate: float,
    clip: float,
    min_scale: float,
) -> Array:
    """Shang et al. (2025), algorithm 1, scale by scale; positive scales."""
    d = (losses[0] - losses[1]) / (2 * eps)
    d = min(max(d, -clip), clip)
    moved = [s - rate * d * u for s, u in zip(scales, z, strict=True)]
    return np.array([max(s, min_scale) for s in moved])


@dataclass
class QES:
    """Xu, Miikkulainen, Qiu (2026), arXiv 2602.03120, code by code.

    Attributes:
        rate: the learning rate.
        decay: of the residual.
        most: the largest code.
        window: generations that are replayed; None to keep the residual.
    """

    rate: float
    decay: float
    most: int
    window: int | None
    residual: Array | None = None
    seen: list[tuple[float, Array, Array]] = field(default_factory=list)

    @staticmethod
    def rounded(z: Array, uniform: Array, sigma: float) -> Array:
        """Rounds ``sigma z`` up or down, by uniform numbers."""
        found = np.zeros(len(z), int)
        for i, (value, u) in enumerate(zip(sigma * z, uniform, strict=True)):
            low = math.floor(value)
            found[i] = low + (u < value - low)
        return found

    def inside(self, code: int, step: int) -> int:
        """Leaves a step out that would leave the range."""
        return step if 0 <= code + step <= self.most else 0

    def candidate(self, codes: Array, delta: Array, sign: int) -> Array:
        """The codes of one member."""
        steps = [self.inside(c, sign * d) for c, d in zip(codes, delta, strict=True)]
        return codes + np.array(steps)

    def step(
        self, codes: Array, sigma: float, deltas: Array, fitness: Array
    ) -> tuple[Array, int]:
        """Returns the codes after a generation, and how many the range kept.

        Args:
            codes: ``[D]``.
            sigma: of the perturbations.
            deltas: those of the pairs, ``[q, D]``.
            fitness: of the rows, ``[2 q]``, lower is better.
        """
        score = (np.mean(fitness) - fitness) / np.std(fitness)
        self.seen.append((sigma, deltas, score))
        history = self.seen[-1:]
        e = np.zeros(len(codes)) if self.residual is None else self.residual
        if self.window is not None:
            e, history = np.zeros(len(codes)), self.seen[-self.window - 1 :]
        moves, blocked = np.zeros(len(codes), int), 0
        for sigma_k, deltas_k, score_k in history:
            blocked = 0
            for i, code in enumerate(codes):
                g = 0.0
                for p, s in enumerate(score_k):
                    step = (1 if p % 2 == 0 else -1) * int(deltas_k[p // 2, i])
                    g += s * self.inside(code, step)
                u = self.rate / (len(score_k) * sigma_k) * g + self.decay * e[i]
                wanted = int(np.rint(u))
                moves[i] = self.inside(code, wanted)
                blocked += moves[i] != wanted
                e[i] = min(max(u - moves[i], -0.5), 0.5)
        self.residual = e
        return codes + moves, blocked


def dequantized(
    codes: Array, scales: Array, group_size: int, zero: float = 0.0
) -> Array:
    """Weight by weight: scale of its group times its code, a row at a time."""
    found = np.empty(codes.shape)
    for row in range(codes.shape[0]):
        for column in range(codes.shape[1]):
            scale = scales[row, column // group_size]
            found[row, column] = scale * (codes[row, column] - zero)
    return found


def spsa_gains(
    step: int, a: float, c: float, stability: float, alpha: float, gamma: float
) -> tuple[float, float]:
    """Spall (1998), section III: the gains of step ``k = 0, 1, ...``."""
    return a / (stability + step + 1) ** alpha, c / (step + 1) ** gamma


def fzoo_step(
    theta: Array, u: Array, center: float, losses: Array, rate: float
) -> Array:
    """FZOO (arXiv 2506.09034) with its learning rate over eps.

    Args:
        theta: the weights, ``[D]``.
        u: the directions, ``[N, D]``.
        center: the loss at ``theta``.
        losses: at ``theta + eps u_i``, ``[N]``.
        rate: the learning rate.
    """
    n = len(losses)
    mean = sum(losses) / n
    std = (sum((loss - mean) ** 2 for loss in losses) / (n - 1)) ** 0.5
    g = np.zeros_like(theta)
    for i in range(n):
        g += (losses[i] - center) * u[i] / n
    return theta - rate * g / std


def hizoo_step(
    theta: Array,
    h: Array,
    z: Array,
    losses: tuple[float, float, float],
    eps: float,
    rate: float,
    share: float,
) -> tuple[Array, Array]:
    """Zhao et al. (2024), arXiv 2402.15173, algorithm 1, with matrices in full.

    Args:
        theta: the weights, ``[D]``.
        h: the diagonal of ``Sigma^(-1)``.
        z: standard normal, ``[D]``.
        losses: at ``theta`` and at ``theta +- eps Sigma^(1/2) z``; NaN for an
            invalid one, without which the slope is that of the two others.
        eps: the radius.
        rate: the learning rate.
        share: of the new estimate in the average.
    """
    middle, plus, minus = losses
    root = np.diag(np.sqrt(h))  # Sigma^(-1/2)
    second = (plus + minus - 2 * middle) / (2 * eps**2)
    estimate = np.abs(np.diag(second * root @ np.outer(z, z) @ root))
    if np.all(np.isfinite(losses)):
        h = (1 - share) * h + share * estimate
    places = [(1, plus), (0, middle), (-1, minus)]
    (first, high), *_, (last, low) = [p for p in places if np.isfinite(p[1])]
    projected = (high - low) / ((first - last) * eps)
    return theta - rate * projected * np.diag(1 / np.sqrt(h)) @ z, h


@dataclass
class Restarts:
    """The schedule of IPOP and BIPOP (Hansen 2009, section 2), which draws nothing.

    What a small run draws is told, and is checked against what it may be.
    """

    first: int
    sigma: float
    bipop: bool
    size: int = 0
    doublings: int = 0
    is_small: bool = True  # so is the first run counted
    spent_large: int = 0
    spent_small: int = 0
    left: float = math.inf

    def __post_init__(self) -> None:
        self.size = self.first

    def tell(self, used: int, ended: bool, size: int, sigma: float) -> None:
        """Takes a step in; ``size`` and ``sigma`` are those of the next."""
        if self.is_small:
            self.spent_small += used
        else:
            self.spent_large += used
        self.left -= used
        assert ended or self.left > 0
        if ended:
            self._restart(size, sigma)
        assert size == self.size

    def _restart(self, size: int, sigma: float) -> None:
        self.is_small = self.bipop and self.spent_small < self.spent_large
        self.left, self.size = math.inf, size
        if self.is_small:
            self.left = self.spent_large / 2
            most = self.first * 2**self.doublings / 2
            assert self.first <= size <= max(most, self.first)
            assert self.sigma / 100 <= sigma <= self.sigma
        else:
            self.doublings += 1
            self.size = self.first * 2**self.doublings
            assert sigma == self.sigma


@dataclass
class CMAES:
    """Hansen, "The CMA evolution strategy: a tutorial", arXiv 1604.00772, figure 6.

    The strategy parameters are arguments (the tutorial's table 1 gives defaults). The
    root of C is renewed every ``gap`` steps, and the candidates are made with it. Any
    root will do, ``C^{1/2} = root Q`` with a rotation Q; this is the triangular one.
    ``path_sigma`` is in its coordinates. When it changes, they turn, and the path with
    them, by the linear part of the rotation.
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
            # the mean of a vector's image and a gradient's: root p and C root^-T p
            image = self.root @ self.path_sigma
            image = image + self.covariance @ self.inverse_root.T @ self.path_sigma
            self.root = np.linalg.cholesky(self.covariance)
            self.inverse_root = np.linalg.inv(self.root)
            turned = self.inverse_root @ image
            self.path_sigma = turned * length / math.sqrt(sum(v**2 for v in turned))


class SepCMAES:
    """Ros & Hansen (2008), coordinate by coordinate, with negative weights, too."""

    def __init__(self, mean: Array, sigma: float, weights: Array, rates: Array) -> None:
        n = len(mean)
        self.mean, self.sigma, self.weights = mean.copy(), sigma, weights
        self.rates = rates  # c_sigma, d_sigma, c_c, c_1, c_mu
        self.variances, self.step = np.ones(n), 0
        self.path_sigma, self.path_c = np.zeros(n), np.zeros(n)

    def candidates(self, z: Array) -> Array:
        """Returns ``m + sigma c^{1/2} z``, ``[P, D]``."""
        return np.array([self.mean + self.sigma * self.variances**0.5 * r for r in z])

    def tell(self, z: Array, fitness: Array) -> None:
        """Updates; smaller is better."""
        n, (c_s, d_s, c_c, c_1, c_mu) = len(self.mean), self.rates
        z = z[np.argsort(fitness, kind="stable")]
        best = [(w, row) for w, row in zip(self.weights, z, strict=True) if w > 0]
        mu_eff = sum(w for w, _ in best) ** 2 / sum(w**2 for w, _ in best)
        z_w = sum(w * row for w, row in best)
        y_w = z_w * self.variances**0.5
        self.mean = self.mean + self.sigma * y_w
        pull = math.sqrt(c_s * (2 - c_s) * mu_eff)
        self.path_sigma = (1 - c_s) * self.path_sigma + pull * z_w
        length = math.sqrt(sum(self.path_sigma**2))
        chi = math.sqrt(n) * (1 - 1 / (4 * n) + 1 / (21 * n**2))
        self.sigma *= math.exp(c_s / d_s * (length / chi - 1))
        self.step += 1
        bias = math.sqrt(1 - (1 - c_s) ** (2 * self.step))
        h = float(length / bias < (1.4 + 2 / (n + 1)) * chi)
        pull = h * math.sqrt(c_c * (2 - c_c) * mu_eff)
        self.path_c = (1 - c_c) * self.path_c + pull * y_w
        for j in range(n):
            old, change = self.variances[j], c_1 * self.path_c[j] ** 2
            change += c_1 * ((1 - h) * c_c * (2 - c_c) - 1) * old
            for w, row in zip(self.weights, z, strict=True):
                scaled = w * n / sum(row**2) if w < 0 else w
                change += c_mu * (scaled * old * row[j] ** 2 - w * old)
            self.variances[j] = old + change


class DifferentialEvolution:
    """Storn & Price (1997), generation by generation, from uniform draws.

    Args:
        start: the first generation, ``[P, D]``.
        strategy: ``"best1bin"`` or ``"rand1bin"``.
        rate: the crossover rate.
    """

    def __init__(self, start: Array, strategy: str, rate: float) -> None:
        self.x, self.strategy, self.rate = start.copy(), strategy, rate
        self.fitness = np.full(len(start), np.inf)

    def candidates(
        self, coins: Array, picks: Array, fill: Array, factor: float
    ) -> Array:
        """Returns the trial vectors.

        Args:
            coins: ``[P, D]``, below the rate where a coordinate is crossed.
            picks: ``[P, 3]``, which of the rows that are left: first, second, base.
            fill: ``[P]``, which coordinate is crossed in any case.
            factor: ``F``.
        """
        size, dimension = self.x.shape
        best = min(range(size), key=lambda p: self.fitness[p])
        trials = self.x.copy()
        for p in range(size):
            others = [(p + i) % size for i in range(1, size)]
            q, r, base = (others.pop(int(u * len(others))) for u in picks[p])
            base = best if self.strategy == "best1bin" else base
            for j in range(dimension):
                if coins[p, j] < self.rate or j == int(fill[p] * dimension):
                    trials[p, j] = self.x[base, j] + factor * (
                        self.x[q, j] - self.x[r, j]
                    )
        return trials

    def tell(self, trials: Array, fitness: Array) -> None:
        """Selects, member by member; NaN is a failure."""
        for p, value in enumerate(fitness):
            if value <= self.fitness[p]:
                self.x[p], self.fitness[p] = trials[p], value


class ParticleSwarm:
    """Clerc & Kennedy (2002) with the factors ``w, c_1, c_2``, particle by particle."""

    def __init__(self, start: Array, factors: tuple[float, float, float]) -> None:
        self.x, self.v = start.copy(), np.zeros_like(start)
        self.w, self.c_1, self.c_2 = factors
        self.best = start.copy()
        self.best_fitness = np.full(len(start), np.inf)

    def move(self, first: Array, second: Array) -> None:
        """Moves the swarm; the arguments are uniform draws, ``[P, D]`` each."""
        leader = self.best[int(np.argmin(self.best_fitness))].copy()
        for p, j in np.ndindex(*self.x.shape):
            x = self.x[p, j]
            self.v[p, j] = (
                self.w * self.v[p, j]
                + self.c_1 * first[p, j] * (self.best[p, j] - x)
                + self.c_2 * second[p, j] * (leader[j] - x)
            )
            self.x[p, j] = x + self.v[p, j]

    def tell(self, fitness: Array) -> None:
        """Updates what the particles have seen; NaN is a failure."""
        for p, value in enumerate(fitness):
            if value < self.best_fitness[p]:
                self.best[p], self.best_fitness[p] = self.x[p], value
            elif np.isinf(self.best_fitness[p]):
                self.best[p] = self.x[p]


class CrossEntropy:
    """de Boer et al. (2005), with smoothing and a floor of the deviations."""

    def __init__(self, mean: Array, sigma: float, num_elites: int) -> None:
        self.mean, self.std = mean.copy(), np.full(len(mean), sigma)
        self.num_elites = num_elites

    def candidates(self, z: Array) -> Array:
        """Returns the samples, ``[P, D]``."""
        return np.array([self.mean + self.std * row for row in z])

    def tell(
        self, x: Array, fitness: Array, rate: float, std_rate: float, floor: float
    ) -> None:
        """Fits the Gaussian to the elites."""
        elites = x[np.argsort(fitness, kind="stable")[: self.num_elites]]
        self.mean = rate * elites.mean(axis=0) + (1 - rate) * self.mean
        std = std_rate * elites.std(axis=0) + (1 - std_rate) * self.std
        self.std = np.maximum(std, floor)


class OnePlusOneES:
    """Hansen, Arnold & Auger (2015): the (1+1)-ES with the 1/5 success rule."""

    def __init__(self, x: Array, fitness: float, sigma: float, damping: float) -> None:
        self.x, self.fitness = x.copy(), fitness
        self.sigma, self.damping = sigma, damping

    def tell(self, x: Array, fitness: float) -> None:
        """Takes a candidate's value in; NaN is a failure, which changes nothing."""
        if np.isnan(fitness):
            return
        if fitness <= self.fitness:
            self.x, self.fitness = x, fitness
            self.sigma *= math.exp(0.8 / self.damping)
        else:
            self.sigma *= math.exp(-0.2 / self.damping)


def nes_utilities(fitness: Array) -> Array:
    """Wierstra et al. (2014), section 3.1; NaN is last, and equal values share."""
    if np.all(np.isnan(fitness)):
        return np.zeros(len(fitness))
    fitness = np.where(np.isnan(fitness), np.inf, fitness)
    count = len(fitness)
    raw = [max(0.0, math.log(count / 2 + 1) - math.log(k + 1)) for k in range(count)]
    by_rank = [value / sum(raw) - 1 / count for value in raw]
    utilities = np.zeros(count)
    for p in range(count):
        better, equal = sum(fitness < fitness[p]), sum(fitness == fitness[p])
        utilities[p] = sum(by_rank[better : better + equal]) / equal
    return utilities


class SNES:
    """Wierstra et al. (2014), JMLR 15, algorithm 6, coordinate by coordinate."""

    def __init__(self, mean: Array, sigma: float) -> None:
        self.mean, self.std = mean.copy(), np.full(len(mean), sigma)

    def candidates(self, z: Array) -> Array:
        """Returns ``m + s z``, ``[P, D]``."""
        return np.array([self.mean + self.std * row for row in z])

    def tell(self, z: Array, fitness: Array) -> None:
        """Updates with the defaults ``eta_m = 1``, ``(3 + ln D) / (5 sqrt(D))``."""
        n, utilities = len(self.mean), nes_utilities(fitness)
        rate = (3 + math.log(n)) / (5 * math.sqrt(n))
        for j in range(n):
            shift = sum(u * row[j] for u, row in zip(utilities, z, strict=True))
            width = sum(
                u * (row[j] ** 2 - 1) for u, row in zip(utilities, z, strict=True)
            )
            self.mean[j] += self.std[j] * shift
            self.std[j] *= math.exp(rate / 2 * width)


def quadratic_fit(
    points: Array, fitness: Array, root: Array
) -> tuple[Callable[[Array], Array], int]:
    """Hansen, "A global surrogate assisted CMA-ES" (2019): the model, by ``lstsq``.

    Returns:
        The model as a function of points ``[N, D]``, and its number of coefficients.
    """
    count, n = points.shape
    full = (n + 1) * (n + 2) // 2
    size = next(s for s in (full, 2 * n + 1, 0) if 0.75 * count >= 1.1 * s) or n + 1
    used = min(max(size + 2, int(0.75 * (count + 1))), count)
    best = np.argsort(fitness)[:used]
    center = points[best[0]]

    def table(x: Array) -> Array:
        rows = []
        for u in np.linalg.solve(root, (x - center).T).T:
            row = [1.0, *u]
            if size > n + 1:
                row += [v * v for v in u]
            if size > 2 * n + 1:
                row += [u[i] * u[j] for i in range(n) for j in range(i + 1, n)]
            rows.append(row)
        return np.array(rows)

    weights = np.linspace(20, 1, used)
    found, *_ = np.linalg.lstsq(
        weights[:, None] * table(points[best]), weights * fitness[best], rcond=None
    )
    return lambda x: table(x) @ found, size


class XNES:
    """Wierstra et al. (2014), JMLR 15, algorithm 5, candidate by candidate."""

    def __init__(self, mean: Array, sigma: float) -> None:
        self.mean, self.sigma, self.shape = mean.copy(), sigma, np.eye(len(mean))

    def candidates(self, z: Array) -> Array:
        """Returns ``m + sigma B z``, ``[P, D]``."""
        return np.array([self.mean + self.sigma * self.shape @ row for row in z])

    def tell(self, z: Array, fitness: Array) -> None:
        """Updates with the defaults ``eta_m = 1``, ``(9 + 3 ln D) / (5 D sqrt(D))``."""
        n, utilities = len(self.mean), nes_utilities(fitness)
        rate = (9 + 3 * math.log(n)) / (5 * n * math.sqrt(n))
        shift, full = np.zeros(n), np.zeros((n, n))
        for u, row in zip(utilities, z, strict=True):
            shift += u * row
            full += u * (np.outer(row, row) - np.eye(n))
        size = np.trace(full) / n
        self.mean = self.mean + self.sigma * self.shape @ shift
        self.sigma *= math.exp(rate / 2 * size)
        exponent = rate / 2 * (full - size * np.eye(n))
        self.shape = self.shape @ scipy.linalg.expm(exponent)


class CRFMNES:
    """Nomura & Ono (2022), arXiv 2201.11422, candidate by candidate.

    The natural gradient is not the closed form: it solves with the Fisher matrix of
    VD-CMA, interpolated as there, which is written out in full.
    """

    def __init__(self, mean: Array, sigma: float, direction: Array, size: int) -> None:
        n = len(mean)
        self.mean, self.sigma, self.size = mean.copy(), sigma, size
        self.d, self.v = np.ones(n), direction.copy()
        self.p_s, self.p_c = np.zeros(n), np.zeros(n)
        logs = [math.log(size / 2 + 1) - math.log(k + 1) for k in range(size)]
        self.raw = [max(0.0, value) for value in logs]
        self.mu_eff = sum(self.raw) ** 2 / sum(value**2 for value in self.raw)
        low, high = 0.0, 10.0
        for _ in range(200):
            h = (low + high) / 2
            above = (1 + h * h) * math.exp(h * h / 2) / 0.24 > 10 + n
            low, high = (low, h) if above else (h, high)
        self.h = h

    def stretched(self, z: Array) -> Array:
        """``y = z + (sqrt(1 + |v|^2) - 1) (z . vbar) vbar``."""
        norm = math.sqrt(self.v @ self.v)
        unit = self.v / norm
        return z + (math.sqrt(1 + norm**2) - 1) * (z @ unit) * unit

    def candidates(self, z: Array) -> Array:
        """Returns ``m + sigma d y``, ``[P, D]``."""
        return np.array(
            [self.mean + self.sigma * self.d * self.stretched(r) for r in z]
        )

    def tell(self, z: Array, fitness: Array) -> None:
        """Updates; NaN is a failure, and values that are all equal say nothing.

        Up to a third that failed are left out, more of them rank last.
        """
        failed = np.isnan(fitness)
        if 3 * failed.sum() <= self.size:
            z, fitness = z[~failed], fitness[~failed]
        if np.all(fitness == fitness[0]):
            return
        n, lam, mu = len(self.mean), self.size, self.mu_eff
        utilities = nes_utilities(fitness)
        count = len(fitness)
        c_s = (mu + 2) / (n + mu + 5)
        c_c = (4 + mu / n) / (n + 4 + 2 * mu / n)
        chi = math.sqrt(n) * (1 - 1 / (4 * n) + 1 / (21 * n**2))
        pull = math.sqrt(c_s * (2 - c_s) * mu)
        self.p_s = (1 - c_s) * self.p_s + pull * (utilities @ z)
        length = math.sqrt(self.p_s @ self.p_s)
        weights = utilities
        if length >= chi:
            alpha = self.h * min(1, math.sqrt(lam / n)) * math.sqrt(count / lam)
            hat = [
                (u + 1 / count) * math.exp(alpha * math.sqrt(r @ r))
                for u, r in zip(utilities, z, strict=True)
            ]
            weights = np.array(hat) / sum(hat) - 1 / count
            rate = 1.0
        elif length >= 0.1 * chi:
            rate = math.tanh((0.024 * count + 0.7 * n + 20) / (n + 12))
        else:
            rate = 2 * math.tanh((0.025 * count + 0.75 * n + 10) / (n + 4))
        y = [self.stretched(row) for row in z]
        shift = sum(w * self.d * row for w, row in zip(weights, y, strict=True))
        pull = math.sqrt(c_c * (2 - c_c) * mu)
        self.p_c = (1 - c_c) * self.p_c + pull * shift
        self.mean = self.mean + self.sigma * shift
        size = sum(w * (r @ r - n) for w, r in zip(weights, z, strict=True)) / n
        self.sigma *= math.exp(min(1, rate / 2 * size))

        rate = math.tanh((min(0.02 * count, 3 * math.log(n)) + 5) / (0.23 * n + 25))
        c_1 = 2 / ((n + 1.3) ** 2 + mu) * max(0, n - 5) / 6 * count / lam
        steps = [*zip(rate * weights, y, strict=True), (c_1, self.p_c / self.d)]
        parts = [(w, *self.natural(row)) for w, row in steps]
        along_d = sum(w * d for w, d, _ in parts)
        along_v = sum(w * v for w, _, v in parts)
        share = math.sqrt((along_v @ along_v) / (self.v @ self.v))
        part = 0.7 / max(0.7, share, max(abs(along_d)))
        self.v = self.v + part * along_v
        self.d = self.d * (1 + part * along_d)
        shape = np.diag(self.d**2) + np.outer(self.d * self.v, self.d * self.v)
        self.d = self.d * math.exp(-np.linalg.slogdet(shape)[1] / (2 * n))

    def natural(self, y: Array) -> tuple[Array, Array]:
        """The natural gradient at one point, by ``log d`` and ``v``."""
        n, square = len(y), self.v @ self.v
        unit, gamma = self.v / math.sqrt(square), 1 + square
        top = square**2 + (2 * gamma - math.sqrt(gamma)) / max(unit**2)
        a = min(1, math.sqrt(top) / (2 + square))
        # the equation is F (s, t) = (s_1, t_1) with these blocks
        b = -(1 - a**2) * square**2 / gamma + 2 * a**2
        along = y @ unit
        s = y**2 - square / gamma * along * unit * y - 1
        t = along * y - unit * (along**2 + gamma) / 2
        cross = np.diag((2 + square) * unit) - square * np.outer(unit**2, unit)
        s = s - a / gamma * cross @ t
        schur = np.diag(2 - (b + 2 * a**2) * unit**2) + b * np.outer(unit**2, unit**2)
        s = np.linalg.solve(schur, s)
        t = t - a * (np.diag((2 + square) * unit) - np.outer(unit, unit**2)) @ s
        assert s.shape == t.shape == (n,)
        return s, t / math.sqrt(square)


def margin(m, s, low, high, alpha):
    """CMA-ES with margin for one integer coordinate: mean and standard deviation."""
    from scipy.stats import chi2, norm

    ends = np.arange(low, high) + 0.5
    near = ends[np.argmin(np.abs(m - ends))]
    if m <= ends[0] or m > ends[-1]:
        reach = np.sqrt(chi2.ppf(1 - 2 * alpha, 1)) * s
        return near + np.sign(m - near) * min(abs(m - near), reach), s
    lower, upper = ends[ends < m].max(), ends[ends >= m].min()
    p_low = max(alpha / 2, norm.cdf(lower, m, s))
    p_high = max(alpha / 2, norm.sf(upper, m, s))
    q_low, q_high = (np.sqrt(chi2.ppf(1 - 2 * p, 1)) for p in (p_low, p_high))
    std = (upper - lower) / (q_low + q_high)
    return (lower * q_high + upper * q_low) / (q_low + q_high), std


class Lagrangian:
    """The augmented Lagrangian's coefficients, constraint by constraint."""

    def __init__(self, dimension, num_constraints):
        self.n = dimension
        self.gamma, self.omega = np.zeros(num_constraints), np.zeros(num_constraints)
        self.f, self.g = 0.0, np.zeros(num_constraints)

    def penalty(self, g):
        total = 0.0
        for gk, c, w in zip(g, self.gamma, self.omega, strict=True):
            if w > 0 and c + w * gk >= 0:
                total += c * gk + w * gk**2 / 2
            elif w > 0:
                total -= c**2 / (2 * w)
        return total

    def tell(self, f, g, size):
        def spread(v):
            return np.quantile(v, 0.75) - np.quantile(v, 0.25)

        is_new = np.zeros(len(self.omega), bool)
        for k in range(len(self.omega)):
            if self.omega[k] == 0 and np.mean(g[:, k] > 0) > 0.1:
                is_new[k] = True
                self.gamma[k] = spread(f) / (self.n * spread(g[:, k]))
                self.omega[k] = 0.4 * self.gamma[k]
        h = np.array([fi + self.penalty(gi) for fi, gi in zip(f, g, strict=True)])
        order = np.argsort(h)
        weights = np.maximum(
            np.log((size + 1) / 2) - np.log(np.arange(1, len(f) + 1)), 0
        )
        weights /= weights.sum()
        f_m, g_m = weights @ f[order], weights @ g[order]
        change = abs(f_m + self.penalty(g_m) - self.f - self.penalty(self.g))
        gamma, omega = self.gamma.copy(), self.omega.copy()
        for k in range(len(omega)):
            weak = self.omega[k] * g_m[k] ** 2 < 3 * change / self.n
            weak |= 5 * abs(g_m[k] - self.g[k]) < abs(g_m[k])
            if not is_new[k] and self.gamma[k] + self.omega[k] * g_m[k] > 0:
                omega[k] *= 1.15**0.25 if weak else 1 / 1.15
            gamma[k] = max(0, self.gamma[k] + self.omega[k] * g_m[k] / 5)
        self.gamma, self.omega, self.f, self.g = gamma, omega, f_m, g_m


def deep_ga(
    noise: Callable[[int], np.ndarray],
    fun: Callable[[np.ndarray], float],
    x0: np.ndarray,
    asked: list[tuple[np.ndarray, np.ndarray]],
    sigma: float,
    num_parents: int,
) -> list[tuple[np.ndarray, float]]:
    """Such et al. (2017), algorithm 1, on dense solutions without second evaluations.

    Args:
        noise: the draw of a seed.
        fun: the objective.
        x0: starting solution; the parent of the first generation.
        asked: parents and seeds of each generation.
        sigma: of every mutation.
        num_parents: ``T``.

    Returns:
        The elite and its fitness after each generation.
    """
    parents, scores = [x0], [np.inf]
    found = []
    for slots, seeds in asked:
        children = [
            parents[slot] + sigma * noise(seed)
            for slot, seed in zip(slots, seeds, strict=True)
        ]
        values = [fun(child) for child in children]
        order = sorted(range(len(children)), key=lambda i: values[i])
        if values[order[0]] < scores[0]:
            elite, score, rest = children[order[0]], values[order[0]], order[1:]
        else:
            elite, score, rest = parents[0], scores[0], order
        kept = rest[: num_parents - 1]
        parents = [elite] + [children[i] for i in kept]
        scores = [score] + [values[i] for i in kept]
        found.append((elite, score))
    return found


@dataclass
class NoveltyAgents:
    """Conti et al. (2018), arXiv 1712.06560, algorithms 1 to 3, all agents at once.

    Each agent follows Salimans et al.'s estimate of the gradient of a mixed rank, with
    plain steps. ``theta`` is ``[M, D]``.
    """

    theta: Array
    sigma: float
    rate: float
    neighbours: int
    places: int
    weight: float
    change: float
    patience: int
    archive: list[Array] = field(default_factory=list)
    best_mean: float = math.inf
    barren: int = 0

    def novelty(self, behaviour: Array) -> float:
        distances = sorted(math.dist(behaviour, other) for other in self.archive)
        near = distances[: self.neighbours]
        return sum(near) / len(near)

    def step(
        self,
        noise: Array,  # [M, P, D], signs included
        fitness: Array,  # [M, P]
        behaviours: Array,  # [M, P, K]
        mean_fitness: Array,  # [M]
        mean_behaviours: Array,  # [M, K]
    ) -> None:
        self.archive += list(mean_behaviours)
        self.archive = self.archive[-self.places :]
        if min(mean_fitness) < self.best_mean:
            self.best_mean, self.barren = min(mean_fitness), 0
            self.weight = min(1.0, self.weight + self.change)
        else:
            self.barren += 1
            if self.barren >= self.patience:
                self.weight, self.barren = max(0.0, self.weight - self.change), 0
        for agent, theta in enumerate(self.theta):
            rare = np.array([self.novelty(b) for b in behaviours[agent]])
            mixed = (1 - self.weight) * centered_ranks(-rare)
            mixed = mixed + self.weight * centered_ranks(fitness[agent])
            utility = centered_ranks(-mixed)
            step = utility @ noise[agent] / (len(utility) * self.sigma)
            self.theta[agent] = theta + self.rate * step


@dataclass
class CategoricalTokens:
    """Akimoto et al. (2019), arXiv 1905.08537, algorithm 1; PBIL with a rate.

    The length of a gradient is that by the Fisher matrix of K - 1 free probabilities.
    """

    theta: list[Array]  # for each position [K]
    rate: float | None = None
    delta: float = 1.0
    gamma: float = 0.0
    path: Array | None = None

    def step(self, tokens: Array, fitness: Array) -> None:
        utility = self.utilities(fitness)
        if not utility.any():
            return
        gradients, whitened, square = [], [], 0.0
        for place, theta in enumerate(self.theta):
            gradient = np.zeros_like(theta)
            for u, token in zip(utility, tokens[:, place], strict=True):
                gradient += u * ((np.arange(theta.size) == token) - theta)
            gradients.append(gradient)
            fisher = np.diag(1 / theta[:-1]) + 1 / theta[-1]
            square += gradient[:-1] @ fisher @ gradient[:-1]
            whitened.append(gradient / np.sqrt(theta))
        flat, norm = np.concatenate(whitened), math.sqrt(square)
        length = self.rate if self.rate is not None else self.delta / norm
        if self.rate is None:
            beta = self.delta / math.sqrt(flat.size - len(self.theta))
            before = np.zeros_like(flat) if self.path is None else self.path
            self.path = (1 - beta) * before
            self.path += math.sqrt(beta * (2 - beta)) * flat / norm
            self.gamma = (1 - beta) ** 2 * self.gamma + beta * (2 - beta)
            self.delta /= math.exp(beta * (self.gamma - self.path @ self.path / 1.5))
        for place, gradient in enumerate(gradients):
            self.theta[place] = self.restricted(self.theta[place] + length * gradient)

    def restricted(self, theta: Array) -> Array:
        least = 1 / (len(self.theta) * (theta.size - 1))
        theta = np.maximum(theta, least)
        excess = (theta.sum() - 1) / (theta.sum() - theta.size * least)
        return theta - excess * (theta - least)

    @staticmethod
    def utilities(fitness: Array) -> Array:
        valid = np.isfinite(fitness)
        mu = math.ceil(valid.sum() / 4)
        ranked = np.zeros(valid.sum())
        ranked[:mu] += 1 / mu
        ranked[ranked.size - mu :] -= 1 / mu
        order = np.sort(fitness[valid])
        return np.array(
            [ranked[order == f].mean() if np.isfinite(f) else 0.0 for f in fitness]
        )


@dataclass
class GridArchive:
    """Mouret & Clune (2015) and, with a rate, the soft archive of CMA-MAE.

    Fontaine & Nikolaidis (2023), arXiv 2205.10752, algorithm 1, in batches.
    """

    lower: Array
    upper: Array
    shape: tuple[int, ...]
    rate: float | None = None
    worst: float = math.inf
    elites: dict[tuple[int, ...], tuple[float, Array]] = field(default_factory=dict)
    thresholds: dict[tuple[int, ...], float] = field(default_factory=dict)

    def cell(self, behaviour: Array) -> tuple[int, ...]:
        share = (behaviour - self.lower) / (self.upper - self.lower)
        return tuple(
            min(max(math.floor(s * n), 0), n - 1)
            for s, n in zip(share, self.shape, strict=True)
        )

    def add(
        self, x: Array, fitness: Array, behaviours: Array
    ) -> tuple[list[tuple[float, ...] | None], set[int]]:
        """Adds a batch.

        Returns:
            What each row is ranked by, None for a failure, and the rows that entered.
        """
        entered: dict[tuple[int, ...], list[int]] = {}
        keys: list[tuple[float, ...] | None] = []
        for row, (f, b) in enumerate(zip(fitness, behaviours, strict=True)):
            if not (np.isfinite(f) and np.all(np.isfinite(b))):
                keys.append(None)
                continue
            cell = self.cell(b)
            threshold = self.thresholds.get(cell, self.worst)
            status = 2
            if f < threshold:
                entered.setdefault(cell, []).append(row)
                status = 1 if cell in self.elites else 0
            value = (threshold if math.isfinite(threshold) else 0) - f
            keys.append((status, -value) if self.rate is None else (-value,))
        for cell, rows in entered.items():
            best = min(rows, key=lambda row: fitness[row])
            if cell not in self.elites or fitness[best] < self.elites[cell][0]:
                self.elites[cell] = fitness[best], x[best]
            if self.rate is None:
                self.thresholds[cell] = self.elites[cell][0]
            else:
                kept = (1 - self.rate) ** len(rows)
                mean = sum(fitness[row] for row in rows) / len(rows)
                before = self.thresholds.get(cell, self.worst)
                self.thresholds[cell] = kept * before + (1 - kept) * mean
        return keys, {row for rows in entered.values() for row in rows}


def consensus(x: Array, fitness: Array, alpha: float) -> Array:
    """Pinnau et al. (2017): the mean with weights exp(-alpha f); NaN is a failure."""
    valid = np.isfinite(fitness)
    weights = np.exp(-alpha * (fitness[valid] - fitness[valid].min()))
    return (weights[:, None] * x[valid]).sum(axis=0) / weights.sum()


class CBO:
    """Carrillo, Jin, Li, Zhu (2021), particle by particle, with a memory of the best.

    The memory is that of Grassi & Pareschi (2021), its step after that to the
    consensus, as CBXpy has it.
    """

    def __init__(
        self, x: Array, noise: str, has_memory: bool, **numbers: float
    ) -> None:
        self.x, self.y = x.copy(), x.copy()
        self.best = np.full(len(x), np.inf)
        self.noise, self.has_memory, self.numbers = noise, has_memory, numbers
        self.c = x.mean(axis=0)

    def tell(self, fitness: Array) -> None:
        """Finds the consensus."""
        if not self.has_memory:
            self.c = consensus(self.x, fitness, self.numbers["alpha"])
            return
        for i, value in enumerate(fitness):
            if value < self.best[i]:
                self.y[i], self.best[i] = self.x[i], value
            elif np.isinf(self.best[i]):
                self.y[i] = self.x[i]
        self.c = consensus(self.y, self.best, self.numbers["alpha"])

    def move(self, z: Array, z_memory: Array | None = None) -> None:
        """Moves every particle by one Euler-Maruyama step."""
        n = self.numbers
        for i in range(len(self.x)):
            self.x[i] = self._step(i, self.c, z[i], n["drift"], n["diffusion"])
            if self.has_memory:
                strength = n["memory_drift"], n["memory_diffusion"]
                self.x[i] = self._step(i, self.y[i], z_memory[i], *strength)

    def _step(
        self, i: int, to: Array, z: Array, drift: float, diffusion: float
    ) -> Array:
        distance, dt = self.x[i] - to, self.numbers["dt"]
        size = distance
        if self.noise == "isotropic":
            size = np.linalg.norm(distance)
        size = np.clip(size, None, self.numbers.get("longest", np.inf))
        return self.x[i] - drift * dt * distance + diffusion * np.sqrt(dt) * size * z


def drawn_token(vocabulary: Array, u: float) -> int:
    """One of the tokens, each as likely."""
    return int(vocabulary[min(int(u * len(vocabulary)), len(vocabulary) - 1)])


def changed_token(vocabulary: Array, token: int, u: float) -> int:
    """One of the other tokens, each as likely."""
    others = [v for v in vocabulary if v != token]
    return int(others[min(int(u * len(others)), len(others) - 1)])


def greedy_tokens(
    fun: Callable[[Array], float], start: Array, vocabulary: Array, keeps_better: bool
) -> tuple[Array, list[float]]:
    """Zhou et al. (2023): the best token at each position; also every value there."""
    current, value, values = np.array(start), np.inf, []
    for k in range(len(start)):
        found = []
        for token in vocabulary:
            tried = current.copy()
            tried[k] = token
            found.append(fun(tried))
        values += found
        best = int(np.argmin(found))
        if found[best] < value or not keeps_better:
            current[k], value = vocabulary[best], found[best]
    return current, values


def genetic_children(
    parents: Array, vocabulary: Array, rates: Sequence[float], u: Array
) -> Array:
    """Children of known parents ``[T, L]``; one row of ``u`` for each child."""
    mutation, crossover, immigrants = rates
    length, children = parents.shape[1], []
    for row in u:
        few, coins, hits, draws = np.split(row, [5, 5 + length, 5 + 2 * length])
        a, b = (parents[min(int(x * len(parents)), len(parents) - 1)] for x in few[:2])
        child = []
        for k in range(length):
            if few[2] < crossover:
                child.append(a[k] if coins[k] < 0.5 else b[k])
            elif hits[k] < mutation:
                child.append(changed_token(vocabulary, a[k], draws[k]))
            else:
                child.append(a[k])
        if any(np.array_equal(child, parent) for parent in parents):
            k = min(int(few[3] * length), length - 1)
            child[k] = changed_token(vocabulary, child[k], few[4])
        if few[2] >= 1 - immigrants:
            child = [drawn_token(vocabulary, x) for x in draws]
        children.append(child)
    return np.array(children)


def genetic_parents(
    known: list[tuple[float, tuple[int, ...]]], count: int
) -> list[tuple[float, tuple[int, ...]]]:
    """The best of what is known, each sequence once."""
    found: list[tuple[float, tuple[int, ...]]] = []
    for fitness, tokens in sorted(known, key=lambda pair: pair[0]):
        if all(tokens != other for _, other in found) and np.isfinite(fitness):
            found.append((fitness, tokens))
    return found[:count]


def aging_child(
    ring: Sequence[tuple[float, tuple[int, ...]] | None],
    is_first: bool,
    competitors: int,
    rate: float,
    vocabulary: Array,
    u: Array,
) -> list[int]:
    """A child of Real et al.'s population; empty places of the ring are None."""
    length = (len(u) - len(ring) - 1) // 3
    ends = np.cumsum([len(ring), 1, length, length])
    lots, (place,), hits, draws, fresh = np.split(u, ends)
    if is_first:
        return [drawn_token(vocabulary, x) for x in fresh]
    living = sorted((-lots[i], one) for i, one in enumerate(ring) if one is not None)
    _, parent = min(one for _, one in living[:competitors])
    position = min(int(place * length), length - 1)
    return [
        changed_token(vocabulary, token, draws[k])
        if k == position or hits[k] < rate
        else token
        for k, token in enumerate(parent)
    ]


def token_particles(
    x: Array,
    v: Array,
    best: Array,
    leader: Array,
    w: float,
    rate: float,
    vocabulary: Array,
    u: Array,
) -> tuple[Array, Array]:
    """One move of Zhou et al.'s swarm; one row of ``u`` for each particle."""
    size, length = x.shape
    x, v = x.copy(), v.copy()
    for i in range(size):
        own, swarm, _, few = np.split(u[i], [length, 2 * length, 3 * length])
        old = x[i].copy()
        for k in range(length):
            e = [-3.0 if old[k] == goal[k] else 3.0 for goal in (best[i], leader)]
            v[i, k] = w * v[i, k] + (1 - w) * sum(e)
            odds = 1 / (1 + np.exp(-v[i, k]))
            if few[0] < w and own[k] < odds:
                x[i, k] = best[i, k]
            if few[1] < 1 - w and swarm[k] < odds:
                x[i, k] = leader[k]
        if few[3] < rate:
            k = min(int(few[2] * length), length - 1)
            x[i, k] = changed_token(vocabulary, x[i, k], few[4])
    return x, v


def beam_search(score, vocabulary_size, max_length, width, last_only=False):
    """Beam search over all next tokens; the best of all lengths first, or the beams."""
    beams, seen = [()], []
    for _ in range(max_length):
        children = [(*b, token) for b in beams for token in range(vocabulary_size)]
        rows = [[*c, *[-1] * (max_length - len(c))] for c in children]
        values = [float(score(np.array(row))) for row in rows]
        order = np.argsort(values, kind="stable")[:width]
        seen += [(values[i], rows[i]) for i in order]
        beams = [children[i] for i in order]
    if last_only:
        return [list(b) for b in beams]
    return [row for _, row in sorted(seen, key=lambda pair: pair[0])]


def coordinate_search(
    fun: Callable[[np.ndarray], float], x0: np.ndarray, sigma: float, budget: int
) -> np.ndarray:
    """Returns the points that a global search along coordinates evaluates, ``[N, D]``.

    Baudis and Posik (2015), with the deviations that its module names.
    """
    x, value = np.array(x0, float), fun(x0)
    asked = [x.copy()]
    lines = [[(place, 0.0)] for place in x]
    explored = np.zeros(x.size, int)
    steps = [[math.inf, math.inf] for _ in x]

    def refined(number: int) -> tuple[float, float]:
        line = sorted(lines[number])
        index = line.index((x[number], 0.0))
        if len(line) == 1:
            return line[0][0] + 0.5 * sigma, np.inf
        if index in (0, len(line) - 1):
            other = line[1 if index == 0 else -2][0]
            return x[number] + 2 * (x[number] - other), np.inf
        (left, p), (at, _), (right, q) = line[index - 1 : index + 2]
        a, c = at - left, right - at
        curvature = (p / a + q / c) / (a + c)
        slope = q / c - curvature * c
        if curvature <= 0:
            vertex, gain = -slope / 2, 0.0
        else:
            vertex, gain = -slope / (2 * curvature), slope**2 / (4 * curvature)
        least = min(a, c) / 1000
        if abs(vertex) < least:
            vertex = -least if vertex < 0 else least
        vertex = float(np.clip(vertex, -0.9 * a, 0.9 * c))
        if abs(vertex) > steps[number][-2] / 2:
            vertex = min(0.38 * max(a, c), math.sqrt(a * c)) * (1 if c > a else -1)
        return at + vertex, gain

    def widest(number: int) -> float:
        places, values = np.array(sorted(lines[number])).T
        goal = -0.01 * np.median(values) - np.finfo(float).tiny
        height = np.sqrt(values - goal)
        beyond = 0.75 * sigma
        options = [
            (height[0] / beyond, places[0] - beyond / 2),
            (height[-1] / beyond, places[-1] + beyond / 2),
        ]
        for k in range(len(places) - 1):
            rise = (height[k] + height[k + 1]) / (places[k + 1] - places[k])
            options.append((rise, (places[k] + places[k + 1]) / 2))
        return min(options, key=lambda option: option[0])[1]

    for turn in range(1, budget):
        found = [refined(number) for number in range(x.size)]
        gains = np.array([gain for _, gain in found])
        explores: bool | None = None
        least = max(8 * np.finfo(float).eps * abs(value), 1e-12)
        if np.isinf(gains).any():
            sizes = [len(line) for line in lines]
            number = min(np.flatnonzero(np.isinf(gains)), key=lambda i: sizes[i])
            place = found[number][0]
        elif explores := turn % 4 == 3 or not (gains > least).any():
            number = int(np.argmin(explored))
            explored[number] += 1
            place = widest(number)
        else:
            number = int(np.argmax(gains))
            place = found[number][0]
        point = x.copy()
        point[number] = place
        asked.append(point)
        change = fun(point) - value
        lines[number].append((place, change))
        if explores is False:
            steps[number].append(abs(place - x[number]))
        elif change < 0:
            steps[number] += [math.inf, math.inf]
        if change < 0:
            x, value = point, value + change
            lines[number] = [(t, h - change) for t, h in lines[number]]
    return np.array(asked)


# --- Bayesian optimization ------------------------------------------------------------


def gaussian_process(
    points: Array, values: Array, lengths: Array, noise: float, at: Array
) -> tuple[Array, Array, float]:
    """Returns mean, standard deviation and log posterior (Rasmussen and Williams).

    The prior of the mean has 1000 times the variance of the process; that of the
    variance is the inverse gamma distribution with 2 values of mean square 1.
    """

    def kernel(a: Array, b: Array) -> float:
        r = np.sqrt(5 * np.sum(((a - b) / lengths) ** 2))
        return (1 + r + r * r / 3) * np.exp(-r)

    n = len(points)
    k = np.array([[kernel(a, b) for b in points] for a in points]) + noise * np.eye(n)
    inverse, one = np.linalg.inv(k), np.ones(n)
    mean = one @ inverse @ values / (one @ inverse @ one + 1e-3)
    apart = values - mean
    square = apart @ inverse @ apart + 1e-3 * mean**2
    variance = (square + 2) / (n + 2)
    means, deviations = [], []
    for x in at:
        own = np.array([kernel(x, b) for b in points])
        means.append(mean + own @ inverse @ apart)
        deviations.append(np.sqrt(variance * (1 - own @ inverse @ own)))
    log_posterior = -0.5 * (n * np.log(variance) + np.linalg.slogdet(k)[1])
    log_posterior -= 0.5 * square / variance + np.log(variance) + 1 / variance
    return np.array(means), np.array(deviations), log_posterior
