"""Own problems and own optimizers: what is counted, started, compared and refused."""

from __future__ import annotations

import math
import runpy
import sys
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import EntryPoint
from pathlib import Path

import numpy as np
import pytest

import gfopt
from gfopt.cli import named
from gfopt.cli.bench_options import planned
from gfopt.problems import Problem
from gfopt.problems.problem import as_problems
from gfopt.research.baselines import BASELINES, Baseline, Range
from gfopt.research.competitors import competitors
from gfopt.research.counted import Counted, Ended
from gfopt.research.host_runs import run_on_host
from gfopt.research.plan import bbob_batches, own_batches
from gfopt.research.results import ResultStore
from gfopt.research.summary import SHARES, sections, share_of_targets
from gfopt.research.tables import tables

ROOT = Path(__file__).parents[2]
BOX = [(-5.0, 5.0)] * 3


def sphere(x):
    return float(np.sum((x - 1) ** 2))


def walk(fun, x0, budget, seed):
    """An optimizer that reaches the optimum of the sphere in a hurry."""
    while True:
        fun(x0)
        x0 = 1 + (x0 - 1) / 10


def once(fun, x0, budget, seed):
    fun(x0)


SEVERAL = [walk, "cma_es"]
V = Problem(sphere, bounds=BOX, name="bowl")


def test_every_evaluation_is_kept_and_the_last_one_ends_the_run() -> None:
    fun = Counted(sphere, None, 3, optimum=0.5, target=0.0)
    values = [fun(x * np.ones(1)) for x in (4.0, 3.0, 2.0)]
    assert values == [9.0, 4.0, 1.0] and fun.values == [8.5, 3.5, 0.5]
    assert fun.status == "budget"
    with pytest.raises(Ended):
        fun(np.ones(1))
    assert len(fun.values) == 3


def test_what_fails_counts_and_is_infinite() -> None:
    fun = Counted(lambda x: math.sqrt(x), None, 9)
    assert [fun(-1.0), fun(math.nan), fun(4.0)] == [math.inf, math.inf, 2.0]
    np.testing.assert_array_equal(fun.values, [np.nan, np.nan, 2.0])


def test_neither_side_sees_what_the_other_writes_into_a_point() -> None:
    def rude(x):
        x[:] = 7
        return 0.0

    point = np.ones(2)
    Counted(rude, None, 9)(point)
    np.testing.assert_array_equal(point, 1)


def test_all_methods_start_at_one_point_and_use_the_whole_budget() -> None:
    starts = []

    def first(fun, x0, budget, seed):
        starts.append((x0.tolist(), budget, seed, fun.bounds.tolist()))
        for _ in range(budget + 9):
            fun(x0)

    def second(fun, x0, budget, seed):
        first(fun, x0, budget, seed)

    problem = Problem(sphere, bounds=BOX)
    methods = ["random_search", first, second, gfopt.SNES()]
    result = gfopt.bench(methods, problem, budget=50, runs=2)
    assert starts[:2] == starts[2:] and starts[0] != starts[1]
    assert starts[0][1] == 50 and starts[0][3] == [list(pair) for pair in BOX]
    assert {run.evaluations for run in result.runs} == {50}
    assert {run.status for run in result.runs} == {"budget"}
    sizes = {run.key.method: run.population_size for run in result.runs}
    assert sizes["random_search"] > 1 and sizes["SNES"] > 1 and sizes["first"] is None
    tunings = {run.key.method: run.tuning for run in result.runs}
    assert tunings["random_search"] == "none: defaults"
    assert tunings["first"] == "as given"


def test_a_run_ends_at_the_optimum_or_when_the_optimizer_returns() -> None:
    problem = Problem(sphere, x0=[3.0, 0.0], optimum=0.0)
    runs = gfopt.bench([walk, once], problem, budget=50, runs=1).runs
    assert [(run.key.method, run.status, run.evaluations) for run in runs] == [
        ("once", "returned", 1),
        ("walk", "target", 6),
    ]
    assert [n for n, _ in runs[1].trajectory] == [1, 2, 3, 4, 5, 6]


def test_a_problem_without_a_known_optimum_is_measured_by_the_best_of_all() -> None:
    shifted = Problem(lambda x: 7 + sphere(x), x0=[3.0], name="shifted")
    result = gfopt.bench([walk, once], shifted, budget=3, runs=1)
    stayed, walked = result.runs
    assert walked.trajectory == ((1, 11.0), (2, 7.04), (3, 7.0004))
    (section,) = sections(result.runs)
    left = [value for _, value in section.of("walk")[0].trajectory]
    np.testing.assert_allclose(left, [1, 0.0396 / 3.9996, 0], atol=1e-9)
    # the first of the shares is 1: where both are from the start
    assert share_of_targets(section.of("once")).estimate == 1 / SHARES.size
    assert share_of_targets(section.of("walk")).estimate == 1
    assert stayed.optimum is None


