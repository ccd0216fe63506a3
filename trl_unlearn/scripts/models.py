# SPDX-FileCopyrightText: 2026 The trl-unlearn authors
# SPDX-License-Identifier: Apache-2.0

"""Models by name: checked before anything is computed, loaded as they were trained, identified by their weights."""

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from accelerate import PartialState
from huggingface_hub import try_to_load_from_cache
from peft import PeftConfig, PeftModel
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.integrations import deepspeed
from trl import get_quantization_config

from ..encoding import padding_token_id
from ..hub.access import is_repo_id
from ..hub.folder import RUN_FILE, RunFolder, holds_adapter, weights_sha256
from ..records import quantization_label
from ..trainer.checks import refuse_adapter, refuse_missing_folder, refuse_model_name
from .arguments import EvaluationArguments, UnlearnModelConfig


logger = logging.getLogger(__name__)

# Model argument -> setting of transformers.
_QUANTIZATION_FIELDS = {
    "bnb_4bit_quant_type": "bnb_4bit_quant_type",
    "use_bnb_nested_quant": "bnb_4bit_use_double_quant",
    "bnb_4bit_quant_storage": "bnb_4bit_quant_storage",
}


def check_models(
    model_args: UnlearnModelConfig,
    eval_args: EvaluationArguments,
    trust_remote_code: bool = False,
    unlearned: str | None = None,
) -> None:
    """Refuse a missing target, folders that do not exist, and models or adapters that cannot be used."""
    target, revision = model_args.model_name_or_path, model_args.model_revision
    names = {
        "model_name_or_path": target,
        "adapter_name_or_path": model_args.adapter_name_or_path,
        "unlearned_model_name_or_path": unlearned,
        **{f"{role}_model_name_or_path": name for role, name in eval_args.references.items()},
    }
    if eval_args.second_retrained_model_name_or_path and not eval_args.retrained_model_name_or_path:
        raise ValueError(
            "`second_retrained_model_name_or_path` is given without `retrained_model_name_or_path`, which it is "
            "compared with. Give both, or the second as the first."
        )
    if target is None:
        raise ValueError("`model_name_or_path` is missing: there is no target. Give an id on the Hub or a folder.")
    for argument, name in names.items():
        if name is not None:
            refuse_missing_folder(argument, name)
    for argument, name in names.items():
        if name is None:
            continue
        if argument == "adapter_name_or_path" or (argument == "unlearned_model_name_or_path" and _is_adapter(name)):
            refuse_adapter(name, target, trust_remote_code=trust_remote_code)
            if _is_other_base(name, target):
                logger.warning(
                    f"The adapter `{name}` was trained on `{_base_of(name)}`, and is put on `{target}`. If that one "
                    "has other weights, the model is none that was trained: give its own base as "
                    "`model_name_or_path`."
                )
        else:
            # A revision is one of the target's repository.
            refuse_model_name(name, revision=revision if name == target else None, trust_remote_code=trust_remote_code)


def refuse_whole_quantized(model_args: UnlearnModelConfig) -> None:
    """Refuse to train all weights of a quantised model."""
    quantized = next((name for name in ("load_in_4bit", "load_in_8bit") if getattr(model_args, name)), None)
    if quantized and not model_args.use_peft and model_args.adapter_name_or_path is None:
        raise ValueError(
            f"`{quantized}` is given, and all weights are trained, which quantised ones cannot be. Leave it out, or "
            "train an adapter (`--use_peft true`)."
        )


def _base_of(adapter: str) -> str | None:
    return PeftConfig.from_pretrained(adapter).base_model_name_or_path if Path(adapter).is_dir() else None


def _is_other_base(adapter: str, target: str) -> bool:
    """Whether an adapter in a folder names another base than the target, as far as the two can be compared."""
    base = _base_of(adapter)
    if not base or base == target:
        return False
    here = [Path(one).is_dir() for one in (base, target)]
    if all(here):
        # Of other weights than safetensors nothing is known.
        own, other = _digests(base, None), _digests(target, None)
        is_same = Path(base).samefile(target) or (own is not None and own == other)
    else:
        # Two ids on the Hub. Of a folder on another machine nothing is known.
        is_same = any(here) or not (is_repo_id(base) and is_repo_id(target))
    return not is_same


