"""gfopt: gradient-free optimization in JAX.

Ask/tell optimizers, jit- and vmap-compiled, on one population-evaluation core.
"""

from gfopt import problems, tokens
from gfopt.core.black_box import black_box
from gfopt.core.constraints import ConstraintValues
from gfopt.core.counting import count_materialisations
from gfopt.core.domains import categorical, integer, real
from gfopt.core.evaluate import chunked, vmapped
from gfopt.core.gradient_estimates import GradientEstimator, gradient_estimator
from gfopt.core.gradient_sketches import per_sample_directional_derivatives
from gfopt.core.host_evaluator import host
from gfopt.core.low_rank import LowRank
from gfopt.core.low_rank_noise import LowRankNoise, low_rank
from gfopt.core.noise import Noise, gaussian, rademacher
from gfopt.core.noise_table import NoiseTable
from gfopt.core.objective import Objective
from gfopt.core.perturbed import Perturbed
from gfopt.core.sharded import sharded
from gfopt.core.spaces import Space
from gfopt.core.trees import merge, partition
from gfopt.driver import genome
from gfopt.driver.ask_tell import AskTell, Trial
from gfopt.driver.claps import ClapsResult, budget_is_used, claps
from gfopt.driver.minimize import minimize
from gfopt.driver.replay_log import ReplayLog, replay
from gfopt.driver.result import Result, Status
from gfopt.driver.run import RunResult, run
from gfopt.driver.scipy_method import scipy_method
from gfopt.driver.warm_start import warm_start
from gfopt.optimizers.ars import ARS
from gfopt.optimizers.augmented_lagrangian import AugmentedLagrangian
from gfopt.optimizers.bounded import Bounded
from gfopt.optimizers.cma_es import CMAES
from gfopt.optimizers.consensus import CBO
from gfopt.optimizers.consensus_hopping import ConsensusHopping
from gfopt.optimizers.consensus_variants import consensus_variant
from gfopt.optimizers.consensus_weights import EffectiveSampleSize
from gfopt.optimizers.cr_fm_nes import CRFMNES
from gfopt.optimizers.cross_entropy import CrossEntropy
from gfopt.optimizers.deep_ga import DeepGA
from gfopt.optimizers.descent import clip_up
from gfopt.optimizers.differential_evolution import DifferentialEvolution
from gfopt.optimizers.feasibility_rule import FeasibilityRule
from gfopt.optimizers.fzoo import FZOO
from gfopt.optimizers.hizoo import HiZOO
from gfopt.optimizers.lq_cma_es import LQCMAES
from gfopt.optimizers.margin import Margin
from gfopt.optimizers.mezo import MeZO
from gfopt.optimizers.mirror_maps import Ball, Box, Simplex
from gfopt.optimizers.nelder_mead import NelderMead
from gfopt.optimizers.nes import SNES
from gfopt.optimizers.novelty import Novelty
from gfopt.optimizers.novelty_agents import NoveltyAgents
from gfopt.optimizers.one_plus_one import OnePlusOneES
from gfopt.optimizers.open_es import OpenES
from gfopt.optimizers.particle_swarm import ParticleSwarm
from gfopt.optimizers.persistent_es import PersistentES
from gfopt.optimizers.pgpe import PGPE
from gfopt.optimizers.qzo import QZO
from gfopt.optimizers.random_search import RandomSearch
from gfopt.optimizers.reevaluated import Reevaluated
from gfopt.optimizers.restarts import Restarts
from gfopt.optimizers.sep_cma_es import SepCMAES
from gfopt.optimizers.sparse_mezo import SparseMeZO
from gfopt.optimizers.spsa import SPSA
from gfopt.optimizers.svrg import SVRG
from gfopt.optimizers.xnes import XNES
from gfopt.quantization.quantize import quantize
from gfopt.quantization.quantized import Quantized
from gfopt.quantization.qwix_trees import from_qwix
from gfopt.registry import METHODS, method
from gfopt.tokens.beam import Beast
from gfopt.tokens.combined_scores import Total, Universal
from gfopt.tokens.counting import answers, counted
from gfopt.tokens.genetic_tokens import GeneticTokens
from gfopt.tokens.greedy_tokens import GreedyTokens
from gfopt.tokens.language_model import (
    CachedModel,
    FunctionModel,
    LanguageModel,
    SeveralModels,
    SeveralPrompts,
)
from gfopt.tokens.ledger import Ledger
from gfopt.tokens.particle_tokens import ParticleTokens
from gfopt.tokens.prefix import shared_prefix
from gfopt.tokens.random_tokens import RandomTokens
from gfopt.tokens.ranking import PromptRanking, calibrate, rank_prompts
from gfopt.tokens.remote import (
    EndpointModel,
    HostModel,
    continuation_score,
    torch_model,
)
from gfopt.tokens.scores import Fluency, Targeted, Untargeted
from gfopt.tokens.steering import Steering
from gfopt.tokens.token_counts import token_counting
from gfopt.tokens.vocabulary import Influence, cluster_vocabulary, influence, prune
from gfopt.types import Evaluation, Optimizer, Population

