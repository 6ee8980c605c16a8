"""The one file that knows JAX's inner forms: programs, equations, tracers.

JAX promises nothing about its jaxprs, so everything that reads one does so through the
views in this file:

    program = trace(fun, *arguments)
    results = evaluate(program, values, lambda equation, inputs: equation.bind(inputs))

What is relied on, by version of JAX:

* 0.10: ``make_jaxpr`` returns a ``ClosedJaxpr`` (``.jaxpr``, ``.consts``); the inner
  program of ``remat2`` is a bare ``Jaxpr``; ``scan`` counts its inputs in
  ``num_consts`` and ``num_carry``.
* 0.11 and 0.12: ``ClosedJaxpr`` is ``Jaxpr``, which has ``.consts`` and a ``.jaxpr``
  that is itself; ``scan`` has two nested groups of inputs, ``ft_in`` (constants, carry,
  scanned) and ``ft_out``, which ``unpack`` splits and ``len`` counts.
* All of them: ``eqns``, ``invars``, ``outvars``, ``constvars`` of a program;
  ``primitive``, ``params``, ``invars``, ``outvars``, ``ctx.manager`` of an equation;
  ``Literal.val``; ``bind`` and ``get_bind_params`` of a primitive; and the parameters
  in ``FORMS``.

An operation whose parameters are not in ``FORMS`` is not ``is_known``: the caller must
``bind`` it as it stands. One that cannot even be bound raises ``UnknownOperation``.
"""

from __future__ import annotations

import contextlib
import functools
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, TypeGuard, TypeVar

import jax

V = TypeVar("V")

# The parameters that change what an operation computes, in every form that is read
# here. "..." allows further ones, which say how to compile a program, not what it is.
FORMS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(
        "abs add add_any and atan2 ceil cholesky clamp copy div "
        "dynamic_update_slice eq erf_inv floor ge gt is_finite le lt max min ne "
        "neg nextafter not "
        "optimization_barrier or population_count pow random_fold_in random_unwrap "
        "rem select_n shift_left shift_right_arithmetic shift_right_logical sign "
        "square sub threefry2x32 xor".split(),
        ("",),
    ),
    **dict.fromkeys(
        "cbrt cos exp exp2 expm1 log log1p log2 logistic rsqrt sin sqrt tan "
        "tanh".split(),
        ("accuracy",),
    ),
    "erfc": ("", "accuracy"),
    **dict.fromkeys("argmax argmin".split(), ("axes index_dtype",)),
    **dict.fromkeys("cummax cummin cumprod cumsum".split(), ("axis reverse",)),
    **dict.fromkeys(
        "reduce_and reduce_max reduce_min reduce_or reduce_prod reduce_sum".split(),
        ("axes", "axes out_sharding"),
    ),
    **dict.fromkeys(
        "scatter scatter-add scatter-max scatter-min scatter-mul".split(),
        (
            "dimension_numbers indices_are_sorted mode unique_indices update_consts "
            "update_jaxpr",
        ),
    ),
    "bitcast_convert_type": ("new_dtype",),
    "concatenate": ("dimension",),
    "custom_vmap_call": ("call ...",),
    "eigh": ("algorithm lower sort_eigenvalues subset_by_index",),
    "integer_pow": ("y",),
    "iota": ("dimension dtype shape sharding",),
    "pad": ("padding_config",),
    "random_bits": ("bit_width shape",),
    "random_seed": ("impl",),
    "random_split": ("shape",),
    "random_wrap": ("impl",),
    "rev": ("dimensions",),
    "round": ("rounding_method",),
    "sort": ("dimension is_stable num_keys",),
    "stack": ("axis",),
    "svd": ("algorithm compute_uv full_matrices subset_by_index",),
    "tile": ("reps",),
    "unstack": ("axis",),
    "top_k": ("axis k", "axis is_stable k"),
    "triangular_solve": ("conjugate_a left_side lower transpose_a unit_diagonal",),
    "broadcast_in_dim": ("broadcast_dimensions shape sharding",),
    "closed_call": ("call_jaxpr ...",),
    "cond": ("branches ...",),
    "conv_general_dilated": (
        "batch_group_count dimension_numbers feature_group_count lhs_dilation "
        "out_sharding padding precision preferred_element_type rhs_dilation "
        "window_strides",
    ),
    "convert_element_type": ("new_dtype sharding weak_type",),
    "custom_jvp_call": ("call_jaxpr ...",),
    "custom_vjp_call": ("call_jaxpr ...",),
    "dot_general": ("dimension_numbers out_sharding precision preferred_element_type",),
    "dynamic_slice": ("slice_sizes",),
    "gather": (
        "dimension_numbers fill_value indices_are_sorted mode slice_sizes "
        "unique_indices",
    ),
    "jit": ("jaxpr ...",),
    "mul": ("out_dtype",),
    "name": ("name",),
    "pvary": ("...",),
    "remat2": ("jaxpr ...",),
    "reduce_precision": ("exponent_bits mantissa_bits",),
    "reshape": ("dimensions new_sizes sharding",),
    "scan": (
        "jaxpr length num_carry num_consts reverse unroll",
        "ft_in ft_out jaxpr length reverse unroll",
    ),
    "sharding_constraint": ("...",),
    "slice": ("limit_indices start_indices strides",),
    "split": ("axis sizes",),
    "squeeze": ("dimensions",),
    "stop_gradient": ("...",),
    "transpose": ("permutation",),
    "while": ("body_jaxpr body_nconsts cond_jaxpr cond_nconsts",),
}