def refuse_replaced(
    folder: str | Path, model_args: UnlearnModelConfig, eval_args: EvaluationArguments, teacher: str | None
) -> None:
    """Refuse an output folder whose run would replace one of its own models, or a model or card that no run wrote."""
    own = RunFolder(folder)
    names = {
        "model_name_or_path": model_args.model_name_or_path,
        "adapter_name_or_path": model_args.adapter_name_or_path,
        **{f"{role}_model_name_or_path": name for role, name in eval_args.references.items()},
        "ignorant_model_name_or_path": teacher,
    }
    for argument, name in names.items():
        if name is not None and Path(name).is_dir() and own.replaces(name):
            raise ValueError(
                f"A run in the `output_dir`, `{folder}`, would replace the `{argument}`, `{name}`. Give another "
                "`output_dir`."
            )
    if files := own.files_of_user():
        listed = ", ".join(f"`{name}`" for name in files)
        raise ValueError(
            f"The `output_dir`, `{folder}`, holds files that no run wrote, and this one would replace them: {listed}. "
            "Move them, or give another `output_dir`."
        )


def take_as_target(model_args: UnlearnModelConfig, folder: Path) -> None:
    """Make the model of a finished run the target of the next request."""
    # An adapter is trained further on the same base; a whole model is the next target.
    if holds_adapter(folder):
        model_args.adapter_name_or_path = str(folder)
    else:
        model_args.model_name_or_path, model_args.adapter_name_or_path = str(folder), None


def load_config(model_args: UnlearnModelConfig, trust_remote_code: bool) -> PretrainedConfig:
    options = {"revision": model_args.model_revision, "trust_remote_code": trust_remote_code}
    return AutoConfig.from_pretrained(model_args.model_name_or_path, **options)


def load_tokenizer(
    model_args: UnlearnModelConfig, trust_remote_code: bool, template: str | None = None
) -> PreTrainedTokenizerBase:
    """Tokenizer of the target, with the chat template of a file if given, and EOS as padding if it has none."""
    options = {"revision": model_args.model_revision, "trust_remote_code": trust_remote_code}
    tokenizer = AutoTokenizer.from_pretrained(model_args.model_name_or_path, **options)
    if template is not None:
        # The trainer sets it, too, but rows are read and checked before.
        tokenizer.chat_template = _chat_template(Path(template))
    # Padding is masked in every pass: any token that the model knows does.
    if tokenizer.pad_token is None:
        tokenizer.pad_token_id = padding_token_id(tokenizer)
    return tokenizer


def _chat_template(path: Path) -> str:
    """The chat template in a file; another model's is refused."""
    if path.suffix not in (".jinja", ".j2") or not path.is_file():
        raise ValueError(
            f"`chat_template_path` is `{path}`, expected a file that ends in `.jinja`. Another model's template would "
            "come with tokens that the embeddings lack: write its text to such a file."
        )
    return path.read_text(encoding="utf-8")


def load_model(name: str, *, adapter: str | None = None, is_trainable: bool = False, **kwargs: Any) -> PreTrainedModel:
    """Model by name, with an adapter if one is named. `kwargs` go to `AutoModelForCausalLM.from_pretrained`."""
    model = AutoModelForCausalLM.from_pretrained(name, **kwargs)
    return model if adapter is None else PeftModel.from_pretrained(model, adapter, is_trainable=is_trainable)


@contextmanager
def _unsharded() -> Iterator[None]:
    """Load whole models although ZeRO-3 shards one in training: each process generates for itself."""
    # `from_pretrained` shards while Transformers holds a config of ZeRO-3; there is no public way to read that config.
    reference = deepspeed._hf_deepspeed_config_weak_ref
    config = None if reference is None else reference()
    deepspeed.unset_hf_deepspeed_config()
    try:
        yield
    finally:
        if config is not None:
            deepspeed.set_hf_deepspeed_config(config)


def evaluation_loaders(
    eval_args: EvaluationArguments,
    model_args: UnlearnModelConfig,
    unlearned: str | None,
    trust_remote_code: bool = False,
) -> dict[str, Callable[[], PreTrainedModel] | None]:
    """Role -> function that loads the model, or None; the target, and so an adapter's base, quantised as asked."""
    device = PartialState().device
    kwargs = {
        "dtype": model_args.dtype,
        "attn_implementation": model_args.attn_implementation,
        "trust_remote_code": trust_remote_code,
    }
    # Of the target, and of an unlearned adapter's base.
    base = {**kwargs, "revision": model_args.model_revision}
    if (quantization := get_quantization_config(model_args)) is not None:
        base["quantization_config"] = quantization

    def loader(name: str, adapter: str | None, options: dict[str, Any]) -> Callable[[], PreTrainedModel]:
        def load() -> PreTrainedModel:
            with _unsharded():
                model = load_model(name, adapter=adapter, **options)
                # bitsandbytes places quantised weights while it loads them; they cannot be moved.
                return model if "quantization_config" in options else model.to(device)

        return load

    name = model_args.model_name_or_path
    loaders = {"target": loader(name, model_args.adapter_name_or_path, base), "unlearned": None, "retrained": None}
    if unlearned is not None:
        loaders["unlearned"] = (
            loader(name, unlearned, base) if _is_adapter(unlearned) else loader(unlearned, None, kwargs)
        )
    for role, reference in eval_args.references.items():
        if reference is not None:
            loaders[role] = loader(reference, None, kwargs)
    return loaders


