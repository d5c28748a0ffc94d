"""Event streams: as they arrive, cut off, damaged, endless; and what they hold."""

import io
import threading
import zlib
from base64 import b64decode
from struct import pack

import pytest

import bedrock_token as bt
from tests import fake_aws
from tests.fake_aws import ANSWER, REQUEST_ID, answer, frame
from tests.helpers import MESSAGES, MODEL, STATIC, Pieces, cases

TOKEN = bt.get_token(STATIC, "us-east-1")

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


def decoding(chunks):
    file = io.BufferedReader(Pieces(chunks))
    try:
        for each in bt._decode_frames(file):
            yield bt._event_of_frame(each)
    except ValueError as error:  # what is damaged; a stream's reader is told so in one place
        raise bt.BedrockTokenError(str(error)) from error


def decode(*chunks):
    return list(decoding(chunks))


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
    events = decoding(chunks)
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
    ("error without a code", frame([(":message-type", "error")]), "no message"),
]))
def test_error_that_says_little(data, message):
    with pytest.raises(bt.BedrockError) as caught:
        decode(data)
    error = caught.value
    assert (error.status, error.code, error.message) == (0, "", message)
    assert str(error)


def test_error_in_the_stream_without_a_request_id(stream, runtime):
    def send(handler):
        kind = ("Content-Type", "application/vnd.amazon.eventstream")
        handler.start(200, [kind, ("Connection", "close")])
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
    events = decoding([FRAMES[0], data])
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
                for event in decoding([damaged]):
                    seen.append(event)
            assert seen == EVENTS[:len(seen)]


def test_every_lost_byte_is_noticed():
    for position in range(len(RECORDED)):
        seen = []
        with pytest.raises(bt.BedrockTokenError):
            for event in decoding([RECORDED[:position] + RECORDED[position + 1:]]):
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
        list(decoding(chunks()))


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
    with pytest.raises(bt.BedrockTokenError, match="timed out|within"):
        next(events)
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
    ("a long stream", (b"".join([FRAMES[1]] * 200) for _ in range(50)), 10_000, 256 * KIB),
    ("headers that never repeat", map(padded, range(2000)), 2000, 512 * KIB),
]))
def test_memory_does_not_grow_with_the_stream(chunks, events, most):
    """Each of these streams has more than 1.5 MB."""
    tracemalloc = pytest.importorskip("tracemalloc", reason="PyPy cannot trace memory")
    decode(RECORDED)
    tracemalloc.start()
    try:
        count = sum(1 for _ in decoding(chunks))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert count == events
    assert peak < most
