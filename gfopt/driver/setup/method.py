"""Which method searches: one by name, an optimizer, or what ``"auto"`` takes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from gfopt import checks, registry
from gfopt.methods_table import Row
from gfopt.optimizers.wrappers.reevaluated import Reevaluated
from gfopt.optimizers.wrappers.restarts import Restarts
from gfopt.protocol import Optimizer, innermost, layers

# numbers up to which "auto" takes
MOST_DENSE = 1_000  # cma_es and
MOST_LINEAR = 10_000  # cr_fm_nes


class Choice(NamedTuple):
    """A method, and what is known of its step size.

    Attributes:
        optimizer: the method.
        name: what messages call it.
        row: its row in the table of methods; None for a class of the user's own.
        is_sized: whether the caller has set its step size.
        options: fields by name, None where the method is an object.
    """

    optimizer: Optimizer
    name: str
    row: Row | None
    is_sized: bool
    options: Mapping[str, object] | None


def choose(
    method: str | Optimizer,
    options: Mapping[str, object] | None,
    dimension: int,
    any_order: bool = False,
) -> Choice:
    """Returns the method that was asked for.

    Args:
        method: a name, ``"auto"``, or an optimizer.
        options: fields of a method by name, or None.
        dimension: how many numbers are searched.
        any_order: whether ``"auto"`` must take one that is told values in any order.

    Raises:
        TypeError: for an argument of the wrong type.
        ValueError: for an unknown name or option, or a method whose defaults move
            nothing in so many dimensions.
    """
    if not isinstance(method, str):
        if options is not None:
            raise ValueError(
                "options must be None where method is an optimizer, whose fields are "
                f"set already; got {checks.shown(options)}"
            )
        name = type(innermost(method)).__name__
        return Choice(method, name, registry.row_of(method), True, None)
    if options is not None:
        checks.instance("options", options, Mapping, "a dict of the method's fields")
    fields = dict(options or {})
    name = auto_method(dimension, any_order) if method == "auto" else method
    registry.known_method(name, "auto")
    row = registry.METHODS[name]
    if row.most is not None and dimension > row.most and not fields:
        raise ValueError(
            f"method must be one for {dimension} numbers; got {name!r}, whose defaults "
            f"move nothing beyond {row.most}: take {row.beyond}"
        )
    optimizer = registry.method(name, fields)
    return Choice(optimizer, name, row, row.sigma in fields, fields)


def auto_method(dimension: int, any_order: bool = False) -> str:
    """Returns what ``method="auto"`` stands for where evaluations are cheap.

    See the page "Which method?" for the whole rule.
    """
    if dimension <= MOST_DENSE:
        return "cma_es"
    if any_order:
        return "sep_cma_es"
    return "cr_fm_nes" if dimension <= MOST_LINEAR else "open_es"


def against_noise(optimizer: Optimizer) -> Optimizer:
    """Returns a method that spends as many evaluations as the noise asks for.

    Raises:
        ValueError: for one that chooses its population sizes itself.
    """
    if any(isinstance(layer, Restarts) for layer in layers(optimizer)):
        raise ValueError(
            "noisy must be False with Restarts, which chooses the population sizes "
            f"itself: give its method alone; got {checks.shown(optimizer)}"
        )
    row = registry.row_of(optimizer)
    grows = row is not None and "resizable" in row.flags
    return Reevaluated(optimizer, grows=grows)
