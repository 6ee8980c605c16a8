"""Runs a traced function in NumPy, without compiling it.

A compiled program is fast from the second call on, but the first takes seconds. A host
search makes a few hundred steps of about a hundred small operations, which NumPy can
finish before a compiler would start. So its programs are traced as for the compiler,
and then laid out as calls of NumPy functions.

The results agree with the compiled program's up to the last bits (another order of
sums, another ``exp``); random words are identical. Operations without a rule, such as
callbacks, are left to the compiler.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from gfopt import jaxprs
from gfopt.core import trees
from gfopt.core.numpy_programs.layout import laid_out, value_of
from gfopt.core.numpy_programs.operands import dtype_of
from gfopt.core.numpy_programs.rule import UnknownEquation, Value
from gfopt.types import PyTree


class NumpyProgram:
    """A function for arguments of one structure, shape and dtype, run by NumPy.

    Args:
        fun: a traceable function of pytrees.
        *args: examples of its arguments.

    Raises:
        UnknownEquation: where only the compiler can run it.

    Example:
        >>> import jax.numpy as jnp
        >>> program = NumpyProgram(lambda x: jnp.cumsum(x) / 2, np.ones(3, np.float32))
        >>> program(np.arange(3, dtype=np.float32))
        array([0. , 0.5, 1.5], dtype=float32)
    """

    def __init__(self, fun: Callable[..., PyTree], *args: PyTree):
        fun = _of_types(fun, trees.node_types(args))
        program, results = jaxprs.trace_with_results(fun, *args)
        self._structure = jax.tree.structure(results)
        self._types = [dtype_of(variable) for variable in program.inputs]
        try:
            self._run = laid_out(program)
        except jaxprs.UnknownOperation as error:
            raise UnknownEquation(str(error)) from error

    def __call__(self, *args: PyTree) -> PyTree:
        """Runs it on arguments of the same kind; returns NumPy arrays and scalars."""
        values = map(_value, jax.tree.leaves(args), self._types)
        with np.errstate(all="ignore"):
            results = self._run(*values)
        return jax.tree.unflatten(self._structure, results)


@functools.cache
def _of_types(
    fun: Callable[..., PyTree], types: tuple[object, ...]
) -> Callable[..., PyTree]:
    """Returns a function of its own for each set of classes among the arguments.

    JAX caches a function by tree structures, and ``trees.node_types`` can tell apart
    some that ``==`` cannot.
    """
    del types
    return functools.wraps(fun)(lambda *args: fun(*args))


def _value(leaf: Any, dtype: np.dtype) -> Value:
    """Returns an argument as NumPy holds it, in the precision of the trace."""
    kind = type(leaf)
    if (kind is dtype.type or (kind is np.ndarray and leaf.ndim)) and (
        leaf.dtype is dtype
    ):
        return leaf
    value = value_of(leaf)
    return value if value.dtype == dtype else value.astype(dtype)


class HostFunction:
    """A function that NumPy runs where it can; else it is compiled.

    It is traced once for each structure, shape and dtype of its arguments.

    Args:
        fun: a traceable function of pytrees.

    Example:
        >>> double = HostFunction(lambda x: 2 * x)
        >>> double(np.ones(3, np.float32))
        array([2., 2., 2.], dtype=float32)
    """

    def __init__(self, fun: Callable[..., PyTree]):
        self._fun = fun
        self._programs: dict[object, Callable[..., PyTree]] = {}

    def __call__(self, *args: PyTree) -> PyTree:
        """Runs it."""
        leaves, structure = jax.tree.flatten(args)
        if any(map(jaxprs.is_tracer, leaves)):
            return self._fun(*args)
        nodes = trees.node_types(args)
        types = tuple((np.shape(x), str(jax.dtypes.result_type(x))) for x in leaves)
        kind = structure, nodes, types, jax.dtypes.canonicalize_dtype(np.float64)
        if kind not in self._programs:
            try:
                self._programs[kind] = NumpyProgram(self._fun, *args)
            except UnknownEquation:
                self._programs[kind] = jax.jit(_of_types(self._fun, nodes))
        return self._programs[kind](*args)
