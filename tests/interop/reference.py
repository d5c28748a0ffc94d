"""What AWS's own code says of the same request: botocore's signer, and AWS's token generator."""

import base64
import contextlib
import hashlib
import os
import re
import time
from datetime import datetime, timedelta
from pathlib import Path
from urllib.parse import parse_qsl

import aws_bedrock_token_generator
import botocore.auth
import botocore.credentials
import pytest
from botocore.awsrequest import AWSRequest

from tests import fake_aws
from tests.fake_aws import answer, require


@contextlib.contextmanager
def botocore_at(now):
    """botocore's clock stands still; it takes no time as an argument."""
    clock = botocore.auth.get_current_datetime
    botocore.auth.get_current_datetime = lambda: now.replace(tzinfo=None)
    try:
        yield
    finally:
        botocore.auth.get_current_datetime = clock


def botocore_keys(credentials):
    return botocore.credentials.Credentials(
        credentials.access_key_id, credentials.secret_access_key, credentials.session_token)


class Loader:
    """A credential provider as AWS's generator takes one."""

    def __init__(self, credentials):
        self._credentials = credentials

    def load(self):
        return botocore_keys(self._credentials)


def aws_token(credentials, region, expires_in, now):
    with botocore_at(now):
        return aws_bedrock_token_generator.provide_token(
            region, Loader(credentials), timedelta(seconds=expires_in))


def _request(method, host, path, query, headers):
    values = {}
    for name, value in query:
        values.setdefault(name, []).append(value)
    request = AWSRequest(method, f"https://{host}{path}", params=values)
    for name, value in [("host", host), *headers]:
        request.headers.add_header(name, value)
    return request


def botocore_presigned(
    method, host, path, query, headers, body, *, service, region, credentials, expires_in, now
):
    """The URL. Values of one name have to stand together in the query: botocore joins them."""
    request = _request(method, host, path, query, headers)
    if body is None:
        request.context["payload_signing_enabled"] = False
    elif body:
        # botocore would make parameters of a body itself.
        raise ValueError("give the hash in the header x-amz-content-sha256")
    query_auth = botocore.auth.SigV4QueryAuth
    if service == "s3":
        query_auth = botocore.auth.S3SigV4QueryAuth
    with botocore_at(now):
        query_auth(botocore_keys(credentials), service, region, expires_in).add_auth(request)
    return request.url


def botocore_authorized(
    method, host, path, query, headers, body, *, service, region, credentials, now
):
    """The headers that botocore adds, by their lower-case names."""
    request = _request(method, host, path, query, headers)
    request.params = list(query)  # which header signing takes in any order
    request.data = body
    given = {"host", *(name.lower() for name, _ in headers)}
    with botocore_at(now):
        signer = botocore.auth.SigV4Auth(botocore_keys(credentials), service, region)
        signer.add_auth(request)
    return {name.lower(): value for name, value in request.headers.items()
            if name.lower() not in given}


def sha256(body):
    return hashlib.sha256(body).hexdigest()


