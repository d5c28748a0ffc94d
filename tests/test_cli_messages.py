"""What errors tell people: what happened, what to do, and nothing that does not help."""

import os
import re
import shlex
import ssl
import subprocess
import sys
from contextlib import contextmanager

import pytest

import bedrock_token as bt
from tests import fake_aws
from tests.command_line import (
    MODULE, NO_KEYS, child, ended, failure, missing, on_posix, one_line, read_until,
    start_in_terminal,
)
from tests.fake_aws import Forever, event
from tests.helpers import KEY_ID, KEYS, MODEL, SECRET, cases, check_side_by_side, write_home


pytestmark = pytest.mark.usefixtures("usual_environment")


# --- wrong usage ---------------------------------------------------------------------------

UNKNOWN_OPTION = r"option .*(not recognized|does not go with)"
UNKNOWN_COMMAND = r"(unknown|no such) command|invalid choice"
USAGE = [
    # arguments, what the last line says, what it does not
    *((f"{name}", args, [UNKNOWN_OPTION, said], ["COMMAND", "choice"]) for name, args, said in [
        ("option", ["--regoin"], "--regoin"),
        ("option with a value", ["--regoin", "us-east-1"], "--regoin"),
        ("option with its value", ["--regoin=us-east-1"], "--regoin"),
        ("option before a command", ["--regoin", "us-east-1", "check"], "--regoin"),
        ("option after a command", ["check", "--regoin", "us-east-1"], "--regoin"),
        ("option of another command", ["check", "--only-bedrock"], "--only-bedrock"),
        ("option after a known one", ["--region", "us-east-1", "--prfile", "dev"], "--prfile"),
        ("short option", ["-x", "dev"], "-x"),
        ("option of exec", ["exec", "--only-bedrok", "--", "true"], "--only-bedrok"),
    ]),
    ("command", ["mint"], [UNKNOWN_COMMAND, "mint", "exec", "inspect", "check", "converse"],
     ["option"]),
    ("command after an option", ["--region", "us-east-1", "chek"], [UNKNOWN_COMMAND, "chek"],
     ["option"]),
    ("argument of a command", ["inspect", "it"], ["argument"], ["too much", "COMMAND"]),
    ("argument of another", ["check", "it"], ["argument"], ["too much", "COMMAND"]),
    ("second text", ["converse", "--model", "m", "one", "two"], ["argument"], ["too much"]),
    ("exec without --", ["exec", "true"], ["--( |$|,|;)"], ["too much"]),
    ("exec of nothing", ["exec"], ["command", "--( |$|,|;)"], []),
    ("value missing", ["--region"], ["--region", "argument|value"], []),
    ("bad value", ["--region", "mars"], ["--region", "us-east-1"], []),
]


@pytest.mark.parametrize("args, words, unwanted", cases(USAGE))
def test_wrong_usage_is_named_for_what_it_is(args, words, unwanted, cli):
    result = cli(*args)
    assert (result.status, result.out) == (2, "")
    *usage, said = result.err.splitlines()
    assert missing(words, said) == []
    assert [word for word in unwanted if word in said] == []
    assert 1 <= len(usage) <= 3
    assert max(map(len, usage)) <= 80
    assert "python -m bedrock_token" in usage[0]


# --- no credentials ------------------------------------------------------------------------

CONFIG_FILE = r"\.aws.config\b"
CREDENTIALS_FILE = r"\.aws.credentials\b"
CONTAINER = "AWS_CONTAINER_CREDENTIALS_"
WEB_IDENTITY = "AWS_WEB_IDENTITY_TOKEN_FILE"
METADATA = "instance metadata"
EMPTY_PROFILE = "[default]\nregion = us-east-1\n"
LOOKED = [
    # arguments, environment, config file, the place, what was found there
    ("environment", [], {}, None, "AWS_ACCESS_KEY_ID", "not set"),
    ("empty environment", [], {"AWS_ACCESS_KEY_ID": " "}, None, "AWS_ACCESS_KEY_ID", "not set"),
    ("environment beside a profile", ["--profile", "default"], KEYS, EMPTY_PROFILE,
     "AWS_ACCESS_KEY_ID", "skipped.*profile.*named"),
    ("files", [], {}, None, f"{CONFIG_FILE}|{CREDENTIALS_FILE}", "no such file"),
    ("web identity", [], {}, None, WEB_IDENTITY, "not set"),
    ("web identity beside a profile", ["--profile", "default"], {}, EMPTY_PROFILE,
     WEB_IDENTITY, "skipped.*profile.*named"),
    ("container", [], {}, None, CONTAINER, "not set"),
    ("metadata, switched off", [], {}, None, METADATA, "AWS_EC2_METADATA_DISABLED"),
    ("metadata, nobody there", [], {"AWS_EC2_METADATA_DISABLED": None}, None, METADATA,
     "no answer"),
]
NOBODY = fake_aws.refused_url()


