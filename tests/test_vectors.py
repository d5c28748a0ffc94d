"""AWS's published SigV4 vectors: every case, both halves, every stage.

Each stage is fed with the vector's own file of the stage before, so the one that is wrong is the
one that fails. The last tests go the whole way: from the unsigned request, and for what only AWS's
own services ask of a signer (paths as they are, a session token that is not signed) from stage to
stage.
"""

import hashlib
import json
from datetime import datetime, timezone
from pathlib import Path
from urllib.parse import unquote

import pytest

import bedrock_token as bt

VECTORS = Path(__file__).resolve().parent.parent / "vendored_test_vectors" / "aws-c-auth" / "v4"
CASES = sorted(path.name for path in VECTORS.glob("*"))
HALVES = ["header", "query"]


def read(case, name):
    return (VECTORS / case / name).read_bytes().decode("utf-8")


CONTEXTS = {case: json.loads(read(case, "context.json")) for case in CASES}
USUAL = [case for case, context in CONTEXTS.items()
         if context["normalize"] and not context.get("omit_session_token")]

every_case = pytest.mark.parametrize("case", CASES)
usual_case = pytest.mark.parametrize("case", USUAL)
other_case = pytest.mark.parametrize("case", [case for case in CASES if case not in USUAL])
both_halves = pytest.mark.parametrize("half", HALVES)


def parse_request(text):
    """(method, path, query pairs, header pairs, body) of an HTTP/1.1 request, all unencoded."""
    head, _, body = text.partition("\n\n")
    request_line, *lines = head.rstrip("\n").split("\n")
    method, _, rest = request_line.partition(" ")
    target, _, _ = rest.rpartition(" ")  # some paths hold spaces: the version is the last word
    path, _, query = target.partition("?")
    pairs = [pair.partition("=") for pair in query.split("&") if pair]
    headers = []
    for line in lines:
        if line[0] in " \t":  # folded: it continues the value above; its blanks are the signer's
            name, value = headers.pop()
            headers.append((name, value + line))
        else:
            name, _, value = line.partition(":")
            headers.append((name, value))
    return method, path, [(unquote(n), unquote(v)) for n, _, v in pairs], headers, body.encode()


def arguments(case):
    """What both halves sign with."""
    context = CONTEXTS[case]
    keys = context["credentials"]
    return {
        "service": context["service"],
        "region": context["region"],
        "credentials": bt.Credentials(
            keys["access_key_id"], keys["secret_access_key"], keys.get("token")
        ),
        "now": datetime.strptime(context["timestamp"], "%Y-%m-%dT%H:%M:%SZ").replace(
            tzinfo=timezone.utc
        ),
    }


def without(pairs, *names):
    return [(name, value) for name, value in pairs if name.lower() not in names]


def host_of(headers):
    return next(value for name, value in headers if name.lower() == "host")


def lines(headers):
    """Header lines without what HTTP gives no meaning: case, order of names, blanks at the ends."""
    return sorted((name.lower(), value.strip()) for name, value in headers)


def test_every_vector_is_here():
    assert len(CASES) == 38
    assert sum(len(list((VECTORS / case).iterdir())) for case in CASES) == 380


# --- each stage ----------------------------------------------------------------------------

def canonical_request(case, half):
    """That of the signed request, which has all that is signed."""
    context = CONTEXTS[case]
    method, path, query, headers, body = parse_request(read(case, f"{half}-signed-request.txt"))
    unsigned = ["authorization", "x-amz-signature"]
    if context.get("omit_session_token"):
        unsigned.append("x-amz-security-token")
    return bt._canonical_request(
        method,
        (bt._canonical_uri(path) if context["normalize"]
         else "/".join(map(bt._uri_encode, path.split("/")))),
        bt._query_string(sorted(bt._encoded(without(query, *unsigned)))),
        *bt._canonical_headers(without(headers, *unsigned)),
        hashlib.sha256(body).hexdigest(),
    )


def string_to_sign(case, request):
    args = arguments(case)
    return bt._string_to_sign(
        args["now"].strftime("%Y%m%dT%H%M%SZ"),
        f"{args['now']:%Y%m%d}/{args['region']}/{args['service']}/aws4_request",
        request,
    )


def signature(case, text):
    args = arguments(case)
    key = bt._signing_key(
        args["credentials"].secret_access_key,
        args["now"].strftime("%Y%m%d"),
        args["region"],
        args["service"],
    )
    return bt._signature(key, text)


@both_halves
@every_case
def test_canonical_request(case, half):
    assert canonical_request(case, half) == read(case, f"{half}-canonical-request.txt")


@both_halves
@every_case
def test_string_to_sign(case, half):
    got = string_to_sign(case, read(case, f"{half}-canonical-request.txt"))
    assert got == read(case, f"{half}-string-to-sign.txt")


@both_halves
@every_case
def test_signature(case, half):
    got = signature(case, read(case, f"{half}-string-to-sign.txt"))
    assert got == read(case, f"{half}-signature.txt")


# --- the whole way -------------------------------------------------------------------------

@both_halves
@other_case
def test_stage_after_stage(case, half):
    got = signature(case, string_to_sign(case, canonical_request(case, half)))
    assert f"Signature={got}" in read(case, f"{half}-signed-request.txt")


@usual_case
def test_query_signed_request(case):
    method, path, query, headers, body = parse_request(read(case, "request.txt"))
    want = parse_request(read(case, "query-signed-request.txt"))
    host = host_of(headers)
    url = bt.presign(
        method,
        host,
        path,
        query,
        headers=without(headers, "host"),
        body=body,
        expires_in=CONTEXTS[case]["expiration_in_seconds"],
        **arguments(case),
    )
    origin = f"https://{host}"
    assert url.startswith(origin + "/")
    _, got_path, got_query, _, _ = parse_request(f"{method} {url[len(origin):]} HTTP/1.1")
    assert got_path == want[1]
    # Order and needless escapes mean nothing to AWS, which sorts the pairs before it signs them.
    # The vectors put X-Amz-Expires after X-Amz-SignedHeaders and leave UTF-8 raw; the order here
    # is that of AWS's own token generator.
    assert sorted(got_query) == sorted(want[2])
    # A presigned URL carries all that signing adds: the rest is sent as it was.
    assert (method, headers, body) == (want[0], want[3], want[4])


@usual_case
def test_header_signed_request(case):
    method, path, query, headers, body = parse_request(read(case, "request.txt"))
    want = parse_request(read(case, "header-signed-request.txt"))
    payload_hash = hashlib.sha256(body).hexdigest()
    if CONTEXTS[case]["sign_body"]:  # the header that repeats the body's hash is the caller's to add
        headers.append(("x-amz-content-sha256", payload_hash))
    added = bt._authorization(
        bt._Signer(**arguments(case)), method, host_of(headers), bt._canonical_uri(path), query,
        without(headers, "host"), payload_hash,
    )
    assert lines(headers + added) == lines(want[3])
    assert (method, path, query, body) == (want[0], want[1], want[2], want[4])
