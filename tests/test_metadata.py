"""Credentials, and the region, from where the program runs: container and instance metadata."""

import time
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta, timezone

import pytest

from bedrock_token import (
    Credentials,
    CredentialsError,
    NoCredentialsError,
    NoRegionError,
    TokenProvider,
    get_token,
    load_credentials,
    load_region,
)
from tests.fake_aws import (
    Container, Fake, Forever, Imds, Proxy, answer, hang, html, redirect, refused_url, role_keys,
)
from tests.helpers import ENV_KEYS, cases, everything_in, keys, rfc3339, write_home

FULL_URI = "AWS_CONTAINER_CREDENTIALS_FULL_URI"
RELATIVE_URI = "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI"
TOKEN = "AWS_CONTAINER_AUTHORIZATION_TOKEN"
TOKEN_FILE = "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE"
IN_AN_HOUR = (datetime.now(timezone.utc) + timedelta(hours=1)).replace(microsecond=0)


# --- container: the address ----------------------------------------------------------------

@pytest.fixture
def container(environ):
    with Container(expiration=rfc3339(IN_AN_HOUR)) as fake:
        environ[FULL_URI] = fake.url + "/credentials"
        yield fake


def port_of(fake):
    return fake.url.rpartition(":")[2]


def test_container(environ, container):
    key_id, secret, session_token = role_keys("container")
    assert load_credentials(environ=environ) == Credentials(
        key_id, secret, session_token, IN_AN_HOUR, "container")
    assert len(container.requests) == 1


@pytest.mark.parametrize("uri", [
    "http://127.0.0.1:{}/credentials", "http://localhost:{}/credentials",
    "HTTP://127.0.0.1:{}/credentials",
    " http://127.0.0.1:{}/credentials\n",
])
def test_loopback_may_be_asked(environ, container, uri):
    environ[FULL_URI] = uri.format(port_of(container))
    assert load_credentials(environ=environ).source == "container"


def test_query_of_the_uri_is_kept(environ, container):
    container.path = "/v2/credentials/7?a=1&b=/x@y"
    environ[FULL_URI] = container.url + container.path
    assert load_credentials(environ=environ).source == "container"


# Variables, and who is asked.
ASKED = [
    ({RELATIVE_URI: "/v2/credentials/7"}, ("169.254.170.2", 80)),
    ({RELATIVE_URI: "/v2", FULL_URI: "http://127.0.0.1:9/v2"}, ("169.254.170.2", 80)),
    ({FULL_URI: "http://169.254.170.2:8080/v2"}, ("169.254.170.2", 8080)),
    ({FULL_URI: "http://169.254.170.23/v1/credentials"}, ("169.254.170.23", 80)),
    ({FULL_URI: "http://[fd00:ec2::23]/v1/credentials"}, ("fd00:ec2::23", 80)),
    ({FULL_URI: "http://[FD00:EC2::23]:81/v1/credentials"}, ("fd00:ec2::23", 81)),
    ({FULL_URI: "http://LocalHost:9/credentials"}, ("localhost", 9)),
    ({FULL_URI: "https://credentials.example.com/v1"}, ("credentials.example.com", 443)),
    ({FULL_URI: "https://192.0.2.1:8443/v1"}, ("192.0.2.1", 8443)),
    ({FULL_URI: "HTTPS://credentials.example.org/v1"}, ("credentials.example.org", 443)),
]


def test_who_may_be_asked(environ, nobody_answers):
    """All at once, since each is tried three times."""
    def error_of(row):
        variables, _ = row
        # Not even these addresses go through a proxy.
        proxies = {"HTTP_PROXY": "http://127.0.0.1:1", "HTTPS_PROXY": "http://127.0.0.1:1"}
        with pytest.raises(CredentialsError) as raised:
            load_credentials(environ={**environ, **proxies, **variables})
        return str(raised.value).lower()

    with ThreadPoolExecutor(len(ASKED)) as pool:
        errors = list(pool.map(error_of, ASKED))
    assert {(host.lower(), port) for host, port in nobody_answers} == {row[1] for row in ASKED}
    for error, (_, (host, _)) in zip(errors, ASKED):
        assert error.startswith("container: ")
        assert host in error


