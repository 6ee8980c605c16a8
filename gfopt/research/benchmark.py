"""A benchmark: what of a plan is not done yet, and how a batch of it is run."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from gfopt.driver.storage import differences
from gfopt.research.atari_runs import run_atari
from gfopt.research.bbob_runs import run_bbob
from gfopt.research.coco_runs import run_coco
from gfopt.research.digits_runs import run_digits
from gfopt.research.finished_runs import Run, RunKey
from gfopt.research.host_runs import run_on_host
from gfopt.research.plan import Batch
from gfopt.research.results import ResultStore


def pending(batches: Sequence[Batch], store: ResultStore) -> list[Batch]:
    """Returns the batches of the runs that a store does not hold yet.

    Args:
        batches: a plan.
        store: what is done.

    Raises:
        ValueError: where a stored run had other settings than it would have now.

    Example:
        >>> import tempfile
        >>> from gfopt.research.plan import bbob_batches
        >>> plan = bbob_batches(functions=[1], dimensions=[2], methods=["cma_es"],
        ...                     instances=[1, 2], budget=500)
        >>> with tempfile.TemporaryDirectory() as place:
        ...     with ResultStore(place, create=True) as store:
        ...         store.start_session("my study")
        ...         for batch in pending(plan, store):
        ...             for runs in run_batch(batch, Path(place)):
        ...                 store.add(runs)
        ...         pending(plan, store), [run.status for run in store.runs()]
        ([], ['target', 'target'])
    """
    finished = store.finished()
    wanted = {key: batch.options for batch in batches for key in batch.keys}
    conflict = settings_conflict(finished, wanted)
    if conflict:
        raise ValueError(
            f"{store.path} holds runs with other settings, {conflict}; choose another "
            "directory"
        )
    left = [batch.without(finished) for batch in batches]
    return [batch for batch in left if batch.instances]


def settings_conflict(
    finished: Mapping[RunKey, Mapping[str, Any]],
    wanted: Mapping[RunKey, Mapping[str, Any]],
) -> str | None:
    """Returns how a stored run's settings differ from those it would have now.

    Example:
        >>> key = RunKey("bbob", "f1", 5, 1, "cma_es", 500, 0, "jax")
        >>> settings_conflict({key: {"sigma": 2.0}}, {key: {"sigma": 1.0}})
        'cma_es on bbob: sigma: expected 1.0, found 2.0'
    """
    for key, options in wanted.items():
        if key in finished:
            lines = differences(dict(options), dict(finished[key]))
            if lines:
                return f"{key.method} on {key.suite}: {'; '.join(lines)}"
    return None


def run_batch(
    batch: Batch, directory: Path, workers: int | None = None
) -> Iterator[list[Run]]:
    """Runs a batch; yields what is finished as it comes.

    Args:
        batch: of one instance or more.
        directory: where COCO's log files go, if it evaluates.
        workers: processes that play a game; None for this one.
    """
    if batch.suite == "digits":
        yield from ([run] for run in run_digits(batch))
    elif batch.suite == "atari":
        yield from ([run] for run in run_atari(batch, workers))
    elif batch.evaluator == "coco":
        yield run_coco(batch, directory)
    elif batch.given is None and batch.optimizer is not None:
        yield run_bbob(batch)
    else:
        yield from ([run] for run in run_on_host(batch))


def runs_of(batches: Sequence[Batch], store: ResultStore) -> list[Run]:
    """Returns the stored runs of a plan."""
    wanted = set(itertools.chain.from_iterable(batch.keys for batch in batches))
    return [run for run in store.runs() if run.key in wanted]
