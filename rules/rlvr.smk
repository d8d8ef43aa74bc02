# Requires: tasks, policy. Gives: LoRA checkpoints and every training rollout.
# A killed job resumes from artifacts/rlvr/state, which Snakemake does not touch.

from expert_tail.policy.settings import RuntimeSettings

# Rewards are those of the evaluator of their time, unless the configuration asks otherwise.
_WITHOUT = [] if CONFIG.rlvr.retrain_on_evaluator_change else ["evaluator"]


rule rlvr_train:
    input:
        tasks=TASKS,
        policy=f"{POLICY}/provenance.json",
    output:
        rollouts="artifacts/rlvr/rollouts.parquet",
        checkpoints=expand(
            "artifacts/rlvr/checkpoints/step={n}/{file}", n=CONFIG.rlvr.checkpoints, file=CHECKPOINT_FILES
        ),
    log:
        "artifacts/logs/rlvr_train.log",
    benchmark:
        "artifacts/benchmarks/rlvr_train.tsv"
    priority: 1  # nearly all else waits for it
    conda:
        SAMPLING_ENV
    threads: cores("policy", "evaluator")
    resources:
        mem_mb=growing(6000),
        runtime=growing(240),
        gpu=gpus("policy", "evaluator", processes=CONFIG.policy.processes),
        processes=CONFIG.policy.processes,
        slurm_extra=own_node(),
    params:
        code=digest("rlvr_train", without=_WITHOUT),
        policy=folder_of("policy"),
        rlvr=flags("rlvr"),
        lora=flags("lora"),
        prompt=flags("prompt"),
        runtime=flags("policy", RuntimeSettings),
        evaluator=evaluator_flags(),
    shell:
        "python3 -P -m expert_tail --log {log} --processes {resources.processes} rlvr_train"
        " --tasks {input.tasks} --policy {params.policy} --state artifacts/rlvr/state"
        " --checkpoints artifacts/rlvr/checkpoints --output {output.rollouts}"
        " {params.rlvr} {params.lora} {params.prompt} {params.runtime} {params.evaluator}"