# {} is the port of the container, which the addresses that stand for loopback would reach.
REFUSED_URIS = [
    # other hosts
    "http://example.com/", "http://example.com:{}/", "http://169.254.170.3/",
    "http://169.254.169.254/", "http://[fd00:ec2::24]/", "http://[fd00:ec2::254]/",
    "http://0.0.0.0:{}/", "http://[::]:{}/", "http://10.0.0.1/", "http://128.0.0.1/",
    "http://126.255.255.255/",
    # names that look like the right ones
    "http://127.0.0.1.example.com/", "http://localhost.example.com/", "http://localhost1/",
    "http://169.254.170.2.example.com/", "http://127.0.0.1:{}.example.com/",
    "http://localhost.:{}/credentials", "http://127.0.0.1.:{}/credentials",
    "http://169.254.170.2./", "http://.localhost:{}/",
    # other spellings of an address
    "http://127.1:{}/credentials", "http://127.0.1:{}/credentials",
    "http://0x7f.1:{}/credentials", "http://0x7f000001:{}/credentials",
    "http://2130706433:{}/credentials", "http://0177.0.0.1:{}/credentials",
    "http://017700000001:{}/credentials", "http://127.000.000.001:{}/credentials",
    "http://[::ffff:127.0.0.1]:{}/credentials", "http://[::ffff:7f00:1]:{}/credentials",
    "http://[::127.0.0.1]:{}/credentials", "http://[::1%25lo]:{}/credentials",
    "http://[::1%lo]:{}/credentials", "http://[v1.::1]:{}/credentials", "http://::1/",
    "http://[::1/",
    "http://127.0.0.1%2eexample.com/", "http://%31%32%37.0.0.1:{}/credentials",
    "http://127.0.0.\u0661:{}/credentials", "http://\u24db\u24de\u24d2alhost:{}/credentials",
    "http://127\u30020\u30020\u30021:{}/credentials",
    # users, and what hides the host
    "http://user@127.0.0.1:{}/credentials", "http://u:p@127.0.0.1:{}/credentials",
    "http://127.0.0.1@example.com/", "http://127.0.0.1:{}@example.com/",
    "http://127.0.0.1:{}#@example.com/", "http://example.com#@127.0.0.1:{}/credentials",
    "http://example.com?@127.0.0.1:{}/credentials", "http://example.com\\@127.0.0.1:{}/",
    "http://127.0.0.1:{}\\@example.com/", "http://127.0.0.1:{}\\.example.com/",
    "http:\\\\127.0.0.1:{}/credentials", "http://127.0.0.1:{}/credentials#fragment",
    "http:/127.0.0.1:{}/credentials", "http:127.0.0.1:{}/credentials",
    "http:///127.0.0.1:{}/credentials", "//127.0.0.1:{}/credentials",
    # white space and control characters
    "http://127.0.0.1:{}/credentials x", "http://127.0.0.1:{}/\tcredentials",
    "ht\ntp://127.0.0.1:{}/credentials", "http://127.0.0.1\n.example.com/",
    "http://127.0.0.1:{}/credentials\r\nX-Header: x", "http://127.0.0.1:{}/credentials\0",
    "http://127.0.0.1 :{}/credentials", "http://\t127.0.0.1:{}/credentials",
    # ports
    "http://127.0.0.1:0/credentials", "http://127.0.0.1:65536/credentials",
    "http://127.0.0.1:x/credentials", "http://127.0.0.1:-1/credentials",
    "http://127.0.0.1:\u0661/credentials",
    # other schemes
    "127.0.0.1:{}/credentials", "localhost", "ftp://127.0.0.1/", "file:///etc/passwd",
    "data:text/plain,x", "http:", "http://", "https://", "https:///credentials",
    "https://user:planted@example.com/", "https://example.com\\@127.0.0.1/", "/credentials",
]


