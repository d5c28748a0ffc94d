"""Times bedrock_token beside the least that such work can cost, and beside AWS's own packages.

    python -m tests.benchmark [--runs N] [--js FOLDER] [--markdown] [--svg FILE] [--check] [PART ...]

A ratio compares two figures that were taken in the same round, one after the other, so that a busy
machine slows both; what is shown is the median of all rounds. Where aws-bedrock-token-generator
(and with it botocore) is missing, its rows are left out. Those of AWS's JavaScript package need
node, and a FOLDER in which somebody has run `npm install @aws/bedrock-token-generator`.
"""
import argparse
import ast
import binascii
import compileall
import configparser
import hashlib
import hmac
import http.client
import importlib.util
import json
import multiprocessing
import os
import platform
import py_compile
import re
import shutil
import socketserver
import ssl
import subprocess
import sys
import tempfile
import time
import timeit
import zlib
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from importlib import metadata
from pathlib import Path
from statistics import median, quantiles
from typing import NamedTuple, Optional

import bedrock_token
from tests.fake_aws import ANSWER, EVENTS, event

HAVE_AWS = importlib.util.find_spec("aws_bedrock_token_generator") is not None
AWS = AWS_PYTHON, AWS_JS = "AWS's Python package", "AWS's JS package"

REGION = "us-east-1"
KEY_ID = "AKIDEXAMPLE"
SECRET = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"
BASE64 = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
SESSION_TOKEN = (BASE64 * 16)[:1000]
CREDENTIALS = bedrock_token.Credentials(KEY_ID, SECRET, SESSION_TOKEN)
ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": KEY_ID, "AWS_SECRET_ACCESS_KEY": SECRET, "AWS_SESSION_TOKEN": SESSION_TOKEN,
    "AWS_REGION": REGION, "AWS_EC2_METADATA_DISABLED": "true",
}


# --- figures and rows ----------------------------------------------------------------------

class Row(NamedTuple):
    what: str
    ours: float
    beside: str
    other: float
    ratio: float
    limit: Optional[float] = None

    def is_over(self):
        # Below nothing is a difference of two figures that a busy machine has spoilt.
        return self.limit is not None and not 0 < self.ratio <= self.limit

    def cells(self):
        limit = verdict = ""
        if self.limit is not None:
            limit = as_ratio(self.limit)
            verdict = "over" if self.is_over() else "ok"
        return (self.what, as_number(self.ours), self.beside, as_number(self.other),
                as_ratio(self.ratio), limit, verdict)


def rows(what, figures, name, *others):
    """`figures[name]` beside each (name, words, limit) of `others` that was measured."""
    for other, words, limit in others:
        if other in figures:
            ratio = median(ours / its for ours, its in zip(figures[name], figures[other]))
            yield Row(what, median(figures[name]), words, median(figures[other]), ratio, limit)


def as_number(value):
    return f"{value:.3g}" if value < 1000 else f"{value:,.0f}"


def as_ratio(value):
    return f"{value:.2f}" if value > 0.5 or value <= 0 else f"1/{1 / value:.1f}"


def in_turns(rounds, timers, scale=1):
    """Calls each timer once a round: {name: its figures}."""
    figures = {name: [] for name in timers}
    for _ in range(rounds):
        for name, timer in timers.items():
            figures[name].append(timer() * scale)
    return figures


def seconds(function, number=1, timer=time.perf_counter):
    """A timer of one call."""
    return lambda: timeit.timeit(function, number=number, timer=timer) / number


def cpu_seconds(function, number=1):
    """The same in processor time: what waits for nobody shall not count what others do meanwhile."""
    return seconds(function, number, time.process_time)


def over(floors, figures):
    """What each takes more, in the same round, than the one that `floors` names, or else "bare"."""
    return {
        name: [figure - floor for figure, floor in zip(numbers, figures[floors.get(name, "bare")])]
        for name, numbers in figures.items()
    }


# --- whole processes -----------------------------------------------------------------------

# Those of the file itself, __future__ among them, which is a module like any other.
IMPORTS = "import " + ", ".join(
    name for node in ast.parse(Path(bedrock_token.__file__).read_text(encoding="utf-8")).body
    for name in ([node.module] if isinstance(node, ast.ImportFrom) else
                 [each.name for each in node.names] if isinstance(node, ast.Import) else []))
