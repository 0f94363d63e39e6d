"""Exit codes of the client commands; those of `serve` differ in 3 only, a forced stop."""

from __future__ import annotations

#: What was asked for is done.
EXIT_DONE = 0
#: The operation failed, or found damage; the reason is on stderr, with Kafka's name for the error.
EXIT_FAILED = 1
#: The arguments or the configuration make no sense; nothing was done.
EXIT_USAGE = 2
#: No broker answers, or the cluster is not healthy.
EXIT_UNREACHABLE = 4
#: SIGINT (128 and the number of the signal, as shells have it).
EXIT_INTERRUPTED = 130
#: Whoever read our output has gone (128 + SIGPIPE, as of other programs in a pipe).
EXIT_BROKEN_PIPE = 141
#: SIGTERM.
EXIT_TERMINATED = 143


class ReaderGone(Exception):
    """Whoever read our output has gone, which is the end of the command and no failure of it.

    Not a BrokenPipeError, of which click has an opinion of its own.
    """
