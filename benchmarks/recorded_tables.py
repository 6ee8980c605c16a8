"""Our exports beside what COCO's and IOHprofiler's own loggers record of the same runs.

cocopp makes its pages, tables and figures of both, iohinspector its tables, and the two
are compared file by file and number by number. cocopp draws simulated restarts with
NumPy's global generator and walks through sets of text, so that two calls on the same
data differ; a fixed seed and a fixed ``PYTHONHASHSEED`` make them repeatable.
"""

import argparse
import filecmp
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from common import parsed, save, show, sized

from gfopt.problems import Problem
from gfopt.research.benchmark import run_batch
from gfopt.research.exports import export
from gfopt.research.finished_runs import Run
from gfopt.research.host_runs import run_one
from gfopt.research.plan import bbob_batches, own_batches

METHODS = ("cma_es", "nelder_mead")
NAMES_THE_TIME = {"index.html", "cocopp_commands.tex"}  # and nothing else of the runs
COCOPP = """
import sys, matplotlib
matplotlib.use("agg")
matplotlib.rcParams["svg.hashsalt"] = "fixed"
import cocopp
if sys.argv[1] == "fixed":
    cocopp.set_seed(1)
cocopp.main(sys.argv[2:])
"""


def observed(folder: Path, functions: list[int], runs: int) -> dict[str, Path]:
    """Makes runs through COCO's C code; returns the observer's and our folders."""
    done: list[Run] = []
    for batch in bbob_batches(
        functions=functions,
        dimensions=sized([2, 5], [2]),
        instances=range(1, runs + 1),
        methods=METHODS,
        budget=100,
        evaluator="coco",
    ):
        done += run_batch(batch, folder)
    ours = {
        path.name.partition("_100D")[0]: path for path in export(done, folder, "coco")
    }
    places = {"observer": folder / "theirs", "export": folder / "ours"}
    for place in places.values():
        place.mkdir()
    for method in METHODS:  # of one name, which stands in the pages
        theirs = folder / "exdata" / f"{method}_100D_seed0"
        theirs.rename(places["observer"] / method)
        ours[method].rename(places["export"] / method)
    return places


def pages(place: Path, out: Path, seed: str = "fixed") -> Path:
    """Runs cocopp on the folders in ``place``; returns the folder of its files."""
    fixed = {"PYTHONHASHSEED": "0"} if seed == "fixed" else {}
    words = [sys.executable, "-W", "ignore", "-c", COCOPP, seed, "-o", out, *METHODS]
    environment = os.environ | fixed | {"SOURCE_DATE_EPOCH": "0"}
    subprocess.run(words, cwd=place, env=environment, check=True, capture_output=True)
    for folder in [path for path in out.iterdir() if path.is_dir()]:
        folder.rename(out / "pages")  # named by the minute
    return out


def differing(one: Path, other: Path) -> tuple[int, list[str]]:
    """Returns how many files there are in two folders, and those that are not equal."""
    names = {
        str(path.relative_to(root))
        for root in (one, other)
        for path in root.rglob("*")
        if path.is_file() and path.name not in NAMES_THE_TIME
    }
    _, differ, missing = filecmp.cmpfiles(one, other, names, shallow=False)
    return len(names), sorted([*differ, *missing])


def cocopp_files(folder: Path, functions: list[int], runs: int) -> dict[str, object]:
    """Compares the files that cocopp makes of the observer's data and of ours."""
    places = observed(folder, functions, runs)
    theirs = pages(places["observer"], folder / "a")
    ours = pages(places["export"], folder / "b")
    count, differ = differing(theirs, ours)
    loose = [pages(places["observer"], folder / name, "any") for name in "cd"]
    return {
        "files": count,
        "differing": differ,
        "differing, observer's data twice, no seed": len(differing(*loose)[1]),
    }


def logged(folder: Path, functions: list[int], runs: int) -> list[Path]:
    """Makes runs under IOHprofiler's logger; returns its folder and our export's."""
    import ioh

    done: list[Run] = []
    for method in METHODS:
        logger = ioh.logger.Analyzer(
            root=folder, folder_name=f"theirs/{method}", algorithm_name=method
        )
        for function in functions:
            task = ioh.get_problem(function, 1, 5, ioh.ProblemClass.BBOB)
            task.attach_logger(logger)
            box, best = [(-5.0, 5.0)] * 5, float(task.optimum.y)
            problem = Problem(task, bounds=box, optimum=best, name=f"f{function}")
            (batch,) = own_batches([method], problem, budget=500)
            for instance in range(1, runs + 1):
                done.append(run_one(batch, instance, problem))
                task.reset()  # which ends a run of the logger
        logger.close()
    export(done, folder, "ioh")
    return [folder / "theirs", folder / "ioh"]


def inspected(folder: Path) -> dict[str, np.ndarray]:
    """Returns iohinspector's tables of a folder, each as numbers."""
    import iohinspector

    manager = iohinspector.DataManager()
    manager.add_folder(str(folder))
    data = manager.load(monotonic=True, include_meta_data=True)
    keys = ["function_id", "algorithm_name"]
    data = data.select("data_id", "evaluations", "raw_y", *keys)
    words = {"free_vars": keys, "return_as_pandas": True}
    times = iohinspector.metrics.aggregate_running_time(
        data, f_min=1e-8, f_max=1e2, **words
    )
    values = iohinspector.metrics.aggregate_convergence(
        data, eval_min=1, eval_max=500, **words
    )
    ecdf = iohinspector.metrics.get_data_ecdf(
        data, f_min=1e-8, f_max=1e2, eval_values=range(1, 500, 10), **words
    )
    found = {"running times": times, "values": values, "ecdf": ecdf}
    return {
        name: table.sort_values([*keys, *{"evaluations", "raw_y"} & {*table.columns}])
        # numbers of the runs and of own problems are the reader's and the exporter's
        .drop(columns=["data_id", *keys], errors="ignore")
        .to_numpy(float)
        for name, table in found.items()
    }


def iohinspector_tables(
    folder: Path, functions: list[int], runs: int
) -> dict[str, dict[str, float]]:
    """Compares iohinspector's tables: numbers, and the largest relative difference.

    IOHprofiler's logger writes ten decimals, we ten digits: values of 1e-8 may differ
    in the third one.
    """
    theirs, ours = map(inspected, logged(folder, functions, runs))
    found = {}
    for name, numbers in theirs.items():
        np.testing.assert_equal(numbers.shape, ours[name].shape)
        both = np.isfinite(numbers) | np.isfinite(ours[name])
        scale = np.maximum(np.abs(numbers[both]), 1e-300)
        apart = np.abs(numbers[both] - ours[name][both]) / scale
        found[name] = {"numbers": int(both.sum()), "apart": float(apart.max())}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--functions", type=int, default=24)
    parser.add_argument("--runs", type=int, default=15)
    options = parsed(parser, functions=2, runs=3)
    functions = list(range(1, options.functions + 1))
    with tempfile.TemporaryDirectory() as folder:
        files = cocopp_files(Path(folder), functions, options.runs)
    print(files)
    with tempfile.TemporaryDirectory() as folder:
        tables = iohinspector_tables(Path(folder), functions, options.runs)
    show(
        ("iohinspector", "numbers", "apart"),
        [(n, *t.values()) for n, t in tables.items()],
    )
    packages = ["gfopt", "coco-experiment", "cocopp", "ioh", "iohinspector", "numpy"]
    save("recorded_tables", packages, {"cocopp": files, "iohinspector": tables})


if __name__ == "__main__":
    main()
