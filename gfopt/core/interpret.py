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
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend import core

from gfopt.core.lazy import Dot, Lazy, is_lazy

Result = TypeVar("Result")
Rule = Callable[[Any, list[Any]], list[Any] | None]


class Materialisation(NamedTuple):
    """One lazy matrix made dense: for which primitive, and its logical shape."""

    primitive: str
    shape: tuple[int, ...]


@dataclass
class Materialisations:
    """What was made dense while ``count_materialisations`` was open."""

    list: list[Materialisation] = field(default_factory=list)

    @property
    def count(self) -> int:
        """The number of materialisations."""
        return len(self.list)


_OPEN: ContextVar[tuple[Materialisations, ...]] = ContextVar("open", default=())


@contextmanager
def count_materialisations() -> Iterator[Materialisations]:
    """Counts the lazy matrices that are made dense, while programs are traced.

    A leaf counts if at least two of its axes are longer than 1: noise that is added to
    a bias vector is no matrix. A jitted program counts when it is traced, not when it
    is run again, and the body of a loop counts once.

    Yields:
        An object with ``count`` and ``list``, of ``(primitive, shape)``.

    Example:
        >>> from gfopt.core.lazy import LowRank
        >>> leaf = LowRank(jnp.ones((3, 2)), jnp.ones((3, 1)), jnp.ones((2, 1)))
        >>> with count_materialisations() as made:
        ...     y = interpret(lambda w: jnp.sin(w))(leaf)
        >>> made.list
        [Materialisation(primitive='sin', shape=(3, 2))]
    """
    made = Materialisations()
    token = _OPEN.set((*_OPEN.get(), made))
    try:
        yield made
    finally:
        _OPEN.reset(token)


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
        >>> from gfopt.core.lazy import LowRank
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
        results = [_dense(value, "output") for value in results]
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


def _dense(value: Any, primitive: str) -> Any:
    """Returns ``value`` as an array; counts it if it was a lazy matrix."""
    if not is_lazy(value):
        return value
    if sum(size > 1 for size in value.shape) > 1:
        for made in _OPEN.get():
            made.list.append(Materialisation(primitive, value.shape))
    return value.materialise()


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
    values = [_dense(value, eqn.primitive.name) for value in values]
    params = eqn.primitive.get_bind_params(eqn.params)
    with eqn.ctx.manager:
        results = eqn.primitive.bind(*values, **params)
    return list(results) if eqn.primitive.multiple_results else [results]


def _one(result: Any) -> list[Any] | None:
    return None if result is None else [result]


# -- products


def _dot_general(eqn: Any, values: list[Any]) -> list[Any]:
    left, right = values
    if is_lazy(left) and is_lazy(right):  # the larger one stays lazy
        if left.size < right.size:
            left = _dense(left, eqn.primitive.name)
        else:
            right = _dense(right, eqn.primitive.name)
    (left_sum, right_sum), (left_batch, right_batch) = eqn.params["dimension_numbers"]
    labels = [list(range(left.ndim)), list(range(left.ndim, left.ndim + right.ndim))]
    pairs = zip((*left_sum, *left_batch), (*right_sum, *right_batch), strict=True)
    for i, j in pairs:
        labels[1][j] = i
    batch = [labels[0][i] for i in left_batch]
    shared = {labels[0][i] for i in (*left_sum, *left_batch)}
    out = batch + [i for i in labels[0] + labels[1] if i not in shared]
    precision = eqn.params["precision"]
    if is_lazy(left):
        left, right = right, left
        labels.reverse()
        precision = precision[::-1] if isinstance(precision, tuple) else precision
    stored = [0] * right.ndim
    for label, axis in zip(labels[1], right.layout.order, strict=True):
        stored[axis] = label
    dot = Dot(eqn.outvars[0].aval.dtype, precision)
    return [right.contract(jnp.asarray(left), labels[0], stored, out, dot)]


