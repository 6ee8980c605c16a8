"""Who takes part in ``practice.py``, each in the form that it can take a problem in.

All start at the same point. Optimizers that know log scales, integers or choices are
told of them. For the others numbers are put on [0, 1], their logarithms where the scale
is one, and integers and choices are rounded: ``Run.box``. A search that ends before its
evaluations are used begins again elsewhere.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from practice_problems import Problem

import gfopt
from gfopt.spaces import Domain


class Ended(BaseException):
    """All evaluations are used; no exception of a program, which may be caught."""


class Run:
    """A run of one optimizer on a problem: it counts, and keeps all values.

    Args:
        problem: what is minimised.
        budget: evaluations.
        seed: of the first point and of the optimizer.

    Attributes:
        values: of all evaluations, NaN where one failed.
        x0: the first point, drawn uniformly from where evaluations don't fail.
    """

    def __init__(self, problem: Problem, budget: int, seed: int):
        self.problem, self.budget, self.seed = problem, budget, seed
        self.values: list[float] = []
        self.rng = np.random.default_rng(seed)
        self.domains = list(problem.domains.values())
        self.x0 = self.point()
        while True:
            try:
                if math.isfinite(problem(self.x0)):
                    break
            except Exception:
                pass
            self.x0 = self.point()

    def point(self) -> list[float]:
        """Draws a point uniformly, on a log scale where there is one."""
        return [_drawn(domain, self.rng) for domain in self.domains]

    def raising(self, numbers: Sequence[float]) -> float:
        """Evaluates and counts; raises where the evaluation does."""
        if len(self.values) >= self.budget:
            raise Ended
        self.values.append(math.nan)
        value = self.problem(numbers)
        if not math.isfinite(value):
            raise ValueError(f"no finite value: {value}")
        self.values[-1] = value
        return value

    def told(self, numbers: Sequence[float], failed: float | None = None) -> float:
        """Evaluates; returns ``failed``, or the worst value so far, for a failure."""
        try:
            return self.raising(numbers)
        except Exception:
            pass
        worst = np.nanmax([*self.values, 0.0])
        return float(worst) if failed is None else failed

    # --- numbers on [0, 1], integers and choices as they are -------------------------

    @property
    def is_discrete(self) -> np.ndarray:
        """Which numbers are integers or choices, ``bool[D]``."""
        return np.array([d.integer or d.choices > 0 for d in self.domains])

    @property
    def box(self) -> np.ndarray:
        """The ends of each coordinate, half a step more for integers, ``[D, 2]``."""
        ends = [
            (d.lower - 0.49, d.upper + 0.49) if discrete else (0.0, 1.0)
            for d, discrete in zip(self.domains, self.is_discrete, strict=True)
        ]
        return np.array(ends)

    def coded(self, numbers: Sequence[float]) -> np.ndarray:
        """Returns the coordinates of a point."""
        pairs = zip(self.domains, numbers, strict=True)
        return np.array([_coded(domain, x) for domain, x in pairs])

    def decoded(self, x: Sequence[float]) -> list[float]:
        """Returns the point with these coordinates."""
        pairs = zip(self.domains, x, strict=True)
        return [_decoded(domain, float(c)) for domain, c in pairs]

    def coordinates(
        self, failed: float | None = None
    ) -> Callable[[Sequence[float]], float]:
        """Returns the function of coordinates; ``failed`` as for ``told``."""
        return lambda x: self.told(self.decoded(x), failed)


def _drawn(domain: Domain, rng: np.random.Generator) -> float:
    if domain.integer or domain.choices:
        return float(rng.integers(domain.lower, domain.upper, endpoint=True))
    return _decoded(domain, rng.random())


def _coded(domain: Domain, x: float) -> float:
    if domain.integer or domain.choices:
        return x
    low, high = domain.lower, domain.upper
    if domain.log:
        x, low, high = math.log(x), math.log(low), math.log(high)
    return (x - low) / (high - low)


def _decoded(domain: Domain, c: float) -> float:
    low, high = domain.lower, domain.upper
    if domain.integer or domain.choices:
        return min(high, max(low, float(round(c))))
    if domain.log:
        return low * (high / low) ** min(1.0, max(0.0, c))
    return low + (high - low) * min(1.0, max(0.0, c))


# --- ours -----------------------------------------------------------------------------


def ours(method: str) -> Callable[[Run], None]:
    """Returns a run of ``gfopt.minimize``, which is told of all that there is."""

    def solve(run: Run) -> None:
        names = list(run.problem.domains)
        x0: Any = run.x0
        bounds: Any = run.domains
        fun: Any = run.raising
        if run.problem.has_choices:  # each choice is a leaf of its own
            x0 = dict(zip(names, run.x0, strict=True))
            bounds = run.problem.domains

            def fun(x: dict[str, float]) -> float:
                return run.raising([x[name] for name in names])

        gfopt.minimize(
            gfopt.Objective(fun, traceable=False),
            x0,
            bounds=bounds,
            method=method,
            budget=run.budget,
            seed=run.seed,
        )

    return solve


# --- pycma, cmaes, fcmaes -------------------------------------------------------------


def _cma_options(run: Run) -> dict[str, Any]:
    low, high = run.box.T
    return {
        "bounds": [list(low), list(high)],
        "integer_variables": list(np.flatnonzero(run.is_discrete)),
        "CMA_stds": list((high - low) / 4),  # a quarter, as its documentation has it
        "seed": run.seed + 1,  # 0 is the clock's
        "verbose": -9,
    }


def pycma(run: Run) -> None:
    """Runs ``cma.fmin2`` with its integers; it asks again where it is told NaN."""
    import cma

    fun = run.coordinates(failed=math.nan)
    while True:
        cma.fmin2(fun, run.coded(run.x0), 1.0, _cma_options(run), restarts=9)


def pycma_lq(run: Run) -> None:
    """Runs ``cma.fmin_lq_surr2``, to which NaN means not evaluated."""
    import cma

    fun = run.coordinates()
    while True:
        cma.fmin_lq_surr2(fun, run.coded(run.x0), 1.0, _cma_options(run), restarts=9)


def cmaes_margin(run: Run) -> None:
    """Runs ``cmaes.CMAwM``, to which choices are integers."""
    import cmaes

    fun, steps = run.coordinates(failed=math.inf), run.is_discrete.astype(float)
    low, high = run.box.T
    ends = np.stack([np.where(steps, np.ceil(low), low), np.floor(high)], axis=1)
    covariance = np.diag(((high - low) / 4) ** 2)
    start = run.coded(run.x0)
    for seed in range(run.seed, 10**9, 1000):
        search = cmaes.CMAwM(start, 1.0, ends, steps, seed=seed, cov=covariance)
        while not search.should_stop():
            told = []
            for _ in range(search.population_size):
                x, raw = search.ask()
                told.append((raw, fun(x)))
            search.tell(told)
        start = run.coded(run.point())


def catcma_margin(run: Run) -> None:
    """Runs ``cmaes.CatCMAwM``, which knows integers and choices."""
    import cmaes

    places: dict[str, list[int]] = {"x": [], "z": [], "c": []}
    for place, domain in enumerate(run.domains):
        kind = "c" if domain.choices else "z" if domain.integer else "x"
        places[kind].append(place)
    spaces: dict[str, Any] = {
        "x_space": [[0.0, 1.0] for _ in places["x"]],
        "z_space": [
            np.arange(run.domains[i].lower, run.domains[i].upper + 1)
            for i in places["z"]
        ],
        "c_space": [run.domains[i].choices for i in places["c"]],
    }
    spaces = {name: space or None for name, space in spaces.items()}
    fun, start = run.coordinates(failed=math.inf), run.coded(run.x0)
    for seed in range(run.seed, 10**9, 1000):
        mean = start[places["x"] + places["z"]]
        search = cmaes.CatCMAwM(**spaces, mean=mean, seed=seed)
        while not search.should_stop():
            told = []
            for _ in range(search.population_size):
                found = search.ask()
                x = np.zeros(len(run.domains))
                for kind, values in (("x", found.x), ("z", found.z)):
                    x[places[kind]] = values if places[kind] else []
                if places["c"]:
                    x[places["c"]] = np.argmax(found.c, axis=1)
                told.append((found, fun(x)))
            search.tell(told)
        start = run.coded(run.point())


def biteopt(run: Run) -> None:
    """Runs BiteOpt, by fcmaes."""
    from fcmaes import bitecpp
    from scipy.optimize import Bounds

    rng = np.random.default_rng(run.seed)
    fun = run.coordinates()
    start, left = run.coded(run.x0), run.budget
    while left > 0:
        bitecpp.minimize(fun, Bounds(*run.box.T), start, left, rg=rng)
        start, left = run.coded(run.point()), run.budget - len(run.values)


# --- optuna, nevergrad ----------------------------------------------------------------


def optuna(sampler: str) -> Callable[[Run], None]:
    """Returns a run of one of optuna's samplers, which know everything."""

    def solve(run: Run) -> None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.CRITICAL)
        chosen = getattr(optuna.samplers, sampler)(seed=run.seed)
        study = optuna.create_study(sampler=chosen)
        domains = run.problem.domains

        def value(trial: Any) -> float:
            return run.raising([_suggested(trial, *pair) for pair in domains.items()])

        first = {
            name: int(x) if d.integer or d.choices else x
            for (name, d), x in zip(domains.items(), run.x0, strict=True)
        }
        study.enqueue_trial(first)
        study.optimize(value, n_trials=run.budget, catch=(Exception,))

    return solve


