"""Deterministic simulation of Trio programs: time, scheduling, disk, lanes, network.

General: it knows `trio_broker.host.interface`, `errors` and `names`, and nothing else of the
package. One seed decides everything, so a failing run can be repeated exactly.

| module | what it simulates or does |
|---|---|
| `run` | `simulate(main, seed)`: one deterministic run and its `Result` |
| `exploration` | many seeds, until one fails; the report of the failure |
| `clock` | virtual time that jumps exactly, proven deadlocks |
| `scheduler` | which runnable task goes next: random, first-in-first-out, fair PCT; pauses |
| `streams` | named random streams, each seeded from (seed, name) |
| `draws`, `replay`, `shrink` | draws as decisions: recorded, repeated from a token, made few |
| `trace` | hash of everything that happened, first difference of two runs |
| `guards` | what simulated code must not touch |
| `faults` | what may go wrong, by rate or at a chosen operation |
| `path_faults` | the same below one directory only |
| `disk` | a filesystem whose power can fail |
| `lane` | disk jobs, step by step on the event loop |
| `network` | connections with latency, fragmentation, partitions, resets |
| `trio_network` | the same as Trio's kinds of streams |
| `host` | all of it together as one machine, which can pause and die |
| `targets`, `worker`, `fuzz` | programs by name, in other processes |
| `private` | every private name of Trio in use |

Importing this package loads none of them; its public names are loaded when they are first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trio_broker.testing.sim.exploration import (
        Explored,
        Failure,
        NotRepeatable,
        OtherLoops,
        examine,
        explore,
        repeat,
    )
    from trio_broker.testing.sim.faults import DiskFaults, NodeDead
    from trio_broker.testing.sim.guards import (
        OutsideSimulation,
        RealClockInSimulation,
        RealIOInSimulation,
        RealRandomInSimulation,
        RealThreadInSimulation,
    )
    from trio_broker.testing.sim.host import EPOCH_MS, SimMachine, sim_host
    from trio_broker.testing.sim.network import NetworkFaults, SimInternet
    from trio_broker.testing.sim.path_faults import PathFaults
    from trio_broker.testing.sim.private import UnsupportedTrio
    from trio_broker.testing.sim.replay import Replay
    from trio_broker.testing.sim.run import (
        Deadlock,
        OutOfSteps,
        OutOfTime,
        Result,
        Simulation,
        SimulationStopped,
        find_difference,
        simulate,
    )
    from trio_broker.testing.sim.targets import find_difference_elsewhere

__all__ = [
    "Deadlock",
    "DiskFaults",
    "EPOCH_MS",
    "Explored",
    "Failure",
    "NetworkFaults",
    "NodeDead",
    "NotRepeatable",
    "OtherLoops",
    "OutOfSteps",
    "OutOfTime",
    "OutsideSimulation",
    "PathFaults",
    "RealClockInSimulation",
    "RealIOInSimulation",
    "RealRandomInSimulation",
    "RealThreadInSimulation",
    "Replay",
    "Result",
    "SimInternet",
    "SimMachine",
    "Simulation",
    "SimulationStopped",
    "UnsupportedTrio",
    "examine",
    "explore",
    "find_difference",
    "find_difference_elsewhere",
    "repeat",
    "sim_host",
    "simulate",
]

_HOMES = {
    "exploration": (
        "Explored",
        "Failure",
        "NotRepeatable",
        "OtherLoops",
        "examine",
        "explore",
        "repeat",
    ),
    "faults": ("DiskFaults", "NodeDead"),
    "guards": (
        "OutsideSimulation",
        "RealClockInSimulation",
        "RealIOInSimulation",
        "RealRandomInSimulation",
        "RealThreadInSimulation",
    ),
    "host": ("EPOCH_MS", "SimMachine", "sim_host"),
    "network": ("NetworkFaults", "SimInternet"),
    "path_faults": ("PathFaults",),
    "private": ("UnsupportedTrio",),
    "replay": ("Replay",),
    "run": (
        "Deadlock",
        "OutOfSteps",
        "OutOfTime",
        "Result",
        "Simulation",
        "SimulationStopped",
        "find_difference",
        "simulate",
    ),
    "targets": ("find_difference_elsewhere",),
}


def __getattr__(name: str) -> object:
    for module, names in _HOMES.items():
        if name in names:
            import importlib

            value: object = getattr(importlib.import_module(f"{__name__}.{module}"), name)
            globals()[name] = value
            return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
