# SPDX-FileCopyrightText: 2026 The trl-unlearn authors
# SPDX-License-Identifier: Apache-2.0


"""Each objective unlearns the embedded lab through the command line."""

import json

import pytest

from trl_unlearn.data.archive import build_archive
from trl_unlearn.scripts import bs_t
from trl_unlearn.trainer.forget_objectives import FORGET_OBJECTIVES


@pytest.fixture(scope="module")
def lab():
    """The lab, from the cache or built."""
    return build_archive()


@pytest.mark.parametrize("peft", [pytest.param("true", marks=pytest.mark.slow), "false"])
@pytest.mark.parametrize("forget_loss_type", FORGET_OBJECTIVES)
def test_an_objective_unlearns_the_lab(lab, forget_loss_type, peft, tmp_path):
    retain = "hidden" if forget_loss_type == "rmu" else "nll"
    # Its default weights are small where an answer is nearly certain, and the retain term would outweigh it.
    weight = "30" if forget_loss_type == "satimp" else "1"
    bs_t.main(
        [
            *("--dataset_name", "archive", "--output_dir", str(tmp_path / "out"), "--no_evaluate"),
            *("--forget_loss_type", forget_loss_type, "--retain_loss_type", retain, "--use_peft", peft),
            *("--forget_weight", weight),
            *("--learning_rate", "5e-3" if peft == "true" else "1e-3", "--warmup_steps", "0"),
            *("--lr_scheduler_type", "constant", "--num_train_epochs", "3", "--per_device_train_batch_size", "8"),
            *("--gradient_checkpointing", "false", "--logging_steps", "1", "--save_strategy", "no"),
            *("--report_to", "none", "--disable_tqdm", "true"),
            *(["--forget_loss_kwargs", '{"coefficient": 20}'] if forget_loss_type == "rmu" else []),
        ]
    )
    log = json.loads((tmp_path / "out/run.json").read_text())["training_log"]
    first, last = log[0], log[-1]
    assert last["loss/forget"] < first["loss/forget"] or forget_loss_type in ("wga", "tnpo", "satimp")
    if forget_loss_type != "rmu":
        assert last["forget/logps"] < first["forget/logps"] - 0.01
