"""The real AWS CLI, version 2 and version 1: it takes our tokens, we take its credentials, and
both use the same files.

Version 2 comes from an npm package with the AWS CLI for Linux on x86-64, version 1 from PyPI.
"""

import hashlib
import json
import os
import platform
import shutil
import stat
import subprocess
import sys
import sysconfig
import threading
import time
import zipfile
from base64 import urlsafe_b64decode
from pathlib import Path

import botocore.credentials
import botocore.session
import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

import bedrock_token as bt
from tests import fake_aws
from tests.fake_aws import Forever, answer, require, role_keys
from tests.helpers import SECRET, cases
from tests.interop.reference import Bedrock, npm_package

FOLDER = Path(bt.__file__).parent
SCRIPTS = sysconfig.get_path("scripts")

# What only other commands of the AWS CLI need; it is three quarters of the package.
NOT_NEEDED = ("/dist/aws_completer", "/awscli/examples/", "/awscli/topics/", "/data/ac.index")
SERVICES = ("bedrock-runtime", "signin", "sso", "sso-oidc", "sts")


def _is_needed(name):
    _, _, model = name.partition("/botocore/data/")
    return not any(part in name for part in NOT_NEEDED) and (
        "/" not in model or model.startswith(tuple(f"{service}/" for service in SERVICES)))


@pytest.fixture(scope="session")
def version_2(tmp_path_factory):
    """The program `aws` of version 2, in a folder of its own."""
    if sys.platform != "linux" or platform.machine() != "x86_64":
        pytest.skip("the npm package has the AWS CLI for Linux on x86-64 alone")
    package = npm_package("@aws-cdk/asset-awscli-v2")
    folder = tmp_path_factory.mktemp("awscli")
    with zipfile.ZipFile(package / "lib" / "layer.zip") as layer:
        for entry in layer.infolist():
            kind = stat.S_IFMT(entry.external_attr >> 16)
            if _is_needed(entry.filename) and kind != stat.S_IFLNK:
                Path(layer.extract(entry, folder)).chmod(0o755)
    program, = folder.glob("awscli/v2/*/dist/aws")
    (folder / "bin").mkdir()
    (folder / "bin" / "aws").symlink_to(program)
    yield folder / "bin" / "aws"
    shutil.rmtree(folder)


@pytest.fixture
def version_1():
    program = shutil.which("aws", path=SCRIPTS)
    assert program is not None
    return Path(program)


@pytest.fixture(params=["version_1", "version_2"])
def aws(request):
    return request.getfixturevalue(request.param)


def run(command, typed=""):
    """The finished program. Without a terminal the AWS CLI reads a code from stdin."""
    return subprocess.run(list(map(str, command)), input=typed, capture_output=True, text=True,
                          cwd=FOLDER, timeout=120, start_new_session=True)


def run_ours(*arguments):
    return run([sys.executable, "-m", "bedrock_token", *arguments])


def write_config(home, text):
    (home / ".aws").mkdir(exist_ok=True)
    (home / ".aws" / "config").write_text(text, encoding="utf-8")


def exported(aws, profile, typed=""):
    """The three keys that the AWS CLI exports, and what it said on stderr."""
    done = run([aws, "configure", "export-credentials", "--profile", profile], typed)
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    return tuple(map(document.get, ("AccessKeyId", "SecretAccessKey", "SessionToken"))), done.stderr


def three(credentials):
    return credentials.access_key_id, credentials.secret_access_key, credentials.session_token


def from_now(seconds):
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + seconds))


# ---- the AWS CLI with our token

CONVERSE = [
    "bedrock-runtime", "converse", "--model-id", "us.amazon.nova-micro-v1:0",
    "--messages", '[{"role": "user", "content": [{"text": "Hello"}]}]',
    "--query", "output.message.content[0].text", "--output", "text",
]


