"""Claude Platform on AWS: the tokens of AWS's own package for it, and Anthropic's client with ours."""

import asyncio
import itertools
import os
import subprocess
import sys
import time
from datetime import datetime, timedelta, timezone
from pathlib import Path

import anthropic
import pytest
import token_generator_for_aws_external_anthropic as generator

import bedrock_token as bt
from tests.fake_aws import Fake, answer, require
from tests.helpers import NOON, SECRET, cases
from tests.interop.recipes import block
from tests.interop.reference import MESSAGES_ANSWER, botocore_at, botocore_keys, check_bearer

SERVICE = "aws-external-anthropic"
FOLDER = Path(bt.__file__).parent
CREDENTIALS = {
    "static": bt.Credentials("AKIAIOSFODNN7EXAMPLE", SECRET),
    "temporary": bt.Credentials("ASIAIOSFODNN7EXAMPLE", SECRET, "IQoJb3JpZ2luX2VjEXAMPLETOKEN=="),
    "awkward": bt.Credentials("A" * 16, "+/=%&~?#", "".join(map(chr, range(33, 127)))),
    "long": bt.Credentials("ASIAIOSFODNN7EXAMPLE", "s" * 200, "abc+/=%2F" * 170),
}
REGIONS = ["us-east-1", "eu-central-1", "ap-southeast-4", "us-gov-west-1", "cn-north-1"]
MOMENTS = [NOON, datetime(2024, 2, 29, 23, 59, 59, 999999, timezone.utc)]
LIFETIMES = [1, 59, 3600, 43199, 43200]


def aws_token(credentials, region, seconds, now):
    with botocore_at(now):
        return generator.get_token(credentials=botocore_keys(credentials), region=region,
                                   expiry=timedelta(seconds=seconds))


@pytest.mark.parametrize("region", REGIONS)
@pytest.mark.parametrize("credentials", CREDENTIALS.values(), ids=CREDENTIALS)
def test_a_token_is_that_of_the_generator(credentials, region):
    for now, seconds in itertools.product(MOMENTS, LIFETIMES):
        token = bt.get_token(credentials, region, seconds, service=SERVICE, now=now)
        assert str(token) == aws_token(credentials, region, seconds, now)
        assert (token.service, token.region) == (SERVICE, region)


@pytest.mark.parametrize("credentials", CREDENTIALS.values(), ids=CREDENTIALS)
def test_the_token_of_the_generator_is_decoded(credentials):
    facts = bt.decode_token(aws_token(credentials, "us-west-2", 3600, NOON))
    wanted = {
        "kind": "short-term", "service": SERVICE, "region": "us-west-2", "issued_at": NOON,
        "access_key_id": credentials.access_key_id, "expires_at": NOON + timedelta(hours=1),
        "temporary": credentials.session_token is not None,
    }
    assert {name: facts[name] for name in wanted} == wanted


# ---- Anthropic's client

KEYS = {"AKIAONE": (SECRET, None), "ASIATWO": ("other/" + SECRET, "session/+=")}
WORKSPACE = "wrkspc_01"
QUESTION = {"model": "claude-haiku-4-5", "max_tokens": 9,
            "messages": [{"role": "user", "content": "Hello"}]}


class Platform(Fake):
    """Anthropic's Messages on AWS. It has botocore sign each token again; `callers` are whose."""

    clock = staticmethod(time.time)

    def __enter__(self):
        self.callers = []
        return super().__enter__()

    def reply(self, request):
        require(request.line == "POST /v1/messages", 404, "not_found_error")
        require(request.headers.get("anthropic-workspace-id") == WORKSPACE,
                401, "authentication_error")
        require("messages" in request.json, 400, "invalid_request_error")
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        require(scheme == "Bearer", 401, "authentication_error")
        self.callers.append(check_bearer(token, KEYS, "us-west-2", self.clock(), SERVICE))
        return answer(200, MESSAGES_ANSWER)


def be(monkeypatch, key_id):
    secret, session_token = KEYS[key_id]
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", key_id)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", secret)
    monkeypatch.setenv("AWS_SESSION_TOKEN", session_token or "")


@pytest.fixture
def platform(monkeypatch):
    for name in list(os.environ):
        if name.startswith("ANTHROPIC_"):
            monkeypatch.delenv(name)
    with Platform() as server:
        monkeypatch.setenv("AWS_REGION", "us-west-2")
        monkeypatch.setenv("ANTHROPIC_AWS_BASE_URL", server.url)
        monkeypatch.setenv("ANTHROPIC_AWS_WORKSPACE_ID", WORKSPACE)
        be(monkeypatch, "AKIAONE")
        yield server


def test_the_client_takes_the_token(platform):
    client = anthropic.AnthropicAWS(api_key=bt.get_token(service=SERVICE))
    assert client.messages.create(**QUESTION).content[0].text == "Hello, world"
    assert platform.callers == ["AKIAONE"]


def test_the_client_takes_up_a_new_token(platform, monkeypatch):
    now = time.time()
    platform.clock = lambda: now
    provider = bt.TokenProvider(service=SERVICE, clock=platform.clock)
    client = anthropic.AnthropicAWS(api_key=provider())
    for key_id in ("AKIAONE", "ASIATWO"):
        be(monkeypatch, key_id)
        client.api_key = provider()
        assert client.messages.create(**QUESTION).content[0].text == "Hello, world"
        now += 301  # then the provider looks whether the credentials have changed
    assert platform.callers == ["AKIAONE", "ASIATWO"]


def test_the_recipe_of_the_manual(platform, capsys):
    exec(compile(block("python", "AnthropicAWS"), "README.md", "exec"), {})
    assert capsys.readouterr().out == "Hello, world\n"
    assert platform.callers == ["AKIAONE"]


def test_the_asyncio_client_takes_the_token(platform):
    async def ask():
        provider = bt.TokenProvider(service=SERVICE)
        async with anthropic.AsyncAnthropicAWS(api_key=await provider.async_token()) as client:
            client.api_key = await provider.async_token()
            return await client.messages.create(**QUESTION)

    assert asyncio.run(ask()).content[0].text == "Hello, world"
    assert platform.callers == ["AKIAONE"]


ASK = f"""
import anthropic
print(anthropic.AnthropicAWS().messages.create(**{QUESTION!r}).content[0].text)
"""


def test_exec_gives_the_client_its_variable(platform):
    command = [sys.executable, "-m", "bedrock_token", "exec", "--only-bedrock",
               "--service", SERVICE, "--", sys.executable, "-c", ASK]
    done = subprocess.run(command, cwd=FOLDER, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "Hello, world\n"), done.stderr
    assert platform.callers == ["AKIAONE"]


def test_a_token_for_bedrock_is_refused(platform):
    client = anthropic.AnthropicAWS(api_key=bt.get_token(), max_retries=0)
    with pytest.raises(anthropic.PermissionDeniedError):
        client.messages.create(**QUESTION)


ADDRESSES = [
    ("of the region", {"aws_region": "eu-west-1"}, "https://aws-external-anthropic.eu-west-1.api.aws"),
    ("of the environment's region", {}, "https://aws-external-anthropic.us-west-2.api.aws"),
]


@pytest.mark.parametrize("given, address", cases(ADDRESSES))
def test_the_address_of_the_service(given, address, platform, monkeypatch):
    monkeypatch.delenv("ANTHROPIC_AWS_BASE_URL")
    client = anthropic.AnthropicAWS(api_key="key", **given)
    assert str(client.base_url).rstrip("/") == address
