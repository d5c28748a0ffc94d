"""Roles with an MFA device: the AWS CLI's cache of assumed roles, read and written."""

import json
import os
import stat
import subprocess
import sys
import threading
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

import bedrock_token as bt
from tests.fake_aws import Sts, answer, role_keys
from tests.helpers import ARN, ROOT, cases, check_side_by_side, environ_in, posix

SERIAL = "arn:aws:iam::123456789012:mfa/me"
CODE = "048151"
KEY = "c8aaf674bf1fb9423b95c36173cda00d69297093"

with_modes = posix("Windows has no permission bits")


@pytest.fixture
def sts(environ):
    """It takes one code and no other, and only keys that it knows."""
    with Sts(keys={"AKIABASE": ("secret-BASE", None)}, mfa=(SERIAL, CODE)) as fake:
        environ["AWS_ENDPOINT_URL_STS"] = fake.url
        environ["AWS_REGION"] = "us-east-1"
        yield fake


@pytest.fixture
def cache(home):
    return home / ".aws" / "cli" / "cache"


@pytest.fixture
def configure(home):
    """Writes the config file: a base, and the profile p with a role and these lines."""
    def configure(*lines, mfa=True, home=home):
        (home / ".aws").mkdir(exist_ok=True)
        lines = [f"mfa_serial = {SERIAL}", *lines] if mfa else lines
        (home / ".aws" / "config").write_text("\n".join([
            "[profile base]", "aws_access_key_id = AKIABASE", "aws_secret_access_key = secret-BASE",
            "[profile p]", f"role_arn = {ARN}P", "source_profile = base", *lines, ""]),
            encoding="utf-8")

    return configure


class Asked:
    """Gives the code, and counts."""

    def __init__(self):
        self.serials = []

    def __call__(self, serial):
        self.serials.append(serial)
        return CODE


def ask_no_more(serial):
    raise AssertionError("asked for a code")


def moment(minutes, text="%Y-%m-%dT%H:%M:%SZ"):
    """That many minutes from now."""
    return (datetime.now(timezone.utc) + timedelta(minutes=minutes)).strftime(text)


def entry(minutes=60, role="CACHED", **more):
    """What the AWS CLI writes."""
    key_id, secret, session_token = role_keys(role)
    return {
        "Credentials": {
            "AccessKeyId": key_id, "SecretAccessKey": secret, "SessionToken": session_token,
            "Expiration": moment(minutes, "%Y-%m-%dT%H:%M:%SUTC"), "AccountId": "123456789012",
            **more,
        },
        "AssumedRoleUser": {"AssumedRoleId": "AROAEXAMPLE:s", "Arn": ARN + "P/s"},
        "ResponseMetadata": {"RequestId": "1", "HTTPStatusCode": 200, "RetryAttempts": 0},
    }


def parts(found):
    return found.access_key_id, found.secret_access_key, found.session_token, found.expiration


def write(cache, content, key=KEY):
    cache.mkdir(parents=True, exist_ok=True)
    text = content if isinstance(content, (str, bytes)) else json.dumps(content)
    (cache / f"{key}.json").write_bytes(text if isinstance(text, bytes) else text.encode())


# --- the key and the format ---------------------------------------------------------------

# Made with botocore 1.44.8, of a config file with the same lines:
#
#     session = botocore.session.Session(profile="p")
#     provider = session.get_component("credential_provider").get_provider("assume-role")
#     provider.cache, provider._prompter = {}, lambda prompt: CODE
#     provider._client_creator = lambda *args, **options: client     # a stand-in for STS
#     session.get_credentials().get_frozen_credentials()
#     list(provider.cache)
KEYS = [
    ("serial alone", [], KEY),
    ("external id", ["external_id = shared"], "a5853015a02f39cb2369a5880fc6a1a0678c6a36"),
    ("session name", ["role_session_name = me"], "da2248f75b093ff6b6ed8e148df1f1ac5f20fb64"),
    ("duration", ["duration_seconds = 7200"], "36d1ee2412e6613aa0e3b3fae842b3bba2bcce44"),
    ("all", ["external_id = shared", "role_session_name = me", "duration_seconds = 7200"],
     "fa324a420895992b3b80368b0cfd2ecc40338bc3"),
    ("other letters", ["external_id = é"], "4c7b1ef4b83292abd470a1f12bd1953785a8bc71"),
]


