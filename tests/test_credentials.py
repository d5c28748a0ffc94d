"""All sources of credentials: which one wins, and what becomes of the answers of broken services;
then credential_process."""

import itertools
import json
import os
import re
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Callable, NamedTuple
from xml.sax.saxutils import escape

import pytest

import bedrock_token
from bedrock_token import (
    Credentials,
    CredentialsError,
    NoCredentialsError,
    load_credentials,
)
from tests.fake_aws import (
    Container, Fake, Forever, Imds, Oidc, SsoPortal, Sts, answer, close, drip, hang, html, huge,
    redirect, refused_url, role_keys, truncated,
)
from tests.helpers import (
    ARN, LATER, LOGIN_CACHE, SSO_CACHE, cases, everything_in, keys, posix, write_home,
)

EARLIER = "2001-01-01T00:00:00Z"


# --- a home with everything ----------------------------------------------------------------

BASE_PROFILE = (
    "[profile base]\naws_access_key_id = AKIABASE\naws_secret_access_key = planted-base\n")
SSO_SESSION = "[sso-session corp]\nsso_region = us-east-1\nsso_start_url = https://x.test/start\n"
PROCESS_ANSWER = {"Version": 1, "AccessKeyId": "ASIAPROCESS", "SecretAccessKey": "planted"}


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


STS_SETTINGS = {"keys": {"AKIABASE": ("planted-base", None)},
                "web_identity_token": "planted.web.token"}
ROLE = f"role_arn = {ARN}Assumed\n"
SSO = "sso_session = corp\nsso_account_id = 123456789012\nsso_role_name = Portal\n"
STATIC = keys("STATIC")
PROCESS = f'credential_process = "{sys.executable}" -I -S "{{home}}/process.py"\n'


# --- which one wins ------------------------------------------------------------------------

class Setup(NamedTuple):
    variables: dict
    lines: str  # of the default profile
    key_id: str
    source: str
    asked: list  # which services


# In the order of the chain.
SETUPS = {
    "environment": Setup(
        {"AWS_ACCESS_KEY_ID": "AKIAENV", "AWS_SECRET_ACCESS_KEY": "planted"}, "",
        "AKIAENV", "environment", []),
    "role": Setup(
        {}, ROLE + "source_profile = base\n", role_keys("Assumed")[0],
        f"profile default (role {ARN}Assumed, through profile base)", ["sts"]),
    "web identity of the environment": Setup(
        {"AWS_WEB_IDENTITY_TOKEN_FILE": "~/web", "AWS_ROLE_ARN": ARN + "Env"}, "",
        role_keys("Env")[0], f"environment (web identity, role {ARN}Env)", ["sts"]),
    "web identity of the profile": Setup(
        {}, ROLE + "web_identity_token_file = ~/web\n", role_keys("Assumed")[0],
        f"profile default (web identity, role {ARN}Assumed)", ["sts"]),
    "sso": Setup({}, SSO, role_keys("Portal")[0], "profile default (sso)", ["sso"]),
    "static keys": Setup({}, STATIC, "AKIASTATIC", "profile default", []),
    "login": Setup({}, "login_session = me\n", "ASIALOGIN", "profile default (login)", []),
    "process": Setup({}, PROCESS, "ASIAPROCESS", "profile default (credential_process)", []),
    "container": Setup(
        {"AWS_CONTAINER_CREDENTIALS_FULL_URI": "{container}/credentials"}, "",
        role_keys("container")[0], "container", ["container"]),
    "instance metadata": Setup(
        {"AWS_EC2_METADATA_DISABLED": "false"}, "", role_keys("instance")[0],
        "instance metadata", 3 * ["imds"]),
}
OF_THE_ENVIRONMENT = {"environment", "web identity of the environment"}


