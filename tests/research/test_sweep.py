"""Sweeps: the serial loop's values, paired tests, designs, pages, refusals."""

from __future__ import annotations

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

import gfopt
from gfopt.cli.main import main
from gfopt.cli.sweep_command import swept
from gfopt.driver.setup.setup import setup
from gfopt.problems import Problem
from gfopt.research import sweep as sweeps
from gfopt.research.sweep_design import design
from gfopt.research.sweep_result import SweepResult, holm

BOX = [(-5.0, 5.0)] * 3


def bowl(x):
    return jnp.sum((x - 1) ** 2) + jnp.sum(x) ** 2


PROBLEM = Problem(bowl, bounds=BOX)


def _made(values) -> SweepResult:
    values = np.asarray(values, float)
    settings = [{"sigma": float(i)} for i in range(values.shape[1])]
    return SweepResult(["p"], settings, values, np.full(values.shape[1], 9), 1)


def test_a_sweep_is_the_serial_loop_bit_for_bit(monkeypatch) -> None:
    grid = {"sigma": [0.5, 1.0], "population_size": [6, 8]}
    whole = gfopt.sweep("cma_es", PROBLEM, grid, budget=100, seeds=3, seed=5)
    assert whole.compilations == 2 and whole.evaluations.tolist() == [96, 96] * 2
    with jax.enable_x64(True):
        for place, options in enumerate(whole.settings):
            size = options["population_size"]
            for seed in range(3):
                x0 = PROBLEM.start(np.random.default_rng((5, seed)))
                optimizer = setup("cma_es", x0, None, BOX, options).optimizer
                key = jax.random.fold_in(jax.random.key(5), seed)
                result = gfopt.run(
                    optimizer, bowl, x0, key=key, generations=100 // size
                )
                best = np.nanmin(result.history["fitness"])
                assert best == whole.values[0, place, seed]
    # in chunks that the runs do not fill; XLA may sum otherwise in fours
    monkeypatch.setattr(sweeps, "CHUNK", 4)
    again = gfopt.sweep("cma_es", PROBLEM, grid, budget=100, seeds=3, seed=5)
    np.testing.assert_array_max_ulp(again.values, whole.values, maxulp=4)


def test_a_budget_is_a_setting_and_an_early_look_costs_no_run() -> None:
    grid = {"population_size": [6, 8], "budget": [24, 100]}
    seen = []
    result = gfopt.sweep(
        "cma_es", PROBLEM, grid, seeds=3, seed=5, on_progress=lambda *n: seen.append(n)
    )
    assert result.compilations == 2 and seen[-1] == (12, 12)
    assert result.evaluations.tolist() == [24, 96, 24, 96]
    for budget, places in ((24, [0, 2]), (100, [1, 3])):
        grid["budget"] = [budget]
        alone = gfopt.sweep("cma_es", PROBLEM, grid, seeds=3, seed=5)
        np.testing.assert_array_equal(alone.values, result.values[:, places])


