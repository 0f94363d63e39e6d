"""``python -m tests.benchmarks.groups``: what many groups that only send heartbeats cost.

Each member has a connection of its own, as a consumer has one with its coordinator, and sends a
heartbeat every three seconds, the default of every client. Nothing else goes on, so the CPU time of
the server is that of the heartbeats. The members' own work is done in this process.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections import Counter
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path

import attrs
import trio

from tests.support.processes import MIB, peak_rss_bytes
from tests.support.server import Server, running_server
from trio_broker.client.connection import Connection, open_connection
from trio_broker.errors import ErrorCode
from trio_broker.wire.messages.heartbeat import HeartbeatRequest, HeartbeatResponse
from trio_broker.wire.messages.join_group import (
    JoinGroupRequest,
    JoinGroupRequestProtocol,
    JoinGroupResponse,
)
from trio_broker.wire.messages.sync_group import (
    SyncGroupRequest,
    SyncGroupRequestAssignment,
    SyncGroupResponse,
)

HEARTBEAT_SECONDS = 3.0
SESSION_MS = 45_000
SETUP_SECONDS_MAX = 300.0
#: About what a consumer says of itself and is told to read.
_SUBSCRIPTION = b"s" * 60
_ASSIGNMENT = b"a" * 60
#: Groups that join at the same time.
_JOINING = 50
_SETTINGS = {
    "network.connections_max": 100_000,
    "network.connections_per_address_max": 100_000,
    "group.initial_rebalance_delay_ms": 500,
}


@attrs.define
class Load:
    """What the members have seen.

    Attributes:
        codes: of all heartbeats.
        seconds: from sending each heartbeat to its answer, of the measured time.
    """

    codes: Counter[int] = attrs.field(factory=Counter)
    seconds: list[float] = attrs.field(factory=list)


@attrs.frozen
class Member:
    """A member that has joined."""

    connection: Connection
    group: str
    joined: JoinGroupResponse


async def _join(connection: Connection, group: str, members: list[Member]) -> None:
    member_id = ""
    while True:
        request = JoinGroupRequest(
            group_id=group,
            session_timeout_ms=SESSION_MS,
            rebalance_timeout_ms=60_000,
            member_id=member_id,
            protocol_type="consumer",
            protocols=[JoinGroupRequestProtocol(name="range", metadata=_SUBSCRIPTION)],
        )
        joined = await connection.request(request, JoinGroupResponse)
        member_id = joined.member_id
        if joined.error_code == ErrorCode.MEMBER_ID_REQUIRED:
            continue
        assert joined.error_code == 0, joined
        assignments = [
            SyncGroupRequestAssignment(member_id=member.member_id, assignment=_ASSIGNMENT)
            for member in joined.members
        ]
        sync = SyncGroupRequest(
            group_id=group,
            generation_id=joined.generation_id,
            member_id=member_id,
            protocol_type="consumer",
            protocol_name=joined.protocol_name,
            assignments=assignments,
        )
        synced = await connection.request(sync, SyncGroupResponse)
        if synced.error_code == 0:
            members.append(Member(connection, group, joined))
            return
        assert synced.error_code == ErrorCode.REBALANCE_IN_PROGRESS, synced


async def _start_group(
    server: Server,
    group: str,
    size: int,
    stack: AsyncExitStack,
    members: list[Member],
    limiter: trio.CapacityLimiter,
) -> None:
    async with limiter:
        connections = [
            await stack.enter_async_context(open_connection(server.host, server.port))
            for _ in range(size)
        ]
        async with trio.open_nursery() as nursery:
            for connection in connections:
                nursery.start_soon(_join, connection, group, members)


async def _beat(member: Member, delay_seconds: float, load: Load) -> None:
    due = trio.current_time() + delay_seconds
    request = HeartbeatRequest(
        group_id=member.group,
        generation_id=member.joined.generation_id,
        member_id=member.joined.member_id,
    )
    while True:
        await trio.sleep_until(due)
        due += HEARTBEAT_SECONDS
        began = time.perf_counter()
        answer = await member.connection.request(request, HeartbeatResponse)
        load.seconds.append(time.perf_counter() - began)
        load.codes[answer.error_code] += 1


async def measure(server: Server, *, groups: int, size: int, seconds: float) -> list[str]:
    """Let groups form and beat for a while; return what was seen, a line for each figure."""
    empty = server.usage()
    members: list[Member] = []
    load = Load()
    async with AsyncExitStack() as stack:
        began = time.perf_counter()
        limiter = trio.CapacityLimiter(_JOINING)
        with trio.fail_after(SETUP_SECONDS_MAX):
            async with trio.open_nursery() as nursery:
                for number in range(groups):
                    arguments = (server, f"group-{number}", size, stack, members, limiter)
                    nursery.start_soon(_start_group, *arguments)
        formed_seconds = time.perf_counter() - began
        assert len(members) == groups * size
        async with trio.open_nursery() as nursery:
            for number, member in enumerate(members):
                delay = HEARTBEAT_SECONDS * number / len(members)
                nursery.start_soon(_beat, member, delay, load)
            await trio.sleep(HEARTBEAT_SECONDS)  # until all of them beat
            load.seconds.clear()
            load.codes.clear()
            began, before = time.perf_counter(), server.usage()
            await trio.sleep(seconds)
            took, after = time.perf_counter() - began, server.usage()
            nursery.cancel_scope.cancel()
    cpu = (after.cpu_seconds - before.cpu_seconds) / took
    beats = len(load.seconds)
    assert set(load.codes) == {0}, load.codes
    percentiles = statistics.quantiles(load.seconds, n=100)
    grown = after.rss_bytes - empty.rss_bytes
    memory = (
        f"{after.rss_bytes / MIB:.0f} MiB, {empty.rss_bytes / MIB:.0f} MiB before, "
        f"{grown / len(members) / 1024:.1f} KiB for a member with its connection, "
        f"peak {peak_rss_bytes(server.pid) / MIB:.0f} MiB"
    )
    return [
        f"groups formed: {groups} of {size} members in {formed_seconds:.1f} s",
        f"heartbeats: {beats} in {took:.0f} s, {beats / took:.0f}/s, all answered with no error",
        f"server CPU: {cpu:.1%} of one core, {cpu * took / beats * 1e6:.0f} us for a heartbeat",
        f"server memory: {memory}",
        f"answer after: p50 {percentiles[49] * 1e3:.2f} ms, p99 {percentiles[98] * 1e3:.2f} ms",
    ]


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.groups", description=__doc__)
    parser.add_argument("--groups", type=int, default=1_000)
    parser.add_argument("--members", type=int, default=5, help="of each group")
    parser.add_argument("--seconds", type=float, default=30.0, help="of heartbeats measured")
    options = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as directory,
        running_server(Path(directory) / "data", settings=_SETTINGS) as server,
    ):
        run = partial(
            measure,
            server,
            groups=options.groups,
            size=options.members,
            seconds=options.seconds,
        )
        print("\n".join(trio.run(run)))


if __name__ == "__main__":
    main()
