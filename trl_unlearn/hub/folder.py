# SPDX-FileCopyrightText: 2026 The trl-unlearn authors
# SPDX-License-Identifier: Apache-2.0

"""
The output folder of a run: what it holds, whose results these are, which files may leave it, and what is cleared.

Every question about such a folder is answered here. Files leave it by an allow-list, never the folder as it is.
"""

import hashlib
import json
import logging
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from huggingface_hub import ModelCard

from ..records import UnlearningRun, last_part, write_whole
from ..results import PARITIES, EvaluationResult
from .access import is_repo_id
from .card import eval_result_files, render_card
from .private import PRIVATE_FILES, PrivateFiles
from .public import public_config, public_result, public_run


logger = logging.getLogger(__name__)

RUN_FILE, RESULTS_FILE, CARD_FILE = "run.json", "eval_results.json", "README.md"
_ADAPTER_WEIGHTS, ADAPTER_CONFIG = "adapter_model.safetensors", "adapter_config.json"
_MODEL_WEIGHTS, _INDEX = "model.safetensors", "model.safetensors.index.json"

# The allow-list. A file that no pattern matches stays. Some models on the Hub number their shards in six digits.
_WEIGHTS = r"adapter_model\.safetensors|model(-\d{5,}-of-\d{5,})?\.safetensors"
_MODEL = rf"{_WEIGHTS}|model\.safetensors\.index\.json|(adapter_|generation_)?config\.json"
_TOKENIZER = (
    r"tokenizer(_config)?\.json|special_tokens_map\.json|added_tokens\.json|vocab\.(json|txt)|merges\.txt|"
    r"(tokenizer|spiece)\.model|chat_template\.(jinja|json)|additional_chat_templates/[\w-]+\.jinja"
)
_CONFIG = r"((adapter_|generation_|tokenizer_)?config|special_tokens_map)\.json"
_RESULTS = r"eval_results\.json|squeezing\.json|figures/[\w-]+\.png|\.eval_results/[\w.-]+\.yaml"
_EVAL_RESULTS = ".eval_results/*.yaml"
_PUBLISHED = re.compile(rf"{_MODEL}|{_TOKENIZER}|README\.md|LICENSE|run\.json|{_RESULTS}")

# Pattern of files that stay -> the reason that a push lists. The first match counts, also for a file that the
# allow-list has: a checkpoint holds weights and a tokenizer, too.
_LEFT_OUT = (
    # A ledger says when somebody asked, and its digests tell whether guessed rows are those of the request.
    (r"^request/|^requests\.json$|^review\.jsonl$", "rows and ledger of requests"),
    (r"checkpoint-[^/]*/", "checkpoint"),
    (r"(^|/)(optimizer|scheduler|scaler|rng_state|trainer_state|training_args)[^/]*$|global_step", "training state"),
    (r"^ref/", "frozen reference adapter"),
    (r"belief", "beliefs"),
    (r"\.(arrow|parquet)$|(^|/)(cache|dataset_info)", "rows or cache of a data set"),
    (r"(^|/)completions", "log of completions"),
    (r"(^|/)\.?show\.html", "page with text of the forget set"),
    (r"\.(bin|pt|pth|ckpt|pkl|pickle|h5|msgpack)$", "pickle; weights go as safetensors"),
    (r"(^|/)\.(?!eval_results/)", "hidden file"),
)
_UNKNOWN = "unknown file"
# Folders are also shared by hand: texts that stay beside the published files are searched for leaks as well.
_SCANNED_TOO = ("log of completions", _UNKNOWN)
_TEXT_SUFFIXES = (".md", ".txt", ".log", ".json", ".jsonl", ".csv", ".tsv", ".yaml", ".yml", ".html", ".svg", ".xml")

# Figures of an evaluation, and of the training: the order on every card.
_RESULT_FIGURES, _RUN_FIGURES = (
    ("verdict", "evaluation", "relearning", "attacks", "leak_at_k", "depth"),
    ("training", "squeezing"),
)

