"""``run``: a whole optimization as one pure function."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gfopt import checks
from gfopt.core import trees
from gfopt.core.evaluate import Evaluator, default_evaluator, member_size
from gfopt.core.objective import Inputs, Objective, as_objective
from gfopt.driver import step as steps
from gfopt.driver.setup.arguments import (
    check_evaluator,
    check_frozen,
    check_halved,
    check_reach,
    check_shards,
)
from gfopt.protocol import Optimizer, diagnostics
from gfopt.pytree import pytree
from gfopt.types import Info, Key, PyTree, Solution, State

_NOT_TRACEABLE = (
    jax.errors.ConcretizationTypeError,
    jax.errors.TracerArrayConversionError,
    jax.errors.TracerBoolConversionError,
    jax.errors.TracerIntegerConversionError,
)


@pytree
class RunResult:
    """What ``run`` returns; a pytree, so that it passes jit and vmap.

    Attributes:
        optimizer: the method that ran.
        state: its last state.
        history: the columns of ``Result.history``, ``[generations]`` each, counted from
            this call on; after an early stop ``nfev`` stands still, ``fitness`` is NaN.
        stopped: ``i32[]``, 0 if all generations ran, else what ``stop`` returned.
        context: the objective's last context.

    Example:
        >>> import gfopt
        >>> result = run(gfopt.RandomSearch(), lambda x: jnp.sum(x**2), jnp.ones(2),
        ...              key=jax.random.key(0), generations=3)
        >>> result.history["fitness"].shape, int(result.state.step)
        ((3,), 3)
    """

    optimizer: Optimizer
    state: State
    history: dict[str, jax.Array]
    stopped: jax.Array
    context: PyTree

    @property
    def recommended(self) -> Solution:
        """The method's answer; ``vmap(lambda r: r.recommended)`` for a batch of runs.

        The best solution that was evaluated is not stored: it would need the memory of
        another ``x0``.
        """
        return self.optimizer.recommend(self.state)


def run(
    optimizer: Optimizer,
    objective: Objective | Callable[..., Any],
    x0: Solution,
    *,
    key: Key,
    generations: int,
    state: State | None = None,
    evaluator: Evaluator | None = None,
    args: tuple[PyTree, ...] = (),
    batches: Callable[[jax.Array, Key], PyTree] | None = None,
    stop: Callable[[State, Info], jax.Array] | None = None,
    frozen: PyTree = None,
) -> RunResult:
    """Runs an optimizer for a number of generations as one ``lax.scan``.

    Pure: it may be jitted (donate ``x0`` or ``state`` to keep the memory of
    inference) and vmapped over keys, over the optimizer's hyperparameters, over ``x0``
    or over problems that are pytrees.

    Args:
        optimizer: a method, such as ``gfopt.CMAES(sigma=0.5)``.
        objective: a JAX function of one solution, or an ``Objective``.
        x0: starting solution, any pytree of floating-point arrays.
        key: a key from ``jax.random.key``.
        generations: number of steps.
        state: continue from this state instead of ``x0``; steps go on counting.
        evaluator: ``vmapped()``, ``chunked(b)`` or ``sharded()``; chosen by size if
            None.
        args: further arguments of the objective.
        batches: ``(step, key) -> batch``, the same mini-batch for all members.
        stop: ``(state, info) -> bool or i32``; anything but 0 freezes the run.
        frozen: leaves that are merged into every solution; see ``partition``.

    Returns:
        A ``RunResult``.

    Raises:
        TypeError: for an argument of the wrong type, or an objective that is not
            traceable.
        ValueError: for a value out of range.

    Example:
        >>> import gfopt
        >>> f = lambda x: jnp.sum((x - 1.0) ** 2)
        >>> def error(key):
        ...     result = run(gfopt.CMAES(), f, jnp.zeros(3), key=key, generations=80)
        ...     return f(result.recommended)
        >>> errors = jax.jit(jax.vmap(error))(jax.random.split(jax.random.key(0), 4))
        >>> bool((errors < 1e-6).all())
        True
    """
    checks.instance("optimizer", optimizer, Optimizer, "a gfopt optimizer")
    checks.integer("generations", generations, 1)
    checks.instance("args", args, tuple, "a tuple of further arguments")
    for name, value in (("batches", batches), ("stop", stop)):
        if value is not None:
            checks.is_callable(name, value)
    checks.key("key", key)
    if not isinstance(objective, Objective):
        checks.is_callable("objective", objective)
    objective = as_objective(objective)
    if evaluator is not None:
        check_evaluator(evaluator)
    if objective.traceable is False or getattr(evaluator, "host", False):
        raise TypeError(
            "objective must be a JAX function in run, which is one compiled program; "
            "got one marked as not traceable. Use gfopt.minimize or gfopt.AskTell."
        )
    check_halved(x0)
    check_shards(x0)
    check_frozen(x0, frozen)
    if state is None:
        checks.finite_tree("x0", x0)
    # x0 is closed over: init sees its numbers, and rejects what it must
    expected = jax.eval_shape(lambda key: optimizer.init(key, x0), key)
    if state is None:
        check_reach(optimizer, x0)
        run_key, state = _started(trees.node_types(optimizer), optimizer, key, x0)
    else:
        _, run_key = steps.run_keys(key)
        _check_state(optimizer, state, expected)
    if evaluator is None:
        rows = steps.population_size(optimizer, state)
        evaluator = default_evaluator(member_size(optimizer, state, x0, rows), rows)
    try:
        state, history, stopped, context = _scanned(
            optimizer,
            objective,
            run_key,
            state,
            args,
            frozen,
            evaluator=evaluator,
            batches=batches,
            stop=stop,
            generations=generations,
        )
    except _NOT_TRACEABLE as error:
        raise TypeError(
            "objective, batches and stop must be JAX functions in run, which is one "
            "compiled program; got one that needs numbers (gfopt.minimize and "
            f"gfopt.AskTell take any function): {str(error).splitlines()[0]}"
        ) from error
    return RunResult(optimizer, state, history, stopped, context)


# one program: outside of one, each operation of ``init`` would be compiled by itself
@partial(jax.jit, static_argnames="types")
def _started(
    types: tuple[object, ...], optimizer: Optimizer, key: Key, x0: Solution
) -> tuple[Key, State]:
    """Returns the run's key and the first state."""
    init_key, run_key = steps.run_keys(key)
    return run_key, optimizer.init(init_key, x0)


