# SPDX-FileCopyrightText: 2026 The trl-unlearn authors
# SPDX-License-Identifier: Apache-2.0

"""Models that judge what others write: behind an endpoint, on this machine, and a classifier of fluency."""

import logging
import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from huggingface_hub import InferenceClient, try_to_load_from_cache
from huggingface_hub.errors import HfHubHTTPError, HTTPError, OfflineModeIsEnabled
from tqdm.auto import tqdm
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from ..encoding import padding_token_id
from ..generation import eos_token_ids
from .together import free_memory, generate_together


logger = logging.getLogger(__name__)
# The classifier of published numbers.
FLUENCY_CLASSIFIER = "madhurjindal/autonlp-Gibberish-Detector-492513457"
_CLEAN = "clean"
API_KEY_VARIABLE = "JUDGE_API_KEY"
# More than a score takes: room for a judge that reasons first.
_MAX_REPLY_LENGTH = 512
# Rows that a local judge answers before their replies are written down.
_CHUNK = 64
# Few and patient: a server on a CPU takes one request after another.
_NUM_CONNECTIONS = 4
_TIMEOUT = 300
# Seconds before each further try where a server does not answer or is busy.
_WAITS = (1, 2, 4, 8)
_BUSY = {408, 429, 500, 502, 503, 504}
# A limit of requests is mostly one a minute.
_TOO_MANY, _PATIENCE = 429, 8
# The endpoint refuses this text (a filter, a length), not the caller.
_REFUSED_TEXT = {400, 413, 422}


class JudgeError(ConnectionError):
    """A judge that no longer answers; the message says what to do."""


