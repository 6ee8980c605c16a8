"""Where to start, from what is known: points with their values, or an earlier run."""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import numpy as np
from numpy.typing import ArrayLike

from gfopt import checks
from gfopt.core.sense import Sense
from gfopt.driver.result.result import Result
from gfopt.protocol import as_method
from gfopt.types import PyTree, Solution


class WarmStart(NamedTuple):
    """A start for ``minimize`` or ``AskTell``.

    Attributes:
        x0: ``float64[D]``, the middle of the good points.
        sigma0: ``float64[D]``, how far they are spread.
    """

    x0: np.ndarray
    sigma0: np.ndarray


def warm_start(
    solutions: ArrayLike,
    values: ArrayLike,
    *,
    maximize: bool = False,
    fraction: float = 0.1,
    radius: float = 0.1,
) -> WarmStart:
    """Returns where a search should start that knows some points already.

    The best points are taken as a mixture of equal normal distributions around each of
    them, whose mean and variance are, for every coordinate,

        m = mean x_i,   s^2 = mean (x_i - m)^2 + (radius r)^2

    with r the range of all points in this coordinate.

    Source: Nomura et al., "Warm starting CMA-ES for hyperparameter optimization"
    (AAAI 2021), arXiv 2012.06932, the promising distribution. Deviations: it is
    diagonal; r is 1 there, for problems scaled to the unit cube.

    Args:
        solutions: ``[N, D]``, such as those of a similar problem.
        values: ``[N]``; NaN and None for failures, which are left out.
        maximize: the largest values are the good ones.
        fraction: share of the points that is good, at least one of them.
        radius: standard deviation around each of them, in ranges of all points.

    Raises:
        TypeError: for an argument of the wrong type.
        ValueError: for one out of range or of another shape, or where all points agree
            in some coordinate, so that its scale is unknown.

    Example:
        >>> import gfopt, numpy as np
        >>> known = np.random.default_rng(0).uniform(-5, 5, (100, 2))
        >>> x0, sigma0 = gfopt.warm_start(known, ((known - 1) ** 2).sum(axis=1))
        >>> bool(np.all(np.abs(x0 - 1) < 1) and np.all(sigma0 < 2))
        True
        >>> result = gfopt.minimize(lambda x: ((x - 1) ** 2).sum(), x0, sigma0=sigma0)
        >>> result.x.round(4)
        array([1., 1.])
    """
    x = _numbers("solutions", solutions, 2)
    y = _numbers("values", values, 1)
    checks.instance("maximize", maximize, bool, "True or False")
    checks.share("fraction", fraction)
    checks.positive("radius", radius)
    if len(x) != len(y):
        raise ValueError(
            f"values must be one for each of {len(x)} solutions; got {len(y)}"
        )
    known = np.isfinite(y) & np.isfinite(x).all(axis=1)
    if not known.any():
        raise ValueError("values must hold a finite number; got none")
    x, y = x[known], y[known]
    spread = np.ptp(x, axis=0)
    if not (spread > 0).all():
        where = np.flatnonzero(spread == 0)[0]
        raise ValueError(
            f"solutions must differ in every coordinate; got {x[0, where]} for all in "
            f"coordinate {where}"
        )
    order = np.argsort(Sense(maximize).fitness(y), kind="stable")
    good = x[order[: max(1, math.floor(fraction * len(y)))]]
    variance = good.var(axis=0) + (radius * spread) ** 2
    return WarmStart(good.mean(axis=0), np.sqrt(variance))


def _numbers(name: str, value: ArrayLike, axes: int) -> np.ndarray:
    expected = f"an array of numbers with {axes} axes"
    try:
        array = np.asarray(value, np.float64)
    except (TypeError, ValueError):
        raise TypeError(
            f"{name} must be {expected}; got {checks.shown(value)}"
        ) from None
    if array.ndim != axes:
        raise ValueError(f"{name} must be {expected}; got shape {array.shape}")
    return array


def continued(result: Result) -> tuple[Solution, PyTree]:
    """Returns start and step size of a new run that begins where another ended.

    The start is what the run recommends. The step size is its largest standard
    deviation, or its sigma, at the end; None where its method has neither, or it is
    not a finite number above 0.
    """
    x0 = result.recommended
    space = as_method(result.optimizer).search_space
    scale: PyTree = jax.tree.map(np.ones_like, x0)
    if space is not None:  # the history is in the mean unit of its coordinates
        with jax.enable_x64(True):
            mean = float(space.unit)
        scale = jax.tree.map(lambda unit: np.asarray(unit) / mean, space.scale)
    for name in ("max_std", "sigma"):
        column = result.history.get(name, np.zeros(0))
        if len(column) and math.isfinite(column[-1]) and column[-1] > 0:
            largest = float(column[-1])
            return x0, jax.tree.map(lambda unit, std=largest: unit * std, scale)
    return x0, None
