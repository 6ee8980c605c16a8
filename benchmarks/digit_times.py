"""Which times a flow that draws digits in four steps should take, by evolution.

The search of AutoDiffusion (Li et al. 2023, arXiv 2309.10438), its first stage: a
genome is a set of time steps, here three of 99 beside the first; a generation has
mutants and crossovers of the best of all that were evaluated, and new sets, in the
paper's shares, none of them twice. The loss is the Fréchet distance of some images
from fixed noise. Claim: in few steps, the times that are found are far better than
equally spaced ones. Beside it, at as many evaluations, are random sets and ``cma_es``
of ``gfopt`` on the lengths of the steps; and ``t = (1 - i / 4)^p``, of which only the
exponent is chosen, by eleven evaluations. What was found is judged on other noise.

    python benchmarks/digit_times.py  # 80 seconds of processor time
"""

from __future__ import annotations

from collections.abc import Callable
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

import gfopt
from gfopt.research.statistics import bootstrap_interval

STEPS, GRID = 4, 100
IMAGES, JUDGED = sized(400, 50), sized(4000, 200)
POPULATION, GENERATIONS = sized(20, 4), sized(10, 2)
ELITES, MUTANTS, CHILDREN = sized(5, 2), sized(10, 2), sized(6, 1)
MUTATED = 0.25  # of the times of a mutant
EXPONENTS = np.linspace(0.5, 2.5, 11)

Genome = tuple[int, ...]
Losses = Callable[[Any], Any]


def drawn(flow: Any, times: jax.Array, key: Any, count: int) -> jax.Array:
    """Draws ``[count, 64]``, as many of each label."""
    x, label = jax.random.normal(key, (count, 64)), jnp.arange(count) % NONE
    for t, s in zip(times[:-1], times[1:], strict=True):
        x = moved(x, denoised(flow, x, t, label), t, s)
    return jnp.clip(x, -1, 1)


def distance(times: jax.Array, models: Models, key: Any, count: int) -> Any:
    """Returns the Fréchet distance of images that are drawn at ``times``."""
    return frechet(models, drawn(models.flow, times, key, count))


@jax.jit
def distances(times: jax.Array, models: Models, key: Any) -> Any:
    """Returns the distance at each of some times, ``[P]``."""
    return jax.lax.map(lambda t: distance(t, models, key, IMAGES), times)


def distance_of_lengths(y: jax.Array, models: Models, key: Any) -> Any:
    """Returns the distance at the times whose steps are ``softmax(y)`` long."""
    return distance(times_of_lengths(y), models, key, IMAGES)


def times_of(genome: Genome) -> np.ndarray:
    """Returns the times, from 1 to 0, of a set of places."""
    inner = np.array(sorted(genome, reverse=True)) / GRID
    return np.concatenate([[1], inner, [0]]).astype(np.float32)


def times_of_lengths(y: jax.Array) -> jax.Array:
    """Returns the times whose steps are ``softmax(y)`` long."""
    inner = 1 - jnp.cumsum(jax.nn.softmax(y))[:-1]
    return jnp.concatenate([jnp.ones(1), inner, jnp.zeros(1)])


def random_genome(rng: np.random.Generator) -> Genome:
    """Draws a set."""
    places = rng.choice(np.arange(1, GRID), STEPS - 1, replace=False)
    return tuple(sorted(places.tolist()))


def mutant(rng: np.random.Generator, parent: Genome) -> Genome:
    """Draws some places of a set again, among those that it does not have."""
    places = list(parent)
    for place in range(len(places)):
        if rng.random() < MUTATED:
            unused = np.setdiff1d(np.arange(1, GRID), places)
            places[place] = int(rng.choice(unused))
    return tuple(sorted(places))


def child(rng: np.random.Generator, one: Genome, other: Genome) -> Genome:
    """Takes each place from one of two sets; what is there twice comes once."""
    places = np.where(rng.random(len(one)) < 0.5, one, other)
    return tuple(sorted({int(place) for place in places}))


