"""Credentials, Token, and get_token and provide_token from given credentials."""

import copy
import hashlib
import inspect
import pickle
from base64 import b64decode
from collections import namedtuple
from collections.abc import Mapping
from datetime import datetime, timedelta, timezone, tzinfo

import pytest

import bedrock_token as bt
from tests.helpers import (
    NOON, PREFIX, SECRET, SESSION, STATIC, STATIC_TOKEN, TEMPORARY, TEMPORARY_TOKEN, cases, token_of,
)

TWELVE_HOURS = timedelta(hours=12)

# What every token says first, up to the access key id.
HEAD = (
    "bedrock.amazonaws.com/?Action=CallWithBearerToken&X-Amz-Algorithm=AWS4-HMAC-SHA256"
    "&X-Amz-Credential="
)


def utc(text):
    return datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=timezone.utc)


# --- the token -----------------------------------------------------------------------------

# Made as the tokens of tests/helpers.py: what stands in them, base64-decoded, after HEAD.
PAYLOADS = [
    (
        "reserved characters in the session token",
        bt.Credentials("ASIAIOSFODNN7EXAMPLE", SECRET, "+/=%&#?~-._"),
        *("us-east-1", "2024-06-15T12:00:00Z", 43200),
        "ASIAIOSFODNN7EXAMPLE%2F20240615%2Fus-east-1%2Fbedrock%2Faws4_request"
        "&X-Amz-Date=20240615T120000Z&X-Amz-Expires=43200&X-Amz-SignedHeaders=host"
        "&X-Amz-Security-Token=%2B%2F%3D%25%26%23%3F~-._"
        "&X-Amz-Signature=86ae70b830392a9d5caf7adb998fa8ad0ac53334ad73f7e5622eef3ffe7d7c6b"
        "&Version=1",
    ),
    (
        "reserved characters in the secret",
        bt.Credentials("AKIAIOSFODNN7EXAMPLE", "+/=%" * 10),
        *("us-east-1", "2024-06-15T12:00:00Z", 43200),
        "AKIAIOSFODNN7EXAMPLE%2F20240615%2Fus-east-1%2Fbedrock%2Faws4_request"
        "&X-Amz-Date=20240615T120000Z&X-Amz-Expires=43200&X-Amz-SignedHeaders=host"
        "&X-Amz-Signature=40e9f7a70d89fb05f7a0bc34a0c1977a02f7a3d147b2a428393916a8526cdc2f"
        "&Version=1",
    ),
    (
        "China",
        *(STATIC, "cn-north-1", "2024-06-15T12:00:00Z", 43200),
        "AKIAIOSFODNN7EXAMPLE%2F20240615%2Fcn-north-1%2Fbedrock%2Faws4_request"
        "&X-Amz-Date=20240615T120000Z&X-Amz-Expires=43200&X-Amz-SignedHeaders=host"
        "&X-Amz-Signature=87a37058378bbba8537e1203f0bf21a1c94c69e14c37401a0ceb0c83bd25d3bc"
        "&Version=1",
    ),
    (
        "GovCloud",
        *(STATIC, "us-gov-west-1", "2024-06-15T12:00:00Z", 43200),
        "AKIAIOSFODNN7EXAMPLE%2F20240615%2Fus-gov-west-1%2Fbedrock%2Faws4_request"
        "&X-Amz-Date=20240615T120000Z&X-Amz-Expires=43200&X-Amz-SignedHeaders=host"
        "&X-Amz-Signature=2510c2bd39b88f4e157fa768e16d86133c227ba4508dfef123a11d4c09ac77de"
        "&Version=1",
    ),
    (
        "one second",
        *(STATIC, "us-east-1", "2024-06-15T12:00:00Z", 1),
        "AKIAIOSFODNN7EXAMPLE%2F20240615%2Fus-east-1%2Fbedrock%2Faws4_request"
        "&X-Amz-Date=20240615T120000Z&X-Amz-Expires=1&X-Amz-SignedHeaders=host"
        "&X-Amz-Signature=f323c93a76c5e55a989d7a36b207a59a7f5121674d17809996b9275aeadcb665"
        "&Version=1",
    ),
    (
        "one hour",
        *(STATIC, "us-east-1", "2024-06-15T12:00:00Z", 3600),
        "AKIAIOSFODNN7EXAMPLE%2F20240615%2Fus-east-1%2Fbedrock%2Faws4_request"
        "&X-Amz-Date=20240615T120000Z&X-Amz-Expires=3600&X-Amz-SignedHeaders=host"
        "&X-Amz-Signature=df983ad800e8cf0c4425a77e2b1f988348ef9bdf96cebdb33f75f493c4e863ee"
        "&Version=1",
    ),
    (
        "leap day",
        *(STATIC, "us-east-1", "2028-02-29T23:59:59Z", 43200),
        "AKIAIOSFODNN7EXAMPLE%2F20280229%2Fus-east-1%2Fbedrock%2Faws4_request"
        "&X-Amz-Date=20280229T235959Z&X-Amz-Expires=43200&X-Amz-SignedHeaders=host"
        "&X-Amz-Signature=ce4bca1c1dd8f50219d9ac1bb868b8e0f1de1b948b54634003f4fd33057500cd"
        "&Version=1",
    ),
    (
        "last second of a year",
        *(STATIC, "us-east-1", "2024-12-31T23:59:59Z", 3600),
        "AKIAIOSFODNN7EXAMPLE%2F20241231%2Fus-east-1%2Fbedrock%2Faws4_request"
        "&X-Amz-Date=20241231T235959Z&X-Amz-Expires=3600&X-Amz-SignedHeaders=host"
        "&X-Amz-Signature=641f4d84575613977164ef7b44c82f772f70d3df4650d8afe2e4c34f40fb8367"
        "&Version=1",
    ),
]


