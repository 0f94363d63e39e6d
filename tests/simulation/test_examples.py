"""The examples of simulation tests: what is wrong is found, what is right passes."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples" / "simulation"
TUTORIAL = EXAMPLES.parents[1] / "tutorials" / "first-simulation-test.md"
#: Long enough on a machine that has other things to do.
OPTIONS = ("-p", "no:asyncio", "--sim-shrink=120")


@pytest.fixture(autouse=True)
def _examples(pytester: pytest.Pytester) -> None:
    for file in EXAMPLES.glob("*.py"):
        shutil.copy(file, pytester.path)
    pytester.makeini("[pytest]\n")


@pytest.mark.parametrize(
    "file,switch,first_seed,most_decisions",
    [("test_lease.py", "CHECKS_LEASES", 200, 5), ("test_invoices.py", "COMMITS_IN_ORDER", 3, 4)],
)
def test_an_example_finds_the_mistake_and_passes_without_it(
    pytester: pytest.Pytester,
    monkeypatch: pytest.MonkeyPatch,
    file: str,
    switch: str,
    first_seed: int,
    most_decisions: int,
) -> None:
    monkeypatch.setenv(switch, "0")
    found = pytester.runpytest_inprocess(file, f"--sim-first-seed={first_seed}", *OPTIONS)
    found.assert_outcomes(failed=1)
    text = str(found.stdout)
    (count,) = re.findall(r"^shrunk to (\d+) decisions? that differ", text, re.MULTILINE)
    assert int(count) <= most_decisions
    (line,) = re.findall(r"^  (pytest .*--sim-replay .*)$", text, re.MULTILINE)
    pytester.runpytest_inprocess(*shlex.split(line)[1:], *OPTIONS).assert_outcomes(failed=1)
    monkeypatch.setenv(switch, "1")
    pytester.runpytest_inprocess(*shlex.split(line)[1:], *OPTIONS).assert_outcomes(passed=1)
    pytester.runpytest_inprocess(file, "--sim-seeds=10", *OPTIONS).assert_outcomes(passed=1)


def test_the_line_in_the_tutorial_repeats_what_it_says(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    (line,) = set(re.findall(r"(pytest \S+ --sim-replay \S+)$", TUTORIAL.read_text(), re.MULTILINE))
    monkeypatch.setenv("COMMITS_IN_ORDER", "0")
    found = pytester.runpytest_inprocess(*shlex.split(line)[1:], *OPTIONS)
    found.assert_outcomes(failed=1)
    found.stdout.fnmatch_lines(
        [
            "E*AssertionError: assert {b'pizza', b'salad', b'soup'} == *",
        ]
    )
