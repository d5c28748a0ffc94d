"""The forms that keys may have: access key ids, session tokens, what a provider gives; how long
static keys say that they live; the names of roles."""

import json
import sys
from base64 import b64decode
from datetime import datetime, timedelta, timezone

import pytest

from bedrock_token import (
    BedrockTokenError,
    Credentials,
    CredentialsError,
    TokenProvider,
    assume_role,
    decode_token,
    get_token,
    load_credentials,
    provide_token,
)
from tests.fake_aws import Container, Fake, Forever, Sts, answer
from tests.helpers import (
    ARN, ENV_KEYS, KEY_ID, NOW, SECRET, WEB_TOKEN, cases, everything_in, key_of, keys, write_home,
)

PLANTED = "PLANTED0EVIL"
BASE = Credentials("AKIABASE", "secret-BASE")


class Frozen:
    """As botocore's credentials are."""

    def __init__(self, access_key, secret_key, token=None):
        self.access_key, self.secret_key, self.token = access_key, secret_key, token


# --- access key ids ------------------------------------------------------------------------

# What people paste, with what must not be shown again in it.
KEY_IDS = [
    ("double quotes", f'"AKIA{PLANTED}"'),
    ("single quotes", f"'AKIA{PLANTED}'"),
    ("one quote", f'AKIA{PLANTED}"'),
    ("backquotes", f"`AKIA{PLANTED}`"),
    ("curly quotes", f"\u201cAKIA{PLANTED}\u201d"),
    ("variable of a shell", "${AWS_ACCESS_KEY_ID}" + PLANTED),
    ("variable of a shell, bare", f"$AKIA{PLANTED}"),
    ("variable of a shell, called", f"$(echo {PLANTED})".replace(" ", "")),
    ("variable of Windows", f"%AKIA{PLANTED}%"),
    ("variable of a template", "{{AKIA" + PLANTED + "}}"),
    ("placeholder", f"<AKIA{PLANTED}>"),
    ("slash", f"AKIA/{PLANTED}"),
    ("scope", f"AKIA{PLANTED}/20250701/us-east-1/bedrock/aws4_request"),
    ("backslash", f"AKIA\\{PLANTED}"),
    ("hyphen", f"AKIA-{PLANTED}"),
    ("dot", f"AKIA.{PLANTED}"),
    ("comma", f"AKIA{PLANTED},"),
    ("semicolon", f"AKIA{PLANTED};"),
    ("equals sign", f"AWS_ACCESS_KEY_ID=AKIA{PLANTED}"),
    ("colon", f"AKIA{PLANTED}:{SECRET}"),
    ("plus", f"AKIA+{PLANTED}"),
    ("ampersand", f"AKIA{PLANTED}&X-Amz-Expires=1"),
    ("number sign", f"AKIA{PLANTED}#1"),
    ("percent", f"AKIA%2F{PLANTED}"),
    ("tilde", f"~{PLANTED}"),
    ("asterisk", f"{PLANTED}********"),
    ("letter of another script", f"\u0410KIA{PLANTED}"),
    ("accent", f"AKI\u00c4{PLANTED}"),
    ("digit of another script", f"AKIA\u0661{PLANTED}"),
    ("full width", f"\uff21KIA{PLANTED}"),
    ("zero width space", f"AKIA\u200b{PLANTED}"),
    ("byte order mark", f"\ufeffAKIA{PLANTED}"),
    ("surrogate", f"AKIA\udce9{PLANTED}"),
]


@pytest.mark.parametrize("key_id", cases(KEY_IDS))
def test_key_id_in_the_environment(environ, key_id):
    write_home(environ, credentials="[default]\n" + keys("DEFAULT"))
    with pytest.raises(CredentialsError, match="AWS_ACCESS_KEY_ID") as raised:
        load_credentials(environ={**environ, **ENV_KEYS, "AWS_ACCESS_KEY_ID": key_id})
    assert PLANTED not in everything_in(raised.value)
    assert SECRET not in everything_in(raised.value)


