"""Short-term Amazon Bedrock API keys ("bearer tokens") from AWS credentials. One file, standard library only.

    >>> token = bedrock_token.get_token()     # credentials and region as the AWS CLI finds them
    $ python -m bedrock_token                 # the same in a shell; --help tells the rest

A token is a presigned request: minting one is hashing, AWS is not asked. It has the permissions of the
credentials that signed it, works in one region, ends with them or after 12 hours, and is a password.

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
    calling Bedrock         call, call_stream, converse, converse_stream
    proxy                   a loopback proxy, for programs that cannot ask for a new token
    command line            main

Reads the environment (AWS_*, HOME, proxies), the two files, the AWS CLI's caches, and token files that these
name. Sends nothing with credentials from the environment or the files; otherwise what the source needs, to
AWS or the endpoint configured in its place. Writes two caches of the AWS CLI: an SSO session it renewed, and
roles with an MFA device. Starts a process only for `credential_process`, `login_session` and `exec`, threads
only for `proxy`. Never writes to os.environ, never logs. Home: the project bedrock_token, with its README.md.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

__all__ = [
    "BedrockError", "BedrockTokenError", "Credentials", "CredentialsError", "NoCredentialsError",
    "NoRegionError", "Token", "TokenProvider", "assume_role", "call", "call_stream", "converse",
    "converse_stream", "decode_token", "get_token", "load_credentials", "load_region", "presign",
    "provide_token",
]

__version__ = "1.1.0"

# Only what is light. The rest (re, json, ssl, subprocess) is imported by the function that needs it, which
# also shows who reaches the network or starts a process.
import binascii
import hashlib
import hmac
import io
import os
import sys
import time
from datetime import datetime, timedelta, timezone

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    import ssl
    import subprocess
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from email.message import Message
    from http.client import HTTPResponse
    from http.server import BaseHTTPRequestHandler
    from selectors import BaseSelector, SelectorKey
    from typing import Any, NoReturn
    Pairs = Iterable[tuple[str, str]]
    Lifetime = int | timedelta
    Environ = Mapping[str, str] | None
    Sections = dict[tuple[str, str], dict[str, Any]]  # of a file, by (type, name)
    MfaCode = Callable[[str], str] | None  # a device's serial number -> six digits
    Source = tuple[str, tuple[str, ...], Callable[["_Settings", "_Profile"], "Credentials | None"]]

# https://docs.aws.amazon.com/bedrock/latest/userguide/api-keys-how.html and AWS's own token generators.
# A service -> how its long-term keys begin, and their users' names; the variable that its clients read.
_SERVICES = {
    "bedrock": ("ABSK", "BedrockAPIKey-", "AWS_BEARER_TOKEN_BEDROCK"),
    "aws-external-anthropic": ("AEAA", "AeaApiKey-", "ANTHROPIC_AWS_API_KEY"),
}
_TOKEN_LIFETIME = 12 * 3600
_ALGORITHM = "AWS4-HMAC-SHA256"
_UNRESERVED = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.~"


# --------------------------------------------------------------------------------------- errors


def _printable(text: str, limit: int) -> str:
    """The text without what a terminal would obey, cut where it is longer than `limit`."""
    shown = "".join([char if char.isprintable() else " " for char in text[:limit]])
    return shown if len(text) <= limit else f"{shown}..."


class BedrockTokenError(Exception):
    """Base of all errors but a caller's mistakes: `message` is what happened, `hint` what to do."""

    def __init__(self, message: str = "", hint: str = "") -> None:
        super().__init__(message)
        self.message = _printable(str(message), 2000)
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}; {self.hint}" if self.hint else self.message


class NoCredentialsError(BedrockTokenError):
    """No credentials are configured. `places`: where they were looked for, and what was there."""

    def __init__(self, message: str = "", hint: str = "", places: Iterable[str] = ()) -> None:
        super().__init__(message, hint)
        self.places = tuple([_printable(place, 500) for place in places])

    def __str__(self) -> str:
        return "\n  ".join([super().__str__(), *self.places])


class CredentialsError(BedrockTokenError):
    """Something is configured and does not work; the message names it."""


class NoRegionError(BedrockTokenError):
    """No region is configured, or the configured one cannot be a region."""


# --------------------------------------------------------------------------------------- values


def _in_utc(moment: datetime, name: str) -> datetime:
    if not isinstance(moment, datetime) or moment.utcoffset() is None:
        raise ValueError(f"{name} must be an aware datetime (with a tzinfo)")
    return moment.astimezone(timezone.utc)


def _is_plain(key: object) -> bool:
    """Whether it can stand in a header: a string of printable ASCII, no blanks, not empty."""
    return isinstance(key, str) and key.isascii() and key.isprintable() and key.split() == [key]


def _whole_seconds(value: Lifetime, least: int, most: int, name: str) -> int:
    """A lifetime as an int. A fraction is dropped: nothing outlives what was asked for."""
    seconds = value / timedelta(seconds=1) if isinstance(value, timedelta) else value
    whole = isinstance(value, (int, timedelta)) and not isinstance(value, bool)
    if whole and least <= seconds <= most:
        return int(seconds)

    raise ValueError(f"{name} must be {least} to {most} whole seconds or a timedelta")


def _service_name(service: str) -> str:
    if service not in _SERVICES:
        raise ValueError(f"service must be one of {', '.join(_SERVICES)}, not {service!r}")
    return service


def _region_name(region: str) -> str:
    """The region without surrounding blanks; ValueError if it does not look like one."""
    name = region.strip() if isinstance(region, str) else ""
    parts = name.split("-")
    plain = name.isascii() and name.islower() and all(map(str.isalnum, parts)) and len(name) <= 32
    if plain and len(parts) > 2 and parts[0].isalpha() and parts[-1].isdigit():
        return name

    harmless = _is_plain(name) and name.islower() and len(name) < 25  # no misplaced secret
    raise ValueError(f"{name if harmless else 'this'} is not a region; one looks like us-east-1")


class Credentials:
    """AWS credentials: an immutable snapshot, compared by value, whose repr shows no secret.

    `expiration`: an aware datetime or None; `source`: where they are from. ValueError: malformed.
    """

    access_key_id: str
    secret_access_key: str
    session_token: str | None
    expiration: datetime | None
    source: str

    def __init__(
        self, access_key_id: str, secret_access_key: str, session_token: str | None = None,
        expiration: datetime | None = None, source: str = "",
    ) -> None:
        if not _is_plain(access_key_id) or not access_key_id.replace("_", "x").isalnum():
            raise ValueError("access_key_id must be letters and digits, without quotes or blanks")
        if not _is_plain(secret_access_key):
            raise ValueError("secret_access_key must be printable ASCII without blanks")
        token = session_token or None
        if token and not (isinstance(token, str) and _is_plain(token.replace(" ", ""))):
            raise ValueError("session_token must be printable ASCII, blanks inside allowed")
        if expiration is not None:
            expiration = _in_utc(expiration, "expiration")

        vars(self).update(
            access_key_id=access_key_id, secret_access_key=secret_access_key, session_token=token,
            expiration=expiration, source=source,
        )

    def _values(self) -> tuple[Any, ...]:
        return tuple(vars(self).values())

    def __setattr__(self, *_: object) -> NoReturn:
        raise AttributeError("Credentials are immutable")

    __delattr__ = __setattr__

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Credentials) and vars(self) == vars(other)

    def __hash__(self) -> int:
        return hash(self._values())

    def __repr__(self) -> str:
        kind = "temporary" if self.session_token else "long-term"
        until = f" until {self.expiration.isoformat()}" if self.expiration else ""
        return f"<Credentials {self.access_key_id} ({kind}) from {self.source or 'code'}{until}>"


def _snapshot(credentials: Any) -> Credentials:
    """One consistent copy of ours, of botocore's kind, or of what a callable returns of either."""
    if callable(credentials):
        credentials = credentials()
        if credentials is None:
            raise NoCredentialsError("the credentials callable returned None: it found none")
    if isinstance(credentials, Credentials):
        return credentials

    # Read field by field, refreshable ones could change between two fields; frozen ones cannot.
    frozen = getattr(credentials, "get_frozen_credentials", lambda: credentials)()
    try:
        keys = frozen.access_key, frozen.secret_key, frozen.token
    except AttributeError:
        kinds = "Credentials, an object with access_key, secret_key and token, or a callable"
        raise TypeError(f"credentials must be {kinds}, not {type(credentials).__name__}") from None

    # botocore says nowhere else when its refreshable credentials end, and the token ends with them.
    ends = getattr(credentials, "_expiry_time", None)
    return Credentials(*keys, ends if isinstance(ends, datetime) else None, source="code")


class Token(str):
    """A bearer token: a str with `expiration` (aware, UTC), `region`, `service`; repr hides it."""

    expiration: datetime
    region: str
    service: str

    def __new__(
        cls, value: str, expiration: datetime, region: str, service: str = "bedrock"
    ) -> Token:
        token = str.__new__(cls, value)
        vars(token).update(expiration=expiration, region=region, service=service)
        return token

    def __reduce__(self) -> tuple[Any, ...]:
        return Token, (str(self), self.expiration, self.region, self.service)

    def __repr__(self) -> str:
        until = self.expiration.isoformat()
        return f"<Token {self.service}-api-key-... for {self.region} until {until}>"


# -------------------------------------------------------------------------- Signature Version 4
#
# By https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html


def _uri_encode(text: str) -> str:
    """Percent-encode all but the unreserved characters."""
    data = text.encode()
    reserved = data.translate(None, _UNRESERVED)
    if reserved:
        # A step for each byte that occurs, not for each character; "%" first, which the others add.
        data = data.replace(b"%", b"%25")
        for byte in set(reserved.replace(b"%", b"")):
            data = data.replace(b"%c" % byte, b"%%%02X" % byte)
    return data.decode()


def _encoded(pairs: Pairs) -> list[tuple[str, str]]:
    return [(_uri_encode(name), _uri_encode(value)) for name, value in pairs]


def _query_string(encoded: Pairs) -> str:
    return "&".join([f"{name}={value}" for name, value in encoded])


def _canonical_headers(headers: Pairs) -> tuple[str, str]:
    """The block of canonical headers, and the list of their names ("signed headers")."""
    values: dict[str, list[str]] = {}
    for name, value in headers:
        values.setdefault(name.strip().lower(), []).append(" ".join(value.split()))
    names = sorted(values)
    return "".join([f"{name}:{','.join(values[name])}\n" for name in names]), ";".join(names)


def _canonical_request(
    method: str, uri: str, query: str, headers: str, signed_headers: str, payload_hash: str
) -> str:
    return f"{method}\n{uri}\n{query}\n{headers}\n{signed_headers}\n{payload_hash}"


def _string_to_sign(timestamp: str, scope: str, canonical_request: str) -> str:
    digest = hashlib.sha256(canonical_request.encode()).hexdigest()
    return f"{_ALGORITHM}\n{timestamp}\n{scope}\n{digest}"


def _signing_key(secret: str, date: str, region: str, service: str) -> bytes:
    key = f"AWS4{secret}".encode()
    for part in (date, region, service, "aws4_request"):
        key = hmac.digest(key, part.encode(), "sha256")
    return key


def _signature(key: bytes, string_to_sign: str) -> str:
    return hmac.digest(key, string_to_sign.encode(), "sha256").hex()


def _timestamp(now: datetime) -> str:
    return now.isoformat()[:19].replace("-", "").replace(":", "") + "Z"  # faster than strftime


class _Signer:
    """Who signs, for what, and when: what a signature depends on beside the request."""

    def __init__(self, credentials: Credentials, region: str, service: str, now: datetime) -> None:
        self.timestamp = _timestamp(now)
        day = self.timestamp[:8]
        self.scope = f"{day}/{region}/{service}/aws4_request"
        self.credential = f"{credentials.access_key_id}/{self.scope}"
        self.session_token = credentials.session_token
        self._key = _signing_key(credentials.secret_access_key, day, region, service)

    def sign(self, *request: str) -> str:
        """The signature of a request, given as the parts of a canonical one."""
        to_sign = _string_to_sign(self.timestamp, self.scope, _canonical_request(*request))
        return _signature(self._key, to_sign)


def _presigned_query(
    signer: _Signer, expires_in: int, method: str, host: str, uri: str, encoded: Pairs,
    headers: Pairs = (), payload_hash: str = hashlib.sha256().hexdigest(),
) -> str:
    """The signed query: the `encoded` pairs, then X-Amz-*, in the order of AWS's Python package."""
    block, signed_headers = _canonical_headers([("host", host), *headers])
    query = [
        *encoded,
        ("X-Amz-Algorithm", _ALGORITHM),
        ("X-Amz-Credential", _uri_encode(signer.credential)),
        ("X-Amz-Date", signer.timestamp),
        ("X-Amz-Expires", str(expires_in)),
        ("X-Amz-SignedHeaders", _uri_encode(signed_headers)),
    ]
    if signer.session_token:
        query.append(("X-Amz-Security-Token", _uri_encode(signer.session_token)))

    request = (method, uri, _query_string(sorted(query)), block, signed_headers, payload_hash)
    return f"{_query_string(query)}&X-Amz-Signature={signer.sign(*request)}"


def _authorization(
    signer: _Signer, method: str, host: str, uri: str, query: Pairs, headers: Pairs,
    payload_hash: str,
) -> list[tuple[str, str]]:
    """The headers to add to a request so that it is signed; `headers` and host are signed too."""
    added = [("x-amz-date", signer.timestamp)]
    if signer.session_token:
        added.append(("x-amz-security-token", signer.session_token))

    block, signed_headers = _canonical_headers([("host", host), *headers, *added])
    canonical_query = _query_string(sorted(_encoded(query)))
    request = (method, uri, canonical_query, block, signed_headers, payload_hash)
    terms = f"Credential={signer.credential}, SignedHeaders={signed_headers}"
    value = f"{_ALGORITHM} {terms}, Signature={signer.sign(*request)}"
    return [*added, ("authorization", value)]


# -------------------------------------------------------------------------------------- minting


def _mint(
    credentials: Credentials, region: str, expires_in: int, now: datetime, service: str = "bedrock"
) -> Token:
    """The token: a presigned POST to the service in base64, with no body and no header but host."""
    ends = credentials.expiration
    if ends and ends <= now:
        whose = f"the credentials from {credentials.source or 'code'}"
        raise CredentialsError(f"{whose} have expired already, at {ends.isoformat()}")

    host = f"{service}.amazonaws.com"
    signer = _Signer(credentials, region, service, now)
    action = [("Action", "CallWithBearerToken")]
    query = _presigned_query(signer, expires_in, "POST", host, "/", action)
    url = f"{host}/?{query}&Version=1".encode()
    payload = binascii.b2a_base64(url, newline=False).decode()

    # Signed in whole seconds, and good for no longer than the credentials are.
    expiration = now.replace(microsecond=0) + timedelta(seconds=expires_in)
    if ends and ends < expiration:
        expiration = ends
    return Token(f"{service}-api-key-{payload}", expiration, region, service)


# ---------------------------------------------------------------------- reading and presigning


def _account_of(access_key_id: str) -> dict[str, str]:
    """The account id in a key id made since 2019. A community finding, not AWS's word."""
    import base64
    import re
    if not re.fullmatch("[A-Z]{4}[Q-Z2-7][A-Z2-7]{15}", access_key_id):
        return {}
    number = int.from_bytes(base64.b32decode(access_key_id[4:])[:6], "big")
    account = f"{(number & 0x7FFFFFFFFF80) >> 7:012d}"
    return {"account_id": account} if len(account) == 12 else {}


def _long_term_facts(text: str, service: str) -> dict[str, Any]:
    """What a key made in the console says: NAME-at-ACCOUNT:SECRET; "+1" ends the name of a second key."""
    import re
    form = rf"({_SERVICES[service][1]}[\w=,.@-]*)[\w+=,.@-]*-at-([0-9]{{12}}):.*"
    found = re.fullmatch(form, text, re.ASCII | re.DOTALL)
    if found is None:
        raise ValueError
    return {"kind": "long-term", "service": service, "user_name": found[1], "account_id": found[2]}


