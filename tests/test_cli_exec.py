"""`exec`: the environment of the command, what it leaves of ours, and its end."""

import json
import os
import shutil
import signal
import subprocess
import sys
from datetime import datetime, timedelta, timezone

import pytest

import bedrock_token as bt

from tests.command_line import (
    MODULE, NO_KEYS, TOKEN, VARIABLE, child, ended, failure, missing, on_posix, on_windows,
    one_line, start,
)
from tests.helpers import FILE, KEY_ID, KEYS, SESSION, cases, rfc3339


pytestmark = pytest.mark.usefixtures("usual_environment")


SHOW = [sys.executable, "-c",
        "import json, os, sys; print(json.dumps([os.getpid(), sys.argv[1:], dict(os.environ)]))"]
REGIONS = {"AWS_REGION": "us-east-1", "AWS_DEFAULT_REGION": "us-east-1"}
OLD_TOKEN = "an-older-token"
# Whatever an AWS SDK of any age would sign with instead of using the token.
OTHER_WAYS = {
    **KEYS, "AWS_SESSION_TOKEN": SESSION, "AWS_SECURITY_TOKEN": SESSION,
    "AWS_ACCESS_KEY": KEY_ID, "AWS_SECRET_KEY": KEYS["AWS_SECRET_ACCESS_KEY"],
    "AWS_CREDENTIAL_FILE": "f", "AWS_CREDENTIAL_EXPIRATION": "2999-01-01T00:00:00Z",
    "AWS_PROFILE": "default", "AWS_DEFAULT_PROFILE": "default",
    "AWS_WEB_IDENTITY_TOKEN_FILE": "f", "AWS_ROLE_ARN": "a", "AWS_ROLE_SESSION_NAME": "n",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI": "/r",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI": "http://localhost/f",
    "AWS_CONTAINER_AUTHORIZATION_TOKEN": SESSION, "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE": "f",
}
OTHER_SETTINGS = {
    "AWS_CONFIG_FILE": "/nowhere/config", "AWS_SHARED_CREDENTIALS_FILE": "/nowhere/credentials",
    "AWS_CA_BUNDLE": "/nowhere/bundle", "AWS_ENDPOINT_URL_STS": "http://127.0.0.1:1",
    "AWS_SDK_LOAD_CONFIG": "1", "AWS_EC2_METADATA_DISABLED": "true",
    "AWS_USE_FIPS_ENDPOINT": "false", "AWS": "1", "OTHER": "2",
}
ENVIRONMENTS = [
    # options, environment, what of it the command has, what it has not
    ("both regions", [], {}, {VARIABLE: "TOKEN", **REGIONS, **KEYS}, []),
    ("another region and variable", ["--region", "eu-west-2", "--var", "OPENAI_API_KEY"], {},
     {"AWS_REGION": "eu-west-2", "AWS_DEFAULT_REGION": "eu-west-2", "OPENAI_API_KEY": "TOKEN"},
     [VARIABLE]),
    ("keys stay", [], OTHER_WAYS, OTHER_WAYS, []),
    ("--only-bedrock", ["--only-bedrock"], {**OTHER_WAYS, **OTHER_SETTINGS},
     {VARIABLE: "TOKEN", **REGIONS, **OTHER_SETTINGS}, OTHER_WAYS),
    ("an older token is replaced", [], {VARIABLE: OLD_TOKEN}, {VARIABLE: "TOKEN"}, []),
    ("an older token stays", ["--var", "A"], {VARIABLE: OLD_TOKEN},
     {"A": "TOKEN", VARIABLE: OLD_TOKEN}, []),
    ("an older token goes", ["--var", "A", "--only-bedrock"], {VARIABLE: OLD_TOKEN},
     {"A": "TOKEN"}, [VARIABLE]),
    ("not if it is asked for", ["--var", "A", "--var", VARIABLE, "--only-bedrock"],
     {VARIABLE: OLD_TOKEN}, {"A": "TOKEN", VARIABLE: "TOKEN"}, []),
]


