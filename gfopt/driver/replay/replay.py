"""A run of zeroth-order SGD as a log of scalars, from which its weights follow.

A step adds ``-rate p z(seed)`` to the weights: three numbers. The starting weights and
the log give the trained weights, bit for bit on the same kind of machine; the first
part of a log gives the weights at that step.

    result = gfopt.minimize(loss, x0, method="mezo", log="run.log")
    weights = gfopt.replay(x0, "run.log")
"""

from __future__ import annotations

import dataclasses
import os
import warnings
import zlib
from collections.abc import Mapping
from functools import partial
from typing import Protocol

import jax
import numpy as np
from jax import lax
from numpy.typing import ArrayLike

from gfopt import checks
from gfopt.core import trees
from gfopt.driver.replay.value_log import ValueLog, opened, retold
from gfopt.driver.setup.arguments import as_solution, in_precision
from gfopt.driver.storage.records import Record
from gfopt.driver.storage.storage import Contents, read_records, write_snapshot
from gfopt.noise import noise
from gfopt.optimizers.zeroth_order.scale_steps import scales_stepped
from gfopt.optimizers.zeroth_order.zeroth_order import stepped
from gfopt.protocol import Optimizer, as_method
from gfopt.types import Solution

KIND = "zeroth-order log"
END = Record("end", {}, {})  # of a run that was not killed

# the columns of a history, by their name in the file
NAMES = {"seed": "seed", "p": "projected_gradient", "rate": "learning_rate"}


class Outcome(Protocol):
    """What ``run`` and ``minimize`` return, as far as a log reads it."""

    @property
    def optimizer(self) -> Optimizer:
        """The method."""

    @property
    def recommended(self) -> Solution:
        """Its answer."""

    @property
    def history(self) -> Mapping[str, ArrayLike]:
        """The columns of its generations."""


