"""The package's rules: imports point one way, names are free, doors stay shut."""

from __future__ import annotations

import ast
import importlib
import inspect
import pickle
import pkgutil
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

import gfopt
from gfopt import deprecations

ROOT = Path(gfopt.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))

# each part may import from itself and from the parts in the lines above its own
LAYERS = [
    {"jaxprs", "fusion", "deprecations"},
    {"types", "checks", "pytree"},
    {"protocol", "shaping", "spaces", "mirror_maps", "lazy"},
    {"core"},
    {"noise"},
    {"gradients", "analytic", "steering"},
    {"optimizers"},
    {"consensus", "quantization"},
    {"tokens", "problems"},
    {"methods_table"},
    {"registry"},
    {"driver"},
    {"engines", "genome", "prompts", "texts"},
    {"torch"},
    {"research"},
    {"cli"},
    {"__main__"},
]
RANK = {part: rank for rank, parts in enumerate(LAYERS) for part in parts}
# what JAX does not promise: only jaxprs.py may read it
INNER = {"jax.core", "jax.extend", "jax._src", "jax.interpreters", "jax.lib"}
INNER_FIELDS = {
    "eqns",
    "invars",
    "outvars",
    "constvars",
    "jaxpr",
    "Tracer",
    "make_jaxpr",
}
HEAVY = ("matplotlib", "rich", "typer", "sklearn", "cma", "cocoex", "cocopp", "flax")
HEAVY += ("torch",)


def module_of(path: Path) -> str:
    """Returns a file's module name, such as ``gfopt.noise.noise``."""
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


def test_imports_point_one_way() -> None:
    wrong = []
    for path in FILES:
        name = module_of(path)
        if name == "gfopt":  # the front door shows all parts but the command line
            shown = imported_parts(path.with_suffix(".pyi"))
            assert shown <= RANK.keys() - {"cli"}
            continue
        own = name.split(".")[1]
        for part in imported_parts(path) - {own, "__version__"}:
            assert part in RANK, f"{part}, which {name} imports, is not in the layout"
            if RANK[part] >= RANK[own]:
                wrong.append(f"{name} must not import {part}")
    assert not wrong


# within the driver each room may import from those before it, and a door from all
DRIVER = ["storage", "progress", "result", "step", "setup", "engine", "trials"]
DRIVER += ["replay", "loop"]


def test_the_rooms_of_the_driver_point_one_way() -> None:
    wrong = []
    for path in FILES:
        _, part, room, *_ = [*module_of(path).split("."), "", ""]
        if part != "driver" or room not in DRIVER:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            home = getattr(node, "module", None) or ""
            allowed = DRIVER[: DRIVER.index(room) + 1]
            if home.startswith("gfopt.driver.") and home.split(".")[2] not in allowed:
                wrong.append(f"{module_of(path)} must not import {home}")
    assert not wrong


def inner_forms(path: Path) -> Iterator[str]:
    """Yields every use of what JAX may rename between two versions."""
    for node in ast.walk(ast.parse(path.read_text())):
        names = {getattr(node, "module", None) or ""}
        if isinstance(node, ast.Import):
            names = {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Attribute):
            names = {ast.unparse(node)}
            if node.attr in INNER_FIELDS:
                yield f"line {node.lineno}: {node.attr}"
        for name in names:
            parts = name.split(".")
            is_private = any(part.startswith("_") for part in parts[1:])
            if ".".join(parts[:2]) in INNER or (parts[0] == "jax" and is_private):
                yield f"line {node.lineno}: {name}"


def test_only_jaxprs_knows_the_inner_forms_of_jax() -> None:
    others = [path for path in FILES if path.name != "jaxprs.py"]
    forms = [f"{module_of(path)}: {f}" for path in others for f in inner_forms(path)]
    assert not forms
    assert list(inner_forms(ROOT / "jaxprs.py")), "the rule sees nothing"


def test_every_part_has_its_layer() -> None:
    found = {module.name for module in pkgutil.iter_modules(gfopt.__path__)}
    assert found <= RANK.keys()


def loose_ends(path: Path) -> Iterator[str]:
    """Yields every assert, print outside the command line, and unfinished place."""
    text = path.read_text()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Assert):
            yield f"line {node.lineno}: an assert"
        if getattr(node, "id", "") == "NotImplementedError":
            yield f"line {node.lineno}: NotImplementedError"
        if isinstance(node, ast.Call) and "cli" not in path.parts:
            if getattr(node.func, "id", "") == "print":
                yield f"line {node.lineno}: a print"
    for word in ("TODO", "FIXME", "XXX"):
        if word in text:
            yield word


def test_no_loose_ends() -> None:
    ends = [f"{module_of(path)}: {end}" for path in FILES for end in loose_ends(path)]
    assert not ends


def test_no_module_hides_a_public_name() -> None:
    """Importing ``problems.bbob`` would replace a function ``bbob`` of the package."""
    packages = [gfopt] + [
        importlib.import_module(f"gfopt.{module.name}")
        for module in pkgutil.iter_modules(gfopt.__path__)
        if module.ispkg and (module.name != "torch" or find_spec("torch"))
    ]
    for package in packages:
        modules = {module.name for module in pkgutil.iter_modules(package.__path__)}
        public = {
            name
            for name in getattr(package, "__all__", [])
            if not inspect.ismodule(getattr(package, name))
        }
        assert not modules & public


