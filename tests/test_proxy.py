"""The loopback proxy, as a process of its own in front of a fake Bedrock."""

import http.client
import os
import queue
import re
import signal
import socket
import subprocess
import sys
import threading

import pytest

import bedrock_token as bt
from tests import fake_aws
from tests.fake_aws import REQUEST_ID, Container, Forever, answer, role_keys
from tests.fake_bedrock import CHAT_PARTS, Bedrock, server_sent, tokens
from tests.helpers import KEY_ID, ROOT, SECRET, SESSION, cases, encodable, posix
from tests.helpers import KEYS as STATIC_KEYS

KEYS = {**STATIC_KEYS, "AWS_SESSION_TOKEN": SESSION}
KEY = "key-of-the-clients-0123456789"
NAMES = {"OPENAI_BASE_URL", "OPENAI_API_KEY", "ANTHROPIC_BEDROCK_BASE_URL", "BEDROCK_TOKEN_PROXY_KEY"}
PATH = "/model/amazon.nova-micro-v1%3A0/invoke"
LONG = 90  # seconds that anything may take before it counts as hanging
MIB = 1024 * 1024


def environment(home, **variables):
    """What every process needs, and these; nothing of AWS's from outside."""
    plain = {name: value for name, value in os.environ.items()
             if not name.upper().startswith("AWS_") and "PROXY" not in name.upper()}
    return {**plain, "HOME": str(home), "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_REGION": "us-east-1", **variables}


class Running:
    """A proxy that has said that it listens."""

    def __init__(self, environ, *arguments):
        self.process = subprocess.Popen(
            [sys.executable, "-m", "bedrock_token", "proxy", "--port", "0", *arguments],
            env=environ, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, text=True)
        self.more, self.errors = queue.Queue(), []
        self.readers = [threading.Thread(target=self._read_out, daemon=True),
                        threading.Thread(target=self._read_err, daemon=True)]
        for reader in self.readers:
            reader.start()
        self.said = {}
        try:
            while set(self.said) != NAMES:
                line = self.more.get(timeout=LONG)
                found = re.fullmatch(r"(?:export )?([A-Z_]+)=([!-~]+)\n", line)
                assert found, f"{line!r}, {self.errors}"
                self.said[found[1]] = found[2].strip("'\"")
        except BaseException:
            self.stop()
            raise
        self.key = self.said["BEDROCK_TOKEN_PROXY_KEY"]
        self.port = int(re.search(r"127\.0\.0\.1:(\d+)", self.said["OPENAI_BASE_URL"])[1])

    def _read_out(self):
        for line in self.process.stdout:
            self.more.put(line)
        self.more.put("")

    def _read_err(self):
        self.errors += self.process.stderr.readlines()

    def stop(self, number=None):
        """Its status, at last."""
        if self.process.poll() is None:
            if number is None:
                self.process.terminate()
            else:
                self.process.send_signal(number)
        status = self.process.wait(LONG)
        for reader in self.readers:
            reader.join(LONG)
        self.process.stdout.close()
        self.process.stderr.close()
        return status

    def everything_else(self):
        """What it has written besides the first lines, once it has stopped."""
        lines = list(iter(lambda: self.more.get(timeout=LONG), ""))
        return "".join(lines + self.errors)

    def headers(self, **more):
        return {"Authorization": f"Bearer {self.key}", "Content-Type": "application/json",
                **{name.replace("_", "-"): value for name, value in more.items()}}

    def connect(self):
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=LONG)

    def ask(self, method="POST", path=PATH, body=b"{}", headers=None):
        """Status, headers and body of the answer."""
        link = self.connect()
        try:
            link.request(method, path, body, self.headers() if headers is None else headers)
            response = link.getresponse()
            return response.status, response.headers, response.read()
        finally:
            link.close()

    def raw(self, *pieces):
        """All that comes until the proxy closes the connection."""
        received = b""
        with socket.create_connection(("127.0.0.1", self.port), LONG) as link:
            try:
                for piece in pieces:
                    link.sendall(piece)
            except ConnectionError:
                pass  # it may refuse before it has read all
            try:
                for _ in range(100_000):
                    piece = link.recv(65536)
                    if not piece:
                        return received
                    received += piece
            except ConnectionError:
                return received
        raise AssertionError("it never closes the connection")

    def head(self, *lines, method="POST", path=PATH, version="HTTP/1.1"):
        """A request's head in bytes: good, but for these lines."""
        usual = [f"{method} {path} {version}", f"Host: 127.0.0.1:{self.port}",
                 f"Authorization: Bearer {self.key}", "Content-Type: application/json",
                 "Connection: close"]
        return ("\r\n".join([*usual, *lines]) + "\r\n\r\n").encode("latin-1")


def status_of(received):
    """The status, or None where the connection was closed without an answer."""
    found = re.match(rb"HTTP/1\.[01] (\d\d\d) ", received)
    assert found or not received, received[:100]
    return int(found[1]) if found else None


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    """One proxy for most tests, and its upstream: whatever came before, it goes on."""
    with Bedrock() as bedrock:
        proxy = Running(environment(
            tmp_path_factory.mktemp("home"), **KEYS, BEDROCK_TOKEN_PROXY_KEY=KEY,
            AWS_ENDPOINT_URL_BEDROCK_RUNTIME=bedrock.url))
        try:
            yield proxy, bedrock
        finally:
            proxy.stop()
        assert proxy.everything_else() == "", "it logs nothing"


@pytest.fixture
def bedrock(running):
    _, bedrock = running
    bedrock.requests.clear()
    bedrock.faults.clear()
    bedrock.takes, bedrock.denial = None, fake_aws.NOT_VALID
    return bedrock


