"""A disk about whose every write, flush and read a test decides.

A program of its own serves one file, ``disk``, through FUSE; a loop device over that file is the
disk. So the filesystem on it is the kernel's own, and what fails, fails as a drive would. Needs
root, /dev/fuse and loop devices.

What was written since the last flush is kept apart, as in the cache of a drive: `lose_power` drops
a drawn part of it, block by block, whatever the order was in which it came.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import random
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

BLOCK_BYTES = 4096
NAME = "disk"
_WRITE_BYTES_MAX = 128 << 10
_REQUEST_BYTES_MAX = _WRITE_BYTES_MAX + 8192

# linux/fuse.h
_HEAD_IN = struct.Struct("<IIQQIIIHH")
_HEAD_OUT = struct.Struct("<IiQ")
_LOOKUP, _FORGET, _GETATTR, _SETATTR, _OPEN, _READ, _WRITE = 1, 2, 3, 4, 14, 15, 16
_STATFS, _RELEASE, _FSYNC, _FLUSH, _INIT, _INTERRUPT = 17, 18, 20, 25, 26, 36
_BATCH_FORGET, _OPENDIR, _ACCESS = 42, 27, 34
_UNANSWERED = {_FORGET, _BATCH_FORGET, _INTERRUPT}
_ROOT, _FILE = 1, 2
_OPEN_DIRECT_IO = 1
_INIT_BIG_WRITES = 1 << 5
_READ_IN = struct.Struct("<QQI")  # of fuse_read_in and fuse_write_in: file handle, offset, size
_WRITE_HEAD_BYTES = 40


class Drive:
    """The drive: blocks that are safe, blocks in its cache, and what is to go wrong."""

    def __init__(self, image: Path, size_bytes: int) -> None:
        self.size_bytes = size_bytes
        self._image = os.open(image, os.O_RDWR | os.O_CREAT, 0o600)
        os.ftruncate(self._image, size_bytes)
        self._cached: dict[int, bytes] = {}
        self._known: set[int] = set()
        self._faults: dict[str, float] = {}
        self._may_go_on = threading.Event()
        self._may_go_on.set()
        self._lock = threading.Lock()
        self._random = random.Random(os.urandom(8))
        self.failed = dict.fromkeys(("read", "write", "new", "flush"), 0)

    def order(self, words: list[str]) -> str:
        """Obey one line of `FaultyDisk`."""
        match words:
            case ["fail", call, rate]:
                self._faults[call] = float(rate)
            case ["heal"]:
                self._faults.clear()
                self._may_go_on.set()
            case ["hang"]:
                self._may_go_on.clear()
            case ["go-on"]:
                self._may_go_on.set()
            case ["lose-power", rate]:
                return f"cached {self._lose_power(float(rate))}"
            case ["failed"]:
                return " ".join(f"{call} {count}" for call, count in self.failed.items())
        return "ok"

    def _lose_power(self, rate: float) -> int:
        with self._lock:
            for number, content in self._cached.items():
                if self._random.random() >= rate:
                    os.pwrite(self._image, content, number * BLOCK_BYTES)
            count = len(self._cached)
            self._cached.clear()
            self._faults.update(read=1.0, write=1.0, flush=1.0)
        self._may_go_on.set()
        return count

    def _fail_by_chance(self, call: str) -> None:
        if self._random.random() < self._faults.get(call, 0.0):
            self.failed[call] += 1
            raise OSError(errno.EIO, call)

    def read(self, offset: int, size: int) -> bytes:
        self._may_go_on.wait()
        with self._lock:
            self._fail_by_chance("read")
            return self._read(offset, size)

    def _read(self, offset: int, size: int) -> bytes:
        size = max(0, min(size, self.size_bytes - offset))
        first, last = offset // BLOCK_BYTES, -(-(offset + size) // BLOCK_BYTES)
        cached = self._cached
        if not any(number in cached for number in range(first, last)):
            return os.pread(self._image, size, offset)
        content = bytearray(
            os.pread(self._image, (last - first) * BLOCK_BYTES, first * BLOCK_BYTES)
        )
        for number in range(first, last):
            if number in cached:
                at = (number - first) * BLOCK_BYTES
                content[at : at + BLOCK_BYTES] = cached[number]
        skipped = offset - first * BLOCK_BYTES
        return bytes(content[skipped : skipped + size])

    def write(self, offset: int, data: bytes) -> int:
        self._may_go_on.wait()
        first = offset // BLOCK_BYTES
        last = -(-(offset + len(data)) // BLOCK_BYTES)
        with self._lock:
            self._fail_by_chance("write")
            if not self._known.issuperset(range(first, last)):
                self._fail_by_chance("new")
                self._known.update(range(first, last))
            whole = bytearray(self._read(first * BLOCK_BYTES, (last - first) * BLOCK_BYTES))
            skipped = offset - first * BLOCK_BYTES
            whole[skipped : skipped + len(data)] = data
            for number in range(first, last):
                at = (number - first) * BLOCK_BYTES
                self._cached[number] = bytes(whole[at : at + BLOCK_BYTES])
        return len(data)

    def flush(self) -> None:
        self._may_go_on.wait()
        with self._lock:
            self._fail_by_chance("flush")
            for number, content in self._cached.items():
                os.pwrite(self._image, content, number * BLOCK_BYTES)
            self._cached.clear()


class FuseServer:
    """Answers the kernel's questions about a directory with one file in it."""

    def __init__(self, drive: Drive, mount_point: str) -> None:
        self._drive = drive
        self._device = os.open("/dev/fuse", os.O_RDWR)
        options = f"fd={self._device},rootmode=40000,user_id=0,group_id=0"
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.mount(b"faulty", mount_point.encode(), b"fuse.faulty", 0, options.encode()):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), mount_point)

    def serve(self) -> None:
        """Answer until it is unmounted."""
        while True:
            try:
                request = os.read(self._device, _REQUEST_BYTES_MAX)
            except OSError as error:
                if error.errno == errno.ENODEV:
                    return
                if error.errno in {errno.ENOENT, errno.EINTR, errno.EAGAIN}:
                    continue
                raise
            _, opcode, unique, node, *_ = _HEAD_IN.unpack_from(request)
            if opcode in _UNANSWERED:
                continue
            error_number, answer = 0, b""
            try:
                answer = self._answer(opcode, node, request[_HEAD_IN.size :])
            except OSError as error:
                error_number = error.errno or errno.EIO
            head = _HEAD_OUT.pack(_HEAD_OUT.size + len(answer), -error_number, unique)
            with contextlib.suppress(FileNotFoundError):  # it was interrupted
                os.write(self._device, head + answer)

    def _answer(self, opcode: int, node: int, body: bytes) -> bytes:
        drive = self._drive
        match opcode:
            case n if n == _INIT:
                _, minor, readahead, _ = struct.unpack_from("<IIII", body)
                return struct.pack(
                    "<IIIIHHIIHHI28x", 7, min(minor, 31), readahead, _INIT_BIG_WRITES, 8, 6,
                    _WRITE_BYTES_MAX, 1, 0, 0, 0,
                )  # fmt: skip
            case n if n == _LOOKUP:
                if body.rstrip(b"\0").decode() != NAME:
                    raise OSError(errno.ENOENT, NAME)
                return struct.pack("<QQQQII", _FILE, 0, 3600, 3600, 0, 0) + self._attributes(_FILE)
            case n if n in {_GETATTR, _SETATTR}:
                return struct.pack("<QII", 3600, 0, 0) + self._attributes(node)
            case n if n == _OPEN:
                return struct.pack("<QII", 0, _OPEN_DIRECT_IO, 0)
            case n if n == _OPENDIR:
                return struct.pack("<QII", 0, 0, 0)
            case n if n == _READ:
                _, offset, size = _READ_IN.unpack_from(body)
                return drive.read(offset, size)
            case n if n == _WRITE:
                _, offset, size = _READ_IN.unpack_from(body)
                data = body[_WRITE_HEAD_BYTES : _WRITE_HEAD_BYTES + size]
                return struct.pack("<II", drive.write(offset, data), 0)
            case n if n == _FSYNC:
                drive.flush()
                return b""
            case n if n == _STATFS:
                return struct.pack("<QQQQQIII28x", 1 << 20, 1 << 19, 1 << 19, 9, 9, 4096, 255, 4096)
            case n if n in {_RELEASE, _FLUSH, _ACCESS}:
                return b""
        raise OSError(errno.ENOSYS, str(opcode))

    def _attributes(self, node: int) -> bytes:
        size = self._drive.size_bytes if node == _FILE else 0
        mode = 0o100600 if node == _FILE else 0o40700
        return struct.pack("<QQQ36xII12xI4x", node, size, size // 512, mode, 1, BLOCK_BYTES)


class FaultyDisk:
    """The other end: what a test tells the disk.

    Attributes:
        image: the file to put a loop device over.
    """

    def __init__(self, process: subprocess.Popen[str], image: Path) -> None:
        self._process = process
        self.image = image

    def _order(self, line: str) -> str:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline().strip()
        assert answer, f"the disk is gone, told to {line}"
        return answer

    def fail(self, call: str, rate: float = 1.0) -> None:
        """Let every ``read``, ``write`` or ``flush`` fail with EIO, or a share of them.

        ``new`` are writes where nothing was ever written, for which a thin disk needs more room.
        """
        self._order(f"fail {call} {rate}")

    def heal(self) -> None:
        """Let nothing fail or hang any more."""
        self._order("heal")

    def hang(self) -> None:
        """Answer nothing until `heal` or `go_on`."""
        self._order("hang")

    def go_on(self) -> None:
        """Answer again, calls that hang first; what is to fail goes on failing."""
        self._order("go-on")

    def lose_power(self, rate: float = 1.0) -> int:
        """Drop blocks that were not flushed, or a share of them; return how many there were.

        From then on everything fails until `heal`.
        """
        return int(self._order(f"lose-power {rate}").split()[1])

    def failed(self) -> dict[str, int]:
        """Return how many calls have failed."""
        words = self._order("failed").split()
        return {call: int(count) for call, count in zip(words[::2], words[1::2], strict=True)}


@contextmanager
def faulty_disk(directory: Path, *, size_bytes: int) -> Iterator[FaultyDisk]:
    """Run such a disk for the length of the block; nothing may use it any more when it ends."""
    mount_point = directory / "drive"
    mount_point.mkdir()
    process = subprocess.Popen(
        [sys.executable, "-m", __name__, str(directory / "drive.img"), str(size_bytes),
         str(mount_point)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        if process.stdout.readline() != "mounted\n":
            raise OSError("the faulty disk could not be mounted")
        yield FaultyDisk(process, mount_point / NAME)
    finally:
        subprocess.run(["umount", "--lazy", str(mount_point)], check=False, capture_output=True)
        process.kill()
        process.communicate()
        (directory / "drive.img").unlink(missing_ok=True)


def main() -> NoReturn:
    """Serve; orders come as lines on stdin, each answered by one on stdout."""
    image, size_bytes, mount_point = sys.argv[1:]
    drive = Drive(Path(image), int(size_bytes))
    server = FuseServer(drive, mount_point)
    print("mounted", flush=True)

    def obey() -> None:
        for line in sys.stdin:
            print(drive.order(line.split()), flush=True)

    threading.Thread(target=obey, daemon=True).start()
    server.serve()
    sys.exit(0)


if __name__ == "__main__":
    main()