class UnknownOperation(RuntimeError):
    """An operation of this version of JAX has a form that gfopt cannot run."""

    def __init__(self, name: str, parameters: Sequence[str]):
        super().__init__(
            f"the operation {name!r} of JAX {jax.__version__}, with the parameters "
            f"{', '.join(parameters) or 'none'}, has a form that gfopt does not know. "
            "Install a version of JAX that gfopt is tested with (its documentation "
            "lists them), or pass dense arrays in place of lazy leaves."
        )


def is_tracer(value: object) -> TypeGuard[jax.core.Tracer[Any]]:
    """Tells whether a value is an abstract one, whose numbers are not known yet."""
    return isinstance(value, jax.core.Tracer)


def is_out_of_reach(value: object) -> bool:
    """Tells whether numbers of a value are not known here: traced, or elsewhere."""
    return is_tracer(value) or (
        isinstance(value, jax.Array)
        and not (value.is_fully_addressable or value.is_fully_replicated)
    )


def trace(fun: Callable[..., object], *args: object) -> Program:
    """Traces a function of pytrees into a program.

    Args:
        fun: a traceable function.
        *args: pytrees of arrays, or of shapes and dtypes.

    Returns:
        The program; its inputs and outputs are the leaves.

    Example:
        >>> program = trace(lambda x: 2 * x + 1, 3.0)
        >>> [equation.name for equation in program.equations]
        ['mul', 'add']
    """
    return trace_with_results(fun, *args)[0]


def trace_with_results(
    fun: Callable[..., object], *args: object
) -> tuple[Program, object]:
    """Traces a function; returns its results' shapes and dtypes, too, as a pytree.

    A second trace of the same function on the same types costs next to nothing.
    """
    program, results = jax.make_jaxpr(fun, return_shape=True)(*args)
    return Program.of(program), results


class Atom(Protocol):
    """A variable of a program, or a literal."""

    @property
    def aval(self) -> jax.ShapeDtypeStruct:
        """Its shape and dtype."""


@dataclass(frozen=True, eq=False)
class Program:
    """A traced function: equations between variables.

    Attributes:
        inputs: its variables for the arguments.
        consts: the arrays that it closes over, by variable.
        equations: in an order in which they can be evaluated.
        outputs: variables or literals, to be ``read``.
    """

    inputs: Sequence[Atom]
    consts: dict[Atom, Any]
    equations: list[Equation]
    outputs: Sequence[Atom]
    _program: Any

    @classmethod
    def of(cls, program: Any) -> Program:
        """Returns the view of a jaxpr, closed or not."""
        try:
            inner = getattr(program, "jaxpr", program)
            values = getattr(program, "consts", ())
            return cls(
                inner.invars,
                dict(zip(inner.constvars, values, strict=True)),
                [Equation(equation) for equation in inner.eqns],
                inner.outvars,
                program,
            )
        except (AttributeError, ValueError) as error:
            raise UnknownOperation(type(program).__name__, ()) from error

    def text(self) -> str:
        """Returns the program as text, without the addresses of functions."""
        return re.sub(r"0x[0-9a-f]+", "", str(self._program))