@pytest.mark.parametrize("args, env, config, place, found", cases(LOOKED))
def test_places_looked_in(args, env, config, place, found, cli, home):
    if config:
        write_home({"HOME": home}, config)
    result = cli(*args, env={"AWS_EC2_METADATA_SERVICE_ENDPOINT": NOBODY, **NO_KEYS, **env})
    assert (result.status, result.out) == (1, "")
    _, *places = result.err.splitlines()
    lines = [line for line in places if re.search(place, line)]
    assert lines and all(re.search(found, line) for line in lines), result.err
    # A place stands on one line, but for the two files, which may have one each.
    assert len(lines) == 1 or "|" in place


def test_instance_without_a_role(cli):
    with fake_aws.Imds(role="") as imds:
        result = cli(env={**NO_KEYS, "AWS_EC2_METADATA_DISABLED": None,
                          "AWS_EC2_METADATA_SERVICE_ENDPOINT": imds.url})
    [line] = [line for line in result.err.splitlines()[1:] if METADATA in line]
    assert missing(["no role"], line) == []
    assert missing(["no answer"], line) == ["no answer"]


def test_no_credentials_says_first_what_to_do(cli):
    first, *places = cli(env=NO_KEYS).err.splitlines()
    assert first.startswith("bedrock_token: ")
    assert missing(["no AWS credentials", "aws (configure|login)"], first) == []
    assert missing([WEB_IDENTITY, CONTAINER, METADATA, CONFIG_FILE], first) == [
        WEB_IDENTITY, CONTAINER, METADATA, CONFIG_FILE]
    assert len(first) <= 200
    order = ["AWS_ACCESS_KEY_ID", WEB_IDENTITY, CONTAINER, METADATA]
    at = [next(i for i, line in enumerate(places) if re.search(word, line)) for word in order]
    assert at == sorted(set(at)) and at[0] <= 1
    # As many lines as a terminal takes; no place is a paragraph.
    assert len(places) <= 12
    assert max(map(len, places)) <= 160 + 2 * len(os.environ["HOME"])


def test_no_credentials_says_the_same_in_code(cli):
    said = cli(env=NO_KEYS).err
    with pytest.raises(bt.NoCredentialsError) as caught:
        bt.load_credentials()
    assert f"bedrock_token: {caught.value}\n" == said


COMMANDS = [["--format", "json"], ["-q"], ["exec", "--", "true"], ["check"],
            ["converse", "--model", "m", "Hi"]]


@pytest.mark.parametrize("args", COMMANDS, ids=" ".join)
def test_no_credentials_is_the_same_for_every_command(args, cli):
    assert cli(*args, env=NO_KEYS) == cli()


PATHS = [
    ("profile that is not there", {"AWS_PROFILE": "nowhere"}, "[default]\n"),
    ("broken file", {}, "[default]\nregion\n"),
]


@pytest.mark.parametrize("env, config", cases(PATHS))
def test_path_has_one_kind_of_separator(env, config, cli, home):
    write_home({"HOME": home}, config)
    assert str(home / ".aws" / "config") in cli(env={**NO_KEYS, **env}).err


# --- credential_process --------------------------------------------------------------------

GOOD = '{"Version": 1, "AccessKeyId": "AKIAPROCESS", "SecretAccessKey": "process-secret"}'


