# SPDX-FileCopyrightText: 2026 The trl-unlearn authors
# SPDX-License-Identifier: Apache-2.0

"""Own data: a file, a folder or an id on the Hub, as rows or as raw text that is cut into rows (MUSE, WMDP)."""

import glob
import hashlib
import logging
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import datasets
from datasets import (
    Dataset,
    DatasetDict,
    Features,
    Json,
    List,
    Value,
    get_dataset_config_names,
    load_dataset,
    load_dataset_builder,
    load_from_disk,
)
from datasets.exceptions import DatasetGenerationError
from pyarrow import ArrowException
from transformers import PreTrainedTokenizerBase

from ..encoding import map_rows
from ..row_forms import warn_once


logger = logging.getLogger(__name__)

_BUILDERS = {".json": "json", ".jsonl": "json", ".csv": "csv", ".parquet": "parquet", ".txt": "text"}
# Editors on Windows write a mark in front of a text.
_TEXT = {"encoding": "utf-8-sig"}
# Columns of questions and answers that become a prompt and a completion. An `input` belongs to its instruction.
_PAIRS = {("question", "answer"): (), ("instruction", "output"): ("input",)}
# Columns that one form of rows needs, in the order in which an encoding reads them.
ROW_FORMS = (("input_ids", "labels"), ("messages",), ("prompt", "completion"), *_PAIRS, ("text",))
# What stands between two documents.
_SEPARATOR = "\n\n"
# Characters that are tokenised at a time, with the rest of the last ones: a corpus may not fit in memory as tokens.
_BUFFER = 1_000_000


def load_rows(name: str, *, split: str = "train", whole_texts: bool = False) -> Dataset:
    """
    Rows with their own columns, of a file, a folder (`save_to_disk`, too) or an id on the Hub.

    A text file has a row a line, with `whole_texts` one row. A warning counts the files of a folder that are not read.
    """
    if not name.strip():
        raise ValueError("The name of a dataset is empty. Give a file, a folder or an id on the Hub.")
    path = Path(name)
    if path.is_dir():
        return _folder_rows(path, split, whole_texts)
    builder = _BUILDERS.get(path.suffix.lower())
    if builder is None:
        if path.is_file():
            raise ValueError(
                f"The dataset file `{name}` has the ending `{path.suffix}`. Use one of {', '.join(_BUILDERS)}."
            )
        try:
            return _load(split, path=name)
        except OSError as error:
            raise ValueError(
                f"The dataset `{name}` is no file or folder here, and cannot be read from the Hub: {error}. Check the "
                "path or the id; a gated or private one needs `hf auth login`."
            ) from error
    if not path.is_file():
        raise ValueError(f"The dataset file `{name}` does not exist. Check the path.")
    if path.stat().st_size == 0:
        raise ValueError(f"The dataset file `{name}` is empty. Give at least one row.")
    if builder != "parquet":
        _refuse_encoding(path)
    if whole_texts and builder == "text":
        return _whole_texts([path])
    source = {
        "what": f"dataset file `{name}`",
        "kind": builder,
        "split": split,
        "path": builder,
        "data_files": _pattern(path),
    }
    with _cache_beside([path], None) as (cache, in_memory):
        return _read(**source, cache_dir=cache, in_memory=in_memory)


@contextmanager
def _cache_beside(paths: Iterable[Path], cache: str | None) -> Iterator[tuple[str | None, bool]]:
    """A cache for rows of some files, and whether they are to stay in memory: others may read what `datasets` leaves
    there, as they may not a file that is its owner's alone."""
    if all(path.stat().st_mode & 0o077 for path in paths):
        yield cache, False
    else:
        with tempfile.TemporaryDirectory() as own:
            yield own, True


def _pattern(path: Path) -> str:
    """A file as `data_files` has it, where a name is a pattern."""
    return glob.escape(str(path.absolute()))


