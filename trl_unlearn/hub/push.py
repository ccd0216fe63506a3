# SPDX-FileCopyrightText: 2026 The trl-unlearn authors
# SPDX-License-Identifier: Apache-2.0

"""
The only way to the Hub: one commit for each repository, private, and no text that was to be forgotten.

[`push`] serves the command and the scripts, [`push_output`] the trainer. Both collect files by the allow-list of
`folder.py`, search all of them for forbidden texts before anything is sent, and compare the weights that arrived.
[`push_space`] sends an app that names what was pushed.
"""

import json
import logging
import shlex
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.errors import HTTPError, RepositoryNotFoundError, RevisionNotFoundError

from ..forgetting import has_forgotten
from ..records import UnlearningRun
from .access import (
    AGAIN,
    WAITS,
    PushError,
    check_repo_id,
    explaining,
    is_transient,
    refuse_public,
    retried,
    token_user,
)
from .folder import (
    ADAPTER_CONFIG,
    BASE_FILE,
    CARD_FILE,
    RUN_FILE,
    OwnResults,
    PushFile,
    RepoContents,
    RunFolder,
    base_is_local,
    base_weights,
    differing,
    is_of_run,
    refuse_other_base,
    weights_sha256,
)
from .leaks import MIN_CHARACTERS, TextIndex


logger = logging.getLogger(__name__)
# The kind of a repository that holds an app, and its file that no other app has.
_SPACE, _SPACE_FILE = "Space", "models.json"


@dataclass
class PushedRepo:
    """A repository that was pushed to, or would be in a dry run."""

    repo_id: str
    kind: str  # "adapter", "model", "merged model", "base model" or "Space"
    sizes: dict[str, int]  # path -> bytes
    left_out: dict[str, str]  # path in the folder -> why it stays
    url: str | None = None  # of the commit; None for a dry run
    private: bool = True  # of a dry run: whether a new repository would be
    deleted: list[str] = field(default_factory=list)  # files of an earlier push that the folder no longer holds

    @classmethod
    def of(cls, contents: RepoContents, **facts: Any) -> "PushedRepo":
        """The repository of collected files, with `facts` about the push."""
        sizes = {path: file.size for path, file in sorted(contents.files.items())}
        return cls(contents.repo_id, contents.kind, sizes, contents.left_out, **facts)


def push(
    folder: str | Path,
    repo_id: str,
    *,
    forbidden_texts: Mapping[str, Sequence[str]],
    private: bool = True,
    private_base: bool = True,
    revision: str | None = None,
    commit_message: str | None = None,
    merge: bool = False,
    base_model_id: str | None = None,
    allow_text_in: Sequence[str] = (),
    force: bool = False,
    dry_run: bool = False,
    token: str | None = None,
    trust_remote_code: bool = False,
) -> list[PushedRepo]:
    """
    Push the output folder of a finished run to the Hub, or raise a `ValueError` or a [`PushError`].

    `forbidden_texts` maps the name of a source to its texts, in the order of its rows: nothing is sent if a file that
    is not in `allow_text_in` holds one of them. The other options are those of `trl-unlearn push`.
    """
    check_repo_id(repo_id)
    run_folder = RunFolder(folder)
    run = run_folder.run()
    if merge and not run.is_adapter:
        raise ValueError(f"`{run_folder.path}` holds a whole model, and there is nothing to merge. Leave `merge` out.")
    own = run_folder.own_results(run)
    if own.result is None and run_folder.results() is not None:
        raise PushError(
            f"The results in `{run_folder.path}` are not of this model: {own.missing} Evaluate again, or delete the "
            "results and the card."
        )
    _refuse_unforgotten(run, own, force)
    if run.is_adapter:
        _refuse_other_hub_base(HfApi(token=token), run_folder, own, base_model_id, force)
    with tempfile.TemporaryDirectory() as scratch:
        if merge:
            save_merged(run_folder.path, run, Path(scratch), base_model_id, trust_remote_code=trust_remote_code)
            repos = run_folder.collect_merged(Path(scratch), repo_id, own, base_model_id)
        else:
            repos = run_folder.collect(repo_id, own, base_model_id, revision)
        _refuse_leaks(repos, forbidden_texts, commit_message, allow_text_in)
        _refuse_paths(repos, run_folder.path, commit_message, allow_text_in)
        privacy = [private_base if contents.kind == "base model" else private for contents in repos]
        if dry_run:
            return [PushedRepo.of(one, private=is_private) for one, is_private in zip(repos, privacy, strict=True)]
        return _send(repos, privacy, revision, commit_message, token)


