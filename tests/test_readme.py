"""Every example of the manual runs, and what it says of the file is so."""

import ast
import json
import os
import re
import shutil
import subprocess
import sys
import textwrap
from types import SimpleNamespace

import pytest

import bedrock_token as bt
from tests import fake_aws, fake_bedrock
from tests.helpers import (
    FILE, KEY_ID, ROOT, SECRET, SOURCE, SSO_CACHE, TREE, bare_environment, cases, imported,
    is_standard,
)

README = (ROOT / "README.md").read_text(encoding="utf-8")

# Packages of the recipes that tests/interop runs; here they are only compiled.
CLIENTS = {"anthropic", "boto3", "botocore", "langchain_aws", "litellm", "openai"}
# What else it runs, by language: what every such block holds.
INTEROP = {"js": "bedrock_token", "json": "apiKeyHelper", "sh": "bedrock_token proxy",
           "yaml": "litellm_settings"}
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
    if language in INTEROP and INTEROP[language] in code:
        return RUN_IN_INTEROP
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
    keys = {KEY_ID: (SECRET, None), developer: (secret, session)}
    aws = home / ".aws"
    (aws / "sso" / "cache").mkdir(parents=True)
    (aws / "config").write_text("\n".join(code for *_, code in fenced("ini")), encoding="utf-8")
    (home / SSO_CACHE).write_text(json.dumps(
        {"accessToken": fake_aws.SsoPortal.access_token, "expiresAt": "2120-01-01T00:00:00Z"}))
    folder = tmp_path / "project"
    folder.mkdir()
    shutil.copy(FILE, folder)
    with fake_aws.Sts(keys=keys) as sts, fake_aws.SsoPortal() as sso, \
            fake_bedrock.Bedrock() as bedrock:
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
    assert SECRET not in printed


@pytest.mark.parametrize("code", examples("python", RUN_IN_INTEROP))
def test_python_examples_with_packages_compile(code):
    compile(code, "README.md", "exec")
    used = {node.attr for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Attribute)
            and isinstance(node.value, ast.Name) and node.value.id == "bedrock_token"}
    assert used and used <= set(bt.__all__)


# Programs that the examples start besides python3.
PROGRAMS = {
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


def test_the_first_screen_shows_what_inspect_prints(shell):
    """All but the times, which are of another day."""
    command, *shown = re.findall(r"^    (.+)$", README.partition("\n## ")[0], re.MULTILINE)
    assert command.startswith("$ ")
    token = shell(fenced("sh")[0][2]).strip()
    printed = shell(f"echo {token} | python3 -m bedrock_token inspect").splitlines()
    changes = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ|valid, .* left")
    assert [changes.sub("...", line) for line in shown] == [changes.sub("...", line) for line in printed]


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
        called = isinstance(node, ast.Call) and node.func
        name = getattr(called, "attr", getattr(called, "id", ""))
        if name in ("setting", "is_on") and isinstance(node.args[0], ast.Constant):
            if isinstance(node.args[0].value, str):
                yield f"AWS_{node.args[0].value.upper()}"
    for service in ("STS", "SSO", "SSO_OIDC", "BEDROCK", "BEDROCK_RUNTIME", "BEDROCK_MANTLE"):
        yield f"AWS_ENDPOINT_URL_{service}"


# Some other programs read them: `exec --only-bedrock` takes them away.
NOT_READ = {"AWS_ACCESS_KEY", "AWS_SECRET_KEY", "AWS_CREDENTIAL_FILE", "AWS_SECURITY_TOKEN"}


def test_the_manual_names_every_variable_that_is_read():
    named = set(re.findall(r"\bAWS_[A-Z0-9_]*[A-Z0-9]\b", README))
    assert named - NOT_READ == set(variables_read()) - NOT_READ


def part_of_manual(heading):
    """The text under a heading, up to the next of its level."""
    level = heading.partition(" ")[0]
    _, _, after = README.partition(f"\n{heading}\n")
    assert after, f"the manual has no {heading}"
    return re.split(rf"^#{{1,{len(level)}}} ", after, flags=re.MULTILINE)[0]


def test_the_part_on_credentials_names_every_variable():
    """Each once: in the table of sources, where profile and region are explained, or in the last table."""
    part = part_of_manual("## Where credentials come from")
    others = set(re.findall(r'(?:variable|environ\.get)\("([A-Z_]+)"', SOURCE))
    of_the_proxy = {"BEDROCK_TOKEN_PROXY_KEY"}  # explained there
    assert [name for name in {*variables_read(), *others} - NOT_READ - of_the_proxy
            if f"`{name}`" not in part] == []


def words(text):
    return set(re.findall(r"[a-z]+", text.lower()))


def test_the_table_of_sources_is_that_of_the_file():
    """The same sources in the same order, and all that configures each."""
    table = re.findall(r"^\| (\d+) \| (.+?) \| (.+?) \|", README, re.MULTILINE)
    assert [number for number, *_ in table] == [str(1 + at) for at in range(len(bt._SOURCES))]
    for (_, name, configured_by), (own_name, own_configured_by, _) in zip(table, bt._SOURCES):
        # Static keys, the plain case, are called by the profile alone.
        own = words(own_name) - {"profile", "of", "the"} or {"profile"}
        assert own & words(f"{name} {configured_by}"), f"{own_name} is not {name}"
        assert [each for each in own_configured_by if each not in configured_by] == []


def test_the_manual_names_every_public_name():
    assert [name for name in bt.__all__ if f"`{name}`" not in README] == []


@pytest.mark.parametrize("command", ["", "exec", "proxy", "inspect", "check", "converse"])
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
    named = re.findall(r"`(_[A-Za-z_]+)`", part_of_manual("## Audit"))
    assert len(named) > 10
    assert [name for name in named if not hasattr(bt, name)] == []


# What it takes to reach the network, to start a process, and to open a file.
DANGEROUS = [
    ("connections", r"socket\.socket\(|create_connection|create_server|HTTPS?Connection\(|Server\("),
    ("programs", r"subprocess\.\w+\(|os\.exec|os\.system|os\.popen|os\.posix_spawn|os\.spawn|os\.fork"),
    ("files", r"\bopen\(|os\.replace|os\.unlink|os\.remove|load_verify_locations|cafile="),
]


@pytest.mark.parametrize("pattern", cases(DANGEROUS))
def test_the_audit_names_the_functions_that_do_it(pattern):
    named = set(re.findall(r"`([A-Za-z_]+)`", part_of_manual("## Audit")))
    lines = SOURCE.splitlines()
    doing = [node.name for node in TREE.body
             if isinstance(node, (ast.FunctionDef, ast.ClassDef))
             and re.search(pattern, "\n".join(lines[node.lineno - 1:node.end_lineno]))]
    assert doing
    assert [name for name in doing if name not in named] == []


def test_the_messages_in_the_table_of_errors_exist():
    rows = re.findall(r"^\| `(.+?)` \|", part_of_manual("## Errors and what to do"), re.MULTILINE)
    assert len(rows) > 15
    text = "\n".join(strings(TREE))
    assert [row for row in rows if row not in text] == []
