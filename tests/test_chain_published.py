"""Whole set-ups, as AWS documents them for all of its SDKs: which roles a profile makes one assume,
and where the default chain ends. The situations are those of the SDKs' own suites, the data is ours.

https://docs.aws.amazon.com/sdkref/latest/guide/feature-assume-role-credentials.html
https://docs.aws.amazon.com/sdkref/latest/guide/standardized-credentials.html
"""

import json
import re
import sys
from datetime import timedelta

import pytest

from bedrock_token import (
    BedrockTokenError,
    CredentialsError,
    NoCredentialsError,
    get_token,
    load_credentials,
)
from tests.fake_aws import (
    Container, Forever, Imds, Oidc, SsoPortal, Sts, answer, html, refused_url, role_keys,
)
from tests.helpers import (
    ENV_KEYS, LATER, NOW, WEB_TOKEN, cases, everything_in, key_of, keys, profile, write_home,
)

ACCOUNT = "arn:aws:iam::123456789:role/"
EARLIER = "2020-01-01T00:00:00Z"
WEB = {"AWS_WEB_IDENTITY_TOKEN_FILE": "{home}/web", "AWS_ROLE_ARN": ACCOUNT + "Web"}
FULL_URI = {"AWS_CONTAINER_CREDENTIALS_FULL_URI": "{container}/credentials"}
# With more than its second for three attempts, on a machine that is busy.
IMDS = {"AWS_EC2_METADATA_DISABLED": "false", "AWS_METADATA_SERVICE_TIMEOUT": "5"}


class World:
    """All services at once, and a home with what they need; nothing of it is configured yet."""

    def __init__(self, home, environ, faults):
        signers = {f"AKIA{name}": (f"secret-{name}", None) for name in ("BASE", "A", "B", "DEFAULT")}
        signers["AKIAENV"] = "secret-env", None
        for role in ("container", "instance", "Portal"):
            key_id, secret, session_token = role_keys(role)
            signers[key_id] = secret, session_token
        signers["AKIAPROCESS"] = "secret-PROCESS", "token-PROCESS"
        self.services = {
            "sts": Sts(keys=signers, web_identity_token=WEB_TOKEN), "sso": SsoPortal(),
            "oidc": Oidc(), "container": Container(), "imds": Imds(),
        }
        for name, answers in faults.items():
            self.services[name].faults = list(answers)
        self.home = home
        self.environ = environ

    def __enter__(self):
        for service in self.services.values():
            service.__enter__()
        urls = {name: service.url for name, service in self.services.items()}
        self.values = {"home": str(self.home), "python": sys.executable, "refused": refused_url(), **urls}
        self.environ.update(
            AWS_ENDPOINT_URL_STS=urls["sts"], AWS_ENDPOINT_URL_SSO=urls["sso"],
            AWS_ENDPOINT_URL_SSO_OIDC=urls["oidc"], AWS_EC2_METADATA_SERVICE_ENDPOINT=urls["imds"])
        (self.home / "web").write_text(WEB_TOKEN + "\n")
        (self.home / "authorization").write_text("Basic of-a-file\n")
        return self

    def __exit__(self, *error):
        for service in self.services.values():
            service.__exit__(None, None, None)

    def configure(self, variables, config, credentials):
        self.environ.update({name: self.filled(value) for name, value in variables.items()})
        write_home(self.environ, self.filled(config), self.filled(credentials))

    def filled(self, text):
        for name, value in self.values.items():
            text = text.replace("{%s}" % name, value)
        return text

    @property
    def steps(self):
        """Who was assumed, by which key, with which session name and external id."""
        found = []
        for request in self.services["sts"].requests:
            form = request.form
            signer = request.headers.get("Authorization", "=").partition("=")[2].partition("/")[0]
            own = form["RoleSessionName"] if not form["RoleSessionName"].startswith("bedrock_token-") else ""
            found.append((form["RoleArn"], signer, own, form.get("ExternalId", "")))
        return found

    @property
    def asked(self):
        return {name: len(service.requests) for name, service in self.services.items() if service.requests}


@pytest.fixture
def world(home, environ):
    """A function that makes the world, with faults of its services."""
    worlds = []

    def make(**faults):
        worlds.append(World(home, environ, faults).__enter__())
        return worlds[-1]

    yield make
    for each in worlds:
        each.__exit__()


def role(name, role_name, *lines):
    return profile(name, f"role_arn = {ACCOUNT}{role_name}", *lines)


def step(role_name, signer, session="", external_id=""):
    return ACCOUNT + role_name, signer, session, external_id


# --- what a profile with a role plans ------------------------------------------------------

