"""The documentation keeps its word: examples run, links lead somewhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = sorted((*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_relative_links_lead_to_a_file(page: Path) -> None:
    """A page that was renamed or never written is noticed here."""
    targets = re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text(encoding="utf-8"))
    missing = [target for target in targets if "://" not in target and not (page.parent / target).exists()]
    assert missing == []


def test_the_index_names_every_page() -> None:
    """A page that nobody can find might as well not be there."""
    index = (ROOT / "docs" / "README.md").read_text(encoding="utf-8")
    assert {page.name for page in ROOT.glob("docs/*.md") if f"]({page.name})" not in index} == {"README.md"}


def test_the_example_of_planning_runs(capsys: pytest.CaptureFixture[str]) -> None:
    """The bound is not above what was found."""
    page = (ROOT / "docs" / "planning.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    exec(example, {})
    assert capsys.readouterr().out.endswith(" True\n")


def test_the_policy_in_the_concepts_runs(capsys: pytest.CaptureFixture[str]) -> None:
    """The example does what its comment says."""
    page = (ROOT / "docs" / "concepts.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    exec(example, {})
    assert capsys.readouterr().out == "220.0\n"
