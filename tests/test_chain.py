"""All sources of credentials: which one wins, and where one is that does not work."""

import itertools
import json
import os
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import pytest

import bedrock_token
from bedrock_token import CredentialsError, NoCredentialsError, load_credentials
from tests.fake_aws import Container, Imds, SsoPortal, Sts, role_keys
from tests.helpers import (
    ARN, LATER, PROCESS_LINE, ROLE_LINE, SSO_LINES, STS_SETTINGS, cases, furnish, keys, write_home,
)


class Setup(NamedTuple):
    variables: dict
    lines: str  # of the default profile
    key_id: str
    source: str
    asked: list  # which services


# In the order of the chain.
SETUPS = {
    "environment": Setup(
        {"AWS_ACCESS_KEY_ID": "AKIAENV", "AWS_SECRET_ACCESS_KEY": "planted"}, "",
        "AKIAENV", "environment", []),
    "role": Setup(
        {}, ROLE_LINE + "source_profile = base\n", role_keys("Assumed")[0],
        f"profile default (role), role {ARN}Assumed, through profile base", ["sts"]),
    "web identity of the environment": Setup(
        {"AWS_WEB_IDENTITY_TOKEN_FILE": "~/web", "AWS_ROLE_ARN": ARN + "Env"}, "",
        role_keys("Env")[0], f"environment (web identity), role {ARN}Env", ["sts"]),
    "web identity of the profile": Setup(
        {}, ROLE_LINE + "web_identity_token_file = ~/web\n", role_keys("Assumed")[0],
        f"profile default (web identity), role {ARN}Assumed", ["sts"]),
    "sso": Setup({}, SSO_LINES, role_keys("Portal")[0], "profile default (sso)", ["sso"]),
    "static keys": Setup({}, keys("STATIC"), "AKIASTATIC", "profile default", []),
    "login": Setup({}, "login_session = me\n", "ASIALOGIN", "profile default (login)", []),
    "process": Setup({}, PROCESS_LINE, "ASIAPROCESS", "profile default (credential_process)", []),
    "container": Setup(
        {"AWS_CONTAINER_CREDENTIALS_FULL_URI": "{container}/credentials"}, "",
        role_keys("container")[0], "container", ["container"]),
    "instance metadata": Setup(
        {"AWS_EC2_METADATA_DISABLED": "false"}, "", role_keys("instance")[0],
        "instance metadata", 3 * ["imds"]),
}
OF_THE_ENVIRONMENT = {"environment", "web identity of the environment"}


@pytest.fixture(scope="module")
def services():
    fakes = {"sts": Sts(**STS_SETTINGS), "sso": SsoPortal(access_token="planted-access-token"),
             "container": Container(), "imds": Imds()}
    with ExitStack() as stack:
        for fake in fakes.values():
            stack.enter_context(fake)
        yield fakes


def load_with(setups, environ, home, services, profile=None, **variables):
    """The credentials of the default profile with these setups, and the services asked."""
    places = {"home": home, **{name: fake.url for name, fake in services.items()}}
    lines = "".join(setup.lines for setup in setups).format(**places)
    environ.update(AWS_ENDPOINT_URL_STS=places["sts"], AWS_ENDPOINT_URL_SSO=places["sso"],
                   AWS_EC2_METADATA_SERVICE_ENDPOINT=places["imds"],
                   AWS_METADATA_SERVICE_TIMEOUT="5", **variables)
    for setup in setups:
        for name, value in setup.variables.items():
            environ[name] = value.format(**places)
    furnish(home, lines)
    for fake in services.values():
        fake.requests.clear()
    got = load_credentials(profile, environ=environ)
    return got, [name for name, fake in services.items() for _ in fake.requests]


@pytest.mark.parametrize("name", SETUPS)
def test_each_source(environ, home, services, name):
    setup = SETUPS[name]
    got, asked = load_with([setup], environ, home, services)
    assert (got.access_key_id, got.source, asked) == setup[2:]


# A role's profile with a token file is a web identity, which has a test of its own.
PAIRS = [pair for pair in itertools.combinations(SETUPS, 2)
         if pair != ("role", "web identity of the profile")]


@pytest.mark.parametrize("first, second", PAIRS)
def test_pairs(environ, home, services, first, second):
    got, asked = load_with([SETUPS[first], SETUPS[second]], environ, home, services)
    assert (got.access_key_id, got.source, asked) == SETUPS[first][2:]


def test_role_with_a_token_file_is_a_web_identity(environ, home, services):
    setup = SETUPS["web identity of the profile"]
    got, asked = load_with([SETUPS["role"], setup], environ, home, services)
    assert (got.access_key_id, got.source, asked) == setup[2:]


@pytest.mark.parametrize("name", [name for name in SETUPS if name not in OF_THE_ENVIRONMENT])
def test_profile_in_code_switches_the_environment_off(environ, home, services, name):
    setups = [SETUPS[each] for each in sorted(OF_THE_ENVIRONMENT) + [name]]
    got, asked = load_with(setups, environ, home, services, profile="default")
    assert (got.access_key_id, got.source, asked) == setups[-1][2:]


