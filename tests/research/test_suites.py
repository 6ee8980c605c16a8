"""The further suites: their problems, and what is told to whom of a COCO problem."""

from __future__ import annotations

import gzip
import json
import pickle
import re
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest

import gfopt
from gfopt.cli import list_command
from gfopt.cli.bench_options import planned
from gfopt.problems import Problem
from gfopt.research.suites import control_tasks, fashion_mnist, token_tasks
from gfopt.research.suites.catalogue import SUITES, suite_batches
from gfopt.research.suites.coco_suites import coco_problem
from gfopt.research.suites.multimodal import FUNCTIONS, place_of, problems
from gfopt.research.summary import CONSTRAINED_TARGETS

OURS = [name for name, suite in SUITES.items() if not suite.is_coco]
BOX = [(0, 7)] * 4


@pytest.mark.filterwarnings("ignore:JAXopt is no longer", "ignore:::brax")
@pytest.mark.parametrize("name", OURS)
def test_a_suite_has_problems_that_begin_somewhere(name) -> None:
    for need in SUITES[name].needs:
        if not need.is_there():
            pytest.skip(need.install)
    made = SUITES[name].problems()
    assert len(made) == SUITES[name].num_problems
    batches = suite_batches(name)
    assert len(batches) * 5 == SUITES[name].size[0]
    problem = made[-1 if name == "tokens" else 0]
    again = pickle.loads(pickle.dumps(problem))  # as for a process of its own
    x = problem.rounded(problem.start(np.random.default_rng(0)))
    values = [float(p.fun(x)) for p in (problem, again)]
    assert np.isfinite(values[0]) and values[0] == values[1]
    if problem.optimum is not None:
        assert values[0] > problem.optimum


def test_what_suites_cost_was_measured() -> None:
    path = Path(__file__).parents[2] / "benchmarks" / "results" / "suite_costs.json"
    measured = json.loads(path.read_text())["suites"]
    found = {name: round(measured[name]["processor_seconds"]) for name in SUITES}
    assert {name: suite.seconds for name, suite in SUITES.items()} == found
    others = [round(measured[s]["processor_seconds"]) for s in ("bbob", "digits")]
    assert [list_command.BBOB_SECONDS, list_command.DIGITS_SECONDS] == others


def test_a_suite_without_what_it_needs_is_refused(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "gymnax", None)
    with pytest.raises(ImportError, match=r"control-gymnax needs gymnax: pip install"):
        planned(suite="control-gymnax")


def test_fashion_mnist_is_read_from_its_files(monkeypatch, tmp_path) -> None:
    labels = np.repeat(np.arange(10, dtype=np.uint8), 501)
    images = np.zeros((labels.size, 28, 28), np.uint8)
    images[:, 3, 4] = 20 * labels
    images[500::501] = 255  # the last of each class, which is one too many
    for name, data in (("images-idx3", images), ("labels-idx1", labels)):
        head = bytes([0, 0, 8, data.ndim]) + np.array(data.shape, ">u4").tobytes()
        path = tmp_path / f"train-{name}-ubyte.gz"
        path.write_bytes(gzip.compress(head + data.tobytes(), 1))
    monkeypatch.setenv("FASHION_MNIST", str(tmp_path))
    pixels, found = fashion_mnist.training_images()
    assert pixels.shape == (5000, 784) and np.all(np.bincount(found) == 500)
    np.testing.assert_allclose(pixels[:, 3 * 28 + 4] * 255, 20.0 * found, atol=1e-4)
    assert np.count_nonzero(pixels) == 4500
    path.write_bytes(gzip.compress(b"no bytes"))
    with pytest.raises(ValueError, match="no file of bytes in the format of MNIST"):
        fashion_mnist.training_images()