class EndpointJudge:
    """A judge behind an OpenAI-compatible endpoint, at temperature 0. The token of the Hub is never sent."""

    def __init__(self, model: str, base_url: str):
        parts = urlsplit(base_url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.username or parts.password:
            raise ValueError(
                f"`judge_base_url` is no address of the form `http://host:port/v1` without a user (host: "
                f"{parts.hostname!r}). Correct it; a key goes into the environment variable `{API_KEY_VARIABLE}`."
            )
        # The name is for the protocol: of a folder its last part, which says nothing about this machine.
        self.model, self.name, self._url = model, Path(model).name, base_url
        # Never empty: `InferenceClient` would send the token of the Hub to whatever server this is.
        self._client = InferenceClient(
            base_url=base_url, api_key=os.environ.get(API_KEY_VARIABLE, "").strip() or "none", timeout=_TIMEOUT
        )
        self._check()

    def _check(self) -> None:
        place = f"The judge `{self.model}` at {self._url}"
        try:
            self._request([{"role": "user", "content": "Write the word yes and nothing else."}])
        except OfflineModeIsEnabled:
            raise ValueError(
                f"{place} cannot be asked under `HF_HUB_OFFLINE=1`: huggingface_hub then reaches no server, not even "
                "one on this machine. Unset it for this run, or give a `judge_model` without `judge_base_url`."
            ) from None
        except HfHubHTTPError as error:
            status = error.response.status_code
            advice = (
                f"Set the environment variable `{API_KEY_VARIABLE}` to a key of this server."
                if status in (401, 403)
                else "Check `judge_model`, which must be a name that the server knows, and `judge_base_url`."
            )
            # It was asked about no row, so that its words may be shown; those about a key may quote that.
            said = "" if status in (401, 403) or not error.server_message else f" It says: {error.server_message}"
            raise ValueError(f"{place} refused a first request with HTTP status {status}. {advice}{said}") from None
        except (HTTPError, ValueError) as error:
            raise ValueError(
                f"{place} cannot be reached ({error}). Start the server, or correct `judge_base_url`."
            ) from None

    def _request(self, messages: list[dict[str, str]]) -> str:
        reply = self._client.chat_completion(messages, model=self.model, temperature=0.0, max_tokens=_MAX_REPLY_LENGTH)
        try:
            content = reply.choices[0].message.content or ""
            # Of a reasoning model in parts: its thoughts have no `text`.
            return content if isinstance(content, str) else "".join(part.get("text") or "" for part in content)
        except (AttributeError, IndexError, TypeError):
            raise ValueError("its reply is no chat completion") from None

    def _reply(self, messages: list[dict[str, str]]) -> str:
        for wait in (*_WAITS, None):
            try:
                return self._request(messages)
            except HfHubHTTPError as error:
                status = error.response.status_code
                if status in _REFUSED_TEXT:
                    return ""
                fault, is_passing = f"HTTP status {status}", status in _BUSY
                if wait is not None:
                    wait = _patient(wait, error)
            # What the server said may quote a row of the forget set.
            except (HTTPError, ValueError) as error:
                fault, is_passing = type(error).__name__, True
            if wait is None or not is_passing:
                break
            time.sleep(wait)
        raise JudgeError(f"The judge `{self.model}` at {self._url} no longer answers ({fault}). See to the server.")

    def __call__(self, conversations: Sequence[list[dict[str, str]]]) -> Iterator[str]:
        """One reply to the messages of each conversation, in order, as they come, the same in every process."""
        state, replies = PartialState(), []
        # The main process sends all requests, and each that fails up to four times more.
        if state.is_main_process:
            with ThreadPoolExecutor(_NUM_CONNECTIONS) as pool:
                for reply in pool.map(self._reply, conversations):
                    replies.append(reply)
                    yield reply
        if state.num_processes > 1:
            shared = [replies]
            broadcast_object_list(shared)
            if not state.is_main_process:
                yield from shared[0]


def _patient(wait: float, error: HfHubHTTPError) -> float:
    """Seconds until a server is asked again: as long as it says, and longer where there were too many requests."""
    if error.response.status_code == _TOO_MANY:
        wait *= _PATIENCE
    # It may also be a date.
    asked = error.response.headers.get("Retry-After", "").strip()
    return max(wait, min(int(asked), _TIMEOUT)) if asked.isdecimal() else wait


class ModelJudge:
    """A local chat model as the judge, greedy, loaded while it answers."""

    def __init__(self, model: str, batch_size: int | None = None):
        self.model, self.name, self.batch_size = model, Path(model).name, batch_size
        try:
            AutoConfig.from_pretrained(model)
            self.tokenizer = AutoTokenizer.from_pretrained(model)
        except (OSError, ValueError) as error:
            raise ValueError(
                f"The judge `{model}` cannot be loaded: {error} Give the folder or the id of a chat model, or "
                "`judge_base_url` with the name of a model that a server offers."
            ) from error
        if self.tokenizer.chat_template is None:
            raise ValueError(f"The judge `{model}` has no chat template. Give a model that follows instructions.")

    def __call__(self, conversations: Sequence[list[dict[str, str]]]) -> Iterator[str]:
        """As [`EndpointJudge`]; the processes of a launch share the work."""
        prompts = [
            self.tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
            for messages in conversations
        ]
        model = AutoModelForCausalLM.from_pretrained(self.model, dtype="auto").to(PartialState().device)
        for start in range(0, len(prompts), _CHUNK):
            completions = generate_together(
                model,
                prompts[start : start + _CHUNK],
                pad_token_id=padding_token_id(self.tokenizer),
                eos_token_ids=eos_token_ids(model, self.tokenizer),
                max_new_tokens=_MAX_REPLY_LENGTH,
                batch_size=self.batch_size,
            )
            for completion in completions:
                yield self.tokenizer.decode(completion.ids, skip_special_tokens=True)
        del model
        free_memory()


Judge = EndpointJudge | ModelJudge


def load_judge(judge_model: str | None, judge_base_url: str | None, *, batch_size: int | None = None) -> Judge | None:
    """The judge behind a server, or a local one without a server; None without a model."""
    if judge_base_url is not None and judge_model is None:
        raise ValueError("`judge_base_url` is given without `judge_model`. Give the name of a model that it offers.")
    if judge_model is None:
        return None
    return (
        ModelJudge(judge_model, batch_size) if judge_base_url is None else EndpointJudge(judge_model, judge_base_url)
    )


@dataclass
class FluencyClassifier:
    """A sequence classifier with a class `clean`, of the index `clean`; `name` is its id or folder."""

    name: str
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    clean: int

    @torch.no_grad()
    def probabilities(
        self, texts: Sequence[str], *, batch_size: int = 32, desc: str = "Judging the fluency"
    ) -> list[float]:
        """Probability of the class `clean` for each text; 0 for a text that is empty or white space."""
        filled = [index for index, text in enumerate(texts) if text.strip()]
        clean = [0.0] * len(texts)
        # Some tokenizers have no limit of their own, but positions beyond the model's fail.
        longest = min(self.tokenizer.model_max_length, getattr(self.model.config, "max_position_embeddings", 512))
        with tqdm(total=len(filled), desc=desc, disable=None) as progress:
            for start in range(0, len(filled), batch_size):
                indices = filled[start : start + batch_size]
                batch = self.tokenizer(
                    [texts[i] for i in indices], padding=True, truncation=True, max_length=longest, return_tensors="pt"
                ).to(self.model.device)
                probabilities = self.model(**batch).logits.float().softmax(-1)[:, self.clean].tolist()
                for i, probability in zip(indices, probabilities, strict=True):
                    clean[i] = probability
                progress.update(len(indices))
        return clean


def load_fluency_classifier(name: str | None = None) -> FluencyClassifier | None:
    """A fluency classifier by id or folder; without a name that of published numbers, if it is in the cache."""
    if name is not None:
        return _load_classifier(name)
    if not isinstance(try_to_load_from_cache(FLUENCY_CLASSIFIER, "config.json"), str):
        return None
    try:
        return _load_classifier(FLUENCY_CLASSIFIER, local_files_only=True)
    except ValueError as error:
        logger.warning(f"The fluency classifier in the cache is not used. {error}")
        return None


def _load_classifier(name: str, **options: Any) -> FluencyClassifier:
    options = {"trust_remote_code": False, **options}
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, **options)
        model, report = AutoModelForSequenceClassification.from_pretrained(
            name, dtype=torch.float32, output_loading_info=True, **options
        )
    # A broken file raises whatever the library that reads it raises.
    except Exception as error:
        raise ValueError(
            f"The fluency classifier `{name}` cannot be loaded: {str(error).splitlines()[0]} Give an id on the Hub or "
            "a folder with a sequence classifier and its tokenizer."
        ) from error
    labels = model.config.id2label
    clean = [index for index, label in labels.items() if str(label).lower() == _CLEAN]
    if not clean:
        raise ValueError(
            f"The fluency classifier `{name}` has the classes {list(labels.values())}. Expected a class called "
            f"`{_CLEAN}`: give another classifier, or name the class in `id2label` of its `config.json`."
        )
    # Without weights or a vocabulary it would load with a warning, and guess.
    if report["missing_keys"] or len(tokenizer) <= len(tokenizer.all_special_ids):
        missing = sorted(report["missing_keys"]) or "a vocabulary of its tokenizer"
        raise ValueError(
            f"The fluency classifier `{name}` lacks {missing}. Give one that was trained and saved with its tokenizer."
        )
    return FluencyClassifier(name, model.eval().to(PartialState().device), tokenizer, clean[0])