@pytest.fixture(scope="module")
def services():
    fakes = {"sts": Sts(**STS_SETTINGS), "sso": SsoPortal(access_token="planted-access-token"),
             "container": Container(), "imds": Imds()}
    with ExitStack() as stack:
        for fake in fakes.values():
            stack.enter_context(fake)
        yield fakes


def load_with(setups, environ, home, services, profile=None, **variables):
    """The credentials of the default profile with these setups, and the services asked."""
    places = {"home": home, **{name: fake.url for name, fake in services.items()}}
    lines = "".join(setup.lines for setup in setups).format(**places)
    environ.update(AWS_ENDPOINT_URL_STS=places["sts"], AWS_ENDPOINT_URL_SSO=places["sso"],
                   AWS_EC2_METADATA_SERVICE_ENDPOINT=places["imds"],
                   AWS_METADATA_SERVICE_TIMEOUT="5", **variables)
    for setup in setups:
        for name, value in setup.variables.items():
            environ[name] = value.format(**places)
    furnish(home, lines)
    for fake in services.values():
        fake.requests.clear()
    got = load_credentials(profile, environ=environ)
    return got, [name for name, fake in services.items() for _ in fake.requests]


@pytest.mark.parametrize("name", SETUPS)
def test_each_source(environ, home, services, name):
    setup = SETUPS[name]
    got, asked = load_with([setup], environ, home, services)
    assert (got.access_key_id, got.source, asked) == setup[2:]


# A role's profile with a token file is a web identity, which has a test of its own.
PAIRS = [pair for pair in itertools.combinations(SETUPS, 2)
         if pair != ("role", "web identity of the profile")]


@pytest.mark.parametrize("first, second", PAIRS)
def test_pairs(environ, home, services, first, second):
    got, asked = load_with([SETUPS[first], SETUPS[second]], environ, home, services)
    assert (got.access_key_id, got.source, asked) == SETUPS[first][2:]


def test_role_with_a_token_file_is_a_web_identity(environ, home, services):
    setup = SETUPS["web identity of the profile"]
    got, asked = load_with([SETUPS["role"], setup], environ, home, services)
    assert (got.access_key_id, got.source, asked) == setup[2:]


@pytest.mark.parametrize("name", [name for name in SETUPS if name not in OF_THE_ENVIRONMENT])
def test_profile_in_code_switches_the_environment_off(environ, home, services, name):
    setups = [SETUPS[each] for each in sorted(OF_THE_ENVIRONMENT) + [name]]
    got, asked = load_with(setups, environ, home, services, profile="default")
    assert (got.access_key_id, got.source, asked) == setups[-1][2:]


@pytest.mark.parametrize("name", sorted(OF_THE_ENVIRONMENT))
def test_aws_profile_does_not(environ, home, services, name):
    setups = [SETUPS[name], SETUPS["static keys"]]
    got, _ = load_with(setups, environ, home, services, AWS_PROFILE="default")
    assert got.source == SETUPS[name].source


# What breaks each source, as variables and lines of the profile.
BROKEN = [
    ("environment", {"AWS_ACCESS_KEY_ID": "AKIAENV"}, ""),
    ("role", {}, f"role_arn = {ARN}Assumed\nsource_profile = nobody\n"),
    ("web identity of the environment", {"AWS_WEB_IDENTITY_TOKEN_FILE": "~/missing",
                                         "AWS_ROLE_ARN": ARN + "Env"}, ""),
    ("web identity of the profile", {}, ROLE + "web_identity_token_file = ~/missing\n"),
    ("sso", {}, SSO.replace("corp", "nobody")),
    ("static keys", {}, "aws_access_key_id = AKIASTATIC\n"),
    ("login", {"PATH": ""}, "login_session = you\n"),
    ("process", {}, f'credential_process = "{sys.executable}" -c "raise SystemExit(1)"\n'),
    ("container", {"AWS_CONTAINER_CREDENTIALS_FULL_URI": "{container}/missing"}, ""),
    ("profile", {"AWS_PROFILE": "nobody"}, ""),
]