@pytest.mark.parametrize("uri", REFUSED_URIS, ids=ascii)
def test_who_may_not_be_asked(environ, container, uri):
    environ.update({FULL_URI: uri.format(port_of(container)), TOKEN: "planted"})
    with pytest.raises(CredentialsError, match="container") as raised:
        load_credentials(environ=environ)
    assert container.requests == []
    assert "cannot be used" not in str(raised.value)
    assert "planted" not in everything_in(raised.value)


@pytest.mark.parametrize("uri", [
    "v2/credentials", ":81/v2", "@example.com/", ".example.com/", ":80@example.com/",
    "/a b", "/a\nb", "/credentials#x", "/\r\nX-Header: x", "\\example.com", "http://127.0.0.1/",
], ids=ascii)
def test_relative_uri_stays_on_its_host(environ, uri):
    with pytest.raises(CredentialsError, match="container"):
        load_credentials(environ={**environ, RELATIVE_URI: uri})


def test_no_proxy_for_the_container(environ, container):
    with Proxy() as proxy:
        environ.update(HTTP_PROXY=proxy.url, http_proxy=proxy.url)
        assert load_credentials(environ=environ).source == "container"
    assert proxy.requests == []


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_container_redirect_is_not_followed(environ, container, status):
    environ[TOKEN] = container.authorization = "planted"
    with Fake() as other:
        container.faults = [redirect(other.url + "/credentials", status)]
        with pytest.raises(CredentialsError, match=str(status)):
            load_credentials(environ=environ)
    assert other.requests == []
    assert len(container.requests) == 1


# --- container: the authorization token ----------------------------------------------------

# The file's content, the variable, and what the header says.
TOKENS = [
    ("variable", None, "Bearer abc", "Bearer abc"),
    ("neither", None, None, None),
    ("blank variable", None, " \n", None),
    ("blanks around the variable", None, " abc\n", "abc"),
    ("file", "Bearer def", None, "Bearer def"),
    ("file over variable", "def", "abc", "def"),
    ("newline at the end of the file", "def\n", None, "def"),
    ("CRLF at the end of the file", "def\r\n", None, "def"),
]


@pytest.mark.parametrize("content, variable, want", cases(TOKENS))
def test_authorization_token(environ, tmp_path, container, content, variable, want):
    container.authorization = want
    if content is not None:
        (tmp_path / "token").write_bytes(content.encode())
        environ[TOKEN_FILE] = str(tmp_path / "token")
    if variable is not None:
        environ[TOKEN] = variable
    assert load_credentials(environ=environ).source == "container"


def test_authorization_token_file_is_read_at_every_call(environ, home, container):
    environ[TOKEN_FILE] = "~/token"
    for token in ("first", "second"):
        (home / "token").write_text(token)
        container.authorization = token
        load_credentials(environ=environ)
    assert [request.headers["Authorization"] for request in container.requests] == [
        "first", "second"]


@pytest.mark.parametrize("content", [None, b"", b" \n", b"\xff\xfeplanted"], ids=repr)
def test_authorization_token_file_without_a_token(environ, tmp_path, container, content):
    # The variable is no way out.
    environ.update({TOKEN_FILE: str(tmp_path / "token"), TOKEN: "planted"})
    if content is not None:
        (tmp_path / "token").write_bytes(content)
    with pytest.raises(CredentialsError) as raised:
        load_credentials(environ=environ)
    assert str(tmp_path / "token") in str(raised.value)
    assert "planted" not in everything_in(raised.value)
    assert container.requests == []


