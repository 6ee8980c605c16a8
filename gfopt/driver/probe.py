"""Is this objective a JAX function? Found out by tracing it and calling it once."""

from __future__ import annotations

import functools
import random
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from gfopt.core.objective import Inputs, Objective, check_number
from gfopt.types import Key, Solution


class Probe(NamedTuple):
    """What was found.

    Attributes:
        traceable: whether the objective may be compiled.
        reason: why, in words.
        value: ``f(x0)`` in the user's sense, if a real call was made, else None.
    """

    traceable: bool
    reason: str
    value: float | None


def probe(objective: Objective, x0: Solution, key: Key | None, inputs: Inputs) -> Probe:
    """Finds out whether an objective can be compiled.

    It is traced twice, which must give the same program and leave no trace in the
    variables it refers to (a call counter, a list it appends to, a global random
    generator); then it is called once for real, which must give the same number.

    Args:
        objective: the objective; asked only where ``traceable="auto"``.
        x0: the starting solution in the precision of the search.
        key: a key for the call, None where it takes none.
        inputs: what it needs beside the solution.

    Raises:
        ValueError: where it returns something that is not one real number.
    """
    if objective.traceable != "auto":
        said = "said to be" if objective.traceable else "said not to be"
        return Probe(bool(objective.traceable), f"{said} traceable", None)
    one = x0
    if objective.batched:
        one = jax.tree.map(lambda leaf: leaf[None], x0)
    keys = key[None] if objective.batched and key is not None else key

    def value(x: Solution) -> Any:
        return objective.value(x, keys, inputs)

    before = _surroundings(objective.fun)
    try:
        first = jax.make_jaxpr(value)(one)
    except Exception as error:  # whatever a user's function does with a tracer
        _reraise_if_ours(objective, one, keys, inputs)
        line = (str(error).strip() or "no message").splitlines()[0]
        return Probe(False, f"tracing it raised {type(error).__name__}: {line}", None)
    if _surroundings(objective.fun) != before:
        return Probe(False, "calling it changes variables outside of it", None)
    second = jax.make_jaxpr(value)(one)
    if not _same_program(first, second):
        return Probe(False, "tracing it twice gave two programs: it is not pure", None)
    real = np.asarray(value(one)[0], np.float64).reshape(())
    compiled = np.asarray(jax.jit(value)(one)[0], np.float64).reshape(())
    if not np.allclose(real, compiled, rtol=1e-3, atol=1e-6, equal_nan=True):
        return Probe(
            False,
            f"a real call gave {real:.6g}, the compiled one {compiled:.6g}",
            None,
        )
    return Probe(True, "a JAX function", float(-real if objective.maximize else real))


def _reraise_if_ours(
    objective: Objective, x: Solution, key: Key | None, inputs: Inputs
) -> None:
    """Raises our own complaint about the result's shape; others mean "host"."""
    try:
        found, _ = jax.eval_shape(lambda x: objective.call(x, key, inputs), x)
    except Exception:
        return
    check_number(found, (1,) if objective.batched else ())


def _same_program(first: Any, second: Any) -> bool:
    if str(first) != str(second) or len(first.consts) != len(second.consts):
        return False
    pairs = zip(first.consts, second.consts, strict=True)
    return all(np.array_equal(a, b, equal_nan=True) for a, b in pairs)


def _surroundings(fun: Callable[..., Any]) -> list[Any]:
    """Describes the plain variables that a function can reach, and random states."""
    while isinstance(fun, functools.partial):
        fun = fun.func
    seen: list[Any] = [str(np.random.get_state()), hash(random.getstate())]
    owner = getattr(fun, "__self__", None)
    if owner is None and not hasattr(fun, "__code__"):
        owner = fun
    variables: dict[str, Any] = dict(getattr(owner, "__dict__", {}))
    function = getattr(fun, "__func__", fun)
    code = getattr(function, "__code__", None)
    if code is not None:
        names = code.co_names
        space = function.__globals__
        variables |= {name: space[name] for name in names if name in space}
        cells = zip(code.co_freevars, function.__closure__ or (), strict=False)
        for name, cell in cells:
            try:
                variables[name] = cell.cell_contents
            except ValueError:  # an empty cell
                continue
    for name, variable in sorted(variables.items()):
        if isinstance(variable, bool | int | float | str | None):
            seen.append((name, repr(variable)))
        elif isinstance(variable, list | dict | set | tuple):
            plain = repr(variable) if len(variable) <= 16 else ""
            seen.append((name, len(variable), plain if "Tracer" not in plain else ""))
        elif isinstance(variable, np.ndarray) and variable.size <= 1024:
            seen.append((name, variable.tobytes()))
    return seen
