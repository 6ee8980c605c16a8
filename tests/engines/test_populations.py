"""Populations on engines: what servers are sent, what fails, what is paid for twice."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from engines.servers import LLAMA, VLLM, serving
from engines.small_models import small_adapter, small_model, write_gguf

import gfopt
from gfopt import engines
from gfopt.core.objective import Inputs
from gfopt.problems import export_gguf
from gfopt.quantization import gguf_files

PROMPTS, TARGETS = [[3, 1, 4], [2, 7]], [[1, 5, 9], [8]]


def ours(found: Any, adapter: Any) -> list[np.ndarray]:
    with engines.InProcess(found).loaded([adapter]) as (model,):
        return model.log_probabilities(PROMPTS, TARGETS)


def loss(model: Any) -> float:
    return -float(np.concatenate(model.log_probabilities(PROMPTS, TARGETS)).mean())


def test_a_text_has_its_score() -> None:
    found, adapter = small_model(), small_adapter()
    weights = engines.merged(found.weights, adapter)
    for prompt, target, scores in zip(
        PROMPTS, TARGETS, ours(found, adapter), strict=True
    ):
        text = np.array([*prompt, *target])
        logits = np.asarray(found.model.logits(weights, text[None]), np.float64)[0]
        for token, score, row in zip(
            target, scores, logits[len(prompt) - 1 :], strict=False
        ):
            expected = row[token] - np.log(np.exp(row).sum())
            assert score == pytest.approx(expected, abs=1e-5)


# -- vLLM


def test_members_are_loaded_asked_together_and_unloaded() -> None:
    found = small_model()
    vllm = VLLM(found)
    adapters = [small_adapter(2, seed) for seed in range(5)]
    with serving(vllm) as url:
        engine = engines.VLLMServer(url + "/", found.model, slots=3)
        evaluator = engines.population(engine)
        objective = gfopt.Objective(loss, traceable=False)
        values = evaluator.values(objective, adapters, None, Inputs())
        evaluator.close()
        with engine.loaded(adapters[:1]) as (model,):
            written = model.continuations([[1, 2], [3]], 4, temperature=0.5)
    for adapter, value in zip(adapters, values, strict=True):
        expected = -np.concatenate(ours(found, adapter)).mean()
        assert value.fitness == pytest.approx(expected, abs=1e-5)
    assert vllm.most == 3
    assert not vllm.loaded
    assert written == ["[1, 2]", "[3]"]
    _, asked = next(item for item in vllm.asked if item[1].get("temperature") == 0.5)
    assert asked["max_tokens"] == 4


@pytest.mark.parametrize("what", ["load_lora_adapter", "completions"])
def test_what_a_server_refuses_is_a_failed_candidate(what: str) -> None:
    found = small_model()
    vllm = VLLM(found)
    vllm.broken = {what}
    with serving(vllm) as url:
        evaluator = engines.population(engines.VLLMServer(url, found.model, timeout=5))
        objective = gfopt.Objective(loss, traceable=False)
        adapters = [small_adapter(), small_adapter(seed=2)]
        values = evaluator.values(objective, adapters, None, Inputs())
        evaluator.close()
    assert [value.reason for value in values] == [
        "HTTPError: HTTP Error 400: Bad Request: 'no' (str)"
    ] * 2
    assert not vllm.loaded


def test_an_objective_is_given_adapters_only() -> None:
    evaluator = engines.population(engines.InProcess(small_model()))
    objective = gfopt.Objective(loss, traceable=False)
    with pytest.raises(TypeError, match="adapter must be a dict of factors"):
        evaluator.values(objective, [np.zeros(3)], None, Inputs())
    evaluator.close()


def test_members_are_joined_with_what_was_found_before() -> None:
    found, before, adapter = small_model(), small_adapter(1), small_adapter(2, 7)
    evaluator = engines.population(engines.InProcess(found), onto=before)
    objective = gfopt.Objective(loss, traceable=False)
    (value,) = evaluator.values(objective, [adapter], None, Inputs())
    evaluator.close()
    moved = found._replace(weights=engines.merged(found.weights, before))
    expected = -np.concatenate(ours(moved, adapter)).mean()
    assert value.fitness == pytest.approx(expected, abs=1e-4)
    with pytest.raises(TypeError, match="adapter must be a dict of factors"):
        engines.population(engines.InProcess(found), onto=[before])


# -- llama-server


@pytest.fixture
def program(tmp_path: Path) -> Path:
    """A program with llama-server's interface."""
    pytest.importorskip("gguf", reason=gguf_files.INSTALL)
    path = tmp_path / "llama-server"
    path.write_text(LLAMA.format(python=sys.executable))
    path.chmod(0o755)
    (tmp_path / "model.gguf").touch()
    return path