@pytest.mark.parametrize("token", [
    "planted\nX-Header: x", "planted\r\nX-Header: x", "planted\rx", "\0planted", "planted\x7f",
    "planted\u2028x", "pl\u00e4nted planted", "planted\x0bx",
], ids=ascii)
@pytest.mark.parametrize("place", [TOKEN, TOKEN_FILE])
def test_authorization_token_with_characters_no_header_has(
        environ, tmp_path, container, place, token):
    environ[place] = token
    if place == TOKEN_FILE:
        (tmp_path / "token").write_bytes(token.encode())
        environ[place] = str(tmp_path / "token")
    with pytest.raises(CredentialsError, match="authorization token") as raised:
        load_credentials(environ=environ)
    assert "planted" not in everything_in(raised.value)
    assert container.requests == []


@pytest.mark.parametrize("token", ["planted", None])
def test_authorization_that_the_container_refuses(environ, container, token):
    container.authorization = "other"
    if token:
        environ[TOKEN] = token
    with pytest.raises(CredentialsError, match="container.*HTTP 40[13]") as raised:
        load_credentials(environ=environ)
    assert "planted" not in everything_in(raised.value)
    assert len(container.requests) == 1


# --- instance metadata ---------------------------------------------------------------------

@pytest.fixture
def imds(environ):
    """The metadata of an instance; longer than by default is waited for it, on a busy machine."""
    with Imds(expiration=rfc3339(IN_AN_HOUR), region="eu-central-1") as fake:
        environ.update(AWS_EC2_METADATA_DISABLED="false", AWS_METADATA_SERVICE_TIMEOUT="5",
                       AWS_EC2_METADATA_SERVICE_ENDPOINT=fake.url)
        yield fake


ROLES = "/latest/meta-data/iam/security-credentials/"


def test_instance_metadata(environ, imds):
    key_id, secret, session_token = role_keys("instance")
    assert load_credentials(environ=environ) == Credentials(
        key_id, secret, session_token, IN_AN_HOUR, "instance metadata")
    assert [request.line for request in imds.requests] == [
        "PUT /latest/api/token", f"GET {ROLES}", f"GET {ROLES}instance"]
    ttl = "x-aws-ec2-metadata-token-ttl-seconds"
    assert [request.headers.get(ttl) for request in imds.requests] == ["21600", None, None]
    token = "x-aws-ec2-metadata-token"
    assert [request.headers.get(token) for request in imds.requests] == [
        None, "metadata-token-1==", "metadata-token-1=="]
    assert [request.body for request in imds.requests] == [b"", b"", b""]


def test_document_without_a_code(environ, imds):
    key_id, secret, session_token = role_keys("instance")
    imds.faults = [None, None, answer(200, {
        "AccessKeyId": key_id, "SecretAccessKey": secret, "Token": session_token,
        "Expiration": rfc3339(IN_AN_HOUR)})]
    assert load_credentials(environ=environ).access_key_id == key_id


def test_no_proxy_for_instance_metadata(environ, imds):
    with Proxy() as proxy:
        environ.update(HTTP_PROXY=proxy.url, http_proxy=proxy.url)
        assert load_credentials(environ=environ).source == "instance metadata"
    assert proxy.requests == []


# Faults in the order of the requests; how many there are.
NOT_THERE = [
    ("no role", [None, answer(404)], 2),
    ("not found", [answer(404)], 1),
    ("forbidden", [answer(403)], 1),
    ("method not allowed", [answer(405)], 1),
]


@pytest.mark.parametrize("faults, count", cases(NOT_THERE))
def test_instance_that_has_none(environ, imds, faults, count):
    imds.faults = list(faults)
    with pytest.raises(NoCredentialsError, match=r"instance metadata \(no role there\)"):
        load_credentials(environ=environ)
    assert len(imds.requests) == count