@pytest.mark.parametrize("credentials, region, now, expires_in, payload", cases(PAYLOADS))
def test_token_is_the_one_of_aws(credentials, region, now, expires_in, payload):
    token = bt.get_token(credentials, region, expires_in, now=utc(now))
    assert token == token_of(HEAD + payload)


def test_token_is_the_one_of_aws_to_the_letter():
    assert bt.get_token(STATIC, "us-east-1", now=NOON) == STATIC_TOKEN
    assert bt.get_token(TEMPORARY, "us-west-2", 3600, now=NOON) == TEMPORARY_TOKEN


def test_session_token_of_1000_characters():
    credentials = bt.Credentials("ASIAIOSFODNN7EXAMPLE", SECRET, "aZ09+/=%~-" * 100)
    token = bt.get_token(credentials, "us-east-1", now=NOON)
    assert hashlib.sha256(token.encode()).hexdigest() == (
        "585eadf5751c408e5bdd18f9dbe94372d482a84e19e3da6c826e6887ca3b25b8"
    )


EXPIRATIONS = [
    ("twelve hours", "2024-06-15T12:00:00Z", TWELVE_HOURS, None, "2024-06-16T00:00:00Z"),
    ("one second", "2024-06-15T12:00:00Z", 1, None, "2024-06-15T12:00:01Z"),
    ("leap day", "2028-02-29T23:59:59Z", 43200, None, "2028-03-01T11:59:59Z"),
    ("year's end", "2024-12-31T23:59:59Z", 3600, None, "2025-01-01T00:59:59Z"),
    (
        "credentials end first",
        *("2024-06-15T12:00:00Z", 3600, "2024-06-15T12:59:59Z", "2024-06-15T12:59:59Z"),
    ),
    (
        "credentials end later",
        *("2024-06-15T12:00:00Z", 3600, "2024-06-15T13:00:01Z", "2024-06-15T13:00:00Z"),
    ),
]