def push_output(
    folder: str | Path,
    repo_id: str,
    *,
    forbidden_texts: Mapping[str, Sequence[str]],
    private: bool,
    revision: str | None,
    commit_message: str | None,
    token: str | None,
    force: bool,
    run_as_future: bool,
) -> PushedRepo | Future:
    """Push the output folder of a trainer as [`push`] does, without the base and results of other weights."""
    run_folder = RunFolder(folder, in_training=True)
    run = run_folder.run()
    own = run_folder.own_results(run)
    _refuse_unforgotten(run, own, force)
    repos = run_folder.collect(repo_id, own)
    _refuse_leaks(repos, forbidden_texts, commit_message)
    _refuse_paths(repos, run_folder.path, commit_message)

    def send() -> PushedRepo:
        return _send(repos, [private], revision, commit_message, token)[0]

    return HfApi().run_as_future(send) if run_as_future else send()


def push_space(
    repo_id: str,
    files: Mapping[str, str],
    *,
    folder: str | Path,
    model_id: str,
    forbidden_texts: Mapping[str, Sequence[str]],
    private: bool = True,
    token: str | None = None,
) -> PushedRepo:
    """Push an app to a Space; the weights at `model_id`, which it loads, have to be those of the run in `folder`."""
    check_repo_id(repo_id)
    check_repo_id(model_id)
    contents = RepoContents(repo_id, _SPACE, {})
    for path, text in files.items():
        contents.put(path, text)
    _refuse_leaks([contents], forbidden_texts, None)
    run, api = RunFolder(folder).run(), HfApi(token=token)
    with explaining("read", model_id):
        _, weights = _remote_weights(api, model_id, None)
    if weights != (own := weights_sha256(Path(folder), run.is_adapter)):
        raise PushError(
            f"`{model_id}` holds other weights than `{folder}`: {differing(own, weights)}. The app would ask another "
            f"model. Push the run first: `trl-unlearn push --output_dir {shlex.quote(str(folder))} --hub_model_id "
            f"{model_id}`."
        )
    return _send([contents], [private], None, None, token)[0]


def _send(
    repos: list[RepoContents], privacy: list[bool], revision: str | None, message: str | None, token: str | None
) -> list[PushedRepo]:
    api = HfApi(token=token)
    with explaining("log in"):
        user = token_user(api, repos[0].repo_id.split("/")[0])
    message = message or "Upload with trl-unlearn"
    # Before the first of them is sent: a base that is there alone is of no use, and knows every answer.
    for contents, private in zip(repos, privacy, strict=True):
        _refuse_repository(api, user, contents, private, revision)
    return [
        _push_one(api, user, contents, private, revision, message)
        for contents, private in zip(repos, privacy, strict=True)
    ]


def save_merged(
    folder: Path,
    run: UnlearningRun,
    target: Path,
    base_model_id: str | None = None,
    *,
    trust_remote_code: bool,
) -> None:
    """Write the adapter of a run merged into its base, as safetensors in the base's dtype."""
    # Here, because the import takes seconds and a plain push needs none of it.
    import torch
    from peft import PeftConfig, PeftModel
    from transformers import AutoConfig, AutoModelForCausalLM

    base = PeftConfig.from_pretrained(folder).base_model_name_or_path
    is_local = bool(base) and Path(base).is_dir() and base_is_local(base, run)
    if is_local:
        judged = base_weights(RunFolder(folder).own_results(run).result)
        refuse_other_base(base, weights_sha256(Path(base), is_adapter=False), judged)
        revision = None
    elif base_model_id is not None:
        base, revision = base_model_id, None
    else:
        revision = None if base_is_local(base, run) else run.base_model_revision
    if not is_local and Path(base).exists():
        raise PushError(
            f"A folder `{base}` in the working directory has the name of the base on the Hub, and would be merged in "
            "its place. Run the command in another directory."
        )
    options = {"revision": revision, "trust_remote_code": trust_remote_code}
    dtype = AutoConfig.from_pretrained(base, **options).dtype
    # W + BA in float32: in 16 bits an update that is small beside W would be lost in rounding.
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32, **options)
    merged = PeftModel.from_pretrained(model, folder).merge_and_unload()
    merged.to(dtype or torch.float32).save_pretrained(target)


