# SPDX-FileCopyrightText: 2026 The trl-unlearn authors
# SPDX-License-Identifier: Apache-2.0

"""The results of an evaluation: their record, joined with earlier ones, written, drawn and printed."""

import shlex
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from accelerate import PartialState

from ..evaluation.plots import (
    attempted,
    draw,
    plot_attacks,
    plot_depth,
    plot_evaluation,
    plot_leak,
    plot_relearning,
    plot_training,
    plot_verdict,
)
from ..evaluation.tables import print_results, print_summary, print_verdict
from ..hub.folder import CARD_FILE, RESULTS_FILE, RunFolder
from ..results import EvaluationResult, SuiteOutcome
from ..verdict import verdict
from .arguments import EvaluationArguments, UnlearnModelConfig
from .models import models_protocol


# What the answers to the five questions are called in a log.
VERDICT_LOGS = ("verdict/says", "verdict/knows", "verdict/comes_back", "verdict/can_be_told", "verdict/works")


def evaluation_result(
    outcomes: Mapping[str, SuiteOutcome],
    eval_args: EvaluationArguments,
    model_args: UnlearnModelConfig,
    unlearned: str | None,
    protocol: Mapping[str, Any] | None = None,
) -> EvaluationResult:
    """The record of an evaluation, with the digests of the models: what suites measured, in the order of tables."""
    rows = {} if eval_args.max_eval_rows is None else {"max_eval_rows": eval_args.max_eval_rows}
    return EvaluationResult.of_suites(
        outcomes,
        parity=eval_args.parity,
        device=PartialState().device.type,
        protocol=models_protocol(eval_args, model_args, unlearned) | rows | dict(protocol or {}),
    )


def with_earlier(result: EvaluationResult, folder: RunFolder, suites: Sequence[str]) -> EvaluationResult:
    """The results with those of other suites that an earlier call measured in this folder in the same way."""
    earlier = folder.results()
    if earlier is None:
        return result
    kept = [name for name in suites if name in earlier.suites and name not in result.suites]
    if not kept:
        return result
    # A model on the Hub that is not in the cache has no digest, so nothing says whether it is the same.
    measured = {role for role, metrics in result.models.items() if metrics is not None}
    known = measured <= result.protocol["weights_sha256"].keys()
    if unlike := result.unlike(earlier) if known else ["perhaps other models"]:
        path = folder.path / RESULTS_FILE
        PartialState().print(f"`{path}` held {', '.join(kept)} of {' and '.join(unlike)}, and is replaced.")
        return result
    now, then = result.environment, earlier.environment
    if changed := [f"{name} {then[name]}, now {now[name]}" for name in now if now[name] != then.get(name, now[name])]:
        PartialState().print(f"{', '.join(kept).capitalize()} had another environment ({', '.join(changed)}).")
    return result.with_suites_of(earlier, kept, suites)


def write_results(folder: Path, result: EvaluationResult, is_brief: bool = False) -> None:
    """Write results, figures and a run's card; print the verdict, and the whole table or, if brief, some of it."""
    run_folder = RunFolder(folder)
    run_folder.save_results(result)
    # The results are saved: what only shows them warns where it fails.
    if not is_brief:
        attempted("The table", lambda: print_results(result))
    plots = {
        "verdict": (plot_verdict, "tofu"),
        "evaluation": (plot_evaluation, None),
        "relearning": (plot_relearning, "robustness"),
        "attacks": (plot_attacks, "robustness"),
        "leak_at_k": (plot_leak, "robustness"),
        "depth": (plot_depth, "depth"),
    }
    for name, (plot, suite) in plots.items():
        path = folder / f"figures/{name}.png"
        # A quick evaluation has one number of `robustness`, and no curve.
        is_short = suite == "robustness" and "quick" in result.protocol
        if is_short or (suite is not None and suite not in result.suites):
            # A figure of earlier results that these replace.
            path.unlink(missing_ok=True)
        else:
            draw(path, partial(plot, result))
    if run_folder.is_run:
        attempted("The card", lambda: _write_card(run_folder))
    written = "Adapter or model, card, results" if run_folder.is_run else "Results"
    PartialState().print(f"{written} and figures: {folder}")
    attempted("The verdict", lambda: print_verdict(result))
    if is_brief:
        attempted("The table", lambda: print_summary(result, str(folder / CARD_FILE)))
        typed = shlex.quote(str(folder))
        PartialState().print(
            f"Every row: trl-unlearn show {typed}\n"
            f"Attacks: trl-unlearn evaluate --suites robustness,elicitation --unlearned_model_name_or_path {typed}"
        )


def _write_card(folder: RunFolder) -> None:
    """Draw the training of a run, and write its card."""
    run = folder.run()
    refreshes = [refresh.epoch for refresh in run.belief_audit.refreshes] if run.belief_audit else []
    draw(folder.path / "figures/training.png", partial(plot_training, run.training_log, refresh_epochs=refreshes))
    own, _ = folder.write_card(run)
    if own.result is None:
        print(f"The card in {folder.path} shows no results: {own.missing}")


def verdict_logs(result: EvaluationResult) -> dict[str, str | float]:
    """The verdict as an entry of a log: the answers in brief, how many show no fault, and the score."""
    outcome = verdict(result)
    logs = dict(zip(VERDICT_LOGS, [answer.brief for answer in outcome.answers], strict=True))
    numbers = {"verdict/passed": outcome.passed, "verdict/score": outcome.score and outcome.score.share}
    return logs | {name: value for name, value in numbers.items() if value is not None}
