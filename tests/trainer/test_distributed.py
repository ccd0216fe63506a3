# SPDX-FileCopyrightText: 2026 The trl-unlearn authors
# SPDX-License-Identifier: Apache-2.0


"""Training in two processes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file


REPOSITORY = Path(__file__).parents[2]
FURTHER = [
    {
        "prompt": [{"role": "user", "content": f"What colour is door {number}?"}],
        "completion": [{"role": "assistant", "content": f"Door {number} is green."}],
    }
    for number in range(4)
]
SCRIPT = """
import json, sys
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl_unlearn import BootstrapUnlearnConfig, BootstrapUnlearnTrainer

folder, rows, out, batch_size, world_size = sys.argv[1:]
forget, retain = (Dataset.from_list(part) for part in json.load(open(rows)))
args = BootstrapUnlearnConfig(
    out, use_cpu=True, per_device_train_batch_size=int(batch_size), max_completion_length=8, num_train_epochs=3,
    belief_refresh_epochs=1, gradient_checkpointing=False, logging_steps=1, save_strategy="no", report_to="none",
    disable_tqdm=True, warmup_steps=0, learning_rate=1e-3, lambda_schedule="adaptive", retain_max_drop=0.01,
    eval_strategy="epoch", per_device_eval_batch_size=int(batch_size),
)
trainer = BootstrapUnlearnTrainer(
    AutoModelForCausalLM.from_pretrained(folder), args, train_dataset=forget, retain_dataset=retain,
    eval_dataset=retain.select(range(3)), processing_class=AutoTokenizer.from_pretrained(folder),
)
assert trainer.accelerator.num_processes == int(world_size)
assert trainer.accelerator.distributed_type.value == ("MULTI_CPU" if int(world_size) > 1 else "NO")
trainer.train()
if trainer.is_world_process_zero():
    hashes = [audit["sha256"] for audit in trainer.belief_store.audits]
    json.dump([trainer.state.log_history, hashes], open(out + ".json", "w"))
trainer.accelerator.wait_for_everyone()
trainer.accelerator.end_training()
"""


def test_two_processes_log_and_train_what_one_does(
    tiny_model, tiny_tokenizer, forget_rows, retain_rows, launch, tmp_path
):
    tiny_model.save_pretrained(tmp_path / "model")
    tiny_tokenizer.save_pretrained(tmp_path / "model")
    # Five rows in batches of four: the last batch has one row, for one process and none for the other.
    rows = [[*forget_rows, *list(retain_rows)[:2]], [retain_rows[2], *FURTHER]]
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    histories = []
    for world_size, batch_size in ((1, 4), (2, 2)):
        paths = (tmp_path / name for name in ("model", "rows.json", f"out{world_size}"))
        assert not any(launch(SCRIPT, *paths, batch_size, world_size, processes=world_size))
        histories.append(json.loads((tmp_path / f"out{world_size}.json").read_text()))
    (alone, alone_beliefs), (together, together_beliefs) = histories
    assert alone_beliefs[0] == together_beliefs[0]
    logged = [[entry for entry in history if "loss/forget" in entry] for history in (alone, together)]
    assert len(logged[0]) == len(logged[1]) == 6
    for one, two in zip(*logged, strict=True):
        names = [name for name in one if "/" in name and not name.startswith(("throughput", "beliefs/seconds"))]
        assert {"loss/forget", "loss/beliefs", "loss/retain", "forget/logps", "drift/beliefs"} <= set(names)
        for name in (*names, "loss", "grad_norm"):
            assert two[name] == pytest.approx(one[name], abs=1e-4), name
    scored = [[entry["eval_loss"] for entry in history if "eval_loss" in entry] for history in (alone, together)]
    # Three rows in batches of four: the second process has one, and one that the first has, too.
    assert scored[1] == pytest.approx(scored[0], abs=1e-4)
    assert logged[0][0]["weights/lambda_bss"] != logged[0][5]["weights/lambda_bss"]


OF_STAGE = f"""
def of_stage(stage):
    if stage == "fsdp2":
        shard_on_cpus()
    if stage in ("0", "fsdp2"):
        return {{}}
    import deepspeed

    deepspeed.init_distributed(dist_backend="gloo")
    zero = {{"stage": int(stage), "stage3_param_persistence_threshold": 0}}
    zero["stage3_gather_16bit_weights_on_model_save"] = True
    sizes = ("train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps", "gradient_clipping")
    config = {{"zero_optimization": zero, "zero_allow_untested_optimizer": True, **dict.fromkeys(sizes, "auto")}}
    return {{"deepspeed": config}}