@dataclass(frozen=True, eq=False)
class Equation:
    """One operation of a program; ``equation["axis"]`` is a parameter of it.

    Example:
        >>> import jax.numpy as jnp
        >>> program = trace(jnp.transpose, jnp.ones((2, 3)))
        >>> (equation,) = program.equations
        >>> equation.name, equation["permutation"], equation.is_known
        ('transpose', (1, 0), True)
        >>> equation.bind([jnp.ones((2, 3))])[0].shape
        (3, 2)
    """

    _eqn: Any

    @property
    def name(self) -> str:
        """The name of the operation, such as ``"dot_general"``."""
        return self._eqn.primitive.name

    @property
    def inputs(self) -> Sequence[Atom]:
        """Its operands, variables or literals."""
        return self._eqn.invars

    @property
    def outputs(self) -> Sequence[Atom]:
        """The variables that it defines."""
        return self._eqn.outvars

    @property
    def types(self) -> list[jax.ShapeDtypeStruct]:
        """The shape and dtype of each result."""
        return [variable.aval for variable in self._eqn.outvars]

    @property
    def is_known(self) -> bool:
        """Whether its parameters are those of a form in ``FORMS``."""
        return any(
            names == self._eqn.params.keys()
            or ("..." in names and names - {"..."} <= self._eqn.params.keys())
            for names in _forms(self.name)
        )

    def __getitem__(self, parameter: str) -> Any:
        try:
            return self._eqn.params[parameter]
        except KeyError as error:
            raise self.unknown() from error

    @property
    def has_effects(self) -> bool:
        """Whether it does more than compute its results: a callback, a print."""
        return bool(self._eqn.effects)

    @property
    def is_listing(self) -> bool:
        """Whether its results are a list, even if there is only one."""
        return self._eqn.primitive.multiple_results

    def get(self, parameter: str, default: object = None) -> Any:
        """Returns a parameter, or ``default`` where this version has none."""
        return self._eqn.params.get(parameter, default)

    def __contains__(self, parameter: str) -> bool:
        return parameter in self._eqn.params

    def unknown(self) -> UnknownOperation:
        """Returns the error that says that this operation cannot be run."""
        return UnknownOperation(self.name, sorted(self._eqn.params))

    @contextlib.contextmanager
    def context(self) -> Iterator[None]:
        """Sets what JAX had set where the equation was traced (mesh, PRNG)."""
        with self._eqn.ctx.manager:
            yield

    def bind(self, values: Sequence[object]) -> list[jax.Array]:
        """Runs the operation as it stands.

        Args:
            values: one array for each input.

        Returns:
            One array for each output.

        Raises:
            UnknownOperation: if JAX does not run it with the parameters it has.
        """
        primitive = self._eqn.primitive
        try:
            params = primitive.get_bind_params(self._eqn.params)
            results = primitive.bind(*values, **params)
        except (AttributeError, KeyError, TypeError) as error:
            raise self.unknown() from error
        return list(results) if primitive.multiple_results else [results]


@functools.cache
def _forms(name: str) -> tuple[frozenset[str], ...]:
    return tuple(frozenset(form.split()) for form in FORMS.get(name, ()))


def read(atom: Any, env: dict[Atom, V]) -> V:
    """Returns the value of a variable in ``env``, or of a literal."""
    return atom.val if is_literal(atom) else env[atom]


def is_literal(atom: Atom) -> bool:
    """Tells whether an input of an equation is a number written in the program."""
    return hasattr(atom, "val")  # ``jax.extend``, which names the class, loads Pallas


def evaluate(
    program: Program,
    args: Sequence[V],
    apply: Callable[[Equation, list[V]], Sequence[V]],
) -> list[V]:
    """Evaluates a program equation by equation.

    Args:
        program: what to evaluate.
        args: one value for each input, of whatever type ``apply`` understands.
        apply: ``(equation, values) -> results``.

    Returns:
        One value for each output.
    """
    env = {**program.consts, **dict(zip(program.inputs, args, strict=True))}
    for equation in program.equations:
        results = apply(equation, [read(atom, env) for atom in equation.inputs])
        env.update(zip(equation.outputs, results, strict=True))
    return [read(atom, env) for atom in program.outputs]


# -- programs within equations


def inner_program(equation: Equation) -> Program:
    """Returns the program that ``jit``, ``remat2`` or a custom derivative calls.

    Its inputs and outputs are those of the equation.
    """
    names = [name for name in ("jaxpr", "call_jaxpr", "call") if name in equation]
    return Program.of(equation[names[0] if names else "jaxpr"])


class Scan(NamedTuple):
    """A ``scan``: ``carry, out = body(*constants, *carry, *slices)``.

    The equation's inputs are constants, carry and scanned arrays, its outputs carry and
    stacked arrays.
    """

    body: Program
    num_consts: int
    num_carry: int
    length: int
    reverse: bool
    unroll: int


def scan_parts(equation: Equation) -> Scan:
    """Returns the parts of a ``scan``."""
    if "ft_in" in equation:
        num_consts, num_carry, _ = map(len, equation["ft_in"].unpack())
    else:
        num_consts, num_carry = equation["num_consts"], equation["num_carry"]
    names = ("length", "reverse", "unroll")
    return Scan(
        Program.of(equation["jaxpr"]),
        num_consts,
        num_carry,
        *[equation[name] for name in names],
    )


class While(NamedTuple):
    """A ``while``: inputs are constants of ``cond``, constants of ``body``, carry."""

    cond: Program
    body: Program
    num_cond_consts: int
    num_body_consts: int


def while_parts(equation: Equation) -> While:
    """Returns the parts of a ``while``."""
    return While(
        Program.of(equation["cond_jaxpr"]),
        Program.of(equation["body_jaxpr"]),
        equation["cond_nconsts"],
        equation["body_nconsts"],
    )


def cond_branches(equation: Equation) -> list[Program]:
    """Returns the programs of a ``cond``; its first input is the index of the one."""
    return [Program.of(branch) for branch in equation["branches"]]
