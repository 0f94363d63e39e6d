"""What every test gets: a seed that is printed and can be given again, and a look for leaks.

Tests take the `seed` fixture where they need randomness; Hypothesis draws from the same seed. After
each test every file and socket opened during it must be closed again, because an endless trickle
of descriptors is the fault that a broker's users notice last.
"""

from __future__ import annotations

import gc
import os
import random
import stat
import subprocess
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import hypothesis
import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

# Helpers that assert, before any test module imports them.
pytest.register_assert_rewrite("tests.broker.harness", "tests.group.harness")

pytest_plugins = ["pytester"]

SEED = pytest.StashKey[int]()

# Shared machines pause for longer than Hypothesis' default deadline of 200 ms.
hypothesis.settings.register_profile("trio-broker", deadline=None, print_blob=True)
hypothesis.settings.load_profile("trio-broker")


def pytest_addoption(parser: pytest.Parser, pluginmanager: pytest.PytestPluginManager) -> None:
    """Add our options."""
    if not pluginmanager.has_plugin("trio_broker"):
        # Installed with -e before the package had a plugin, so that pytest does not know of it.
        pluginmanager.import_plugin("trio_broker.testing.pytest_plugin")
    parser.addoption("--seed", type=int, default=None, help="repeat the run that printed this seed")


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Settle the seed of the run before anything draws from it."""
    seed = config.getoption("--seed")
    if seed is None:
        seed = _seed_of_this_tree() if os.environ.get("CI") else None
    if seed is None:
        seed = random.SystemRandom().randrange(2**32)
    config.stash[SEED] = seed
    if config.getoption("--hypothesis-seed", default=None) is None:
        config.option.hypothesis_seed = str(seed)


def _seed_of_this_tree() -> int | None:
    """Derive a seed from what is checked out, so that CI tries new ones with every commit.

    What fails there fails for whoever checks the commit out, and a second try is no way around it.
    None outside of a git checkout.
    """
    command = ["git", "rev-parse", "HEAD^{tree}"]
    try:
        ended = subprocess.run(
            command, cwd=Path(__file__).parent, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return int(ended.stdout[:8], 16)


def pytest_report_header(config: pytest.Config) -> str:
    """Say how to repeat the run."""
    return f"seed: {config.stash[SEED]} (repeat with --seed {config.stash[SEED]})"


@pytest.fixture
def seed(request: pytest.FixtureRequest) -> int:
    """A number of this test's own, derived from the seed of the run."""
    return zlib.crc32(request.node.nodeid.encode(), request.config.stash[SEED]) & 0xFFFFFFFF


class Descriptor(NamedTuple):
    """An open file, directory or socket of this process."""

    number: int
    kind: str
    device: int
    inode: int


def open_descriptors() -> set[Descriptor]:
    """Return the files, directories and sockets open now; pipes and devices are not looked at."""
    directory = "/proc/self/fd" if Path("/proc/self/fd").is_dir() else "/dev/fd"
    found = set()
    for name in os.listdir(directory):
        try:
            status = os.fstat(int(name))
        except OSError:
            continue  # the descriptor of the listing itself
        if stat.S_ISREG(status.st_mode):
            kind = "file"
        elif stat.S_ISDIR(status.st_mode):
            kind = "directory"
        elif stat.S_ISSOCK(status.st_mode):
            kind = "socket"
        else:
            continue
        found.add(Descriptor(int(name), kind, status.st_dev, status.st_ino))
    return found


def describe(descriptor: Descriptor) -> str:
    """Say what a descriptor is, with its path where the system tells."""
    try:
        target = os.readlink(f"/proc/self/fd/{descriptor.number}")
    except OSError:
        target = f"inode {descriptor.inode}"
    return f"{descriptor.kind} {descriptor.number} -> {target}"


@pytest.fixture(autouse=True)
def _no_descriptor_leaks(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail a test that leaves files or sockets open."""
    if request.node.get_closest_marker("foreign_descriptors"):
        yield
        return
    before = open_descriptors()
    yield
    leaked = open_descriptors() - before
    if leaked:
        # What only waits for the collector has raised a ResourceWarning by then, which is an
        # error of its own; what is still open after that is held by somebody.
        gc.collect()
        leaked = open_descriptors() - before
    if leaked:
        pytest.fail("left open: " + ", ".join(sorted(describe(item) for item in leaked)))
