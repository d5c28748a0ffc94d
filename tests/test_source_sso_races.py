"""Sessions of the AWS CLI that others use at the same time: several processes renew one, caches are
rewritten under our hands, cannot be written, or are left to the AWS CLI to renew."""

import json
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta, timezone
from pathlib import Path
from threading import Barrier, Event, Timer

import pytest

from bedrock_token import CredentialsError, get_token, load_credentials
from tests.fake_aws import Forever, Oidc, SsoPortal, answer, hang
from tests.helpers import (
    FILE, LATER, LEGACY_SSO_CACHE, LOGIN_CACHE, NOW, SSO_CACHE, START_URL, cases, check_side_by_side, environ_in,
    everything_in, key_at, key_of, posix, write_home,
)

FOLDER = FILE.parent
DEV = key_of("Dev")
HINT = "aws sso login --profile p"
LOGIN_HINT = "aws login --profile p"
ACCOUNT = "sso_account_id = 123456789012\nsso_role_name = Dev\n"
SESSION = (f"[sso-session corp]\nsso_region = us-east-1\nsso_start_url = {START_URL}\n"
           f"[profile p]\nsso_session = corp\n{ACCOUNT}")
LEGACY = f"[profile p]\nsso_region = us-east-1\nsso_start_url = {START_URL}\n{ACCOUNT}"
LOGIN = "[profile p]\nlogin_session = me\n"


def at(seconds):
    """That many seconds after NOW, as the CLI writes it."""
    return (NOW + timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%SZ")


def session_cache(left, **changes):
    """What `aws sso login` leaves for a session that has so many seconds left at NOW."""
    return {
        "startUrl": START_URL, "region": "us-east-1", "accessToken": "access-token-0",
        "expiresAt": at(left), "clientId": "client-id", "clientSecret": "planted-client-secret",
        "registrationExpiresAt": LATER, "refreshToken": "planted-refresh-token", **changes,
    }


def login_cache(left):
    """What `aws login` leaves."""
    return {"accessToken": {
        "accessKeyId": "ASIALOGIN", "secretAccessKey": "planted-secret",
        "sessionToken": "planted-session", "accountId": "123456789012", "expiresAt": at(left)}}


@pytest.fixture
def oidc():
    with Oidc(client=("client-id", "planted-client-secret"),
              refresh_token="planted-refresh-token") as fake:
        yield fake


@pytest.fixture
def portal():
    with SsoPortal(access_token="access-token-1") as fake:
        yield fake


@pytest.fixture
def file(environ, home, portal, oidc):
    """The cache of a session that has ended, and can be renewed."""
    environ.update(AWS_ENDPOINT_URL_SSO=portal.url, AWS_ENDPOINT_URL_SSO_OIDC=oidc.url)
    write_home(environ, SESSION)
    path = home / SSO_CACHE
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(session_cache(0)))
    return path


@pytest.fixture
def login_file(environ, home, tmp_path):
    """The cache of `aws login`; no AWS CLI is on the PATH."""
    write_home(environ, LOGIN)
    environ["PATH"] = str(tmp_path)
    path = home / LOGIN_CACHE
    path.parent.mkdir(parents=True)
    return path


def left_in(path):
    """All that stands in the folder of a cache."""
    return sorted(os.listdir(path.parent))


# --- many renew one session ----------------------------------------------------------------

COUNT = 8


class SlowOidc(Oidc):
    """The refresh token is spent at once, and the winner has to wait for his answer."""

    def reply(self, request):
        send = super().reply(request)

        def later(handler):
            self.stopping.wait(0.3)
            send(handler)
        return later


@pytest.fixture
def slow_oidc(environ, file):
    with SlowOidc(client=("client-id", "planted-client-secret"),
                  refresh_token="planted-refresh-token") as fake:
        environ["AWS_ENDPOINT_URL_SSO_OIDC"] = fake.url
        yield fake


def assert_one_renewal(file, oidc):
    assert oidc.issued == 1
    cache = json.loads(file.read_text())
    assert (cache["accessToken"], cache["refreshToken"]) == ("access-token-1", "refresh-token-1")
    assert left_in(file) == [file.name]


