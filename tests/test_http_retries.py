"""What is asked again, and what never is: codes and tokens that are spent by being sent, model calls."""

import json
import os
import socket
import struct

import pytest

import bedrock_token as bt
from tests.fake_aws import (
    REQUEST_ID, BedrockRuntime, Forever, LateContainer, Oidc, SsoPortal, Sts, answer, close, html,
    raw, redirect, role_keys, tunnel,
)
from tests.helpers import (
    ARN, ENV_BASE, LATER, MESSAGES, MODEL, SSO_CACHE, STATIC, WEB_TOKEN, cases, check_side_by_side, key_of,
    write_home,
)

TOKEN = bt.get_token(STATIC, "us-east-1")
ROLE = ARN + "R"
SERIAL = "arn:aws:iam::123456789012:mfa/me"
CODE = "012345"


def refusal(code, status=400):
    """How STS refuses."""
    return answer(status, (
        f"<ErrorResponse><Error><Type>Sender</Type><Code>{code}</Code><Message>Not now</Message>"
        "</Error></ErrorResponse>"), [("Content-Type", "text/xml"), REQUEST_ID])


def reset(handler):
    """Break the connection off without an answer."""
    at_once = struct.pack("hh" if os.name == "nt" else "ii", 1, 0)
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, at_once)
    handler.connection.close()
    handler.close_connection = True


# --- STS -----------------------------------------------------------------------------------

STS = {"keys": {"AKIABASE": ("secret-BASE", None)}, "web_identity_token": WEB_TOKEN}


@pytest.fixture
def sts(environ):
    with Sts(**STS) as fake:
        environ.update(ENV_BASE, AWS_ENDPOINT_URL_STS=fake.url)
        yield fake


@pytest.fixture
def with_roles(environ, home):
    """An environment with profiles that assume role R in this or that way."""
    (home / "web").write_text(WEB_TOKEN)
    write_home(environ, f"[profile role]\nrole_arn = {ROLE}\ncredential_source = Environment\n"
               f"[profile web]\nrole_arn = {ROLE}\nweb_identity_token_file = ~/web\n"
               f"[profile mfa]\nrole_arn = {ROLE}\ncredential_source = Environment\n"
               f"mfa_serial = {SERIAL}\n")
    return {**environ, **ENV_BASE}


@pytest.fixture
def load(with_roles, sts):
    """Loads the credentials of role R."""
    def load(profile):
        return bt.load_credentials(profile, environ={**with_roles, "AWS_ENDPOINT_URL_STS": sts.url},
                                   mfa_code=lambda serial: CODE)
    return load


PASSING = [
    "Throttling", "ThrottlingException", "ThrottledException", "RequestThrottled",
    "RequestThrottledException", "RequestLimitExceeded", "TooManyRequestsException", "SlowDown",
    "PriorRequestNotComplete", "BandwidthLimitExceeded", "IDPCommunicationError", "RequestTimeout",
    "RequestTimeoutException",
]


def test_code_that_passes(with_roles):
    def check(profile, code):
        with Sts(**STS, faults=2 * [refusal(code)]) as sts:
            got = bt.load_credentials(profile, environ={**with_roles, "AWS_ENDPOINT_URL_STS": sts.url})
        assert got.access_key_id == key_of("R")
        assert len(sts.requests) == 3
        assert {request.form.get("WebIdentityToken") for request in sts.requests} == {
            WEB_TOKEN if profile == "web" else None}

    check_side_by_side(check, [
        (f"{profile}, {code}", profile, code) for profile in ("role", "web") for code in PASSING])


@pytest.mark.parametrize("profile", ["role", "web"])
def test_code_that_does_not_pass(sts, load, profile):
    sts.faults = [Forever(refusal("Throttling"))]
    with pytest.raises(bt.CredentialsError, match="Throttling: Not now"):
        load(profile)
    assert len(sts.requests) == 3


