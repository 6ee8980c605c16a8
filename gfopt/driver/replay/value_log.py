"""A run as the values of its candidates: with method and seed, all that a run is.

A method is asked with the keys of the seed and told the values, so it makes the same
steps again, whatever they are; the objective is not needed.
"""

from __future__ import annotations

import dataclasses
import json
import os
import zlib
from typing import Any, Protocol, TypeVar

import jax
import numpy as np
from jax import lax

from gfopt import checks
from gfopt.core.evaluate import judged
from gfopt.driver import step as steps
from gfopt.driver.setup.arguments import check_seed
from gfopt.driver.storage.fingerprint import described
from gfopt.driver.storage.records import Record
from gfopt.driver.storage.storage import read_records, write_snapshot
from gfopt.protocol import Optimizer
from gfopt.types import Solution, State

KIND = "value log"


@dataclasses.dataclass(frozen=True, eq=False)
class ValueLog:
    """The values of a run, a row for each step; ``log[:n]`` is its beginning.

    Attributes:
        values: ``float[T, P]``, lower is better; NaN for a candidate that failed.
        seed: of the run.
        header: ``leaves``, a checksum of names, types and shapes, and ``method``, one
            of the method, where they are known: a replay of another run is refused.

    Raises:
        TypeError: for a seed that is not an integer.
        ValueError: for values of another form, or a seed below 0 or from ``2**64`` up.

    Example:
        >>> import gfopt, jax.numpy as jnp
        >>> method, x0 = gfopt.OpenES(4, sigma=0.1), jnp.zeros(3)
        >>> log = ValueLog(np.array([[3.0, 1.0, 2.0, np.nan]]), seed=7)
        >>> gfopt.replay(x0, log, method).round(3)
        Array([-0.01, -0.01,  0.01], dtype=float32)
    """

    values: np.ndarray
    seed: int = 0
    header: dict[str, str] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        check_seed(self.seed)
        values = np.asarray(self.values)
        if values.ndim != 2 or values.dtype.kind != "f":
            raise ValueError(
                "values must be float[T, P], a row for each step; "
                f"got {values.dtype}{list(values.shape)}"
            )
        object.__setattr__(self, "values", values)

    def __len__(self) -> int:
        """The number of steps."""
        return len(self.values)

    def __getitem__(self, steps: slice) -> ValueLog:
        """Some steps: the first ones, since later ones depend on all before."""
        checks.instance("steps", steps, slice, "a slice such as [:100]")
        if steps.start not in (None, 0) or steps.step not in (None, 1):
            raise ValueError(
                f"steps must start with the first one, [:n]; got {checks.shown(steps)}"
            )
        return ValueLog(self.values[steps], self.seed, self.header)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the log, 4 bytes a value in float32; the file is replaced."""
        header = {"kind": KIND, "seed": str(self.seed), **self.header}
        write_snapshot(path, header, [Record("", {}, {"values": self.values})])

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> ValueLog:
        """Reads a log.

        Raises:
            ValueError: for another kind of file, or a damaged one.
        """
        contents = read_records(path)
        header = dict(contents.header)
        if header.pop("kind", None) != KIND:
            raise ValueError(
                f"{os.fspath(path)} must be a {KIND}; got {contents.header!r}"
            )
        if contents.lost:
            raise ValueError(f"{os.fspath(path)} is damaged: {contents.lost[0]}")
        with checks.whole_file(KIND, path):
            seed = int(header.pop("seed"))
            return cls(contents.records[0].arrays["values"], seed, header)

    def check_method(self, method: Optimizer) -> None:
        """Refuses a method that is not that of the run.

        Raises:
            ValueError: for another one.
        """
        if self.header.get("method", found := checksum_of_method(method)) != found:
            raise ValueError(
                "method must be that of the run, with the same fields; "
                f"got {checks.shown(method)}"
            )


class _Log(Protocol):
    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> Any:
        """Reads a log."""


L = TypeVar("L", bound=_Log)


def opened(kind: type[L], log: Any) -> L:
    """Returns a log, which is read where it is a path.

    Raises:
        TypeError: for anything but a log of that kind, or a path.
    """
    if isinstance(log, str | os.PathLike):
        return kind.read(log)
    if not isinstance(log, kind):
        raise TypeError(
            f"log must be a {kind.__name__} or the path of one (a ValueLog with its "
            f"method, a ReplayLog without); got {checks.shown(log)}"
        )
    return log


def checksum_of_method(method: Optimizer) -> str:
    """Returns a checksum of a method and its fields."""
    text = json.dumps(described(method), sort_keys=True)
    return f"{type(method).__name__} crc32 {zlib.crc32(text.encode()):08x}"


def retold(method: Optimizer, log: ValueLog, start: Solution) -> Solution:
    """Returns the answer of a method that is told the values of a log.

    Raises:
        ValueError: for another number of candidates.
    """
    keys = steps.seed_keys(log.seed)
    state = _begun(method, keys[0], start)
    size = steps.population_size(method, state)
    if log.values.shape[1] != size:
        raise ValueError(
            f"log must have values of the method's {size} candidates a step; "
            f"got {log.values.shape[1]}"
        )
    return _retold(method, keys[1], state, log.values)


@jax.jit
def _begun(method: Optimizer, key: jax.Array, start: Solution) -> State:
    return method.init(steps.wrapped(key), start)


@jax.jit
def _retold(
    method: Optimizer, key: jax.Array, state: State, values: jax.Array
) -> Solution:
    run_key = steps.wrapped(key)

    def step(state: State, row: jax.Array) -> tuple[State, Any]:
        population = method.ask(steps.step_keys(run_key, state.step).ask, state)
        evaluation = judged(row, population.active, ())
        return method.tell(state, population, evaluation)[0], None

    return method.recommend(lax.scan(step, state, values)[0])
