"""The suites by name: what they are, what they take, and what they cost."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import NamedTuple

from gfopt.problems.problem import Problem
from gfopt.research.competitors import Methods
from gfopt.research.plan import Batch, own_batches
from gfopt.research.suites import control_tasks, multimodal, networks, token_tasks
from gfopt.research.suites.coco_suites import COCO_SUITES, coco_problem
from gfopt.research.suites.needs import (
    BRAX,
    COCO,
    FASHION_MNIST,
    GYMNASIUM,
    GYMNAX,
    MNIST,
    MUJOCO,
    SKLEARN,
    Need,
    require,
)


class Suite(NamedTuple):
    """Problems under a name.

    Attributes:
        what: in a few words.
        num_problems: how many it makes without options.
        problems: makes them, of functions and a dimension where it is COCO's.
        functions: by default, of COCO's; else empty.
        dimensions: by default, of COCO's; else empty.
        budget: evaluations of a run, of COCO's per dimension.
        methods: by default.
        instances: by default.
        seconds: of the processor that it takes without options, nothing compiled
            before, as ``benchmarks/suite_costs.py`` measured it.
        needs: packages and data beside gfopt.
    """

    what: str
    num_problems: int
    problems: Callable[..., list[Problem]]
    budget: int
    methods: tuple[str, ...]
    seconds: int
    needs: tuple[Need, ...] = ()
    functions: tuple[int, ...] = ()
    dimensions: tuple[int, ...] = ()
    instances: tuple[int, ...] = (1, 2, 3, 4, 5)

    @property
    def is_coco(self) -> bool:
        """Whether it has functions and dimensions, and budgets per dimension."""
        return bool(self.functions)

    @property
    def size(self) -> tuple[int, int]:
        """The runs without options, and their evaluations, at most."""
        runs = self.num_problems * len(self.methods) * len(self.instances)
        per_dimension = sum(self.dimensions) // max(len(self.dimensions), 1) or 1
        return runs, runs * self.budget * per_dimension


def _coco(
    name: str,
    what: str,
    functions: tuple[int, ...],
    dimensions: tuple[int, ...],
    seconds: int,
) -> Suite:
    def problems(functions: Sequence[int], dimension: int) -> list[Problem]:
        return [coco_problem(name, function, dimension) for function in functions]

    methods = ("random_search", "cma_es", "auto")
    if name == "bbob-largescale":
        methods = ("random_search", "sep_cma_es", "cr_fm_nes")
    return Suite(
        what,
        len(functions) * len(dimensions),
        problems,
        100,
        methods,
        seconds,
        (COCO,),
        functions,
        dimensions,
        instances=(1, 2, 3),
    )


_NETWORKS = ("random_search", "open_es", "cr_fm_nes")
_VECTORS = ("random_search", "cma_es", "cbo")
_TOKENS = ("random_tokens", "genetic_tokens", "greedy_tokens", "particle_tokens")

SUITES: Mapping[str, Suite] = MappingProxyType(
    {
        "bbob-largescale": _coco(
            "bbob-largescale",
            "24 functions in 20-D to 640-D",
            (1, 3, 6, 8, 10, 15),
            (80,),
            33,
        ),
        "bbob-mixint": _coco(
            "bbob-mixint",
            "24 functions, most numbers whole",
            (1, 3, 6, 8, 10, 15),
            (10,),
            31,
        ),
        "bbob-constrained": _coco(
            "bbob-constrained",
            "54 functions with constraints",
            (1, 8, 15, 22),
            (5,),
            13,
        ),
        "bbob-noisy": _coco(
            "bbob-noisy",
            "30 functions with noise",
            (101, 105, 109, 113, 122),
            (5,),
            17,
        ),
        "control": Suite(
            "a pole on a cart, a pendulum",
            2,
            control_tasks.control,
            1000,
            _NETWORKS,
            20,
        ),
        "control-gymnax": Suite(
            "an acrobot, a car in a valley, an arm",
            3,
            control_tasks.gymnax_control,
            1000,
            _NETWORKS,
            56,
            (GYMNAX,),
        ),
        "control-brax": Suite(
            "a pole on a cart, an arm, in Brax",
            2,
            control_tasks.brax_control,
            300,
            _NETWORKS,
            165,
            (BRAX,),
        ),
        "control-gymnasium": Suite(
            "a car, a pole and a swimmer, on the host",
            3,
            control_tasks.gymnasium_control,
            300,
            _NETWORKS,
            302,
            (GYMNASIUM, MUJOCO),
        ),
        "classification": Suite(
            "digits and 5,000 of MNIST, all weights",
            2,
            networks.classification,
            1000,
            _NETWORKS,
            53,
            (SKLEARN, MNIST),
        ),
        "fashion-mnist": Suite(
            "5,000 images of clothes, all weights",
            2,
            networks.fashion,
            1000,
            _NETWORKS,
            83,
            (FASHION_MNIST,),
        ),
        "maze": Suite(
            "a robot in four deceptive mazes", 4, networks.maze, 1000, _NETWORKS, 38
        ),
        "cbo": Suite(
            "sixteen functions with many minima, 20-D",
            16,
            multimodal.problems,
            4000,
            _VECTORS,
            78,
        ),
        "zeroth-order": Suite(
            "five small networks",
            5,
            networks.zeroth_order,
            1000,
            ("random_search", "mezo", "open_es"),
            48,
            (SKLEARN,),
        ),
        "tokens": Suite(
            "hidden tokens, pairs, a prompt",
            3,
            token_tasks.problems,
            1000,
            _TOKENS,
            17,
        ),
        "quantized": Suite(
            "scales of networks of 4 and 8 bits",
            2,
            networks.quantized,
            1000,
            ("random_search", "mezo", "open_es"),
            25,
            (SKLEARN,),
        ),
    }
)


def suite_batches(
    name: str,
    *,
    methods: Methods | None = None,
    functions: Sequence[int] | None = None,
    dimensions: Sequence[int] | None = None,
    instances: Sequence[int] | None = None,
    budget: int | None = None,
    seed: int = 0,
) -> list[Batch]:
    """Lists the batches of a suite.

    Args:
        name: one of ``SUITES``.
        methods: names, optimizers or functions.
        functions: of COCO's suites.
        dimensions: of COCO's suites.
        instances: of COCO's functions, else numbers of the runs.
        budget: evaluations of a run, of COCO's suites per dimension.
        seed: of the starts and of the methods.

    Raises:
        ImportError: for a suite without what it needs; it says what to install.
        ValueError: for functions or dimensions that the suite does not have.

    Example:
        >>> [batch.problem for batch in suite_batches("cbo", methods="cbo")][:3]
        ['sphere', 'ellipsoid', 'rosenbrock']
    """
    suite = SUITES[name]
    require(name, suite.needs)
    plan = partial(
        own_batches,
        suite.methods if methods is None else methods,
        instances=instances or suite.instances,
        seed=seed,
        name=name,
    )
    most = budget or suite.budget
    if not suite.is_coco:
        return plan(problems=suite.problems(), budget=most)
    sizes, first, last = COCO_SUITES[name]
    for option, given, known in (
        ("functions", functions, range(first, last + 1)),
        ("dimensions", dimensions, sizes),
    ):
        wrong = set(given or ()).difference(known)
        if wrong:
            raise ValueError(
                f"{option} of {name} must be of {', '.join(map(str, known))}; got "
                f"{', '.join(map(str, sorted(wrong)))}"
            )
    return [
        batch
        for size in dimensions or suite.dimensions
        for batch in plan(
            problems=suite.problems(functions or suite.functions, size),
            budget=most * size,
        )
    ]
