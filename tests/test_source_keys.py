"""Static keys: in the environment, and in a profile."""

from datetime import datetime, timezone

import pytest

from bedrock_token import (
    BedrockTokenError,
    CredentialsError,
    NoCredentialsError,
    load_credentials,
    load_region,
)
from tests.helpers import ENV_KEYS, cases, everything_in, keys, write_home

PLANTED = "planted+secret/value"


# --- keys in the environment ---------------------------------------------------------------

# With a default profile that has keys of its own.
ENVIRONMENT = [
    ("keys", None, ENV_KEYS, ("AKIAENV", "secret-env", None, "environment")),
    ("keys and session token", None, {**ENV_KEYS, "AWS_SESSION_TOKEN": "token-env"},
     ("AKIAENV", "secret-env", "token-env", "environment")),
    ("blank session token", None, {**ENV_KEYS, "AWS_SESSION_TOKEN": " "},
     ("AKIAENV", "secret-env", None, "environment")),
    ("no keys", None, {}, ("AKIADEFAULT", "secret-DEFAULT", None, "profile default")),
    ("blank keys", None, {"AWS_ACCESS_KEY_ID": " \t", "AWS_SECRET_ACCESS_KEY": ""},
     ("AKIADEFAULT", "secret-DEFAULT", None, "profile default")),
    ("session token alone", None, {"AWS_SESSION_TOKEN": "token-env"},
     ("AKIADEFAULT", "secret-DEFAULT", None, "profile default")),
    ("AWS_PROFILE does not hide keys", None, {**ENV_KEYS, "AWS_PROFILE": "dev"},
     ("AKIAENV", "secret-env", None, "environment")),
    ("AWS_PROFILE of nobody is not reached", None, {**ENV_KEYS, "AWS_PROFILE": "nobody"},
     ("AKIAENV", "secret-env", None, "environment")),
    ("a profile in code hides keys", "dev", {**ENV_KEYS, "AWS_SESSION_TOKEN": "token-env"},
     ("AKIADEV", "secret-DEV", None, "profile dev")),
    ("default in code hides keys", "default", ENV_KEYS,
     ("AKIADEFAULT", "secret-DEFAULT", None, "profile default")),
    ("a profile in code hides half a pair", "dev", {"AWS_ACCESS_KEY_ID": "AKIAENV"},
     ("AKIADEV", "secret-DEV", None, "profile dev")),
    ("a profile in code hides a bad expiration", "dev",
     {**ENV_KEYS, "AWS_CREDENTIAL_EXPIRATION": "tomorrow"},
     ("AKIADEV", "secret-DEV", None, "profile dev")),
]


@pytest.mark.parametrize("profile, variables, want", cases(ENVIRONMENT))
def test_environment(environ, profile, variables, want):
    write_home(environ,
               credentials=f"[default]\n{keys('DEFAULT')}[dev]\n{keys('DEV')}")
    got = load_credentials(profile, environ={**environ, **variables})
    *values, source = want
    assert [got.access_key_id, got.secret_access_key, got.session_token] == values
    assert got.source == source if source == "environment" else source in got.source


@pytest.mark.parametrize("variables, missing", cases([
    ("no secret", {"AWS_ACCESS_KEY_ID": "AKIAENV"}, "AWS_SECRET_ACCESS_KEY"),
    ("no id", {"AWS_SECRET_ACCESS_KEY": PLANTED}, "AWS_ACCESS_KEY_ID"),
    ("blank secret", {**ENV_KEYS, "AWS_SECRET_ACCESS_KEY": " "}, "AWS_SECRET_ACCESS_KEY"),
    ("blank id", {"AWS_SECRET_ACCESS_KEY": PLANTED, "AWS_ACCESS_KEY_ID": "\t"},
     "AWS_ACCESS_KEY_ID"),
]))
def test_half_a_pair_in_the_environment(environ, variables, missing):
    # The profile has the other half and a whole pair: neither may be used.
    write_home(environ, credentials="[default]\n" + keys("DEFAULT"))
    with pytest.raises(CredentialsError) as raised:
        load_credentials(environ={**environ, **variables})
    assert missing in str(raised.value)
    assert PLANTED not in everything_in(raised.value)


