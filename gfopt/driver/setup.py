"""From what people pass to what a search needs: precision, method, scale, bounds."""

from __future__ import annotations

import dataclasses
import math
import numbers
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from gfopt import checks, registry
from gfopt.core import trees
from gfopt.driver.arguments import (
    as_solution,
    as_tokens,
    check_reach,
    in_precision,
)
from gfopt.driver.result import Result
from gfopt.driver.warm_start import continued
from gfopt.methods_table import Row
from gfopt.optimizers.evolution_strategies.snes import default_population_size
from gfopt.optimizers.wrappers.bounded import Bounded, refuse_slopes
from gfopt.optimizers.wrappers.held import (
    Held,
    filled,
    free_numbers,
    reduced,
    reduced_space,
)
from gfopt.optimizers.wrappers.margin import Margin
from gfopt.optimizers.wrappers.reevaluated import Reevaluated
from gfopt.optimizers.wrappers.restarts import Restarts
from gfopt.protocol import as_method, innermost, layers, with_innermost
from gfopt.spaces.bounds import middle_of, space_of
from gfopt.spaces.spaces import Space
from gfopt.types import Optimizer, PyTree, Solution

# numbers up to which "auto" takes
MOST_SURROGATE = 40  # lq_cma_es for costly objectives,
MOST_DENSE = 1_000  # cma_es and
MOST_LINEAR = 10_000  # cr_fm_nes
MOST_SIGMA = 1e10  # beyond this, and below its inverse, it is the unit of the search
MOST_GROWTH = 32  # times the default, the largest population of a restart


class Setup(NamedTuple):
    """A search that is ready to start.

    Attributes:
        optimizer: the method, with its scale and bounds.
        x0: the starting solution in the precision of the search.
        x64: whether it is double precision.
        costly: the method for objectives that are called in Python, or None for the
            same: ``"auto"`` makes a difference.
    """

    optimizer: Optimizer
    x0: Solution
    x64: bool
    costly: Optimizer | None = None


def setup(
    method: str | Optimizer,
    x0: Any,
    sigma0: Any = None,
    bounds: Any = None,
    options: Mapping[str, Any] | None = None,
    *,
    steady: bool = True,
    restarts: bool = False,
) -> Setup:
    """Makes a search of what ``minimize`` and ``AskTell`` are given.

    For ``"auto"``: ``steady`` says that values have no noise, and that there are no
    constraints; ``restarts`` that a search that has converged begins again elsewhere.

    For a method of token sequences ``x0`` is ``int32[L]``, and there are no bounds.

    ``x0`` decides the precision: what is not a JAX array, and float64, is searched in
    double precision. The first step size is ``sigma0``; without it a fifth of finite
    bounds, else ``0.3 max(1, rms(x0))`` for methods that hold vectors and the method's
    own default for those that hold seeds, which are made for networks. A step size that
    is set in ``options``, or in an optimizer that is passed as ``method``, counts in
    fifths of the widths of finite bounds, and in units of x elsewhere. Where ``x0`` is
    the ``Result`` of a run, it goes on from what that recommends, with the standard
    deviations that it had at its end.

    Raises:
        TypeError: for an argument of the wrong type.
        ValueError: for a value out of range; the message names the argument.
    """
    known = None
    if isinstance(x0, Result):
        x0, known = continued(x0)
    if x0 is None and bounds is not None:
        x0 = middle_of(bounds)
    if registry.takes_tokens(method):
        x0, x64 = as_tokens(x0, bounds), False
    else:
        x0, x64 = in_precision(as_solution(x0))
    space = None if bounds is None else space_of(bounds, x0)
    if space is not None and not space.contains(x0):
        raise ValueError(
            "x0 must lie within bounds, with whole numbers for integers and choices; "
            f"got {checks.shown(x0)}"
        )
    if space is not None and isinstance(bounds, Space):
        unit = _spread_sigma("bounds.scale", bounds.scale, x0)
        space = dataclasses.replace(space, scale=unit)
    if not isinstance(method, str):
        kind = "a method's name or a gfopt optimizer"
        checks.instance("method", method, Optimizer, kind)
    free = None if space is None else free_numbers(space)
    words: dict[str, Any] = {"steady": steady, "restarts": restarts}
    scaled = isinstance(bounds, Space)
    if space is None or free is None:
        return _search(method, x0, x64, sigma0, known, scaled, space, options, **words)
    # what is fixed is held, and the rest is searched
    sigmas = [
        None if size is None else reduced(_spread_sigma("sigma0", size, x0), free)
        for size in (sigma0, known)
    ]
    part = jax.tree.map(np.asarray, reduced(x0, free))
    if not jax.tree.leaves(part):
        hidden: Any = registry.method("random_search", {"population_size": 1})
        return Setup(Held(hidden, x0, space, free), x0, x64)
    inside = reduced_space(space, free)
    first, other = sigmas
    made = _search(method, part, x64, first, other, scaled, inside, options, **words)

    def held(optimizer: Optimizer) -> Held:
        units = as_method(optimizer).search_space.scale
        ones = jax.tree.map(lambda leaf: np.ones(np.shape(leaf)), x0)
        with jax.enable_x64(True):
            scale = jax.tree.map(np.asarray, filled(units, free, ones))
        return Held(optimizer, x0, dataclasses.replace(space, scale=scale), free)

    costly = None if made.costly is None else held(made.costly)
    return Setup(held(made.optimizer), x0, x64, costly)