def test_threads_renew_one_session(environ, file, slow_oidc):
    together = Barrier(COUNT)

    def load(_):
        together.wait(10)
        return load_credentials("p", environ=environ).access_key_id

    with ThreadPoolExecutor(COUNT) as pool:
        assert list(pool.map(load, range(COUNT))) == COUNT * [DEV]
    assert_one_renewal(file, slow_oidc)


# Imported and told to begin, so that all begin at the same time.
ONE_OF_MANY = """
import sys
from bedrock_token import load_credentials
print("ready", flush=True)
sys.stdin.readline()
print(load_credentials("p").access_key_id)
"""


def test_processes_renew_one_session(environ, file, slow_oidc):
    processes = [subprocess.Popen(
        [sys.executable, "-c", ONE_OF_MANY], env={**os.environ, **environ}, cwd=FOLDER, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) for _ in range(COUNT)]
    try:
        for process in processes:
            assert process.stdout.readline() == "ready\n"
        for process in processes:
            process.stdin.write("go\n")
            process.stdin.flush()
        said = [process.communicate(timeout=30) for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.communicate()
    assert said == COUNT * [(DEV + "\n", "")]
    assert_one_renewal(file, slow_oidc)


def test_loser_waits_for_the_winner(environ, file, oidc):
    """The winner's file comes only after the loser has been refused."""
    timers = []

    def lost(handler):
        winner = session_cache(28800, accessToken="access-token-1", refreshToken="other")
        timers.append(Timer(0.3, file.write_text, [json.dumps(winner)]))
        timers[0].start()
        answer(400, {"error": "invalid_grant"})(handler)

    oidc.faults = [lost]
    assert key_at(NOW, environ) == DEV
    timers[0].join()
    assert len(oidc.requests) == 1
    assert json.loads(file.read_text())["refreshToken"] == "other"


# --- caches that another program is writing ------------------------------------------------

HALF_WRITTEN = [("empty", lambda text: ""), ("one brace", lambda text: "{"),
                ("cut short", lambda text: text[:-9]), ("cut in a name", lambda text: text[:5]),
                # What a file shows whose blocks have not been written yet.
                ("zeros", lambda text: "\0" * len(text))]


@pytest.mark.parametrize("half", cases(HALF_WRITTEN))
@pytest.mark.parametrize("config, name, content", cases([
    ("session", SESSION, SSO_CACHE, session_cache(7200)),
    ("legacy", LEGACY, LEGACY_SSO_CACHE, session_cache(7200)),
    ("login", LOGIN, LOGIN_CACHE, login_cache(900)),
]))
def test_cache_that_is_whole_soon(environ, home, portal, config, name, content, half):
    portal.access_token = "access-token-0"
    environ.update(AWS_ENDPOINT_URL_SSO=portal.url, PATH=str(home))
    write_home(environ, config)
    path = home / name
    path.parent.mkdir(parents=True)
    whole = json.dumps(content)
    path.write_text(half(whole))
    timer = Timer(0.05, path.write_text, [whole])
    timer.start()
    try:
        assert key_at(NOW, environ) == ("ASIALOGIN" if config is LOGIN else DEV)
    finally:
        timer.join()


# What another program makes of the cache while OIDC is asked.
DAMAGES = [
    ("empty", lambda path: path.write_text("")),
    ("cut short", lambda path: path.write_text('{"accessToken": "planted')),
    ("a list", lambda path: path.write_text("[]")),
    ("no UTF-8", lambda path: path.write_bytes(b"\xff\xfe{}")),
    ("nothing in it", lambda path: path.write_text("{}")),
    ("gone", lambda path: path.unlink()),
]


def damaging(damage, file, answer_of):
    """Damages the cache as soon as OIDC is asked, which then gives that answer."""
    def send(handler):
        damage(file)
        answer_of()(handler)
    return send


@pytest.mark.parametrize("damage", cases(DAMAGES))
def test_cache_that_is_damaged_during_the_renewal(environ, file, oidc, damage):
    oidc.faults = [damaging(damage, file, lambda: oidc.reply(oidc.requests[-1]))]
    assert key_at(NOW, environ) == DEV
    cache = json.loads(file.read_text())
    assert cache == session_cache(
        28800, accessToken="access-token-1", refreshToken="refresh-token-1")
    assert left_in(file) == [file.name]


def test_cache_that_is_damaged_while_the_renewal_fails(environ, portal, tmp_path):
    """The token at hand serves as long as it lives."""
    portal.access_token = "access-token-0"

    def check(damage, left):
        other = {**environ, **environ_in(tmp_path)}
        write_home(other, SESSION)
        file = Path(other["HOME"], SSO_CACHE)
        file.parent.mkdir(parents=True)
        file.write_text(json.dumps(session_cache(left)))
        refused = damaging(damage, file, lambda: answer(400, {"error": "invalid_grant"}))
        with Oidc(faults=[refused]) as oidc:
            other.update(AWS_ENDPOINT_URL_SSO=portal.url, AWS_ENDPOINT_URL_SSO_OIDC=oidc.url)
            if left:
                assert key_at(NOW, other) == DEV
            else:
                with pytest.raises(CredentialsError, match=HINT) as caught:
                    key_at(NOW, other)
                assert "planted" not in everything_in(caught.value)
        assert len(oidc.requests) == 1

    check_side_by_side(check, [
        (f"{name}, {left} seconds left", damage, left) for name, damage in DAMAGES for left in (600, 0)])


# --- caches that cannot be written ---------------------------------------------------------

LIMITED = """
import resource, sys
import bedrock_token
_, most = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]), most))
try:
    print(bedrock_token.load_credentials("p").access_key_id)
except bedrock_token.CredentialsError as error:
    print(type(error).__name__, error)
"""


def with_file_limit(environ, size):
    """What comes of profile p where a file cannot be longer than that."""
    # What measures coverage would write a file too.
    variables = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE")}
    done = subprocess.run(
        [sys.executable, "-B", "-c", LIMITED, str(size)], cwd=FOLDER, capture_output=True,
        env={**variables, **environ}, text=True, timeout=60)
    assert done.stderr == ""
    return done.stdout


def real_cache(seconds):
    """A cache by the clock of this machine."""
    ends = datetime.now(timezone.utc) + timedelta(seconds=seconds)
    return session_cache(0, expiresAt=ends.strftime("%Y-%m-%dT%H:%M:%SZ"))


# 100 bytes are room for some of the new cache.
@posix("needs limits for the size of files")
@pytest.mark.parametrize("size", [0, 100])
def test_disk_that_is_full(environ, file, portal, oidc, size):
    """The old token serves as long as it lives, and the refresh token is not spent for nothing."""
    before = json.dumps(real_cache(600))
    file.write_text(before)
    portal.access_token = "access-token-0"
    assert with_file_limit(environ, size) == DEV + "\n"
    assert oidc.requests == []
    assert file.read_text() == before
    assert left_in(file) == [file.name]


@posix("needs limits for the size of files")
@pytest.mark.parametrize("size", [0, 100])
def test_disk_that_is_full_when_the_session_has_ended(environ, file, oidc, size):
    before = file.read_text()
    said = with_file_limit(environ, size)
    assert said.startswith("CredentialsError ")
    assert str(file) in said
    assert "planted" not in said
    assert oidc.requests == []
    assert file.read_text() == before
    assert left_in(file) == [file.name]


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="the user's rights are not checked")
@pytest.mark.parametrize("left, used", [(600, True), (0, False)])
def test_folder_that_cannot_be_written(environ, file, portal, oidc, left, used):
    portal.access_token = "access-token-0"
    file.write_text(json.dumps(session_cache(left)))
    file.parent.chmod(0o500)
    try:
        if used:
            assert key_at(NOW, environ) == DEV
        else:
            with pytest.raises(CredentialsError) as caught:
                key_at(NOW, environ)
            assert str(file) in str(caught.value)
    finally:
        file.parent.chmod(0o700)
    assert oidc.requests == []
    assert left_in(file) == [file.name]


