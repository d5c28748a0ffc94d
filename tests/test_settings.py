"""The two shared files, their syntax and where they are; which profile and which region count; the
hosts that are called."""

import os
import re
import select
import socket
from pathlib import Path

import pytest

from bedrock_token import (
    BedrockTokenError,
    Credentials,
    CredentialsError,
    NoCredentialsError,
    NoRegionError,
    _parse_config,
    get_token,
    load_credentials,
    load_region,
)
from tests.fake_aws import Fake, Forever, answer, tunnel
from tests.helpers import ENV_BASE, ENV_KEYS, NOW, cases, everything_in, keys, role, write_home

NBSP = "\u00a0"
PLANTED = "planted+secret/value"
CREDENTIALS = Credentials("AKIAGIVEN", "secret-given")
FILE_VARIABLES = {"config": "AWS_CONFIG_FILE", "credentials": "AWS_SHARED_CREDENTIALS_FILE"}
LOADERS = [load_credentials, load_region]


def parsed(text, kind="config"):
    return _parse_config(text, "THE-FILE", kind)


def has_number(text, number):
    return re.search(rf"(?<!\d){number}(?!\d)", text) is not None


# --- syntax: properties --------------------------------------------------------------------

# What stands under "[profile p]" in a config file, and the properties it makes.
PROPERTIES = [
    ("nothing", "", {}),
    ("spaces around =", "a = 1\n", {"a": "1"}),
    ("no spaces around =", "a=1\n", {"a": "1"}),
    ("tabs are trimmed", "a\t \t=\t \t1\t \t\n", {"a": "1"}),
    ("two", "a = 1\nb = 2\n", {"a": "1", "b": "2"}),
    ("no final newline", "a = 1", {"a": "1"}),
    ("no final newline after a continuation", "a = 1\n 2", {"a": "1\n2"}),
    ("CRLF", "a = 1\r\nb = 2 \r\n", {"a": "1", "b": "2"}),
    ("CRLF and LF", "a = 1\r\nb = 2\nc = 3\r\n", {"a": "1", "b": "2", "c": "3"}),
    ("CRLF and continuations", "a = 1\r\n\r\n  2\r\n", {"a": "1\n2"}),
    ("CRLF and sub-properties", "a =\r\n b = 1\r\n", {"a": {"b": "1"}}),
    ("CRLF after a comment", "a = 1 # c\r\nb = 2\r\n", {"a": "1", "b": "2"}),
    ("CR alone ends no line", "a = 1\rb = 2\n", {"a": "1\rb = 2"}),
    ("VT, FF, NEL and U+2028 end no line", "a = 1\v2\f3\x854\u20285\n",
     {"a": "1\v2\f3\x854\u20285"}),
    ("no-break space is not trimmed", f"a = {NBSP}1{NBSP}\n", {"a": f"{NBSP}1{NBSP}"}),
    ("VT and FF are not trimmed", "a = \v1\f\n", {"a": "\v1\f"}),
    ("no-break space belongs to the name", f"a{NBSP}= 1\nb = 2\n", {"b": "2"}),
    ("VT belongs to the name", "a\v= 1\nb = 2\n", {"b": "2"}),
    ("blank lines", "\n \n\t\na = 1\n\n \t \nb = 2\n\n", {"a": "1", "b": "2"}),

    ("# in the first column", "# a = 1\nb = 2\n#\n", {"b": "2"}),
    ("; in the first column", "; a = 1\nb = 2\n;\n", {"b": "2"}),
    ("comment without = or space", "#a\n;b\na = 1\n", {"a": "1"}),
    ("comment # after the value", "a = 1 # c\n", {"a": "1"}),
    ("comment ; after the value", "a = 1 ; c\n", {"a": "1"}),
    ("comment after a tab", "a = 1\t#c\nb = 2\t;c\n", {"a": "1", "b": "2"}),
    ("# inside the value", "a = 1#2\n", {"a": "1#2"}),
    ("; inside the value", "a = 1;2\n", {"a": "1;2"}),
    ("# inside, then a comment", "a = 1#2;3 #4\n", {"a": "1#2;3"}),
    ("first comment sign cuts: ;", "a = 1 ; 2 # 3\n", {"a": "1"}),
    ("first comment sign cuts: #", "a = 1 # 2 ; 3\n", {"a": "1"}),
    ("# right after =", "a =#1\n", {"a": "#1"}),
    ("; right after =", "a=;1\n", {"a": ";1"}),
    ("# with space after =", "a = #1\n", {"a": ""}),
    ("; with tab after =", "a=\t;1\n", {"a": ""}),
    ("# after a no-break space", f"a = 1{NBSP}#2\n", {"a": f"1{NBSP}#2"}),
    ("quotes are nothing special", "a = \"1 2\"\n", {"a": "\"1 2\""}),
    ("= in the value", "a = b = c==\n", {"a": "b = c=="}),
    (": separates nothing", "a:b = 1\n", {"a:b": "1"}),
    ("% in the value", "a = %(b)s %\n", {"a": "%(b)s %"}),
    ("other scripts in the value", "a = \u00e9\U0001f602\n", {"a": "\u00e9\U0001f602"}),
    ("brackets in the value", "a = [profile b]\n", {"a": "[profile b]"}),
    ("empty value", "a =\n", {"a": ""}),
    ("empty value at the end", "a =", {"a": ""}),
    ("empty value, then another", "a =\nb = 1\n", {"a": "", "b": "1"}),
    ("names are lower-cased", "AWS_Access_KEY_id = AbC\n", {"aws_access_key_id": "AbC"}),
    ("all of the alphabet", "azAZ09_-/.%@:+ = 1\n", {"azaz09_-/.%@:+": "1"}),
    ("no-break space before a name", f"{NBSP}a = 1\nb = 2\n", {"b": "2"}),
    ("bad name: dropped", "in valid = 1\nb = 2\n", {"b": "2"}),
    ("bad name: its continuations too", "a = 1\nin valid = 2\n 3\n 4\nb = 5\n",
     {"a": "1", "b": "5"}),
    ("bad name: its sub-properties too", "in valid =\n b = 1\nc = 2\n", {"c": "2"}),
    ("bad name: even broken sub-properties", "in valid =\n b\nc = 2\n", {"c": "2"}),
    ("twice: last wins", "a = 1\nb = 2\na = 3\n", {"a": "3", "b": "2"}),
    ("twice, other case: last wins", "a = 1\nA = 2\n", {"a": "2"}),
    ("twice: empty wins", "a = 1\na =\n", {"a": ""}),
    ("twice: continuations go with theirs", "a = 1\n 2\na = 3\n 4\n", {"a": "3\n4"}),
    ("twice: sub-properties, then a value", "a =\n b = 1\na = 2\n", {"a": "2"}),
    ("twice: a value, then sub-properties", "a = 2\na =\n b = 1\n", {"a": {"b": "1"}}),
    ("twice: sub-properties do not mix", "a =\n b = 1\na =\n c = 2\n", {"a": {"c": "2"}}),

    ("continuation", "a = 1\n 2\n", {"a": "1\n2"}),
    ("continuations after a tab", "a = 1\n\t2\n\t3\n", {"a": "1\n2\n3"}),
    ("continuation is trimmed", "a = 1\n \t 2 \t \n", {"a": "1\n2"}),
    ("continuation trims no no-break space", f"a = 1\n {NBSP}2\v\n", {"a": f"1\n{NBSP}2\v"}),
    ("continuation keeps its comment", "a = 1\n 2 # c\n 3 ; d\n", {"a": "1\n2 # c\n3 ; d"}),
    ("value loses its comment, then goes on", "a = 1 # c\n 2\n", {"a": "1\n2"}),
    ("continuation that looks like a property", "a = 1\n b = 2\n", {"a": "1\nb = 2"}),
    ("continuation that looks like a header", "a = 1\n [profile b]\n", {"a": "1\n[profile b]"}),
    ("blank lines between continuations", "a = 1\n\n 2\n \t\n 3\n", {"a": "1\n2\n3"}),
    ("comment between continuations", "a = 1\n# c\n 2\n; d\n 3\n", {"a": "1\n2\n3"}),

    ("sub-properties", "a =\n b = 1\n\tc=2\n", {"a": {"b": "1", "c": "2"}}),
    ("sub-properties after a comment", "a = # c\n b = 1\n", {"a": {"b": "1"}}),
    ("sub-property is trimmed", "a =\n \t b\t=\t1 \t\n", {"a": {"b": "1"}}),
    ("sub-property keeps comments", "a =\n b = 1 # c\n d = #e\n f = ; g\n",
     {"a": {"b": "1 # c", "d": "#e", "f": "; g"}}),
    ("sub-property with = in the value", "a =\n b = c=d=\n", {"a": {"b": "c=d="}}),
    ("empty sub-property", "a =\n b =\n", {"a": {"b": ""}}),
    ("no third level", "a =\n  b =\n    c = 1\n", {"a": {"b": "", "c": "1"}}),
    ("sub-property twice: last wins", "a =\n b = 1\n b = 2\n", {"a": {"b": "2"}}),
    ("sub-property with all of the alphabet", "a =\n az09_-/.%@:+ = 1\n",
     {"a": {"az09_-/.%@:+": "1"}}),
    ("sub-property with a bad name", "a =\n in valid = 1\n b = 2\n", {"a": {"b": "2"}}),
    ("no-break space after the name of a sub-property", f"a =\n b{NBSP}= 1\n c = 2\n",
     {"a": {"c": "2"}}),
    ("blank lines among sub-properties", "a =\n\n b = 1\n \t\n c = 2\n",
     {"a": {"b": "1", "c": "2"}}),
    ("comment among sub-properties", "a =\n# c\n b = 1\n; d\n c = 2\n",
     {"a": {"b": "1", "c": "2"}}),
    ("property after sub-properties", "a =\n b = 1\nc = 2\n", {"a": {"b": "1"}, "c": "2"}),
]