@pytest.mark.parametrize("file", ["config", "credentials"])
@pytest.mark.parametrize("key_id", cases(row for row in KEY_IDS if row[0] != "surrogate"))
def test_key_id_in_a_file(environ, file, key_id):
    body = f"aws_access_key_id = {key_id}\naws_secret_access_key = secret-dev\n"
    write_home(environ, **{file: ("[profile dev]\n" if file == "config" else "[dev]\n") + body})
    for profile, variables in [("dev", {}), (None, {"AWS_PROFILE": "dev"})]:
        with pytest.raises(CredentialsError, match="aws_access_key_id") as raised:
            load_credentials(profile, environ={**environ, **variables})
        assert "dev" in str(raised.value)
        assert PLANTED not in everything_in(raised.value)
        assert SECRET not in everything_in(raised.value)


@pytest.mark.parametrize("key_id", cases(KEY_IDS))
def test_key_id_in_code(key_id):
    with pytest.raises(ValueError, match="access_key_id") as raised:
        Credentials(key_id, "secret")
    assert PLANTED not in everything_in(raised.value)
    with pytest.raises(ValueError, match="access_key_id") as raised:
        get_token(Frozen(key_id, "secret"), "us-east-1")
    assert PLANTED not in everything_in(raised.value)


@pytest.mark.parametrize("key_id", ["A", "AKIA_TEST", "akia0", "_", KEY_ID, "A" * 128])
def test_key_id_of_word_characters(environ, key_id):
    assert Credentials(key_id, "secret").access_key_id == key_id
    environ.update(ENV_KEYS, AWS_ACCESS_KEY_ID=f" {key_id}\n")
    assert load_credentials(environ=environ).access_key_id == key_id


@pytest.mark.parametrize("key_id", [f'"AKIA{PLANTED}"', f"AKIA/{PLANTED}", "${X}" + PLANTED])
def test_key_id_in_an_answer(environ, tmp_path, key_id):
    document = {"Version": 1, "AccessKeyId": key_id, "SecretAccessKey": "s", "SessionToken": "t",
                "Token": "t", "Expiration": "2099-01-01T00:00:00Z"}
    program = tmp_path / "program.py"
    program.write_text(f"print({json.dumps(document)!r})\n")
    write_home(environ, "[profile dev]\ncredential_process = "
               f'"{sys.executable}" -I -S "{program}"\n')
    with pytest.raises(CredentialsError, match="dev") as raised:
        load_credentials("dev", environ=environ)
    assert PLANTED not in everything_in(raised.value)
    with Container(faults=[Forever(answer(200, document))]) as container:
        environ["AWS_CONTAINER_CREDENTIALS_FULL_URI"] = container.url + "/credentials"
        with pytest.raises(CredentialsError, match="container") as raised:
            load_credentials(environ=environ)
    assert PLANTED not in everything_in(raised.value)


# --- session tokens ------------------------------------------------------------------------

# One that AWS's own test suites use. The signature is botocore 1.43.11's:
#     botocore.auth.SigV4QueryAuth(Credentials(KEY_ID, SECRET, BLANK), "bedrock", "us-east-1", 43200).add_auth(
#         AWSRequest("POST", "https://bedrock.amazonaws.com/", params={"Action": "CallWithBearerToken"}))
BLANK = "AQoDYXdzEJr...<remainder of security token>"
BLANK_PAYLOAD = (
    "bedrock.amazonaws.com/?Action=CallWithBearerToken&X-Amz-Algorithm=AWS4-HMAC-SHA256"
    "&X-Amz-Credential=AKIAIOSFODNN7EXAMPLE%2F20250701%2Fus-east-1%2Fbedrock%2Faws4_request"
    "&X-Amz-Date=20250701T120000Z&X-Amz-Expires=43200&X-Amz-SignedHeaders=host"
    "&X-Amz-Security-Token=AQoDYXdzEJr...%3Cremainder%20of%20security%20token%3E"
    "&X-Amz-Signature=4baad02f3d40381cd89c6827bb5f86edfbf311d3c805f3217abfb954f66d890c&Version=1"
)


class Provider:
    def load(self):
        return Frozen(KEY_ID, SECRET, BLANK)


@pytest.mark.parametrize("credentials", [
    lambda: Credentials(KEY_ID, SECRET, BLANK),
    lambda: Frozen(KEY_ID, SECRET, BLANK),
    lambda: lambda: Credentials(KEY_ID, SECRET, BLANK),
    lambda: Provider().load,
], ids=["Credentials", "as botocore's", "callable", "callable of botocore's kind"])
def test_blank_in_a_session_token_in_code(credentials):
    token = get_token(credentials(), "us-east-1", now=NOW)
    assert b64decode(token.partition("bedrock-api-key-")[2]).decode() == BLANK_PAYLOAD
    assert decode_token(token)["temporary"] is True


