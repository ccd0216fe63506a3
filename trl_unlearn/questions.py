# SPDX-FileCopyrightText: 2026 The trl-unlearn authors
# SPDX-License-Identifier: Apache-2.0

"""The five questions of the verdict, and the numbers that answer them. Standard library only."""

from typing import NamedTuple

from .results import RELEARNING_STEPS


# After the most steps that were measured; a quick evaluation has few.
_RELEARNED = tuple(f"robustness/relearned_{steps}_steps" for steps in RELEARNING_STEPS[:0:-1])


class Measure(NamedTuple):
    """A number that answers a question: the first of some metrics that was measured."""

    names: tuple[str, ...]
    # Largest difference to the retrained model that counts as none. None, of a distance to it: half of the target's.
    margin: float | None
    # Value of a model that knows nothing, to compare with if there is no retrained model. None: not known.
    nothing: float | None = None
    # Metric of the retrained model to compare with, if it is not the same one.
    beside: str | None = None
    # A higher value means less.
    is_reversed: bool = False
    # A value below the retrained model's gives the rows away as one above does.
    tells_both_ways: bool = False
    # Stands in for a retrained model: it is read only without one, and compared with `nothing`.
    is_stand_in: bool = False


class Question(NamedTuple):
    """A question, and the numbers that answer it."""

    text: str
    measures: tuple[Measure, ...]


STRANGERS = Measure(("forget/strangers_auc",), 0.35, nothing=0.5, is_stand_in=True)
# The question where less than the retrained model is worse, not more.
KEEPING = "Does it still work?"
QUESTIONS = (
    Question(
        "Does it say it?",
        (
            Measure(("forget/extraction_strength",), 0.05, nothing=0.0),
            # One wrong token an answer hides it from the extraction strength.
            Measure(("forget/exact_memorization",), 0.1),
            # Without the wording, which a model that never knew predicts, too.
            Measure(("forget/fact_memorization",), 0.1, nothing=0.0),
            Measure(("forget/rougeL_recall",), 0.1, nothing=0.0),
            # Whatever the words around the fact.
            Measure(("forget/fact_recall",), 0.1, nothing=0.0),
            Measure(("forget/paraphrase_probability",), 0.05, nothing=0.0),
            Measure(("forget/squeezing",), 0.5),
            Measure(("muse/verbmem",), 0.05),
            Measure(("rwku/forget_level1",), 0.05, nothing=0.0),
            Measure(("rwku/forget_level2",), 0.05, nothing=0.0),
        ),
    ),
    Question(
        "Does it know it in second place?",
        (
            Measure(("depth/uds",), 0.1, is_reversed=True),
            Measure(("depth/logit_lens",), 0.05, nothing=0.0),
            Measure(("elicitation/strongest",), 0.05, nothing=0.0),
            Measure(("robustness/leak_at_8",), 0.1),
            Measure(("robustness/paraphrased_rougeL",), 0.1, nothing=0.0),
            # Its own answer, begun for it.
            Measure(("robustness/prefix_rougeL",), 0.1),
            Measure(("forget/truth_ratio_knowledge",), 0.1, nothing=0.5),
            Measure(("muse/knowmem",), 0.05),
            Measure(("rwku/forget_level3",), 0.05, nothing=0.0),
        ),
    ),
    Question(
        "Does it come back?",
        (
            Measure(("robustness/relearning_area", *_RELEARNED), 0.03, nothing=0.0),
            # The largest over the attacks by fine-tuning, so it stands for those of each kind, too.
            Measure(("robustness/strongest_area",), 0.03),
            Measure(("robustness/quantized_int4",), 0.05, nothing=0.0),
            Measure(("robustness/quantized_facts",), 0.1, nothing=0.0),
            Measure(("robustness/quantized_int8",), 0.05, nothing=0.0),
            Measure(("robustness/noise_20_percent",), 0.05, nothing=0.0),
            # The retrained model has no adapter: its strict extraction strength on the rows of the relearning.
            Measure(("robustness/adapter_off",), 0.05, nothing=0.0, beside="robustness/relearned_0_steps"),
            Measure(("robustness/adapter_off_facts",), 0.1, nothing=0.0, beside="forget/fact_recall"),
        ),
    ),
    Question(
        "Can one tell that it was trained on it?",
        (
            Measure(("privacy/combined_auc",), 0.15, nothing=0.5),
            Measure(("privacy/loss_auc",), 0.15, nothing=0.5, tells_both_ways=True),
            Measure(("privacy/min_k_auc",), 0.15, nothing=0.5, tells_both_ways=True),
            STRANGERS,
            Measure(("distribution/fade_forget",), None),
        ),
    ),
    Question(
        KEEPING,
        (
            Measure(("retain/probability",), 0.05, nothing=0.0),
            Measure(("retain/shared_probability",), 0.05, nothing=0.0),
            Measure(("retain/neighbour_probability",), 0.05, nothing=0.0),
            Measure(("utility/model_utility",), 0.02, nothing=0.0),
            # Of the answers to forget rows, where the target says its own: no yardstick for another model.
            Measure(("utility/fluency", "utility/fluency_standin"), 0.1),
            Measure(("muse/utility_preservation",), 0.05, nothing=0.0),
            Measure(("rwku/neighbor_level1",), 0.05, nothing=0.0),
            Measure(("rwku/neighbor_level2",), 0.05, nothing=0.0),
            Measure(("rwku/utility_general",), 0.05, nothing=0.0),
        ),
    ),
)
