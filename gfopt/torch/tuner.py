"""Tunes torch parameters by gfopt's methods of seeds, step by step."""

from __future__ import annotations

import math
import os
from array import array
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import replace
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import torch

from gfopt import checks
from gfopt.core import trees
from gfopt.core.numpy_programs.program import HostFunction
from gfopt.driver.replay.log_writer import LogWriter
from gfopt.driver.replay.replay import ReplayLog, checksum_of_leaves, header_of
from gfopt.driver.replay.value_log import ValueLog, checksum_of_method
from gfopt.driver.setup.arguments import check_seed
from gfopt.driver.step import seed_keys, step_keys, wrapped
from gfopt.noise.noise import rademacher
from gfopt.protocol import Method
from gfopt.torch.noises import Noises
from gfopt.torch.trees import leaves_of, logged
from gfopt.types import (
    Chain,
    Estimate,
    Evaluation,
    Info,
    NoiseOnBase,
    Population,
    State,
)

_KIND = (
    "a gfopt method whose candidates are noise on one base, such as MeZO, OpenES or "
    "DeepGA"
)


class Tuner:
    """A method on the parameters of a torch module, in place.

    A step calls the closure once for each row of the method's population, one after
    the other, with the weights seen as the row's candidate, such as
    ``theta + sign eps z``; then it adds ``-learning_rate g``. Only that writes to the
    weights. Its seeds and steps are those of ``gfopt.minimize`` with the same method
    and seed on the same tree (``to_tree``).

    Args:
        parameters: an ``nn.Module``, of which the parameters that require a gradient
            are tuned, tied ones once; ``module.named_parameters()``; or dicts with
            named parameters at ``"params"`` and a ``"learning_rate"`` in place of the
            method's. Buffers are left alone.
        method: one whose candidates are noise on one base (``noise_on_base``):
            ``gfopt.MeZO``, ``SparseMeZO``, ``FZOO``, ``SPSA``, ``OpenES``, ``ARS`` or
            ``DeepGA``. A transform must be gradient descent, ``optax.sgd(1.0)``.
        seed: of all directions.
        log: file for the run as scalars, for ``gfopt.replay`` and ``replay``.

    Attributes:
        info: the method's diagnostics of the last step, by name.

    Raises:
        TypeError: for another method, or parameters without names.
        ValueError: for a method with another transform, parameters of which none is
            tuned, or a log of another run.

    Example:
        >>> import gfopt
        >>> _ = torch.manual_seed(0)
        >>> model = torch.nn.Linear(4, 1)
        >>> x = torch.randn(32, 4)
        >>> y = x.sum(1, keepdim=True)
        >>> method = gfopt.MeZO(learning_rate=0.02, noise=gfopt.rademacher())
        >>> tuner = Tuner(model, method)
        >>> for _ in range(200):
        ...     loss = tuner.step(lambda: ((model(x) - y) ** 2).mean())
        >>> loss < 0.01
        True
    """

    def __init__(
        self,
        parameters: Any,
        method: Method,
        *,
        seed: int = 0,
        log: str | os.PathLike[str] | None = None,
    ):
        form = _form_of(method)
        check_seed(seed)
        self.info: dict[str, float] = {}
        self._is_over = False
        self._method, self._key = method, seed_keys(seed)[1]
        self._seed, self._values = seed, list[list[float]]()
        self._leaves = leaves_of(parameters)
        moving = None if form.moving is None else float(form.moving)
        self._form, self._noises = form, Noises(form.noise, self._leaves, moving)
        # the method sees one number in place of the weights: it writes to none of them,
        # and what noise that number has does not matter
        self._search: Any = replace(cast("Any", method), noise=rademacher(cached=False))
        is_wide = any(leaf.tensor.dtype == torch.float64 for leaf in self._leaves)
        self._number = np.zeros(1, np.float64 if is_wide else np.float32)
        with trees.precision(self._number):
            self._state = _started(self._search, self._key, self._number)
        self._columns: dict[str, Any] = {"seed": array("I")}
        for name in ("projected_gradient", "learning_rate"):
            self._columns[name] = array("d")
        self._stack, self._writer = ExitStack(), None
        if log is not None:
            writer = LogWriter(log, method, logged(self._leaves))
            self._writer = self._stack.enter_context(writer)

    @property
    def num_steps(self) -> int:
        """Steps so far."""
        return int(self._state.step)

    @property
    def state(self) -> State:
        """The method's state, with a number in place of the weights."""
        return self._state

    def step(self, closure: Callable[[], Any]) -> float:
        """Makes one step.

        Args:
            closure: returns the loss, a number or a tensor of one. It is called once
                for each row of the population, without gradients, and must use the same
                data and no dropout (``module.eval()``) in all calls of a step. A loss
                that is not finite is a failure: what it belongs to weighs nothing.

        Returns:
            The mean of the losses, NaN where none is finite.

        Raises:
            TypeError: where the closure returns no number.
            RuntimeError: where it does not use the parameters by functions of torch, as
                in compiled and scripted modules; the weights are as they were then, and
                where the closure raises. Also after ``write_recommended``.
        """
        population = self._ask()
        losses = np.full(population.active.shape, math.nan)
        for row in np.flatnonzero(population.active):
            member = jax.tree.map(lambda leaf, row=row: leaf[row], population.members)
            losses[row] = self._loss(closure, self._form.chain(self._state, member))
        return self._tell(population, losses)

    def tell(self, values: Sequence[float]) -> float:
        """Makes a step from values that are known, as of a log.

        Args:
            values: of the population's candidates, in their order; NaN for a failure.

        Returns:
            As ``step``.

        Raises:
            ValueError: for another number of them.
            RuntimeError: after ``write_recommended``.
        """
        population, losses = self._ask(), np.asarray(values, np.float64)
        if losses.shape != population.active.shape:
            raise ValueError(
                f"values must be those of {len(population.active)} candidates; "
                f"got {list(losses.shape)}"
            )
        return self._tell(population, losses)

    def _ask(self) -> Population:
        if self._is_over:
            raise RuntimeError(
                "a step must come before write_recommended, after which the weights "
                "are not what candidates are made from"
            )
        with trees.precision(self._number):
            return _asked(self._search, self._key, self._state)

    def _tell(self, population: Population, losses: np.ndarray) -> float:
        with np.errstate(over="ignore"):
            fitness = losses.astype(self._number.dtype)
        valid = np.array(population.active) & np.isfinite(fitness)
        with trees.precision(self._number):
            told = _told(self._search, self._state, population, fitness, valid)
        self._state, info, found, rate = told
        if found is not None:
            self._noises.move(found, rate, self._form.rounding)
        self.info = {name: value.item() for name, value in info._asdict().items()}
        self._values.append(np.where(valid, fitness, math.nan).tolist())
        self._keep()
        return float(fitness[valid].mean()) if valid.any() else math.nan

    def _loss(self, closure: Callable[[], Any], chain: Chain) -> float:
        noise = self._noises.seen(chain) if chain.scales.any() else None
        with torch.no_grad(), noise or nullcontext():
            loss = closure()
        if noise is not None and not noise.seen:
            raise RuntimeError(
                "closure must use the parameters that were given, by functions of "
                "torch; it used none so (is the module a copy, compiled or scripted?)"
            )
        try:
            return float(loss)
        except (TypeError, ValueError, RuntimeError):
            raise TypeError(
                f"closure must return one number, the loss; got {checks.shown(loss)}"
            ) from None

    def recommended(self) -> AbstractContextManager[Any]:
        """Returns a context in which functions see the method's answer.

        It is the weights themselves, but for a method that leaves them as they are,
        such as ``gfopt.DeepGA``.
        """
        answer = self._answer()
        return nullcontext() if answer is None else self._noises.seen(answer)

    def write_recommended(self) -> None:
        """Writes the method's answer into the weights, which ends the search."""
        answer = self._answer()
        if answer is not None:
            self._noises.write(answer)
            self._is_over = True

    def _answer(self) -> Chain | None:
        answer = self._form.answer
        found = None if answer is None else answer(self._state)
        return found if found is not None and found.scales.size else None

    def _keep(self) -> None:
        """Remembers the step's scalars, where they determine it."""
        if "projected_gradient" not in self.info:
            return
        if self.info["skipped"]:  # a seed and 0
            self.info["projected_gradient"] = 0.0
        for name, column in self._columns.items():
            column.append(self.info[name])
        if self._writer is not None:
            self._writer.update(self._arrays())

    def _arrays(self) -> dict[str, np.ndarray]:
        types = {"seed": np.uint32}
        return {
            name: np.array(column).astype(types.get(name, self._number.dtype))
            for name, column in self._columns.items()
        }

    @property
    def replay_log(self) -> ReplayLog:
        """The run so far as scalars, for ``gfopt.replay`` and ``replay``.

        Raises:
            ValueError: for a method whose steps are not three numbers.
        """
        header = header_of(self._method, logged(self._leaves))
        return ReplayLog(**self._arrays(), header=header)

    @property
    def value_log(self) -> ValueLog:
        """The run so far as losses, for ``gfopt.replay`` and ``replay``, any method.

        Raises:
            ValueError: where groups have learning rates of their own.
        """
        size = len(self._values[0]) if self._values else 0
        values = np.array(self._values, self._number.dtype).reshape(-1, size)
        leaves = checksum_of_leaves(logged(self._leaves))
        header = {"leaves": leaves, "method": checksum_of_method(self._method)}
        return ValueLog(values, self._seed, header)

    def state_dict(self) -> dict[str, Any]:
        """Returns what goes on beside the weights: numbers and lists of them."""
        columns = {name: column.tolist() for name, column in self._columns.items()}
        leaves = [np.asarray(leaf).tolist() for leaf in jax.tree.leaves(self._state)]
        return {
            "key": self._key.tolist(),
            "method": checksum_of_method(self._method),
            "state": leaves,
            "columns": columns,
            "values": self._values,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from what ``state_dict`` returned; the weights are the module's.

        Raises:
            ValueError: for a state of another seed or method, or anything else.
        """
        old, structure = jax.tree.flatten(self._state)
        own = self.state_dict()
        known = isinstance(state, dict) and state.keys() == own.keys()
        if not known or any(state[name] != own[name] for name in ("key", "method")):
            raise ValueError(
                "state must be of a tuner with this seed and method; got that of "
                f"another, {checks.shown(state)}"
            )
        pairs = zip(state["state"], old, strict=True)
        new = [np.asarray(value, np.asarray(leaf).dtype) for value, leaf in pairs]
        self._state = jax.tree.unflatten(structure, new)
        self._values = [list(row) for row in state["values"]]
        for name, values in state["columns"].items():
            self._columns[name] = array(self._columns[name].typecode, values)

    def close(self) -> None:
        """Ends the log's file."""
        self._stack.close()

    def __enter__(self) -> Tuner:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _form_of(method: Method) -> NoiseOnBase:
    """Returns how a method's candidates are noise on one base."""
    checks.instance("method", method, Method, _KIND)
    form = method.noise_on_base()
    if form is None:
        raise TypeError(f"method must be {_KIND}; got {checks.shown(method)}")
    return form


@HostFunction
def _started(method: Method, key: jax.Array, number: jax.Array) -> State:
    return method.init(wrapped(key), number)


@HostFunction
def _asked(method: Method, key: jax.Array, state: State) -> Population:
    return method.ask(step_keys(wrapped(key), state.step).ask, state)


@HostFunction
def _told(
    method: Method,
    state: State,
    population: Population,
    fitness: jax.Array,
    valid: jax.Array,
) -> tuple[State, Info, Estimate | None, jax.Array | None]:
    evaluation = Evaluation(fitness, valid, ())
    new, info = method.tell(state, population, evaluation)
    form = method.noise_on_base()
    if form is None or form.estimate is None or form.rate is None:
        return new, info, None, None
    # the diagnostics of the weights, not of what stands in their place
    found, info = form.estimate(state, population, evaluation)
    return new, info, found, jnp.asarray(form.rate(state), found.slopes.dtype)
