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
from jax.extend import core

from gfopt.core import lazy_rules
from gfopt.core.counting import dense
from gfopt.core.lazy import Lazy, is_lazy

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
        >>> from gfopt import LowRank
        >>> leaf = LowRank(jnp.ones((3, 2)), jnp.ones((3, 1)), jnp.ones((2, 1)))
        >>> interpret(lambda w, x: x @ w)(leaf, jnp.ones(3))
        Array([6., 6.], dtype=float32)
    """

    @functools.wraps(fun)
    def interpreted(*args: Any, **kwargs: Any) -> Result:
        leaves, tree = jax.tree.flatten((args, kwargs), is_leaf=is_lazy)
        if not any(map(is_lazy, leaves)):
            return fun(*args, **kwargs)
        where = [i for i, leaf in enumerate(leaves) if _is_array(leaf)]
        trees: list[Any] = []

        def flat(*arrays: jax.Array) -> list[Any]:
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
        program = jax.make_jaxpr(flat)(*types)
        results = _evaluate(program.jaxpr, program.consts, values)
        results = [dense(value, "output") for value in results]
        return jax.tree.unflatten(trees[0], results)

    return interpreted


def _is_array(leaf: Any) -> bool:
    return isinstance(leaf, Lazy | jax.Array | np.ndarray)


def _vector_dense(leaf: Any) -> Any:
    small = is_lazy(leaf) and (leaf.ndim < 2 or leaf.size == 0)
    return leaf.materialise() if small else leaf


def _stand_in(value: Any) -> Any:
    """Returns an array like ``value``, which is only ever traced for its type.

    It is made of the parts, since inside ``shard_map`` the type also says over which
    mesh axes a value varies.
    """
    if not is_lazy(value):
        return value
    parts = [jnp.max(part).astype(value.dtype) for part in jax.tree.leaves(value)]
    return lax.broadcast(functools.reduce(lax.add, parts), value.shape)


def _evaluate(
    program: core.Jaxpr, consts: Sequence[Any], args: Sequence[Any]
) -> list[Any]:
    """Evaluates a program on values that may be lazy."""
    env: dict[Any, Any] = dict(
        zip((*program.constvars, *program.invars), (*consts, *args), strict=True)
    )

    def read(atom: Any) -> Any:
        return atom.val if isinstance(atom, core.Literal) else env[atom]

    for eqn in program.eqns:
        values = [read(atom) for atom in eqn.invars]
        results = None
        if any(map(is_lazy, values)):
            rule = RULES.get(eqn.primitive.name)
            with eqn.ctx.manager:
                results = None if rule is None else rule(eqn, values)
        if results is None:
            results = _bind(eqn, values)
        env.update(zip(eqn.outvars, results, strict=True))
    return [read(atom) for atom in program.outvars]


def _bind(eqn: Any, values: list[Any]) -> list[Any]:
    """Runs one equation as it stands, on dense values."""
    values = [dense(value, eqn.primitive.name) for value in values]
    params = eqn.primitive.get_bind_params(eqn.params)
    with eqn.ctx.manager:
        results = eqn.primitive.bind(*values, **params)
    return list(results) if eqn.primitive.multiple_results else [results]


# -- programs within the program


def _inline(eqn: Any, values: list[Any]) -> list[Any]:
    inner = eqn.params["jaxpr" if "jaxpr" in eqn.params else "call_jaxpr"]
    return _run(inner, values)


def _run(program: Any, values: Sequence[Any]) -> list[Any]:
    if isinstance(program, core.ClosedJaxpr):
        return _evaluate(program.jaxpr, program.consts, values)
    return _evaluate(program, (), values)


def _dense_run(name: str, program: Any, values: Sequence[Any]) -> list[Any]:
    return [dense(value, name) for value in _run(program, values)]


def _scan(eqn: Any, values: list[Any]) -> list[Any]:
    name, params = eqn.primitive.name, eqn.params
    num_consts, num_carry = params["num_consts"], params["num_carry"]
    consts = values[:num_consts]
    carry = [dense(v, name) for v in values[num_consts : num_consts + num_carry]]
    scanned = list(values[num_consts + num_carry :])
    # A lazy leaf is indexed by the turn, in the body: its arrays are not copied.
    for i, leaf in enumerate(scanned):
        if is_lazy(leaf) and leaf.slice(0, jnp.int32(0), 1) is None:
            scanned[i] = dense(leaf, name)
    arrays = [None if is_lazy(value) else value for value in scanned]

    def body(carry: Any, turn: Any) -> Any:
        index, arrays = turn
        slices = [
            leaf.slice(0, index, 1).reshape(leaf.shape[1:]) if is_lazy(leaf) else array
            for leaf, array in zip(scanned, arrays, strict=True)
        ]
        results = _dense_run(name, params["jaxpr"], [*consts, *carry, *slices])
        return results[:num_carry], results[num_carry:]

    carry, stacked = lax.scan(
        body,
        carry,
        (jnp.arange(params["length"], dtype=jnp.int32), arrays),
        length=params["length"],
        reverse=params["reverse"],
        unroll=params["unroll"],
    )
    return [*carry, *stacked]


def _while(eqn: Any, values: list[Any]) -> list[Any]:
    name, params = eqn.primitive.name, eqn.params
    first, second = params["cond_nconsts"], params["body_nconsts"]
    cond_consts, body_consts = values[:first], values[first : first + second]
    carry = [dense(value, name) for value in values[first + second :]]
    return lax.while_loop(
        lambda carry: _run(params["cond_jaxpr"], [*cond_consts, *carry])[0],
        lambda carry: _dense_run(name, params["body_jaxpr"], [*body_consts, *carry]),
        carry,
    )


def _cond(eqn: Any, values: list[Any]) -> list[Any]:
    index, *operands = values
    branches = [
        functools.partial(_dense_run, eqn.primitive.name, branch, operands)
        for branch in eqn.params["branches"]
    ]
    return lax.switch(dense(index, eqn.primitive.name), branches)


RULES: dict[str, lazy_rules.Rule] = {
    **lazy_rules.RULES,
    **dict.fromkeys(["jit", "closed_call", "remat2"], _inline),
    **dict.fromkeys(["custom_jvp_call", "custom_vjp_call"], _inline),
    "scan": _scan,
    "while": _while,
    "cond": _cond,
}