@pytest.mark.parametrize("variables, lines", cases(BROKEN))
def test_broken_source_ends_the_chain(environ, home, services, variables, lines):
    broken = Setup(variables, lines, "", "", [])
    with pytest.raises(CredentialsError):
        load_with([SETUPS["instance metadata"], broken], environ, home, services)
    assert services["imds"].requests == []


def test_nothing_configured(environ, home):
    places = ["AWS_ACCESS_KEY_ID", "profile default in",
              str(home / ".aws/config"), str(home / ".aws/credentials"), "(role)",
              "AWS_WEB_IDENTITY_TOKEN_FILE",
              "profile default (web identity, sso, static keys, login, credential_process)",
              "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "AWS_CONTAINER_CREDENTIALS_FULL_URI",
              "instance metadata"]
    with pytest.raises(NoCredentialsError) as raised:
        load_credentials(environ=environ)
    assert sorted(places, key=str(raised.value).index) == places
    assert "skipped" not in str(raised.value)
    with pytest.raises(NoCredentialsError) as raised:
        load_credentials("default", environ=environ)
    assert str(raised.value).count("(skipped, since a profile is named)") == 2


RECORDED = """
import json, sys
import bedrock_token
events = []
sys.addaudithook(lambda event, args: events.append([event, repr(args)]))
source = bedrock_token.load_credentials().source
bedrock_token.get_token()
watched = "open", "os.", "socket.", "subprocess.", "urllib.", "import"
print(json.dumps([source, [event for event in events if event[0].startswith(watched)]]))
"""


def test_environment_opens_no_file_and_no_socket(environ):
    environ.update(SETUPS["environment"].variables, AWS_SESSION_TOKEN="planted",
                   AWS_CREDENTIAL_EXPIRATION=LATER, AWS_REGION="us-east-1", AWS_PROFILE="nobody",
                   AWS_CONTAINER_CREDENTIALS_FULL_URI="http://example.com")
    done = subprocess.run(
        [sys.executable, "-B", "-c", RECORDED], env={**os.environ, **environ}, check=True,
        capture_output=True, text=True, cwd=Path(bedrock_token.__file__).parent, timeout=60)
    assert json.loads(done.stdout) == ["environment", []]


# --- answers of broken services ------------------------------------------------------------

KEY_ID, SECRET, SESSION_TOKEN = "ASIAGOOD", "planted/secret+", "planted/session=="


class Remote(NamedTuple):
    """A service that gives credentials, or what leads to them, and how to come to ask it."""

    fake: Callable
    url_variable: str
    lines: str  # of the default profile
    fields: dict  # of the document in the answer
    document: Callable = json.dumps
    before: int = 0  # requests before the one for the document
    variables: dict = {}


def xml(fields):
    elements = "".join(f"<{name}>{escape(str(value))}</{name}>" for name, value in fields.items())
    return ('<AssumeRoleResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><Result>'
            f"<Credentials>{elements}</Credentials></Result></AssumeRoleResponse>")


def role_credentials(fields):
    return json.dumps({"roleCredentials": fields})


STS_FIELDS = {"AccessKeyId": KEY_ID, "SecretAccessKey": SECRET, "SessionToken": SESSION_TOKEN,
              "Expiration": LATER}
METADATA_FIELDS = {"Code": "Success", "AccessKeyId": KEY_ID, "SecretAccessKey": SECRET,
                   "Token": SESSION_TOKEN, "Expiration": LATER}
SSO_FIELDS = {"accessKeyId": KEY_ID, "secretAccessKey": SECRET, "sessionToken": SESSION_TOKEN,
              "expiration": 4070908800000}
METADATA_VARIABLES = {"AWS_EC2_METADATA_DISABLED": "false", "AWS_METADATA_SERVICE_TIMEOUT": "5"}

