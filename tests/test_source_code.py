"""What holds for the file as a whole: what it needs, touches and says of itself."""

import ast
import configparser
import os
import re
import shutil
import subprocess
import sys
from types import SimpleNamespace

import pytest

import bedrock_token as bt
from tests.helpers import (
    CONFIGURED, FILE, KEY_ID, NOON, ROOT, SECRET, SOURCE, TREE, bare_environment, cases, imported,
    is_standard,
)

PUBLIC = [
    "BedrockError", "BedrockTokenError", "Credentials", "CredentialsError", "NoCredentialsError",
    "NoRegionError", "Token", "TokenProvider", "assume_role", "call", "call_stream", "converse", "converse_stream",
    "decode_token", "get_token", "load_credentials", "load_region", "presign", "provide_token",
]


# --- what it needs -------------------------------------------------------------------------

@pytest.mark.parametrize("module", sorted(set(imported(TREE))))
def test_only_the_standard_library_is_imported(module):
    assert is_standard(module)


def test_the_check_above_knows_a_package_when_it_sees_one():
    assert not is_standard("pytest")
    assert not is_standard("no_such_module")


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
if sys.implementation.name == "pypy":
    import hashlib  # PyPy's own loads re, socket and more
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
    "os.listdir", "sys._getframe", "code.__new__", "sys._getframemodulename", "builtins.id",
}


def test_the_cold_path_does_nothing_else(cold):
    """No socket, process, thread or signal handler, no change of the environment."""
    assert [event for event in cold.events if event[0] not in IMPORTING] == []


def test_a_token_from_given_credentials_looks_at_nothing_else():
    class Untouchable:
        def __getattribute__(self, name):
            raise AssertionError(f"asked for {name}")

    credentials = bt.Credentials(KEY_ID, SECRET)
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
        "credential sources", "the chain", "TokenProvider", "calling Bedrock", "proxy", "command line",
    ]
    assert [title for _, title in BANNERS] == order


def functions(tree=TREE):
    """All functions, methods and inner functions, each with the class that it stands in, or None."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield node, tree if isinstance(tree, ast.ClassDef) else None
        yield from functions(node)


def arguments(function):
    given = function.args
    extra = [each for each in (given.vararg, given.kwarg) if each]
    return [*given.posonlyargs, *given.args, *given.kwonlyargs, *extra]


class Uses(ast.NodeVisitor):
    """The names that code uses, annotations included, but for a function's own variables: {name: line}."""

    def __init__(self, *nodes):
        self.names = {}
        for node in nodes:
            self.visit(node)

    def visit_Name(self, node):
        if isinstance(node.ctx, ast.Load):
            self.names.setdefault(node.id, node.lineno)

    def visit_FunctionDef(self, node):
        for part in filter(None, (*node.decorator_list, node.args, node.returns)):
            self.visit(part)
        own = {each.arg for each in arguments(node)} | {
            each.id for each in ast.walk(node)
            if isinstance(each, ast.Name) and isinstance(each.ctx, ast.Store)}
        for name, line in Uses(*node.body).names.items():
            if name not in own:
                self.names.setdefault(name, line)

    visit_AsyncFunctionDef = visit_FunctionDef

    def visit_Lambda(self, node):
        self.visit(node.args)
        for name, line in Uses(node.body).names.items():
            if name not in [each.arg for each in arguments(node)]:
                self.names.setdefault(name, line)


def names_of(node):
    """What a statement at the top level defines."""
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        return [node.name]
    targets = getattr(node, "targets", None) or [getattr(node, "target", node)]
    return [each.id for target in targets for each in ast.walk(target)
            if isinstance(each, ast.Name) and isinstance(each.ctx, ast.Store)]


def used_too_early(tree):
    """The uses of what is defined further down, but for those of a function that the other uses too."""
    place = {name: number for number, node in enumerate(tree.body) for name in names_of(node)}
    used = [Uses(node).names for node in tree.body]
    return [
        f"line {line}: {name}"
        for number, uses in enumerate(used) for name, line in uses.items()
        if place.get(name, -1) > number
        and not (isinstance(tree.body[number], ast.FunctionDef) and tree.body[number].name in used[place[name]])
    ]


def test_nothing_is_used_before_it_is_defined():
    assert used_too_early(TREE) == []


