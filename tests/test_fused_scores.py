# SPDX-FileCopyrightText: 2026 The trl-unlearn authors
# SPDX-License-Identifier: Apache-2.0


import copy
import itertools

import pytest
import torch
import torch.distributed as dist
from peft import LoraConfig, get_peft_model
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from trl_unlearn import _fused_scores
from trl_unlearn.encoding import pad_rows
from trl_unlearn.label_states import LabelStates, LogitHead, check_head
from trl_unlearn.token_scores import RowGroup, ScoreTerms, score_batch, score_groups, token_scores


NUM_LABELS, HIDDEN, VOCAB = 23, 8, 50
DIFFERENTIABLE = ("logps", "beliefs", "others", "kl")


def dense_scores(hidden, head, labels, terms, reference=None):
    """The oracle: every score from logits over the whole vocabulary, in the plainest way."""

    def logits(hidden, head):
        z = hidden @ head.weight.t()
        z = (z if head.bias is None else z + head.bias) * head.scale
        return z if head.softcap is None else head.softcap * torch.tanh(z / head.softcap)

    z, y = logits(hidden, head), labels[:, None]
    logps = z.log_softmax(-1)
    found = {"logps": logps.gather(-1, y)[:, 0], "is_top1": z.argmax(-1) == labels}
    found["entropy"] = -(logps.exp() * logps).sum(-1)
    found["log_variance"] = (logps.exp() * logps.square()).sum(-1) - found["entropy"].square()
    candidates = z.detach()
    if terms.belief_exclude_target:
        candidates = candidates.scatter(-1, y, float("-inf"))
    top_z, top = candidates.topk(terms.belief_top_k, -1)
    found["beliefs"] = ((top_z / terms.belief_temperature).softmax(-1) * logps.gather(-1, top)).sum(-1)
    found["others"] = (z.detach().scatter(-1, y, float("-inf")).softmax(-1) * logps).sum(-1)
    if reference is not None:
        shift = terms.reference_shift * torch.nn.functional.one_hot(labels, z.size(-1))
        z_t, swaps = logits(*reference[:2]).clone(), reference[2]
        for i, (first, second) in enumerate(swaps[:, 0].tolist()):
            z_t[i, [first, second]] = z_t[i, [second, first]]
        log_t = (z_t - shift).log_softmax(-1)
        found["kl"] = (log_t.exp() * (log_t - logps)).sum(-1)
        found["reference_logps"] = log_t.gather(-1, y)[:, 0]
        found["reference_entropy"] = -(log_t.exp() * log_t).sum(-1)
    return found


def random_case(dtype=torch.float64, bias=False, scale=1.0, softcap=None, trainable=False):
    generator = torch.Generator().manual_seed(0)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

    head = LogitHead(normal(VOCAB, HIDDEN), normal(VOCAB) if bias else None, scale, softcap)
    leaves = [normal(NUM_LABELS, HIDDEN).requires_grad_()]
    if trainable:
        leaves += [x.requires_grad_() for x in (head.weight, head.bias) if x is not None]
    labels = torch.randint(VOCAB, (NUM_LABELS,), generator=generator)
    # Each label changes places with another token; the same pair twice is as one.
    swaps = torch.stack([labels, (labels + 1 + torch.arange(NUM_LABELS) % 3) % VOCAB], -1)[:, None].expand(-1, 2, -1)
    reference = (normal(NUM_LABELS, HIDDEN), LogitHead(normal(VOCAB, HIDDEN), None, scale, softcap), swaps)
    return leaves, head, labels, reference


def fused_scores(hidden, head, labels, terms, reference=None):
    given = (
        None
        if reference is None
        else LabelStates(reference[0], labels, [NUM_LABELS], reference[1], swaps=reference[2])
    )
    found = token_scores(LabelStates(hidden, labels, [NUM_LABELS], head), terms, given)
    return {name: value[0] for name, value in vars(found).items() if value is not None and name != "mask"}


def gradients(scores, leaves):
    """Gradients of a sum in which every token of every score has a weight of its own."""
    generator = torch.Generator().manual_seed(1)
    weights = torch.randn(len(DIFFERENTIABLE), NUM_LABELS, generator=generator, dtype=torch.float64)
    return torch.autograd.grad(
        sum((w * scores[name]).sum() for w, name in zip(weights, DIFFERENTIABLE, strict=True)), leaves
    )


@pytest.fixture(params=["one tile", "ragged tiles"])
def tiles(request, monkeypatch):
    if request.param == "ragged tiles":
        monkeypatch.setattr(_fused_scores, "_TILE_ELEMENTS", 5 * VOCAB)