# What an evaluation writes, and no training.
_OF_EVALUATION = rf"eval_results\.json|\.eval_results/.*|figures/({'|'.join(_RESULT_FIGURES)})\.png"

# Marks the folder of a run from its first step until all is written; holds the digest of the settings.
_UNFINISHED = "unfinished.json"
# Folder of the rows and settings that `trl-unlearn forget` has made; its digest is written when all of them are. Those
# of a request that is to replace an earlier run are in the folder `_NEXT` in it until training begins.
_REQUEST, _NEXT, _REQUEST_DIGEST = "request", "next", "digest"

# Marks the repository of a base that a push made.
BASE_FILE = "base.json"
BASE_CARD = """---
library_name: transformers
pipeline_tag: text-generation{terms}
---

# Base of `{repo_id}`

The model that the adapter `{repo_id}` was trained on, as it was before. **It has not forgotten anything.**
"""


@dataclass(frozen=True)
class PushFile:
    """A file to publish: its path in the repository, and its bytes, or for weights the file that holds them."""

    path: str
    content: bytes | Path

    @property
    def size(self) -> int:
        """`int`: In bytes."""
        return len(self.content) if isinstance(self.content, bytes) else self.content.stat().st_size

    @cached_property
    def sha256(self) -> str:
        """`str`: SHA-256 of the content, hexadecimal."""
        if isinstance(self.content, bytes):
            return hashlib.sha256(self.content).hexdigest()
        with self.content.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    def scanned(self) -> bytes:
        """`bytes`: The part that is searched for texts: all of it, of weights the header."""
        if isinstance(self.content, bytes):
            return self.content
        with self.content.open("rb") as file:
            # safetensors: the length of the header in 8 bytes, then the header, which may hold any metadata.
            return (length := file.read(8)) + file.read(int.from_bytes(length, "little"))


@dataclass
class RepoContents:
    """The files of one repository."""

    repo_id: str
    kind: str  # "adapter", "model", "merged model", "base model" or "Space"
    files: dict[str, PushFile]
    left_out: dict[str, str] = field(default_factory=dict)  # path in the folder -> why it stays
    # Files that stay and may not hold forbidden texts either.
    also_scanned: list[PushFile] = field(default_factory=list)

    def weights(self) -> dict[str, str]:
        """`dict[str, str]`: Path of each file of weights -> its SHA-256."""
        return {path: file.sha256 for path, file in sorted(self.files.items()) if re.fullmatch(_WEIGHTS, path)}

    def allows(self, path: str, allowed: Sequence[str]) -> bool:
        """Whether somebody has read a file, in the run's folder and not in the base's, so that it may hold texts."""
        return self.kind != "base model" and path in allowed

    def put(self, path: str, content: str | bytes) -> None:
        """Add a file, or replace it."""
        self.files[path] = PushFile(path, content.encode() if isinstance(content, str) else content)

    def leave_out(self, pattern: str, reason: str) -> None:
        """Take the files whose paths match out of what is published."""
        for path in [path for path in self.files if re.fullmatch(pattern, path)]:
            del self.files[path]
            self.left_out[path] = reason


# The folder of any model


def is_published(path: str) -> bool:
    """Whether the allow-list has a path: weights, configs, tokenizer, records, card and figures."""
    return _PUBLISHED.fullmatch(path) is not None


def is_of_run(path: str) -> bool:
    """Whether a run writes a path of the allow-list: no licence, and no figure and no result of another name."""
    figures, ends = "|".join((*_RESULT_FIGURES, *_RUN_FIGURES)), "|".join(PARITIES)
    by_hand = rf"LICENSE|figures/(?!({figures})\.png)|\.eval_results/(?!.*-({ends})\.yaml)"
    return is_published(path) and re.match(by_hand, path) is None


