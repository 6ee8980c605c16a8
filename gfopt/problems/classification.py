"""Training a small network to read handwritten digits, without gradients.

The data are the 1,797 images of 8 x 8 pixels that come with scikit-learn: nothing is
downloaded. A network is a plain pytree, a tuple of layers ``{"w": [in, out], "b":
[out]}``; the task is a pytree too, called as ``task(network, rows)``, so that
``Objective(task)`` passes the images to the compiled program as arguments.
"""

from __future__ import annotations

from dataclasses import field

import jax
import jax.numpy as jnp
import numpy as np

from gfopt import checks
from gfopt.problems.networks import network_outputs
from gfopt.pytree import pytree, static
from gfopt.types import Array, Key, PyTree

NUM_CLASSES = 10


@pytree(eq=False)
class Classification:
    """Images and labels, and a network's loss on a mini-batch of them.

    Make it with ``digits``. Tasks of equal shapes stack: ``jax.vmap`` runs over
    several splits at once.

    Attributes:
        train_images: ``float32[n, pixels]``, from 0 to 1.
        train_labels: ``int32[n]``.
        test_images: ``float32[m, pixels]``, never shown to a method.
        test_labels: ``int32[m]``.
        batch_size: images in a mini-batch.
    """

    train_images: Array = field(repr=False)
    train_labels: Array = field(repr=False)
    test_images: Array = field(repr=False)
    test_labels: Array = field(repr=False)
    batch_size: int = static(default=128)

    def __call__(self, network: PyTree, rows: jax.Array) -> jax.Array:
        """Returns the mean cross-entropy on some of the training images.

        Args:
            network: a tuple of layers, as ``mlp`` makes it.
            rows: ``i32[b]``, which images; from ``batches``.

        Returns:
            ``float32[]``, lower is better.
        """
        images = jnp.asarray(self.train_images)[rows]
        labels = jnp.asarray(self.train_labels)[rows]
        log_probabilities = jax.nn.log_softmax(network_outputs(network, images))
        chosen = jnp.take_along_axis(log_probabilities, labels[:, None], axis=1)
        return -jnp.mean(chosen)

    def batches(self, step: jax.Array, key: Key) -> jax.Array:
        """Draws the rows of a mini-batch; the ``batches`` argument of ``run``."""
        del step
        count = len(self.train_labels)
        return jax.random.choice(key, count, (self.batch_size,), replace=False)

    def accuracy(self, network: PyTree) -> jax.Array:
        """Returns the share of the held-out images that a network gets right."""
        outputs = network_outputs(network, jnp.asarray(self.test_images))
        return jnp.mean(jnp.argmax(outputs, axis=1) == jnp.asarray(self.test_labels))


def digits(
    instance: int = 1, *, num_test: int = 360, batch_size: int = 128
) -> Classification:
    """Makes the task of reading scikit-learn's handwritten digits.

    Args:
        instance: number of the split, 1 or above: which images are held out.
        num_test: held-out images, with every digit as frequent as among all.
        batch_size: training images in a mini-batch.

    Returns:
        The task.

    Raises:
        ImportError: without scikit-learn; it says what to install.
        TypeError: for an argument that is not an integer.
        ValueError: for one out of range.

    Source: E. Alpaydin and C. Kaynak (1998), Optical recognition of handwritten
    digits, UCI machine learning repository; the test part, as scikit-learn ships it.

    Example:
        >>> import gfopt
        >>> from gfopt.problems import mlp
        >>> task = digits()
        >>> network = mlp(jax.random.key(0), (64, 32, 10))
        >>> result = gfopt.run(
        ...     gfopt.OpenES(population_size=32, sigma=0.05, learning_rate=0.05),
        ...     gfopt.Objective(task), network, key=jax.random.key(1),
        ...     generations=60, batches=task.batches)
        >>> bool(task.accuracy(result.recommended) > 0.6)
        True
    """
    checks.integer("instance", instance, 1)
    checks.integer("num_test", num_test, NUM_CLASSES)
    checks.integer("batch_size", batch_size, 1)
    with checks.needed_by("digits", "scikit-learn", "pip install 'gfopt[bench]'"):
        from sklearn.datasets import load_digits
    bunch = load_digits()
    images = (bunch.data / 16).astype(np.float32)
    labels = bunch.target.astype(np.int32)
    checks.within("num_test", num_test, NUM_CLASSES, len(labels) - NUM_CLASSES)
    checks.within("batch_size", batch_size, 1, len(labels) - num_test)
    test = _stratified(labels, num_test, instance)
    train = np.setdiff1d(np.arange(len(labels)), test)
    return Classification(
        images[train], labels[train], images[test], labels[test], batch_size
    )


def _stratified(labels: np.ndarray, num_test: int, seed: int) -> np.ndarray:
    """Chooses test rows so that every class has its share, to within one image."""
    shuffled = np.random.default_rng(seed).permutation(len(labels))
    by_class = shuffled[np.argsort(labels[shuffled], kind="stable")]
    # every (n / num_test)-th row of a list that is sorted by class
    places = (np.arange(num_test) + 0.5) * len(labels) / num_test
    return np.sort(by_class[places.astype(int)])
