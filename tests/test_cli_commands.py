"""The commands that read or use a token: inspect, check, converse."""

import json
import re
import shutil
import signal
import ssl
import subprocess
import threading
from base64 import b64decode, b64encode
from datetime import datetime, timedelta, timezone

import pytest

import bedrock_token as bt
from tests import fake_aws
from tests.command_line import (
    MODULE, NO_KEYS, REFUSED, TEMPORARY, TOKEN, VARIABLE, at, child, ended, failure, missing,
    on_posix, one_line, read_until, start,
)
from tests.fake_aws import Forever, answer, event, frame, html
from tests.helpers import FILE, KEY_ID, LONG_TERM, PREFIX, SECRET, SESSION, cases, rfc3339

pytestmark = pytest.mark.usefixtures("usual_environment")


# --- inspect -------------------------------------------------------------------------------

def token_of_age(seconds, lifetime=43200, credentials=TEMPORARY, region="us-east-1"):
    moment = datetime.now(timezone.utc) - timedelta(seconds=seconds)
    return str(bt.get_token(credentials, region, lifetime, now=moment))


def rewritten(token, old, new):
    """The token with other text inside."""
    text = b64decode(token[len(PREFIX):]).replace(old.encode(), new.encode())
    return PREFIX + b64encode(text).decode()


def inspected(result):
    """The facts of the text form, which stand in a column of their own, and the warnings."""
    lines = [re.fullmatch(r"(\S+(?: \S+)*)( {2,})(\S.*)", line) for line in result.out.splitlines()]
    assert all(lines) and len({len(line[1] + line[2]) for line in lines}) == 1
    warnings = [one_line(line) for line in result.err.splitlines(True)]
    return {line[1]: line[3] for line in lines}, warnings


STATES = [
    # seconds since it was made, lifetime, state, exit
    ("hours left", 90, 43200, r"valid, 11:58:\d\d left", 0),
    ("whole hours left", -30, 10800, r"valid, 3:00:\d\d left", 0),
    ("minutes left", 30, 2700, r"valid, 0:44:\d\d left", 0),
    ("seconds left", 1, 40, r"valid, 0:00:3\d left", 0),
    ("a little early", -240, 3600, r"valid, 1:0[34]:\d\d left", 0),
    ("expired hours ago", 4 * 3600 + 5, 3600, r"expired 3:00:\d\d ago", 1),
    ("expired hours and minutes ago", 5 * 3600 + 20 * 60 + 5, 3600, r"expired 4:20:\d\d ago", 1),
    ("expired minutes ago", 3600 + 125, 3600, r"expired 0:02:\d\d ago", 1),
    ("expired seconds ago", 3610, 3600, r"expired 0:00:1\d ago", 1),
    ("expired this second", 3600, 3600, r"expired 0:00:0\d ago", 1),
    ("expired days ago", 86400 * 2 + 3605 * 2, 3600, r"expired 2 days, 1:00:\d\d ago", 1),
    ("not valid yet", -7230, 3600, r"not valid yet, in 2:00:\d\d", 1),
]


@pytest.mark.parametrize("age, lifetime, state, status", cases(STATES))
def test_inspect_state(age, lifetime, state, status, cli):
    token = token_of_age(age, lifetime)
    result = cli("inspect", stdin=token)
    facts, _ = inspected(result)
    assert re.fullmatch(state, facts["state"])
    for_programs = cli("inspect", "--format", "json", stdin=token)
    document = json.loads(for_programs.out)
    assert document["valid"] is (status == 0)
    assert document["expires_in"] == lifetime
    assert document["state"].split()[0] == state.split()[0]
    assert (result.status, for_programs.status) == (status, status)


def test_inspect_facts(cli):
    token = token_of_age(90)
    said = bt.decode_token(token)
    issued, expires = rfc3339(said["issued_at"]), rfc3339(said["expires_at"])
    facts, warnings = inspected(cli("inspect", stdin=token))
    # The words behind it say that AWS does not promise it.
    assert re.fullmatch("029608264753 .*AWS.*", facts.pop("account id"))
    assert facts.pop("state").startswith("valid, 11:58:")
    assert facts == {
        "kind": "short-term",
        "access key id": "ASIAQNZGKIQY56JQ7WML", "region": "us-east-1", "service": "bedrock",
        "issued at": issued, "expires at": expires, "expires in": "43200", "temporary": "yes"}
    document = json.loads(cli("inspect", "--format", "json", stdin=token).out)
    assert len(document.pop("warnings")) == len(warnings) == 1
    assert document.pop("state").startswith("valid")
    assert document == {
        "valid": True, "kind": "short-term", "access_key_id": "ASIAQNZGKIQY56JQ7WML",
        "account_id": "029608264753", "region": "us-east-1", "service": "bedrock",
        "issued_at": issued, "expires_at": expires, "expires_in": 43200, "temporary": True}


