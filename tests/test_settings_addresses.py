"""Addresses that settings name, endpoints, containers, proxies: what is asked, and what is refused
before a byte is sent. What TLS must be, and whom it is to trust."""

import http.client
import os
import socketserver
import ssl
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import bedrock_token
from bedrock_token import (
    BedrockTokenError,
    Credentials,
    CredentialsError,
    assume_role,
    converse,
    load_credentials,
)
from tests.fake_aws import (
    ANSWER, PEM, BedrockRuntime, Container, Fake, Forever, Imds, Proxy, Sts, tunnel,
)
from tests.helpers import LONG_TERM, MESSAGES, cases, everything_in, key_of, write_home

SECRET, PASSWORD = "planted-secret-0", "planted-password-0"
ENV_KEYS = {"AWS_ACCESS_KEY_ID": "AKIABASE", "AWS_SECRET_ACCESS_KEY": SECRET}
FULL_URI = "AWS_CONTAINER_CREDENTIALS_FULL_URI"
METADATA = "AWS_EC2_METADATA_SERVICE_ENDPOINT"
ROLE = "[profile p]\nrole_arn = arn:aws:iam::123456789012:role/P\ncredential_source = Environment\n"


@pytest.fixture
def base_role(environ):
    """Profile p with a role, whose call is signed with the keys of the environment."""
    write_home(environ, ROLE)
    environ.update(ENV_KEYS)


@pytest.fixture
def port():
    """The port of this machine where nobody may call, let alone say anything."""
    calls = []

    class Handler(socketserver.BaseRequestHandler):
        def handle(self):
            calls.append(self.client_address)

    with socketserver.TCPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.005,), daemon=True).start()
        yield server.server_address[1]
        server.shutdown()
    assert calls == []


# --- addresses that two parsers read differently -------------------------------------------

# What stands after "http://"; {} is the port that none of these may reach.
CROOKED = [
    # text beside the brackets: one parser sees ::1, another a name
    "[::1]evil.example/c", "[::1]evil.example:{}/c", "evil.example[::1]/c", "evil.example[::1]:{}/c",
    "[::1].evil.example/c", "[::1].:{}/c", "x[::1]y/c", "[::1][::1]:{}/c", "[[::1]]:{}/c",
    "[::1]@evil.example/c", "evil.example@[::1]/c", "[::1]:{}evil.example/c", "[::1]:{}.example/c",
    "[::1]%2eevil.example/c", "127.0.0.1[::1]:{}/c", "[::1]127.0.0.1:{}/c", "[]:{}/c", "[127.0.0.1]:{}/c",
    "[localhost]:{}/c", "[::1", "::1]/c", "[::1]]:{}/c", "[::g]:{}/c", "[v1.x]:{}/c",
    # percent-encoding, which a connection decodes
    "127%2e0.0.1:{}/c", "%31%32%37.0.0.1:{}/c", "127.0.0.1%2eevil.example/c", "local%68ost:{}/c",
    "127.0.0.1%00.evil.example/c", "127.0.0.1%40evil.example/c", "evil.example%2f@127.0.0.1:{}/c",
    "127.0.0.1%3a{}/c", "%5b::1%5d:{}/c", "127.0.0.1%:{}/c",
    # users
    "me@127.0.0.1:{}/c", f"me:{PASSWORD}@127.0.0.1:{{}}/c", f":{PASSWORD}@127.0.0.1:{{}}/c",
    "@127.0.0.1:{}/c", "127.0.0.1:{}@evil.example/c", f"a@{PASSWORD}@127.0.0.1:{{}}/c",
    # what ends the host for one and not for another
    "evil.example\\@127.0.0.1:{}/c", "127.0.0.1:{}\\@evil.example/c", "127.0.0.1\\.evil.example/c",
    "127.0.0.1:{}\\c", "evil.example#@127.0.0.1:{}/c", "evil.example?@127.0.0.1:{}/c",
    "127.0.0.1:{}#@evil.example/c", "127.0.0.1;evil.example/c", "127.0.0.1,evil.example/c",
    # white space and control characters, which urlsplit() drops
    "127.0.0.1\t:{}/c", "\t127.0.0.1:{}/c", "127.0.0.1\n.evil.example/c", "127.0\r.0.1:{}/c",
    "127.0.0.1 :{}/c", "127.0.0.1 evil.example/c", "127.0.0.1:{}\x00/c", "127.0.0.1\x7f:{}/c",
    "127.0.0.1:{}/c\r\nX-Injected: 1", "127.0.0.1:{}/c HTTP/1.1", "127.0.0.1:{}/c\td",
    # letters and digits that IDNA turns into others
    "\uff11\uff12\uff17.0.0.1:{}/c", "127\u30020\u30020\u30021:{}/c", "127.0.0.\u0661:{}/c",
    "\u24db\u24de\u24d2\u24d0\u24db\u24d7\u24de\u24e2\u24e3:{}/c", "loc\u00adalhost:{}/c",
    "localho\u017ft:{}/c", "evil.example\uff0f@127.0.0.1:{}/c", "127.0.0.1\uff1a{}/c", "b\u00fcro.example/c",
    "127.0.0.1\u200b:{}/c", "\udce9.example/c", "127.0.0.1:{}/\u00e9", "127.0.0.1:{}/\udce9",
    # ports
    "127.0.0.1:0/c", "127.0.0.1:65536/c", "127.0.0.1:999999/c", "127.0.0.1:x/c", "127.0.0.1:-1/c",
    "127.0.0.1:+{}/c", "127.0.0.1: {}/c", "127.0.0.1:{}x/c", "127.0.0.1:{}:{}/c", "127.0.0.1:0x50/c",
    "127.0.0.1:1_0/c", "127.0.0.1:\u0661/c", "127.0.0.1:\uff11/c", "[::1]:x/c", "127.0.0.1:{}.0/c",
    # no host
    "", "/", "/c", ":{}/c", "?x", "//127.0.0.1:{}/c",
]

