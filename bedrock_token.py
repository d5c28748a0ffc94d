"""Short-term Amazon Bedrock API keys ("bearer tokens") from AWS credentials. One file, standard library only.

    >>> import bedrock_token
    >>> token = bedrock_token.get_token()     # credentials and region as the AWS CLI finds them
    >>> token.expiration                      # when it really ends, in UTC

    $ python -m bedrock_token                 # the same in a shell; --help tells the rest

A token is a presigned request: minting one is hashing, AWS is not asked. It has the permissions of the credentials that
signed it, works in one region, ends after at most 12 hours or with those credentials, and is a password until then.

Map, in the order of the file; nothing is used before it is defined:

    errors                  one family, no message holds a secret
    values                  Credentials, Token, and the checks of arguments
    Signature Version 4     the signer, by the stages in AWS's documentation
    minting                 a token from given credentials; an audit of just the token ends here
    reading and presigning  decode_token, presign
    settings                ~/.aws/config and ~/.aws/credentials; profile, region, endpoints
    HTTP                    the only code that opens a connection
    credential sources      one function for each place that credentials come from
    the chain               load_credentials, load_region, assume_role, get_token, provide_token
    TokenProvider           a token that is always valid, for long-lived programs
    calling Bedrock         converse, converse_stream
    command line            main

Reads the environment (AWS_*, HOME, proxies), the two files, the AWS CLI's caches of signed-in sessions, and token files
that these name. Sends nothing with credentials from the environment or the files; otherwise what the configured source
needs, to AWS's addresses or the endpoint configured in their place. Writes one file: an SSO session it has renewed,
back into the AWS CLI's cache. Starts a process only for `credential_process`, `login_session` and `exec`. Never writes
to os.environ, never logs, starts no thread of its own.

Home: the project bedrock_token, whose README.md is the manual and whose tests/ are the proof.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

__all__ = [
    "BedrockError", "BedrockTokenError", "Credentials", "CredentialsError", "NoCredentialsError", "NoRegionError",
    "Token", "TokenProvider", "assume_role", "converse", "converse_stream", "decode_token", "get_token",
    "load_credentials", "load_region", "presign", "provide_token",
]

__version__ = "1.0.0"

# Only what is light: about 5 ms over a bare interpreter. What is heavier (re, json, urllib, ssl, subprocess, argparse)
# is imported by the function that needs it, which also shows who reaches the network or starts a process.
import binascii
import hashlib
import hmac
import os
import sys
import time
from datetime import datetime, timedelta, timezone

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
    from concurrent.futures import Future
    from http.client import HTTPResponse
    from typing import Any, NoReturn

    Pairs = Iterable[tuple[str, str]]

# https://docs.aws.amazon.com/bedrock/latest/userguide/api-keys-how.html and AWS's own token generators
_TOKEN_PREFIX = "bedrock-api-key-"
_LONG_TERM_PREFIX = "ABSK"
_TOKEN_HOST = "bedrock.amazonaws.com"  # for every region and partition
_TOKEN_LIFETIME = 12 * 3600
# https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html
_ALGORITHM = "AWS4-HMAC-SHA256"
_UNRESERVED = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.~"
_EMPTY_SHA256 = hashlib.sha256().hexdigest()
_PRESIGN_LIFETIME = 7 * 24 * 3600


# ------------------------------------------------------------------------------------------ errors


class BedrockTokenError(Exception):
    """Base of all errors of this module. A caller's own mistake is a ValueError or a TypeError instead."""


class NoCredentialsError(BedrockTokenError):
    """No credentials are configured; the message lists where they were looked for, in order."""


class CredentialsError(BedrockTokenError):
    """Something is configured and does not work; the message names it and says what to do."""


class NoRegionError(BedrockTokenError):
    """No region is configured, or the configured one cannot be a region."""


# ------------------------------------------------------------------------------------------ values


def _in_utc(moment: datetime, name: str) -> datetime:
    if not isinstance(moment, datetime):
        raise TypeError(f"{name} must be a datetime, not {type(moment).__name__}")
    if moment.utcoffset() is None:
        raise ValueError(f"{name} must be an aware datetime (with a tzinfo)")
    return moment.astimezone(timezone.utc)


def _is_plain(text: object) -> bool:
    """Whether it can stand in a header: a string of printable ASCII without blanks, not empty."""
    return isinstance(text, str) and text.isascii() and text.isprintable() and text != "" and " " not in text


class Credentials:
    """AWS credentials: an immutable snapshot, compared by value, whose repr shows no secret.

    `expiration` is an aware datetime (kept in UTC) or None; `source` says in words where they came from.
    Raises ValueError for a key that is empty or has blanks or control characters, and for a naive expiration.
    """

    __slots__ = ("access_key_id", "secret_access_key", "session_token", "expiration", "source")
    access_key_id: str
    secret_access_key: str
    session_token: str | None
    expiration: datetime | None
    source: str

    def __init__(
        self, access_key_id: str, secret_access_key: str, session_token: str | None = None,
        expiration: datetime | None = None, source: str = "",
    ) -> None:
        session_token = session_token or None  # botocore's objects may hold an empty one
        keys = {"access_key_id": access_key_id, "secret_access_key": secret_access_key, "session_token": session_token}
        for name, key in keys.items():
            if not _is_plain(key) and not (name == "session_token" and key is None):
                raise ValueError(f"{name} must be a non-empty string without blanks or control characters")
        expiration = None if expiration is None else _in_utc(expiration, "expiration")
        for name, value in zip(self.__slots__, (*keys.values(), expiration, source)):
            object.__setattr__(self, name, value)

    def _values(self) -> tuple[Any, ...]:
        return tuple([getattr(self, name) for name in self.__slots__])

    def __setattr__(self, name: str, value: object = None) -> NoReturn:
        raise AttributeError("Credentials are immutable")

    __delattr__ = __setattr__

    def __eq__(self, other: object) -> bool:
        return self._values() == other._values() if isinstance(other, Credentials) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._values())

    def __reduce__(self) -> tuple[Any, ...]:
        return Credentials, self._values()

    def __repr__(self) -> str:
        kind = "temporary" if self.session_token else "long-term"
        until = f" until {self.expiration.isoformat()}" if self.expiration else ""
        return f"<Credentials {self.access_key_id} ({kind}) from {self.source or 'code'}{until}>"


class Token(str):
    """A bearer token: a str that knows its `expiration` (aware UTC datetime) and `region`; its repr hides it."""

    __slots__ = ("expiration", "region")
    expiration: datetime
    region: str

    def __new__(cls, value: str, expiration: datetime, region: str) -> Token:
        token = str.__new__(cls, value)
        token.expiration, token.region = expiration, region
        return token

    def __reduce__(self) -> tuple[Any, ...]:
        return Token, (str(self), self.expiration, self.region)

    def __repr__(self) -> str:
        return f"<Token {_TOKEN_PREFIX}... for {self.region} until {self.expiration.isoformat()}>"


def _whole_seconds(value: int | timedelta, least: int, most: int, name: str) -> int:
    """A lifetime as an int. A timedelta's fraction is dropped, so that nothing outlives what was asked for."""
    if isinstance(value, timedelta):
        if timedelta(seconds=least) <= value <= timedelta(seconds=most):
            return value // timedelta(seconds=1)
    elif isinstance(value, int) and not isinstance(value, bool) and least <= value <= most:
        return int(value)
    what = repr(value) if isinstance(value, (int, float, timedelta)) else f"a {type(value).__name__}"
    raise ValueError(f"{name} must be whole seconds or a timedelta, from {least} to {most} seconds, not {what}")


def _frozen(credentials: Any) -> Credentials:
    """One consistent snapshot of ours, of botocore's kind, or of what a callable returns of either."""
    if isinstance(credentials, Credentials):
        return credentials
    if callable(credentials):
        credentials = credentials()
        if credentials is None:
            raise NoCredentialsError("the given credentials callable returned None: it found no credentials")
        if isinstance(credentials, Credentials):
            return credentials
    # Read field by field, refreshable credentials could change between two fields; frozen ones cannot.
    freeze = getattr(credentials, "get_frozen_credentials", None)
    frozen = freeze() if freeze else credentials
    try:
        keys = frozen.access_key, frozen.secret_key, frozen.token
    except AttributeError:
        raise TypeError(
            "credentials must be Credentials, an object with access_key, secret_key and token,"
            f" or a callable that returns either, not {type(credentials).__name__}"
        ) from None
    # botocore tells nobody else when its refreshable credentials end, and the token ends with them.
    expiration = getattr(credentials, "_expiry_time", None)
    return Credentials(*keys, expiration if isinstance(expiration, datetime) else None, source="code")


def _region(region: str) -> str:
    """The region without surrounding blanks; ValueError if it does not look like one (us-east-1)."""
    if not isinstance(region, str):
        raise TypeError(f"region must be a string, not {type(region).__name__}")
    name = region.strip()
    first, *middle, last = name.split("-") if "-" in name else ("", "")
    well_formed = first.isalpha() and middle and all([part.isalnum() for part in middle]) and last.isdigit()
    if not (well_formed and name.isascii() and name.islower()):
        what = repr(name) if len(name) < 25 and name.islower() and _is_plain(name) else "this"  # no misplaced secret
        raise ValueError(f"{what} is not a region; one looks like us-east-1")
    return name


# ----------------------------------------------------------------------------- Signature Version 4
#
# https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html
# The functions have the names of that page's steps. _presigned_query() puts the signature into the query,
# _authorization() into a header; both go through the same stages.


def _uri_encode(text: str) -> str:
    """Percent-encode all but the unreserved characters.

    One replacement over the whole string for each reserved byte that occurs in it: for a session token many times
    faster than a step per character. "%" goes first, since the others are replaced with it.
    """
    data = text.encode("utf-8")
    reserved = data.translate(None, _UNRESERVED)
    if not reserved:
        return text
    data, reserved = data.replace(b"%", b"%25"), reserved.replace(b"%", b"")
    while reserved:
        byte = reserved[:1]
        data = data.replace(byte, b"%%%02X" % ord(byte))
        reserved = reserved.replace(byte, b"")
    return data.decode("ascii")


def _canonical_uri(path: str, normalize: bool = True) -> str:
    if normalize:
        segments: list[str] = []
        for segment in path.split("/"):
            if segment == "..":
                del segments[-1:]
            elif segment not in ("", "."):
                segments.append(segment)
        path = "/" + "/".join(segments) + ("/" if segments and path.endswith("/") else "")
    return "/".join(map(_uri_encode, path.split("/")))


def _encoded(pairs: Pairs) -> list[tuple[str, str]]:
    return [(_uri_encode(name), _uri_encode(value)) for name, value in pairs]


def _query_string(encoded: Pairs) -> str:
    return "&".join(map("=".join, encoded))


def _canonical_query(pairs: Pairs) -> str:
    return _query_string(sorted(_encoded(pairs)))


def _canonical_headers(headers: Pairs) -> tuple[str, str]:
    """The block of canonical headers, and the list of their names ("signed headers")."""
    values: dict[str, str] = {}
    for name, value in headers:
        name, value = name.strip().lower(), " ".join(value.split())
        values[name] = f"{values[name]},{value}" if name in values else value
    names = sorted(values)
    return "".join([f"{name}:{values[name]}\n" for name in names]), ";".join(names)


def _canonical_request(method: str, uri: str, query: str, headers: str, signed_headers: str, payload_hash: str) -> str:
    return "\n".join((method, uri, query, headers, signed_headers, payload_hash))


def _string_to_sign(timestamp: str, scope: str, canonical_request: str) -> str:
    digest = hashlib.sha256(canonical_request.encode("utf-8")).hexdigest()
    return f"{_ALGORITHM}\n{timestamp}\n{scope}\n{digest}"


def _signing_key(secret: str, date: str, region: str, service: str) -> bytes:
    key = f"AWS4{secret}".encode("utf-8")
    for part in (date, region, service, "aws4_request"):
        key = hmac.digest(key, part.encode("utf-8"), "sha256")
    return key


def _signature(key: bytes, string_to_sign: str) -> str:
    return hmac.digest(key, string_to_sign.encode("utf-8"), "sha256").hex()


def _timestamp_and_scope(now: datetime, region: str, service: str) -> tuple[str, str]:
    parts = (now.year, now.month, now.day, now.hour, now.minute, now.second)
    timestamp = "%04d%02d%02dT%02d%02d%02dZ" % parts  # more than twice as fast as strftime
    return timestamp, f"{timestamp[:8]}/{region}/{service}/aws4_request"


def _sign(credentials: Credentials, timestamp: str, scope: str, canonical_request: str) -> str:
    key = _signing_key(credentials.secret_access_key, *scope.split("/")[:3])
    return _signature(key, _string_to_sign(timestamp, scope, canonical_request))


def _presigned_query(
    method: str, host: str, uri: str, query: Pairs, headers: Pairs, payload_hash: str, *, service: str, region: str,
    credentials: Credentials, expires_in: int, now: datetime, sign_session_token: bool = True,
) -> str:
    """The signed query: what was given, then the X-Amz- parameters in the order AWS's Python code emits them."""
    timestamp, scope = _timestamp_and_scope(now, region, service)
    header_block, signed_headers = _canonical_headers([("host", host), *headers])
    signed = _encoded(query) + [
        ("X-Amz-Algorithm", _ALGORITHM),
        ("X-Amz-Credential", _uri_encode(f"{credentials.access_key_id}/{scope}")),
        ("X-Amz-Date", timestamp),
        ("X-Amz-Expires", str(expires_in)),
        ("X-Amz-SignedHeaders", _uri_encode(signed_headers)),
    ]
    unsigned: list[tuple[str, str]] = []
    if credentials.session_token:
        to = signed if sign_session_token else unsigned
        to.append(("X-Amz-Security-Token", _uri_encode(credentials.session_token)))
    canonical_query = _query_string(sorted(signed))
    request = _canonical_request(method, uri, canonical_query, header_block, signed_headers, payload_hash)
    signature = _sign(credentials, timestamp, scope, request)
    return _query_string([*signed, *unsigned, ("X-Amz-Signature", signature)])


