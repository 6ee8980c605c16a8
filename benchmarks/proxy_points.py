"""Proxy points: how much of each reward is good for a policy, found while it trains.

A policy chooses one of 64 actions in each of 16 situations. Two reward models rate
actions; their errors have heavy tails, so that beyond some point, the proxy point, more
reward is worse. Training keeps both rewards at thresholds by Lagrange multipliers,

    A = (2 - mu_1 - mu_2) A_kl + mu_1 A_1 + mu_2 A_2,   mu_i = tanh(lambda_i),
    lambda_i <- lambda_i + rate (threshold_i - reward_i),

and an outer search moves the thresholds to the best score, in one run of training. One
evaluation is 40 steps of training from wherever the policy is, then a rating of 512
answers: it is noisy, and depends on what was tried before. In the second half of the
study the reward models drift by a quarter of the range in a run, so that the proxy
point moves. Claims, with bootstrap intervals over seeds, each with rewards of its own:

- too much reward hurts: the final true score of training on the sum of rewards, with
  the KL weight of 1/5 and of 1/20, beside training held at the proxy point;
- one run of 30 evaluations finds a proxy point: the final true score after searches,
  the last three evaluations of which train at the search's answer, beside training at
  thresholds that nobody tuned, the middle of the box;
- Nelder-Mead whose values age and whose simplex stays open, beside the paper's.

    python benchmarks/proxy_points.py  # 2 to 7 minutes

Source: Moskovitz et al. (ICLR 2024), arXiv 2310.04373, sections 4 and 5, for the
multipliers and the use of Nelder-Mead; the bandit is ours.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any, NamedTuple

import cma
import jax
import jax.numpy as jnp
import numpy as np
from common import parsed, save, show
from jax import lax

import gfopt
from gfopt.research.statistics import bootstrap_interval, paired_difference_interval

SITUATIONS, ACTIONS = 16, 64
BATCH, RATED = 128, 512  # answers of a step of training, of a rating
STEPS, EVALUATIONS, LAST = 40, 30, 3
POLICY_RATE, MULTIPLIER_RATE, LARGEST = 0.2, 0.1, 1.5
SHIFT = 0.25  # of the range, in a run that drifts
LEARNT = np.full(3, np.nan, np.float32)  # weights: those of the multipliers


class Bandit(NamedTuple):
    """What answers are worth: ``rewards [2, S, A]``, ``score [S, A]``."""

    rewards: jax.Array
    score: jax.Array


class Training(NamedTuple):
    """A policy in training: ``logits [S, A]``, ``lambda [2]``."""

    logits: jax.Array
    multipliers: jax.Array


def bandit(seed: int) -> Bandit:
    """Draws qualities, and reward models that some bad actions deceive."""
    rng = np.random.default_rng(seed)
    shape = (2, SITUATIONS, ACTIONS)
    common, own = rng.normal(size=shape[1:]), rng.normal(size=shape)
    quality = (common + own) / 2**0.5
    rates = np.exp(rng.uniform(np.log(0.005), np.log(0.05), size=(2, 1, 1)))
    deceives = rng.uniform(size=shape) < rates
    rewards = np.where(deceives, 2.5 + rng.exponential(size=shape), quality)
    score = quality.mean(0) - 3 * deceives.sum(0)
    return Bandit(jnp.asarray(rewards, jnp.float32), jnp.asarray(score, jnp.float32))


def untrained() -> Training:
    """Returns the first policy, all actions alike."""
    return Training(jnp.zeros((SITUATIONS, ACTIONS)), jnp.zeros(2))


def expected(logits: Any, values: Any) -> Any:
    """Returns the exact mean of values ``[..., S, A]`` under a policy."""
    return jnp.mean(jnp.sum(jax.nn.softmax(logits) * values, -1), -1)


def answers(key: Any, logits: Any, count: int) -> Any:
    """Draws actions in all situations in turn, ``[B]`` each."""
    situations = jnp.arange(count) % SITUATIONS
    upto = jnp.cumsum(jax.nn.softmax(logits), axis=1)[situations]
    actions = jnp.sum(jax.random.uniform(key, (count, 1)) > upto, axis=1)
    return situations, jnp.minimum(actions, ACTIONS - 1)


@jax.jit
def evaluated(
    key: Any, bandit: Bandit, state: Training, thresholds: Any, weights: Any, shift: Any
) -> tuple[Training, Any]:
    """Trains for some steps; returns the policy and a rating of it.

    Args:
        key: of all draws.
        bandit: of this seed.
        state: the policy so far.
        thresholds: of both rewards, ``[2]``.
        weights: of the KL divergence and both rewards, ``[3]``; NaN for those of the
            multipliers.
        shift: what the reward models have drifted by, ``[2]``.
    """

    def step(state: Training, key: Any) -> tuple[Training, None]:
        which, what = jax.random.split(key)
        situations, actions = answers(what, state.logits, BATCH)
        seen = bandit.rewards + shift[:, None, None]
        mu = jnp.tanh(state.multipliers)
        mixed = jnp.where(jnp.isnan(weights), jnp.append(2 - mu.sum(), mu), weights)
        kl = jax.nn.log_softmax(state.logits) + np.log(ACTIONS)
        advantages = mixed[1] * seen[0] + mixed[2] * seen[1] - mixed[0] * kl
        # natural gradient of a softmax: logits move by the advantages themselves
        is_seen = jax.random.bernoulli(which, 0.5, (SITUATIONS, 1))
        logits = state.logits + POLICY_RATE * is_seen * advantages
        away = thresholds - seen[:, situations, actions].mean(axis=1)
        multipliers = state.multipliers + MULTIPLIER_RATE * away
        return Training(logits, jnp.clip(multipliers, -LARGEST, LARGEST)), None

    train, rate = jax.random.split(key)
    state, _ = lax.scan(step, state, jax.random.split(train, STEPS))
    rating = bandit.score[answers(rate, state.logits, RATED)]
    return state, rating.mean()


class Run:
    """One training run, whose evaluations go on from where the last one ended."""

    def __init__(self, seed: int, drifts: bool):
        self.bandit, self.state = bandit(seed), untrained()
        self.keys = iter(jax.random.split(jax.random.key(seed), 2 * EVALUATIONS))
        self.shift, self.count = np.zeros(2, np.float32), 0
        self.lower = np.asarray(expected(self.state.logits, self.bandit.rewards))
        upper = np.asarray(self.bandit.rewards.max(-1).mean(-1))
        self.drift = drifts * SHIFT * (upper - self.lower)
        self.bounds = np.stack([self.lower, upper + np.maximum(self.drift, 0)], 1)

    def rating(self, thresholds: Any, weights: Any = LEARNT) -> float:
        """Trains at some thresholds and rates the policy."""
        with jax.enable_x64(False):  # gfopt.minimize calls it in double precision
            self.state, rating = evaluated(
                next(self.keys),
                self.bandit,
                self.state,
                np.asarray(thresholds, np.float32),
                weights,
                self.shift,
            )
        self.count += 1
        self.shift = (self.drift * self.count / EVALUATIONS).astype(np.float32)
        return float(rating)

    def final(self, thresholds: Any, weights: Any = LEARNT) -> float:
        """Trains to the end at some thresholds and returns the exact score."""
        while self.count < EVALUATIONS:
            self.rating(thresholds, weights)
        return round(float(expected(self.state.logits, self.bandit.score)), 4)


def proxy_point(bandit: Bandit) -> tuple[Any, float]:
    """Returns the rewards and the score of the best policy nearest to the first one.

    The policy nearest to ``p_0`` with given rewards is ``p ~ p_0 exp(a r_1 + b r_2)``.
    """
    side = jnp.linspace(0, 4, 41)
    tilts = jnp.stack(jnp.meshgrid(side, side), -1).reshape(-1, 2)
    logits = jnp.einsum("ti,isa->tsa", tilts, bandit.rewards)
    scores = jax.vmap(lambda rows: expected(rows, bandit.score))(logits)
    best = jnp.argmax(scores)
    return expected(logits[best], bandit.rewards), float(scores[best])


def followed(run: Run, seed: int) -> float:
    """Trains at the proxy point, wherever it has drifted to."""
    thresholds, _ = proxy_point(run.bandit)
    while run.count < EVALUATIONS:
        run.rating(thresholds + run.shift)
    return run.final(thresholds)


def searched(method: str, noisy: bool = False, **options: Any) -> Callable[..., float]:
    """Returns a search of gfopt's as a function of the run."""

    def found(run: Run, seed: int) -> float:
        result = gfopt.minimize(
            gfopt.Objective(run.rating, traceable=False),
            run.bounds.mean(axis=1),
            method=method,
            bounds=run.bounds,
            maximize=True,
            noisy=noisy,
            budget=EVALUATIONS - LAST,
            seed=seed,
            options=options,
        )
        return run.final(result.recommended)

    return found


