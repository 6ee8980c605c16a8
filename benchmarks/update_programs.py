"""Update rules of optimizers as small programs: vectors of integers that JAX runs.

A program has eight lines ``target = op(a, b, c)`` over registers of the weights' shape,
and a learning rate. ``m`` and ``v`` keep their values from step to step, ``t`` and
``u`` begin at 0; at the end ``w <- w - rate u``. A line is five tokens, so that a
program is ``int32[41]`` and a population of them is data of one compiled call.

Source: the space is a small relative of that of Chen et al. (2023), arXiv 2302.06675.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

LINES = 8
REGISTERS = ("w", "g", "m", "v", "t", "u")
TARGETS = (2, 3, 4, 5)
CONSTANTS = (0.001, 0.01, 0.05, 0.1, 0.5, 0.9, 0.95, 0.99, 0.999, 2.0)
RATES = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 0.1, 0.3)


def divided(a: Any, b: Any, c: Any) -> Any:
    """``a / b``, with no denominator nearer to 0 than 1e-8."""
    return a / jnp.where(jnp.abs(b) < 1e-8, 1e-8, b)


# text, which of a, b and c it takes, function
OPERATIONS: tuple[tuple[str, str, Any], ...] = (
    ("", "", lambda a, b, c: a),
    ("{a}", "a", lambda a, b, c: a),
    ("{a} + {b}", "ab", lambda a, b, c: a + b),
    ("{a} - {b}", "ab", lambda a, b, c: a - b),
    ("{a} * {b}", "ab", lambda a, b, c: a * b),
    ("{a} / {b}", "ab", divided),
    ("{c} {a} + (1 - {c}) {b}", "abc", lambda a, b, c: c * a + (1 - c) * b),
    ("{c} {a}", "ac", lambda a, b, c: c * a),
    ("sqrt |{a}|", "a", lambda a, b, c: jnp.sqrt(jnp.abs(a))),
    ("{a}^2", "a", lambda a, b, c: a**2),
    ("sign {a}", "a", lambda a, b, c: jnp.sign(a)),
    ("tanh {a}", "a", lambda a, b, c: jnp.tanh(a)),
    ("max({a}, {b})", "ab", lambda a, b, c: jnp.maximum(a, b)),
    (
        "{a} / rms {a}",
        "a",
        lambda a, b, c: a / (jnp.sqrt(jnp.mean(a**2)) + 1e-8),
    ),
)
NOTHING = 0
LINE = (len(OPERATIONS), len(REGISTERS), len(REGISTERS), len(CONSTANTS), len(TARGETS))
CHOICES = LINE * LINES + (len(RATES),)


def written(lines: list[tuple[str, str, str, float, str]], rate: float) -> np.ndarray:
    """Returns a program from its first lines ``(op, a, b, c, target)``."""
    texts = [text for text, _, _ in OPERATIONS]
    names = [REGISTERS[index] for index in TARGETS]
    tokens = [
        (
            texts.index(op),
            REGISTERS.index(a),
            REGISTERS.index(b),
            CONSTANTS.index(c),
            names.index(target),
        )
        for op, a, b, c, target in lines
    ]
    tokens += [(NOTHING, 0, 0, 0, 0)] * (LINES - len(lines))
    return np.array([*np.ravel(tokens), RATES.index(rate)], np.int32)


MIXED = "{c} {a} + (1 - {c}) {b}"
ADAM = written(
    [
        (MIXED, "m", "g", 0.9, "m"),
        ("{a}^2", "g", "g", 0.9, "t"),
        (MIXED, "v", "t", 0.999, "v"),
        ("sqrt |{a}|", "v", "g", 0.9, "t"),
        ("{a} / {b}", "m", "t", 0.9, "u"),
    ],
    1e-3,
)
LION = written(
    [
        (MIXED, "m", "g", 0.9, "t"),
        ("sign {a}", "t", "g", 0.9, "u"),
        (MIXED, "m", "g", 0.99, "m"),
    ],
    1e-3,
)


def updated(program: Any, w: Any, g: Any, memory: Any) -> tuple[Any, Any]:
    """Runs a program once.

    Args:
        program: ``int32[41]``.
        w: the weights, ``float[D]``.
        g: their gradient.
        memory: ``m`` and ``v``, ``float[2, D]``.

    Returns:
        ``u``, which is to be subtracted at the learning rate, and the next memory.
    """
    zeros = jnp.zeros_like(w)
    registers = jnp.stack([w, g, memory[0], memory[1], zeros, zeros])
    branches = [function for _, _, function in OPERATIONS]

    def line(registers: Any, tokens: Any) -> tuple[Any, None]:
        op, a, b, c, target = tokens
        place = jnp.array(TARGETS)[target]
        constant = jnp.array(CONSTANTS, w.dtype)[c]
        value = lax.switch(op, branches, registers[a], registers[b], constant)
        value = jnp.where(op == NOTHING, registers[place], value)
        return registers.at[place].set(value), None

    lines = program[:-1].reshape(LINES, len(LINE))
    registers, _ = lax.scan(line, registers, lines)
    return registers[5], registers[2:4]


def rate_of(program: Any) -> Any:
    """Returns the learning rate of a program."""
    return jnp.array(RATES)[program[-1]]


def mutated(key: Any, program: Any) -> Any:
    """Inserts a line, deletes one, changes one token of one, or changes the rate."""
    keys = jax.random.split(key, 5)
    lines = program[:-1].reshape(LINES, len(LINE))
    place = jax.random.randint(keys[0], (), 0, LINES)
    sizes = jnp.array(LINE)
    fresh = jax.random.randint(keys[1], (len(LINE),), 0, sizes)
    rows = jnp.arange(LINES)
    inserted = jnp.where(rows[:, None] < place, lines, jnp.roll(lines, 1, axis=0))
    inserted = inserted.at[place].set(fresh)
    deleted = jnp.where(rows[:, None] < place, lines, jnp.roll(lines, -1, axis=0))
    deleted = deleted.at[-1].set(0)
    field = jax.random.randint(keys[2], (), 0, len(LINE))
    changed = lines.at[place, field].set(fresh[field])
    kind = jax.random.choice(keys[3], 4, p=jnp.array([0.3, 0.25, 0.35, 0.1]))
    chosen = jnp.stack([inserted, deleted, changed, lines])[kind]
    step = jnp.where(jax.random.bernoulli(keys[4]), 1, -1)
    rate = jnp.clip(program[-1] + jnp.where(kind == 3, step, 0), 0, len(RATES) - 1)
    return jnp.append(chosen.ravel(), rate).astype(jnp.int32)


def fingerprints(programs: Any, size: int = 16, steps: int = 4) -> np.ndarray:
    """Returns what programs do to fixed weights and gradients, ``[P, steps x size]``.

    Two programs that do the same have the same, to five digits, whatever their lines;
    NaN for one that leaves the numbers.
    """
    return np.asarray(_fingerprints(jnp.asarray(programs), size, steps))


@jax.jit(static_argnums=(1, 2))
def _fingerprints(programs: Any, size: int, steps: int) -> Any:
    w, *gradients = jax.random.normal(jax.random.key(0), (steps + 1, size))

    def one(program: Any) -> Any:
        memory, seen = jnp.zeros((2, size)), []
        for g in gradients:
            u, memory = updated(program, w, g, memory)
            seen.append(rate_of(program) * u)
        return jnp.concatenate(seen)

    return lax.reduce_precision(lax.map(one, programs), 8, 16)


def live_lines(program: np.ndarray) -> list[int]:
    """Returns the lines that the update depends on, now or in a later step."""
    lines = np.asarray(program[:-1]).reshape(LINES, len(LINE)).tolist()
    wanted, live = {5}, set()
    while True:  # m and v at the end of a step are those of the next one's start
        needed, kept = set(wanted), set()
        for index in range(LINES - 1, -1, -1):
            op, a, b, _, target = lines[index]
            place = TARGETS[target]
            if op == NOTHING or place not in needed:
                continue
            kept.add(index)
            needed.discard(place)
            takes = OPERATIONS[op][1]
            needed |= {a} if "a" in takes else set()
            needed |= {b} if "b" in takes else set()
        more = wanted | (needed & {2, 3})
        if (more, kept) == (wanted, live):
            return sorted(live)
        wanted, live = more, kept


def stripped(program: np.ndarray) -> np.ndarray:
    """Returns the program with empty lines in place of those without effect."""
    lines = np.array(program[:-1]).reshape(LINES, len(LINE))
    lines[np.setdiff1d(np.arange(LINES), live_lines(program))] = NOTHING
    return np.append(lines.ravel(), program[-1]).astype(np.int32)


def shown(program: np.ndarray) -> str:
    """Returns the text of a program without what has no effect."""
    lines = np.asarray(program[:-1]).reshape(LINES, len(LINE)).tolist()
    texts = []
    for index in live_lines(program):
        op, a, b, c, target = lines[index]
        text = OPERATIONS[op][0].format(a=REGISTERS[a], b=REGISTERS[b], c=CONSTANTS[c])
        texts.append(f"{REGISTERS[TARGETS[target]]} = {text}")
    return "; ".join([*texts, f"w -= {RATES[program[-1]]} u"])
