"""Sessions of IAM Identity Center that the AWS CLI has signed in."""

import json
import os
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from threading import Barrier

import pytest

from bedrock_token import CredentialsError, NoCredentialsError, get_token, load_credentials
from tests.fake_aws import (
    PEM, Fake, Forever, Oidc, SsoPortal, answer, refused_url, role_keys, tunnel,
)
from tests.helpers import (
    EARLIER, LATER, LEGACY_SSO_CACHE, NOW, SSO_CACHE, START_URL, cases, check_side_by_side, environ_in,
    everything_in, key_at, keys, rfc3339, write_home,
)

SESSION_FILE = SSO_CACHE.rpartition("/")[2]
LEGACY_FILE = LEGACY_SSO_CACHE.rpartition("/")[2]

SESSION = f"[sso-session corp]\nsso_region = us-east-1\nsso_start_url = {START_URL}\n"
ACCOUNT = "sso_account_id = 123456789012\nsso_role_name = Dev\n"
IN_SESSION = f"[profile p]\nsso_session = corp\n{ACCOUNT}"
LEGACY = f"[profile p]\nsso_region = us-east-1\nsso_start_url = {START_URL}\n{ACCOUNT}"


def at(seconds):
    """That many seconds after NOW, as the CLI writes it."""
    return rfc3339(NOW + timedelta(seconds=seconds))


def session_cache(expires_at=LATER, **changes):
    """What `aws sso login` leaves for a session; None takes a key away."""
    cache = {
        "startUrl": START_URL, "region": "us-east-1", "accessToken": "planted-access-token",
        "expiresAt": expires_at, "clientId": "client-id", "clientSecret": "planted-client-secret",
        "registrationExpiresAt": LATER, "refreshToken": "planted-refresh-token", **changes,
    }
    return {name: value for name, value in cache.items() if value is not None}


def legacy_cache(expires_at=LATER):
    return {"startUrl": START_URL, "region": "us-east-1", "accessToken": "planted-access-token",
            "expiresAt": expires_at}


@pytest.fixture
def folder(home):
    path = home / ".aws/sso/cache"
    path.mkdir(parents=True)
    return path


@pytest.fixture
def services(environ):
    """The portal, which takes the cached token, and OIDC, which would give out another."""
    with SsoPortal(access_token="planted-access-token") as portal, Oidc(
            client=("client-id", "planted-client-secret"),
            refresh_token="planted-refresh-token") as oidc:
        environ.update(AWS_ENDPOINT_URL_SSO=portal.url, AWS_ENDPOINT_URL_SSO_OIDC=oidc.url)
        yield portal, oidc


@pytest.fixture
def portal(services):
    return services[0]


@pytest.fixture
def oidc(services):
    return services[1]


DEV = role_keys("Dev")


# --- which session -------------------------------------------------------------------------

# The config file, and the name of the cache.
SESSIONS = [
    ("session", SESSION + IN_SESSION, SESSION_FILE),
    ("session's settings also in the profile",
     SESSION + IN_SESSION + f"sso_region = us-east-1\nsso_start_url = {START_URL}\n",
     SESSION_FILE),
    ("start URL in the profile alone",
     "[sso-session corp]\nsso_region = us-east-1\n" + IN_SESSION + f"sso_start_url = {START_URL}\n",
     SESSION_FILE),
    # printf C0RP.x@y+z/%%: | sha1sum
    ("session with another name", (SESSION + IN_SESSION).replace("corp\n", "C0RP.x@y+z/%:\n")
     .replace("corp]", "C0RP.x@y+z/%:]"), "46c68763654984f52c6ea75a779b2acc55c0ce7e.json"),
    ("legacy", LEGACY, LEGACY_FILE),
]


@pytest.mark.parametrize("config, file", cases(SESSIONS))
def test_session(environ, folder, portal, oidc, config, file):
    write_home(environ, config)
    (folder / file).write_text(json.dumps(session_cache()))
    got = load_credentials("p", environ=environ)
    assert (got.access_key_id, got.secret_access_key, got.session_token) == DEV
    assert got.source == "profile p (sso)"
    assert oidc.requests == []
    [request] = portal.requests
    assert request.query == {"role_name": "Dev", "account_id": "123456789012"}
    assert "Authorization" not in request.headers


