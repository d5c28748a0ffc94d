"""assume_role(): what it returns can be sent to another process, and shows no secret."""

import copy
import pickle

import pytest

import bedrock_token as bt
from tests import fake_aws
from tests.helpers import KEY_ID, KEYS, SECRET, STATIC, cases, key_of

ADMIN = "arn:aws:iam::123456789012:role/Admin"
READER = "arn:aws:iam::123456789012:role/Reader"
MFA = "arn:aws:iam::123456789012:mfa/dev"


def a_code(serial):
    return {MFA: "123456"}[serial]


@pytest.fixture
def sts():
    with fake_aws.Sts(keys={KEY_ID: (SECRET, None)}, external_id="the-external-id") as fake:
        yield fake


def role_source(environ, arn=ADMIN, **given):
    return bt.assume_role(arn, environ=environ, region="us-east-1", external_id="the-external-id", **given)


SOURCES = [
    ("keys", lambda environ: role_source(environ, credentials=STATIC)),
    ("environment", lambda environ: role_source({**environ, **KEYS})),
    ("all that can be said", lambda environ: role_source(
        environ, credentials=STATIC, session_name="me", duration=900, policy="{}")),
    ("role through a role", lambda environ: role_source(
        environ, credentials=role_source(environ, READER, credentials=STATIC))),
]
COPIES = [
    *((f"pickle protocol {protocol}", lambda source, protocol=protocol: pickle.loads(
        pickle.dumps(source, protocol))) for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1)),
    ("copy", copy.copy),
    ("deep copy", copy.deepcopy),
]


@pytest.mark.parametrize("source", cases(SOURCES))
@pytest.mark.parametrize("copied", cases(COPIES))
def test_copy_asks_the_same(source, copied, sts, environ):
    def asked_by(source):
        sts.requests.clear()
        found = source()
        # A session is named by its time, unless it is given a name.
        forms = [{**request.form, "RoleSessionName": request.form["RoleSessionName"].rstrip("0123456789")}
                 for request in sts.requests]
        return found.access_key_id, found.source, forms

    original = source({**environ, "AWS_ENDPOINT_URL_STS": sts.url})
    asked = asked_by(original)
    assert asked[0] == key_of("Admin")
    assert asked_by(copied(original)) == asked


def test_code_of_a_device_comes_along(sts, environ):
    sts.mfa = (MFA, "123456")
    source = role_source({**environ, "AWS_ENDPOINT_URL_STS": sts.url}, credentials=STATIC,
                         mfa_serial=MFA, mfa_code=a_code)
    assert pickle.loads(pickle.dumps(source))().access_key_id == key_of("Admin")


def test_provider_with_such_a_source(sts, environ):
    source = role_source({**environ, "AWS_ENDPOINT_URL_STS": sts.url}, credentials=STATIC)
    provider = pickle.loads(pickle.dumps(bt.TokenProvider(source, "us-east-1")))
    facts = bt.decode_token(provider())
    assert facts["access_key_id"] == key_of("Admin")


@pytest.mark.parametrize("source", cases(SOURCES))
def test_repr_shows_no_secret(source, environ):
    shown = repr(source(environ)) + str(source(environ))
    assert [secret for secret in (SECRET, "the-external-id") if secret in shown] == []
