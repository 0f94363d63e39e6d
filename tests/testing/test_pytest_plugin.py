"""The plugin in other people's test suites: what it runs, prints, and leaves alone."""

from __future__ import annotations

from importlib.metadata import entry_points

import pytest


@pytest.fixture(autouse=True)
def _installed() -> None:
    """Say what is wrong where an old `pip install -e` does not know of the plugin."""
    if not entry_points(group="pytest11", name="trio_broker"):
        pytest.fail("pytest does not know the plugin: pip install -e . again")


def test_an_explored_test_runs_once_per_seed(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import pytest
        import trio

        seeds = []

        @pytest.mark.explore(seeds=3)
        async def test_time(sim, capsys):
            began = trio.current_time()
            await trio.sleep(1000)
            assert trio.current_time() == began + 1000
            seeds.append(sim.seed)

        def test_all_ran():
            assert seeds == [0, 1, 2]
        """
    )
    pytester.runpytest_inprocess("-p", "no:cacheprovider").assert_outcomes(passed=2)
