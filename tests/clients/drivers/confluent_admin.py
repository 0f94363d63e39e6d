"""The admin client of confluent-kafka."""

from __future__ import annotations

from collections.abc import Mapping

from confluent_kafka import KafkaException, TopicPartition
from confluent_kafka.admin import (
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewPartitions,
    NewTopic,
    ResourceType,
)

from tests.clients.drivers.admin_interface import Config

_SECONDS = 30.0


class ConfluentAdmin:
    """See `tests.clients.drivers.admin_interface`."""

    def __init__(self, bootstrap: str) -> None:
        self._admin = AdminClient({"bootstrap.servers": bootstrap})

    def create_topic(self, topic: str, partitions: int, configs: Mapping[str, str]) -> None:
        wanted = NewTopic(topic, partitions, 1, config=dict(configs))
        _result(self._admin.create_topics([wanted]))

    def add_partitions(self, topic: str, count: int) -> None:
        _result(self._admin.create_partitions([NewPartitions(topic, count)]))

    def partitions(self, topic: str) -> int:
        return len(self._admin.list_topics(topic, timeout=_SECONDS).topics[topic].partitions)

    def set_config(self, topic: str, name: str, value: str) -> None:
        self.change_config(topic, name, value, "SET")

    def change_config(self, topic: str, name: str, value: str | None, operation: str) -> None:
        entry = ConfigEntry(name, value, incremental_operation=AlterConfigOpType[operation])
        resource = ConfigResource(ResourceType.TOPIC, topic, incremental_configs=[entry])
        _result(self._admin.incremental_alter_configs([resource]))

    def replace_configs(self, topic: str, configs: Mapping[str, str]) -> None:
        resource = ConfigResource(ResourceType.TOPIC, topic, set_config=dict(configs))
        _result(self._admin.alter_configs([resource]))

    def configs(self, topic: str) -> Mapping[str, Config]:
        return self._configs(ConfigResource(ResourceType.TOPIC, topic))

    def broker_configs(self) -> Mapping[str, Config]:
        return self._configs(ConfigResource(ResourceType.BROKER, "0"))

    def set_broker_config(self, name: str, value: str) -> None:
        entry = ConfigEntry(name, value, incremental_operation=AlterConfigOpType.SET)
        resource = ConfigResource(ResourceType.BROKER, "0", incremental_configs=[entry])
        _result(self._admin.incremental_alter_configs([resource]))

    def _configs(self, resource: ConfigResource) -> Mapping[str, Config]:
        found = _result(self._admin.describe_configs([resource]))
        return {
            entry.name: (entry.value, entry.is_default, entry.is_read_only)
            for entry in found.values()
        }

    def delete_records(self, topic: str, partition: int, before: int) -> int:
        wanted = [TopicPartition(topic, partition, before)]
        return int(_result(self._admin.delete_records(wanted)).low_watermark)

    def code(self, call: str, *arguments: object) -> int:
        try:
            getattr(self, call)(*arguments)
        except KafkaException as error:
            return int(error.args[0].code())
        return 0

    def close(self) -> None:
        pass


def _result(futures: Mapping[object, object]) -> object:
    [future] = futures.values()
    return future.result(_SECONDS)
