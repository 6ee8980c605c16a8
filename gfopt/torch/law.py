"""The law of noise, in torch: the words of ``gfopt.noise.law`` to the last bit.

    word(row, column) = threefry2x32(key=(seed, path), counter=(row, column))[0]

in integer operations that wrap, on any device. Signs are the words' bits, equal to
JAX's everywhere; normals go through ``erfinv``, which devices compute with other last
digits: a few in 10,000 differ, by one unit of their 12 significant bits.
"""

from __future__ import annotations

import math
import threading

import torch

from gfopt.noise.law import KINDS

# Words drawn at a time. On a CPU torch takes so many in one thread; arrays of the signs
# in 32,768 words are mapped and unmapped by each call, which takes three times as long.
# On another device a kernel of many words costs no more than one of few.
BLOCKS = {"cpu": 3 << 13}
BLOCK = 1 << 20

_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
_ROOT_2 = float(torch.tensor(math.sqrt(2), dtype=torch.float32))


class Room(threading.local):
    """Memory for what is used up before the next draw, taken again on a CPU.

    There an array of some megabytes is mapped anew by each call, page by page, as soon
    as others are made in between. Other devices keep theirs by themselves.
    """

    def __init__(self) -> None:
        self._kept: dict[str, torch.Tensor] = {}

    def take(
        self, name: str, shape: tuple[int, ...], like: torch.Tensor, dtype: torch.dtype
    ) -> torch.Tensor:
        """Returns an array with anything in it, on the device of another."""
        size = math.prod(shape)
        if like.device.type != "cpu":
            return torch.empty(shape, dtype=dtype, device=like.device)
        found = self._kept.get(name)
        if found is None or len(found) < size:
            self._kept[name] = found = torch.empty(size, dtype=dtype)
        return found[:size].view(shape)


ROOM = Room()


def block_rows(kind: str, columns: int, device: torch.device) -> int:
    """Returns how many rows to draw at a time."""
    words = KINDS[kind].num_words(columns)
    return max(1, BLOCKS.get(device.type, BLOCK) // words)


def words(
    seed: int, path_hash: int, rows: torch.Tensor, count: int, which: int = 0
) -> torch.Tensor:
    """Returns the words of some rows: ``int32[len(rows), count]``, bit for bit.

    Args:
        seed: 32 bits.
        path_hash: the other word of the key.
        rows: ``int32[r]``, any rows of the leaf.
        count: words in a row.
        which: of the two words of a counter, 0 or 1.

    Example:
        >>> words(7, 99, torch.arange(2, dtype=torch.int32), 2)
        tensor([[-1819850006, -1068629798],
                [ 1869234547, -1030342260]], dtype=torch.int32)

    Source: Salmon et al. (SC 2011), section 3.
    """
    keys = seed, path_hash, seed ^ path_hash ^ 0x1BD11BDA
    column = torch.arange(count, dtype=torch.int32, device=rows.device)
    x = rows.add(_signed(keys[0]))[:, None].repeat(1, count)
    y = column.add(_signed(keys[1])).repeat(len(rows), 1)
    left = torch.empty_like(y)
    for group in range(5):
        for distance in _ROTATIONS[group % 2]:
            x.add_(y)
            torch.bitwise_left_shift(y, distance, out=left)
            # a shift to the right copies the sign, which is then cut off
            y.bitwise_right_shift_(32 - distance).bitwise_and_((1 << distance) - 1)
            y.bitwise_or_(left).bitwise_xor_(x)
        x.add_(_signed(keys[(group + 1) % 3]))
        y.add_(_signed(keys[(group + 2) % 3] + group + 1))
    return y if which else x


def noise_rows(
    kind: str,
    seed: int,
    path_hash: int,
    rows: torch.Tensor,
    columns: int,
    room: Room | None = None,
) -> torch.Tensor:
    """Draws the standard noise of some rows: ``float32[len(rows), columns]``.

    Args:
        kind: ``"gaussian"`` or ``"rademacher"``.
        seed: 32 bits.
        path_hash: crc32 of the leaf's path.
        rows: ``int32[r]``.
        columns: number of columns of the leaf.
        room: where to write them, until the next draw; None for arrays of their own.

    Example:
        >>> noise_rows("rademacher", 7, 99, torch.tensor([3], dtype=torch.int32), 4)
        tensor([[ 1.,  1.,  1., -1.]])
    """
    drawn = words(seed, path_hash, rows, KINDS[kind].num_words(columns))
    if kind == "gaussian":
        return _normal(drawn)
    # bit b of word w is the sign of column b * num_words + w
    room = Room() if room is None else room
    shift = torch.arange(32, dtype=torch.int32, device=drawn.device)[:, None]
    signs = room.take("signs", (32, drawn.numel()), drawn, torch.int32)
    torch.bitwise_left_shift(drawn.reshape(-1), shift, out=signs)
    ones = signs.bitwise_and_(-(1 << 31)).bitwise_or_(0x3F800000).view(torch.float32)
    size, count = drawn.shape
    found = room.take("noise", (size, 32, count), drawn, torch.float32)
    found.copy_(ones.view(32, size, count).permute(1, 0, 2))
    return found.view(size, -1)[:, :columns]


def _normal(drawn: torch.Tensor) -> torch.Tensor:
    # z = sqrt(2) erfinv(u), u in (-1, 1) from 23 bits
    one_to_two = (drawn >> 9).bitwise_and_(0x7FFFFF).bitwise_or_(0x3F800000)
    u = one_to_two.view(torch.float32).sub_(1).mul_(2).sub_(1 - 2**-23)
    return round_significant(u.erfinv_().mul_(_ROOT_2))


def round_significant(x: torch.Tensor) -> torch.Tensor:
    """Rounds float32 numbers to 12 significant bits, ties to even."""
    bits = x.view(torch.int32)
    odd = (bits >> 12).bitwise_and_(1)
    return odd.add_(bits).add_(0x7FF).bitwise_and_(~0xFFF).view(torch.float32)


def _signed(word: int) -> int:
    """Returns the number of 32 bits that an ``int32`` of the same bits is."""
    return (word + 0x80000000) % 0x100000000 - 0x80000000
