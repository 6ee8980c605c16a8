"""Scores of networks that nobody trained: do they rank architectures, do they help?

For scikit-learn's digits, all trained, three seeds each: 256 small networks and 64
small transformers (``space_of_networks.py``, ``space_of_transformers.py``). Scores at
random weights, on one batch, without gradients:

- parameters: how many there are;
- PCA count: of each layer's pre-activations (in transformers, of the feed-forward
  parts), how many principal components it takes to exceed 99 % of their variance,
  summed over layers; W-PCA: that times the parameters;
- hidden covariance: ``-sum_i log(v_i + k) + 1 / (v_i + k)``, ``k = 1e-5``, of the
  eigenvalues of the correlations of a batch's last hidden states.

Claims: Kendall's tau of each score with the trained validation loss, with a bootstrap
interval over architectures, of all of them and of the widest quarter, and with the
accuracy; and the loss of what searches choose after 24 trainings of the 256, or 12 of
the 64, over that of the best network, 100 repeats: random search, aging evolution, the
same with a score as a zeroth fidelity (only the better quarter of the children is
trained), the first by a score, and combinations of scores, whose weights are chosen by
the loss of the network they rank first: by Bayesian optimization in [-1, 1] (RoBoT) and
in [0, 1], and at random, all positive.

    python benchmarks/architecture_proxies.py  # 9 minutes of a processor
    python benchmarks/architecture_proxies.py --spaces networks  # 3

Sources: Wang (ICLR 2025), arXiv 2504.15983, W-PCA; Serianni, Kalita (ACL 2023), arXiv
2306.00288, hidden covariance; He, Shu, Dai, Low (ICLR 2024), arXiv 2403.07591, RoBoT,
here of ranks where they have scores scaled to [0, 1].
"""

from __future__ import annotations

import argparse
import json
import time
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import space_of_networks
import space_of_transformers
from architecture_searches import (
    at_random,
    by_bayes,
    combined,
    evolution,
    evolved,
    first,
)
from common import RESULTS, parsed, save, show, sized
from descent import by_adam
from jax import lax
from scipy.stats import kendalltau
from sklearn.datasets import load_digits

from gfopt.research.statistics import bootstrap_interval, paired_difference_interval

SPACES = {"networks": space_of_networks, "transformers": space_of_transformers}
TRAININGS = {"networks": 24, "transformers": 12}
BATCH, STEPS, SEEDS = 64, sized(300, 5), 3


def scores(space: Any, key: Any, architecture: Any, x: Any) -> dict[str, Any]:
    """Returns the scores of an untrained network; larger is better."""
    weights = space.first_weights(key, architecture)
    last, before = space.hidden(weights, architecture, x)

    def count(z: Any) -> Any:  # components that exceed 99 % of the variance
        values = jnp.linalg.svd(z - z.mean(axis=0), compute_uv=False) ** 2
        upto = jnp.cumsum(values) / jnp.maximum(values.sum(), 1e-12)
        return jnp.where(values.sum() > 1e-9, 1 + jnp.sum(upto <= 0.99), 0)

    components = jnp.sum(jax.vmap(count)(before))
    away = last - last.mean(axis=1, keepdims=True)
    away = away / jnp.maximum(jnp.linalg.norm(away, axis=1, keepdims=True), 1e-9)
    v = jnp.maximum(jnp.linalg.eigvalsh(away @ away.T), 0) + 1e-5
    parameters = space.num_parameters(architecture)
    return {
        "parameters": parameters,
        "PCA count": components,
        "W-PCA": components * parameters,
        "hidden covariance": -jnp.sum(jnp.log(v) + 1 / v),
    }


def trained(space: Any, key: Any, architecture: Any, rows: Any) -> Any:
    """Returns validation loss and accuracy after a training by Adam."""
    (x, y), valid = rows
    start, order = jax.random.split(key)

    def outputs(weights: Any, x: Any) -> Any:
        return space.hidden(weights, architecture, x)[0] @ weights["last"]

    def loss(weights: Any, x: Any, y: Any) -> Any:
        logits = outputs(weights, x)
        return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()

    batches = jax.random.randint(order, (STEPS, BATCH), 0, len(x))
    weights = by_adam(
        lambda weights, rows: loss(weights, x[rows], y[rows]),
        space.first_weights(start, architecture),
        batches,
        3e-3,
    )
    right = jnp.argmax(outputs(weights, valid[0]), axis=1) == valid[1]
    return loss(weights, *valid), jnp.mean(right)


def table(space: Any) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
    """Returns losses and accuracies, ``[A, seeds]``, and the scores, ``[A]``."""
    x, y = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(y))[:1000]
    train, valid = (
        (jnp.float32(x[rows] / 16), jnp.asarray(y[rows]))
        for rows in (order[:400], order[400:])
    )
    keys = jax.random.split(jax.random.key(0), SEEDS)

    @jax.jit
    def ends(rows: Any) -> Any:
        def one(architecture: Any) -> Any:
            return jax.vmap(lambda key: trained(space, key, architecture, rows))(keys)

        return lax.map(one, jnp.asarray(space.SPACE), batch_size=8)

    @jax.jit
    def cheap(batch: Any) -> Any:
        def one(architecture: Any) -> Any:
            found = jax.vmap(lambda key: scores(space, key, architecture, batch))(keys)
            return jax.tree.map(jnp.mean, found)

        return lax.map(one, jnp.asarray(space.SPACE))

    found = {name: np.asarray(row) for name, row in cheap(train[0][:BATCH]).items()}
    losses, accuracies = map(np.asarray, ends((train, valid)))
    return losses, accuracies, found