BASE = "[BASE]\n" + keys("BASE")
PROCESS = "credential_process = {python} -I -S {home}/process.py"
SSO_SESSION = "[sso-session corp]\nsso_region = us-east-1\nsso_start_url = https://corp.awsapps.com/start\n"
SSO_LINES = ("sso_session = corp", "sso_account_id = 123456789012", "sso_role_name = Portal")
LEGACY_LINES = ("sso_start_url = https://corp.awsapps.com/start", "sso_region = us-east-1", *SSO_LINES[1:])

# The config file besides [BASE] in credentials, the variables, the steps that profile p takes.
PLANS = [
    ("static keys, no role", profile("p", *keys("A").splitlines()), {}, []),
    ("a role from a source profile", role("p", "P", "source_profile = BASE"), {}, [step("P", "AKIABASE")]),
    ("the source is in the config file", role("p", "P", "source_profile = a") + profile("a", keys("A")), {},
     [step("P", "AKIAA")]),
    ("the source is the default profile",
     role("p", "P", "source_profile = default") + "[default]\n" + keys("DEFAULT"), {}, [step("P", "AKIADEFAULT")]),
    ("the source is [profile default]",
     role("p", "P", "source_profile = default") + profile("default", keys("DEFAULT")), {},
     [step("P", "AKIADEFAULT")]),
    ("session name and external id",
     role("p", "P", "source_profile = BASE", "role_session_name = me", "external_id = corp-7"), {},
     [step("P", "AKIABASE", "me", "corp-7")]),
    ("two roles, each with its own session name",
     role("p", "P", "source_profile = a", "role_session_name = second")
     + role("a", "A", "source_profile = BASE", "role_session_name = first"), {},
     [step("A", "AKIABASE", "first"), step("P", key_of("A"), "second")]),
    ("two roles: names are not inherited",
     role("p", "P", "source_profile = a") + role("a", "A", "source_profile = BASE", "role_session_name = first",
                                                 "external_id = corp-7"), {},
     [step("A", "AKIABASE", "first", "corp-7"), step("P", key_of("A"))]),
    ("three roles",
     role("p", "P", "source_profile = b") + role("b", "B", "source_profile = a")
     + role("a", "A", "source_profile = BASE"), {},
     [step("A", "AKIABASE"), step("B", key_of("A")), step("P", key_of("B"))]),
    ("a profile that is its own source", role("p", "P", "source_profile = p", *keys("A").splitlines()), {},
     [step("P", "AKIAA")]),
    ("the source is its own source",
     role("p", "P", "source_profile = a") + role("a", "A", "source_profile = a", *keys("A").splitlines()), {},
     [step("P", "AKIAA")]),
    ("keys beside a source are not used", role("p", "P", "source_profile = BASE", *keys("A").splitlines()), {},
     [step("P", "AKIABASE")]),
    ("the source's keys come before its role",
     role("p", "P", "source_profile = a") + role("a", "A", "source_profile = BASE", *keys("A").splitlines()), {},
     [step("P", "AKIAA")]),
    ("role in the config file, source in the credentials file, both halves",
     role("p", "P") + "", {"__credentials__": "[p]\nsource_profile = BASE\n"}, [step("P", "AKIABASE")]),
    ("Environment", role("p", "P", "credential_source = Environment"), ENV_KEYS, [step("P", "AKIAENV")]),
    ("EcsContainer", role("p", "P", "credential_source = EcsContainer"), FULL_URI,
     [step("P", key_of("container"))]),
    ("Ec2InstanceMetadata", role("p", "P", "credential_source = Ec2InstanceMetadata"), IMDS,
     [step("P", key_of("instance"))]),
    ("another case", role("p", "P", "credential_source = ec2instancemetadata"), IMDS,
     [step("P", key_of("instance"))]),
    ("credential_source at the end of a chain",
     role("p", "P", "source_profile = a") + role("a", "A", "credential_source = EcsContainer"), FULL_URI,
     [step("A", key_of("container")), step("P", key_of("A"))]),
    ("a web identity", role("p", "P", "web_identity_token_file = {home}/web"), {}, [step("P", "")]),
    ("a web identity with a session name",
     role("p", "P", "web_identity_token_file = {home}/web", "role_session_name = me"), {}, [step("P", "", "me")]),
    ("a web identity beside a source profile",
     role("p", "P", "web_identity_token_file = {home}/web", "source_profile = BASE"), {}, [step("P", "")]),
    ("a web identity as the source",
     role("p", "P", "source_profile = a") + role("a", "A", "web_identity_token_file = {home}/web"), {},
     [step("A", ""), step("P", key_of("A"))]),
    ("SSO as the source", SSO_SESSION + role("p", "P", "source_profile = a") + profile("a", *SSO_LINES), {},
     [step("P", key_of("Portal"))]),
    ("legacy SSO as the source", role("p", "P", "source_profile = a") + profile("a", *LEGACY_LINES), {},
     [step("P", key_of("Portal"))]),
    ("a program as the source", role("p", "P", "source_profile = a") + profile("a", PROCESS), {},
     [step("P", "AKIAPROCESS")]),
    ("SSO beside a role is not used",
     SSO_SESSION + role("p", "P", "source_profile = BASE", *SSO_LINES), {}, [step("P", "AKIABASE")]),
    ("a program beside a role is not used", role("p", "P", "source_profile = BASE", PROCESS), {},
     [step("P", "AKIABASE")]),
    ("a name in quotes", role("'my corp'", "A", "source_profile = BASE") + role("p", "P", "source_profile = my corp"),
     {}, [step("A", "AKIABASE"), step("P", key_of("A"))]),
    ("indented as a whole", f"[profile p]\n  role_arn = {ACCOUNT}P\n  source_profile = BASE\n", {},
     [step("P", "AKIABASE")]),
]


