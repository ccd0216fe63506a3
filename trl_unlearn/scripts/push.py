# SPDX-FileCopyrightText: 2026 The trl-unlearn authors
# SPDX-License-Identifier: Apache-2.0

"""Publish a finished run on the Hub, in a private repository."""

import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NoReturn

from ..hub.access import PushError, check_access, is_on_hub
from ..hub.folder import RunFolder, refuse_base
from ..hub.leaks import answer_texts
from ..hub.push import PushedRepo, push
from ..trainer.bootstrap_unlearn_config import BootstrapUnlearnConfig, option
from .arguments import UnlearnModelConfig, parse
from .exits import fail, interruptible, refusing
from .sources import RowArguments, forget_rows, recorded_forget_set, row_settings, rows_of_run, run_tokenizer


@dataclass
class PushArguments(RowArguments):
    """The folder to push, its repository, and the forget set, whose answers no file may hold."""

    output_dir: str | None = option(None, "Output folder of a run that has ended.")
    hub_model_id: str | None = option(None, "Repository to push to, such as 'me/unlearned'. It is created if needed.")
    hub_private_repo: bool = option(
        True, "Whether a new repository is private. To push to a public one, set it to false."
    )
    hub_private_base: bool = option(
        True,
        "Whether a new repository of the adapter's base is private, also where the adapter's is not. The base still "
        "knows all that was to be forgotten.",
    )
    hub_revision: str | None = option(None, "Branch to push to, which is created if needed. Default: 'main'.")
    commit_message: str | None = option(None, "Message of the commit.")
    merge: bool = option(False, "Whether to push the adapter merged into its base, as safetensors.")
    base_model_id: str | None = option(
        None,
        "Where the adapter's base is on the Hub, if it was a folder. Its weights have to be those of the run. Without "
        "it, the folder is pushed too, to `hub_model_id` with '-base' at its end.",
    )
    force: bool = option(
        False,
        "Whether to push a model that has not forgotten by its own evaluation, or has missed its goal, too, and one "
        "whose `base_model_id` cannot be compared.",
    )
    dry_run: bool = option(False, "Whether to only check, and list what would go and what stays.")
    allow_text_in: list[str] = option(
        [], "Files, by path in the folder, that may hold text of the forget set or of a belief."
    )

    def __post_init__(self):
        for name in ("output_dir", "hub_model_id"):
            if getattr(self, name) is None:
                raise ValueError(f"`{name}` is missing. Give both `--output_dir` and `--hub_model_id`.")
        if isinstance(self.allow_text_in, str):
            self.allow_text_in = [self.allow_text_in]


def main(argv: list[str] | None = None, prog: str = "trl-unlearn push") -> None:
    """Run the command; `argv` is that of the process if not given."""
    with interruptible(prog, "before all was sent: the same command starts again."):
        with refusing(prog):
            (args,), _ = parse((PushArguments,), prog, __doc__, argv)
            folder = Path(args.output_dir)
            texts = forget_texts(args, folder, prog) | {"beliefs": RunFolder(folder).belief_texts()}
            try:
                repos = push(
                    folder,
                    args.hub_model_id,
                    forbidden_texts=texts,
                    private=args.hub_private_repo,
                    private_base=args.hub_private_base,
                    revision=args.hub_revision,
                    commit_message=args.commit_message,
                    merge=args.merge,
                    base_model_id=args.base_model_id,
                    allow_text_in=args.allow_text_in,
                    force=args.force,
                    dry_run=args.dry_run,
                    trust_remote_code=args.trust_remote_code,
                )
            except PushError as error:
                fail(prog, str(error))
        print(summary(repos))


def may_publish(prog: str, args: BootstrapUnlearnConfig) -> bool:
    """Whether the run is to be published at the end; fails now if the repository cannot be written."""
    if not args.push_to_hub:
        return False
    if args.hub_model_id is None:
        raise ValueError("`push_to_hub` is given without `hub_model_id`. Give an id, such as 'me/unlearned'.")
    if args.process_index == 0:
        try:
            check_access(args.hub_model_id, private=args.hub_private_repo, token=args.hub_token)
        except PushError as error:
            fail(prog, f"{error} Nothing was trained.")
    # `Trainer` would push without the evaluation, and in the middle of the training.
    args.push_to_hub = False
    return True


def refuse_unpublished_base(model_args: UnlearnModelConfig) -> None:
    """Refuse the base of an adapter in a folder whose weights no push takes, for a run that is to be published."""
    base, trains_adapter = model_args.model_name_or_path, model_args.use_peft or model_args.adapter_name_or_path
    if trains_adapter and Path(base).is_dir():
        refuse_base(Path(base))


