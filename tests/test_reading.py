"""What a token says: decode_token. What goes into a presigned URL: presign."""

from base64 import b64decode, b64encode
from datetime import datetime, timedelta, timezone

import pytest

import bedrock_token as bt
from tests.helpers import (
    NOON, PREFIX, SECRET, SESSION, STATIC_TOKEN, TEMPORARY_TOKEN, VECTOR_SECRET, cases, token_of,
)


# --- decode_token --------------------------------------------------------------------------

TWELVE_HOURS = timedelta(hours=12)


def pairs_of(token):
    """Host and parameters of a token: what the rows below are made of."""
    host, _, query = b64decode(token[len(PREFIX):]).decode().partition("?")
    return host, query.split("&")


def rewritten(token, **changes):
    """The token with parameters replaced or, by None, left out; "_" stands for "-"."""
    host, pairs = pairs_of(token)
    for name, value in changes.items():
        name = name.replace("_", "-")
        place = [pair.partition("=")[0] for pair in pairs].index(name)
        pairs[place:place + 1] = [] if value is None else [f"{name}={value}"]
    return token_of(host + "?" + "&".join(pairs))


def signed_by(access_key_id, scope="20240615%2Fus-east-1%2Fbedrock%2Faws4_request"):
    return rewritten(STATIC_TOKEN, X_Amz_Credential=f"{access_key_id}%2F{scope}")


def as_javascript(token):
    host, pairs = pairs_of(token)
    return token_of(host + "?" + "&".join(sorted(pairs)))


LONG_TERM_SECRET = "zm1y0ursWUJvVeXAMPLEsecret="


def long_term(text):
    return "ABSK" + b64encode(text.encode()).decode()


STATIC_SAYS = {
    "kind": "short-term",
    "access_key_id": "AKIAIOSFODNN7EXAMPLE",
    "region": "us-east-1",
    "service": "bedrock",
    "issued_at": NOON,
    "expires_at": NOON + TWELVE_HOURS,
    "expires_in": 43200,
    "temporary": False,
}
TEMPORARY_SAYS = {
    "kind": "short-term",
    "access_key_id": "ASIAIOSFODNN7EXAMPLE",
    "region": "us-west-2",
    "service": "bedrock",
    "issued_at": NOON,
    "expires_at": NOON + timedelta(hours=1),
    "expires_in": 3600,
    "temporary": True,
}

# Accounts: n = int.from_bytes(base64.b32decode(key_id[4:])[:6], "big"); (n & 0x7fffffffff80) >> 7
DECODED = [
    ("static keys", STATIC_TOKEN, STATIC_SAYS),
    ("temporary keys", TEMPORARY_TOKEN, TEMPORARY_SAYS),
    ("in the order of AWS's JavaScript", as_javascript(TEMPORARY_TOKEN), TEMPORARY_SAYS),
    (
        "account in the key id",  # the published example of the encoding
        signed_by("ASIAQNZGKIQY56JQ7WML"),
        {**STATIC_SAYS, "access_key_id": "ASIAQNZGKIQY56JQ7WML", "account_id": "029608264753"},
    ),
    (
        "account in a key id with a digit in fifth place",
        signed_by("ASIA2NZGKIQY56JQ7WML"),
        {**STATIC_SAYS, "access_key_id": "ASIA2NZGKIQY56JQ7WML", "account_id": "716803032113"},
    ),
    (
        "account of thirteen digits",  # there are none: the key id says something else
        signed_by("ASIA7NZGKIQY56JQ7WML"),
        {**STATIC_SAYS, "access_key_id": "ASIA7NZGKIQY56JQ7WML"},
    ),
    (
        "first account of thirteen digits",
        signed_by("ASIA6RVFFCAAAAAAAAAA"),
        {**STATIC_SAYS, "access_key_id": "ASIA6RVFFCAAAAAAAAAA"},
    ),
    (
        "last account of twelve digits",
        signed_by("ASIA6RVFFB77QAAAAAAA"),
        {**STATIC_SAYS, "access_key_id": "ASIA6RVFFB77QAAAAAAA", "account_id": "999999999999"},
    ),
    (
        "key id too short for an account",
        signed_by("ASIAQNZGKIQY56JQ"),
        {**STATIC_SAYS, "access_key_id": "ASIAQNZGKIQY56JQ"},
    ),
    (
        "key id too long for an account",
        signed_by("ASIAQNZGKIQY56JQ7WMLQQQQQQQQ"),
        {**STATIC_SAYS, "access_key_id": "ASIAQNZGKIQY56JQ7WMLQQQQQQQQ"},
    ),
    (
        "key id that is not base32",
        signed_by("ASIAQ189KIQY56JQ7WML"),
        {**STATIC_SAYS, "access_key_id": "ASIAQ189KIQY56JQ7WML"},
    ),
    (
        "long-term",
        long_term(f"BedrockAPIKey-abcd-at-123456789012:{LONG_TERM_SECRET}"),
        {
            "kind": "long-term",
            "service": "bedrock",
            "user_name": "BedrockAPIKey-abcd",
            "account_id": "123456789012",
        },
    ),
    (
        "long-term, second key of the user",
        long_term(f"BedrockAPIKey-abcd+1-at-012345678901:{LONG_TERM_SECRET}:x"),
        {
            "kind": "long-term",
            "service": "bedrock",
            "user_name": "BedrockAPIKey-abcd",
            "account_id": "012345678901",
        },
    ),
    (
        "long-term, -at- within the name",
        long_term(f"BedrockAPIKey-me-at-home-at-123456789012:{LONG_TERM_SECRET}"),
        {
            "kind": "long-term",
            "service": "bedrock",
            "user_name": "BedrockAPIKey-me-at-home",
            "account_id": "123456789012",
        },
    ),
]