@pytest.mark.parametrize("now, expires_in, credentials_end, want", cases(EXPIRATIONS))
def test_expiration(now, expires_in, credentials_end, want):
    credentials = bt.Credentials(
        "ASIAIOSFODNN7EXAMPLE", SECRET, SESSION, credentials_end and utc(credentials_end)
    )
    token = bt.get_token(credentials, "us-east-1", expires_in, now=utc(now))
    assert token.expiration == utc(want)
    assert token.expiration.utcoffset() == timedelta(0)


def test_expiration_in_another_zone_is_given_in_utc():
    ends = datetime(2024, 6, 15, 15, tzinfo=timezone(timedelta(hours=2)))
    credentials = bt.Credentials("ASIAIOSFODNN7EXAMPLE", SECRET, SESSION, ends)
    token = bt.get_token(credentials, "us-east-1", now=NOON)
    assert token.expiration.isoformat() == "2024-06-15T13:00:00+00:00"


def test_expiration_of_refreshable_keys():
    class Ending(Refreshable):
        _expiry_time = NOON + timedelta(minutes=20)  # where botocore keeps it

    token = bt.get_token(Ending(), "us-west-2", 3600, now=NOON)
    assert token == TEMPORARY_TOKEN
    assert token.expiration == NOON + timedelta(minutes=20)


def test_expiration_of_another_type_is_another_librarys():
    class Lasting(Refreshable):
        _expiry_time = "2024-06-15T12:20:00Z"

    token = bt.get_token(Lasting(), "us-west-2", 3600, now=NOON)
    assert token.expiration == NOON + timedelta(hours=1)


def test_fractions_of_now_are_signed_and_counted_as_nothing():
    token = bt.get_token(STATIC, "us-east-1", now=NOON.replace(microsecond=999999))
    assert token == STATIC_TOKEN
    assert token.expiration == NOON + TWELVE_HOURS


def test_token_is_a_str():
    token = bt.get_token(STATIC, "us-east-1", now=NOON)
    assert isinstance(token, str)
    assert {token: 1}[STATIC_TOKEN] == 1
    assert f"Bearer {token}" == "Bearer " + STATIC_TOKEN
    assert str(token) == STATIC_TOKEN
    assert token.region == "us-east-1"


def test_token_repr_hides_the_payload():
    shown = repr(bt.get_token(TEMPORARY, "us-west-2", 3600, now=NOON))
    assert shown == f"<Token {PREFIX}... for us-west-2 until 2024-06-15T13:00:00+00:00>"
    payload = TEMPORARY_TOKEN[len(PREFIX):]
    assert not any(payload[start:start + 6] in shown for start in range(len(payload) - 5))


COPIES = [
    *((f"pickle {n}", lambda x, n=n: pickle.loads(pickle.dumps(x, n)))
      for n in range(pickle.HIGHEST_PROTOCOL + 1)),
    ("copy", copy.copy),
    ("deepcopy", copy.deepcopy),
]


@pytest.mark.parametrize("duplicate", cases(COPIES))
def test_copies(duplicate):
    token = bt.get_token(TEMPORARY, "us-west-2", 3600, now=NOON)
    again = duplicate(token)
    assert type(again) is bt.Token
    assert (again, again.region, again.expiration) == (
        TEMPORARY_TOKEN, "us-west-2", NOON + timedelta(hours=1)
    )
    credentials = bt.Credentials("ASIAEXAMPLE", SECRET, SESSION, NOON, "environment")
    same = duplicate(credentials)
    assert type(same) is bt.Credentials
    assert same == credentials
    assert same.source == "environment"


# --- Credentials ---------------------------------------------------------------------------

FIELDS = {
    "access_key_id": "ASIAEXAMPLE",
    "secret_access_key": SECRET,
    "session_token": SESSION,
    "expiration": NOON,
    "source": "environment",
}