def publish(prog: str, args: BootstrapUnlearnConfig, texts: Mapping[str, Sequence[str]]) -> None:
    """Push the output folder; a failure exits with 1 and names the command that publishes later."""
    try:
        repos = push(
            args.output_dir,
            args.hub_model_id,
            forbidden_texts=texts,
            private=args.hub_private_repo,
            revision=args.hub_revision,
            token=args.hub_token,
        )
    except (PushError, ValueError) as error:
        fail_late(prog, args, error)
    print(summary(repos))


def fail_late(prog: str, args: BootstrapUnlearnConfig, error: Exception) -> NoReturn:
    """Exit with 1 where a run is complete and cannot be pushed; names the command that publishes later."""
    fail(prog, f"{error} The run is complete in {args.output_dir}: {push_command(args)} publishes it later.")


def push_command(args: BootstrapUnlearnConfig, force: bool = False) -> str:
    """The command that publishes a run."""
    parts = ["trl-unlearn", "push", "--output_dir", args.output_dir, "--hub_model_id", args.hub_model_id]
    parts += [] if args.hub_revision is None else ["--hub_revision", args.hub_revision]
    parts += [] if args.hub_private_repo else ["--hub_private_repo", "false"]
    parts += ["--trust_remote_code"] * args.trust_remote_code
    return f"`{shlex.join([*parts, *['--force'] * force])}`"


def forget_texts(args: RowArguments, folder: Path, prog: str) -> dict[str, list[str]]:
    """Source -> answers: those of the forget set, and of the forget sets of earlier requests."""
    run, tokenizer = RunFolder(folder).run(), run_tokenizer(folder, args.trust_remote_code)
    text_field = row_settings(run)["dataset_text_field"]
    try:
        rows = forget_rows(args, folder, run, tokenizer)
    except (ValueError, OSError) as error:
        name = next(iter(args.given(("forget_dataset", "dataset_name")).values()), run.forget_set.name)
        raise ValueError(
            f"The forget set (`{name}`) cannot be searched for: {error} Its answers are what no file may hold. Give "
            "it: `--forget_dataset`, or `--dataset_name` with `--forget_config`."
        ) from error
    texts = {"forget set": answer_texts(rows, tokenizer, text_field)}
    for link in run.chain:
        record = link.forget_set
        if args.dataset_name is not None and record.config is not None:
            record = replace(record, name=args.dataset_name, on_hub=is_on_hub(args.dataset_name))
        # A warning only: the data of an earlier request may be gone for good, and was searched for when it was served.
        try:
            rows = rows_of_run(recorded_forget_set(record, folder), run, tokenizer)
        except (ValueError, OSError) as error:
            print(
                f"{prog}: no file is searched for the answers of the request {link.request}: {error}", file=sys.stderr
            )
            continue
        texts[f"forget set of the request {link.request}"] = answer_texts(rows, tokenizer, text_field)
    return texts


def summary(repos: list[PushedRepo]) -> str:
    """Files that were sent and that stay, the repository and its readers, as lines for a terminal."""
    lines = [line for repo in repos for line in _lines(repo)]
    base = next((repo for repo in repos if repo.kind == "base model"), None)
    if base is not None and not base.private:
        lines.append(
            f"WARNING: `{base.repo_id}` is PUBLIC and has not forgotten anything: it still knows every answer."
        )
    elif base is not None and not repos[-1].private:
        lines.append(
            f"`{repos[-1].repo_id}` is PUBLIC, and nobody else can load it, because its base `{base.repo_id}` is "
            "private: that still knows every answer. `--merge` publishes merged weights instead. "
            "`--hub_private_base false` makes the base public as well."
        )
    return "\n".join(lines)


def _lines(repo: PushedRepo) -> list[str]:
    state = "private" if repo.private else "PUBLIC"
    state = f"not pushed, would be {state}" if repo.url is None else state
    lines = [f"{repo.repo_id}: {repo.kind}, {state}, {len(repo.sizes)} files, {_bytes(sum(repo.sizes.values()))}"]
    lines += [f"  {_bytes(size):>9}  {path}" for path, size in repo.sizes.items()]
    # One line for a folder whose files stay for the same reason: checkpoints have dozens.
    stays = {(path.split("/")[0] + ("/" if "/" in path else ""), why) for path, why in repo.left_out.items()}
    lines += [f"  {'stays':>9}  {path} ({why})" for path, why in sorted(stays)]
    lines += [f"  {'deleted':>9}  {path}" for path in repo.deleted]
    return [*lines, repo.url or "Nothing was sent: this is a dry run."]


def _bytes(size: int) -> str:
    power = min((len(str(size)) - 1) // 3, 3)
    return f"{size / 1000**power:.{min(power, 1)}f} {('B', 'kB', 'MB', 'GB')[power]}"
