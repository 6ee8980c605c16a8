"""Builds the wheel and the sdist, looks at what is in them, and uses both.

    python .ci/packages.py PYTHON

``PYTHON`` gets an empty environment, into which first the sdist and then the wheel is
installed; in it all modules are imported, and the README's examples run once, with
warnings as errors. Silent if all is well.
"""

import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
# in the sdist beside the package, as in the repository
BESIDE = {"LICENSE", "MANIFEST.in", "README.md", "pyproject.toml"}
IMPORT = """
import importlib, pkgutil
import gfopt
assert "site-packages" in gfopt.__file__, gfopt.__file__
optional = {"typer", "rich", "matplotlib", "cocoex", "torch"}
for module in pkgutil.walk_packages(gfopt.__path__, "gfopt."):
    try:
        importlib.import_module(module.name)
    except ImportError as error:
        assert error.name in optional, error
from gfopt.research import report
"""
README = """
import doctest, sys
flags = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS
failed, tried = doctest.testfile(sys.argv[1], False, optionflags=flags)
assert tried > 10 and not failed
"""


def run(*command: object, cwd: Path = ROOT) -> str:
    """Runs a command; shows what it printed if it fails."""
    done = subprocess.run(
        [*map(str, command)], capture_output=True, text=True, cwd=cwd, check=False
    )
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command))}\n{done.stdout}{done.stderr}")
    return done.stdout


def tracked() -> list[str]:
    """Returns the files of the repository."""
    return run("git", "ls-files", "-z").split("\0")[:-1]


def build(folder: Path) -> tuple[Path, Path]:
    """Builds the sdist from a copy of the files, and the wheel from the sdist."""
    for name in tracked():
        (folder / "source" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / "source" / name)
    run(sys.executable, "-m", "venv", folder / "tools")
    run(folder / "tools/bin/pip", "install", "-q", "build")
    out = ("--outdir", folder / "dist")
    run(folder / "tools/bin/python", "-m", "build", *out, folder / "source")
    (wheel,) = (folder / "dist").glob("*.whl")
    (sdist,) = (folder / "dist").glob("*.tar.gz")
    return wheel, sdist


def check_contents(wheel: Path, sdist: Path) -> None:
    """Checks that each holds the package's files, its own records, and no more."""
    package = {name for name in tracked() if name.startswith("gfopt/")}
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    if names != package:
        sys.exit(f"the wheel differs from gfopt/ in {sorted(names ^ package)}")
    with tarfile.open(sdist) as archive:
        files = [member.name for member in archive if member.isfile()]
    names = {name.split("/", 1)[1] for name in files}
    made = {"PKG-INFO", "setup.cfg"} | {n for n in names if ".egg-info/" in n}
    if names - made != package | BESIDE:
        sys.exit(f"the sdist differs in {sorted((names - made) ^ (package | BESIDE))}")


def check_use(python: str, wheel: Path, sdist: Path, folder: Path) -> None:
    """Installs both where nothing else is, and runs the README's examples."""
    run(python, "-m", "venv", folder / "empty")
    own = folder / "empty/bin/python"
    strict = (own, "-I", "-W", "error", "-c")
    run(own, "-m", "pip", "install", "-q", sdist)
    run(*strict, IMPORT, cwd=folder)
    run(own, "-m", "pip", "install", "-q", "--force-reinstall", "--no-deps", wheel)
    run(*strict, IMPORT + README, ROOT / "README.md", cwd=folder)


with tempfile.TemporaryDirectory() as name:
    place = Path(name)
    archives = build(place)
    check_contents(*archives)
    check_use(sys.argv[1], *archives, place)
