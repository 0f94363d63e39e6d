"""Forgets, a moment later and many at a time, that directories of new partitions were to be made.

The metadata says of new partitions that they may have no directories yet. Once they have, durably,
a directory that is missing means that records are gone; so the metadata is told. Nobody waits for
that, so it costs one commit however many topics are created within a second. If the broker ends
before, the next start finds the directories and does it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection

    from trio_broker.broker.supervise import Supervisor
    from trio_broker.metadata.image import PendingCreation

#: How long those that are made are gathered before the metadata is told.
GATHER_SECONDS = 1.0


class MadeReplicas:
    """What the metadata has still to be told.

    Args:
        supervisor: takes the faults.
        nursery: of the controller.
        forget: tells the metadata; does not raise if it cannot be told.
        is_in_trouble: whether a disk is, on which the metadata may be too. Then it is let alone: a
            failed fsync would cost it more than this is worth.
    """

    def __init__(
        self,
        supervisor: Supervisor,
        nursery: trio.Nursery,
        forget: Callable[[Collection[PendingCreation]], Awaitable[None]],
        is_in_trouble: Callable[[], bool],
    ) -> None:
        self._supervisor = supervisor
        self._nursery = nursery
        self._forget = forget
        self._is_in_trouble = is_in_trouble
        self._gathered: dict[PendingCreation, None] = {}

    def note(self, creations: Collection[PendingCreation]) -> None:
        """Take note that the directories of all these partitions are there, durably."""
        if creations and not self._gathered:
            self._nursery.start_soon(self._tell)
        self._gathered |= dict.fromkeys(creations)

    async def _tell(self) -> None:
        await trio.sleep(GATHER_SECONDS)
        while self._is_in_trouble():  # noqa: ASYNC110 - it may last, and a second is nothing here
            await trio.sleep(GATHER_SECONDS)
        gathered, self._gathered = self._gathered, {}
        await self._supervisor.absorb("controller", self._forget, gathered)