OURS = "import bedrock_token; bedrock_token.get_token()"
AWS_OURS = "import aws_bedrock_token_generator as aws; aws.provide_token()"
LAMBDA = "import bedrock_token; provider = bedrock_token.TokenProvider()"
JS = "require({package}).getTokenProvider()()"
FLOORS = {"js": "node"}


def javascript(folder):
    """AWS's package in the `node_modules` of `folder`; None if it, or node, is missing."""
    if folder and shutil.which("node"):
        package = Path(folder, "node_modules", "@aws", "bedrock-token-generator").resolve()
        if package.is_dir():
            return package
    return None


def python(folder, code, *options):
    """A Python without the user's own settings, that looks into this folder first."""
    path = f"import sys; sys.path.insert(0, {str(folder)!r})"
    return [sys.executable, "-I", *options, "-c", f"{path}; {code}"]


def node(package, code):
    return [shutil.which("node"), "-e", code.replace("{package}", json.dumps(str(package)))]


def run(command, environ):
    return subprocess.run(command, env=environ, stdout=subprocess.PIPE, check=True).stdout


def processor_seconds(command, environ):
    """What a process takes, whatever others do meanwhile; by the clock where only that is known."""
    if not hasattr(os, "wait4"):
        return timeit.timeit(lambda: run(command, environ), number=1)
    process = subprocess.Popen(command, env=environ, stdout=subprocess.DEVNULL)
    _, process.returncode, usage = os.wait4(process.pid, 0)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    return usage.ru_utime + usage.ru_stime


def needed(name):
    """The distribution and, as far as they are installed, all that it requires."""
    found, waiting = {}, [name]
    for each in waiting:
        if each not in found:
            try:
                found[each] = metadata.distribution(each)
            except metadata.PackageNotFoundError:
                continue
            waiting += [re.match(r"[\w.-]+", line)[0] for line in found[each].requires or ()
                        if "extra ==" not in line]
    return found.values()


def files_of_aws():
    """(path to copy it to, path) of all files but bytecode, which Python makes later, of any file."""
    for distribution in needed("aws-bedrock-token-generator"):
        for file in distribution.files:
            if "__pycache__" not in file.parts and ".." not in file.parts:
                yield file, file.locate()


def layers(folder):
    """Folders with copies of the file, and of AWS's package, for Python to look into first.

    "bytecode": it is written by the first run. "source": it never is, as in a folder that is read-only.
    "layer": as the README makes a layer for AWS Lambda.
    """
    made = {name: folder / name for name in ("bytecode", "source", "layer")}
    for path in made.values():
        path.mkdir()
        shutil.copy(bedrock_token.__file__, path)
    compileall.compile_dir(
        made["layer"], quiet=1, invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH)
    if HAVE_AWS:
        for name, path in files_of_aws():
            for target in (made["source"] / name, made["bytecode"] / name):
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(path, target)
    return made


def install_rows(bench):
    sizes = {"ours": Path(bedrock_token.__file__).stat().st_size}
    if HAVE_AWS:
        sizes["aws"] = sum(path.stat().st_size for _, path in files_of_aws())
    if bench.package:
        sizes["js"] = sum(file.stat().st_size for file in bench.package.parents[1].rglob("*")
                          if file.is_file() and not file.is_symlink())
    yield from rows("to install, MB", {name: [size / 1e6] for name, size in sizes.items()}, "ours",
                    ("aws", AWS_PYTHON, None), ("js", AWS_JS, None))


