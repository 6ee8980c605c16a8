"""The texts of a search and what was said of them: in memory, and in a file."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from gfopt.driver.storage.records import JSON, Record
from gfopt.driver.storage.storage import RecordWriter
from gfopt.driver.storage.tree_records import differences


class Scored(NamedTuple):
    """A text that was evaluated.

    Attributes:
        text: what was proposed.
        value: its score, in the caller's sense; NaN where it failed.
        feedback: what the score says of it; where it failed, why.
        round: in which it was proposed, from 0.

    Example:
        >>> from gfopt.texts import Scored
        >>> Scored("1 / 0", float("nan"), "ZeroDivisionError: division by zero").failed
        True
    """

    text: str
    value: float
    feedback: str = ""
    round: int = 0

    @property
    def failed(self) -> bool:
        """Whether it has no value."""
        return not math.isfinite(self.value)


class Ledger:
    """What a search has evaluated, also on disk; a context manager.

    Args:
        path: the file, continued if it exists; None for none.
        header: what the search is.

    Attributes:
        texts: what was evaluated, in earlier sessions too.
        left: texts of its last round that it proposed and did not evaluate.
        round: the last one that was proposed, -1 for none.

    Raises:
        ValueError: for a file of another search.
        RuntimeError: another process is writing it.
    """

    def __init__(self, path: str | os.PathLike[str] | None, header: JSON):
        self.texts: list[Scored] = []
        self.left: list[str] = []
        self.round = -1
        self._writer: RecordWriter | None = None
        if path is None:
            return
        try:
            self._writer = RecordWriter.create(path, header)
        except FileExistsError:
            self._writer = self._continued(Path(path), header)

    def _continued(self, path: Path, header: JSON) -> RecordWriter:
        writer, contents = RecordWriter.append_to(path)
        try:
            if lines := differences(header, contents.header):
                raise ValueError(
                    "\n  ".join([f"checkpoint {path} is of another run:", *lines])
                )
            sound = contents.records[: contents.num_sound]
            for record in sound:
                self._read(record)
            if contents.lost:
                warnings.warn(
                    f"{path} is damaged or was cut short; lost: "
                    f"{'; '.join(contents.lost)}. Its first {len(self.texts)} "
                    "evaluations are kept",
                    stacklevel=4,
                )
            if contents.num_sound < len(contents.records):
                whole = RecordWriter.replace(path, header, sound, keep=True)
                writer.close()
                return whole
        except BaseException:
            writer.close()
            raise
        return writer

    def _read(self, record: Record) -> None:
        if record.kind == "proposed":
            self.left, self.round = list(record.meta["texts"]), self.round + 1
            return
        value, feedback = record.meta["value"], record.meta["feedback"]
        value = math.nan if value is None else float(value)
        self.texts.append(Scored(self.left.pop(0), value, feedback, self.round))

    def proposed(self, texts: Sequence[str]) -> None:
        """Notes the texts of the next round, before they are evaluated."""
        self.left, self.round = list(texts), self.round + 1
        if self._writer is not None:
            self._writer.write(Record("proposed", {"texts": list(texts)}, {}))

    def scored(self, found: Scored) -> None:
        """Notes what came of the next of them."""
        self.texts.append(found)
        del self.left[0]
        if self._writer is not None:
            value = None if found.failed else found.value
            meta = {"value": value, "feedback": found.feedback}
            self._writer.write(Record("scored", meta, {}))

    def __enter__(self) -> Ledger:
        return self

    def __exit__(self, *_: object) -> None:
        if self._writer is not None:
            self._writer.close()
