"""The full protocol: a method's five functions, its hooks, and wrappers.

``Optimizer`` is what a method must have. Drivers and evaluators also
use optional hooks: reasons to stop, rows that are decoded together, another number of
rows. Each hook is defined here once, with a default. A method derives from ``Method``
and overrides what it supports. A wrapper derives from ``Wrapper``, which forwards every
hook to the method inside, and overrides what it changes. A class with only the five
functions works as well: ``as_method`` gives it the defaults.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import replace
from typing import Any, Protocol, runtime_checkable

import jax

from gfopt.types import (
    Evaluation,
    HeatMap,
    Info,
    Key,
    Member,
    NoiseOnBase,
    Population,
    Solution,
    State,
)

__all__ = ["Method", "StatelessWrapper", "Wrapper", "as_method"]


@runtime_checkable
class Optimizer(Protocol):
    """A search method: five pure functions on a frozen dataclass that is a pytree.

    Hyperparameters are leaves (numbers, arrays or tracers), configuration is static.
    Randomness enters through ``init`` and ``ask`` only.

    Example:
        >>> import gfopt
        >>> isinstance(gfopt.CMAES(), Optimizer)
        True
    """

    @abstractmethod
    def init(self, key: Key, solution: Solution) -> State:
        """Returns the first state, with strongly typed leaves."""

    @abstractmethod
    def ask(self, key: Key, state: State) -> Population:
        """Proposes a population; does not change the state."""

    @abstractmethod
    def decode(self, state: State, member: Member) -> Solution:
        """Makes one solution from one un-batched member, without randomness."""

    @abstractmethod
    def tell(
        self, state: State, population: Population, evaluation: Evaluation
    ) -> tuple[State, Info]:
        """Takes the evaluated population in; deterministic."""

    @abstractmethod
    def recommend(self, state: State) -> Solution:
        """Returns the method's answer if it were stopped now."""


class Method(Optimizer):
    """A search method: the five functions of ``Optimizer``, and hooks with defaults.

    Hooks are asked for through ``as_method``, never by ``getattr``.
    """

    # how it ends

    def stop(self, state: State) -> dict[str, jax.Array]:
        """Returns the method's own reasons to stop by name, each ``bool[]``."""
        return {}

    def tolerance(self, reason: str) -> Any:
        """Returns the field named like a reason to stop; True if there is none."""
        return getattr(self, reason, True)

    # how its rows are decoded

    @property
    def group_size(self) -> int:
        """How many neighbouring rows are decoded together; 1 for each alone."""
        return 1

    def decode_group(self, state: State, members: Member) -> Solution:
        """Decodes ``group_size`` members ``[g, ...]`` into dense solutions.

        It is called where ``group_size`` is above 1.
        """
        return jax.vmap(lambda member: self.decode(state, member))(members)

    # how many rows it has

    @property
    def population_size(self) -> int | None:
        """The number of rows, None if it depends on the solution."""
        return None

    def resized(self, population_size: int) -> Method:
        """Returns the method with another number of rows, for ``resizable`` ones."""
        resize: Any = replace  # a dataclass with this field
        return resize(self, population_size=population_size)

    def sized(
        self, population_size: int, num_active: jax.Array, sigma: jax.Array
    ) -> Method:
        """Returns the method as ``Restarts`` needs it, where it ``can_restart``."""
        change: Any = replace
        return change(
            self, population_size=population_size, num_active=num_active, sigma=sigma
        )

    @property
    def tier(self) -> int:
        """Which of several numbers of rows it has, see ``Restarts``."""
        return 0

    def wanted_tier(self, state: State) -> jax.Array | None:
        """Returns the tier that the next step needs, None if there is only one."""
        return None

    def at_tier(self, tier: int) -> Method:
        """Returns the method with the rows of a tier."""
        return self

    def at_step(self, state: State, step: jax.Array) -> State:
        """Returns the state with another step counter, which schedules follow."""
        return state._replace(step=step)

    # its distribution

    @property
    def can_restart(self) -> bool:
        """Whether ``Restarts`` may set ``population_size, num_active`` and ``sigma``.

        Such a method has reasons to stop, and a ``tol_fun``.
        """
        return False

    @property
    def has_margin(self) -> bool:
        """Whether it samples a normal distribution around the ``mean`` of its state.

        It compares values only within a generation. ``Margin`` and
        ``AugmentedLagrangian`` need that.
        """
        return False

    def standard_deviations(self, state: State) -> Solution | None:
        """Returns the standard deviation of each coordinate; None where it has none."""
        return None

    def widened(self, state: State, factor: jax.Array) -> State:
        """Returns the state with a ``sigma`` that is ``factor`` times as large.

        The state is unchanged if the method has no such number.
        """
        if "sigma" not in getattr(state, "_fields", ()):
            return state
        return state._replace(sigma=state.sigma * factor.astype(state.sigma.dtype))

    def drawn_within(self, space: Any) -> Method:
        """Returns the method with candidates between the bounds of a ``Space``.

        One that cannot draw so is unchanged: ``Bounded`` then folds what lies outside.
        """
        return self

    def encode(self, state: State, solution: Solution) -> Member:
        """Returns the member that decodes to a solution, or to one nearer to the mean.

        Raises:
            TypeError: if the method takes no injected solutions.
        """
        raise TypeError(
            "optimizer must be a method that takes injected solutions; "
            f"got {type(self).__name__}"
        )

    @property
    def late_members(self) -> str:
        """How it is told a candidate that was asked for at an earlier step.

        ``"encoded"``: as ``encode`` writes it down at this step, in any row.
        ``"same"``: as it was, in its row, since a member decodes to the same solution
        at every step; a row that is not evaluated then changes nothing. ``""``: not at
        all. Where it is told candidates of several steps, the state's counter is of the
        tells.
        """
        return ""

    def began(self, state: State) -> jax.Array | int:
        """Returns the step at which its present run began.

        A candidate of an earlier step, which is of another run, tells it nothing.
        """
        return 0

    # what it is

    @property
    def follows_slopes(self) -> bool:
        """Whether it uses differences of values, which must be smooth and not ranks."""
        return False

    @property
    def elitism(self) -> bool:
        """Whether a solution survives by the value that it once had."""
        return False

    @property
    def is_for_tokens(self) -> bool:
        """Whether its solutions are token sequences ``int32[L]``."""
        return False

    def noise_form(self, solution: Solution) -> str | None:
        """Says how members hold their noise; None if they hold none."""
        return None

    def heat_map(self, state: State) -> HeatMap | None:
        """Returns what a picture of the state shows; None if there is none."""
        return None

    def log_header(self) -> dict[str, str] | None:
        """Returns the header of a replay log; None if steps are not seeds."""
        return None

    def noise_on_base(self) -> NoiseOnBase | None:
        """Returns how candidates are noise on one base; None where they are not.

        Raises:
            ValueError: where a step takes more than the base and the seeds.
        """
        return None

    # what is inside, and around it

    @property
    def wrapped(self) -> Optimizer | None:
        """The method that this one wraps, None if it is not a wrapper."""
        return None

    @property
    def search_space(self) -> Any:
        """The ``Space`` to which its numbers are mapped; None if they are x itself."""
        return None