def test_an_own_problem_is_never_titled_with_one_of_ours() -> None:
    problems = {"f1": Problem(sphere, x0=[0.0]), "f2": Problem(sphere, x0=[0.0, 0.0])}
    result = gfopt.bench([once], problems, budget=3, runs=1, name="mine")
    methods, each = result.tables
    assert methods.title == "mine: 2 problems, 3 evaluations"
    assert [row[0] for row in each.rows] == ["f1", "f2"]
    assert "sphere" not in str(result) and "BBOB" not in str(result)
    with pytest.raises(ValueError, match="name must not be that of a suite"):
        gfopt.bench([once], problems, name="bbob")


def test_a_stored_benchmark_goes_on_and_grows(tmp_path: Path) -> None:
    calls = []

    def counting(fun, x0, budget, seed):
        calls.append(seed)
        fun(x0)

    problem = Problem(sphere, bounds=BOX)
    for runs, methods in ((2, [counting]), (3, [counting, once])):
        result = gfopt.bench(methods, problem, budget=5, runs=runs, out=tmp_path)
    assert len(calls) == len(set(calls)) == 3
    assert len(result.runs) == 6 and len(result.sessions) == 2
    page = result.report(tmp_path / "own.html").read_text()
    assert "own problems: sphere, 5 evaluations" in page and "as given" in page


def test_an_executor_makes_the_runs() -> None:
    problem, methods = Problem(sphere, bounds=BOX), [once, walk]
    expected = gfopt.bench(methods, problem, budget=5, runs=3)
    with ThreadPoolExecutor(2) as threads:
        found = gfopt.bench(methods, problem, budget=5, runs=3, executor=threads)
        assert threads.submit(len, "open").result() == 4  # it is not ours to close
        with pytest.raises(ValueError, match="workers must be 1 where an executor"):
            gfopt.bench(methods, problem, workers=2, executor=threads)
    pairs = [[(run.key, run.trajectory) for run in r.runs] for r in (expected, found)]
    assert pairs[0] == pairs[1] and not found.failures


def test_functions_and_optimizers_stand_beside_ours_on_bbob() -> None:
    words = {"functions": [1], "dimensions": [3], "instances": [4], "budget": 20}
    batches = bbob_batches(methods=["cma_es", gfopt.CMAES(sigma=2.0), once], **words)
    compiled, function = batches[1], batches[2]
    assert compiled.options == {"optimizer": repr(gfopt.CMAES(sigma=2.0))}
    (found,) = run_on_host(function)
    (same,) = run_on_host(batches[0])
    # the first value is that of the start, whose distance from the optimum is known
    x0, _ = function.start(4)
    value = np.sum((x0 - gfopt.problems.bbob(1, 3, 4).x_opt) ** 2)
    np.testing.assert_allclose(found.trajectory, [(1, value)], rtol=1e-5)
    assert same.evaluations == 60 and same.population_size == 7
    assert len({run.optimum for run in (found, same)}) == 1
    (table, _) = tables([found, same])
    assert [row[0] for row in table.rows] == ["cma_es", "once"]


def test_the_skeleton_of_the_docs_takes_part(tmp_path, monkeypatch) -> None:
    skeleton = runpy.run_path(str(ROOT / "docs" / "skeleton_optimizer.py"))["SimpleES"]
    assert competitors(skeleton)[0].name == "SimpleES"
    problem = Problem(sphere, bounds=BOX, optimum=0.0)
    (run,) = gfopt.bench(skeleton, problem, budget=2000, runs=1).runs
    assert run.population_size == 32 and run.value < 0.1 < run.trajectory[0][1]


