"""What becomes of the answers of broken services; proxies, and TLS."""

import errno
import json
import os
import re
from base64 import b64encode
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import datetime, timezone
from typing import Any, Callable, NamedTuple
from xml.sax.saxutils import escape

import pytest

import bedrock_token
from bedrock_token import Credentials, CredentialsError, load_credentials
from tests.fake_aws import (
    PEM, Container, Fake, Forever, Imds, Oidc, Proxy, SsoPortal, Sts, answer, close, drip, hang,
    html, huge, raw, redirect, refused_url, truncated, tunnel,
)
from tests.helpers import (
    EARLIER, ENV_BASE, LATER, ROLE_LINE, SSO_CACHE, SSO_LINES, STS_SETTINGS, cases, everything_in,
    furnish, key_of, known_keys, posix, role, write_home,
)


# --- answers of broken services ------------------------------------------------------------

KEY_ID, SECRET, SESSION_TOKEN = "ASIAGOOD", "planted/secret+", "planted/session=="


class Remote(NamedTuple):
    """A service that gives credentials, or what leads to them, and how to come to ask it."""

    fake: Callable
    url_variable: str
    lines: str  # of the default profile
    fields: dict  # of the document in the answer
    document: Callable = json.dumps
    before: int = 0  # requests before the one for the document
    variables: dict = {}


def xml(fields):
    elements = "".join(f"<{name}>{escape(str(value))}</{name}>" for name, value in fields.items())
    return ('<AssumeRoleResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><Result>'
            f"<Credentials>{elements}</Credentials></Result></AssumeRoleResponse>")


def role_credentials(fields):
    return json.dumps({"roleCredentials": fields})


STS_FIELDS = {"AccessKeyId": KEY_ID, "SecretAccessKey": SECRET, "SessionToken": SESSION_TOKEN,
              "Expiration": LATER}
METADATA_FIELDS = {"Code": "Success", "AccessKeyId": KEY_ID, "SecretAccessKey": SECRET,
                   "Token": SESSION_TOKEN, "Expiration": LATER}
SSO_FIELDS = {"accessKeyId": KEY_ID, "secretAccessKey": SECRET, "sessionToken": SESSION_TOKEN,
              "expiration": 4070908800000}
METADATA_VARIABLES = {"AWS_EC2_METADATA_DISABLED": "false", "AWS_METADATA_SERVICE_TIMEOUT": "5"}

REMOTES = {
    "sts": Remote(
        lambda: Sts(**STS_SETTINGS), "AWS_ENDPOINT_URL_STS", ROLE_LINE + "source_profile = base\n",
        STS_FIELDS, xml),
    "web identity": Remote(
        lambda: Sts(**STS_SETTINGS), "AWS_ENDPOINT_URL_STS",
        ROLE_LINE + "web_identity_token_file = ~/web\n", STS_FIELDS, xml),
    "sso": Remote(
        lambda: SsoPortal(access_token="planted-access-token"), "AWS_ENDPOINT_URL_SSO", SSO_LINES,
        SSO_FIELDS, role_credentials),
    "oidc": Remote(
        lambda: Oidc(client=("planted-id", "planted-client-secret"),
                     refresh_token="planted-refresh-token"),
        "AWS_ENDPOINT_URL_SSO_OIDC", SSO_LINES,
        {"accessToken": "planted-new-token", "expiresIn": 3600}),
    "container": Remote(
        lambda: Container(path="/", authorization="planted-authorization"),
        "AWS_CONTAINER_CREDENTIALS_FULL_URI", "", METADATA_FIELDS,
        variables={"AWS_CONTAINER_AUTHORIZATION_TOKEN": "planted-authorization"}),
    "imds": Remote(
        Imds, "AWS_EC2_METADATA_SERVICE_ENDPOINT", "", METADATA_FIELDS, before=2,
        variables=METADATA_VARIABLES),
    "imds token": Remote(
        Imds, "AWS_EC2_METADATA_SERVICE_ENDPOINT", "", {}, lambda fields: "metadata-token-0==",
        variables=METADATA_VARIABLES),
}

# All that is secret in what is sent and answered here; fakes give out "secret/of+ROLE_LINE".
SECRETS = "planted", "/of+", "metadata-token-0", "metadata-token-1"


class Outcome(NamedTuple):
    result: Any  # the credentials, or the name of the error's class
    text: str  # all that can be seen of the error
    requests: int  # to the service
    cache_kept: bool  # of the signed-in session


