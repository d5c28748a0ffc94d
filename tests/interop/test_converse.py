"""converse and converse_stream make the calls that boto3 makes, and read its answers alike."""

import struct

import boto3
import botocore.exceptions
import pytest

import bedrock_token as bt
from tests import fake_aws
from tests.fake_aws import answer, event, frame
from tests.helpers import MESSAGES, SECRET, cases
from tests.interop.reference import Bedrock

NOVA = "us.amazon.nova-micro-v1:0"
ANSWER_EVENTS = [{kind: payload} for kind, payload in fake_aws.EVENTS]


@pytest.fixture
def bedrock(tmp_path, monkeypatch):
    """A Bedrock behind the proxy of this machine, and a token for it in the environment."""
    pem = tmp_path / "pem"
    pem.write_text(fake_aws.PEM)
    with Bedrock(pem=str(pem), keys={"AKIAONE": (SECRET, None)}) as server:
        token = bt.get_token(bt.Credentials("AKIAONE", SECRET), "us-east-1")
        for name, value in {
            "HTTPS_PROXY": server.url, "AWS_CA_BUNDLE": pem, "AWS_BEARER_TOKEN_BEDROCK": token,
            "AWS_REGION": "us-east-1", "AWS_DEFAULT_REGION": "us-east-1",
        }.items():
            monkeypatch.setenv(name, str(value))
        yield server


def without_metadata(response):
    return {name: value for name, value in response.items() if name != "ResponseMetadata"}


def by_boto3(operation, model, request):
    client = boto3.client("bedrock-runtime")
    if operation == "converse":
        return without_metadata(client.converse(modelId=model, **request))
    return list(client.converse_stream(modelId=model, **request)["stream"])


def by_us(operation, model, request):
    if operation == "converse":
        return bt.converse(model, **request)
    return list(bt.converse_stream(model, **request))


MODELS = [
    ("name", "amazon.nova-micro-v1:0"),
    ("inference profile", "us.anthropic.claude-haiku-4-5-20251001-v1:0"),
    ("ARN of a model", "arn:aws:bedrock:us-east-1::foundation-model/amazon.nova-micro-v1:0"),
    ("ARN of a profile",
     "arn:aws:bedrock:us-east-1:123456789012:application-inference-profile/abc123def456"),
    ("ARN of a prompt router",
     "arn:aws:bedrock:us-east-1:123456789012:default-prompt-router/meta.llama:1"),
    ("ARN of an imported model", "arn:aws:bedrock:us-east-1:123456789012:imported-model/abc"),
    ("ARN of a prompt", "arn:aws:bedrock:us-east-1:123456789012:prompt/PROMPT12345:1"),
]
TOOL = {"toolSpec": {"name": "sum", "description": "adds", "inputSchema": {"json": {
    "type": "object", "properties": {"a": {"type": "number"}}, "required": ["a"]}}}}
REQUESTS = [
    ("text", {"messages": MESSAGES}),
    ("all languages", {"messages": [{"role": "user", "content": [
        {"text": "\u4e16\u754c \U0001f600 \"quoted\" \\ \n\t \u2028 \x7f"}]}]}),
    ("system and limits", {
        "messages": MESSAGES, "system": [{"text": "Be brief"}],
        "inferenceConfig": {"maxTokens": 9, "temperature": 0.1, "topP": 1.0, "stopSequences": []},
    }),
    ("bytes", {"messages": [{"role": "user", "content": [
        {"image": {"format": "png", "source": {"bytes": b"\x89PNG\x00\xff"}}},
        {"document": {"format": "txt", "name": "a", "source": {"bytes": b""}}}]}]}),
    ("a conversation with tools", {
        "messages": [
            *MESSAGES,
            {"role": "assistant", "content": [
                {"toolUse": {"toolUseId": "1", "name": "sum", "input": {"a": 1, "b": [1.5, None]}}},
            ]},
            {"role": "user", "content": [{"toolResult": {
                "toolUseId": "1", "status": "success", "content": [{"json": {"sum": 2}}]}}]},
        ],
        "toolConfig": {"tools": [TOOL], "toolChoice": {"auto": {}}},
    }),
    ("fields of the model's own", {
        "messages": MESSAGES, "additionalModelRequestFields": {"top_k": 5, "nested": {"a": [True]}},
        "additionalModelResponseFieldPaths": ["/stop_sequence"],
        "requestMetadata": {"team": "a b"}, "performanceConfig": {"latency": "optimized"},
    }),
    ("guardrail", {
        "messages": MESSAGES, "guardrailConfig": {
            "guardrailIdentifier": "gr12345", "guardrailVersion": "DRAFT", "trace": "enabled"},
    }),
]
CALLS = [(name, model, {"messages": MESSAGES}) for name, model in MODELS] + [
    (name, NOVA, request) for name, request in REQUESTS]


@pytest.mark.parametrize("operation", ["converse", "converse_stream"])
@pytest.mark.parametrize("model, request_", cases(CALLS))
def test_the_request_is_that_of_boto3(operation, model, request_, bedrock):
    theirs = by_boto3(operation, model, request_)
    ours = by_us(operation, model, request_)
    assert ours == theirs == {"converse": fake_aws.ANSWER, "converse_stream": ANSWER_EVENTS}[
        operation]
    first, second = bedrock.calls()
    assert second == first
    assert bedrock.callers == ["AKIAONE", "AKIAONE"]


