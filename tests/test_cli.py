"""The command line: what it says in this process, what it does in real children and shells."""

import io
import json
import os
import re
import shlex
import shutil
import signal
import ssl
import subprocess
import sys
import threading
from base64 import b64decode, b64encode
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import NamedTuple

import pytest

import bedrock_token as bt
from tests import fake_aws
from tests.fake_aws import Forever, answer, event, frame, html
from tests.helpers import KEY_ID, KEYS, LONG_TERM, SECRET, SESSION, cases, posix, rfc3339

FILE = Path(bt.__file__)
MODULE = [sys.executable, "-m", "bedrock_token"]
NO_KEYS = dict.fromkeys(KEYS)
VARIABLE = "AWS_BEARER_TOKEN_BEDROCK"
PREFIX = "bedrock-api-key-"
TOKEN = re.compile(PREFIX + "[A-Za-z0-9+/]{400,}={0,2}")
RFC3339 = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")
# The account of this key id is published with the finding that it encodes one: 029608264753.
TEMPORARY = bt.Credentials("ASIAQNZGKIQY56JQ7WML", SECRET, SESSION)

on_posix = posix("needs POSIX")


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


@pytest.fixture(autouse=True)
def usual_environment(home, monkeypatch):
    for name, value in {**KEYS, "AWS_REGION": "us-east-1", "COLUMNS": "80"}.items():
        monkeypatch.setenv(name, value)
    # It would hide that something is not flushed, or not in time.
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)


@pytest.fixture
def cli(monkeypatch, capsys):
    """main() in this process; `env` is added to the environment, None takes a variable out."""
    def run(*args, stdin="", env=()):
        for name, value in dict(env).items():
            if value is None:
                monkeypatch.delenv(name, raising=False)
            else:
                monkeypatch.setenv(name, value)
        stream = io.TextIOWrapper(io.BytesIO(stdin.encode()), "utf-8")
        monkeypatch.setattr(sys, "stdin", stream)
        status = bt.main(list(args))
        return seen(status, *capsys.readouterr())
    return run


def start(command, env=(), **options):
    environ = {**os.environ, **dict(env)}
    return subprocess.Popen(command, **{
        "env": {name: value for name, value in environ.items() if value is not None},
        "stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE,
        "cwd": FILE.parent, **options})


def ended(process, stdin=None):
    try:
        out, err = process.communicate(stdin, timeout=20)
    finally:
        process.kill()
    text = err.decode("utf-8", "backslashreplace")
    return seen(process.returncode, (out or b"").decode("utf-8", "backslashreplace"), text)


def child(*args, stdin=None, env=(), program=MODULE, **options):
    if stdin is not None:
        options["stdin"] = subprocess.PIPE
    return ended(start([*program, *args], env, **options), stdin)


def write_config(home, text):
    (home / ".aws").mkdir()
    (home / ".aws" / "config").write_text(text, encoding="utf-8")


# --- the token and its formats -------------------------------------------------------------

FORMATS = [
    ("no arguments", [], "TOKEN\n"),
    ("token", ["--format", "token"], "TOKEN\n"),
    (
        "env", ["--format", "env"],
        "export AWS_BEARER_TOKEN_BEDROCK=TOKEN\nexport AWS_REGION=us-east-1\n",
    ),
    (
        "env-no-export", ["--format", "env-no-export"],
        "AWS_BEARER_TOKEN_BEDROCK=TOKEN\nAWS_REGION=us-east-1\n",
    ),
    (
        "powershell", ["--format", "powershell"],
        '$Env:AWS_BEARER_TOKEN_BEDROCK="TOKEN"\n$Env:AWS_REGION="us-east-1"\n',
    ),
    (
        "windows-cmd", ["--format", "windows-cmd"],
        "set AWS_BEARER_TOKEN_BEDROCK=TOKEN\nset AWS_REGION=us-east-1\n",
    ),
    (
        "fish", ["--format", "fish"],
        "set -gx AWS_BEARER_TOKEN_BEDROCK TOKEN\nset -gx AWS_REGION us-east-1\n",
    ),
    (
        "another variable", ["--format", "env", "--var", "OPENAI_API_KEY"],
        "export OPENAI_API_KEY=TOKEN\nexport AWS_REGION=us-east-1\n",
    ),
    (
        "two variables", ["--var", "_a1", "--format", "fish", "--var", "B"],
        "set -gx _a1 TOKEN\nset -gx B TOKEN\nset -gx AWS_REGION us-east-1\n",
    ),
    (
        "another region", ["--format", "env-no-export", "--region", "eu-west-3"],
        "AWS_BEARER_TOKEN_BEDROCK=TOKEN\nAWS_REGION=eu-west-3\n",
    ),
]


@pytest.mark.parametrize("args, want", cases(FORMATS))
def test_format(args, want, cli):
    status, out, err = cli(*args)
    assert (status, err) == (0, "")
    assert TOKEN.sub("TOKEN", out) == want
    assert bt.decode_token(TOKEN.search(out)[0])["access_key_id"] == KEY_ID


def test_json(cli):
    document = json.loads(cli("--format", "json").out)
    token, expiration, left = (document.pop(key) for key in ("token", "expiration", "expires_in"))
    assert document == {"token_type": "Bearer", "region": "us-east-1", "source": "environment"}
    assert RFC3339.fullmatch(expiration)
    facts = bt.decode_token(token)
    assert rfc3339(facts["expires_at"]) == expiration
    assert type(left) is int and 43190 <= left <= 43200


@pytest.mark.parametrize("format", ["token", "json", "env", "env-no-export", "fish"])
def test_lines_end_in_lf_on_windows_too(format, monkeypatch):
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, "utf-8", newline="\r\n"))
    assert bt.main(["--format", format]) == 0
    assert written.getvalue().endswith(b"\n")
    assert b"\r" not in written.getvalue()


CONFIG = f"""
[default]
region = ap-south-1
[profile dev]
region = eu-central-1
aws_access_key_id = AKIADEV
aws_secret_access_key = {SECRET}
"""
CHOICES = [
    ("lifetime by default", [], {}, {"expires_in": 43200}),
    ("AWS_REGION", [], {"AWS_DEFAULT_REGION": "sa-east-1"}, {"region": "us-east-1"}),
    ("AWS_DEFAULT_REGION", [], {"AWS_REGION": None, "AWS_DEFAULT_REGION": "sa-east-1"},
     {"region": "sa-east-1"}),
    ("region of the profile", [], {"AWS_REGION": None}, {"region": "ap-south-1"}),
    ("--region", ["--region", "us-gov-west-1"], {}, {"region": "us-gov-west-1"}),
    ("--region with blanks", ["--region= us-west-2\n"], {}, {"region": "us-west-2"}),
    ("--profile", ["--profile", "dev"], {"AWS_REGION": None},
     {"access_key_id": "AKIADEV", "region": "eu-central-1"}),
    ("AWS_PROFILE gives way to keys", [], {"AWS_REGION": None, "AWS_PROFILE": "dev"},
     {"access_key_id": KEY_ID, "region": "eu-central-1"}),
    *((f"--expires-in {text}", ["--expires-in", text], {}, {"expires_in": seconds})
      for text, seconds in [
          ("1", 1), ("3600", 3600), ("43200", 43200), ("45s", 45), ("90m", 5400), ("12h", 43200),
          ("720m", 43200), ("1h30m", 5400), ("1h30m15s", 5415), ("2h5s", 7205)]),
]


@pytest.mark.parametrize("args, env, want", cases(CHOICES))
def test_choice(args, env, want, cli, home):
    write_config(home, CONFIG)
    result = cli(*args, env=env)
    facts = bt.decode_token(result.out.rstrip("\n"))
    assert {name: facts[name] for name in want} == want
    assert (result.status, result.err) == (0, "")


