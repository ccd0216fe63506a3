# SPDX-FileCopyrightText: 2026 The trl-unlearn authors
# SPDX-License-Identifier: Apache-2.0

"""
Numbers under autocast, on a CPU.

A product in bfloat16 has 8 bits: its log-probs are within 0.1 nats of those of float32 where logits spread over 20
nats. What follows the product (logsumexp, means, losses) is in float32: within 1e-5 of float64 on the same products.
`accelerate` refuses `fp16` on a CPU; `test_guard.py` has its gradient scaler.
"""

import copy
import math

import pytest
import torch
from peft import LoraConfig

from trl_unlearn import BootstrapUnlearnConfig
from trl_unlearn._fused_scores import LogitHead
from trl_unlearn.encoding import pad_rows
from trl_unlearn.label_states import LabelStates, label_states
from trl_unlearn.token_scores import score_batch, score_rows, token_scores
from trl_unlearn.trainer.checks import warn_of_lost_steps
from trl_unlearn.trainer.forget_objectives import FORGET_OBJECTIVES, ForgetScores
from trl_unlearn.trainer.weights import TermWeights


TOLERANCE = 0.1


@pytest.fixture
def sharp_model(tiny_model):
    """A random model that is as sure of itself as a trained one: its logits spread over 20 nats."""
    with torch.no_grad():
        tiny_model.model.norm.weight.mul_(20)
    return tiny_model


@pytest.fixture
def new_trainer(build_trainer, sharp_model, retain_rows):
    def new(model=None, peft=False, **options):
        settings = {"bf16": True, "learning_rate": 1e-3, "max_steps": 2, "warmup_steps": 0, "logging_steps": 1}
        settings |= {"per_device_train_batch_size": 3, "max_completion_length": 8}
        peft_config = LoraConfig(r=4, target_modules="all-linear") if peft else None
        given = {"eval_dataset": retain_rows, "peft_config": peft_config}
        return build_trainer(settings | options, model or sharp_model, **given)

    return new


def logged(trainer):
    return [entry for entry in trainer.state.log_history if "loss/forget" in entry]


def encoded(trainer):
    return [{name: row[name] for name in ("input_ids", "labels")} for row in trainer.train_dataset]


@pytest.mark.parametrize("trains_head", [True, False])
def test_sums_over_the_vocabulary_are_in_float32_whatever_the_product_is_in(trains_head):
    torch.manual_seed(0)
    hidden, weight = torch.randn(40, 32).mul_(3), torch.randn(4000, 32)
    labels = torch.randint(4000, (40,))
    states = LabelStates(hidden, labels, [40], LogitHead(weight.requires_grad_(trains_head)))
    with torch.autocast("cpu", torch.bfloat16):
        found = token_scores(states, FORGET_OBJECTIVES["bs_t"].terms(BootstrapUnlearnConfig("x", use_cpu=True)))
    product = hidden.bfloat16() @ weight.detach().bfloat16().t()
    exact = product.double().log_softmax(-1)
    q = product.double().topk(20).values.softmax(-1)
    expected = {
        "logps": exact.gather(-1, labels[:, None])[:, 0],
        "beliefs": (q * exact.topk(20).values).sum(-1),
        "entropy": -(exact.exp() * exact).sum(-1),
    }
    for name, values in expected.items():
        assert getattr(found, name).dtype == torch.float32
        # Logits go up to 87, whose last bit in float32 is 8e-6; the entropy is a difference of their means.
        atol = 1e-4 if name == "entropy" else 2e-5
        torch.testing.assert_close(getattr(found, name)[0].double(), values, atol=atol, rtol=1e-6)
    # The same in bfloat16 would be seen.
    low = product.gather(-1, labels[:, None])[:, 0] - product.logsumexp(-1)
    assert (low.double() - expected["logps"]).abs().max() > 0.1


def test_log_probs_under_autocast_are_near_those_of_float32(sharp_model, new_trainer):
    rows = encoded(new_trainer(copy.deepcopy(sharp_model)))
    batch = pad_rows(rows, 0)
    with torch.no_grad():
        exact = score_batch(sharp_model, batch)
        with torch.autocast("cpu", torch.bfloat16):
            found = score_batch(sharp_model, batch)
            assert label_states(sharp_model, batch).hidden.dtype == torch.float32
    assert found.logps.dtype == torch.float32
    assert exact.logps.min() < -15
    difference = (found.logps - exact.logps).abs()
    assert 0 < difference.max() < TOLERANCE
    assert difference[exact.mask].mean() < TOLERANCE / 4