OTHER_HEADERS = [
    (":content-type", "application/json"), (":message-type", "event"),
    ("yes", b"\x00"), ("no", b"\x01"), ("byte", b"\x02\x7f"), ("short", b"\x03\x01\x02"),
    ("int", b"\x04\x01\x02\x03\x04"), ("long", b"\x05" + b"\x01" * 8),
    ("bytes", b"\x06\x00\x02\xff\x00"), ("time", b"\x08" + struct.pack(">q", 1718452800000)),
    ("uuid", b"\x09" + bytes(range(16))), ("text", "\u4e16\u754c"),
    (":event-type", "contentBlockDelta"),
]
DELTA = {"contentBlockIndex": 0, "delta": {"text": "\u4e16\u754c \U0001f600 \\ \""}}
START, STOP = event(*fake_aws.EVENTS[0]), event("messageStop", {"stopReason": "end_turn"})
WHOLE = b"".join(event(*each) for each in fake_aws.EVENTS)
STREAMS = [
    ("event by event", [event(*each) for each in fake_aws.EVENTS]),
    ("all at once", [WHOLE]),
    ("in pieces of seven bytes", [WHOLE[at:at + 7] for at in range(0, len(WHOLE), 7)]),
    ("any language", [START, event("contentBlockDelta", DELTA), STOP]),
    ("headers of every type", [START, frame(OTHER_HEADERS, b'{"contentBlockIndex":1}'), STOP]),
    ("start of a tool", [START, event("contentBlockStart", {
        "contentBlockIndex": 1, "start": {"toolUse": {"toolUseId": "1", "name": "sum"}}}), STOP]),
    ("long text", [START, event("contentBlockDelta", {
        "contentBlockIndex": 0, "delta": {"text": "x" * 100_000}}), STOP]),
    ("empty payload of an event", [START, event("contentBlockStop", {}), STOP]),
]


@pytest.mark.parametrize("parts", cases(STREAMS))
def test_the_events_are_those_of_boto3(parts, bedrock):
    bedrock.parts = parts
    theirs = by_boto3("converse_stream", NOVA, {"messages": MESSAGES})
    assert by_us("converse_stream", NOVA, {"messages": MESSAGES}) == theirs
    assert len(theirs) > 2


def exception(kind, message):
    return frame([(":exception-type", kind), (":content-type", "application/json"),
                  (":message-type", "exception")], b'{"message":"%s"}' % message.encode())


FAILING_STREAMS = [
    ("throttled", [START, exception("throttlingException", "Slow down")]),
    ("at once", [exception("modelStreamErrorException", "It broke")]),
    ("error frame", [START, frame([(":message-type", "error"), (":error-code", "InternalError"),
                                   (":error-message", "Something")])]),
]


@pytest.mark.parametrize("parts", cases(FAILING_STREAMS))
def test_an_error_in_the_stream_is_that_of_boto3(parts, bedrock):
    bedrock.parts = parts
    with pytest.raises(botocore.exceptions.EventStreamError) as theirs:
        by_boto3("converse_stream", NOVA, {"messages": MESSAGES})
    with pytest.raises(bt.BedrockError) as ours:
        by_us("converse_stream", NOVA, {"messages": MESSAGES})
    error = theirs.value.response["Error"]
    assert (ours.value.code, ours.value.message) == (error["Code"], error["Message"])


def refused(status, body, *headers):
    return answer(status, body, [fake_aws.REQUEST_ID, *headers])


REFUSALS = [
    ("code in the header", refused(
        400, {"message": "Malformed"},
        ("x-amzn-ErrorType", "ValidationException:http://internal.amazon.com/coral/"))),
    ("code with a namespace", refused(
        404, {"message": "gone"}, ("x-amzn-ErrorType", "a.b#ResourceNotFoundException"))),
    ("code in the body", refused(403, {"__type": "a.b#AccessDeniedException", "Message": "No"})),
    ("another code in the body", refused(
        424, {"code": "ModelErrorException", "message": "It broke"})),
    ("header over body", refused(
        400, {"__type": "B", "message": "m"}, ("x-amzn-ErrorType", "A"))),
]


@pytest.mark.parametrize("refusal", cases(REFUSALS))
@pytest.mark.parametrize("operation", ["converse", "converse_stream"])
def test_a_refusal_is_that_of_boto3(operation, refusal, bedrock):
    bedrock.faults = [None, refusal, None, refusal]  # each after its CONNECT
    with pytest.raises(botocore.exceptions.ClientError) as theirs:
        by_boto3(operation, NOVA, {"messages": MESSAGES})
    with pytest.raises(bt.BedrockError) as ours:
        by_us(operation, NOVA, {"messages": MESSAGES})
    error, metadata = theirs.value.response["Error"], theirs.value.response["ResponseMetadata"]
    assert (ours.value.status, ours.value.code, ours.value.message, ours.value.request_id) == (
        metadata["HTTPStatusCode"], error["Code"], error["Message"], metadata["RequestId"])
