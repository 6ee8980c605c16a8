"""Tuned baselines: random settings are tried on other runs of the same problems.

The first trial is the package's defaults. Every trial makes one run of each problem, on
an instance (of BBOB, else a start) that the benchmark itself does not use, with the
benchmark's budget; the settings with the largest share of targets win. The tuned
baseline then takes part beside the one at its defaults.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np

from gfopt import checks
from gfopt.research.baselines import Baseline
from gfopt.research.competitors import Competitor
from gfopt.research.finished_runs import Run
from gfopt.research.plan import Batch
from gfopt.research.summary import sections, share_of_targets

TUNING = "tuning"  # the folder of the trials, in that of the results


def trials_of(batches: Sequence[Batch], count: int) -> list[Batch]:
    """Returns the batches by which the baselines of a plan are tuned.

    Args:
        batches: the plan.
        count: trials of each baseline, its defaults among them.

    Raises:
        ValueError: for a plan without a baseline.
    """
    checks.integer("tune_baselines", count, 1)
    other = 1 + max(max(batch.instances) for batch in batches)
    trials = [
        batch._replace(competitor=candidate, instances=(other,))
        for batch in batches
        for candidate in _candidates(batch.competitor, count)
    ]
    if not trials:
        raise ValueError("tune_baselines needs a baseline; the methods have none")
    return trials


def with_tuned(
    batches: Sequence[Batch], runs: Iterable[Run], count: int
) -> list[Batch]:
    """Returns a plan with each baseline's tuned twin behind it.

    Args:
        batches: the plan.
        runs: those of ``trials_of``; one that is missing reached no target.
        count: trials of each baseline.
    """
    scores: dict[str, list[float]] = {}
    for section in sections(runs):
        for name in section.methods:
            found = section.of(name)
            share = share_of_targets(found).estimate
            scores.setdefault(name, []).append(share * len(found))
    plan = []
    for batch in batches:
        plan.append(batch)
        tried = _candidates(batch.competitor, count)
        if tried:
            shares = [sum(scores.get(candidate.name, [0])) for candidate in tried]
            best = tried[int(np.argmax(shares))]
            name = f"{batch.competitor.name}_tuned"
            plan.append(batch._replace(competitor=best._replace(name=name)))
    return plan


def _candidates(competitor: Competitor, count: int) -> list[Competitor]:
    """Returns the settings that are tried of a baseline; none of anything else."""
    how = competitor.how
    if not isinstance(how, Baseline):
        return []
    words = f"the best of {count} random settings on other runs of the same problems"
    how, name = replace(how, tuning=words), competitor.name
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    settings = [how, *(how.drawn(rng) for _ in range(count - 1))]
    return [Competitor(f"{name}#{place}", one) for place, one in enumerate(settings)]