@pytest.mark.parametrize(
    ("trainable", "bias", "scale", "softcap"),
    itertools.product([False, True], [False, True], [1.0, 0.3], [None, 5.0]),
)
@pytest.mark.parametrize(("k", "exclude", "temperature"), [(5, False, 1.0), (5, True, 0.3), (VOCAB, True, 1.0)])
def test_scores_and_gradients_are_those_of_the_dense_oracle(
    trainable, bias, scale, softcap, k, exclude, temperature, tiles
):
    leaves, head, labels, reference = random_case(bias=bias, scale=scale, softcap=softcap, trainable=trainable)
    asked = {"others": True, "reference_shift": 1.5, "entropy": True, "is_top1": True, "log_variance": True}
    terms = ScoreTerms(k, temperature, exclude, **asked)
    found = fused_scores(leaves[0], head, labels, terms, reference)
    expected = dense_scores(leaves[0], head, labels, terms, reference)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, atol=1e-9, rtol=0)
    for ours, theirs in zip(gradients(found, leaves), gradients(expected, leaves), strict=True):
        assert theirs.abs().max() > 1e-3
        torch.testing.assert_close(ours, theirs, atol=1e-9, rtol=0)


@pytest.mark.parametrize(
    ("trainable", "bias", "scale", "softcap"),
    itertools.product([False, True], [False, True], [1.0, 0.3], [None, 5.0]),
)
def test_gradients_under_bfloat16_autocast_point_where_the_dense_ones_do(trainable, bias, scale, softcap):
    leaves, head, labels, reference = random_case(torch.float32, bias, scale, softcap, trainable)
    terms = ScoreTerms(belief_top_k=5, others=True)
    expected = gradients(dense_scores(leaves[0], head, labels, terms, reference), leaves)
    with torch.autocast("cpu", torch.bfloat16):
        found = fused_scores(leaves[0], head, labels, terms, reference)
    for ours, theirs in zip(gradients(found, leaves), expected, strict=True):
        assert ours.dtype == theirs.dtype
        assert torch.cosine_similarity(ours.flatten(), theirs.flatten(), dim=0) >= 0.9999


def test_nothing_cancels_where_the_label_has_nearly_all_of_the_mass():
    # In float32, pi_y = 1 - 1e-9: what is left for the others, and its gradient, must still be right.
    z = torch.tensor([[21.0, 0.3, -0.2, 0.1]])
    labels, terms = torch.tensor([0]), ScoreTerms(belief_top_k=2, others=True)
    leaves = [z.clone().requires_grad_(), z.double().requires_grad_()]
    found = [
        token_scores(LabelStates(leaf, labels, [1], LogitHead(torch.eye(4, dtype=leaf.dtype))), terms)
        for leaf in leaves
    ]
    for name in ("logps", "others"):
        ours, exact = (
            torch.autograd.grad(getattr(scores, name).sum(), leaf, retain_graph=True)
            for scores, leaf in zip(found, leaves, strict=True)
        )
        torch.testing.assert_close(ours[0].double(), exact[0], rtol=1e-5, atol=1e-16)


@pytest.mark.parametrize("surety", [0.99, 0.999, 0.9999])
@pytest.mark.parametrize(("trainable", "softcap"), itertools.product([False, True], [None, 64.0]))
def test_gradients_of_sure_tokens_in_bfloat16_are_no_rounding(trainable, softcap, surety):
    # Logits are 4 x the first column of W, exact in bfloat16, so that only the gradients round.
    weight = torch.randn(VOCAB, HIDDEN, generator=torch.Generator().manual_seed(0)).bfloat16()
    weight[0, 0] = 0.25 * (4 * weight[1:, 0]).float().logsumexp(0) + 0.25 * torch.tensor(surety / (1 - surety)).log()
    if softcap is not None:
        weight[0, 0] = 0.25 * softcap * (4 * weight[0, 0].float() / softcap).atanh()
    other = torch.cat([weight[:1], weight[1:].flip(0)])
    hidden, labels = 4 * torch.eye(HIDDEN)[:1].bfloat16(), torch.tensor([0])

    def directions(dtype, of_reference):
        head = LogitHead(weight.to(dtype, copy=True).requires_grad_(trainable), None, 1.0, softcap)
        states = hidden.to(dtype, copy=True).requires_grad_()
        reference = LabelStates(hidden.to(dtype), labels, [1], LogitHead(of_reference.to(dtype), None, 1.0, softcap))
        scores = token_scores(LabelStates(states, labels, [1], head), ScoreTerms(belief_top_k=3), reference)
        assert -scores.logps.expm1().item() == pytest.approx(1 - surety, rel=0.2)
        return {
            name: torch.autograd.grad(getattr(scores, name).sum(), states, retain_graph=True)[0].double()
            for name in ("logps", "beliefs", "kl")
        }

    found, exact = (directions(dtype, other) for dtype in (torch.bfloat16, torch.float64))
    # Probabilities near 1 are exact to 1e-6 in float32, and to 2e-3 in bfloat16.
    rounding = 1e-6 * weight[0].float().norm()
    for name, direction in exact.items():
        assert (found[name] - direction).norm() <= 0.02 * direction.norm() + rounding
    assert directions(torch.bfloat16, weight)["kl"].norm() <= rounding