@pytest.mark.parametrize("token, want", cases(DECODED))
def test_decode_token(token, want):
    got = bt.decode_token(token)
    assert got == want
    for moment in (got[name] for name in ("issued_at", "expires_at") if name in got):
        assert moment.utcoffset() == timedelta(0)


@pytest.mark.parametrize("token", cases([(name, token) for name, token, _ in DECODED]))
def test_decode_token_returns_no_secret(token):
    said = str(bt.decode_token(token))
    signature = pairs_of(TEMPORARY_TOKEN)[1][-2].partition("=")[2]
    for secret in (signature, SESSION.rstrip("="), LONG_TERM_SECRET.rstrip("=")):
        assert secret not in said


def test_decode_token_reads_a_token_of_ours():
    credentials = bt.Credentials("ASIAQNZGKIQY56JQ7WML", SECRET, "aZ09+/=%~-" * 100)
    token = bt.get_token(credentials, "ap-southeast-2", 900, now=NOON)
    assert bt.decode_token(token) == {
        "kind": "short-term",
        "access_key_id": "ASIAQNZGKIQY56JQ7WML",
        "account_id": "029608264753",
        "region": "ap-southeast-2",
        "service": "bedrock",
        "issued_at": NOON,
        "expires_at": NOON + timedelta(minutes=15),
        "expires_in": 900,
        "temporary": True,
    }


LONG_SESSION_TOKEN = rewritten(TEMPORARY_TOKEN, X_Amz_Security_Token="A" * 1000)

REFUSAL = "API key|token"  # no error of base64 or strptime comes out as it is