def kendall(pairs: np.ndarray, axis: int) -> Any:
    """Returns Kendall's tau-b of pairs ``[N, 2]``, or of each sample ``[R, N, 2]``."""
    if axis == 0:
        return kendalltau(*pairs.T)[0]
    return np.array([kendalltau(*sample.T)[0] for sample in pairs])


def correlations(space: Any, found: Any, mean: Any, accuracy: Any) -> Any:
    """Prints and returns Kendall's tau of each score, thrice, with its interval."""
    widest = space.SPACE[:, -1] == len(space.WIDTHS) - 1
    rows = {}
    for name, score in found.items():
        pairs = np.stack([score, -mean], axis=1)
        rows[name] = [
            [
                float(number)
                for number in bootstrap_interval(
                    sample, kendall, resamples=sized(500, 50)
                )
            ]
            for sample in (pairs, pairs[widest], np.stack([score, accuracy], axis=1))
        ]
    names = [
        part for name in ("tau", "widest", "accuracy") for part in (name, "low", "high")
    ]
    show(("score", *names), [(name, *sum(row, [])) for name, row in rows.items()])
    return rows


def searches(name: str, losses: np.ndarray, found: Any, repeats: int) -> Any:
    """Prints and returns what each search's choice loses to the best network."""
    space, budget, mean = SPACES[name], TRAININGS[name], losses.mean(axis=1)
    ranks = np.stack(
        [np.argsort(np.argsort(row, kind="stable")) for row in found.values()]
    )
    ranks = ranks / len(mean)
    ways: dict[str, Any] = {"random search": at_random}
    grown = partial(evolved, space=space)
    ways["aging evolution"] = partial(grown, way=evolution(space.CHOICES, None))
    for score, row in found.items():
        screened = evolution(space.CHOICES, row)
        ways[f"evolution, {score} first"] = partial(grown, way=screened)
        ways[f"the first by {score}"] = partial(first, score=row)
    for way, least in (("weights in [-1, 1]", -1.0), ("weights in [0, 1]", 0.0)):
        asked = by_bayes(ranks, budget, least)
        ways[way] = partial(combined, ranks=ranks, asked=asked)
    ways["weights at random"] = partial(combined, ranks=ranks, asked=None)
    # each repeat sees one training of every network; the mean judges
    regrets = {}
    for way, choose in ways.items():
        chosen = [
            choose(losses[:, k % SEEDS], budget, np.random.default_rng(k))
            for k in range(repeats)
        ]
        regrets[way] = mean[chosen] - mean.min()
    rows = []
    for way, regret in regrets.items():
        interval = bootstrap_interval(regret, np.mean)
        less = paired_difference_interval(regret, regrets["random search"])
        rows.append((way, *map(float, (*interval, *less))))
    names = ("above the best", "low", "high", "minus random", "low", "high")
    print()
    show((f"{budget} trainings", *names), rows)
    return {
        way: np.round(row.astype(float), 4).tolist() for way, row in regrets.items()
    }


def main() -> None:
    """Trains all networks, correlates, and searches."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--repeats", type=int, default=100)
    parser.add_argument("--spaces", nargs="+", choices=SPACES, default=list(SPACES))
    parser.add_argument(
        "--again", action="store_true", help="searches among what is trained already"
    )
    given = parsed(parser, repeats=2)
    results: dict[str, Any] = {}
    for name in given.spaces:
        began = time.monotonic()
        if given.again:
            kept = json.loads((RESULTS / "architecture_proxies.json").read_text())[name]
            losses, accuracies = (
                np.array(kept[key]) for key in ("losses", "accuracies")
            )
            found = {key: np.array(row) for key, row in kept["scores"].items()}
        else:
            losses, accuracies, found = table(SPACES[name])
        mean = losses.mean(axis=1)
        right = accuracies.mean(axis=1)
        print(
            f"\n{name}, trained: {mean.min():.3f} to {mean.max():.3f}, accuracy "
            f"{right.min():.3f} to {right.max():.3f}; "
            f"seeds differ by {losses.std(axis=1, ddof=1).mean():.3f}"
        )
        tau = correlations(SPACES[name], found, mean, right)
        agreement = kendalltau(losses[:, 0], losses[:, 1:].mean(axis=1))[0]
        print(f"of one seed with the mean of the others: {agreement:.3f}")
        results[name] = {
            "tau": tau,
            "of one seed with the mean of the others": round(float(agreement), 4),
            "regrets": searches(name, losses, found, given.repeats),
            "losses": np.round(losses.astype(float), 4).tolist(),
            "accuracies": np.round(accuracies.astype(float), 4).tolist(),
            "scores": {
                key: np.round(row.astype(float), 4).tolist()
                for key, row in found.items()
            },
            "seconds": round(time.monotonic() - began),
        }
    save("architecture_proxies", ["jax", "optax", "scikit-learn"], results)


if __name__ == "__main__":
    main()