def _authorization(
    method: str, host: str, path: str, query: Pairs, headers: Pairs, payload_hash: str, *, service: str, region: str,
    credentials: Credentials, now: datetime, normalize: bool = True, sign_session_token: bool = True,
) -> list[tuple[str, str]]:
    """The headers to add to a request so that it is signed; `headers` and host are signed with them."""
    timestamp, scope = _timestamp_and_scope(now, region, service)
    signed = [("x-amz-date", timestamp)]
    unsigned: list[tuple[str, str]] = []
    if credentials.session_token:
        (signed if sign_session_token else unsigned).append(("x-amz-security-token", credentials.session_token))
    header_block, signed_headers = _canonical_headers([("host", host), *headers, *signed])
    uri, canonical_query = _canonical_uri(path, normalize), _canonical_query(query)
    request = _canonical_request(method, uri, canonical_query, header_block, signed_headers, payload_hash)
    credential = f"{_ALGORITHM} Credential={credentials.access_key_id}/{scope}"
    signature = _sign(credentials, timestamp, scope, request)
    authorization = f"{credential}, SignedHeaders={signed_headers}, Signature={signature}"
    return [*signed, *unsigned, ("authorization", authorization)]


# ----------------------------------------------------------------------------------------- minting


def _mint(credentials: Credentials, region: str, expires_in: int, now: datetime) -> Token:
    """The token itself: a presigned POST to Bedrock in base64, signed for no header but host, with no body."""
    ends = credentials.expiration
    if ends is not None and ends <= now:
        source = credentials.source or "code"
        raise CredentialsError(f"the credentials from {source} have expired already, at {ends.isoformat()}")
    query = _presigned_query(
        "POST", _TOKEN_HOST, "/", [("Action", "CallWithBearerToken")], (), _EMPTY_SHA256,
        service="bedrock", region=region, credentials=credentials, expires_in=expires_in, now=now,
    )
    url = f"{_TOKEN_HOST}/?{query}&Version=1"
    value = _TOKEN_PREFIX + binascii.b2a_base64(url.encode("ascii"), newline=False).decode("ascii")
    expiration = now + timedelta(seconds=expires_in, microseconds=-now.microsecond)  # it is signed in whole seconds
    return Token(value, expiration if ends is None else min(expiration, ends), region)


# -------------------------------------------------------------------------- reading and presigning


def _account_of(access_key_id: str) -> str | None:
    """The account id in an access key id, for keys made since 2019. A community finding, not AWS's word."""
    import base64

    try:
        number = int.from_bytes(base64.b32decode(access_key_id[4:])[:6], "big")
    except ValueError:
        return None
    account = (number & 0x7FFFFFFFFF80) >> 7
    new = len(access_key_id) == 20 and access_key_id[4] in "QRSTUVWXYZ234567"
    return f"{account:012d}" if new and account < 10**12 else None


def decode_token(token: str) -> dict[str, Any]:
    """What a token says of itself, read offline and not verified. Never the signature or another secret.

    A short-term key gives `kind` ("short-term"), `access_key_id`, `region`, `service`, `issued_at` and `expires_at`
    (aware UTC datetimes), `expires_in` (seconds, as signed), `temporary` (made from temporary credentials, which may
    end earlier) and, where the key id encodes it, `account_id`. A long-term one gives `kind` ("long-term"), `user_name`
    and `account_id`. Raises ValueError if it is neither, or damaged.
    """
    import base64
    from urllib.parse import unquote

    if not isinstance(token, str):
        raise TypeError(f"token must be a string, not {type(token).__name__}")
    prefix = next((prefix for prefix in (_TOKEN_PREFIX, _LONG_TERM_PREFIX) if token.startswith(prefix)), None)
    if prefix is None:
        raise ValueError(f"not a Bedrock API key: it must start with {_TOKEN_PREFIX} or {_LONG_TERM_PREFIX}")
    damaged = f"the token is damaged or cut off (it has {len(token)} characters)"
    try:
        text = base64.b64decode(token[len(prefix):], validate=True).decode("ascii", "replace")
    except ValueError:
        raise ValueError(damaged) from None
    if prefix == _LONG_TERM_PREFIX:
        user_name, colon, _ = text.partition(":")
        account = user_name.rpartition("-at-")[2]
        named = colon and user_name.startswith("BedrockAPIKey-") and _is_plain(user_name)
        if not (named and account.isdigit() and len(account) == 12):
            raise ValueError("not a long-term Bedrock API key: its content has another form")
        return {"kind": "long-term", "user_name": user_name, "account_id": account}

    address, _, query = text.partition("?")
    pairs = [(name, unquote(value)) for name, _, value in (pair.partition("=") for pair in query.split("&"))]
    values = dict(pairs)
    if address.rstrip("/") != _TOKEN_HOST or values.get("Action") != "CallWithBearerToken":
        raise ValueError("not a short-term Bedrock API key: it holds something else than a call of Bedrock")
    needed = ("X-Amz-Credential", "X-Amz-Date", "X-Amz-Expires", "X-Amz-Signature", "Version")
    missing = [name for name in needed if not values.get(name)]
    if missing:
        raise ValueError(f"{damaged}: {', '.join(missing)} missing")
    if len(values) < len(pairs):
        raise ValueError("the token is damaged: a parameter stands in it twice")
    try:
        access_key_id, date, region, service, terminator = values["X-Amz-Credential"].rsplit("/", 4)
        if not _is_plain(values["X-Amz-Credential"]):
            raise ValueError
        issued_at = datetime.strptime(values["X-Amz-Date"] + "+0000", "%Y%m%dT%H%M%SZ%z")
        lifetime = _whole_seconds(int(values["X-Amz-Expires"]), 1, _TOKEN_LIFETIME, "X-Amz-Expires")
        expires_at = issued_at + timedelta(seconds=lifetime)
    except (ValueError, OverflowError):
        raise ValueError("the token is damaged: its scope, date or lifetime cannot be read") from None
    said = (values["X-Amz-Date"], f"{date}/{region}/{service}/{terminator}", values["X-Amz-Expires"])
    if said != (*_timestamp_and_scope(issued_at, region, service), str(lifetime)):
        raise ValueError("the token is damaged: its scope, date or lifetime is not as it is signed")
    account_id = _account_of(access_key_id)
    return {
        "kind": "short-term", "access_key_id": access_key_id, **({"account_id": account_id} if account_id else {}),
        "region": region, "service": service, "issued_at": issued_at, "expires_at": expires_at, "expires_in": lifetime,
        "temporary": "X-Amz-Security-Token" in values,
    }


def presign(
    method: str, host: str, path: str = "/", query: Pairs = (), *, headers: Pairs = (), body: bytes | None = b"",
    service: str, region: str, credentials: Credentials, expires_in: int | timedelta = 900,
    now: datetime | None = None, normalize: bool = True, sign_session_token: bool = True,
) -> str:
    """Presign any AWS request: the URL that makes it, good for `expires_in` seconds (1 to 604800) from `now`.

    `path` is taken as it will stand on the wire, so encode it first. `query` and `headers` are pairs of raw strings;
    every header is signed beside host and has to be sent with the request. `body` None signs UNSIGNED-PAYLOAD.
    `normalize` False keeps dot and empty segments in the signed path; for the service "s3" the path is signed as it
    stands. `sign_session_token` False appends the session token unsigned (AWS IoT). Raises ValueError or TypeError for
    what cannot be signed. https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html
    """
    query, headers = list(query), list(headers)
    for pair in [*query, *headers]:
        if not (isinstance(pair, tuple) and len(pair) == 2 and all(isinstance(part, str) for part in pair)):
            raise TypeError("query and headers must be (name, value) pairs of strings")
    if not (_is_plain(method) and method.isalpha() and method.isupper()):
        raise ValueError(f"method must be upper-case letters, not {method!r}")
    if not _is_plain(host) or not set("/?#@\\").isdisjoint(host):
        raise ValueError(f"host must be a host name, with a port or without, not {host!r}")
    if not isinstance(path, str) or path[:1] != "/" or not path.isprintable() or not set("?#").isdisjoint(path):
        raise ValueError('path must start with "/" and have no "?", "#" or control characters')
    for name, part in (("service", service), ("region", region)):
        if not _is_plain(part) or "/" in part:
            raise ValueError(f"{name} is not usable in a credential scope: {part!r}")
    if any(name.lower().startswith("x-amz-") for name, _ in query):
        raise ValueError("query must not hold X-Amz- parameters, the signature adds them")
    for name, value in headers:
        if name.lower() == "host" or not _is_plain(name) or ":" in name or not set("\r\n\0").isdisjoint(value):
            raise ValueError(f"header {name!r} is host, which is an argument of its own, or cannot be sent as it is")
    signed = _presigned_query(
        method, host, path if service == "s3" else _canonical_uri(path, normalize), query, headers,
        "UNSIGNED-PAYLOAD" if body is None else hashlib.sha256(body).hexdigest(),
        service=service, region=region, credentials=_frozen(credentials), sign_session_token=sign_session_token,
        expires_in=_whole_seconds(expires_in, 1, _PRESIGN_LIFETIME, "expires_in"),
        now=datetime.now(timezone.utc) if now is None else _in_utc(now, "now"),
    )
    return f"https://{host}{path}?{signed}"


# ---------------------------------------------------------------------------------------- settings
#
# https://docs.aws.amazon.com/sdkref/latest/guide/file-format.html

_REGION_VARIABLES = ("AWS_REGION", "AWS_DEFAULT_REGION")
# Service, as settings name it -> first part of its host name, which also marks FIPS hosts.
_HOSTS = {
    "sts": "sts", "sso": "portal.sso", "sso_oidc": "oidc", "bedrock": "bedrock", "bedrock_runtime": "bedrock-runtime",
}
# Region prefix -> DNS suffix, dual-stack DNS suffix.
_PARTITIONS = {
    "cn-": ("amazonaws.com.cn", "api.amazonwebservices.com.cn"),
    "us-iso-": ("c2s.ic.gov", "api.aws.ic.gov"),
    "us-isob-": ("sc2s.sgov.gov", "api.aws.scloud"),
    "us-isof-": ("csp.hci.ic.gov", "api.aws.hci.ic.gov"),
    "eu-isoe-": ("cloud.adc-e.uk", "api.cloud-aws.adc-e.uk"),
    "eusc-": ("amazonaws.eu", "api.amazonwebservices.eu"),
    "": ("amazonaws.com", "api.aws"),
}
_GLOBAL_STS = "https://sts.amazonaws.com"
# https://docs.aws.amazon.com/sdkref/latest/guide/feature-sts-regionalized-endpoints.html, "legacy"
_LEGACY_STS_REGIONS = (
    "ap-northeast-1 ap-south-1 ap-southeast-1 ap-southeast-2 ca-central-1 eu-central-1 eu-north-1 eu-west-1 eu-west-2"
    " eu-west-3 sa-east-1 us-east-1 us-east-2 us-west-1 us-west-2"
).split()


def _parse_config(text: str, file: str, kind: str) -> dict[tuple[str, str], dict[str, Any]]:
    """The sections of a file of `kind` "config" or "credentials", by (type, name).

    Types are "profile", "sso-session" and "services". A value is a string, or a dict where it has sub-properties.
    Raises CredentialsError with file and line, never with what the line says.
    """
    import re

    is_name = re.compile(r"[A-Za-z0-9_\-/.%@:+]+").fullmatch
    comment = re.compile(r"[ \t][#;].*")
    sections: dict[tuple[str, str], dict[str, Any]] = {}
    continued: list[tuple[dict[str, Any], str]] = []
    properties: dict[str, Any] | None = None  # of the section we are in; None where it is ignored
    name: str | None = None  # of the property a continuation belongs to; "" where it is dropped
    in_section = False

    def broken(what: str) -> CredentialsError:
        return CredentialsError(f"{file}, line {number}: {what}")

    for number, line in enumerate(text.split("\n"), 1):
        if line.endswith("\r"):
            line = line[:-1]
        content = line.strip(" \t")
        if not content or line[0] in "#;":
            continue
        if line[0] == "[":
            header, bracket, rest = line[1:].partition("]")
            if not bracket or rest.strip(" \t")[:1] not in ("", "#", ";"):
                raise broken('a section must be closed by "]"')
            header = header.strip(" \t")
            if kind == "credentials":
                key = ("profile", header)
            elif header == "default":
                key = ("", header)
            else:
                section_type, _, section_name = header.replace("\t", " ").partition(" ")
                key = (section_type, section_name.strip(" "))
            known = key[0] in ("profile", "sso-session", "services", "") and is_name(key[1])
            properties = sections.setdefault(key, {}) if known else None
            name, in_section = None, True
        elif not in_section:
            raise broken("a section, [...], must come first")
        elif properties is None:
            continue
        elif line[0] not in " \t":
            name, equals, value = line.partition("=")
            name = name.strip(" \t")
            if not equals or not name:
                raise broken('"name = value" expected')
            name = name.lower() if is_name(name) else ""
            if name:
                if "#" in value or ";" in value:
                    value = comment.sub("", value, 1)
                properties[name] = value.strip(" \t")
        elif name is None:
            raise broken("an indented line must follow a property")
        elif name:
            value = properties[name]
            if isinstance(value, list):
                value.append(content)
            elif value and isinstance(value, str):
                properties[name] = [value, content]
                continued.append((properties, name))
            else:
                sub_name, equals, sub_value = content.partition("=")
                sub_name = sub_name.rstrip(" \t")
                if not equals or not sub_name:
                    raise broken('"name = value" expected below a property without a value')
                properties[name] = value or {}
                if is_name(sub_name):
                    properties[name][sub_name.lower()] = sub_value.lstrip(" \t")
    for properties, name in continued:
        if isinstance(properties[name], list):
            properties[name] = "\n".join(properties[name])
    if ("", "default") in sections:
        default = sections.pop(("", "default"))
        sections.setdefault(("profile", "default"), default)  # [profile default] replaces [default]
    return sections


