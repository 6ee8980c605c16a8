"""How deceptive a maze is: what following the distance leads to, from cell to cell."""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

Cell = tuple[int, ...]


class Deception(NamedTuple):
    """What following the distance leads to, on the grid of cells.

    Attributes:
        trap: the cell (row, column) where each neighbour is farther from the goal; the
            goal itself if there is no trap.
        gap: by how much the distance must rise again, at least, on any way from the
            trap to the goal, in cells.
        length: steps from cell to cell of the shortest way from start to goal.
        followed: steps to the goal along a wall, with the better of the two hands.
    """

    trap: Cell
    gap: float
    length: int
    followed: float


def deception_of(walls: np.ndarray, start: Cell, goal: Cell) -> Deception:
    """Certifies where following the distance leads.

    Args:
        walls: ``bool[H, W]`` with a closed border.
        start: cell ``(row, column)``.
        goal: cell ``(row, column)``.

    Raises:
        ValueError: where no way leads to the goal.
    """

    def distance(cell: Cell) -> float:
        return math.dist(cell, goal)

    trap = start
    while trap != (near := min([trap, *_neighbours(walls, trap)], key=distance)):
        trap = near
    length = _least(walls, start, goal, lambda so_far, cell: so_far + 1)
    highest = _least(
        walls, trap, goal, lambda so_far, cell: max(so_far, distance(cell))
    )
    gap = max(0.0, highest - distance(trap))
    followed = min(_followed(walls, start, goal, hand) for hand in (1, -1))
    return Deception(trap, gap, int(length), followed)


def _neighbours(walls: np.ndarray, cell: Cell) -> list[Cell]:
    row, column = cell
    around = [(row - 1, column), (row + 1, column), (row, column - 1)]
    around.append((row, column + 1))
    return [one for one in around if not walls[one]]


def _followed(walls: np.ndarray, start: Cell, goal: Cell, hand: int) -> float:
    """Returns the steps of a walk with one hand at the wall, towards +column."""
    turns = ((0, 1), (1, 0), (0, -1), (-1, 0))  # a quarter to the right each
    (row, column), facing = start, 0
    for number in range(4 * walls.size):
        if (row, column) == goal:
            return number
        for turn in (hand, 0, -hand, 2):
            down, right = turns[(facing + turn) % 4]
            if not walls[row + down, column + right]:
                break
        facing = (facing + turn) % 4
        row, column = row + down, column + right
    return math.inf


def _least(
    walls: np.ndarray,
    first: Cell,
    last: Cell,
    cost: Callable[[float, Cell], float],
) -> float:
    """Returns the least cost of a way, by Dijkstra's algorithm."""
    open_: list[tuple[float, Cell]] = [(0.0, first)]
    done = set()
    while open_:
        so_far, cell = heapq.heappop(open_)
        if cell == last:
            return so_far
        if cell not in done:
            done.add(cell)
            for one in _neighbours(walls, cell):
                heapq.heappush(open_, (cost(so_far, one), one))
    raise ValueError(f"goal must be within reach of the start; got {last}")
