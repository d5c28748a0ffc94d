"""credential_process: the program, what it is given, and what it says."""

import json
import sys
from datetime import datetime, timezone

import pytest

from bedrock_token import Credentials, CredentialsError, load_credentials
from tests.helpers import EARLIER, LATER, PROCESS_ANSWER, cases, everything_in, posix, write_home


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
    ("malformed expiration", says(Expiration="soon"), ["Expiration"]),
    ("expiration of another type", says(Expiration=["soon"]), ["Expiration"]),
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
