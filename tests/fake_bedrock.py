"""Every operation of Bedrock that takes a token, at one address, and its streams of either kind.

    with Bedrock(takes=lambda token: "second" in token) as bedrock:
        ...                     # point AWS_ENDPOINT_URL at bedrock.url
        tokens(bedrock)
"""

import json
import re
import threading
from base64 import b64encode

from tests.fake_aws import (
    ANSWER, BAD_PREFIX, EVENTS, NOT_VALID, REQUEST_ID, Fake, Refused, answer, close, event, require, stream,
)


def chunk(document):
    """An event of InvokeModelWithResponseStream: base64 of JSON inside JSON."""
    text = json.dumps(document).encode()
    return event("chunk", {"bytes": b64encode(text).decode(), "p": "abcdefghijkl"})


def data(document, name=None):
    """One server-sent event with the usual line ends."""
    text = document if isinstance(document, str) else json.dumps(document)
    return (f"event: {name}\n" if name else "").encode() + f"data: {text}\n\n".encode()


def server_sent(parts, framing="chunked", kind="text/event-stream; charset=utf-8", missing=0):
    """An answer of server-sent events, part by part; an Event among them is awaited for 30 seconds.

    `framing`: chunked, counted (`missing` bytes are announced and never sent), or closed at the
    end; "chunked, cut off" lacks the last chunk.
    """
    def send(handler):
        length = sum(len(part) for part in parts if isinstance(part, bytes)) + missing
        handler.start(200, [("Content-Type", kind), REQUEST_ID, {
            "counted": ("Content-Length", length), "closed": ("Connection", "close"),
        }.get(framing, ("Transfer-Encoding", "chunked"))])
        for part in parts:
            if isinstance(part, threading.Event):
                if not part.wait(30):
                    return close(handler)
            elif part:
                whole = b"%x\r\n%s\r\n" % (len(part), part) if "chunked" in framing else part
                handler.wfile.write(whole)
        if framing == "chunked":
            handler.wfile.write(b"0\r\n\r\n")
        elif framing != "counted" or missing:
            close(handler)
    return send


CHUNKS = [
    {"type": "message_start", "message": {"role": "assistant"}},
    {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "Héllo"}},
    {"type": "message_stop", "amazon-bedrock-invocationMetrics": {"outputTokenCount": 2}},
]
CHAT = [
    {"object": "chat.completion.chunk", "choices": [{"index": 0, "delta": {"role": "assistant"}}]},
    {"object": "chat.completion.chunk", "choices": [{"index": 0, "delta": {"content": "Hello"}}]},
    {"object": "chat.completion.chunk",
     "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]},
]
RESPONSES = [
    {"type": "response.created", "response": {"id": "resp_1", "status": "in_progress"}},
    {"type": "response.output_text.delta", "delta": "Hello"},
    {"type": "response.completed", "response": {"id": "resp_1", "status": "completed"}},
]
MESSAGES = [
    {"type": "message_start", "message": {"id": "msg_1", "role": "assistant"}},
    {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "Hello"}},
    {"type": "message_delta", "delta": {"stop_reason": "end_turn"}},
    {"type": "message_stop"},
]
CHAT_PARTS = [*map(data, CHAT), b"data: [DONE]\n\n"]
RESPONSES_PARTS = [data(each, each["type"]) for each in RESPONSES]
MESSAGES_PARTS = [data(each, each["type"]) for each in MESSAGES]

_OPENAI = {
    "/chat/completions": ({"object": "chat.completion", "choices": []}, CHAT_PARTS),
    "/responses": ({"object": "response", "status": "completed", "output": []}, RESPONSES_PARTS),
    "/messages": ({"type": "message", "content": []}, MESSAGES_PARTS),
}
# Method and path, as a pattern -> the answer's JSON, or what sends it.
_OPERATIONS = [(re.compile(pattern).fullmatch, reply) for pattern, reply in [
    ("POST /model/[^/]+/converse", ANSWER),
    ("POST /model/[^/]+/converse-stream", stream([event(*each) for each in EVENTS])),
    ("POST /model/[^/]+/invoke", {"embedding": [0.25, -0.5], "inputTextTokenCount": 1}),
    ("POST /model/[^/]+/invoke-with-response-stream", stream([chunk(each) for each in CHUNKS])),
    ("POST /model/[^/]+/count-tokens", {"inputTokens": 3}),
    ("POST /guardrail/[^/]+/version/[^/]+/apply", {"action": "NONE", "outputs": []}),
    ("(GET|HEAD) /foundation-models", {"modelSummaries": []}),
    ("GET /foundation-models/[^/]+", {"modelDetails": {}}),
    ("GET /inference-profiles", {"inferenceProfileSummaries": []}),
    ("GET (/openai)?/v1/models", {"object": "list", "data": []}),
    ("DELETE (/openai)?/v1/responses/[^/]+", {"deleted": True}),
]]


class Bedrock(Fake):
    takes = None  # whether it takes a token, as a function of it; None: any
    denial = NOT_VALID  # the text of the 403 for the others

    def refusal(self, status, code, message):
        if code == "openai":
            error = {"message": message, "type": "invalid_request_error", "code": "bad_request"}
            return answer(status, {"error": error}, [REQUEST_ID])
        name = "Message" if status == 403 else "message"
        return answer(status, {name: message}, [
            ("x-amzn-ErrorType", code + ":http://internal.amazon.com/coral/"), REQUEST_ID])

    def reply(self, request):
        given = request.headers.get_all("Authorization", [])
        scheme, _, token = "".join(given).partition(" ")
        require(len(given) == 1 and scheme == "Bearer", 403, "AccessDeniedException",
                "Missing Authentication Token")
        require(token.startswith(("bedrock-api-key-", "ABSK")),
                403, "AccessDeniedException", BAD_PREFIX)
        require(self.takes is None or self.takes(token), 403, "AccessDeniedException", self.denial)

        json_body = {}
        if request.method == "POST":
            require(request.content_type == "application/json", 415, "ValidationException")
            try:
                json_body = request.json
            except ValueError:
                raise Refused(400, "SerializationException", "no JSON") from None
        elif request.method in ("GET", "HEAD", "DELETE"):
            require(not request.body, 400, "ValidationException", "a body")
        found = re.fullmatch("POST (/openai|/anthropic)?/v1(/chat/completions|/responses|/messages)",
                             request.line)
        if found:
            whole, parts = _OPENAI[found[2]]
            needed = request.headers.get("anthropic-version") or found[2] != "/messages"
            require(needed, 400, "openai", "anthropic-version: header is required")
            require(json_body.get("model"), 400, "openai", "model: field required")
            return server_sent(parts) if json_body.get("stream") else answer(200, whole, [REQUEST_ID])
        for matches, reply in _OPERATIONS:
            if matches(request.line):
                return reply if callable(reply) else answer(200, reply, [REQUEST_ID])
        return super().reply(request)


def tokens(fake):
    """The tokens that came in."""
    given = [request.headers["Authorization"].partition(" ") for request in fake.requests]
    assert {scheme for scheme, _, _ in given} <= {"Bearer"}
    return [token for _, _, token in given]
