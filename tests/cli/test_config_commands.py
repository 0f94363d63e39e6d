"""``trio-broker config`` and ``serve -c``: what an operator sees."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import tomllib
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner, Result

from tests.support.server import SERVE
from trio_broker.cli.commands import command_line
from trio_broker.host.config_file import load_config
from trio_broker.settings.table import ENVIRONMENT_PREFIX, settings

if TYPE_CHECKING:
    from pathlib import Path

TOKEN = "a-token-of-some-length"


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever runs the tests may have variables of their own."""
    for name in list(os.environ):
        if name.startswith(ENVIRONMENT_PREFIX):
            monkeypatch.delenv(name)


def run(*arguments: str, **keywords: object) -> Result:
    return CliRunner().invoke(command_line, ["config", *arguments], **keywords)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "broker.toml"
    path.write_text('num_partitions = 6\n[storage]\ndurability = "os"\n')
    return path


def test_check_says_so_if_there_is_nothing_to_say(path: Path) -> None:
    result = run("check", str(path))
    assert (result.exit_code, result.stdout, result.stderr) == (0, f"{path}: no mistakes\n", "")


def test_check_tells_everything_and_exits_with_2(path: Path) -> None:
    path.write_text("node_idd = 1\nnum_partitions = 0\n")
    result = run(
        "check", str(path), "-X", "zzz=1", env={"TRIO_BROKER_STORAGE__DURABILITY": "maybe"}
    )
    assert result.exit_code == 2
    assert result.stdout == ""
    lines = result.stderr.splitlines()
    assert len(lines) == 4
    assert all(line.startswith("configuration: ") for line in lines)


def test_check_warns_of_a_secret_that_everybody_can_read(path: Path) -> None:
    path.write_text(f'http.token = "{TOKEN}"\n')
    path.chmod(0o644)
    result = run("check", str(path))
    assert result.exit_code == 0
    assert "everybody on this machine can read the secret in it" in result.stderr
    assert TOKEN not in result.stderr
    path.chmod(0o640)
    assert run("check", str(path)).stderr == ""


def test_check_warns_of_what_has_no_effect(path: Path) -> None:
    path.write_text('[http]\nlisten = ""\nconnections_max = 5\n')
    result = run("check", str(path))
    assert result.exit_code == 0
    assert result.stderr.startswith(f"warning: {path}: http.connections_max has no effect: ")


def test_check_looks_at_the_file_that_the_environment_names(path: Path) -> None:
    result = run("check", env={"TRIO_BROKER_CONFIG": str(path)})
    assert result.stdout == f"{path}: no mistakes\n"
    assert run("check").stdout == "environment: no mistakes\n"


def test_show_is_a_file_that_means_the_same(path: Path, tmp_path: Path) -> None:
    shown = tmp_path / "shown.toml"
    for options in ((), ("--effective",), ("--effective", "--sources"), ("--sources",)):
        result = run("show", str(path), "-X", "topic.retention.ms=36h", *options)
        assert result.exit_code == 0
        shown.write_text(result.stdout)
        assert load_config(shown, serve=True) == load_config(
            path, assignments=["topic.retention.ms=36h"], serve=True
        )
    result = run("show", str(path), "--sources", env={"TRIO_BROKER_NODE_ID": "3"})
    assert result.stdout == (
        "node_id = 3  # TRIO_BROKER_NODE_ID\n"
        f"num_partitions = 6  # {path}\n\n[storage]\n"
        f'durability = "os"  # {path}\n'
    )


def test_show_keeps_secrets() -> None:
    for options in ((), ("--effective", "--sources")):
        result = run("show", *options, env={"TRIO_BROKER_HTTP__TOKEN": TOKEN})
        assert TOKEN not in result.output
        assert '# token = "..."' in result.stdout
        tomllib.loads(result.stdout)


def test_show_of_a_broken_file_is_what_check_says(path: Path) -> None:
    path.write_text("node_idd = 1")
    assert run("show", str(path)).stderr == run("check", str(path)).stderr
    assert run("show", str(path)).exit_code == 2


def test_init_writes_a_file_that_changes_nothing(tmp_path: Path) -> None:
    page = tmp_path / "broker.toml"
    page.write_text(run("init").stdout)
    assert run("check", str(page)).exit_code == 0
    assert load_config(page, serve=True) == load_config(serve=True)


