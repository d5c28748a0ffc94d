"""Roles: the profiles and web identities that assume one through STS, and assume_role; where STS
is, and the ways to it: endpoint URLs, proxies, TLS."""

import re
import sys
from base64 import b64encode
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta, timezone

import pytest

from bedrock_token import (
    Credentials,
    CredentialsError,
    NoRegionError,
    TokenProvider,
    assume_role,
    decode_token,
    get_token,
    load_credentials,
)
from tests.fake_aws import (
    PEM, Container, Fake, Forever, Imds, Proxy, SsoPortal, Sts, answer, html, refused_url,
    role_keys, tunnel,
)
from tests.helpers import ARN, ENV_BASE, NOW, cases, everything_in, keys, write_home

WEB_TOKEN = "web.identity.token"
BASE = Credentials("AKIABASE", "secret-BASE")


def known_keys():
    """The keys that may sign: those of static profiles, and those other fakes give out."""
    known = {f"AKIA{name}": (f"secret-{name}", None) for name in ("BASE", "A", "B")}
    for role in ("container", "instance", "Signed"):
        key_id, secret, session_token = role_keys(role)
        known[key_id] = secret, session_token
    return known


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


def steps(sts):
    """(role assumed, key id that signed the call) of every request."""
    return [
        (request.form["RoleArn"].rpartition("/")[2],
         request.headers.get("Authorization", "=").partition("=")[2].partition("/")[0])
        for request in sts.requests
    ]


def key_of(role):
    return role_keys(role)[0]


def profile(name, *lines):
    return f"[profile {name}]\n" + "".join(line + "\n" for line in lines)


def role(name, role_name, *lines):
    return profile(name, f"role_arn = {ARN}{role_name}", *lines)


# --- profiles with a role ------------------------------------------------------------------

CREDENTIALS_FILE = "[base]\n" + keys("BASE")

# What stands in the config file besides [base], and the calls that profile p costs.
ROLES = [
    ("source profile", role("p", "P", "source_profile = base"), [("P", "AKIABASE")]),
    ("two roles", role("p", "P", "source_profile = a") + role("a", "A", "source_profile = base"),
     [("A", "AKIABASE"), ("P", key_of("A"))]),
    ("three roles",
     role("p", "P", "source_profile = b") + role("b", "B", "source_profile = a")
     + role("a", "A", "source_profile = base"),
     [("A", "AKIABASE"), ("B", key_of("A")), ("P", key_of("B"))]),
    ("a profile with keys that names itself", role("p", "P", "source_profile = p") + keys("A"),
     [("P", "AKIAA")]),
    ("the source names itself",
     role("p", "P", "source_profile = a") + role("a", "A", "source_profile = a") + keys("A"),
     [("P", "AKIAA")]),
    ("keys end the walk before the role of the source",
     role("p", "P", "source_profile = a") + role("a", "A", "source_profile = b") + keys("A")
     + profile("b", keys("B")),
     [("P", "AKIAA")]),
    ("keys end the walk before it comes back",
     role("p", "P", "source_profile = a") + role("a", "A", "source_profile = p") + keys("A"),
     [("P", "AKIAA")]),
    ("keys of a profile with a role are no credentials of its own",
     role("p", "P", "source_profile = base") + keys("A"), [("P", "AKIABASE")]),
    ("the two meet in one source",
     role("p", "P", "source_profile = a") + role("a", "A", "source_profile = base")
     + role("b", "B", "source_profile = a"),
     [("A", "AKIABASE"), ("P", key_of("A"))]),
    ("path in the ARN", role("p", "team/x/P", "source_profile = base"), [("P", "AKIABASE")]),
    ("web identity of the source",
     role("p", "P", "source_profile = a") + role("a", "A", "web_identity_token_file = ~/web"),
     [("A", ""), ("P", key_of("A"))]),
    ("web identity at the end of two roles",
     role("p", "P", "source_profile = b") + role("b", "B", "source_profile = a")
     + role("a", "A", "web_identity_token_file = ~/web"),
     [("A", ""), ("B", key_of("A")), ("P", key_of("B"))]),
]


@pytest.mark.parametrize("config, want", cases(ROLES))
def test_roles(environ, home, sts, config, want):
    (home / "web").write_text(WEB_TOKEN)
    write_home(environ, config, CREDENTIALS_FILE)
    got = load_credentials("p", environ=environ)
    assert (got.access_key_id, got.secret_access_key, got.session_token) == role_keys("P")
    assert got.expiration.tzinfo is timezone.utc
    assert steps(sts) == want


def test_role_of_the_default_profile(environ, sts):
    write_home(environ, f"[default]\nrole_arn = {ARN}P\nsource_profile = base\n", CREDENTIALS_FILE)
    assert load_credentials(environ=environ).access_key_id == key_of("P")
    write_home(environ, role("p", "Q", "source_profile = base"), CREDENTIALS_FILE)
    assert load_credentials(environ={**environ, "AWS_PROFILE": "p"}).access_key_id == key_of("Q")


@pytest.mark.parametrize("named", ["Environment", "environment", "ENVIRONMENT"])
@pytest.mark.parametrize("profile_name", [None, "p"], ids=["AWS_PROFILE", "in code"])
def test_credential_source_environment(environ, sts, named, profile_name):
    write_home(environ, role("p", "P", f"credential_source = {named}"))
    environ.update(ENV_BASE)
    # Not in code, the environment would win over the profile and not reach it.
    got = load_credentials("p", environ=environ)
    assert got.access_key_id == key_of("P")
    assert steps(sts) == [("P", "AKIABASE")]


def test_credential_source_environment_is_signed_with_the_session_token(environ, sts):
    write_home(environ, role("p", "P", "credential_source = Environment"))
    key_id, secret, session_token = role_keys("Signed")
    environ.update(AWS_ACCESS_KEY_ID=key_id, AWS_SECRET_ACCESS_KEY=secret,
                   AWS_SESSION_TOKEN=session_token)
    assert load_credentials("p", environ=environ).access_key_id == key_of("P")
    assert sts.requests[0].headers["X-Amz-Security-Token"] == session_token