def prepare(world, expires_at=LATER, more=()):
    """What programs and the AWS CLI's caches say."""
    home = world.home
    (home / "process.py").write_text("print(%r)\n" % json.dumps({
        "Version": 1, "AccessKeyId": "AKIAPROCESS", "SecretAccessKey": "secret-PROCESS",
        "SessionToken": "token-PROCESS", **dict(more)}))
    folder = home / ".aws" / "sso" / "cache"
    folder.mkdir(parents=True)
    # printf corp | sha1sum; printf https://corp.awsapps.com/start | sha1sum
    for name in ("ee0bfd2552fbd840c02cc48b6e823320543c450f", "a51746d4aa793ae07b25e90c3a5db96fc7832bd7"):
        (folder / f"{name}.json").write_text(json.dumps({
            "accessToken": "access-token", "expiresAt": expires_at, "region": "us-east-1",
            "startUrl": "https://corp.awsapps.com/start"}))


@pytest.mark.parametrize("config, variables, want", cases(PLANS))
def test_plan(world, config, variables, want):
    variables = dict(variables)
    here = world()
    prepare(here)
    here.configure({}, config, BASE + variables.pop("__credentials__", ""))
    here.environ.update({name: here.filled(value) for name, value in variables.items()})
    got = load_credentials("p", environ=here.environ)
    assert here.steps == want
    assert got.access_key_id == (key_of("P") if want else "AKIAA")


# The config file besides [BASE], the variables, what the error says; nobody is asked.
NO_PLANS = [
    ("no such profile", "", {}, [r"\bp\b"]),
    ("a role without a source", role("p", "P"), {}, [r"\bp\b", "source_profile", "credential_source"]),
    ("a role with both sources", role("p", "P", "source_profile = BASE", "credential_source = Environment"), ENV_KEYS,
     [r"\bp\b", "source_profile", "credential_source"]),
    ("an empty source", role("p", "P", "source_profile ="), {}, [r"\bp\b", "source_profile"]),
    ("an unknown credential_source", role("p", "P", "credential_source = Moon"), {},
     [r"\bp\b", "Environment", "Ec2InstanceMetadata", "EcsContainer"]),
    ("no such source profile", role("p", "P", "source_profile = nobody"), {}, [r"\bp\b", "nobody"]),
    ("no such source of the source", role("p", "P", "source_profile = a") + role("a", "A", "source_profile = nobody"),
     {}, [r"\bp\b", r"\ba\b", "nobody"]),
    ("a source without credentials", role("p", "P", "source_profile = a") + profile("a", "region = us-east-1"), {},
     [r"\bp\b", r"\ba\b"]),
    ("a source with a role and no source", role("p", "P", "source_profile = a") + role("a", "A"), {},
     [r"\bp\b", r"\ba\b", "source_profile"]),
    ("a circle of one", role("p", "P", "source_profile = p"), {}, [r"\bp\b"]),
    ("a circle of two", role("p", "P", "source_profile = a") + role("a", "A", "source_profile = p"), {},
     [r"\bp\b", r"\ba\b"]),
    ("a circle of three",
     role("p", "P", "source_profile = a") + role("a", "A", "source_profile = b")
     + role("b", "B", "source_profile = p"), {}, [r"\bp\b", r"\ba\b", r"\bb\b"]),
    ("a circle further on",
     role("p", "P", "source_profile = a") + role("a", "A", "source_profile = b")
     + role("b", "B", "source_profile = a"), {}, [r"\ba\b", r"\bb\b"]),
    ("half of the source's keys", role("p", "P", "source_profile = a") + profile("a", "aws_access_key_id = AKIAA"), {},
     [r"\ba\b", "aws_secret_access_key"]),
    ("the other half", role("p", "P", "source_profile = a") + profile("a", "aws_secret_access_key = secret-A"), {},
     [r"\ba\b", "aws_access_key_id"]),
    ("half of its own keys, as its own source", role("p", "P", "source_profile = p", "aws_access_key_id = AKIAA"), {},
     [r"\bp\b", "aws_secret_access_key"]),
    ("Environment without keys", role("p", "P", "credential_source = Environment"), {}, [r"\bp\b", "Environment"]),
    ("Environment with half a pair", role("p", "P", "credential_source = Environment"),
     {"AWS_ACCESS_KEY_ID": "AKIAENV"}, ["AWS_SECRET_ACCESS_KEY"]),
    ("EcsContainer without a URI", role("p", "P", "credential_source = EcsContainer"), {}, [r"\bp\b", "EcsContainer"]),
    ("Ec2InstanceMetadata, switched off", role("p", "P", "credential_source = Ec2InstanceMetadata"), {},
     [r"\bp\b", "Ec2InstanceMetadata"]),
    ("a web identity without a role", profile("p", "web_identity_token_file = {home}/web"), {},
     [r"\bp\b", "role_arn"]),
    ("a web identity whose file is missing", role("p", "P", "web_identity_token_file = {home}/none"), {},
     [r"\bp\b", "none"]),
    ("SSO without an account", SSO_SESSION + profile("p", SSO_LINES[0], SSO_LINES[2]), {},
     [r"\bp\b", "sso_account_id"]),
    ("SSO without a role", SSO_SESSION + profile("p", *SSO_LINES[:2]), {}, [r"\bp\b", "sso_role_name"]),
    ("SSO with a session that is missing", profile("p", *SSO_LINES), {}, [r"\bp\b", "corp"]),
    ("legacy SSO without a region", profile("p", LEGACY_LINES[0], *SSO_LINES[1:]), {}, [r"\bp\b", "sso_region"]),
    ("SSO, session and profile differ", SSO_SESSION + profile("p", *SSO_LINES, "sso_region = eu-west-1"), {},
     [r"\bp\b", "sso_region"]),
]


