"""The recipes of the manual, and a Bedrock that refuses the first token it has taken.

    with Sessions() as sessions, RevokingBedrock(sessions=sessions) as bedrock:
        environ = {**sessions.environ, **bedrock.environ}

Every look-up of credentials gives those of another session, so that each token shows which one it
was made from.
"""

import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

from tests import fake_aws
from tests.fake_aws import answer, role_keys
from tests.interop.reference import Bedrock

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
HELLO = "Hello, world"  # what every fake model says


def session(number):
    """The access key id of the credentials that were given out as the first, second, … ones."""
    return role_keys(f"session{number}")[0]


FIRST, SECOND = session(1), session(2)


class Sessions(fake_aws.Container):
    """The credentials of a container's role: at each request those of a new session."""

    lifetimes = (3600,)  # in seconds, of the first session, the second, …, and of all that follow
    clock = staticmethod(time.time)

    def __enter__(self):
        self.ends = {}  # access key id -> when the session ends
        return super().__enter__()

    @property
    def environ(self):
        return {"AWS_CONTAINER_CREDENTIALS_FULL_URI": self.url + self.path}

    def reply(self, request):
        issued = len(self.ends)
        ends = self.clock() + self.lifetimes[min(issued, len(self.lifetimes) - 1)]
        self.ends[session(issued + 1)] = ends
        self.expiration = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(ends))
        self.role = f"session{issued + 1}"
        return super().reply(request)


class RevokingBedrock(Bedrock):
    """Refuses tokens of sessions that have ended, and of whoever called first, after some calls.

    `refused` has who was, `callers` who was not.
    """

    sessions = None
    keys = {role_keys(f"session{number}")[0]: role_keys(f"session{number}")[1:]
            for number in range(1, 100)}
    lasts = 1  # calls of the first caller
    denial_then = fake_aws.EXPIRED

    def __enter__(self):
        self.refused = []
        return super().__enter__()

    @property
    def environ(self):
        """Variables that lead clients here without TLS, as a gateway's address does."""
        return {
            "AWS_REGION": self.region, "AWS_DEFAULT_REGION": self.region,
            "AWS_ENDPOINT_URL_BEDROCK_RUNTIME": self.url,
            "OPENAI_BASE_URL": f"{self.url}/openai/v1", "ANTHROPIC_BEDROCK_BASE_URL": self.url,
        }

    def reply(self, request):
        said = super().reply(request)
        if request.method != "CONNECT":
            caller = self.callers[-1]
            revoked = caller == self.callers[0] and self.callers.count(caller) > self.lasts
            if revoked or self.clock() >= self.sessions.ends[caller]:
                self.refused.append(self.callers.pop())
                text = self.denial_then if revoked else fake_aws.DEAD_CREDENTIALS
                raise fake_aws.Refused(403, "AccessDeniedException", text)
        return said


class Outside(fake_aws.Fake):
    """A proxy that refuses everything: a program sends here what is not for this machine."""

    @property
    def environ(self):
        return {"HTTPS_PROXY": self.url, "HTTP_PROXY": self.url, "NO_PROXY": "127.0.0.1"}

    def reply(self, request):
        return answer(403, "no way out")

    def asked(self):
        return [f"{request.method} {request.path}" for request in self.requests]


# ---- blocks of the manual

def blocks(language, holds):
    """(heading it stands under, code) of the blocks in a language that hold a text or a pattern."""
    heading, found = "", []
    parts = re.finditer(
        r"^#+ ([^\n]*)$|^```(\w*)\n(.*?)^```$", README.read_text(encoding="utf-8"), re.M | re.S)
    for part in parts:
        heading = part[1] or heading
        if part[2] == language and re.search(holds, part[3], re.M):
            found.append((heading, part[3]))
    return found


def block(language, holds):
    """The code of the one block."""
    (_, code), = blocks(language, holds)
    return code


def in_two(code, call):
    """What a recipe does once, and what it does for every call: from that line on."""
    before, found, after = code.partition(f"\n{call}")
    assert found, f"no line begins with {call!r}"
    return before + "\n", found[1:] + after


# ---- programs

def base_environ(folder, *more):
    """An environment with nothing of this machine's but PATH, which has a python3 of its own first."""
    programs = folder / "programs"
    programs.mkdir(exist_ok=True)
    python = programs / "python3"
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" -B "$@"\n')
    python.chmod(0o755)
    environ = {"HOME": str(folder), "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
               "AWS_EC2_METADATA_DISABLED": "true", "PYTHONDONTWRITEBYTECODE": "1"}
    for each in more:
        environ.update(each)
    return environ


def project(folder):
    """A folder with a copy of the file."""
    folder.mkdir(exist_ok=True)
    shutil.copy(ROOT / "bedrock_token.py", folder)
    return folder


def run(command, folder, environ, timeout=120):
    return subprocess.run(
        list(map(str, command)), cwd=str(folder), env=environ, timeout=timeout,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        universal_newlines=True)


class Proxy:
    """`python -m bedrock_token proxy`, at a free port: `variables` are those that it prints."""

    def __init__(self, folder, environ):
        command = block("sh", "bedrock_token proxy").split()
        assert command[0] == "python3"
        self._command = [sys.executable, *command[1:], "--port", "0"]
        self._folder, self._environ = folder, environ

    def __enter__(self):
        self._process = subprocess.Popen(
            self._command, cwd=str(self._folder), env=self._environ, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, universal_newlines=True)
        self.variables = {}
        for _ in range(4):
            found = re.fullmatch(r"(?:export )?([A-Z_]+)=['\"]?([^'\"\s]+)['\"]?;?\n",
                                 self._process.stdout.readline())
            if not found:
                self._process.kill()
                raise AssertionError(f"the proxy said: {self._process.communicate()}")
            self.variables[found[1]] = found[2]
        self.key = self.variables["BEDROCK_TOKEN_PROXY_KEY"]
        self.url = self.variables["ANTHROPIC_BEDROCK_BASE_URL"].rstrip("/")
        return self

    def __exit__(self, kind, error, trace):
        self._process.terminate()
        out, err = self._process.communicate(timeout=30)
        assert (out, err) == ("", "")  # it logs nothing

    @property
    def sdk_environ(self):
        """For AWS SDKs, which sign with the key as an access key id."""
        return {"AWS_ENDPOINT_URL_BEDROCK_RUNTIME": self.url, "AWS_ACCESS_KEY_ID": self.key,
                "AWS_SECRET_ACCESS_KEY": "any", "AWS_REGION": "us-east-1",
                "AWS_DEFAULT_REGION": "us-east-1"}

    @property
    def anthropic_environ(self):
        return {"ANTHROPIC_BEDROCK_BASE_URL": self.variables["ANTHROPIC_BEDROCK_BASE_URL"],
                "AWS_BEARER_TOKEN_BEDROCK": self.key, "AWS_REGION": "us-east-1"}
