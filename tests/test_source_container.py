"""Credentials of a container: who may be asked, and with which authorization."""

import pytest

from bedrock_token import Credentials, CredentialsError, load_credentials
from tests.fake_aws import Container, Fake, Proxy, redirect, role_keys
from tests.helpers import IN_AN_HOUR, cases, everything_in, rfc3339

FULL_URI = "AWS_CONTAINER_CREDENTIALS_FULL_URI"
RELATIVE_URI = "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI"
TOKEN = "AWS_CONTAINER_AUTHORIZATION_TOKEN"
TOKEN_FILE = "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE"


# --- the address ---------------------------------------------------------------------------

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
    "HTTP://127.0.0.1:{}/credentials", "http://LocalHost:{}/credentials",
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
    ({FULL_URI: "https://credentials.example.com/v1"}, ("credentials.example.com", 443)),
    ({FULL_URI: "https://192.0.2.1:8443/v1"}, ("192.0.2.1", 8443)),
    ({FULL_URI: "HTTPS://credentials.example.org/v1"}, ("credentials.example.org", 443)),
]


@pytest.mark.parametrize("variables, asked", ASKED, ids=str)
def test_who_may_be_asked(environ, nobody_answers, variables, asked):
    # Not even these addresses go through a proxy.
    proxies = {"HTTP_PROXY": "http://127.0.0.1:1", "HTTPS_PROXY": "http://127.0.0.1:1"}
    with pytest.raises(CredentialsError) as raised:
        load_credentials(environ={**environ, **proxies, **variables})
    assert {(host.lower(), port) for host, port in nobody_answers} == {asked}
    assert str(raised.value).startswith("container: ")
    assert asked[0] in str(raised.value).lower()


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


# --- the authorization token ---------------------------------------------------------------

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
