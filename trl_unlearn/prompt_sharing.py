# SPDX-FileCopyrightText: 2026 The trl-unlearn authors
# SPDX-License-Identifier: Apache-2.0

"""Several rows in one sequence, in which rows with the same prompt have it once: fewer tokens, no other numbers."""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


# Width of a sequence up to which the attention between its tokens, most of it masked, costs less than is saved.
_WIDTH = 512
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


def lay_out(shapes: Sequence[RowShape]) -> list[list[Segment]]:
    """The sequences of a pass: segments of rows with the same prompt, spread so that sequences are alike in length."""
    if not shapes:
        return []
    most = max(_WIDTH, 2 * max(shape.length for shape in shapes))
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
    count = -(-sum(segment.length for segment in segments) // most)
    sequences: list[list[Segment]] = [[] for _ in range(count)]
    for segment in sorted(segments, key=lambda one: -one.length):
        min(sequences, key=_filled).append(segment)
    return [sequence for sequence in sequences if sequence]


def _filled(sequence: Sequence[Segment]) -> int:
    return sum(segment.length for segment in sequence)


def _width(sequences: Sequence[Sequence[Segment]]) -> int:
    longest = max((_filled(sequence) for sequence in sequences), default=0)
    return longest + -longest % _MULTIPLE


def laid_out_tokens(shapes: Sequence[RowShape]) -> int:
    """Tokens of a pass over rows of these shapes, with its padding."""
    sequences = lay_out(shapes)
    return len(sequences) * _width(sequences)


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


def shared_pass(batch: Mapping[str, Any]) -> SharedPass:
    """
    Lay the rows of a right-padded batch out in sequences.

    A token sees those before it in its own prompt and in its own answer, and has the position that it has in its row:
    a decoder whose only path between tokens is attention computes the same states.
    """
    ids, labels = batch["input_ids"], batch["labels"]
    lengths = batch["attention_mask"].sum(1).tolist()
    rows = [row[:length] for row, length in zip(ids.tolist(), lengths, strict=True)]
    shapes = [row_shape(row, own[: len(row)]) for row, own in zip(rows, labels.tolist(), strict=True)]
    sequences = lay_out(shapes)
    width = _width(sequences)
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
