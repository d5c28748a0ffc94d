"""The two services that take such keys: Bedrock, and Claude Platform on AWS."""

import copy
import json
import os
import pickle
import subprocess
import sys
from base64 import b64decode, b64encode
from datetime import timedelta

import pytest

import bedrock_token as bt
from tests.helpers import CONFIGURED, NOON, ROOT, SECRET, SESSION, STATIC, TEMPORARY, cases

SERVICE = "aws-external-anthropic"
PREFIX = "aws-external-anthropic-" + "api-key-"
VARIABLE = "ANTHROPIC_AWS_API_KEY"
RESERVED = bt.Credentials("ASIAIOSFODNN7EXAMPLE", SECRET, "+/=%&#?~-._")


# Made with token-generator-for-aws-external-anthropic 1.0.0 and botocore 1.44.8:
#
#     botocore.auth.get_current_datetime = lambda: datetime(2024, 6, 15, 12)
#     token_generator_for_aws_external_anthropic.get_token(
#         credentials=botocore.credentials.Credentials(key_id, secret, session_token),
#         region=region, expiry=timedelta(seconds=…))
#
# Scanners look for whole tokens in source code: prefix and payload meet at run time only.
TOKENS = [
    ("static keys", STATIC, "us-east-1", 43200, (
        "YXdzLWV4dGVybmFsLWFudGhyb3BpYy5hbWF6b25hd3MuY29tLz9BY3Rpb249Q2FsbFdpdGhCZWFyZXJUb2tlbiZY"
        "LUFtei1BbGdvcml0aG09QVdTNC1ITUFDLVNIQTI1NiZYLUFtei1DcmVkZW50aWFsPUFLSUFJT1NGT0ROTjdFWEFN"
        "UExFJTJGMjAyNDA2MTUlMkZ1cy1lYXN0LTElMkZhd3MtZXh0ZXJuYWwtYW50aHJvcGljJTJGYXdzNF9yZXF1ZXN0"
        "JlgtQW16LURhdGU9MjAyNDA2MTVUMTIwMDAwWiZYLUFtei1FeHBpcmVzPTQzMjAwJlgtQW16LVNpZ25lZEhlYWRl"
        "cnM9aG9zdCZYLUFtei1TaWduYXR1cmU9MmZlMWQ3NGFhZWRiMjhmMmQwMzJiNjgxMjlhYWUyZTdjZmJiNWZiNDAx"
        "NjVlYjEzMzgyMThmZjljMmEwNDE2OSZWZXJzaW9uPTE="
    )),
    ("temporary keys, one hour", TEMPORARY, "us-west-2", 3600, (
        "YXdzLWV4dGVybmFsLWFudGhyb3BpYy5hbWF6b25hd3MuY29tLz9BY3Rpb249Q2FsbFdpdGhCZWFyZXJUb2tlbiZY"
        "LUFtei1BbGdvcml0aG09QVdTNC1ITUFDLVNIQTI1NiZYLUFtei1DcmVkZW50aWFsPUFTSUFJT1NGT0ROTjdFWEFN"
        "UExFJTJGMjAyNDA2MTUlMkZ1cy13ZXN0LTIlMkZhd3MtZXh0ZXJuYWwtYW50aHJvcGljJTJGYXdzNF9yZXF1ZXN0"
        "JlgtQW16LURhdGU9MjAyNDA2MTVUMTIwMDAwWiZYLUFtei1FeHBpcmVzPTM2MDAmWC1BbXotU2lnbmVkSGVhZGVy"
        "cz1ob3N0JlgtQW16LVNlY3VyaXR5LVRva2VuPUlRb0piM0pwWjJsdVgyVmpFWEFNUExFVE9LRU4lM0QlM0QmWC1B"
        "bXotU2lnbmF0dXJlPTdiYmY5MTVlZjRkZWZmOTdmYjljYTc4OGQ4ZTZkM2YwY2VhYjg5ZWQ2NDkwNzE5ZDNlNjYw"
        "ZjM4OWNkZTlhMjkmVmVyc2lvbj0x"
    )),
    ("reserved characters in the session token", RESERVED, "us-east-1", 43200, (
        "YXdzLWV4dGVybmFsLWFudGhyb3BpYy5hbWF6b25hd3MuY29tLz9BY3Rpb249Q2FsbFdpdGhCZWFyZXJUb2tlbiZY"
        "LUFtei1BbGdvcml0aG09QVdTNC1ITUFDLVNIQTI1NiZYLUFtei1DcmVkZW50aWFsPUFTSUFJT1NGT0ROTjdFWEFN"
        "UExFJTJGMjAyNDA2MTUlMkZ1cy1lYXN0LTElMkZhd3MtZXh0ZXJuYWwtYW50aHJvcGljJTJGYXdzNF9yZXF1ZXN0"
        "JlgtQW16LURhdGU9MjAyNDA2MTVUMTIwMDAwWiZYLUFtei1FeHBpcmVzPTQzMjAwJlgtQW16LVNpZ25lZEhlYWRl"
        "cnM9aG9zdCZYLUFtei1TZWN1cml0eS1Ub2tlbj0lMkIlMkYlM0QlMjUlMjYlMjMlM0Z+LS5fJlgtQW16LVNpZ25h"
        "dHVyZT0zZTVkMWRjMjllOWM4YzIzNjk5ZjJmZjg4ZGVlZGMzYzM3NzJlM2ZkYzRkMjVhNmJhYmNlNGEyMWM1ZWMw"
        "MzFhJlZlcnNpb249MQ=="
    )),
    ("one second", STATIC, "eu-central-1", 1, (
        "YXdzLWV4dGVybmFsLWFudGhyb3BpYy5hbWF6b25hd3MuY29tLz9BY3Rpb249Q2FsbFdpdGhCZWFyZXJUb2tlbiZY"
        "LUFtei1BbGdvcml0aG09QVdTNC1ITUFDLVNIQTI1NiZYLUFtei1DcmVkZW50aWFsPUFLSUFJT1NGT0ROTjdFWEFN"
        "UExFJTJGMjAyNDA2MTUlMkZldS1jZW50cmFsLTElMkZhd3MtZXh0ZXJuYWwtYW50aHJvcGljJTJGYXdzNF9yZXF1"
        "ZXN0JlgtQW16LURhdGU9MjAyNDA2MTVUMTIwMDAwWiZYLUFtei1FeHBpcmVzPTEmWC1BbXotU2lnbmVkSGVhZGVy"
        "cz1ob3N0JlgtQW16LVNpZ25hdHVyZT0yNzMzMDY1OWMwODlkZWI3N2QxOGIxYWI5M2M4N2EwYTMwZmVmNmI5YTJk"
        "MTJmYzlmMzcwMWUxNDI5NWNkMWZhJlZlcnNpb249MQ=="
    )),
]
TOKEN = PREFIX + TOKENS[0][4]
LONG_TERM = "AEAA" + b64encode(b"AeaApiKey-x7k2-at-123456789012:" + SECRET.encode()).decode()


