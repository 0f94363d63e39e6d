"""The memory pool: who waits, in which order, and that somebody always goes on."""

from __future__ import annotations

import trio
from trio.testing import wait_all_tasks_blocked

from trio_broker.broker.memory_pool import MemoryPool


async def test_who_finds_no_room_waits_oldest_first() -> None:
    pool = MemoryPool(100)
    order: list[int] = []

    async def use(number: int) -> None:
        await pool.wait_for_room()
        pool.take(60)
        order.append(number)

    pool.take(100)
    async with trio.open_nursery() as nursery:
        for number in range(5):
            nursery.start_soon(use, number)
            await wait_all_tasks_blocked()
        assert not order
        pool.give_back(100)
        await wait_all_tasks_blocked()
        assert order == [0, 1]
        assert "3 waiting" in repr(pool)
        pool.give_back(60)
        await wait_all_tasks_blocked()
        assert order == [0, 1, 2]
        pool.give_back(60 * 2)
        await wait_all_tasks_blocked()
        assert order == [0, 1, 2, 3, 4]
    assert pool.used_bytes == 120


async def test_a_waiter_that_is_cancelled_takes_nobodys_turn() -> None:
    pool = MemoryPool(1)
    pool.take(1)
    scope = trio.CancelScope()
    done = trio.Event()

    async def give_up() -> None:
        with scope:
            await pool.wait_for_room()

    async def wait() -> None:
        await pool.wait_for_room()
        done.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(give_up)
        await wait_all_tasks_blocked()
        nursery.start_soon(wait)
        await wait_all_tasks_blocked()
        scope.cancel()
        pool.give_back(1)
        await done.wait()
    assert "0 waiting" in repr(pool)


async def test_of_those_who_hold_memory_one_at_a_time_goes_on() -> None:
    pool = MemoryPool(100)
    running: list[str] = []
    owners = {name: object() for name in "abc"}
    finish = {name: trio.Event() for name in "abc"}

    async def grow(name: str) -> None:
        pool.take(50)
        await pool.wait_for_room(owners[name])
        running.append(name)
        await finish[name].wait()
        pool.give_back(50)
        pool.finished(owners[name])

    async with trio.open_nursery() as nursery:
        pool.take(100)
        for name in "abc":
            nursery.start_soon(grow, name)
            await wait_all_tasks_blocked()
        nursery.start_soon(pool.wait_for_room)
        await wait_all_tasks_blocked()
        assert running == ["a"]
        # It may go on as often as it must, and others' end changes nothing.
        await pool.wait_for_room(owners["a"])
        pool.finished(owners["b"])
        await wait_all_tasks_blocked()
        assert running == ["a"]
        finish["a"].set()
        await wait_all_tasks_blocked()
        assert running == ["a", "b"]
        finish["b"].set()
        await wait_all_tasks_blocked()
        assert running == ["a", "b", "c"]
        finish["c"].set()
        pool.give_back(100)
    assert pool.used_bytes == 0
