"""call and call_stream: any operation at its endpoint, patience, and a token that was refused."""

import json
import re
import time
from base64 import b64encode
from datetime import timedelta

import pytest

import bedrock_token as bt
from tests import fake_aws, fake_bedrock
from tests.fake_aws import ANSWER, EVENTS, REQUEST_ID, answer, event, frame
from tests.fake_bedrock import CHAT, CHUNKS, MESSAGES, RESPONSES, Bedrock, chunk, tokens
from tests.helpers import (
    KEYS, KEY_ID, LONG_TERM, MODEL, SECRET, STATIC, cases, check_side_by_side, environ_in, everything_in, write_home,
)

TOKEN = bt.get_token(STATIC, "us-east-1")
TEXT = str(TOKEN)
BEARER = "AWS_BEARER_TOKEN_BEDROCK"
INVOKE = "/model/amazon.titan-embed-text-v2%3A0/invoke"
STREAM = INVOKE + "-with-response-stream"


@pytest.fixture
def bedrock():
    with Bedrock() as fake:
        yield fake


@pytest.fixture
def environ(environ, bedrock):
    """The three endpoints lead to the one fake, by folders that name them."""
    return {**environ, "AWS_REGION": "us-east-1", "AWS_ENDPOINT_URL": bedrock.url}


def given(environ, options):
    return {"token": TOKEN, "environ": environ, **options}


def call(path=None, body=None, **options):
    return bt.call(path or INVOKE, body or {"a": 1}, **options)


def call_stream(path=None, body=None, **options):
    return list(bt.call_stream(path or STREAM, body or {"a": 1}, **options))


BOTH = [call, call_stream]


@pytest.fixture(params=BOTH, ids=["call", "call_stream"])
def either(request, environ):
    """Either of the two, with what a test leaves out; a stream is read to its end."""
    def either(*args, **options):
        return request.param(*args, **given(environ, options))

    return either


def is_free_of(secrets, error):
    return not any(secret in everything_in(error) for secret in secrets)


# --- the request --------------------------------------------------------------------------

OPENAI = {"model": "openai.gpt-oss-20b-1:0", "input": "Hello"}
ANTHROPIC = {"model": "anthropic.claude-haiku-4-5", "max_tokens": 9, "messages": []}
VERSION = [("anthropic-version", "2023-06-01")]


@pytest.mark.parametrize("path, body, options, line, want", cases([
    ("InvokeModel", INVOKE, {"inputText": "a"}, {}, "POST",
     {"embedding": [0.25, -0.5], "inputTextTokenCount": 1}),
    ("Converse", "/model/amazon.nova-micro-v1%3A0/converse", {"messages": []}, {}, "POST", ANSWER),
    ("CountTokens", "/model/m/count-tokens", {"input": {}}, {}, "POST", {"inputTokens": 3}),
    ("ApplyGuardrail", "/guardrail/abc/version/1/apply", {"source": "INPUT", "content": []}, {},
     "POST", {"action": "NONE", "outputs": []}),
    ("ListFoundationModels", "/foundation-models", None, {"endpoint": "bedrock"}, "GET",
     {"modelSummaries": []}),
    ("a query", "/foundation-models?byProvider=amazon&x=a%20b", None, {"endpoint": "bedrock"},
     "GET", {"modelSummaries": []}),
    ("ListInferenceProfiles", "/inference-profiles", None, {"endpoint": "bedrock"}, "GET",
     {"inferenceProfileSummaries": []}),
    ("Responses", "/openai/v1/responses", OPENAI, {}, "POST",
     {"object": "response", "status": "completed", "output": []}),
    ("Chat Completions at mantle", "/v1/chat/completions", {**OPENAI, "messages": []},
     {"endpoint": "bedrock-mantle"}, "POST", {"object": "chat.completion", "choices": []}),
    ("Messages at mantle", "/anthropic/v1/messages", ANTHROPIC,
     {"endpoint": "bedrock-mantle", "headers": VERSION}, "POST",
     {"type": "message", "content": []}),
    ("models at mantle", "/v1/models", None, {"endpoint": "bedrock-mantle"}, "GET",
     {"object": "list", "data": []}),
    ("DELETE", "/openai/v1/responses/resp_1", None, {"method": "DELETE"}, "DELETE",
     {"deleted": True}),
    ("POST of an empty object", "/model/m/count-tokens", {}, {}, "POST", {"inputTokens": 3}),
    ("POST of an empty list", "/model/m/count-tokens", [], {}, "POST", {"inputTokens": 3}),
]))
def test_operation(path, body, options, line, want, bedrock, environ):
    assert bt.call(path, body, **given(environ, options)) == want
    request, = bedrock.requests
    assert (request.method, request.path) == (line, path)
    assert request.body == b"" if body is None else request.json == body
    assert request.content_type == ("" if body is None else "application/json")
    assert tokens(bedrock) == [TEXT]


