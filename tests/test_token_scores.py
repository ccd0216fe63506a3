# SPDX-FileCopyrightText: 2026 The trl-unlearn authors
# SPDX-License-Identifier: Apache-2.0

import pytest
import torch
import torch.nn.functional as F

from trl_unlearn.encoding import encode_row, pad_rows
from trl_unlearn.token_scores import (
    RowGroup,
    ScoreTerms,
    gains_by_sharing,
    score_batch,
    score_groups,
    score_rows,
    token_scores,
)

from .families import build
from .teaching import states_of


EXACT = {"atol": 1e-9, "rtol": 0.0}


@pytest.fixture
def rows(forget_rows, retain_rows, tiny_tokenizer):
    """Six encoded rows of different lengths."""
    encoded = [encode_row(row, tiny_tokenizer) for rows in (forget_rows, retain_rows) for row in rows]
    assert len({len(row["input_ids"]) for row in encoded}) > 2
    return encoded


@pytest.fixture
def double_model(tiny_model):
    """In float64, with larger logits than random weights give: the top tokens differ clearly."""
    with torch.no_grad():
        tiny_model.lm_head.weight.mul_(20)
    return tiny_model.double()


@torch.no_grad()
def plain_logps(model, row):
    """log pi over the vocabulary at each label of one row, and the labels: one row, no padding, a plain shift."""
    logps = model(input_ids=torch.tensor([row["input_ids"]])).logits[0].log_softmax(-1)
    positions = [t for t in range(1, len(row["labels"])) if row["labels"][t] != -100]
    return torch.stack([logps[t - 1] for t in positions]), [row["labels"][t] for t in positions]


def plain_beliefs(logps, labels, k, tau, exclude_target):
    """The belief term from a full target vector q, token by token."""
    terms = []
    for token_logps, label in zip(logps, labels, strict=True):
        candidates = [v for v in range(len(token_logps)) if not (exclude_target and v == label)]
        kept = sorted(candidates, key=lambda v: -token_logps[v].item())[:k]
        q = torch.zeros_like(token_logps)
        for v in kept:
            q[v] = torch.exp(token_logps[v] / tau)
        q = q / q.sum()
        terms.append((q * token_logps).sum())
    return torch.stack(terms)


def random_logits(lengths, vocab_size, seed):
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(sum(lengths), vocab_size, generator=generator, dtype=torch.float64)
    labels = torch.randint(vocab_size, (sum(lengths),), generator=generator)
    return states_of(logits, labels, lengths)


def test_logps_of_a_padded_batch_equal_a_plain_loop_over_single_rows(double_model, rows):
    scores = score_batch(double_model, pad_rows(rows, pad_token_id=0))
    assert scores.beliefs is None
    for i, row in enumerate(rows):
        logps, labels = plain_logps(double_model, row)
        expected = torch.stack([token_logps[label] for token_logps, label in zip(logps, labels, strict=True)])
        torch.testing.assert_close(scores.logps[i][scores.mask[i]], expected, **EXACT)
        assert (scores.logps[i][~scores.mask[i]] == 0).all()


def test_scores_are_logs_of_probabilities_worked_by_hand():
    logits = torch.tensor([[1.0, 2.0, 5.0], [4.0, 4.0, 2.0]], dtype=torch.float64).log()
    found = token_scores(states_of(logits, torch.tensor([0, 2]), [1, 1]), ScoreTerms(belief_top_k=2))
    # pi = (1, 2, 5) / 8 and (4, 4, 2) / 10; q = (2, 5) / 7 and (1, 1) / 2.
    torch.testing.assert_close(found.logps, torch.tensor([[1 / 8], [1 / 5]], dtype=torch.float64).log(), **EXACT)
    pi = torch.tensor([1 / 4, 5 / 8, 2 / 5], dtype=torch.float64).log()
    expected = torch.stack([2 / 7 * pi[0] + 5 / 7 * pi[1], pi[2]])[:, None]
    torch.testing.assert_close(found.beliefs, expected, **EXACT)


def test_the_mask_holds_one_place_a_label_and_none_for_the_prompt(double_model, rows):
    scores = score_batch(double_model, pad_rows(rows, pad_token_id=0))
    num_labels = [sum(label != -100 for label in row["labels"]) for row in rows]
    assert scores.mask.sum(1).tolist() == num_labels
    assert scores.logps.shape == (len(rows), max(num_labels))


@pytest.mark.parametrize("pad_token_id", [0, 2, 77])
def test_a_row_scores_the_same_alone_and_among_longer_rows(pad_token_id, double_model, rows):
    scores = score_batch(double_model, pad_rows(rows, pad_token_id), ScoreTerms(belief_top_k=5))
    for i, row in enumerate(rows):
        alone = score_batch(double_model, pad_rows([row], pad_token_id), ScoreTerms(belief_top_k=5))
        for name in ("logps", "beliefs"):
            together_row = getattr(scores, name)[i][scores.mask[i]]
            torch.testing.assert_close(together_row, getattr(alone, name)[0], **EXACT)


