"""What the pages promise is there: links lead somewhere, examples run, commands hold."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
EXAMPLES = sorted((ROOT / "docs" / "examples").glob("*.py"))
LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)]*)?\)")
ANCHOR = re.compile(r"\]\(([^)#\s:]*)#([^)\s]+)\)")
#: Where from, extras, and what follows.
INSTALLED = re.compile(r"pip install (?:-e )?'?(\./)?trio-broker(?:\[([\w,]+)\])?([^'`]*)")
HEADING = re.compile(r"^#+ (.*)$", re.MULTILINE)


def run_in(folder: Path, *arguments: str) -> str:
    """Run Python in a folder with the package importable; return what it printed."""
    result = subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    targets = [link for link in LINK.findall(page.read_text("utf-8")) if "://" not in link]
    missing = [target for target in targets if not (page.parent / target).exists()]
    assert not missing


def anchors_of(page: Path) -> set[str]:
    """Return the anchors that GitHub makes of a page's headings."""
    headings = HEADING.findall(page.read_text("utf-8"))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_links_to_headings_lead_somewhere() -> None:
    missing = [
        f"{page.relative_to(ROOT)}: {target}#{anchor}"
        for page in PAGES
        for target, anchor in ANCHOR.findall(page.read_text("utf-8"))
        if anchor not in anchors_of(page.parent / target if target else page)
    ]
    assert not missing


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_nothing_is_installed_from_where_it_is_not(page: Path) -> None:
    """What is not on PyPI is installed from a clone, and every extra that a page names is there."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"][
        "optional-dependencies"
    ]
    for line in page.read_text("utf-8").splitlines():
        for source, named, rest in INSTALLED.findall(line):
            assert set(named.split(",")) - {""} <= set(extras), line
            is_said_by_a_program = "A program that misses an extra says so" in line
            assert source or rest == " @ git+URL" or is_said_by_a_program, line


@pytest.mark.parametrize("index", ["README.md", "docs/README.md"])
def test_every_page_is_listed(index: str) -> None:
    page = ROOT / index
    listed = {(page.parent / link).resolve() for link in LINK.findall(page.read_text("utf-8"))}
    decisions = {path for path in PAGES if path.match("docs/decisions/0*.md")}  # have a list
    indexes = {ROOT / "README.md", ROOT / "docs" / "README.md"}
    missing = set(PAGES) - listed - decisions - indexes
    assert not sorted(str(path.relative_to(ROOT)) for path in missing)


def test_the_overview_says_what_every_folder_is_for() -> None:
    page = (ROOT / "docs" / "architecture" / "overview.md").read_text("utf-8")
    named = set(re.findall(r"^\| `(\w+)/` \|", page, re.MULTILINE))
    folders = (ROOT / "trio_broker").glob("*/__init__.py")
    assert named == {folder.parent.name for folder in folders}


def test_the_task_tree_names_files_that_exist() -> None:
    page = (ROOT / "docs" / "architecture" / "task-tree.md").read_text("utf-8")
    folder = ROOT / "trio_broker" / "broker"
    names = set(re.findall(r"\b\w+\.py\b", page))
    assert names
    assert not [name for name in sorted(names) if not (folder / name).exists()]


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.name)
def test_example_runs(example: Path, tmp_path: Path) -> None:
    if not example.name.startswith("test_"):
        assert run_in(tmp_path, str(example))
        return
    # As in a project of its own, that knows nothing of this one's settings.
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    (tmp_path / example.name).write_text(example.read_text("utf-8"))
    assert " passed" in run_in(tmp_path, "-m", "pytest", "-q")


def test_the_readme_s_program_runs(tmp_path: Path) -> None:
    [program] = re.findall(
        r"```python\n(.*?)```", (ROOT / "README.md").read_text("utf-8"), re.DOTALL
    )
    printed = run_in(tmp_path, "-c", program)
    assert "b'table 4' b'1 pizza'" in printed
    assert (tmp_path / "data").is_dir()


def test_the_readme_shows_the_two_commands() -> None:
    """`.ci/run` takes the second one from the page, so it must stand there in one line."""
    lines = (ROOT / "README.md").read_text("utf-8").splitlines()
    commands = [line.strip() for line in lines if line.strip().startswith("python3 -m venv")]
    assert [command.split("&&")[-1].strip() for command in commands] == [
        ".venv/bin/trio-broker demo",
        ".venv/bin/python -m tests.check",
    ]


def test_the_decisions_are_all_listed() -> None:
    folder = ROOT / "docs" / "decisions"
    listed = LINK.findall((folder / "README.md").read_text("utf-8"))
    assert sorted(listed) == sorted(path.name for path in folder.glob("0*.md"))
