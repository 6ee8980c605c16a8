"""Anytime comparison on BBOB: targets reached within 10 D to 1000 D evaluations.

The 24 functions, instances 1 to 5, in double precision. All start at the same point of
a problem (uniform in [-4, 4]^D, sigma 2) and are counted alike: after which evaluation
a run first reached each of the 51 targets f_opt + 10^2 .. 10^-8. Who takes part:

- ours: a method by its name or ``auto``, on one of three paths that must agree:
  ``batched`` runs the instances of a function in one compiled program, ``compiled`` and
  ``host`` call ``gfopt.minimize`` for each problem, with a JAX or a Python objective;
- ``bipop``: ``cma.fmin2(restarts=9, bipop=True)``, and ``lq``, lq-CMA-ES,
  ``cma.fmin_lq_surr(restarts=9)``;
- ``slsqp``, ``lbfgsb``, ``cobyqa``: SciPy's, started again from points uniform in
  [-4, 4]^D; differences for a gradient are counted;
- ``ngopt``: nevergrad's, which is told its budget.

Everything else is at its defaults. Each side is saved when it is done, and the report
compares what is there:

    python benchmarks/bbob_side_by_side.py                     # all of it, hours
    python benchmarks/bbob_side_by_side.py peers --sides lq --dimensions 5
    python benchmarks/bbob_side_by_side.py ours --method cma_es --path batched
    python benchmarks/bbob_side_by_side.py report
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import importlib.metadata
import json
import time
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.optimize
from common import RESULTS, save, show

import gfopt
from gfopt.optimizers.bounded import stop_reasons
from gfopt.problems.bbob_suite import BBOBProblem, bbob, bbob_batch
from gfopt.research.bbob_runs import start_of
from gfopt.research.plan import Batch
from gfopt.research.settings import optimizer_for
from gfopt.research.statistics import TARGETS, ecdf, paired_difference_interval

NAME = "bbob_side_by_side"
FUNCTIONS, INSTANCES = range(1, 25), (1, 2, 3, 4, 5)
BUDGETS = (10, 50, 100, 300, 1000)  # evaluations per dimension
GROUPS = {
    "separable": range(1, 6),
    "moderate": range(6, 10),
    "ill-conditioned": range(10, 15),
    "multi-modal": range(15, 20),
    "weak structure": range(20, 25),
}
GENERATIONS = 100  # of a call of the batched path
Hits = list[int]  # evaluations until each target, as far as they were reached


class Enough(Exception):
    """Ends a run of a peer: its budget is used or the last target is reached."""


class Watch:
    """Counts the evaluations of a run and notes when it reached each target."""

    def __init__(self, f_opt: float, budget: float):
        self.f_opt, self.budget, self.count = f_opt, budget, 0
        self.hits: Hits = []

    @property
    def is_over(self) -> bool:
        return self.count >= self.budget or len(self.hits) == len(TARGETS)

    def see(self, value: float) -> None:
        self.count += 1
        if self.count <= self.budget:
            gap = value - self.f_opt
            while len(self.hits) < len(TARGETS) and gap <= TARGETS[len(self.hits)]:
                self.hits.append(self.count)


class Task(NamedTuple):
    """A problem as a peer gets it; ``fun`` counts and raises ``Enough``."""

    fun: Callable[[Any], float]
    x0: np.ndarray
    seed: int
    budget: int


# --- peers ----------------------------------------------------------------------------


def bipop(task: Task) -> None:
    import cma

    options = {"seed": 1 + task.seed % (2**31 - 2), "verbose": -9}
    cma.fmin2(task.fun, task.x0, 2.0, options, restarts=9, bipop=True)


def lq(task: Task) -> None:
    import cma

    options = {"seed": 1 + task.seed % (2**31 - 2), "verbose": -9}
    cma.fmin_lq_surr(task.fun, task.x0, 2.0, options, restarts=9)


def scipys(method: str) -> Callable[[Task], None]:
    """Returns a local search of SciPy's that is started again and again."""

    def run(task: Task) -> None:
        rng, x0 = np.random.default_rng(task.seed), task.x0
        while True:
            scipy.optimize.minimize(task.fun, x0, method=method)
            x0 = rng.uniform(-4, 4, x0.size)

    return run


def ngopt(task: Task) -> None:
    import nevergrad

    space = nevergrad.p.Array(init=task.x0).set_mutation(sigma=2.0)
    space.random_state.seed(task.seed)
    nevergrad.optimizers.NGOpt(space, budget=task.budget).minimize(task.fun)


