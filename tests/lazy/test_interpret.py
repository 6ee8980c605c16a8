"""The coverage list: which operations of an ordinary model leave its weights lazy."""

from __future__ import annotations

import zlib

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from core.models import MODELS, B, D, F, H, K, T, V
from flax import nnx
from jax import lax

import gfopt
from gfopt.lazy.interpreter import interpret
from gfopt.lazy.lazy import has_lazy, materialise


def normal(name: str, shape: tuple[int, ...]) -> jax.Array:
    draw = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape)
    return jnp.asarray(draw / np.sqrt(shape[-1]), jnp.float32)


def low_rank(name, shape, axes, member):
    """A base that all members share, and factors of rank 2 of a member's own."""
    stacked, rows = axes or (len(shape) - 2, 1)
    w, rows = normal(name, shape), stacked + rows
    if len(shape) < 2:
        return w
    a = normal(f"{name} a {member}", (*shape[:rows], 2)) / 4
    b = normal(f"{name} b {member}", (*shape[:stacked], *shape[rows:], 2))
    return gfopt.lazy.LowRank(w, a, b)


def perturbed(kind):
    def make(name, shape, axes, member):
        seed = jnp.uint32(7) + jnp.asarray(member, jnp.uint32)
        path = zlib.crc32(name.encode())
        scale = jnp.float32(0.25)
        return gfopt.noise.Perturbed(normal(name, shape), seed, scale, path, kind)

    return make


KINDS = {
    "low_rank": low_rank,
    "gaussian": perturbed("gaussian"),
    "rademacher": perturbed("rademacher"),
}


def weights(model, make, member=0):
    return {
        name: make(name, shape, model.axes.get(name), member)
        for name, shape in model.weights.items()
    }


def inputs(model):
    if model.x is None:
        return jnp.asarray(np.arange(B * T).reshape(B, T) * 7 % V)
    return normal("x", model.x)


def dense(model):
    """The model as it is, on weights that are made dense first."""
    return jax.jit(lambda p, x: model.fun(materialise(p), x))


def close(found, expected, tolerance=1e-5):
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
        a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
        np.testing.assert_allclose(a, b, tolerance, max(tolerance, 1e-6))


@pytest.mark.parametrize("kind", ["low_rank", "gaussian"])
@pytest.mark.parametrize("name", MODELS)
def test_stays_lazy(name, kind):
    model, x = MODELS[name], inputs(MODELS[name])
    p = weights(model, KINDS[kind])
    assert has_lazy(p)
    with gfopt.lazy.count_materialisations() as made:
        found = jax.jit(interpret(model.fun))(p, x)
    assert made.list == []
    close(found, dense(model)(p, x), model.tolerance)


VMAPPED = ["dense_layer", "einsum_with_reshaped_heads", "batched_matmul", "decoder"]
VMAPPED += ["scanned_stack", "unrolled_stack", "dynamic_index", "conditional", "split"]
VMAPPED += ["mixed_precision", "embedding_by_take", "recurrent", "custom_vjp"]
NUM_MEMBERS = 5


@pytest.mark.parametrize("kind", ["low_rank", "rademacher"])
@pytest.mark.parametrize("name", VMAPPED)
def test_stays_lazy_for_a_whole_population(name, kind):
    model, x = MODELS[name], inputs(MODELS[name])

    def member(index):
        p = weights(model, members_of(KINDS[kind]), index)
        return interpret(model.fun)(p, x)

    with gfopt.lazy.count_materialisations() as made:
        found = jax.jit(jax.vmap(member))(jnp.arange(NUM_MEMBERS))
    assert made.list == []
    expected = dense(model)
    for i in range(NUM_MEMBERS):
        p = weights(model, members_of(KINDS[kind]), i)
        row = jax.tree.map(lambda leaf, i=i: leaf[i], found)
        close(row, expected(p, x), model.tolerance)