# Never does a request without a token follow: there is no version 1.
BROKEN = [
    ("no token: bad request", [answer(400)]),
    ("no token: redirect", [redirect("http://127.0.0.1:1/")]),
    ("empty token", [answer(200)]),
    ("token with a line break", [answer(200, "a\nb")]),
    ("a page instead of a token", [html()]),
    ("token refused", [None, answer(401)]),
    ("no name of a role", [None, answer(200)]),
    ("a page instead of a role", [None, html()]),
    ("role that leads elsewhere", [None, answer(200, "../../user-data?x")]),
    ("role redirected", [None, redirect("http://127.0.0.1:1/")]),
    ("no keys for the role", [None, None, answer(404)]),
    ("keys refused", [None, None, answer(401)]),
    ("keys redirected", [None, None, redirect("http://127.0.0.1:1/")]),
]


@pytest.mark.parametrize("faults", cases(BROKEN))
def test_broken_instance_metadata(environ, imds, faults):
    imds.faults = list(faults)
    with pytest.raises(CredentialsError, match="instance metadata"):
        load_credentials(environ=environ)
    assert len(imds.requests) == len(faults)


@pytest.mark.parametrize("code", ["AssumeRoleUnauthorizedAccess", "Failed", "success"])
def test_role_without_success(environ, imds, code):
    imds.code = code
    with pytest.raises(CredentialsError, match="instance metadata.*instance"):
        load_credentials(environ=environ)


@pytest.mark.parametrize("value", ["true", "True", "TRUE", " true "])
def test_disabled(environ, imds, value):
    environ["AWS_EC2_METADATA_DISABLED"] = value
    with pytest.raises(NoCredentialsError, match=r"instance metadata \(disabled\)"):
        load_credentials(environ=environ)
    assert imds.requests == []


@pytest.mark.parametrize("value", ["", "false", "1", "yes"])
def test_not_disabled(environ, imds, value):
    environ["AWS_EC2_METADATA_DISABLED"] = value
    assert load_credentials(environ=environ).source == "instance metadata"


def test_endpoint_of_the_profile(environ, imds):
    del environ["AWS_EC2_METADATA_SERVICE_ENDPOINT"]
    for line in (f"ec2_metadata_service_endpoint = {imds.url}",
                 # with the mode, the address still counts
                 f"ec2_metadata_service_endpoint_mode = IPv6\n"
                 f"ec2_metadata_service_endpoint = {imds.url}/"):
        write_home(environ, f"[default]\n{line}\n")
        assert load_credentials(environ=environ).source == "instance metadata"


def test_endpoint_variable_over_profile(environ, imds):
    write_home(environ, "[default]\nec2_metadata_service_endpoint = http://127.0.0.1:1\n")
    assert load_credentials(environ=environ).source == "instance metadata"


def at_once(environ):
    """Without the endpoint, and patient for one attempt alone."""
    return {**environ, "AWS_EC2_METADATA_DISABLED": "", "AWS_METADATA_SERVICE_TIMEOUT": "0.05"}


# A variable, a line of the profile, and who is asked.
MODES = [
    ("default", {}, "", ("169.254.169.254", 80)),
    ("IPv4", {"AWS_EC2_METADATA_SERVICE_ENDPOINT_MODE": "IPv4"}, "", ("169.254.169.254", 80)),
    ("IPv6", {"AWS_EC2_METADATA_SERVICE_ENDPOINT_MODE": "IPv6"}, "", ("fd00:ec2::254", 80)),
    ("ipv6", {"AWS_EC2_METADATA_SERVICE_ENDPOINT_MODE": "ipv6"}, "", ("fd00:ec2::254", 80)),
    ("blank", {"AWS_EC2_METADATA_SERVICE_ENDPOINT_MODE": " "}, "", ("169.254.169.254", 80)),
    ("profile", {}, "ec2_metadata_service_endpoint_mode = IPV6", ("fd00:ec2::254", 80)),
    ("variable over profile", {"AWS_EC2_METADATA_SERVICE_ENDPOINT_MODE": "ipv4"},
     "ec2_metadata_service_endpoint_mode = IPv6", ("169.254.169.254", 80)),
]