def a_process(code):
    """A profile whose credential_process is this Python program."""
    join = subprocess.list2cmdline if os.name == "nt" else shlex.join
    command = join([sys.executable, "-c", code])
    return f"[profile p]\nregion = us-east-1\ncredential_process = {command}\n"


PROCESS = {**NO_KEYS, "AWS_PROFILE": "p"}
ASKS = f"""
import sys
print('Touch your key:', end=' ', file=sys.stderr, flush=True)
assert open('/dev/tty').readline() == 'touched' + chr(10)
print({GOOD!r})
""".replace("\n", "; ").strip("; ")


@on_posix
def test_process_that_asks_is_seen_on_the_terminal(home, terminal):
    """It is seen before it ends, and can be answered where programs ask: on the terminal itself."""
    ours, theirs = terminal
    write_home({"HOME": home}, a_process(ASKS))
    process = start_in_terminal(theirs, MODULE, PROCESS, stderr=theirs)
    asked = read_until(b"your key: ", ours)
    os.write(ours, b"touched\n")
    result = ended(process)
    assert asked == "Touch your key: "
    assert result.status == 0
    assert bt.decode_token(result.out.strip())["access_key_id"] == "AKIAPROCESS"


REFUSES = "import sys; print('no key here', file=sys.stderr); sys.exit(3)"


@on_posix
def test_process_that_fails_on_the_terminal(home, terminal):
    ours, theirs = terminal
    write_home({"HOME": home}, a_process(REFUSES))
    result = ended(start_in_terminal(theirs, MODULE, PROCESS, stderr=theirs))
    os.write(theirs, b"END")
    first, *_, own, _ = read_until(b"END", ours).splitlines()
    assert (result.status, result.out) == (1, "")
    assert first == "no key here"
    assert missing(["bedrock_token: ", "profile p", "status 3", "no key here"], own) == []


CHATTY = f"import sys; print('all is well', file=sys.stderr); print({GOOD!r})"


def test_process_that_succeeds_is_silent(home, cli):
    write_home({"HOME": home}, a_process(CHATTY))
    result = cli(env=PROCESS)
    assert (result.status, result.err) == (0, "")


FAILURES = [
    # program, what is said
    ("first line", "import sys; sys.exit('no way' + chr(10) + 'more')", ["status 1", "no way"]),
    ("nothing", "raise SystemExit(4)", ["status 4"]),
    ("long line", "import sys; sys.exit('no way ' + 'x' * 5_000_000)", ["status 1", "no way"]),
    ("many lines", "import sys; sys.exit('no way' + chr(10) + ('y' * 99 + chr(10)) * 50_000)",
     ["status 1", "no way"]),
]


@pytest.mark.parametrize("code, words", cases(FAILURES))
def test_process_that_fails_is_quoted_briefly(code, words, home, cli):
    write_home({"HOME": home}, a_process(code))
    said = failure(cli(env=PROCESS))
    assert missing([*words, "profile p"], said) == []
    assert len(said) <= 1000


PROGRAMS = [
    ("in a folder", os.path.join(os.sep, "nowhere", "tool")),
    ("on the PATH", "no-such-tool"),
]


@pytest.mark.parametrize("program", cases(PROGRAMS))
def test_missing_program_is_named(program, home, cli):
    write_home({"HOME": home}, f"[profile p]\nregion = us-east-1\ncredential_process = {program} --key {SECRET}\n")
    said = failure(cli(env=PROCESS))
    assert "profile p" in said and program in said


# --- Bedrock does not answer ---------------------------------------------------------------

HELLO = [event(*each) for each in fake_aws.EVENTS[:2]]


def hanging_stream(handler):
    """Two events, and then nothing until the server is shut down."""
    handler.start(200, [("Content-Type", "application/vnd.amazon.eventstream"),
                        ("Connection", "close")])
    handler.wfile.write(b"".join(HELLO))
    fake_aws.hang(handler)


def hanging_answer(handler):
    handler.start(200, [("Content-Type", "application/json"), ("Content-Length", "100")])
    handler.wfile.write(b'{"output": ')
    fake_aws.hang(handler)


