"""The HTTP server of a real broker: what is there, for whom, and how long."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import httpx
import pytest
import trio
from prometheus_client.parser import text_string_to_metric_families as parse_text

from tests.admin.http_client import get, open_http
from tests.broker.harness import fetch_request, make_batch, open_client, running
from trio_broker import BrokerConfig, ConfigError, HttpConfig, open_broker
from trio_broker.config import MetricsConfig, ShutdownConfig
from trio_broker.host.real import real_host
from trio_broker.wire.messages.api_versions import ApiVersionsRequest

if TYPE_CHECKING:
    from pathlib import Path

    from tests.broker.harness import Running

TOKEN = "a-token-of-some-length"


@pytest.fixture
def config(tmp_path: Path) -> BrokerConfig:
    """A broker with both kinds of listeners."""
    return BrokerConfig(
        data_dir=str(tmp_path / "data"),
        listeners=("127.0.0.1:0",),
        http=HttpConfig(listen="127.0.0.1:0"),
    )


def address(run: Running) -> tuple[str, int]:
    return run.state.http_bound[0]


async def ask(run: Running, path: str, **arguments: Any) -> Any:
    return await get(run.host.network, address(run), path, **arguments)


async def series(run: Running) -> dict[str, float]:
    """Scrape; return the values by ``name{labels}``, labels sorted."""
    answer = await ask(run, "/metrics")
    assert answer.status == 200
    found = {}
    for family in parse_text(answer.text):
        for sample in family.samples:
            labels = ",".join(f"{name}={text}" for name, text in sorted(sample.labels.items()))
            found[f"{sample.name}{{{labels}}}" if labels else sample.name] = sample.value
    return found


async def test_a_usual_client_finds_everything(config: BrokerConfig) -> None:
    async with open_broker(config) as broker:
        await broker.create_topic("orders", partitions=2)
        await broker.produce("orders", b"1", partition=0)
        [(host, port)] = broker.http_listeners
        async with httpx.AsyncClient(base_url=f"http://{host}:{port}") as client:
            for path in ("/health/live", "/health/ready", "/health/startup", "/health"):
                answer = await client.get(path)
                assert answer.status_code == 200, path
                assert answer.json()["phase"] == "serving"
                assert answer.headers["content-type"] == "application/json"
                assert answer.headers["cache-control"] == "no-store"
                assert "access-control-allow-origin" not in answer.headers
                assert "server" not in answer.headers
            assert (await client.get("/health")).json()["log_dirs"][0]["state"] == "ok"
            page = await client.get("/metrics")
            assert (
                'trio_broker_partition_high_watermark{partition="0",topic="orders"} 1' in page.text
            )
            assert (await client.head("/metrics")).text == ""
            accept = {"accept": "application/openmetrics-text;version=1.0.0"}
            assert (await client.get("/metrics", headers=accept)).text.endswith("# EOF\n")


async def test_only_what_is_listed_exists(config: BrokerConfig) -> None:
    async with running(config) as run:
        for path in ("/", "/healthz", "/health/", "/metrics/", "/health/live/x", "/HEALTH", "//"):
            answer = await ask(run, path)
            assert answer.status == 404, path
            assert "here are /health, /health/live, " in answer.text
        for path in ("/health/%6cive/../ready", "/metrics%2f", "/..%2fmetrics"):
            assert (await ask(run, path)).status == 404, path
        for method in ("POST", "PUT", "DELETE", "OPTIONS", "PATCH"):
            assert (await ask(run, "/health/ready", method=method)).status == 405, method


async def test_what_is_counted_is_shown(config: BrokerConfig) -> None:
    async with running(config) as run:
        await run.broker.create_topic("orders", partitions=1)
        async with run.connect() as client:
            batch = make_batch(b"1", b"2", b"3")
            await client.produce(batch)
            await client.call(fetch_request(0), 12)
            found = await series(run)
            assert found["trio_broker_connections"] == 1
        assert found["trio_broker_request_records_total{request=produce,topic=orders}"] == 3
        assert found["trio_broker_request_batches_total{request=produce,topic=orders}"] == 1
        assert found["trio_broker_request_bytes_total{request=produce,topic=orders}"] == len(batch)
        assert found["trio_broker_request_bytes_total{request=fetch,topic=orders}"] == len(batch)
        assert found["trio_broker_fetches_total{topic=orders}"] == 1
        assert found["trio_broker_request_seconds_count{api=Produce}"] == 1
        assert found["trio_broker_request_seconds_count{api=Fetch}"] == 1
        assert found["trio_broker_connections_accepted_total"] == 1
        assert found["process_open_fds"] > 5
        assert found["process_start_time_seconds"] > 1.6e9


async def test_series_vanish_with_their_topic(config: BrokerConfig) -> None:
    async with running(config) as run:
        await run.broker.create_topic("orders")
        await run.broker.create_topic("audit")
        assert any("topic=orders" in name for name in await series(run))
        await run.broker.delete_topic("orders")
        after = await series(run)
        assert not any("topic=orders" in name for name in after)
        assert any("topic=audit" in name for name in after)


async def test_the_cap_and_the_other_names_come_from_the_configuration(
    config: BrokerConfig,
) -> None:
    metrics = MetricsConfig(per_partition_max=3, compat=("kafka_exporter",))
    async with running(config.with_values(metrics=metrics)) as run:
        await run.broker.create_topic("orders", partitions=5)
        found = await series(run)
    assert sum(name.startswith("kafka_topic_partition_current_offset") for name in found) == 3
    assert found["kafka_topic_partitions{topic=orders}"] == 5
    assert found["trio_broker_series_omitted"] == 2


# ------------------------------------------------------------------------------------- who may see
async def test_a_token_guards_all_but_the_probes(config: BrokerConfig) -> None:
    http = HttpConfig(listen="127.0.0.1:0", token=TOKEN)
    async with running(config.with_values(http=http)) as run:
        for path in ("/health", "/metrics", "/nothing"):
            for wrong in (None, "", "Bearer", "Bearer x", f"Basic {TOKEN}", f"Bearer {TOKEN}x"):
                headers = {} if wrong is None else {"Authorization": wrong}
                answer = await ask(run, path, headers=headers)
                assert answer.status == 401, (path, wrong)
                assert answer.headers["www-authenticate"] == "bearer"
        right = {"Authorization": f"Bearer {TOKEN}"}
        assert (await ask(run, "/metrics", headers=right)).status == 200
        assert (await ask(run, "/health", headers=right)).status == 200
        stranger = await ask(run, "/health/ready")
        assert stranger.json() == {"status": "ready", "phase": "serving"}
        assert "reasons" in (await ask(run, "/health/ready", headers=right)).json()


#: Host headers, and what a request with them gets.
HOSTS = {
    "localhost:9644": 200,
    "127.0.0.1:9644": 200,
    "[::1]:9644": 200,
    "[::1]": 200,
    "10.1.2.3": 200,
    "LOCALHOST": 200,
    "broker.internal:9644": 200,
    "broker.example:9644": 200,
    "evil.example": 403,
    "localhost.evil.example": 403,
    "127.0.0.1.evil.example": 403,
    "localhost:9644:1": 403,
    "": 403,
    "a b": 403,
}


async def test_the_host_header_must_name_this_server(config: BrokerConfig) -> None:
    http = HttpConfig(listen="127.0.0.1:0", host_names=("broker.internal",))
    told = config.with_values(http=http, advertised="broker.example:9092")
    async with running(told) as run:
        for host, status in HOSTS.items():
            answer = await ask(run, "/health/live", headers={"Host": host})
            assert answer.status == status, host


@pytest.mark.parametrize("listen", ["0.0.0.0:9644", "[::]:9644", "10.0.0.1:1", "example.com:80"])
def test_to_be_open_to_strangers_takes_a_token(listen: str) -> None:
    with pytest.raises(ConfigError, match=r"other machines.*http\.token"):
        HttpConfig(listen=listen)
    assert HttpConfig(listen=listen, token=TOKEN).listen == listen


@pytest.mark.parametrize("listen", ["127.0.0.1:0", "127.8.8.8:9", "[::1]:9644", "localhost:9644"])
def test_loopback_takes_none(listen: str) -> None:
    assert HttpConfig(listen=listen).token is None


def test_a_token_is_no_trifle_and_not_shown() -> None:
    for weak in ("", "secret", "with blanks in it, though long", "ünïcödé-is-not-fit"):
        with pytest.raises(ConfigError, match="token"):
            HttpConfig(token=weak)
    assert TOKEN not in repr(BrokerConfig(http=HttpConfig(token=TOKEN)))


# -------------------------------------------------------------------------------- start and stop
async def test_readiness_says_no_before_the_listener_closes(config: BrokerConfig) -> None:
    config = config.with_values(shutdown=ShutdownConfig(ready_grace_seconds=60))
    async with running(config) as run:
        assert (await ask(run, "/health/ready")).status == 200
        run.tree.request_stop("a test")
        answer = await ask(run, "/health/ready")
        assert (answer.status, answer.json()["phase"]) == (503, "draining")
        assert (await ask(run, "/health/live")).status == 200
        assert (await ask(run, "/health/startup")).status == 200
        assert (await ask(run, "/metrics")).status == 200
        async with run.connect() as client:  # the Kafka listener is as open as before
            assert (await client.call(ApiVersionsRequest(), 2)).error_code == 0
            produced = await client.call(fetch_request(0), 12)
            assert produced is not None
        run.tree.hurry("seen enough")


async def test_it_stops_last_and_says_nothing(
    config: BrokerConfig, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    async with running(config) as run:
        where = address(run)
        async with open_http(run.host.network, where) as client:
            await client.request("/health/live")  # and stays connected
            run.tree.request_stop("a test")
            await run.tree.ended.wait()
            await client.wait_closed()
    assert not [record for record in caplog.records if "http" in record.name]
    with pytest.raises(OSError, match="cannot connect"):
        await run.host.network.connect(*where)


async def test_an_address_in_use_is_named_and_nothing_was_opened(
    config: BrokerConfig, tmp_path: Path
) -> None:
    async with open_broker(config) as broker:
        [(host, port)] = broker.http_listeners
        second = config.with_values(
            data_dir=str(tmp_path / "other"), http=HttpConfig(listen=f"{host}:{port}")
        )
        with pytest.raises(OSError, match=f"{port}.*--http"):
            async with open_broker(second):
                pass
    assert not (tmp_path / "other").exists()


async def test_an_error_of_the_program_leaves_as_it_is(config: BrokerConfig) -> None:
    with pytest.raises(LookupError, match="mine"):
        async with open_broker(config):
            raise LookupError("mine")


async def test_without_the_libraries_it_says_what_to_install(
    config: BrokerConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trio_broker.broker.http_server._LIBRARIES", {"no_such_module": "hyper"})
    with pytest.raises(ConfigError, match=r"http.listen needs hyper.*trio-broker\[server\]"):
        async with open_broker(config):
            pass


async def test_without_configuration_there_is_no_server(tmp_path: Path) -> None:
    async with open_broker(BrokerConfig(data_dir=str(tmp_path), listeners=())) as broker:
        assert broker.http_listeners == []


async def test_many_scrapes_at_once_share_the_work(config: BrokerConfig) -> None:
    async with running(config) as run:
        pages: list[bytes] = []

        async def scrape() -> None:
            pages.append((await ask(run, "/metrics")).body)

        async with trio.open_nursery() as nursery:
            for _ in range(12):
                nursery.start_soon(scrape)
        assert len(pages) == 12
        assert len(set(pages)) < 12


async def test_a_client_beyond_the_limit_is_closed_at_once(config: BrokerConfig) -> None:
    http = HttpConfig(listen="127.0.0.1:0", connections_max=2)
    async with running(config.with_values(http=http)) as run:
        network, where = real_host().network, address(run)
        async with open_http(network, where) as first, open_http(network, where) as second:
            await first.request("/health/live")
            await second.request("/health/live")
            async with open_http(network, where) as third:
                await third.wait_closed()
            await first.request("/health/live")
        async with open_client(run.host.network, run.address) as client:
            assert (await client.call(ApiVersionsRequest(), 2)).error_code == 0
