"""Which optional parts install and run on a Python, each in an environment of its own.

For each part: a new virtual environment, gfopt from this checkout with what the part
needs in its newest versions, then a few lines that use it, once with warnings as
errors and, if that fails, once without. Writes ``results/optional_parts.json`` and the
table in ``docs/optional_parts.md``. Takes 2 GB of disk at most, one part at a time.

    python benchmarks/optional_parts.py python3.11 python3.13
    python benchmarks/optional_parts.py python3.13 --parts gymnax brax
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from common import RESULTS, save

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "optional_parts.md"
BEGIN = """
import jax, jax.numpy as jnp, numpy as np, gfopt, tempfile
from pathlib import Path
folder, key = Path(tempfile.mkdtemp()), jax.random.key(0)
x = jnp.ones((4, 3))
def trained(loss, weights):
    run = gfopt.run(gfopt.MeZO(1e-3), loss, weights, key=key, generations=3)
    assert all(jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(run.recommended))
def played(task, policy):
    objective = task.objective()
    method = gfopt.RandomSearch(2, sigma=0.1)
    found = gfopt.minimize(objective, policy, method=method, budget=4, seed=0)
    assert found.nfev == 4 and np.isfinite(found.fun), found
"""


class Part(NamedTuple):
    """What a part is for, how to install it, its packages, and lines that use it."""

    use: str
    install: str
    packages: tuple[str, ...]
    lines: str


PARTS = {
    "Flax NNX": Part(
        "models",
        "flax",
        ("flax",),
        """
from flax import nnx
graph, weights = nnx.split(nnx.Linear(3, 2, rngs=nnx.Rngs(0)))
trained(lambda w: jnp.sum(nnx.merge(graph, w)(x) ** 2), weights)
""",
    ),
    "Flax Linen": Part(
        "models",
        "flax",
        ("flax",),
        """
from flax import linen
model = linen.Dense(2)
trained(lambda w: jnp.sum(model.apply(w, x) ** 2), model.init(key, x))
""",
    ),
    "Equinox": Part(
        "models",
        "equinox",
        ("equinox",),
        """
import equinox as eqx
weights, rest = eqx.partition(eqx.nn.Linear(3, 2, key=key), eqx.is_array)
trained(lambda w: jnp.sum(jax.vmap(eqx.combine(w, rest))(x) ** 2), weights)
""",
    ),
    "Qwix": Part(
        "quantized trees",
        "gfopt[qwix]",
        ("qwix", "flax"),
        """
import qwix
w = jax.random.normal(key, (64, 48))
theirs = qwix.quantize(w, jnp.int4, channelwise_axes=[1], tiled_axes={0: 16})
ours = gfopt.quantization.from_qwix({"w": theirs})["w"]
assert jnp.array_equal(ours.materialise(), qwix.dequantize(theirs))
""",
    ),
    "gguf": Part(
        "model files",
        "gfopt[lm]",
        ("gguf",),
        """
import gguf
from gfopt.quantization import gguf_files
writer = gguf.GGUFWriter(folder / "a.gguf", "llama")
kind = gguf.GGMLQuantizationType.Q4_0
w = np.ones((6, 96), np.float32)
writer.add_tensor("a.weight", gguf.quants.quantize(w, kind), raw_dtype=kind)
writer.write_header_to_file()
writer.write_kv_data_to_file()
writer.write_tensors_to_file()
writer.close()
found = gguf_files.read_tensors(gguf_files.open_gguf(folder / "a.gguf"))["a.weight"]
assert isinstance(found, gfopt.quantization.Quantized) and found.shape == w.shape
""",
    ),
    "safetensors, tokenizers": Part(
        "model files",
        "gfopt[lm]",
        ("safetensors", "tokenizers"),
        """
import json
import safetensors.numpy, tokenizers
from gfopt.problems import load_safetensors
names = {"self_attn.q_proj": (8, 8), "self_attn.k_proj": (8, 8)}
names |= {"self_attn.v_proj": (8, 8), "self_attn.o_proj": (8, 8)}
names |= {"mlp.gate_proj": (8, 8), "mlp.up_proj": (8, 8), "mlp.down_proj": (8, 8)}
names |= {"input_layernorm": (8,), "post_attention_layernorm": (8,)}
one, before = lambda shape: np.ones(shape, np.float32), "model.layers.0"
tensors = {f"{before}.{name}.weight": one(names[name]) for name in names}
tensors |= {"model.embed_tokens.weight": one((4, 8)), "model.norm.weight": one(8)}
safetensors.numpy.save_file(tensors, folder / "model.safetensors")
config = dict(model_type="llama", tie_word_embeddings=True, num_attention_heads=2,
              num_hidden_layers=1, rope_theta=1e4, rms_norm_eps=1e-5)