def test_inspect_facts_of_a_long_term_key(cli):
    facts, warnings = inspected(cli("inspect", stdin=LONG_TERM))
    assert (facts["kind"], facts["user name"], facts["account id"]) == (
        "long-term", "BedrockAPIKey-x7k2", "123456789012")
    assert missing(["long-term key"], "\n".join(warnings)) == []
    assert cli("inspect", "--format", "text", stdin=LONG_TERM) == cli("inspect", stdin=LONG_TERM)
    result = cli("inspect", "--format", "json", stdin=LONG_TERM)
    document = json.loads(result.out)
    assert (result.status, document["valid"], document["kind"]) == (0, True, "long-term")
    assert result.out == json.dumps(document, indent=2) + "\n"
    assert "expires_at" not in document


def test_inspect_keeps_secrets(cli):
    token = token_of_age(90)
    payload = b64decode(token[len(PREFIX):]).decode()
    signature = re.search("X-Amz-Signature=([0-9a-f]+)", payload)[1]
    secrets = [signature, SESSION, SECRET, token, LONG_TERM]
    for format in ("text", "json"):
        for key in (token, LONG_TERM):
            _, out, err = cli("inspect", "--format", format, stdin=key)
            assert [text for text in secrets if text in out + err] == []


STATIC = bt.Credentials(KEY_ID, SECRET)
TEMPORARY_WARNING = "temporary credentials"
WARNINGS = [
    # credentials, age, what is around the token, environment, what is warned of
    ("none", STATIC, 90, "{}", {}, []),
    ("LF", STATIC, 90, "{}\n", {}, []),
    ("CRLF", STATIC, 90, "{}\r\n", {}, []),
    ("temporary", TEMPORARY, 90, "{}", {}, [TEMPORARY_WARNING]),
    ("AWS_REGION", STATIC, 90, "{}", {"AWS_REGION": "us-west-2"}, ["us-east-1 .*us-west-2"]),
    ("AWS_DEFAULT_REGION", STATIC, 90, "{}", {"AWS_REGION": " ", "AWS_DEFAULT_REGION": "us-west-2"},
     ["us-east-1 .*us-west-2"]),
    ("AWS_REGION goes first", STATIC, 90, "{}", {"AWS_DEFAULT_REGION": "us-west-2"}, []),
    ("no region", STATIC, 90, "{}", {"AWS_REGION": None}, []),
    ("blank in front", STATIC, 90, " {}\n", {}, ["blank"]),
    ("blank behind", STATIC, 90, "{} \n", {}, ["blank"]),
    ("tab", STATIC, 90, "\t{}", {}, ["blank"]),
    ("line break in front", STATIC, 90, "\n{}", {}, ["blank|line break"]),
    ("quotes", STATIC, 90, '"{}"', {}, ["quotes"]),
    ("other quotes", STATIC, 90, "'{}'\n", {}, ["quotes"]),
    ("Bearer", STATIC, 90, "Bearer {}", {}, ["Bearer"]),
    ("bearer in quotes", STATIC, 90, "bearer '{}'", {}, ["Bearer"]),
    ("clock", STATIC, -7230, "{}", {}, ["clock"]),
    ("several", TEMPORARY, 90, ' "{}"', {"AWS_REGION": "us-west-2"},
     ["blank", "quotes", TEMPORARY_WARNING, "us-west-2"]),
]


@pytest.mark.parametrize("credentials, age, around, env, want", cases(WARNINGS))
def test_inspect_warning(credentials, age, around, env, want, cli):
    text = around.format(token_of_age(age, credentials=credentials))
    result = cli("inspect", stdin=text, env=env)
    document = json.loads(cli("inspect", "--format", "json", stdin=text).out)
    for warnings in (inspected(result)[1], document["warnings"]):
        assert missing(want, "\n".join(warnings)) == []
        assert [text for text in warnings if not re.search("|".join(want) or "$^", text)] == []
    assert result.status == (0 if age > 0 else 1)