def test_default_profile(environ, folder, portal):
    write_home(environ, (SESSION + IN_SESSION).replace("[profile p]", "[default]"))
    (folder / SESSION_FILE).write_text(json.dumps(session_cache()))
    assert load_credentials(environ=environ).source == "profile default (sso)"


def test_role_name_is_encoded(environ, folder, portal):
    write_home(environ, SESSION + IN_SESSION.replace("= Dev", "= a+b=c&d,e%"))
    (folder / SESSION_FILE).write_text(json.dumps(session_cache()))
    load_credentials("p", environ=environ)
    assert portal.requests[0].query == {"role_name": "a+b=c&d,e%", "account_id": "123456789012"}


def test_expiration(environ, folder, portal):
    portal.expiration = 1751374800000  # date -d 2025-07-01T13:00:00Z +%s000
    write_home(environ, SESSION + IN_SESSION)
    (folder / SESSION_FILE).write_text(json.dumps(session_cache()))
    token = get_token(None, "us-west-2", profile="p", environ=environ, now=NOW)
    assert token.expiration == NOW + timedelta(hours=1)


# Not credentials: a session for other tools' tokens.
@pytest.mark.parametrize("lines", ["sso_session = corp", "sso_session = nobody"])
def test_session_alone(environ, lines):
    write_home(environ, SESSION + f"[profile p]\n{lines}\n")
    with pytest.raises(NoCredentialsError):
        load_credentials("p", environ=environ)
    write_home(environ, SESSION + f"[profile p]\n{lines}\n" + keys("P"))
    assert load_credentials("p", environ=environ).access_key_id == "AKIAP"


# The config file, and what the error says.
BROKEN_SETTINGS = [
    ("no role", SESSION + IN_SESSION.replace("sso_role_name = Dev\n", ""), ["sso_role_name"]),
    ("no account", SESSION + IN_SESSION.replace("sso_account_id = 123456789012\n", ""),
     ["sso_account_id"]),
    ("empty account", SESSION + IN_SESSION.replace("123456789012", ""), ["sso_account_id"]),
    ("session without a region", SESSION.replace("sso_region", "x") + IN_SESSION, ["sso_region"]),
    ("session without anything", "[sso-session corp]\n" + IN_SESSION,
     ["sso_region", "sso_start_url"]),
    ("no session, no start URL", "[profile p]\n" + ACCOUNT, ["sso_region", "sso_start_url"]),
    ("legacy without a region", LEGACY.replace("sso_region = us-east-1\n", ""), ["sso_region"]),
    ("legacy without a start URL", LEGACY.replace("sso_start_url", "x"), ["sso_start_url"]),
    ("legacy without a role", LEGACY.replace("sso_role_name = Dev\n", ""), ["sso_role_name"]),
    ("missing session", IN_SESSION, ["corp"]),
    ("session with another region", SESSION + IN_SESSION + "sso_region = eu-west-1\n",
     ["sso_region", "sso-session"]),
    ("session with another start URL", SESSION + IN_SESSION + "sso_start_url = https://x.test\n",
     ["sso_start_url", "sso-session"]),
    ("malformed region", LEGACY.replace("us-east-1", "evil.example.com/"), ["evil.example.com", "region"]),
]


@pytest.mark.parametrize("config, says", cases(BROKEN_SETTINGS))
def test_broken_settings(environ, folder, portal, config, says):
    for file in (SESSION_FILE, LEGACY_FILE):
        (folder / file).write_text(json.dumps(session_cache()))
    # Keys of the profile are no way out.
    write_home(environ, config, "[p]\n" + keys("P"))
    with pytest.raises(CredentialsError) as raised:
        load_credentials("p", environ=environ)
    assert [text for text in ("profile p", *says) if text not in str(raised.value)] == []
    assert portal.requests == []


# --- the cached token ----------------------------------------------------------------------

HINT = "aws sso login --profile p"