ENDINGS = [
    # arguments, seconds that the token lasts with credentials of an hour, whether there is a note
    ("before the token", [], 3600, True),
    ("before the token, quietly", ["-q"], 3600, False),
    ("before the token, quietly in full", ["--quiet"], 3600, False),
    ("after the token", ["--expires-in", "30m"], 1800, False),
]


@pytest.mark.parametrize("args, lasts, noted", cases(ENDINGS))
def test_credentials_that_end(args, lasts, noted, cli):
    end = rfc3339(datetime.now(timezone.utc) + timedelta(hours=1))
    result = cli(*args, "--format", "json",
                 env={"AWS_SESSION_TOKEN": SESSION, "AWS_CREDENTIAL_EXPIRATION": end})
    document = json.loads(result.out)
    assert lasts - 10 <= document["expires_in"] <= lasts
    assert (document["expiration"] == end) == (lasts == 3600)
    assert result.status == 0
    if noted:
        assert missing(["ends", "59 min", end, "environment"], one_line(result.err)) == []
    else:
        assert result.err == ""


# --- wrong usage ---------------------------------------------------------------------------

USAGE_ERRORS = [
    *((f"--expires-in {text}", ["--expires-in", text], "--expires-in") for text in (
        "0", "0h", "43201", "12h1s", "13h", "", "x", "1.5h", "-1", "+1", "1 h", "1m1h", "1e3", "1d",
        "１２h")),
    ("--expires-in, very long", ["--expires-in", "9" * 5000], "--expires-in"),
    *((f"--region {text!r}", ["--region", text], "--region") for text in (
        "", "us", "us-east", "US-EAST-1", "us-east-1/evil", "us east 1", "us-east-１", "-1")),
    *((f"--var {text!r}", ["--format", "env", "--var", text], "--var") for text in (
        "", "1A", "A-B", "A B", "A=B", "A;B", "$A", "Ä", "Ａ", "A\n", "-A")),
    *((f"--timeout {text}", ["check", "--timeout", text], "--timeout") for text in (
        "0", "-1", "x", "", "nan", "inf", "1e300", "3600.1")),
    ("--var for a bare token", ["--var", "A"], "--var"),
    ("--var for json", ["--format", "json", "--var", "A"], "--var"),
    ("--format", ["--format", "yaml"], "--format"),
    ("--format of inspect", ["inspect", "--format", "env"], "--format"),
    ("unknown option", ["--regoin", "us-east-1"], ""),
    ("abbreviated option", ["--reg", "us-east-1"], ""),
    ("unknown option of a command", ["check", "--only-bedrock"], ""),
    ("unknown command", ["mint"], ""),
    ("argument of a command", ["inspect", "it"], ""),
    ("argument after --", ["--", "it"], ""),
    ("argument after check --", ["check", "--", "it"], ""),
    ("argument after inspect --", ["inspect", "--", "it"], ""),
    ("second text", ["converse", "--model", "m", "one", "two"], ""),
    ("second text after --", ["converse", "--model", "m", "one", "--", "two"], ""),
    ("two texts after --", ["converse", "--model", "m", "--", "one", "two"], ""),
    ("converse without a model", ["converse", "Hi"], "--model"),
    ("value missing", ["--region"], "--region"),
    ("exec of nothing", ["exec"], "COMMAND|command"),
    ("exec of nothing after --", ["exec", "--"], "COMMAND|command"),
    ("exec without --", ["exec", "true"], ""),
]


@pytest.mark.parametrize("args, names", cases(USAGE_ERRORS))
def test_wrong_usage(args, names, cli):
    status, out, err = cli(*args)
    assert (status, out) == (2, "")
    assert re.search(names, err.splitlines()[-1])


# Where somebody may put a token by mistake; logs keep what commands say.
MISPLACED = [
    ("as the command", ["{}"]),
    ("after --", ["--", "{}"]),
    ("as an option", ["--token={}"]),
    ("in an option of a letter", ["-t{}"]),
    ("in a switch", ["--quiet={}"]),
    ("in an ambiguous option", ["--v={}"]),
    *((f"in {option}", [option, "{}"]) for option in (
        "--format", "--region", "--expires-in", "--var", "--token")),
    ("in the timeout", ["check", "--timeout", "{}"]),
    *((f"after {command}", [command, "{}"]) for command in ("exec", "inspect", "check")),
    ("in the format of inspect", ["inspect", "--format", "{}"]),
    ("after a text", ["converse", "--model", "m", "text", "{}"]),
]


@pytest.mark.parametrize("args", cases(MISPLACED))
@pytest.mark.parametrize("token", [bt.get_token(TEMPORARY, "us-east-1"), LONG_TERM],
                         ids=["short-term", "long-term"])
def test_misplaced_token_is_not_echoed(token, args, cli):
    status, out, err = cli(*[arg.format(token) for arg in args])
    assert (status, out) == (2, "")
    # What a payload starts with, a host or a user's name, is no secret.
    assert not any(token[at:at + 12] in err for at in range(56, len(token) - 12))


COMMANDS = ["", "exec", "inspect", "check", "converse"]


@pytest.mark.parametrize("command", COMMANDS)
def test_help_teaches(command, cli):
    status, out, err = cli(*command.split(), "--help", env={VARIABLE: LONG_TERM})
    assert (status, err) == (0, "")
    example = f"python -m bedrock_token {command}"
    assert missing(["examples", example, VARIABLE, "AWS_REGION", "exit codes"], out) == []
    assert out.lower().index("examples") < out.lower().index("exit codes")
    codes = ["126", "127"] if command == "exec" else ["0", "1", "2"]
    assert missing([rf"\b{code}\b" for code in codes], out.lower().split("exit codes")[1]) == []
    assert "setx" not in out and LONG_TERM not in out


def test_help_has_every_command_and_format(cli):
    options = ["--region", "--profile", "--expires-in", "--format", "--var", "-q", "--version"]
    formats = ["token", "json", "env", "env-no-export", "powershell", "windows-cmd", "fish"]
    assert missing([*COMMANDS, *options, *formats, r"\b130\b"], cli("--help").out) == []


def test_version(cli):
    assert cli("--version") == (0, f"bedrock_token {bt.__version__}\n", "")


# --- errors --------------------------------------------------------------------------------

def a_profile(text):
    return f"[profile p]\nregion = us-east-1\n{text}"