@pytest.mark.parametrize("path, body, options, want", cases([
    ("InvokeModelWithResponseStream", STREAM, {}, {}, [{"chunk": each} for each in CHUNKS]),
    ("ConverseStream", "/model/m/converse-stream", {"messages": []}, {},
     [{kind: payload} for kind, payload in EVENTS]),
    ("Responses", "/openai/v1/responses", {**OPENAI, "stream": True}, {}, RESPONSES),
    ("Chat Completions", "/openai/v1/chat/completions", {**OPENAI, "stream": True}, {}, CHAT),
    ("Chat Completions at mantle", "/v1/chat/completions", {**OPENAI, "stream": True},
     {"endpoint": "bedrock-mantle"}, CHAT),
    ("Messages at mantle", "/anthropic/v1/messages", {**ANTHROPIC, "stream": True},
     {"endpoint": "bedrock-mantle", "headers": VERSION}, MESSAGES),
]))
def test_stream(path, body, options, want, bedrock, environ):
    assert list(bt.call_stream(path, body, **given(environ, options))) == want
    request, = bedrock.requests
    assert (request.method, request.path, request.json) == ("POST", path, body)
    assert tokens(bedrock) == [TEXT]


@pytest.mark.parametrize("body, sent", cases([
    ("bytes", {"a": b"\x89PNG\r\n\x1a\n"}, {"a": "iVBORw0KGgo="}),
    ("bytearray, deep inside", {"a": [{"b": bytearray(b"\xfb\xff\xfe")}]}, {"a": [{"b": "+//+"}]}),
    ("a list", [{"a": 1}, b"\xff"], [{"a": 1}, "/w=="]),
    ("other letters", {"é": "\n\u2028\U0001F600"}, {"é": "\n\u2028\U0001F600"}),
    ("nothing, true, large", {"a": None, "b": True, "c": 2**63}, {"a": None, "b": True, "c": 2**63}),
]))
def test_body(body, sent, bedrock, either):
    before = repr(body)
    either(body=body)
    assert bedrock.requests[0].json == sent
    assert repr(body) == before


@pytest.mark.parametrize("body", cases([
    ("text", '{"a": 1}'), ("bytes", b'{"a": 1}'), ("number", 7), ("a set inside", {"a": {1}}),
    ("not a number inside", {"a": float("nan")}), ("infinity inside", [float("inf")]),
    ("an object inside", {"a": object()}),
]))
def test_body_refused(body, bedrock, either):
    with pytest.raises((TypeError, ValueError)):
        either(body=body)
    assert bedrock.requests == []


def test_headers(bedrock, environ):
    bt.call(INVOKE, {}, headers=[("X-Amzn-Bedrock-Trace", "ENABLED"), *VERSION],
            **given(environ, {}))
    sent = bedrock.requests[0].headers
    assert sent["x-amzn-bedrock-trace"] == "ENABLED"
    assert sent["anthropic-version"] == "2023-06-01"
    assert sent.get_all("Authorization") == ["Bearer " + TEXT]
    assert len(sent.get_all("Host")) == len(sent.get_all("Content-Type")) == 1


def test_who_calls(bedrock, environ):
    bt.call(INVOKE, {}, **given(environ, {}))
    bt.call(INVOKE, {}, headers=[("user-agent", "an app/2")], **given(environ, {}))
    said = [request.headers.get_all("User-Agent") for request in bedrock.requests]
    assert said == [[f"bedrock_token/{bt.__version__}"], ["an app/2"]]


@pytest.mark.parametrize("header", [
    ("a", "b\r\nAuthorization: Bearer other"), ("a", "b\nc"), ("a\r\nb", "c"), ("a b", "c"), ("", "c"),
    ("a:b", "c"), ("Authorization", "Bearer other"), ("host", "elsewhere"), ("Content-Length", "1"), ("a", "\u00e9"),
], ids=ascii)
def test_header_refused(header, bedrock, either):
    with pytest.raises(ValueError):
        either(headers=[header])
    assert bedrock.requests == []