PLACES = [
    ("endpoint URL of STS", "AWS_ENDPOINT_URL_STS", lambda environ: load_credentials("p", environ=environ)),
    ("endpoint URL of Bedrock", "AWS_ENDPOINT_URL_BEDROCK_RUNTIME", lambda environ: converse(
        "m", MESSAGES, token=LONG_TERM, region="us-east-1", environ=environ)),
    ("container", FULL_URI, lambda environ: load_credentials(environ={
        **environ, "AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": "",
        "AWS_CONTAINER_AUTHORIZATION_TOKEN": SECRET})),
    ("instance metadata", METADATA, lambda environ: load_credentials(environ={
        **environ, "AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": "",
        "AWS_EC2_METADATA_DISABLED": "false"})),
]


@pytest.mark.parametrize("variable, ask", cases(PLACES))
@pytest.mark.parametrize("rest", CROOKED, ids=ascii)
def test_crooked_address(environ, base_role, port, nobody_answers, variable, ask, rest):
    for scheme in ("http://", "HTTP://"):
        with pytest.raises(BedrockTokenError) as raised:
            ask({**environ, variable: scheme + rest.replace("{}", str(port))})
        # It was refused as it stands, instead of being looked for.
        assert "cannot be used" not in str(raised.value)
        assert nobody_answers == []
        for planted in (SECRET, PASSWORD):
            assert planted not in everything_in(raised.value)


