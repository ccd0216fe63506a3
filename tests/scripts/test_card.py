# SPDX-FileCopyrightText: 2026 The trl-unlearn authors
# SPDX-License-Identifier: Apache-2.0

"""The card of a run that has ended, written anew."""

import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from trl_unlearn import cli
from trl_unlearn.hub.folder import RunFolder
from trl_unlearn.results import EvaluationResult
from trl_unlearn.scripts import results


def test_the_card_written_anew_is_that_of_the_run(run, own, capfd):
    done = run("bs_t", own)
    card = done.text("README.md")
    (done.folder / "README.md").write_text("lost", encoding="utf-8")
    capfd.readouterr()
    cli.main(["card", str(done.folder)])
    assert done.text("README.md") == card
    assert "figures/evaluation.png" in card
    assert (
        capfd.readouterr().out
        == f"{done.folder / 'README.md'}: results of tofu; figures: verdict, evaluation, training\n"
    )


def test_a_card_without_results_says_so_and_shows_the_figures_that_there_are(run, own, capfd):
    done = run("bs_t", [*own, "--no_evaluate"])
    (done.folder / "figures").mkdir(exist_ok=True)
    for name in ("zebra", "apple", "training"):
        (done.folder / f"figures/{name}.png").touch()
    capfd.readouterr()
    cli.main(["card", str(done.folder)])
    assert (
        "no results: this model has not been evaluated yet; figures: training, apple, zebra" in capfd.readouterr().out
    )
    card = done.text("README.md")
    assert "Results are missing" in card
    assert [part.split(")")[0] for part in card.split("](figures/")[1:]] == ["training.png", "apple.png", "zebra.png"]


def test_a_merged_copy_goes_with_its_run_and_without_a_run_it_stays_as_text_and_pictures_do(run, own, tmp_path):
    for name in ("merged", "figures"):
        (tmp_path / name).mkdir()
    for name in ("README.md", "figures/holiday.png", "figures/attacks.png"):
        (tmp_path / name).touch()
    RunFolder(tmp_path).clear()
    assert (tmp_path / "merged").is_dir() and (tmp_path / "README.md").is_file()
    assert [path.name for path in tmp_path.glob("figures/*")] == ["holiday.png"]
    done = run("bs_t", [*own, "--no_evaluate"])
    (done.folder / "merged").mkdir()
    RunFolder(done.folder).clear()
    assert not (done.folder / "merged").exists()


def test_results_of_other_weights_are_on_no_card_and_the_command_says_so(run, own, capfd):
    done = run("bs_t", own)
    weights = done.folder / "adapter_model.safetensors"
    tensors = load_file(weights)
    save_file({name: 2 * tensor for name, tensor in tensors.items()}, weights, metadata={"format": "pt"})
    capfd.readouterr()
    cli.main(["card", str(done.folder)])
    said = "those in `eval_results.json` were measured on other weights: `adapter_model.safetensors`"
    assert f"no results: {said}; figures: training\n" in capfd.readouterr().out
    card = done.text("README.md")
    assert f"Results are missing: {said}." in card
    assert "model-index" not in card and "figures/evaluation.png" not in card and "forget/probability" not in card
    # Nor on the card of a run into whose folder another model's results are written.
    result = EvaluationResult.load(done.folder / "eval_results.json")
    results.write_results(done.folder, result)
    assert f"shows no results: {said}." in capfd.readouterr().out
    assert "forget/probability" not in done.text("README.md")


MODEL_CARDS = Path(__file__).parents[2] / "model_cards"
RENDERED = sorted(path.parent.name for path in MODEL_CARDS.glob("*/run.json"))


@pytest.mark.parametrize("name", RENDERED)
def test_a_published_card_is_what_its_records_give(name, tmp_path):
    folder = tmp_path / name
    shutil.copytree(MODEL_CARDS / name, folder)
    (folder / "README.md").unlink()
    RunFolder(folder).write_card()
    assert (folder / "README.md").read_text(encoding="utf-8") == (MODEL_CARDS / name / "README.md").read_text(
        encoding="utf-8"
    )
