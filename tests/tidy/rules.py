"""The house rules that no off-the-shelf linter knows, each a function from source to faults.

A rule gets one parsed file of the package and yields ``(line, sentence)``. `test_rules.py` shows
each rule a planted mistake; `test_tree.py` applies all of them to the package.
"""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

Faults: TypeAlias = "Iterator[tuple[int, str]]"

FILE_LINES_MAX = 600
FUNCTION_LINES_MAX = 70


class Source(NamedTuple):
    """One file of the package; `module` is its path below the package, ``storage/log.py``."""

    module: str
    text: str
    tree: ast.Module

    @property
    def folder(self) -> str:
        """First part of the path, or the file name for a file at the top."""
        return self.module.partition("/")[0]


def source_of(module: str, text: str) -> Source:
    """Parse one file."""
    return Source(module, text, ast.parse(text))


def dotted(node: ast.expr) -> str:
    """Return ``a.b.c`` for such an expression, with '?' for parts that are not names."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return "?"


def runtime_nodes(tree: ast.AST) -> Iterator[ast.AST]:
    """Walk a tree without what stands under ``if TYPE_CHECKING``."""
    waiting = [tree]
    while waiting:
        node = waiting.pop()
        yield node
        if isinstance(node, ast.If) and dotted(node.test).endswith("TYPE_CHECKING"):
            waiting.extend(node.orelse)
        else:
            waiting.extend(ast.iter_child_nodes(node))


# --- sizes ---------------------------------------------------------------------------------------
def sizes(source: Source) -> Faults:
    """Files and functions stay small enough to be read in one go; docstrings do not count."""
    line_count = source.text.count("\n")
    if line_count >= FILE_LINES_MAX:
        yield line_count, f"file has {line_count} lines, fewer than {FILE_LINES_MAX} are allowed"
    for node in ast.walk(source.tree):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        lines = (node.end_lineno or node.lineno) - node.lineno + 1
        first = node.body[0]
        if ast.get_docstring(node, clean=False) is not None:
            lines -= (first.end_lineno or first.lineno) - first.lineno + 1
        if lines >= FUNCTION_LINES_MAX:
            yield (
                node.lineno,
                f"{node.name} has {lines} lines, fewer than {FUNCTION_LINES_MAX} are allowed",
            )


# --- the task tree -------------------------------------------------------------------------------
TASK_FOLDERS = {"broker", "testing"}
#: A client's tasks are its users', not the broker's: all of them are started in this one file.
TASK_MODULES = {"client/scope.py"}
#: These open a nursery, or start a task, or (trio_util) do it inside.
TASK_CALLS = {
    "azip",
    "azip_longest",
    "iter_fail_after",
    "iter_move_on_after",
    "move_on_when",
    "open_nursery",
    "run_and_cancelling",
    "serve_listeners",
    "serve_tcp",
    "spawn_system_task",
    "start_soon",
    "wait_all",
    "wait_any",
}


def tasks(source: Source) -> Faults:
    """Only broker/ and testing/ open nurseries or start tasks, and the client in one file."""
    if source.folder in TASK_FOLDERS or source.module in TASK_MODULES:
        return
    for node in runtime_nodes(source.tree):
        if isinstance(node, ast.Call):
            name = dotted(node.func).rpartition(".")[2]
            if name in TASK_CALLS:
                yield node.lineno, f"{name} starts a task, which only broker/ and testing/ may do"
        if isinstance(node, ast.Await) and isinstance(node.value, ast.Call):
            name = dotted(node.value.func)
            if name.endswith("nursery.start"):
                yield node.lineno, "starts a task, which only broker/ and testing/ may do"


# --- the machine ---------------------------------------------------------------------------------
MACHINE_FOLDERS = {"host"}
#: Modules whose every use touches the machine, and the folders beside host/ that may.
MACHINE_MODULES: dict[str, set[str]] = {
    "_thread": set(),
    "asyncio": {"testing"},
    "concurrent": set(),
    "fcntl": set(),
    "fileinput": set(),
    "glob": {"cli"},
    "mmap": set(),
    "multiprocessing": set(),
    "psutil": set(),
    "queue": {"cli", "testing"},
    "random": {"testing"},
    "resource": set(),
    "secrets": set(),
    "select": {"cli"},
    "selectors": set(),
    "shutil": {"cli", "testing"},
    "signal": {"broker", "cli", "testing"},
    "socket": set(),
    "ssl": set(),
    "subprocess": {"testing"},
    "tempfile": {"cli", "testing"},
    "threading": {"cli", "testing"},
    "time": {"testing"},
}
#: Calls that touch the machine, by their last two names, and the folders beside host/ that may.
MACHINE_CALLS: dict[str, set[str]] = {
    "Path.cwd": {"cli"},
    "datetime.now": set(),
    "datetime.today": set(),
    "datetime.utcnow": set(),
    "date.today": set(),
    "input": set(),
    "io.open": {"cli"},
    "open": {"cli"},
    "trio.Path": set(),
    "trio.open_file": set(),
    "trio.open_process": set(),
    "trio.open_tcp_listeners": set(),
    "trio.open_tcp_stream": set(),
    "trio.open_unix_socket": set(),
    "trio.run_process": {"testing"},
    "trio.run": {"broker", "cli", "testing"},
    "uuid.uuid1": set(),
    "uuid.uuid4": set(),
    "uuid1": set(),
    "uuid4": set(),
    "lowlevel.wait_readable": {"cli"},
    "lowlevel.wait_writable": {"cli"},
}
#: Parts of os and pathlib that only compute; everything else of them touches the machine.
OS_THAT_ONLY_COMPUTES = {"PathLike", "fspath", "fsdecode", "fsencode", "strerror"}
OS_ALLOWED = {"broker": {"_exit", "getpid"}}
OS_PATH_THAT_ONLY_COMPUTES = {"basename", "dirname", "join", "split", "splitext", "normpath"}
FOLDERS_WITH_FILES = {"cli", "testing"}


def machine(source: Source) -> Faults:
    """No clock, randomness, file, socket or thread outside host/."""
    if source.folder in MACHINE_FOLDERS:
        return
    for node in runtime_nodes(source.tree):
        for name, line in imported_modules(node):
            top = name.partition(".")[0]
            if top in MACHINE_MODULES and source.folder not in MACHINE_MODULES[top]:
                yield line, f"import of {name}: only host/ touches the machine"
            if name == "pathlib.Path" and source.folder not in FOLDERS_WITH_FILES:
                yield line, f"import of {name}: only host/ touches the machine"
            if isinstance(node, ast.ImportFrom) and touches_machine(source, name):
                yield line, f"import of {name}: only host/ touches the machine"
        if isinstance(node, ast.Call):
            name = dotted(node.func)
            last_two = ".".join(name.split(".")[-2:])
            if source.folder not in MACHINE_CALLS.get(last_two, {source.folder}):
                yield node.lineno, f"{name}(): only host/ touches the machine"
        if isinstance(node, ast.Attribute) and touches_machine(source, dotted(node)):
            yield node.lineno, f"{dotted(node)}: only host/ touches the machine"


def touches_machine(source: Source, name: str) -> bool:
    """Tell whether a dotted name of os or trio does more than compute."""
    if source.folder in FOLDERS_WITH_FILES:
        return False
    parent, _, last = name.rpartition(".")
    if parent == "os":
        allowed = OS_THAT_ONLY_COMPUTES | OS_ALLOWED.get(source.folder, set())
        return last != "path" and last not in allowed
    if parent == "os.path":
        return last not in OS_PATH_THAT_ONLY_COMPUTES
    return name in {"trio.socket", "trio.to_thread", "trio.from_thread"}


def imported_modules(node: ast.AST) -> Iterator[tuple[str, int]]:
    """Yield what an import statement imports: modules, and ``module.name`` for each name."""
    if isinstance(node, ast.Import):
        for alias in node.names:
            yield alias.name, node.lineno
    elif isinstance(node, ast.ImportFrom) and node.module:
        for alias in node.names:
            yield f"{node.module}.{alias.name}", node.lineno


# --- shields -------------------------------------------------------------------------------------
SHIELDING_CALLS = {"CancelScope", "move_on_after", "move_on_at", "fail_after", "fail_at"}


def shields(source: Source) -> Faults:
    """Every shield has a deadline, given where it is made.

    A scope may be shielded later if a comment on that line or just above says which deadline
    ends it.
    """
    lines = source.text.splitlines()
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Call):
            name = dotted(node.func).rpartition(".")[2]
            keywords = {keyword.arg: keyword.value for keyword in node.keywords}
            shield = keywords.get("shield")
            if name not in SHIELDING_CALLS or shield is None:
                continue
            if is_false(shield):
                continue
            deadline = keywords.get("deadline", keywords.get("relative_deadline"))
            if name == "CancelScope" and (deadline is None or is_infinite(deadline)):
                yield node.lineno, "a shield without a deadline can hang for ever"
            if name != "CancelScope" and node.args and is_infinite(node.args[0]):
                yield node.lineno, "a shield without a deadline can hang for ever"
        if isinstance(node, ast.Assign) and not is_false(node.value):
            for target in node.targets:
                if not isinstance(target, ast.Attribute) or target.attr != "shield":
                    continue
                comments = [line.partition("#")[2] for line in lines[node.lineno - 2 : node.lineno]]
                if not any("deadline" in comment for comment in comments):
                    yield node.lineno, "shield where the scope is made, with a deadline"


def is_false(node: ast.expr) -> bool:
    """Tell whether an expression is the constant False."""
    return isinstance(node, ast.Constant) and node.value is False


def is_infinite(node: ast.expr) -> bool:
    """Tell whether an expression is one of the ways to write infinity."""
    return dotted(node) in {"math.inf", "inf"} or ast.unparse(node) in {
        "float('inf')",
        "float('infinity')",
    }


# --- errors --------------------------------------------------------------------------------------
#: Where errors stop, and where the caller's own is kept aside to leave `open_broker` bare.
BOUNDARIES = {"broker/supervise.py", "broker/embed.py"}
CATCH_ALL = {"Exception", "BaseException", "BaseExceptionGroup", "ExceptionGroup"}


def catch_alls(source: Source) -> Faults:
    """Errors stop in broker/supervise.py only; elsewhere only expected ones are caught, by name."""
    if source.module in BOUNDARIES:
        return
    for node in ast.walk(source.tree):
        if isinstance(node, ast.ExceptHandler):
            names = caught_names(node)
            if not names & CATCH_ALL and names:
                continue
            raises = [part for part in ast.walk(node) if isinstance(part, ast.Raise)]
            if names and "Exception" not in names and "ExceptionGroup" not in names and raises:
                continue  # cleans up and lets it pass, or unwraps a group
            yield node.lineno, f"catches {', '.join(sorted(names)) or 'everything'}: name the error"
        if isinstance(node, ast.Call) and dotted(node.func).endswith("suppress"):
            names = {dotted(argument).rpartition(".")[2] for argument in node.args}
            if names & CATCH_ALL:
                yield node.lineno, "suppresses every error: name the error"


def caught_names(handler: ast.ExceptHandler) -> set[str]:
    """Return the last names of the exception classes a handler lists; empty for a bare except."""
    if handler.type is None:
        return set()
    kinds = handler.type.elts if isinstance(handler.type, ast.Tuple) else [handler.type]
    return {dotted(kind).rpartition(".")[2] for kind in kinds}


# --- the root package ----------------------------------------------------------------------------
def root_imports(source: Source) -> Faults:
    """Inside the package names come from where they are defined, not from the lazy root."""
    for node in ast.walk(source.tree):
        if isinstance(node, ast.ImportFrom) and node.module == "trio_broker":
            for alias in node.names:
                if alias.name != "__version__":
                    yield node.lineno, f"import {alias.name} from the module that defines it"


RULES: dict[str, Callable[[Source], Faults]] = {
    "sizes": sizes,
    "tasks": tasks,
    "machine": machine,
    "shields": shields,
    "catch_alls": catch_alls,
    "root_imports": root_imports,
}
