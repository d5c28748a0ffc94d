"""The same files and environment end in the same identity here and in botocore.

Both look at one environment, one home and one set of servers, one after the other; what they
ask of STS, the SSO portal and OIDC is compared too.
"""

import contextlib
import hashlib
import itertools
import json
import os
import re
import time
from typing import NamedTuple

import botocore.credentials
import botocore.session
import botocore.tokens
import pytest

import bedrock_token as bt
from tests import fake_aws
from tests.fake_aws import answer
from tests.helpers import ARN, cases

DEVICE = "arn:aws:iam::123456789012:mfa/me"


class Given(NamedTuple):
    """A configuration. {home} and {container} in it stand for a folder and for a server."""

    config: str = ""
    credentials: str = ""
    environ: dict = {}
    files: dict = {}  # text, or what becomes JSON, by the path below the home
    profile: str = None  # named in code
    services: dict = {}  # the settings of a server, by its name


def utc(seconds):
    """A time as AWS's files hold it, so many seconds from now."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + seconds))


def static(name):
    """Properties of a profile, with keys that tell where they come from."""
    return f"aws_access_key_id = AKIA{name}\naws_secret_access_key = secret/{name}\n"


def environment(name):
    return {"AWS_ACCESS_KEY_ID": f"AKIA{name}", "AWS_SECRET_ACCESS_KEY": f"secret/{name}"}


def process(folder, **fields):
    """The file that process_line prints: credentials, with these fields changed or added."""
    name = folder.upper().replace(" ", "")
    document = {"Version": 1, "AccessKeyId": f"AKIA{name}", "SecretAccessKey": "s", **fields}
    return {f"{folder}/answer.json": document}


def process_line(folder):
    return f'credential_process = cat "{{home}}/{folder}/answer.json"\n'


def sso_cache(name, expires_in=3600, **fields):
    path = f".aws/sso/cache/{hashlib.sha1(name.encode()).hexdigest()}.json"
    return {path: {"accessToken": "access-token", "expiresAt": utc(expires_in), **fields}}


def renewable(registered=3600):
    return {"clientId": "client-id", "clientSecret": "client-secret",
            "refreshToken": "refresh-token", "registrationExpiresAt": utc(registered)}


def login_cache(session):
    path = f".aws/login/cache/{hashlib.sha256(session.encode()).hexdigest()}.json"
    return {path: {
        "accessToken": {"accessKeyId": "ASIALOGIN", "secretAccessKey": "secret",
                        "sessionToken": "session", "accountId": "123456789012",
                        "expiresAt": utc(3600)},
        "refreshToken": "refresh", "clientId": "client", "dpopKey": "key",
    }}


WEB_IDENTITY = {"AWS_WEB_IDENTITY_TOKEN_FILE": "{home}/web", "AWS_ROLE_ARN": ARN + "web-env"}
WEB_FILE = {"web": "web-token"}
CONTAINER = {"AWS_CONTAINER_CREDENTIALS_FULL_URI": "{container}/credentials"}
IMDS = {"AWS_EC2_METADATA_DISABLED": "false"}
SSO_PROFILE = "sso_account_id = 123456789012\nsso_role_name = Reader\n"
SSO_SETTINGS = "sso_region = us-east-1\nsso_start_url = https://x.awsapps.com/start\n"
SSO_SESSION = "[sso-session corp]\n" + SSO_SETTINGS
SSO = f"[default]\nsso_session = corp\n{SSO_PROFILE}{SSO_SESSION}"
BASE = "[profile base]\n" + static("BASE")
CHAIN = (
    f"[default]\nrole_arn = {ARN}three\nsource_profile = two\n"
    f"[profile two]\nrole_arn = {ARN}two\nsource_profile = one\n"
    f"[profile one]\nrole_arn = {ARN}one\nsource_profile = base\n"
)


def role(source="source_profile = base", more=""):
    return f"[default]\nrole_arn = {ARN}app\n{source}\n{more}"


AGREED = [
    # The environment
    ("nothing at all", Given()),
    ("environment", Given(environ=environment("ENV"))),
    ("environment with a session token", Given(
        environ={**environment("ENV"), "AWS_SESSION_TOKEN": "session/+="})),
    ("environment with an end", Given(
        environ={**environment("ENV"), "AWS_CREDENTIAL_EXPIRATION": utc(3600)})),
    ("environment that has ended", Given(
        environ={**environment("ENV"), "AWS_CREDENTIAL_EXPIRATION": utc(-60)})),
    ("end that is no time", Given(
        environ={**environment("ENV"), "AWS_CREDENTIAL_EXPIRATION": "tomorrow-ish"})),
    ("access key id alone", Given(environ={"AWS_ACCESS_KEY_ID": "AKIAENV"})),
    ("empty keys in the environment", Given(
        "[default]\n" + static("FILE"),
        environ={"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""})),
    ("empty session token", Given(environ={**environment("ENV"), "AWS_SESSION_TOKEN": ""})),

    # Which profile
    ("default", Given("[default]\n" + static("CONFIG"))),
    ("AWS_PROFILE", Given(BASE, environ={"AWS_PROFILE": "base"})),
    ("AWS_DEFAULT_PROFILE", Given(BASE, environ={"AWS_DEFAULT_PROFILE": "base"})),
    ("AWS_PROFILE is nowhere", Given(BASE, environ={"AWS_PROFILE": "other"})),
    ("profile named in code", Given(BASE, profile="base")),
    ("profile named in code is nowhere", Given(BASE, profile="other")),
    ("profile named in code over AWS_PROFILE", Given(
        BASE + "[profile dev]\n" + static("DEV"), profile="base", environ={"AWS_PROFILE": "dev"})),
    ("profile named in code over the environment", Given(
        BASE, profile="base", environ=environment("ENV"))),
    ("environment over AWS_PROFILE", Given(
        BASE, environ={**environment("ENV"), "AWS_PROFILE": "base"})),
    ("default named in code over the environment", Given(
        "[default]\n" + static("CONFIG"), profile="default", environ=environment("ENV"))),
    ("a profile does not inherit from default", Given(
        "[default]\n" + static("CONFIG") + "[profile dev]\nregion = us-east-1\n",
        environ={"AWS_PROFILE": "dev"})),
    ("[dev] in config is no profile", Given(
        "[dev]\n" + static("DEV"), environ={"AWS_PROFILE": "dev"})),
    ("[profile dev] in credentials is no profile", Given(
        "", "[profile dev]\n" + static("DEV"), environ={"AWS_PROFILE": "dev"})),

    # The two files
    ("credentials file alone", Given("", "[default]\n" + static("SHARED"))),
    ("credentials over config", Given(
        "[default]\n" + static("CONFIG"), "[default]\n" + static("SHARED"))),
    ("profile of both files", Given(
        "[profile dev]\nregion = us-west-2\n", "[dev]\n" + static("DEV"), profile="dev")),
    ("files elsewhere", Given(
        environ={"AWS_CONFIG_FILE": "{home}/c", "AWS_SHARED_CREDENTIALS_FILE": "~/s"},
        files={"c": f"[profile dev]\nrole_arn = {ARN}app\nsource_profile = base\n",
               "s": "[base]\n" + static("BASE")}, profile="dev")),
    ("session token in a profile", Given(
        "", "[default]\n" + static("SHARED") + "aws_session_token = session/+=\n")),
    ("access key id alone in a profile", Given("", "[default]\naws_access_key_id = AKIA\n")),
    ("names in capitals", Given("", "[default]\n" + static("X").replace("aws_", "AWS_"))),
    ("CRLF, comments and blank lines", Given(
        "", "# one\r\n\r\n[default]\r\n; two\r\n" + static("X").replace("\n", "\r\n\r\n"))),
    ("blanks around everything", Given(
        "[profile   dev  ]\n" + static("X").replace(" = ", "   =   "), profile="dev")),
    ("no blanks at all", Given("[profile dev]\n" + static("X").replace(" ", ""), profile="dev")),
    ("[profile default] after [default]", Given(
        "[default]\n" + static("A") + "[profile default]\n" + static("B"))),
    ("nested settings beside the keys", Given(
        "[default]\ns3 =\n  max_concurrent_requests = 20\n" + static("X"))),
    ("comment after a header", Given("[default] # mine\n" + static("X"))),
    ("percent signs", Given("", "[default]\n" + static("X").replace("secret/X", "%(a)s%"))),
    ("not UTF-8", Given(files={".aws/config": b"# caf\xe9\n[default]\nregion = us-east-1\n"})),
    ("no bracket at the end", Given("[default\n" + static("X"))),
    ("property without a section", Given(static("X"))),
    ("line without an equals sign", Given("[default]\nnonsense\n")),

    # Roles
    ("role", Given(role() + BASE)),
    ("role with all it can have", Given(
        role(more="external_id = ext/1\nrole_session_name = me@work\nduration_seconds = 900\n")
        + BASE, services={"sts": {"external_id": "ext/1"}})),
    ("role of a path", Given(role().replace("role/app", "role/team/app") + BASE)),
    ("role with a code", Given(
        role(more=f"mfa_serial = {DEVICE}\n") + BASE,
        services={"sts": {"mfa": (DEVICE, "123456")}})),
    ("role that STS refuses", Given(role() + BASE, services={"sts": {"external_id": "another"}})),
    ("base that STS does not know", Given(role() + "[profile base]\n" + static("UNKNOWN"))),
    ("chain of three roles", Given(CHAIN + BASE)),
    ("chain whose last link is missing", Given(CHAIN)),
    ("base in the credentials file", Given(role(), "[base]\n" + static("BASE"))),
    ("role in the credentials file", Given(BASE, role())),
    ("base has a session token", Given(
        role() + BASE + "aws_session_token = session\n",
        services={"sts": {"keys": {"AKIABASE": ("secret/BASE", "session")}}})),
    ("role that is its own source", Given(role("source_profile = default", static("BASE")))),
    ("its own source, without keys", Given(role("source_profile = default"))),
    ("circle", Given(
        role("source_profile = two") + f"[profile two]\nrole_arn = {ARN}two\n"
        "source_profile = default\n")),
    ("source with keys and a role", Given(
        role() + BASE + f"role_arn = {ARN}other\nsource_profile = gone\n")),
    ("source without credentials", Given(role() + "[profile base]\nregion = us-east-1\n")),
    ("neither source", Given(role(""))),
    ("both sources", Given(role("source_profile = base\ncredential_source = Environment") + BASE)),
    ("source_profile alone is no role", Given("[default]\nsource_profile = base\n" + BASE)),
    ("role over static keys", Given(role(more=static("STATIC")) + BASE)),
    ("role, keys and no source", Given(role("", static("STATIC")))),
    ("from the environment", Given(
        "[profile app]\n" + role("credential_source = Environment").partition("\n")[2],
        environ=environment("BASE"), profile="app")),
    ("from an empty environment", Given(role("credential_source = Environment"))),
    ("from the container", Given(role("credential_source = EcsContainer"), environ=CONTAINER)),
    ("from no container", Given(role("credential_source = EcsContainer"))),
    ("from the instance", Given(role("credential_source = Ec2InstanceMetadata"), environ=IMDS)),
    ("from metadata that is switched off", Given(role("credential_source = Ec2InstanceMetadata"))),
    ("from an unknown place", Given(role("credential_source = Moon"))),
    ("through web identity", Given(
        role() + f"[profile base]\nrole_arn = {ARN}web\nweb_identity_token_file = {{home}}/web\n",
        files=WEB_FILE)),
    ("through SSO", Given(
        role() + SSO.replace("default", "profile base"), files=sso_cache("corp"))),
    ("through credential_process", Given(
        role() + "[profile base]\n" + process_line("base"),
        files=process("base", SecretAccessKey="secret/BASE"))),
    ("endpoint in a services section", Given(
        role(more="services = here\n") + BASE + "[services here]\nsts =\n"
        "  endpoint_url = {sts}\nbedrock =\n  endpoint_url = http://127.0.0.1:9\n",
        environ={"AWS_ENDPOINT_URL_STS": None})),
    ("endpoint in the profile", Given(
        role(more="endpoint_url = {sts}\n") + BASE, environ={"AWS_ENDPOINT_URL_STS": None})),
    ("endpoint for all services", Given(
        role() + BASE, environ={"AWS_ENDPOINT_URL_STS": None, "AWS_ENDPOINT_URL": "{sts}"})),
    ("region of the profile", Given(
        role(more="region = eu-west-1\n") + BASE, environ={"AWS_DEFAULT_REGION": None},
        services={"sts": {"region": "eu-west-1"}})),
    ("region that is none", Given(role() + BASE, environ={"AWS_DEFAULT_REGION": "nowhere"})),
    ("session name that is none", Given(role(more="role_session_name = a b\n") + BASE)),
    ("role that is none", Given(role().replace("arn:aws:iam", "arn") + BASE)),

    # Web identity
    ("web identity", Given(environ=WEB_IDENTITY, files=WEB_FILE)),
    ("web identity with a session name", Given(
        environ={**WEB_IDENTITY, "AWS_ROLE_SESSION_NAME": "pod-1"}, files=WEB_FILE)),
    ("web identity of a profile", Given(
        f"[default]\nrole_arn = {ARN}web\nrole_session_name = pod-2\n"
        "web_identity_token_file = {home}/web\n", files=WEB_FILE)),
    ("web identity without its file", Given(environ=WEB_IDENTITY)),
    ("web identity that STS refuses", Given(environ=WEB_IDENTITY, files={"web": "another"})),
    ("web identity without a role", Given(
        environ={"AWS_WEB_IDENTITY_TOKEN_FILE": "{home}/web"}, files=WEB_FILE)),
    ("AWS_ROLE_ARN alone", Given(environ={"AWS_ROLE_ARN": ARN + "web"})),
    ("profile named in code over web identity", Given(
        BASE, environ=WEB_IDENTITY, files=WEB_FILE, profile="base")),

    # SSO
    ("SSO session", Given(SSO, files=sso_cache("corp"))),
    ("SSO session, nobody signed in", Given(SSO)),
    ("SSO session about to end", Given(
        SSO, files=sso_cache("corp", 600, **renewable()),
        services={"sso": {"access_token": "access-token-1"}})),
    ("SSO session that has ended", Given(
        SSO, files=sso_cache("corp", -60, **renewable()),
        services={"sso": {"access_token": "access-token-1"}})),
    ("SSO session that has ended for good", Given(SSO, files=sso_cache("corp", -60))),
    ("registration that has ended", Given(
        SSO, files=sso_cache("corp", -60, **renewable(-60)))),
    ("about to end and not renewable", Given(SSO, files=sso_cache("corp", 600))),
    ("about to end and the renewal is refused", Given(
        SSO, files=sso_cache("corp", 600, **renewable()),
        services={"oidc": {"refresh_token": "another"}})),
    ("ended and the renewal is refused", Given(
        SSO, files=sso_cache("corp", -60, **renewable()),
        services={"oidc": {"refresh_token": "another"}})),
    ("SSO session that the portal refuses", Given(
        SSO, files=sso_cache("corp"), services={"sso": {"access_token": "another"}})),
    ("SSO without a session", Given(
        "[default]\n" + SSO_PROFILE + SSO_SETTINGS,
        files=sso_cache("https://x.awsapps.com/start"))),
    ("SSO without a session, its end in UTC", Given(
        "[default]\n" + SSO_PROFILE + SSO_SETTINGS,
        files=sso_cache("https://x.awsapps.com/start", expiresAt=utc(3600)[:-1] + "UTC"))),
    ("SSO without a session has ended", Given(
        "[default]\n" + SSO_PROFILE + SSO_SETTINGS,
        files=sso_cache("https://x.awsapps.com/start", -60, **renewable()))),
    ("SSO without its role", Given(
        SSO.replace("sso_role_name", "x"), files=sso_cache("corp"))),
    ("SSO without its account", Given(
        SSO.replace("sso_account_id", "x"), files=sso_cache("corp"))),
    ("SSO without its region", Given(SSO.replace("sso_region", "x"), files=sso_cache("corp"))),
    ("SSO session that is nowhere", Given(
        SSO.replace("[sso-session corp]", "[sso-session other]"), files=sso_cache("corp"))),
    ("SSO profile and session agree", Given(
        SSO.replace("[sso-session", SSO_SETTINGS + "[sso-session"), files=sso_cache("corp"))),
    ("SSO profile and session disagree", Given(
        SSO.replace("[sso-session", "sso_region = eu-west-1\n[sso-session"),
        files=sso_cache("corp"))),
    ("SSO session alone is no credentials", Given(
        "[default]\nsso_session = corp\n" + SSO_SESSION, files=sso_cache("corp"))),
    ("SSO in the credentials file", Given(
        SSO_SESSION, "[default]\nsso_session = corp\n" + SSO_PROFILE, files=sso_cache("corp"))),
    ("SSO session in the credentials file", Given(
        "[default]\nsso_session = corp\n" + SSO_PROFILE, SSO_SESSION, files=sso_cache("corp"))),

    # aws login
    ("login", Given("[default]\nlogin_session = arn:me\n", files=login_cache("arn:me"))),
    ("login elsewhere", Given(
        "[default]\nlogin_session = arn:me\n", environ={"AWS_LOGIN_CACHE_DIRECTORY": "{home}/in"},
        files={path.replace(".aws/login/cache", "in"): document
               for path, document in login_cache("arn:me").items()})),
    ("login, nobody signed in", Given("[default]\nlogin_session = arn:me\n")),

    # credential_process
    ("process", Given("[default]\n" + process_line("run"), files=process("run"))),
    ("process with a session", Given(
        "[default]\n" + process_line("run"),
        files=process("run", SessionToken="session", Expiration=utc(3600)))),
    ("process that has ended", Given(
        "[default]\n" + process_line("run"),
        files=process("run", SessionToken="session", Expiration=utc(-60)))),
    ("process with another version", Given(
        "[default]\n" + process_line("run"), files=process("run", Version=2))),
    ("process without a secret", Given(
        "[default]\n" + process_line("run"),
        files={"run/answer.json": {"Version": 1, "AccessKeyId": "AKIA"}})),
    ("process that fails", Given("[default]\ncredential_process = false\n")),
    ("process that is nowhere", Given("[default]\ncredential_process = {home}/gone\n")),
    ("process that says nothing", Given("[default]\ncredential_process = true\n")),
    ("process that complains and answers", Given(
        "[default]\ncredential_process = sh -c 'echo no >&2; cat {home}/run/answer.json'\n",
        files=process("run"))),
    ("process in the credentials file", Given(
        "", "[default]\n" + process_line("run"), files=process("run"))),
    ("process with quotes and blanks", Given(
        "[default]\n" + process_line("my folder"), files=process("my folder"))),
    ("process on two lines", Given(
        "[default]\n" + process_line("run").replace("cat ", "cat\n    "), files=process("run"))),
    ("process is no shell", Given(
        "[default]\n" + process_line("run").rstrip() + " | cat\n", files=process("run"))),

    # Container and instance
    ("container", Given(environ=CONTAINER)),
    ("container with a token", Given(
        environ={**CONTAINER, "AWS_CONTAINER_AUTHORIZATION_TOKEN": "Basic abc"},
        services={"container": {"authorization": "Basic abc"}})),
    ("token of a file over the variable", Given(
        environ={**CONTAINER, "AWS_CONTAINER_AUTHORIZATION_TOKEN": "variable",
                 "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE": "{home}/token"},
        files={"token": "file"}, services={"container": {"authorization": "file"}})),
    ("token file that is nowhere", Given(
        environ={**CONTAINER, "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE": "{home}/token"})),
    ("token with a line break inside", Given(
        environ={**CONTAINER, "AWS_CONTAINER_AUTHORIZATION_TOKEN": "a\r\nb"})),
    ("container of a strange host", Given(
        environ={"AWS_CONTAINER_CREDENTIALS_FULL_URI": "http://169.254.1.1/credentials"})),
    ("container whose credentials have ended", Given(
        environ=CONTAINER, services={"container": {"expiration": utc(-60)}})),
    ("instance", Given(environ=IMDS)),
    ("instance without a role", Given(environ=IMDS, services={"imds": {"role": ""}})),
    ("no instance", Given(
        environ={**IMDS, "AWS_EC2_METADATA_SERVICE_ENDPOINT": fake_aws.refused_url()})),
    ("metadata switched off in capitals", Given(environ={"AWS_EC2_METADATA_DISABLED": "TRUE"})),
    ("metadata endpoint of the profile", Given(
        "[default]\nec2_metadata_service_endpoint = {imds}\n",
        environ={**IMDS, "AWS_EC2_METADATA_SERVICE_ENDPOINT": None})),
    ("unknown endpoint mode", Given(
        environ={**IMDS, "AWS_EC2_METADATA_SERVICE_ENDPOINT_MODE": "IPv5"})),

    # The forms of the two files that all understand
    ("indented comment", Given(
        "[default]\n" + static("X").replace("AKIAX", "AKIAX\n  # mine"))),
    ("indented section", Given("[default]\n  " + static("X").replace("\n", "\n  "))),
    ("name in quotes", Given("[profile 'my own']\n" + static("X"), profile="my own")),
    ("name in double quotes", Given('[profile "base"]\n' + static("X"), profile="base")),
    ("name with other characters", Given("[profile b\u00fc,(1)]\n" + static("X"), profile="b\u00fc,(1)")),
    ("session with a name in quotes", Given(
        SSO.replace("corp]", "'My Corp']").replace("= corp", "= My Corp"),
        files=sso_cache("My Corp", **renewable()))),
]

# Each place by itself, in the order in which they are looked at; `config` and `credentials` are
# properties of one profile. All roles are one, so that two places can name it in that profile.
PLACES = {
    "environment": Given(environ=environment("ENV")),
    "role": Given(f"role_arn = {ARN}app\nsource_profile = base\n"),
    "web identity": Given(environ=WEB_IDENTITY, files=WEB_FILE),
    "web identity of the profile": Given(
        f"role_arn = {ARN}app\nweb_identity_token_file = {{home}}/web\n", files=WEB_FILE),
    "SSO": Given("sso_session = corp\n" + SSO_PROFILE, files=sso_cache("corp")),
    "static keys": Given("", static("SHARED")),
    "static keys in config": Given(static("CONFIG")),
    "login": Given("login_session = arn:me\n", files=login_cache("arn:me")),
    "process": Given(process_line("run"), files=process("run")),
    "container": Given(environ=CONTAINER),
    "instance": Given(environ=IMDS),
}


def together(*places):
    config, credentials = (
        "[default]\n" + "\n".join(dict.fromkeys("".join(texts).splitlines()))
        for texts in zip(*(place[:2] for place in places)))
    environ, files = ({name: value for part in parts for name, value in part.items()}
                      for parts in zip(*(place[2:4] for place in places)))
    return Given(f"{BASE}{SSO_SESSION}{config}", credentials, environ, files)


PAIRS = [
    (f"{one}, {other}", together(PLACES[one], PLACES[other]))
    for one, other in itertools.combinations(PLACES, 2)
    if one != "static keys in config" or other not in ("login", "process")  # see below
]

NOTHING = "nothing configured"
ERROR = "an error"


def keys(name):
    return f"AKIA{name}", f"secret/{name}", None


IMDS_V1 = [answer(404), answer(200, "instance"), answer(200, {
    **dict(zip(("AccessKeyId", "SecretAccessKey", "Token"), fake_aws.role_keys("instance"))),
    "Code": "Success", "Expiration": utc(3600)})]

# Why, the configuration, what botocore makes of it, and what we do.
DIFFERENT_ON_PURPOSE = [
    ("AWS_PROFILE is the variable that AWS documents, AWS_DEFAULT_PROFILE a leftover", Given(
        BASE + "[profile dev]\n" + static("DEV"),
        environ={"AWS_PROFILE": "dev", "AWS_DEFAULT_PROFILE": "base"}), keys("BASE"), keys("DEV")),
    ("an empty variable is one that is not set", Given(
        "[default]\n" + static("CONFIG"), environ={"AWS_PROFILE": ""}), ERROR, keys("CONFIG")),
    ("a blank key is one that is not set", Given(
        "[default]\n" + static("CONFIG"),
        environ={"AWS_ACCESS_KEY_ID": " ", "AWS_SECRET_ACCESS_KEY": " "}),
     (" ", " ", None), keys("CONFIG")),
    ("half of a pair of keys is a mistake, whichever half", Given(
        "[default]\n" + static("CONFIG"), environ={"AWS_SECRET_ACCESS_KEY": "secret"}),
     keys("CONFIG"), ERROR),
    ("half of a pair of keys is a mistake in a profile too", Given(
        "", "[default]\naws_secret_access_key = secret\n"), NOTHING, ERROR),
    ("a profile that is nowhere does no harm until it is looked at", Given(
        environ={**environment("ENV"), "AWS_PROFILE": "gone"}), ERROR, keys("ENV")),
    ("AWS_SECURITY_TOKEN is a name that no other SDK knows", Given(
        environ={**environment("ENV"), "AWS_SECURITY_TOKEN": "session"}),
     (*keys("ENV")[:2], "session"), keys("ENV")),
    ("the environment does not complete a profile's web identity", Given(
        "[default]\nweb_identity_token_file = {home}/web\n",
        environ={"AWS_ROLE_ARN": ARN + "web"}, files=WEB_FILE), fake_aws.role_keys("web"), ERROR),
    ("credential_source in any case", Given(
        role("credential_source = ecscontainer"), environ=CONTAINER),
     ERROR, fake_aws.role_keys("app")),
    ("AWS_REGION before AWS_DEFAULT_REGION", Given(
        role() + BASE, environ={"AWS_REGION": "eu-west-1"},
        services={"sts": {"region": "eu-west-1"}}), ERROR, fake_aws.role_keys("app")),
    ("without a region STS is the global one", Given(
        role() + BASE, environ={"AWS_DEFAULT_REGION": None}), ERROR, fake_aws.role_keys("app")),
    ("a duration that is no number is a mistake", Given(
        role(more="duration_seconds = soon\n") + BASE), fake_aws.role_keys("app"), ERROR),
    ("what breaks is an error, the search does not go on: the instance's role", Given(
        environ=IMDS, services={"imds": {"code": "Failed"}}), NOTHING, ERROR),
    ("what breaks is an error, the search does not go on: the metadata service", Given(
        environ=IMDS, services={"imds": {"faults": [fake_aws.Forever(answer(500))]}}),
     NOTHING, ERROR),
    ("a token of credentials that have ended is dead", Given(
        environ=IMDS, services={"imds": {"expiration": utc(-60)}}),
     fake_aws.role_keys("instance"), ERROR),
    ("version 2 of the metadata service alone", Given(
        environ=IMDS, services={"imds": {"faults": IMDS_V1}}),
     fake_aws.role_keys("instance"), NOTHING),
    ("a line break at the end of a token file is no part of the token", Given(
        environ={**CONTAINER, "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE": "{home}/token"},
        files={"token": "abc\n"}, services={"container": {"authorization": "abc"}}),
     ERROR, fake_aws.role_keys("container")),
    ("a profile's keys come before the programs it names, in either file: process",
     together(PLACES["static keys in config"], PLACES["process"]),
     ("AKIARUN", "s", None), keys("CONFIG")),
    ("a profile's keys come before the programs it names, in either file: login",
     together(PLACES["static keys in config"], PLACES["login"]),
     ("ASIALOGIN", "secret", "session"), keys("CONFIG")),
    ("the files are merged key by key", Given(
        "[default]\naws_session_token = session\n", "[default]\n" + static("SHARED")),
     keys("SHARED"), (*keys("SHARED")[:2], "session")),

    # The files' syntax is that of all SDKs; botocore's is that of Python's configparser.
    ("sections given twice are merged", Given(
        "[default]\nregion = us-east-1\n[default]\n" + static("X")), ERROR, keys("X")),
    ("of a property given twice the last counts", Given(
        "[default]\n" + static("OTHER") + static("X")), ERROR, keys("X")),
    ("[profile default] replaces [default], whatever the order", Given(
        "[profile default]\n" + static("A") + "[default]\n" + static("B")),
     keys("B"), keys("A")),
    ("comments after a value", Given(
        "[default]\n" + static("X").replace("AKIAX", "AKIAX  # mine")),
     ("AKIAX  # mine", "secret/X", None), keys("X")),
    ("a colon is no equals sign", Given(
        "[default]\n" + static("X").replace(" =", ":")), keys("X"), ERROR),
    ("a byte order mark is no part of the file", Given(
        "\ufeff[default]\n" + static("X")), ERROR, keys("X")),
]

SERVERS = {
    "sts": fake_aws.Sts, "sso": fake_aws.SsoPortal, "oidc": fake_aws.Oidc,
    "container": fake_aws.Container, "imds": fake_aws.Imds,
}
ROLES = map(fake_aws.role_keys, ("instance", "container", "web", "Reader"))
STS = {
    "web_identity_token": "web-token",
    "keys": {
        "AKIABASE": ("secret/BASE", None), "AKIASHARED": ("secret/SHARED", None),
        **{key_id: (secret, session_token) for key_id, secret, session_token in ROLES},
    },
}
CACHES = [botocore.credentials.SSOProvider, botocore.tokens.SSOTokenProvider]


@contextlib.contextmanager
def world(given, home, monkeypatch):
    """The environment, the files and the servers of a configuration. Gives the servers."""
    with contextlib.ExitStack() as stack:
        servers = {}
        for name, kind in SERVERS.items():
            settings = STS if name == "sts" else {}
            settings = {**settings, **given.services.get(name, {})}
            servers[name] = stack.enter_context(kind(**settings))

        texts = {"home": str(home), **{name: server.url for name, server in servers.items()}}

        def filled(text):
            return re.sub("{(%s)}" % "|".join(texts), lambda found: texts[found[1]], text)

        files = {".aws/config": given.config, ".aws/credentials": given.credentials}
        for path, content in {**files, **given.files}.items():
            if not isinstance(content, (str, bytes)):
                content = json.dumps(content)
            if isinstance(content, str):
                content = filled(content).encode()
            if content:
                (home / path).parent.mkdir(parents=True, exist_ok=True)
                (home / path).write_bytes(content)

        for name in list(os.environ):
            if name.startswith("AWS_"):
                monkeypatch.delenv(name)
        environ = {
            "HOME": "{home}", "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_ENDPOINT_URL_STS": "{sts}", "AWS_ENDPOINT_URL_SSO": "{sso}",
            "AWS_ENDPOINT_URL_SSO_OIDC": "{oidc}", "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_EC2_METADATA_SERVICE_ENDPOINT": "{imds}", **given.environ,
        }
        for name, value in environ.items():
            if value is not None:
                monkeypatch.setenv(name, filled(value))
        # botocore finds its home when it is imported.
        for cache in CACHES:
            monkeypatch.setattr(cache, "_SSO_TOKEN_CACHE_DIR", str(home / ".aws/sso/cache"))
        yield servers


def botocore_identity(given):
    try:
        session = botocore.session.Session(profile=given.profile)
        chain = session.get_component("credential_provider")
        chain.get_provider("assume-role")._prompter = lambda prompt: "123456"
        credentials = session.get_credentials()
        if credentials is None:
            return NOTHING
        found = credentials.get_frozen_credentials()
    except Exception:  # of any kind: it raises what comes up
        return ERROR
    return found.access_key, found.secret_key, found.token or None


def our_identity(given):
    try:
        found = bt.load_credentials(given.profile, mfa_code=lambda serial: "123456")
    except bt.NoCredentialsError:
        return NOTHING
    except bt.BedrockTokenError:
        return ERROR
    return found.access_key_id, found.secret_access_key, found.session_token


def what_was_asked(servers):
    """The requests to the services, without the session names that a program makes up."""
    for name, server in servers.items():
        for request in server.requests:
            said = request.query
            if name == "sts":
                said = request.form
                if re.fullmatch("(botocore-session|bedrock_token)-[0-9]+", said["RoleSessionName"]):
                    del said["RoleSessionName"]
            elif name == "oidc":
                said = request.json
            yield name, request.line, said


def both(given, folder, monkeypatch):
    """What botocore, and then what we make of it: the identity, and what servers were asked."""
    for name, identity in (("botocore", botocore_identity), ("ours", our_identity)):
        with world(given, folder / name, monkeypatch) as servers:
            yield identity(given), list(what_was_asked(servers))


@pytest.mark.parametrize("given", cases(AGREED + PAIRS))
def test_the_identity_is_that_of_botocore(given, home, monkeypatch):
    (wanted, wanted_requests), (found, requests) = both(given, home, monkeypatch)
    assert found == wanted
    if found not in (NOTHING, ERROR):
        assert requests == wanted_requests


@pytest.mark.parametrize("given, wanted, ours", cases(DIFFERENT_ON_PURPOSE))
def test_the_identity_differs_on_purpose(given, wanted, ours, home, monkeypatch):
    assert [identity for identity, _ in both(given, home, monkeypatch)] == [wanted, ours]
