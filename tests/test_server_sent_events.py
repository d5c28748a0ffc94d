"""Server-sent events: how they are read, when they are complete, and what ends the connection.

https://html.spec.whatwg.org/multipage/server-sent-events.html#event-stream-interpretation
"""

import gc
import json
import os
import subprocess
import sys
import threading

import pytest

import bedrock_token as bt
from tests import fake_aws
from tests.fake_aws import REQUEST_ID
from tests.fake_bedrock import (
    CHAT, CHAT_PARTS, MESSAGES, MESSAGES_PARTS, RESPONSES, RESPONSES_PARTS, Bedrock, data,
    server_sent,
)
from tests.helpers import ROOT, STATIC, cases, cpython

TOKEN = bt.get_token(STATIC, "us-east-1")
CHAT_PATH = "/openai/v1/chat/completions"
RESPONSES_PATH = "/openai/v1/responses"
MESSAGES_PATH = "/anthropic/v1/messages"
DONE = b"data: [DONE]\n\n"


@pytest.fixture
def bedrock():
    with Bedrock() as fake:
        yield fake


@pytest.fixture
def begin(environ, bedrock):
    """A stream that consists of these parts."""
    def begin(parts, path=CHAT_PATH, framing="chunked", timeout=20, **options):
        bedrock.faults += [server_sent(parts, framing, **options)]
        environ["AWS_ENDPOINT_URL"] = bedrock.url
        return bt.call_stream(path, {"model": "m", "stream": True}, token=TOKEN, environ=environ,
                              timeout=timeout)

    return begin


# --- the lines ----------------------------------------------------------------------------

@pytest.mark.parametrize("text, want", cases([
    ("LF", 'data: {"a": 1}\n\n', [{"a": 1}]),
    ("CR LF", 'data: {"a": 1}\r\n\r\n', [{"a": 1}]),
    ("CR", 'data: {"a": 1}\r\r', [{"a": 1}]),
    ("all three", 'data: {"a": 1}\r\n\ndata: {"a": 2}\r\r\ndata: {"a": 3}\n\r', [
        {"a": 1}, {"a": 2}, {"a": 3}]),
    ("no blank after the colon", 'data:{"a": 1}\n\n', [{"a": 1}]),
    ("more blanks after the colon", 'data:   {"a": 1}\n\n', [{"a": 1}]),
    ("several lines of data", 'data: {"a":\ndata: [1,\ndata:2]\ndata: }\n\n', [{"a": [1, 2]}]),
    ("several lines of data, CR LF", 'data: {"a":\r\ndata: 1}\r\n\r\n', [{"a": 1}]),
    ("a line of data without a colon", 'data: {"a":\ndata\ndata: 1}\n\n', [{"a": 1}]),
    ("comments", ': hello\n\n:\n\ndata: {"a": 1}\n: inside\n\n: keep-alive\n\n', [{"a": 1}]),
    ("a comment between lines of data", 'data: {"a":\n: no data\ndata: 1}\n\n', [{"a": 1}]),
    ("other fields", 'event: x\nid: 7\nretry: 10\ndata: {"a": 1}\n\n', [{"a": 1}]),
    ("other fields after it", 'data: {"a": 1}\nevent: x\nid: 7\n\n', [{"a": 1}]),
    ("unknown fields", 'datum: 7\nDATA: 8\n data: 9\ndata : 10\nwhat\ndata: {"a": 1}\n\n', [{"a": 1}]),
    ("an event without data", 'event: ping\n\ndata: {"a": 1}\n\n', [{"a": 1}]),
    ("many blank lines", '\n\n\ndata: {"a": 1}\n\n\n\ndata: {"a": 2}\n\n', [{"a": 1}, {"a": 2}]),
    ("a byte order mark", '\ufeffdata: {"a": 1}\n\n', [{"a": 1}]),
    ("a byte order mark later", 'data: {"a": 1}\n\n\ufeffdata: {"a": 2}\n\n', [{"a": 1}]),
    ("a byte order mark inside", 'data: {"a": "\ufeff"}\n\n', [{"a": "\ufeff"}]),
    ("other letters", 'data: {"a": "é\u2028\u2029\x85\U0001F600"}\n\n', [
        {"a": "é\u2028\u2029\x85\U0001F600"}]),
    ("vertical tab and form feed end no line", ': a\x0bdata: 1\x0cdata: 2\ndata: {"a": 1}\n\n', [
        {"a": 1}]),
    ("a colon in the value", 'data: {"a": "data: b\\n\\n"}\n\n', [{"a": "data: b\n\n"}]),
    ("[DONE] inside an event", 'data: {"a": "[DONE]"}\n\n', [{"a": "[DONE]"}]),
]))
@pytest.mark.parametrize("framing", ["chunked", "counted", "closed"])
def test_lines(framing, text, want, begin):
    assert list(begin([text.encode(), DONE], framing=framing)) == want