def _load(split: str, in_memory: bool = False, **source: Any) -> Dataset:
    """Rows that `datasets` loads, with the texts that files have: it makes times of dates, and numbers of digits."""
    if load_dataset_builder(**source).name == "csv":
        # Types are those of the first rows, and others need not have them.
        head = next(iter(load_dataset(**source, nrows=1).values()))
        # Pandas takes the first field of such a row for the name of a row, and puts the others a column too far left.
        if "__index_level_0__" in head.features:
            raise ValueError(
                "Row 1 of the CSV file has more fields than its header. Put texts that have commas in double quotes."
            )
        # An answer such as "NA" or "None" is no gap.
        source |= {"keep_default_na": False, "na_values": [""]}
        source["features"] = Features(dict.fromkeys(head.features, Value("string")))
    source |= {"split": split, "keep_in_memory": in_memory}
    rows = load_dataset(**source)
    # To be read as text, a date has to be read as any JSON first.
    as_json, as_text = (
        Features({name: _without_times(one, kind) for name, one in rows.features.items()})
        for kind in (Json(), Value("string"))
    )
    if rows.info.builder_name != "json" or as_text == rows.features:
        return rows
    rows = load_dataset(**source, features=as_json)
    return map_rows(rows, dict, features=as_text, desc="Reading dates")


def _without_times(feature: Any, kind: Any) -> Any:
    """A feature with another type in place of times."""
    if isinstance(feature, Mapping):
        return {name: _without_times(one, kind) for name, one in feature.items()}
    if isinstance(feature, List):
        return List(_without_times(feature.feature, kind))
    return kind if isinstance(feature, Value) and feature.dtype.startswith("timestamp") else feature


def _read(what: str, kind: str, split: str, in_memory: bool = False, **source: Any) -> Dataset:
    """Rows that the builder `kind` reads; a `ValueError` says why it cannot."""
    try:
        return _load(split, in_memory, **source, **(_TEXT if kind == "text" else {}))
    except (DatasetGenerationError, ArrowException) as error:
        cause = str(error.__cause__ or error).rstrip(" .")
        raise ValueError(f"The {what} cannot be read as {kind}: {cause}. Correct it, or give another.") from error


def _folder_rows(path: Path, split: str, whole_texts: bool) -> Dataset:
    """Rows of the files of a folder, or of its `save_to_disk`."""
    _refuse_folder(path)
    if (path / "state.json").is_file() or (path / "dataset_dict.json").is_file():
        return _from_disk(path, split)
    files = [file for file in sorted(path.rglob("*")) if file.suffix.lower() in _BUILDERS]
    if whole_texts and files and all(file.suffix.lower() == ".txt" for file in files):
        _warn_of_unread(path, files)
        return _whole_texts(files)
    existing = [file for file in files if file.is_file()]
    with _cache_beside([path, *existing], _cache(str(path))) as (cache, in_memory):
        return _files_of_folder(path, files, split, cache, in_memory)


def _files_of_folder(path: Path, files: Sequence[Path], split: str, cache: str | None, in_memory: bool) -> Dataset:
    """Rows of the files of a folder that `datasets` reads by their commonest ending, and a warning of the others."""
    source: dict[str, Any] = {"path": source_name(str(path)), "cache_dir": cache}
    is_pattern = _pattern(path) != str(path.absolute())
    kind = "" if is_pattern and files else load_dataset_builder(**source).name
    if files and kind not in (*_BUILDERS.values(), "arrow"):
        # `datasets` reads the files of the commonest ending: here pictures or other documents. A folder with brackets
        # in its name has no files to it.
        kinds = [_BUILDERS[file.suffix.lower()] for file in files]
        kind = max(kinds, key=kinds.count)
        of_kind = [_pattern(file) for file, own in zip(files, kinds, strict=True) if own == kind]
        source = {"path": kind, "data_files": of_kind, "cache_dir": cache}
    rows = _read(f"folder `{path}`", kind, split, in_memory, **source)
    names = [part.partition("[")[0].strip() for part in split.split("+")]
    of_splits = load_dataset_builder(**source).config.data_files
    # A file in an archive has the path of the archive at its end.
    _warn_of_unread(path, [Path(file.rpartition("::")[2]) for name in names for file in of_splits.get(name, ())])
    return rows


def _warn_of_unread(path: Path, read: Iterable[Path]) -> None:
    """Count the files of a folder that are not read; hidden ones, and a README that describes it, are none."""
    known = {file.resolve() for file in read}
    files = [file for file in path.rglob("*") if file.is_file() and file.resolve() not in known]
    shown = [
        file
        for file in files
        if file.name != "README.md" and not any(part.startswith(".") for part in file.relative_to(path).parts)
    ]
    if shown:
        endings = Counter(file.suffix.lower() or file.name for file in shown)
        kinds = ", ".join(f"{count} {ending}" for ending, count in sorted(endings.items()))
        warn_once(f"Not read in `{path}`: {kinds}. If these belong to the rows, convert them.")