@pytest.mark.parametrize("url", [
    "127.0.0.1:{}/c", "localhost", "ftp://127.0.0.1:{}/c", "file:///etc/passwd", "data:,x", "http:",
    "http:127.0.0.1:{}/c", "http:/127.0.0.1:{}/c", "http:\\\\127.0.0.1:{}/c", "//127.0.0.1:{}/c",
    "ht\ntp://127.0.0.1:{}/c", "ws://127.0.0.1:{}/c", "httpx://127.0.0.1:{}/c", "http ://127.0.0.1:{}/c",
    "https+http://127.0.0.1:{}/c", "http;//127.0.0.1:{}/c", "url:http://127.0.0.1:{}/c",
    "<http://127.0.0.1:{}/c>", "\"http://127.0.0.1:{}/c\"", "'http://127.0.0.1:{}/c'", "h\uff54tp://127.0.0.1:{}/c",
], ids=ascii)
@pytest.mark.parametrize("variable, ask", cases(PLACES))
def test_address_of_another_scheme(environ, base_role, port, nobody_answers, variable, ask, url):
    with pytest.raises(BedrockTokenError) as raised:
        ask({**environ, variable: url.replace("{}", str(port))})
    assert "cannot be used" not in str(raised.value)
    assert nobody_answers == []


@pytest.mark.parametrize("variable, ask, name", [
    (*row[1:], name) for row, name in zip(PLACES, (
        "endpoint", "endpoint", FULL_URI, METADATA))
])
def test_crooked_address_is_named(environ, base_role, variable, ask, name):
    with pytest.raises(CredentialsError, match=name):
        ask({**environ, variable: "http://127%2e0.0.1/"})


@pytest.mark.parametrize("rest", [
    "[::1]evil.example", "127%2e0.0.1:{}", f"me:{PASSWORD}@127.0.0.1:{{}}", "127.0.0.1\\@evil.example",
], ids=ascii)
@pytest.mark.parametrize("where", ["profile", "services"])
def test_crooked_address_in_a_file(environ, port, nobody_answers, where, rest):
    url = "http://" + rest.format(port)
    write_home(environ, ROLE + {
        "profile": f"endpoint_url = {url}\n",
        "services": f"services = s\n[services s]\nsts =\n  endpoint_url = {url}\n",
    }[where])
    with pytest.raises(CredentialsError, match="endpoint") as raised:
        load_credentials("p", environ={**environ, **ENV_KEYS})
    assert "cannot be used" not in str(raised.value)
    assert nobody_answers == []
    assert PASSWORD not in everything_in(raised.value)


@pytest.mark.parametrize("url", [
    "http://127.0.0.1:{}", "http://127.0.0.1:{}/", "HTTP://127.0.0.1:{}/", "http://localhost:{}",
    " http://127.0.0.1:{}\n",
], ids=repr)
def test_straight_address(environ, base_role, url):
    with Sts(keys={"AKIABASE": (SECRET, None)}) as sts:
        url = url.format(sts.url.rpartition(":")[2])
        got = load_credentials("p", environ={**environ, "AWS_ENDPOINT_URL_STS": url})
    assert got.access_key_id == key_of("P")


def test_straight_address_of_the_container(environ):
    with Container(path="/v2/c-1_2~3/%41?a=1&b=/x") as container:
        environ[FULL_URI] = container.url + container.path
        assert load_credentials(environ=environ).source == "container"


def test_straight_address_of_instance_metadata(environ):
    with Imds() as imds:
        environ.update({"AWS_EC2_METADATA_DISABLED": "false", METADATA: imds.url + "/"})
        assert load_credentials(environ=environ).access_key_id == key_of("instance")


@pytest.mark.parametrize("host", [
    "vpce-0a1b-2c3d.sts.us-east-1.vpce.amazonaws.com", "under_score.example", "xn--bro-hoa.example",
    "EXAMPLE.com", "a", "10.1.2.3", "[2001:db8::1]", "[2001:DB8::a:1]:8443", "example.com:65535", "example.com:1",
])
def test_host_that_is_looked_for(environ, base_role, nobody_answers, host):
    """It is asked for by the very characters that were configured."""
    with pytest.raises(CredentialsError):
        load_credentials("p", environ={**environ, "AWS_ENDPOINT_URL_STS": f"https://{host}"})
    name, _, port = host.rpartition(":") if host[-1:].isdigit() and ":" in host else (host, "", "443")
    assert {(asked.lower(), int(port)) for asked, port in nobody_answers} == {
        (name.strip("[]").lower(), int(port))}


# --- proxies: what is refused --------------------------------------------------------------