@dataclasses.dataclass(frozen=True, eq=False)
class ReplayLog:
    """The scalars of a run, a row for each step; ``log[:n]`` is its beginning.

    Attributes:
        seed: ``uint32[T]``, of the directions.
        projected_gradient: ``float[T]``, 0 where a step was skipped.
        learning_rate: ``float[T]``.
        header: what the seeds mean: ``noise``, ``rounding`` and, if it is known, which
            ``leaves`` the weights have.

    Raises:
        ValueError: where the columns differ in length, or the header lacks something.

    Example:
        >>> import gfopt
        >>> x0 = jax.numpy.ones(3)
        >>> result = gfopt.run(gfopt.MeZO(0.02), lambda x: (x**2).sum(), x0,
        ...                    key=jax.random.key(0), generations=50)
        >>> log = ReplayLog.of(result)
        >>> len(log), bool((gfopt.replay(x0, log) == result.recommended).all())
        (50, True)
    """

    seed: np.ndarray
    projected_gradient: np.ndarray
    learning_rate: np.ndarray
    header: dict[str, str]

    def __post_init__(self) -> None:
        sizes = {len(column) for column in self._columns()}
        if len(sizes) > 1:
            raise ValueError(
                "seed, projected_gradient and learning_rate must have one length; "
                f"got {[len(column) for column in self._columns()]}"
            )
        for name, column in zip(NAMES.values(), self._columns(), strict=True):
            if column.ndim != 1 or column.dtype.kind != (
                "u" if name == "seed" else "f"
            ):
                raise ValueError(
                    "seed must be uint32[T], projected_gradient and learning_rate "
                    f"float[T]; got {column.dtype}{list(column.shape)} for {name}"
                )
        is_text = all(isinstance(value, str) for value in self.header.values())
        if not (is_text and {"noise", "rounding"} <= self.header.keys()):
            raise ValueError(
                "header must say 'noise' and 'rounding', in texts; "
                f"got {checks.shown(self.header)}"
            )

    def __len__(self) -> int:
        """The number of steps."""
        return len(self.seed)

    def __getitem__(self, steps: slice) -> ReplayLog:
        """The first steps: later weights depend on all steps before."""
        checks.instance("steps", steps, slice, "a slice such as [:100]")
        if steps.start not in (None, 0) or steps.step not in (None, 1):
            raise ValueError(
                f"steps must start with the first one, [:n]; got {checks.shown(steps)}"
            )
        seed, slope, rate = (column[steps] for column in self._columns())
        return ReplayLog(seed, slope, rate, self.header)

    def _columns(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        return self.seed, self.projected_gradient, self.learning_rate

    @classmethod
    def of(cls, result: Outcome) -> ReplayLog:
        """Returns the log of what ``run`` or ``minimize`` returned.

        Raises:
            ValueError: for a method whose steps are not three numbers, and for a batch
                of runs.
        """
        header = header_of(result.optimizer, result.recommended)
        columns = {name: np.asarray(column) for name, column in result.history.items()}
        is_step = np.diff(columns["nfev"], prepend=0) > 0
        if is_step.ndim != 1:
            raise ValueError(
                "result must be of one run; got a batch: take one by "
                "jax.tree.map(lambda leaf: leaf[i], result)"
            )
        # a history of minimize may end with an open generation,
        is_step[getattr(result, "nit", is_step.size) :] = False
        types = [leaf.dtype for leaf in jax.tree.leaves(result.recommended)]
        wide = np.float64 if np.float64 in types else np.float32
        kinds = {"seed": np.uint32}  # and NaN there makes floats of whole columns
        steps = {
            name: columns[name][is_step].astype(kinds.get(name, wide))
            for name in NAMES.values()
        }
        return cls(**steps, header=header)

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> ReplayLog:
        """Reads a log, up to its first damage, which a warning tells.

        So does one where the log has no end: its run was killed or still goes on.

        Raises:
            ValueError: for another kind of file.
        """
        contents = read_records(path)
        if contents.header.get("kind") != KIND:
            raise ValueError(
                f"{os.fspath(path)} must be a {KIND}; got {contents.header!r}"
            )
        header = {k: v for k, v in contents.header.items() if k != "kind"}
        with checks.whole_file(KIND, path):
            log = cls(**columns_of(contents), header=header)
        if contents.lost or contents.records[-1:] != [END]:
            why = "; ".join(contents.lost) or "its run was killed, or still goes on"
            warnings.warn(
                f"{os.fspath(path)} has no end: {why}. Its first {len(log)} steps are "
                "read",
                stacklevel=2,
            )
        return log

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the log as one record, 12 bytes a step; the file is replaced."""
        steps = self.record()
        write_snapshot(path, {"kind": KIND, **self.header}, [steps, END])

    def record(self) -> Record:
        """Returns all steps as one record."""
        return Record("", {}, dict(zip(NAMES, self._columns(), strict=True)))


def replay(
    base: Solution,
    log: ReplayLog | ValueLog | str | os.PathLike[str],
    method: Optimizer | None = None,
) -> Solution:
    """Makes the weights of a run from its starting weights and its log.

    Args:
        base: what the run started from.
        log: a ``ReplayLog``, or with a method a ``ValueLog``, or the path of one.
        method: that of the run, for a log of values.

    Returns:
        The weights, bit for bit those of the run on the same backend; from a log of
        values those of a compiled run, up to the last bits.

    Raises:
        TypeError, ValueError: for weights that are not a solution, or not a log.

    Example:
        >>> log = ReplayLog(np.uint32([7]), np.float32([2]), np.float32([0.1]),
        ...                 {"noise": "rademacher", "rounding": "nearest"})
        >>> replay(np.zeros(3, np.float32), log)  # the signs of the seed 7 are -1
        Array([0.2, 0.2, 0.2], dtype=float32)
    """
    if method is not None:
        values = opened(ValueLog, log)
        values.check_method(method)
        start, x64 = _start(base, values.header, values.values)
        with jax.enable_x64(x64):
            return retold(method, values, start)
    log = opened(ReplayLog, log)
    start, x64 = _start(base, log.header, log.projected_gradient)
    with jax.enable_x64(x64):
        return _replayed(
            noise.Noise(log.header["noise"]),
            start,
            log.seed,
            log.projected_gradient,
            log.learning_rate,
            float(log.header.get("min_scale", 0)),
            rounding=log.header["rounding"],
            relative=log.header.get("relative"),
        )


def _start(
    base: Solution, header: Mapping[str, str], column: np.ndarray
) -> tuple[Solution, bool]:
    """Returns the weights as the run saw them, and whether it had double precision.

    Raises:
        ValueError: where the run started from other leaves.
    """
    expected = header.get("leaves")
    with trees.precision((base, column)):
        start, x64 = trees.starting_point(base), jax.config.read("jax_enable_x64")
    if expected is None or checksum_of_leaves(start) == expected:
        return start, x64
    # minimize takes a list of numbers as a vector, and NumPy arrays as float64
    minimized, wide = in_precision(as_solution(base))
    if checksum_of_leaves(minimized) == expected:
        return minimized, wide
    with jax.enable_x64(False):  # and run as float32
        narrow = trees.starting_point(base)
    if checksum_of_leaves(narrow) == expected:
        return narrow, False
    raise ValueError(
        "base must be what the run started from, of the same shapes, types and names; "
        f"got {checks.shown(_listed(start))}"
    )


def _listed(tree: Solution) -> list[str]:
    """Returns name, type and shape of each leaf."""
    return [
        f"{jax.tree_util.keystr(path)} {leaf.dtype}{list(leaf.shape)}"
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    ]


def checksum_of_leaves(tree: Solution) -> str:
    """Returns a checksum of names, types and shapes."""
    return f"crc32 {zlib.crc32(chr(10).join(_listed(tree)).encode()):08x}"


@partial(jax.jit, static_argnames=("rounding", "relative"))
def _replayed(
    family: noise.Noise,
    start: Solution,
    seeds: jax.Array,
    slopes: jax.Array,
    rates: jax.Array,
    min_scale: jax.Array,
    *,
    rounding: str,
    relative: str | None,
) -> Solution:
    def step(mean: Solution, row: tuple[jax.Array, ...]) -> tuple[Solution, None]:
        seed, slope, rate = row
        by = family, rounding, mean, seed[None], slope[None], rate
        if relative is None:  # no scales of a quantized model
            return stepped(*by), None
        return scales_stepped(*by, min_scale, relative == "True"), None

    return lax.scan(step, start, (seeds, slopes, rates))[0]


def header_of(optimizer: Optimizer, x0: Solution) -> dict[str, str]:
    """Returns what a log of this method's steps says of them."""
    header = as_method(optimizer).log_header()
    if header is None:
        raise ValueError(
            "method must be one whose steps are a seed and two numbers, such as MeZO, "
            "without bounds, constraints or noisy, to be logged; "
            f"got {checks.shown(optimizer)}"
        )
    return {**header, "leaves": checksum_of_leaves(x0)}


def columns_of(contents: Contents) -> dict[str, np.ndarray]:
    """Returns the columns of all records before the first damage."""
    sound = contents.records[: contents.num_sound]
    listed = [record.arrays for record in sound if record != END]
    empty = {"seed": np.zeros(0, np.uint32), "p": np.zeros(0, np.float32)}
    parts = listed or [{**empty, "rate": empty["p"]}]
    return {
        name: np.concatenate([part[short] for part in parts])
        for short, name in NAMES.items()
    }