def _refuse_folder(path: Path) -> None:
    """Refuse a folder without a file that can be read as rows."""
    endings = sorted({file.suffix.lower() for file in path.rglob("*") if file.is_file()})
    if not {*_BUILDERS, ".arrow", ".gz", ".zst", ".zip"} & set(endings):
        holds = f"holds {', '.join(f'`{ending}`' for ending in endings)}" if endings else "is empty"
        raise ValueError(
            f"The folder `{path}` {holds}, and no rows. Give one of {', '.join(_BUILDERS)}, or a folder of these; "
            "other documents have to be converted to text first."
        )


def _refuse_encoding(path: Path) -> None:
    """Refuse a file that is not UTF-8: `datasets` would read it, and fail on the row, without naming the file."""
    try:
        with path.open(encoding="utf-8") as file:
            while file.read(_BUFFER):
                pass
    except UnicodeDecodeError as error:
        raise ValueError(
            f"The dataset file `{path}` cannot be read as text: it is not UTF-8 ({error}). Convert the file."
        ) from error


def _whole_texts(paths: list[Path]) -> Dataset:
    """Each text file as one row."""
    for path in paths:
        _refuse_encoding(path)
    texts = [path.read_text(**_TEXT) for path in paths]
    if not any(text.strip() for text in texts):
        raise ValueError(f"`{paths[0]}` has no text. Give at least one row.")
    return Dataset.from_dict({"text": texts})


def _from_disk(path: Path, split: str) -> Dataset:
    """Rows that `save_to_disk` wrote, of a split if there are several."""
    saved = load_from_disk(str(path))
    name, bracket, slice_ = split.partition("[")
    if isinstance(saved, DatasetDict):
        if name not in saved:
            raise ValueError(f"`{path}` has the splits {sorted(saved)}, and no `{name}`. Name one of them.")
        saved = saved[name]
    # As a file, a single set goes by "train", wherever it was taken from.
    elif name not in ("train", str(saved.split)):
        raise ValueError(f"`{path}` is a single set, and has no split `{name}`. Leave the split out.")
    if not bracket:
        return saved
    try:
        start, stop = (int(part) if part else None for part in slice_.removesuffix("]").split(":"))
    except ValueError:
        raise ValueError(f"The split `{split}` is no slice of rows. Give one such as `{name}[:100]`.") from None
    return saved.select(range(len(saved))[start:stop])


def asked(question: str, answer: str, conversational: bool) -> dict[str, Any]:
    """A question and its answer as a prompt-completion row: turns of a conversation, or plain text."""
    if conversational:
        return {
            "prompt": [{"role": "user", "content": question}],
            "completion": [{"role": "assistant", "content": answer}],
        }
    return {"prompt": f"Question: {question}\nAnswer:", "completion": f" {answer}"}


def _forms(rows: Dataset) -> list[tuple[str, ...]]:
    """The `ROW_FORMS` whose columns a table has."""
    return [form for form in ROW_FORMS if set(form) <= set(rows.column_names)]


def _is_filled(row: Mapping[str, Any], form: tuple[str, ...]) -> bool:
    """Whether a row is of a form: in a table of several forms, each row has null in the columns of the others."""
    return all(row[column] is not None for column in form)


def row_forms(rows: Dataset) -> list[tuple[str, ...]]:
    """The `ROW_FORMS` that rows are of. A `ValueError` if one row has the columns of two."""
    forms, of_rows = _forms(rows), set()
    if len(forms) < 2:
        return forms
    for index, row in enumerate(rows.select_columns(sorted({column for form in forms for column in form}))):
        filled = [form for form in forms if _is_filled(row, form)]
        if len(filled) > 1:
            names = " and ".join(f"`{' -> '.join(form)}`" for form in filled)
            raise ValueError(f"Row {index} can be read as {names}. Remove the columns of all forms but one.")
        of_rows |= set(filled)
    return [form for form in forms if form in of_rows] or forms


