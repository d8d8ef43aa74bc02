# Requires: evaluations and surprisal of all compared subsets and seeds, adaptation runs. Gives: what holds beyond the headline:
# the deployable pipeline against its budget, how selection fares under other choices, and where compute is best spent.

from expert_tail.policy.settings import RuntimeSettings

COMPARED = CONFIG.compared_subsets


rule score_logprobs_base:
    input:
        tasks=TASKS,
        policy=f"{POLICY}/provenance.json",
        samples="artifacts/samples/{subset}/seed={seed}.parquet",
    output:
        "artifacts/logprobs_base/{subset}/seed={seed}.parquet",
    log:
        "artifacts/logs/score_logprobs_base/{subset}/seed={seed}.log",
    benchmark:
        "artifacts/benchmarks/score_logprobs_base/{subset}/seed={seed}.tsv"
    conda:
        ENVIRONMENT
    threads: half_the_cores("policy")
    resources:
        mem_mb=growing(4000),
        runtime=growing(60),
        gpu=gpus("policy"),
    params:
        code=digest("score_logprobs"),
        policy=folder_of("policy"),
        prompt=flags("prompt"),
        runtime=flags("policy", RuntimeSettings),
    shell:
        "python3 -P -m expert_tail --log {log} score_logprobs --tasks {input.tasks} --policy {params.policy} --samples {input.samples}"
        " --output {output} {params.prompt} {params.runtime}"


rule budget_curve:
    input:
        evaluations=every("evaluations", COMPARED),
        logprobs=every("logprobs", COMPARED),
    output:
        report("results/budget_curve.csv", caption="../report/budget_curve.rst", category="Tables"),
        report("results/figure_budget_curve.svg", caption="../report/figure_budget_curve.rst", category="Figures"),
        "results/figure_budget_curve.png",
    log:
        "artifacts/logs/budget_curve.log",
    benchmark:
        "artifacts/benchmarks/budget_curve.tsv"
    conda:
        "../envs/cpu.yaml"
    resources:
        mem_mb=growing(4000),
        runtime=growing(180),
    params:
        code=digest("budget_curve"),
        aggregate=flags("aggregate"),
        comparison=flags("comparison"),
        select=flags("select"),
    shell:
        "python3 -P -m expert_tail --log {log} budget_curve --evaluations {input.evaluations} --logprobs {input.logprobs}"
        " --output results {params.aggregate} {params.comparison} {params.select}"


rule selection_sensitivity:
    input:
        evaluations=every("evaluations", COMPARED),
        logprobs=every("logprobs", COMPARED),
        base=every("logprobs_base", COMPARED),
        probes=[
            f"artifacts/probes/{run}/step={CONFIG.adaptation.runs[run].steps}.parquet"
            for run in CONFIG.probed_runs
            if CONFIG.subset_of(run) in COMPARED and CONFIG.probe_seed in CONFIG.sampling.seeds
        ],
    output:
        report("results/selection_sensitivity.csv", caption="../report/selection_sensitivity.rst", category="Tables"),
        report(
            "results/figure_selection_sensitivity.svg",
            caption="../report/figure_selection_sensitivity.rst",
            category="Figures",
        ),
        "results/figure_selection_sensitivity.png",
    log:
        "artifacts/logs/selection_sensitivity.log",
    benchmark:
        "artifacts/benchmarks/selection_sensitivity.tsv"
    conda:
        "../envs/cpu.yaml"
    resources:
        mem_mb=growing(4000),
        runtime=growing(60),
    params:
        code=digest("selection_sensitivity"),
        aggregate=flags("aggregate"),
        comparison=flags("comparison"),
    shell:
        "python3 -P -m expert_tail --log {log} selection_sensitivity --evaluations {input.evaluations} --logprobs {input.logprobs}"
        " --base {input.base} --probes {input.probes} --output results {params.aggregate} {params.comparison}"


rule pareto:
    input:
        samples=every("samples", COMPARED),
        evaluations=every("evaluations", COMPARED),
        logprobs=every("logprobs", COMPARED),
        runs=[file for run in CONFIG.runs for file in tables_of_run(run)],
    output:
        report("results/pareto.csv", caption="../report/pareto.rst", category="Tables"),
        report("results/figure_pareto.svg", caption="../report/figure_pareto.rst", category="Figures"),
        "results/figure_pareto.png",
    log:
        "artifacts/logs/pareto.log",
    benchmark:
        "artifacts/benchmarks/pareto.tsv"
    conda:
        "../envs/cpu.yaml"
    resources:
        mem_mb=growing(4000),
        runtime=growing(60),
    params:
        code=digest("pareto"),
        aggregate=flags("aggregate"),
        comparison=flags("comparison"),
        select=flags("select"),
        adaptation=RUNS.flags("adaptation"),
    shell:
        "python3 -P -m expert_tail --log {log} pareto --samples {input.samples} --evaluations {input.evaluations}"
        " --logprobs {input.logprobs} --runs artifacts/adapt --output results"
        " {params.aggregate} {params.comparison} {params.select} {params.adaptation}"
