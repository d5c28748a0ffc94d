"""The same token as AWS's own generator, and the same signatures as botocore, byte for byte."""

import itertools
from datetime import datetime, timedelta, timezone

import aws_bedrock_token_generator
import botocore.credentials
import pytest

import bedrock_token as bt
from tests.helpers import NOON, SECRET, cases
from tests.interop.reference import (
    Loader,
    aws_token,
    botocore_authorized,
    botocore_at,
    botocore_keys,
    botocore_presigned,
    sha256,
)

STATIC = bt.Credentials("AKIAIOSFODNN7EXAMPLE", SECRET)
TEMPORARY = bt.Credentials("ASIAIOSFODNN7EXAMPLE", SECRET, "IQoJb3JpZ2luX2VjEXAMPLETOKEN==")
CREDENTIALS = {
    "static": STATIC,
    "temporary": TEMPORARY,
    "awkward": bt.Credentials("A_a_0", "+/=%&~?#", "".join(map(chr, range(33, 127)))),
    "long": bt.Credentials("ASIAIOSFODNN7EXAMPLE", "s" * 200, "abc+/=%2F" * 170),
}
REGIONS = [
    "us-east-1", "eu-central-1", "ap-southeast-4", "mx-central-1", "us-gov-west-1", "cn-north-1",
    "us-iso-east-1", "us-isob-east-1", "us-isof-south-1", "eu-isoe-west-1", "eusc-de-east-1",
]
MOMENTS = [
    NOON,
    datetime(2024, 2, 29, 23, 59, 59, 999999, timezone.utc),
    datetime(2099, 12, 31, 0, 0, 0, 1, timezone.utc),
]
LIFETIMES = [1, 59, 900, 3600, 43199, 43200]


@pytest.mark.parametrize("region", REGIONS)
@pytest.mark.parametrize("credentials", CREDENTIALS.values(), ids=CREDENTIALS)
def test_a_token_is_that_of_the_generator(credentials, region):
    for now, seconds in itertools.product(MOMENTS, LIFETIMES):
        token = bt.get_token(credentials, region, seconds, now=now)
        assert str(token) == aws_token(credentials, region, seconds, now)


KINDS = [
    ("botocore's credentials", botocore_keys),
    ("its frozen ones", lambda keys: botocore_keys(keys).get_frozen_credentials()),
    ("its provider's load", lambda keys: Loader(keys).load),
    ("its refreshable ones", lambda keys: botocore.credentials.RefreshableCredentials(
        keys.access_key_id, keys.secret_access_key, keys.session_token,
        datetime.now(timezone.utc) + timedelta(days=1), None, "test")),
]


@pytest.mark.parametrize("made", cases(KINDS))
@pytest.mark.parametrize("credentials", [STATIC, TEMPORARY], ids=["static", "temporary"])
def test_credentials_of_botocore_are_taken(credentials, made):
    now = datetime.now(timezone.utc)
    token = bt.get_token(made(credentials), "us-east-1", 3600, now=now)
    assert str(token) == aws_token(credentials, "us-east-1", 3600, now)


def test_refreshable_credentials_that_end_first_end_the_token():
    now = datetime.now(timezone.utc)
    ends = now + timedelta(hours=1)
    keys = botocore.credentials.RefreshableCredentials("AKID", SECRET, "token", ends, None, "test")
    assert bt.get_token(keys, "us-east-1", now=now).expiration == ends


PROVIDED = [
    ("region given", ["us-west-2"], {}),
    ("region from the environment", [], {"AWS_REGION": "eu-west-1"}),
    ("provider given", ["us-west-2", Loader(STATIC)], {}),
    ("lifetime given", ["us-west-2", Loader(STATIC), timedelta(minutes=15)], {}),
    ("fraction of a second", ["us-west-2", None, timedelta(seconds=90.7)], {}),
    ("None given", [None, None], {"AWS_REGION": "eu-west-1"}),
]


@pytest.mark.parametrize("given, environ", cases(PROVIDED))
def test_provide_token_takes_what_the_generator_takes(given, environ, monkeypatch):
    keys = {"AWS_ACCESS_KEY_ID": "ASIAENV", "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_SESSION_TOKEN": "session"}
    for name, value in {**keys, **environ}.items():
        monkeypatch.setenv(name, value)
    token = bt.provide_token(*given)
    # It takes no time, so the generator has to sign for the second in which ours was made.
    with botocore_at(bt.decode_token(token)["issued_at"]):
        assert str(token) == aws_bedrock_token_generator.provide_token(*given)


