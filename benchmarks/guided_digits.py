"""Guidance of a flow that draws digits by scores of a classifier, and less of it.

Gradient-free classifier guidance, GFCG (Shenoy et al. 2024, arXiv 2411.15393): at each
step a classifier reads the clean image that is expected for the label ``c``; its most
probable other label ``r`` is what the step turns away from, the more the surer it is,

    D = D_c + w 2 p_r / (p_c + p_r) (D_c - D_r).

The paper's own schedule of the weight isn't this one. Claim: more images are of their
label than with classifier-free guidance, ``D_c + w (D_c - D_none)``, which has as many
passes. Beside them are both together, the label alone, the same with twice the steps,
and the gradient of the classifier through the network (a backward pass is counted as
two). The weight is chosen on other keys for each way: that of the largest share of
images that are of their label, by another classifier, as long as the Fréchet distance
is at most a tenth above that of the label alone.

Adaptive guidance (Castillo et al. 2023, arXiv 2312.12487): an image goes on without
``D_none`` once the network says nearly the same with and without the label: once the
cosine of the two velocities, the paper's of the two noises, is large. Claim: a quarter
of the passes is saved and images stay what they are. Beside it are classifier-free
guidance with fewer steps, and the same cut after the same step for all images.

    python benchmarks/guided_digits.py  # 70 seconds of processor time
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from common import save, show, sized
from digit_flow import (
    NONE,
    Models,
    claimed,
    denoised,
    frechet,
    moved,
    started,
    steps,
)

from gfopt.problems.networks import network_outputs
from gfopt.research.statistics import bootstrap_interval

IMAGES = sized(1000, 100)  # of a seed
STEPS = sized(16, 4)
WEIGHTS = sized((0.01, 0.03, 0.1, 0.3, 1.0, 3.0), (0.3, 1.0))
FARTHER = 1.1  # the most that a way's distance may be over that of the label alone
COSINES = sized((0.96, 0.97, 0.975, 0.978, 0.98, 0.982, 0.985, 0.99), (0.9, 0.99))
WEIGHT = 1.0  # of the guidance that is made adaptive
SAVED = 0.25  # of the passes
MARGINS = 0.005, 0.002  # of distance and share, below which they count as equal

Clean = Callable[[Models, jax.Array, Any, jax.Array, Any], jax.Array]


def alone(models: Models, x: jax.Array, t: Any, label: jax.Array, w: Any) -> jax.Array:
    """Returns the expected image of the label."""
    del w
    return denoised(models.flow, x, t, label)


def free(models: Models, x: jax.Array, t: Any, label: jax.Array, w: Any) -> jax.Array:
    """Returns what classifier-free guidance expects."""
    clean = denoised(models.flow, x, t, label)
    return clean + w * (clean - denoised(models.flow, x, t, NONE))


def turned(models: Models, x: jax.Array, t: Any, label: jax.Array, w: Any) -> jax.Array:
    """Returns what gradient-free classifier guidance expects."""
    clean = denoised(models.flow, x, t, label)
    p = jax.nn.softmax(network_outputs(models.guide, clean))
    is_label = jax.nn.one_hot(label, NONE, dtype=bool)
    other = jnp.argmax(jnp.where(is_label, -1, p), axis=1)
    p_other = jnp.take_along_axis(p, other[:, None], axis=1)
    p_label = jnp.take_along_axis(p, label[:, None], axis=1)
    sure = 2 * p_other / (p_label + p_other)
    return clean + w * sure * (clean - denoised(models.flow, x, t, other))


def both(models: Models, x: jax.Array, t: Any, label: jax.Array, w: Any) -> jax.Array:
    """Returns what both ways add to the expected image of the label."""
    clean = denoised(models.flow, x, t, label)
    guided = free(models, x, t, label, w) + turned(models, x, t, label, w)
    return guided - clean


def sloped(models: Models, x: jax.Array, t: Any, label: jax.Array, w: Any) -> jax.Array:
    """Returns what the gradient of the classifier through the network expects."""

    def fit(x: jax.Array) -> tuple[jax.Array, jax.Array]:
        clean = denoised(models.flow, x, t, label)
        logs = jax.nn.log_softmax(network_outputs(models.guide, clean))
        return jnp.take_along_axis(logs, label[:, None], axis=1).sum(), clean

    slope, clean = jax.grad(fit, has_aux=True)(x)
    return clean + w * slope


WAYS: dict[str, tuple[Clean, int, int]] = {  # steps, and passes of a step
    "the label alone": (alone, STEPS, 1),
    "the label alone, twice the steps": (alone, 2 * STEPS, 1),
    "classifier-free guidance": (free, STEPS, 2),
    "GFCG": (turned, STEPS, 2),
    "both": (both, STEPS, 3),
    "gradient of the classifier": (sloped, STEPS, 3),
}


def drawn(models: Models, clean: Clean, count: int, key: Any, w: Any) -> jax.Array:
    """Draws ``[IMAGES, 64]``, as many of each label, by so many steps."""
    label = jnp.arange(IMAGES) % NONE
    times = jnp.asarray(steps(count))

    def step(x: jax.Array, place: Any) -> tuple[jax.Array, None]:
        t, s = times[place], times[place + 1]
        return moved(x, clean(models, x, t, label, w), t, s), None

    first = jax.random.normal(key, (IMAGES, 64))
    return jnp.clip(jax.lax.scan(step, first, jnp.arange(count))[0], -1, 1)


def measured(models: Models, images: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns the share that is of its label, and the Fréchet distance."""
    found = jnp.argmax(network_outputs(models.judge, images), axis=1)
    share = jnp.mean(found == jnp.arange(IMAGES) % NONE)
    return share, frechet(models, images)


