"""Credentials, and the region, of an instance."""

import pytest

from bedrock_token import (
    Credentials,
    CredentialsError,
    NoCredentialsError,
    NoRegionError,
    TokenProvider,
    get_token,
    load_credentials,
    load_region,
)
from tests.fake_aws import (
    Container, Forever, Imds, Proxy, answer, hang, html, redirect, refused_url, role_keys,
)
from tests.helpers import ENV_KEYS, IN_AN_HOUR, cases, check_side_by_side, keys, rfc3339, write_home


# --- instance metadata ---------------------------------------------------------------------

@pytest.fixture
def imds(environ):
    """The metadata of an instance; longer than by default is waited for it, on a busy machine."""
    with Imds(expiration=rfc3339(IN_AN_HOUR), region="eu-central-1") as fake:
        environ.update(AWS_EC2_METADATA_DISABLED="false", AWS_METADATA_SERVICE_TIMEOUT="5",
                       AWS_EC2_METADATA_SERVICE_ENDPOINT=fake.url)
        yield fake


ROLES = "/latest/meta-data/iam/security-credentials/"


def last_place(error):
    """What is said of the last place that was looked in."""
    assert error.places[-1].startswith("instance metadata ")
    return error.places[-1]


def test_instance_metadata(environ, imds):
    key_id, secret, session_token = role_keys("instance")
    assert load_credentials(environ=environ) == Credentials(
        key_id, secret, session_token, IN_AN_HOUR, "instance metadata")
    assert [request.line for request in imds.requests] == [
        "PUT /latest/api/token", f"GET {ROLES}", f"GET {ROLES}instance"]
    ttl = "x-aws-ec2-metadata-token-ttl-seconds"
    assert [request.headers.get(ttl) for request in imds.requests] == ["21600", None, None]
    token = "x-aws-ec2-metadata-token"
    assert [request.headers.get(token) for request in imds.requests] == [
        None, "metadata-token-1==", "metadata-token-1=="]
    assert [request.body for request in imds.requests] == [b"", b"", b""]


def test_document_without_a_code(environ, imds):
    key_id, secret, session_token = role_keys("instance")
    imds.faults = [None, None, answer(200, {
        "AccessKeyId": key_id, "SecretAccessKey": secret, "Token": session_token,
        "Expiration": rfc3339(IN_AN_HOUR)})]
    assert load_credentials(environ=environ).access_key_id == key_id


def test_no_proxy_for_instance_metadata(environ, imds):
    with Proxy() as proxy:
        environ.update(HTTP_PROXY=proxy.url, http_proxy=proxy.url)
        assert load_credentials(environ=environ).source == "instance metadata"
    assert proxy.requests == []


# Faults in the order of the requests; how many there are; what is said of this place.
NOT_THERE = [
    ("no role", [None, answer(404)], 2, "no role"),
    ("no name of a role", [None, answer(200)], 2, "no role"),
    ("not found", [answer(404)], 1, "404"),
    ("forbidden", [answer(403)], 1, "403"),
    ("method not allowed", [answer(405)], 1, "405"),
]


@pytest.mark.parametrize("faults, count, says", cases(NOT_THERE))
def test_instance_that_has_none(environ, imds, faults, count, says):
    imds.faults = list(faults)
    with pytest.raises(NoCredentialsError) as raised:
        load_credentials(environ=environ)
    assert says in last_place(raised.value)
    assert len(imds.requests) == count


# Never does a request without a token follow: there is no version 1.
BROKEN = [
    ("no token: bad request", [answer(400)]),
    ("no token: redirect", [redirect("http://127.0.0.1:1/")]),
    ("empty token", [answer(200)]),
    ("token with a line break", [answer(200, "a\nb")]),
    ("a page instead of a token", [html()]),
    ("token refused", [None, answer(401)]),
    ("a page instead of a role", [None, html()]),
    ("role that leads elsewhere", [None, answer(200, "../../user-data?x")]),
    ("role redirected", [None, redirect("http://127.0.0.1:1/")]),
    ("no keys for the role", [None, None, answer(404)]),
    ("keys refused", [None, None, answer(401)]),
    ("keys redirected", [None, None, redirect("http://127.0.0.1:1/")]),
]


