"""Spare descriptors: what still opens when the process has no other, and that they come back."""

from __future__ import annotations

import errno
import os
import resource
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

import pytest

from trio_broker.host.file_system import RealFileSystem
from trio_broker.host.spares import SpareDescriptors

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def open_numbers() -> set[int]:
    """Return the descriptors open now, but for that of the listing."""
    numbers = set()
    for name in os.listdir("/dev/fd"):
        try:
            os.fstat(int(name))
        except OSError:
            continue
        numbers.add(int(name))
    return numbers


@contextmanager
def no_descriptor_left() -> Iterator[list[int]]:
    """Use up all descriptors for the length of a block; gives those that were taken."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    hogs: list[int] = []
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(open_numbers()) + 3, hard))
    try:
        while True:
            try:
                hogs.append(os.open(os.devnull, os.O_RDONLY))
            except OSError:
                break
        yield hogs
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for hog in hogs:
            os.close(hog)


def test_files_and_directories_still_open_one_at_a_time(tmp_path: Path) -> None:
    fs = RealFileSystem()
    directory = str(tmp_path)
    before = open_numbers()
    with fs.spare_descriptors(2), no_descriptor_left():
        for number in range(20):
            file = fs.open(f"{directory}/{number}", "test", create=True)
            assert file.is_spare
            file.write_at(0, [b"works"])
            fs.sync_directory(directory)  # the second one
            file.close()
        assert len(fs.list_directory(directory)) == 20
        with pytest.raises(OSError, match="Too many open files"):
            os.open(os.devnull, os.O_RDONLY)
        with pytest.raises(FileNotFoundError):
            fs.open(f"{directory}/nothing", "test")
        assert fs.open(f"{directory}/0", "test").size == 5
        assert [file.size_bytes for file in fs.open_files()] == [5]
    for file in list(fs._ledger.files()):
        file.close()
    assert open_numbers() == before


def test_more_at_a_time_than_there_are_is_an_error_of_that_open_only(tmp_path: Path) -> None:
    fs = RealFileSystem()
    path = str(tmp_path / "file")
    before = open_numbers()
    with ExitStack() as stack:
        stack.enter_context(fs.spare_descriptors(3))
        stack.enter_context(no_descriptor_left())
        files = [fs.open(path, "test", create=True) for _ in range(3)]
        with pytest.raises(OSError, match="Too many open files") as failure:
            fs.open(path, "test")
        assert failure.value.errno == errno.EMFILE
        with pytest.raises(OSError, match="Too many open files"):
            fs.list_directory(str(tmp_path))
        for file in reversed(files):
            file.close()
        files = [fs.open(path, "test") for _ in range(3)]
        for file in files:
            file.close()
    assert open_numbers() == before


def test_what_could_not_be_held_at_first_is_held_later(tmp_path: Path) -> None:
    spares = SpareDescriptors()
    before = open_numbers()
    with no_descriptor_left() as hogs:
        with spares.hold(2):
            assert spares.held_count == 0
            for _ in range(3):
                os.close(hogs.pop())
            assert spares.held_count == 0
            spares.close(spares.open(os.devnull, os.O_RDONLY))
            assert spares.held_count == 2
            # Somebody else takes a number that was given up: the next one serves.
            hogs.append(os.open(os.devnull, os.O_RDONLY))
            opened = spares.open(os.devnull, os.O_RDONLY)
            assert opened.is_spare
            assert (spares.held_count, spares.lent_count) == (1, 1)
            spares.close(opened)
            assert (spares.held_count, spares.lent_count) == (2, 0)
        assert spares.held_count == 0
    assert open_numbers() == before


def test_a_spare_one_is_taken_back_even_if_its_number_is_above_the_limit(tmp_path: Path) -> None:
    spares = SpareDescriptors()
    before = open_numbers()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with spares.hold(2), no_descriptor_left():
        opened = spares.open(os.devnull, os.O_RDONLY)
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
        spares.close(opened)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert opened.number not in open_numbers() or spares.held_count == 2
        spares.close(spares.open(os.devnull, os.O_RDONLY))
        assert spares.held_count == 2
    assert open_numbers() == before


def test_a_number_that_somebody_else_has_caught_comes_back_with_the_next_file(
    tmp_path: Path,
) -> None:
    fs = RealFileSystem()
    path = str(tmp_path / "file")
    with fs.spare_descriptors(1), no_descriptor_left() as hogs:
        spares = fs._spares
        # What a thread does that opens a file between the two steps of a call with a spare one.
        os.close(spares._numbers.pop())
        caught = fs.open(path, "test", create=True)
        assert caught.is_spare
        caught.close()
        assert spares.held_count == 1
        os.close(hogs.pop())
        file = fs.open(path, "test")
        assert not file.is_spare
        file.close()


def test_a_number_is_not_taken_back_with_what_another_thread_has_opened_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spares = SpareDescriptors()
    strangers: list[int] = []
    dup2 = os.dup2

    def late(source: int, target: int, *, inheritable: bool = True) -> int:
        """Another thread makes a call with a spare descriptor, right before."""
        strangers.append(spares.open(str(tmp_path / "stranger"), os.O_RDWR | os.O_CREAT).number)
        return dup2(source, target, inheritable=inheritable)

    before = open_numbers()
    with spares.hold(3), no_descriptor_left():
        opened = spares.open(os.devnull, os.O_RDONLY)
        with monkeypatch.context() as patch:
            patch.setattr(os, "dup2", late)
            spares.close(opened)
        assert strangers
        assert len(spares._numbers) == len(set(spares._numbers)) == spares.held_count == 2
        for number in spares._numbers:
            assert os.fstat(number).st_rdev == os.stat(os.devnull).st_rdev
        os.close(strangers[0])
    assert open_numbers() == before