@pytest.mark.parametrize("variables, line, want", cases(MODES))
def test_endpoint_mode(environ, nobody_answers, variables, line, want):
    write_home(environ, f"[default]\n{line}\n")
    with pytest.raises(NoCredentialsError):
        load_credentials(environ={**at_once(environ), **variables})
    assert set(nobody_answers) == {want}


@pytest.mark.parametrize("variable, value", [
    ("AWS_EC2_METADATA_SERVICE_ENDPOINT_MODE", "IPv5"),
    ("AWS_EC2_METADATA_SERVICE_ENDPOINT_MODE", "6"),
    ("AWS_EC2_METADATA_SERVICE_ENDPOINT", "169.254.169.254"),
    ("AWS_EC2_METADATA_SERVICE_ENDPOINT", "ftp://169.254.169.254"),
    ("AWS_EC2_METADATA_SERVICE_ENDPOINT", "http://"),
    ("AWS_EC2_METADATA_SERVICE_ENDPOINT", "http://user@169.254.169.254"),
    ("AWS_METADATA_SERVICE_TIMEOUT", "0"),
    ("AWS_METADATA_SERVICE_TIMEOUT", "-1"),
    ("AWS_METADATA_SERVICE_TIMEOUT", "soon"),
    ("AWS_METADATA_SERVICE_TIMEOUT", "nan"),
    ("AWS_METADATA_SERVICE_TIMEOUT", "inf"),
    ("AWS_METADATA_SERVICE_NUM_ATTEMPTS", "0"),
    ("AWS_METADATA_SERVICE_NUM_ATTEMPTS", "1.5"),
    ("AWS_METADATA_SERVICE_NUM_ATTEMPTS", "x"),
    ("AWS_METADATA_SERVICE_NUM_ATTEMPTS", "9" * 400),
])
def test_malformed_setting(environ, variable, value):
    environ.update({"AWS_EC2_METADATA_DISABLED": "", variable: value})
    with pytest.raises(CredentialsError, match="METADATA_SERVICE"):
        load_credentials(environ=environ)


def test_nobody_there(environ, nobody_answers):
    environ["AWS_EC2_METADATA_DISABLED"] = ""
    started = time.monotonic()
    with pytest.raises(NoCredentialsError) as raised:
        load_credentials(environ=environ)
    assert time.monotonic() - started < 2
    assert set(nobody_answers) == {("169.254.169.254", 80)}
    text = str(raised.value)
    places = ["AWS_ACCESS_KEY_ID", "profile default in", "AWS_WEB_IDENTITY_TOKEN_FILE",
              RELATIVE_URI, FULL_URI, "instance metadata"]
    assert sorted(places, key=text.index) == places


# Faults, variables, how long it takes at least and at most, and the error.
PATIENCE = [
    ("default", [Forever(hang)], {}, 0.5, 2, NoCredentialsError),
    ("timeout", [Forever(hang)], {"AWS_METADATA_SERVICE_TIMEOUT": "0.1"}, 0.1, 0.9,
     NoCredentialsError),
    ("attempts", [Forever(hang)],
     {"AWS_METADATA_SERVICE_TIMEOUT": "0.1", "AWS_METADATA_SERVICE_NUM_ATTEMPTS": "3"}, 0.3, 1.5,
     NoCredentialsError),
    ("profile", [Forever(hang)], {"AWS_PROFILE": "p"}, 0.1, 0.9, NoCredentialsError),
    ("keys", [None, None, Forever(hang)], {"AWS_METADATA_SERVICE_TIMEOUT": "0.4"}, 0.4, 2,
     CredentialsError),
]