@pytest.mark.parametrize("code, early", cases([
    ("function", "def a(): b()\ndef b(): pass", ["line 1: b"]),
    ("constant", "def a():\n    return B\nB = 1", ["line 2: B"]),
    ("default", "def a(b=B): pass\nB = 1", ["line 1: B"]),
    ("class", "class A(B): pass\nclass B: pass", ["line 1: B"]),
    ("method", "class A:\n    def a(self): return b()\ndef b(): pass", ["line 2: b"]),
    ("annotation of an argument", "def a(b: B): pass\nclass B: pass", ["line 1: B"]),
    ("annotation of what is returned", "def a() -> B: pass\nclass B: pass", ["line 1: B"]),
    ("annotation of a variable", "def a():\n    b: B = 1\nclass B: pass", ["line 2: B"]),
    ("annotation with its own class", "class A:\n    def a(self) -> A: pass", []),
    ("in the right order", "def b(): pass\ndef a(): b()", []),
    ("each other", "def a(): b()\ndef b(): a()", []),
    ("classes each other", "class A:\n    a: B\nclass B:\n    a: A", ["line 2: B"]),
    ("itself", "def a(): a()", []),
    ("argument", "def a(b): b()\ndef b(): pass", []),
    ("argument of a lambda", "a = lambda b: b()\ndef b(): pass", []),
    ("variable", "def a():\n    b = 1\n    return b\ndef b(): pass", []),
]))
def test_the_check_above_sees_what_is_used_too_early(code, early):
    assert used_too_early(ast.parse(code)) == early


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


# --- budgets -------------------------------------------------------------------------------

LINES = SOURCE.splitlines()


def test_what_mints_is_short():
    """All that get_token runs when it is given credentials and a region."""
    titles = [title for _, title in BANNERS]
    first = BANNERS[titles.index("errors")][0]
    end = BANNERS[titles.index("minting") + 1][0]
    assert end - first < 350
    assert [number for number in range(first, end) if len(LINES[number - 1]) > 100] == []


def test_the_file_is_short():
    assert len(LINES) < 3000
    assert len(SOURCE) < 150_000
    assert [number for number, line in enumerate(LINES, 1) if len(line) > 110] == []


def test_functions_are_short():
    lengths = [(node.end_lineno - node.lineno + 1, node.name) for node, _ in functions()]
    assert [each for each in lengths if each[0] > 70] == []


def is_shaped_by_others(function, owner):
    """Whether its arguments are those of a protocol, or of the method that it overrides."""
    if owner is None:
        return False
    body = [node for node in function.body
            if not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant))]
    return bool(owner.bases) or function.name.startswith("__") or not body


def unused_arguments(tree):
    for function, owner in functions(tree):
        loaded = {node.id for node in ast.walk(function)
                  if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)}
        for argument in arguments(function):
            name = argument.arg
            if name in loaded or name in ("self", "cls") or name.startswith("_"):
                continue
            if not is_shaped_by_others(function, owner):
                yield f"line {function.lineno}: {function.name}({name})"


def test_every_argument_is_used():
    assert list(unused_arguments(TREE)) == []


@pytest.mark.parametrize("code, unused", cases([
    ("used", "def a(b): return b", []),
    ("used by an inner function", "def a(b):\n    def c(): return b\n    return c", []),
    ("not used", "def a(b, *, c=1, **d): return b", ["line 1: a(c)", "line 1: a(d)"]),
    ("set before it is used", "def a(b):\n    b = 1", ["line 1: a(b)"]),
    ("says so by its name", "def a(_b): pass", []),
    ("method", "class A:\n    def a(self, b): return 1", ["line 2: a(b)"]),
    ("protocol of Python", "class A:\n    def __exit__(self, *error): return 1", []),
    ("protocol", 'class A:\n    def a(self, b):\n        """It."""', []),
    ("override", "class A(B):\n    def a(self, b): return 1", []),
]))
def test_the_check_above_sees_what_is_not_used(code, unused):
    assert list(unused_arguments(ast.parse(code))) == unused


def test_no_dict_of_options_escapes_the_type_checker():
    def is_any(annotation):
        return annotation is not None and re.search(r"\bAny\b", ast.unparse(annotation))

    dicts = [f"line {node.lineno}: {ast.unparse(node.target)}" for node in ast.walk(TREE)
             if isinstance(node, ast.AnnAssign) and is_any(node.annotation)
             and isinstance(node.value, (ast.Dict, ast.DictComp))
             and ast.unparse(node.annotation) == "Any"]
    # `request` is the API's own fields, of which this file knows nothing.
    dicts += [f"line {function.lineno}: **{function.args.kwarg.arg}" for function, _ in functions()
              if function.args.kwarg and function.args.kwarg.arg != "request"
              and is_any(function.args.kwarg.annotation)]
    assert dicts == []


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
    assert [path for path in listed.split("\0") if path.startswith(".ci/")] == [
        ".ci/newer-python", ".ci/run", ".ci/windows-python"]


def test_test_modules_are_short_and_stand_alone():
    """What two of them need is in helpers.py, conftest.py or fake_aws.py."""
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        text = path.read_text(encoding="utf-8")
        assert text.count("\n") < 1000, path.name
        imports = [line for line in text.splitlines() if re.match(r"(from|import) .*\btest_", line)]
        assert imports == [], path.name