def read_folder(folder: Path, repo_id: str, kind: str) -> RepoContents:
    """Sort the files of a folder into those that may be published and those that stay; see [`RepoContents`]."""
    contents = RepoContents(repo_id, kind, {})
    if kind == "base model":
        refuse_base(folder)
    weights = _weight_files(folder, is_adapter := kind in ("adapter", "merged model"))
    if not weights:
        name = _ADAPTER_WEIGHTS if is_adapter else _MODEL_WEIGHTS
        raise ValueError(f"`{folder}` holds no `{name}`. Give the folder of a finished run, saved as safetensors.")
    of_model = {ADAPTER_CONFIG, *weights} if is_adapter else {"config.json", "generation_config.json", *weights}
    if len(weights) > 1 or weights != [_MODEL_WEIGHTS]:
        of_model.add(_INDEX)
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        path = file.relative_to(folder).as_posix()
        reason = next((reason for pattern, reason in _LEFT_OUT if re.search(pattern, path)), None)
        if reason is None and not is_published(path):
            reason = _UNKNOWN
        elif reason is None and re.fullmatch(_MODEL, path) and path not in of_model:
            # A model beside an adapter, or a shard of an earlier save: it would be loaded instead.
            reason = "not of this model"
        if reason is None:
            # Weights stay on the disk: they may be larger than the memory.
            contents.files[path] = PushFile(path, file if re.fullmatch(_WEIGHTS, path) else file.read_bytes())
            continue
        contents.left_out[path] = reason
        if reason in _SCANNED_TOO and file.suffix in _TEXT_SUFFIXES:
            contents.also_scanned.append(PushFile(path, file.read_bytes()))
    return contents


def refuse_base(folder: Path) -> None:
    """Refuse the base of an adapter whose weights no push takes."""
    if not _weight_files(folder, is_adapter=False):
        raise ValueError(
            f"The adapter's base `{folder}` has no weights as safetensors, and others are not published. Save it anew "
            "as safetensors, or publish the run with `trl-unlearn push`: merged (`--merge`), or with the base's place "
            "on the Hub (`--base_model_id`)."
        )


def _weight_files(folder: Path, is_adapter: bool) -> list[str]:
    """Names of the files that hold the weights of a folder: of shards those that the index names."""
    if is_adapter or (folder / _MODEL_WEIGHTS).is_file() or not (folder / _INDEX).is_file():
        return [name for name in [_ADAPTER_WEIGHTS if is_adapter else _MODEL_WEIGHTS] if (folder / name).is_file()]
    names = sorted(set(json.loads((folder / _INDEX).read_text(encoding="utf-8"))["weight_map"].values()))
    missing = [name for name in names if not re.fullmatch(_WEIGHTS, name) or not (folder / name).is_file()]
    if missing:
        raise ValueError(
            f"`{folder / _INDEX}` names {missing}, which are no files of weights in this folder. Save the model anew."
        )
    return names


def saved_files(folder: Path, is_adapter: bool) -> list[str]:
    """Paths of the weights, configs and tokenizer in an output folder or checkpoint."""
    contents = read_folder(folder, "", "adapter" if is_adapter else "model")
    return [path for path in contents.files if re.fullmatch(f"{_MODEL}|{_TOKENIZER}", path)]


def holds_adapter(folder: str | Path) -> bool:
    """Whether a folder is that of an adapter."""
    return Path(folder, ADAPTER_CONFIG).is_file()


def holds_tokenizer(folder: str | Path) -> bool:
    """Whether a folder has a tokenizer, or a template, of its own."""
    return any(re.fullmatch(_TOKENIZER, path.relative_to(folder).as_posix()) for path in Path(folder).rglob("*"))


def weights_sha256(folder: Path, is_adapter: bool) -> dict[str, str]:
    """Name of each file of weights in a folder -> its SHA-256. Files of the other kind belong to another run."""
    return {name: PushFile(name, folder / name).sha256 for name in _weight_files(folder, is_adapter)}


# Results and weights