# --- get_token, Token ---------------------------------------------------------------------

@pytest.mark.parametrize("credentials, region, expires_in, payload", cases(TOKENS))
def test_token_of_the_package(credentials, region, expires_in, payload):
    token = bt.get_token(credentials, region, expires_in, service=SERVICE, now=NOON)
    assert token == PREFIX + payload
    assert (token.service, token.region) == (SERVICE, region)
    assert token.expiration == NOON + timedelta(seconds=expires_in)


def test_bedrock_unless_named():
    token = bt.get_token(STATIC, "us-east-1", now=NOON)
    assert token.service == "bedrock"
    assert bt.Token(str(token), token.expiration, token.region).service == "bedrock"
    assert token == bt.get_token(STATIC, "us-east-1", service="bedrock", now=NOON)
    assert token.startswith("bedrock-api-key-")
    assert bt.provide_token("us-east-1", Loader()).service == "bedrock"


class Loader:
    def load(self):
        return STATIC


SERVICES = ["bedrock", SERVICE]


@pytest.mark.parametrize("service", SERVICES)
@pytest.mark.parametrize("duplicate", [
    copy.copy, copy.deepcopy, lambda token: pickle.loads(pickle.dumps(token)),
], ids=["copy", "deep copy", "pickle"])
def test_copies_of_a_token(duplicate, service):
    token = bt.get_token(STATIC, "us-east-1", service=service, now=NOON)
    twin = duplicate(token)
    assert (twin, twin.service, twin.region, twin.expiration) == (
        token, service, token.region, token.expiration)


def test_repr_of_a_token():
    token = bt.get_token(TEMPORARY, "us-west-2", service=SERVICE, now=NOON)
    assert PREFIX in repr(token) and "us-west-2" in repr(token)
    assert token[len(PREFIX):] not in repr(token) and token[-40:] not in repr(token)


