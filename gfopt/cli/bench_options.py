"""From the options of ``gfopt bench``, as they are typed, to a plan."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from gfopt import checks, registry
from gfopt.cli.arguments import integers, number
from gfopt.cli.named import loaded
from gfopt.problems.bbob_suite.functions import BBOB_NAMES
from gfopt.problems.environments.atari import GAMES, NETWORKS
from gfopt.problems.problem import Problem, as_problems
from gfopt.research import plan
from gfopt.research.baselines import BASELINES
from gfopt.research.competitors import Competitor, competitors
from gfopt.research.plan import Batch
from gfopt.research.suites.catalogue import SUITES, suite_batches

_MAX_DIMENSION = 1000
_MAX_INSTANCE = 200_000
_MAX_FUNCTION = 130
_MAX_BUDGET = 10**9
_MAX_FRAMES = 10**11


def planned(
    *,
    suite: str | None = None,
    problems: str | None = None,
    methods: str | None = None,
    baselines: str | None = None,
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
        suite: its name, or None for ``"bbob"`` and ``"digits"``, or for one suite
            alone where one of its options is given.
        problems: problems of the user's own instead, by name.
        methods: names of ours and of others'.
        baselines: further methods, of other packages.
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
        ImportError: for a game without ale-py, a baseline without its package.

    Example:
        >>> batches = planned(suite="digits", methods="mezo,open_es")
        >>> [batch.competitor.name for batch in batches]
        ['mezo', 'open_es']
    """
    if suite is not None:
        checks.one_of("--suite", suite, (*plan.SUITES, *SUITES))
    checks.one_of("--evaluator", evaluator, plan.EVALUATORS)
    listed = SUITES.get(suite or "")
    functional = suite if listed and listed.is_coco else "bbob"
    only = [
        ("problems of your own", {"--problems": problems}),
        ("--suite atari", {"--game": game, "--frames": frames, "--network": network}),
        (
            f"--suite {functional}",
            {"--functions": functions, "--dimensions": dimensions},
        ),
        ("--suite bbob", {"--evaluator": None if evaluator == "jax" else evaluator}),
    ]
    asked = None if suite is None else f"--suite {suite}"
    for owner, options in only:
        given = [name for name, value in options.items() if value is not None]
        if given and asked not in (owner, None):
            raise ValueError(f"{given[0]} is an option of {owner}; got {asked}")
        asked = owner if given else asked
    if asked is None and budget is not None:
        asked = "--suite bbob"
    if asked == "--suite atari" and budget is not None:
        raise ValueError("--budget is --frames on --suite atari")
    common: dict[str, Any] = {"seed": number("--seed", seed, 0, 2**31 - 1)}
    if budget is not None:
        common["budget"] = number("--budget", budget, 1, _MAX_BUDGET)
    if instances is not None:
        common["instances"] = integers("--instances", instances, 1, _MAX_INSTANCE)
    if methods is not None:
        common["methods"] = _competitors(methods)
    if baselines is not None:
        if asked in ("--suite digits", "--suite atari"):
            raise ValueError(f"--baselines search functions; got {asked}")
        if asked is None:
            asked = "--suite bbob"
        names = [part.strip() for part in baselines.split(",")]
        for name in names:
            checks.one_of("--baselines", name, BASELINES)
        if methods is None:
            ours = plan.OWN_METHODS if problems is not None else plan.BBOB_METHODS
            common["methods"] = competitors(listed.methods if listed else ours)
        common["methods"] += competitors(names, "--baselines")
    if problems is not None:
        return plan.own_batches(
            **{"methods": plan.OWN_METHODS} | common,
            problems=_problems(problems),
            name=problems,
        )
    if asked == "--suite atari":
        return plan.atari_batches(**common, **_game(game, frames, network))
    if listed and suite:
        if functions is not None:
            common["functions"] = integers("--functions", functions, 1, _MAX_FUNCTION)
        if dimensions is not None:
            common["dimensions"] = integers("--dimensions", dimensions, 2, 640)
        return suite_batches(suite, **common)
    batches: list[Batch] = []
    if asked != "--suite digits":
        chosen: dict[str, Any] = dict(common)
        if functions is not None:
            chosen["functions"] = integers("--functions", functions, 1, 24, BBOB_NAMES)
        if dimensions is not None:
            chosen["dimensions"] = _dimensions(dimensions, evaluator)
        batches += plan.bbob_batches(**chosen, evaluator=evaluator)
    if asked != "--suite bbob":
        if asked is None and methods is not None:  # those that can, on the second suite
            able = tuple(filter(plan.trains_networks, common["methods"]))
            return batches + (
                plan.digits_batches(**common | {"methods": able}) if able else []
            )
        batches += plan.digits_batches(**common)
    return batches


def _competitors(text: str) -> tuple[Competitor, ...]:
    known = ("auto", *registry.METHODS, *BASELINES)
    entries: list[Competitor] = []
    for name in dict.fromkeys(part.strip() for part in text.split(",")):
        value = loaded("--methods", name, "gfopt.methods", known)
        if ":" not in name and value != name and not isinstance(value, Collection):
            value = {name: value}  # the name by which a package lends it
        entries += competitors(value, f"--methods {name}")
    return competitors(entries, "--methods")


def _problems(text: str) -> tuple[Problem, ...]:
    problems: list[Problem] = []
    for name in dict.fromkeys(part.strip() for part in text.split(",")):
        value = loaded("--problems", name, "gfopt.problems")
        problems += as_problems(value, f"--problems {name}")
    return as_problems(problems, "--problems")


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
    dimensions = integers("--dimensions", text, 2, _MAX_DIMENSION)
    if evaluator == "coco":
        for dimension in dimensions:
            checks.one_of("--dimensions of COCO", dimension, plan.COCO_DIMENSIONS)
    return dimensions
