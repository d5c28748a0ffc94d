"""The manual's handler and layer under AWS Lambda's own runtime client, awslambdaric.

The layer is what the manual's commands upload; it is unpacked as Lambda does it, to be read only.
"""

import base64
import io
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import threading
import time
import zipfile
from pathlib import Path

import pytest

import bedrock_token as bt
from tests import fake_aws
from tests.fake_aws import Fake, answer, require, role_keys
from tests.helpers import SECRET
from tests.interop.reference import Bedrock

ROOT = Path(__file__).parents[2]
CACHED = f"python/__pycache__/bedrock_token.{sys.implementation.cache_tag}.pyc"
FUNCTION = "arn:aws:lambda:us-east-1:123456789012:function:test"

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="the runtime client is for Linux alone, as Lambda is")


def block(language, text):
    """The one block of the manual that is in this language and has that text."""
    blocks = re.findall(rf"^```{language}\n(.*?)^```$", (ROOT / "README.md").read_text("utf-8"),
                        re.MULTILINE | re.DOTALL)
    found, = (code for code in blocks if text in code)
    return found


class LambdaApi(Fake):
    """Takes layers, and keeps the last one's file."""

    layer = None

    def reply(self, request):
        require(request.line == "POST /2018-10-31/layers/bedrock-token/versions",
                404, "ResourceNotFoundException")
        self.layer = base64.b64decode(request.json["Content"]["ZipFile"], validate=True)
        return answer(201, {"Version": 1, "LayerVersionArn": f"{FUNCTION}:1"})


class Runtime(Fake):
    """The runtime API of one function: hands out the events, and keeps what came back.

    https://docs.aws.amazon.com/lambda/latest/dg/runtimes-api.html
    """

    events = ()
    untouched = None  # a fake that nobody may have asked before the snapshot is taken

    def __enter__(self):
        self.results = []
        self.finished = threading.Event()  # all events are answered, or the function is broken
        return super().__enter__()

    def reply(self, request):
        prefix, _, action = request.line.partition("/2018-06-01/runtime/")
        if (prefix, action) == ("GET ", "restore/next"):
            require(not self.untouched.requests, 500, "AskedTooEarly")
            return answer(200)
        if (prefix, action) == ("GET ", "invocation/next"):
            if not self.events:
                return fake_aws.hang
            event, *self.events = self.events
            return answer(200, json.dumps(event), [
                ("Content-Type", "application/json"), ("Lambda-Runtime-Aws-Request-Id", "id-1"),
                ("Lambda-Runtime-Deadline-Ms", int(time.time() + 60) * 1000),
                ("Lambda-Runtime-Invoked-Function-Arn", FUNCTION)])
        require(prefix == "POST ", 404, "UnknownOperation")
        self.results.append((action.rpartition("/")[2], request.json))
        if not self.events or action == "init/error":
            self.finished.set()
        return answer(202, {"status": "OK"})


@pytest.fixture(scope="session")
def layer(tmp_path_factory):
    """The file that the manual's commands upload, with this Python."""
    bash = shutil.which("bash")
    assert bash is not None
    folder = tmp_path_factory.mktemp("layer")
    programs = folder / "programs"
    programs.mkdir()
    (programs / "python3").write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    (programs / "python3").chmod(0o755)
    (programs / "aws").symlink_to(Path(sysconfig.get_path("scripts"), "aws"))
    project = folder / "project"
    project.mkdir()
    shutil.copy(bt.__file__, project)
    with LambdaApi() as api:
        subprocess.run(
            [bash, "-e", "-c", block("sh", "compileall")], cwd=project, check=True, timeout=120,
            stdin=subprocess.DEVNULL, env={
                "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}", "HOME": str(folder),
                "AWS_ENDPOINT_URL_LAMBDA": api.url, "AWS_DEFAULT_REGION": "us-east-1",
                "AWS_ACCESS_KEY_ID": "AKIAME", "AWS_SECRET_ACCESS_KEY": SECRET,
            })
        return api.layer


def state(folder):
    return {path: (path.stat().st_mtime_ns, path.is_file() and path.read_bytes())
            for path in folder.rglob("*")}


def unpack(layer, folder):
    with zipfile.ZipFile(io.BytesIO(layer)) as file:
        file.extractall(folder)


@pytest.fixture
def opt(layer, tmp_path):
    """The layer unpacked to be read only, and unchanged at the end."""
    folder = tmp_path / "opt"
    unpack(layer, folder)
    paths = [folder, *folder.rglob("*")]
    for path in paths:
        path.chmod(0o555 if path.is_dir() else 0o444)
    before = state(folder)
    yield folder
    assert state(folder) == before  # modes do not keep root from writing
    for path in paths:
        path.chmod(0o755)