def test_blank_in_a_session_token_of_the_two_providers():
    for token in (TokenProvider(Credentials(KEY_ID, SECRET, BLANK), "us-east-1", clock=NOW.timestamp)(),
                  provide_token("us-east-1", Provider())):
        payload = b64decode(token.partition("bedrock-api-key-")[2]).decode()
        assert "&X-Amz-Security-Token=AQoDYXdzEJr...%3Cremainder%20of%20security%20token%3E&" in payload


def test_blank_in_a_session_token_that_signs_for_a_role():
    signer = Credentials(KEY_ID, SECRET, BLANK)
    with Sts(keys={KEY_ID: (SECRET, BLANK)}) as sts:
        environ = {"AWS_ENDPOINT_URL_STS": sts.url}
        source = assume_role(ARN + "P", credentials=signer, environ=environ)
        assert source().access_key_id == key_of("P")


def test_blank_in_a_session_token_shows_nothing_more():
    credentials = Credentials(KEY_ID, SECRET, BLANK)
    assert credentials.session_token == BLANK
    assert "AQoD" not in repr(credentials)


@pytest.mark.parametrize("token", [
    f"a\t{PLANTED}", f"a\n{PLANTED}", f"a\r\n{PLANTED}", f"a\0{PLANTED}", f"a\x7f{PLANTED}", f"a\u00a0{PLANTED}",
    f"a\u00e9{PLANTED}", f"a\u2028{PLANTED}", f"a\udce9{PLANTED}",
], ids=ascii)
def test_session_token_in_code_that_no_header_can_have(token):
    with pytest.raises(ValueError, match="session_token") as raised:
        Credentials(KEY_ID, SECRET, token)
    assert PLANTED not in everything_in(raised.value)


@pytest.mark.parametrize("token", [f"token {PLANTED}", f"a b {PLANTED}", BLANK + PLANTED])
def test_blank_in_a_session_token_elsewhere(environ, token):
    """A broken paste."""
    with pytest.raises(CredentialsError, match="AWS_SESSION_TOKEN") as raised:
        load_credentials(environ={**environ, **ENV_KEYS, "AWS_SESSION_TOKEN": token})
    assert PLANTED not in everything_in(raised.value)
    for file, header in [("config", "[profile dev]"), ("credentials", "[dev]")]:
        write_home(environ, **{file: f"{header}\n{keys('DEV')}aws_session_token = {token}\n"})
        with pytest.raises(CredentialsError, match="aws_session_token") as raised:
            load_credentials("dev", environ=environ)
        assert "dev" in str(raised.value)
        assert PLANTED not in everything_in(raised.value)


@pytest.mark.parametrize("key_id, secret", [
    ("AK IA", "secret"), (KEY_ID, "sec ret"), ("AKIA\n", "secret"), (KEY_ID, "secret\n"), (KEY_ID, " secret"),
])
def test_blank_in_the_keys_themselves(key_id, secret):
    with pytest.raises(ValueError):
        Credentials(key_id, secret, BLANK)


# --- providers that are none ---------------------------------------------------------------

class LoadIsText:
    load = "secret"


@pytest.mark.parametrize("provider", [
    object(), "AKIAIOSFODNN7EXAMPLE", 5, 0.5, True, [Provider()], {"load": Provider().load}, Frozen("A", "s"),
    Credentials("AKIA", "secret"), LoadIsText(), lambda: Credentials("AKIA", "secret"), 0, "", [], {}, False,
], ids=lambda provider: type(provider).__name__)
def test_provider_that_cannot_load(provider):
    with pytest.raises(TypeError, match="aws_credentials_provider") as raised:
        provide_token("us-east-1", provider)
    assert "load" in str(raised.value)
    assert "secret" not in str(raised.value)


class Empty(Provider):
    """Nothing in it, yet."""

    def __len__(self):
        return 0


def test_provider_that_is_falsy_is_asked():
    # The environment has no credentials: None would be an error.
    token = provide_token("us-east-1", Empty())
    assert decode_token(token)["access_key_id"] == KEY_ID


# --- how long static keys say that they live -----------------------------------------------

NOTES = ["x_security_token_expires", "aws_session_expiration", "aws_credential_expiration", "aws_expiration",
         "expiration"]