@pytest.mark.parametrize("named", ["EcsContainer", "ecscontainer", "ECSCONTAINER"])
def test_credential_source_container(environ, sts, named):
    write_home(environ, role("p", "P", f"credential_source = {named}"))
    with Container() as container:
        environ["AWS_CONTAINER_CREDENTIALS_FULL_URI"] = container.url + "/credentials"
        assert load_credentials("p", environ=environ).access_key_id == key_of("P")
    assert steps(sts) == [("P", key_of("container"))]


@pytest.mark.parametrize("named", ["Ec2InstanceMetadata", "ec2instancemetadata"])
def test_credential_source_instance_metadata(environ, sts, named):
    write_home(environ, role("p", "P", f"credential_source = {named}"))
    with Imds() as imds:
        environ.update(AWS_EC2_METADATA_DISABLED="false",
                       AWS_EC2_METADATA_SERVICE_ENDPOINT=imds.url)
        assert load_credentials("p", environ=environ).access_key_id == key_of("P")
    assert steps(sts) == [("P", key_of("instance"))]


def test_source_profile_with_sso(environ, home, sts):
    write_home(environ, role("p", "P", "source_profile = a") + profile(
        "a", "sso_start_url = https://corp.awsapps.com/start", "sso_region = us-east-1",
        "sso_account_id = 123456789012", "sso_role_name = Signed"))
    cache = home / ".aws/sso/cache"
    cache.mkdir(parents=True)
    # printf https://corp.awsapps.com/start | sha1sum
    (cache / "a51746d4aa793ae07b25e90c3a5db96fc7832bd7.json").write_text(
        '{"accessToken": "access-token", "expiresAt": "2099-01-01T00:00:00Z"}')
    with SsoPortal() as portal:
        environ["AWS_ENDPOINT_URL_SSO"] = portal.url
        assert load_credentials("p", environ=environ).access_key_id == key_of("P")
    assert steps(sts) == [("P", key_of("Signed"))]


def test_source_profile_with_credential_process(environ, tmp_path, sts):
    program = tmp_path / "program.py"
    program.write_text(
        """print('{"Version": 1, "AccessKeyId": "AKIABASE", "SecretAccessKey": "secret-BASE"}')""")
    write_home(environ, role("p", "P", "source_profile = a")
               + profile("a", f'credential_process = "{sys.executable}" -I -S "{program}"'))
    assert load_credentials("p", environ=environ).access_key_id == key_of("P")
    assert steps(sts) == [("P", "AKIABASE")]


# What stands in the config file, and what the error of profile p says.
REFUSED_ROLES = [
    ("a profile without keys names itself", role("p", "P", "source_profile = p"), ["p -> p"]),
    ("loop of two",
     role("p", "P", "source_profile = a") + role("a", "A", "source_profile = p"),
     ["p -> a -> p"]),
    ("loop of three",
     role("p", "P", "source_profile = a") + role("a", "A", "source_profile = b")
     + role("b", "B", "source_profile = p"), ["p -> a -> b -> p"]),
    ("the source names itself without keys",
     role("p", "P", "source_profile = a") + role("a", "A", "source_profile = a"),
     ["p -> a -> a"]),
    ("loop that p is not part of",
     role("p", "P", "source_profile = a") + role("a", "A", "source_profile = b")
     + role("b", "B", "source_profile = a"), ["p -> a -> b -> a"]),
    ("missing source", role("p", "P", "source_profile = nobody"), ["p -> nobody"]),
    ("missing source further on",
     role("p", "P", "source_profile = a") + role("a", "A", "source_profile = nobody"),
     ["p -> a -> nobody"]),
    ("missing default as source", role("p", "P", "source_profile = default"), ["p -> default"]),
    ("empty source", role("p", "P", "source_profile = a") + profile("a", "region = us-east-1"),
     ["profile p", "source_profile a"]),
    ("empty source further on",
     role("p", "P", "source_profile = a") + role("a", "A", "source_profile = b")
     + profile("b", "region = us-east-1"), ["p -> a", "source_profile b"]),
    ("half a pair in the source",
     role("p", "P", "source_profile = a") + profile("a", "aws_access_key_id = AKIAA"),
     ["profile a", "aws_secret_access_key"]),
    ("half a pair in a source with a role",
     role("p", "P", "source_profile = a") + role("a", "A", "source_profile = base",
                                                 "aws_access_key_id = AKIAA"),
     ["profile a", "aws_secret_access_key"]),
    ("the other half in a source with a role",
     role("p", "P", "source_profile = a") + role("a", "A", "source_profile = base",
                                                 "aws_secret_access_key = planted"),
     ["profile a", "aws_access_key_id"]),
    ("neither source_profile nor credential_source", role("p", "P"),
     ["profile p", "source_profile", "credential_source"]),
    ("blank source_profile", role("p", "P", "source_profile ="),
     ["profile p", "source_profile", "credential_source"]),
    ("both source_profile and credential_source",
     role("p", "P", "source_profile = base", "credential_source = Environment"),
     ["profile p", "source_profile", "credential_source", "both"]),
    ("neither, in the source", role("p", "P", "source_profile = a") + role("a", "A"),
     ["p -> a", "source_profile", "credential_source"]),
    ("unknown credential_source", role("p", "P", "credential_source = Env"),
     ["profile p", "credential_source", "Environment", "Ec2InstanceMetadata", "EcsContainer"]),
    ("credential_source that has none", role("p", "P", "credential_source = Environment"),
     ["profile p", "credential_source Environment"]),
    ("credential_source without a container", role("p", "P", "credential_source = EcsContainer"),
     ["profile p", "credential_source EcsContainer"]),
    ("credential_source without metadata",
     role("p", "P", "credential_source = Ec2InstanceMetadata"),
     ["profile p", "credential_source Ec2InstanceMetadata"]),
    ("role_arn is a name",
     profile("p", "role_arn = Admin", "source_profile = base"), ["profile p", "role_arn"]),
    ("role_arn of a user",
     profile("p", "role_arn = arn:aws:iam::123456789012:user/x", "source_profile = base"),
     ["profile p", "role_arn"]),
]