(folder / "config.json").write_text(json.dumps(config))
words = tokenizers.models.WordLevel({"a": 0, "b": 1, "c": 2, "d": 3}, unk_token="d")
tokenizers.Tokenizer(words).save(str(folder / "tokenizer.json"))
found = load_safetensors(folder)
assert found.model.logits(found.weights, np.array([[1, 2]])).shape == (1, 2, 4)
assert found.tokenizer.encode("b").ids == [1]
""",
    ),
    "Gymnasium": Part(
        "control tasks",
        "gymnasium",
        ("gymnasium",),
        """
from gfopt.problems import GymnasiumRollout, discrete_action, mlp
task = GymnasiumRollout("CartPole-v1", discrete_action, max_steps=20)
played(task, mlp(key, (4, 2)))
""",
    ),
    "Gymnasium with MuJoCo": Part(
        "control tasks",
        "gfopt[gymnasium]",
        ("gymnasium", "mujoco"),
        """
from gfopt.problems import GymnasiumRollout, continuous_action, mlp
task = GymnasiumRollout("Swimmer-v5", continuous_action, max_steps=20)
played(task, mlp(key, (8, 2)))
""",
    ),
    "Arcade Learning Environment": Part(
        "games",
        "gfopt[atari]",
        ("ale-py",),
        """
from gfopt.problems import Atari
task = Atari("asterix", network="tiny", max_steps=20)
played(task, task.init(key))
""",
    ),
    "gymnax": Part(
        "control tasks",
        "gfopt[gymnax]",
        ("gymnax",),
        """
from gfopt.problems import Rollout, discrete_action, gymnax, mlp
played(Rollout(gymnax("CartPole-v1"), discrete_action, max_steps=20), mlp(key, (4, 2)))
""",
    ),
    "Brax": Part(
        "control tasks",
        "gfopt[brax]",
        ("brax", "mujoco"),
        """
from gfopt.problems import brax
environment = brax("inverted_pendulum", backend="generalized")
state, observation = jax.jit(environment.reset)(key)
state, observation, reward, done = jax.jit(environment.step)(key, state, jnp.zeros(1))
assert np.isfinite(reward) and observation.shape == (4,)
""",
    ),
    "Dask": Part(
        "workers",
        "gfopt[distributed]",
        ("dask", "distributed"),
        """
from distributed import Client
with Client(n_workers=1, threads_per_worker=1, processes=False,
            dashboard_address=None) as client:
    found = gfopt.minimize(gfopt.Objective(lambda x: float(x @ x), traceable=False),
                           [1.0, 2.0], workers=client.get_executor(), budget=20, seed=0)
assert found.nfev == 20 and not found.failures
""",
    ),
    "loky": Part(
        "workers",
        "gfopt[distributed]",
        ("loky",),
        """
import loky
with loky.ProcessPoolExecutor(max_workers=2) as workers:
    found = gfopt.minimize(gfopt.Objective(lambda x: float(x @ x), traceable=False),
                           [1.0, 2.0], workers=workers, budget=20, seed=0)
assert found.nfev == 20 and not found.failures
""",
    ),
    "COCO": Part(
        "the benchmark",
        "gfopt[bench]",
        ("coco-experiment", "cocopp"),
        """
import cocoex, cocopp
from gfopt.problems import bbob
suite = cocoex.Suite("bbob", "instances:1", "dimensions:2")
theirs = suite.get_problem_by_function_dimension_instance(8, 2, 1)
with jax.enable_x64(True):
    assert np.isclose(bbob(8, 2, 1)(jnp.ones(2)), theirs(np.ones(2)))