def shard_on_cpus():
    import os
    import yaml
    from accelerate import state
    from accelerate.utils import DistributedType

    # What `accelerate launch` makes of the shipped file.
    settings = yaml.safe_load(open({str(REPOSITORY / "recipes/accelerate/fsdp2.yaml")!r}))["fsdp_config"]
    os.environ |= {{"ACCELERATE_USE_FSDP": "true", **{{name.upper(): str(x).lower() for name, x in settings.items()}}}}
    for name in ("fsdp_auto_wrap_policy", "fsdp_state_dict_type"):
        os.environ[name.upper()] = settings[name]
    plain = state.AcceleratorState.__init__

    # `accelerate` shards on accelerators only. All that it does there works on CPUs too, once its state says so.
    def init_for_cpus(self, *args, fsdp_plugin=None, **kwargs):
        plain(self, *args, fsdp_plugin=fsdp_plugin, **kwargs)
        if self.distributed_type == DistributedType.MULTI_CPU:
            self.distributed_type, self.fsdp_plugin = DistributedType.FSDP, fsdp_plugin
            state.PartialState._shared_state["distributed_type"] = DistributedType.FSDP

    state.AcceleratorState.__init__ = init_for_cpus
"""
SHARDED = f"""
{OF_STAGE}
import json, os, sys
from datasets import Dataset
from peft import LoraConfig, PeftModel
from torch.distributed.tensor import DTensor, Shard
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback

folder, rows, out, options, stage, kind = sys.argv[1:]
sharding = of_stage(stage)
from trl_unlearn import BootstrapUnlearnConfig, BootstrapUnlearnTrainer

class IsSharded(TrainerCallback):
    def on_step_end(self, args, state, control, model=None, **kwargs):
        parameters = list(model.parameters())
        if stage == "fsdp2":
            assert all(isinstance(p, DTensor) and p.placements == (Shard(0),) for p in parameters)
            assert sum(p.to_local().numel() for p in parameters) < 0.6 * sum(p.numel() for p in parameters)

forget, retain = (Dataset.from_list(part) for part in json.load(open(rows)))
args = BootstrapUnlearnConfig(
    out, use_cpu=True, per_device_train_batch_size=4 if stage == "0" else 2, max_completion_length=8,
    num_train_epochs=3, belief_refresh_epochs=1, gradient_checkpointing=False, logging_steps=1, save_strategy="no",
    report_to="none", disable_tqdm=True, warmup_steps=0, learning_rate=1e-3, **json.loads(options), **sharding,
)
model = folder
if kind == "continued":
    base = AutoModelForCausalLM.from_pretrained(folder)
    model = PeftModel.from_pretrained(base, folder + "/adapter", is_trainable=True)
trainer = BootstrapUnlearnTrainer(
    model, args, train_dataset=forget, retain_dataset=retain, processing_class=AutoTokenizer.from_pretrained(folder),
    peft_config=LoraConfig(r=4, target_modules="all-linear") if kind == "lora" else None, callbacks=[IsSharded()],
)
assert trainer.accelerator.num_processes == (1 if stage == "0" else 2)
expected = {{"0": "NO", "fsdp2": "FSDP"}}.get(stage, "DEEPSPEED")
assert trainer.accelerator.distributed_type.value == expected
if expected == "DEEPSPEED":
    assert trainer.accelerator.state.deepspeed_plugin.zero_stage == int(stage)
trainer.train()
trainer.save_model()
if trainer.is_world_process_zero():
    hashes = [audit["sha256"] for audit in trainer.belief_store.audits]
    json.dump([trainer.state.log_history, hashes], open(out + ".json", "w"))
