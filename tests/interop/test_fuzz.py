"""Random and damaged input: signatures are botocore's, and errors are ours."""

import io
import json
import shlex
import string
from base64 import b64encode
from datetime import datetime, timedelta, timezone
from urllib.parse import quote

import hypothesis
from hypothesis import strategies as st

import bedrock_token as bt
from tests import fake_aws
from tests.helpers import NOON, SECRET, Pieces
from tests.interop.reference import (
    aws_token,
    botocore_authorized,
    botocore_presigned,
    sha256,
)

# ---- the signer

PLAIN = "".join(map(chr, range(33, 127)))
KEY_IDS = st.from_regex("[A-Za-z0-9][A-Za-z0-9_]{0,39}", fullmatch=True)
SECRETS = st.text(PLAIN, min_size=1, max_size=40)
CREDENTIALS = st.builds(
    bt.Credentials, KEY_IDS, SECRETS, st.none() | st.text(PLAIN, min_size=1, max_size=300))
MOMENTS = st.datetimes(
    datetime(1970, 1, 1), datetime(2100, 1, 1), timezones=st.just(timezone.utc))
REGIONS = st.from_regex(r"[a-z]{2,4}(-[a-z]{1,7}){1,3}-[0-9]{1,2}", fullmatch=True)
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
HOSTS = st.from_regex(r"[a-z0-9]{1,9}(\.[a-z0-9-]{1,9}){0,3}(:[0-9]{2,5})?", fullmatch=True)
# Characters that stand in a URL as they are, or could be taken to.
PATHS = st.lists(
    st.text("abz019-_.~!$&'()*+,;=:@%[]{}|^`\"<> \\\u00e9\u4e16\U0001f600", max_size=6)
    | st.sampled_from(["", ".", "..", "...", "%2E%2e", "%2F", "arn%3Aaws%3Ax%2Fy", "a b", "a%20b"]),
    max_size=8,
).map(lambda segments: "/" + "/".join(segments))
NAMES = TEXT.filter(lambda name: not name.lower().startswith("x-amz-"))
QUERIES = st.dictionaries(NAMES, st.lists(TEXT, min_size=1, max_size=3), max_size=5).map(
    lambda query: [(name, value) for name, values in query.items() for value in values])
# Beside those that botocore does not sign, sets itself, or drops.
HEADER_NAMES = st.text(string.ascii_letters + string.digits + "-_", min_size=1, max_size=12).filter(
    lambda name: name.lower() not in {"host", "date", "expect", "authorization", "user-agent"})
HEADERS = st.lists(
    st.tuples(HEADER_NAMES, st.text(st.characters(
        codec="latin-1", exclude_categories=["Cc"]), max_size=20)), max_size=5)
METHODS = st.sampled_from(["GET", "POST", "PUT", "DELETE", "HEAD", "PATCH"])
REQUESTS = st.tuples(METHODS, HOSTS, PATHS, QUERIES)
SERVICES = st.from_regex("[a-z][a-z0-9-]{0,12}", fullmatch=True).filter(lambda name: name != "s3")
SCOPES = st.fixed_dictionaries({
    "service": SERVICES, "region": REGIONS, "credentials": CREDENTIALS, "now": MOMENTS})


@hypothesis.given(CREDENTIALS, REGIONS, st.integers(1, 43200), MOMENTS)
def test_a_token_is_that_of_the_generator(credentials, region, seconds, now):
    token = bt.get_token(credentials, region, seconds, now=now)
    assert str(token) == aws_token(credentials, region, seconds, now)
    said = bt.decode_token(token)
    assert said["access_key_id"] == credentials.access_key_id
    assert said["temporary"] == (credentials.session_token is not None)
    assert (said["region"], said["expires_in"]) == (region, seconds)
    assert said["issued_at"] == now.replace(microsecond=0)
    assert said["expires_at"] == token.expiration


@hypothesis.given(REQUESTS, HEADERS, st.none() | st.binary(max_size=20), SCOPES,
                  st.integers(1, 604800))
def test_presign_is_that_of_botocore(request, headers, body, scope, seconds):
    if body:
        headers = [*headers, ("X-Amz-Content-SHA256", sha256(body))]
    url = bt.presign(*request, headers=headers, body=body, expires_in=seconds, **scope)
    assert url == botocore_presigned(
        *request, headers, body and b"", expires_in=seconds, **scope)


@hypothesis.given(METHODS, HOSTS, PATHS, st.lists(st.tuples(TEXT, TEXT), max_size=6), HEADERS,
                  st.binary(max_size=20), SCOPES)
def test_the_authorization_header_is_that_of_botocore(
    method, host, path, query, headers, body, scope
):
    # botocore makes a form of a dict alone; a body of bytes it hashes as it is.
    uri = bt._canonical_uri(path)
    added = bt._authorization(
        bt._Signer(**scope), method, host, uri, query, headers, sha256(body))
    assert dict(added) == botocore_authorized(method, host, path, query, headers, body, **scope)


# ---- the parser of config files

