"""`broker_thread`: a real broker beside a test's own thread, its whole life, and its end."""

from __future__ import annotations

import os
import socket
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import confluent_kafka
import pytest
import trio

from tests.support.crashes import Crashes
from trio_broker import (
    Broker,
    BrokerClosed,
    BrokerCrashed,
    ErrorCode,
    NetworkConfig,
    RequestError,
)
from trio_broker.testing import BrokerThread, NotReached, broker_thread, config_for_tests

if TYPE_CHECKING:
    from collections.abc import Iterator

#: librdkafka closes its sockets in its own time.
foreign = pytest.mark.foreign_descriptors


@pytest.fixture(autouse=True)
def _no_threads_left() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    left = [thread for thread in threading.enumerate() if thread not in before]
    assert not [thread for thread in left if "trio-broker" in thread.name]


@pytest.fixture
def broker() -> Iterator[BrokerThread]:
    with broker_thread() as broker:
        yield broker


def produce(broker: BrokerThread, topic: str, *values: bytes) -> None:
    errors: list[Any] = []
    producer = confluent_kafka.Producer(
        {"bootstrap.servers": broker.bootstrap, "linger.ms": 0, "log.connection.close": False}
    )
    for value in values:
        producer.produce(topic, value, on_delivery=lambda error, _: errors.append(error))
    assert producer.flush(30) == 0
    assert set(errors) == {None}


def is_refused(address: tuple[str, int]) -> bool:
    try:
        socket.create_connection(address).close()
    except ConnectionRefusedError:
        return True
    return False


def values(broker: BrokerThread, topic: str) -> list[bytes | None]:
    return [record.value for record in broker.records(topic)]


def test_start_takes_some_milliseconds() -> None:
    """The goal is 100 ms; what it took is printed, and the bound leaves room for busy machines."""
    took = []
    for _ in range(10):
        began = time.perf_counter()
        with broker_thread() as broker:
            took.append(time.perf_counter() - began)
            assert broker.is_running
    took.sort()
    print(f"broker_thread start: median {took[5] * 1000:.1f} ms, goal 100 ms")
    assert took[5] < 1.0


@foreign
def test_an_unmodified_client_and_the_test_see_the_same(broker: BrokerThread) -> None:
    with broker.topic("orders", partitions=3, configs={"retention.ms": "-1"}) as topic:
        produce(broker, topic, b"1", b"2", b"3")
        assert sorted(filter(None, values(broker, topic))) == [b"1", b"2", b"3"]
        assert len(broker.wait_for_records(topic, 3)) == 3
        assert sum(len(broker.records(topic, partition=index)) for index in range(3)) == 3
    with pytest.raises(RequestError, match="there is no topic"):
        broker.records(topic)


@foreign
def test_a_group_is_seen_from_outside(broker: BrokerThread) -> None:
    with broker.topic() as topic:
        produce(broker, topic, b"1", b"2")
        with pytest.raises(NotReached):
            broker.wait_for_lag("g", topics=[topic], timeout_seconds=0.1)
        consumer = confluent_kafka.Consumer(
            {
                "bootstrap.servers": broker.bootstrap,
                "group.id": "g",
                "auto.offset.reset": "earliest",
                "enable.auto.commit": False,
            }
        )
        consumer.subscribe([topic])
        assert len(consumer.consume(2, timeout=30)) == 2
        assert broker.committed("g") == {}
        assert broker.lag("g", topics=[topic]) == 2
        consumer.commit(asynchronous=False)
        broker.wait_for_lag("g")
        assert broker.committed("g") == {(topic, 0): 2}
        consumer.close()


@foreign
@pytest.mark.parametrize("hard", [False, True])
def test_stop_and_start_again_with_the_data_at_the_address(
    broker: BrokerThread, hard: bool
) -> None:
    address, bootstrap = broker.address, broker.bootstrap
    broker.create_topic("orders")
    for life in range(3):
        produce(broker, "orders", b"%d" % life)
        (broker.kill if hard else broker.stop)()
        (broker.kill if hard else broker.stop)()
        assert not broker.is_running
        assert broker.bootstrap == bootstrap
        assert is_refused(address)
        with pytest.raises(BrokerClosed):
            broker.records("orders")
        broker.start()
        broker.start()
        assert broker.address == address
        assert values(broker, "orders") == [b"%d" % number for number in range(life + 1)]


def test_nobody_gets_the_port_of_a_stopped_broker(broker: BrokerThread) -> None:
    """A client that retries could otherwise be given it as its own, and reach itself."""
    broker.stop()
    host, port = broker.address
    with socket.socket() as other:
        with pytest.raises(OSError, match="in use"):
            other.bind((host, port))
    broker.start()
    assert not is_refused((host, port))


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="descriptors cannot be listed")
def test_nothing_is_left_of_many() -> None:
    counts = []
    for _ in range(12):
        with broker_thread() as broker:
            broker.create_topic("orders")
            broker.restart()
            broker.kill()
        counts.append((len(os.listdir("/proc/self/fd")), threading.active_count()))
    assert counts[-1] == counts[1]


def test_errors_of_a_call_reach_the_caller(broker: BrokerThread) -> None:
    async def fail(broker: Broker) -> None:
        await trio.lowlevel.checkpoint()
        raise LookupError("of the test")

    with pytest.raises(LookupError, match="of the test"):
        broker.call(fail)
    with pytest.raises(RequestError) as caught:
        broker.delete_topic("unheard-of")
    assert caught.value.code is ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
    assert broker.call(Broker.create_topic, "orders") is not None
    assert broker.produce("orders", b"x", key=b"k", headers=[("h", None)], timestamp_ms=5) == (0, 0)
    [record] = broker.records("orders")
    assert (record.key, record.value, record.headers) == (b"k", b"x", (("h", None),))
    assert record.timestamp_ms == 5
    with pytest.raises(RequestError):
        broker.produce("unheard-of", b"x")