@pytest.mark.parametrize("config, variables, says", cases(NO_PLANS))
def test_no_plan(world, config, variables, says):
    here = world()
    prepare(here)
    here.configure(variables, config, BASE)
    with pytest.raises(CredentialsError) as raised:
        load_credentials("p", environ=here.environ)
    assert [words for words in says if not re.search(words, str(raised.value))] == []
    assert here.asked == {}
    assert "secret-" not in everything_in(raised.value)


def test_long_chain_of_roles(world):
    here = world()
    names = [f"r{number}" for number in range(12)]
    here.configure({}, "".join(role(name, name.upper(), f"source_profile = {source}")
                               for name, source in zip(names, [*names[1:], "BASE"])), BASE)
    assert load_credentials("r0", environ=here.environ).access_key_id == key_of("R0")
    assert [arn.rpartition("/")[2] for arn, *_ in here.steps] == [name.upper() for name in reversed(names)]


# --- where the chain ends ------------------------------------------------------------------

DEFAULT = "[default]\n" + keys("DEFAULT")
WITH_DEFAULT = ("", DEFAULT)
EVERYTHING = {**ENV_KEYS, **WEB, **FULL_URI, **IMDS}


def everything_but(*names):
    return {**EVERYTHING, **dict.fromkeys(names, "")}


def without_keys(**more):
    return {**everything_but(*ENV_KEYS), **more}


NO_WEB = dict.fromkeys(WEB, "")
NO_CONTAINER = dict.fromkeys(FULL_URI, "")