# What the cache file says; what has to happen at NOW.
UNUSABLE_CACHES = [
    ("expired, legacy", LEGACY, legacy_cache(EARLIER)),
    ("expires this very second", LEGACY, legacy_cache(at(0))),
    ("expired, no refresh token", SESSION, session_cache(EARLIER, refreshToken=None)),
    ("expired, no client id", SESSION, session_cache(EARLIER, clientId=None)),
    ("expired, no client secret", SESSION, session_cache(EARLIER, clientSecret=None)),
    ("expired, registration too", SESSION, session_cache(EARLIER, registrationExpiresAt=EARLIER)),
    ("expired, registration unknown", SESSION, session_cache(EARLIER, registrationExpiresAt=None)),
    ("expired, registration malformed", SESSION,
     session_cache(EARLIER, registrationExpiresAt=["2099"])),
    ("legacy is never renewed", LEGACY, session_cache(EARLIER)),
    ("no token", LEGACY, {"expiresAt": LATER}),
    ("token of another type", LEGACY, {**legacy_cache(), "accessToken": 5}),
    ("token with a line break", LEGACY, {**legacy_cache(), "accessToken": "planted\r\nX: y"}),
    ("no expiration", LEGACY, legacy_cache(None)),
    ("malformed expiration", LEGACY, legacy_cache("soon")),
    ("expiration of another type", LEGACY, legacy_cache([])),
    ("expiration beyond all time", LEGACY, legacy_cache("9999-12-31T23:59:59-23:59")),
]


@pytest.mark.parametrize("config, cache", cases(UNUSABLE_CACHES))
def test_unusable_cache(environ, folder, portal, oidc, config, cache):
    write_home(environ, config + IN_SESSION if config is SESSION else config)
    text = json.dumps(cache)
    file = folder / (SESSION_FILE if config is SESSION else LEGACY_FILE)
    file.write_text(text)
    with pytest.raises(CredentialsError, match=HINT) as raised:
        key_at(NOW, environ)
    assert "planted" not in everything_in(raised.value)
    assert portal.requests == oidc.requests == []
    assert file.read_text() == text


@pytest.mark.parametrize("config", [SESSION + IN_SESSION, LEGACY], ids=["session", "legacy"])
def test_no_cache(environ, folder, portal, config):
    write_home(environ, config)
    with pytest.raises(CredentialsError, match=HINT):
        load_credentials("p", environ=environ)
    assert portal.requests == []


NO_OBJECTS = ["", '{"accessToken": "planted', "[]"]


def test_cache_that_stays_damaged(environ, portal, oidc, tmp_path):
    def check(config, name, content):
        other = {**environ, **environ_in(tmp_path)}
        write_home(other, config)
        file = Path(other["HOME"], name)
        file.parent.mkdir(parents=True)
        file.write_text(content)
        with pytest.raises(CredentialsError, match=HINT) as raised:
            load_credentials("p", environ=other)
        assert "planted" not in everything_in(raised.value)
        assert file.read_text() == content

    check_side_by_side(check, [
        *((f"session, {text!r}", SESSION + IN_SESSION, SSO_CACHE, text) for text in NO_OBJECTS),
        *((f"legacy, {text!r}", LEGACY, LEGACY_SSO_CACHE, text) for text in NO_OBJECTS)])
    assert portal.requests == oidc.requests == []


@pytest.mark.parametrize("expires_at", [
    "2025-07-01T12:00:01Z", "2025-07-01T12:00:01UTC", "2025-07-01T12:00:01+00:00",
    "2025-07-01T14:00:01+02:00", "2025-07-01T12:00:01.999Z", "2025-07-01T12:00:01",
])
def test_last_second(environ, folder, portal, expires_at):
    write_home(environ, LEGACY)
    (folder / LEGACY_FILE).write_text(json.dumps(legacy_cache(expires_at)))
    assert key_at(NOW, environ) == DEV[0]
    with pytest.raises(CredentialsError, match=HINT):
        key_at(NOW + timedelta(seconds=2), environ)


def test_token_that_the_portal_refuses(environ, folder, portal):
    portal.access_token = "other"
    write_home(environ, SESSION + IN_SESSION)
    (folder / SESSION_FILE).write_text(json.dumps(session_cache()))
    with pytest.raises(CredentialsError, match=f"401.*{HINT}") as raised:
        load_credentials("p", environ=environ)
    assert "planted" not in everything_in(raised.value)


