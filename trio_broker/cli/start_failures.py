"""Why a broker did not start, in words, and what to do about it. Called by `commands`."""

from __future__ import annotations

import errno
import os

from trio_broker.errors import (
    AppendFailed,
    CorruptLog,
    CorruptMetadata,
    FormatTooNew,
    LogDirInUse,
    SyncFailed,
)

#: Said when nothing better is known.
_LOOK = "`trio-broker doctor` with the same options looks for the cause."
_BY_ERRNO = {
    errno.EADDRINUSE: (
        "Another program listens there. Stop it, or take another port with --listen or --http."
    ),
    errno.EADDRNOTAVAIL: (
        "--listen and --http take addresses of this machine; what clients are told is --advertise."
    ),
    errno.EMFILE: "Allow this process more files: `ulimit -n`, or LimitNOFILE= of systemd.",
    errno.ENOSPC: "Make room on that disk, or name another directory with --data-dir.",
    errno.EROFS: (
        "That place can only be read. Mount it anew, or name another with --data-dir or log_dirs. "
        "For a service of systemd (ProtectSystem=strict) ReadWritePaths= opens it."
    ),
}
#: The path leads nowhere, or this user may not go there. EACCES is also said of ports below 1024.
_NOT_FOR_US = {errno.EACCES, errno.EPERM, errno.ENOENT, errno.ENOTDIR, errno.EEXIST, errno.EISDIR}


def text_of_failure(error: Exception) -> str:
    """Return the reason without Python's number of the error."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return str(error)


def _user() -> str:
    """Return the user's number: volumes of containers often belong to another one."""
    return f" (uid {os.geteuid()})" if hasattr(os, "geteuid") else ""


def hint_for(error: Exception) -> str:
    """Return what to do next, in a sentence or two."""
    if isinstance(error, LogDirInUse):
        return "Stop the broker that has it, or name another directory with --data-dir."
    if isinstance(error, FormatTooNew):
        return "Install the version that wrote it, or a newer one."
    if isinstance(error, CorruptLog | CorruptMetadata):
        return "`trio-broker log verify DIRECTORY` shows what is damaged and where."
    if isinstance(error, OSError):
        if error.errno in _NOT_FOR_US:
            if error.filename and os.path.islink(error.filename):
                return (
                    "That is a symbolic link, which does not lock what it points to: name the "
                    "directory itself."
                )
            if error.filename:
                return (
                    f"Name a directory that this user{_user()} can make and write to, or give it "
                    f"to that user. {_LOOK}"
                )
            return f"Ports below 1024 need privileges; take a higher one with --listen. {_LOOK}"
        return _BY_ERRNO.get(error.errno or 0, _LOOK)
    if isinstance(error, SyncFailed | AppendFailed):
        return _BY_ERRNO.get(error.errno, _LOOK)
    return _LOOK
