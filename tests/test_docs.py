"""What the documentation says of the methods is what the registry holds."""

import pathlib
import re

import pytest

from gfopt import registry

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


def test_set_up_is_two_commands_of_one_line():
    first_screen = (ROOT / "README.md").read_text().split("## ")[0]
    blocks = re.findall(r"```sh\n(.*?)```", first_screen, re.S)
    assert [block.count("\n") for block in blocks] == [1, 1]
    assert "gfopt bench" in blocks[0] and "pytest" in blocks[1]
