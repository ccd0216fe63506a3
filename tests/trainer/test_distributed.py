# Copyright 2026 The trl-unlearn authors. All rights reserved.
#
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#
#     http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.


"""Training in two processes."""

import json
import os
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file


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
)
trainer = BootstrapUnlearnTrainer(
    AutoModelForCausalLM.from_pretrained(folder), args, forget, retain,
    processing_class=AutoTokenizer.from_pretrained(folder),
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


def test_two_processes_log_and_train_what_one_does(tiny_model, tiny_tokenizer, forget_rows, retain_rows, tmp_path):
    tiny_model.save_pretrained(tmp_path / "model")
    tiny_tokenizer.save_pretrained(tmp_path / "model")
    # Four rows, so that two processes with two each see the batches of one with four.
    rows = [[*forget_rows, retain_rows[0]], list(retain_rows)[1:]]
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    (tmp_path / "run.py").write_text(SCRIPT)
    histories = []
    for world_size, batch_size in ((1, 4), (2, 2)):
        launch = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"] if world_size > 1 else []
        paths = (str(tmp_path / name) for name in ("run.py", "model", "rows.json", f"out{world_size}"))
        done = subprocess.run(
            [sys.executable, *launch, *paths, str(batch_size), str(world_size)],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr[-6000:]
        histories.append(json.loads((tmp_path / f"out{world_size}.json").read_text()))
    (alone, alone_beliefs), (together, together_beliefs) = histories
    assert alone_beliefs[0] == together_beliefs[0]
    logged = [[entry for entry in history if "loss/forget" in entry] for history in (alone, together)]
    assert len(logged[0]) == len(logged[1]) == 3
    for one, two in zip(*logged, strict=True):
        names = [name for name in one if "/" in name and not name.startswith(("throughput", "beliefs/seconds"))]
        assert {"loss/forget", "loss/beliefs", "loss/retain", "forget/logps", "drift/beliefs"} <= set(names)
        for name in (*names, "loss", "grad_norm"):
            assert two[name] == pytest.approx(one[name], abs=1e-4), name
    assert logged[0][0]["weights/lambda_bss"] != logged[0][2]["weights/lambda_bss"]


RESUMED = """
import json, os, sys
from datasets import Dataset
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from trl_unlearn import BootstrapUnlearnConfig, BootstrapUnlearnTrainer

folder, rows, out, killed_at = sys.argv[1:]

class Kill(TrainerCallback):
    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == int(killed_at):
            os._exit(9)

forget, retain = (Dataset.from_list(part) for part in json.load(open(rows)))
args = BootstrapUnlearnConfig(
    out, use_cpu=True, per_device_train_batch_size=1, gradient_accumulation_steps=2, max_completion_length=8,
    num_train_epochs=4, belief_refresh_epochs=1, gradient_checkpointing=False, save_steps=1, report_to="none",
    disable_tqdm=True, disable_dropout=False, learning_rate=1e-2, lambda_schedule="adaptive", forget_loss_type="npo",
)
trainer = BootstrapUnlearnTrainer(
    AutoModelForCausalLM.from_pretrained(folder), args, forget, retain,
    processing_class=AutoTokenizer.from_pretrained(folder),
    peft_config=LoraConfig(r=4, target_modules="all-linear", lora_dropout=0.1), callbacks=[Kill()],
)
assert trainer.accelerator.num_processes == 2
assert trainer.accelerator.distributed_type.value == "MULTI_CPU"
trainer.train(resume_from_checkpoint=os.path.isdir(out + "/checkpoint-1"))
trainer.save_model()
trainer.accelerator.wait_for_everyone()
trainer.accelerator.end_training()
"""


@pytest.mark.slow
def test_two_processes_go_on_from_a_checkpoint_in_the_same_bits(
    tiny_model, tiny_tokenizer, forget_rows, retain_rows, tmp_path
):
    tiny_model.save_pretrained(tmp_path / "model")
    tiny_tokenizer.save_pretrained(tmp_path / "model")
    (tmp_path / "rows.json").write_text(json.dumps([[*forget_rows, *retain_rows], list(retain_rows)[1:]]))
    (tmp_path / "run.py").write_text(RESUMED)
    for out, killed_at in (("whole", -1), ("cut", 3), ("cut", -1)):
        launch = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
        paths = (str(tmp_path / name) for name in ("run.py", "model", "rows.json", out))
        done = subprocess.run(
            [sys.executable, *launch, *paths, str(killed_at)],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
        )
        assert (done.returncode == 0) == (killed_at < 0), done.stderr[-6000:]
    states = sorted(path.name for path in (tmp_path / "cut" / "checkpoint-3").glob("unlearning_state*"))
    assert states == [f"unlearning_state{rank}.safetensors" for rank in ("", "_0", "_1")]
    whole, cut = (load_file(tmp_path / out / "adapter_model.safetensors") for out in ("whole", "cut"))
    assert len(whole) > 0 and all(torch.equal(cut[name], value) for name, value in whole.items())
    steps = [json.loads((tmp_path / out / "run.json").read_text())["steps"] for out in ("whole", "cut")]
    assert steps == [8, 8]
