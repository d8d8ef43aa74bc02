# Expert Tail: where should test-time compute go? `snakemake --cores all results/table3.csv`
# config.yaml is the embedded default; --configfile and --config override its keys, --directory runs elsewhere.

from pathlib import Path

from snakemake.utils import min_version

min_version("9.6")


configfile: Path(workflow.basedir) / "config.yaml"


report: "report/workflow.rst"


container: str(Path(workflow.basedir) / "expert-tail.sif")  # for --sdm apptainer alone; docs/cluster.md says how to build it


include: "rules/common.smk"
include: "rules/tasks.smk"
include: "rules/policy.smk"
include: "rules/rlvr.smk"
include: "rules/samples.smk"
include: "rules/evaluations.smk"
include: "rules/null_audit.smk"
include: "rules/headroom.smk"
include: "rules/selections.smk"
include: "rules/adapt.smk"
include: "rules/probes.smk"
include: "rules/results.smk"
include: "rules/budget.smk"
include: "rules/comparison.smk"
include: "rules/report.smk"


# On a cluster these run where snakemake was started: compute nodes often have no network.
localrules:
    all,
    tasks,
    fetch_policy,
    record_config,


rule all:
    default_target: True
    input:
        rules.aggregate.output,
        rules.adaptation_tables.output,
        rules.budget_curve.output,
        rules.selection_sensitivity.output,
        rules.pareto.output,
        rules.comparison.output,
        rules.paper_vs_run.output,
        rules.null_audit.output,
        rules.headroom.output,
        rules.record_config.output,
        rules.report_page.output,
