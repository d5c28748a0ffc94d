"""The forms that settings may have: the syntax of the two files, names in quotes, where home is,
profiles that are in neither file, regions."""

import json
import os
import re
from pathlib import Path

import pytest

import bedrock_token as bt
from bedrock_token import (
    BedrockTokenError,
    Credentials,
    CredentialsError,
    NoCredentialsError,
    NoRegionError,
    TokenProvider,
    _parse_config,
    assume_role,
    converse,
    get_token,
    load_credentials,
    load_region,
    provide_token,
)
from tests.fake_aws import ANSWER, BedrockRuntime, SsoPortal, Sts
from tests.helpers import (
    ENV_KEYS, LONG_TERM, MESSAGES, cases, everything_in, key_of, keys, write_home,
)

PLANTED = "planted+secret/value"
GIVEN = Credentials("AKIAGIVEN", "secret-given")
P, Q, DEFAULT = ("profile", "p"), ("profile", "q"), ("profile", "default")

windows = pytest.mark.skipif(os.name != "nt", reason="these variables name the home on Windows")
not_windows = pytest.mark.skipif(os.name == "nt", reason="these variables name the home on Windows")


def parsed(text, kind="config"):
    return _parse_config(text, "THE-FILE", kind)


# --- sections that are indented as a whole -------------------------------------------------

# What stands in a config file under "[profile p]", and the properties it makes.
INDENTED = [
    ("one property", "  a = 1\n", {"a": "1"}),
    ("two properties", "  a = 1\n  b = 2\n", {"a": "1", "b": "2"}),
    ("tabs", "\ta = 1\n\tb = 2\n", {"a": "1", "b": "2"}),
    ("spaces and tabs, always the same", " \ta = 1\n \tb = 2\n", {"a": "1", "b": "2"}),
    ("no blanks around =", "  a=1\n  b=2\n", {"a": "1", "b": "2"}),
    ("CRLF", "  a = 1\r\n  b = 2\r\n", {"a": "1", "b": "2"}),
    ("no final newline", "  a = 1\n  b = 2", {"a": "1", "b": "2"}),
    ("names are lower-cased", "  AWS_Region = 1\n", {"aws_region": "1"}),
    ("empty value, then another property", "  a =\n  b = 2\n", {"a": "", "b": "2"}),
    ("empty value at the end", "  a = 1\n  b =\n", {"a": "1", "b": ""}),
    ("= in the value", "  a = b = c==\n", {"a": "b = c=="}),
    ("brackets in the value", "  a = [profile b]\n", {"a": "[profile b]"}),
    ("twice: last wins", "  a = 1\n  b = 2\n  a = 3\n", {"a": "3", "b": "2"}),
    ("a bad name is dropped", "  in valid = 1\n  b = 2\n", {"b": "2"}),
    ("a bad name is dropped with what continues it", "  in valid = 1\n    2\n  b = 3\n",
     {"b": "3"}),
    ("a bad name in the middle", "  a = 1\n  in valid = 2\n    3\n  b = 4\n",
     {"a": "1", "b": "4"}),

    ("blank line after the header", "\n  a = 1\n  b = 2\n", {"a": "1", "b": "2"}),
    ("blank lines between", "  a = 1\n\n \t\n  b = 2\n", {"a": "1", "b": "2"}),
    ("comment after the header", "# c\n  a = 1\n  b = 2\n", {"a": "1", "b": "2"}),
    ("indented comment after the header", "  # c\n  a = 1\n  b = 2\n", {"a": "1", "b": "2"}),
    ("a comment that is indented less", " # c\n  a = 1\n; d\n  b = 2\n", {"a": "1", "b": "2"}),
    ("a comment that is indented more", "      # c\n  a = 1\n      ; d\n  b = 2\n",
     {"a": "1", "b": "2"}),
    ("comments after values", "  a = 1 # c\n  b = 2 ; d\n", {"a": "1", "b": "2"}),
    ("signs inside values", "  a = 1#c\n  b = 2;d\n", {"a": "1#c", "b": "2;d"}),

    ("deeper continues", "  a = 1\n    2\n", {"a": "1\n2"}),
    ("deeper by one continues", "  a = 1\n   2\n  b = 3\n", {"a": "1\n2", "b": "3"}),
    ("deeper continues with =", "  a = 1\n    b = 2\n  c = 3\n", {"a": "1\nb = 2", "c": "3"}),
    ("deeper continues twice", "  a = 1\n    2\n      3\n  b = 4\n", {"a": "1\n2\n3", "b": "4"}),
    ("continuations keep their comments", "  a = 1\n    2 # c\n  b = 3\n",
     {"a": "1\n2 # c", "b": "3"}),
    ("comments between continuations", "  a = 1\n    # c\n    2\n# d\n    3\n",
     {"a": "1\n2\n3"}),
    ("blank lines between continuations", "  a = 1\n\n    2\n \n    3\n", {"a": "1\n2\n3"}),
    ("sub-properties", "  a =\n    b = 1\n    c = 2\n  d = 3\n",
     {"a": {"b": "1", "c": "2"}, "d": "3"}),
    ("sub-properties, each deeper", "  a =\n    b = 1\n      c = 2\n", {"a": {"b": "1", "c": "2"}}),
    ("sub-properties, then others", "  a =\n    b = 1\n  c =\n    d = 2\n",
     {"a": {"b": "1"}, "c": {"d": "2"}}),
    ("comment among sub-properties", "  a =\n    # c\n    b = 1\n  ; d\n    e = 2\n",
     {"a": {"b": "1", "e": "2"}}),

    ("less, then as before: continues", "    a = 1\n  b = 2\n    c = 3\n",
     {"a": "1", "b": "2\nc = 3"}),
    ("less, then less", "    a = 1\n  b = 2\nc = 3\n", {"a": "1", "b": "2", "c": "3"}),
    ("less sets it for those that follow", "    a = 1\n  b = 2\n  c = 3\n",
     {"a": "1", "b": "2", "c": "3"}),
    ("less by one", "  a = 1\n b = 2\n c = 3\n", {"a": "1", "b": "2", "c": "3"}),
    ("less after a continuation", "    a = 1\n      2\n  b = 3\n    4\n",
     {"a": "1\n2", "b": "3\n4"}),
    ("less, with an empty value and what is below it", "    a = 1\n  b =\n    c = 2\n",
     {"a": "1", "b": {"c": "2"}}),
    ("not at all after all: then indented lines continue", "  a = 1\nb = 2\n  c = 3\n",
     {"a": "1", "b": "2\nc = 3"}),
    ("the first is not indented: nothing changes", "a = 1\n  b = 2\n", {"a": "1\nb = 2"}),
    ("the first is not indented, empty value", "a =\n  b = 2\n", {"a": {"b": "2"}}),
]