def ask(name, home, faults=(), url=None, **variables):
    """What comes of these answers to the request for the document."""
    remote = REMOTES[name]
    home.mkdir(parents=True, exist_ok=True)
    furnish(home, remote.lines, EARLIER if name == "oidc" else LATER)
    with ExitStack() as stack:
        fake = stack.enter_context(remote.fake())
        fake.faults = [*remote.before * [None], *faults]
        environ = {
            "HOME": str(home), "AWS_EC2_METADATA_DISABLED": "true", **remote.variables, **variables,
            remote.url_variable: (url or fake.url) + ("/" if name == "container" else "")}
        if name == "oidc":  # what it gives out is good for another service
            portal = stack.enter_context(SsoPortal(access_token="access-token-1"))
            environ["AWS_ENDPOINT_URL_SSO"] = portal.url
        cache = home / SSO_CACHE
        before = cache.read_text()
        try:
            result, text = load_credentials(environ=environ), ""
        except Exception as error:
            result, text = type(error).__name__, everything_in(error)
    cache_kept = cache.read_text() == before and os.listdir(cache.parent) == [cache.name]
    return Outcome(result, text, len(fake.requests) - remote.before, cache_kept)


def ask_all(tmp_path, faults_for, names=tuple(REMOTES), **more):
    """The outcomes by name, all at once: pauses and timeouts pass only once."""
    with ThreadPoolExecutor(len(names)) as pool:
        return dict(zip(names, pool.map(
            lambda name: ask(name, tmp_path / name, faults_for(REMOTES[name]), **more), names)))


def good(remote):
    return remote.document(remote.fields)


def quote(handler):
    """Refuses, and says all that was sent."""
    answer(403, {"message": f"{handler.requestline} {handler.headers}"})(handler)


