"""Faults on demand: each is met by real clients, in the way it says, and gone afterwards."""

from __future__ import annotations

import asyncio  # noqa: TID251 - aiokafka's
import math
import time
import warnings
from typing import TYPE_CHECKING, Any

import confluent_kafka
import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.errors import TopicAuthorizationFailedError
from confluent_kafka.admin import AdminClient

from trio_broker import Broker, ErrorCode, RequestError
from trio_broker.testing import BrokerThread, KafkaFaults, NotReached

if TYPE_CHECKING:
    from collections.abc import Iterator

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # raised while kafka-python is imported
    from kafka import KafkaConsumer, KafkaProducer

pytestmark = pytest.mark.foreign_descriptors
DAY_MS = 24 * 3600 * 1000
#: Longest wait for anything that must come about.
PATIENCE_SECONDS = 30.0


@pytest.fixture(autouse=True)
def _all_is_well_afterwards(kafka_broker: BrokerThread) -> Iterator[None]:
    yield
    assert not kafka_broker.disk.is_troubled
    assert kafka_broker.wall.offset_ms == 0
    state = kafka_broker.call(_state)
    assert state.interceptor._faults == {}
    assert not any(log_dir.health.refuses_produce for log_dir in state.log_dirs)


async def _state(broker: Broker) -> Any:
    return broker._state


class Outcomes:
    """A confluent-kafka producer, and what became of what it sent."""

    def __init__(self, broker: BrokerThread, **config: Any) -> None:
        self.errors: list[Any] = []
        settings = {"bootstrap.servers": broker.bootstrap, "linger.ms": 0, "log_level": 0}
        self._producer = confluent_kafka.Producer(
            settings | {name.replace("_", "."): value for name, value in config.items()}
        )

    def send(self, topic: str, value: bytes = b"x") -> Any:
        """Send one record; return the error it met, None if it was stored."""
        self._producer.produce(topic, value, on_delivery=lambda error, _: self.errors.append(error))
        assert self._producer.flush(PATIENCE_SECONDS) == 0
        return self.errors[-1]


def values(broker: BrokerThread, topic: str) -> list[bytes | None]:
    return [record.value for record in broker.records(topic)]


# ------------------------------------------------------------------------------------- requests
def test_an_error_once_is_survived(
    kafka_broker: BrokerThread, kafka_topic: str, kafka_faults: KafkaFaults
) -> None:
    fault = kafka_faults.error("Produce", "NOT_LEADER_OR_FOLLOWER", topic=kafka_topic)
    assert Outcomes(kafka_broker).send(kafka_topic) is None
    assert fault.met == 1
    assert values(kafka_broker, kafka_topic) == [b"x"]


def test_an_error_for_good_is_seen(
    kafka_broker: BrokerThread, kafka_topic: str, kafka_faults: KafkaFaults
) -> None:
    producer = Outcomes(kafka_broker)
    with kafka_faults.error(
        "PRODUCE", ErrorCode.TOPIC_AUTHORIZATION_FAILED, times=math.inf, topic=kafka_topic
    ) as fault:
        error = producer.send(kafka_topic)
        assert error.code() == confluent_kafka.KafkaError.TOPIC_AUTHORIZATION_FAILED
        assert fault.met == 1
        with kafka_broker.topic() as other:
            assert producer.send(other) is None
    assert producer.send(kafka_topic) is None
    assert fault.met == 1


async def _aiokafka_round_trip(broker: BrokerThread, topic: str, group: str) -> list[bytes]:
    producer = AIOKafkaProducer(bootstrap_servers=broker.bootstrap)
    await producer.start()
    try:
        for number in range(3):
            await producer.send_and_wait(topic, b"%d" % number)
    finally:
        await producer.stop()
    consumer = AIOKafkaConsumer(
        topic,
        bootstrap_servers=broker.bootstrap,
        group_id=group,
        auto_offset_reset="earliest",
        enable_auto_commit=False,
    )
    await consumer.start()
    try:
        found = [(await consumer.getone()).value for _ in range(3)]
        await consumer.commit()
    finally:
        await consumer.stop()
    return found