@pytest.mark.parametrize("body, want", cases(PROPERTIES))
def test_properties(body, want):
    assert parsed("[profile p]\n" + body) == {("profile", "p"): want}


# The Kelvin sign and the long s become ASCII letters when a name is folded carelessly, and
# the Arabic digit is a digit to str.isalnum and to \d.
FOREIGN = " \t!\"$&'()*,<>?[\\^`{|}~\v\x7f\u00a0\u00e9\u017f\u0663\u212a"


@pytest.mark.parametrize("character", FOREIGN, ids=ascii)
@pytest.mark.parametrize("kind, header", [("config", "[profile p]"), ("credentials", "[p]")])
def test_character_outside_the_alphabet_of_properties(kind, header, character):
    text = f"{header}\na{character}b = 1\n continued\nc = 2\n"
    assert parsed(text, kind) == {("profile", "p"): {"c": "2"}}


@pytest.mark.parametrize("character", "#;]", ids=ascii)
def test_sign_outside_the_alphabet_of_properties(character):
    text = f"[profile p]\na{character}b = 1\nc = 2\n"
    assert parsed(text) == {("profile", "p"): {"c": "2"}}


# --- syntax: sections ----------------------------------------------------------------------

P, DEFAULT = ("profile", "p"), ("profile", "default")

