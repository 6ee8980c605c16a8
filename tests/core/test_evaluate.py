"""Evaluators: the same population, whatever the batching; failures; what is called."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gfopt
from gfopt.core.evaluate import (
    DEFAULT_ELEMENTS,
    Request,
    best_row,
    decode_rows,
    default_evaluator,
    judged,
    member_size,
)
from gfopt.core.objective import Inputs, Objective
from gfopt.lazy.lazy import materialise
from gfopt.types import Population

KEY = jax.random.key(3)
P, D = 7, 4


class Rows(NamedTuple):
    """A method that proposes given vectors: decode is the identity."""

    step: jax.Array

    def decode(self, state, member):
        return member


METHOD = Rows(jnp.int32(0))
# eighths: their squares and sums are exact, in whatever order a program takes them
POINTS = jnp.round(8 * jax.random.normal(jax.random.key(1), (P, D))) / 8
FOUR = jax.make_mesh((4,), ("p",), axis_types=(jax.sharding.AxisType.Auto,))
EXPLICIT = jax.make_mesh((4,), ("p",))  # as meshes are made by default
EVALUATORS = {
    "vmapped": gfopt.vmapped(),
    "one by one": gfopt.chunked(1),
    "chunks of 3": gfopt.chunked(3),
    "one chunk": gfopt.chunked(50),
    "four devices": gfopt.sharded(FOUR),
    "four devices, explicit axes": gfopt.sharded(EXPLICIT),
    "four devices, one by one": gfopt.sharded(FOUR, gfopt.chunked(1)),
    "host": gfopt.host(),
}


def evaluated(evaluator, objective, active=None, inputs=None, points=POINTS):
    active = jnp.ones(len(points), bool) if active is None else jnp.array(active)
    population = Population(points, active)
    state = {"x": jnp.zeros(D)}
    inputs = Inputs() if inputs is None else inputs
    return evaluator(Request(KEY, objective, METHOD, state, population, inputs))


def sphere(x):
    return jnp.sum(x * x)


@pytest.mark.parametrize("name", EVALUATORS)
def test_all_agree_to_the_last_bit_on_the_sphere(name):
    expected = evaluated(gfopt.vmapped(), Objective(sphere))
    found = evaluated(EVALUATORS[name], Objective(sphere))
    assert np.asarray(found.valid).all()
    np.testing.assert_array_equal(found.fitness, expected.fitness)


@pytest.mark.parametrize("method", [gfopt.OpenES(6), gfopt.SNES(6), gfopt.CMAES(6)])
def test_a_search_on_four_devices_makes_the_steps_of_one(method):
    """Given the same fitness; this one is the same in any program."""

    def found(evaluator, x0=None):
        x0 = jnp.zeros(D) if x0 is None else x0
        words = {"key": KEY, "generations": 3, "evaluator": evaluator}
        result = gfopt.run(method, lambda x: jnp.max(jnp.abs(x - 1)), x0, **words)
        return jax.tree.leaves((result.state, result.history))

    expected = found(gfopt.vmapped())
    whole = jax.sharding.NamedSharding(EXPLICIT, jax.sharding.PartitionSpec())
    on_it = jax.device_put(jnp.zeros(D), whole)
    each = [found(gfopt.sharded(FOUR)), found(gfopt.sharded(EXPLICIT), on_it)]
    with jax.set_mesh(EXPLICIT):
        each.append(found(gfopt.sharded(EXPLICIT)))
    for leaves in each:
        for leaf, wanted in zip(leaves, expected, strict=True):
            np.testing.assert_array_equal(leaf, wanted)


@pytest.mark.parametrize("name", EVALUATORS)
def test_nan_infinity_and_inactive_rows_are_not_valid(name):
    bad = POINTS.at[1].set(jnp.nan).at[2].set(jnp.inf)
    active = [True] * 5 + [False] * 2
    found = evaluated(EVALUATORS[name], Objective(sphere), active, points=bad)
    assert (
        np.asarray(found.valid).tolist()
        == [True, False, False, True, True] + [False] * 2
    )
    assert np.isinf(np.asarray(found.fitness)[~np.asarray(found.valid)]).all()


@pytest.mark.parametrize("name", [name for name in EVALUATORS if name != "host"])
def test_a_row_s_key_is_its_own(name):
    """NumPy key data on the host is another type: the host is not compared here."""
    noisy = Objective(lambda key, x: jax.random.normal(key), takes_key=True)
    expected = evaluated(gfopt.vmapped(), noisy).fitness
    found = evaluated(EVALUATORS[name], noisy).fitness
    np.testing.assert_array_equal(found, expected)
    assert len(set(np.asarray(found).tolist())) == P


@pytest.mark.parametrize("name", EVALUATORS)
def test_aux_args_batch_and_context_reach_every_row(name):
    def fun(x, batch, shift, context):
        value = sphere(x) + batch + shift + context["c"]
        return value, {"first": x[0]}

    inputs = Inputs(None, (jnp.float32(2),), jnp.float32(4), {"c": jnp.float32(8)})
    found = evaluated(EVALUATORS[name], Objective(fun, has_aux=True), inputs=inputs)
    plain = evaluated(gfopt.vmapped(), Objective(sphere)).fitness
    np.testing.assert_allclose(found.fitness, plain + 14, rtol=1e-6)
    np.testing.assert_array_equal(found.aux["first"], POINTS[:, 0])


@pytest.mark.parametrize("name", [name for name in EVALUATORS if "devices" not in name])
def test_a_batched_objective_gets_stacked_rows(name):
    stacked = Objective(lambda x: (x * x).sum(axis=1), batched=True)
    found = evaluated(EVALUATORS[name], stacked)
    plain = evaluated(gfopt.vmapped(), Objective(sphere)).fitness
    np.testing.assert_allclose(found.fitness, plain, rtol=1e-6)


@pytest.mark.parametrize(
    ("size", "num_active", "num_rows"),
    [(1, 2, 2), (1, 0, 0), (3, 1, 3), (3, 3, 3), (3, 4, 6), (7, 1, 7), (50, 0, 0)],
)
def test_chunks_without_an_active_row_are_not_run(size, num_active, num_rows):
    calls = []

    def counted(x):
        jax.debug.callback(lambda _: calls.append(1), x)
        return sphere(x)

    active = np.arange(P) < num_active
    found = evaluated(gfopt.chunked(size), Objective(counted), active)
    jax.effects_barrier()
    assert len(calls) == num_rows
    np.testing.assert_array_equal(found.valid, active)


def test_the_host_calls_for_active_rows_only():
    seen = []

    def counted(x):
        seen.append(x)
        return float(sphere(x))

    evaluated(gfopt.host(), Objective(counted), [True] * 3 + [False] * 4)
    assert len(seen) == 3


def test_frozen_leaves_are_merged():
    chosen, frozen = gfopt.partition(
        {"w": jnp.ones(2), "b": jnp.float32(5)}, lambda path, leaf: path == "w"
    )
    objective = Objective(lambda x: jnp.sum(x["w"]) + x["b"])
    value, _ = objective.value(chosen, None, Inputs(frozen))
    assert float(value) == 7


X0 = {"w": jnp.full((D, 3), 0.25), "b": jnp.linspace(-1, 1, 3)}
METHODS = {
    "vectors": gfopt.RandomSearch(population_size=P, sigma=0.5),
    "pairs": gfopt.OpenES(population_size=10, sigma=0.5),
    "lazy leaves": gfopt.MeZO(eps=0.1),
    "low rank": gfopt.OpenES(population_size=10, sigma=0.5, noise=gfopt.low_rank()),
}


def generation_of(method, evaluator, objective):
    """One compiled evaluation of a method's first population."""

    @jax.jit
    def evaluate(key):
        state = method.init(key, X0)
        population = method.ask(key, state)
        return evaluator(Request(key, objective, method, state, population, Inputs()))

    return evaluate(KEY)