def _short_term_facts(text: str, service: str) -> dict[str, Any]:
    """What a presigned call of the service says: found by name, and spelled as it is signed."""
    import re
    from urllib.parse import parse_qsl
    address, _, query = text.partition("?")
    pairs = parse_qsl(query, keep_blank_values=True)
    values = dict(pairs)
    names = ("Action", "Version", "X-Amz-Signature", "X-Amz-Credential", "X-Amz-Date", "X-Amz-Expires")
    form = (
        rf"{service}\.amazonaws\.com/? CallWithBearerToken [!-~]+ [!-~]+"
        rf" (\w+)/(\d{{8}})/([!-.0-~]+)/{service}/aws4_request (\2T\d{{6}}Z) ([1-9]\d{{,4}})"
    )
    found = re.fullmatch(form, " ".join([address, *[values.get(name, "") for name in names]]), re.ASCII)
    if found is None or len(values) < len(pairs):
        raise ValueError

    access_key_id, _, region, date, seconds = found.groups()
    issued_at = datetime.strptime(f"{date}+0000", "%Y%m%dT%H%M%SZ%z")
    lifetime = _whole_seconds(int(seconds), 1, _TOKEN_LIFETIME, "X-Amz-Expires")
    return {
        "kind": "short-term", "access_key_id": access_key_id, **_account_of(access_key_id), "region": region,
        "service": service, "issued_at": issued_at, "expires_at": issued_at + timedelta(seconds=lifetime),
        "expires_in": lifetime, "temporary": "X-Amz-Security-Token" in values,
    }


def _kind_of(token: str) -> tuple[str, str, Callable[[str, str], dict[str, Any]]] | None:
    """The service that takes a key, the prefix that says so, and what reads the rest."""
    for service, (begin, _, _) in _SERVICES.items():
        for prefix, facts_of in ((f"{service}-api-key-", _short_term_facts), (begin, _long_term_facts)):
            if token.startswith(prefix):
                return service, prefix, facts_of
    return None


def decode_token(token: str) -> dict[str, Any]:
    """What a token says of itself, read offline and not verified. Never the signature or another secret.

    A short-term key gives `kind` ("short-term"), `access_key_id`, `account_id` (if the key id encodes it),
    `region`, `service`, `issued_at`, `expires_at` (aware, UTC), `expires_in` (seconds), `temporary`; a
    "long-term" one `kind`, `service`, `user_name`, `account_id`. Raises ValueError if it is neither.
    """
    import base64
    if not isinstance(token, str):
        raise TypeError(f"token must be a string, not {type(token).__name__}")
    kind = _kind_of(token)
    if kind is None:
        raise ValueError("not an API key of Bedrock, which must start with bedrock-api-key- or ABSK")

    service, prefix, facts_of = kind
    try:
        return facts_of(base64.b64decode(token[len(prefix):], validate=True).decode("latin-1"), service)
    except (ValueError, OverflowError):
        raise ValueError(f"the token is damaged or cut off (it has {len(token)} characters)") from None


def _canonical_uri(path: str) -> str:
    """The path with dot and empty segments removed, and each segment encoded."""
    import posixpath
    normal = posixpath.normpath("/" + path.strip("/"))
    slash = "/" if normal != "/" and path.endswith("/") else ""
    return _uri_encode(normal).replace("%2F", "/") + slash


def presign(
    method: str, host: str, path: str = "/", query: Pairs = (), *, headers: Pairs = (),
    body: bytes | None = b"", service: str, region: str, credentials: Credentials,
    expires_in: Lifetime = 900, now: datetime | None = None,
) -> str:
    """Presign any AWS request: the URL that makes it, good for `expires_in` seconds (1 to 604800) from `now`.

    `path` is taken as it stands on the wire, so encode it first; all services but "s3" sign it normalized.
    `query` and `headers` are pairs of raw strings; each header is signed and must be sent. `body` None signs
    UNSIGNED-PAYLOAD. Raises ValueError or TypeError for what cannot be signed.
    https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html
    """
    import re
    query, headers = list(query), list(headers)
    for pair in [*query, *headers]:
        if not (isinstance(pair, tuple) and len(pair) == 2 and all(isinstance(part, str) for part in pair)):
            raise TypeError("query and headers must be (name, value) pairs of strings")
    form = r"[A-Z]+\n[\w.:\[\]-]+\n/[^?#\0-\x1f\x7f]*\n[\w-]+\n[\w-]+"
    if not re.fullmatch(form, "\n".join([method, host, path, service, region]), re.ASCII):
        raise ValueError('method, host, path (from "/", without "?" or "#"), service or region is malformed')
    if any(name.lower().startswith("x-amz-") for name, _ in query):
        raise ValueError("query must not hold X-Amz- parameters, the signature adds them")
    for name, value in headers:
        if not re.fullmatch(r"(?!host:)[!-9;-~]+:[^\r\n\0]*", f"{name}:{value}", re.IGNORECASE):
            raise ValueError(f"header {name!r} is host, an argument of its own, or cannot be sent as it is")
    lifetime = _whole_seconds(expires_in, 1, 7 * 24 * 3600, "expires_in")
    moment = datetime.now(timezone.utc) if now is None else _in_utc(now, "now")

    uri = path if service == "s3" else _canonical_uri(path)
    payload_hash = "UNSIGNED-PAYLOAD" if body is None else hashlib.sha256(body).hexdigest()
    signer = _Signer(_snapshot(credentials), region, service, moment)
    signed = _presigned_query(signer, lifetime, method, host, uri, _encoded(query), headers, payload_hash)
    return f"https://{host}{path}?{signed}"


# ------------------------------------------------------------------------------------ settings
#
# https://docs.aws.amazon.com/sdkref/latest/guide/file-format.html and feature-ss-endpoints.html there

_REGION_VARIABLES = ("AWS_REGION", "AWS_DEFAULT_REGION")
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


def _section_key(header: str, kind: str) -> tuple[str, str] | None:
    """What a section's header names, as (type, name); None for a section that is to be ignored."""
    import shlex
    if kind == "credentials":
        return ("profile", header) if header and not set(" \t") & set(header) else None
    try:
        words = shlex.split(header)  # in quotes, the AWS CLI writes names with blanks
    except ValueError:
        return None
    if words == ["default"]:
        return "", "default"
    known = len(words) == 2 and words[0] in ("profile", "sso-session", "services")
    return (words[0], words[1]) if known and words[1] else None


def _parse_config(text: str, file: str, kind: str) -> Sections:
    """The sections of a file; a value is a string, or a dict of sub-properties. No error quotes a line."""
    import re
    is_name = re.compile(r"[A-Za-z0-9_\-/.%@:+]+").fullmatch
    sections: Sections = {}
    in_section = False
    indent: int | None = 0  # of the section's properties; None before the first
    properties: dict[str, Any] | None = {}  # of the section; None where it is ignored
    deeper: dict[str, Any] | list[str] | None = {}  # the same of a property, for the lines below it

    for number, line in enumerate(text.split("\n"), 1):
        content = line.strip(" \t\r")
        if not content or content[0] in "#;":
            continue
        width = len(line) - len(line.lstrip(" \t"))
        continues = indent is not None and width > indent
        place = deeper if continues else properties
        if not continues:
            indent, deeper = width, None

        if content[0] == "[" and not continues:
            header, bracket, rest = content[1:].partition("]")
            if not bracket or rest.strip(" \t")[:1] not in ("", "#", ";"):
                raise CredentialsError(f'{file}, line {number}: a section must be closed by "]"')
            key = _section_key(header.strip(" \t"), kind)
            properties = None if key is None else sections.setdefault(key, {})
            in_section, indent = True, None
        elif isinstance(place, list):
            place.append(content)
        elif place is not None:
            name, equals, value = content.partition("=")
            name = name.rstrip(" \t")
            if not (in_section and equals and name):
                raise CredentialsError(f'{file}, line {number}: "name = value" expected, in a [section]')
            if not continues and ("#" in value or ";" in value):
                value = re.sub(r"[ \t][#;].*", "", value, count=1)
            value = value.strip(" \t")
            if is_name(name) and continues:
                place[name.lower()] = value
            elif is_name(name):
                deeper = place[name.lower()] = [value] if value else {}

    for properties in sections.values():
        for name, value in properties.items():
            properties[name] = "\n".join(value) if isinstance(value, list) else value or ""
    default = sections.pop(("", "default"), None)
    if default is not None:
        sections.setdefault(("profile", "default"), default)  # [profile default] replaces [default]
    return sections


def _read_file(path: str) -> str | None:
    """The text of a file; None if there is none."""
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            return file.read()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except UnicodeDecodeError:
        pass  # an error raised here would carry this one along, which quotes the file
    except (OSError, ValueError) as error:
        raise CredentialsError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from error
    raise CredentialsError(f"{path} is not UTF-8 text")


class _Files:
    """The config file and the credentials file, read when first asked for."""

    def __init__(self, config: str, credentials: str) -> None:
        self.config = config
        self.credentials = credentials
        self._sections: Sections | None = None

    def __str__(self) -> str:
        return f"{self.config} nor {self.credentials}"

    def sections(self) -> Sections:
        """Those of both; of a property that is in both, the credentials file's value."""
        if self._sections is None:
            sections: Sections = {}
            for file, kind in ((self.config, "config"), (self.credentials, "credentials")):
                for key, properties in _parse_config(_read_file(file) or "", file, kind).items():
                    sections.setdefault(key, {}).update(properties)
            self._sections = sections
        return self._sections

    def section(self, kind: str, name: str) -> dict[str, Any] | None:
        return self.sections().get((kind, name))


class _Profile:
    """What a profile says."""

    def __init__(self, files: _Files, name: str, given: bool = False, walked: tuple[str, ...] = ()) -> None:
        self.files = files
        self.name = name
        self.given = given  # named in code, which switches the environment's credentials off
        self.walked = walked  # those on the way here, each of which names the next as its source

    def is_there(self) -> bool:
        return self.files.section("profile", self.name) is not None

    def get(self, name: str) -> str:
        """A property; empty where it is not set, or where there is no such profile."""
        value = (self.files.section("profile", self.name) or {}).get(name)
        return value if isinstance(value, str) else ""

    def __getitem__(self, name: str) -> str:
        """A property that decides about credentials or region: only `default` may be missing."""
        if self.name != "default" and not self.is_there():
            known = sorted([name for kind, name in self.files.sections() if kind == "profile"])[:20]
            there_are = f"there are: {', '.join(known) or 'no profiles'}"
            raise CredentialsError(f"profile {self.name} is in neither {self.files}; {there_are}")
        return self.get(name)

    def source(self, name: str) -> _Profile:
        return _Profile(self.files, name, walked=(*self.walked, self.name))


class _Settings:
    """What one call goes by: the environment, the profile, the region given in code, and the clock."""

    def __init__(
        self, environ: Environ, profile: str | None = None, region: str | None = None,
        mfa_code: MfaCode = None, clock: Callable[[], float] = time.time,
    ) -> None:
        self.environ = os.environ if environ is None else environ
        config = self.variable("AWS_CONFIG_FILE") or "~/.aws/config"
        credentials = self.variable("AWS_SHARED_CREDENTIALS_FILE") or "~/.aws/credentials"
        self.files = _Files(self.path(config), self.path(credentials))
        name = profile or self.variable("AWS_PROFILE") or self.variable("AWS_DEFAULT_PROFILE") or "default"
        self.profile = _Profile(self.files, name, given=bool(profile))
        self.region_given = None if region is None else _region_name(region)
        self.mfa_code = mfa_code
        self.clock = clock
        self.found = "not set"  # in the place that the chain looked in last, in words
        self.looked: list[str] = []  # and in all of them

    def now(self) -> datetime:
        return datetime.fromtimestamp(self.clock(), timezone.utc)

    def variable(self, name: str) -> str:
        return (self.environ.get(name) or "").strip()

    def path(self, text: str) -> str:
        """With "~" expanded; unlike for os.path.expanduser, HOME comes first on Windows too."""
        home = self.variable("HOME")
        if not home and os.name == "nt":
            home = self.variable("USERPROFILE") or self.variable("HOMEDRIVE") + self.variable("HOMEPATH")
        if home and text[:2] in ("~", "~/", f"~{os.sep}"):
            return home + text[1:].replace("/", os.sep)
        return os.path.expanduser(text)

    def setting(self, name: str) -> str:
        """What AWS_<NAME> says, else the profile's property of that name."""
        return self.variable(f"AWS_{name.upper()}") or self.profile.get(name)

    def is_on(self, name: str) -> bool:
        return self.setting(name).lower() == "true"

    def region(self) -> str | None:
        """The one given, AWS_REGION, AWS_DEFAULT_REGION, the profile's. NoRegionError if malformed."""
        if self.region_given:
            return self.region_given
        variable = next(filter(self.variable, _REGION_VARIABLES), "")
        configured = self.variable(variable) if variable else self.profile["region"]
        try:
            return _region_name(configured) if configured else None
        except ValueError as error:
            raise NoRegionError(f"{variable or f'profile {self.profile.name}'}: {error}") from None


_TARGET = r"/[!\"$-\[\]-~]*"  # path and query
# Scheme; host and port, together and apart; target.
_URL = rf"(https?)://(([a-z0-9._-]+|\[(?=[0-9a-f.]*:)[0-9a-f:.]+\])(?::([0-9]{{1,5}}))?)((?:{_TARGET})?)"


class _Url:
    """An http(s) URL, taken apart once and strictly: what is checked is what the connection will use."""

    def __init__(self, url: str, name: str = "it") -> None:
        import re
        found = re.fullmatch(_URL, url, re.IGNORECASE | re.ASCII)
        if found is None or not 0 < int(found[4] or 1) < 65536:
            raise CredentialsError(f"{name} is not an http(s) address")
        self.scheme = found[1].lower()
        self.address = found[2]  # as in a Host header
        self.host = found[3].strip("[]").lower()
        self.port = int(found[4] or (443 if self.scheme == "https" else 80))
        self.authority = f"{found[3]}:{self.port}"  # as CONNECT names it
        self.target = found[5] or "/"

    def __str__(self) -> str:
        return f"{self.scheme}://{self.address}{self.target}"


def _is_target(path: object) -> bool:
    """Whether it can stand in a request's first line: a path, percent-encoded, with a query or without."""
    import re
    return isinstance(path, str) and re.fullmatch(_TARGET, path) is not None


def _endpoint(settings: _Settings, service: str, region: str | None) -> str:
    """What URL, without a slash at its end, the SERVICE in AWS_ENDPOINT_URL_<SERVICE> is called at."""
    # 1. A configured one: the service's, else that of all, in the environment, else in the profile.
    url = settings.variable(f"AWS_ENDPOINT_URL_{service.upper()}") or settings.variable("AWS_ENDPOINT_URL")
    name = settings.profile.get("services")
    if name and not url:
        services = settings.files.section("services", name)
        if services is None:
            raise CredentialsError(f"services {name} is not in {settings.files.config}")
        own = services.get(service)
        url = own.get("endpoint_url", "") if isinstance(own, dict) else ""
    url = url or settings.profile.get("endpoint_url")
    if url and not settings.is_on("ignore_configured_endpoint_urls"):
        return str(_Url(url, f"the endpoint URL configured for {service}")).rstrip("/")

    # 2. AWS's.
    if region is None:  # only STS is called without one
        return "https://sts.amazonaws.com"
    fips = settings.is_on("use_fips_endpoint")
    dualstack = settings.is_on("use_dualstack_endpoint")
    if service == "bedrock_mantle":  # which has one name only
        fips, dualstack = False, True
    if region.startswith("us-gov-") and not service.startswith("bedrock") and not dualstack:
        fips = False  # the plain hosts are FIPS hosts there
    host = {"sso": "portal.sso", "sso_oidc": "oidc"}.get(service, service.replace("_", "-"))
    suffixes = next(suffixes for start, suffixes in _PARTITIONS.items() if region.startswith(start))
    return f"https://{host}{'-fips' if fips else ''}.{region}.{suffixes[dualstack]}"


# ---------------------------------------------------------------------------------------- HTTP
#
# One deadline for all attempts, checked at every read of the socket. No redirect is followed.

_CREDENTIAL_LIMIT = 64 * 1024  # bytes
# What STS says with HTTP 400 when it means: later.
_TRANSIENT_CODES = (
    "Throttling", "ThrottlingException", "ThrottledException", "RequestThrottled", "RequestTimeout",
    "RequestThrottledException", "RequestLimitExceeded", "TooManyRequestsException", "SlowDown",
    "PriorRequestNotComplete", "BandwidthLimitExceeded", "IDPCommunicationError", "RequestTimeoutException",
)
_tls_contexts: dict[str, ssl.SSLContext] = {}  # by CA bundle: making one takes most of the time of a call


class _NoAnswer(CredentialsError):
    """Nobody there, or an answer that is cut off, too slow, too long or not HTTP."""

    timed_out = sent = passing = False


