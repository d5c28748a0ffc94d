"""Loopback servers that speak like AWS's services, refuse what AWS refuses, and keep what came in.

    with Sts(keys={"AKIDEXAMPLE": ("secret", None)}, faults=[answer(503)]) as sts:
        ...                     # point AWS_ENDPOINT_URL_STS at sts.url
        sts.requests[1].form["RoleArn"]

Each entry of `faults` answers one request in the service's place, None leaves it to the service;
`Forever(fault)` answers all that follow.
"""

import hashlib
import hmac
import http.client
import http.server
import json
import re
import socket
import socketserver
import ssl
import struct
import sys
import threading
import time
import zlib
from email.message import Message
from typing import Callable, NamedTuple
from urllib.parse import parse_qsl, unquote, urlsplit
from xml.sax.saxutils import escape

REQUEST_ID = ("x-amzn-RequestId", "0d1e2f30-1111-4222-8333-444455556666")


class Request(NamedTuple):
    method: str
    path: str  # as it was on the wire, with the query
    headers: Message  # names in any case
    body: bytes

    @property
    def line(self):
        return self.method + " " + self.path.partition("?")[0]

    @property
    def query(self):
        return dict(parse_qsl(self.path.partition("?")[2], keep_blank_values=True))

    @property
    def content_type(self):
        return self.headers.get("Content-Type", "").partition(";")[0]

    @property
    def form(self):
        return dict(parse_qsl(self.body.decode(), keep_blank_values=True))

    @property
    def json(self):
        return json.loads(self.body)


def role_keys(role):
    """The three keys that every service here issues for a role: they say which role it was."""
    name = re.sub("[^A-Z0-9]", "", role.upper())[:16]
    return "ASIA" + name.ljust(16, "X"), f"secret/of+{role}", f"session/of+{role}=="


def _from_now(seconds, text="%Y-%m-%dT%H:%M:%SZ"):
    return time.strftime(text, time.gmtime(time.time() + seconds))


# Answers are functions that write to the handler of a request: a service's own, and faults.

def answer(status, body=b"", headers=(), missing=0):
    """The body is bytes, text, or a dict for JSON; `missing` bytes are announced and never sent."""
    if isinstance(body, dict):
        body, headers = json.dumps(body), [("Content-Type", "application/json"), *headers]
    if isinstance(body, str):
        body = body.encode()

    def send(handler):
        handler.start(status, [("Content-Length", len(body) + missing), *headers])
        handler.wfile.write(b"" if handler.command == "HEAD" else body)
        handler.close_connection |= missing > 0
    return send


def truncated(body):
    return answer(200, body, missing=100)


def redirect(url, status=302):
    return answer(status, headers=[("Location", url)])


def html(status=200, title="Sign in to the network"):
    page = f"<!DOCTYPE html><html><head><title>{title}</title></head></html>"
    return answer(status, page, [("Content-Type", "text/html")])


def close(handler):
    """Close the connection without an answer."""
    handler.close_connection = True


def hang(handler):
    """Say nothing until the server is shut down, 30 seconds at most."""
    handler.fake.stopping.wait(30)
    handler.close_connection = True


def raw(data):
    """These bytes, be they an answer in HTTP or not."""
    def send(handler):
        handler.wfile.write(data)
        handler.close_connection = True
    return send


