"""Servers and proxies that never finish: every call ends by its own time limit, in an error of ours.
The services for credentials, whose limits are fixed and longer, are in test_http.py.

The servers stop by a clock of their own, 20 seconds long. No time is measured: what counts is that
the client has left before that.
"""

import socket
from contextlib import ExitStack

import pytest

import bedrock_token as bt
from tests.fake_aws import PEM, BedrockRuntime, Endless
from tests.helpers import MESSAGES, MODEL, STATIC, check_side_by_side

TOKEN = bt.get_token(STATIC, "us-east-1")
SOON = 0.2  # seconds

OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
HINTS = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
# A TLS record that announces 16 KB of a handshake message.
RECORD = b"\x16\x03\x03\x40\x00\x02\x00\x3f\xfc"

DRIP = 0.01
FLOOD = 0

# What is sent first, what is sent for ever, and the pause between.
HEADS = [
    ("nothing", b"", b"", DRIP),
    ("status line, dripped", b"HTTP/1.1 200 ", b"O", DRIP),
    ("status line, flooded", b"HTTP/1.1 200 ", b"O" * 5000, FLOOD),
    ("version, dripped", b"", b"H", DRIP),
    ("100 Continue, dripped", b"", CONTINUE, DRIP),
    ("100 Continue, flooded", b"", CONTINUE * 500, FLOOD),
    ("headers of 100 Continue, dripped", b"HTTP/1.1 100 Continue\r\n", b"A: b\r\n", DRIP),
    ("103 Early Hints", b"", HINTS, DRIP),
    ("header, dripped", OK + b"A: ", b"b", DRIP),
    ("header, flooded", OK + b"A: ", b"b" * 5000, FLOOD),
    ("headers, dripped", OK, b"A: b\r\n", DRIP),
    ("headers, flooded", OK, b"A: b\r\n" * 500, FLOOD),
]
BODIES = [
    ("body, dripped", OK + b"Content-Length: 1000000\r\n\r\n", b" ", DRIP),
    ("body, flooded", OK + b"Connection: close\r\n\r\n", b" " * 50_000, FLOOD),
    ("body of a refusal, dripped", b"HTTP/1.1 400 No\r\nContent-Length: 9000\r\n\r\n", b" ", DRIP),
    ("chunks, dripped", CHUNKED, b"1\r\n \r\n", DRIP),
    ("chunks, flooded", CHUNKED, b"1\r\n \r\n" * 5000, FLOOD),
    ("size of a chunk, dripped", CHUNKED, b"0", DRIP),
    ("extension of a chunk, dripped", CHUNKED + b"2;", b"x", DRIP),
]

TRAILERS = [
    ("trailers, dripped", CHUNKED + b"2\r\n{}\r\n0\r\n", b"A: b\r\n", DRIP),
    ("trailers, flooded", CHUNKED + b"2\r\n{}\r\n0\r\n", b"A: b\r\n" * 500, FLOOD),
    ("trailer, dripped", CHUNKED + b"2\r\n{}\r\n0\r\nA: ", b"b", DRIP),
]


@pytest.fixture
def pem(tmp_path):
    """Certificate and key of Bedrock's host, which is also the client's CA bundle."""
    file = tmp_path / "tls.pem"
    file.write_text(PEM)
    return str(file)


def assert_that_it_ends(server, call):
    with server:
        with pytest.raises(bt.BedrockTokenError) as caught:
            call()
        ends = server.ends()
    assert set(ends) == {"client left"}
    assert str(TOKEN) not in str(caught.value)


def converse(environ, timeout=SOON, **more):
    return bt.converse(MODEL, MESSAGES, token=TOKEN, timeout=timeout,
                       environ={**environ, "AWS_REGION": "us-east-1", **more})


def test_converse(environ):
    def check(first, piece, every):
        server = Endless(first, piece, every)
        assert_that_it_ends(server, lambda: converse(
            environ, AWS_ENDPOINT_URL_BEDROCK_RUNTIME=server.url))

    check_side_by_side(check, HEADS + BODIES)


