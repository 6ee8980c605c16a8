"""Tuning of torch modules without gradients, in place, at the memory of inference.

The methods are gfopt's own; what is elsewhere is the model.
"""

from gfopt import checks

with checks.needed_by("gfopt.torch", "torch", "pip install 'gfopt[torch]'"):
    import torch as torch

from gfopt.torch.noises import perturbed
from gfopt.torch.replaying import replay
from gfopt.torch.trees import from_tree, to_tree
from gfopt.torch.tuner import Tuner

__all__ = ["Tuner", "from_tree", "perturbed", "replay", "to_tree"]
