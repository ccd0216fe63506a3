# Copyright 2026 The trl-unlearn authors. All rights reserved.
#
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#
#     http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.

"""Is what a model writes still language? A published classifier's word for it."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import PartialState
from huggingface_hub import try_to_load_from_cache
from tqdm.auto import tqdm
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)


logger = logging.getLogger(__name__)

# The one of published numbers.
FLUENCY_CLASSIFIER = "madhurjindal/autonlp-Gibberish-Detector-492513457"
_CLEAN = "clean"


@dataclass
class FluencyClassifier:
    """
    A sequence classifier with a class `clean`.

    Args:
        name (`str`):
            Its id on the Hub or folder, for the protocol.
        model ([`~transformers.PreTrainedModel`]):
            The classifier.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            Its tokenizer.
        clean (`int`):
            Index of the class `clean`.
    """

    name: str
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    clean: int

    @torch.no_grad()
    def probabilities(
        self, texts: Sequence[str], *, batch_size: int = 32, desc: str = "Judging the fluency"
    ) -> list[float]:
        """
        Probability of the class `clean` for each text.

        Args:
            texts (`Sequence[str]`):
                Texts in question; those of published numbers are greedy answers to the forget set, cut at 32 tokens of
                the model that wrote them.
            batch_size (`int`, *optional*, defaults to `32`):
                Texts a forward pass takes.
            desc (`str`, *optional*, defaults to `"Judging the fluency"`):
                Label of the progress bar.

        Returns:
            `list[float]`: In [0, 1], in the order of the texts; 0 for a text that is empty or white space.
        """
        filled = [index for index, text in enumerate(texts) if text.strip()]
        found = [0.0] * len(texts)
        # Some tokenizers know no limit, but positions beyond the model's fail.
        longest = min(self.tokenizer.model_max_length, getattr(self.model.config, "max_position_embeddings", 512))
        with tqdm(total=len(filled), desc=desc, disable=None) as progress:
            for start in range(0, len(filled), batch_size):
                indices = filled[start : start + batch_size]
                batch = self.tokenizer(
                    [texts[i] for i in indices],
                    padding=True,
                    truncation=True,
                    max_length=longest,
                    return_tensors="pt",
                ).to(self.model.device)
                probabilities = self.model(**batch).logits.float().softmax(-1)[:, self.clean].tolist()
                for i, probability in zip(indices, probabilities, strict=True):
                    found[i] = probability
                progress.update(len(indices))
        return found


def load_fluency_classifier(name: str | None = None) -> FluencyClassifier | None:
    """
    The fluency classifier that is named, or the one of published numbers where it has been downloaded before.

    Args:
        name (`str`, *optional*):
            Id on the Hub or folder of a sequence classifier with a class `clean`, in upper or lower case. `None`:
            `madhurjindal/autonlp-Gibberish-Detector-492513457` if it is in the local cache; nothing is downloaded.

    Returns:
        [`FluencyClassifier`]: On the accelerator if there is one, in float32. `None` if none is named and that one is
        not in the cache.

    Raises:
        `ValueError`: If the one that is named cannot be loaded, lacks weights or a vocabulary, or has no class
        `clean`.

    Source: https://huggingface.co/madhurjindal/autonlp-Gibberish-Detector-492513457.
    """
    if name is not None:
        return _load(name)
    if not isinstance(try_to_load_from_cache(FLUENCY_CLASSIFIER, "config.json"), str):
        return None
    try:
        return _load(FLUENCY_CLASSIFIER, local_files_only=True)
    except ValueError as error:
        logger.warning("The fluency classifier in the cache is not used. %s", error)
        return None


def _load(name: str, **options: Any) -> FluencyClassifier:
    options = {"trust_remote_code": False, **options}
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, **options)
        model, report = AutoModelForSequenceClassification.from_pretrained(
            name, dtype=torch.float32, output_loading_info=True, **options
        )
    # A broken file raises what the library that reads it likes.
    except Exception as error:
        raise ValueError(
            f"The fluency classifier `{name}` cannot be loaded: {str(error).splitlines()[0]} Give an id on the Hub or "
            "a folder with a sequence classifier and its tokenizer."
        ) from error
    labels = model.config.id2label
    clean = [index for index, label in labels.items() if str(label).lower() == _CLEAN]
    if not clean:
        raise ValueError(
            f"The fluency classifier `{name}` has the classes {list(labels.values())}. Expected one that is called "
            f"`{_CLEAN}`: give another classifier, or name the class in `id2label` of its `config.json`."
        )
    # Both would load with a warning, and guess.
    if report["missing_keys"] or len(tokenizer) <= len(tokenizer.all_special_ids):
        missing = sorted(report["missing_keys"]) or "a vocabulary of its tokenizer"
        raise ValueError(
            f"The fluency classifier `{name}` lacks {missing}. Give one that was trained and saved with its tokenizer."
        )
    return FluencyClassifier(name, model.eval().to(PartialState().device), tokenizer, clean[0])
