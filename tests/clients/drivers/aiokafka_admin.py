"""The admin client of aiokafka; its versions are those of Kafka 2."""

from __future__ import annotations

import asyncio  # noqa: TID251 - what this client is made for
from collections.abc import Mapping

from aiokafka.admin import AIOKafkaAdminClient, NewPartitions, NewTopic, RecordsToDelete
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import KafkaError, for_code
from aiokafka.structs import TopicPartition

from tests.clients.drivers.admin_interface import Config

_SOURCE_DEFAULT = 5


class AiokafkaAdmin:
    """See `tests.clients.drivers.admin_interface`."""

    def __init__(self, bootstrap: str) -> None:
        self._runner = asyncio.Runner()
        self._admin = self._run(self._open(bootstrap))

    async def _open(self, bootstrap: str) -> AIOKafkaAdminClient:
        admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
        await admin.start()
        return admin

    def _run(self, coroutine: object) -> object:
        return self._runner.run(coroutine)

    def create_topic(self, topic: str, partitions: int, configs: Mapping[str, str]) -> None:
        wanted = NewTopic(topic, partitions, 1, topic_configs=dict(configs))
        response = self._run(self._admin.create_topics([wanted]))
        for _, code, *message in response.topic_errors:
            _check(code, message)

    def add_partitions(self, topic: str, count: int) -> None:
        self._run(self._admin.create_partitions({topic: NewPartitions(count)}))

    def partitions(self, topic: str) -> int:
        [described] = self._run(self._admin.describe_topics([topic]))
        return len(described["partitions"])

    def set_config(self, topic: str, name: str, value: str) -> None:
        self.replace_configs(topic, {name: value})  # there is nothing incremental

    def replace_configs(self, topic: str, configs: Mapping[str, str]) -> None:
        resource = ConfigResource(ConfigResourceType.TOPIC, topic, dict(configs))
        for response in self._run(self._admin.alter_configs([resource])):
            for code, message, *_ in response.resources:
                _check(code, message)

    def configs(self, topic: str) -> Mapping[str, Config]:
        return self._configs(ConfigResource(ConfigResourceType.TOPIC, topic))

    def broker_configs(self) -> Mapping[str, Config]:
        return self._configs(ConfigResource(ConfigResourceType.BROKER, "0"))

    def _configs(self, resource: ConfigResource) -> Mapping[str, Config]:
        found: dict[str, Config] = {}
        for response in self._run(self._admin.describe_configs([resource])):
            for code, message, _, _, entries in response.resources:
                _check(code, message)
                for name, value, read_only, source, *_ in entries:
                    found[name] = (value, source == _SOURCE_DEFAULT, bool(read_only))
        return found

    def delete_records(self, topic: str, partition: int, before: int) -> int:
        wanted = {TopicPartition(topic, partition): RecordsToDelete(before)}
        [low_watermark] = self._run(self._admin.delete_records(wanted)).values()
        return int(low_watermark)

    def code(self, call: str, *arguments: object) -> int:
        try:
            getattr(self, call)(*arguments)
        except KafkaError as error:
            return int(error.errno)
        return 0

    def close(self) -> None:
        self._run(self._admin.close())
        self._runner.close()


def _check(code: int, message: object) -> None:
    if code:
        raise for_code(code)(message)