DAMAGED = [
    ("empty", "", "must start with"),
    ("prefix alone", PREFIX, REFUSAL),
    ("wrong prefix", "sk-" + STATIC_TOKEN, "must start with"),
    ("prefix in capitals", PREFIX.upper() + STATIC_TOKEN[len(PREFIX):], "must start with"),
    ("not base64", PREFIX + "*" * 400, "damaged"),
    ("not ASCII", STATIC_TOKEN + "\u00e9", "damaged"),
    ("base64 of other text", token_of("hello"), REFUSAL),
    ("base64 of other bytes", PREFIX + "/////w==", REFUSAL),
    ("another host", token_of("sts." + b64decode(STATIC_TOKEN[len(PREFIX):]).decode()), REFUSAL),
    ("another action", rewritten(STATIC_TOKEN, Action="GetCallerIdentity"), REFUSAL),
    ("cut off at 1,024 characters", LONG_SESSION_TOKEN[:1024], "cut off"),
    ("last character cut off", STATIC_TOKEN[:-1], "cut off"),
    ("last four characters cut off", STATIC_TOKEN[:-4], REFUSAL),
    ("blank before it", " " + STATIC_TOKEN, REFUSAL),
    ("line end after it", STATIC_TOKEN + "\n", REFUSAL),
    ("blanks inside", STATIC_TOKEN[:100] + "\n" + STATIC_TOKEN[100:], REFUSAL),
    ("quotes around it", f'"{STATIC_TOKEN}"', REFUSAL),
    ("quote after it", STATIC_TOKEN + '"', REFUSAL),
    *((f"no {name}", rewritten(STATIC_TOKEN, **{name: None}), "damaged")
      for name in ("X_Amz_Credential", "X_Amz_Date", "X_Amz_Expires", "X_Amz_Signature",
                   "Version")),
    ("parameter twice", rewritten(STATIC_TOKEN, Version="1&X-Amz-Expires=1"), "damaged"),
    ("no such day", rewritten(STATIC_TOKEN, X_Amz_Date="20240631T120000Z"), "damaged"),
    ("half a date", rewritten(STATIC_TOKEN, X_Amz_Date="20240615"), "damaged"),
    ("date without seconds", rewritten(STATIC_TOKEN, X_Amz_Date="20240615T1200Z"), "damaged"),
    ("date of another day", rewritten(STATIC_TOKEN, X_Amz_Date="20240616T120000Z"), "damaged"),
    ("lifetime in words", rewritten(STATIC_TOKEN, X_Amz_Expires="12h"), "damaged"),
    ("lifetime with a mark", rewritten(STATIC_TOKEN, X_Amz_Expires="43_200"), "damaged"),
    ("lifetime of nothing", rewritten(STATIC_TOKEN, X_Amz_Expires="0"), "damaged"),
    ("negative lifetime", rewritten(STATIC_TOKEN, X_Amz_Expires="-1"), "damaged"),
    ("lifetime too long", rewritten(STATIC_TOKEN, X_Amz_Expires="43201"), "damaged"),
    ("scope of four parts", signed_by("AKIA", "20240615%2Fus-east-1%2Fbedrock"), "damaged"),
    ("scope of aws5", signed_by("AKIA", "20240615%2Fus-east-1%2Fbedrock%2Faws5"), "damaged"),
    ("long-term prefix alone", "ABSK", REFUSAL),
    ("long-term, not base64", "ABSK" + "*" * 40, "damaged"),
    ("long-term, other text", long_term("hello"), REFUSAL),
    ("long-term, no secret", long_term("BedrockAPIKey-abcd-at-123456789012"), REFUSAL),
    ("long-term, cut off", long_term("BedrockAPIKey-abcd-at-12345678"), REFUSAL),
    ("long-term, no account", long_term(f"BedrockAPIKey-abcd:{LONG_TERM_SECRET}"), REFUSAL),
    ("long-term, short account", long_term(f"BedrockAPIKey-a-at-123:{LONG_TERM_SECRET}"), REFUSAL),
    ("long-term, other user", long_term(f"root-at-123456789012:{LONG_TERM_SECRET}"), REFUSAL),
]


@pytest.mark.parametrize("token, says", cases(DAMAGED))
def test_decode_token_refuses(token, says):
    with pytest.raises(ValueError, match=says) as raised:
        bt.decode_token(token)
    message = str(raised.value)
    payload = STATIC_TOKEN[len(PREFIX):]
    for secret in (payload[:20], payload[-20:], LONG_TERM_SECRET):
        assert secret not in message


@pytest.mark.parametrize("token", [None, 1, STATIC_TOKEN.encode(), [STATIC_TOKEN]], ids=type)
def test_decode_token_of_another_type(token):
    with pytest.raises((TypeError, ValueError)) as raised:
        bt.decode_token(token)
    assert STATIC_TOKEN[-20:] not in str(raised.value)


# --- presign -------------------------------------------------------------------------------

KEYS = bt.Credentials("AKIDEXAMPLE", VECTOR_SECRET)


def presign(method="GET", host="example.amazonaws.com", path="/", query=(), **given):
    args = {"service": "service", "region": "us-east-1", "credentials": KEYS, "now": NOON}
    return bt.presign(method, host, path, query, **{**args, **given})


# Every expected URL and signature below was made by botocore 1.44.5:
#
#     botocore.auth.get_current_datetime = lambda: datetime(2024, 6, 15, 12)
#     keys = botocore.credentials.Credentials("AKIDEXAMPLE", VECTOR_SECRET, session_token)
#     request = AWSRequest(method=method, url=url, params=params)     # {name: value or [values]}
#     for name, value in headers:
#         request.headers.add_header(name, value)
#     SigV4QueryAuth(keys, "service", "us-east-1", expires=900).add_auth(request)   # request.url
#
# with S3SigV4QueryAuth for S3, and request.context["payload_signing_enabled"] = False first
# for an unsigned body.