@pytest.mark.parametrize("body, want", cases(INDENTED))
@pytest.mark.parametrize("kind, header", [("config", "[profile p]"), ("credentials", "[p]")])
def test_indented_section(kind, header, body, want):
    assert parsed(f"{header}\n{body}", kind) == {P: want}


# Whole files: each section has an indentation of its own.
INDENTED_FILES = [
    ("each header starts anew", "config",
     "[profile p]\n  a = 1\n[profile q]\n    a = 2\n    b = 3\n",
     {P: {"a": "1"}, Q: {"a": "2", "b": "3"}}),
    ("one is indented, the next is not", "config",
     "[profile p]\n  a = 1\n[profile q]\na = 2\n  b = 3\n", {P: {"a": "1"}, Q: {"a": "2\nb = 3"}}),
    ("one is not indented, the next is", "config",
     "[profile p]\na = 1\n  2\n[profile q]\n  a = 3\n  b = 4\n",
     {P: {"a": "1\n2"}, Q: {"a": "3", "b": "4"}}),
    ("given again, indented in another way", "config",
     "[profile p]\na = 1\n[profile q]\n[profile p]\n   b = 2\n   c = 3\n",
     {P: {"a": "1", "b": "2", "c": "3"}, Q: {}}),
    ("the other kinds of section", "config",
     "[default]\n\ta = 1\n[sso-session q]\n\tb = 2\n\tc = 3\n",
     {DEFAULT: {"a": "1"}, ("sso-session", "q"): {"b": "2", "c": "3"}}),
    ("services", "config",
     "[services s]\n  sts =\n    endpoint_url = x\n  sso =\n    endpoint_url = y\n",
     {("services", "s"): {"sts": {"endpoint_url": "x"}, "sso": {"endpoint_url": "y"}}}),
    ("[profile default] still replaces [default]", "config",
     "[profile default]\n  a = 1\n[default]\n  a = 2\n  b = 3\n", {DEFAULT: {"a": "1"}}),
    ("an ignored section may be anything", "config",
     "[foo]\n  a = 1\n    b\n c\n[profile p]\n  a = 2\n", {P: {"a": "2"}}),
    ("indented comments before any section", "config", "  # c\n\t; d\n[profile p]\na = 1\n",
     {P: {"a": "1"}}),
    ("indented comments before any section", "credentials", " ; c\n  # d\n[p]\n  a = 1\n",
     {P: {"a": "1"}}),
    ("an indented comment that looks like a header", "config",
     "[profile p]\na = 1\n  # [profile q]\nb = 2\n", {P: {"a": "1", "b": "2"}}),
]


@pytest.mark.parametrize("kind, text, want", cases(INDENTED_FILES))
def test_indented_file(kind, text, want):
    assert parsed(text, kind) == want


