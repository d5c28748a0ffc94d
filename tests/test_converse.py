"""converse and converse_stream: what is sent where, with which token; answers; event streams."""

import asyncio
import inspect
import json
import pickle
import sys
import threading
import time
import tracemalloc
import zlib
from base64 import b64decode
from decimal import Decimal
from email.utils import formatdate
from struct import pack

import pytest

import bedrock_token as bt
from tests import fake_aws
from tests.fake_aws import ANSWER, REQUEST_ID, answer, frame
from tests.helpers import KEY_ID, KEYS, LONG_TERM, MESSAGES, SECRET, cases, everything_in

MODEL = "amazon.nova-micro-v1:0"
BEARER = "AWS_BEARER_TOKEN_BEDROCK"


def token_for(region):
    return bt.get_token(bt.Credentials(KEY_ID, SECRET), region)


TOKEN = token_for("us-east-1")
TEXT = str(TOKEN)
WESTERN = token_for("us-west-2")


def stream_to_its_end(*args, **options):
    return list(bt.converse_stream(*args, **options))


@pytest.fixture
def runtime():
    with fake_aws.BedrockRuntime() as fake:
        yield fake


@pytest.fixture
def environ(environ, runtime):
    return {**environ, "AWS_ENDPOINT_URL_BEDROCK_RUNTIME": runtime.url, "AWS_REGION": "us-east-1"}


@pytest.fixture(params=[bt.converse, stream_to_its_end], ids=["converse", "stream"])
def call(request, environ):
    """Either of the two, with what a test leaves out."""
    def call(model_id=MODEL, messages=MESSAGES, **options):
        return request.param(model_id, messages, **{"token": TOKEN, "environ": environ, **options})

    return call


def bearers(fake):
    """The tokens that came in."""
    given = [request.headers["Authorization"].partition(" ") for request in fake.requests]
    assert {scheme for scheme, _, _ in given} <= {"Bearer"}
    return [token for _, _, token in given]


# --- the request ---------------------------------------------------------------------------

# botocore 1.44.5 makes the same of them:
#     serializer = botocore.serialize.RestJSONSerializer()
#     request = serializer.serialize_to_request({"modelId": …, "messages": []}, converse_model)
#     prepare_request_dict(request, "https://h"); create_request_object(request).prepare().url
@pytest.mark.parametrize("model_id, in_path", cases([
    ("name", "amazon.nova-micro-v1:0:128k", "amazon.nova-micro-v1%3A0%3A128k"),
    ("inference profile", "us.amazon.nova-micro-v1:0", "us.amazon.nova-micro-v1%3A0"),
    ("ARN", "arn:aws:bedrock:us-east-1:123456789012:inference-profile/us.amazon.nova-micro-v1:0",
     "arn%3Aaws%3Abedrock%3Aus-east-1%3A123456789012%3Ainference-profile"
     "%2Fus.amazon.nova-micro-v1%3A0"),
    ("ARN in GovCloud", "arn:aws-us-gov:bedrock:us-gov-west-1:123456789012:prompt/P12345:1",
     "arn%3Aaws-us-gov%3Abedrock%3Aus-gov-west-1%3A123456789012%3Aprompt%2FP12345%3A1"),
    ("blank", "my model", "my%20model"),
    ("percent", "a%2Fb", "a%252Fb"),
    ("other letters", "modèle", "mod%C3%A8le"),
    ("signs", "a~b_c+d?e#f", "a~b_c%2Bd%3Fe%23f"),
    ("dots and a slash", "../x", "..%2Fx"),
    ("three dots", "...", "..."),
]))
def test_path(model_id, in_path, runtime, environ):
    bt.converse(model_id, MESSAGES, token=TOKEN, environ=environ)
    list(bt.converse_stream(model_id, MESSAGES, token=TOKEN, environ=environ))
    assert [(request.method, request.path) for request in runtime.requests] == [
        ("POST", f"/model/{in_path}/converse"), ("POST", f"/model/{in_path}/converse-stream")]


@pytest.mark.parametrize("model_id", [
    "", ".", "..", "a\nb", "a\r\nHost: elsewhere", "a\0", "a\x7f", "a\x85", None, 7, b"amazon.nova",
], ids=ascii)
def test_model_id_refused(model_id, call, runtime):
    with pytest.raises(ValueError, match="model_id"):
        call(model_id)
    assert runtime.requests == []


FIELDS = {
    "system": [{"text": "Be brief"}],
    "inferenceConfig": {"maxTokens": 9, "temperature": 0.5},
    "additionalModelRequestFields": {"top_k": None, "deep": [True, {"é": "\n\u2028\U0001F600"}]},
}


@pytest.mark.parametrize("messages, fields, sent", cases([
    ("messages alone", MESSAGES, {}, {"messages": MESSAGES}),
    ("no message", [], {}, {"messages": []}),
    ("the API's own fields", MESSAGES, FIELDS, {"messages": MESSAGES, **FIELDS}),
    ("bytes", [{"role": "user", "content": [
        {"image": {"format": "png", "source": {"bytes": b"\x89PNG\r\n\x1a\n"}}},
        {"document": {"source": {"bytes": bytearray(b"\xfb\xff\xfe")}}}]}], {},
     {"messages": [{"role": "user", "content": [
         {"image": {"format": "png", "source": {"bytes": "iVBORw0KGgo="}}},
         {"document": {"source": {"bytes": "+//+"}}}]}]}),
]))
def test_body(messages, fields, sent, call, runtime):
    call(messages=messages, **fields)
    request, = runtime.requests
    assert request.json == sent
    assert request.content_type == "application/json"
    assert int(request.headers["Content-Length"]) == len(request.body)


@pytest.mark.parametrize("value, error", cases([
    ("object", object(), TypeError),
    ("set", {1}, TypeError),
    ("Decimal", Decimal(1), TypeError),
    ("function", len, TypeError),
    ("not a number", float("nan"), ValueError),
    ("infinity", float("-inf"), ValueError),
]))
def test_body_refused(value, error, call, runtime):
    with pytest.raises(error):
        call(inferenceConfig={"temperature": value})
    assert runtime.requests == []


@pytest.mark.parametrize("timeout, error", cases([
    ("0", 0, ValueError),
    ("negative", -1, ValueError),
    ("not a number", float("nan"), ValueError),
    ("infinite", float("inf"), ValueError),
    ("text", "60", TypeError),
    ("None", None, TypeError),
]))
def test_timeout_refused(timeout, error, call, runtime):
    with pytest.raises(error):
        call(timeout=timeout)
    assert runtime.requests == []


# --- the token -----------------------------------------------------------------------------

async def async_callable():
    raise AssertionError("is not awaited here")