QUERIES = [
    ("no query", [], "", "9cfaf44def9d9de850ca03217d772b7b0803edbaeb2de1cde70790be96eb6365"),
    (
        "empty value",
        [("a", "")],
        "a=&",
        "5a73a358cbfdfefb611083bfc382b57a7841a003bbbaf2eedbfcaf0d15e2c6fc",
    ),
    (
        "empty name",
        [("", "a")],
        "=a&",
        "ea6632646f2d3132a5a855aaf8e1e069c64dd293cfc88b03b12356e4e7164484",
    ),
    (
        "plus",
        [("a", "1+1")],
        "a=1%2B1&",
        "8fe3b73dd8fb17c534a6010b6702454e4a26b1a736229c6a5842dff19cf51589",
    ),
    (
        "escape kept as text",
        [("a", "1%2B1")],
        "a=1%252B1&",
        "a52b4ea594bb79662dabcc45e48ff61fa5aeb0bc6f7d98e68259b6b7c6a6fc99",
    ),
    (
        "percent",
        [("a", "100%")],
        "a=100%25&",
        "73547049f576e64f6d0f9e316dc80521e86a5c91ff7fb2bcfbdee153686e835e",
    ),
    (
        "slash and colon",
        [("a/b", "c/d:e")],
        "a%2Fb=c%2Fd%3Ae&",
        "b4853eaa8dfcc1ffeccb561da1bde9a06270b2d8220328108def95ca499afcd0",
    ),
    (
        "tilde",
        [("~a", "~")],
        "~a=~&",
        "34dd388ef72ff38baa181e4fd73c609918292068d1a1448a67c7ea12b6521da8",
    ),
    (
        "space",
        [("a b", "c d")],
        "a%20b=c%20d&",
        "b4a75c3a6a1c7f84a47f5e958b68494973415ec1e982d3a7546f45a0d1c46f66",
    ),
    (
        "all other reserved characters",
        [("a", "!*'();@&=,$#[]?\"<>\\^`{|}")],
        "a=%21%2A%27%28%29%3B%40%26%3D%2C%24%23%5B%5D%3F%22%3C%3E%5C%5E%60%7B%7C%7D&",
        "3c6736cffb38df27ae24dfafde2a9b32dd40684ea53716d43e23ed10835628cf",
    ),
    (
        "beyond the BMP",
        [("a", "\U0001f600"), ("\U0001f600", "a")],
        "a=%F0%9F%98%80&%F0%9F%98%80=a&",
        "ca0971e4501a0a0fa9a1e149507120f102f76c67a123a0418d631efd5b1b968c",
    ),
    (
        "one name starts with the other",  # "-" sorts before "=": whole strings sort wrong
        [("Param-3", "3"), ("Param", "2")],
        "Param-3=3&Param=2&",
        "ec4fbb1e735b9f55329774caebd2374b52b6e66dfa370b1893a42ad38248c158",
    ),
    (
        "equal names sort by value",
        [("a", "2"), ("a", "1"), ("a", "10")],
        "a=2&a=1&a=10&",
        "028728f313dd66cc07744d70d0ef17df88415ec2033180973488821f745be0a3",
    ),
    (
        "order changes when encoded",
        [("a", "1"), ("\u00e9", "2"), ("A", "3"), ("[", "4")],
        "a=1&%C3%A9=2&A=3&%5B=4&",
        "cf8477857ddf5b4ec477cb38b4a4963f0e921586ef4ddaed1edb08f890dcc977",
    ),
    (
        "names on both sides of X-Amz-",
        [("Z", "1"), ("X-Amz", "2"), ("x-custom", "3")],
        "Z=1&X-Amz=2&x-custom=3&",
        "11786cb7aac1bcfdcaef718dd75dac19decdcaabe66969a330578d4c0725c296",
    ),
]


@pytest.mark.parametrize("query, emitted, signature", cases(QUERIES))
def test_presign_query(query, emitted, signature):
    assert presign(query=query) == (
        f"https://example.amazonaws.com/?{emitted}X-Amz-Algorithm=AWS4-HMAC-SHA256"
        "&X-Amz-Credential=AKIDEXAMPLE%2F20240615%2Fus-east-1%2Fservice%2Faws4_request"
        "&X-Amz-Date=20240615T120000Z&X-Amz-Expires=900&X-Amz-SignedHeaders=host"
        f"&X-Amz-Signature={signature}"
    )


