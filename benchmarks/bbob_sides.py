"""The runs of ``bbob_side_by_side.py``: every side on the same problems and starts.

A side gives for each problem (24 functions x instances 1 to 5) the evaluations after
which it first reached the targets f_opt + 10^2 .. 10^-8, as far as it got.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.optimize

import gfopt
from gfopt.problems import BBOBProblem, bbob, bbob_batch
from gfopt.protocol import as_method
from gfopt.research.plan import bbob_batches
from gfopt.research.settings import optimizer_for
from gfopt.research.statistics import TARGETS

FUNCTIONS, INSTANCES = range(1, 25), (1, 2, 3, 4, 5)
GENERATIONS = 100  # in a call of the batched path
Hits = list[int]

_value = jax.jit(lambda problem, x: problem(x))


class Enough(Exception):
    """Ends a run of a peer: its budget is used or the last target is reached."""


class Watch:
    """A problem as a Python function that notes when each target was reached."""

    def __init__(self, function: int, dimension: int, instance: int, budget: int):
        self.problem = jax.device_put(bbob(function, dimension, instance))
        self.f_opt = float(self.problem.f_opt)
        self.x0, self.seed = start(function, dimension, instance)
        self.budget, self.count = budget, 0
        self.hits: Hits = []

    def __call__(self, x: Any) -> float:
        """Evaluates and counts."""
        value = float(_value(self.problem, np.asarray(x, np.float64)))
        self.see(value)
        return value

    def until_enough(self, x: Any) -> float:
        """Evaluates, or raises where the run is over."""
        if self.count >= self.budget or len(self.hits) == len(TARGETS):
            raise Enough
        return self(x)

    def see(self, value: float) -> None:
        """Counts an evaluation that was made elsewhere."""
        self.count += 1
        gap = value - self.f_opt if self.count <= self.budget else np.inf
        while len(self.hits) < len(TARGETS) and gap <= TARGETS[len(self.hits)]:
            self.hits.append(self.count)


def watches(dimension: int, budget: int, instances: Sequence[int]) -> Iterator[Watch]:
    """Yields all problems of a dimension."""
    for function in FUNCTIONS:
        for instance in instances:
            yield Watch(function, dimension, instance, budget)


def start(function: int, dimension: int, instance: int) -> tuple[np.ndarray, int]:
    """Returns where and with which seed every side starts."""
    batch, *_ = bbob_batches(functions=[function], dimensions=[dimension])
    return batch.start(instance)


def check_values(dimension: int, instances: Sequence[int]) -> None:
    """Raises where the functions are not those of coco-experiment."""
    import cocoex

    listed = f"instances: {','.join(map(str, instances))}"
    suite = cocoex.Suite("bbob", listed, f"dimensions: {dimension}")
    for function in FUNCTIONS:
        for instance in instances:
            place = (function, dimension, instance)
            x0, _ = start(*place)
            theirs = suite.get_problem_by_function_dimension_instance(*place)
            np.testing.assert_allclose(_value(bbob(*place), x0), theirs(x0), rtol=1e-9)
            theirs.free()


# --- peers ----------------------------------------------------------------------------


def _bipop(watch: Watch) -> None:
    import cma

    options = {"seed": 1 + watch.seed % (2**31 - 2), "verbose": -9}
    cma.fmin2(watch.until_enough, watch.x0, 2.0, options, restarts=9, bipop=True)


def _lq(watch: Watch) -> None:
    import cma

    options = {"seed": 1 + watch.seed % (2**31 - 2), "verbose": -9}
    cma.fmin_lq_surr(watch.until_enough, watch.x0, 2.0, options, restarts=9)


def _scipys(method: str) -> Callable[[Watch], None]:
    """Returns a local search of SciPy's that is started again and again."""

    def run(watch: Watch) -> None:
        rng, x0 = np.random.default_rng(watch.seed), watch.x0
        while True:
            scipy.optimize.minimize(watch.until_enough, x0, method=method)
            x0 = rng.uniform(-4, 4, x0.size)

    return run


def _ngopt(watch: Watch) -> None:
    import nevergrad

    space = nevergrad.p.Array(init=watch.x0).set_mutation(sigma=2.0)
    space.random_state.seed(watch.seed)
    search = nevergrad.optimizers.NGOpt(space, budget=watch.budget)
    search.minimize(watch.until_enough)


class Peer(NamedTuple):
    """How a peer runs, its evaluations per dimension, and its package."""

    run: Callable[[Watch], None]
    budget: int
    package: str


PEERS = {
    "bipop": Peer(_bipop, 1000, "cma"),
    "lq": Peer(_lq, 300, "cma"),
    "slsqp": Peer(_scipys("SLSQP"), 1000, "scipy"),
    "lbfgsb": Peer(_scipys("L-BFGS-B"), 1000, "scipy"),
    "cobyqa": Peer(_scipys("COBYQA"), 50, "scipy"),
    "ngopt": Peer(_ngopt, 300, "nevergrad"),
}


def run_peer(
    name: str, dimension: int, budget: int, instances: Sequence[int]
) -> list[Hits]:
    """Runs a peer on every problem."""
    found = []
    for watch in watches(dimension, budget, instances):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                PEERS[name].run(watch)
            except Enough:
                pass
        found.append(watch.hits)
    return found


