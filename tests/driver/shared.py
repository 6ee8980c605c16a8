"""What the tests of the drivers share: a small method, objectives, a compile count."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import gfopt

# one configuration in all modules, so that its programs are compiled once
SMALL: dict[str, Any] = {
    "method": "open_es",
    "options": {"population_size": 4, "sigma": 0.1, "learning_rate": 0.1},
}
X0 = [1.5, -0.5]


def plateau(x: Any) -> Any:
    """Bitwise the same in NumPy and in any JAX program: no product, no sum."""
    return jnp.max(jnp.abs(x))


def host_plateau(x: np.ndarray) -> float:
    """``plateau`` for the host path: a tracer has no float."""
    return float(np.max(np.abs(x)))


class Recorded:
    """An objective for the host path that keeps copies of what it was called with."""

    def __init__(self, fun: Any = host_plateau):
        self.fun = fun
        self.seen: list[Any] = []

    def __call__(self, x: Any, *args: Any) -> Any:
        jax.tree.map(float_all, x)  # a tracer ends here, before it is counted
        self.seen.append(jax.tree.map(np.copy, x))
        return self.fun(x, *args)


def minimize(fun: Any = plateau, x0: Any = X0, **words: Any) -> gfopt.Result:
    """``gfopt.minimize`` as it is tested, but for ``words``: the small method."""
    return gfopt.minimize(fun, x0, **(SMALL | {"budget": 21} | words))


def float_all(leaf: Any) -> None:
    """Reads the numbers of a leaf."""
    np.asarray(leaf)


def same(a: Any, b: Any) -> None:
    """Asserts that two trees have their structure, types and every bit in common."""
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for (path, left), right in zip(
        jax.tree_util.tree_leaves_with_path(a), jax.tree.leaves(b), strict=True
    ):
        left, right = np.asarray(left), np.asarray(right)
        where = jax.tree_util.keystr(path)
        assert (left.shape, left.dtype) == (right.shape, right.dtype), where
        assert left.tobytes() == right.tobytes(), f"{where}: {left} != {right}"


def same_result(a: Any, b: Any) -> None:
    """Asserts that two results are equal to the last bit, apart from the clock."""
    for name in ("x", "recommended", "state", "history"):
        same(getattr(a, name), getattr(b, name))
    for name in ("fun", "success", "status", "message", "nfev", "nit", "failures"):
        left, right = getattr(a, name), getattr(b, name)
        assert left == right or (left != left and right != right), (name, left, right)


@contextlib.contextmanager
def compilations() -> Iterator[list[str]]:
    """Collects the names of the programs that are compiled in the block."""
    names: list[str] = []

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            message = record.getMessage()
            if message.startswith("Compiling "):
                names.append(message.split()[1])

    logger, handler = logging.getLogger("jax"), Handler()
    logger.addHandler(handler)
    before, logger.propagate = logger.propagate, False
    try:
        with jax.log_compiles(True):
            yield names
    finally:
        logger.propagate = before
        logger.removeHandler(handler)