# What stands under "[profile p]" where nothing is indented as a whole: comments may be.
COMMENTS = [
    ("right after the header", "  # c\na = 1\n", {"a": "1"}),
    ("right after the header, ;", "\t;c\na = 1\n", {"a": "1"}),
    ("with = inside", "  # b = 2\na = 1\n", {"a": "1"}),
    ("after a value", "a = 1\n  # b = 2\n", {"a": "1"}),
    ("after a value, ; and tab", "a = 1\n\t; b = 2\nc = 3\n", {"a": "1", "c": "3"}),
    ("between continuations", "a = 1\n  # c\n  2\n", {"a": "1\n2"}),
    ("after an empty value", "a =\n  # c\nb = 1\n", {"a": "", "b": "1"}),
    ("before sub-properties", "a =\n  # c = 1\n  b = 2\n", {"a": {"b": "2"}}),
    ("between sub-properties", "a =\n  b = 1\n   ; c\n  d = 2\n", {"a": {"b": "1", "d": "2"}}),
    ("at the end of the file", "a = 1\n  #", {"a": "1"}),
    ("with CRLF", "a = 1\r\n  # c\r\nb = 2\r\n", {"a": "1", "b": "2"}),
    ("a sign later in the line continues", "a = 1\n  2 # c\n", {"a": "1\n2 # c"}),
    ("a sign touching text continues", "a = 1\n  2#c\n", {"a": "1\n2#c"}),
]


@pytest.mark.parametrize("body, want", cases(COMMENTS))
def test_indented_comment(body, want):
    assert parsed("[profile p]\n" + body) == {P: want}


# The last column is the number of the broken line.
BROKEN = [
    ("no = right after the header", f"[default]\n  {PLANTED}\n", 2),
    ("no = after blank lines and comments", f"[default]\n\n  # c\n  {PLANTED}\n", 4),
    ("no name right after the header", f"[default]\n  = {PLANTED}\n", 2),
    ("no = as far as the others", f"[default]\n  a = 1\n  {PLANTED}\n", 3),
    ("no name as far as the others", f"[default]\n  a = 1\n  ={PLANTED}\n", 3),
    ("no = after a continuation", f"[default]\n  a = 1\n    2\n  {PLANTED}\n", 4),
    ("no = and indented less", f"[default]\n    a = 1\n  {PLANTED}\n", 3),
    ("no = and not indented", f"[default]\n  a = 1\n{PLANTED}\n", 3),
    ("a sub-property without =", f"[default]\n  a =\n    {PLANTED}\n", 3),
    ("a sub-property without a name", f"[default]\n  a =\n    = {PLANTED}\n", 3),
    ("an indented property before any section", f"  a = {PLANTED}\n[default]\n", 1),
    ("after a header given again", f"[default]\na = 1\n[default]\n  {PLANTED}\n", 4),
]


@pytest.mark.parametrize("kind", ["config", "credentials"])
@pytest.mark.parametrize("text, line", cases(BROKEN))
def test_broken_line_in_an_indented_section(text, line, kind):
    with pytest.raises(CredentialsError) as raised:
        parsed(text, kind)
    assert "THE-FILE" in str(raised.value)
    assert re.search(rf"\bline {line}\b", str(raised.value))
    assert PLANTED not in everything_in(raised.value)


@pytest.mark.parametrize("indent", ["  ", "\t", "        "], ids=repr)
@pytest.mark.parametrize("profile, in_config, in_credentials", [
    (None, "[default]", "[default]"), ("dev", "[profile dev]", "[dev]"),
])
def test_both_files_are_indented(environ, indent, profile, in_config, in_credentials):
    key_lines = "".join(indent + line for line in keys("IN").splitlines(True))
    write_home(environ, f"# c\n{in_config}\n{indent}# c\n{indent}region = eu-west-1\n",
               f"{in_credentials}\n{key_lines}{indent}aws_session_token = token\n")
    got = load_credentials(profile, environ=environ)
    assert (got.access_key_id, got.secret_access_key, got.session_token) == (
        "AKIAIN", "secret-IN", "token")
    assert load_region(profile, environ=environ) == "eu-west-1"


# --- names ---------------------------------------------------------------------------------