def cold_rows(bench):
    """A whole process each, less one that does nothing, in processor time.

    Their differences are small beside what others do to a machine, which only ever adds: what counts is
    the round that a quarter of many are faster than.
    """
    at = bench.layers
    commands = {
        "bare": python(at["bytecode"], "pass"),
        "imports": python(at["bytecode"], IMPORTS),
        "ours": python(at["bytecode"], OURS),
        "source": python(at["source"], OURS, "-B"),
        "layer": python(at["layer"], LAMBDA, "-B"),
        "layer's source": python(at["source"], LAMBDA, "-B"),
    }
    if HAVE_AWS:
        commands["aws"] = python(at["bytecode"], AWS_OURS)
        commands["aws's source"] = python(at["source"], AWS_OURS, "-B")
    if bench.package:
        commands.update(node=node(bench.package, "0"), js=node(bench.package, JS))
    timers = {name: lambda command=command: processor_seconds(command, bench.environ)
              for name, command in commands.items()}
    in_turns(1, timers)  # writes the bytecode that all later runs find
    taken = in_turns(max(2, 3 * bench.runs), timers, 1e3)
    figures = over(FLOORS, {name: [quantiles(numbers, n=4)[0]] for name, numbers in taken.items()})
    yield from rows("first token, from bytecode, ms", figures, "ours",
                    ("imports", "its imports alone", 1.45),
                    ("aws", AWS_PYTHON, 1 / 15),
                    ("js", AWS_JS, None))
    yield from rows("first token, from source, ms", figures, "source",
                    ("aws's source", AWS_PYTHON, 1 / 9))
    yield from rows("init of a Lambda layer, from bytecode, ms", figures, "layer",
                    ("layer's source", "from source", None))


# Linux counts the memory of the process that starts a child towards the child's peak. So one
# that is smaller than any of those measured does it: it has loaded nothing, not even os.
MEASURE_PEAK = (
    "import posix, sys; "
    "child = posix.posix_spawn(sys.argv[1], sys.argv[1:], posix.environ); "
    "pid, status, usage = posix.wait4(child, 0); "
    "print(usage.ru_maxrss); "
    "sys.exit(status != 0)"
)


def memory_rows(bench):
    """The peak of the same processes, less that of one that does nothing."""
    if os.name != "posix":
        return
    folder = bench.layers["bytecode"]
    commands = {name: python(folder, code) for name, code in [
        ("bare", "pass"), ("imports", IMPORTS), ("ours", OURS)]}
    if HAVE_AWS:
        commands["aws"] = python(folder, AWS_OURS)
    if bench.package:
        commands.update(node=node(bench.package, "0"), js=node(bench.package, JS))

    def peak(command):
        return int(run([sys.executable, "-I", "-S", "-c", MEASURE_PEAK, *command], bench.environ))

    timers = {name: lambda command=command: peak(command) for name, command in commands.items()}
    in_turns(1, timers)
    unit = 2 ** -20 if sys.platform == "darwin" else 2 ** -10
    yield from rows("peak memory, MiB", over(FLOORS, in_turns(bench.few, timers, unit)), "ours",
                    ("imports", "its imports alone", 1.25),
                    ("aws", AWS_PYTHON, 1 / 4),
                    ("js", AWS_JS, None))


# --- in one process ------------------------------------------------------------------------

# The compiler of node takes some hundred rounds to do its best.
JS_WARM = """\
const {getToken} = require({package}), env = process.env;
const options = {region: env.AWS_REGION, credentials: {
    accessKeyId: env.AWS_ACCESS_KEY_ID, secretAccessKey: env.AWS_SECRET_ACCESS_KEY,
    sessionToken: env.AWS_SESSION_TOKEN}};
const mint = async (number) => {
    const start = performance.now();
    for (let done = 0; done < number; done++) await getToken(options);
    return (performance.now() - start) / 1e3 / number;
};
mint(2000).then(() => mint(200)).then((seconds) => console.log(seconds));
"""


def hashing_alone(token):
    """What has to be hashed and encoded for `token`, from texts that are there already."""
    url = binascii.a2b_base64(token[len("bedrock-api-key-"):])
    request = b"POST\n/\n" + url + b"\nhost:bedrock.amazonaws.com\n\nhost\n" + b"0" * 64
    scope = (b"20260102", REGION.encode(), b"bedrock", b"aws4_request")
    to_sign = b"AWS4-HMAC-SHA256\n20260102T030405Z\n" + b"/".join(scope) + b"\n"

    def hashing():
        key = b"AWS4" + SECRET.encode()
        for part in scope:
            key = hmac.digest(key, part, "sha256")
        digest = hashlib.sha256(request).hexdigest()
        hmac.digest(key, to_sign + digest.encode(), "sha256").hex()
        return binascii.b2a_base64(url, newline=False)

    return hashing


def aws_mint():
    from aws_bedrock_token_generator import BedrockTokenGenerator
    from botocore.credentials import Credentials

    credentials = Credentials(KEY_ID, SECRET, SESSION_TOKEN)
    return lambda: BedrockTokenGenerator().get_token(credentials, REGION)


