"""Runs of a benchmark: the compiled ones, COCO's, and the digits'."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest

from gfopt.research import atari_runs, coco_runs, programs
from gfopt.research.bbob_runs import _Log, run_bbob
from gfopt.research.benchmark import pending, run_batch, runs_of
from gfopt.research.coco_runs import discard_unfinished, log_folder, run_coco
from gfopt.research.competitors import competitors
from gfopt.research.digits_runs import NUM_TESTS, run_digits
from gfopt.research.exports import export
from gfopt.research.finished_runs import Run
from gfopt.research.plan import atari_batches, bbob_batches, digits_batches
from gfopt.research.results import ResultStore
from gfopt.research.statistics import TARGETS, running_times

FUNCTIONS, METHODS, BUDGET = [1, 8], ["cma_es", "open_es"], 100
SIZES = {"cma_es": 7, "open_es": 8}
PLANS = {
    evaluator: bbob_batches(
        functions=FUNCTIONS,
        dimensions=[3],
        instances=[1, 4],
        methods=METHODS,
        budget=BUDGET,
        seed=7,
        evaluator=evaluator,
    )
    for evaluator in ("jax", "coco")
}


@pytest.fixture(scope="module")
def compiled() -> dict[tuple, Run]:
    runs = [run for batch in PLANS["jax"] for run in run_bbob(batch)]
    return {run.key[1:5]: run for run in runs}


@pytest.fixture(scope="module")
def coco(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[tuple, Run]]:
    directory = tmp_path_factory.mktemp("coco")
    with ResultStore(directory, create=True) as store:
        store.start_session("test")
        for batch in PLANS["coco"]:
            store.add(run_batch(batch, directory))
        assert pending(PLANS["coco"], store) == []
        return directory, {run.key[1:5]: run for run in runs_of(PLANS["coco"], store)}


def test_coco_and_jax_agree_on_every_run(compiled, coco) -> None:
    assert compiled.keys() == coco[1].keys() and len(compiled) == 8
    for key, ours in compiled.items():
        theirs = coco[1][key]
        assert ours.options == theirs.options
        assert ours.status == theirs.status and ours.tuning == theirs.tuning
        assert ours.population_size == theirs.population_size == SIZES[key[3]]
        counts, values = np.array(ours.trajectory).T
        # both know every evaluation, from the first
        assert counts[0] == theirs.trajectory[0][0] == 1
        np.testing.assert_array_equal(counts, [n for n, _ in theirs.trajectory])
        # what rounding does to a mean grows with the generations: 1e-4 in fifty of them
        found = [value for _, value in theirs.trajectory]
        np.testing.assert_allclose(found, values, rtol=1e-3, err_msg=str(key))
        np.testing.assert_allclose(found[0], values[0], rtol=2e-6)


def test_a_run_uses_its_whole_budget(compiled, coco) -> None:
    for key, run in compiled.items():
        assert run.status == "budget" and BUDGET * 3 % SIZES[key[3]]
        assert run.evaluations == coco[1][key].evaluations == BUDGET * 3


def test_memory_is_planned_or_what_was_resident(compiled, coco) -> None:
    for key, run in compiled.items():
        # values of a hundred generations, of this run alone, and a process with JAX
        assert run.memory_kind == "planned" and 8e2 * SIZES[key[3]] < run.memory < 1e7
        theirs = coco[1][key]
        assert theirs.memory_kind == "resident"
        assert theirs.memory is None or 1e8 < theirs.memory < 1e11


def test_the_first_value_is_one_of_the_first_generation(compiled) -> None:
    # all methods start at one point, uniform in [-4, 4], whatever they are
    for key in compiled:
        batch = next(b for b in PLANS["jax"] if b.problem == key[0])
        x0, _ = batch.start(key[2])
        assert x0.shape == (3,) and np.all(np.abs(x0) <= 4)
        (mezo,) = competitors("mezo")
        other = batch._replace(competitor=mezo, budget=1).start(key[2])[0]
        np.testing.assert_array_equal(x0, other)
        again = batch._replace(seed=8).start(key[2])[0]
        assert np.all(x0 != again)


def test_cocopp_reads_what_the_observer_wrote(coco) -> None:
    directory, runs = coco
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # cocopp's own
        from cocopp.pproc import DataSetList

        folders = sorted((directory / "exdata").iterdir())
        assert [f.name for f in folders] == [f"{m}_100D_seed7" for m in METHODS]
        for folder, method in zip(folders, METHODS, strict=True):
            found = DataSetList([str(folder)])
            assert [(d.funcId, d.dim) for d in found] == [(1, 3), (8, 3)]
            for data in found:
                assert list(data.instancenumbers) == [1, 4]
                assert data.algId == folder.name
                _same(data, [runs[f"f{data.funcId}", 3, i, method] for i in (1, 4)])


def _same(data, runs: list[Run]) -> None:
    np.testing.assert_array_equal(data.maxevals, [run.evaluations for run in runs])
    best = [run.value for run in runs]
    np.testing.assert_allclose(data.finalfunvals, best, rtol=1e-5, atol=1e-12)
    for target in (1e1, 1e-1, 1e-3):
        columns = (zip(*run.trajectory, strict=True) for run in runs)
        expected = [running_times(*pair, [target])[0] for pair in columns]
        (found,) = data.detEvals([target])
        np.testing.assert_array_equal(np.nan_to_num(found, nan=np.inf), expected)


def test_cocopp_reads_the_same_from_our_export(coco, tmp_path: Path) -> None:
    """Its tables and figures are made of these arrays, and of random numbers."""
    directory, runs = coco
    folders = export([*runs.values()], tmp_path, "coco")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # cocopp's own
        from cocopp.pproc import DataSetList

        assert sorted(f.name for f in folders) == [
            f"{m}_100D_seed7_coco" for m in METHODS
        ]
        for folder in folders:
            name = folder.name.removesuffix("_coco")
            theirs = DataSetList([str(directory / "exdata" / name)])
            ours = DataSetList([str(folder)])
            assert len(ours) == len(theirs) == 2
            for one, other in zip(ours, theirs, strict=True):
                assert (one.funcId, one.dim) == (other.funcId, other.dim)
                assert list(one.instancenumbers) == list(other.instancenumbers)
                for name in ("evals", "funvals", "maxevals", "finalfunvals", "ert"):
                    arrays = getattr(one, name), getattr(other, name)
                    np.testing.assert_array_equal(*arrays, err_msg=name)


def test_cocos_files_of_shared_runs_are_removed(tmp_path: Path) -> None:
    batch = PLANS["coco"][1]._replace(budget=6, instances=(2,))
    with log_folder(tmp_path) as kept:
        assert kept == tmp_path
    with log_folder(None) as place:
        assert len(run_coco(batch, place)) == 1 and [*place.rglob("*.info")]
    assert not place.exists()


def test_an_interrupted_coco_batch_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = PLANS["coco"][1]._replace(budget=24, instances=(2, 3))
    whole, seen = coco_runs.run_one, []

    def stopped(*arguments) -> Run:
        seen.append(whole(*arguments))
        if len(seen) == 2:
            raise KeyboardInterrupt
        return seen[-1]

    monkeypatch.setattr(coco_runs, "run_one", stopped)
    with pytest.raises(KeyboardInterrupt):
        run_coco(batch, tmp_path)
    assert list((tmp_path / "exdata").iterdir()) == []
    # as after a kill: what is left is not taken for a result
    (tmp_path / "exdata" / ".unfinished").mkdir()
    again = run_coco(batch, tmp_path)
    assert [run.evaluations for run in again] == [24, 24]
    assert again[0].trajectory == seen[0].trajectory
    (folder,) = (tmp_path / "exdata").rglob("*.info")
    lines = folder.read_text().splitlines()
    assert sum(line.startswith("data_f") for line in lines) == 1
    assert "2:24|" in lines[-1] and "3:24|" in lines[-1]
    discard_unfinished(tmp_path)  # nothing to do is no error


def test_runs_end_at_the_target_or_when_the_method_says_so() -> None:
    (batch,) = bbob_batches(
        functions=[22], dimensions=[2], instances=range(1, 7), methods=["cma_es"]
    )
    runs = run_bbob(batch)
    by_status = {run.status: run for run in runs}
    assert {"target", "tol_fun"} <= set(by_status)
    for run in runs:
        assert run.evaluations < batch.budget
        assert (run.status == "target") == (run.value <= TARGETS[-1])
        # nothing is counted after the end
        assert run.evaluations >= run.trajectory[-1][0]
        if run.status == "target":
            assert run.evaluations == run.trajectory[-1][0]
    # another selection of instances makes the same runs
    (one,) = run_bbob(batch._replace(instances=(5,)))
    assert one.status == runs[4].status
    for ours, theirs in zip(one.trajectory[:20], runs[4].trajectory, strict=False):
        assert ours[0] == theirs[0]
        np.testing.assert_allclose(ours[1], theirs[1], rtol=1e-4)


def test_functions_share_a_program(compiled) -> None:
    """The methods of the plan are two programs, however many functions there are."""
    number = programs.compiled.cache_info().misses
    for batch in PLANS["jax"]:
        again = run_bbob(batch._replace(problem="f15"))
        assert all(run.status == "budget" for run in again)
    assert programs.compiled.cache_info().misses == number


def _values(*generations: list[float]) -> np.ndarray:
    """Six runs that found the same: ``[6, G, P]``."""
    return np.tile(np.array(generations), (6, 1, 1))


def test_the_log_cuts_what_is_beyond_the_end() -> None:
    (batch,) = bbob_batches(
        functions=[1], dimensions=[2], instances=range(1, 7), methods=["cma_es"]
    )
    log = _Log(batch._replace(budget=14), ["flat", "small"], 4)
    size = np.full((6, 3), 4)
    size[3] = [4, 0, 0]  # stopped by itself after one generation
    values = _values([9, 3, 8, 7], [6, 2, 5, 4], [1, 1, 1, 1.5])
    values[0, 1] = [2, 1e-9, 5, 1e-10]  # hit in the middle of a generation
    values[1] = np.nan
    codes = np.array([0, 0, 0, 2, 0, 0])
    log.append(values, size, codes)
    assert not log.is_finished  # twelve evaluations: two more
    values = _values([0.5, 0.25, 0.125, 0.1], [0, 0, 0, 0], [0, 0, 0, 0])
    values[4, 0] = [0.5, 0.5, 1e-9, 1e-9]  # hit beyond the budget: too late
    values[5, 0] = [1e-9, 1e-9, 1e-9, 1e-9]
    log.append(values, np.full((6, 3), 4), np.array([0, 0, 1, 0, 0, 0]))
    assert log.is_finished
    runs = log.runs(0.5, 1.0, [79.48] * 6)
    assert [run.evaluations for run in runs] == [6, 14, 14, 4, 14, 13]
    assert [run.status for run in runs] == [
        "target", "budget", "budget", "small", "budget", "target",
    ]  # fmt: skip
    assert runs[0].trajectory == ((1, 9.0), (2, 3.0), (5, 2.0), (6, 1e-9))
    assert runs[1].trajectory[0] == (13, 0.5) and runs[1].failures == 12
    assert runs[3].trajectory == ((1, 9.0), (2, 3.0))
    assert runs[4].trajectory[-2:] == ((9, 1.0), (13, 0.5))


def test_a_population_above_the_budget_is_cut() -> None:
    (batch,) = bbob_batches(
        functions=[1],
        dimensions=[2],
        instances=[1],
        methods=["random_search"],
        budget=2,
    )
    (run,) = run_bbob(batch)
    assert run.status == "budget" and run.evaluations == 4 < run.population_size
    assert run.trajectory[0][0] == 1 and run.trajectory[-1][0] <= 4


def test_digits_are_learned_and_tested_at_regular_times() -> None:
    (batch,) = digits_batches(methods=["open_es"], instances=[1, 2], budget=3840)
    runs = list(run_digits(batch))
    for run in runs:
        assert run.status == "budget" and run.evaluations == 3840
        assert run.population_size == 64
        assert [n for n, _ in run.trajectory] == list(range(128, 3841, 128))
        assert len(run.trajectory) == NUM_TESTS
        errors = [error for _, error in run.trajectory]
        assert all(0 <= error <= 1 for error in errors)
        # a held-out set of 360 images
        images = 360 * np.array(errors)
        np.testing.assert_allclose(images, images.round(), atol=1e-3)
        assert errors[-1] < 0.4 < errors[0]
    assert runs[0].trajectory != runs[1].trajectory
    (again,) = run_digits(batch._replace(instances=(2,)))
    assert again.trajectory == runs[1].trajectory


def test_a_game_is_learned_and_tested_at_its_end(monkeypatch) -> None:
    pytest.importorskip("ale_py", reason="pip install 'gfopt[atari]'")
    monkeypatch.setattr(atari_runs, "SHORT", atari_runs.Protocol(4, 3, 2))
    (batch,) = atari_batches(methods=["deep_ga"], instances=[1, 2], frames=600)
    runs = run_batch(batch, Path())
    assert [run.key.instance for run in runs] == [1, 2]
    size = batch.options["population_size"]
    frames = size * 4 * 4  # of a generation
    for run in runs:
        assert run.status == "budget"
        assert run.evaluations == 1 + -(-600 // frames) * size  # and the start
        counts = [count for count, _ in run.trajectory]
        # frames of generations, as the papers count: not those of the start
        assert counts[-1] == (run.evaluations - 1) * 4 * 4
        assert all(count % frames == 0 for count in counts)
    (again,) = run_batch(batch._replace(instances=(2,)), Path())
    assert again.trajectory == runs[1].trajectory


def test_a_run_that_asks_for_nothing_ends() -> None:
    """It would go on for ever: no evaluation is used, and no reason to stop holds."""
    (batch,) = bbob_batches(
        functions=[1], dimensions=[2], instances=[1, 2], methods=["cma_es"], budget=50
    )
    log = _Log(batch, ["tol_x"], 4)
    some, found = np.array([[4, 4], [0, 0]]), np.full((2, 2, 4), 5.0)
    log.append(found, some, np.array([0, 0]))
    assert not log.is_finished
    log.append(found, np.zeros((2, 2), int), np.array([0, 0]))
    assert log.is_finished
    runs = log.runs(0.0, 0.0, [0.0, 0.0])
    assert [run.status for run in runs] == ["stalled", "stalled"]
