"""The public test kit: brokers for tests, and a simulated machine.

Public names are loaded when they are first used (PEP 562), so importing this package loads
nothing. The simulator's names stand in its own modules, for example
``from trio_broker.testing.sim.run import simulate``. This package may open nurseries and start
tasks.
"""

from __future__ import annotations

TYPE_CHECKING = False  # typing.TYPE_CHECKING without importing typing
if TYPE_CHECKING:
    from trio_broker.testing.inspection import (
        NotReached,
        StoredRecord,
        committed,
        lag,
        records,
        wait_for_lag,
        wait_for_records,
    )
    from trio_broker.testing.kafka_faults import Fault, KafkaFaults, MetFault
    from trio_broker.testing.memory import (
        TravellingWallClock,
        config_for_tests,
        memory_broker,
        memory_host,
        travel,
    )
    from trio_broker.testing.request_faults import (
        CloseFault,
        DelayFault,
        ErrorFault,
        RequestFaults,
    )
    from trio_broker.testing.threaded_broker import BrokerThread, broker_thread

_NAMES = {
    "threaded_broker": ("BrokerThread", "broker_thread"),
    "inspection": (
        "NotReached",
        "StoredRecord",
        "committed",
        "lag",
        "records",
        "wait_for_lag",
        "wait_for_records",
    ),
    "kafka_faults": ("Fault", "KafkaFaults", "MetFault"),
    "memory": (
        "TravellingWallClock",
        "config_for_tests",
        "memory_broker",
        "memory_host",
        "travel",
    ),
    "request_faults": ("CloseFault", "DelayFault", "ErrorFault", "RequestFaults"),
}
_HOMES = {name: module for module, names in _NAMES.items() for name in names}

__all__ = [
    "BrokerThread",
    "CloseFault",
    "DelayFault",
    "ErrorFault",
    "Fault",
    "KafkaFaults",
    "MetFault",
    "NotReached",
    "RequestFaults",
    "StoredRecord",
    "TravellingWallClock",
    "broker_thread",
    "committed",
    "config_for_tests",
    "lag",
    "memory_broker",
    "memory_host",
    "records",
    "travel",
    "wait_for_lag",
    "wait_for_records",
]


def __getattr__(name: str) -> object:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'trio_broker.testing' has no attribute {name!r}")
    import importlib

    value = getattr(importlib.import_module(f"trio_broker.testing.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
