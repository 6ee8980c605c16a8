"""What a benchmark runs: the problems of a suite, and each method's settings on them.

Settings are chosen once for a suite, never for a problem. On BBOB every method starts
at the same point, uniform in [-4, 4]^D, with sigma 2 where it has one; a method
without a step size of its own gets a schedule that spans the budget. What was chosen:

| suite | method | settings |
|---|---|---|
| bbob | random_search | sigma 2 |
| bbob | open_es | smallest even P from 4 + 3 ln D up; sigma from 2 to 2e-5 and learning rate from 0.3 to 3e-6, geometrically |
| bbob | mezo | eps 1e-3; learning rate 1e-5, above which steep functions diverge |
| digits | random_search | P = 64, sigma 0.1 |
| digits | open_es | P = 64, signs, sigma 0.05, learning rate from 0.05 to 0.005 |
| digits | mezo | signs, eps 0.01, learning rate from 0.01 to 0.001 |
| atari | random_search | P = 10 or 1000, sigma 1: networks of their own, not changes of the first |
| atari | open_es | P = 10 or 5000, sigma 0.02, learning rate 0.01 |
| atari | deep_ga | P = 10, 3 parents, sigma 0.02; for the papers' networks P = 1000, 20 parents, sigma 0.002, 30 trials of 10 candidates |
| bbob | any other | its defaults with sigma 2 |
| digits | any other | its defaults with sigma 0.05, P = 64 where it can be chosen |
| atari | any other | its defaults with sigma 0.02, P = 10 where it can be chosen |

open_es on BBOB is the best of 576 such settings (4 sigmas, 3 rates, 16 pairs of decays,
3 population sizes) on ten functions in 5-D; on the default slice it reaches .39 of the
targets within 1000 D evaluations, where cma_es without restarts reaches .62.
"""  # noqa: E501

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from types import MappingProxyType

import jax
import jax.numpy as jnp

from gfopt import registry
from gfopt.noise import noise
from gfopt.protocol import Optimizer
from gfopt.types import JsonObject


@dataclasses.dataclass(frozen=True)
class Geometric:
    """A schedule from ``start`` to ``end`` in ``steps`` steps, constant afterwards.

    Equal ones compare equal, so that methods that hold them share a program.
    """

    start: float
    end: float
    steps: int

    def __call__(self, step: jax.Array) -> jax.Array:
        """Returns the value at a step."""
        share = jnp.minimum(step, self.steps) / self.steps
        return self.start * (self.end / self.start) ** share


Setting = Callable[[int, int], Mapping[str, object]]  # (dimension, budget) -> options


