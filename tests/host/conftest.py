"""Fixtures of the tests of the real machine."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import pytest

from tests.host.machines import Machine, simulated_machine
from trio_broker.host.file_system import RealFileSystem
from trio_broker.host.real import real_host

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


class Hang:
    """A system call that hangs until it is told to go on, as one on a frozen disk does.

    `wrap` makes it of a real call, which is carried out after the wait. Attributes are events:
    `entered` once a thread is inside, `go_on` to let it out.
    """

    def __init__(self) -> None:
        self.entered = threading.Event()
        self.go_on = threading.Event()

    def __call__(self, *_arguments: object) -> None:
        self.entered.set()
        assert self.go_on.wait(60), "nobody ended the hang"

    def wrap(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return `function` with the hang before it."""

        def hanging(*arguments: Any) -> Any:
            self()
            return function(*arguments)

        return hanging


@pytest.fixture(params=["real", "simulated"])
def machine(request: pytest.FixtureRequest, tmp_path: Path) -> Machine:
    if request.param == "real":
        return Machine(real_host(), str(tmp_path))
    return simulated_machine()


@pytest.fixture
def fs() -> RealFileSystem:
    return RealFileSystem()


@pytest.fixture
def hang() -> Iterator[Hang]:
    """Make a hang that ends with the test at the latest."""
    hang = Hang()
    yield hang
    hang.go_on.set()
