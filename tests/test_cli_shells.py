"""The command line's formats: word for word, and as the shells read them that they are made for."""

import os
import shlex
import shutil
import subprocess

import pytest

import bedrock_token as bt
from tests.command_line import MODULE, TOKEN, VARIABLE, child, on_posix, start
from tests.helpers import KEY_ID, cases


pytestmark = pytest.mark.usefixtures("usual_environment")


# boto3 and version 1 of the AWS CLI read AWS_DEFAULT_REGION alone, all others AWS_REGION.
FORMATS = [
    ("no arguments", [], "TOKEN\n"),
    ("token", ["--format", "token"], "TOKEN\n"),
    (
        "env", ["--format", "env"],
        "export AWS_BEARER_TOKEN_BEDROCK=TOKEN\n"
        "export AWS_REGION=us-east-1\n"
        "export AWS_DEFAULT_REGION=us-east-1\n",
    ),
    (
        "env-no-export", ["--format", "env-no-export"],
        "AWS_BEARER_TOKEN_BEDROCK=TOKEN\nAWS_REGION=us-east-1\nAWS_DEFAULT_REGION=us-east-1\n",
    ),
    (
        "powershell", ["--format", "powershell"],
        '$Env:AWS_BEARER_TOKEN_BEDROCK="TOKEN"\n'
        '$Env:AWS_REGION="us-east-1"\n'
        '$Env:AWS_DEFAULT_REGION="us-east-1"\n',
    ),
    (
        "windows-cmd", ["--format", "windows-cmd"],
        "set AWS_BEARER_TOKEN_BEDROCK=TOKEN\n"
        "set AWS_REGION=us-east-1\n"
        "set AWS_DEFAULT_REGION=us-east-1\n",
    ),
    (
        # The semicolons are for `eval (...)`, which joins lines with blanks.
        "fish", ["--format", "fish"],
        "set -gx AWS_BEARER_TOKEN_BEDROCK TOKEN;\n"
        "set -gx AWS_REGION us-east-1;\n"
        "set -gx AWS_DEFAULT_REGION us-east-1;\n",
    ),
    (
        "another region", ["--format", "env-no-export", "--region", "eu-west-3"],
        "AWS_BEARER_TOKEN_BEDROCK=TOKEN\nAWS_REGION=eu-west-3\nAWS_DEFAULT_REGION=eu-west-3\n",
    ),
    (
        "another variable", ["--format", "env", "--var", "OPENAI_API_KEY"],
        "export OPENAI_API_KEY=TOKEN\n"
        "export AWS_REGION=us-east-1\n"
        "export AWS_DEFAULT_REGION=us-east-1\n",
    ),
    (
        "two variables", ["--var", "_a1", "--format", "fish", "--var", "B"],
        "set -gx _a1 TOKEN;\n"
        "set -gx B TOKEN;\n"
        "set -gx AWS_REGION us-east-1;\n"
        "set -gx AWS_DEFAULT_REGION us-east-1;\n",
    ),
    (
        "another service", ["--format", "env", "--service", "aws-external-anthropic"],
        "export ANTHROPIC_AWS_API_KEY=TOKEN\n"
        "export AWS_REGION=us-east-1\n"
        "export AWS_DEFAULT_REGION=us-east-1\n",
    ),
]


@pytest.mark.parametrize("args, want", cases(FORMATS))
def test_format(args, want, cli):
    # What was set before changes nothing: the token works in its own region only.
    result = cli(*args, env={"AWS_DEFAULT_REGION": "sa-east-1"})
    assert (result.status, result.err) == (0, "")
    assert TOKEN.sub("TOKEN", result.out) == want
    assert bt.decode_token(TOKEN.search(result.out)[0])["access_key_id"] == KEY_ID


# A command that shows what it has inherited, and the same of the shell's own variables.
INHERITED = "printf '%s %s %s' " + " ".join(
    f'"${name}"' for name in (VARIABLE, "AWS_REGION", "AWS_DEFAULT_REGION"))