def _search(
    method: str | Optimizer,
    x0: Solution,
    x64: bool,
    sigma0: Any,
    known: Any,
    scaled: bool,
    space: Space | None,
    options: Mapping[str, Any] | None,
    *,
    steady: bool,
    restarts: bool,
) -> Setup:
    """Makes a search of numbers that are all free.

    Args:
        method: a name or an optimizer.
        x0: the starting solution in the precision of the search.
        x64: whether that is double precision.
        sigma0: as it was given, or None.
        known: what takes its place where ``x0`` was a ``Result``, or None.
        scaled: whether the space brings its scale.
        space: bounds, or None.
        options: as they were given, or None.
        steady: see ``setup``.
        restarts: see ``setup``.
    """
    if not isinstance(method, str):
        if options is not None:
            raise ValueError(
                "options must be None where method is an optimizer, whose fields are "
                f"set already; got {checks.shown(options)}"
            )
        optimizer = _as_given(method, x0, sigma0, scaled, space)
        check_reach(optimizer, x0)
        return Setup(optimizer, x0, x64)
    if options is not None:
        checks.instance("options", options, Mapping, "a dict of the method's fields")
    name, given = method, dict(options or {})
    dimension, with_model = trees.num_parameters(x0), False
    if method == "auto":
        name = auto_method(dimension)
        with_model = steady and not given and dimension <= MOST_SURROGATE
    registry.known_method(name, "auto")
    row = registry.METHODS[name]
    if row.most is not None and dimension > row.most and not given:
        raise ValueError(
            f"method must be one for {dimension} numbers; got {name!r}, whose defaults "
            f"move nothing beyond {row.most}: take {row.beyond}"
        )

    def finished(sigma: dict[Any, float], space: Space | None) -> Setup:
        optimizer = _within(registry.method(name, given | sigma), space)
        check_reach(optimizer, x0)
        if not with_model:
            return Setup(optimizer, x0, x64)
        # a start that is far away, or sigma0 much too small, is no reason to stop
        is_discrete = space is not None and space.is_discrete  # a model has no margin
        kind = "cma_es" if is_discrete else "lq_cma_es"
        model: Any = registry.method(kind, {"tol_up": 1e20} | sigma)
        if restarts:
            most = MOST_GROWTH * default_population_size(dimension)
            model = Restarts(model, largest_size=most, reach=_reach(space))
        return Setup(optimizer, x0, x64, _within(model, space))

    if sigma0 is not None and row.sigma is None:
        raise ValueError(
            f"sigma0 must be None for {name}, which has no such step size; "
            f"got {checks.shown(sigma0)}"
        )
    if sigma0 is None and row.sigma is not None and row.sigma not in given:
        sigma0 = known
    if row.sigma is None or row.sigma in given:
        if sigma0 is not None:
            raise ValueError(
                f"sigma0 must be None where options has {row.sigma!r}; "
                f"got {checks.shown(sigma0)}"
            )
        return finished({}, space if row.sigma is None else _in_fifths(scaled, space))
    if sigma0 is None and scaled:
        return finished({row.sigma: 1.0}, space)
    sigma, space = _scaled(_scale(row, x0, sigma0, space), x0, space)
    return finished({row.sigma: sigma}, space)


def _as_given(
    method: Optimizer, x0: Solution, sigma0: Any, scaled: bool, space: Space | None
) -> Optimizer:
    """Returns an optimizer within the space, in the units that its name would have."""
    inner, row = innermost(method), registry.row_of(method)
    if sigma0 is None:
        has_size = row is None or row.sigma is not None
        return _within(method, _in_fifths(scaled, space) if has_size else space)
    if row is None or row.sigma is None:
        raise ValueError(
            f"sigma0 must be None for {type(inner).__name__}, which has no such step "
            f"size; got {checks.shown(sigma0)}"
        )
    sigma, space = _scaled(_spread_sigma("sigma0", sigma0, x0), x0, space)
    change: Any = dataclasses.replace
    inner = change(inner, **{row.sigma: sigma})
    return _within(with_innermost(method, inner), space)


def _scaled(
    scale: PyTree, x0: Solution, space: Space | None
) -> tuple[float, Space | None]:
    """Returns a step size and a space in which it is ``scale`` in each coordinate."""
    sizes = np.unique(np.concatenate([leaf.ravel() for leaf in jax.tree.leaves(scale)]))
    if space is None and sizes.size == 1 and 1 / MOST_SIGMA < sizes[0] < MOST_SIGMA:
        return float(sizes[0]), None
    # one unit of the search is a standard deviation of each coordinate
    if space is None:
        space = Space(_spread(-np.inf, x0), _spread(np.inf, x0), scale)
    return 1.0, dataclasses.replace(space, scale=scale)