def through(variable, proxy, environ):
    """The error of a call that goes through that proxy, by the variable's own scheme."""
    scheme = variable.lower().partition("_")[0]
    with pytest.raises(BedrockTokenError) as raised:
        load_credentials("p", environ={
            **environ, "AWS_ENDPOINT_URL_STS": scheme + "://service.test", variable: proxy})
    return raised.value


VARIABLES = ["HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy"]


@pytest.mark.parametrize("variable", VARIABLES)
@pytest.mark.parametrize("proxy", [
    "https://127.0.0.1:{}", "HTTPS://127.0.0.1:{}", "https://me:" + PASSWORD + "@127.0.0.1:{}",
    "socks5://127.0.0.1:{}", "socks5h://me:" + PASSWORD + "@127.0.0.1:{}", "socks4://127.0.0.1:{}",
    "socks://127.0.0.1:{}", "ftp://me:" + PASSWORD + "@127.0.0.1:{}", "file://127.0.0.1:{}/", "ws://127.0.0.1:{}",
    "quic://127.0.0.1:{}", "http+unix://127.0.0.1:{}",
])
def test_proxy_of_another_scheme(environ, base_role, port, nobody_answers, variable, proxy):
    error = through(variable, proxy.format(port), environ)
    assert isinstance(error, CredentialsError)
    assert variable.upper() in str(error).upper()
    assert "http://" in str(error)
    assert PASSWORD not in everything_in(error)
    assert nobody_answers == []


@pytest.mark.parametrize("proxy", ["https://127.0.0.1:{}", f"socks5://me:{PASSWORD}@127.0.0.1:{{}}"])
def test_proxy_of_another_scheme_for_a_call_of_bedrock(environ, port, nobody_answers, proxy):
    environ["HTTPS_PROXY"] = proxy.format(port)
    with pytest.raises(BedrockTokenError, match="HTTPS_PROXY") as raised:
        converse("m", MESSAGES, token=LONG_TERM, region="us-east-1", environ=environ)
    assert PASSWORD not in everything_in(raised.value)
    assert LONG_TERM not in everything_in(raised.value)
    assert nobody_answers == []


# A sign in the password that cuts the address in two for some parser.
UNENCODED = ["4711/pw", "47/11/pw", "/4711pw", "4711pw/", "4711?pw", "4711#pw", "pw@4711", "a/b@4711pw"]


@pytest.mark.parametrize("variable", VARIABLES)
@pytest.mark.parametrize("password", UNENCODED, ids=ascii)
def test_password_that_is_not_encoded(environ, base_role, port, nobody_answers, variable, password):
    error = through(variable, f"http://alice:{password}@127.0.0.1:{port}", environ)
    assert isinstance(error, CredentialsError)
    assert variable.upper() in str(error).upper()
    assert password not in everything_in(error)
    for part in ("pw", "4711", "47/", "/11"):
        assert part not in str(error).replace(str(port), "")
    assert nobody_answers == []


@pytest.mark.parametrize("proxy", [
    "http://{}:" + PASSWORD + "@127.0.0.1:1", "http://me:" + PASSWORD + "{}@127.0.0.1:1",
    "me{}:" + PASSWORD + "@127.0.0.1:1",
])
@pytest.mark.parametrize("letter", ["\udce9", "\ud83d", "\udcff\udcfe"], ids=ascii)
@pytest.mark.parametrize("variable", ["HTTPS_PROXY", "HTTP_PROXY"])
def test_surrogate_in_the_user_of_a_proxy(environ, base_role, variable, proxy, letter):
    error = through(variable, proxy.format(letter), environ)
    assert isinstance(error, CredentialsError)
    assert variable in str(error)
    assert PASSWORD not in everything_in(error)
    assert str(error).encode("utf-8", "strict")