def test_actions_lie_within_the_ends_of_their_space() -> None:
    class Box:
        shape, low, high = (2,), np.array([-2.0, 0.0]), 6.0

    policy, sizes = control_tasks._acting(np.zeros(3), Box)
    assert sizes == (3, 8, 2)
    layer = {"w": np.zeros((3, 2)), "b": np.array([0.0, 100.0])}
    np.testing.assert_allclose(policy((layer,), np.ones(3)), [2, 6])


def test_the_sixteen_are_zero_at_their_optimum() -> None:
    for function in FUNCTIONS.values():
        assert function(np.zeros(20), np) < 1e-12 < function(np.full(20, 0.3), np)
    moved = problems()[-1]
    optimum = place_of(True)[0]
    assert float(moved.fun(optimum)) < 1e-12 < float(moved.fun(optimum + 0.3))


def test_tokens_are_found_by_methods_for_tokens_and_for_numbers() -> None:
    hidden = token_tasks.problems()[0]
    methods = ["genetic_tokens", "random_tokens", "scipy_de"]
    result = gfopt.bench(methods, hidden, budget=800, runs=1)
    values = {run.key.method: run.value for run in result.runs}
    assert not result.failures and values["genetic_tokens"] < values["random_tokens"]
    with pytest.raises(ValueError, match="must search numbers where these are not tok"):
        gfopt.bench("genetic_tokens", Problem(np.sum, bounds=[(-1, 1)] * 2))


def test_a_function_receives_whole_numbers_and_methods_know_them() -> None:
    seen = []

    def fun(x):
        seen.append(x)
        return float(np.sum((x - 2.4) ** 2))

    problem = Problem(fun, bounds=BOX, integer=[True, True, False, False])
    gfopt.bench(["random_search", "scipy_nelder_mead"], problem, budget=40, runs=1)
    points = np.array(seen)
    assert np.all(points[:, :2] == np.round(points[:, :2]))
    assert np.any(points[:, 2:] != np.round(points[:, 2:]))
    with pytest.raises(ValueError, match="integer must be True or False, or so for"):
        Problem(fun, bounds=BOX, integer=[True])


def test_what_counts_is_the_truth_and_what_constraints_are_exceeded_by() -> None:
    def noisy(x):
        return float(np.sum(x**2)) + 5.0

    truth = Problem(noisy, bounds=BOX, truth=lambda x: np.sum(x**2), optimum=0.0)
    told = []

    def once(fun, x0, budget, seed):
        told.append((fun(np.ones(4)), fun.target))

    (run,) = gfopt.bench(once, truth, budget=9, runs=1).runs
    assert told == [(9.0, None)] and run.value == 4.0
    # f is 4 at (1, 1, 1, 1), where a sum of 6 is 2 too little
    limited = Problem(
        lambda x: np.sum(x**2),
        bounds=BOX,
        optimum=9.0,
        constraints=lambda x: np.array([6 - np.sum(x), -1.0]),
    )
    (run,) = gfopt.bench(once, limited, budget=9, runs=1).runs
    assert told[-1][0] == 9 + 2 and run.value == 2
    (run,) = gfopt.bench("cma_es", limited, budget=400, runs=1).runs
    assert 0 <= run.value < 0.1


@pytest.mark.parametrize(
    ("suite", "function", "size"),
    [
        ("bbob-largescale", 8, 20),
        ("bbob-mixint", 3, 5),
        ("bbob-constrained", 2, 5),
        ("bbob-noisy", 108, 5),
    ],
)
def test_cocos_suites_have_their_optima_and_instances(suite, function, size) -> None:
    problem = pickle.loads(pickle.dumps(coco_problem(suite, function, size)))
    first, second = problem.at(1), problem.at(2)
    assert first.optimum != second.optimum and first.dimension == size
    rng = np.random.default_rng(0)
    for x in rng.uniform(*first.box.T, size=(20, size)):
        kept = first.penalised if first.truth is None else first.truth
        assert kept(first.rounded(x)) > first.optimum
    assert np.any(first.integer) == (suite == "bbob-mixint")
    assert (first.constraints is None) == (suite != "bbob-constrained")
    if suite == "bbob-noisy":
        x = np.ones(5)
        assert first.truth(x) == first.truth(x) and first.fun(x) != first.fun(x)
    (batch,) = suite_batches(
        suite,
        methods="random_search",
        functions=[function],
        dimensions=[size],
        budget=12,
    )
    runs = gfopt.bench("random_search", batch.given, budget=24, runs=1).runs
    assert runs[0].evaluations == 24 and batch.budget == 12 * size
    assert runs[0].failures == 0


