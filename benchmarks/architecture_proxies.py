"""Scores of networks that nobody trained: do they rank architectures, do they help?

256 small networks for scikit-learn's digits, all trained, three seeds each: three
layers, each absent, ReLU, tanh or a ReLU beside the identity, with 8 to 64 units.
Scores at random weights, on one batch, without gradients:

- parameters: how many there are;
- PCA count: of each layer's pre-activations, how many principal components it takes to
  exceed 99 % of their variance, summed over layers; W-PCA: that times the parameters;
- hidden covariance: ``-sum_i log(v_i + k) + 1 / (v_i + k)``, ``k = 1e-5``, of the
  eigenvalues of the correlations of a batch's last hidden states.

Claims: Kendall's tau of each score with the trained validation loss, with a bootstrap
interval over architectures, of all of them and of the 64 widest; and the loss of what
searches choose after 24 trainings, over that of the best network, 100 repeats: random
search, aging evolution, the same with a score as a zeroth fidelity (only the better
quarter of the children is trained), the first 24 by a score, and a robust combination
of scores, whose weights are searched by the trained losses (RoBoT).

    python benchmarks/architecture_proxies.py  # a minute

Sources: Wang (ICLR 2025), arXiv 2504.15983, W-PCA; Serianni, Kalita (ACL 2023), arXiv
2306.00288, hidden covariance; He, Shu, Dai, Low (ICLR 2024), arXiv 2403.07591, RoBoT,
here with weights drawn at random in place of its Bayesian optimization.
"""

from __future__ import annotations

import argparse
import itertools
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from common import parsed, save, show, sized
from jax import lax
from scipy.stats import kendalltau
from sklearn.datasets import load_digits

import gfopt
from gfopt.core.evaluate import judged
from gfopt.research.statistics import bootstrap_interval, paired_difference_interval

WIDTHS = (8, 16, 32, 64)
ABSENT, RELU, TANH, RESIDUAL = range(4)
LAYERS, LARGEST, BATCH = 3, 64, 64
CHOICES = (4,) * LAYERS + (len(WIDTHS),)
SPACE = np.array(list(itertools.product(*map(range, CHOICES))), np.int32)
STEPS, SEEDS = sized(300, 5), 3
TRAININGS = 24


def first_weights(key: Any, architecture: Any) -> dict[str, Any]:
    """Draws ``N(0, 2 / fan_in)`` for the largest network; ``hidden`` uses a part."""
    width = jnp.array(WIDTHS)[architecture[-1]]
    keys = jax.random.split(key, 3)
    wide = jax.random.normal(keys[0], (LAYERS, LARGEST, LARGEST))
    return {
        "first": jax.random.normal(keys[1], (64, LARGEST)) * (2 / 64) ** 0.5,
        "layers": wide * jnp.sqrt(2 / width),
        "biases": jnp.zeros((LAYERS + 1, LARGEST)),
        "last": jax.random.normal(keys[2], (LARGEST, 10)) / jnp.sqrt(width),
    }


def hidden(weights: dict[str, Any], architecture: Any, x: Any) -> tuple[Any, Any]:
    """Returns the last hidden states, and all pre-activations ``[L + 1, B, W]``."""
    used = jnp.arange(LARGEST) < jnp.array(WIDTHS)[architecture[-1]]
    before = [(x @ weights["first"] + weights["biases"][0]) * used]
    h = jax.nn.relu(before[0])
    for layer in range(LAYERS):
        kind = architecture[layer]
        z = (h @ weights["layers"][layer] + weights["biases"][layer + 1]) * used
        kinds = jnp.stack([h, jax.nn.relu(z), jnp.tanh(z), h + jax.nn.relu(z)])
        before.append(z * (kind != ABSENT))
        h = kinds[kind]
    return h, jnp.stack(before)


def outputs(weights: dict[str, Any], architecture: Any, x: Any) -> Any:
    """Returns the logits."""
    return hidden(weights, architecture, x)[0] @ weights["last"]


def num_parameters(architecture: Any) -> Any:
    """Returns how many weights and biases an architecture uses."""
    width = jnp.array(WIDTHS)[architecture[-1]]
    depth = jnp.sum(architecture[:-1] != ABSENT)
    return 65 * width + depth * width * (width + 1) + width * 10