@pytest.mark.parametrize("path", [
    "", "model/m/invoke", "http://127.0.0.1/model/m/invoke", "/a b", "/a\r\nb",
    "/a\nHost: elsewhere", "/a\0", "/a\x7f", "/modèle", "@elsewhere/", None, 7, b"/model/m/invoke",
], ids=ascii)
def test_path_refused(path, bedrock, environ):
    for function in (bt.call, bt.call_stream):
        with pytest.raises((TypeError, ValueError)):
            function(path, {}, token=TOKEN, environ=environ)
    assert bedrock.requests == []


@pytest.mark.parametrize("method", ["GET /", "POST\r\nA: b", "PÖST", 7, b"POST"], ids=ascii)
def test_method_refused(method, bedrock, environ):
    with pytest.raises((TypeError, ValueError)):
        bt.call(INVOKE, {}, method=method, token=TOKEN, environ=environ)
    assert bedrock.requests == []


@pytest.mark.parametrize("options, says", cases([
    *((name, {"endpoint": name}, "credentials|IAM") for name in (
        "bedrock-agent", "bedrock-agent-runtime", "bedrock-data-automation",
        "bedrock-data-automation-runtime")),
    ("no endpoint of Bedrock", {"endpoint": "sts"}, "bedrock-runtime"),
    ("an address", {"endpoint": "https://example.com"}, "bedrock-runtime"),
    ("as settings write it", {"endpoint": "bedrock_runtime"}, "bedrock-runtime"),
    ("the bidirectional stream",
     {"path": "/model/amazon.nova-sonic-v1%3A0/invoke-with-bidirectional-stream"},
     "credentials|IAM"),
]))
def test_what_takes_no_keys(options, says, bedrock, either):
    with pytest.raises(ValueError, match=says):
        either(**options)
    assert bedrock.requests == []


def asked_for(token):
    raise AssertionError("asked for a token")


def test_what_takes_no_keys_needs_no_token(either):
    """The reason comes before anything is looked up."""
    with pytest.raises(ValueError):
        either(endpoint="bedrock-agent", token=lambda: asked_for("bedrock-agent"))


# --- the token ----------------------------------------------------------------------------

OTHER = bt.get_token(STATIC, "us-east-1", service="aws-external-anthropic")
OTHER_LONG_TERM = "AEAA" + b64encode(b"AeaApiKey-ab12-at-123456789012:" + SECRET.encode()).decode()


@pytest.mark.parametrize("token", cases([
    ("short-term", OTHER), ("as text", str(OTHER)), ("long-term", OTHER_LONG_TERM),
    ("from a callable", lambda: OTHER),
    ("from a provider", bt.TokenProvider(STATIC, "us-east-1", service="aws-external-anthropic")),
]))
def test_key_of_the_other_service(token, bedrock, either, environ):
    with pytest.raises(ValueError) as caught:
        either(token=token)
    with pytest.raises(ValueError):
        bt.converse(MODEL, [], token=token, environ=environ)
    assert "aws-external-anthropic" in str(caught.value)
    assert is_free_of([str(OTHER), OTHER_LONG_TERM, SECRET], caught.value)
    assert bedrock.requests == []


@pytest.mark.parametrize("variables, options, want", cases([
    ("given", {BEARER: LONG_TERM}, {"token": TEXT}, TEXT),
    ("from a callable", {BEARER: LONG_TERM}, {"token": lambda: TOKEN}, TEXT),
    ("the environment's", {BEARER: f" {LONG_TERM}\n"}, {"token": None}, LONG_TERM),
]))
def test_token(variables, options, want, bedrock, environ):
    bt.call(INVOKE, {}, **given({**environ, **variables}, options))
    assert tokens(bedrock) == [want]


def test_minted_where_no_token_is_there(bedrock, environ):
    bt.call(INVOKE, {}, environ={**environ, **KEYS})
    sent, = tokens(bedrock)
    assert bt.decode_token(sent)["access_key_id"] == KEY_ID


# --- where it is sent ---------------------------------------------------------------------

HOSTS = {
    "bedrock-runtime": "bedrock-runtime.{}.amazonaws.com",
    "bedrock": "bedrock.{}.amazonaws.com",
    "bedrock-mantle": "bedrock-mantle.{}.api.aws",
}


@pytest.mark.parametrize("region", ["us-east-1", "eu-central-1"])
@pytest.mark.parametrize("endpoint", sorted(HOSTS))
def test_host(endpoint, region, environ, nobody_answers):
    del environ["AWS_ENDPOINT_URL"]
    with pytest.raises(bt.BedrockTokenError):
        bt.call("/v1/models", region=region, token=LONG_TERM, endpoint=endpoint, environ=environ,
                timeout=0.05)
    assert {*nobody_answers} == {(HOSTS[endpoint].format(region), 443)}


