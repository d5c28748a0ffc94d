"""The recipes for Node.js go on past the end of a token. They run as they are, in a folder of their own."""

import contextlib
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests import fake_aws
from tests.helpers import cases
from tests.interop.recipes import (
    FIRST, HELLO, RevokingBedrock, Sessions, base_environ, block, in_two, project, run, session,
)
from tests.interop.reference import npm_package

BRIDGE = Path(__file__).with_name("http2_bridge.mjs")
CLIENTS = [
    ("openai", "openai", 'from "openai"'),
    ("aws sdk", "@aws-sdk/client-bedrock-runtime", 'from "@aws-sdk/client-bedrock-runtime"'),
]


def node():
    found = shutil.which("node")
    if found is None:
        pytest.skip("no Node.js here")
    return found


@contextlib.contextmanager
def bridge(url):
    """The address of a server for HTTP/2 that passes everything on to that one."""
    process = subprocess.Popen(
        [node(), str(BRIDGE), url], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        universal_newlines=True)
    try:
        yield process.stdout.readline().strip()
    finally:
        process.kill()
        process.communicate(timeout=30)


def repeated(code):
    """The recipe with its call made four times; an error is printed instead of the answer."""
    once, each = in_two(code, "const answer = ")
    return (f"{once}for (let call = 0; call < 4; call++) {{\ntry {{\n{each}}} catch (error) {{\n"
            "console.log(error.name, error.constructor.name, error.status, error.message);\n}\n}\n")


def run_recipe(package, holds, folder, **settings):
    """(lines printed, callers, refused) of a recipe's four calls, the first token refused after one."""
    modules = npm_package(package)
    for _ in package.split("/"):
        modules = modules.parent
    here = project(folder / "project")
    os.symlink(str(modules), str(here / "node_modules"), target_is_directory=True)
    (here / "recipe.mjs").write_text(repeated(block("js", holds)), encoding="utf-8")
    with Sessions(**settings) as sessions, RevokingBedrock(sessions=sessions) as bedrock:
        with bridge(bedrock.url) as second_address:
            environ = base_environ(folder, sessions.environ, bedrock.environ, {
                "AWS_ENDPOINT_URL_BEDROCK_RUNTIME": second_address})
            done = run([node(), "recipe.mjs"], here, environ)
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines(), bedrock.callers, bedrock.refused


@pytest.mark.parametrize("package, holds", cases(CLIENTS))
def test_a_recipe_asks_again_when_the_end_is_near(package, holds, tmp_path):
    # Two sessions have under five minutes left: the AWS SDK asks for the second one at once.
    said, callers, refused = run_recipe(package, holds, tmp_path, lifetimes=(200, 200, 3600))
    assert said == [HELLO] * 4
    assert refused == []
    first, second, third, fourth = callers
    assert first != second and third == fourth == session(3)


@pytest.mark.parametrize("package, holds", cases(CLIENTS))
def test_a_recipe_keeps_a_token_until_then(package, holds, tmp_path):
    said, callers, refused = run_recipe(package, holds, tmp_path)
    assert said[0] == HELLO
    assert callers == [FIRST] and refused == [FIRST] * 3
    for line in said[1:]:
        assert fake_aws.EXPIRED in line or "403" in line
