"""gfopt: gradient-free optimization in JAX.

Ask/tell optimizers, jit- and vmap-compiled, on one population-evaluation core.
"""

import ast
import importlib
import pkgutil

from gfopt import deprecations

__version__ = "0.1.0"


def _homes() -> dict[str, str]:
    """Returns the public names, which ``__init__.pyi`` lists, and their modules."""
    stub = ast.parse(pkgutil.get_data(__name__, "__init__.pyi") or b"")
    return {
        alias.name: node.module
        for node in stub.body
        if isinstance(node, ast.ImportFrom) and node.module
        for alias in node.names
    }


_HOMES = _homes()
__all__ = sorted(_HOMES)


def __getattr__(name: str) -> object:
    """Imports a public name when it is first asked for."""
    if name not in _HOMES:
        return deprecations.moved(__name__, name)
    home = importlib.import_module(_HOMES[name])
    known = vars(home)
    if name not in known:  # a module of its package
        importlib.import_module(f"{home.__name__}.{name}")
    globals()[name] = known[name]
    return known[name]


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
