"""The command line: tokens, choices, usage, errors, and the streams of a process."""

import io
import json
import os
import re
import shutil
import signal
import sys
import threading
from datetime import datetime, timedelta, timezone

import pytest

import bedrock_token as bt
from tests import fake_aws
from tests.command_line import (
    MODULE, NO_KEYS, TEMPORARY, TOKEN, VARIABLE, at, child, ended, failure, missing,
    on_posix, one_line, read_until, start, start_in_terminal,
)
from tests.fake_aws import Forever
from tests.helpers import FILE, KEY_ID, LONG_TERM, SECRET, SESSION, cases, rfc3339

pytestmark = pytest.mark.usefixtures("usual_environment")

RFC3339 = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")


def write_config(home, text):
    (home / ".aws").mkdir()
    (home / ".aws" / "config").write_text(text, encoding="utf-8")


# --- the token and its formats -------------------------------------------------------------

def test_json(cli):
    text = cli("--format", "json").out
    document = json.loads(text)
    assert text == json.dumps(document, indent=2) + "\n"
    token, expiration, left = (document.pop(key) for key in ("token", "expiration", "expires_in"))
    assert document == {
        "token_type": "Bearer", "service": "bedrock", "region": "us-east-1",
        "source": "environment"}
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
        assert missing(["ends", r"1:00:00|0:59:5\d", end, "environment"], one_line(result.err)) == []
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
    ("ambiguous option", ["--pro", "us-east-1", "--e", "1h"], "--e"),
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
    assert cli("-h") == cli("--help")


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
ERRORS = [
    ("no region", {"AWS_REGION": None}, "", ["AWS_REGION", "AWS_DEFAULT_REGION", "--region"]),
    ("malformed region", {"AWS_REGION": "mars"}, "", ["AWS_REGION", "us-east-1"]),
    ("half a key", {"AWS_ACCESS_KEY_ID": None}, "", ["AWS_ACCESS_KEY_ID"]),
    ("the other half", {"AWS_SECRET_ACCESS_KEY": " "}, "", ["AWS_SECRET_ACCESS_KEY"]),
    ("expired", {"AWS_CREDENTIAL_EXPIRATION": "2020-01-01T00:00:00Z"}, "", [
        "environment", "expired", "2020-01-01"]),
    ("unknown profile", PROFILE, "[profile q]\n", ["profile p", r"\.aws.config", r"\bq\b"]),
    ("unreadable line", PROFILE, a_profile(f"{SECRET}\n"), [r"\.aws.config", r"\b3\b"]),
    ("half a profile", PROFILE, a_profile("aws_access_key_id = A\n"), [
        "profile p", "aws_secret_access_key"]),
    ("process", PROFILE, a_profile(
        f"credential_process = \"{sys.executable}\" -c \"raise SystemExit('no way')\"\n"
    ), ["profile p", r"status 1\b", "no way"]),
    ("process that is not there", PROFILE, a_profile("credential_process = /nowhere/tool\n"), [
        "profile p", "/nowhere/tool"]),
    ("sso", PROFILE, a_profile(f"{SSO}sso_region = us-east-1\nsso_start_url = https://x\n"), [
        "profile p", "aws sso login --profile p"]),
    ("sso in part", PROFILE, a_profile(SSO), ["profile p", "sso_region", "sso_start_url"]),
    ("login", PROFILE, a_profile("login_session = s\n"), ["profile p", "aws login --profile p"]),
    ("role without a source", PROFILE, a_profile(f"role_arn = {ROLE_ARN}\n"), [
        "profile p", "source_profile", "credential_source"]),
    ("container elsewhere", {**NO_KEYS, "AWS_CONTAINER_CREDENTIALS_FULL_URI": "http://x.test"},
     "", ["AWS_CONTAINER_CREDENTIALS_FULL_URI"]),
    ("web identity", {**NO_KEYS, "AWS_WEB_IDENTITY_TOKEN_FILE": "/nowhere/token",
                      "AWS_ROLE_ARN": ROLE_ARN}, "", ["web identity", "/nowhere/token"]),
]