@pytest.mark.parametrize("variable, value", cases([
    ("space in the id", "AWS_ACCESS_KEY_ID", f"AKIA {PLANTED}"),
    ("newline in the id", "AWS_ACCESS_KEY_ID", f"AKIA\n{PLANTED}"),
    ("space in the secret", "AWS_SECRET_ACCESS_KEY", f"secret {PLANTED}"),
    ("CRLF in the secret", "AWS_SECRET_ACCESS_KEY", f"secret\r\n{PLANTED}"),
    ("ESC in the secret", "AWS_SECRET_ACCESS_KEY", f"secret\x1b[0m{PLANTED}"),
    ("newline in the session token", "AWS_SESSION_TOKEN", f"token\n{PLANTED}"),
    ("tab in the session token", "AWS_SESSION_TOKEN", f"token\t{PLANTED}"),
]))
def test_damaged_key_in_the_environment(environ, variable, value):
    with pytest.raises(CredentialsError) as raised:
        load_credentials(environ={**environ, **ENV_KEYS, variable: value})
    assert variable in str(raised.value)
    assert PLANTED not in everything_in(raised.value)


@pytest.mark.parametrize("value, want", cases([
    ("Z", "2099-01-02T03:04:05Z", (2099, 1, 2, 3, 4, 5)),
    ("fraction and Z", "2099-01-02T03:04:05.000Z", (2099, 1, 2, 3, 4, 5)),
    ("+00:00", "2099-01-02T03:04:05+00:00", (2099, 1, 2, 3, 4, 5)),
    ("east of Greenwich", "2099-01-02T03:04:05+02:00", (2099, 1, 2, 1, 4, 5)),
    ("west of Greenwich", "2099-01-02T23:04:05-02:00", (2099, 1, 3, 1, 4, 5)),
    ("blank", " ", None),
]))
def test_expiration_in_the_environment(environ, value, want):
    got = load_credentials(environ={**environ, **ENV_KEYS, "AWS_CREDENTIAL_EXPIRATION": value})
    assert got.expiration == (want and datetime(*want, tzinfo=timezone.utc))
    assert want is None or got.expiration.tzinfo is not None


@pytest.mark.parametrize("value", ["tomorrow", "2099-13-02T03:04:05Z", "2099-01-02T03:04:05Zulu"])
def test_malformed_expiration_in_the_environment(environ, value):
    environ.update(ENV_KEYS, AWS_CREDENTIAL_EXPIRATION=value)
    with pytest.raises(CredentialsError, match="AWS_CREDENTIAL_EXPIRATION"):
        load_credentials(environ=environ)


def test_nothing_configured(environ):
    with pytest.raises(NoCredentialsError):
        load_credentials(environ=environ)


# --- keys in a profile ---------------------------------------------------------------------

ID_A, SECRET_A = "aws_access_key_id = AKIAA\n", "aws_secret_access_key = secret-a\n"
ID_B, SECRET_B = "aws_access_key_id = AKIAB\n", "aws_secret_access_key = secret-b\n"
TOKEN_B = "aws_session_token = token-b\n"

# What stands in the profile in config and in credentials.
STATIC = [
    ("credentials alone", "", ID_B + SECRET_B, ("AKIAB", "secret-b", None)),
    ("config alone", ID_A + SECRET_A, "", ("AKIAA", "secret-a", None)),
    ("session token", "", ID_B + SECRET_B + TOKEN_B, ("AKIAB", "secret-b", "token-b")),
    ("empty session token", "", ID_B + SECRET_B + "aws_session_token =\n",
     ("AKIAB", "secret-b", None)),
    ("credentials over config", ID_A + SECRET_A, ID_B + SECRET_B, ("AKIAB", "secret-b", None)),
    ("half in each", ID_A, SECRET_B, ("AKIAA", "secret-b", None)),
    ("the other half in each", SECRET_A, ID_B, ("AKIAB", "secret-a", None)),
    ("key by key", ID_A + SECRET_A, SECRET_B, ("AKIAA", "secret-b", None)),
    ("session token in the other file", ID_A + SECRET_A, TOKEN_B,
     ("AKIAA", "secret-a", "token-b")),
    ("names in capitals", "", (ID_B + SECRET_B).replace("aws_", "AWS_"),
     ("AKIAB", "secret-b", None)),
    ("= and + and / in the secret", "", ID_B + "aws_secret_access_key = a+b/c=d==\n",
     ("AKIAB", "a+b/c=d==", None)),
]