CONVERSE = ("converse", "--model", MODEL, "--timeout", "0.234", "Hi")
SLOW = [
    ("stream, no head", CONVERSE, fake_aws.hang, ""),
    ("stream, no end", CONVERSE, hanging_stream, "Hello, "),
    ("check", ("check", "--timeout", "0.234"), fake_aws.hang, ""),
    ("check of a model", ("check", "--model", MODEL, "--timeout", "0.234"), hanging_answer, ""),
]
WAYS = [("directly", False), ("through a proxy", True)]


def settings(fake, proxied):
    """Through a proxy, the fake is that: it hangs in its place."""
    if proxied:
        return {"AWS_ENDPOINT_URL": "http://bedrock.test", "HTTP_PROXY": fake.url}
    return {"AWS_ENDPOINT_URL": fake.url}


@pytest.mark.parametrize("proxied", cases(WAYS))
@pytest.mark.parametrize("args, fault, out", cases(SLOW))
def test_time_limit_is_named(args, fault, out, proxied, cli):
    with fake_aws.BedrockRuntime(faults=[Forever(fault)]) as fake:
        result = cli(*args, env=settings(fake, proxied))
    assert (result.status, result.out.rstrip("\n")) == (1, out)
    said = one_line(result.err)
    assert missing(["timeout", r"0\.234 s"], said) == []
    assert "proxy" not in said


CALLS = [
    ("converse, no head", fake_aws.hang, lambda **given: bt.converse(MODEL, [], **given)),
    ("converse, no end", hanging_answer, lambda **given: bt.converse(MODEL, [], **given)),
    ("stream, no head", fake_aws.hang, lambda **given: bt.converse_stream(MODEL, [], **given)),
    ("stream, no end", hanging_stream,
     lambda **given: list(bt.converse_stream(MODEL, [], **given))),
]


def test_time_limit_is_named_in_code():
    def check(fault, call, proxied):
        with fake_aws.BedrockRuntime(faults=[Forever(fault)]) as fake:
            with pytest.raises(bt.BedrockTokenError) as caught:
                call(environ={**os.environ, **settings(fake, proxied)}, timeout=0.234)
        assert missing(["timeout", r"0\.234 s"], str(caught.value)) == []
        assert "proxy" not in str(caught.value)

    check_side_by_side(check, [
        (f"{name}, {way}", fault, call, proxied) for name, fault, call in CALLS for way, proxied in WAYS])


# --- certificates --------------------------------------------------------------------------

# Of 127.0.0.1, signed with the key of fake_aws.PEM, from 2020 to 2120, made with the package
# cryptography. It does not say which key signed it: Python 3.13 refuses such certificates, older
# ones take them. Scanners look for whole keys in source code.
OLD_STYLE = "".join(f"-----BEGIN {kind}-----\n{body}\n-----END {kind}-----\n" for kind, body in [
    ("PRIVATE KEY", """\
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgWbeJZCPZ8SNtPvKR
Pleiv7r4fPs6YccHkLB98NGlBHmhRANCAARRBdx1NWWzFeF3vYv/qhfAHC7chNZn
2PEaCvnlitQX8X4GXd8n/PQX8dQ3QeHe6dILFJN0iTjO/7xB0O25fth1"""),
    ("CERTIFICATE", """\
MIIBJTCBzaADAgECAgEBMAoGCCqGSM49BAMCMA8xDTALBgNVBAMMBHRlc3QwIBcN
MjAwMTAxMDAwMDAwWhgPMjEyMDAxMDEwMDAwMDBaMBQxEjAQBgNVBAMMCW9sZCBz
dHlsZTBZMBMGByqGSM49AgEGCCqGSM49AwEHA0IABFEF3HU1ZbMV4Xe9i/+qF8Ac
LtyE1mfY8RoK+eWK1BfxfgZd3yf89Bfx1DdB4d7p0gsUk3SJOM7/vEHQ7bl+2HWj
EzARMA8GA1UdEQQIMAaHBH8AAAEwCgYIKoZIzj0EAwIDRwAwRAIgDzPI5SJTK8uf
8siPNvmNMDoz1chfkp0lbjivdIrslYUCIEjEyotlvWN7ahPwkeCIkHohRiGhwEPQ
bfm5p+VTLwtn"""),
])
PEMS = {"old style": OLD_STYLE, "another": fake_aws.PEM}