def test_a_crash_reaches_the_test_at_every_call_and_at_the_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    crashes = Crashes(monkeypatch, ZeroDivisionError("a bug"))

    async def trigger(_broker: Broker) -> None:
        crashes.happen()
        await trio.sleep_forever()

    with pytest.raises(BrokerCrashed) as at_the_end:
        with broker_thread() as broker:
            for _ in range(2):
                with pytest.raises(BrokerCrashed) as caught:
                    broker.call(trigger)
                assert isinstance(caught.value.__cause__, ZeroDivisionError)
            assert not broker.is_running
    assert at_the_end.value is caught.value


def test_a_broker_that_cannot_start_says_why() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(OSError, match=f"cannot listen on 127.0.0.1:{port}"):
            with broker_thread(config_for_tests(listeners=(f"127.0.0.1:{port}",))):
                raise AssertionError("it has started")


def test_the_tests_own_exception_stays_its_own() -> None:
    error = LookupError("of the test")
    with pytest.raises(LookupError) as caught:
        with broker_thread():
            raise error
    assert caught.value is error


def test_what_a_test_leaves_behind_does_not_hold_up_the_end() -> None:
    with broker_thread() as broker:
        broker.create_topic("orders")
        broker.faults.delay("Metadata")
        broker.faults.disk_frozen()
        stream = socket.create_connection(broker.address)
        # Metadata version 0, of no topic.
        stream.sendall(bytes.fromhex("0000000e 0003 0000 00000001 ffff 00000000"))
        broker.thread.call(_wait_for_client, broker)
        began = time.perf_counter()
    assert time.perf_counter() - began < 20  # the drain alone may take ten if it is held up
    stream.close()


async def _wait_for_client(broker: BrokerThread) -> None:
    with trio.fail_after(20):
        while not broker.broker.statistics().connections.open:  # noqa: ASYNC110
            await trio.sleep(0.001)


def test_calls_from_many_threads_at_once(broker: BrokerThread) -> None:
    broker.create_topic("orders")

    def work() -> None:
        for _ in range(20):
            broker.call(Broker.produce, "orders", b"x")

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(broker.records("orders")) == 160


def test_a_call_from_its_own_thread_is_refused(broker: BrokerThread) -> None:
    async def call_again(_: Broker) -> None:
        broker.records("orders")

    with pytest.raises(RuntimeError, match="would wait for its own thread"):
        broker.call(call_again)


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")  # multi-threaded, forks
def test_a_call_from_a_forked_process_is_refused(broker: BrokerThread) -> None:
    child = os.fork()
    if not child:
        try:
            broker.lag("g")
        except RuntimeError as error:
            os._exit(0 if "not in this one" in str(error) else 1)
        os._exit(2)
    assert os.waitpid(child, 0)[1] == 0
    assert broker.lag("g") is None


async def test_a_wait_in_vain_tells_of_the_event_loop_that_it_has_blocked(
    broker: BrokerThread,
) -> None:
    hint = r"has blocked trio in its thread: call it through trio\.to_thread\.run_sync"
    with pytest.raises(NotReached, match=hint):
        broker.wait_for_lag("g", timeout_seconds=0.05)
    with pytest.raises(NotReached, match=hint):
        broker.wait_for_records("orders", 1, timeout_seconds=0.05)
    with pytest.raises(NotReached, match=hint):
        broker.faults.error("Produce", "NOT_LEADER_OR_FOLLOWER").wait_met(timeout_seconds=0.05)


def test_a_wait_in_vain_without_an_event_loop_says_nothing_of_one(broker: BrokerThread) -> None:
    with pytest.raises(NotReached) as caught:
        broker.wait_for_lag("g", timeout_seconds=0.05)
    assert "blocked" not in str(caught.value)


async def test_beside_a_trio_run_of_the_test(broker: BrokerThread) -> None:
    broker.create_topic("orders")
    broker.call(Broker.produce, "orders", b"x")
    assert values(broker, "orders") == [b"x"]


def test_several_at_once_have_nothing_in_common() -> None:
    with broker_thread() as first, broker_thread() as second:
        assert first.bootstrap != second.bootstrap
        ids = {broker.call(_cluster_id) for broker in (first, second)}
        assert len(ids) == 2
        first.create_topic("orders")
        with pytest.raises(RequestError):
            second.records("orders")


async def _cluster_id(broker: Broker) -> str:
    await trio.lowlevel.checkpoint()
    return broker.cluster_id


def test_a_configuration_of_ones_own() -> None:
    config = config_for_tests(
        num_partitions=4, network=NetworkConfig(connections_max=7), listeners=("localhost:0",)
    )
    with broker_thread(config) as broker:
        broker.call(Broker.create_topic, "orders")
        assert len(broker.call(_partitions)) == 4
        broker.restart()
        assert not is_refused(broker.address)


async def _partitions(broker: Broker) -> tuple[Any, ...]:
    await trio.lowlevel.checkpoint()
    return broker.statistics().topics[0].partitions


def test_explored_tests_in_the_same_suite(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import pytest
        import trio

        def test_before(kafka_broker, kafka_topic):
            assert kafka_broker.records(kafka_topic) == []

        @pytest.mark.explore(seeds=3)
        async def test_explored(sim):
            await trio.sleep(1000)

        def test_after(kafka_broker, kafka_topic):
            assert kafka_broker.records(kafka_topic) == []
        """
    )
    pytester.runpytest_subprocess("-p", "no:cacheprovider").assert_outcomes(passed=3)
