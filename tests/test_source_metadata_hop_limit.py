"""Instance metadata in a container, where the answer to the PUT does not come through."""

import pytest

from bedrock_token import CredentialsError, NoCredentialsError, load_credentials
from tests.fake_aws import Forever, Imds, hang, html
from tests.helpers import cases


def imds(put, get):
    """Answers PUT with one and GET with the other."""
    def send(handler):
        (put if handler.command == "PUT" else get)(handler)
    return [Forever(send)]


@pytest.fixture
def metadata(environ):
    with Imds() as fake:
        del environ["AWS_EC2_METADATA_DISABLED"]
        environ.update(AWS_EC2_METADATA_SERVICE_ENDPOINT=fake.url,
                       AWS_METADATA_SERVICE_TIMEOUT="0.3")
        yield fake


def test_hop_limit(environ, metadata):
    """What may travel one hop dies before the container, while a plain refusal comes through."""
    metadata.faults = imds(hang, html(401, "Unauthorized"))
    with pytest.raises((CredentialsError, NoCredentialsError)) as caught:
        load_credentials(environ=environ)
    assert "hop limit" in str(caught.value)
    assert "2" in str(caught.value).partition("hop limit")[2]
    assert "no role there" not in str(caught.value)
    assert [request.method for request in metadata.requests] == ["PUT", "GET"]
    assert "x-aws-ec2-metadata-token" not in metadata.requests[1].headers


@pytest.mark.parametrize("put, get", cases([
    ("nobody answers", hang, hang),
    ("another service answers", hang, html(200)),
    ("the PUT is refused", html(404), html(401)),
]))
def test_no_hop_limit(environ, metadata, put, get):
    metadata.faults = imds(put, get)
    with pytest.raises(NoCredentialsError) as caught:
        load_credentials(environ=environ)
    assert "hop limit" not in str(caught.value)