@pytest.mark.parametrize("lines, key", cases(KEYS))
def test_key(lines, key, environ, sts, configure, cache):
    configure(*lines)
    bt.load_credentials("p", environ=environ, mfa_code=Asked())
    assert [file.name for file in cache.iterdir()] == [f"{key}.json"]


@pytest.mark.parametrize("lines, key", cases(KEYS))
def test_read(lines, key, environ, sts, configure, cache):
    configure(*lines)
    write(cache, entry(60), key)
    found = bt.load_credentials("p", environ=environ)
    assert parts(found)[:3] == role_keys("CACHED")
    assert timedelta(minutes=58) < found.expiration - datetime.now(timezone.utc)
    assert sts.requests == []


def test_written_as_the_cli_reads_it(environ, sts, configure, cache):
    configure()
    sts.expiration = end = moment(60)
    found = bt.load_credentials("p", environ=environ, mfa_code=Asked())
    document = json.loads((cache / f"{KEY}.json").read_text())
    key_id, secret, session_token = role_keys("P")
    credentials = document["Credentials"]
    written = datetime.strptime(
        credentials["Expiration"].replace("UTC", "Z").replace("+00:00", "Z"), "%Y-%m-%dT%H:%M:%SZ")
    assert (credentials["AccessKeyId"], credentials["SecretAccessKey"],
            credentials["SessionToken"]) == (key_id, secret, session_token)
    assert written.replace(tzinfo=timezone.utc) == found.expiration
    assert found.expiration.strftime("%Y-%m-%dT%H:%M:%SZ") == end


def test_one_code_is_enough(environ, sts, configure):
    configure()
    asked = Asked()
    first = bt.load_credentials("p", environ=environ, mfa_code=asked)
    for again in (bt.load_credentials("p", environ=environ, mfa_code=ask_no_more),
                  bt.load_credentials("p", environ=environ)):
        assert parts(again) == parts(first)
    assert asked.serials == [SERIAL]
    assert len(sts.requests) == 1


def test_a_token_and_a_provider_need_no_code(environ, sts, configure, cache):
    """They have nobody to ask."""
    configure()
    write(cache, entry(60))
    token = bt.get_token(profile="p", environ=environ)
    assert bt.decode_token(token)["access_key_id"] == role_keys("CACHED")[0]
    provider = bt.TokenProvider(profile="p", environ=environ)
    assert bt.decode_token(provider())["access_key_id"] == role_keys("CACHED")[0]
    write(cache, entry(60, "NEXT"))
    assert bt.decode_token(provider.renew())["access_key_id"] == role_keys("NEXT")[0]


@pytest.mark.parametrize("text", [
    "%Y-%m-%dT%H:%M:%SUTC", "%Y-%m-%dT%H:%M:%SZ", "%Y-%m-%dT%H:%M:%S+00:00",
    "%Y-%m-%dT%H:%M:%S.%fZ", "%Y-%m-%dT%H:%M:%S.%f+00:00",
])
def test_expirations(text, environ, sts, configure, cache):
    configure()
    write(cache, entry(Expiration=moment(60, text)))
    found = bt.load_credentials("p", environ=environ)
    assert timedelta(minutes=58) < found.expiration - datetime.now(timezone.utc)