@pytest.mark.parametrize("faults", cases(BROKEN))
def test_broken_instance_metadata(environ, imds, faults):
    imds.faults = list(faults)
    with pytest.raises(CredentialsError, match="instance metadata"):
        load_credentials(environ=environ)
    assert len(imds.requests) == len(faults)


@pytest.mark.parametrize("code", ["AssumeRoleUnauthorizedAccess", "Failed", "success"])
def test_role_without_success(environ, imds, code):
    imds.code = code
    with pytest.raises(CredentialsError, match="instance metadata.*instance"):
        load_credentials(environ=environ)


@pytest.mark.parametrize("value", ["true", "True", "TRUE", " true "])
def test_disabled(environ, imds, value):
    environ["AWS_EC2_METADATA_DISABLED"] = value
    with pytest.raises(NoCredentialsError) as raised:
        load_credentials(environ=environ)
    assert "AWS_EC2_METADATA_DISABLED" in last_place(raised.value)
    assert imds.requests == []


@pytest.mark.parametrize("value", ["", "false", "1", "yes"])
def test_not_disabled(environ, imds, value):
    environ["AWS_EC2_METADATA_DISABLED"] = value
    assert load_credentials(environ=environ).source == "instance metadata"


def test_endpoint_of_the_profile(environ, imds):
    del environ["AWS_EC2_METADATA_SERVICE_ENDPOINT"]
    for line in (f"ec2_metadata_service_endpoint = {imds.url}",
                 # with the mode, the address still counts
                 f"ec2_metadata_service_endpoint_mode = IPv6\n"
                 f"ec2_metadata_service_endpoint = {imds.url}/"):
        write_home(environ, f"[default]\n{line}\n")
        assert load_credentials(environ=environ).source == "instance metadata"


def test_endpoint_variable_over_profile(environ, imds):
    write_home(environ, "[default]\nec2_metadata_service_endpoint = http://127.0.0.1:1\n")
    assert load_credentials(environ=environ).source == "instance metadata"


def at_once(environ):
    """Without the endpoint, and patient for one attempt alone."""
    return {**environ, "AWS_EC2_METADATA_DISABLED": "", "AWS_METADATA_SERVICE_TIMEOUT": "0.05"}


# A variable, a line of the profile, and who is asked.
MODES = [
    ("default", {}, "", ("169.254.169.254", 80)),
    ("IPv4", {"AWS_EC2_METADATA_SERVICE_ENDPOINT_MODE": "IPv4"}, "", ("169.254.169.254", 80)),
    ("IPv6", {"AWS_EC2_METADATA_SERVICE_ENDPOINT_MODE": "IPv6"}, "", ("fd00:ec2::254", 80)),
    ("ipv6", {"AWS_EC2_METADATA_SERVICE_ENDPOINT_MODE": "ipv6"}, "", ("fd00:ec2::254", 80)),
    ("blank", {"AWS_EC2_METADATA_SERVICE_ENDPOINT_MODE": " "}, "", ("169.254.169.254", 80)),
    ("profile", {}, "ec2_metadata_service_endpoint_mode = IPV6", ("fd00:ec2::254", 80)),
    ("variable over profile", {"AWS_EC2_METADATA_SERVICE_ENDPOINT_MODE": "ipv4"},
     "ec2_metadata_service_endpoint_mode = IPv6", ("169.254.169.254", 80)),
]


@pytest.mark.parametrize("variables, line, want", cases(MODES))
def test_endpoint_mode(environ, nobody_answers, variables, line, want):
    write_home(environ, f"[default]\n{line}\n")
    with pytest.raises(NoCredentialsError):
        load_credentials(environ={**at_once(environ), **variables})
    assert set(nobody_answers) == {want}


