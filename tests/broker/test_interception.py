"""The seam before the handlers: replies keep their order, and a wait holds up nobody else."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

import trio

from tests.broker.harness import (
    World,
    check_left_behind,
    fetch_request,
    make_batch,
    produce_request,
    simulated,
    slow,
)
from trio_broker.broker.interception import Intervention
from trio_broker.wire.api import ApiKey
from trio_broker.wire.message import encode_response
from trio_broker.wire.messages.api_versions import ApiVersionsRequest, ApiVersionsResponse
from trio_broker.wire.messages.produce import ProduceResponse

if TYPE_CHECKING:
    from trio_broker.broker.session import Session
    from trio_broker.broker.state import BrokerState
    from trio_broker.wire.headers import RequestHeader


class Script:
    """Intervenes as it is told to, request by request; None: not."""

    def __init__(self, *interventions: Any) -> None:
        self._interventions = deque(interventions)
        self.seen: list[int] = []
        self.wait = trio.Event()

    async def intercept(
        self, state: BrokerState, session: Session, header: RequestHeader, frame: memoryview
    ) -> Intervention | None:
        self.seen.append(header.api_key)
        await trio.lowlevel.checkpoint()
        found = self._interventions.popleft() if self._interventions else None
        if found == "wait":
            await self.wait.wait()
            return None
        if found == "empty reply":
            body: Any = (
                ProduceResponse(responses=[])
                if header.api_key == ApiKey.PRODUCE
                else ApiVersionsResponse(error_code=35, api_keys=[])
            )
            reply = encode_response(header.api_key, header.api_version, header.correlation_id, body)
            return Intervention(reply=[reply])
        return found


@simulated
async def test_injected_replies_keep_their_place_behind_stored_ones(world: World) -> None:
    script = Script(None, None, "empty reply", "empty reply", None)
    async with world.running() as run:
        await run.broker.create_topic("orders")
        run.state.interceptor = script
        async with world.connect() as client:
            with slow("log", 1.0):
                requests: list[tuple[Any, int]] = [
                    (produce_request(make_batch(b"1")), 11),
                    (produce_request(make_batch(b"2")), 11),
                    (produce_request(make_batch(b"no")), 11),
                    (ApiVersionsRequest(), 0),
                    (fetch_request(0), 12),
                ]
                ids = [await client.send(request, version) for request, version in requests]
                answers = [await client.receive_with_id(*request) for request in requests]
            assert [correlation_id for correlation_id, _ in answers] == ids
            assert [len(answer.responses) for _, answer in answers[:3]] == [1, 1, 0]
            assert answers[3][1].error_code == 35
            [topic] = answers[4][1].responses
            assert topic.partitions[0].high_watermark == 2
        assert script.seen == [0, 0, 0, 18, 1]


@simulated
async def test_a_lost_request_is_not_carried_out_and_a_lost_reply_was(world: World) -> None:
    lost = Intervention(close_reason="test")
    unanswered = Intervention(carry_out=True, close_reason="test")
    async with world.running() as run:
        await run.broker.create_topic("orders")
        for intervention, stored in ((lost, 1), (unanswered, 3)):
            run.state.interceptor = Script(None, intervention)
            async with world.connect() as client:
                first = produce_request(make_batch(b"answered"))
                await client.send(first, 11)
                await client.send(produce_request(make_batch(b"not")), 11)
                assert (await client.receive(first, 11)).responses
                await client.wait_closed()
            assert run.replica("orders").high_watermark == stored
            run.state.interceptor = Script(intervention)
            async with world.connect() as client:
                await client.send(fetch_request(0), 12)
                await client.wait_closed()
        await run.wait_idle()


@simulated
async def test_who_waits_in_it_holds_up_neither_others_nor_a_stop(world: World) -> None:
    script = Script("wait")
    async with world.running() as run:
        await run.broker.create_topic("orders")
        run.state.interceptor = script
        async with world.connect() as held, world.connect() as other:
            await held.send(produce_request(make_batch()), 11)
            while not script.seen:  # noqa: ASYNC110
                await trio.sleep(0.01)
            assert await other.call(ApiVersionsRequest(), 0) is not None
            began = trio.current_time()
            run.tree.request_stop()
            await held.wait_closed()
            await run.tree.ended.wait()
            assert trio.current_time() - began < 5
            assert run.tree.report is not None
            assert run.tree.report.clean
    check_left_behind(run)


@simulated
async def test_a_client_that_leaves_meanwhile_is_let_go(world: World) -> None:
    script = Script("wait")
    async with world.running() as run:
        run.state.interceptor = script
        async with world.connect() as client:
            await client.send(ApiVersionsRequest(), 0)
            while not script.seen:  # noqa: ASYNC110
                await trio.sleep(0.01)
        await run.wait_idle()
