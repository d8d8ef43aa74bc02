# Requires: results, and the artifacts behind them. Gives: one HTML file that needs no network. A further table or figure
# is one line below; its caption is the file of its name in report/.

REPORTED_TABLES = [
    "results/table1.csv",
    "results/table2.csv",
    "results/table3.csv",
    "results/table5.csv",
    "results/table8.csv",
    "results/adaptation.csv",
    "results/probes.csv",
    "results/headroom.csv",
    "results/null_audit.csv",
    "results/budget_curve.csv",
    "results/selection_sensitivity.csv",
    "results/pareto.csv",
]
REPORTED_FIGURES = [
    "results/figure4.svg",
    "results/figure3.svg",
    "results/figure_pareto.svg",
    "results/figure_budget_curve.svg",
    "results/figure_selection_sensitivity.svg",
    "results/figure_headroom.svg",
    "results/figure_null_audit.svg",
]


rule report_page:
    input:
        config="results/config.yaml",
        tasks=TASKS,
        rollouts="artifacts/rlvr/rollouts.parquet",
        samples=every("samples", CONFIG.compared_subsets),
        evaluations=every("evaluations", CONFIG.compared_subsets),
        logprobs=every("logprobs", CONFIG.compared_subsets),
        selections=every("selections", CONFIG.compared_subsets),
        headroom=headroom_of(CONFIG.compared_subsets if CONFIG.headroom.mark else []),
        adaptation=[file for run in CONFIG.runs for file in steps_of(run, ["rollouts.parquet", "evaluations.parquet"])],
        tables=REPORTED_TABLES,
        figures=REPORTED_FIGURES,
        captions=captions_of(REPORTED_TABLES + REPORTED_FIGURES),
    output:
        "results/report.html",
    log:
        "artifacts/logs/report_page.log",
    benchmark:
        "artifacts/benchmarks/report_page.tsv"
    conda:
        "../envs/cpu.yaml"
    params:
        code=digest("report_page"),
        aggregate=flags("aggregate"),
    shell:
        "expert-tail --log {log} report_page --config {input.config} --tasks {input.tasks} --rollouts {input.rollouts}"
        " --samples {input.samples} --evaluations {input.evaluations} --logprobs {input.logprobs}"
        " --selections {input.selections} --headroom {input.headroom} --adaptation {input.adaptation}"
        " --tables {input.tables} --figures {input.figures} --captions {input.captions} --output {output} {params.aggregate}"