@pytest.fixture
def proxy(running, bedrock):
    """Works after the test as before it, and shows no secret in an error."""
    proxy, _ = running
    yield proxy
    bedrock.faults.clear()
    bedrock.takes = None
    assert proxy.ask()[0] == 200
    assert proxy.process.poll() is None


@pytest.fixture
def start(home):
    """Starts proxies of the test's own."""
    started = []

    def start(*arguments, **variables):
        started.append(Running(environment(home, **variables), *arguments))
        return started[-1]

    yield start
    for proxy in started:
        proxy.stop()


# --- what it says -------------------------------------------------------------------------

def test_first_lines(proxy):
    base = f"http://127.0.0.1:{proxy.port}"
    assert proxy.said == {
        "OPENAI_BASE_URL": base + "/openai/v1", "OPENAI_API_KEY": KEY,
        "ANTHROPIC_BEDROCK_BASE_URL": base, "BEDROCK_TOKEN_PROXY_KEY": KEY}


def test_random_key(start, bedrock):
    """Two proxies have different ones, and each takes its own."""
    variables = {**KEYS, "AWS_ENDPOINT_URL_BEDROCK_RUNTIME": bedrock.url}
    proxies = [start(**variables), start(**variables, BEDROCK_TOKEN_PROXY_KEY="")]
    first, second = (proxy.key for proxy in proxies)
    assert first != second
    assert min(len(first), len(second)) >= 16
    assert first == proxies[0].said["OPENAI_API_KEY"]
    assert proxies[0].ask()[0] == proxies[1].ask()[0] == 200
    assert proxies[0].ask(headers={"Authorization": f"Bearer {second}"})[0] == 401


@pytest.mark.parametrize("key", [*filter(encodable, [
    "short", "k" * 15, "a key with some blanks", "k" * 16 + "\u00e9"])], ids=ascii)
def test_key_refused(key, home):
    failure = refusal(environment(home, **KEYS, BEDROCK_TOKEN_PROXY_KEY=key))
    assert "BEDROCK_TOKEN_PROXY_KEY" in failure
    assert key not in failure


def test_key_of_16(start, bedrock):
    proxy = start(**KEYS, AWS_ENDPOINT_URL_BEDROCK_RUNTIME=bedrock.url, BEDROCK_TOKEN_PROXY_KEY="k" * 16)
    assert proxy.key == "k" * 16
    assert proxy.ask()[0] == 200


def refusal(environ, *arguments, status=1):
    """What stderr says of a proxy that does not start."""
    result = subprocess.run(
        [sys.executable, "-m", "bedrock_token", "proxy", *arguments], env=environ, cwd=ROOT,
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60)
    assert (result.returncode, result.stdout) == (status, "")
    assert "Traceback" not in result.stderr
    assert not any(secret in result.stderr for secret in (SECRET, SESSION))
    return result.stderr


@pytest.mark.parametrize("variables, says", cases([
    ("no credentials", {}, "credentials"),
    ("no region", {**KEYS, "AWS_REGION": ""}, "AWS_REGION"),
    ("half", {"AWS_ACCESS_KEY_ID": KEY_ID}, "AWS_SECRET_ACCESS_KEY"),
    ("profile that is missing", {"AWS_PROFILE": "nowhere"}, "nowhere"),
    ("expired", {**KEYS, "AWS_CREDENTIAL_EXPIRATION": "2020-01-01T00:00:00Z"}, "expired"),
]))
def test_does_not_start(variables, says, home):
    failure = refusal(environment(home, **variables), "--port", "0")
    assert failure.startswith("bedrock_token: ")
    assert says in failure


def test_port_in_use(home):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        failure = refusal(environment(home, **KEYS), "--port", port)
    assert failure.count("\n") == 1
    assert port in failure


@pytest.mark.parametrize("port", [*filter(encodable, [
    "65536", "-1", "http", "", "80.5", "1e3", "\u0661"])], ids=ascii)
def test_port_refused(port, home):
    assert "--port" in refusal(environment(home, **KEYS), f"--port={port}", status=2)


@pytest.mark.parametrize("endpoint", ["bedrock-agent-runtime", "sts", "", "http://127.0.0.1"])
def test_endpoint_refused(endpoint, home):
    failure = refusal(environment(home, **KEYS), "--port=0", f"--endpoint={endpoint}", status=2)
    assert "endpoint" in failure


@pytest.mark.parametrize("endpoint, variable, base", [
    ("bedrock-runtime", "AWS_ENDPOINT_URL_BEDROCK_RUNTIME", "/openai/v1"),
    ("bedrock-mantle", "AWS_ENDPOINT_URL_BEDROCK_MANTLE", "/v1"),
    ("bedrock", "AWS_ENDPOINT_URL_BEDROCK", ""),
])
def test_endpoint(endpoint, variable, base, start, bedrock):
    nobody = fake_aws.refused_url()
    proxy = start("--endpoint", endpoint, "--region", "eu-west-1", "--expires-in", "1h",
                  **{**KEYS, "AWS_ENDPOINT_URL": nobody, variable: bedrock.url + "/folder"})
    assert proxy.said["OPENAI_BASE_URL"].startswith(f"http://127.0.0.1:{proxy.port}{base}")
    bedrock.faults += [answer(200, {"a": 1})]
    assert proxy.ask("GET", "/v1/models?a=b%20c", None)[2] == b'{"a": 1}'
    assert bedrock.requests[0].path == "/folder/v1/models?a=b%20c"
    found = bt.decode_token(tokens(bedrock)[0])
    assert (found["region"], found["expires_in"]) == ("eu-west-1", 3600)


