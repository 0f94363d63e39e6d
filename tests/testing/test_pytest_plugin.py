"""The plugin in other people's test suites: what it runs, prints, and leaves alone."""

from __future__ import annotations

import importlib.util
import re
import shlex
import subprocess
import sys
from importlib.metadata import entry_points
from typing import TYPE_CHECKING

import pytest

from tests.support.loops import only_own_loops_count

if TYPE_CHECKING:
    from pathlib import Path

#: Two tasks that read, think, and write: they lose an update if both read before one writes.
LOST_UPDATE = """
import pytest
import trio

@pytest.mark.explore(seeds=50)
async def test_account(sim):
    size = sim.choose("size", [1, 2, 4])
    balance = 100

    async def take(amount):
        nonlocal balance
        seen = balance
        if sim.random("think").random() < 0.3:
            await trio.sleep(1)
        balance = seen - amount

    async with trio.open_nursery() as nursery:
        for number in range(size):
            nursery.start_soon(take, 10, name=f"take {number}")
    assert balance == 100 - 10 * size
"""


#: What takes a process longest to load.
LIGHT = ("-p", "no:trio", "-p", "no:hypothesispytest", "-p", "no:inline_snapshot")


@pytest.fixture(autouse=True)
def _only_own_loops_count(monkeypatch: pytest.MonkeyPatch) -> None:
    only_own_loops_count(monkeypatch)


@pytest.fixture(autouse=True)
def _installed() -> None:
    """Say what is wrong where an old `pip install -e` does not know of the plugin."""
    if not entry_points(group="pytest11", name="trio_broker"):
        pytest.fail("pytest does not know the plugin: pip install -e . again")


def run(pytester: pytest.Pytester, *options: str) -> pytest.RunResult:
    return pytester.runpytest_inprocess(*options)


def test_an_explored_test_runs_once_per_seed(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import pytest
        import trio

        seeds = []

        @pytest.mark.explore(seeds=3)
        async def test_time(sim, tmp_path):
            began = trio.current_time()
            await trio.sleep(1000)
            assert trio.current_time() == began + 1000
            assert tmp_path is not None
            seeds.append(sim.seed)

        def test_all_ran():
            assert seeds == [0, 0, 1, 2]  # the first one twice, to see whether it is repeatable

        @pytest.mark.explore(seeds=2, double_run=0)
        class TestMore:
            @pytest.mark.parametrize("number", [7, 8])
            async def test_method(self, sim, number):
                seeds.append((self.__class__.__name__, number, sim.seed))

            def test_they_ran(self):
                assert seeds[-4:] == [
                    ("TestMore", number, seed) for number in (7, 8) for seed in (0, 1)
                ]
        """
    )
    run(pytester).assert_outcomes(passed=5)


def test_options_say_which_seeds(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import pytest

        @pytest.mark.explore(seeds=[5], double_run=0)
        async def test_it(sim):
            print("SEED", sim.seed)
        """
    )

    def seeds(*options: str) -> list[str]:
        return re.findall(r"SEED (\d+)", str(run(pytester, "-s", *options).stdout))

    assert seeds() == ["5"]
    assert seeds("--sim-seed", "0x1f") == ["31"]
    assert seeds("--sim-seeds", "2") == ["0", "1"]
    assert seeds("--sim-seeds", "7-9") == ["7", "8", "9"]
    assert seeds("--sim-seeds", "2", "--sim-first-seed", "40") == ["40", "41"]
    fresh = run(pytester, "-s", "--sim-seeds", "1", "--sim-first-seed", "fresh")
    (first,) = re.findall(r"simulation: seeds from (\d+) on", str(fresh.stdout))
    assert re.findall(r"SEED (\d+)", str(fresh.stdout)) == [first]


def test_a_failure_is_shrunk_and_its_line_repeats_it(pytester: pytest.Pytester) -> None:
    file = pytester.makepyfile(LOST_UPDATE)
    result = run(pytester, "--sim-shrink=120")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            "*assert balance == 100 - 10 [*] size",
            "*in a simulation; repeat it: pytest *--sim-replay tb1:*",
            "*-- Captured simulation call --*",
            "seed * fails: AssertionError*",
            "found with policy *, after * steps and * virtual seconds, trace *",
            "  size = 2",
            "shrunk to * decisions that differ from the plainest run, in * runs:",
            "*choose/size: choice gives 2 to *",
            "the last * lines of its trace, time begins at 1000:",
            "*step take 0 4",
            "repeat it:",
        ]
    )
    (line,) = re.findall(r"^  (pytest .*--sim-replay .*)$", str(result.stdout), re.MULTILINE)
    again = run(pytester, *shlex.split(line)[1:])
    again.assert_outcomes(failed=1)
    again.stdout.fnmatch_lines(["  size = 2"])
    text = (
        file.read_text()
        .replace("seen = balance", "pass")
        .replace("seen - amount", "balance - amount")
    )
    file.write_text(text)
    run(pytester, *shlex.split(line)[1:]).assert_outcomes(passed=1)