def _read_file(path: str, source: str) -> str | None:
    """The text of a file; None if there is none."""
    try:
        with open(path, "rb") as file:
            data = file.read()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise CredentialsError(f"{source}: {path} cannot be read: {why}") from error
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        pass  # an error raised here would carry this one along, which quotes the file
    raise CredentialsError(f"{source}: {path} is not UTF-8 text")


def _is_http_address(url: str) -> bool:
    """Whether a configured URL can be called: http(s), a host, a sane port, no user name, no strange characters."""
    from urllib.parse import urlsplit

    try:
        parts = urlsplit(url)
        sane = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False
    return sane and _is_plain(url) and set("@\\?#").isdisjoint(url)


class _Config:
    """What is configured: the environment, the chosen profile, and the files, read when first asked for."""

    def __init__(
        self, environ: Mapping[str, str] | None, profile: str | None = None, region: str | None = None, *,
        mfa_code: Callable[[str], str] | None = None, clock: Callable[[], float] = time.time,
    ) -> None:
        self.environ = os.environ if environ is None else environ
        self.explicit = bool(profile)  # a profile named in code switches the environment's credentials off
        self.profile = profile or self.variable("AWS_PROFILE") or self.variable("AWS_DEFAULT_PROFILE") or "default"
        self.explicit_region = None if region is None else _region(region)
        self.mfa_code = mfa_code
        self.clock = clock
        self._sections: dict[tuple[str, str], dict[str, Any]] | None = None

    def now(self) -> datetime:
        return datetime.fromtimestamp(self.clock(), timezone.utc)

    def variable(self, name: str) -> str:
        return (self.environ.get(name) or "").strip()

    def path(self, text: str) -> str:
        """A path with its "~" expanded; unlike os.path.expanduser, HOME comes first on Windows too."""
        if text[:1] != "~" or text[1:2] not in ("", "/", os.sep):
            return os.path.expanduser(text)
        drive_path = self.variable("HOMEDRIVE") + self.variable("HOMEPATH")
        home = self.variable("HOME") or self.variable("USERPROFILE") or drive_path or os.path.expanduser("~")
        return home + text[1:]

    @property
    def files(self) -> tuple[str, str]:
        """The paths of the config and of the credentials file."""
        names = (("AWS_CONFIG_FILE", "~/.aws/config"), ("AWS_SHARED_CREDENTIALS_FILE", "~/.aws/credentials"))
        config, credentials = (self.path(self.variable(name) or default) for name, default in names)
        return config, credentials

    def section(self, kind: str, name: str) -> dict[str, Any] | None:
        if self._sections is None:
            sections: dict[tuple[str, str], dict[str, Any]] = {}
            for file, file_kind in zip(self.files, ("config", "credentials")):
                text = _read_file(file, "configuration") or ""
                for key, properties in _parse_config(text, file, file_kind).items():
                    sections.setdefault(key, {}).update(properties)
            self._sections = sections
        return self._sections.get((kind, name))

    def value(self, name: str, profile: str | None = None) -> str:
        """A property of the given, else the chosen, profile; empty where it is not set.

        Raises CredentialsError if the profile is in neither file; only `default` may be missing.
        """
        profile = profile or self.profile
        properties = self.section("profile", profile)
        if properties is None and profile != "default":
            known = sorted(name for kind, name in self._sections or () if kind == "profile")
            there_are = f"there are: {', '.join(known[:20])}" if known else "there are no profiles"
            raise CredentialsError(f"profile {profile} is in neither {' nor '.join(self.files)}; {there_are}")
        value = (properties or {}).get(name)
        return value if isinstance(value, str) else ""

    def setting(self, name: str) -> str:
        """What AWS_<NAME> says, else the profile's property of that name."""
        return self.variable(f"AWS_{name.upper()}") or self.value(name)

    def is_on(self, name: str) -> bool:
        return self.setting(name).lower() == "true"

    def region(self) -> str | None:
        """The region: the argument, AWS_REGION, AWS_DEFAULT_REGION, the profile's. NoRegionError if malformed."""
        if self.explicit_region:
            return self.explicit_region
        place = next((variable for variable in _REGION_VARIABLES if self.variable(variable)), None)
        configured = self.variable(place) if place else self.value("region")
        try:
            return _region(configured) if configured else None
        except ValueError as error:
            raise NoRegionError(f"{place or f'profile {self.profile}, region'}: {error}") from None

    def endpoint(self, service: str, region: str | None) -> str:
        """The URL a service (a key of _HOSTS) is called at, without a slash at its end.

        https://docs.aws.amazon.com/sdkref/latest/guide/feature-ss-endpoints.html
        """
        url = "" if self.is_on("ignore_configured_endpoint_urls") else self._endpoint_url(service)
        if url:
            if not _is_http_address(url):
                raise CredentialsError(f"the endpoint URL configured for {service} is not an http(s) address")
            return url.rstrip("/")
        if region is None:  # only STS is called without one
            return _GLOBAL_STS
        fips, dualstack = self.is_on("use_fips_endpoint"), self.is_on("use_dualstack_endpoint")
        legacy = service == "sts" and self.setting("sts_regional_endpoints") == "legacy"
        if legacy and region in _LEGACY_STS_REGIONS and not fips and not dualstack:
            return _GLOBAL_STS
        if region.startswith("us-gov-") and not service.startswith("bedrock") and not dualstack:
            fips = False  # the plain hosts are FIPS hosts there
        suffixes = next(suffixes for start, suffixes in _PARTITIONS.items() if region.startswith(start))
        return f"https://{_HOSTS[service]}{'-fips' if fips else ''}.{region}.{suffixes[dualstack]}"

    def _endpoint_url(self, service: str) -> str:
        url = self.variable(f"AWS_ENDPOINT_URL_{service.upper()}") or self.variable("AWS_ENDPOINT_URL")
        name = "" if url else self.value("services")
        services = self.section("services", name) if name else {}
        if services is None:
            raise CredentialsError(f"profile {self.profile} names services {name}, which is not in {self.files[0]}")
        section = services.get(service)
        return url or (section.get("endpoint_url") if isinstance(section, dict) else "") or self.value("endpoint_url")

    def tls_context(self) -> Any:
        import ssl

        bundle = self.path(self.setting("ca_bundle")) or None
        folder = bundle if bundle and os.path.isdir(bundle) else None
        try:
            return ssl.create_default_context(cafile=None if folder else bundle, capath=folder)
        except OSError as error:
            raise CredentialsError(f"the CA bundle {bundle} cannot be used: {error.strerror or error}") from error

    def proxy_for(self, url: str) -> tuple[str, str]:
        """The address of the proxy to use, and the Proxy-Authorization header if its URL has a user; else empty."""
        import base64
        from urllib.parse import unquote, urlsplit
        from urllib.request import proxy_bypass_environment  # type: ignore[attr-defined]

        target = urlsplit(url)
        name = f"{target.scheme}_proxy"
        # A CGI program's HTTP_PROXY is a header that its caller chose.
        upper = "" if name == "http_proxy" and "REQUEST_METHOD" in self.environ else self.variable(name.upper())
        proxy = self.variable(name) or upper
        no_proxy = self.variable("no_proxy") or self.variable("NO_PROXY")
        if not proxy or proxy_bypass_environment(target.netloc, {"no": no_proxy}):
            return "", ""
        user, at, address = proxy.rpartition("://")[2].partition("/")[0].rpartition("@")
        if not _is_http_address(f"http://{address}"):
            raise CredentialsError(f"{name.upper()} is not the address of a proxy")
        return address, "Basic " + base64.b64encode(unquote(user).encode("utf-8")).decode("ascii") if at else ""


# -------------------------------------------------------------------------------------------- HTTP

_CREDENTIAL_TIMEOUT = 10.0  # seconds, over all attempts
_CREDENTIAL_LIMIT = 64 * 1024  # bytes
_TRANSIENT = frozenset((429, *range(500, 600)))


class _NoAnswer(BedrockTokenError):
    """Nobody there, or an answer that is cut off, too slow, too long or not HTTP."""


def _read(response: HTTPResponse, limit: int, deadline: float) -> bytes:
    """The whole body, which has to arrive complete, in time, and within the limit; an OSError says that it did not."""
    expected, body = response.length, bytearray()
    with response:
        while expected is None or len(body) < expected:
            chunk = response.read1(65536)
            if not chunk:
                break
            body += chunk
            if len(body) > limit:
                raise OSError(f"the answer has more than {limit // 1024} KiB")
            if time.monotonic() > deadline:
                raise TimeoutError("the answer took too long")
    if expected is not None and len(body) < expected:
        raise ConnectionError("the answer is cut off")
    return bytes(body)


def _send(
    config: _Config, method: str, url: str, *, headers: Pairs = (), body: bytes | None = None, proxied: bool = True,
    timeout: float = _CREDENTIAL_TIMEOUT, limit: int | None = _CREDENTIAL_LIMIT,
    transient: Collection[int] = _TRANSIENT,
) -> tuple[HTTPResponse, bytes]:
    """One request: its response, of any status, and the body (left unread in the response if `limit` is None).

    Tries three times within `timeout` seconds on connection errors and `transient` statuses, with a short growing
    pause. Never follows a redirect, which could carry credentials elsewhere. Raises _NoAnswer. (Only a head that comes
    in drop by drop can take longer: http.client waits for each drop anew.)
    """
    import random
    import socket
    import ssl
    import urllib.request
    from http.client import HTTPException
    from urllib.parse import urlsplit

    (scheme, host, *_), deadline = urlsplit(url), time.monotonic() + timeout
    # An opener without the default handlers: no redirects, no file: or ftp: addresses, any status is an answer.
    opener = urllib.request.OpenerDirector()
    opener.addheaders = [("User-Agent", f"bedrock_token/{__version__}")]
    opener.add_handler(urllib.request.HTTPHandler())
    if scheme == "https":
        opener.add_handler(urllib.request.HTTPSHandler(context=config.tls_context()))
    proxy, proxy_authorization = config.proxy_for(url) if proxied else ("", "")
    for attempt in (1, 2, 3):
        request = urllib.request.Request(url, body, {"Host": host, **dict(headers)}, method=method)
        if proxy:
            request.set_proxy(proxy, "http")
        if proxy_authorization:
            request.add_header("Proxy-Authorization", proxy_authorization)
        why, final, cause = "", False, None
        try:
            response = opener.open(request, timeout=max(deadline - time.monotonic(), 0.001))
            if response.status not in transient or attempt == 3:
                return response, b"" if limit is None else _read(response, limit, deadline)
            response.close()
            why = f"HTTP {response.status}"
        except (OSError, HTTPException, ValueError) as error:
            reason = getattr(error, "reason", error)
            cause = error if isinstance(reason, OSError) else None  # http.client's own errors quote the answer
            final = attempt == 3 or cause is None
            if isinstance(reason, ssl.SSLCertVerificationError):
                why = f"its certificate is not trusted ({reason.verify_message}); behind a proxy that inspects TLS, set"
                why, final = why + " AWS_CA_BUNDLE to its certificate file", True
            elif isinstance(reason, (TimeoutError, socket.timeout)):
                why, final = f"no answer within {timeout:g} s", True
            elif isinstance(reason, OSError):
                why = reason.strerror or str(reason)
            else:
                why = "the answer is not HTTP"
        if final:
            via = f" through the proxy {proxy}" if proxy else ""
            raise _NoAnswer(f"{host} cannot be used{via}: {why}") from cause
        pause = 0.1 * 3 ** (attempt - 1) * random.uniform(0.7, 1.3)
        if time.monotonic() + pause >= deadline:
            break
        time.sleep(pause)
    raise _NoAnswer(f"{host} cannot be used: {why}, and no better answer within {timeout:g} s")


def _parse_json(data: bytes | bytearray | str) -> Any:
    """The document, or None. An error would quote the text, which may hold credentials."""
    import json

    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        return None


def _error_of(response: HTTPResponse, body: bytes, secrets: Iterable[str | None]) -> tuple[str, str]:
    """Code and message of an error answer in one of AWS's JSON and XML forms, without the secrets it may repeat."""
    import html
    import re

    text = body.decode("utf-8", "replace").strip()
    found = _parse_json(text)
    if not isinstance(found, dict):
        found = {name: html.unescape(value) for name, value in re.findall(r"<(Code|Message)>([^<]*)</", text)}

    def first(*names: str) -> str:
        return next((value for value in map(found.get, names) if isinstance(value, str) and value), "")

    code = response.headers.get("x-amzn-errortype") or first("code", "Code", "__type", "error")
    message = " ".join(first("message", "Message", "error_description").split())
    if text and not code and not message:
        message = "the answer does not come from AWS (a proxy?)"
    message = message or response.reason
    for secret in filter(None, secrets):
        code, message = code.replace(secret, "..."), message.replace(secret, "...")
    return code.partition(":")[0].rpartition("#")[2], message[:500]