@pytest.mark.parametrize(
    "name, key",
    [
        ("network.frame_bytes_max", "network.frame_bytes_max"),
        ("frame_bytes_max", "network.frame_bytes_max"),
        ("topic.retention.ms", "topic.retention_ms"),
        ("retention.ms", "topic.retention_ms"),
        ("log.retention.ms", "topic.retention_ms"),
        ("log.retention.hours", "topic.retention_ms"),
        ("TRIO_BROKER_HTTP__TOKEN", "http.token"),
        ("advertised.listeners", "advertised"),
        ("storage.durability", "storage.durability"),
    ],
)
def test_explain_finds_a_setting_by_any_name(name: str, key: str) -> None:
    result = run("explain", name)
    assert result.exit_code == 0
    assert result.stdout.splitlines()[0] == key


@pytest.mark.parametrize("key", settings())
def test_explain_tells_the_truth(key: str) -> None:
    """What it says to write sets the value in each source, to the default."""
    setting = settings()[key]
    said = dict(
        re.findall(r"(?m)^  (file|environment|command|Python) +(.*)$", run("explain", key).stdout)
    )
    assert len(said) == 4
    if setting.default is None and setting.serve_default is None:
        return  # shows where a value would go
    served = load_config(serve=True)
    text, _, section = said["file"].partition(" under ")
    assert tomllib.loads(f"{section}\n{text}")
    name, _, value = said["environment"].partition("=")
    assert load_config(environ={name: value}, serve=True) == served
    assert load_config(assignments=[said["command"].removeprefix("-X ")], serve=True) == served


def test_explain_of_a_section_lists_it() -> None:
    result = run("explain", "network")
    assert "network.connections_max" in result.stdout
    assert "storage." not in result.stdout


def test_explain_without_a_key_lists_all() -> None:
    result = run("explain")
    for setting in settings().values():
        assert f"{setting.key}=" in result.stdout


@pytest.mark.parametrize(
    "key, said",
    [
        ("connections_max", "in several sections: network.connections_max, http.connections_max"),
        ("frame_byte_max", "did you mean 'network.frame_bytes_max'?"),
        ("log.cleaner.enable", "cannot be set here: there is no log compaction"),
    ],
)
def test_explain_of_what_is_no_key(key: str, said: str) -> None:
    result = run("explain", key)
    assert (result.exit_code, result.stdout) == (2, "")
    assert said in result.stderr


def test_import_says_what_it_did(tmp_path: Path) -> None:
    properties = tmp_path / "server.properties"
    properties.write_text("log.retention.hours=1\nnum.io.threads=8\n")
    result = run("import", str(properties))
    assert result.exit_code == 0
    assert tomllib.loads(result.stdout) == {"topic": {"retention_ms": "1h"}}
    assert "# num.io.threads: there are no thread pools" in result.stdout
    assert "1 values taken over, 1 without effect here" in result.stderr
    with_decision = run("import", "-", input="listeners=PLAINTEXT://:9092\n")
    assert with_decision.exit_code == 1
    assert "to do: advertised: set it to the host:port" in with_decision.stderr
    assert "# To do: advertised" in with_decision.stdout


def test_serve_reads_its_file_and_the_rest_wins_over_it(tmp_path: Path) -> None:
    """A process of its own: file < environment < -X < options, and the data dir is the file's."""
    path = tmp_path / "broker.toml"
    path.write_text(
        f'data_dir = "{tmp_path}/data"\nlisteners = ["127.0.0.1:1"]\nnode_id = 5\n'
        'cluster_id = "from-the-file"\nhttp.listen = ""\n'
    )
    command = [*SERVE, "serve", "-c", str(path), "--listen", "127.0.0.1:0"]
    with subprocess.Popen(
        command,
        env={"PATH": "/bin", "TRIO_BROKER_CLUSTER_ID": "from-the-environment"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline().startswith("listening kafka://127.0.0.1:")
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) == 0
        finally:
            process.kill()
        assert process.stderr is not None
        log = process.stderr.read()
    for said in (
        f"{path} sets data_dir, node_id, http.listen",
        "TRIO_BROKER_CLUSTER_ID sets cluster_id",
        "--listen sets listeners",
    ):
        assert said in log
    identity = "\n".join(
        file.read_bytes().decode(errors="replace") for file in (tmp_path / "data").rglob("identity")
    )
    assert "from-the-environment" in identity
    assert '"node_id":5' in identity


def test_serve_opens_nothing_if_there_is_a_mistake(tmp_path: Path) -> None:
    path = tmp_path / "broker.toml"
    path.write_text(f'data_dir = "{tmp_path}/data"\nnode_idd = 5\n')
    result = subprocess.run(
        [*SERVE, "serve", "-c", str(path), "-X", "num_partitions=0"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert result.returncode == 2
    assert result.stdout == ""
    assert result.stderr.splitlines() == [
        f"configuration: {path}: unknown key 'node_idd', did you mean 'node_id'?",
        "configuration: -X: num_partitions must be between 1 and 100000, not 0",
    ]
    assert not (tmp_path / "data").exists()
