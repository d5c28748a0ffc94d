"""The recipes for Python go on past the end of a token, and over a token that was refused.

They call Bedrock's own address, through a proxy that is the fake, so that nothing about them is
set up for a test: HTTPS_PROXY and the certificate are in the environment. The credentials come from
the container's endpoint. Whoever called is known by the key that botocore finds in a token.
"""

import asyncio
import re
import sys
import textwrap
import time
from base64 import b64decode, b64encode

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
from tests.interop.recipes import (
    FIRST, HELLO, SECOND, Proxy, RevokingBedrock, Sessions, base_environ, block, blocks, in_two,
    project, run,
)
from tests.interop.reference import aws_token, check_bearer

KEYS = {"AKIAONE": (SECRET, None), "ASIATWO": ("other/" + SECRET, "session/+=")}
# A client, and the call that its recipe ends with.
RECIPES = {
    "boto3": "client.converse(",
    "langchain": "model.invoke(",
    "openai": "client.chat.completions.create(",
    "anthropic": "client.messages.create(",
    "litellm": "litellm.completion(",
}


class Scene:
    """A Bedrock and credentials on one clock, and a recipe that was started there."""

    def __init__(self, bedrock, sessions):
        self.now = time.time()
        self.bedrock, self.sessions = bedrock, sessions
        bedrock.clock = sessions.clock = self.clock

    def clock(self):
        return self.now

    def start(self, client):
        """The recipe's names, and a function that makes its call once more.

        The recipe runs as it is, but on our clock.
        """
        code = block("python", "^answer = " + re.escape(RECIPES[client]))
        code, changes = re.subn(r"TokenProvider\(", "TokenProvider(clock=clock, ", code)
        assert changes == 1
        once, each = in_two(code, "answer = ")
        names = {"clock": self.clock}
        exec(compile(once, "README.md", "exec"), names)
        each = compile(each, "README.md", "exec")
        return names, lambda: exec(each, names)


