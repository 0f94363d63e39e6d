"""The admin client of kafka-python."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from kafka import KafkaAdminClient, TopicPartition
from kafka.admin import ConfigResource, ConfigResourceType, NewTopic
from kafka.errors import KafkaError, for_code

from tests.clients.drivers.admin_interface import Config


class KafkaPythonAdmin:
    """See `tests.clients.drivers.admin_interface`."""

    def __init__(self, bootstrap: str) -> None:
        self._admin = KafkaAdminClient(bootstrap_servers=bootstrap)

    def create_topic(self, topic: str, partitions: int, configs: Mapping[str, str]) -> None:
        self._admin.create_topics([NewTopic(topic, partitions, 1, topic_configs=dict(configs))])

    def add_partitions(self, topic: str, count: int) -> None:
        self._admin.create_partitions({topic: count})

    def partitions(self, topic: str) -> int:
        [described] = self._admin.describe_topics([topic])
        return len(described["partitions"])

    def set_config(self, topic: str, name: str, value: str) -> None:
        self._alter(topic, {name: value}, incremental=True)

    def replace_configs(self, topic: str, configs: Mapping[str, str]) -> None:
        # The library would send along what is set now; it leaves a full reset as it is.
        resource = ConfigResource(ConfigResourceType.TOPIC, topic, {})
        self._admin.reset_configs([resource], incremental=False)
        self._alter(topic, configs, incremental=False)

    def _alter(self, topic: str, configs: Mapping[str, str], *, incremental: bool) -> None:
        resource = ConfigResource(ConfigResourceType.TOPIC, topic, dict(configs))
        answer = self._admin.alter_configs(
            [resource], raise_on_unknown=False, incremental=incremental
        )
        _check(answer["topic"][topic])

    def configs(self, topic: str) -> Mapping[str, Config]:
        return self._configs(ConfigResourceType.TOPIC, topic)

    def broker_configs(self) -> Mapping[str, Config]:
        return self._configs(ConfigResourceType.BROKER, "0")

    def _configs(self, kind: ConfigResourceType, name: str) -> Mapping[str, Config]:
        answer = self._admin.describe_configs(
            [ConfigResource(kind, name)], include_synonyms=True, config_filter="all"
        )
        [of_type] = answer.values()
        found: dict[str, Config] = {}
        for key, entry in of_type[name].items():
            source = str(entry["config_source"])
            found[key] = (entry["value"], "DEFAULT" in source.upper(), entry["read_only"])
        return found

    def delete_records(self, topic: str, partition: int, before: int) -> int:
        [result] = self._admin.delete_records({TopicPartition(topic, partition): before}).values()
        return int(result["low_watermark"])

    def log_dir_sizes(self, topic: str) -> Sequence[tuple[int, int, int, int]]:
        """Return (partition, size, total bytes, usable bytes) of each log of a topic."""
        rows = []
        for broker in self._admin.describe_log_dirs([topic]):
            for log_dir in broker["log_dirs"]:
                assert log_dir["error_code"] == 0
                room = log_dir["total_bytes"], log_dir["usable_bytes"]
                for found in log_dir["topics"]:
                    rows += [
                        (one["partition_index"], one["partition_size"], *room)
                        for one in found["partitions"]
                    ]
        return rows

    def topic_pages(self, topic: str, limit: int) -> Sequence[Sequence[int]]:
        """Return the partitions of a topic, page by page."""
        pages: list[Sequence[int]] = []
        cursor = None
        while True:
            answer = self._admin.describe_topic_partitions(
                [topic], response_partition_limit=limit, cursor=cursor
            )
            [found] = answer["topics"]
            pages.append([one["partition_index"] for one in found["partitions"]])
            cursor = answer["next_cursor"]
            if cursor is None:
                return pages

    def resources(self) -> Mapping[str, Sequence[str]]:
        """Return the names of what has a configuration, by type."""
        return self._admin.list_config_resources()

    def producers(self, topic: str, partition: int) -> Sequence[Sequence[int]]:
        """Return (producer id, epoch, last sequence) of each producer of a partition."""
        where = TopicPartition(topic, partition)
        state = self._admin.describe_producers([where])[where]
        return [
            (one.producer_id, one.producer_epoch, one.last_sequence)
            for one in state.active_producers
        ]

    def code(self, call: str, *arguments: object) -> int:
        try:
            getattr(self, call)(*arguments)
        except KafkaError as error:
            return int(error.errno)
        return 0

    def close(self) -> None:
        self._admin.close()


def _check(result: str) -> None:
    """Raise what the library only writes into its answer."""
    if result != "OK":
        number = re.search(r"\[Error (\d+)\]", result)
        assert number is not None, result
        raise for_code(int(number[1]))(result)
