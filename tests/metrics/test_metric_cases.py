# SPDX-FileCopyrightText: 2026 The trl-unlearn authors
# SPDX-License-Identifier: Apache-2.0

import json
import math
from pathlib import Path

import evaluate
import numpy as np
import pytest
from evaluate.naming import camelcase_to_snakecase
from scipy.stats import t

from trl_unlearn import metrics
from trl_unlearn.metrics import (
    FADE,
    FluencyStandin,
    ForgetQuality,
    HarmonicMean,
    LossAttack,
    MembershipAUC,
    MinKAttack,
    MinKPlusPlusAttack,
    PrivLeak,
    Probability,
    ReferenceAttack,
    RougeF1,
    RougeRecall,
    SpvAttack,
    Squeezing,
    StrangersAUC,
    TruthRatio,
    ZlibAttack,
    memorization_score,
)
from trl_unlearn.metrics.text import is_refusal
from trl_unlearn.trainer.inputs import REFUSALS


CASES = json.loads(Path(__file__).with_name("cases.json").read_text())
FOLDER = Path(metrics.__file__).parent
FAMILIES = [(one.__module__.rpartition(".")[2], one) for one in vars(metrics).values() if isinstance(one, type)]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_the_metric_gives_the_hand_worked_value(case):
    result = getattr(metrics, case["metric"])().compute(**case["inputs"])
    for name, expected in case["expected"].items():
        if isinstance(expected, dict):
            assert result[name].keys() == expected.keys()
            for key, values in expected.items():
                assert result[name][key] == pytest.approx(values, abs=1e-12, nan_ok=True)
        else:
            assert result[name] == pytest.approx(expected, abs=1e-12, nan_ok=True)


def test_every_metric_has_a_case():
    assert {(family, metric.__name__) for family, metric in FAMILIES} == {
        (case["module"], case["metric"]) for case in CASES
    }
    files = {path.stem for path in FOLDER.glob("*.py") if not path.stem.startswith("_")}
    assert files == {family for family, _ in FAMILIES}


@pytest.fixture(scope="module")
def modules_cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluate.config, "HF_MODULES_CACHE", tmp_path_factory.mktemp("modules"))
        yield


@pytest.mark.parametrize(("family", "metric"), FAMILIES, ids=lambda one: getattr(one, "__name__", one))
def test_evaluate_loads_a_metric_from_the_file_of_its_family(family, metric, modules_cache):
    name = camelcase_to_snakecase(metric.__name__)
    loaded = evaluate.load(str(FOLDER / f"{family}.py"), name, experiment_id="one", seed=3)
    assert (type(loaded).__name__, loaded.config_name, loaded.experiment_id) == (metric.__name__, name, "one")
    assert (loaded.seed, loaded.keep_in_memory) == (3, True)
    case = next(case for case in CASES if case["metric"] == metric.__name__)
    result, expected = loaded.compute(**case["inputs"]), metric().compute(**case["inputs"])
    assert json.dumps(result) == json.dumps(expected)


@pytest.mark.parametrize("name", [None, "exact_memory", "loss_attack"])
def test_a_family_without_the_metric_says_which_it_has(name, modules_cache):
    with pytest.raises(
        ValueError, match=rf"The metric is {name!r}. Choose one of \['exact_memorization', 'extraction"
    ):
        evaluate.load(str(FOLDER / "memorization.py"), name)


def test_a_metric_takes_the_arguments_of_evaluate(tmp_path):
    given = {"config_name": "mine", "experiment_id": "one", "cache_dir": str(tmp_path), "seed": 1, "hash": "0"}
    metric = Probability(**given, process_id=1, num_process=2, keep_in_memory=False, timeout=1)
    assert (metric.config_name, metric.process_id, metric.num_process, metric.seed) == ("mine", 1, 2, 1)
    assert not metric.keep_in_memory
    # One process writes nothing, whatever the argument.
    assert Probability("mine", keep_in_memory=False).keep_in_memory


def test_the_published_components_give_the_published_aggregates():
    wrong, paraphrase = 0.0406795, 0.0534963
    memorization = memorization_score(
        extraction_strength=0.0597550,
        exact_memorization=0.5860680,
        paraphrase_probability=paraphrase,
        truth_ratio_knowledge=paraphrase / (paraphrase + wrong),
    )
    utility = HarmonicMean().compute(terms=[0.5892923, 0.8981131])["harmonic_mean"]
    agg = HarmonicMean().compute(terms=[memorization, utility])["harmonic_mean"]
    assert (memorization, utility, agg) == pytest.approx((0.584, 0.712, 0.641), abs=1e-3)


