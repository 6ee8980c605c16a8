"""Two processes make a benchmark together, and one goes on with it."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from research import shared_bench
from together import free_port, run_together

from gfopt.research.benchmark import pending, run_batch
from gfopt.research.finished_runs import Run
from gfopt.research.plan import bbob_batches
from gfopt.research.results import ResultStore

SCRIPT = Path(shared_bench.__file__)
METHODS = "scipy_nelder_mead,research.shared_bench:odd"
COMMAND = "bench --suite bbob --functions 1 --dimensions 2 --budget 20 --instances 1-2"


def slurm(index: int, port: str) -> dict[str, str]:
    """Returns the variables by which JAX finds its processes, as Slurm sets them."""
    return {
        "SLURM_JOB_ID": "1",
        "SLURM_STEP_NODELIST": "localhost",
        "SLURM_NTASKS": "2",
        "SLURM_PROCID": str(index),
        "SLURM_LOCALID": str(index),
        "JAX_COORDINATOR_PORT": port,
        "PYTHONPATH": os.pathsep.join([str(SCRIPT.parents[1]), *sys.path]),
    }


def without_costs(run: Run) -> Run:
    return run._replace(seconds=0.0, compile_seconds=0.0, memory=None)


def test_two_processes_share_a_benchmark(tmp_path: Path) -> None:
    """Each makes every second run, and the first keeps them all."""
    command = [*COMMAND.split(), "--methods", METHODS, "--out", str(tmp_path)]
    call, port = [str(SCRIPT), *command, "--distributed"], free_port()
    first, second = run_together([call] * 2, [slurm(i, port) for i in (0, 1)])
    if shared_bench.NO_GLOO in (first.code, second.code):
        pytest.skip(f"no collectives between processes here: {first.err[-300:]}")
    assert (first.code, second.code) == (1, 1), (first.err, second.err)
    # what failed in the second is told by the first, which alone writes and shows
    assert "f1 2-D odd failed: ArithmeticError: odd" in first.err
    assert "1 runs failed" in first.err and "1 runs failed" not in second.err
    assert "targets" in first.out and "targets" not in second.out
    plan = bbob_batches(
        functions=[1],
        dimensions=[2],
        instances=[1, 2],
        methods={"scipy_nelder_mead": "scipy_nelder_mead", "odd": shared_bench.odd},
        budget=20,
    )
    with ResultStore(tmp_path) as store:
        (left,) = pending(plan, store)
        assert left.keys == (plan[1].key(2),)
        runs = store.runs()
    expected = [*run_batch(plan[0], tmp_path), *run_batch(plan[1], tmp_path)[:1]]
    expected.sort(key=lambda run: run.key)
    assert list(map(without_costs, runs)) == list(map(without_costs, expected))
    # one process goes on, where the method does not fail
    with pytest.raises(SystemExit, match="0"):
        shared_bench.main(command)
    with ResultStore(tmp_path) as store:
        assert not pending(plan, store)
