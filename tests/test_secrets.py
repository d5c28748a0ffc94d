"""Nothing that is shown, raised or printed holds a secret."""

import io
import json
import os
import pprint
import sys
from base64 import b64encode
from datetime import datetime, timezone
from pathlib import Path
from types import SimpleNamespace

import pytest

import bedrock_token as bt
from tests import fake_aws
from tests.helpers import (
    KEY_ID, LOGIN_CACHE, MESSAGES, NOON, ROLE, SSO_CACHE, cases, check_side_by_side, environ_in, everything_in,
)

# A secret in any output would bring its first word along. No source line below holds it,
# since tracebacks quote those.
PLANTED = "Planted"
SECRET = f"{PLANTED}/secretAccessKey0123456789abcdefghi"
SESSION = f"{PLANTED}/sessionToken+0123456789=="
PASSWORD = f"{PLANTED}-password"
SPACED = f"{PLANTED} secret"
BROKEN = f"{PLANTED}\nsecret"
BYTES = SECRET.encode()
ENDED = datetime(2020, 1, 1, tzinfo=timezone.utc)
CREDENTIALS = bt.Credentials("ASIAIOSFODNN7EXAMPLE", SECRET, SESSION)
EXPIRED = bt.Credentials("ASIAIOSFODNN7EXAMPLE", SECRET, SESSION, ENDED)
TOKEN = bt.get_token(CREDENTIALS, "us-east-1")
OLD_TOKEN = bt.get_token(CREDENTIALS, "us-east-1", now=NOON)
LONG_TERM = "ABSK" + b64encode(f"BedrockAPIKey-ab12-at-123456789012:{SECRET}".encode()).decode()
CUT_LONG_TERM = "ABSK" + b64encode(BYTES).decode()
NOT_TEXT = "bedrock-api-key-" + b64encode(BYTES + b"\xff").decode()
TWICE = "bedrock-api-key-" + b64encode(f"bedrock.amazonaws.com/?a={SECRET}&a=1".encode()).decode()

# The first word as base64 shows it at each of the three places where it can stand in a group.
IN_BASE64 = [b64encode(before + PLANTED.encode()).decode()[start:start + 8]
             for before, start in ((b"", 0), (b"a", 2), (b"ab", 3))]


def leaks(text):
    """Which secrets are in the text, as they are or encoded as in a token or a header."""
    return [part for part in (PLANTED, *IN_BASE64, TOKEN[-40:], OLD_TOKEN[-40:]) if part in text]


@pytest.mark.parametrize("text", cases([
    ("as it is", f"x {SECRET}"),
    ("bytes", repr(BYTES)),
    ("token", str(TOKEN)),
    ("old token", str(OLD_TOKEN)),
    ("long-term key", LONG_TERM),
    ("damaged long-term key", CUT_LONG_TERM),
    ("token that is not text", NOT_TEXT),
    ("token with a parameter twice", TWICE),
    *((f"base64 from {len(user)}", b64encode(user + BYTES).decode())
      for user in (b"", b"a:", b"ab:")),
]))
def test_leaks_are_found(text):
    assert leaks(text)


@pytest.mark.parametrize("thing", cases([
    ("Credentials", CREDENTIALS),
    ("credentials that have ended", EXPIRED),
    ("TokenProvider", bt.TokenProvider(CREDENTIALS, "us-east-1")),
    ("source of a role", bt.assume_role(ROLE, credentials=CREDENTIALS)),
    ("decoded", bt.decode_token(TOKEN)),
    ("decoded long-term key", bt.decode_token(LONG_TERM)),
    ("Token", TOKEN),
]))
def test_nothing_shows_a_secret(thing):
    shown = [repr(thing), "%r" % (thing,), f"{thing!r:>200}", f"{[thing]} {(thing,)}",
             str({"thing": thing}), pprint.pformat([thing])]
    if not isinstance(thing, str):
        shown += [str(thing), f"{thing}", f"{thing!s}"]
    assert [text for text in shown if leaks(text)] == []


class Unhelpful(fake_aws.Fake):
    """Documents with secrets that are of no use, and a refusal for everything else."""

    def reply(self, request):
        document = {"AccessKeyId": "ASIAEXAMPLE", "SecretAccessKey": SECRET, "Token": SESSION,
                    "Expiration": "2020-01-01T00:00:00Z"}
        answers = {
            "/expired": document,
            "/half": {**document, "Expiration": None},
            "/blank": {**document, "SecretAccessKey": SPACED},
            "/type": {**document, "Expiration": [SECRET]},
            "/list": json.dumps([SECRET]),
            "/broken": json.dumps(document)[:-9],
            "/not-utf-8": BYTES + b"\xff",
            "/cut": fake_aws.truncated(BYTES),
            "/model/xml/converse": BYTES,
            "/model/cut/converse": fake_aws.truncated(BYTES),
        }
        found = answers.get(request.path)
        fake_aws.require(found is not None, 403, "AccessDeniedException", fake_aws.NOT_VALID)
        return found if callable(found) else fake_aws.answer(200, found)