def _tls_context(bundle: str) -> ssl.SSLContext:
    """What trusts the certificates in a file; the system's own, if it is empty."""
    import ssl
    if bundle not in _tls_contexts:
        try:
            context = ssl.create_default_context(cafile=bundle or None)
        except OSError as error:
            raise CredentialsError(f"the CA bundle {bundle} cannot be used: {error.strerror}") from error
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.hostname_checks_common_name = False
        _tls_contexts[bundle] = context
    return _tls_contexts[bundle]


class _Link(io.RawIOBase):
    """A connection, every wait of which ends at one deadline (by time.monotonic)."""

    def __init__(self, connection: socket.socket, deadline: float) -> None:
        self.socket = connection
        self.deadline = deadline
        self.may_end = True  # at the other side's will

    def limit_wait(self) -> None:
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        self.socket.settimeout(left)

    def sendall(self, data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            self.limit_wait()
            rest = rest[self.socket.send(rest):]

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        self.limit_wait()
        received = self.socket.recv_into(buffer)
        if not received and not self.may_end:
            raise ConnectionError("the answer is cut off")
        return received

    def makefile(self, _: str) -> io.BufferedReader:
        return io.BufferedReader(self)

    def close(self) -> None:
        # Without super().close(), at which what reads from here would complain when it is collected.
        self.socket.close()


def _connect(url: _Url, deadline: float) -> _Link:
    """A connection to the first of the host's addresses that takes one. Each gets its share of the time."""
    import socket
    addresses = socket.getaddrinfo(url.host, url.port, type=socket.SOCK_STREAM)
    failure = OSError(f"{url.host} has no address")
    for tried, (*_, address) in enumerate(addresses):
        share = max((deadline - time.monotonic()) / (len(addresses) - tried), 0.001)
        try:
            connection = socket.create_connection(address[:2], share)  # type: ignore[arg-type]
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return _Link(connection, deadline)
        except OSError as error:
            failure = error
    raise failure


def _exchange(
    link: _Link, method: str, target: str, host: str, headers: Pairs, body: bytes | None = None
) -> HTTPResponse:
    """Send a request, and receive the head of its answer, passing over mere announcements (1xx)."""
    from http.client import HTTPResponse
    head = [f"{method} {target} HTTP/1.1", f"Host: {host}", *[f"{name}: {value}" for name, value in headers]]
    text = "\r\n".join(head)
    if text.splitlines() != head:
        raise ValueError("a line break inside a header")
    link.sendall(f"{text}\r\n\r\n".encode("latin-1") + (body or b""))

    link.may_end = False
    response = HTTPResponse(link, method=method)  # type: ignore[arg-type]
    response.begin()
    while response.status < 200:
        response.headers = None  # type: ignore[assignment]  # what makes it read the next one
        response.begin()
    link.may_end = response.length is None and not response.chunked
    return response


class _Route:
    """How a URL is reached, and until when: straight or through a proxy, with TLS or without."""

    def __init__(self, settings: _Settings, url: str, timeout: float, proxied: bool, since: float) -> None:
        self.url = _Url(url)
        self.timeout, self.deadline = timeout, since + timeout
        self.proxy: _Url | None = None
        self.login: list[tuple[str, str]] = []  # the header that the proxy's user makes
        self.secrets: list[str] = []  # in that
        if proxied:
            self._find_proxy(settings)
        self.bundle = settings.path(settings.setting("ca_bundle") or settings.variable("REQUESTS_CA_BUNDLE"))
        self.tls = _tls_context(self.bundle) if self.url.scheme == "https" else None

    def _find_proxy(self, settings: _Settings) -> None:
        import re
        from urllib.parse import unquote, unquote_to_bytes
        name = f"{self.url.scheme}_proxy"
        value = settings.variable(name)
        if name == "https_proxy" or "REQUEST_METHOD" not in settings.environ:  # else a CGI caller's header
            value = value or settings.variable(name.upper())
        if not value:
            return
        from urllib.request import proxy_bypass_environment  # type: ignore[attr-defined]
        exceptions = settings.variable("no_proxy") or settings.variable("NO_PROXY")
        if proxy_bypass_environment(self.url.address, {"no": exceptions}):
            return

        found = re.fullmatch(r"(?:http://)?(?:([!\"$-.0->A-\[\]-~]*)@)?([^/@]+)/?", value, re.IGNORECASE)
        login, address = found.groups() if found else ("", "")
        form = 'only http://[USER:PASSWORD@]HOST[:PORT], "/" and "@" of the password as %2F and %40'
        self.proxy = _Url(f"http://{address}", f"the proxy in {name.upper()} ({form})")
        if login:
            basic = binascii.b2a_base64(unquote_to_bytes(login), newline=False).decode("ascii")
            self.login = [("Proxy-Authorization", f"Basic {basic}")]
            self.secrets = [basic, unquote(login), unquote(login.partition(":")[2])]

    def failure(self, error: Exception) -> _NoAnswer:
        """What an error of the connection means."""
        import socket
        import ssl
        why, hint, kind = "the answer is not HTTP", "", ""
        if isinstance(error, (TimeoutError, socket.timeout)):
            why, kind = f"no answer within {self.timeout:g} s", "late"
        elif isinstance(error, ssl.SSLCertVerificationError):
            why = f"its certificate is not trusted ({error.verify_message})"
            if error.verify_code in (2, 18, 19, 20, 21):
                hint = f"its issuer is unknown to {self.bundle or 'this system: set AWS_CA_BUNDLE'}"
        elif isinstance(error, OSError):
            why, kind = error.strerror or str(error), "passing"
        through = f" through the proxy {self.proxy.address}" if self.proxy and kind != "late" else ""

        failure = _NoAnswer(f"{self.url.address} cannot be used{through}: {why}", hint)
        failure.timed_out, failure.passing = kind == "late", kind == "passing"
        failure.__cause__ = error if isinstance(error, OSError) else None  # others quote the answer
        return failure


class _Answer(io.RawIOBase):
    """An answer whose head has come; a file of its body as it comes. _NoAnswer where that is not complete."""

    def __init__(self, route: _Route, link: _Link, response: HTTPResponse) -> None:
        self.status, self.reason, self.headers = response.status, response.reason, response.headers
        self.content = b""  # once read_all() was called
        self.patience = 0.0  # seconds for each piece; 0 for all in the time that the connection has left
        self.route, self._link, self._response = route, link, response
        self.close = response.close  # type: ignore[method-assign]

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        from http.client import HTTPException
        if self.patience:
            self._link.deadline = time.monotonic() + self.patience
        try:
            piece = self._response.read1(len(buffer))
            buffer[:len(piece)] = piece
            return len(piece)
        except (OSError, HTTPException) as error:
            failure = self.route.failure(error)
        self.close()  # or it would stay open for as long as somebody keeps the error
        raise failure

    def read_all(self, limit: int) -> bytes:
        """The whole body, kept as `content`, if it has at most `limit` bytes."""
        self.content = io.BufferedReader(self).read(limit + 1)
        if len(self.content) > limit:
            self.close()
            raise self.route.failure(OSError(f"the answer has more than {limit // 1024} KiB"))
        return self.content


def _attempt(
    route: _Route, method: str, headers: Pairs, body: bytes | None, limit: int | None
) -> _Answer | _NoAnswer:
    """What comes of one attempt, on its own connection."""
    from http.client import HTTPException
    link, sent, target = None, False, route.url.target
    try:
        link = _connect(route.proxy or route.url, route.deadline)
        if route.proxy and route.tls:
            response = _exchange(link, "CONNECT", route.url.authority, route.url.authority, route.login)
            if response.status != 200:
                raise OSError(f"the proxy refuses to connect, with HTTP {response.status}")
        elif route.proxy:
            target, headers = str(route.url), [*headers, *route.login]
        if route.tls:  # which takes the socket away from what the proxy's answer closes at its end
            link.limit_wait()
            link = _Link(route.tls.wrap_socket(link.socket, server_hostname=route.url.host), route.deadline)

        sent = True
        answer = _Answer(route, link, _exchange(link, method, target, route.url.address, headers, body))
        if limit is not None:
            answer.read_all(limit)
        return answer
    except (OSError, HTTPException, ValueError, _NoAnswer) as error:
        if link is not None:
            link.close()  # or it would stay open for as long as somebody keeps the error
        failure = error if isinstance(error, _NoAnswer) else route.failure(error)
        failure.sent = sent
        return failure


def _parse_json(data: bytes | bytearray | str) -> Any:
    """The document, or None. An error would quote the text, which may hold credentials."""
    import json
    try:
        return json.loads(data)
    except (ValueError, RecursionError, MemoryError):
        return None


def _json_object(data: bytes | str) -> dict[str, Any]:
    document = _parse_json(data)
    if not isinstance(document, dict):
        raise CredentialsError("the answer is not a JSON object")
    return document


def _quoted(text: str, secrets: Iterable[str | None], limit: int = 500) -> str:
    """What somebody said, fit for a message: on one line, without the secrets, whole or in parts of 10."""
    from difflib import SequenceMatcher
    from urllib.parse import quote
    text = " ".join(text[:4000].split())
    for secret in filter(None, secrets):
        for spelled in (secret, quote(secret), quote(secret, safe="")):
            for form in {spelled, spelled.lower(), " ".join(spelled.split()), "".join(spelled.split())}:
                text = text.replace(form, "...")
                while True:
                    start, _, size = SequenceMatcher(None, text, form, autojunk=False).find_longest_match()
                    if size < 10:
                        break
                    text = f"{text[:start]}...{text[start + size:]}"
    return _printable(text, limit)


def _error_of(answer: _Answer, secrets: Iterable[str | None] = ()) -> tuple[str, str]:
    """Code and message of an error in AWS's JSON or XML, or in OpenAI's, without secrets it may repeat."""
    import html
    import re
    text = answer.content.decode("utf-8", "replace").strip()
    body = _parse_json(text)
    if not isinstance(body, dict):
        body = dict(re.findall(r"<(Code|Message)>([^<]*)</", text))
    if isinstance(body.get("error"), dict):
        body = body["error"]
    # Cut, since int() refuses more digits of a character.
    said = {key.lower(): html.unescape(value[:4000]) for key, value in body.items() if isinstance(value, str)}

    codes = [answer.headers.get("x-amzn-errortype"), *map(said.get, ("code", "__type", "error", "type"))]
    code = next(filter(None, codes), "").partition(":")[0].rpartition("#")[2]
    message = said.get("message") or said.get("error_description")
    if text and not code and not message:
        message = "the answer is not from AWS (a proxy?)"
    secrets = [*secrets, *answer.route.secrets]
    return _quoted(code, secrets, 100), _quoted(message or answer.reason, secrets)


def _send(
    settings: _Settings, method: str, url: str, *, headers: Pairs = (), body: bytes | None = None,
    proxied: bool = True, timeout: float = 10, since: float = 0, limit: int | None = _CREDENTIAL_LIMIT,
    attempts: int = 3, resend: bool = True, awaited: bool = False, model: bool = False,
) -> _Answer:
    """The answer, of any status, its body read if it has a `limit` of bytes; or _NoAnswer.

    `timeout`: seconds for all attempts, counted from `since` by time.monotonic() if something went before.
    `resend`: it may be carried out twice. `awaited`: who refuses the connection may come up until the time is
    over. `model`: a call, repeated only if it was turned away, as in the "standard" retry mode of AWS's SDKs.
    """
    import itertools
    import random
    route, said = _Route(settings, url, timeout, proxied, since or time.monotonic()), list(headers)
    if not any(name.lower() == "user-agent" for name, _ in said):
        said.append(("User-Agent", f"bedrock_token/{__version__}"))
    if body is not None:
        said.append(("Content-Length", str(len(body))))

    for attempt in itertools.count(1):
        outcome = _attempt(route, method, said, body, limit)
        last = attempt >= attempts
        pause = random.random() * min(2 ** (attempt - 1), 20) * (1 if model else 0.1)  # seconds

        if isinstance(outcome, _NoAnswer):
            again = outcome.passing and (resend or not outcome.sent)
            last = last and not (awaited and isinstance(outcome.__cause__, ConnectionRefusedError))
        elif model:
            again = outcome.status in (429, 503)
            asked_for = outcome.headers.get("Retry-After", "").strip()[:9]
            pause = max(pause, float(asked_for)) if asked_for.isdecimal() else pause
        else:
            throttled = outcome.status == 400 and _error_of(outcome)[0] in _TRANSIENT_CODES
            again = resend and (throttled or outcome.status == 429 or outcome.status >= 500)

        if last or not again or time.monotonic() + pause >= route.deadline:
            break
        if isinstance(outcome, _Answer):
            outcome.close()
        time.sleep(pause)
    if isinstance(outcome, _NoAnswer):
        raise outcome
    return outcome


def _content_of(answer: _Answer, secrets: Iterable[str | None] = (), hint: str = "") -> bytes:
    """The body of a good answer, or CredentialsError: without `secrets`, and with `hint` if it is refused."""
    if answer.status == 200:
        return answer.content
    said = ": ".join(filter(None, _error_of(answer, secrets)))
    raise CredentialsError(f"HTTP {answer.status} {said}", hint if answer.status in (400, 401, 403) else "")


# -------------------------------------------------------------------------- credential sources
#
# One function a source: credentials if it is configured, None if it is not, an error if it does not work.
# https://docs.aws.amazon.com/sdkref/latest/guide/standardized-credentials.html leads to AWS's page for each.

_PROGRAM_TIMEOUT = 60.0  # seconds
_KEYS = ("AccessKeyId", "SecretAccessKey", "SessionToken")
# Where container credentials may be asked for without TLS; other spellings of an address are refused.
_OCTET = r"(\d|[1-9]\d|1\d\d|2[0-4]\d|25[0-5])"
_CONTAINER_HOSTS = rf"localhost|127(\.{_OCTET}){{3}}|::1|169\.254\.170\.23?|fd00:ec2::23"


def _named(credentials: Credentials, source: str) -> Credentials:
    key_id, secret, session_token, ends, _ = credentials._values()
    return Credentials(key_id, secret, session_token, ends, source)


def _first_of(settings: _Settings, profile: _Profile, sources: Iterable[Source]) -> Credentials | None:
    """The credentials of the first source that is configured, with its name on them or on its error."""
    for name, configured_by, find in sources:
        name = name.replace("profile", f"profile {profile.name}")
        settings.found, found = "not set", None
        try:
            values = [settings.variable(key) if key.isupper() else profile[key] for key in configured_by]
            if profile.given and name.startswith("environment"):
                settings.found = "skipped: a profile is named"
            elif any(values) or not configured_by:
                found = find(settings, profile)
        except CredentialsError as error:
            raise CredentialsError(f"{name}: {error.message}", error.hint) from error
        except ValueError as error:
            raise CredentialsError(f"{name}: {error}") from None
        if found is not None:
            return _named(found, f"{name}, {found.source}" if found.source else name)
        settings.looked.append(f"{name} ({', '.join(configured_by) or 'EC2'}): {settings.found}")
    return None


def _time_of(value: object) -> datetime | None:
    """From text, RFC 3339 or close to it, or seconds since 1970; from a number, milliseconds. Else None."""
    if isinstance(value, datetime):
        return value
    try:
        text = str(value).strip()
        if text.isascii() and text.isdigit():
            return datetime.fromtimestamp(int(text) / (1000 if isinstance(value, int) else 1), timezone.utc)
        zone = text[19:].lstrip(".0123456789")  # without the fraction: Python 3.9 reads only some of them
        zone = "+00:00" if zone in ("Z", "UTC", "") else f"{zone[:3]}:{zone[-2:]}"  # some tools write +0000
        return datetime.fromisoformat(f"{text[:10]}T{text[11:19]}{zone}").astimezone(timezone.utc)
    except (ValueError, OverflowError, OSError):
        return None


def _rfc3339(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def _seconds_left(settings: _Settings, ends: object) -> float:
    """How long it is until then; 0 if that is no time."""
    return ((_time_of(ends) or settings.now()) - settings.now()).total_seconds()


def _checked(settings: _Settings, given: dict[str, Any], required: int = 2) -> Credentials:
    """`given`: by name, key id, secret, session token, expiration; the first `required` must not be empty."""
    missing = [name for name in list(given)[:required] if not given[name]]
    if missing:
        raise CredentialsError(f"{' and '.join(missing)} missing")
    (id_name, key_id), (_, secret), (_, session_token), (end_name, end) = given.items()
    wrong = [name for name, key in list(given.items())[:3] if key and not _is_plain(key)]
    if wrong or not key_id.replace("_", "x").isalnum():
        name = wrong[0] if wrong else id_name
        raise CredentialsError(f"{name} has blanks, quotes or other characters that no key has")
    ends = _time_of(end)
    if end and not ends:
        raise CredentialsError(f"{end_name} is not a time")
    if ends and ends <= settings.now():
        raise CredentialsError(f"the credentials have expired already, at {ends.isoformat()}")
    return Credentials(key_id, secret, session_token, ends)


def _from_document(settings: _Settings, document: Any, required: int = 4) -> Credentials:
    """Credentials from any service's document; their field names differ only in case and in two names."""
    others = {"Token": "SessionToken", "expiresAt": "Expiration"}
    fields: dict[str, Any] = document if isinstance(document, dict) else {}
    fields = {others.get(name, name).lower(): value for name, value in fields.items()}
    return _checked(settings, {name: fields.get(name.lower()) for name in (*_KEYS, "Expiration")}, required)


def _from_environment(settings: _Settings, _: _Profile) -> Credentials | None:
    names = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_CREDENTIAL_EXPIRATION")
    return _checked(settings, {name: settings.variable(name) for name in names})


def _from_static_keys(settings: _Settings, profile: _Profile) -> Credentials | None:
    names = ("aws_access_key_id", "aws_secret_access_key", "aws_session_token")
    notes = ("x_security_token_expires", "aws_session_expiration", "aws_credential_expiration",
             "aws_expiration", "expiration")  # how tools note the end of temporary keys
    ends = min(filter(None, [_time_of(profile[note]) for note in notes]), default=None)
    return _checked(settings, {**{name: profile[name] for name in names}, "expiration": ends})


def _readable(selector: BaseSelector, patience: float) -> list[SelectorKey]:
    """The pipes that have something to read, or have ended: after `patience` seconds at the latest."""
    if sys.platform == "win32":  # where pipes cannot be waited for, only looked into
        from _winapi import PeekNamedPipe
        from contextlib import suppress
        from msvcrt import get_osfhandle
        time.sleep(0.01)
        ready = list(selector.get_map().values())
        for key in selector.get_map().values():
            with suppress(BrokenPipeError):  # its end
                if PeekNamedPipe(get_osfhandle(key.fd), 0)[0] == 0:
                    ready.remove(key)
        return ready
    return [key for key, _ in selector.select(patience)]


def _output_of(program: subprocess.Popen[bytes]) -> tuple[bytes, bytes]:
    """A program's stdout, and the beginning of its stderr, which a terminal shows: it may ask something."""
    from selectors import EVENT_READ, DefaultSelector
    deadline = time.monotonic() + _PROGRAM_TIMEOUT
    output, said = bytearray(), bytearray()
    with program.stdout as stdout, program.stderr as stderr, DefaultSelector() as selector:  # type: ignore
        selector.register(stdout, EVENT_READ, output)
        selector.register(stderr, EVENT_READ, said)
        while selector.get_map():
            for key in _readable(selector, deadline - time.monotonic()):
                piece = os.read(key.fd, 65536)
                key.data.extend(piece)
                if not piece:
                    selector.unregister(key.fileobj)
                elif key.data is said and sys.stderr and sys.stderr.isatty():
                    os.write(sys.stderr.fileno(), piece)
            del said[1000:]
            if len(output) > _CREDENTIAL_LIMIT:
                raise OSError(f"it printed more than {_CREDENTIAL_LIMIT // 1024} KiB")
            if time.monotonic() >= deadline:
                raise TimeoutError
    program.wait(max(deadline - time.monotonic(), 0))
    return bytes(output), bytes(said)


def _run(settings: _Settings, command: str | list[str], name: str) -> Credentials:
    """Credentials from what a program prints, run without a shell."""
    import subprocess
    problem, program, pipe = "", None, subprocess.PIPE
    try:
        program = subprocess.Popen(command, env=dict(settings.environ), stdout=pipe, stderr=pipe)
        output, said = _output_of(program)
        if program.returncode:
            first_line = said.decode("utf-8", "replace").strip().partition("\n")[0]
            problem = f"it ended with status {program.returncode}: {_quoted(first_line, (), 300)}"
    except (TimeoutError, subprocess.TimeoutExpired):
        problem = f"it did not end within {_PROGRAM_TIMEOUT:g} s"
    except (OSError, ValueError) as error:
        problem = str(getattr(error, "strerror", None) or error)
    finally:
        if program:
            program.kill()
            program.wait()
    if problem:  # raised here, since the errors above may hold what it printed
        raise CredentialsError(f"the program {name} cannot be used: {problem}")
    document = _json_object(output)
    if document.get("Version") != 1:
        raise CredentialsError("the program's answer is not of Version 1")
    return _from_document(settings, document, required=2)


def _from_process(settings: _Settings, profile: _Profile) -> Credentials | None:
    import shlex
    command = profile["credential_process"]
    words = shlex.split(command, posix=os.name != "nt")
    return _run(settings, command if os.name == "nt" else words, words[0])


def _read_cache(path: str, good: Callable[[dict[str, Any]], bool] = lambda _: True) -> dict[str, Any]:
    """The JSON object in a file of the AWS CLI's. Waits while another process writes it, or a good one."""
    deadline = time.monotonic() + 2.0
    while True:
        text = _read_file(path)
        if text is None:
            raise CredentialsError("nobody has signed in")
        document = _parse_json(text)
        if isinstance(document, dict) and good(document):
            return document
        if time.monotonic() >= deadline:
            raise CredentialsError(f"{path} is damaged: it is not a JSON object")
        time.sleep(0.05)


def _replace_cache(path: str, old: dict[str, Any], make: Callable[..., dict[str, Any]]) -> dict[str, Any]:
    """Replace a file of the AWS CLI's by what `make` gives for `old`, in one step and for its owner alone."""
    import json
    from contextlib import suppress
    target = os.path.realpath(path)  # a link stays one
    temporary = f"{target}.{os.urandom(8).hex()}.tmp"

    def write(name: str, text: str) -> None:
        with open(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            file.write(text)
        os.chmod(name, 0o600)  # whatever the umask says

    try:
        write(temporary, " " * (len(json.dumps(old)) + 16384))  # a full disk fails here, not after `make`
        new = make(old)
        with suppress(OSError):  # what has been made is good even if it cannot be kept
            write(temporary, json.dumps(new))
            for _ in range(10):  # well within the 2 s that others wait for it
                with suppress(PermissionError):  # on Windows, where another program has the file open
                    os.replace(temporary, target)
                    return new
                time.sleep(0.05)
            write(target, json.dumps(new))
        return new
    except OSError as error:
        raise CredentialsError(f"{path} cannot be written: {error.strerror or error}") from error
    finally:
        with suppress(OSError):  # it has been put in its place
            os.unlink(temporary)


def _from_login_session(settings: _Settings, profile: _Profile) -> Credentials | None:
    """What `aws login` left. The AWS CLI renews it, when it would itself: that takes elliptic curves.

    https://docs.aws.amazon.com/cli/latest/userguide/cli-configure-sign-in.html
    """
    import shutil
    from contextlib import suppress
    folder = settings.variable("AWS_LOGIN_CACHE_DIRECTORY") or "~/.aws/login/cache"
    name = hashlib.sha256(profile["login_session"].encode("utf-8")).hexdigest()
    cached = None
    try:
        cache = _read_cache(settings.path(os.path.join(folder, f"{name}.json")))
        with suppress(CredentialsError):  # they may have ended
            cached = _from_document(settings, cache.get("accessToken"))
        if cached and _seconds_left(settings, cached.expiration) >= 300:
            return cached
        program = shutil.which("aws", path=settings.environ.get("PATH")) or "aws"
        export = ["configure", "export-credentials", "--profile", profile.name, "--format", "process"]
        return _run(settings, [program, *export], program)
    except CredentialsError as error:
        if cached:
            return cached
        message, hint = error.message, f"run: aws login --profile {profile.name}"
        if "status 2: usage" in message:
            message, hint = "the AWS CLI on PATH is version 1", f"{hint}, with version 2"
        raise CredentialsError(message, hint) from error


def _sso_access_token(settings: _Settings, session: str, start_url: str, region: str) -> str:
    """The access token of a session the AWS CLI has signed in, renewed if it is about to end and can be."""
    import json
    from contextlib import suppress
    name = hashlib.sha1((session or start_url).encode("utf-8"), usedforsecurity=False).hexdigest()
    path = settings.path(f"~/.aws/sso/cache/{name}.json")
    cache = _read_cache(path)
    client = {name: cache.get(name) for name in ("clientId", "clientSecret", "refreshToken")}

    def left(cache: dict[str, Any]) -> float:
        return _seconds_left(settings, cache.get("expiresAt")) if _is_plain(cache.get("accessToken")) else 0.0

    # https://docs.aws.amazon.com/singlesignon/latest/OIDCAPIReference/API_CreateToken.html
    def renewed(old: dict[str, Any]) -> dict[str, Any]:
        url = f"{_endpoint(settings, 'sso_oidc', region)}/token"
        body = json.dumps({"grantType": "refresh_token", **client}).encode("utf-8")
        headers = [("Content-Type", "application/json")]
        answer = _send(settings, "POST", url, headers=headers, body=body, resend=False)  # spent when sent
        document = _json_object(_content_of(answer, client.values()))
        token, seconds, refresh = map(document.get, ("accessToken", "expiresIn", "refreshToken"))
        if not _is_plain(token) or not isinstance(seconds, int) or not 0 < seconds < 10**9:
            raise CredentialsError("accessToken or expiresIn missing in the answer")
        new = {"accessToken": token, "expiresAt": _rfc3339(settings.now() + timedelta(seconds=seconds))}
        return {**old, **new, "refreshToken": refresh if _is_plain(refresh) else old["refreshToken"]}

    renewable = session and all(map(_is_plain, client.values()))
    if renewable and left(cache) < 900 and _seconds_left(settings, cache.get("registrationExpiresAt")) > 0:
        try:
            cache = _replace_cache(path, cache, renewed)
        except CredentialsError as error:
            # Another process may have spent the refresh token: what it got for it is there, or soon will be.
            if "invalidgrant" in error.message.replace("_", "").lower():
                with suppress(CredentialsError):
                    cache = _read_cache(path, lambda other: left(other) > 0)
            if left(cache) <= 0:
                raise
    if left(cache) <= 0:
        raise CredentialsError("the session has expired")
    return str(cache["accessToken"])


def _from_sso(settings: _Settings, profile: _Profile) -> Credentials | None:
    """IAM Identity Center. What the profile does not say, its sso-session says."""
    from urllib.parse import urlencode
    names = ("sso_account_id", "sso_role_name", "sso_region", "sso_start_url")
    file, session = settings.files.config, profile["sso_session"]
    section = settings.files.section("sso-session", session) if session else {}
    if section is None:
        raise CredentialsError(f"the sso-session {session} is not in {file}")
    values = {name: profile[name] or str(section.get(name, "")) for name in names}
    wrong = [name for name, value in values.items() if not value or section.get(name, value) != value]
    if wrong:
        raise CredentialsError(f"{', '.join(wrong)} missing in {file}, or not as in the sso-session")
    region = _region_name(values["sso_region"])

    hint = f"run: aws sso login --profile {profile.name}"
    try:
        token = _sso_access_token(settings, session, values["sso_start_url"], region)
    except CredentialsError as error:
        raise CredentialsError(error.message, hint) from error
    query = urlencode({"role_name": values["sso_role_name"], "account_id": values["sso_account_id"]})
    url = f"{_endpoint(settings, 'sso', region)}/federation/credentials?{query}"
    answer = _send(settings, "GET", url, headers=[("x-amz-sso_bearer_token", token)])
    content = _content_of(answer, [token], f"if the session has ended, {hint}")
    return _from_document(settings, _json_object(content).get("roleCredentials"))


def _sts(settings: _Settings, parameters: dict[str, Any], signer: Credentials | None = None) -> Credentials:
    """A role's credentials. Nothing of the signature stands in a URL, which a proxy may log."""
    import re
    from urllib.parse import urlencode
    region = settings.region()
    url = _Url(f"{_endpoint(settings, 'sts', region)}/")
    form = {"Version": "2011-06-15", **parameters}
    form.setdefault("RoleSessionName", f"bedrock_token-{int(settings.clock())}")
    body = urlencode(form).encode()
    headers = [("Content-Type", "application/x-www-form-urlencoded")]
    secrets = [form.get(name) for name in ("WebIdentityToken", "TokenCode", "ExternalId")]
    if signer is not None:
        secrets += [signer.secret_access_key, signer.session_token]
        writer = _Signer(signer, region or "us-east-1", "sts", settings.now())
        path, payload_hash = _canonical_uri(url.target), hashlib.sha256(body).hexdigest()
        headers += _authorization(writer, "POST", url.address, path, (), headers, payload_hash)
    resend = "TokenCode" not in form  # which is spent by being sent
    answer = _send(settings, "POST", str(url), headers=headers, body=body, resend=resend)

    fields = re.findall(r"<(\w+)>([^<>&]*)</\1>", _content_of(answer, secrets).decode("utf-8", "replace"))
    through = f", through {signer.source or 'code'}" if signer else ""
    return _named(_from_document(settings, dict(fields)), f"role {form['RoleArn']}{through}")


def _role_parameters(arn: str, session: str | None, duration: str = "", **more: str | None) -> dict[str, Any]:
    """What a role is asked for with. ValueError for what STS refuses by its form."""
    import re
    if not 20 <= len(arn) <= 2048 or not arn.isprintable():
        raise ValueError("role_arn (AWS_ROLE_ARN) must be an ARN like arn:aws:iam::123456789012:role/NAME")
    if session and not re.fullmatch(r"[\w+=,.@-]{2,64}", session, re.ASCII):
        raise ValueError("the role session name must be 2 to 64 letters, digits or _+=,.@-")
    if duration and not (re.fullmatch(r"[0-9]{3,5}", duration) and 900 <= int(duration) <= 43200):
        raise ValueError("the duration must be 900 to 43200 seconds")
    parameters = {"RoleArn": arn, "RoleSessionName": session, "DurationSeconds": int(duration or 0), **more}
    return {name: value for name, value in parameters.items() if value}


def _assume_role(settings: _Settings, parameters: dict[str, Any], signer: Credentials) -> Credentials:
    """https://docs.aws.amazon.com/STS/latest/APIReference/API_AssumeRole.html"""
    request = {"Action": "AssumeRole", **parameters}
    serial = parameters.get("SerialNumber")
    if serial:
        if settings.mfa_code is None:
            hint = "pass mfa_code, as in credentials=lambda: load_credentials(mfa_code=...)"
            raise CredentialsError(f"the role asks for a code of the MFA device {serial}", hint)
        code = request["TokenCode"] = str(settings.mfa_code(serial)).strip()
        if not (code.isascii() and code.isdigit() and len(code) == 6):
            raise CredentialsError(f"a code of the MFA device {serial} must be six digits")
    return _sts(settings, request, signer)


def _cached_role(settings: _Settings, parameters: dict[str, Any], signer: Credentials) -> Credentials:
    """The same, kept where the AWS CLI keeps it, under its key: one code serves both."""
    import json
    from contextlib import suppress
    arguments = json.dumps(parameters, sort_keys=True).encode()
    name = hashlib.sha1(arguments, usedforsecurity=False).hexdigest()
    path = os.path.join(settings.path("~/.aws/cli/cache"), f"{name}.json")
    kept = None
    with suppress(CredentialsError, ValueError):  # what is damaged or has ended is not there
        kept = _from_document(settings, _read_cache(path).get("Credentials"))
        kept = _named(kept, f"role {parameters['RoleArn']}, in the AWS CLI's cache")
    if kept and _seconds_left(settings, kept.expiration) >= 15 * 60:
        return kept

    try:
        assumed = _assume_role(settings, parameters, signer)
    except CredentialsError:
        if kept:  # its last minutes are better than nothing
            return kept
        raise
    *keys, ends, _ = assumed._values()
    fields = dict(zip((*_KEYS, "Expiration"), (*keys, _rfc3339(ends))))
    with suppress(OSError, CredentialsError):  # a read-only home: the code will be asked for again
        os.makedirs(os.path.dirname(path), 0o700, exist_ok=True)
        _replace_cache(path, {"Credentials": fields}, lambda same: same)
    return assumed


def _read_token(settings: _Settings, file: str) -> str:
    """The token in a file, read at every call, since it is replaced before it ends."""
    path = settings.path(file)
    token = (_read_file(path) or "").strip()
    if not token:
        raise CredentialsError(f"the token file {path} is missing or empty")
    return token


def _web_identity(settings: _Settings, token_file: str, *role: str) -> Credentials:
    """Unsigned: https://docs.aws.amazon.com/STS/latest/APIReference/API_AssumeRoleWithWebIdentity.html"""
    parameters = {"WebIdentityToken": _read_token(settings, token_file), **_role_parameters(*role)}
    return _sts(settings, {"Action": "AssumeRoleWithWebIdentity", **parameters})


def _from_environment_identity(settings: _Settings, _: _Profile) -> Credentials | None:
    names = ("AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_ROLE_ARN", "AWS_ROLE_SESSION_NAME")
    return _web_identity(settings, *map(settings.variable, names))


def _from_profile_identity(settings: _Settings, profile: _Profile) -> Credentials | None:
    names = ("web_identity_token_file", "role_arn", "role_session_name", "duration_seconds")
    return _web_identity(settings, *map(profile.get, names))


def _from_container(settings: _Settings, _: _Profile) -> Credentials | None:
    """ECS, EKS Pod Identity, Lambda SnapStart, CloudShell. The address is checked: it gets a token."""
    import re
    relative = settings.variable("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI")
    full = settings.variable("AWS_CONTAINER_CREDENTIALS_FULL_URI")
    name = f"AWS_CONTAINER_CREDENTIALS_{'RELATIVE' if relative else 'FULL'}_URI"
    url = _Url(f"http://169.254.170.2{relative}" if relative else full, name)
    allowed = url.scheme == "https" or re.fullmatch(_CONTAINER_HOSTS, url.host, re.ASCII)
    if not allowed or relative[:1] not in ("", "/"):
        raise CredentialsError(f"{name} must be https, or http to a loopback or AWS address, not {url.host}")

    token = settings.variable("AWS_CONTAINER_AUTHORIZATION_TOKEN")
    token_file = settings.variable("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE")
    if token_file:
        token = _read_token(settings, token_file)
    if not (token.isascii() and token.isprintable()):
        raise CredentialsError("the authorization token has characters that no header can have")
    headers = [("Authorization", token)] if token else []
    answer = _send(settings, "GET", str(url), headers=headers, timeout=5.0, proxied=False, awaited=True)
    return _from_document(settings, _json_object(_content_of(answer, [token])))


def _ask_metadata(settings: _Settings, method: str, path: str, *headers: tuple[str, str]) -> _Answer:
    """An answer of the metadata service of the EC2 instance."""
    hosts = {"ipv4": "http://169.254.169.254", "ipv6": "http://[fd00:ec2::254]"}
    host = hosts.get(settings.setting("ec2_metadata_service_endpoint_mode").lower() or "ipv4")
    if host is None:
        raise CredentialsError("AWS_EC2_METADATA_SERVICE_ENDPOINT_MODE must be IPv4 or IPv6")
    base = (settings.setting("ec2_metadata_service_endpoint") or host).rstrip("/")
    url = _Url(f"{base}/latest/{path}", "AWS_EC2_METADATA_SERVICE_ENDPOINT")
    try:
        timeout = float(settings.setting("metadata_service_timeout") or 1)
        timeout *= int(settings.setting("metadata_service_num_attempts") or 1)
    except (ValueError, OverflowError):
        timeout = 0.0
    if not 0 < timeout <= 3600:
        raise CredentialsError("AWS_METADATA_SERVICE_TIMEOUT and _NUM_ATTEMPTS must be numbers above 0")
    return _send(settings, method, str(url), headers=headers, timeout=timeout, proxied=False)


def _metadata_token(settings: _Settings) -> str:
    """What version 2 of the service, the only one that is used, is read with; empty if it is not there."""
    ttl = ("x-aws-ec2-metadata-token-ttl-seconds", "21600")
    try:
        answer = _ask_metadata(settings, "PUT", "api/token", ttl)
    except _NoAnswer as error:
        settings.found = "no answer"
        if error.timed_out and error.sent:
            settings.found += "; in a container, the instance's metadata hop limit must be 2 or more"
        return ""
    if answer.status in (403, 404, 405):  # what other clouds say, and a service that is switched off
        settings.found = f"none here (HTTP {answer.status})"
        return ""
    token = answer.content.decode("ascii", "replace").strip()
    if answer.status != 200 or not _is_plain(token):
        raise CredentialsError(f"asked for a token, it answers HTTP {answer.status} and none")
    return token


def _metadata(settings: _Settings, token: str, path: str) -> str:
    """What the service says there; empty if there is nothing."""
    answer = _ask_metadata(settings, "GET", f"meta-data/{path}", ("x-aws-ec2-metadata-token", token))
    if answer.status == 404:
        return ""
    return _content_of(answer, [token]).decode("utf-8", "replace").strip()


def _from_instance_metadata(settings: _Settings, _: _Profile) -> Credentials | None:
    import re
    if settings.variable("AWS_EC2_METADATA_DISABLED").lower() == "true":
        settings.found = "disabled by AWS_EC2_METADATA_DISABLED"
        return None
    token = _metadata_token(settings)
    if not token:
        return None
    role = _metadata(settings, token, "iam/security-credentials/").partition("\n")[0]
    if not role:
        settings.found = "the instance has no role"
        return None
    if not re.fullmatch(r"[\w+=,.@-]{1,64}", role, re.ASCII):
        raise CredentialsError("asked for the role's name, it answers something else")
    document = _json_object(_metadata(settings, token, f"iam/security-credentials/{role}"))
    if document.get("Code", "Success") != "Success":
        raise CredentialsError(f"it says itself that it has no credentials of {role}")
    return _from_document(settings, document)


def _from_role(settings: _Settings, profile: _Profile) -> Credentials | None:
    role_arn, base, origin = profile["role_arn"], profile["source_profile"], profile["credential_source"]
    if profile["web_identity_token_file"]:
        return None  # which is another source
    if bool(base) == bool(origin):
        raise CredentialsError("a role needs one of source_profile and credential_source, not both or none")

    # Who signs. Its static keys, if it has some, end the walk from profile to profile.
    source = profile.source(base)
    if base:
        static = source["aws_access_key_id"] or source["aws_secret_access_key"]
        if base in source.walked and not (static and base == profile.name):
            raise CredentialsError(f"source_profile {base}: this goes in a circle")
        rows = [row for row in _SOURCES if row[0] == "profile" or not static and row[0].startswith("profile")]
    else:
        kinds = {"environment": "environment", "ecscontainer": "container",
                 "ec2instancemetadata": "instance metadata"}
        rows = [row for row in _SOURCES if row[0] == kinds.get(origin.lower())]
        if not rows:
            known = "Environment, EcsContainer or Ec2InstanceMetadata"
            raise CredentialsError(f"credential_source must be {known}")
    signer = _first_of(settings, source, rows)
    if signer is None:
        raise CredentialsError(f"its source {base or origin} gives no credentials ({settings.found})")

    names = ("role_session_name", "duration_seconds", "external_id", "mfa_serial")
    session, duration, external_id, serial = map(profile.get, names)
    parameters = _role_parameters(role_arn, session, duration, ExternalId=external_id, SerialNumber=serial)
    assume = _cached_role if serial else _assume_role
    return assume(settings, parameters, signer)


# What it is called; the settings of which one configures it; its function. README's table is held against it.
# A role goes through it again, for the profile that it names as its source.
_SOURCES: tuple[Source, ...] = (
    ("environment", ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"), _from_environment),
    ("profile (role)", ("role_arn",), _from_role),
    ("environment (web identity)", ("AWS_WEB_IDENTITY_TOKEN_FILE",), _from_environment_identity),
    ("profile (web identity)", ("web_identity_token_file",), _from_profile_identity),
    ("profile (sso)", ("sso_account_id", "sso_role_name"), _from_sso),
    ("profile", ("aws_access_key_id", "aws_secret_access_key"), _from_static_keys),
    ("profile (login)", ("login_session",), _from_login_session),
    ("profile (credential_process)", ("credential_process",), _from_process),
    ("container", ("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "AWS_CONTAINER_CREDENTIALS_FULL_URI"),
     _from_container),
    ("instance metadata", (), _from_instance_metadata),  # there is a role of the EC2 instance
)


# ----------------------------------------------------------------------------------- the chain


def _load_credentials(settings: _Settings) -> Credentials:
    credentials = _first_of(settings, settings.profile, _SOURCES)
    if credentials is not None:
        return credentials

    files = settings.files
    there = os.path.exists(files.config) or os.path.exists(files.credentials)
    missing = "not set" if there else f"no such file, neither {files}"
    raise NoCredentialsError(
        "no AWS credentials found",
        "run aws configure sso, aws login or aws configure. Looked, in this order, in:",
        [p.replace("not set", missing) if p.startswith("profile") else p for p in settings.looked],
    )


def _no_region(settings: _Settings) -> NoRegionError:
    return NoRegionError(
        f"no region is configured in {', '.join(_REGION_VARIABLES)} or profile {settings.profile.name}",
        "there is no default: set AWS_REGION or pass a region (--region), for example us-east-1",
    )


def _find(settings: _Settings, given: Any = None) -> tuple[Credentials, str]:
    """What to sign with, and for: the credentials given, or the chain's; the region, or their instance's."""
    credentials = _load_credentials(settings) if given is None else _snapshot(given)
    region = settings.region()
    if region is None and given is None and credentials.source == _SOURCES[-1][0]:
        try:
            region = _region_name(_metadata(settings, _metadata_token(settings), "placement/region"))
        except (CredentialsError, ValueError):
            pass  # it says none
    if region is None:
        raise _no_region(settings)
    return credentials, region


def load_credentials(
    profile: str | None = None, *, environ: Environ = None, mfa_code: MfaCode = None
) -> Credentials:
    """The credentials the AWS CLI and boto3 would use; `.source` says where they came from.

    `profile` switches those of the environment off; `environ` replaces os.environ; `mfa_code(serial)` returns
    a role's six digits. Raises NoCredentialsError if there are none, CredentialsError if they do not work.
    https://docs.aws.amazon.com/sdkref/latest/guide/standardized-credentials.html
    """
    return _load_credentials(_Settings(environ, profile, mfa_code=mfa_code))


def load_region(profile: str | None = None, *, environ: Environ = None) -> str:
    """AWS_REGION, AWS_DEFAULT_REGION, the profile's region, or the EC2 instance's if it gives credentials.

    Raises NoRegionError if there is none or it cannot be one, CredentialsError if a file is broken.
    """
    settings = _Settings(environ, profile)
    region = settings.region()
    try:  # only the last of these places needs to know where credentials come from
        return region or _find(settings)[1]
    except (NoCredentialsError, CredentialsError):
        raise _no_region(settings) from None


class _AssumedRole:
    """What assume_role() returns: it pickles, and its repr shows nothing."""

    def __init__(self, *given: Any) -> None:
        self._given = given

    def __call__(self) -> Credentials:
        parameters, credentials, mfa_code, region, environ = self._given
        settings = _Settings(environ, region=region, mfa_code=mfa_code)
        signer = _load_credentials(settings) if credentials is None else _snapshot(credentials)
        try:
            return _assume_role(settings, parameters, signer)
        except CredentialsError as error:
            raise CredentialsError(f"role {parameters['RoleArn']}: {error.message}", error.hint) from error


def assume_role(
    role_arn: str, *, credentials: Any = None, session_name: str | None = None,
    external_id: str | None = None, duration: Lifetime = 3600, policy: str | None = None,
    mfa_serial: str | None = None, mfa_code: MfaCode = None, region: str | None = None,
    environ: Environ = None,
) -> Callable[[], Credentials]:
    """A role as a source of credentials, for the `credentials` of get_token, TokenProvider and assume_role.

    It asks STS at each call, with any `credentials` get_token takes, and pickles. `duration`: 900 to 43200
    seconds or a timedelta; `policy`: JSON. ValueError: STS would refuse it; CredentialsError: a call fails.
    https://docs.aws.amazon.com/STS/latest/APIReference/API_AssumeRole.html
    """
    seconds = str(_whole_seconds(duration, 900, 43200, "duration"))
    more = {"ExternalId": external_id, "Policy": policy, "SerialNumber": mfa_serial}
    parameters = _role_parameters(role_arn, session_name, seconds, **more)
    return _AssumedRole(parameters, credentials, mfa_code, region, environ)


def get_token(
    credentials: Any = None, region: str | None = None, expires_in: Lifetime = _TOKEN_LIFETIME, *,
    service: str = "bedrock", profile: str | None = None, environ: Environ = None,
    now: datetime | None = None,
) -> Token:
    """A short-term Bedrock API key, or for "aws-external-anthropic" one of Claude Platform on AWS.

    `credentials`: Credentials, an object like botocore's, a callable that returns either, or None for
    load_credentials'; `region`: None for load_region's; with both, no file, variable or network is looked at.
    `expires_in`: whole seconds or a timedelta, 1 second to 12 hours; `now`: an aware datetime. Raises
    ValueError or TypeError for these, NoCredentialsError, CredentialsError, NoRegionError.
    https://docs.aws.amazon.com/bedrock/latest/userguide/api-keys-how.html
    """
    lifetime = _whole_seconds(expires_in, 1, _TOKEN_LIFETIME, "expires_in")
    moment = datetime.now(timezone.utc) if now is None else _in_utc(now, "now")
    service = _service_name(service)
    if credentials is not None and region is not None:
        return _mint(_snapshot(credentials), _region_name(region), lifetime, moment, service)
    settings = _Settings(environ, profile, region, clock=moment.timestamp)
    return _mint(*_find(settings, credentials), lifetime, moment, service)


def provide_token(
    region: str | None = None, aws_credentials_provider: Any = None, expiry: timedelta = timedelta(hours=12)
) -> Token:
    """get_token with the signature of AWS's aws-bedrock-token-generator; the provider has a load() method."""
    load = getattr(aws_credentials_provider, "load", None)
    if aws_credentials_provider is not None and not callable(load):
        raise TypeError("aws_credentials_provider must be an object with a load() method")
    return get_token(load, region, expiry)


# -------------------------------------------------------------------------------- TokenProvider

_MARGIN = 15 * 60.0  # seconds before its end, or a fifth of its life if that is less: one caller renews it
_LAST_MOMENT = 10.0  # before its end: it is not handed out any more
_RETRY_AFTER = 30.0  # after a renewal that failed while the token was good
_LOOK_AGAIN_AFTER = 300.0  # for credentials that do not say when they end


class _Held:
    """A token in hand, and how long it is good; replaced as a whole, so that it is read without a lock."""

    def __init__(self, token: Token, credentials: Credentials, minted: float, rotates: bool) -> None:
        self.token, self.credentials = token, credentials
        self.rotates = rotates  # its credentials may be replaced at any time, and do not say when
        self.minted = self.looked_up = minted
        self.failed_at = float("-inf")  # the last renewal; this and looked_up are all that changes
        self._end = token.expiration.timestamp()
        self._monotonic_end = time.monotonic() + self._end - minted
        self._margin = min(_MARGIN, (self._end - minted) / 5)

    def _left(self, now: float) -> float:
        """The monotonic clock stands still while a machine is suspended; the wall clock can be set back."""
        return min(self._end - now, self._monotonic_end - time.monotonic())

    def is_good(self, now: float) -> bool:
        return self._left(now) >= min(self._margin, _LAST_MOMENT)

    def is_fresh(self, now: float) -> bool:
        """Whether it is good, and it is not time yet to renew it or to look its credentials up again."""
        if self.failed_at <= now < self.failed_at + _RETRY_AFTER:
            return self.is_good(now)
        too_old = self.rotates and now >= self.looked_up + _LOOK_AGAIN_AFTER
        return self._left(now) >= self._margin and not too_old and now >= self.minted


class _Renewal:
    """A renewal that one caller makes for all who wait. No signal can divide the steps that change it."""

    def __init__(self, anew: bool) -> None:
        self.anew = anew
        self.maker: dict[str, list[int]] = {}  # the first to enter its thread, by setdefault
        self.outcome: Token | Exception | None = None
        self._bells: list[Callable[[Token | Exception], None]] = []

    def publish(self, outcome: Token | Exception) -> None:
        """Let everybody have it; done again if it was interrupted."""
        self.outcome = outcome
        for ring in list(self._bells):
            ring(outcome)

    def wait(self) -> Token | Exception:
        from queue import SimpleQueue
        bell: SimpleQueue[Token | Exception] = SimpleQueue()
        self._bells.append(bell.put)
        if self.outcome is not None:  # published before it could know of us
            return self.outcome
        return bell.get()


def _handed_out(outcome: Token | Exception) -> Token:
    """The token; or the error, of which each caller gets a copy, since raising it writes into it."""
    import copy
    if isinstance(outcome, Token):
        return outcome
    try:
        twin = copy.copy(outcome)
        twin.__cause__ = outcome.__cause__
    except Exception:  # one that cannot be copied
        twin = outcome
    raise twin.with_traceback(outcome.__traceback__)


class TokenProvider:
    """A callable that returns a token valid now: it reuses one, and mints another in good time.

    The arguments are get_token's; `clock` returns seconds since 1970. Credentials that do not say when they
    end are looked up every 5 minutes. While that fails the token is served until it ends, then the error is
    raised. Safe for threads, event loops, fork and Ctrl-C. A pickle holds the credentials given.
    """

    def __init__(
        self, credentials: Any = None, region: str | None = None, expires_in: Lifetime = _TOKEN_LIFETIME,
        *, service: str = "bedrock", profile: str | None = None, environ: Environ = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._service = _service_name(service)
        self._credentials = credentials
        self._region = None if region is None else _region_name(region)
        self._lifetime = _whole_seconds(expires_in, 1, _TOKEN_LIFETIME, "expires_in")
        self._profile = profile
        self._environ = environ
        self._clock = clock
        self._mfa_code: MfaCode = None
        self._held: _Held | None = None
        # By process id, since a fork takes no threads along, and by whether it is renew() that asks.
        self._renewals: dict[tuple[int, bool], _Renewal] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_held": None, "_renewals": {}}

    def token(self) -> Token:
        """A Token that is valid now. Raises what get_token and the credentials' source raise."""
        return self._at_once() or _handed_out(self._result(self._renewal(anew=False)))

    __call__ = token

    def renew(self) -> Token:
        """A token from credentials looked up now, for whoever was refused. Callers at one time share it."""
        return _handed_out(self._result(self._renewal(anew=True)))

    async def async_token(self) -> Token:
        """token() for asyncio: looks up in the loop's executor, once for all tasks and threads."""
        import asyncio
        token = self._at_once()
        if token is None:
            job = asyncio.get_running_loop().run_in_executor(None, self._result, self._renewal(anew=False))
            token = _handed_out(await job)
        return token

    def _at_once(self) -> Token | None:
        held = self._held
        return held.token if held is not None and held.is_fresh(self._clock()) else None

    def _renewal(self, anew: bool) -> _Renewal:
        return self._renewals.setdefault((os.getpid(), anew), _Renewal(anew))

    def _result(self, renewal: _Renewal) -> Token | Exception:
        """Make it, or wait for whoever does; or go on with the token in hand meanwhile, if that is good."""
        from threading import get_ident
        us = [get_ident()]  # a list of our own, which `is` tells from any other
        outcome: Token | Exception = BedrockTokenError("the look-up of credentials was interrupted")
        try:
            if renewal.maker.setdefault("by", us) is us:
                outcome = self._outcome(renewal.anew)
                renewal.publish(outcome)
                self._renewals.pop((os.getpid(), renewal.anew), None)
        except BaseException:  # a signal handler's: those who wait must not wait for ever, or see that
            if renewal.maker.get("by") is us:
                renewal.publish(outcome)
                self._renewals.pop((os.getpid(), renewal.anew), None)
            raise

        held = self._held
        if renewal.outcome is not None:
            return renewal.outcome
        if held is not None and not renewal.anew and held.is_good(self._clock()):
            return held.token
        if renewal.maker["by"] == us:
            raise CredentialsError("the credentials callable asks the provider that is waiting for it")
        return renewal.wait()

    def _outcome(self, anew: bool) -> Token | Exception:
        token = None if anew else self._at_once()
        if token is not None:
            return token  # somebody has finished between our look and our taking the lead

        held = self._held
        try:
            settings = _Settings(self._environ, self._profile, self._region, self._mfa_code, self._clock)
            credentials, region = _find(settings, self._credentials)
            now = self._clock()
            if held and not anew and (credentials, region) == (held.credentials, held.token.region):
                held.looked_up = now
                if held.is_fresh(now):
                    return held.token

            token = _mint(credentials, region, self._lifetime, settings.now(), self._service)
            rotates = credentials.expiration is None and not isinstance(self._credentials, Credentials)
            self._held = _Held(token, credentials, now, rotates)
            return token
        except Exception as error:
            now = self._clock()
            if anew or held is None or not held.is_good(now):
                return error
            held.failed_at = now
            return held.token


# ------------------------------------------------------------------------------ calling Bedrock

_BEARER_VARIABLE = _SERVICES["bedrock"][2]
_PAYLOAD_LIMIT = 24 * 1024 * 1024  # bytes of an event, and of an answer
_ENDPOINTS = ("bedrock-runtime", "bedrock", "bedrock-mantle")
# What Bedrock says when it refuses the token -> what it means; all but the last are about the token itself.
_TOKEN_REFUSALS = {
    "make sure your API Key is valid": "it is for another region than {region}, has expired, or is damaged",
    "token included in the request is expired": "the credentials behind the key have expired: mint a new one",
    "has expired": "mint a new one",
    "pre-defined prefix": "this is not a Bedrock API key",
    ":CallWithBearerToken": "allow that action to the identity that made the key",
}
# The end of a path -> the events one of which ends a complete stream.
_LAST_EVENTS = {
    "/converse-stream": ("messageStop",),
    "/chat/completions": ("[DONE]",),
    "/responses": ("response.completed", "response.incomplete", "response.failed"),
    "/messages": ("message_stop",),
}
_DONE = {"type": "[DONE]"}  # what ends a stream of chat completions, and is no event of it


class BedrockError(BedrockTokenError):
    """Bedrock refused a call: `status` (0 inside a stream), `code`, `message`, `request_id`; `hint` or ""."""

    def __init__(self, status: int, code: str, message: str, request_id: str = "", hint: str = "") -> None:
        super().__init__(message, hint)
        self.args = (status, code, message, request_id, hint)
        self.status, self.code, self.request_id = status, code, request_id

    def __str__(self) -> str:
        status = f" (HTTP {self.status})" if self.status else ""
        request = f" [request {self.request_id}]" if self.request_id else ""
        return f"{self.code or 'error'}{status}: {super().__str__()}{request}"


def _bearer(settings: _Settings, token: Any) -> tuple[str, str]:
    """The token to call with, given, else the environment's, else a new one; and the region to call."""
    given = token is not None
    value = token() if callable(token) else token
    if not given:
        value = settings.variable(_BEARER_VARIABLE)
        value = value or _mint(*_find(settings), _TOKEN_LIFETIME, settings.now())

    refusal = ValueError if given else CredentialsError
    if not _is_plain(value):
        raise refusal(f"{'token' if given else _BEARER_VARIABLE} must be a string without blanks")
    kind = _kind_of(value)
    if kind and kind[0] != "bedrock":
        raise refusal(f"the token is a key of {kind[0]}, which Bedrock does not take")
    try:
        own = getattr(value, "region", None) or decode_token(value).get("region")
    except ValueError:  # not for us to judge: Bedrock may know kinds of keys that we do not
        own = None

    # Who wins: a region named in code; that of a token that is given; what is configured; the token's own.
    region = settings.region_given or (own if given else None) or settings.region() or own
    if region is None:
        raise _no_region(settings)
    if own and own != region:
        raise refusal(f"the token works in {own} only, not in {region}: mint one there, or call {own}")
    return str(value), region


def _refusal(settings: _Settings, answer: _Answer, token: str, region: str) -> tuple[BedrockError, bool]:
    """The error that an answer means, and whether it is the token itself that is refused."""
    from email.utils import parsedate_to_datetime
    code, message = _error_of(answer, [token])
    request_id = _quoted(answer.headers.get("x-amzn-RequestId", ""), [token], 100)
    hint = next((meaning for text, meaning in _TOKEN_REFUSALS.items() if text in message), "")
    try:
        skew = (settings.now() - parsedate_to_datetime(answer.headers["Date"])).total_seconds()
    except (TypeError, ValueError, OverflowError):
        skew = 0.0
    if hint and abs(skew) > 300:  # which is more than a signature may be off
        hint += f"; this machine's clock is {abs(skew):.0f} s {'ahead' if skew > 0 else 'behind'}"
    error = BedrockError(answer.status, code, message, request_id, hint.format(region=region))
    return error, hint != "" and ":CallWithBearerToken" not in message and answer.status in (401, 403)


def _check_call(path: str, method: str | None, endpoint: str, timeout: float) -> None:
    """Refuse what cannot be called, https://docs.aws.amazon.com/bedrock/latest/userguide/api-keys-use.html"""
    if not _is_target(path):
        raise ValueError('path must start with "/" and be percent-encoded')
    without_keys = ("bedrock-agent", "bedrock-data-automation", "invoke-with-bidirectional-stream")
    for name in (str(endpoint), path.partition("?")[0].rpartition("/")[2]):
        if name.startswith(without_keys):
            raise ValueError(f"{name} takes no API keys: use an AWS SDK, which signs with AWS credentials")
    if endpoint not in _ENDPOINTS:
        raise ValueError(f"endpoint must be one of {', '.join(_ENDPOINTS)}, not {endpoint!r}")
    if method is not None and not (_is_plain(method) and method.isalpha() and method.isupper()):
        raise ValueError(f"method must be upper-case letters, not {method!r}")
    if not 0 < timeout <= 86400:
        raise ValueError(f"timeout must be seconds, above 0 and at most a day, not {timeout!r}")


def _unanswered(error: _NoAnswer) -> BedrockTokenError:
    hint = "give it longer with timeout=, or --timeout" if error.timed_out else error.hint
    return BedrockTokenError(error.message, hint)


def _document_of(answer: _Answer) -> Any:
    """The JSON of an answer, a dict or a list; an empty dict where it is empty."""
    try:
        document = _parse_json(answer.read_all(_PAYLOAD_LIMIT).strip() or b"{}")
    except _NoAnswer as error:
        raise _unanswered(error) from error
    if not isinstance(document, (dict, list)):
        raise BedrockTokenError("Bedrock's answer is not a JSON object or list (a proxy in between?)")
    return document


def _ask_bedrock(
    settings: _Settings, path: str, body: object = None, method: str | None = None,
    endpoint: str = "bedrock-runtime", headers: Pairs = (), token: Any = None, timeout: float = 60,
    accept: str = "application/json",
) -> tuple[_Answer, str]:
    """The 2xx answer to a call, its body unread, and the token it took: a provider's is renewed once."""
    import json
    # 1. What is sent.
    _check_call(path, method, endpoint, timeout)
    since = time.monotonic()
    said, data = {"accept": accept}, None
    if body is not None:
        if not isinstance(body, (dict, list)):
            raise TypeError(f"body must be a dict or a list, not {type(body).__name__}")
        data = json.dumps(  # with bytes in base64; TypeError for what is no bytes
            body, allow_nan=False, default=lambda part: binascii.b2a_base64(part, newline=False).decode()
        ).encode()
        said["content-type"] = "application/json"
    for name, value in headers:
        sane = _is_plain(name) and ":" not in name and value.isascii() and value.isprintable()
        if not sane or name.lower() in ("authorization", "host", "content-length"):
            raise ValueError(f"header {name!r} is an argument of its own, or cannot be sent")
        said[name.lower()] = value

    # 2. Where, with which token.
    bearer, region = _bearer(settings, token)
    settings.region_given = region  # a renewed token must be for the same
    attempts = settings.setting("max_attempts") or "3"
    if not attempts.isdecimal() or not 0 < int(attempts[:9]) < 1000:
        raise CredentialsError("AWS_MAX_ATTEMPTS (max_attempts) must be a number above 0")
    method = method or ("GET" if data is None else "POST")
    url = _endpoint(settings, endpoint.replace("-", "_"), region) + path
    renew = getattr(token, "renew", None)
    while True:
        said["authorization"] = f"Bearer {bearer}"
        try:
            answer = _send(
                settings, method, url, headers=said.items(), body=data, attempts=int(attempts), resend=False,
                timeout=timeout, since=since, limit=None, model=True,
            )
            if 200 <= answer.status < 300:
                return answer, bearer
            answer.read_all(_CREDENTIAL_LIMIT)
        except _NoAnswer as error:
            raise _unanswered(error) from error

        # 3. A refusal.
        refusal, itself = _refusal(settings, answer, bearer, region)
        if not itself or not callable(renew):
            raise refusal
        bearer, _ = _bearer(settings, renew())
        renew = None


def _frame_headers(block: bytes) -> dict[str, str]:
    """The string headers of a frame; those of the other types are passed over."""
    sizes = {0: 0, 1: 0, 2: 1, 3: 2, 4: 4, 5: 8, 8: 8, 9: 16}  # bytes (6) and strings (7) tell theirs
    headers, rest = {}, io.BytesIO(block)

    def take(size: int) -> bytes:
        data = rest.read(size)
        if len(data) < size:
            raise ValueError("a frame's headers cannot be read")
        return data

    while rest.tell() < len(block):
        name, kind = take(take(1)[0]).decode("utf-8"), take(1)[0]
        if kind in (6, 7):
            sizes[kind] = int.from_bytes(take(2), "big")
        value = take(sizes.get(kind, len(block)))  # more than is there, for a type that is none
        if kind == 7:
            headers[name] = value.decode("utf-8")
    return headers


def _decode_frames(file: io.BufferedReader) -> Iterator[tuple[dict[str, str], bytes]]:
    """Headers and payload of each frame: two lengths, their CRC-32 | headers | payload | CRC-32 of all."""
    # https://docs.aws.amazon.com/lexv2/latest/dg/event-stream-encoding.html
    from functools import lru_cache
    from struct import Struct
    from zlib import crc32
    prelude = Struct(">III").unpack
    headers_of = lru_cache(64)(_frame_headers)  # a stream repeats a handful of header blocks
    while True:
        head = file.read(12)
        if not head:
            return
        total, headers_length, checksum = prelude(head.ljust(12))
        size = total - headers_length - 16
        sane = headers_length <= 128 * 1024 and 0 <= size <= _PAYLOAD_LIMIT
        if not sane or checksum != crc32(head[:8]):
            raise ValueError("a frame's head is not as it was sent")
        rest = file.read(total - 12)
        if len(rest) < total - 12 or int.from_bytes(rest[-4:], "big") != crc32(rest[:-4], crc32(head)):
            raise ValueError("a frame is not as it was sent")
        yield headers_of(rest[:headers_length]), rest[headers_length:-4]


def _event_of_frame(frame: tuple[dict[str, str], bytes]) -> dict[str, Any]:
    """What a frame means: an event, or the error that it carries."""
    headers, payload = frame
    kind, name = headers.get(":message-type"), headers.get(":event-type")
    if kind in ("error", "exception"):
        said = _parse_json(payload)
        message = said.get("message") if isinstance(said, dict) else headers.get(":error-message")
        code = headers.get(":exception-type") or headers.get(":error-code", "")
        raise BedrockError(0, code, str(message or "no message"))
    if kind != "event" or name is None:
        raise ValueError("a frame is no event")

    document = _json_object(payload.decode("utf-8"))  # json, left to find that out, takes much longer
    if name == "chunk" and isinstance(document.get("bytes"), str):  # of InvokeModelWithResponseStream
        document = _json_object(binascii.a2b_base64(document["bytes"]).decode("utf-8"))
    return {name: document}


def _decode_server_sent_events(file: io.BufferedReader) -> Iterator[str]:
    """The data of each event, https://html.spec.whatwg.org/multipage/server-sent-events.html"""
    data, size = [], 0
    lines = io.TextIOWrapper(file, "utf-8-sig")  # they end in LF, CR LF or CR
    for line in iter(lambda: lines.readline(_PAYLOAD_LIMIT), ""):
        name, _, value = line.rstrip("\n").partition(":")
        if size + len(line) >= _PAYLOAD_LIMIT:
            raise ValueError("an event is too long")
        if name == "data":
            data.append(value.removeprefix(" "))
            size += len(line)
        elif line == "\n" and data:
            yield "\n".join(data)
            data, size = [], 0
    if data:
        raise ValueError("it ends inside an event")


def _event_of_data(data: str) -> dict[str, Any]:
    """What an event's data mean: a JSON object, or the error that it carries."""
    if data == "[DONE]":
        return _DONE
    document = _json_object(data)
    error = document.get("error")
    if not isinstance(error, dict) and document.get("type") == "error":
        error = document
    if isinstance(error, dict):
        code = error.get("code") or error.get("type") or ""
        raise BedrockError(0, str(code), str(error.get("message") or "no message"))
    return document


# The Content-Type of a stream -> its framing, and what a part of it means, or an error.
_STREAMS: dict[str, tuple[Callable[..., Iterator[Any]], Callable[..., dict[str, Any]]]] = {
    "application/vnd.amazon.eventstream": (_decode_frames, _event_of_frame),
    "text/event-stream": (_decode_server_sent_events, _event_of_data),
}


def _events(answer: _Answer, path: str, token: str, timeout: float) -> Iterator[dict[str, Any]]:
    """The events of an answer, complete or with an error at their end."""
    last = next((names for end, names in _LAST_EVENTS.items() if path.endswith(end)), ())
    kind = (answer.headers.get("Content-Type") or "").partition(";")[0].strip().lower()
    answer.patience = timeout

    def generate() -> Iterator[dict[str, Any]]:
        complete = not last
        try:
            yield {}
            if kind not in _STREAMS:
                raise ValueError("it is no stream of events (a proxy in between?)")
            decode, meaning = _STREAMS[kind]
            for part in decode(io.BufferedReader(answer, 65536)):
                event = meaning(part)
                complete = complete or (event.get("type") or next(iter(event), "")) in last
                if event is not _DONE:
                    yield event
            if complete:
                return
            raise ValueError("it ends before the message does")
        except _NoAnswer as error:
            raise _unanswered(error) from error
        except (ValueError, CredentialsError) as error:
            failure = BedrockTokenError(f"Bedrock's stream is damaged or cut off: {error}")
        except BedrockError as error:
            said = (error.code, error.message, answer.headers.get("x-amzn-RequestId", ""))
            failure = BedrockError(0, *[_quoted(text, [token]) for text in said])
        finally:
            answer.close()
        raise failure  # here, without a context, which may hold the token

    events = generate()
    next(events)  # into its `try`: from here on, closing or losing it closes the connection
    return events


def call(
    path: str, body: dict[str, Any] | list[Any] | None = None, *, method: str | None = None,
    endpoint: str = "bedrock-runtime", headers: Pairs = (), region: str | None = None, token: Any = None,
    environ: Environ = None, timeout: float = 60,
) -> Any:
    """Any operation of Bedrock that takes an API key; its JSON answer, a dict or a list ({} if it is empty).

    `path`: as on the wire, "/model/ID/invoke". `body`: sent as JSON, bytes in it as base64. `method`: GET, or
    POST with a body. `endpoint`: "bedrock-runtime", "bedrock" or "bedrock-mantle". `headers`: more (name,
    value) pairs. `token`: a string, Token or TokenProvider (renewed once if refused); None for
    AWS_BEARER_TOKEN_BEDROCK, else get_token's. `region`: None for a given token's, else load_region's.
    `timeout`: seconds for all. Raises BedrockError if Bedrock refuses (throttled: after AWS_MAX_ATTEMPTS),
    BedrockTokenError without a usable answer, ValueError for what cannot be called so.
    https://docs.aws.amazon.com/bedrock/latest/APIReference/welcome.html
    """
    settings = _Settings(environ, region=region)
    answer, _ = _ask_bedrock(settings, path, body, method, endpoint, headers, token, timeout)
    return _document_of(answer)


def call_stream(
    path: str, body: dict[str, Any] | list[Any] | None = None, *, method: str | None = None,
    endpoint: str = "bedrock-runtime", headers: Pairs = (), region: str | None = None, token: Any = None,
    environ: Environ = None, timeout: float = 60,
) -> Iterator[dict[str, Any]]:
    """call() for an answer that is a stream: an iterator of its events, each as it arrives.

    AWS's event streams give {event type: payload}, chunks of InvokeModelWithResponseStream decoded to JSON;
    server-sent events the JSON of their data. The request is made at once; closing the iterator closes the
    connection. `timeout`: seconds until the answer, and between its pieces. Raises if it ends too early.
    """
    settings = _Settings(environ, region=region)
    accept = "application/vnd.amazon.eventstream, text/event-stream"
    answer, bearer = _ask_bedrock(settings, path, body, method, endpoint, headers, token, timeout, accept)
    return _events(answer, path.partition("?")[0], bearer, timeout)


def _model_path(model_id: str, operation: str) -> str:
    from urllib.parse import quote
    if not isinstance(model_id, str) or not model_id.isprintable() or model_id in ("", ".", ".."):
        raise ValueError("model_id must be the name or ARN of a model or an inference profile")
    return f"/model/{quote(model_id, safe='')}/{operation}"


def converse(
    model_id: str, messages: list[dict[str, Any]], *, region: str | None = None, token: Any = None,
    environ: Environ = None, timeout: float = 60, **request: Any,
) -> dict[str, Any]:
    """The Converse API: its answer. `request`: its other fields; the rest, and the errors, are call()'s.

    https://docs.aws.amazon.com/bedrock/latest/APIReference/API_runtime_Converse.html
    """
    path, body = _model_path(model_id, "converse"), {"messages": messages, **request}
    document = call(path, body, region=region, token=token, environ=environ, timeout=timeout)
    if not isinstance(document, dict):
        raise BedrockTokenError("Bedrock's answer is not a JSON object (a proxy in between?)")
    return document


def converse_stream(
    model_id: str, messages: list[dict[str, Any]], *, region: str | None = None, token: Any = None,
    environ: Environ = None, timeout: float = 60, **request: Any,
) -> Iterator[dict[str, Any]]:
    """converse() as call_stream(): an iterator of events like {"contentBlockDelta": {...}}.

    https://docs.aws.amazon.com/bedrock/latest/APIReference/API_runtime_ConverseStream.html
    """
    path, body = _model_path(model_id, "converse-stream"), {"messages": messages, **request}
    return call_stream(path, body, region=region, token=token, environ=environ, timeout=timeout)


# --------------------------------------------------------------------------------------- proxy
#
# For programs that read a key once and outlive it. It listens on this machine alone, asks for a key of its
# own, knows one upstream, and logs nothing. A request is checked whole before it is sent on, written anew.

_OPENAI_PATHS = {"bedrock-runtime": "/openai/v1", "bedrock": "", "bedrock-mantle": "/v1"}
_BODY_LIMIT = 64 * 1024 * 1024  # bytes
_CLIENT_PATIENCE = 60.0  # seconds for a client to send a request, the pause before it included
_UPSTREAM_PATIENCE = 3600.0  # seconds for an answer, and between its pieces
# What belongs to one connection, shows who the client is, or is written anew.
_NOT_PASSED_ON = frozenset((
    "authorization", "connection", "content-length", "cookie", "expect", "host", "keep-alive",
    "proxy-authenticate", "proxy-authorization", "proxy-connection", "te", "trailer", "transfer-encoding",
    "upgrade", "x-api-key",
))


class _Refused(Exception):
    """A request that is not sent on: the status, and why."""


def _given_key(headers: Message) -> str:
    """The key that the client gives, once: as a bearer, an API key, or the key id of AWS's signature."""
    import re
    keys = [f"Bearer {key}" for key in headers.get_all("x-api-key", [])]
    given = "\n".join([*headers.get_all("Authorization", []), *keys])
    found = re.fullmatch(rf"(?i:Bearer)[ \t]+(\S+)\s*|{_ALGORITHM}[ \t]+Credential=([^/\n]+)/.*", given)
    return (found[1] or found[2]) if found else ""


def _target_of(handler: BaseHTTPRequestHandler, key: str) -> str:
    """The path that a request asks for, if all of its head is as it should be."""
    import re
    from urllib.parse import unquote
    headers, port = handler.headers, handler.connection.getsockname()[1]
    host = ",".join(headers.get_all("Host", [])).lower()
    text = "".join([part for header in headers.items() for part in header])
    plain = all(map(_is_plain, headers)) and text.replace("\t", "").isprintable()
    target = handler.requestline.split()[1]  # handler.path has been tidied up
    odd = re.search(r"^//|/\.\.?(/|$)", unquote(target.partition("?")[0]))
    for wrong, status, why in (
        (len(text) > 65536, 431, "the headers are too long"),
        (headers.defects or not plain or handler.request_version == "HTTP/0.9", 400, "the head is damaged"),
        (host not in (f"127.0.0.1:{port}", f"localhost:{port}"), 421, "the Host header is another server's"),
        ("Origin" in headers or "Sec-Fetch-Site" in headers, 403, "this proxy is not for browsers"),
        (not hmac.compare_digest(_given_key(headers).encode(), key.encode()), 401,
         "the key is not this proxy's BEDROCK_TOKEN_PROXY_KEY"),
        (odd or not _is_target(target), 400, "the target is not a plain path"),
    ):
        if wrong:
            raise _Refused(status, why)
    return target


def _chunked_body(file: io.BufferedReader) -> bytes:
    """A body in chunks, https://www.rfc-editor.org/rfc/rfc9112#section-7.1"""
    import re
    body = bytearray()
    while True:
        found = re.fullmatch(rb"([0-9A-Fa-f]{1,8})[ \t]*(?:;[^\r\n]*)?\r\n", file.readline(4096))
        size = int(found[1], 16) if found else -1
        if len(body) + size > _BODY_LIMIT:
            raise _Refused(413, "the body has more than 64 MiB")
        if size == 0 and any(file.readline(4096) == b"\r\n" for _ in range(100)):  # after any trailers
            return bytes(body)
        chunk = file.read(size + 2) if size > 0 else b""
        if chunk[size:] != b"\r\n":
            raise _Refused(400, "the chunks of the body are damaged")
        body += chunk[:size]


def _request_body(handler: BaseHTTPRequestHandler) -> bytes | None:
    """The body of a request, which must leave no doubt about its length; None if there is none."""
    import re
    lengths = handler.headers.get_all("Content-Length", [])
    codings = handler.headers.get_all("Transfer-Encoding", [])
    is_sane = re.compile("[0-9]+" if lengths else "(?i:chunked)").fullmatch
    if len(lengths + codings) > 1 or not all(map(is_sane, lengths + codings)):
        raise _Refused(400, "the length of the body is in doubt")
    if codings:
        return _chunked_body(handler.rfile)  # type: ignore[arg-type]

    length = int(lengths[0][:12]) if lengths else 0
    if length > _BODY_LIMIT:
        raise _Refused(413, "the body has more than 64 MiB")
    body = handler.rfile.read(length)
    if len(body) < length:
        raise _Refused(400, "the body is cut off")
    return body if lengths else None


def _forward(
    settings: _Settings, provider: TokenProvider, url: str, handler: BaseHTTPRequestHandler
) -> _Answer:
    """What the upstream answers to a request with a token that is valid now; read only if it refuses."""
    body = _request_body(handler)
    listed = ",".join(handler.headers.get_all("Connection", [])).lower().split(",")
    dropped = _NOT_PASSED_ON.union(map(str.strip, listed))
    kept = [
        (name, value) for name, value in handler.headers.items()
        if name.lower() not in dropped and not name.lower().startswith("x-amz-")
    ]

    token, refused = provider(), ""
    while True:
        answer = _send(
            settings, handler.command, url, headers=[("Authorization", f"Bearer {token}"), *kept], body=body,
            timeout=_UPSTREAM_PATIENCE, limit=None, attempts=1,
        )
        if answer.status == 403:
            answer.read_all(_PAYLOAD_LIMIT)
        if answer.status != 403 or refused or not _refusal(settings, answer, token, token.region)[1]:
            return answer
        refused, token = token, provider()
        if token == refused:  # or somebody else was refused before us
            token = provider.renew()


def _pass_on(handler: BaseHTTPRequestHandler, answer: _Answer) -> None:
    """The answer as it comes, byte for byte; an error ends the client's connection."""
    endless = answer._response.length is None  # it ends where no more comes
    dropped = _NOT_PASSED_ON if endless else _NOT_PASSED_ON - {"content-length"}
    chunked = endless and handler.request_version == "HTTP/1.1"
    handler.send_response_only(answer.status, answer.reason)
    for name, value in answer.headers.items():
        if name.lower() not in dropped:
            handler.send_header(name, value)
    if chunked:
        handler.send_header("Transfer-Encoding", "chunked")
    elif endless:
        handler.send_header("Connection", "close")
    handler.end_headers()

    answer.patience = _UPSTREAM_PATIENCE
    piece = answer.content or answer.read(65536)
    while piece:
        handler.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece) if chunked else piece)
        piece = answer.read(65536)
    if chunked:
        handler.wfile.write(b"0\r\n\r\n")


def _proxy_connection(
    settings: _Settings, provider: TokenProvider, upstream: str, key: str
) -> type[BaseHTTPRequestHandler]:
    """What serves one client's connection."""
    from http.server import BaseHTTPRequestHandler

    class Connection(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True
        error_message_format = "%(explain)s\n"
        error_content_type = "text/plain; charset=utf-8"

        def setup(self) -> None:
            super().setup()
            self.rfile.close()  # it would keep the socket open until it is collected
            self.link = _Link(self.connection, 0.0)
            self.rfile = self.link.makefile("rb")

        def handle_one_request(self) -> None:
            self.link.deadline = time.monotonic() + _CLIENT_PATIENCE
            super().handle_one_request()

        def log_message(self, *_: object) -> None:
            pass

        def __getattr__(self, name: str) -> Callable[[], None]:
            if name[:3] != "do_" or name[3:] in ("OPTIONS", "CONNECT", "TRACE"):
                raise AttributeError(name)
            return self.answer

        def answer(self) -> None:
            try:
                answer = _forward(settings, provider, upstream + _target_of(self, key), self)
            except (_Refused, BedrockTokenError, OSError, ValueError) as error:
                status, why = error.args if isinstance(error, _Refused) else (502, str(error))
                self.send_error(status, explain=_printable(why, 2000))  # and close: a body may be unread
            else:
                with answer:
                    _pass_on(self, answer)

    return Connection


# -------------------------------------------------------------------------------- command line
#
# Only the answer goes to stdout. Errors and notes go to stderr, after "bedrock_token:". Success is silent.

_HELP = f"""\
usage: python -m bedrock_token [options]                print a token
       python -m bedrock_token COMMAND [options]        or --help, --version

commands:
  exec -- COMMAND [ARG ...]    run a command with the token in its environment
  proxy                        a loopback proxy that adds a valid token to each request
  inspect                      show what a token says, from stdin or the environment
  check                        ask Bedrock whether it accepts the token, and if not, why
  converse --model ID [TEXT]   stream one answer to TEXT, or to stdin's

options, and what they go with:
  --region, --profile          as for the AWS CLI; all commands but inspect
  -q, --quiet                  no notes on stderr; all commands but inspect
  --expires-in TIME            3600, 90m, 12h (the default); printing, exec, proxy
  --service NAME               bedrock (the default) or aws-external-anthropic; printing, exec
  --var NAME                   instead of {_BEARER_VARIABLE}; printing, exec
  --format {{token,json,env,env-no-export,powershell,windows-cmd,fish}}   printing
  --format {{text,json}}         inspect
  --only-bedrock               remove AWS keys and profiles from the environment; exec
  --model ID, --timeout SECS   a model or inference profile, 60 by default; converse, check
  --port N                     8790 by default, 0 for any free port; proxy
  --endpoint NAME              bedrock-runtime (the default), bedrock or bedrock-mantle; proxy

examples:
  eval "$(python -m bedrock_token --expires-in 90m --format env)"
  python -m bedrock_token exec --only-bedrock -- claude
  python -m bedrock_token | python -m bedrock_token inspect
  python -m bedrock_token check --region us-east-1 --profile dev
  echo "Why is the sky blue?" | python -m bedrock_token converse --model us.amazon.nova-micro-v1:0

environment:
  AWS_REGION, AWS_PROFILE, AWS_ACCESS_KEY_ID, HTTPS_PROXY, ...   as for the AWS CLI
  {_BEARER_VARIABLE}   the token for inspect, check and converse, if it is set

exit codes:
  0 done    1 failed, with the reason on stderr    2 wrong usage    130 interrupted
  exec: the command's own, 126 if it cannot be run, 127 if it is not found
"""
# Names, base64 and regions have no character that is special in one of these shells.
_FORMATS = {
    "env": "export {}={}\n", "env-no-export": "{}={}\n", "powershell": '$Env:{}="{}"\n',
    "windows-cmd": "set {}={}\n", "fish": "set -gx {} {};\n",
}
# How variables begin that could authenticate what exec runs in another way.
_OTHER_CREDENTIALS = (
    "AWS_ACCESS_KEY", "AWS_SECRET_ACCESS_KEY", "AWS_SECRET_KEY", "AWS_SESSION_TOKEN", "AWS_SECURITY_TOKEN",
    "AWS_CREDENTIAL_", "AWS_PROFILE", "AWS_DEFAULT_PROFILE", "AWS_WEB_IDENTITY_", "AWS_ROLE_",
    "AWS_CONTAINER_", "AWS_BEARER_TOKEN_", "ANTHROPIC_AWS_API_KEY",
)


class _Options:
    """What the arguments say; here, the defaults."""

    settings: _Settings
    rest: list[str] = []  # what is no option, without the command's name
    region: str | None = None
    profile: str | None = None
    quiet = False
    expires_in = _TOKEN_LIFETIME
    service = "bedrock"
    var: tuple[str, ...] = ()
    format = ""
    only_bedrock = False
    model = ""
    timeout = 60.0
    port = 8790
    endpoint = "bedrock-runtime"


def _note(text: str, usage: str = "") -> None:
    try:
        print(f"{usage}bedrock_token: {text}", file=sys.stderr, flush=True)
    except OSError:  # a full disk, say, is no reason to stop, nor to try again at exit
        sys.stderr = open(os.devnull, "w")


def _write(text: str) -> None:
    """To stdout at once; to pipes and files as UTF-8 with LF: a CR would become part of somebody's token."""
    if sys.stdout is None:
        raise OSError("stdout is closed")
    try:
        if hasattr(sys.stdout, "reconfigure"):
            encoding = None if sys.stdout.isatty() else "utf-8"
            sys.stdout.reconfigure(encoding=encoding, newline="\n", errors="backslashreplace")
        sys.stdout.write(text)
        sys.stdout.flush()
    except OSError:  # a pipe without a reader, a full disk: do not try again at exit
        import contextlib
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise


def _read_stdin() -> str:
    """All of stdin: UTF-8, or UTF-16 with its byte order mark, as PowerShell writes it."""
    data = b"" if sys.stdin is None else sys.stdin.buffer.read()
    return data.decode("utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig", "replace")


def _ask_on_terminal(serial: str) -> str:
    import getpass
    import warnings
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # it warns before it reads, and shows, what is no terminal
            if os.name == "nt":
                open("CONIN$").close()  # an OSError without a console, for whose keys it would wait for ever
            return getpass.getpass(f"Code of the MFA device {serial}: ")
    except (getpass.GetPassWarning, EOFError, OSError):
        raise CredentialsError(f"no terminal to ask for a code of the MFA device {serial}") from None


def _minted(options: _Options) -> tuple[Token, Credentials, timedelta]:
    credentials, region = _find(options.settings)
    now = options.settings.now().replace(microsecond=0)
    token = _mint(credentials, region, options.expires_in, now, options.service)
    left = token.expiration - now
    if left < timedelta(seconds=options.expires_in) and not options.quiet:
        end = _rfc3339(token.expiration)
        _note(f"note: the token ends in {left}, at {end}, with its credentials ({credentials.source})")
    return token, credentials, left


def _variables(options: _Options, token: Token) -> dict[str, str]:
    names = options.var or [_SERVICES[options.service][2]]
    return {**dict.fromkeys(names, str(token)), **dict.fromkeys(_REGION_VARIABLES, token.region)}


def _print_token(options: _Options) -> int:
    token, made_from, left = _minted(options)
    if options.format == "json":
        import json
        _write(json.dumps({
            "token": token, "token_type": "Bearer", "service": token.service, "region": token.region,
            "expiration": _rfc3339(token.expiration), "expires_in": left.seconds, "source": made_from.source,
        }, indent=2) + "\n")
    elif options.format in _FORMATS:
        variables = _variables(options, token).items()
        _write("".join([_FORMATS[options.format].format(*variable) for variable in variables]))
    else:
        _write(f"{token}\n")
    return 0


def _run_command(command: list[str], environ: dict[str, str]) -> int:
    """Become the command; on Windows, where no process can, wait for it and return its status."""
    import signal
    if os.name == "nt":
        import shutil
        import subprocess
        path = shutil.which(command[0], path=environ.get("PATH")) or command[0]
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the command gets Ctrl-C too, and decides
        return subprocess.call([path, *command[1:]], env=environ)

    # Python ignores these, and the command would inherit that.
    ignored = (signal.SIGPIPE, signal.SIGXFSZ)
    before = [signal.signal(number, signal.SIG_DFL) for number in ignored]
    try:
        os.execvpe(command[0], command, environ)
    finally:  # only if it cannot be run
        for number, action in zip(ignored, before):
            signal.signal(number, action)


def _exec(options: _Options) -> int:
    token, *_ = _minted(options)
    gone = _OTHER_CREDENTIALS if options.only_bedrock else ()
    environ = {name: value for name, value in dict(os.environ).items() if not name.startswith(gone)}
    region = environ.get("AWS_DEFAULT_REGION") or token.region
    environ.update(_variables(options, token), AWS_DEFAULT_REGION=region)
    try:
        return _run_command(options.rest, environ)
    except (FileNotFoundError, NotADirectoryError):
        status, why = 127, "command not found"
    except (OSError, ValueError) as error:
        status, why = 126, str(getattr(error, "strerror", None) or error)
    _note(_printable(f"{options.rest[0]}: {why}", 2000))
    return status


def _inspect(options: _Options) -> int:
    import json
    # 1. The token on stdin, else in the environment, without what was pasted with it.
    raw = "" if sys.stdin is None or sys.stdin.isatty() else _read_stdin()
    raw = raw if raw.strip() else os.environ.get(_BEARER_VARIABLE, "")
    token = raw.strip("\"' \t\r\n")
    if token[:7].lower() == "bearer ":
        token = token[7:].strip("\"' \t")
    if not token:
        raise BedrockTokenError("no token", f"pipe one in, or set {_BEARER_VARIABLE}")

    # 2. What it says, and what to know about it.
    facts = {"state": "valid", **decode_token(token)}
    own = facts.get("region")
    region = next(filter(None, map(options.settings.variable, _REGION_VARIABLES)), own)
    if own:
        now = options.settings.now().replace(microsecond=0)
        left, early = facts["expires_at"] - now, facts["issued_at"] - now
        facts["state"] = f"valid, {left} left" if left > timedelta() else f"expired {-left} ago"
        if early >= timedelta(minutes=5):  # SigV4 tolerates clocks that are less apart
            facts["state"] = f"not valid yet, in {early}"
    valid = facts["state"].startswith("valid")
    warnings = [warning for applies, warning in (
        (raw.rstrip("\r\n") != token, 'blanks, line breaks, quotes or the word "Bearer" around the token'),
        (not own, "a long-term key does not say when it ends or where it works; prefer short-term ones"),
        ("yet" in facts["state"], "the clock here, or where the token was made, is wrong"),
        (facts.get("temporary"), "made from temporary credentials: the token ends with them, maybe earlier"),
        (own not in (None, region), f"the token works in {own} only, but the region set here is {region}"),
    ) if applies]

    shown = {name: _rfc3339(fact) if isinstance(fact, datetime) else fact for name, fact in facts.items()}
    if options.format == "json":
        _write(json.dumps({**shown, "valid": valid, "warnings": warnings}, indent=2) + "\n")
        return 0 if valid else 1
    if "temporary" in facts:
        shown["temporary"] = "yes" if facts["temporary"] else "no"
        if "account_id" in facts:
            shown["account_id"] += " (encoded in the key id; AWS does not promise it)"
    _write("".join([f"{name.replace('_', ' '):<14} {fact}\n" for name, fact in shown.items()]))
    for warning in warnings:
        _note(f"warning: {warning}")
    return 0 if valid else 1


def _check(options: _Options) -> int:
    """Whether Bedrock accepts the token that would be used, by one cheap call."""
    settings, model = options.settings, options.model
    bearer, settings.region_given = _bearer(settings, None)
    own = settings.variable(_BEARER_VARIABLE)
    whose = f"the token in {_BEARER_VARIABLE}" if own else "a newly made token"
    accepted = f"accepted in {settings.region_given}: {whose}"
    path, body, endpoint = "/foundation-models", None, "bedrock"
    if model:
        hello = {"role": "user", "content": [{"text": "Hi"}]}
        body = {"messages": [hello], "inferenceConfig": {"maxTokens": 1}}
        path, endpoint = _model_path(model, "converse"), "bedrock-runtime"

    try:
        _document_of(_ask_bedrock(settings, path, body, None, endpoint, (), bearer, options.timeout)[0])
        outcome = f", and {model} answers" if model else ""
    except BedrockError as error:
        # Bedrock looks at the token first: whatever else it complains of proves that the token is good.
        others = ("not authorized to perform", "access to the model")
        proven = error.status in (400, 404, 429) or any(text in error.message for text in others)
        if not proven or not error.code or error.hint:
            raise
        if model:
            raise BedrockTokenError(f"{accepted}, but {model} fails: {error}") from error
        outcome = f"; Bedrock accepted the token but refused the call: {error.message}"
    _write(f"{accepted}{outcome}\n")
    return 0


def _converse(options: _Options) -> int:
    text = options.rest[0] if options.rest else _read_stdin()
    if not text.strip():
        raise BedrockTokenError("nothing to say", "give a text as the last argument or on stdin")
    path = _model_path(options.model, "converse-stream")
    body = {"messages": [{"role": "user", "content": [{"text": text}]}]}
    answer, bearer = _ask_bedrock(
        options.settings, path, body, timeout=options.timeout, accept="application/vnd.amazon.eventstream"
    )
    terminal = sys.stdout is not None and sys.stdout.isatty()
    for event in _events(answer, path, bearer, options.timeout):
        try:
            piece = event.get("contentBlockDelta", {}).get("delta", {}).get("text", "")
            if terminal:  # it would obey what a model was made to say
                piece = "".join([c if c.isprintable() or c in "\n\t\u200d" else " " for c in piece])
            _write(piece)
        except (AttributeError, TypeError):
            raise BedrockTokenError("Bedrock's stream holds text of another form") from None
    _write("\n")
    return 0


def _proxy(options: _Options) -> int:
    """Serve, one thread a connection, until SIGTERM or Ctrl-C, once there is a token."""
    import contextlib
    import shlex
    import signal
    from socketserver import ThreadingTCPServer

    class Server(ThreadingTCPServer):
        allow_reuse_address = os.name != "nt"  # there, another program could listen too
        daemon_threads = True
        request_queue_size = 128

        def handle_error(self, *_: object) -> None:
            pass  # a client that has gone, an answer that broke off

    key = os.environ.get("BEDROCK_TOKEN_PROXY_KEY") or os.urandom(24).hex()
    if len(key) < 16 or not _is_plain(key):
        raise CredentialsError("BEDROCK_TOKEN_PROXY_KEY must have at least 16 characters, and no blanks")
    provider = TokenProvider(None, options.region, options.expires_in, profile=options.profile)
    provider._mfa_code = _ask_on_terminal
    upstream = _endpoint(options.settings, options.endpoint.replace("-", "_"), provider().region)
    connection = _proxy_connection(options.settings, provider, upstream, key)
    try:
        server = Server(("127.0.0.1", options.port), connection)
    except OSError as error:
        raise BedrockTokenError(f"port {options.port} cannot be used: {error.strerror or error}") from error

    base = f"http://127.0.0.1:{server.server_address[1]}"
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with contextlib.suppress(KeyboardInterrupt), server:
        _write(
            f"export OPENAI_BASE_URL={base}{_OPENAI_PATHS[options.endpoint]}\n"
            f"export OPENAI_API_KEY={shlex.quote(key)}\n"
            f"export ANTHROPIC_BEDROCK_BASE_URL={base}\n"
            f"export BEDROCK_TOKEN_PROXY_KEY={shlex.quote(key)}\n"
        )
        server.serve_forever()
    return 0


def _lifetime(text: str) -> int:
    import re
    parts = re.fullmatch(r"(?=.)(?:(\d{1,5})h)?(?:(\d{1,5})m)?(?:(\d{1,5})s?)?", text, re.ASCII)
    hours, minutes, seconds = [int(part or 0) for part in parts.groups()] if parts else (0, 0, 0)
    return _whole_seconds(hours * 3600 + minutes * 60 + seconds, 1, _TOKEN_LIFETIME, "it")


def _print_help(_: _Options) -> int:
    _write(_HELP)
    return 0


def _print_version(_: _Options) -> int:
    _write(f"bedrock_token {__version__}\n")
    return 0


class _WrongUsage(Exception):
    """What is wrong with the arguments. It never quotes much of one: it may be a token."""


_COMMANDS: dict[str, Callable[[_Options], int]] = {
    "": _print_token, "exec": _exec, "inspect": _inspect, "check": _check, "converse": _converse,
    "proxy": _proxy,
}
_ALL = ("", "exec", "check", "converse", "proxy")
# An option -> what reads its value (None: it has none), what that must be, the commands it goes with.
_OPTIONS: dict[str, tuple[Callable[[str], Any] | None, str, tuple[str, ...]]] = {
    "region": (_region_name, "a region, such as us-east-1", _ALL),
    "profile": (str, "", _ALL),
    "quiet": (None, "", _ALL),
    "expires-in": (_lifetime, "like 3600, 90m or 1h30m, at most 12h", ("", "exec", "proxy")),
    "service": (str, "", ("", "exec")),
    "var": (str, "", ("", "exec")),
    "format": (str, "", ("", "inspect")),
    "only-bedrock": (None, "", ("exec",)),
    "model": (str, "", ("check", "converse")),
    "timeout": (float, "a number of seconds", ("check", "converse")),
    "port": (lambda text: int(text.encode("ascii")), "a number", ("proxy",)),
    "endpoint": (str, "", ("proxy",)),
}


def _parse_arguments(argv: list[str], options: _Options) -> Callable[[_Options], int]:
    """The command that the arguments name. What else they say is put into `options`."""
    from getopt import GetoptError, gnu_getopt
    # 1. What is an option, and what is not.
    here = argv.index("--") if "--" in argv else len(argv)
    names = [f"{name}=" if read else name for name, (read, _, _) in _OPTIONS.items()]
    try:
        given, words = gnu_getopt(argv[:here], "hq", [*names, "help", "version"])
    except GetoptError as error:
        raise _WrongUsage(_printable(str(error), 60)) from None
    command = words.pop(0) if words else ""
    if command not in _COMMANDS:
        known = ", ".join(filter(None, _COMMANDS))
        raise _WrongUsage(f"unknown command {_printable(command, 20)}; the commands are {known}")
    options.rest = words + argv[here + 1:]

    # 2. What the options say.
    for flag, text in given:
        name = {"-q": "quiet", "-h": "help"}.get(flag, flag[2:])
        if name in ("help", "version"):
            return _print_help if name == "help" else _print_version
        read, form, commands = _OPTIONS[name]
        if command not in commands:
            raise _WrongUsage(f"option --{name} does not go with {command or 'printing a token'}")
        try:
            value = read(text) if read else True
        except ValueError:
            raise _WrongUsage(f"--{name} must be {form}") from None
        setattr(options, name.replace("-", "_"), (*options.var, value) if name == "var" else value)

    # 3. What goes together.
    formats = ("text", "json") if command == "inspect" else ("token", "json", *_FORMATS)
    options.format = options.format or formats[0]
    for name, choices in (("format", formats), ("service", (*_SERVICES,)), ("endpoint", _ENDPOINTS)):
        if getattr(options, name) not in choices:
            raise _WrongUsage(f"--{name} must be one of {', '.join(choices)}")
    most = {"exec": len(options.rest), "converse": 1}.get(command, 0)
    for wrong, problem in (
        (not 0 < options.timeout <= 3600, "--timeout must be above 0 and at most 3600 seconds"),
        (options.port not in range(65536), "--port must be a number from 0 to 65535"),
        (not all(name.isascii() and name.isidentifier() for name in options.var),
         "--var must be a name of letters, digits and _"),
        (options.var and command == "" and options.format not in _FORMATS,
         "--var goes with a --format that sets variables"),
        (command == "converse" and not options.model, "converse needs a --model"),
        (command == "exec" and (words or not options.rest), "exec: the command to run must follow --"),
        (len(options.rest) > most, "unexpected argument; a token is never taken from the command line"),
    ):
        if wrong:
            raise _WrongUsage(problem)
    return _COMMANDS[command]


def main(argv: list[str] | None = None) -> int:
    """The command line; returns the exit status. Answers go to stdout, all else to stderr."""
    if sys.stderr is None:  # closed by who started us: print would turn to stdout
        sys.stderr = open(os.devnull, "w")
    arguments = list(sys.argv[1:] if argv is None else argv)
    options = _Options()
    run: Callable[[_Options], int] = _print_token
    try:
        if arguments:
            run = _parse_arguments(arguments, options)
        options.settings = _Settings(None, options.profile, options.region, mfa_code=_ask_on_terminal)
        return run(options)
    except _WrongUsage as error:
        _note(str(error), _HELP.partition("\n\n")[0] + "\n")
        return 2
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # whoever read our output has gone, as "| head" does
        return 141
    except NoCredentialsError as error:
        _note(str(error))
    except (BedrockTokenError, ValueError, OSError, MemoryError) as error:
        _note(_printable(" ".join(str(error).split()) or "out of memory", 4000))
    return 1


if __name__ == "__main__":
    sys.exit(main())