def pycma(noise: bool) -> Callable[..., float]:
    """Returns pycma's search, with its own handling of noise or without."""

    def found(run: Run, seed: int) -> float:
        lower, upper = run.bounds.T
        width = upper - lower

        def loss(y: Any) -> float:
            if run.count >= EVALUATIONS - LAST:
                return np.inf
            return -run.rating(lower + width * np.asarray(y))

        es = cma.CMAEvolutionStrategy(
            [0.5, 0.5], 0.2, {"bounds": [0, 1], "seed": seed + 1, "verbose": -9}
        )
        handler = cma.NoiseHandler(2) if noise else None
        while run.count < EVALUATIONS - LAST and not es.stop():
            points, values = es.ask_and_eval(loss)
            es.tell(points, values)
            if handler:
                es.sigma *= handler(points, values, loss, es.ask)
                es.countevals += handler.evaluations_just_done
        return run.final(lower + width * np.clip(es.result.xfavorite, 0, 1))

    return found


def random_search(run: Run, seed: int) -> float:
    """Tries thresholds drawn uniformly from the box, and takes the best."""
    rng = np.random.default_rng(seed)
    tried = rng.uniform(*run.bounds.T, size=(EVALUATIONS - LAST, 2))
    return run.final(tried[np.argmax([run.rating(point) for point in tried])])


