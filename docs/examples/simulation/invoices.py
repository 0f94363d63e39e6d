"""For every order an invoice: read from one topic, ask for the price, write to another.

An ordinary Trio program for any Kafka broker. Prices take a while, so the orders of a batch are
handled at the same time. The group's offset says how far the program is, for when it starts again.
`commits_in_order` says how that offset is found: the careless way loses orders.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from trio_broker.client import Client, ConsumerOptions, GroupOptions

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from trio_broker.client import ConsumedBatch, Record

READING = ConsumerOptions(auto_offset_reset="earliest")
GROUP = GroupOptions(auto_commit_seconds=None)


async def write_invoices(
    client: Client,
    find_price: Callable[[bytes], Awaitable[int]],
    *,
    commits_in_order: bool,
) -> None:
    """Write an invoice for each order, until cancelled."""

    async def handle(order: Record, batch: ConsumedBatch, unfinished: set[int]) -> None:
        price = await find_price(order.value)
        await producer.send("invoices", b"%s costs %d" % (order.value, price))
        unfinished.remove(order.offset)
        if commits_in_order:
            # All below this offset are done. Some above it may be, and will be done again.
            position = min(unfinished, default=batch.next_offset)
        else:
            position = order.offset + 1
        await consumer.commit({batch.place: position})

    async with (
        client.open_producer() as producer,
        client.open_group_consumer("billing", ["orders"], READING, group_options=GROUP) as consumer,
    ):
        async for batch in consumer:
            unfinished = {order.offset for order in batch}
            async with trio.open_nursery() as nursery:
                for order in batch:
                    nursery.start_soon(handle, order, batch, unfinished, name=order.value.decode())
