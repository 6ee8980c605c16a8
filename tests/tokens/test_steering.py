"""Steering against a target whose every text can be listed."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gfopt

SIZE, LENGTH, COUNT = 3, 4, 1000
# resampling on sums spends the particles where rewards count for more
SCALES = {"difference": 1.5, "max": 1.5, "sum": 0.4}
TABLE = jax.random.normal(jax.random.key(3), (SIZE, SIZE))
BIGRAMS = gfopt.tokens.FunctionModel(lambda table, tokens: table[tokens], TABLE)
PROMPT, EMPTY = jnp.array([0]), jnp.full(LENGTH, -1)


def fitness(tokens):
    """Any function of the text, also of its beginnings."""
    places = jnp.arange(1, LENGTH + 1)
    return jnp.sin(jnp.sum((tokens + 2) * places * places) * 1.7)


def exact(scale):
    """The probabilities of all texts under ``p(x) exp(scale r(x))``."""
    texts = np.array(list(itertools.product(range(SIZE), repeat=LENGTH)))
    p = np.asarray(jax.nn.softmax(TABLE))
    rows = np.concatenate([np.zeros((len(texts), 1), int), texts], axis=1)
    prior = np.prod(p[rows[:, :-1], rows[:, 1:]], axis=1)
    values = np.asarray(jax.vmap(fitness)(jnp.asarray(texts)))
    tilted = prior * np.exp(-scale * values)
    return texts, tilted / tilted.sum(), prior


def place_of(texts):
    return texts @ (SIZE ** np.arange(LENGTH - 1, -1, -1))


@pytest.fixture(scope="module")
def found():
    """The weighted share of each text, in several runs of each kind."""
    results = {}
    for potential, scale in SCALES.items():

        @jax.jit
        @jax.vmap
        def shares(key, threshold, potential=potential, scale=scale):
            method = gfopt.tokens.Steering(
                BIGRAMS,
                PROMPT,
                num_particles=COUNT,
                scale=scale,
                potential=potential,
                threshold=threshold,
            )
            result = gfopt.run(method, fitness, EMPTY, key=key, generations=LENGTH)
            weights = method.weights(result.state)
            share = jnp.zeros(SIZE**LENGTH)
            share = share.at[place_of(result.state.beams.tokens)].add(weights)
            columns = ("is_resampled", "effective_sample_size")
            return share, *(result.history[name] for name in columns)

        thresholds = jnp.repeat(jnp.array([0.0, 0.5, 1.1]), 8)
        keys = jax.random.split(jax.random.key(0), thresholds.size)
        results[potential] = [
            np.split(np.asarray(x), 3) for x in shares(keys, thresholds)
        ]
    return results


@pytest.mark.parametrize("kind", [0, 1, 2], ids=["never", "adaptive", "always"])
@pytest.mark.parametrize("potential", SCALES)
def test_the_particles_follow_the_target(found, potential, kind):
    texts, target, prior = exact(SCALES[potential])
    shares, resampled, effective = (part[kind] for part in found[potential])
    np.testing.assert_allclose(shares.sum(axis=1), 1, rtol=1e-4)
    # any function of the text: its mean over runs is the exact one, up to chance
    for value in (texts[:, 1] == 2, texts[:, -1] == 0, texts.sum(axis=1)):
        each = shares @ value
        error = each.std(ddof=1) / np.sqrt(len(each))
        assert abs(each.mean() - target @ value) < 5 * error + 2e-3
    assert abs(target - prior).sum() > 0.15  # what it would be without a reward
    assert np.abs(shares.mean(axis=0) - target).sum() < 0.12
    assert np.all((effective >= 1) & (effective <= COUNT * 1.001))
    assert not resampled[:, -1].any()
    if kind == 0:
        assert not resampled.any()
    if kind == 2:
        assert resampled[:, :-1].all()


def test_without_a_scale_all_weigh_the_same():
    method = gfopt.tokens.Steering(BIGRAMS, PROMPT, num_particles=8, scale=0.0)
    result = gfopt.run(
        method, fitness, EMPTY, key=jax.random.key(0), generations=LENGTH
    )
    np.testing.assert_allclose(method.weights(result.state), 1 / 8, rtol=1e-6)
    assert not result.history["is_resampled"].any()
    assert method.stop(result.state)["max_length"]
    # the product of the difference potentials telescopes
    method = gfopt.tokens.Steering(
        BIGRAMS, PROMPT, num_particles=8, scale=2.0, threshold=0
    )
    result = gfopt.run(
        method, fitness, EMPTY, key=jax.random.key(0), generations=LENGTH
    )
    rewards = -jax.vmap(fitness)(result.state.beams.tokens)
    np.testing.assert_allclose(
        result.state.lineages.log_product, 2 * rewards, rtol=1e-4
    )
    assert np.isclose(fitness(result.recommended), -rewards.max())


def test_failures_are_never_ancestors():
    def fails_on_two(tokens):
        return jnp.where(jnp.any(tokens == 2), jnp.nan, 0.0)

    method = gfopt.tokens.Steering(BIGRAMS, PROMPT, num_particles=16, threshold=1.1)
    result = gfopt.run(
        method, fails_on_two, EMPTY, key=jax.random.key(0), generations=LENGTH
    )
    weights = method.weights(result.state)
    bad = np.any(np.asarray(result.state.beams.tokens) == 2, axis=1)
    assert np.all(weights[bad] == 0) and np.isclose(weights.sum(), 1, rtol=1e-5)
    result = gfopt.run(
        method, lambda tokens: jnp.nan, EMPTY, key=jax.random.key(0), generations=3
    )
    assert result.state.beams.length == 0 and np.array_equal(result.recommended, EMPTY)


def test_large_rewards_do_not_overflow():
    method = gfopt.tokens.Steering(BIGRAMS, PROMPT, num_particles=8, scale=1e3)
    result = gfopt.run(
        method,
        lambda tokens: 1e3 * fitness(tokens),
        EMPTY,
        key=jax.random.key(0),
        generations=LENGTH,
    )
    for leaf in jax.tree.leaves(result.state):
        assert not np.isnan(leaf).any()
    assert np.isclose(method.weights(result.state).sum(), 1, rtol=1e-5)


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"potential": "add"}, ValueError, "potential must be one of 'difference'"),
        ({"scale": -1.0}, ValueError, "scale must be a finite number, 0 or above"),
        ({"num_particles": 0}, ValueError, "num_particles must be an integer, 1"),
        ({"threshold": "x"}, TypeError, "threshold must be a finite number"),
    ],
)
def test_bad_arguments_are_refused(options, error, match):
    with pytest.raises(error, match=match):
        gfopt.tokens.Steering(BIGRAMS, PROMPT, **options)