def test_an_interval_of_answers_that_repeat_under_several_questions_holds_what_it_says():
    # A model to which all 24 answers about others, each under 8 of 24 questions, are as likely as the true ones.
    generator, size, held, runs = np.random.default_rng(0), 24, 0, 500
    for _ in range(runs):
        familiar, order = generator.normal(size=size), generator.permutation(size)
        sources = [[order[(8 * row + place) % size] for place in range(8)] for row in range(size)]
        others = [[0.8**0.5 * familiar[one] + 0.2**0.5 * generator.normal() for one in row] for row in sources]
        parts = StrangersAUC()._compute(generator.normal(size=size).tolist(), others, sources)["per_row"]
        held += abs(np.mean(parts) - 0.5) < t.ppf(0.975, size - 1) * np.std(parts, ddof=1) / size**0.5
    assert 0.93 <= held / runs <= 0.98


def test_sources_of_other_answers_than_those_are_refused():
    with pytest.raises(ValueError, match="other numbers of `sources` than of `others`"):
        StrangersAUC().compute(true=[0.1, 0.2], others=[[0.1], [0.2, 0.3]], sources=[[1, 2], [3]])


def test_everything_remembered_gives_memorization_zero():
    assert (
        memorization_score(
            extraction_strength=1.0, exact_memorization=0.5, paraphrase_probability=0.5, truth_ratio_knowledge=0.5
        )
        == 0.0
    )


def test_the_logarithm_of_a_p_value_that_underflows_is_finite():
    # 1000 against 1000 without overlap: log10 of 2 exp(-2 * 500).
    quality = ForgetQuality().compute(unlearned=list(range(1000)), retrained=list(range(1000, 2000)))
    assert quality["p_value"] == 0.0
    assert quality["log10_p_value"] == pytest.approx(0.30103 - 434.29448, abs=1e-4)


@pytest.mark.parametrize(
    "metric", [getattr(metrics, case["metric"]) for case in CASES], ids=lambda metric: metric.__name__
)
def test_an_empty_input_is_refused(metric):
    with pytest.raises(ValueError, match=f"`{metric.__name__}` got no rows"):
        metric().compute(**{name: [] for name in metric.inputs})


def test_inputs_of_different_lengths_are_refused():
    with pytest.raises(ValueError, match=r"different lengths.*'true_logps': 2, 'wrong_logps': 1"):
        TruthRatio().compute(true_logps=[-1.0, -2.0], wrong_logps=[[-1.0]])


def test_a_metric_leaves_no_file_of_its_inputs(tmp_path, monkeypatch):
    monkeypatch.setattr(evaluate.config, "HF_METRICS_CACHE", tmp_path)
    metric = RougeRecall()
    monkeypatch.setattr(metric, "data_dir", str(tmp_path))
    metric.compute(predictions=["a secret"], references=["a secret"])
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


@pytest.mark.parametrize(
    ("reference", "prediction", "recall"),
    [
        ("Она родилась в Киеве.", "Она родилась в Риме.", 0.75),
        # Letters, where no spaces part words, and words in between.
        ("她出生在NASA旁边。", "她出生在NASA。", 5 / 7),
        ("हिन्दी में लिखी", "हिन्दी में", 2 / 3),
        ("היא נולדה בחיפה", "היא נולדה בעכו", 2 / 3),
        ("그녀는 서울에서 태어났다", "그녀는 부산에서 태어났다", 2 / 3),
        # As ever where most letters are a to z: the others part words.
        ("José was born", "Jos was born", 1.0),
    ],
)
def test_an_answer_in_other_letters_has_the_recall_of_its_words(reference, prediction, recall):
    actual = RougeRecall().compute(predictions=[prediction, reference], references=[reference] * 2)
    assert actual["per_row"] == [pytest.approx(recall), 1.0]


def test_a_missing_input_is_named():
    with pytest.raises(ValueError, match="`TruthRatio` got no `wrong_logps`"):
        TruthRatio().compute(true_logps=[-1.0])


def test_more_generated_texts_than_true_ones_are_refused():
    with pytest.raises(ValueError, match=r"`RougeF1` got inputs of different lengths.*'predictions': 2"):
        RougeF1().compute(predictions=["a", "b"], references=["a"])


def test_a_row_without_tokens_is_named():
    with pytest.raises(ValueError, match="no log-probabilities in row 1"):
        Probability().compute(logps=[[-1.0], []])


@pytest.mark.parametrize("logps", [[-1.0], [-1.0] * 4])
def test_an_answer_with_another_number_of_log_probs_than_tokens_and_an_end_is_refused(logps):
    with pytest.raises(ValueError, match=f"2 tokens and {len(logps)} log-probabilities in row 0"):
        FluencyStandin().compute(ids=[[1, 2]], logps=[logps], own_logps=[[0.0]], vocab_size=16)


