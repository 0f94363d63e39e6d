"""The page of promises names the proof of each, and every proof that it names is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "reference" / "promises.md").read_text("utf-8")
TEST = re.compile(r"`(tests/[\w/]+\.py)::(test_\w+)`")
COMMAND = re.compile(r"`python -m (tests\.[\w.]+)")
ROWS = [line for line in PAGE.splitlines() if re.match(r"\| (?!Promise|---)", line)]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[2:40])
def test_every_promise_names_tests_that_exist(row: str) -> None:
    proofs = TEST.findall(row)
    assert proofs, "a promise without a test"
    for path, name in proofs:
        source = (ROOT / path).read_text("utf-8")
        assert re.search(rf"^\s*(?:async )?def {name}\(", source, re.MULTILINE), f"{path}::{name}"


def test_commands_that_are_named_exist() -> None:
    for module in COMMAND.findall(PAGE):
        path = ROOT.joinpath(*module.split("."))
        assert path.with_suffix(".py").exists() or (path / "__main__.py").exists(), module


def test_each_of_the_five_failures_has_promises() -> None:
    sections = re.split(r"^## ", PAGE, flags=re.MULTILINE)[1:]
    assert len(sections) == 5
    assert all(TEST.search(section) for section in sections)