@pytest.mark.parametrize("where", ["environment", "profile"])
def test_exec_lets_the_cli_call_bedrock(aws, where, home, monkeypatch):
    keys = {"AWS_ACCESS_KEY_ID": "AKIAONE", "AWS_SECRET_ACCESS_KEY": SECRET}
    options = ["--region", "us-east-1"]
    if where == "environment":
        for name, value in keys.items():
            monkeypatch.setenv(name, value)
    else:
        write_config(home, "[profile dev]\n" + "".join(
            f"{name.lower()} = {value}\n" for name, value in keys.items()))
        options += ["--profile", "dev"]
    pem = home / "pem"
    pem.write_text(fake_aws.PEM)
    with Bedrock(pem=str(pem), keys={"AKIAONE": (SECRET, None)}) as server:
        monkeypatch.setenv("HTTPS_PROXY", server.url)
        monkeypatch.setenv("AWS_CA_BUNDLE", str(pem))
        done = run_ours("exec", "--only-bedrock", *options, "--", str(aws), *CONVERSE)
    assert (done.returncode, done.stdout) == (0, "Hello, world\n"), done.stderr
    assert server.callers == ["AKIAONE"]


# ---- the AWS CLI as a credential_process

ARN = "arn:aws:iam::123456789012:role/"
SERIAL = "arn:aws:iam::123456789012:mfa/me"
CODE = "123456"
BASE = "[profile base]\naws_access_key_id = AKIABASE\naws_secret_access_key = secret/BASE\n"
BASE_KEYS = {"AKIABASE": ("secret/BASE", None)}


class Sts(fake_aws.Sts):
    """STS that also says who is asking, which is something for AWS CLI version 1 to ask."""

    keys = BASE_KEYS

    def reply(self, request):
        if request.form.get("Action") != "GetCallerIdentity":
            return super().reply(request)
        fake_aws.check_signature(request, self.keys, "sts", self.region)
        return answer(200, (
            f'<GetCallerIdentityResponse xmlns="{self.namespace}"><GetCallerIdentityResult>'
            "<Arn>arn:aws:iam::123456789012:user/me</Arn><UserId>AIDAEXAMPLE</UserId>"
            "<Account>123456789012</Account></GetCallerIdentityResult>"
            "</GetCallerIdentityResponse>"), [("Content-Type", "text/xml")])

    def assumed(self):
        """The roles that it was asked for, each with the code that came along."""
        return [(request.form["RoleArn"].rpartition("/")[2], request.form.get("TokenCode"))
                for request in self.requests if request.form["Action"] == "AssumeRole"]


@pytest.fixture
def sts(monkeypatch):
    with Sts() as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL_STS", server.url)
        monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        yield server


EXPORTED = [
    ("static keys", "base", ("AKIABASE", "secret/BASE", None), False),
    ("keys of a role", "app", role_keys("app"), True),
]


@pytest.mark.parametrize("profile, wanted, ends", cases(EXPORTED))
def test_export_credentials_is_a_credential_process(profile, wanted, ends, version_2, sts, home):
    command = f"{version_2} configure export-credentials --profile {profile} --format process"
    write_config(home, f"{BASE}[profile app]\nrole_arn = {ARN}app\nsource_profile = base\n"
                       f"[profile tool]\ncredential_process = {command}\n")
    credentials = bt.load_credentials("tool")
    assert three(credentials) == wanted
    assert (credentials.expiration is not None) is ends


# ---- the session of `aws login`

LOGIN = "arn:aws:iam::123456789012:user/me"
CLIENT = "arn:aws:signin:::devtools/same-device"
OLD = ("ASIAOLD", "old-secret", "old-session")
NEW = ("ASIANEW", "new-secret", "new-session")
KEY_NAMES = ("accessKeyId", "secretAccessKey", "sessionToken")


