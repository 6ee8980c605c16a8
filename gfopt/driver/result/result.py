"""What a search gives back: SciPy's field names, and what SciPy leaves out."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import jax
import numpy as np

from gfopt.core import trees
from gfopt.core.sense import Sense
from gfopt.driver.result.endings import Status
from gfopt.driver.result.plots import figure_of
from gfopt.protocol import Optimizer, as_method
from gfopt.types import PyTree, Solution, State

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_SHOWN = 8  # numbers of a solution that are printed
MOST_KEPT = 1 << 20  # largest solution that is copied when it is the best: 4 or 8 MB


@dataclass
class Result:
    """The outcome of a search; prints as a small table.

    Attributes:
        x: the best solution that was evaluated; None for trees too large to copy.
        fun: its value, in the user's sense.
        recommended: the method's own answer (mean, consensus), better under noise.
        success: whether the search converged, is complete, or reached its target.
        status: why it ended, a ``Status``.
        message: the same in words, with the value that decided.
        nfev: evaluations of the objective, failed ones included.
        nit: generations.
        failures: failed evaluations by reason.
        history: for each generation ``nfev``, ``fitness`` (its best), ``best`` (so
            far) and the method's diagnostics, as arrays ``[nit]``.
        state: the method's last state, NumPy arrays.
        optimizer: the method.
        path: ``"compiled"``, ``"host"``, or ``"ask_tell"`` where the caller evaluates.
        reason: why that path ran.
        seconds: wall time.
        context: what the objective carried from step to step, at the end, or None.
        maximize: whether the largest value is the best.

    Example:
        >>> import gfopt
        >>> result = gfopt.minimize(lambda x: ((x - 1) ** 2).sum(), [3.0, 0.0],
        ...                         target=1e-6)
        >>> result.success, result.status.name, bool(result.fun <= 1e-6)
        (True, 'TARGET', True)
    """

    x: Solution | None
    fun: float
    recommended: Solution
    success: bool
    status: Status
    message: str
    nfev: int
    nit: int
    failures: dict[str, int]
    history: dict[str, np.ndarray] = field(repr=False)
    state: State = field(repr=False)
    optimizer: Optimizer
    path: str
    reason: str
    seconds: float
    context: PyTree = field(default=None, repr=False)
    maximize: bool = False

    def __str__(self) -> str:
        rows = {
            "fun": f"{self.fun:.10g}",
            "x": "too large to copy; see recommended"
            if self.x is None
            else brief(self.x),
            "recommended": brief(self.recommended),
            "success": f"{self.success}",
            "message": self.message,
            "nfev": f"{self.nfev} in {self.nit} generations, {self.seconds:.2f} s",
            "method": " ".join(repr(self.optimizer).split())[:100],
            "path": f"{self.path}: {self.reason}",
        }
        if self.noise is not None:
            rows["noise"] = self.noise
        if self.failures:
            listed = ", ".join(
                f"{count} x {why}" for why, count in self.failures.items()
            )
            rows["failures"] = listed
        width = max(map(len, rows))
        return "\n".join(f"{name:>{width}}  {text}" for name, text in rows.items())

    @property
    def noise(self) -> str | None:
        """Whether the population kept its noise, for methods that can do both."""
        return as_method(self.optimizer).noise_form(self.recommended)

    def plot(self, path: str | None = None) -> Figure:
        """Draws the run against evaluations, on logarithmic axes.

        The values, as their distance from the best of the run; of sigma, standard
        deviations, axis ratio, the effort against noise and the scores of an archive
        what the method reports; and a heat map of the archive.

        Args:
            path: also save the figure here.

        Returns:
            A matplotlib figure.

        Raises:
            ImportError: with the line that installs matplotlib.
        """
        heat_map = None
        if self.state is not None:
            heat_map = as_method(self.optimizer).heat_map(self.state)
        sense = Sense(self.maximize)
        figure = figure_of(self.history, self.message, heat_map, sense)
        if path is not None:
            figure.savefig(path, dpi=150)
        return figure


def reasons_with_values(optimizer: Optimizer, names: list[str]) -> dict[str, object]:
    """Returns reasons to stop with their tolerances, True for one without."""
    return {name: as_method(optimizer).tolerance(name) for name in names}


def brief(tree: Solution) -> str:
    """Returns a solution in one line: its numbers if few, else its leaves' shapes."""
    named = jax.tree_util.tree_leaves_with_path(tree)
    if sum(np.size(leaf) for _, leaf in named) <= MOST_SHOWN:
        return ", ".join(
            f"{trees.path_name(path)}{' = ' if path else ''}{_numbers(leaf)}"
            for path, leaf in named
        )
    shapes = ", ".join(str(tuple(np.shape(leaf))) for _, leaf in named[:4])
    return f"{len(named)} leaves: {shapes}{', ...' if len(named) > 4 else ''}"


def _numbers(leaf: np.ndarray) -> str:
    return np.array2string(np.asarray(leaf), precision=6, separator=" ")