# What stands in the brackets after the kind of section, and the name; None: it is ignored.
NAMES = [
    ("double quotes", '"dev"', "dev"),
    ("single quotes", "'dev'", "dev"),
    ("double quotes, a blank", '"My Corp"', "My Corp"),
    ("single quotes, a blank", "'My Corp'", "My Corp"),
    ("quotes, a tab", "'My\tCorp'", "My\tCorp"),
    ("quotes, two blanks", "'My  Corp'", "My  Corp"),
    ("quotes, three words", "'a b c'", "a b c"),
    ("blanks around the quotes", " \t'My Corp' \t", "My Corp"),
    ("an apostrophe in double quotes", "\"Bob's\"", "Bob's"),
    ("double quotes in single ones", "'a \"b\" c'", 'a "b" c'),
    ("quotes and other scripts", "'büro süd'", "büro süd"),
    ("quotes and a number sign", "'a #b'", "a #b"),
    ("quotes and a semicolon", "'a ;b'", "a ;b"),
    ("other scripts", "büro", "büro"),
    ("letters of no alphabet", "\u65e5\u672c", "\u65e5\u672c"),
    ("a pictogram", "\U0001f602", "\U0001f602"),
    ("a comma", "a,b", "a,b"),
    ("parentheses", "a(b)", "a(b)"),
    ("an ampersand", "r&d", "r&d"),
    ("an asterisk", "a*", "a*"),
    ("an exclamation mark", "a!", "a!"),
    ("a dollar sign", "$a", "$a"),
    ("an equals sign", "a=b", "a=b"),
    ("a question mark", "a?b", "a?b"),
    ("a bar", "a|b", "a|b"),
    ("a tilde", "~a", "~a"),
    ("a circumflex", "a^b", "a^b"),
    ("braces", "{a}", "{a}"),
    ("angle brackets", "<a>", "<a>"),
    ("a number sign inside", "a#b", "a#b"),
    ("a semicolon inside", "a;b", "a;b"),
    ("all that was ever allowed", "azAZ09_-/.%@:+", "azAZ09_-/.%@:+"),
    ("blanks without quotes", "in valid", None),
    ("a tab without quotes", "in\tvalid", None),
    ("three words without quotes", "a b c", None),
    ("quotes, then more", '"a" b', None),
    ("a word, then quotes", 'a "b"', None),
]


@pytest.mark.parametrize("kind", ["profile", "sso-session", "services"])
@pytest.mark.parametrize("written, name", cases(NAMES))
def test_name(kind, written, name):
    text = f"[profile before]\na = 1\n[{kind} {written}] # c\nb = 2\n[profile after]\nc = 3\n"
    want = {("profile", "before"): {"a": "1"}, ("profile", "after"): {"c": "3"}}
    if name is not None:
        want[kind, name] = {"b": "2"}
    assert parsed(text) == want


def test_name_as_the_aws_cli_quotes_it():
    # aws configure writes a name with blanks as shlex.quote() does: 'Bob'"'"'s Corp'.
    text = "[profile 'Bob'\"'\"'s Corp']\na = 1\n"
    assert parsed(text) == {("profile", "Bob's Corp"): {"a": "1"}}


@pytest.mark.parametrize("text, want", cases([
    ("with quotes and without are one", "[profile dev]\na = 1\n[profile \"dev\"]\nb = 2\n",
     {("profile", "dev"): {"a": "1", "b": "2"}}),
    ("both kinds of quotes are one", "[profile 'a b']\na = 1\n[profile \"a b\"]\na = 2\n",
     {("profile", "a b"): {"a": "2"}}),
    ("[profile \"default\"] is [profile default]", "[profile \"default\"]\na = 1\n[default]\na = 2\n",
     {DEFAULT: {"a": "1"}}),
    ("a tab after the kind", "[profile\t'a b']\na = 1\n", {("profile", "a b"): {"a": "1"}}),
    ("a comment that touches the bracket", "[profile 'a b'];c\na = 1\n",
     {("profile", "a b"): {"a": "1"}}),
    ("kinds stay apart", "[profile 'a b']\na = 1\n[sso-session 'a b']\nb = 2\n",
     {("profile", "a b"): {"a": "1"}, ("sso-session", "a b"): {"b": "2"}}),
    ("what is quoted is the name, not its kind", "[\"profile dev\"]\na = 1\n[profile p]\n", {P: {}}),
    ("a name without a kind", "['dev']\na = 1\n[büro]\nb = 2\n[profile p]\n", {P: {}}),
]))
def test_names_in_config(text, want):
    assert parsed(text) == want


@pytest.mark.parametrize("name", ["büro", "a,b", "a(b)", "r&d", "a#b", "\u65e5\u672c", "a=b"])
def test_name_in_both_files(environ, name):
    write_home(environ, f"[profile {name}]\nregion = eu-west-1\n", f"[{name}]\n{keys('NAMED')}")
    for profile, variables in [(name, {}), (None, {"AWS_PROFILE": name})]:
        got = load_credentials(profile, environ={**environ, **variables})
        assert got.access_key_id == "AKIANAMED"
        assert load_region(profile, environ={**environ, **variables}) == "eu-west-1"


def test_quotes_belong_to_a_name_in_the_credentials_file(environ):
    write_home(environ, credentials=f"[\"dev\"]\n{keys('QUOTED')}")
    assert load_credentials('"dev"', environ=environ).access_key_id == "AKIAQUOTED"
    with pytest.raises(CredentialsError, match="dev"):
        load_credentials("dev", environ=environ)