# Cut in two at any of its bytes: also between CR and LF, inside a letter, and inside the mark.
ALL_KINDS = (
    '\ufeff: hi\r\n\r\ndata: {"é": 1}\r\n\r\ndata: {"\U0001F600":\r\ndata: 2\rdata: }\r\revent: x\n'
    'data:{"a": 3}\n\ndata: [DONE]\r\n\r\n'
).encode()
ALL = [{"é": 1}, {"\U0001F600": 2}, {"a": 3}]


def test_lines_cut_at_every_byte(begin):
    for at in range(1, len(ALL_KINDS)):
        assert list(begin([ALL_KINDS[:at], ALL_KINDS[at:]])) == ALL, f"cut at byte {at}"


def test_lines_that_come_byte_by_byte(begin):
    assert list(begin([ALL_KINDS[at:at + 1] for at in range(len(ALL_KINDS))])) == ALL


@pytest.mark.parametrize("end", [b"\n", b"\r\n"], ids=ascii)
def test_event_is_there_with_its_blank_line(end, begin):
    rest = threading.Event()
    events = begin([data({"a": 1}).replace(b"\n", end), rest, DONE])
    assert next(events) == {"a": 1}
    rest.set()
    assert list(events) == []


@pytest.mark.parametrize("text", [
    'data: {"a": "%s"}\n\n', 'data: {"a":\ndata: "%s"}\n\n', ': %s\ndata: {"a": ""}\n\n',
], ids=["one line", "several lines", "comment"])
def test_event_of_three_megabytes(text, begin):
    filling = "é" * 1_500_000
    whole = (text % filling).encode()
    parts = [whole[at:at + 50_000] for at in range(0, len(whole), 50_000)]
    event, = begin([*parts, DONE])
    assert event["a"] in (filling, "")


def test_many_lines_of_data(begin):
    """Ten thousand lines make one event."""
    lines = b"".join(b"data: %d,\n" % number for number in range(10_000))
    event, = begin([b'data: {"a": [\n', lines, b"data: 0]}\n\n", DONE])
    assert len(event["a"]) == 10_001


@pytest.mark.parametrize("parts", cases([
    ("a line", [b"data: " + b" " * 1_000_000] + [b" " * 1_000_000] * 30),
    ("lines of data", [b"data: " + b" " * 999_990 + b"\n"] * 31),
]))
def test_endless_event(parts, begin):
    """An event has a limit, as those of the other kind have."""
    with pytest.raises(bt.BedrockTokenError):
        list(begin([*parts, b"{}\n\n", DONE]))


# --- what is no event ---------------------------------------------------------------------

@pytest.mark.parametrize("text", cases([
    ("half a document", b'data: {"a": \n\n'), ("no document", b"data: hello\n\n"),
    ("HTML", b"<html></html>\ndata: <p>\n\n"), ("not UTF-8", b'data: {"a": "\xff"}\n\n'),
    ("nested endlessly", b"data: " + b"[" * 100_000 + b"\n\n"),
]))
def test_damaged(text, begin):
    events = begin([data({"a": 1}), text, DONE])
    assert next(events) == {"a": 1}
    with pytest.raises(bt.BedrockTokenError) as caught:
        next(events)
    assert not isinstance(caught.value, bt.BedrockError)
    assert str(TOKEN) not in str(caught.value)
    with pytest.raises(StopIteration):
        next(events)


MIB = 1024 * 1024


@pytest.mark.parametrize("parts", cases([
    ("one line", [b"data: " + 24 * MIB * b"x"]),
    ("many lines", 24 * [b"data: " + MIB * b"x" + b"\n"]),
]))
def test_event_of_24_mib(parts, begin):
    with pytest.raises(bt.BedrockTokenError, match="too long"):
        list(begin([*parts, b"\n\n", DONE]))


