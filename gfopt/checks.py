"""Argument checks: every refusal names the argument, what was expected, what came.

The checks look at concrete numbers only. A tracer, or the placeholder objects with
which JAX unflattens a pytree, passes: its value is not known yet.
"""

from __future__ import annotations

import contextlib
import difflib
import math
import numbers
import os
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import numpy as np

from gfopt import jaxprs

MOST_LISTED_FIRST = 9  # names; more of them are listed after the suggestion
_OF_A_STRANGER = (
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    ArithmeticError,
    MemoryError,
    RecursionError,
)
_NO_NUMBERS = (bool, np.bool_, str, bytes, complex, dict, set)


@contextlib.contextmanager
def needed_by(caller: str, package: str, line: str) -> Iterator[None]:
    """Says of a failed import who needs the package, and the line that installs it."""
    try:
        yield
    except ImportError as error:
        message = f"{caller} needs {package}: {line} ({error})"
        raise ImportError(message, name=error.name) from None


@contextlib.contextmanager
def whole_file(kind: str, path: str | os.PathLike[str]) -> Iterator[None]:
    """Turns whatever reading a file raises into a ValueError that names it.

    A file may come from a stranger: no field of it need be what its writer made it.

    Example:
        >>> with whole_file("log", "run.log"):
        ...     {}["seed"]
        Traceback (most recent call last):
        ValueError: path must lead to a whole log; got run.log (KeyError: 'seed')
    """
    try:
        yield
    except _OF_A_STRANGER as error:
        path = os.fspath(path)
        if type(error) is ValueError and str(error).startswith("path must"):
            raise
        raise ValueError(
            f"path must lead to a whole {kind}; got {path} "
            f"({type(error).__name__}: {error})"
        ) from error


def shown(value: object, limit: int = 80) -> str:
    """Returns a short ``repr`` with the type, for an error message."""
    text = " ".join(repr(value).split())
    text = text if len(text) <= limit else text[: limit - 3] + "..."
    return f"{text} ({type(value).__name__})"


def concrete(value: object) -> np.ndarray | None:
    """Returns ``value`` as a real NumPy array, or None where it cannot be read yet."""
    if jaxprs.is_tracer(value):
        return None
    if isinstance(value, _NO_NUMBERS) or value is None or callable(value):
        return np.asarray(None)
    if isinstance(value, numbers.Real | np.ndarray | jax.Array | list | tuple):
        try:
            array = np.asarray(value)
        except (ValueError, TypeError):
            return np.asarray(None)
        return array if array.dtype.kind in "iufV" else np.asarray(None)
    return None  # a placeholder from tree unflattening


def _number(
    name: str,
    value: object,
    expected: str,
    holds: Callable[[np.ndarray], np.ndarray],
) -> None:
    array = concrete(value)
    if array is None:
        return
    if array.dtype.kind not in "iufV":
        raise TypeError(f"{name} must be {expected}; got {shown(value)}")
    if not np.all(holds(array.astype(np.float64))):
        raise ValueError(f"{name} must be {expected}; got {shown(value)}")


def positive(name: str, value: object) -> None:
    """Refuses anything but finite numbers above 0."""
    _number(name, value, "a finite number above 0", lambda v: (v > 0) & np.isfinite(v))


def non_negative(name: str, value: object) -> None:
    """Refuses anything but finite numbers from 0 up."""
    _number(
        name, value, "a finite number, 0 or above", lambda v: (v >= 0) & np.isfinite(v)
    )


def within(name: str, value: object, low: float, high: float) -> None:
    """Refuses anything outside the closed interval from ``low`` to ``high``."""
    expected = f"a number from {low:g} to {high:g}"
    _number(name, value, expected, lambda v: (v >= low) & (v <= high))


def share(name: str, value: object) -> None:
    """Refuses anything but numbers from 0 to 1."""
    within(name, value, 0, 1)


def below(
    name: str, value: object, other_name: str, other: object, *, or_equal: bool = False
) -> None:
    """Refuses anything but numbers below those of another argument; no NaN."""
    word = "below or equal to" if or_equal else "below"
    expected = f"{word} {other_name} everywhere, and not NaN"
    above = concrete(other)
    if above is not None:
        holds = np.less_equal if or_equal else np.less
        _number(other_name, other, "numbers that are not NaN", lambda v: ~np.isnan(v))
        _number(name, value, expected, lambda v: holds(v, above.astype(np.float64)))


def finite(name: str, value: object) -> None:
    """Refuses anything but finite numbers."""
    _number(name, value, "finite", np.isfinite)


def integer(name: str, value: object, minimum: int, *, even: bool = False) -> None:
    """Refuses anything but a Python or NumPy integer from ``minimum`` up."""
    expected = f"an {'even ' if even else ''}integer, {minimum} or above"
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise TypeError(f"{name} must be {expected}; got {shown(value)}")
    if value < minimum or (even and value % 2):
        raise ValueError(f"{name} must be {expected}; got {shown(value)}")


