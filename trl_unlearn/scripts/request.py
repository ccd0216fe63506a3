# SPDX-FileCopyrightText: 2026 The trl-unlearn authors
# SPDX-License-Identifier: Apache-2.0

"""The forget rows of a request: read in any form, counted, in the form in which the model knows them best."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from statistics import fmean
from typing import Any

from datasets import Dataset
from pyarrow import ArrowException
from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from ..data.files import ROW_FORMS, as_pairs, asked, chunk_documents, load_rows, row_forms
from ..data.retain_source import as_table
from ..encoding import readable_tokens, spread_evenly, without_tensors
from ..evaluation.rows import EncodedSet, encode_set
from ..evaluation.tofu import score_set
from ..row_forms import TEMPLATE_COLUMNS, answer_text, has_answer
from .rows import check_set, load_set


# Columns that an encoding reads. Two rows that differ elsewhere, as in an id, are the same.
READ_COLUMNS = {*chain.from_iterable(ROW_FORMS), *TEMPLATE_COLUMNS}
# Tokens of a piece of raw text: so few that a text of some pages has rows to measure.
_PIECE = 256
# Rows that tell in which form the model knows the set.
_PROBED = 16


@dataclass
class ForgetRows:
    """Rows of a request, and what was seen when they were read."""

    # Form -> the same rows in it; the first is that of the tokenizer.
    forms: dict[str, Dataset]
    # The columns that were read, as `question -> answer`, of all forms.
    columns: str
    empty: int = 0
    repeated: int = 0

    @property
    def rows(self) -> Dataset:
        """The rows in the first form."""
        return next(iter(self.forms.values()))

    def digest(self) -> str:
        """Hexadecimal digits of the content of the rows."""
        text = json.dumps(list(self.rows), default=str, ensure_ascii=False)
        return hashlib.sha256(text.encode("utf-8", "backslashreplace")).hexdigest()

    def words(self) -> str:
        """How many rows there are, and of which form."""
        left_out = [f"{count} {name}" for name, count in (("empty", self.empty), ("repeated", self.repeated)) if count]
        return f"{len(self.rows)} row{'s' * (len(self.rows) > 1)}, {self.columns}" + (
            f"; left out: {', '.join(left_out)}" if left_out else ""
        )


def rows_of(role: str, source: Any) -> Dataset:
    """Rows of a file, a folder, an id on the Hub, a dataset, a data frame, or a list of rows or of texts."""
    if isinstance(source, str | Path):
        return load_set(role, str(source), "train", partial(load_rows, whole_texts=True))
    if isinstance(source, Dataset):
        return without_tensors(source)
    if hasattr(source, "to_dict") and hasattr(source, "columns"):
        return Dataset.from_pandas(source, preserve_index=False)
    rows = list(source) if isinstance(source, Sequence) else None
    if rows and all(isinstance(row, str) for row in rows):
        return Dataset.from_dict({"text": rows})
    if rows and all(isinstance(row, Mapping) for row in rows):
        wrong = (
            f"Row {i} of the {role} set has a `text` of type `{type(row['text']).__name__}`, expected a string. "
            "Convert it."
            for i, row in enumerate(rows)
            if not isinstance(row.get("text"), str | None)
        )
        if (sentence := next(wrong, None)) is not None:
            raise ValueError(sentence)
        try:
            # Not `from_list`, which drops what the first row has no column for.
            return as_table(rows)
        except ArrowException as error:
            raise ValueError(
                f"The rows of the {role} set are no table, because a column has values of two types: "
                f"{' '.join(str(error).split())}. Give each column values of one type, or leave it out."
            ) from error
    raise ValueError(
        f"The {role} set is of type `{type(source).__name__}`. Give a file, a folder, an id on the Hub, a dataset, a "
        "data frame, or a list of rows or of texts that is not empty."
    )


def read_request(role: str, source: Any, tokenizer: PreTrainedTokenizerBase, config: PretrainedConfig) -> ForgetRows:
    """Read and count the rows of a request (`role`: forget or retain); a `ValueError` says why they cannot be used."""
    raw = rows_of(role, source)
    if len(raw) == 0:
        raise ValueError(f"The {role} set is empty. Give at least one row.")
    forms, known = row_forms(raw), ", ".join(f"`{' -> '.join(columns)}`" for columns in ROW_FORMS[1:])
    if ROW_FORMS[0] in forms:
        raise ValueError(
            f"The {role} set has rows of token ids (`input_ids`), and rows that repeat others are found by words. "
            f"Give their text, as one of {known}."
        )
    if not forms:
        raise ValueError(
            f"The {role} set has the columns {raw.column_names}, and none of {known}. Rename the columns to one of "
            "these forms."
        )
    request = ForgetRows({}, " and ".join(" -> ".join(form) for form in forms))
    for name, rows in _forms(raw, tokenizer).items():
        full = [row for row in rows if not _is_empty(row)]
        read = [name for name in rows.column_names if name in READ_COLUMNS]
        distinct = {json.dumps([row[name] for name in read], sort_keys=True, default=str): row for row in full}
        if not distinct:
            raise ValueError(f"All {len(raw)} rows of the {role} set are empty. Give at least one row with text.")
        request.empty, request.repeated = len(raw) - len(full), len(full) - len(distinct)
        kept = Dataset.from_list(list(distinct.values()), features=rows.features)
        kept = _with_pieces(kept, tokenizer, config) if ("text",) in forms else kept
        check_set(encode_set(kept, tokenizer, name=role), config)
        request.forms[name] = kept
    return request


def _forms(raw: Dataset, tokenizer: PreTrainedTokenizerBase) -> dict[str, Dataset]:
    """Form -> rows; questions and answers have two where the tokenizer has a chat template."""
    plain = as_pairs(raw, conversational=False)
    asking = [row for row in plain if row.get("text") is None]
    texts = [row.get(column) for row in asking for column in ("prompt", "completion")]
    if tokenizer.chat_template is None or not texts or not all(isinstance(text, str) for text in texts):
        return {"as given": plain}
    if plain is not raw:
        return {"as turns of a chat": as_pairs(raw, conversational=True), "as plain text": plain}
    turns = [
        row if row.get("text") is not None else row | asked(row["prompt"].strip(), row["completion"].strip(), True)
        for row in raw
    ]
    return {"as turns of a chat": Dataset.from_list(turns), "as plain text": plain}


def _is_empty(row: Mapping[str, Any]) -> bool:
    """Whether a row has no text to forget; a row that lacks a column is not empty, but wrong."""
    if row.get("text") is not None:
        return not str(row["text"]).strip()
    if not has_answer(row):
        return all(value is None for value in row.values())
    try:
        return not answer_text(row)
    except (AttributeError, TypeError, KeyError, IndexError):
        # Of a wrong type, which the encoding names.
        return False


def _with_pieces(rows: Dataset, tokenizer: PreTrainedTokenizerBase, config: PretrainedConfig) -> Dataset:
    """Rows with each raw text among them in pieces of a length that a model can be asked about, no piece twice."""
    positions = readable_tokens(config) or _PIECE + 1
    # Each is a text of its own, with an EOS token.
    length = min(_PIECE, positions - 1)
    cut: dict[int | str, dict[str, Any]] = {}
    for index, row in enumerate(rows):
        if row["text"] is None:
            cut[index] = row
            continue
        for piece in chunk_documents([row["text"]], tokenizer, max_length=length):
            cut[piece] = dict.fromkeys(row) | {"text": piece}
    return Dataset.from_list(list(cut.values()), features=rows.features)


def best_form(request: ForgetRows, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> str:
    """The form in which the model finds the answers likeliest; the first of equals."""
    if len(request.forms) == 1:
        return next(iter(request.forms))
    means = {}
    for form, rows in request.forms.items():
        encoded = encode_set(rows.select(spread_evenly(len(rows), _PROBED)), tokenizer, name="forget")
        means[form] = fmean(scored(model, encoded, tokenizer)["forget/probability"])
    return max(means, key=means.get)


def scored(model: PreTrainedModel, encoded: EncodedSet, tokenizer: PreTrainedTokenizerBase) -> dict[str, list[float]]:
    """Strict scores of each row."""
    return score_set(model, encoded, parity="strict", pad_token_id=tokenizer.pad_token_id)


def json_lines(rows: Dataset) -> str:
    """Rows as JSON lines, without the nulls that a table fills up with; a time or a decimal number as text."""
    kept = ({key: value for key, value in row.items() if value is not None} for row in rows)
    return "".join(json.dumps(row, ensure_ascii=False, default=str) + "\n" for row in kept)
