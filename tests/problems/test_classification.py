"""The digits: the split, the loss, the network's first weights."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.datasets import load_digits

from gfopt.problems import Classification, digits, mlp
from gfopt.problems.networks import network_outputs


def _rows(images: np.ndarray) -> set[bytes]:
    return {row.tobytes() for row in np.asarray(images)}


@pytest.mark.parametrize("num_test", [10, 360, 1000])
def test_every_class_has_its_share_of_the_held_out_images(num_test: int) -> None:
    task = digits(2, num_test=num_test)
    labels = load_digits().target
    share = np.bincount(labels) * num_test / len(labels)
    found = np.bincount(task.test_labels, minlength=10)
    assert found.sum() == num_test
    assert np.all(np.abs(found - share) <= 1)


def test_a_split_loses_no_image_and_shows_none_twice() -> None:
    task, bunch = digits(1), load_digits()
    images = np.concatenate([task.train_images, task.test_images])
    labels = np.concatenate([task.train_labels, task.test_labels])
    assert images.shape == (1797, 64) and images.dtype == np.float32
    assert images.min() == 0 and images.max() == 1
    expected = (bunch.data / 16).astype(np.float32)
    order, theirs = np.lexsort(images.T), np.lexsort(expected.T)
    np.testing.assert_array_equal(images[order], expected[theirs])
    np.testing.assert_array_equal(labels[order], bunch.target[theirs])
    assert not _rows(task.train_images) & _rows(task.test_images)


def test_an_instance_is_always_the_same_split_and_two_are_not() -> None:
    first, again, other = digits(3), digits(3), digits(4)
    np.testing.assert_array_equal(first.test_images, again.test_images)
    np.testing.assert_array_equal(first.train_labels, again.train_labels)
    shared = _rows(first.test_images) & _rows(other.test_images)
    assert 360 * 0.1 < len(shared) < 360 * 0.35  # a fifth by chance


def _reference_logits(network: tuple, images: np.ndarray) -> np.ndarray:
    h = images.astype(np.float64)
    for number, layer in enumerate(network, 1):
        h = h @ np.asarray(layer["w"], np.float64) + np.asarray(layer["b"], np.float64)
        h = np.tanh(h) if number < len(network) else h
    return h


@pytest.fixture(scope="module")
def network() -> tuple:
    layers = mlp(jax.random.key(5), (64, 7, 5, 10))
    return tuple({"w": 3 * v["w"], "b": v["b"] + 0.3} for v in layers)


def test_loss_and_accuracy_are_those_of_a_plain_loop(network: tuple) -> None:
    task = digits(1)
    rows = np.array([4, 0, 1400, 17])
    scores = _reference_logits(network, task.train_images[rows])
    losses = [
        np.log(np.exp(row).sum()) - row[label]
        for row, label in zip(scores, task.train_labels[rows], strict=True)
    ]
    np.testing.assert_allclose(task(network, rows), np.mean(losses), rtol=1e-5)
    guesses = _reference_logits(network, task.test_images).argmax(axis=1)
    expected = np.mean(guesses == task.test_labels)
    assert 0.02 < expected < 0.3
    np.testing.assert_allclose(task.accuracy(network), expected, rtol=1e-6)


def test_a_large_logit_does_not_overflow(network: tuple) -> None:
    huge = (*network[:-1], {"w": 1e4 * network[-1]["w"], "b": network[-1]["b"]})
    assert np.isfinite(digits(1)(huge, np.arange(32)))


def test_a_batch_has_no_row_twice_and_depends_on_its_key_only() -> None:
    task = digits(1, batch_size=1000)
    keys = jax.random.split(jax.random.key(0))
    first, other = (np.asarray(task.batches(jnp.int32(3), key)) for key in keys)
    assert first.shape == (1000,) and len(set(first.tolist())) == 1000
    assert first.min() >= 0 and first.max() < 1437
    assert np.any(np.sort(first) != np.sort(other))
    np.testing.assert_array_equal(first, task.batches(jnp.int32(4), keys[0]))


def test_splits_stack(network: tuple) -> None:
    tasks = [digits(instance, batch_size=16) for instance in (1, 2)]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *tasks)
    assert isinstance(stacked, Classification) and stacked.batch_size == 16
    found = jax.vmap(lambda task: task.accuracy(network))(stacked)
    expected = [task.accuracy(network) for task in tasks]
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_first_weights_are_normal_with_variance_one_over_fan_in() -> None:
    first, second = mlp(jax.random.key(1), (400, 300, 10))
    w = np.asarray(first["w"]) * np.sqrt(400)
    count = w.size
    # mean and variance of 120,000 normals, to five of their standard deviations
    assert abs(w.mean()) < 5 / np.sqrt(count)
    assert abs(w.var() - 1) < 5 * np.sqrt(2 / count)
    assert abs((w**4).mean() - 3) < 5 * np.sqrt(96 / count)
    assert not np.any(first["b"]) and not np.any(second["b"])
    assert second["w"].shape == (300, 10) and second["b"].shape == (10,)
    # layers of equal shape are not equal
    a, b = mlp(jax.random.key(1), (20, 20, 20))
    assert abs(np.corrcoef(np.ravel(a["w"]), np.ravel(b["w"]))[0, 1]) < 5 / 20


def test_without_hidden_layers_a_network_is_linear() -> None:
    network = mlp(jax.random.key(0), (3, 2))
    x = jnp.array([[1.0, -2.0, 0.5]])
    np.testing.assert_allclose(
        network_outputs(network, x), x @ network[0]["w"], rtol=1e-6
    )


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: digits(0), ValueError, "instance .* 1 or above; got 0"),
        (lambda: digits("1"), TypeError, "instance .* got '1'"),
        (lambda: digits(num_test=9), ValueError, "num_test .* got 9"),
        (lambda: digits(num_test=1790), ValueError, "num_test .* 1787; got 1790"),
        (lambda: digits(batch_size=1438), ValueError, "batch_size .* got 1438"),
        (lambda: mlp(0), TypeError, "key .* got 0"),
        (lambda: mlp(jax.random.key(0), 64), TypeError, "sizes .* got 64"),
        (lambda: mlp(jax.random.key(0), (64,)), ValueError, r"sizes .* got \(64,\)"),
        (lambda: mlp(jax.random.key(0), (64, 0)), ValueError, "sizes .* got 0"),
        (lambda: mlp(jax.random.key(0), (64, 1.5)), TypeError, "sizes .* got 1.5"),
    ],
)
def test_refusals(call, error, words) -> None:
    with pytest.raises(error, match=words):
        call()