def test_the_command_line_finds_modules_of_the_directory(tmp_path, monkeypatch) -> None:
    (tmp_path / "mine_23.py").write_text(
        "from gfopt.problems import Problem\n"
        "problems = [Problem(abs, x0=[2.0], name='v'), Problem(abs, x0=[3.0])]\n"
        "def guess(fun, x0, budget, seed):\n    fun(x0 / 2)\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [str(ROOT)])
    given = {"problems": "mine_23:problems", "budget": "7", "instances": "2"}
    batches = planned(methods="mine_23:guess,cma_es", **given)
    assert [(b.problem, b.competitor.name) for b in batches] == [
        ("v", "guess"), ("v", "cma_es"), ("abs", "guess"), ("abs", "cma_es"),
    ]  # fmt: skip
    assert {b.suite for b in batches} == {"mine_23:problems"}
    (run,) = run_on_host(batches[0])
    assert run.trajectory == ((1, 1.0),)
    with pytest.raises(ValueError, match="did you mean 'mine_23:guess'"):
        planned(methods="mine_23.py:guess")


def test_a_package_lends_names(monkeypatch) -> None:
    points = [
        EntryPoint("hop", "research.test_bench:once", "gfopt.methods"),
        EntryPoint("several", "research.test_bench:SEVERAL", "gfopt.methods"),
        EntryPoint("v", "research.test_bench:V", "gfopt.problems"),
    ]

    def entry_points(group):
        return [point for point in points if point.group == group]

    monkeypatch.setattr(named, "entry_points", entry_points)
    batches = planned(problems="v", methods="hop,several,snes")
    # what is lent under a name is called so; of several each has its own
    names = [batch.competitor.name for batch in batches]
    assert names == ["hop", "walk", "cma_es", "snes"]
    assert {(b.problem, b.suite) for b in batches} == {("bowl", "v")}
    with pytest.raises(ValueError, match="'several' or module:name.*mean 'hop'"):
        planned(problems="v", methods="hopp")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"x0": [1.0], "optimum": math.inf}, "optimum must be finite"),
        ({}, "x0 must be given where bounds are not"),
        ({"x0": 1.0}, "x0 must hold D numbers; got shape"),
        ({"bounds": [(0.0, math.inf)]}, "bounds, where there is no x0, must be finite"),
        ({"bounds": [(1.0, 0.0)]}, "bounds, low must be below high"),
        ({"bounds": [1.0, 2.0, 3.0]}, r"bounds must be pairs \(low, high\)"),
        ({"x0": [1.0, 2.0], "bounds": [(0, 9)] * 3}, "each of the 2 numbers"),
    ],
)
def test_problems_that_make_no_sense_are_refused(words, message) -> None:
    with pytest.raises(ValueError, match=message):
        Problem(sphere, **words)


def test_starts_are_drawn_within_bounds_or_by_a_function() -> None:
    problem = Problem(sphere, lambda rng: rng.normal(size=2), bounds=(-9, 9))
    (batch,) = own_batches([once], problem, instances=[1, 2])
    assert batch.dimension == 2 and np.any(batch.start(1)[0] != batch.start(2)[0])
    np.testing.assert_array_equal(problem.box, [(-9, 9), (-9, 9)])
    batch = batch._replace(given=Problem(sphere, bounds=[(2, 3), (-3, -2)]))
    x0, _ = batch.start(1)
    assert 2 <= x0[0] <= 3 and -3 <= x0[1] <= -2


@pytest.mark.parametrize(
    ("methods", "message"),
    [
        ([], "one method or more"),
        (["cma-es"], "did you mean 'cma_es'"),
        (["random_tokens"], "which is for tokens"),
        ([once, once], "got 'once' twice: name them in a dictionary"),
        ([3], "names, optimizers .* got 3"),
        ([lambda fun: fun], r"\(fun, x0, budget, seed\); got .*: too many positional"),
        ([gfopt.Novelty], "names, optimizers .* got <class"),
    ],
)
def test_methods_that_cannot_run_are_refused_before_anything_runs(
    methods, message
) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        gfopt.bench(methods, Problem(sphere, x0=[1.0]))
    with pytest.raises((TypeError, ValueError), match=message):
        bbob_batches(methods=methods)


def test_problems_have_names_of_their_own() -> None:
    with pytest.raises(ValueError, match="got 'sphere' twice"):
        as_problems([Problem(sphere, x0=[1.0]), Problem(sphere, x0=[2.0])])
    with pytest.raises(TypeError, match="callables with x0 or bounds"):
        as_problems(sphere)


def needs(name) -> None:
    """Skips a test of a baseline that is not installed."""
    baseline = BASELINES[name]
    pytest.importorskip(baseline.module, reason=f"pip install {baseline.package}")


