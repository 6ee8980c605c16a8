"""The discrete searches beside NumPy loops, and ClaPS's checks of them (R4 to R8)."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest

import gfopt
from gfopt.core.evaluate import judged
from gfopt.noise import threefry
from gfopt.tokens import alphabet

KEY = jax.random.key(3)
VOCABULARY = np.array([2, 3, 5, 7, 11, 13, 17, 19])
HIDDEN = np.array([13, 2, 19, 7, 5])
START = np.zeros(5, np.int32)
METHODS = {
    "random_tokens": {},
    "greedy_tokens": {},
    "genetic_tokens": {"mutation_rate": 0.3, "immigrant_share": 0.2},
    "categorical_tokens": {},
    "aging_evolution": {},
    "particle_tokens": {"mutation_rate": 0.5},
}
each_method = pytest.mark.parametrize("name", METHODS)


def make(name: str, **options: Any) -> Any:
    return gfopt.method(name, {"vocabulary": VOCABULARY, **METHODS[name], **options})


def loss(tokens: Any) -> Any:
    """Weighted mismatches: every sequence of mismatches has a value of its own."""
    weights = np.array([1.0, 2.1, 4.3, 8.7, 16.9], np.float32)
    return ((tokens != HIDDEN) * weights).sum()


def turn(method: Any, state: Any, key: Any, values: Any = None) -> tuple[Any, Any]:
    """Asks and tells once: the state and the sequences."""
    population = method.ask(key, state)
    tokens = jax.vmap(lambda member: method.decode(state, member))(population.members)
    found = jax.vmap(loss)(tokens) if values is None else jnp.asarray(values)
    state, _ = method.tell(state, population, judged(found, population.active, ()))
    return state, np.asarray(tokens)


@each_method
def test_no_token_is_outside_of_the_vocabulary(name: str) -> None:
    # R8; the greedy search leaves what it did not come to yet as it was
    method = make(name)
    state = method.init(KEY, START)
    for step in range(8):
        state, tokens = turn(method, state, jax.random.key(step))
        settled = step + 1 if name == "greedy_tokens" else START.size
        assert np.isin(tokens[:, :settled], VOCABULARY).all()
    assert np.isin(method.recommend(state), VOCABULARY).all()


@each_method
def test_one_program_serves_all_vocabularies_of_a_size(name: str) -> None:
    traces = 0

    @jax.jit
    def ask(method: Any) -> Any:
        nonlocal traces
        traces += 1
        return method.ask(KEY, method.init(KEY, START)).members

    first, second = ask(make(name)), ask(make(name, vocabulary=VOCABULARY + 100))
    assert traces == 1
    same = jax.tree.map(lambda a, b: bool((a == b).all()), first, second)
    assert not all(jax.tree.leaves(same))


@pytest.mark.parametrize("keeps_better", [True, False])
@pytest.mark.parametrize("empties", [True, False])
def test_greedy_is_a_loop_over_positions(keeps_better: bool, empties: bool) -> None:
    rng = np.random.default_rng(0)
    table = {}

    def value(tokens: Any) -> float:
        if empties:
            return float(loss(tokens))
        return table.setdefault(tuple(map(int, tokens)), rng.normal())

    expected, values = oracles.greedy_tokens(value, START, VOCABULARY, keeps_better)
    method = make("greedy_tokens", keeps_better=keeps_better)
    state, evaluations = method.init(KEY, START), 0
    settled = []
    while not method.stop(state)["num_sweeps"]:
        tokens = np.asarray(method.ask(KEY, state).members)
        found = [value(row) for row in tokens]
        evaluations += len(found)
        state, _ = turn(method, state, KEY, np.array(found, np.float32))
        settled.append(float(state.current_fitness))
    # R4: K |V| evaluations; better and better only where a position may stay as it is
    assert evaluations == len(values) == 5 * len(VOCABULARY)
    np.testing.assert_array_equal(state.current, expected)
    assert state.best_fitness == np.float32(min(values))
    if keeps_better:
        assert settled == sorted(settled, reverse=True)
    elif not empties:
        assert settled != sorted(settled, reverse=True)


def test_greedy_tries_no_token_twice_where_it_cannot_try_all() -> None:
    method = make("greedy_tokens", population_size=5)
    tried = method.ask(KEY, method.init(KEY, START)).members[:, 0]
    assert len(set(tried.tolist())) == 5
    wide = make("greedy_tokens", population_size=20)
    population = wide.ask(KEY, wide.init(KEY, START))
    assert population.active.sum() == len(VOCABULARY)
    assert set(population.members[: len(VOCABULARY), 0].tolist()) == set(VOCABULARY)


def test_genetic_children_are_those_of_the_loop() -> None:
    method = make("genetic_tokens", population_size=40, num_parents=6)
    state, _ = turn(method, method.init(KEY, START), jax.random.key(0))
    key = jax.random.key(1)
    u = np.asarray(threefry.standard_uniform(key, (40, 5 + 3 * 5)), np.float64)
    parents = np.asarray(state.parents)
    expected = oracles.genetic_children(parents, VOCABULARY, (0.3, 0.5, 0.2), u)
    np.testing.assert_array_equal(method.ask(key, state).members, expected)


def test_genetic_parents_are_the_best_of_all_generations() -> None:
    method = make("genetic_tokens", population_size=16, num_parents=6)
    state, known = method.init(KEY, START), []
    for step in range(6):
        population = method.ask(jax.random.key(step), state)
        values = [float(loss(row)) for row in np.asarray(population.members)]
        known += list(zip(values, map(tuple, population.members.tolist()), strict=True))
        state, _ = turn(method, state, jax.random.key(step))
        expected = oracles.genetic_parents(known, 6)
        found = list(
            zip(state.fitness.tolist(), map(tuple, state.parents.tolist()), strict=True)
        )
        np.testing.assert_allclose(
            [f for f, _ in found], [f for f, _ in expected], rtol=1e-6
        )
        assert [t for _, t in found] == [t for _, t in expected]


def test_the_reference_evaluates_its_elites_again() -> None:
    # R5: 128 at first, 12 elites once and 14 ever after beside 128 children: 4,244;
    # ours, whose parents keep their values, makes 30 times 128
    reference = 128 + (12 + 128) + 28 * (14 + 128)
    assert reference == 4244
    method = make("genetic_tokens", population_size=128, num_parents=14)
    result = gfopt.run(method, loss, START, key=KEY, generations=30)
    ours = int(result.history["nfev"][-1])
    assert ours == reference - 12 - 28 * 14 == 3840


def test_a_crossed_child_has_tokens_of_both_parents() -> None:
    # R6: of parents 0..0 and 1..1 it has both with probability 1 - 2^(1 - L)
    method = gfopt.tokens.GeneticTokens(
        vocabulary=2, population_size=20_000, num_parents=2, crossover_share=1.0
    )
    state = method.init(KEY, START)._replace(
        parents=jnp.array([[0] * 5, [1] * 5]), fitness=jnp.array([0.0, 1.0])
    )
    few = threefry.standard_uniform(KEY, (20_000, 20))[:, :2]
    different = (few[:, 0] < 0.5) != (few[:, 1] < 0.5)
    children = np.asarray(method.ask(KEY, state).members)[np.asarray(different)]
    # one that is a parent has a position changed: it has then one of another kind
    total = children.sum(axis=1)
    assert np.all((total > 0) & (total < 5))
    share = np.mean((total > 1) & (total < 4))  # 20 of the 32 patterns
    assert abs(share - 20 / 32) < 0.02


def test_particles_move_as_in_the_loop() -> None:
    method = make("particle_tokens", population_size=12, num_steps=10)
    state = method.init(KEY, START)
    for step in range(5):
        key = jax.random.key(step)
        u = np.asarray(threefry.standard_uniform(key, (12, 3 * 5 + 6)), np.float64)
        x, v = method.ask(key, state).members
        if step:
            leader = np.asarray(state.best)[np.argmin(state.fitness)]
            w = 0.8 - 0.6 * step / 10
            expected = oracles.token_particles(
                *(np.asarray(a) for a in (state.tokens, state.velocity, state.best)),
                leader, w, 0.5, VOCABULARY, u,
            )  # fmt: skip
            np.testing.assert_array_equal(x, expected[0])
            np.testing.assert_allclose(v, expected[1], rtol=1e-5)
        else:
            assert np.all(np.abs(v) <= 3) and np.all(v == v[:, :1])
        state, _ = turn(method, state, key)
        # the reference lets the best sequence and its value drift apart
        best = [float(loss(row)) for row in np.asarray(state.best)]
        np.testing.assert_allclose(best, state.fitness, rtol=1e-6)


@pytest.mark.parametrize("name", ["random_tokens", "genetic_tokens"])
def test_subsets_are_distinct_and_ascending(name: str) -> None:
    method = make(name, vocabulary=30, is_subset=True, population_size=50)
    state = method.init(KEY, np.arange(5))
    seen = []
    for step in range(12):
        state, tokens = turn(method, state, jax.random.key(step))
        assert np.all(np.diff(tokens, axis=1) > 0) and tokens.max() < 30
        seen.append(float(loss(method.recommend(state))))
    assert seen == sorted(seen, reverse=True)
    assert np.all(np.isin(np.arange(30), np.unique(tokens))) or name != "random_tokens"
    with pytest.raises(ValueError, match="^vocabulary must have at least the 5"):
        make(name, vocabulary=4, is_subset=True).init(KEY, np.arange(5))


def test_random_subsets_keep_a_share_of_the_start() -> None:
    method = gfopt.tokens.RandomTokens(
        vocabulary=100, population_size=400, change_rate=0.25, is_subset=True
    )
    start = np.arange(0, 80, 4)
    tokens = np.asarray(method.ask(KEY, method.init(KEY, start)).members)
    # 5 of 20 are drawn anew, from the 85 tokens that did not stay
    assert abs(np.isin(tokens, start).mean() - (15 + 5 * 5 / 85) / 20) < 0.01


def test_tokens_are_drawn_alike() -> None:
    u = threefry.standard_uniform(KEY, (1, 70_000))[0]
    vocabulary = alphabet.vocabulary([4, 9, 1, 7])
    assert vocabulary.tolist() == [1, 4, 7, 9]
    counts = np.bincount(alphabet.drawn(vocabulary, u), minlength=10)
    assert np.all(np.abs(counts[[1, 4, 7, 9]] / 70_000 - 0.25) < 0.01)
    tokens = jnp.full(70_000, 4)
    counts = np.bincount(alphabet.changed(vocabulary, tokens, u), minlength=10)
    assert counts[4] == 0
    assert np.all(np.abs(counts[[1, 7, 9]] / 70_000 - 1 / 3) < 0.01)
    outside = alphabet.changed(vocabulary, jnp.full(70_000, 3), u)
    assert set(np.unique(outside)) <= {1, 4, 7, 9}


@pytest.mark.parametrize(
    ("kind", "wrong"),
    [
        (TypeError, None),
        (TypeError, "abc"),
        (TypeError, True),
        (TypeError, [0.5, 1.0]),
        (ValueError, 0),
        (ValueError, []),
        (ValueError, [-1, 2]),
    ],
    ids=str,
)
def test_a_wrong_vocabulary_is_named(kind: Any, wrong: Any) -> None:
    with pytest.raises(kind, match="^vocabulary must be the number of tokens"):
        gfopt.tokens.RandomTokens(vocabulary=wrong)


def test_vocabularies_are_a_batch_axis() -> None:
    several = jnp.stack([jnp.arange(4), jnp.arange(4) + 10])
    method = make("random_tokens", vocabulary=several)

    def ask(method: Any) -> Any:
        return method.ask(KEY, method.init(KEY, START)).members

    with pytest.raises(ValueError, match="^vocabulary must be.*use jax.vmap"):
        ask(method)
    method = make("random_tokens", vocabulary=several, change_rate=jnp.ones(2))
    first, second = jax.vmap(ask)(method)
    np.testing.assert_array_equal(first + 10, second)


@pytest.mark.parametrize("rate", [None, 0.2])
def test_the_distribution_moves_as_that_of_the_loop(rate: float | None) -> None:
    method = gfopt.tokens.CategoricalTokens(
        population_size=12, choices=(2, 5, 3), learning_rate=rate
    )
    weights = jnp.array([1.0, 2.0, 1.0])
    expected = oracles.CategoricalTokens([np.full(k, 1 / k) for k in (2, 5, 3)], rate)
    state = method.init(KEY, np.zeros(3, np.int32))
    rng = np.random.default_rng(1)
    for step in range(15):
        population = method.ask(jax.random.fold_in(KEY, step), state)
        tokens = np.asarray(population.members)
        assert (tokens < [2, 5, 3]).all()
        # small integers: ties; noise at first, then a signal; some fail
        fitness = np.asarray(weights @ (population.members != 1).T)
        fitness = np.where(rng.random(12) < 0.2, np.nan, fitness).astype(np.float32)
        fitness = rng.integers(0, 4, 12).astype(np.float32) if step < 5 else fitness
        expected.step(tokens, fitness)
        evaluation = judged(jnp.asarray(fitness), population.active, ())
        state, info = method.tell(state, population, evaluation)
        for place, theta in enumerate(expected.theta):
            found = state.probabilities[place]
            np.testing.assert_allclose(found[: theta.size], theta, atol=2e-5)
            assert not found[theta.size :].any()
        if rate is None:
            np.testing.assert_allclose(state.delta, expected.delta, rtol=1e-4)
            np.testing.assert_allclose(
                np.linalg.norm(state.path), np.linalg.norm(expected.path), rtol=1e-4
            )
    assert method.recommend(state).tolist() == [1, 1, 1]
    assert info.certainty > 0.6


def test_a_distribution_is_what_is_drawn() -> None:
    method = gfopt.tokens.CategoricalTokens(population_size=4000, choices=(2, 4))
    state = method.init(KEY, np.zeros(2, np.int32))
    theta = jnp.array([[0.25, 0.75, 0, 0], [0.1, 0.2, 0.3, 0.4]])
    drawn = method.ask(KEY, state._replace(probabilities=theta)).members
    shares = jax.nn.one_hot(drawn, 4).mean(axis=0)
    np.testing.assert_allclose(shares, theta, atol=0.03)


def test_nothing_is_learnt_of_equal_values() -> None:
    method = make("categorical_tokens")
    state, _ = turn(method, method.init(KEY, START), KEY, np.ones(32))
    assert state.step == 1 and state.delta == 1
    np.testing.assert_array_equal(state.probabilities, 1 / np.float32(8))
    np.testing.assert_array_equal(method.recommend(state), START)


def test_choices_that_do_not_fit_are_named() -> None:
    for choices, vocabulary in (((2, 3), None), ((2, 3, 9), 8)):
        method = gfopt.tokens.CategoricalTokens(vocabulary, choices=choices)
        with pytest.raises(ValueError, match=r"^choices must have a number for each"):
            method.init(KEY, np.zeros(3, np.int32))
    with pytest.raises(ValueError, match=r"^choices must be an integer, 1"):
        gfopt.tokens.CategoricalTokens(choices=(0, 2))