@pytest.mark.parametrize("config, credentials, want", cases(STATIC))
@pytest.mark.parametrize("in_config, in_credentials, name", [
    ("[default]", "[default]", None),
    ("[profile default]", "[default]", None),
    ("[profile dev]", "[dev]", "dev"),
])
def test_static_keys(environ, in_config, in_credentials, name, config, credentials, want):
    write_home(environ, f"{in_config}\nregion = us-west-2\n{config}",
               f"{in_credentials}\n{credentials}")
    got = load_credentials(name, environ=environ)
    assert (got.access_key_id, got.secret_access_key, got.session_token) == want
    assert got.expiration is None
    assert f"profile {name or 'default'}" in got.source
    assert load_region(name, environ=environ) == "us-west-2"


HALVES = [
    ("no secret", "", ID_B, "aws_secret_access_key"),
    ("no id", "", SECRET_B, "aws_access_key_id"),
    ("no secret in config", ID_A, "", "aws_secret_access_key"),
    ("empty secret", "", ID_B + "aws_secret_access_key =\n", "aws_secret_access_key"),
    ("empty id", "", SECRET_B + "aws_access_key_id = # none\n", "aws_access_key_id"),
    ("session token does not count", "", ID_B + TOKEN_B, "aws_secret_access_key"),
    ("an empty one hides the other file's", ID_A + SECRET_A, "aws_secret_access_key =\n",
     "aws_secret_access_key"),
]


@pytest.mark.parametrize("config, credentials, missing", cases(HALVES))
def test_half_a_pair_in_a_profile(environ, config, credentials, missing):
    write_home(environ, "[profile dev]\n" + config, "[dev]\n" + credentials)
    with pytest.raises(CredentialsError) as raised:
        load_credentials("dev", environ=environ)
    assert f"{missing} missing" in str(raised.value)
    assert "dev" in str(raised.value)
    assert "secret-" not in everything_in(raised.value)


@pytest.mark.parametrize("body", cases([
    ("id", "aws_access_key_id =\n a = b\n" + SECRET_B + "region =\n a = b\n"),
    ("secret", ID_B + "aws_secret_access_key =\n a = b\nregion =\n a = b\n"),
    ("both", "aws_access_key_id =\n a = b\naws_secret_access_key =\n c = d\nregion =\n a = b\n"),
]))
def test_sub_properties_where_a_value_belongs(environ, body):
    write_home(environ, credentials="[default]\n" + body)
    for load in (load_credentials, load_region):
        with pytest.raises(BedrockTokenError):
            load(environ=environ)


# A property, and as it stands in the file a value that no key has.
DAMAGED = [
    ("space in the id", "aws_access_key_id", f"AKIA {PLANTED}"),
    ("space in the secret", "aws_secret_access_key", f"secret {PLANTED}"),
    ("tab in the secret", "aws_secret_access_key", f"secret\t{PLANTED}"),
    ("continued secret", "aws_secret_access_key", f"secret\n {PLANTED}"),
    ("NUL in the secret", "aws_secret_access_key", f"secret\0{PLANTED}"),
    ("VT at the end of the secret", "aws_secret_access_key", f"{PLANTED}\v"),
    ("DEL in the id", "aws_access_key_id", f"AKIA\x7f{PLANTED}"),
    ("continued session token", "aws_session_token", f"token\n {PLANTED}"),
    ("CR in the session token", "aws_session_token", f"token\rx{PLANTED}"),
]


@pytest.mark.parametrize("name, value", cases(DAMAGED))
def test_damaged_key_in_a_profile(environ, name, value):
    pair = {"aws_access_key_id": "AKIADEV", "aws_secret_access_key": "secret-dev", name: value}
    write_home(environ, credentials="[dev]\n" + "".join(f"{k} = {v}\n" for k, v in pair.items()))
    with pytest.raises(CredentialsError) as raised:
        load_credentials("dev", environ=environ)
    assert "dev" in str(raised.value)
    assert PLANTED not in everything_in(raised.value)