def test_constraints_count_as_in_cocos_own_log(tmp_path, monkeypatch) -> None:
    cocoex = pytest.importorskip("cocoex")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # cocopp's own
        from cocopp.testbedsettings import CONSBBOBTestbed
    theirs = CONSBBOBTestbed.settings["pprldmany_target_values"]
    np.testing.assert_allclose(CONSTRAINED_TARGETS, theirs)
    monkeypatch.chdir(tmp_path)
    cocoex.log_level("warning")
    suite = cocoex.Suite("bbob-constrained", "instances: 2", "dimensions: 5")
    observer = cocoex.Observer("bbob-constrained", "result_folder: here")
    rng = np.random.default_rng(0)
    for function in (1, 22, 54):
        task = suite.get_problem_by_function_dimension_instance(
            function, 5, 2, observer
        )
        ours = coco_problem("bbob-constrained", function, 5).at(2)
        x0 = np.array(task.initial_solution)
        np.testing.assert_array_equal(ours.x0, x0)
        found, worst = [], []
        for k in range(20):  # from a feasible point through those that are not
            point = (1 - k / 6) * x0 + rng.normal(size=5) * (k > 0)
            assert task(point) == ours.fun(point)
            worst.append(max(task.constraint(point)))
            found.append(ours.penalised(point) - ours.optimum)
        assert worst[0] <= 0 < max(worst)
        task.free()
        (log,) = tmp_path.glob(f"exdata/here/data_f{function}/*.tdat")
        head, *lines = log.read_text().splitlines()
        optimum = float(re.search(r"\((.*)\)", head)[1])
        np.testing.assert_allclose(optimum, ours.optimum, rtol=1e-11)
        rows = np.array([line.split()[:3] for line in lines], float)
        counts = rows[:, 0].astype(int)
        best = np.minimum.accumulate(found)[counts - 1]
        np.testing.assert_allclose(rows[:, 2], best, rtol=1e-8)
        # a point is an evaluation of f and one of the constraints, which comes after
        np.testing.assert_array_equal(rows[:-1, 1], counts[:-1] - 1)


def test_a_suite_is_asked_for_by_its_name() -> None:
    batches = planned(suite="cbo", baselines="scipy_de", budget="50", instances="1-2")
    assert {b.competitor.name for b in batches} == {*SUITES["cbo"].methods, "scipy_de"}
    assert {(b.suite, b.budget, b.instances) for b in batches} == {("cbo", 50, (1, 2))}
    batches = planned(suite="bbob-noisy", functions="101,130", dimensions="2,5")
    assert {(b.problem, b.budget) for b in batches} == {
        (f, 100 * d) for f in ("f101", "f130") for d in (2, 5)
    }
    for options, message in (
        (
            {"suite": "cbo", "functions": "1"},
            "--functions is an option of --suite bbob",
        ),
        ({"suite": "bbob-noisy", "functions": "7"}, "functions of bbob-noisy must be"),
        ({"suite": "bbob-mixint", "dimensions": "7"}, "dimensions of bbob-mixint must"),
        ({"suite": "bbob-noisy", "evaluator": "coco"}, "--evaluator is an option of"),
        ({"suite": "cbo", "methods": "genetic_tokens"}, "which is for tokens"),
        ({"suite": "bbob-noise"}, "did you mean 'bbob-noisy'"),
    ):
        with pytest.raises(ValueError, match=message):
            planned(**options)