SECTIONS = [
    ("empty file", "config", "", {}),
    ("empty credentials file", "credentials", "", {}),
    ("nothing but blanks and comments", "config", "\n# a\n\t\n; b", {}),
    ("nothing but a header", "config", "[profile p]", {P: {}}),
    ("comment before the first header", "config", "# a\n\n;b\n[profile p]\nx = 1",
     {P: {"x": "1"}}),
    ("header with CRLF", "config", "[profile p]\r\nx = 1\r\n", {P: {"x": "1"}}),
    ("header and # comment", "config", "[profile p] # c\nx = 1", {P: {"x": "1"}}),
    ("header and ; comment", "config", "[profile p]\t; c\nx = 1", {P: {"x": "1"}}),
    ("header touched by #", "config", "[profile p]#c\nx = 1", {P: {"x": "1"}}),
    ("header touched by ;", "config", "[profile p];c\nx = 1", {P: {"x": "1"}}),
    ("header and a comment with brackets", "config", "[profile p] # [q]\nx = 1",
     {P: {"x": "1"}}),
    ("header and blanks", "config", "[profile p] \t\nx = 1", {P: {"x": "1"}}),
    ("spaces in the brackets", "config", "[  profile   p  ]\nx = 1", {P: {"x": "1"}}),
    ("tabs in the brackets", "config", "[\tprofile\t \tp\t]\nx = 1", {P: {"x": "1"}}),
    ("spaces around default", "config", "[ \tdefault\t ]\nx = 1", {DEFAULT: {"x": "1"}}),
    ("spaces around a credentials name", "credentials", "[ \tp\t ]\nx = 1", {P: {"x": "1"}}),
    ("names keep their case", "config", "[profile Dev]\n[profile dev]\n",
     {("profile", "Dev"): {}, ("profile", "dev"): {}}),
    ("all of the alphabet", "config", "[profile azAZ09_-/.%@:+]\n",
     {("profile", "azAZ09_-/.%@:+"): {}}),
    ("all of the alphabet in credentials", "credentials", "[azAZ09_-/.%@:+]\n",
     {("profile", "azAZ09_-/.%@:+"): {}}),
    ("each kind of section", "config",
     "[default]\na = 1\n[profile x]\nb = 2\n[sso-session x]\nc = 3\n[services x]\nd =\n e = 4\n",
     {DEFAULT: {"a": "1"}, ("profile", "x"): {"b": "2"}, ("sso-session", "x"): {"c": "3"},
      ("services", "x"): {"d": {"e": "4"}}}),
    ("spaces and tabs in the other kinds", "config",
     "[\tsso-session  x ]\na = 1\n[ services\ty\t]\nb = 2\n",
     {("sso-session", "x"): {"a": "1"}, ("services", "y"): {"b": "2"}}),
    ("a session called default", "config", "[sso-session default]\na = 1\n",
     {("sso-session", "default"): {"a": "1"}}),

    ("[default] and [profile default]", "config",
     "[default]\na = 1\nb = 2\n[profile default]\nb = 3\n", {DEFAULT: {"b": "3"}}),
    ("[profile default] and [default]", "config",
     "[profile default]\nb = 3\n[default]\na = 1\nb = 2\n", {DEFAULT: {"b": "3"}}),
    ("[default] on both sides", "config",
     "[default]\na = 1\n[profile default]\nb = 2\n[default]\nb = 3\nc = 4\n",
     {DEFAULT: {"b": "2"}}),
    ("[profile default] on both sides", "config",
     "[profile default]\na = 1\n[default]\nb = 2\n[ profile\tdefault ]\nc = 3\n",
     {DEFAULT: {"a": "1", "c": "3"}}),
    ("[profile default] alone", "config", "[profile default]\na = 1\n", {DEFAULT: {"a": "1"}}),
    ("empty [profile default]", "config", "[default]\na = 1\n[profile default]\n",
     {DEFAULT: {}}),

    ("twice: merged", "config", "[profile p]\na = 1\nb = 2\n[profile p]\nb = 3\nc = 4\n",
     {P: {"a": "1", "b": "3", "c": "4"}}),
    ("twice with another between", "config",
     "[profile p]\na = 1\n[profile q]\na = 2\n[profile p]\nb = 3\n",
     {P: {"a": "1", "b": "3"}, ("profile", "q"): {"a": "2"}}),
    ("twice: spaces make no other name", "config", "[profile p]\na = 1\n[ profile\tp ]\na = 2\n",
     {P: {"a": "2"}}),
    ("[default] twice", "config", "[default]\na = 1\n[default]\nb = 2\n",
     {DEFAULT: {"a": "1", "b": "2"}}),
    ("twice in credentials", "credentials", "[p]\na = 1\nb = 2\n[p]\nb = 3\n",
     {P: {"a": "1", "b": "3"}}),
    ("a session twice", "config", "[sso-session s]\na = 1\n[sso-session s]\nb = 2\n",
     {("sso-session", "s"): {"a": "1", "b": "2"}}),
    ("sub-properties twice", "config", "[services s]\na =\n b = 1\n[services s]\na =\n c = 2\n",
     {("services", "s"): {"a": {"c": "2"}}}),

    ("no prefix in config", "config", "[foo]\na = 1\n[profile p]\n", {P: {}}),
    ("default with a capital in config", "config", "[Default]\na = 1\n[profile p]\n", {P: {}}),
    ("prefix with a capital", "config", "[Profile q]\na = 1\n[profile p]\n", {P: {}}),
    ("prefix without a space", "config", "[profilefoo]\na = 1\n[profile p]\n", {P: {}}),
    ("sso-session without a space", "config", "[sso-sessionfoo]\na = 1\n[profile p]\n", {P: {}}),
    ("prefix alone", "config", "[profile]\na = 1\n[profile ]\nb = 2\n[profile p]\n", {P: {}}),
    ("sso-session alone", "config", "[sso-session]\na = 1\n[services]\nb = 2\n[profile p]\n",
     {P: {}}),
    ("unknown prefix", "config", "[plugins x]\na = 1\n[profile p]\n", {P: {}}),
    ("nothing in the brackets", "config", "[]\na = 1\n[ ]\nb = 2\n[profile p]\n", {P: {}}),
    ("two words for a name", "config", "[profile in valid]\na = 1\n[profile p]\n", {P: {}}),
    ("no-break space after the prefix", "config", f"[profile{NBSP}q]\na = 1\n[profile p]\n",
     {P: {}}),
    ("an unknown section ends the one before", "config", "[profile p]\na = 1\n[foo]\na = 2\n",
     {P: {"a": "1"}}),
    ("anything goes in an unknown section", "config",
     "[foo]\n continued\nno equals sign\n= no name\na =\n no sub-property\n = no name\n"
     "[profile p]\nx = 1\n", {P: {"x": "1"}}),
    ("anything goes under a bad name", "config",
     "[profile a b]\n continued\nno equals sign\n= no name\n[profile p]\nx = 1\n",
     {P: {"x": "1"}}),

    ("prefixes in credentials", "credentials",
     "[profile x]\na = 1\nno equals sign\n[sso-session x]\n continued\n[services x]\n= no name\n"
     "[p]\nb = 2\n", {P: {"b": "2"}}),
    ("[profile default] in credentials", "credentials",
     "[default]\na = 1\n[profile default]\na = 2\n", {DEFAULT: {"a": "1"}}),
    ("names that only start like a prefix", "credentials", "[profilefoo]\na = 1\n",
     {("profile", "profilefoo"): {"a": "1"}}),
    ("nothing in the brackets of credentials", "credentials", "[]\na = 1\n[p]\n", {P: {}}),
    ("sub-properties in credentials", "credentials", "[p]\na =\n b = 1\n", {P: {"a": {"b": "1"}}}),
]


