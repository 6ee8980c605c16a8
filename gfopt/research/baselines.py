"""Optimizers of other packages, at their maintainers' defaults.

Each is a function ``(fun, x0, budget, seed)`` over the same counted objective as our
methods. They start at ``x0`` where they can; where they want a first step size it is
that of ``minimize``: a fifth of the bounds, else 0.3 max(1, rms(x0)). What is not said
here is left to the package.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import math
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType, ModuleType
from typing import Any

import numpy as np

from gfopt import checks
from gfopt.research.counted import Counted


@dataclass(frozen=True)
class Baseline:
    """An optimizer of another package; call it as ``(fun, x0, budget, seed)``.

    Attributes:
        package: what pip installs.
        solve: the adapter, called with what ``module`` imports to before the rest.
        module: what is imported.
        needs_box: whether it searches finite bounds only.
    """

    package: str
    module: str
    solve: Callable[[ModuleType, Counted, np.ndarray, int, int], None]
    needs_box: bool = False
    tuning = "none: its maintainers' defaults"

    def require(self, name: str) -> None:
        """Imports the package.

        Raises:
            ImportError: with the line that installs it.
        """
        with checks.needed_by(name, self.package, f"pip install {self.package}"):
            importlib.import_module(self.module)

    @property
    def options(self) -> dict[str, str]:
        """The package and its version."""
        version = importlib.metadata.version(self.package)
        return {"package": f"{self.package} {version}"}

    def __call__(self, fun: Counted, x0: np.ndarray, budget: int, seed: int) -> None:
        """Runs it; what it warns of is its own business."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.solve(importlib.import_module(self.module), fun, x0, budget, seed)


def _sigma0(fun: Counted, x0: np.ndarray) -> float:
    if fun.bounds is not None and np.all(np.isfinite(fun.bounds)):
        return float(np.mean(fun.bounds[:, 1] - fun.bounds[:, 0])) / 5
    return 0.3 * max(1.0, math.sqrt(float(np.mean(x0**2))))


def _pycma(
    cma: ModuleType, fun: Counted, x0: np.ndarray, budget: int, seed: int
) -> None:
    options: dict[str, object] = {"seed": seed + 1, "verbose": -9}  # 0 is the clock's
    if fun.bounds is not None:
        options["bounds"] = [
            [end if np.isfinite(end) else None for end in ends] for ends in fun.bounds.T
        ]
    cma.fmin2(fun, x0, _sigma0(fun, x0), options)


def _cmaes(
    cmaes: ModuleType, fun: Counted, x0: np.ndarray, budget: int, seed: int
) -> None:
    search = cmaes.CMA(x0, _sigma0(fun, x0), bounds=fun.bounds, seed=seed)
    while not search.should_stop():
        points = [search.ask() for _ in range(search.population_size)]
        search.tell([(x, fun(x)) for x in points])


def _nevergrad(
    ng: ModuleType, fun: Counted, x0: np.ndarray, budget: int, seed: int
) -> None:
    space = ng.p.Array(init=x0)
    if fun.bounds is not None:
        space.set_bounds(*fun.bounds.T)
    space.random_state.seed(seed)
    ng.optimizers.NGOpt(space, budget=budget).minimize(fun)


def _scipy_de(
    optimize: ModuleType, fun: Counted, x0: np.ndarray, budget: int, seed: int
) -> None:
    # maxiter counts generations of many: the budget comes first
    optimize.differential_evolution(fun, fun.bounds, x0=x0, maxiter=budget, rng=seed)


def _scipy_annealing(
    optimize: ModuleType, fun: Counted, x0: np.ndarray, budget: int, seed: int
) -> None:
    optimize.dual_annealing(fun, fun.bounds, x0=x0, maxiter=budget, rng=seed)


def _scipy_nelder_mead(
    optimize: ModuleType, fun: Counted, x0: np.ndarray, budget: int, seed: int
) -> None:
    limits = {"maxfev": budget, "maxiter": budget}
    words = {"method": "Nelder-Mead", "bounds": fun.bounds, "options": limits}
    optimize.minimize(fun, x0, **words)


def _optuna_tpe(
    optuna: ModuleType, fun: Counted, x0: np.ndarray, budget: int, seed: int
) -> None:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    ends = np.asarray(fun.bounds)
    names = [f"x{place}" for place in range(x0.size)]
    study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=seed))
    study.enqueue_trial(dict(zip(names, x0.tolist(), strict=True)))

    def value(trial: Any) -> float:
        pairs = zip(names, ends, strict=True)
        return fun(np.array([trial.suggest_float(name, *pair) for name, pair in pairs]))

    study.optimize(value, n_trials=budget)


def _fcmaes(
    bitecpp: ModuleType, fun: Counted, x0: np.ndarray, budget: int, seed: int
) -> None:
    from scipy.optimize import Bounds

    ends = np.asarray(fun.bounds)
    rng = np.random.Generator(np.random.PCG64DXSM(seed))
    words = {"max_evaluations": budget, "rg": rng}
    bitecpp.minimize(fun, Bounds(*ends.T), x0, **words)


def _cbx(
    dynamics: ModuleType, fun: Counted, x0: np.ndarray, budget: int, seed: int
) -> None:
    ends = np.asarray(fun.bounds)
    rng = np.random.default_rng(seed)
    size = 20  # its default number of particles, which start anywhere in the box
    low, high = ends.T
    points = low + (high - low) * rng.random((1, size, x0.size))
    words = {"x": points, "max_it": budget, "verbosity": 0, "seed": seed}
    dynamics.CBO(fun, **words).optimize()


BASELINES: Mapping[str, Baseline] = MappingProxyType(
    {
        "pycma": Baseline("cma", "cma", _pycma),
        "cmaes": Baseline("cmaes", "cmaes", _cmaes),
        "nevergrad": Baseline("nevergrad", "nevergrad", _nevergrad),
        "scipy_de": Baseline("scipy", "scipy.optimize", _scipy_de, True),
        "scipy_annealing": Baseline("scipy", "scipy.optimize", _scipy_annealing, True),
        "scipy_nelder_mead": Baseline("scipy", "scipy.optimize", _scipy_nelder_mead),
        "optuna_tpe": Baseline("optuna", "optuna", _optuna_tpe, True),
        "fcmaes": Baseline("fcmaes", "fcmaes.bitecpp", _fcmaes, True),
        "cbx": Baseline("cbx", "cbx.dynamics", _cbx, True),
    }
)
