"""What holds for the file as a whole: what it needs, touches, shows and says of itself."""

import ast
import configparser
import importlib.util
import io
import json
import os
import pprint
import re
import shutil
import subprocess
import sys
import sysconfig
import textwrap
from base64 import b64encode
from datetime import datetime, timezone
from pathlib import Path
from types import SimpleNamespace

import pytest

import bedrock_token as bt
from tests import fake_aws
from tests.helpers import (
    KEY_ID, KEYS, LOGIN_CACHE, MESSAGES, NOON, ROLE, SECRET as EXAMPLE_SECRET, SSO_CACHE, cases,
    everything_in,
)

ROOT = Path(__file__).resolve().parent.parent
FILE = ROOT / "bedrock_token.py"
SOURCE = FILE.read_text(encoding="utf-8")
TREE = ast.parse(SOURCE)
README = (ROOT / "README.md").read_text(encoding="utf-8")

CONFIGURED = {**KEYS, "AWS_REGION": "us-east-1"}
PUBLIC = [
    "BedrockError", "BedrockTokenError", "Credentials", "CredentialsError", "NoCredentialsError",
    "NoRegionError", "Token", "TokenProvider", "assume_role", "converse", "converse_stream",
    "decode_token", "get_token", "load_credentials", "load_region", "presign", "provide_token",
]


# --- what it needs -------------------------------------------------------------------------