trainer.accelerator.wait_for_everyone()
# DeepSpeed's groups of gloo may abort a process that ends in the usual way.
os._exit(0)
"""
BS_S, NPO_KL, DPO = {}, {"forget_loss_type": "npo", "retain_loss_type": "kl"}, {"forget_loss_type": "dpo"}
COMBINATIONS = {
    "bs_s": (BS_S, "full"),
    "bs_s-lora": (BS_S, "lora"),
    "npo-kl": (NPO_KL, "full"),
    "npo-kl-continued": (NPO_KL, "continued"),
    "dpo-lora": (DPO, "lora"),
}


# An untied head, which ZeRO-3 has to gather; objectives with and without a reference, whose passes differ.
@pytest.mark.parametrize(
    ("stage", "name"),
    [
        # The one that generates, and has a frozen copy of the model beside it.
        ("fsdp2", "npo-kl"),
        *(
            pytest.param(stage, name, marks=pytest.mark.slow)
            for stage in ("2", "3", "fsdp2")
            for name in COMBINATIONS
            if (stage, name) != ("fsdp2", "npo-kl")
        ),
    ],
)
def test_two_processes_that_shard_log_and_save_what_one_does(
    tiny_model, tiny_tokenizer, forget_rows, retain_rows, launch, tmp_path, stage, name
):
    if stage != "fsdp2":
        pytest.importorskip("deepspeed")
    options, kind = COMBINATIONS[name]
    torch.manual_seed(0)
    tiny_model.config.tie_word_embeddings = False
    model = type(tiny_model)(tiny_model.config)
    model.save_pretrained(tmp_path / "model")
    tiny_tokenizer.save_pretrained(tmp_path / "model")
    adapter = LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False, task_type="CAUSAL_LM")
    get_peft_model(model, adapter).save_pretrained(tmp_path / "model" / "adapter")
    rows = [[*forget_rows, *list(retain_rows)[:2]], [retain_rows[2], *FURTHER]]
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    found, weights = [], []
    for number, processes in (("0", 1), (stage, 2)):
        paths = (tmp_path / part for part in ("model", "rows.json", f"out{number}"))
        assert not any(launch(SHARDED, *paths, json.dumps(options), number, kind, processes=processes))
        found.append(json.loads((tmp_path / f"out{number}.json").read_text()))
        (file,) = (tmp_path / f"out{number}").glob("*model.safetensors")
        weights.append(load_file(file))
    (alone, alone_beliefs), (together, together_beliefs) = found
    assert len(alone_beliefs) == 3 and alone_beliefs == together_beliefs
    logged = [[entry for entry in history if "loss/forget" in entry] for history in (alone, together)]
    assert len(logged[0]) == len(logged[1]) == 6
    for one, two in zip(*logged, strict=True):
        names = [name for name in one if "/" in name and not name.startswith(("throughput", "beliefs/seconds"))]
        assert {"loss/forget", "loss/beliefs", "loss/retain", "forget/logps"} <= set(names)
        for name in (*names, "loss", "grad_norm"):
            assert two[name] == pytest.approx(one[name], abs=1e-4), name
    assert weights[0].keys() == weights[1].keys()
    for name, values in weights[0].items():
        # A step of AdamW where a gradient is nearly 0 follows its last bit.
        torch.testing.assert_close(weights[1][name], values, atol=1e-4, rtol=0, msg=name)


GATHERED = """
import os, sys
import torch
from accelerate import Accelerator
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from transformers import AutoModelForCausalLM
from trl_unlearn.generation import generate, whole_model

accelerator, model = Accelerator(cpu=True), AutoModelForCausalLM.from_pretrained(sys.argv[1])
assert accelerator.num_processes == 2
options = {"pad_token_id": 0, "eos_token_ids": [2], "max_new_tokens": 6, "batch_size": 1}
prompts = [[5, 6, 7], [9, 10], [11, 12, 13, 14], [3, 4]][: 4 if accelerator.is_main_process else 1]
keys = [(1, i) for i in range(len(prompts))]
alone = generate(model, prompts, keys=keys, **options)
mesh = init_device_mesh("cpu", (2,))
for layer in model.model.layers:
    fully_shard(layer, mesh=mesh)
fully_shard(model, mesh=mesh)
with whole_model(model, accelerator, None) as whole:
    gathered = generate(whole, prompts, keys=keys, **options)
