"""Optimizers of other packages, at their maintainers' defaults or tuned.

Each is a function ``(fun, x0, budget, seed)`` over the same counted objective as our
methods; see ``baseline_adapters`` for how it is called.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from types import MappingProxyType

import numpy as np

from gfopt import checks
from gfopt.research import baseline_adapters as adapters
from gfopt.research.counted import Counted
from gfopt.types import JsonObject


@dataclass(frozen=True)
class Range:
    """Numbers that a setting is drawn from, uniformly or by their logarithm."""

    low: float
    high: float
    log: bool = False
    integer: bool = False

    def draw(self, rng: np.random.Generator) -> float | int:
        """Returns one of them, with three digits."""
        ends = np.array([self.low, self.high])
        value = rng.uniform(*(np.log(ends) if self.log else ends))
        value = np.exp(value) if self.log else value
        return round(value) if self.integer else float(f"{value:.3g}")


@dataclass(frozen=True)
class Choice:
    """Values that a setting is drawn from."""

    values: tuple[object, ...]

    def draw(self, rng: np.random.Generator) -> object:
        """Returns one of them."""
        return self.values[int(rng.integers(len(self.values)))]


@dataclass(frozen=True)
class Baseline:
    """An optimizer of another package; call it as ``(fun, x0, budget, seed)``.

    Attributes:
        package: what pip installs.
        module: what is imported.
        solve: the adapter, called with what ``module`` imports to before the rest.
        needs_box: whether it searches finite bounds only.
        space: what its settings are drawn from when it is tuned.
        chosen: its settings, where they are not the package's defaults.
        tuning: how much tuning stands behind them.
    """

    package: str
    module: str
    solve: Callable[..., None]
    needs_box: bool = False
    space: Mapping[str, Range | Choice] = field(default_factory=dict)
    chosen: Mapping[str, object] = field(default_factory=dict)
    tuning: str = "none: its maintainers' defaults"

    def require(self, name: str) -> None:
        """Imports the package.

        Raises:
            ImportError: with the line that installs it.
        """
        with checks.needed_by(name, self.package, f"pip install {self.package}"):
            importlib.import_module(self.module)

    @property
    def options(self) -> JsonObject:
        """The package and its version, and the settings that were chosen."""
        version = importlib.metadata.version(self.package)
        return {"package": f"{self.package} {version}", **self.chosen}

    def drawn(self, rng: np.random.Generator) -> Baseline:
        """Returns it with random settings."""
        chosen = {name: values.draw(rng) for name, values in self.space.items()}
        return replace(self, chosen=chosen)

    def __call__(self, fun: Counted, x0: np.ndarray, budget: int, seed: int) -> None:
        """Runs it; what it warns of is its own business."""
        module = importlib.import_module(self.module)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.solve(module, fun, x0, budget, seed, **self.chosen)


_CMA = {"step": Range(0.1, 3, log=True), "size": Range(0.7, 8, log=True)}
_BOOL = Choice((False, True))

BASELINES: Mapping[str, Baseline] = MappingProxyType(
    {
        "pycma": Baseline("cma", "cma", adapters.pycma, space=_CMA),
        "cmaes": Baseline(
            "cmaes", "cmaes", adapters.cmaes, space=_CMA | {"lr_adapt": _BOOL}
        ),
        "evosax": Baseline(
            "evosax",
            "evosax.algorithms",
            adapters.evosax,
            space=_CMA
            | {"method": Choice(("CMA_ES", "Sep_CMA_ES", "CR_FM_NES", "xNES"))},
        ),
        "nevergrad": Baseline(
            "nevergrad",
            "nevergrad",
            adapters.nevergrad,
            space={
                "method": Choice(
                    ("NGOpt", "CMA", "DE", "TwoPointsDE", "PSO", "OnePlusOne")
                )
            },
        ),
        "scipy_de": Baseline(
            "scipy",
            "scipy.optimize",
            partial(adapters.scipy_global, method="differential_evolution"),
            needs_box=True,
            space={
                "strategy": Choice(
                    ("best1bin", "rand1bin", "randtobest1bin", "currenttobest1bin")
                ),
                "popsize": Range(3, 20, integer=True),
                "mutation": Range(0.3, 1.0),
                "recombination": Range(0.3, 1.0),
            },
        ),
        "scipy_annealing": Baseline(
            "scipy",
            "scipy.optimize",
            partial(adapters.scipy_global, method="dual_annealing"),
            needs_box=True,
            space={
                "initial_temp": Range(1, 5e4, log=True),
                "visit": Range(1.5, 3.0),
                "accept": Range(-50, -5),
            },
        ),
        "scipy_nelder_mead": Baseline(
            "scipy",
            "scipy.optimize",
            adapters.scipy_nelder_mead,
            space={"simplex": Range(0.01, 0.5, log=True), "adaptive": _BOOL},
        ),
        "optuna_tpe": Baseline(
            "optuna",
            "optuna",
            adapters.optuna_tpe,
            needs_box=True,
            space={
                "n_startup_trials": Range(5, 50, integer=True),
                "n_ei_candidates": Range(8, 128, log=True, integer=True),
                "multivariate": _BOOL,
            },
        ),
        "fcmaes": Baseline(
            "fcmaes",
            "fcmaes.bitecpp",
            adapters.fcmaes,
            needs_box=True,
            space={"M": Range(1, 12, integer=True)},
        ),
        "cbx": Baseline(
            "cbx",
            "cbx.dynamics",
            adapters.cbx,
            needs_box=True,
            space={
                "particles": Range(10, 100, log=True, integer=True),
                "alpha": Range(1, 1e5, log=True),
                "dt": Range(0.01, 1.0, log=True),
                "sigma": Range(0.3, 6.0),
                "noise": Choice(("isotropic", "anisotropic")),
            },
        ),
    }
)