# name: how it runs, evaluations per dimension, its package
PEERS: dict[str, tuple[Callable[[Task], None], int, str]] = {
    "bipop": (bipop, 1000, "cma"),
    "lq": (lq, 300, "cma"),
    "slsqp": (scipys("SLSQP"), 1000, "scipy"),
    "lbfgsb": (scipys("L-BFGS-B"), 1000, "scipy"),
    "ngopt": (ngopt, 300, "nevergrad"),
    "cobyqa": (scipys("COBYQA"), 50, "scipy"),
}


def run_peer(name: str, dimension: int, budget: int) -> list[Hits]:
    """Runs a peer on every problem."""
    call, found = jax.jit(lambda problem, x: problem(x)), []
    for function in FUNCTIONS:
        for instance in INSTANCES:
            problem = jax.device_put(bbob(function, dimension, instance))
            watch = Watch(float(problem.f_opt), budget)

            def fun(x, problem=problem, watch=watch):  # noqa: ANN001, ANN202
                if watch.is_over:
                    raise Enough
                value = float(call(problem, np.asarray(x, np.float64)))
                watch.see(value)
                return value

            x0, seed = start(function, dimension, instance)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                try:
                    PEERS[name][0](Task(fun, x0, seed, budget))
                except Enough:
                    pass
            found.append(watch.hits)
    return found


def start(function: int, dimension: int, instance: int) -> tuple[np.ndarray, int]:
    """Returns where and with which seed a run starts."""
    batch = Batch("bbob", function, dimension, (instance,), "", 0, 0, "jax")
    return start_of(batch, instance)


# --- ours -----------------------------------------------------------------------------


class Seen(NamedTuple):
    """What a batched run has reached: the context of its objective."""

    f_opt: jax.Array
    count: jax.Array
    hits: jax.Array  # i32[51], 0 where the target was not reached


def see(seen: Seen, evaluation: gfopt.Evaluation) -> Seen:
    """Counts the rows of a generation in their order; none fails on BBOB."""
    count = seen.count + jnp.cumsum(evaluation.valid)
    gaps = jnp.where(evaluation.valid, evaluation.fitness - seen.f_opt, jnp.inf)
    reached = gaps[:, None] <= TARGETS
    first = count[jnp.argmax(reached, axis=0)]
    is_new = (seen.hits == 0) & reached.any(axis=0)
    hits = jnp.where(is_new, first.astype(jnp.int32), seen.hits)
    return Seen(seen.f_opt, count[-1].astype(jnp.int32), hits)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class WithContext:
    """A problem that is handed a context and does not look at it."""

    problem: BBOBProblem

    def __call__(self, x: jax.Array, context: Any) -> jax.Array:
        return self.problem(x)


@jax.jit
def _segment(  # noqa: ANN202
    optimizer: gfopt.Optimizer, problems: BBOBProblem, keys, states, seen: Seen, step
):
    def reason(state: Any, info: Any) -> jax.Array:
        found = list(stop_reasons(optimizer, state).values())
        return jnp.any(jnp.array(found)) if found else jnp.bool_(False)

    def one(problem, key, state, seen):  # noqa: ANN001, ANN202
        result = gfopt.run(
            optimizer,
            gfopt.Objective(WithContext(problem), context=seen, update=see),
            problem.x_opt,  # for its shape only: the run goes on from the state
            key=key,
            generations=GENERATIONS,
            state=state._replace(step=step),  # one counter for all: schedules branch
            stop=reason,
        )
        return result.state, result.context, result.status != 0

    return jax.vmap(one)(problems, keys, states, seen)


def batched(method: str | gfopt.Optimizer, dimension: int, budget: int) -> list[Hits]:
    """Runs the instances of each function together; a run ends where it stops."""
    optimizer, found = method, []
    if isinstance(method, str):
        optimizer = optimizer_for("bbob", method, dimension, budget)
    init = jax.jit(jax.vmap(lambda k, x: optimizer.init(jax.random.split(k)[0], x)))
    for function in FUNCTIONS:
        starts = [start(function, dimension, i) for i in INSTANCES]
        problems = bbob_batch(function, dimension, INSTANCES)
        keys = jax.vmap(jax.random.key)(np.array([seed for _, seed in starts]))
        states = init(keys, np.stack([x0 for x0, _ in starts]))
        count = np.zeros(len(INSTANCES), np.int32)
        last = np.zeros((len(INSTANCES), len(TARGETS)), np.int32)
        seen, is_over, step = Seen(problems.f_opt, count, last), count > 0, 0
        while not is_over.all():
            states, seen, stopped = _segment(
                optimizer, problems, keys, states, seen, np.int32(step)
            )
            # what goes on after the end of a run is nobody's
            last = np.where(is_over[:, None], last, seen.hits)
            is_over |= np.array(stopped) | (np.array(seen.count) >= budget)
            is_over |= last[:, -1] > 0
            step += GENERATIONS
        found += [[int(n) for n in row if 0 < n <= budget] for row in last]
    return found