@pytest.mark.parametrize("kind, text, want", cases(SECTIONS))
def test_sections(kind, text, want):
    assert parsed(text, kind) == want


# --- syntax: errors ------------------------------------------------------------------------

# The last column is the number of the broken line.
BROKEN = [
    ("property before any section", f"a = {PLANTED}\n[default]\n", 1),
    ("property after comments alone", f"# c\n\na = {PLANTED}\n", 3),
    ("continuation before any section", f" {PLANTED}\n[default]\n", 1),
    ("indented header at the top", f" [default] # {PLANTED}\n", 1),
    ("continuation after a header", f"[default]\n {PLANTED}\n", 2),
    ("continuation after a header and a blank line", f"[default]\n\n# c\n\t{PLANTED}\n", 4),
    ("continuation after a header given again", f"[default]\na = 1\n[default]\n {PLANTED}\n", 4),
    ("header without a bracket", f"[{PLANTED}\n", 1),
    ("header with its bracket on the next line", f"[{PLANTED}\n]\n", 1),
    ("header without a bracket after an unknown one", f"[a,b]\nx = 1\n[{PLANTED}\n", 3),
    ("text after the bracket", f"[default] {PLANTED}\n", 1),
    ("text touching the bracket", f"[default]{PLANTED}\n", 1),
    ("text and a comment after the bracket", f"[default] {PLANTED} # c\n", 1),
    ("no-break space after the bracket", f"[default]{NBSP}# {PLANTED}\n", 1),
    ("no =", f"[default]\na = 1\n{PLANTED}\n", 3),
    ("no =, CRLF", f"[default]\r\n\r\na = 1\r\n{PLANTED}\r\n", 4),
    ("no =, last line without a newline", f"[default]\na = 1\n\n{PLANTED}", 4),
    ("no =, : instead", f"[default]\naws_secret_access_key: {PLANTED}\n", 2),
    ("no =, after line ends that are none", f"[default]\na = 1\v\f\x85\u2028\n{PLANTED}\n", 3),
    ("no name", f"[default]\n= {PLANTED}\n", 2),
    ("no name, after continuations", f"[default]\na = 1\n 2\n\n 3\n={PLANTED}\n", 6),
    ("no-break space indents nothing", f"[default]\na = 1\n{NBSP}{PLANTED}\n", 3),
    ("VT indents nothing", f"[default]\na = 1\n\v{PLANTED}\n", 3),
    ("a line of one no-break space is not blank", f"[default]\na = {PLANTED}\n{NBSP}\n", 3),
    ("sub-property without =", f"[default]\na =\n {PLANTED}\n", 3),
    ("second sub-property without =", f"[default]\na =\n b = 1\n\n {PLANTED}\n", 5),
    ("sub-property without a name", f"[default]\na =\n = {PLANTED}\n", 3),
]


@pytest.mark.parametrize("kind", ["config", "credentials"])
@pytest.mark.parametrize("text, line", cases(BROKEN))
def test_broken_line(text, line, kind):
    with pytest.raises(CredentialsError) as raised:
        parsed(text, kind)
    assert "THE-FILE" in str(raised.value)
    assert has_number(str(raised.value), line)
    assert PLANTED not in everything_in(raised.value)


@pytest.mark.parametrize("load", LOADERS)
@pytest.mark.parametrize("kind", ["config", "credentials"])
def test_broken_line_in_a_file(environ, tmp_path, kind, load):
    path = tmp_path / "broken"
    path.write_text(f"[default]\nregion = us-east-1\n{keys('X')}{PLANTED}\n", encoding="utf-8")
    with pytest.raises(CredentialsError) as raised:
        load(environ={**environ, FILE_VARIABLES[kind]: str(path)})
    message = str(raised.value)
    assert str(path) in message
    assert has_number(message.replace(str(path), ""), 5)
    assert PLANTED not in everything_in(raised.value)


# --- reading -------------------------------------------------------------------------------

FILE_TEXT = f"[default]\nregion = us-west-2\nnote = \u00e9\n{keys('FILE')}"

READABLE = [
    ("UTF-8", FILE_TEXT.encode()),
    ("UTF-8 with BOM", b"\xef\xbb\xbf" + FILE_TEXT.encode()),
    ("CRLF", FILE_TEXT.replace("\n", "\r\n").encode()),
    ("CRLF with BOM", b"\xef\xbb\xbf" + FILE_TEXT.replace("\n", "\r\n").encode()),
    ("no final newline", FILE_TEXT.rstrip().encode()),
]

UNREADABLE = [
    ("Latin-1", FILE_TEXT.encode("latin-1")),
    ("UTF-16, little-endian", b"\xff\xfe" + FILE_TEXT.encode("utf-16-le")),
    ("UTF-16, big-endian", b"\xfe\xff" + FILE_TEXT.encode("utf-16-be")),
]


@pytest.mark.parametrize("kind", ["config", "credentials"])
@pytest.mark.parametrize("content", cases(READABLE))
def test_file_is_read(environ, tmp_path, content, kind):
    path = tmp_path / "file"
    path.write_bytes(content)
    environ[FILE_VARIABLES[kind]] = str(path)
    assert load_region(environ=environ) == "us-west-2"
    got = load_credentials(environ=environ)
    assert (got.access_key_id, got.secret_access_key) == ("AKIAFILE", "secret-FILE")