WIDE = token_of_age(90, credentials=bt.Credentials("ASIAEXAMPLE", SECRET, SESSION * 30))
DAMAGED = [
    ("nothing", "", ["no token", VARIABLE]),
    ("blanks", " \n", ["no token"]),
    ("something else", "sk-0123456789abcdef", ["bedrock-api-key-", "ABSK"]),
    ("an access key", KEY_ID, ["not an API key"]),
    ("cut by setx", WIDE[:1024], ["cut off", "1024"]),
    ("cut elsewhere", WIDE[:1020], ["cut off", "1020"]),
    ("cut inside a base64 group", WIDE[:777], ["cut off", "777"]),
    ("wrapped", WIDE[:500] + "\n" + WIDE[500:], ["damaged"]),
    ("another action", rewritten(WIDE, "CallWithBearerToken", "ListUsers"), ["damaged"]),
    ("no date", rewritten(WIDE, "X-Amz-Date", "X-Amz-Day"), ["damaged"]),
    ("no lifetime", rewritten(WIDE, "Expires=43200", "Expires=43201"), ["damaged"]),
    ("long-term in part", LONG_TERM[:30], ["cut off|long-term"]),
]


@pytest.mark.parametrize("text, words", cases(DAMAGED))
def test_inspect_damaged(text, words, cli):
    for args in ([], ["--format", "json"]):
        said = failure(cli("inspect", *args, stdin=text))
        assert missing(words, said) == []
        assert not any(text[at:at + 12] in said for at in range(16, len(text) - 12))


PLACES = [
    ("stdin", {}, b"{}", 0),
    ("environment", {VARIABLE: "{}"}, b"", 0),
    ("stdin before the environment", {VARIABLE: "x"}, b"{}", 0),
    ("environment for blanks", {VARIABLE: "{}"}, b"\n", 0),
    ("bytes that are no text", {}, b"\xff\xfe{}", 1),
]


@pytest.mark.parametrize("env, stdin, status", cases(PLACES))
def test_inspect_reads(env, stdin, status):
    token = token_of_age(90, credentials=STATIC)
    env = {name: value.format(token) for name, value in env.items()}
    result = child("inspect", stdin=stdin.replace(b"{}", token.encode()), env=env)
    assert result.status == status
    assert inspected(result)[0]["access key id"] == KEY_ID if status == 0 else failure(result)


def test_inspect_shows_control_characters_of_others_as_text(cli):
    token = rewritten(token_of_age(90), TEMPORARY.access_key_id, "A%1B[2J%0Astate          valid")
    _, out, err = cli("inspect", stdin=token)
    assert "\033" not in out + err
    assert [line[:5] for line in out.splitlines()].count("state") <= 1


@on_posix
def test_inspect_has_no_colours(terminal):
    ours, theirs = terminal
    env = {"TERM": "xterm-256color", VARIABLE: token_of_age(90)}
    # The terminal is stdin too, and not waited for: the token is in the environment.
    result = ended(start([*MODULE, "inspect"], env, stdin=theirs, stdout=theirs))
    shown = read_until(b"temporary", ours)
    assert result.status == 0
    assert "\033" not in shown
    assert "valid, 11:58:" in shown


@on_posix
def test_inspect_does_not_wait_for_a_terminal(terminal):
    process = start([*MODULE, "inspect"], stdin=terminal[1])
    assert missing(["no token", VARIABLE], failure(ended(process))) == []


# --- check ---------------------------------------------------------------------------------

def refusal(status, code, message):
    return answer(status, {"message": message}, [("x-amzn-ErrorType", code), fake_aws.REQUEST_ID])