ARN = "arn%3Aaws%3Abedrock%3Aus-east-1%3A123456789012%3Ainference-profile%2Fus.amazon.nova"
FORM = ("content-type", "application/x-www-form-urlencoded")
REQUESTS = [
    (
        "who is asking",
        *("GET", "sts.us-east-1.amazonaws.com", "/", "sts"),
        [("Action", "GetCallerIdentity"), ("Version", "2011-06-15")],
        [],
        b"",
    ),
    (
        "name of an EKS cluster signed",
        *("GET", "sts.us-east-1.amazonaws.com", "/", "sts"),
        [("Action", "GetCallerIdentity"), ("Version", "2011-06-15")],
        [("x-k8s-aws-id", "cluster  one")],
        b"",
    ),
    (
        "form body",
        *("POST", "sts.eu-west-1.amazonaws.com", "/", "sts"),
        [],
        [FORM],
        b"Action=GetCallerIdentity&Version=2011-06-15",
    ),
    (
        "ARN in the path",
        *("POST", "bedrock-runtime.us-east-1.amazonaws.com", f"/model/{ARN}/converse", "bedrock"),
        [],
        [("content-type", "application/json"), ("accept", "application/json")],
        b'{"messages": []}',
    ),
    (
        "port",
        *("GET", "127.0.0.1:8443", "/foundation-models", "bedrock"),
        [("byProvider", "amazon"), ("byOutputModality", "TEXT")],
        [],
        b"",
    ),
    (
        "dots, blanks and letters beyond ASCII in the path",
        *("GET", "polly.us-east-1.amazonaws.com", "//a/./b/../c%20d/\u00e9 e/~*'()/", "polly"),
        [("Text", "Hello, \u4e16\u754c & \U0001f600"), ("Voice", ""), ("list", "2"), ("list", "1")],
        [],
        b"",
    ),
    (
        "headers of one name",
        *("PUT", "example.amazonaws.com", "/x", "service"),
        [("a", "~"), ("A", "+"), ("a-b", "*")],
        [("X-Many", " b "), ("x-many", "a   b"), ("X-Empty", ""), ("Range", "bytes=0-9")],
        b"\x00\xff",
    ),
]
SIGNED_BY = pytest.mark.parametrize("credentials", [STATIC, TEMPORARY], ids=["static", "temporary"])


@SIGNED_BY
@pytest.mark.parametrize("method, host, path, service, query, headers, body", cases(REQUESTS))
def test_presign_is_that_of_botocore(
    method, host, path, service, query, headers, body, credentials
):
    scope = {"service": service, "region": "us-east-1", "credentials": credentials, "now": NOON}
    headers = [*headers, ("x-amz-content-sha256", sha256(body))]
    url = bt.presign(method, host, path, query, headers=headers, body=body, **scope)
    assert url == botocore_presigned(
        method, host, path, query, headers, b"", expires_in=900, **scope)


@SIGNED_BY
@pytest.mark.parametrize("method, host, path, service, query, headers, body", cases(REQUESTS))
def test_the_authorization_header_is_that_of_botocore(
    method, host, path, service, query, headers, body, credentials
):
    scope = {"service": service, "region": "us-east-1", "credentials": credentials, "now": NOON}
    uri = bt._canonical_uri(path)
    added = bt._authorization(
        bt._Signer(**scope), method, host, uri, query, headers, sha256(body))
    assert dict(added) == botocore_authorized(
        method, host, path, query, headers, body, **scope)


@SIGNED_BY
@pytest.mark.parametrize("path", ["/", "/a//b/../c", "/caf%C3%A9 1+2.txt", "/~tilde/"])
def test_s3_urls_are_those_of_botocore(path, credentials):
    scope = {"service": "s3", "region": "eu-west-1", "credentials": credentials, "now": NOON}
    request = ("GET", "bucket.s3.eu-west-1.amazonaws.com", path, [("versionId", "a+b/c=")])
    url = bt.presign(*request, body=None, expires_in=604800, **scope)
    assert url == botocore_presigned(*request, [], None, expires_in=604800, **scope)
