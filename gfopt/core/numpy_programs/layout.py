"""Lays a traced program out as calls of NumPy functions.

* What depends on no argument is computed while the program is laid out.
* What no result needs is left out.
* Programs within the program are laid out in place; ``cond`` runs one branch, ``while``
  and ``scan`` are Python loops.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple, TypeAlias, TypeGuard

import jax
import numpy as np

from gfopt import jaxprs
from gfopt.core.numpy_programs import (
    algebra,
    elementwise,
    indexing,
    random,
    reductions,
    shapes,
)
from gfopt.core.numpy_programs.operands import dtype_of, identity, shape_of
from gfopt.core.numpy_programs.rule import Rule, UnknownEquation, Value
from gfopt.jaxprs import Atom, Equation, Program

LARGEST = 1 << 17  # elements of a value from which compiled loops over it are faster

RULES: dict[str, Rule] = {
    **elementwise.RULES,
    **reductions.RULES,
    **shapes.RULES,
    **indexing.RULES,
    **algebra.RULES,
    **random.RULES,
}
#: The operations that NumPy broadcasts by itself.
BROADCASTING = frozenset(
    "add sub mul div rem pow max min and or xor eq ne lt le gt ge select_n clamp "
    "atan2 nextafter shift_left shift_right_logical shift_right_arithmetic".split()
)
#: The operations that stand for a program.
INLINED = frozenset(
    "jit closed_call remat2 custom_jvp_call custom_vjp_call custom_vmap_call".split()
)


def value_of(array: Any) -> Any:
    """Returns an array or a number as NumPy holds it; a key as its words."""
    if isinstance(array, np.generic):
        return array
    if type(array) is np.ndarray:  # JAX has a subclass, for numbers in programs
        return array if array.ndim else array[()]
    dtype = getattr(array, "dtype", None)
    if dtype is not None and jax.numpy.issubdtype(dtype, jax.dtypes.prng_key):
        array = jax.random.key_data(array)
    return np.asarray(array)[()]


def laid_out(program: Program, known: dict[Atom, Operand] | None = None) -> Run:
    """Returns a program as a Python function of NumPy values.

    Args:
        program: what to run.
        known: values of some of its inputs; the function takes the others.

    Returns:
        A function that returns a list.

    Raises:
        UnknownEquation: where an equation has no rule.
    """
    layout = _Layout()
    known = known or {}
    names = {v: layout.name() for v in program.inputs if v not in known}
    operands: list[Operand] = [
        known[v] if v in known else names[v] for v in program.inputs
    ]
    with np.errstate(all="ignore"):
        results = layout.program(program, operands)
    return layout.function(list(names.values()), results)


class _Name(str):
    """Stands for a value that is known only when the program runs."""


Operand: TypeAlias = Value | _Name
Run: TypeAlias = Callable[..., Sequence[Value]]


def _is_name(value: object) -> TypeGuard[_Name]:
    return isinstance(value, _Name)


class _Line(NamedTuple):
    """One call: ``names = function(operands)``, or ``name,`` of a list of results."""

    names: list[_Name]
    function: Callable[..., object]
    operands: list[Operand]
    is_listing: bool


class _Layout:
    """The lines that a program has so far."""

    def __init__(self) -> None:
        self.lines: list[_Line] = []
        self._count = 0
        self._scalars: dict[str, Operand] = {}  # what some names are broadcasts of

    def name(self) -> _Name:
        """Returns a new name."""
        self._count += 1
        return _Name(f"v{self._count}")

    def program(self, program: Program, operands: Iterable[Operand]) -> list[Operand]:
        """Lays out a program in place; returns its results, names or values."""
        env = {variable: value_of(value) for variable, value in program.consts.items()}
        env.update(zip(program.inputs, operands, strict=True))

        def read(atom: Atom) -> Operand:
            if jaxprs.is_literal(atom):
                return np.asarray(jaxprs.read(atom, env), dtype_of(atom))[()]
            return env[atom]

        for eqn in program.equations:
            inputs = [read(atom) for atom in eqn.inputs]
            if eqn.name in INLINED and random.named(eqn) is None:
                results = self.program(jaxprs.inner_program(eqn), inputs)
            else:
                results = self._call(eqn, inputs)
            env.update(zip(eqn.outputs, results, strict=True))
        return [read(atom) for atom in program.outputs]

    def _call(self, eqn: Equation, operands: list[Operand]) -> list[Operand]:
        if eqn.has_effects:
            raise UnknownEquation(f"{eqn.name} with effects")
        if eqn.name in BROADCASTING:
            operands = self._unbroadcast(eqn, operands)
        function, operands = _function(eqn, operands)
        if function is identity:
            return operands
        if not any(_is_name(operand) for operand in operands):
            results = function(*operands)
            return list(results) if eqn.is_listing else [results]
        names = [self.name() for _ in eqn.outputs]
        self.lines.append(_Line(names, function, operands, eqn.is_listing))
        if eqn.name == "broadcast_in_dim" and not shape_of(eqn.inputs[0]):
            self._scalars[names[0]] = operands[0]
        return list(names)

    def _unbroadcast(self, eqn: Equation, operands: list[Operand]) -> list[Operand]:
        """Returns scalars in place of their broadcasts, where one operand is whole."""
        shape = shape_of(eqn.outputs[0])
        is_whole = any(
            _is_name(operand)
            and operand not in self._scalars
            and shape_of(variable) == shape
            for variable, operand in zip(eqn.inputs, operands, strict=True)
        )
        picks = eqn.name == "select_n" and not shape_of(eqn.inputs[0])
        if picks or not is_whole:  # what picks one of its operands needs both whole
            return operands
        return [self._scalars.get(o, o) if _is_name(o) else o for o in operands]

    def function(self, inputs: Sequence[str], results: Sequence[Operand]) -> Run:
        """Returns the lines that the results need as one Python function."""
        needed = {name for name in results if _is_name(name)}
        kept: list[tuple[_Line, set[_Name]]] = []
        for line in reversed(self.lines):
            if not needed.isdisjoint(line.names):
                kept.append((line, {*_named(line.operands)} - needed))
                needed.update(_named(line.operands))
        # A value that is no longer needed frees its name for the next result and, with
        # it, usually memory that is still in cache.
        spare: list[str] = []
        names: dict[str, str] = {name: name for name in inputs}
        space: dict[str, Any] = {}

        def shown(value: object) -> str:
            if _is_name(value):
                return names[value]
            space[f"k{len(space)}"] = value
            return f"k{len(space) - 1}"

        body: list[str] = []
        for line, last in reversed(kept):
            called = f"{shown(line.function)}({', '.join(map(shown, line.operands))})"
            spare += sorted(names[name] for name in last)
            names.update({n: spare.pop() if spare else n for n in line.names})
            targets = ", ".join(names[name] for name in line.names)
            body.append(f"  {targets}{',' if line.is_listing else ''} = {called}")
            spare += [names[name] for name in line.names if name not in needed]
        returned = f"  return [{', '.join(map(shown, results))}]"
        text = "\n".join([f"def run({', '.join(inputs)}):", *body, returned])
        exec(compile(text, "<a program in NumPy>", "exec"), space)
        return space["run"]


def _function(
    eqn: Equation, operands: list[Operand]
) -> tuple[Callable[..., Any], list[Operand]]:
    """Returns an equation's NumPy function, and the operands that it takes."""
    function = random.named(eqn)
    if function is not None:
        return function, operands
    if not eqn.is_known:
        raise UnknownEquation(f"{eqn.name} in a form that is not known")
    if eqn.name in _LOOPS:
        return _LOOPS[eqn.name](eqn, operands)
    if eqn.name not in RULES:
        raise UnknownEquation(eqn.name)
    for variable in eqn.outputs:
        if math.prod(shape_of(variable)) > LARGEST:
            raise UnknownEquation(f"{eqn.name} of shape {shape_of(variable)}")
    return RULES[eqn.name](eqn), operands