@pytest.mark.parametrize("load", LOADERS)
@pytest.mark.parametrize("kind", ["config", "credentials"])
@pytest.mark.parametrize("content", cases(UNREADABLE))
def test_file_in_another_encoding(environ, tmp_path, content, kind, load):
    path = tmp_path / "file"
    path.write_bytes(content)
    with pytest.raises(CredentialsError) as raised:
        load(environ={**environ, FILE_VARIABLES[kind]: str(path)})
    assert str(path) in str(raised.value)
    assert "secret-FILE" not in everything_in(raised.value)


@pytest.mark.parametrize("load", LOADERS)
@pytest.mark.parametrize("kind", ["config", "credentials"])
def test_directory_instead_of_a_file(environ, tmp_path, kind, load):
    with pytest.raises(CredentialsError) as raised:
        load(environ={**environ, FILE_VARIABLES[kind]: str(tmp_path)})
    assert str(tmp_path) in str(raised.value)


# The path of either file below a folder that holds one file, "plain".
MISSING = [
    ("no such file", "none"),
    ("no such folder", "none/none"),
    ("a file where a folder should be", "plain/none"),
    ("an empty file", "plain"),
]


@pytest.mark.parametrize("where", cases(MISSING))
def test_missing_file_is_empty(environ, tmp_path, where):
    (tmp_path / "plain").touch()
    environ.update({variable: str(tmp_path / where) for variable in FILE_VARIABLES.values()})
    with pytest.raises(NoCredentialsError):
        load_credentials(environ=environ)
    with pytest.raises(NoRegionError):
        load_region(environ=environ)


def test_home_that_is_no_folder(environ):
    environ["HOME"] = os.devnull
    with pytest.raises(NoCredentialsError):
        load_credentials(environ=environ)


def test_one_file_is_enough(environ, tmp_path):
    path = tmp_path / "credentials"
    path.write_text("[default]\n" + keys("ALONE"), encoding="utf-8")
    environ["AWS_SHARED_CREDENTIALS_FILE"] = str(path)
    environ["AWS_CONFIG_FILE"] = str(tmp_path / "none")
    assert load_credentials(environ=environ).access_key_id == "AKIAALONE"


# --- where the files are -------------------------------------------------------------------

# The variables, and the key and region of the files that are read.
PLACES = [
    ("neither variable", {}, "AKIAHOME", "us-west-1"),
    ("AWS_CONFIG_FILE", {"AWS_CONFIG_FILE": "{elsewhere}/config"}, "AKIAHOME", "us-west-2"),
    ("AWS_SHARED_CREDENTIALS_FILE", {"AWS_SHARED_CREDENTIALS_FILE": "{elsewhere}/credentials"},
     "AKIAELSEWHERE", "us-west-1"),
    ("both", {"AWS_CONFIG_FILE": "{elsewhere}/config",
              "AWS_SHARED_CREDENTIALS_FILE": "{elsewhere}/credentials"},
     "AKIAELSEWHERE", "us-west-2"),
    ("~ in AWS_CONFIG_FILE", {"AWS_CONFIG_FILE": "~/else where/.aws/config"},
     "AKIAHOME", "us-west-2"),
    ("~ in AWS_SHARED_CREDENTIALS_FILE",
     {"AWS_SHARED_CREDENTIALS_FILE": "~/else where/.aws/credentials"},
     "AKIAELSEWHERE", "us-west-1"),
    ("empty variables", {"AWS_CONFIG_FILE": "", "AWS_SHARED_CREDENTIALS_FILE": ""},
     "AKIAHOME", "us-west-1"),
]


@pytest.mark.parametrize("variables, key, region", cases(PLACES))
def test_file_variables(environ, tmp_path, variables, key, region):
    # Not the home of the process, which "~" must not mean here.
    environ["HOME"] = str(tmp_path / "given home")
    elsewhere = tmp_path / "given home" / "else where"
    write_home(environ, "[default]\nregion = us-west-1\n", "[default]\n" + keys("HOME"))
    write_home({"HOME": elsewhere}, "[default]\nregion = us-west-2\n",
               "[default]\n" + keys("ELSEWHERE"))
    environ.update({name: value.format(elsewhere=elsewhere / ".aws")
                    for name, value in variables.items()})
    assert load_credentials(environ=environ).access_key_id == key
    assert load_region(environ=environ) == region


# --- which profile -------------------------------------------------------------------------

PROFILES = [
    ("none", None, {}, "default"),
    ("argument", "one", {"AWS_PROFILE": "two", "AWS_DEFAULT_PROFILE": "three"}, "one"),
    ("AWS_PROFILE", None, {"AWS_PROFILE": "two", "AWS_DEFAULT_PROFILE": "three"}, "two"),
    ("AWS_DEFAULT_PROFILE", None, {"AWS_DEFAULT_PROFILE": "three"}, "three"),
    ("empty AWS_PROFILE", None, {"AWS_PROFILE": "", "AWS_DEFAULT_PROFILE": "three"}, "three"),
    ("blank AWS_PROFILE", None, {"AWS_PROFILE": " \t", "AWS_DEFAULT_PROFILE": "three"}, "three"),
    ("both empty", None, {"AWS_PROFILE": "", "AWS_DEFAULT_PROFILE": ""}, "default"),
    ("argument default", "default", {"AWS_PROFILE": "two"}, "default"),
]


@pytest.mark.parametrize("profile, variables, want", cases(PROFILES))
def test_profile(environ, profile, variables, want):
    regions = {"default": "us-east-1", "one": "us-east-2", "two": "us-west-1",
               "three": "us-west-2"}
    write_home(environ,
               "".join(f"[profile {name}]\nregion = {regions[name]}\n" for name in regions),
               "".join(f"[{name}]\n{keys(name)}" for name in regions))
    environ.update(variables)
    assert load_credentials(profile, environ=environ).access_key_id == "AKIA" + want
    assert load_region(profile, environ=environ) == regions[want]


