"""Instance metadata in a container, where the answer to the PUT does not come through."""

import pytest

from bedrock_token import CredentialsError, NoCredentialsError, load_credentials
from tests.fake_aws import Forever, Imds, hang, html, refused_url
from tests.helpers import ARN, cases, profile, write_home


@pytest.fixture
def metadata(environ):
    with Imds() as fake:
        del environ["AWS_EC2_METADATA_DISABLED"]
        environ.update(AWS_EC2_METADATA_SERVICE_ENDPOINT=fake.url,
                       AWS_METADATA_SERVICE_TIMEOUT="0.3")
        yield fake


def test_hop_limit(environ, metadata):
    """What may travel one hop dies before the container, though the connection stands."""
    metadata.faults = [Forever(hang)]
    with pytest.raises(NoCredentialsError) as caught:
        load_credentials(environ=environ)
    assert "hop limit" in str(caught.value)
    assert "2" in str(caught.value).partition("hop limit")[2]
    assert "no role" not in str(caught.value)
    # Never is anything asked without a token: there is no version 1.
    assert [request.method for request in metadata.requests] == ["PUT"]


def test_hop_limit_below_a_role(environ, metadata):
    metadata.faults = [Forever(hang)]
    write_home(environ, profile("p", f"role_arn = {ARN}P", "credential_source = Ec2InstanceMetadata"))
    with pytest.raises(CredentialsError, match="profile p.*hop limit must be 2"):
        load_credentials("p", environ=environ)


def test_no_hop_limit_where_no_connection_stands(environ, nobody_answers):
    del environ["AWS_EC2_METADATA_DISABLED"]
    with pytest.raises(NoCredentialsError) as caught:
        load_credentials(environ=environ)
    assert caught.value.places[-1] == "instance metadata (EC2): no answer"
    assert set(nobody_answers) == {("169.254.169.254", 80)}


@pytest.mark.parametrize("fault, url", cases([
    ("nobody is there", None, refused_url()),
    ("the PUT is refused", html(404), None),
]))
def test_no_hop_limit(environ, metadata, fault, url):
    metadata.faults = [Forever(fault)]
    if url:
        environ["AWS_EC2_METADATA_SERVICE_ENDPOINT"] = url
    with pytest.raises(NoCredentialsError) as caught:
        load_credentials(environ=environ)
    assert "hop limit" not in str(caught.value)
