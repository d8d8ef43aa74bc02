# Requires: tasks, policy, the last checkpoint. Gives: K samples a task, and their surprisal under that checkpoint.

from expert_tail.sample_k64.settings import SampleSettings


rule sample_k64:
    input:
        tasks=TASKS,
        policy=f"{POLICY}/provenance.json",
        adapter=expand("{folder}/{file}", folder=CHECKPOINT, file=CHECKPOINT_FILES),
    output:
        "artifacts/samples/{subset}/seed={seed}.parquet",
    log:
        "artifacts/logs/sample_k64/{subset}/seed={seed}.log",
    benchmark:
        "artifacts/benchmarks/sample_k64/{subset}/seed={seed}.tsv"
    conda:
        SAMPLING_ENV
    threads: cores("policy")
    resources:
        mem_mb=growing(4000),
        runtime=growing(60),
        gpu=gpus("policy"),
    params:
        code=digest("sample_k64"),
        policy=folder_of("policy"),
        adapter=folder_of("adapter"),
        sampling=flags("sampling", SampleSettings),
        prompt=flags("prompt"),
        runtime=flags("policy", RuntimeSettings),
    shell:
        "python3 -P -m expert_tail --log {log} sample_k64 --tasks {input.tasks} --policy {params.policy} --adapter {params.adapter}"
        " --subset {wildcards.subset} --seed {wildcards.seed} --output {output}"
        " {params.sampling} {params.prompt} {params.runtime}"


rule score_logprobs:
    input:
        tasks=TASKS,
        policy=f"{POLICY}/provenance.json",
        adapter=expand("{folder}/{file}", folder=CHECKPOINT, file=CHECKPOINT_FILES),
        samples="artifacts/samples/{subset}/seed={seed}.parquet",
    output:
        "artifacts/logprobs/{subset}/seed={seed}.parquet",
    log:
        "artifacts/logs/score_logprobs/{subset}/seed={seed}.log",
    benchmark:
        "artifacts/benchmarks/score_logprobs/{subset}/seed={seed}.tsv"
    conda:
        ENVIRONMENT
    threads: cores("policy")
    resources:
        mem_mb=growing(4000),
        runtime=growing(60),
        gpu=gpus("policy"),
    params:
        code=digest("score_logprobs"),
        policy=folder_of("policy"),
        adapter=folder_of("adapter"),
        prompt=flags("prompt"),
        runtime=flags("policy", RuntimeSettings),
    shell:
        "python3 -P -m expert_tail --log {log} score_logprobs --tasks {input.tasks} --policy {params.policy} --adapter {params.adapter}"
        " --samples {input.samples} --output {output} {params.prompt} {params.runtime}"
