"""Web identities, of the environment or of a profile."""

import re

import pytest

from bedrock_token import CredentialsError, load_credentials
from tests.fake_aws import role_keys
from tests.helpers import (
    ARN, CREDENTIALS_FILE, WEB_TOKEN, cases, everything_in, keys, profile, role, write_home,
)


def web_environment(home, **more):
    return {"AWS_WEB_IDENTITY_TOKEN_FILE": str(home / "web"), "AWS_ROLE_ARN": ARN + "Env", **more}


@pytest.fixture
def token_file(home):
    file = home / "web"
    file.write_text(WEB_TOKEN + "\n")
    return file


# Argument, variables, the profile p, and the role and session name sent.
WEB_IDENTITIES = [
    ("environment", None, {}, "", "Env", None),
    ("environment with a session name", None, {"AWS_ROLE_SESSION_NAME": "env-session"}, "",
     "Env", "env-session"),
    ("environment over the profile's", None, {"AWS_PROFILE": "p"},
     role("p", "Profile", "web_identity_token_file = ~/web", "role_session_name = session"),
     "Env", None),
    ("environment over the profile's keys", None, {"AWS_PROFILE": "p"},
     profile("p", keys("A")), "Env", None),
    ("profile in code", "p", {"AWS_ROLE_SESSION_NAME": "env-session"},
     role("p", "Profile", "web_identity_token_file = ~/web"), "Profile", None),
    ("profile with a session name", "p", {},
     role("p", "Profile", "web_identity_token_file = ~/web", "role_session_name = session"),
     "Profile", "session"),
    ("AWS_PROFILE", None,
     {"AWS_PROFILE": "p", "AWS_WEB_IDENTITY_TOKEN_FILE": "", "AWS_ROLE_SESSION_NAME": "env"},
     role("p", "Profile", "web_identity_token_file = ~/web"), "Profile", None),
    ("AWS_ROLE_ARN alone is ignored", None,
     {"AWS_PROFILE": "p", "AWS_WEB_IDENTITY_TOKEN_FILE": ""},
     role("p", "Profile", "web_identity_token_file = ~/web"), "Profile", None),
    ("no assume-role where there is a token file", "p", {},
     role("p", "Profile", "source_profile = base", "web_identity_token_file = ~/web"),
     "Profile", None),
]


@pytest.mark.parametrize("argument, variables, config, want, session", cases(WEB_IDENTITIES))
def test_web_identity(environ, home, token_file, sts, argument, variables, config, want, session):
    write_home(environ, config, CREDENTIALS_FILE)
    environ.update(web_environment(home), **variables)
    got = load_credentials(argument, environ=environ)
    assert (got.access_key_id, got.secret_access_key, got.session_token) == role_keys(want)
    [request] = sts.requests
    form = request.form
    own_name = form.pop("RoleSessionName")
    assert form == {"Action": "AssumeRoleWithWebIdentity", "Version": "2011-06-15",
                    "RoleArn": ARN + want, "WebIdentityToken": WEB_TOKEN}
    assert own_name == session if session else re.fullmatch(r"[\w+=,.@-]{2,64}", own_name)
    assert not re.search("(?i)authorization|x-amz-", str(request.headers))


def test_web_identity_duration(environ, token_file, sts):
    write_home(environ, role("p", "P", "web_identity_token_file = ~/web", "duration_seconds = 900"))
    load_credentials("p", environ=environ)
    assert sts.requests[0].form["DurationSeconds"] == "900"


@pytest.mark.parametrize("argument", [None, "p"], ids=["environment", "profile"])
def test_web_identity_token_is_read_at_every_call(environ, home, token_file, sts, argument):
    write_home(environ, role("p", "P", "web_identity_token_file = ~/web"))
    environ.update(web_environment(home))
    for token in ("first.token", "second.token"):
        token_file.write_text(token)
        sts.web_identity_token = token
        load_credentials(argument, environ=environ)
    assert [request.form["WebIdentityToken"] for request in sts.requests] == [
        "first.token", "second.token"]


@pytest.mark.parametrize("content", [None, b"", b" \n", b"\xff\xfe"], ids=repr)
@pytest.mark.parametrize("argument", [None, "p"], ids=["environment", "profile"])
def test_web_identity_token_file_without_a_token(environ, home, sts, argument, content):
    write_home(environ, role("p", "P", "web_identity_token_file = ~/web"))
    environ.update(web_environment(home))
    if content is not None:
        (home / "web").write_bytes(content)
    with pytest.raises(CredentialsError) as raised:
        load_credentials(argument, environ=environ)
    assert str(home / "web") in str(raised.value)
    assert sts.requests == []


# Neither half may come from the other place.
HALF_WEB_IDENTITIES = [
    ("environment without a role", None, {"AWS_ROLE_ARN": ""}, "", "AWS_ROLE_ARN"),
    ("environment without a role, profile with one", None,
     {"AWS_ROLE_ARN": "", "AWS_PROFILE": "p"},
     role("p", "P", "web_identity_token_file = ~/web"), "AWS_ROLE_ARN"),
    ("profile without a role", "p", {}, profile("p", "web_identity_token_file = ~/web"),
     "role_arn"),
    ("AWS_PROFILE without a role", None, {"AWS_PROFILE": "p", "AWS_WEB_IDENTITY_TOKEN_FILE": " "},
     profile("p", "web_identity_token_file = ~/web"), "role_arn"),
]


@pytest.mark.parametrize("argument, variables, config, missing", cases(HALF_WEB_IDENTITIES))
def test_half_a_web_identity(environ, home, token_file, sts, argument, variables, config, missing):
    write_home(environ, config)
    environ.update(web_environment(home, **variables))
    with pytest.raises(CredentialsError) as raised:
        load_credentials(argument, environ=environ)
    assert sts.requests == []
    assert missing in str(raised.value)


def test_web_identity_token_that_sts_refuses(environ, home, token_file, sts):
    token_file.write_text("planted.web.token")
    environ.update(web_environment(home))
    with pytest.raises(CredentialsError, match="InvalidIdentityToken") as raised:
        load_credentials(environ=environ)
    assert "planted" not in everything_in(raised.value)
