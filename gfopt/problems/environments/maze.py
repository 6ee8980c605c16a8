"""Deceptive mazes: the shortest way to the goal's neighbourhood is a dead end.

A robot sees the walls by rays and the goal's direction as if there were none; its
policy turns and drives. The fitness is the distance to the goal at the end, and the
behaviour is where that is. Everything is pure JAX: thousands of robots walk at once.

The robot and its task follow the idea of Lehman & Stanley (2011), "Abandoning
objectives", section 4; layouts, sensors and numbers are our own.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from gfopt import checks
from gfopt.core.objective import Objective
from gfopt.problems.environments.deception import Deception, deception_of
from gfopt.problems.environments.policies import Policy
from gfopt.pytree import pytree, static
from gfopt.types import Array, PyTree

RAY_ANGLES = tuple(math.radians(angle) for angle in (-90, -45, 0, 45, 90, 180))
NUM_OBSERVATIONS = len(RAY_ANGLES) + 2
REACH = 3.0  # cells that a ray sees
RAY_STEP = 0.5  # cells
SPEED = 0.3  # cells a step, below the thickness of a wall
TURN = math.radians(30)  # a step
NUM_DRAWS = 20_000  # of a random maze, before its wishes are refused
RADIUS = 0.5  # of the goal, in cells: who comes there has arrived

LAYOUT = """
#################
#G#..........S#.#
#.#.#.#######.#.#
#.#.#.#.....#...#
#.###.#####.###.#
#...#.....#...#.#
###.#.###.#.#.#.#
#.#.#.#...#.#.#.#
#.#.#.#.#####.#.#
#.#.#.#...#...#.#
#.#.#.###.#.###.#
#...#.#...#...#.#
#.###.#.###.#.#.#
#...#.#.#...#.#.#
###.###.#.###.#.#
#.......#...#...#
#################
"""


@pytree(eq=False)
class Maze:
    """A maze and its task.

    Args:
        walls: ``bool[H, W]``; its border must be walls.
        start: cell ``(row, column)``.
        goal: cell ``(row, column)``.
        num_steps: of a walk.

    Raises:
        ValueError: for a border with holes, or a start or goal in a wall.

    Example:
        >>> maze = Maze.from_text(LAYOUT)
        >>> maze.deception()
        Deception(trap=(1, 3), gap=13.23..., length=56, followed=172)
    """

    walls: Array
    start: Array
    goal: Array
    num_steps: int = static(default=400)

    @classmethod
    def from_text(cls, text: str, num_steps: int = 400) -> Maze:
        """Reads a layout: ``#`` is a wall, ``S`` the start, ``G`` the goal.

        Raises:
            ValueError: for lines of unequal length, no start or no goal, or a border
                with holes.
        """
        lines = text.split()
        if not lines or any(len(line) != len(lines[0]) for line in lines):
            raise ValueError(f"text must have lines of one length; got {lines!r}")
        cells = np.array([list(line) for line in lines])
        places = {mark: np.argwhere(cells == mark) for mark in "SG"}
        for mark, found in places.items():
            if len(found) != 1:
                raise ValueError(f"text must have one {mark}; got {len(found)}")
        start, goal = (tuple(map(int, places[mark][0])) for mark in "SG")
        return cls.made(cells == "#", start, goal, num_steps)

    @classmethod
    def made(
        cls,
        walls: np.ndarray,
        start: tuple[int, ...],
        goal: tuple[int, ...],
        num_steps: int = 400,
    ) -> Maze:
        """Makes a maze of NumPy arrays, checked."""
        checks.integer("num_steps", num_steps, 1)
        inner = np.zeros_like(walls)
        inner[1:-1, 1:-1] = True
        if not walls[~inner].all():
            raise ValueError("walls must close the border; got a hole in it")
        for name, cell in (("start", start), ("goal", goal)):
            if walls[cell]:
                raise ValueError(f"{name} must not be in a wall; got {cell}")
        first, last = (np.asarray(cell, np.int32) for cell in (start, goal))
        return cls(np.asarray(walls, bool), first, last, num_steps)

    def objective(self, policy: Policy) -> Objective:
        """Returns the objective: the distance to the goal, and the end as behaviour.

        Args:
            policy: ``(parameters, observation [8]) -> (turn, drive)``, each in
                [-1, 1], such as ``continuous_action`` of a network with 2 outputs.
        """
        checks.is_callable("policy", policy)
        return Objective(_Walk(self, policy), has_aux=True)

    def walk(self, policy: Policy, parameters: PyTree) -> jax.Array:
        """Returns the places ``float[num_steps, 2]`` (row, column) of a walk."""
        goal = self.goal + 0.5

        def step(now: jax.Array, _: None) -> tuple[jax.Array, jax.Array]:
            turn, drive = policy(parameters, self.observed(now))
            heading = now[2] + TURN * turn
            arrived = jnp.linalg.norm(now[:2] - goal) < RADIUS
            length = jnp.where(arrived, 0, SPEED * drive)
            # along a wall the robot slides
            row = now[0] + length * jnp.sin(heading)
            row = jnp.where(self._is_wall(row, now[1]), now[0], row)
            column = now[1] + length * jnp.cos(heading)
            column = jnp.where(self._is_wall(row, column), now[1], column)
            new = jnp.stack([row, column, heading])
            return new, new[:2]

        first = jnp.concatenate([self.start + 0.5, jnp.zeros(1)]).astype(jnp.float32)
        return lax.scan(step, first, None, self.num_steps)[1]

    def observed(self, pose: jax.Array) -> jax.Array:
        """Returns what the robot sees: rays in [0, 1], sine and cosine to the goal."""
        angles = pose[2] + jnp.array(RAY_ANGLES)
        far = jnp.arange(RAY_STEP, REACH + RAY_STEP / 2, RAY_STEP)
        rows = pose[0] + jnp.sin(angles)[:, None] * far
        columns = pose[1] + jnp.cos(angles)[:, None] * far
        hit = self._is_wall(rows, columns)
        rays = jnp.where(hit.any(axis=1), jnp.argmax(hit, axis=1) / far.size, 1)
        row, column = self.goal + 0.5 - pose[:2]
        bearing = jnp.arctan2(row, column) - pose[2]
        return jnp.concatenate([rays, jnp.stack([jnp.sin(bearing), jnp.cos(bearing)])])

    def _is_wall(self, row: jax.Array, column: jax.Array) -> jax.Array:
        height, width = self.walls.shape
        # beyond the border is border
        i = jnp.clip(jnp.floor(row).astype(jnp.int32), 0, height - 1)
        j = jnp.clip(jnp.floor(column).astype(jnp.int32), 0, width - 1)
        return jnp.asarray(self.walls)[i, j]

    def deception(self) -> Deception:
        """Certifies where following the distance leads.

        Raises:
            ValueError: where no way leads to the goal.
        """
        start, goal = (tuple(map(int, cell)) for cell in (self.start, self.goal))
        return deception_of(np.asarray(self.walls), start, goal)


@pytree(eq=False)
class _Walk:
    """The maze is data, so that all mazes of a size share one program."""

    maze: Maze
    policy: Policy = static()

    def __call__(self, parameters: PyTree) -> tuple[jax.Array, jax.Array]:
        end = self.maze.walk(self.policy, parameters)[-1]
        return jnp.linalg.norm(end - (self.maze.goal + 0.5)), end


def deceptive_maze(num_steps: int = 400) -> Maze:
    """Returns the maze of ``LAYOUT``: the goal lies behind the wall of a dead end.

    Example:
        >>> deceptive_maze().deception().length
        56
    """
    return Maze.from_text(LAYOUT, num_steps)


def random_maze(
    seed: int,
    size: int = 17,
    least_gap: float = 4.0,
    least_length: int = 54,
    num_steps: int = 400,
) -> Maze:
    """Makes a maze that is certified to be deceptive.

    Walls are those of a random spanning tree of rooms; mazes are drawn until following
    the distance ends in a trap, from which any way to the goal leads ``least_gap``
    cells farther off, until the way is short enough to be walked at half of the full
    speed, and until following a wall is too long a way at full speed.

    Args:
        seed: of the layout.
        size: rows and columns, odd, from 7 up.
        least_gap: in cells.
        least_length: of the shortest way, in cells.
        num_steps: of a walk.

    Raises:
        ValueError: for a size that is even or too small, or where many draws give no
            such maze.

    Example:
        >>> random_maze(3).deception().gap >= 3
        True
    """
    checks.integer("size", size, 7)
    if size % 2 == 0:
        raise ValueError(f"size must be odd; got {size}")
    rng = np.random.default_rng(seed)
    rooms = size // 2
    for _ in range(NUM_DRAWS):
        walls = _spanning_tree(rng, rooms)
        start, goal = (
            tuple(int(2 * number + 1) for number in rng.integers(0, rooms, 2))
            for _ in range(2)
        )
        maze = Maze.made(walls, start, goal, num_steps)
        found = maze.deception()
        far = SPEED * num_steps
        is_fit = least_length <= found.length <= far / 2 and found.followed > far
        if found.trap != goal and found.gap >= least_gap and is_fit:
            return maze
    raise ValueError(
        "least_gap and least_length must be possible in a maze of size "
        f"{size} with {num_steps} steps; "
        f"got {least_gap} and {least_length}, found in none of {NUM_DRAWS} mazes"
    )


def _spanning_tree(rng: np.random.Generator, rooms: int) -> np.ndarray:
    """Draws walls of rooms that are joined by a tree, by a walk that backtracks."""
    walls = np.ones((2 * rooms + 1, 2 * rooms + 1), bool)
    walls[1, 1] = False
    way = [(1, 1)]
    while way:
        row, column = way[-1]
        steps = [
            (down, right)
            for down, right in ((2, 0), (-2, 0), (0, 2), (0, -2))
            if 0 < row + down < len(walls)
            and 0 < column + right < len(walls)
            and walls[row + down, column + right]
        ]
        if not steps:
            way.pop()
            continue
        down, right = steps[rng.integers(len(steps))]
        walls[row + down // 2, column + right // 2] = False
        walls[row + down, column + right] = False
        way.append((row + down, column + right))
    return walls