@pytest.mark.parametrize("config, says", cases(REFUSED_ROLES))
def test_refused_roles(environ, sts, config, says):
    write_home(environ, config, CREDENTIALS_FILE)
    with pytest.raises(CredentialsError) as raised:
        load_credentials("p", environ=environ)
    assert [text for text in says if text not in str(raised.value)] == []
    assert sts.requests == []


@pytest.mark.parametrize("arn", [
    "arn:aws-cn:iam::123456789012:role/P", "arn:aws-us-gov:iam::123456789012:role/P",
    "arn:aws:iam::123456789012:role/aws-service-role/x.amazonaws.com/P",
])
def test_role_arn_is_sent_as_it_is(environ, sts, arn):
    write_home(environ, profile("p", f"role_arn = {arn}", "source_profile = base"),
               CREDENTIALS_FILE)
    load_credentials("p", environ=environ)
    assert sts.requests[0].form["RoleArn"] == arn


# A line of the profile with the role, and the parameter it becomes.
PARAMETERS = [
    ("external id", "external_id = Corp:123/x", "ExternalId", "Corp:123/x"),
    ("no external id", "", "ExternalId", None),
    ("session name", "role_session_name = me@example.com", "RoleSessionName", "me@example.com"),
    ("all characters", "role_session_name = aZ0_+=,.@-", "RoleSessionName", "aZ0_+=,.@-"),
    ("session name of 2", "role_session_name = ab", "RoleSessionName", "ab"),
    ("session name of 64", "role_session_name = " + 64 * "a", "RoleSessionName", 64 * "a"),
    ("no duration", "", "DurationSeconds", None),
    ("900 s", "duration_seconds = 900", "DurationSeconds", "900"),
    ("12 h", "duration_seconds = 43200", "DurationSeconds", "43200"),
    ("no policy", "", "Policy", None),
    ("no MFA", "", "SerialNumber", None),
]


@pytest.mark.parametrize("line, parameter, want", cases(PARAMETERS))
def test_parameters(environ, sts, line, parameter, want):
    # The source's own settings are for its own role: here they would be refused.
    write_home(environ, role("p", "P", "source_profile = base", line)
               + profile("base", "external_id = other", "role_session_name = x",
                         "duration_seconds = 1", "mfa_serial = other"), CREDENTIALS_FILE)
    load_credentials("p", environ=environ)
    assert sts.requests[0].form.get(parameter) == want


def test_session_name_of_its_own_making(environ, sts):
    write_home(environ, role("p", "P", "source_profile = base"), CREDENTIALS_FILE)
    load_credentials("p", environ=environ)
    assume_role(ARN + "P", credentials=BASE, environ=environ)()
    for request in sts.requests:
        assert re.fullmatch(r"bedrock_token-\d{10}", request.form["RoleSessionName"], re.ASCII)


@pytest.mark.parametrize("line", [
    "role_session_name = a", "role_session_name = " + 65 * "a", "role_session_name = a b",
    "role_session_name = a/b", "role_session_name = J\u00fcrgen", "role_session_name = a\n b",
    "duration_seconds = 899", "duration_seconds = 43201", "duration_seconds = x",
    "duration_seconds = 3600.0", "duration_seconds = +3600", "duration_seconds = 1h",
    "duration_seconds = \u0663\u0666\u0660\u0660",
], ids=ascii)
@pytest.mark.parametrize("more", ["source_profile = base", "web_identity_token_file = ~/web"])
def test_refused_parameters(environ, home, sts, line, more):
    (home / "web").write_text(WEB_TOKEN)
    write_home(environ, role("p", "P", more, line), CREDENTIALS_FILE)
    with pytest.raises(CredentialsError, match="session name|duration") as raised:
        load_credentials("p", environ=environ)
    assert "profile p" in str(raised.value)
    assert sts.requests == []


def test_external_id_that_sts_refuses(environ, sts):
    sts.external_id = "right"
    write_home(environ, role("p", "P", "source_profile = base", "external_id = wrong"),
               CREDENTIALS_FILE)
    with pytest.raises(CredentialsError, match="AccessDenied.*sts:AssumeRole") as raised:
        load_credentials("p", environ=environ)
    assert "profile p" in str(raised.value)
    assert "secret-BASE" not in everything_in(raised.value)


SERIAL = "arn:aws:iam::123456789012:mfa/me"


@pytest.fixture
def mfa_home(environ, sts):
    write_home(environ, role("p", "P", "source_profile = base", f"mfa_serial = {SERIAL}"),
               CREDENTIALS_FILE)
    sts.mfa = SERIAL, "012345"


@pytest.mark.parametrize("code", ["012345", " 012345\n"], ids=repr)
def test_mfa(environ, sts, mfa_home, code):
    asked = []

    def mfa_code(serial):
        asked.append(serial)
        return code
    got = load_credentials("p", environ=environ, mfa_code=mfa_code)
    assert got.access_key_id == key_of("P")
    assert asked == [SERIAL]


def test_mfa_of_each_role_of_a_chain(environ, sts):
    write_home(environ, role("p", "P", "source_profile = a", "mfa_serial = one")
               + role("a", "A", "source_profile = base", "mfa_serial = two"), CREDENTIALS_FILE)
    codes = {"one": "111111", "two": "222222"}
    load_credentials("p", environ=environ, mfa_code=codes.get)
    assert [(request.form["SerialNumber"], request.form["TokenCode"])
            for request in sts.requests] == [("two", "222222"), ("one", "111111")]


def test_mfa_without_a_way_to_ask(environ, sts, mfa_home):
    for load in (load_credentials, lambda name, environ: get_token(profile=name, environ=environ)):
        with pytest.raises(CredentialsError, match="mfa_code") as raised:
            load("p", environ=environ)
        assert SERIAL in str(raised.value)
    assert sts.requests == []