# Variables, the two files, the key id, what was asked how often, words of the source.
ENDS = [
    ("keys of the environment", ENV_KEYS, "", "", "AKIAENV", {}, "environment"),
    ("they come before all else", EVERYTHING, *WITH_DEFAULT, "AKIAENV", {}, "environment"),
    ("they come before the profile of AWS_PROFILE", {**ENV_KEYS, "AWS_PROFILE": "p"}, profile("p", keys("A")), "",
     "AKIAENV", {}, "environment"),
    ("they come before a role", ENV_KEYS, "[default]\nrole_arn = " + ACCOUNT + "P\nsource_profile = BASE\n", BASE,
     "AKIAENV", {}, "environment"),
    ("with a session token", {**ENV_KEYS, "AWS_SESSION_TOKEN": "token"}, "", "", "AKIAENV", {}, "environment"),
    ("with blanks around them", {name: f" {value}\n" for name, value in ENV_KEYS.items()}, "", "",
     "AKIAENV", {}, "environment"),
    ("blank ones are none", dict.fromkeys(ENV_KEYS, " \t"), *WITH_DEFAULT, "AKIADEFAULT", {}, "profile default"),
    ("empty ones are none", dict.fromkeys(ENV_KEYS, ""), *WITH_DEFAULT, "AKIADEFAULT", {}, "profile default"),

    ("static keys in credentials", {}, *WITH_DEFAULT, "AKIADEFAULT", {}, "profile default"),
    ("static keys in config", {}, DEFAULT, "", "AKIADEFAULT", {}, "profile default"),
    ("static keys in both: credentials", {}, "[default]\n" + keys("A"), DEFAULT, "AKIADEFAULT", {}, "profile default"),
    ("AWS_PROFILE", {"AWS_PROFILE": "a"}, profile("a", keys("A")), DEFAULT, "AKIAA", {}, "profile a"),
    ("AWS_DEFAULT_PROFILE", {"AWS_DEFAULT_PROFILE": "a"}, profile("a", keys("A")), DEFAULT, "AKIAA", {}, "profile a"),
    ("AWS_PROFILE is first of the two", {"AWS_PROFILE": "a", "AWS_DEFAULT_PROFILE": "b"},
     profile("a", keys("A")) + profile("b", keys("B")), "", "AKIAA", {}, "profile a"),
    ("static keys come before container and instance", {**FULL_URI, **IMDS}, *WITH_DEFAULT, "AKIADEFAULT", {},
     "profile default"),
    ("static keys come before a program", {}, "[default]\n" + PROCESS + "\n", DEFAULT, "AKIADEFAULT", {},
     "profile default"),

    ("a role", {"AWS_PROFILE": "p"}, role("p", "P", "source_profile = BASE"), BASE, key_of("P"), {"sts": 1}, "P"),
    ("a role of the default profile", {}, f"[default]\nrole_arn = {ACCOUNT}P\nsource_profile = BASE\n", BASE,
     key_of("P"), {"sts": 1}, "P"),
    ("a role comes before a web identity of the environment", {**WEB, "AWS_PROFILE": "p"},
     role("p", "P", "source_profile = BASE"), BASE, key_of("P"), {"sts": 1}, "P"),
    ("two roles", {"AWS_PROFILE": "p"},
     role("p", "P", "source_profile = a") + role("a", "A", "source_profile = BASE"), BASE, key_of("P"), {"sts": 2},
     "P"),
    ("a role of the container", {**FULL_URI, "AWS_PROFILE": "p"}, role("p", "P", "credential_source = EcsContainer"),
     "", key_of("P"), {"container": 1, "sts": 1}, "P"),
    ("a role of the instance", {**IMDS, "AWS_PROFILE": "p"}, role("p", "P", "credential_source = Ec2InstanceMetadata"),
     "", key_of("P"), {"imds": 3, "sts": 1}, "P"),
    ("a role of SSO", {"AWS_PROFILE": "p"},
     SSO_SESSION + role("p", "P", "source_profile = a") + profile("a", *SSO_LINES), "", key_of("P"),
     {"sso": 1, "sts": 1}, "P"),
    ("a role of a program", {"AWS_PROFILE": "p"}, role("p", "P", "source_profile = a") + profile("a", PROCESS), "",
     key_of("P"), {"sts": 1}, "P"),
    ("a role of a web identity", {"AWS_PROFILE": "p"},
     role("p", "P", "source_profile = a") + role("a", "A", "web_identity_token_file = {home}/web"), "", key_of("P"),
     {"sts": 2}, "P"),

    ("a web identity of the environment", WEB, "", "", key_of("Web"), {"sts": 1}, "web identity"),
    ("it comes before static keys", WEB, *WITH_DEFAULT, key_of("Web"), {"sts": 1}, "web identity"),
    ("it comes before container and instance", without_keys(), "", "", key_of("Web"), {"sts": 1}, "web identity"),
    ("a web identity of the profile", {"AWS_PROFILE": "p"}, role("p", "P", "web_identity_token_file = {home}/web"), "",
     key_of("P"), {"sts": 1}, "P"),
    ("the environment's comes before the profile's", {**WEB, "AWS_PROFILE": "p"},
     role("p", "P", "web_identity_token_file = {home}/web"), "", key_of("Web"), {"sts": 1}, "web identity"),
    ("AWS_ROLE_ARN alone is nothing", {"AWS_ROLE_ARN": ACCOUNT + "Web"}, *WITH_DEFAULT, "AKIADEFAULT", {},
     "profile default"),

    ("an SSO session", {"AWS_PROFILE": "p"}, SSO_SESSION + profile("p", *SSO_LINES), "", key_of("Portal"), {"sso": 1},
     "sso"),
    ("legacy SSO", {"AWS_PROFILE": "p"}, profile("p", *LEGACY_LINES), "", key_of("Portal"), {"sso": 1}, "sso"),
    ("SSO comes before static keys", {"AWS_PROFILE": "p"}, SSO_SESSION + profile("p", *SSO_LINES, keys("A")), "",
     key_of("Portal"), {"sso": 1}, "sso"),
    ("an SSO session alone is for tokens, not for keys", {"AWS_PROFILE": "p"},
     SSO_SESSION + profile("p", SSO_LINES[0], keys("A")), "", "AKIAA", {}, "profile p"),

    ("a program", {"AWS_PROFILE": "p"}, profile("p", PROCESS), "", "AKIAPROCESS", {}, "credential_process"),
    ("a program comes before the container", {**FULL_URI, "AWS_PROFILE": "p"}, profile("p", PROCESS), "",
     "AKIAPROCESS", {}, "credential_process"),

    ("the container", FULL_URI, "", "", key_of("container"), {"container": 1}, "container"),
    ("the container, with profiles that have nothing", FULL_URI, "[default]\nregion = us-east-1\n", "[other]\n",
     key_of("container"), {"container": 1}, "container"),
    ("the container comes before the instance", without_keys(**NO_WEB), "", "", key_of("container"),
     {"container": 1}, "container"),
    ("the container, by a name of this machine",
     {"AWS_CONTAINER_CREDENTIALS_FULL_URI": "{localhost}/credentials"}, "", "", key_of("container"), {"container": 1},
     "container"),

    ("the instance", IMDS, "", "", key_of("instance"), {"imds": 3}, "instance metadata"),
    ("the instance, with profiles that have nothing", IMDS, "[default]\noutput = json\n", "[other]\n",
     key_of("instance"), {"imds": 3}, "instance metadata"),
    ("the instance, after all that is empty", without_keys(**NO_WEB, **NO_CONTAINER), "", "", key_of("instance"),
     {"imds": 3}, "instance metadata"),
    ("not switched off by another word", {"AWS_EC2_METADATA_DISABLED": "1"}, "", "", key_of("instance"), {"imds": 3},
     "instance metadata"),
]