def as_pairs(rows: Dataset, *, conversational: bool) -> Dataset:
    """Rows of questions and answers (`_PAIRS`) as prompts and completions, see [`asked`]; others stay as they are."""
    forms = _forms(rows)
    pairs = [form for form in forms if form in _PAIRS]
    if not pairs:
        return rows
    row_forms(rows)
    null = Value("null")
    own = rows.features["completion"] if ("prompt", "completion") in forms else null
    # A column has one type: beside prompts that are text, turns stand in `messages`, and beside turns all are turns.
    is_text = isinstance(own, Value) and own != null
    made = ["messages"] if conversational and is_text else ["prompt", "completion"]
    conversational = conversational or not isinstance(own, Value)
    kind = [{"role": Value("string"), "content": Value("string")}] if conversational else Value("string")
    used = {column for pair in pairs for column in (*pair, *_PAIRS[pair])} & set(rows.column_names)
    features = {column: one for column, one in rows.features.items() if column not in used}
    for column in made:
        is_kept = tuple(made) in forms and features[column] != null
        features[column] = features[column] if is_kept else kind

    def convert(row: Mapping[str, Any], index: int) -> dict[str, Any]:
        form = next((one for one in forms if _is_filled(row, one)), pairs[0])
        if form not in _PAIRS:
            return {column: row.get(column) for column in made}
        names = [*form, *(column for column in _PAIRS[form] if column in used)]
        values = [row[column] for column in names]
        wrong = next((one for one in zip(names, values, strict=True) if not isinstance(one[1], str | None)), None)
        if wrong is not None:
            raise ValueError(
                f"Row {index} has `{wrong[0]}` of type `{type(wrong[1]).__name__}`, expected a string. Convert the "
                "column."
            )
        question, answer, *more = (value or "" for value in values)
        question = "\n\n".join(filter(None, (question, *more)))
        if answer.strip() and not question.strip():
            raise ValueError(f"Row {index} has an empty `{form[0]}`. Give it one, or give raw text as `text`.")
        pair = asked(question, answer, conversational)
        return pair if made != ["messages"] else {"messages": pair["prompt"] + pair["completion"]}

    options = {"remove_columns": sorted(used), "features": Features(features)}
    desc = f"Reading {' and '.join(' -> '.join(pair) for pair in pairs)}"
    return map_rows(rows, convert, with_indices=True, desc=desc, **options)


def source_name(name: str) -> str:
    """A dataset's name for `datasets`: of a folder its path, as "text" is a type of files to it, and "." no name."""
    return str(Path(name).resolve()) if Path(name).is_dir() else name


def config_names(name: str) -> list[str]:
    """Names of the configs of a dataset."""
    return get_dataset_config_names(source_name(name))


def _cache(name: str) -> str | None:
    """Cache of a folder in the state of its files: `datasets` would read rows of an earlier state. None for an id."""
    folder = Path(name)
    if not folder.is_dir():
        return None
    files = [(str(path), path.stat()) for path in sorted(folder.rglob("*")) if path.is_file()]
    states = [(path, stat.st_size, stat.st_mtime_ns) for path, stat in files]
    digest = hashlib.sha256(repr(states).encode("utf-8", "surrogateescape")).hexdigest()[:16]
    return str(Path(datasets.config.HF_DATASETS_CACHE, f"folder-{digest}"))


def load_config(name: str, config: str, *, split: str) -> Dataset:
    """One config of a dataset; a `ValueError` names it if it cannot be loaded."""
    folder = Path(name)
    files = [folder, *(path for path in folder.rglob("*") if path.is_file())] if folder.is_dir() else []
    try:
        with _cache_beside(files, _cache(name)) as (cache, in_memory):
            return _load(split, in_memory, path=source_name(name), name=config, cache_dir=cache)
    except ValueError as error:
        raise ValueError(
            f"`{name}` could not be loaded with config `{config}` and split `{split}`: {error}"
        ) from error