@pytest.mark.parametrize("code", ["", "12345", "1234567", "12345x", "\u0661" * 6], ids=ascii)
def test_mfa_code_that_is_none(environ, sts, mfa_home, code):
    with pytest.raises(CredentialsError, match="six digits"):
        load_credentials("p", environ=environ, mfa_code=lambda serial: code)
    assert sts.requests == []


def test_mfa_code_that_sts_refuses(environ, sts, mfa_home):
    with pytest.raises(CredentialsError, match="invalid MFA one time pass code"):
        load_credentials("p", environ=environ, mfa_code=lambda serial: "999999")


# --- web identity --------------------------------------------------------------------------

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


# --- assume_role ---------------------------------------------------------------------------

def test_assume_role_asks_when_it_is_called(environ, sts):
    source = assume_role(ARN + "P", credentials=BASE, environ=environ)
    assert sts.requests == []
    got = source()
    assert (got.access_key_id, got.secret_access_key, got.session_token) == role_keys("P")
    assert ARN + "P" in got.source
    source()
    assert steps(sts) == [("P", "AKIABASE"), ("P", "AKIABASE")]


def test_assume_role_through_two_others(environ, sts):
    first = assume_role(ARN + "First", credentials=BASE, environ=environ)
    second = assume_role(ARN + "Second", credentials=first, environ=environ)
    assume_role(ARN + "Third", credentials=second, environ=environ)()
    assert steps(sts) == [("First", "AKIABASE"), ("Second", key_of("First")),
                          ("Third", key_of("Second"))]


class BotocoreKeys:
    access_key, secret_key, token = "AKIABASE", "secret-BASE", None


@pytest.mark.parametrize("credentials", [None, BotocoreKeys, lambda: BASE],
                         ids=["chain", "botocore", "callable"])
def test_assume_role_with_any_credentials(environ, sts, credentials):
    given = credentials() if credentials is BotocoreKeys else credentials
    environ.update(ENV_BASE)
    assume_role(ARN + "P", credentials=given, environ=environ)()
    assert steps(sts) == [("P", "AKIABASE")]


POLICY = '{"Version": "2012-10-17", "Statement": []}'

# Arguments, and what they become.
ARGUMENTS = [
    ("defaults", {}, {"DurationSeconds": "3600"}),
    ("policy", {"policy": POLICY}, {"DurationSeconds": "3600", "Policy": POLICY}),
    ("external id", {"external_id": "x/1"}, {"DurationSeconds": "3600", "ExternalId": "x/1"}),
    ("15 minutes", {"duration": 900}, {"DurationSeconds": "900"}),
    ("12 hours", {"duration": 43200}, {"DurationSeconds": "43200"}),
    ("timedelta", {"duration": timedelta(hours=12)}, {"DurationSeconds": "43200"}),
    ("MFA", {"mfa_serial": SERIAL, "mfa_code": {SERIAL: "012345"}.get},
     {"DurationSeconds": "3600", "SerialNumber": SERIAL, "TokenCode": "012345"}),
]


@pytest.mark.parametrize("arguments, want", cases(ARGUMENTS))
def test_assume_role_arguments(environ, sts, arguments, want):
    assume_role(ARN + "P", credentials=BASE, environ=environ, session_name="me", **arguments)()
    assert sts.requests[0].form == {"Action": "AssumeRole", "Version": "2011-06-15",
                                    "RoleArn": ARN + "P", "RoleSessionName": "me", **want}


@pytest.mark.parametrize("duration", [
    899, 43201, 0, -1, True, 3600.0, "3600", None, float("nan"), timedelta(seconds=899.9),
    timedelta(seconds=43201),
], ids=repr)
def test_assume_role_refuses_a_duration(environ, duration):
    with pytest.raises(ValueError, match="duration"):
        assume_role(ARN + "P", credentials=BASE, environ=environ, duration=duration)


@pytest.mark.parametrize("arguments", cases([
    ("no ARN", {"role_arn": "Admin"}),
    ("empty ARN", {"role_arn": ""}),
    ("session name of 1", {"session_name": "a"}),
    ("session name with a blank", {"session_name": "a b"}),
]))
def test_assume_role_refuses_what_sts_would(environ, sts, arguments):
    with pytest.raises(ValueError, match="role|session name"):
        assume_role(**{"role_arn": ARN + "P", **arguments}, credentials=BASE, environ=environ)()
    assert sts.requests == []


def test_assume_role_with_mfa_and_no_way_to_ask(environ, sts):
    with pytest.raises(CredentialsError, match="mfa_code"):
        assume_role(ARN + "P", credentials=BASE, environ=environ, mfa_serial=SERIAL)()


@pytest.mark.parametrize("region, variables, want", cases([
    ("argument", "eu-west-1", {"AWS_REGION": "us-west-2"}, "eu-west-1"),
    ("environment", None, {"AWS_REGION": "us-west-2"}, "us-west-2"),
    ("none", None, {}, "us-east-1"),
]))
def test_assume_role_signs_for_the_region(environ, sts, region, variables, want):
    sts.region = want
    environ.update(variables)
    assume_role(ARN + "P", credentials=BASE, region=region, environ=environ)()
    assert [f"/{want}/sts/" in request.headers["Authorization"]
            for request in sts.requests] == [True]


def test_assume_role_refuses_a_region(environ, sts):
    with pytest.raises(ValueError, match="region"):
        assume_role(ARN + "P", credentials=BASE, region="nowhere/evil", environ=environ)()
    assert sts.requests == []


def test_token_of_an_assumed_role(environ, sts):
    end = (datetime.now(timezone.utc) + timedelta(hours=2)).replace(microsecond=0)
    sts.expiration = end.isoformat()
    source = assume_role(ARN + "P", credentials=BASE, environ=environ)
    for calls in (1, 2):
        token = get_token(source, "us-west-2")
        assert decode_token(token)["access_key_id"] == key_of("P")
        assert token.expiration == end
        assert len(sts.requests) == calls