observer = cocoex.Observer("bbob", f'outer_folder: "{folder}" result_folder: runs')
theirs.observe_with(observer)
gfopt.minimize(gfopt.Objective(theirs, traceable=False), [0.0, 0.0], budget=50, seed=0)
theirs.free()
assert len(cocopp.load(str(folder / "runs"))) == 1
""",
    ),
}


def run(*command: Any, **words: Any) -> subprocess.CompletedProcess[str]:
    """Runs a command and keeps what it prints."""
    return subprocess.run(
        [*map(str, command)], capture_output=True, text=True, check=False, **words
    )


def last_line(done: subprocess.CompletedProcess[str]) -> str:
    """Returns the last line that says what went wrong."""
    lines = [line.strip() for line in (done.stderr or done.stdout).splitlines()]
    said = [line for line in lines if re.match(r"[\w.]*(Error|Warning|Exit)", line)]
    return (said or lines or ["no message"])[-1][:200]


def installed(python: str, part: Part, folder: Path) -> tuple[Path, str]:
    """Makes an environment with the part; returns its Python, and what went wrong."""
    own = folder / "bin" / "python"
    local = part.install.replace("gfopt", str(ROOT)).split()
    needs = local if str(ROOT) in part.install else [str(ROOT), *local]
    if uv := shutil.which("uv"):
        run(uv, "venv", "-q", "--python", python, folder)
        done = run(uv, "pip", "install", "-q", "--python", own, *needs)
    else:
        run(python, "-m", "venv", folder)
        done = run(own, "-m", "pip", "install", "-q", *needs)
    return own, last_line(done) if done.returncode else ""


def tried(python: str, name: str) -> dict[str, Any]:
    """Installs a part and runs its lines; returns what the table says of it."""
    part = PARTS[name]
    with tempfile.TemporaryDirectory() as folder:
        own, error = installed(python, part, Path(folder) / "env")
        if error:
            return {"result": "does not install", "error": error, "versions": {}}
        code = (
            "from importlib.metadata import version\nfor n in {}: print(n, version(n))"
        )
        names = ["jax", *part.packages]
        versions = run(own, "-I", "-c", code.format(names)).stdout.split()
        found = {"versions": dict(zip(versions[::2], versions[1::2], strict=True))}
        program = BEGIN + part.lines
        strict = run(own, "-I", "-W", "error", "-c", program, cwd=folder, timeout=900)
        if not strict.returncode:
            return found | {"result": "runs", "error": ""}
        loose = run(own, "-I", "-c", program, cwd=folder, timeout=900)
        result = "fails" if loose.returncode else "runs, with a warning"
        return found | {"result": result, "error": last_line(strict)}


def table(results: dict[str, dict[str, Any]]) -> str:
    """Returns the Markdown table of all parts and Pythons, with its footnotes."""
    rows = [
        "| part | for | install | " + " | ".join(results) + " |",
        "|---" * (3 + len(results)) + "|",
    ]
    notes: list[str] = []
    for name, part in PARTS.items():
        cells = [name, part.use, f"`pip install '{part.install}'`"]
        for found in (by_part.get(name) for by_part in results.values()):
            if found is None:
                cells.append("not tried")
                continue
            versions = [f"{n} {v}" for n, v in found["versions"].items()]
            cells.append(", ".join([found["result"], *versions]))
            if found["error"]:
                notes.append(found["error"])
                cells[-1] += f" ({len(notes)})"
        rows.append("| " + " | ".join(cells) + " |")
    rows += ["", *(f"{n}. `{note}`" for n, note in enumerate(notes, 1))]
    return "\n".join(rows).rstrip() + "\n"


def write_page(results: dict[str, dict[str, Any]], date: str) -> None:
    """Puts the table in its place in the documentation."""
    text = PAGE.read_text()
    head = text[: text.index("<!-- table -->")]
    PAGE.write_text(f"{head}<!-- table -->\n\nTried on {date}:\n\n{table(results)}")


def main(pythons: Sequence[str], parts: Sequence[str]) -> None:
    """Tries each part on each Python and writes the table."""
    path = RESULTS / "optional_parts.json"
    results: dict[str, dict[str, Any]] = {}
    if path.exists():
        results = json.loads(path.read_text())["parts"]
    for python in pythons:
        version = run(python, "--version").stdout.strip()
        for name in parts:
            found = tried(python, name)
            results.setdefault(version, {})[name] = found
            print(version, name, found, flush=True)
            save("optional_parts", [], {"parts": results})
    write_page(results, json.loads(path.read_text())["date"])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pythons", nargs="+", help="interpreters, such as python3.13")
    parser.add_argument("--parts", nargs="+", choices=[*PARTS], default=[*PARTS])
    options = parser.parse_args()
    main(options.pythons, options.parts)