REMOTES = {
    "sts": Remote(
        lambda: Sts(**STS_SETTINGS), "AWS_ENDPOINT_URL_STS", ROLE + "source_profile = base\n",
        STS_FIELDS, xml),
    "web identity": Remote(
        lambda: Sts(**STS_SETTINGS), "AWS_ENDPOINT_URL_STS",
        ROLE + "web_identity_token_file = ~/web\n", STS_FIELDS, xml),
    "sso": Remote(
        lambda: SsoPortal(access_token="planted-access-token"), "AWS_ENDPOINT_URL_SSO", SSO,
        SSO_FIELDS, role_credentials),
    "oidc": Remote(
        lambda: Oidc(client=("planted-id", "planted-client-secret"),
                     refresh_token="planted-refresh-token"),
        "AWS_ENDPOINT_URL_SSO_OIDC", SSO,
        {"accessToken": "planted-new-token", "expiresIn": 3600}),
    "container": Remote(
        lambda: Container(path="/", authorization="planted-authorization"),
        "AWS_CONTAINER_CREDENTIALS_FULL_URI", "", METADATA_FIELDS,
        variables={"AWS_CONTAINER_AUTHORIZATION_TOKEN": "planted-authorization"}),
    "imds": Remote(
        Imds, "AWS_EC2_METADATA_SERVICE_ENDPOINT", "", METADATA_FIELDS, before=2,
        variables=METADATA_VARIABLES),
    "imds token": Remote(
        Imds, "AWS_EC2_METADATA_SERVICE_ENDPOINT", "", {}, lambda fields: "metadata-token-0==",
        variables=METADATA_VARIABLES),
}

# All that is secret in what is sent and answered here; fakes give out "secret/of+ROLE".
SECRETS = "planted", "/of+", "metadata-token-0", "metadata-token-1"


class Outcome(NamedTuple):
    result: Any  # the credentials, or the name of the error's class
    text: str  # all that can be seen of the error
    requests: int  # to the service
    seconds: float
    cache_kept: bool  # of the signed-in session


def ask(name, home, faults=(), url=None, **variables):
    """What comes of these answers to the request for the document."""
    remote = REMOTES[name]
    home.mkdir(parents=True, exist_ok=True)
    furnish(home, remote.lines, EARLIER if name == "oidc" else LATER)
    with ExitStack() as stack:
        fake = stack.enter_context(remote.fake())
        fake.faults = [*remote.before * [None], *faults]
        environ = {
            "HOME": str(home), "AWS_EC2_METADATA_DISABLED": "true", **remote.variables, **variables,
            remote.url_variable: (url or fake.url) + ("/" if name == "container" else "")}
        if name == "oidc":  # what it gives out is good for another service
            portal = stack.enter_context(SsoPortal(access_token="access-token-1"))
            environ["AWS_ENDPOINT_URL_SSO"] = portal.url
        cache = home / SSO_CACHE
        before = cache.read_text()
        started = time.monotonic()
        try:
            result, text = load_credentials(environ=environ), ""
        except Exception as error:
            result, text = type(error).__name__, everything_in(error)
        seconds = time.monotonic() - started
    cache_kept = cache.read_text() == before and os.listdir(cache.parent) == [cache.name]
    return Outcome(result, text, len(fake.requests) - remote.before, seconds, cache_kept)


def ask_all(tmp_path, faults_for, names=tuple(REMOTES), **more):
    """The outcomes by name, all at once: pauses and timeouts pass only once."""
    with ThreadPoolExecutor(len(names)) as pool:
        return dict(zip(names, pool.map(
            lambda name: ask(name, tmp_path / name, faults_for(REMOTES[name]), **more), names)))


def good(remote):
    return remote.document(remote.fields)


def quote(handler):
    """Refuses, and says all that was sent."""
    answer(403, {"message": f"{handler.requestline} {handler.headers}"})(handler)