@pytest.mark.parametrize("token", cases([
    ("text", TEXT),
    ("Token", TOKEN),
    ("provider", bt.TokenProvider(lambda: bt.Credentials("AKIAPROVIDED", SECRET), "us-east-1")),
    ("callable that returns a Token", lambda: TOKEN),
    ("callable that returns text", lambda: TEXT),
    ("long-term key", LONG_TERM),
    ("of a kind nobody knows yet", "bedrock-api-key2-0123456789"),
    ("Token of that kind", bt.Token("bedrock-api-key2-0123456789", TOKEN.expiration, "us-east-1")),
]))
def test_given_token_is_sent(token, call, runtime, environ):
    environ[BEARER] = "another"
    call(token=token)
    assert bearers(runtime) == [token() if callable(token) else token]


def test_callable_is_asked_at_each_call(call, runtime):
    tokens = [TEXT, LONG_TERM]
    given = iter(tokens)
    call(token=lambda: next(given))
    call(token=lambda: next(given))
    assert bearers(runtime) == tokens


def test_callable_is_asked_once_a_call(call, runtime):
    runtime.faults += [answer(503)]
    given = iter([TEXT])
    call(token=lambda: next(given))
    assert bearers(runtime) == [TEXT, TEXT]


@pytest.mark.parametrize("value", [TEXT, f"  {TEXT}\n", f"\t{LONG_TERM} "], ids=repr)
def test_token_of_the_environment(value, call, runtime, environ):
    environ[BEARER] = value
    call(token=None)
    assert bearers(runtime) == [value.strip()]


