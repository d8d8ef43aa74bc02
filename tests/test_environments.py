"""The environments in envs/: what was generated is current, and every one has what the package asks for, in a version it takes."""

import re
import runpy
import tomllib

import pytest
from injection import ROOT
from packaging.requirements import Requirement

ENVIRONMENTS = runpy.run_path(str(ROOT / "scripts" / "conda_environments.py"))["environments"]()
NEEDED = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_generated_environment_is_current(name: str) -> None:
    assert (ROOT / "envs" / name).read_text() == ENVIRONMENTS[name], "run python scripts/conda_environments.py"


@pytest.mark.parametrize("name", ["cpu.yaml", "gpu.yaml", "vllm.yaml"])
def test_environment_has_what_the_package_asks_for(name: str) -> None:
    pinned = dict(re.findall(r"([\w.-]+)==([\w.]+)", (ROOT / "envs" / name).read_text()))
    versions = {package.lower().replace("_", "-"): version for package, version in pinned.items()}
    for needed in map(Requirement, NEEDED):
        assert versions[needed.name.lower().replace("_", "-")] in needed.specifier, needed