def _ask(
    config: _Config, source: str, method: str, url: str, *, hint: str = "", secrets: Iterable[str | None] = (),
    **options: Any,
) -> bytes:
    """The body of a credential service's good answer; CredentialsError, in the name of `source`, for any other."""
    try:
        response, body = _send(config, method, url, **options)
    except _NoAnswer as error:
        raise CredentialsError(f"{source}: {error}") from error
    if response.status == 200:
        return body
    details = ": ".join(filter(None, _error_of(response, body, secrets)))
    hint = f"; {hint}" if hint and response.status in (400, 401, 403) else ""
    raise CredentialsError(f"{source}: HTTP {response.status} {details}{hint}")


# ------------------------------------------------------------------------------ credential sources
#
# One function a source, all alike: source(config, profile) gives credentials if it is configured, None if it is not,
# and raises CredentialsError if it is configured and does not work.
# https://docs.aws.amazon.com/sdkref/latest/guide/standardized-credentials.html

_INSTANCE_METADATA = "instance metadata"
_NO_METADATA = (403, 404, 405)  # what other clouds, and a service that is switched off, say when asked for a token
_CONTAINER_HOSTS = ("localhost", "169.254.170.2", "169.254.170.23", "fd00:ec2::23", "::1")


def _time_of(value: object) -> datetime:
    """The time in an RFC 3339 string (also with AWS's older "UTC"), or in milliseconds since 1970, in UTC."""
    try:
        if isinstance(value, int):
            return datetime.fromtimestamp(value / 1000, timezone.utc)
        text = value.strip() if isinstance(value, str) else ""
        zone = text[19:].lstrip(".0123456789")  # without the fraction: Python 3.9 reads only some of them
        zone = "+00:00" if zone in ("Z", "UTC", "") else zone
        if len(text) >= 19:
            return datetime.fromisoformat(text[:19] + zone).astimezone(timezone.utc)
    except (ValueError, OverflowError, OSError):
        pass  # an error raised here would carry this one along, which quotes the value
    raise ValueError("not a time")


def _left(config: _Config, ends: object) -> timedelta:
    """How long it is until then; nothing if it is not a time."""
    try:
        return _time_of(ends) - config.now()
    except ValueError:
        return timedelta(0)


def _json_object(data: bytes | str, source: str) -> dict[str, Any]:
    document = _parse_json(data)
    if not isinstance(document, dict):
        raise CredentialsError(f"{source}: the answer is not a JSON object")
    return document


def _credentials_from(config: _Config, document: dict[str, Any], source: str, *, temporary: bool = True) -> Credentials:
    """Credentials from any service's document; their field names differ only in case and in two names."""
    fields = {name.lower(): value for name, value in document.items()}
    session_token = fields.get("sessiontoken") or fields.get("token")
    expiration = fields.get("expiration") or fields.get("expiresat")
    needed = {"AccessKeyId": fields.get("accesskeyid"), "SecretAccessKey": fields.get("secretaccesskey")}
    if temporary:
        needed.update({"SessionToken": session_token, "Expiration": expiration})
    missing = [name for name, value in needed.items() if not value]
    if missing:
        raise CredentialsError(f"{source}: {' and '.join(missing)} missing in the answer")
    try:
        ends = _time_of(expiration) if expiration else None
    except ValueError:
        what = "AWS_CREDENTIAL_EXPIRATION" if source == "environment" else "the expiration of the credentials"
        raise CredentialsError(f"{source}: {what} is not a time") from None
    try:
        credentials = Credentials(fields["accesskeyid"], fields["secretaccesskey"], session_token, ends, source)
    except ValueError as error:
        raise CredentialsError(f"{source}: {error}") from None
    if ends is not None and ends <= config.now():
        raise CredentialsError(f"{source}: the credentials have expired already, at {ends.isoformat()}")
    return credentials


def _from_keys(config: _Config, source: str, keys: dict[str, str], expiration: str = "") -> Credentials | None:
    """Static keys: `keys` are access key id, secret access key and session token, by the names they are set with."""
    (id_name, key_id), (secret_name, secret), (_, session_token) = keys.items()
    if not key_id and not secret:
        return None
    if not key_id or not secret:
        there, missing = (id_name, secret_name) if key_id else (secret_name, id_name)
        raise CredentialsError(f"{source}: {there} is set, but {missing} is not")
    for name, value in keys.items():
        if value and not _is_plain(value):
            raise CredentialsError(f"{source}: {name} has blanks or other characters that no key has")
    document = {"AccessKeyId": key_id, "SecretAccessKey": secret, "Token": session_token, "Expiration": expiration}
    return _credentials_from(config, document, source, temporary=False)


def _environment_keys(config: _Config) -> Credentials | None:
    names = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
    keys = {name: config.variable(name) for name in names}
    return _from_keys(config, "environment", keys, config.variable("AWS_CREDENTIAL_EXPIRATION"))


def _from_environment(config: _Config, profile: str) -> Credentials | None:
    return None if config.explicit else _environment_keys(config)


def _from_static_keys(config: _Config, profile: str) -> Credentials | None:
    names = ("aws_access_key_id", "aws_secret_access_key", "aws_session_token")
    return _from_keys(config, f"profile {profile}", {name: config.value(name, profile) for name in names})


def _run(config: _Config, source: str, command: str | list[str]) -> Credentials:
    """Credentials from what a program prints, run without a shell.

    https://docs.aws.amazon.com/sdkref/latest/guide/feature-process-credentials.html
    """
    import subprocess

    try:
        done = subprocess.run(command, env=dict(config.environ), stdout=-1, stderr=-1, timeout=60)
    except subprocess.TimeoutExpired:  # holds the output so far
        raise CredentialsError(f"{source}: the program did not end within 60 s") from None
    except (OSError, ValueError) as error:
        raise CredentialsError(f"{source}: the program cannot be started: {error}") from error
    if done.returncode:
        said = done.stderr.decode("utf-8", "replace").strip().partition("\n")[0][:300]
        said = "".join(char if char.isprintable() else " " for char in said)
        raise CredentialsError(f"{source}: the program ended with status {done.returncode}: {said}")
    document = _json_object(done.stdout, source)
    if document.get("Version") != 1:
        raise CredentialsError(f"{source}: the program's answer has another Version than 1")
    return _credentials_from(config, document, source, temporary=False)


def _from_process(config: _Config, profile: str) -> Credentials | None:
    command = config.value("credential_process", profile)
    if not command:
        return None
    import shlex

    source = f"profile {profile} (credential_process)"
    try:
        return _run(config, source, command if os.name == "nt" else shlex.split(command))
    except ValueError as error:
        raise CredentialsError(f"{source}: the command cannot be split: {error}") from None


def _from_login_session(config: _Config, profile: str) -> Credentials | None:
    """What `aws login` left behind, https://docs.aws.amazon.com/cli/latest/userguide/cli-configure-sign-in.html

    Renewing it needs a proof by elliptic curve, which the standard library cannot make; the AWS CLI, which created the
    session on this machine, can.
    """
    session = config.value("login_session", profile)
    if not session:
        return None
    import shutil

    source = f"profile {profile} (login)"
    folder = config.path(config.variable("AWS_LOGIN_CACHE_DIRECTORY") or "~/.aws/login/cache")
    name = hashlib.sha256(session.encode("utf-8")).hexdigest()
    try:
        cached = _read_file(os.path.join(folder, f"{name}.json"), source)
        if cached is None:
            raise CredentialsError(f"{source}: nobody has signed in")
        keys = _json_object(cached, source).get("accessToken")
        if isinstance(keys, dict) and _left(config, keys.get("expiresAt")) > timedelta(seconds=60):
            return _credentials_from(config, keys, source)
        program = shutil.which("aws", path=config.environ.get("PATH"))
        if program is None:
            raise CredentialsError(f"{source}: the session has expired, and there is no AWS CLI to renew it")
        command = [program, "configure", "export-credentials", "--profile", profile, "--format", "process"]
        return _run(config, source, command)
    except CredentialsError as error:
        raise CredentialsError(f"{error}; run: aws login --profile {profile}") from error


def _replace_file(path: str, text: str) -> None:
    """Put a new file, which only its owner can read, in the place of another in one step, or leave that as it is."""
    temporary = f"{path}.{os.getpid()}.{os.urandom(4).hex()}.tmp"
    try:
        with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
            file.write(text)
        os.replace(temporary, path)
    except OSError:  # a read-only home, say: what was to be kept is good all the same
        try:
            os.unlink(temporary)
        except OSError:
            pass


def _sso_access_token(config: _Config, source: str, session: str, start_url: str, sso_region: str) -> str:
    """The access token of a session the AWS CLI has signed in, renewed if it is about to end and can be.

    https://docs.aws.amazon.com/singlesignon/latest/OIDCAPIReference/API_CreateToken.html
    """
    import json

    name = hashlib.sha1((session or start_url).encode("utf-8"), usedforsecurity=False).hexdigest()
    path = os.path.join(config.path("~/.aws/sso/cache"), f"{name}.json")

    def cached() -> tuple[dict[str, Any], timedelta]:
        text = _read_file(path, source)
        if text is None:
            raise CredentialsError(f"{source}: nobody has signed in")
        cache = _json_object(text, source)
        return cache, _left(config, cache.get("expiresAt")) if _is_plain(cache.get("accessToken")) else timedelta(0)

    cache, left = cached()
    client = {name: cache.get(name) for name in ("clientId", "clientSecret", "refreshToken")}
    renewable = session and all(client.values()) and _left(config, cache.get("registrationExpiresAt")) > timedelta(0)
    if renewable and left < timedelta(minutes=15):
        url = f"{config.endpoint('sso_oidc', sso_region)}/token"
        request = json.dumps({"grantType": "refresh_token", **client}).encode("utf-8")
        headers = [("Content-Type", "application/json")]
        try:
            options: Any = {"headers": headers, "body": request, "secrets": client.values()}
            answer = _json_object(_ask(config, source, "POST", url, **options), source)
            token, seconds = answer.get("accessToken"), answer.get("expiresIn")
            if not _is_plain(token) or not isinstance(seconds, int) or not 0 < seconds < 10**9:
                raise CredentialsError(f"{source}: accessToken or expiresIn missing in the answer")
            ends = config.now() + timedelta(seconds=seconds)
            cache.update(accessToken=token, expiresAt=ends.strftime("%Y-%m-%dT%H:%M:%SZ"))
            cache["refreshToken"] = answer.get("refreshToken") or cache["refreshToken"]
            _replace_file(path, json.dumps(cache))
            return str(token)
        except CredentialsError:
            cache, left = cached()  # another process may have renewed it meanwhile, which ends our refresh token
            if left <= timedelta(0):
                raise
    if left <= timedelta(0):
        raise CredentialsError(f"{source}: the session has expired")
    return str(cache["accessToken"])


def _from_sso(config: _Config, profile: str) -> Credentials | None:
    """IAM Identity Center, https://docs.aws.amazon.com/sdkref/latest/guide/feature-sso-credentials.html"""
    names = ("sso_account_id", "sso_role_name", "sso_region", "sso_start_url")
    settings = {name: config.value(name, profile) for name in names}
    if not settings["sso_account_id"] and not settings["sso_role_name"]:
        return None
    from urllib.parse import urlencode

    source, hint = f"profile {profile} (sso)", f"run: aws sso login --profile {profile}"
    session = config.value("sso_session", profile)
    section = config.section("sso-session", session) if session else {}
    if section is None:
        raise CredentialsError(f"{source}: the sso-session {session} is not in {config.files[0]}")
    for name in names:
        value = section.get(name)
        if settings[name] and value is not None and value != settings[name]:
            raise CredentialsError(f"{source}: {name} in the profile and in sso-session {session} differ")
        settings[name] = settings[name] or (value if isinstance(value, str) else "")
    missing = [name for name, value in settings.items() if not value]
    if missing:
        raise CredentialsError(f"{source}: {', '.join(missing)} missing in {config.files[0]}")
    try:
        sso_region = _region(settings["sso_region"])
    except ValueError as error:
        raise CredentialsError(f"{source}, sso_region: {error}") from None
    try:
        token = _sso_access_token(config, source, session, settings["sso_start_url"], sso_region)
    except CredentialsError as error:
        raise CredentialsError(f"{error}; {hint}") from error
    query = urlencode({"role_name": settings["sso_role_name"], "account_id": settings["sso_account_id"]})
    url = f"{config.endpoint('sso', sso_region)}/federation/credentials?{query}"
    options: Any = {"headers": [("x-amz-sso_bearer_token", token)], "secrets": [token]}
    answer = _ask(config, source, "GET", url, hint=f"if the session has ended, {hint}", **options)
    credentials = _json_object(answer, source).get("roleCredentials")
    return _credentials_from(config, credentials if isinstance(credentials, dict) else {}, source)


