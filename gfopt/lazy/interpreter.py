"""Runs an unmodified JAX function on lazy leaves.

``interpret(fun)`` traces ``fun`` with ordinary abstract arrays and evaluates the
program equation by equation, with values that may be lazy. The rules below say what
stays lazy; any other operation first makes its lazy operands dense, and
``count_materialisations`` counts those, so that a model's memory holds no surprise.

What is inside ``jit``, ``checkpoint``, ``custom_jvp`` and ``custom_vjp`` is evaluated
in place (forward only); ``scan``, ``while`` and ``cond`` are run again over bodies that
are evaluated in the same way.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.tree_util import PyTreeDef

from gfopt import jaxprs
from gfopt.jaxprs import Equation, Program
from gfopt.lazy import rules as lazy_rules
from gfopt.lazy.lazy import Lazy, is_lazy
from gfopt.lazy.materialisations import dense
from gfopt.lazy.rules import Operand
from gfopt.types import PyTree

Result = TypeVar("Result")


def interpret(fun: Callable[..., Result]) -> Callable[..., Result]:
    """Returns ``fun`` for arguments that may hold lazy leaves.

    With no lazy leaf in its arguments it is ``fun`` itself. Else ``fun`` is traced with
    a tracer in place of every array and every lazy leaf; whatever else is in the
    arguments (numbers, functions, strings) it sees as it is.

    Args:
        fun: a traceable function of pytrees that returns a pytree of arrays.

    Returns:
        A function with the same arguments and result; works under ``jit``, ``vmap``,
        ``lax.map``, ``scan`` and ``shard_map``.

    Example:
        >>> from gfopt.lazy import LowRank
        >>> leaf = LowRank(jnp.ones((3, 2)), jnp.ones((3, 1)), jnp.ones((2, 1)))
        >>> interpret(lambda w, x: x @ w)(leaf, jnp.ones(3))
        Array([6., 6.], dtype=float32)
    """

    @functools.wraps(fun)
    def interpreted(*args: PyTree, **kwargs: PyTree) -> Result:
        leaves, tree = jax.tree.flatten((args, kwargs), is_leaf=is_lazy)
        if not any(map(is_lazy, leaves)):
            return fun(*args, **kwargs)
        where = [i for i, leaf in enumerate(leaves) if _is_array(leaf)]
        trees: list[PyTreeDef] = []

        def flat(*arrays: jax.Array) -> list[jax.Array]:
            seen = list(leaves)
            for i, array in zip(where, arrays, strict=True):
                seen[i] = array
            args, kwargs = jax.tree.unflatten(tree, seen)
            results, structure = jax.tree.flatten(fun(*args, **kwargs))
            trees.append(structure)
            return results

        # A vector has nothing to gain from being lazy.
        values = [_vector_dense(leaves[i]) for i in where]
        types = jax.eval_shape(lambda values: [*map(_stand_in, values)], values)
        results = _evaluate(jaxprs.trace(flat, *types), values)
        results = [dense(value, "output") for value in results]
        return jax.tree.unflatten(trees[0], results)

    return interpreted


def _is_array(leaf: object) -> bool:
    return isinstance(leaf, Lazy | jax.Array | np.ndarray)


def _vector_dense(leaf: Any) -> Operand:
    small = is_lazy(leaf) and (leaf.ndim < 2 or leaf.size == 0)
    return leaf.materialise() if small else leaf


def _stand_in(value: Any) -> jax.Array:
    """Returns an array like ``value``, which is only ever traced for its type.

    It is made of the parts, since inside ``shard_map`` the type also says over which
    mesh axes a value varies.
    """
    if not is_lazy(value):
        return value
    parts = [jnp.max(part).astype(value.dtype) for part in jax.tree.leaves(value)]
    return lax.broadcast(functools.reduce(lax.add, parts), value.shape)


def _evaluate(program: Program, args: Sequence[Operand]) -> list[Operand]:
    """Evaluates a program on values that may be lazy."""
    return jaxprs.evaluate(program, args, _apply)


def _apply(eqn: Equation, values: list[Operand]) -> Sequence[Operand]:
    rule = RULES.get(eqn.name) if eqn.is_known else None
    with eqn.context():
        if rule is not None and any(map(is_lazy, values)):
            results = rule(eqn, values)
            if results is not None:
                return results
        return eqn.bind([dense(value, eqn.name) for value in values])


# -- programs within the program


def _inline(eqn: Equation, values: list[Operand]) -> Sequence[Operand]:
    return _evaluate(jaxprs.inner_program(eqn), values)


def _dense_run(
    name: str, program: Program, values: Sequence[Operand]
) -> list[jax.Array]:
    return [dense(value, name) for value in _evaluate(program, values)]


def _scan(eqn: Equation, values: list[Any]) -> Sequence[Operand]:
    name, scan = eqn.name, jaxprs.scan_parts(eqn)
    first, second = scan.num_consts, scan.num_consts + scan.num_carry
    consts = values[:first]
    carry = [dense(value, name) for value in values[first:second]]
    scanned = list(values[second:])
    # A lazy leaf is indexed by the turn, in the body: its arrays are not copied.
    for i, leaf in enumerate(scanned):
        if is_lazy(leaf) and leaf.slice(0, jnp.int32(0), 1) is None:
            scanned[i] = dense(leaf, name)
    arrays = [None if is_lazy(value) else value for value in scanned]

    def body(
        carry: list[jax.Array], turn: tuple[jax.Array, list[Any]]
    ) -> tuple[list[jax.Array], list[jax.Array]]:
        index, arrays = turn
        slices = [
            leaf.slice(0, index, 1).reshape(leaf.shape[1:]) if is_lazy(leaf) else array
            for leaf, array in zip(scanned, arrays, strict=True)
        ]
        results = _dense_run(name, scan.body, [*consts, *carry, *slices])
        return results[: scan.num_carry], results[scan.num_carry :]

    carry, stacked = lax.scan(
        body,
        carry,
        (jnp.arange(scan.length, dtype=jnp.int32), arrays),
        length=scan.length,
        reverse=scan.reverse,
        unroll=scan.unroll,
    )
    return [*carry, *stacked]


def _while(eqn: Equation, values: list[Any]) -> Sequence[Operand]:
    name, loop = eqn.name, jaxprs.while_parts(eqn)
    first, second = loop.num_cond_consts, loop.num_cond_consts + loop.num_body_consts
    cond_consts, body_consts = values[:first], values[first:second]
    carry = [dense(value, name) for value in values[second:]]
    return lax.while_loop(
        lambda carry: _evaluate(loop.cond, [*cond_consts, *carry])[0],
        lambda carry: _dense_run(name, loop.body, [*body_consts, *carry]),
        carry,
    )


def _cond(eqn: Equation, values: list[Any]) -> Sequence[Operand]:
    index, *operands = values
    branches = [
        functools.partial(_dense_run, eqn.name, branch, operands)
        for branch in jaxprs.cond_branches(eqn)
    ]
    return lax.switch(dense(index, eqn.name), branches)


RULES: dict[str, lazy_rules.Rule] = {
    **lazy_rules.RULES,
    **dict.fromkeys(["jit", "closed_call", "remat2"], _inline),
    **dict.fromkeys(["custom_jvp_call", "custom_vjp_call"], _inline),
    "scan": _scan,
    "while": _while,
    "cond": _cond,
}