@pytest.fixture
def unhelpful():
    with Unhelpful() as service:
        yield service


def lookup(environ):
    return bt.load_credentials(environ=environ)


def converse(**options):
    return lambda environ: bt.converse(options.pop("model", "m"), MESSAGES, environ=environ,
                                       **{"token": OLD_TOKEN, **options})


SSO_CONFIG = """\
[default]
sso_session = corp
sso_account_id = 123456789012
sso_role_name = Reader
[sso-session corp]
sso_region = us-east-1
sso_start_url = https://corp.awsapps.com/start
"""
LOGIN_CONFIG = "[default]\nlogin_session = me\n"
SSO_SESSION = {
    "accessToken": SECRET, "expiresAt": "2020-01-01T00:00:00Z", "clientId": "id",
    "clientSecret": SECRET, "refreshToken": SECRET, "registrationExpiresAt": "2120-01-01T00:00:00Z",
}
VALID_SSO_SESSION = {**SSO_SESSION, "expiresAt": "2120-01-01T00:00:00Z"}
PRINTED = json.dumps({"Version": 1, "AccessKeyId": "a", "SecretAccessKey": SECRET,
                      "Expiration": "2020-01-01T00:00:00Z"})

# What is set in the environment ({url}: the unhelpful service's), what is in which file, the call.
FAILING = [
    ("a blank in a key", {}, {}, lambda _: bt.Credentials("AKIA", SPACED)),
    ("a line break in a key", {}, {}, lambda _: bt.Credentials("AKIA", SECRET, BROKEN)),
    ("bytes for a key", {}, {}, lambda _: bt.Credentials("AKIA", BYTES)),
    ("an expiration without a zone", {}, {},
     lambda _: bt.Credentials("AKIA", SECRET, SESSION, datetime(2024, 1, 1))),
    # What boto3.Session takes in this order.
    ("keys as arguments", {}, {}, lambda _: bt.get_token(KEY_ID, SECRET, SESSION)),
    ("keys as arguments of a provider", {}, {},
     lambda _: bt.TokenProvider(KEY_ID, SECRET, SESSION)),
    ("a secret for a region", {}, {}, lambda _: bt.get_token(CREDENTIALS, SECRET)),
    ("a secret for a lifetime", {}, {}, lambda _: bt.get_token(CREDENTIALS, "us-east-1", SECRET)),
    ("a dict for credentials", {}, {}, lambda _: bt.get_token({"secret_key": SECRET}, "us-east-1")),
    ("half an object for credentials", {}, {},
     lambda _: bt.get_token(SimpleNamespace(access_key="a", secret_key=SECRET), "us-east-1")),
    ("an object with a bad key", {}, {}, lambda _: bt.get_token(
        SimpleNamespace(access_key="a", secret_key=SPACED, token=None), "us-east-1")),
    ("a callable that returns keys", {}, {}, lambda _: bt.get_token(lambda: SECRET, "us-east-1")),
    ("credentials that have ended", {}, {}, lambda _: bt.get_token(EXPIRED, "us-east-1")),
    ("no lifetime", {}, {}, lambda _: bt.get_token(CREDENTIALS, "us-east-1", 0)),
    ("a time without a zone", {}, {},
     lambda _: bt.get_token(CREDENTIALS, "us-east-1", now=datetime(2024, 1, 1))),
    ("a provider's credentials have ended", {}, {},
     lambda _: bt.TokenProvider(EXPIRED, "us-east-1").token()),
    ("presigning for no host", {}, {}, lambda _: bt.presign(
        "GET", "a b", service="s3", region="us-east-1", credentials=CREDENTIALS)),
    ("presigning a header with a line break", {}, {}, lambda _: bt.presign(
        "GET", "a", headers=[("x", BROKEN)], service="s3", region="us-east-1",
        credentials=CREDENTIALS)),
    ("a damaged token", {}, {}, lambda _: bt.decode_token(OLD_TOKEN[:-6])),
    ("a token that is not base64", {}, {}, lambda _: bt.decode_token(OLD_TOKEN + "\n")),
    ("a token that is not text", {}, {}, lambda _: bt.decode_token(NOT_TEXT)),
    ("a token that says something twice", {}, {}, lambda _: bt.decode_token(TWICE)),
    ("a damaged long-term key", {}, {}, lambda _: bt.decode_token(CUT_LONG_TERM)),
    ("no token at all", {}, {}, lambda _: bt.decode_token(SECRET)),

    ("environment: half", {"AWS_SECRET_ACCESS_KEY": SECRET}, {}, lookup),
    ("environment: a blank", {
        "AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": SPACED}, {}, lookup),
    ("environment: swapped with the expiration", {
        "AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_CREDENTIAL_EXPIRATION": SESSION}, {}, lookup),
    ("environment: expired", {
        "AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": SECRET, "AWS_SESSION_TOKEN": SESSION,
        "AWS_CREDENTIAL_EXPIRATION": "2020-01-01T00:00:00Z"}, {}, lookup),
    ("environment: a secret for a region", {
        "AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": SECRET, "AWS_REGION": SECRET}, {},
     lambda environ: bt.get_token(environ=environ)),

    ("file: no equals sign", {},
     {".aws/credentials": f"[default]\naws_secret_access_key {SECRET}\n"}, lookup),
    ("file: no section", {}, {".aws/credentials": f"aws_secret_access_key = {SECRET}\n"}, lookup),
    ("file: an open section", {}, {".aws/credentials": f"[default {SECRET}\n"}, lookup),
    ("file: a bad sub-property", {}, {".aws/config": f"[default]\ns3 =\n  {SECRET}\n"}, lookup),
    ("file: a stray continuation", {}, {".aws/config": f"[default]\n  {SECRET}\n"}, lookup),
    ("file: not text", {}, {".aws/credentials": b"[default]\n" + BYTES + b"\xff\n"}, lookup),
    ("file: half", {}, {
        ".aws/credentials": f"[default]\naws_secret_access_key = {SECRET}\n"}, lookup),
    ("file: a blank", {}, {".aws/credentials":
     f"[default]\naws_access_key_id = a\naws_secret_access_key = {SPACED}\n"}, lookup),

    ("sso: expired and refused", {}, {
        ".aws/config": SSO_CONFIG, SSO_CACHE: json.dumps(SSO_SESSION)}, lookup),
    ("sso: refused", {}, {
        ".aws/config": SSO_CONFIG, SSO_CACHE: json.dumps(VALID_SSO_SESSION)}, lookup),
    ("sso: token with a blank", {}, {".aws/config": SSO_CONFIG, SSO_CACHE: json.dumps(
        {**VALID_SSO_SESSION, "accessToken": SPACED, "refreshToken": ""})}, lookup),
    ("login: no AWS CLI", {"PATH": "/nowhere"}, {
        ".aws/config": LOGIN_CONFIG, LOGIN_CACHE: json.dumps(
            {"accessToken": {"secretAccessKey": SECRET, "expiresAt": SECRET}})}, lookup),
    ("program: not there", {}, {
        ".aws/config": f"[default]\ncredential_process = /nowhere/tool {SECRET}\n"}, lookup),
    ("program: an open quote", {}, {
        ".aws/config": f"[default]\ncredential_process = tool '{SECRET}\n"}, lookup),
    ("program: fails", {}, {".aws/config":
     f"[default]\ncredential_process = sh -c 'echo {SECRET}; exit 3'\n"}, lookup),
    ("program: not JSON", {}, {
        ".aws/config": f"[default]\ncredential_process = echo {SECRET}\n"}, lookup),
    ("program: expired", {}, {
        ".aws/config": f"[default]\ncredential_process = echo '{PRINTED}'\n"}, lookup),
    ("role: refused", {"AWS_REGION": "us-east-1"}, {}, lambda environ: bt.assume_role(
        ROLE, credentials=CREDENTIALS, external_id=SECRET, environ=environ)()),
    ("role: bad code", {"AWS_REGION": "us-east-1"}, {}, lambda environ: bt.assume_role(
        ROLE, credentials=CREDENTIALS, mfa_serial="me", mfa_code=lambda _: SECRET,
        environ=environ)()),
    ("web identity: refused", {"AWS_WEB_IDENTITY_TOKEN_FILE": "~/token", "AWS_ROLE_ARN": ROLE,
                               "AWS_REGION": "us-east-1"}, {"token": SECRET}, lookup),
    ("web identity: not text", {"AWS_WEB_IDENTITY_TOKEN_FILE": "~/token", "AWS_ROLE_ARN": ROLE},
     {"token": BYTES + b"\xff"}, lookup),
    *((f"container: {path}", {"AWS_CONTAINER_CREDENTIALS_FULL_URI": "{url}/" + path,
                              "AWS_CONTAINER_AUTHORIZATION_TOKEN": SECRET}, {}, lookup)
      for path in ("expired", "half", "blank", "type", "list", "broken", "not-utf-8", "cut", "no")),
    ("container: a line break in the token", {
        "AWS_CONTAINER_CREDENTIALS_FULL_URI": "{url}/",
        "AWS_CONTAINER_AUTHORIZATION_TOKEN": BROKEN}, {}, lookup),
    ("container: a password in the address", {
        "AWS_CONTAINER_CREDENTIALS_FULL_URI": f"http://me:{PASSWORD}@127.0.0.1/"}, {}, lookup),

    ("converse: refused", {}, {}, converse()),
    ("converse: not JSON", {}, {}, converse(model="xml")),
    ("converse: cut off", {}, {}, converse(model="cut")),
    ("converse: nobody there", {"AWS_ENDPOINT_URL": "{nobody}", "AWS_MAX_ATTEMPTS": "1"}, {}, converse()),
    ("converse: other region", {}, {}, converse(region="eu-west-1")),
    ("converse: line break", {}, {}, converse(token=OLD_TOKEN + "\n")),
    ("converse: bytes", {}, {}, converse(token=BYTES)),
    ("converse: line break in the environment", {"AWS_BEARER_TOKEN_BEDROCK": BROKEN}, {},
     converse(token=None)),
    ("converse: dead proxy", {
        "http_proxy": "http://me:" + PASSWORD + "@{nobody_address}", "AWS_MAX_ATTEMPTS": "1"}, {}, converse()),
    ("converse: no proxy", {"http_proxy": f"http://me:{PASSWORD}@:x"}, {}, converse()),
    ("endpoint with a password", {"AWS_ENDPOINT_URL": f"http://me:{PASSWORD}@127.0.0.1/"}, {},
     converse()),
]


