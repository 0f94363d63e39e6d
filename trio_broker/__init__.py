"""trio-broker: a message broker on Trio that speaks the Apache Kafka protocol.

Only public names, each loaded when it is first used (PEP 562), so that importing one subpackage
pulls in nothing else.
"""

from __future__ import annotations

TYPE_CHECKING = False  # typing.TYPE_CHECKING without importing typing
if TYPE_CHECKING:
    from trio_broker.admin.statistics import BrokerStatistics
    from trio_broker.broker.embed import Broker, open_broker, serve
    from trio_broker.config import (
        BrokerConfig,
        Durability,
        GroupConfig,
        HttpConfig,
        LimitsConfig,
        MetricsConfig,
        NetworkConfig,
        ShutdownConfig,
        StorageConfig,
        TimestampType,
        TopicConfig,
    )
    from trio_broker.errors import (
        BrokerClosed,
        BrokerCrashed,
        ConfigError,
        ConfigFault,
        ErrorCode,
        RequestError,
        StorageError,
        TrioBrokerError,
    )
    from trio_broker.host.config_file import load_config

__version__ = "0.1.0"

__all__ = [
    "Broker",
    "BrokerClosed",
    "BrokerConfig",
    "BrokerCrashed",
    "BrokerStatistics",
    "ConfigError",
    "ConfigFault",
    "Durability",
    "ErrorCode",
    "GroupConfig",
    "HttpConfig",
    "LimitsConfig",
    "MetricsConfig",
    "NetworkConfig",
    "RequestError",
    "ShutdownConfig",
    "StorageConfig",
    "StorageError",
    "TimestampType",
    "TopicConfig",
    "TrioBrokerError",
    "load_config",
    "open_broker",
    "serve",
]

_HOMES = {
    "BrokerStatistics": "trio_broker.admin.statistics",
    **dict.fromkeys(("Broker", "open_broker", "serve"), "trio_broker.broker.embed"),
    **dict.fromkeys(
        (
            "BrokerConfig",
            "Durability",
            "GroupConfig",
            "HttpConfig",
            "LimitsConfig",
            "MetricsConfig",
            "NetworkConfig",
            "ShutdownConfig",
            "StorageConfig",
            "TimestampType",
            "TopicConfig",
        ),
        "trio_broker.config",
    ),
    **dict.fromkeys(
        (
            "BrokerClosed",
            "BrokerCrashed",
            "ConfigError",
            "ConfigFault",
            "ErrorCode",
            "RequestError",
            "StorageError",
            "TrioBrokerError",
        ),
        "trio_broker.errors",
    ),
    "load_config": "trio_broker.host.config_file",
}


def __getattr__(name: str) -> object:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'trio_broker' has no attribute {name!r}")
    import importlib

    value = getattr(importlib.import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
