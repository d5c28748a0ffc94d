"""What more than one test module needs: keys, times, files of a home, what an error shows."""

import ast
import asyncio
import importlib.util
import io
import json
import os
import sys
import sysconfig
import tempfile
import threading
import time
import traceback
from base64 import b64encode
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

import bedrock_token as bt
from tests.fake_aws import role_keys

FILE = Path(bt.__file__).resolve()
ROOT = FILE.parent
SOURCE = FILE.read_text(encoding="utf-8")
TREE = ast.parse(SOURCE)

# The examples of AWS's documentation.
KEY_ID = "AKIAIOSFODNN7EXAMPLE"
SECRET = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"
SESSION = "IQoJb3JpZ2luX2VjEXAMPLETOKEN=="
# The same and two other pairs, in the environment.
KEYS = {"AWS_ACCESS_KEY_ID": KEY_ID, "AWS_SECRET_ACCESS_KEY": SECRET}
ENV_KEYS = {"AWS_ACCESS_KEY_ID": "AKIAENV", "AWS_SECRET_ACCESS_KEY": "secret-env"}
ENV_BASE = {"AWS_ACCESS_KEY_ID": "AKIABASE", "AWS_SECRET_ACCESS_KEY": "secret-BASE"}
CONFIGURED = {**KEYS, "AWS_REGION": "us-east-1"}
# The secret of AWS's signature vectors: one character differs.
VECTOR_SECRET = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"
LONG_TERM = "ABSK" + b64encode(b"BedrockAPIKey-x7k2-at-123456789012:" + SECRET.encode()).decode()

# Scanners look for whole tokens in source code: prefix and payload meet at run time only.
PREFIX = "bedrock-api-key-"

ARN = "arn:aws:iam::123456789012:role/"
ROLE = ARN + "reader"
MODEL = "amazon.nova-micro-v1:0"
MESSAGES = [{"role": "user", "content": [{"text": "Hello"}]}]

# When the literal tokens and signatures were made; and a later moment for everything else.
NOON = datetime(2024, 6, 15, 12, tzinfo=timezone.utc)
NOW = datetime(2025, 7, 1, 12, tzinfo=timezone.utc)
LATER = "2099-01-01T00:00:00Z"
EARLIER = "2025-07-01T11:59:59Z"
IN_AN_HOUR = (datetime.now(timezone.utc) + timedelta(hours=1)).replace(microsecond=0)

# Where the AWS CLI keeps the token of sso-session corp: printf corp | sha1sum
SSO_CACHE = ".aws/sso/cache/ee0bfd2552fbd840c02cc48b6e823320543c450f.json"
# And of that start URL: printf https://corp.awsapps.com/start | sha1sum
START_URL = "https://corp.awsapps.com/start"
LEGACY_SSO_CACHE = ".aws/sso/cache/a51746d4aa793ae07b25e90c3a5db96fc7832bd7.json"
# And of login_session me: printf me | sha256sum
LOGIN_CACHE = ".aws/login/cache/2744ccd10c7533bd736ad890f9dd5cab2adb27b07d500b9493f29cdc420cb2e0.json"

