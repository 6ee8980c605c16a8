"""The arguments of the drivers: checked, and converted for a search."""

from __future__ import annotations

import inspect
import math
import numbers
from collections.abc import Callable, Iterable, Mapping, Set
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gfopt import checks, jaxprs
from gfopt.core.objective import as_number, described
from gfopt.lazy import lazy
from gfopt.optimizers import vectors
from gfopt.protocol import Optimizer, as_method, layers
from gfopt.types import PyTree, Solution


def check_seed(seed: int) -> None:
    """Refuses anything but an integer that two words can hold."""
    checks.integer("seed", seed, 0)
    if seed >= 2**64:
        raise ValueError(f"seed must be below 2**64; got {checks.shown(seed)}")


def check_limits(
    budget: int | None, max_seconds: float | None, target: float | None
) -> None:
    """Refuses limits of a search that cannot be met."""
    if budget is not None:
        checks.integer("budget", budget, 1)
    if max_seconds is not None:
        checks.real("max_seconds", max_seconds, 0.0)
    if target is not None:
        checks.real("target", target)
        checks.finite("target", target)


def as_callbacks(callbacks: Any) -> tuple[Callable[..., object], ...]:
    """Returns one function, or several, as a tuple."""
    if callable(callbacks):
        return (callbacks,)
    checks.instance("callbacks", callbacks, Iterable, "a function or several")
    listed = tuple(callbacks)
    for callback in listed:
        checks.is_callable("callbacks", callback)
    return listed


def check_batches(batches: object) -> None:
    """Refuses data that is neither a function nor an iterable of pytrees."""
    if batches is None or callable(batches):
        return
    checks.instance("batches", batches, Iterable, "a function or an iterable")
    if isinstance(batches, str | bytes):
        raise TypeError(
            "batches must be a function or an iterable of pytrees; "
            f"got {checks.shown(batches)}"
        )


def check_evaluator(evaluator: Any) -> None:
    """Rejects anything that is not an evaluator, including an uncalled factory."""
    is_function = inspect.isfunction(evaluator)
    is_factory = is_function and evaluator.__module__.startswith("gfopt.")
    if is_factory or isinstance(evaluator, type) or not callable(evaluator):
        call = f"; call it: {evaluator.__name__}()" if is_factory else ""
        raise TypeError(
            "evaluator must be an evaluator such as gfopt.vmapped(); "
            f"got {checks.shown(evaluator)}{call}"
        )


def check_frozen(x0: Solution, frozen: PyTree) -> None:
    """Refuses frozen leaves that are not the other half of ``x0``."""
    if frozen is None:
        return

    def is_free(frozen_leaf: object, leaf: object) -> bool:
        return frozen_leaf is None or leaf is None

    try:
        free = jax.tree.map(is_free, frozen, x0, is_leaf=lambda leaf: leaf is None)
    except ValueError:
        free = False
    if not all(jax.tree.leaves(free)):
        raise ValueError(
            "frozen must be the other half of x0, of its structure and with None where "
            f"x0 has a leaf (see gfopt.partition); got {checks.shown(frozen)} "
            f"for x0 {checks.shown(x0)}"
        )


def check_halved(x0: Solution) -> None:
    """Refuses quantized leaves whose codes would be searched as numbers."""
    for leaf in jax.tree.leaves(x0, is_leaf=lazy.is_lazy):
        if lazy.is_lazy(leaf) and leaf.frozen_parts:
            raise ValueError(
                "x0 must be the trainable half of a quantized model, and frozen the "
                f"other: x0, frozen = gfopt.partition(x0); got {checks.shown(leaf)}"
            )


def check_shards(x0: Solution) -> None:
    """Refuses a start whose parts lie along explicit axes, which methods don't type."""
    for leaf in jax.tree.leaves(x0):
        if isinstance(leaf, jax.Array) and any(jax.typeof(leaf).sharding.spec):
            raise ValueError(
                "x0 must be sharded over Auto axes, jax.make_mesh(shape, names, "
                f"axis_types=(AxisType.Auto,) * n); got {jax.typeof(leaf).sharding}"
            )


