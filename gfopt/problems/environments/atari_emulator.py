"""The emulator of Atari games: its screens as a network sees them, step by step."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from gfopt import checks

FRAMES_PER_STEP = 4
SIDE = 84  # pixels


def reduced(screen: np.ndarray) -> np.ndarray:
    """Takes means over areas: ``uint8[height, width]`` to ``float32[84, 84]``."""
    rows, columns = map(_area_means, screen.shape)
    return rows @ screen.astype(np.float32) @ columns.T


@functools.cache
def _area_means(size: int) -> np.ndarray:
    """Returns the matrix ``[84, size]`` that averages and maps 255 to 1 in all."""
    ends = np.linspace(0, size, SIDE + 1)
    places = np.arange(size)
    low = np.maximum(ends[:-1, None], places)
    high = np.minimum(ends[1:, None], places + 1)
    means = np.maximum(high - low, 0) * SIDE / size
    return (means / np.sqrt(255)).astype(np.float32)


class Game:
    """An emulator that begins every episode with the same state."""

    def __init__(self, emulator: Any):
        self.emulator = emulator
        self.actions = emulator.getMinimalActionSet()
        emulator.reset_game()
        # a reset of the emulator leaves traces of the episodes before
        self._start = emulator.cloneSystemState()

    @property
    def is_over(self) -> bool:
        """Whether the game itself ended the episode."""
        return bool(self.emulator.game_over())

    def begin(self, num_no_ops: int) -> np.ndarray:
        """Begins an episode: what is seen after idle frames."""
        self.emulator.restoreSystemState(self._start)
        for _ in range(max(1, num_no_ops)):  # the first frame draws the screen
            self.emulator.act(0)
        screen = reduced(self.emulator.getScreenGrayscale())
        return np.repeat(screen[:, :, None], FRAMES_PER_STEP, axis=2)

    def step(self, view: np.ndarray, action: int) -> tuple[float, np.ndarray]:
        """Repeats an action: the reward, and what is seen then."""
        act, chosen = self.emulator.act, self.actions[action]
        reward = sum(act(chosen) for _ in range(FRAMES_PER_STEP - 1))
        before = self.emulator.getScreenGrayscale()
        reward += act(chosen)
        after = self.emulator.getScreenGrayscale()
        new = np.empty_like(view)
        # each channel takes the next one's place: one number on in memory
        new.reshape(-1)[:-1] = view.reshape(-1)[1:]
        new[:, :, -1] = reduced(np.maximum(before, after))
        return float(reward), new


@functools.lru_cache(maxsize=4)  # a worker loads each game once
def loaded_game(name: str) -> Game:
    """Returns the emulator of a game.

    Raises:
        ImportError: without ale-py; it says what to install.
    """
    with checks.needed_by(f"Atari({name!r})", "ale-py", "pip install 'gfopt[atari]'"):
        import ale_py
        from ale_py import roms  # without Gymnasium, ale_py alone has not loaded it
    ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)
    emulator = ale_py.ALEInterface()
    emulator.setInt("random_seed", 0)
    emulator.setFloat("repeat_action_probability", 0.0)
    rom: Any = roms.get_rom_path(name)
    emulator.loadROM(rom)
    return Game(emulator)