def _sts(config: _Config, source: str, parameters: dict[str, str], signer: Credentials | None) -> Credentials:
    """Temporary credentials from STS, https://docs.aws.amazon.com/STS/latest/APIReference/welcome.html

    The signature goes into the Authorization header, so that no credentials stand in a URL that a proxy logs.
    """
    from urllib.parse import urlencode, urlsplit
    from xml.etree import ElementTree

    region = config.region() or "us-east-1"
    url = config.endpoint("sts", config.region()) + "/"
    body = urlencode({"Version": "2011-06-15", **parameters}).encode("ascii")
    headers = [("Content-Type", "application/x-www-form-urlencoded")]
    if signer is not None:
        _, host, path, _, _ = urlsplit(url)
        headers += _authorization(
            "POST", host, path, (), headers, hashlib.sha256(body).hexdigest(), service="sts",
            region="us-east-1" if url == f"{_GLOBAL_STS}/" else region, credentials=signer, now=config.now(),
        )
    secrets = [signer.session_token if signer else parameters["WebIdentityToken"]]
    answer = _ask(config, source, "POST", url, headers=headers, body=body, secrets=secrets)
    try:
        found = ElementTree.fromstring(answer).find(".//{*}Credentials")
    except (ElementTree.ParseError, ValueError, LookupError):
        raise CredentialsError(f"{source}: the answer is not XML") from None
    fields = {} if found is None else {child.tag.rpartition("}")[2]: child.text for child in found}
    return _credentials_from(config, fields, source)


def _role_parameters(source: str, role_arn: str, session_name: str, duration: str, **more: str) -> dict[str, str]:
    """The parameters that the two calls which assume a role share. For what STS would refuse: a CredentialsError of
    `source`, or a ValueError where that is empty, since then code gave them."""
    import re

    session_name = session_name or f"bedrock_token-{int(time.time())}"
    problem = ""
    if not re.fullmatch(r"arn:[\w-]+:iam::\d{12}:role/[\x21-\x7e]+", role_arn, re.ASCII):
        problem = "role_arn is not the ARN of a role (arn:aws:iam::123456789012:role/NAME)"
    elif not re.fullmatch(r"[\w+=,.@-]{2,64}", session_name, re.ASCII):
        problem = "the role session name must be 2 to 64 letters, digits or _+=,.@-"
    elif duration and not (re.fullmatch(r"\d{3,5}", duration, re.ASCII) and 900 <= int(duration) <= 43200):
        problem = "the duration must be from 900 to 43200 seconds"
    if problem:
        raise CredentialsError(f"{source}: {problem}") if source else ValueError(problem)
    parameters = {"RoleArn": role_arn, "RoleSessionName": session_name, "DurationSeconds": duration, **more}
    return {name: value for name, value in parameters.items() if value}


def _assume_role(
    config: _Config, source: str, parameters: dict[str, str], signer: Credentials, mfa_serial: str
) -> Credentials:
    """https://docs.aws.amazon.com/STS/latest/APIReference/API_AssumeRole.html"""
    if mfa_serial:
        if config.mfa_code is None:
            raise CredentialsError(f"{source}: the role asks for a code of the MFA device {mfa_serial}; pass mfa_code")
        code = str(config.mfa_code(mfa_serial)).strip()
        if not (code.isascii() and code.isdigit() and len(code) == 6):
            raise CredentialsError(f"{source}: the code of the MFA device {mfa_serial} must be six digits")
        parameters = {**parameters, "SerialNumber": mfa_serial, "TokenCode": code}
    return _sts(config, source, {"Action": "AssumeRole", **parameters}, signer)


def _web_identity(
    config: _Config, source: str, token_file: str, role_arn: str, session_name: str, duration: str = ""
) -> Credentials | None:
    """https://docs.aws.amazon.com/STS/latest/APIReference/API_AssumeRoleWithWebIdentity.html, an unsigned call."""
    if not token_file:
        return None
    if not role_arn:
        name = "AWS_ROLE_ARN" if source.startswith("environment") else "role_arn"
        raise CredentialsError(f"{source}: a web identity token file is configured, but {name} is not")
    source = f"{source[:-1]}, role {role_arn})"
    parameters = _role_parameters(source, role_arn, session_name, duration)
    path = config.path(token_file)
    token = (_read_file(path, source) or "").strip()  # at every call: the file is rewritten before the token ends
    if not token:
        raise CredentialsError(f"{source}: the web identity token file {path} is missing or empty")
    parameters = {"Action": "AssumeRoleWithWebIdentity", "WebIdentityToken": token, **parameters}
    return _sts(config, source, parameters, None)


def _from_web_identity_environment(config: _Config, profile: str) -> Credentials | None:
    names = ("AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_ROLE_ARN", "AWS_ROLE_SESSION_NAME")
    token_file, role_arn, session_name = map(config.variable, names)
    token_file = "" if config.explicit else token_file
    return _web_identity(config, "environment (web identity)", token_file, role_arn, session_name)


def _from_web_identity_profile(config: _Config, profile: str) -> Credentials | None:
    names = ("web_identity_token_file", "role_arn", "role_session_name", "duration_seconds")
    token_file, role_arn, session_name, duration = (config.value(name, profile) for name in names)
    source = f"profile {profile} (web identity)"
    return _web_identity(config, source, token_file, role_arn, session_name, duration)


def _is_container_host(host: str) -> bool:
    """Whether credentials may be asked for without TLS there. Other spellings of an address are as good as a name."""
    from ipaddress import ip_address, ip_network

    try:
        ip = ip_address(host)
        # str(ip) == host: before Python 3.9.5 0177.0.0.1 passed for an address.
        return host in _CONTAINER_HOSTS or (str(ip) == host and ip in ip_network("127.0.0.0/8"))
    except ValueError:
        return host in _CONTAINER_HOSTS


def _from_container(config: _Config, profile: str) -> Credentials | None:
    """ECS, EKS Pod Identity, Lambda SnapStart, CloudShell.

    The address gets an authorization token, so it must be https or one of AWS's own.
    https://docs.aws.amazon.com/sdkref/latest/guide/feature-container-credentials.html
    """
    from urllib.parse import urlsplit

    source = "container"
    relative = config.variable("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI")
    url = f"http://169.254.170.2{relative}" if relative else config.variable("AWS_CONTAINER_CREDENTIALS_FULL_URI")
    if not url:
        return None
    if not _is_http_address(url.partition("?")[0]) or "#" in url or not _is_plain(url) or relative[:1] not in ("", "/"):
        raise CredentialsError(f"{source}: the URI of the container's credentials is not an address")
    host = urlsplit(url).hostname or ""
    if not url.lower().startswith("https:") and not _is_container_host(host):
        where = "https, or http to 127.0.0.0/8 or to " + ", ".join(_CONTAINER_HOSTS)
        raise CredentialsError(f"{source}: AWS_CONTAINER_CREDENTIALS_FULL_URI must be {where}, not to {host}")
    token = config.environ.get("AWS_CONTAINER_AUTHORIZATION_TOKEN") or ""
    token_file = config.variable("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE")
    if token_file:
        token = _read_file(config.path(token_file), source) or ""  # at every call: it is rewritten
        if not token.strip():
            raise CredentialsError(f"{source}: the authorization token file {token_file} is missing or empty")
    token = token.strip()
    if not (token.isascii() and token.isprintable()):
        raise CredentialsError(f"{source}: the authorization token has characters that no header can have")
    headers = [("Accept", "application/json"), ("Authorization", token)][:2 if token else 1]
    answer = _ask(config, source, "GET", url, headers=headers, secrets=[token], timeout=5.0, proxied=False)
    return _credentials_from(config, _json_object(answer, source), source)


def _metadata(config: _Config) -> Callable[[str], tuple[int, str]] | None:
    """A function that reads a path of this instance's metadata, after asking for its token; None if nobody is there.

    https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/configuring-instance-metadata-service.html, version 2.
    """
    source = _INSTANCE_METADATA
    mode = (config.setting("ec2_metadata_service_endpoint_mode") or "IPv4").lower()
    if mode not in ("ipv4", "ipv6"):
        raise CredentialsError(f"{source}: AWS_EC2_METADATA_SERVICE_ENDPOINT_MODE must be IPv4 or IPv6")
    default = "http://169.254.169.254" if mode == "ipv4" else "http://[fd00:ec2::254]"
    base = (config.setting("ec2_metadata_service_endpoint") or default).rstrip("/")
    if not _is_http_address(base):
        raise CredentialsError(f"{source}: AWS_EC2_METADATA_SERVICE_ENDPOINT is not an http address")
    try:
        timeout = float(config.setting("metadata_service_timeout") or 1)
        timeout *= int(config.setting("metadata_service_num_attempts") or 1)
    except (ValueError, OverflowError):
        timeout = 0.0
    if not 0 < timeout <= 3600:
        raise CredentialsError(f"{source}: AWS_METADATA_SERVICE_TIMEOUT and _NUM_ATTEMPTS must be numbers above 0")

    def ask(method: str, path: str, name: str, value: str) -> tuple[int, str]:
        url = f"{base}/latest/{path}"
        response, body = _send(config, method, url, headers=[(name, value)], timeout=timeout, proxied=False)
        return response.status, body.decode("utf-8", "replace").strip()

    def read(path: str) -> tuple[int, str]:
        try:
            return ask("GET", f"meta-data/{path}", "x-aws-ec2-metadata-token", token)
        except _NoAnswer as error:
            raise CredentialsError(f"{source}: {error}") from error

    try:
        status, token = ask("PUT", "api/token", "x-aws-ec2-metadata-token-ttl-seconds", "21600")
    except _NoAnswer:
        return None
    if status != 200 or not _is_plain(token):
        if status in _NO_METADATA:
            return None
        raise CredentialsError(f"{source}: a request for a token was answered with HTTP {status} and no token")
    return read


def _from_instance_metadata(config: _Config, profile: str) -> Credentials | None:
    """The role of the EC2 instance, https://docs.aws.amazon.com/sdkref/latest/guide/feature-imds-credentials.html"""
    source = _INSTANCE_METADATA
    read = None if config.variable("AWS_EC2_METADATA_DISABLED").lower() == "true" else _metadata(config)
    status, role = read("iam/security-credentials/") if read else (404, "")
    if read is None or status == 404:  # 404: an instance without a role
        return None
    role = role.partition("\n")[0]
    if status != 200 or not _is_plain(role) or not set("/?#<").isdisjoint(role):
        raise CredentialsError(f"{source}: the request for the role's name was answered with HTTP {status} and no name")
    status, text = read(f"iam/security-credentials/{role}")
    if status != 200:
        raise CredentialsError(f"{source}: the request for the credentials of {role} was answered with HTTP {status}")
    document = _json_object(text, source)
    if document.get("Code", "Success") != "Success":
        raise CredentialsError(f"{source}: the service itself says that it has no credentials of {role}")
    return _credentials_from(config, document, source)


_PROFILE_SOURCES = (_from_web_identity_profile, _from_sso, _from_static_keys, _from_login_session, _from_process)
_CREDENTIAL_SOURCES: dict[str, Callable[[_Config], Credentials | None]] = {
    "environment": _environment_keys,
    "ec2instancemetadata": lambda config: _from_instance_metadata(config, ""),
    "ecscontainer": lambda config: _from_container(config, ""),
}


def _from_role(config: _Config, profile: str, walked: tuple[str, ...] = ()) -> Credentials | None:
    """A profile with role_arn, https://docs.aws.amazon.com/sdkref/latest/guide/feature-assume-role-credentials.html

    `walked` are the profiles on the way here, each of which names the next as its source.
    """
    names = ("role_arn", "source_profile", "credential_source", "role_session_name", "duration_seconds", "external_id")
    role_arn, base, origin, session_name, duration, external_id = (config.value(name, profile) for name in names)
    if not role_arn or config.value("web_identity_token_file", profile):
        return None
    way = f"profile {' -> '.join((*walked, profile))}"
    if bool(base) == bool(origin):
        which = "both are there" if base else "neither is there"
        raise CredentialsError(f"{way}: a role needs one of source_profile and credential_source, {which}")
    if base:
        signer = _source_profile(config, base, (*walked, profile))
    elif origin.lower() in _CREDENTIAL_SOURCES:
        signer = _CREDENTIAL_SOURCES[origin.lower()](config)
    else:
        raise CredentialsError(f"{way}: credential_source must be Environment, Ec2InstanceMetadata or EcsContainer")
    if signer is None:
        whence = f"source_profile {base}" if base else f"credential_source {origin}"
        raise CredentialsError(f"{way}: {whence} gives no credentials")
    source = f"profile {profile} (role {role_arn}, through {signer.source})"
    parameters = _role_parameters(source, role_arn, session_name, duration, ExternalId=external_id)
    return _assume_role(config, source, parameters, signer, config.value("mfa_serial", profile))


def _source_profile(config: _Config, profile: str, walked: tuple[str, ...]) -> Credentials | None:
    """The credentials of a profile that another names as its source. Its static keys, if it has some, end the walk."""
    way = f"profile {' -> '.join((*walked, profile))}"
    if config.section("profile", profile) is None:
        raise CredentialsError(f"{way}: the last of these is in neither {' nor '.join(config.files)}")
    static = any(config.value(name, profile) for name in ("aws_access_key_id", "aws_secret_access_key"))
    if profile in walked and not (static and profile == walked[-1]):
        raise CredentialsError(f"{way}: this goes in a circle")
    credentials = None if static else _from_role(config, profile, walked)
    return credentials or next(filter(None, (source(config, profile) for source in _PROFILE_SOURCES)), None)


# --------------------------------------------------------------------------------------- the chain

_SOURCES = (
    _from_environment, _from_role, _from_web_identity_environment, *_PROFILE_SOURCES, _from_container,
    _from_instance_metadata,
)