def check_reach(optimizer: Optimizer, x0: Solution) -> None:
    """Rejects a start outside the bounds, or so far out that numbers are cut off.

    What counts is how the method sees it: in units of the scale of its space.
    """
    spaces = [as_method(layer).search_space for layer in layers(optimizer)]
    space = next((space for space in spaces if space is not None), None)
    if space is not None:
        space.check(x0)
    if space is not None and (space.log is not None or any(space.choices)):
        return  # exp(700) is the largest number
    scale = jax.tree.map(lambda _: 1.0, x0) if space is None else space.scale
    for leaf, unit in zip(jax.tree.leaves(x0), jax.tree.leaves(scale), strict=True):
        if jaxprs.is_out_of_reach(leaf) or jaxprs.is_tracer(unit):
            continue
        # in NumPy: within jit a division by a JAX array is a part of the program
        steps = np.abs(np.asarray(leaf, np.float64)) / np.asarray(unit)
        largest = np.max(steps, initial=0.0)
        if largest >= vectors.LIMIT:
            raise ValueError(
                f"x0 must lie within {vectors.LIMIT:g} units of the search, its first "
                "standard deviation for a method by name: give sigma0 or bounds, or "
                f"scale the problem; got {checks.shown(leaf)}"
            )


def as_solution(x0: PyTree) -> Solution:
    """Returns ``x0`` with lists of plain numbers as vectors, all leaves as arrays.

    Example:
        >>> as_solution([1, 2.5])
        array([1. , 2.5])
    """
    plain = isinstance(x0, list | tuple) and all(
        isinstance(leaf, numbers.Real) and not isinstance(leaf, bool)
        for leaf in jax.tree.leaves(x0, is_leaf=lambda leaf: leaf is None)
    )
    if plain and not hasattr(x0, "_fields"):
        try:
            x0 = np.asarray(x0, np.float64)
        except ValueError:  # a ragged list: a tree of numbers
            pass
    check_halved(x0)
    check_shards(x0)
    checks.finite_tree("x0", x0)
    if any(map(jaxprs.is_out_of_reach, jax.tree.leaves(x0))):
        raise ValueError(
            "x0 must not be spread over processes, for the result is made of NumPy "
            f"arrays; got {checks.shown(x0)}. Use gfopt.run, which leaves it spread."
        )
    return x0


def as_tokens(x0: PyTree, bounds: object) -> Solution:
    """Returns the start of a method whose solutions are token sequences."""
    if bounds is not None:
        raise ValueError(
            "bounds must be None for a method of token sequences, whose vocabulary "
            f"says what is allowed; got {checks.shown(bounds)}"
        )
    array = np.asarray(x0)
    if array.dtype.kind not in "iu" or array.ndim != 1 or array.size == 0:
        kind = ValueError if array.dtype.kind in "iu" else TypeError
        raise kind(
            "x0 must be a vector of token ids, integers, for a method of token "
            f"sequences; got {checks.shown(x0)}"
        )
    return array.astype(np.int32)


def in_precision(x0: Solution) -> tuple[Solution, bool]:
    """Returns a start as a search takes it, and whether that is double precision."""
    is_code = lazy.code_parts(x0)
    x64 = any(
        not isinstance(leaf, jax.Array) or leaf.dtype == np.float64
        for leaf, fixed in zip(
            jax.tree.leaves(x0), jax.tree.leaves(is_code), strict=True
        )
        if not fixed
    )

    def convert(leaf: PyTree, fixed: bool) -> jax.Array | np.ndarray:
        if fixed:
            return leaf
        if not isinstance(leaf, jax.Array):
            return np.array(leaf, np.float64)
        if jnp.issubdtype(leaf.dtype, jnp.floating):
            return leaf
        return leaf.astype(np.float64 if x64 else np.float32)

    with jax.enable_x64(x64):
        return jax.tree.map(convert, x0, is_code), x64


def values_told(values: object, count: int, what: str) -> np.ndarray:
    """Reads the values of ``count`` trials or solutions, NaN for failures."""
    expected = "values must be a number or None for each trial"
    unordered: tuple[type, ...] = (str, bytes, Mapping, Set)
    if isinstance(values, unordered) or not isinstance(values, Iterable):
        raise TypeError(f"{expected}; got {checks.shown(values)}")
    listed = values if isinstance(values, np.ndarray) else list(values)
    if count != len(listed):
        raise ValueError(f"{expected}; got {len(listed)} for {count} {what}")
    plain = _plain(listed)
    if plain is not None:
        return plain
    told = [math.nan if one is None else as_number(one) for one in listed]
    if None in told:
        wrong = listed[told.index(None)]
        raise TypeError(f"{expected}; got {described(wrong)}")
    return np.array(told, np.float64)


def _plain(listed: list[object] | np.ndarray) -> np.ndarray | None:
    """Returns a list or an array of plain numbers as a vector, None for others."""
    try:
        array = np.asarray(listed)
    except (TypeError, ValueError):
        return None
    is_plain = array.dtype.kind in "iuf" and array.ndim == 1
    return array.astype(np.float64) if is_plain else None
