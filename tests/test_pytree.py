"""Pytrees as JAX sees them."""

import dataclasses

import jax
import pytest
from conformance import cases

from gfopt.pytree import pytree, static


@pytree
class Line:
    """Two leaves and a configuration."""

    slope: float
    height: float = 0.0
    name: str = static(default="a line")


def test_leaves_and_configuration() -> None:
    paths, structure = jax.tree_util.tree_flatten_with_path(Line(2.0, name="b"))
    shown = [(jax.tree_util.keystr(path), leaf) for path, leaf in paths]
    assert shown == [(".slope", 2.0), (".height", 0.0)]
    assert jax.tree.unflatten(structure, [1.0, 3.0]) == Line(1.0, 3.0, name="b")
    assert structure == jax.tree.structure(Line(5.0, name="b"))
    assert structure != jax.tree.structure(Line(2.0))
    with pytest.raises(dataclasses.FrozenInstanceError):
        Line(2.0).slope = 1.0  # type: ignore[misc]


def test_a_field_that_is_not_given_follows_from_the_others() -> None:
    @pytree
    class Square:
        side: float
        area: float = dataclasses.field(init=False)

        def __post_init__(self) -> None:
            object.__setattr__(self, "area", self.side**2)

    assert jax.tree.leaves(Square(3.0)) == [3.0]
    assert jax.tree.map(lambda side: 2 * side, Square(3.0)).area == 36.0


def test_a_program_of_one_class_is_never_taken_for_that_of_another() -> None:
    """``register_dataclass`` of JAX 0.10 has some 50 of 300 classes mistaken here."""
    classes = [
        pytree(type(f"Class{i}", (), {"__annotations__": {"x": float}}))
        for i in range(300)
    ]
    same = jax.jit(lambda node: node)
    assert all(type(same(cls(1.0))) is cls for cls in classes)


def test_structures_of_methods_differ() -> None:
    structures = [jax.tree.structure(case.make()) for case in cases.ALL]
    assert all(
        first != second
        for number, first in enumerate(structures)
        for second in structures[:number]
    )