#: Each of these the protocol's clients must survive.
RETRIABLE = [
    ("FindCoordinator", "COORDINATOR_NOT_AVAILABLE"),
    ("JoinGroup", "COORDINATOR_LOAD_IN_PROGRESS"),
    ("SyncGroup", "REBALANCE_IN_PROGRESS"),
    ("OffsetFetch", "COORDINATOR_LOAD_IN_PROGRESS"),
    ("OffsetCommit", "COORDINATOR_LOAD_IN_PROGRESS"),
    ("Fetch", "NOT_LEADER_OR_FOLLOWER"),
    ("ListOffsets", "NOT_LEADER_OR_FOLLOWER"),
    ("Metadata", "LEADER_NOT_AVAILABLE"),
    ("Produce", "REQUEST_TIMED_OUT"),
]


@pytest.mark.parametrize("api,code", RETRIABLE)
def test_aiokafka_survives(
    api: str, code: str, kafka_broker: BrokerThread, kafka_topic: str, kafka_faults: KafkaFaults
) -> None:
    fault = kafka_faults.error(api, code)
    group = f"group-{api}"
    found = asyncio.run(
        asyncio.wait_for(_aiokafka_round_trip(kafka_broker, kafka_topic, group), PATIENCE_SECONDS)
    )
    assert found == [b"0", b"1", b"2"]
    assert fault.met == 1
    kafka_broker.wait_for_lag(group)


def test_aiokafka_is_told_what_is_for_good(
    kafka_broker: BrokerThread, kafka_topic: str, kafka_faults: KafkaFaults
) -> None:
    kafka_faults.error("Produce", "TOPIC_AUTHORIZATION_FAILED")
    with pytest.raises(TopicAuthorizationFailedError):
        asyncio.run(_aiokafka_round_trip(kafka_broker, kafka_topic, "g"))


def test_a_wait_that_blocks_asyncio_says_so(kafka_broker: BrokerThread) -> None:
    async def wait() -> None:
        kafka_broker.wait_for_lag("nobody", timeout_seconds=0.05)

    with pytest.raises(NotReached, match=r"blocked asyncio .* asyncio\.to_thread"):
        asyncio.run(wait())


@pytest.mark.parametrize("api", ["Produce", "Fetch", "Metadata", "FindCoordinator", "JoinGroup"])
def test_kafka_python_survives_a_lost_connection(
    api: str, kafka_broker: BrokerThread, kafka_topic: str, kafka_faults: KafkaFaults
) -> None:
    fault = kafka_faults.lose_request(api)
    producer = KafkaProducer(bootstrap_servers=kafka_broker.bootstrap, retries=5)
    producer.send(kafka_topic, b"x").get(PATIENCE_SECONDS)
    producer.close()
    consumer = KafkaConsumer(
        kafka_topic,
        bootstrap_servers=kafka_broker.bootstrap,
        group_id=f"python-{api}",
        auto_offset_reset="earliest",
    )
    assert next(consumer).value == b"x"
    consumer.close()
    assert fault.met == 1


def test_a_lost_reply_makes_a_duplicate_only_without_idempotence(
    kafka_broker: BrokerThread, kafka_topic: str, kafka_faults: KafkaFaults
) -> None:
    for idempotent, stored in ((False, [b"x", b"x"]), (True, [b"x", b"x", b"y"])):
        fault = kafka_faults.lose_reply("Produce", topic=kafka_topic)
        producer = Outcomes(kafka_broker, enable_idempotence=idempotent)
        assert producer.send(kafka_topic, b"y" if idempotent else b"x") is None
        assert fault.met == 1
        assert values(kafka_broker, kafka_topic) == stored


def test_a_lost_reply_of_an_admin_call_was_carried_out(
    kafka_broker: BrokerThread, kafka_faults: KafkaFaults
) -> None:
    fault = kafka_faults.lose_reply("CreateTopics")
    admin = AdminClient({"bootstrap.servers": kafka_broker.bootstrap, "log_level": 0})
    [result] = admin.create_topics(
        [confluent_kafka.admin.NewTopic("lost", 1, 1)], request_timeout=10
    ).values()
    with pytest.raises(confluent_kafka.KafkaException):
        result.result(PATIENCE_SECONDS)
    assert fault.met == 1
    assert kafka_broker.records("lost") == []
    kafka_broker.delete_topic("lost")


def test_a_delay_holds_up_one_request(
    kafka_broker: BrokerThread, kafka_topic: str, kafka_faults: KafkaFaults
) -> None:
    fault = kafka_faults.delay("Produce", 0.4)
    producer = Outcomes(kafka_broker)
    began = time.perf_counter()
    assert producer.send(kafka_topic) is None
    assert time.perf_counter() - began >= 0.4
    assert fault.met == 1


