"""A population on vLLM: a search of an adapter, members batched by the server.

For a machine with a GPU. In one terminal

    pip install vllm
    VLLM_ALLOW_RUNTIME_LORA_UPDATING=True vllm serve FOLDER --enable-lora \
        --max-loras 16 --max-lora-rank 8

with FOLDER a Llama-type model of Hugging Face, and in another

    pip install -e '.[lm]'
    python benchmarks/vllm_population.py FOLDER

It tunes an adapter on the log-probability of answers to small sums, three given and
some asked, with half of them held out; it prints evaluations a second and both losses.
``--checkpoint FILE`` goes on where a run was stopped. It was tried with a small server
of the same interface, not with vLLM.
"""

from __future__ import annotations

import argparse
import random
import time
from typing import Any

import numpy as np
from common import save

import gfopt
from gfopt import engines


def texts(tokenizer: Any, count: int) -> tuple[list[list[int]], list[list[int]]]:
    """Returns prompts and answers as token ids."""
    draw, prompts, targets = random.Random(0), [], []
    shown = "2 plus 3 is 5.\n4 plus 9 is 13.\n7 plus 1 is 8.\n"
    for _ in range(count):
        a, b = draw.randrange(10, 50), draw.randrange(10, 50)
        prompt = tokenizer.encode(f"{shown}{a} plus {b} is").ids
        whole = tokenizer.encode(f"{shown}{a} plus {b} is {a + b}.").ids
        prompts.append(prompt)
        targets.append(whole[len(prompt) :])
    return prompts, targets


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder")
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--slots", type=int, default=16)
    parser.add_argument("--generations", type=int, default=50)
    parser.add_argument("--population", type=int, default=32)
    parser.add_argument("--rank", type=int, default=1)
    parser.add_argument("--sigma", type=float, default=0.01)
    parser.add_argument("--texts", type=int, default=64)
    parser.add_argument("--checkpoint")
    given = parser.parse_args()
    found = gfopt.problems.load_safetensors(given.folder)
    prompts, targets = texts(found.tokenizer, given.texts)
    half = given.texts // 2

    def loss(model: Any) -> float:
        scores = model.log_probabilities(prompts[:half], targets[:half])
        return -float(np.mean([score.mean() for score in scores]))

    engine = engines.VLLMServer(given.url, found.model, slots=given.slots)
    evaluator = engines.population(engine, retries=1)
    start = engines.new_adapter(found.weights, given.rank)
    began = time.perf_counter()
    result = gfopt.minimize(
        loss,
        start,
        method=gfopt.OpenES(given.population, sigma=given.sigma, learning_rate=0.01),
        budget=given.population * given.generations,
        evaluator=evaluator,
        checkpoint=given.checkpoint,
        progress=True,
    )
    seconds = time.perf_counter() - began
    evaluator.close()
    losses = []
    with engine.loaded([start, result.recommended]) as models:
        for model in models:
            scores = model.log_probabilities(prompts[half:], targets[half:])
            losses.append(-float(np.mean([score.mean() for score in scores])))
    print(f"held out: {losses[0]:.4f} before, {losses[1]:.4f} after")
    rate = result.nfev / seconds
    print(f"{rate:.2f} evaluations a second, {half} texts each")
    results = {"evaluations_per_second": rate, "held_out": losses, **vars(given)}
    save("vllm_population", ["jax", "gfopt"], results)


if __name__ == "__main__":
    main()