@pytest.mark.parametrize("service", [
    "", "Bedrock", "bedrock ", "bedrock-runtime", "aws_external_anthropic", "sts", "s3", None, 7,
    b"bedrock", ["bedrock"], True,
], ids=repr)
def test_no_such_service(service, environ):
    variables = {**environ, "AWS_ACCESS_KEY_ID": "AKIAX", "AWS_SECRET_ACCESS_KEY": SECRET}
    for function in (
        lambda: bt.get_token(STATIC, "us-east-1", service=service, now=NOON),
        lambda: bt.get_token(region="us-east-1", service=service, environ=variables),
        lambda: bt.TokenProvider(STATIC, "us-east-1", service=service),
    ):
        with pytest.raises((ValueError, TypeError)):
            function()


def test_no_such_service_names_both():
    with pytest.raises(ValueError) as caught:
        bt.get_token(STATIC, "us-east-1", service="anthropic")
    assert "bedrock" in str(caught.value) and SERVICE in str(caught.value)


@pytest.mark.parametrize("value", [0, 43201, 0.4, True, "3600", float("nan")], ids=repr)
def test_lifetimes_refused(value):
    with pytest.raises((ValueError, TypeError)):
        bt.get_token(STATIC, "us-east-1", value, service=SERVICE)


def test_from_the_default_chain(environ):
    assert bt.get_token(environ={**environ, **CONFIGURED}, service=SERVICE, now=NOON) == TOKEN


# --- TokenProvider ------------------------------------------------------------------------

def test_provider():
    provider = bt.TokenProvider(
        STATIC, "us-east-1", service=SERVICE, clock=lambda: NOON.timestamp())
    assert provider() == provider.token() == provider.renew() == TOKEN
    assert provider().service == SERVICE
    twin = pickle.loads(pickle.dumps(bt.TokenProvider(STATIC, "us-east-1", service=SERVICE)))
    assert twin().service == SERVICE


# --- decode_token -------------------------------------------------------------------------

@pytest.mark.parametrize("credentials, region, expires_in, payload", cases(TOKENS))
def test_decode(credentials, region, expires_in, payload):
    assert bt.decode_token(PREFIX + payload) == {
        "kind": "short-term", "access_key_id": credentials.access_key_id, "region": region,
        "service": SERVICE, "issued_at": NOON, "expires_at": NOON + timedelta(seconds=expires_in),
        "expires_in": expires_in, "temporary": credentials.session_token is not None,
    }


def test_decode_in_another_order():
    """By name, never by position: another generator may sort."""
    host, _, query = b64decode(TOKENS[1][4]).decode().partition("?")
    payload = host + "?" + "&".join(sorted(query.split("&"))[::-1])
    token = PREFIX + b64encode(payload.encode()).decode()
    assert bt.decode_token(token) == bt.decode_token(PREFIX + TOKENS[1][4])


def test_decode_the_account():
    """The account of this key id is published with the finding that it encodes one."""
    credentials = bt.Credentials("ASIAQNZGKIQY56JQ7WML", SECRET, SESSION)
    token = bt.get_token(credentials, "us-east-1", service=SERVICE, now=NOON)
    assert bt.decode_token(token)["account_id"] == "029608264753"


@pytest.mark.parametrize("prefix, name, service, user_name", [
    ("AEAA", "AeaApiKey-x7k2", SERVICE, "AeaApiKey-x7k2"),
    ("AEAA", "AeaApiKey-x7k2+1", SERVICE, "AeaApiKey-x7k2"),
    ("ABSK", "BedrockAPIKey-ab12", "bedrock", "BedrockAPIKey-ab12"),
    ("ABSK", "BedrockAPIKey-ab12+1", "bedrock", "BedrockAPIKey-ab12"),
    ("ABSK", "BedrockAPIKey-ab12+12", "bedrock", "BedrockAPIKey-ab12"),
])
def test_decode_long_term(prefix, name, service, user_name):
    text = f"{name}-at-123456789012:{SECRET}"
    found = bt.decode_token(prefix + b64encode(text.encode()).decode())
    assert found == {"kind": "long-term", "service": service, "user_name": user_name,
                     "account_id": "123456789012"}


def encoded(text):
    return b64encode(text.encode()).decode()


PAYLOAD = b64decode(TOKENS[0][4]).decode()