def test_a_delay_without_end_ends_when_it_is_undone(
    kafka_broker: BrokerThread, kafka_topic: str, kafka_faults: KafkaFaults
) -> None:
    producer = Outcomes(kafka_broker, message_timeout_ms=500)
    with kafka_faults.delay("Produce") as fault:
        error = producer.send(kafka_topic)
        assert error.code() == confluent_kafka.KafkaError._MSG_TIMED_OUT
        fault.wait_met()
        assert values(kafka_broker, kafka_topic) == []
    assert Outcomes(kafka_broker).send(kafka_topic) is None


def test_faults_of_one_client_or_group_only(
    kafka_broker: BrokerThread, kafka_topic: str, kafka_faults: KafkaFaults
) -> None:
    fault = kafka_faults.error("Produce", "TOPIC_AUTHORIZATION_FAILED", client_id="stranger")
    group_fault = kafka_faults.error("JoinGroup", "GROUP_AUTHORIZATION_FAILED", group="theirs")
    assert Outcomes(kafka_broker, client_id="friend").send(kafka_topic) is None
    for group, is_refused in (("ours", False), ("theirs", True)):
        consumer = KafkaConsumer(
            bootstrap_servers=kafka_broker.bootstrap,
            group_id=group,
            auto_offset_reset="earliest",
            consumer_timeout_ms=int(PATIENCE_SECONDS * 1000),
        )
        consumer.subscribe([kafka_topic])
        if is_refused:
            with pytest.raises(Exception, match="GroupAuthorizationFailed"):
                next(consumer)
        else:
            assert next(consumer).value == b"x"
        consumer.close()
    assert group_fault.met == 1
    assert fault.met == 0
    assert Outcomes(kafka_broker, client_id="stranger").send(kafka_topic) is not None
    assert fault.met == 1


def test_faults_combine_in_order(
    kafka_broker: BrokerThread, kafka_topic: str, kafka_faults: KafkaFaults
) -> None:
    delay = kafka_faults.delay("Produce", 0.2, times=math.inf)
    error = kafka_faults.error("Produce", "NOT_LEADER_OR_FOLLOWER", times=2)
    lost = kafka_faults.lose_request("Produce")
    assert Outcomes(kafka_broker).send(kafka_topic) is None
    assert (delay.met, error.met, lost.met) == (4, 2, 1)
    assert len(values(kafka_broker, kafka_topic)) == 1


def test_all_connections_at_once(
    kafka_broker: BrokerThread, kafka_topic: str, kafka_faults: KafkaFaults
) -> None:
    producer = Outcomes(kafka_broker)
    assert producer.send(kafka_topic) is None
    assert kafka_faults.close_connections() >= 1
    assert producer.send(kafka_topic) is None


def test_mistakes_are_told_at_once(kafka_faults: KafkaFaults) -> None:
    with pytest.raises(ValueError, match="there is no API 'Producer', is it 'Produce'"):
        kafka_faults.error("Producer", "NOT_LEADER_OR_FOLLOWER")
    with pytest.raises(ValueError, match="'NOT_LEADER', is it 'NOT_LEADER_OR_FOLLOWER'"):
        kafka_faults.error("Produce", "NOT_LEADER")
    fault = kafka_faults.error("Produce", "NOT_LEADER_OR_FOLLOWER")
    with pytest.raises(NotReached, match="0 requests of PRODUCE met the fault"):
        fault.wait_met(timeout_seconds=0.05)
    fault.undo()
    fault.undo()


# ----------------------------------------------------------------------------------------- disk
def test_a_full_disk_refuses_writes_and_serves_reads(
    kafka_broker: BrokerThread, kafka_topic: str, kafka_faults: KafkaFaults
) -> None:
    producer = Outcomes(kafka_broker)
    assert producer.send(kafka_topic, b"before") is None
    with kafka_faults.disk_full():
        impatient = Outcomes(kafka_broker, message_timeout_ms=1000)
        error = impatient.send(kafka_topic, b"meanwhile")
        assert error.code() == confluent_kafka.KafkaError._MSG_TIMED_OUT
        assert values(kafka_broker, kafka_topic) == [b"before"]
    assert producer.send(kafka_topic, b"after") is None
    assert values(kafka_broker, kafka_topic) == [b"before", b"after"]


