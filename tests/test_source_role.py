"""Roles assumed through STS: by a profile, and by assume_role."""

import re
import sys
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
from tests.fake_aws import Container, Fake, Imds, SsoPortal, answer, role_keys, tunnel
from tests.helpers import (
    ARN, CREDENTIALS_FILE, ENV_BASE, LEGACY_SSO_CACHE, NOW, START_URL, WEB_TOKEN, cases,
    everything_in, key_of, keys, profile, role, write_home,
)

BASE = Credentials("AKIABASE", "secret-BASE")


def steps(sts):
    """(role assumed, key id that signed the call) of every request."""
    return [
        (request.form["RoleArn"].rpartition("/")[2],
         request.headers.get("Authorization", "=").partition("=")[2].partition("/")[0])
        for request in sts.requests
    ]


# --- profiles with a role ------------------------------------------------------------------

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
        "a", f"sso_start_url = {START_URL}", "sso_region = us-east-1",
        "sso_account_id = 123456789012", "sso_role_name = Signed"))
    cache = home / LEGACY_SSO_CACHE
    cache.parent.mkdir(parents=True)
    cache.write_text(
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
    ("a profile without keys names itself", role("p", "P", "source_profile = p"),
     ["profile p", "circle"]),
    ("loop of two",
     role("p", "P", "source_profile = a") + role("a", "A", "source_profile = p"),
     ["profile p", "profile a", "source_profile p: this goes in a circle"]),
    ("loop of three",
     role("p", "P", "source_profile = a") + role("a", "A", "source_profile = b")
     + role("b", "B", "source_profile = p"),
     ["profile p", "profile a", "profile b", "source_profile p: this goes in a circle"]),
    ("the source names itself without keys",
     role("p", "P", "source_profile = a") + role("a", "A", "source_profile = a"),
     ["profile p", "profile a", "source_profile a: this goes in a circle"]),
    ("loop that p is not part of",
     role("p", "P", "source_profile = a") + role("a", "A", "source_profile = b")
     + role("b", "B", "source_profile = a"),
     ["profile p", "profile a", "profile b", "source_profile a: this goes in a circle"]),
    ("missing source", role("p", "P", "source_profile = nobody"), ["profile p", "profile nobody"]),
    ("missing source further on",
     role("p", "P", "source_profile = a") + role("a", "A", "source_profile = nobody"),
     ["profile p", "profile a", "profile nobody"]),
    ("missing default as source", role("p", "P", "source_profile = default"),
     ["profile p", "source default"]),
    ("empty source", role("p", "P", "source_profile = a") + profile("a", "region = us-east-1"),
     ["profile p", "source a"]),
    ("empty source further on",
     role("p", "P", "source_profile = a") + role("a", "A", "source_profile = b")
     + profile("b", "region = us-east-1"), ["profile p", "profile a", "source b"]),
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
     ["profile p", "profile a", "source_profile", "credential_source"]),
    ("unknown credential_source", role("p", "P", "credential_source = Env"),
     ["profile p", "credential_source", "Environment", "Ec2InstanceMetadata", "EcsContainer"]),
    ("credential_source that has none", role("p", "P", "credential_source = Environment"),
     ["profile p", "source Environment"]),
    ("credential_source without a container", role("p", "P", "credential_source = EcsContainer"),
     ["profile p", "source EcsContainer"]),
    ("credential_source without metadata",
     role("p", "P", "credential_source = Ec2InstanceMetadata"),
     ["profile p", "source Ec2InstanceMetadata"]),
    ("role_arn is a name",
     profile("p", "role_arn = Admin", "source_profile = base"), ["profile p", "role_arn"]),
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
    names = [request.form["RoleSessionName"] for request in sts.requests]
    assert all(re.fullmatch(r"bedrock_token-\d{10}", name) for name in names) and len(names) == 2


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


# --- MFA -----------------------------------------------------------------------------------

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
    with pytest.raises(ValueError, match=r"^duration\b"):
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


@pytest.mark.parametrize("mint", [
    lambda environ: get_token(None, "eu-west-3", profile="p", environ=environ),
    lambda environ: TokenProvider(None, "eu-west-3", profile="p", environ=environ)(),
], ids=["get_token", "TokenProvider"])
def test_region_of_the_token_is_that_of_the_call(environ, base_role, sts, mint):
    sts.region = "eu-west-3"
    mint(environ)
    assert "/eu-west-3/sts/aws4_request" in sts.requests[0].headers["Authorization"]
