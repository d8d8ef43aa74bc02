# Requires: tasks, policy, checkpoints of adaptation runs, Best-of-N samples. Gives: their surprisal under each checkpoint,
# and the tables of adaptation.

from expert_tail.policy.settings import RuntimeSettings

PROBES = [
    f"artifacts/probes/{run}/step={n}.parquet"
    for run in CONFIG.probed_runs
    for n in range(CONFIG.adaptation.runs[run].steps + 1)
]
PROBED = sorted({samples_for(run, "evaluations") for run in CONFIG.probed_runs})


rule nll_probe:
    input:
        tasks=TASKS,
        policy=f"{POLICY}/provenance.json",
        adapter=expand("artifacts/adapt/{{run}}/step={{n}}/{file}", file=CHECKPOINT_FILES),
        samples=lambda wildcards: samples_for(wildcards.run),
    output:
        "artifacts/probes/{run}/step={n}.parquet",
    log:
        "artifacts/logs/nll_probe/{run}/step={n}.log",
    benchmark:
        "artifacts/benchmarks/nll_probe/{run}/step={n}.tsv"
    conda:
        ENVIRONMENT
    threads: half_the_cores("policy")
    resources:
        mem_mb=growing(4000),
        runtime=growing(60),
        gpu=gpus("policy"),
    params:
        code=digest("nll_probe"),
        policy=folder_of("policy"),
        adapter=folder_of("adapter"),
        prompt=flags("prompt"),
        runtime=flags("policy", RuntimeSettings),
    shell:
        "python3 -P -m expert_tail --log {log} nll_probe --tasks {input.tasks} --policy {params.policy} --adapter {params.adapter}"
        " --samples {input.samples} --output {output} {params.prompt} {params.runtime}"


rule adaptation_tables:
    input:
        runs=[file for run in CONFIG.runs for file in tables_of_run(run)],
        probes=PROBES,
        evaluations=PROBED,
    output:
        report("results/adaptation.csv", caption="../report/adaptation.rst", category="Tables"),
        report("results/probes.csv", caption="../report/probes.rst", category="Tables"),
    log:
        "artifacts/logs/adaptation_tables.log",
    benchmark:
        "artifacts/benchmarks/adaptation_tables.tsv"
    conda:
        "../envs/cpu.yaml"
    resources:
        mem_mb=growing(4000),
        runtime=growing(60),
    params:
        code=digest("adaptation_tables"),
        aggregate=flags("aggregate"),
        adaptation=RUNS.flags("adaptation"),
        budget=CONFIG.sampling.k,
    shell:
        "python3 -P -m expert_tail --log {log} adaptation_tables --runs artifacts/adapt --probes {input.probes}"
        " --evaluations {input.evaluations} --budget {params.budget} --output results"
        " {params.aggregate} {params.adaptation}"