# -- control flow

_Loop: TypeAlias = Callable[[Equation, list[Operand]], tuple[Run, list[Operand]]]


def _named(operands: Iterable[Operand]) -> list[_Name]:
    return [operand for operand in operands if _is_name(operand)]


def _body(program: Program, operands: Sequence[Operand]) -> Run:
    """Returns a body as a function of those operands that are not known."""
    pairs = zip(program.inputs, operands, strict=True)
    return laid_out(program, {v: o for v, o in pairs if not _is_name(o)})


def _cond(eqn: Equation, operands: list[Operand]) -> tuple[Run, list[Operand]]:
    index, *rest = operands
    branches = [_body(branch, rest) for branch in jaxprs.cond_branches(eqn)]
    last = len(branches) - 1

    def cond(index: Value, *named: Value) -> Sequence[Value]:
        return branches[min(max(int(index), 0), last)](*named)

    return cond, [index, *_named(rest)]


def _while(eqn: Equation, operands: list[Operand]) -> tuple[Run, list[Operand]]:
    loop = jaxprs.while_parts(eqn)
    first, second = loop.num_cond_consts, loop.num_cond_consts + loop.num_body_consts
    carry = [_Name(f"c{i}") for i in range(len(operands) - second)]
    holds = _body(loop.cond, [*operands[:first], *carry])
    body = _body(loop.body, [*operands[first:second], *carry])
    of_cond, of_body = _named(operands[:first]), _named(operands[first:second])
    split, stop = len(of_cond), len(of_cond) + len(of_body)

    def run(*values: Value) -> Sequence[Value]:
        for_cond, for_body = values[:split], values[split:stop]
        carry: Sequence[Value] = values[stop:]
        while holds(*for_cond, *carry)[0]:
            carry = body(*for_body, *carry)
        return carry

    return run, [*of_cond, *of_body, *operands[second:]]


def _scan(eqn: Equation, operands: list[Operand]) -> tuple[Run, list[Operand]]:
    scan = jaxprs.scan_parts(eqn)
    consts = operands[: scan.num_consts]
    turn = [_Name(f"c{i}") for i in range(len(operands) - scan.num_consts)]
    body = _body(scan.body, [*consts, *turn])
    names = _named(consts)
    stacks = [(shape_of(v), dtype_of(v)) for v in eqn.outputs[scan.num_carry :]]
    order = range(scan.length)[:: -1 if scan.reverse else 1]

    def run(*values: Value) -> Sequence[Value]:
        consts, rest = values[: len(names)], values[len(names) :]
        carry: Sequence[Value] = rest[: scan.num_carry]
        scanned = rest[scan.num_carry :]
        stacked = [np.empty(shape, dtype) for shape, dtype in stacks]
        for i in order:
            results = body(*consts, *carry, *(column[i] for column in scanned))
            carry = results[: scan.num_carry]
            for column, value in zip(stacked, results[scan.num_carry :], strict=True):
                column[i] = value
        return [*carry, *stacked]

    return run, [*names, *operands[scan.num_consts :]]


_LOOPS: dict[str, _Loop] = {"cond": _cond, "while": _while, "scan": _scan}