@pytest.mark.parametrize("variable, value", [
    ("AWS_EC2_METADATA_SERVICE_ENDPOINT_MODE", "IPv5"),
    ("AWS_EC2_METADATA_SERVICE_ENDPOINT_MODE", "6"),
    ("AWS_EC2_METADATA_SERVICE_ENDPOINT", "169.254.169.254"),
    ("AWS_EC2_METADATA_SERVICE_ENDPOINT", "ftp://169.254.169.254"),
    ("AWS_EC2_METADATA_SERVICE_ENDPOINT", "http://"),
    ("AWS_EC2_METADATA_SERVICE_ENDPOINT", "http://user@169.254.169.254"),
    ("AWS_METADATA_SERVICE_TIMEOUT", "0"),
    ("AWS_METADATA_SERVICE_TIMEOUT", "-1"),
    ("AWS_METADATA_SERVICE_TIMEOUT", "soon"),
    ("AWS_METADATA_SERVICE_TIMEOUT", "nan"),
    ("AWS_METADATA_SERVICE_TIMEOUT", "inf"),
    ("AWS_METADATA_SERVICE_NUM_ATTEMPTS", "0"),
    ("AWS_METADATA_SERVICE_NUM_ATTEMPTS", "1.5"),
    ("AWS_METADATA_SERVICE_NUM_ATTEMPTS", "x"),
    ("AWS_METADATA_SERVICE_NUM_ATTEMPTS", "9" * 400),
])
def test_malformed_setting(environ, variable, value):
    environ.update({"AWS_EC2_METADATA_DISABLED": "", variable: value})
    with pytest.raises(CredentialsError, match="METADATA_SERVICE"):
        load_credentials(environ=environ)


def test_nobody_there(environ, nobody_answers):
    environ["AWS_EC2_METADATA_DISABLED"] = ""
    with pytest.raises(NoCredentialsError) as raised:
        load_credentials(environ=environ)
    assert set(nobody_answers) == {("169.254.169.254", 80)}
    assert "no answer" in last_place(raised.value)


def late(handler):
    """A token for the metadata, after more than the second that is waited by default."""
    handler.fake.stopping.wait(1.5)
    answer(200, "late-token==")(handler)


# Faults, variables, how many requests there are, and the error.
IMPATIENCE = [
    ("default", [Forever(hang)], {}, 1, NoCredentialsError),
    ("timeout", [Forever(hang)], {"AWS_METADATA_SERVICE_TIMEOUT": "0.1"}, 1, NoCredentialsError),
    ("keys", [None, None, Forever(hang)], {"AWS_METADATA_SERVICE_TIMEOUT": "0.4"}, 3,
     CredentialsError),
]


def test_impatience(environ):
    def check(faults, variables, count, error):
        with Imds(faults=faults) as imds:
            with pytest.raises(error):
                load_credentials(environ={
                    **environ, "AWS_EC2_METADATA_DISABLED": "", "AWS_EC2_METADATA_SERVICE_ENDPOINT": imds.url,
                    **variables})
        assert len(imds.requests) == count

    check_side_by_side(check, IMPATIENCE)


def test_patience(environ):
    write_home(environ, "[profile p]\nmetadata_service_timeout = 20\n")

    def check(variables):
        with Imds(faults=[late], tokens=("late-token==",)) as imds:
            found = load_credentials(environ={
                **environ, "AWS_EC2_METADATA_DISABLED": "", "AWS_EC2_METADATA_SERVICE_ENDPOINT": imds.url,
                **variables})
        assert found.source == "instance metadata"

    check_side_by_side(check, [
        ("variable", {"AWS_METADATA_SERVICE_TIMEOUT": "20"}),
        ("attempts", {"AWS_METADATA_SERVICE_NUM_ATTEMPTS": "20"}),
        ("profile", {"AWS_PROFILE": "p"})])


# --- the region of the instance ------------------------------------------------------------

def region_of_a_token(environ):
    return get_token(environ=environ).region


BOTH = [region_of_a_token, lambda environ: load_region(environ=environ)]
BOTH_IDS = ["get_token", "load_region"]


