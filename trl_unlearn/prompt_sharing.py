# SPDX-FileCopyrightText: 2026 The trl-unlearn authors
# SPDX-License-Identifier: Apache-2.0

"""Several rows in one sequence, in which rows with the same prompt have it once: fewer tokens, no other numbers."""

import heapq
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor


# Sequences are this many times as wide as the longest row: wider ones repeat fewer prompts, and mask more attention.
_WIDTHS = (1, 2, 4, 8)
# Least cost of shared prompts, relative to rows alone, at which they are not worth their masks.
_WORTH_SHARING = 0.9
# Kernels of attention read masks of a width that is a multiple of 8.
_MULTIPLE = 8


@dataclass(frozen=True)
class RowShape:
    """A row as far as a layout needs it: its prompt, which rows are grouped by, and its number of tokens."""

    prompt: Hashable
    prompt_length: int
    length: int

    @property
    def answer_length(self) -> int:
        return self.length - self.prompt_length


def row_shape(input_ids: Sequence[int], labels: Sequence[int]) -> RowShape:
    """The shape of an encoded row, whose prompt is the tokens before its first label."""
    start = next((i for i, label in enumerate(labels) if label != -100), len(labels))
    return RowShape(tuple(input_ids[:start]), start, len(input_ids))


@dataclass
class Segment:
    """A prompt and the answers of some rows, one after another: the places of the rows, and its number of tokens."""

    rows: list[int]
    length: int


def pass_cost(tokens: int, width: int, hidden_size: int) -> int:
    """Time of a pass of so many tokens, in sequences of a width, in a unit of its own."""
    # In a layer of d states, a token needs 12 d^2 multiplications with weights, and 2 T d with the T tokens of its
    # sequence. Both are divided by 2 d.
    return tokens * (6 * hidden_size + width)


def is_worth_sharing(shared: int, alone: int) -> bool:
    """Whether the cost of passes in which prompts are shared is enough below that of rows with their own."""
    return shared < _WORTH_SHARING * alone


@dataclass(frozen=True)
class Layout:
    """The sequences of a pass, each of segments, for a model with states of a size."""

    sequences: list[list[Segment]]
    hidden_size: int

    @cached_property
    def width(self) -> int:
        """Tokens of a sequence, with its padding."""
        longest = max((sum(segment.length for segment in sequence) for sequence in self.sequences), default=0)
        return longest + -longest % _MULTIPLE

    @property
    def tokens(self) -> int:
        """Tokens of the pass, with its padding."""
        return len(self.sequences) * self.width

    @property
    def cost(self) -> int:
        """Its [`pass_cost`]."""
        return pass_cost(self.tokens, self.width, self.hidden_size)


def lay_out(shapes: Sequence[RowShape], hidden_size: int) -> Layout:
    """The cheapest sequences of a pass: segments of rows with the same prompt, in sequences alike in length."""
    longest = max((shape.length for shape in shapes), default=0)
    layouts = (Layout(_spread(shapes, times * longest), hidden_size) for times in _WIDTHS)
    return min(layouts, key=lambda layout: layout.cost)


def widest(shapes: Sequence[RowShape]) -> int:
    """Tokens that no sequence of a pass of some of these rows exceeds."""
    prompts = {shape.prompt: shape.prompt_length for shape in shapes}
    most = widest_of(max((shape.length for shape in shapes), default=0))
    return min(most, sum(prompts.values()) + sum(shape.answer_length for shape in shapes))


def widest_of(longest: int) -> int:
    """Tokens that no sequence of rows of at most `longest` tokens exceeds."""
    # A segment goes to the emptiest sequence, which has at most the mean, and that is at most what one may have.
    return 2 * _WIDTHS[-1] * longest


def _spread(shapes: Sequence[RowShape], most: int) -> list[list[Segment]]:
    """Sequences of about `most` tokens."""
    # The segment of a prompt that has room.
    open_segments: dict[Hashable, Segment] = {}
    segments: list[Segment] = []
    for place, shape in enumerate(shapes):
        segment = open_segments.get(shape.prompt)
        if segment is None or segment.length + shape.answer_length > most:
            segment = open_segments[shape.prompt] = Segment([], shape.prompt_length)
            segments.append(segment)
        segment.rows.append(place)
        segment.length += shape.answer_length
    count = -(-sum(segment.length for segment in segments) // most) if segments else 0
    sequences: list[list[Segment]] = [[] for _ in range(count)]
    filled = [(0, i) for i in range(count)]
    for segment in sorted(segments, key=lambda one: -one.length):
        length, i = filled[0]
        sequences[i].append(segment)
        heapq.heapreplace(filled, (length + segment.length, i))
    return [sequence for sequence in sequences if sequence]


@dataclass(frozen=True)
class SharedPass:
    """Inputs of a pass in which prompts are shared, and the place of the tokens of each row in it."""

    # [sequences, width]
    input_ids: Tensor
    position_ids: Tensor
    # Whether a token sees another one, [sequences, 1, width, width].
    sees: Tensor
    # Index of each token of a row in the flattened sequences, [rows, tokens]; 0 for padding.
    places: Tensor


def shared_pass(batch: Mapping[str, Any], hidden_size: int, layout: Layout | None = None) -> SharedPass:
    """
    Rows of a right-padded batch in sequences where a token sees its own prompt and answer, at its own position: in the
    cheapest ones, or in those of a layout.
    """
    ids, labels = batch["input_ids"], batch["labels"]
    lengths = batch["attention_mask"].sum(1).tolist()
    rows = [row[:length] for row, length in zip(ids.tolist(), lengths, strict=True)]
    shapes = [row_shape(row, own[: len(row)]) for row, own in zip(rows, labels.tolist(), strict=True)]
    layout = layout or lay_out(shapes, hidden_size)
    sequences, width = layout.sequences, layout.width
    # Of each token: itself, its position in its row, its segment, and its answer (0 for a prompt). Padding is a
    # segment of its own, which sees itself: a softmax needs one value.
    tokens, positions, segments, answers = ([[0] * width for _ in sequences] for _ in range(4))
    places = torch.zeros(ids.shape, dtype=torch.long)
    for s, sequence in enumerate(sequences):
        at = 0
        for number, segment in enumerate(sequence, start=1):
            first = segment.rows[0]
            prompt, length = at, shapes[first].prompt_length
            at += length
            tokens[s][prompt:at] = rows[first][:length]
            positions[s][prompt:at] = range(length)
            segments[s][prompt:at] = [number] * length
            for answer, row in enumerate(segment.rows, start=1):
                end = at + shapes[row].answer_length
                tokens[s][at:end] = rows[row][length:]
                positions[s][at:end] = range(length, shapes[row].length)
                segments[s][at:end] = [number] * (end - at)
                answers[s][at:end] = [answer] * (end - at)
                places[row, :length] = torch.arange(length) + s * width + prompt
                places[row, length : shapes[row].length] = torch.arange(at, end) + s * width
                at = end
    device = ids.device
    segment, answer = (torch.tensor(values, device=device) for values in (segments, answers))
    same = segment[:, :, None] == segment[:, None]
    own = (answer[:, None] == 0) | (answer[:, :, None] == answer[:, None])
    before = torch.ones(width, width, dtype=torch.bool, device=device).tril()
    return SharedPass(
        input_ids=torch.tensor(tokens, device=device),
        position_ids=torch.tensor(positions, device=device),
        sees=(same & own & before)[:, None],
        places=places.to(device),
    )
