"""Every wrapper, and every wrapper of one, hands on what the method inside says."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from programs import cheap_jit

import gfopt
from gfopt.core import evaluate
from gfopt.core.objective import Inputs, Objective
from gfopt.driver.engine.tiers import at_tier
from gfopt.protocol import (
    Method,
    Optimizer,
    StatelessWrapper,
    Wrapper,
    as_method,
    innermost,
    layers,
    with_innermost,
)
from gfopt.pytree import pytree
from gfopt.spaces.spaces import Space
from gfopt.types import Evaluation, Population

KEY = jax.random.key(3)
X0 = jnp.array([1.0, -0.5, 0.25])
EVERYWHERE = Space(np.full(3, -np.inf), np.full(3, np.inf), np.ones(3))


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Walk:
    """The five functions and nothing else, as a user may write them."""

    def init(self, key: Any, solution: Any) -> Any:
        return gfopt.OpenES().init(key, solution)

    def ask(self, key: Any, state: Any) -> Population:
        return Population(jnp.arange(1.0, 5.0), jnp.ones(4, bool))

    def decode(self, state: Any, member: Any) -> Any:
        return state.mean + 0.01 * member

    def tell(self, state: Any, population: Any, evaluation: Any) -> tuple[Any, Any]:
        best = population.members[jnp.argmin(evaluation.fitness)]
        mean = self.decode(state, best)
        return state._replace(step=state.step + 1, mean=mean), ()

    def recommend(self, state: Any) -> Any:
        return state.mean


def total(solution: Any) -> Any:
    """A cheap score."""
    return sum(jnp.sum(leaf) for leaf in jax.tree.leaves(solution))


METHODS: dict[str, Optimizer] = {
    "cma_es": gfopt.CMAES(population_size=6),
    "lq_cma_es": gfopt.LQCMAES(population_size=6),
    "open_es": gfopt.OpenES(population_size=4),
    "pgpe": gfopt.PGPE(population_size=4),
    "cross_entropy": gfopt.CrossEntropy(population_size=6),
    "differential_evolution": gfopt.DifferentialEvolution(population_size=6),
    "nelder_mead": gfopt.NelderMead(),
    "deep_ga": gfopt.DeepGA(population_size=6, num_parents=2, elitism=False),
    "elite": gfopt.DeepGA(population_size=6, num_parents=2),
    "cbo": gfopt.CBO(population_size=6),
    "mezo": gfopt.MeZO(learning_rate=1e-3),
    "a user's own": Walk(),
}
WRAPPERS: dict[str, Callable[[Any], Any]] = {
    "bounded": lambda method: gfopt.Bounded(method, EVERYWHERE),
    "margin": lambda method: gfopt.Margin(method, EVERYWHERE),
    "reevaluated": gfopt.Reevaluated,
    "rule": gfopt.FeasibilityRule,
    "lagrangian": lambda method: gfopt.AugmentedLagrangian(method, 1),
    "novelty": lambda method: gfopt.Novelty(method, 2, weight=1.0),
    "restarts": lambda method: gfopt.Restarts(method, first_size=6),
    "screened": lambda method: gfopt.Screened(method, total, share=1.0),
    "separable": gfopt.Separable,
    "subspace": lambda method: gfopt.Subspace(method, dimension=3),
}


def takes(wrapper: str, method: Optimizer) -> bool:
    """Whether a wrapper is one for such a method."""
    hooks = as_method(method)
    return {
        "margin": hooks.has_margin,
        "restarts": hooks.can_restart,
        # it asks for solutions of its own, among the first candidates
        "separable": isinstance(innermost(method), gfopt.CMAES)
        and not isinstance(method, gfopt.Reevaluated),
        "rule": not hooks.follows_slopes,
        "lagrangian": not hooks.follows_slopes,
        "novelty": not hooks.elitism,
    }.get(wrapper, True)


def combinations(depth: int, methods: Any = METHODS) -> list[tuple[str, ...]]:
    """Returns names ``(method, inner wrapper, ..., outer wrapper)`` that fit."""
    found = []
    for names in itertools.product(methods, *[WRAPPERS] * depth):
        method = METHODS[names[0]]
        for name in names[1:]:
            if not takes(name, method):
                break
            method = WRAPPERS[name](method)
        else:
            found.append(names)
    return found


def made(names: tuple[str, ...]) -> Any:
    method: Any = METHODS[names[0]]
    for name in names[1:]:
        method = WRAPPERS[name](method)
    return method


def ones(optimizer: Optimizer) -> Any:
    """A state of its form with a 1 everywhere, without a program."""
    shapes = jax.eval_shape(optimizer.init, KEY, X0)
    return jax.tree.map(
        lambda leaf: (
            leaf
            if leaf.shape == KEY.shape and leaf.dtype == KEY.dtype
            else np.ones(leaf.shape, leaf.dtype)
        ),
        shapes,
    )


def innermost_state(optimizer: Any, state: Any) -> Any:
    while isinstance(optimizer, Wrapper):
        optimizer, state = optimizer.inner, optimizer.inner_state(state)
    return state


def said(optimizer: Any) -> dict[str, Any]:
    """What a method says through all hooks that a wrapper does not change."""
    hooks, state = as_method(optimizer), ones(optimizer)
    wide = innermost_state(optimizer, hooks.widened(state, np.float32(2)))
    changed = jax.tree.map(lambda leaf: bool(np.all(leaf == 2)), wide)
    stds = jax.eval_shape(hooks.standard_deviations, state)
    wanted = jax.eval_shape(hooks.wanted_tier, state)
    size = hooks.population_size
    return {
        "group_size": hooks.group_size,
        "population_size": size,
        "resized": None if size is None else hooks.resized(2 * size).population_size,
        "follows_slopes": hooks.follows_slopes,
        "elitism": hooks.elitism,
        "is_for_tokens": hooks.is_for_tokens,
        "noise_form": hooks.noise_form(X0),
        "heat_map": hooks.heat_map(state),
        "widened": changed,
        "standard_deviations": None if stds is None else stds.shape,
        "wanted_tier": None if wanted is None else wanted.shape,
        "stop": set(jax.eval_shape(hooks.stop, state)),
    }


def test_every_hook_is_looked_at():
    """Beside those of ``said``: what a wrapper answers itself, tested below."""
    own = {"at_tier", "tier", "decode_group", "wrapped", "search_space", "tolerance"}
    own |= {
        "late_members",
        "began",
        "encode",
        "log_header",
        "noise_on_base",
        "can_restart",
        "has_margin",
        "sized",
        "at_step",
        "drawn_within",
    }
    hooks = {name for name in vars(Method) if not name.startswith("_")}
    assert hooks == said(METHODS["cma_es"]).keys() | own


def test_bounds_reach_a_method_with_the_same_coordinates():
    space = Space(np.full(3, -1.0), np.full(3, 2.0), np.ones(3))
    for wrapper in WRAPPERS:
        method = as_method(made(("cma_es", wrapper))).drawn_within(space)
        told = innermost(method).box is not None
        assert told == (wrapper not in ("margin", "subspace")), wrapper


def test_only_what_tells_the_method_inside_takes_late_members():
    for wrapper in WRAPPERS:
        says = as_method(made(("cma_es", wrapper))).late_members
        takes = wrapper in ("bounded", "margin", "restarts")
        assert says == ("encoded" if takes else ""), wrapper


@pytest.mark.parametrize("names", combinations(2, ["cma_es"]), ids="/".join)
def test_a_run_began_where_it_was_restarted(names):
    optimizer = made(names)
    began = as_method(optimizer).began(ones(optimizer))
    assert began == ("restarts" in names)


SOME = ["cma_es", "lq_cma_es", "open_es", "deep_ga", "a user's own"]


@pytest.mark.parametrize("names", combinations(1) + combinations(2, SOME), ids="/".join)
def test_every_hook_reaches_the_method_inside(names):
    optimizer = made(names)
    expected, found = said(METHODS[names[0]]), said(optimizer)
    if "restarts" in names:  # it ends a run, not the search, and asks for rows
        expected["stop"], expected["wanted_tier"] = set(), ()
    assert found == expected
    assert innermost(optimizer) is METHODS[names[0]]
    assert len(layers(optimizer)) == len(names)
    again = with_innermost(optimizer, METHODS[names[0]])
    assert again == optimizer


@pytest.mark.parametrize("names", combinations(2, ["open_es"]), ids="/".join)
def test_a_pair_is_decoded_as_its_members_are(names):
    optimizer = made(names)

    def decoded(key: Any) -> tuple[Any, Any]:
        state = optimizer.init(key, X0)
        members = optimizer.ask(key, state).members
        one = jax.tree.map(lambda leaf: leaf[0], members)
        pair = jax.tree.map(lambda leaf: leaf[:2], members)
        return optimizer.decode(state, one), optimizer.decode_group(state, pair)

    one, pair = jax.eval_shape(decoded, KEY)
    assert one.shape == X0.shape and pair.shape == (2, *X0.shape)
    assert evaluate.group_size(optimizer, 64) == 2


def objective(x: Any) -> Any:
    return jnp.sum((x - 0.3) ** 2), x[:2]


@cheap_jit
def answer_after(optimizer: Any) -> Any:
    """What the innermost method recommends after some generations."""
    seen = Objective(objective, has_aux=True)

    def step(state: Any, number: Any) -> tuple[Any, None]:
        population = optimizer.ask(jax.random.fold_in(KEY, number), state)
        evaluation: Evaluation = evaluate.vmapped()(
            evaluate.Request(KEY, seen, optimizer, state, population, Inputs())
        )
        return optimizer.tell(state, population, evaluation)[0], None

    state, _ = jax.lax.scan(step, optimizer.init(KEY, X0), jnp.arange(4))
    return innermost(optimizer).recommend(innermost_state(optimizer, state))


@pytest.mark.parametrize(
    "names",
    [
        names
        for names in combinations(1, ["cma_es", "open_es", "a user's own"])
        # the one's inner method searches other numbers, the other's tests candidates
        if not {"subspace", "separable"} & {*names}
    ]
    + [(name, "reevaluated") for name in ("lq_cma_es", "nelder_mead", "cbo")]
    + [
        ("cma_es", "restarts", "lagrangian"),
        ("cma_es", "restarts", "novelty"),
        ("cma_es", "margin", "reevaluated"),
        ("open_es", "novelty", "rule"),
    ],
    ids="/".join,
)
def test_a_wrapper_that_has_nothing_to_do_changes_nothing(names):
    plain = answer_after(METHODS[names[0]])
    assert not jnp.allclose(plain, X0, atol=1e-3)
    np.testing.assert_allclose(answer_after(made(names)), plain, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ["bounded", "rule", "lagrangian", "novelty"])
def test_restarts_have_their_rows_within_every_wrapper(name):
    """Within constraints they stayed at the first number for ever."""
    optimizer = WRAPPERS[name](gfopt.Restarts(gfopt.CMAES(), first_size=6))
    state = ones(optimizer)
    grown = optimizer.inner_state(state)._replace(num_active=np.int32(24))
    assert int(optimizer.wanted_tier(optimizer.with_inner_state(state, grown))) == 2
    shapes = jax.eval_shape(optimizer.init, KEY, X0)
    larger, fitted = jax.eval_shape(partial(at_tier, tier=2), optimizer, shapes)
    assert (optimizer.tier, larger.tier) == (0, 2)
    assert jax.eval_shape(larger.ask, KEY, fitted).active.size == 24


@pytest.mark.parametrize("names", combinations(1), ids="/".join)
def test_a_wrapper_is_not_logged_and_a_margin_alone_is_restarted(names):
    """What it changes is not in a log of seeds; fields of ``inner`` are not its own."""
    hooks, inside = as_method(made(names)), as_method(METHODS[names[0]])
    assert hooks.log_header() is None and hooks.noise_on_base() is None
    assert hooks.can_restart == ("margin" in names and inside.can_restart)
    assert not hooks.has_margin


def test_the_space_is_seen_from_outside():
    bounded = gfopt.Bounded(gfopt.CMAES(), EVERYWHERE)
    for wrapper in (gfopt.Reevaluated, gfopt.FeasibilityRule):
        assert wrapper(bounded).search_space is EVERYWHERE
    assert gfopt.Reevaluated(gfopt.CMAES()).search_space is None


def test_a_reason_s_tolerance_is_found_where_it_is():
    optimizer = gfopt.Reevaluated(gfopt.Bounded(gfopt.CMAES(tol_x=1e-5), EVERYWHERE))
    assert optimizer.tolerance("tol_x") == pytest.approx(1e-5)
    assert optimizer.tolerance("max_effort") == 16
    assert optimizer.tolerance("diverged") is True


def test_a_users_own_hook_counts_and_the_others_have_defaults():
    class Stopping(Walk):
        def stop(self, state: Any) -> dict[str, Any]:
            return {"far": state.step >= 2}

    plain, own = as_method(Walk()), as_method(Stopping())
    assert plain.stop(None) == {} and plain.group_size == 1 and plain.tier == 0
    assert list(
        gfopt.Reevaluated(Stopping()).stop(gfopt.Reevaluated(Stopping()).init(KEY, X0))
    ) == ["far"]
    assert not own.follows_slopes and own.log_header() is None
    assert own.noise_on_base() is None
    with pytest.raises(TypeError, match="injected solutions; got"):
        own.encode(None, X0)


@pytree
class Rounded(StatelessWrapper):
    """One override, as a user may write it."""

    inner: Optimizer

    def decode(self, state: Any, member: Any) -> Any:
        return jnp.round(super().decode(state, member), 1)


def test_one_override_of_decode_is_enough_for_rows_that_share_a_draw():
    rounded = Rounded(gfopt.OpenES(population_size=4))
    assert rounded.group_size == 2
    state = rounded.init(KEY, X0)
    members = rounded.ask(KEY, state).members
    expected = jax.vmap(partial(rounded.decode, state))(members)
    found = evaluate.decode_rows(rounded, state, members)
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(found, jnp.round(found, 1))


def test_a_missing_function_is_named():
    class Half(Method):
        def ask(self, key: Any, state: Any) -> Population:
            return Population(key, key)

    with pytest.raises(TypeError, match=r"Half.*decode.*init.*recommend.*tell"):
        Half()  # type: ignore[abstract]
