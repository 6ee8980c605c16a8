"""The public names of gfopt, each with the module that defines it.

Type checkers read this file as a stub, and ``__init__.py`` reads it as its table: a
name is added here, and nowhere else.
"""

from gfopt import analytic as analytic
from gfopt import consensus as consensus
from gfopt import engines as engines
from gfopt import genome as genome
from gfopt import gradients as gradients
from gfopt import lazy as lazy
from gfopt import mirror_maps as mirror_maps
from gfopt import noise as noise
from gfopt import problems as problems
from gfopt import prompts as prompts
from gfopt import protocol as protocol
from gfopt import pytree as pytree
from gfopt import quantization as quantization
from gfopt import shaping as shaping
from gfopt import spaces as spaces
from gfopt import steering as steering
from gfopt import texts as texts
from gfopt import tokens as tokens
from gfopt.consensus.cbo import CBO as CBO
from gfopt.consensus.hopping import ConsensusHopping as ConsensusHopping
from gfopt.core.constraints import ConstraintValues as ConstraintValues
from gfopt.core.evaluate import chunked as chunked
from gfopt.core.evaluate import vmapped as vmapped
from gfopt.core.host.evaluator import host as host
from gfopt.core.objective import Objective as Objective
from gfopt.core.sharded import sharded as sharded
from gfopt.core.trees import merge as merge
from gfopt.core.trees import partition as partition
from gfopt.driver.ask_tell import AskTell as AskTell
from gfopt.driver.minimize import minimize as minimize
from gfopt.driver.replay.replay import ReplayLog as ReplayLog
from gfopt.driver.replay.replay import replay as replay
from gfopt.driver.replay.value_log import ValueLog as ValueLog
from gfopt.driver.result.endings import Status as Status
from gfopt.driver.result.result import Result as Result
from gfopt.driver.result.tracker import Tracker as Tracker
from gfopt.driver.run import RunResult as RunResult
from gfopt.driver.run import run as run
from gfopt.driver.scipy_method import scipy_method as scipy_method
from gfopt.driver.setup.warm_start import warm_start as warm_start
from gfopt.driver.study import Study as Study
from gfopt.driver.trials.trial import Trial as Trial
from gfopt.noise.noise import gaussian as gaussian
from gfopt.noise.noise import rademacher as rademacher
from gfopt.noise.perturbation.low_rank_noise import low_rank as low_rank
from gfopt.optimizers.bayesian.bayesian_optimization import (
    BayesianOptimization as BayesianOptimization,
)
from gfopt.optimizers.cma.cma_es import CMAES as CMAES
from gfopt.optimizers.cma.cr_fm_nes import CRFMNES as CRFMNES
from gfopt.optimizers.cma.lq_cma_es import LQCMAES as LQCMAES
from gfopt.optimizers.cma.sep_cma_es import SepCMAES as SepCMAES
from gfopt.optimizers.coordinate_search import CoordinateSearch as CoordinateSearch
from gfopt.optimizers.cross_entropy import CrossEntropy as CrossEntropy
from gfopt.optimizers.deep_ga import DeepGA as DeepGA
from gfopt.optimizers.descent import clip_up as clip_up
from gfopt.optimizers.differential_evolution import (
    DifferentialEvolution as DifferentialEvolution,
)
from gfopt.optimizers.evolution_strategies.ars import ARS as ARS
from gfopt.optimizers.evolution_strategies.one_plus_one import (
    OnePlusOneES as OnePlusOneES,
)
from gfopt.optimizers.evolution_strategies.open_es import OpenES as OpenES
from gfopt.optimizers.evolution_strategies.persistent_es import (
    PersistentES as PersistentES,
)
from gfopt.optimizers.evolution_strategies.pgpe import PGPE as PGPE
from gfopt.optimizers.evolution_strategies.snes import SNES as SNES
from gfopt.optimizers.evolution_strategies.xnes import XNES as XNES
from gfopt.optimizers.nelder_mead import NelderMead as NelderMead
from gfopt.optimizers.particle_swarm import ParticleSwarm as ParticleSwarm
from gfopt.optimizers.random_search import RandomSearch as RandomSearch
from gfopt.optimizers.wrappers.augmented_lagrangian import (
    AugmentedLagrangian as AugmentedLagrangian,
)
from gfopt.optimizers.wrappers.bounded import Bounded as Bounded
from gfopt.optimizers.wrappers.feasibility_rule import (
    FeasibilityRule as FeasibilityRule,
)
from gfopt.optimizers.wrappers.grid_archive import GridArchive as GridArchive
from gfopt.optimizers.wrappers.margin import Margin as Margin
from gfopt.optimizers.wrappers.novelty import Novelty as Novelty
from gfopt.optimizers.wrappers.novelty_agents import NoveltyAgents as NoveltyAgents
from gfopt.optimizers.wrappers.reevaluated import Reevaluated as Reevaluated
from gfopt.optimizers.wrappers.restarts import Restarts as Restarts
from gfopt.optimizers.wrappers.screened import Screened as Screened
from gfopt.optimizers.wrappers.separable import Separable as Separable
from gfopt.optimizers.wrappers.subspace import Subspace as Subspace
from gfopt.optimizers.zeroth_order.fzoo import FZOO as FZOO
from gfopt.optimizers.zeroth_order.hizoo import HiZOO as HiZOO
from gfopt.optimizers.zeroth_order.mezo import MeZO as MeZO
from gfopt.optimizers.zeroth_order.qzo import QZO as QZO
from gfopt.optimizers.zeroth_order.sparse_mezo import SparseMeZO as SparseMeZO
from gfopt.optimizers.zeroth_order.spsa import SPSA as SPSA
from gfopt.optimizers.zeroth_order.svrg import SVRG as SVRG
from gfopt.protocol import Optimizer as Optimizer
from gfopt.quantization.qes import QES as QES
from gfopt.registry import METHODS as METHODS
from gfopt.registry import method as method
from gfopt.research.bench import BenchResult as BenchResult
from gfopt.research.bench import bench as bench
from gfopt.research.sweep import sweep as sweep
from gfopt.research.sweep_result import SweepResult as SweepResult
from gfopt.types import Evaluation as Evaluation
from gfopt.types import Population as Population

__version__: str
