"""``gfopt list``: the methods."""

from __future__ import annotations

from gfopt import registry
from gfopt.cli import terminal
from gfopt.methods_table import FLAGS


def list_methods() -> None:
    """List the methods, what they are for and what they can do."""
    rows = [
        (row.name, row.cls.__name__, row.domain, ", ".join(sorted(row.flags)))
        for row in registry.METHODS.values()
    ]
    terminal.show("", ("name", "class", "for", "flags"), rows, numbers=False)
    terminal.show("", ("flag", "meaning"), list(FLAGS.items()), numbers=False)