@pytest.mark.parametrize("faults, variables, least, most, error", cases(PATIENCE))
def test_patience(environ, imds, faults, variables, least, most, error):
    imds.faults = list(faults)
    del environ["AWS_METADATA_SERVICE_TIMEOUT"]
    write_home(environ, "[profile p]\nmetadata_service_timeout = 0.1\n")
    started = time.monotonic()
    with pytest.raises(error):
        load_credentials(environ={**environ, **variables})
    assert least <= time.monotonic() - started < most


# --- the region of the instance ------------------------------------------------------------

def region_of_a_token(environ):
    return get_token(environ=environ).region


BOTH = [region_of_a_token, lambda environ: load_region(environ=environ)]
BOTH_IDS = ["get_token", "load_region"]


@pytest.mark.parametrize("region_of", BOTH, ids=BOTH_IDS)
@pytest.mark.parametrize("text", ["eu-central-1", "us-gov-west-1", "eu-central-1\n"], ids=repr)
def test_region(environ, imds, region_of, text):
    imds.region = text
    assert region_of(environ) == text.strip()
    assert imds.requests[-1].line == "GET /latest/meta-data/placement/region"
    assert imds.requests[-1].headers["x-aws-ec2-metadata-token"] in imds.tokens


@pytest.mark.parametrize("region_of", BOTH, ids=BOTH_IDS)
@pytest.mark.parametrize("variables", [{"AWS_REGION": "us-west-2"},
                                       {"AWS_DEFAULT_REGION": "us-west-2"}, {}], ids=str)
def test_configured_region_comes_first(environ, imds, region_of, variables):
    write_home(environ, "[default]\nregion = us-west-2\n" if not variables else "")
    assert region_of({**environ, **variables}) == "us-west-2"
    assert [request for request in imds.requests if "region" in request.path] == []


def test_configured_region_needs_no_credentials(environ, imds):
    assert load_region(environ={**environ, "AWS_REGION": "us-west-2"}) == "us-west-2"
    assert imds.requests == []


def test_region_of_a_provider(environ, imds):
    imds.region = "eu-central-1"
    assert TokenProvider(environ=environ)().region == "eu-central-1"


def test_argument_comes_first(environ, imds):
    assert get_token(None, "us-west-2", environ=environ).region == "us-west-2"
    assert [request for request in imds.requests if "region" in request.path] == []


@pytest.mark.parametrize("region_of", BOTH, ids=BOTH_IDS)
@pytest.mark.parametrize("text", [None, " ", "nowhere/evil", "<html></html>"], ids=repr)
def test_no_region(environ, imds, region_of, text):
    imds.region = text
    with pytest.raises(NoRegionError):
        region_of(environ)


@pytest.mark.parametrize("region_of", BOTH, ids=BOTH_IDS)
def test_no_region_from_the_instance_for_the_container(environ, imds, container, region_of):
    with pytest.raises(NoRegionError):
        region_of(environ)
    assert imds.requests == []


@pytest.mark.parametrize("region_of", BOTH, ids=BOTH_IDS)
@pytest.mark.parametrize("variables", [ENV_KEYS, {"AWS_PROFILE": "dev"}], ids=["keys", "profile"])
def test_no_region_from_the_instance_for_others(environ, imds, region_of, variables):
    write_home(environ, "[profile dev]\n" + keys("DEV"))
    with pytest.raises(NoRegionError):
        region_of({**environ, **variables})
    assert imds.requests == []


def test_no_region_from_the_instance_for_given_credentials(environ, imds):
    given = Credentials("AKIAGIVEN", "secret", source="instance metadata")
    with pytest.raises(NoRegionError):
        get_token(given, environ=environ)
    with pytest.raises(NoRegionError):
        TokenProvider(given, environ=environ)()
    assert imds.requests == []


def test_no_region_where_nothing_is_configured(environ):
    with pytest.raises(NoRegionError):
        load_region(environ=environ)
    with pytest.raises(NoRegionError):
        load_region(environ={**at_once(environ),
                             "AWS_EC2_METADATA_SERVICE_ENDPOINT": refused_url()})
