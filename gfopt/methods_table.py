"""The table of the methods: class, domain, capabilities and how the tests run them.

To add a method: its family's file, one row here, its test.
"""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

FLAGS = MappingProxyType(
    {
        "rank_based": "only the order of the fitness matters",
        "seeds": "a member is a seed: no large population is ever held",
        "centered": "the first candidate is the center, to which others are compared",
        "signs": "moves by random signs: candidates share half of their numbers",
        "lazy": "candidates are lazy leaves: the memory of inference",
        "population_size": "the number of candidates can be chosen",
        "pairs": "candidates come in antithetic pairs, by default: rows 2i and 2i + 1",
        "rotation_invariant": "a rotated problem is the same problem",
        "stops": "knows when it has converged",
        "tolerates_stale": "can use a tell that comes a generation late",
        "dense": "holds D x D matrices: for up to about 1,000 numbers",
        "surrogate": "asks a model of the objective: a step is a part of a generation",
        "deterministic": "draws nothing: the seed does not matter",
        "injects": "takes in solutions that were evaluated elsewhere",
        "resizable": "its state does not depend on the number of candidates",
    }
)


@dataclasses.dataclass(frozen=True)
class Row:
    """One method.

    Attributes:
        name: its name in lower_snake.
        home: where its class is; only a method that is used is imported.
        domain: what it is for, in a few words.
        flags: capabilities, keys of ``FLAGS``.
        sigma: name of the field that ``sigma0`` sets, or None.
        schedules: fields that may be a function of the step.
        test: options for the conformance suite.
        generations: steps the suite gives it on the shifted quadratic.
        bound: fitness it must reach there, from 5.
        smallest: population size that it takes, where it can be chosen.
        tokens: whether its solutions are token sequences, ``int32[L]``; numbers else.
        most: numbers up to which its defaults search anything, or None.
        beyond: what to set, or to take in its place, for more of them.
    """

    name: str
    home: str
    domain: str
    flags: frozenset[str]
    sigma: str | None
    schedules: tuple[str, ...]
    test: Mapping[str, Any]
    generations: int
    bound: float
    smallest: int = 2
    tokens: bool = False
    most: int | None = None
    beyond: str = ""

    @property
    def cls(self) -> type:
        """Its class."""
        module, _, name = self.home.rpartition(".")
        return getattr(importlib.import_module(module), name)