def _convolution(eqn: Any, values: list[Any]) -> list[Any] | None:
    x, kernel = values
    if is_lazy(x) or not is_lazy(kernel):
        return None
    return _one(kernel.convolve(x, eqn))


def _scaled(eqn: Any, values: list[Any]) -> list[Any] | None:
    if eqn.primitive.name == "neg":
        return _one(values[0].times(jnp.asarray(-1, values[0].dtype)))
    leaf, factor = values
    if eqn.primitive.name == "mul" and is_lazy(factor):
        leaf, factor = factor, leaf
    if not is_lazy(leaf) or jnp.ndim(factor) or is_lazy(factor):
        return None
    factor = jnp.asarray(factor, leaf.dtype)
    return _one(leaf.times(1 / factor if eqn.primitive.name == "div" else factor))


# -- views


def _transpose(eqn: Any, values: list[Any]) -> list[Any]:
    return [values[0].transpose(eqn.params["permutation"])]


def _reshape(eqn: Any, values: list[Any]) -> list[Any] | None:
    if not is_lazy(values[0]) or eqn.params.get("dimensions") is not None:
        return None
    if math.prod(eqn.outvars[0].aval.shape) != values[0].size:
        return None  # a broadcast that repeats
    return _one(values[0].reshape(eqn.outvars[0].aval.shape))


def _astype(eqn: Any, values: list[Any]) -> list[Any] | None:
    dtype = eqn.params["new_dtype"]
    is_float = jnp.issubdtype(dtype, jnp.floating)
    return [values[0].astype(dtype)] if is_float else None


def _same(eqn: Any, values: list[Any]) -> list[Any]:
    return values


def _barrier(eqn: Any, values: list[Any]) -> list[Any]:
    dense = iter(lax.optimization_barrier([v for v in values if not is_lazy(v)]))
    return [value if is_lazy(value) else next(dense) for value in values]


# -- parts


def _static(index: Any) -> Any:
    """Returns an index as a Python integer where it is known when tracing."""
    return index if isinstance(index, jax.Array) else int(index)


def _sliced(leaf: Any, starts: Sequence[Any], sizes: Sequence[int]) -> Any:
    shape = leaf.shape
    for axis, (start, size) in enumerate(zip(starts, sizes, strict=True)):
        if leaf is not None and size != shape[axis]:
            leaf = leaf.slice(axis, start, size)
    return leaf


def _slice(eqn: Any, values: list[Any]) -> list[Any] | None:
    starts, stops = eqn.params["start_indices"], eqn.params["limit_indices"]
    if any(stride != 1 for stride in eqn.params["strides"] or ()):
        return None
    sizes = [stop - start for start, stop in zip(starts, stops, strict=True)]
    return _one(_sliced(values[0], [int(start) for start in starts], sizes))


def _dynamic_slice(eqn: Any, values: list[Any]) -> list[Any] | None:
    leaf, *starts = values
    sizes = eqn.params["slice_sizes"]
    # noise, unlike an array, would not mind rows beyond the end
    clamped = [
        lax.clamp(jnp.zeros_like(start), start, jnp.full_like(start, limit - size))
        if isinstance(start, jax.Array)
        else min(max(int(start), 0), limit - size)
        for start, size, limit in zip(starts, sizes, leaf.shape, strict=True)
    ]
    return _one(_sliced(leaf, clamped, sizes))


def _split(eqn: Any, values: list[Any]) -> list[Any] | None:
    leaf, axis, start, parts = values[0], eqn.params["axis"], 0, []
    for size in map(int, eqn.params["sizes"]):
        parts.append(leaf.slice(axis, start, size))
        start += size
    return None if any(part is None for part in parts) else parts