@pytest.mark.parametrize("endpoint, variable", cases([
    ("runtime", "bedrock-runtime", "AWS_ENDPOINT_URL_BEDROCK_RUNTIME"),
    ("control plane", "bedrock", "AWS_ENDPOINT_URL_BEDROCK"),
    ("mantle", "bedrock-mantle", "AWS_ENDPOINT_URL_BEDROCK_MANTLE"),
]))
def test_endpoint_url(endpoint, variable, bedrock, environ):
    """Its own variable counts, before the one for all, and the others' do not."""
    url = environ.pop("AWS_ENDPOINT_URL")
    nobody = fake_aws.refused_url()
    others = {f"AWS_ENDPOINT_URL{name}": nobody
              for name in ("", "_BEDROCK", "_BEDROCK_RUNTIME", "_BEDROCK_MANTLE")}
    environ = {**environ, **others, variable: url + "/folder/"}
    bedrock.faults += [answer(200, {"a": 1})]
    assert bt.call("/v1/x?y=z", endpoint=endpoint, token=TOKEN, environ=environ) == {"a": 1}
    assert bedrock.requests[0].path == "/folder/v1/x?y=z"


# --- answers ------------------------------------------------------------------------------

def sent(status, body, *headers):
    return answer(status, body, [("Content-Type", "application/json"), *headers])


@pytest.mark.parametrize("fault, want", cases([
    ("object", sent(200, '{"a": [1, "é", null]}'), {"a": [1, "é", None]}),
    ("list", sent(200, '[{"a": 1}, 2]'), [{"a": 1}, 2]),
    ("empty list", sent(200, "[]"), []),
    ("no body", sent(200, ""), {}),
    ("no body, 202", sent(202, ""), {}),
    ("204", lambda handler: handler.start(204, []), {}),
    ("201", sent(201, '{"a": 1}'), {"a": 1}),
    ("another type", answer(200, '{"a": 1}', [("Content-Type", "text/plain")]), {"a": 1}),
    ("closed at the end", fake_aws.huge(b'{"a": 1}', 1000), {"a": 1}),
]))
def test_answer(fault, want, bedrock, environ):
    bedrock.faults += [fault]
    assert bt.call(INVOKE, {}, token=TOKEN, environ=environ) == want


@pytest.mark.parametrize("fault", cases([
    ("HTML", fake_aws.html()), ("text", sent(200, '"text"')), ("number", sent(200, "7")),
    ("null", sent(200, "null")), ("half", sent(200, '{"a": ')), ("cut off", fake_aws.truncated("{}")),
]))
def test_no_usable_answer(fault, bedrock, environ):
    bedrock.faults += [fault]
    with pytest.raises(bt.BedrockTokenError) as caught:
        bt.call(INVOKE, {}, token=TOKEN, environ=environ)
    assert not isinstance(caught.value, bt.BedrockError)
    assert is_free_of([TEXT], caught.value)


@pytest.mark.parametrize("fault", cases([
    ("JSON", sent(200, '{"a": 1}')), ("HTML", fake_aws.html()), ("nothing", sent(200, "")),
]))
def test_answer_that_is_no_stream(fault, bedrock, environ):
    bedrock.faults += [fault]
    with pytest.raises(bt.BedrockTokenError) as caught:
        list(bt.call_stream(STREAM, {}, token=TOKEN, environ=environ))
    assert not isinstance(caught.value, bt.BedrockError)


def openai(message, kind="invalid_request_error", code=None):
    return {"error": {"message": message, "type": kind, "param": None, "code": code}}


@pytest.mark.parametrize("fault, status, code, message", cases([
    ("AWS's own", answer(400, {"message": "Too long"}, [
        ("x-amzn-ErrorType", "ValidationException:http://internal.amazon.com/coral/")]),
     400, "ValidationException", "Too long"),
    ("AWS's own in the body", answer(404, {"__type": "com.amazon#ResourceNotFoundException",
                                           "Message": "No model"}),
     404, "ResourceNotFoundException", "No model"),
    ("OpenAI's with a code", answer(404, openai("No such model", code="model_not_found")),
     404, "model_not_found", "No such model"),
    ("OpenAI's without a code", answer(400, openai("No messages")),
     400, "invalid_request_error", "No messages"),
    ("Anthropic's", answer(400, {"type": "error", "error": {
        "type": "invalid_request_error", "message": "max_tokens: field required"}}),
     400, "invalid_request_error", "max_tokens: field required"),
]))
def test_error(fault, status, code, message, bedrock, either):
    bedrock.faults += [fault]
    with pytest.raises(bt.BedrockError) as caught:
        either()
    error = caught.value
    assert (error.status, error.code, error.message) == (status, code, message)
    assert len(bedrock.requests) == 1