def warm_rows(bench):
    token = bedrock_token.get_token(CREDENTIALS, REGION)
    functions = {
        "ours": (lambda: bedrock_token.get_token(CREDENTIALS, REGION), 500),
        "hashing": (hashing_alone(token), 1000),
        "reuse": (bedrock_token.TokenProvider(CREDENTIALS, REGION), 10_000),
        "decode": (lambda: bedrock_token.decode_token(token), 200),
    }
    if HAVE_AWS:
        functions["aws"] = (aws_mint(), 100)
    timers = {name: cpu_seconds(*each) for name, each in functions.items()}
    if bench.package:
        timers["js"] = lambda: float(run(node(bench.package, JS_WARM), bench.environ))
    figures = in_turns(bench.runs, timers, 1e6)
    yield from rows("one more token, µs", figures, "ours",
                    ("hashing", "its hashing alone", 2.5),
                    ("aws", AWS_PYTHON, 1 / 2),
                    ("js", AWS_JS, None))
    yield from rows("the provider's, µs", figures, "reuse", ("ours", "one more token", 1 / 20))
    yield from rows("decode_token, µs", figures, "decode", ("ours", "one more token", None))


# --- config files --------------------------------------------------------------------------

PROFILES = 5000
# A file with one thing in it n times, and the n that takes some milliseconds.
GROWING = {
    "profiles": (500, lambda n: "".join(f"[profile p{i}]\na = 1\nb =\n c = 2\n" for i in range(n))),
    "one profile again": (500, lambda n: "[default]\na = 1\n" * n),
    "properties": (1000, lambda n: "[default]\n" + "".join(f"a{i} = 1\n" for i in range(n))),
    "continuations": (8000, lambda n: "[default]\na = 1\n" + " 2\n" * n),
    "blank lines": (5000, lambda n: "[default]\na = 1\n" + "\n" * n + " 2\n"),
    "blanks in a value": (2000, lambda n: "[default]\na = 1" + " \t" * n + "2 #\n"),
    "number signs": (2000, lambda n: "[default]\na = 1" + "#;" * n + "2\n"),
    "blanks in a header": (2000, lambda n: "[profile" + " " * n + "p" + " " * n + "]#\n"),
}


def config_environ(folder, text):
    folder.mkdir()
    (folder / "config").write_text(text)
    return {"HOME": str(folder), "AWS_CONFIG_FILE": str(folder / "config"),
            "AWS_SHARED_CREDENTIALS_FILE": str(folder / "credentials")}


def aws_load(profile, environ):
    from botocore.session import Session

    def load():
        session = Session(profile=profile)
        session.set_config_variable("config_file", environ["AWS_CONFIG_FILE"])
        session.set_config_variable("credentials_file", environ["AWS_SHARED_CREDENTIALS_FILE"])
        return session.get_credentials()

    return load


def config_rows(bench):
    environ = config_environ(bench.folder / "profiles", "".join(
        f"[profile p{number}]\nregion = {REGION}\noutput = json\n"
        f"aws_access_key_id = {KEY_ID}\naws_secret_access_key = {SECRET}\n\n"
        for number in range(PROFILES)))
    profile = f"p{PROFILES - 1}"
    functions = {
        "ours": lambda: bedrock_token.load_credentials(profile, environ=environ),
        "configparser": lambda: configparser.RawConfigParser().read(environ["AWS_CONFIG_FILE"]),
    }
    if HAVE_AWS:
        functions["aws"] = aws_load(profile, environ)
    timers = {name: cpu_seconds(function) for name, function in functions.items()}
    yield from rows(f"one of {PROFILES:,} profiles, ms", in_turns(bench.few, timers, 1e3), "ours",
                    ("configparser", "configparser alone", None),
                    ("aws", "botocore's session", 1 / 4))
    yield max((growth(bench, kind, *GROWING[kind]) for kind in GROWING), key=lambda row: row.ratio)


def growth(bench, kind, number, make):
    """Eight times the file may take eight times as long, and some more; quadratic is 64 times."""
    timers = {}
    for times in (1, 8):
        text = f"[default]\nregion = {REGION}\n" + make(times * number)
        environ = config_environ(bench.folder / f"{kind} {times}", text)
        timers[times] = cpu_seconds(lambda environ=environ: bedrock_token.load_region(environ=environ), 3)
    figures = in_turns(bench.few, timers, 1e3)
    [row] = rows(f"a file 8 times as long ({kind}, the worst), ms", figures, 8, (1, "the file", 16))
    return row