def _boundary(text: str, offsets: list[tuple[int, int]], start: int, room: int) -> int:
    """Index of the token that the next chunk starts at: the last one that begins a word, if there is one."""
    end = start + room
    if end >= len(offsets):
        return len(offsets)
    # Only where a space follows a word, both sides have the tokens that they have in the whole text.
    for index in range(end, start + room // 2, -1):
        position = offsets[index - 1][1]
        if 0 < position < len(text) and text[position] == " " and not text[position - 1].isspace():
            return index
    # A word as long as half a chunk, or a script without spaces: anywhere but inside a character.
    while end > start + 1 and offsets[end][0] < offsets[end - 1][1]:
        end -= 1
    return end


def _cut(text: str, tokenizer: PreTrainedTokenizerBase, room: int) -> list[str]:
    """Consecutive pieces of at most `room` tokens; the last one may be continued by more text."""
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    ids, offsets = encoded["input_ids"], encoded["offset_mapping"]
    pieces, start, begin = [], 0, 0
    while start < len(ids):
        end = _boundary(text, offsets, start, room)
        stop = len(text) if end == len(ids) else offsets[end - 1][1]
        piece = text[begin:stop]
        # Tokenizers of the SentencePiece kind put a space of their own in front of a text.
        if piece[:1] == " " and tokenizer(piece, add_special_tokens=False)["input_ids"] != ids[start:end]:
            piece = piece[1:]
        pieces.append(piece)
        start, begin = end, stop
    return pieces


def chunk_documents(documents: Iterable[str], tokenizer: PreTrainedTokenizerBase, *, max_length: int) -> Iterator[str]:
    """Documents as one text, cut where words end into texts of at most `max_length` tokens, as MUSE's sets are."""
    if not tokenizer.is_fast:
        raise ValueError(
            f"A corpus is cut at the offsets of its tokens, which `{type(tokenizer).__name__}` does not give. Load "
            "the fast tokenizer of the model (`use_fast=True`)."
        )
    added = tokenizer.num_special_tokens_to_add()
    if max_length - added < 2:
        raise ValueError(
            f"`max_length` is {max_length}, and the tokenizer adds {added} tokens to a text. A chunk needs at least 2 "
            f"tokens of text: set it to {added + 2} or more (published: 2048 for MUSE)."
        )
    return _chunks(documents, tokenizer, max_length - added)


def _chunks(documents: Iterable[str], tokenizer: PreTrainedTokenizerBase, room: int) -> Iterator[str]:
    text, waiting = "", 0
    for document in documents:
        text += (_SEPARATOR if text else "") + document
        waiting += len(document)
        if waiting >= _BUFFER:
            *pieces, text = _cut(text, tokenizer, room)
            waiting = 0
            yield from (piece for piece in pieces if piece.strip())
    yield from (piece for piece in _cut(text, tokenizer, room) if piece.strip())


def load_corpus(
    name: str,
    tokenizer: PreTrainedTokenizerBase,
    *,
    max_length: int,
    config: str | None = None,
    split: str = "train",
) -> Dataset:
    """Raw text, a config (as of MUSE or WMDP) or a file of [`load_rows`], in chunks of [`chunk_documents`]."""
    # Refused before a corpus is downloaded.
    chunk_documents([], tokenizer, max_length=max_length)
    dataset = load_rows(name, split=split) if config is None else load_config(name, config, split=split)
    where = f"`{name}`" + (f" (config `{config}`)" if config else "") + f", split `{split}`,"
    if "text" not in dataset.column_names:
        raise ValueError(
            f"{where} has the columns {dataset.column_names}, but a corpus needs `text`. Rename the column of the "
            "documents, or name another config."
        )
    for index, document in enumerate(dataset["text"]):
        if not isinstance(document, str):
            raise ValueError(
                f"{where} has a `{type(document).__name__}` for a document in row {index}. Give every row a "
                f"`text` that is a string, or remove the row."
            )
    documents = [document for document in dataset["text"] if document.strip()]
    if not documents:
        raise ValueError(f"{where} has no text in `text` ({len(dataset)} rows). Give at least one document.")
    if len(documents) < len(dataset):
        logger.warning(f"{where} has {len(dataset) - len(documents)} blank documents, which are left out.")
    return Dataset.from_dict({"text": list(chunk_documents(documents, tokenizer, max_length=max_length))})


def is_corpus(name: str, config: str, *, split: str) -> bool:
    """Whether a config is raw text (`text` and no `question`); False also for one that cannot be loaded."""
    try:
        columns = load_config(name, config, split=split).column_names
    except ValueError:
        return False
    return "text" in columns and "question" not in columns
