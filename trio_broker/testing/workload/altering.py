"""An operator who alters topics while they are used: their configuration, and how many partitions.

What is acknowledged must be so from then on, also after a restart (I1, looked at by
`invariants.see_topics`), and what a client is refused or granted must be what a configuration says
that may have been in effect at that time (I6, looked at by whoever asks).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import trio

from trio_broker.config import KIB, Durability, kafka_config_name
from trio_broker.errors import ErrorCode
from trio_broker.testing import invariants
from trio_broker.testing.model import Violation
from trio_broker.testing.workload.caller import ANSWER_SECONDS, Caller
from trio_broker.testing.workload.producing import UNKNOWN_TOPIC
from trio_broker.testing.workload.topics import PASSING
from trio_broker.wire.messages.create_partitions import (
    CreatePartitionsRequest,
    CreatePartitionsResponse,
    CreatePartitionsTopic,
)
from trio_broker.wire.messages.incremental_alter_configs import (
    AlterableConfig,
    AlterConfigsResource,
    IncrementalAlterConfigsRequest,
    IncrementalAlterConfigsResponse,
)
from trio_broker.wire.messages.metadata import (
    MetadataRequest,
    MetadataRequestTopic,
    MetadataResponse,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from trio_broker.testing.model import TopicModel
    from trio_broker.testing.workload.world import World

#: What is altered, and to what.
CHOICES: dict[str, tuple[Any, ...]] = {
    "retention_bytes": (-1, KIB, 4 * KIB),
    "retention_ms": (-1, 1, 2_000),
    "segment_bytes": (KIB, 2 * KIB, 64 * KIB),
    "segment_ms": (1, 1_000, 604_800_000),
    "max_message_bytes": (300, 800, 1_048_588),
    "min_insync_replicas": (1, 2),
    "durability": tuple(Durability),
}
#: No topic gets more partitions.
PARTITIONS_MAX = 4
#: With that clients can go on.
_HARMLESS = {"min_insync_replicas": 1}
_TOPIC, _SET = 2, 0
_PAUSE_SECONDS = 0.4
_RETRY_SECONDS = 0.2


class Alterer:
    """One operator, who waits for each answer."""

    def __init__(self, world: World, name: str) -> None:
        self._world = world
        self._caller = Caller(world, name)
        self._draws = world.sim.random(name)
        self._refusal = ""

    async def run(self) -> None:
        """Alter something now and then, until cancelled."""
        try:
            while True:
                await trio.sleep(self._draws.expovariate(1 / _PAUSE_SECONDS))
                await self._caller.connection()
                topics = self._world.model.topics
                if not topics:
                    continue
                topic = self._draws.choice(topics)
                if self._draws.random() < 0.2:
                    await self._add_partitions(topic)
                else:
                    names = self._draws.sample(list(CHOICES), self._draws.choice((1, 1, 2)))
                    values = {name: self._draws.choice(CHOICES[name]) for name in names}
                    if await self._alter(topic, values):
                        self._world.saw("topic altered")
        finally:
            self._caller.close()

    async def settle(self) -> None:
        """Undo what keeps clients from going on, however often that has to be tried.

        Raises:
            Violation: it cannot be done.
        """
        began = trio.current_time()
        # Also those of which the deletion was asked for and may never come about.
        for topic in list(self._world.model.by_id.values()):
            while topic.settings.now("min_insync_replicas") != [1] and not topic.is_deleted:
                if await self._alter(topic, _HARMLESS):
                    break
                if trio.current_time() - began > ANSWER_SECONDS:
                    raise Violation(f"I10 {topic} cannot be altered: {self._refusal}")
                await trio.sleep(_RETRY_SECONDS)
                self._look()
        self._caller.close()
        self._look()

    async def promise_more(self) -> bool:
        """Let acknowledgements wait for fsync in every topic; return whether that is new to any."""
        raised = False
        for topic in self._world.model.topics:
            if topic.durability is not Durability.FSYNC:
                raised |= await self._alter(topic, {"durability": Durability.FSYNC})
        self._caller.close()
        return raised

    async def _alter(self, topic: TopicModel, values: Mapping[str, Any]) -> bool:
        """Set some values; return whether that was acknowledged.

        A topic is named by its name, so one may be altered that has it by then.
        """
        model, asked_at = self._world.model, trio.current_time()
        pending = model.altering.setdefault(topic.name, [])
        pending.append(values)
        named = [t for t in model.by_id.values() if t.name == topic.name and not t.is_deleted]
        for each in named:
            each.alter(values)
        configs = [
            AlterableConfig(name=kafka_config_name(name), config_operation=_SET, value=str(value))
            for name, value in values.items()
        ]
        resource = AlterConfigsResource(
            resource_type=_TOPIC, resource_name=topic.name, configs=configs
        )
        answer = await self._caller.call(
            IncrementalAlterConfigsRequest(resources=[resource], validate_only=False),
            IncrementalAlterConfigsResponse,
        )
        if answer is None:
            return False
        found = answer.responses[0]
        code = ErrorCode(found.error_code)
        if code is not ErrorCode.NONE:
            self._refused(topic, code, found.error_message)
            return False
        life = self._world.server.serving
        if model.incarnation(topic.name, asked_at) is topic and life is self._caller.life:
            assert life is not None
            topic.altered(values, flushed=not life.disk_failed)
            if values in pending:
                pending.remove(values)
            self._look()
        return True

    def _refused(self, topic: TopicModel, code: ErrorCode, message: str | None) -> None:
        self._refusal = f"{code.name}: {message}"
        if code not in PASSING and not (code in UNKNOWN_TOPIC and topic.deletion_begun):
            raise Violation(f"I6 altering {topic} is answered {self._refusal}")

    def _look(self) -> None:
        """Compare the topics there are with what they should be."""
        life = self._world.server.serving
        if life is not None and (life is self._caller.life or not self._caller.is_connected):
            invariants.see_topics(self._world.model, life, trio.current_time())

    async def _add_partitions(self, topic: TopicModel) -> None:
        """Add one or two; then they must be in the metadata, at once and for good."""
        count = min(len(topic.partitions) + self._draws.choice((1, 2)), PARTITIONS_MAX)
        if count == len(topic.partitions):
            return
        asked_at = trio.current_time()
        answer = await self._caller.call(
            CreatePartitionsRequest(
                topics=[CreatePartitionsTopic(name=topic.name, count=count, assignments=None)],
                timeout_ms=self._draws.choice((1_000, 30_000)),
                validate_only=False,
            ),
            CreatePartitionsResponse,
        )
        if answer is None:
            return
        found = answer.results[0]
        code = ErrorCode(found.error_code)
        is_same = self._world.model.incarnation(topic.name, asked_at) is topic
        if code is ErrorCode.INVALID_PARTITIONS:
            return  # an earlier request has come true that was not answered
        if code is not ErrorCode.NONE:
            self._refused(topic, code, found.error_message)
        elif is_same and self._world.server.serving is self._caller.life:
            self._look()
            if len(topic.partitions) < count and not topic.deletion_begun:
                raise Violation(f"I1 {topic} was to have {count} partitions, and has not")
            self._world.saw("partitions added")
            await self._find(topic, count)

    async def _find(self, topic: TopicModel, count: int) -> None:
        answer = await self._caller.call(
            MetadataRequest(
                topics=[MetadataRequestTopic(topic_id=topic.topic_id, name=None)],
                allow_auto_topic_creation=False,
            ),
            MetadataResponse,
        )
        if answer is None or topic.deletion_begun:
            return
        found = len(answer.topics[0].partitions)
        if found < count:
            raise Violation(f"I1 {topic} has {count} partitions, and metadata tells of {found}")
