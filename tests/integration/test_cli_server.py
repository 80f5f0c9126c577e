"""``serve`` from a file, ``token``, ``ping`` and ``refresh``."""

from __future__ import annotations

import datastream_grpc
import pytest

import datastream
from datastream import Denied
from tests.integration.command_line import Program, run


def test_a_server_from_a_file(tmp_path, stack):
    with datastream.open(f"sqlite:{tmp_path}/s.db") as store:
        store.put_many({"fx/USD": 1.09, "other": 1})
    tokens, rules = tmp_path / "tokens", tmp_path / "rules.toml"
    token = run("token", "new", "web", "--file", str(tokens)).output.strip()
    rules.write_text('[web]\nread = ["fx/"]\nwrite = ["fx/"]\n')
    config = tmp_path / "serve.toml"
    config.write_text(
        f'url = "sqlite:{tmp_path}/s.db"\naddress = "127.0.0.1:1"\ntoken-file = "{tokens}"\n'
        f'rules = "{rules}"\nheartbeat = 5\nread_only = true\n[limits]\nkeys = 1\n'
    )
    program = Program("serve", "--config", str(config), "--address", "127.0.0.1:0")
    program.read_output()
    stack.callback(program.end)
    url = f"grpc://{program.line().split()[-1]}"
    remote = stack.enter_context(datastream.open(url, token=token))
    assert dict(remote) == {"fx/USD": 1.09}
    assert datastream.Feature.WRITE not in remote.features
    with pytest.raises(Denied):
        datastream_grpc.ping(url)
    assert datastream_grpc.ping(url, token=token).state == "READY"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("urll = 'memory:'", "did you mean 'url'"),
        ("url = 3\nread_only = 'yes'", "true or false"),
        ("heartbeat = 'long'", "a number"),
        ("url = [", "serve.toml"),
        ("url = 'memory:'\n[limits]\nstream = 1", "no limit"),
        ("url = 'memory:'\n[limits]\nstream-bytes = 0", "stream_bytes='0'"),
        ("url = 'memory:'\nlimits = 'streams=5'", "write [limits]"),
        ("max-message-size = 1e6", "a whole number"),
        ("url = 'memory:'\nmax-message-size = 0", "give bytes, from 1"),
        ("url = 'memory:'\nmetrics = 99999", "metrics on 127.0.0.1:99999"),
        ("config = 'other.toml'", "no option"),
        ("", "Missing argument"),
    ],
)
def test_a_file_that_is_wrong(tmp_path, text, said):
    config = tmp_path / "serve.toml"
    config.write_text(text)
    result = run("serve", "--config", str(config))
    assert result.exit_code in (1, 2)
    assert said in result.output


def test_limits_of_the_command_line():
    for limit in ("streams", "streams=many", "=3"):
        assert run("serve", "memory:", "--limit", limit).exit_code in (1, 2)


def test_tokens_are_new_and_nobody_elses(tmp_path):
    file = tmp_path / "tokens"
    file.write_text("old")
    file.chmod(0o600)
    made = [run("token", "new", "--file", str(file)).output.strip() for _ in range(2)]
    made.append(run("token", "new", "web", "--file", str(file)).output.strip())
    assert len({*made}) == 3
    assert all(len(token) > 40 for token in made)
    assert file.read_text().splitlines() == ["old", made[0], made[1], f"web {made[2]}"]
    fresh = tmp_path / "fresh"
    run("token", "new", "--file", str(fresh))
    assert fresh.stat().st_mode & 0o777 == 0o600
    assert run("token", "new", "two words").exit_code == 1


def test_ping_and_refresh(stack):
    store = stack.enter_context(datastream.open("memory:"))
    server = stack.enter_context(datastream_grpc.serve(store, "127.0.0.1:0"))
    url = f"grpc://{server.address}"
    result = run("ping", url)
    assert (result.exit_code, result.output.split(", ")[:2]) == (0, ["SERVING", "READY"])
    assert run("refresh", url).exit_code == 0
    server.stop()
    for command in ("ping", "refresh"):
        result = run(command, url, "--timeout", "2")
        assert result.exit_code == 1
        assert server.address in result.output
        result = run(command, "memory:")
        assert (result.exit_code, "no server" in result.output) == (1, True)