@pytest.mark.parametrize("body", cases([
    ("error is text", {"error": "no such model"}), ("error is nothing", {"error": None}),
    ("error is a list", {"error": [1]}), ("error is empty", {"error": {}}),
    ("message is an object", {"error": {"message": {"a": 1}, "code": {"b": 2}}}),
    ("code is a number", {"error": {"message": "no", "code": 400}}),
    ("message is a number", {"message": 7, "code": 7}),
]))
def test_error_of_another_shape(body, bedrock, either):
    bedrock.faults += [answer(400, body)]
    with pytest.raises(bt.BedrockError) as caught:
        either()
    error = caught.value
    assert error.status == 400
    assert isinstance(error.code, str) and isinstance(error.message, str)


def test_error_that_repeats_secrets(bedrock, either):
    bedrock.faults += [answer(400, openai(f"your key {TEXT}\x1b[31m is\r\nodd", code=TEXT),
                              [("x-amzn-RequestId", TEXT)])]
    with pytest.raises(bt.BedrockError) as caught:
        either()
    assert is_free_of([TEXT], caught.value)
    assert not re.search("[\x00-\x1f\x7f]", str(caught.value))


def test_redirect_is_not_followed(bedrock, either):
    bedrock.faults += [fake_aws.redirect(bedrock.url + INVOKE, 307)]
    with pytest.raises(bt.BedrockError) as caught:
        either()
    assert caught.value.status == 307
    assert len(bedrock.requests) == 1


# --- InvokeModel's stream -----------------------------------------------------------------

@pytest.mark.parametrize("payload", cases([
    ("no base64", {"bytes": "%%%"}), ("no JSON inside", {"bytes": b64encode(b"{").decode()}),
    ("not UTF-8", {"bytes": b64encode(b'{"a": "\xff"}').decode()}),
    ("cut off base64", {"bytes": b64encode(b'{"a": 1}').decode()[:-3]}),
]))
def test_damaged_chunk(payload, bedrock, environ):
    parts = [chunk(CHUNKS[0]), event("chunk", payload), chunk(CHUNKS[-1])]
    bedrock.faults += [fake_aws.stream(parts)]
    events = bt.call_stream(STREAM, {}, token=TOKEN, environ=environ)
    assert next(events) == {"chunk": CHUNKS[0]}
    with pytest.raises(bt.BedrockTokenError):
        next(events)


@pytest.mark.parametrize("document", [{"é": [1, None]}, {"bytes": "YQ=="}, {}], ids=ascii)
def test_chunk_is_what_it_holds(document, bedrock, environ):
    bedrock.faults += [fake_aws.stream([chunk(document)])]
    events = bt.call_stream(STREAM, {}, token=TOKEN, environ=environ)
    assert list(events) == [{"chunk": document}]


def test_bytes_of_other_events_stay(bedrock, environ):
    """Only a payload's own `bytes` are JSON: those deeper inside are the model's."""
    payload = {"delta": {"reasoningContent": {"redactedContent": {"bytes": "YQ=="}}}}
    bedrock.faults += [fake_aws.stream([event("contentBlockDelta", payload)])]
    events = bt.call_stream(STREAM, {}, token=TOKEN, environ=environ)
    assert list(events) == [{"contentBlockDelta": payload}]


WHOLE = b"".join(map(chunk, CHUNKS))
BORDER = len(chunk(CHUNKS[0]))


