"""Logs of scalars, replayed into tensors."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from gfopt import checks
from gfopt.driver.replay.replay import ReplayLog, checksum_of_leaves
from gfopt.driver.replay.value_log import ValueLog, opened
from gfopt.genome import Genome
from gfopt.noise.noise import Noise
from gfopt.protocol import Method
from gfopt.torch.noises import Noises
from gfopt.torch.trees import Leaf, leaves_of, logged
from gfopt.torch.tuner import Tuner
from gfopt.types import Chain, Estimate


def replay(
    parameters: Any,
    log: ReplayLog | ValueLog | Genome | str | os.PathLike[str],
    method: Method | None = None,
) -> None:
    """Makes the weights of a run from its starting weights and its log, in place.

    Args:
        parameters: as of ``Tuner``, as the run started from them.
        log: a ``ReplayLog``, or with a method a ``ValueLog``, or the path of one, of a
            torch or of a JAX run; or a ``gfopt.genome.Genome`` of a ``gfopt.DeepGA``.
        method: that of the run, for a log of values.

    Raises:
        TypeError: for what is not a log.
        ValueError: where the run started from other leaves, and for a genome that
            draws matrices anew, or from a table.

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
    if isinstance(log, Genome):
        _write_genome(parameters, log)
        return
    if method is not None:
        values = opened(ValueLog, log)
        _check_leaves(parameters, values.header)
        values.check_method(method)
        tuner = Tuner(parameters, method, seed=values.seed)
        for row in values.values:
            tuner.tell(row)
        tuner.write_recommended()
        return
    log = opened(ReplayLog, log)
    leaves = _check_leaves(parameters, log.header)
    noises = Noises(Noise(log.header["noise"]), leaves)
    columns = log.seed, log.projected_gradient, log.learning_rate
    for seed, slope, rate in zip(*columns, strict=True):
        one: Any = np.array([seed]), np.array([slope]), np.True_
        noises.move(Estimate(*one), rate, log.header["rounding"])


def _check_leaves(parameters: Any, header: dict[str, str]) -> list[Leaf]:
    """Returns the leaves, where a run with this header can have started from them."""
    leaves = leaves_of(parameters)
    expected, found = header.get("leaves"), checksum_of_leaves(logged(leaves))
    if expected not in (None, found) or "relative" in header:
        raise ValueError(
            "parameters must be what the run started from, of the same shapes, types "
            f"and names; got {checks.shown([leaf.name for leaf in leaves])}"
        )
    return leaves


def _write_genome(parameters: Any, genome: Genome) -> None:
    kind = genome.noise["kind"]
    scales = np.broadcast_to(genome.sigmas, genome.seeds.shape)
    if kind == "table" or (scales < 0).any():
        raise ValueError(
            "log must be a genome of mutations by gaussian() or rademacher() noise, "
            f"and no matrices drawn anew; got {checks.shown(genome)}"
        )
    Noises(Noise(kind), leaves_of(parameters)).write(Chain(genome.seeds, scales))
