"""Test problems: black-box functions and small networks to train."""

from gfopt.problems.bbob_suite import BBOBProblem, bbob, bbob_batch
from gfopt.problems.classification import Classification, digits, mlp
from gfopt.problems.unrolls import InfluenceBalancing, unrolled

__all__ = [
    "BBOBProblem",
    "Classification",
    "InfluenceBalancing",
    "bbob",
    "bbob_batch",
    "digits",
    "mlp",
    "unrolled",
]