A_CHILD = f"sh -c {shlex.quote(INHERITED)}"
ALL_THREE = "TOKEN eu-west-1 eu-west-1"
SHELLS = [
    *((f"{shell}, {name}", shell, ["-c"], f'eval "$({{}} --format {format})"; {shown}', want)
      for shell in ("sh", "bash", "dash", "zsh", "ksh")
      for name, format, shown, want in [
          ("env", "env", A_CHILD, ALL_THREE),
          ("env-no-export", "env-no-export", INHERITED, ALL_THREE),
          ("env-no-export stays in the shell", "env-no-export", A_CHILD, "  ")]),
    ("bash, allexport", "bash", ["-c"],
     f"set -a; source <({{}} --format env-no-export); {A_CHILD}", ALL_THREE),
    ("fish, source", "fish", ["-N", "-c"], f"{{}} --format fish | source; {A_CHILD}", ALL_THREE),
    ("fish, eval", "fish", ["-N", "-c"], f"eval ({{}} --format fish); {A_CHILD}", ALL_THREE),
    ("pwsh", "pwsh", ["-NoProfile", "-Command"],
     "& {} --format powershell | Invoke-Expression; Write-Host -NoNewline"
     ' "$Env:AWS_BEARER_TOKEN_BEDROCK $Env:AWS_REGION $Env:AWS_DEFAULT_REGION"', ALL_THREE),
]


@on_posix
@pytest.mark.parametrize("shell, options, script, want", cases(SHELLS))
def test_shell_reads_it(shell, options, script, want, tmp_path):
    if not shutil.which(shell):
        pytest.skip(f"{shell} is not installed")
    command = script.format(shlex.join([*MODULE, "--region", "eu-west-1"]))
    # The keys are given to our program alone, and the region to nobody.
    env = {"AWS_REGION": None, "HOME": str(tmp_path)}
    result = child(command, program=[shell, *options], env=env)
    assert TOKEN.sub("TOKEN", result.out) == want
    assert (result.status, result.err) == (0, "")


@pytest.fixture(scope="module")
def cmd(tmp_path_factory):
    """Windows' command interpreter, as a function: a batch file's text -> what it prints."""
    env, program = {}, ["cmd"]
    if os.name != "nt":
        if not shutil.which("wine"):
            pytest.skip("neither Windows nor Wine is here")
        env = {"WINEPREFIX": str(tmp_path_factory.mktemp("wine")), "WINEDEBUG": "-all",
               "WINEDLLOVERRIDES": "mscoree=;mshtml="}
        program = ["wine", "cmd"]

    def run(text):
        path = tmp_path_factory.mktemp("batch") / "it.bat"
        path.write_bytes(text.encode("ascii"))
        # A file, and no pipe: Wine has helpers that hold it open for some seconds.
        with open(path.with_name("printed"), "wb+") as printed:
            process = start([*program, "/q", "/c", path.name], env, cwd=path.parent,
                            stdout=printed, stderr=subprocess.DEVNULL)
            try:
                process.wait(100)
            finally:
                process.kill()
                process.wait()
            printed.seek(0)
            return printed.read().decode("ascii")

    if run("@echo ready\r\n").split() != ["ready"]:
        pytest.skip("Wine does not run here")
    return run


# "=" has a meaning of its own for cmd: tokens with each padding that base64 knows, and long ones.
SESSIONS = [("none", {})] + [
    (f"{size} characters", {"AWS_SESSION_TOKEN": "abc+/=%2F" * 150 + "x" * (size - 1350)})
    for size in (1350, 1351, 1352)]


@pytest.mark.parametrize("env", cases(SESSIONS))
def test_cmd_reads_it(env, cli, cmd):
    printed = cli("--format", "windows-cmd", env=env).out
    shown = cmd("@echo off\r\n" + printed.replace("\n", "\r\n") + (
        "echo %AWS_BEARER_TOKEN_BEDROCK%\r\necho %AWS_REGION%\r\necho %AWS_DEFAULT_REGION%\r\n"))
    assert shown.split() == [TOKEN.search(printed)[0], "us-east-1", "us-east-1"]