def _open_es_on_bbob(dimension: int, budget: int) -> Mapping[str, object]:
    size = 2 * math.ceil((4 + 3 * math.log(dimension)) / 2)
    steps = max(1, budget // size)
    return {
        "population_size": size,
        "sigma": Geometric(2.0, 2e-5, steps),
        "learning_rate": Geometric(0.3, 3e-6, steps),
    }


def _open_es_on_digits(dimension: int, budget: int) -> Mapping[str, object]:
    return {
        "population_size": 64,
        "sigma": 0.05,
        "learning_rate": Geometric(0.05, 0.005, max(1, budget // 64)),
        "noise": noise.rademacher(),
    }


def _mezo_on_digits(dimension: int, budget: int) -> Mapping[str, object]:
    return {
        "learning_rate": Geometric(0.01, 0.001, max(1, budget // 2)),
        "eps": 0.01,
        "noise": noise.rademacher(),
    }


def _is_short(dimension: int) -> bool:
    """Tells the tiny network, which plays for minutes, from those of the papers."""
    return dimension < 200_000


def _random_search_on_atari(dimension: int, budget: int) -> Mapping[str, object]:
    return {"population_size": 10 if _is_short(dimension) else 1000, "sigma": 1.0}


def _open_es_on_atari(dimension: int, budget: int) -> Mapping[str, object]:
    size = 10 if _is_short(dimension) else 5000
    return {"population_size": size, "sigma": 0.02, "learning_rate": 0.01}


def _deep_ga_on_atari(dimension: int, budget: int) -> Mapping[str, object]:
    if _is_short(dimension):
        sizes = {"population_size": 10, "num_parents": 3, "num_candidates": 3}
        return {**sizes, "sigma": 0.02, "initial_std": 1.0}
    return {
        "population_size": 1000,
        "num_parents": 20,
        "sigma": 0.002,
        "num_trials": 30,
        "initial_std": 1.0,
    }


_SETTINGS: Mapping[tuple[str, str], Setting] = MappingProxyType(
    {
        ("bbob", "random_search"): lambda dimension, budget: {"sigma": 2.0},
        ("bbob", "open_es"): _open_es_on_bbob,
        ("bbob", "mezo"): lambda dimension, budget: {"learning_rate": 1e-5},
        ("digits", "random_search"): lambda dimension, budget: {
            "population_size": 64,
            "sigma": 0.1,
        },
        ("digits", "open_es"): _open_es_on_digits,
        ("digits", "mezo"): _mezo_on_digits,
        ("atari", "random_search"): _random_search_on_atari,
        ("atari", "open_es"): _open_es_on_atari,
        ("atari", "deep_ga"): _deep_ga_on_atari,
    }
)
_TUNING: Mapping[tuple[str, str], str] = MappingProxyType(
    {
        ("bbob", "random_search"): "none: sigma as for all",
        ("bbob", "open_es"): "the best of 576 settings on f1, f3, f6, f8, f10, f13, "
        "f15, f17, f20 and f21 in 5-D: flattered there",
    }
)
_NETWORK_SIZES = MappingProxyType({"digits": 64, "atari": 10})
_SIGMA = MappingProxyType({"bbob": 2.0, "digits": 0.05, "atari": 0.02})


def settings(suite: str, method: str, dimension: int, budget: int) -> dict[str, object]:
    """Returns the options with which a method runs in a suite.

    Args:
        suite: ``"bbob"``, ``"digits"``, ``"atari"``, or another for the defaults.
        method: a registered name.
        dimension: ``D``.
        budget: evaluations in all; of a game, frames.

    Example:
        >>> settings("bbob", "cma_es", dimension=5, budget=5000)
        {'sigma': 2.0}
    """
    if suite not in _SIGMA:
        return {}  # problems of the user's own: the method's defaults
    chosen = _SETTINGS.get((suite, method))
    if chosen is not None:
        return dict(chosen(dimension, budget))
    row = registry.METHODS[method]
    options: dict[str, object] = {} if row.sigma is None else {row.sigma: _SIGMA[suite]}
    if suite in _NETWORK_SIZES and "population_size" in row.flags:
        options["population_size"] = _NETWORK_SIZES[suite]
    return options


def tuning(suite: str, method: str) -> str:
    """Says how much tuning stands behind a method's settings in a suite.

    Example:
        >>> tuning("bbob", "cma_es")
        'none: defaults'
    """
    if (suite, method) in _TUNING:
        return _TUNING[suite, method]
    by_hand = (suite, method) in _SETTINGS
    return "by hand, trials not counted" if by_hand else "none: defaults"


def optimizer_for(suite: str, method: str, dimension: int, budget: int) -> Optimizer:
    """Makes the method as it runs in a suite; see ``settings``."""
    return registry.method(method, settings(suite, method, dimension, budget))


def described(options: Mapping[str, object]) -> JsonObject:
    """Returns options as JSON holds them: numbers and text.

    Example:
        >>> described({"sigma": Geometric(2.0, 0.5, 10), "population_size": 8})
        {'sigma': 'Geometric(start=2.0, end=0.5, steps=10)', 'population_size': 8}
    """
    plain = (bool, int, float, str, type(None))
    return {k: v if isinstance(v, plain) else repr(v) for k, v in options.items()}