class SignIn(fake_aws.Fake):
    """AWS Sign-In: a new key for a refresh token, which works once, and a proof of the key with it.

    https://www.rfc-editor.org/rfc/rfc9449 says what a DPoP proof is.
    """

    public = None  # the public half of the session's key
    refresh_token = "refresh-1"
    proofs = ()

    def refusal(self, status, code, message):
        body = {"error": code, "message": message}
        return answer(status, body, [("x-amzn-ErrorType", "AccessDeniedException")])

    def reply(self, request):
        require(request.line == "POST /v1/token", 404, "NOT_FOUND")
        require("Authorization" not in request.headers, 400, "INVALID_REQUEST", "is signed")
        self.check_proof(request.headers.get("DPoP", ""))
        wanted = {"clientId": CLIENT, "grantType": "refresh_token",
                  "refreshToken": self.refresh_token}
        require(request.json == wanted, 400, "TOKEN_EXPIRED", "no such token")
        self.refresh_token = "refresh-2"
        return answer(200, {
            "accessToken": dict(zip(KEY_NAMES, NEW)), "tokenType": "aws_sigv4", "expiresIn": 900,
            "refreshToken": self.refresh_token})

    def check_proof(self, proof):
        require(proof.count(".") == 2, 400, "INVALID_REQUEST", "no proof")
        signed, _, signature = proof.rpartition(".")
        header, payload = (json.loads(decoded(part)) for part in signed.split("."))
        numbers = self.public.public_numbers()
        signature = decoded(signature)
        require(len(signature) == 64, 400, "INVALID_REQUEST", "length of the signature")
        halves = (int.from_bytes(half, "big") for half in (signature[:32], signature[32:]))
        try:
            self.public.verify(
                encode_dss_signature(*halves), signed.encode(), ec.ECDSA(hashes.SHA256()))
        except InvalidSignature:
            require(False, 400, "INVALID_REQUEST", "signature of the proof")
        jwk = header["jwk"]
        point = tuple(int.from_bytes(decoded(jwk[name]), "big") for name in "xy")
        for fulfilled, message in (
            ((header["typ"], header["alg"]) == ("dpop+jwt", "ES256"), "kind of proof"),
            ((jwk["kty"], jwk["crv"]) == ("EC", "P-256"), "kind of key"),
            (point == (numbers.x, numbers.y), "another key"),
            (payload["htm"] == "POST", "another method"),
            (payload["htu"] == f"{self.url}/v1/token", "another address"),
            (abs(time.time() - payload["iat"]) < 300, "another time"),
            (payload["jti"] not in self.proofs, "used before"),
        ):
            require(fulfilled, 400, "INVALID_REQUEST", message)
        self.proofs += (payload["jti"],)


def decoded(text):
    return urlsafe_b64decode(text + "=" * (-len(text) % 4))


class Login:
    """A home with a session of `aws login`, and the service that renews it."""

    def __init__(self, home, server, private):
        self.server = server
        name = hashlib.sha256(LOGIN.encode()).hexdigest()
        self.cache = home / ".aws" / "login" / "cache" / f"{name}.json"
        self.pem = private.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL,
            serialization.NoEncryption()).decode()
        write_config(home, f"[profile dev]\nlogin_session = {LOGIN}\nregion = us-east-1\n")

    def sign_in(self, left):
        keys = dict(zip(KEY_NAMES, OLD), accountId="123456789012", expiresAt=from_now(left))
        self.cache.parent.mkdir(parents=True)
        self.cache.write_text(json.dumps({
            "accessToken": keys, "tokenType": "aws_sigv4", "refreshToken": "refresh-1",
            "idToken": "id", "clientId": CLIENT, "dpopKey": self.pem}))


@pytest.fixture
def login(home, monkeypatch):
    private = ec.generate_private_key(ec.SECP256R1())
    with SignIn(public=private.public_key()) as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL_SIGNIN", server.url)
        yield Login(home, server, private)


MINUTE = 60
RENEWED = [
    # Seconds left, the keys that are found, and how often the service is asked.
    ("it has ended", -MINUTE, NEW, 1),
    ("it ends in 4 minutes", 4 * MINUTE, NEW, 1),
    ("it ends in 6 minutes", 6 * MINUTE, OLD, 0),
]


@pytest.mark.parametrize("left, wanted, asked", cases(RENEWED))
def test_version_2_renews_a_login_session(left, wanted, asked, version_2, login, monkeypatch):
    login.sign_in(left)
    monkeypatch.setenv("PATH", str(version_2.parent), prepend=os.pathsep)
    assert three(bt.load_credentials("dev")) == wanted
    assert (len(login.server.requests), len(login.server.proofs)) == (asked, asked)
    # What it got is kept for the next program, which is not to spend the refresh token again.
    assert three(bt.load_credentials("dev")) == exported(version_2, "dev")[0] == wanted
    assert len(login.server.requests) == asked


BROKEN = Forever(answer(500))
ENDED = Forever(answer(400, {"error": "TOKEN_EXPIRED", "message": "no"},
                       [("x-amzn-ErrorType", "AccessDeniedException")]))


