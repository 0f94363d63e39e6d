"""Run `trio-broker serve` as a child process, the way an operator runs it.

Everything here sees the server from outside: its command line, its one line on stdout, its
signals, its exit code, its files. Nothing of the broker is imported.
"""

from __future__ import annotations

import os
import selectors
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import attrs

from tests.support import processes
from tests.support.waiting import wait_until

ROOT = Path(__file__).resolve().parent.parent.parent

#: The server as everybody starts it.
SERVE = (sys.executable, "-m", "trio_broker")
#: The same server, in which tests plant faults.
SERVE_PLANTED = (sys.executable, "-m", "tests.support.planted")
#: The same server with fsync and fdatasync doing nothing: what the power-cut rig has to catch.
SERVE_WITHOUT_FSYNC = (sys.executable, "-m", "tests.support.without_fsync")

START_SECONDS = 30.0
STOP_SECONDS = 40.0
_LISTENING = "listening kafka://"
_STDERR_TAIL_BYTES = 4000


class ServerFailed(AssertionError):
    """The server did not start, or did not stop as it should; carries the end of its stderr."""


def free_port() -> int:
    """Return a port of 127.0.0.1 that was free a moment ago, for servers that must come back."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


@attrs.define
class Server:
    """A running server process.

    Attributes:
        host: address it listens on, from its own line on stdout.
        port: port it listens on.
        data_dir: its ``--data-dir``.
        stderr_path: where its log goes.
        process: the child; its own process group.
        started_seconds: from starting the process to its ``listening`` line.
    """

    host: str
    port: int
    data_dir: Path
    stderr_path: Path
    process: subprocess.Popen[bytes]
    started_seconds: float

    @property
    def bootstrap(self) -> str:
        """Return ``host:port`` as clients want it."""
        return f"{self.host}:{self.port}"

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def is_running(self) -> bool:
        return self.process.poll() is None

    def stderr(self) -> str:
        """Return everything it has logged."""
        return self.stderr_path.read_text(errors="replace")

    def usage(self) -> processes.Usage:
        """Read its CPU time, memory and descriptors."""
        return processes.usage(self.pid)

    def terminate(self) -> None:
        """Ask it to stop in order (SIGTERM) and return at once."""
        self.process.send_signal(signal.SIGTERM)

    def wait(self, *, seconds: float = STOP_SECONDS) -> int:
        """Wait for its end and return the exit code.

        Raises:
            ServerFailed: it was still running after `seconds`; it is killed then.
        """
        try:
            code = self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            raise ServerFailed(f"still running after {seconds:g} s\n{self._tail()}") from None
        self._close()
        return code

    def stop(self, *, seconds: float = STOP_SECONDS) -> int:
        """Stop it in order and return the exit code."""
        if self.is_running:
            self.terminate()
        return self.wait(seconds=seconds)

    def kill(self) -> None:
        """End it as a crash would (SIGKILL to its process group), and reap it."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(STOP_SECONDS)
        self._close()

    def halt(self) -> None:
        """Stop its CPU, so to speak: when this returns, no thread of it runs code of its own.

        A thread inside a system call may finish that call, but will not learn of it.
        """
        os.killpg(self.process.pid, signal.SIGSTOP)
        wait_until(
            lambda: processes.is_halted(self.process.pid),
            seconds=STOP_SECONDS,
            what="SIGSTOP to reach every thread",
        )

    def check_alive(self) -> None:
        """Raise `ServerFailed` if it has ended."""
        if (code := self.process.poll()) is not None:
            raise ServerFailed(f"ended by itself with {code}\n{self._tail()}")

    def _tail(self) -> str:
        return stderr_tail(self.stderr_path)

    def _close(self) -> None:
        if self.process.stdout is not None:
            self.process.stdout.close()


def stderr_tail(path: Path) -> str:
    """Return the last lines of a log file, headed by its name."""
    if not path.exists():
        return f"(no {path})"
    text = path.read_bytes()[-_STDERR_TAIL_BYTES:].decode(errors="replace")
    return f"--- end of {path} ---\n{text}"


