"""Draw docs/dag.svg: the rules of the workflow, all runs of adaptation as one, without what follows from other arrows.

    python scripts/draw_dag.py

Needs Graphviz (`dot`, `tred`) beside an installed environment.
"""

import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LEFT_OUT = ("all", "record_config", "tasks")
ADAPT = "adapt (a job for each run)"
POLICY, EVALUATOR, ADAPTATION, RESULTS = "#0072B2", "#D55E00", "#009E73", "#6E6E6E"
COLOURS = {
    POLICY: ("fetch_policy", "rlvr_train", "sample_k64", "score_logprobs", "score_logprobs_base", "select"),
    EVALUATOR: ("compile_and_time", "null_audit", "time_experts"),
    ADAPTATION: (ADAPT, "best_of_adaptation", "nll_probe"),
}


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:  # where nothing is done yet
        workflow = ["snakemake", "--snakefile", ROOT / "Snakefile", "--configfile", ROOT / "config.yaml"]
        found = run([*workflow, "--directory", folder, "--rulegraph", "--", "all"])
    labels = re.findall(r'(\d+)\[label = "([^"]+)"', found)
    names = {number: ADAPT if label.startswith("adapt_") else label for number, label in labels}
    arrows = {(names[one], names[other]) for one, other in re.findall(r"(\d+) -> (\d+)", found)}
    shown = sorted(set(names.values()) - set(LEFT_OUT))
    lines = [f'"{name}" [color="{colour_of(name)}"]' for name in shown]
    lines += [f'"{one}" -> "{other}"' for one, other in sorted(arrows) if one != other and {one, other} <= set(shown)]
    style = "rankdir=LR; ranksep=0.35; nodesep=0.15; "
    style += 'node [shape=box, style=rounded, fontname="sans", fontsize=11, penwidth=2];'
    reduced = run(["tred"], f"digraph dag {{ {style} edge [color=grey, penwidth=1.5]; {'; '.join(lines)} }}")
    (ROOT / "docs/dag.svg").write_text(run(["dot", "-Tsvg"], reduced))


def colour_of(name: str) -> str:
    return next((colour for colour, names in COLOURS.items() if name in names), RESULTS)


def run(command: list[str | Path], given: str | None = None) -> str:
    try:
        return subprocess.run(command, input=given, capture_output=True, text=True, check=True).stdout
    except FileNotFoundError:
        sys.exit(f"there is no {command[0]}: install Graphviz, and activate the environment")
    except subprocess.CalledProcessError as error:
        sys.exit(f"{command[0]} failed:\n{error.stderr}")


if __name__ == "__main__":
    main()