def fixed(weight: float) -> Callable[..., float]:
    """Returns training on the sum of rewards with a weight of the KL divergence."""
    weights = np.array([weight, 1, 1], np.float32)
    return lambda run, seed: run.final(np.zeros(2), weights)


WAYS: dict[str, Callable[[Run, int], float]] = {
    "sum of rewards, KL 1/20": fixed(1 / 20),
    "sum of rewards, KL 1/5": fixed(1 / 5),
    "middle of the box": lambda run, seed: run.final(run.bounds.mean(axis=1)),
    "proxy point": followed,
    "Nelder-Mead, the paper's": searched("nelder_mead", adaptive=False),
    "Nelder-Mead, max_age": searched("nelder_mead", max_age=6),
    "Nelder-Mead, min_size": searched("nelder_mead", min_size=0.5),
    "Nelder-Mead, both": searched("nelder_mead", max_age=6, min_size=0.5),
    "Nelder-Mead, noisy=True": searched("nelder_mead", noisy=True),
    "CMA-ES": searched("cma_es"),
    "CMA-ES, noisy=True": searched("cma_es", noisy=True),
    "pycma": pycma(noise=False),
    "pycma, NoiseHandler": pycma(noise=True),
    "random search": random_search,
}


def main() -> None:
    """Measures the claims."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, default=100)
    given = parsed(parser, seeds=2)
    seeds = range(given.seeds)
    results: dict[str, Any] = {}
    for condition, drifts in (("still", False), ("drifting", True)):
        scores = {
            way: [play(Run(seed, drifts), seed) for seed in seeds]
            for way, play in WAYS.items()
        }
        best = [round(proxy_point(bandit(seed))[1], 4) for seed in seeds]
        rows = []
        for way, found in scores.items():
            mean = bootstrap_interval(found, np.mean)
            gain = paired_difference_interval(found, scores["Nelder-Mead, the paper's"])
            rows.append((way, *map(float, (*mean, *gain))))
        print(f"\n{condition}; the best nearest policy has {np.mean(best):.3f}")
        names = ("score", "low", "high", "over the paper's", "low", "high")
        show((f"{given.seeds} seeds", *names), rows)
        results[condition] = {"best": best, "scores": scores}
    save("proxy_points", ["jax", "cma"], results)


if __name__ == "__main__":
    main()
