"""The starting solution: evaluated, counted, and never better than the result."""

from __future__ import annotations

import signal
from decimal import Decimal
from fractions import Fraction
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conformance.configurations import configuration
from driver.shared import X0, Recorded, host_plateau, minimize, plateau

import gfopt
from gfopt import Status, registry

STEADY = {"method": "random_search", "options": {"population_size": 4}}


def away(x: Any) -> float:
    """0 at the start, 1 and more elsewhere."""
    distance = float(np.max(np.abs(x - np.array(X0))))
    return 1 + distance if distance else 0.0


@pytest.mark.parametrize("name", registry.names(tokens=False))
def test_every_search_evaluates_its_start_first_and_keeps_it(name):
    row = registry.METHODS[name]
    options = {
        name: value
        for name, value in configuration(row).options.items()
        if name != row.sigma
    }
    fun = Recorded(away)
    found = gfopt.minimize(fun, X0, method=name, options=options, budget=3)
    assert fun.seen[0].tolist() == X0 and len(fun.seen) == found.nfev == 3
    assert found.fun == 0 and found.x.tolist() == X0


@pytest.mark.parametrize("name", ["differential_evolution", "particle_swarm"])
def test_populations_begin_with_the_start(name):
    method = registry.method(name, {"population_size": 5})

    @jax.jit
    def first(key: Any) -> Any:
        state = method.init(key, jnp.array(X0))
        members = method.ask(key, state).members
        return jax.vmap(method.decode, (None, 0))(state, members)

    rows = np.asarray(first(jax.random.key(0)))
    assert rows[0].tolist() == X0 and (rows[1:] != X0).all()
    fun = Recorded()
    found = minimize(fun, method=name, options={"population_size": 5}, budget=6)
    starts = sum(x.tolist() == X0 for x in fun.seen)
    assert (starts, found.nfev, found.nit) == (1, 6, 1)  # not evaluated twice


def test_the_start_is_known_where_nobody_needed_a_call_to_find_the_path():
    for objective in (plateau, gfopt.Objective(plateau, traceable=True)):
        found = minimize(objective, maximize=True, budget=5, target=1.5)
        assert (found.path, found.status, found.nfev) == ("compiled", Status.TARGET, 1)
    infeasible = minimize(host_plateau, constraints=[lambda x: 1.55 - float(x[0])])
    assert infeasible.x[0] >= 1.55 and infeasible.nfev == 21


def test_a_start_that_fails_is_a_failure_like_others():
    fun = Recorded(lambda x: [][0] if x.tolist() == X0 else host_plateau(x))
    found = minimize(fun)
    assert found.failures == {"IndexError: list index out of range": 1}
    assert len(fun.seen) == found.nfev == 21 and np.isfinite(found.fun)


def test_sequences_of_tokens_are_searched_without_their_start():
    fun = Recorded(lambda x: float(x.sum()))
    words = {"method": "random_tokens", "options": {"vocabulary": 9}}
    found = gfopt.minimize(fun, np.zeros(3, np.int32), budget=4, **words)
    assert found.nfev == len(fun.seen) == 4 and sum(not x.any() for x in fun.seen) == 0


# ---- ask and tell


def test_the_first_trial_is_the_start():
    search = gfopt.AskTell("random_search", X0, options={"population_size": 4})
    trials = search.ask()
    assert [t.id for t in trials] == [0, 1, 2, 3, 4]
    assert trials[0].solution.tolist() == X0
    trials[0].solution[:] = 9  # the caller's own
    search.tell(trials, [away(t.solution) if t.id else 0.0 for t in trials])
    found = search.result
    assert (found.fun, found.nfev, found.nit) == (0, 5, 1)
    assert found.x.tolist() == X0 and found.history["best"].tolist() == [0]
    assert found.history["nfev"].tolist() == [5] and found.history["fitness"][0] > 1
    assert [t.id for t in search.ask()] == [5, 6, 7, 8]


def test_a_start_told_late_counts_for_the_best():
    search = gfopt.AskTell("mezo", X0)
    start, *others = search.ask()
    search.tell(others, [1.0] * len(others))
    search.close()
    with pytest.warns(UserWarning, match="came after their generation was closed"):
        search.tell(start, np.array([0.5]))
    assert (search.result.fun, search.result.nfev) == (0.5, 1 + len(others))
    assert search.result.x.tolist() == X0


def test_a_trial_that_is_the_start_is_not_asked_for_twice():
    search = gfopt.AskTell("nelder_mead", X0)
    assert search.ask(1)[0].solution.tolist() == X0
    assert [t.solution.tolist() for t in search.ask()].count(X0) == 0


# ---- values of the wrong kind


@pytest.mark.parametrize(
    "value",
    [
        np.ones(1),
        np.ones((1, 1), np.float32),
        jnp.ones(()),
        jnp.ones(1, jnp.bfloat16),
        np.bool_(True),
        True,
        1,
        Decimal(1),
        Fraction(1, 1),
    ],
    ids=repr,
)
def test_one_real_number_is_a_number_however_it_is_wrapped(value):
    found = minimize(lambda x: [float(x[0]), value][1], budget=4, **STEADY)
    assert found.fun == 1.0 and found.failures == {}


