"""The maze: the walk beside a plain loop, walls, and what its certificate says."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gfopt.core.objective import Inputs
from gfopt.problems.environments import maze as mazes
from gfopt.problems.environments.deception import Deception
from gfopt.problems.environments.policies import continuous_action
from gfopt.problems.networks import mlp

CORRIDOR = """
########
#S....G#
########
"""


def loop(maze: mazes.Maze, act: Any) -> np.ndarray:
    """The walk as its docstring says, in float64."""

    def is_wall(row: float, column: float) -> bool:
        return bool(maze.walls[int(row // 1), int(column // 1)])

    row, column = np.asarray(maze.start) + 0.5
    heading, places = 0.0, []
    goal = np.asarray(maze.goal) + 0.5
    for _ in range(maze.num_steps):
        rays = []
        for angle in mazes.RAY_ANGLES:
            seen = 1.0
            for number in range(1, 7):
                r = row + 0.5 * number * math.sin(heading + angle)
                c = column + 0.5 * number * math.cos(heading + angle)
                r = min(max(r, 0), maze.walls.shape[0] - 1)
                c = min(max(c, 0), maze.walls.shape[1] - 1)
                if is_wall(r, c):
                    seen = (number - 1) / 6
                    break
            rays.append(seen)
        bearing = math.atan2(goal[0] - row, goal[1] - column) - heading
        turn, drive = act(np.array([*rays, math.sin(bearing), math.cos(bearing)]))
        heading += mazes.TURN * turn
        far = 0.0 if math.dist(goal, (row, column)) < 0.5 else mazes.SPEED * drive
        if not is_wall(row + far * math.sin(heading), column):
            row += far * math.sin(heading)
        if not is_wall(row, column + far * math.cos(heading)):
            column += far * math.cos(heading)
        places.append((row, column))
    return np.array(places)


def test_the_walk_beside_a_loop() -> None:
    maze = mazes.deceptive_maze(60)
    for seed in range(3):
        network = mlp(jax.random.key(seed), (mazes.NUM_OBSERVATIONS, 4, 2))
        ours = maze.walk(continuous_action, network)
        theirs = loop(maze, lambda seen, net=network: continuous_action(net, seen))
        # float32 and float64 part ways at a wall sooner or later
        np.testing.assert_allclose(ours[:25], theirs[:25], atol=2e-4)


def test_no_robot_is_ever_in_a_wall() -> None:
    maze = mazes.random_maze(1, num_steps=400)
    keys = jax.random.split(jax.random.key(0), 50)
    networks = jax.vmap(lambda key: mlp(key, (mazes.NUM_OBSERVATIONS, 6, 2)))(keys)
    networks = jax.tree.map(lambda leaf: 3 * leaf, networks)
    walk = jax.jit(jax.vmap(lambda net: maze.walk(continuous_action, net)))
    places = np.floor(np.asarray(walk(networks))).astype(int)
    assert not maze.walls[places[..., 0], places[..., 1]].any()
    assert len(np.unique(places.reshape(-1, 2), axis=0)) > 15  # they get about


def test_who_arrives_stays_and_ends_there() -> None:
    maze = mazes.Maze.from_text(CORRIDOR, 40)
    objective = maze.objective(lambda parameters, seen: parameters)
    distance, end = objective.value(jnp.array([0.0, 1.0]), None, Inputs())
    np.testing.assert_allclose(distance, jnp.linalg.norm(end - maze.goal - 0.5))
    assert distance < mazes.RADIUS
    distance, end = objective.value(jnp.array([0.0, -1.0]), None, Inputs())
    assert distance >= 5 and end[0] == 1.5


def test_the_certificate_of_our_own_layout() -> None:
    found = mazes.deceptive_maze().deception()
    # along the upper corridor to the wall beside the goal, two cells away
    assert found.trap == (1, 3) and found.length == 56
    # any way leads through the lower middle, 14 rows and 6 columns from the goal
    assert found.gap == pytest.approx(math.hypot(14, 6) - 2)
    straight = mazes.Maze.from_text(CORRIDOR).deception()
    assert straight == Deception((1, 6), 0.0, 5, 5)


def test_a_wall_is_followed_by_either_hand() -> None:
    # from S, the right hand finds G after the dead end below, the left hand at once
    maze = mazes.Maze.from_text("#####\n#S.G#\n#.###\n#####")
    assert maze.deception().followed == 2
    island = mazes.Maze.from_text(
        "#######\n#S....#\n#.#.#.#\n#..G..#\n#.#.#.#\n#.....#\n#######"
    )
    assert island.deception().followed == math.inf


@pytest.mark.parametrize("seed", range(6))
def test_generated_mazes_are_what_they_say(seed: int) -> None:
    maze = mazes.random_maze(seed)
    found = maze.deception()
    assert found.trap != tuple(maze.goal) and found.gap >= 4
    assert 54 <= found.length <= 60 and found.followed > 120
    np.testing.assert_array_equal(maze.walls, mazes.random_maze(seed).walls)
    assert not np.array_equal(maze.walls, mazes.random_maze(seed + 1).walls)


def test_wrong_mazes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"^text must have lines of one length"):
        mazes.Maze.from_text("###\n#S")
    with pytest.raises(ValueError, match=r"^text must have one G; got 0"):
        mazes.Maze.from_text("###\n#S#\n###")
    with pytest.raises(ValueError, match=r"^walls must close the border"):
        mazes.Maze.from_text("####\n#SG.\n####")
    with pytest.raises(ValueError, match=r"^goal must be within reach"):
        mazes.Maze.from_text("#####\n#S#G#\n#####").deception()
    with pytest.raises(ValueError, match=r"^size must be odd"):
        mazes.random_maze(0, size=8)
    with pytest.raises(ValueError, match=r"^least_gap and least_length"):
        mazes.random_maze(0, size=7)