@pytest.mark.parametrize("header, name", [
    ("[profile \"My Corp\"]", "My Corp"), ("[profile 'My Corp']", "My Corp"),
    ("[profile \"dev\"]", "dev"), ("[profile 'büro']", "büro"),
])
def test_profile_in_quotes(environ, header, name):
    write_home(environ, f"{header}\nregion = eu-west-1\n{keys('QUOTED')}")
    assert load_region(name, environ=environ) == "eu-west-1"
    assert load_credentials(name, environ=environ).access_key_id == "AKIAQUOTED"
    assert load_region(environ={**environ, "AWS_PROFILE": name}) == "eu-west-1"


@pytest.mark.parametrize("header, value", [
    ("[sso-session 'My Corp']", "My Corp"), ("[sso-session \"My Corp\"]", "My Corp"),
    ("[sso-session 'büro']", "büro"), ("[sso-session a,b]", "a,b"),
])
def test_sso_session_in_quotes(environ, header, value):
    write_home(environ, f"{header}\nsso_region = us-east-1\n"
               "sso_start_url = https://corp.awsapps.com/start\n"
               f"[profile p]\nsso_session = {value}\nsso_account_id = 123456789012\n"
               "sso_role_name = Dev\n")
    # printf %s 'My Corp' | sha1sum
    name = {"My Corp": "204ad4b9731f737f3f80683e2c37a7c6ad58355d",
            "büro": "81bd9249be4434e4c529769e6c16118a66938acd",
            "a,b": "5d8b1241b0484dd20c2cfeca6f692becfbab5d18"}[value]
    folder = Path(environ["HOME"], ".aws", "sso", "cache")
    folder.mkdir(parents=True)
    (folder / f"{name}.json").write_text(json.dumps({
        "accessToken": "access-token", "expiresAt": "2099-01-01T00:00:00Z",
        "startUrl": "https://corp.awsapps.com/start", "region": "us-east-1"}))
    with SsoPortal() as portal:
        got = load_credentials("p", environ={**environ, "AWS_ENDPOINT_URL_SSO": portal.url})
    assert got.access_key_id == key_of("Dev")


@pytest.mark.parametrize("header, value", [
    ("[services 'x y']", "x y"), ("[services \"x y\"]", "x y"), ("[services \"x\"]", "x"),
    ("[services a,b]", "a,b"),
])
def test_services_in_quotes(environ, header, value):
    with Sts(keys={"AKIABASE": ("secret-BASE", None)}) as sts:
        write_home(environ, f"{header}\nsts =\n  endpoint_url = {sts.url}\n"
                   "[profile p]\nrole_arn = arn:aws:iam::123456789012:role/P\n"
                   f"source_profile = base\nservices = {value}\n", "[base]\n" + keys("BASE"))
        assert load_credentials("p", environ=environ).access_key_id == key_of("P")


# --- the two files together ----------------------------------------------------------------

K1, K2 = keys("ONE"), keys("TWO")
R1, R2 = "region = us-west-1\n", "region = us-west-2\n"