@pytest.mark.parametrize("length, framing, missing", cases([
    ("inside a frame, with a last chunk", BORDER + 30, "chunked", 0),
    ("inside a frame, without one", BORDER + 30, "chunked, cut off", 0),
    ("inside a frame, closed", BORDER + 30, "closed", 0),
    ("inside a frame, counted", BORDER + 30, "counted", len(WHOLE) - BORDER - 30),
    ("inside a frame's first bytes", BORDER + 3, "closed", 0),
    ("between frames, without a last chunk", BORDER, "chunked, cut off", 0),
    ("between frames, counted", BORDER, "counted", len(WHOLE) - BORDER),
    ("after all frames, without a last chunk", len(WHOLE), "chunked, cut off", 0),
]))
def test_event_stream_that_ends_too_early(length, framing, missing, bedrock, environ):
    bedrock.faults += [fake_bedrock.server_sent(
        [WHOLE[:length]], framing, "application/vnd.amazon.eventstream", missing)]
    seen = []
    with pytest.raises(bt.BedrockTokenError) as caught:
        for each in bt.call_stream(STREAM, {}, token=TOKEN, environ=environ):
            seen.append(each["chunk"])
    assert not isinstance(caught.value, bt.BedrockError)
    assert seen == CHUNKS[:len(seen)]
    assert len(bedrock.requests) == 1


THROTTLED = frame([(":message-type", "exception"), (":exception-type", "throttlingException")],
                  json.dumps({"message": "Too many tokens"}).encode())


def test_throttling_in_a_stream(bedrock, environ):
    """It cannot be repeated: a part of the answer has been given out."""
    bedrock.faults += [fake_aws.stream([chunk(CHUNKS[0]), THROTTLED])]
    events = bt.call_stream(STREAM, {}, token=TOKEN, environ=environ)
    assert next(events) == {"chunk": CHUNKS[0]}
    with pytest.raises(bt.BedrockError) as caught:
        next(events)
    error = caught.value
    assert (error.code, error.message) == ("throttlingException", "Too many tokens")
    assert error.request_id == REQUEST_ID[1]
    assert len(bedrock.requests) == 1


# --- patience -----------------------------------------------------------------------------

BUSY = answer(429, {"message": "Too many requests"}, [("x-amzn-ErrorType", "ThrottlingException")])
DOWN = answer(503, {"message": "Busy"}, [("x-amzn-ErrorType", "ServiceUnavailableException")])


ATTEMPTS = [
    ("variable, once", "1", "", 1),
    ("variable, twice", "2", "", 2),
    ("profile, once", None, "max_attempts = 1", 1),
    ("profile, twice", None, "max_attempts = 2", 2),
    ("variable over profile", "2", "max_attempts = 1", 2),
    ("blank variable", " ", "max_attempts = 1", 1),
    ("three by default", None, "", 3),
]


def test_max_attempts(environ, tmp_path):
    def check(fault, status, variable, line, attempts):
        other = {**environ, **environ_in(tmp_path)}
        write_home(other, f"[default]\n{line}\n")
        if variable:
            other["AWS_MAX_ATTEMPTS"] = variable
        with Bedrock(faults=[fault] * attempts) as bedrock:
            other["AWS_ENDPOINT_URL"] = bedrock.url
            with pytest.raises(bt.BedrockError) as caught:
                bt.call(INVOKE, {}, token=TOKEN, environ=other)
        assert caught.value.status == status
        assert len(bedrock.requests) == attempts

    check_side_by_side(check, [
        (f"{name}, {status}", fault, status, *values)
        for name, *values in ATTEMPTS for fault, status in ((BUSY, 429), (DOWN, 503))])


def test_the_last_attempt_counts(environ):
    def check(function):
        with Bedrock(faults=[BUSY]) as bedrock:
            assert function(body={"a": [1]}, token=TOKEN, environ={
                **environ, "AWS_ENDPOINT_URL": bedrock.url, "AWS_MAX_ATTEMPTS": "2"})
        first, second = bedrock.requests
        assert (first.path, first.body, tokens(bedrock)) == (second.path, second.body, [TEXT] * 2)

    check_side_by_side(check, [(function.__name__, function) for function in BOTH])


@pytest.mark.parametrize("value", ["0", "-1", "two", "1.5"], ids=ascii)
def test_max_attempts_that_are_none(value, bedrock, either, environ):
    environ["AWS_MAX_ATTEMPTS"] = value
    with pytest.raises(bt.BedrockTokenError, match="(?i)max_attempts"):
        either()
    assert bedrock.requests == []


@pytest.mark.parametrize("status", [400, 401, 403, 404, 408, 424, 500, 502, 504])
def test_not_tried_again(status, bedrock, either):
    """A model may have begun to answer, and been paid for."""
    bedrock.faults += [answer(status, {"message": "no"})]
    with pytest.raises(bt.BedrockError) as caught:
        either()
    assert caught.value.status == status
    assert len(bedrock.requests) == 1