def differing(one: dict[str, str], other: dict[str, str]) -> str:
    """Names of the files whose digests differ, as a list in words."""
    return ", ".join(f"`{name}`" for name in sorted(one | other) if one.get(name) != other.get(name))


def weights_mismatch(result: EvaluationResult, weights: dict[str, str]) -> str:
    """Why results do not belong to weights, as the end of a sentence about the results; `""` if they do."""
    protocol = result.protocol
    recorded = protocol.get("merged_weights_sha256") or (protocol.get("weights_sha256") or {}).get("unlearned")
    if not recorded:
        return "do not record the weights that they were measured on."
    return "" if recorded == weights else f"were measured on other weights: {differing(recorded, weights)}."


def base_weights(result: EvaluationResult | None) -> dict[str, str]:
    """Digests of the base that an adapter was evaluated on; none where the results do not tell."""
    recorded = {} if result is None else (result.protocol.get("weights_sha256") or {}).get("target") or {}
    # The target may be an adapter itself, and says nothing of its base.
    return {} if _ADAPTER_WEIGHTS in recorded else recorded


def refuse_other_base(base: str | Path, weights: dict[str, str], judged: dict[str, str]) -> None:
    """Refuse the base of an adapter whose weights are not those that it was evaluated on, if these are known."""
    if judged and weights != judged:
        names = [name for name in sorted(judged | weights) if judged.get(name) != weights.get(name)]
        pairs = (f"`{name}` {judged.get(name, 'none')}, now {weights.get(name, 'none')}" for name in names)
        raise ValueError(
            f"The adapter's base `{base}` has other weights than the evaluated base (SHA-256: {'; '.join(pairs)}). "
            "Put the earlier weights back, or evaluate the adapter on this base again."
        )


class OwnResults(NamedTuple):
    """The results of the weights in a folder; or None and the reason, as the end of a sentence."""

    result: EvaluationResult | None
    missing: str = ""