def adapted(
    models: Models, key: Any, cosine: Any, cut: Any
) -> tuple[jax.Array, jax.Array]:
    """Draws with guidance that ends at a cosine or after ``cut`` steps.

    Returns:
        images ``[IMAGES, 64]`` and the mean number of passes.
    """
    label = jnp.arange(IMAGES) % NONE
    times = jnp.asarray(steps(STEPS))

    def step(carry: Any, place: Any) -> tuple[Any, jax.Array]:
        x, is_guided = carry
        is_guided &= place < cut
        t, s = times[place], times[place + 1]
        clean = denoised(models.flow, x, t, label)
        unlabelled = denoised(models.flow, x, t, NONE)
        guided = clean + WEIGHT * (clean - unlabelled)
        # what the network says of each: t v = x - x_0
        v, other = x - clean, x - unlabelled
        size = jnp.linalg.norm(v, axis=1) * jnp.linalg.norm(other, axis=1)
        alike = jnp.sum(v * other, axis=1) / size
        x = moved(x, jnp.where(is_guided[:, None], guided, clean), t, s)
        return (x, is_guided & (alike < cosine)), 1 + jnp.mean(is_guided)

    first = jax.random.normal(key, (IMAGES, 64))
    begun = first, jnp.ones(IMAGES, bool)
    (images, _), passes = jax.lax.scan(step, begun, jnp.arange(STEPS))
    return jnp.clip(images, -1, 1), passes.sum()


def guidance(models: Models, keys: list[Any]) -> dict[str, Any]:
    """Returns shares and distances of each way of guidance."""
    results: dict[str, Any] = {}
    limit = np.inf
    for name, (clean, count, passes) in WAYS.items():

        @jax.jit
        def run(key: Any, w: Any, clean: Clean = clean, count: int = count) -> Any:
            return measured(models, drawn(models, clean, count, key, w))

        weights = (0.0,) if clean is alone else WEIGHTS
        grid = np.asarray([run(jax.random.key(1000), w) for w in weights])
        limit = FARTHER * grid[0, 1] if name == "the label alone" else limit
        # beyond the limit, the nearest
        merit = np.where(grid[:, 1] <= limit, grid[:, 0], -grid[:, 1])
        w = weights[int(np.argmax(merit))]
        share, distance = np.asarray([run(key, w) for key in keys]).T
        results[name] = {
            "passes": count * passes,
            "weight": w,
            "tried": dict(zip(weights, grid.tolist(), strict=True)),
            "share": share.tolist(),
            "distance": distance.tolist(),
        }
    return results