@pytest.fixture(scope="module", params=METHODS)
def reference(request):
    """A method, and what ``vmapped`` finds: a network's loss, and the candidates."""
    points = np.linspace(-1, 1, 5 * D, dtype=np.float32).reshape(5, D)

    def loss(x):
        return jnp.sum(jnp.tanh(points @ x["w"] + x["b"]) ** 2), x

    objective, method = Objective(loss, has_aux=True), METHODS[request.param]
    return method, objective, generation_of(method, gfopt.vmapped(), objective)


@pytest.mark.parametrize(
    "name", ["one by one", "chunks of 3", "chunks of 7", "four devices", "devices of 3"]
)
def test_methods_agree_under_every_evaluator(reference, name):
    method, objective, expected = reference
    evaluators = EVALUATORS | {
        "chunks of 7": gfopt.chunked(7),
        "devices of 3": gfopt.sharded(FOUR, gfopt.chunked(3)),
    }
    found = generation_of(method, evaluators[name], objective)
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    np.testing.assert_array_equal(found.valid, expected.valid)
    # a matrix product may round in another way, the candidates may not
    np.testing.assert_allclose(found.fitness, expected.fitness, rtol=1e-6)
    for leaf, other in zip(
        jax.tree.leaves(found.aux), jax.tree.leaves(expected.aux), strict=True
    ):
        # w + a b^T may be fused, or not: the last bit
        is_exact = getattr(method, "noise", None) != gfopt.low_rank()
        tolerance = 0 if is_exact else 1e-6
        np.testing.assert_allclose(leaf, other, rtol=0, atol=tolerance)