def imported(tree):
    """The top-level names of all modules that the code imports, wherever it does."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: a relative import"
            yield node.module.partition(".")[0]


def is_standard(module):
    # sys.stdlib_module_names would say it, from Python 3.10.
    spec = importlib.util.find_spec(module)
    if spec is None:
        return False
    if spec.origin in ("built-in", "frozen"):
        return True
    path = Path(spec.origin).resolve()
    folders = {Path(sysconfig.get_path(kind)).resolve() for kind in ("stdlib", "platstdlib")}
    return not folders.isdisjoint(path.parents) and "site-packages" not in path.parts


@pytest.mark.parametrize("module", sorted(set(imported(TREE))))
def test_only_the_standard_library_is_imported(module):
    assert is_standard(module)


def test_the_check_above_knows_a_package_when_it_sees_one():
    assert not is_standard("pytest")
    assert not is_standard("no_such_module")


def bare_environment(home, **variables):
    kept = {name: os.environ[name] for name in ("PATH", "SYSTEMROOT") if name in os.environ}
    return {**kept, "HOME": str(home), "AWS_EC2_METADATA_DISABLED": "true", **CONFIGURED, **variables}


def run(command, home, folder, **variables):
    return subprocess.run(
        command, cwd=str(folder), env=bare_environment(home, **variables), timeout=60,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )


MINT = "import sys; sys.path.insert(0, '.'); import bedrock_token; print(bedrock_token.get_token())"


@pytest.mark.parametrize("arguments", cases([
    ("imported", ["-I", "-c", MINT]),
    ("as a module", ["-E", "-s", "-m", "bedrock_token"]),
    ("as a script", ["-I", "bedrock_token.py"]),
]))
def test_it_works_copied_alone_into_an_empty_folder(arguments, home, tmp_path):
    shutil.copy(FILE, tmp_path)
    done = run([sys.executable, "-S", "-B", *arguments], home, tmp_path)
    assert done.stderr == b""
    assert re.fullmatch(rb"bedrock-api-key-[A-Za-z0-9+/]+=*\r?\n", done.stdout)
    assert done.returncode == 0
    assert os.listdir(tmp_path) == ["bedrock_token.py"]
    assert os.listdir(home) == []


# --- what it touches -----------------------------------------------------------------------

HEAVY = {
    "argparse", "asyncio", "base64", "configparser", "dataclasses", "http.client", "inspect",
    "json", "logging", "re", "socket", "ssl", "subprocess", "typing", "urllib.parse",
    "urllib.request", "xml.etree.ElementTree",
}
# Everything the interpreter reports from the import on; what a bare one has loaded is no concern.
WATCHED = """\
import sys
loaded, events = set(sys.modules), []
sys.path.insert(0, ".")
sys.addaudithook(lambda event, args: events.append((event, str(args[0]) if args else "")))
import bedrock_token
bedrock_token.get_token()
seen = list(events)
print(repr((sorted(set(sys.modules) - loaded), seen)))
"""


@pytest.fixture(scope="module")
def cold(tmp_path_factory):
    """What is loaded and what happens while it is imported and mints from the environment."""
    folder, home = tmp_path_factory.mktemp("alone"), tmp_path_factory.mktemp("home")
    shutil.copy(FILE, folder)
    done = run([sys.executable, "-S", "-I", "-B", "-c", WATCHED], home, folder)
    assert (done.stderr, done.returncode) == (b"", 0)
    modules, events = ast.literal_eval(done.stdout.decode())
    return SimpleNamespace(modules=set(modules), events=events)


def test_the_cold_path_loads_no_heavy_module(cold):
    assert "bedrock_token" in cold.modules
    assert cold.modules & HEAVY == set()


def test_the_cold_path_opens_no_file_but_the_modules_it_imports(cold):
    code = (".py", ".pyc", ".so", ".pyd", ".dll")
    opened = [path for event, path in cold.events if event == "open"]
    assert opened  # or the watching does not work
    assert [path for path in opened if not path.endswith(code)] == []


# Of the interpreter's own import system.
IMPORTING = {
    "compile", "exec", "import", "marshal.loads", "marshal.load", "object.__getattr__", "open",
    "os.listdir", "sys._getframe", "code.__new__", "sys._getframemodulename",
}


def test_the_cold_path_does_nothing_else(cold):
    """No socket, process, thread or signal handler, no change of the environment."""
    assert [event for event in cold.events if event[0] not in IMPORTING] == []


def test_a_token_from_given_credentials_looks_at_nothing_else():
    class Untouchable:
        def __getattribute__(self, name):
            raise AssertionError(f"asked for {name}")

    credentials = bt.Credentials(KEY_ID, EXAMPLE_SECRET)
    bt.get_token(credentials, "us-east-1", environ=Untouchable(), profile="none", now=NOON)


def test_nothing_writes_to_an_environment():
    """os.environ, and the mappings passed in its place, are kept in attributes named environ."""
    written = []
    for node in ast.walk(TREE):
        value = getattr(node, "value", None)
        if not (isinstance(value, ast.Attribute) and value.attr == "environ"):
            continue
        if isinstance(node, ast.Subscript) and not isinstance(node.ctx, ast.Load):
            written.append(node.lineno)
        if isinstance(node, ast.Attribute) and node.attr != "get":
            written.append(node.lineno)
    assert written == []
    assert not re.search(r"\b(putenv|unsetenv|environb)\b", SOURCE)


def test_no_state_is_kept_in_the_module():
    assert [node.lineno for node in ast.walk(TREE) if isinstance(node, ast.Global)] == []

    def state():
        return {name: repr(value) for name, value in vars(bt).items()
                if isinstance(value, (dict, list, set, bytearray)) and not name.startswith("__")}

    before = state()
    token = bt.get_token(environ=CONFIGURED)
    bt.decode_token(token)
    with pytest.raises(bt.NoCredentialsError):
        bt.load_credentials(environ={"HOME": "/nowhere", "AWS_EC2_METADATA_DISABLED": "true"})
    assert before and state() == before


# --- what it says of itself ----------------------------------------------------------------

def test_all_public_names_are_there():
    assert bt.__all__ == PUBLIC
    assert PUBLIC == sorted(PUBLIC)


def test_every_other_name_is_private():
    defined = []
    for node in TREE.body:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            defined.append(node.name)
        elif isinstance(node, (ast.Assign, ast.AnnAssign)):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            defined += [target.id for target in targets]
    public = {name for name in defined if not name.startswith("_")}
    # `main` is what a wheel's entry point and tests call; type checkers know TYPE_CHECKING.
    assert public - {"TYPE_CHECKING"} == {*PUBLIC, "main"}


def test_all_stands_right_under_the_docstring():
    docstring, future, names = TREE.body[:3]
    assert ast.get_docstring(TREE) and isinstance(docstring, ast.Expr)
    assert isinstance(future, ast.ImportFrom) and future.module == "__future__"
    assert names.targets[0].id == "__all__"


def documented():
    for name in [*PUBLIC, "main"]:
        thing = getattr(bt, name)
        yield name, thing
        if isinstance(thing, type):
            for method, function in vars(thing).items():
                if callable(function) and not method.startswith("_"):
                    yield f"{name}.{method}", function


@pytest.mark.parametrize("thing", cases(documented()))
def test_every_public_name_has_a_docstring(thing):
    own = vars(thing)["__doc__"] if isinstance(thing, type) else thing.__doc__
    assert own and own.strip()


def test_importing_defines_and_does_nothing():
    """Constants, functions and classes; and the one line that makes it a script."""
    kinds = (ast.Import, ast.ImportFrom, ast.Assign, ast.AnnAssign, ast.FunctionDef, ast.ClassDef)
    others = [node for node in TREE.body[1:] if not isinstance(node, kinds)]
    assert [ast.get_source_segment(SOURCE, getattr(node, "test", node)) for node in others] == [
        "TYPE_CHECKING", '__name__ == "__main__"',
    ]


BANNERS = [(number, found[1]) for number, line in enumerate(SOURCE.splitlines(), 1)
           for found in [re.fullmatch(r"# -{10,} (.+)", line)] if found]


def test_the_banners_are_those_of_the_map_in_the_docstring():
    _, _, after = ast.get_docstring(TREE).partition("\nMap")
    map_lines = after.split("\n\n")[1].splitlines()
    assert [re.match(r" {4}(\S.*?) {2,}", line)[1] for line in map_lines] \
        == [title for _, title in BANNERS]


def test_sections_come_in_the_order_of_what_they_depend_on():
    order = [
        "errors", "values", "Signature Version 4", "minting", "reading and presigning", "settings", "HTTP",
        "credential sources", "the chain", "TokenProvider", "calling Bedrock", "command line",
    ]
    assert [title for _, title in BANNERS] == order


class Uses(ast.NodeVisitor):
    """The names that code uses. Annotations are left out: they are not evaluated."""

    def __init__(self):
        self.names = {}

    def visit_Name(self, node):
        self.names.setdefault(node.id, node.lineno)

    def visit_arg(self, node):
        pass

    def visit_AnnAssign(self, node):
        if node.value:
            self.visit(node.value)

    def visit_FunctionDef(self, node):
        for part in (*node.decorator_list, node.args, *node.body):
            self.visit(part)

    visit_AsyncFunctionDef = visit_FunctionDef


def test_nothing_is_used_before_its_section():
    def section(line):
        return max((index for index, (start, _) in enumerate(BANNERS) if start <= line), default=-1)

    defined = {}
    for node in TREE.body:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            defined[node.name] = section(node.lineno)
        elif isinstance(node, (ast.Assign, ast.AnnAssign)):
            target = node.targets[0] if isinstance(node, ast.Assign) else node.target
            defined[target.id] = section(node.lineno)
    early = []
    for node in TREE.body:
        uses = Uses()
        uses.visit(node)
        for name, line in uses.names.items():
            if defined.get(name, -1) > section(node.lineno):
                early.append(f"line {line}: {name} is of a later section, "
                             f"{BANNERS[defined[name]][1]}")
    assert early == []


def test_the_version_is_the_one_in_the_metadata():
    metadata = configparser.ConfigParser()
    metadata.read(ROOT / "setup.cfg", encoding="utf-8")
    assert metadata["metadata"]["version"] == "attr: bedrock_token.__version__"
    # setuptools reads a literal without importing the module.
    literal = next(node.value for node in TREE.body
                   if isinstance(node, ast.Assign) and node.targets[0].id == "__version__")
    assert ast.literal_eval(literal) == bt.__version__
    assert re.fullmatch(r"\d+\.\d+\.\d+", bt.__version__)
    assert metadata["options"]["py_modules"] == "bedrock_token"


def test_the_version_option(capsys):
    assert bt.main(["--version"]) == 0
    assert capsys.readouterr().out == f"bedrock_token {bt.__version__}\n"


def test_the_licence_is_named_in_the_head():
    assert "# SPDX-License-Identifier: Apache-2.0" in SOURCE.splitlines()[:80]


# --- what it shows -------------------------------------------------------------------------

# A secret in any output would bring its first word along. No source line below holds it,
# since tracebacks quote those.
PLANTED = "Planted"
SECRET = f"{PLANTED}/secretAccessKey0123456789abcdefghi"
SESSION = f"{PLANTED}/sessionToken+0123456789=="
PASSWORD = f"{PLANTED}-password"
SPACED = f"{PLANTED} secret"
BROKEN = f"{PLANTED}\nsecret"
BYTES = SECRET.encode()
ENDED = datetime(2020, 1, 1, tzinfo=timezone.utc)
CREDENTIALS = bt.Credentials("ASIAIOSFODNN7EXAMPLE", SECRET, SESSION)
EXPIRED = bt.Credentials("ASIAIOSFODNN7EXAMPLE", SECRET, SESSION, ENDED)
TOKEN = bt.get_token(CREDENTIALS, "us-east-1")
OLD_TOKEN = bt.get_token(CREDENTIALS, "us-east-1", now=NOON)
LONG_TERM = "ABSK" + b64encode(f"BedrockAPIKey-ab12-at-123456789012:{SECRET}".encode()).decode()
CUT_LONG_TERM = "ABSK" + b64encode(BYTES).decode()
NOT_TEXT = "bedrock-api-key-" + b64encode(BYTES + b"\xff").decode()
TWICE = "bedrock-api-key-" + b64encode(f"bedrock.amazonaws.com/?a={SECRET}&a=1".encode()).decode()


# The first word as base64 shows it at each of the three places where it can stand in a group.
IN_BASE64 = [b64encode(before + PLANTED.encode()).decode()[start:start + 8]
             for before, start in ((b"", 0), (b"a", 2), (b"ab", 3))]


def leaks(text):
    """Which secrets are in the text, as they are or encoded as in a token or a header."""
    return [part for part in (PLANTED, *IN_BASE64, TOKEN[-40:], OLD_TOKEN[-40:]) if part in text]


@pytest.mark.parametrize("text", [
    f"x {SECRET}", repr(BYTES), str(TOKEN), str(OLD_TOKEN), LONG_TERM, CUT_LONG_TERM, NOT_TEXT,
    TWICE, *(b64encode(user + BYTES).decode() for user in (b"", b"a:", b"ab:")),
])
def test_leaks_are_found(text):
    assert leaks(text)


@pytest.mark.parametrize("thing", cases([
    ("Credentials", CREDENTIALS),
    ("credentials that have ended", EXPIRED),
    ("TokenProvider", bt.TokenProvider(CREDENTIALS, "us-east-1")),
    ("source of a role", bt.assume_role(ROLE, credentials=CREDENTIALS)),
    ("decoded", bt.decode_token(TOKEN)),
    ("decoded long-term key", bt.decode_token(LONG_TERM)),
    ("Token", TOKEN),
]))
def test_nothing_shows_a_secret(thing):
    shown = [repr(thing), "%r" % (thing,), f"{thing!r:>200}", f"{[thing]} {(thing,)}",
             str({"thing": thing}), pprint.pformat([thing])]
    if not isinstance(thing, str):
        shown += [str(thing), f"{thing}", f"{thing!s}"]
    assert [text for text in shown if leaks(text)] == []


class Unhelpful(fake_aws.Fake):
    """Documents with secrets that are of no use, and a refusal for everything else."""

    def reply(self, request):
        document = {"AccessKeyId": "ASIAEXAMPLE", "SecretAccessKey": SECRET, "Token": SESSION,
                    "Expiration": "2020-01-01T00:00:00Z"}
        answers = {
            "/expired": document,
            "/half": {**document, "Expiration": None},
            "/blank": {**document, "SecretAccessKey": SPACED},
            "/type": {**document, "Expiration": [SECRET]},
            "/list": json.dumps([SECRET]),
            "/broken": json.dumps(document)[:-9],
            "/not-utf-8": BYTES + b"\xff",
            "/cut": fake_aws.truncated(BYTES),
            "/model/xml/converse": BYTES,
            "/model/cut/converse": fake_aws.truncated(BYTES),
        }
        found = answers.get(request.path)
        fake_aws.require(found is not None, 403, "AccessDeniedException", fake_aws.NOT_VALID)
        return found if callable(found) else fake_aws.answer(200, found)


@pytest.fixture
def unhelpful():
    with Unhelpful() as service:
        yield service


def lookup(environ):
    return bt.load_credentials(environ=environ)


def converse(**options):
    return lambda environ: bt.converse(options.pop("model", "m"), MESSAGES, environ=environ,
                                       **{"token": OLD_TOKEN, **options})


SSO_CONFIG = """\
[default]
sso_session = corp
sso_account_id = 123456789012
sso_role_name = Reader
[sso-session corp]
sso_region = us-east-1
sso_start_url = https://corp.awsapps.com/start
"""
LOGIN_CONFIG = "[default]\nlogin_session = me\n"
SSO_SESSION = {
    "accessToken": SECRET, "expiresAt": "2020-01-01T00:00:00Z", "clientId": "id",
    "clientSecret": SECRET, "refreshToken": SECRET, "registrationExpiresAt": "2120-01-01T00:00:00Z",
}
VALID_SSO_SESSION = {**SSO_SESSION, "expiresAt": "2120-01-01T00:00:00Z"}
PRINTED = json.dumps({"Version": 1, "AccessKeyId": "a", "SecretAccessKey": SECRET,
                      "Expiration": "2020-01-01T00:00:00Z"})

# What is set in the environment ({url}: the unhelpful service's), what is in which file, the call.
FAILING = [
    ("a blank in a key", {}, {}, lambda _: bt.Credentials("AKIA", SPACED)),
    ("a line break in a key", {}, {}, lambda _: bt.Credentials("AKIA", SECRET, BROKEN)),
    ("bytes for a key", {}, {}, lambda _: bt.Credentials("AKIA", BYTES)),
    ("an expiration without a zone", {}, {},
     lambda _: bt.Credentials("AKIA", SECRET, SESSION, datetime(2024, 1, 1))),
    # What boto3.Session takes in this order.
    ("keys as arguments", {}, {}, lambda _: bt.get_token(KEY_ID, SECRET, SESSION)),
    ("keys as arguments of a provider", {}, {},
     lambda _: bt.TokenProvider(KEY_ID, SECRET, SESSION)),
    ("a secret for a region", {}, {}, lambda _: bt.get_token(CREDENTIALS, SECRET)),
    ("a secret for a lifetime", {}, {}, lambda _: bt.get_token(CREDENTIALS, "us-east-1", SECRET)),
    ("a dict for credentials", {}, {}, lambda _: bt.get_token({"secret_key": SECRET}, "us-east-1")),
    ("half an object for credentials", {}, {},
     lambda _: bt.get_token(SimpleNamespace(access_key="a", secret_key=SECRET), "us-east-1")),
    ("an object with a bad key", {}, {}, lambda _: bt.get_token(
        SimpleNamespace(access_key="a", secret_key=SPACED, token=None), "us-east-1")),
    ("a callable that returns keys", {}, {}, lambda _: bt.get_token(lambda: SECRET, "us-east-1")),
    ("credentials that have ended", {}, {}, lambda _: bt.get_token(EXPIRED, "us-east-1")),
    ("no lifetime", {}, {}, lambda _: bt.get_token(CREDENTIALS, "us-east-1", 0)),
    ("a time without a zone", {}, {},
     lambda _: bt.get_token(CREDENTIALS, "us-east-1", now=datetime(2024, 1, 1))),
    ("a provider's credentials have ended", {}, {},
     lambda _: bt.TokenProvider(EXPIRED, "us-east-1").token()),
    ("presigning for no host", {}, {}, lambda _: bt.presign(
        "GET", "a b", service="s3", region="us-east-1", credentials=CREDENTIALS)),
    ("presigning a header with a line break", {}, {}, lambda _: bt.presign(
        "GET", "a", headers=[("x", BROKEN)], service="s3", region="us-east-1",
        credentials=CREDENTIALS)),
    ("a damaged token", {}, {}, lambda _: bt.decode_token(OLD_TOKEN[:-6])),
    ("a token that is not base64", {}, {}, lambda _: bt.decode_token(OLD_TOKEN + "\n")),
    ("a token that is not text", {}, {}, lambda _: bt.decode_token(NOT_TEXT)),
    ("a token that says something twice", {}, {}, lambda _: bt.decode_token(TWICE)),
    ("a damaged long-term key", {}, {}, lambda _: bt.decode_token(CUT_LONG_TERM)),
    ("no token at all", {}, {}, lambda _: bt.decode_token(SECRET)),

    ("environment: half", {"AWS_SECRET_ACCESS_KEY": SECRET}, {}, lookup),
    ("environment: a blank", {
        "AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": SPACED}, {}, lookup),
    ("environment: swapped with the expiration", {
        "AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_CREDENTIAL_EXPIRATION": SESSION}, {}, lookup),
    ("environment: expired", {
        "AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": SECRET, "AWS_SESSION_TOKEN": SESSION,
        "AWS_CREDENTIAL_EXPIRATION": "2020-01-01T00:00:00Z"}, {}, lookup),
    ("environment: a secret for a region", {
        "AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": SECRET, "AWS_REGION": SECRET}, {},
     lambda environ: bt.get_token(environ=environ)),

    ("file: no equals sign", {},
     {".aws/credentials": f"[default]\naws_secret_access_key {SECRET}\n"}, lookup),
    ("file: no section", {}, {".aws/credentials": f"aws_secret_access_key = {SECRET}\n"}, lookup),
    ("file: an open section", {}, {".aws/credentials": f"[default {SECRET}\n"}, lookup),
    ("file: a bad sub-property", {}, {".aws/config": f"[default]\ns3 =\n  {SECRET}\n"}, lookup),
    ("file: a stray continuation", {}, {".aws/config": f"[default]\n  {SECRET}\n"}, lookup),
    ("file: not text", {}, {".aws/credentials": b"[default]\n" + BYTES + b"\xff\n"}, lookup),
    ("file: half", {}, {
        ".aws/credentials": f"[default]\naws_secret_access_key = {SECRET}\n"}, lookup),
    ("file: a blank", {}, {".aws/credentials":
     f"[default]\naws_access_key_id = a\naws_secret_access_key = {SPACED}\n"}, lookup),

    ("sso: expired and refused", {}, {
        ".aws/config": SSO_CONFIG, SSO_CACHE: json.dumps(SSO_SESSION)}, lookup),
    ("sso: refused", {}, {
        ".aws/config": SSO_CONFIG, SSO_CACHE: json.dumps(VALID_SSO_SESSION)}, lookup),
    ("sso: broken", {}, {
        ".aws/config": SSO_CONFIG, SSO_CACHE: json.dumps(SSO_SESSION)[:-2]}, lookup),
    ("sso: token with a blank", {}, {".aws/config": SSO_CONFIG, SSO_CACHE: json.dumps(
        {**VALID_SSO_SESSION, "accessToken": SPACED, "refreshToken": ""})}, lookup),
    ("login: no AWS CLI", {"PATH": "/nowhere"}, {
        ".aws/config": LOGIN_CONFIG, LOGIN_CACHE: json.dumps(
            {"accessToken": {"secretAccessKey": SECRET, "expiresAt": SECRET}})}, lookup),
    ("login: broken", {}, {".aws/config": LOGIN_CONFIG, LOGIN_CACHE: f'{{"{SECRET}'}, lookup),
    ("program: not there", {}, {
        ".aws/config": f"[default]\ncredential_process = /nowhere/tool {SECRET}\n"}, lookup),
    ("program: an open quote", {}, {
        ".aws/config": f"[default]\ncredential_process = tool '{SECRET}\n"}, lookup),
    ("program: fails", {}, {".aws/config":
     f"[default]\ncredential_process = sh -c 'echo {SECRET}; exit 3'\n"}, lookup),
    ("program: not JSON", {}, {
        ".aws/config": f"[default]\ncredential_process = echo {SECRET}\n"}, lookup),
    ("program: expired", {}, {
        ".aws/config": f"[default]\ncredential_process = echo '{PRINTED}'\n"}, lookup),
    ("role: refused", {"AWS_REGION": "us-east-1"}, {}, lambda environ: bt.assume_role(
        ROLE, credentials=CREDENTIALS, external_id=SECRET, environ=environ)()),
    ("role: bad code", {"AWS_REGION": "us-east-1"}, {}, lambda environ: bt.assume_role(
        ROLE, credentials=CREDENTIALS, mfa_serial="me", mfa_code=lambda _: SECRET,
        environ=environ)()),
    ("web identity: refused", {"AWS_WEB_IDENTITY_TOKEN_FILE": "~/token", "AWS_ROLE_ARN": ROLE,
                               "AWS_REGION": "us-east-1"}, {"token": SECRET}, lookup),
    ("web identity: not text", {"AWS_WEB_IDENTITY_TOKEN_FILE": "~/token", "AWS_ROLE_ARN": ROLE},
     {"token": BYTES + b"\xff"}, lookup),
    *((f"container: {path}", {"AWS_CONTAINER_CREDENTIALS_FULL_URI": "{url}/" + path,
                              "AWS_CONTAINER_AUTHORIZATION_TOKEN": SECRET}, {}, lookup)
      for path in ("expired", "half", "blank", "type", "list", "broken", "not-utf-8", "cut", "no")),
    ("container: a line break in the token", {
        "AWS_CONTAINER_CREDENTIALS_FULL_URI": "{url}/",
        "AWS_CONTAINER_AUTHORIZATION_TOKEN": BROKEN}, {}, lookup),
    ("container: a password in the address", {
        "AWS_CONTAINER_CREDENTIALS_FULL_URI": f"http://me:{PASSWORD}@127.0.0.1/"}, {}, lookup),

    ("converse: refused", {}, {}, converse()),
    ("converse: not JSON", {}, {}, converse(model="xml")),
    ("converse: cut off", {}, {}, converse(model="cut")),
    ("converse: nobody there", {"AWS_ENDPOINT_URL": "{nobody}"}, {}, converse(timeout=2)),
    ("converse: other region", {}, {}, converse(region="eu-west-1")),
    ("converse: line break", {}, {}, converse(token=OLD_TOKEN + "\n")),
    ("converse: bytes", {}, {}, converse(token=BYTES)),
    ("converse: line break in the environment", {"AWS_BEARER_TOKEN_BEDROCK": BROKEN}, {},
     converse(token=None)),
    ("converse: dead proxy", {
        "http_proxy": "http://me:" + PASSWORD + "@{nobody_address}"}, {}, converse(timeout=2)),
    ("converse: no proxy", {"http_proxy": f"http://me:{PASSWORD}@:x"}, {}, converse()),
    ("endpoint with a password", {"AWS_ENDPOINT_URL": f"http://me:{PASSWORD}@127.0.0.1/"}, {},
     converse()),
]


@pytest.mark.parametrize("variables, files, call", cases(FAILING))
def test_no_error_shows_a_secret(variables, files, call, environ, home, unhelpful):
    nobody = fake_aws.refused_url()
    places = {"{url}": unhelpful.url, "{nobody}": nobody,
              "{nobody_address}": nobody.partition("://")[2]}
    environ.update({"AWS_ENDPOINT_URL": unhelpful.url, "PATH": os.environ["PATH"]})
    for name, value in variables.items():
        for place, url in places.items():
            value = value.replace(place, url)
        environ[name] = value
    for name, content in files.items():
        path = home / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises((bt.BedrockTokenError, ValueError, TypeError)) as caught:
        call(environ)
    assert leaks(everything_in(caught.value)) == []


@pytest.mark.parametrize("arguments, stdin", cases([
    ("a token as argument", [TOKEN], ""),
    ("a token as argument of inspect", ["inspect", TOKEN], ""),
    ("a token as argument of check", ["check", TOKEN], ""),
    ("a token as option", [f"--token={TOKEN}"], ""),
    ("a token as format", ["--format", TOKEN], ""),
    ("a token as format of inspect", ["inspect", "--format", TOKEN], ""),
    ("a token as region", ["--region", TOKEN], ""),
    ("a secret as region", ["--region", SECRET], ""),
    ("a token as lifetime", ["--expires-in", TOKEN], ""),
    ("a token as variable", ["--format", "env", "--var", TOKEN], ""),
    ("a token as timeout", ["check", "--timeout", TOKEN], ""),
    ("a token as quiet", [f"--quiet={TOKEN}"], ""),
    ("inspect", ["inspect"], str(TOKEN)),
    ("inspect for programs", ["inspect", "--format", "json"], str(TOKEN)),
    ("inspect a damaged one", ["inspect"], TOKEN[:-6]),
    ("inspect a long-term one", ["inspect"], LONG_TERM),
    ("check", ["check"], ""),
    ("check of a model", ["check", "--model", "m"], ""),
    ("converse", ["converse", "--model", "m", "Hi"], ""),
    ("exec of nothing", ["exec", "--", "/nowhere/nothing"], ""),
]))
def test_no_command_shows_a_secret(arguments, stdin, unhelpful, monkeypatch, capsys):
    variables = {
        "AWS_ACCESS_KEY_ID": KEY_ID, "AWS_SECRET_ACCESS_KEY": SECRET, "AWS_SESSION_TOKEN": SESSION,
        "AWS_REGION": "us-east-1", "AWS_ENDPOINT_URL": unhelpful.url,
    }
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin.encode())))
    bt.main(arguments)
    out, err = capsys.readouterr()
    assert out + err
    assert leaks(out + err) == []


# --- the manual ----------------------------------------------------------------------------

# Packages of the recipes that tests/interop runs; here they are only compiled.
CLIENTS = {"anthropic", "boto3", "langchain_aws", "litellm", "openai"}
RUN_HERE, RUN_IN_INTEROP, RUN_BY_CI = "run here", "compiled here, run by tests/interop", "run by CI"
READ_HERE = "read here"  # data: parsed, and its programs and profiles used


def fenced(language=None):
    """(line, language, code) of every fenced block, or of those in one language."""
    found = []
    for match in re.finditer(r"^```(\w*)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL):
        line = README.count("\n", 0, match.start()) + 1
        if language in (None, match[1]):
            found.append((line, match[1], match[2]))
    return found


def classified(language, code):
    """How a block is checked; None if nothing checks it."""
    if language == "python":
        packages = {module for module in imported(ast.parse(code))
                    if module != "bedrock_token" and (module in CLIENTS or not is_standard(module))}
        if packages:
            return RUN_IN_INTEROP if packages <= CLIENTS else None
        return RUN_HERE
    if language == "sh":
        return RUN_BY_CI if "pytest" in code else RUN_HERE
    return READ_HERE if language in ("ini", "json", "yaml") else None


def examples(language, kind):
    return [pytest.param(code, id=f"README line {line}") for line, _, code in fenced(language)
            if classified(language, code) == kind]


def test_every_block_is_checked():
    assert [line for line, language, code in fenced() if classified(language, code) is None] == []
    assert len(re.findall(r"^\s*(?:```|~~~)", README, re.MULTILINE)) == 2 * len(fenced())


def test_one_block_runs_the_tests():
    """CI takes it from here and runs it."""
    block, = (code for _, language, code in fenced("sh")
              if classified(language, code) == RUN_BY_CI)
    assert len(block.splitlines()) == 1
    assert [bool(re.search(r"\bpytest\b", code)) for *_, code in fenced()].count(True) == 1


@pytest.fixture
def manual(home, tmp_path):
    """A folder with the file and an environment in which all that the manual sets up is there."""
    developer, secret, session = fake_aws.role_keys("Developer")
    keys = {KEY_ID: (EXAMPLE_SECRET, None), developer: (secret, session)}
    aws = home / ".aws"
    (aws / "sso" / "cache").mkdir(parents=True)
    (aws / "config").write_text("\n".join(code for *_, code in fenced("ini")), encoding="utf-8")
    (home / SSO_CACHE).write_text(json.dumps(
        {"accessToken": fake_aws.SsoPortal.access_token, "expiresAt": "2120-01-01T00:00:00Z"}))
    folder = tmp_path / "project"
    folder.mkdir()
    shutil.copy(FILE, folder)
    with fake_aws.Sts(keys=keys) as sts, fake_aws.SsoPortal() as sso, \
            fake_aws.BedrockRuntime() as bedrock:
        yield SimpleNamespace(folder=folder, environ=bare_environment(
            home, AWS_ENDPOINT_URL_STS=sts.url, AWS_ENDPOINT_URL_SSO=sso.url,
            AWS_ENDPOINT_URL_BEDROCK=bedrock.url, AWS_ENDPOINT_URL_BEDROCK_RUNTIME=bedrock.url,
        ))


@pytest.mark.parametrize("code", examples("python", RUN_HERE))
def test_python_examples_run(code, manual, monkeypatch, capsys):
    for name, value in manual.environ.items():
        monkeypatch.setenv(name, value)
    names = {"__name__": "__main__"}
    exec(compile(code, "README.md", "exec"), names)
    if "handler" in names:  # Lambda calls it
        print(names["handler"]({}, None))
    printed = capsys.readouterr().out
    assert printed.strip() or "print" not in code
    assert leaks(printed) == []


@pytest.mark.parametrize("code", examples("python", RUN_IN_INTEROP))
def test_python_examples_with_packages_compile(code):
    compile(code, "README.md", "exec")
    used = {node.attr for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Attribute)
            and isinstance(node.value, ast.Name) and node.value.id == "bedrock_token"}
    assert used and used <= set(PUBLIC)


# Programs that the examples start besides python3.
PROGRAMS = {
    "claude": """\
        test "$CLAUDE_CODE_USE_BEDROCK" = 1
        test -n "$AWS_REGION"
        test -z "$AWS_SECRET_ACCESS_KEY"
        echo "${AWS_BEARER_TOKEN_BEDROCK:?}"
        """,
    "aws": 'echo "aws $*"\n',
}


@pytest.fixture
def shell(manual, tmp_path):
    """Runs sh code as somebody would who follows the manual; returns what it prints."""
    bash = shutil.which("bash")
    if bash is None:
        pytest.skip("no bash here")
    programs = tmp_path / "programs"
    programs.mkdir()
    for name, text in {**PROGRAMS, "python3": f'exec "{sys.executable}" -B "$@"\n'}.items():
        program = programs / name
        program.write_text("#!/bin/sh\nset -e\n" + textwrap.dedent(text))
        program.chmod(0o755)
    path = f"{programs}{os.pathsep}{manual.environ['PATH']}"

    def run_code(code):
        done = subprocess.run(
            [bash, "-e", "-o", "pipefail", "-c", code], cwd=str(manual.folder), timeout=60,
            env={**manual.environ, "PATH": path}, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, universal_newlines=True,
        )
        assert done.returncode == 0, done.stderr
        assert "Traceback" not in done.stderr
        return done.stdout

    return run_code


@pytest.mark.parametrize("code", examples("sh", RUN_HERE))
def test_sh_examples_run(code, shell):
    assert shell(code).strip()


def test_the_first_command_mints_a_token(shell):
    token, = shell(fenced("sh")[0][2]).split()
    facts = bt.decode_token(token)
    assert (facts["access_key_id"], facts["region"]) == (KEY_ID, "us-east-1")


@pytest.mark.parametrize("code", examples("yaml", READ_HERE))
def test_steps_of_a_workflow_run(code, shell):
    assert "\t" not in code
    steps = re.findall(r"^ *- run: (.+)$", code, re.MULTILINE)
    assert steps
    for step in steps:
        assert shell(step).strip()


PROFILES = sorted(set(re.findall(r"^\[profile (.+)\]$", README, re.MULTILINE)))


@pytest.mark.parametrize("profile", PROFILES)
def test_profiles_give_credentials(profile, manual):
    found = bt.load_credentials(profile, environ=manual.environ)
    assert found.source.startswith(f"profile {profile} (")
    assert bt.load_region(profile, environ={**manual.environ, "AWS_REGION": ""}) == "us-east-1"


def test_every_ini_block_has_a_profile():
    assert PROFILES
    assert [line for line, _, code in fenced("ini") if "[profile " not in code] == []


@pytest.mark.parametrize("code", examples("json", READ_HERE))
def test_policies_name_both_actions(code):
    policy = json.loads(code)
    assert sorted(policy) == ["Statement", "Version"]
    actions = [action for statement in policy["Statement"] for action in statement["Action"]]
    assert {"bedrock:CallWithBearerToken", "bedrock-mantle:CallWithBearerToken"} <= set(actions)


def strings(tree):
    return [node.value for node in ast.walk(tree)
            if isinstance(node, ast.Constant) and isinstance(node.value, str)]


def variables_read():
    """The AWS variables that the file names, also those that it puts together."""
    for text in strings(TREE):
        if re.fullmatch(r"AWS_[A-Z0-9_]*[A-Z0-9]", text):
            yield text
    for node in ast.walk(TREE):
        if isinstance(node, ast.Call) and getattr(node.func, "attr", "") in ("setting", "is_on"):
            if isinstance(node.args[0], ast.Constant):
                yield f"AWS_{node.args[0].value.upper()}"
    for service in ("STS", "SSO", "SSO_OIDC", "BEDROCK", "BEDROCK_RUNTIME"):
        yield f"AWS_ENDPOINT_URL_{service}"


# The manual says that they are not read; `exec --only-bedrock` takes the second away all the same.
NOT_READ = {"AWS_CREDENTIAL_FILE", "AWS_SECURITY_TOKEN"}


def test_the_manual_names_every_variable_that_is_read():
    named = set(re.findall(r"\bAWS_[A-Z0-9_]*[A-Z0-9]\b", README))
    assert named - NOT_READ == set(variables_read()) - NOT_READ


def part_of_manual(heading):
    """The text under a heading, up to the next of its level."""
    level = heading.partition(" ")[0]
    _, _, after = README.partition(f"\n{heading}\n")
    assert after, f"the manual has no {heading}"
    return re.split(rf"^#{{1,{len(level)}}} ", after, flags=re.MULTILINE)[0]


def test_the_table_of_variables_is_complete():
    table = part_of_manual("### Environment variables read")
    others = set(re.findall(r'(?:variable|environ\.get)\("([A-Z_]+)"', SOURCE))
    assert [name for name in {*variables_read(), *others} - NOT_READ
            if f"`{name}`" not in table] == []


def test_the_manual_names_every_public_name():
    assert [name for name in PUBLIC if f"`{name}`" not in README] == []


@pytest.mark.parametrize("command", ["", "exec", "inspect", "check", "converse"])
def test_the_manual_names_every_option(command, capsys):
    assert bt.main([*command.split(), "--help"]) == 0
    text = capsys.readouterr().out
    options = set(re.findall(r"--[a-z-]+[a-z]", text)) - {"--help"}
    assert options
    assert [option for option in options if option not in README] == []
    if not command:
        formats = re.search(r"--format \{(.+?)\}", text)[1].split(",")
        assert [name for name in formats if f"`{name}`" not in README] == []


def test_the_functions_named_for_an_audit_exist():
    named = re.findall(r"`(_[A-Za-z_]+)(?:\.([a-z_]+))?`", part_of_manual("## Audit"))
    assert len(named) > 10
    for name, attribute in named:
        thing = getattr(bt, name)
        assert not attribute or hasattr(thing, attribute)


# What it takes to reach the network, to start a process, and to open a file.
DANGEROUS = [
    ("connections", r"urllib\.request\.[A-Z]|socket\.socket|HTTPS?Connection\("),
    ("programs", r"subprocess\.|os\.exec|os\.system|os\.popen|os\.posix_spawn|os\.spawn|os\.fork"),
    ("files", r"\bopen\(|os\.replace|os\.unlink|os\.remove|load_verify_locations|cafile="),
]


@pytest.mark.parametrize("pattern", cases(DANGEROUS))
def test_the_audit_names_the_functions_that_do_it(pattern):
    named = set(re.findall(r"`(?:_Config\.)?([A-Za-z_]+)`", part_of_manual("## Audit")))
    lines = SOURCE.splitlines()
    doing = [node.name for node in ast.walk(TREE)
             if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
             and re.search(pattern, "\n".join(lines[node.lineno - 1:node.end_lineno]))]
    assert doing
    assert [name for name in doing if name not in named] == []


def test_the_messages_in_the_table_of_errors_exist():
    rows = re.findall(r"^\| `(.+?)` \|", part_of_manual("## Errors and what to do"), re.MULTILINE)
    assert len(rows) > 15
    text = "\n".join(strings(TREE))
    assert [row for row in rows if row not in text] == []


# --- the repository ------------------------------------------------------------------------

def test_nothing_else_stands_at_the_top():
    if not (ROOT / ".git").exists() or shutil.which("git") is None:
        pytest.skip("not a git checkout")
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=str(ROOT), check=True, stdout=subprocess.PIPE,
    ).stdout.decode("utf-8")
    assert {path.partition("/")[0] for path in listed.split("\0") if path} == {
        ".ci", ".gitattributes", ".gitignore", "LICENSE", "README.md", "bedrock_token.py",
        "setup.cfg", "tests", "vendored_test_vectors",
    }
    assert [path for path in listed.split("\0") if path.startswith(".ci/")] == [".ci/run"]