@pytest.mark.parametrize("options, env, want, absent", cases(ENVIRONMENTS))
def test_environment(options, env, want, absent):
    result = child("exec", *options, "--", *SHOW, env={"AWS_DEFAULT_REGION": None, **env})
    environ = {name: TOKEN.sub("TOKEN", value) for name, value in json.loads(result.out)[2].items()}
    assert {name: environ.get(name) for name in want} == want
    assert [name for name in absent if name in environ] == []
    assert (result.status, result.err) == (0, "")


ENDINGS = [
    # options, seconds that the credentials last, what is said
    ("all is well", [], 86400, []),
    ("the credentials end first", [], 3600, ["ends", "1:00:00|0:59:", "environment"]),
    ("the same, quietly", ["-q"], 3600, []),
    ("a shorter token", ["--expires-in", "30m"], 3600, []),
]


@pytest.mark.parametrize("options, lasts, words", cases(ENDINGS))
def test_says_only_what_one_must_know(options, lasts, words):
    end = datetime.now(timezone.utc) + timedelta(seconds=lasts)
    result = child("exec", *options, "--", sys.executable, "-c", "print('its own')", env={
        "AWS_SESSION_TOKEN": SESSION,
        "AWS_CREDENTIAL_EXPIRATION": rfc3339(end)})
    assert (result.status, result.out.split()) == (0, ["its", "own"])
    assert missing(words, one_line(result.err)) == [] if words else result.err == ""


@pytest.mark.parametrize("default", ["us-east-1", "eu-west-1"])
def test_default_region_is_kept(default):
    result = child("exec", "--", *SHOW, env={"AWS_DEFAULT_REGION": default})
    assert json.loads(result.out)[2]["AWS_DEFAULT_REGION"] == default
    assert (result.status, result.err) == (0, "")


def test_passes_arguments_and_no_token():
    given = ["--", "-q", "--help", "", "a b", "*", "$HOME", "'"]
    if sys.getfilesystemencoding() == "utf-8":  # not so in the C locale without UTF-8 mode
        given.append("ä")
    result = child("exec", "--", *SHOW, *given)
    assert json.loads(result.out)[1] == given


@on_posix
def test_becomes_the_command():
    process = start([*MODULE, "exec", "--", *SHOW])
    assert json.loads(ended(process).out)[0] == process.pid


@on_posix
def test_leaves_bytes_alone():
    assert child("exec", "--", "printf", "%s", b"\xff").out == "\\xff"
    assert child("exec", "--", "cat", stdin=b"from stdin").out == "from stdin"


def test_options_before_the_command():
    result = child("--region", "eu-west-2", "--var", "A", "exec", "--", *SHOW)
    environ = json.loads(result.out)[2]
    assert (environ["AWS_REGION"], bt.decode_token(environ["A"])["region"]) == ("eu-west-2",) * 2


# --- the end -------------------------------------------------------------------------------

def sh(script):
    return ["sh", "-c", script]


STATUSES = [
    ("good", sh("exit 0"), 0),
    ("bad", sh("exit 3"), 3),
    ("the same as of ours", sh("exit 130"), 130),
    ("terminated", sh("kill -TERM $$; exit 1"), -signal.SIGTERM if os.name != "nt" else 0),
    # Python ignores these two, and a command expects to be ended by them.
    ("pipe", sh("kill -PIPE $$; exit 1"), -13),
    ("file size", sh("ulimit -c 0; kill -XFSZ $$; exit 1"), -25),
    ("as a shell sees a signal", None, 143),
]


@on_posix
@pytest.mark.parametrize("command, status", cases(STATUSES))
def test_status_is_that_of_the_command(command, status):
    if command is None:
        result = child("-c", '"$@"; exit $?', "sh", *MODULE, "exec", "--",
                       *sh("kill -TERM $$"), program=["sh"])
    else:
        result = child("exec", "--", *command)
    assert (result.status, result.out) == (status, "")


UNUSABLE = [
    ("no such command", "no-such-command", 127),
    ("no such file", "./no-such-command", 127),
    ("no such folder", "/nowhere/command", 127),
    ("a file that is not executable", "./plain", 126),
    ("the same in the PATH", "plain", 126),
    ("a directory", "./folder", 126),
]


