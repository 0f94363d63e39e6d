"""Admin calls about the configs of topics and brokers."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from trio_broker.client.admin_results import (
    ConfigEntry,
    ConfigOperation,
    ConfigSource,
    ResourceType,
)
from trio_broker.client.admin_topics import AdminBase
from trio_broker.client.cluster import ADMIN
from trio_broker.client.errors import request_error
from trio_broker.errors import ErrorCode
from trio_broker.wire.messages.describe_configs import (
    DescribeConfigsRequest,
    DescribeConfigsResource,
    DescribeConfigsResponse,
)
from trio_broker.wire.messages.incremental_alter_configs import (
    AlterableConfig,
    AlterConfigsResource,
    IncrementalAlterConfigsRequest,
    IncrementalAlterConfigsResponse,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from trio_broker.wire.message import Request, Response

R = TypeVar("R", bound="Response")

_FINAL = frozenset({ErrorCode.UNKNOWN_TOPIC_OR_PARTITION})


class ConfigAdmin(AdminBase):
    """Configs."""

    async def describe_configs(
        self, resource: ResourceType, name: str, *, keys: Sequence[str] | None = None
    ) -> dict[str, ConfigEntry]:
        """Return configs of a topic or a broker.

        Args:
            resource: what `name` is.
            name: of the topic, or the id of the broker as text.
            keys: which configs; None: all.

        Raises:
            RequestError: UNKNOWN_TOPIC_OR_PARTITION if there is no such topic, and so on.
            RequestTimedOut: nobody answers.
        """
        wanted = DescribeConfigsResource(
            resource_type=resource, resource_name=name, configuration_keys=keys
        )
        request = DescribeConfigsRequest(resources=[wanted], include_documentation=True)

        async def describe() -> dict[str, ConfigEntry]:
            answer = await self._call_for(resource, name, request, DescribeConfigsResponse)
            [result] = answer.results
            if result.error_code:
                raise request_error(result.error_code, result.error_message or name)
            return {
                config.name: ConfigEntry(
                    name=config.name,
                    value=config.value,
                    source=_source(config.config_source),
                    is_read_only=config.read_only,
                    is_sensitive=config.is_sensitive,
                    documentation=config.documentation or "",
                )
                for config in result.configs
            }

        return await self._cluster.retrying(describe, final=_FINAL)

    async def topic_configs(self, topic: str) -> dict[str, ConfigEntry]:
        """Return all configs of a topic; raises as `describe_configs`."""
        return await self.describe_configs(ResourceType.TOPIC, topic)

    async def broker_configs(self, node_id: int) -> dict[str, ConfigEntry]:
        """Return all configs of a broker; raises as `describe_configs`."""
        return await self.describe_configs(ResourceType.BROKER, str(node_id))

    async def alter_configs(
        self,
        resource: ResourceType,
        name: str,
        changes: Mapping[str, str | tuple[ConfigOperation, str | None] | None],
        *,
        validate_only: bool = False,
    ) -> None:
        """Change configs of a topic or a broker, all or none; others stay as they are.

        Args:
            resource: what `name` is.
            name: of the topic, or the id of the broker as text.
            changes: by config a value, None to go back to the default, or an operation with its
                value, ``(ConfigOperation.APPEND, "compact")``.
            validate_only: only say whether it would work.

        Raises:
            RequestError: INVALID_CONFIG with the broker's reason, and so on.
            RequestTimedOut: the time is up; they may or may not be changed.

        Cancellation: unknown; doing it again does no harm.
        """
        configs = []
        for key, change in changes.items():
            if isinstance(change, tuple):
                operation, value = change
            else:
                operation = ConfigOperation.DELETE if change is None else ConfigOperation.SET
                value = change
            configs.append(AlterableConfig(name=key, config_operation=operation, value=value))
        altered = AlterConfigsResource(resource_type=resource, resource_name=name, configs=configs)
        request = IncrementalAlterConfigsRequest(resources=[altered], validate_only=validate_only)

        async def alter() -> None:
            answer = await self._call_for(resource, name, request, IncrementalAlterConfigsResponse)
            [result] = answer.responses
            if result.error_code:
                raise request_error(result.error_code, result.error_message or name)

        await self._cluster.retrying(alter, final=_FINAL)

    async def alter_topic_configs(
        self, topic: str, changes: Mapping[str, str | None], *, validate_only: bool = False
    ) -> None:
        """Set configs of a topic, or reset those whose value is None; raises as `alter_configs`."""
        await self.alter_configs(ResourceType.TOPIC, topic, changes, validate_only=validate_only)

    async def _call_for(
        self, resource: ResourceType, name: str, request: Request, response_type: type[R]
    ) -> R:
        """Send a request to whom it concerns: only a broker itself knows all of its configs."""
        if resource is ResourceType.BROKER and name.isdecimal():
            return await self._cluster.call(int(name), ADMIN, request, response_type)
        return await self._call_controller(request, response_type)


def _source(number: int) -> ConfigSource:
    try:
        return ConfigSource(number)
    except ValueError:
        return ConfigSource.UNKNOWN