def test_an_integer_too_large_for_a_float_is_an_infinity():
    found = minimize(lambda x: 10**400 if x[0] > 1.5 else host_plateau(x), **STEADY)
    assert list(found.failures) == ["returned an infinity"]


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (None, r"None \(NoneType\)"),
        ((1.0, 2.0), r"\(1.0, 2.0\) \(tuple\); for \(number, aux\) pass gfopt.Obj"),
        (np.arange(2), r"array\(\[0, 1\]\) \(ndarray of shape \(2,\)\)"),
        (np.zeros(0), r"array.*\(ndarray of shape \(0,\)\)"),
        (1j, r"1j \(complex\)"),
        (np.array(1j), r"array.*\(ndarray of shape \(\)\)"),
        ("1", r"'1' \(str\)"),
        ({"loss": 1.0}, r"\{'loss': 1.0\} \(dict\)"),
    ],
    ids=str,
)
@pytest.mark.parametrize("batched", [False, True])
def test_anything_else_is_refused_after_one_call(value, words, batched):
    calls = []

    def fun(x: Any) -> Any:
        calls.append(np.asarray(x))
        return value

    objective = gfopt.Objective(fun, batched=batched)
    with pytest.raises(ValueError, match="^fun must return an? .*got " + words):
        minimize(objective, **STEADY)
    assert len(calls) == 1


def test_it_is_refused_before_the_first_number_only():
    """Failures before it say nothing about the kind."""
    calls = []

    def fun(x: Any) -> Any:
        calls.append(float(x[0]))
        return [][0] if len(calls) < 7 else None

    with pytest.raises(ValueError, match="fun must return a real number; got None"):
        minimize(fun, **STEADY)
    assert len(calls) == 7


def test_later_it_is_a_failure_with_one_example():
    def fun(x: Any) -> Any:
        return host_plateau(x) if x.tolist() == X0 else (float(x[0]), "a word " * 20)

    ((reason, count),) = minimize(fun, **STEADY).failures.items()
    assert count == 20 and reason.startswith("returned no real number, such as (")
    assert reason.endswith("(tuple)") and "a word " * 20 in reason


def test_messages_with_numbers_do_not_fill_the_table(tmp_path):
    def fun(x: Any) -> Any:
        raise ValueError(f"no flow at {x[0]}")

    path = tmp_path / "run"
    for budget in (15, 30):  # the second goes on
        found = minimize(fun, budget=budget, checkpoint=path, **STEADY)
    assert len(found.failures) == 11 and sum(found.failures.values()) == 30
    assert found.failures["ValueError: (other messages)"] == 20


def test_what_is_no_number_in_a_model_is_told_what_to_do():
    model = eqx.nn.MLP(2, 1, 3, 1, key=jax.random.key(0))
    with pytest.raises(TypeError, match=r"params, static = eqx.partition\(model, eqx"):
        minimize(lambda m: m(jnp.ones(2))[0], model)
    params, static = eqx.partition(model, eqx.is_inexact_array)
    fun = gfopt.Objective(
        lambda p: jnp.sum(eqx.combine(p, static)(jnp.ones(2)) ** 2), traceable=True
    )
    assert minimize(fun, params, budget=5).nfev == 5


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            {"bounds": gfopt.spaces.integer(-9, 9), "x0": [1.0, 2.0]},
            "bounds with integers",
        ),
        ({"constraints": [lambda x: x[0]]}, "constraints"),
    ],
    ids=["integers", "constraints"],
)
def test_a_method_of_slopes_is_refused_by_the_name_of_the_argument(words, message):
    for method in ("mezo", gfopt.MeZO()):
        with pytest.raises(TypeError, match=f"^method must be .* for {message}.*MeZO"):
            gfopt.minimize(plateau, **({"x0": X0, "method": method} | words))


# ---- Ctrl-C


@pytest.mark.parametrize("where", ["tracing", "real call", "first call", "compiling"])
def test_ctrl_c_before_the_first_generation_gives_a_result(where, monkeypatch):
    calls = []

    def press() -> None:
        signal.raise_signal(signal.SIGINT)

    def fun(x: Any) -> Any:
        calls.append("tracing" if isinstance(x, jax.core.Tracer) else "real call")
        if calls[-1] == where:
            press()
        return plateau(x)

    asked: Any = fun
    if where == "compiling":
        asked = plateau
        monkeypatch.setattr("gfopt.driver.engine.compiled._next", lambda *_: press())
    words: dict[str, Any] = {}
    if where == "first call":
        asked = Recorded(lambda x: press() or plateau(x))
        words = {"evaluator": gfopt.host()}
    found = minimize(asked, **words)
    assert (found.status, found.nit, found.success) == (Status.INTERRUPTED, 0, False)
    # a call that is under way is finished, and counts
    assert found.nfev == (where != "tracing") and found.x.tolist() == X0
    assert found.message.startswith("interrupted by Ctrl-C")
    assert str(found) and found.recommended.tolist() == X0
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