@pytest.mark.parametrize("variables, config, credentials, key_id, asked, source", cases(ENDS))
def test_end_of_the_chain(world, variables, config, credentials, key_id, asked, source):
    here = world()
    prepare(here)
    here.values["localhost"] = here.values["container"].replace("127.0.0.1", "localhost")
    here.configure(variables, config, credentials)
    got = load_credentials(environ=here.environ)
    assert (got.access_key_id, here.asked) == (key_id, asked)
    assert source in got.source
    token = get_token(None, "us-east-1", environ=here.environ)
    assert token.region == "us-east-1"


BROKEN_FILE = "[default]\nthis line has no equals sign\n"

# Variables, the two files, the kind of error, what it says; nobody is asked.
NO_ENDS = [
    ("nothing at all", {}, "", "", NoCredentialsError, []),
    ("empty files", {}, "\n# nothing\n", "; nothing\n", NoCredentialsError, []),
    ("a profile without credentials", {"AWS_PROFILE": "p"}, profile("p", "region = us-east-1"), DEFAULT,
     NoCredentialsError, []),
    ("everything is empty", dict.fromkeys([*ENV_KEYS, *WEB, *FULL_URI, "AWS_PROFILE"], ""), "", "",
     NoCredentialsError, []),
    ("the instance is switched off", {"AWS_EC2_METADATA_DISABLED": "TRUE"}, "", "", NoCredentialsError, []),
    ("AWS_PROFILE of nobody", {**FULL_URI, "AWS_PROFILE": "nobody"}, "", DEFAULT, CredentialsError, ["nobody"]),
    ("half a pair", {"AWS_ACCESS_KEY_ID": "AKIAENV"}, *WITH_DEFAULT, CredentialsError, ["AWS_SECRET_ACCESS_KEY"]),
    ("the other half", {"AWS_SECRET_ACCESS_KEY": "secret-env"}, *WITH_DEFAULT, CredentialsError,
     ["AWS_ACCESS_KEY_ID"]),
    ("keys that have ended", {**ENV_KEYS, "AWS_CREDENTIAL_EXPIRATION": EARLIER}, *WITH_DEFAULT, CredentialsError,
     ["environment"]),
    ("half a pair in a profile", FULL_URI, "[default]\naws_access_key_id = AKIAA\n", "", CredentialsError,
     ["default", "aws_secret_access_key"]),
    ("a broken config file", FULL_URI, BROKEN_FILE, DEFAULT, CredentialsError, ["config", "line 2"]),
    ("a broken credentials file", FULL_URI, "", BROKEN_FILE, CredentialsError, ["credentials", "line 2"]),
    ("a web identity without a role", {"AWS_WEB_IDENTITY_TOKEN_FILE": "{home}/web"}, *WITH_DEFAULT, CredentialsError,
     ["AWS_ROLE_ARN"]),
    ("a web identity whose file is missing", {**WEB, "AWS_WEB_IDENTITY_TOKEN_FILE": "{home}/none"}, *WITH_DEFAULT,
     CredentialsError, ["none"]),
    ("the container's token file is missing",
     {**FULL_URI, **IMDS, "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE": "{home}/none"}, "", "", CredentialsError,
     ["container", "none"]),
    ("a container of another machine", {"AWS_CONTAINER_CREDENTIALS_FULL_URI": "http://192.0.2.1/credentials"}, "", "",
     CredentialsError, ["container", "192.0.2.1"]),
    ("a program that is missing", {"AWS_PROFILE": "p", **FULL_URI},
     profile("p", "credential_process = no-such-program"), "", CredentialsError, ["profile p", "no-such-program"]),
    ("nobody has signed in", {"AWS_PROFILE": "p", **FULL_URI},
     SSO_SESSION.replace("corp]", "other]") + profile("p", "sso_session = other", *SSO_LINES[1:]), "",
     CredentialsError, ["profile p", "aws sso login"]),
]


