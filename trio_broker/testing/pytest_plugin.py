"""The pytest plugin: ``@pytest.mark.explore`` for deterministic runs of async tests.

Loaded by pytest through its entry point wherever trio-broker is installed, so it must cost nothing
there: it imports neither Trio nor anything else that is heavy until a test asks for it, and it
changes no mode of another plugin. An explored test becomes an ordinary synchronous one as soon as
it is collected; pytest-trio, pytest-asyncio and anyio leave those alone, whatever their mode.

How such a test is run stands in `pytest_explore`, what a run is made of in `sim`.
"""

from __future__ import annotations

import functools
import inspect
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator

#: Brokers for any client; imports nothing either.
pytest_plugins = ("trio_broker.testing.fixtures",)

_MARK = "explore"
#: Marks with which other plugins would claim an explored test.
_FOREIGN_MARKS = frozenset({"anyio", "asyncio", "trio"})


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options of explored tests."""
    group = parser.getgroup("simulation", "deterministic simulation (trio-broker)")
    group.addoption(
        "--sim-seed",
        metavar="SEED",
        type=_seed,
        help="run explored tests with this seed only",
    )
    group.addoption(
        "--sim-replay",
        metavar="TOKEN",
        help="repeat the run that printed this token",
    )
    group.addoption(
        "--sim-seeds",
        metavar="N|FIRST-LAST",
        help="how many seeds, or which, instead of what the marks say",
    )
    group.addoption(
        "--sim-first-seed",
        metavar="SEED|fresh",
        default="0",
        help="where seeds begin that are only counted (default: 0); fresh: anywhere, and printed",
    )
    group.addoption(
        "--sim-shrink",
        metavar="SECONDS",
        type=float,
        default=10.0,
        help="real time for making a failing run small (default: 10), 0 to leave it",
    )
    group.addoption(
        "--sim-steps",
        metavar="N",
        type=int,
        default=40,
        help="lines of the trace to show of a failing run (default: 40)",
    )
    group.addoption(
        "--sim-other-process",
        action="store_true",
        help="repeat one seed of each explored test in a process with another PYTHONHASHSEED",
    )
    group.addoption("--sim-trace", metavar="FILE", help="write what happened in the last run there")


def _seed(text: str) -> int:
    return int(text, 0)


def pytest_configure(config: pytest.Config) -> None:
    """Declare the mark, and settle where seeds begin."""
    config.addinivalue_line(
        "markers",
        "explore(seeds=100, policy='mix', max_steps=1000000, max_seconds=inf, double_run=0.05,"
        " allow=()): run this async test in a deterministic simulation, once per seed; it takes the"
        " simulation as `sim`",
    )
    if config.getoption("--sim-first-seed") == "fresh":
        import random

        config.option.sim_first_seed = str(random.SystemRandom().randrange(1 << 32))


def pytest_report_header(config: pytest.Config) -> list[str]:
    """Say where seeds begin, unless it is at the usual 0."""
    first = config.getoption("--sim-first-seed")
    return [f"simulation: seeds from {first} on (--sim-first-seed {first})"] if first != "0" else []


@pytest.hookimpl(wrapper=True, trylast=True)
def pytest_pycollect_makeitem(collector: pytest.Collector, obj: Any) -> Generator[None, Any, Any]:
    """Turn explored tests into synchronous ones before another plugin takes them for its own."""
    own = any(mark.name == _MARK for mark in getattr(obj, "pytestmark", ()))
    if not inspect.iscoroutinefunction(obj):
        made = yield
        if own and inspect.isfunction(obj):
            raise collector.CollectError(f"{obj.__qualname__}: explore is for async tests")
        return made
    if not own and collector.get_closest_marker(_MARK) is None:
        return (yield)
    # Async plugins look into tests of Hypothesis for what they wrap: to them this one is sync.
    obj.hypothesis = SimpleNamespace(inner_test=_not_async)
    try:
        made = yield
    finally:
        del obj.hypothesis
    for item in made if isinstance(made, list) else [made]:
        if isinstance(item, pytest.Function):
            _take_over(item)
    return made


def _not_async() -> None:
    """Stand for an explored test while it is collected."""


def _take_over(item: pytest.Function) -> None:
    """Make an item run its test by exploring it, and hide marks of other runners."""
    item.obj = _explored(item, item.obj)
    with_node = item.iter_markers_with_node

    def iter_markers_with_node(
        name: str | None = None,
    ) -> Iterator[tuple[Any, pytest.Mark]]:
        for node, mark in with_node(name):
            if mark.name not in _FOREIGN_MARKS:
                yield node, mark

    item.iter_markers_with_node = iter_markers_with_node  # type: ignore[method-assign]


def _explored(item: pytest.Function, test: Callable[..., Any]) -> Callable[..., None]:
    """Return a synchronous function that explores an async test."""

    @functools.wraps(test)
    def run(**arguments: Any) -> None:
        from trio_broker.testing.pytest_explore import ExploredTest

        __tracebackhide__ = True
        ExploredTest(item, test, arguments).run()

    return run


class _SimulationToCome:
    """Stands for the simulation while fixtures are set up; each seed has its own."""

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(
            f"sim.{name}: a fixture may pass `sim` on, but only the test has the simulation"
        )


#: What the fixture `sim` gives; the test finds the simulation in its place.
SIMULATION_TO_COME = _SimulationToCome()


@pytest.fixture
def sim(request: pytest.FixtureRequest) -> Any:
    """Give an explored test the `BrokerSimulation` that it runs in."""
    if request.node.get_closest_marker(_MARK) is None:
        pytest.fail("the fixture `sim` is for tests marked with pytest.mark.explore", pytrace=False)
    return SIMULATION_TO_COME
