"""Named random streams: one seed, many generators that do not disturb each other.

Every draw of a simulation comes from a stream with a name ("disk/latency", "clients", ...).
Each is seeded from (seed, name) alone, so that one more draw in one subsystem leaves all others
as they were. Without that, every change of the code would change every schedule.
"""

from __future__ import annotations

import random
from hashlib import blake2b
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trio_broker.testing.sim.draws import DrawBook


class RandomStreams:
    """Random generators by name, all derived from one seed.

    Attributes:
        seed: the number everything follows from.
    """

    def __init__(self, seed: int, book: DrawBook | None = None) -> None:
        """Make streams.

        Args:
            seed: what they follow from.
            book: records or replays their draws, if given.
        """
        self.seed = seed
        self._book = book
        self._streams: dict[str, random.Random] = {}

    def stream(self, name: str) -> random.Random:
        """Return the generator with this name; the same object for the same name."""
        found = self._streams.get(name)
        if found is None:
            seed = self._seed_of(name)
            found = random.Random(seed) if self._book is None else self._book.stream(name, seed)
            self._streams[name] = found
        return found

    def unrecorded(self, name: str) -> random.Random:
        """Return a new generator for what is recorded in another form, as schedules are."""
        return random.Random(self._seed_of(name))

    def _seed_of(self, name: str) -> int:
        # hash() would differ between processes (PYTHONHASHSEED), blake2b does not.
        digest = blake2b(f"{self.seed}/{name}".encode(), digest_size=16).digest()
        return int.from_bytes(digest, "big")
