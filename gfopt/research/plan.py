"""A benchmark as a list of batches: which problems, methods and budgets.

A batch holds the instances of one function, dimension and method, which run in one
compiled program. The defaults are an explicit list, so that a benchmark without
arguments takes the same two minutes when more methods are registered.
"""

from __future__ import annotations

import zlib
from collections.abc import Container, Sequence
from typing import NamedTuple

import numpy as np

from gfopt import checks, registry
from gfopt.problems.environments.atari import GAMES, Atari
from gfopt.problems.problem import Problem, as_problems
from gfopt.protocol import Optimizer
from gfopt.research.baselines import Baseline
from gfopt.research.competitors import Competitor, Methods, TokenSearch, competitors
from gfopt.research.finished_runs import RunKey
from gfopt.types import JsonObject

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

OWN_METHODS = ("random_search", "cma_es", "auto")
OWN_INSTANCES = (1, 2, 3, 4, 5)
OWN_BUDGET = 1000  # evaluations of a run


class Batch(NamedTuple):
    """Runs that share a program; the fields are those of ``RunKey``, and two more.

    ``competitor`` is who runs, and ``given`` the problem where it is the user's own.
    """

    suite: str
    problem: str
    dimension: int
    instances: tuple[int, ...]
    competitor: Competitor
    budget: int
    seed: int
    evaluator: str
    given: Problem | None = None

    def key(self, instance: int) -> RunKey:
        """Returns the key of one of its runs."""
        rest = (self.competitor.name, self.budget, self.seed, self.evaluator)
        return RunKey(self.suite, self.problem, self.dimension, instance, *rest)

    @property
    def keys(self) -> tuple[RunKey, ...]:
        """The keys of its runs."""
        return tuple(self.key(instance) for instance in self.instances)

    @property
    def function(self) -> int:
        """The number of a BBOB function."""
        return int(self.problem.removeprefix("f"))

    @property
    def options(self) -> JsonObject:
        """The method's settings, as JSON holds them."""
        return self.competitor.options(self.suite, self.dimension, self.budget)

    @property
    def tuning(self) -> str:
        """How much tuning stands behind them."""
        return self.competitor.tuning(self.suite)

    @property
    def optimizer(self) -> Optimizer | None:
        """The optimizer as it runs in the suite; None for a function."""
        return self.competitor.optimizer(self.suite, self.dimension, self.budget)

    def start(self, instance: int) -> tuple[np.ndarray, int]:
        """Draws where and with which seed a run starts.

        Returns:
            ``(x0 [D], seed)``, the same for all methods and budgets; on BBOB x0 is
            uniform in [-4, 4]^D.
        """
        if self.given is None:
            rng = np.random.default_rng(self._numbers(self.function, instance))
            x0 = rng.uniform(-4, 4, self.dimension)
        else:
            number = zlib.crc32(self.problem.encode())
            rng = np.random.default_rng(self._numbers(number, instance))
            x0 = self.given.at(instance).start(rng)
        return x0, int(rng.integers(2**31))

    def _numbers(self, problem: int, instance: int) -> tuple[int, ...]:
        return self.seed, problem, self.dimension, instance

    def without(self, finished: Container[RunKey]) -> Batch:
        """Returns the batch of what is not finished."""
        left = [i for i in self.instances if self.key(i) not in finished]
        return self._replace(instances=tuple(left))