# Faults, made for a service; how often it is asked; the errors, where they are not all
# CredentialsError.
NOWHERE = {"imds token": "NoCredentialsError"}
FAULTS = [
    ("closed", lambda remote: [Forever(close)], 3, NOWHERE),
    ("500 for ever", lambda remote: [Forever(answer(500))], 3, {}),
    ("cut off", lambda remote: [Forever(truncated(good(remote)))], 3, NOWHERE),
    ("endless", lambda remote: [Forever(huge(good(remote).encode()))], 3, NOWHERE),
    ("not HTTP", lambda remote: [raw(good(remote).encode() + b"\n")], 1, NOWHERE),
    ("header without end",
     lambda remote: [raw(b"HTTP/1.1 200 OK\r\nX: " + 70_000 * b"planted")], 1, NOWHERE),
    ("damaged chunks", lambda remote: [
        raw(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nplanted\r\n")], 1, NOWHERE),
    ("400", lambda remote: [answer(400)], 1, {}),
    ("403", lambda remote: [html(403)], 1, NOWHERE),
    ("404", lambda remote: [answer(404)], 1, NOWHERE),
    ("204", lambda remote: [answer(204)], 1, {}),
    ("201", lambda remote: [answer(201, good(remote))], 1, {}),
    ("error with a list as its text",
     lambda remote: [answer(400, '{"message": [], "code": {}, "__type": 5}')], 1, {}),
    ("error without end", lambda remote: [answer(400, 60_000 * "[")], 1, {}),
    ("error with damaged XML", lambda remote: [answer(400, "<a><b>")], 1, {}),
    ("error that quotes", lambda remote: [quote], 1, NOWHERE),
    ("empty", lambda remote: [answer(200)], 1, {}),
    ("HTML", lambda remote: [html()], 1, {}),
    ("binary", lambda remote: [answer(200, b"\xff\xfe\x00\x80")], 1, {}),
    ("list", lambda remote: [answer(200, "[ ]")], 1, {}),
    ("text", lambda remote: [answer(200, '"planted "')], 1, {}),
    ("first half", lambda remote: [answer(200, good(remote)[:len(good(remote)) // 2] + " <")], 1, {}),
    ("without end", lambda remote: [answer(200, 30_000 * "[ ")], 1, {}),
    ("unknown encoding",
     lambda remote: [answer(200, '<?xml version="1.0" encoding="x"?><Credentials/>')], 1, {}),
    ("other XML", lambda remote: [answer(200, "<a> <Credentials>planted</Credentials></a>")],
     1, {}),
]


def endless(first, piece):
    """Says the piece again and again, before anything of a body: 90 times in 18 seconds."""
    def send(handler):
        handler.wfile.write(first)
        for _ in range(90):  # of 100 headers one would get rid more easily
            handler.wfile.write(piece)
            if handler.fake.stopping.wait(0.2):
                break
        close(handler)
    return send


SLOW = {
    "hang": lambda remote: hang,
    "drip": lambda remote: drip(good(remote).ljust(320).encode(), 0.05),
    "100 Continue": lambda remote: endless(b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
    "headers": lambda remote: endless(b"HTTP/1.1 200 OK\r\n", b"A: b\r\n"),
    "header": lambda remote: endless(b"HTTP/1.1 200 OK\r\nA: ", b"b"),
}


@pytest.fixture(scope="module")
def slow(tmp_path_factory):
    """What comes of answers that take for ever, or of nobody there, as futures: other tests go on meanwhile."""
    def outcomes(kind):
        folder = tmp_path_factory.mktemp("slow")
        if kind == "nobody":
            return ask_all(folder, lambda remote: (), url=refused_url())
        return ask_all(folder, lambda remote: [Forever(SLOW[kind](remote))])

    kinds = [*SLOW, "nobody"]
    with ThreadPoolExecutor(len(kinds)) as pool:
        yield {kind: pool.submit(outcomes, kind) for kind in kinds}


@pytest.mark.usefixtures("slow")
@pytest.mark.parametrize("faults, count, errors", cases(FAULTS))
def test_fault(tmp_path, faults, count, errors):
    outcomes = ask_all(tmp_path, faults)
    assert {name: outcome.result for name, outcome in outcomes.items()} == {
        name: errors.get(name, "CredentialsError") for name in REMOTES}
    # A refresh token is spent by being sent.
    assert {name: outcome.requests for name, outcome in outcomes.items()} == {
        **dict.fromkeys(REMOTES, count), "oidc": 1}
    assert [name for name, outcome in outcomes.items() for secret in SECRETS
            if secret in outcome.text] == []
    assert all(outcome.cache_kept for outcome in outcomes.values())


PASSING = [
    ("503 once", [answer(503)], 2),
    ("429 once", [answer(429, headers=[("Retry-After", "1000")])], 2),
    ("500, then closed", [html(500), close], 3),
    ("cut off once", [truncated("{")], 2),
]


@pytest.mark.parametrize("faults, count", cases(PASSING))
def test_fault_that_passes(tmp_path, faults, count):
    repeated = [name for name in REMOTES if name != "oidc"]  # a refresh token is sent once
    outcomes = ask_all(tmp_path, lambda remote: faults, repeated)
    assert [name for name, outcome in outcomes.items()
            if not isinstance(outcome.result, Credentials)] == []
    # The instance's token is followed by two more requests.
    assert {name: outcome.requests for name, outcome in outcomes.items()} == {
        **dict.fromkeys(repeated, count), "imds token": count + 2}


def test_good_answers(tmp_path):
    outcomes = ask_all(tmp_path, lambda remote: [answer(200, good(remote))],
                       [name for name in REMOTES if name not in ("oidc", "imds token")])
    end = datetime(2099, 1, 1, tzinfo=timezone.utc)
    for outcome in outcomes.values():
        got = outcome.result
        assert (got.access_key_id, got.secret_access_key, got.session_token, got.expiration) == (
            KEY_ID, SECRET, SESSION_TOKEN, end)


def test_nobody_there(slow):
    for name, outcome in slow["nobody"].result(timeout=90).items():
        assert outcome.result == (
            "NoCredentialsError" if name.startswith("imds") else "CredentialsError")
        # The reason in words, without the number that Python puts before it.
        assert bool(re.search("cannot be used: [A-Za-z]", outcome.text)) == (
            not name.startswith("imds"))
        assert [secret for secret in SECRETS if secret in outcome.text] == []


def test_header_with_a_line_break_is_not_sent():
    """Whatever let it through before."""
    with pytest.raises(ValueError, match="line break"):
        bedrock_token._exchange(None, "GET", "/", "host", [("A", "b\r\nC: d")])


@posix("Windows has words of its own")
def test_words_of_the_system(environ, base_role):
    environ["AWS_ENDPOINT_URL_STS"] = refused_url()
    with pytest.raises(CredentialsError) as caught:
        load_credentials("p", environ=environ)
    address = environ["AWS_ENDPOINT_URL_STS"].partition("//")[2]
    assert caught.value.message.endswith(f": {address} cannot be used: {os.strerror(errno.ECONNREFUSED)}")
    assert caught.value.hint == ""


@pytest.mark.parametrize("status", [302, 307])
def test_redirects_are_not_followed(tmp_path, status):
    with Fake(faults=[Forever(answer(200, "planted"))]) as other:
        outcomes = ask_all(tmp_path, lambda remote: [redirect(other.url, status)])
        assert {outcome.result for outcome in outcomes.values()} == {"CredentialsError"}
        assert {outcome.requests for outcome in outcomes.values()} == {1}
    assert other.requests == []


# What is wrong with a field, by its value.
WRONG_KEYS = [("missing", ...), ("null", None), ("empty", ""), ("blank", " "), ("number", 5),
              ("list", ["planted"]), ("object", {}), ("true", True), ("line break", "planted\n"),
              ("two lines", "planted\r\nplanted"), ("umlaut", "planted\u00fc"),
              ("NUL", "planted\0")]
WRONG_TIMES = [("missing", ...), ("null", None), ("empty", ""), ("word", "soon"),
               ("month 13", "2099-13-01T00:00:00Z"), ("day alone", "2099-01-01"), ("list", []),
               ("object", {}), ("true", True), ("past", EARLIER), ("zone", LATER + "ulu"),
               ("beyond all time", "9999-12-31T23:59:59-23:59"),
               ("before all time", "0001-01-01T00:00:00+23:59"), ("past number", 5),
               ("negative", -10**15), ("huge number", 10**30), ("infinite", float("inf")),
               ("NaN", float("nan"))]
KEY_FIELDS = ["AccessKeyId", "SecretAccessKey", "SessionToken", "Token", "accessKeyId",
              "secretAccessKey", "sessionToken", "accessToken"]
TIME_FIELDS = ["Expiration", "expiration", "expiresIn"]


def wrong_fields():
    for name, remote in REMOTES.items():
        for field in remote.fields:
            wrong = WRONG_KEYS if field in KEY_FIELDS else WRONG_TIMES
            for label, value in wrong if field != "Code" else ():
                # XML knows no types, and no NUL; IAM Identity Center counts seconds from now.
                if remote.document is xml and value is not ... and (
                        not isinstance(value, str) or "\0" in value):
                    continue
                if field == "expiresIn" and value in (True, 5, -10**15):
                    continue
                yield f"{name}: {field} {label}", name, field, value


@pytest.mark.parametrize("name, field, value", cases(wrong_fields()))
def test_wrong_field(tmp_path, name, field, value):
    remote = REMOTES[name]
    fields = {**remote.fields, field: value}
    if value is ...:
        del fields[field]
    outcome = ask(name, tmp_path, [answer(200, remote.document(fields))])
    assert outcome.result == "CredentialsError"
    assert outcome.requests == 1
    assert outcome.cache_kept
    assert [secret for secret in SECRETS if secret in outcome.text] == []


@pytest.mark.parametrize("kind", SLOW)
def test_slow_answers_are_not_waited_for(slow, kind):
    outcomes = slow[kind].result(timeout=90)
    assert {name: outcome.result for name, outcome in outcomes.items()} == {
        name: NOWHERE.get(name, "CredentialsError") for name in REMOTES}
    assert [name for name, outcome in outcomes.items() for secret in SECRETS
            if secret in outcome.text] == []
    # The fakes give up too, but later.
    ended_by_us = {name for name, outcome in outcomes.items() if "no answer within" in outcome.text}
    assert ended_by_us == REMOTES.keys() - NOWHERE


# --- proxies -------------------------------------------------------------------------------

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


# Too short to be found as a part of the whole login.
PASSWORD = "pw4711"


def test_password_that_a_proxy_repeats(environ, base_role):
    with Fake(faults=[Forever(answer(407, {"message": f"{PASSWORD} is wrong"}))]) as proxy:
        with pytest.raises(CredentialsError) as raised:
            load_credentials("p", environ={
                **environ, "AWS_ENDPOINT_URL_STS": "http://service.test",
                "HTTP_PROXY": proxy.url.replace("//", f"//me:{PASSWORD}@")})
    assert "HTTP 407 ... is wrong" in str(raised.value)
    assert PASSWORD not in everything_in(raised.value)


@pytest.mark.parametrize("url", ["http://", "http://a b", "http://user:planted@", "http://x:99999"])
def test_malformed_proxy(environ, base_role, sts, url):
    with pytest.raises(CredentialsError, match="HTTP_PROXY") as raised:
        load_credentials("p", environ={**environ, "HTTP_PROXY": url})
    assert "planted" not in everything_in(raised.value)
    assert sts.requests == []


# --- TLS -----------------------------------------------------------------------------------

# Variables and a line of the profile; the host, and the region signed for.
TLS = [
    ("no region", {}, "", "sts.amazonaws.com", "us-east-1"),
    ("region", {"AWS_REGION": "us-east-1"}, "", "sts.us-east-1.amazonaws.com", "us-east-1"),
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
    ("system", {}, "", False),
]


@pytest.mark.parametrize("variables, line, trusted", cases(BUNDLES))
def test_ca_bundle(environ, home, pem, variables, line, trusted):
    (home / "tls.pem").write_text(PEM)
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
