"""How the conformance suite runs each method, and how far it must get.

A method without a line here runs with its own defaults.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from gfopt import consensus
from gfopt.methods_table import Row


@dataclass(frozen=True)
class Configuration:
    """One method's configuration.

    Attributes:
        options: fields of the method.
        schedules: fields that may be a function of the step.
        generations: steps on the shifted quadratic, from a fitness of 5.
        bound: the fitness that it must reach there.
        smallest: the smallest population size, where it can be chosen.
    """

    options: Mapping[str, Any] = field(default_factory=dict)
    schedules: tuple[str, ...] = ()
    generations: int = 150
    bound: float = 1e-2
    smallest: int = 2


def configuration(row: Row) -> Configuration:
    """Returns a method's configuration: its line, or a default."""
    default: dict[str, Any] = {} if row.sigma is None else {row.sigma: 0.5}
    if row.tokens:
        default["vocabulary"] = 12
    return CONFIGURATIONS.get(row.name, Configuration(default))


CONFIGURATIONS = {
    "random_search": Configuration(
        {"population_size": 16, "sigma": 0.5},
        schedules=("sigma",),
        generations=60,
        bound=3.0,
    ),
    "open_es": Configuration(
        {"population_size": 16, "sigma": 0.1, "learning_rate": 0.05},
        schedules=("sigma", "learning_rate", "weight_decay"),
    ),
    "deep_ga": Configuration(
        {"population_size": 16, "num_parents": 4, "sigma": 0.2, "max_generations": 300},
        schedules=("sigma",),
        bound=0.5,
        smallest=1,
    ),
    "pgpe": Configuration(
        {
            "population_size": 16,
            "sigma": 0.2,
            "learning_rate": 0.02,
            "std_learning_rate": 0.1,
        },
        schedules=("learning_rate", "std_learning_rate"),
    ),
    "ars": Configuration(
        {"population_size": 16, "sigma": 0.05, "learning_rate": 0.05},
        schedules=("sigma", "learning_rate", "weight_decay"),
        bound=5e-2,
    ),
    "persistent_es": Configuration(
        {"population_size": 16, "sigma": 0.1, "learning_rate": 0.05},
        schedules=("sigma", "learning_rate", "weight_decay"),
        bound=5e-2,
    ),
    "cma_es": Configuration({"sigma": 0.5}, generations=120, bound=1e-6),
    "sep_cma_es": Configuration({"sigma": 0.5}, generations=120, bound=1e-6),
    "lq_cma_es": Configuration({"sigma": 0.5}, bound=1e-6),
    "snes": Configuration(
        {"sigma": 0.5, "learning_rate": 1.0, "std_learning_rate": 0.4},
        schedules=("learning_rate", "std_learning_rate"),
        generations=120,
        bound=1e-6,
    ),
    "xnes": Configuration(
        {
            "sigma": 0.5,
            "learning_rate": 1.0,
            "sigma_learning_rate": 0.4,
            "shape_learning_rate": 0.2,
        },
        schedules=("learning_rate", "sigma_learning_rate", "shape_learning_rate"),
        generations=160,
        bound=1e-6,
    ),
    "cr_fm_nes": Configuration({"sigma": 0.5}, generations=160, bound=1e-6),
    "mezo": Configuration(
        {"learning_rate": 0.03, "eps": 1e-3},
        schedules=("learning_rate", "eps"),
        generations=300,
    ),
    "qzo": Configuration(
        {"learning_rate": 0.03, "eps": 1e-3},
        schedules=("learning_rate", "eps", "clip"),
        generations=300,
    ),
    "qes": Configuration(
        {"population_size": 16, "sigma": 0.1, "learning_rate": 0.05, "decay": 0.5},
        schedules=("sigma", "learning_rate", "decay"),
        bound=5e-2,
    ),
    "spsa": Configuration(
        {"learning_rate": 0.5, "eps": 1e-2, "stability": 20.0}, generations=300
    ),
    "fzoo": Configuration(
        {"learning_rate": 0.02, "eps": 1e-3, "population_size": 9},
        schedules=("learning_rate", "eps"),
        generations=400,
        bound=5e-2,
        smallest=3,
    ),
    "sparse_mezo": Configuration(
        {"learning_rate": 0.03, "eps": 1e-3},
        schedules=("learning_rate", "eps"),
        generations=300,
    ),
    "svrg": Configuration(
        {
            "learning_rate": 0.05,
            "eps": 1e-3,
            "num_directions": 3,
            "period": 16,
            "anchor_batches": 1,
        },
        schedules=("learning_rate", "eps"),
        generations=300,
    ),
    "hizoo": Configuration(
        {"learning_rate": 0.1, "eps": 0.25, "hessian_rate": 0.05},
        schedules=("learning_rate", "eps", "hessian_rate"),
        generations=300,
    ),
    "differential_evolution": Configuration(
        {"population_size": 16, "sigma": 0.5, "crossover_rate": 0.5},
        schedules=("mutation", "dither", "crossover_rate"),
        generations=120,
        smallest=4,
    ),
    "particle_swarm": Configuration(
        {"population_size": 16, "sigma": 0.5, "inertia": 0.7},
        schedules=("inertia", "cognitive", "social"),
        generations=120,
        bound=1e-3,
    ),
    "cross_entropy": Configuration(
        {"population_size": 16, "sigma": 0.5, "std_learning_rate": 0.2},
        schedules=("elite_fraction", "learning_rate", "std_learning_rate", "min_std"),
        generations=120,
        bound=1e-4,
    ),
    "cbo": Configuration(
        {
            "population_size": 24,
            "sigma": 0.5,
            "alpha": 30.0,
            "diffusion": 1.2,
            "dt": 0.5,
            "floor": 0.02,
            "scaling": consensus.Anisotropic(max_distance=20.0),
            "kick": consensus.Kick(0.05),
            "reduction": consensus.Reduction(0.1),
        },
        schedules=("alpha", "drift", "diffusion", "dt", "floor"),
        bound=0.3,
    ),
    "consensus_hopping": Configuration(
        {"population_size": 32, "sigma": 0.1, "alpha": 30.0},
        schedules=("sigma", "alpha"),
        bound=0.1,
    ),
    "one_plus_one": Configuration(
        {"sigma": 0.5, "damping": 2.0}, generations=400, bound=1e-4
    ),
    "coordinate_search": Configuration(
        {"sigma": 0.3, "batch_size": 16}, generations=60, bound=1e-4
    ),
    "bayesian_optimization": Configuration(
        {"sigma": 1.0, "num_points": 24}, generations=30, bound=5e-2
    ),
    "nelder_mead": Configuration({"sigma": 0.3}, generations=250, bound=1e-4),
    "random_tokens": Configuration(
        {"vocabulary": 12, "population_size": 16, "change_rate": 0.5},
        schedules=("change_rate",),
        generations=200,
        bound=4.0,
        smallest=1,
    ),
    "greedy_tokens": Configuration(
        {"vocabulary": 12, "population_size": 8}, generations=60, bound=0.0, smallest=1
    ),
    "genetic_tokens": Configuration(
        {
            "vocabulary": 12,
            "population_size": 16,
            "mutation_rate": 0.2,
            "crossover_share": 0.4,
            "immigrant_share": 0.1,
        },
        schedules=("mutation_rate", "crossover_share", "immigrant_share"),
        generations=120,
        bound=0.0,
        smallest=1,
    ),
    "aging_evolution": Configuration(
        {
            "vocabulary": 12,
            "population_size": 16,
            "num_living": 32,
            "tournament_size": 8,
            "mutation_rate": 0.1,
        },
        schedules=("mutation_rate",),
        bound=0.0,
        smallest=1,
    ),
    "categorical_tokens": Configuration(
        {
            "vocabulary": 12,
            "population_size": 16,
            "learning_rate": 0.3,
            "min_probability": 0.01,
        },
        schedules=("learning_rate",),
        generations=120,
        bound=0.0,
    ),
    "particle_tokens": Configuration(
        {
            "vocabulary": 12,
            "population_size": 16,
            "first_weight": 0.4,
            "mutation_rate": 0.4,
        },
        schedules=("mutation_rate",),
        generations=200,
        bound=1.0,
        smallest=1,
    ),
}