@pytest.mark.parametrize("profile", ["role", "web"])
@pytest.mark.parametrize("code, status", [
    ("AccessDenied", 403), ("ExpiredToken", 400), ("ExpiredTokenException", 400),
    ("ValidationError", 400), ("InvalidIdentityToken", 400), ("IDPRejectedClaim", 403),
    ("MalformedPolicyDocument", 400), ("PackedPolicyTooLarge", 400), ("NotThrottling", 400),
    ("Throttlings", 400), ("RegionDisabledException", 403), ("IncompleteSignature", 400),
])
def test_code_that_is_final(sts, load, profile, code, status):
    sts.faults = [refusal(code, status)]
    with pytest.raises(bt.CredentialsError, match=code):
        load(profile)
    assert len(sts.requests) == 1


TROUBLE = [
    ("503", answer(503)),
    ("500", html(500)),
    ("429", answer(429)),
    ("Throttling", refusal("Throttling")),
    ("RequestTimeout", refusal("RequestTimeout")),
    ("closed", close),
    ("reset", reset),
    ("not HTTP", raw(b"SSH-2.0-OpenSSH_9.6\r\n")),
    ("cut off in the first line", raw(b"HTTP/1.1 20")),
    ("cut off in the headers", raw(b"HTTP/1.1 200 OK\r\nContent-Ty")),
    ("cut off in the body", raw(b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n<")),
    ("redirect", redirect("/", 307)),
]


@pytest.mark.parametrize("fault", cases(TROUBLE))
def test_mfa_code_is_sent_once(sts, load, fault):
    sts.faults = [fault]
    with pytest.raises(bt.CredentialsError) as caught:
        load("mfa")
    assert [request.form["TokenCode"] for request in sts.requests] == [CODE]
    assert CODE not in str(caught.value)


def test_mfa_code_of_assume_role_is_sent_once(environ, sts):
    sts.faults = [answer(503)]
    source = bt.assume_role(ROLE, credentials=bt.Credentials("AKIABASE", "secret-BASE"),
                            mfa_serial=SERIAL, mfa_code=lambda serial: CODE, environ=environ)
    with pytest.raises(bt.CredentialsError):
        source()
    assert len(sts.requests) == 1


# --- IAM Identity Center -------------------------------------------------------------------

@pytest.fixture
def sso(environ, home):
    """A session that has to be renewed; its portal and OIDC."""
    write_home(environ, "[sso-session corp]\nsso_region = us-east-1\n"
               "sso_start_url = https://corp.awsapps.com/start\n[profile p]\nsso_session = corp\n"
               "sso_account_id = 123456789012\nsso_role_name = Dev\n")
    file = home / SSO_CACHE
    file.parent.mkdir(parents=True)
    file.write_text(json.dumps({
        "accessToken": "access-token-0", "expiresAt": "2025-07-01T12:00:00Z",
        "clientId": "client-id", "clientSecret": "client-secret", "registrationExpiresAt": LATER,
        "refreshToken": "refresh-token"}))
    with SsoPortal(access_token="access-token-1") as portal, Oidc() as oidc:
        environ.update(AWS_ENDPOINT_URL_SSO=portal.url, AWS_ENDPOINT_URL_SSO_OIDC=oidc.url)
        yield portal, oidc


@pytest.mark.parametrize("fault", cases(TROUBLE))
def test_refresh_token_is_sent_once(environ, sso, fault):
    portal, oidc = sso
    oidc.faults = [fault]
    with pytest.raises(bt.CredentialsError, match="aws sso login --profile p"):
        bt.load_credentials("p", environ=environ)
    assert [request.json["refreshToken"] for request in oidc.requests] == ["refresh-token"]
    assert portal.requests == []


@pytest.mark.parametrize("fault", cases([
    ("429", answer(429, {"message": "Too many"}, [("x-amzn-ErrorType", "TooManyRequestsException")])),
    ("503", answer(503)),
    ("closed", close),
]))
def test_portal_is_asked_again(environ, sso, fault):
    portal, oidc = sso
    portal.faults = [fault]
    assert bt.load_credentials("p", environ=environ).access_key_id == key_of("Dev")
    assert len(portal.requests) == 2
    assert len(oidc.requests) == 1


# --- the container's agent -----------------------------------------------------------------

def test_agent_that_comes_up_later(environ):
    key_id, secret, session_token = role_keys("container")
    write_home(environ, f"[profile p]\nrole_arn = {ROLE}\ncredential_source = EcsContainer\n")

    def check(authorization, profile, role):
        with LateContainer(authorization=authorization) as agent, \
                Sts(keys={key_id: (secret, session_token)}) as sts:
            got = bt.load_credentials(profile, environ={
                **environ, "AWS_CONTAINER_CREDENTIALS_FULL_URI": agent.url + "/credentials",
                "AWS_CONTAINER_AUTHORIZATION_TOKEN": authorization or "", "AWS_ENDPOINT_URL_STS": sts.url})
        assert got.access_key_id == key_of(role)
        assert len(agent.requests) == 1

    check_side_by_side(check, [
        ("open to all", None, None, "container"), ("with authorization", "agent-token", None, "container"),
        ("for a role", None, "p", "R")])


# --- model calls ---------------------------------------------------------------------------

def stream_to_its_end(*args, **options):
    return list(bt.converse_stream(*args, **options))


@pytest.fixture
def runtime():
    with BedrockRuntime() as fake:
        yield fake


BOTH = {"converse": bt.converse, "stream": stream_to_its_end}


@pytest.fixture(params=BOTH.values(), ids=BOTH.keys())
def call(request, environ, runtime):
    def call(**options):
        return request.param(MODEL, MESSAGES, token=TOKEN, environ={
            **environ, "AWS_ENDPOINT_URL_BEDROCK_RUNTIME": runtime.url}, **options)
    return call


@pytest.mark.parametrize("fault", cases([
    ("closed", close),
    ("reset", reset),
    ("cut off in the first line", raw(b"HTTP/1.1 20")),
    ("cut off in the headers", raw(b"HTTP/1.1 200 OK\r\nContent-Ty")),
    ("cut off in the body", raw(b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{")),
    ("500", answer(500, {"message": "It broke"})),
    ("502", html(502)),
    ("504", html(504)),
    ("408", answer(408, {"message": "The model took too long"})),
    ("424", answer(424, {"message": "The model failed"})),
]))
def test_call_that_may_have_been_made_is_not_repeated(call, runtime, fault):
    runtime.faults = [fault]
    with pytest.raises(bt.BedrockTokenError) as caught:
        call()
    assert str(TOKEN) not in str(caught.value)
    assert len(runtime.requests) == 1


def test_call_that_a_proxy_did_not_let_out_is_repeated(environ, pem):
    """Nothing was sent, so nothing can have been made."""
    def check(function):
        with BedrockRuntime(faults=[html(503), tunnel(pem)]) as runtime:
            assert function(MODEL, MESSAGES, token=TOKEN, environ={
                **environ, "HTTPS_PROXY": runtime.url, "AWS_CA_BUNDLE": pem})
        assert [request.method for request in runtime.requests] == ["CONNECT", "CONNECT", "POST"]

    check_side_by_side(check, BOTH.items())


def test_call_that_was_turned_away_is_repeated_until_it_may_have_been_made(environ):
    def check(function, fault):
        with BedrockRuntime(faults=[fault, close]) as runtime:
            with pytest.raises(bt.BedrockTokenError):
                function(MODEL, MESSAGES, token=TOKEN, environ={
                    **environ, "AWS_ENDPOINT_URL_BEDROCK_RUNTIME": runtime.url})
        first, second = runtime.requests
        assert first.body == second.body

    check_side_by_side(check, [(f"{name}, {label}", function, fault) for name, function in BOTH.items()
                               for label, fault in (
        ("429", answer(429, {"message": "Too many"}, [("x-amzn-ErrorType", "ThrottlingException")])),
        ("503", answer(503, {"message": "Busy"}, [("x-amzn-ErrorType", "ServiceUnavailableException")])),
        ("503, nothing said", answer(503)))])