def members_of(make):
    """Leaves for a traced member number: low-rank factors are scaled by it."""
    if make is not low_rank:
        return make

    def scaled(name, shape, axes, member):
        leaf = low_rank(name, shape, axes, 0)
        if not has_lazy(leaf):
            return leaf
        return gfopt.lazy.LowRank(leaf.w, leaf.a * (1 + member), leaf.b)

    return scaled


def shapes_in(program):
    """Yields the shape of every array in a program and in those within it."""
    for eqn in program.eqns:
        yield from (var.aval.shape for var in eqn.outvars)
        for inner in jax.tree.leaves(list(eqn.params.values())):
            inner = getattr(inner, "jaxpr", inner)
            if hasattr(inner, "eqns"):
                yield from shapes_in(inner)


@pytest.mark.parametrize("name", ["decoder", "einsum_with_heads_of_their_own", "split"])
def test_low_rank_members_share_their_base(name):
    model, x = MODELS[name], inputs(MODELS[name])

    def member(index):
        return interpret(model.fun)(weights(model, members_of(low_rank), index), x)

    program = jax.make_jaxpr(jax.vmap(member))(jnp.arange(NUM_MEMBERS))
    seen = {tuple(sorted(shape)) for shape in shapes_in(program.jaxpr)}
    for shape in model.weights.values():
        assert tuple(sorted((NUM_MEMBERS, *shape))) not in seen or len(shape) < 2


CONVOLUTIONS = {
    "channels last": ((2, 9, 8, 4), (3, 3, 4, 5), ("NHWC", "HWIO", "NHWC"), {}),
    "channels first": ((2, 4, 9, 8), (5, 4, 3, 2), ("NCHW", "OIHW", "NCHW"), {}),
    "strided and dilated": (
        (2, 9, 8, 4),
        (3, 3, 4, 5),
        ("NHWC", "HWIO", "NHWC"),
        {"window_strides": (2, 1), "rhs_dilation": (1, 2), "padding": ((1, 0), (2, 2))},
    ),
    "one dimension": ((2, 9, 4), (3, 4, 5), ("NWC", "WIO", "NWC"), {}),
}


@pytest.mark.parametrize("case", CONVOLUTIONS)
def test_convolution_by_a_low_rank_kernel(case):
    x_shape, shape, numbers, options = CONVOLUTIONS[case]
    options = {"window_strides": (1,) * (len(shape) - 2), "padding": "SAME"} | options
    outputs, rows = numbers[1].index("O"), [*shape]
    del rows[outputs]
    # the columns are the output features; stored last, seen where the kernel has them
    w = normal("w", (*rows, shape[outputs]))
    kernel = gfopt.lazy.LowRank(
        w, normal("a", (*rows, 2)), normal("b", (shape[outputs], 2))
    )
    order = [*range(len(rows))]
    order.insert(outputs, len(rows))

    def convolve(kernel, x):
        kernel = jnp.transpose(kernel, order)
        return lax.conv_general_dilated(x, kernel, dimension_numbers=numbers, **options)

    x = normal("x", x_shape)
    with gfopt.lazy.count_materialisations() as made:
        found = jax.jit(interpret(convolve))(kernel, x)
    assert made.list == []
    close(found, jax.jit(convolve)(materialise(kernel), x))


