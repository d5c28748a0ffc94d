"""Signature Version 4 where AWS's vectors are silent, and what presign refuses to sign."""

from datetime import datetime, timedelta, timezone

import pytest

import bedrock_token as bt
from tests.helpers import NOON, VECTOR_SECRET as SECRET, cases

KEYS = bt.Credentials("AKIDEXAMPLE", SECRET)


def presign(method="GET", host="example.amazonaws.com", path="/", query=(), **given):
    args = {"service": "service", "region": "us-east-1", "credentials": KEYS, "now": NOON}
    return bt.presign(method, host, path, query, **{**args, **given})


# Every expected URL, signature and canonical header below was made by botocore 1.44.5:
#
#     botocore.auth.get_current_datetime = lambda: datetime(2024, 6, 15, 12)
#     keys = botocore.credentials.Credentials("AKIDEXAMPLE", SECRET, session_token)
#     request = AWSRequest(method=method, url=url, params=params)     # {name: value or [values]}
#     for name, value in headers:
#         request.headers.add_header(name, value)
#     SigV4QueryAuth(keys, "service", "us-east-1", expires=900).add_auth(request)   # request.url
#     SigV4Auth(keys, "service", "us-east-1").add_auth(request)                     # .headers
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
        credentials=bt.Credentials("AKIDEXAMPLE", SECRET, "+/=%~"),
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


HEADERS = [
    ("name in lower case, value trimmed", [("A", "  x ")], "a:x\n", "a"),
    ("runs of blanks", [("b", "a  \t b")], "b:a b\n", "b"),
    ("inside quotes too", [("q", '" a   b "')], 'q:" a b "\n', "q"),
    ("empty value", [("e", "")], "e:\n", "e"),
    (
        "equal names keep their order",
        [("B", "2"), ("a", "1"), ("b", " 1  3 ")],
        "a:1\nb:2,1 3\n",
        "a;b",
    ),
    (
        "sorted by name, not by line",  # ":" sorts after "-"
        [("x-amz-date", "2"), ("X-Amz", "1"), ("x-amz-", "3")],
        "x-amz:1\nx-amz-:3\nx-amz-date:2\n",
        "x-amz;x-amz-;x-amz-date",
    ),
]


@pytest.mark.parametrize("headers, block, signed", cases(HEADERS))
def test_canonical_headers(headers, block, signed):
    assert bt._canonical_headers(headers) == (block, signed)


STS = ("POST", "sts.us-east-1.amazonaws.com", "/", [])
FORM = [("Content-Type", "application/x-www-form-urlencoded")]
# printf 'Action=GetCallerIdentity&Version=2011-06-15' | sha256sum
FORM_HASH = "ab821ae955788b0e33ebd34c208442ccfc2d406e2edc5e7a39bd6458fbb4f843"
EMPTY_HASH = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"

AUTHORIZATIONS = [
    (
        "long-term keys",
        (*STS, FORM, FORM_HASH),
        "sts",
        None,
        "content-type;host;x-amz-date",
        "e3fa6568d58caf0cca4c614750b18f0354a2239f56bfd28e9eaf9a7a676bb67f",
    ),
    (
        "session token",
        (*STS, FORM, FORM_HASH),
        "sts",
        "+/=%",
        "content-type;host;x-amz-date;x-amz-security-token",
        "900be2531a287a1c4ba3f62733b7e007d3a6acf3074ae2a55d8bc80464395b61",
    ),
    (
        "path, query and headers",  # botocore: url="https://example.amazonaws.com/a%20b//c?b=2&…"
        (
            *("GET", "example.amazonaws.com", "/a%20b//c", [("b", "2"), ("a", "1"), ("a", "0")]),
            [("X-B", " two   words "), ("x-a", "1"), ("X-A", "2")],
            EMPTY_HASH,
        ),
        "service",
        None,
        "host;x-a;x-amz-date;x-b",
        "4fafeafe99e7809f9a2b234e503d6d413a7647264b93b1007f6027a80a0c77dc",
    ),
]


@pytest.mark.parametrize("args, service, token, signed, signature", cases(AUTHORIZATIONS))
def test_authorization(args, service, token, signed, signature):
    keys = bt.Credentials("AKIDEXAMPLE", SECRET, token)
    got = bt._authorization(
        *args, service=service, region="us-east-1", credentials=keys, now=NOON
    )
    assert got == [
        ("x-amz-date", "20240615T120000Z"),
        *([("x-amz-security-token", token)] if token else []),
        (
            "authorization",
            "AWS4-HMAC-SHA256 "
            f"Credential=AKIDEXAMPLE/20240615/us-east-1/{service}/aws4_request, "
            f"SignedHeaders={signed}, Signature={signature}",
        ),
    ]


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
    ("now as a number", {"now": 1718452800}, TypeError, "now"),
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
    with pytest.raises(error, match=named):
        presign(**given)
