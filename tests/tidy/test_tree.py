"""The package as a whole keeps the house rules."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from functools import cache
from pathlib import Path

import pytest

from tests.tidy.rules import RULES, Source, sizes, source_of

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "trio_broker"

#: Folders of people's machines, and marks of unfinished work.
UNWANTED_WORDS = re.compile(
    r"(?<![\w.:/])/(?:home|root|Users|work)/"
    r"|\b(?:TO"
    r"DO|FIX"
    r"ME|X"
    r"XX)\b"
)
TEXT_SUFFIXES = {".py", ".md", ".toml", ".txt", ".yml", ".yaml", ".cfg", ""}
SKIPPED_FOLDERS = {".git", ".venv", "venv", "build", "dist", "node_modules", "benchmark-results"}


@cache
def package_sources() -> list[Source]:
    """Parse every file of the package once."""
    return [
        source_of(path.relative_to(PACKAGE).as_posix(), path.read_text("utf-8"))
        for path in sorted(PACKAGE.rglob("*.py"))
    ]


def project_files() -> list[Path]:
    """Return the project's own text files: not what tools and installations leave behind."""
    files = []
    for path in sorted(ROOT.rglob("*")):
        parts = path.relative_to(ROOT).parts
        if any(part in SKIPPED_FOLDERS or part.endswith(("cache", "egg-info")) for part in parts):
            continue
        if any(part.startswith(".") and part not in {".ci", ".gitignore"} for part in parts):
            continue
        if path.is_file() and path.suffix in TEXT_SUFFIXES:
            files.append(path)
    return files


@pytest.mark.parametrize("rule", RULES)
def test_package_keeps_rule(rule: str) -> None:
    faults = [
        f"trio_broker/{source.module}:{line}: {sentence}"
        for source in package_sources()
        for line, sentence in RULES[rule](source)
    ]
    assert not faults, "\n".join(faults)


def test_tests_are_small_too() -> None:
    faults = []
    for path in sorted((ROOT / "tests").rglob("*.py")):
        source = source_of(path.relative_to(ROOT).as_posix(), path.read_text("utf-8"))
        faults += [f"{source.module}:{line}: {sentence}" for line, sentence in sizes(source)]
    assert not faults, "\n".join(faults)


def test_files_speak_of_the_project_only() -> None:
    faults = [
        f"{path.relative_to(ROOT)}:{number}: {found.group()}"
        for path in project_files()
        for number, line in enumerate(path.read_text("utf-8").splitlines(), 1)
        if (found := UNWANTED_WORDS.search(line))
    ]
    assert not faults, "\n".join(faults)


def run_python(code: str) -> str:
    """Run code in a fresh interpreter and return what it printed."""
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return result.stdout


def test_importing_the_package_loads_nothing_else() -> None:
    """Embedders pay for what they use: the root package resolves its names lazily (PEP 562)."""
    printed = run_python(
        "import sys; before = set(sys.modules); import trio_broker\n"
        "print(sorted(name for name in set(sys.modules) - before if name != '__future__'))"
    )
    assert printed.strip() == "['trio_broker']"


def test_public_names_resolve() -> None:
    printed = run_python(
        "import trio_broker\n"
        "missing = [n for n in trio_broker.__all__ if not hasattr(trio_broker, n)]\n"
        "assert set(trio_broker.__all__) <= set(dir(trio_broker))\n"
        "print(missing)"
    )
    assert printed.strip() == "[]"


def test_every_library_that_is_asked_for_is_used() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    extras = project["optional-dependencies"]
    wanted = [*project["dependencies"], *extras["server"], *extras["compression"]]
    modules = [re.match(r"[\w.-]+", each)[0].replace("-", "_") for each in wanted]  # type: ignore[index]
    sources = "\n".join(path.read_text("utf-8") for path in (ROOT / "trio_broker").rglob("*.py"))
    unused = [
        module
        for module in modules
        if not re.search(rf"(?:import |from |\"){re.escape(module)}\b", sources)
    ]
    assert not unused


def test_embedding_loads_no_heavy_library() -> None:
    """The command line, the HTTP server and codecs load only when they are used."""
    heavy = "asyncio click cramjam hypercorn lz4 prometheus_client rich starlette structlog pytest"
    printed = run_python(
        "import sys, trio_broker\n"
        "trio_broker.open_broker, trio_broker.BrokerConfig\n"
        f"print([name for name in {heavy.split()} if name in sys.modules])"
    )
    assert printed.strip() == "[]"
