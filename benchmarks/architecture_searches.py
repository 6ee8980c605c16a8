"""Ways to choose an architecture, of those whose trained losses are in a table.

Each takes the losses of one training of every architecture, how many it may see, and
a generator; it returns the place of what it chose.

Source: He, Shu, Dai, Low (ICLR 2024), arXiv 2403.07591, for ``combined``: weights in
[-1, 1] by Bayesian optimization, one training fewer than there may be, then on down the
best ranking; here of ranks where they have scores scaled to [0, 1].
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

import gfopt
from gfopt.core.evaluate import judged


def first(losses: np.ndarray, budget: int, rng: Any, score: np.ndarray) -> int:
    """Trains the best by a score."""
    tried = np.argsort(-score, kind="stable")[:budget]
    return int(tried[np.argmin(losses[tried])])


def at_random(losses: np.ndarray, budget: int, rng: Any) -> int:
    """Trains some."""
    tried = rng.choice(len(losses), budget, replace=False)
    return int(tried[np.argmin(losses[tried])])


def evolution(choices: tuple[int, ...], score: np.ndarray | None) -> Any:
    """Returns aging evolution, its ask and its tell; with a score it is screened."""
    size = 4 if score is None else 16
    method: Any = gfopt.tokens.AgingEvolution(
        choices=choices, population_size=size, num_living=8, tournament_size=4
    )
    if score is not None:
        values = jnp.asarray(score).reshape(choices)
        method = gfopt.Screened(method, lambda place: -values[tuple(place)], share=0.25)
    return method, jax.jit(method.ask), jax.jit(method.tell)


def evolved(losses: np.ndarray, budget: int, rng: Any, space: Any, way: Any) -> int:
    """Trains what evolution asks for."""
    method, ask, tell = way
    state, tried = method.init(jax.random.key(0), space.SPACE[0]), []
    decode = jax.vmap(lambda member: method.decode(state, member))
    while len(tried) < budget:
        population = ask(jax.random.key(int(rng.integers(2**31))), state)
        members = np.asarray(decode(population.members))
        places = np.ravel_multi_index(members.T, space.CHOICES)
        found = judged(jnp.asarray(losses[places]), population.active, ())
        tried += places[np.asarray(population.active)].tolist()
        state, _ = tell(state, population, found)
    return int(np.array(tried)[np.argmin(losses[tried])])


def by_bayes(ranks: np.ndarray, budget: int, least: float) -> Any:
    """Returns ``(losses, key) -> weights [T - 1, M]``, by Bayesian optimization."""
    box = gfopt.spaces.Space(*(np.full(len(ranks), x) for x in (least, 1.0, 1.0)))
    inner = gfopt.BayesianOptimization(num_points=budget).drawn_within(box)
    method = gfopt.Bounded(inner, box)
    design = len(ranks) + 1  # weights that the first step asks for

    @jax.jit
    def asked(losses: Any, key: Any) -> Any:
        def step(state: Any, key: Any) -> Any:
            population = method.ask(key, state)
            weights = jax.vmap(lambda m: method.decode(state, m))(population.members)
            tops = jnp.argmax(weights @ jnp.asarray(ranks), axis=1)
            found = judged(losses[tops], population.active, ())
            return method.tell(state, population, found)[0], weights

        start, *keys = jax.random.split(key, budget - design + 1)
        x0 = jax.random.uniform(start, (len(ranks),), minval=least)
        state, some = step(method.init(start, x0), keys[0])
        more = lax.scan(step, state, jnp.stack(keys[1:]))[1]
        return jnp.concatenate([some, more[:, 0]])  # later steps ask for one

    return asked


def combined(
    losses: np.ndarray, budget: int, rng: Any, ranks: np.ndarray, asked: Any
) -> int:
    """Searches weights of scores by the loss of their best, then trains on down.

    The same network twice is trained once, so that it leaves more for the end.
    """
    if asked is None:
        weights = rng.dirichlet(np.ones(len(ranks)), budget - 1)
    else:
        key = jax.random.key(int(rng.integers(2**31)))
        weights = np.asarray(asked(jnp.asarray(losses), key))
    tops = np.argmax(weights @ ranks, axis=1)
    best = weights[np.argmin(losses[tops])]
    order = [*tops, *np.argsort(-(best @ ranks), kind="stable")]
    tried = list(dict.fromkeys(order))[:budget]
    return int(np.array(tried)[np.argmin(losses[tried])])