def adaptation(models: Models, keys: list[Any]) -> dict[str, Any]:
    """Returns what is saved, and how far images are from fully guided ones."""
    run = jax.jit(partial(adapted, models))
    tried = [float(run(jax.random.key(1000), cosine, STEPS)[1]) for cosine in COSINES]
    enough = [p <= (1 - SAVED) * 2 * STEPS for p in tried]
    # the last that saves enough
    cosine = COSINES[max(np.flatnonzero(enough), default=0)]
    results: dict[str, Any] = {
        "cosine": cosine,
        "passes": dict(zip(COSINES, tried, strict=True)),
    }
    fewer = int((1 - SAVED) * STEPS)
    cut = int(2 * STEPS * (1 - SAVED)) - STEPS
    few = jax.jit(partial(drawn, models, free, fewer))
    ways = {
        "guided in all steps": lambda key: run(key, 2.0, STEPS),
        "fewer steps": lambda key: (few(key, WEIGHT), 2 * fewer),
        "cut for all": lambda key: run(key, 2.0, cut),
        "adaptive": lambda key: run(key, cosine, STEPS),
    }
    guided = [run(key, 2.0, STEPS)[0] for key in keys]
    for name, way in ways.items():
        rows = []
        for key, full in zip(keys, guided, strict=True):
            images, passes = way(key)
            away = jnp.sqrt(jnp.mean((images - full) ** 2))
            rows.append((passes, away, *measured(models, images)))
        names = ("passes", "away", "share", "distance")
        found = np.asarray(rows, float).T.tolist()
        results[name] = dict(zip(names, found, strict=True))
    return results


def main() -> None:
    models, seeds = started(__doc__, seeds=8)
    keys = [jax.random.key(seed) for seed in range(seeds)]

    ways = guidance(models, keys)
    header = (
        "way",
        "passes",
        "weight",
        "share",
        "low",
        "high",
        "distance",
        "low",
        "high",
    )
    rows = []
    for name, row in sorted(ways.items(), key=lambda way: np.mean(way[1]["share"])):
        intervals = (bootstrap_interval(row[column]) for column in header[3::3])
        rows.append((name, row["passes"], row["weight"], *sum(intervals, ())))
    print()
    show(header, rows)
    ours = ways["GFCG"]
    claims = [
        claimed(f"GFCG: share above that of {name}", ours["share"], row["share"])
        for name, row in ways.items()
        if row is not ours
    ]
    others = ways["classifier-free guidance"]["distance"]
    claims += [claimed("GFCG: nearer than classifier-free", others, ours["distance"])]

    skips = adaptation(models, keys)
    rows = [
        (name, *(float(np.mean(skips[name][c])) for c in skips["adaptive"]))
        for name in ("fewer steps", "cut for all", "adaptive", "guided in all steps")
    ]
    print(f"\nadaptive guidance, cosine {skips['cosine']}")
    show(("way", *skips["adaptive"]), rows)
    ours, full = skips["adaptive"], skips["guided in all steps"]
    most = (1 - SAVED) * 2 * STEPS
    claims += [
        claimed("adaptive: a quarter saved", most, ours["passes"]),
        claimed("adaptive: as near", full["distance"], ours["distance"], MARGINS[0]),
        claimed("adaptive: as good", ours["share"], full["share"], MARGINS[1]),
    ]
    claims += [
        claimed(f"adaptive: nearer than {name}", skips[name]["away"], ours["away"])
        for name in ("fewer steps", "cut for all")
    ]
    results = {"guidance": ways, "adaptive": skips, "claims": claims}
    save("guided_digits", ["jax", "optax", "scikit-learn"], results)


if __name__ == "__main__":
    main()
