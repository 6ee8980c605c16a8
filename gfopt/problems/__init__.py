"""Test problems: black-box functions and small networks to train."""

from gfopt.problems.bbob_suite import BBOBProblem, bbob, bbob_batch
from gfopt.problems.classification import Classification, digits, mlp

__all__ = ["BBOBProblem", "Classification", "bbob", "bbob_batch", "digits", "mlp"]