MODEL = "us.amazon.nova-micro-v1:0"
NO_ACCESS = "You don't have access to the model with the specified model ID."
NO_MODEL = "The provided model identifier is invalid."
DENIED = "User: arn:aws:iam::123456789012:user/dev is not authorized to perform: bedrock:{}"
NOT_LISTED, NOT_INVOKED = DENIED.format("ListFoundationModels"), DENIED.format("InvokeModel")
BUSY = Forever(refusal(429, "ThrottlingException", "Too many requests"))
LONG_AGO, FAR_AWAY = "Sat, 01 Jan 2000 00:00:00 GMT", "Tue, 01 Jan 2999 00:00:00 GMT"
CHECKS = [
    # arguments, settings of the service, its faults, exit, what is said
    ("accepted", [], {}, [], 0, ["accepted", r"^accepted in us-east-1: a newly made token\n\Z"]),
    ("another region", ["--region", "eu-west-1"], {}, [], 0, ["accepted", "eu-west-1"]),
    ("longest timeout", ["--timeout", "3600"], {}, [], 0, ["accepted"]),
    ("not valid", [], {"denial": fake_aws.NOT_VALID}, [], 1, [
        "another region than us-east-1", "expired", "damaged"]),
    ("expired", [], {"denial": fake_aws.EXPIRED}, [], 1, ["expired", "new"]),
    ("prefix", [], {"denial": fake_aws.BAD_PREFIX}, [], 1, ["not a Bedrock API key"]),
    ("may not call", [], {"denial": fake_aws.NOT_ALLOWED}, [], 1, [
        "bedrock:CallWithBearerToken", "allow"]),
    ("credentials expired", [], {"denial": fake_aws.DEAD_CREDENTIALS}, [], 1, [
        "credentials .*expired", "new"]),
    ("clock ahead", [], {"denial": fake_aws.NOT_VALID, "date": LONG_AGO}, [], 1, [
        "clock", "ahead"]),
    ("clock behind", [], {"denial": fake_aws.EXPIRED, "date": FAR_AWAY}, [], 1, [
        "clock", "behind"]),
    ("date unknown", [], {"denial": fake_aws.EXPIRED, "date": "today"}, [], 1, ["new"]),
    ("may not list", [], {"denial": NOT_LISTED}, [], 0, [
        "accepted", "bedrock:ListFoundationModels"]),
    ("busy", [], {}, [BUSY], 0, ["accepted", "Too many requests"]),
    ("unknown refusal", [], {"denial": "Not today"}, [], 1, ["403", "Not today"]),
    ("no token arrives", [], {"denial": "Missing Authentication Token"}, [], 1, ["403"]),
    ("unauthorized", [], {}, [refusal(401, "UnauthorizedException", "No")], 1, ["401", "No"]),
    ("internal error", [], {}, [refusal(500, "InternalServerException", "Oh")], 1, ["500"]),
    ("redirect", [], {}, [fake_aws.redirect(f"{REFUSED}/")], 1, ["302"]),
    *((f"page of a proxy, {status}", [], {}, [html(status)], 1, ["proxy"])
      for status in (200, 403, 404, 502)),
    ("page of a busy proxy", [], {}, [Forever(html(429))], 1, ["proxy"]),
    ("model", ["--model", MODEL], {}, [], 0, ["accepted", MODEL]),
    *((f"model, {name}", ["--model", MODEL], {}, [fault], 1, ["accepted", MODEL, said])
      for name, fault, said in [
          ("no access", refusal(403, "AccessDeniedException", NO_ACCESS), "access"),
          ("not allowed", refusal(403, "AccessDeniedException", NOT_INVOKED), ":InvokeModel"),
          ("not found", refusal(400, "ValidationException", NO_MODEL), "identifier is invalid"),
          ("gone", refusal(404, "ResourceNotFoundException", "End of life"), "End of life"),
          ("busy", BUSY, "Too many requests")]),
    ("model, unauthorized", ["--model", MODEL], {}, [refusal(401, "UnauthorizedException", "No")],
     1, ["401"]),
    ("model, not valid", ["--model", MODEL], {"denial": fake_aws.NOT_VALID}, [], 1, [
        "another region"]),
    ("model, unknown refusal", ["--model", MODEL], {"denial": "Not today"}, [], 1, ["Not today"]),
    *((f"model, page of a proxy, {status}", ["--model", MODEL], {}, [html(status)], 1, ["proxy"])
      for status in (200, 403, 502)),
    ("hanging", ["--timeout", "0.1"], {}, [fake_aws.hang], 1, ["127.0.0.1", r"0\.1 s"]),
    ("model, hanging", ["--timeout", "0.1", "--model", MODEL], {}, [fake_aws.hang], 1, [
        r"0\.1 s"]),
]


@pytest.mark.parametrize("args, settings, faults, status, words", cases(CHECKS))
def test_check(args, settings, faults, status, words, cli):
    with fake_aws.BedrockRuntime(faults=faults, **settings) as fake:
        result = cli("check", *args, env={**at(fake), "AWS_MAX_ATTEMPTS": "1"})
    if status:
        said = failure(result)
    else:
        assert (result.status, result.err, result.out.count("\n")) == (0, "", 1)
        said = result.out
    assert missing(words, said) == []
    for word in ("accepted", "clock"):
        assert (word in said) == (word in words)