def raw(text):
    """Not an answer in HTTP, but this."""
    def send(handler):
        handler.wfile.write(text.encode())
        handler.close_connection = True
    return send


# Faults, made for a service; how often it is asked; the errors, where they are not all
# CredentialsError.
NOWHERE = {"imds token": "NoCredentialsError"}
FAULTS = [
    ("closed", lambda remote: [Forever(close)], 3, NOWHERE),
    ("500 for ever", lambda remote: [Forever(answer(500))], 3, {}),
    ("cut off", lambda remote: [Forever(truncated(good(remote)))], 3, NOWHERE),
    ("endless", lambda remote: [Forever(huge(good(remote).encode()))], 3, NOWHERE),
    ("not HTTP", lambda remote: [raw(good(remote) + "\n")], 1, NOWHERE),
    ("header without end",
     lambda remote: [raw("HTTP/1.1 200 OK\r\nX: " + 70_000 * "planted")], 1, NOWHERE),
    ("damaged chunks", lambda remote: [
        raw("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nplanted\r\n")], 1, NOWHERE),
    ("400", lambda remote: [answer(400)], 1, {}),
    ("403", lambda remote: [html(403)], 1, NOWHERE),
    ("404", lambda remote: [answer(404)], 1, NOWHERE),
    ("204", lambda remote: [answer(204)], 1, {}),
    ("201", lambda remote: [answer(201, good(remote))], 1, {}),
    ("error with a list as its text",
     lambda remote: [answer(400, '{"message": [], "code": {}, "__type": 5}')], 1, {}),
    ("error without end", lambda remote: [answer(400, 60_000 * "[")], 1, {}),
    ("error with damaged XML", lambda remote: [answer(400, "<a><b>")], 1, {}),
    ("error that quotes", lambda remote: [quote], 1, NOWHERE),
    ("empty", lambda remote: [answer(200)], 1, {}),
    ("HTML", lambda remote: [html()], 1, {}),
    ("binary", lambda remote: [answer(200, b"\xff\xfe\x00\x80")], 1, {}),
    ("list", lambda remote: [answer(200, "[ ]")], 1, {}),
    ("text", lambda remote: [answer(200, '"planted "')], 1, {}),
    ("first half", lambda remote: [answer(200, good(remote)[:-9] + " <")], 1, {}),
    ("without end", lambda remote: [answer(200, 30_000 * "[ ")], 1, {}),
    ("unknown encoding",
     lambda remote: [answer(200, '<?xml version="1.0" encoding="x"?><Credentials/>')], 1, {}),
    ("other XML", lambda remote: [answer(200, "<a> <Credentials>planted</Credentials></a>")],
     1, {}),
]


@pytest.fixture(scope="module")
def slow(tmp_path_factory):
    """What comes of answers that take for ever, as futures: other tests go on meanwhile."""
    kinds = {"hang": lambda remote: [Forever(hang)],
             "drip": lambda remote: [Forever(drip(good(remote).ljust(320).encode(), 0.05))]}
    with ThreadPoolExecutor(len(kinds)) as pool:
        yield {kind: pool.submit(ask_all, tmp_path_factory.mktemp(kind), faults_for)
               for kind, faults_for in kinds.items()}


@pytest.mark.usefixtures("slow")
@pytest.mark.parametrize("faults, count, errors", cases(FAULTS))
def test_fault(tmp_path, faults, count, errors):
    outcomes = ask_all(tmp_path, faults)
    assert {name: outcome.result for name, outcome in outcomes.items()} == {
        name: errors.get(name, "CredentialsError") for name in REMOTES}
    assert {name: outcome.requests for name, outcome in outcomes.items()} == dict.fromkeys(
        REMOTES, count)
    assert [name for name, outcome in outcomes.items() for secret in SECRETS
            if secret in outcome.text] == []
    assert all(outcome.cache_kept for outcome in outcomes.values())
    assert max(outcome.seconds for outcome in outcomes.values()) < 5