def _refuse_other_hub_base(
    api: HfApi, folder: RunFolder, own: OwnResults, base_model_id: str | None, force: bool
) -> None:
    """Refuse a base on the Hub whose weights are not the evaluated ones, and one given by hand that hides them."""
    run, judged = folder.run(), base_weights(own.result)
    base, revision = (run.base_model, run.base_model_revision) if base_model_id is None else (base_model_id, None)
    if base_model_id is None and not (run.base_model_on_hub and judged):
        return
    trained_on = json.loads((folder.path / ADAPTER_CONFIG).read_text(encoding="utf-8"))["base_model_name_or_path"]
    if not judged and Path(trained_on or "").is_dir() and base_is_local(trained_on, run):
        judged = weights_sha256(Path(trained_on), is_adapter=False)
    try:
        with explaining("read", base):
            _, weights = _remote_weights(api, base, revision)
        why = "its own are not known" if not judged else "the Hub has none as safetensors" if not weights else None
        if why is None and weights.keys() != judged.keys():
            why = f"its files have other names: {differing(judged, weights)}"
    except PushError as error:
        weights, why = {}, str(error).rstrip(".")
    if why is None:
        refuse_other_base(base, weights, judged)
    elif base_model_id is None or force:
        logger.warning(f"The weights of the base `{base}` were not compared with those of this run: {why}.")
    else:
        raise PushError(
            f"Nothing was pushed: the weights of the base `{base}` cannot be compared with those of this run: {why}. "
            "Name the base's own repository, or push all the same with `force` (`trl-unlearn push --force`)."
        )


def _refuse_unforgotten(run: UnlearningRun, own: OwnResults, force: bool) -> None:
    """Refuse a model that has not forgotten by its results, or missed its goal; warn where results do not tell."""
    forgotten, why = None, f"Whether it has forgotten is not known: {own.missing}"
    if own.result is not None:
        forgotten, why = has_forgotten(own.result)
    refused = " ".join(filter(None, [run.shortfall, why if forgotten is False else None]))
    if refused and not force:
        raise PushError(
            f"Nothing was pushed. {refused} Push it all the same with `force` (`trl-unlearn push --force`)."
        )
    if not forgotten:
        logger.warning(why)


def _refuse_leaks(
    repos: list[RepoContents], texts: Mapping[str, Sequence[str]], message: str | None, allowed: Sequence[str] = ()
) -> None:
    """Refuse the push if a file, also one that stays but may be shared by hand, holds a part of a forbidden text."""
    if not any(texts.values()):
        raise ValueError("`forbidden_texts` holds no text. Give the answers of the forget set.")
    known = {path for contents in repos for path in (*contents.files, *contents.left_out)}
    if missing := sorted(set(allowed) - known):
        raise ValueError(f"`allow_text_in` names {missing}, but there is no such file. Give paths in the folder.")
    index = TextIndex(texts)
    for source, rows in index.too_short.items():
        logger.warning(
            f"{len(rows)} of the {len(texts[source])} texts of the {source} are too short to be searched for (under "
            f"{MIN_CHARACTERS} characters): row {', '.join(map(str, rows[:5]))}{' and more' if len(rows) > 5 else ''}."
        )
    files = [
        (f"`{file.path}`{' of the base' * (contents.kind == 'base model')}", file)
        for contents in repos
        for file in (*contents.files.values(), *contents.also_scanned)
        if not contents.allows(file.path, allowed)
    ]
    # The message is published as well, and is the one text that no file holds.
    files.append(("`commit_message`", PushFile("commit_message", (message or "").encode())))
    lines = []
    for name, file in files:
        leaks = index.leaks(file.path, file.scanned())
        for source in sorted({leak.source for leak in leaks}):
            rows = [str(leak.row) for leak in leaks if leak.source == source]
            more = f" and {len(rows) - 5} more" if len(rows) > 5 else ""
            lines.append(f"{name} (text of the {source}, row {', '.join(rows[:5])}{more})")
    if lines:
        raise PushError(
            f"Nothing was pushed, because text that was to be forgotten stands in {'; '.join(lines)}. Rows count from "
            "0. Remove the text or the file, or name the file in `allow_text_in` if that is meant."
        )


def _refuse_paths(repos: list[RepoContents], folder: Path, message: str | None, allowed: Sequence[str] = ()) -> None:
    """Refuse the push if a file, or its message, names the home folder or the run's own, as an edited card may."""
    places = {str(path) for path in (Path.home(), folder.absolute(), folder.resolve()) if len(path.parts) > 2}
    named = [
        f"`{path}` of `{contents.repo_id}`"
        for contents in repos
        for path, file in contents.files.items()
        if not contents.allows(path, allowed) and any(place.encode() in file.scanned() for place in places)
    ]
    named += ["the commit's message"] if any(place in (message or "") for place in places) else []
    if named:
        raise PushError(
            f"Nothing was pushed: {named[0]} names a folder of this machine. Take the path out, or name the file in "
            "`allow_text_in` if that is meant."
        )