@pytest.mark.parametrize("status, hinted", [(400, True), (403, True), (404, False)])
def test_hint_where_signing_in_again_may_help(environ, folder, portal, status, hinted):
    portal.faults += [answer(status)]
    write_home(environ, SESSION + IN_SESSION)
    (folder / SESSION_FILE).write_text(json.dumps(session_cache()))
    with pytest.raises(CredentialsError, match=f"HTTP {status}") as raised:
        load_credentials("p", environ=environ)
    assert (HINT in str(raised.value)) == hinted


# --- renewing ------------------------------------------------------------------------------

@pytest.fixture
def file(environ, folder):
    """The cache of a session that has ended, with a valid registration."""
    write_home(environ, SESSION + IN_SESSION)
    path = folder / SESSION_FILE
    path.write_text(json.dumps(session_cache(EARLIER)))
    return path


# Seconds left; what stands in the cache besides; whether OIDC is asked.
RENEWALS = [
    ("15 minutes left", 900, {}, False),
    ("a second less", 899, {}, True),
    ("a second left", 1, {}, True),
    ("ended", 0, {}, True),
    ("ended long ago", -90000, {}, True),
    ("registration ends in a second", 60, {"registrationExpiresAt": at(1)}, True),
    ("registration has ended", 60, {"registrationExpiresAt": at(0)}, False),
    ("registration in the old format", 60, {"registrationExpiresAt": "2099-01-01T00:00:00UTC"},
     True),
    ("no refresh token", 60, {"refreshToken": None}, False),
    ("no client", 60, {"clientId": None}, False),
    ("no access token", 7200, {"accessToken": None}, True),
    ("no expiration", 60, {"expiresAt": None}, True),
]


@pytest.mark.parametrize("left, changes, asked", cases(RENEWALS))
def test_when_a_session_is_renewed(environ, file, portal, oidc, left, changes, asked):
    before = json.dumps(session_cache(**{"expires_at": at(left), **changes}))
    file.write_text(before)
    if asked:
        portal.access_token = "access-token-1"
    assert key_at(NOW, environ) == DEV[0]
    assert len(oidc.requests) == asked
    assert (file.read_text() == before) is not asked


def test_what_oidc_is_asked(environ, file, portal, oidc):
    portal.access_token = "access-token-1"
    load_credentials("p", environ=environ)
    [request] = oidc.requests
    assert (request.line, request.content_type) == ("POST /token", "application/json")
    assert request.json == {
        "grantType": "refresh_token", "clientId": "client-id",
        "clientSecret": "planted-client-secret", "refreshToken": "planted-refresh-token"}


@pytest.mark.parametrize("rotate, refresh_token", [(True, "refresh-token-1"),
                                                   (False, "planted-refresh-token")])
def test_renewed_session_is_written_back(environ, file, portal, oidc, rotate, refresh_token):
    portal.access_token, oidc.rotate, oidc.expires_in = "access-token-1", rotate, 3600
    file.write_text(json.dumps(session_cache(EARLIER, unknown={"kept": [1, "\u00fc"]})))
    file.chmod(0o644)
    with open(file, encoding="utf-8") as reader:
        key_at(NOW, environ)
        # Who had it open still reads the old one: the file was replaced as a whole. Windows does
        # not replace a file that is open.
        if os.name == "posix":
            assert json.load(reader)["accessToken"] == "planted-access-token"
    assert json.loads(file.read_text()) == session_cache(
        "2025-07-01T13:00:00Z", unknown={"kept": [1, "\u00fc"]}, accessToken="access-token-1",
        refreshToken=refresh_token)
    assert os.listdir(file.parent) == [SESSION_FILE]
    if os.name == "posix":
        assert file.stat().st_mode & 0o777 == 0o600


def test_renewed_session_is_used_until_it_ends(environ, file, portal, oidc):
    portal.access_token, oidc.expires_in = "access-token-1", 3600
    key_at(NOW, environ)
    key_at(NOW + timedelta(minutes=45), environ)
    assert len(oidc.requests) == 1
    portal.access_token = "access-token-2"
    key_at(NOW + timedelta(minutes=45, seconds=1), environ)
    assert len(oidc.requests) == 2