IN_2099 = datetime(2099, 1, 2, 3, 4, 5, tzinfo=timezone.utc)

# date -u -d 2099-01-02T03:04:05Z +%s
FUTURE = [
    ("Z", "2099-01-02T03:04:05Z"),
    ("fraction", "2099-01-02T03:04:05.000Z"),
    ("microseconds", "2099-01-02T03:04:05.000000+00:00"),
    ("offset", "2099-01-02T05:04:05+02:00"),
    ("offset to the west", "2099-01-01T22:04:05-05:00"),
    # aws-google-auth writes %z without a colon.
    ("offset without a colon", "2099-01-02T03:04:05+0000"),
    # aws-mfa writes a blank, and means UTC.
    ("blank", "2099-01-02 03:04:05"),
    ("no zone", "2099-01-02T03:04:05"),
    ("seconds", "4071006245"),
    ("comment behind it", "2099-01-02T03:04:05Z # from saml2aws"),
    ("seconds with a comment", "4071006245 ; from saml2aws"),
]
PAST = [
    ("Z", "2020-01-02T03:04:05Z"),
    ("fraction", "2020-01-02T03:04:05.123Z"),
    ("offset", "2020-01-02T03:04:05-05:00"),
    ("offset without a colon", "2020-01-02T03:04:05+0000"),
    ("blank", "2020-01-02 03:04:05"),
    ("seconds", "1577934245"),
    ("just now", "2025-07-01T12:00:00Z"),
    ("just now, in seconds", "1751371200"),
]
UNREADABLE = [
    ("empty", ""), ("word", "never"), ("a word that is a number", "nan"), ("another", "inf"), ("none", "None"),
    ("month 13", "2020-13-01T00:00:00Z"), ("day 32", "2020-01-32T00:00:00Z"), ("hour 25", "2020-01-01T25:00:00Z"),
    ("no date", "03:04:05"), ("other order", "02/01/2020 03:04"), ("words", "Thu Jan  2 03:04:05 2020"),
    ("too large", "9" * 20), ("far too large", "9" * 5000), ("digits of another script", "\u0661\u0665\u0667\u0667"),
    ("sub-properties", "\n  at = 2020-01-01T00:00:00Z"), ("year 0", "0000-01-01T00:00:00Z"),
]


def at_noon(environ):
    return get_token(None, "us-east-1", profile="dev", environ=environ, now=NOW)


@pytest.mark.parametrize("note", NOTES)
@pytest.mark.parametrize("value", cases(FUTURE))
def test_end_of_static_keys(environ, note, value):
    write_home(environ, credentials=f"[dev]\n{keys('DEV')}aws_session_token = t\n{note} = {value}\n")
    got = load_credentials("dev", environ=environ)
    assert (got.access_key_id, got.expiration) == ("AKIADEV", IN_2099)


@pytest.mark.parametrize("note", NOTES)
@pytest.mark.parametrize("value", cases(PAST))
def test_static_keys_that_have_ended(environ, note, value):
    write_home(environ, credentials=f"[dev]\n{keys('DEV')}aws_session_token = t\n{note} = {value}\n")
    with pytest.raises(CredentialsError, match="expired|ended") as raised:
        at_noon(environ)
    assert "dev" in str(raised.value)
    assert "secret-DEV" not in everything_in(raised.value)


@pytest.mark.parametrize("note", NOTES)
@pytest.mark.parametrize("value", cases(UNREADABLE))
def test_note_that_is_no_time(environ, note, value):
    write_home(environ, credentials=f"[dev]\n{keys('DEV')}{note} = {value}\n")
    got = load_credentials("dev", environ=environ)
    assert (got.access_key_id, got.expiration) == ("AKIADEV", None)


@pytest.mark.parametrize("note", NOTES)
@pytest.mark.parametrize("value", ["2025-07-01T13:00:00Z", "1751374800"], ids=["ISO 8601", "seconds"])
def test_end_of_static_keys_bounds_the_token(environ, note, value):
    write_home(environ, credentials=f"[dev]\n{keys('DEV')}{note} = {value}\n[default]\n{keys('OTHER')}")
    assert at_noon(environ).expiration == NOW + timedelta(hours=1)
    provider = TokenProvider(None, "us-east-1", profile="dev", environ=environ, clock=NOW.timestamp)
    assert provider().expiration == NOW + timedelta(hours=1)
    # Another profile's note is not this one's.
    token = get_token(None, "us-east-1", profile="default", environ=environ, now=NOW)
    assert token.expiration == NOW + timedelta(hours=12)


