"""What servers, proxies, programs and models say: no secret comes back in an error, no control
character reaches a terminal, nothing quoted is long, and nothing malformed ends in a traceback."""

import json
import os
import re
import socket
import subprocess
import sys
import textwrap
import threading
from base64 import b64encode
from datetime import datetime, timedelta, timezone
from urllib.parse import quote, quote_plus, unquote
from xml.sax.saxutils import escape

import pytest

import bedrock_token as bt
from tests import fake_aws
from tests.fake_aws import (
    NOT_VALID, BedrockRuntime, Fake, Forever, Imds, answer, event, frame, stream,
)
from tests.helpers import (
    cpython, ARN, ENV_BASE, FILE, KEYS, LATER, MESSAGES, MODEL, SECRET, SSO_CACHE, START_URL, cases,
    everything_in, posix, write_home,
)

TOKEN = bt.get_token(
    bt.Credentials("AKIAIOSFODNN7EXAMPLE", SECRET, "session/of+the=caller"), "us-east-1")
ROLE = ARN + "R"
SERIAL = "arn:aws:iam::123456789012:mfa/me"

# Long, with characters that disguises change, and without any run of letters in common.
ACCESS_TOKEN = "aoaAAAAAGd8k+Q3vX/1hZr5=yT7uPb2nWm9cLq4sEf6gHj0kDx3=="
REFRESH_TOKEN = "aorQm1wEr2tYu3iOp4/aSd5fGh6jKl7+zXc8vBn9mQw0eRt1yUi2=="
CLIENT_SECRET = "eyJraWQi.Nk5lPq7RsT8uVw9/XyZ0aBc1+DeF2gHi3JkL4mNo5PqR6=="
SESSION_TOKEN = "IQoJb3Jp/Z2luX2VjE0aCXVzLWVhc3QtMSJ+HMEUCIQDp7Kx3Vn5Lw9Rz=="
JWT = "eyJhbGciOiJSUzI1NiIsImtpZCI6IjE.eyJpc3MiOiJodHRwczovL29pZGM.dBjftJeZ4CVPmB92K27uhbUJU1p1r"
AGENT_TOKEN = "k8s-Vt3Nq8Wz/5Jx2Lr7Pc+4Hs9Bd6Fm1Gy0=Tu8Ea5Ki3"
EXTERNAL_ID = "planted:external=id/with@marks-4711-0815"
CODE = "074913"
PASSWORD = "pw/Zu7@kR3:vQ9+nL5=tX1"


def raw(text):
    return fake_aws.raw(text.encode("latin-1"))


# --- secrets in errors ---------------------------------------------------------------------

def parts(secret):
    """All runs of 16 characters that no error may show, as they are and percent-encoded."""
    if secret == TOKEN:
        secret = secret[60:]  # what is before is the same for everybody
    for text in (secret, quote(secret, safe="")):
        yield from (text[at:at + 16] for at in range(max(1, len(text) - 15)))


def shown_of(secret, error):
    text = everything_in(error)
    return [part for part in parts(secret) if part in text]