# --- a server on loopback ------------------------------------------------------------------

MODEL = "us.amazon.nova-micro-v1:0"
PROXY_KEY = "0123456789abcdef0123"  # what our proxy wants of its clients
MESSAGES = [{"role": "user", "content": [{"text": "Hello"}]}]
# Of 127.0.0.1, its own authority, from 2020 to 2120, made with the package cryptography. Scanners
# look for whole keys in source code.
PEM = "".join(f"-----BEGIN {kind}-----\n{body}\n-----END {kind}-----\n" for kind, body in [
    ("PRIVATE KEY", """\
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgDMD9ZYI4RtlZhMR+
lDUvJcgm6h/+GjXcy6FRZ/JYmbqhRANCAASXY0zzv3E3YXMlctk1Kn8IbG3yvd4w
O5cAno0HK/EU6kjVqUAeQzVC40+ku5L5YSofrZCXBR84D7/VDfaNh+YY"""),
    ("CERTIFICATE", """\
MIIBYjCCAQigAwIBAgIBATAKBggqhkjOPQQDAjAPMQ0wCwYDVQQDDAR0ZXN0MCAX
DTIwMDEwMTAwMDAwMFoYDzIxMjAwMTAxMDAwMDAwWjAPMQ0wCwYDVQQDDAR0ZXN0
MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEl2NM879xN2FzJXLZNSp/CGxt8r3e
MDuXAJ6NByvxFOpI1alAHkM1QuNPpLuS+WEqH62QlwUfOA+/1Q32jYfmGKNTMFEw
DwYDVR0RBAgwBocEfwAAATAPBgNVHRMBAf8EBTADAQH/MB0GA1UdDgQWBBRbHtP6
+KPLTVI7cz3abMlIVesTNzAOBgNVHQ8BAf8EBAMCAoQwCgYIKoZIzj0EAwIDSAAw
RQIhAItsZPWfVeqirG+UUkfG9QMgnB0YSQcBtLm/bYOPaoz4AiAa1cABK7k2TkHa
eIS+Qe8NG0XsrgRW2yDZwKrabHgRvA=="""),
])


class Handler(socketserver.StreamRequestHandler):
    """Reads requests and sends the answer that belongs to the end of the path."""

    disable_nagle_algorithm = True

    def setup(self):
        if self.server.tls:
            self.request = self.server.tls.wrap_socket(self.request, server_side=True)
        super().setup()

    def handle(self):
        for line in self.rfile:
            path, length = line.split()[1], 0
            for header in iter(self.rfile.readline, b"\r\n"):
                name, _, value = header.partition(b":")
                if name.lower() == b"content-length":
                    length = int(value)
            self.rfile.read(length)
            answer = self.server.answers[path.rpartition(b"/")[2]]
            self.wfile.write(answer)
            if b"\r\nConnection: close\r\n" in answer[:200]:
                return


class Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    request_queue_size = 64

    def handle_error(self, request, client_address):
        """Clients that go early are no error."""


def serve(pipe, answers, pem):
    """Runs in a process of its own, whose time is not ours."""
    with Server(("127.0.0.1", 0), Handler) as server:
        server.answers, server.tls = answers, None
        if pem:
            server.tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            server.tls.load_cert_chain(pem)
        pipe.send(server.server_address[1])
        server.serve_forever()


