"""Adam on a loss, for what scripts train by back-propagation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import optax
from jax import lax


def by_adam(
    loss: Callable[[Any, Any], jax.Array], start: Any, rows: Any, rate: Any
) -> Any:
    """Returns weights after a step of Adam for each row.

    Args:
        loss: of weights and a row.
        start: the first weights.
        rows: keys or batches, along the first axis.
        rate: the learning rate, or a schedule.
    """
    adam = optax.adam(rate)

    def step(carry: Any, row: Any) -> tuple[Any, None]:
        weights, state = carry
        updates, state = adam.update(jax.grad(loss)(weights, row), state)
        return (optax.apply_updates(weights, updates), state), None

    return lax.scan(step, (start, adam.init(start)), rows)[0][0]
