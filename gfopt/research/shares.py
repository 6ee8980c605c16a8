"""A benchmark over JAX's processes: each makes a share, the first keeps results.

All have the same plan. The first looks up what of it is left, and each makes every n-th
piece of that. Every half minute, between two runs, they meet and tell each other what
they have finished, which the first writes down: no file system need be shared.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack

import jax

from gfopt.core.processes import Processes
from gfopt.research.finished_runs import Run
from gfopt.research.plan import Batch
from gfopt.research.results import ResultStore, row_of, run_of

MEET_SECONDS = 30.0

Note = Callable[[Batch, list[Run], str], object]


class Share:
    """What this process makes of a benchmark.

    Args:
        processes: that make it together, or this one alone.
        pieces: all there is to do, the same in every process.
        note: called with a piece, its runs and an empty text, or why it failed; in
            every process for every piece, once.

    Attributes:
        pieces: those of this process.

    Example:
        >>> from gfopt.core.processes import ALONE
        >>> Share(ALONE, [], note=print).pieces
        []
    """

    def __init__(self, processes: Processes, pieces: Sequence[Batch], note: Note):
        self._processes, self._all, self._note = processes, pieces, note
        self._index, count = 0, 1
        if processes.together:
            self._index, count = jax.process_index(), jax.process_count()
        self._numbers = range(self._index, len(pieces), count)
        self.pieces = [pieces[number] for number in self._numbers]
        self._untold: list[tuple[int, list[list[object]], str]] = []
        self._met = time.monotonic()

    def finished(self, number: int, runs: list[Run], reason: str) -> None:
        """Takes what came of a piece of this share; meets the others now and then."""
        self._note(self.pieces[number], runs, reason)
        if self._processes.together:
            rows = [row_of(run) for run in runs]
            self._untold.append((self._numbers[number], rows, reason))
            if time.monotonic() - self._met > MEET_SECONDS:
                self._meet(is_over=False)

    def wait(self) -> None:
        """Meets the others until they are done, too."""
        while not self._meet(is_over=True):
            pass

    def _meet(self, is_over: bool) -> bool:
        """Exchanges what is finished; returns whether all processes are done."""
        told = json.dumps([is_over, self._untold]).encode()
        self._untold, ends = [], []
        for index, heard in enumerate(self._processes.made_by_each(told)):
            is_its_end, finished = json.loads(heard)
            ends.append(is_its_end)
            if index != self._index:
                for number, rows, reason in finished:
                    self._note(self._all[number], [run_of(row) for row in rows], reason)
        self._met = time.monotonic()
        return all(ends)


def left_for_all(
    processes: Processes,
    batches: Sequence[Batch],
    open_store: Callable[[ExitStack], tuple[ResultStore, list[Batch]]],
    stack: ExitStack,
) -> tuple[ResultStore | None, list[Batch]]:
    """Opens the results in the first process; tells the others what is left.

    Args:
        processes: that make the benchmark.
        batches: the plan.
        open_store: opens the file on a stack; returns it and what of the plan is left.
        stack: closes the file.

    Returns:
        The file, or None in the other processes, and what is left, in all the same.

    Raises:
        RuntimeError: the first could not open the file; there, its own error.
    """
    store: ResultStore | None = None

    def instances() -> bytes:
        nonlocal store
        store, left = open_store(stack)
        keys = {key for batch in left for key in batch.keys}
        return json.dumps(
            [[i for i in batch.instances if batch.key(i) in keys] for batch in batches]
        ).encode()

    chosen = json.loads(processes.made_by_first(instances))
    left = [
        batch._replace(instances=tuple(kept))
        for batch, kept in zip(batches, chosen, strict=True)
        if kept
    ]
    return store, left