@pytest.fixture
def scene(tmp_path, monkeypatch):
    pem = tmp_path / "pem"
    pem.write_text(fake_aws.PEM)
    # What clients or recipes put there goes away with the test.
    monkeypatch.setenv("AWS_BEARER_TOKEN_BEDROCK", "")
    monkeypatch.delenv("AWS_BEARER_TOKEN_BEDROCK")
    with Sessions() as sessions, RevokingBedrock(sessions=sessions, pem=str(pem)) as bedrock:
        for name, value in {
            **sessions.environ, "HTTPS_PROXY": bedrock.url, "AWS_CA_BUNDLE": pem,
            "SSL_CERT_FILE": pem, "AWS_REGION": "us-east-1", "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        }.items():
            monkeypatch.setenv(name, str(value))
        # Imported here, since it would fetch a list of prices, were it not for that variable; and
        # it keeps its connections, those to the server of another test too.
        import litellm
        litellm.in_memory_llm_clients_cache.flush_cache()
        yield Scene(bedrock, sessions)


@pytest.mark.parametrize("client", RECIPES)
def test_a_recipe_goes_on_past_the_end_of_its_token(client, scene, capsys):
    scene.bedrock.lasts = 2
    _, ask = scene.start(client)
    ask()
    ask()
    scene.now += 3601  # the first session, and so the token, has ended
    ask()
    assert capsys.readouterr().out == (HELLO + "\n") * 3
    first, again, second = scene.bedrock.callers
    assert first == again != second
    assert scene.bedrock.refused == []


def test_every_block_with_a_package_is_a_recipe():
    packages = "^(import|from) (anthropic|boto3|langchain_aws|litellm|openai)\\b"
    recipes = ["^answer = " + re.escape(call) for call in RECIPES.values()]
    recipes += ["CustomLogger", "AnthropicAWS"]
    assert sorted(code for _, code in blocks("python", packages)) == sorted(
        block("python", holds) for holds in recipes)


# ---- a token that is refused before its end

@pytest.mark.parametrize("denial", [fake_aws.EXPIRED, fake_aws.NOT_VALID])
@pytest.mark.parametrize("retry_mode", ["legacy", "standard", "adaptive"])
def test_boto3_renews_it_and_goes_on(retry_mode, denial, scene, capsys, monkeypatch):
    scene.bedrock.denial_then = denial
    monkeypatch.setenv("AWS_RETRY_MODE", retry_mode)
    _, ask = scene.start("boto3")
    for _ in range(3):
        ask()
    assert capsys.readouterr().out == (HELLO + "\n") * 3
    assert scene.bedrock.callers == [FIRST, SECOND, SECOND]
    assert scene.bedrock.refused == [FIRST]


def test_langchain_does_with_the_client_of_boto3(scene):
    names, _ = scene.start("boto3")
    model = ChatBedrockConverse(model="us.amazon.nova-micro-v1:0", client=names["client"])
    assert [model.invoke("Hello").text for _ in range(3)] == [HELLO] * 3
    assert scene.bedrock.callers == [FIRST, SECOND, SECOND]
    assert scene.bedrock.refused == [FIRST]


def test_boto3_repeats_a_call_once(scene):
    _, ask = scene.start("boto3")
    scene.bedrock.denial = fake_aws.NOT_ALLOWED
    with pytest.raises(botocore.exceptions.ClientError, match="not authorized"):
        ask()
    assert len(scene.bedrock.callers) == 2


OTHERS = [
    # The client, its error, and what that says.
    ("langchain", "botocore.exceptions.ClientError", fake_aws.EXPIRED),
    ("openai", "openai.PermissionDeniedError", "403"),
    ("anthropic", "anthropic.PermissionDeniedError", fake_aws.EXPIRED),
    ("litellm", "litellm.exceptions.APIConnectionError", fake_aws.EXPIRED),
]


@pytest.mark.parametrize("client, error, message", OTHERS)
def test_others_fail_until_it_is_renewed(client, error, message, scene):
    module, _, name = error.rpartition(".")
    names, ask = scene.start(client)
    ask()
    with pytest.raises(getattr(sys.modules[module], name), match=message):
        ask()
    names["provider"].renew()
    ask()
    first, second = scene.bedrock.callers
    assert scene.bedrock.refused == [first] != [second]


# ---- asyncio, and keys that are kept

ASK = [{"role": "user", "content": "Hello"}]
CLAUDE = "us.anthropic.claude-haiku-4-5-20251001-v1:0"


def openai_client(provider):
    client = openai.AsyncOpenAI(
        api_key=provider.async_token,
        base_url="https://bedrock-runtime.us-east-1.amazonaws.com/openai/v1")

    async def ask():
        said = await client.chat.completions.create(model="openai.gpt-oss-20b-1:0", messages=ASK)
        return said.choices[0].message.content
    return client, ask


def anthropic_client(provider):
    client = anthropic.AsyncAnthropicBedrock(aws_region="us-east-1", api_key="set below")

    async def ask():
        client.api_key = await provider.async_token()
        said = await client.messages.create(model=CLAUDE, max_tokens=9, messages=ASK)
        return said.content[0].text
    return client, ask


@pytest.mark.parametrize("make", [openai_client, anthropic_client])
def test_asyncio_clients_go_on_past_the_end_of_their_token(make, scene):
    scene.bedrock.lasts = 2

    async def main():
        client, ask = make(bt.TokenProvider(clock=scene.clock))
        async with client:
            before = await asyncio.gather(ask(), ask())
            scene.now += 3601
            return before + await asyncio.gather(ask(), ask())

    assert asyncio.run(main()) == [HELLO] * 4
    assert scene.bedrock.callers == [FIRST, FIRST, SECOND, SECOND]


def test_async_openai_takes_no_plain_function(scene):
    async def main():
        provider = bt.TokenProvider(clock=scene.clock)
        async with openai.AsyncOpenAI(api_key=provider, base_url="http://127.0.0.1:9") as client:
            await client.chat.completions.create(model="any", messages=ASK)

    with pytest.raises(TypeError, match="await"):
        asyncio.run(main())


def test_boto3_keeps_the_token_of_the_environment(scene, monkeypatch):
    provider = bt.TokenProvider(clock=scene.clock)
    monkeypatch.setenv("AWS_BEARER_TOKEN_BEDROCK", provider())
    client = boto3.client("bedrock-runtime", region_name="us-east-1")
    scene.now += 3601
    monkeypatch.setenv("AWS_BEARER_TOKEN_BEDROCK", provider())
    with pytest.raises(botocore.exceptions.ClientError, match=fake_aws.DEAD_CREDENTIALS):
        client.converse(modelId="any", messages=[{"role": "user", "content": [{"text": "Hello"}]}])


def test_langchain_keeps_its_api_key(scene):
    provider = bt.TokenProvider(clock=scene.clock)
    model = ChatBedrockConverse(
        model="us.amazon.nova-micro-v1:0", region_name="us-east-1", api_key=provider())
    assert model.invoke("Hello").text == HELLO
    with pytest.raises(botocore.exceptions.ClientError, match=fake_aws.EXPIRED):
        model.invoke("Hello")


def test_openai_asks_for_the_token_at_every_attempt(scene):
    _, ask = scene.start("openai")

    def end_and_fail(handler):
        scene.now += 3601
        answer(503, headers=[("retry-after-ms", "1")])(handler)

    scene.bedrock.faults = [None, end_and_fail]  # the first opens the tunnel
    ask()
    assert scene.bedrock.callers == [SECOND]


# ---- fixed keys, through the proxy

FIXED = [
    ("openai", """
        import openai
        client = openai.OpenAI()
        """, """client.chat.completions.create(
            model="any", messages=[{"role": "user", "content": "Hi"}]).choices[0].message.content""",
     lambda proxy: {name: proxy.variables[name] for name in ("OPENAI_BASE_URL", "OPENAI_API_KEY")}),
    ("boto3", """
        import boto3
        client = boto3.client("bedrock-runtime")
        """, """client.converse(modelId="any", messages=[
            {"role": "user", "content": [{"text": "Hi"}]}
        ])["output"]["message"]["content"][0]["text"]""", Proxy.sdk_environ.fget),
    ("anthropic", """
        import anthropic
        client = anthropic.AnthropicBedrock()
        """, """client.messages.create(model="any", max_tokens=9, messages=[
            {"role": "user", "content": "Hi"}]).content[0].text""", Proxy.anthropic_environ.fget),
]


@pytest.mark.parametrize("prepare, call, variables", cases(FIXED))
def test_a_fixed_key_does_through_the_proxy(prepare, call, variables, tmp_path):
    code = textwrap.dedent(prepare) + f"for _ in range(3):\n    print({call})\n"
    with Sessions() as sessions, RevokingBedrock(sessions=sessions) as bedrock:
        folder = project(tmp_path / "project")
        environ = base_environ(tmp_path, sessions.environ, bedrock.environ)
        with Proxy(folder, environ) as proxy:
            done = run([sys.executable, "-c", code], tmp_path,
                       base_environ(tmp_path, variables(proxy)))
        assert (done.returncode, done.stdout) == (0, (HELLO + "\n") * 3), done.stderr
        assert bedrock.callers == [FIRST, SECOND, SECOND]
        assert bedrock.refused == [FIRST]


def test_the_proxy_keeps_the_key_that_it_is_given(tmp_path):
    with Sessions() as sessions, RevokingBedrock(sessions=sessions) as bedrock:
        environ = base_environ(tmp_path, sessions.environ, bedrock.environ,
                               {"BEDROCK_TOKEN_PROXY_KEY": "a-key-of-our-own-0123"})
        with Proxy(project(tmp_path / "project"), environ) as proxy:
            assert proxy.key == proxy.variables["OPENAI_API_KEY"] == "a-key-of-our-own-0123"


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