# What may stand in any order, below a section.
GOOD = st.sampled_from([
    "[default]", "[profile dev]", "[ profile\tdev ]", "[sso-session corp]", "[services s]", "[dev]",
    "[profile default] # c", "[dev];c", "[]", "[profile ]", "[profile a b]", "[profile \u00e9]",
    "a = b", "A=c", "aws_access_key_id = AKIA", "region=us-east-1 # home", "a = b = c", "a=b#c",
    "a=b ;c", "empty =", "s3 =\n  max = 20\n  k =\n  \u00e9 = v", "s3 = 1\n\tmore\n\n   # dropped",
    "[sso-session 'My Corp']", "[profile \"d e\"]", "[profile a,b]", "  indented = 1\n  too = 2",
    "# comment", "; comment", "   # comment", "", "   ", "name with blank = x\n  y", "\u00e9 = \u4e16",
    "a = \x00\x0b\x85\u2028b", "a = [b]",
])
BAD = st.sampled_from([
    "[", "[default", "= value", "no equals", "  a = b", "\tmore", "\r",
    "\ufeff[default]", "s3 =\n  = v", "s3 =\n  v", "[default]]", "[a] b",
])
CONFIGS = st.one_of(
    st.lists(GOOD, max_size=15).map(lambda lines: "\n".join(["[default]", *lines])),
    st.lists(GOOD, max_size=15).map(lambda lines: "\r\n".join(["[profile dev]", *lines])),
    st.lists(GOOD | BAD | st.text(max_size=10), max_size=15).map("\n".join),
    st.text(st.sampled_from("[]=#; \t\r\nab"), max_size=60),
    st.text(max_size=200),
)
KINDS = st.sampled_from(["config", "credentials"])


def printed(sections, kind):
    """The lines of a file that holds what a parse found."""
    for (section_type, name), properties in sections.items():
        if kind == "config" and (set(" \t").intersection(name) or name[0] in "'\""):
            name = shlex.quote(name)
        yield f"[{name}]" if kind == "credentials" else f"[{section_type} {name}]"
        for key, value in properties.items():
            if isinstance(value, str):
                yield key + " = " + value.replace("\n", "\n  ")
            else:
                yield key + " ="
                yield "  a name with blanks = makes it a group, and is dropped"
                yield from (f"  {sub_key} = {sub_value}" for sub_key, sub_value in value.items())


@hypothesis.given(CONFIGS, KINDS)
@hypothesis.settings(max_examples=1500)
def test_a_config_file_is_read_or_refused(text, kind):
    try:
        sections = bt._parse_config(text, "the file", kind)
    except bt.CredentialsError as error:
        assert "the file" in str(error)
        return
    for (section_type, name), properties in sections.items():
        assert section_type in ("profile", "sso-session", "services") and name
        for key, value in properties.items():
            assert key == key.lower().strip() != ""
            assert isinstance(value, (str, dict))
    again = "\n".join(printed(sections, kind))
    assert bt._parse_config(again, "the file", kind) == sections


@hypothesis.given(st.lists(GOOD, min_size=100, max_size=100), KINDS)
@hypothesis.settings(max_examples=10)
def test_a_long_config_file_takes_no_longer(lines, kind):
    """Half a megabyte; what is in it repeats, so that it adds up in few sections."""
    bt._parse_config("[default]\n" + "\n".join(lines * 500), "the file", kind)


# ---- tokens

TOKEN = str(bt.get_token(bt.Credentials("ASIAQNZGKIQY56JQ7WML", SECRET, "se/ss=ion"),
                         "us-east-1", now=NOON))
PREFIX, _, PAYLOAD = TOKEN.rpartition("-")
LONG_TERM = "ABSK" + b64encode(b"BedrockAPIKey-ab12+1-at-123456789012:c2VjcmV0").decode()


def field(good, *bad):
    return st.sampled_from([good] * 12 + [*bad, "", "\u00e9"])


FIELDS = st.fixed_dictionaries({
    "Action": field("CallWithBearerToken"),
    "X-Amz-Credential": field(
        "AKIA/20240615/us-east-1/bedrock/aws4_request", "AKIA/20240615/us-east-1/bedrock",
        "AKIA/20240615/us-east-1/bedrock/aws4_request/x", "//bedrock/", "AKIA/1/a/b/c"),
    "X-Amz-Date": field(
        "20240615T120000Z", "20240615", "99999999T999999Z", "00010101T000000Z", "99991231T235959Z",
        "20240615T120000+0000", "2024-06-15T12:00:00Z", " 20240615T120000Z", "20240615T120060Z"),
    "X-Amz-Expires": field("43200", "0", "-1", "43201", "1e3", "\u0661", "1_0", " 1", "9" * 5000),
    "X-Amz-Signature": field("0" * 64),
    "Version": field("1"),
}, optional={"X-Amz-Security-Token": TEXT, "X-Amz-SignedHeaders": TEXT, "a": TEXT})
URLS = st.builds(
    lambda start, fields, sign: start + sign.join(
        f"{name}={quote(value)}" for name, value in fields.items()),
    st.sampled_from(["bedrock.amazonaws.com/?"] * 6 + ["bedrock.amazonaws.com?", "?", "x/?"]),
    FIELDS, st.sampled_from(["&"] * 6 + ["&&", ";", "&a&", "&%&"]))
