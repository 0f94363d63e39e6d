"""What AlterConfigs and IncrementalAlterConfigs have in common: resources, and who sees to them.

Topics are the controller's. A broker's own configuration is read at its start and cannot be
altered by clients; the answer says where it is set.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

from attrs import frozen

from trio_broker.broker.handlers.resources import ResourceType, broker_fault
from trio_broker.config_catalog import BROKER_CONFIGS
from trio_broker.errors import ErrorCode
from trio_broker.metadata.decisions import ConfigChange, TopicAlteration

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trio_broker.broker.state import BrokerState


@frozen
class ResourceAlteration:
    """The changes asked for in the configuration of one resource."""

    resource_type: int
    resource_name: str
    changes: Sequence[ConfigChange]


class AlterationResult(NamedTuple):
    """The answer for one resource."""

    code: ErrorCode
    message: str | None


async def alter(
    state: BrokerState,
    alterations: Sequence[ResourceAlteration],
    *,
    replaces_all: bool,
    validate_only: bool,
) -> list[AlterationResult]:
    """Alter configurations; return one answer per resource, in their order.

    Raises:
        BrokerClosed: the broker is stopping.
    """
    results: dict[int, AlterationResult] = {}
    appearances = Counter((one.resource_type, one.resource_name) for one in alterations)
    for index, one in enumerate(alterations):
        if appearances[one.resource_type, one.resource_name] > 1:
            results[index] = AlterationResult(
                ErrorCode.INVALID_REQUEST, "Each resource must appear at most once."
            )
        elif one.resource_type == ResourceType.BROKER:
            results[index] = _alter_broker(state, one)
        elif one.resource_type != ResourceType.TOPIC:
            results[index] = AlterationResult(
                ErrorCode.INVALID_REQUEST,
                f"Resources of type {one.resource_type} cannot be configured here.",
            )
    topics = [(index, one) for index, one in enumerate(alterations) if index not in results]
    altered = await state.controller.alter_topics(
        [
            TopicAlteration(name=one.resource_name, changes=one.changes, replaces_all=replaces_all)
            for _, one in topics
        ],
        validate_only=validate_only,
    )
    for (index, _), result in zip(topics, altered, strict=True):
        results[index] = AlterationResult(result.code, result.message)
    return [results[index] for index in range(len(alterations))]


def _alter_broker(state: BrokerState, alteration: ResourceAlteration) -> AlterationResult:
    name = alteration.resource_name
    fault = broker_fault(state, name) if name else None
    if fault is not None:
        return AlterationResult(ErrorCode.INVALID_REQUEST, fault)
    if not alteration.changes:
        return AlterationResult(ErrorCode.NONE, None)
    return AlterationResult(
        ErrorCode.INVALID_CONFIG,
        "Brokers cannot be configured by clients: "
        + "; ".join(_reason(change.name) for change in alteration.changes[:10]),
    )


def _reason(name: str) -> str:
    entry = BROKER_CONFIGS.get(name)
    if entry is None:
        return f"this broker has no config {name[:100]!r}"
    if not entry.key:
        return f"{name} cannot be changed: {entry.documentation}"
    return f"{name} is set by {entry.key} in the broker's own configuration, and needs a restart"