@pytest.mark.parametrize("name", sorted(OF_THE_ENVIRONMENT))
def test_aws_profile_does_not(environ, home, services, name):
    setups = [SETUPS[name], SETUPS["static keys"]]
    got, _ = load_with(setups, environ, home, services, AWS_PROFILE="default")
    assert got.source == SETUPS[name].source


# What breaks each source, as variables and lines of the profile.
BROKEN = [
    ("environment", {"AWS_ACCESS_KEY_ID": "AKIAENV"}, ""),
    ("role", {}, f"role_arn = {ARN}Assumed\nsource_profile = nobody\n"),
    ("web identity of the environment", {"AWS_WEB_IDENTITY_TOKEN_FILE": "~/missing",
                                         "AWS_ROLE_ARN": ARN + "Env"}, ""),
    ("web identity of the profile", {}, ROLE_LINE + "web_identity_token_file = ~/missing\n"),
    ("sso", {}, SSO_LINES.replace("corp", "nobody")),
    ("static keys", {}, "aws_access_key_id = AKIASTATIC\n"),
    ("login", {"PATH": ""}, "login_session = you\n"),
    ("process", {}, f'credential_process = "{sys.executable}" -c "raise SystemExit(1)"\n'),
    ("container", {"AWS_CONTAINER_CREDENTIALS_FULL_URI": "{container}/missing"}, ""),
    ("profile", {"AWS_PROFILE": "nobody"}, ""),
]


@pytest.mark.parametrize("variables, lines", cases(BROKEN))
def test_broken_source_ends_the_chain(environ, home, services, variables, lines):
    broken = Setup(variables, lines, "", "", [])
    with pytest.raises(CredentialsError):
        load_with([SETUPS["instance metadata"], broken], environ, home, services)
    assert services["imds"].requests == []


# What is said of each place, in the order of the chain.
PLACES = [
    ("environment", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "not set"),
    ("profile default", "role_arn"),
    ("environment", "AWS_WEB_IDENTITY_TOKEN_FILE", "not set"),
    ("profile default", "web_identity_token_file"),
    ("profile default", "sso_account_id"),
    ("profile default", "aws_access_key_id"),
    ("profile default", "login_session"),
    ("profile default", "credential_process"),
    ("container", "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
     "AWS_CONTAINER_CREDENTIALS_FULL_URI", "not set"),
    ("instance metadata", "AWS_EC2_METADATA_DISABLED"),
]


def places_of_profiles(error):
    """What is said of them, after the names of their settings."""
    return {place.partition("): ")[2] for place in error.places if place.startswith("profile ")}


def test_nothing_in_the_files(environ):
    for file in ("config", "credentials"):
        write_home(environ)
        Path(environ["HOME"], ".aws", file).unlink()
        with pytest.raises(NoCredentialsError) as raised:
            load_credentials(environ=environ)
        assert places_of_profiles(raised.value) == {"not set"}


def test_nothing_configured(environ, home):
    with pytest.raises(NoCredentialsError) as raised:
        load_credentials(environ=environ)
    error = raised.value
    assert len(error.places) == len(PLACES)
    for place, words in zip(error.places, PLACES):
        assert [word for word in words if word not in place] == []
    config, credentials = (home / ".aws" / name for name in ("config", "credentials"))
    assert places_of_profiles(error) == {f"no such file, neither {config} nor {credentials}"}
    assert "skipped" not in str(error)
    # First what happened and what to do; then the places, one a line.
    assert "aws configure" in str(error).split("\n")[0]
    assert str(error).split("\n")[1:] == [f"  {place}" for place in error.places]


def test_nothing_configured_in_a_profile_that_is_named(environ, home):
    with pytest.raises(NoCredentialsError) as raised:
        load_credentials("default", environ=environ)
    skipped = [place for place in raised.value.places if "skipped: a profile is named" in place]
    assert [place.partition(" ")[0] for place in skipped] == ["environment", "environment"]


RECORDED = """
import json, sys
import bedrock_token
events = []
sys.addaudithook(lambda event, args: events.append([event, repr(args)]))
source = bedrock_token.load_credentials().source
bedrock_token.get_token()
watched = "open", "os.", "socket.", "subprocess.", "urllib.", "import"
print(json.dumps([source, [event for event in events if event[0].startswith(watched)]]))
"""


def test_environment_opens_no_file_and_no_socket(environ):
    environ.update(SETUPS["environment"].variables, AWS_SESSION_TOKEN="planted",
                   AWS_CREDENTIAL_EXPIRATION=LATER, AWS_REGION="us-east-1", AWS_PROFILE="nobody",
                   AWS_CONTAINER_CREDENTIALS_FULL_URI="http://example.com")
    done = subprocess.run(
        [sys.executable, "-B", "-c", RECORDED], env={**os.environ, **environ}, check=True,
        capture_output=True, text=True, cwd=Path(bedrock_token.__file__).parent, timeout=60)
    assert json.loads(done.stdout) == ["environment", []]