def scores(key: Any, architecture: Any, x: Any) -> dict[str, Any]:
    """Returns the scores of an untrained network; larger is better."""
    last, before = hidden(first_weights(key, architecture), architecture, x)

    def count(z: Any) -> Any:  # components that exceed 99 % of the variance
        values = jnp.linalg.svd(z - z.mean(axis=0), compute_uv=False) ** 2
        upto = jnp.cumsum(values) / jnp.maximum(values.sum(), 1e-12)
        return jnp.where(values.sum() > 1e-9, 1 + jnp.sum(upto <= 0.99), 0)

    components = jnp.sum(jax.vmap(count)(before))
    away = last - last.mean(axis=1, keepdims=True)
    away = away / jnp.maximum(jnp.linalg.norm(away, axis=1, keepdims=True), 1e-9)
    v = jnp.maximum(jnp.linalg.eigvalsh(away @ away.T), 0) + 1e-5
    parameters = num_parameters(architecture)
    return {
        "parameters": parameters,
        "PCA count": components,
        "W-PCA": components * parameters,
        "hidden covariance": -jnp.sum(jnp.log(v) + 1 / v),
    }


def trained(key: Any, architecture: Any, rows: Any) -> Any:
    """Returns the validation loss after a training by Adam."""
    (x, y), valid = rows
    start, order = jax.random.split(key)
    weights, adam = first_weights(start, architecture), optax.adam(3e-3)

    def loss(weights: Any, x: Any, y: Any) -> Any:
        logits = outputs(weights, architecture, x)
        return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()

    def step(carry: Any, chosen: Any) -> tuple[Any, None]:
        weights, state = carry
        slope = jax.grad(loss)(weights, x[chosen], y[chosen])
        updates, state = adam.update(slope, state)
        return (optax.apply_updates(weights, updates), state), None

    chosen = jax.random.randint(order, (STEPS, BATCH), 0, len(x))
    (weights, _), _ = lax.scan(step, (weights, adam.init(weights)), chosen)
    return loss(weights, *valid)


def table() -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Returns trained losses ``[256, seeds]`` and the scores ``[256]``."""
    x, y = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(y))[:1000]
    train, valid = (
        (jnp.float32(x[rows] / 16), jnp.asarray(y[rows]))
        for rows in (order[:400], order[400:])
    )
    keys = jax.random.split(jax.random.key(0), SEEDS)

    @jax.jit
    def losses(rows: Any) -> Any:
        def one(architecture: Any) -> Any:
            return jax.vmap(lambda key: trained(key, architecture, rows))(keys)

        return lax.map(one, jnp.asarray(SPACE), batch_size=8)

    @jax.jit
    def cheap(batch: Any) -> Any:
        def one(architecture: Any) -> Any:
            found = jax.vmap(lambda key: scores(key, architecture, batch))(keys)
            return jax.tree.map(jnp.mean, found)

        return lax.map(one, jnp.asarray(SPACE))

    found = {name: np.asarray(row) for name, row in cheap(train[0][:BATCH]).items()}
    return np.asarray(losses((train, valid))), found


def kendall(pairs: np.ndarray, axis: int) -> Any:
    """Returns Kendall's tau-b of pairs ``[N, 2]``, or of each sample ``[R, N, 2]``."""
    if axis == 0:
        return kendalltau(*pairs.T)[0]
    return np.array([kendalltau(*sample.T)[0] for sample in pairs])


def first(losses: np.ndarray, score: np.ndarray, rng: Any) -> int:
    """Trains the best by a score."""
    tried = np.argsort(-score, kind="stable")[:TRAININGS]
    return int(tried[np.argmin(losses[tried])])


def at_random(losses: np.ndarray, rng: Any) -> int:
    """Trains some."""
    tried = rng.choice(len(SPACE), TRAININGS, replace=False)
    return int(tried[np.argmin(losses[tried])])


def evolution(score: np.ndarray | None) -> tuple[gfopt.Optimizer, Any, Any]:
    """Returns aging evolution, its ask and its tell; with a score it is screened."""
    size = 4 if score is None else 16
    method: Any = gfopt.tokens.AgingEvolution(
        choices=CHOICES, population_size=size, num_living=8, tournament_size=4
    )
    if score is not None:
        values = jnp.asarray(score).reshape(CHOICES)
        method = gfopt.Screened(method, lambda place: -values[tuple(place)], share=0.25)
    return method, jax.jit(method.ask), jax.jit(method.tell)


