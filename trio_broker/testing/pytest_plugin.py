"""The pytest plugin: ``@pytest.mark.explore`` for deterministic runs of async tests.

Loaded by pytest through its entry point wherever trio-broker is installed, so it must cost nothing
there: it imports neither Trio nor anything else that is heavy until a test asks for it, and it
changes no mode of another plugin. An explored test becomes an ordinary synchronous one as soon as
it is collected; pytest-trio, pytest-asyncio and anyio leave those alone, whatever their mode.

What a run is made of stands in `trio_broker.testing.sim`.
"""

from __future__ import annotations

import functools
import inspect
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

#: Brokers for any client; imports nothing either.
pytest_plugins = ("trio_broker.testing.fixtures",)

_MARK = "explore"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options of explored tests."""
    group = parser.getgroup("simulation", "deterministic simulation (trio-broker)")
    group.addoption(
        "--sim-seed",
        metavar="SEED",
        type=lambda text: int(text, 0),
        help="run each explored test with this seed only",
    )
    group.addoption(
        "--sim-seeds",
        metavar="N",
        type=int,
        help="run each explored test with this many seeds, whatever its mark says",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Declare the mark."""
    config.addinivalue_line(
        "markers",
        "explore(seeds=100, policy='mix', max_steps=..., max_seconds=...): run this async test in"
        " a deterministic simulation, once per seed; it takes the simulation as `sim`",
    )


@pytest.hookimpl(wrapper=True, trylast=True)
def pytest_pycollect_makeitem(collector: pytest.Collector, obj: Any) -> Generator[None, Any, Any]:
    """Turn explored tests into synchronous ones before another plugin takes them for its own."""
    if not inspect.iscoroutinefunction(obj) or not _is_explored(collector, obj):
        return (yield)
    # Async plugins look into tests of Hypothesis for what they wrap: to them this one is sync.
    obj.hypothesis = SimpleNamespace(inner_test=_not_async)
    try:
        made = yield
    finally:
        del obj.hypothesis
    for item in made if isinstance(made, list) else [made]:
        if isinstance(item, pytest.Function):
            item.obj = _explored(item, item.obj)
    return made


def _not_async() -> None:
    """Stand for an explored test while it is collected."""


def _is_explored(collector: pytest.Collector, obj: Any) -> bool:
    own = any(mark.name == _MARK for mark in getattr(obj, "pytestmark", ()))
    return own or collector.get_closest_marker(_MARK) is not None


def _explored(item: pytest.Function, test: Callable[..., Any]) -> Callable[..., None]:
    """Return a synchronous function that explores an async test."""

    @functools.wraps(test)
    def run(**arguments: Any) -> None:
        from trio_broker.testing.sim.run import Simulation, simulate

        mark = item.get_closest_marker(_MARK)
        options = dict(mark.kwargs) if mark is not None else {}
        count = options.pop("seeds", 100)
        if (wanted := item.config.getoption("--sim-seeds")) is not None:
            count = wanted
        seeds = range(count)
        if (seed := item.config.getoption("--sim-seed")) is not None:
            seeds = range(seed, seed + 1)
        options.setdefault("policy", "mix")

        async def main(simulation: Simulation) -> None:
            if "sim" in arguments:
                arguments["sim"] = simulation
            await test(**arguments)

        for seed in seeds:
            simulate(main, seed, **options).unwrap()

    return run


@pytest.fixture
def sim(request: pytest.FixtureRequest) -> None:
    """Give an explored test the `Simulation` that it runs in."""
    if request.node.get_closest_marker(_MARK) is None:
        pytest.fail("the fixture `sim` is for tests marked with pytest.mark.explore", pytrace=False)