class Recorder:
    """Reads the values of a compiled ``minimize`` out of its ``update``."""

    watch = Watch(0.0, 0)

    def note(self, fitness: np.ndarray, valid: np.ndarray) -> None:
        for value in np.asarray(fitness)[np.asarray(valid)]:
            self.watch.see(float(value))

    def update(self, context: jax.Array, evaluation: gfopt.Evaluation) -> jax.Array:
        jax.debug.callback(
            self.note, evaluation.fitness, evaluation.valid, ordered=True
        )
        return context


def minimized(
    method: str | gfopt.Optimizer, dimension: int, budget: int, is_host: bool
) -> list[Hits]:
    """Calls ``gfopt.minimize`` for every problem."""
    call, recorder, found = jax.jit(lambda p, x: p(x)), Recorder(), []
    for function in FUNCTIONS:
        for instance in INSTANCES:
            problem = jax.device_put(bbob(function, dimension, instance))
            recorder.watch = watch = Watch(float(problem.f_opt), budget)

            def fun(x, problem=problem, watch=watch):  # noqa: ANN001, ANN202
                value = float(call(problem, x))
                watch.see(value)
                return value

            if is_host:
                objective = gfopt.Objective(fun, traceable=False)
            else:
                objective = gfopt.Objective(
                    WithContext(problem),
                    traceable=True,
                    context=np.int32(0),
                    update=recorder.update,
                )
            x0, seed = start(function, dimension, instance)
            gfopt.minimize(
                objective,
                x0,
                method=method,
                sigma0=2.0 if isinstance(method, str) else None,
                budget=budget,
                target=watch.f_opt + TARGETS[-1],
                seed=seed,
            )
            jax.effects_barrier()
            found.append(watch.hits)
    return found


def ours(
    method: str | gfopt.Optimizer, dimension: int, budget: int, path: str
) -> list[Hits]:
    """Runs one of our methods on every problem, see the top of this file."""
    if path == "batched":
        return batched(method, dimension, budget)
    return minimized(method, dimension, budget, path == "host")


# --- results --------------------------------------------------------------------------


def stored() -> dict[str, Any]:
    """Returns what was saved: a side by its name, then by its dimension."""
    path = RESULTS / f"{NAME}.json"
    return json.loads(path.read_text())["sides"] if path.exists() else {}


def store(
    name: str, dimension: int, budget: int, package: str, run: Callable[[], list[Hits]]
) -> None:
    """Runs a side and puts it beside the others in the file."""
    began = time.perf_counter()
    hits = run()
    entry = {
        "date": datetime.date.today().isoformat(),
        "version": f"{package} {importlib.metadata.version(package)}",
        "budget_per_dimension": budget // dimension,
        "seconds": round(time.perf_counter() - began),
        "hits": [" ".join(map(str, row)) for row in hits],
    }
    sides = stored()  # read again: another process may have added to it
    sides.setdefault(name, {})[str(dimension)] = entry
    save(NAME, ["gfopt", "jax", "numpy"], {"sides": sides})


def times_of(entry: dict[str, Any]) -> np.ndarray:
    """Returns ``[problems, targets]``, evaluations or infinity."""
    rows = [[int(n) for n in row.split()] for row in entry["hits"]]
    return np.array([row + [np.inf] * (len(TARGETS) - len(row)) for row in rows])