@contextmanager
def serving(answers, pem=None):
    """The port of a server with these answers: {end of the path: answer}."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=serve, args=(there, answers, pem), daemon=True)
    process.start()
    try:
        if not here.poll(20):
            sys.exit("the server did not start")
        yield here.recv()
    finally:
        process.terminate()
        process.join(20)


def answer(body, kind="application/json", end=""):
    return f"HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\n{end}\r\n".encode() + body


def counted(document):
    body = json.dumps(document).encode()
    return answer(body, end=f"Content-Length: {len(body)}\r\n")


def ask(link):
    """One call with http.client: the least that a program can do itself."""
    link.request("POST", f"/model/{MODEL}/converse", json.dumps({"messages": MESSAGES}), {
        "Authorization": f"Bearer {PROXY_KEY}", "Content-Type": "application/json"})
    response = link.getresponse()
    if json.loads(response.read()) != ANSWER:
        raise ConnectionError(f"HTTP {response.status}")


LENGTH = 5000  # events of a stream
DELTA = {"delta": {"text": " as it seems"}, "contentBlockIndex": 0, "p": "abcdefghijklmnopqrstuvwxyz0123"}
CHUNK = {
    "id": "chatcmpl-0a1b2c3d4e5f60718293a4b5c6d7e8f9", "object": "chat.completion.chunk",
    "created": 1767323045, "model": "openai.gpt-oss-120b", "service_tier": "default",
    "system_fingerprint": None, "usage": None, "obfuscation": "kX3yQ9", "choices": [
        {"index": 0, "delta": {"content": " as it seems"}, "logprobs": None, "finish_reason": None}],
}


def stream_rows(bench):
    """Decoding in our own process, from a server in another, beside what has to be done at least."""
    start, *_, stop, usage = (event(*each) for each in EVENTS)
    frame, payload = event("contentBlockDelta", DELTA), json.dumps(DELTA).encode()
    data = json.dumps(CHUNK, separators=(",", ":"))
    closed = "Connection: close\r\n"
    answers = {
        b"converse-stream": answer(
            start + frame * LENGTH + stop + usage, "application/vnd.amazon.eventstream", closed),
        b"completions": answer(
            f"data: {data}\n\n".encode() * LENGTH + b"data: [DONE]\n\n", "text/event-stream", closed),
    }

    def drop(events):
        """As `least` does: what a program keeps costs it the same, whoever has decoded it."""
        for _ in events:
            pass

    def least(text, *frames):
        for _ in range(LENGTH):
            json.loads(text)
            for each in frames:
                zlib.crc32(each)

    with serving(answers) as port:
        given = {
            "token": bedrock_token.get_token(CREDENTIALS, REGION),
            "environ": {"HOME": str(bench.folder), "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}"},
        }
        path, mantle = "/v1/chat/completions", "bedrock-mantle"
        functions = {
            "events": lambda: drop(bedrock_token.converse_stream(MODEL, MESSAGES, **given)),
            "json and checksums": lambda: least(payload, frame),
            "sse": lambda: drop(bedrock_token.call_stream(path, {}, endpoint=mantle, **given)),
            "json": lambda: least(data),
        }
        timers = {name: cpu_seconds(function) for name, function in functions.items()}
        in_turns(1, timers)
        figures = in_turns(bench.runs, timers, 1e6 / LENGTH)
    yield from rows("one event of an event stream, µs", figures, "events",
                    ("json and checksums", "its JSON and checksum alone", 2))
    yield from rows("one server-sent event, µs", figures, "sse", ("json", "its JSON alone", 2))


def tls_rows(bench):
    """Call after call, each with a connection of its own, and a CA bundle as long as the system's."""
    bundle = bench.folder / "bundle.pem"
    system = ssl.create_default_context().get_ca_certs(binary_form=True)
    pem = bench.folder / "server.pem"
    pem.write_text(PEM)
    bundle.write_text("".join(map(ssl.DER_cert_to_PEM_cert, system)) + PEM[PEM.index("-----BEGIN CERT"):])
    context = ssl.create_default_context(cafile=bundle)
    with serving({b"converse": counted(ANSWER)}, pem) as port:
        given = {
            "token": bedrock_token.get_token(CREDENTIALS, REGION),
            "environ": {"HOME": str(bench.folder), "AWS_CA_BUNDLE": str(bundle),
                        "AWS_ENDPOINT_URL": f"https://127.0.0.1:{port}"},
        }

        def by_http_client():
            with closing(http.client.HTTPSConnection("127.0.0.1", port, context=context)) as link:
                ask(link)

        timers = {
            "ours": seconds(lambda: bedrock_token.converse(MODEL, MESSAGES, **given), 5),
            "http.client": seconds(by_http_client, 5),
        }
        in_turns(1, timers)
        figures = in_turns(bench.runs, timers, 1e3)
    yield from rows(f"a call over TLS, {len(system)} CAs, ms", figures, "ours",
                    ("http.client", "http.client with one context", 2))


CLIENTS = 16