STATIC = bt.Credentials(KEY_ID, SECRET)
TEMPORARY = bt.Credentials("ASIAIOSFODNN7EXAMPLE", SECRET, SESSION)
# Two tokens as they have to be, made by aws-bedrock-token-generator 1.1.0 with botocore 1.44.5:
#
#     botocore.auth.get_current_datetime = lambda: datetime(2024, 6, 15, 12)
#     class Fixed:
#         def load(self):
#             return botocore.credentials.Credentials(key_id, secret, session_token)
#     token = aws_bedrock_token_generator.provide_token(region, Fixed(), timedelta(seconds=…))
STATIC_TOKEN = PREFIX + (
    "YmVkcm9jay5hbWF6b25hd3MuY29tLz9BY3Rpb249Q2FsbFdpdGhCZWFyZXJUb2tlbiZYLUFtei1BbGdvcml0aG09"
    "QVdTNC1ITUFDLVNIQTI1NiZYLUFtei1DcmVkZW50aWFsPUFLSUFJT1NGT0ROTjdFWEFNUExFJTJGMjAyNDA2MTUl"
    "MkZ1cy1lYXN0LTElMkZiZWRyb2NrJTJGYXdzNF9yZXF1ZXN0JlgtQW16LURhdGU9MjAyNDA2MTVUMTIwMDAwWiZY"
    "LUFtei1FeHBpcmVzPTQzMjAwJlgtQW16LVNpZ25lZEhlYWRlcnM9aG9zdCZYLUFtei1TaWduYXR1cmU9Y2YyMDU4"
    "NWMyOGE4OTFkNmQ5NDhjMTgwYWM1MWI5OTRmNjkwNjA4MzYzNWY3OGYzZmFiZTBjNjQ0YTExZDQ4OCZWZXJzaW9u"
    "PTE="
)
TEMPORARY_TOKEN = PREFIX + (
    "YmVkcm9jay5hbWF6b25hd3MuY29tLz9BY3Rpb249Q2FsbFdpdGhCZWFyZXJUb2tlbiZYLUFtei1BbGdvcml0aG09"
    "QVdTNC1ITUFDLVNIQTI1NiZYLUFtei1DcmVkZW50aWFsPUFTSUFJT1NGT0ROTjdFWEFNUExFJTJGMjAyNDA2MTUl"
    "MkZ1cy13ZXN0LTIlMkZiZWRyb2NrJTJGYXdzNF9yZXF1ZXN0JlgtQW16LURhdGU9MjAyNDA2MTVUMTIwMDAwWiZY"
    "LUFtei1FeHBpcmVzPTM2MDAmWC1BbXotU2lnbmVkSGVhZGVycz1ob3N0JlgtQW16LVNlY3VyaXR5LVRva2VuPUlR"
    "b0piM0pwWjJsdVgyVmpFWEFNUExFVE9LRU4lM0QlM0QmWC1BbXotU2lnbmF0dXJlPTI4NDNjYmE4YWVhMmI0NGIz"
    "YjI2NGM4NTQ3YWRkMGFhNWU5YmRlYjQ2NzU3NjM0MmM3NzQzY2Y4NmEwNzViN2UmVmVyc2lvbj0x"
)


def cases(rows):
    """The rows without their first column, which becomes the name of the test."""
    return [pytest.param(*values, id=name) for name, *values in rows]


def check_side_by_side(check, rows):
    """check(*values) for each row (name, *values), in a thread of its own: pauses pass only once."""
    rows = list(rows)
    with ThreadPoolExecutor(len(rows)) as pool:
        jobs = [(name, pool.submit(check, *values)) for name, *values in rows]
    failed = [(name, job.exception()) for name, job in jobs if job.exception()]
    if failed:
        raise AssertionError("\n".join(f"{name}: {error!r}" for name, error in failed)) from failed[0][1]


def environ_in(folder):
    """What the fixture `environ` gives, with a home of its own in that folder."""
    return {"HOME": tempfile.mkdtemp(dir=folder), "AWS_EC2_METADATA_DISABLED": "true"}


def posix(reason):
    return pytest.mark.skipif(os.name == "nt", reason=reason)


def cpython(reason):
    return pytest.mark.skipif(sys.implementation.name != "cpython", reason=reason)


def encodable(text):
    """Whether it can be an argument or a variable of a program here: not all can in the C locale."""
    try:
        os.fsencode(text)
    except UnicodeEncodeError:
        return False
    return True


def token_of(payload):
    """A short-term key that says this."""
    return PREFIX + b64encode(payload.encode()).decode()


def rfc3339(moment):
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


class Clock:
    """A clock that stands still until it is set."""

    def __init__(self, now):
        self.now = now

    def __call__(self):
        return self.now