THROTTLED = {"message": "Too many tokens", "type": "throttling_error", "code": "ThrottlingException"}


@pytest.mark.parametrize("path, parts, code, message", cases([
    ("as an answer has it", CHAT_PATH, [data({"error": THROTTLED})],
     "ThrottlingException", "Too many tokens"),
    ("by its name", RESPONSES_PATH, [data({"error": THROTTLED}, "error")],
     "ThrottlingException", "Too many tokens"),
    ("by its type", MESSAGES_PATH, [data({"type": "error", "error": {
        "type": "overloaded_error", "message": "Overloaded"}}, "error")],
     "overloaded_error", "Overloaded"),
    ("without a code", CHAT_PATH, [data({"error": {**THROTTLED, "code": None}})],
     "throttling_error", "Too many tokens"),
    ("its type alone", MESSAGES_PATH, [data({"type": "error", "message": "no", "code": "x"})], "x", "no"),
    ("without a code and a type", CHAT_PATH, [data({"error": {"message": "no"}})], "", "no"),
    ("without anything", CHAT_PATH, [data({"error": {}})], "", "no message"),
    ("several lines", CHAT_PATH, [b'data: {"error":\ndata: {"message": "no", "code": "x"}}\n\n'],
     "x", "no"),
    ("followed by the end", CHAT_PATH, [data({"error": THROTTLED}), DONE],
     "ThrottlingException", "Too many tokens"),
]))
def test_error_inside(path, parts, code, message, begin, bedrock):
    events = begin([data({"a": 1}), *parts], path)
    assert next(events) == {"a": 1}
    with pytest.raises(bt.BedrockError) as caught:
        next(events)
    error = caught.value
    assert (error.code, error.message, error.request_id) == (code, message, REQUEST_ID[1])
    with pytest.raises(StopIteration):
        next(events)
    assert len(bedrock.requests) == 1


def test_no_error_at_all(begin):
    """A response that is well has the field, with nothing in it."""
    document = {"type": "response.in_progress", "error": None, "response": {"error": None}}
    events = begin([data(document, document["type"]), *RESPONSES_PARTS], RESPONSES_PATH)
    assert list(events) == [document, *RESPONSES]


def test_error_inside_shows_no_secret(begin):
    with pytest.raises(bt.BedrockError) as caught:
        list(begin([data({"error": {"message": f"key {TOKEN} \x1b[2J", "code": str(TOKEN)}})]))
    assert str(TOKEN) not in str(caught.value) + repr(caught.value.args) + caught.value.code
    assert "\x1b" not in str(caught.value)


# --- the end ------------------------------------------------------------------------------

PROTOCOLS = [
    ("Chat Completions", CHAT_PATH, CHAT_PARTS, CHAT),
    ("Chat Completions elsewhere", "/v1/chat/completions", CHAT_PARTS, CHAT),
    ("Responses", RESPONSES_PATH, RESPONSES_PARTS, RESPONSES),
    ("Responses elsewhere", "/v1/responses", RESPONSES_PARTS, RESPONSES),
    ("Messages", MESSAGES_PATH, MESSAGES_PARTS, MESSAGES),
]


@pytest.mark.parametrize("framing", ["chunked", "counted", "closed"])
@pytest.mark.parametrize("path, parts, want", cases(PROTOCOLS))
def test_whole(path, parts, want, framing, begin):
    assert list(begin(parts, path, framing)) == want


@pytest.mark.parametrize("framing", ["chunked", "counted", "closed"])
@pytest.mark.parametrize("path, parts, want", cases(PROTOCOLS))
def test_protocol_that_did_not_come_to_its_end(path, parts, want, framing, begin):
    """A server that was restarted closes the stream in good order, in the middle of an answer."""
    for count in range(len(parts)):
        seen = []
        with pytest.raises(bt.BedrockTokenError) as caught:
            for event in begin(parts[:count], path, framing):
                seen.append(event)
        assert not isinstance(caught.value, bt.BedrockError)
        assert seen == want[:count]