@pytest.mark.parametrize("variable", ["HTTPS_PROXY", "HTTP_PROXY"])
@pytest.mark.parametrize("address", [
    "[::1]evil.example:{}", "evil.example[::1]:{}", "127%2e0.0.1:{}", "127.0.0.1\\@evil.example:{}", "127.0.0.1\t:{}",
    "127.0.0.1\n.evil.example:{}", "\uff11\uff12\uff17.0.0.1:{}", "127.0.0.1:{}#x", "127.0.0.1:{}?x", "127.0.0.1:0",
    "127.0.0.1:65536", "127.0.0.1:x", "127.0.0.1:{}x", "127.0.0.1:+{}", "127.0.0.1:1_0", "127.0.0.1 :{}", "", ":{}",
    "@127.0.0.1 :{}", "b\u00fcro.example:{}", "127.0.0.1:{}\r\nX-Injected: 1", "127.0.0.1:{},127.0.0.1:{}",
], ids=ascii)
def test_crooked_proxy(environ, base_role, port, nobody_answers, variable, address):
    for user in ("", f"me:{PASSWORD}@"):
        error = through(variable, f"http://{user}" + address.replace("{}", str(port)), environ)
        assert isinstance(error, CredentialsError)
        assert variable in str(error)
        assert PASSWORD not in everything_in(error)
        assert nobody_answers == []


def test_refused_proxy_is_not_looked_at_where_none_is_used(environ, base_role):
    with Sts(keys={"AKIABASE": (SECRET, None)}) as sts:
        environ.update(AWS_ENDPOINT_URL_STS=sts.url, HTTPS_PROXY="socks5://127.0.0.1:1",
                       HTTP_PROXY="socks5://127.0.0.1:1", NO_PROXY="127.0.0.1")
        assert load_credentials("p", environ=environ).access_key_id == key_of("P")


def test_refused_proxy_is_nothing_to_the_container(environ):
    with Container() as container:
        environ.update({FULL_URI: container.url + "/credentials", "HTTP_PROXY": "socks5://127.0.0.1:1"})
        assert load_credentials(environ=environ).source == "container"


@pytest.mark.parametrize("user", ["al%40ice", "alice", "%C3%A9", "%F0%9F%98%82"])
@pytest.mark.parametrize("password", ["4711%2Fpw", "%3A%40%2f%3F%23%5B%5D", "a:b", "", "a+b", "!$&'()*,;="])
def test_password_that_is_encoded(environ, base_role, user, password):
    from base64 import b64decode
    from urllib.parse import unquote

    with Sts(keys={"AKIABASE": (SECRET, None)}) as sts, Proxy() as proxy:
        environ.update(AWS_ENDPOINT_URL_STS=sts.url,
                       HTTP_PROXY=proxy.url.replace("//", f"//{user}:{password}@"))
        load_credentials("p", environ=environ)
    scheme, _, sent = proxy.requests[0].headers["Proxy-Authorization"].partition(" ")
    assert (scheme, b64decode(sent).decode()) == ("Basic", unquote(f"{user}:{password}"))


# --- which certificates are trusted --------------------------------------------------------

@pytest.fixture
def pem(tmp_path):
    """Certificate and key of AWS's hosts, for `tunnel`, which is also a CA bundle."""
    file = tmp_path / "tls.pem"
    file.write_text(PEM)
    return str(file)