def test_every_public_name_is_what_its_module_defines() -> None:
    """The stub is read as a table at run time, and as imports by type checkers."""
    stub = ast.parse((ROOT / "__init__.pyi").read_text())
    imports = [node for node in stub.body if isinstance(node, ast.ImportFrom)]
    names = [alias.name for node in imports for alias in node.names]
    assert gfopt.__all__ == sorted(set(names))
    assert len(names) == len(set(names))
    for node in imports:
        assert node.module is not None
        for alias in node.names:
            assert alias.asname == alias.name, "a stub re-exports `X as X`, not `X`"
            value = getattr(gfopt, alias.name)
            if inspect.ismodule(value):
                assert value.__name__ == f"{node.module}.{alias.name}"
            else:
                home = importlib.import_module(node.module)
                assert value is getattr(home, alias.name)
            if inspect.isclass(value) or inspect.isfunction(value):
                assert value.__module__ == node.module, f"{alias.name} moved"


def test_the_front_door_shows_every_name() -> None:
    assert {*gfopt.__all__, "__version__"} == set(dir(gfopt))
    names: dict[str, object] = {}
    exec("from gfopt import *", names)
    assert names.keys() >= set(gfopt.__all__)
    with pytest.raises(AttributeError, match="gfopt.*'CMAESS'"):
        gfopt.CMAESS  # noqa: B018
    with pytest.raises(ImportError, match="minimise"):
        exec("from gfopt import minimise")


ROOMS = [name for name in gfopt.__all__ if inspect.ismodule(getattr(gfopt, name))]


def test_rooms_are_modules_that_list_their_names() -> None:
    """``from gfopt.spaces import integer`` works as ``gfopt.spaces.integer`` does."""
    for name in ROOMS:
        room = importlib.import_module(f"gfopt.{name}")
        assert room is getattr(gfopt, name)
        assert room.__all__ == sorted(set(room.__all__)), name
        for public in room.__all__:
            value = getattr(room, public)
            if inspect.isclass(value) or inspect.isfunction(value):
                assert value.__module__.startswith(f"gfopt.{name}"), public


def test_public_names_have_an_example() -> None:
    without = []
    # those of problems and protocol are in the pages on them
    rooms = [getattr(gfopt, name) for name in ROOMS if name[:3] != "pro"]
    for room in (gfopt, *rooms):
        for name in room.__all__:
            value = getattr(room, name)
            # what is neither is a constant: its module's comment describes it
            if inspect.isclass(value) or inspect.isfunction(value):
                if ">>>" not in (inspect.getdoc(value) or ""):
                    without.append(f"{room.__name__}.{name}")
    assert not without, "the docstrings of these have no example"


def test_a_name_that_moved_works_with_a_warning() -> None:
    for old, new in deprecations.MOVED.items():
        home, _, name = new.rpartition(".")
        with pytest.warns(DeprecationWarning, match=f"^{old} is now {new}$") as caught:
            value = getattr(gfopt, old.removeprefix("gfopt."))
        assert value is getattr(importlib.import_module(home), name)
        assert caught[0].filename == __file__, "the warning is about the caller's line"
        assert old.removeprefix("gfopt.") not in dir(gfopt)
        assert name in importlib.import_module(home).__all__
    with pytest.warns(DeprecationWarning, match="gfopt.tokens.Beast"):
        exec("from gfopt import Beast")


def test_an_argument_that_was_renamed_works_with_a_warning() -> None:
    line = r"^chunked\(size=\) is now batch_size=$"
    with pytest.warns(DeprecationWarning, match=line) as caught:
        assert gfopt.chunked(size=8) == gfopt.chunked(batch_size=8)
    assert caught[0].filename == __file__


def new_process(code: str) -> str:
    """Runs lines of Python in a process of their own, and returns what they print."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_import_is_light() -> None:
    """Each part is loaded when it is asked for; no device is touched."""
    seldom = [*HEAVY, "jax", "scipy", "optax", "gfopt.problems", "gfopt.tokens"]
    code = f"import sys, gfopt; print([n for n in {seldom} if n in sys.modules])"
    assert new_process(code) == "[]"


def test_a_search_loads_only_its_own_method() -> None:
    """Nor what only logs and other methods need, nor what JAX loads for kernels."""
    others = "optimizers.zeroth_order consensus driver.replay".split()
    seldom = [*HEAVY, "optax", "scipy.optimize", "jax.extend"]
    seldom += [f"gfopt.{name}" for name in others]
    code = f"""
import sys, gfopt
gfopt.minimize(lambda x: float(x @ x), [1.0, 2.0], method="cma_es", budget=8)
print([name for name in {seldom} if name in sys.modules])
"""
    assert new_process(code) == "[]"


def test_all_names_are_light() -> None:
    """Nor does it cost an optional package or a device to have seen every name."""
    heavy = [*HEAVY, "scipy.optimize", "optax"]
    code = f"""
import sys
from gfopt import *
from jax._src import xla_bridge
assert not xla_bridge._backends, "a backend was started"
print([name for name in {heavy} if name in sys.modules])
"""
    assert new_process(code) == "[]"


def test_a_process_that_has_not_seen_a_class_unpickles_its_objects() -> None:
    data = pickle.dumps(gfopt.CMAES(population_size=12))
    code = f"import pickle; print(pickle.loads({data!r}).population_size)"
    assert new_process(code) == "12"


OPTIMIZERS = {"optimizer", "self.optimizer", "self.inner", "inner", "layer", "plain"}


def test_hooks_of_an_optimizer_are_asked_for_in_one_place() -> None:
    """A probe outside of ``protocol.py`` is a hook that some wrapper forgets."""
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            if not (isinstance(node, ast.Call) and len(node.args) > 1):
                continue
            called, of = ast.unparse(node.func), ast.unparse(node.args[0])
            is_probe = called in {"getattr", "hasattr"} and of in OPTIMIZERS
            assert not is_probe, f"{path.name}, line {node.lineno}: {of}"
