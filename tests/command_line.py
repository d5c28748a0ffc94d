"""What the tests of the command line share: how it is run, in this process and in others."""

import os
import re
import subprocess
import sys
from typing import NamedTuple

import pytest

import bedrock_token as bt
from tests import fake_aws
from tests.helpers import FILE, KEYS, PREFIX, SECRET, SESSION, posix

MODULE = [sys.executable, "-m", "bedrock_token"]
NO_KEYS = dict.fromkeys(KEYS)
VARIABLE = "AWS_BEARER_TOKEN_BEDROCK"
TOKEN = re.compile(f"(?:{PREFIX}|aws-external-anthropic-api-key-)[A-Za-z0-9+/]{{400,}}={{0,2}}")
# The account of this key id is published with the finding that it encodes one: 029608264753.
TEMPORARY = bt.Credentials("ASIAQNZGKIQY56JQ7WML", SECRET, SESSION)
# Nobody is there.
REFUSED = fake_aws.refused_url()

on_posix = posix("needs POSIX")
on_windows = pytest.mark.skipif(os.name != "nt", reason="is about Windows")


class Result(NamedTuple):
    status: int
    out: str
    err: str


def seen(status, out, err):
    """The result, once it is known that stderr shows no secret and no traceback."""
    assert not TOKEN.search(err)
    unwanted = (SECRET, SESSION, "Traceback", "Exception ignored")
    assert [text for text in unwanted if text in err] == []
    return Result(status, out, err)


def one_line(err):
    """What follows the name in the only line."""
    found = re.fullmatch("bedrock_token: ([^\n]+)\n", err)
    assert found, err
    return found[1]


def failure(result):
    """What the only line on stderr says of a command that has printed nothing else."""
    assert (result.status, result.out) == (1, "")
    return one_line(result.err)


def missing(words, text):
    return [word for word in words if not re.search(word, text, re.IGNORECASE)]


def start(command, env=(), **options):
    environ = {**os.environ, **dict(env)}
    return subprocess.Popen(command, **{
        "env": {name: value for name, value in environ.items() if value is not None},
        "stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE,
        "cwd": FILE.parent, **options})


def ended(process, stdin=None):
    try:
        out, err = process.communicate(stdin, timeout=30)
    finally:
        process.kill()
    # stderr has the line ends of the system, stdout the same everywhere.
    text = (err or b"").decode("utf-8", "backslashreplace").replace(os.linesep, "\n")
    return seen(process.returncode, (out or b"").decode("utf-8", "backslashreplace"), text)


def child(*args, stdin=None, env=(), program=MODULE, **options):
    if stdin is not None:
        options["stdin"] = subprocess.PIPE
    return ended(start([*program, *args], env, **options), stdin)


# What a terminal window does: a session of its own, whose terminal is this one.
_WITH_TERMINAL = (
    "import fcntl, os, sys, termios; terminal = int(sys.argv[1]);"
    " fcntl.ioctl(terminal, termios.TIOCSCTTY, 0); os.close(terminal);"
    " os.execv(sys.argv[2], sys.argv[2:])"
)


def start_in_terminal(terminal, command, env=(), **options):
    """The command in a session of its own on this end of a terminal, which its streams may be too."""
    program = [sys.executable, "-c", _WITH_TERMINAL, str(terminal)]
    return start([*program, *command], env, start_new_session=True, pass_fds=[terminal], **options)


def read_until(word, descriptor):
    """What is said up to the word, or within 10 seconds."""
    import select

    text = b""
    while word not in text and select.select([descriptor], [], [], 10)[0]:
        chunk = os.read(descriptor, 1000)
        text += chunk
        if not chunk:
            break
    return text.decode()


def at(fake):
    return {"AWS_ENDPOINT_URL_BEDROCK": fake.url, "AWS_ENDPOINT_URL_BEDROCK_RUNTIME": fake.url}
