# SPDX-FileCopyrightText: 2026 The trl-unlearn authors
# SPDX-License-Identifier: Apache-2.0

from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model
from transformers import GPTNeoConfig, GPTNeoForCausalLM

from trl_unlearn import label_states as label_states_module
from trl_unlearn.encoding import pad_rows
from trl_unlearn.label_states import label_states, sharing_obstacle
from trl_unlearn.prompt_sharing import RowShape, lay_out, row_shape, shared_pass, widest
from trl_unlearn.token_scores import ScoreTerms, gains_by_sharing, score_batch

from .conftest import cases
from .families import FAMILIES, build


# No row of these tests fills it, though a sequence of several does.
WIDE = {"sliding_window": 24}


def row(prompt, answer):
    return {"input_ids": [*prompt, *answer], "labels": [-100] * len(prompt) + [*answer]}


def rows_of_two_prompts():
    """Two prompts with three and two answers, a row alone, and raw text, in no order."""
    draw = torch.Generator().manual_seed(0)

    def tokens(count):
        return torch.randint(3, 400, (count,), generator=draw).tolist()

    first, second = tokens(9), tokens(5)
    answers = [(first, 7), (second, 11), (first, 4), (tokens(3), 6), (first, 12), (second, 8)]
    raw = tokens(10)
    return [row(prompt, tokens(count)) for prompt, count in answers] + [{"input_ids": raw, "labels": raw}]


def shapes_of(rows):
    return [row_shape(one["input_ids"], one["labels"]) for one in rows]


def test_rows_with_the_same_prompt_are_a_segment_in_which_it_stands_once():
    prompt = [5, 6, 7]
    rows = [row(prompt, [8, 9]), row([4], [3, 3]), row(prompt, [9, 9, 9])]
    layout = lay_out(shapes_of(rows), 64)
    assert [[(one.rows, one.length) for one in part] for part in layout.sequences] == [[([0, 2], 8), ([1], 3)]]
    assert layout.tokens == 16
    assert lay_out([], 64).tokens == 0


def test_a_token_sees_its_prompt_and_its_own_answer_and_has_the_position_of_its_row():
    batch = pad_rows([row([5, 6], [7]), row([5, 6], [8, 9])], pad_token_id=0)
    shared = shared_pass(batch, 64)
    assert shared.input_ids.tolist() == [[5, 6, 7, 8, 9, 0, 0, 0]]
    assert shared.position_ids.tolist() == [[0, 1, 2, 2, 3, 0, 0, 0]]
    assert shared.places.tolist() == [[0, 1, 2, 0], [0, 1, 3, 4]]
    assert [[i for i, one in enumerate(seen) if one] for seen in shared.sees[0, 0, :5].tolist()] == [
        [0],
        [0, 1],
        [0, 1, 2],
        [0, 1, 3],
        [0, 1, 3, 4],
    ]
    # No token is without a value to attend to, and none of a row sees padding.
    assert shared.sees[0, 0].any(-1).all() and not shared.sees[0, 0, :5, 5:].any()


def test_long_groups_are_spread_over_sequences_that_are_alike_in_length():
    prompt = list(range(3, 103))
    shapes = shapes_of([row(prompt, [9] * 150) for _ in range(8)])
    sequences = lay_out(shapes, 256).sequences
    assert sorted(place for sequence in sequences for one in sequence for place in one.rows) == list(range(8))
    assert [sum(one.length for one in sequence) for sequence in sequences] == [400, 400, 400, 400]