# --- what is left on the disk --------------------------------------------------------------

@pytest.fixture
def link(file, tmp_path):
    """The cache as a symbolic link to a file elsewhere."""
    target = tmp_path / "elsewhere" / "real.json"
    target.parent.mkdir()
    target.write_text(file.read_text())
    file.unlink()
    try:
        file.symlink_to(target)
    except OSError:
        pytest.skip("this user may not make symbolic links")
    if not file.is_symlink():
        pytest.skip("Wine says that it made a symbolic link, and makes none")
    return target


def test_cache_behind_a_symbolic_link(environ, file, link):
    assert key_at(NOW, environ) == DEV
    assert file.is_symlink()
    assert json.loads(link.read_text())["refreshToken"] == "refresh-token-1"
    assert (left_in(file), left_in(link)) == ([file.name], [link.name])


def test_cache_behind_two_symbolic_links(environ, file, link, tmp_path):
    file.unlink()
    file.symlink_to(os.path.join("..", "cache", "next"))
    (file.parent / "next").symlink_to(link)
    assert key_at(NOW, environ) == DEV
    assert file.is_symlink() and (file.parent / "next").is_symlink()
    assert json.loads(link.read_text())["refreshToken"] == "refresh-token-1"
    assert left_in(link) == [link.name]


@posix("needs permissions for the owner alone")
@pytest.mark.parametrize("before", [0o644, 0o400])
@pytest.mark.parametrize("umask", [0, 0o777])
def test_only_the_owner_can_read_the_cache(environ, file, before, umask):
    file.chmod(before)
    kept = os.umask(umask)
    try:
        assert key_at(NOW, environ) == DEV
    finally:
        os.umask(kept)
    assert file.stat().st_mode & 0o777 == 0o600


