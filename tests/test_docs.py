"""What the documentation says of the methods is what the registry holds."""

import inspect
import pathlib
import re

import pytest

import gfopt
from gfopt import registry

ROOT = pathlib.Path(__file__).parents[1]


@pytest.mark.parametrize("name", registry.METHODS)
def test_every_method_has_its_page_and_its_line(name):
    page = (ROOT / "docs" / "methods" / f"{name}.md").read_text()
    assert registry.METHODS[name].cls.__name__ in page.replace("-", "") or name in page
    assert ">>> " in page and "Source:" in page
    card = page.partition("\n## Reproduction\n")[2]
    assert re.findall(r"^- (\w+): .{10}", card, re.M) == ["Equal", "Differs", "Reached"]
    lines = re.findall(
        r"^\| `(\w+)` \| `(\w+)` \|", (ROOT / "README.md").read_text(), re.M
    )
    assert dict(lines)[name] == registry.METHODS[name].cls.__name__
    assert f"methods/{name}.md" in (ROOT / "mkdocs.yml").read_text()


def test_links_of_the_documentation_lead_somewhere():
    pages = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]
    for page in pages:
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
            assert (page.parent / target).exists(), (page.name, target)


def test_every_figure_can_be_drawn_again():
    images = {path.stem for path in (ROOT / "docs" / "images").iterdir()}
    kept = ROOT / "benchmarks" / "results" / "figures"
    assert {path.stem for path in kept.iterdir()} == images
    script = (ROOT / "benchmarks" / "figures.py").read_text()
    assert set(re.findall(r'^        "(\w+)": draw_', script, re.M)) == images


def test_every_public_name_stands_in_the_reference_once():
    """By the name under which it is used, which for a few is also one of a room."""
    pages = (ROOT / "docs" / "reference").glob("*.md")
    listed = [
        name
        for page in pages
        for name in re.findall(r"^::: ([\w.]+)$", page.read_text(), re.M)
    ]
    assert len(listed) == len(set(listed))
    names = {f"gfopt.{name}": getattr(gfopt, name) for name in gfopt.__all__}
    rooms = {name: room for name, room in names.items() if inspect.ismodule(room)}
    for home, room in rooms.items():
        names |= {f"{home}.{name}": getattr(room, name) for name in room.__all__}
    assert set(listed) <= names.keys() - rooms.keys()
    shown = {id(names[name]) for name in listed}
    for name, value in names.items():
        if inspect.isfunction(value) or inspect.isclass(value):
            assert id(value) in shown, name


def test_set_up_is_two_commands_of_one_line():
    first_screen = (ROOT / "README.md").read_text().split("## ")[0]
    blocks = re.findall(r"```sh\n(.*?)```", first_screen, re.S)
    assert [block.count("\n") for block in blocks] == [1, 1]
    assert "gfopt bench" in blocks[0] and "pytest" in blocks[1]