def test_check_sends_what_it_would_use(cli):
    with fake_aws.BedrockRuntime() as fake:
        cli("check", env=at(fake))
        cli("check", "--model", MODEL)
        cli("check", env={VARIABLE: f" {LONG_TERM}\n"})
    minted, model, own = fake.requests
    assert TOKEN.fullmatch(minted.headers["Authorization"][len("Bearer "):])
    assert own.headers["Authorization"] == f"Bearer {LONG_TERM}"
    assert minted.line == own.line == "GET /foundation-models"
    assert model.line == "POST /model/us.amazon.nova-micro-v1%3A0/converse"
    assert model.json == {
        "messages": [{"role": "user", "content": [{"text": "Hi"}]}], "inferenceConfig": {"maxTokens": 1}}


OWN_TOKENS = [
    ("of another region", token_of_age(90, region="eu-west-1"), ["eu-west-1", "us-east-1"], 0),
    ("with a blank inside", "bedrock-api-key- x", [VARIABLE, "blanks"], 0),
    ("of another kind", "sk-0123456789", ["not a Bedrock API key", "403"], 1),
]


@pytest.mark.parametrize("token, words, asked", cases(OWN_TOKENS))
def test_check_own_token(token, words, asked, cli):
    with fake_aws.BedrockRuntime(token="another") as fake:
        said = failure(cli("check", env={VARIABLE: token, **at(fake)}))
    assert missing(words, said) == []
    assert len(fake.requests) == asked


def test_check_asks_the_control_plane(cli, nobody_answers):
    assert "bedrock.us-east-1.amazonaws.com" in failure(cli("check"))
    assert set(nobody_answers) == {("bedrock.us-east-1.amazonaws.com", 443)}


def test_check_own_token_without_credentials_or_region(cli):
    token = token_of_age(90, region="eu-west-1")
    with fake_aws.BedrockRuntime(token=token) as fake:
        result = cli("check", env={**NO_KEYS, "AWS_REGION": None, VARIABLE: token, **at(fake)})
    assert result.status == 0
    assert missing(["accepted", "eu-west-1", VARIABLE], result.out) == []


UNREACHABLE = [
    ("nobody there", {"AWS_ENDPOINT_URL_BEDROCK": "{}"}, [r"127\.0\.0\.1:\d+", "refused"]),
    ("no proxy there", {"AWS_ENDPOINT_URL_BEDROCK": "http://bedrock.test", "HTTP_PROXY": "{}"},
     ["bedrock.test", r"proxy 127\.0\.0\.1:\d+", "refused"]),
    ("not an address", {"AWS_ENDPOINT_URL_BEDROCK": "bedrock"}, ["endpoint", "bedrock"]),
]


@pytest.mark.parametrize("env, words", cases(UNREACHABLE))
def test_check_unreachable(env, words, cli):
    url = fake_aws.refused_url()
    env = {name: value.format(url) for name, value in env.items()}
    said = failure(cli("check", env={**env, "AWS_MAX_ATTEMPTS": "1"}))
    assert missing(words, said) == []


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """A self-signed certificate of this machine, and its key."""
    if not shutil.which("openssl"):
        pytest.skip("openssl is not installed")
    paths = [str(tmp_path_factory.mktemp("tls") / name) for name in ("certificate.pem", "key.pem")]
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2",
         "-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1",
         "-addext", "keyUsage=digitalSignature,keyCertSign", "-out", paths[0], "-keyout", paths[1]],
        check=True, capture_output=True, timeout=20)
    return paths


CA_BUNDLES = [
    ("not trusted", None, 1, ["certificate", "self.signed", "AWS_CA_BUNDLE"]),
    ("trusted", "{}", 0, ["accepted"]),
    ("not there", "/nowhere/bundle.pem", 1, ["/nowhere/bundle.pem"]),
    ("no certificates", str(FILE), 1, ["bedrock_token.py"]),
]