class Wrapper(Method):
    """A method around another one, ``inner``, to which it forwards everything.

    A subclass is a dataclass with a field ``inner`` and a state with a field of that
    name, or overrides ``inner_state`` and ``with_inner_state``. It defines
    ``init`` and ``tell``, and overrides what it changes. Not forwarded, because a
    change may break them: ``can_restart``, ``has_margin``, ``log_header`` and
    ``noise_on_base``.
    """

    inner: Optimizer

    def __init_subclass__(cls, **options: Any) -> None:
        """Where only ``decode`` is overridden, groups are decoded row by row by it."""
        super().__init_subclass__(**options)
        if "decode" in vars(cls) and "decode_group" not in vars(cls):
            decode_rows: Any = Method.decode_group
            cls.decode_group = decode_rows  # type: ignore[method-assign]

    def within(self, state: State) -> Method:
        """Returns the method inside as it is at this state."""
        return as_method(self.inner)

    def inner_state(self, state: State) -> State:
        """Returns the state of the method inside."""
        return state.inner

    def with_inner_state(self, state: State, inner: State) -> State:
        """Returns the state with another inner state."""
        return state._replace(inner=inner)

    @property
    def wrapped(self) -> Optimizer:
        """The method inside."""
        return self.inner

    def ask(self, key: Key, state: State) -> Population:
        """Asks the method inside."""
        return self.within(state).ask(key, self.inner_state(state))

    def decode(self, state: State, member: Member) -> Solution:
        """Decodes as the method inside does."""
        return self.within(state).decode(self.inner_state(state), member)

    def recommend(self, state: State) -> Solution:
        """Returns the answer of the method inside."""
        return self.within(state).recommend(self.inner_state(state))

    def stop(self, state: State) -> dict[str, jax.Array]:
        """Returns the reasons of the method inside."""
        return self.within(state).stop(self.inner_state(state))

    def tolerance(self, reason: str) -> Any:
        """Returns the wrapper's own field, or the one of the method inside."""
        if hasattr(self, reason):
            return getattr(self, reason)
        return as_method(self.inner).tolerance(reason)

    @property
    def group_size(self) -> int:
        """That of the method inside."""
        return as_method(self.inner).group_size

    def decode_group(self, state: State, members: Member) -> Solution:
        """Decodes a group as the method inside does."""
        return self.within(state).decode_group(self.inner_state(state), members)

    @property
    def population_size(self) -> int | None:
        """That of the method inside."""
        return as_method(self.inner).population_size

    def resized(self, population_size: int) -> Method:
        """Resizes the method inside."""
        return _around(self, as_method(self.inner).resized(population_size))

    def sized(
        self, population_size: int, num_active: jax.Array, sigma: jax.Array
    ) -> Method:
        """Sizes the method inside."""
        inner = as_method(self.inner).sized(population_size, num_active, sigma)
        return _around(self, inner)

    @property
    def tier(self) -> int:
        """That of the method inside."""
        return as_method(self.inner).tier

    def wanted_tier(self, state: State) -> jax.Array | None:
        """Returns the tier that the method inside asks for."""
        return self.within(state).wanted_tier(self.inner_state(state))

    def at_tier(self, tier: int) -> Method:
        """Moves the method inside to a tier."""
        return _around(self, as_method(self.inner).at_tier(tier))

    def at_step(self, state: State, step: jax.Array) -> State:
        """Also sets it for the method inside."""
        inner = self.within(state).at_step(self.inner_state(state), step)
        return self.with_inner_state(super().at_step(state, step), inner)

    def standard_deviations(self, state: State) -> Solution | None:
        """Returns those of the method inside."""
        return self.within(state).standard_deviations(self.inner_state(state))

    def widened(self, state: State, factor: jax.Array) -> State:
        """Widens the distribution of the method inside."""
        inner = self.within(state).widened(self.inner_state(state), factor)
        return self.with_inner_state(state, inner)

    def drawn_within(self, space: Any) -> Method:
        """Tells the method inside, whose search is this one."""
        inner = as_method(self.inner).drawn_within(space)
        return _around(self, inner)

    def encode(self, state: State, solution: Solution) -> Member:
        """Encodes for the method inside."""
        return self.within(state).encode(self.inner_state(state), solution)

    def began(self, state: State) -> jax.Array | int:
        """Returns when the run of the method inside began."""
        return self.within(state).began(self.inner_state(state))

    @property
    def follows_slopes(self) -> bool:
        """Whether the method inside does."""
        return as_method(self.inner).follows_slopes

    @property
    def elitism(self) -> bool:
        """Whether the method inside has it."""
        return as_method(self.inner).elitism

    @property
    def is_for_tokens(self) -> bool:
        """Whether the method inside is."""
        return as_method(self.inner).is_for_tokens

    def noise_form(self, solution: Solution) -> str | None:
        """Returns what the method inside says."""
        return as_method(self.inner).noise_form(solution)

    def heat_map(self, state: State) -> HeatMap | None:
        """Returns that of the method inside."""
        return self.within(state).heat_map(self.inner_state(state))

    @property
    def search_space(self) -> Any:
        """That of the method inside."""
        return as_method(self.inner).search_space