def _load_credentials(config: _Config) -> Credentials:
    for source in _SOURCES:
        credentials = source(config, config.profile)
        if credentials is not None:
            return credentials
    skipped = " (skipped, since a profile is named)" if config.explicit else ""
    metadata = "disabled" if config.variable("AWS_EC2_METADATA_DISABLED").lower() == "true" else "no role there"
    raise NoCredentialsError(
        "no AWS credentials found. Looked, in this order, in:"
        f" environment (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY){skipped};"
        f" profile {config.profile} in {' and '.join(config.files)} (role);"
        f" web identity (AWS_WEB_IDENTITY_TOKEN_FILE, AWS_ROLE_ARN){skipped};"
        f" profile {config.profile} (web identity, sso, static keys, login, credential_process);"
        " container (AWS_CONTAINER_CREDENTIALS_RELATIVE_URI, AWS_CONTAINER_CREDENTIALS_FULL_URI);"
        f" {_INSTANCE_METADATA} ({metadata})."
        " Set one of these up, for example with: aws configure sso, aws login, or aws configure"
    )


def _load_region(config: _Config, credentials: Credentials | None) -> str:
    """The configured region; the instance's own if the credentials came from there."""
    region = config.region()
    if region is None and credentials is not None and credentials.source == _INSTANCE_METADATA:
        read = _metadata(config)
        status, text = read("placement/region") if read else (0, "")
        try:
            region = _region(text) if status == 200 else None
        except ValueError as error:
            raise NoRegionError(f"{_INSTANCE_METADATA}: {error}") from None
    if region is None:
        raise NoRegionError(
            f"no region is configured. Looked in {', '.join(_REGION_VARIABLES)} and profile {config.profile}. There is"
            " no default: a token works only in the region it is made for. Set AWS_REGION or pass a region (--region),"
            " for example us-east-1"
        )
    return region


def load_credentials(
    profile: str | None = None, *, environ: Mapping[str, str] | None = None,
    mfa_code: Callable[[str], str] | None = None,
) -> Credentials:
    """The credentials the AWS CLI and boto3 would use; `.source` says where they came from.

    `profile` named here switches the environment's credentials off, as --profile does. `environ` stands in for
    os.environ. `mfa_code(serial)` is asked for the six digits when a role's profile names an MFA device. Raises
    NoCredentialsError if nothing is configured, CredentialsError if something is and does not work.
    https://docs.aws.amazon.com/sdkref/latest/guide/standardized-credentials.html
    """
    return _load_credentials(_Config(environ, profile, mfa_code=mfa_code))


def load_region(profile: str | None = None, *, environ: Mapping[str, str] | None = None) -> str:
    """The region: AWS_REGION, AWS_DEFAULT_REGION, the profile's, or the EC2 instance's if its credentials are used.

    Raises NoRegionError if there is none or it cannot be one, CredentialsError if a file is broken.
    """
    config = _Config(environ, profile)
    try:
        # Only the last of these places needs to know where credentials come from.
        return _load_region(config, None if config.region() else _load_credentials(config))
    except (NoCredentialsError, CredentialsError):
        return _load_region(config, None)


def assume_role(
    role_arn: str, *, credentials: Any = None, session_name: str | None = None, external_id: str | None = None,
    duration: int | timedelta = 3600, policy: str | None = None, mfa_serial: str | None = None,
    mfa_code: Callable[[str], str] | None = None, region: str | None = None, environ: Mapping[str, str] | None = None,
) -> Callable[[], Credentials]:
    """A role as a source of credentials, for `get_token(credentials=...)` and `TokenProvider(credentials=...)`.

    The source asks STS each time it is called, with `credentials` (of any kind get_token takes, another assume_role
    among them; None for the default chain). `duration` is in seconds, 900 to 43200; `policy` is a session policy in
    JSON; `region` is the STS region. Raises ValueError for what STS would refuse, and the source CredentialsError.
    https://docs.aws.amazon.com/STS/latest/APIReference/API_AssumeRole.html
    """
    seconds = str(_whole_seconds(duration, 900, 43200, "duration"))
    more = {"ExternalId": external_id or "", "Policy": policy or ""}
    parameters = _role_parameters("", role_arn, session_name or "", seconds, **more)

    def assumed() -> Credentials:
        config = _Config(environ, region=region, mfa_code=mfa_code)
        signer = _load_credentials(config) if credentials is None else _frozen(credentials)
        source = f"role {role_arn}, through {signer.source or 'code'}"
        return _assume_role(config, source, parameters, signer, mfa_serial or "")

    return assumed


def get_token(
    credentials: Any = None, region: str | None = None, expires_in: int | timedelta = _TOKEN_LIFETIME, *,
    profile: str | None = None, environ: Mapping[str, str] | None = None, now: datetime | None = None,
) -> Token:
    """A short-term Bedrock API key.

    `credentials`: Credentials, an object with botocore's attributes, a callable that returns either, or None for the
    chain of load_credentials. `region`: None for load_region's. `expires_in`: whole seconds or a timedelta, 1 second to
    12 hours. `now`: an aware datetime, None for the clock. With `credentials` and `region` given nothing else is looked
    at: no files, no environment, no network. Raises ValueError or TypeError for unusable arguments, NoCredentialsError,
    CredentialsError, NoRegionError. https://docs.aws.amazon.com/bedrock/latest/userguide/api-keys-how.html
    """
    lifetime = _whole_seconds(expires_in, 1, _TOKEN_LIFETIME, "expires_in")
    moment = datetime.now(timezone.utc) if now is None else _in_utc(now, "now")
    if credentials is not None and region is not None:
        return _mint(_frozen(credentials), _region(region), lifetime, moment)
    config = _Config(environ, profile, region, clock=moment.timestamp)
    found = _load_credentials(config) if credentials is None else _frozen(credentials)
    return _mint(found, _load_region(config, found if credentials is None else None), lifetime, moment)


def provide_token(
    region: str | None = None, aws_credentials_provider: Any = None, expiry: timedelta = timedelta(hours=12)
) -> Token:
    """get_token with the signature of AWS's aws-bedrock-token-generator; the provider is anything with .load()."""
    return get_token(aws_credentials_provider and aws_credentials_provider.load, region, expiry)


# ----------------------------------------------------------------------------------- TokenProvider

_MARGIN = 15 * 60.0  # seconds before its end, or a fifth of its life if that is less: renew, others go on with it
_LAST_MOMENT = 10.0  # seconds before its end: do not hand it out any more
_RETRY_AFTER = 30.0  # seconds, after a renewal that failed while the token was still good
_LOOK_AGAIN_AFTER = 300.0  # seconds, for credentials that do not say when they end


class TokenProvider:
    """A callable that returns a token that is valid now: it reuses one token, and mints another in good time.

    The arguments are get_token's; `clock` returns seconds since 1970. Where credentials do not say when they
    end, they are looked up again every 5 minutes, so that rotated ones are noticed. While a renewal fails the
    token is served as long as it is valid, then the source's error is raised, unchanged. Safe for any number
    of threads and event loops, across fork, and can be pickled.
    """

    def __init__(
        self, credentials: Any = None, region: str | None = None, expires_in: int | timedelta = _TOKEN_LIFETIME, *,
        profile: str | None = None, environ: Mapping[str, str] | None = None, clock: Callable[[], float] = time.time,
    ) -> None:
        self._credentials = credentials
        self._region = None if region is None else _region(region)
        self._lifetime = _whole_seconds(expires_in, 1, _TOKEN_LIFETIME, "expires_in")
        self._profile = profile
        self._environ = environ
        self._clock = clock
        # All that is known of the token in hand, replaced as a whole, so that it is read without a lock:
        # token, credentials, when minted, end, margin, when to look for credentials again, end by time.monotonic.
        self._held: tuple[Any, ...] | None = None
        self._failed_at = float("-inf")
        # The renewal under way, by process id: after a fork the parent's is none of the child's business.
        # dict.setdefault is atomic: there is one. The lock is never released, it is the claim to do the work.
        self._renewals: dict[int, tuple[Future[Token], Any]] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_held": None, "_renewals": {}}

    def __call__(self) -> Token:
        """The same as token()."""
        return self.token()

    def token(self) -> Token:
        """A Token that is valid now. Raises what get_token raises, and what the credentials' source raises."""
        started = self._start()
        if isinstance(started, Token):
            return started
        future, claim = started
        self._renew(future, claim, self._look_up)
        return future.result()

    async def async_token(self) -> Token:
        """token() for asyncio. The look-up runs in the loop's executor; all tasks and threads share it."""
        import asyncio

        started = self._start()
        if isinstance(started, Token):
            return started
        future, claim = started
        loop, done = asyncio.get_running_loop(), asyncio.Event()

        def refuse() -> NoReturn:
            raise RuntimeError("the event loop's executor has been shut down")

        def wake(_: object) -> None:
            try:
                loop.call_soon_threadsafe(done.set)
            except RuntimeError:  # a loop that has been closed meanwhile, with nobody left to wake
                pass

        try:
            job = loop.run_in_executor(None, self._renew, future, claim, self._look_up)
            job.add_done_callback(lambda _: self._renew(future, claim, refuse))  # if it was dropped
        except RuntimeError:
            self._renew(future, claim, refuse)
        future.add_done_callback(wake)  # not asyncio.wrap_future, which turns some exceptions into its own
        await done.wait()
        return future.result()

    def _look(self) -> tuple[Token | None, bool]:
        """The token in hand, if it can still be handed out, and whether it is time to renew it."""
        if self._held is None:
            return None, True
        token, _, minted, end, margin, look_again, monotonic_end = self._held
        now = self._clock()
        # The wall clock, since a suspended machine must not serve a dead token; and the monotonic one, since a
        # wall clock that is set back must not keep one alive.
        left = min(end - now, monotonic_end - time.monotonic())
        if left < min(margin, _LAST_MOMENT):
            return None, True
        due = left < margin or now >= look_again or now < minted
        return token, due and not self._failed_at <= now < self._failed_at + _RETRY_AFTER

    def _start(self) -> Token | tuple[Future[Token], Any]:
        """The token to return at once; or else the renewal to wait for, and the claim to do it."""
        token, due = self._look()
        if token is not None and not due:
            return token
        from concurrent.futures import Future
        from threading import Lock

        ours: tuple[Future[Token], Any] = (Future(), Lock())
        renewal = self._renewals.setdefault(os.getpid(), ours)
        return token if token is not None and renewal is not ours else renewal

    def _renew(self, future: Future[Token], claim: Any, look_up: Callable[[], tuple[Any, ...]]) -> None:
        """Do the renewal, unless somebody does it already.

        Whoever waits for it tries this first: the executor of the first one's loop may be full of those who wait.
        """
        if not claim.acquire(blocking=False):
            return
        try:
            token, due = self._look()  # somebody may have finished between our look and our taking the lead
            if token is None or due:
                try:
                    self._held = look_up()
                    token = self._held[0]
                except Exception:
                    token, _ = self._look()
                    if token is None:
                        raise
                    self._failed_at = self._clock()
            self._renewals.pop(os.getpid(), None)
            future.set_result(token)
        except BaseException as error:
            self._renewals.pop(os.getpid(), None)
            if isinstance(error, Exception):
                future.set_exception(error)
            else:  # Ctrl-C here is not Ctrl-C in the threads that wait
                future.set_exception(BedrockTokenError("the look-up of credentials was interrupted"))
                raise

    def _look_up(self) -> tuple[Any, ...]:
        config = _Config(self._environ, self._profile, self._region, clock=self._clock)
        given = self._credentials
        credentials = _load_credentials(config) if given is None else _frozen(given)
        region = self._region or _load_region(config, credentials if given is None else None)
        now = self._clock()
        rotates = credentials.expiration is None and not isinstance(given, Credentials)
        look_again = now + _LOOK_AGAIN_AFTER if rotates else float("inf")
        if self._held is not None:
            token, old, minted, end, margin, _, monotonic_end = self._held
            if credentials == old and region == token.region and minted <= now <= end - margin:
                return token, old, minted, end, margin, look_again, monotonic_end
        token = _mint(credentials, region, self._lifetime, datetime.fromtimestamp(now, timezone.utc))
        end = token.expiration.timestamp()
        margin = min(_MARGIN, (end - now) / 5)
        return token, credentials, now, end, margin, look_again, time.monotonic() + end - now


# --------------------------------------------------------------------------------- calling Bedrock
#
# https://docs.aws.amazon.com/bedrock/latest/APIReference/API_runtime_Converse.html

_BEARER_VARIABLE = "AWS_BEARER_TOKEN_BEDROCK"
_PAYLOAD_LIMIT = 24 * 1024 * 1024  # bytes of an event's payload, and of an answer
_HEADERS_LIMIT = 128 * 1024
# What Bedrock says when it refuses the token itself -> what that means.
_TOKEN_REFUSALS = (
    ("make sure your API Key is valid", "the key is for another region than {region}, has expired, or is damaged"),
    ("has expired", "mint a new one"),
    ("token included in the request is expired", "the credentials behind the key have expired: mint a new one"),
    ("pre-defined prefix", "this is not a Bedrock API key"),
    (":CallWithBearerToken", "allow that action to the identity that made the key"),
)


class BedrockError(BedrockTokenError):
    """Bedrock refused a call: `status` (0 inside a stream), `code`, `message`, `request_id`, and a `hint` or ""."""

    def __init__(self, status: int, code: str, message: str, request_id: str = "", hint: str = "") -> None:
        super().__init__(status, code, message, request_id, hint)
        self.status, self.code, self.message, self.request_id, self.hint = status, code, message, request_id, hint

    def __str__(self) -> str:
        status = f" (HTTP {self.status})" if self.status else ""
        hint = f"; {self.hint}" if self.hint else ""
        request = f" [request {self.request_id}]" if self.request_id else ""
        return f"{self.code or 'error'}{status}: {self.message}{hint}{request}"


