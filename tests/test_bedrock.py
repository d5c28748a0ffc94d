"""converse and converse_stream: what is sent where, with which token; answers and errors."""

import asyncio
import inspect
import pickle
import time
from decimal import Decimal
from email.utils import formatdate

import pytest

import bedrock_token as bt
from tests import fake_aws
from tests.fake_aws import ANSWER, REQUEST_ID, answer, raw
from tests.helpers import (
    KEYS, KEY_ID, LONG_TERM, MESSAGES, MODEL, SECRET, cases, check_side_by_side, everything_in,
)

pytestmark = pytest.mark.usefixtures("runtime")

BEARER = "AWS_BEARER_TOKEN_BEDROCK"


def token_for(region):
    return bt.get_token(bt.Credentials(KEY_ID, SECRET), region)


TOKEN = token_for("us-east-1")
TEXT = str(TOKEN)
WESTERN = token_for("us-west-2")


def stream_to_its_end(*args, **options):
    return list(bt.converse_stream(*args, **options))


BOTH = {"converse": bt.converse, "stream": stream_to_its_end}


@pytest.fixture(params=BOTH.values(), ids=BOTH.keys())
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


@pytest.mark.parametrize("value", cases([
    ("as it is", TEXT),
    ("blanks around it", f"  {TEXT}\n"),
    ("long-term, blanks around it", f"\t{LONG_TERM} "),
]))
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
    (host, port), = set(nobody_answers)  # perhaps more than once
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
        no_server.update(HTTPS_PROXY=proxy.url, AWS_MAX_ATTEMPTS="1")
        with pytest.raises(bt.BedrockTokenError):
            bt.converse(MODEL, MESSAGES, token=TOKEN, environ=no_server)
    request, = proxy.requests
    assert request.line == "CONNECT bedrock-runtime.us-east-1.amazonaws.com:443"
    assert TEXT not in str(request.headers)


@pytest.mark.parametrize("variables", cases([
    ("endpoint", {"AWS_ENDPOINT_URL_BEDROCK_RUNTIME": "ftp://127.0.0.1/"}),
    ("CA bundle", {"AWS_CA_BUNDLE": "/nowhere/ca.pem"}),
    ("proxy", {"HTTPS_PROXY": "http://"}),
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


CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize("fault", cases([
    ("HTML", fake_aws.html()),
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


def test_tried_again(environ):
    """With the same token: a callable is asked once a call."""
    def check(function, fault):
        given = iter([TEXT])
        with fake_aws.BedrockRuntime(faults=[fault]) as runtime:
            assert function(MODEL, MESSAGES, token=lambda: next(given), environ={
                **environ, "AWS_ENDPOINT_URL_BEDROCK_RUNTIME": runtime.url})
        assert bearers(runtime) == [TEXT, TEXT]
        assert runtime.requests[0].body == runtime.requests[1].body

    check_side_by_side(check, [
        (f"{name}, {label}", function, fault) for name, function in BOTH.items() for label, fault in (
            ("503", answer(503)), ("429", answer(429, {"message": "Too many requests"})))])


def test_tried_three_times(environ):
    def check(function):
        busy = fake_aws.Forever(answer(503, {"message": "Busy"}))
        with fake_aws.BedrockRuntime(faults=[busy]) as runtime:
            with pytest.raises(bt.BedrockError) as caught:
                function(MODEL, MESSAGES, token=TOKEN, environ={
                    **environ, "AWS_ENDPOINT_URL_BEDROCK_RUNTIME": runtime.url})
        assert (caught.value.status, caught.value.message) == (503, "Busy")
        assert len(runtime.requests) == 3

    check_side_by_side(check, BOTH.items())


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


@pytest.mark.parametrize("fault, timeout, says", cases([
    ("no answer", fake_aws.hang, 0.2, r"no answer within 0\.2 s"),
    ("busy for longer", answer(503, headers=[("Retry-After", "9")]), 8, "503"),
]))
def test_timeout(fault, timeout, says, call, runtime):
    runtime.faults += [fake_aws.Forever(fault)]
    with pytest.raises(bt.BedrockTokenError, match=says) as caught:
        call(timeout=timeout)
    assert TEXT not in everything_in(caught.value)
    assert len(runtime.requests) <= 1


def test_nobody_listens(call, environ):
    environ["AWS_ENDPOINT_URL_BEDROCK_RUNTIME"] = url = fake_aws.refused_url()
    with pytest.raises(bt.BedrockTokenError, match=url.partition("//")[2]):
        call(timeout=SOON)


def test_slow_answer(runtime, environ):
    """Each byte comes in time, and all of them do not."""
    runtime.faults += [fake_aws.drip(b" " * 2000, 0.005)]
    with pytest.raises(bt.BedrockTokenError, match="took too long|within"):
        bt.converse(MODEL, MESSAGES, token=TOKEN, environ=environ, timeout=0.1)


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
    assert str(error) == (
        "AccessDeniedException (HTTP 403): You don't have access to the model with the specified model ID."
        f" [request {REQUEST_ID[1]}]")
    assert str(bt.BedrockError(0, "", "It broke", hint="try again")) == "error: It broke; try again"


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


# --- asyncio -------------------------------------------------------------------------------

def test_in_a_thread_of_asyncio(environ):
    """It blocks, so that is where asyncio programs call it."""
    async def both():
        loop = asyncio.get_running_loop()
        asked = (loop.run_in_executor(
            None, lambda: bt.converse(MODEL, MESSAGES, token=TOKEN, environ=environ))
            for _ in range(2))
        return await asyncio.gather(*asked)

    assert asyncio.run(both()) == [ANSWER, ANSWER]
