"""Keys and random words, the same to the last bit as in compiled programs.

A key's value is its two words. What ``jax.random`` does with a threefry key is written
out here by its counter-based definition; other kinds of keys are left to the compiler.
"""

from __future__ import annotations

import math

import jax
import numpy as np

from gfopt.core.numpy_programs.operands import dtype_of, identity, shape_of
from gfopt.core.numpy_programs.rule import Function, Rule, UnknownEquation, Value
from gfopt.jaxprs import Equation

_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
_PARITY = np.uint32(0x1BD11BDA)
#: for each of the 20 rounds the two distances of a rotation by bits of one word
_SHIFTS = [
    [(np.uint32(d), np.uint32(32 - d)) for d in _ROTATIONS[group % 2]]
    for group in range(5)
]


FEW, _MASK = 3, 0xFFFFFFFF  # words for which Python's integers are faster


def encrypt(
    k0: Value, k1: Value, c0: Value | np.uint32, c1: Value | np.uint32
) -> tuple[Value, Value]:
    """Encrypts counters, as ``threefry.encrypt`` does: uint32 words or arrays."""
    words = np.broadcast(k0, k1, c0, c1)
    if words.size <= FEW:
        pairs = [_encrypted(*map(int, four)) for four in words]
        encrypted = np.array(pairs, np.uint32).reshape(*words.shape, 2)
        return encrypted[..., 0], encrypted[..., 1]
    x, y = np.asarray(c0 + k0), np.asarray(c1 + k1)
    if x.shape != y.shape:
        x, y = (np.array(word) for word in np.broadcast_arrays(x, y))
    keys = (k0, k1, k0 ^ k1 ^ _PARITY)
    spare = np.empty_like(y)
    for group in range(5):
        for left, right in _SHIFTS[group]:
            np.add(x, y, x)
            np.left_shift(y, left, spare)
            np.right_shift(y, right, y)
            np.bitwise_or(y, spare, y)
            np.bitwise_xor(y, x, y)
        np.add(x, keys[(group + 1) % 3], x)
        np.add(y, keys[(group + 2) % 3] + np.uint32(group + 1), y)
    return x[()], y[()]


def _encrypted(k0: int, k1: int, x: int, y: int) -> tuple[int, int]:
    keys = (k0, k1, k0 ^ k1 ^ int(_PARITY))
    x, y = (x + k0) & _MASK, (y + k1) & _MASK
    for group in range(5):
        for distance in _ROTATIONS[group % 2]:
            x = (x + y) & _MASK
            y = ((y << distance | y >> 32 - distance) & _MASK) ^ x
        x = (x + keys[(group + 1) % 3]) & _MASK
        y = (y + keys[(group + 2) % 3] + group + 1) & _MASK
    return x, y


def _counters(shape: tuple[int, ...]) -> tuple[Value, Value]:
    size = math.prod(shape)
    if size >= 1 << 32:
        raise UnknownEquation("random words beyond a counter of 32 bits")
    low = np.arange(size, dtype=np.uint32).reshape(shape)
    return np.zeros(shape, np.uint32), low


def _wrap(eqn: Equation) -> Function:
    kinds = [variable.aval.dtype for variable in (*eqn.inputs, *eqn.outputs)]
    keys = [k for k in kinds if jax.numpy.issubdtype(k, jax.dtypes.prng_key)]
    if any("fry" not in str(kind) for kind in keys):
        raise UnknownEquation("a random key that is not a threefry key")
    is_counted = jax.config.jax_threefry_partitionable  # type: ignore[attr-defined]
    if not is_counted:
        raise UnknownEquation("threefry keys that are not partitionable")
    return identity


def _seed(eqn: Equation) -> Function:
    _wrap(eqn)
    dtype = dtype_of(eqn.inputs[0])
    if eqn.inputs[0].aval.shape or dtype.kind not in "iu":
        raise UnknownEquation("random_seed of anything but one integer")
    mask = (1 << 8 * dtype.itemsize) - 1

    def seed(number: Value) -> Value:
        unsigned = int(number) & mask
        return np.array([unsigned >> 32, unsigned & 0xFFFFFFFF], np.uint32)

    return seed


def _one_key(eqn: Equation) -> None:
    _wrap(eqn)
    if eqn.inputs[0].aval.shape:
        raise UnknownEquation(f"{eqn.name} of several keys")


def _split(eqn: Equation) -> Function:
    _one_key(eqn)
    high, low = _counters(tuple(eqn["shape"]))
    return lambda key: np.stack(encrypt(key[0], key[1], high, low), -1)


def _fold_in(eqn: Equation) -> Function:
    _wrap(eqn)
    zero = np.uint32(0)
    return lambda key, data: np.stack(
        encrypt(key[..., 0], key[..., 1], zero, data.astype(np.uint32)), -1
    )


def _bits(eqn: Equation) -> Function:
    _one_key(eqn)
    high, low = _counters(tuple(eqn["shape"]))
    width, dtype = eqn["bit_width"], dtype_of(eqn.outputs[0])

    def bits(key: Value) -> Value:
        first, second = encrypt(key[0], key[1], high, low)
        if width < 64:
            return (first ^ second).astype(dtype)
        return (first.astype(dtype) << np.uint64(32)) | second.astype(dtype)

    return bits


def _threefry(eqn: Equation) -> Function:
    return encrypt


def named(eqn: Equation) -> Function | None:
    """Returns the function of a program of ``threefry.py`` that stands in another.

    None for any other program, and for batched ones: there the program itself says
    which axes go together.
    """
    name = eqn.get("name")
    if name not in ("encrypt", "draw_seeds"):
        return None
    shape, operands = shape_of(eqn.outputs[0]), [shape_of(v) for v in eqn.inputs]
    if name == "encrypt" and {*operands} <= {(), shape}:
        return encrypt
    if name == "draw_seeds" and operands == [(2,)]:
        zero, low = _counters(shape)
        return lambda words: [encrypt(words[0], words[1], low, zero)[0]]
    return None


RULES: dict[str, Rule] = {
    "random_seed": _seed,
    "random_wrap": _wrap,
    "random_unwrap": _wrap,
    "random_split": _split,
    "random_fold_in": _fold_in,
    "random_bits": _bits,
    "threefry2x32": _threefry,
}
