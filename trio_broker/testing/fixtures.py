"""pytest fixtures: a real broker for tests of code that uses Kafka, whatever client it uses.

There as soon as trio-broker is installed (see `pytest_plugin`). They are synchronous, so tests may
be too, or asynchronous under any plugin. Nothing heavy is imported before a test asks for one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from trio_broker.config import BrokerConfig
    from trio_broker.testing.kafka_faults import KafkaFaults
    from trio_broker.testing.threaded_broker import BrokerThread

_MARK = "kafka_topic"
#: What `BrokerThread.topic` takes.
_MARK_TAKES = frozenset({"configs", "partitions", "prefix"})


def pytest_configure(config: pytest.Config) -> None:
    """Declare the mark."""
    config.addinivalue_line(
        "markers",
        f"{_MARK}(partitions=1, configs={{}}): what the topic of the fixture kafka_topic is like",
    )


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Refuse what could not work: a simulation does not reach out of itself."""
    if item.get_closest_marker("explore") and "kafka_broker" in getattr(item, "fixturenames", ()):
        pytest.fail(
            "an explored test cannot use kafka_broker, which runs in real time in another thread: "
            "take memory_broker() of trio_broker.testing, inside the test",
            pytrace=False,
        )


@pytest.fixture(scope="session")
def kafka_broker_config() -> BrokerConfig:
    """Return the configuration of `kafka_broker`: override it in conftest.py to change some."""
    from trio_broker.testing.memory import config_for_tests

    return config_for_tests()


@pytest.fixture(scope="session")
def kafka_broker(kafka_broker_config: BrokerConfig) -> Iterator[BrokerThread]:
    """Run a broker that speaks Kafka's protocol, in a thread, for the whole session.

    Its data is in memory and it is shared by all tests: use topics and groups of your own
    (`kafka_topic`). `BrokerThread.bootstrap` is what clients need to know.
    """
    from trio_broker.testing.threaded_broker import broker_thread

    with broker_thread(kafka_broker_config) as broker:
        yield broker


@pytest.fixture
def kafka_topic(request: pytest.FixtureRequest, kafka_broker: BrokerThread) -> Iterator[str]:
    """Have a topic of this test's own, deleted afterwards; gives its name.

    ``@pytest.mark.kafka_topic(partitions=3, configs={"retention.ms": "1000"})`` says what it is
    like; else it has one partition and keeps everything.
    """
    mark = request.node.get_closest_marker(_MARK)
    options = dict(mark.kwargs) if mark is not None else {}
    if (mark is not None and mark.args) or not _MARK_TAKES.issuperset(options):
        pytest.fail(
            f"{_MARK} takes these, by name: {', '.join(sorted(_MARK_TAKES))}", pytrace=False
        )
    kafka_broker.start()  # in case an earlier test has stopped it
    with kafka_broker.topic(**options) as name:
        yield name
        kafka_broker.faults.undo_all()  # or what goes wrong still would hold up the deletion


@pytest.fixture
def kafka_faults(kafka_broker: BrokerThread) -> Iterator[KafkaFaults]:
    """Let things go wrong with `kafka_broker`; at the end of the test all is well again."""
    kafka_broker.start()
    yield kafka_broker.faults
    kafka_broker.faults.undo_all()
