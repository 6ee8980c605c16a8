"""Episodes of an environment that runs on the host: a seed for each."""

from __future__ import annotations

import jax
import numpy as np
from jax.typing import ArrayLike

from gfopt.types import Key


class HostEpisodes:
    """Draws the episodes of an objective that runs ``num_episodes`` of them."""

    num_episodes: int

    def episodes(self, step: ArrayLike, key: Key) -> np.ndarray:
        """Draws the episodes of a generation; the ``batches`` of ``minimize``."""
        del step
        return self._seeds(np.asarray(jax.random.key_data(key)))

    def _seeds(self, words: np.ndarray) -> np.ndarray:
        """Returns a seed for each episode, ``uint32[n]``, from the words of a key."""
        words = np.asarray(words).tolist()
        return np.random.SeedSequence(words).generate_state(self.num_episodes)