SSO = "sso_session = s\nsso_account_id = 1\nsso_role_name = r\n[sso-session s]\n"
ROLE_ARN = "arn:aws:iam::123456789012:role/Admin"
MFA = "arn:aws:iam::123456789012:mfa/dev"
ROLE = f"""[profile p]
region = us-east-1
role_arn = {ROLE_ARN}
mfa_serial = {MFA}
source_profile = base
[profile base]
aws_access_key_id = {KEY_ID}
aws_secret_access_key = {SECRET}
"""
PROFILE = {**NO_KEYS, "AWS_PROFILE": "p"}
REFUSED = fake_aws.refused_url()
ERRORS = [
    ("no credentials", NO_KEYS, "", [
        "environment", "AWS_ACCESS_KEY_ID", "web identity", "profile default", "container",
        "instance metadata", "aws configure"]),
    ("no region", {"AWS_REGION": None}, "", ["AWS_REGION", "AWS_DEFAULT_REGION", "--region"]),
    ("malformed region", {"AWS_REGION": "mars"}, "", ["AWS_REGION", "mars", "us-east-1"]),
    ("half a key", {"AWS_ACCESS_KEY_ID": None}, "", ["AWS_ACCESS_KEY_ID"]),
    ("the other half", {"AWS_SECRET_ACCESS_KEY": " "}, "", ["AWS_SECRET_ACCESS_KEY"]),
    ("expired", {"AWS_CREDENTIAL_EXPIRATION": "2020-01-01T00:00:00Z"}, "", [
        "environment", "expired", "2020-01-01"]),
    ("unknown profile", PROFILE, "[profile q]\n", ["profile p", r"\.aws.config", r"\bq\b"]),
    ("unreadable line", PROFILE, a_profile(f"{SECRET}\n"), [r"\.aws.config", r"\b3\b"]),
    ("half a profile", PROFILE, a_profile("aws_access_key_id = A\n"), [
        "profile p", "aws_secret_access_key"]),
    ("process", PROFILE, a_profile(
        f"credential_process = {shlex.quote(sys.executable)} -c 'raise SystemExit(\"no way\")'\n"
    ), ["profile p", r"status 1\b", "no way"]),
    ("process that is not there", PROFILE, a_profile("credential_process = /nowhere/tool\n"), [
        "profile p", "/nowhere/tool"]),
    ("sso", PROFILE, a_profile(f"{SSO}sso_region = us-east-1\nsso_start_url = https://x\n"), [
        "profile p", "aws sso login --profile p"]),
    ("sso in part", PROFILE, a_profile(SSO), ["profile p", "sso_region", "sso_start_url"]),
    ("login", PROFILE, a_profile("login_session = s\n"), ["profile p", "aws login --profile p"]),
    ("role without a source", PROFILE, a_profile(f"role_arn = {ROLE_ARN}\n"), [
        "profile p", "source_profile", "credential_source"]),
    ("container", {**NO_KEYS, "AWS_CONTAINER_CREDENTIALS_FULL_URI": REFUSED}, "", [
        "container", REFUSED[7:]]),
    ("container elsewhere", {**NO_KEYS, "AWS_CONTAINER_CREDENTIALS_FULL_URI": "http://x.test"},
     "", ["AWS_CONTAINER_CREDENTIALS_FULL_URI"]),
    ("web identity", {**NO_KEYS, "AWS_WEB_IDENTITY_TOKEN_FILE": "/nowhere/token",
                      "AWS_ROLE_ARN": ROLE_ARN}, "", ["web identity", "/nowhere/token"]),
]


@pytest.mark.parametrize("env, config, words", cases(ERRORS))
def test_error(env, config, words, cli, home):
    write_config(home, config)
    assert missing(words, failure(cli(env=env))) == []


@pytest.mark.parametrize("args", [["--format", "json"], ["-q"], ["exec", "--", "true"], ["check"],
                                  ["converse", "--model", "m", "Hi"]], ids=" ".join)
def test_error_is_the_same_for_every_command(args, cli):
    assert failure(cli(*args, env=NO_KEYS)) == failure(cli())


def test_error_of_a_service(cli, home):
    write_config(home, ROLE.replace(f"mfa_serial = {MFA}\n", ""))
    with fake_aws.Sts(keys={KEY_ID: ("another", None)}) as sts:
        said = failure(cli("--profile", "p", env={"AWS_ENDPOINT_URL_STS": sts.url}))
    assert missing(["role/Admin", "SignatureDoesNotMatch"], said) == []


# --- processes and shells ------------------------------------------------------------------

ISOLATED = (
    "import runpy, sys; sys.path.insert(0, '.');"
    " runpy.run_module('bedrock_token', run_name='__main__')"
)
WAYS = [
    ("module", ["-m", "bedrock_token"]),
    ("file", ["bedrock_token.py"]),
    ("isolated", ["-I", "-c", ISOLATED]),
]


@pytest.mark.parametrize("way", cases(WAYS))
def test_copied_alone_it_runs(way, tmp_path):
    shutil.copy(FILE, tmp_path)
    result = child(program=[sys.executable, *way], cwd=tmp_path)
    assert (result.status, result.err) == (0, "")
    assert TOKEN.fullmatch(result.out[:-1]) and result.out[-1] == "\n"


HOMES = [
    ("none", {"HOME": None, "USERPROFILE": None}),
    ("not there", {"HOME": "/nowhere", "USERPROFILE": "/nowhere"}),
]


@pytest.mark.parametrize("env", cases(HOMES))
def test_home_is_not_needed(env):
    result = child(env={**env, "AWS_CONFIG_FILE": "/nowhere/config"})
    assert (result.status, result.err) == (0, "")


ECHO = 'printf "%s %s" "$AWS_BEARER_TOKEN_BEDROCK" "$AWS_REGION"'
SHELLS = [
    *((f"{shell} {format}", shell, ["-c"],
       f'eval "$({{}} --format {format})"; {printed}', f"TOKEN {region}")
      for shell in ("bash", "sh", "dash", "zsh", "ksh")
      for format, printed, region in [
          ("env", f"env -u AWS_SECRET_ACCESS_KEY sh -c {shlex.quote(ECHO)}", "eu-west-1"),
          ("env-no-export", ECHO, "eu-west-1")]),
    ("sh env-no-export stays in the shell", "sh", ["-c"],
     f'eval "$({{}} --format env-no-export)"; sh -c {shlex.quote(ECHO)}', " eu-west-1"),
    ("fish", "fish", ["-N", "-c"],
     f"{{}} --format fish | source; sh -c {shlex.quote(ECHO)}", "TOKEN eu-west-1"),
    ("pwsh", "pwsh", ["-NoProfile", "-Command"],
     "& {} --format powershell | Invoke-Expression;"
     ' Write-Host -NoNewline "$Env:AWS_BEARER_TOKEN_BEDROCK $Env:AWS_REGION"', "TOKEN eu-west-1"),
]


@on_posix
@pytest.mark.parametrize("shell, options, script, want", cases(SHELLS))
def test_shell_reads_it(shell, options, script, want, tmp_path):
    if not shutil.which(shell):
        pytest.skip(f"{shell} is not installed")
    command = script.format(shlex.join([*MODULE, "--region", "eu-west-1"]))
    result = child(command, program=[shell, *options], env={VARIABLE: None, "HOME": str(tmp_path)})
    assert TOKEN.sub("TOKEN", result.out) == want
    assert (result.status, result.err) == (0, "")


LOCALES = [
    ("C", {"LC_ALL": "C", "PYTHONUTF8": None, "PYTHONIOENCODING": None}),
    ("C, not coerced", {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}),
    ("ASCII", {"LC_ALL": "C", "PYTHONIOENCODING": "ascii"}),
]


@on_posix
@pytest.mark.parametrize("env", cases(LOCALES))
def test_locale(env, home):
    status, out, err = child("--format", "env", env=env)
    assert (status, TOKEN.sub("", out), err) == (
        0, "export AWS_BEARER_TOKEN_BEDROCK=\nexport AWS_REGION=us-east-1\n", "")
    said = failure(child("--profile", os.fsdecode(b"d\xc3\xa9v\xff"), env=env))
    assert missing(["profile d.+v.+ is in neither"], said) == []


ANSWERS = [
    ("token", []), ("help", ["--help"]), ("version", ["--version"]), ("inspect", ["inspect"]),
    ("check", ["check"]), ("converse", ["converse", "--model", "m", "-q", "Hi"]),
]


@pytest.fixture
def bedrock():
    with fake_aws.BedrockRuntime() as fake:
        yield fake


def at(fake):
    return {"AWS_ENDPOINT_URL_BEDROCK": fake.url, "AWS_ENDPOINT_URL_BEDROCK_RUNTIME": fake.url}


@on_posix
@pytest.mark.parametrize("args", cases(ANSWERS))
def test_closed_pipe_is_silent(args, bedrock):
    token = str(bt.get_token(bt.Credentials(KEY_ID, SECRET), "us-east-1"))
    reader, writer = os.pipe()
    os.close(reader)
    try:
        result = child(*args, stdout=writer, env={VARIABLE: token, **at(bedrock)})
    finally:
        os.close(writer)
    assert result.err == ""


@on_posix
@pytest.mark.skipif(not shutil.which("bash"), reason="bash is not installed")
def test_closed_pipe_in_a_shell():
    assert child("-c", '"$@" | true', "bash", *MODULE, program=["bash"]) == (0, "", "")


@on_posix
@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
@pytest.mark.parametrize("args", cases(ANSWERS[:2]))
def test_full_disk_is_an_error(args):
    with open("/dev/full", "wb") as full:
        result = child(*args, stdout=full)
    assert result.status == 1
    assert missing(["space"], one_line(result.err)) == []


