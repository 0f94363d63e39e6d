"""What the pages promise is there: links lead somewhere, examples run, commands hold."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
EXAMPLES = sorted((ROOT / "docs" / "examples").glob("*.py"))
LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)]*)?\)")


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