@posix("Windows has no such signals")
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_signals_end_it(name, start, bedrock, interruptible):
    """Also while an answer is under way and a client says nothing."""
    proxy = start(**KEYS, AWS_ENDPOINT_URL_BEDROCK_RUNTIME=bedrock.url)
    rest = threading.Event()
    bedrock.faults += [server_sent([CHAT_PARTS[0], rest])]
    link = proxy.connect()
    with socket.create_connection(("127.0.0.1", proxy.port), LONG) as silent:
        silent.sendall(b"POST / HT")
        link.request("POST", PATH, b"{}", proxy.headers())
        response = link.getresponse()
        assert response.read1(5) == b"data:"
        try:
            assert proxy.stop(getattr(signal, name)) == 0
        finally:
            rest.set()
            response.close()
            link.close()
    assert proxy.everything_else() == ""


def test_closed_standard_output(bedrock, home):
    """`eval "$(…)"` in a pipe that is closed early: it goes silently, as other commands do, or stays."""
    process = subprocess.Popen(
        [sys.executable, "-m", "bedrock_token", "proxy", "--port", "0"], cwd=ROOT,
        env=environment(home, **KEYS, AWS_ENDPOINT_URL_BEDROCK_RUNTIME=bedrock.url),
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout.readline()
    process.stdout.close()
    process.kill()
    with process.stderr:
        assert process.stderr.read() == ""
    process.wait(LONG)


@pytest.mark.parametrize("host", [
    "127.0.0.2", pytest.param("::1", marks=pytest.mark.skipif(not socket.has_ipv6, reason="no IPv6")),
])
def test_listens_on_one_address_alone(host, proxy):
    with pytest.raises(OSError):
        socket.create_connection((host, proxy.port), 2).close()


# --- who may come in ----------------------------------------------------------------------

def signed(key):
    return (f"AWS4-HMAC-SHA256 Credential={key}/20250101/us-east-1/bedrock/aws4_request, "
            f"SignedHeaders=host;x-amz-date, Signature={'0' * 64}")


@pytest.mark.parametrize("headers", cases([
    ("bearer", {"Authorization": f"Bearer {KEY}"}),
    ("bearer in another case", {"authorization": f"bearer {KEY}"}),
    ("x-api-key", {"x-api-key": KEY}),
    ("AWS signature", {"Authorization": signed(KEY), "X-Amz-Date": "20250101T000000Z"}),
    ("AWS signature without blanks", {"Authorization": signed(KEY).replace(", ", ",")}),
]))
def test_key(headers, proxy, bedrock):
    headers = {"Content-Type": "application/json", **headers}
    assert proxy.ask(headers=headers)[0] == 200
    request, = bedrock.requests
    assert bt.decode_token(tokens(bedrock)[0])["access_key_id"] == KEY_ID
    assert KEY not in str(request.headers)


@pytest.mark.parametrize("headers", cases([
    ("none", []),
    ("another", [("Authorization", "Bearer key-of-the-clients-012345678X")]),
    ("a part", [("Authorization", f"Bearer {KEY[:-1]}")]),
    ("more", [("Authorization", f"Bearer {KEY}x")]),
    ("other letters", [("Authorization", "Bearer é" + KEY)]),
    ("in another case", [("Authorization", f"Bearer {KEY.upper()}")]),
    ("empty", [("Authorization", "Bearer ")]), ("empty x-api-key", [("x-api-key", "")]),
    ("no scheme", [("Authorization", KEY)]),
    ("Basic", [("Authorization", f"Basic {KEY}")]),
    ("a cookie", [("Cookie", f"key={KEY}")]),
    ("Proxy-Authorization", [("Proxy-Authorization", f"Bearer {KEY}")]),
    ("x-api-key of another", [("x-api-key", "another-key-0123456789")]),
    ("signature of another", [("Authorization", signed("another-key-0123456789"))]),
    ("signature elsewhere", [("Authorization", signed("other").replace("us-east-1", KEY))]),
    ("twice", [("Authorization", f"Bearer {KEY}")] * 2),
    ("twice in x-api-key", [("x-api-key", KEY)] * 2),
    ("two kinds", [("Authorization", f"Bearer {KEY}"), ("x-api-key", KEY)]),
    ("a good and a bad", [("Authorization", f"Bearer {KEY}"), ("x-api-key", "other")]),
    ("a good and a bad signature", [("x-api-key", KEY), ("Authorization", signed("other"))]),
]))
def test_no_key(headers, proxy, bedrock):
    lines = [f"{name}: {value}" for name, value in headers]
    request = "\r\n".join([f"POST {PATH} HTTP/1.1", f"Host: 127.0.0.1:{proxy.port}",
                           "Content-Length: 2", "Connection: close", *lines, "", "{}"])
    received = proxy.raw(request.encode("latin-1"))
    assert status_of(received) == 401
    assert bedrock.requests == []
    assert KEY.encode() not in received


def test_the_key_is_not_taken_from_the_target(proxy, bedrock):
    status, _, _ = proxy.ask(path=f"{PATH}?key={KEY}&X-Amz-Credential={KEY}%2F20250101", headers={})
    assert status == 401
    assert bedrock.requests == []


@pytest.mark.parametrize("host, status", cases([
    ("address", "127.0.0.1:{port}", 200), ("name", "localhost:{port}", 200),
    ("name in capitals", "LOCALHOST:{port}", 200),
    ("another name", "attacker.example:{port}", 421), ("another port", "127.0.0.1:1", 421),
    ("no port", "127.0.0.1", 421), ("another address", "127.0.0.2:{port}", 421),
    ("more behind", "127.0.0.1:{port}.attacker.example", 421),
    ("more before", "attacker.example@127.0.0.1:{port}", 421),
    ("AWS's", "bedrock-runtime.us-east-1.amazonaws.com", 421), ("empty", "", 421),
]))
def test_host(host, status, proxy, bedrock):
    headers = proxy.headers(Host=host.format(port=proxy.port))
    assert proxy.ask(headers=headers)[0] == status
    assert len(bedrock.requests) == (status == 200)


@pytest.mark.parametrize("lines", cases([
    ("none", []), ("two", ["Host: 127.0.0.1:{port}", "Host: attacker.example"]),
    ("the same twice", ["Host: 127.0.0.1:{port}"] * 2),
]))
def test_no_host_or_two(lines, proxy, bedrock):
    lines = [line.format(port=proxy.port) for line in lines]
    request = "\r\n".join([f"POST {PATH} HTTP/1.1", f"Authorization: Bearer {KEY}", *lines,
                           "Content-Length: 0", "Connection: close", "", ""])
    assert status_of(proxy.raw(request.encode())) in (400, 421)
    assert bedrock.requests == []


@pytest.mark.parametrize("headers", [
    {"Origin": "https://attacker.example"}, {"Origin": "null"}, {"Origin": "http://localhost:8790"},
    {"Sec-Fetch-Site": "cross-site"}, {"Sec-Fetch-Site": "same-origin"}, {"Sec-Fetch-Site": "none"},
], ids=str)
def test_no_browsers(headers, proxy, bedrock):
    status, answered, _ = proxy.ask(headers={**proxy.headers(), **headers})
    assert status == 403
    assert not [name for name in answered if name.lower().startswith("access-control")]
    assert bedrock.requests == []


@pytest.mark.parametrize("method, path", [
    ("OPTIONS", PATH), ("OPTIONS", "*"), ("CONNECT", "127.0.0.1:80"), ("TRACE", PATH),
])
def test_methods_refused(method, path, proxy, bedrock):
    received = proxy.raw(proxy.head("Content-Length: 0", method=method, path=path))
    assert status_of(received) in ((501,) if method != "TRACE" else (405, 501))
    assert b"access-control" not in received.lower()
    assert bedrock.requests == []


# --- what is passed on --------------------------------------------------------------------

@pytest.mark.parametrize("method, path, body", [
    ("POST", PATH, b'{"inputText": "a"}'), ("GET", "/foundation-models?a=b%20c&d", None),
    ("DELETE", "/openai/v1/responses/resp_1", None), ("PUT", "/x/a..%2Fb/%E9", b"\0\xff"),
    ("PATCH", "/a//b", b"{}"), ("POST", "/openai/v1/x", b"x" * (3 * MIB)), ("POST", "/x", b""),
])
def test_request(method, path, body, proxy, bedrock):
    bedrock.faults += [answer(200, {"a": 1})]
    assert proxy.ask(method, path, body)[0] == 200
    request, = bedrock.requests
    assert (request.method, request.path, request.body) == (method, path, body or b"")
    assert len(request.headers.get_all("Authorization")) == 1
    assert bt.decode_token(tokens(bedrock)[0])["access_key_id"] == KEY_ID


DROPPED = {
    "Authorization": signed(KEY), "Cookie": "a=b", "X-Amz-Date": "20250101T000000Z",
    "x-amz-content-sha256": "0" * 64, "X-Amz-Security-Token": "session", "Connection": "close, X-Hop",
    "X-Hop": "1", "Keep-Alive": "timeout=5", "Proxy-Authorization": "Basic YTpi", "TE": "trailers",
    "Trailer": "X-T", "Upgrade": "h2c", "Proxy-Connection": "keep-alive",
}
KEPT = {
    "Content-Type": "application/json", "Accept": "application/vnd.amazon.eventstream",
    "User-Agent": "a client/1.0", "anthropic-version": "2023-06-01", "anthropic-beta": "a, b",
    "X-Amzn-Bedrock-Trace": "ENABLED", "x-amzn-bedrock-guardrailidentifier": "abc",
    "X-Stainless-Lang": "python", "OpenAI-Project": "p",
}


def test_headers(proxy, bedrock):
    assert proxy.ask(headers={**KEPT, **DROPPED})[0] == 200
    headers = bedrock.requests[0].headers
    assert {name: headers[name] for name in KEPT} == KEPT
    gone = [name for name in DROPPED if name not in ("Authorization", "Connection", "Keep-Alive")]
    assert [name for name in gone if name in headers] == []
    assert headers["Host"] == bedrock.url.partition("//")[2]
    assert len(tokens(bedrock)) == 1
    assert not any(word in str(headers) for word in (KEY, "X-Hop", "Signature"))


def sized(status, text, *headers):
    return answer(status, text, [("Content-Type", "application/json"), REQUEST_ID, *headers])


@pytest.mark.parametrize("status", [200, 201, 302, 400, 401, 403, 404, 429, 500, 503])
def test_answer(status, proxy, bedrock):
    """As it is, errors too: how patient to be is the client's to say."""
    text = '{"message":  "is not authorized to perform: bedrock:InvokeModel"}\n'
    bedrock.faults += [sized(status, text, ("Location", "/elsewhere"), ("Retry-After", "7"),
                             ("x-amzn-ErrorType", "SomeException"), ("X-Odd", "\u00e9"))]
    got, headers, body = proxy.ask()
    assert (got, body) == (status, text.encode())
    wanted = {"Content-Type": "application/json", "Retry-After": "7", "Location": "/elsewhere",
              "x-amzn-ErrorType": "SomeException", REQUEST_ID[0]: REQUEST_ID[1], "X-Odd": "\u00e9"}
    assert {name: headers[name] for name in wanted} == wanted
    assert headers.get_all("Content-Length") == [str(len(text))]
    assert len(bedrock.requests) == 1


def test_answer_in_pieces_is_byte_for_byte(proxy, bedrock):
    data = bytes(range(256)) * 4000
    parts = [data[at:at + 77_777] for at in range(0, len(data), 77_777)]
    for framing in ("chunked", "counted", "closed"):
        bedrock.faults += [server_sent(parts, framing, "application/vnd.amazon.eventstream")]
        status, headers, body = proxy.ask()
        assert (status, headers["Content-Type"]) == (200, "application/vnd.amazon.eventstream")
        assert body == data, framing


@pytest.mark.parametrize("framing", ["chunked", "counted", "closed"])
def test_streams_are_passed_on_as_they_arrive(framing, proxy, bedrock):
    rest = threading.Event()
    bedrock.faults += [server_sent([CHAT_PARTS[0], rest, *CHAT_PARTS[1:]], framing)]
    link = proxy.connect()
    link.request("POST", PATH, b"{}", proxy.headers())
    response = link.getresponse()
    first = b""
    while len(first) < len(CHAT_PARTS[0]):
        first += response.read1(len(CHAT_PARTS[0]) - len(first))
    assert first == CHAT_PARTS[0]
    rest.set()
    assert response.read() == b"".join(CHAT_PARTS[1:])
    link.close()


@pytest.mark.parametrize("pieces", cases([
    ("one", [b'{"a": 1}']), ("several", [b'{"a"', b": ", b"1}"]), ("none", []),
    ("large", [b"x" * 300_000] * 5),
]))
def test_chunked_requests(pieces, proxy, bedrock):
    bedrock.faults += [answer(200, {"a": 1})]
    link = proxy.connect()
    link.request("POST", PATH, iter(pieces), proxy.headers(), encode_chunked=True)
    assert link.getresponse().read() == b'{"a": 1}'
    link.close()
    assert bedrock.requests[0].body == b"".join(pieces)


def test_chunk_extensions_and_trailers(proxy, bedrock):
    """Allowed, and no part of the body or of the head."""
    bedrock.faults += [answer(200, {"a": 1})]
    head = proxy.head("Transfer-Encoding: chunked")
    received = proxy.raw(head + b'2;a=b\r\n{}\r\n0\r\nAuthorization: Bearer x\r\n\r\n')
    assert status_of(received) == 200
    assert bedrock.requests[0].body == b"{}"
    assert len(tokens(bedrock)) == 1


def test_connections_are_kept_alive(proxy, bedrock):
    link = proxy.connect()
    for number in range(5):
        link.request("POST", PATH, b"{}", proxy.headers())
        response = link.getresponse()
        assert (response.status, response.will_close) == (200, False)
        response.read()
        if number == 0:
            address = link.sock.getsockname()
        assert link.sock.getsockname() == address
    link.close()
    assert len(bedrock.requests) == 5


def test_kept_alive_after_a_stream_and_an_error(proxy, bedrock):
    bedrock.faults += [server_sent(CHAT_PARTS), answer(429, {"message": "busy"})]
    link = proxy.connect()
    for status in (200, 429, 200):
        link.request("POST", PATH, b"{}", proxy.headers())
        response = link.getresponse()
        assert response.status == status
        response.read()
    link.close()


def test_expect_continue(proxy, bedrock):
    head = proxy.head("Content-Length: 2", "Expect: 100-continue")
    with socket.create_connection(("127.0.0.1", proxy.port), LONG) as link:
        link.sendall(head)
        assert link.recv(100).startswith(b"HTTP/1.1 100 ")
        link.sendall(b"{}")
        assert link.recv(100).startswith(b"HTTP/1.1 200 ")
    assert "Expect" not in bedrock.requests[0].headers


@pytest.mark.parametrize("method, status, fault", cases([
    ("HEAD", "HEAD", 200, sized(200, '{"a": 1}')),
    ("204", "POST", 204, lambda handler: handler.start(204, [])),
    ("304", "GET", 304, lambda handler: handler.start(304, [("ETag", "x")])),
]))
def test_answers_without_a_body(method, status, fault, proxy, bedrock):
    """The next answer on the connection begins where it should."""
    bedrock.faults += [fault]
    link = proxy.connect()
    link.request(method, "/foundation-models", headers=proxy.headers())
    response = link.getresponse()
    assert (response.status, response.read()) == (status, b"")
    if method == "HEAD":
        assert response.headers["Content-Length"] == "8"
    link.request("GET", "/foundation-models", headers=proxy.headers())
    assert link.getresponse().read() == b'{"modelSummaries": []}'
    link.close()
    assert bedrock.requests[0].method == method


def test_client_of_http_1_0(proxy, bedrock):
    """It knows no chunks."""
    bedrock.faults += [server_sent(CHAT_PARTS)]
    received = proxy.raw(proxy.head("Content-Length: 2", version="HTTP/1.0") + b"{}")
    head, _, body = received.partition(b"\r\n\r\n")
    assert status_of(head + b"\r\n") == 200
    assert b"chunked" not in head.lower()
    assert body == b"".join(CHAT_PARTS)


def test_two_hundred_streams_side_by_side(proxy, bedrock):
    rest = threading.Event()
    bedrock.faults += [Forever(server_sent([CHAT_PARTS[0], rest, *CHAT_PARTS[1:]]))]
    links = []
    try:
        for _ in range(200):
            links.append(proxy.connect())
            links[-1].request("POST", PATH, b"{}", proxy.headers())
        answers = [link.getresponse() for link in links]
        assert all(each.readline() == CHAT_PARTS[0].split(b"\n")[0] + b"\n" for each in answers)
        rest.set()
        whole = b"".join(CHAT_PARTS).partition(b"\n")[2]
        assert {each.read() for each in answers} == {whole}
    finally:
        rest.set()
        for link in links:
            link.close()
    assert len(bedrock.requests) == 200


# --- hostile requests: a plain refusal or a closed connection, and nothing upstream -------

BODY = b"{}"
CHUNKED = "Transfer-Encoding: chunked"


@pytest.mark.parametrize("lines, body", cases([
    ("two lengths", ["Content-Length: 2", "Content-Length: 3"], BODY + b"x"),
    ("the same length twice", ["Content-Length: 2", "Content-Length: 2"], BODY),
    ("a list of lengths", ["Content-Length: 2, 2"], BODY),
    ("length and chunked", ["Content-Length: 2", CHUNKED], b"2\r\n{}\r\n0\r\n\r\n"),
    ("chunked and length", [CHUNKED, "Content-Length: 13"], b"2\r\n{}\r\n0\r\n\r\n"),
    ("negative length", ["Content-Length: -2"], BODY),
    ("length with a sign", ["Content-Length: +2"], BODY),
    ("length in other digits", ["Content-Length: \xb2"], BODY),
    ("length with an underscore", ["Content-Length: 0_2"], BODY),
    ("length in hex", ["Content-Length: 0x2"], BODY),
    ("empty length", ["Content-Length: "], BODY),
    ("endless length", ["Content-Length: " + "9" * 5000], BODY),
    ("another coding", ["Transfer-Encoding: gzip"], BODY),
    ("another coding and chunked", ["Transfer-Encoding: gzip, chunked"], b"2\r\n{}\r\n0\r\n\r\n"),
    ("chunked twice", [CHUNKED, CHUNKED], b"2\r\n{}\r\n0\r\n\r\n"),
    ("chunked and identity", [CHUNKED, "Transfer-Encoding: identity"], b"2\r\n{}\r\n0\r\n\r\n"),
    ("nearly chunked", ["Transfer-Encoding: xchunked"], b"2\r\n{}\r\n0\r\n\r\n"),
    ("a blank before the colon", ["Transfer-Encoding : chunked"], b"2\r\n{}\r\n0\r\n\r\n"),
    ("a blank before the colon of the length", ["Content-Length : 2"], BODY),
    ("a folded line", ["Content-Length: 2", "X-A: b", " Transfer-Encoding: chunked"], BODY),
    ("a header without a colon", ["Content-Length: 2", "nonsense"], BODY),
    ("a header without a name", ["Content-Length: 2", ": x"], BODY),
    ("a NUL", ["Content-Length: 2", "X-A: b\0c"], BODY),
    ("a lone CR", ["Content-Length: 2", "X-A: b\rAuthorization: Bearer x"], BODY),
    ("chunk without a size", [CHUNKED], b"\r\n{}\r\n0\r\n\r\n"),
    ("chunk of no number", [CHUNKED], b"zz\r\n{}\r\n0\r\n\r\n"),
    ("chunk of a negative number", [CHUNKED], b"-2\r\n{}\r\n0\r\n\r\n"),
    ("chunk with a sign", [CHUNKED], b"+2\r\n{}\r\n0\r\n\r\n"),
    ("chunk in hex with its mark", [CHUNKED], b"0x2\r\n{}\r\n0\r\n\r\n"),
    ("chunk with an underscore", [CHUNKED], b"0_2\r\n{}\r\n0\r\n\r\n"),
    ("chunk longer than it says", [CHUNKED], b"1\r\n{}\r\n0\r\n\r\n"),
    ("chunk with another end", [CHUNKED], b"2\r\n{}XX0\r\n\r\n"),
    ("chunk of huge size", [CHUNKED], b"ffffffffffffffff\r\n{}\r\n0\r\n\r\n"),
    ("chunk size without an end", [CHUNKED], b"1" * 200_000),
    ("extension without an end", [CHUNKED], b"2;" + b"a" * 200_000),
    ("trailers without an end", [CHUNKED], b"2\r\n{}\r\n0\r\n" + b"A: b\r\n" * 100_000),
]))
def test_bodies_of_doubtful_length(lines, body, proxy, bedrock):
    assert status_of(proxy.raw(proxy.head(*lines) + body)) in (None, 400, 401, 411, 413, 431, 501)
    assert bedrock.requests == []


@pytest.mark.parametrize("target", [
    "http://attacker.example/", "https://attacker.example/x", "HTTP://127.0.0.1/x", "ftp://a/b",
    "//attacker.example/x", "attacker.example/x", "*", "x", "@attacker.example/", "?a=b",
    "/..", "/../x", "/model/../x", "/model/..", "/model/x/../../../etc", "/.", "/./x", "/model/./x",
    "/x/%2e%2e/y", "/x/..%2Fy", "/x%2F..", "/%2Fx", "/\\..\\x", "/a\\b", "/a\tb", "/a\x00b", "/a\x7fb", "/\xe9", "/a#b",
], ids=ascii)
def test_targets_refused(target, proxy, bedrock):
    received = proxy.raw(proxy.head("Content-Length: 0", method="GET", path=target))
    assert status_of(received) in (None, 400, 404)
    assert bedrock.requests == []


@pytest.mark.parametrize("line", [
    "GET  /x HTTP/1.1", "GET /x y HTTP/1.1", "GET /x", "GET", "", "GET /x HTTP/2.0", "GET /x HTTP/9",
    "GET /x FTP/1.1", "G\xcbT /x HTTP/1.1", "GET /x HTTP/1.1 ", " GET /x HTTP/1.1", "\x16\x03\x01\x02\x00",
    "PRI * HTTP/2.0", "GE\0T /x HTTP/1.1", "get(/x HTTP/1.1", "GET /x HTTP/1.1\rA: b",
], ids=ascii)
def test_first_lines_of_doubtful_form(line, proxy, bedrock):
    """Whatever is let through has no more in it than a plain request has."""
    lines = [line, f"Host: 127.0.0.1:{proxy.port}", f"Authorization: Bearer {KEY}", "Connection: close"]
    received = proxy.raw(("\r\n".join(lines) + "\r\n\r\n").encode("latin-1"))
    if bedrock.requests:
        request, = bedrock.requests
        assert (request.method, request.path) == ("GET", "/x")
    elif received.startswith(b"HTTP/"):
        assert 400 <= status_of(received) <= 505


@pytest.mark.parametrize("head", cases([
    ("first line", lambda proxy: proxy.head(path="/" + "a" * 200_000)),
    ("one header", lambda proxy: proxy.head("X-A: " + "a" * 200_000)),
    ("name of a header", lambda proxy: proxy.head("a" * 200_000 + ": x")),
    ("many headers", lambda proxy: proxy.head(*[f"X-{number}: a" for number in range(5000)])),
    ("many large headers", lambda proxy: proxy.head(*["X-A: " + "a" * 60_000] * 90)),
    ("no end", lambda proxy: b"A" * 5_000_000),
]))
def test_huge_heads(head, proxy, bedrock):
    assert status_of(proxy.raw(head(proxy))) in (None, 400, 414, 431)
    assert bedrock.requests == []


def test_huge_body_that_is_announced(proxy, bedrock):
    """Nobody waits for it."""
    received = proxy.raw(proxy.head(f"Content-Length: {64 * MIB + 1}"))
    assert status_of(received) == 413
    assert bedrock.requests == []


def test_huge_body_in_chunks(proxy, bedrock):
    megabyte = b"100000\r\n" + b" " * MIB + b"\r\n"
    received = proxy.raw(proxy.head(CHUNKED), *[megabyte] * 65, b"0\r\n\r\n")
    assert status_of(received) in (None, 413)
    assert bedrock.requests == []


def test_body_of_64_megabytes(proxy, bedrock):
    bedrock.faults += [answer(200, {"a": 1})]
    status, _, _ = proxy.ask(path="/x", body=b" " * (64 * MIB))
    assert status == 200
    assert len(bedrock.requests.pop().body) == 64 * MIB


@pytest.mark.parametrize("line, body", cases([
    ("counted", "Content-Length: 3", b"{}"), ("in a chunk", CHUNKED, b"3\r\n{}"),
    ("without its last chunk", CHUNKED, b"2\r\n{}\r\n"),
]))
def test_body_that_is_cut_off(line, body, proxy, bedrock):
    """The model is not asked half a question."""
    with socket.create_connection(("127.0.0.1", proxy.port), LONG) as link:
        link.sendall(proxy.head(line) + body)
        link.shutdown(socket.SHUT_WR)
        assert status_of(link.recv(65536)) in (None, 400)
    assert bedrock.requests == []


def test_two_requests_in_one(proxy, bedrock):
    """The second of them is judged like the first."""
    first = proxy.head("Content-Length: 2").replace(b"Connection: close\r\n", b"") + BODY
    second = f"GET /smuggled HTTP/1.1\r\nHost: 127.0.0.1:{proxy.port}\r\nConnection: close\r\n\r\n"
    received = proxy.raw(first + second.encode())
    assert status_of(received) == 200
    assert received.count(b"HTTP/1.1 401 ") == 1
    assert [request.path for request in bedrock.requests] == [PATH]


def test_body_of_a_refused_request_is_no_request(proxy, bedrock):
    """What follows a refusal on the same connection is not taken for the next request."""
    smuggled = proxy.head("Content-Length: 0", method="GET", path="/smuggled")
    refused = proxy.head(f"Content-Length: {len(smuggled)}").replace(KEY.encode(), b"x" * 20)
    refused = refused.replace(b"Connection: close\r\n", b"")
    received = proxy.raw(refused + smuggled)
    assert status_of(received) == 401
    assert received.count(b"HTTP/1.1 ") == 1
    assert bedrock.requests == []


@pytest.mark.parametrize("pieces", cases([
    ("nothing", []), ("half a line", [b"POST /mod"]), ("half a head", [b"POST / HTTP/1.1\r\nHost: "]),
    ("half a body", None),
]))
def test_slow_clients_are_in_nobodys_way(pieces, proxy, bedrock):
    if pieces is None:
        pieces = [proxy.head("Content-Length: 100") + b"{"]
    links = []
    try:
        for _ in range(50):
            links.append(socket.create_connection(("127.0.0.1", proxy.port), LONG))
            for piece in pieces:
                links[-1].sendall(piece)
        assert proxy.ask()[0] == 200
        assert len(bedrock.requests) == 1
    finally:
        for link in links:
            link.close()


def test_client_that_is_gone_in_the_middle(proxy, bedrock):
    """The upstream's connection is closed too, and nobody pays for the rest."""
    gone = threading.Event()

    def endless(handler):
        handler.start(200, [("Content-Type", "text/event-stream"), ("Connection", "close")])
        try:
            for _ in range(100_000):
                handler.wfile.write(b"data: {}\n\n" * 100)
        except OSError:
            gone.set()

    bedrock.faults += [endless]
    link = socket.create_connection(("127.0.0.1", proxy.port), LONG)
    link.sendall(proxy.head("Content-Length: 2") + BODY)
    assert link.recv(4).startswith(b"HTTP")
    link.close()
    assert gone.wait(LONG)


# --- when AWS does not answer, or refuses -------------------------------------------------

def one_line_of(body):
    """The reason, which shows no secret."""
    text = body.decode()
    assert text.strip() and "\n" not in text.strip() and "Traceback" not in text
    assert "bedrock-api-key-" not in text
    assert not any(secret in text for secret in (SECRET, SESSION, KEY))
    return text


@pytest.mark.parametrize("fault", cases([
    ("closed", fake_aws.close),
    ("not HTTP", lambda handler: (handler.wfile.write(b"SSH-2.0-x\r\n"), fake_aws.close(handler))),
    ("half a head", lambda handler: (handler.wfile.write(b"HTTP/1.1 200 OK\r\nA"), fake_aws.close(handler))),
]))
def test_upstream_that_does_not_answer(fault, proxy, bedrock):
    """It is said, the model is not called again, and the next request is as good as any."""
    bedrock.faults += [fault]
    status, _, body = proxy.ask()
    assert status == 502
    one_line_of(body)
    assert len(bedrock.requests) == 1
    assert proxy.ask()[0] == 200


def test_nobody_listens(start):
    """The proxy starts all the same: AWS may be there later."""
    proxy = start(**KEYS, AWS_ENDPOINT_URL_BEDROCK_RUNTIME=fake_aws.refused_url())
    for _ in range(2):
        status, _, body = proxy.ask()
        assert status == 502
        one_line_of(body)


@pytest.mark.parametrize("framing, missing", cases([
    ("no last chunk", "chunked, cut off", 0), ("counted", "counted", 100),
]))
def test_answer_that_breaks_off(framing, missing, proxy, bedrock):
    """The client sees that too, by the end of its connection."""
    bedrock.faults += [server_sent(CHAT_PARTS[:2], framing, missing=missing)]
    link = proxy.connect()
    link.request("POST", PATH, b"{}", proxy.headers())
    response = link.getresponse()
    assert response.status == 200
    with pytest.raises((http.client.IncompleteRead, ConnectionError)) as caught:
        response.read()
    if caught.type is http.client.IncompleteRead:
        assert caught.value.partial == b"".join(CHAT_PARTS[:2])
    link.close()


@pytest.fixture
def container():
    with Container(role="FIRST") as fake:
        yield fake


@pytest.fixture
def rotating(start, bedrock, container):
    """A proxy whose credentials are the container's."""
    return start(AWS_CONTAINER_CREDENTIALS_FULL_URI=container.url + "/credentials",
                 AWS_ENDPOINT_URL_BEDROCK_RUNTIME=bedrock.url, BEDROCK_TOKEN_PROXY_KEY=KEY)


def made_by(role):
    return lambda token: bt.decode_token(token)["access_key_id"] == role_keys(role)[0]


def makers(bedrock):
    return [bt.decode_token(token)["access_key_id"].rstrip("X")[4:] for token in tokens(bedrock)]


@pytest.mark.parametrize("denial", [
    fake_aws.NOT_VALID, fake_aws.EXPIRED, fake_aws.DEAD_CREDENTIALS,
], ids=["not valid", "expired", "its credentials have expired"])
@pytest.mark.parametrize("chunked", [False, True], ids=["counted", "chunked"])
def test_refused_token_is_renewed(chunked, denial, rotating, bedrock, container):
    """The client does not notice."""
    assert rotating.ask()[0] == 200
    bedrock.takes, bedrock.denial, container.role = made_by("SECOND"), denial, "SECOND"
    body = iter([b'{"a":', b" 1}"]) if chunked else b'{"a": 1}'
    assert rotating.ask(body=body)[0] == 200
    assert rotating.ask()[0] == 200
    assert makers(bedrock) == ["FIRST", "FIRST", "SECOND", "SECOND"]
    assert bedrock.requests[1].body == bedrock.requests[2].body == b'{"a": 1}'


def test_renewed_once(rotating, bedrock, container):
    """Then the refusal is the client's, as it came."""
    bedrock.takes, container.role = made_by("THIRD"), "SECOND"
    status, headers, body = rotating.ask()
    assert (status, body) == (403, b'{"Message": "%s"}' % fake_aws.NOT_VALID.encode())
    assert headers["x-amzn-RequestId"] == REQUEST_ID[1]
    assert makers(bedrock) == ["FIRST", "SECOND"]


NOT_THIS_ACTION = (
    '{"message": "User: arn:aws:iam::123456789012:user/dev is not authorized to perform: '
    'bedrock:InvokeModel on resource: arn:aws:bedrock:us-east-1::foundation-model/m"}')
LARGE = '{"message": "' + "no " * 300_000 + '"}'


@pytest.mark.parametrize("fault, status, text", cases([
    ("another action", answer(403, NOT_THIS_ACTION), 403, NOT_THIS_ACTION),
    ("a page", answer(403, "<html>Forbidden</html>"), 403, "<html>Forbidden</html>"),
    ("nothing said", answer(403), 403, ""),
    ("a large one", answer(403, LARGE), 403, LARGE),
    ("the same words with 400", answer(400, fake_aws.EXPIRED), 400, fake_aws.EXPIRED),
    ("in chunks", lambda handler: (
        handler.start(403, [("Transfer-Encoding", "chunked")]),
        handler.wfile.write(b"2\r\nno\r\n0\r\n\r\n")), 403, "no"),
]))
def test_other_refusals_are_passed_on(fault, status, text, rotating, bedrock, container):
    asked = len(container.requests)
    bedrock.faults += [fault]
    got, _, body = rotating.ask()
    assert (got, body) == (status, text.encode())
    assert (len(bedrock.requests), len(container.requests)) == (1, asked)


def test_credentials_that_go_away_and_come_back(rotating, bedrock, container):
    bedrock.takes = made_by("SECOND")
    container.faults += [Forever(answer(403, {"code": "AccessDenied", "message": "the pod is gone"}))]
    status, _, body = rotating.ask()
    assert status == 502
    assert "container" in one_line_of(body).lower()
    container.faults.clear()
    container.role = "SECOND"
    assert rotating.ask()[0] == 200
    assert makers(bedrock)[-1] == "SECOND"


def test_many_refused_at_once_share_a_renewal(rotating, bedrock, container):
    """As many clients as there are, the container is asked a few times."""
    bedrock.takes, container.role = made_by("SECOND"), "SECOND"
    asked, links = len(container.requests), []
    for _ in range(20):
        links.append(rotating.connect())
        links[-1].request("POST", PATH, b"{}", rotating.headers())
    assert {link.getresponse().status for link in links} == {200}
    for link in links:
        link.close()
    assert 1 <= len(container.requests) - asked <= 20
    assert set(makers(bedrock)) == {"FIRST", "SECOND"}
