"""What an object is, in JSON: to tell one configuration from another."""

from __future__ import annotations

import dataclasses
import functools
import json
import types
import zlib
from typing import Any

import jax
import numpy as np


def described(value: Any, _within: tuple[object, ...] = ()) -> Any:
    """Describes anything in JSON: numbers as they are, large arrays by a checksum.

    A function is its name and a checksum of its numbers: those written in it, its
    defaults, and what it closes over.

    Example:
        >>> import gfopt
        >>> described([np.zeros(3), gfopt.rademacher()])
        [[0.0, 0.0, 0.0], {'type': 'Noise', 'kind': 'rademacher', 'cached': None}]
    """
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, np.ndarray | jax.Array | np.generic):
        is_key = jax.numpy.issubdtype(value.dtype, jax.dtypes.prng_key)
        if is_key and isinstance(value, jax.Array):
            value = jax.random.key_data(value)
        array = np.asarray(value)
        if array.dtype.hasobject:  # its bytes are addresses
            return described(array.tolist(), _within)
        if array.size <= 16 and array.dtype.kind in "iuf":
            return array.tolist()
        crc = zlib.crc32(np.ascontiguousarray(array).tobytes())
        return f"{array.dtype}{list(array.shape)} crc32 {crc:08x}"
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = [field.name for field in dataclasses.fields(value)]
        parts = {name: described(getattr(value, name), _within) for name in names}
        return {"type": type(value).__name__, **parts}
    if isinstance(value, dict):
        return {str(key): described(part, _within) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [described(part, _within) for part in value]
    if isinstance(value, functools.partial):
        return described([value.func, value.args, value.keywords], _within)
    value = getattr(value, "__wrapped__", value)  # of jit
    if isinstance(value, types.FunctionType) and value not in _within:
        inside = [
            _numbers(value.__code__),
            value.__defaults__,
            value.__kwdefaults__,
            [c.cell_contents for c in value.__closure__ or () if c != types.CellType()],
        ]
        text = json.dumps(described(inside, (*_within, value)))
        return f"{value.__qualname__} crc32 {zlib.crc32(text.encode()):08x}"
    return getattr(value, "__qualname__", type(value).__qualname__)


def _numbers(code: types.CodeType) -> list[float]:
    """Returns the numbers in a function: what tells one schedule from another.

    Not its byte code, which another version of Python changes.
    """
    numbers: list[float] = []
    for part in code.co_consts:
        if isinstance(part, types.CodeType):
            numbers += _numbers(part)
        elif isinstance(part, int | float):
            numbers.append(part)
    return numbers
