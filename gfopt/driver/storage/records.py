"""How a file of records is laid out; ``storage`` is what the others use.

After the magic number, format version and header come the records::

    file    = magic[8]  version u32  frame(header as JSON)  frame(record) ...
    frame   = length  payload  crc32 u32
    length  = n u8, n ^ 0xA5 u8                              if n < 255
            = 255 u8, 255 ^ 0xA5 u8, n u64, crc32(n) u32     otherwise
    record  = 0 u8, i u8, size u32, description as JSON, array bytes ...
            | i u8, array bytes ...                          the description i

The checksum of a frame goes over its length and its payload and starts from that of the
frame before, the first from magic number and version: no byte is outside of it, and a
record that is missing or in another's place is seen at the next one. The length has its
own check: without it a flipped bit there would look like a record that was cut short.

A description is the kind, the meta and the arrays' names, dtypes and shapes. It says by
which number ``i`` it is known from there on (0: by none), so a step of (seed u32, f32,
f32), each a 0-d array, costs 19 bytes although it is a record of its own that survives
a kill; and a record after a damaged one is still read, or reported as lost.
Integers are little-endian; there is no pickle.
"""

from __future__ import annotations

import json
import math
import os
import re
import struct
import zlib
from dataclasses import dataclass, field
from io import FileIO
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from gfopt import checks

JSON: TypeAlias = dict[str, Any]  # an object in JSON

MAGIC = b"gfopt\r\n\x00"  # text-mode copies and C strings break it, visibly
VERSION = 2
_LONG = 255  # the short length that says that a long one follows
_CHECK = 0xA5  # not 0, so that a tail of zero bytes does not read as an empty record
_DTYPE = re.compile(r"[<>|]?[A-Za-z]\w*(\[\w+\])?")  # "<f4", "bfloat16", "<M8[ns]"
_NUMBERS = 255  # of descriptions that a byte can name


class Record(NamedTuple):
    """One record: what it is, a JSON object, and arrays by name.

    Attributes:
        kind: what the record is, ``"step"``.
        meta: a JSON object with string keys; a tuple comes back as a list.
        arrays: arrays of any dtype but object; bitwise the same when read.
    """

    kind: str
    meta: JSON
    arrays: dict[str, np.ndarray]


@dataclass
class Chain:
    """What the next frame follows from: a checksum, and descriptions by number."""

    crc: int = 0
    known: dict[int, bytes] = field(default_factory=dict)

    def number(self) -> int:
        """Returns the next free number of a description, 0 where there is none."""
        free = (n for n in range(1, _NUMBERS + 1) if n not in self.known)
        return next(free, 0)


class Torn(Exception):
    """The file ends inside a frame."""

    def __init__(self) -> None:
        super().__init__("cut short")


class Corrupt(Exception):
    """The bytes of a frame are not those that were written."""

    def __init__(self, what: str):
        super().__init__(f"wrong {what}")


class Scan(NamedTuple):
    """The outcome of a scan.

    Attributes:
        records: all that are whole.
        lost: a line for each piece that is not.
        num_sound: how many records stand before the first of those pieces.
    """

    records: list[Record]
    lost: list[str]
    num_sound: int


def frame(parts: list[bytes | memoryview], chain: Chain) -> list[bytes | memoryview]:
    """Returns a payload's parts between their length and checksum; moves the chain."""
    length = sum(len(part) for part in parts)
    short = min(length, _LONG)
    head = bytes([short, short ^ _CHECK])
    if short == _LONG:
        size = struct.pack("<Q", length)
        head += size + struct.pack("<I", zlib.crc32(size))
    for part in (head, *parts):
        chain.crc = zlib.crc32(part, chain.crc)
    return [head, *parts, struct.pack("<I", chain.crc)]


def verify_frame(file: FileIO, chain: Chain) -> int:
    """Checks the frame at the file's position; moves the chain past it.

    Args:
        file: where to read; left at the start of the payload.
        chain: of the frames before.

    Returns:
        The payload's length.

    Raises:
        Torn: the file ends inside the frame.
        Corrupt: the frame is not as it was written.
            After both, the file is left where the next frame may begin.
    """
    size, crc = size_of(file), chain.crc
    try:
        head = read_exactly(file, 2)
        length = head[0]
        if head[1] != head[0] ^ _CHECK:
            # A power cut may leave zeros where data was to come.
            raise Torn if head == b"\0\0" and _only_zeros(file) else Corrupt("length")
        if length == _LONG:
            rest = read_exactly(file, 12)
            head += rest
            (length, check) = struct.unpack("<QI", rest)
            if zlib.crc32(rest[:8]) != check:
                raise Corrupt("length")
        start, crc, left = file.tell(), zlib.crc32(head, crc), length
        if start + length + 4 > size:
            raise Torn
    except BaseException:
        file.seek(size)  # where the next one begins is unknown
        raise
    while left:  # in blocks: a record may be a whole model
        block = read_exactly(file, min(left, 1 << 20))
        crc, left = zlib.crc32(block, crc), left - len(block)
    (chain.crc,) = struct.unpack("<I", read_exactly(file, 4))
    if chain.crc != crc:
        raise Corrupt("checksum")
    file.seek(start)
    return length


