"""Is this objective a JAX function? Found out by tracing it and calling it once."""

from __future__ import annotations

import collections
import functools
import itertools
import math
import random
import sys
import types
from collections.abc import Iterable
from typing import Any, NamedTuple

import jax
import numpy as np

from gfopt import jaxprs
from gfopt.core.host.worker import reason_of, traceback_of
from gfopt.core.objective import Inputs, Objective, check_number
from gfopt.jaxprs import Program
from gfopt.types import Key, PyTree, Solution

_PLAIN = (bool, int, float, complex, str, bytes, type(None), itertools.count)
_MOST = 1024  # elements of an array or a container that are looked at
_LIBRARIES = {"gfopt", "jax", "jaxlib", "numpy", "optax", "scipy"}
_LIBRARIES |= sys.stdlib_module_names - {"__main__"}


class Probe(NamedTuple):
    """The path of a search, and the first value.

    Attributes:
        traceable: whether the objective may be compiled.
        reason: why, in words.
        fitness: of ``x0``, if a real call was made, else None; NaN if it failed.
        failure: why it failed, if it did.
        traceback: of what it raised.
    """

    traceable: bool
    reason: str
    fitness: float | None
    failure: str = "returned NaN or an infinity"
    traceback: str = ""


def probe(objective: Objective, x0: Solution, key: Key | None, inputs: Inputs) -> Probe:
    """Finds out whether an objective can be compiled.

    It is traced twice, which must give the same program and leave no trace in the
    variables it refers to (a call counter, a list it appends to, a global random
    generator); then it is called once for real, which must give the same number. A
    variable that only the first call changes is a cache, which is fine.

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
    one, keys, inputs = _one(objective, x0, key, inputs)

    def value(x: Solution) -> tuple[jax.Array, PyTree]:
        return objective.value(x, keys, inputs)

    def program() -> Program:
        # a function of its own each time: JAX would not trace one again that it knows
        return jaxprs.trace(lambda x: value(x), one)

    called = objective.fun, objective.constraints
    try:
        first = program()
        before = _surroundings(called)  # the first call may fill some cache
        second = program()
    except Exception as error:  # whatever a user's function does with a tracer
        _reraise_if_ours(objective, one, keys, inputs)
        line = (str(error).strip() or "no message").splitlines()[0]
        return Probe(False, f"tracing it raised {type(error).__name__}: {line}", None)
    if _surroundings(called) != before:
        return Probe(False, "calling it changes variables outside of it", None)
    if not _same_program(first, second):
        return Probe(False, "tracing it twice gave two programs: it is not pure", None)
    try:
        real = float(np.asarray(value(one)[0], np.float64).reshape(()))
    except Exception as error:
        failure = reason_of(error)
        why = f"it can be traced, but a real call raised {failure}"
        return Probe(False, why, math.nan, failure, traceback_of(error))
    jitted = _value(objective, one, keys, inputs)
    compiled = float(np.asarray(jitted, np.float64).reshape(()))
    if not np.allclose(real, compiled, rtol=1e-3, atol=1e-6, equal_nan=True):
        why = f"a real call gave {real:.6g}, the compiled one {compiled:.6g}"
        return Probe(False, why, real)
    return Probe(True, "a JAX function", real)


def fitness_of(
    objective: Objective, x0: Solution, key: Key | None, inputs: Inputs
) -> float:
    """Returns the fitness of ``x0`` under a JAX function.

    The arguments are those of ``probe``.
    """
    fitness = _value(objective, *_one(objective, x0, key, inputs))
    return float(np.asarray(fitness, np.float64).reshape(()))


def _one(
    objective: Objective, x0: Solution, key: Key | None, inputs: Inputs
) -> tuple[Solution, Key | None, Inputs]:
    """Returns what the objective takes for one solution, a batch of one if batched."""
    if not objective.batched:
        return x0, key, inputs._replace(row=np.zeros((), np.int32))
    x0 = jax.tree.map(lambda leaf: leaf[None], x0)
    key = key if key is None else key[None]
    return x0, key, inputs._replace(row=np.zeros(1, np.int32))


@jax.jit  # here, so that a second search of the same function compiles nothing
def _value(
    objective: Objective, x: Solution, key: Key | None, inputs: Inputs
) -> jax.Array:
    return objective.value(x, key, inputs)[0]


def _reraise_if_ours(
    objective: Objective, x: Solution, key: Key | None, inputs: Inputs
) -> None:
    """Raises our own complaint about the result's shape; others mean "host"."""
    try:
        answer, _ = jax.eval_shape(lambda x: objective.call(x, key, inputs), x)
    except Exception:
        return
    check_number(answer, (1,) if objective.batched else ())


def _same_program(first: Program, second: Program) -> bool:
    if first.text() != second.text() or len(first.consts) != len(second.consts):
        return False
    pairs = zip(first.consts.values(), second.consts.values(), strict=True)
    return all(_number_bytes(a) == _number_bytes(b) for a, b in pairs)


def _number_bytes(constant: Any) -> bytes:
    if jax.numpy.issubdtype(constant.dtype, jax.dtypes.prng_key):
        constant = jax.random.key_data(constant)
    return np.asarray(constant).tobytes()


def _surroundings(fun: object) -> list[object]:
    """Describes what functions can change: random states, plain variables it knows."""
    seen: list[object] = [str(np.random.get_state()), hash(random.getstate())]
    _describe(fun, seen, set(), 4)
    return seen


def _describe(
    variable: object, described: list[object], visited: set[int], depth: int
) -> None:
    """Adds to ``described`` what is plain in a variable and in those it refers to."""
    if isinstance(variable, _PLAIN):
        described.append(repr(variable))
    elif isinstance(variable, np.ndarray):
        if variable.size <= _MOST:
            described.append(variable.tobytes())
    elif depth > 0 and id(variable) not in visited:
        visited.add(id(variable))
        for part in _parts(variable, described):
            _describe(part, described, visited, depth - 1)


def _parts(variable: object, described: list[object]) -> Iterable[object]:
    """Returns what a variable refers to, as far as it may be the user's own."""
    if isinstance(variable, list | dict | set | tuple | collections.deque):
        described.append(len(variable))
        if len(variable) > _MOST:
            return ()
        return tuple(variable.values() if isinstance(variable, dict) else variable)
    if isinstance(variable, functools.partial):
        return (variable.func, variable.args, variable.keywords)
    if isinstance(variable, types.MethodType):
        return (variable.__self__, variable.__func__)
    is_named = isinstance(variable, type | types.FunctionType)
    owner = variable if is_named else type(variable)
    root = str(getattr(owner, "__module__", "")).partition(".")[0]
    if root in _LIBRARIES or isinstance(variable, types.ModuleType):
        return ()
    if isinstance(variable, types.FunctionType):
        names, space = variable.__code__.co_names, variable.__globals__
        cells = [cell for cell in variable.__closure__ or () if _is_filled(cell)]
        return (
            *(space[name] for name in names if name in space),
            *(cell.cell_contents for cell in cells),
            variable.__defaults__,
        )
    named = getattr(variable, "__dict__", {})
    return tuple(part for name, part in named.items() if not name.startswith("__"))


def _is_filled(cell: types.CellType) -> bool:
    try:
        return cell.cell_contents is not cell
    except ValueError:
        return False