def test_credentials_fields():
    credentials = bt.Credentials(*FIELDS.values())
    assert {name: getattr(credentials, name) for name in FIELDS} == FIELDS
    bare = bt.Credentials("AKIAEXAMPLE", SECRET)
    assert (bare.session_token, bare.expiration, bare.source) == (None, None, "")


@pytest.mark.parametrize("name", FIELDS)
def test_credentials_are_immutable(name):
    credentials = bt.Credentials(*FIELDS.values())
    with pytest.raises(AttributeError):
        setattr(credentials, name, "x")
    with pytest.raises(AttributeError):
        delattr(credentials, name)
    assert getattr(credentials, name) == FIELDS[name]


def test_credentials_take_no_other_attribute():
    with pytest.raises(AttributeError):
        bt.Credentials("AKIAEXAMPLE", SECRET).acces_key_id = "x"


def test_credentials_are_equal_by_value():
    credentials = bt.Credentials(*FIELDS.values())
    assert credentials == bt.Credentials(**FIELDS)
    assert hash(credentials) == hash(bt.Credentials(**FIELDS))
    assert credentials != tuple(FIELDS.values())


@pytest.mark.parametrize(
    "name, other",
    [
        ("access_key_id", "ASIAOTHER"),
        ("secret_access_key", "other"),
        ("session_token", None),
        ("expiration", NOON + timedelta(seconds=1)),
    ],
)
def test_credentials_differ(name, other):
    assert bt.Credentials(**FIELDS) != bt.Credentials(**{**FIELDS, name: other})


def test_credentials_repr_hides_secrets():
    shown = repr(bt.Credentials(**FIELDS))
    assert shown == (
        "<Credentials ASIAEXAMPLE (temporary) from environment until "
        f"{FIELDS['expiration'].isoformat()}>")
    assert repr(STATIC) == f"<Credentials {STATIC.access_key_id} (long-term) from code>"
    assert SECRET[:6] not in shown
    assert SESSION[:6] not in shown


MISTAKE = (TypeError, ValueError)

BAD_FIELDS = [
    ("empty key id", {"access_key_id": ""}, ValueError, "access_key_id"),
    ("key id None", {"access_key_id": None}, MISTAKE, "access_key_id"),
    ("key id bytes", {"access_key_id": b"AKIA"}, MISTAKE, "access_key_id"),
    ("blank in the key id", {"access_key_id": "AKIA EXAMPLE"}, ValueError, "access_key_id"),
    ("line end in the key id", {"access_key_id": "AKIA\nEXAMPLE"}, ValueError, "access_key_id"),
    ("empty secret", {"secret_access_key": ""}, ValueError, "secret_access_key"),
    ("blank secret", {"secret_access_key": "  "}, ValueError, "secret_access_key"),
    ("secret as number", {"secret_access_key": 12345}, MISTAKE, "secret_access_key"),
    ("tab in the secret", {"secret_access_key": "se\tcret"}, ValueError, "secret_access_key"),
    ("line end in the session token", {"session_token": "to\nken"}, ValueError, "session_token"),
    ("NUL in the session token", {"session_token": "to\0ken"}, ValueError, "session_token"),
    ("DEL in the session token", {"session_token": "to\x7fken"}, ValueError, "session_token"),
    ("session token bytes", {"session_token": b"x"}, MISTAKE, "session_token"),
    ("naive expiration", {"expiration": datetime(2024, 6, 15)}, ValueError, "expiration"),
    ("expiration as text", {"expiration": "2024-06-15T12:00:00Z"}, ValueError, "expiration"),
    ("expiration as a number", {"expiration": 1718452800}, ValueError, "expiration"),
]


@pytest.mark.parametrize("given, error, named", cases(BAD_FIELDS))
def test_credentials_refuse(given, error, named):
    with pytest.raises(error, match=named) as raised:
        bt.Credentials(**{**FIELDS, **given})
    for secret in (FIELDS["secret_access_key"], FIELDS["session_token"], *given.values()):
        assert not secret or str(secret) not in str(raised.value)