class RunFolder(PrivateFiles):
    """
    The output folder of a run.

    | files | written by | in a push | gone with the next run |
    |---|---|---|---|
    | weights, configs, tokenizer | trainer | yes | when its own are saved |
    | `run.json`, `README.md` | trainer | yes | yes |
    | `eval_results.json`, `.eval_results/`, `figures/`, `squeezing.json` | evaluation | yes | yes |
    | `.sources.json`, `.row_values.json`, `show.html` | all commands | no, they quote rows or name places | yes |
    | `checkpoint-*/`, `unfinished.json`, `.ignorant_twin.safetensors` | trainer, to resume | no | yes |
    | `request/`, `requests.json`, `merged/` | `trl-unlearn forget` | no | `merged/` alone |
    | `review.jsonl` | `trl-unlearn forget`, then the user | no | no |

    `in_training`: a trainer may write into the folder of an earlier run, whose figures nothing has replaced. Without
    results of its own weights no figure counts as its own then. Nor does a base go along with a push.
    """

    def __init__(self, path: str | Path, *, in_training: bool = False):
        self.path, self.in_training = Path(path), in_training

    # Records

    @property
    def is_run(self) -> bool:
        """`bool`: Whether the record of a run lies here."""
        return (self.path / RUN_FILE).is_file()

    def run(self) -> UnlearningRun:
        """The record of the run; a `ValueError` if there is none."""
        if not self.path.is_dir():
            raise ValueError(f"The folder `{self.path}` does not exist. Give the output folder of a run.")
        if not self.is_run:
            raise ValueError(f"`{self.path}` holds no `run.json`. Give the output folder of a run that has ended.")
        return UnlearningRun.load(self.path / RUN_FILE)

    def save_run(self, run: UnlearningRun) -> None:
        """Write the record of the run."""
        run.save(self.path / RUN_FILE)

    def results(self) -> EvaluationResult | None:
        """The results that lie here, whatever weights they were measured on; None without any."""
        path = self.path / RESULTS_FILE
        return EvaluationResult.load(path) if path.is_file() else None

    def save_results(self, result: EvaluationResult) -> None:
        """Write results."""
        result.save(self.path / RESULTS_FILE)

    def own_results(self, run: UnlearningRun, *, is_saved: bool = True) -> OwnResults:
        """The results of the weights in this folder, none if they are not those of `run` (`is_saved=False`)."""
        result = self.results()
        if result is None:
            return OwnResults(None, "this model has not been evaluated yet.")
        weights = weights_sha256(self.path, run.is_adapter)
        # A folder without weights is that of a card alone.
        if weights and (mismatch := weights_mismatch(result, weights)):
            return OwnResults(None, f"those in `{RESULTS_FILE}` {mismatch}")
        if not is_saved:
            return OwnResults(None, f"those in `{RESULTS_FILE}` are of an earlier run.")
        return OwnResults(result)

    # The card

    def figures(self, result: EvaluationResult | None) -> list[str]:
        """Paths of the figures for a card, with results or without: known ones in order, then others by name."""
        names = {path.stem for path in self.path.glob("figures/*.png")}
        if result is None:
            # A figure of results that do not belong to these weights would speak for another model.
            names = set() if self.in_training else names - set(_RESULT_FIGURES)
        known = [name for name in (*_RESULT_FIGURES, *_RUN_FIGURES) if name in names]
        return [f"figures/{name}.png" for name in (*known, *sorted(names - set(known)))]

    def write_card(self, run: UnlearningRun | None = None, *, is_saved: bool = True) -> tuple[OwnResults, list[str]]:
        """Write the card of `run` (default: of the record here) and `.eval_results/`; returns results and figures."""
        run = run or self.run()
        own = self.own_results(run, is_saved=is_saved)
        figures = self.figures(own.result)
        (self.path / CARD_FILE).write_text(render_card(run, own.result, figures, own.missing), encoding="utf-8")
        for earlier in self.path.glob(_EVAL_RESULTS):
            earlier.unlink()
        for path, text in (eval_result_files(run, own.result) if own.result else {}).items():
            (self.path / path).parent.mkdir(exist_ok=True)
            (self.path / path).write_text(text, encoding="utf-8")
        return own, figures

    # Before, during and after a run

    @property
    def is_unfinished(self) -> bool:
        """`bool`: Whether a run has begun here and not ended."""
        return (self.path / _UNFINISHED).is_file()

    def unfinished_settings(self) -> str:
        """Digest of the settings of the unfinished run."""
        return json.loads((self.path / _UNFINISHED).read_text(encoding="utf-8")).get("settings")

    def mark_unfinished(self, settings: str) -> None:
        """Mark the folder as that of an unfinished run with these settings."""
        write_whole(self.path / _UNFINISHED, json.dumps({"settings": settings}) + "\n")

    def mark_finished(self) -> None:
        """Take the mark of an unfinished run away, and what only a run that resumes needs."""
        (self.path / _UNFINISHED).unlink()
        self.drop_twin()

    @property
    def twin(self) -> Path:
        """`Path`: File of the ignorant twin, for a run that resumes; hidden, so that no push takes it."""
        return self.path / ".ignorant_twin.safetensors"

    def drop_twin(self) -> None:
        """Remove the file of the ignorant twin, and those that a killed run has not finished."""
        for path in self.path.glob(f"{self.twin.name}*"):
            path.unlink()

    def earlier_run(self) -> str:
        """An earlier run here without the mark of an unfinished one, in words; `""` if there is none."""
        kinds = ((RUN_FILE, "a finished run"), ("checkpoint-*/*", "checkpoints of another run"))
        return next((words for pattern, words in kinds if any(self.path.glob(pattern))), "")

    @property
    def holds_run(self) -> bool:
        """`bool`: Whether a run has written here, finished or not. Without one, text and pictures are the user's."""
        return self.is_unfinished or self.earlier_run() != ""

    def files_of_user(self) -> list[str]:
        """Names of a model and a card that no run wrote, and that a run would replace."""
        if self.holds_run or not self.path.is_dir():
            return []
        return sorted(path.name for path in self.path.iterdir() if re.fullmatch(rf"{_MODEL}|{CARD_FILE}", path.name))

    def replaces(self, folder: str | Path) -> bool:
        """Whether a run here takes the place of a folder: it is this one, or among those that [`clear`] removes."""
        own, other = self.path.resolve(), Path(folder).resolve()
        inside = other.relative_to(own).parts if other.is_relative_to(own) else ("",)
        return not inside or inside[0].startswith("checkpoint-") or inside[0] == "merged"

    def clear(self) -> None:
        """Remove what an earlier run wrote and the next one may not replace. Its weights stay until they are."""
        written = [RUN_FILE, RESULTS_FILE, "squeezing.json", *PRIVATE_FILES]
        written += [f"figures/{name}.png" for name in (*_RESULT_FIGURES, *_RUN_FIGURES)]
        if self.holds_run:
            written += [CARD_FILE, "figures/*.png", _EVAL_RESULTS]
        folders = [".unfinished", *["merged"] * self.is_run]
        for path in [*self.path.glob("checkpoint-*"), *(self.path / name for name in folders)]:
            shutil.rmtree(path, ignore_errors=True)
        for pattern in written:
            for path in self.path.glob(pattern):
                path.unlink()

    def clear_adapter(self) -> None:
        """Remove the adapter of an earlier run: `from_pretrained` would load it on top of a whole model beside it."""
        for name in (_ADAPTER_WEIGHTS, ADAPTER_CONFIG):
            (self.path / name).unlink(missing_ok=True)

    def copy_model(self, checkpoint: Path, is_adapter: bool) -> None:
        """Take weights, configs and tokenizer from a checkpoint."""
        for name in saved_files(checkpoint, is_adapter):
            (self.path / name).parent.mkdir(exist_ok=True)
            shutil.copy(checkpoint / name, self.path / name)

    # The request that a run serves

    @property
    def request(self) -> Path:
        """`Path`: Folder of the rows and the settings of a request, which nobody but their owner may read."""
        return self.path / _REQUEST

    @property
    def review(self) -> Path:
        """`Path`: Rows of a request for the user to edit. No run removes the file: it is the user's from then on."""
        return self.path / "review.jsonl"

    @property
    def next_request(self) -> Path:
        """`Path`: Folder for the files of a request to be served: not those of a run that it is to replace."""
        return self.request / _NEXT if self.holds_run else self.request

    def has_request(self, digest: str) -> bool:
        """Whether the files of the request with this digest lie here, all of them."""
        path = self.request / _REQUEST_DIGEST
        return path.is_file() and path.read_text(encoding="utf-8") == digest

    def request_files(self) -> dict[str, bytes]:
        """Name -> content of the files of the request that lies here."""
        return {path.name: path.read_bytes() for path in self.request.glob("*") if path.is_file()}

    def save_request(self, files: Mapping[str, str], digest: str) -> None:
        """Write the files of a request to `next_request`; `digest` says that they are all."""
        shutil.rmtree(self.request / _NEXT, ignore_errors=True)
        place = self.next_request
        for folder in (self.request, place):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        (place / _REQUEST_DIGEST).unlink(missing_ok=True)
        for name, text in {**files, _REQUEST_DIGEST: digest}.items():
            write_whole(place / name, text, 0o600)

    def take_request(self, place: Path) -> None:
        """Put the files of a request in `next_request` into the place of an earlier one's, which training replaces."""
        if place == self.request:
            return
        # Neither request is whole until the digest comes, last.
        (self.request / _REQUEST_DIGEST).unlink(missing_ok=True)
        for path in sorted(place.iterdir(), key=lambda path: path.name == _REQUEST_DIGEST):
            path.replace(self.request / path.name)
        place.rmdir()

    def restore_request(self, files: Mapping[str, bytes]) -> None:
        """Put the [`request_files`] of an earlier moment back, and remove a folder that is empty then."""
        shutil.rmtree(self.request / _NEXT, ignore_errors=True)
        for name in self.request_files().keys() - files.keys():
            (self.request / name).unlink()
        for name, content in files.items():
            (self.request / name).touch(mode=0o600)
            (self.request / name).write_bytes(content)
        for path in (self.request, self.path):
            if not any(path.iterdir()):
                path.rmdir()

    # What is published

    def collect(
        self, repo_id: str, own: OwnResults, base_model_id: str | None = None, revision: str | None = None
    ) -> list[RepoContents]:
        """
        The repositories to publish; first a base that is a folder, as `<repo_id>-base` if it has no id, of which the
        adapter names the `revision` that both are pushed to.
        """
        run = self.run()
        contents = read_folder(self.path, repo_id, "adapter" if run.is_adapter else "model")
        if own.result is None:
            contents.leave_out(_RESULTS if self.in_training else _OF_EVALUATION, "of other weights")
            if self._has_stale_card(contents):
                if not self.in_training:
                    raise ValueError(
                        f"The card `{self.path / CARD_FILE}` has results, and none are of these weights. Write it "
                        f"anew (`trl-unlearn card {self.path}`), or evaluate again."
                    )
                contents.leave_out(CARD_FILE, "of other weights")
        repos, base_revision = [contents], None
        if run.is_adapter:
            config = json.loads(contents.files[ADAPTER_CONFIG].content)
            base = config["base_model_name_or_path"]
            if base_model_id is None and self.in_training:
                if base and Path(base).is_dir() and base_is_local(base, run):
                    contents.put(ADAPTER_CONFIG, _with_base(config, last_part(base)))
                    logger.warning(
                        f"The adapter's base is a folder ({base}), which nobody else can load. `trl-unlearn push` "
                        "publishes both, or names where the base is on the Hub (`--base_model_id`)."
                    )
            elif base_model_id is None and base_is_local(base, run):
                refuse_other_base(base, weights_sha256(Path(base), is_adapter=False), base_weights(own.result))
                base_model_id = f"{repo_id}-base"
                base_contents = read_folder(Path(base), base_model_id, "base model")
                # Its card and records may name rows, people and folders, and are not about it as a base.
                base_contents.leave_out(rf"(?!{_MODEL}|{_TOKENIZER}|LICENSE).*", "not of the model")
                names = ("license", "license_name", "license_link")
                terms = "".join(f"\n{name}: {value}" for name in names if (value := getattr(run, name)))
                base_contents.put(CARD_FILE, BASE_CARD.format(repo_id=repo_id, terms=terms))
                base_contents.put(BASE_FILE, json.dumps({"adapter": repo_id}) + "\n")
                repos.insert(0, base_contents)
                base_revision = revision
            if base_model_id is not None:
                contents.put(ADAPTER_CONFIG, _with_base(config | {"revision": base_revision}, base_model_id))
        card = contents.files.get(CARD_FILE)
        text = card.content.decode() if card else self._render(run, own, contents)
        if base_model_id is not None:
            named = _on_base(run, base_model_id, base_revision)
            text, run = _card_with_base(text, run, named, own), named
        contents.put(CARD_FILE, text)
        _put_public(contents, run)
        for one in repos:
            _cut_paths(one)
        return repos

    def collect_merged(
        self, merged: Path, repo_id: str, own: OwnResults, base_model_id: str | None
    ) -> list[RepoContents]:
        """The repository of the merged model in a folder, with a card and results that name the merged weights."""
        run = self.run()
        contents = read_folder(self.path, repo_id, "merged model")
        contents.leave_out(_MODEL, "merged")
        contents.files |= read_folder(merged, repo_id, "model").files
        run = replace(run, status="merged")
        if base_model_id is not None:
            run = _on_base(run, base_model_id)
        if own.result is not None and (bits := own.result.protocol.get("base_quantization")):
            own = OwnResults(
                None,
                f"the adapter was evaluated on a base in {bits}, which this model was not merged into. Evaluate it.",
            )
        if own.result is None:
            contents.leave_out(_OF_EVALUATION, "of other weights")
        else:
            protocol = own.result.protocol | {"merged_weights_sha256": contents.weights()}
            own = OwnResults(replace(own.result, protocol=protocol))
            contents.put(RESULTS_FILE, own.result.to_json())
        contents.put(CARD_FILE, self._render(run, own, contents))
        _put_public(contents, run)
        _cut_paths(contents)
        return [contents]

    @staticmethod
    def _has_stale_card(contents: RepoContents) -> bool:
        """Whether a card has results, where none are of these weights."""
        card = contents.files.get(CARD_FILE)
        return card is not None and re.search(rb"(?m)^model-index:|^- Measured on `", card.content) is not None

    def _render(self, run: UnlearningRun, own: OwnResults, contents: RepoContents) -> str:
        """The card with the figures that are published beside it."""
        figures = [figure for figure in self.figures(own.result) if figure in contents.files]
        return render_card(run, own.result, figures, own.missing)