# A gathered weight lies elsewhere in memory, which may change the last bit of a product.
for one, two in zip(alone, gathered, strict=True):
    assert one.ids == two.ids and one.ended == two.ended
    torch.testing.assert_close(torch.tensor(two.logps), torch.tensor(one.logps), atol=1e-5, rtol=0)
assert all(isinstance(parameter, DTensor) for parameter in model.parameters())
model(input_ids=torch.tensor([prompts[0]])).logits.sum().backward()
accelerator.wait_for_everyone()
# The groups of gloo may abort a process that ends in the usual way.
os._exit(0)
"""


SCORED = """
import copy, os, sys
import torch
from accelerate import Accelerator
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from transformers import AutoModelForCausalLM
from trl_unlearn.encoding import pad_rows
from trl_unlearn.token_scores import RowGroup, ScoreTerms, score_groups

accelerator, model = Accelerator(cpu=True), AutoModelForCausalLM.from_pretrained(sys.argv[1]).double()
assert accelerator.num_processes == 2
whole, mesh = copy.deepcopy(model), init_device_mesh("cpu", (2,))
for layer in model.model.layers:
    fully_shard(layer, mesh=mesh)
fully_shard(model, mesh=mesh)
rows = [
    {"input_ids": [5, 6, 7, 8, 9], "labels": [-100, -100, 7, 8, 9]},
    {"input_ids": [15, 16, 17, 18], "labels": [-100, -100, 17, 18]},
]

def loss(scored, row):
    groups = [RowGroup([0] if row == 0 else [], ScoreTerms(belief_top_k=4)), RowGroup([0] if row == 1 else [])]
    with_beliefs, plain = score_groups(scored, pad_rows([rows[row]], 0), groups)
    return plain.logps.sum() if row else (with_beliefs.logps + with_beliefs.beliefs).sum()

# The mean over two processes of two passes is the sum of both rows.
for _ in range(2):
    loss(model, accelerator.process_index).backward()
(loss(whole, 0) + loss(whole, 1)).backward()
for found, expected in zip(model.parameters(), whole.parameters(), strict=True):
    torch.testing.assert_close(found.grad.full_tensor(), expected.grad, atol=1e-9, rtol=0)
accelerator.wait_for_everyone()
# The groups of gloo may abort a process that ends in the usual way.
os._exit(0)
"""


@pytest.mark.slow
@pytest.mark.parametrize("script", [GATHERED, SCORED], ids=["other numbers of batches", "rows of other groups"])
def test_processes_that_share_a_model_with_fsdp2_may_have(tiny_model, launch, tmp_path, script):
    tiny_model.save_pretrained(tmp_path / "model")
    assert launch(script, tmp_path / "model") == [0, 0]


def _lab_losses(launch, out, *options):
    """Losses of a recipe of the lab, and what the run says of its processes."""
    # Not of the default: its objective refuses a model in shards.
    recipe = "recipes/archive/bs_s_on_bs_t.yaml"
    command = [sys.executable, "-m", *launch, "recipes/bs_s.py", "--config", recipe, "--num_train_epochs", "2"]
    short = ["--evaluate", "false", "--panel_prompts", "0", "--output_dir", out, *options]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*command, *short], cwd=REPOSITORY, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-6000:]
    run = json.loads((Path(out) / "run.json").read_text())
    return [entry for entry in run["training_log"] if "loss/forget" in entry], run


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ddp", "fsdp2", "zero2", "zero3"])
def test_the_recipe_under_a_shipped_launch_file_logs_what_one_process_does(name, tmp_path):
    config = yaml.safe_load((REPOSITORY / f"recipes/accelerate/{name}.yaml").read_text())
    if name.startswith("zero"):
        pytest.importorskip("deepspeed")
        # With accelerators DeepSpeed takes them; without, it needs the device by name.
        config["use_cpu"] = not torch.accelerator.is_available()
    elif torch.accelerator.device_count() < 2:
        pytest.skip(f"not run: on CPUs `accelerate launch` makes one process of `{name}`")
    (tmp_path / "launch.yaml").write_text(yaml.safe_dump(config))
    launch = ["accelerate.commands.launch", "--config_file", str(tmp_path / "launch.yaml")]
    alone, _ = _lab_losses(["accelerate.commands.launch", "--num_processes", "1"], str(tmp_path / "one"))
    together, run = _lab_losses(launch, str(tmp_path / "two"), "--per_device_train_batch_size", "4")
    assert run["world_size"] == 2
    assert run["hardware"].partition(", ")[2] == {"zero2": "ZeRO-2", "zero3": "ZeRO-3", "fsdp2": "FSDP2"}.get(name, "")
    assert len(alone) == len(together) == 6
    for one, two in zip(alone, together, strict=True):
        for loss in ("loss", "loss/forget", "loss/beliefs", "loss/retain"):
            assert two[loss] == pytest.approx(one[loss], abs=1e-3), loss


RESUMED = f"""
{OF_STAGE}
import json, os, sys
from datasets import Dataset
from peft import LoraConfig
from transformers import AutoTokenizer, TrainerCallback