def test_a_slow_disk_slows_acknowledgements(
    kafka_broker: BrokerThread, kafka_topic: str, kafka_faults: KafkaFaults
) -> None:
    producer = Outcomes(kafka_broker)
    assert producer.send(kafka_topic) is None
    with kafka_faults.disk_slow(0.2):
        began = time.perf_counter()
        assert producer.send(kafka_topic) is None
        assert time.perf_counter() - began >= 0.2


def test_a_broken_disk_comes_back_with_what_was_acknowledged(
    kafka_broker: BrokerThread, kafka_topic: str, kafka_faults: KafkaFaults
) -> None:
    assert Outcomes(kafka_broker).send(kafka_topic, b"before") is None
    with kafka_faults.disk_broken():
        impatient = Outcomes(kafka_broker, message_timeout_ms=1000)
        assert impatient.send(kafka_topic, b"meanwhile") is not None
    assert Outcomes(kafka_broker).send(kafka_topic, b"after") is None
    assert values(kafka_broker, kafka_topic) == [b"before", b"after"]


def test_topics_can_be_made_after_a_broken_disk_has_refused_one(
    kafka_broker: BrokerThread, kafka_faults: KafkaFaults
) -> None:
    with kafka_faults.disk_broken():
        with pytest.raises(RequestError):
            kafka_broker.create_topic("refused")
    with kafka_broker.topic() as name:
        assert Outcomes(kafka_broker).send(name, b"after") is None


def test_a_frozen_disk_answers_once_it_thaws(
    kafka_broker: BrokerThread, kafka_topic: str, kafka_faults: KafkaFaults
) -> None:
    async def send() -> None:
        producer = AIOKafkaProducer(bootstrap_servers=kafka_broker.bootstrap)
        await producer.start()
        try:
            await producer.send_and_wait(kafka_topic, b"before")
            frozen = kafka_faults.disk_frozen()
            sending = await producer.send(kafka_topic, b"meanwhile")
            done, _ = await asyncio.wait([sending], timeout=0.5)
            assert not done
            frozen.undo()
            await asyncio.wait_for(sending, PATIENCE_SECONDS)
        finally:
            await producer.stop()

    asyncio.run(send())
    assert values(kafka_broker, kafka_topic) == [b"before", b"meanwhile"]


# --------------------------------------------------------------------------------- broker, time
@pytest.mark.parametrize("hard", [False, True])
def test_a_client_waits_for_the_broker_to_come_back(
    kafka_broker: BrokerThread, kafka_topic: str, kafka_faults: KafkaFaults, hard: bool
) -> None:
    producer = Outcomes(kafka_broker, reconnect_backoff_max_ms=200)
    assert producer.send(kafka_topic, b"1") is None
    with kafka_faults.kill_broker() if hard else kafka_faults.stop_broker():
        assert not kafka_broker.is_running
    assert producer.send(kafka_topic, b"2") is None
    assert values(kafka_broker, kafka_topic) == [b"1", b"2"]


@pytest.mark.kafka_topic(configs={"retention.ms": str(7 * DAY_MS)})
def test_travel_into_the_time_after_retention(
    kafka_broker: BrokerThread, kafka_topic: str, kafka_faults: KafkaFaults
) -> None:
    producer = Outcomes(kafka_broker)
    assert producer.send(kafka_topic, b"old") is None
    kafka_faults.travel(days=6.9)
    assert values(kafka_broker, kafka_topic) == [b"old"]
    kafka_faults.travel(hours=3)
    assert values(kafka_broker, kafka_topic) == []


def test_what_a_test_forgets_is_undone(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import pytest

        def forget_much(faults):
            faults.error("Produce", "NOT_LEADER_OR_FOLLOWER", times=99)
            faults.delay("Fetch")
            faults.disk_frozen()
            faults.travel(days=1)

        def forget_the_broker(faults):
            faults.disk_full()
            faults.stop_broker()

        @pytest.mark.parametrize("forget", [forget_much, forget_the_broker])
        def test_forgets(kafka_broker, kafka_topic, kafka_faults, forget):
            forget(kafka_faults)

        def test_in_the_other_order(kafka_faults, kafka_topic):
            forget_much(kafka_faults)

        def test_all_is_well(kafka_broker, kafka_topic):
            assert kafka_broker.is_running
            assert kafka_broker.wall.offset_ms == 0
            assert not kafka_broker.disk.is_troubled
            assert kafka_broker.records(kafka_topic) == []
        """
    )
    pytester.runpytest_inprocess("-p", "no:cacheprovider").assert_outcomes(passed=4)