@pytest.mark.parametrize("env, config, words", cases(ERRORS))
def test_error(env, config, words, cli, home):
    write_config(home, config)
    assert missing(words, failure(cli(env=env))) == []


def test_error_of_a_container(cli):
    # A refused connection would be tried again for 5 seconds.
    with fake_aws.Container(faults=[fake_aws.raw(b"SSH-2.0-x\r\n")]) as fake:
        said = failure(cli(env={**NO_KEYS, "AWS_CONTAINER_CREDENTIALS_FULL_URI": fake.url}))
    assert missing(["container", fake.url[7:]], said) == []


def test_error_of_a_service(cli, home):
    write_config(home, ROLE.replace(f"mfa_serial = {MFA}\n", ""))
    with fake_aws.Sts(keys={KEY_ID: ("another", None)}) as sts:
        said = failure(cli("--profile", "p", env={"AWS_ENDPOINT_URL_STS": sts.url}))
    assert missing([r"profile p \(role\)", "SignatureDoesNotMatch"], said) == []


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


LOCALES = [
    ("C", {"LC_ALL": "C", "PYTHONUTF8": None, "PYTHONIOENCODING": None}),
    ("C, not coerced", {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}),
    ("ASCII", {"LC_ALL": "C", "PYTHONIOENCODING": "ascii"}),
]


@on_posix
@pytest.mark.parametrize("env", cases(LOCALES))
def test_locale(env, home):
    status, out, err = child(env=env)
    assert (status, TOKEN.sub("TOKEN", out), err) == (0, "TOKEN\n", "")
    said = failure(child("--profile", os.fsdecode(b"d\xc3\xa9v\xff"), env=env))
    assert missing(["profile d.+v.+ is in neither"], said) == []


ANSWERS = [
    ("token", []), ("help", ["--help"]), ("version", ["--version"]), ("inspect", ["inspect"]),
    ("check", ["check"]), ("converse", ["converse", "--model", "m", "-q", "Hi"]),
]


@on_posix
@pytest.mark.parametrize("args", cases(ANSWERS))
def test_closed_pipe_is_silent(args, runtime):
    token = str(bt.get_token(bt.Credentials(KEY_ID, SECRET), "us-east-1"))
    reader, writer = os.pipe()
    os.close(reader)
    try:
        result = child(*args, stdout=writer, env={VARIABLE: token, **at(runtime)})
    finally:
        os.close(writer)
    assert (result.status, result.err) == (141, "")


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
@pytest.mark.skipif(sys.implementation.name == "pypy", reason=(
    "PyPy notices a signal that comes just before a wait only after that wait"))
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

@pytest.fixture
def mfa_role(home):
    write_config(home, ROLE)
    with fake_aws.Sts(keys={KEY_ID: (SECRET, None)}, mfa=(MFA, "123456")) as sts:
        yield {"AWS_ENDPOINT_URL_STS": sts.url, "AWS_PROFILE": "p", **NO_KEYS}
        assert len(sts.requests) <= 1


MFA_CODES = [
    ("right", b"123456\n", None),
    ("with blanks", b" 123456 \n", None),
    ("wrong", b"654321\n", [r"profile p \(role\)", "AccessDenied"]),
    ("no code", b"12345\n", ["six digits", "mfa/dev"]),
]


@on_posix
@pytest.mark.parametrize("typed, words", cases(MFA_CODES))
def test_mfa_code_from_the_terminal(typed, words, mfa_role, terminal):
    ours, theirs = terminal
    process = start_in_terminal(theirs, [*MODULE, "-q"], mfa_role)
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
def test_mfa_code_for_the_proxy(mfa_role, terminal):
    """It is asked for before the first client comes."""
    ours, theirs = terminal
    process = start_in_terminal(theirs, [*MODULE, "proxy", "--port", "0"], mfa_role)
    assert MFA in read_until(MFA.encode(), ours)
    os.write(ours, b"123456\n")
    assert process.stdout.readline().startswith(b"export OPENAI_BASE_URL=http://127.0.0.1:")
    process.terminate()
    assert ended(process).status == 0
