"""Claude Code goes on past the end of a token within one session.

It runs without a terminal, and calls Bedrock's own address, through a proxy that is the fake. Whatever
else it wanted of another machine would be asked of the same proxy, and fails the test.
"""

import base64
import json
import platform
import sys

import pytest

from tests import fake_aws
from tests.fake_aws import answer
from tests.interop.recipes import (
    FIRST, HELLO, SECOND, Proxy, RevokingBedrock, Sessions, base_environ, block, project, run,
)
from tests.interop.reference import npm_package

MODEL = "us.anthropic.claude-haiku-4-5-20251001-v1:0"
QUIET = {
    "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1", "DISABLE_AUTOUPDATER": "1",
    "DISABLE_TELEMETRY": "1", "DISABLE_ERROR_REPORTING": "1",
}
# The second is where it looks which models there are.
HOSTS = {"bedrock-runtime.us-east-1.amazonaws.com:443", "bedrock.us-east-1.amazonaws.com:443"}
ONE_RETRY = {"CLAUDE_CODE_MAX_RETRIES": "1"}  # of eleven, each twice as long after the one before


def events(content, stop):
    """A message with one block of content, as a stream of InvokeModelWithResponseStream."""
    start = {"id": "msg_1", "type": "message", "role": "assistant", "model": "claude", "content": [],
             "stop_reason": None, "stop_sequence": None,
             "usage": {"input_tokens": 1, "output_tokens": 1}}
    if content["type"] == "tool_use":
        empty = {**content, "input": {}}
        delta = {"type": "input_json_delta", "partial_json": json.dumps(content["input"])}
    else:
        empty, delta = {**content, "text": ""}, {"type": "text_delta", "text": content["text"]}
    for document in (
        {"type": "message_start", "message": start},
        {"type": "content_block_start", "index": 0, "content_block": empty},
        {"type": "content_block_delta", "index": 0, "delta": delta},
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": {"stop_reason": stop, "stop_sequence": None},
         "usage": {"output_tokens": 2}},
        {"type": "message_stop"},
    ):
        text = base64.b64encode(json.dumps(document).encode()).decode()
        yield fake_aws.event("chunk", {"bytes": text, "p": "abcdef"})


class Model(RevokingBedrock):
    """Has a file read `readings` times, and says hello then."""

    readings = 3
    file = None

    def reply(self, request):
        if request.method == "CONNECT":
            return super().reply(request)
        if request.path != f"/model/{MODEL}/invoke-with-response-stream":
            raise fake_aws.Refused(404, "UnknownOperationException", request.path)
        super().reply(request._replace(path=f"/model/{MODEL}/invoke"))
        if len(self.callers) <= self.readings:
            content, stop = {"type": "tool_use", "id": f"toolu_{len(self.callers)}", "name": "Read",
                             "input": {"file_path": self.file}}, "tool_use"
        else:
            content, stop = {"type": "text", "text": HELLO}, "end_turn"
        return answer(200, b"".join(events(content, stop)),
                      [("Content-Type", "application/vnd.amazon.eventstream")])


class Scene:
    """A home with a copy of the file, credentials and a model for what is run there."""

    def __init__(self, home, model, sessions):
        machine = {"x86_64": "x64", "amd64": "x64", "aarch64": "arm64"}.get(
            platform.machine().lower(), platform.machine())
        package = npm_package(f"@anthropic-ai/claude-code-{sys.platform}-{machine}")
        self._program = package / ("claude.exe" if sys.platform == "win32" else "claude")
        self.home, self.model, self.sessions = project(home), model, sessions
        self._folder = home / "work"
        self._folder.mkdir()
        (self._folder / "notes.txt").write_text("some notes\n")
        model.file = str(self._folder / "notes.txt")
        (home / ".claude").mkdir()

    def run(self, settings, *variables):
        """The exit status, and what it said."""
        (self.home / ".claude" / "settings.json").write_text(json.dumps(settings))
        environ = base_environ(self.home, QUIET, {
            "HTTPS_PROXY": self.model.url, "HTTP_PROXY": self.model.url, "NO_PROXY": "127.0.0.1",
            "NODE_EXTRA_CA_CERTS": self.model.pem}, *variables)
        command = [self._program, "-p", "Read my notes", "--model", MODEL]
        done = run(command, self._folder, environ, timeout=60)
        asked = {request.path for request in self.model.requests if request.method == "CONNECT"}
        assert asked <= HOSTS
        return done.returncode, done.stdout.strip()


@pytest.fixture
def scene(tmp_path):
    pem = tmp_path / "pem"
    pem.write_text(fake_aws.PEM)
    with Sessions() as sessions, Model(sessions=sessions, pem=str(pem)) as model:
        yield Scene(tmp_path / "home", model, sessions)


def recipe(**environ):
    """The settings of the manual, with other variables."""
    settings = json.loads(block("json", "apiKeyHelper"))
    settings["env"].update(environ)
    return settings


def test_the_helper_is_asked_for_new_tokens_within_a_session(scene):
    settings = recipe(CLAUDE_CODE_API_KEY_HELPER_TTL_MS="1")
    assert scene.run(settings, scene.sessions.environ) == (0, HELLO)
    assert len(scene.model.callers) == 4 and scene.model.callers.count(FIRST) == 1
    # While the helper runs again the old token serves, which is why it is not to be near its end.
    assert set(scene.model.refused) <= {FIRST}


def test_until_its_time_is_up_a_refused_token_is_sent_again(scene):
    status, said = scene.run(recipe(), scene.sessions.environ, ONE_RETRY)
    assert status == 1 and fake_aws.EXPIRED in said
    assert (scene.model.callers, scene.model.refused) == ([FIRST], [FIRST] * 2)


def test_a_token_of_the_environment_is_kept(scene):
    environ = base_environ(scene.home, scene.sessions.environ, scene.model.environ)
    minted = run([sys.executable, "bedrock_token.py"], scene.home, environ)
    status, said = scene.run({}, scene.model.environ, ONE_RETRY, {
        "CLAUDE_CODE_USE_BEDROCK": "1", "AWS_BEARER_TOKEN_BEDROCK": minted.stdout.strip()})
    assert status == 1 and fake_aws.EXPIRED in said
    assert (scene.model.callers, scene.model.refused) == ([FIRST], [FIRST] * 2)


def test_a_fixed_key_does_through_the_proxy(scene):
    environ = base_environ(scene.home, scene.sessions.environ, scene.model.environ)
    with Proxy(scene.home, environ) as proxy:
        said = scene.run({}, {"CLAUDE_CODE_USE_BEDROCK": "1"}, proxy.anthropic_environ)
    assert said == (0, HELLO)
    assert scene.model.callers == [FIRST, SECOND, SECOND, SECOND]
    assert scene.model.refused == [FIRST]