@pytest.mark.parametrize(
    ("dtype", "learning_rate", "is_lost"),
    [(torch.bfloat16, 1e-5, True), (torch.bfloat16, 1e-3, False), (torch.float32, 1e-5, False)],
)
def test_a_learning_rate_that_16_bits_round_away_is_warned_of(tiny_model, dtype, learning_rate, is_lost, caplog):
    warn_of_lost_steps(tiny_model.to(dtype), learning_rate)
    assert (f"A step of `learning_rate` ({learning_rate:g}) is rounded away in " in caplog.text) == is_lost
    assert ("is rounded away" in caplog.text) == is_lost


@pytest.mark.parametrize("peft", [False, True])
@pytest.mark.parametrize("forget_loss_type", ["bs_t", "npo"])
def test_a_run_in_bf16_has_the_losses_of_one_in_float32_and_weights_in_float32(
    sharp_model, new_trainer, peft, forget_loss_type
):
    # Beliefs are sampled, and one token may fall differently: NPO is compared on the targets alone.
    options = {"forget_loss_type": forget_loss_type, "lambda_bss": 0.0}
    runs = [new_trainer(copy.deepcopy(sharp_model), peft, bf16=bf16, **options) for bf16 in (False, True)]
    seen, compute = set(), runs[1].compute_forget_loss

    def watched(scores):
        loss = compute(scores)
        seen.add((scores.logps.dtype, loss.dtype))
        return loss

    runs[1].compute_forget_loss = watched
    for trainer in runs:
        before = {name: p.detach().clone() for name, p in trainer.model.named_parameters() if p.requires_grad}
        trainer.train()
        after = {name: p for name, p in trainer.model.named_parameters() if p.requires_grad}
        assert {p.dtype for p in trainer.model.parameters()} == {torch.float32}
        assert all(p.isfinite().all() for p in after.values())
        assert any(not torch.equal(p, before[name]) for name, p in after.items())
    assert seen == {(torch.float32, torch.float32)}
    for one, two in zip(*(logged(trainer) for trainer in runs), strict=True):
        for name in ("loss/forget", "loss/retain", "forget/logps", "retain/logps", "forget/entropy"):
            assert two[name] == pytest.approx(one[name], abs=TOLERANCE), name
        assert two["grad_norm"] == pytest.approx(one["grad_norm"], rel=0.05)
    assert logged(runs[0])[0]["forget/logps"] != pytest.approx(logged(runs[1])[0]["forget/logps"], abs=1e-5)


@pytest.mark.parametrize("loss", ["bs_t", "npo"])
def test_a_model_in_bfloat16_is_trained_by_an_adapter_in_float32(sharp_model, new_trainer, loss):
    trainer = new_trainer(sharp_model.bfloat16(), peft=True, forget_loss_type=loss)
    trained = {name: p for name, p in trainer.model.named_parameters() if p.requires_grad}
    frozen = {name: p for name, p in trainer.model.named_parameters() if not p.requires_grad}
    assert {p.dtype for p in trained.values()} == {torch.float32}
    assert {p.dtype for p in frozen.values()} == {torch.bfloat16}
    before = {name: p.detach().clone() for name, p in trainer.model.named_parameters()}
    trainer.train()
    assert all(torch.equal(p, before[name]) for name, p in frozen.items())
    assert all(p.isfinite().all() for p in trained.values())
    assert all(not torch.equal(p, before[name]) for name, p in trained.items() if "lora_B" in name)
    assert all(math.isfinite(entry[name]) for entry in logged(trainer) for name in ("loss", "grad_norm"))