def test_a_half_precision_model_is_scored_in_float32(tiny_model, rows):
    found = score_batch(tiny_model.bfloat16(), pad_rows(rows[:2], pad_token_id=0))
    assert found.logps.dtype == torch.float32


@pytest.mark.parametrize("tau", [1.0, 0.25])
@pytest.mark.parametrize("exclude_target", [False, True])
@pytest.mark.parametrize("k", [1, 5, "vocabulary"])
def test_the_belief_term_equals_that_of_a_full_target_vector(k, exclude_target, tau, double_model, rows):
    k = double_model.config.vocab_size if k == "vocabulary" else k
    scores = score_batch(double_model, pad_rows(rows, pad_token_id=0), ScoreTerms(k, tau, exclude_target))
    for i, row in enumerate(rows):
        logps, labels = plain_logps(double_model, row)
        expected = plain_beliefs(logps, labels, k, tau, exclude_target)
        torch.testing.assert_close(scores.beliefs[i][scores.mask[i]], expected, **EXACT)


@pytest.mark.parametrize("exclude_target", [False, True])
@pytest.mark.parametrize("k", [4, 12])
def test_no_gradient_flows_through_the_beliefs_weights(k, exclude_target):
    found = random_logits([3, 2], vocab_size=12, seed=0)
    logits = found.hidden.requires_grad_()
    scores = token_scores(found, ScoreTerms(k, 0.5, exclude_target))
    (gradient,) = torch.autograd.grad(scores.beliefs.sum(), logits)
    # d <q, log pi> / dz = q - pi for a q that is held fixed.
    candidates = logits.detach().clone()
    if exclude_target:
        candidates[torch.arange(5), found.labels] = float("-inf")
    kth = candidates.sort(-1, descending=True).values[:, k - 1, None]
    q = (candidates / 0.5).masked_fill(candidates < kth, float("-inf")).softmax(-1)
    torch.testing.assert_close(gradient, q - logits.detach().softmax(-1), **EXACT)


def test_the_divergence_equals_kl_div_summed_over_the_vocabulary():
    reference, current = random_logits([3, 1, 2], 17, seed=0), random_logits([3, 1, 2], 17, seed=1)
    expected = F.kl_div(
        current.hidden.log_softmax(-1), reference.hidden.log_softmax(-1), reduction="none", log_target=True
    ).sum(-1)
    kl = token_scores(current, reference=reference).kl
    assert (expected > 0.1).all()
    torch.testing.assert_close(torch.cat([kl[0], kl[1, :1], kl[2, :2]]), expected, **EXACT)
    assert kl[1].tolist() == [pytest.approx(expected[3].item()), 0.0, 0.0]


def test_the_divergence_of_the_same_logits_is_zero():
    found = random_logits([3, 2], 17, seed=0)
    shifted = states_of(found.hidden + 5.0, found.labels, found.lengths)
    for other in (found, shifted):
        kl = token_scores(other, reference=found).kl
        torch.testing.assert_close(kl, torch.zeros(2, 3, dtype=torch.float64), **EXACT)


@pytest.mark.parametrize("batch_size", [1, 4, 32])
def test_score_rows_keeps_the_order_whatever_the_batch_size(batch_size, tiny_model, rows):
    with torch.no_grad():
        tiny_model.lm_head.weight.mul_(20)
    scores = score_rows(tiny_model, rows, pad_token_id=0, batch_size=batch_size)
    for row, score in zip(rows, scores, strict=True):
        logps, labels = plain_logps(tiny_model, row)
        expected = [token_logps[label].item() for token_logps, label in zip(logps, labels, strict=True)]
        assert score.logps == pytest.approx(expected, abs=1e-5)
        assert score.is_top1 == [
            token_logps.argmax().item() == label for token_logps, label in zip(logps, labels, strict=True)
        ]
    assert len({len(score.logps) for score in scores}) > 1


def test_a_row_of_the_model_s_own_argmax_is_top1_throughout(tiny_model):
    ids = [5, 6, 7]
    for _ in range(6):
        ids.append(tiny_model(input_ids=torch.tensor([ids])).logits[0, -1].argmax().item())
    row = {"input_ids": ids, "labels": [-100] * 3 + ids[3:]}
    wrong = {"input_ids": ids, "labels": [-100] * 3 + [(token + 1) % 400 for token in ids[3:]]}
    right, missed = score_rows(tiny_model, [row, wrong], pad_token_id=0)
    assert right.is_top1 == [True] * 6
    assert missed.is_top1 == [False] * 6


@pytest.mark.parametrize("training", [True, False])
def test_score_rows_evaluates_and_puts_the_training_mode_back(training, tiny_model, rows):
    seen = []
    tiny_model.lm_head.register_forward_hook(
        lambda module, *_: seen.append((module.training, torch.is_grad_enabled()))
    )
    score_rows(tiny_model.train(training), rows, pad_token_id=0, batch_size=3)
    assert seen == [(False, False)] * 2
    assert tiny_model.training is training