def test_trailers(environ):
    """The answer is complete before them: it may be taken, but the end of these is not waited for."""
    def check(first, piece, every):
        with Endless(first, piece, every) as server:
            try:
                assert converse(environ, AWS_ENDPOINT_URL_BEDROCK_RUNTIME=server.url) == {}
            except bt.BedrockTokenError:
                pass
            assert set(server.ends()) == {"client left"}

    check_side_by_side(check, TRAILERS)


def test_converse_stream(environ):
    def check(first, piece, every):
        server = Endless(first, piece, every)
        assert_that_it_ends(server, lambda: list(bt.converse_stream(
            MODEL, MESSAGES, token=TOKEN, timeout=SOON,
            environ={**environ, "AWS_ENDPOINT_URL_BEDROCK_RUNTIME": server.url})))

    check_side_by_side(check, HEADS)


def test_converse_over_tls(environ, pem):
    def check(first, piece, every):
        server = Endless(first, piece, every, pem)
        assert_that_it_ends(server, lambda: converse(
            environ, HTTPS_PROXY=server.url, AWS_CA_BUNDLE=pem))

    check_side_by_side(check, HEADS + BODIES)


def test_proxy(environ, pem):
    def check(first, piece, every):
        server = Endless(first, piece, every)
        assert_that_it_ends(server, lambda: converse(
            environ, HTTPS_PROXY=server.url, AWS_CA_BUNDLE=pem))

    check_side_by_side(check, [
        *HEADS,
        ("handshake, silent", OK + b"\r\n", b"", DRIP),
        ("handshake, dripped", OK + b"\r\n" + RECORD, b"\0", DRIP),
        # Warnings that a client passes over.
        ("handshake, alerts", OK + b"\r\n", b"\x15\x03\x03\x00\x02\x01\x5a", DRIP),
    ])


def test_handshake(environ, pem):
    def check(first, piece):
        server = Endless(first, piece)
        assert_that_it_ends(server, lambda: converse(
            environ, AWS_ENDPOINT_URL_BEDROCK_RUNTIME=server.url.replace("http:", "https:"),
            AWS_CA_BUNDLE=pem))

    check_side_by_side(check, [("silent", b"", b""), ("dripped", RECORD, b"\0")])


def test_instance_metadata(environ):
    del environ["AWS_EC2_METADATA_DISABLED"]
    environ["AWS_METADATA_SERVICE_TIMEOUT"] = str(SOON)

    def check(first, piece, every):
        server = Endless(first, piece, every)
        assert_that_it_ends(server, lambda: bt.load_credentials(
            environ={**environ, "AWS_EC2_METADATA_SERVICE_ENDPOINT": server.url}))

    check_side_by_side(check, HEADS + BODIES)


@pytest.fixture
def resolve(monkeypatch):
    """Sets what the host name service.test stands for. Nothing else can give a name many addresses."""
    def resolve(*addresses):
        found = [(family, socket.SOCK_STREAM, 6, "", address) for family, address in addresses]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **options: found)
    return resolve


@pytest.fixture
def runtime():
    with BedrockRuntime() as fake:
        yield fake


@pytest.fixture
def full():
    """The address of a listener whose queue is full: who connects there waits in vain."""
    with ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(4):
            link = stack.enter_context(socket.socket())
            link.setblocking(False)
            link.connect_ex(listener.getsockname())
        yield listener.getsockname()


def address_of(server):
    return "127.0.0.1", int(server.url.rpartition(":")[2])


def test_next_address_of_a_host(environ, runtime, resolve):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        resolve((socket.AF_INET6, ("::1", closed.getsockname()[1], 0, 0)),
                (socket.AF_INET, closed.getsockname()),
                (socket.AF_INET, address_of(runtime)))
        assert converse(environ, 30, AWS_ENDPOINT_URL_BEDROCK_RUNTIME="http://service.test")
