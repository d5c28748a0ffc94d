"""Every test runs without the user's settings, in an empty home, on loopback alone."""

import io
import ipaddress
import itertools
import os
import signal
import sys
from pathlib import Path

import pytest

import bedrock_token as bt
from tests.command_line import seen
from tests.fake_aws import PEM, BedrockRuntime, Sts
from tests.helpers import ENV_BASE, KEYS, WEB_TOKEN, known_keys, role, write_home

_PREFIXES = ("aws_", "anthropic_", "claude_", "openai_")
_REMOVED = {
    "http_proxy", "https_proxy", "no_proxy", "all_proxy", "bedrock_token_proxy_key",
    "ssl_cert_file", "ssl_cert_dir", "requests_ca_bundle", "curl_ca_bundle", "sslkeylogfile",
    "userprofile", "homedrive", "homepath",
    "columns", "no_color", "force_color", "python_colors",
}
# A checkout may belong to another user: git then refuses it, and the home is not the one whose
# settings say otherwise.
_GIT = {
    "GIT_CONFIG_COUNT": "1",
    "GIT_CONFIG_KEY_0": "safe.directory",
    "GIT_CONFIG_VALUE_0": Path(__file__).resolve().parents[1].as_posix(),
}


@pytest.fixture(scope="session")
def homes(tmp_path_factory):
    """Paths without end. For a folder of its own, pytest would look through all that are there, each time."""
    folder = tmp_path_factory.mktemp("homes")
    return (folder / f"home{number}" for number in itertools.count())


@pytest.fixture(autouse=True)
def home(monkeypatch, homes):
    """The test's own empty home folder."""
    for name in list(os.environ):
        if name.lower().startswith(_PREFIXES) or name.lower() in _REMOVED:
            monkeypatch.delenv(name)
    for name, value in _GIT.items():
        monkeypatch.setenv(name, value)
    folder = next(homes)
    folder.mkdir()
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    return folder


@pytest.fixture
def environ(home):
    """An environment to extend and to pass on as `environ=`."""
    return {"HOME": str(home), "AWS_EC2_METADATA_DISABLED": "true"}


@pytest.fixture
def sts(environ):
    with Sts(keys=known_keys(), web_identity_token=WEB_TOKEN) as fake:
        environ["AWS_ENDPOINT_URL_STS"] = fake.url
        yield fake


@pytest.fixture
def pem(tmp_path):
    """Certificate and key of AWS's hosts, for `tunnel`, which is also a CA bundle."""
    file = tmp_path / "tls.pem"
    file.write_text(PEM)
    return str(file)


@pytest.fixture
def base_role(environ):
    """Profile p with a role, signed with the keys of the environment."""
    write_home(environ, role("p", "P", "credential_source = Environment"))
    environ.update(ENV_BASE)


@pytest.fixture
def runtime(environ):
    """A Bedrock to which the environment leads."""
    with BedrockRuntime() as fake:
        environ.update(AWS_ENDPOINT_URL_BEDROCK_RUNTIME=fake.url, AWS_REGION="us-east-1")
        yield fake


@pytest.fixture
def usual_environment(home, monkeypatch):
    """What most commands need; put into the environment of this process."""
    for name, value in {**KEYS, "AWS_REGION": "us-east-1", "COLUMNS": "80"}.items():
        monkeypatch.setenv(name, value)
    # It would hide that something is not flushed, or not in time.
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)


@pytest.fixture
def cli(monkeypatch, capsys):
    """main() in this process; `env` is added to the environment, None takes a variable out.

    What is on stdin is bytes, or text in UTF-8.
    """
    def run(*args, stdin="", env=()):
        for name, value in dict(env).items():
            if value is None:
                monkeypatch.delenv(name, raising=False)
            else:
                monkeypatch.setenv(name, value)
        given = stdin.encode() if isinstance(stdin, str) else stdin
        stream = io.TextIOWrapper(io.BytesIO(given), "utf-8")
        monkeypatch.setattr(sys, "stdin", stream)
        status = bt.main(list(args))
        return seen(status, *capsys.readouterr())
    return run


@pytest.fixture
def interruptible():
    """Ctrl-C reaches children, also where it is ignored because the tests run in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def terminal():
    """Both ends of a terminal: ours, and the one for a program."""
    ends = os.openpty()
    yield ends
    for end in ends:
        os.close(end)


class _Outside:
    """What the running test asked of addresses outside this machine. Nothing gets through."""

    asked = []
    error = AssertionError


def _is_local(host):
    if host in (None, "", "localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _refuse_outside(event, args, outside=_Outside, is_local=_is_local):
    if event == "socket.getaddrinfo":
        address = args[:2]
    elif event in ("socket.connect", "socket.sendto"):
        address = args[1]
    else:
        return
    # The address of a Unix socket is not a tuple.
    if isinstance(address, tuple) and not is_local(address[0]):
        outside.asked.append(address[:2])
        raise outside.error(f"a test asked for {address[0]} port {address[1]}")


# An audit hook sees every thread and library, asyncio's sockets too; it cannot be removed.
sys.addaudithook(_refuse_outside)


@pytest.fixture(autouse=True)
def loopback_only():
    """Fails the test that asked for another machine, also where the error was swallowed."""
    _Outside.asked.clear()
    yield
    assert _Outside.asked == []


@pytest.fixture
def nobody_answers(loopback_only, monkeypatch):
    """The (host, port) pairs outside this machine asked for so far; nobody is there.

    For addresses that no setting can move: the container's, a service's own host name. Connections time
    out, after which none is tried again; those that are refused would be.
    """
    monkeypatch.setattr(_Outside, "error", TimeoutError)
    yield _Outside.asked
    _Outside.asked.clear()
