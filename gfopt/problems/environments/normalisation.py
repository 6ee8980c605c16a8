"""Normalisation of observations by the moments of all that were seen so far.

Counts, means and sums of squared deviations of two sets of observations join to those
of both:

    n = n_a + n_b,   mean = (n_a mean_a + n_b mean_b) / n
    M = M_a + M_b + n_a (mean_a - mean)^2 + n_b (mean_b - mean)^2

A policy then sees ``clip((observation - mean) / std, -5, 5)``.

Source: Chan, Golub, LeVeque (1983), "Algorithms for computing the sample variance",
The American Statistician 37, for any number of sets at once. The prior, the floor of
the variance and the clipping are those of Salimans et al. (2017), arXiv 1703.03864.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from gfopt.types import Evaluation, PyTree

# the prior weighs as much as this part of one observation of mean 0 and variance 1
PRIOR_COUNT = 1e-2
LEAST_VARIANCE = 1e-2
CLIP = 5.0


class Moments(NamedTuple):
    """What is known of a set of observations.

    Attributes (of JAX, or of NumPy on the host):
        num_observations: ``float32[]``.
        mean: ``float32[...]``, the shape of one observation.
        deviations: ``float32[...]``, the sum of squared deviations from the mean.

    Example:
        >>> no_moments((3,)).mean
        Array([0., 0., 0.], dtype=float32)
    """

    num_observations: PyTree
    mean: PyTree
    deviations: PyTree


def no_moments(shape: tuple[int, ...]) -> Moments:
    """Returns the moments of no observation of that shape."""
    zeros = jnp.zeros(shape, jnp.float32)
    return Moments(jnp.zeros((), jnp.float32), zeros, zeros)


def prior_moments(shape: tuple[int, ...]) -> Moments:
    """Returns the moments to start from: mean 0, variance 1, of almost no weight."""
    count = jnp.full((), PRIOR_COUNT, jnp.float32)
    zeros = jnp.zeros(shape, jnp.float32)
    return Moments(count, zeros, zeros + PRIOR_COUNT)


def with_observation(moments: Moments, observation: jax.Array) -> Moments:
    """Adds one observation (Welford's recursion)."""
    count = moments.num_observations + 1
    away = observation - moments.mean
    mean = moments.mean + away / count
    deviations = moments.deviations + away * (observation - mean)
    return Moments(count, mean, deviations)


def joined(moments: Moments, keep: jax.Array | bool = True) -> Moments:
    """Joins sets of observations.

    Args:
        moments: of every set, leaves ``[n, ...]``.
        keep: ``bool[n]``, which sets count; the others may hold NaN.

    Returns:
        The moments of all sets together.
    """
    keep = jnp.broadcast_to(keep, moments.num_observations.shape)
    wide = keep.reshape(-1, *[1] * (moments.mean.ndim - 1))
    counts = jnp.where(keep, moments.num_observations, 0)
    means = jnp.where(wide, moments.mean, 0)
    n, total = counts.reshape(wide.shape), jnp.sum(counts)
    mean = jnp.sum(n * means, axis=0) / jnp.maximum(total, PRIOR_COUNT)
    # M = sum_i M_i + sum_i n_i (mean_i - mean)^2
    within = jnp.sum(jnp.where(wide, moments.deviations, 0), axis=0)
    between = jnp.sum(n * (means - mean) ** 2, axis=0)
    return Moments(total, mean, within + between)


def updated(moments: Moments, evaluation: Evaluation) -> Moments:
    """Adds what a population observed; the ``update`` of an ``Objective``.

    Args:
        moments: so far.
        evaluation: its ``aux.observations`` are the moments of each member; a failed
            evaluation counts for nothing.
    """
    seen = joined(evaluation.aux.observations, evaluation.valid)
    both = jax.tree.map(lambda a, b: jnp.stack([a, b]), moments, seen)
    return joined(both)


def normalised(observation: PyTree, moments: Moments) -> PyTree:
    """Returns ``clip((observation - mean) / std, -5, 5)``, for NumPy arrays as well."""
    variance = (moments.deviations / moments.num_observations).clip(LEAST_VARIANCE)
    return ((observation - moments.mean) / variance**0.5).clip(-CLIP, CLIP)