@pytest.mark.parametrize("profile, variables", cases([
    ("argument", "nobody", {}),
    ("argument, other profile in the environment", "nobody", {"AWS_PROFILE": "default"}),
    ("argument, keys in the environment", "nobody", ENV_KEYS),
    ("AWS_PROFILE", None, {"AWS_PROFILE": "nobody"}),
]))
def test_missing_profile(environ, profile, variables):
    # None of these makes a profile of that name.
    write_home(environ, "[default]\nregion = us-east-1\n[nobody]\na = 1\n[sso-session nobody]\n"
               "[services nobody]\n", f"[default]\n{keys('X')}[profile nobody]\n{keys('Y')}")
    environ.update(variables)
    with pytest.raises(CredentialsError) as raised:
        load_credentials(profile, environ=environ)
    folder = Path(environ["HOME"], ".aws")
    for words in ["nobody", str(folder / "config"), str(folder / "credentials")]:
        assert words in str(raised.value)
    with pytest.raises(BedrockTokenError, match="nobody"):
        load_region(profile, environ=environ)


@pytest.mark.parametrize("profile, variables", cases([
    ("not named", None, {}),
    ("argument", "default", {}),
    ("AWS_PROFILE", None, {"AWS_PROFILE": "default"}),
]))
def test_default_profile_may_be_missing(environ, profile, variables):
    write_home(environ, "[profile dev]\nregion = us-east-1\n", "[dev]\n" + keys("DEV"))
    environ.update(variables)
    with pytest.raises(NoCredentialsError):
        load_credentials(profile, environ=environ)
    with pytest.raises(NoRegionError):
        load_region(profile, environ=environ)


@pytest.mark.parametrize("body", ["", "output = json\n"], ids=["empty profile", "with a property"])
def test_default_is_not_inherited(environ, body):
    write_home(environ, f"[default]\nregion = us-east-1\n[profile dev]\n{body}",
               "[default]\n" + keys("DEFAULT"))
    with pytest.raises(NoCredentialsError):
        load_credentials("dev", environ=environ)
    with pytest.raises(NoRegionError):
        load_region("dev", environ=environ)


# --- region --------------------------------------------------------------------------------

# The argument, the environment, the region of profile dev, and the one that counts.
REGIONS = [
    ("argument", "us-east-1", {"AWS_REGION": "us-east-2", "AWS_DEFAULT_REGION": "us-west-1"},
     "us-west-2", "us-east-1"),
    ("AWS_REGION", None, {"AWS_REGION": "us-east-2", "AWS_DEFAULT_REGION": "us-west-1"},
     "us-west-2", "us-east-2"),
    ("AWS_DEFAULT_REGION", None, {"AWS_DEFAULT_REGION": "us-west-1"}, "us-west-2", "us-west-1"),
    ("profile", None, {}, "us-west-2", "us-west-2"),
    ("empty AWS_REGION", None, {"AWS_REGION": "", "AWS_DEFAULT_REGION": "us-west-1"},
     "us-west-2", "us-west-1"),
    ("blank AWS_REGION", None, {"AWS_REGION": " \n", "AWS_DEFAULT_REGION": "us-west-1"},
     "us-west-2", "us-west-1"),
    ("both empty", None, {"AWS_REGION": "", "AWS_DEFAULT_REGION": ""}, "us-west-2", "us-west-2"),
    ("argument is stripped", " us-east-1\n", {}, "us-west-2", "us-east-1"),
    ("AWS_REGION is stripped", None, {"AWS_REGION": " us-east-2\r\n"}, "us-west-2", "us-east-2"),
    ("AWS_DEFAULT_REGION is stripped", None, {"AWS_DEFAULT_REGION": "\tus-west-1 "},
     "us-west-2", "us-west-1"),
    ("two digits", None, {"AWS_REGION": "ap-southeast-10"}, "us-west-2", "ap-southeast-10"),
    ("GovCloud", None, {"AWS_REGION": "us-gov-west-1"}, "us-west-2", "us-gov-west-1"),
    ("European sovereign cloud", None, {"AWS_REGION": "eusc-de-east-1"}, "us-west-2",
     "eusc-de-east-1"),
    ("isolated", None, {"AWS_REGION": "us-isob-east-1"}, "us-west-2", "us-isob-east-1"),
]


@pytest.mark.parametrize("argument, variables, in_profile, want", cases(REGIONS))
def test_region(environ, argument, variables, in_profile, want):
    write_home(environ, f"[profile dev]\nregion = {in_profile}\n")
    environ.update(variables)
    token = get_token(CREDENTIALS, argument, profile="dev", environ=environ, now=NOW)
    assert token.region == want
    if argument is None:
        assert load_region("dev", environ=environ) == want


NO_REGIONS = ["nowhere/evil", "us_east_1", "us-east-1.example.com", "us-east-1\n-x",
              "https://us-east-1", "bedrock", "us-east-\u0661"]


@pytest.mark.parametrize("value", NO_REGIONS, ids=ascii)
def test_malformed_region(environ, value):
    with pytest.raises(ValueError):
        get_token(CREDENTIALS, value, environ=environ, now=NOW)
    # A malformed region does not make way for a good one further on.
    write_home(environ, "[profile dev]\nregion = us-east-1\n")
    for variables in [{"AWS_REGION": value, "AWS_DEFAULT_REGION": "us-east-1"},
                      {"AWS_DEFAULT_REGION": value}]:
        with pytest.raises(NoRegionError, match=f"\\b{next(iter(variables))}\\b"):
            load_region("dev", environ={**environ, **variables})
    in_file = value.replace("\n", "\n ")
    write_home(environ, f"[default]\nregion = us-east-1\n[profile dev]\nregion = {in_file}\n")
    with pytest.raises(NoRegionError, match=r"\bdev\b"):
        load_region("dev", environ=environ)


def test_no_region(environ):
    write_home(environ, "[default]\nregion =\n")
    with pytest.raises(NoRegionError, match="AWS_REGION"):
        load_region(environ=environ)
    with pytest.raises(NoRegionError, match="AWS_REGION"):
        get_token(CREDENTIALS, environ=environ, now=NOW)