def evolved(losses: np.ndarray, evolution: Any, rng: Any) -> int:
    """Trains what evolution asks for."""
    method, ask, tell = evolution
    state, tried = method.init(jax.random.key(0), SPACE[0]), []
    decode = jax.vmap(lambda member: method.decode(state, member))
    while len(tried) < TRAININGS:
        population = ask(jax.random.key(int(rng.integers(2**31))), state)
        places = np.ravel_multi_index(np.asarray(decode(population.members)).T, CHOICES)
        found = judged(jnp.asarray(losses[places]), population.active, ())
        tried += places[np.asarray(population.active)].tolist()
        state, _ = tell(state, population, found)
    return int(np.array(tried)[np.argmin(losses[tried])])


def combined(losses: np.ndarray, ranks: np.ndarray, rng: Any) -> int:
    """Searches weights of scores by the loss of their best, then trains on down."""
    tried: dict[int, float] = {}
    weights = rng.dirichlet(np.ones(len(ranks)), TRAININGS // 2)
    tops = [int(np.argmax(weight @ ranks)) for weight in weights]
    for top in tops:
        tried[top] = losses[top]
    best = weights[int(np.argmin([tried[top] for top in tops]))]
    for place in np.argsort(-(best @ ranks), kind="stable"):
        if len(tried) < TRAININGS:
            tried[int(place)] = losses[place]
    return min(tried, key=lambda place: tried[place])


def main() -> None:
    """Trains all networks, correlates, and searches."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--repeats", type=int, default=100)
    given = parsed(parser, repeats=2)
    losses, found = table()
    mean = losses.mean(axis=1)
    print(
        f"trained: {mean.min():.3f} to {mean.max():.3f}; seeds differ by "
        f"{losses.std(axis=1, ddof=1).mean():.3f}"
    )
    rows, ranks = [], []
    agreement = kendalltau(losses[:, 0], losses[:, 1:].mean(axis=1))[0]
    for name, score in found.items():
        pairs = np.stack([score, -mean], axis=1)
        tau = bootstrap_interval(pairs, kendall, resamples=sized(500, 50))
        widest = bootstrap_interval(
            pairs[SPACE[:, -1] == len(WIDTHS) - 1],
            kendall,
            resamples=sized(500, 50),
        )
        rows.append((name, *map(float, (*tau, *widest))))
        ranks.append(np.argsort(np.argsort(score, kind="stable")) / len(SPACE))
    show(("score", "tau", "low", "high", "64 units", "low", "high"), rows)
    print(f"of one seed with the mean of the others: {agreement:.3f}")
    ways: dict[str, Any] = {"random search": at_random}
    ways["aging evolution"] = partial(evolved, evolution=evolution(None))
    for name, score in found.items():
        ways[f"evolution, {name} first"] = partial(evolved, evolution=evolution(score))
        ways[f"the first by {name}"] = partial(first, score=score)
    ways["weights of scores"] = partial(combined, ranks=np.stack(ranks))
    # each repeat sees one training of every network; the mean judges
    regrets = {
        way: [
            float(
                mean[choose(losses[:, k % SEEDS], rng=np.random.default_rng(k))]
                - mean.min()
            )
            for k in range(given.repeats)
        ]
        for way, choose in ways.items()
    }
    print()
    rows = []
    for way, regret in regrets.items():
        interval = bootstrap_interval(regret, np.mean)
        less = paired_difference_interval(regret, regrets["random search"])
        rows.append((way, *map(float, (*interval, *less))))
    names = ("above the best", "low", "high", "minus random", "low", "high")
    show((f"{TRAININGS} trainings", *names), rows)
    save(
        "architecture_proxies",
        ["jax", "optax", "scikit-learn"],
        {
            "losses": np.round(losses, 4).tolist(),
            "scores": {name: np.round(row, 4).tolist() for name, row in found.items()},
            "regrets": {way: np.round(row, 4).tolist() for way, row in regrets.items()},
        },
    )


if __name__ == "__main__":
    main()