def test_the_variance_of_log_pi_does_not_cancel_where_pi_is_nearly_flat():
    z = 7 + 1e-3 * torch.randn(3, VOCAB, generator=torch.Generator().manual_seed(0))
    states = LabelStates(z, torch.tensor([0, 1, 2]), [3], LogitHead(torch.eye(VOCAB)))
    found = token_scores(states, ScoreTerms(log_variance=True)).log_variance[0]
    logps = z.double().log_softmax(-1)
    mean = (logps.exp() * logps).sum(-1, keepdim=True)
    expected = (logps.exp() * (logps - mean).square()).sum(-1)
    torch.testing.assert_close(found.double(), expected, rtol=1e-3, atol=0)


@pytest.mark.parametrize("tied", [False, True])
def test_a_model_gets_the_gradients_of_its_own_logits(tied, tiny_model):
    model = copy.deepcopy(tiny_model).double()
    if tied:
        model.lm_head.weight = model.get_input_embeddings().weight
    batch = pad_rows([{"input_ids": [5, 6, 7, 8], "labels": [-100, 6, 7, 8]}], 0)
    score_batch(model, batch, ScoreTerms(belief_top_k=3)).logps.sum().backward()
    found = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    model.zero_grad()
    logps = model(input_ids=batch["input_ids"]).logits[0, :-1].log_softmax(-1)
    logps.gather(-1, batch["input_ids"][0, 1:, None]).sum().backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(found[name], parameter.grad, atol=1e-9, rtol=0)


def test_groups_of_rows_get_their_own_terms_from_one_pass(tiny_model):
    passes = []
    tiny_model.model.register_forward_hook(lambda *_: passes.append(1))
    rows = [{"input_ids": [5, 6, 7, 8][:n], "labels": [-100, 6, 7, 8][:n]} for n in (4, 2, 3)]
    batch = pad_rows(rows, 0)
    first, second = score_groups(tiny_model, batch, [RowGroup([2, 0], ScoreTerms(belief_top_k=2)), RowGroup([1])])
    assert len(passes) == 1
    assert second.beliefs is None
    whole = score_batch(tiny_model, batch, ScoreTerms(belief_top_k=2))
    torch.testing.assert_close(first.logps[0, :2], whole.logps[2, :2])
    torch.testing.assert_close(first.beliefs[1], whole.beliefs[0])
    torch.testing.assert_close(second.logps[0], whole.logps[1, :1])


def test_a_model_that_fully_shard_has_wrapped_gets_the_same_gradients(tiny_model, tmp_path):
    batch = pad_rows([{"input_ids": [5, 6, 7, 8], "labels": [-100, 6, 7, 8]}], 0)
    plain = copy.deepcopy(tiny_model)
    score_batch(plain, batch).logps.sum().backward()
    dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    try:
        mesh = init_device_mesh("cpu", (1,))
        for layer in tiny_model.model.layers:
            fully_shard(layer, mesh=mesh)
        fully_shard(tiny_model, mesh=mesh)
        score_batch(tiny_model, batch).logps.sum().backward()
        for name, parameter in plain.named_parameters():
            found = tiny_model.get_parameter(name).grad
            torch.testing.assert_close(found.full_tensor(), parameter.grad, msg=name)
    finally:
        dist.destroy_process_group()


def test_an_adapter_on_the_head_is_refused(tiny_model):
    model = get_peft_model(tiny_model, LoraConfig(r=2, target_modules=["lm_head"]))
    with pytest.raises(ValueError, match="adapter on its LM head"):
        check_head(model)


def test_a_quantised_head_is_refused(tiny_model):
    tiny_model.lm_head.weight = torch.nn.Parameter(tiny_model.lm_head.weight.to(torch.int8), requires_grad=False)
    with pytest.raises(ValueError, match=r"LM head is quantised \(`torch.int8`\).*`llm_int8_skip_modules`"):
        check_head(tiny_model)


def test_a_model_that_changes_its_logits_in_an_unknown_way_is_refused(tiny_model):
    original = tiny_model.forward

    def forward(**inputs):
        outputs = original(**inputs)
        outputs.logits = outputs.logits * 2
        return outputs

    tiny_model.forward = forward
    with pytest.raises(ValueError, match=r"turns logits \[1.0, 40.0\] into \[2.0, 80.0\]"):
        score_batch(tiny_model, pad_rows([{"input_ids": [5, 6], "labels": [-100, 6]}], 0))


def test_scoring_leaves_no_trace_on_the_model(tiny_model):
    before = set(vars(tiny_model)), set(vars(tiny_model.lm_head))
    score_batch(tiny_model, pad_rows([{"input_ids": [5, 6], "labels": [-100, 6]}], 0))
    assert (set(vars(tiny_model)), set(vars(tiny_model.lm_head))) == before