def test_the_layer_holds_the_file_and_its_bytecode(layer):
    with zipfile.ZipFile(io.BytesIO(layer)) as file:
        content = {name: file.read(name) for name in file.namelist() if not name.endswith("/")}
    assert sorted(content) == [CACHED, "python/bedrock_token.py"]
    assert content["python/bedrock_token.py"] == Path(bt.__file__).read_bytes()
    # PEP 552: a hash is in it, and it is not to be compared with the source.
    assert content[CACHED][4:8] == b"\x01\0\0\0"


def function(opt, task, runtime, bedrock, pem, **environ):
    """The environment variables of a function as Lambda sets them, and those of the fakes."""
    return {
        "PATH": os.environ["PATH"], "LANG": "en_US.UTF-8", "TZ": ":UTC",
        "LAMBDA_TASK_ROOT": str(task), "PYTHONPATH": str(opt / "python"), "_HANDLER": "app.handler",
        "AWS_LAMBDA_RUNTIME_API": runtime.url.partition("//")[2],
        "AWS_LAMBDA_FUNCTION_NAME": "test", "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": "128",
        "AWS_LAMBDA_FUNCTION_VERSION": "1", "AWS_LAMBDA_LOG_GROUP_NAME": "group",
        "AWS_LAMBDA_LOG_STREAM_NAME": "stream", "AWS_REGION": "us-east-1",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EXECUTION_ENV": "AWS_Lambda_python%d.%d" % sys.version_info[:2],
        "HTTPS_PROXY": bedrock.url, "AWS_CA_BUNDLE": pem, **environ,
    }


def run(task, runtime, environ):
    """The runtime client until all events are answered; what it printed."""
    command = [sys.executable, "-m", "awslambdaric", "app.handler"]
    with subprocess.Popen(command, cwd=task, env=environ, stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        # Whatever goes wrong in there, it says so or ends within this.
        runtime.finished.wait(60)
        process.kill()
        return process.stdout.read()


@pytest.fixture
def task(tmp_path):
    """The function's own code: the manual's handler and nothing else."""
    folder = tmp_path / "task"
    folder.mkdir()
    (folder / "app.py").write_text(block("python", "def handler("))
    return folder


@pytest.fixture
def pem(tmp_path):
    file = tmp_path / "pem"
    file.write_text(fake_aws.PEM)
    return str(file)


ENVIRONMENT = role_keys("function")
SNAPSTART = role_keys("container")
KEYS = {key_id: (secret, session) for key_id, secret, session in (ENVIRONMENT, SNAPSTART)}
HELLO = ("response", "Hello, world")


def tokens(bedrock):
    return {request.headers["Authorization"] for request in bedrock.requests
            if request.method != "CONNECT"}


def test_the_handler_serves_many_events_with_one_token(opt, task, pem):
    keys = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
    with Bedrock(pem=pem, keys=KEYS) as bedrock, Runtime(events=[{}, {}, {}]) as runtime:
        printed = run(task, runtime, function(
            opt, task, runtime, bedrock, pem, **dict(zip(keys, ENVIRONMENT))))
    assert runtime.results == [HELLO] * 3, printed
    assert bedrock.callers == [ENVIRONMENT[0]] * 3
    assert len(tokens(bedrock)) == 1


def test_the_handler_with_snapstart(opt, task, pem):
    """There the function has no keys in its environment, but an address to ask for them: after
    the snapshot, from which many environments start."""
    with Bedrock(pem=pem, keys=KEYS) as bedrock, \
            fake_aws.Container(authorization="secret-of-the-function") as container, \
            Runtime(events=[{}, {}], untouched=container) as runtime:
        printed = run(task, runtime, function(
            opt, task, runtime, bedrock, pem, AWS_LAMBDA_INITIALIZATION_TYPE="snap-start",
            AWS_CONTAINER_CREDENTIALS_FULL_URI=container.url + container.path,
            AWS_CONTAINER_AUTHORIZATION_TOKEN="secret-of-the-function"))
    assert runtime.results == [HELLO] * 2, printed
    assert runtime.requests[0].line == "GET /2018-06-01/runtime/restore/next"
    assert bedrock.callers == [SNAPSTART[0]] * 2
    assert len(tokens(bedrock)) == len(container.requests) == 1


def test_the_bytecode_is_what_runs(layer, task, pem, tmp_path):
    """The unpacked source has other times than the one that was compiled, and is not even read."""
    opt = tmp_path / "opt"
    unpack(layer, opt)
    (opt / "python" / "bedrock_token.py").write_text("raise ImportError('compiled again')\n")
    with Bedrock(pem=pem, keys=KEYS) as bedrock, Runtime(events=[{}]) as runtime, \
            fake_aws.Container() as container:
        printed = run(task, runtime, function(
            opt, task, runtime, bedrock, pem,
            AWS_CONTAINER_CREDENTIALS_FULL_URI=container.url + container.path))
    assert runtime.results == [HELLO], printed