# --- the arguments of get_token ------------------------------------------------------------

JUNK = {
    "AWS_ACCESS_KEY_ID": "AKIAJUNK",
    "AWS_SECRET_ACCESS_KEY": "junk",
    "AWS_SESSION_TOKEN": "junk",
    "AWS_CREDENTIAL_EXPIRATION": "junk",
    "AWS_REGION": "junk",
    "AWS_DEFAULT_REGION": "junk",
    "AWS_PROFILE": "junk",
    "AWS_CONFIG_FILE": "/dev/null/junk",
    "AWS_SHARED_CREDENTIALS_FILE": "/dev/null/junk",
    "AWS_WEB_IDENTITY_TOKEN_FILE": "/dev/null/junk",
    "AWS_ROLE_ARN": "junk",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI": "junk",
    "AWS_ENDPOINT_URL": "junk",
    "HOME": "/dev/null/junk",
}


class Untouchable(Mapping):
    """An environment that must not be looked at."""

    def fail(self, *_):
        raise AssertionError("the environment was read")

    __getitem__ = __iter__ = __len__ = fail


@pytest.mark.parametrize("environ", [None, JUNK, Untouchable()], ids=["os", "junk", "untouchable"])
def test_given_all_it_needs_get_token_reads_no_environment(environ, monkeypatch):
    for name, value in JUNK.items():
        monkeypatch.setenv(name, value)
    assert bt.get_token(STATIC, "us-east-1", environ=environ, now=NOON) == STATIC_TOKEN


def test_now_is_the_clock_unless_given():
    before = datetime.now(timezone.utc).replace(microsecond=0)
    token = bt.get_token(STATIC, "us-east-1", 60)
    signed = token.expiration - timedelta(seconds=60)
    assert before <= signed <= datetime.now(timezone.utc)
    assert token == bt.get_token(STATIC, "us-east-1", 60, now=signed)


LIFETIMES = [
    ("one second", 1, 1),
    ("twelve hours", 43200, 43200),
    ("timedelta", timedelta(minutes=90), 5400),
    ("timedelta of one second", timedelta(seconds=1), 1),
    ("timedelta of twelve hours", TWELVE_HOURS, 43200),
    ("fractions are dropped", timedelta(seconds=90, microseconds=999999), 90),
]


@pytest.mark.parametrize("expires_in, seconds", cases(LIFETIMES))
def test_expires_in(expires_in, seconds):
    token = bt.get_token(STATIC, "us-east-1", expires_in, now=NOON)
    assert f"&X-Amz-Expires={seconds}&" in b64decode(token[len(PREFIX):]).decode()
    assert token.expiration == NOON + timedelta(seconds=seconds)


BAD_LIFETIMES = [
    ("nothing", 0),
    ("negative", -1),
    ("over twelve hours", 43201),
    ("True", True),
    ("None", None),
    ("text", "3600"),
    ("NaN", float("nan")),
    ("float", 3600.5),
    ("timedelta of nothing", timedelta(0)),
    ("timedelta under a second", timedelta(seconds=0.4)),
    ("timedelta just under a second", timedelta(microseconds=999999)),
    ("negative timedelta", timedelta(seconds=-1)),
    ("timedelta just over twelve hours", timedelta(hours=12, microseconds=1)),
]


@pytest.mark.parametrize("expires_in", cases(BAD_LIFETIMES))
def test_expires_in_refused(expires_in):
    with pytest.raises(ValueError, match=r"^expires_in\b"):
        bt.get_token(STATIC, "us-east-1", expires_in, now=NOON)
    with pytest.raises(ValueError, match=r"^expires_in\b"):
        bt.TokenProvider(STATIC, "us-east-1", expires_in)