PASSING = [
    ("503 once", [answer(503)], 2),
    ("429 once", [answer(429, headers=[("Retry-After", "1000")])], 2),
    ("500, then closed", [html(500), close], 3),
    ("cut off once", [truncated("{")], 2),
]


@pytest.mark.parametrize("faults, count", cases(PASSING))
def test_fault_that_passes(tmp_path, faults, count):
    outcomes = ask_all(tmp_path, lambda remote: faults)
    assert [name for name, outcome in outcomes.items()
            if not isinstance(outcome.result, Credentials)] == []
    # The instance's token is followed by two more requests.
    assert {name: outcome.requests for name, outcome in outcomes.items()} == {
        **dict.fromkeys(REMOTES, count), "imds token": count + 2}


def test_good_answers(tmp_path):
    outcomes = ask_all(tmp_path, lambda remote: [answer(200, good(remote))],
                       [name for name in REMOTES if name not in ("oidc", "imds token")])
    end = datetime(2099, 1, 1, tzinfo=timezone.utc)
    for outcome in outcomes.values():
        got = outcome.result
        assert (got.access_key_id, got.secret_access_key, got.session_token, got.expiration) == (
            KEY_ID, SECRET, SESSION_TOKEN, end)


def test_nobody_there(tmp_path):
    outcomes = ask_all(tmp_path, lambda remote: (), url=refused_url())
    for name, outcome in outcomes.items():
        assert outcome.result == (
            "NoCredentialsError" if name.startswith("imds") else "CredentialsError")
        # The reason in words, without the number that Python puts before it.
        assert bool(re.search("cannot be used: [A-Za-z]", outcome.text)) == (
            not name.startswith("imds"))
        assert [secret for secret in SECRETS if secret in outcome.text] == []


@pytest.mark.parametrize("status", [302, 307])
def test_redirects_are_not_followed(tmp_path, status):
    with Fake(faults=[Forever(answer(200, "planted"))]) as other:
        outcomes = ask_all(tmp_path, lambda remote: [redirect(other.url, status)])
        assert {outcome.result for outcome in outcomes.values()} == {"CredentialsError"}
        assert {outcome.requests for outcome in outcomes.values()} == {1}
    assert other.requests == []


# What is wrong with a field, by its value.
WRONG_KEYS = [("missing", ...), ("null", None), ("empty", ""), ("blank", " "), ("number", 5),
              ("list", ["planted"]), ("object", {}), ("true", True), ("line break", "planted\n"),
              ("two lines", "planted\r\nplanted"), ("umlaut", "planted\u00fc"),
              ("NUL", "planted\0")]
WRONG_TIMES = [("missing", ...), ("null", None), ("empty", ""), ("word", "soon"),
               ("month 13", "2099-13-01T00:00:00Z"), ("day alone", "2099-01-01"), ("list", []),
               ("object", {}), ("true", True), ("past", EARLIER), ("zone", LATER + "ulu"),
               ("beyond all time", "9999-12-31T23:59:59-23:59"),
               ("before all time", "0001-01-01T00:00:00+23:59"), ("past number", 5),
               ("negative", -10**15), ("huge number", 10**30), ("infinite", float("inf")),
               ("NaN", float("nan"))]
KEY_FIELDS = ["AccessKeyId", "SecretAccessKey", "SessionToken", "Token", "accessKeyId",
              "secretAccessKey", "sessionToken", "accessToken"]
TIME_FIELDS = ["Expiration", "expiration", "expiresIn"]


def wrong_fields():
    for name, remote in REMOTES.items():
        for field in remote.fields:
            wrong = WRONG_KEYS if field in KEY_FIELDS else WRONG_TIMES
            for label, value in wrong if field != "Code" else ():
                # XML knows no types, and no NUL; IAM Identity Center counts seconds from now.
                if remote.document is xml and value is not ... and (
                        not isinstance(value, str) or "\0" in value):
                    continue
                if field == "expiresIn" and value in (True, 5, -10**15):
                    continue
                yield f"{name}: {field} {label}", name, field, value


