"""The host of every service in every region is the one that botocore's own rules give."""

import itertools

import botocore.loaders
import pytest
from botocore.endpoint_provider import EndpointProvider

import bedrock_token as bt

LOADER = botocore.loaders.create_loader()
PARTITIONS = LOADER.load_data("partitions")
# Made-up ones too: a file that travels meets regions that it was not told of.
REGIONS = [
    region for partition in PARTITIONS["partitions"] for region in partition["regions"]
    if not region.endswith("-global")
] + ["us-west-9", "us-gov-north-9", "cn-south-9", "us-iso-north-9", "us-isob-north-9",
     "us-isof-north-9", "eu-isoe-north-9", "eusc-de-north-9", "xx-new-9"]
SERVICES = {"sts": "sts", "sso": "sso", "sso-oidc": "sso_oidc", "bedrock": "bedrock",
            "bedrock-runtime": "bedrock_runtime"}


def endpoint(service, region, environ, **settings):
    """Ours, with what is set in the environment."""
    variables = {f"AWS_{name.upper()}": str(value).lower() for name, value in settings.items()}
    return bt._endpoint(bt._Settings({**environ, **variables}), SERVICES[service], region)


def rules_of(service):
    return EndpointProvider(LOADER.load_service_model(service, "endpoint-rule-set-1"), PARTITIONS)


@pytest.mark.parametrize("service", SERVICES)
def test_the_host_is_that_of_botocore(service, environ):
    rules = rules_of(service)
    for region, fips, dualstack in itertools.product(REGIONS, (False, True), (False, True)):
        wanted = rules.resolve_endpoint(Region=region, UseFIPS=fips, UseDualStack=dualstack)
        found = endpoint(
            service, region, environ, use_fips_endpoint=fips, use_dualstack_endpoint=dualstack)
        assert found == wanted.url