@pytest.mark.parametrize(
    "region",
    [
        "ap-southeast-7", "cn-northwest-1", "eu-isoe-west-1", "eusc-de-east-1", "mx-central-1",
        "us-gov-east-1", "us-iso-east-1", "us-isob-east-1",
    ],
)
def test_region(region):
    token = bt.get_token(STATIC, region, now=NOON)
    assert token.region == region
    assert f"%2F20240615%2F{region}%2Fbedrock%2F" in b64decode(token[len(PREFIX):]).decode()


def test_region_is_stripped():
    token = bt.get_token(STATIC, " us-east-1\n", now=NOON)
    assert token == STATIC_TOKEN
    assert token.region == "us-east-1"


@pytest.mark.parametrize(
    "region",
    [
        "", " ", "us", "us-1", "us-east", "us--1", "us-east-1a", "1s-east-1", "US-EAST-1",
        "us_east_1", "us-east-1 x", "us-east-1\n\nx", "us-east-1/x", "us-ea/st-1", "nowhere/evil",
        "us-east-\u0661", "\u00fcs-east-1",
    ],
    ids=ascii,
)
def test_region_refused(region):
    with pytest.raises(ValueError, match="region"):
        bt.get_token(STATIC, region, now=NOON)


@pytest.mark.parametrize("secret", ["AKIAIOSFODNN7EXAMPLE", "a" * 25, "swordfish x"])
def test_what_may_be_a_misplaced_secret_is_not_quoted(secret):
    with pytest.raises(ValueError, match="region") as raised:
        bt.get_token(STATIC, secret, now=NOON)
    assert secret not in str(raised.value)


@pytest.mark.parametrize("region", [1, b"us-east-1", ["us-east-1"]], ids=repr)
def test_region_of_another_type(region):
    with pytest.raises(ValueError, match="region"):
        bt.get_token(STATIC, region, now=NOON)


def test_now_in_another_zone_is_converted():
    now = datetime(2024, 6, 15, 21, 45, tzinfo=timezone(timedelta(hours=9, minutes=45)))
    token = bt.get_token(STATIC, "us-east-1", now=now)
    assert token == STATIC_TOKEN
    assert token.expiration.isoformat() == "2024-06-16T00:00:00+00:00"


class Vague(tzinfo):
    """A zone that does not know its offset: what is in it counts as naive."""

    def utcoffset(self, when):
        return None


BAD_NOW = [
    ("naive", datetime(2024, 6, 15, 12), ValueError),
    ("in a zone without an offset", datetime(2024, 6, 15, 12, tzinfo=Vague()), ValueError),
    ("number", 1718452800, ValueError),
    ("text", "2024-06-15T12:00:00Z", ValueError),
    ("date", NOON.date(), ValueError),
]


@pytest.mark.parametrize("now, error", cases(BAD_NOW))
def test_now_refused(now, error):
    with pytest.raises(error, match="now"):
        bt.get_token(STATIC, "us-east-1", now=now)


class Keys:
    """As botocore's Credentials."""

    def __init__(self, access_key, secret_key, token=None):
        self.access_key, self.secret_key, self.token = access_key, secret_key, token


class Refreshable:
    """As botocore's RefreshableCredentials: read field by field, each may be of another key."""

    Frozen = namedtuple("ReadOnlyCredentials", "access_key secret_key token account_id")
    access_key = "ASIATORN"
    secret_key = "torn"
    token = "torn"

    def get_frozen_credentials(self):
        return self.Frozen("ASIAIOSFODNN7EXAMPLE", SECRET, SESSION, None)


KINDS = [
    ("Credentials", TEMPORARY),
    ("botocore's", Keys("ASIAIOSFODNN7EXAMPLE", SECRET, SESSION)),
    ("botocore's, refreshable", Refreshable()),
    ("botocore's, frozen", Refreshable().get_frozen_credentials()),
    ("callable with Credentials", lambda: TEMPORARY),
    ("callable with botocore's", Refreshable),
    ("bound method", Refreshable().get_frozen_credentials),
]


