# Requires: results, and the artifacts behind them. Gives: one HTML file that needs no network. A further table or figure
# is one line below; its caption is the file of its name in report/.

REPORTED_TABLES = expand(
    "results/{name}",
    name=[f"table{n}.csv" for n in range(1, 13)]
    + ["statistics.json", "paper_vs_run.csv", "adaptation.csv", "adaptation_by_task.csv", "probes.csv"]
    + ["budget_curve.csv", "selection_sensitivity.csv", "pareto.csv", "headroom.csv", "null_audit.csv"],
)
REPORTED_FIGURES = expand(
    "results/figure{name}.svg",
    name=[4, 3, 1, "_pareto", "_budget_curve", "_selection_sensitivity", 5, 6, 7, 2, "_headroom", "_null_audit"],
)


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
    resources:
        mem_mb=growing(6000),
        runtime=growing(60),
    params:
        code=digest("report_page"),
        aggregate=flags("aggregate"),
    shell:
        "python3 -P -m expert_tail --log {log} report_page --config {input.config} --tasks {input.tasks} --rollouts {input.rollouts}"
        " --samples {input.samples} --evaluations {input.evaluations} --logprobs {input.logprobs}"
        " --selections {input.selections} --headroom {input.headroom} --adaptation {input.adaptation}"
        " --tables {input.tables} --figures {input.figures} --captions {input.captions} --output {output} {params.aggregate}"