# Variables and a line of the profile, with the good bundle at {}; whether it is the one in use.
BUNDLES = [
    ("REQUESTS_CA_BUNDLE", {"REQUESTS_CA_BUNDLE": "{}"}, "", True),
    ("REQUESTS_CA_BUNDLE with ~", {"REQUESTS_CA_BUNDLE": "~/tls.pem"}, "", True),
    ("an empty one is none", {"REQUESTS_CA_BUNDLE": ""}, "", False),
    ("AWS_CA_BUNDLE comes first", {"AWS_CA_BUNDLE": "{}", "REQUESTS_CA_BUNDLE": "/missing"}, "", True),
    ("the profile comes first", {"REQUESTS_CA_BUNDLE": "/missing"}, "ca_bundle = {}", True),
    ("AWS_CA_BUNDLE, the profile, REQUESTS_CA_BUNDLE",
     {"AWS_CA_BUNDLE": "{}", "REQUESTS_CA_BUNDLE": "/missing"}, "ca_bundle = /missing", True),
    ("AWS_CA_BUNDLE of others", {"AWS_CA_BUNDLE": "~/other.pem", "REQUESTS_CA_BUNDLE": "{}"}, "", False),
    ("the profile's of others", {"REQUESTS_CA_BUNDLE": "{}"}, "ca_bundle = ~/other.pem", False),
    ("REQUESTS_CA_BUNDLE of others", {"REQUESTS_CA_BUNDLE": "~/other.pem"}, "", False),
    ("an empty AWS_CA_BUNDLE is none", {"AWS_CA_BUNDLE": " ", "REQUESTS_CA_BUNDLE": "{}"}, "", True),
    ("CURL_CA_BUNDLE is not read", {"CURL_CA_BUNDLE": "{}"}, "", False),
]


@pytest.mark.parametrize("variables, line, trusted", cases(BUNDLES))
def test_ca_bundle(environ, home, pem, variables, line, trusted):
    (home / "tls.pem").write_text(PEM)
    (home / "other.pem").write_text(COMMON_NAME_ALONE)
    write_home(environ, ROLE + line.format(pem) + "\n")
    environ.update(ENV_KEYS, **{name: value.format(pem) for name, value in variables.items()})
    with Sts(keys={"AKIABASE": (SECRET, None)}, faults=[tunnel(pem)]) as sts:
        environ["HTTPS_PROXY"] = sts.url
        if trusted:
            assert load_credentials("p", environ=environ).access_key_id == key_of("P")
        else:
            with pytest.raises(CredentialsError, match="certificate"):
                load_credentials("p", environ=environ)
    assert [request.method for request in sts.requests] == ["CONNECT", "POST"][:1 + trusted]


@pytest.mark.parametrize("content", [None, b"", b"not a certificate"], ids=repr)
def test_requests_ca_bundle_that_is_none(environ, base_role, tmp_path, content):
    bundle = tmp_path / "bundle.pem"
    if content is not None:
        bundle.write_bytes(content)
    with pytest.raises(CredentialsError, match="CA bundle") as raised:
        load_credentials("p", environ={**environ, "REQUESTS_CA_BUNDLE": str(bundle)})
    assert str(bundle) in str(raised.value)


# Both valid from 2020 to 2120, CN sts.amazonaws.com, their own authorities. The first has no other
# name; the second is also for 127.0.0.1 and a@example.com, which are no host names.
#     openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout key -out request
#     openssl ca -selfsign -keyfile key -in request -startdate 20200101000000Z …
def pem_of(key, certificate):
    return "".join(f"-----BEGIN {kind}-----\n{body}\n-----END {kind}-----\n"
                   for kind, body in [("PRIVATE KEY", key), ("CERTIFICATE", certificate)])