def test_pairs_and_lazy_leaves_are_what_decode_says():
    for name, method in METHODS.items():
        state = method.init(KEY, X0)
        members = method.ask(KEY, state).members
        stacked = jax.jit(lambda s, m, o=method: decode_rows(o, s, m))(state, members)
        for row in range(len(jax.tree.leaves(members)[0])):
            member = jax.tree.map(lambda leaf, row=row: leaf[row], members)
            alone = materialise(method.decode(state, member))
            for leaf, whole in zip(
                jax.tree.leaves(alone), jax.tree.leaves(stacked), strict=True
            ):
                tolerance = 1e-6 if name == "low rank" else 0
                np.testing.assert_allclose(
                    leaf, whole[row], rtol=0, atol=tolerance, err_msg=name
                )


@pytest.mark.parametrize("evaluator", [gfopt.vmapped(), gfopt.chunked(1)], ids=str)
@pytest.mark.parametrize("name", METHODS)
def test_a_batched_objective_sees_dense_solutions(name, evaluator):
    def stacked(x):
        return jnp.sum(x["w"] ** 2, (1, 2)) + jnp.sum(x["b"], 1)

    def single(x):
        return jnp.sum(x["w"] ** 2) + jnp.sum(x["b"])

    method = METHODS[name]
    found = generation_of(method, evaluator, Objective(stacked, batched=True))
    expected = generation_of(method, gfopt.vmapped(), Objective(single))
    np.testing.assert_allclose(found.fitness, expected.fitness, rtol=1e-6)


@pytest.mark.parametrize("name", EVALUATORS)
def test_nothing_valid_is_no_error(name):
    found = evaluated(EVALUATORS[name], Objective(lambda x: sphere(x) * jnp.nan))
    assert not np.asarray(found.valid).any()
    index, best = best_row(found)
    assert np.isinf(best) and 0 <= index < P


def test_the_best_row_is_a_valid_one():
    fitness = jnp.array([jnp.nan, 3.0, -jnp.inf, 2.0, 1.0])
    evaluation = judged(fitness, jnp.array([True] * 4 + [False]), ())
    index, best = best_row(evaluation)
    assert (int(index), float(best)) == (3, 2.0)