__version__ = "0.1.0"

__all__ = [
    "ARS",
    "AskTell",
    "AugmentedLagrangian",
    "Ball",
    "Beast",
    "Box",
    "CBO",
    "CachedModel",
    "CMAES",
    "LQCMAES",
    "CRFMNES",
    "FZOO",
    "METHODS",
    "PGPE",
    "QZO",
    "SNES",
    "SPSA",
    "SVRG",
    "XNES",
    "Bounded",
    "ClapsResult",
    "ConsensusHopping",
    "ConstraintValues",
    "CrossEntropy",
    "DeepGA",
    "DifferentialEvolution",
    "EffectiveSampleSize",
    "EndpointModel",
    "Evaluation",
    "FeasibilityRule",
    "GeneticTokens",
    "Fluency",
    "FunctionModel",
    "GradientEstimator",
    "GreedyTokens",
    "HiZOO",
    "HostModel",
    "Influence",
    "Ledger",
    "LanguageModel",
    "LowRank",
    "LowRankNoise",
    "Margin",
    "MeZO",
    "NelderMead",
    "Noise",
    "NoiseTable",
    "Novelty",
    "NoveltyAgents",
    "Objective",
    "OnePlusOneES",
    "OpenES",
    "Optimizer",
    "ParticleSwarm",
    "PersistentES",
    "ParticleTokens",
    "Perturbed",
    "Population",
    "PromptRanking",
    "Quantized",
    "RandomSearch",
    "RandomTokens",
    "ReplayLog",
    "Restarts",
    "Reevaluated",
    "Result",
    "RunResult",
    "SepCMAES",
    "SparseMeZO",
    "SeveralModels",
    "SeveralPrompts",
    "Simplex",
    "Space",
    "Status",
    "Steering",
    "Targeted",
    "Total",
    "Trial",
    "answers",
    "Universal",
    "Untargeted",
    "black_box",
    "budget_is_used",
    "calibrate",
    "categorical",
    "chunked",
    "claps",
    "clip_up",
    "cluster_vocabulary",
    "consensus_variant",
    "continuation_score",
    "count_materialisations",
    "counted",
    "from_qwix",
    "gaussian",
    "genome",
    "gradient_estimator",
    "host",
    "influence",
    "integer",
    "low_rank",
    "merge",
    "method",
    "minimize",
    "partition",
    "problems",
    "prune",
    "per_sample_directional_derivatives",
    "quantize",
    "rademacher",
    "rank_prompts",
    "real",
    "replay",
    "run",
    "scipy_method",
    "shared_prefix",
    "token_counting",
    "tokens",
    "torch_model",
    "sharded",
    "vmapped",
    "warm_start",
]
