"""Each house rule finds the mistakes it is there for, and lets honest code pass."""

from __future__ import annotations

import textwrap

import pytest

from tests.tidy.rules import RULES, source_of

MISTAKES = [
    ("tasks", "storage/log.py", "async def f():\n    async with trio.open_nursery() as n: pass"),
    ("tasks", "storage/log.py", "def f(nursery):\n    nursery.start_soon(g)"),
    ("tasks", "client/x.py", "async def f(self):\n    await self.nursery.start(g)"),
    ("tasks", "cluster/x.py", "async def f():\n    await trio_util.wait_any(g)"),
    ("machine", "storage/log.py", "import time"),
    ("machine", "wire/frames.py", "from random import Random"),
    ("machine", "broker/x.py", "import threading"),
    ("machine", "broker/x.py", "from pathlib import Path"),
    ("machine", "storage/log.py", "with open('x') as file: pass"),
    ("machine", "storage/log.py", "import os\nos.unlink('x')"),
    ("machine", "storage/log.py", "import os\nos.path.exists('x')"),
    ("machine", "storage/log.py", "from os import unlink"),
    ("machine", "storage/log.py", "from os.path import exists"),
    ("machine", "broker/x.py", "from datetime import datetime\ndatetime.now()"),
    ("machine", "broker/x.py", "async def f():\n    await trio.to_thread.run_sync(g)"),
    ("machine", "metadata/x.py", "import uuid\nuuid.uuid4()"),
    ("machine", "client/x.py", "async def f():\n    await trio.open_tcp_stream('h', 1)"),
    ("shields", "broker/x.py", "scope = trio.CancelScope(shield=True)"),
    ("shields", "broker/x.py", "scope = trio.CancelScope(shield=True, deadline=math.inf)"),
    ("shields", "broker/x.py", "with trio.move_on_after(math.inf, shield=True): pass"),
    ("shields", "broker/x.py", "scope.shield = True"),
    ("catch_alls", "broker/x.py", "try:\n    f()\nexcept Exception:\n    g()"),
    ("catch_alls", "broker/x.py", "try:\n    f()\nexcept* Exception:\n    g()"),
    ("catch_alls", "broker/x.py", "try:\n    f()\nexcept:\n    raise"),
    ("catch_alls", "broker/x.py", "try:\n    f()\nexcept (OSError, BaseException):\n    g()"),
    ("catch_alls", "broker/x.py", "with contextlib.suppress(Exception): f()"),
    ("root_imports", "storage/x.py", "from trio_broker import BrokerConfig"),
    ("sizes", "broker/x.py", "x = 1\n" * 600),
    ("sizes", "broker/x.py", "def f():\n" + "    x = 1\n" * 70),
]

HONEST = [
    ("tasks", "broker/x.py", "async def f():\n    async with trio.open_nursery() as n: pass"),
    ("tasks", "client/scope.py", "async def f():\n    async with trio.open_nursery() as n: pass"),
    ("tasks", "host/x.py", "def f():\n    thread.start()"),
    ("machine", "host/x.py", "import time\ntime.time()"),
    ("machine", "wire/x.py", "if TYPE_CHECKING:\n    import random"),
    ("machine", "storage/x.py", "import os.path\nos.path.join('a', 'b')"),
    ("machine", "storage/x.py", "fs.open('path', 'owner')"),
    ("machine", "broker/x.py", "import os\nos._exit(3)"),
    ("machine", "cli/x.py", "import tempfile"),
    ("shields", "broker/x.py", "scope = trio.CancelScope(shield=True, deadline=deadline)"),
    ("shields", "broker/x.py", "with trio.move_on_after(5, shield=True): pass"),
    ("shields", "broker/x.py", "# stop() sets the deadline\nscope.shield = True"),
    ("catch_alls", "broker/supervise.py", "try:\n    f()\nexcept* Exception:\n    g()"),
    ("catch_alls", "broker/x.py", "try:\n    f()\nexcept BaseException:\n    g()\n    raise"),
    ("catch_alls", "broker/x.py", "try:\n    f()\nexcept OSError:\n    g()"),
    ("root_imports", "client/x.py", "from trio_broker import __version__"),
    ("sizes", "broker/x.py", 'def f():\n    """' + "x\n" * 80 + '    """'),
]


@pytest.mark.parametrize("rule,module,text", MISTAKES)
def test_mistake_is_found(rule: str, module: str, text: str) -> None:
    assert list(RULES[rule](source_of(module, textwrap.dedent(text))))


@pytest.mark.parametrize("rule,module,text", HONEST)
def test_honest_code_passes(rule: str, module: str, text: str) -> None:
    assert list(RULES[rule](source_of(module, textwrap.dedent(text)))) == []