@contextmanager
def proxy(bench, port):
    """The port of our proxy before that server."""
    environ = {**bench.environ, "BEDROCK_TOKEN_PROXY_KEY": PROXY_KEY,
               "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}"}
    command = [sys.executable, bedrock_token.__file__, "proxy", "--port", "0"]
    with subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield int(re.search(r"127\.0\.0\.1:(\d+)", process.stdout.readline())[1])
        finally:
            process.terminate()


def one_after_another(link):
    return median(timeit.repeat(lambda: ask(link), number=1, repeat=100))


def side_by_side(pool, links):
    """Seconds from one answer to the next, whoever gets it."""
    def many(link):
        for _ in range(25):
            ask(link)

    return timeit.timeit(lambda: list(pool.map(many, links)), number=1) / (25 * len(links))


def proxy_rows(bench):
    """The same calls directly and through the proxy, on connections that stay open."""
    with serving({b"converse": counted(ANSWER)}) as port, proxy(bench, port) as proxy_port:
        direct, proxied = ([http.client.HTTPConnection("127.0.0.1", number) for _ in range(CLIENTS)]
                           for number in (port, proxy_port))
        with ThreadPoolExecutor(CLIENTS) as pool:
            timers = {
                "direct": lambda: one_after_another(direct[0]),
                "proxied": lambda: one_after_another(proxied[0]),
                "direct at once": lambda: side_by_side(pool, direct),
                "proxied at once": lambda: side_by_side(pool, proxied),
            }
            in_turns(1, timers)
            figures = in_turns(bench.runs, timers, 1e3)
        for link in direct + proxied:
            link.close()
    figures["allowed"] = [1.0] * bench.runs
    figures["added"] = [ours - its for ours, its in zip(figures["proxied"], figures["direct"])]
    yield from rows("a call through the proxy, p50, ms", figures, "proxied",
                    ("direct", "a direct call", None))
    yield from rows("added by the proxy, p50, ms", figures, "added",
                    ("allowed", "what is allowed", 1))
    yield from rows(f"a call of {CLIENTS} clients at once, ms", figures, "proxied at once",
                    ("allowed", "what is allowed", 1),
                    ("direct at once", "the same directly", None))


# --- what is printed -----------------------------------------------------------------------

def first_in(file, pattern, otherwise):
    """What the pattern finds in a file that only Linux has."""
    found = None
    if os.path.exists(file):
        found = re.search(pattern, Path(file).read_text(encoding="utf-8"), re.MULTILINE)
    return found[1] if found else otherwise


def circumstances(package):
    """The machine and the versions."""
    yield first_in("/proc/cpuinfo", r"^model name\s*: (.+)$", platform.processor())
    yield f"{os.cpu_count()} cores"
    yield first_in("/etc/os-release", r'^PRETTY_NAME="(.+)"$', platform.platform())
    yield f"{platform.python_implementation()} {platform.python_version()}"
    yield f"bedrock_token {bedrock_token.__version__}"
    if HAVE_AWS:
        aws, botocore = map(metadata.version, ("aws-bedrock-token-generator", "botocore"))
        yield f"aws-bedrock-token-generator {aws} with botocore {botocore}"
    if package:
        version = subprocess.check_output([shutil.which("node"), "--version"])
        yield f"Node.js {version.decode().strip().lstrip('v')}"
        about = json.loads((package / "package.json").read_text(encoding="utf-8"))
        yield f"{about['name']} {about['version']}"


def compared(measured):
    """The figures beside AWS's packages: {what: {whose: figure}}, ours the first."""
    found = {}
    for row in measured:
        if row.beside in AWS:
            found.setdefault(row.what, {"bedrock_token": row.ours})[row.beside] = row.other
    return found


def times(figures, whose):
    """The figure, and how many times ours it is."""
    ours = figures["bedrock_token"]
    figure = as_number(figures[whose])
    return figure if whose == "bedrock_token" else f"{figure} ({as_number(figures[whose] / ours)}×)"


def comparison(measured):
    found = compared(measured)
    columns = list(dict.fromkeys(whose for figures in found.values() for whose in figures))
    yield ("", *columns)
    for what, figures in found.items():
        yield (what, *(times(figures, whose) if whose in figures else "" for whose in columns))