# What an operation still makes dense, for which kinds of leaf: docs/lazy.md says so.
DENSE = {
    "elementwise": (lambda w, x: x @ jnp.sin(w), "sin", "both"),
    "norm": (lambda w, x: x * jnp.sum(w * w), "mul", "both"),
    "one factor for each column": (lambda w, x: x @ (w * x[0]), "mul", "both"),
    "sum": (lambda w, x: x @ (w + 1), "add", "both"),
    "concatenation": (lambda w, x: jnp.concatenate([w, w]), "concatenate", "both"),
    "the smaller of two": (lambda w, x: x @ (w[:4].T @ w[:4]), "dot_general", "both"),
    "result": (lambda w, x: w.T, "output", "both"),
    "loop state": (
        lambda w, x: lax.fori_loop(0, 2, lambda i, w: jnp.cos(w), w),
        "scan",
        "both",
    ),
    "every second row": (lambda w, x: x[:, ::2] @ w[::2], "slice", "both"),
    "single elements": (lambda w, x: w[jnp.arange(3), jnp.arange(3)], "gather", "both"),
    "a window for each example": (
        lambda w, x: jax.vmap(lambda i: lax.dynamic_slice_in_dim(w, i, 2))(
            jnp.arange(4) * 3
        ),
        "gather",
        "both",
    ),
    "a matrix for each example": (
        lambda w, x: jax.vmap(lambda x, i: x[:4] @ w.reshape(2, 4, D)[i])(
            x, jnp.array([0, 1, 1])
        ),
        "gather",
        "both",
    ),
    "look-up of columns": (lambda w, x: w[:, jnp.arange(3)], "gather", "perturbed"),
    "an inner axis": (
        lambda w, x: x @ w.reshape(2, D // 2, D)[:, 1].T,
        "slice",
        "perturbed",
    ),
    "flat": (lambda w, x: x.reshape(-1) @ w.reshape(-1)[: B * D], "reshape", "both"),
}


@pytest.mark.parametrize("kind", ["low_rank", "gaussian"])
@pytest.mark.parametrize("case", DENSE)
def test_what_is_made_dense_is_counted(case, kind):
    fun, primitive, which = DENSE[case]
    w = KINDS[kind]("w", (D, D), None, 0)
    x = normal("x", (B, D))
    with gfopt.lazy.count_materialisations() as made:
        found = jax.jit(interpret(fun))(w, x)
    is_lazy = which == "perturbed" and kind == "low_rank"
    assert {name for name, _ in made.list} == (set() if is_lazy else {primitive})
    assert made.count == len(made.list)
    close(found, jax.jit(fun)(materialise(w), x))


@pytest.mark.parametrize("kind", ["gaussian", "grouped"])
def test_other_kernels_are_made_dense(kind):
    groups = 2 if kind == "grouped" else 1
    shape = (3, 4 // groups, 6)
    w, x = normal("w", shape), normal("x", (2, 9, 4))
    if kind == "grouped":
        kernel = gfopt.lazy.LowRank(
            w, normal("a", (*shape[:2], 2)), normal("b", (6, 2))
        )
    else:
        kernel = KINDS[kind]("w", shape, None, 0)

    def convolve(kernel, x):
        return lax.conv_general_dilated(
            x,
            kernel,
            (1,),
            "SAME",
            dimension_numbers=("NWC", "WIO", "NWC"),
            feature_group_count=groups,
        )

    with gfopt.lazy.count_materialisations() as made:
        found = jax.jit(interpret(convolve))(kernel, x)
    assert made.list == [("conv_general_dilated", shape)]
    close(found, jax.jit(convolve)(materialise(kernel), x))


def perturbed_tree(tree):
    """Returns the tree with a ``Perturbed`` leaf in place of every array."""
    return jax.tree_util.tree_map_with_path(
        lambda path, w: (
            KINDS["gaussian"](jax.tree_util.keystr(path), w.shape, None, 0)
            if eqx.is_array(w)
            else w
        ),
        tree,
    )


class Network(nnx.Module):
    """Embedding, attention with a residual, and a gated layer, in Flax NNX."""

    def __init__(self, rngs):
        self.embed = nnx.Embed(V, D, rngs=rngs)
        self.norm = nnx.LayerNorm(D, rngs=rngs)
        self.attention = nnx.MultiHeadAttention(H, D, decode=False, rngs=rngs)
        self.gate = nnx.Linear(D, F, rngs=rngs)
        self.out = nnx.LinearGeneral(F, (2, K), rngs=rngs)

    def __call__(self, tokens):
        x = self.embed(tokens)
        x = x + self.attention(self.norm(x))
        return self.out(nnx.silu(self.gate(x))), self.embed.attend(x)


def test_flax_nnx():
    graph, state = nnx.split(Network(nnx.Rngs(0)))
    tokens = inputs(MODELS["embedding"])

    def apply(state, tokens):
        return nnx.merge(graph, state)(tokens)

    lazy = perturbed_tree(state)
    with gfopt.lazy.count_materialisations() as made:
        found = jax.jit(interpret(apply))(lazy, tokens)
    # biases that have an axis of heads, and nothing else
    assert {name for name, _ in made.list} == {"add"}
    assert {shape[-2:] for _, shape in made.list} == {(H, D // H), (2, K)}
    close(found, jax.jit(apply)(materialise(lazy), tokens))


def test_equinox():
    keys = jax.random.split(jax.random.key(0), 3)
    model = {
        "embed": eqx.nn.Embedding(V, D, key=keys[0]),
        "attention": eqx.nn.MultiheadAttention(H, D, key=keys[1]),
        "mlp": eqx.nn.MLP(D, F, 7, 2, jax.nn.gelu, key=keys[2]),
    }

    def apply(model, tokens):
        x = jax.vmap(model["embed"])(tokens)
        x = x + model["attention"](x, x, x)
        return jax.vmap(model["mlp"])(x)

    tokens = inputs(MODELS["embedding"])[0]
    lazy = perturbed_tree(model)
    arrays, rest = eqx.partition(lazy, eqx.is_array)
    with gfopt.lazy.count_materialisations() as made:
        found = jax.jit(
            lambda arrays, tokens: interpret(apply)(eqx.combine(arrays, rest), tokens)
        )(arrays, tokens)
    assert made.list == []
    close(found, eqx.filter_jit(apply)(materialise(lazy), tokens))


def test_is_the_function_itself_where_nothing_is_lazy():
    traces = []

    def fun(p, x, *, power=2):
        traces.append(p)
        return p["w"] * x**power

    weights = {"w": np.float32(2.0), "name": "a string"}
    assert interpret(fun)(weights, 3.0, power=3) == 54.0
    assert traces == [weights]
    assert interpret(fun).__name__ == "fun"


def test_arguments_that_are_no_arrays_pass_as_they_are():
    w = KINDS["gaussian"]("w", (D, F), None, 0)
    x = normal("x", (B, D))

    def fun(p, x, *, power):
        assert p["name"] == "layer" and power == 2 and callable(p["act"])
        return {"y": p["act"](x @ p["w"]) ** power, "none": None}

    p = {"w": w, "name": "layer", "act": jnp.tanh}
    found = interpret(fun)(p, x, power=2)
    assert found["none"] is None
    close(found["y"], jnp.tanh(x @ materialise(w)) ** 2)


def test_counts_nest_and_end():
    w = KINDS["gaussian"]("w", (D, F), None, 0)
    with gfopt.lazy.count_materialisations() as outer:
        interpret(jnp.sin)(w)
        with gfopt.lazy.count_materialisations() as inner:
            interpret(jnp.cos)(w)
    interpret(jnp.tan)(w)
    assert [name for name, _ in outer.list] == ["sin", "cos"]
    assert [name for name, _ in inner.list] == ["cos"]


def test_vectors_and_empty_leaves_are_dense_and_not_counted():
    b = KINDS["gaussian"]("b", (F,), None, 0)
    empty = gfopt.noise.Perturbed(jnp.zeros((0, F)), jnp.uint32(1), 0.1)
    with gfopt.lazy.count_materialisations() as made:
        found = interpret(lambda b, e, x: x * jnp.exp(b) + e.sum())(b, empty, 2.0)
    assert made.count == 0
    close(found, 2.0 * jnp.exp(b.materialise()))


def test_an_empty_batch():
    w = KINDS["gaussian"]("w", (D, F), None, 0)
    assert interpret(lambda w, x: x @ w)(w, jnp.zeros((0, D))).shape == (0, F)
