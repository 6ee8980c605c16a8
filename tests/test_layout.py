"""The package's rules: imports point one way, names are free, doors stay shut."""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import gfopt

ROOT = Path(gfopt.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))

# each part may import from itself and from the parts in the lines above its own
LAYERS = [
    {"types", "checks"},
    {"core"},
    {"optimizers", "quantization"},
    {"tokens", "problems"},
    {"methods_table"},
    {"registry"},
    {"driver"},
    {"research"},
    {"cli"},
]
RANK = {part: rank for rank, parts in enumerate(LAYERS) for part in parts}
HEAVY = ("matplotlib", "rich", "typer", "sklearn", "cma", "cocoex", "cocopp", "flax")


def module_of(path: Path) -> str:
    """Returns a file's module name, such as ``gfopt.core.noise``."""
    parts = path.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported_parts(path: Path) -> set[str]:
    """Returns the parts of gfopt that a file imports, wherever in the file."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}: a relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    dotted = [name.split(".") for name in names if name.split(".")[0] == "gfopt"]
    return {parts[1] for parts in dotted if len(parts) > 1}


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_imports_point_one_way(path: Path) -> None:
    parts = module_of(path).split(".")
    if len(parts) == 1:  # the front door shows all parts but the last two
        assert imported_parts(path) <= RANK.keys() - {"research", "cli"}
        return
    own = parts[1]
    for part in imported_parts(path) - {own, "__version__"}:
        assert part in RANK, f"{part} is no part of the layout"
        assert RANK[part] < RANK[own], f"{own} must not import {part}"


def test_every_part_has_its_layer() -> None:
    found = {module.name for module in pkgutil.iter_modules(gfopt.__path__)}
    assert found <= RANK.keys()


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_no_loose_ends(path: Path) -> None:
    """No assert, no print outside the command line, no door that is not built."""
    for node in ast.walk(ast.parse(path.read_text())):
        assert not isinstance(node, ast.Assert), f"line {node.lineno}: an assert"
        name = getattr(node, "id", "")
        assert name != "NotImplementedError", f"line {node.lineno}: {name}"
        if isinstance(node, ast.Call) and "cli" not in path.parts:
            called = getattr(node.func, "id", "")
            assert called != "print", f"line {node.lineno}: a print"
    text = path.read_text()
    for word in ("TODO", "FIXME", "XXX"):
        assert word not in text


def test_no_module_hides_a_public_name() -> None:
    """Importing ``problems.bbob`` would replace a function ``bbob`` of the package."""
    packages = [gfopt] + [
        importlib.import_module(f"gfopt.{module.name}")
        for module in pkgutil.iter_modules(gfopt.__path__)
        if module.ispkg
    ]
    for package in packages:
        modules = {module.name for module in pkgutil.iter_modules(package.__path__)}
        public = {
            name
            for name, value in vars(package).items()
            if not inspect.ismodule(value) and not name.startswith("_")
        }
        assert not modules & public


def test_all_is_explicit() -> None:
    shown = set(gfopt.__all__)
    assert len(gfopt.__all__) == len(shown)
    modules = {name for name in shown if inspect.ismodule(getattr(gfopt, name))}
    public = {
        name
        for name, value in vars(gfopt).items()
        if not name.startswith("_") and not inspect.ismodule(value)
    }
    assert public == shown - modules


@pytest.mark.parametrize("name", gfopt.__all__)
def test_public_names_have_an_example(name: str) -> None:
    value = getattr(gfopt, name)
    if not (inspect.isclass(value) or callable(value)):
        return  # a constant: its module's comment describes it
    text = inspect.getdoc(value) or ""
    assert text, f"{name} has no docstring"
    assert ">>>" in text, f"the docstring of {name} has no example"


def test_import_is_light() -> None:
    """It loads no optional package and starts no backend: no device is touched."""
    code = f"""
import sys, gfopt
from jax._src import xla_bridge
assert not xla_bridge._backends, "a backend was started"
print([name for name in {HEAVY!r} if name in sys.modules])
"""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"