@pytest.mark.parametrize("fault", [BROKEN, ENDED], ids=["broken", "signed out"])
def test_a_session_that_is_not_renewed_is_good_until_its_end(fault, version_2, login, monkeypatch):
    login.sign_in(4 * MINUTE)
    login.server.faults = [fault]
    monkeypatch.setenv("PATH", str(version_2.parent), prepend=os.pathsep)
    assert three(bt.load_credentials("dev")) == OLD
    assert login.server.requests


@pytest.mark.parametrize("fault, said", [(BROKEN, "CreateOAuth2Token"), (ENDED, "has expired")],
                         ids=["broken", "signed out"])
def test_a_session_that_has_ended_and_is_not_renewed(
    fault, said, version_2, login, monkeypatch
):
    login.sign_in(-MINUTE)
    login.server.faults = [fault]
    monkeypatch.setenv("PATH", str(version_2.parent), prepend=os.pathsep)
    with pytest.raises(bt.CredentialsError) as raised:
        bt.load_credentials("dev")
    done = run_ours("--profile", "dev")
    assert (done.returncode, done.stdout) == (1, "")
    for text in (str(raised.value), done.stderr):
        assert said in text and "aws login --profile dev" in text
        assert not any(secret in text for secret in (*OLD[1:], "refresh-1", login.pem[40:80]))


def test_version_1_cannot_renew_a_login_session(version_1, login, monkeypatch):
    login.sign_in(-MINUTE)
    monkeypatch.setenv("PATH", str(version_1.parent), prepend=os.pathsep)
    done = run_ours("--profile", "dev")
    assert (done.returncode, done.stdout) == (1, "")
    assert "version 2" in done.stderr and "usage" not in done.stderr
    with pytest.raises(bt.CredentialsError, match="version 2"):
        bt.load_credentials("dev")


def test_version_1_does_not_spoil_a_session_that_is_good(version_1, login, monkeypatch):
    login.sign_in(4 * MINUTE)
    monkeypatch.setenv("PATH", str(version_1.parent), prepend=os.pathsep)
    assert three(bt.load_credentials("dev")) == OLD


def test_the_sign_in_service_refuses_the_proof_of_another_key(version_2, login):
    login.sign_in(-MINUTE)
    login.server.public = ec.generate_private_key(ec.SECP256R1()).public_key()
    done = run([version_2, "configure", "export-credentials", "--profile", "dev"])
    assert done.returncode and "ASIA" not in done.stdout
    assert login.server.proofs == ()


# ---- the cache of roles with an MFA device

ROLE = f"role_arn = {ARN}app\nsource_profile = base\n"
MFA = f"{ROLE}mfa_serial = {SERIAL}\n"
# The lines that the profile has beside them, and the arguments that the name of the file is from.
NAMED = [
    ("nothing more", "", {}),
    ("external id", "external_id = 42\n", {"ExternalId": "42"}),
    ("session name", "role_session_name = me@example.com\n",
     {"RoleSessionName": "me@example.com"}),
    ("duration", "duration_seconds = 7200\n", {"DurationSeconds": 7200}),
    ("all of them", "external_id = a/b=\nrole_session_name = me\nduration_seconds = 1800\n",
     {"ExternalId": "a/b=", "RoleSessionName": "me", "DurationSeconds": 1800}),
]


def mfa_home(home, more="", rest=""):
    write_config(home, f"{BASE}[profile app]\n{MFA}{more}{rest}")


def cache_files(home):
    return sorted((home / ".aws" / "cli" / "cache").glob("*.json"))


def never(serial):
    raise AssertionError(f"asked for a code of {serial}")


def code(serial):
    assert serial == SERIAL
    return CODE


@pytest.fixture
def mfa_sts(sts):
    sts.mfa = (SERIAL, CODE)
    return sts


ONCE = [("app", CODE)]


@pytest.mark.parametrize("more, _", cases(NAMED))
def test_a_code_given_to_the_cli_is_not_asked_for_again(more, _, version_2, mfa_sts, home):
    mfa_home(home, more)
    keys, said = exported(version_2, "app", typed=CODE + "\n")
    assert keys == role_keys("app") and SERIAL in said
    assert three(bt.load_credentials("app", mfa_code=never)) == keys
    assert three(bt.load_credentials("app")) == keys
    assert mfa_sts.assumed() == ONCE