def _suggested(trial: Any, name: str, domain: Domain) -> float:
    if domain.choices:
        return trial.suggest_categorical(name, range(domain.choices))
    if domain.integer:
        return trial.suggest_int(name, int(domain.lower), int(domain.upper))
    return trial.suggest_float(name, domain.lower, domain.upper, log=domain.log)


def nevergrad(run: Run) -> None:
    """Runs NGOpt, which is told its budget and knows everything."""
    import nevergrad as ng

    def parameter(domain: Domain) -> Any:
        if domain.choices:
            return ng.p.Choice(range(domain.choices))
        if domain.log:
            return ng.p.Log(lower=domain.lower, upper=domain.upper)
        scalar = ng.p.Scalar(lower=domain.lower, upper=domain.upper)
        return scalar.set_integer_casting() if domain.integer else scalar

    domains = run.problem.domains
    space = ng.p.Instrumentation(**{n: parameter(d) for n, d in domains.items()})
    space.random_state.seed(run.seed)
    search = ng.optimizers.NGOpt(space, budget=run.budget)
    first = {
        name: int(x) if d.integer or d.choices else x
        for (name, d), x in zip(domains.items(), run.x0, strict=True)
    }
    search.suggest(**first)
    search.minimize(lambda **named: run.told([named[name] for name in domains]))


