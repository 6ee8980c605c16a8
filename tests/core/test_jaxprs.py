"""The views of JAX's programs: every form is known here, and an unknown one is met."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.ad_checkpoint import checkpoint_name
from jax.extend import core

import gfopt
from gfopt import jaxprs
from gfopt.lazy import interpreter as lazily
from gfopt.lazy.interpreter import interpret

X, W = jnp.arange(3.0), jnp.arange(36.0).reshape(4, 3, 3) / 10
INLINED = ("jit", "remat2", "custom_jvp_call", "custom_vjp_call")


@jax.custom_jvp
def twice(x):
    return 2 * x


twice.defjvp(lambda primals, tangents: (twice(*primals), 2 * tangents[0]))


@jax.custom_vjp
def thrice(x):
    return 3 * x


thrice.defvjp(lambda x: (3 * x, None), lambda _, t: (3 * t,))


def turn(h, w):
    return h @ w / 2, h.sum()


def scans(x, w):
    several = jax.vmap(lambda x: lax.scan(turn, x, w))(jnp.stack([x, -x]))
    tangent = jax.jvp(
        lambda x: lax.scan(turn, x, w, reverse=True, unroll=2), (x,), (x,)
    )
    return lax.scan(turn, x, w), several, tangent


def loops(x, w):
    looped = lax.while_loop(
        lambda h: h[1] < x[2], lambda h: (h[0] @ w[0], h[1] + 1), (x, 0)
    )
    return looped, lax.cond(x[1] > 0, lambda x: x * w[0, 0, 1], lambda x: x, x)


def calls(x, w):
    return jax.jit(jnp.sin)(x), jax.checkpoint(jnp.cos)(x), twice(x), thrice(x)


def views(x, w):
    i = x[1].astype(int)
    rows = [w[i], w[jnp.array([1, 2])], w[0], w[::2], *jnp.split(w, 2)]
    rows.append(lax.dynamic_slice(w, (i, 0, 0), (1, 3, 3)))
    shaped = w.T, w.reshape(-1), w[:, None], jnp.broadcast_to(w, (2, 4, 3, 3)), w[:1]
    same = jnp.copy(w), checkpoint_name(w, "w"), lax.optimization_barrier(w)
    scaled = -w, w * x[1], w / x[2], w.astype(jnp.bfloat16), lax.stop_gradient(w)
    wide = jnp.squeeze(lax.conv(w, w[:2, :, :1], (1,), "SAME"), ())
    return rows, shaped, same, scaled, wide


def every_equation(program):
    for equation in program.equations:
        yield equation
        inner = []
        if equation.name in INLINED:
            inner = [jaxprs.inner_program(equation)]
        elif equation.name == "scan":
            inner = [jaxprs.scan_parts(equation).body]
        elif equation.name == "while":
            inner = jaxprs.while_parts(equation)[:2]
        elif equation.name == "cond":
            inner = jaxprs.cond_branches(equation)
        for program in inner:
            yield from every_equation(program)


@pytest.mark.parametrize("fun", [scans, loops, calls, views])
def test_a_program_computes_what_its_function_does(fun):
    program = jaxprs.trace(fun, X, W)
    results = jaxprs.evaluate(program, [X, W], lambda eqn, values: eqn.bind(values))
    jax.tree.map(np.testing.assert_array_equal, results, jax.tree.leaves(fun(X, W)))


def test_every_form_that_has_a_rule_is_known_to_this_version():
    """Else a newer JAX would make weights dense without a word."""
    seen = {}
    for fun in (scans, loops, calls, views):
        for equation in every_equation(jaxprs.trace(fun, X, W)):
            seen.setdefault(equation.name, []).append(equation.is_known)
    rare = {"closed_call", "pvary", "sharding_constraint"}  # those of several devices
    assert lazily.RULES.keys() <= jaxprs.FORMS.keys()
    assert lazily.RULES.keys() - seen.keys() == rare
    assert all(all(seen[name]) for name in lazily.RULES.keys() - rare)


def test_the_parts_of_a_scan():
    program = jaxprs.trace(
        lambda c, x, w: lax.scan(
            lambda h, w: ((h[0] @ w["a"] * c, h[1] + 1), h[0].sum()),
            (x, 0),
            {"a": w, "b": w[:, 0]},
            reverse=True,
        ),
        *(jnp.float32(2), X, W),
    )
    (scan,) = [
        jaxprs.scan_parts(equation)
        for equation in program.equations
        if equation.name == "scan"
    ]
    assert (scan.num_consts, scan.num_carry, scan.length) == (1, 2, 4)
    assert (scan.reverse, scan.unroll) == (True, 1)
    assert (len(scan.body.inputs), len(scan.body.outputs)) == (5, 3)


# -- operations from a JAX that does not exist yet

LEAF = gfopt.lazy.LowRank(jnp.ones((3, 2)), jnp.ones((3, 1)), jnp.ones((2, 1)))


def invented(name="invented"):
    primitive = core.Primitive(name)
    primitive.def_impl(lambda x, **params: jnp.sin(x))
    primitive.def_abstract_eval(lambda x, **params: x)
    return primitive


@pytest.mark.parametrize("name", ["invented", "transpose", "scan", "jit", "while"])
def test_an_unknown_operation_is_made_dense_and_counted(name):
    """Whatever its name: one with other parameters is another operation."""
    primitive = invented(name)

    def fun(w):
        return jnp.sum(primitive.bind(w, flavour="sweet", ft_inputs=(1, 2)))

    with gfopt.lazy.count_materialisations() as made:
        value = interpret(fun)(LEAF)
    assert made.list == [(name, (3, 2))]
    np.testing.assert_allclose(value, 6 * np.sin(2), rtol=1e-6)


def test_a_scan_of_another_form_is_run_as_it_stands(monkeypatch):
    """JAX can run it, and gfopt does not take it apart."""

    def fun(w, x):
        return lax.scan(lambda h, row: (h + row @ x, None), 0.0, w)[0]

    x = jnp.ones(2)
    with gfopt.lazy.count_materialisations() as made:
        lazy = interpret(fun)(LEAF, x)
    assert made.count == 0
    monkeypatch.setattr(jaxprs, "_forms", lambda name: (frozenset({"other"}),))
    with gfopt.lazy.count_materialisations() as made:
        assert interpret(fun)(LEAF, x) == lazy
    assert made.list == [("scan", (3, 2))]


def test_an_operation_that_cannot_be_run_is_refused_by_name():
    def fun(x, w):
        return lax.scan(turn, x, w)

    (equation,) = jaxprs.trace(fun, X, W).equations
    params = {"body": 1, "flavour": "sweet"}
    stranger = jaxprs.Equation(equation._eqn.replace(params=params))
    assert equation.is_known and not stranger.is_known
    message = f"'scan' of JAX {jax.__version__}, with the parameters body, flavour, "
    message += "has a form that gfopt does not know. Install a version of JAX"
    with pytest.raises(jaxprs.UnknownOperation, match=message):
        stranger.bind([X, W])
    for view in (jaxprs.scan_parts, jaxprs.while_parts, jaxprs.inner_program):
        with pytest.raises(jaxprs.UnknownOperation, match=message):
            view(stranger)
    with pytest.raises(jaxprs.UnknownOperation, match="'object' of JAX"):
        jaxprs.Program.of(object())