def test_seeds_that_failed_come_first_the_next_time(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytester.makepyfile(
        """
        import os
        import pytest

        @pytest.mark.explore(seeds=range(100, 110))
        async def test_it(sim):
            print("SEED", sim.seed)
            if os.environ.get("BROKEN"):
                assert sim.seed != 107
        """
    )
    monkeypatch.setenv("BROKEN", "1")
    run(pytester, "--sim-seeds", "107-107").assert_outcomes(failed=1)
    first, second = run(pytester), run(pytester)
    first.assert_outcomes(failed=1)
    second.assert_outcomes(failed=1)
    assert "SEED 100" in str(first.stdout)
    assert "SEED 100" not in str(second.stdout)
    run(pytester, "--sim-seeds", "3").assert_outcomes(passed=1)
    monkeypatch.delenv("BROKEN")
    run(pytester).assert_outcomes(passed=1)
    monkeypatch.setenv("BROKEN", "1")
    assert "SEED 100" in str(run(pytester).stdout)


def test_seeds_beyond_the_mark_are_remembered(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import pytest

        @pytest.mark.explore(seeds=5)
        async def test_it(sim):
            assert sim.seed != 2003
        """
    )
    run(pytester, "--sim-first-seed", "2000").assert_outcomes(failed=1)
    result = run(pytester)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["seed 2003 fails: *"])


def test_what_is_wrong_with_a_test_is_said(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import pytest

        def test_outside(sim):
            pass

        @pytest.mark.explore(sedes=3)
        async def test_option(sim):
            pass

        @pytest.mark.explore(seeds=0)
        async def test_no_seeds(sim):
            pass

        @pytest.mark.explore(seeds="10")
        async def test_text(sim):
            pass

        @pytest.mark.explore(seeds=3)
        async def test_skipped(sim):
            import trio
            async with trio.open_nursery():
                pytest.skip("not here")
        """
    )
    result = run(pytester, "-rs")
    result.assert_outcomes(errors=1, failed=3, skipped=1)
    result.stdout.fnmatch_lines_random(
        [
            "*the fixture `sim` is for tests marked with pytest.mark.explore",
            "*explore takes these, by name: allow, double_run, max_seconds, *",
            "explore: seeds is how many to run, or a list of them, not 0",
            "explore: seeds is how many to run, or a list of them, not '10'",
            "SKIPPED*not here",
        ]
    )
    pytester.makepyfile("import pytest\n@pytest.mark.explore\ndef test_sync(): pass")
    result = run(pytester)
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*test_sync: explore is for async tests"])
    wrong = run(pytester, "--sim-seed", "many")
    assert wrong.ret == pytest.ExitCode.USAGE_ERROR


@pytest.mark.parametrize(
    "ini,plugin",
    [
        ("trio_mode = true", "pytest_trio"),
        ("trio_mode = false", "pytest_trio"),
        ("asyncio_mode = auto", "pytest_asyncio"),
        ("asyncio_mode = strict", "pytest_asyncio"),
        ("anyio_mode = auto", "anyio"),
    ],
)
def test_other_async_plugins_are_left_alone(
    pytester: pytest.Pytester, ini: str, plugin: str
) -> None:
    if importlib.util.find_spec(plugin) is None:
        pytest.skip(f"{plugin} is not installed")
    scope = "asyncio_default_fixture_loop_scope = function\n" if plugin == "pytest_asyncio" else ""
    pytester.makeini(f"[pytest]\n{ini}\n{scope}")
    mark = plugin.removeprefix("pytest_")
    pytester.makepyfile(
        f"""
        import pytest
        import trio

        pytestmark = pytest.mark.{mark}

        @pytest.mark.explore(seeds=2, double_run=0)
        async def test_explored(sim):
            await trio.sleep(1000)
            print("RAN", sim.seed)

        async def test_theirs():
            print("RAN theirs")
        """
    )
    loaded = ("-p", "asyncio") if plugin == "pytest_asyncio" else ()
    result = run(pytester, "-s", "-p", "no:cacheprovider", *loaded)
    ran = re.findall(r"RAN (\w+)", str(result.stdout))
    assert ran[:2] == ["0", "1"]
    assert set(ran[2:]) == {"theirs"}  # anyio runs it once per backend
    result.assert_outcomes(passed=len(ran) - 1)


def test_an_async_fixture_is_refused(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import pytest

        @pytest.fixture
        async def connection():
            return 1

        @pytest.mark.explore
        async def test_it(sim, connection):
            pass
        """
    )
    result = run(pytester, "-W", "ignore")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["*async*"])


def test_fixtures_may_pass_the_simulation_on(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import pytest

        @pytest.fixture
        def world(sim):
            return sim

        @pytest.fixture
        def seeded(sim):
            return sim.seed

        @pytest.mark.explore(seeds=2)
        async def test_good(world):
            assert world.seed in (0, 1)

        @pytest.mark.explore(seeds=2)
        async def test_bad(seeded):
            pass
        """
    )
    result = run(pytester)
    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines(["*sim.seed: a fixture may pass `sim` on, but only the test*"])


def test_beside_another_trio_loop_it_runs_in_a_process_of_its_own(
    pytester: pytest.Pytester,
) -> None:
    pytester.makepyfile(
        """
        import os, threading
        import pytest, trio

        @pytest.fixture(scope="session")
        def loop():
            started, stop = threading.Event(), threading.Event()

            async def main():
                started.set()
                while not stop.is_set():
                    await trio.sleep(0.01)

            thread = threading.Thread(target=trio.run, args=(main,), name="their loop")
            thread.start()
            started.wait()
            yield os.getpid()
            stop.set()
            thread.join()

        def test_first(loop):
            pass

        @pytest.mark.explore(seeds=2)
        async def test_good(sim):
            await trio.sleep(1)

        @pytest.mark.explore(seeds=3)
        async def test_bad(sim):
            assert sim.seed < 2

        @pytest.mark.explore(seeds=3)
        async def test_impossible(sim, loop):
            pass
        """
    )
    result = run(pytester, *LIGHT)
    result.assert_outcomes(passed=2, failed=2)
    result.stdout.fnmatch_lines(
        [
            "seed 2 fails: *",
            "run in a process of its own, since Trio runs in another thread*",
            "*seed 2 fails*",
            "*OtherLoops: Trio runs in another thread (their loop)*",
            "*A broker in a simulation is sim.broker(), or memory_broker().",
        ]
    )


def test_order_of_a_set_shows_in_another_process(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import pytest, trio

        @pytest.mark.explore(seeds=2)
        async def test_set(sim):
            async with trio.open_nursery() as nursery:
                for name in {f"task {number}" for number in range(20)}:
                    nursery.start_soon(trio.sleep, 1, name=name)

        @pytest.mark.explore(seeds=2)
        async def test_list(sim):
            await trio.sleep(1)
        """
    )
    run(pytester, *LIGHT).assert_outcomes(passed=2)
    result = run(pytester, "--sim-other-process", *LIGHT)
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(
        ["*two runs of seed 1 differ", "*  first:  (1000.0, 'start', '*", "*  second: (1000.0, *"]
    )


def test_the_machine_is_out_of_bounds(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import time
        from datetime import datetime
        from time import monotonic
        import pytest, trio

        @pytest.mark.explore(seeds=2)
        async def test_time(sim):
            time.time()

        @pytest.mark.explore(seeds=2)
        async def test_bound_early(sim):
            monotonic()

        @pytest.mark.explore(seeds=2)
        async def test_datetime(sim):
            datetime.now()

        @pytest.mark.explore(seeds=2, allow=[__name__])
        async def test_allowed(sim):
            datetime.now()
        """
    )
    result = run(pytester)
    result.assert_outcomes(failed=3, passed=1)
    result.stdout.fnmatch_lines(
        [
            "*: time.time() in a simulation, by test_time (*.py:8); take `trio.current_time()`*",
            "*RealClockInSimulation: monotonic() in a simulation, by test_bound_early (*.py:12);*",
            "*RealClockInSimulation: datetime.now() in a simulation, by test_datetime (*.py:16);*",
        ]
    )


def test_loading_the_plugin_loads_nothing_heavy(tmp_path: Path) -> None:
    heavy = ("trio", "attrs", "attr", "hypothesis", "click", "subprocess", "trio_broker.broker")
    code = (
        "import sys, pytest; before = set(sys.modules);"
        "import trio_broker.testing.pytest_plugin;"
        f"sys.exit(repr(sorted((set(sys.modules) - before) & {set(heavy)!r})) )"
    )
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert found.stderr.strip() == "[]"
    (tmp_path / "test_plain.py").write_text(
        "import sys\ndef test_it(): assert 'trio' not in sys.modules\n"
    )
    without = ["-p", "no:trio", "-p", "no:anyio", "-p", "no:asyncio", "-p", "no:hypothesispytest"]
    plain = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", *without, "-p", "no:cacheprovider", str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert plain.returncode == 0, plain.stdout
