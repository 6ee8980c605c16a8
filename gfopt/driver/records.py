"""How a file of records is laid out; ``storage`` is what the others use.

After the magic number, format version and header come the records::

    file    = magic[8]  version u32  frame(header as JSON)  frame(record) ...
    frame   = length  payload  crc32(payload) u32
    length  = n u8, n ^ 0xA5 u8                              if n < 255
            = 255 u8, 255 ^ 0xA5 u8, n u64, crc32(n) u32     otherwise
    record  = 0 u8, size u32, description as JSON, array bytes ...
            | i u8, array bytes ...                          i-th description so far

A description is the kind, the meta and the arrays' names, dtypes and shapes. One that
was written before is named by a single byte, so a step of (seed u32, f32, f32), each
a 0-d array, costs 19 bytes although it is a record of its own that survives a kill.
The length carries its own check: without it a flipped bit there would look like a
record that was cut short, and everything behind it would be dropped in silence.
Integers are little-endian; there is no pickle.
"""

from __future__ import annotations

import json
import os
import struct
import zlib
from collections.abc import Iterator
from io import FileIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from gfopt import checks

MAGIC = b"gfopt\r\n\x00"  # text-mode copies and C strings break it, visibly
VERSION = 1
_LONG = 255  # the short length that says that a long one follows
_CHECK = 0xA5  # not 0, so that a tail of zero bytes is no empty record
_REMEMBERED = 255  # descriptions that a byte can name


class Record(NamedTuple):
    """One record: what it is, a JSON object, and arrays by name.

    Attributes:
        kind: what the record is, ``"step"``.
        meta: a JSON object with string keys; a tuple comes back as a list.
        arrays: arrays of any dtype but object; bitwise the same when read.
    """

    kind: str
    meta: dict[str, Any]
    arrays: dict[str, np.ndarray]


class Torn(Exception):
    """The file ends inside a frame."""


class Corrupt(Exception):
    """The bytes of a frame are not those that were written."""


def frame(parts: list[bytes | memoryview]) -> list[bytes | memoryview]:
    """Returns a payload's parts between their length and their checksum."""
    length, crc = sum(len(part) for part in parts), 0
    for part in parts:
        crc = zlib.crc32(part, crc)
    short = min(length, _LONG)
    head = bytes([short, short ^ _CHECK])
    if short == _LONG:
        size = struct.pack("<Q", length)
        head += size + struct.pack("<I", zlib.crc32(size))
    return [head, *parts, struct.pack("<I", crc)]


def verify_frame(file: FileIO) -> int:
    """Checks the frame at the file's position.

    Args:
        file: where to read; left at the start of the payload.

    Returns:
        The payload's length.

    Raises:
        Torn: the file ends inside the frame.
        Corrupt: the frame is not as it was written.
    """
    size = size_of(file)
    short, check = read_exactly(file, 2)
    if check != short ^ _CHECK:
        # A power cut may leave zeros where data was to come: nothing follows them.
        raise Torn if short == check == 0 and _only_zeros(file) else Corrupt("length")
    length = short
    if short == _LONG:
        text, crc = struct.unpack("<8sI", read_exactly(file, 12))
        if zlib.crc32(text) != crc:
            raise Corrupt("length")
        (length,) = struct.unpack("<Q", text)
    start, crc, left = file.tell(), 0, length
    if start + length + 4 > size:
        raise Torn
    while left:  # in blocks: a record may be a whole model
        block = read_exactly(file, min(left, 1 << 20))
        crc, left = zlib.crc32(block, crc), left - len(block)
    if read_exactly(file, 4) != struct.pack("<I", crc):
        # The last record of all: written in part, the rest never reached the disk.
        raise Torn if start + length + 4 == size else Corrupt("checksum")
    file.seek(start)
    return length


def encode(record: Record, known: list[bytes]) -> list[bytes | memoryview]:
    """Returns a record's payload in parts; adds its description to ``known``."""
    kind, meta, arrays = record
    checks.instance("record.kind", kind, str, "a string")
    checks.instance("record.meta", meta, dict, "a dict")
    checks.instance("record.arrays", arrays, dict, "a dict of arrays")
    held = {str(name): np.asarray(array, order="C") for name, array in arrays.items()}
    named = [[name, _dtype_name(a.dtype), a.shape] for name, a in held.items()]
    description = to_json("record.meta", [kind, meta, named])
    if description in known:
        head = bytes([known.index(description) + 1])
    else:
        head = b"\0" + struct.pack("<I", len(description)) + description
        _remember(description, known)
    return [head, *(_raw(array) for array in held.values())]