@pytest.mark.parametrize("bundle, status, words", cases(CA_BUNDLES))
def test_check_tls(bundle, status, words, cli, certificate):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    with fake_aws.BedrockRuntime() as fake:
        fake._server.socket = context.wrap_socket(fake._server.socket, server_side=True)
        result = cli("check", env={
            "AWS_ENDPOINT_URL_BEDROCK": fake.url.replace("http:", "https:"),
            "AWS_CA_BUNDLE": bundle and bundle.format(certificate[0])})
    assert result.status == status
    assert missing(words, failure(result) if status else result.out) == []


# --- converse ------------------------------------------------------------------------------

TEXTS = [
    ("argument", ["Why is the sky blue?"], "", "Why is the sky blue?"),
    ("stdin", [], "Why?\nTell me.", "Why?\nTell me."),
    ("argument before stdin", ["Why?"], "Who?", "Why?"),
    ("after --", ["--", "--model"], "", "--model"),
    ("not ASCII", ["Grüße, 世界"], "", "Grüße, 世界"),
]


@pytest.mark.parametrize("args, stdin, want", cases(TEXTS))
def test_converse(args, stdin, want, cli, runtime):
    result = cli("converse", "--model", MODEL, *args, stdin=stdin, env=at(runtime))
    assert result == (0, "Hello, world\n", "")
    [request] = runtime.requests
    assert request.line == "POST /model/us.amazon.nova-micro-v1%3A0/converse-stream"
    assert request.headers["Accept"] == "application/vnd.amazon.eventstream"
    assert request.json == {"messages": [{"role": "user", "content": [{"text": want}]}]}


START, HELLO, WORLD, STOP, END, USAGE = (event(*each) for each in fake_aws.EVENTS)
EXCEPTION = frame([(":message-type", "exception"), (":exception-type", "throttlingException")],
                  b'{"message": "slow down"}')
FAILURE = frame([(":message-type", "error"), (":error-code", "InternalError"),
                 (":error-message", "out of order")])
CONVERSE_ERRORS = [
    # settings of the service, its faults, what is on stdout, what is said
    ("token", {"denial": fake_aws.NOT_VALID}, [], "", ["another region", "expired"]),
    ("model", {}, [refusal(400, "ValidationException", NO_MODEL)], "", ["400", "identifier"]),
    ("page of a proxy", {}, [html(502)], "", ["502", "proxy"]),
    ("another page of it", {}, [html(200)], "", ["stream|proxy"]),
    ("exception first", {"parts": [EXCEPTION]}, [], "", ["throttlingException", "slow down"]),
    ("exception", {"parts": [START, HELLO, EXCEPTION]}, [], "Hello, ", ["slow down"]),
    ("error", {"parts": [START, HELLO, FAILURE]}, [], "Hello, ", ["InternalError", "out of order"]),
    ("end", {"parts": [START, HELLO]}, [], "Hello, ", ["cut off", "ends before"]),
    ("cut", {"parts": [START, HELLO, WORLD[:-9]]}, [], "Hello, ", ["cut off"]),
    ("damage", {"parts": [START, HELLO, WORLD[:-1] + b"!"]}, [], "Hello, ", ["damaged"]),
]


@pytest.mark.parametrize("settings, faults, out, words", cases(CONVERSE_ERRORS))
def test_converse_error(settings, faults, out, words, cli):
    with fake_aws.BedrockRuntime(faults=faults, **settings) as fake:
        result = cli("converse", "--model", MODEL, "--timeout", "0.2", "Hi", env=at(fake))
    assert (result.status, result.out.rstrip("\n")) == (1, out)
    assert missing(words, one_line(result.err)) == []


def test_converse_without_a_text(cli, runtime):
    said = failure(cli("converse", "--model", "m", env=at(runtime)))
    assert missing(["text", "stdin"], said) == []
    assert runtime.requests == []


@pytest.fixture
def halfway():
    """A stream that stops after its first words; the event lets it go on."""
    more = threading.Event()
    with fake_aws.BedrockRuntime(parts=[START, HELLO, more, WORLD, STOP, END, USAGE]) as fake:
        process = start([*MODULE, "converse", "--model", "m", "Hi"], at(fake))
        assert process.stdout.read(7) == b"Hello, "
        yield process, more


def test_converse_prints_as_it_comes(halfway):
    process, more = halfway
    more.set()
    assert ended(process) == (0, "world\n", "")


@on_posix
def test_converse_interrupted(interruptible, halfway):
    process, more = halfway
    process.send_signal(signal.SIGINT)
    status, out, err = ended(process)
    more.set()
    assert (status, out.strip(), err) == (130, "", "")