def _check_state(optimizer: Optimizer, state: State, expected: State) -> None:
    """Refuses a state that is not one of this method for such an ``x0``."""
    came = jax.eval_shape(lambda tree: tree, state)
    types = [
        jax.tree.map(lambda leaf: f"{leaf.dtype}{list(leaf.shape)}", tree)
        for tree in (expected, came)
    ]
    if types[0] != types[1]:
        raise ValueError(
            f"state must be one of {type(optimizer).__name__} for this x0, {types[0]}; "
            f"got {types[1]}"
        )


class _Carry(NamedTuple):
    """What a run hands from generation to generation."""

    state: State
    context: PyTree
    stopped: jax.Array
    stopped_at: jax.Array
    nfev: jax.Array
    best: jax.Array


@partial(jax.jit, static_argnames=("evaluator", "batches", "stop", "generations"))
def _scanned(
    optimizer: Optimizer,
    objective: Objective,
    run_key: Key,
    state: State,
    args: tuple[PyTree, ...],
    frozen: PyTree,
    *,
    evaluator: Evaluator,
    batches: Callable[[jax.Array, Key], PyTree] | None,
    stop: Callable[[State, Info], jax.Array] | None,
    generations: int,
) -> tuple[State, dict[str, jax.Array], jax.Array, PyTree]:
    """Runs the generations; jitted, so that a second call of ``run`` compiles none.

    Returns:
        ``(state, history, stopped, context)``.
    """

    def turn(carry: _Carry, _: None) -> tuple[_Carry, dict[str, jax.Array]]:
        state, context, stopped, stopped_at, nfev, best = carry
        keys = steps.step_keys(run_key, state.step)
        batch: PyTree = None if batches is None else batches(state.step, keys.batch)
        inputs = Inputs(frozen, args, batch, context)
        outcome = steps.generation(optimizer, objective, evaluator, keys, state, inputs)
        new, new_context, row = outcome[:3]
        if stop is not None:
            # A stopped run keeps all but its step counter, which a batch of runs
            # shares: were it masked, every schedule inside would turn from branch into
            # select.
            live = stopped == 0
            new_context = trees.select(live, new_context, context)
            reason = jnp.asarray(stop(new, row.info)).astype(jnp.int32)
            row = row._replace(
                best_fitness=jnp.where(live, row.best_fitness, jnp.nan),
                num_evaluations=row.num_evaluations * live,
                num_valid=row.num_valid * live,
            )
            stopped = jnp.where(live, reason, stopped)
            stopped_at = jnp.where(live, new.step, stopped_at)
            new = trees.select(live, new, state)._replace(step=new.step)
        nfev += row.num_evaluations
        best = jnp.fmin(best, row.best_fitness.astype(best.dtype))
        value = objective.sense.value
        columns = {
            "nfev": nfev,
            "fitness": value(row.best_fitness),
            "best": value(best),
        }
        columns |= {"num_valid": row.num_valid, **diagnostics(row.info)}
        return _Carry(new, new_context, stopped, stopped_at, nfev, best), columns

    none, unknown = jnp.int32(0), jnp.full((), jnp.nan, jnp.result_type(float))
    first = _Carry(state, objective.context, none, state.step, none, unknown)
    last, history = jax.lax.scan(turn, first, None, length=generations)
    state = last.state
    if stop is not None:
        state = state._replace(step=last.stopped_at)
    return state, history, last.stopped, last.context
