"""Sessions of `aws login`."""

import json
from datetime import timedelta
from pathlib import Path

import pytest

from bedrock_token import CredentialsError, decode_token, get_token, load_credentials
from tests.fake_aws import Fake, answer
from tests.helpers import (
    EARLIER, LATER, NOW, cases, check_side_by_side, environ_in, everything_in, key_at, posix, write_home,
)

LOGIN_SESSION = "arn:aws:sts::123456789012:assumed-role/Dev/me"
# printf arn:aws:sts::123456789012:assumed-role/Dev/me | sha256sum
LOGIN_FILE = "0edbcbf074898f3940548a76fb0d947a29e5aa17c172ffd62559c05888f6e5c5.json"
LOGIN_HINT = "aws login --profile p"


def login_cache(expires_at=LATER, **changes):
    """What `aws login` leaves; None takes a key away."""
    keys = {"accessKeyId": "ASIALOGIN", "secretAccessKey": "planted-secret",
            "sessionToken": "planted-session", "accountId": "123456789012",
            "expiresAt": expires_at, **changes}
    return {
        "accessToken": {name: value for name, value in keys.items() if value is not None},
        "tokenType": "aws_sigv4", "refreshToken": "planted-refresh", "clientId": "x",
        "dpopKey": "planted-key",
    }


@pytest.fixture
def login_file(environ, home, tmp_path):
    """The cache's place; profile p, and no AWS CLI on the PATH."""
    write_home(environ, f"[profile p]\nlogin_session = {LOGIN_SESSION}\n")
    environ["PATH"] = str(tmp_path)
    path = home / ".aws/login/cache" / LOGIN_FILE
    path.parent.mkdir(parents=True)
    return path


def install_cli(folder, script):
    """A program `aws` that writes down its arguments, one a line, and goes on with the script."""
    program = folder / "aws"
    program.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" > "{folder}/arguments"\n{script}\n')
    program.chmod(0o755)


def test_login_session(environ, login_file):
    login_file.write_text(json.dumps(login_cache("2025-07-01T12:10:00Z")))
    token = get_token(None, "us-west-2", profile="p", environ=environ, now=NOW)
    assert decode_token(token)["access_key_id"] == "ASIALOGIN"
    assert token.expiration == NOW + timedelta(minutes=10)
    login_file.write_text(json.dumps(login_cache()))
    got = load_credentials("p", environ=environ)
    assert (got.secret_access_key, got.session_token) == ("planted-secret", "planted-session")
    assert got.source == "profile p (login)"


def test_login_session_of_a_source_profile(environ, login_file):
    write_home(environ, f"[profile a]\nlogin_session = {LOGIN_SESSION}\n[profile p]\n"
                        "role_arn = arn:aws:iam::123456789012:role/P\nsource_profile = a\n")
    login_file.write_text(json.dumps(login_cache()))
    with Fake(faults=[answer(403)]) as sts:
        with pytest.raises(CredentialsError, match="HTTP 403"):
            load_credentials("p", environ={**environ, "AWS_ENDPOINT_URL_STS": sts.url})
    assert "Credential=ASIALOGIN/" in sts.requests[0].headers["Authorization"]


@pytest.mark.parametrize("place", ["{home}/other", "~/other"])
def test_login_cache_directory(environ, home, login_file, place):
    (home / "other").mkdir()
    (home / "other" / LOGIN_FILE).write_text(json.dumps(login_cache()))
    environ["AWS_LOGIN_CACHE_DIRECTORY"] = place.format(home=home)
    assert load_credentials("p", environ=environ).access_key_id == "ASIALOGIN"


STALE_LOGINS = [
    ("ended", login_cache(EARLIER)),
    ("ends now", login_cache("2025-07-01T12:00:00Z")),
    ("no expiration", login_cache(None)),
    ("malformed expiration", login_cache("soon")),
    ("expiration beyond all time", login_cache(10**30)),
    ("no keys", {}),
    ("keys of another type", {"accessToken": "planted"}),
]
CLI_ANSWER = json.dumps({
    "Version": 1, "AccessKeyId": "ASIACLI", "SecretAccessKey": "planted-secret",
    "SessionToken": "planted-session", "Expiration": "2025-07-01T12:15:00+00:00"})


@posix("needs a shell")
@pytest.mark.parametrize("cache", cases(STALE_LOGINS))
def test_stale_login_is_renewed_by_the_cli(environ, tmp_path, login_file, cache):
    login_file.write_text(json.dumps(cache))
    install_cli(tmp_path, f"echo '{CLI_ANSWER}'")
    assert key_at(NOW, environ) == "ASIACLI"
    assert (tmp_path / "arguments").read_text().split("\n") == [
        "configure", "export-credentials", "--profile", "p", "--format", "process", ""]


@posix("needs a shell")
def test_fresh_login_starts_no_cli(environ, tmp_path, login_file):
    login_file.write_text(json.dumps(login_cache()))
    install_cli(tmp_path, f"echo '{CLI_ANSWER}'")
    assert key_at(NOW, environ) == "ASIALOGIN"
    assert not (tmp_path / "arguments").exists()


@pytest.mark.parametrize("cache", cases(STALE_LOGINS))
def test_stale_login_without_a_cli(environ, login_file, cache):
    login_file.write_text(json.dumps(cache))
    with pytest.raises(CredentialsError, match=LOGIN_HINT) as raised:
        key_at(NOW, environ)
    assert "planted" not in everything_in(raised.value)


def test_no_login(tmp_path):
    def check(content):
        environ = {**environ_in(tmp_path), "PATH": str(tmp_path)}
        write_home(environ, f"[profile p]\nlogin_session = {LOGIN_SESSION}\n")
        file = Path(environ["HOME"], ".aws/login/cache", LOGIN_FILE)
        file.parent.mkdir(parents=True)
        if content is not None:
            file.write_text(content)
        with pytest.raises(CredentialsError, match=LOGIN_HINT) as raised:
            load_credentials("p", environ=environ)
        assert "planted" not in everything_in(raised.value)

    check_side_by_side(check, [
        ("none", None), ("empty", ""), ("cut short", '{"accessToken": "planted'), ("a list", "[]")])


@posix("needs a shell")
@pytest.mark.parametrize("script", cases([
    ("fails", "echo 'Your session has expired' >&2; exit 253"),
    ("says nothing", ""),
    ("no JSON", "echo planted"),
    ("other version", "echo '" + CLI_ANSWER.replace('"Version": 1', '"Version": 2') + "'"),
    ("ended", "echo '" + CLI_ANSWER.replace("2025-07-01T12:15", "2025-07-01T11:15") + "'"),
]))
def test_cli_that_fails(environ, tmp_path, login_file, script):
    login_file.write_text(json.dumps(login_cache(EARLIER)))
    install_cli(tmp_path, script)
    with pytest.raises(CredentialsError, match=LOGIN_HINT) as raised:
        key_at(NOW, environ)
    assert "planted" not in everything_in(raised.value)
    if "253" in script:
        assert "253" in str(raised.value)
        assert "Your session has expired" in str(raised.value)


@posix("needs a shell")
def test_cli_gets_the_environment_given(environ, tmp_path, login_file):
    login_file.write_text(json.dumps(login_cache(EARLIER)))
    install_cli(tmp_path, f'echo "$HOME $AWS_PAGER" > "{tmp_path}/environment"; exit 1')
    with pytest.raises(CredentialsError):
        key_at(NOW, {**environ, "AWS_PAGER": "x"})
    assert (tmp_path / "environment").read_text() == f"{environ['HOME']} x\n"