@pytest.mark.parametrize("variables, config, credentials, kind, says", cases(NO_ENDS))
def test_no_end_of_the_chain(world, variables, config, credentials, kind, says):
    here = world()
    prepare(here)
    here.configure(variables, config, credentials)
    with pytest.raises(BedrockTokenError) as raised:
        load_credentials(environ=here.environ)
    assert type(raised.value) is kind
    assert [words for words in says if words not in str(raised.value)] == []
    assert here.asked == {}
    assert "secret-" not in everything_in(raised.value)


XML_503 = answer(503, "<ErrorResponse><Error><Code>ServiceUnavailable</Code></Error></ErrorResponse>")
SSO_P = SSO_SESSION + profile("p", *SSO_LINES)
ROLE_P = role("p", "P", "source_profile = BASE")

# Faults of the services, variables and config; the key id, or what the error says.
TROUBLE = [
    ("STS, once", {"sts": [XML_503]}, {"AWS_PROFILE": "p"}, ROLE_P, key_of("P")),
    ("STS, twice", {"sts": [XML_503] * 2}, {"AWS_PROFILE": "p"}, ROLE_P, key_of("P")),
    ("STS, for good", {"sts": [Forever(XML_503)]}, {"AWS_PROFILE": "p"}, ROLE_P, ["profile p", "503"]),
    ("STS refuses", {"sts": [answer(403, "<Error><Code>AccessDenied</Code></Error>")]}, {"AWS_PROFILE": "p"}, ROLE_P,
     ["profile p", "AccessDenied"]),
    ("STS refuses the token of a web identity",
     {"sts": [answer(400, "<Error><Code>InvalidIdentityToken</Code></Error>")]}, WEB, "",
     ["web identity", "InvalidIdentityToken"]),
    ("STS answers nonsense", {"sts": [Forever(html())]}, {"AWS_PROFILE": "p"}, ROLE_P, ["profile p"]),
    ("the SSO portal, once", {"sso": [answer(500, {})]}, {"AWS_PROFILE": "p"}, SSO_P, key_of("Portal")),
    ("the SSO portal, for good", {"sso": [Forever(answer(500, {}))]}, {"AWS_PROFILE": "p"}, SSO_P,
     ["profile p", "500"]),
    ("the SSO portal refuses", {"sso": [answer(401, {"message": "Session token not found or invalid"})]},
     {"AWS_PROFILE": "p"}, SSO_P, ["profile p", "401", "aws sso login"]),
    ("the SSO portal knows no such role", {"sso": [answer(403, {"message": "No access"})]}, {"AWS_PROFILE": "p"}, SSO_P,
     ["profile p", "403", "No access"]),
    ("the container, once", {"container": [answer(503)]}, FULL_URI, "", key_of("container")),
    ("the container, for good", {"container": [Forever(answer(500))]}, {**FULL_URI, **IMDS}, "", ["container", "500"]),
    ("the container refuses", {"container": [answer(404, {"code": "NotFound", "message": "no role"})]},
     {**FULL_URI, **IMDS}, "", ["container", "404"]),
    ("the container answers nonsense", {"container": [answer(200, "{")]}, FULL_URI, "", ["container"]),
    ("the container's keys have ended",
     {"container": [answer(200, {"AccessKeyId": "A", "SecretAccessKey": "s", "Token": "t", "Expiration": EARLIER})]},
     FULL_URI, "", ["container", "expired"]),
    ("the instance's token, once", {"imds": [answer(500)]}, IMDS, "", key_of("instance")),
    ("the instance's role, once", {"imds": [None, answer(500)]}, IMDS, "", key_of("instance")),
    ("the instance's keys, once", {"imds": [None, None, answer(503)]}, IMDS, "", key_of("instance")),
    ("the instance's keys, for good", {"imds": [None, None, Forever(answer(500))]}, IMDS, "",
     ["instance metadata", "500"]),
    ("an instance without a role", {"imds": [None, Forever(answer(404))]}, IMDS, "", None),
    ("the instance's metadata is switched off", {"imds": [Forever(answer(403))]}, IMDS, "", None),
    ("nobody at the instance's address", {}, {**IMDS, "AWS_EC2_METADATA_SERVICE_ENDPOINT": "{refused}"}, "", None),
    ("the instance has no keys for its role",
     {"imds": [None, None, answer(200, {"Code": "AssumeRoleUnauthorizedAccess"})]}, IMDS, "", ["instance metadata"]),
]