@pytest.mark.parametrize("more, arguments", cases(NAMED))
def test_a_code_given_here_is_not_asked_for_by_the_cli(
    more, arguments, version_2, mfa_sts, home
):
    mfa_home(home, more)
    credentials = bt.load_credentials("app", mfa_code=code)
    file, = cache_files(home)
    named = json.dumps({"RoleArn": f"{ARN}app", "SerialNumber": SERIAL, **arguments},
                       sort_keys=True)
    assert file.stem == hashlib.sha1(named.encode()).hexdigest()
    assert exported(version_2, "app") == (three(credentials), "")
    assert mfa_sts.assumed() == ONCE


def test_version_1_shares_the_cache_too(version_1, mfa_sts, home):
    mfa_home(home)
    who = [version_1, "sts", "get-caller-identity", "--profile", "app", "--output", "text"]
    assert run(who, typed=CODE + "\n").returncode == 0
    assert three(bt.load_credentials("app", mfa_code=never)) == role_keys("app")
    file, = cache_files(home)
    file.unlink()

    bt.load_credentials("app", mfa_code=code)
    assert cache_files(home) == [file]
    done = run(who)
    assert (done.returncode, done.stderr) == (0, "")
    assert mfa_sts.assumed() == ONCE * 2


def test_a_helper_without_a_terminal_works_after_the_cli(version_2, mfa_sts, home):
    mfa_home(home)
    exported(version_2, "app", typed=CODE + "\n")
    done = run_ours("--profile", "app")
    assert done.returncode == 0, done.stderr
    assert bt.decode_token(done.stdout.strip())["access_key_id"] == role_keys("app")[0]
    assert mfa_sts.assumed() == ONCE


def test_both_ask_again_when_a_quarter_of_an_hour_is_left(version_2, mfa_sts, home):
    mfa_home(home)
    mfa_sts.expiration = from_now(14 * MINUTE)
    for _ in range(2):
        bt.load_credentials("app", mfa_code=code)
        _, said = exported(version_2, "app", typed=CODE + "\n")
        assert SERIAL in said
    assert mfa_sts.assumed() == ONCE * 4


def test_where_nobody_can_be_asked_the_last_minutes_count_too(version_2, mfa_sts, home):
    mfa_home(home)
    mfa_sts.expiration = from_now(14 * MINUTE)
    keys, _ = exported(version_2, "app", typed=CODE + "\n")
    assert three(bt.load_credentials("app")) == keys
    done = run_ours("--profile", "app")
    assert done.returncode == 0, done.stderr
    assert bt.decode_token(done.stdout.strip())["access_key_id"] == keys[0]
    assert mfa_sts.assumed() == ONCE


DAMAGED = [
    ("empty", b""),
    ("cut short", b'{"Credentials": {"AccessKeyId": "ASIA'),
    ("no object", b"[]"),
    ("no credentials", b"{}"),
    ("no session token", b'{"Credentials": {"AccessKeyId": "ASIAX", "SecretAccessKey": "s", '
                         b'"Expiration": "2099-01-01T00:00:00Z"}}'),
    ("no time", b'{"Credentials": {"AccessKeyId": "ASIAX", "SecretAccessKey": "s", '
                b'"SessionToken": "t", "Expiration": "soon"}}'),
    ("no text", b"\xff\xfe{"),
]


@pytest.mark.parametrize("content", cases(DAMAGED))
def test_a_damaged_file_is_replaced_by_one_that_the_cli_takes(content, version_2, mfa_sts, home):
    mfa_home(home)
    bt.load_credentials("app", mfa_code=code)
    file, = cache_files(home)
    file.write_bytes(content)
    refused = run([version_2, "configure", "export-credentials", "--profile", "app"], CODE + "\n")
    assert refused.returncode and refused.stdout == ""

    assert three(bt.load_credentials("app", mfa_code=code)) == role_keys("app")
    assert exported(version_2, "app") == (role_keys("app"), "")
    assert mfa_sts.assumed() == ONCE * 2