# config, credentials, profile; its key id and region, None where there is none.
MERGED = [
    ("both empty", "", "", "default", None, None),
    ("nothing but comments", "# a\n", "; b\n", "default", None, None),
    ("config alone", f"[default]\n{K1}{R1}", "", "default", "AKIAONE", "us-west-1"),
    ("credentials alone", "", f"[default]\n{K1}{R1}", "default", "AKIAONE", "us-west-1"),
    ("one half each", f"[profile a]\n{R1}", f"[a]\n{K1}", "a", "AKIAONE", "us-west-1"),
    ("credentials win, key by key", f"[profile a]\n{K1}{R1}", f"[a]\n{K2}", "a",
     "AKIATWO", "us-west-1"),
    ("credentials win, the region too", f"[profile a]\n{K1}{R1}", f"[a]\n{R2}", "a",
     "AKIAONE", "us-west-2"),
    ("an empty one in credentials wins", f"[profile a]\n{K1}{R1}", "[a]\nregion =\n", "a",
     "AKIAONE", None),
    ("other profiles are left alone", f"[profile a]\n{R1}[profile b]\n{R2}",
     f"[a]\n{K1}[b]\n{K2}", "b", "AKIATWO", "us-west-2"),
    ("twice in each", f"[profile a]\n{K1}[profile a]\n{R1}", f"[a]\n{K2}[a]\n{R2}", "a",
     "AKIATWO", "us-west-2"),
    ("twice, last wins", f"[profile a]\n{R1}[profile b]\n[profile a]\n{R2}", "", "a",
     None, "us-west-2"),
    ("[default] in both", f"[default]\n{R1}", f"[default]\n{K1}", "default",
     "AKIAONE", "us-west-1"),
    ("[profile default] and [default] of credentials", f"[profile default]\n{R1}",
     f"[default]\n{K1}", "default", "AKIAONE", "us-west-1"),
    ("[profile default] first", f"[profile default]\n{R1}[default]\n{R2}{K2}", "", "default",
     None, "us-west-1"),
    ("[profile default] last", f"[default]\n{R2}{K2}[profile default]\n{R1}", "", "default",
     None, "us-west-1"),
    ("[profile default] gives way to credentials", f"[default]\n{R2}[profile default]\n{R1}",
     f"[default]\n{K1}{R2}", "default", "AKIAONE", "us-west-2"),
    ("[profile default] in credentials is nobody", "",
     f"[profile default]\n{K2}{R2}[default]\n{K1}", "default", "AKIAONE", None),
    ("default is not inherited", f"[default]\n{R1}[profile a]\noutput = json\n",
     f"[default]\n{K1}", "a", None, None),
    ("a session of the same name", f"[profile a]\n{R1}[sso-session a]\n{R2}", f"[a]\n{K1}", "a",
     "AKIAONE", "us-west-1"),
    ("services of the same name", f"[profile a]\n{R1}[services a]\n{R2}", f"[a]\n{K1}", "a",
     "AKIAONE", "us-west-1"),
    ("names differ in case", f"[profile A]\n{R1}[profile a]\n{R2}", f"[A]\n{K1}[a]\n{K2}", "A",
     "AKIAONE", "us-west-1"),
    ("blanks make no other name", f"[ profile\t a ]\n{R1}", f"[\ta ]\n{K1}", "a",
     "AKIAONE", "us-west-1"),
    ("properties in capitals", "[profile a]\nREGION = us-west-1\n",
     f"[a]\n{K1.replace('aws_', 'AWS_')}", "a", "AKIAONE", "us-west-1"),
    ("CRLF in one file", f"[profile a]\n{R1}".replace("\n", "\r\n"), f"[a]\n{K1}", "a",
     "AKIAONE", "us-west-1"),
    ("comments after values", "[profile a] ; c\nregion = us-west-1 # c\n", f"[a]# c\n{K1}", "a",
     "AKIAONE", "us-west-1"),
    ("one is indented, the other is not", "[profile a]\n  region = us-west-1\n", f"[a]\n{K1}", "a",
     "AKIAONE", "us-west-1"),
    ("in quotes in config, bare in credentials", f"[profile \"a\"]\n{R1}", f"[a]\n{K1}", "a",
     "AKIAONE", "us-west-1"),
]


@pytest.mark.parametrize("config, credentials, profile, key_id, region", cases(MERGED))
def test_two_files(environ, config, credentials, profile, key_id, region):
    write_home(environ, config, credentials)
    try:
        got = load_credentials(profile, environ=environ).access_key_id
    except NoCredentialsError:
        got = None
    assert got == key_id
    try:
        got = load_region(profile, environ=environ)
    except NoRegionError:
        got = None
    assert got == region


@pytest.mark.parametrize("config, credentials", cases([
    ("no prefix in config", f"[a]\n{K1}", ""),
    ("prefix in credentials", "", f"[profile a]\n{K1}"),
    ("prefix without a blank", f"[profilea]\n{K1}", ""),
    ("a session is no profile", "[sso-session a]\nsso_region = us-east-1\n", ""),
    ("a session in credentials is none", "", f"[sso-session a]\n{K1}"),
    ("services are no profile", f"[services a]\n{K1}", ""),
    ("an unknown kind", f"[plugins a]\n{K1}", ""),
    ("another case", f"[profile A]\n{K1}", f"[A]\n{K1}"),
    ("more words", f"[profile a b]\n{K1}", ""),
]))
def test_what_makes_no_profile(environ, config, credentials):
    write_home(environ, config, credentials)
    with pytest.raises(CredentialsError, match=r"\ba\b"):
        load_credentials("a", environ=environ)
    with pytest.raises(BedrockTokenError, match=r"\ba\b"):
        load_region("a", environ=environ)


# --- where home is -------------------------------------------------------------------------

# Homes are {1}, {2} and {drive}{path}; the process has one of its own, "process".
ELSEWHERE = {"HOMEDRIVE": "{drive}", "HOMEPATH": "{path}"}
HOMES = [
    pytest.param({"HOME": "{1}", "USERPROFILE": "{2}", **ELSEWHERE}, "us-west-1", id="HOME first"),
    pytest.param({"HOME": "{1}"}, "us-west-1", id="HOME alone"),
    pytest.param({"USERPROFILE": "{2}"}, "process", marks=not_windows,
                 id="USERPROFILE alone is nothing"),
    pytest.param({"USERPROFILE": "{2}", **ELSEWHERE}, "process", marks=not_windows,
                 id="neither of Windows' is anything"),
    pytest.param(ELSEWHERE, "process", marks=not_windows, id="HOMEDRIVE and HOMEPATH are nothing"),
    pytest.param({"HOME": "", "USERPROFILE": "{2}"}, "process", marks=not_windows,
                 id="an empty HOME does not bring USERPROFILE up"),
    pytest.param({}, "process", marks=not_windows, id="none of them"),
    pytest.param({"USERPROFILE": "{2}", **ELSEWHERE}, "us-west-2", marks=windows,
                 id="USERPROFILE next"),
    pytest.param({"HOME": " ", "USERPROFILE": "{2}"}, "us-west-2", marks=windows,
                 id="a blank HOME is none"),
    pytest.param(ELSEWHERE, "us-west-3", marks=windows, id="HOMEDRIVE and HOMEPATH last"),
]