class Full(io.StringIO):
    def write(self, text):
        raise OSError(28, "No space left on device")


def test_full_stdout_of_a_program_that_calls_main(cli, monkeypatch):
    monkeypatch.setattr(sys, "stdout", Full())
    assert missing(["space"], failure(cli())) == []


WITHOUT_STREAMS = [
    ("stdout", ">&-", [], (1, ""), "stdout|output"),
    ("stderr", "2>&-", [], (0, "TOKEN\n"), ""),
    ("stderr for an error", "2>&-", ["--profile", "nowhere"], (1, ""), ""),
    ("stderr for wrong usage", "2>&-", ["--nothing"], (2, ""), ""),
    ("stderr for a note of exec", "2>&-", ["exec", "--", "echo", "done"], (0, "done\n"), ""),
    ("stdin", "<&-", [], (0, "TOKEN\n"), ""),
    ("stdin to be read", "<&-", ["converse", "--model", "m"], (1, ""), "text"),
    ("stdin to be inspected", "<&-", ["inspect"], (1, ""), "token"),
]


@on_posix
@pytest.mark.parametrize("redirection, args, want, says", cases(WITHOUT_STREAMS))
def test_closed_stream(redirection, args, want, says):
    result = child("-c", f'exec "$@" {redirection}', "sh", *MODULE, *args, program=["sh"])
    assert (result.status, TOKEN.sub("TOKEN", result.out)) == want
    assert missing([says], one_line(result.err)) == [] if says else result.err == ""


def once_asked(asked):
    """A fault that tells of the request, and says nothing to it."""
    def send(handler):
        asked.set()
        fake_aws.hang(handler)
    return Forever(send)


