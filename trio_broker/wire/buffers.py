"""What this folder reads from and writes to."""

from __future__ import annotations

from typing import TypeAlias

#: Bytes that nobody changes while a codec looks at them.
Buffer: TypeAlias = bytes | bytearray | memoryview