@contextmanager
def over_tls(pem):
    """A fake Bedrock with that certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    with fake_aws.BedrockRuntime() as fake:
        fake._server.socket = context.wrap_socket(fake._server.socket, server_side=True)
        fake.url = fake.url.replace("http:", "https:")
        yield fake


ADVICE = "set AWS_CA_BUNDLE"
STRICT = hasattr(ssl, "VERIFY_X509_STRICT") and bool(
    ssl.create_default_context().verify_flags & ssl.VERIFY_X509_STRICT)
CERTIFICATES = [
    # the server's, the one that is trusted, by what variable, what is said, whether to set one
    ("nothing set", "old style", None, None, ["issuer certificate"], True),
    ("wrong bundle", "another", "old style", "AWS_CA_BUNDLE", ["self.signed", r"old style\.pem"],
     False),
    ("wrong bundle, by another variable", "another", "old style", "REQUESTS_CA_BUNDLE",
     ["self.signed", r"old style\.pem"], False),
    ("another host", "another", "another", "AWS_CA_BUNDLE", ["mismatch"], False),
    ("old style", "old style", "another", "AWS_CA_BUNDLE", ["Missing Authority Key Identifier"],
     False),
]


@pytest.mark.parametrize("server, trusted, variable, words, advised", cases(CERTIFICATES))
def test_certificate_that_is_refused(server, trusted, variable, words, advised, cli, tmp_path):
    if (server, trusted) == ("old style", "another") and not STRICT:
        pytest.skip("Python before 3.13 takes such certificates")
    paths = {name: tmp_path / f"{name}.pem" for name in PEMS}
    for name, path in paths.items():
        path.write_text(PEMS[name])
    bundle = {variable: str(paths[trusted])} if variable else {}
    with over_tls(paths[server]) as fake:
        said = failure(cli("check", env={"AWS_ENDPOINT_URL": fake.url, **bundle}))
    assert missing(["127.0.0.1", "certificate", *words], said) == []
    assert (missing([ADVICE], said) == []) == advised


# --- codes of MFA devices ------------------------------------------------------------------

MFA = "arn:aws:iam::123456789012:mfa/dev"
ROLE = f"""[profile p]
region = us-east-1
role_arn = arn:aws:iam::123456789012:role/Admin
mfa_serial = {MFA}
source_profile = base
[profile base]
aws_access_key_id = {KEY_ID}
aws_secret_access_key = {SECRET}
"""
NEEDS_A_CODE = [
    ("get_token", lambda: bt.get_token(profile="p")),
    ("TokenProvider", lambda: bt.TokenProvider(profile="p")()),
    ("TokenProvider.renew", lambda: bt.TokenProvider(profile="p").renew()),
]


@pytest.mark.parametrize("call", cases(NEEDS_A_CODE))
def test_says_how_to_pass_a_code(call, home):
    write_home({"HOME": home}, ROLE)
    with pytest.raises(bt.CredentialsError) as caught:
        call()
    words = [MFA, r"credentials=lambda: load_credentials\(.*mfa_code="]
    assert missing(words, str(caught.value)) == []


def test_load_credentials_says_what_to_pass(home):
    write_home({"HOME": home}, ROLE)
    with pytest.raises(bt.CredentialsError) as caught:
        bt.load_credentials("p")
    assert missing([MFA, "mfa_code"], str(caught.value)) == []


def test_the_command_line_speaks_of_a_terminal(home):
    write_home({"HOME": home}, ROLE)
    options = {"start_new_session": True}
    if os.name == "nt":  # no console, where getpass would read for ever
        options = {"creationflags": getattr(subprocess, "DETACHED_PROCESS", 0)}
    said = failure(child(env=PROCESS, stdin=b"123456\n", **options))
    assert missing([MFA, "terminal|console"], said) == []
    assert missing(["lambda", "mfa_code"], said) == ["lambda", "mfa_code"]