def test_token_of_the_environment_of_the_process(runtime, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL_BEDROCK_RUNTIME", runtime.url)
    monkeypatch.setenv(BEARER, TEXT)
    assert bt.converse(MODEL, MESSAGES) == ANSWER
    assert bearers(runtime) == [TEXT]


@pytest.mark.parametrize("variables", cases([
    ("unset", {}),
    ("empty", {BEARER: ""}),
    ("blank", {BEARER: " \t\n"}),
]))
def test_minted_when_no_token_is_there(variables, call, runtime, environ):
    environ.update(KEYS, **variables)
    call(token=None)
    token, = bearers(runtime)
    said = bt.decode_token(token)
    assert [said["access_key_id"], said["region"], said["expires_in"]] == [
        KEY_ID, "us-east-1", 43200]


@pytest.mark.parametrize("variables, error", cases([
    ("no credentials", {}, bt.NoCredentialsError),
    ("half of the keys", {**KEYS, "AWS_SECRET_ACCESS_KEY": ""}, bt.CredentialsError),
    ("no region", {**KEYS, "AWS_REGION": ""}, bt.NoRegionError),
    ("no region for a long-term key", {BEARER: LONG_TERM, "AWS_REGION": ""}, bt.NoRegionError),
    ("blank in it", {BEARER: f"{TEXT} {TEXT}"}, bt.CredentialsError),
    ("line break in it", {BEARER: f"{TEXT}\r\nHost: elsewhere"}, bt.CredentialsError),
    ("other letters", {BEARER: f"{TEXT}é"}, bt.CredentialsError),
]))
def test_environment_refused(variables, error, call, runtime, environ):
    environ.update(variables)
    with pytest.raises(error) as caught:
        call(token=None)
    assert type(caught.value) is error
    assert TEXT not in everything_in(caught.value)
    assert runtime.requests == []


@pytest.mark.parametrize("token", cases([
    ("empty", ""),
    ("blank", " "),
    ("blank at the end", f"{TEXT} "),
    ("line break at the end", f"{TEXT}\n"),
    ("blank within", f"{TEXT} {TEXT}"),
    ("other letters", f"{TEXT}é"),
    ("bytes", TEXT.encode()),
    ("number", 7),
    ("callable that returns None", lambda: None),
    ("callable that returns nothing", lambda: ""),
]))
def test_token_refused(token, call, runtime, environ):
    environ[BEARER] = TEXT
    with pytest.raises(ValueError, match="token") as caught:
        call(token=token)
    assert TEXT not in everything_in(caught.value)
    assert runtime.requests == []


@pytest.mark.filterwarnings("ignore:coroutine.*never awaited:RuntimeWarning")
def test_async_callable_is_refused(call, runtime):
    with pytest.raises((TypeError, ValueError)):
        call(token=async_callable)
    assert runtime.requests == []


def test_error_of_a_callable_passes_through(call, runtime):
    def fail():
        raise error

    error = OSError("nobody there")
    with pytest.raises(OSError) as caught:
        call(token=fail)
    assert caught.value is error
    assert runtime.requests == []


# --- the region, and the host that goes with it --------------------------------------------

# Of no running server: the region shows in the host's name alone.
HOST = "bedrock-runtime.{}.amazonaws.com"
SOON = 0.05  # less than the pause before a second try


def host_asked(nobody_answers, **options):
    """The host of a call that nobody answers."""
    with pytest.raises(bt.BedrockTokenError):
        bt.converse(MODEL, MESSAGES, timeout=SOON, **options)
    (host, port), = nobody_answers
    assert port == 443
    return host


@pytest.fixture
def no_server(environ):
    del environ["AWS_ENDPOINT_URL_BEDROCK_RUNTIME"], environ["AWS_REGION"]
    return environ


PROFILE = "[profile dev]\nregion = eu-central-1\n"


@pytest.mark.parametrize("variables, options, region", cases([
    ("the given token's own", {}, {"token": str(WESTERN)}, "us-west-2"),
    ("the given Token's own", {}, {"token": WESTERN}, "us-west-2"),
    ("the provider's own", {}, {"token": lambda: WESTERN}, "us-west-2"),
    ("a Token's whose text says nothing", {},
     {"token": bt.Token("opaque", WESTERN.expiration, "us-west-2")}, "us-west-2"),
    ("the given token's own, not AWS_REGION", {"AWS_REGION": "us-east-1"},
     {"token": str(WESTERN)}, "us-west-2"),
    ("the given token's own, not a broken AWS_REGION", {"AWS_REGION": "nowhere"},
     {"token": WESTERN}, "us-west-2"),
    ("argument that agrees", {"AWS_REGION": "us-east-1"},
     {"token": WESTERN, "region": " us-west-2 "}, "us-west-2"),
    ("argument for a long-term key", {"AWS_REGION": "us-east-1"},
     {"token": LONG_TERM, "region": "us-west-2"}, "us-west-2"),
    ("AWS_REGION for a long-term key", {"AWS_REGION": "eu-west-1"}, {"token": LONG_TERM},
     "eu-west-1"),
    ("AWS_DEFAULT_REGION for a long-term key", {"AWS_DEFAULT_REGION": "eu-west-2"},
     {"token": LONG_TERM}, "eu-west-2"),
    ("profile for a long-term key", {"AWS_PROFILE": "dev"}, {"token": LONG_TERM}, "eu-central-1"),
    ("own of the environment's token", {BEARER: WESTERN}, {}, "us-west-2"),
    ("AWS_REGION that agrees", {BEARER: WESTERN, "AWS_REGION": "us-west-2"}, {}, "us-west-2"),
    ("argument over AWS_REGION", {BEARER: WESTERN, "AWS_REGION": "us-east-1"},
     {"region": "us-west-2"}, "us-west-2"),
    ("minted for AWS_REGION", {**KEYS, "AWS_REGION": "eu-west-1"}, {}, "eu-west-1"),
    ("minted for the argument", {**KEYS, "AWS_REGION": "eu-west-1"}, {"region": "eu-west-3"},
     "eu-west-3"),
]))
def test_region(variables, options, region, no_server, nobody_answers, home):
    (home / ".aws").mkdir()
    (home / ".aws" / "config").write_text(PROFILE)
    no_server.update(variables)
    assert host_asked(nobody_answers, environ=no_server, **options) == HOST.format(region)


@pytest.mark.parametrize("variables, options, error", cases([
    ("text", {}, {"token": str(WESTERN), "region": "us-east-1"}, ValueError),
    ("Token", {}, {"token": WESTERN, "region": "us-east-1"}, ValueError),
    ("provider", {}, {"token": lambda: WESTERN, "region": "us-east-1"}, ValueError),
    ("AWS_REGION", {BEARER: WESTERN, "AWS_REGION": "us-east-1"}, {"token": None},
     bt.CredentialsError),
    ("AWS_DEFAULT_REGION", {BEARER: WESTERN, "AWS_REGION": "", "AWS_DEFAULT_REGION": "us-east-1"},
     {"token": None}, bt.CredentialsError),
    ("profile", {BEARER: WESTERN, "AWS_REGION": "", "AWS_PROFILE": "dev"}, {"token": None},
     bt.CredentialsError),
    ("argument", {BEARER: WESTERN}, {"token": None, "region": "us-east-1"}, bt.CredentialsError),
]))
def test_token_of_another_region_is_not_sent(variables, options, error, call, runtime, environ,
                                             home):
    (home / ".aws").mkdir()
    (home / ".aws" / "config").write_text(PROFILE)
    environ.update(variables)
    with pytest.raises(error, match="us-west-2 only.*(us-east|eu-central)-1") as caught:
        call(**options)
    assert str(WESTERN) not in everything_in(caught.value)
    assert runtime.requests == []


@pytest.mark.parametrize("region", ["", "nowhere/evil", "us-east-1.evil.example"])
def test_region_refused(region, call, runtime):
    with pytest.raises(ValueError, match="region"):
        call(region=region)
    assert runtime.requests == []


# botocore 1.44.5 calls the same, with Config(use_fips_endpoint=…, use_dualstack_endpoint=…):
#     model = client.meta.service_model.operation_model("Converse")
#     client._ruleset_resolver.construct_endpoint(model, {}, {}).url
@pytest.mark.parametrize("region, fips, dualstack, host", [
    ("us-east-1", False, False, "bedrock-runtime.us-east-1.amazonaws.com"),
    ("us-east-1", True, False, "bedrock-runtime-fips.us-east-1.amazonaws.com"),
    ("us-east-1", False, True, "bedrock-runtime.us-east-1.api.aws"),
    ("us-east-1", True, True, "bedrock-runtime-fips.us-east-1.api.aws"),
    ("us-gov-west-1", False, False, "bedrock-runtime.us-gov-west-1.amazonaws.com"),
    ("us-gov-west-1", True, False, "bedrock-runtime-fips.us-gov-west-1.amazonaws.com"),
    ("us-gov-west-1", True, True, "bedrock-runtime-fips.us-gov-west-1.api.aws"),
    ("cn-north-1", False, False, "bedrock-runtime.cn-north-1.amazonaws.com.cn"),
    ("cn-north-1", False, True, "bedrock-runtime.cn-north-1.api.amazonwebservices.com.cn"),
    ("us-iso-east-1", False, False, "bedrock-runtime.us-iso-east-1.c2s.ic.gov"),
    ("us-iso-east-1", True, False, "bedrock-runtime-fips.us-iso-east-1.c2s.ic.gov"),
    ("us-iso-east-1", False, True, "bedrock-runtime.us-iso-east-1.api.aws.ic.gov"),
    ("us-isob-east-1", False, False, "bedrock-runtime.us-isob-east-1.sc2s.sgov.gov"),
    ("us-isob-east-1", False, True, "bedrock-runtime.us-isob-east-1.api.aws.scloud"),
    ("us-isof-south-1", False, False, "bedrock-runtime.us-isof-south-1.csp.hci.ic.gov"),
    ("eu-isoe-west-1", False, False, "bedrock-runtime.eu-isoe-west-1.cloud.adc-e.uk"),
    ("eusc-de-east-1", False, False, "bedrock-runtime.eusc-de-east-1.amazonaws.eu"),
    ("eusc-de-east-1", False, True, "bedrock-runtime.eusc-de-east-1.api.amazonwebservices.eu"),
])
def test_host(region, fips, dualstack, host, no_server, nobody_answers):
    no_server.update(AWS_USE_FIPS_ENDPOINT=str(fips), AWS_USE_DUALSTACK_ENDPOINT=str(dualstack))
    assert host_asked(nobody_answers, token=LONG_TERM, region=region, environ=no_server) == host


@pytest.mark.parametrize("variables", cases([
    ("its own", {"AWS_ENDPOINT_URL_BEDROCK_RUNTIME": "{url}"}),
    ("its own, with a slash", {"AWS_ENDPOINT_URL_BEDROCK_RUNTIME": "{url}/"}),
    ("all services'", {"AWS_ENDPOINT_URL": "{url}"}),
    ("its own over all services'", {"AWS_ENDPOINT_URL_BEDROCK_RUNTIME": "{url}",
                                    "AWS_ENDPOINT_URL": "http://127.0.0.1:1"}),
    ("not Bedrock's", {"AWS_ENDPOINT_URL_BEDROCK": "http://127.0.0.1:1",
                       "AWS_ENDPOINT_URL": "{url}"}),
    ("through a proxy", {"AWS_ENDPOINT_URL": "{url}", "HTTP_PROXY": "{proxy}"}),
]))
def test_endpoint_url(variables, no_server, runtime):
    with fake_aws.Proxy() as proxy:
        for name, value in variables.items():
            no_server[name] = value.format(url=runtime.url, proxy=proxy.url)
        assert bt.converse(MODEL, MESSAGES, token=TOKEN, environ=no_server) == ANSWER
        assert len(proxy.requests) == ("HTTP_PROXY" in variables)
    assert runtime.requests[0].path == "/model/amazon.nova-micro-v1%3A0/converse"


def test_endpoint_url_with_a_path(environ, runtime):
    environ["AWS_ENDPOINT_URL_BEDROCK_RUNTIME"] += "/gateway/"
    with pytest.raises(bt.BedrockError):
        bt.converse(MODEL, MESSAGES, token=TOKEN, environ=environ)
    assert runtime.requests[0].path == "/gateway/model/amazon.nova-micro-v1%3A0/converse"


def test_configured_endpoint_urls_can_be_ignored(environ, nobody_answers):
    environ["AWS_IGNORE_CONFIGURED_ENDPOINT_URLS"] = "true"
    host = host_asked(nobody_answers, token=TOKEN, environ=environ)
    assert host == HOST.format("us-east-1")


def test_proxy_of_a_tunnel_does_not_see_the_token(no_server):
    with fake_aws.Proxy() as proxy:
        no_server["HTTPS_PROXY"] = proxy.url
        with pytest.raises(bt.BedrockTokenError):
            bt.converse(MODEL, MESSAGES, token=TOKEN, environ=no_server)
    request = proxy.requests[0]
    assert request.line == "CONNECT bedrock-runtime.us-east-1.amazonaws.com:443"
    assert TEXT not in str(request.headers)


@pytest.mark.parametrize("variables", cases([
    ("endpoint", {"AWS_ENDPOINT_URL_BEDROCK_RUNTIME": "ftp://127.0.0.1/"}),
    ("CA bundle", {"AWS_CA_BUNDLE": "/nowhere/ca.pem"}),
    ("proxy", {"HTTPS_PROXY": "http://"}),
    ("profile", {"AWS_PROFILE": "missing"}),
]))
def test_broken_settings(variables, no_server):
    no_server.update(variables)
    with pytest.raises(bt.CredentialsError):
        bt.converse(MODEL, MESSAGES, token=TOKEN, environ=no_server)


# --- answers and retries -------------------------------------------------------------------

@pytest.mark.parametrize("body", cases([
    ("the API's", ANSWER),
    ("more than is known", {**ANSWER, "new": {"é": [1.5, None, True]}}),
    ("nothing in it", {}),
]))
def test_answer_is_what_was_sent(body, runtime, environ):
    runtime.body = body
    assert bt.converse(MODEL, MESSAGES, token=TOKEN, environ=environ) == body


def raw(data):
    """These bytes instead of an HTTP answer."""
    def send(handler):
        handler.wfile.write(data)
        handler.close_connection = True
    return send


CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize("fault", cases([
    ("HTML", fake_aws.html()),
    ("empty", answer(200)),
    ("a list", answer(200, "[1]")),
    ("not JSON", answer(200, "{'a': 1}")),
    ("not UTF-8", answer(200, b'{"a": "\xff"}')),
    ("nested endlessly", answer(200, '{"a":' + "[" * 100_000)),
    ("cut off", fake_aws.truncated('{"output": {}}')),
    ("cut off in a chunk", raw(CHUNKED + b'e\r\n{"output"')),
    ("no last chunk", raw(CHUNKED + b'e\r\n{"output": {}}\r\n')),
    ("too long", fake_aws.huge(b"{}", 26_000_000)),
]))
def test_no_usable_answer(fault, runtime, environ):
    runtime.faults += [fault]
    with pytest.raises(bt.BedrockTokenError) as caught:
        bt.converse(MODEL, MESSAGES, token=TOKEN, environ=environ)
    assert not isinstance(caught.value, bt.BedrockError)
    assert TEXT not in everything_in(caught.value)
    assert len(runtime.requests) == 1


@pytest.mark.parametrize("fault", cases([
    ("503", answer(503)),
    ("429", answer(429, {"message": "Too many requests"})),
    ("closed before an answer", fake_aws.close),
]))
def test_tried_again(fault, call, runtime):
    runtime.faults += [fault]
    assert call()
    assert bearers(runtime) == [TEXT, TEXT]
    assert runtime.requests[0].body == runtime.requests[1].body


def test_tried_three_times(call, runtime):
    runtime.faults += [fake_aws.Forever(answer(503, {"message": "Busy"}))]
    with pytest.raises(bt.BedrockError) as caught:
        call()
    assert (caught.value.status, caught.value.message) == (503, "Busy")
    assert len(runtime.requests) == 3


@pytest.mark.parametrize("status", [302, 400, 401, 403, 404, 408, 424, 500, 502, 504])
def test_not_tried_again(status, call, runtime):
    runtime.faults += [answer(status, headers=[("Location", runtime.url)])]
    with pytest.raises(bt.BedrockError) as caught:
        call()
    assert caught.value.status == status
    assert len(runtime.requests) == 1


@pytest.mark.parametrize("fault", cases([
    ("not HTTP", raw(b"SSH-2.0-OpenSSH_9.6\r\n")),
    ("cut off in its first line", raw(b"HTTP/1.1 20")),
    ("cut off in its headers", raw(b"HTTP/1.1 200 OK\r\nContent-Ty")),
    ("endless header", raw(b"HTTP/1.1 200 OK\r\nA: " + b"a" * 70_000)),
]))
def test_not_tried_again_when_an_answer_has_begun(fault, call, runtime):
    runtime.faults += [fault]
    with pytest.raises(bt.BedrockTokenError) as caught:
        call()
    assert TEXT not in everything_in(caught.value)
    assert len(runtime.requests) == 1


@pytest.mark.parametrize("fault, most", cases([
    ("no answer", fake_aws.hang, 1),
    ("always busy", answer(503), 2),
    ("always closed", fake_aws.close, 2),
]))
def test_timeout(fault, most, call, runtime):
    runtime.faults += [fake_aws.Forever(fault)]
    started = time.monotonic()
    with pytest.raises(bt.BedrockTokenError) as caught:
        call(timeout=0.2)
    assert time.monotonic() - started < 2
    assert TEXT not in everything_in(caught.value)
    assert len(runtime.requests) <= most


def test_nobody_listens(call, environ):
    environ["AWS_ENDPOINT_URL_BEDROCK_RUNTIME"] = url = fake_aws.refused_url()
    with pytest.raises(bt.BedrockTokenError, match=url.partition("//")[2]):
        call(timeout=SOON)


def test_slow_answer(runtime, environ):
    """Each byte comes in time, and all of them do not."""
    runtime.faults += [fake_aws.drip(b" " * 2000, 0.005)]
    started = time.monotonic()
    with pytest.raises(bt.BedrockTokenError):
        bt.converse(MODEL, MESSAGES, token=TOKEN, environ=environ, timeout=0.1)
    assert time.monotonic() - started < 2


# --- errors --------------------------------------------------------------------------------

ERROR_TYPE = "x-amzn-ErrorType"
VALIDATION = "ValidationException"


@pytest.mark.parametrize("fault, code, message", cases([
    ("as Bedrock does", answer(400, {"message": "Bad model"}, [(ERROR_TYPE, VALIDATION)]),
     VALIDATION, "Bad model"),
    ("code with an address", answer(400, {"message": "m"}, [
        (ERROR_TYPE, VALIDATION + ":http://internal.amazon.com/coral/com.amazon.bedrock/")]),
     VALIDATION, "m"),
    ("code with a namespace", answer(400, {"message": "m"}, [
        (ERROR_TYPE, "com.amazon.bedrock#" + VALIDATION)]), VALIDATION, "m"),
    ("code with both", answer(400, {"message": "m"}, [
        (ERROR_TYPE, "com.amazon.bedrock#" + VALIDATION + ":http://amazon.com/#x")]),
     VALIDATION, "m"),
    ("header before body", answer(400, {"code": "Other", "message": "m"}, [
        (ERROR_TYPE, VALIDATION)]), VALIDATION, "m"),
    ("code in JSON", answer(400, {"code": VALIDATION, "message": "m"}), VALIDATION, "m"),
    ("__type in JSON", answer(400, {"__type": "com.amazon#" + VALIDATION, "Message": "m"}),
     VALIDATION, "m"),
    ("no code", answer(400, {"message": "m"}), "", "m"),
    ("code of another type", answer(400, {"code": 400, "message": "m"}), "", "m"),
    ("message on several lines", answer(400, {"message": " a\r\n\tb  c "}), "", "a b c"),
    ("empty", answer(400, headers=[(ERROR_TYPE, VALIDATION)]), VALIDATION, "Bad Request"),
    ("not UTF-8", answer(400, b'{"message": "\xff"}'), "", "\ufffd"),
]))
def test_error(fault, code, message, call, runtime):
    runtime.faults += [fault]
    with pytest.raises(bt.BedrockError) as caught:
        call()
    error = caught.value
    assert (error.code, error.message, error.hint) == (code, message, "")
    assert TEXT not in everything_in(error)


@pytest.mark.parametrize("fault", cases([
    ("HTML", fake_aws.html(502, TEXT)),
    ("text", answer(502, f"no {TEXT}")),
    ("a list", answer(502, "[]")),
    ("null", answer(502, "null")),
    ("nested endlessly", answer(502, "[" * 60_000)),
    ("message of another type", answer(502, {"message": ["m"]})),
]))
def test_error_that_is_not_from_aws(fault, call, runtime):
    runtime.faults += [fault]
    with pytest.raises(bt.BedrockError, match="proxy") as caught:
        call()
    assert (caught.value.status, caught.value.code) == (502, "")
    assert TEXT not in everything_in(caught.value)


def test_error_tells_all(call, runtime):
    runtime.denial = "You don't have access to the model with the specified model ID."
    with pytest.raises(bt.BedrockError) as caught:
        call()
    error = caught.value
    assert isinstance(error, bt.BedrockTokenError)
    assert (error.status, error.code) == (403, "AccessDeniedException")
    assert (error.message, error.request_id) == (runtime.denial, REQUEST_ID[1])
    for part in ("403", error.code, error.message, error.request_id):
        assert part in str(error)


@pytest.mark.parametrize("function", [bt.converse, bt.converse_stream])
def test_a_minute_by_default(function):
    assert inspect.signature(function).parameters["timeout"].default == 60


def test_error_without_a_request_id(call, runtime):
    runtime.faults += [answer(400, {"message": "m"})]
    with pytest.raises(bt.BedrockError) as caught:
        call()
    assert caught.value.request_id == ""
    assert "request" not in str(caught.value)


@pytest.mark.parametrize("denial, says", cases([
    ("not valid", fake_aws.NOT_VALID, "another region than us-east-1, has expired, or is damaged"),
    ("expired", fake_aws.EXPIRED, "mint a new one"),
    ("prefix", fake_aws.BAD_PREFIX, "not a Bedrock API key"),
    ("not allowed", fake_aws.NOT_ALLOWED, "allow that action"),
    ("credentials", fake_aws.DEAD_CREDENTIALS, "credentials behind the key have expired"),
]))
def test_hint(denial, says, call, runtime):
    runtime.denial = denial
    with pytest.raises(bt.BedrockError) as caught:
        call()
    error = caught.value
    assert (error.status, error.message) == (403, denial)
    assert says in error.hint
    assert error.hint in str(error)
    assert "clock" not in error.hint


@pytest.mark.parametrize("ahead, says", cases([
    ("20 min ahead", 1200, r"clock is (1199|120\d) s ahead"),
    ("20 min behind", -1200, r"clock is (1200|119\d) s behind"),
]))
def test_hint_at_a_wrong_clock(ahead, says, call, runtime):
    runtime.denial = fake_aws.NOT_VALID
    runtime.date = formatdate(time.time() - ahead, usegmt=True)
    with pytest.raises(bt.BedrockError, match=says):
        call()


@pytest.mark.parametrize("date", cases([
    ("4 min ahead", -240),
    ("4 min behind", 240),
    ("not a date", "soon"),
    ("no zone", "Sat, 15 Jun 2024 12:00:00"),
    ("no such day", "Sat, 99 Jun 2024 12:00:00 GMT"),
]))
def test_no_hint_at_a_clock_that_may_be_right(date, call, runtime):
    runtime.denial = fake_aws.NOT_VALID
    runtime.date = date if isinstance(date, str) else formatdate(time.time() + date, usegmt=True)
    with pytest.raises(bt.BedrockError) as caught:
        call()
    assert "clock" not in str(caught.value)


def test_answer_that_repeats_the_token(call, runtime):
    """As a gateway may when it refuses one."""
    runtime.faults += [answer(400, {"message": f"Bad header: Bearer {TEXT}"},
                              [("x-amzn-RequestId", TEXT), ("x-amzn-errortype", f"Bad{TEXT}")])]
    with pytest.raises(bt.BedrockError) as caught:
        call()
    assert TEXT not in everything_in(caught.value)


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_error_pickles(protocol):
    error = bt.BedrockError(403, "AccessDeniedException", "no", "id", "do this")
    again = pickle.loads(pickle.dumps(error, protocol))
    assert type(again) is bt.BedrockError
    assert vars(again) == vars(error)
    assert str(again) == str(error)


# --- the stream ----------------------------------------------------------------------------

# Made by AWS's smithy-aws-event-stream 0.3.0:
#     EventMessage(headers={":event-type": "messageStart", ":content-type": "application/json",
#                           ":message-type": "event"}, payload=b'{"role":…}').encode()
# botocore 1.44.5's EventStreamBuffer decodes each to these headers and payloads, and its
# EventStream, as boto3 returns it, to EVENTS (without the "p" that pads messages in length).
FRAMES = [
    b64decode(
        "AAAAgQAAAFJswXaTCzpldmVudC10eXBlBwAMbWVzc2FnZVN0YXJ0DTpjb250ZW50LXR5cGUHABBhcHBsaWNhdGlv"
        "bi9qc29uDTptZXNzYWdlLXR5cGUHAAVldmVudHsicm9sZSI6ImFzc2lzdGFudCIsInAiOiJhYmNkIn2RcFkr"),
    b64decode(
        "AAAAnQAAAFe5u/ifCzpldmVudC10eXBlBwARY29udGVudEJsb2NrRGVsdGENOmNvbnRlbnQtdHlwZQcAEGFwcGxp"
        "Y2F0aW9uL2pzb24NOm1lc3NhZ2UtdHlwZQcABWV2ZW50eyJjb250ZW50QmxvY2tJbmRleCI6MCwiZGVsdGEiOnsi"
        "dGV4dCI6Ikdyw7zDnyBkaWNoIn1973LpEg=="),
    b64decode(
        "AAAAfQAAAFbmaA/WCzpldmVudC10eXBlBwAQY29udGVudEJsb2NrU3RvcA06Y29udGVudC10eXBlBwAQYXBwbGlj"
        "YXRpb24vanNvbg06bWVzc2FnZS10eXBlBwAFZXZlbnR7ImNvbnRlbnRCbG9ja0luZGV4IjowfbMuTTQ="),
    b64decode(
        "AAAAegAAAFHKLEZlCzpldmVudC10eXBlBwALbWVzc2FnZVN0b3ANOmNvbnRlbnQtdHlwZQcAEGFwcGxpY2F0aW9u"
        "L2pzb24NOm1lc3NhZ2UtdHlwZQcABWV2ZW50eyJzdG9wUmVhc29uIjoiZW5kX3R1cm4ifV+/Cfw="),
    b64decode(
        "AAAAtAAAAE4RAR0qCzpldmVudC10eXBlBwAIbWV0YWRhdGENOmNvbnRlbnQtdHlwZQcAEGFwcGxpY2F0aW9uL2pz"
        "b24NOm1lc3NhZ2UtdHlwZQcABWV2ZW50eyJtZXRyaWNzIjp7ImxhdGVuY3lNcyI6MX0sInVzYWdlIjp7ImlucHV0"
        "VG9rZW5zIjoxLCJvdXRwdXRUb2tlbnMiOjIsInRvdGFsVG9rZW5zIjozfX0BhUal"),
]
EVENTS = [
    {"messageStart": {"role": "assistant", "p": "abcd"}},
    {"contentBlockDelta": {"contentBlockIndex": 0, "delta": {"text": "Grüß dich"}}},
    {"contentBlockStop": {"contentBlockIndex": 0}},
    {"messageStop": {"stopReason": "end_turn"}},
    {"metadata": {"metrics": {"latencyMs": 1},
                  "usage": {"inputTokens": 1, "outputTokens": 2, "totalTokens": 3}}},
]
RECORDED = b"".join(FRAMES)
HEAD = [(":message-type", "event"), (":event-type", "messageStop")]
# ":message-type" exception, ":exception-type" throttlingException, and a message in JSON.
EXCEPTION = b64decode(
    "AAAAsAAAAGFPUIazDzpleGNlcHRpb24tdHlwZQcAE3Rocm90dGxpbmdFeGNlcHRpb24NOmNvbnRlbnQtdHlwZQcAEGFw"
    "cGxpY2F0aW9uL2pzb24NOm1lc3NhZ2UtdHlwZQcACWV4Y2VwdGlvbnsibWVzc2FnZSI6IlRvbyBtYW55IHRva2Vucywg"
    "cGxlYXNlIHdhaXQgYmVmb3JlIHRyeWluZyBhZ2Fpbi4iffcK5X8=")
# ":message-type" error with ":error-code" InternalError and ":error-message", and no payload.
ERROR = b64decode(
    "AAAAdgAAAGa3YQ5rDTptZXNzYWdlLXR5cGUHAAVlcnJvcgs6ZXJyb3ItY29kZQcADUludGVybmFsRXJyb3IOOmVycm9y"
    "LW1lc3NhZ2UHACJBbiBpbnRlcm5hbCBzZXJ2ZXIgZXJyb3Igb2NjdXJyZWQui6Fx7w==")
# The third event with a header of each other type before: true, false, -1, -2, -3, -4 in 1, 2, 4
# and 8 bytes, the bytes b":event-type", a timestamp, a UUID.
OTHER_TYPES = b64decode(
    "AAAA0AAAAKlD3bt8BHRydWUABWZhbHNlAQRieXRlAv8Fc2hvcnQD//4HaW50ZWdlcgT////9BGxvbmcF//////////wE"
    "YmxvYgYACzpldmVudC10eXBlCXRpbWVzdGFtcAgAAAGQG8TKAAR1dWlkCQAAAAAAAAAAAAAAAAAAAAcLOmV2ZW50LXR5"
    "cGUHABBjb250ZW50QmxvY2tTdG9wDTptZXNzYWdlLXR5cGUHAAVldmVudHsiY29udGVudEJsb2NrSW5kZXgiOjB9Pfvj"
    "/Q==")


def pieces(data, size):
    return [data[start:start + size] for start in range(0, len(data), size)]


def decode(*chunks):
    return list(bt._decode_events(chunks))


@pytest.fixture
def stream(runtime, environ):
    """The events of a stream that arrives in these parts."""
    def stream(parts, chunked=True, **options):
        runtime.parts, runtime.chunked = parts, chunked
        return bt.converse_stream(MODEL, MESSAGES, token=TOKEN, environ=environ, **options)

    return stream


@pytest.mark.parametrize("chunked", [True, False], ids=["chunked", "until the end"])
@pytest.mark.parametrize("parts", cases([
    ("frame by frame", FRAMES),
    ("at once", [RECORDED]),
    ("byte by byte", pieces(RECORDED, 1)),
    ("across borders", pieces(RECORDED, 100)),
    ("two at once", [FRAMES[0] + FRAMES[1], FRAMES[2] + FRAMES[3], FRAMES[4]]),
    ("one and a bit", [RECORDED[:len(FRAMES[0]) + 1], RECORDED[len(FRAMES[0]) + 1:]]),
]))
def test_stream(parts, chunked, stream):
    assert list(stream(parts, chunked)) == EVENTS


@pytest.mark.parametrize("size", [*range(1, 20), 64, 128, 129, 130, 256, len(RECORDED)])
def test_pieces_of_any_size(size):
    assert decode(*pieces(RECORDED, size)) == EVENTS


def test_empty_pieces():
    assert decode(b"", RECORDED[:5], b"", RECORDED[5:], b"") == EVENTS


def test_nothing_at_all_is_no_event():
    assert decode() == decode(b"") == []


def test_event_is_there_with_its_last_byte():
    chunks = iter([FRAMES[0], FRAMES[1][:-1], FRAMES[1][-1:]])
    events = bt._decode_events(chunks)
    assert next(events) == EVENTS[0]
    assert next(chunks) == FRAMES[1][:-1]


def test_headers_of_other_types_are_passed_over():
    assert decode(OTHER_TYPES) == [EVENTS[2]]


def test_bytes_in_a_header_are_no_text():
    data = frame([("x", b"\x06\x00\x01\xff"), *HEAD, (":event-type", b"\x06\x00\x01x")], b"{}")
    assert decode(data) == [{"messageStop": {}}]


@pytest.mark.parametrize("fault", cases([
    ("HTML", fake_aws.html()),
    ("JSON", answer(200, ANSWER)),
    ("empty", answer(200)),
]))
def test_no_stream(fault, stream, runtime):
    runtime.faults += [fault]
    with pytest.raises(bt.BedrockTokenError):
        list(stream([]))


def test_each_event_is_delivered_as_it_comes(stream):
    gates = [threading.Event() for _ in FRAMES[1:]]
    parts = [FRAMES[0], *(part for pair in zip(gates, FRAMES[1:]) for part in pair)]
    events = stream(parts)
    for gate, event in zip(gates, EVENTS):
        assert next(events) == event
        gate.set()
    assert list(events) == EVENTS[-1:]


def test_request_is_made_at_once(stream, runtime):
    events = stream(FRAMES)
    assert len(runtime.requests) == 1
    events.close()


def test_refusal_comes_at_once(stream, runtime):
    runtime.denial = fake_aws.EXPIRED
    with pytest.raises(bt.BedrockError):
        stream(FRAMES)


def read_one(events):
    assert next(events) == EVENTS[0]


def leave_loop(events):
    for _ in events:
        break


def fail_in_loop(events):
    with pytest.raises(ZeroDivisionError):
        for event in events:
            1 / 0


@pytest.mark.parametrize("begin", [
    lambda events: None, read_one, leave_loop, fail_in_loop,
], ids=["before the first", "after the first", "loop left", "loop failed"])
def test_closing_closes_the_connection(begin, stream, runtime):
    ended = threading.Event()

    def wait_for_the_end(handler):
        handler.connection.settimeout(5)
        try:
            fake_aws.stream([FRAMES[0], FRAMES[1][:9]], chunked=False)(handler)
            assert handler.connection.recv(1) == b""
        except ConnectionError:
            pass  # closed with something unread
        ended.set()
        handler.close_connection = True

    runtime.faults += [wait_for_the_end]
    events = stream([])
    begin(events)
    assert not ended.is_set()
    events.close()
    assert ended.wait(4)
    with pytest.raises(StopIteration):
        next(events)


def test_closing_twice_and_after_the_end(stream):
    events = stream(FRAMES)
    assert list(events) == EVENTS
    events.close()
    events.close()


@pytest.mark.parametrize("data, code, message", cases([
    ("exception", EXCEPTION, "throttlingException",
     "Too many tokens, please wait before trying again."),
    ("error", ERROR, "InternalError", "An internal server error occurred."),
]))
def test_error_in_the_stream(data, code, message, stream, runtime):
    events = stream([FRAMES[0], data, *FRAMES[1:]])
    assert next(events) == EVENTS[0]
    with pytest.raises(bt.BedrockError) as caught:
        next(events)
    error = caught.value
    assert (error.status, error.code, error.message) == (0, code, message)
    assert str(error) == f"{code}: {message} [request {REQUEST_ID[1]}]"
    with pytest.raises(StopIteration):
        next(events)
    assert len(runtime.requests) == 1


@pytest.mark.parametrize("data, message", cases([
    ("exception without a message", frame([(":message-type", "exception")], b"{}"), "no message"),
    ("exception without JSON", frame([(":message-type", "exception")], b"busy"), "no message"),
    ("error without a code", frame([(":message-type", "error")]), ""),
]))
def test_error_that_says_little(data, message):
    with pytest.raises(bt.BedrockError) as caught:
        decode(data)
    error = caught.value
    assert (error.status, error.code, error.message) == (0, "", message)
    assert str(error)


def test_error_in_the_stream_without_a_request_id(stream, runtime):
    def send(handler):
        handler.start(200, [("Connection", "close")])
        handler.wfile.write(ERROR)

    runtime.faults += [send]
    with pytest.raises(bt.BedrockError) as caught:
        list(stream([]))
    assert caught.value.request_id == ""


# Both checksums are right, the rest is not.
@pytest.mark.parametrize("data", cases([
    ("no message type", frame(HEAD[1:], b"{}")),
    ("another message type", frame([(":message-type", "ping"), *HEAD[1:]], b"{}")),
    ("message type of another type", frame([(":message-type", b"\x00"), *HEAD[1:]], b"{}")),
    ("no event type", frame(HEAD[:1], b"{}")),
    ("no headers", frame([], b"{}")),
    ("no payload", frame(HEAD)),
    ("not JSON", frame(HEAD, b"{")),
    ("not UTF-8", frame(HEAD, b'{"a": "\xff"}')),
    ("a list", frame(HEAD, b"[]")),
    ("nested endlessly", frame(HEAD, b'{"a":' + b"[" * 100_000)),
    ("header of a type that is none", frame([*HEAD, ("x", b"\x0a")], b"{}")),
    ("name is no UTF-8", frame([*HEAD, ("x", b"\x00\x01\xff\x00")], b"{}")),
    ("value is no UTF-8", frame([*HEAD, ("x", b"\x07\x00\x01\xff")], b"{}")),
    ("value longer than the headers", frame([*HEAD, ("x", b"\x07\x00\x02a")], b"{}")),
    ("number longer than the headers", frame([*HEAD, ("x", b"\x05\x00")], b"{}")),
    ("no length", frame([*HEAD, ("x", b"\x07\x00")], b"{}")),
    ("no type", frame([*HEAD, ("x", b"")], b"{}")),
    ("name longer than the headers", frame([*HEAD, ("x", b"\x00\x09x")], b"{}")),
]))
def test_frame_that_is_no_event(data):
    events = bt._decode_events([FRAMES[0], data])
    assert next(events) == EVENTS[0]
    with pytest.raises(bt.BedrockTokenError):
        next(events)


def borders():
    at = 0
    for each in FRAMES[:4]:
        yield at
        at += len(each)


@pytest.mark.parametrize("chunked", [True, False], ids=["chunked", "until the end"])
@pytest.mark.parametrize("length", cases([
    *((f"before frame {number}", length) for number, length in enumerate(borders(), 1)),
    ("inside a head", len(FRAMES[0]) + 5),
    ("inside headers", len(FRAMES[0]) + 40),
    ("before the last checksum", len(FRAMES[0]) - 4),
    ("inside the last checksum", len(RECORDED) - 1),
    ("inside the last frame", len(RECORDED) - 100),
]))
def test_stream_that_ends_too_early(length, chunked, stream, runtime):
    events = stream([RECORDED[:length]], chunked)
    seen = []
    with pytest.raises(bt.BedrockTokenError) as caught:
        for event in events:
            seen.append(event)
    assert not isinstance(caught.value, bt.BedrockError)
    assert seen == EVENTS[:len(seen)]
    assert len(runtime.requests) == 1


class Lost(threading.Event):
    """Ends the fake's stream there and then."""

    def wait(self, timeout=None):
        return False


def test_connection_that_is_lost_after_the_message(stream):
    """The last chunk, which says that there are no more, never comes."""
    events = stream([*FRAMES, Lost()])
    assert [next(events) for _ in EVENTS] == EVENTS
    with pytest.raises(bt.BedrockTokenError):
        next(events)


def test_every_corrupt_byte_is_noticed():
    for position in range(len(RECORDED)):
        for flip in (0x01, 0x80, 0xFF):
            damaged = bytearray(RECORDED)
            damaged[position] ^= flip
            seen = []
            with pytest.raises(bt.BedrockTokenError):
                for event in bt._decode_events([damaged]):
                    seen.append(event)
            assert seen == EVENTS[:len(seen)]


def test_every_lost_byte_is_noticed():
    for position in range(len(RECORDED)):
        seen = []
        with pytest.raises(bt.BedrockTokenError):
            for event in bt._decode_events([RECORDED[:position] + RECORDED[position + 1:]]):
                seen.append(event)
        assert seen == EVENTS[:len(seen)]


def test_checksum_of_the_head_counts_by_itself():
    """The frame's own checksum is right: it is over all before it, the wrong one included."""
    damaged = FRAMES[0][:8] + b"\0\0\0\0" + FRAMES[0][12:-4]
    with pytest.raises(bt.BedrockTokenError):
        decode(damaged + pack(">I", zlib.crc32(damaged)))


def head(total, headers):
    lengths = pack(">II", total, headers)
    return lengths + pack(">I", zlib.crc32(lengths))


KIB, MIB = 1024, 1024 * 1024


@pytest.mark.parametrize("data", cases([
    ("wrong checksum", FRAMES[0][:11] + b"\xff"),
    ("headers over 128 KiB", head(16 + 128 * KIB + 1, 128 * KIB + 1)),
    ("payload over 24 MiB", head(16 + 24 * MIB + 1, 0)),
    ("4 GiB", head(0xFFFFFFFF, 0)),
    ("shorter than a frame can be", head(15, 0)),
    ("headers longer than the frame", head(116, 101)),
    ("HTML", b"<!DOCTYPE html>"),
]))
def test_head_is_refused_before_the_rest_arrives(data):
    def chunks():
        yield data
        raise AssertionError("it waits for the rest")

    with pytest.raises(bt.BedrockTokenError):
        list(bt._decode_events(chunks()))


def test_largest_headers():
    padding = [(name, b"\x06\x7f\xff" + bytes(32767)) for name in "abc"]
    left = 128 * KIB - len(frame([*HEAD, *padding, ("d", b"\x06\0\0")])) + 16
    headers = [*HEAD, *padding, ("d", b"\x06" + pack(">H", left) + bytes(left))]
    assert decode(frame(headers, b"{}")) == [{"messageStop": {}}]
    with pytest.raises(bt.BedrockTokenError):
        decode(frame([*headers, ("e", b"\x00")], b"{}"))


def test_largest_payload():
    payload = b"{" + b" " * (24 * MIB - 2) + b"}"
    assert decode(*pieces(frame(HEAD, payload), 64 * KIB)) == [{"messageStop": {}}]


def test_pause_longer_than_the_timeout(stream):
    silence = threading.Event()
    events = stream([FRAMES[0], silence, *FRAMES[1:]], timeout=0.3)
    assert next(events) == EVENTS[0]
    started = time.monotonic()
    with pytest.raises(bt.BedrockTokenError):
        next(events)
    assert time.monotonic() - started < 2
    silence.set()


class Pause(threading.Event):
    """Lets the fake's stream wait a little."""

    def wait(self, timeout=None):
        return not super().wait(0.03)


def test_stream_longer_than_the_timeout(stream):
    """The time between two pieces counts, not that of the whole."""
    parts = [part for piece in pieces(RECORDED, 60) for part in (piece, Pause())]
    assert list(stream(parts, timeout=0.25)) == EVENTS


def padded(number):
    """A frame whose headers no other frame has."""
    return frame([*HEAD, ("padding", f"{number:01000}")], b"{}")


@pytest.mark.parametrize("chunks, events, most", cases([
    ("a long stream", (b"".join([FRAMES[1]] * 200) for _ in range(50)), 10_000, 128 * KIB),
    ("headers that never repeat", map(padded, range(2000)), 2000, 256 * KIB),
]))
def test_memory_does_not_grow_with_the_stream(chunks, events, most):
    """Each of these streams has more than 1.5 MB."""
    decode(RECORDED)
    tracemalloc.start()
    try:
        count = sum(1 for _ in bt._decode_events(chunks))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert count == events
    assert peak < most


@pytest.mark.skipif(sys.gettrace() is not None, reason="a tracer slows this down unevenly")
def test_decoding_costs_at_most_twice_the_json_and_the_checksums():
    payload = FRAMES[1][12 + 0x57:-4]
    chunks = pieces(FRAMES[1] * 10_000, 65536)
    ratios = []
    while len(ratios) < 30:  # a busy machine slows one half of a round at times, slow code every round
        started = time.process_time()
        for _ in bt._decode_events(chunks):
            pass
        between = time.process_time()
        for _ in range(10_000):
            json.loads(payload)
            zlib.crc32(FRAMES[1])
        ratios.append((between - started) / (time.process_time() - between))
        if ratios[-1] <= 2:
            return
    raise AssertionError(f"decoding costs {min(ratios):.2f} times as much")


def test_in_a_thread_of_asyncio(environ):
    """It blocks, so that is where asyncio programs call it."""
    async def both():
        loop = asyncio.get_running_loop()
        asked = (loop.run_in_executor(
            None, lambda: bt.converse(MODEL, MESSAGES, token=TOKEN, environ=environ))
            for _ in range(2))
        return await asyncio.gather(*asked)

    assert asyncio.run(both()) == [ANSWER, ANSWER]
