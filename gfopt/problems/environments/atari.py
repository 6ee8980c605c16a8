"""Atari games: what a network on the screen scores, for ``minimize`` on the host.

A game runs in the Arcade Learning Environment. The network sees the last 4 screens,
grey, 84 x 84, from 0 to 1; what it chooses is repeated for 4 frames, and of the last
two of them the brighter pixels count. An episode begins with 1 to 30 frames without
action and ends with the game, or after a number of steps.

Sources: Mnih et al. (2015), Nature 518, methods, for what the network sees; Such et al.
(2017), arXiv 1712.06567, for the protocol, and its code for the networks and the
adaptive number of steps. Deviations: screens are reduced by the mean over areas; the
last layer is drawn as the others are, not at a tenth of their scale.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.typing import ArrayLike

from gfopt import checks
from gfopt.core.objective import Objective
from gfopt.problems.environments import host_pixels
from gfopt.problems.environments.atari_emulator import (
    FRAMES_PER_STEP,
    SIDE,
    loaded_game,
)
from gfopt.problems.environments.host_episodes import HostEpisodes
from gfopt.problems.environments.pixels import ConvolutionalPolicy, Statistics
from gfopt.types import Evaluation, Key, PyTree, Solution

#: The games of the usual benchmarks. A benchmark's results know a game by its place.
GAMES = tuple(
    """
    alien amidar assault asterix asteroids atlantis bank_heist battle_zone beam_rider
    berzerk bowling boxing breakout centipede chopper_command crazy_climber defender
    demon_attack double_dunk enduro fishing_derby freeway frostbite gopher gravitar hero
    ice_hockey jamesbond kangaroo krull kung_fu_master montezuma_revenge ms_pacman
    name_this_game phoenix pitfall pong private_eye qbert riverraid road_runner robotank
    seaquest skiing solaris space_invaders star_gunner surround tennis time_pilot
    tutankham up_n_down venture video_pinball wizard_of_wor yars_revenge zaxxon
    """.split()
)
_NUM_REFERENCE = 128

#: Networks by name, without their number of actions. Large and small are those of the
#: code of Such et al., 4,052,658 and 1,008,450 weights for 18 actions; tiny is for a
#: short look.
NETWORKS: Mapping[str, ConvolutionalPolicy] = MappingProxyType(
    {
        "large": ConvolutionalPolicy(1, padding="SAME"),
        "small": ConvolutionalPolicy(1, ((16, 8, 4), (32, 4, 2)), 256, "SAME"),
        "tiny": ConvolutionalPolicy(1, ((8, 8, 4), (16, 4, 2)), 32),
    }
)


class AtariEpisodes(NamedTuple):
    """What an evaluation returns besides the score: its ``aux``.

    Attributes:
        num_steps: of all episodes together, ``i32[]``; each takes 4 frames.
        share_cut: share of the episodes that ended for their number of steps.
        memory: the game's at the end of the last episode, ``float32[128]``, each from
            0 to 255: a descriptor for novelty search.
    """

    num_steps: ArrayLike
    share_cut: ArrayLike
    memory: PyTree


class AtariContext(NamedTuple):
    """What goes from generation to generation: the objective's ``context``.

    Attributes:
        max_steps: of an episode, ``i32[]``.
        num_steps: of all evaluations so far, ``float64[]``.
    """

    max_steps: Any
    num_steps: ArrayLike


@dataclass(frozen=True)
class Atari(HostEpisodes):
    """The mean score of a network over episodes of a game.

    ``objective()`` is what a method maximises, on the host, in as many processes as
    ``workers`` says. The paper's budgets count frames: 4 for each step of
    ``result.context.num_steps``.

    Args:
        game: one of ``GAMES``.
        network: one of ``NETWORKS``; its number of actions becomes the game's.
        num_episodes: episodes of one evaluation.
        max_steps: steps after which an episode is cut off.
        most_steps: if above ``max_steps``, the episodes' length adapts: it doubles, up
            to this, after each generation in which more than ``share_cut`` of the
            episodes were cut off.
        share_cut: see there.
        num_no_ops: largest number of frames without action at the start of an episode.
        normalise: virtual batch normalisation of every layer (see
            ``ConvolutionalPolicy``), over 128 views of a random policy.

    Raises:
        TypeError: for an argument of the wrong type.
        ValueError: for one out of range, or an unknown name.
        ImportError: at the first use, without ale-py; it says what to install.

    Example:
        >>> import gfopt
        >>> from gfopt.problems import Atari
        >>> task = Atari("frostbite", network="tiny")
        >>> method = gfopt.DeepGA(population_size=50, num_parents=5, initial_std=1.0)
        >>> result = gfopt.minimize(  # doctest: +SKIP
        ...     task.objective(), task.init(jax.random.key(0)), method=method,
        ...     budget=1000, workers=2)
    """

    game: str
    network: str = "large"
    num_episodes: int = 1
    max_steps: int = 5000
    most_steps: int = 0
    share_cut: float = 0.5
    num_no_ops: int = 30
    normalise: bool = False

    def __post_init__(self) -> None:
        checks.one_of("game", self.game, GAMES)
        checks.one_of("network", self.network, tuple(NETWORKS))
        checks.integer("num_episodes", self.num_episodes, 1)
        checks.integer("max_steps", self.max_steps, 1)
        checks.integer("most_steps", self.most_steps, 0)
        checks.share("share_cut", self.share_cut)
        checks.integer("num_no_ops", self.num_no_ops, 1)
        checks.instance("normalise", self.normalise, bool, "True or False")

    @property
    def policy(self) -> ConvolutionalPolicy:
        """The network with an output for each of the game's actions."""
        shape = NETWORKS[self.network]
        size = len(loaded_game(self.game).actions)
        return ConvolutionalPolicy(size, shape.layers, shape.hidden, shape.padding)

    @property
    def num_weights(self) -> int:
        """How many numbers the network has, ``D``."""
        shapes = jax.eval_shape(self.init, jax.random.key(0))
        return sum(leaf.size for leaf in jax.tree.leaves(shapes))

    def init(self, key: Key) -> PyTree:
        """Draws the network's first weights, ``w ~ N(0, 1 / fan_in)``, ``b = 0``."""
        return self.policy.init(key, (SIDE, SIDE, FRAMES_PER_STEP))

    def objective(self) -> Objective:
        """Returns what a method maximises."""
        return Objective(
            self,
            takes_key=True,
            has_aux=True,
            traceable=False,
            maximize=True,
            context=AtariContext(np.int32(self.max_steps), np.float64(0)),
            update=self.updated,
        )

    def updated(self, context: AtariContext, evaluation: Evaluation) -> AtariContext:
        """Counts the steps of a generation, and lengthens the next one's episodes."""
        episodes, valid = evaluation.aux, np.asarray(evaluation.valid)
        steps = np.asarray(episodes.num_steps, np.float64)[valid].sum()
        cut = np.asarray(episodes.share_cut)[valid]
        longest = np.int32(context.max_steps)
        if self.most_steps > longest and cut.size and cut.mean() > self.share_cut:
            longest = np.int32(min(2 * int(longest), self.most_steps))
        return AtariContext(longest, np.float64(context.num_steps + steps))

    def __call__(
        self,
        key: np.ndarray,
        weights: Solution,
        episodes: np.ndarray | None = None,
        context: AtariContext | None = None,
    ) -> tuple[float, AtariEpisodes]:
        """Returns the mean score of some episodes, and what was seen in them.

        Args:
            key: ``uint32[2]``, from which episodes are drawn unless they are given.
            weights: of the network.
            episodes: a seed for each episode.
            context: says how many steps an episode has at most.
        """
        seeds = self._seeds(key) if episodes is None else episodes
        limit = self.max_steps if context is None else int(context.max_steps)
        played = [self._played(weights, int(seed), limit) for seed in seeds]
        scores, steps, cut = zip(*played, strict=True)
        memory = np.asarray(loaded_game(self.game).emulator.getRAM(), np.float32)
        seen = AtariEpisodes(np.int32(sum(steps)), np.float32(np.mean(cut)), memory)
        return float(np.mean(scores)), seen

    def returns(self, seeds: Iterable[int], weights: Solution) -> np.ndarray:
        """Returns the scores of the episodes with these seeds, ``float64[n]``.

        Args:
            seeds: integers, one for each episode.
            weights: of the network.
        """
        limit = max(self.max_steps, self.most_steps)
        found = [self._played(weights, int(seed), limit)[0] for seed in seeds]
        return np.array(found, np.float64)

    def screens(self, seed: int, weights: Solution) -> Iterator[np.ndarray]:
        """Plays an episode; yields its screens in colour, ``uint8[210, 160, 3]``."""
        for _ in self._turns(weights, seed):
            yield loaded_game(self.game).emulator.getScreenRGB()

    def _played(
        self, weights: Solution, seed: int, limit: int
    ) -> tuple[float, int, bool]:
        """Plays one episode: its score, its steps, and whether it was cut off."""
        total, steps = 0.0, 0
        for steps, reward in enumerate(self._turns(weights, seed), 1):
            total += reward
            if steps >= limit:
                break
        return total, steps, not loaded_game(self.game).is_over

    def _turns(self, weights: Solution, seed: int) -> Iterator[float]:
        """Plays one episode; yields the reward of each step."""
        weights = jax.tree.map(np.asarray, weights)
        policy, game = self.policy, loaded_game(self.game)
        statistics: tuple[Statistics, ...] = ()
        if self.normalise:
            views = reference_views(self.game)
            statistics = host_pixels.reference_statistics(policy, weights, views)
        idle = 1 + int(np.random.default_rng(seed).integers(self.num_no_ops))
        view = game.begin(idle)
        while not game.is_over:
            scores = host_pixels.outputs(policy, weights, view[None], statistics)
            reward, view = game.step(view, int(scores[0].argmax()))
            yield reward


@functools.lru_cache(maxsize=4)
def reference_views(game: str) -> np.ndarray:
    """Returns what a random policy sees: ``float32[128, 84, 84, 4]``, always the same.

    Args:
        game: one of ``GAMES``.
    """
    player, generator = loaded_game(game), np.random.default_rng(0)
    views: list[np.ndarray] = []
    view = player.begin(0)
    while len(views) < _NUM_REFERENCE:
        # every tenth view on average: neighbours are almost the same
        _, view = player.step(view, int(generator.integers(len(player.actions))))
        if generator.random() < 0.1:
            views.append(view)
        if player.is_over:
            view = player.begin(0)
    return np.stack(views)