@pytest.mark.parametrize("framing", ["chunked", "counted", "closed"])
@pytest.mark.parametrize("path, parts, want", cases(PROTOCOLS))
def test_cut_off_inside_its_last_event(path, parts, want, framing, begin):
    """The event is not there before its blank line is."""
    *others, last = parts
    for cut in (7, len(last) // 2, len(last) - 2):
        seen = []
        with pytest.raises(bt.BedrockTokenError):
            for event in begin([*others, last[:cut]], path, framing):
                seen.append(event)
        assert seen == want[:len(others)]


@pytest.mark.parametrize("framing, missing", cases([
    ("no last chunk", "chunked, cut off", 0), ("counted", "counted", 50),
]))
@pytest.mark.parametrize("path, parts, want", cases(PROTOCOLS))
def test_body_that_ends_early(path, parts, want, framing, missing, begin):
    seen = []
    with pytest.raises(bt.BedrockTokenError):
        for event in begin(parts[:-1], path, framing, missing=missing):
            seen.append(event)
    assert seen == want[:len(parts) - 1]


@pytest.mark.parametrize("framing, missing", cases([
    ("no last chunk", "chunked, cut off", 0), ("counted", "counted", 50),
]))
def test_body_of_an_unknown_protocol_that_ends_early(framing, missing, begin):
    events = begin([data({"a": 1})], "/v1/unheard-of", framing, missing=missing)
    assert next(events) == {"a": 1}
    with pytest.raises(bt.BedrockTokenError):
        next(events)


@pytest.mark.parametrize("text", [b'data: {"a": 2}\n', b'data: {"a": 2}', b"data: {"], ids=ascii)
def test_event_of_an_unknown_protocol_that_ends_early(text, begin):
    events = begin([data({"a": 1}), text], "/v1/unheard-of", "closed")
    assert next(events) == {"a": 1}
    with pytest.raises(bt.BedrockTokenError):
        next(events)


@pytest.mark.parametrize("kind", ["response.incomplete", "response.failed"])
def test_response_that_ends_in_another_way(kind, begin):
    """It is the model's own end, and an event: the stream has not been cut off."""
    last = {"type": kind, "response": {"id": "resp_1", "status": kind.partition(".")[2]}}
    events = begin([*RESPONSES_PARTS[:2], data(last, kind)], RESPONSES_PATH)
    assert list(events) == [*RESPONSES[:2], last]


@pytest.mark.parametrize("text", [b"data:[DONE]\n\n", b"data: [DONE]\r\r",
                                  b"event: done\ndata: [DONE]\n\n"], ids=ascii)
def test_done(text, begin):
    assert list(begin([*CHAT_PARTS[:-1], text])) == CHAT


def test_messages_need_no_event_lines(begin):
    """The JSON itself says what each is."""
    assert list(begin([*map(data, MESSAGES)], MESSAGES_PATH)) == MESSAGES
    assert list(begin([*map(data, RESPONSES)], RESPONSES_PATH)) == RESPONSES


def test_pings_and_unknown_events_are_handed_on(begin):
    ping = {"type": "ping"}
    parts = [MESSAGES_PARTS[0], data(ping, "ping"), *MESSAGES_PARTS[1:]]
    assert list(begin(parts, MESSAGES_PATH)) == [MESSAGES[0], ping, *MESSAGES[1:]]


@pytest.mark.parametrize("kind", [
    "text/event-stream", "text/event-stream;charset=UTF-8", "Text/Event-Stream ; charset=utf-8",
])
def test_content_type(kind, begin):
    assert list(begin(CHAT_PARTS, kind=kind)) == CHAT


# --- the connection -----------------------------------------------------------------------

class Watched:
    """A stream that goes on as long as somebody reads it; `ended` says that nobody does."""

    def __init__(self, parts):
        self.parts = parts
        self.ended = threading.Event()

    def __call__(self, handler):
        handler.connection.settimeout(20)
        try:
            server_sent(self.parts, "chunked, cut off")(handler)
            assert handler.connection.recv(1) == b""
        except ConnectionError:
            pass  # closed with something unread
        self.ended.set()
        handler.close_connection = True


@pytest.fixture
def watched(environ, bedrock):
    def watched(parts, path=CHAT_PATH):
        stream = Watched(parts)
        bedrock.faults += [stream]
        environ["AWS_ENDPOINT_URL"] = bedrock.url
        return bt.call_stream(path, {"model": "m"}, token=TOKEN, environ=environ), stream.ended

    return watched


def read_one(events):
    assert next(events) == CHAT[0]


def leave_loop(events):
    for _ in events:
        break


def fail_in_loop(events):
    with pytest.raises(ZeroDivisionError):
        for event in events:
            1 / 0


BEGINNINGS = cases([
    ("before the first", lambda events: None), ("after the first", read_one),
    ("loop left", leave_loop), ("loop failed", fail_in_loop),
])


@pytest.mark.parametrize("use", BEGINNINGS)
def test_closing_closes_the_connection(use, watched):
    events, ended = watched(CHAT_PARTS[:2])
    use(events)
    assert not ended.is_set()
    events.close()
    assert ended.wait(20)
    events.close()
    with pytest.raises(StopIteration):
        next(events)


@cpython("elsewhere, what is lost goes when it is collected")
@pytest.mark.parametrize("use", BEGINNINGS)
@pytest.mark.filterwarnings("error")
def test_losing_closes_the_connection(use, watched):
    events, ended = watched(CHAT_PARTS[:2])
    use(events)
    assert not ended.is_set()
    del events
    gc.collect()
    assert ended.wait(20)


@pytest.mark.parametrize("path, parts, want", cases(PROTOCOLS))
def test_closing_after_the_last_event(path, parts, want, watched):
    """The server keeps the connection open, whatever it has said."""
    events, ended = watched(parts, path)
    assert [next(events) for _ in want] == want
    events.close()
    assert ended.wait(20)


def test_an_error_closes_the_connection(watched):
    events, ended = watched([data({"error": THROTTLED})])
    with pytest.raises(bt.BedrockError):
        next(events)
    assert ended.wait(20)


def test_request_is_made_at_once_and_refused_at_once(begin, bedrock, environ):
    events = begin(CHAT_PARTS)
    assert len(bedrock.requests) == 1
    events.close()
    bedrock.faults += [fake_aws.answer(404, {"message": "No model"})]
    with pytest.raises(bt.BedrockError):
        bt.call_stream(CHAT_PATH, {}, token=TOKEN, environ=environ)


def test_each_event_is_delivered_as_it_comes(begin):
    gates = [threading.Event() for _ in CHAT]
    parts = [part for pair in zip(CHAT_PARTS, gates) for part in pair]
    events = begin([*parts, DONE])
    for want, gate in zip(CHAT, gates):
        assert next(events) == want
        gate.set()
    assert list(events) == []


def test_silence_longer_than_the_timeout(begin):
    silence = threading.Event()
    events = begin([CHAT_PARTS[0], silence, *CHAT_PARTS[1:]], timeout=0.3)
    assert next(events) == CHAT[0]
    with pytest.raises(bt.BedrockTokenError):
        next(events)
    silence.set()


PROGRAM = """
import gc, sys
import bedrock_token as bt

def begin():
    return bt.call_stream("/openai/v1/chat/completions", {"model": "m", "stream": True})

assert len(list(begin())) == 3
events = begin()
next(events)
events.close()
events = begin()
next(events)
del events
begin()
gc.collect()
for event in begin():
    break
del event
try:
    list(begin())
except bt.BedrockTokenError:
    print("cut off")
"""


def test_no_resource_warning(environ, bedrock):
    """In the interpreter's development mode, which shows all warnings, at its end too."""
    whole = server_sent(CHAT_PARTS)
    bedrock.faults += [whole] * 5 + [server_sent(CHAT_PARTS[:2], "chunked, cut off")]
    result = subprocess.run(
        [sys.executable, "-X", "dev", "-W", "error", "-c", PROGRAM], cwd=ROOT,
        env={**os.environ, **environ, "AWS_ENDPOINT_URL": bedrock.url,
             "AWS_BEARER_TOKEN_BEDROCK": TOKEN, "AWS_REGION": "us-east-1"},
        capture_output=True, text=True, timeout=60)
    assert (result.returncode, result.stdout, result.stderr) == (0, "cut off\n", "")


def test_decoding_takes_any_json_that_python_writes(begin):
    """Escapes, surrogates and large numbers come out as json has them."""
    document = {"a": "\ud83d", "b": 10**30, "c": [True, None, 1e-300], "d": "\x00\x1f\"\\/"}
    events = list(begin([data(json.dumps(document)), DONE]))
    assert events == [document]