def start_server(
    data_dir: Path,
    *,
    listen: str = "127.0.0.1:0",
    settings: Mapping[str, object] | None = None,
    options: Sequence[str] = (),
    command: Sequence[str] = SERVE,
    cpus: Sequence[int] | None = None,
    descriptors_max: int | None = None,
    stderr_path: Path | None = None,
    environment: Mapping[str, str] | None = None,
    start_seconds: float = START_SECONDS,
) -> Server:
    """Start a server and wait until it says where it listens.

    Args:
        data_dir: its ``--data-dir``.
        listen: its ``--listen``.
        settings: ``-X key=value`` pairs.
        options: further command-line options, such as ``--advertise``.
        command: the program up to its subcommand.
        cpus: CPUs it may run on.
        descriptors_max: its RLIMIT_NOFILE.
        stderr_path: where its log is appended; by default ``<data_dir>.stderr`` beside that.
        environment: variables on top of this process's own.
        start_seconds: how long it may take.

    Raises:
        ServerFailed: it ended or kept silent.
    """
    stderr_path = stderr_path or data_dir.with_name(data_dir.name + ".stderr")
    arguments = [*command, "serve", "--data-dir", str(data_dir), "--listen", listen]
    arguments += ["--http", "off"]  # else several servers would meet at one port
    for key, value in (settings or {}).items():
        arguments += ["-X", f"{key}={value}"]
    arguments += options
    began = time.perf_counter()
    with stderr_path.open("ab") as stderr:
        process = subprocess.Popen(
            arguments,
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=stderr,
            env={**os.environ, **(environment or {})},
            start_new_session=True,
        )
    if cpus is not None:
        os.sched_setaffinity(process.pid, cpus)
    if descriptors_max is not None:
        # Imported here: the module does not exist on every system that runs the other tests.
        import resource

        limits = (descriptors_max, descriptors_max)
        resource.prlimit(process.pid, resource.RLIMIT_NOFILE, limits)
    assert process.stdout is not None
    line = _first_line(process.stdout, began + start_seconds)
    took = time.perf_counter() - began
    if line is None or not line.startswith(_LISTENING):
        code = process.poll()
        if code is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        process.stdout.close()
        said = "nothing" if line is None else repr(line)
        raise ServerFailed(
            f"{' '.join(arguments)}\nsaid {said} within {start_seconds:g} s, exit code {code}\n"
            + stderr_tail(stderr_path)
        )
    host, _, port = line.removeprefix(_LISTENING).strip().rpartition(":")
    return Server(
        host=host,
        port=int(port),
        data_dir=data_dir,
        stderr_path=stderr_path,
        process=process,
        started_seconds=took,
    )


@contextmanager
def running_server(data_dir: Path, **keywords: object) -> Iterator[Server]:
    """Run a server for the length of a ``with`` block (keywords: see `start_server`).

    It is stopped with SIGTERM at the end and must exit with 0, unless the block has stopped or
    killed it already. If the block raises, the server is killed and the error goes on alone.
    """
    server = start_server(data_dir, **keywords)  # type: ignore[arg-type]
    try:
        yield server
    except BaseException:
        server.kill()
        sys.stderr.write(stderr_tail(server.stderr_path))
        raise
    if server.process.returncode is None:
        code = server.stop()
        if code != 0:
            raise ServerFailed(f"stopped with exit code {code}\n{stderr_tail(server.stderr_path)}")


def _first_line(pipe: IO[bytes], deadline: float) -> str | None:
    """Read one line, or return None when the pipe ends or the deadline passes."""
    received = b""
    with selectors.DefaultSelector() as selector:
        selector.register(pipe, selectors.EVENT_READ)
        while b"\n" not in received:
            if not selector.select(max(0.0, deadline - time.perf_counter())):
                return None
            chunk = os.read(pipe.fileno(), 4096)
            if not chunk:
                return None
            received += chunk
    return received.partition(b"\n")[0].decode()
