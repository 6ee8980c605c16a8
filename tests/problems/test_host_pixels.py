"""The NumPy network against the JAX one."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from gfopt.problems import ConvolutionalPolicy
from gfopt.problems.environments import host_pixels
from gfopt.problems.environments.atari import NETWORKS

SHAPE = (9, 10, 2)


def drawn(policy):
    weights = policy.init(jax.random.key(0), SHAPE)
    weights = jax.tree.map(
        lambda leaf: leaf + 0.1 * jnp.arange(leaf.shape[-1]), weights
    )
    images = jax.random.uniform(jax.random.key(1), (7, *SHAPE))
    return weights, images


@pytest.mark.parametrize("padding", ["VALID", "SAME"])
def test_normalised_outputs_are_those_of_jax(padding):
    policy = ConvolutionalPolicy(3, ((4, 4, 2), (5, 3, 1)), 6, padding)
    weights, images = drawn(policy)
    statistics = policy.reference_statistics(weights, images)
    expected = policy.outputs(weights, statistics, images[:4])
    weights, images = jax.tree.map(np.array, (weights, images))
    found = host_pixels.reference_statistics(policy, weights, images)
    for ours, theirs in zip(found, statistics, strict=True):
        np.testing.assert_allclose(ours.mean, theirs.mean, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(ours.variance, theirs.variance, rtol=1e-4)
    ours = host_pixels.outputs(policy, weights, images[:4], found)
    np.testing.assert_allclose(ours, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("padding", ["VALID", "SAME"])
def test_plain_outputs_are_convolutions(padding):
    policy = ConvolutionalPolicy(3, ((4, 4, 2), (5, 3, 1)), 6, padding)
    weights, images = drawn(policy)
    h = images
    for layer, (_, _, stride) in zip(weights, policy.layers, strict=False):
        y = lax.conv_general_dilated(
            h,
            layer["w"],
            (stride, stride),
            padding,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        h = jax.nn.relu(y + layer["b"])
    dense, last = weights[-2:]
    h = jax.nn.relu(h.reshape(7, -1) @ dense["w"] + dense["b"])
    expected = h @ last["w"] + last["b"]
    weights, images = jax.tree.map(np.array, (weights, images))
    found = host_pixels.outputs(policy, weights, images)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "size"), [("large", 4_046_502), ("small", 1_005_366), ("tiny", 45_822)]
)
def test_sizes_of_the_named_networks(name, size):
    policy = dataclasses.replace(NETWORKS[name], num_actions=6)
    shapes = jax.eval_shape(
        lambda key: policy.init(key, (84, 84, 4)), jax.random.key(0)
    )
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == size