# In a grey and a blue that can be read on white and on black, since a page may have either.
CHART = """\
<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 600 {height}" role="img" \
font-family="sans-serif" font-size="13" fill="#787878">
<title>bedrock_token beside AWS's token generators; a shorter bar is better</title>
{parts}
</svg>
"""
CHARTED = {
    "to install, MB": "Installed files, MB",
    "first token, from bytecode, ms": "Import and first token, from bytecode, ms",
    "first token, from source, ms": "The same from source, as in a read-only folder, ms",
    "one more token, µs": "One more token in the same process, µs",
    "peak memory, MiB": "Peak memory of the first token, MiB",
}


def chart(measured):
    """The figures as bars, those of each kind on a scale from zero to the longest."""
    parts, y = [], 0
    found = compared(measured)
    for what in filter(found.get, CHARTED):
        y += 24
        parts.append(f'<text y="{y}" font-weight="bold">{CHARTED[what]}</text>')
        for whose, value in found[what].items():
            y += 20
            width = max(1, 300 * value / max(found[what].values()))
            colour = "#909090" if whose in AWS else "#1f7fd6"
            parts += [
                f'<text x="160" y="{y}" text-anchor="end">{whose}</text>',
                f'<rect x="170" y="{y - 11}" width="{width:.1f}" height="13" fill="{colour}"/>',
                f'<text x="{width + 177:.1f}" y="{y}">{times(found[what], whose)}</text>',
            ]
        y += 10
    return CHART.format(height=y, parts="\n".join(parts))


HEADER = ("measured", "", "beside", "", "ratio", "at most", "")


def table(lines):
    widths = [max(map(len, column)) for column in zip(*lines)]
    for line in lines:
        yield "  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip()


def markdown(lines):
    header, *lines = lines
    for line in header, ["---"] * len(header), *lines:
        yield f"| {' | '.join(line)} |"


# --- all of it -----------------------------------------------------------------------------

class Bench(NamedTuple):
    """What the parts have in common."""

    runs: int
    few: int  # rounds of what hardly varies, or takes long
    package: Optional[Path]
    folder: Path
    layers: dict
    environ: dict


PARTS = {
    "install": install_rows, "cold": cold_rows, "warm": warm_rows, "memory": memory_rows,
    "config": config_rows, "stream": stream_rows, "tls": tls_rows, "proxy": proxy_rows,
}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}; all by default")
    parser.add_argument("--runs", type=int, default=20, help="rounds of each timing (%(default)s)")
    parser.add_argument("--js", metavar="FOLDER", help="where AWS's JavaScript package is")
    parser.add_argument("--markdown", action="store_true", help="print what the README shows")
    parser.add_argument("--svg", metavar="FILE", help="draw the chart that the README shows")
    parser.add_argument("--check", action="store_true", help="exit with 1 when over a limit twice")
    options = parser.parse_args()
    package = javascript(options.js)
    if not PARTS.keys() >= set(options.parts):
        parser.error(f"a PART is one of {', '.join(PARTS)}")
    if (options.markdown or options.svg) and not (HAVE_AWS or package):
        parser.error("--markdown and --svg need one of AWS's packages to compare with")

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        environ = {**ENVIRONMENT, "HOME": name}
        if "SYSTEMROOT" in os.environ:  # Windows starts no Python without it
            environ["SYSTEMROOT"] = os.environ["SYSTEMROOT"]
        bench = Bench(options.runs, min(5, options.runs), package, folder, layers(folder), environ)
        measured = []
        for part in options.parts or PARTS:
            found = list(PARTS[part](bench))
            if options.check and any(row.is_over() for row in found):
                print(f"{part} is over a limit, and measured again")
                found = list(PARTS[part](bench))
            measured += found

    print(", ".join(circumstances(package)), end="\n\n")
    if options.markdown:
        others = [row.cells() for row in measured if row.limit or row.beside not in AWS]
        print("\n".join([*markdown(comparison(measured)), "", *markdown([HEADER, *others])]))
    else:
        print("\n".join(table([HEADER, *(row.cells() for row in measured)])))
        print("First tokens, Lambda's init and memory are over those of an interpreter that does"
              " nothing; times without a server are processor time.")
    if options.svg:
        Path(options.svg).write_text(chart(measured), encoding="utf-8")
    return int(options.check and any(row.is_over() for row in measured))


if __name__ == "__main__":
    sys.exit(main())
