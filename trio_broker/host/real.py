"""The machine as it is: `real_host` puts the parts of this folder together."""

from __future__ import annotations

import os

from trio_broker.host import facts
from trio_broker.host.clock import RealWallClock
from trio_broker.host.entropy import RealEntropy
from trio_broker.host.file_system import RealFileSystem
from trio_broker.host.interface import Host
from trio_broker.host.lanes import RealLane
from trio_broker.host.leases import DescriptorLeases
from trio_broker.host.sockets import RealNetwork
from trio_broker.host.spares import SpareDescriptors

#: The limit is the process's, and so is what is known of its division.
LEASES = DescriptorLeases()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=LEASES.forget)


def real_host(name: str = "local") -> Host:
    """Return this machine, with a handle ledger and random streams of its own.

    Nothing is opened yet, and nothing needs closing but what is opened through it.

    Args:
        name: for logs.
    """
    spares = SpareDescriptors()
    return Host(
        name=name,
        fs=RealFileSystem(spares),
        network=RealNetwork(spares),
        wall=RealWallClock(),
        entropy=RealEntropy(),
        open_lane=RealLane,
        descriptors_max=facts.descriptors_max(),
        process_facts=facts.process_facts,
        open_descriptors=facts.open_descriptors,
        descriptor_leases=LEASES,
    )
