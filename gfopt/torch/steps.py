"""Steps along noise, written into tensors; and a log of them, replayed."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from gfopt import checks
from gfopt.driver.replay.replay import ReplayLog, checksum_of_leaves
from gfopt.torch import sums
from gfopt.torch.trees import Leaf, forms, leaves_of
from gfopt.types import PyTree


def moved(
    leaves: list[Leaf],
    kind: str,
    rounding: str,
    seeds: np.ndarray,
    slopes: np.ndarray,
    rate: float,
    limits: Sequence[float | None] = (),
) -> None:
    """Adds ``-rate sum_i slopes[i] z_i`` to the tensors."""
    random = int(seeds[0]) if rounding == "stochastic" else None
    for leaf, limit in zip(leaves, limits or [None] * len(leaves), strict=True):
        own = rate if leaf.learning_rate is None else leaf.learning_rate
        weights = -slopes.dtype.type(own) * slopes
        if weights.any() and leaf.tensor.numel():
            by = seeds.tolist(), weights.tolist(), limit
            total = sums.Sum(kind, leaf.path_hash, *by)
            tensor = leaf.tensor.detach()
            sums.add_into(tensor, tensor, total, random)


def replay(parameters: Any, log: ReplayLog | str | os.PathLike[str]) -> None:
    """Makes the weights of a run from its starting weights and its log, in place.

    Args:
        parameters: as of ``Tuner``, as the run started from them.
        log: a ``ReplayLog``, or the path of one, of a torch or of a JAX run.

    Raises:
        TypeError: for what is not a log.
        ValueError: where the run started from other leaves.

    Example:
        >>> import gfopt, torch
        >>> from gfopt.torch import Tuner
        >>> first, second = (torch.nn.Linear(3, 1) for _ in range(2))
        >>> _ = second.load_state_dict(first.state_dict())
        >>> tuner = Tuner(first, gfopt.MeZO())
        >>> loss = tuner.step(lambda: first(torch.ones(3)))
        >>> replay(second, tuner.replay_log)
        >>> torch.equal(first.weight, second.weight)
        True
    """
    if isinstance(log, str | os.PathLike):
        log = ReplayLog.read(log)
    checks.instance("log", log, ReplayLog, "a ReplayLog or the path of one")
    leaves = leaves_of(parameters)
    expected, found = log.header.get("leaves"), checksum_of_leaves(logged(leaves))
    if expected not in (None, found) or "relative" in log.header:
        raise ValueError(
            "parameters must be what the run started from, of the same shapes, types "
            f"and names; got {checks.shown([leaf.name for leaf in leaves])}"
        )
    by = log.header["noise"], log.header["rounding"]
    columns = log.seed, log.projected_gradient, log.learning_rate
    for seed, slope, rate in zip(*columns, strict=True):
        moved(leaves, *by, np.array([seed]), np.array([slope]), rate)


def logged(leaves: list[Leaf]) -> PyTree:
    """Returns the form of what a log is of.

    Raises:
        ValueError: where groups have learning rates of their own.
    """
    own = [leaf.name for leaf in leaves if leaf.learning_rate is not None]
    if own:
        raise ValueError(
            "parameters must have the method's learning rate to be logged; these have "
            f"their own: {checks.shown(own)}"
        )
    return forms(leaves)