REFUSALS = [
    ("refused", [answer(400, {"error": "invalid_grant"})], "HTTP 400 invalid_grant"),
    ("no longer registered", [answer(401, {"error": "invalid_client"})],
     "HTTP 401 invalid_client"),
    ("no token in the answer", [answer(200, {"expiresIn": 3600})], "accessToken"),
    ("no lifetime in the answer", [answer(200, {"accessToken": "planted"})], "expiresIn"),
    ("lifetime of another type",
     [answer(200, {"accessToken": "planted", "expiresIn": "3600"})], "expiresIn"),
    ("lifetime beyond all time",
     [answer(200, {"accessToken": "planted", "expiresIn": 10**9})], "expiresIn"),
    ("token with a line break",
     [answer(200, {"accessToken": "planted\r\nX: y", "expiresIn": 3600})], "accessToken"),
    ("no JSON", [answer(200, "planted")], "not a JSON object"),
]


@pytest.mark.parametrize("faults, why", cases(REFUSALS))
def test_renewal_that_fails(environ, file, portal, oidc, faults, why):
    # The token is good for another second, then no more.
    before = json.dumps(session_cache(at(1)))
    file.write_text(before)
    oidc.faults = 2 * faults
    assert key_at(NOW, environ) == DEV[0]
    assert len(oidc.requests) == 1
    with pytest.raises(CredentialsError, match=HINT) as raised:
        key_at(NOW + timedelta(seconds=1), environ)
    assert why in str(raised.value)
    assert "planted" not in everything_in(raised.value)
    assert len(oidc.requests) == 2
    assert len(portal.requests) == 1
    assert file.read_text() == before
    assert os.listdir(file.parent) == [SESSION_FILE]


def test_renewal_where_nobody_is(environ, file, portal):
    file.write_text(json.dumps(session_cache(at(1))))
    environ["AWS_ENDPOINT_URL_SSO_OIDC"] = refused_url()
    assert key_at(NOW, environ) == DEV[0]


def test_another_process_was_faster(environ, file, portal, oidc):
    """The refresh token works once: who comes second finds what the first has written."""
    def first(handler):
        file.write_text(json.dumps(session_cache(accessToken="access-token-1",
                                                 refreshToken="refresh-token-1")))
        answer(400, {"error": "invalid_grant"})(handler)
    oidc.faults = [first]
    portal.access_token = "access-token-1"
    assert key_at(NOW, environ) == DEV[0]
    assert len(oidc.requests) == 1
    assert json.loads(file.read_text())["refreshToken"] == "refresh-token-1"


class SlowOidc(Oidc):
    """Answers when all are there."""

    together = None

    def reply(self, request):
        send = super().reply(request)

        def together(handler):
            self.together.wait(10)
            send(handler)
        return together


def test_all_renew_at_once(environ, file):
    count = 6
    any_token = answer(200, {"roleCredentials": {
        "accessKeyId": "ASIADEV", "secretAccessKey": "secret", "sessionToken": "token",
        "expiration": 4070908800000}})  # date -d 2099-01-01T00:00:00Z +%s000
    with SlowOidc(together=Barrier(count), client=("client-id", "planted-client-secret"),
                  refresh_token="planted-refresh-token", rotate=False) as oidc, \
            SsoPortal(faults=[Forever(any_token)]) as portal:
        environ.update(AWS_ENDPOINT_URL_SSO=portal.url, AWS_ENDPOINT_URL_SSO_OIDC=oidc.url)
        with ThreadPoolExecutor(count) as pool:
            got = list(pool.map(lambda _: load_credentials("p", environ=environ), range(count)))
    assert [credentials.access_key_id for credentials in got] == count * ["ASIADEV"]
    tokens = {f"access-token-{number}" for number in range(1, count + 1)}
    assert {request.headers["x-amz-sso_bearer_token"] for request in portal.requests} == tokens
    assert json.loads(file.read_text())["accessToken"] in tokens
    assert os.listdir(file.parent) == [SESSION_FILE]