COMMON_NAME_ALONE = pem_of("""\
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQg4sfmz1+hXmXIGYHp
5RDSbrINSCYnS2+tI8m1VxTcoa2hRANCAARpAVIFUXhbWH1OIBezhVeJt1ogx6aZ
e0uYsi5w8fUHlGd45Pw4VyPN3cWL9UGmHoI/DClIglNB/S5pe4uH23gm""", """\
MIIBfTCCASOgAwIBAgITG/1lAgYjl88kZIPj74BrhdOfvDAKBggqhkjOPQQDAjAc
MRowGAYDVQQDDBFzdHMuYW1hem9uYXdzLmNvbTAgFw0yMDAxMDEwMDAwMDBaGA8y
MTIwMDEwMTAwMDAwMFowHDEaMBgGA1UEAwwRc3RzLmFtYXpvbmF3cy5jb20wWTAT
BgcqhkjOPQIBBggqhkjOPQMBBwNCAARpAVIFUXhbWH1OIBezhVeJt1ogx6aZe0uY
si5w8fUHlGd45Pw4VyPN3cWL9UGmHoI/DClIglNB/S5pe4uH23gmo0IwQDAPBgNV
HRMBAf8EBTADAQH/MA4GA1UdDwEB/wQEAwIChDAdBgNVHQ4EFgQUr5IkUF9USpzh
kGwlpFh3sx6MXO8wCgYIKoZIzj0EAwIDSAAwRQIhAMjzjfzg/jGsyJjj3o87gFJn
f1I8LbMi/MN94VqGhwcfAiA1WDXCTQ9JUHBJprBbx5TNhzCawTLN3DawnDDRv9eJ
Xw==""")
NO_HOST_NAME_BUT_CN = pem_of("""\
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgBdiKArzRXPq3/dV7
96Pkov5vLA7h664vvTenwZYX0myhRANCAASoIVBJYHhdzXMxX7KsHSWitLm5ZSqX
+RzvQf/AaYLLGxe9T/PmQO/lgDa3X1/3izliYSH878G2P7o/BSvGFmxQ""", """\
MIIBnTCCAUOgAwIBAgITGbUpwroctxwAcDBRr+QseeN4uTAKBggqhkjOPQQDAjAc
MRowGAYDVQQDDBFzdHMuYW1hem9uYXdzLmNvbTAgFw0yMDAxMDEwMDAwMDBaGA8y
MTIwMDEwMTAwMDAwMFowHDEaMBgGA1UEAwwRc3RzLmFtYXpvbmF3cy5jb20wWTAT
BgcqhkjOPQIBBggqhkjOPQMBBwNCAASoIVBJYHhdzXMxX7KsHSWitLm5ZSqX+Rzv
Qf/AaYLLGxe9T/PmQO/lgDa3X1/3izliYSH878G2P7o/BSvGFmxQo2IwYDAPBgNV
HRMBAf8EBTADAQH/MA4GA1UdDwEB/wQEAwIChDAdBgNVHQ4EFgQU/L+GH/e3ahcw
HXHDJGipSefH96kwHgYDVR0RBBcwFYcEfwAAAYENYUBleGFtcGxlLmNvbTAKBggq
hkjOPQQDAgNIADBFAiBFK8enIKnrYGk2Gg1tKqkv8CAjIernGa8VnJeGDPl7oAIh
ALdAvRrI2Lcr8R6/BLFQaMr955oG2CuIlm16sxXV5QAi""")


@pytest.mark.parametrize("text", [COMMON_NAME_ALONE, NO_HOST_NAME_BUT_CN],
                         ids=["no other name", "no other host name"])
@pytest.mark.parametrize("way", ["proxy", "direct"])
def test_certificate_that_names_the_host_in_cn_alone(environ, base_role, tmp_path, text, way):
    file = tmp_path / "tls.pem"
    file.write_text(text)
    environ["AWS_CA_BUNDLE"] = str(file)
    with Sts(keys={"AKIABASE": (SECRET, None)}, faults=[tunnel(str(file))]) as sts:
        environ["HTTPS_PROXY"] = sts.url
        with pytest.raises(BedrockTokenError, match="certificate") as raised:
            if way == "proxy":
                load_credentials("p", environ=environ)
            else:
                converse("m", MESSAGES, token=LONG_TERM, region="us-east-1", environ={
                    **environ, "AWS_ENDPOINT_URL_BEDROCK_RUNTIME": "https://sts.amazonaws.com"})
    assert [request.method for request in sts.requests] == ["CONNECT"]
    assert SECRET not in everything_in(raised.value)


# --- which TLS is spoken -------------------------------------------------------------------

# What a machine may be set to so that its OpenSSL speaks what is old.
OLD_TLS_ALLOWED = """\
openssl_conf = all
[all]
ssl_conf = ssl
[ssl]
system_default = defaults
[defaults]
MinProtocol = TLSv1
CipherString = ALL:@SECLEVEL=0
"""
CALL = """\
import bedrock_token
try:
    print(bedrock_token.load_credentials("p").access_key_id)
except bedrock_token.CredentialsError as error:
    print(error)
"""


