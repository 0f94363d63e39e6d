"""Randomness of this machine."""

from __future__ import annotations

import os
import random
import uuid

_SEED_BYTES = 32
#: A UUID whose base64 text begins with '-' has these six bits in front.
_DASH_MASK, _DASH_BITS = 0xFC, 0xF8


class RealEntropy:
    """Randomness seeded by the system; the terms are those of `interface.Entropy`.

    The generators are for jitter and sampling, never for secrets.
    """

    def __init__(self) -> None:
        self._generators: dict[str, random.Random] = {}

    def random(self, stream: str) -> random.Random:
        """Return the generator for a named purpose; the same object for the same name."""
        generator = self._generators.get(stream)
        if generator is None:
            generator = self._generators[stream] = random.Random(os.urandom(_SEED_BYTES))
        return generator

    def uuid(self) -> uuid.UUID:
        """Return a fresh version 4 UUID that is fit to be a topic id.

        As Kafka's ``Uuid.randomUuid``: never 0 or 1, which it reserves (version 4 rules both out),
        and never with a base64 text that begins with '-', which tools would take for an option.
        """
        while True:
            fresh = uuid.uuid4()
            if fresh.bytes[0] & _DASH_MASK != _DASH_BITS:
                return fresh
