"""Text in and out: UTF-8 in pipes whatever the locale says, and nothing beside the answer."""

import json
import os
import re
from base64 import b64encode

import pytest

import bedrock_token as bt
from tests import fake_aws
from tests.command_line import (
    MODULE, at, child, ended, failure, on_posix, read_until, start_in_terminal,
)
from tests.fake_aws import event
from tests.helpers import KEY_ID, MODEL, SECRET, STATIC, cases


pytestmark = pytest.mark.usefixtures("usual_environment")


HELLO = "Grüße, 你好 🙂"
START, _, _, *END = [event(*each) for each in fake_aws.EVENTS]
PARTS = [START, event("contentBlockDelta", {"delta": {"text": HELLO}, "contentBlockIndex": 0}), *END]
TALK = ("converse", "--model", MODEL)


# --- encodings -----------------------------------------------------------------------------

LOCALES = [
    ("UTF-8", {"LC_ALL": "C.UTF-8"}),
    ("C", {"LC_ALL": "C"}),
    ("C, not coerced", {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}),
    *((name, {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONIOENCODING": name})
      for name in ("ascii", "latin-1", "cp1252")),
]


@pytest.mark.parametrize("env", cases(LOCALES))
def test_pipes_are_utf_8(env):
    """What other programs read and write, not what this machine's settings would be."""
    env = {"PYTHONUTF8": None, "PYTHONIOENCODING": None, "PYTHONCOERCECLOCALE": None, **env}
    with fake_aws.BedrockRuntime(parts=PARTS) as fake:
        result = child(*TALK, stdin=HELLO.encode(), env={**at(fake), **env})
    assert result == (0, HELLO + "\n", "")
    [request] = fake.requests
    assert request.json["messages"][0]["content"] == [{"text": HELLO}]


ENCODINGS = [
    # what Windows writes into files and pipes: an encoding that is known by its first bytes
    ("UTF-8", "utf-8"), ("UTF-8 with a mark", "utf-8-sig"),
    ("UTF-16, little end first", "utf-16-le"), ("UTF-16, big end first", "utf-16-be"),
]


def encoded(text, encoding):
    mark = "\ufeff" if encoding.startswith("utf-16") else ""
    return (mark + text).encode(encoding)


@pytest.mark.parametrize("end", ["", "\n", "\r\n"], ids=["no line end", "LF", "CR LF"])
@pytest.mark.parametrize("encoding", cases(ENCODINGS))
def test_inspect_reads(encoding, end, cli):
    token = str(bt.get_token(STATIC, "us-east-1"))
    result = cli("inspect", "--format", "json", stdin=encoded(token + end, encoding))
    assert (result.status, result.err) == (0, "")
    facts = json.loads(result.out)
    assert (facts["access_key_id"], facts["valid"], facts["warnings"]) == (KEY_ID, True, [])


@pytest.mark.parametrize("encoding", cases(ENCODINGS))
def test_converse_reads(encoding, cli):
    with fake_aws.BedrockRuntime() as fake:
        assert cli(*TALK, stdin=encoded(HELLO, encoding), env=at(fake)).status == 0
    [request] = fake.requests
    assert request.json["messages"][0]["content"] == [{"text": HELLO}]


BROKEN = [
    ("half a character of UTF-16", encoded("bedrock-api-key-", "utf-16-le")[:-1]),
    ("half of a pair", "\ufeff\ud83d".encode("utf-16-le", "surrogatepass")),
    ("UTF-16 in name only", b"\xff\xfebedrock-api-key-YmVk"),
    ("not UTF-8", b"bedrock-api-key-\xff\xff"),
    ("a mark alone", b"\xef\xbb\xbf"),
    ("another mark alone", b"\xff\xfe"),
]


@pytest.mark.parametrize("stdin", cases(BROKEN))
def test_inspect_of_what_is_no_text(stdin, cli):
    assert failure(cli("inspect", stdin=stdin))


# --- nothing beside the answer -------------------------------------------------------------

SILENT = [
    ("converse", TALK, b"Hi", "Hello, world\n"),
    ("converse with a text", (*TALK, "Hi"), b"", "Hello, world\n"),
    ("converse, quietly", (*TALK, "-q", "Hi"), b"", "Hello, world\n"),
    ("check", ("check",), b"", "accepted in us-east-1"),
    ("check of a model", ("check", "--model", MODEL), b"", "accepted in us-east-1"),
]


@pytest.mark.parametrize("args, stdin, want", cases(SILENT))
def test_success_is_silent(args, stdin, want, cli):
    with fake_aws.BedrockRuntime() as fake:
        result = cli(*args, stdin=stdin, env=at(fake))
    assert (result.status, result.err) == (0, "")
    assert result.out.startswith(want) and result.out.count("\n") == 1


@on_posix
def test_converse_has_no_footer_on_a_terminal(terminal):
    ours, theirs = terminal
    with fake_aws.BedrockRuntime() as fake:
        process = start_in_terminal(theirs, [*MODULE, *TALK, "Hi"], at(fake), stdin=theirs,
                                    stdout=theirs, stderr=theirs)
        shown = read_until(b"\n", ours)
        assert ended(process).status == 0
    os.write(theirs, b"END")
    assert shown + read_until(b"END", ours) == "Hello, world\r\nEND"


# --- long-term keys ------------------------------------------------------------------------

def key(prefix, name):
    return prefix + b64encode(name.encode() + b":" + SECRET.encode()).decode()


LONG_TERM = [
    # key, the IAM user
    ("first key", key("ABSK", "BedrockAPIKey-x7k2-at-123456789012"), "BedrockAPIKey-x7k2"),
    ("second key", key("ABSK", "BedrockAPIKey-x7k2+1-at-123456789012"), "BedrockAPIKey-x7k2"),
    ("later key", key("ABSK", "BedrockAPIKey-x7k2+12-at-123456789012"), "BedrockAPIKey-x7k2"),
    ("user with -at-", key("ABSK", "BedrockAPIKey-me-at-work-at-123456789012"),
     "BedrockAPIKey-me-at-work"),
    ("other service", key("AEAA", "AeaApiKey-x7k2-at-123456789012"), "AeaApiKey-x7k2"),
    ("its second key", key("AEAA", "AeaApiKey-x7k2+1-at-123456789012"), "AeaApiKey-x7k2"),
]


@pytest.mark.parametrize("key, user", cases(LONG_TERM))
def test_user_of_a_long_term_key(key, user, cli):
    facts = bt.decode_token(key)
    assert (facts["kind"], facts["user_name"], facts["account_id"]) == (
        "long-term", user, "123456789012")
    shown = cli("inspect", stdin=key.encode()).out
    assert re.search(f"^user name +{re.escape(user)}$", shown, re.MULTILINE)