TOKENS = st.one_of(
    st.text(max_size=50),
    st.text(max_size=50).map(lambda text: PREFIX + "-" + text),
    st.text(string.ascii_letters + string.digits + "+/=", max_size=60).map(
        lambda text: f"{PREFIX}-{text}"),
    URLS.map(lambda url: f"{PREFIX}-{b64encode(url.encode()).decode()}"),
    URLS.map(lambda url: f"{PREFIX}-{b64encode(url.encode()).decode()}"),
    st.binary(max_size=60).map(lambda data: "ABSK" + b64encode(data).decode()),
    st.builds(lambda token, at, text, gone: token[:at] + text + token[at + gone:],
              st.sampled_from([TOKEN, LONG_TERM]), st.integers(0, len(TOKEN)),
              st.text(max_size=3), st.integers(0, 5)),
)


@hypothesis.given(TOKENS)
@hypothesis.settings(max_examples=1500)
def test_a_token_is_decoded_or_refused(token):
    try:
        said = bt.decode_token(token)
    except ValueError:
        return
    assert said["kind"] in ("short-term", "long-term")
    if said["kind"] == "short-term":
        assert said["expires_at"] - said["issued_at"] == timedelta(seconds=said["expires_in"])
    assert "secret" not in json.dumps(said, default=str).lower()


# ---- event streams

FRAMES = [fake_aws.event(*each) for each in fake_aws.EVENTS]
STREAM = b"".join(FRAMES)
EVENTS = [{kind: payload} for kind, payload in fake_aws.EVENTS]
HEADER_VALUES = st.text(max_size=8) | st.sampled_from([
    b"\x00", b"\x01", b"\x02\xff", b"\x03\xff\xff", b"\x04\xff\xff\xff\xff", b"\x05" + b"\xff" * 8,
    b"\x06\xff\xff", b"\x06\x00\x01a", b"\x07\x00\x01\xff", b"\x08" + b"\x00" * 8,
    b"\x09" + b"\x00" * 16, b"\x09", b"\x0a"])
HEADER_BLOCKS = st.lists(st.tuples(
    st.sampled_from([":message-type", ":event-type", ":exception-type", ":error-code", "a", ""]),
    HEADER_VALUES | st.sampled_from(["event", "exception", "error"])), max_size=5)
PAYLOADS = st.binary(max_size=20) | st.sampled_from(
    [b"{}", b'{"message": "m"}', b'{"message": 1}', b"[]", b"null", b'{"a": NaN}', b"[" * 5000])
MADE_FRAMES = st.builds(fake_aws.frame, HEADER_BLOCKS, PAYLOADS)


def pieces(data, borders):
    borders = sorted(border % (len(data) + 1) for border in borders)
    return [data[start:end] for start, end in zip([0, *borders], [*borders, len(data)])]


BORDERS = st.lists(st.integers(0, 2000), max_size=20)


def read(chunks):
    """The events up to the end or to the error, and whether it was the end."""
    events = []
    try:
        for frame in bt._decode_frames(io.BufferedReader(Pieces(chunks))):
            events.append(bt._event_of_frame(frame))
    except (bt.BedrockTokenError, ValueError):
        return events, False
    return events, True


@hypothesis.given(st.binary(max_size=300) | st.lists(
    MADE_FRAMES | st.sampled_from(FRAMES), max_size=6).map(b"".join), BORDERS)
@hypothesis.settings(max_examples=800)
def test_an_event_stream_is_read_or_refused(data, borders):
    whole = read([data])
    assert read(pieces(data, borders)) == whole
    for event in whole[0]:
        (kind, payload), = event.items()
        assert isinstance(kind, str) and isinstance(payload, dict)


@hypothesis.given(BORDERS)
def test_an_event_stream_in_any_pieces(borders):
    assert read(pieces(STREAM, borders)) == (EVENTS, True)


@hypothesis.given(st.integers(0, len(STREAM) - 1), st.integers(1, 255), BORDERS)
@hypothesis.settings(max_examples=800)
def test_a_changed_byte_is_noticed(at, change, borders):
    damaged = bytearray(STREAM)
    damaged[at] ^= change
    events, complete = read(pieces(bytes(damaged), borders))
    assert not complete
    assert events == EVENTS[:len(events)]


@hypothesis.given(st.integers(0, len(STREAM) - 1), BORDERS)
def test_a_cut_is_noticed(length, borders):
    events, complete = read(pieces(STREAM[:length], borders))
    ends = [sum(map(len, FRAMES[:count])) for count in range(len(FRAMES))]
    assert complete == (length in ends)  # the missing rest is for the caller to notice
    assert events == EVENTS[:sum(end <= length for end in ends) - 1]
