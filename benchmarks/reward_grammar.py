"""Rewards as texts: their grammar, how they become data, and who proposes them.

    reward = weight * factor [* factor] + ...       at most four terms
    factor = name, abs(name), square(name) or near(name) = exp(-4 name^2)
    name   = height, angle, speed, torque

A program is three small arrays, so that one compiled training serves all of them.
"""

from __future__ import annotations

import ast
import random
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gfopt.texts import Scored

NAMES = ("height", "angle", "speed", "torque")
FUNCTIONS: dict[str, Callable[[Any], Any]] = {
    "": lambda x: x,
    "abs": jnp.abs,
    "square": jnp.square,
    "near": lambda x: jnp.exp(-4 * x**2),
}
FACTORS = [f"{function}({name})" if function else name
           for function in FUNCTIONS for name in NAMES]  # fmt: skip
ONE = len(FACTORS)  # the factor that is always 1
UPRIGHT = ONE + 1  # the score itself, which no proposer knows of
TERMS = 4
Term = tuple[float, list[str]]


class Program(NamedTuple):
    """A reward as data: ``weights [4]``, ``first [4]`` and ``second [4]`` factors."""

    weights: Any
    first: Any
    second: Any


SPARSE = Program(*(np.array([x, y, y, y], t) for x, y, t in (
    (1, 0, np.float32), (UPRIGHT, ONE, np.int32), (ONE, ONE, np.int32))))  # fmt: skip


def components(program: Program, seen: Any, upright: Any) -> jax.Array:
    """Returns the terms of a reward, ``[4]``, for the four numbers that are seen."""
    values = [function(seen) for function in FUNCTIONS.values()]
    table = jnp.concatenate([*values, jnp.stack([1.0, upright])])
    return program.weights * table[program.first] * table[program.second]


def terms_of(text: str) -> list[Term]:
    """Parses a reward.

    Raises:
        ValueError: for what is none; it says why.
    """
    try:
        tree = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise ValueError("it is no expression") from None
    found = [_term(node, sign) for node, sign in _parts(tree, ast.Add, 1.0)]
    if len(found) > TERMS:
        raise ValueError(f"it has {len(found)} terms, and at most {TERMS} are allowed")
    return found


def _parts(node: Any, kind: type, sign: float) -> list[tuple[Any, float]]:
    """Splits a sum (with its signs) or a product."""
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.UAdd):
        turned = -sign if isinstance(node.op, ast.USub) else sign
        return _parts(node.operand, kind, turned)
    if isinstance(node, ast.BinOp):
        if isinstance(node.op, kind):
            return [*_parts(node.left, kind, sign), *_parts(node.right, kind, 1.0 if
                    kind is ast.Mult else sign)]  # fmt: skip
        if kind is ast.Add and isinstance(node.op, ast.Sub):
            return [*_parts(node.left, kind, sign), *_parts(node.right, kind, -sign)]
    return [(node, sign)]


def _term(node: Any, sign: float) -> Term:
    weight, factors = sign, []
    for part, turned in _parts(node, ast.Mult, 1.0):
        weight *= turned
        if isinstance(part, ast.Constant) and type(part.value) in (int, float):
            weight *= float(part.value)
        else:
            factors.append(ast.unparse(part))
            if factors[-1] not in FACTORS:
                raise ValueError(f"{factors[-1]!r} is no factor")
    if len(factors) > 2:
        raise ValueError(f"a term has {len(factors)} factors, at most 2 are allowed")
    if not np.isfinite(weight) or abs(weight) > 1e6:
        raise ValueError(f"a weight is {weight:g}")
    return weight, factors


def program_of(text: str) -> Program:
    """Parses a reward to data."""
    terms = terms_of(text)
    terms += [(0.0, [])] * (TERMS - len(terms))
    places = [[FACTORS.index(one) for one in factors] + [ONE, ONE]
              for _, factors in terms]  # fmt: skip
    weights = np.array([weight for weight, _ in terms], np.float32)
    first, second = (np.array([p[i] for p in places], np.int32) for i in (0, 1))
    return Program(weights, first, second)


def shown(terms: list[Term]) -> str:
    """Writes a reward as a text."""
    return " + ".join(" * ".join([f"{w:.3g}", *factors]) for w, factors in terms)


class Grammar:
    """Proposes rewards by chance, with or without a look at parent and feedback.

    Args:
        seed: of all draws.
        sees_parent: propose changes of the parent, else new rewards.
        sees_feedback: follow the advice of Eureka's prompt: write a reward anew whose
            score is near zero; change or drop a component that stays the same; rescale
            one that is far larger than the others.
    """

    def __init__(self, seed: int, sees_parent: bool, sees_feedback: bool):
        self.draw = random.Random(seed)
        self.sees_parent, self.sees_feedback = sees_parent, sees_feedback

    def __call__(self, parent: Scored | None, feedback: str, n: int) -> list[str]:
        """Returns ``n`` rewards."""
        if parent is None or not self.sees_parent:
            return [shown(self._new()) for _ in range(n)]
        return [shown(self._child(parent, feedback)) for _ in range(n)]

    def _factor(self) -> Term:
        weight = self.draw.choice((-1, 1)) * 10 ** self.draw.uniform(-2, 0.5)
        return weight, self.draw.sample(FACTORS, self.draw.choice((1, 1, 2)))

    def _new(self) -> list[Term]:
        return [self._factor() for _ in range(self.draw.randint(1, TERMS))]

    def _child(self, parent: Scored, feedback: str) -> list[Term]:
        terms = terms_of(parent.text)
        if self.sees_feedback:
            advised = self._advised(terms, parent.value, feedback)
            if advised is not None:
                return advised
        place = self.draw.randrange(len(terms))
        way = self.draw.choice(("rescale", "rewrite", "add", "drop"))
        if way == "drop" and len(terms) > 1:
            return _put(terms, place)
        if way == "add" and len(terms) < TERMS:
            return [*terms, self._factor()]
        if way == "rewrite":
            return _put(terms, place, self._factor())
        weight, factors = terms[place]
        factor = self.draw.choice((-1, 0.2, 0.5, 2, 5))
        return _put(terms, place, (weight * factor, factors))

    def _advised(
        self, terms: list[Term], value: float, feedback: str
    ) -> list[Term] | None:
        """Follows a piece of advice, or none by chance."""
        if value < 0.02:  # (1) near zero: all anew
            return self._new()
        rows = re.findall(r"^component \d: (.*)$", feedback, re.M)
        means = np.array([[float(x) for x in row.split()] for row in rows])
        size, change = abs(means).max(1), np.ptp(means, axis=1)
        dead = np.flatnonzero(change < 0.05 * size.max())  # (2) the same throughout
        large = np.flatnonzero(size > 10 * np.median(size))  # (3) far too large
        if len(dead) and self.draw.random() < 0.5:
            place = int(self.draw.choice(dead))
            if len(terms) > 1 and self.draw.random() < 0.5:
                return _put(terms, place)
            return _put(terms, place, self._factor())
        if len(large) and self.draw.random() < 0.5:
            place = int(large[0])
            weight, factors = terms[place]
            return _put(terms, place, (weight / 10, factors))
        return None


def _put(terms: list[Term], place: int, *instead: Term) -> list[Term]:
    """Returns the terms with another one, or none, at a place."""
    return [*terms[:place], *instead, *terms[place + 1 :]]