ROWS = (
    Row(
        "random_search",
        "gfopt.optimizers.random_search.RandomSearch",
        "baseline, any size",
        frozenset({"rank_based", "seeds", "population_size", "tolerates_stale"}),
        "sigma",
        ("sigma",),
        {"population_size": 16, "sigma": 0.5},
        60,
        3.0,
    ),
    Row(
        "open_es",
        "gfopt.optimizers.evolution_strategies.open_es.OpenES",
        "networks, any size",
        frozenset({"rank_based", "seeds", "population_size", "pairs", "resizable"}),
        "sigma",
        ("sigma", "learning_rate", "weight_decay"),
        {"population_size": 16, "sigma": 0.1, "learning_rate": 0.05},
        150,
        1e-2,
    ),
    Row(
        "deep_ga",
        "gfopt.optimizers.deep_ga.DeepGA",
        "networks, deceptive rewards",
        frozenset({"rank_based", "seeds", "population_size", "stops"}),
        "sigma",
        ("sigma",),
        {"population_size": 16, "num_parents": 4, "sigma": 0.2, "max_generations": 300},
        150,
        0.5,
        1,
    ),
    Row(
        "pgpe",
        "gfopt.optimizers.evolution_strategies.pgpe.PGPE",
        "networks and control, any size",
        frozenset({"rank_based", "seeds", "population_size", "pairs", "resizable"}),
        "sigma",
        ("learning_rate", "std_learning_rate"),
        {
            "population_size": 16,
            "sigma": 0.2,
            "learning_rate": 0.02,
            "std_learning_rate": 0.1,
        },
        150,
        1e-2,
    ),
    Row(
        "ars",
        "gfopt.optimizers.evolution_strategies.ars.ARS",
        "networks and control, any size",
        frozenset({"seeds", "population_size", "pairs", "resizable"}),
        "sigma",
        ("sigma", "learning_rate", "weight_decay"),
        {"population_size": 16, "sigma": 0.05, "learning_rate": 0.05},
        150,
        5e-2,
    ),
    Row(
        "persistent_es",
        "gfopt.optimizers.evolution_strategies.persistent_es.PersistentES",
        "unrolled problems, any size",
        frozenset({"seeds", "population_size", "pairs"}),
        "sigma",
        ("sigma", "learning_rate", "weight_decay"),
        {"population_size": 16, "sigma": 0.1, "learning_rate": 0.05},
        150,
        5e-2,
    ),
    Row(
        "cma_es",
        "gfopt.optimizers.cma.cma_es.CMAES",
        "black box, 1 to 1,000 numbers",
        frozenset(
            {
                "rank_based",
                "population_size",
                "injects",
                "resizable",
                "rotation_invariant",
                "stops",
                "dense",
            }
        ),
        "sigma",
        (),
        {"sigma": 0.5},
        120,
        1e-6,
    ),
    Row(
        "sep_cma_es",
        "gfopt.optimizers.cma.sep_cma_es.SepCMAES",
        "black box, any number of separable ones",
        frozenset({"rank_based", "population_size", "stops"}),
        "sigma",
        (),
        {"sigma": 0.5},
        120,
        1e-6,
    ),
    Row(
        "lq_cma_es",
        "gfopt.optimizers.cma.lq_cma_es.LQCMAES",
        "costly black box, 1 to 40 numbers",
        frozenset(
            {
                "population_size",
                "rotation_invariant",
                "stops",
                "dense",
                "surrogate",
            }
        ),
        "sigma",
        (),
        {"sigma": 0.5},
        150,
        1e-6,
    ),
    Row(
        "snes",
        "gfopt.optimizers.evolution_strategies.snes.SNES",
        "black box and networks, any size",
        frozenset({"rank_based", "seeds", "population_size", "resizable", "stops"}),
        "sigma",
        ("learning_rate", "std_learning_rate"),
        {"sigma": 0.5, "learning_rate": 1.0, "std_learning_rate": 0.4},
        120,
        1e-6,
    ),
    Row(
        "xnes",
        "gfopt.optimizers.evolution_strategies.xnes.XNES",
        "black box, 2 to some 100 numbers",
        frozenset(
            {"rank_based", "population_size", "rotation_invariant", "stops", "dense"}
        ),
        "sigma",
        ("learning_rate", "sigma_learning_rate", "shape_learning_rate"),
        {
            "sigma": 0.5,
            "learning_rate": 1.0,
            "sigma_learning_rate": 0.4,
            "shape_learning_rate": 0.2,
        },
        160,
        1e-6,
    ),
    Row(
        "cr_fm_nes",
        "gfopt.optimizers.cma.cr_fm_nes.CRFMNES",
        "black box, 100 to some 10,000 numbers",
        frozenset({"rank_based", "population_size", "pairs", "stops"}),
        "sigma",
        (),
        {"sigma": 0.5},
        160,
        1e-6,
    ),
    Row(
        "mezo",
        "gfopt.optimizers.zeroth_order.mezo.MeZO",
        "fine-tuning at the memory of inference",
        frozenset({"seeds", "lazy", "population_size", "pairs", "resizable"}),
        None,
        ("learning_rate", "eps"),
        {"learning_rate": 0.03, "eps": 1e-3},
        300,
        1e-2,
    ),
    Row(
        "qzo",
        "gfopt.optimizers.zeroth_order.qzo.QZO",
        "fine-tuning a quantized model through its scales",
        frozenset({"seeds", "lazy", "population_size", "pairs"}),
        None,
        ("learning_rate", "eps", "clip"),
        {"learning_rate": 0.03, "eps": 1e-3},
        300,
        1e-2,
    ),
    Row(
        "spsa",
        "gfopt.optimizers.zeroth_order.spsa.SPSA",
        "noisy measurements, any size",
        frozenset({"seeds", "lazy", "signs", "population_size", "pairs", "resizable"}),
        None,
        (),
        {"learning_rate": 0.5, "eps": 1e-2, "stability": 20.0},
        300,
        1e-2,
    ),
    Row(
        "fzoo",
        "gfopt.optimizers.zeroth_order.fzoo.FZOO",
        "fine-tuning in batches of forward passes",
        frozenset(
            {"seeds", "lazy", "signs", "population_size", "resizable", "centered"}
        ),
        None,
        ("learning_rate", "eps"),
        {"learning_rate": 0.02, "eps": 1e-3, "population_size": 9},
        400,
        5e-2,
        smallest=3,
    ),
    Row(
        "sparse_mezo",
        "gfopt.optimizers.zeroth_order.sparse_mezo.SparseMeZO",
        "fine-tuning of the small weights of each matrix",
        frozenset({"seeds", "lazy", "population_size", "pairs", "resizable"}),
        None,
        ("learning_rate", "eps"),
        {"learning_rate": 0.03, "eps": 1e-3},
        300,
        1e-2,
    ),
    Row(
        "svrg",
        "gfopt.optimizers.zeroth_order.svrg.SVRG",
        "fine-tuning on small batches of finite data, to the end",
        frozenset({"seeds", "lazy", "signs", "pairs"}),
        None,
        ("learning_rate", "eps"),
        {
            "learning_rate": 0.05,
            "eps": 1e-3,
            "num_directions": 3,
            "period": 16,
            "anchor_batches": 1,
        },
        300,
        1e-2,
    ),
    Row(
        "hizoo",
        "gfopt.optimizers.zeroth_order.hizoo.HiZOO",
        "fine-tuning of numbers on different scales",
        frozenset({"seeds", "lazy", "centered"}),
        None,
        ("learning_rate", "eps", "hessian_rate"),
        {"learning_rate": 0.1, "eps": 0.25, "hessian_rate": 0.05},
        300,
        1e-2,
    ),
    Row(
        "differential_evolution",
        "gfopt.optimizers.differential_evolution.DifferentialEvolution",
        "black box, 1 to 100 numbers, many minima",
        frozenset({"rank_based", "population_size", "stops", "tolerates_stale"}),
        "sigma",
        ("mutation", "dither", "crossover_rate"),
        {"population_size": 16, "sigma": 0.5, "crossover_rate": 0.5},
        120,
        1e-2,
        smallest=4,
    ),
    Row(
        "particle_swarm",
        "gfopt.optimizers.particle_swarm.ParticleSwarm",
        "black box, 1 to 100 numbers, many minima",
        frozenset({"rank_based", "population_size", "stops"}),
        "sigma",
        ("inertia", "cognitive", "social"),
        {"population_size": 16, "sigma": 0.5, "inertia": 0.7},
        120,
        1e-3,
    ),
    Row(
        "cross_entropy",
        "gfopt.optimizers.cross_entropy.CrossEntropy",
        "black box, 1 to some 1,000 numbers, many candidates a step",
        frozenset({"rank_based", "population_size", "injects", "resizable", "stops"}),
        "sigma",
        ("elite_fraction", "learning_rate", "std_learning_rate", "min_std"),
        {"population_size": 16, "sigma": 0.5, "std_learning_rate": 0.2},
        120,
        1e-4,
    ),
    Row(
        "cbo",
        "gfopt.optimizers.consensus.cbo.CBO",
        "black box, 1 to 100 numbers, many minima",
        frozenset({"population_size", "stops"}),
        "sigma",
        ("alpha", "drift", "diffusion", "dt", "floor"),
        {
            "population_size": 24,
            "sigma": 0.5,
            "alpha": 30.0,
            "diffusion": 1.2,
            "dt": 0.5,
            "floor": 0.02,
            "longest": 20.0,
            "memory_diffusion": 0.1,
            "kick": 0.05,
            "reduction": 0.1,
        },
        150,
        0.3,
        most=1000,
        beyond="consensus_hopping, or a noise that stays, such as sigma0=0.05 and "
        "options={'diffusion': 0.0, 'floor': 0.05, 'dt': 0.5}",
    ),
    Row(
        "consensus_hopping",
        "gfopt.optimizers.consensus.hopping.ConsensusHopping",
        "networks, any size",
        frozenset({"seeds", "population_size", "resizable"}),
        "sigma",
        ("sigma", "alpha"),
        {"population_size": 32, "sigma": 0.1, "alpha": 30.0},
        150,
        0.1,
    ),
    Row(
        "one_plus_one",
        "gfopt.optimizers.evolution_strategies.one_plus_one.OnePlusOneES",
        "baseline, any size",
        frozenset({"rank_based", "seeds", "rotation_invariant", "stops"}),
        "sigma",
        (),
        {"sigma": 0.5, "damping": 2.0},
        400,
        1e-4,
    ),
    Row(
        "nelder_mead",
        "gfopt.optimizers.nelder_mead.NelderMead",
        "smooth black box, 1 to 10 numbers, few evaluations",
        frozenset({"rank_based", "stops", "dense", "deterministic"}),
        "sigma",
        (),
        {"sigma": 0.3},
        250,
        1e-4,
    ),
    Row(
        "random_tokens",
        "gfopt.tokens.random_tokens.RandomTokens",
        "token sequences and subsets: the baseline",
        frozenset({"rank_based", "population_size", "tolerates_stale"}),
        None,
        ("change_rate",),
        {"vocabulary": 12, "population_size": 16, "change_rate": 0.5},
        200,
        4.0,
        1,
        tokens=True,
    ),
    Row(
        "greedy_tokens",
        "gfopt.tokens.greedy_tokens.GreedyTokens",
        "token sequences, position by position",
        frozenset({"rank_based", "population_size", "stops"}),
        None,
        (),
        {"vocabulary": 12, "population_size": 8},
        60,
        0.0,
        1,
        tokens=True,
    ),
    Row(
        "genetic_tokens",
        "gfopt.tokens.genetic_tokens.GeneticTokens",
        "token sequences and subsets",
        frozenset({"rank_based", "population_size", "tolerates_stale"}),
        None,
        ("mutation_rate", "crossover_share", "immigrant_share"),
        {
            "vocabulary": 12,
            "population_size": 16,
            "mutation_rate": 0.2,
            "crossover_share": 0.4,
            "immigrant_share": 0.1,
        },
        120,
        0.0,
        1,
        tokens=True,
    ),
    Row(
        "particle_tokens",
        "gfopt.tokens.particle_tokens.ParticleTokens",
        "token sequences, small vocabularies",
        frozenset({"rank_based", "population_size"}),
        None,
        ("mutation_rate",),
        {
            "vocabulary": 12,
            "population_size": 16,
            "first_weight": 0.4,
            "mutation_rate": 0.4,
        },
        200,
        1.0,
        1,
        tokens=True,
    ),
)