def _bearer(config: _Config, token: Any) -> tuple[str, str]:
    """The token to call with and the region to call: what is given, else the environment's, else a new one."""
    given = token is not None
    if callable(token):
        token = token()
    value = token if given else config.variable(_BEARER_VARIABLE)
    if not value and not given:
        credentials = _load_credentials(config)
        minted = _mint(credentials, _load_region(config, credentials), _TOKEN_LIFETIME, config.now())
        return minted, minted.region
    if not _is_plain(value):
        name = "token" if given else _BEARER_VARIABLE
        raise (ValueError if given else CredentialsError)(f"{name} must be a string without blanks or line breaks")
    try:
        own = value.region if isinstance(value, Token) else decode_token(value).get("region")
    except ValueError:  # not for us to judge: Bedrock may know kinds of keys that we do not
        own = None
    region = own if given and own and not config.explicit_region else config.region() or own
    if region is None:
        region = _load_region(config, None)
    if own and own != region:
        raise (ValueError if given else CredentialsError)(
            f"the token works in {own} only, and the call is for {region}: mint one there, or call that region"
        )
    return str(value), region


def _receive(response: HTTPResponse, limit: int, deadline: float) -> bytes:
    from http.client import HTTPException

    try:
        return _read(response, limit, deadline)
    except (OSError, HTTPException) as error:
        raise BedrockTokenError(f"Bedrock's answer broke off: {error or type(error).__name__}") from error


def _base64_of_bytes(value: object) -> str:
    """Images and documents are bytes in the API, which is base64 in its JSON."""
    if not isinstance(value, (bytes, bytearray)):
        raise TypeError(f"{type(value).__name__} cannot stand in a request to Bedrock")
    return binascii.b2a_base64(value, newline=False).decode("ascii")


def _call_bedrock(
    config: _Config, service: str, method: str, path: str, token: str, region: str, request: dict[str, Any] | None,
    timeout: float,
) -> HTTPResponse:
    """The response, its body unread, to a call with a bearer token. Raises BedrockError if it is not a 200."""
    import json

    deadline = time.monotonic() + timeout
    headers = [("Authorization", f"Bearer {token}"), ("Accept", "application/json, application/vnd.amazon.eventstream")]
    body = None
    if request is not None:
        headers.append(("Content-Type", "application/json"))
        body = json.dumps(request, default=_base64_of_bytes, allow_nan=False).encode("utf-8")
    url = config.endpoint(service, region) + path
    patience: Any = {"timeout": timeout, "transient": (429, 503)}
    response, _ = _send(config, method, url, headers=headers, body=body, limit=None, **patience)
    if response.status == 200:
        return response
    code, message = _error_of(response, _receive(response, _CREDENTIAL_LIMIT, deadline), [token])
    hint = next((hint for text, hint in _TOKEN_REFUSALS if text in message), "").format(region=region)
    if hint:
        from email.utils import parsedate_to_datetime

        try:
            skew = (config.now() - parsedate_to_datetime(response.headers["Date"])).total_seconds()
        except (TypeError, ValueError):
            skew = 0.0
        if abs(skew) > 300:
            hint += f"; this machine's clock is {abs(skew):.0f} s {'ahead' if skew > 0 else 'behind'}"
    request_id = response.headers.get("x-amzn-RequestId", "").replace(token, "...")
    raise BedrockError(response.status, code, message, request_id, hint)


def _answer(response: HTTPResponse, deadline: float) -> dict[str, Any]:
    answer = _parse_json(_receive(response, _PAYLOAD_LIMIT, deadline))
    if not isinstance(answer, dict):
        raise BedrockTokenError("Bedrock's answer is not a JSON object (a proxy in between?)")
    return answer


def _converse(
    config: _Config, operation: str, model_id: str, token: Any, request: dict[str, Any], timeout: float
) -> HTTPResponse:
    from urllib.parse import quote

    if not isinstance(model_id, str) or not model_id.isprintable() or model_id in ("", ".", ".."):
        raise ValueError("model_id must be the name or ARN of a model or an inference profile")
    if not 0 < timeout <= 86400:
        raise ValueError(f"timeout must be seconds, above 0 and at most a day, not {timeout!r}")
    bearer, region = _bearer(config, token)
    path = f"/model/{quote(model_id, safe='')}/{operation}"
    return _call_bedrock(config, "bedrock_runtime", "POST", path, bearer, region, request, timeout)


def converse(
    model_id: str, messages: list[dict[str, Any]], *, region: str | None = None, token: Any = None,
    environ: Mapping[str, str] | None = None, timeout: float = 60, **request: Any,
) -> dict[str, Any]:
    """One call of Bedrock's Converse API, its answer as it comes; `request` are the API's other fields.

    `token`: a string, a Token, a TokenProvider, or None for AWS_BEARER_TOKEN_BEDROCK, else one minted from
    the default chain. `region`: None for the token's own if one is given, else load_region's. `timeout`:
    seconds for all. bytes in the messages are sent as base64. Raises BedrockError if Bedrock refuses,
    BedrockTokenError if there is no usable answer, ValueError for a token of another region.
    https://docs.aws.amazon.com/bedrock/latest/APIReference/API_runtime_Converse.html
    """
    config, deadline = _Config(environ, region=region), time.monotonic() + timeout
    request = {"messages": messages, **request}
    return _answer(_converse(config, "converse", model_id, token, request, timeout), deadline)


def _event_headers(block: bytes) -> dict[str, str]:
    """The string headers of a frame; those of the other types are passed over."""
    sizes = {0: 0, 1: 0, 2: 1, 3: 2, 4: 4, 5: 8, 8: 8, 9: 16}
    headers = {}
    position = 0
    try:
        while position < len(block):
            name_end = position + 1 + block[position]
            name, kind = block[position + 1:name_end].decode("utf-8"), block[name_end]
            position = name_end + 1
            if kind in (6, 7):
                size = int.from_bytes(block[position:position + 2], "big")
                position += 2
            else:
                size = sizes[kind]
            value = block[position:position + size]
            position += size
            if kind == 7:
                headers[name] = value.decode("utf-8")
    except (IndexError, KeyError, ValueError):
        position = -1
    if position != len(block):
        raise BedrockTokenError("Bedrock's stream is damaged: a frame's headers cannot be read")
    return headers


def _decode_events(chunks: Iterable[bytes]) -> Iterator[dict[str, Any]]:
    """The events in an event stream that arrives in pieces of any size.

    A frame is total length, length of headers, CRC-32 of these two | headers | payload | CRC-32 of all before.
    https://docs.aws.amazon.com/lexv2/latest/dg/event-stream-encoding.html
    """
    from struct import Struct
    from zlib import crc32

    prelude, checksum = Struct(">III").unpack_from, Struct(">I").unpack_from
    known: dict[bytes, dict[str, str]] = {}  # a stream repeats a handful of header blocks
    buffer = bytearray()
    for chunk in chunks:
        buffer += chunk
        start, available = 0, len(buffer)
        while available - start >= 12:
            total, headers_length, prelude_checksum = prelude(buffer, start)
            payload_length = total - headers_length - 16
            running = crc32(buffer[start:start + 8])
            sane = headers_length <= _HEADERS_LIMIT and 0 <= payload_length <= _PAYLOAD_LIMIT
            if running != prelude_checksum or not sane:
                raise BedrockTokenError("Bedrock's stream is damaged: a frame's head is not as it was sent")
            end = start + total
            if available < end:
                break
            if crc32(buffer[start + 8:end - 4], running) != checksum(buffer, end - 4)[0]:
                raise BedrockTokenError("Bedrock's stream is damaged: a frame is not as it was sent")
            payload_start = start + 12 + headers_length
            block = bytes(buffer[start + 12:payload_start])
            headers = known.get(block)
            if headers is None:
                headers = _event_headers(block)
                if len(known) < 64:
                    known[block] = headers
            kind = headers.get(":message-type")
            payload = buffer[payload_start:end - 4]
            start = end
            if kind == "error":
                raise BedrockError(0, headers.get(":error-code", ""), headers.get(":error-message", ""))
            document = _parse_json(payload)
            if kind == "exception":
                message = document.get("message") if isinstance(document, dict) else None
                raise BedrockError(0, headers.get(":exception-type", ""), str(message or "no message"))
            if kind != "event" or not isinstance(document, dict) or ":event-type" not in headers:
                raise BedrockTokenError("Bedrock's stream holds a frame that is no event")
            yield {headers[":event-type"]: document}
        del buffer[:start]
    if buffer:
        raise BedrockTokenError("Bedrock's stream is cut off inside a frame")


def _events(response: HTTPResponse) -> Iterator[dict[str, Any]]:
    def generate() -> Iterator[dict[str, Any]]:
        complete = False
        with response:
            yield {}
            try:
                for event in _decode_events(iter(lambda: response.read1(65536), b"")):
                    complete = complete or "messageStop" in event
                    yield event
            except BedrockError as error:
                error.request_id = response.headers.get("x-amzn-RequestId", "")
                raise
            except (OSError, HTTPException) as error:
                raise BedrockTokenError(f"Bedrock's stream broke off: {error or type(error).__name__}") from error
        if not complete:
            raise BedrockTokenError("Bedrock's stream ended before the message did")

    from http.client import HTTPException

    events = generate()
    next(events)  # into its `with`: from here on closing it closes the connection
    return events


def converse_stream(
    model_id: str, messages: list[dict[str, Any]], *, region: str | None = None, token: Any = None,
    environ: Mapping[str, str] | None = None, timeout: float = 60, **request: Any,
) -> Iterator[dict[str, Any]]:
    """converse() as a stream: an iterator of events like {"contentBlockDelta": {...}}, each as it arrives.

    The request is made at once; closing the iterator closes the connection. At most `timeout` seconds pass until the
    first answer, and between two pieces of it. A stream that is cut off or damaged, or that carries an error, ends in
    an exception.
    https://docs.aws.amazon.com/bedrock/latest/APIReference/API_runtime_ConverseStream.html
    """
    config = _Config(environ, region=region)
    request = {"messages": messages, **request}
    return _events(_converse(config, "converse-stream", model_id, token, request, timeout))


# ------------------------------------------------------------------------------------ command line

_EXAMPLES = """\
examples:
  python -m bedrock_token                                   print a token
  python -m bedrock_token --region us-east-1 --expires-in 90m --profile dev
  eval "$(python -m bedrock_token --format env)"            set it in this shell
  python -m bedrock_token exec --only-bedrock -- claude     run a program with it
  python -m bedrock_token | python -m bedrock_token inspect
  python -m bedrock_token check --model us.amazon.nova-micro-v1:0
  echo "Why is the sky blue?" | python -m bedrock_token converse --model us.amazon.nova-micro-v1:0
"""
_EPILOG = f"""\
environment:
  AWS_REGION, AWS_DEFAULT_REGION   the region, unless --region or the profile says it
  AWS_PROFILE                      the profile, unless --profile says it
  AWS_ACCESS_KEY_ID, ...           credentials, found as the AWS CLI finds them
  {_BEARER_VARIABLE}         the token that inspect, check and converse use, if it is set
  HTTPS_PROXY, NO_PROXY, AWS_CA_BUNDLE, AWS_ENDPOINT_URL_...   how AWS is reached

exit codes:
  0 done    1 failed, the reason is on stderr    2 wrong usage    130 interrupted
  exec: that of the command, 126 if it cannot be run, 127 if it is not there

A token is a password: no command takes one as an argument or shows one in a message.
"""
# Names, base64 and regions have no character that one of these shells would take for its own.
_FORMATS = {
    "env": "export {}={}\n", "env-no-export": "{}={}\n", "powershell": '$Env:{}="{}"\n', "windows-cmd": "set {}={}\n",
    "fish": "set -gx {} {}\n",
}


def _note(text: str) -> None:
    print(f"bedrock_token: {' '.join(text.split())}", file=sys.stderr)


def _write(text: str) -> None:
    """To stdout at once, with the same line ends everywhere: a CR would become part of somebody's token."""
    if sys.stdout is None:
        raise OSError("stdout is closed")
    try:
        if hasattr(sys.stdout, "reconfigure"):
            sys.stdout.reconfigure(newline="\n", errors="backslashreplace")
        sys.stdout.write(text)
        sys.stdout.flush()
    except OSError:  # a pipe without a reader, a full disk: what is left is not to be tried again at exit
        try:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        except OSError:
            pass
        raise


def _read_stdin() -> str:
    return "" if sys.stdin is None else sys.stdin.buffer.read().decode("utf-8", "replace")