# --- the signature -------------------------------------------------------------------------

ANSWER = (
    '<AssumeRoleResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><AssumeRoleResult>'
    "<Credentials><AccessKeyId>ASIAP</AccessKeyId><SecretAccessKey>secret</SecretAccessKey>"
    "<SessionToken>token</SessionToken><Expiration>2025-07-01T13:00:00Z</Expiration></Credentials>"
    "</AssumeRoleResult></AssumeRoleResponse>"
)

# Keys of the environment, and the Authorization header, made by botocore 1.44.5:
#
#     botocore.auth.get_current_datetime = lambda: datetime(2025, 7, 1, 12)
#     request = AWSRequest("POST", "https://sts.amazonaws.com/", data=BODY,
#                          headers={"Content-Type": "application/x-www-form-urlencoded"})
#     SigV4Auth(Credentials(key_id, secret, session_token), "sts", "us-east-1").add_auth(request)
BODY = (
    "Version=2011-06-15&Action=AssumeRole&RoleArn=arn%3Aaws%3Aiam%3A%3A123456789012%3Arole%2FP"
    "&RoleSessionName=me&DurationSeconds=3600"
)
SIGNED = [
    ("long-term keys", "AKIAIOSFODNN7EXAMPLE", "",
     "AWS4-HMAC-SHA256 Credential=AKIAIOSFODNN7EXAMPLE/20250701/us-east-1/sts/aws4_request, "
     "SignedHeaders=content-type;host;x-amz-date, "
     "Signature=ad4c2c2e91664164b0283b43f6d40811955eec66c9f4f7fb47464d33c482d1f6"),
    ("session token", "ASIAIOSFODNN7EXAMPLE", "IQoJb3JpZ2luX2VjEXAMPLETOKEN+/==",
     "AWS4-HMAC-SHA256 Credential=ASIAIOSFODNN7EXAMPLE/20250701/us-east-1/sts/aws4_request, "
     "SignedHeaders=content-type;host;x-amz-date;x-amz-security-token, "
     "Signature=ea2ff51026953a11454158a68c09576865a6b8e217f973fbcb872cf7542ca86a"),
]


@pytest.mark.parametrize("key_id, session_token, want", cases(SIGNED))
def test_authorization_is_the_one_of_botocore(environ, pem, key_id, session_token, want):
    environ.update(AWS_ACCESS_KEY_ID=key_id, AWS_SESSION_TOKEN=session_token,
                   AWS_SECRET_ACCESS_KEY="wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY")
    write_home(environ, role("p", "P", "credential_source = Environment",
                             "role_session_name = me", "duration_seconds = 3600"))
    with Fake(faults=[tunnel(pem), answer(200, ANSWER)]) as sts:
        environ.update(HTTPS_PROXY=sts.url, AWS_CA_BUNDLE=pem)
        with pytest.raises(NoRegionError):
            get_token(profile="p", environ=environ, now=NOW)
    connect, request = sts.requests
    assert request.body.decode() == BODY
    assert request.headers["Host"] == "sts.amazonaws.com"
    assert request.headers["X-Amz-Date"] == "20250701T120000Z"
    assert request.headers.get("X-Amz-Security-Token", "") == session_token
    assert request.headers["Authorization"] == want


# --- where STS is --------------------------------------------------------------------------

@pytest.fixture
def base_role(environ):
    """Profile p with a role, signed with the keys of the environment."""
    write_home(environ, role("p", "P", "credential_source = Environment"))
    environ.update(ENV_BASE)


@pytest.mark.parametrize("mint", [
    lambda environ: get_token(None, "eu-west-3", profile="p", environ=environ),
    lambda environ: TokenProvider(None, "eu-west-3", profile="p", environ=environ)(),
], ids=["get_token", "TokenProvider"])
def test_region_of_the_token_is_that_of_the_call(environ, base_role, sts, mint):
    sts.region = "eu-west-3"
    mint(environ)
    assert "/eu-west-3/sts/aws4_request" in sts.requests[0].headers["Authorization"]


FIPS = {"AWS_USE_FIPS_ENDPOINT": "true"}
DUALSTACK = {"AWS_USE_DUALSTACK_ENDPOINT": "true"}
LEGACY = {"AWS_STS_REGIONAL_ENDPOINTS": "legacy"}
FLAGS = [{}, FIPS, DUALSTACK, {**FIPS, **DUALSTACK}]