@pytest.mark.parametrize("faults, variables, config, want", cases(TROUBLE))
def test_trouble_on_the_way(world, faults, variables, config, want):
    here = world(**faults)
    prepare(here)
    here.configure(variables, config, BASE)
    if isinstance(want, str):
        assert load_credentials(environ=here.environ).access_key_id == want
        return
    with pytest.raises(BedrockTokenError) as raised:
        load_credentials(environ=here.environ)
    assert type(raised.value) is (NoCredentialsError if want is None else CredentialsError)
    assert [words for words in want or [] if words not in str(raised.value)] == []
    assert "secret-" not in everything_in(raised.value)


# What a program says, as its source code; the key id, or what the error says.
PROGRAMS = [
    ("keys", 'print(json.dumps({"Version": 1, "AccessKeyId": "AKIAX", "SecretAccessKey": "s"}))', "AKIAX"),
    ("an account id too", 'print(json.dumps({"Version": 1, "AccessKeyId": "AKIAX", "SecretAccessKey": "s",'
     ' "AccountId": "123456789012"}))', "AKIAX"),
    ("an end to come", 'print(json.dumps({"Version": 1, "AccessKeyId": "AKIAX", "SecretAccessKey": "s",'
     f' "SessionToken": "t", "Expiration": "{LATER}"}}))', "AKIAX"),
    ("an end that has passed", 'print(json.dumps({"Version": 1, "AccessKeyId": "AKIAX", "SecretAccessKey": "s",'
     f' "Expiration": "{EARLIER}"}}))', ["expired"]),
    ("another version", 'print(json.dumps({"Version": 2, "AccessKeyId": "AKIAX", "SecretAccessKey": "s"}))',
     ["Version"]),
    ("no version", 'print(json.dumps({"AccessKeyId": "AKIAX", "SecretAccessKey": "s"}))', ["Version"]),
    ("no secret", 'print(json.dumps({"Version": 1, "AccessKeyId": "AKIAX"}))', ["SecretAccessKey"]),
    ("no id", 'print(json.dumps({"Version": 1, "SecretAccessKey": "secret-X"}))', ["AccessKeyId"]),
    ("no JSON", 'print("secret-X")', ["JSON"]),
    ("nothing", "", ["JSON"]),
    ("a list", 'print("[1]")', ["JSON"]),
    ("a status", 'sys.exit("no such user")', ["status 1", "no such user"]),
    ("keys and a status", 'print(json.dumps({"Version": 1, "AccessKeyId": "AKIAX", "SecretAccessKey": "secret-X"}));'
     "sys.exit(3)", ["status 3"]),
]


@pytest.mark.parametrize("code, want", cases(PROGRAMS))
def test_program(environ, home, code, want):
    (home / "a program.py").write_text(f"import json, sys\n{code}\n")
    write_home(environ, profile("p", f'credential_process = "{sys.executable}" -I -S "{home / "a program.py"}" --flag'))
    if isinstance(want, str):
        assert load_credentials("p", environ=environ).access_key_id == want
        return
    with pytest.raises(CredentialsError) as raised:
        load_credentials("p", environ=environ)
    assert "profile p" in str(raised.value)
    assert [words for words in want if words not in str(raised.value)] == []
    assert "secret-X" not in everything_in(raised.value)


# The variables and what the Authorization header says.
@pytest.mark.parametrize("variables, sent", cases([
    ("none", {}, None),
    ("variable", {"AWS_CONTAINER_AUTHORIZATION_TOKEN": "Basic of-a-variable"}, "Basic of-a-variable"),
    ("file", {"AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE": "{home}/authorization"}, "Basic of-a-file"),
    ("file before variable", {"AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE": "{home}/authorization",
                              "AWS_CONTAINER_AUTHORIZATION_TOKEN": "Basic of-a-variable"}, "Basic of-a-file"),
]))
def test_authorization_of_the_container(world, variables, sent):
    here = world()
    here.services["container"].authorization = sent
    here.configure({**FULL_URI, **variables}, "", "")
    assert load_credentials(environ=here.environ).access_key_id == key_of("container")


def test_token_ends_with_the_credentials_of_the_chain(world):
    here = world()
    here.services["container"].expiration = "2025-07-01T13:00:00Z"
    here.configure(FULL_URI, "", "")
    token = get_token(None, "us-east-1", environ=here.environ, now=NOW)
    assert token.expiration == NOW + timedelta(hours=1)


@pytest.mark.parametrize("expires_at", [EARLIER, "2020-01-01T00:00:00UTC"])
def test_sso_session_that_has_ended(world, expires_at):
    here = world()
    prepare(here, expires_at=expires_at)
    here.configure({"AWS_PROFILE": "p", **FULL_URI}, SSO_P, "")
    with pytest.raises(CredentialsError, match="aws sso login"):
        load_credentials(environ=here.environ)
    assert here.asked == {}