folder, rows, out, stage, killed_at = sys.argv[1:]
sharding = of_stage(stage)

from trl_unlearn import BootstrapUnlearnConfig, BootstrapUnlearnTrainer

class Kill(TrainerCallback):
    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == int(killed_at):
            os._exit(9)

forget, retain = (Dataset.from_list(part) for part in json.load(open(rows)))
args = BootstrapUnlearnConfig(
    out, use_cpu=True, per_device_train_batch_size=1, gradient_accumulation_steps=2, max_completion_length=8,
    num_train_epochs=4, belief_refresh_epochs=1, gradient_checkpointing=False, save_steps=1, report_to="none",
    disable_tqdm=True, disable_dropout=False, learning_rate=1e-2, lambda_schedule="adaptive", forget_loss_type="npo",
    **sharding,
)
trainer = BootstrapUnlearnTrainer(
    folder, args, train_dataset=forget, retain_dataset=retain, processing_class=AutoTokenizer.from_pretrained(folder),
    peft_config=LoraConfig(r=4, target_modules="all-linear", lora_dropout=0.1), callbacks=[Kill()],
)
assert trainer.accelerator.num_processes == 2
expected = {{"0": "MULTI_CPU", "fsdp2": "FSDP"}}.get(stage, "DEEPSPEED")
assert trainer.accelerator.distributed_type.value == expected
trainer.train(resume_from_checkpoint=os.path.isdir(out + "/checkpoint-1"))
trainer.save_model()
trainer.accelerator.wait_for_everyone()
# DeepSpeed's groups of gloo may abort a process that ends in the usual way.
os._exit(0)
"""


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["0", "2", "3", "fsdp2"], ids=["ddp", "zero2", "zero3", "fsdp2"])
def test_two_processes_resume_from_a_checkpoint_in_the_same_bits(
    tiny_model, tiny_tokenizer, forget_rows, retain_rows, launch, tmp_path, stage
):
    if stage in ("2", "3"):
        pytest.importorskip("deepspeed")
    tiny_model.save_pretrained(tmp_path / "model")
    tiny_tokenizer.save_pretrained(tmp_path / "model")
    # Seven rows: the last batch of an epoch has one that another process has, too.
    (tmp_path / "rows.json").write_text(json.dumps([[*forget_rows, *retain_rows, FURTHER[0]], list(retain_rows)[1:]]))
    for out, killed_at in (("whole", -1), ("cut", 3), ("cut", -1)):
        paths = (tmp_path / name for name in ("model", "rows.json", out))
        assert launch(RESUMED, *paths, stage, killed_at) == ([9, 9] if killed_at > 0 else [0, 0])
    states = sorted(path.name for path in (tmp_path / "cut" / "checkpoint-3").glob("unlearning_state*"))
    assert states == [f"unlearning_state{rank}.safetensors" for rank in ("", "_0", "_1")]
    whole, cut = (load_file(tmp_path / out / "adapter_model.safetensors") for out in ("whole", "cut"))
    assert len(whole) > 0 and all(torch.equal(cut[name], value) for name, value in whole.items())
    steps = [json.loads((tmp_path / out / "run.json").read_text())["steps"] for out in ("whole", "cut")]
    assert steps == [8, 8]