DISGUISES = [
    ("as it is", lambda secret: secret),
    ("with a scheme", lambda secret: f"Bearer {secret}"),
    ("in quotes", lambda secret: f'"{secret}"'),
    ("percent-encoded", lambda secret: quote(secret, safe="")),
    ("percent-encoded as in a path", quote),
    ("percent-encoded as in a form", quote_plus),
    ("percent-encoded in lower case", lambda secret: re.sub(
        "%..", lambda found: found[0].lower(), quote(secret, safe=""))),
    ("first half", lambda secret: secret[:len(secret) // 2]),
    ("last half", lambda secret: secret[len(secret) // 2:]),
    ("in lines", lambda secret: "\r\n ".join(textwrap.wrap(secret, 19))),
    ("with blanks between", lambda secret: "  ".join(textwrap.wrap(secret, 30))),
    ("where a long text is cut", lambda secret: 480 * "x" + secret),
    ("twice, in a row", lambda secret: secret + secret),
]


@pytest.fixture
def services(environ, home):
    """One server for all: (load, secret) by name, and the server."""
    write_home(environ, (
        f"[sso-session corp]\nsso_region = us-east-1\nsso_start_url = {START_URL}\n"
        "[profile sso]\nsso_session = corp\nsso_account_id = 123456789012\nsso_role_name = Dev\n"
        f"[profile role]\nrole_arn = {ROLE}\ncredential_source = Environment\n"
        f"external_id = {EXTERNAL_ID}\nmfa_serial = {SERIAL}\n"
        f"[profile web]\nrole_arn = {ROLE}\nweb_identity_token_file = ~/web\n"))
    (home / "web").write_text(JWT)
    (home / "agent").write_text(f"Bearer {AGENT_TOKEN}")
    cache = home / SSO_CACHE
    cache.parent.mkdir(parents=True)
    with Fake() as server:
        here = {"AWS_REGION": "us-east-1"}
        for name in ("STS", "SSO", "SSO_OIDC", "BEDROCK_RUNTIME"):
            here["AWS_ENDPOINT_URL_" + name] = server.url

        def load(profile=None, **more):
            return bt.load_credentials(
                profile, environ={**environ, **here, **more}, mfa_code=lambda serial: CODE)

        def sso(**changes):
            cache.write_text(json.dumps({
                "accessToken": ACCESS_TOKEN, "expiresAt": LATER, "clientId": "client-id",
                "clientSecret": CLIENT_SECRET, "registrationExpiresAt": LATER,
                "refreshToken": REFRESH_TOKEN, **changes}))
            return load("sso")

        def container(**more):
            return load(AWS_CONTAINER_CREDENTIALS_FULL_URI=server.url + "/", **more)

        def converse(function=bt.converse):
            return list(function(MODEL, MESSAGES, token=TOKEN, environ={**environ, **here}))

        signed = {**ENV_BASE, "AWS_SESSION_TOKEN": SESSION_TOKEN}
        ended = {"expiresAt": "2025-07-01T12:00:00Z"}
        yield server, {
            "converse": (converse, str(TOKEN)),
            "converse_stream": (lambda: converse(bt.converse_stream), str(TOKEN)),
            "container": (lambda: container(AWS_CONTAINER_AUTHORIZATION_TOKEN=AGENT_TOKEN), AGENT_TOKEN),
            "container, with a scheme": (lambda: container(
                AWS_CONTAINER_AUTHORIZATION_TOKEN=f"Bearer {AGENT_TOKEN}"), AGENT_TOKEN),
            "container, from a file": (lambda: container(
                AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE=str(home / "agent")), AGENT_TOKEN),
            "sts, session token": (lambda: load("role", **signed), SESSION_TOKEN),
            "sts, external id": (lambda: load("role", **signed), EXTERNAL_ID),
            "sts, MFA code": (lambda: load("role", **signed), CODE),
            "sts, web identity": (lambda: load("web"), JWT),
            "sso, access token": (sso, ACCESS_TOKEN),
            "sso, refresh token": (lambda: sso(**ended), REFRESH_TOKEN),
            "sso, client secret": (lambda: sso(**ended), CLIENT_SECRET),
        }


ONE_OF_EACH = [
    "converse", "container", "sts, web identity", "sso, access token", "sso, refresh token"]
NAMES = [
    "converse", "converse_stream", "container", "container, with a scheme", "container, from a file",
    "sts, session token", "sts, external id", "sts, MFA code", "sts, web identity",
    "sso, access token", "sso, refresh token", "sso, client secret",
]


def refused(services, name, fault):
    """The error that such an answer ends in, and what it shows of the secret."""
    server, known = services
    load, secret = known[name]
    server.faults = [Forever(fault)]
    with pytest.raises(bt.BedrockTokenError) as caught:
        load()
    assert server.requests != []
    return str(caught.value), shown_of(secret, caught.value)


def secret_of(services, name):
    return services[1][name][1]


def disguises_for(name):
    if name in ("converse_stream", "container", "container, from a file"):  # as their neighbours
        return DISGUISES[:1]
    if name == "sts, MFA code":  # six digits are too few to be recognised in parts
        return [row for row in DISGUISES if "half" not in row[0]]
    return DISGUISES


@pytest.mark.parametrize("name, disguise", cases(
    (f"{name}, {label}", name, disguise) for name in NAMES for label, disguise in disguises_for(name)))
def test_secret_in_a_message(services, name, disguise):
    text = disguise(secret_of(services, name))
    message, shown = refused(services, name, answer(400, {
        "message": f"Not good: {text}", "error": "invalid_request",
        "error_description": f"Not good: {text}"}))
    assert shown == []
    assert "Not good" in message


XML = "<ErrorResponse><Error><Code>{}</Code><Message>{}</Message></Error></ErrorResponse>"

# Where an answer can repeat a secret.
PLACES = [
    ("code", lambda text: answer(400, {"code": text, "message": "m"})),
    ("type", lambda text: answer(400, {"__type": text, "message": "m"})),
    ("OAuth's error", lambda text: answer(400, {"error": text})),
    ("OpenAI's message", lambda text: answer(400, {"error": {"message": text, "code": "c"}})),
    ("OpenAI's code", lambda text: answer(400, {"error": {"message": "m", "code": text, "type": text}})),
    ("header", lambda text: answer(400, {"message": "m"}, [("x-amzn-ErrorType", text)])),
    ("id", lambda text: answer(400, {"message": "m"}, [("x-amzn-RequestId", text)])),
    ("XML's message", lambda text: answer(400, XML.format("c", escape(text)))),
    ("XML's code", lambda text: answer(400, XML.format(escape(text), "m"))),
    ("XML's message, in numbers", lambda text: answer(400, XML.format(
        "c", "".join(f"&#{ord(each)};" for each in text)))),
    ("reason", lambda text: raw(f"HTTP/1.1 400 {text}\r\nContent-Length: 0\r\n\r\n")),
    ("no HTTP", lambda text: raw(f"{text}\r\n")),
    ("no status", lambda text: raw(f"HTTP/1.1 {text}\r\n\r\n")),
    ("no version", lambda text: raw(f"HTTP/{text} 200 OK\r\n\r\n")),
    ("no JSON", lambda text: answer(400, text)),
    ("no JSON, of a good answer", lambda text: answer(200, '{"a": "' + text)),
    ("size of a chunk", lambda text: raw(
        f"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{text}\r\n")),
    ("cut off", lambda text: answer(200, text, missing=99)),
]


@pytest.mark.parametrize("name", ["converse", "container", "sts, web identity", "sts, MFA code",
                                  "sso, access token", "sso, refresh token"])
@pytest.mark.parametrize("place", cases(PLACES))
def test_secret_in_a_place(services, name, place):
    fault = place(secret_of(services, name))
    assert refused(services, name, fault)[1] == []


@pytest.mark.parametrize("given, said", cases([
    ("blanks collapsed", f"Basic  {AGENT_TOKEN[:20]}   {AGENT_TOKEN[20:]}",
     f"Basic {AGENT_TOKEN[:20]} {AGENT_TOKEN[20:]}"),
    ("tab for a blank", f"Bearer {AGENT_TOKEN}", f"Bearer\t{AGENT_TOKEN}"),
    ("another scheme", f"Bearer {AGENT_TOKEN}", f"Basic {AGENT_TOKEN}"),
    ("scheme in lower case", f"Bearer {AGENT_TOKEN}", f"bearer {AGENT_TOKEN}"),
]))
def test_authorization_of_a_container(services, environ, given, said):
    server, _ = services
    server.faults = [answer(403, {"message": said})]
    with pytest.raises(bt.CredentialsError) as caught:
        bt.load_credentials(environ={
            **environ, "AWS_CONTAINER_CREDENTIALS_FULL_URI": server.url + "/",
            "AWS_CONTAINER_AUTHORIZATION_TOKEN": given})
    assert shown_of(AGENT_TOKEN, caught.value) == []


@pytest.mark.parametrize("between", ["\n", "\r\n", " ", "\n\n  "], ids=repr)
def test_web_identity_token_with_a_line_break(services, environ, home, between):
    """What is in the file and what is repeated are not the same text."""
    server, _ = services
    (home / "web").write_text(JWT[:40] + between + JWT[40:])
    server.faults = [answer(400, XML.format("InvalidIdentityToken", JWT))]
    with pytest.raises(bt.CredentialsError) as caught:
        bt.load_credentials("web", environ={**environ, "AWS_ENDPOINT_URL_STS": server.url})
    assert shown_of(JWT, caught.value) == []


def error_frame(code, message):
    return frame([(":message-type", "error"), (":error-code", code), (":error-message", message)])


def exception_frame(code, message):
    return frame([(":message-type", "exception"), (":exception-type", code),
                  (":content-type", "application/json")], json.dumps({"message": message}).encode())


@pytest.mark.parametrize("disguise", cases(
    row for row in DISGUISES if row[0] in ("as it is", "percent-encoded", "first half", "in lines")))
@pytest.mark.parametrize("make", [
    lambda text: [error_frame(text, "m")], lambda text: [error_frame("c", text)],
    lambda text: [exception_frame(text, "m")], lambda text: [exception_frame("c", text)],
    lambda text: [frame([(":message-type", text)])],
    lambda text: [frame([(":message-type", "event"), (":event-type", "x")], text.encode())],
], ids=["error code", "error message", "exception type", "exception message", "frame", "payload"])
def test_secret_in_a_stream(services, make, disguise):
    fault = stream(make(disguise(secret_of(services, "converse_stream"))))
    assert refused(services, "converse_stream", fault)[1] == []


def test_secret_in_the_request_id_of_a_stream(services):
    body = error_frame("c", "m")

    def send(handler):
        handler.start(200, [("Content-Type", "application/vnd.amazon.eventstream"),
                            ("Content-Length", len(body)), ("x-amzn-RequestId", str(TOKEN))])
        handler.wfile.write(body)
    assert refused(services, "converse_stream", send)[1] == []


# --- what a proxy repeats ------------------------------------------------------------------

BASIC = b64encode(f"alice:{PASSWORD}".encode()).decode()


@pytest.mark.parametrize("text", cases([
    ("header", f"Basic {BASIC}"),
    ("header without its scheme", BASIC),
    ("header, percent-encoded", quote(f"Basic {BASIC}", safe="")),
    ("first half", BASIC[:len(BASIC) // 2]),
    ("user and password", f"alice:{PASSWORD}"),
    ("password", PASSWORD),
    ("password as in the URL", quote(PASSWORD, safe="")),
    ("URL", f"http://alice:{quote(PASSWORD, safe='')}@127.0.0.1"),
]))
@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize("make", [
    lambda text: raw(f"HTTP/1.1 407 {text}\r\nContent-Length: 0\r\n\r\n"),
    lambda text: raw(f"HTTP/1.1 {text}\r\n\r\n"),
    lambda text: answer(403, {"message": text}),
], ids=["reason", "no status", "message"])
def test_password_of_a_proxy(environ, scheme, make, text):
    with Fake(faults=[Forever(make(text))]) as proxy:
        address = proxy.url.replace("//", f"//alice:{quote(PASSWORD, safe='')}@")
        with pytest.raises(bt.BedrockTokenError) as caught:
            bt.converse(MODEL, MESSAGES, token=TOKEN, timeout=5, environ={
                **environ, f"{scheme.upper()}_PROXY": address, "AWS_REGION": "us-east-1", "AWS_MAX_ATTEMPTS": "1",
                "AWS_ENDPOINT_URL_BEDROCK_RUNTIME": f"{scheme}://service.test"})
        assert unquote(proxy.requests[0].headers["Proxy-Authorization"]) == f"Basic {BASIC}"
    assert shown_of(PASSWORD, caught.value) == shown_of(BASIC, caught.value) == []


# --- control characters --------------------------------------------------------------------

# Colours, the clipboard (OSC 52), C1's short forms of both, a bell, text that runs backwards.
LATIN = "before\x1b[31m\x1b]52;c;cm0gLXJm\x07\x9b2J\x9d0;t\x9c\x90\x08\x7f\x0c\x0bafter"
HOSTILE = LATIN.replace("after", "\x85\u2028\u2029\u202e\u2066\u2069\u200f\ufeff\0after")


def hostile_in(text):
    return {each for each in text if each in HOSTILE and not each.isprintable()}


def clean(error):
    texts = [str(error), *(value for value in vars(error).values() if isinstance(value, str))]
    assert set().union(*map(hostile_in, texts)) == set()
    assert "\n" not in str(error)
    assert "before" in str(error) and "after" in str(error)


CONTROL_PLACES = [
    ("message", answer(400, {"message": HOSTILE})),
    ("code", answer(400, {"code": HOSTILE, "message": "m"})),
    ("OAuth's text", answer(400, {"error": "e", "error_description": HOSTILE})),
    ("header", answer(400, {"message": "m"}, [("x-amzn-ErrorType", LATIN)])),
    ("XML's message", answer(400, XML.format("c", HOSTILE))),
    ("XML's code", answer(400, XML.format(HOSTILE, "m"))),
    ("XML's message, in numbers", answer(400, XML.format("c", "".join(
        f"&#x{ord(each):x};" for each in HOSTILE)))),
    ("reason", raw(f"HTTP/1.1 400 {LATIN}\r\nContent-Length: 0\r\n\r\n")),
]


@pytest.mark.parametrize("name", ONE_OF_EACH)
@pytest.mark.parametrize("fault", cases(CONTROL_PLACES))
def test_control_characters(services, name, fault):
    server, known = services
    server.faults = [Forever(fault)]
    with pytest.raises(bt.BedrockTokenError) as caught:
        known[name][0]()
    clean(caught.value)


@pytest.mark.parametrize("fault", cases([
    ("request id", answer(400, {"message": "m"}, [("x-amzn-RequestId", LATIN)])),
    ("error code", stream([error_frame(HOSTILE, "m")])),
    ("error message", stream([error_frame("c", HOSTILE)])),
    ("exception type", stream([exception_frame(HOSTILE, "m")])),
    ("exception message", stream([exception_frame("c", HOSTILE)])),
]))
def test_control_characters_of_a_stream(services, fault):
    server, known = services
    server.faults = [fault]
    with pytest.raises(bt.BedrockError) as caught:
        known["converse_stream"][0]()
    clean(caught.value)


@pytest.fixture
def program(environ, tmp_path):
    """Runs a program in Python as the credential_process of profile p."""
    def run(text, *arguments):
        path = tmp_path / "program.py"
        path.write_text(text)
        write_home(environ, f'[profile p]\ncredential_process = "{sys.executable}" -I -S "{path}" '
                   f"{' '.join(arguments)}\n")
        return bt.load_credentials("p", environ=environ)
    return run


def test_control_characters_of_a_program(program):
    with pytest.raises(bt.CredentialsError) as caught:
        program(f"import sys; sys.stderr.buffer.write({(HOSTILE + chr(10)).encode()!r}); sys.exit(3)")
    # Some of them end a line, and a line is what is shown.
    assert hostile_in(str(caught.value)) == set()
    assert "before" in str(caught.value)


def test_control_characters_of_instance_metadata(environ):
    del environ["AWS_EC2_METADATA_DISABLED"]
    with Imds(role=LATIN.replace("\x0c", "").replace("\x0b", "")) as imds:
        with pytest.raises(bt.CredentialsError) as caught:
            bt.load_credentials(environ={**environ, "AWS_EC2_METADATA_SERVICE_ENDPOINT": imds.url})
    assert hostile_in(str(caught.value)) == set()


# --- everything quoted is bounded ----------------------------------------------------------

LONG = 60_000


@pytest.mark.parametrize("name", ONE_OF_EACH)
@pytest.mark.parametrize("fault", cases([
    ("message", answer(400, {"message": LONG * "x"})),
    ("code", answer(400, {"code": LONG * "x", "message": "m"})),
    ("OAuth's error", answer(400, {"error": LONG * "x"})),
    ("header", answer(400, {"message": "m"}, [("x-amzn-ErrorType", LONG * "x")])),
    ("XML's message", answer(400, XML.format("c", LONG * "x"))),
    ("XML's code", answer(400, XML.format(LONG * "x", "m"))),
    ("both", answer(400, XML.format(LONG // 2 * "x", LONG // 2 * "x"))),
    ("reason", raw(f"HTTP/1.1 400 {LONG * 'x'}\r\nContent-Length: 0\r\n\r\n")),
    ("status line", raw(LONG * "x" + "\r\n")),
]))
def test_long_errors(services, name, fault):
    server, known = services
    server.faults = [Forever(fault)]
    with pytest.raises(bt.BedrockTokenError) as caught:
        known[name][0]()
    error = caught.value
    assert max(map(len, [str(error), *map(str, vars(error).values())])) <= 2000


@pytest.mark.parametrize("fault", cases([
    ("request id", answer(400, {"message": "m"}, [("x-amzn-RequestId", LONG * "x")])),
    ("error code", stream([error_frame(LONG * "x", "m")])),
    ("error message", stream([error_frame("c", LONG * "x")])),
    ("exception type", stream([exception_frame(LONG * "x", "m")])),
    ("exception message", stream([exception_frame("c", 9_000_000 * "x")])),
]))
def test_long_errors_of_a_stream(services, fault):
    server, known = services
    server.faults = [fault]
    with pytest.raises(bt.BedrockError) as caught:
        known["converse_stream"][0]()
    error = caught.value
    assert max(map(len, [str(error), error.code, error.message, error.request_id])) <= 2000


@pytest.mark.parametrize("fault", [answer(500), answer(404), answer(200, "{}"), answer(200, "[")],
                         ids=["500", "404", "no keys", "no JSON"])
def test_long_name_of_a_role(environ, fault):
    del environ["AWS_EC2_METADATA_DISABLED"]
    with Imds(role=LONG * "R", faults=[None, None, Forever(fault)]) as imds:
        with pytest.raises(bt.BedrockTokenError) as caught:
            bt.load_credentials(environ={**environ, "AWS_EC2_METADATA_SERVICE_ENDPOINT": imds.url})
    assert len(str(caught.value)) <= 2000


def test_long_status_line_of_a_proxy(environ):
    with Fake(faults=[Forever(raw(f"HTTP/1.1 407 {LONG * 'x'}\r\n\r\n"))]) as proxy:
        with pytest.raises(bt.BedrockTokenError) as caught:
            bt.converse(MODEL, MESSAGES, token=TOKEN, environ={
                **environ, "HTTPS_PROXY": proxy.url, "AWS_REGION": "us-east-1", "AWS_MAX_ATTEMPTS": "1"})
    assert len(str(caught.value)) <= 2000


def test_long_error_of_a_program(program):
    with pytest.raises(bt.CredentialsError, match="status 3") as caught:
        program("import sys; sys.stderr.write(5_000_000 * 'x'); sys.exit(3)")
    assert len(str(caught.value)) <= 2000


# It holds a connection, through which the end of its life is seen, and says if it was let finish.
ENDLESS = """
import socket, sys
link = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
streams = {"stdout": [sys.stdout], "stderr": [sys.stderr], "both": [sys.stdout, sys.stderr]}[sys.argv[2]]
for _ in range(64):
    for stream in streams:
        stream.buffer.write(1_000_000 * b"{},")
link.sendall(b"finished")
"""


@pytest.mark.parametrize("streams", ["stdout", "both"])
def test_endless_output_of_a_program(program, streams):
    """Nobody waits for 200 MB: the program is ended."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(20)
        with pytest.raises(bt.CredentialsError) as caught:
            program(ENDLESS, str(listener.getsockname()[1]), streams)
        link, _ = listener.accept()
        with link:
            link.settimeout(20)
            try:
                said = link.recv(100)
            except ConnectionResetError:
                said = b""
    assert said == b""
    assert len(str(caught.value)) <= 2000


LOW_MEMORY = """
import resource, sys
resource.setrlimit(resource.RLIMIT_AS, (400 << 20, 400 << 20))
import bedrock_token
sys.exit(bedrock_token.main(sys.argv[1:]))
"""
MANY_OBJECTS = b"[" + 7_990_000 * b"{}," + b"{}]"


@cpython("PyPy ends the process itself where there is no memory")
@posix("needs limits for memory")
@pytest.mark.parametrize("arguments, fault", cases([
    ("answer", ["check", "--model", MODEL], answer(200, MANY_OBJECTS)),
    ("answer that is an object", ["check", "--model", MODEL],
     answer(200, b'{"a": ' + MANY_OBJECTS + b"}")),
    ("models", ["check"], answer(200, MANY_OBJECTS)),
    ("event", ["converse", "--model", MODEL, "Hello"], stream([frame(
        [(":message-type", "event"), (":event-type", "x")], MANY_OBJECTS)])),
    ("exception", ["converse", "--model", MODEL, "Hello"], stream([frame(
        [(":message-type", "exception"), (":exception-type", "x")], MANY_OBJECTS)])),
]))
def test_more_objects_than_there_is_memory_for(environ, arguments, fault):
    with Fake(faults=[Forever(fault)]) as server:
        done = subprocess.run(
            [sys.executable, "-c", LOW_MEMORY, *arguments], cwd=FILE.parent, capture_output=True,
            text=True, timeout=100, env={
                **os.environ, **environ, **KEYS, "AWS_REGION": "us-east-1",
                "AWS_ENDPOINT_URL": server.url})
    # Where memory is not limited, an object that is large may be taken for an answer.
    assert done.returncode in (0, 1)
    assert re.fullmatch("(bedrock_token: [^\n]{1,2000}\n)?", done.stderr)


@pytest.mark.parametrize("body", cases([
    ("objects", 8_000_000 * b"{},"),
    ("brackets", 8_000_000 * b"[1,"),
    ("a number", 24_000_000 * b"9"),
    ("a number in an object", b'{"a":' + 23_000_000 * b"9" + b"}"),
]))
def test_large_answer_that_is_none(services, body):
    refused(services, "converse", answer(200, body))


# --- malformed text ------------------------------------------------------------------------

DIGITS = 5000 * "9"

BAD_ERRORS = [
    ("long number", XML.format("c", f"&#{DIGITS};")),
    ("long number without its end", XML.format("c", f"&#{DIGITS}")),
    ("long number in base 16", XML.format("c", f"&#x{DIGITS};")),
    ("long number in the code", XML.format(f"&#{DIGITS};", "m")),
    ("half a surrogate", XML.format("c", "&#xd800;")),
    ("no character", XML.format("c", "&#x110000;&#0;&#-1;&#;")),
    ("half a surrogate in JSON", '{"message": "\\ud800", "code": "\\udc00"}'),
    ("long number in JSON", f'{{"message": {DIGITS}}}'),
    ("numbers", '{"message": 5, "code": 5, "__type": 5, "error": 5, "error_description": 5}'),
    ("nulls", '{"message": null, "code": null, "__type": null, "error": null}'),
    ("lists", '{"message": [1], "code": [1], "error": [1], "error_description": [1]}'),
    ("objects", '{"message": {"a": 1}, "code": {}, "error": {"message": {"a": 1}, "code": [1]}}'),
    ("OpenAI's null", '{"error": {"message": null, "code": null, "type": null}}'),
    ("a list", "[1]"),
    ("a list of an error", '[{"message": "m"}]'),
    ("a text", '"text"'),
    ("a number", "5"),
    ("null", "null"),
    ("NaN", '{"message": NaN}'),
    ("infinity", "1e999"),
    ("deep", 30_000 * "["),
    ("NUL", "\0"),
]


@pytest.mark.parametrize("name", ONE_OF_EACH)
@pytest.mark.parametrize("body", cases(BAD_ERRORS))
def test_malformed_error(services, name, body):
    message, _ = refused(services, name, answer(400, body))
    assert "400" in message
    message.encode()  # anybody may want to print it


@pytest.mark.parametrize("date", [
    "Tue, 01 Jul 2025 12:00:00 +99999999999999999999", "Tue, 01 Jul 2025 12:00:00 -99999999",
    "Tue, 01 Jul 99999999999999999999 12:00:00 GMT", "Tue, 01 Jul 2025 99:99:99 GMT",
    f"Tue, 01 Jul 2025 12:00:00 +{DIGITS}", "Fri, 31 Dec 9999 23:59:59 -2359",
    "Mon, 01 Jan 0001 00:00:00 +2359", "Tue, 99 Foo 2025 12:00:00 GMT", ",", "\x1b", "1e999",
], ids=lambda date: ascii(date[:50]))
def test_malformed_date(environ, date):
    with BedrockRuntime(denial=NOT_VALID, date=date) as runtime:
        with pytest.raises(bt.BedrockError, match="make sure your API Key is valid"):
            bt.converse(MODEL, MESSAGES, token=TOKEN, environ={
                **environ, "AWS_ENDPOINT_URL_BEDROCK_RUNTIME": runtime.url})


# Whatever stands for the length of an answer: an error of ours, or an answer.
@pytest.mark.parametrize("head", [
    "Content-Length: -1", "Content-Length: 99999999999999999999", f"Content-Length: {DIGITS}",
    "Content-Length: 2, 2", "Content-Length: x", "Content-Length: 2\r\nContent-Length: 9",
    "Content-Encoding: gzip", "Transfer-Encoding: x", "Transfer-Encoding: chunked\r\n\r\n-5",
    "Transfer-Encoding: chunked\r\n\r\nffffffffffffffffffffff", "no colon", ": no name", "A: \0",
    f"Transfer-Encoding: chunked\r\n\r\n{DIGITS}", "Content-Type: \x1b;;;=\"", "A: b\r\n c\r\n d",
], ids=lambda head: ascii(head[:50]))
@pytest.mark.parametrize("name", ["converse", "converse_stream", "container", "sts, web identity"])
def test_malformed_head(services, name, head):
    server, known = services
    server.faults = [Forever(raw(f"HTTP/1.1 200 OK\r\n{head}\r\n\r\n{{}}"))]
    try:
        assert known[name][0]() in ({}, [])
    except bt.BedrockTokenError as error:
        assert len(str(error)) <= 2000


@pytest.mark.parametrize("document", [
    [1], {"roleCredentials": None}, {"roleCredentials": [1]}, {"roleCredentials": "x"},
    {"roleCredentials": {"accessKeyId": ["x"], "secretAccessKey": {}, "sessionToken": 1,
                         "expiration": None}},
    {"roleCredentials": {"accessKeyId": "ASIAX", "secretAccessKey": "x", "sessionToken": "x",
                         "expiration": 10**4000}},
    {"roleCredentials": {"accessKeyId": "ASIAX", "secretAccessKey": "x", "sessionToken": "x",
                         "expiration": "9" * 5000}},
], ids=lambda document: str(document)[:60])
def test_malformed_credentials(services, document):
    refused(services, "sso, access token", answer(200, json.dumps(document)))


# --- the command line ----------------------------------------------------------------------

@pytest.fixture
def runtime():
    with BedrockRuntime() as fake:
        yield fake


@pytest.fixture
def command(environ, runtime):
    """What to start for a command line, and in which environment, as arguments of subprocess."""
    def command(*arguments, **variables):
        return {
            "args": [sys.executable, "-m", "bedrock_token", *arguments], "cwd": FILE.parent,
            "stdin": subprocess.DEVNULL, "env": {
                **os.environ, **environ, **KEYS, "AWS_REGION": "us-east-1", "TERM": "xterm",
                "AWS_ENDPOINT_URL_BEDROCK_RUNTIME": runtime.url,
                "AWS_ENDPOINT_URL_BEDROCK": runtime.url, "PYTHONIOENCODING": "utf-8", **variables}}
    return command


@pytest.fixture
def run(command, monkeypatch, capsys):
    """The command line in this process: its status, stdout and stderr; an exception fails the test."""
    def run(*arguments):
        for name, value in command()["env"].items():
            monkeypatch.setenv(name, value)
        return bt.main(list(arguments)), *capsys.readouterr()
    return run


CONVERSE = ["converse", "--model", MODEL, "Hello"]
HELLO = event("contentBlockDelta", {"delta": {"text": "Hello"}})
STOP = event("messageStop", {"stopReason": "end_turn"})


def bare(kind, payload):
    return frame([(":message-type", "event"), (":event-type", kind)], payload)


@pytest.mark.parametrize("part", cases([
    ("no delta", event("contentBlockDelta", {})),
    ("delta is null", event("contentBlockDelta", {"delta": None})),
    ("delta is a list", event("contentBlockDelta", {"delta": [1]})),
    ("delta is a text", event("contentBlockDelta", {"delta": "text"})),
    ("delta is a number", event("contentBlockDelta", {"delta": 5})),
    ("text is a number", event("contentBlockDelta", {"delta": {"text": 5}})),
    ("text is null", event("contentBlockDelta", {"delta": {"text": None}})),
    ("text is a list", event("contentBlockDelta", {"delta": {"text": ["x"]}})),
    ("text is an object", event("contentBlockDelta", {"delta": {"text": {"text": "x"}}})),
    ("text is half a surrogate", event("contentBlockDelta", {"delta": {"text": "\ud800"}})),
    ("event is null", bare("contentBlockDelta", b"null")),
    ("event is a list", bare("contentBlockDelta", b"[1]")),
    ("event is a number", bare("contentBlockDelta", b"5")),
    ("event is a text", bare("messageStop", b'"text"')),
    ("event is a long number", bare("messageStop", DIGITS.encode())),
    ("event is nothing", bare("contentBlockDelta", b"")),
    ("event is deep", bare("contentBlockDelta", b'{"delta":' + 100_000 * b"[")),
    ("no event type", frame([(":message-type", "event")], b"{}")),
    ("reason is null", event("messageStop", {"stopReason": None})),
    ("reason is a list", event("messageStop", {"stopReason": [1]})),
    ("no reason", event("messageStop", {})),
    ("usage is null", event("metadata", {"usage": None})),
    ("usage is a list", event("metadata", {"usage": [1]})),
    ("usage is a number", event("metadata", {"usage": 5})),
    ("tokens are null", event("metadata", {"usage": {"inputTokens": None, "outputTokens": [1]}})),
    ("metadata is null", bare("metadata", b"null")),
]))
def test_malformed_event(run, runtime, part):
    """Nothing is asked but that the text before is there, and that there is no traceback."""
    runtime.parts = [HELLO, part, STOP]
    status, out, err = run(*CONVERSE)
    assert status in (0, 1)
    assert out.startswith("Hello")
    if status == 1:
        assert re.fullmatch("bedrock_token: [^\n]+\n", err)


@pytest.mark.parametrize("body", [b"[1]", b"null", b"5", b'"x"', b"{", b"", DIGITS.encode(),
                                  b'{"output": null, "usage": null}', b'{"output": {"message": 5}}'],
                         ids=lambda body: str(body[:20]))
@pytest.mark.parametrize("arguments", [["check"], ["check", "--model", MODEL]], ids=["", "model"])
def test_malformed_answer_to_check(run, runtime, body, arguments):
    runtime.faults = [answer(200, body)]
    status, out, err = run(*arguments)
    assert (status, out) == (1, "") or (status, err) == (0, "")


@pytest.mark.parametrize("body", cases(BAD_ERRORS[:9]))
@pytest.mark.parametrize("arguments", [["check"], ["check", "--model", MODEL], CONVERSE],
                         ids=["check", "model", "converse"])
def test_malformed_error_of_a_command(run, runtime, body, arguments):
    runtime.faults = [answer(400, body)]
    status, out, err = run(*arguments)
    assert status in (0, 1)
    assert hostile_in(out + err) == set()


@pytest.mark.parametrize("arguments", [["check"], ["check", "--model", MODEL], CONVERSE],
                         ids=["check", "model", "converse"])
@pytest.mark.parametrize("status", [400, 403, 404])
def test_control_characters_of_a_command(run, runtime, arguments, status):
    runtime.faults = [answer(status, {"message": "not authorized to perform " + HOSTILE},
                             [("x-amzn-ErrorType", LATIN), ("x-amzn-RequestId", LATIN)])]
    _, out, err = run(*arguments)
    assert "before" in out + err and "after" in out + err
    assert hostile_in(out + err) == set()


# --- a terminal ----------------------------------------------------------------------------

TEXT = "na\u00efve \u4f60\u597d \U0001f469\u200d\U0001f4bb\tend\nnext line"


def on_a_terminal(started):
    """What a command writes to a terminal that is its stdout and stderr."""
    import pty
    import tty

    ours, its = pty.openpty()
    tty.setraw(its)  # else the terminal writes CR LF for LF
    process = subprocess.Popen(**started, stdout=its, stderr=its)
    os.close(its)
    watch = threading.Timer(60, process.kill)
    watch.start()
    written = b""
    try:
        while True:
            piece = os.read(ours, 65536)
            if not piece:
                break
            written += piece
    except OSError:  # Linux's word for the end
        pass
    finally:
        process.wait()
        watch.cancel()
        os.close(ours)
    return written.decode()


@posix("needs a pseudo-terminal")
def test_text_of_a_model_on_a_terminal(command, runtime):
    runtime.parts = [event("contentBlockDelta", {"delta": {"text": text}})
                     for text in (TEXT, HOSTILE)] + [STOP]
    said = on_a_terminal(command(*CONVERSE))
    assert hostile_in(said) == set()
    assert said.startswith(TEXT)
    assert "before" in said and "after" in said


@posix("needs a pseudo-terminal")
def test_sequence_that_comes_in_pieces(command, runtime):
    runtime.parts = [event("contentBlockDelta", {"delta": {"text": each}}) for each in HOSTILE]
    runtime.parts += [STOP]
    said = on_a_terminal(command(*CONVERSE))
    assert hostile_in(said) == set()


@posix("needs a pseudo-terminal")
@pytest.mark.parametrize("make", [exception_frame, error_frame], ids=["exception", "error"])
def test_error_on_a_terminal(command, runtime, make):
    runtime.parts = [HELLO, make(HOSTILE, HOSTILE)]
    said = on_a_terminal(command(*CONVERSE))
    assert hostile_in(said) == set()
    assert "before" in said and "after" in said


def test_text_of_a_model_that_goes_elsewhere(command, runtime):
    """Who reads a pipe or a file gets what the model said."""
    runtime.parts = [event("contentBlockDelta", {"delta": {"text": TEXT + HOSTILE}}), STOP]
    done = subprocess.run(**command(*CONVERSE), capture_output=True, timeout=60)
    assert (done.returncode, done.stdout.decode()) == (0, TEXT + HOSTILE + "\n")


# --- a stderr that takes nothing -----------------------------------------------------------

FULL = "/dev/full"
full = pytest.mark.skipif(not os.path.exists(FULL), reason="this system has no device that is full")


def with_full_stderr(started):
    with open(FULL, "wb") as device:
        return subprocess.run(**started, stdout=subprocess.PIPE, stderr=device, timeout=60)


@pytest.fixture
def soon():
    """An end of the credentials that is worth a note."""
    ends = datetime.now(timezone.utc) + timedelta(minutes=20)
    return {"AWS_CREDENTIAL_EXPIRATION": ends.strftime("%Y-%m-%dT%H:%M:%SZ")}


@full
def test_exec_with_a_full_stderr(command, soon):
    done = with_full_stderr(command("exec", "--", sys.executable, "-c", "print('ran')", **soon))
    assert (done.returncode, done.stdout.split()) == (0, [b"ran"])


@full
@pytest.mark.parametrize("options", [[], ["--format", "json"], ["--format", "env"]], ids=str)
def test_token_with_a_full_stderr(command, soon, options):
    done = with_full_stderr(command(*options, **soon))
    assert done.returncode == 0
    assert b"bedrock-api-key-" in done.stdout


@full
@pytest.mark.parametrize("arguments, statuses", cases([
    ("failure", ["--region", "us-east-1", "--profile", "nobody"], [1]),
    ("command that is missing", ["exec", "--", "no-such-program"], [127]),
    # argparse itself fails to write, in Python 3.9.
    ("usage", ["--no-such-option"], [1, 2]),
]))
def test_failure_with_a_full_stderr(command, arguments, statuses):
    done = with_full_stderr(command(*arguments))
    assert done.returncode in statuses
    assert done.stdout == b""


@full
def test_answer_with_a_full_stderr(command, runtime):
    done = with_full_stderr(command(*CONVERSE))
    assert (done.returncode, done.stdout) == (0, b"Hello, world\n")


@full
def test_inspect_with_a_full_stderr(command):
    """The warnings cannot be shown; what the token says can."""
    done = with_full_stderr(command("inspect", AWS_BEARER_TOKEN_BEDROCK=f' "{TOKEN}" '))
    assert done.returncode == 0
    assert b"us-east-1" in done.stdout
