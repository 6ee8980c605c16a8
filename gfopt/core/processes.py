"""Several JAX processes that make one search: what the first says holds for all.

Each runs the same script. What hangs on something that only one of them knows, a clock,
a signal or a file, would lead them apart: they would call different programs and wait
for each other forever.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple, TypeVar

import jax
import numpy as np

from gfopt.core.sharded import Sharded
from gfopt.types import PyTree

T = TypeVar("T")


class Processes(NamedTuple):
    """Those that make a search: this process alone, or all of them together.

    Attributes:
        together: whether it is all; each call is then made by every process.

    Example:
        >>> Processes(together=False).some(False, True)
        [False, True]
    """

    together: bool

    @property
    def is_first(self) -> bool:
        """Whether this is the process that writes files and shows how far it is."""
        return not self.together or jax.process_index() == 0

    def first(self, number: int) -> int:
        """Returns the number of the first process, an i32."""
        return int(_of_first(np.array(number, np.int32))) if self.together else number

    def some(self, *flags: bool) -> list[bool]:
        """Returns for each flag whether it holds in any process."""
        held = np.array(flags, bool)
        if self.together:
            from jax.experimental import multihost_utils

            held = np.any(multihost_utils.process_allgather(held), axis=0)
        return [bool(flag) for flag in held]

    def made_by_first(self, make: Callable[[], bytes]) -> bytes:
        """Returns in every process what the first one makes.

        Raises:
            RuntimeError: it could not; there, its own error.
        """
        if not self.together:
            return make()
        made, error = b"", None
        if self.is_first:
            try:
                made = make()
            except Exception as caught:  # the others wait to hear of it
                error, made = caught, f"{type(caught).__name__}: {caught}".encode()
        size = self.first(len(made))
        failed = self.first(error is not None)
        said = _of_first(np.frombuffer(made.ljust(size, b" "), np.uint8)).tobytes()
        if error is not None:
            raise error
        if failed:
            raise RuntimeError(f"the first process raised {said.decode()}")
        return said

    def made_by_each(self, made: bytes) -> list[bytes]:
        """Returns in every process what each of them has made, in their order."""
        if not self.together:
            return [made]
        from jax.experimental import multihost_utils

        gather = multihost_utils.process_allgather
        sizes = gather(np.array(len(made), np.int32)).tolist()
        padded = np.frombuffer(made.ljust(max(sizes), b" "), np.uint8)
        return [
            row.tobytes()[:size]
            for row, size in zip(gather(padded), sizes, strict=True)
        ]

    def opened(
        self,
        path: Path,
        opener: Callable[[Path], AbstractContextManager[T]],
        stack: ExitStack,
    ) -> T:
        """Opens a file in the first process, a copy of it in each of the others.

        They so read the same, wherever they run, and only the first writes the file.

        Args:
            path: the file.
            opener: opens it, and makes it where there is none.
            stack: closes it, and removes a copy.

        Raises:
            RuntimeError: the first process could not open it; there, its own error.
        """
        opened: list[T] = []

        def make() -> bytes:
            opened.append(stack.enter_context(opener(path)))
            return path.read_bytes() if self.together else b""

        content = self.made_by_first(make)
        if opened:
            return opened[0]
        copy = Path(stack.enter_context(TemporaryDirectory()), path.name)
        copy.write_bytes(content)
        return stack.enter_context(opener(copy))


#: This process, whatever others there are.
ALONE = Processes(together=False)


def all_processes() -> Processes:
    """Returns all of JAX's processes, where there are several."""
    return Processes(jax.distributed.is_initialized() and jax.process_count() > 1)


def processes_of(evaluator: object, tree: PyTree) -> Processes:
    """Returns who makes a search: all, where devices of others take part in it.

    Args:
        evaluator: of the search, or None.
        tree: its arrays.
    """
    mesh = evaluator.mesh if isinstance(evaluator, Sharded) else None
    arrays = [leaf for leaf in jax.tree.leaves(tree) if isinstance(leaf, jax.Array)]
    is_local = all(array.is_fully_addressable for array in arrays)
    return Processes(not is_local or (mesh is not None and mesh.is_multi_process))


def _of_first(array: np.ndarray) -> np.ndarray:
    from jax.experimental import multihost_utils

    return np.asarray(multihost_utils.broadcast_one_to_all(array))