def answers_to(prompts, count):
    """Rows with different answers to each prompt, in no order, and one of them twice."""
    draw = torch.Generator().manual_seed(0)
    rows = [
        (prompt, torch.randint(3, 400, (4 + 3 * j,), generator=draw).tolist())
        for j in range(count)
        for prompt in prompts
    ]
    rows = [{"input_ids": prompt + answer, "labels": [-100] * len(prompt) + answer} for prompt, answer in rows]
    return [*rows, rows[2]]


@pytest.mark.parametrize("share_prompts", [False, True])
def test_rows_with_the_same_prompt_or_the_same_tokens_have_the_scores_of_rows_alone(share_prompts):
    model, tokens = build("llama", scale=1.0).double(), []
    rows = answers_to([[*range(10, 30)], [*range(40, 52)]], 3)
    alone = [score_rows(model, [row], pad_token_id=0, moments=True)[0] for row in rows]
    model.get_input_embeddings().register_forward_pre_hook(lambda module, args: tokens.append(args[0].numel()))
    together = score_rows(model, rows, pad_token_id=0, batch_size=4, moments=True, share_prompts=share_prompts)
    for one, other in zip(together, alone, strict=True):
        assert one.logps == pytest.approx(other.logps, abs=1e-10)
        assert one.log_variance == pytest.approx(other.log_variance, abs=1e-10)
        assert one.is_top1 == other.is_top1
    # Of 7 rows 6 differ. A pass of four: two prompts, or four, and their answers, in multiples of 8 where they share.
    assert tokens == ([64, 24] if share_prompts else [120, 38])


def test_prompts_are_shared_where_that_saves_tokens_and_the_model_can():
    common, apart = answers_to([[*range(10, 30)]], 3), answers_to([[i, *range(10, 30)] for i in (3, 4, 5)], 1)
    assert gains_by_sharing(build("llama"), common) and not gains_by_sharing(build("llama"), apart[:3])
    assert not gains_by_sharing(build("mamba"), common)
    assert not gains_by_sharing(build("llama"), answers_to([[9]], 3))
    assert not gains_by_sharing(build("llama").bfloat16(), common)
    with torch.autocast("cpu", torch.bfloat16):
        assert not gains_by_sharing(build("llama"), common)


def test_no_rows_have_no_scores(tiny_model):
    assert score_rows(tiny_model, [], pad_token_id=0) == []


class Wrapper(torch.nn.Module):
    """Counts the outputs of the wrapped forward that need a gradient, as ZeRO-3 does."""

    def __init__(self, module):
        super().__init__()
        self.module, self.counts = module, []

    def forward(self, **inputs):
        outputs = self.module(**inputs)
        self.counts.append(sum(value.requires_grad for value in outputs.values()))
        return outputs


def test_a_pass_has_one_output_with_a_gradient_whatever_rows_are_in_it(
    double_model, rows, tiny_tokenizer, monkeypatch
):
    wrapper = Wrapper(double_model)
    monkeypatch.setattr(
        "trl_unlearn.token_scores.extract_model_from_parallel", lambda model: getattr(model, "module", model)
    )
    batch = pad_rows(rows[:3], tiny_tokenizer.pad_token_id)
    belief, plain = ScoreTerms(belief_top_k=5, entropy=True), ScoreTerms()
    for groups in ([RowGroup([0, 1], belief), RowGroup([2], plain)], [RowGroup([0, 1, 2], plain)]):
        found = score_groups(wrapper, batch, groups, layer=0)
        expected = [score_groups(double_model, batch, [group], layer=0)[0] for group in groups]
        for one, other in zip(found, expected, strict=True):
            for name in ("logps", "beliefs", "entropy", "inner"):
                assert (getattr(one, name) is None) == (getattr(other, name) is None)
                if getattr(one, name) is not None:
                    torch.testing.assert_close(getattr(one, name), getattr(other, name), **EXACT)
    assert wrapper.counts == [1, 1]


@pytest.mark.parametrize("trains_head", [True, False])
def test_a_group_without_rows_has_no_scores_and_changes_no_gradient(double_model, rows, tiny_tokenizer, trains_head):
    double_model.lm_head.weight.requires_grad_(trains_head)
    batch = pad_rows(rows[:2], tiny_tokenizer.pad_token_id)
    terms, gradients = ScoreTerms(belief_top_k=5), []
    for groups in ([RowGroup([0, 1], terms)], [RowGroup([0, 1], terms), RowGroup([], ScoreTerms(entropy=True))]):
        scores, *rest = score_groups(double_model, batch, groups)
        double_model.zero_grad()
        (scores.logps.sum() + scores.beliefs.sum()).backward()
        gradients.append([p.grad.clone() for p in double_model.parameters() if p.grad is not None])
    assert rest == [None]
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, **EXACT)