# --- where the services are ----------------------------------------------------------------

FIPS = {"AWS_USE_FIPS_ENDPOINT": "true"}
DUALSTACK = {"AWS_USE_DUALSTACK_ENDPOINT": "true"}

# sso_region, variables, the portal's host, OIDC's: as botocore 1.44.5 resolves them for the
# services sso and sso-oidc, see test_sts.py.
HOSTS = [
    ("us-east-1", {}, "portal.sso.us-east-1.amazonaws.com", "oidc.us-east-1.amazonaws.com"),
    ("us-east-1", FIPS, "portal.sso-fips.us-east-1.amazonaws.com",
     "oidc-fips.us-east-1.amazonaws.com"),
    ("us-east-1", DUALSTACK, "portal.sso.us-east-1.api.aws", "oidc.us-east-1.api.aws"),
    ("us-east-1", {**FIPS, **DUALSTACK}, "portal.sso-fips.us-east-1.api.aws",
     "oidc-fips.us-east-1.api.aws"),
    ("us-gov-west-1", {}, "portal.sso.us-gov-west-1.amazonaws.com",
     "oidc.us-gov-west-1.amazonaws.com"),
    ("us-gov-west-1", FIPS, "portal.sso.us-gov-west-1.amazonaws.com",
     "oidc.us-gov-west-1.amazonaws.com"),
    ("us-gov-west-1", {**FIPS, **DUALSTACK}, "portal.sso-fips.us-gov-west-1.api.aws",
     "oidc-fips.us-gov-west-1.api.aws"),
    ("cn-north-1", {}, "portal.sso.cn-north-1.amazonaws.com.cn",
     "oidc.cn-north-1.amazonaws.com.cn"),
    ("cn-north-1", DUALSTACK, "portal.sso.cn-north-1.api.amazonwebservices.com.cn",
     "oidc.cn-north-1.api.amazonwebservices.com.cn"),
    ("us-iso-east-1", {}, "portal.sso.us-iso-east-1.c2s.ic.gov", "oidc.us-iso-east-1.c2s.ic.gov"),
    ("eusc-de-east-1", {}, "portal.sso.eusc-de-east-1.amazonaws.eu",
     "oidc.eusc-de-east-1.amazonaws.eu"),
    # Neither the variable nor the profile's region counts.
    ("us-east-1", {"AWS_REGION": "eu-west-1"}, "portal.sso.us-east-1.amazonaws.com",
     "oidc.us-east-1.amazonaws.com"),
    ("us-east-1", {"AWS_STS_REGIONAL_ENDPOINTS": "legacy"}, "portal.sso.us-east-1.amazonaws.com",
     "oidc.us-east-1.amazonaws.com"),
]


@pytest.mark.parametrize("region, variables, portal_host, oidc_host", HOSTS, ids=str)
def test_hosts(environ, file, tmp_path, region, variables, portal_host, oidc_host):
    write_home(environ, SESSION.replace("us-east-1", region) + IN_SESSION + "region = us-west-1\n")
    file.write_text(json.dumps(session_cache(at(60))))
    pem = tmp_path / "tls.pem"
    pem.write_text(PEM)
    with Fake(faults=[Forever(tunnel(pem))]) as proxy:
        environ.update(HTTPS_PROXY=proxy.url, AWS_CA_BUNDLE=str(pem), **variables)
        with pytest.raises(CredentialsError):
            key_at(NOW, environ)
    asked = [request.path for request in proxy.requests if request.method == "CONNECT"]
    assert asked == [oidc_host + ":443", portal_host + ":443"]


def test_endpoint_urls_of_the_profile(environ, file, services):
    portal, oidc = services
    portal.access_token = "access-token-1"
    write_home(environ, SESSION + IN_SESSION + "services = local\n[services local]\n"
               f"sso =\n endpoint_url = {portal.url}\nsso_oidc =\n endpoint_url = {oidc.url}\n")
    del environ["AWS_ENDPOINT_URL_SSO"], environ["AWS_ENDPOINT_URL_SSO_OIDC"]
    assert load_credentials("p", environ=environ).access_key_id == DEV[0]
    assert len(portal.requests) == len(oidc.requests) == 1
