"""Best of K, distilled: of K answers to a prompt the best is learnt from, repeatedly.

    a_1 ... a_K ~ p_t(. | prompt),   elite = argmax_k reward(a_k)
    p_{t+1}  <-  fitted to the elites of all prompts of the round

The cross-entropy method with an elite of 1 / K, on a conditional distribution. Only the
order of the rewards of one prompt counts.

How far a round leads is known without a look at the model. The best of K has at most

    KL(best of K | p) = log K - (K - 1) / K,

with equality where rewards have no ties. The best of K_2 of the best of K_1 is the best
of K_1 K_2: from the model that was first, rounds lead at most as far as the best of the
product of all their K. The sum of the rounds' divergences is less and bounds nothing,
since KL obeys no triangle inequality. Both are of the distribution of the elites, so of
a model that is fitted to it exactly.

Sources: Dong et al. (2023), "RAFT", TMLR, arXiv 2304.06767, algorithm 1; Beirami et al.
(2025), arXiv 2401.01879, theorem 3.1, for the bound.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from gfopt import checks


def best_of_k_divergence(k: float) -> float:
    """Returns the largest KL divergence of the best of K, ``log K - (K - 1) / K``.

    Args:
        k: answers of which the best is taken, 1 or more.

    Returns:
        In nats, from the distribution of the answers.

    Raises:
        TypeError: for what is no number.
        ValueError: for one below 1.

    Source: Beirami et al. (2025), arXiv 2401.01879, theorem 3.1.

    Example:
        >>> from gfopt.texts import best_of_k_divergence
        >>> [round(best_of_k_divergence(k), 3) for k in (1, 4, 32)]
        [0.0, 0.636, 2.497]
    """
    checks.real("k", k, 1)
    return math.log(k) - (k - 1) / k


class BestOfK:
    """Rounds of best-of-K distillation: which prompts to answer, and what to learn.

    The sampler is the caller's: it answers the prompts of ``ask`` and is fitted to the
    elites of ``tell``. The object can be pickled between any two calls.

    Args:
        num_prompts: how many there are; they are drawn without replacement until all
            have had their turn, then again.
        seed: of the draws.

    Attributes:
        sizes: ``K`` of each round that was told.
        divergences: of each round's elites from its answers, at most, in nats.
        num_answers: rewards that were told, failed ones included.
        num_failed: those that were not finite.

    Raises:
        TypeError: for an argument of the wrong type.
        ValueError: for one out of range.

    Example:
        >>> import numpy as np
        >>> from gfopt.texts import BestOfK
        >>> rng, means = np.random.default_rng(0), np.zeros(6)  # an answer: a number
        >>> rounds = BestOfK(num_prompts=6)
        >>> for _ in range(4):
        ...     prompts = rounds.ask(6, k=8)
        ...     answers = means[prompts, None] + rng.normal(size=(6, 8))
        ...     best = rounds.tell(-abs(answers - prompts[:, None]))
        ...     means[prompts] = answers[np.arange(6), best]
        >>> bool(abs(means - np.arange(6)).max() < 1), round(rounds.divergence, 2)
        (True, 7.32)
    """

    def __init__(self, num_prompts: int, *, seed: int = 0):
        checks.integer("num_prompts", num_prompts, 1)
        checks.integer("seed", seed, 0)
        self.num_prompts, self.seed = num_prompts, seed
        self.sizes: list[int] = []
        self.num_answers = self.num_failed = 0
        self._num_drawn = 0
        self._open: tuple[int, int] | None = None

    def ask(self, num_prompts: int, k: int) -> np.ndarray:
        """Returns the prompts of a round, of which each is to be answered ``k`` times.

        Args:
            num_prompts: of this round, ``b``, at most as many as there are.
            k: answers to each.

        Returns:
            ``int32[b]``, places in the list of prompts.

        Raises:
            RuntimeError: the last round has not been told.
        """
        checks.integer("num_prompts", num_prompts, 1)
        checks.integer("k", k, 1)
        if num_prompts > self.num_prompts:
            raise ValueError(
                f"num_prompts must be at most {self.num_prompts}; got {num_prompts}"
            )
        if self._open is not None:
            raise RuntimeError("ask: the last round must be told first")
        first, last = self._num_drawn, self._num_drawn + num_prompts
        turns = range(first // self.num_prompts, (last - 1) // self.num_prompts + 1)
        orders = [
            np.random.default_rng((self.seed, turn)).permutation(self.num_prompts)
            for turn in turns
        ]
        start = first - turns[0] * self.num_prompts
        self._num_drawn, self._open = last, (num_prompts, k)
        return np.concatenate(orders)[start : start + num_prompts].astype(np.int32)

    def tell(self, rewards: npt.ArrayLike) -> np.ndarray:
        """Returns which answer to each prompt is to be learnt.

        Args:
            rewards: ``float[b, K]``, larger is better; what is not finite failed.

        Returns:
            ``int32[b]``, the place of the best answer, the first of equal ones; -1
            where all failed.

        Raises:
            ValueError: for another shape than that of the last ``ask``.
            RuntimeError: no round is open.
        """
        table = np.asarray(rewards, np.float64)
        if self._open is None:
            raise RuntimeError("tell: ask for a round first")
        if table.shape != self._open:
            raise ValueError(
                f"rewards must have the shape {self._open} of the last ask; "
                f"got {table.shape}"
            )
        self._open = None
        failed = ~np.isfinite(table)
        self.sizes.append(table.shape[1])
        self.num_answers += table.size
        self.num_failed += int(failed.sum())
        best = np.where(failed, -np.inf, table).argmax(axis=1)
        return np.where(failed.all(axis=1), -1, best).astype(np.int32)

    @property
    def divergences(self) -> list[float]:
        """Of each round's elites from its answers, at most, in nats."""
        return [best_of_k_divergence(k) for k in self.sizes]

    @property
    def divergence(self) -> float:
        """Of the last round's elites from the first model, at most, in nats.

        ``log N - (N - 1) / N`` with ``N`` the product of all ``K``; see the module.
        """
        logarithm = sum(math.log(k) for k in self.sizes)
        return logarithm + math.expm1(-logarithm)