def leaks_of_an_error(variables, files, call, environ, unhelpful):
    nobody = fake_aws.refused_url()
    places = {"{url}": unhelpful.url, "{nobody}": nobody,
              "{nobody_address}": nobody.partition("://")[2]}
    environ.update({"AWS_ENDPOINT_URL": unhelpful.url, "PATH": os.environ["PATH"]})
    for name, value in variables.items():
        for place, url in places.items():
            value = value.replace(place, url)
        environ[name] = value
    for name, content in files.items():
        path = Path(environ["HOME"], name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises((bt.BedrockTokenError, ValueError, TypeError)) as caught:
        call(environ)
    return leaks(everything_in(caught.value))


@pytest.mark.parametrize("variables, files, call", cases(FAILING))
def test_no_error_shows_a_secret(variables, files, call, environ, unhelpful):
    assert leaks_of_an_error(variables, files, call, environ, unhelpful) == []


def test_no_error_shows_a_secret_of_a_damaged_cache(unhelpful, tmp_path):
    def check(files):
        assert leaks_of_an_error({}, files, lookup, environ_in(tmp_path), unhelpful) == []

    check_side_by_side(check, [
        ("sso", {".aws/config": SSO_CONFIG, SSO_CACHE: json.dumps(SSO_SESSION)[:-2]}),
        ("login", {".aws/config": LOGIN_CONFIG, LOGIN_CACHE: f'{{"{SECRET}'})])


@pytest.mark.parametrize("arguments, stdin", cases([
    ("a token as argument", [TOKEN], ""),
    ("a token as argument of inspect", ["inspect", TOKEN], ""),
    ("a token as argument of check", ["check", TOKEN], ""),
    ("a token as option", [f"--token={TOKEN}"], ""),
    ("a token as format", ["--format", TOKEN], ""),
    ("a token as format of inspect", ["inspect", "--format", TOKEN], ""),
    ("a token as region", ["--region", TOKEN], ""),
    ("a secret as region", ["--region", SECRET], ""),
    ("a token as lifetime", ["--expires-in", TOKEN], ""),
    ("a token as variable", ["--format", "env", "--var", TOKEN], ""),
    ("a token as timeout", ["check", "--timeout", TOKEN], ""),
    ("a token as quiet", [f"--quiet={TOKEN}"], ""),
    ("inspect", ["inspect"], str(TOKEN)),
    ("inspect for programs", ["inspect", "--format", "json"], str(TOKEN)),
    ("inspect a damaged one", ["inspect"], TOKEN[:-6]),
    ("inspect a long-term one", ["inspect"], LONG_TERM),
    ("check", ["check"], ""),
    ("check of a model", ["check", "--model", "m"], ""),
    ("converse", ["converse", "--model", "m", "Hi"], ""),
    ("exec of nothing", ["exec", "--", "/nowhere/nothing"], ""),
]))
def test_no_command_shows_a_secret(arguments, stdin, unhelpful, monkeypatch, capsys):
    variables = {
        "AWS_ACCESS_KEY_ID": KEY_ID, "AWS_SECRET_ACCESS_KEY": SECRET, "AWS_SESSION_TOKEN": SESSION,
        "AWS_REGION": "us-east-1", "AWS_ENDPOINT_URL": unhelpful.url,
    }
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin.encode())))
    bt.main(arguments)
    out, err = capsys.readouterr()
    assert out + err
    assert leaks(out + err) == []