# As botocore 1.44.5 resolves them, plain, FIPS, dualstack, both:
#
#     rules = loader.load_service_model("sts", "endpoint-rule-set-1")
#     EndpointProvider(rules, loader.load_data("partitions")).resolve_endpoint(
#         Region=region, UseFIPS=fips, UseDualStack=dualstack, UseGlobalEndpoint=False).url
STS_HOSTS = {
    "us-east-1": [
        "sts.us-east-1.amazonaws.com", "sts-fips.us-east-1.amazonaws.com",
        "sts.us-east-1.api.aws", "sts-fips.us-east-1.api.aws",
    ],
    "us-gov-west-1": [
        "sts.us-gov-west-1.amazonaws.com", "sts.us-gov-west-1.amazonaws.com",
        "sts.us-gov-west-1.api.aws", "sts-fips.us-gov-west-1.api.aws",
    ],
    "cn-north-1": [
        "sts.cn-north-1.amazonaws.com.cn", "sts-fips.cn-north-1.amazonaws.com.cn",
        "sts.cn-north-1.api.amazonwebservices.com.cn",
        "sts-fips.cn-north-1.api.amazonwebservices.com.cn",
    ],
    "us-iso-east-1": [
        "sts.us-iso-east-1.c2s.ic.gov", "sts-fips.us-iso-east-1.c2s.ic.gov",
        "sts.us-iso-east-1.api.aws.ic.gov", "sts-fips.us-iso-east-1.api.aws.ic.gov",
    ],
    "us-isob-east-1": [
        "sts.us-isob-east-1.sc2s.sgov.gov", "sts-fips.us-isob-east-1.sc2s.sgov.gov",
        "sts.us-isob-east-1.api.aws.scloud", "sts-fips.us-isob-east-1.api.aws.scloud",
    ],
    "us-isof-south-1": [
        "sts.us-isof-south-1.csp.hci.ic.gov", "sts-fips.us-isof-south-1.csp.hci.ic.gov",
        "sts.us-isof-south-1.api.aws.hci.ic.gov", "sts-fips.us-isof-south-1.api.aws.hci.ic.gov",
    ],
    "eu-isoe-west-1": [
        "sts.eu-isoe-west-1.cloud.adc-e.uk", "sts-fips.eu-isoe-west-1.cloud.adc-e.uk",
        "sts.eu-isoe-west-1.api.cloud-aws.adc-e.uk",
        "sts-fips.eu-isoe-west-1.api.cloud-aws.adc-e.uk",
    ],
    "eusc-de-east-1": [
        "sts.eusc-de-east-1.amazonaws.eu", "sts-fips.eusc-de-east-1.amazonaws.eu",
        "sts.eusc-de-east-1.api.amazonwebservices.eu",
        "sts-fips.eusc-de-east-1.api.amazonwebservices.eu",
    ],
}
HOSTS = [
    *[(f"{region} {sorted(flags)}", {"AWS_REGION": region, **flags}, host)
      for region, hosts in STS_HOSTS.items() for flags, host in zip(FLAGS, hosts)],
    ("regional", {"AWS_REGION": "eu-west-1", "AWS_STS_REGIONAL_ENDPOINTS": "regional"},
     "sts.eu-west-1.amazonaws.com"),
    ("legacy, old region", {"AWS_REGION": "eu-west-1", **LEGACY}, "sts.amazonaws.com"),
    ("legacy, newer region", {"AWS_REGION": "eu-south-1", **LEGACY},
     "sts.eu-south-1.amazonaws.com"),
    ("legacy, other partition", {"AWS_REGION": "cn-north-1", **LEGACY},
     "sts.cn-north-1.amazonaws.com.cn"),
    # The same rules with UseGlobalEndpoint=True.
    ("legacy FIPS", {"AWS_REGION": "us-east-1", **LEGACY, **FIPS},
     "sts-fips.us-east-1.amazonaws.com"),
    ("legacy dualstack", {"AWS_REGION": "us-east-1", **LEGACY, **DUALSTACK},
     "sts.us-east-1.api.aws"),
    ("no region", {}, "sts.amazonaws.com"),
    ("AWS_DEFAULT_REGION", {"AWS_DEFAULT_REGION": "ap-south-1"}, "sts.ap-south-1.amazonaws.com"),
    ("FIPS in capitals", {"AWS_REGION": "us-east-1", "AWS_USE_FIPS_ENDPOINT": "TRUE"},
     "sts-fips.us-east-1.amazonaws.com"),
    ("FIPS off", {"AWS_REGION": "us-east-1", "AWS_USE_FIPS_ENDPOINT": "false"},
     "sts.us-east-1.amazonaws.com"),
]


def host_asked(environ, pem):
    """Which host the credentials of profile p are asked from. It has no certificate, mostly."""
    with Fake(faults=[Forever(tunnel(pem))]) as proxy:
        with pytest.raises(CredentialsError):
            load_credentials("p", environ={**environ, "HTTPS_PROXY": proxy.url,
                                           "AWS_CA_BUNDLE": pem})
    assert proxy.requests[0].method == "CONNECT"
    return proxy.requests[0].path


@pytest.mark.parametrize("variables, want", cases(HOSTS))
def test_host(environ, base_role, pem, variables, want):
    assert host_asked({**environ, **variables}, pem) == want + ":443"


@pytest.mark.parametrize("line, want", [
    ("region = eu-west-1", "sts.eu-west-1.amazonaws.com"),
    ("use_fips_endpoint = true", "sts-fips.us-east-1.amazonaws.com"),
    ("use_dualstack_endpoint = true", "sts.us-east-1.api.aws"),
    ("sts_regional_endpoints = legacy", "sts.amazonaws.com"),
])
def test_host_by_the_profile(environ, pem, line, want):
    write_home(environ, role("p", "P", "credential_source = Environment", "region = us-east-1",
                             line))
    environ.update(ENV_BASE)
    assert host_asked(environ, pem) == want + ":443"


def test_host_without_a_proxy(environ, base_role, nobody_answers):
    with pytest.raises(CredentialsError, match="sts.us-west-2.amazonaws.com"):
        load_credentials("p", environ={**environ, "AWS_REGION": "us-west-2"})
    assert set(nobody_answers) == {("sts.us-west-2.amazonaws.com", 443)}


def test_malformed_region(environ, sts, base_role):
    with pytest.raises(NoRegionError, match="AWS_REGION"):
        load_credentials("p", environ={**environ, "AWS_REGION": "evil.example.com/"})
    assert sts.requests == []


# Each place of an endpoint URL: variables, lines of the profile; its host. First hit wins.
ENDPOINT_PLACES = [
    ("service.test", {"AWS_ENDPOINT_URL_STS": "http://service.test"}, ""),
    ("global.test", {"AWS_ENDPOINT_URL": "http://global.test/"}, ""),
    ("section.test", {}, "services = local"),
    ("profile.test", {}, "endpoint_url = http://profile.test"),
]
SERVICES = "[services local]\nsso =\n endpoint_url = http://sso.test\n" \
    "sts =\n endpoint_url = http://section.test\n"


def endpoint_asked(environ):
    with Fake(faults=[answer(403)]) as proxy:
        with pytest.raises(CredentialsError):
            load_credentials("p", environ={**environ, "HTTP_PROXY": proxy.url})
    [request] = proxy.requests
    return request.path


@pytest.mark.parametrize("first", range(len(ENDPOINT_PLACES)))
def test_endpoint_url_places(environ, first):
    hosts, variables, lines = zip(*ENDPOINT_PLACES[first:])
    write_home(environ, SERVICES + role("p", "P", "credential_source = Environment", *lines))
    for each in ({"AWS_ENDPOINT_URL_SSO": "http://sso.test"}, ENV_BASE, *variables):
        environ.update(each)
    assert endpoint_asked(environ) == f"http://{hosts[0]}/"


