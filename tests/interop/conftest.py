"""These tests drive the packages in requirements.txt, and are skipped where one is missing.

With BEDROCK_TOKEN_INTEROP=required a missing package is an error.
"""

import os
import re
import tempfile
from importlib import metadata
from pathlib import Path

import pytest


def _missing():
    requirements = Path(__file__).with_name("requirements.txt").read_text(encoding="utf-8")
    for name in re.findall(r"^[\w-]+", requirements, re.MULTILINE):
        try:
            metadata.version(name)
        except metadata.PackageNotFoundError:
            yield name


MISSING = list(_missing())


class _Skipped(pytest.Module):
    def collect(self):
        pytest.skip(f"not installed: {', '.join(MISSING)}")


def pytest_pycollect_makemodule(module_path, parent):
    # What is required and missing fails where it is imported.
    if MISSING and os.environ.get("BEDROCK_TOKEN_INTEROP") != "required":
        return _Skipped.from_parent(parent, path=module_path)
    return None


if "hypothesis" not in MISSING:
    import hypothesis
    import hypothesis.configuration

    # The same examples in every run, and nothing left in the checkout. The deadline is for one
    # example: it finds what hangs, and is out of reach for a busy machine.
    hypothesis.settings.register_profile(
        "interop", derandomize=True, database=None, deadline=5000, max_examples=200,
        suppress_health_check=[hypothesis.HealthCheck.too_slow],
    )
    hypothesis.settings.load_profile("interop")
    _folder = tempfile.TemporaryDirectory()
    hypothesis.configuration.set_hypothesis_home_dir(_folder.name)
