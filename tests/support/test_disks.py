"""The power-cut rig against a writer of a few lines: it loses what was not synced, nothing else."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.disks import LoopDisk, loop_disk
from tests.support.requirements import require_loop_disks

LINES = 200

# Appends numbered lines, says on stdout which ones it considers safe, then waits to be killed.
WRITER = """
import os, sys
path, mode, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
if mode == "synced":
    os.fsync(file)
    directory = os.open(os.path.dirname(path), os.O_RDONLY)
    os.fsync(directory)
for number in range(count):
    os.write(file, b"%d\\n" % number)
    if mode == "synced":
        os.fdatasync(file)
    print(number, flush=True)
sys.stdin.read()
"""


def write_then_cut(disk: LoopDisk, mode: str) -> tuple[list[int], list[int]]:
    """Return the lines that the writer promised, and those there after the power came back."""
    path = disk.mount_point / f"{mode}.txt"
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path), mode, str(LINES)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert writer.stdin is not None
    assert writer.stdout is not None
    promised = [int(writer.stdout.readline()) for _ in range(LINES)]
    disk.cut_power()
    writer.kill()
    writer.wait()
    writer.stdin.close()
    writer.stdout.close()
    disk.remount()
    survived = path.read_text().split() if path.exists() else []
    return promised, [int(number) for number in survived]


def test_power_cut_loses_what_was_not_synced_and_keeps_what_was(tmp_path: Path) -> None:
    require_loop_disks("the power-cut rig itself")
    with loop_disk(tmp_path, size_bytes=64 << 20) as disk:
        promised, survived = write_then_cut(disk, "synced")
        assert survived == promised
        promised, survived = write_then_cut(disk, "unsynced")
        assert len(promised) == LINES
        assert survived == []


def test_power_cut_empties_a_file_renamed_without_sync(tmp_path: Path) -> None:
    require_loop_disks("the power-cut rig itself")
    with loop_disk(tmp_path, size_bytes=64 << 20) as disk:
        (disk.mount_point / "kept").write_text("before")
        disk.remount()
        temporary = disk.mount_point / "kept.tmp"
        temporary.write_text("after")
        temporary.rename(disk.mount_point / "kept")
        disk.cut_power()
        disk.remount()
        assert (disk.mount_point / "kept").read_text() in {"", "before"}


def test_a_frozen_disk_blocks_its_writer_and_no_other(tmp_path: Path) -> None:
    require_loop_disks("the frozen-disk rig itself")
    with loop_disk(tmp_path, size_bytes=64 << 20) as disk:
        frozen_path = disk.mount_point / "frozen.txt"
        other_path = tmp_path / "other.txt"
        frozen_path.touch()
        with disk.frozen():
            stuck = subprocess.Popen(
                [sys.executable, "-c", WRITER, str(frozen_path), "unsynced", "1"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
            )
            free = subprocess.run(
                [sys.executable, "-c", WRITER, str(other_path), "synced", "1"],
                input=b"",
                capture_output=True,
                check=True,
            )
            assert free.stdout == b"0\n"
            with pytest.raises(subprocess.TimeoutExpired):
                stuck.wait(0.5)
            assert frozen_path.stat().st_size == 0
        output, _ = stuck.communicate()
        assert output == b"0\n"
        assert frozen_path.read_text() == "0\n"