@pytest.mark.parametrize("services", [
    "sts =\n endpoint_url =\n", "sso =\n endpoint_url = http://sso.test\n", "sts = x\n",
    "sts =\n region = x\n", "",
], ids=repr)
def test_services_section_without_a_url(environ, services):
    write_home(environ, "[services local]\n" + services + role(
        "p", "P", "credential_source = Environment", "services = local",
        "endpoint_url = http://profile.test"))
    assert endpoint_asked({**environ, **ENV_BASE}) == "http://profile.test/"


def test_services_section_that_is_missing(environ):
    write_home(environ, role("p", "P", "credential_source = Environment", "services = nobody"))
    with pytest.raises(CredentialsError, match="nobody"):
        load_credentials("p", environ={**environ, **ENV_BASE})


@pytest.mark.parametrize("variables, line", [
    ({"AWS_IGNORE_CONFIGURED_ENDPOINT_URLS": "true"}, ""),
    ({"AWS_IGNORE_CONFIGURED_ENDPOINT_URLS": "True"}, ""),
    ({}, "ignore_configured_endpoint_urls = true"),
])
def test_ignored_endpoint_urls(environ, pem, variables, line):
    _, in_environment, lines = zip(*ENDPOINT_PLACES)
    write_home(environ, SERVICES + role("p", "P", "credential_source = Environment", line, *lines))
    for each in (ENV_BASE, variables, *in_environment):
        environ.update(each)
    assert host_asked(environ, pem) == "sts.amazonaws.com:443"


@pytest.mark.parametrize("url", [
    "127.0.0.1:80", "ftp://service.test", "http://", "http://user:planted@service.test",
    "http://service.test/?x=1", "http://service.test/#x", "http://service.test\\@other.test",
    "http://service.test:99999", "http://service.test:x", "http://service .test",
    "file:///etc/passwd",
])
def test_malformed_endpoint_url(environ, base_role, url):
    with pytest.raises(CredentialsError, match="endpoint") as raised:
        load_credentials("p", environ={**environ, "AWS_ENDPOINT_URL_STS": url})
    assert "planted" not in everything_in(raised.value)


@pytest.mark.parametrize("url", ["http://service.test:8080/", "HTTP://service.test:8080"])
def test_endpoint_url_with_a_port(environ, base_role, url):
    environ["AWS_ENDPOINT_URL_STS"] = url
    assert endpoint_asked(environ).lower() == "http://service.test:8080/"


def test_endpoint_url_with_https_in_capitals(environ, base_role, pem):
    environ["AWS_ENDPOINT_URL_STS"] = "HTTPS://service.test"
    assert host_asked(environ, pem) == "service.test:443"


# --- proxies and TLS -----------------------------------------------------------------------

# Variables with the proxy's URL at {}, and whether it is asked.
PROXIES = [
    ("HTTP_PROXY", {"HTTP_PROXY": "{}"}, True),
    ("http_proxy", {"http_proxy": "{}"}, True),
    ("without a scheme", {"HTTP_PROXY": "{address}"}, True),
    ("slash at the end", {"HTTP_PROXY": "{}/"}, True),
    ("lower case first", {"http_proxy": "{}", "HTTP_PROXY": "http://127.0.0.1:1"}, True),
    ("https_proxy is for https", {"HTTPS_PROXY": "{}"}, False),
    ("NO_PROXY", {"HTTP_PROXY": "{}", "NO_PROXY": "127.0.0.1"}, False),
    ("no_proxy", {"HTTP_PROXY": "{}", "no_proxy": "localhost,127.0.0.1"}, False),
    ("NO_PROXY *", {"HTTP_PROXY": "{}", "NO_PROXY": "*"}, False),
    ("NO_PROXY of others", {"HTTP_PROXY": "{}", "NO_PROXY": "example.com,7.0.0.1"}, True),
    ("empty", {"HTTP_PROXY": " "}, False),
    # What a CGI program finds there is a header of its caller.
    ("HTTP_PROXY in CGI", {"HTTP_PROXY": "{}", "REQUEST_METHOD": "GET"}, False),
    ("http_proxy in CGI", {"http_proxy": "{}", "REQUEST_METHOD": "GET"}, True),
]


@pytest.mark.parametrize("variables, asked", cases(PROXIES))
def test_proxy(environ, base_role, sts, variables, asked):
    with Proxy() as proxy:
        address = proxy.url.partition("//")[2]
        for name, value in variables.items():
            environ[name] = value.format(proxy.url, address=address)
        assert load_credentials("p", environ=environ).access_key_id == key_of("P")
    assert [request.path for request in proxy.requests] == [sts.url + "/"] * asked
    assert [request.headers["Proxy-Authorization"] for request in proxy.requests] == [None] * asked
    assert len(sts.requests) == 1


USER = "me%40corp", "planted%2Fpassword"
BASIC = "Basic " + b64encode(b"me@corp:planted/password").decode()


def with_user(url):
    return url.replace("//", "//{}:{}@".format(*USER))


def test_proxy_user(environ, base_role, sts):
    with Proxy() as proxy:
        load_credentials("p", environ={**environ, "HTTP_PROXY": with_user(proxy.url)})
    assert [request.headers["Proxy-Authorization"] for request in proxy.requests] == [BASIC]
    assert "Proxy-Authorization" not in sts.requests[0].headers


# The variable, and what the proxy answers; None: nobody is there.
PROXY_FAULTS = [
    ("HTTP_PROXY", answer(407, headers=[("Proxy-Authenticate", "Basic")])),
    ("HTTP_PROXY", None),
    ("HTTPS_PROXY", answer(407, headers=[("Proxy-Authenticate", "Basic")])),
    ("HTTPS_PROXY", html(403)),
    ("HTTPS_PROXY", None),
]