REQUESTS = [
    (
        "another method",
        {"method": "POST"},
        "3c85b93ed5de2adbed08a465768994023f13eb594bfed7225b29a2f021b83f02",
    ),
    (
        "a port belongs to the host",
        {"host": "localhost:8443"},
        "8a0444fecfc3449b244752e99a4cb15b3361904d4f312998bc80d68e3185925c",
    ),
    (
        "an encoded path is encoded again",
        {"path": "/a%20b/%2F"},
        "e902119989a15bb735b30fc58edba34d344228991f1c00ecf6428d9220dd2c90",
    ),
    (
        "dots and empty segments",
        {"path": "/a/./b/../c//d/"},
        "dd11d0b1ea71f36f619d63dd9c94a0d40dc36680235ca914f0c8d5cbae56fa1f",
    ),
    (
        "reserved characters in the path",
        {"path": "/model/arn:aws:bedrock:us-east-1::foundation-model/x@y+z=,;!$&'()*~"},
        "3584f980637f7191751ec7e5a1366b0716746b17057e13d15368637f57226da5",
    ),
    (
        "unsigned body",
        {"body": None},
        "26a44854f1b09f16174ecb9ce2f6b45aa04b01427360834522baf62863571e78",
    ),
    (
        "one second",
        {"expires_in": 1},
        "61cdb1af77366cde673d77a523bc0d6c4c80fba9e090bb27a7fda66d872c039c",
    ),
    (
        "seven days",
        {"expires_in": 604800},
        "658c3d827c37dba68d0ccc8e461b727d36401bebe64880dbad57f2d9e8f85ec8",
    ),
    (
        "lifetime as timedelta",
        {"expires_in": timedelta(hours=1)},
        "de5d54654325aefb1615dfaec8aab7cacaa65aa59939fe3580d935fc648bfa04",
    ),
    (
        "fifteen minutes by default, fractions of now dropped, now in another zone",
        {"now": datetime(2024, 6, 15, 17, 30, 0, 999999, timezone(timedelta(hours=5.5)))},
        "9cfaf44def9d9de850ca03217d772b7b0803edbaeb2de1cde70790be96eb6365",
    ),
    (
        "S3 signs the path as it is",
        {
            "host": "bucket.s3.us-east-1.amazonaws.com",
            "path": "/a/../b%20c//d",
            "service": "s3",
            "body": None,
        },
        "d7cfc3518ba57a7668cc8de64d6f1695fd2546459a840b6332eb6bdd5a8b4096",
    ),
    (
        "S3 subresource: a name without a value",
        {
            "host": "bucket.s3.us-east-1.amazonaws.com",
            "path": "/key",
            "query": [("acl", "")],
            "service": "s3",
            "body": None,
        },
        "c80bc5917e7ff0466254a5c3869b686196df032299784b471d8fbb7211b6ac74",
    ),
    (
        "signed headers",
        {"headers": [("X-B", "  two   words "), ("x-a", "1"), ("X-A", "2"), ("X-Empty", "")]},
        "0a8b021157693d57d184eb3a71f9fbefe28a1acab4cd45ed38793a18e9be34d8",
    ),
    (
        "signed header with all kinds of characters",
        {"headers": [("X-B", "X,:/ ?")]},
        "2257b5511eb7f16dc6154e9e47dc3000a766e545461c7f5f3a1fd45db3e15c46",
    ),
]


@pytest.mark.parametrize("given, signature", cases(REQUESTS))
def test_presign(given, signature):
    url = presign(**given)
    path = given.get("path", "/")
    assert url.startswith(f"https://{given.get('host', 'example.amazonaws.com')}{path}?")
    assert url.endswith(f"&X-Amz-Signature={signature}")


def test_presign_whole_url():
    url = presign(
        "POST",
        query=[("b", "2"), ("a", "1")],
        headers=[("X-B", "x"), ("X-A", "y")],
        credentials=bt.Credentials("AKIDEXAMPLE", VECTOR_SECRET, "+/=%~"),
    )
    assert url == (
        "https://example.amazonaws.com/?b=2&a=1&X-Amz-Algorithm=AWS4-HMAC-SHA256"
        "&X-Amz-Credential=AKIDEXAMPLE%2F20240615%2Fus-east-1%2Fservice%2Faws4_request"
        "&X-Amz-Date=20240615T120000Z&X-Amz-Expires=900"
        "&X-Amz-SignedHeaders=host%3Bx-a%3Bx-b&X-Amz-Security-Token=%2B%2F%3D%25~"
        "&X-Amz-Signature=3f298e256b2acd5bd2c2f1d0be7f693fb7c5fbbe14d90d6e3b076837afdf25e5"
    )


