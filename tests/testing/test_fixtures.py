"""The fixtures in other people's suites: what they load, need and take from their users."""

from __future__ import annotations

import subprocess
import sys

import pytest

SUITE = """
    import pytest

    def test_one(kafka_broker, kafka_topic, kafka_faults):
        kafka_faults.travel(days=1)
        assert kafka_broker.records(kafka_topic) == []

    @pytest.mark.kafka_topic(partitions=3, configs={"retention.ms": "1000"})
    def test_what_the_mark_says(kafka_broker, kafka_topic):
        for partition in range(3):
            assert kafka_broker.records(kafka_topic, partition=partition) == []
        with pytest.raises(Exception, match="there is no partition"):
            kafka_broker.records(kafka_topic, partition=3)
"""


def test_collecting_loads_neither_trio_nor_the_broker(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    pytester.makeconftest(
        """
        import sys

        def pytest_collection_finish(session):
            heavy = {"trio", "attrs", "psutil", "trio_broker.config"} & set(sys.modules)
            assert not heavy, heavy
        """
    )
    pytester.makepyfile(SUITE)
    result = pytester.runpytest_subprocess(
        "-p", "trio_broker.testing.pytest_plugin", "-p", "no:cacheprovider"
    )
    result.assert_outcomes(passed=2)


def test_a_mark_with_a_mistake_is_told_what_it_takes(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import pytest

        @pytest.mark.kafka_topic(partitons=3)
        def test_name(kafka_topic): ...

        @pytest.mark.kafka_topic(3)
        def test_position(kafka_topic): ...
        """
    )
    result = pytester.runpytest_subprocess("-p", "no:cacheprovider")
    result.assert_outcomes(errors=2)
    takes = "kafka_topic takes these, by name: configs, partitions, prefix"
    assert result.stdout.str().count(takes) >= 2


def test_a_broker_in_a_thread_needs_no_pytest() -> None:
    code = (
        "import sys\n"
        "from trio_broker.testing import broker_thread\n"
        "with broker_thread() as broker:\n"
        "    broker.create_topic('orders')\n"
        "print({'pytest', 'hypothesis', 'asyncio'} & set(sys.modules))\n"
    )
    printed = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout
    assert printed == "set()\n"


def test_pytest_trio_is_not_needed(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(SUITE)
    result = pytester.runpytest_subprocess(
        "-p", "no:trio", "-p", "no:cacheprovider", "--strict-markers", "-W", "error"
    )
    result.assert_outcomes(passed=2)


def test_an_explored_test_cannot_use_it_and_is_told_what_can_be(
    pytester: pytest.Pytester,
) -> None:
    pytester.makepyfile(
        """
        import pytest
        from trio_broker.testing import memory_broker

        @pytest.mark.explore(seeds=2)
        async def test_no(sim, kafka_topic):
            raise AssertionError("it has run")

        @pytest.mark.explore(seeds=2)
        async def test_yes(sim):
            async with memory_broker() as broker:
                await broker.create_topic("orders")
                assert await broker.produce("orders", b"1") == (0, 0)
        """
    )
    result = pytester.runpytest_inprocess("-p", "no:cacheprovider")
    result.assert_outcomes(errors=1, passed=1)
    result.stdout.fnmatch_lines(["*an explored test cannot use kafka_broker*"])


def test_a_broker_beside_every_test_keeps_explored_ones_from_running(
    pytester: pytest.Pytester,
) -> None:
    """A process of their own does not help, since it has such a broker as well."""
    pytester.makeconftest(
        """
        import pytest
        from trio_broker.testing import broker_thread

        @pytest.fixture(scope="session", autouse=True)
        def broker_of_all():
            with broker_thread() as broker:
                yield broker
        """
    )
    pytester.makepyfile(
        """
        import pytest

        @pytest.mark.explore(seeds=2)
        async def test_explored(sim):
            pass
        """
    )
    result = pytester.runpytest_inprocess("-p", "no:cacheprovider")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*Trio runs in another thread (trio-broker *"])


def test_the_configuration_can_be_overridden(pytester: pytest.Pytester) -> None:
    pytester.makeconftest(
        """
        import pytest
        from trio_broker.testing import config_for_tests

        @pytest.fixture(scope="session")
        def kafka_broker_config():
            return config_for_tests(num_partitions=5)
        """
    )
    pytester.makepyfile(
        """
        from trio_broker import Broker

        def test_five(kafka_broker):
            kafka_broker.call(Broker.create_topic, "orders")
            assert kafka_broker.records("orders", partition=4) == []
        """
    )
    pytester.runpytest_inprocess("-p", "no:cacheprovider").assert_outcomes(passed=1)


def test_a_crash_fails_the_test_that_meets_it_and_those_after(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import pytest
        import trio

        async def crash(broker):
            broker._state.connections.start_soon(fail)
            await trio.sleep_forever()

        async def fail():
            raise ZeroDivisionError("a bug")

        def test_meets_it(kafka_broker):
            kafka_broker.call(crash)

        def test_after(kafka_topic):
            pass
        """
    )
    result = pytester.runpytest_inprocess("-p", "no:cacheprovider")
    # The last error is that of the session's end, which pytest counts with the last test.
    result.assert_outcomes(failed=1, errors=2)
    result.stdout.fnmatch_lines(
        ["*ZeroDivisionError: a bug*", "*BrokerCrashed: the broker failed*"]
    )