def real(name: str, value: object, minimum: float = -math.inf) -> None:
    """Refuses anything but one real number (not a bool, not NaN) from ``minimum``."""
    expected = "a number" + (f", {minimum:g} or above" if minimum > -math.inf else "")
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name} must be {expected}; got {shown(value)}")
    if math.isnan(value) or value < minimum:
        raise ValueError(f"{name} must be {expected}; got {shown(value)}")


def instance(
    name: str, value: object, kinds: type | tuple[type, ...], what: str
) -> None:
    """Rejects anything that is not of ``kinds``, described by ``what``.

    A class is not an instance, although it has all methods of a protocol.
    """
    if isinstance(value, type) and issubclass(value, kinds):
        call = f"{value.__name__}(...)"
        raise TypeError(f"{name} must be {what}; got the class: call it, {call}")
    if not isinstance(value, kinds):
        raise TypeError(f"{name} must be {what}; got {shown(value)}")


def is_callable(name: str, value: object, what: str = "callable") -> None:
    """Rejects anything that cannot be called, described by ``what``."""
    if not callable(value):
        raise TypeError(f"{name} must be {what}; got {shown(value)}")


def one_of(name: str, value: object, known: Iterable[object]) -> None:
    """Rejects a value that is not in ``known``, and suggests the nearest name.

    Example:
        >>> one_of("kind", "dashed", ["dashes", "dots"])
        Traceback (most recent call last):
        ...
        ValueError: kind must be one of 'dashes', 'dots'; got 'dashed' (str); did you
        mean 'dashes'?
    """
    options = list(known)
    if value in options:
        return
    listed, hint = ", ".join(repr(k) for k in options), nearest(value, options)
    came = f"got {shown(value)}{hint}"
    if hint and len(options) > MOST_LISTED_FIRST:
        raise ValueError(
            f"{name} must be one of {len(options)} names; {came} All are {listed}"
        )
    raise ValueError(f"{name} must be one of {listed}; {came}")


def nearest(value: object, known: Iterable[object]) -> str:
    """Returns a question about the known name that is nearest to a wrong one, or "".

    Example:
        >>> nearest("cma-es", ["cmaes", "cma_es"])
        "; did you mean 'cma_es'?"
    """
    text = str(value).replace("-", "_")
    near = difflib.get_close_matches(text, [str(k) for k in known], n=1)
    return f"; did you mean {near[0]!r}?" if near else ""


def distinct(name: str, names: list[str], what: str) -> None:
    """Rejects a list of names that is empty, or that has one of them twice."""
    if not names:
        raise ValueError(f"{name} must hold one {what} or more; got none")
    for one in names:
        if names.count(one) > 1:
            raise ValueError(
                f"{name} must have names of their own; got {one!r} twice: name them in "
                "a dictionary"
            )


def known_options(name: str, given: Iterable[str], known: Iterable[str]) -> None:
    """Refuses option names that nobody reads (a silent typo costs a study)."""
    for key in given:
        one_of(f"{name} key", key, sorted(known))


def key(name: str, value: Any) -> None:
    """Refuses anything but one key from ``jax.random.key`` (or ``PRNGKey``)."""
    dtype = getattr(value, "dtype", None)
    if dtype is None:
        raise TypeError(f"{name} must be a key from jax.random.key; got {shown(value)}")
    is_new = jax.numpy.issubdtype(dtype, jax.dtypes.prng_key)
    shape = tuple(value.shape) if is_new else tuple(value.shape[:-1])
    if not is_new and (dtype != np.uint32 or not value.shape):
        raise TypeError(f"{name} must be a key from jax.random.key; got {shown(value)}")
    if shape:
        raise ValueError(
            f"{name} must be a single key; got an array of keys of shape {shape} "
            "(use jax.vmap for several runs)"
        )


def finite_tree(name: str, tree: object) -> None:
    """Refuses a solution with no leaves, no numbers, or numbers that are not finite."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    if not leaves:
        raise ValueError(f"{name} must hold at least one array; got {shown(tree)}")
    total = 0
    for path, leaf in leaves:
        where = name + jax.tree_util.keystr(path)
        if jaxprs.is_out_of_reach(leaf):
            total += leaf.size
            continue
        array = np.asarray(leaf)
        is_real = array.dtype.kind in "iuf" or jax.numpy.issubdtype(
            array.dtype, np.floating
        )
        if not is_real:
            hint = ""
            if callable(leaf) or isinstance(leaf, str):
                hint = (
                    ". Of a model search the arrays alone, with Equinox params, static "
                    "= eqx.partition(model, eqx.is_inexact_array), and put them "
                    "together in fun: eqx.combine(params, static)"
                )
            raise TypeError(f"{where} must hold real numbers; got {shown(leaf)}{hint}")
        if not np.all(np.isfinite(array.astype(np.float64))):
            raise ValueError(f"{where} must be finite; got {shown(leaf)}")
        total += array.size
    if total == 0:
        raise ValueError(f"{name} must hold at least one number; got {shown(tree)}")