def asked(
    rng: np.random.Generator, best: list[Genome], known: dict[Genome, float]
) -> list[Genome]:
    """Returns mutants, crossovers and random sets, none of them known."""

    def parent() -> Genome:
        return best[rng.integers(len(best))]

    kinds: list[tuple[int, Callable[[], Genome]]] = [
        (MUTANTS, lambda: mutant(rng, parent())),
        (CHILDREN, lambda: child(rng, parent(), parent())),
        (POPULATION, lambda: random_genome(rng)),
    ]
    new: dict[Genome, None] = {} if known else dict.fromkeys(best)
    for count, make in kinds:
        wanted = min(len(new) + count, POPULATION)
        for _ in range(10 * count):  # as often as the paper tries
            if len(new) == wanted:
                break
            genome = make()
            if genome not in known and len(genome) == STEPS - 1:
                new[genome] = None
    return list(new)


def evolved(losses: Losses, rng: np.random.Generator) -> np.ndarray:
    """Returns the best times of an evolution from equally spaced ones."""
    known: dict[Genome, float] = {}
    best = [tuple(GRID * i // STEPS for i in range(1, STEPS))]
    for _ in range(GENERATIONS):
        genomes = asked(rng, best, known)
        found = losses(np.stack([times_of(genome) for genome in genomes]))
        known |= dict(zip(genomes, np.asarray(found).tolist(), strict=True))
        # of all generations, not of the last one
        best = sorted(known, key=known.__getitem__)[:ELITES]
    return times_of(best[0])


def searched(models: Models, seed: int) -> dict[str, np.ndarray]:
    """Returns the times that each search finds."""
    key = jax.random.key(seed)

    def best(times: list[Any]) -> np.ndarray:
        found: np.ndarray = times[
            int(np.argmin(distances(np.stack(times), models, key)))
        ]
        return found

    powers = [np.float32((1 - np.arange(STEPS + 1) / STEPS) ** p) for p in EXPONENTS]
    rng = np.random.default_rng(seed)
    sets = [times_of(random_genome(rng)) for _ in range(POPULATION * GENERATIONS)]
    found = gfopt.minimize(
        distance_of_lengths,
        jnp.zeros(STEPS),
        method="cma_es",
        sigma0=0.5,
        budget=POPULATION * GENERATIONS,
        args=(models, key),
        seed=seed,
    )
    return {
        "equally spaced": steps(STEPS),
        "the best power": best(powers),
        "random sets": best(sets),
        "evolution of sets": evolved(
            lambda times: distances(times, models, key), np.random.default_rng(seed)
        ),
        "cma_es on lengths": np.asarray(times_of_lengths(found.x)),
    }


def main() -> None:
    models, seeds = started(__doc__, seeds=5)

    @jax.jit
    def judged(times: Any, key: Any) -> Any:
        return distance(times, models, key, JUDGED)

    found: dict[str, Any] = {}
    for seed in range(seeds):
        for name, times in searched(models, seed).items():
            row = found.setdefault(name, {"times": [], "distance": []})
            row["times"].append(np.round(times, 4).tolist())
            fresh = jax.random.key(1000 + seed)
            row["distance"].append(float(judged(jnp.asarray(times), fresh)))
    order = sorted(found.items(), key=lambda item: -np.mean(item[1]["distance"]))
    show(
        ("times", "distance", "low", "high"),
        [(name, *bootstrap_interval(row["distance"])) for name, row in order],
    )
    ours = found["evolution of sets"]["distance"]
    claims = [
        claimed(f"evolution of sets below {name}", row["distance"], ours)
        for name, row in found.items()
        if name != "evolution of sets"
    ]
    results = {"steps": STEPS, "found": found, "claims": claims}
    save("digit_times", ["jax", "optax", "scikit-learn"], results)


if __name__ == "__main__":
    main()