@pytest.mark.parametrize("credentials", cases(KINDS))
def test_credentials_kinds(credentials):
    assert bt.get_token(credentials, "us-west-2", 3600, now=NOON) == TEMPORARY_TOKEN


@pytest.mark.parametrize("token", [None, ""])
def test_no_session_token(token):
    credentials = Keys("AKIAIOSFODNN7EXAMPLE", SECRET, token)
    assert bt.get_token(credentials, "us-east-1", now=NOON) == STATIC_TOKEN


BAD_KINDS = [
    ("text", "AKIAIOSFODNN7EXAMPLE", TypeError),
    ("number", 42, TypeError),
    ("tuple", ("AKIAIOSFODNN7EXAMPLE", SECRET), TypeError),
    ("dict", {"access_key": "AKIA", "secret_key": SECRET, "token": None}, TypeError),
    ("callable with text", lambda: "AKIAIOSFODNN7EXAMPLE", TypeError),
    ("callable with None", lambda: None, bt.BedrockTokenError),
]


@pytest.mark.parametrize("credentials, error", cases(BAD_KINDS))
def test_credentials_kinds_refused(credentials, error):
    with pytest.raises(error, match="credentials") as raised:
        bt.get_token(credentials, "us-east-1", now=NOON)
    assert SECRET not in str(raised.value)


def test_error_of_a_callable_is_the_callers():
    def broken():
        raise OSError("vault is sealed")

    with pytest.raises(OSError, match="vault is sealed"):
        bt.get_token(broken, "us-east-1", now=NOON)


@pytest.mark.parametrize("seconds_ago", [0, 1, 86400])
def test_expired_credentials(seconds_ago):
    ends = NOON - timedelta(seconds=seconds_ago)
    credentials = bt.Credentials("ASIAEXAMPLE", SECRET, SESSION, ends, "profile dev (sso)")
    with pytest.raises(bt.CredentialsError, match="expired") as raised:
        bt.get_token(credentials, "us-east-1", now=NOON)
    assert "profile dev (sso)" in str(raised.value)


# --- provide_token -------------------------------------------------------------------------

class Provider:
    def __init__(self, credentials):
        self.credentials = credentials

    def load(self):
        return self.credentials


def test_provide_token_has_the_signature_of_aws():
    parameters = inspect.signature(bt.provide_token).parameters.values()
    assert [(p.name, p.kind, p.default) for p in parameters] == [
        ("region", inspect.Parameter.POSITIONAL_OR_KEYWORD, None),
        ("aws_credentials_provider", inspect.Parameter.POSITIONAL_OR_KEYWORD, None),
        ("expiry", inspect.Parameter.POSITIONAL_OR_KEYWORD, TWELVE_HOURS),
    ]


@pytest.mark.parametrize("credentials", cases(KINDS[:4]))
def test_provide_token(credentials):
    token = bt.provide_token("us-west-2", Provider(credentials), timedelta(minutes=5))
    signed = token.expiration - timedelta(minutes=5)
    assert token == bt.get_token(TEMPORARY, "us-west-2", 300, now=signed)
    assert token.region == "us-west-2"


def test_provide_token_takes_the_region_of_the_environment(monkeypatch):
    monkeypatch.setenv("AWS_REGION", "eu-west-3")
    assert bt.provide_token(aws_credentials_provider=Provider(STATIC)).region == "eu-west-3"


def test_provide_token_without_credentials(monkeypatch):
    # Whoever names a provider gets no token of somebody else.
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAIOSFODNN7EXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    with pytest.raises(bt.NoCredentialsError):
        bt.provide_token("us-east-1", Provider(None))


@pytest.mark.parametrize("expiry", [timedelta(0), timedelta(seconds=0.5), timedelta(hours=13)])
def test_provide_token_refuses(expiry):
    with pytest.raises(ValueError, match="expiry|expires_in"):
        bt.provide_token("us-east-1", Provider(STATIC), expiry)