@pytest.mark.parametrize("minutes, is_used", [(14, False), (16, True), (0, False), (-600, False)])
def test_used_while_15_minutes_are_left(minutes, is_used, environ, sts, configure, cache):
    configure()
    write(cache, entry(minutes))
    asked = Asked()
    found = bt.load_credentials("p", environ=environ, mfa_code=asked)
    assert found.access_key_id == role_keys("CACHED" if is_used else "P")[0]
    assert asked.serials == ([] if is_used else [SERIAL])
    assert parts(bt.load_credentials("p", environ=environ)) == parts(found)


# --- what cannot be used ------------------------------------------------------------------

UNUSABLE = [
    ("empty", ""), ("cut short", json.dumps(entry())[:70]), ("no JSON", "hello"),
    ("not UTF-8", b'{"Credentials": "\xff"}'), ("a list", "[]"), ("a number", "7"), ("null", "null"),
    ("nested endlessly", "[" * 100_000), ("no credentials", {"a": 1}),
    ("credentials are a list", {"Credentials": []}), ("credentials are empty", {"Credentials": {}}),
    *((f"no {name}", {"Credentials": {
        key: value for key, value in entry()["Credentials"].items() if key != name}})
      for name in ("AccessKeyId", "SecretAccessKey", "SessionToken", "Expiration")),
    *((f"{name} is a number", {"Credentials": {**entry()["Credentials"], name: 7}})
      for name in ("AccessKeyId", "SecretAccessKey", "SessionToken")),
    ("a key id of other letters", entry(AccessKeyId='"ASIA"')),
    ("an expiration that is no time", entry(Expiration="tomorrow")),
    ("an expiration that is nothing", entry(Expiration=None)),
    ("an empty secret", entry(SecretAccessKey="")),
]


@pytest.fixture
def cached(environ, sts, configure, tmp_path):
    """Another home with this entry in its cache, as an environment."""
    def cached(content):
        other = {**environ, **environ_in(tmp_path)}
        home = Path(other["HOME"])
        configure(home=home)
        if content is not None:
            write(home / ".aws" / "cli" / "cache", content)
        return other

    return cached


def test_unusable_entry(cached):
    """As if there were none; the next one is good again."""
    def check(content):
        environ, asked = cached(content), Asked()
        found = bt.load_credentials("p", environ=environ, mfa_code=asked)
        assert found.access_key_id == role_keys("P")[0]
        assert asked.serials == [SERIAL]
        assert parts(bt.load_credentials("p", environ=environ)) == parts(found)

    check_side_by_side(check, UNUSABLE)


def test_without_a_way_to_ask(cached, sts):
    """The same error as without a cache, and no secret of the entry in it."""
    def check(content):
        with pytest.raises(bt.CredentialsError, match="mfa_code") as caught:
            bt.load_credentials("p", environ=cached(content))
        assert not any(secret in str(caught.value) for secret in role_keys("CACHED"))

    check_side_by_side(check, [("none", None), ("expired", entry(-1)), *UNUSABLE])
    assert sts.requests == []


@pytest.mark.parametrize("mfa_code", [None, lambda serial: "999999"], ids=["nobody to ask", "refused"])
def test_the_last_minutes_are_better_than_nothing(mfa_code, environ, sts, configure, cache):
    configure()
    write(cache, entry(10))
    found = bt.load_credentials("p", environ=environ, mfa_code=mfa_code)
    assert found.access_key_id == role_keys("CACHED")[0]
    assert "cache" in found.source


@pytest.mark.parametrize("lines", [
    [], ["external_id = shared"], ["duration_seconds = 3600"], ["role_session_name = you"],
], ids=lambda lines: "".join(lines).partition(" ")[0] or "serial alone")
def test_entry_of_other_arguments(lines, environ, sts, configure, cache):
    """Another role, device, duration or name is another session."""
    configure(*lines)
    for _, _, key in KEYS[2:]:
        write(cache, entry(60), key)
    found = bt.load_credentials("p", environ=environ, mfa_code=Asked())
    assert found.access_key_id == role_keys("P")[0]