@pytest.mark.parametrize("use_reentrant", [True, False])
def test_every_matrix_of_an_adapter_moves_with_gradient_checkpointing(sharp_model, new_trainer, use_reentrant):
    options = {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": use_reentrant}}
    trainer = new_trainer(sharp_model, peft=True, **options)
    trainer.train()
    ends = [parameter for name, parameter in trainer.model.named_parameters() if "lora_B" in name]
    # They begin at zero.
    assert ends and all(parameter.any() for parameter in ends)


def test_a_model_in_bfloat16_that_is_trained_whole_has_its_losses_in_float32(sharp_model, new_trainer):
    trainer = new_trainer(sharp_model.bfloat16(), lambda_bss=0.0, forget_loss_type="ga")
    seen, compute = [], trainer.compute_forget_loss
    trainer.compute_forget_loss = lambda scores: seen.append(compute(scores)) or seen[-1]
    trainer.train()
    assert {loss.dtype for loss in seen} == {torch.float32}
    assert all(p.dtype == torch.bfloat16 and p.isfinite().all() for p in trainer.model.parameters())
    # Eight bits would be seen in the means of the log.
    found = torch.tensor(logged(trainer)[0]["loss/forget"])
    assert found != found.bfloat16()


@pytest.mark.parametrize("peft", [False, True])
def test_the_reference_of_npo_is_the_model_at_the_first_step(new_trainer, peft):
    trainer = new_trainer(peft=peft, forget_loss_type="npo", max_steps=1)
    ratios, compute = [], trainer.compute_forget_loss

    def watched(scores):
        ratios.append((scores.logps - scores.reference_logps).detach().abs().max())
        return compute(scores)

    trainer.compute_forget_loss = watched
    trainer.train()
    # Float32 and bfloat16 differ by 0.05 on this model: the reference has to be under autocast too.
    assert max(ratios) < 1e-3
    (entry,) = logged(trainer)
    at_zero = 2 / trainer.args.beta * math.log(2)
    assert entry["loss/forget"] == pytest.approx(at_zero, abs=1e-3)
    assert entry["loss/beliefs"] == pytest.approx(at_zero, abs=1e-3)


def test_beliefs_are_sampled_under_autocast(new_trainer):
    trainer = new_trainer(max_steps=1)
    seen, sample = [], trainer.belief_store.sample

    def watched(model, *args, **kwargs):
        hook = model.model.layers[0].mlp.down_proj.register_forward_hook(lambda *found: seen.append(found[-1].dtype))
        try:
            return sample(model, *args, **kwargs)
        finally:
            hook.remove()

    trainer.belief_store.sample = watched
    trainer.train()
    assert set(seen) == {torch.bfloat16}
    assert logged(trainer)[0]["beliefs/coverage"] == 1
    assert math.isfinite(logged(trainer)[0]["beliefs/logps"])


def test_evaluation_is_near_that_of_float32_and_autocast_ends_with_the_training(sharp_model, new_trainer):
    plain = copy.deepcopy(sharp_model)
    losses = [new_trainer(copy.deepcopy(sharp_model), bf16=bf16).evaluate()["eval_loss"] for bf16 in (False, True)]
    assert losses[1] == pytest.approx(losses[0], abs=TOLERANCE)
    trainer = new_trainer()
    trainer.train()
    assert not torch.is_autocast_enabled("cpu")
    plain.load_state_dict(trainer.model.state_dict())
    # `accelerate` leaves the forward of the model under autocast, so they need not be the same bits.
    found, exact = (score_rows(model, encoded(trainer), pad_token_id=0) for model in (trainer.model, plain))
    for one, two in zip(found, exact, strict=True):
        assert one.logps == pytest.approx(two.logps, abs=TOLERANCE)


def extreme_states(tokens, scale, trains_head, dtype):
    """States whose labels are among the least likely tokens, the most likely one, and others in turn."""
    torch.manual_seed(0)
    weight = torch.randn(50, 16)
    hidden = torch.randn(tokens, 16).mul_(scale)
    order = (hidden @ weight.t()).argsort(-1)
    labels = torch.stack([order[i, (0, -1, 25)[i % 3]] for i in range(tokens)])
    hidden, weight = hidden.to(dtype).requires_grad_(), weight.to(dtype).requires_grad_(trains_head)
    return LabelStates(hidden, labels, [tokens // 2, tokens - tokens // 2], LogitHead(weight))


@pytest.mark.parametrize("trains_head", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", [name for name in FORGET_OBJECTIVES if name != "rmu"])
@pytest.mark.parametrize("tokens", [12, 4000])
def test_gradients_are_finite_where_probabilities_vanish_and_rows_are_long(name, dtype, trains_head, tokens):
    # Everything that puts -inf among the logits too.
    options = {"belief_exclude_target": True, "belief_top_k": 50, "token_reduction": "sum"}
    options |= {"forget_loss_kwargs": {"strength": 200.0}} if name == "undial" else {}
    args = BootstrapUnlearnConfig("x", use_cpu=True, forget_loss_type=name, **options).realised(trains_adapter=False)
    # CE-U needs the mass of the other tokens, which is 0 in float32 where the label is 103 nats ahead of them.
    scale, unlikely = (6.0, -75) if name == "ceu" else (30.0, -200)
    states = extreme_states(tokens, scale, trains_head, dtype)
    objective = FORGET_OBJECTIVES[name]
    compared = objective.needs_states or objective.needs_twin
    given = extreme_states(tokens, 3.0, False, dtype) if compared else None
    with torch.autocast("cpu", torch.bfloat16):
        scores = token_scores(states, objective.terms(args), given)
        assert scores.logps.min() < unlikely
        assert scores.logps.max() > -1e-3
        old = torch.zeros_like(scores.logps)
        chosen = ForgetScores(scores.logps.detach() - 300, scores.mask, reference_logps=old)
        answers = ForgetScores(**vars(scores), chosen=chosen, taught=scores.mask)
        if objective.needs_logps:
            answers.reference_logps = old
        loss = objective.loss(answers, args, TermWeights(args).now)
    assert loss.dtype == torch.float32 and loss.isfinite().all()
    loss.sum().backward()
    assert states.hidden.grad.isfinite().all()
    assert not trains_head or states.head.weight.grad.isfinite().all()
