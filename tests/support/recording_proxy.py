"""A TCP proxy that remembers what clients send, to compare it with what reaches the disk."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator

import attrs

_CHUNK_BYTES = 1 << 18


@attrs.define
class RecordingProxy:
    """Forwards every connection to one server.

    Attributes:
        port: where it listens on 127.0.0.1.
        target: where it forwards to; set before the first client connects.
    """

    port: int
    target: tuple[str, int] | None = None
    _streams: list[bytearray] = attrs.field(factory=list)

    def has_seen(self, data: bytes) -> bool:
        """Say whether some client sent these bytes in one piece."""
        return any(data in stream for stream in self._streams)

    def serve(self, listener: socket.socket) -> None:
        """Accept until the listener is closed."""
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            assert self.target is not None
            server = socket.create_connection(self.target)
            sent = bytearray()
            self._streams.append(sent)
            for source, sink, record in ((client, server, sent), (server, client, None)):
                pump = threading.Thread(target=_pump, args=(source, sink, record), daemon=True)
                pump.start()


def _pump(source: socket.socket, sink: socket.socket, record: bytearray | None) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(_CHUNK_BYTES):
            if record is not None:
                record += data
            sink.sendall(data)
    for sock in (source, sink):
        with contextlib.suppress(OSError):
            sock.shutdown(socket.SHUT_RDWR)
        sock.close()


@contextlib.contextmanager
def recording_proxy() -> Iterator[RecordingProxy]:
    """Run a proxy for the length of the block; tell it its target before using it."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        proxy = RecordingProxy(listener.getsockname()[1])
        thread = threading.Thread(target=proxy.serve, args=(listener,), daemon=True)
        thread.start()
        yield proxy
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()