def test_a_role_behind_a_role_with_a_device(version_2, mfa_sts, home):
    mfa_sts.mfa = None  # the second role has no device
    mfa_home(home, rest=f"[profile second]\nrole_arn = {ARN}second\nsource_profile = app\n")
    exported(version_2, "second", typed=CODE + "\n")
    before = cache_files(home)
    assert three(bt.load_credentials("second", mfa_code=never)) == role_keys("second")
    # The cache is for codes: the role without a device is asked for, and not put there.
    assert mfa_sts.assumed() == [("app", CODE), ("second", None), ("second", None)]
    assert cache_files(home) == before


def test_a_role_without_a_device_is_neither_looked_for_nor_kept(version_2, sts, home):
    write_config(home, f"{BASE}[profile app]\n{ROLE}")
    assert three(bt.load_credentials("app")) == role_keys("app")
    assert cache_files(home) == []
    exported(version_2, "app")
    bt.load_credentials("app")
    assert sts.assumed() == [("app", None)] * 3


# ---- botocore's own classes for that cache

class BotocoreCache(botocore.credentials.JSONFileCache):
    """It counts what it gave and took."""

    def __init__(self, home):
        super().__init__(str(home / ".aws" / "cli" / "cache"))
        self.given, self.taken = [], []

    def __getitem__(self, key):
        value = super().__getitem__(key)
        self.given.append(key)
        return value

    def __setitem__(self, key, value):
        self.taken.append(key)
        super().__setitem__(key, value)


def botocore_keys_of(home, prompter):
    """The keys that botocore finds for the profile app, and its cache."""
    session = botocore.session.Session(profile="app")
    provider = session.get_component("credential_provider").get_provider("assume-role")
    provider.cache, provider._prompter = BotocoreCache(home), prompter
    found = session.get_credentials().get_frozen_credentials()
    return (found.access_key, found.secret_key, found.token), provider.cache


AWKWARD = [
    ("letters beyond ASCII", "external_id = b\u00fcro \u4e16\n"),
    ("blanks", "external_id =  a  b \n"),
    ("quotes", "external_id = \"a\\'b\n"),
    ("the longest", f"external_id = {'x' * 1224}\nrole_session_name = {'n' * 64}\n"
                    "duration_seconds = 43200\n"),
]


@pytest.mark.parametrize("more", cases([row[:2] for row in NAMED] + AWKWARD))
def test_botocore_takes_what_is_kept_here(more, mfa_sts, home):
    mfa_home(home, more)
    credentials = bt.load_credentials("app", mfa_code=code)
    file, = cache_files(home)
    keys, cache = botocore_keys_of(home, never)
    assert keys == three(credentials)
    assert (set(cache.given), cache.taken) == ({file.stem}, [])


@pytest.mark.parametrize("more", cases([row[:2] for row in NAMED] + AWKWARD))
def test_what_botocore_keeps_is_taken_here(more, mfa_sts, home):
    mfa_home(home, more)
    keys, cache = botocore_keys_of(home, lambda prompt: CODE)
    file, = cache_files(home)
    assert cache.taken == [file.stem]
    assert three(bt.load_credentials("app", mfa_code=never)) == keys
    assert cache_files(home) == [file]


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such modes of files")
def test_the_file_has_the_modes_that_botocore_gives_it(mfa_sts, home):
    mfa_home(home)
    bt.load_credentials("app", mfa_code=code)
    ours, = cache_files(home)
    assert stat.S_IMODE(ours.stat().st_mode) == 0o600
    assert stat.S_IMODE(ours.parent.stat().st_mode) == 0o700
    ours.unlink()
    botocore_keys_of(home, lambda prompt: CODE)
    assert stat.S_IMODE(ours.stat().st_mode) == 0o600


def test_programs_that_write_at_the_same_time(mfa_sts, home):
    mfa_home(home)
    cache = BotocoreCache(home)
    bt.load_credentials("app", mfa_code=code)
    file, = cache_files(home)
    errors = []

    def write():
        try:
            for _ in range(50):
                cache[file.stem] = {"Credentials": dict(zip(
                    ("AccessKeyId", "SecretAccessKey", "SessionToken", "Expiration"),
                    (*role_keys("other"), from_now(3600))))}
        except Exception as error:
            errors.append(error)

    writer = threading.Thread(target=write)
    writer.start()
    found = [three(bt.load_credentials("app", mfa_code=code)) for _ in range(50)]
    writer.join(60)
    assert errors == []
    assert set(found) <= {role_keys("app"), role_keys("other")}