@pytest.mark.parametrize("name, field, value", cases(wrong_fields()))
def test_wrong_field(tmp_path, name, field, value):
    remote = REMOTES[name]
    fields = {**remote.fields, field: value}
    if value is ...:
        del fields[field]
    outcome = ask(name, tmp_path, [answer(200, remote.document(fields))])
    assert outcome.result == "CredentialsError"
    assert outcome.requests == 1
    assert outcome.cache_kept
    assert [secret for secret in SECRETS if secret in outcome.text] == []


@pytest.mark.parametrize("kind", ["hang", "drip"])
def test_slow_answers_are_not_waited_for(slow, kind):
    outcomes = slow[kind].result()
    assert {name: outcome.result for name, outcome in outcomes.items()} == {
        name: NOWHERE.get(name, "CredentialsError") for name in REMOTES}
    assert [name for name, outcome in outcomes.items() for secret in SECRETS
            if secret in outcome.text] == []
    # 10 seconds are allowed, and some more to a busy machine.
    assert [name for name, outcome in outcomes.items() if outcome.seconds > 14] == []


# --- credential_process --------------------------------------------------------------------

@pytest.fixture
def run(environ, tmp_path):
    """Runs a program in Python as the credential_process of profile p, with these arguments."""
    def run(program, arguments="", **variables):
        path = tmp_path / "a program.py"
        path.write_text(program)
        write_home(environ, f'[profile p]\ncredential_process = "{sys.executable}" -I -S "{path}" '
                   f"{arguments}\n")
        return load_credentials("p", environ={**environ, **variables})
    return run


def says(**changes):
    """A program that says good credentials, but for these changes."""
    document = {**PROCESS_ANSWER, **changes}
    document = {name: value for name, value in document.items() if value is not ...}
    return f"print({json.dumps(document)!r})"


def test_process(run):
    assert run(says()) == Credentials("ASIAPROCESS", "planted", None, None,
                                      "profile p (credential_process)")
    got = run(says(SessionToken="planted", Expiration=LATER, Unknown=[]))
    assert (got.session_token, got.expiration) == ("planted",
                                                   datetime(2099, 1, 1, tzinfo=timezone.utc))


# What follows the program in the command, and the arguments it gets. There is no shell.
@posix("Windows programs split their own arguments")
@pytest.mark.parametrize("arguments, want", [
    ("a  b\tc", ["a", "b", "c"]),
    ("'a b' \"c d\" e\\ f", ["a b", "c d", "e f"]),
    ("'a\"b' \"c'd\" ''", ['a"b', "c'd", ""]),
    ("a;b;#c", ["a;b;#c"]),
    ("a; touch touched", ["a;", "touch", "touched"]),
    ("&& touch touched", ["&&", "touch", "touched"]),
    ("| touch touched", ["|", "touch", "touched"]),
    ("& touch touched", ["&", "touch", "touched"]),
    ("$(touch touched) `touch touched`", ["$(touch", "touched)", "`touch", "touched`"]),
    ("> touched 2>&1", [">", "touched", "2>&1"]),
    ("$HOME ~ * ${HOME}", ["$HOME", "~", "*", "${HOME}"]),
    ("a\n && touch touched", ["a", "&&", "touch", "touched"]),
], ids=repr)
def test_process_arguments(run, tmp_path, monkeypatch, arguments, want):
    monkeypatch.chdir(tmp_path)
    run(f"import sys; open('arguments', 'w').write(repr(sys.argv[1:])); {says()}", arguments)
    assert (tmp_path / "arguments").read_text() == repr(want)
    assert not (tmp_path / "touched").exists()


