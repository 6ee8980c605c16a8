"""Compiled programs that the runs of a process share."""

from __future__ import annotations

import functools
from typing import Any

import jax

from gfopt.types import PyTree


def program(function: Any, *arguments: PyTree, **static: int) -> jax.stages.Compiled:
    """Returns the program of a jitted function for arguments of these types.

    It is compiled when it is first asked for.

    Example:
        >>> import numpy as np
        >>> double = jax.jit(lambda x: 2 * x)
        >>> program(double, np.ones(2)) is program(double, np.zeros(2))
        True
    """
    leaves, structure = jax.tree.flatten(jax.eval_shape(lambda *a: a, *arguments))
    return compiled(function, structure, tuple(leaves), tuple(sorted(static.items())))


@functools.lru_cache(maxsize=32)
def compiled(
    function: jax.stages.Wrapped,
    structure: jax.tree_util.PyTreeDef,
    leaves: tuple[jax.ShapeDtypeStruct, ...],
    static: tuple[tuple[str, int], ...],
) -> jax.stages.Compiled:
    """Compiles a function for arguments of these shapes."""
    arguments = jax.tree.unflatten(structure, leaves)
    return function.lower(*arguments, **dict(static)).compile()
