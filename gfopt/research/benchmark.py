"""A benchmark: what of a plan is not done yet, and how a batch of it is run."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from gfopt.core.host.failures import Failures
from gfopt.core.host.host import HostPool, Outcome
from gfopt.core.processes import ALONE, Processes
from gfopt.driver.storage.tree_records import differences
from gfopt.research.atari_runs import run_atari
from gfopt.research.bbob_runs import run_bbob
from gfopt.research.coco_runs import run_coco
from gfopt.research.digits_runs import run_digits
from gfopt.research.finished_runs import Run, RunKey
from gfopt.research.host_runs import run_on_host
from gfopt.research.plan import Batch
from gfopt.research.results import ResultStore
from gfopt.research.shares import Note, Share


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
        ...         carry_out(pending(plan, store), Path(place),
        ...                   lambda batch, runs, reason: store.add(runs))
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
    finished: Mapping[RunKey, Mapping[str, object]],
    wanted: Mapping[RunKey, Mapping[str, object]],
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


def carry_out(
    batches: Sequence[Batch],
    directory: Path,
    note: Note,
    *,
    workers: int = 1,
    begin: Callable[[Batch], object] = lambda batch: None,
    processes: Processes = ALONE,
    executor: object = None,
) -> None:
    """Runs batches run by run, several at a time in processes of their own.

    What shares a compiled program, or COCO's log files, stays together.

    Args:
        batches: what is to be done.
        directory: where COCO's log files go, if it evaluates.
        note: called with a batch, its runs and an empty text, or why it failed, as
            soon as it is done, in any order; what it raises ends the whole. Of each
            type of exception the first traceback is logged.
        workers: processes; those that play a game in one run after the other.
        begin: called with a batch that begins here, in this process.
        processes: JAX's, each of which makes a share; ``note`` is called in all of them
            for every batch.
        executor: makes the runs in place of processes; see ``HostPool``.
    """
    share = Share(processes, [p for batch in batches for p in _pieces(batch)], note)
    pieces = share.pieces
    plays = any(piece.suite == "atari" for piece in pieces)

    def here(piece: Batch, directory: Path, workers: int) -> list[Run]:
        begin(piece)
        return run_batch(piece, directory, workers)

    failures = Failures()

    def noted(number: int, outcome: Outcome) -> None:
        if outcome.reason:
            failures.add(outcome.reason, outcome.traceback)
        share.finished(number, outcome.value or [], outcome.reason)

    count = 1 if plays else min(workers, max(1, len(pieces)))
    calls = [(piece, directory, workers if plays else 1) for piece in pieces]
    is_here = executor is None and count == 1
    # an executor takes all calls at once, and has workers of its own
    with HostPool(executor, count if executor is None else None) as pool:
        pool.map(here if is_here else run_batch, calls, noted)
    share.wait()


def _pieces(batch: Batch) -> list[Batch]:
    if batch.evaluator == "coco" or _is_compiled(batch):
        return [batch]
    return [batch._replace(instances=(instance,)) for instance in batch.instances]


def _is_compiled(batch: Batch) -> bool:
    return batch.suite == "bbob" and batch.optimizer is not None


def run_batch(batch: Batch, directory: Path, workers: int = 1) -> list[Run]:
    """Runs a batch, in this process.

    Args:
        batch: of one instance or more.
        directory: where COCO's log files go, if it evaluates.
        workers: processes that play a game.
    """
    if batch.suite == "digits":
        return list(run_digits(batch))
    if batch.suite == "atari":
        return list(run_atari(batch, workers))
    if batch.evaluator == "coco":
        return run_coco(batch, directory)
    return run_bbob(batch) if _is_compiled(batch) else list(run_on_host(batch))


def runs_of(batches: Sequence[Batch], store: ResultStore) -> list[Run]:
    """Returns the stored runs of a plan."""
    wanted = set(itertools.chain.from_iterable(batch.keys for batch in batches))
    return [run for run in store.runs() if run.key in wanted]
