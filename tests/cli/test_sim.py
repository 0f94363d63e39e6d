"""`trio-broker sim`: a user's program, found in the current directory, run, replayed, fuzzed."""

from __future__ import annotations

import re
import sys
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner

from tests.support.loops import only_own_loops_count
from trio_broker.cli.commands import command_line

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from click.testing import Result

PROGRAMS = """
import trio

async def account(sim):
    size = sim.choose("size", [1, 2, 4])
    balance = 100

    async def take(amount):
        nonlocal balance
        seen = balance
        await trio.lowlevel.checkpoint()
        balance = seen - amount

    async with trio.open_nursery() as nursery:
        for number in range(size):
            nursery.start_soon(take, 10, name=f"take {number}")
    assert balance == 100 - 10 * size

async def sleeper(sim):
    await trio.sleep(1000)

async def from_a_set(sim):
    async with trio.open_nursery() as nursery:
        for name in {f"task {number}" for number in range(20)}:
            nursery.start_soon(trio.sleep, 1, name=name)

def not_async(sim):
    pass
"""


@pytest.fixture(autouse=True)
def _programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    only_own_loops_count(monkeypatch)
    (tmp_path / "programs_of_a_user.py").write_text(PROGRAMS)
    monkeypatch.chdir(tmp_path)
    path = list(sys.path)
    yield
    sys.path[:] = path
    sys.modules.pop("programs_of_a_user", None)


def sim(command: str, program: str, *options: str) -> Result:
    target = program if "::" in program else f"programs_of_a_user:{program}"
    return CliRunner().invoke(command_line, ["sim", command, target, *options])


def test_seeds_that_pass_are_counted() -> None:
    result = sim("run", "sleeper", "--seeds", "7-9")
    assert result.exit_code == 0, result.output
    assert re.fullmatch(r"3 seeds passed: \d+ steps in \d+\.\d\d s\n", result.output)


def test_one_seed_tells_more() -> None:
    first, second = sim("run", "sleeper", "--seed", "7"), sim("run", "sleeper", "--seed", "7")
    assert "1000.000000 virtual seconds" in first.output
    assert first.output.splitlines()[0] == second.output.splitlines()[0]


def test_a_failure_is_shrunk_and_its_line_repeats_it() -> None:
    found = sim("run", "account")
    assert found.exit_code == 1
    assert "shrunk to 1 decision that differs from the plainest run" in found.output
    assert found.output.startswith("Traceback (most recent call last):\n  File ")
    assert 'programs_of_a_user.py", line 17, in account' in found.output.splitlines()[1]
    (token,) = re.findall(r"trio-broker sim replay programs_of_a_user:account (\S+)", found.output)
    again = sim("replay", "account", token)
    assert again.exit_code == 1
    assert "size = 2" in again.output
    assert token in again.output
    assert sim("replay", "sleeper", token).exit_code == 0
    (seed,) = re.findall(r"^seed (\d+) fails", found.output, re.MULTILINE)
    shrunk = sim("shrink", "account", "--seed", seed, "--seconds", "5")
    assert shrunk.exit_code == 1
    assert token in shrunk.output


def test_order_of_a_set_shows_in_another_process() -> None:
    result = sim("run", "from_a_set", "--seed", "1", "--other-process")
    assert result.exit_code == 1
    assert "seed 1 does something else in another process, at entry" in result.output


@pytest.mark.parametrize(
    "program,message",
    [
        ("nothing", "has no function 'nothing'"),
        ("not_async", "is not an async function"),
    ],
)
def test_what_is_no_program_is_said(program: str, message: str) -> None:
    result = sim("run", program)
    assert result.exit_code == 2
    assert message in result.output


def test_other_mistakes_exit_with_2() -> None:
    assert sim("replay", "sleeper", "tb1:?").exit_code == 2
    assert sim("run", "sleeper", "--seeds", "9-7").exit_code == 2
    assert sim("run", "test_x.py::test_it", "--max-steps", "5").exit_code == 2


def test_an_explored_test_is_left_to_pytest(tmp_path: Path) -> None:
    (tmp_path / "test_of_a_user.py").write_text(
        "import pytest\n"
        "@pytest.mark.explore(seeds=3)\n"
        "async def test_it(sim):\n"
        "    assert sim.random('x').random() < 0.9\n"
    )
    result = sim("fuzz", "test_of_a_user.py::test_it", "--minutes", "5", "--kinds", "1")
    assert result.exit_code == 1
    assert "--sim-replay tb1:" in result.output
    assert result.output.rstrip().endswith("and 0 more")


def test_a_test_that_is_not_explored_is_not_taken_for_one(tmp_path: Path) -> None:
    (tmp_path / "test_of_a_user.py").write_text("def test_it():\n    pass\n")
    for command, code in ((("run",), 2), (("fuzz", "--minutes", "5", "--jobs", "1"), 1)):
        result = sim(command[0], "test_of_a_user.py::test_it", *command[1:])
        assert result.exit_code == code
        assert "is no test with the mark explore" in result.output


def test_fuzzing_for_too_short_a_time_is_no_success() -> None:
    result = sim("fuzz", "sleeper", "--minutes", "0", "--jobs", "1")
    assert result.exit_code == 1
    assert "no seed was finished" in result.output


def test_fuzzing_counts_kinds_of_failure() -> None:
    result = sim("fuzz", "account", "--minutes", "5", "--kinds", "1", "--first-seed", "100")
    assert result.exit_code == 1
    assert "seeds from 100 on, " in result.output
    assert re.search(
        r"^\S+ seeds, \S+ steps, \S+ steps/s, 1 kind of failure$", result.output, re.MULTILINE
    )
    assert result.output.count("repeat it:") == 1