# --- SciPy ----------------------------------------------------------------------------


def scipy_de(run: Run) -> None:
    """Runs ``differential_evolution`` with its integers."""
    from scipy import optimize

    fun, start = run.coordinates(failed=math.inf), run.coded(run.x0)
    rng = np.random.default_rng(run.seed)
    words = {"integrality": run.is_discrete, "maxiter": run.budget}
    while True:
        optimize.differential_evolution(fun, run.box, x0=start, rng=rng, **words)
        start = run.coded(run.point())


def scipy_annealing(run: Run) -> None:
    """Runs ``dual_annealing``."""
    from scipy import optimize

    fun, start = run.coordinates(), run.coded(run.x0)
    rng = np.random.default_rng(run.seed)
    while True:
        optimize.dual_annealing(fun, run.box, x0=start, rng=rng)
        start = run.coded(run.point())


def scipy_direct(run: Run) -> None:
    """Runs ``direct``, which takes no start."""
    from scipy import optimize

    fun, ends = run.coordinates(), optimize.Bounds(*run.box.T)
    for power in range(4, 300):  # finer where it has converged
        eps, most = 10.0**-power, run.budget
        optimize.direct(fun, ends, eps=eps, maxfun=most, vol_tol=0, len_tol=0)


def scipy_local(method: str) -> Callable[[Run], None]:
    """Returns a local search that is started again from random points."""

    def solve(run: Run) -> None:
        from scipy import optimize

        fun, start = run.coordinates(), run.coded(run.x0)
        while True:
            optimize.minimize(fun, start, method=method, bounds=run.box)
            start = run.coded(run.point())

    return solve


class Method(NamedTuple):
    """How an optimizer runs.

    Attributes:
        solve: runs it until ``Ended``.
        package: what it needs.
        most: evaluations that it can afford.
        is_local: whether it is for continuous problems only.
        is_told: whether it plans with its budget, so that each budget is a run.
    """

    solve: Callable[[Run], None]
    package: str
    most: int = 1000
    is_local: bool = False
    is_told: bool = False


METHODS = {
    "auto": Method(ours("auto"), "gfopt", is_told=True),
    "bayesian_optimization": Method(ours("bayesian_optimization"), "gfopt", most=200),
    "differential_evolution": Method(ours("differential_evolution"), "gfopt"),
    "random_search": Method(ours("random_search"), "gfopt"),
    "pycma": Method(pycma, "cma"),
    "pycma_lq": Method(pycma_lq, "cma"),
    "cmaes_CMAwM": Method(cmaes_margin, "cmaes"),
    "cmaes_CatCMAwM": Method(catcma_margin, "cmaes"),
    "fcmaes_BiteOpt": Method(biteopt, "fcmaes"),
    "optuna_TPE": Method(optuna("TPESampler"), "optuna"),
    "optuna_CMA": Method(optuna("CmaEsSampler"), "optuna"),
    "optuna_GP": Method(optuna("GPSampler"), "torch", most=50),  # it needs both
    "nevergrad_NGOpt": Method(nevergrad, "nevergrad", is_told=True),
    "scipy_DE": Method(scipy_de, "scipy"),
    "scipy_annealing": Method(scipy_annealing, "scipy"),
    "scipy_DIRECT": Method(scipy_direct, "scipy"),
    "scipy_COBYQA": Method(scipy_local("COBYQA"), "scipy", is_local=True),
    "scipy_SLSQP": Method(scipy_local("SLSQP"), "scipy", is_local=True),
}
