"""gfopt: gradient-free optimization in JAX.

Ask/tell optimizers, jit- and vmap-compiled, on one population-evaluation core.
"""

from gfopt.core.evaluate import chunked, sharded, vmapped
from gfopt.core.noise import gaussian, rademacher
from gfopt.core.objective import Objective
from gfopt.core.trees import merge, partition
from gfopt.driver.run import RunResult, run
from gfopt.optimizers.cma_es import CMAES
from gfopt.optimizers.open_es import OpenES
from gfopt.optimizers.random_search import RandomSearch
from gfopt.optimizers.zeroth_order import MeZO
