"""Rewards as programs: a text is proposed, a policy trained on it, its score judged.

A pendulum hangs and is to be swung up and held by a motor too weak to lift it. The
score is the share of an episode of 7.5 s in which it is within 20 degrees of upright
and slow; nothing else counts. A reward is a text of ``reward_grammar.py``; each costs
one training of a network of 41 numbers by OpenES, all of them by one compiled program.
Every way has the same number of trainings, or of generations. Reported, over seeds:

- reward: what is found at the end, in fresh trainings, as a reward is judged in Eureka
  (Ma et al. 2024), on fresh episodes;
- policy: the best policy of all trainings, chosen by 8 episodes, on fresh ones.

Beside the searches: random rewards, the score itself as reward, the reward that
Gymnasium's pendulum has, and one OpenES that spends all on the score, without
trainings.

    python benchmarks/reward_programs.py
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from common import parsed, save, show, sized
from jax import lax
from reward_grammar import SPARSE, Grammar, Program, components, program_of, terms_of

import gfopt
from gfopt.problems import Pendulum, Rollout, continuous_action, mlp
from gfopt.pytree import pytree
from gfopt.research.statistics import bootstrap_interval, paired_difference_interval
from gfopt.texts import evolve

SIZES = (3, 8, 1)  # of the network
STEPS, EPISODES = 150, 2  # of a training's evaluation
BLOCKS = 5  # looks at the policy in training
GENERATIONS = sized(20, 1)  # between two of them
VALIDATION, TEST, FRESH = 8, 32, 5  # episodes; trainings of the reward that is found
HUMAN = "-1 * square(angle) - 0.1 * square(speed) - 0.001 * square(torque)"
TORQUE = 3.0  # 5 would lift it
# of 9 pairs of sigma and learning rate the best for the human reward, and as good as
# any for the score itself
METHOD = gfopt.OpenES(population_size=16, sigma=0.3, learning_rate=0.4)


@pytree
class Rewarded:
    """The hanging pendulum with a program as its reward."""

    program: Program
    pendulum: Pendulum

    def reset(self, key: Any) -> tuple[Any, Any]:
        """Starts near the bottom, almost at rest."""
        angle, speed = 0.1 * jax.random.normal(key, (2,)) + jnp.array([jnp.pi, 0.0])
        observation = jnp.stack([jnp.cos(angle), jnp.sin(angle), speed])
        return jnp.stack([angle, speed]), observation

    def seen(self, state: Any, action: Any) -> tuple[Any, Any]:
        """Returns the terms of the reward, and whether it stands."""
        angle = (state[0] + jnp.pi) % (2 * jnp.pi) - jnp.pi
        torque = self.pendulum.torque * jnp.clip(action.reshape(()), -1, 1)
        numbers = jnp.stack([jnp.cos(angle), angle, state[1], torque])
        upright = ((abs(angle) < np.deg2rad(20)) & (abs(state[1]) < 1)) * 1.0
        return components(self.program, numbers, upright), upright

    def step(self, key: Any, state: Any, action: Any) -> tuple[Any, Any, Any, Any]:
        """Makes one step; its reward is that of the program."""
        state, observation, _, done = self.pendulum.step(key, state, action)
        terms, _ = self.seen(state, action)
        return state, observation, terms.sum(), done

    def watched(self, key: Any, network: Any) -> tuple[Any, Any]:
        """Plays an episode: the means of the terms, ``[4]``, and the score."""

        def turn(now: Any, _: None) -> tuple[Any, Any]:
            state, observation = now
            action = continuous_action(network, observation)
            state, observation, _, _ = self.pendulum.step(key, state, action)
            return (state, observation), self.seen(state, action)

        _, (terms, upright) = lax.scan(turn, self.reset(key), None, STEPS)
        return terms.mean(0), upright.mean()


def looked(pendulum: Rewarded, network: Any, key: Any, count: int) -> tuple[Any, Any]:
    """Plays ``count`` episodes: means of the terms, ``[4]``, and of the score."""
    watch = jax.vmap(pendulum.watched, (0, None))
    terms, scores = watch(jax.random.split(key, count), network)
    return terms.mean(0), scores.mean()


def trained_on(state: Any, pendulum: Rewarded, key: Any, generations: int) -> Any:
    """Goes on with a training; returns its state and the network."""
    task = Rollout(pendulum, continuous_action, EPISODES, STEPS)
    result = gfopt.run(
        METHOD, task.objective(), METHOD.recommend(state), key=key, state=state,
        generations=generations, batches=task.episodes,
    )  # fmt: skip
    return result.state, result.recommended


def trained(key: Any, program: Program) -> tuple[Any, Any, Any]:
    """Trains a network on a reward.

    Returns:
        Scores on episodes to choose by, ``[BLOCKS + 1]``, the last policy's on fresh
        ones, and means of the terms at looks in training, ``[BLOCKS + 1, 4]``.
    """
    pendulum = Rewarded(program, Pendulum(torque=TORQUE))
    first, train, choose, test = jax.random.split(key, 4)
    network = mlp(first, SIZES)

    def block(state: Any, _: None) -> tuple[Any, Any]:
        state, network = trained_on(state, pendulum, train, GENERATIONS)
        return state, looked(pendulum, network, choose, VALIDATION)

    before = looked(pendulum, network, choose, VALIDATION)
    state, looks = lax.scan(block, METHOD.init(train, network), None, BLOCKS)
    looks = jax.tree.map(lambda a, b: jnp.concatenate([a[None], b]), before, looks)
    final = looked(pendulum, METHOD.recommend(state), test, TEST)[1]
    return looks[1], final, looks[0]


def at_once(seeds: int, budget: int) -> list[dict[str, Any]]:
    """Spends the generations of all trainings on one search of the score itself.

    After each training's worth of generations its policy is one to choose from.
    """
    pendulum = Rewarded(SPARSE, Pendulum(torque=TORQUE))

    def search(key: Any) -> tuple[Any, Any]:
        first, train, choose, test = jax.random.split(key, 4)

        def block(state: Any, key: Any) -> tuple[Any, Any]:
            state, network = trained_on(state, pendulum, train, BLOCKS * GENERATIONS)
            chosen = looked(
                pendulum, network, jax.random.fold_in(choose, key), VALIDATION
            )[1]
            return state, (chosen, looked(pendulum, network, test, TEST)[1])

        start = METHOD.init(train, mlp(first, SIZES))
        return lax.scan(block, start, jnp.arange(budget))[1]

    keys = jax.vmap(jax.random.key)(jnp.arange(seeds))
    chosen, final = map(np.asarray, jax.jit(jax.vmap(search))(keys))
    best = final[np.arange(seeds), chosen.argmax(1)]
    return [{"policy": round(float(one), 4)} for one in best]


class Trainings:
    """The score of rewards, in batches of one size, and all that was trained."""

    def __init__(self, size: int):
        self.size, self.compiled = size, jax.jit(jax.vmap(trained))
        self.log: list[tuple[float, float]] = []  # to choose by, on fresh episodes
        self.key = jax.random.key(0)

    def reset(self, *numbers: int) -> None:
        """Begins another run, with draws of its own."""
        self.log, self.key = [], jax.random.key(0)
        for number in numbers:
            self.key = jax.random.fold_in(self.key, number)

    def of(self, programs: list[Program]) -> list[tuple[Any, float, Any]]:
        """Trains on each program: scores at the looks, on fresh episodes, and terms."""
        found: list[tuple[Any, float, Any]] = []
        for start in range(0, len(programs), self.size):
            part = programs[start : start + self.size]
            padded = part + [part[0]] * (self.size - len(part))
            self.key, key = jax.random.split(self.key)
            stacked = jax.tree.map(lambda *rows: np.stack(rows), *padded)
            rows = self.compiled(jax.random.split(key, self.size), stacked)
            scores, final, terms = map(np.asarray, rows)
            found += [(scores[i], float(final[i]), terms[i]) for i in range(len(part))]
        self.log += [(float(scores[-1]), final) for scores, final, _ in found]
        return found

    def score(self, texts: list[str]) -> list[Any]:
        """Trains on texts; what is no reward is an exception. For ``evolve``."""
        outcomes: list[Any] = []
        for text in texts:
            try:
                outcomes.append(program_of(text))
            except ValueError as error:
                outcomes.append(error)
        good = [one for one in outcomes if isinstance(one, Program)]
        trainings = iter(self.of(good) if good else [])
        return [
            one if isinstance(one, ValueError) else _reflected(text, *next(trainings))
            for text, one in zip(texts, outcomes, strict=True)
        ]

    def best_policy(self) -> float:
        """Returns what the policy that one would choose has on fresh episodes."""
        return max(self.log)[1]


def _reflected(text: str, scores: Any, final: float, terms: Any) -> tuple[float, str]:
    """Returns the score of a training, and what was seen in it as a text."""
    lines = ["score: " + " ".join(f"{x:.3f}" for x in scores)]
    for place in range(len(terms_of(text))):
        values = " ".join(f"{x:.4g}" for x in terms[:, place])
        lines.append(f"component {place}: {values}")
    return float(scores[-1]), "\n".join(lines)


def played(
    way: str, seed: int, trainings: Trainings, given: argparse.Namespace
) -> dict[str, Any]:
    """Has one way its trainings, and judges what it found."""
    trainings.reset(seed, 0)  # the first round of all ways has the same draws
    seen: dict[str, Any] = {}
    fixed = {"human": program_of(HUMAN), "the score itself": SPARSE}
    if way in fixed:
        chosen = fixed[way]
        trainings.of([chosen] * given.budget)
    else:
        propose = Grammar(seed, "random" not in way, ", feedback" in way)
        found = evolve(
            propose, trainings.score, population_size=given.population_size,
            budget=given.budget, maximize=True, batched=True, elitist="1 +" in way,
        )  # fmt: skip
        seen = {"text": found.x, "in search": round(found.fun, 4)}
        seen["different"] = len({one.text for one in found.ledger}) / found.nfev
        assert found.x is not None  # each text of the grammar is a reward
        chosen = program_of(found.x)
    seen["policy"] = round(trainings.best_policy(), 4)
    trainings.reset(seed, 1)
    fresh = [final for _, final, _ in trainings.of([chosen] * FRESH)]
    seen["reward"] = round(float(np.mean(fresh)), 4)
    return seen


WAYS = (
    "(1, K), feedback",
    "(1, K)",
    "(1 + K)",
    "random rewards",
    "the score itself",
    "human",
)


def main() -> None:
    """Measures all ways."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=6)
    parser.add_argument("--budget", type=int, default=40, help="trainings of a run")
    parser.add_argument("--population-size", type=int, default=8)
    given = parsed(parser, seeds=2, budget=4, population_size=2)
    trainings, began = Trainings(given.population_size), time.monotonic()
    rows = {"OpenES on the score, at once": at_once(given.seeds, given.budget)}
    print(f"at once: {time.monotonic() - began:.0f} s", flush=True)
    for way in WAYS:
        rows[way] = [played(way, seed, trainings, given) for seed in range(given.seeds)]
        print(f"{way}: {time.monotonic() - began:.0f} s", flush=True)
    tables: dict[str, Any] = {}
    for name in ("reward", "policy"):
        table = []
        ours = [row[name] for row in rows[WAYS[0]]]
        for way, runs in rows.items():
            if name in runs[0]:
                values = [row[name] for row in runs]
                gain = paired_difference_interval(ours, values)
                table.append((way, *map(float, (*bootstrap_interval(values), *gain))))
        print()
        names = ("low", "high", f"{WAYS[0]} minus it", "low", "high")
        # losses first
        table = sorted(table, key=lambda row: -row[1])
        show((name, "mean", *names), table)
        tables[name] = [
            {"way": way, "mean": mean, "interval": [low, high],
             "difference": gain, "difference_interval": [least, most]}
            for way, mean, low, high, gain, least, most in table
        ]  # fmt: skip
    results: dict[str, Any] = {
        "settings": vars(given) | {"torque": TORQUE},
        "human": HUMAN, "seconds": round(time.monotonic() - began),
        "tables": tables, "runs": rows,
    }  # fmt: skip
    save("reward_programs", ["jax"], results)


if __name__ == "__main__":
    main()