def huge(body=b"", size=10_000_000):
    """The body, followed by spaces up to a size that nothing announces."""
    def send(handler):
        handler.start(200, [("Connection", "close")])
        handler.wfile.write(body)
        for _ in range((size - len(body)) // 50_000):
            handler.wfile.write(b" " * 50_000)
    return send


def drip(body, every=0.005):
    """The body byte by byte: each arrives in time, the whole of it takes long."""
    def send(handler):
        handler.start(200, [("Content-Length", len(body)), ("Connection", "close")])
        for at in range(len(body)):
            handler.wfile.write(body[at:at + 1])
            if handler.fake.stopping.wait(every):
                return
    return send


def stream(parts, chunked=True):
    """An event stream, part by part; an Event among them is awaited, 5 seconds before it dies."""
    framing = ("Transfer-Encoding", "chunked") if chunked else ("Connection", "close")
    kind = ("Content-Type", "application/vnd.amazon.eventstream")

    def send(handler):
        handler.start(200, [kind, framing, REQUEST_ID])
        for part in parts:
            if isinstance(part, threading.Event):
                if not part.wait(5):
                    return close(handler)
            elif part:
                handler.wfile.write(b"%x\r\n%s\r\n" % (len(part), part) if chunked else part)
        handler.wfile.write(b"0\r\n\r\n" if chunked else b"")
    return send


class Forever(NamedTuple):
    answer: Callable


# Valid from 2020 to 2120 for sts.amazonaws.com, portal.sso.us-east-1.amazonaws.com and
# *.us-east-1.amazonaws.com, and its own authority. Scanners look for whole keys in source code.
#     openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout key -out request
#     openssl ca -selfsign -keyfile key -in request -startdate 20200101000000Z …
PEM = "".join(f"-----BEGIN {kind}-----\n{body}\n-----END {kind}-----\n" for kind, body in [
    ("PRIVATE KEY", """\
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgCrKQXSb40MZLNyT6
m+J/i0KakdwSsK6fWiAe5WTqcIehRANCAATCdkQpg205nmICW5zcAIKEGyWRNHE7
5c0NXryS7cazNkHD78X12DG8F7e8YWs69eaaPDIDUM2fsheSgDgXixKU"""),
    ("CERTIFICATE", """\
MIIBwzCCAWmgAwIBAgIUT5L+uCifM8PZHTr+eKEXt91B2dwwCgYIKoZIzj0EAwIw
DzENMAsGA1UEAwwEdGVzdDAgFw0yMDAxMDEwMDAwMDBaGA8yMTIwMDEwMTAwMDAw
MFowDzENMAsGA1UEAwwEdGVzdDBZMBMGByqGSM49AgEGCCqGSM49AwEHA0IABMJ2
RCmDbTmeYgJbnNwAgoQbJZE0cTvlzQ1evJLtxrM2QcPvxfXYMbwXt7xhazr15po8
MgNQzZ+yF5KAOBeLEpSjgaAwgZ0wDwYDVR0TAQH/BAUwAwEB/zAOBgNVHQ8BAf8E
BAMCAoQwHQYDVR0OBBYEFE1LwoFsZ34045I2wajmzQFtie7GMFsGA1UdEQRUMFKC
EXN0cy5hbWF6b25hd3MuY29tgiJwb3J0YWwuc3NvLnVzLWVhc3QtMS5hbWF6b25h
d3MuY29tghkqLnVzLWVhc3QtMS5hbWF6b25hd3MuY29tMAoGCCqGSM49BAMCA0gA
MEUCIDdVqTgdJZF05fJK8QDY+bNV7gsR4gISEU3vnBLJuKuoAiEA793/HxqyXvO6
CP0EEUYmR64aTYW0DpQKp9HnpDMWmPE="""),
])


def tunnel(pem):
    """The answer to CONNECT: as if it were a proxy, the fake goes on, with TLS, as any host.

    `pem` is the path of a file with the text PEM, which is also the client's CA bundle.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)

    def send(handler):
        handler.start(200, [])
        handler.close_connection = False  # which CONNECT with HTTP/1.0 asks for
        # The socket lives as long as these two files of it.
        with context.wrap_socket(handler.connection, server_side=True) as link:
            handler.rfile, handler.wfile = link.makefile("rb"), link.makefile("wb", buffering=0)
    return send


_taken = []


def refused_url():
    """An address of this machine where nobody listens."""
    taken = socket.socket()
    taken.bind(("127.0.0.1", 0))
    _taken.append(taken)  # never listens, and keeps other tests from listening there
    return f"http://127.0.0.1:{taken.getsockname()[1]}"


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 10
    # Head and body are written apart: Nagle's algorithm would hold the body back for 40 ms.
    disable_nagle_algorithm = True
    fake = property(lambda self: self.server.fake)

    def _answer(self):
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            body = b"".join(self._chunks())
        else:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        # Not self.path: some versions of http.server fold its leading slashes.
        path = self.requestline.split(" ")[1]
        self.fake.next_answer(Request(self.command, path, self.headers, body))(self)

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = do_CONNECT = _answer

    def _chunks(self):
        for _ in range(100_000):
            size = int(self.rfile.readline(), 16)
            yield self.rfile.read(size)
            assert self.rfile.readline() == b"\r\n", "a chunk, or the body, has another end"
            if size == 0:
                return
        raise AssertionError("endless chunks")

    def start(self, status, headers):
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, str(value))
        self.end_headers()

    def date_time_string(self, timestamp=None):
        return self.fake.date or super().date_time_string(timestamp)

    def log_message(self, *args):
        pass


class _Server(http.server.ThreadingHTTPServer):
    request_queue_size = 256

    def server_bind(self):
        # HTTPServer's own would look up the machine's name, which can take seconds.
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = self.server_address[:2]

    def handle_error(self, request, client_address):
        # Clients may leave early; anything else is wrong in here or in what was sent.
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            self.fake.errors.append(error)


class Refused(Exception):
    """Status, code and message of an error answer."""


def require(fulfilled, status, code, message=""):
    if not fulfilled:
        raise Refused(status, code, message)


class Fake:
    """The server of one service: `reply` answers a request or raises Refused.

    The attributes of a class are its settings, and the arguments that it takes.
    """

    date = None  # text for the Date header instead of the time

    def __init__(self, *, faults=(), **settings):
        for name, value in settings.items():
            getattr(self, name)
            setattr(self, name, value)
        self.faults = list(faults)
        self.requests = []
        self.errors = []
        self.stopping = threading.Event()
        self._lock = threading.Lock()

    def __enter__(self):
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.fake = self
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, args=(0.005,), daemon=True).start()
        return self

    def __exit__(self, kind, error, trace):
        self.stopping.set()
        self._server.shutdown()
        self._server.server_close()
        if self.errors:
            raise self.errors[0]

    def next_answer(self, request):
        with self._lock:
            if self.stopping.is_set():
                return close
            self.requests.append(request)
            if self.faults:
                first = self.faults[0]
                fault = first.answer if isinstance(first, Forever) else self.faults.pop(0)
                if fault:
                    return fault
            try:
                return self.reply(request)
            except Refused as refused:
                return self.refusal(*refused.args)

    def reply(self, request):
        raise Refused(404, "UnknownOperationException", "")

    def refusal(self, status, code, message):
        return answer(status, {"message": message}, [("x-amzn-ErrorType", code), REQUEST_ID])


_AUTHORIZATION = re.compile(
    "AWS4-HMAC-SHA256 Credential=([^/]+)/([0-9]{8})/([^/]+)/([^/]+)/aws4_request, *"
    "SignedHeaders=([a-z0-9;-]+), *Signature=([0-9a-f]{64})"
)


def check_signature(request, keys, service, region):
    """Signature Version 4 in the Authorization header of a request for "/". As documented in

    https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html
    """
    headers = {}
    for name, value in request.headers.items():
        values = headers.setdefault(name.lower(), [])
        values.append(re.sub(" +", " ", value.strip()))
    headers = {name: ",".join(values) for name, values in headers.items()}

    require("authorization" in headers, 403, "MissingAuthenticationToken")
    found = _AUTHORIZATION.fullmatch(headers["authorization"])
    require(found, 400, "IncompleteSignature", "Authorization header is malformed")
    key_id, date, given_region, given_service, names, signature = found.groups()
    secret, session_token = keys.get(key_id, (None, None))
    require(secret and headers.get("x-amz-security-token") == session_token,
            403, "InvalidClientTokenId", "The security token included in the request is invalid.")

    signed = names.split(";")
    needed = {"host", "x-amz-date"} | {name for name in headers if name.startswith("x-amz-")}
    timestamp = headers.get("x-amz-date", "")
    body_hash = hashlib.sha256(request.body).hexdigest()
    canonical = request.method + "\n/\n\n"
    for name in signed:
        canonical += name + ":" + headers.get(name, "") + "\n"
    canonical += "\n" + names + "\n" + body_hash
    to_sign = "AWS4-HMAC-SHA256\n%s\n%s/%s/%s/aws4_request\n%s" % (
        timestamp, date, region, service, hashlib.sha256(canonical.encode()).hexdigest())
    key = ("AWS4" + str(secret)).encode()
    for step in (date, region, service, "aws4_request", to_sign):
        key = hmac.new(key, step.encode(), hashlib.sha256).digest()

    for fulfilled, message in (
        (needed <= set(signed) <= set(headers), "Headers are unsigned, or signed and absent"),
        (signed == sorted(set(signed)), "SignedHeaders are not sorted"),
        (given_service == service, "Credential should be scoped to correct service"),
        (given_region == region, "Credential should be scoped to a valid region."),
        (re.fullmatch(date + "T[0-9]{6}Z", timestamp), "Date in scope does not match x-amz-date"),
        (_from_now(-900, "%Y%m%dT%H%M%SZ") <= timestamp <= _from_now(900, "%Y%m%dT%H%M%SZ"),
         "Signature expired"),
        (headers.get("x-amz-content-sha256", body_hash) == body_hash, "Body hash is wrong"),
        (key.hex() == signature, "The request signature we calculated does not match"),
    ):
        require(fulfilled, 403, "SignatureDoesNotMatch", message)


class Sts(Fake):
    """AWS Security Token Service.

    The keys it issues (`role_keys`) join `keys`, so that a role can assume the next one.
    """

    keys = {}  # access key id: (secret, session token or None)
    region = "us-east-1"
    web_identity_token = None
    external_id = None
    mfa = None  # (serial, code)
    expiration = None  # as text; an hour from now when None
    namespace = "https://sts.amazonaws.com/doc/2011-06-15/"

    def refusal(self, status, code, message):
        return answer(status, (
            f'<ErrorResponse xmlns="{self.namespace}"><Error><Type>Sender</Type><Code>{code}</Code>'
            f"<Message>{escape(message)}</Message></Error><RequestId>{REQUEST_ID[1]}</RequestId>"
            "</ErrorResponse>"
        ), [("Content-Type", "text/xml"), REQUEST_ID])

    def reply(self, request):
        require((request.method, request.path) == ("POST", "/"), 404, "UnknownOperationException")
        require(request.content_type == "application/x-www-form-urlencoded", 400, "MalformedInput")
        form = request.form
        action = form.get("Action")
        require(form.get("Version") == "2011-06-15", 400, "NoSuchVersion")
        require(action in ("AssumeRole", "AssumeRoleWithWebIdentity"), 400, "InvalidAction")
        if action == "AssumeRole":
            check_signature(request, self.keys, "sts", self.region)
            mfa = (form.get("SerialNumber"), form.get("TokenCode"))
            require(self.mfa in (None, mfa), 403, "AccessDenied",
                    "MultiFactorAuthentication failed with invalid MFA one time pass code.")
            require(self.external_id in (None, form.get("ExternalId")), 403, "AccessDenied",
                    "User is not authorized to perform: sts:AssumeRole")
        else:
            require("Authorization" not in request.headers, 403, "AccessDenied", "is signed")
            token = form.get("WebIdentityToken")
            require(token and token == self.web_identity_token,
                    400, "InvalidIdentityToken", "The web identity token provided is not valid")
        role = re.fullmatch("arn:aws[a-z-]*:iam::[0-9]+:role/(.+/)?([^/]+)",
                            form.get("RoleArn", ""))
        session = re.fullmatch("[A-Za-z0-9_+=,.@-]{2,64}", form.get("RoleSessionName", ""))
        seconds = form.get("DurationSeconds", "3600")
        require(role, 400, "ValidationError", "roleArn")
        require(session, 400, "ValidationError", "roleSessionName")
        require(seconds.isdigit() and 900 <= int(seconds) <= 43200,
                400, "ValidationError", "durationSeconds")

        key_id, secret, session_token = role_keys(role[2])
        self.keys = {**self.keys, key_id: (secret, session_token)}
        return answer(200, (
            f'<{action}Response xmlns="{self.namespace}"><{action}Result><AssumedRoleUser>'
            f"<AssumedRoleId>AROAEXAMPLE:{session[0]}</AssumedRoleId><Arn>{escape(role[0])}</Arn>"
            f"</AssumedRoleUser><Credentials><AccessKeyId>{key_id}</AccessKeyId>"
            f"<SecretAccessKey>{escape(secret)}</SecretAccessKey>"
            f"<SessionToken>{escape(session_token)}</SessionToken>"
            f"<Expiration>{self.expiration or _from_now(3600)}</Expiration>"
            f"</Credentials></{action}Result><ResponseMetadata><RequestId>{REQUEST_ID[1]}"
            f"</RequestId></ResponseMetadata></{action}Response>"
        ), [("Content-Type", "text/xml"), REQUEST_ID])


class SsoPortal(Fake):
    """The IAM Identity Center portal."""

    access_token = "access-token"
    expiration = None  # in milliseconds; an hour from now when None

    def reply(self, request):
        require(request.line == "GET /federation/credentials", 404, "UnknownOperationException")
        require(request.headers.get("x-amz-sso_bearer_token") == self.access_token,
                401, "UnauthorizedException", "Session token not found or invalid")
        require(sorted(request.query) == ["account_id", "role_name"],
                400, "InvalidRequestException", "Invalid request")
        key_id, secret, session_token = role_keys(request.query["role_name"])
        expiration = int(time.time() + 3600) * 1000 if self.expiration is None else self.expiration
        return answer(200, {"roleCredentials": {
            "accessKeyId": key_id, "secretAccessKey": secret, "sessionToken": session_token,
            "expiration": expiration}})


class Oidc(Fake):
    """IAM Identity Center's OIDC. Answers access-token-1, -2, …; a rotated token works once."""

    client = ("client-id", "client-secret")
    refresh_token = "refresh-token"
    rotate = True  # whether each answer brings a new refresh token
    expires_in = 28800
    issued = 0

    def refusal(self, status, code, message):
        kind = code.title().replace("_", "") + "Exception"
        return answer(status, {"error": code}, [("x-amzn-ErrorType", kind), REQUEST_ID])

    def reply(self, request):
        require(request.line == "POST /token", 404, "not_found")
        require(request.content_type == "application/json", 400, "invalid_request")
        require("Authorization" not in request.headers, 400, "invalid_request")
        given = request.json
        client = (given.get("clientId"), given.get("clientSecret"))
        require(given.get("grantType") == "refresh_token", 400, "unsupported_grant_type")
        require(client == self.client, 401, "invalid_client")
        require(given.get("refreshToken") == self.refresh_token, 400, "invalid_grant")
        self.issued += 1
        token = {"accessToken": f"access-token-{self.issued}", "expiresIn": self.expires_in,
                 "tokenType": "Bearer"}
        if self.rotate:
            token["refreshToken"] = self.refresh_token = f"refresh-token-{self.issued}"
        return answer(200, token)


def _key_document(role, expiration):
    key_id, secret, session_token = role_keys(role)
    return {"AccessKeyId": key_id, "SecretAccessKey": secret, "Token": session_token,
            "Expiration": expiration or _from_now(3600)}


class Container(Fake):
    """The credential endpoint of ECS, EKS Pod Identity and Lambda SnapStart."""

    path = "/credentials"
    authorization = None  # what the header must say; None: there must be none
    role = "container"
    expiration = None

    def reply(self, request):
        require((request.method, request.path) == ("GET", self.path), 404, "NotFound")
        given = request.headers.get("Authorization")
        require(given == self.authorization, 403 if given else 401, "Unauthorized", "Unauthorized")
        return answer(200, _key_document(self.role, self.expiration))


class Imds(Fake):
    """EC2 instance metadata, version 2 alone."""

    role = "instance"
    region = "us-east-1"
    code = "Success"  # of the role's document
    expiration = None
    tokens = ()

    def refusal(self, status, code, message):
        return html(status, code)

    def reply(self, request):
        if request.method == "PUT" and request.path == "/latest/api/token":
            name = "x-aws-ec2-metadata-token-ttl-seconds"
            seconds = request.headers.get(name, "")
            require(seconds.isdigit() and 1 <= int(seconds) <= 21600, 400, "Bad Request")
            self.tokens += (f"metadata-token-{len(self.tokens) + 1}==",)
            return answer(200, self.tokens[-1], [(name, seconds)])
        require(request.method == "GET", 405, "Method Not Allowed")
        require(request.headers.get("x-aws-ec2-metadata-token") in self.tokens, 401, "Unauthorized")
        roles = "/latest/meta-data/iam/security-credentials/"
        documents = {roles: self.role, "/latest/meta-data/placement/region": self.region}
        if self.role:
            keys = _key_document(self.role, self.expiration) if self.code == "Success" else {}
            documents[roles + self.role] = json.dumps({"Code": self.code, **keys})
        text = documents.get(request.path)
        require(text, 404, "Not Found")
        return answer(200, text, [("Content-Type", "text/plain")])


# What Bedrock says with a 403, word for word.
NOT_VALID = "Authentication failed: Please make sure your API Key is valid."
EXPIRED = "Bearer Token has expired"
BAD_PREFIX = "Invalid API Key format: Must start with pre-defined prefix"
NOT_ALLOWED = ("User: arn:aws:iam::123456789012:user/dev is not authorized to perform: "
               "bedrock:CallWithBearerToken")
DEAD_CREDENTIALS = "The security token included in the request is expired"


def frame(headers, payload=b""):
    """One event-stream message. A header's value is text, or bytes with their type byte in front.

    https://smithy.io/2.0/aws/amazon-eventstream.html
    """
    block = b""
    for name, value in headers:
        if isinstance(value, str):
            value = b"\x07" + struct.pack(">H", len(value.encode())) + value.encode()
        block += struct.pack(">B", len(name.encode())) + name.encode() + value
    lengths = struct.pack(">II", 16 + len(block) + len(payload), len(block))
    message = lengths + struct.pack(">I", zlib.crc32(lengths)) + block + payload
    return message + struct.pack(">I", zlib.crc32(message))


def event(kind, payload):
    return frame([(":event-type", kind), (":content-type", "application/json"),
                  (":message-type", "event")], json.dumps(payload).encode())


ANSWER = {
    "output": {"message": {"role": "assistant", "content": [{"text": "Hello, world"}]}},
    "stopReason": "end_turn",
    "usage": {"inputTokens": 1, "outputTokens": 2, "totalTokens": 3},
    "metrics": {"latencyMs": 1},
}
EVENTS = [
    ("messageStart", {"role": "assistant"}),
    ("contentBlockDelta", {"delta": {"text": "Hello, "}, "contentBlockIndex": 0}),
    ("contentBlockDelta", {"delta": {"text": "world"}, "contentBlockIndex": 0}),
    ("contentBlockStop", {"contentBlockIndex": 0}),
    ("messageStop", {"stopReason": "end_turn"}),
    ("metadata", {"usage": ANSWER["usage"], "metrics": ANSWER["metrics"]}),
]


class BedrockRuntime(Fake):
    """Converse, ConverseStream, and the control plane's list of models."""

    token = None  # the one it takes; None: any
    denial = None  # the text of a 403 for everybody
    body = ANSWER
    parts = [event(*each) for each in EVENTS]  # of `stream`, like `chunked`
    chunked = True

    def refusal(self, status, code, message):
        # Spelled as Bedrock does when it turns a caller away; its operations say "message".
        name = "Message" if status == 403 else "message"
        return answer(status, {name: message}, [
            ("x-amzn-ErrorType", code + ":http://internal.amazon.com/coral/"), REQUEST_ID])

    def reply(self, request):
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        known = token.startswith(("bedrock-api-key-", "ABSK"))
        for fulfilled, message in (
            (scheme == "Bearer" and token, "Missing Authentication Token"),
            (self.token in (None, token), NOT_VALID if known else BAD_PREFIX),
            (self.denial is None, self.denial),
        ):
            require(fulfilled, 403, "AccessDeniedException", message)
        if request.line == "GET /foundation-models":
            return answer(200, {"modelSummaries": []}, [REQUEST_ID])
        found = re.fullmatch("POST /model/([A-Za-z0-9._~%-]+)/(converse|converse-stream)",
                             f"{request.method} {request.path}")
        require(found and unquote(found[1]) not in (".", ".."), 404, "UnknownOperationException")
        require(request.content_type == "application/json", 415, "ValidationException")
        require(isinstance(request.json.get("messages"), list), 400, "ValidationException")
        if found[2] == "converse":
            return answer(200, self.body, [REQUEST_ID])
        return stream(self.parts, self.chunked)


class Proxy(Fake):
    """An HTTP proxy that forwards to this machine alone and tunnels nowhere."""

    hop_by_hop = {"connection", "proxy-connection", "proxy-authorization", "transfer-encoding",
                  "content-length"}

    def reply(self, request):
        require(request.method != "CONNECT", 403, "Forbidden")
        target = urlsplit(request.path)
        require(target.scheme == "http" and target.hostname == "127.0.0.1", 502, "Bad Gateway")
        link = http.client.HTTPConnection(target.hostname, target.port, timeout=10)
        try:
            path = request.path.partition(target.netloc)[2] or "/"
            link.request(request.method, path, request.body, self._end_to_end(request.headers))
            response = link.getresponse()
            return answer(response.status, response.read(),
                          self._end_to_end(response.headers).items())
        finally:
            link.close()

    def _end_to_end(self, headers):
        return {name: value for name, value in headers.items()
                if name.lower() not in self.hop_by_hop}


class LateContainer(Container):
    """An agent that comes up a second after the process: until then its port refuses."""

    def __enter__(self):
        self._server = _Server(("127.0.0.1", 0), _Handler, bind_and_activate=False)
        self._server.server_bind()
        self._server.fake = self
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._listens = False
        self._timer = threading.Timer(1, self._listen)
        self._timer.start()
        return self

    def _listen(self):
        self._listens = True
        self._server.server_activate()
        threading.Thread(target=self._server.serve_forever, args=(0.005,), daemon=True).start()

    def __exit__(self, kind, error, trace):
        self._timer.cancel()
        self._timer.join()
        if self._listens:
            super().__exit__(kind, error, trace)
        else:
            self._server.server_close()


class Endless:
    """A server that never finishes what it says, and notes which side gave up.

    It reads the head of a request, or a client's TLS greeting, and sends `first`, then `piece` again
    and again, `every` seconds apart. With a `pem` it is a proxy that tunnels to itself, and says all
    that inside TLS. It stops by its own clock: a client that keeps to its time limit has left before.
    """

    bound = 20  # seconds

    def __init__(self, first, piece, every=0.01, pem=None):
        self.first, self.piece, self.every = first, piece, every
        self.context = None
        if pem:
            self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self.context.load_cert_chain(pem)
        self._ends = []
        self._threads = []
        self._lock = threading.Lock()
        self._accepted = threading.Event()

    def __enter__(self):
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, kind, error, trace):
        # Closing alone does not wake a thread that waits in accept.
        with socket.create_connection(self._listener.getsockname(), 5):
            self._listener.close()

    def ends(self):
        """How each connection ended: "client left" or "bound reached"."""
        self._accepted.wait(self.bound)  # a client may have come and left before we looked
        with self._lock:
            threads = list(self._threads)
        for thread in threads:
            thread.join(2 * self.bound)
        return list(self._ends)

    def _accept(self):
        while True:
            try:
                link, _ = self._listener.accept()
            except OSError:
                return
            thread = threading.Thread(target=self._serve, args=(link,), daemon=True)
            with self._lock:
                thread.start()
                self._threads.append(thread)
            self._accepted.set()

    def _serve(self, link):
        try:
            with link:
                self._ends.append(self._talk(link, time.monotonic() + self.bound))
        except socket.timeout:  # an OSError of its own before Python 3.10
            self._ends.append("bound reached")
        except OSError:
            self._ends.append("client left")

    def _talk(self, link, deadline):
        link.settimeout(self.bound)
        self._read_head(link)
        if self.context:
            link.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
            link = self.context.wrap_socket(link, server_side=True)
            self._read_head(link)
        link.sendall(self.first)
        while time.monotonic() < deadline:
            link.sendall(self.piece)
            if self.every and self._has_left(link):
                return "client left"
        return "bound reached"

    def _read_head(self, link):
        head = b""
        while b"\r\n\r\n" not in head and head[:1] != b"\x16":
            more = link.recv(65536)
            if not more:
                raise ConnectionResetError
            head += more

    def _has_left(self, link):
        link.settimeout(self.every)
        try:
            return link.recv(65536) == b""
        except socket.timeout:
            return False
        finally:
            link.settimeout(self.bound)