def report(method: str, dimensions: list[int]) -> None:
    """Prints ours against every peer, losses first, and draws the ECDF."""
    sides = stored()
    times = {
        d: {n: times_of(e[str(d)]) for n, e in sides.items() if str(d) in e}
        for d in dimensions
    }
    reach = {
        (n, int(d)): c["budget_per_dimension"]
        for n, e in sides.items()
        for d, c in e.items()
    }
    functions = np.repeat(FUNCTIONS, len(INSTANCES))

    def solved(name: str, d: int, budget: int, rows: Any = slice(None)) -> np.ndarray:
        return np.mean(times[d][name][rows] <= budget * d, axis=1)

    cells = [
        (d, budget, [n for n in times[d] if reach[n, d] >= budget])
        for d in dimensions
        for budget in BUDGETS
    ]
    pairs, groups, gaps = [], [], []
    for d, budget, names in cells:
        peers = [n for n in names if n in PEERS]
        if method not in names or not peers:
            continue
        mine = solved(method, d, budget)
        for peer in peers:
            theirs = solved(peer, d, budget)
            low, high = paired_difference_interval(mine, theirs)[1:]
            pairs.append(
                [d, budget, peer, mine.mean(), theirs.mean()]
                + [mine.mean() - theirs.mean(), f"[{low:+.3f}, {high:+.3f}]"]
            )
        for numbers, table in (
            *((list(g), groups) for g in GROUPS.values()),
            *(([f], gaps) for f in FUNCTIONS),
        ):
            rows = np.isin(functions, numbers)
            best, peer = max((solved(p, d, budget, rows).mean(), p) for p in peers)
            label = f"f{numbers[0]}" + (f"-{numbers[-1]}" if len(numbers) > 1 else "")
            own = mine[rows].mean()
            table.append([d, budget, label, peer, own, best, own - best])
    print("\nshare of problems x targets, 95 % paired bootstrap over problems\n")
    show(
        ["D", "budget/D", *(names := sorted({n for d in times for n in times[d]}))],
        [
            [d, budget]
            + [solved(n, d, budget).mean() if n in there else "-" for n in names]
            for d, budget, there in cells
        ],
    )
    if pairs:
        header = ["D", "budget/D", "peer", method, "peer's", "difference", "interval"]
        print(f"\n{method} against each peer, losses first\n")
        show(header, sorted(pairs, key=lambda row: row[5]))
        header = ["D", "budget/D", "where", "best peer", method, "peer's", "difference"]
        print("\nby group of functions, against the best peer there\n")
        show(header, sorted(groups, key=lambda row: row[6]))
        print("\nthe twenty worst functions\n")
        show(header, sorted(gaps, key=lambda row: row[6])[:20])
    draw(times, reach, functions)


def draw(times: Any, reach: Any, functions: np.ndarray) -> None:
    """Saves the ECDF of all functions and of each group."""
    from matplotlib.figure import Figure

    panels = {"all": range(1, 25), **GROUPS}
    figure = Figure(figsize=(18, 3.4 * len(times)), layout="constrained")
    axes = figure.subplots(
        len(times), len(panels), sharex=True, sharey=True, squeeze=False
    )
    names = sorted({n for d in times for n in times[d]})
    for line, d in zip(axes, times, strict=True):
        for axis, (title, numbers) in zip(line, panels.items(), strict=True):
            for number, name in enumerate(names):
                if name not in times[d]:
                    continue
                budgets = np.geomspace(1, reach[name, d], 200)
                rows = np.isin(functions, list(numbers))
                axis.plot(
                    budgets,
                    ecdf(times[d][name][rows], budgets * d),
                    f"C{number}",
                    lw=1.2 if name in PEERS else 2.4,
                    label=name,
                )
            axis.set(title=f"{title}, {d}-D", xscale="log", ylim=(0, 1))
            axis.grid(alpha=0.3)
        line[0].set_ylabel("share of targets")
    for axis in axes[-1]:
        axis.set_xlabel("evaluations / D")
    axes[0, 0].legend()
    figure.savefig(RESULTS / f"{NAME}.png", dpi=70)


def check_values(dimension: int) -> None:
    """Refuses to go on where the functions are not those of coco-experiment."""
    import cocoex

    listed = f"instances: {','.join(map(str, INSTANCES))}"
    suite = cocoex.Suite("bbob", listed, f"dimensions: {dimension}")
    call = jax.jit(lambda problem, x: problem(x))
    for function in FUNCTIONS:
        for instance in INSTANCES:
            x0, _ = start(function, dimension, instance)
            place = (function, dimension, instance)
            theirs = suite.get_problem_by_function_dimension_instance(*place)
            np.testing.assert_allclose(call(bbob(*place), x0), theirs(x0), rtol=1e-9)
            theirs.free()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "part", nargs="?", default="all", choices=["all", "peers", "ours", "report"]
    )
    parser.add_argument("--dimensions", default=[5, 10], type=int, nargs="+")
    parser.add_argument("--sides", default=list(PEERS), nargs="+", choices=PEERS)
    parser.add_argument("--peer-budget", type=int, help="per D, instead of its own")
    parser.add_argument("--method", default="auto")
    parser.add_argument(
        "--path", default="compiled", choices=["batched", "compiled", "host"]
    )
    options = parser.parse_args()
    jax.config.update("jax_enable_x64", True)  # noqa: FBT003
    for d in options.dimensions if options.part in ("all", "peers") else ():
        check_values(d)
        for name in options.sides:
            _, budget, package = PEERS[name]
            budget = d * (options.peer_budget or budget)
            store(name, d, budget, package, lambda: run_peer(name, d, budget))  # noqa: B023
    for d in options.dimensions if options.part in ("all", "ours") else ():
        budget = BUDGETS[-1] * d
        run = lambda: ours(options.method, d, budget, options.path)  # noqa: B023, E731
        store(options.method, d, budget, "gfopt", run)
    if options.part in ("all", "report"):
        report(options.method, options.dimensions)


if __name__ == "__main__":
    main()
