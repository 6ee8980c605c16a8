"""Anomaly scores by likelihood regret: an inner SPSA for each image, beside gradients.

A variational autoencoder learns the digits 0 to 4 of scikit-learn. The regret of an
image is how much its likelihood bound gains when the encoder is adapted to it alone:

    LR(x) = L(x; encoder) - min_t L(x; encoder after t steps on x),   L = -ELBO.

All images are adapted at once, each by a run of its own under ``vmap``: by SPSA, whose
two passes a step need no gradient, and by Adam on the exact gradient. Either all of the
encoder adapts, or the mean and log-variance that it gives for this image. Anomalies are
images turned to their negative, and the digits 5 to 9. The area under the ROC curve is
given for the bound itself, too, with bootstrap intervals over the images. SPSA's best
is that of the points that it evaluates, Adam's that of its path.

    python benchmarks/likelihood_regret.py

Source: Xiao, Yan, Amit (2020), arXiv 2003.02977, for the score; Darabi et al. (2023),
arXiv 2309.11006, for SPSA in it.
"""

from __future__ import annotations

import argparse
from typing import Any

import common
import jax
import jax.numpy as jnp
import numpy as np
import optax
import sklearn.datasets
from descent import by_adam
from jax import lax
from scipy.stats import rankdata, spearmanr

import gfopt
from gfopt.problems import mlp
from gfopt.problems.networks import network_outputs

LATENT, HIDDEN, NOISE = 6, 32, 0.15  # of the pixels, from 0 to 1
DRAWS = 16  # of the latent, the same before and after


def bound(vae: Any, posterior: Any, image: Any, draws: Any) -> Any:
    """Returns ``-ELBO`` of one image, up to a constant."""
    mean, log_variance = jnp.split(posterior, 2)
    latent = mean + jnp.exp(log_variance / 2) * draws
    misses = (network_outputs(vae["decoder"], latent) - image) ** 2 / (2 * NOISE**2)
    kl = jnp.sum(mean**2 + jnp.exp(log_variance) - log_variance - 1) / 2
    return jnp.sum(misses, axis=1).mean() + kl


def trained(key: Any, images: Any, steps: int = 6000) -> Any:
    """Returns an autoencoder that knows these images."""

    def loss(vae: Any, key: Any) -> Any:
        rows, draws = jax.random.split(key)
        batch = images[jax.random.choice(rows, len(images), (64,))]
        draws = jax.random.normal(draws, (64, 1, LATENT))
        codes = network_outputs(vae["encoder"], batch)
        return jax.vmap(bound, (None, 0, 0, 0))(vae, codes, batch, draws).mean()

    encoder, decoder = jax.random.split(key)
    vae = {
        "encoder": mlp(encoder, (64, HIDDEN, 2 * LATENT)),
        "decoder": mlp(decoder, (LATENT, HIDDEN, 64)),
    }
    rate = optax.cosine_decay_schedule(3e-3, steps)
    return by_adam(loss, vae, jax.random.split(key, steps), rate)


def regrets(vae: Any, images: Any, what: str, how: str, steps: int, rate: Any) -> Any:
    """Returns the regret of each image and its bound before."""

    def one(image: Any, key: Any) -> tuple[Any, Any]:
        draws = jax.random.normal(key, (DRAWS, LATENT))

        def objective(x: Any) -> Any:
            posterior = network_outputs(x, image) if what == "encoder" else x
            return bound(vae, posterior, image, draws)

        encoder = vae["encoder"]
        x0 = encoder if what == "encoder" else network_outputs(encoder, image)
        if how == "spsa":
            method = gfopt.SPSA(rate, eps=1e-2, stability=steps / 10)
            found = gfopt.run(method, objective, x0, key=key, generations=steps)
            best = found.history["fitness"].min()
        else:
            best = descended(objective, x0, steps, rate)
        before = objective(x0)
        return before - jnp.minimum(best, before), before

    return jax.vmap(one)(images, jax.random.split(jax.random.key(0), len(images)))


