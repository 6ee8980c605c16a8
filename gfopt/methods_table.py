"""The table of methods: one row each, with its class, its domain and what it can do.

To add a method, see ``docs/adding_a_method.md``.
"""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

FLAGS: Mapping[str, str] = MappingProxyType(
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
        "surrogate": "asks a model of the objective what to evaluate next",
        "deterministic": "draws nothing: the seed does not matter",
        "injects": "takes in solutions that were evaluated elsewhere",
        "asynchronous": "can be told values as they come, of candidates of any step",
        "resizable": "its state does not depend on the number of candidates",
    }
)

# what the rows of a family share
RANKED = frozenset({"rank_based", "population_size"})
SEEDED = frozenset({"seeds", "population_size"})
IN_PLACE = SEEDED | {"lazy"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
    """One method.

    Attributes:
        name: in lower_snake.
        home: the full name of its class, which is imported when it is used.
        domain: what it is for, in a few words.
        flags: its capabilities, keys of ``FLAGS``.
        sigma: the field that ``sigma0`` sets, or None.
        tokens: whether its solutions are token sequences ``int32[L]`` and not numbers.
        most: the largest number of parameters that its defaults suit; None for any.
        beyond: what to set, or which method to take, for more of them.
    """

    name: str
    home: str
    domain: str
    flags: frozenset[str]
    sigma: str | None = "sigma"
    tokens: bool = False
    most: int | None = None
    beyond: str = ""

    @property
    def cls(self) -> type[Any]:
        """The class of the method."""
        module, _, name = self.home.rpartition(".")
        cls: type[Any] = getattr(importlib.import_module(module), name)
        return cls


ROWS = (
    Row(
        name="random_search",
        home="gfopt.optimizers.random_search.RandomSearch",
        domain="baseline, any size",
        flags=SEEDED | RANKED | {"tolerates_stale", "asynchronous"},
    ),
    Row(
        name="open_es",
        home="gfopt.optimizers.evolution_strategies.open_es.OpenES",
        domain="networks, any size",
        flags=SEEDED | RANKED | {"pairs", "resizable"},
    ),
    Row(
        name="deep_ga",
        home="gfopt.optimizers.deep_ga.DeepGA",
        domain="networks, deceptive rewards",
        flags=SEEDED | RANKED | {"stops"},
    ),
    Row(
        name="pgpe",
        home="gfopt.optimizers.evolution_strategies.pgpe.PGPE",
        domain="networks and control, any size",
        flags=SEEDED | RANKED | {"pairs", "resizable"},
    ),
    Row(
        name="ars",
        home="gfopt.optimizers.evolution_strategies.ars.ARS",
        domain="networks and control, any size",
        flags=SEEDED | {"pairs", "resizable"},
    ),
    Row(
        name="persistent_es",
        home="gfopt.optimizers.evolution_strategies.persistent_es.PersistentES",
        domain="unrolled problems, any size",
        flags=SEEDED | {"pairs"},
    ),
    Row(
        name="cma_es",
        home="gfopt.optimizers.cma.cma_es.CMAES",
        domain="black box, 1 to 1,000 parameters",
        flags=RANKED
        | {"rotation_invariant", "stops", "dense", "injects", "resizable"}
        | {"asynchronous"},
    ),
    Row(
        name="sep_cma_es",
        home="gfopt.optimizers.cma.sep_cma_es.SepCMAES",
        domain="separable black box, any size",
        flags=RANKED | {"stops", "injects", "asynchronous"},
    ),
    Row(
        name="lq_cma_es",
        home="gfopt.optimizers.cma.lq_cma_es.LQCMAES",
        domain="costly black box, 1 to 40 parameters",
        flags=frozenset(
            {"population_size", "rotation_invariant", "stops", "dense", "surrogate"}
        ),
    ),
    Row(
        name="snes",
        home="gfopt.optimizers.evolution_strategies.snes.SNES",
        domain="black box and networks, any size",
        flags=SEEDED | RANKED | {"stops", "resizable"},
    ),
    Row(
        name="xnes",
        home="gfopt.optimizers.evolution_strategies.xnes.XNES",
        domain="black box, 2 to about 100 parameters",
        flags=RANKED | {"rotation_invariant", "stops", "dense"},
    ),
    Row(
        name="cr_fm_nes",
        home="gfopt.optimizers.cma.cr_fm_nes.CRFMNES",
        domain="black box, 100 to about 10,000 parameters",
        flags=RANKED | {"pairs", "stops"},
    ),
    Row(
        name="mezo",
        home="gfopt.optimizers.zeroth_order.mezo.MeZO",
        domain="fine-tuning in about the memory of inference",
        flags=IN_PLACE | {"pairs", "resizable"},
        sigma=None,
    ),
    Row(
        name="qzo",
        home="gfopt.optimizers.zeroth_order.qzo.QZO",
        domain="fine-tuning a quantized model through its scales",
        flags=IN_PLACE | {"pairs"},
        sigma=None,
    ),
    Row(
        name="qes",
        home="gfopt.quantization.qes.QES",
        domain="fine-tuning a quantized model through its integer codes",
        flags=IN_PLACE | {"pairs", "signs"},
    ),
    Row(
        name="spsa",
        home="gfopt.optimizers.zeroth_order.spsa.SPSA",
        domain="noisy measurements, any size",
        flags=IN_PLACE | {"signs", "pairs", "resizable"},
        sigma=None,
    ),
    Row(
        name="fzoo",
        home="gfopt.optimizers.zeroth_order.fzoo.FZOO",
        domain="fine-tuning in batches of forward passes",
        flags=IN_PLACE | {"centered", "signs", "resizable"},
        sigma=None,
    ),
    Row(
        name="sparse_mezo",
        home="gfopt.optimizers.zeroth_order.sparse_mezo.SparseMeZO",
        domain="fine-tuning of the small weights of each matrix",
        flags=IN_PLACE | {"pairs", "resizable"},
        sigma=None,
    ),
    Row(
        name="svrg",
        home="gfopt.optimizers.zeroth_order.svrg.SVRG",
        domain="fine-tuning on small batches of finite data, to the end",
        flags=frozenset({"seeds", "signs", "lazy", "pairs"}),
        sigma=None,
    ),
    Row(
        name="hizoo",
        home="gfopt.optimizers.zeroth_order.hizoo.HiZOO",
        domain="fine-tuning of parameters on different scales",
        flags=frozenset({"seeds", "centered", "lazy"}),
        sigma=None,
    ),
    Row(
        name="differential_evolution",
        home="gfopt.optimizers.differential_evolution.DifferentialEvolution",
        domain="black box, 1 to 100 parameters, many minima",
        flags=RANKED | {"stops", "tolerates_stale", "asynchronous"},
    ),
    Row(
        name="particle_swarm",
        home="gfopt.optimizers.particle_swarm.ParticleSwarm",
        domain="black box, 1 to 100 parameters, many minima",
        flags=RANKED | {"stops"},
    ),
    Row(
        name="cross_entropy",
        home="gfopt.optimizers.cross_entropy.CrossEntropy",
        domain="black box, 1 to about 1,000 parameters, many candidates per step",
        flags=RANKED | {"stops", "injects", "resizable", "asynchronous"},
    ),
    Row(
        name="cbo",
        home="gfopt.consensus.cbo.CBO",
        domain="black box, 1 to 100 parameters, many minima",
        flags=frozenset({"population_size", "stops"}),
        most=1000,
        beyond="consensus_hopping, or a noise that stays, such as sigma0=0.05 and "
        "options={'diffusion': 0.0, 'floor': 0.05, 'dt': 0.5}",
    ),
    Row(
        name="consensus_hopping",
        home="gfopt.consensus.hopping.ConsensusHopping",
        domain="networks, any size",
        flags=SEEDED | {"resizable"},
    ),
    Row(
        name="one_plus_one",
        home="gfopt.optimizers.evolution_strategies.one_plus_one.OnePlusOneES",
        domain="baseline, any size",
        flags=frozenset({"rank_based", "seeds", "rotation_invariant", "stops"}),
    ),
    Row(
        name="coordinate_search",
        home="gfopt.optimizers.coordinate_search.CoordinateSearch",
        domain="sums of functions of one parameter each",
        flags=frozenset({"deterministic", "stops"}),
    ),
    Row(
        name="bayesian_optimization",
        home="gfopt.optimizers.bayesian.bayesian_optimization.BayesianOptimization",
        domain="very costly black box, 1 to 30 parameters, mixed spaces",
        flags=frozenset({"surrogate"}),
        most=200,
        beyond="cma_es",
    ),
    Row(
        name="nelder_mead",
        home="gfopt.optimizers.nelder_mead.NelderMead",
        domain="smooth black box, 1 to 10 parameters, few evaluations",
        flags=frozenset({"rank_based", "stops", "dense", "deterministic"}),
    ),
    Row(
        name="random_tokens",
        home="gfopt.tokens.random_tokens.RandomTokens",
        domain="token sequences and subsets: the baseline",
        flags=RANKED | {"tolerates_stale", "asynchronous"},
        sigma=None,
        tokens=True,
    ),
    Row(
        name="greedy_tokens",
        home="gfopt.tokens.greedy_tokens.GreedyTokens",
        domain="token sequences, one position at a time",
        flags=RANKED | {"stops"},
        sigma=None,
        tokens=True,
    ),
    Row(
        name="genetic_tokens",
        home="gfopt.tokens.genetic_tokens.GeneticTokens",
        domain="token sequences and subsets",
        flags=RANKED | {"tolerates_stale", "asynchronous"},
        sigma=None,
        tokens=True,
    ),
    Row(
        name="aging_evolution",
        home="gfopt.tokens.aging_evolution.AgingEvolution",
        domain="choices, architectures and programs, noisy scores",
        flags=RANKED | {"tolerates_stale", "asynchronous"},
        sigma=None,
        tokens=True,
    ),
    Row(
        name="categorical_tokens",
        home="gfopt.tokens.categorical_tokens.CategoricalTokens",
        domain="token sequences, small vocabularies, choices",
        flags=RANKED | {"tolerates_stale", "asynchronous", "resizable"},
        sigma=None,
        tokens=True,
    ),
    Row(
        name="particle_tokens",
        home="gfopt.tokens.particle_tokens.ParticleTokens",
        domain="token sequences, small vocabularies",
        flags=RANKED,
        sigma=None,
        tokens=True,
    ),
)
