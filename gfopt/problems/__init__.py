"""Test problems: black-box functions, small networks to train, control tasks."""

from gfopt.problems.bbob_suite.bbob_suite import BBOBProblem, bbob, bbob_batch
from gfopt.problems.classification import Classification, digits
from gfopt.problems.environments.atari import Atari
from gfopt.problems.environments.control import CartPole, Pendulum
from gfopt.problems.environments.environments import brax, gymnax
from gfopt.problems.environments.gymnasium_rollout import GymnasiumRollout
from gfopt.problems.environments.maze import Maze, deceptive_maze, random_maze
from gfopt.problems.environments.pixels import ConvolutionalPolicy
from gfopt.problems.environments.policies import continuous_action, discrete_action
from gfopt.problems.environments.rollout import Rollout
from gfopt.problems.language_models.gguf_export import export_gguf
from gfopt.problems.language_models.language_models import (
    Pretrained,
    load_gguf,
    save_gguf,
    smollm2,
)
from gfopt.problems.language_models.prompted_classification import (
    PromptedClassification,
    prompted,
    word_tokens,
)
from gfopt.problems.language_models.safetensors_export import export_safetensors
from gfopt.problems.language_models.safetensors_files import load_safetensors
from gfopt.problems.language_models.small_language_models import (
    Words,
    small_language_model,
)
from gfopt.problems.linear_projection import LinearProjection
from gfopt.problems.networks import mlp
from gfopt.problems.problem import Problem
from gfopt.problems.unrolls import InfluenceBalancing, unrolled

__all__ = [
    "Atari",
    "BBOBProblem",
    "CartPole",
    "Classification",
    "ConvolutionalPolicy",
    "GymnasiumRollout",
    "InfluenceBalancing",
    "LinearProjection",
    "Maze",
    "Pendulum",
    "Pretrained",
    "Problem",
    "PromptedClassification",
    "Rollout",
    "Words",
    "bbob",
    "bbob_batch",
    "brax",
    "continuous_action",
    "deceptive_maze",
    "digits",
    "discrete_action",
    "export_gguf",
    "export_safetensors",
    "gymnax",
    "load_gguf",
    "load_safetensors",
    "mlp",
    "prompted",
    "random_maze",
    "save_gguf",
    "small_language_model",
    "smollm2",
    "unrolled",
    "word_tokens",
]
