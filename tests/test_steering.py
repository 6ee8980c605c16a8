"""The weights and the resampling of steered particles, whatever the particles are."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gfopt import steering

KEYS = jax.random.split(jax.random.key(1), 64)
SCALE, STEPS, SIZE = 1.5, 4, 3
MOVES = np.array([[0.6, 0.3, 0.1], [0.2, 0.5, 0.3], [0.1, 0.1, 0.8]])
REWARDS = np.array([1.0, 0.0, -0.5])


@partial(jax.jit, static_argnames=("count", "potential"))
def chain(key, count, scale=SCALE, potential="difference", threshold=0.5):
    """Steers particles on three states; returns states, lineages and sizes."""

    def move(carry, given):
        (x, kept), (step, (draw, choice)) = carry, given
        x = jax.random.categorical(draw, jnp.log(MOVES)[x])
        is_last = step == STEPS - 1
        kept = kept.weighed(
            jnp.asarray(REWARDS)[x], scale=scale, potential=potential, is_last=is_last
        )
        size = kept.effective_sample_size
        kept, ancestors, _ = kept.resampled(choice, jnp.where(is_last, 0, threshold))
        return (x[ancestors], kept), size

    begun = jnp.zeros(count, int), steering.lineages(count)
    keys = jax.random.split(key, (STEPS, 2))
    (x, kept), sizes = jax.lax.scan(move, begun, (jnp.arange(STEPS), keys))
    return x, kept, sizes


def exact(scale):
    """The probabilities of the last state under ``p(x) exp(scale r(x)) / Z``."""
    tilted = np.linalg.matrix_power(MOVES, STEPS)[0] * np.exp(scale * REWARDS)
    return tilted / tilted.sum()


def test_the_error_falls_with_the_root_of_the_particles():
    counts, errors = (16, 1296), []
    for count in counts:

        @jax.jit
        @jax.vmap
        def shares(key, count=count):
            x, kept, sizes = chain(key, count)
            return kept.weights @ jax.nn.one_hot(x, SIZE), sizes

        found, sizes = shares(KEYS)
        errors.append(np.sqrt(np.mean((found - exact(SCALE)) ** 2)))
        assert np.all((sizes > 0.999) & (sizes < count * 1.001))
    slope = np.polyfit(np.log(counts), np.log(errors), 1)[0]
    assert -0.65 < slope < -0.4, errors
    # were there no weights
    assert np.abs(exact(SCALE) - exact(0)).max() > 10 * errors[-1]


def test_without_a_scale_all_weigh_the_same():
    _, kept, sizes = chain(KEYS[0], 8, 0.0, "difference", 0.5)
    np.testing.assert_allclose(kept.weights, 1 / 8, rtol=1e-6)
    np.testing.assert_allclose(sizes, 8, rtol=1e-5)


@pytest.mark.parametrize("potential", steering.POTENTIALS)
def test_the_potentials_multiply_to_that_of_the_last_reward(potential):
    x, kept, _ = chain(KEYS[0], 8, SCALE, potential, 0.0)
    rewards = SCALE * REWARDS[np.asarray(x)]
    np.testing.assert_allclose(kept.log_product, rewards, rtol=1e-5, atol=1e-6)
    # and a step without resampling keeps its weights
    np.testing.assert_allclose(kept.log_weights, kept.log_product, atol=1e-6)


def test_particles_are_resampled_below_the_threshold():
    kept = steering.lineages(3).weighed([0.0, 1.0, 2.0])
    assert jnp.argmax(kept.weights) == 2
    after = kept.resampled(KEYS[0], threshold=0.1)
    assert not after.is_resampled and after.ancestors.tolist() == [0, 1, 2]
    after = kept.resampled(KEYS[0], threshold=1.1)
    assert after.is_resampled and np.all(after.lineages.log_weights == 0)
    np.testing.assert_array_equal(after.lineages.reward, kept.reward[after.ancestors])


def test_what_failed_has_no_descendants_and_large_rewards_do_not_overflow():
    kept = steering.lineages(3).weighed([1e4, jnp.nan, -1e4], scale=1e3)
    np.testing.assert_array_equal(kept.weights, [1, 0, 0])
    after = kept.resampled(KEYS[0]).lineages
    for leaf in (*after, *after.weighed([jnp.nan] * 3)):
        assert not np.isnan(leaf).any()
    np.testing.assert_array_equal(after.weighed([jnp.inf] * 3).weights, after.weights)


def test_systematic_resampling_rounds_what_is_expected():
    weights = jnp.array([0.4, 0.0, 0.35, 0.25])
    draw = jax.jit(jax.vmap(lambda key: steering.systematic(key, weights)))
    keys = jax.random.split(jax.random.key(0), 4000)
    counts = (np.asarray(draw(keys))[..., None] == np.arange(4)).sum(axis=1)
    expected = 4 * np.asarray(weights)
    assert np.all(counts >= np.floor(expected - 1e-6))
    assert np.all(counts <= np.ceil(expected + 1e-6))
    np.testing.assert_allclose(counts.mean(axis=0), expected, atol=0.04)


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (lambda: steering.lineages(0), ValueError, "num_particles must be an integer"),
        (lambda: steering.lineages(2.5), TypeError, "num_particles must be an integer"),
        (
            lambda: steering.lineages(2).weighed([0, 1], potential="add"),
            ValueError,
            "potential must be one of 'difference'",
        ),
        (
            lambda: steering.lineages(2).weighed([0, 1], scale=-1),
            ValueError,
            "scale must be a finite number, 0 or above",
        ),
        (
            lambda: steering.lineages(2).resampled(KEYS[0], -1),
            ValueError,
            "threshold must be a finite number, 0 or above",
        ),
    ],
)
def test_bad_arguments_are_refused(call, error, match):
    with pytest.raises(error, match=match):
        call()