@pytest.fixture
def interruptible():
    """Ctrl-C reaches children, also where it is ignored because the tests run in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


METADATA = {**NO_KEYS, "AWS_EC2_METADATA_DISABLED": None, "AWS_METADATA_SERVICE_TIMEOUT": "20",
            "AWS_EC2_METADATA_SERVICE_ENDPOINT": "{}"}
INTERRUPTED = [
    ("instance metadata", [], METADATA),
    ("sts", [], {**NO_KEYS, "AWS_WEB_IDENTITY_TOKEN_FILE": str(FILE), "AWS_ROLE_ARN": ROLE_ARN}),
    ("exec", ["exec", "--", "echo", "it runs"], METADATA),
    ("check", ["check"], {}),
    ("converse", ["converse", "--model", "m", "Hi"], {}),
]


@on_posix
@pytest.mark.parametrize("args, env", cases(INTERRUPTED))
def test_interrupted(args, env, interruptible):
    asked = threading.Event()
    with fake_aws.Fake(faults=[once_asked(asked)]) as fake:
        env = {name: value and value.format(fake.url) for name, value in env.items()}
        process = start([*MODULE, *args], {"AWS_ENDPOINT_URL": fake.url, **env})
        assert asked.wait(5), ended(process)
        process.send_signal(signal.SIGINT)
        assert ended(process) == (130, "", "")


def test_region_of_the_instance(cli):
    with fake_aws.Imds(expiration="2099-01-01T00:00:00Z", region="eu-central-1") as fake:
        result = cli(env={**METADATA, "AWS_EC2_METADATA_SERVICE_ENDPOINT": fake.url,
                          "AWS_REGION": None})
    assert (result.status, result.err) == (0, "")
    assert bt.decode_token(result.out.strip())["region"] == "eu-central-1"


# --- MFA -----------------------------------------------------------------------------------

# What a terminal window does: a session of its own, whose terminal is this one.
WITH_TERMINAL = (
    "import fcntl, os, sys, termios; terminal = int(sys.argv[1]);"
    " fcntl.ioctl(terminal, termios.TIOCSCTTY, 0); os.close(terminal);"
    " os.execv(sys.argv[2], sys.argv[2:])"
)


@pytest.fixture
def terminal():
    """Both ends of a terminal: ours, and the one for a program."""
    ends = os.openpty()
    yield ends
    for end in ends:
        os.close(end)


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


@pytest.fixture
def mfa_role(home):
    write_config(home, ROLE)
    with fake_aws.Sts(keys={KEY_ID: (SECRET, None)}, mfa=(MFA, "123456")) as sts:
        yield {"AWS_ENDPOINT_URL_STS": sts.url, "AWS_PROFILE": "p", **NO_KEYS}
        assert len(sts.requests) <= 1


MFA_CODES = [
    ("right", b"123456\n", None),
    ("with blanks", b" 123456 \n", None),
    ("wrong", b"654321\n", ["role/Admin", "AccessDenied"]),
    ("no code", b"12345\n", ["six digits", "mfa/dev"]),
]


@on_posix
@pytest.mark.parametrize("typed, words", cases(MFA_CODES))
def test_mfa_code_from_the_terminal(typed, words, mfa_role, terminal):
    ours, theirs = terminal
    process = start([sys.executable, "-c", WITH_TERMINAL, str(theirs), *MODULE, "-q"], mfa_role,
                    start_new_session=True, pass_fds=[theirs])
    assert MFA in read_until(MFA.encode(), ours)
    os.write(ours, typed)
    result = ended(process)
    if words is None:
        assert bt.decode_token(result.out.rstrip("\n"))["access_key_id"] == "ASIAADMINXXXXXXXXXXX"
        assert (result.status, result.err) == (0, "")
    else:
        assert missing(words, failure(result)) == []
    assert typed.decode().strip() not in read_until(b"\n", ours)


@on_posix
def test_mfa_code_without_a_terminal(mfa_role):
    result = child(env=mfa_role, stdin=b"123456\n", start_new_session=True)
    assert missing([MFA, "terminal"], failure(result)) == []


# --- exec ----------------------------------------------------------------------------------

def sh(script):
    return ["sh", "-c", script]


STATUSES = [
    ("good", sh("exit 0"), 0),
    ("bad", sh("exit 3"), 3),
    ("the same as of ours", sh("exit 130"), 130),
    ("terminated", sh("kill -TERM $$; exit 1"), -signal.SIGTERM if os.name != "nt" else 0),
    ("pipe", sh("kill -PIPE $$; exit 1"), -13),
    ("file size", sh("ulimit -c 0; kill -XFSZ $$; exit 1"), -25),
    ("as a shell sees a signal", None, 143),
]


@on_posix
@pytest.mark.parametrize("command, status", cases(STATUSES))
def test_exec_status_is_that_of_the_command(command, status):
    if command is None:
        result = child("-c", '"$@"; exit $?', "sh", *MODULE, "exec", "-q", "--",
                       *sh("kill -TERM $$"), program=["sh"])
    else:
        result = child("exec", "-q", "--", *command)
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
def test_exec_of_what_cannot_run(command, status, tmp_path):
    (tmp_path / "plain").write_text("#!/bin/sh\nexit 0\n")
    (tmp_path / "folder").mkdir()
    shutil.copy(FILE, tmp_path)
    result = child("exec", "-q", "--", command, cwd=tmp_path, env={"PATH": str(tmp_path)})
    assert (result.status, result.out) == (status, "")
    assert command in one_line(result.err)


SHOW = [sys.executable, "-c",
        "import json, os, sys; print(json.dumps([os.getpid(), sys.argv[1:], dict(os.environ)]))"]
REGIONS = {"AWS_REGION": "us-east-1", "AWS_DEFAULT_REGION": "us-east-1"}
ALL_KEYS = {
    **KEYS, "AWS_SESSION_TOKEN": SESSION, "AWS_SECURITY_TOKEN": SESSION,
    "AWS_CREDENTIAL_EXPIRATION": "2999-01-01T00:00:00Z", "AWS_PROFILE": "default",
    "AWS_DEFAULT_PROFILE": "default", "AWS_WEB_IDENTITY_TOKEN_FILE": "f", "AWS_ROLE_ARN": "a",
    "AWS_ROLE_SESSION_NAME": "n", "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI": "/r",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI": "http://localhost/f",
    "AWS_CONTAINER_AUTHORIZATION_TOKEN": SESSION, "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE": "f",
}
NO_SECRETS = {
    "AWS_CONFIG_FILE": "/nowhere/config", "AWS_SHARED_CREDENTIALS_FILE": "/nowhere/credentials",
    "AWS_CA_BUNDLE": "/nowhere/bundle", "AWS_ENDPOINT_URL": REFUSED, "AWS_SDK_LOAD_CONFIG": "1",
    "AWS_EC2_METADATA_DISABLED": "true", "AWS_USE_FIPS_ENDPOINT": "false", "AWS": "1", "OTHER": "2",
}
CHILDREN = [
    ("token and region", [], {}, {VARIABLE: "TOKEN", **REGIONS, **KEYS}, []),
    ("a default region is kept", [], {"AWS_DEFAULT_REGION": "eu-west-1"},
     {"AWS_REGION": "us-east-1", "AWS_DEFAULT_REGION": "eu-west-1"}, []),
    ("another region and variable", ["--region", "eu-west-2", "--var", "OPENAI_API_KEY"], {},
     {"AWS_REGION": "eu-west-2", "AWS_DEFAULT_REGION": "eu-west-2", "OPENAI_API_KEY": "TOKEN"},
     [VARIABLE]),
    ("two variables", ["--var", "A", "--var", VARIABLE], {}, {"A": "TOKEN", VARIABLE: "TOKEN"}, []),
    ("an older token is replaced", [], {VARIABLE: LONG_TERM}, {VARIABLE: "TOKEN"}, []),
    ("keys stay", [], ALL_KEYS, ALL_KEYS, []),
    ("--only-bedrock", ["--only-bedrock"], {**ALL_KEYS, **NO_SECRETS},
     {VARIABLE: "TOKEN", **REGIONS, **NO_SECRETS}, list(ALL_KEYS)),
]


@pytest.mark.parametrize("options, env, want, absent", cases(CHILDREN))
def test_exec_environment(options, env, want, absent):
    result = child("exec", "-q", *options, "--", *SHOW, env={"AWS_DEFAULT_REGION": None, **env})
    environ = {name: TOKEN.sub("TOKEN", value) for name, value in json.loads(result.out)[2].items()}
    assert {name: environ.get(name) for name in want} == want
    assert [name for name in absent if name in environ] == []
    assert (result.status, result.err) == (0, "")


@pytest.mark.parametrize("default, notes", [("us-east-1", 0), ("eu-west-1", 1)])
def test_exec_tells_of_another_default_region(default, notes):
    result = child("exec", "--", *SHOW, env={"AWS_DEFAULT_REGION": default})
    assert result.status == 0
    assert result.err.count("AWS_DEFAULT_REGION is another region") == notes


def test_exec_passes_arguments_and_no_token():
    given = ["--", "-q", "--help", "", "a b", "*", "$HOME", "'", "ä"]
    result = child("exec", "-q", "--", *SHOW, *given)
    assert json.loads(result.out)[1] == given


@on_posix
def test_exec_becomes_the_command():
    process = start([*MODULE, "exec", "-q", "--", *SHOW])
    assert json.loads(ended(process).out)[0] == process.pid


@on_posix
def test_exec_leaves_bytes_alone():
    assert child("exec", "-q", "--", "printf", "%s", b"\xff").out == "\\xff"
    assert child("exec", "-q", "--", "cat", stdin=b"from stdin").out == "from stdin"


NOTES = [
    ("of when it ends", ["exec"], r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ"),
    ("none", ["exec", "-q"], None),
    ("none, said before the command", ["--quiet", "exec"], None),
]


@pytest.mark.parametrize("args, note", cases(NOTES))
def test_exec_note(args, note):
    result = child(*args, "--", sys.executable, "-c", "print('its own')")
    assert (result.status, result.out.split()) == (0, ["its", "own"])
    assert missing([note], one_line(result.err)) == [] if note else result.err == ""


def test_exec_options_before_the_command():
    result = child("--region", "eu-west-2", "--var", "A", "exec", "-q", "--", *SHOW)
    environ = json.loads(result.out)[2]
    assert (environ["AWS_REGION"], bt.decode_token(environ["A"])["region"]) == ("eu-west-2",) * 2


def test_exec_without_a_token_starts_nothing(tmp_path):
    marker = tmp_path / "marker"
    write = ["exec", "--", sys.executable, "-c", f"open({str(marker)!r}, 'w')"]
    assert missing(["credentials"], failure(child(*write, env=NO_KEYS))) == []
    assert not marker.exists()
    assert child(*write).status == 0
    assert marker.exists()


# --- inspect -------------------------------------------------------------------------------

def token_of_age(seconds, lifetime=43200, credentials=TEMPORARY, region="us-east-1"):
    moment = datetime.now(timezone.utc) - timedelta(seconds=seconds)
    return str(bt.get_token(credentials, region, lifetime, now=moment))


def rewritten(token, old, new):
    """The token with other text inside."""
    text = b64decode(token[len(PREFIX):]).replace(old.encode(), new.encode())
    return PREFIX + b64encode(text).decode()


def inspected(result):
    """The facts of the text form, which stand in a column of their own, and the warnings."""
    lines = [re.fullmatch(r"(\S+(?: \S+)*)( {2,})(\S.*)", line) for line in result.out.splitlines()]
    assert all(lines) and len({len(line[1] + line[2]) for line in lines}) == 1
    warnings = [one_line(line) for line in result.err.splitlines(True)]
    return {line[1]: line[3] for line in lines}, warnings


STATES = [
    # seconds since it was made, lifetime, state, exit
    ("hours left", 90, 43200, "valid, 11 h 58 min left", 0),
    ("whole hours left", -30, 10800, "valid, 3 h left", 0),
    ("minutes left", 30, 2700, "valid, 44 min left", 0),
    ("seconds left", 1, 40, r"valid, 3\d s left", 0),
    ("a little early", -240, 3600, "valid, 1 h 3 min left", 0),
    ("expired hours ago", 4 * 3600 + 5, 3600, "expired 3 h ago", 1),
    ("expired hours and minutes ago", 5 * 3600 + 20 * 60 + 5, 3600, "expired 4 h 20 min ago", 1),
    ("expired minutes ago", 3600 + 125, 3600, "expired 2 min ago", 1),
    ("expired seconds ago", 3610, 3600, r"expired 1\d s ago", 1),
    ("expired this second", 3600, 3600, r"expired \d s ago", 1),
    ("expired days ago", 86400 * 2 + 3605 * 2, 3600, "expired 2 d 1 h ago", 1),
    ("not valid yet", -7230, 3600, "not valid yet, .*2 h.*", 1),
]


@pytest.mark.parametrize("age, lifetime, state, status", cases(STATES))
def test_inspect_state(age, lifetime, state, status, cli):
    token = token_of_age(age, lifetime)
    result = cli("inspect", stdin=token)
    facts, _ = inspected(result)
    assert re.fullmatch(state, facts["state"])
    for_programs = cli("inspect", "--format", "json", stdin=token)
    document = json.loads(for_programs.out)
    assert document["valid"] is (status == 0)
    assert document["expires_in"] == lifetime
    assert document["state"].split()[0] == state.split()[0]
    assert 0 <= document["seconds_left"] <= max(0, lifetime - age)
    assert (result.status, for_programs.status) == (status, status)


def test_inspect_facts(cli):
    token = token_of_age(90)
    said = bt.decode_token(token)
    issued, expires = rfc3339(said["issued_at"]), rfc3339(said["expires_at"])
    facts, warnings = inspected(cli("inspect", stdin=token))
    # The words behind it say that AWS does not promise it.
    assert re.fullmatch("029608264753 .*AWS.*", facts.pop("account id"))
    assert facts == {
        "state": "valid, 11 h 58 min left", "kind": "short-term",
        "access key id": "ASIAQNZGKIQY56JQ7WML", "region": "us-east-1", "service": "bedrock",
        "issued at": issued, "expires at": expires, "expires in": "43200", "temporary": "yes"}
    document = json.loads(cli("inspect", "--format", "json", stdin=token).out)
    assert 42000 < document.pop("seconds_left") <= 43110
    assert len(document.pop("warnings")) == len(warnings) == 1
    assert document.pop("state").startswith("valid")
    assert document == {
        "valid": True, "kind": "short-term", "access_key_id": "ASIAQNZGKIQY56JQ7WML",
        "account_id": "029608264753", "region": "us-east-1", "service": "bedrock",
        "issued_at": issued, "expires_at": expires, "expires_in": 43200, "temporary": True}


def test_inspect_facts_of_a_long_term_key(cli):
    facts, warnings = inspected(cli("inspect", stdin=LONG_TERM))
    assert (facts["kind"], facts["user name"], facts["account id"]) == (
        "long-term", "BedrockAPIKey-x7k2-at-123456789012", "123456789012")
    assert missing(["long-term key"], "\n".join(warnings)) == []
    result = cli("inspect", "--format", "json", stdin=LONG_TERM)
    document = json.loads(result.out)
    assert (result.status, document["valid"], document["kind"]) == (0, True, "long-term")
    assert "expires_at" not in document


def test_inspect_keeps_secrets(cli):
    token = token_of_age(90)
    payload = b64decode(token[len(PREFIX):]).decode()
    signature = re.search("X-Amz-Signature=([0-9a-f]+)", payload)[1]
    secrets = [signature, SESSION, SECRET, token, LONG_TERM]
    for format in ("text", "json"):
        for key in (token, LONG_TERM):
            _, out, err = cli("inspect", "--format", format, stdin=key)
            assert [text for text in secrets if text in out + err] == []


STATIC = bt.Credentials(KEY_ID, SECRET)
TEMPORARY_WARNING = "temporary credentials"
WARNINGS = [
    # credentials, age, what is around the token, environment, what is warned of
    ("none", STATIC, 90, "{}", {}, []),
    ("LF", STATIC, 90, "{}\n", {}, []),
    ("CRLF", STATIC, 90, "{}\r\n", {}, []),
    ("temporary", TEMPORARY, 90, "{}", {}, [TEMPORARY_WARNING]),
    ("AWS_REGION", STATIC, 90, "{}", {"AWS_REGION": "us-west-2"}, ["us-east-1 .*us-west-2"]),
    ("AWS_DEFAULT_REGION", STATIC, 90, "{}", {"AWS_REGION": " ", "AWS_DEFAULT_REGION": "us-west-2"},
     ["us-east-1 .*us-west-2"]),
    ("AWS_REGION goes first", STATIC, 90, "{}", {"AWS_DEFAULT_REGION": "us-west-2"}, []),
    ("no region", STATIC, 90, "{}", {"AWS_REGION": None}, []),
    ("blank in front", STATIC, 90, " {}\n", {}, ["blank"]),
    ("blank behind", STATIC, 90, "{} \n", {}, ["blank"]),
    ("tab", STATIC, 90, "\t{}", {}, ["blank"]),
    ("line break in front", STATIC, 90, "\n{}", {}, ["blank|line break"]),
    ("quotes", STATIC, 90, '"{}"', {}, ["quotes"]),
    ("other quotes", STATIC, 90, "'{}'\n", {}, ["quotes"]),
    ("Bearer", STATIC, 90, "Bearer {}", {}, ["Bearer"]),
    ("bearer in quotes", STATIC, 90, "bearer '{}'", {}, ["Bearer"]),
    ("clock", STATIC, -7230, "{}", {}, ["clock"]),
    ("several", TEMPORARY, 90, ' "{}"', {"AWS_REGION": "us-west-2"},
     ["blank", "quotes", TEMPORARY_WARNING, "us-west-2"]),
]


@pytest.mark.parametrize("credentials, age, around, env, want", cases(WARNINGS))
def test_inspect_warning(credentials, age, around, env, want, cli):
    text = around.format(token_of_age(age, credentials=credentials))
    result = cli("inspect", stdin=text, env=env)
    document = json.loads(cli("inspect", "--format", "json", stdin=text).out)
    for warnings in (inspected(result)[1], document["warnings"]):
        assert missing(want, "\n".join(warnings)) == []
        assert [text for text in warnings if not re.search("|".join(want) or "$^", text)] == []
    assert result.status == (0 if age > 0 else 1)


WIDE = token_of_age(90, credentials=bt.Credentials("ASIAEXAMPLE", SECRET, SESSION * 30))
DAMAGED = [
    ("nothing", "", ["no token", VARIABLE]),
    ("blanks", " \n", ["no token"]),
    ("something else", "sk-0123456789abcdef", ["bedrock-api-key-", "ABSK"]),
    ("an access key", KEY_ID, ["not a Bedrock API key"]),
    ("cut by setx", WIDE[:1024], ["1,?024", "setx"]),
    ("cut elsewhere", WIDE[:1020], ["cut off", "1020"]),
    ("cut inside a base64 group", WIDE[:777], ["cut off", "777"]),
    ("wrapped", WIDE[:500] + "\n" + WIDE[500:], ["damaged"]),
    ("another action", rewritten(WIDE, "CallWithBearerToken", "ListUsers"), ["not a short-term"]),
    ("no date", rewritten(WIDE, "X-Amz-Date", "X-Amz-Day"), ["X-Amz-Date"]),
    ("no lifetime", rewritten(WIDE, "Expires=43200", "Expires=43201"), ["damaged"]),
    ("long-term in part", LONG_TERM[:30], ["cut off|long-term"]),
]


@pytest.mark.parametrize("text, words", cases(DAMAGED))
def test_inspect_damaged(text, words, cli):
    for args in ([], ["--format", "json"]):
        said = failure(cli("inspect", *args, stdin=text))
        assert missing(words, said) == []
        assert not any(text[at:at + 12] in said for at in range(16, len(text) - 12))


PLACES = [
    ("stdin", {}, b"{}", 0),
    ("environment", {VARIABLE: "{}"}, b"", 0),
    ("stdin before the environment", {VARIABLE: "x"}, b"{}", 0),
    ("environment for blanks", {VARIABLE: "{}"}, b"\n", 0),
    ("bytes that are no text", {}, b"\xff\xfe{}", 1),
]


@pytest.mark.parametrize("env, stdin, status", cases(PLACES))
def test_inspect_reads(env, stdin, status):
    token = token_of_age(90, credentials=STATIC)
    env = {name: value.format(token) for name, value in env.items()}
    result = child("inspect", stdin=stdin.replace(b"{}", token.encode()), env=env)
    assert result.status == status
    assert inspected(result)[0]["access key id"] == KEY_ID if status == 0 else failure(result)


def test_inspect_shows_control_characters_of_others_as_text(cli):
    token = rewritten(token_of_age(90), TEMPORARY.access_key_id, "A%1B[2J%0Astate          valid")
    _, out, err = cli("inspect", stdin=token)
    assert "\033" not in out + err
    assert [line[:5] for line in out.splitlines()].count("state") <= 1


COLOURS = [
    ("terminal", {}, True),
    ("NO_COLOR", {"NO_COLOR": "1"}, False),
    ("empty NO_COLOR", {"NO_COLOR": ""}, True),
    ("dumb terminal", {"TERM": "dumb"}, False),
    ("unknown terminal", {"TERM": None}, False),
]


@on_posix
@pytest.mark.parametrize("env, coloured", cases(COLOURS))
def test_inspect_colours(env, coloured, terminal):
    ours, theirs = terminal
    env = {"TERM": "xterm-256color", "NO_COLOR": None, VARIABLE: token_of_age(90), **env}
    # The terminal is stdin too, and not waited for: the token is in the environment.
    result = ended(start([*MODULE, "inspect"], env, stdin=theirs, stdout=theirs))
    shown = read_until(b"temporary", ours)
    assert result.status == 0
    assert ("\033[32mvalid" in shown) == coloured
    assert ("\033[" in shown) == coloured
    assert "valid, 11 h 58 min left" in re.sub("\033\\[[0-9;]*m", "", shown)


@on_posix
def test_inspect_has_no_colours_in_a_pipe():
    result = child("inspect", env={"TERM": "xterm-256color", VARIABLE: token_of_age(90)})
    assert result.out.startswith("state ") and "\033" not in result.out
    assert result.status == 0


@on_posix
def test_inspect_does_not_wait_for_a_terminal(terminal):
    process = start([*MODULE, "inspect"], stdin=terminal[1])
    assert missing(["no token", VARIABLE], failure(ended(process))) == []


# --- check ---------------------------------------------------------------------------------

def refusal(status, code, message):
    return answer(status, {"message": message}, [("x-amzn-ErrorType", code), fake_aws.REQUEST_ID])


MODEL = "us.amazon.nova-micro-v1:0"
NO_ACCESS = "You don't have access to the model with the specified model ID."
NO_MODEL = "The provided model identifier is invalid."
DENIED = "User: arn:aws:iam::123456789012:user/dev is not authorized to perform: bedrock:{}"
NOT_LISTED, NOT_INVOKED = DENIED.format("ListFoundationModels"), DENIED.format("InvokeModel")
BUSY = Forever(refusal(429, "ThrottlingException", "Too many requests"))
LONG_AGO, FAR_AWAY = "Sat, 01 Jan 2000 00:00:00 GMT", "Tue, 01 Jan 2999 00:00:00 GMT"
CHECKS = [
    # arguments, settings of the service, its faults, exit, what is said
    ("accepted", [], {}, [], 0, ["accepted", r"^accepted in us-east-1: a newly made token\n\Z"]),
    ("another region", ["--region", "eu-west-1"], {}, [], 0, ["accepted", "eu-west-1"]),
    ("longest timeout", ["--timeout", "3600"], {}, [], 0, ["accepted"]),
    ("not valid", [], {"denial": fake_aws.NOT_VALID}, [], 1, [
        "another region than us-east-1", "expired", "damaged"]),
    ("expired", [], {"denial": fake_aws.EXPIRED}, [], 1, ["expired", "new"]),
    ("prefix", [], {"denial": fake_aws.BAD_PREFIX}, [], 1, ["not a Bedrock API key"]),
    ("may not call", [], {"denial": fake_aws.NOT_ALLOWED}, [], 1, [
        "bedrock:CallWithBearerToken", "allow"]),
    ("credentials expired", [], {"denial": fake_aws.DEAD_CREDENTIALS}, [], 1, [
        "credentials .*expired", "new"]),
    ("clock ahead", [], {"denial": fake_aws.NOT_VALID, "date": LONG_AGO}, [], 1, [
        "clock", "ahead"]),
    ("clock behind", [], {"denial": fake_aws.EXPIRED, "date": FAR_AWAY}, [], 1, [
        "clock", "behind"]),
    ("date unknown", [], {"denial": fake_aws.EXPIRED, "date": "today"}, [], 1, ["new"]),
    ("may not list", [], {"denial": NOT_LISTED}, [], 0, [
        "accepted", "bedrock:ListFoundationModels"]),
    ("busy", [], {}, [BUSY], 0, ["accepted", "Too many requests"]),
    ("unknown refusal", [], {"denial": "Not today"}, [], 1, ["403", "Not today"]),
    ("no token arrives", [], {"denial": "Missing Authentication Token"}, [], 1, ["403"]),
    ("unauthorized", [], {}, [refusal(401, "UnauthorizedException", "No")], 1, ["401", "No"]),
    ("internal error", [], {}, [refusal(500, "InternalServerException", "Oh")], 1, ["500"]),
    ("redirect", [], {}, [fake_aws.redirect(f"{REFUSED}/")], 1, ["302"]),
    *((f"page of a proxy, {status}", [], {}, [html(status)], 1, ["proxy"])
      for status in (200, 403, 404, 502)),
    ("page of a busy proxy", [], {}, [Forever(html(429))], 1, ["proxy"]),
    ("model", ["--model", MODEL], {}, [], 0, ["accepted", MODEL]),
    *((f"model, {name}", ["--model", MODEL], {}, [fault], 1, ["accepted", MODEL, said])
      for name, fault, said in [
          ("no access", refusal(403, "AccessDeniedException", NO_ACCESS), "access"),
          ("not allowed", refusal(403, "AccessDeniedException", NOT_INVOKED), ":InvokeModel"),
          ("not found", refusal(400, "ValidationException", NO_MODEL), "identifier is invalid"),
          ("gone", refusal(404, "ResourceNotFoundException", "End of life"), "End of life"),
          ("busy", BUSY, "Too many requests")]),
    ("model, unauthorized", ["--model", MODEL], {}, [refusal(401, "UnauthorizedException", "No")],
     1, ["401"]),
    ("model, not valid", ["--model", MODEL], {"denial": fake_aws.NOT_VALID}, [], 1, [
        "another region"]),
    ("model, unknown refusal", ["--model", MODEL], {"denial": "Not today"}, [], 1, ["Not today"]),
    *((f"model, page of a proxy, {status}", ["--model", MODEL], {}, [html(status)], 1, ["proxy"])
      for status in (200, 403, 502)),
    ("hanging", ["--timeout", "0.1"], {}, [fake_aws.hang], 1, ["127.0.0.1", r"0\.1 s"]),
    ("model, hanging", ["--timeout", "0.1", "--model", MODEL], {}, [fake_aws.hang], 1, [
        r"0\.1 s"]),
]


@pytest.mark.parametrize("args, settings, faults, status, words", cases(CHECKS))
def test_check(args, settings, faults, status, words, cli):
    with fake_aws.BedrockRuntime(faults=faults, **settings) as fake:
        result = cli("check", *args, env=at(fake))
    if status:
        said = failure(result)
    else:
        assert (result.status, result.err, result.out.count("\n")) == (0, "", 1)
        said = result.out
    assert missing(words, said) == []
    for word in ("accepted", "clock"):
        assert (word in said) == (word in words)


def test_check_sends_what_it_would_use(cli):
    with fake_aws.BedrockRuntime() as fake:
        cli("check", env=at(fake))
        cli("check", "--model", MODEL)
        cli("check", env={VARIABLE: f" {LONG_TERM}\n"})
    minted, model, own = fake.requests
    assert TOKEN.fullmatch(minted.headers["Authorization"][len("Bearer "):])
    assert own.headers["Authorization"] == f"Bearer {LONG_TERM}"
    assert minted.line == own.line == "GET /foundation-models"
    assert model.line == "POST /model/us.amazon.nova-micro-v1%3A0/converse"
    assert model.json["inferenceConfig"] == {"maxTokens": 1}


OWN_TOKENS = [
    ("of another region", token_of_age(90, region="eu-west-1"), ["eu-west-1", "us-east-1"], 0),
    ("with a blank inside", "bedrock-api-key- x", [VARIABLE, "blanks"], 0),
    ("of another kind", "sk-0123456789", ["not a Bedrock API key", "403"], 1),
]


@pytest.mark.parametrize("token, words, asked", cases(OWN_TOKENS))
def test_check_own_token(token, words, asked, cli):
    with fake_aws.BedrockRuntime(token="another") as fake:
        said = failure(cli("check", env={VARIABLE: token, **at(fake)}))
    assert missing(words, said) == []
    assert len(fake.requests) == asked


def test_check_asks_the_control_plane(cli, nobody_answers):
    assert "bedrock.us-east-1.amazonaws.com cannot be used" in failure(cli("check"))
    assert set(nobody_answers) == {("bedrock.us-east-1.amazonaws.com", 443)}


def test_check_own_token_without_credentials_or_region(cli):
    token = token_of_age(90, region="eu-west-1")
    with fake_aws.BedrockRuntime(token=token) as fake:
        result = cli("check", env={**NO_KEYS, "AWS_REGION": None, VARIABLE: token, **at(fake)})
    assert result.status == 0
    assert missing(["accepted", "eu-west-1", VARIABLE], result.out) == []


UNREACHABLE = [
    ("nobody there", {"AWS_ENDPOINT_URL_BEDROCK": "{}"}, [r"127\.0\.0\.1:\d+", "refused"]),
    ("no proxy there", {"AWS_ENDPOINT_URL_BEDROCK": "http://bedrock.test", "HTTP_PROXY": "{}"},
     ["bedrock.test", r"proxy 127\.0\.0\.1:\d+", "refused"]),
    ("not an address", {"AWS_ENDPOINT_URL_BEDROCK": "bedrock"}, ["endpoint", "bedrock"]),
]


@pytest.mark.parametrize("env, words", cases(UNREACHABLE))
def test_check_unreachable(env, words, cli):
    url = fake_aws.refused_url()
    said = failure(cli("check", env={name: value.format(url) for name, value in env.items()}))
    assert missing(words, said) == []


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """A self-signed certificate of this machine, and its key."""
    if not shutil.which("openssl"):
        pytest.skip("openssl is not installed")
    paths = [str(tmp_path_factory.mktemp("tls") / name) for name in ("certificate.pem", "key.pem")]
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2",
         "-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1",
         "-addext", "keyUsage=digitalSignature,keyCertSign", "-out", paths[0], "-keyout", paths[1]],
        check=True, capture_output=True, timeout=20)
    return paths


CA_BUNDLES = [
    ("not trusted", None, 1, ["certificate", "self.signed", "AWS_CA_BUNDLE"]),
    ("trusted", "{}", 0, ["accepted"]),
    ("not there", "/nowhere/bundle.pem", 1, ["/nowhere/bundle.pem"]),
    ("no certificates", str(FILE), 1, ["bedrock_token.py"]),
]


@pytest.mark.parametrize("bundle, status, words", cases(CA_BUNDLES))
def test_check_tls(bundle, status, words, cli, certificate):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    with fake_aws.BedrockRuntime() as fake:
        fake._server.socket = context.wrap_socket(fake._server.socket, server_side=True)
        result = cli("check", env={
            "AWS_ENDPOINT_URL_BEDROCK": fake.url.replace("http:", "https:"),
            "AWS_CA_BUNDLE": bundle and bundle.format(certificate[0])})
    assert result.status == status
    assert missing(words, failure(result) if status else result.out) == []


# --- converse ------------------------------------------------------------------------------

TEXTS = [
    ("argument", ["Why is the sky blue?"], "", "Why is the sky blue?"),
    ("stdin", [], "Why?\nTell me.", "Why?\nTell me."),
    ("argument before stdin", ["Why?"], "Who?", "Why?"),
    ("after --", ["--", "--model"], "", "--model"),
    ("not ASCII", ["Grüße, 世界"], "", "Grüße, 世界"),
]
SAID = "bedrock_token: end_turn, 1 tokens in, 2 out\n"


@pytest.mark.parametrize("args, stdin, want", cases(TEXTS))
def test_converse(args, stdin, want, cli, bedrock):
    result = cli("converse", "--model", MODEL, *args, stdin=stdin, env=at(bedrock))
    assert result == (0, "Hello, world\n", SAID)
    [request] = bedrock.requests
    assert request.line == "POST /model/us.amazon.nova-micro-v1%3A0/converse-stream"
    assert request.json["messages"] == [{"role": "user", "content": [{"text": want}]}]


def test_converse_quietly(cli, bedrock):
    result = cli("converse", "--model", MODEL, "-q", "Hi", env=at(bedrock))
    assert result == (0, "Hello, world\n", "")


START, HELLO, WORLD, STOP, END, USAGE = (event(*each) for each in fake_aws.EVENTS)
EXCEPTION = frame([(":message-type", "exception"), (":exception-type", "throttlingException")],
                  b'{"message": "slow down"}')
FAILURE = frame([(":message-type", "error"), (":error-code", "InternalError"),
                 (":error-message", "out of order")])
CONVERSE_ERRORS = [
    # settings of the service, its faults, what is on stdout, what is said
    ("token", {"denial": fake_aws.NOT_VALID}, [], "", ["another region", "expired"]),
    ("model", {}, [refusal(400, "ValidationException", NO_MODEL)], "", ["400", "identifier"]),
    ("page of a proxy", {}, [html(502)], "", ["502", "proxy"]),
    ("another page of it", {}, [html(200)], "", ["stream|proxy"]),
    ("silence", {}, [fake_aws.hang], "", ["no answer", r"0\.2 s"]),
    ("exception first", {"parts": [EXCEPTION]}, [], "", ["throttlingException", "slow down"]),
    ("exception", {"parts": [START, HELLO, EXCEPTION]}, [], "Hello, ", ["slow down"]),
    ("error", {"parts": [START, HELLO, FAILURE]}, [], "Hello, ", ["InternalError", "out of order"]),
    ("end", {"parts": [START, HELLO]}, [], "Hello, ", ["ended"]),
    ("cut", {"parts": [START, HELLO, WORLD[:-9]]}, [], "Hello, ", ["cut off"]),
    ("damage", {"parts": [START, HELLO, WORLD[:-1] + b"!"]}, [], "Hello, ", ["damaged"]),
]


@pytest.mark.parametrize("settings, faults, out, words", cases(CONVERSE_ERRORS))
def test_converse_error(settings, faults, out, words, cli):
    with fake_aws.BedrockRuntime(faults=faults, **settings) as fake:
        result = cli("converse", "--model", MODEL, "--timeout", "0.2", "Hi", env=at(fake))
    assert (result.status, result.out.rstrip("\n")) == (1, out)
    assert missing(words, one_line(result.err)) == []


def test_converse_without_a_text(cli, bedrock):
    said = failure(cli("converse", "--model", "m", env=at(bedrock)))
    assert missing(["text", "stdin"], said) == []
    assert bedrock.requests == []


@pytest.fixture
def halfway():
    """A stream that stops after its first words; the event lets it go on."""
    more = threading.Event()
    with fake_aws.BedrockRuntime(parts=[START, HELLO, more, WORLD, STOP, END, USAGE]) as fake:
        process = start([*MODULE, "converse", "--model", "m", "Hi"], at(fake))
        assert read_until(b"Hello, ", process.stdout.fileno()) == "Hello, "
        yield process, more


def test_converse_prints_as_it_comes(halfway):
    process, more = halfway
    more.set()
    assert ended(process) == (0, "world\n", SAID)


@on_posix
def test_converse_interrupted(interruptible, halfway):
    process, more = halfway
    process.send_signal(signal.SIGINT)
    status, out, err = ended(process)
    more.set()
    assert (status, out.strip(), err) == (130, "", "")


PRINTED = [
    ("UTF-8", {"PYTHONIOENCODING": "utf-8"}, "Grüße, 世界\n"),
    ("C", {"LC_ALL": "C", "PYTHONIOENCODING": None, "PYTHONUTF8": None}, "Grüße, 世界\n"),
    ("ASCII", {"LC_ALL": "C", "PYTHONIOENCODING": "ascii"}, "Gr\\xfc\\xdfe, \\u4e16\\u754c\n"),
]


@on_posix
@pytest.mark.parametrize("env, want", cases(PRINTED))
def test_converse_in_a_locale(env, want):
    words = event("contentBlockDelta", {"delta": {"text": "Grüße, 世界"}, "contentBlockIndex": 0})
    with fake_aws.BedrockRuntime(parts=[START, words, STOP, END, USAGE]) as fake:
        result = child("converse", "--model", "m", "Hi", env={**at(fake), **env})
    assert result == (0, want, SAID)