@pytest.mark.parametrize("variables, want", HOMES)
def test_home(environ, home, tmp_path, variables, want):
    homes = [str(tmp_path / region) for region in ("us-west-1", "us-west-2", "us-west-3")]
    for folder, region in [*((each, Path(each).name) for each in homes), (home, "eu-west-3")]:
        write_home({"HOME": folder}, f"[default]\nregion = {region}\n",
                   f"[default]\n{keys(region.replace('-', ''))}")
    del environ["HOME"]
    # A drive is two characters long.
    parts = {"drive": homes[2][:2], "path": homes[2][2:]}
    environ.update({name: value.format("", *homes, **parts) for name, value in variables.items()})
    region = "eu-west-3" if want == "process" else want
    assert load_region(environ=environ) == region
    key_id = load_credentials(environ=environ).access_key_id
    assert key_id == "AKIA" + region.replace("-", "")


@pytest.mark.parametrize("variable, kind", [
    ("AWS_CONFIG_FILE", "config"), ("AWS_SHARED_CREDENTIALS_FILE", "credentials"),
])
@pytest.mark.parametrize("how", ["absolute", "~", "relative"])
def test_one_variable_leaves_the_other_file_alone(
        environ, tmp_path, monkeypatch, variable, kind, how):
    environ["HOME"] = str(tmp_path / "the home")
    write_home(environ, "[default]\nregion = us-west-1\n", "[default]\n" + keys("HOME"))
    moved = tmp_path / "the home" / "moved"
    moved.mkdir()
    (moved / "file").write_text({
        "config": "[default]\nregion = us-west-2\n", "credentials": f"[default]\n{keys('MOVED')}",
    }[kind])
    monkeypatch.chdir(moved)
    environ[variable] = {"absolute": str(moved / "file"), "~": os.path.join("~", "moved", "file"),
                         "relative": "file"}[how]
    assert load_region(environ=environ) == ("us-west-2" if kind == "config" else "us-west-1")
    got = load_credentials(environ=environ).access_key_id
    assert got == ("AKIAHOME" if kind == "config" else "AKIAMOVED")


# --- a profile that is in neither file -----------------------------------------------------

GHOST = {"AWS_PROFILE": "ghost", "AWS_REGION": "us-east-1"}


@pytest.fixture
def bedrock(environ):
    with BedrockRuntime() as fake:
        environ.update(AWS_ENDPOINT_URL_BEDROCK=fake.url, AWS_ENDPOINT_URL_BEDROCK_RUNTIME=fake.url)
        yield fake


@pytest.mark.parametrize("variables", cases([
    ("bearer token", {"AWS_BEARER_TOKEN_BEDROCK": LONG_TERM}),
    ("keys", ENV_KEYS),
    ("keys and a session token", {**ENV_KEYS, "AWS_SESSION_TOKEN": "token"}),
]))
@pytest.mark.parametrize("named", ["AWS_PROFILE", "AWS_DEFAULT_PROFILE"])
def test_converse_beside_a_ghost(environ, bedrock, variables, named):
    environ.update(variables, **{named: "ghost"}, AWS_REGION="us-east-1")
    assert converse("m", MESSAGES, environ=environ) == ANSWER
    [request] = bedrock.requests
    given = variables.get("AWS_BEARER_TOKEN_BEDROCK", "bedrock-api-key-")
    assert request.headers["Authorization"].startswith("Bearer " + given)


def test_converse_with_a_token_in_code_beside_a_ghost(environ, bedrock):
    environ["AWS_PROFILE"] = "ghost"
    assert converse("m", MESSAGES, token=LONG_TERM, region="us-east-1", environ=environ) == ANSWER
    token = get_token(GIVEN, "us-east-1")
    assert converse("m", MESSAGES, token=token, environ=environ) == ANSWER


@pytest.mark.parametrize("more", [[], ["--model", "m"]], ids=["models", "one model"])
@pytest.mark.parametrize("variables", cases([
    ("bearer token", {"AWS_BEARER_TOKEN_BEDROCK": LONG_TERM}), ("keys", ENV_KEYS),
]))
def test_check_beside_a_ghost(bedrock, monkeypatch, capsys, variables, more):
    for name, value in {**GHOST, **variables, "AWS_ENDPOINT_URL": bedrock.url}.items():
        monkeypatch.setenv(name, value)
    assert bt.main(["check", *more]) == 0, capsys.readouterr().err
    assert len(bedrock.requests) == 1