def test_sequences_are_wider_where_products_with_weights_cost_more_than_attention():
    shapes = shapes_of([row(list(range(3, 103)), [9] * 100) for _ in range(6)])
    assert [lay_out(shapes, size).width for size in (16, 256, 4096)] == [200, 400, 704]


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("family", FAMILIES)
def test_each_family_has_the_same_scores_or_a_reason(family, attention):
    has_experts = family in ("qwen3_moe", "olmoe", "mixtral")
    # The product of experts has no float64.
    model = build(family).to(torch.float32 if has_experts else torch.float64)
    model.set_attn_implementation(attention)
    rows = rows_of_two_prompts()
    obstacle = sharing_obstacle(model, max(len(one["input_ids"]) for one in rows), 64)
    expects_one = family.startswith(("gemma3", "mistral", "recurrent"))
    assert (obstacle is not None) == expects_one, obstacle
    if family.startswith("recurrent"):
        return
    if expects_one:
        model = build(family, **WIDE).double()
        model.set_attn_implementation(attention)
        assert sharing_obstacle(model, WIDE["sliding_window"], 64) is None
    batch, terms = pad_rows(rows, 0), ScoreTerms(belief_top_k=5, entropy=True)
    plain, shared = (score_batch(model, batch, terms, share_prompts=one) for one in (False, True))
    # The softmax of `eager` attention is in float32.
    atol = 1e-5 if attention == "eager" or has_experts else 1e-10
    for name in ("logps", "beliefs", "entropy"):
        torch.testing.assert_close(getattr(shared, name), getattr(plain, name), rtol=0, atol=atol)
    assert torch.equal(shared.mask, plain.mask)


@pytest.mark.parametrize("family", ["gemma3", "mistral"])
def test_a_window_that_no_row_fills_is_no_obstacle(family):
    assert sharing_obstacle(build(family), 8, 64) is None
    assert "8 tokens" in sharing_obstacle(build("mistral"), 9, 64)


def test_a_mask_by_place_in_the_sequence_shows_where_a_pass_is_wider_than_it():
    settings = {"hidden_size": 32, "num_layers": 2, "num_heads": 2, "attention_types": [[["global", "local"], 1]]}
    config = GPTNeoConfig(
        vocab_size=100, max_position_embeddings=512, window_size=64, initializer_range=0.3, **settings
    )
    torch.manual_seed(0)
    model = GPTNeoForCausalLM(config).eval()
    prompt = list(range(3, 43))
    rows = [row(prompt, [(3 + number * place) % 97 for place in range(1, 17)]) for number in range(1, 9)]
    longest = max(len(one["input_ids"]) for one in rows)
    assert sharing_obstacle(model, longest, 64) is None
    assert sharing_obstacle(model, longest, 65 + 16) == "its tokens meet in other ways than attention"
    # And is asked no more where it is known to fail.
    assert sharing_obstacle(model, longest, 64) is not None
    assert not gains_by_sharing(model, rows)


@cases(100)
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(1, 40), st.integers(1, 40)), min_size=1, max_size=40))
def test_no_sequence_is_wider_than_the_one_that_a_model_was_tried_with(rows):
    lengths = {}
    shapes = [
        RowShape(name, first := lengths.setdefault(name, prompt), first + answer) for name, prompt, answer in rows
    ]
    for hidden_size in (1, 64, 4096):
        layout = lay_out(shapes, hidden_size)
        assert max(sum(segment.length for segment in one) for one in layout.sequences) <= widest(shapes)


@pytest.mark.parametrize("family", ["mamba", "rwkv"])
def test_a_state_space_model_cannot_share_prompts(family):
    model = build(family).train()
    assert sharing_obstacle(model, 8, 64) is not None
    assert model.training


def test_an_attention_without_masks_of_pairs_cannot_share_prompts():
    model = build("llama")
    model.config._attn_implementation = "flash_attention_2"
    assert "`flash_attention_2`" in sharing_obstacle(model, 8, 64)


