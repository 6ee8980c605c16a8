"""``gfopt memory``: what training takes, by part, beside other methods."""

from __future__ import annotations

from typing import Annotated

import typer

from gfopt.cli import terminal
from gfopt.cli.arguments import refusals
from gfopt.quantization.memory import METHODS, decoder, memory_plan


def memory(
    context: typer.Context,
    parameters: Annotated[
        float, typer.Option(metavar="NUMBER", help="Of the model, as in 7e9.")
    ],
    bits: Annotated[int, typer.Option(metavar="2|4|5|6|8", help="Of a weight.")] = 4,
    group: Annotated[
        int, typer.Option(metavar="NUMBER", help="Weights that share a scale.")
    ] = 128,
    method: Annotated[
        str, typer.Option(metavar="|".join(METHODS), help="What is shown by part.")
    ] = "qzo",
    asymmetric: Annotated[
        bool, typer.Option("--asymmetric", help="Groups with a zero of their own.")
    ] = False,
    batch: Annotated[int, typer.Option(metavar="NUMBER", help="Texts at once.")] = 1,
    length: Annotated[int, typer.Option(metavar="NUMBER", help="Their tokens.")] = 512,
    vocabulary: Annotated[
        int, typer.Option(metavar="NUMBER", help="Number of different tokens.")
    ] = 32000,
    width: Annotated[
        int | None,
        typer.Option(
            metavar="NUMBER", help="Of the model.", show_default="from --parameters"
        ),
    ] = None,
    rank: Annotated[int, typer.Option(metavar="NUMBER", help="Of LoRA.")] = 8,
) -> None:
    """Say how much memory training a decoder takes, and what it is made of."""
    with refusals(ValueError, TypeError, context=context):
        shape = decoder(parameters, vocabulary=vocabulary, width=width)
        plans = {
            name: memory_plan(
                shape,
                name,
                bits=bits,
                group_size=group,
                symmetric=not asymmetric,
                batch=batch,
                length=length,
                rank=rank,
            )
            # the one that is asked for first, so that an unknown name is refused
            for name in dict.fromkeys([method, *METHODS])
        }
    totals = {name: sum(plan.values()) for name, plan in plans.items()}
    parts = plans[method] | {"all": totals[method]}
    rows = [(part, f"{size / 1e9:.3f}") for part, size in parts.items()]
    title = f"{method}, {shape.layers} layers of width {shape.width}"
    terminal.show(title, ("part", "GB"), rows)
    terminal.show(
        "beside",
        ("method", "GB", f"times {method}"),
        [
            (name, f"{total / 1e9:.2f}", f"{total / totals[method]:.2f}")
            for name, total in totals.items()
        ],
    )
