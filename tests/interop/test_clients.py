"""The packages that take the token, against a Bedrock that has botocore sign each token again.

They call Bedrock's own address, through a proxy that is the fake, so that nothing about them is
set up for a test: HTTPS_PROXY and the certificate are in the environment.
"""

import asyncio
import os
import re
import time
from base64 import b64decode, b64encode
from pathlib import Path

import anthropic
import boto3
import botocore.exceptions
import openai
import pytest
from langchain_aws import ChatBedrockConverse

import bedrock_token as bt
from tests import fake_aws
from tests.fake_aws import answer
from tests.helpers import NOON, SECRET, cases
from tests.interop.reference import Bedrock, aws_token, check_bearer

OPENAI_URL = "https://bedrock-runtime.us-east-1.amazonaws.com/openai/v1"
KEYS = {"AKIAONE": (SECRET, None), "ASIATWO": ("other/" + SECRET, "session/+=")}


class Scene:
    """A Bedrock, and a provider with credentials from the environment, on one clock."""

    def __init__(self, server, monkeypatch):
        self.server = server
        self.now = time.time()
        server.clock = lambda: self.now
        self.provider = bt.TokenProvider(clock=server.clock)
        self._monkeypatch = monkeypatch
        self._be("AKIAONE")

    def _be(self, key_id):
        secret, session_token = KEYS[key_id]
        self._monkeypatch.setenv("AWS_ACCESS_KEY_ID", key_id)
        self._monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", secret)
        self._monkeypatch.setenv("AWS_SESSION_TOKEN", session_token or "")

    def rotate(self):
        """Other credentials, and the time after which the provider sees them."""
        self._be("ASIATWO")
        self.now += 301


