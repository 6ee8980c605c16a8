"""A population on an engine: an executor, through which ``host`` makes its calls.

An engine takes some members at a time, as adapters, and gives a model for each. The
objective is called with the model of a member in place of the member,

    objective(model) -> float

and what it asks is answered by the engine. Failures, time limits, the journal and the
checkpoint are those of ``host``: a value that came back is never paid for again.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from typing import Any, NamedTuple, Protocol

import numpy as np

from gfopt.core.host.evaluator import HostEvaluator
from gfopt.engines.adapters import Adapter, joined, rank_of

GATHERING = 0.05  # seconds without a new member after which those that are there begin


class EngineModel(Protocol):
    """The model of one member."""

    def log_probabilities(
        self, prompts: Sequence[Sequence[int]], targets: Sequence[Sequence[int]]
    ) -> list[np.ndarray]:
        """Returns ``log p`` of each target's tokens after its prompt, ``float[L]``.

        Args:
            prompts: token ids, one or more for each.
            targets: token ids of the continuations, as many as there are prompts.
        """

    def continuations(
        self, prompts: Sequence[Sequence[int]], num_tokens: int, **sampling: object
    ) -> list[str]:
        """Returns what the model writes after each prompt, the likeliest by default.

        Args:
            prompts: token ids, one or more for each.
            num_tokens: to be written at most.
            sampling: fields of the server's request, such as ``temperature=0.7``.
        """


class Engine(Protocol):
    """Something that runs a model with adapters; any class with these three will do.

    Attributes:
        slots: members that it holds at a time.
        members_at_once: members whose objectives are called at the same time.

    Example:
        >>> import contextlib
        >>> class Norms:
        ...     slots = members_at_once = 2
        ...     @contextlib.contextmanager
        ...     def loaded(self, adapters):
        ...         yield [float((a["query"]["b"] ** 2).sum()) for a in adapters]
        >>> zeros = np.zeros((1, 1, 4), np.float32), np.ones((1, 4, 1), np.float32)
        >>> adapter = {"query": dict(zip("ab", zeros))}
        >>> with Norms().loaded([adapter]) as (model,):
        ...     model
        4.0
    """

    slots: int
    members_at_once: int

    def loaded(
        self, adapters: Sequence[Adapter]
    ) -> AbstractContextManager[Sequence[EngineModel]]:
        """Holds some members, and gives their models."""


def population(
    engine: Engine,
    *,
    onto: Adapter | None = None,
    timeout: float | None = None,
    retries: int = 0,
) -> HostEvaluator:
    """Returns the evaluator for populations of adapters on an engine.

    Args:
        engine: ``LlamaServer``, ``VLLMServer``, ``InProcess`` or one of your own.
        onto: an adapter that every member is joined with, such as what an earlier
            search has found; None for none.
        timeout: seconds that an engine may take for the members that it holds at a
            time, its start among them.
        retries: how often a member whose evaluation failed is evaluated again.

    Raises:
        TypeError, ValueError: for a wrong argument.

    Example:
        >>> import gfopt
        >>> from gfopt import engines
        >>> found = gfopt.problems.small_language_model("so it goes " * 30, steps=50)
        >>> start = engines.new_adapter(found.weights, rank=1)
        >>> evaluator = engines.population(engines.InProcess(found))
        >>> def loss(model):
        ...     return -model.log_probabilities([[1, 2]], [[1]])[0].mean()
        >>> result = gfopt.minimize(loss, start, method="snes", sigma0=0.1, budget=40,
        ...                         evaluator=evaluator)
        >>> bool(result.history["fitness"][-1] < result.history["fitness"][0])
        True
    """

    def executor() -> Executor:
        return _Population(engine, onto)

    if onto is not None:
        rank_of(onto)
    return HostEvaluator(executor, timeout=timeout, retries=retries)


class _Call(NamedTuple):
    future: Future[Any]
    fun: Callable[..., Any]
    adapter: Adapter
    rest: tuple[Any, ...]

    def make(self, model: EngineModel) -> None:
        try:
            value = self.fun(model, *self.rest)
        except BaseException as error:
            self.future.set_exception(error)
        else:
            self.future.set_result(value)


class _Population(Executor):
    """Makes calls with the models of their first arguments, some members at a time."""

    def __init__(self, engine: Engine, onto: Adapter | None):
        self._engine, self._onto = engine, onto
        self._calls: queue.SimpleQueue[_Call | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def submit(
        self, fun: Callable[..., Any], /, *args: Any, **words: Any
    ) -> Future[Any]:
        """Takes a call whose first argument is an adapter.

        Raises:
            TypeError, ValueError: where it is none.
        """
        adapter, *rest = args
        rank_of(adapter)
        if self._onto is not None:
            adapter = joined([self._onto, adapter])
        call = _Call(Future(), fun, adapter, tuple(rest))
        self._calls.put(call)
        return call.future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Ends the thread once it has made what was submitted."""
        self._calls.put(None)
        if wait:  # also for the engine to let its members go
            self._thread.join()

    def _serve(self) -> None:
        while (call := self._calls.get()) is not None:
            calls: list[_Call] = []
            while call is not None:
                if call.future.set_running_or_notify_cancel():
                    calls.append(call)
                if len(calls) >= self._engine.slots:
                    break
                try:
                    call = self._calls.get(timeout=GATHERING)
                except queue.Empty:
                    break
            if calls:
                self._make(calls)
            if call is None:
                return

    def _make(self, calls: list[_Call]) -> None:
        try:
            with self._engine.loaded([call.adapter for call in calls]) as models:
                with ThreadPoolExecutor(self._engine.members_at_once) as threads:
                    list(threads.map(_Call.make, calls, models))
        except BaseException as error:  # of the engine: those that wait have failed
            for call in calls:
                if not call.future.done():
                    call.future.set_exception(error)
