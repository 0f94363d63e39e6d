"""The yardstick: what blocking Python does at least to move bytes between a socket and a file.

``python -m tests.benchmarks.twin FILE`` serves one connection after another. A frame is its length
(int32), one letter and the rest: ``W`` appends the rest to the file, ``R`` asks for an offset
(int64) and a count (int32) and gets that many bytes back. Standard library only; no protocol, no
checksum, no sync, nothing kept. A broker does more, so its share of this is what the more costs.
With ``--sync`` each frame is synced before it is answered.
"""

from __future__ import annotations

import os
import socket
import struct
import sys

REPLY = b"\0" * 36  # as long as the answer to a Produce request for one partition
_HEAD = struct.Struct(">ic")
_READ = struct.Struct(">qi")


def write_frame(rest: bytes) -> bytes:
    """Return a frame that appends `rest`."""
    return _HEAD.pack(len(rest) + 1, b"W") + rest


def read_frame(offset: int, count: int) -> bytes:
    """Return a frame that asks for `count` bytes at `offset`."""
    return _HEAD.pack(1 + _READ.size, b"R") + _READ.pack(offset, count)


def receive_exactly(sock: socket.socket, view: memoryview) -> bool:
    """Fill `view`; return False if the peer closed instead."""
    while view:
        received = sock.recv_into(view)
        if received == 0:
            return False
        view = view[received:]
    return True


def serve(sock: socket.socket, path: str, *, syncs: bool) -> None:
    """Serve one connection until its end."""
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
    head = memoryview(bytearray(_HEAD.size))
    buffer = memoryview(bytearray(1 << 16))
    try:
        while receive_exactly(sock, head):
            length, letter = _HEAD.unpack(head)
            length -= 1
            if length > len(buffer):
                buffer = memoryview(bytearray(length))
            rest = buffer[:length]
            if not receive_exactly(sock, rest):
                return
            if letter == b"W":
                written = os.write(file, rest)
                assert written == length
                if syncs:
                    os.fdatasync(file)
                sock.sendall(REPLY)
            else:
                offset, count = _READ.unpack(rest)
                sock.sendall(os.pread(file, count, offset))
    finally:
        os.close(file)
        sock.close()


def main() -> None:
    """Accept until killed."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        print(f"listening kafka://127.0.0.1:{listener.getsockname()[1]}", flush=True)
        while True:
            sock, _ = listener.accept()
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            serve(sock, sys.argv[1], syncs="--sync" in sys.argv)


if __name__ == "__main__":
    main()