@pytest.mark.parametrize("region_of", BOTH, ids=BOTH_IDS)
@pytest.mark.parametrize("text", ["eu-central-1", "us-gov-west-1", "eu-central-1\n"], ids=repr)
def test_region(environ, imds, region_of, text):
    imds.region = text
    assert region_of(environ) == text.strip()
    assert imds.requests[-1].line == "GET /latest/meta-data/placement/region"
    assert imds.requests[-1].headers["x-aws-ec2-metadata-token"] in imds.tokens


@pytest.mark.parametrize("region_of", BOTH, ids=BOTH_IDS)
@pytest.mark.parametrize("variables", [{"AWS_REGION": "us-west-2"},
                                       {"AWS_DEFAULT_REGION": "us-west-2"}, {}], ids=str)
def test_configured_region_comes_first(environ, imds, region_of, variables):
    write_home(environ, "[default]\nregion = us-west-2\n" if not variables else "")
    assert region_of({**environ, **variables}) == "us-west-2"
    assert [request for request in imds.requests if "region" in request.path] == []


def test_configured_region_needs_no_credentials(environ, imds):
    assert load_region(environ={**environ, "AWS_REGION": "us-west-2"}) == "us-west-2"
    assert imds.requests == []


def test_region_of_a_provider(environ, imds):
    imds.region = "eu-central-1"
    assert TokenProvider(environ=environ)().region == "eu-central-1"


def test_argument_comes_first(environ, imds):
    assert get_token(None, "us-west-2", environ=environ).region == "us-west-2"
    assert [request for request in imds.requests if "region" in request.path] == []


@pytest.mark.parametrize("region_of", BOTH, ids=BOTH_IDS)
@pytest.mark.parametrize("text", [None, " ", "nowhere/evil", "<html></html>"], ids=repr)
def test_no_region(environ, imds, region_of, text):
    imds.region = text
    with pytest.raises(NoRegionError):
        region_of(environ)


@pytest.mark.parametrize("region_of", BOTH, ids=BOTH_IDS)
@pytest.mark.parametrize("fault", [answer(403), html(), redirect("http://127.0.0.1:1/")],
                         ids=["forbidden", "page", "redirect"])
def test_region_that_is_refused(environ, imds, region_of, fault):
    """What is missing is named, whoever does not tell it."""
    imds.faults = [None] * 4 + [fault]
    with pytest.raises(NoRegionError, match="AWS_REGION"):
        region_of(environ)


@pytest.mark.parametrize("region_of", BOTH, ids=BOTH_IDS)
def test_no_region_from_the_instance_for_the_container(environ, imds, region_of):
    with Container() as container:
        environ["AWS_CONTAINER_CREDENTIALS_FULL_URI"] = container.url + "/credentials"
        with pytest.raises(NoRegionError):
            region_of(environ)
    assert imds.requests == []


@pytest.mark.parametrize("region_of", BOTH, ids=BOTH_IDS)
@pytest.mark.parametrize("variables", [ENV_KEYS, {"AWS_PROFILE": "dev"}], ids=["keys", "profile"])
def test_no_region_from_the_instance_for_others(environ, imds, region_of, variables):
    write_home(environ, "[profile dev]\n" + keys("DEV"))
    with pytest.raises(NoRegionError):
        region_of({**environ, **variables})
    assert imds.requests == []


def test_no_region_from_the_instance_for_given_credentials(environ, imds):
    given = Credentials("AKIAGIVEN", "secret", source="instance metadata")
    with pytest.raises(NoRegionError):
        get_token(given, environ=environ)
    with pytest.raises(NoRegionError):
        TokenProvider(given, environ=environ)()
    assert imds.requests == []


def test_no_region_where_nothing_is_configured(environ):
    with pytest.raises(NoRegionError):
        load_region(environ=environ)
    with pytest.raises(NoRegionError):
        load_region(environ={**at_once(environ),
                             "AWS_EC2_METADATA_SERVICE_ENDPOINT": refused_url()})