def _gather(eqn: Any, values: list[Any]) -> list[Any] | None:
    """Looks up whole slices of one axis, as ``table[tokens]`` and ``stack[i]`` do.

    An index out of range that should give NaN does so for an array of tokens; a scalar
    index is clamped, since a lazy slice has no NaN.
    """
    leaf, indices = values
    numbers, mode = eqn.params["dimension_numbers"], eqn.params["mode"]
    if is_lazy(indices) or len(numbers.start_index_map) != 1:
        return None
    axis = numbers.start_index_map[0]
    shape = (*leaf.shape[:axis], 1, *leaf.shape[axis + 1 :])
    known = ("CLIP", "FILL_OR_DROP", "PROMISE_IN_BOUNDS")
    if (
        numbers.collapsed_slice_dims != (axis,)
        or eqn.params["slice_sizes"] != shape
        or mode.name not in known
    ):
        return None
    wanted = indices[..., 0]
    bounded = jnp.clip(wanted, 0, leaf.shape[axis] - 1)
    rest = (*shape[:axis], *shape[axis + 1 :])
    if not wanted.ndim:
        part = leaf.slice(axis, bounded, 1)
        return None if part is None else _one(part.reshape(rest))
    if leaf.slice(axis, jnp.int32(0), 1) is None:
        return None

    def one(index: jax.Array) -> jax.Array:
        return leaf.slice(axis, index, 1).materialise().reshape(rest)

    found = jax.vmap(one)(bounded.reshape(-1))
    if mode.name == "FILL_OR_DROP":
        fill = eqn.params["fill_value"]
        inside = (wanted == bounded).reshape(-1, *[1] * len(rest))
        found = jnp.where(inside, found, jnp.nan if fill is None else fill)
    found = found.reshape(*wanted.shape, *rest)
    source = range(wanted.ndim, found.ndim)
    return [jnp.moveaxis(found, source, numbers.offset_dims)]


# -- programs within the program


def _inline(eqn: Any, values: list[Any]) -> list[Any]:
    inner = eqn.params["jaxpr" if "jaxpr" in eqn.params else "call_jaxpr"]
    return _run(inner, values)


def _run(program: Any, values: Sequence[Any]) -> list[Any]:
    if isinstance(program, core.ClosedJaxpr):
        return _evaluate(program.jaxpr, program.consts, values)
    return _evaluate(program, (), values)


def _dense_run(name: str, program: Any, values: Sequence[Any]) -> list[Any]:
    return [_dense(value, name) for value in _run(program, values)]


def _scan(eqn: Any, values: list[Any]) -> list[Any]:
    name, params = eqn.primitive.name, eqn.params
    num_consts, num_carry = params["num_consts"], params["num_carry"]
    consts = values[:num_consts]
    carry = [_dense(v, name) for v in values[num_consts : num_consts + num_carry]]
    scanned = list(values[num_consts + num_carry :])
    # A lazy leaf is indexed by the turn, in the body: its arrays are not copied.
    for i, leaf in enumerate(scanned):
        if is_lazy(leaf) and leaf.slice(0, jnp.int32(0), 1) is None:
            scanned[i] = _dense(leaf, name)
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
    carry = [_dense(value, name) for value in values[first + second :]]
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
    return lax.switch(_dense(index, eqn.primitive.name), branches)


RULES: dict[str, Rule] = {
    "dot_general": _dot_general,
    "conv_general_dilated": _convolution,
    **dict.fromkeys(["mul", "div", "neg"], _scaled),
    "transpose": _transpose,
    **dict.fromkeys(["reshape", "squeeze", "broadcast_in_dim"], _reshape),
    "convert_element_type": _astype,
    **dict.fromkeys(
        ["copy", "copy_p", "stop_gradient", "name", "pvary", "sharding_constraint"],
        _same,
    ),
    "optimization_barrier": _barrier,
    "slice": _slice,
    "dynamic_slice": _dynamic_slice,
    "split": _split,
    "gather": _gather,
    **dict.fromkeys(["jit", "pjit", "closed_call", "core_call"], _inline),
    **dict.fromkeys(["remat", "remat2", "checkpoint"], _inline),
    **dict.fromkeys(["custom_jvp_call", "custom_vjp_call"], _inline),
    "scan": _scan,
    "while": _while,
    "cond": _cond,
}