def encode(record: Record, chain: Chain) -> list[bytes | memoryview]:
    """Returns a record's payload in parts; adds its description to the chain's."""
    kind, meta, arrays = record
    checks.instance("record.kind", kind, str, "a string")
    checks.instance("record.meta", meta, dict, "a dict")
    checks.instance("record.arrays", arrays, dict, "a dict of arrays")
    held = {str(name): np.asarray(array, order="C") for name, array in arrays.items()}
    named = [[name, _dtype_name(a.dtype), a.shape] for name, a in held.items()]
    description = to_json("record.meta", [kind, meta, named])
    number = next((n for n, text in chain.known.items() if text == description), 0)
    head = bytes([number])
    if not number:
        if number := chain.number():
            chain.known[number] = description
        head = struct.pack("<BBI", 0, number, len(description)) + description
    return [head, *(_raw(array) for array in held.values())]


def decode(file: FileIO, length: int, chain: Chain) -> Record:
    """Reads the verified payload at the file's position; extends the descriptions.

    Raises:
        Corrupt: no record can be made of it.
    """
    end = file.tell() + length
    try:
        (number,) = read_exactly(file, 1)
        if number:
            description = chain.known[number]
        else:
            number, size = struct.unpack("<BI", read_exactly(file, 5))
            if file.tell() + size > end:
                raise Corrupt("description")
            description = read_exactly(file, size)
            if number:
                chain.known[number] = description
        kind, meta, named = json.loads(description)
        types = {name: (_dtype(text), tuple(shape)) for name, text, shape in named}
        if not (isinstance(kind, str) and isinstance(meta, dict)):
            raise Corrupt("description")
        if file.tell() + sum(_num_bytes(*of) for of in types.values()) != end:
            raise Corrupt("size")  # before memory is taken for it
        arrays = {
            name: np.empty(shape, dtype) for name, (dtype, shape) in types.items()
        }
    except (KeyError, TypeError, ValueError, OverflowError, RecursionError):
        raise Corrupt("description") from None
    for array in arrays.values():
        _fill(file, _raw(array))
    return Record(kind, meta, arrays)


def read_header(file: FileIO, path: Path, chain: Chain) -> JSON:
    """Reads from the start up to the first record; raises Torn or ValueError."""
    start = file.read(len(MAGIC)) or b""
    if start != MAGIC[: len(start)]:
        raise ValueError(
            f"{path} is not a gfopt record file: it starts with {start!r}, expected"
            f" {MAGIC!r}"
        )
    text = read_exactly(file, 4)
    (version,) = struct.unpack("<I", text)
    if version != VERSION:
        age = "older, from before 0.1.0" if version < VERSION else "newer"
        raise ValueError(
            f"{path} has format version {version}, this gfopt reads {VERSION}:"
            f" read it with the {age} gfopt that wrote it"
        )
    chain.crc, offset = zlib.crc32(start + text), file.tell()
    try:
        length = verify_frame(file, chain)
        header = json.loads(read_exactly(file, length))
        if not isinstance(header, dict):
            raise Corrupt("type")
    except (Corrupt, ValueError, RecursionError) as error:
        what = error if isinstance(error, Corrupt) else "wrong text"
        raise ValueError(
            f"{path} is damaged at offset {offset}, in its header: {what}"
        ) from None
    file.seek(4, os.SEEK_CUR)  # the checksum
    return header


def scan(file: FileIO, chain: Chain) -> Scan:
    """Reads the records from the file's position on.

    A damaged one is left out. The file and the chain are left after the last whole
    record, where the next can be written.
    """
    size, records, lost = size_of(file), list[Record](), list[str]()
    num_sound, end, crc = None, file.tell(), chain.crc
    while (offset := file.tell()) < size:
        try:
            length = verify_frame(file, chain)
            after = file.tell() + length + 4
            try:
                records.append(decode(file, length, chain))
            finally:
                file.seek(after)
        except (Torn, Corrupt) as error:
            num_sound = len(records) if num_sound is None else num_sound
            lost.append(f"{file.tell() - offset} bytes at offset {offset} ({error})")
        else:
            end, crc = after, chain.crc
    file.seek(end)
    chain.crc = crc
    return Scan(records, lost, len(records) if num_sound is None else num_sound)


def size_of(file: FileIO) -> int:
    """Returns the file's size at this moment."""
    return os.fstat(file.fileno()).st_size


def to_json(name: str, value: object) -> bytes:
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


def _num_bytes(dtype: np.dtype, shape: tuple[int, ...]) -> int:
    _dtype_name(dtype)  # refuses what no record may hold
    if not all(type(n) is int and n >= 0 for n in shape):
        raise ValueError
    return dtype.itemsize * math.prod(shape)


def _raw(array: np.ndarray) -> memoryview:
    """Returns an array's bytes, not copied (bfloat16 has no buffer of its own)."""
    if array.nbytes == 0:
        return memoryview(b"")
    return array.reshape(-1).view(np.uint8).data


def _dtype(text: str) -> np.dtype:
    """Returns the dtype of a name; NumPy itself would take an expression as well."""
    if not _DTYPE.fullmatch(text):
        raise ValueError
    return np.dtype(text)


def _dtype_name(dtype: np.dtype) -> str:
    if dtype.hasobject or dtype.fields is not None:
        raise TypeError(f"arrays must be numbers, bools or text; got dtype {dtype}")
    return dtype.str if np.dtype(dtype.str) == dtype else dtype.name  # bfloat16: name
