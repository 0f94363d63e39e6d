"""Machines that keep the contract of `host.interface`, for the tests of that contract."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from attrs import frozen

from trio_broker.testing.sim.faults import DiskFaults
from trio_broker.testing.sim.host import SimMachine
from trio_broker.testing.sim.network import NetworkFaults, SimInternet
from trio_broker.testing.sim.streams import RandomStreams

if TYPE_CHECKING:
    from trio_broker.host.interface import Host


@frozen
class Machine:
    """A host, and a directory on it that is empty."""

    host: Host
    directory: str

    def path(self, name: str) -> str:
        return f"{self.directory}/{name}"


def simulated_machine(seed: int = 1) -> Machine:
    streams = RandomStreams(seed)
    machine = SimMachine(
        streams,
        faults=DiskFaults(latency_seconds=(0, 0), sync_latency_seconds=(0, 0)),
        internet=SimInternet(streams, faults=NetworkFaults(latency_seconds=(0, 0))),
    )
    machine.fs.prepare_directory("/data")
    return Machine(machine.host, "/data")


def fails_with(*numbers: int) -> Any:
    """Expect an OSError with one of these errnos."""

    def check(error: OSError) -> bool:
        return error.errno in numbers

    return pytest.raises(OSError, check=check)
