"""`call` and `call_stream` send what boto3 and the SDKs of OpenAI and Anthropic send for the same call."""

import json

import anthropic
import boto3
import botocore
import openai
import pytest
from botocore.config import Config

import bedrock_token as bt
from tests import fake_aws
from tests.fake_aws import answer
from tests.helpers import MESSAGES, SECRET, cases

NOVA = "us.amazon.nova-micro-v1:0"
PROFILE = "arn:aws:bedrock:us-east-1:123456789012:application-inference-profile/abc123def456"
GUARDRAIL = "arn:aws:bedrock:us-east-1:123456789012:guardrail/gr12345"
CLAUDE = "us.anthropic.claude-haiku-4-5-20251001-v1:0"
TEXT = "\u4e16\u754c \U0001f600 \"quoted\" \\ \n\t \u2028"
HELLO = [{"role": "user", "content": TEXT}]
SESSION = boto3.Session(region_name="us-east-1")  # it keeps what it has read about a service
UNSIGNED = Config(signature_version=botocore.UNSIGNED)
ENDPOINTS = ("bedrock-runtime", "bedrock", "bedrock-mantle")


def server_sent(*documents):
    return b"".join(b"data: %s\n\n" % json.dumps(each).encode() for each in documents)


STREAMS = {
    "converse-stream": b"".join(fake_aws.event(*each) for each in fake_aws.EVENTS),
    "invoke-with-response-stream": fake_aws.event("chunk", {"bytes": "eyJ0eXBlIjoibWVzc2FnZV9zdG9wIn0="}),
    "completions": server_sent({"object": "chat.completion.chunk", "choices": []}) + b"data: [DONE]\n\n",
    "responses": server_sent({"type": "response.completed", "response": {"id": "resp_1"}}),
    "messages": server_sent({"type": "message_stop"}),
}


class Anything(fake_aws.Fake):
    """Every endpoint at one address, its name in front of the path: it takes whatever is sent."""

    def reply(self, request):
        operation = request.line.rpartition("/")[2]
        streams = operation.endswith("stream") or (request.body and request.json.get("stream"))
        if not streams:
            return answer(200, {})
        kind = "text/event-stream"
        if operation.endswith("stream"):
            kind = "application/vnd.amazon.eventstream"
        return answer(200, STREAMS[operation], [("Content-Type", kind)])

    def calls(self):
        """Endpoint and path, method, body and the API's own headers of each request."""
        return [(request.path, request.method, request.json if request.body else None, {
            name.lower(): value for name, value in request.headers.items()
            if name.lower().startswith(("x-amzn-bedrock-", "anthropic-version"))
        }) for request in self.requests]


class Clients:
    """Those that are compared with, at a fake, made when they are needed."""

    def __init__(self, url):
        self.runtime_url, self.mantle_url = f"{url}/bedrock-runtime", f"{url}/bedrock-mantle"
        self.control_url = f"{url}/bedrock"

    @property
    def runtime(self):
        return SESSION.client("bedrock-runtime", endpoint_url=self.runtime_url, config=UNSIGNED)

    @property
    def control(self):
        return SESSION.client("bedrock", endpoint_url=self.control_url, config=UNSIGNED)

    @property
    def openai(self):
        return openai.OpenAI(api_key="any", base_url=f"{self.runtime_url}/openai/v1")

    @property
    def mantle(self):
        return openai.OpenAI(api_key="any", base_url=f"{self.mantle_url}/v1")

    @property
    def claude(self):
        return anthropic.Anthropic(api_key="any", base_url=f"{self.mantle_url}/anthropic",
                                   default_headers=dict(VERSION))


EMBED = {"inputText": TEXT, "dimensions": 256, "normalize": True}
COUNTED = {"messages": MESSAGES, "system": [{"text": TEXT}]}
GUARDED = [{"text": {"text": TEXT, "qualifiers": ["query"]}},
           {"image": {"format": "png", "source": {"bytes": b"\x89PNG\x00\xff"}}}]
