"""``python -m tests.benchmarks.receive``: what it costs to receive large frames over a slow link.

A peer sends frames of 1 MB in pieces, at the pace of a network, so that the receiver always waits.
CPU and wake-ups are those of the receiver, with and without telling the stream how much of the
frame is missing (`Stream.receive_into`), and with and without memory that is used again.
"""

from __future__ import annotations

import os
import sys
import time

import trio

from tests.benchmarks.systems import CLIENT_CPUS, SERVER_CPUS
from trio_broker.buffers import BufferPool
from trio_broker.host.sockets import RealNetwork
from trio_broker.wire.frames import FrameSplitter

_FRAME_BYTES = 1_000_000
_FRAMES = 100
#: Bytes of a piece, bytes per second.
_LINKS = ((1448, 125e6), (16_384, 125e6), (65_536, 1.25e9))
_SENDER = """
import socket, sys, time
port, size, piece, frames = map(int, sys.argv[1:5])
gap = piece / float(sys.argv[5])
sock = socket.create_connection(("127.0.0.1", port))
sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
frame = size.to_bytes(4, "big") + bytes(size)
due = time.perf_counter()
for _ in range(frames):
    for start in range(0, len(frame), piece):
        sock.sendall(frame[start : start + piece])
        due += gap
        while time.perf_counter() < due:
            pass
"""


async def receive(piece_bytes: int, rate: float, *, tells: bool, reuses: bool) -> tuple[float, int]:
    """Receive all frames; return CPU seconds and wake-ups."""
    (listener,) = await RealNetwork().listen("127.0.0.1", 0)
    arguments = [listener.port, _FRAME_BYTES, piece_bytes, _FRAMES, rate]
    command = [sys.executable, "-c", _SENDER, *map(str, arguments)]
    sender = await trio.lowlevel.open_process(command)
    os.sched_setaffinity(sender.pid, CLIENT_CPUS)
    stream = await listener.accept()
    splitter = FrameSplitter(2 * _FRAME_BYTES, 2 * _FRAME_BYTES, BufferPool() if reuses else None)
    wake_ups = frames = 0
    began = time.process_time()
    while True:
        expected_bytes = splitter.expected_bytes if tells else 1
        count = await stream.receive_into(splitter.writable(), expected_bytes)
        if not count:
            break
        wake_ups += 1
        splitter.received(count)
        while splitter.next_frame() is not None:
            frames += 1
    seconds = time.process_time() - began
    stream.close()
    listener.close()
    await sender.wait()
    assert frames == _FRAMES
    return seconds, wake_ups


def main() -> None:
    """Print a table."""
    os.sched_setaffinity(0, SERVER_CPUS)
    print("| pieces of | MB/s | tells what is missing | reuses memory | CPU ms per MB | wake-ups |")
    print("|--:|--:|---|---|--:|--:|")
    for piece_bytes, rate in _LINKS:
        for tells, reuses in ((False, False), (False, True), (True, False), (True, True)):

            async def run() -> tuple[float, int]:
                return await receive(piece_bytes, rate, tells=tells, reuses=reuses)  # noqa: B023

            seconds, wake_ups = trio.run(run)
            print(
                f"| {piece_bytes} | {rate / 1e6:.0f} | {'yes' if tells else 'no'}"
                f" | {'yes' if reuses else 'no'} | {1e3 * seconds / _FRAMES:.2f}"
                f" | {wake_ups / _FRAMES:.0f} |"
            )


if __name__ == "__main__":
    main()