def _is_adapter(name: str) -> bool:
    if Path(name).is_dir():
        return holds_adapter(name)
    # An id on the Hub: the question costs a request and no download.
    from huggingface_hub import file_exists
    from huggingface_hub.errors import HTTPError

    try:
        return file_exists(name, "adapter_config.json")
    except (HTTPError, OSError) as error:
        raise ValueError(
            f"The model `{name}` is no folder here, and the Hub cannot be asked for it ({error}). Check the path or "
            "the id."
        ) from error


def quantize_as_trained(model_args: UnlearnModelConfig, unlearned: str | None) -> None:
    """Quantise the base as in the training of the unlearned adapter, unless the arguments quantise it."""
    folder = RunFolder(unlearned or "")
    if unlearned is None or not folder.is_run or not _is_adapter(unlearned):
        return
    # An adapter corrects the weights that it was trained on. Other methods than bitsandbytes keep their config in the
    # folder of the base, where `from_pretrained` reads it.
    trained = folder.run().base_quantization or {}
    if model_args.load_in_4bit or model_args.load_in_8bit or trained.get("quant_method") != "bitsandbytes":
        return
    model_args.load_in_4bit = trained.get("load_in_4bit", False)
    model_args.load_in_8bit = trained.get("load_in_8bit", False)
    for ours, theirs in _QUANTIZATION_FIELDS.items():
        if theirs in trained:
            setattr(model_args, ours, trained[theirs])
    label = quantization_label(trained)
    PartialState().print(
        f"The base is loaded in {label}, as `{folder.path / RUN_FILE}` says that the adapter was trained."
    )


def identities(names: Mapping[str, str | None]) -> dict[str, dict[str, str] | str | None]:
    """Role -> SHA-256 by file of the weights in a folder, or the id of a model on the Hub; None of no model."""
    return {
        role: name if name is None or not Path(name).is_dir() else weights_sha256(Path(name), _is_adapter(name))
        for role, name in names.items()
    }


def models_protocol(
    eval_args: EvaluationArguments, model_args: UnlearnModelConfig, unlearned: str | None
) -> dict[str, Any]:
    """The evaluated models: `weights_sha256` by role and file, `dtype`, and `base_quantization` if any."""
    # An adapter stands for its target: its files change when the target does.
    names = {
        "target": model_args.adapter_name_or_path or model_args.model_name_or_path,
        "unlearned": unlearned,
        **eval_args.references,
    }
    revision = None if model_args.adapter_name_or_path else model_args.model_revision
    digests = {role: _digests(name, revision if role == "target" else None) for role, name in names.items() if name}
    protocol = {"weights_sha256": {role: files for role, files in digests.items() if files is not None}}
    if (dtype := _target_dtype(model_args)) is not None:
        protocol["dtype"] = dtype
    if (quantization := get_quantization_config(model_args)) is not None:
        protocol["base_quantization"] = quantization_label(quantization.to_dict())
    target = model_args.model_name_or_path
    if unlearned is not None and target is not None and _is_adapter(unlearned) and _is_other_base(unlearned, target):
        protocol["other_base"] = True
    return protocol


def _digests(name: str, revision: str | None) -> dict[str, str] | None:
    """SHA-256 by file of a model's weights, of an id on the Hub by its cache; None if they are not there."""
    try:
        if Path(name).is_dir():
            return weights_sha256(Path(name), holds_adapter(name)) or None
        for file in ("adapter_config.json", "config.json"):
            cached = try_to_load_from_cache(name, file, revision=revision)
            if isinstance(cached, str):
                return weights_sha256(Path(cached).parent, file == "adapter_config.json") or None
    except ValueError:
        # A folder that is gone is no id; and some models name their shards in ways of their own.
        pass
    return None


def _target_dtype(model_args: UnlearnModelConfig) -> str | None:
    """The precision that the target is loaded in; None where only its weights say it."""
    dtype = model_args.dtype
    if dtype == "auto":
        name, revision = model_args.model_name_or_path, model_args.model_revision
        config, _ = PretrainedConfig.get_config_dict(name, revision=revision)
        dtype = config.get("dtype", config.get("torch_dtype"))
    return None if dtype is None else str(dtype).removeprefix("torch.")