def bbob_batches(
    *,
    functions: Sequence[int] = BBOB_FUNCTIONS,
    dimensions: Sequence[int] = BBOB_DIMENSIONS,
    instances: Sequence[int] = BBOB_INSTANCES,
    methods: Methods = BBOB_METHODS,
    budget: int = BBOB_BUDGET,
    seed: int = 0,
    evaluator: str = "jax",
) -> list[Batch]:
    """Lists the batches of a BBOB benchmark.

    Args:
        functions: numbers from 1 to 24.
        dimensions: ``D``, each 2 or above.
        instances: numbers from 1 up.
        methods: names, optimizers or functions; see ``competitors``.
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
    chosen = competitors(methods)
    for competitor in chosen:
        _has_settings(competitor, "bbob")
    return [
        Batch("bbob", f"f{f}", d, tuple(instances), c, budget * d, seed, evaluator)
        for d in dimensions
        for f in functions
        for c in chosen
    ]


def digits_batches(
    *,
    instances: Sequence[int] = DIGITS_INSTANCES,
    methods: Methods = DIGITS_METHODS,
    budget: int = DIGITS_BUDGET,
    seed: int = 0,
) -> list[Batch]:
    """Lists the batches of the digits benchmark; its budget is evaluations in all.

    Raises:
        ValueError: for a method that cannot train a network.
    """
    size, chosen = DIGITS_DIMENSION, tuple(instances)
    return [
        Batch("digits", "digits", size, chosen, c, budget, seed, "jax")
        for c in _trainers(methods, "digits")
    ]


def atari_batches(
    *,
    game: str = ATARI_GAME,
    network: str = ATARI_NETWORK,
    frames: int = ATARI_FRAMES,
    instances: Sequence[int] = ATARI_INSTANCES,
    methods: Methods = ATARI_METHODS,
    seed: int = 0,
) -> list[Batch]:
    """Lists the batches of a game; its budget is frames, as in the papers.

    Args:
        game: one of ``gfopt.problems.environments.atari.GAMES``.
        network: one of ``gfopt.problems.environments.atari.NETWORKS``.
        frames: of a run.
        instances: numbers of the runs, each with its own first network.
        methods: names or optimizers.
        seed: of all runs.

    Raises:
        ImportError: without ale-py, which knows the game's actions.
        ValueError: for a method that cannot train a network.
    """
    checks.one_of("game", game, GAMES)
    chosen, size = tuple(instances), Atari(game, network).num_weights
    return [
        Batch("atari", game, size, chosen, c, frames, seed, f"ale-{network}")
        for c in _trainers(methods, "atari")
    ]


def own_batches(
    methods: Methods,
    problems: object,
    *,
    budget: int = OWN_BUDGET,
    instances: Sequence[int] = OWN_INSTANCES,
    seed: int = 0,
    name: str = "own problems",
) -> list[Batch]:
    """Lists the batches of a benchmark on problems of one's own.

    Args:
        methods: names, optimizers or functions; see ``competitors``.
        problems: one or several; see ``as_problems``.
        budget: evaluations of a run.
        instances: numbers of the runs, each with its own start, if that is drawn, and
            its own seed.
        seed: of the starts and of the methods.
        name: what tables call the problems together.

    Example:
        >>> problem = Problem(abs, x0=[1.0], name="sphere")
        >>> [b.key(1).problem for b in own_batches(["cma_es", "auto"], problem)]
        ['sphere', 'sphere']
    """
    if name in SUITES:
        raise ValueError(f"name must not be that of a suite, {', '.join(SUITES)}")
    chosen, runs = competitors(methods), tuple(instances)
    batches = [
        Batch(name, p.name, p.dimension, runs, c, budget, seed, "python", p)
        for p in as_problems(problems)
        for c in chosen
    ]
    for batch in batches:
        how, box = (
            batch.competitor.how,
            None if batch.given is None else batch.given.box,
        )
        if isinstance(how, Baseline) and how.needs_box:
            if box is None or not np.all(np.isfinite(box)):
                raise ValueError(
                    f"bounds of {batch.problem!r} must be finite for "
                    f"{batch.competitor.name}; got {checks.shown(box)}"
                )
        if isinstance(how, TokenSearch) and batch.given is not None:
            how.require(batch.given)
    return batches


def _has_settings(competitor: Competitor, suite: str) -> None:
    if isinstance(competitor.how, TokenSearch):
        raise ValueError(
            f"methods of {suite} must search numbers; got {competitor.name!r}, which "
            "is for tokens"
        )
    if isinstance(competitor.how, str):
        registry.known_method(competitor.how, argument=f"methods of {suite}")


def trains_networks(competitor: Competitor) -> bool:
    """Tells whether a method can take the thousands of weights of a network."""
    _has_settings(competitor, "networks")
    if isinstance(competitor.how, str):
        return "dense" not in registry.METHODS[competitor.how].flags
    return isinstance(competitor.how, Optimizer)


def _trainers(methods: Methods, suite: str) -> tuple[Competitor, ...]:
    chosen = competitors(methods)
    for competitor in chosen:
        if not trains_networks(competitor):
            raise ValueError(
                f"methods of {suite} must be optimizers without D x D matrices, for D "
                f"is the number of a network's weights; got {competitor.name!r}"
            )
    return chosen