PROMPT = {"anthropic_version": "bedrock-2023-05-31", "max_tokens": 9, "messages": HELLO}
TOOL = {"type": "function", "name": "sum", "parameters": {"type": "object", "properties": {}}}
VERSION = [("anthropic-version", "2023-06-01")]

CALLS = [
    # What the clients call, and what we do.
    ("Converse",
     lambda the: the.runtime.converse(modelId=PROFILE, messages=MESSAGES),
     lambda: bt.call(f"/model/{quoted(PROFILE)}/converse", {"messages": MESSAGES})),
    ("InvokeModel, embeddings",
     lambda the: the.runtime.invoke_model(
         modelId="amazon.titan-embed-text-v2:0", body=json.dumps(EMBED)),
     lambda: bt.call("/model/amazon.titan-embed-text-v2%3A0/invoke", EMBED)),
    ("InvokeModel with a guardrail",
     lambda the: the.runtime.invoke_model(
         modelId=CLAUDE, body=json.dumps(PROMPT), trace="ENABLED",
         guardrailIdentifier="gr12345", guardrailVersion="1"),
     lambda: bt.call(f"/model/{quoted(CLAUDE)}/invoke", PROMPT, headers=[
         ("X-Amzn-Bedrock-GuardrailIdentifier", "gr12345"),
         ("X-Amzn-Bedrock-GuardrailVersion", "1"), ("X-Amzn-Bedrock-Trace", "ENABLED")])),
    ("CountTokens of Converse",
     lambda the: the.runtime.count_tokens(modelId=NOVA, input={"converse": COUNTED}),
     lambda: bt.call(f"/model/{quoted(NOVA)}/count-tokens", {"input": {"converse": COUNTED}})),
    ("CountTokens of InvokeModel",
     lambda the: the.runtime.count_tokens(
         modelId=CLAUDE, input={"invokeModel": {"body": json.dumps(PROMPT).encode()}}),
     lambda: bt.call(f"/model/{quoted(CLAUDE)}/count-tokens",
                     {"input": {"invokeModel": {"body": json.dumps(PROMPT).encode()}}})),
    ("ApplyGuardrail",
     lambda the: the.runtime.apply_guardrail(
         guardrailIdentifier=GUARDRAIL, guardrailVersion="DRAFT", source="INPUT", content=GUARDED),
     lambda: bt.call(f"/guardrail/{quoted(GUARDRAIL)}/version/DRAFT/apply",
                     {"source": "INPUT", "content": GUARDED})),
    ("ListFoundationModels",
     lambda the: the.control.list_foundation_models(),
     lambda: bt.call("/foundation-models", endpoint="bedrock")),
    ("ListFoundationModels, some of them",
     lambda the: the.control.list_foundation_models(
         byProvider="Amazon", byOutputModality="EMBEDDING"),
     lambda: bt.call("/foundation-models?byProvider=Amazon&byOutputModality=EMBEDDING",
                     endpoint="bedrock")),
    ("GetFoundationModel",
     lambda the: the.control.get_foundation_model(modelIdentifier="amazon.nova-micro-v1:0"),
     lambda: bt.call("/foundation-models/amazon.nova-micro-v1%3A0", endpoint="bedrock")),
    ("ListInferenceProfiles",
     lambda the: the.control.list_inference_profiles(maxResults=10),
     lambda: bt.call("/inference-profiles?maxResults=10", endpoint="bedrock")),
    ("Responses",
     lambda the: the.openai.responses.create(
         model="openai.gpt-oss-20b-1:0", input=TEXT, tools=[TOOL], max_output_tokens=9),
     lambda: bt.call("/openai/v1/responses", {
         "model": "openai.gpt-oss-20b-1:0", "input": TEXT, "tools": [TOOL],
         "max_output_tokens": 9})),
    ("Responses, one that is there",
     lambda the: the.openai.responses.retrieve("resp_123"),
     lambda: bt.call("/openai/v1/responses/resp_123")),
    ("Chat Completions",
     lambda the: the.openai.chat.completions.create(
         model="openai.gpt-oss-20b-1:0", messages=HELLO, temperature=0.5),
     lambda: bt.call("/openai/v1/chat/completions", {
         "model": "openai.gpt-oss-20b-1:0", "messages": HELLO, "temperature": 0.5})),
    ("Chat Completions, mantle",
     lambda the: the.mantle.chat.completions.create(model="openai.gpt-oss-20b", messages=HELLO),
     lambda: bt.call("/v1/chat/completions", {"model": "openai.gpt-oss-20b", "messages": HELLO},
                     endpoint="bedrock-mantle")),
    ("models, mantle",
     lambda the: the.mantle.models.list(),
     lambda: bt.call("/v1/models", endpoint="bedrock-mantle")),
    ("Messages, mantle",
     lambda the: the.claude.messages.create(
         model="anthropic.claude-haiku-4-5", max_tokens=9, messages=HELLO),
     lambda: bt.call("/anthropic/v1/messages", {
         "model": "anthropic.claude-haiku-4-5", "max_tokens": 9, "messages": HELLO,
     }, endpoint="bedrock-mantle", headers=VERSION)),
]
STREAMED = [
    ("ConverseStream",
     lambda the: the.runtime.converse_stream(modelId=NOVA, messages=MESSAGES)["stream"],
     lambda: bt.call_stream(f"/model/{quoted(NOVA)}/converse-stream", {"messages": MESSAGES})),
    ("InvokeModelWithResponseStream",
     lambda the: the.runtime.invoke_model_with_response_stream(
         modelId=CLAUDE, body=json.dumps(PROMPT))["body"],
     lambda: bt.call_stream(f"/model/{quoted(CLAUDE)}/invoke-with-response-stream", PROMPT)),
    ("Responses",
     lambda the: the.openai.responses.create(
         model="openai.gpt-oss-20b-1:0", input=TEXT, stream=True),
     lambda: bt.call_stream("/openai/v1/responses", {
         "model": "openai.gpt-oss-20b-1:0", "input": TEXT, "stream": True})),
    ("Chat Completions, mantle",
     lambda the: the.mantle.chat.completions.create(
         model="openai.gpt-oss-20b", messages=HELLO, stream=True),
     lambda: bt.call_stream("/v1/chat/completions", {
         "model": "openai.gpt-oss-20b", "messages": HELLO, "stream": True,
     }, endpoint="bedrock-mantle")),
    ("Messages, mantle",
     lambda the: the.claude.messages.create(
         model="anthropic.claude-haiku-4-5", max_tokens=9, messages=HELLO, stream=True),
     lambda: bt.call_stream("/anthropic/v1/messages", {
         "model": "anthropic.claude-haiku-4-5", "max_tokens": 9, "messages": HELLO, "stream": True,
     }, endpoint="bedrock-mantle", headers=VERSION)),
]


def quoted(text):
    """As it stands in a path."""
    return text.replace(":", "%3A").replace("/", "%2F")


@pytest.fixture
def fake(monkeypatch):
    """It, and a token for it, are in the environment."""
    with Anything() as server:
        token = bt.get_token(bt.Credentials("AKIAONE", SECRET), "us-east-1")
        monkeypatch.setenv("AWS_BEARER_TOKEN_BEDROCK", token)
        monkeypatch.setenv("AWS_REGION", "us-east-1")
        for name in ENDPOINTS:
            variable = "AWS_ENDPOINT_URL_" + name.upper().replace("-", "_")
            monkeypatch.setenv(variable, f"{server.url}/{name}")
        yield server


@pytest.mark.parametrize("theirs, ours", cases(CALLS))
def test_a_call_is_theirs(theirs, ours, fake):
    theirs(Clients(fake.url))
    assert ours() == {}
    first, second = fake.calls()
    assert second == first


@pytest.mark.parametrize("theirs, ours", cases(STREAMED))
def test_a_streamed_call_is_theirs(theirs, ours, fake):
    list(theirs(Clients(fake.url)))
    list(ours())
    first, second = fake.calls()
    assert second == first