def decode(file: FileIO, known: list[bytes]) -> Record:
    """Reads the verified payload at the file's position; extends ``known``."""
    (reference,) = read_exactly(file, 1)
    if reference == 0:
        (size,) = struct.unpack("<I", read_exactly(file, 4))
        description = read_exactly(file, size)
        _remember(description, known)
    else:
        description = known[reference - 1]
    kind, meta, named = json.loads(description)
    arrays = {name: np.empty(shape, np.dtype(dtype)) for name, dtype, shape in named}
    for array in arrays.values():
        _fill(file, _raw(array))
    return Record(kind, meta, arrays)


def read_header(file: FileIO, path: Path) -> dict[str, Any]:
    """Reads from the start up to the first record; raises Torn or ValueError."""
    start = file.read(len(MAGIC)) or b""
    if start != MAGIC[: len(start)]:
        raise ValueError(
            f"{path} is not a gfopt record file: it starts with {start!r}, expected"
            f" {MAGIC!r}"
        )
    (version,) = struct.unpack("<I", read_exactly(file, 4))
    if not 1 <= version <= VERSION:
        raise ValueError(
            f"{path} has format version {version}, this gfopt reads 1 to {VERSION}:"
            " read it with the newer gfopt that wrote it"
        )
    offset = file.tell()
    try:
        length = verify_frame(file)
    except Corrupt as error:
        raise ValueError(
            f"{path} is corrupted at offset {offset}: the header's {error} is wrong"
        ) from None
    header: dict[str, Any] = json.loads(read_exactly(file, length))
    file.seek(4, os.SEEK_CUR)  # the checksum
    return header


def scan(file: FileIO, path: Path, known: list[bytes]) -> Iterator[Record]:
    """Yields the records from the file's position on; ends behind the last whole one.

    ``known`` collects the descriptions that later records refer to.
    """
    size = size_of(file)
    while (offset := file.tell()) < size:
        try:
            length = verify_frame(file)
            end = file.tell() + length + 4
            record = decode(file, known)
        except Torn:
            file.seek(offset)
            return
        except Corrupt as error:
            raise ValueError(
                f"{path} is corrupted at offset {offset} of {size}: the record's"
                f" {error} is wrong"
            ) from None
        file.seek(end)
        yield record


def size_of(file: FileIO) -> int:
    """Returns the file's size at this moment."""
    return os.fstat(file.fileno()).st_size


def to_json(name: str, value: Any) -> bytes:
    """Returns compact JSON, or raises TypeError naming ``name``."""
    try:
        return json.dumps(value, separators=(",", ":")).encode()
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"{name} must hold what JSON holds (dicts with string keys, lists, text,"
            f" numbers, bools, None); arrays go to arrays; got {checks.shown(value)}:"
            f" {error}"
        ) from error


def read_exactly(file: FileIO, size: int) -> bytes:
    """Reads ``size`` bytes, or raises Torn."""
    data = bytearray(size)
    _fill(file, memoryview(data))
    return bytes(data)


def _fill(file: FileIO, view: memoryview) -> None:
    while view:
        count = file.readinto(view)
        if not count:
            raise Torn
        view = view[count:]


def _only_zeros(file: FileIO) -> bool:
    block = b"\0"
    while block and block.count(0) == len(block):
        block = file.read(1 << 20)
    return not block


def _remember(description: bytes, known: list[bytes]) -> None:
    if len(known) < _REMEMBERED:
        known.append(description)


def _raw(array: np.ndarray) -> memoryview:
    """Returns an array's bytes, not copied (bfloat16 has no buffer of its own)."""
    if array.nbytes == 0:
        return memoryview(b"")
    return array.reshape(-1).view(np.uint8).data


def _dtype_name(dtype: np.dtype) -> str:
    if dtype.hasobject or dtype.fields is not None:
        raise TypeError(f"arrays must be numbers, bools or text; got dtype {dtype}")
    return dtype.str if np.dtype(dtype.str) == dtype else dtype.name  # bfloat16: name