@posix("needs permissions for the owner alone")
def test_only_the_owner_can_read_the_target_of_a_link(environ, file, link):
    link.chmod(0o644)
    assert key_at(NOW, environ) == DEV
    assert link.stat().st_mode & 0o777 == 0o600


INTERRUPTED = """
import signal, sys
import bedrock_token
signal.signal(signal.SIGTERM, lambda *_: sys.exit(9))
signal.signal(signal.SIGINT, signal.default_int_handler)
bedrock_token.load_credentials("p")
"""


@posix("needs to send a signal to one process")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interruption_leaves_no_file_behind(environ, file, oidc, number):
    before = file.read_text()
    asked = Event()

    def ask(handler):
        asked.set()
        hang(handler)

    oidc.faults = [ask]
    process = subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED], cwd=FOLDER, env={**os.environ, **environ},
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    try:
        assert asked.wait(20)
        process.send_signal(number)
        _, said = process.communicate(timeout=20)
    finally:
        process.kill()
        process.communicate()
    assert process.returncode != 0
    assert "planted" not in said
    assert left_in(file) == [file.name]
    assert file.read_text() == before


# --- values of another type ----------------------------------------------------------------

@pytest.mark.parametrize("value", [5, 0, True, None, "", [], ["planted"], {}, {"a": "planted"}, 1.5],
                         ids=repr)
def test_refresh_token_of_another_type_in_the_answer(environ, file, oidc, value):
    oidc.faults = [answer(200, {
        "accessToken": "access-token-1", "expiresIn": 28800, "refreshToken": value})]
    assert key_at(NOW, environ) == DEV
    assert json.loads(file.read_text())["refreshToken"] == "planted-refresh-token"


# Name and value of what is wrong in the cache.
WRONG = [("clientId", 123), ("clientId", True), ("clientSecret", ["planted"]), ("clientSecret", 1.5),
         ("refreshToken", {"a": "planted"}), ("refreshToken", 123)]


@pytest.mark.parametrize("name, value", WRONG, ids=repr)
def test_client_of_another_type_in_the_cache(environ, file, portal, oidc, name, value):
    # Were it sent, the refusal would quote it.
    oidc.faults = [Forever(answer(400, {"error": "invalid_client", "error_description": "123"}))]
    before = json.dumps(session_cache(0, **{name: value}))
    file.write_text(before)
    with pytest.raises(CredentialsError, match=HINT) as caught:
        key_at(NOW, environ)
    assert "planted" not in everything_in(caught.value)
    assert oidc.requests == portal.requests == []
    assert file.read_text() == before


@pytest.mark.parametrize("name, value", WRONG, ids=repr)
def test_client_of_another_type_beside_a_good_token(environ, file, portal, oidc, name, value):
    portal.access_token = "access-token-0"
    file.write_text(json.dumps(session_cache(600, **{name: value})))
    assert key_at(NOW, environ) == DEV
    assert oidc.requests == []