def test_proxy_user_is_in_no_error(environ, base_role):
    """All at once, since most are tried three times."""
    def error_of(row):
        variable, fault = row
        scheme = variable.partition("_")[0].lower()
        with Fake(faults=[Forever(fault)]) as proxy:
            url = proxy.url if fault else refused_url()
            with pytest.raises(CredentialsError) as raised:
                load_credentials("p", environ={
                    **environ, "AWS_ENDPOINT_URL_STS": scheme + "://service.test",
                    variable: with_user(url)})
        return url.partition("//")[2], str(raised.value), everything_in(raised.value)

    with ThreadPoolExecutor(len(PROXY_FAULTS)) as pool:
        errors = list(pool.map(error_of, PROXY_FAULTS))
    assert [error for _, error, _ in errors if "profile p" not in error] == []
    # The first is an answer like any other.
    assert [error for proxy, error, _ in errors[1:] if proxy not in error] == []
    assert [part for part in (*USER, "planted", BASIC.partition(" ")[2])
            for _, _, everything in errors if part in everything] == []


@pytest.mark.parametrize("url", ["http://", "http://a b", "http://user:planted@", "http://x:99999"])
def test_malformed_proxy(environ, base_role, sts, url):
    with pytest.raises(CredentialsError, match="HTTP_PROXY") as raised:
        load_credentials("p", environ={**environ, "HTTP_PROXY": url})
    assert "planted" not in everything_in(raised.value)
    assert sts.requests == []


# Variables and a line of the profile; the host, and the region signed for.
TLS = [
    ("no region", {}, "", "sts.amazonaws.com", "us-east-1"),
    ("region", {"AWS_REGION": "us-east-1"}, "", "sts.us-east-1.amazonaws.com", "us-east-1"),
    ("legacy", {"AWS_REGION": "eu-west-1", **LEGACY}, "", "sts.amazonaws.com", "us-east-1"),
    ("endpoint URL and region",
     {"AWS_REGION": "eu-west-1", "AWS_ENDPOINT_URL_STS": "https://vpce.us-east-1.amazonaws.com"},
     "", "vpce.us-east-1.amazonaws.com", "eu-west-1"),
    ("endpoint URL in the profile", {}, "endpoint_url = https://vpce.us-east-1.amazonaws.com",
     "vpce.us-east-1.amazonaws.com", "us-east-1"),
]


@pytest.mark.parametrize("variables, line, host, region", cases(TLS))
def test_tls_through_a_proxy(environ, pem, variables, line, host, region):
    write_home(environ, role("p", "P", "credential_source = Environment", line))
    with Sts(keys=known_keys(), region=region, faults=[tunnel(pem)]) as sts:
        environ.update(ENV_BASE, HTTPS_PROXY=with_user(sts.url), AWS_CA_BUNDLE=pem, **variables)
        assert load_credentials("p", environ=environ).access_key_id == key_of("P")
    connect, request = sts.requests
    assert (connect.method, connect.path) == ("CONNECT", host + ":443")
    assert connect.headers["Proxy-Authorization"] == BASIC
    assert (request.path, request.headers["Host"]) == ("/", host)
    assert "Proxy-Authorization" not in request.headers


# Variables and a line of the profile, with the bundle at {}; whether the certificate is trusted.
BUNDLES = [
    ("AWS_CA_BUNDLE", {"AWS_CA_BUNDLE": "{}"}, "", True),
    ("profile", {}, "ca_bundle = {}", True),
    ("AWS_CA_BUNDLE first", {"AWS_CA_BUNDLE": "{}"}, "ca_bundle = /missing", True),
    ("tilde", {"AWS_CA_BUNDLE": "~/tls.pem"}, "", True),
    ("folder", {"AWS_CA_BUNDLE": "~/certificates"}, "", True),
    ("system", {}, "", False),
]


@pytest.mark.parametrize("variables, line, trusted", cases(BUNDLES))
def test_ca_bundle(environ, home, pem, variables, line, trusted):
    (home / "tls.pem").write_text(PEM)
    (home / "certificates").mkdir()
    # openssl x509 -noout -hash -in tls.pem
    (home / "certificates" / "756b76dc.0").write_text(PEM)
    write_home(environ, role("p", "P", "credential_source = Environment", line.format(pem)))
    environ.update(ENV_BASE)
    environ.update({name: value.format(pem) for name, value in variables.items()})
    with Sts(keys=known_keys(), faults=[tunnel(pem)]) as sts:
        environ["HTTPS_PROXY"] = sts.url
        if trusted:
            assert load_credentials("p", environ=environ).access_key_id == key_of("P")
        else:
            with pytest.raises(CredentialsError, match="certificate.*AWS_CA_BUNDLE"):
                load_credentials("p", environ=environ)
    assert [request.method for request in sts.requests] == ["CONNECT", "POST"][:1 + trusted]


def test_certificate_of_another_host(environ, base_role, pem):
    environ.update(AWS_REGION="eu-west-1", AWS_CA_BUNDLE=pem)
    with Sts(keys=known_keys(), faults=[tunnel(pem)]) as sts:
        with pytest.raises(CredentialsError, match="certificate"):
            load_credentials("p", environ={**environ, "HTTPS_PROXY": sts.url})
    assert [request.method for request in sts.requests] == ["CONNECT"]


@pytest.mark.parametrize("content", [None, b"", b"not a certificate"], ids=repr)
def test_ca_bundle_that_is_none(environ, base_role, tmp_path, content):
    bundle = tmp_path / "bundle.pem"
    if content is not None:
        bundle.write_bytes(content)
    with pytest.raises(CredentialsError, match="CA bundle") as raised:
        load_credentials("p", environ={**environ, "AWS_CA_BUNDLE": str(bundle)})
    assert str(bundle) in str(raised.value)


def test_ca_bundle_is_not_needed_for_http(environ, base_role, sts):
    environ["AWS_CA_BUNDLE"] = "/missing"
    assert load_credentials("p", environ=environ).access_key_id == key_of("P")
