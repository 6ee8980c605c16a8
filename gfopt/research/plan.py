"""A benchmark as a list of batches: which problems, methods and budgets.

A batch holds the instances of one function, dimension and method, which run in one
compiled program. The defaults are an explicit list, so that a benchmark without
arguments takes the same two minutes when more methods are registered.
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from typing import Any, NamedTuple

from gfopt import registry
from gfopt.problems.atari import GAMES, Atari
from gfopt.research.finished_runs import RunKey
from gfopt.research.settings import described, settings

SUITES = ("bbob", "digits", "atari")
EVALUATORS = ("jax", "coco")
COCO_DIMENSIONS = (2, 3, 5, 10, 20, 40)

#: Two functions of each of the five groups of BBOB.
BBOB_FUNCTIONS = (1, 3, 6, 8, 10, 13, 15, 17, 20, 21)
BBOB_DIMENSIONS = (5,)
BBOB_INSTANCES = tuple(range(1, 16))
BBOB_METHODS = ("random_search", "open_es", "cma_es")
BBOB_BUDGET = 1000  # evaluations per dimension

DIGITS_SIZES = (64, 32, 10)
DIGITS_DIMENSION = 64 * 32 + 32 + 32 * 10 + 10
DIGITS_INSTANCES = (1, 2, 3, 4, 5)
DIGITS_METHODS = ("random_search", "open_es", "mezo")
DIGITS_BUDGET = 19_200  # evaluations in all: 300 generations of 64

ATARI_GAME = "asterix"
ATARI_NETWORK = "tiny"
ATARI_INSTANCES = (1, 2, 3, 4, 5)
ATARI_METHODS = ("random_search", "open_es", "deep_ga")
ATARI_FRAMES = 200_000


class Batch(NamedTuple):
    """Runs that share a program; the fields are those of ``RunKey``."""

    suite: str
    function: int
    dimension: int
    instances: tuple[int, ...]
    method: str
    budget: int
    seed: int
    evaluator: str

    def key(self, instance: int) -> RunKey:
        """Returns the key of one of its runs."""
        rest = (self.method, self.budget, self.seed, self.evaluator)
        return RunKey(self.suite, self.function, self.dimension, instance, *rest)

    @property
    def keys(self) -> tuple[RunKey, ...]:
        """The keys of its runs."""
        return tuple(self.key(instance) for instance in self.instances)

    @property
    def options(self) -> dict[str, Any]:
        """The method's settings, as JSON holds them."""
        return described(settings(self.suite, self.method, self.dimension, self.budget))

    def without(self, finished: Container[RunKey]) -> Batch:
        """Returns the batch of what is not finished."""
        left = [i for i in self.instances if self.key(i) not in finished]
        return self._replace(instances=tuple(left))


def bbob_batches(
    *,
    functions: Sequence[int] = BBOB_FUNCTIONS,
    dimensions: Sequence[int] = BBOB_DIMENSIONS,
    instances: Sequence[int] = BBOB_INSTANCES,
    methods: Sequence[str] = BBOB_METHODS,
    budget: int = BBOB_BUDGET,
    seed: int = 0,
    evaluator: str = "jax",
) -> list[Batch]:
    """Lists the batches of a BBOB benchmark.

    Args:
        functions: numbers from 1 to 24.
        dimensions: ``D``, each 2 or above.
        instances: numbers from 1 up.
        methods: registered names.
        budget: evaluations per dimension.
        seed: of the starts and of the methods.
        evaluator: ``"jax"``, or ``"coco"`` for the C code of coco-experiment.

    Returns:
        The batches. The methods take turns on each function, so that an interrupted
        benchmark compares them on what it got done.

    Example:
        >>> len(bbob_batches(functions=[1, 8], dimensions=[2, 5]))
        12
    """
    return [
        Batch("bbob", f, d, tuple(instances), m, budget * d, seed, evaluator)
        for d in dimensions
        for f in functions
        for m in methods
    ]


def digits_batches(
    *,
    instances: Sequence[int] = DIGITS_INSTANCES,
    methods: Sequence[str] = DIGITS_METHODS,
    budget: int = DIGITS_BUDGET,
    seed: int = 0,
) -> list[Batch]:
    """Lists the batches of the digits benchmark; its budget is evaluations in all."""
    size, chosen = DIGITS_DIMENSION, tuple(instances)
    return [Batch("digits", 1, size, chosen, m, budget, seed, "jax") for m in methods]


def atari_batches(
    *,
    game: str = ATARI_GAME,
    network: str = ATARI_NETWORK,
    frames: int = ATARI_FRAMES,
    instances: Sequence[int] = ATARI_INSTANCES,
    methods: Sequence[str] = ATARI_METHODS,
    seed: int = 0,
) -> list[Batch]:
    """Lists the batches of a game; its budget is frames, as in the papers.

    Args:
        game: one of ``gfopt.problems.atari.GAMES``.
        network: one of ``gfopt.problems.atari.NETWORKS``.
        frames: of a run.
        instances: numbers of the runs, each with its own first network.
        methods: registered names.
        seed: of all runs.

    Raises:
        ImportError: without ale-py, which knows the game's actions.
    """
    number, size = GAMES.index(game) + 1, Atari(game, network).num_weights
    chosen, where = tuple(instances), f"ale-{network}"
    return [
        Batch("atari", number, size, chosen, m, frames, seed, where) for m in methods
    ]


def trains_networks(method: str) -> bool:
    """Tells whether a method can take the thousands of weights of a network."""
    return "dense" not in registry.METHODS[method].flags