def test_process_gets_the_environment_given(run, tmp_path, monkeypatch):
    monkeypatch.setenv("OUTER", "x")
    file = tmp_path / "environment"
    run(f"import os; open({str(file)!r}, 'w').write(repr(dict(os.environ))); {says()}", GIVEN="y")
    seen = file.read_text()
    assert "'GIVEN': 'y'" in seen
    assert "OUTER" not in seen


def fails(text, status=1):
    return f"import sys; print('planted'); sys.stderr.buffer.write({text!r}); sys.exit({status})"


# A program, and what the error says besides the profile.
FAILING_PROCESSES = [
    ("first line of stderr", fails(b"Sign in first\nplanted\n", 3), ["3", "Sign in first"]),
    ("stderr begins with a blank line", fails(b"\n  Sign in first\r\nplanted\n"),
     ["1", "Sign in first"]),
    ("silent", "raise SystemExit(7)", ["7"]),
    ("stderr that is not UTF-8", fails(b"Sign \xff in first"), ["Sign"]),
    ("stderr with escape sequences", fails(b"\x1b[2JSign in first"), ["Sign in first"]),
    ("Version 2", says(Version=2), ["Version"]),
    ("Version as text", says(Version="1"), ["Version"]),
    ("no Version", says(Version=...), ["Version"]),
    ("no AccessKeyId", says(AccessKeyId=...), ["AccessKeyId"]),
    ("no SecretAccessKey", says(SecretAccessKey=...), ["SecretAccessKey"]),
    ("neither", says(SecretAccessKey=..., AccessKeyId=None), ["AccessKeyId", "SecretAccessKey"]),
    ("number", says(SecretAccessKey=5), []),
    ("line break", says(SecretAccessKey="planted\nplanted"), []),
    ("session token of another type", says(SessionToken=["planted"]), []),
    ("ended", says(Expiration=EARLIER), ["expired"]),
    ("malformed expiration", says(Expiration="soon"), ["expiration"]),
    ("expiration of another type", says(Expiration=["soon"]), ["expiration"]),
    ("nothing", "", ["JSON"]),
    ("no JSON", "print('AKIA planted')", ["JSON"]),
    ("list", "print('[]')", ["JSON"]),
    ("JSON without end", "print(60_000 * '[')", ["JSON"]),
    ("two documents", says() + ";" + says(), ["JSON"]),
]


@pytest.mark.parametrize("program, texts", cases(FAILING_PROCESSES))
def test_failing_process(run, program, texts):
    with pytest.raises(CredentialsError) as raised:
        run(program)
    error = str(raised.value)
    assert [text for text in ("profile p (credential_process)", *texts) if text not in error] == []
    assert error.isprintable()
    assert "planted" not in everything_in(raised.value)


@posix("Windows programs split their own arguments")
def test_killed_process(run):
    with pytest.raises(CredentialsError, match="-9"):
        run("import os; os.kill(os.getpid(), 9)")


@posix("Windows programs split their own arguments")
@pytest.mark.parametrize("command", [
    "/missing/program", "missing-program", '""', "'unbalanced", "{folder}", "{folder}/file",
    "program\0x",
], ids=repr)
def test_process_that_cannot_be_started(environ, tmp_path, command):
    (tmp_path / "file").write_text("not a program")
    write_home(environ, f"[profile p]\ncredential_process = {command.format(folder=tmp_path)}\n")
    with pytest.raises(CredentialsError, match=r"profile p \(credential_process\)"):
        load_credentials("p", environ=environ)


@posix("Windows programs split their own arguments")
def test_process_is_found_on_the_path_given(environ, tmp_path):
    program = tmp_path / "keys"
    program.write_text(f"#!/bin/sh\necho '{json.dumps(PROCESS_ANSWER)}'\n")
    program.chmod(0o755)
    write_home(environ, "[profile p]\ncredential_process = keys\n")
    got = load_credentials("p", environ={**environ, "PATH": str(tmp_path)})
    assert got.access_key_id == "ASIAPROCESS"
