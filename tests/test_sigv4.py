"""Signature Version 4 where AWS's vectors are silent."""

from urllib.parse import quote

import pytest

import bedrock_token as bt
from tests.helpers import NOON, VECTOR_SECRET, cases

# Every expected header below was made by botocore 1.44.5:
#
#     botocore.auth.get_current_datetime = lambda: datetime(2024, 6, 15, 12)
#     keys = botocore.credentials.Credentials("AKIDEXAMPLE", VECTOR_SECRET, session_token)
#     request = AWSRequest(method=method, url=url, params=params)     # {name: value or [values]}
#     for name, value in headers:
#         request.headers.add_header(name, value)
#     SigV4Auth(keys, "service", "us-east-1").add_auth(request)       # request.headers

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


@pytest.mark.parametrize("text", [
    "", "%", "X%", "%X", "%25", "a b", "+/=~", "".join(map(chr, range(256))), "\u20ac\U0001f600",
], ids=ascii)
def test_percent_encoding(text):
    assert bt._uri_encode(text) == quote(text, safe="-_.~")


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
    keys = bt.Credentials("AKIDEXAMPLE", VECTOR_SECRET, token)
    method, host, path, *rest = args
    signer = bt._Signer(keys, "us-east-1", service, NOON)
    got = bt._authorization(signer, method, host, bt._canonical_uri(path), *rest)
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