def test_presign_asks_the_clock_when_no_time_is_given():
    before = datetime.now(timezone.utc).replace(microsecond=0)
    _, _, rest = presign(now=None).partition("&X-Amz-Date=")
    signed = datetime.strptime(rest[:16], "%Y%m%dT%H%M%SZ").replace(tzinfo=timezone.utc)
    assert before <= signed <= datetime.now(timezone.utc)


REFUSED = [
    ("method in lower case", {"method": "get"}, ValueError, "method"),
    ("method with a blank", {"method": "GET /x"}, ValueError, "method"),
    ("method with a line end", {"method": "GET\n"}, ValueError, "method"),
    ("empty method", {"method": ""}, ValueError, "method"),
    ("host with a path", {"host": "example.com/x"}, ValueError, "host"),
    ("host with a blank", {"host": "example .com"}, ValueError, "host"),
    ("host with a line end", {"host": "example.com\n"}, ValueError, "host"),
    ("host with a control character", {"host": "example\0.com"}, ValueError, "host"),
    ("host that is not ASCII", {"host": "\u00e9xample.com"}, ValueError, "host"),
    ("empty host", {"host": ""}, ValueError, "host"),
    ("empty path", {"path": ""}, ValueError, "path"),
    ("relative path", {"path": "x"}, ValueError, "path"),
    ("path with a query", {"path": "/x?a=1"}, ValueError, "path"),
    ("path with a fragment", {"path": "/x#a"}, ValueError, "path"),
    ("path with a line end", {"path": "/x\r\nA: b"}, ValueError, "path"),
    ("path with a control character", {"path": "/\x7f"}, ValueError, "path"),
    ("query as dict", {"query": {"ab": "c"}}, TypeError, "query"),
    ("query as text", {"query": "a=1"}, TypeError, "query"),
    ("query with a number", {"query": [("a", 1)]}, TypeError, "query"),
    ("X-Amz- name in the query", {"query": [("X-Amz-Expires", "1")]}, ValueError, "X-Amz-"),
    ("headers as dict", {"headers": {"ab": "c"}}, TypeError, "headers"),
    ("second host", {"headers": [("Host", "example.com")]}, ValueError, "host"),
    ("header name with LF", {"headers": [("A\n", "x")]}, ValueError, "header"),
    ("header value with CR", {"headers": [("A", "x\ry")]}, ValueError, "header"),
    ("header value with LF", {"headers": [("A", "x\nB: y")]}, ValueError, "header"),
    ("header value ends in LF", {"headers": [("A", "x\n")]}, ValueError, "header"),
    ("body as text", {"body": "x"}, TypeError, "encoded"),
    ("lifetime of nothing", {"expires_in": 0}, ValueError, "expires_in"),
    ("lifetime over seven days", {"expires_in": 604801}, ValueError, "expires_in"),
    (
        "lifetime just over seven days",
        {"expires_in": timedelta(days=7, microseconds=1)},
        ValueError,
        "expires_in",
    ),
    ("lifetime True", {"expires_in": True}, ValueError, "expires_in"),
    ("lifetime as text", {"expires_in": "900"}, ValueError, "expires_in"),
    ("naive now", {"now": datetime(2024, 6, 15)}, ValueError, "now"),
    ("now as a number", {"now": 1718452800}, ValueError, "now"),
    ("region with a slash", {"region": "us-east-1/x"}, ValueError, "region"),
    ("region with a blank", {"region": "us east-1"}, ValueError, "region"),
    ("empty region", {"region": ""}, ValueError, "region"),
    ("service with a slash", {"service": "bedrock/x"}, ValueError, "service"),
    ("service with a blank", {"service": "bed rock"}, ValueError, "service"),
    ("empty service", {"service": ""}, ValueError, "service"),
    ("credentials as text", {"credentials": "AKIDEXAMPLE"}, TypeError, "credentials"),
]


@pytest.mark.parametrize("given, error, named", cases(REFUSED))
def test_presign_refuses(given, error, named):
    with pytest.raises(error, match=rf"(?<!\w){named}"):
        presign(**given)