# --- aws login -----------------------------------------------------------------------------

CLI_ANSWER = json.dumps({
    "Version": 1, "AccessKeyId": "ASIACLI", "SecretAccessKey": "planted-secret",
    "SessionToken": "planted-session", "Expiration": "2025-07-01T12:15:00+00:00"})
RENEWS = f"echo '{CLI_ANSWER}'"
FAILS = "echo 'Your session has expired' >&2; exit 253"
# As AWS CLI 1.44 ends, cut at its list of choices.
IS_VERSION_1 = """\
cat >&2 <<'END'

usage: aws [options] <command> <subcommand> [<subcommand> ...] [parameters]
To see help text, you can run:

  aws help
  aws <command> help
  aws <command> <subcommand> help

aws: error: argument subcommand: Invalid choice, valid choices are:
END
exit 2"""


def install_cli(folder, script):
    """A program `aws` that notes that it was asked, and goes on with the script."""
    program = folder / "aws"
    program.write_text(f'#!/bin/sh\nexport PATH=/usr/bin:/bin\necho >> "{folder}/asked"\n{script}\n')
    program.chmod(0o755)


@posix("needs shell scripts")
@pytest.mark.parametrize("left, script, want, asked", cases([
    ("five minutes left", 300, RENEWS, "ASIALOGIN", False),
    ("less", 299, RENEWS, "ASIACLI", True),
    ("a minute left", 60, RENEWS, "ASIACLI", True),
    ("a second left", 1, RENEWS, "ASIACLI", True),
    ("ended", 0, RENEWS, "ASIACLI", True),
    ("fails with five minutes left", 300, FAILS, "ASIALOGIN", False),
    ("fails with less", 299, FAILS, "ASIALOGIN", True),
    ("fails with a minute left", 60, FAILS, "ASIALOGIN", True),
    ("fails with a second left", 1, FAILS, "ASIALOGIN", True),
    ("says nothing", 299, "", "ASIALOGIN", True),
    ("says no JSON", 299, "echo planted", "ASIALOGIN", True),
    ("gives ended keys", 299, RENEWS.replace("T12:15", "T11:15"), "ASIALOGIN", True),
    ("is version 1", 299, IS_VERSION_1, "ASIALOGIN", True),
]))
def test_when_the_cli_renews(environ, tmp_path, login_file, left, script, want, asked):
    login_file.write_text(json.dumps(login_cache(left)))
    install_cli(tmp_path, script)
    assert key_at(NOW, environ) == want
    assert (tmp_path / "asked").exists() == asked


@pytest.mark.parametrize("left", [299, 61, 60, 1])
def test_cached_login_without_a_cli(environ, login_file, left):
    login_file.write_text(json.dumps(login_cache(left)))
    assert key_at(NOW, environ) == "ASIALOGIN"


@posix("needs shell scripts")
def test_cached_login_keeps_its_end(environ, tmp_path, login_file):
    login_file.write_text(json.dumps(login_cache(120)))
    install_cli(tmp_path, FAILS)
    token = get_token(None, "us-west-2", profile="p", environ=environ, now=NOW)
    assert token.expiration == NOW + timedelta(seconds=120)


@posix("needs shell scripts")
def test_cli_of_version_1(environ, tmp_path, login_file):
    login_file.write_text(json.dumps(login_cache(0)))
    install_cli(tmp_path, IS_VERSION_1)
    with pytest.raises(CredentialsError, match="(?i)version 2|v2") as caught:
        key_at(NOW, environ)
    assert LOGIN_HINT in str(caught.value)
    assert "\n" not in str(caught.value)


@posix("needs shell scripts")
@pytest.mark.parametrize("script", cases([
    ("another status", "echo 'Your session has expired' >&2; exit 253"),
    ("another text", "echo 'no such profile' >&2; exit 2"),
]))
def test_cli_that_fails_is_not_taken_for_version_1(environ, tmp_path, login_file, script):
    login_file.write_text(json.dumps(login_cache(0)))
    install_cli(tmp_path, script)
    with pytest.raises(CredentialsError) as caught:
        key_at(NOW, environ)
    assert "version 2" not in str(caught.value)