@pytest.mark.parametrize("fault", ["positions", "mask"])
def test_a_model_that_reads_other_positions_or_another_mask_is_refused(fault, monkeypatch):
    model = build("llama")
    forward = model.forward

    def faulty(position_ids=None, attention_mask=None, **inputs):
        if attention_mask.dim() == 4:
            if fault == "positions":
                position_ids = None
            else:
                width = attention_mask.size(-1)
                attention_mask = torch.ones(width, width, dtype=torch.bool).tril().expand_as(attention_mask)
        return forward(position_ids=position_ids, attention_mask=attention_mask, **inputs)

    monkeypatch.setattr(model, "forward", faulty)
    assert sharing_obstacle(model, 8, 64) == "its tokens meet in other ways than attention"


def in_precision_of_weights(model):
    """The model with norms that compute in the precision of its weights, where its family's are in float32."""

    def forward(states, norm):
        scale = norm.weight + 1 if "Gemma" in type(norm).__name__ else norm.weight
        epsilon = norm.eps if hasattr(norm, "eps") else norm.variance_epsilon
        return torch.nn.functional.rms_norm(states, scale.shape, scale, epsilon)

    for module in model.modules():
        if type(module).__name__.endswith("RMSNorm"):
            module.forward = partial(forward, norm=module)
    return model


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("tuning", ["full", "lora"])
@pytest.mark.parametrize("family", ["llama", "qwen3", "gemma3", "gpt2", "phi"])
def test_loss_and_gradients_are_those_of_rows_that_pass_alone(family, tuning, checkpointing):
    rows = rows_of_two_prompts()
    for dtype, tolerance in ((torch.float64, 1e-10), (torch.float32, 1e-6)):
        results = []
        for share_prompts in (False, True):
            model = build(family, scale=1.0, **(WIDE if family == "gemma3" else {})).to(dtype)
            assert sharing_obstacle(model, max(len(one["input_ids"]) for one in rows), 64) is None
            if dtype == torch.float64:
                model = in_precision_of_weights(model)
            unwrapped = model
            if tuning == "lora":
                torch.manual_seed(1)
                settings = LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False)
                settings.fan_in_fan_out = family == "gpt2"
                model = get_peft_model(model, settings).to(dtype)
            if checkpointing:
                model.enable_input_require_grads()
                model.gradient_checkpointing_enable({"use_reentrant": False})
            model.train()
            batch, terms = pad_rows(rows, 0), ScoreTerms(belief_top_k=5)
            scores = score_batch(unwrapped, batch, terms, share_prompts=share_prompts)
            loss = scores.logps.mean() + scores.beliefs[:3].sum()
            loss.backward()
            gradients = [one.grad.flatten() for one in model.parameters() if one.grad is not None]
            results.append((scores.logps.detach(), loss.detach(), torch.cat(gradients)))
        (logps, loss, gradient), (shared_logps, shared_loss, shared_gradient) = results
        assert (logps - shared_logps).abs().max() < tolerance * logps.abs().max()
        assert abs(loss - shared_loss) < tolerance * abs(loss)
        assert gradient.norm() > 1e-3
        # Beside float64, gradients of LoRA in float32 are off by up to 5e-6, shared or not.
        assert (gradient - shared_gradient).norm() < 2 * tolerance * gradient.norm()


def test_states_of_an_inner_layer_are_those_of_each_row():
    model, batch = build("llama").double(), pad_rows(rows_of_two_prompts(), 0)
    plain, shared = (label_states(model, batch, layer=0, share_prompts=one) for one in (False, True))
    torch.testing.assert_close(shared.inner, plain.inner, rtol=0, atol=1e-10)
    assert shared.lengths == plain.lengths and torch.equal(shared.labels, plain.labels)


def test_a_shared_pass_is_smaller(monkeypatch):
    seen = []
    model, batch = build("llama"), pad_rows(rows_of_two_prompts(), 0)
    monkeypatch.setattr(
        label_states_module, "shared_pass", lambda *inputs: seen.append(shared_pass(*inputs)) or seen[-1]
    )
    label_states(model, batch, share_prompts=True)
    assert seen[0].input_ids.numel() == 80 < batch["input_ids"].numel()