def _in_fifths(scaled: bool, space: Space | None) -> Space | None:
    """Returns a space whose unit is a fifth of the width, 1 where it has no width."""
    if space is None or scaled:
        return space
    return dataclasses.replace(space, scale=_fifths(space, 1.0))


def against_noise(made: Setup, noisy: Any) -> Setup:
    """Returns a search that handles noise, if it is asked for."""
    checks.instance("noisy", noisy, bool, "True or False")
    if not noisy:
        return made
    if any(isinstance(layer, Restarts) for layer in layers(made.optimizer)):
        raise ValueError(
            "noisy must be False with Restarts, which chooses the population sizes "
            f"itself: give its method alone; got {checks.shown(made.optimizer)}"
        )
    row = registry.row_of(made.optimizer)
    grows = row is not None and "resizable" in row.flags
    return made._replace(optimizer=Reevaluated(made.optimizer, grows=grows))


def auto_method(dimension: int) -> str:
    """Returns what ``method="auto"`` stands for where evaluations are cheap.

    See the page "Which method?" for the whole rule.
    """
    if dimension <= MOST_DENSE:
        return "cma_es"
    return "cr_fm_nes" if dimension <= MOST_LINEAR else "open_es"


def _scale(row: Row, x0: Solution, sigma0: Any, space: Space | None) -> PyTree:
    """Returns the first standard deviation of each coordinate, like ``x0``."""
    if sigma0 is not None:
        return _spread_sigma("sigma0", sigma0, x0)
    fallback = 0.3 * max(1.0, _rms(x0))
    if "seeds" in row.flags:
        fields = {field.name: field for field in dataclasses.fields(row.cls)}
        default: Any = fields[str(row.sigma)].default
        fallback = default
    if space is None:
        return _spread(fallback, x0)
    return _fifths(space, fallback)


def _fifths(space: Space, fallback: float) -> PyTree:
    """Returns a fifth of each coordinate's width, or ``fallback`` for an open one."""

    def leaf(width: np.ndarray) -> np.ndarray:
        return np.where(np.isfinite(width), width / 5, fallback)

    return jax.tree.map(leaf, space.widths())


def _reach(space: Space | None) -> float:
    """Returns how many sigma from x0 a restart may start: anywhere in finite bounds."""
    if space is None:
        return 2.0
    units = jax.tree.map(lambda w, s: np.max(w / s), space.widths(), space.scale)
    widest = max(map(float, jax.tree.leaves(units)))
    return max(2.0, widest) if math.isfinite(widest) else 2.0


def _spread_sigma(name: str, sigma0: Any, x0: Solution) -> PyTree:
    """Returns ``sigma0``, a number or a tree like ``x0``, as a tree like ``x0``."""
    expected = "a finite number above 0, or such numbers in the form of x0"
    if any(np.asarray(s).dtype.kind == "b" for s in jax.tree.leaves(sigma0)):
        raise TypeError(f"{name} must be {expected}; got {checks.shown(sigma0)}")
    if isinstance(sigma0, numbers.Real):
        sigma0 = _spread(float(sigma0), x0)
    elif isinstance(sigma0, list | tuple) and not isinstance(x0, list | tuple):
        sigma0 = np.asarray(sigma0)
    try:
        spread = jax.tree.map(
            lambda x, s: np.broadcast_to(np.asarray(s, np.float64), np.shape(x)),
            x0,
            sigma0,
        )
    except (TypeError, ValueError):
        raise TypeError(
            f"{name} must be {expected}; got {checks.shown(sigma0)}"
        ) from None
    for leaf in jax.tree.leaves(spread):
        if not np.all((leaf > 0) & np.isfinite(leaf)):
            raise ValueError(f"{name} must be {expected}; got {checks.shown(leaf)}")
    return spread


def _rms(x0: Solution) -> float:
    """Returns the root mean square of all numbers of a solution."""
    leaves = [np.asarray(leaf, np.float64) for leaf in jax.tree.leaves(x0)]
    largest = max(float(np.max(np.abs(leaf), initial=0.0)) for leaf in leaves)
    if largest == 0:
        return 0.0
    total = sum(float(np.sum((leaf / largest) ** 2)) for leaf in leaves)
    return largest * math.sqrt(total / sum(leaf.size for leaf in leaves))


def _spread(value: float, x0: Solution) -> PyTree:
    return jax.tree.map(lambda x: np.full(np.shape(x), value), x0)


def _within(optimizer: Optimizer, space: Space | None) -> Optimizer:
    """Returns a method that keeps to the space, with a margin where it can have one."""
    if space is None:
        return optimizer
    if space.is_discrete:
        refuse_slopes(optimizer, "bounds with integers or choices", "method")
    method = innermost(optimizer)
    if space.is_discrete and as_method(method).has_margin:
        optimizer = with_innermost(optimizer, Margin(method, space))
    return Bounded(optimizer, space)