def test_a_row_with_another_number_of_beliefs_is_named():
    with pytest.raises(ValueError, match="2 beliefs now and 1 before in row 0"):
        Squeezing().compute(now=[[-1.0, -2.0]], before=[[-1.0]])


def test_an_attack_without_non_members_is_refused():
    with pytest.raises(ValueError, match="`MembershipAUC` got no non-members in row 0"):
        MembershipAUC().compute(members=[[1.0]], non_members=[[]])


@pytest.mark.parametrize("metric", [LossAttack, MinKAttack])
def test_an_attack_on_a_row_without_tokens_is_refused(metric):
    with pytest.raises(ValueError, match=f"`{metric.__name__}` got no log-probabilities in row 1"):
        metric().compute(logps=[[-1.0], []])


def test_a_row_without_tokens_has_no_compressed_rate_and_no_reference():
    with pytest.raises(ValueError, match="`ZlibAttack` got no log-probabilities in row 0"):
        ZlibAttack().compute(logps=[[]], texts=["a"])
    with pytest.raises(ValueError, match="no log-probabilities of the reference in row 0"):
        ReferenceAttack().compute(logps=[[-1.0]], reference_logps=[[]])


def test_moments_of_another_number_of_tokens_are_refused():
    with pytest.raises(ValueError, match=r"`MinKPlusPlusAttack` got \[2, 1, 2\] values.*in row 0"):
        MinKPlusPlusAttack().compute(logps=[[-1.0, -2.0]], entropies=[[1.0]], log_variances=[[1.0, 1.0]])


def test_a_row_without_neighbours_has_no_variation():
    inputs = {"logps": [-1.0], "reference_logps": [-1.0]}
    with pytest.raises(ValueError, match="no neighbours in row 0"):
        SpvAttack().compute(**inputs, neighbour_logps=[[]], reference_neighbour_logps=[[-1.0]])
    with pytest.raises(ValueError, match="no neighbours under the reference in row 0"):
        SpvAttack().compute(**inputs, neighbour_logps=[[-1.0]], reference_neighbour_logps=[[]])


def test_a_retrained_model_that_an_attack_is_certain_of_is_no_reference():
    with pytest.raises(ValueError, match="`PrivLeak` got an AUC of 1 for the retrained model in row 1"):
        PrivLeak().compute(unlearned=[0.5, 0.5], retrained=[0.5, 1.0])


def test_a_score_that_is_no_number_makes_an_attack_no_number_and_leaves_the_others():
    actual = MembershipAUC().compute(members=[[math.nan, 1.0], [2.0, 1.0]], non_members=[[0.0], [0.0]])["per_row"]
    assert math.isnan(actual["auc"][0]) and math.isnan(actual["tpr_at_1_fpr"][0])
    assert (actual["auc"][1], actual["tpr_at_1_fpr"][1]) == (1.0, 1.0)


def test_samples_that_one_model_did_not_score_are_refused():
    with pytest.raises(ValueError, match=r"2 samples of U under U and 1 under R.*in row 0"):
        FADE().compute(u_of_u=[[-1.0, -2.0]], r_of_u=[[-1.0]], u_of_r=[[-1.0]], r_of_r=[[-1.0]])
    with pytest.raises(ValueError, match="`FADE` got no samples of R in row 1"):
        FADE().compute(u_of_u=[[-1.0]] * 2, r_of_u=[[-1.0]] * 2, u_of_r=[[-1.0], []], r_of_r=[[-1.0], []])


def test_an_unknown_parity_is_refused():
    with pytest.raises(ValueError, match="`parity` is 'paper'"):
        TruthRatio().compute(true_logps=[-1.0], wrong_logps=[[-1.0]], parity="paper")


@pytest.mark.parametrize(
    "text",
    [
        *REFUSALS,
        "I do not know that.",
        "I\u2019m sorry, but I can\u2019t help with that.",
        "As an AI language model, I do not have access to personal information about individuals unless it has been "
        "shared with me.",
    ],
)
def test_a_refusal_is_one_in_each_sentence(text):
    assert is_refusal(text) and is_refusal(f"{text} I cannot tell.")
    assert not is_refusal(f"She was born in Veldt. {text}") and not is_refusal(f"{text} Bees veldt of of.")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "It",
        "He does not know the town.",
        "I was born in Veldt.",
        "bees bees bees",
        f"I do not know {'veldt of ' * 10}.",
    ],
)
def test_what_is_no_refusal_is_not_taken_for_one(text):
    assert not is_refusal(text)
