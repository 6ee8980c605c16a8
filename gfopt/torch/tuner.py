"""Tunes torch parameters by gfopt's zeroth-order methods, step by step."""

from __future__ import annotations

import math
import os
from array import array
from collections.abc import Callable
from contextlib import ExitStack, nullcontext
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch

from gfopt import checks
from gfopt.core import trees
from gfopt.core.numpy_programs.program import HostFunction
from gfopt.driver.replay.log_writer import LogWriter
from gfopt.driver.replay.replay import ReplayLog, header_of
from gfopt.driver.step import seed_keys, step_keys, wrapped
from gfopt.optimizers.zeroth_order.fzoo import FZOO
from gfopt.optimizers.zeroth_order.mezo import MeZO
from gfopt.optimizers.zeroth_order.sparse_mezo import SparseMeZO
from gfopt.optimizers.zeroth_order.spsa import SPSA
from gfopt.optimizers.zeroth_order.zeroth_order import Directions, Estimate
from gfopt.torch.perturbation import of_leaves
from gfopt.torch.steps import logged, moved
from gfopt.torch.trees import leaves_of
from gfopt.types import Evaluation, Info, Population, State


class Tuner:
    """A zeroth-order method on the parameters of a torch module, in place.

    A step calls the closure once for each row of the method's population, with the
    weights seen as ``theta + sign eps z``; then it adds ``-learning_rate g``. Only that
    writes to the weights. Its seeds and steps are those of ``gfopt.minimize`` with the
    same method and seed on the same tree (``to_tree``).

    Args:
        parameters: an ``nn.Module``, of which the parameters that require a gradient
            are tuned, tied ones once; ``module.named_parameters()``; or dicts with
            named parameters at ``"params"`` and a ``"learning_rate"`` in place of the
            method's. Buffers are left alone.
        method: ``gfopt.MeZO``, ``SparseMeZO``, ``FZOO`` or ``SPSA``, with dense noise
            and without a transform.
        seed: of all directions.
        log: file for the run as scalars, for ``gfopt.replay`` and ``replay``.

    Attributes:
        info: the method's diagnostics of the last step, by name.

    Raises:
        TypeError: for another method, or parameters without names.
        ValueError: for a method with a transform or low-rank noise, parameters of which
            none is tuned, or a log of another run.

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
        method: Directions,
        *,
        seed: int = 0,
        log: str | os.PathLike[str] | None = None,
    ):
        kind = "a gfopt.MeZO, SparseMeZO, FZOO or SPSA"
        checks.instance("method", method, (MeZO, SparseMeZO, FZOO, SPSA), kind)
        if method.transform is not None or method.noise.is_lazy:
            raise ValueError(
                "method must have no transform, whose state is as large as the "
                f"weights, and dense noise; got {checks.shown(method)}"
            )
        checks.integer("seed", seed, 0)
        self.info: dict[str, float] = {}
        self._method, self._key = method, seed_keys(seed)[1]
        self._leaves = leaves_of(parameters)
        self._limits: list[float | None] = [None] * len(self._leaves)
        if isinstance(method, SparseMeZO):
            share = float(method.moving)
            self._limits = [_limit(leaf.tensor, share) for leaf in self._leaves]
        # the method sees one number in place of the weights: it writes to none of them
        is_wide = any(leaf.tensor.dtype == torch.float64 for leaf in self._leaves)
        self._number = np.zeros(1, np.float64 if is_wide else np.float32)
        with trees.precision(self._number):
            self._state = _started(method, self._key, self._number)
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
                in compiled and scripted modules. The weights are as they were then, and
                where the closure raises.
        """
        with trees.precision(self._number):
            population = _asked(self._method, self._key, self._state)
        seeds, signs, sigma, _ = population.members
        rows = zip(seeds.tolist(), (signs * sigma).tolist(), strict=True)
        losses = [self._loss(closure, seed, scale) for seed, scale in rows]
        with np.errstate(over="ignore"):
            fitness = np.array(losses).astype(self._number.dtype)
        valid = np.isfinite(fitness)
        with trees.precision(self._number):
            told = _told(self._method, self._state, population, fitness, valid)
        self._state, info, found, rate = told
        self._move(found, rate)
        self.info = {name: value.item() for name, value in info._asdict().items()}
        self._keep()
        return float(fitness[valid].mean()) if valid.any() else math.nan

    def _loss(self, closure: Callable[[], Any], seed: int, scale: float) -> float:
        kind = self._method.noise.kind
        noise = of_leaves(self._leaves, kind, seed, scale, self._limits)
        with torch.no_grad(), noise if scale else nullcontext():
            loss = closure()
        if scale and not noise.seen:
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

    def _move(self, found: Estimate, rate: float) -> None:
        """Adds ``-rate sum_i slopes[i] z_i`` in place."""
        method = self._method
        by = np.asarray(found.seeds), np.asarray(found.slopes), rate, self._limits
        moved(self._leaves, method.noise.kind, method.rounding, *by)

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

    def state_dict(self) -> dict[str, Any]:
        """Returns what goes on beside the weights: numbers and lists of them."""
        columns = {name: column.tolist() for name, column in self._columns.items()}
        leaves = [np.asarray(leaf).tolist() for leaf in jax.tree.leaves(self._state)]
        key = self._key.tolist()
        return {"key": key, "state": leaves, "columns": columns}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from what ``state_dict`` returned; the weights are the module's.

        Raises:
            ValueError: for a state of another seed or method.
        """
        old, structure = jax.tree.flatten(self._state)
        if state["key"] != self._key.tolist() or len(state["state"]) != len(old):
            raise ValueError(
                "state must be of a tuner with this seed and method; got that of "
                f"another, {checks.shown(state)}"
            )
        pairs = zip(state["state"], old, strict=True)
        new = [np.asarray(value, np.asarray(leaf).dtype) for value, leaf in pairs]
        self._state = jax.tree.unflatten(structure, new)
        for name, values in state["columns"].items():
            self._columns[name] = array(self._columns[name].typecode, values)

    def close(self) -> None:
        """Ends the log's file."""
        self._stack.close()

    def __enter__(self) -> Tuner:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@HostFunction
def _started(method: Directions, key: jax.Array, number: jax.Array) -> State:
    return method.init(wrapped(key), number)


@HostFunction
def _asked(method: Directions, key: jax.Array, state: State) -> Population:
    return method.ask(step_keys(wrapped(key), state.step).ask, state)


@HostFunction
def _told(
    method: Directions,
    state: State,
    population: Population,
    fitness: jax.Array,
    valid: jax.Array,
) -> tuple[State, Info, Estimate, jax.Array]:
    evaluation = Evaluation(fitness, valid, ())
    found, _ = method.estimate(state, population, evaluation)
    new, info = method.tell(state, population, evaluation)
    return new, info, found, jnp.asarray(method.rate(state), found.slopes.dtype)


def _limit(tensor: torch.Tensor, moving: float) -> float | None:
    """Returns the largest ``|w|`` that moves in Sparse MeZO, None where all do."""
    if tensor.ndim < 2 or not tensor.numel():
        return None
    size = tensor.detach().abs().flatten()
    # as jnp.quantile counts, in the width of the weights
    kind = np.float64 if tensor.dtype == torch.float64 else np.float32
    place = int(kind(moving) * kind(len(size) - 1))
    return size.kthvalue(place + 1).values.item() or None