def check_bearer(token, keys, region, now, service="bedrock"):
    """The access key id of a token that the service would take; Refused for any other.

    Read apart here, and signed again by botocore. `keys` are {access key id: (secret, session
    token or None)}, `now` is in seconds since 1970.
    """
    prefix, _, payload = token.rpartition("-")
    require(prefix == f"{service}-api-key", 403, "AccessDeniedException", fake_aws.BAD_PREFIX)
    url = base64.b64decode(payload, validate=True).decode("ascii")
    found = re.fullmatch("(.+)&X-Amz-Signature=([0-9a-f]{64})&Version=1", url)
    require(found, 403, "AccessDeniedException", fake_aws.NOT_VALID)
    unsigned, signature = found.groups()
    said = dict(parse_qsl(unsigned.partition("?")[2], strict_parsing=True))
    key_id, scope = said["X-Amz-Credential"].split("/", 1)
    secret, session_token = keys.get(key_id, (None, None))
    issued = datetime.strptime(said["X-Amz-Date"] + "+0000", "%Y%m%dT%H%M%SZ%z").timestamp()
    lifetime = int(said["X-Amz-Expires"])

    for fulfilled, message in (
        (unsigned.startswith(f"{service}.amazonaws.com/?"), fake_aws.NOT_VALID),
        (said["Action"] == "CallWithBearerToken", fake_aws.NOT_VALID),
        (said["X-Amz-SignedHeaders"] == "host", fake_aws.NOT_VALID),
        (scope == f"{said['X-Amz-Date'][:8]}/{region}/{service}/aws4_request", fake_aws.NOT_VALID),
        (secret is not None, fake_aws.NOT_VALID),
        (said.get("X-Amz-Security-Token") == session_token, fake_aws.NOT_VALID),
        (1 <= lifetime <= 43200 and issued <= now + 300, fake_aws.NOT_VALID),
        (now < issued + lifetime, fake_aws.EXPIRED),
    ):
        require(fulfilled, 403, "AccessDeniedException", message)

    host = f"{service}.amazonaws.com"
    request = AWSRequest("POST", f"https://{unsigned}", headers={"host": host})
    request.context["timestamp"] = said["X-Amz-Date"]
    signer = botocore.auth.SigV4QueryAuth(
        botocore.credentials.Credentials(key_id, secret, session_token), service, region)
    wanted = signer.signature(
        signer.string_to_sign(request, signer.canonical_request(request)), request)
    require(signature == wanted, 403, "AccessDeniedException", fake_aws.NOT_VALID)
    return key_id


MESSAGES_ANSWER = {
    "id": "msg_1", "type": "message", "role": "assistant", "model": "claude",
    "content": [{"type": "text", "text": "Hello, world"}],
    "stop_reason": "end_turn", "stop_sequence": None,
    "usage": {"input_tokens": 1, "output_tokens": 2},
}
COMPLETIONS_ANSWER = {
    "id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": "gpt",
    "choices": [{"index": 0, "finish_reason": "stop", "logprobs": None,
                 "message": {"role": "assistant", "content": "Hello, world", "refusal": None}}],
    "usage": {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3},
}


class Bedrock(fake_aws.BedrockRuntime):
    """Bedrock Runtime at its own address, reached as the proxy of this machine.

    Beside Converse it has Anthropic's messages (InvokeModel) and OpenAI's chat completions. It
    takes only tokens that check_bearer does, and keeps whose they were in `callers`.
    """

    pem = None  # path of a file with fake_aws.PEM
    keys = {}
    region = "us-east-1"
    clock = staticmethod(time.time)

    def __enter__(self):
        self.callers = []
        return super().__enter__()

    def reply(self, request):
        if request.method == "CONNECT":
            host = f"bedrock-runtime.{self.region}.amazonaws.com:443"
            require(request.path == host, 403, "Forbidden", request.path)
            return fake_aws.tunnel(self.pem)
        token = request.headers.get("Authorization", "").partition(" ")[2]
        self.callers.append(check_bearer(token, self.keys, self.region, self.clock()))
        if request.line == "POST /openai/v1/chat/completions":
            require(isinstance(request.json.get("messages"), list), 400, "ValidationException")
            return answer(200, COMPLETIONS_ANSWER)
        if re.fullmatch("POST /model/[^/]+/invoke", request.line):
            require("anthropic_version" in request.json, 400, "ValidationException", "version")
            return answer(200, MESSAGES_ANSWER)
        return super().reply(request)

    def calls(self):
        """Method, host, path and JSON body of each request that came through the tunnels."""
        return [(request.method, request.headers["Host"], request.path, request.json)
                for request in self.requests if request.method != "CONNECT"]


def npm_package(name):
    """The folder of an npm package, in the node_modules that BEDROCK_TOKEN_NODE_MODULES names."""
    modules = os.environ.get("BEDROCK_TOKEN_NODE_MODULES")
    folder = Path(modules or "", name)
    if modules and folder.is_dir():
        return folder
    if os.environ.get("BEDROCK_TOKEN_INTEROP") == "required":
        pytest.fail(f"not installed: {name}, in the folder of BEDROCK_TOKEN_NODE_MODULES")
    pytest.skip(f"not installed: {name}")
