"""The broker keeps its promises whatever befalls it: one run of the workload for each seed.

``python -m tests.simulation.broker.fuzz --minutes 10`` does the same for longer.
"""

from __future__ import annotations

import logging
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.simulation.broker import fuzz
from trio_broker.testing.model import Violation
from trio_broker.testing.sim.run import find_difference
from trio_broker.testing.workload.sometimes import RARE
from trio_broker.testing.workload.world import run_workload

#: What fresh seeds have come to in this run of the tests.
TALLIES: list[fuzz.Tally] = []
REGRESSIONS = Path(__file__).with_name("regressions.txt")
#: Fresh seeds of each run, in parts that pytest can time.
PARTS, SEEDS_PER_PART = 10, 30


def regressions() -> list[int]:
    """Read the seeds that failed once."""
    lines = REGRESSIONS.read_text().splitlines()
    return [int(line.split()[0]) for line in lines if line and not line.startswith("#")]


def check(seeds: list[int]) -> fuzz.Tally:
    tally = fuzz.Tally()
    for seed, result, seconds in fuzz.run_seeds(seeds):
        tally = tally.add(result, seconds)
        if result.error is not None:
            result.error.add_note(fuzz.replay_line(seed))
            raise result.error
    return tally


@pytest.fixture(autouse=True)
def _silence(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL, "trio_broker")


@pytest.mark.parametrize("part", range(PARTS))
def test_fresh_seeds(part: int, seed: int, capsys: pytest.CaptureFixture[str]) -> None:
    tally = check([seed + number for number in range(SEEDS_PER_PART)])
    TALLIES.append(tally)
    with capsys.disabled():
        print(f"\n    seeds from {seed} on: {tally}")
    assert tally.acknowledged > 300
    assert tally.lives > SEEDS_PER_PART


def test_rare_things_have_happened() -> None:
    """Or the simulation has lost its teeth; see `trio_broker.testing.workload.sometimes`."""
    if len(TALLIES) < PARTS:
        pytest.skip("not all parts have run, or some have failed")
    seen = {what for tally in TALLIES for what, _ in tally.seen}
    never = [what for what in RARE if what not in seen]
    assert not never, f"in {PARTS * SEEDS_PER_PART} seeds there was no {never}"


def test_what_once_failed() -> None:
    check(regressions())


def test_a_seed_does_the_same_again(seed: int) -> None:
    assert find_difference(run_workload, seed, policy="mix") is None


def test_a_seed_does_the_same_in_another_process(seed: int) -> None:
    """With other hashes of strings, and everything at other places in memory."""
    hashes = set()
    for hash_seed in ("0", "4711"):
        command = [sys.executable, "-m", "tests.simulation.broker.fuzz", "--seed", str(seed)]
        ended = subprocess.run(
            [*command, "--steps", "0"],
            env=os.environ | {"PYTHONHASHSEED": hash_seed},
            cwd=Path(__file__).parents[3],
            capture_output=True,
            text=True,
            timeout=300,
            check=True,
        )
        hashes |= {line for line in ended.stdout.splitlines() if line.startswith("seed ")}
    assert len(hashes) == 1, hashes


def test_a_failure_is_made_small_and_its_token_repeats_it(
    capsys: pytest.CaptureFixture[str],
) -> None:
    mistake = ["--mutant", "clean marker not believed"]
    assert fuzz.main(["--seeds", "1-3", *mistake, "--shrink", "300"]) == 1
    text = capsys.readouterr().out
    [(steps_before, steps_after, decisions_before, decisions_after)] = re.findall(
        r"shrunk in \d+ runs from (\d+) steps to (\d+), from (\d+) decisions to (\d+): Viol", text
    )
    assert int(steps_after) <= int(steps_before)
    assert int(decisions_after) < 20 < int(decisions_before)
    [line] = re.findall(r"python -m tests.simulation.broker.fuzz (--replay .*)", text)
    with pytest.raises(Violation, match=r"I9 .* was scanned after a clean stop"):
        fuzz.main(shlex.split(line))
    assert f": {steps_after} steps, trace " in capsys.readouterr().out
    assert fuzz.main(shlex.split(line)[:2]) == 0  # without the mistake
    with capsys.disabled():
        print(f"\n    {steps_before} steps became {steps_after}")
