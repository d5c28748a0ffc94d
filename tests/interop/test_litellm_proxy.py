"""LiteLLM's proxy asks its callback, that of the manual, for a token at every call."""

import contextlib
import http.client
import json
import re
import subprocess
import sys
import threading
import time

import pytest

from tests import fake_aws
from tests.interop.recipes import (
    HELLO, Outside, RevokingBedrock, Sessions, base_environ, block, project,
)

START = "import sys, litellm; sys.argv[0] = 'litellm'; litellm.run_server()"
# The end of a token is for the provider's clock to see, which a program has no argument for.
CLOCKED = """\
import os, time


def clock():
    return time.time() + os.path.getsize("seconds")


"""


class Proxy:
    """The running proxy, and its folder."""

    def __init__(self, folder, port):
        self._folder, self._port = folder, port

    def move_clock(self, seconds):
        with open(self._folder / "seconds", "ab") as file:
            file.write(b"x" * seconds)

    def request(self, method, path, body=None):
        link = http.client.HTTPConnection("127.0.0.1", self._port, timeout=60)
        try:
            link.request(method, path, body and json.dumps(body), {
                "Authorization": "Bearer sk-of-the-clients", "Content-Type": "application/json"})
            response = link.getresponse()
            return response.status, json.loads(response.read())
        finally:
            link.close()

    def ask(self):
        """The status, and the text of the answer or of the error."""
        status, said = self.request("POST", "/v1/chat/completions", {
            "model": "nova-micro", "messages": [{"role": "user", "content": "Hello"}]})
        if status == 200:
            return status, said["choices"][0]["message"]["content"]
        return status, said["error"]["message"]


@contextlib.contextmanager
def proxy(folder, environ):
    process = subprocess.Popen(
        [sys.executable, "-c", START, "--config", "config.yaml", "--host", "127.0.0.1",
         "--port", "0", "--telemetry", "False"],
        cwd=str(folder), env=environ, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, universal_newlines=True)
    watchdog = threading.Timer(120, process.kill)
    watchdog.start()
    try:
        said = []
        for line in process.stdout:
            said.append(line)
            found = re.search(r"Uvicorn running on http://127\.0\.0\.1:([0-9]+)", line)
            if found:
                break
        else:
            raise AssertionError("".join(said))
        yield Proxy(folder, int(found[1]))
    finally:
        watchdog.cancel()
        process.terminate()
        process.communicate(timeout=30)


@pytest.fixture
def scene(tmp_path):
    folder = project(tmp_path / "project")
    code = block("python", "CustomLogger")
    assert code.count("TokenProvider()") == 1
    code = CLOCKED + code.replace("TokenProvider()", "TokenProvider(clock=clock)")
    (folder / "bedrock_key.py").write_text(code, encoding="utf-8")
    (folder / "config.yaml").write_text(block("yaml", "litellm_settings"), encoding="utf-8")
    (folder / "seconds").write_bytes(b"")
    with Sessions(clock=lambda: time.time() + (folder / "seconds").stat().st_size) as sessions, \
            RevokingBedrock(sessions=sessions, clock=sessions.clock, lasts=2) as bedrock, \
            Outside() as outside:
        environ = base_environ(tmp_path, sessions.environ, bedrock.environ, outside.environ, {
            "AWS_BEDROCK_RUNTIME_ENDPOINT": bedrock.url, "LITELLM_MASTER_KEY": "sk-of-the-clients",
            "LITELLM_LOCAL_MODEL_COST_MAP": "True"})
        with proxy(folder, environ) as running:
            yield running, bedrock
        assert outside.asked() == []


def test_it_goes_on_past_the_end_of_a_token(scene):
    running, bedrock = scene
    assert [running.ask() for _ in range(2)] == [(200, HELLO)] * 2
    # A token that is refused before its end is sent again: the callback does not hear of it.
    status, said = running.ask()
    assert (status, fake_aws.EXPIRED in said) == (500, True)
    running.move_clock(3601)
    assert running.ask() == (200, HELLO)
    first, again, second = bedrock.callers
    assert first == again != second
    assert set(bedrock.refused) == {first}
