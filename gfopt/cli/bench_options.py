"""From the options of ``gfopt bench``, as they are typed, to a plan."""

from __future__ import annotations

from typing import Any

from gfopt import checks, registry
from gfopt.cli.arguments import integers, number, words
from gfopt.problems.atari import GAMES, NETWORKS
from gfopt.problems.bbob_functions import BBOB_NAMES
from gfopt.research import plan
from gfopt.research.plan import Batch

_MAX_DIMENSION = 1000
_MAX_INSTANCE = 200_000
_MAX_BUDGET = 10**9
_MAX_FRAMES = 10**11


def planned(
    *,
    suite: str | None = None,
    methods: str | None = None,
    functions: str | None = None,
    dimensions: str | None = None,
    instances: str | None = None,
    budget: str | None = None,
    game: str | None = None,
    frames: str | None = None,
    network: str | None = None,
    seed: str = "0",
    evaluator: str = "jax",
) -> list[Batch]:
    """Turns options as typed into a plan.

    Args:
        suite: ``"bbob"``, ``"digits"``, ``"atari"`` or None: the first two, or one
            suite alone where one of its options is given.
        methods: names.
        functions: numbers and ranges.
        dimensions: numbers and ranges.
        instances: numbers and ranges.
        budget: evaluations, per dimension on BBOB.
        game: an Atari game.
        frames: of a run on Atari.
        network: on Atari.
        seed: of starts and methods.
        evaluator: ``"jax"`` or ``"coco"``.

    Raises:
        ValueError: for an option that is not understood or does not fit the suite.
        ImportError: for a game without ale-py.

    Example:
        >>> [batch.method for batch in planned(suite="digits", methods="mezo,open_es")]
        ['mezo', 'open_es']
    """
    if suite is not None:
        checks.one_of("--suite", suite, plan.SUITES)
    checks.one_of("--evaluator", evaluator, plan.EVALUATORS)
    only = {
        "atari": {"--game": game, "--frames": frames, "--network": network},
        "bbob": {
            "--functions": functions,
            "--dimensions": dimensions,
            "--evaluator": None if evaluator == "jax" else evaluator,
        },
    }
    for owner, options in only.items():
        given = [name for name, value in options.items() if value is not None]
        if given and suite not in (owner, None):
            raise ValueError(
                f"{given[0]} is an option of --suite {owner}; got --suite {suite}"
            )
        suite = owner if given else suite
    if suite is None and budget is not None:
        suite = "bbob"
    if suite == "atari" and budget is not None:
        raise ValueError("--budget is --frames on --suite atari")
    common: dict[str, Any] = {"seed": number("--seed", seed, 0, 2**31 - 1)}
    if budget is not None:
        common["budget"] = number("--budget", budget, 1, _MAX_BUDGET)
    if instances is not None:
        common["instances"] = integers("--instances", instances, 1, _MAX_INSTANCE)
    if methods is not None:
        common["methods"] = words("--methods", methods, registry.names(tokens=False))
    batches: list[Batch] = []
    if suite == "atari":
        return plan.atari_batches(
            **_trainable(common, suite), **_game(game, frames, network)
        )
    if suite != "digits":
        chosen: dict[str, Any] = dict(common)
        if functions is not None:
            chosen["functions"] = integers("--functions", functions, 1, 24, BBOB_NAMES)
        if dimensions is not None:
            chosen["dimensions"] = _dimensions(dimensions, evaluator)
        batches += plan.bbob_batches(**chosen, evaluator=evaluator)
    if suite != "bbob":
        batches += plan.digits_batches(**_trainable(common, suite))
    return batches


def _game(game: str | None, frames: str | None, network: str | None) -> dict[str, Any]:
    chosen: dict[str, Any] = {}
    if game is not None:
        checks.one_of("--game", game, GAMES)
        chosen["game"] = game
    if network is not None:
        checks.one_of("--network", network, NETWORKS)
        chosen["network"] = network
    if frames is not None:
        chosen["frames"] = number("--frames", frames, 1, _MAX_FRAMES)
    return chosen


def _dimensions(text: str, evaluator: str) -> tuple[int, ...]:
    found = integers("--dimensions", text, 2, _MAX_DIMENSION)
    if evaluator == "coco":
        for dimension in found:
            checks.one_of("--dimensions of COCO", dimension, plan.COCO_DIMENSIONS)
    return found


def _trainable(options: dict[str, Any], suite: str | None) -> dict[str, Any]:
    """Leaves out, or refuses, methods that cannot train a network."""
    if "methods" not in options:
        return options
    able = tuple(m for m in options["methods"] if plan.trains_networks(m))
    if suite is not None and able != options["methods"]:
        (name, *_) = (m for m in options["methods"] if m not in able)
        raise ValueError(
            f"--methods of --suite {suite} must not hold D x D matrices, for D is the "
            f"number of a network's weights; got {name!r}"
        )
    return options | {"methods": able}