# --- ours -----------------------------------------------------------------------------


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class _WithContext:
    """A problem that is handed a context and does not look at it."""

    problem: BBOBProblem

    def __call__(self, x: jax.Array, context: Any) -> jax.Array:
        return self.problem(x)


class _Recorder:
    """Reads the values of a compiled ``minimize`` out of its ``update``."""

    watch: Watch

    def update(self, context: jax.Array, evaluation: gfopt.Evaluation) -> jax.Array:
        jax.debug.callback(self._note, *evaluation[:2], ordered=True)
        return context

    def _note(self, fitness: jax.Array, valid: jax.Array) -> None:
        for value in np.asarray(fitness)[np.asarray(valid)]:
            self.watch.see(float(value))


def minimized(
    method: str | gfopt.Optimizer,
    dimension: int,
    budget: int,
    instances: Sequence[int],
    is_host: bool,
) -> list[Hits]:
    """Calls ``gfopt.minimize`` for every problem, with a Python or a JAX objective."""
    recorder, found = _Recorder(), []
    for watch in watches(dimension, budget, instances):
        recorder.watch = watch
        gfopt.minimize(
            gfopt.Objective(watch, traceable=False)
            if is_host
            else gfopt.Objective(
                _WithContext(watch.problem),
                traceable=True,
                context=np.int32(0),
                update=recorder.update,
            ),
            watch.x0,
            method=method,
            sigma0=2.0 if isinstance(method, str) else None,
            budget=budget,
            target=watch.f_opt + TARGETS[-1],
            seed=watch.seed,
        )
        jax.effects_barrier()
        found.append(watch.hits)
    return found


class _Seen(NamedTuple):
    """What a batched run has reached: the context of its objective."""

    f_opt: jax.Array
    count: jax.Array
    hits: jax.Array  # i32[51], 0 where the target was not reached


def _see(seen: _Seen, evaluation: gfopt.Evaluation) -> _Seen:
    """Counts the rows of a generation in their order; none fails on BBOB."""
    count = (seen.count + jnp.cumsum(evaluation.valid)).astype(jnp.int32)
    reached = (evaluation.fitness - seen.f_opt)[:, None] <= TARGETS
    first = count[jnp.argmax(reached, axis=0)]
    is_new = (seen.hits == 0) & reached.any(axis=0)
    return _Seen(seen.f_opt, count[-1], jnp.where(is_new, first, seen.hits))


@jax.jit
def _segment(
    optimizer: gfopt.Optimizer, problems: Any, keys: Any, states: Any, seen: Any, step
) -> tuple[Any, _Seen, jax.Array]:
    def stop(state: Any, info: Any) -> jax.Array:
        return jnp.array([False, *as_method(optimizer).stop(state).values()]).any()

    def one(problem: Any, key: Any, state: Any, seen: _Seen) -> Any:
        result = gfopt.run(
            optimizer,
            gfopt.Objective(_WithContext(problem), context=seen, update=_see),
            problem.x_opt,  # for its shape only: the run goes on from the state
            key=key,
            generations=GENERATIONS,
            state=state._replace(step=step),  # one counter for all: schedules branch
            stop=stop,
        )
        return result.state, result.context, result.stopped != 0

    return jax.vmap(one)(problems, keys, states, seen)


def batched(
    method: str | gfopt.Optimizer,
    dimension: int,
    budget: int,
    instances: Sequence[int],
) -> list[Hits]:
    """Runs the instances of each function as one program; a run ends where it stops."""
    optimizer: Any = method
    if isinstance(method, str):
        optimizer = optimizer_for("bbob", method, dimension, budget)
    init = jax.jit(jax.vmap(lambda k, x: optimizer.init(jax.random.split(k)[0], x)))
    found: list[Hits] = []
    for function in FUNCTIONS:
        problems = bbob_batch(function, dimension, instances)
        starts = [start(function, dimension, instance) for instance in instances]
        x0, seeds = (np.array(column) for column in zip(*starts, strict=True))
        keys = jax.vmap(jax.random.key)(seeds)
        states = init(keys, x0)
        is_over = np.zeros(len(seeds), bool)
        hits = np.zeros((len(seeds), len(TARGETS)), np.int32)
        seen, step = _Seen(problems.f_opt, hits[:, 0], hits), 0
        while not is_over.all():
            states, seen, stopped = _segment(
                optimizer, problems, keys, states, seen, np.int32(step)
            )
            # what goes on after the end of a run is nobody's
            hits = np.where(is_over[:, None], hits, seen.hits)
            is_over |= np.array(stopped | (seen.count >= budget)) | (hits[:, -1] > 0)
            step += GENERATIONS
        found += [[int(n) for n in row if 0 < n <= budget] for row in hits]
    return found


def run_ours(
    method: str | gfopt.Optimizer,
    dimension: int,
    budget: int,
    instances: Sequence[int],
    path: str,
) -> list[Hits]:
    """Runs a method on every problem on one of the paths, which agree."""
    if path == "batched":
        return batched(method, dimension, budget, instances)
    return minimized(method, dimension, budget, instances, path == "host")