@pytest.mark.parametrize("value", ["3600", "86400", " 3600 "])
def test_retry_after_the_timeout(value, bedrock, either):
    """There is no time left for a second try, and nobody waits for it."""
    bedrock.faults += [answer(429, {"message": "Too many requests"}, [("Retry-After", value)])]
    with pytest.raises(bt.BedrockTokenError) as caught:
        either(timeout=30)
    assert "429" in str(caught.value) or getattr(caught.value, "status", None) == 429
    assert is_free_of([TEXT], caught.value)
    assert len(bedrock.requests) == 1


def test_retry_after_of_any_kind(environ):
    def check(function, value):
        fault = answer(429, {"message": "Too many requests"}, [("Retry-After", value)])
        with Bedrock(faults=[fault]) as bedrock:
            try:
                function(timeout=10, token=TOKEN, environ={**environ, "AWS_ENDPOINT_URL": bedrock.url})
            except bt.BedrockTokenError:
                pass
        assert len(bedrock.requests) <= 2

    check_side_by_side(check, [
        (f"{function.__name__}, {value[:9]}", function, value) for function in BOTH
        for value in ("0", "-5", "soon", "", "1e9999", "9" * 4000, "nan")])


def test_what_the_token_took_is_not_there_for_the_call(bedrock, either):
    def late():
        end = time.monotonic() + 0.05
        while time.monotonic() < end:
            pass
        return TEXT

    with pytest.raises(bt.BedrockTokenError, match=r"no answer within 0\.05 s"):
        either(token=late, timeout=0.05)
    assert bedrock.requests == []


def test_all_within_the_timeout(bedrock, either, environ):
    environ["AWS_MAX_ATTEMPTS"] = "1000000"
    bedrock.faults += [fake_aws.Forever(BUSY)]
    with pytest.raises(bt.BedrockTokenError) as caught:
        either(timeout=0.3)
    assert is_free_of([TEXT], caught.value)
    assert len(bedrock.requests) < 1000


# --- a token that was refused -------------------------------------------------------------

class Source:
    """Credentials that were rotated: another access key at each look-up."""

    def __init__(self):
        self.calls = 0

    def __call__(self):
        self.calls += 1
        return bt.Credentials(f"ASIALOOKUP{self.calls}", SECRET, "session")


def key_ids(fake):
    return [bt.decode_token(token)["access_key_id"] for token in tokens(fake)]


def only(key_id):
    """Takes the tokens of that key alone."""
    return lambda token: bt.decode_token(token)["access_key_id"] == key_id


@pytest.fixture
def rotated(bedrock):
    """A provider whose first token has been refused since."""
    source = Source()
    provider = bt.TokenProvider(source, "us-east-1")
    provider()
    bedrock.takes = only("ASIALOOKUP2")
    return provider, source


REFUSALS = [
    ("not valid", fake_aws.NOT_VALID), ("expired", fake_aws.EXPIRED),
    ("its credentials have expired", fake_aws.DEAD_CREDENTIALS),
]


@pytest.mark.parametrize("denial", cases(REFUSALS))
def test_refused_token_is_renewed(denial, bedrock, either, rotated):
    provider, source = rotated
    bedrock.denial = denial
    assert either(token=provider, body={"a": [1]})
    first, second = bedrock.requests
    assert key_ids(bedrock) == ["ASIALOOKUP1", "ASIALOOKUP2"]
    assert (first.method, first.path, first.body) == (second.method, second.path, second.body)
    assert source.calls == 2
    assert either(token=provider)
    assert key_ids(bedrock)[2:] == ["ASIALOOKUP2"]


def test_token_refused_as_unauthorized_is_renewed(bedrock, either, rotated):
    bedrock.faults += [answer(401, {"error": {"message": fake_aws.EXPIRED}})]
    assert either(token=rotated[0])
    assert key_ids(bedrock) == ["ASIALOOKUP1", "ASIALOOKUP2"]


@pytest.mark.parametrize("function", [
    lambda **options: bt.converse(MODEL, [], **options),
    lambda **options: list(bt.converse_stream(MODEL, [], **options)),
], ids=["converse", "converse_stream"])
def test_refused_token_is_renewed_for_converse(function, bedrock, environ, rotated):
    assert function(token=rotated[0], environ=environ)
    assert key_ids(bedrock) == ["ASIALOOKUP1", "ASIALOOKUP2"]


def test_renewed_once(bedrock, either, rotated):
    provider, source = rotated
    bedrock.takes = only("ASIALOOKUP3")
    with pytest.raises(bt.BedrockError) as caught:
        either(token=provider)
    assert (caught.value.status, caught.value.message) == (403, fake_aws.NOT_VALID)
    assert key_ids(bedrock) == ["ASIALOOKUP1", "ASIALOOKUP2"]
    assert source.calls == 2