class Source:
    """A source of credentials: gives its answers in turn, the last for good; raises the errors.

    A look-up says so by `entered`, and waits while `gate` is closed.
    """

    def __init__(self, *answers, is_open=True):
        self.answers = list(answers)
        self.callers = []
        self.entered = threading.Event()
        self.gate = threading.Event()
        if is_open:
            self.gate.set()

    def __call__(self):
        self.callers.append(threading.get_ident())
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        self.entered.set()
        assert self.gate.wait(5), "nobody opened the gate"
        if isinstance(answer, BaseException):
            raise answer
        return answer

    @property
    def calls(self):
        return len(self.callers)


class Threads:
    """Threads that do the same, released at once, and what came out of each."""

    def __init__(self, work, count=1):
        self.outcomes = [None] * count
        self._start = threading.Barrier(count)
        self._threads = [
            threading.Thread(target=self._run, args=(work, number), daemon=True)
            for number in range(count)
        ]
        for thread in self._threads:
            thread.start()

    def _run(self, work, number):
        try:
            self._start.wait(5)
            self.outcomes[number] = work()
        except BaseException as error:
            self.outcomes[number] = error

    def until_waiting(self):
        """Return when each of them is inside our code and waits there, be it in the source."""
        deadline = time.monotonic() + 5
        while time.monotonic() < deadline:
            frames = sys._current_frames()
            if all(self._waits(frames.get(thread.ident)) for thread in self._threads):
                return self
            time.sleep(0.001)
        raise AssertionError("the threads do not wait")

    @staticmethod
    def _waits(frame):
        stack = []
        while frame:
            stack.append((frame.f_code.co_filename, frame.f_code.co_name))
            frame = frame.f_back
        # Not threading.__file__, which need not be the source.
        files = threading.Event.wait.__code__.co_filename, bt.__file__
        waiting = {(file, "wait") for file in files}
        return not waiting.isdisjoint(stack[:1]) and bt.__file__ in dict(stack)

    def join(self):
        for thread in self._threads:
            thread.join(5)
            assert not thread.is_alive(), "a thread hangs"
        return self.outcomes


def run(coroutine):
    """What the coroutine returns, within 5 seconds."""
    async def bounded():
        return await asyncio.wait_for(coroutine, 5)

    return asyncio.run(bounded())


async def until(event):
    """Wait for an Event of threading, and let the loop go on."""
    deadline = time.monotonic() + 5
    while not event.is_set():
        assert time.monotonic() < deadline, "it never happened"
        await asyncio.sleep(0.001)


def keys(name):
    """The lines of static keys in either of the two files."""
    return f"aws_access_key_id = AKIA{name}\naws_secret_access_key = secret-{name}\n"


def write_home(environ, config="", credentials=""):
    """The two files, in the home folder of that environment."""
    folder = Path(environ["HOME"], ".aws")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config").write_bytes(config.encode())
    (folder / "credentials").write_bytes(credentials.encode())


def key_of(role):
    """The key id of the credentials that a fake gives out for this role."""
    return role_keys(role)[0]


def key_at(now, environ):
    """The key id of profile p's credentials at that time."""
    token = bt.get_token(None, "us-west-2", profile="p", environ=environ, now=now)
    return bt.decode_token(token)["access_key_id"]


def profile(name, *lines):
    return f"[profile {name}]\n" + "".join(line + "\n" for line in lines)


def role(name, role_name, *lines):
    return profile(name, f"role_arn = {ARN}{role_name}", *lines)


def everything_in(error):
    """All that a log, a debugger or an error tracker gets of an error and of those behind it."""
    texts = traceback.format_exception(type(error), error, error.__traceback__)
    behind = [error]
    for each in behind:
        texts += [str(each), repr(each), repr(each.args), repr(vars(each))]
        behind += [other for other in (each.__cause__, each.__context__)
                   if other is not None and other not in behind]
    return "\n".join(texts)