def base_is_local(base: str | None, run: UnlearningRun) -> bool:
    """Whether an adapter's base is a folder of this machine and not on the Hub; a `ValueError` if it is neither."""
    # First: a folder of the working directory may have the same name as an id on the Hub.
    if base and run.base_model_on_hub and is_repo_id(base):
        return False
    if base and Path(base).is_dir():
        return True
    if not base:
        raise ValueError("The adapter does not name its base. Name where that is on the Hub with `base_model_id`.")
    raise ValueError(
        f"The adapter's base `{base}` was a folder and does not exist. Put it back, or name where the base is on the "
        "Hub with `base_model_id`."
    )


def _put_public(contents: RepoContents, run: UnlearningRun) -> None:
    """Put the records as everybody may read them; a file that would be the same stays as it is."""
    if (public := public_run(run)) != run or RUN_FILE not in contents.files:
        contents.put(RUN_FILE, public.to_json())
    if RESULTS_FILE in contents.files:
        result = EvaluationResult.from_dict(json.loads(contents.files[RESULTS_FILE].content))
        if (public := public_result(result)) != result:
            contents.put(RESULTS_FILE, public.to_json())


def _cut_paths(contents: RepoContents) -> None:
    """Cut the paths of this machine in configs of model and tokenizer."""
    for path, file in list(contents.files.items()):
        if re.fullmatch(_CONFIG, path):
            text = file.content.decode()
            if (public := public_config(text)) != text:
                contents.put(path, public)


def _on_base(run: UnlearningRun, base: str, revision: str | None = None) -> UnlearningRun:
    """The record with an id on the Hub as its base."""
    return replace(run, base_model=base, base_model_on_hub=True, base_model_revision=revision)


def _with_base(config: dict[str, Any], base: str) -> str:
    return json.dumps(config | {"base_model_name_or_path": base}, indent=2) + "\n"


def _card_with_base(text: str, run: UnlearningRun, named: UnlearningRun, own: OwnResults) -> str:
    """The card with the base's id in place of the folder; a card that was edited by hand keeps its words."""
    figures = re.findall(r"!\[[^\]]*\]\((figures/[^)]+)\)", text)
    if text == render_card(run, own.result, figures, own.missing):
        return render_card(named, own.result, figures, own.missing)
    card = ModelCard(text, ignore_metadata_errors=True)
    card.data.base_model = named.base_model
    card.data.base_model_relation = "adapter" if run.is_adapter else "finetune"
    return re.sub(
        r'from_pretrained\("\.\.\."\)  # the folder of [^\n]*', f'from_pretrained("{named.base_model}")', str(card)
    )