@pytest.mark.parametrize("given, variables", cases([
    ("credentials in code", CREDENTIALS, {}),
    ("credentials in the environment", None, ENV_KEYS),
    ("credentials in a profile", None, {}),
]))
def test_instance_is_not_asked_for_the_region_of_others(environ, given, variables):
    write_home(environ, credentials="[default]\n" + keys("DEFAULT"))
    with socket.create_server(("127.0.0.1", 0)) as server:
        environ.update(variables, AWS_EC2_METADATA_DISABLED="false",
                       AWS_EC2_METADATA_SERVICE_ENDPOINT="http://127.0.0.1:%d"
                       % server.getsockname()[1])
        with pytest.raises(NoRegionError):
            get_token(given, environ=environ, now=NOW)
        called, _, _ = select.select([server], [], [], 0)
    assert not called


def test_environment_alone_opens_no_file(environ, tmp_path):
    # Reading a folder as a file is an error: see above.
    environ.update(ENV_KEYS, AWS_REGION="us-east-1", AWS_PROFILE="nobody",
                   AWS_CONFIG_FILE=str(tmp_path), AWS_SHARED_CREDENTIALS_FILE=str(tmp_path))
    assert get_token(environ=environ, now=NOW).region == "us-east-1"
    assert load_region(environ=environ) == "us-east-1"
    assert load_credentials(environ=environ).source == "environment"


def test_home_of_another_user_is_not_ours(environ, monkeypatch, tmp_path):
    folder = tmp_path / "~no.such.user"  # there is none: the path stays as it is
    folder.mkdir()
    (folder / "config").write_text("[profile p]\nregion = eu-west-3\n")
    monkeypatch.chdir(tmp_path)
    environ["AWS_CONFIG_FILE"] = "~no.such.user/config"
    assert load_region("p", environ=environ) == "eu-west-3"


def test_region_in_the_credentials_file_wins(environ):
    write_home(environ, "[profile dev]\nregion = us-west-1\n",
               "[dev]\nregion = us-west-2\n" + keys("DEV"))
    assert load_region("dev", environ=environ) == "us-west-2"


# --- where STS is --------------------------------------------------------------------------

FIPS = {"AWS_USE_FIPS_ENDPOINT": "true"}
DUALSTACK = {"AWS_USE_DUALSTACK_ENDPOINT": "true"}
FLAGS = [{}, FIPS, DUALSTACK, {**FIPS, **DUALSTACK}]

# As botocore 1.44.5 resolves them, plain, FIPS, dualstack, both:
#
#     rules = loader.load_service_model("sts", "endpoint-rule-set-1")
#     EndpointProvider(rules, loader.load_data("partitions")).resolve_endpoint(
#         Region=region, UseFIPS=fips, UseDualStack=dualstack, UseGlobalEndpoint=False).url
STS_HOSTS = {
    "us-east-1": [
        "sts.us-east-1.amazonaws.com", "sts-fips.us-east-1.amazonaws.com",
        "sts.us-east-1.api.aws", "sts-fips.us-east-1.api.aws",
    ],
    "us-gov-west-1": [
        "sts.us-gov-west-1.amazonaws.com", "sts.us-gov-west-1.amazonaws.com",
        "sts.us-gov-west-1.api.aws", "sts-fips.us-gov-west-1.api.aws",
    ],
    "cn-north-1": [
        "sts.cn-north-1.amazonaws.com.cn", "sts-fips.cn-north-1.amazonaws.com.cn",
        "sts.cn-north-1.api.amazonwebservices.com.cn",
        "sts-fips.cn-north-1.api.amazonwebservices.com.cn",
    ],
    "us-iso-east-1": [
        "sts.us-iso-east-1.c2s.ic.gov", "sts-fips.us-iso-east-1.c2s.ic.gov",
        "sts.us-iso-east-1.api.aws.ic.gov", "sts-fips.us-iso-east-1.api.aws.ic.gov",
    ],
    "us-isob-east-1": [
        "sts.us-isob-east-1.sc2s.sgov.gov", "sts-fips.us-isob-east-1.sc2s.sgov.gov",
        "sts.us-isob-east-1.api.aws.scloud", "sts-fips.us-isob-east-1.api.aws.scloud",
    ],
    "us-isof-south-1": [
        "sts.us-isof-south-1.csp.hci.ic.gov", "sts-fips.us-isof-south-1.csp.hci.ic.gov",
        "sts.us-isof-south-1.api.aws.hci.ic.gov", "sts-fips.us-isof-south-1.api.aws.hci.ic.gov",
    ],
    "eu-isoe-west-1": [
        "sts.eu-isoe-west-1.cloud.adc-e.uk", "sts-fips.eu-isoe-west-1.cloud.adc-e.uk",
        "sts.eu-isoe-west-1.api.cloud-aws.adc-e.uk",
        "sts-fips.eu-isoe-west-1.api.cloud-aws.adc-e.uk",
    ],
    "eusc-de-east-1": [
        "sts.eusc-de-east-1.amazonaws.eu", "sts-fips.eusc-de-east-1.amazonaws.eu",
        "sts.eusc-de-east-1.api.amazonwebservices.eu",
        "sts-fips.eusc-de-east-1.api.amazonwebservices.eu",
    ],
}
HOSTS = [
    *[(f"{region} {sorted(flags)}", {"AWS_REGION": region, **flags}, host)
      for region, hosts in STS_HOSTS.items() for flags, host in zip(FLAGS, hosts)],
    ("the host of old is not asked",
     {"AWS_REGION": "eu-west-1", "AWS_STS_REGIONAL_ENDPOINTS": "legacy"},
     "sts.eu-west-1.amazonaws.com"),
    ("no region", {}, "sts.amazonaws.com"),
    ("AWS_DEFAULT_REGION", {"AWS_DEFAULT_REGION": "ap-south-1"}, "sts.ap-south-1.amazonaws.com"),
    ("FIPS in capitals", {"AWS_REGION": "us-east-1", "AWS_USE_FIPS_ENDPOINT": "TRUE"},
     "sts-fips.us-east-1.amazonaws.com"),
    ("FIPS off", {"AWS_REGION": "us-east-1", "AWS_USE_FIPS_ENDPOINT": "false"},
     "sts.us-east-1.amazonaws.com"),
]