def test_a_refused_code_is_not_remembered(environ, sts, configure, cache):
    configure()
    with pytest.raises(bt.CredentialsError, match="passcode|pass code"):
        bt.load_credentials("p", environ=environ, mfa_code=lambda serial: "999999")
    assert not cache.exists() or [*cache.iterdir()] == []


# --- roles without MFA, and chains --------------------------------------------------------

def test_no_cache_without_mfa(environ, sts, configure, cache):
    configure(mfa=False)
    sts.mfa = None
    # What `aws` itself keeps for it: botocore 1.44.8's key for the role alone.
    write(cache, entry(60), "c5de4f0a4bb5246a3335fa42417794704a93d0aa")
    before = sorted(cache.iterdir())
    for _ in range(2):
        found = bt.load_credentials("p", environ=environ)
        assert found.access_key_id == role_keys("P")[0]
    assert len(sts.requests) == 2
    assert sorted(cache.iterdir()) == before


def test_no_folder_without_mfa(environ, sts, configure, home):
    configure(mfa=False)
    sts.mfa = None
    bt.load_credentials("p", environ=environ)
    assert not (home / ".aws" / "cli").exists()


def test_chain_with_mfa_at_its_foot(environ, sts, configure, cache, home):
    """The first role's session is kept; the second role is assumed each time."""
    configure()
    with open(home / ".aws" / "config", "a") as file:
        file.write(f"[profile top]\nrole_arn = {ARN}TOP\nsource_profile = p\n")
    sts.mfa = None
    for _ in range(2):
        found = bt.load_credentials("top", environ=environ, mfa_code=Asked())
        assert found.access_key_id == role_keys("TOP")[0]
    assert [request.form["RoleArn"] for request in sts.requests] == [ARN + "P", ARN + "TOP", ARN + "TOP"]
    assert [file.name for file in cache.iterdir()] == [f"{KEY}.json"]


def test_errors_of_the_profile_come_before_the_cache(environ, sts, configure, cache, home):
    """Credentials in the cache do not hide that the profile is broken."""
    configure("credential_source = Environment")
    write(cache, entry(60))
    with pytest.raises(bt.CredentialsError, match="credential_source"):
        bt.load_credentials("p", environ=environ)


# --- the file -----------------------------------------------------------------------------

def entries(cache):
    return [file.name for file in cache.iterdir()]


@with_modes
def test_nobody_else_reads_it(environ, sts, configure, cache):
    configure()
    before = os.umask(0)
    try:
        bt.load_credentials("p", environ=environ, mfa_code=Asked())
    finally:
        os.umask(before)
    modes = [stat.S_IMODE(path.stat().st_mode) for path in (cache / f"{KEY}.json", cache)]
    assert modes == [0o600, 0o700]


@with_modes
def test_a_file_that_others_could_read(environ, sts, configure, cache):
    configure()
    write(cache, entry(-1))
    (cache / f"{KEY}.json").chmod(0o644)
    bt.load_credentials("p", environ=environ, mfa_code=Asked())
    assert stat.S_IMODE((cache / f"{KEY}.json").stat().st_mode) == 0o600


@posix("Windows keeps symbolic links for administrators")
def test_through_a_symbolic_link(environ, sts, configure, cache, tmp_path):
    """A home whose files live elsewhere keeps its links."""
    configure()
    target = tmp_path / "elsewhere.json"
    target.write_text("{}")
    cache.mkdir(parents=True)
    link = cache / f"{KEY}.json"
    link.symlink_to(target)
    bt.load_credentials("p", environ=environ, mfa_code=Asked())
    assert link.is_symlink()
    assert json.loads(target.read_text())["Credentials"]["AccessKeyId"] == role_keys("P")[0]


def test_never_the_code(environ, sts, configure, cache):
    configure()
    sts.expiration = moment(60)
    bt.load_credentials("p", environ=environ, mfa_code=Asked())
    for file in cache.iterdir():
        assert CODE not in file.name + file.read_text()
        assert "secret-BASE" not in file.read_text()