# --- what the fakes of STS know ------------------------------------------------------------

WEB_TOKEN = "web.identity.token"
CREDENTIALS_FILE = "[base]\n" + keys("BASE")


def known_keys():
    """The keys that may sign: those of static profiles, and those other fakes give out."""
    known = {f"AKIA{name}": (f"secret-{name}", None) for name in ("BASE", "A", "B")}
    for name in ("container", "instance", "Signed"):
        key_id, secret, session_token = role_keys(name)
        known[key_id] = secret, session_token
    return known


# --- a home with everything ----------------------------------------------------------------

BASE_PROFILE = (
    "[profile base]\naws_access_key_id = AKIABASE\naws_secret_access_key = planted-base\n")
SSO_SESSION = "[sso-session corp]\nsso_region = us-east-1\nsso_start_url = https://x.test/start\n"
PROCESS_ANSWER = {"Version": 1, "AccessKeyId": "ASIAPROCESS", "SecretAccessKey": "planted"}
STS_SETTINGS = {"keys": {"AKIABASE": ("planted-base", None)},
                "web_identity_token": "planted.web.token"}
ROLE_LINE = f"role_arn = {ARN}Assumed\n"
SSO_LINES = "sso_session = corp\nsso_account_id = 123456789012\nsso_role_name = Portal\n"
PROCESS_LINE = f'credential_process = "{sys.executable}" -I -S "{{home}}/process.py"\n'


def furnish(home, profile_lines, expires_at=LATER):
    """What every source needs, and a default profile with these lines."""
    (home / "web").write_text("planted.web.token")
    (home / "process.py").write_text(f"print({json.dumps(PROCESS_ANSWER)!r})\n")
    caches = {
        SSO_CACHE: {
            "accessToken": "planted-access-token", "expiresAt": expires_at,
            "clientId": "planted-id", "clientSecret": "planted-client-secret",
            "refreshToken": "planted-refresh-token", "registrationExpiresAt": LATER},
        LOGIN_CACHE: {"accessToken": {
            "accessKeyId": "ASIALOGIN", "secretAccessKey": "planted", "sessionToken": "planted",
            "expiresAt": LATER}},
    }
    for name, content in caches.items():
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).write_text(json.dumps(content))
    write_home({"HOME": str(home)}, f"[default]\n{profile_lines}" + BASE_PROFILE + SSO_SESSION)


# --- source code ---------------------------------------------------------------------------

def imported(tree):
    """The top-level names of all modules that the code imports, wherever it does."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: a relative import"
            yield node.module.partition(".")[0]


def is_standard(module):
    # Python 3.9 does not know its own names: there, what can be found, and what only Windows has.
    if module in getattr(sys, "stdlib_module_names", ("_winapi", "msvcrt")):
        return True
    spec = importlib.util.find_spec(module)
    if spec is None:
        return False
    if spec.origin in ("built-in", "frozen"):
        return True
    path = Path(spec.origin).resolve()
    folders = {Path(sysconfig.get_path(kind)).resolve() for kind in ("stdlib", "platstdlib")}
    return not folders.isdisjoint(path.parents) and "site-packages" not in path.parts


def bare_environment(home, **variables):
    kept = {name: os.environ[name] for name in ("PATH", "SYSTEMROOT") if name in os.environ}
    return {**kept, "HOME": str(home), "AWS_EC2_METADATA_DISABLED": "true", **CONFIGURED, **variables}


class Pieces(io.RawIOBase):
    """A file that gives what it holds as it came, in these pieces."""

    def __init__(self, chunks):
        self.chunks = filter(None, chunks)
        self.left = b""

    def readable(self):
        return True

    def readinto(self, buffer):
        piece = self.left or next(self.chunks, b"")
        size = min(len(buffer), len(piece))
        buffer[:size], self.left = piece[:size], piece[size:]
        return size