@on_posix
@pytest.mark.parametrize("command, status", cases(UNUSABLE))
def test_of_what_cannot_run(command, status, tmp_path):
    (tmp_path / "plain").write_text("#!/bin/sh\nexit 0\n")
    (tmp_path / "folder").mkdir()
    shutil.copy(FILE, tmp_path)
    result = child("exec", "--", command, cwd=tmp_path, env={"PATH": str(tmp_path)})
    assert (result.status, result.out) == (status, "")
    said = one_line(result.err)
    assert command in said
    assert "Errno" not in said


# --- signals -------------------------------------------------------------------------------

SIGNALS = [getattr(signal, name) for name in ("SIGPIPE", "SIGXFSZ") if hasattr(signal, name)]
HANDLERS = [("ignored", signal.SIG_IGN), ("default", signal.SIG_DFL), ("a function", print)]


@pytest.fixture
def handlers():
    """Sets the handler of all these signals; theirs are put back."""
    before = [signal.getsignal(each) for each in SIGNALS]
    yield lambda handler: [signal.signal(each, handler) for each in SIGNALS]
    for each, handler in zip(SIGNALS, before):
        signal.signal(each, handler)


@on_posix
@pytest.mark.parametrize("handler", cases(HANDLERS))
def test_failure_leaves_signals_as_they_were(handler, handlers, cli):
    handlers(handler)
    assert cli("exec", "--", "no-such-command").status == 127
    assert [signal.getsignal(each) for each in SIGNALS] == [handler] * len(SIGNALS)


# --- Windows -------------------------------------------------------------------------------

COMMANDS = [
    # file, its text, command
    ("cmd", "tool.cmd", "@echo %1 %AWS_REGION%\r\n", "tool"),
    ("bat", "tool.bat", "@echo %1 %AWS_REGION%\r\n", "tool"),
    ("in capitals", "TOOL.CMD", "@echo %1 %AWS_REGION%\r\n", "tool"),
    ("with its ending", "tool.cmd", "@echo %1 %AWS_REGION%\r\n", "tool.cmd"),
]


@on_windows
@pytest.mark.parametrize("file, text, command", cases(COMMANDS))
def test_finds_what_windows_finds(file, text, command, tmp_path):
    """npm and pip install most programs there as batch files."""
    (tmp_path / file).write_bytes(text.encode())
    path = os.pathsep.join([str(tmp_path), os.environ["PATH"]])
    result = child("exec", "--", command, "said", env={"PATH": path})
    assert (result.status, result.out.split(), result.err) == (0, ["said", "us-east-1"], "")


MISSING = [("without a folder", "no-such-command"), ("in a folder", r".\no-such-command")]


@on_windows
@pytest.mark.parametrize("command", cases(MISSING))
def test_missing_command_on_windows(command):
    result = child("exec", "--", command)
    assert (result.status, result.out) == (127, "")
    assert command in one_line(result.err)


# Ctrl-C reaches all programs in a console, ours and its command.
INTERRUPTED = """
import os, signal, sys, time
signal.signal(signal.SIGINT, lambda *_: sys.exit(7))
os.kill(0, signal.CTRL_C_EVENT)
time.sleep(10)  # ends at once
"""


@on_windows
def test_interrupted_command_ends_by_itself():
    process = start([*MODULE, "exec", "--", sys.executable, "-c", INTERRUPTED],
                    creationflags=getattr(subprocess, "CREATE_NEW_CONSOLE", 0))
    assert ended(process) == (7, "", "")


def test_without_a_token_nothing_is_started(tmp_path):
    marker = tmp_path / "marker"
    command = [sys.executable, "-c", f"open({str(marker)!r}, 'w')"]
    result = child("exec", "--", *command, env={**NO_KEYS, "AWS_PROFILE": "nowhere"})
    assert "nowhere" in failure(result)
    assert not marker.exists()
    assert child("exec", "--", *command).status == 0
    assert marker.exists()