def test_an_interrupted_sweep_goes_on(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(sweeps, "CHUNK", 2)
    grid = {"sigma": [0.5, 1.0], "budget": [24, 48]}
    words = {"grid": grid, "seed": 5, "seeds": 3}
    whole = gfopt.sweep("cma_es", PROBLEM, **words)

    class Stopped(Exception):
        pass

    def stop(done: int, total: int) -> None:
        if done:
            raise Stopped

    with pytest.raises(Stopped):
        gfopt.sweep("cma_es", PROBLEM, out=tmp_path, on_progress=stop, **words)
    calls, program = [], sweeps._program
    monkeypatch.setattr(
        sweeps, "_program", lambda *a, **k: calls.append(a) or program(*a, **k)
    )
    again = gfopt.sweep("cma_es", PROBLEM, out=tmp_path, **words)
    np.testing.assert_array_equal(again.values, whole.values)
    assert len(calls) == 2  # of three chunks
    gfopt.sweep("cma_es", PROBLEM, out=tmp_path, **words)
    assert len(calls) == 2
    # a larger design runs what is missing
    more = gfopt.sweep("cma_es", PROBLEM, out=tmp_path, **words | {"seeds": 4})
    assert len(calls) == 3 and more.compilations == 1
    np.testing.assert_array_equal(more.values[..., :3], whole.values)
    with pytest.raises(ValueError, match="written the same way"):
        grid = {"sigma": [lambda step: 0.5]}
        gfopt.sweep("open_es", PROBLEM, grid, seeds=1, out=tmp_path)


def test_methods_and_problems_are_part_of_a_design() -> None:
    problems = [PROBLEM, Problem(lambda x: jnp.sum(x**4), x0=[1.0, 2.0], name="quart")]
    result = gfopt.sweep(["snes", "random_search"], problems, {}, budget=40, seeds=2)
    assert result.settings == [{"method": "snes"}, {"method": "random_search"}]
    assert result.values.shape == (2, 2, 2) and result.problems == ["bowl", "quart"]
    assert np.isfinite(result.values).all()


def test_a_random_design_draws_each_field(monkeypatch) -> None:
    ranges = {"sigma": {"low": 0.1, "high": 10.0, "log": True}}
    seen = {}

    def swept_settings(methods, problems, grid, **limits):
        seen.update(limits)
        return design(grid, limits["random"], 3)

    monkeypatch.setattr("gfopt.cli.sweep_command.sweep", swept_settings)
    study = {
        "methods": "cma_es",
        "problems": "math:pi",
        "ranges": ranges,
        "random": 400,
    }
    settings = swept(study | {"grid": {"population_size": [6, 8]}})
    sigmas = [setting["sigma"] for setting in settings]
    assert len(settings) == 400 and seen == {"random": 400}
    assert {setting["population_size"] for setting in settings} == {6, 8}
    uniform = (np.log(sigmas) - np.log(0.1)) / np.log(100)
    assert scipy.stats.kstest(uniform, "uniform").pvalue > 1e-3


def test_pairs_are_compared_by_the_sign_test_and_corrected() -> None:
    rng = np.random.default_rng(0)
    base = rng.normal(size=12)
    result = _made([[base, base + 1, base + 0.1 * rng.normal(size=12), base]])
    compared = result.compared(to=0)
    assert compared[1].won == 0
    np.testing.assert_allclose(compared[1].p, 2 * 0.5**12)
    np.testing.assert_allclose(compared[1].p_corrected, 3 * compared[1].p)
    assert (compared[3].won, compared[3].p) == (0.5, 1.0)  # all are ties
    assert compared[0].p_corrected == 1 and 0 < compared[2].won < 1
    low, high = result.rank_interval(1)[1:]
    assert low <= result.ranks[1] <= high


def test_a_run_without_a_value_is_behind_all_others() -> None:
    result = _made([[[np.nan, np.nan, 1.0], [5.0, 6.0, 2.0]]])
    np.testing.assert_allclose(result.ranks, [5 / 3, 4 / 3])
    assert result.best == 1 and "inf" in str(result)


def test_holm_is_what_its_steps_say() -> None:
    p = [0.01, 0.2, 0.03, 0.9]
    np.testing.assert_allclose(holm(p), [0.04, 0.4, 0.09, 0.9])
    assert holm([]) == [] and holm([0.7, 0.8]) == [1.0, 1.0]


def test_the_page_has_table_intervals_heat_map_and_parallel_axes(tmp_path) -> None:
    values = np.arange(2 * 4 * 3.0).reshape(2, 4, 3)
    settings = [{"sigma": s, "population_size": p} for s in (0.5, 1.0) for p in (6, 8)]
    result = SweepResult(["a<b", "c"], settings, values, np.full(4, 9), 2)
    lines = result.save(tmp_path / "study.csv").read_text().splitlines()
    assert lines[0] == "problem,seed,sigma,population_size,value"
    assert lines[1] == "a<b,0,0.5,6,0.0" and len(lines) == 25
    text = result.report(tmp_path / "study.html").read_text()
    assert "a&lt;b" in text and "nan" not in text.split("<script>")[0]
    assert text.count("<circle") == 4 and 'class="heat"' in text
    assert text.count('opacity="') == 4
    assert text.index("sigma = 0.5, population_size = 6") < text.index("sigma = 1")


def test_a_study_runs_from_its_file(tmp_path: Path, monkeypatch, capsys) -> None:
    (tmp_path / "bowls_23.py").write_text(
        "from gfopt.problems import Problem\n"
        "bowl = Problem(lambda x: (x**2).sum(), x0=[1.0, 2.0])\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "study.toml").write_text(
        'methods = "random_search"\nproblems = "bowls_23:bowl"\nbudget = 40\n'
        "seeds = 2\n[grid]\nsigma = [0.1, 1.0]\n"
    )
    for said in ("", "all runs are in study already"):
        with pytest.raises(SystemExit) as ended:
            main(["--no-cache", "sweep", "study.toml"])
        shown = capsys.readouterr()
        assert not ended.value.code and said in shown.err
        assert "sigma = 0.1" in shown.out and "page: study.html" in shown.out
    assert len((tmp_path / "study.csv").read_text().splitlines()) == 5
    with pytest.raises(SystemExit):
        main(["--no-cache", "sweep", "study.toml", "--out", "page"])
    assert "--out must end in .html" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: gfopt.sweep("cma-es", PROBLEM, {}), "did you mean 'cma_es'"),
        (lambda: gfopt.sweep("cma_es", PROBLEM, {"sgma": [1.0]}), "'sigma'"),
        (lambda: gfopt.sweep("cma_es", PROBLEM, {"sigma": 1.0}), "must be a list of"),
        (lambda: gfopt.sweep("cma_es", PROBLEM, {"sigma": []}), "one value or more"),
        (
            lambda: gfopt.sweep("cma_es", PROBLEM, {}, budget=3),
            "for one generation",
        ),
        (lambda: gfopt.sweep("cma_es", bowl, {}), "callables with x0 or bounds"),
        (lambda: swept({"methods": "snes"}), "study must have 'problems'"),
        (lambda: swept({"method": "snes"}), "did you mean 'methods'"),
    ],
)
def test_sweeps_that_make_no_sense_are_refused(call, message) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        call()
