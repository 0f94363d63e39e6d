"""Named random streams: one seed, many generators that do not disturb each other.

Every draw of a simulation comes from a stream with a name ("scheduler", "disk/latency", ...).
Each is seeded from (seed, name) alone, so that one more draw in one subsystem leaves all others
as they were. Without that, every change of the code would change every schedule.
"""

from __future__ import annotations

import random
from hashlib import blake2b


class RandomStreams:
    """Random generators by name, all derived from one seed.

    Attributes:
        seed: the number everything follows from.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self._streams: dict[str, random.Random] = {}

    def stream(self, name: str) -> random.Random:
        """Return the generator with this name; the same object for the same name."""
        found = self._streams.get(name)
        if found is None:
            # hash() would differ between processes (PYTHONHASHSEED), blake2b does not.
            digest = blake2b(f"{self.seed}/{name}".encode(), digest_size=16).digest()
            found = self._streams[name] = random.Random(int.from_bytes(digest, "big"))
        return found