@pytest.mark.parametrize("name", BASELINES)
def test_a_baseline_searches_within_the_budget(name) -> None:
    needs(name)
    points = []

    def valley(x):
        points.append(x)
        return sphere(x) + 9 * (x[0] - x[1]) ** 2

    problem = Problem(valley, bounds=BOX)
    (run,) = gfopt.bench(name, problem, budget=150, runs=1).runs
    assert 0 < run.evaluations == len(points) <= 150
    assert run.value < run.trajectory[0][1]
    assert run.options["package"].startswith(f"{BASELINES[name].package} ")
    assert run.tuning == "none: its maintainers' defaults"
    low, high = np.transpose(BOX)
    if name not in ("cbx", "evosax"):  # which leave it
        assert np.all(low <= points) and np.all(points <= high)


@pytest.mark.parametrize("name", BASELINES)
def test_a_drawn_setting_is_one_that_the_package_takes(name) -> None:
    needs(name)
    how = BASELINES[name].drawn(np.random.default_rng(3))
    assert how.chosen.keys() == BASELINES[name].space.keys() and how.chosen
    (run,) = gfopt.bench(
        {"it": how}, Problem(sphere, bounds=BOX), budget=40, runs=1
    ).runs
    assert run.evaluations > 1 and {"package", *how.chosen} == run.options.keys()


def test_a_tuned_baseline_has_the_best_of_its_trials(tmp_path) -> None:
    """One that looks at one place only, which is its setting."""

    def look(module, fun, x0, budget, seed, place=5.0):
        fun(np.full(2, place))

    space = {"place": Range(-5, 5)}
    baseline = Baseline("numpy", "numpy", look, space=space)
    problem = Problem(sphere, bounds=[(-5, 5)] * 2, optimum=0.0)
    words = {"budget": 9, "runs": 2, "out": tmp_path, "tune_baselines": 8}
    result = gfopt.bench({"look": baseline}, problem, **words)
    with ResultStore(tmp_path / "tuning") as store:
        trials = {run.key.method: run for run in store.runs()}
    # of settings that reach as many targets the first one
    best = min(trials.values(), key=lambda run: run.value)
    assert len(trials) == 8 and trials["look#0"].value == 32
    assert {run.key.instance for run in trials.values()} == {3}
    tuned = [run for run in result.runs if run.key.method == "look_tuned"]
    assert [run.value for run in tuned] == 2 * [best.value]
    assert tuned[0].options == best.options and "best of 8" in tuned[0].tuning
    assert {run.value for run in result.runs} == {32, best.value}
    with pytest.raises(ValueError, match="needs a baseline"):
        gfopt.bench("random_search", problem, tune_baselines=2)


def test_a_baseline_without_its_package_says_what_to_install(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(ImportError, match="optuna_tpe needs optuna: pip install optu"):
        planned(baselines="scipy_de,optuna_tpe")


def test_baselines_stand_beside_the_methods() -> None:
    batches = planned(baselines="scipy_de", functions="1")
    names = [batch.competitor.name for batch in batches]
    assert names == ["random_search", "open_es", "cma_es", "scipy_de"]
    with pytest.raises(ValueError, match="--baselines .* did you mean 'scipy_de'"):
        planned(baselines="scipyde")
    with pytest.raises(ValueError, match="--baselines search functions; got"):
        planned(baselines="scipy_de", suite="digits")
    open_sided = Problem(sphere, x0=[1.0], bounds=[(0, math.inf)])
    with pytest.raises(ValueError, match="bounds of 'sphere' must be finite for scipy"):
        gfopt.bench("scipy_de", open_sided)


def test_processes_make_the_same_runs_as_one_after_the_other(tmp_path) -> None:
    problem = Problem(np.linalg.norm, bounds=BOX, optimum=0.0)
    words = {"methods": ["scipy_de", "random_search"], "problems": problem}
    serial = gfopt.bench(**words, budget=60, runs=2)
    parallel = gfopt.bench(**words, budget=60, runs=2, workers=2, out=tmp_path)
    assert parallel.failures == {} and len(serial.runs) == 4
    for one, other in zip(serial.runs, parallel.runs, strict=True):
        assert one.key == other.key and one.trajectory == other.trajectory


def test_an_optimizer_that_raises_costs_its_own_runs_only(tmp_path) -> None:
    def broken(fun, x0, budget, seed):
        fun(x0)
        raise RuntimeError("no more")

    problem = Problem(sphere, bounds=BOX)
    result = gfopt.bench([broken, once], problem, budget=5, runs=1, out=tmp_path)
    assert [run.key.method for run in result.runs] == ["once"]
    assert result.failures == {"broken on sphere, run 1": "RuntimeError: no more"}
    assert str(result).endswith("broken on sphere, run 1 failed: RuntimeError: no more")
