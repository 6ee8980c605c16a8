"""A cheap score before the costly value: only the best of the candidates are evaluated.

Of the candidates that ``inner`` asks for, a share is evaluated, those with the lowest
score; ``inner`` is told that the others failed. With ``q`` evaluated of ``P``, a step
costs ``q`` values and chooses among ``P``. The score is a fidelity below the lowest: of
an untrained network, an estimate, a rule of thumb.

Sources: pre-selection, as in Emmerich, Giotis, Ozdemir, Back, Giannakoglou,
"Metamodel-assisted evolution strategies" (PPSN 2002); scores of untrained networks for
it as in Abdelfattah et al., "Zero-cost proxies for lightweight NAS" (ICLR 2021).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gfopt import checks
from gfopt.core import schedules
from gfopt.core.evaluate import decode_rows
from gfopt.protocol import Method, Optimizer, StatelessWrapper
from gfopt.pytree import pytree, static
from gfopt.types import Evaluation, Info, Key, Member, Population, Solution, State


class ScreenedMember(NamedTuple):
    """A member of the inner method.

    Attributes:
        inner: the member.
        row: where it stands in the inner method's population, ``i32[]``.
        is_active: whether the inner method wants it evaluated, ``bool[]``.
    """

    inner: Member
    row: jax.Array
    is_active: jax.Array


@pytree
class Screened(StatelessWrapper):
    """Evaluates only those of ``inner``'s candidates that a cheap score likes best.

    Give ``inner`` a larger population: with ``share=0.25`` four times as large.

    Args:
        inner: a method that bears failures, such as one that ranks.
        score: a JAX function of one solution, lower is better; NaN comes last.
        share: of the candidates that are evaluated, at least one.

    Raises:
        TypeError: for an argument of the wrong type.
        ValueError: for a share outside of (0, 1].

    Example:
        >>> import gfopt
        >>> def costly(x):
        ...     return jnp.sum((x - 1) ** 2)
        >>> def rough(x):  # the minimum is elsewhere, but not far away
        ...     return jnp.sum((x - 1.2) ** 2)
        >>> method = gfopt.Screened(gfopt.DeepGA(64, 8, sigma=0.3), rough, share=0.25)
        >>> result = gfopt.run(method, costly, jnp.full(4, -3.0), key=jax.random.key(0),
        ...                    generations=30)
        >>> int(result.history["nfev"][-1]), bool(costly(result.recommended) < 0.5)
        (480, True)
    """

    inner: Optimizer
    score: Callable[[Solution], Any] = static()
    share: schedules.Number = 0.25

    late_members = ""  # a row is one of its population

    def __post_init__(self) -> None:
        checks.instance("inner", self.inner, Optimizer, "a gfopt optimizer")
        checks.is_callable("score", self.score)
        schedules.set_numbers(self, "share", check=checks.share)
        schedules.set_numbers(self, "share")

    def ask(self, key: Key, state: State) -> Population:
        """Asks the inner method, and puts the best by the score first."""
        members, active = self.inner.ask(key, state)
        solutions = decode_rows(self.inner, state, members)
        scores = jnp.where(active, jax.vmap(self.score)(solutions), jnp.nan)
        count = jnp.ceil(jnp.sum(active) * schedules.at("share", self.share, 0))
        row = jnp.argsort(scores).astype(jnp.int32)  # NaN stands last
        # of rows that score nothing, the active ones first
        row = row[jnp.argsort(~active[row], stable=True)]
        ordered = jax.tree.map(lambda leaf: leaf[row], members)
        return Population(
            ScreenedMember(ordered, row, active[row]), jnp.arange(row.size) < count
        )

    def decode(self, state: State, member: ScreenedMember) -> Solution:
        """Decodes the inner method's member."""
        return super().decode(state, member.inner)

    def tell(
        self, state: State, population: Population, evaluation: Evaluation
    ) -> tuple[State, Info]:
        """Tells the inner method its rows in their order; what was left out failed."""
        members, row, active = population.members
        place = jnp.argsort(row)
        original, active, found = jax.tree.map(
            lambda leaf: leaf[place], (members, active, evaluation)
        )
        return self.inner.tell(state, Population(original, active), found)

    encode = Method.encode  # the row of a solution is not known