def test_nothing_else_is_left(environ, sts, configure, cache):
    configure()
    bt.load_credentials("p", environ=environ, mfa_code=Asked())
    assert entries(cache) == [f"{KEY}.json"]
    sts.faults += [answer(403)]
    write(cache, entry(-1))
    with pytest.raises(bt.CredentialsError):
        bt.load_credentials("p", environ=environ, mfa_code=Asked())
    assert entries(cache) == [f"{KEY}.json"]


@pytest.mark.parametrize("spoil", cases([
    ("a file in place of the folder", lambda cache: cache.parent.write_text("")),
    ("a folder in place of the file", lambda cache: (cache / f"{KEY}.json" / "x").mkdir(parents=True)),
    ("a file in place of the cache", lambda cache: (cache.parent.mkdir(), cache.write_text(""))),
    ("a folder that may not be written", lambda cache: (cache.mkdir(parents=True), cache.chmod(0o500))),
]))
def test_a_cache_that_cannot_be_written(spoil, environ, sts, configure, cache):
    """No error that was not there without it: each call asks."""
    configure()
    spoil(cache)
    asked = Asked()
    found = bt.load_credentials("p", environ=environ, mfa_code=asked)
    assert found.access_key_id == role_keys("P")[0]
    assert asked.serials == [SERIAL]


def test_an_entry_that_is_being_written(environ, sts, configure, cache):
    """Who finds half a file looks again, instead of asking for a code."""
    configure()
    write(cache, json.dumps(entry(60))[:70])
    writer = threading.Timer(0.1, write, (cache, entry(60)))
    writer.start()
    try:
        found = bt.load_credentials("p", environ=environ)
    finally:
        writer.join()
    assert found.access_key_id == role_keys("CACHED")[0]


# --- several processes --------------------------------------------------------------------

PROGRAM = """
import sys
import bedrock_token as bt

def ask(serial):
    print("asked")
    return sys.argv[1]

found = bt.load_credentials("p", mfa_code=ask if sys.argv[1:] else None)
print(found.access_key_id)
"""


def start(environ, *arguments):
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *arguments], env={**os.environ, **environ},
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def outcome(process):
    out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, "")
    return out.split()


def test_one_code_for_several_processes(environ, sts, configure):
    configure()
    key_id = role_keys("P")[0]
    assert outcome(start(environ, CODE)) == ["asked", key_id]
    assert outcome(start(environ)) == [key_id]
    assert outcome(start(environ, CODE)) == [key_id]
    assert len(sts.requests) == 1


def test_processes_at_once(environ, sts, configure, cache):
    """Each may ask; what is left is whole."""
    configure()
    key_id = role_keys("P")[0]
    processes = [start(environ, CODE) for _ in range(4)]
    for process in processes:
        assert outcome(process)[-1] == key_id
    assert entries(cache) == [f"{KEY}.json"]
    assert json.loads((cache / f"{KEY}.json").read_text())["Credentials"]["AccessKeyId"] == key_id
    assert outcome(start(environ)) == [key_id]


def test_command_line_without_a_terminal(environ, sts, configure, cache):
    """A credential helper works as long as the session lives."""
    configure()
    write(cache, entry(60))
    run = dict(env={**os.environ, **environ}, cwd=ROOT, timeout=60,
               stdin=subprocess.DEVNULL, capture_output=True, text=True,
               creationflags=getattr(subprocess, "DETACHED_PROCESS", 0))  # no console on Windows
    command = [sys.executable, "-m", "bedrock_token", "--profile", "p"]
    result = subprocess.run(command, **run)
    assert result.returncode == 0
    assert bt.decode_token(result.stdout.strip())["access_key_id"] == role_keys("CACHED")[0]
    write(cache, entry(-1))
    result = subprocess.run(command, **run)
    assert (result.returncode, result.stdout) == (1, "")
    assert SERIAL in result.stderr
    assert sts.requests == []