def host_asked(environ, pem):
    """Which host the credentials of profile p are asked from. It has no certificate, mostly."""
    with Fake(faults=[Forever(tunnel(pem))]) as proxy:
        with pytest.raises(CredentialsError):
            load_credentials("p", environ={**environ, "HTTPS_PROXY": proxy.url,
                                           "AWS_CA_BUNDLE": pem})
    assert proxy.requests[0].method == "CONNECT"
    return proxy.requests[0].path


@pytest.mark.parametrize("variables, want", cases(HOSTS))
def test_host(environ, base_role, pem, variables, want):
    assert host_asked({**environ, **variables}, pem) == want + ":443"


@pytest.mark.parametrize("line, want", [
    ("region = eu-west-1", "sts.eu-west-1.amazonaws.com"),
    ("use_fips_endpoint = true", "sts-fips.us-east-1.amazonaws.com"),
    ("use_dualstack_endpoint = true", "sts.us-east-1.api.aws"),
    ("sts_regional_endpoints = legacy", "sts.us-east-1.amazonaws.com"),
])
def test_host_by_the_profile(environ, pem, line, want):
    write_home(environ, role("p", "P", "credential_source = Environment", "region = us-east-1",
                             line))
    environ.update(ENV_BASE)
    assert host_asked(environ, pem) == want + ":443"


def test_host_without_a_proxy(environ, base_role, nobody_answers):
    with pytest.raises(CredentialsError, match="sts.us-west-2.amazonaws.com"):
        load_credentials("p", environ={**environ, "AWS_REGION": "us-west-2"})
    assert set(nobody_answers) == {("sts.us-west-2.amazonaws.com", 443)}


def test_malformed_region_for_sts(environ, sts, base_role):
    with pytest.raises(NoRegionError, match="AWS_REGION"):
        load_credentials("p", environ={**environ, "AWS_REGION": "evil.example.com/"})
    assert sts.requests == []


# --- endpoint URLs -------------------------------------------------------------------------

# Each place of an endpoint URL: variables, lines of the profile; its host. First hit wins.
ENDPOINT_PLACES = [
    ("service.test", {"AWS_ENDPOINT_URL_STS": "http://service.test"}, ""),
    ("global.test", {"AWS_ENDPOINT_URL": "http://global.test/"}, ""),
    ("section.test", {}, "services = local"),
    ("profile.test", {}, "endpoint_url = http://profile.test"),
]
SERVICES = "[services local]\nsso =\n endpoint_url = http://sso.test\n" \
    "sts =\n endpoint_url = http://section.test\n"


def endpoint_asked(environ):
    with Fake(faults=[answer(403)]) as proxy:
        with pytest.raises(CredentialsError):
            load_credentials("p", environ={**environ, "HTTP_PROXY": proxy.url})
    [request] = proxy.requests
    return request.path


@pytest.mark.parametrize("first", range(len(ENDPOINT_PLACES)))
def test_endpoint_url_places(environ, first):
    hosts, variables, lines = zip(*ENDPOINT_PLACES[first:])
    write_home(environ, SERVICES + role("p", "P", "credential_source = Environment", *lines))
    for each in ({"AWS_ENDPOINT_URL_SSO": "http://sso.test"}, ENV_BASE, *variables):
        environ.update(each)
    assert endpoint_asked(environ) == f"http://{hosts[0]}/"


@pytest.mark.parametrize("services", [
    "sts =\n endpoint_url =\n", "sso =\n endpoint_url = http://sso.test\n", "sts = x\n",
    "sts =\n region = x\n", "",
], ids=repr)
def test_services_section_without_a_url(environ, services):
    write_home(environ, "[services local]\n" + services + role(
        "p", "P", "credential_source = Environment", "services = local",
        "endpoint_url = http://profile.test"))
    assert endpoint_asked({**environ, **ENV_BASE}) == "http://profile.test/"


def test_services_section_that_is_missing(environ):
    write_home(environ, role("p", "P", "credential_source = Environment", "services = nobody"))
    with pytest.raises(CredentialsError, match="nobody"):
        load_credentials("p", environ={**environ, **ENV_BASE})


@pytest.mark.parametrize("variables, line", [
    ({"AWS_IGNORE_CONFIGURED_ENDPOINT_URLS": "true"}, ""),
    ({"AWS_IGNORE_CONFIGURED_ENDPOINT_URLS": "True"}, ""),
    ({}, "ignore_configured_endpoint_urls = true"),
])
def test_ignored_endpoint_urls(environ, pem, variables, line):
    _, in_environment, lines = zip(*ENDPOINT_PLACES)
    write_home(environ, SERVICES + role("p", "P", "credential_source = Environment", line, *lines))
    for each in (ENV_BASE, variables, *in_environment):
        environ.update(each)
    assert host_asked(environ, pem) == "sts.amazonaws.com:443"


@pytest.mark.parametrize("url", [
    "127.0.0.1:80", "ftp://service.test", "http://", "http://user:planted@service.test",
    "http://service.test/#x", "http://service.test\\@other.test",
    "http://service.test:99999", "http://service.test:x", "http://service .test",
    "file:///etc/passwd",
])
def test_malformed_endpoint_url(environ, base_role, url):
    with pytest.raises(CredentialsError, match="endpoint") as raised:
        load_credentials("p", environ={**environ, "AWS_ENDPOINT_URL_STS": url})
    assert "planted" not in everything_in(raised.value)


@pytest.mark.parametrize("url", ["http://service.test:8080/", "HTTP://service.test:8080"])
def test_endpoint_url_with_a_port(environ, base_role, url):
    environ["AWS_ENDPOINT_URL_STS"] = url
    assert endpoint_asked(environ).lower() == "http://service.test:8080/"


def test_endpoint_url_with_https_in_capitals(environ, base_role, pem):
    environ["AWS_ENDPOINT_URL_STS"] = "HTTPS://service.test"
    assert host_asked(environ, pem) == "service.test:443"