class StatelessWrapper(Wrapper):
    """A wrapper without a state of its own: its state is that of the method inside."""

    def inner_state(self, state: State) -> State:
        """Returns the state itself."""
        return state

    def with_inner_state(self, state: State, inner: State) -> State:
        """Returns the state of the method inside."""
        return inner

    def at_step(self, state: State, step: jax.Array) -> State:
        """Sets it for the method inside."""
        return as_method(self.inner).at_step(state, step)

    def init(self, key: Key, solution: Solution) -> State:
        """Starts the method inside."""
        return self.inner.init(key, solution)

    @property
    def late_members(self) -> str:
        """As the method inside: its tell is that of this wrapper."""
        return as_method(self.inner).late_members

    def tell(
        self, state: State, population: Population, evaluation: Evaluation
    ) -> tuple[State, Info]:
        """Tells the method inside."""
        return self.inner.tell(state, population, evaluation)


class _Guest(Method):
    """A class of five functions, with the defaults for all hooks that it lacks."""

    def __init__(self, own: Optimizer):
        self._own = own

    def __getattribute__(self, name: str) -> Any:
        own = object.__getattribute__(self, "_own")
        if hasattr(own, name):
            return getattr(own, name)
        return object.__getattribute__(self, name)

    def resized(self, population_size: int) -> Method:
        resize: Any = replace
        return resize(self._own, population_size=population_size)

    def drawn_within(self, space: Any) -> Any:
        return self._own


_Guest.__abstractmethods__ = frozenset()  # the five functions are those of ``own``


def as_method(optimizer: Optimizer) -> Method:
    """Returns an optimizer with all hooks, using the defaults for those it lacks."""
    if isinstance(optimizer, Method):
        return optimizer
    guest: Any = _Guest
    return guest(optimizer)


def diagnostics(info: Info) -> dict[str, jax.Array]:
    """Returns a step's diagnostics by name; empty if they have no names."""
    return info._asdict() if hasattr(info, "_asdict") else {}


def layers(optimizer: Optimizer) -> list[Optimizer]:
    """Returns the wrappers from the outermost one on, and the method inside."""
    listed = [optimizer]
    while (inner := as_method(listed[-1]).wrapped) is not None:
        listed.append(inner)
    return listed


def innermost(optimizer: Optimizer) -> Optimizer:
    """Returns the method inside all wrappers."""
    return layers(optimizer)[-1]


def with_innermost(optimizer: Optimizer, method: Optimizer) -> Any:
    """Returns the same wrappers around another method."""
    inner = as_method(optimizer).wrapped
    if inner is None:
        return method
    return _around(optimizer, with_innermost(inner, method))


def _around(wrapper: Any, inner: Optimizer) -> Any:
    return replace(wrapper, inner=inner)