def server(program: Path, **settings: Any) -> engines.LlamaServer:
    model = small_model().model
    return engines.LlamaServer(
        program.with_name("model.gguf"), model, command=str(program), **settings
    )


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_server_is_started_for_some_members_and_ended(program: Path) -> None:
    adapters = [small_adapter(2, seed) for seed in range(3)]
    evaluator = engines.population(server(program, slots=2))
    objective = gfopt.Objective(loss, traceable=False)
    values = evaluator.values(objective, adapters, None, Inputs())
    evaluator.close()
    assert len({value.fitness for value in values}) == 3
    starts = Path(f"{program}.starts").read_text().split()
    assert starts[1::2] == ["2", "1"]
    assert not any(alive(int(pid)) for pid in starts[::2])
    # a token of a target is a request, with the text before it
    assert len(Path(f"{program}.asked").read_text().split()) == 4 * 3
    with server(program).loaded(adapters[:2]) as models:
        scores = models[1].log_probabilities(PROMPTS, TARGETS)
        assert models[1].continuations([[1]], 7) == ["7 of 1"]
    assert np.diff(scores[0]) == pytest.approx(-0.01)


def test_a_server_that_does_not_start_says_why(program: Path) -> None:
    engine = server(program, options=["--fail"])
    with pytest.raises(RuntimeError, match="ended: error: failed to load model"):
        with engine.loaded([small_adapter()]):
            pass
    with pytest.raises(FileNotFoundError, match="not there: llama-server of llama.cpp"):
        engines.LlamaServer("x.gguf", small_model().model, command="no-such-program")
    with pytest.raises(FileNotFoundError, match="path must lead to a GGUF file"):
        engines.LlamaServer("x.gguf", small_model().model, command=str(program))


def searched(program: Path, checkpoint: Path | None, pause: float) -> Any:
    """Searches with a server; the objective takes a while."""

    def slowly(model: Any) -> float:
        time.sleep(pause)
        return loss(model)

    evaluator = engines.population(server(program, slots=4))
    result = gfopt.minimize(
        slowly,
        engines.new_adapter(small_model().weights, rank=1, seed=3),
        method="random_search",
        sigma0=0.1,
        budget=12,
        options={"population_size": 6},
        evaluator=evaluator,
        checkpoint=checkpoint,
        seed=1,
    )
    evaluator.close()
    return result


def test_a_search_that_was_killed_pays_for_nothing_twice(
    program: Path, tmp_path: Path
) -> None:
    """Nor does it leave a server behind."""
    asked, starts = Path(f"{program}.asked"), Path(f"{program}.starts")
    asked.touch()
    code = (
        "import sys; from pathlib import Path; sys.path.insert(0, sys.argv[1]); "
        "from engines.test_populations import searched; "
        "searched(Path(sys.argv[2]), sys.argv[3], 0.1)"
    )
    where = [Path(__file__).parents[1], program, tmp_path / "run"]
    killed = subprocess.Popen([sys.executable, "-c", code, *map(str, where)])
    deadline = time.monotonic() + 100
    # the start, the first members and a part of some other
    while len(asked.read_text().split()) <= 4 * 5:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    while any(map(alive, map(int, starts.read_text().split()[::2]))):
        assert time.monotonic() < deadline
        time.sleep(0.02)

    resumed = searched(program, tmp_path / "run", 0.0)
    assert resumed.nfev == 12
    sums = asked.read_text().split()
    assert len({*sums}) == 12
    # what was under way is asked again, one member; nothing else is
    assert sum(sums.count(each) > 4 for each in {*sums}) <= 1
    alone = searched(program, None, 0.0)
    assert alone.fun == resumed.fun


# -- llama.cpp's own


REAL = shutil.which(os.environ.get("LLAMA_SERVER", "llama-server"))


@pytest.mark.skipif(
    REAL is None, reason="llama-server of llama.cpp, on the path or in LLAMA_SERVER"
)
def test_llama_cpp_computes_what_we_do(tmp_path: Path) -> None:
    pytest.importorskip("gguf", reason=gguf_files.INSTALL)
    found = small_model()
    like = write_gguf(tmp_path / "like.gguf")
    export_gguf(found.weights, tmp_path / "base.gguf", like, kind="F32")
    exact = ["--cache-type-k", "f32", "--cache-type-v", "f32", "--flash-attn", "off"]
    engine = engines.LlamaServer(
        tmp_path / "base.gguf", found.model, command=str(REAL), options=exact
    )
    adapters = [small_adapter(2, seed) for seed in (1, 2)]
    with engine.loaded(adapters) as models:
        theirs = [model.log_probabilities(PROMPTS, TARGETS) for model in models]
    expected = [ours(found, adapter) for adapter in adapters]
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), theirs, expected
    )
    assert np.abs(expected[0][0] - expected[1][0]).max() > 0.1