def test_end_of_static_keys_after_the_token(environ):
    write_home(environ, credentials=f"[dev]\n{keys('DEV')}expiration = 2025-07-02T12:00:00Z\n")
    assert at_noon(environ).expiration == NOW + timedelta(hours=12)


def test_end_of_static_keys_in_capitals(environ):
    write_home(environ, credentials=f"[dev]\n{keys('DEV')}X_Security_Token_Expires = 2020-01-02T03:04:05Z\n")
    with pytest.raises(CredentialsError, match="dev"):
        load_credentials("dev", environ=environ)


def test_ended_static_keys_stop_the_chain(environ):
    """Something is configured and does not work: nothing further on may answer in its place."""
    with Container() as container:
        write_home(environ, credentials=f"[default]\n{keys('DEV')}expiration = 2020-01-02T03:04:05Z\n")
        environ["AWS_CONTAINER_CREDENTIALS_FULL_URI"] = container.url + "/credentials"
        with pytest.raises(CredentialsError, match="profile default"):
            load_credentials(environ=environ)
    assert container.requests == []


@pytest.mark.parametrize("config", [
    f"[profile p]\nrole_arn = {ARN}P\nsource_profile = dev\n",
    f"[profile p]\nrole_arn = {ARN}P\nsource_profile = q\n[profile q]\nrole_arn = {ARN}Q\nsource_profile = dev\n",
])
def test_ended_static_keys_sign_for_no_role(environ, config):
    with Sts(keys={"AKIADEV": ("secret-DEV", None)}) as sts:
        environ["AWS_ENDPOINT_URL_STS"] = sts.url
        write_home(environ, config, f"[dev]\n{keys('DEV')}aws_expiration = 2020-01-02T03:04:05Z\n")
        with pytest.raises(CredentialsError, match="dev"):
            load_credentials("p", environ=environ)
        assert sts.requests == []
        write_home(environ, config, f"[dev]\n{keys('DEV')}aws_expiration = 2099-01-02T03:04:05Z\n")
        assert load_credentials("p", environ=environ).access_key_id == key_of("P")


def test_keys_of_the_environment_have_an_end_of_their_own(environ):
    write_home(environ, credentials=f"[default]\n{keys('DEV')}expiration = 2020-01-02T03:04:05Z\n")
    assert load_credentials(environ={**environ, **ENV_KEYS}).expiration is None


# --- the names of roles --------------------------------------------------------------------

ACCEPTED = [
    ("12 digits", ARN + "P"),
    ("9 digits", "arn:aws:iam::123456789:role/RoleA"),
    ("13 digits", "arn:aws:iam::1234567890123:role/RoleA"),
    ("no digits", "arn:aws:iam::aws:role/Reader"),
    ("a path", ARN + "team/x/P"),
    ("China", "arn:aws-cn:iam::123456789012:role/P"),
    ("GovCloud", "arn:aws-us-gov:iam::123456789012:role/P"),
    ("a partition to come", "arn:aws-moon-2:iam::123456789012:role/P"),
    ("a user", "arn:aws:iam::123456789012:user/P"),
    ("an assumed role", "arn:aws:sts::123456789012:assumed-role/P/me"),
    ("a blank inside", ARN + "my role"),
    ("punctuation", ARN + "a+b=c,d.e@f-g_h"),
    ("more punctuation", ARN + "a&b?c#d%e"),
    ("other scripts", ARN + "b\u00fcro"),
    ("no ARN at all", "this is not the ARN of a role"),
    ("20 characters", "arn:aws:iam::1:role/"),
    ("2048 characters", (ARN + "P" * 2048)[:2048]),
]
REFUSED = [
    ("19 characters", "arn:aws:iam::1:role"),
    ("a name alone", "MyRole"),
    ("2049 characters", (ARN + "P" * 2049)[:2049]),
    ("NUL", ARN + "P\0Q"), ("ESC", ARN + "P\x1b[0m"), ("DEL", ARN + "P\x7f"), ("BEL", ARN + "P\x07"),
]