def descended(objective: Any, x0: Any, steps: int, rate: Any) -> Any:
    """Returns the best value on the path of Adam with exact gradients."""
    adam = optax.adam(rate)

    def step(carry: Any, _: Any) -> Any:
        x, state = carry
        value, gradient = jax.value_and_grad(objective)(x)
        updates, state = adam.update(gradient, state)
        return (optax.apply_updates(x, updates), state), value

    (x, _), values = lax.scan(step, (x0, adam.init(x0)), None, steps)
    return jnp.minimum(values.min(), objective(x))


def area(normal: np.ndarray, strange: np.ndarray) -> tuple[float, float, float]:
    """Returns the area under the ROC curve and its 95 % bootstrap interval."""

    def one(normal: np.ndarray, strange: np.ndarray) -> float:
        ranks = rankdata(np.concatenate([normal, strange]))[len(normal) :]
        above = ranks.sum() - len(strange) * (len(strange) + 1) / 2
        return float(above / (len(normal) * len(strange)))

    draw = np.random.default_rng(0).choice
    many = [one(draw(normal, len(normal)), draw(strange, len(strange)))
            for _ in range(1000)]  # fmt: skip
    return one(normal, strange), *map(float, np.quantile(many, [0.025, 0.975]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, nargs="+", default=[10, 30, 100, 300])
    given = common.parsed(parser, steps=[3])
    bunch = sklearn.datasets.load_digits()
    order = np.random.default_rng(0).permutation(len(bunch.target))
    images = jnp.asarray(bunch.data[order] / 16, jnp.float32)
    low = bunch.target[order] < 5
    train, held = images[low][:600], images[low][600:]
    sides = {"negative": 1 - held, "digits 5-9": images[~low][: len(held)]}
    vae = jax.jit(trained)(jax.random.key(1), train)
    adapt = jax.jit(regrets, static_argnames=("what", "how", "steps"))
    tuning = train[:64]  # rates are chosen where no anomaly is

    table: list[dict[str, Any]] = []

    def add(score: str, steps: int, ours: Any, others: dict[str, Any]) -> None:
        for name, theirs in others.items():
            auc = area(np.asarray(ours), np.asarray(theirs))
            table.append({"score": score, "steps": steps, "anomaly": name, "auc": auc})

    _, before = adapt(vae, held, "posterior", "spsa", 1, 0.0)
    strange = {
        k: adapt(vae, x, "posterior", "spsa", 1, 0.0)[1] for k, x in sides.items()
    }
    add("bound", 0, before, strange)
    agreement: dict[str, float] = {}
    for what in ("posterior", "encoder"):
        for steps in given.steps:
            found = {}
            for how, rates in (
                ("gradient", np.geomspace(1e-3, 0.3, 6)),
                ("spsa", np.geomspace(1e-5, 1e-1, 9)),
            ):
                gains = [
                    float(adapt(vae, tuning, what, how, steps, r)[0].mean())
                    for r in rates
                ]
                rate = float(rates[int(np.nanargmax(gains))])
                ours = adapt(vae, held, what, how, steps, rate)[0]
                theirs = {
                    k: adapt(vae, x, what, how, steps, rate)[0]
                    for k, x in sides.items()
                }
                assert min(map(jnp.min, (ours, *theirs.values()))) >= 0
                add(f"{what}, {how}", steps, ours, theirs)
                found[how] = np.concatenate([ours, *theirs.values()])
            same = float(spearmanr(found["gradient"], found["spsa"]).statistic)
            agreement[f"{what}, {steps} steps"] = same
    common.show(
        ["score", "steps", "anomaly", "AUC", "from", "to"],
        [[r["score"], r["steps"], r["anomaly"], *r["auc"]] for r in table],
    )
    print("rank correlation of the two regrets:", agreement)
    common.save(
        "likelihood_regret",
        ["jax", "scikit-learn"],
        {"held_out": len(held), "rows": table, "rank_correlation": agreement},
    )


if __name__ == "__main__":
    main()