@pytest.mark.parametrize("token", cases([
    ("the other prefix", "bedrock-api-key-" + TOKENS[0][4]),
    ("the other host", PREFIX + encoded(PAYLOAD.replace(SERVICE + ".", "bedrock.", 1))),
    ("the other service in the scope", PREFIX + encoded(PAYLOAD.replace("%2F" + SERVICE, "%2Fbedrock"))),
    ("cut off", TOKEN[:-9]), ("cut off at four", TOKEN[:-40]), ("prefix alone", PREFIX),
    ("damaged", TOKEN.replace("Q", "*", 1)),
    ("the other's user behind AEAA", "AEAA" + encoded("BedrockAPIKey-ab12-at-123456789012:secret")),
    ("the other's user behind ABSK", "ABSK" + encoded("AeaApiKey-ab12-at-123456789012:secret")),
    ("long-term without an account", "AEAA" + encoded("AeaApiKey-ab12:secret")),
    ("long-term without a secret", "AEAA" + encoded("AeaApiKey-ab12-at-123456789012")),
    ("long-term, cut off", LONG_TERM[:20]), ("AEAA alone", "AEAA"),
]))
def test_decode_refuses(token):
    with pytest.raises(ValueError) as caught:
        bt.decode_token(token)
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("token", [TOKEN, PREFIX + TOKENS[1][4], LONG_TERM], ids=["1", "2", "3"])
def test_decode_shows_no_secret(token):
    text = repr(bt.decode_token(token))
    for secret in (SECRET, SESSION, "2fe1d74aaedb28f2d032b681", token[-30:]):
        assert secret not in text


# --- command line -------------------------------------------------------------------------

def run(environ, *arguments, stdin="", **variables):
    # Windows' Python does not start without some of the system's own variables.
    result = subprocess.run(
        [sys.executable, "-m", "bedrock_token", *arguments], input=stdin, text=True,
        env={**os.environ, **environ, "AWS_ACCESS_KEY_ID": TEMPORARY.access_key_id,
             "AWS_SECRET_ACCESS_KEY": SECRET, "AWS_SESSION_TOKEN": SESSION,
             "AWS_REGION": "us-east-1", **variables},
        cwd=ROOT, capture_output=True, timeout=60)
    assert SECRET not in result.stderr and "Traceback" not in result.stderr
    return result


def minted(text):
    found = bt.decode_token(text)
    assert (found["service"], found["access_key_id"]) == (SERVICE, TEMPORARY.access_key_id)
    return text


def test_command_line(environ):
    result = run(environ, "--service", SERVICE)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.endswith("\n") and result.stdout.count("\n") == 1
    minted(result.stdout.strip())


def test_command_line_json(environ):
    document = json.loads(run(environ, "--service", SERVICE, "--format", "json").stdout)
    minted(document["token"])
    assert document["service"] == SERVICE
    assert json.loads(run(environ, "--format", "json").stdout)["service"] == "bedrock"


@pytest.mark.parametrize("format, pattern", [
    ("env", "export {}="), ("env-no-export", "{}="), ("powershell", "$Env:{}="),
    ("windows-cmd", "set {}="), ("fish", "set -gx {} "),
])
@pytest.mark.parametrize("arguments, variable", cases([
    ("its own variable", ["--service", SERVICE], VARIABLE),
    ("another variable", ["--service", SERVICE, "--var", "MY_KEY"], "MY_KEY"),
    ("Bedrock's", ["--service", "bedrock"], "AWS_BEARER_TOKEN_BEDROCK"),
]))
def test_command_line_formats(arguments, variable, format, pattern, environ):
    out = run(environ, *arguments, "--format", format).stdout
    assert pattern.format(variable) in out
    for other in {VARIABLE, "AWS_BEARER_TOKEN_BEDROCK"} - {variable}:
        assert other not in out
    assert "AWS_REGION" in out and "AWS_DEFAULT_REGION" in out


def test_command_line_no_such_service(environ):
    result = run(environ, "--service", "sts")
    assert (result.returncode, result.stdout) == (2, "")
    assert SERVICE in result.stderr


def test_command_line_exec(environ):
    program = f"import os; print(os.environ[{VARIABLE!r}], os.environ.get('AWS_BEARER_TOKEN_BEDROCK'))"
    result = run(environ, "exec", "--service", SERVICE, "--", sys.executable, "-c", program)
    assert result.returncode == 0
    token, other = result.stdout.split()
    minted(token)
    assert other == "None"


@pytest.mark.parametrize("token, says", [
    (TOKEN, [SERVICE, "us-east-1", STATIC.access_key_id]),
    (LONG_TERM, [SERVICE, "AeaApiKey-x7k2", "123456789012"]),
], ids=["short-term", "long-term"])
def test_command_line_inspect(token, says, environ):
    result = run(environ, "inspect", stdin=token + "\n")
    for word in says:
        assert word in result.stdout
    document = json.loads(run(environ, "inspect", "--format", "json", stdin=token).stdout)
    assert document["service"] == SERVICE
    assert SECRET not in result.stdout
