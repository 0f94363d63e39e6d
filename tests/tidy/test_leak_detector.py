"""The look for leaked descriptors sees what it should: it guards every other test."""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING

from tests.conftest import describe, open_descriptors

if TYPE_CHECKING:
    from pathlib import Path


def test_an_open_file_is_seen(tmp_path: Path) -> None:
    before = open_descriptors()
    number = os.open(tmp_path / "left-open", os.O_CREAT | os.O_RDWR)
    leaked = open_descriptors() - before
    os.close(number)
    assert [item.number for item in leaked] == [number]
    assert open_descriptors() == before


def test_an_open_socket_is_seen() -> None:
    before = open_descriptors()
    with socket.socket():
        leaked = open_descriptors() - before
        assert [describe(item).split()[0] for item in leaked] == ["socket"]
    assert open_descriptors() == before


def test_a_number_used_again_is_still_seen(tmp_path: Path) -> None:
    """A descriptor that took the number of a closed one is not mistaken for it."""
    first = os.open(tmp_path / "first", os.O_CREAT | os.O_RDWR)
    before = open_descriptors()
    os.close(first)
    second = os.open(tmp_path / "second", os.O_CREAT | os.O_RDWR)
    leaked = open_descriptors() - before
    os.close(second)
    assert second == first
    assert len(leaked) == 1
