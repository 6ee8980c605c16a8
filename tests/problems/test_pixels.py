"""Virtual batch normalisation against a loop of NumPy."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gfopt.problems import ConvolutionalPolicy, Rollout

POLICY = ConvolutionalPolicy(num_actions=3, layers=((4, 3, 2), (5, 2, 1)), hidden=6)
SHAPE = (8, 9, 2)


def images(seed, count):
    return jax.random.uniform(jax.random.key(seed), (count, *SHAPE))


def weights():
    drawn = POLICY.init(jax.random.key(0), SHAPE)
    return jax.tree.map(  # biases that are not zero
        lambda leaf: leaf + 0.1 * jnp.arange(leaf.shape[-1]), drawn
    )


def convolved(image, kernel, stride):
    size, _, _, out = kernel.shape
    rows = (image.shape[0] - size) // stride + 1
    columns = (image.shape[1] - size) // stride + 1
    y = np.zeros((rows, columns, out))
    for i in range(rows):
        for j in range(columns):
            part = image[i * stride : i * stride + size, j * stride : j * stride + size]
            y[i, j] = np.tensordot(part, kernel, 3)
    return y


def looped(layers, reference, shown):
    """Both batches together, layer by layer: the reference says how to normalise."""
    for number, layer in enumerate(layers[:-1]):

        def linear(x, number=number, layer=layer):
            if number < 2:
                return convolved(x, layer["w"], POLICY.layers[number][2])
            return x.reshape(-1) @ layer["w"]

        reference = np.array([linear(x) for x in reference])
        shown = np.array([linear(x) for x in shown])
        flat = reference.reshape(-1, reference.shape[-1])
        mean = flat.mean(axis=0)
        deviation = np.sqrt(((flat - mean) ** 2).mean(axis=0) + 1e-3)
        reference, shown = (
            np.maximum((x - mean) / deviation + layer["b"], 0)
            for x in (reference, shown)
        )
    return shown @ layers[-1]["w"] + layers[-1]["b"]


def test_outputs_against_a_loop():
    network, reference, shown = weights(), images(1, 7), images(2, 3)
    statistics = jax.jit(POLICY.reference_statistics)(network, reference)
    outputs = jax.jit(POLICY.outputs)
    found = outputs(network, statistics, shown)
    plain = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), network)
    expected = looped(plain, np.asarray(reference), np.asarray(shown))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
    # one image alone: what is shown beside it does not matter
    np.testing.assert_allclose(
        outputs(network, statistics, shown[1]), found[1], rtol=1e-4, atol=1e-5
    )


def test_atari_size():
    policy = ConvolutionalPolicy(num_actions=18)
    shape = (84, 84, 4)
    network = jax.eval_shape(lambda key: policy.init(key, shape), jax.random.key(0))
    frames = jax.ShapeDtypeStruct((128, *shape), jnp.float32)
    statistics = jax.eval_shape(policy.reference_statistics, network, frames)
    assert [s.mean.shape for s in statistics] == [(32,), (64,), (64,), (512,)]
    assert jax.eval_shape(policy.outputs, network, statistics, frames).shape == (
        128,
        18,
    )
    assert sum(leaf.size for leaf in jax.tree.leaves(network)) == 1_693_362


@dataclasses.dataclass(frozen=True)
class Sides:
    """One side of a random image is bright; 1 for the action that names it."""

    def reset(self, key):
        side = jax.random.randint(key, (), 0, 2)
        columns = jnp.arange(6)[None, :, None]
        bright = jnp.where(side == 0, columns < 3, columns >= 3)
        image = 0.5 + 0.1 * bright + 0.05 * jax.random.uniform(key, (6, 6, 1))
        return side, image

    def step(self, key, state, action):
        side, image = self.reset(key)
        return side, image, jnp.float32(action == state), jnp.zeros((), bool)


def test_a_rollout_prepares_each_candidate_once():
    policy = ConvolutionalPolicy(num_actions=2, layers=((3, 3, 3),), hidden=4)
    keys = jax.random.split(jax.random.key(5), 8)
    reference = jax.vmap(lambda key: Sides().reset(key)[1])(keys)
    calls = []

    def prepare(network):
        calls.append(network)
        return network, policy.reference_statistics(network, reference)

    def act(prepared, image):
        return policy.outputs(*prepared, image).argmax()

    def plain(network, image):
        return act(prepare(network), image)

    network = policy.init(jax.random.key(1), (6, 6, 1))
    once = Rollout(Sides(), act, num_episodes=2, max_steps=9, prepare=prepare)
    values = once.returns(jax.random.key(2), network, 4)
    assert len(calls) == 1
    every_step = Rollout(Sides(), plain, num_episodes=2, max_steps=9)
    expected = every_step.returns(jax.random.key(2), network, 4)
    assert (values == expected).all() and len(set(values.tolist())) > 1


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"num_actions": 0}, ValueError, "num_actions must be an integer, 1 or above"),
        ({"layers": ((3, 3),)}, ValueError, r"layers must hold \(channels, size"),
        ({"layers": 3}, TypeError, "layers must be a tuple of triples"),
    ],
)
def test_bad_arguments_are_refused(options, error, match):
    with pytest.raises(error, match=match):
        ConvolutionalPolicy(**({"num_actions": 2} | options))


def test_images_that_are_too_small_are_refused():
    with pytest.raises(ValueError, match="shape must be large enough"):
        POLICY.init(jax.random.key(0), (3, 3, 1))