@pytest.mark.parametrize("load", [
    lambda environ: get_token(environ=environ),
    lambda environ: TokenProvider(environ=environ)(),
    lambda environ: get_token(GIVEN, environ=environ),
    lambda environ: TokenProvider(GIVEN, environ=environ)(),
], ids=["get_token", "TokenProvider", "get_token(credentials)", "TokenProvider(credentials)"])
def test_token_beside_a_ghost(environ, load):
    assert load({**environ, **GHOST, **ENV_KEYS}).region == "us-east-1"


def test_region_and_keys_beside_a_ghost(environ):
    environ.update(GHOST, **ENV_KEYS)
    assert load_region(environ=environ) == "us-east-1"
    assert load_credentials(environ=environ).access_key_id == "AKIAENV"


def test_role_beside_a_ghost(environ):
    with Sts(keys={"AKIAGIVEN": ("secret-given", None)}) as sts:
        environ.update(GHOST, AWS_ENDPOINT_URL_STS=sts.url)
        source = assume_role("arn:aws:iam::123456789012:role/P", credentials=GIVEN, environ=environ)
        assert source().access_key_id == key_of("P")


def test_token_of_the_command_line_beside_a_ghost(monkeypatch, capsys):
    for name, value in {**GHOST, **ENV_KEYS}.items():
        monkeypatch.setenv(name, value)
    assert bt.main([]) == 0
    out, err = capsys.readouterr()
    assert out.startswith("bedrock-api-key-")
    assert err == ""


@pytest.mark.parametrize("load, variables", cases([
    ("credentials are to come from it", load_credentials, {"AWS_REGION": "us-east-1"}),
    ("the region is to come from it", load_region, ENV_KEYS),
    ("the region of a token is", lambda environ: get_token(GIVEN, environ=environ), ENV_KEYS),
    ("the region of a call is", lambda environ: converse(
        "m", MESSAGES, token=LONG_TERM, environ=environ), {}),
    ("the credentials of a call are",
     lambda environ: converse("m", MESSAGES, environ=environ), {"AWS_REGION": "us-east-1"}),
]))
def test_ghost_that_is_needed(environ, bedrock, load, variables):
    write_home(environ, f"[default]\nregion = us-east-1\n{keys('DEFAULT')}")
    with pytest.raises(BedrockTokenError, match="ghost"):
        load(environ={**environ, "AWS_PROFILE": "ghost", **variables})
    assert bedrock.requests == []


def test_ghost_named_in_code(environ):
    with pytest.raises(CredentialsError, match="ghost"):
        load_credentials("ghost", environ={**environ, **ENV_KEYS})


# --- regions -------------------------------------------------------------------------------

def region_of(length):
    return "us-" + "a" * (length - 5) + "-1"


LONGEST, TOO_LONG = region_of(32), region_of(33)


@pytest.mark.parametrize("region", [LONGEST, region_of(31), f" {LONGEST}\n"], ids=repr)
def test_longest_region(environ, region):
    assert get_token(GIVEN, region).region == region.strip()
    assert load_region(environ={**environ, "AWS_REGION": region}) == region.strip()


@pytest.mark.parametrize("region", [TOO_LONG, region_of(64), region_of(5000)], ids=[33, 64, 5000])
@pytest.mark.parametrize("call", [
    lambda region: get_token(GIVEN, region),
    lambda region: TokenProvider(GIVEN, region)(),
    lambda region: provide_token(region),
    lambda region: converse("m", MESSAGES, token=LONG_TERM, region=region),
    lambda region: assume_role("arn:aws:iam::123456789012:role/P", credentials=GIVEN,
                               region=region)(),
], ids=["get_token", "TokenProvider", "provide_token", "converse", "assume_role"])
def test_region_that_is_too_long_in_code(call, region):
    with pytest.raises(ValueError, match="region") as raised:
        call(region)
    assert len(str(raised.value)) < 1000


@pytest.mark.parametrize("region", [TOO_LONG, region_of(5000)], ids=[33, 5000])
@pytest.mark.parametrize("name", ["AWS_REGION", "AWS_DEFAULT_REGION", "dev"])
def test_region_that_is_too_long_in_settings(environ, name, region):
    in_file = region if name == "dev" else "us-east-1"
    write_home(environ, f"[profile dev]\nregion = {in_file}\n")
    if name != "dev":
        environ[name] = region
    for load in (load_region, lambda profile, environ: get_token(
            GIVEN, profile=profile, environ=environ)):
        with pytest.raises(NoRegionError, match=rf"\b{name}\b") as raised:
            load("dev", environ=environ)
        assert len(str(raised.value)) < 1000