@pytest.fixture
def any_role(environ):
    """STS, as it turns everybody away: what came in is what is looked at."""
    with Fake(faults=[Forever(answer(403, "<Error><Code>AccessDenied</Code></Error>"))]) as fake:
        environ["AWS_ENDPOINT_URL_STS"] = fake.url
        yield fake


@pytest.mark.parametrize("arn", cases(ACCEPTED))
def test_role_that_sts_is_to_judge(environ, any_role, home, arn):
    environ.update(ENV_KEYS)
    (home / "web").write_text(WEB_TOKEN)
    write_home(environ, f"[profile p]\nrole_arn = {arn}\ncredential_source = Environment\n"
               f"[profile w]\nrole_arn = {arn}\nweb_identity_token_file = ~/web\n")
    web = {"AWS_ROLE_ARN": arn, "AWS_WEB_IDENTITY_TOKEN_FILE": str(home / "web"),
           "AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""}
    for ask in (
        lambda: load_credentials("p", environ=environ),
        lambda: load_credentials("w", environ=environ),
        lambda: load_credentials(environ={**environ, **web}),
        assume_role(arn, credentials=BASE, environ=environ),
    ):
        with pytest.raises(CredentialsError):
            ask()
    assert [request.form["RoleArn"] for request in any_role.requests] == [arn] * 4


@pytest.mark.parametrize("arn", cases(REFUSED))
def test_role_that_cannot_be_one(environ, any_role, home, arn):
    environ.update(ENV_KEYS)
    (home / "web").write_text(WEB_TOKEN)
    write_home(environ, f"[profile p]\nrole_arn = {arn}\ncredential_source = Environment\n"
               f"[profile w]\nrole_arn = {arn}\nweb_identity_token_file = ~/web\n")
    for profile in ("p", "w"):
        with pytest.raises(CredentialsError, match="role_arn") as raised:
            load_credentials(profile, environ=environ)
        assert f"profile {profile}" in str(raised.value)
    with pytest.raises(BedrockTokenError) as raised:
        load_credentials(environ={
            **environ, "AWS_ROLE_ARN": arn, "AWS_WEB_IDENTITY_TOKEN_FILE": str(home / "web"),
            "AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""})
    assert str(raised.value).isprintable()
    with pytest.raises(ValueError, match="role"):
        assume_role(arn, credentials=BASE, environ=environ)
    assert any_role.requests == []


@pytest.mark.parametrize("separator", ["\n", "\t", "\r"], ids=repr)
def test_role_with_a_line_break(environ, any_role, separator):
    with pytest.raises(ValueError, match="role"):
        assume_role(f"{ARN}P{separator}Q", credentials=BASE, environ=environ)
    assert any_role.requests == []


@pytest.mark.parametrize("digits", ["123456789", "1234567890123"])
def test_role_of_an_account_that_sts_knows(environ, digits):
    with Sts(keys={"AKIABASE": ("secret-BASE", None)}) as sts:
        environ["AWS_ENDPOINT_URL_STS"] = sts.url
        write_home(environ, f"[profile p]\nrole_arn = arn:aws:iam::{digits}:role/RoleA\n"
                   "source_profile = base\n", "[base]\n" + keys("BASE"))
        assert load_credentials("p", environ=environ).access_key_id == key_of("RoleA")
    [request] = sts.requests
    assert request.form["RoleArn"] == f"arn:aws:iam::{digits}:role/RoleA"


@pytest.mark.parametrize("name, accepted", [
    ("me", True), ("a" * 64, True), ("a+b=c,d.e@f-g_h", True), ("m", False), ("a" * 65, False), ("a b", False),
    ("a/b", False), ("a:b", False), ("b\u00fcro", False), ("a\u0661", False), ("a\tb", False),
])
def test_session_name(environ, any_role, name, accepted):
    environ.update(ENV_KEYS)
    write_home(environ, f"[profile p]\nrole_arn = {ARN}P\ncredential_source = Environment\n"
               f"role_session_name = {name}\n")
    with pytest.raises(CredentialsError):
        load_credentials("p", environ=environ)
    if accepted:
        with pytest.raises(CredentialsError):
            assume_role(ARN + "P", credentials=BASE, session_name=name, environ=environ)()
    else:
        with pytest.raises(ValueError, match="session"):
            assume_role(ARN + "P", credentials=BASE, session_name=name, environ=environ)
    assert [request.form["RoleSessionName"] for request in any_role.requests] == [name] * 2 * accepted