@pytest.mark.parametrize("name", ["vmapped", "chunks of 3", "four devices"])
def test_an_evaluation_carries_its_context_through_a_run(name):
    """The number of steps, and the largest fitness that was seen."""

    def fun(x, context):
        return sphere(x) + context["step"], x[0]

    def update(context, evaluation):
        assert evaluation.fitness.shape == evaluation.aux.shape == (P,)
        seen = jnp.max(jnp.where(evaluation.valid, evaluation.aux, -jnp.inf))
        highest = jnp.maximum(context["highest"], seen)
        return {"step": context["step"] + 1, "highest": highest}

    context = {"step": jnp.float32(0), "highest": jnp.float32(-jnp.inf)}
    objective = Objective(fun, has_aux=True, context=context, update=update)
    method = gfopt.RandomSearch(population_size=P, sigma=0.1)
    result = gfopt.run(
        method,
        objective,
        jnp.zeros(D),
        key=KEY,
        generations=4,
        evaluator=EVALUATORS[name],
    )
    assert float(result.context["step"]) == 4
    assert 0 < float(result.context["highest"]) < 1
    best = np.asarray(result.history["fitness"])
    np.testing.assert_array_equal(np.floor(best), np.arange(4))


def test_frozen_leaves_of_a_lazy_solution_stay_as_they_are():
    x0 = {"w": jnp.ones((D, 3)), "head": jnp.ones((3, 2)), "b": jnp.zeros(3)}
    chosen, frozen = gfopt.partition(x0, lambda path, leaf: path != "head")

    def loss(x, points):
        return jnp.sum((jnp.tanh(points @ x["w"] + x["b"]) @ x["head"] - 1) ** 2)

    points = jnp.linspace(-1, 1, 2 * D).reshape(2, D)
    with gfopt.lazy.count_materialisations() as made:
        result = gfopt.run(
            gfopt.MeZO(learning_rate=0.01),
            loss,
            chosen,
            key=KEY,
            generations=5,
            args=(points,),
            frozen=frozen,
        )
    assert made.list == []
    assert result.recommended["head"] is None
    before, after = (
        loss(gfopt.merge(x, frozen), points) for x in (chosen, result.recommended)
    )
    assert after < before


def test_the_default_holds_64_megabytes_at_most():
    assert default_evaluator(1000, 64) == gfopt.vmapped()
    assert default_evaluator(1000, 64, 64) == gfopt.vmapped()
    assert default_evaluator(1000, 64, 10) == gfopt.chunked(10)
    assert default_evaluator(DEFAULT_ELEMENTS // 2, 64) == gfopt.chunked(2)


def test_members_of_low_rank_hold_their_factors_only():
    solution = {"w": jnp.zeros((3, 1000, 1000)), "b": jnp.zeros(50)}
    dense, low = gfopt.OpenES(), gfopt.OpenES(noise=gfopt.low_rank(2))
    state = dense.init(KEY, solution)
    assert member_size(dense, state, solution, 64) == 3_000_050
    assert member_size(low, state, solution, 64) == 3 * 2 * 2000 + 50


@pytest.mark.parametrize(
    ("fun", "message"),
    [
        (lambda x: x, r"one real number of shape \(\).*shape \(4,\)"),
        (lambda x: x.astype(complex)[0], "one real number"),
        (lambda x: "four", "one real number"),
    ],
)
def test_what_is_no_number_is_refused_in_words(fun, message):
    with pytest.raises(ValueError, match=message):
        evaluated(gfopt.vmapped(), Objective(fun))


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match="size must be .* 1 or above; got 0"):
        gfopt.chunked(0)
    with pytest.raises(TypeError, match="inner must be vmapped"):
        gfopt.sharded(FOUR, 3)
    two = jax.make_mesh(
        (2, 2), ("a", "b"), axis_types=(jax.sharding.AxisType.Auto,) * 2
    )
    with pytest.raises(ValueError, match="axis must be one of 'a', 'b'; got None"):
        gfopt.sharded(two)
    with pytest.raises(ValueError, match="axis must be one of 'a', 'b'; got 'c'"):
        gfopt.sharded(two, axis="c")
    with pytest.raises(ValueError, match="mesh must have Auto axes"):
        gfopt.sharded(jax.make_mesh((2, 2), ("a", "b")), axis="a")


def test_default_chunks_are_of_whole_pairs():
    seventh = DEFAULT_ELEMENTS // 7
    assert default_evaluator(seventh, 64) == gfopt.chunked(6)
    assert default_evaluator(seventh, 7) == gfopt.vmapped()
    assert default_evaluator(seventh, 64, num_active=5) == gfopt.chunked(5)