def _rfc3339(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def _duration(seconds: float) -> str:
    """In the two largest units that say something: 11 h 59 min."""
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    units = [(days, "d"), (hours, "h"), (minutes, "min"), (seconds, "s")]
    first = next((index for index, (number, _) in enumerate(units) if number), 3)
    shown = units[first:first + 2] if first < 2 else units[first:first + 1]
    return " ".join([f"{number} {unit}" for index, (number, unit) in enumerate(shown) if number or not index])


def _ask_on_terminal(serial: str) -> str:
    import getpass
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("error")  # what getpass does without a terminal is to read, and show, stdin
        try:
            return getpass.getpass(f"Code of the MFA device {serial}: ")
        except (getpass.GetPassWarning, EOFError, OSError):
            pass
    raise CredentialsError(f"the role asks for a code of the MFA device {serial}, and there is no terminal to ask on")


def _minted(options: Any) -> tuple[Token, Credentials]:
    config = options.config
    credentials = _load_credentials(config)
    now = config.now()
    token = _mint(credentials, _load_region(config, credentials), options.expires_in, now)
    if not options.quiet and token.expiration < now + timedelta(seconds=options.expires_in - 1):
        left = _duration((token.expiration - now).total_seconds())
        why = f"with the credentials it is made from ({credentials.source})"
        _note(f"note: the token ends in {left}, at {_rfc3339(token.expiration)}, {why}")
    return token, credentials


def _variables(options: Any, token: Token) -> dict[str, str]:
    return {**dict.fromkeys(options.var or [_BEARER_VARIABLE], str(token)), "AWS_REGION": token.region}


def _print_token(options: Any) -> int:
    token, credentials = _minted(options)
    if options.format in (None, "token"):
        _write(f"{token}\n")
    elif options.format == "json":
        import json

        left = int((token.expiration - options.config.now()).total_seconds())
        document = {
            "token": token, "token_type": "Bearer", "region": token.region, "expiration": _rfc3339(token.expiration),
            "expires_in": left, "source": credentials.source,
        }
        _write(json.dumps(document, indent=2) + "\n")
    else:
        _write("".join([_FORMATS[options.format].format(*pair) for pair in _variables(options, token).items()]))
    return 0


def _exec(options: Any) -> int:
    command = options.rest
    token, _ = _minted(options)
    environ = dict(os.environ)
    if options.only_bedrock:
        gone = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_SECURITY_TOKEN", "AWS_PROFILE",
                "AWS_DEFAULT_PROFILE", "AWS_CREDENTIAL_EXPIRATION", "AWS_WEB_IDENTITY_", "AWS_ROLE_", "AWS_CONTAINER_")
        environ = {name: value for name, value in environ.items() if not name.startswith(gone)}
    environ.update(_variables(options, token))
    environ.setdefault("AWS_DEFAULT_REGION", token.region)
    if not options.quiet:
        _note(f"the token ends at {_rfc3339(token.expiration)}")
        if environ["AWS_DEFAULT_REGION"] != token.region:
            _note(f"note: AWS_DEFAULT_REGION is another region than the token's, which is {token.region}")
    try:
        if os.name == "nt":
            import subprocess

            return subprocess.call(command, env=environ)
        import signal

        for ignored in {"SIGPIPE", "SIGXFSZ"} & set(dir(signal)):  # by Python, and the command would inherit that
            signal.signal(getattr(signal, ignored), signal.SIG_DFL)
        os.execvpe(command[0], command, environ)
    except (OSError, ValueError) as error:
        missing = isinstance(error, (FileNotFoundError, NotADirectoryError))
        _note(f"{command[0]}: {'command not found' if missing else getattr(error, 'strerror', None) or error}")
        return 127 if missing else 126


def _inspect(options: Any) -> int:
    """What a token says, with the warnings that people need."""
    import json

    raw = "" if sys.stdin is None or sys.stdin.isatty() else _read_stdin()
    raw = raw if raw.strip() else os.environ.get(_BEARER_VARIABLE, "")
    text = raw.strip()
    token = (text[7:] if text[:7].lower() == "bearer " else text).strip("\"' \t")
    if not token:
        raise BedrockTokenError(f"no token: pipe one in, or set {_BEARER_VARIABLE}")
    warnings = []
    if raw.rstrip("\r\n") != text:
        warnings.append("there are blanks or line breaks around the token")
    if token != text:
        warnings.append('there are quotes or the word "Bearer" around the token')
    try:
        facts = decode_token(token)
    except ValueError as error:
        trap = " (setx on Windows cuts values at 1,024 characters)" if 1024 in (len(token), len(text)) else ""
        raise BedrockTokenError(f"{error}{trap}") from None
    now = options.config.now()
    state, valid = "valid", True
    if facts["kind"] == "long-term":
        warnings.append("a long-term key: nothing in it says when it ends or where it is good; prefer short-term ones")
    else:
        left = (facts["expires_at"] - now).total_seconds()
        early = (facts["issued_at"] - now).total_seconds()
        valid = left > 0 and early < 300  # SigV4 bears clocks that are five minutes apart
        state = f"valid, {_duration(left)} left" if valid else f"expired {_duration(-left)} ago"
        if early >= 300:
            state = f"not valid yet, in {_duration(early)}"
            warnings.append("the clock here, or where the token was made, is wrong")
        if facts["temporary"]:
            warnings.append("made from temporary credentials: the token ends with them, which may be earlier")
        region = next(filter(None, map(options.config.variable, _REGION_VARIABLES)), facts["region"])
        if region != facts["region"]:
            warnings.append(f"the token works in {facts['region']} only, but the region set here is {region}")
    shown = {name: _rfc3339(fact) if isinstance(fact, datetime) else fact for name, fact in facts.items()}
    if options.format == "json":
        if "expires_at" in facts:
            shown["seconds_left"] = max(0, int((facts["expires_at"] - now).total_seconds()))
        _write(json.dumps({"state": state, "valid": valid, **shown, "warnings": warnings}, indent=2) + "\n")
        return 0 if valid else 1
    plain = os.environ.get("NO_COLOR") or os.environ.get("TERM", "dumb") == "dumb" or not sys.stdout.isatty()
    rows = {"state": state if plain else f"\033[{32 if valid else 31}m{state}\033[0m", **shown}
    if "temporary" in shown:
        rows["temporary"] = "yes" if shown["temporary"] else "no"
        if "account_id" in shown:
            rows["account_id"] += " (encoded in the key id; AWS does not promise it)"
    _write("".join([f"{name.replace('_', ' '):<14} {value}\n" for name, value in rows.items()]))
    for warning in warnings:
        _note(f"warning: {warning}")
    return 0 if valid else 1


def _check(options: Any) -> int:
    """Whether Bedrock accepts the token that would be used, by one cheap call."""
    config = options.config
    bearer, region = _bearer(config, None)
    whose = f"the token in {_BEARER_VARIABLE}" if config.variable(_BEARER_VARIABLE) else "a newly made token"
    accepted, more, deadline = f"accepted in {region}: {whose}", "", time.monotonic() + options.timeout
    try:
        if options.model:
            say = {"messages": [_user_says("Hi")], "inferenceConfig": {"maxTokens": 1}}
            response = _converse(config, "converse", options.model, bearer, say, options.timeout)
            more = f", and {options.model} answers"
        else:
            path = "/foundation-models"
            response = _call_bedrock(config, "bedrock", "GET", path, bearer, region, None, options.timeout)
        _answer(response, deadline)
    except BedrockError as error:
        # Bedrock looks at the token first: whatever it complains of else proves that the token is good.
        other = any(text in error.message for text in ("not authorized to perform", "access to the model"))
        proven = error.code and not error.hint and (other if error.status == 403 else error.status in (400, 404, 429))
        if proven and options.model:
            raise BedrockTokenError(f"{whose} is accepted in {region}, but {options.model} fails: {error}") from error
        if not proven:
            raise
        more = f"; it proves the token that Bedrock refuses the call itself: {error.message}"
    _write(f"{accepted}{more}\n")
    return 0


def _user_says(text: str) -> dict[str, Any]:
    return {"role": "user", "content": [{"text": text}]}


def _talk(options: Any) -> int:
    text = options.rest[0] if options.rest else _read_stdin()
    if not text.strip():
        raise BedrockTokenError("nothing to say: give a text as the last argument or on stdin")
    say = {"messages": [_user_says(text)]}
    reason = ""
    usage: dict[str, Any] = {}
    for event in _events(_converse(options.config, "converse-stream", options.model, None, say, options.timeout)):
        piece = event.get("contentBlockDelta", {}).get("delta", {}).get("text")
        if piece:
            _write(piece)
        reason = event.get("messageStop", {}).get("stopReason", reason)
        usage = event.get("metadata", {}).get("usage", usage)
    _write("\n")
    if not options.quiet:
        _note(f"{reason}, {usage.get('inputTokens', '?')} tokens in, {usage.get('outputTokens', '?')} out")
    return 0


def _parse_arguments(argv: list[str], options: Any) -> None:
    import argparse
    import re

    class Parser(argparse.ArgumentParser):
        def error(self, message: str) -> NoReturn:
            super().error(re.sub(r"[\w+/=-]{40,}", "...", message))  # it quotes its input, which may hold a token

    def option(check: Callable[[str], Any]) -> Callable[[str], Any]:
        def checked(text: str) -> Any:
            try:
                return check(text)
            except (ValueError, OverflowError) as error:
                raise argparse.ArgumentTypeError(str(error)) from None
        return checked

    def lifetime(text: str) -> int:
        parts = re.fullmatch(r"(?=.)(?:(\d{1,5})h)?(?:(\d{1,5})m)?(?:(\d{1,5})s?)?", text, re.ASCII)
        if parts is None:
            raise ValueError("must be like 3600, 90m, 12h or 1h30m")
        hours, minutes, seconds = (int(part or 0) for part in parts.groups())
        return _whole_seconds(hours * 3600 + minutes * 60 + seconds, 1, _TOKEN_LIFETIME, "it")

    def variable(text: str) -> str:
        if not (text.isascii() and text.isidentifier()):
            raise ValueError("must be a name of letters, digits and _")
        return text

    def timeout(text: str) -> float:
        if not 0 < float(text) <= 3600:
            raise ValueError("must be seconds, above 0 and at most 3600")
        return float(text)

    def add_common(to: argparse.ArgumentParser) -> None:
        to.add_argument("--region", type=option(_region), help="region the token is for, for example us-east-1")
        to.add_argument("--profile", help="profile in ~/.aws/config and ~/.aws/credentials")
        to.add_argument("-q", "--quiet", action="store_true", help="no notes on stderr, only errors")

    def add_minting(to: argparse.ArgumentParser) -> None:
        to.add_argument("--expires-in", type=option(lifetime), metavar="TIME", help="3600, 90m, 12h (the default)")
        to.add_argument("--var", type=option(variable), action="append", metavar="NAME",
                        help=f"variable to set instead of {_BEARER_VARIABLE}; can be repeated")

    def add_command(name: str, run: Callable[[Any], int], text: str) -> argparse.ArgumentParser:
        examples = "\n".join(line for line in _EXAMPLES.splitlines() if f"bedrock_token {name}" in line)
        added = commands.add_parser(name, help=text, description=f"{text}\n\nexamples:\n{examples}", **style)
        added.set_defaults(run=run)
        return added

    # No option has a default here: a subcommand's would replace what stands before the subcommand.
    style: Any = {
        "formatter_class": argparse.RawDescriptionHelpFormatter, "epilog": _EPILOG, "allow_abbrev": False,
        "argument_default": argparse.SUPPRESS,
    }
    parser = Parser(prog="python -m bedrock_token", description=_EXAMPLES, **style)
    add_common(parser)
    add_minting(parser)
    parser.add_argument("--format", choices=["token", "json", *_FORMATS], help="token by default")
    parser.add_argument("--version", action="version", version=f"bedrock_token {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", title="commands, each with a --help of its own")
    execute = add_command("exec", _exec, "run a command with the token in its environment")
    execute.usage = "python -m bedrock_token exec [options] -- COMMAND [ARG ...]"
    execute.add_argument("--only-bedrock", action="store_true", help="take AWS keys and profiles out of that")
    add_minting(execute)
    inspect = add_command("inspect", _inspect, "what a token says; it comes from stdin or the environment")
    inspect.add_argument("--format", choices=["text", "json"], help="text by default")
    check = add_command("check", _check, "is the token accepted, and if not, why")
    check.add_argument("--model", metavar="ID", help="try this model or inference profile, one token long")
    talk = add_command("converse", _talk, "stream one answer to stdout")
    talk.add_argument("--model", metavar="ID", required=True, help="model or inference profile")
    talk.add_argument("text", nargs="?", metavar="TEXT", help="what to say; from stdin if it is not given")
    for command in (execute, check, talk):
        add_common(command)
    for command in (check, talk):
        command.add_argument("--timeout", type=option(timeout), metavar="SECONDS", help="60 by default")

    here = argv.index("--") if "--" in argv else len(argv)
    _, unknown = parser.parse_known_args(argv[:here], options)
    options.rest = [*([] if options.text is None else [options.text]), *argv[here + 1:]]
    if options.run is _exec and not options.rest:
        parser.error("exec: the command to run must follow --")
    if unknown or len(options.rest) > {_exec: len(options.rest), _talk: 1}.get(options.run, 0):
        parser.error("there is an argument too much; a token is never taken from the command line")
    if options.var and options.run is not _exec and options.format not in _FORMATS:
        parser.error("--var goes with a --format that sets variables")


def _command(argv: list[str]) -> int:
    from types import SimpleNamespace

    options = SimpleNamespace(
        run=_print_token, region=None, profile=None, quiet=False, expires_in=_TOKEN_LIFETIME, var=None, format=None,
        only_bedrock=False, timeout=60.0, model=None, text=None, rest=[],
    )
    if argv:  # without arguments, as credential helpers are run, there is nothing to parse and argparse to load
        _parse_arguments(argv, options)
    options.config = _Config(None, options.profile, options.region, mfa_code=_ask_on_terminal)
    return int(options.run(options))


def main(argv: list[str] | None = None) -> int:
    """The command line; returns the exit status. Answers go to stdout, all else to stderr."""
    if sys.stderr is None:  # closed by who started us; print and argparse would take stdout instead
        sys.stderr = open(os.devnull, "w")
    try:
        try:
            return _command(list(sys.argv[1:] if argv is None else argv))
        except SystemExit as stop:  # argparse, after --help or wrong usage
            if stop.code == 0:
                _write("")  # a full disk shows only now
            return int(stop.code or 0)
    except KeyboardInterrupt:
        return 130
    except (BedrockTokenError, ValueError, OSError) as error:
        if isinstance(error, BrokenPipeError):  # whoever read our output has gone, as "| head" does
            return 141
        _note(str(error))
        return 1


if __name__ == "__main__":
    sys.exit(main())