def test_a_busy_service_after_the_renewal(bedrock, either, rotated):
    """Patience and renewal do not stand in each other's way."""
    bedrock.faults += [None, BUSY, None]
    assert either(token=rotated[0])
    assert key_ids(bedrock) == ["ASIALOOKUP1", "ASIALOOKUP2", "ASIALOOKUP2"]


@pytest.mark.parametrize("fault", cases([
    ("another action", answer(403, {"message": (
        "User: arn:aws:iam::123456789012:user/dev is not authorized to perform: "
        "bedrock:InvokeModel on resource: arn:aws:bedrock:us-east-1::foundation-model/m")})),
    ("no access to the model", answer(403, {"message": (
        "You don't have access to the model with the specified model ID.")})),
    ("a proxy's page", fake_aws.html(403, "Forbidden")),
    ("nothing said", answer(403)),
    ("the same words with another status", answer(400, {"message": fake_aws.EXPIRED})),
    ("the same words with 500", answer(500, {"message": fake_aws.NOT_VALID})),
]))
def test_not_renewed_for_other_errors(fault, bedrock, either):
    source = Source()
    bedrock.faults += [fault]
    with pytest.raises(bt.BedrockError):
        either(token=bt.TokenProvider(source, "us-east-1"))
    assert len(bedrock.requests) == source.calls == 1


def test_not_renewed_for_an_error_inside_a_stream(bedrock, environ):
    source = Source()
    refusal = frame([(":message-type", "exception"), (":exception-type", "accessDeniedException")],
                    json.dumps({"message": fake_aws.EXPIRED}).encode())
    bedrock.faults += [fake_aws.stream([chunk(CHUNKS[0]), refusal])]
    with pytest.raises(bt.BedrockError):
        list(bt.call_stream(STREAM, {}, token=bt.TokenProvider(source, "us-east-1"), environ=environ))
    assert len(bedrock.requests) == source.calls == 1


@pytest.mark.parametrize("token", cases([
    ("string", TEXT), ("Token", TOKEN), ("long-term key", LONG_TERM), ("plain function", lambda: TOKEN),
]))
def test_what_cannot_be_renewed_is_not_sent_again(token, bedrock, either):
    bedrock.takes = only("ASIAOTHER")
    if token == LONG_TERM:
        bedrock.takes = {}.get
    with pytest.raises(bt.BedrockError) as caught:
        either(token=token)
    assert caught.value.status == 403
    assert len(bedrock.requests) == 1


def test_the_environments_token_is_not_sent_again(bedrock, either, environ):
    environ[BEARER] = TEXT
    bedrock.takes = only("ASIAOTHER")
    with pytest.raises(bt.BedrockError):
        either(token=None)
    assert tokens(bedrock) == [TEXT]


def test_renewal_that_fails(bedrock, either):
    """The reason why there is no new token is told, and nothing is sent again."""
    answers = [bt.Credentials("ASIALOOKUP1", SECRET)]

    def source():
        if answers:
            return answers.pop()
        raise bt.CredentialsError("the session has ended; run: aws sso login")

    bedrock.takes = only("ASIALOOKUP2")
    with pytest.raises(bt.BedrockTokenError, match="aws sso login") as caught:
        either(token=bt.TokenProvider(source, "us-east-1"))
    assert is_free_of([SECRET, *tokens(bedrock)], caught.value)
    assert len(bedrock.requests) == 1


def test_renewed_token_of_another_region_is_not_sent_there(bedrock, environ, home):
    """The call goes to the region that it was begun for."""
    (home / ".aws").mkdir()
    file = home / ".aws" / "config"
    keys = "[default]\naws_access_key_id = AKIAFILE\naws_secret_access_key = " + SECRET
    file.write_text(keys + "\nregion = us-east-1\n")
    lookups = {**environ}
    del lookups["AWS_REGION"]
    provider = bt.TokenProvider(environ=lookups, expires_in=timedelta(hours=1))
    assert provider().region == "us-east-1"
    file.write_text(keys + "\nregion = eu-west-1\n")
    bedrock.takes = {}.get
    with pytest.raises((bt.BedrockTokenError, ValueError)):
        bt.call(INVOKE, {}, token=provider, environ=environ, region="us-east-1")
    assert {bt.decode_token(token)["region"] for token in tokens(bedrock)} == {"us-east-1"}
