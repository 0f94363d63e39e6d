"""Creates topics and deletes them, while others use them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from trio_broker.errors import ErrorCode
from trio_broker.testing import invariants
from trio_broker.testing.model import Violation
from trio_broker.testing.workload.caller import ANSWER_SECONDS, Caller
from trio_broker.wire.messages.create_topics import (
    CreatableTopic,
    CreatableTopicConfig,
    CreateTopicsRequest,
    CreateTopicsResponse,
)
from trio_broker.wire.messages.delete_topics import (
    DeleteTopicsRequest,
    DeleteTopicsResponse,
    DeleteTopicState,
)

if TYPE_CHECKING:
    from trio_broker.testing.model import TopicModel
    from trio_broker.testing.workload.world import World

#: Few, so that names come back.
NAMES = ("orders", "events", "audit", "clicks")
#: Refusals of changes of topics that pass.
PASSING = frozenset(
    {
        ErrorCode.REQUEST_TIMED_OUT,
        ErrorCode.KAFKA_STORAGE_ERROR,
        ErrorCode.NOT_CONTROLLER,
        ErrorCode.UNKNOWN_SERVER_ERROR,
        ErrorCode.INVALID_REPLICATION_FACTOR,  # no log dir takes replicas now
    }
)
_RETRY_SECONDS = 0.2


class TopicAdmin:
    """Creates and deletes topics over the network.

    Attributes:
        refusal: the latest one of a deletion.
    """

    def __init__(self, world: World, name: str) -> None:
        self._world = world
        self._caller = Caller(world, name)
        self._draws = world.sim.random(name)
        self.refusal = ""

    def close(self) -> None:
        """Close the connection."""
        self._caller.close()

    async def create(self, name: str, *, partitions: int) -> bool:
        """Create a topic; return whether that was acknowledged, or it was there already."""
        configs = self._draws.choice(self._world.swarm.topic_configs)
        self._world.model.creating.add(name)
        response = await self._caller.call(
            CreateTopicsRequest(
                topics=[
                    CreatableTopic(
                        name=name,
                        num_partitions=partitions,
                        replication_factor=1,
                        assignments=[],
                        configs=[CreatableTopicConfig(name=k, value=v) for k, v in configs.items()],
                    )
                ],
                timeout_ms=self._draws.choice((1_000, 30_000)),
            ),
            CreateTopicsResponse,
        )
        if response is None:
            return False
        found = response.topics[0]
        code = ErrorCode(found.error_code)
        if code is ErrorCode.TOPIC_ALREADY_EXISTS:
            return True
        if code is not ErrorCode.NONE:
            if code not in PASSING:
                raise Violation(f"I6 creating {name} is answered {code.name}")
            return False
        life = self._caller.life
        if life is self._world.server.serving and life is not None:
            invariants.see_topics(self._world.model, life, trio.current_time())
            if found.topic_id not in self._world.model.by_id:
                raise Violation(f"I1 {name} was created, and is not there")
        return True

    async def delete(self, topic: TopicModel) -> bool:
        """Delete a topic; return whether that was acknowledged, or it was gone already."""
        topic.deletion_begun = True
        response = await self._caller.call(
            DeleteTopicsRequest(
                topics=[DeleteTopicState(name=None, topic_id=topic.topic_id)],
                timeout_ms=self._draws.choice((1_000, 30_000)),
            ),
            DeleteTopicsResponse,
        )
        if response is None:
            return False
        code = ErrorCode(response.responses[0].error_code)
        if code in {ErrorCode.NONE, ErrorCode.UNKNOWN_TOPIC_ID}:
            self._world.model.topic_gone(topic, trio.current_time())
            life = self._world.server.serving
            if code is ErrorCode.NONE and life is not None and life is self._caller.life:
                invariants.check_deleted(life, topic)
            return True
        self.refusal = f"{code.name}: {response.responses[0].error_message}"
        if code not in PASSING:
            raise Violation(f"I6 deleting {topic} is answered {self.refusal}")
        return False

    async def churn(self) -> None:
        """Now and then delete a topic or create one, until the run is over."""
        try:
            while not self._world.is_over:
                await trio.sleep(self._draws.expovariate(1 / self._world.swarm.trouble_seconds))
                await self._caller.connection()
                topics = self._world.model.topics
                if topics and self._draws.random() < 0.5:
                    self._world.saw("trouble: delete")
                    await self.delete(self._draws.choice(topics))
                else:
                    name = self._draws.choice(NAMES)
                    await self.create(name, partitions=self._draws.choice((1, 2)))
        finally:
            self.close()

    async def insist_on_creating(self, name: str, *, partitions: int) -> None:
        """Create a topic, however often that has to be tried."""
        while not await self.create(name, partitions=partitions):  # noqa: ASYNC110 - it asks
            await trio.sleep(_RETRY_SECONDS)

    async def insist_on_deleting(self, topic: TopicModel) -> None:
        """Delete a topic, however often that has to be tried."""
        began = trio.current_time()
        while not await self.delete(topic):
            if trio.current_time() - began > ANSWER_SECONDS:
                raise Violation(f"I10 {topic} cannot be deleted: {self.refusal}")
            await trio.sleep(_RETRY_SECONDS)
