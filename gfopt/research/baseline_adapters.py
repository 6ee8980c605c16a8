"""How optimizers of other packages are called, over a counted objective.

Each function takes its package's module, then ``(fun, x0, budget, seed)`` and, when it
is tuned, settings by name; what is not given is the package's own default. They start
at ``x0`` where they can; where they want a first step size it is that of ``minimize``:
a fifth of the bounds, else 0.3 max(1, rms(x0)). A ``step`` multiplies it, and a
``size`` CMA-ES's population size, 4 + 3 ln D.
"""

from __future__ import annotations

import functools
import math
from types import ModuleType
from typing import Any

import jax
import numpy as np

from gfopt.research.counted import Counted


def _sigma0(fun: Counted, x0: np.ndarray, step: float) -> float:
    if fun.bounds is not None and np.all(np.isfinite(fun.bounds)):
        return step * float(np.mean(fun.bounds[:, 1] - fun.bounds[:, 0])) / 5
    return step * 0.3 * max(1.0, math.sqrt(float(np.mean(x0**2))))


def _rows(x0: np.ndarray, size: float) -> int:
    return max(4, round(size * (4 + math.floor(3 * math.log(x0.size)))))


def pycma(
    cma: ModuleType,
    fun: Counted,
    x0: np.ndarray,
    budget: int,
    seed: int,
    step: float = 1.0,
    size: float = 1.0,
) -> None:
    """Runs ``cma.fmin2`` without restarts."""
    options: dict[str, object] = {"seed": seed + 1, "verbose": -9}  # 0 is the clock's
    options["popsize"] = _rows(x0, size)
    if fun.bounds is not None:
        options["bounds"] = [
            [end if np.isfinite(end) else None for end in ends] for ends in fun.bounds.T
        ]
    cma.fmin2(fun, x0, _sigma0(fun, x0, step), options)


def cmaes(
    cmaes: ModuleType,
    fun: Counted,
    x0: np.ndarray,
    budget: int,
    seed: int,
    step: float = 1.0,
    size: float = 1.0,
    **more: bool,
) -> None:
    """Runs ``cmaes.CMA`` until it wants to stop."""
    words = {"bounds": fun.bounds, "seed": seed, "population_size": _rows(x0, size)}
    search = cmaes.CMA(x0, _sigma0(fun, x0, step), **words, **more)
    while not search.should_stop():
        points = [search.ask() for _ in range(search.population_size)]
        search.tell([(x, fun(x)) for x in points])


def evosax(
    algorithms: ModuleType,
    fun: Counted,
    x0: np.ndarray,
    budget: int,
    seed: int,
    method: str = "CMA_ES",
    step: float = 1.0,
    size: float = 1.0,
) -> None:
    """Runs one of evosax's strategies, which know no bounds and do not stop."""
    search, ask, tell = _evosax(getattr(algorithms, method), x0.size, _rows(x0, size))
    settings = search.default_params
    if hasattr(settings, "std_init"):
        settings = settings.replace(std_init=_sigma0(fun, x0, step))
    key = jax.random.key(seed)
    state = search.init(key, x0, settings)
    while True:
        key, ask_key, tell_key = jax.random.split(key, 3)
        points, state = ask(ask_key, state, settings)
        values = np.array([fun(x) for x in np.asarray(points)])
        state, _ = tell(tell_key, points, values, state, settings)


@functools.lru_cache
def _evosax(kind: Any, dimension: int, size: int) -> tuple[Any, Any, Any]:
    """Returns a strategy and its compiled steps, which a new object would not share."""
    search = kind(population_size=size, solution=np.zeros(dimension))
    return search, jax.jit(search.ask), jax.jit(search.tell)


def nevergrad(
    ng: ModuleType,
    fun: Counted,
    x0: np.ndarray,
    budget: int,
    seed: int,
    method: str = "NGOpt",
) -> None:
    """Runs one of nevergrad's optimizers; its default chooses by itself."""
    space = ng.p.Array(init=x0)
    if fun.bounds is not None:
        space.set_bounds(*fun.bounds.T)
    space.random_state.seed(seed)
    ng.optimizers.registry[method](space, budget=budget).minimize(fun)


def scipy_global(
    optimize: ModuleType,
    fun: Counted,
    x0: np.ndarray,
    budget: int,
    seed: int,
    method: str,
    **more: object,
) -> None:
    """Runs ``differential_evolution`` or ``dual_annealing``."""
    # maxiter counts generations of many: the budget comes first
    words = {"x0": x0, "maxiter": budget, "rng": seed}
    getattr(optimize, method)(fun, fun.bounds, **words, **more)


def scipy_nelder_mead(
    optimize: ModuleType,
    fun: Counted,
    x0: np.ndarray,
    budget: int,
    seed: int,
    simplex: float | None = None,
    **more: bool,
) -> None:
    """Runs Nelder-Mead, from a simplex with edges of a share of the bounds if given."""
    options: dict[str, object] = {"maxfev": budget, "maxiter": budget, **more}
    if simplex is not None:
        edges = np.vstack([np.zeros(x0.size), np.eye(x0.size)])
        options["initial_simplex"] = x0 + 5 * _sigma0(fun, x0, simplex) * edges
    words = {"method": "Nelder-Mead", "bounds": fun.bounds, "options": options}
    optimize.minimize(fun, x0, **words)


def optuna_tpe(
    optuna: ModuleType,
    fun: Counted,
    x0: np.ndarray,
    budget: int,
    seed: int,
    **more: object,
) -> None:
    """Runs optuna's TPE, with ``x0`` as the first trial."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    ends = np.asarray(fun.bounds)
    names = [f"x{place}" for place in range(x0.size)]
    study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=seed, **more))
    study.enqueue_trial(dict(zip(names, x0.tolist(), strict=True)))

    def value(trial: Any) -> float:
        pairs = zip(names, ends, strict=True)
        return fun(np.array([trial.suggest_float(name, *pair) for name, pair in pairs]))

    study.optimize(value, n_trials=budget)


def fcmaes(
    bitecpp: ModuleType,
    fun: Counted,
    x0: np.ndarray,
    budget: int,
    seed: int,
    **more: int,
) -> None:
    """Runs BiteOpt."""
    from scipy.optimize import Bounds

    ends = np.asarray(fun.bounds)
    rng = np.random.Generator(np.random.PCG64DXSM(seed))
    words = {"max_evaluations": budget, "rg": rng, **more}
    bitecpp.minimize(fun, Bounds(*ends.T), x0, **words)


def cbx(
    dynamics: ModuleType,
    fun: Counted,
    x0: np.ndarray,
    budget: int,
    seed: int,
    particles: int = 20,
    **more: object,
) -> None:
    """Runs CBXpy's CBO, whose particles start anywhere in the box."""
    ends = np.asarray(fun.bounds)
    rng = np.random.default_rng(seed)
    low, high = ends.T
    points = low + (high - low) * rng.random((1, particles, x0.size))
    words = {"x": points, "max_it": budget, "verbosity": 0, "seed": seed, **more}
    dynamics.CBO(fun, **words).optimize()
