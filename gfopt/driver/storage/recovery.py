"""What is left of a damaged file: its whole records, or those of the save before."""

from __future__ import annotations

import warnings
from pathlib import Path

from gfopt.driver.storage.records import JSON, Record
from gfopt.driver.storage.storage import Contents, previous, read_records
from gfopt.driver.storage.tree_records import differences


def is_of(path: Path, header: JSON) -> bool:
    """Tells whether a file can be read and has this header."""
    try:
        return not differences(header, read_records(path).header)
    except (OSError, ValueError):
        return False


def recovered(
    path: Path, header: JSON, contents: Contents | None, kind: str
) -> tuple[list[Record], bool]:
    """Returns a file's records; where all of a ``kind`` are lost, those of before too.

    Args:
        path: the file.
        header: its header.
        contents: what it holds; None where nothing is left of it.
        kind: what the file must hold if its ``previous`` one does.

    Returns:
        The records, those of the previous file first, and whether anything was lost.
        A warning says what.
    """
    records = [] if contents is None else contents.records
    lost = ["everything"] if contents is None else list(contents.lost)
    before = previous(path)
    if all(record.kind != kind for record in records) and is_of(before, header):
        earlier = read_records(before)
        if any(record.kind == kind for record in earlier.records):
            lost.append(f"the last {kind}, for which that of {before} is taken")
            lost += [f"of that file, {piece}" for piece in earlier.lost]
            records = [*earlier.records, *records]
    if lost:
        warnings.warn(
            f"{path} is damaged or was cut short; lost: {'; '.join(lost)}. What is"
            " missing is computed again",
            stacklevel=2,
        )
    return records, bool(lost)
