"""``gfopt prompt``: searches a prompt that makes a language model classify texts."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated

import jax
import numpy as np
import typer

from gfopt import checks, registry
from gfopt.cli import terminal
from gfopt.cli.arguments import number, refusals
from gfopt.cli.labelled_texts import label_words, read_sentences, split
from gfopt.core.objective import Objective
from gfopt.driver.minimize import minimize
from gfopt.driver.progress.interrupt import Interrupt
from gfopt.driver.progress.progress import ProgressLine
from gfopt.driver.result.result import Result
from gfopt.problems.language_models.language_models import (
    Pretrained,
    load_gguf,
    smollm2,
)
from gfopt.problems.language_models.prompted_classification import (
    PromptedClassification,
    prompted,
    word_tokens,
)
from gfopt.prompts.claps_search import budget_is_used, claps
from gfopt.prompts.counted_objectives import answers, counted
from gfopt.prompts.ledger import Ledger
from gfopt.prompts.vocabulary import cluster_vocabulary

_MOST = 10**6
_BLOCK = 8  # prompts between two looks at Ctrl-C
_ROWS = 50  # candidates for each query: a search that finds nothing new must end


class _Stopped(Exception):
    """Ctrl-C while the vocabulary was pruned."""


def prompt(
    context: typer.Context,
    file: Annotated[
        str, typer.Argument(metavar="CSV", help="Texts and their labels, with a head.")
    ],
    model: Annotated[
        str,
        typer.Option(metavar="NAME", help="smollm2, or a Llama-type GGUF file."),
    ] = "smollm2",
    text: Annotated[
        str, typer.Option(metavar="COLUMN", help="Column of the texts.")
    ] = "text",
    label: Annotated[
        str, typer.Option(metavar="COLUMN", help="Column of the labels.")
    ] = "label",
    words: Annotated[
        str | None,
        typer.Option(
            metavar="LIST",
            help="What the model answers for each label, as in 0=negative,1=positive.",
            show_default="the labels",
        ),
    ] = None,
    template: Annotated[
        str,
        typer.Option(metavar="TEXT", help=r"Around each text; \n is a new line."),
    ] = r"\nText: {}\nLabel:",
    length: Annotated[
        str, typer.Option(metavar="NUMBER", help="Tokens of the prompt.")
    ] = "5",
    shots: Annotated[
        str, typer.Option(metavar="NUMBER", help="Texts of each label to search with.")
    ] = "8",
    held_out: Annotated[
        str, typer.Option(metavar="NUMBER", help="Texts to judge by, at most.")
    ] = "64",
    budget: Annotated[
        str, typer.Option(metavar="NUMBER", help="Queries, those of pruning included.")
    ] = "200",
    clusters: Annotated[
        str,
        typer.Option(
            metavar="NUMBER", help="Tokens that stand for all words; 0: all words."
        ),
    ] = "0",
    kept: Annotated[
        str,
        typer.Option(
            metavar="NUMBER", help="Tokens that pruning leaves; 0: do not prune."
        ),
    ] = "0",
    method: Annotated[
        str, typer.Option(metavar="NAME", help="A search over tokens.")
    ] = "genetic_tokens",
    best: Annotated[str, typer.Option(metavar="NUMBER", help="Prompts to show.")] = "5",
    seed: Annotated[
        str, typer.Option(metavar="NUMBER", help="Of the split and the search.")
    ] = "0",
    checkpoint: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="From which the same command goes on."),
    ] = None,
) -> None:
    """Search a prompt for texts with labels, with every model call counted.

    A query is one prompt on all texts it is searched with. Ctrl-C ends it with the best
    so far.
    """
    with refusals(ValueError, TypeError, ImportError, OSError, context=context):
        size = number("--length", length, 1, 100)
        num_shots = number("--shots", shots, 1, _MOST)
        num_held = number("--held-out", held_out, 1, _MOST)
        num_queries = number("--budget", budget, 1, _MOST)
        num_clusters = number("--clusters", clusters, 0, _MOST)
        num_kept = number("--kept", kept, 0, _MOST)
        num_shown = number("--best", best, 1, 100)
        start = number("--seed", seed, 0, 2**31 - 1)
        checks.one_of("--method", method, registry.names(tokens=True))
        if template.count("{}") != 1:
            raise ValueError(
                "--template must have one {} for the text; "
                f"got {checks.shown(template)}"
            )
        if num_kept > num_clusters:
            raise ValueError(
                f"--kept must be at most --clusters, {num_clusters}; got {num_kept}"
            )
        if num_kept and num_queries <= num_clusters + 1:
            raise ValueError(
                "--budget must be above what pruning takes, a query for each of the "
                f"{num_clusters} clusters and one without; got {num_queries}"
            )
        sentences = read_sentences(file, text, label)
        answers = label_words(words, sentences.names)
        few, rest = split(sentences, num_shots, num_held, start)
        terminal.note(f"reading {model}", stderr=True)
        pretrained = load_model(model)
        around = template.replace("\\n", "\n")
        task, held = (
            prompted(
                pretrained,
                [sentences.texts[i] for i in rows],
                sentences.labels[rows],
                answers,
                around,
            )
            for rows in (few, rest)
        )
        embeddings = np.asarray(pretrained.weights["embedding"])
        ids = word_tokens(pretrained.tokenizer, len(embeddings))
        if num_clusters:
            ids = cluster_vocabulary(embeddings, num_clusters, ids=ids, seed=start)
        objective = counted(
            task,
            size,
            budget=num_queries,
            num_tokens=int(task.num_tokens(np.zeros(size))),
            batch_size=1,
            capacity=num_queries,
        )
        ledger, is_whole = _searched(
            objective,
            ids,
            min(num_kept, len(ids)),
            method,
            start,
            checkpoint,
        )
    is_judged = _show(pretrained, task, held, ledger, num_shown)
    if not (is_whole and is_judged):
        terminal.note("stopped by Ctrl-C: the best so far", stderr=True)
        raise typer.Exit(130)


def load_model(name: str) -> Pretrained:
    """Reads the model with this name, or from this file."""
    if name == "smollm2":
        return smollm2()
    if not Path(name).is_file():
        raise ValueError(
            f"--model must be smollm2 or a GGUF file; got {checks.shown(name)}"
        )
    return load_gguf(name)


def _searched(
    objective: Objective,
    ids: np.ndarray,
    num_kept: int,
    method: str,
    seed: int,
    checkpoint: str | None,
) -> tuple[Ledger, bool]:
    """Prunes, if tokens are to be kept, and searches.

    Returns:
        The ledger, and whether Ctrl-C left it be.
    """
    latest: list[Ledger] = [objective.context]
    size = objective.context.prompts.shape[1]
    nothing = np.full(size, -1, np.int32)
    line = ProgressLine(math.inf)

    def note(ledger: Ledger, what: str, is_last: bool = False) -> None:
        latest[0] = ledger
        low = np.nanmin(ledger.values) if int(ledger.distinct) else math.nan
        share = f"{int(ledger.queries)} of {int(ledger.budget)} queries"
        line.write(f"{what}, {share}, best loss {low:.4f}", is_last)

    with Interrupt() as interrupt, line:
        interrupt.let_pass()  # the second time at once

        def after_block(objective: Objective) -> None:
            note(objective.context, "pruning")
            if interrupt.seen:
                raise _Stopped

        def after_generation(result: Result) -> bool:
            note(result.context, "search")
            return interrupt.seen

        try:
            if num_kept:
                claps(
                    objective,
                    nothing,
                    ids=ids,
                    num_kept=num_kept,
                    method=method,
                    options=_options(method, size, num_kept, objective.context.left),
                    seed=seed,
                    batch_size=_BLOCK,
                    after_block=after_block,
                    checkpoint=checkpoint,
                    callbacks=after_generation,
                )
            else:
                _, objective = answers(objective, nothing[None])
                left = objective.context.left
                options = _options(method, size, len(ids), left)
                minimize(
                    objective,
                    nothing,
                    method=method,
                    options={**options, "vocabulary": ids},
                    budget=_ROWS * left,
                    seed=seed,
                    checkpoint=checkpoint,
                    callbacks=(after_generation, budget_is_used),
                )
        except _Stopped:
            pass
        note(latest[0], "stopped" if interrupt.seen else "done", True)
        return latest[0], not interrupt.seen


def _options(method: str, size: int, count: int, budget: int) -> dict[str, float]:
    """Returns small generations: a query costs seconds."""
    if method == "greedy_tokens":  # two sweeps or more
        return {
            "num_sweeps": 100,
            "population_size": min(count, -(-budget // (2 * size))),
        }
    options: dict[str, float] = {"population_size": 10}
    if method == "genetic_tokens":
        options |= {"num_parents": 5, "mutation_rate": 0.2}
    return options


def _show(
    pretrained: Pretrained,
    task: PromptedClassification,
    held: PromptedClassification,
    ledger: Ledger,
    count: int,
) -> bool:
    """Prints the best prompts, the empty one below them, and what it cost.

    Returns:
        Whether all of them were judged before Ctrl-C.
    """
    number = min(int(ledger.distinct), len(ledger.values))
    prompts = np.asarray(ledger.prompts)[:number]
    losses = np.asarray(ledger.values)[:number]
    order = np.argsort(losses, kind="stable")
    is_empty = np.asarray(np.all(prompts < 0, axis=1))
    best = [row for row in order if not is_empty[row]][:count]
    shown = [(prompts[row], losses[row]) for row in best]
    nothing = np.full(prompts.shape[1], -1, np.int32)
    # pruning has asked for it, unless Ctrl-C came first: the ledger has its loss
    shown += [(nothing, loss) for loss in losses[is_empty][:1]] or [(nothing, math.nan)]
    shares, ledger = _judged(held, [prompt for prompt, _ in shown], ledger)
    rows = []
    for place, (prompt, loss) in enumerate(shown):
        text = pretrained.tokenizer.decode(prompt[prompt >= 0].tolist()).strip()
        share = f"{shares[place]:.3f}" if place < len(shares) else "-"
        loss = "-" if math.isnan(loss) else f"{loss:.4f}"
        rows.append((text or "(no prompt)", loss, share))
    title = f"The best on {len(task.labels)} texts, {len(held.labels)} held out"
    terminal.show(title, ("prompt", "loss", "held out"), rows)
    terminal.note(
        f"cost: {int(ledger.queries) - len(shares)} queries to search and "
        f"{len(shares)} to judge, {ledger.scored_tokens} tokens read, "
        f"{ledger.distinct} different prompts"
    )
    return len(shares) == len(shown)


def _judged(
    held: PromptedClassification, prompts: list[np.ndarray], ledger: Ledger
) -> tuple[list[float], Ledger]:
    """Returns the accuracies on the held-out texts, until Ctrl-C, and the ledger."""
    judge = jax.jit(lambda task, prompt: task.accuracy(prompt))
    shares: list[float] = []

    def said() -> str:
        return (
            f"judging, {len(shares)} of {len(prompts)} prompts on "
            f"{len(held.labels)} texts"
        )

    line = ProgressLine(math.inf)
    with Interrupt() as interrupt, line:
        interrupt.let_pass()  # the second time at once
        for prompt in prompts:
            line.write(said())
            shares.append(float(judge(held, prompt)))
            ledger = ledger.charged(1, int(held.num_tokens(prompt)))
            if interrupt.seen:
                break
        line.write(said(), True)
    return shares, ledger