def _refuse_repository(api: HfApi, user: str, contents: RepoContents, private: bool, revision: str | None) -> None:
    """Refuse a repository that is public where it should not be, or that holds what no push of a run made."""
    is_base, kind = contents.kind == "base model", _kind(contents)
    with explaining("write to", contents.repo_id, user):
        try:
            info = retried(lambda: api.repo_info(contents.repo_id, **kind))
        except RepositoryNotFoundError:
            return
        if private:
            option = "`private_base` (`--hub_private_base`)" if is_base else "`private` (`--hub_private_repo`)"
            refuse_public(contents.repo_id, info.private, option)
        try:
            remote = retried(lambda: _paths(api, contents, revision))
        except RevisionNotFoundError:
            # A branch begins as a copy of the main one.
            remote = retried(lambda: _paths(api, contents, None))
    if contents.kind == _SPACE:
        others, mark = sorted(remote & {"app.py"}), _SPACE_FILE
    else:
        # A card may have been written when the repository was made.
        others = sorted(path for path in remote if is_of_run(path) and path != CARD_FILE)
        mark = BASE_FILE if is_base else RUN_FILE
    if others and mark not in remote:
        raise PushError(
            f"`{contents.repo_id}` holds files that no push of a run made, such as `{others[0]}`. Nothing was sent. "
            "Choose another repository, or delete them there."
        )


def _paths(api: HfApi, contents: RepoContents, revision: str | None) -> set[str]:
    """Paths of the files in a repository."""
    tree = api.list_repo_tree(contents.repo_id, recursive=True, revision=revision, **_kind(contents))
    return {file.path for file in tree}


def _kind(contents: RepoContents) -> dict[str, str]:
    return {"repo_type": "space" if contents.kind == _SPACE else "model"}


def _push_one(
    api: HfApi, user: str, contents: RepoContents, private: bool, revision: str | None, message: str
) -> PushedRepo:
    repo_id, is_space = contents.repo_id, contents.kind == _SPACE
    kind = _kind(contents)
    with explaining("write to", repo_id, user):
        app = {"space_sdk": "gradio"} if is_space else {}
        retried(lambda: api.create_repo(repo_id, private=private, exist_ok=True, **kind, **app))
        info = retried(lambda: api.repo_info(repo_id, **kind))
        if revision is not None:
            retried(lambda: api.create_branch(repo_id, branch=revision, exist_ok=True))
        commit, deleted = _commit(api, contents, revision, message, kind)
        local, remote = contents.weights(), {}
        if not is_space:
            # Weights that somebody added by hand in another folder stay, and are not loaded.
            _, there = _remote_weights(api, repo_id, commit.oid)
            remote = {path: digest for path, digest in there.items() if path in local or is_of_run(path)}
    # A load by id must give the model that was evaluated: the Hub's own digests say whether all of it arrived.
    if local != remote:
        raise PushError(f"`{repo_id}` holds other weights than were sent: {differing(local, remote)}. {AGAIN}")
    return PushedRepo.of(contents, url=commit.commit_url, private=info.private, deleted=deleted)


def _commit(api: HfApi, contents: RepoContents, revision: str | None, message: str, kind: dict[str, str]):
    """The commit, and the paths that it deleted."""
    repo_id = contents.repo_id
    for wait in (*WAITS, None):
        # Listed again for each try: if only the answer to a commit was lost, nothing is left to change, and the
        # client makes no second commit.
        remote = _paths(api, contents, revision)
        # A file that was added by hand stays, and so does what a Space has beside the app.
        is_space = contents.kind == _SPACE
        stale = [] if is_space else sorted(path for path in remote - set(contents.files) if is_of_run(path))
        additions = [CommitOperationAdd(path, file.content) for path, file in contents.files.items()]
        # Apart from the commit: the client retries uploads by itself, and keeps those that arrived.
        api.preupload_lfs_files(repo_id, additions, revision=revision, free_memory=False, **kind)
        operations = [*additions, *(CommitOperationDelete(path) for path in stale)]
        try:
            return api.create_commit(repo_id, operations, commit_message=message, revision=revision, **kind), stale
        except HTTPError as error:
            if wait is None or not is_transient(error):
                raise
            time.sleep(wait)


def _remote_weights(api: HfApi, repo_id: str, revision: str | None) -> tuple[str, dict[str, str]]:
    """Commit of a revision, and path of each of its files of weights -> SHA-256."""
    info = retried(lambda: api.model_info(repo_id, revision=revision, files_metadata=True))
    digests = {file.rfilename: file.lfs.sha256 for file in info.siblings if file.lfs is not None}
    return info.sha, {path: digest for path, digest in sorted(digests.items()) if path.endswith(".safetensors")}
