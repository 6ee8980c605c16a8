"""What the documentation says of the methods is what the registry holds."""

import inspect
import pathlib
import re

import pytest

import gfopt
from gfopt import problems, registry, tokens

ROOT = pathlib.Path(__file__).parents[1]


@pytest.mark.parametrize("name", registry.METHODS)
def test_every_method_has_its_page_and_its_line(name):
    page = (ROOT / "docs" / "methods" / f"{name}.md").read_text()
    assert registry.METHODS[name].cls.__name__ in page.replace("-", "") or name in page
    assert ">>> " in page and "Source:" in page
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


def test_every_public_name_stands_in_the_reference_once():
    pages = (ROOT / "docs" / "reference").glob("*.md")
    listed = [
        name.rpartition(".")
        for page in pages
        for name in re.findall(r"^::: ([\w.]+)$", page.read_text(), re.M)
    ]
    assert len(listed) == len(set(listed))
    found = {(module, name) for module, _, name in listed}
    for room in (gfopt, problems, tokens):
        for name in room.__all__:
            value = getattr(room, name)
            if inspect.isfunction(value) or inspect.isclass(value):
                assert (value.__module__, name) in found, name


def test_set_up_is_two_commands_of_one_line():
    first_screen = (ROOT / "README.md").read_text().split("## ")[0]
    blocks = re.findall(r"```sh\n(.*?)```", first_screen, re.S)
    assert [block.count("\n") for block in blocks] == [1, 1]
    assert "gfopt bench" in blocks[0] and "pytest" in blocks[1]