@pytest.fixture
def tls_server(pem):
    """A function that starts a TLS server of one version; it gives its port."""
    servers = []

    def start(version):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.set_ciphers("ALL:@SECLEVEL=0")
        context.minimum_version = context.maximum_version = version
        context.load_cert_chain(pem)

        def connected(handler):
            handler.start(200, [])
            handler.close_connection = False
            try:
                with context.wrap_socket(handler.connection, server_side=True) as link:
                    handler.rfile, handler.wfile = link.makefile("rb"), link.makefile("wb", buffering=0)
            except ssl.SSLError:
                handler.close_connection = True
        sts = Sts(keys={"AKIABASE": (SECRET, None)}, faults=[connected, *[None] * 9])
        servers.append(sts.__enter__())
        return sts

    yield start
    for server in servers:
        server.__exit__(None, None, None)


@pytest.mark.filterwarnings("ignore:.*TLSVersion.*:DeprecationWarning")
@pytest.mark.parametrize("version, spoken", [
    ("TLSv1", False), ("TLSv1_1", False), ("TLSv1_2", True), ("TLSv1_3", True),
])
def test_tls_version(environ, base_role, tmp_path, pem, tls_server, version, spoken):
    sts = tls_server(ssl.TLSVersion[version])
    (tmp_path / "openssl.cnf").write_text(OLD_TLS_ALLOWED)
    done = subprocess.run(
        [sys.executable, "-c", CALL], cwd=Path(bedrock_token.__file__).parent, timeout=60,
        env={**os.environ, **environ, "HTTPS_PROXY": sts.url, "AWS_CA_BUNDLE": pem,
             "OPENSSL_CONF": str(tmp_path / "openssl.cnf")},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, encoding="utf-8")
    posted = [request.method for request in sts.requests if request.method != "CONNECT"]
    assert (key_of("P") in done.stdout, bool(posted)) == (spoken, spoken), done.stdout


# --- what http.client can be told to print -------------------------------------------------

@pytest.mark.parametrize("debuglevel", [1, 2, 9])
def test_debuglevel_prints_no_secret(environ, base_role, home, pem, monkeypatch, capsys, debuglevel):
    """Other code in the process may have set it, for its own connections."""
    monkeypatch.setattr(http.client.HTTPConnection, "debuglevel", debuglevel)
    with BedrockRuntime() as bedrock:
        assert converse("m", MESSAGES, token=LONG_TERM, region="us-east-1", environ={
            **environ, "AWS_ENDPOINT_URL_BEDROCK_RUNTIME": bedrock.url}) == ANSWER
    with Container(authorization=SECRET) as container:
        load_credentials(environ={
            **environ, "AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": "",
            FULL_URI: container.url + "/credentials", "AWS_CONTAINER_AUTHORIZATION_TOKEN": SECRET})
    session = Credentials("AKIABASE", "secret", "planted-session-0")
    with Sts(keys={"AKIABASE": ("secret", "planted-session-0")}, faults=[tunnel(pem)]) as sts:
        assume_role("arn:aws:iam::123456789012:role/P", credentials=session, environ={
            **environ, "AWS_CA_BUNDLE": pem,
            "HTTPS_PROXY": sts.url.replace("//", f"//me:{PASSWORD}@")})()
    out, err = capsys.readouterr()
    assert (out, err) == ("", "")


def test_debuglevel_is_left_as_it_is(environ, monkeypatch):
    monkeypatch.setattr(http.client.HTTPConnection, "debuglevel", 1)
    with Container() as container:
        load_credentials(environ={**environ, FULL_URI: container.url + "/credentials"})
    assert http.client.HTTPConnection.debuglevel == 1


def test_proxy_that_answers_nothing_of_use(environ, base_role):
    """The password is in no text, whatever goes wrong after it was sent."""
    with Fake(faults=[Forever(None)]) as proxy:
        error = through("HTTPS_PROXY", proxy.url.replace("//", f"//me:{PASSWORD}@"), environ)
    assert PASSWORD not in everything_in(error)