@pytest.fixture
def scene(tmp_path, monkeypatch):
    pem = tmp_path / "pem"
    pem.write_text(fake_aws.PEM)
    with Bedrock(pem=str(pem), keys=KEYS) as server:
        for name, value in {
            "HTTPS_PROXY": server.url, "AWS_CA_BUNDLE": pem, "SSL_CERT_FILE": pem,
            "AWS_REGION": "us-east-1", "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        }.items():
            monkeypatch.setenv(name, str(value))
        # Imported here, since it would fetch a list of prices, were it not for that variable; and
        # it keeps its connections, those to the server of another test too.
        import litellm
        litellm.in_memory_llm_clients_cache.flush_cache()
        yield Scene(server, monkeypatch)


# Each makes a client, and gives a function that asks it once and returns the text of the answer.

HELLO = [{"role": "user", "content": "Hello"}]


def boto3_client(provider, prepare=lambda client: None):
    os.environ["AWS_BEARER_TOKEN_BEDROCK"] = provider()
    client = boto3.client("bedrock-runtime", region_name="us-east-1")
    prepare(client)
    messages = [{"role": "user", "content": [{"text": "Hello"}]}]

    def ask():
        # Too late for this client.
        os.environ["AWS_BEARER_TOKEN_BEDROCK"] = provider()
        said = client.converse(modelId="us.amazon.nova-micro-v1:0", messages=messages)
        return said["output"]["message"]["content"][0]["text"]
    return ask


def boto3_client_with_a_handler(provider):
    def renew(request, **_):
        request.headers["Authorization"] = f"Bearer {provider()}"

    return boto3_client(provider, lambda client: client.meta.events.register(
        "before-send.bedrock-runtime", renew))


def openai_client(provider):
    client = openai.OpenAI(api_key=provider, base_url=OPENAI_URL)

    def ask():
        said = client.chat.completions.create(model="openai.gpt-oss-20b-1:0", messages=HELLO)
        return said.choices[0].message.content
    return ask


def anthropic_client(provider):
    client = anthropic.AnthropicBedrock(api_key=provider(), aws_region="us-east-1")

    def ask():
        client.api_key = provider()
        said = client.messages.create(
            model="us.anthropic.claude-haiku-4-5-20251001-v1:0", max_tokens=9, messages=HELLO)
        return said.content[0].text
    return ask


def litellm_function(provider):
    import litellm

    def ask():
        said = litellm.completion(
            model="bedrock/us.amazon.nova-micro-v1:0", messages=HELLO, api_key=provider())
        return said.choices[0].message.content
    return ask


def litellm_with_the_variable(provider):
    import litellm

    def ask():
        os.environ["AWS_BEARER_TOKEN_BEDROCK"] = provider()
        said = litellm.completion(model="bedrock/us.amazon.nova-micro-v1:0", messages=HELLO)
        return said.choices[0].message.content
    return ask


def langchain_model(provider):
    model = ChatBedrockConverse(
        model="us.amazon.nova-micro-v1:0", region_name="us-east-1", api_key=provider())
    return lambda: model.invoke("Hello").text


BOTH = ["AKIAONE", "ASIATWO"]
CLIENTS = [
    # The client, and who calls before and after the credentials changed.
    ("boto3 keeps the token it was made with", boto3_client, ["AKIAONE", "AKIAONE"]),
    ("boto3 with a handler", boto3_client_with_a_handler, BOTH),
    ("openai", openai_client, BOTH),
    ("anthropic", anthropic_client, BOTH),
    ("litellm", litellm_function, BOTH),
    ("litellm with the variable", litellm_with_the_variable, BOTH),
    ("langchain keeps the token it was made with", langchain_model, ["AKIAONE", "AKIAONE"]),
]


def forget_the_variable(monkeypatch):
    """What the clients or the manual put there goes away with the test."""
    monkeypatch.setenv("AWS_BEARER_TOKEN_BEDROCK", "")
    monkeypatch.delenv("AWS_BEARER_TOKEN_BEDROCK")


@pytest.mark.parametrize("make, callers", cases(CLIENTS))
def test_a_client_takes_the_token(make, callers, scene, monkeypatch):
    forget_the_variable(monkeypatch)
    ask = make(scene.provider)
    assert ask() == "Hello, world"
    scene.rotate()
    assert ask() == "Hello, world"
    assert scene.server.callers == callers


def test_openai_asks_for_the_token_at_every_attempt(scene):
    ask = openai_client(scene.provider)

    def rotate_and_fail(handler):
        scene.rotate()
        answer(503, headers=[("retry-after-ms", "1")])(handler)

    scene.server.faults = [None, rotate_and_fail]  # the first opens the tunnel
    assert ask() == "Hello, world"
    assert scene.server.callers == ["ASIATWO"]


def test_a_boto3_client_does_not_outlive_its_token(scene):
    ask = boto3_client(scene.provider)
    scene.now += 12 * 3600
    with pytest.raises(botocore.exceptions.ClientError, match=fake_aws.EXPIRED):
        ask()


def openai_async_client(provider):
    client = openai.AsyncOpenAI(api_key=provider.async_token, base_url=OPENAI_URL)

    async def ask():
        said = await client.chat.completions.create(
            model="openai.gpt-oss-20b-1:0", messages=HELLO)
        return said.choices[0].message.content
    return client, ask


def anthropic_async_client(provider):
    client = anthropic.AsyncAnthropicBedrock(aws_region="us-east-1", api_key="set below")

    async def ask():
        client.api_key = await provider.async_token()
        said = await client.messages.create(
            model="us.anthropic.claude-haiku-4-5-20251001-v1:0", max_tokens=9, messages=HELLO)
        return said.content[0].text
    return client, ask


@pytest.mark.parametrize("make", [openai_async_client, anthropic_async_client])
def test_an_asyncio_client_takes_the_token(make, scene):
    async def main():
        client, ask = make(scene.provider)
        async with client:
            yield await asyncio.gather(ask(), ask())
            scene.rotate()
            yield await asyncio.gather(ask(), ask())

    async def collect():
        return [answers async for answers in main()]

    assert asyncio.run(collect()) == [["Hello, world"] * 2] * 2
    # While one task renews the token in time, the other is given the one that is still good.
    assert scene.server.callers[:2] == ["AKIAONE"] * 2
    assert "ASIATWO" in scene.server.callers[2:]


# ---- the server itself: it takes AWS's own token, and none that was changed in any way

def changed(*changes):
    token = aws_token(bt.Credentials("ASIATWO", *KEYS["ASIATWO"]), "us-east-1", 900, NOON)
    prefix, _, payload = token.rpartition("-")
    url = b64decode(payload).decode()
    for old, new in changes:
        assert old in url
        url = url.replace(old, new)
    return f"{prefix}-{b64encode(url.encode()).decode()}"


REFUSED = [
    ("another region", [("us-east-1", "us-west-2")], 0),
    ("another service", [("%2Fbedrock%2F", "%2Fsts%2F")], 0),
    ("another action", [("CallWithBearerToken", "ListModels")], 0),
    ("another host", [("bedrock.amazonaws", "bedrock.example")], 0),
    ("another key", [("ASIATWO", "AKIAONE")], 0),
    ("unknown key", [("ASIATWO", "AKIAGONE")], 0),
    ("another session token", [("session", "sessiom")], 0),
    ("longer life", [("Expires=900", "Expires=901")], 0),
    ("another time", [("T120000Z", "T120001Z")], 0),
    ("one more parameter", [("&X-Amz-Date", "&a=b&X-Amz-Date")], 0),
    ("changed signature", [("Signature=", "Signature=0"), ("&Version", "0&Version")], 0),
    ("past its end", [], 900),
    ("from the future", [], -301),
]


def test_the_server_takes_the_token_of_the_generator():
    for age in (-300, 0, 899):
        assert check_bearer(changed(), KEYS, "us-east-1", NOON.timestamp() + age) == "ASIATWO"


@pytest.mark.parametrize("changes, age", cases(REFUSED))
def test_the_server_refuses_any_other(changes, age):
    with pytest.raises(fake_aws.Refused):
        check_bearer(changed(*changes), KEYS, "us-east-1", NOON.timestamp() + age)


# ---- the recipes of the manual

README = Path(__file__).parents[2] / "README.md"
PACKAGES = {"anthropic", "boto3", "langchain_aws", "litellm", "openai"}


def recipes():
    """The Python blocks that import one of the packages, by the heading they stand under."""
    heading, found = "", []
    blocks = re.finditer(
        r"^#+ ([^\n]*)$|^```python\n(.*?)^```$", README.read_text(encoding="utf-8"), re.M | re.S)
    for block in blocks:
        heading = block[1] or heading
        imported = set(re.findall(r"^(?:import|from) (\w+)", block[2] or "", re.M))
        if imported & PACKAGES:
            found.append(pytest.param(block[2], id=heading))
    return found


@pytest.mark.parametrize("code", recipes())
def test_a_recipe_prints_the_answer(code, scene, monkeypatch, capsys):
    forget_the_variable(monkeypatch)
    exec(compile(code, str(README), "exec"), {"__name__": "__main__"})
    assert capsys.readouterr().out == "Hello, world\n"
    assert scene.server.callers == ["AKIAONE"]


def test_every_package_has_a_recipe():
    text = "".join(recipe.values[0] for recipe in recipes())
    assert {name for name in PACKAGES if re.search(rf"^(import|from) {name}\b", text, re.M)} \
        == PACKAGES
