# SPDX-FileCopyrightText: 2026 The trl-unlearn authors
# SPDX-License-Identifier: Apache-2.0

"""Input that cannot be used, refused before any training."""

import dataclasses
import hashlib
import logging
import math
import os
import re
import tempfile
from array import array
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from accelerate import Accelerator, DistributedType
from datasets import Dataset, IterableDataset
from peft import PeftConfig, PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors import SafetensorError, safe_open
from torch import nn
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, AutoConfig, AutoModelForCausalLM, PretrainedConfig

from ..encoding import readable_tokens
from ..label_states import check_head
from .bootstrap_unlearn_config import BootstrapUnlearnConfig
from .options import refuse_below


logger = logging.getLogger(__name__)

# Parts of a config of a model that reads more than text.
_OTHER_SENSES = ("vision_config", "audio_config")
# Not `training_args.bin`, which lies in the folder of every run.
_WEIGHTS = ("*.safetensors", "*model*.bin")
# Beginnings of the values of LoRA's `init_lora_weights` that put a part of the model's own weights into the adapter.
_CHANGES_BASE = ("pissa", "corda", "olora", "loftq", "lora_ga")

# Share of the weights that may be too large for a step in their precision.
_LOST_SHARE = 0.1


def refuse_input(
    model,
    args: BootstrapUnlearnConfig,
    forget: Dataset | IterableDataset | None,
    retain: Dataset | IterableDataset | None,
    peft_config: PeftConfig | None,
) -> None:
    """Refuse sets, a model, a new adapter or an output folder as passed in; of a stream, only a first row is read."""
    _refuse_numbers(args)
    _refuse_set("forget", "train_dataset", forget)
    if args.uses_retain:
        _refuse_set("retain", "retain_dataset", retain)
    for argument, name in (("model", model), ("ignorant_model_name_or_path", args.ignorant_model_name_or_path)):
        if isinstance(name, str):
            refuse_missing_folder(argument, name)
    if getattr(model, "_hf_peft_config_loaded", False):
        raise ValueError(
            "The model has an adapter by `add_adapter` or `load_adapter` of Transformers, which is saved in another "
            "way. Give the model without it and a `peft_config`, or `PeftModel.from_pretrained(model, adapter, "
            "is_trainable=True)`."
        )
    if isinstance(model, PeftModel):
        _refuse_loaded_adapter(model)
    elif peft_config is None and isinstance(model, nn.Module) and not _trains(model):
        raise ValueError(
            "No weight of the model requires a gradient, so there is nothing to train. Call `model.requires_grad_()`, "
            "or give a `peft_config`."
        )
    start = getattr(peft_config, "init_lora_weights", None)
    if isinstance(start, str) and start.lower().startswith(_CHANGES_BASE):
        raise ValueError(
            f"`init_lora_weights={start!r}` changes the weights of the model itself: without the adapter, it would be "
            "neither the model that was passed in nor its base on the Hub. Leave it at `True`, or set 'gaussian'."
        )
    if isinstance(model, str):
        options = args.model_init_kwargs or {}
        revision = options.get("revision") if isinstance(options, dict) else None
        refuse_model_name(model, revision=revision, trust_remote_code=args.trust_remote_code)
    else:
        _refuse_kind(type(model).__name__, getattr(model, "config", None))
    check_output_dir(args.output_dir)


def _trains(model: nn.Module) -> bool:
    return any(parameter.requires_grad for parameter in model.parameters())


def _refuse_loaded_adapter(model: PeftModel) -> None:
    if not _trains(model):
        raise ValueError(
            "The adapter of the `PeftModel` is frozen, so there is nothing to train. Load it with "
            "`PeftModel.from_pretrained(..., is_trainable=True)`."
        )
    names = list(model.peft_config)
    if names != ["default"]:
        raise ValueError(
            f"The `PeftModel` has the adapters {names}, expected 'default' only: PEFT saves every other one in a "
            "folder of its own, where it is not found, or still knows what is forgotten. Load one adapter, under the "
            "name that `PeftModel.from_pretrained` gives it."
        )
    if any(isinstance(module, BaseTunerLayer) and module.merged for module in model.modules()):
        raise ValueError(
            "The adapter of the `PeftModel` is merged into the model, where it is not trained. Take it out again "
            "(`model.unmerge_adapter()`)."
        )


def keep_4_bit_gradients(model: nn.Module) -> None:
    """Keep bitsandbytes from packing 4-bit weights on a CPU, where their product has no gradient, without an error."""
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            if getattr(module.weight.quant_state, "packing_format_for_cpu", False):
                raise ValueError(
                    "The 4-bit weights of the model are packed for generation on a CPU, without gradients. Load the "
                    "model again, and pass it before it generates."
                )
            module.support_avx512bf16_for_cpu = False


def mend_generation_config(model: nn.Module) -> None:
    """Take settings of generation without effect out of a model, such as a temperature without `do_sample`."""
    # Transformers saves a model with such settings only as they were loaded, and training puts the tokens of the
    # tokenizer beside them: it would raise before the weights are written.
    config = getattr(model, "generation_config", None)
    if config is None or isinstance(model, PeftModel):
        return
    try:
        config.validate(strict=True)
        return
    except ValueError as error:
        names, said = re.findall(r"^- `(\w+)`", str(error), re.MULTILINE), error
    for name in names:
        setattr(config, name, None)
    try:
        config.validate(strict=True)
    except ValueError:
        raise ValueError(
            "The generation config of the model is invalid, and the trained model could not be saved: "
            f"{' '.join(str(said).split())} Correct `generation_config.json`, or `model.generation_config`."
        ) from said
    listed = ", ".join(f"`{name}`" for name in names)
    logger.warning(f"The generation config of the model is saved without {listed}: as it is, that has no effect.")


def refuse_missing_folder(argument: str, name: str) -> None:
    """Refuse the name of a model that is a path, and where no folder is."""
    # An id on the Hub has one slash at most.
    looks_local = name.startswith((".", "/", "~")) or name.count("/") > 1
    if looks_local and not Path(name).is_dir():
        raise ValueError(
            f"The folder `{name}` (`{argument}`) does not exist. Check the path, or give an id on the Hub."
        )


def refuse_model_name(name: str, *, revision: str | None = None, trust_remote_code: bool) -> None:
    """Refuse a model, an id on the Hub or a folder, by its config and files, before any weights are read."""
    folder = Path(name)
    if (folder / "adapter_config.json").is_file() and not (folder / "config.json").is_file():
        raise ValueError(
            f"`{name}` is an adapter, expected a whole model. Give its base as the model, and the folder as "
            "`adapter_name_or_path`; in Python: `PeftModel.from_pretrained(base, folder, is_trainable=True)`."
        )
    if folder.is_dir():
        _refuse_weights(folder)
    try:
        config = AutoConfig.from_pretrained(name, revision=revision, trust_remote_code=trust_remote_code)
    except OSError as error:
        raise ValueError(
            f"The model `{name}` cannot be read: {error} Check the path or the id; a gated or private one needs "
            "`hf auth login`."
        ) from error
    _refuse_kind(name, config)
    # A model with code of its own is in no table of `transformers`.
    if getattr(config, "auto_map", None):
        return
    known = MODEL_FOR_CAUSAL_LM_MAPPING.get(type(config), None)
    saved = config.architectures or ([known.__name__] if known else [config.model_type])
    if known is None or known.__name__ not in saved:
        raise ValueError(
            f"`{name}` was saved as `{saved[0]}`, which is no causal language model"
            + (f" (`{known.__name__}`): its head would be random" if known else "")
            + ". Give one that can generate text."
        )


def refuse_adapter(name: str, base: str, *, trust_remote_code: bool) -> None:
    """Refuse an adapter in a folder that was trained on another model than `base`, before any weights are read."""
    if not Path(name).is_dir():
        return
    _refuse_weights(Path(name))
    config = AutoConfig.from_pretrained(base, trust_remote_code=trust_remote_code)
    # Shapes only: nothing is allocated.
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, trust_remote_code=trust_remote_code)
    modules = dict(model.named_modules())
    for layer, width in _lora_widths(Path(name)):
        module = modules.get(layer)
        # The experts of a mixture are parameters of one module, which PEFT wraps more than once.
        if module is None and "experts" not in layer:
            there = "does not exist"
        elif isinstance(module, nn.Linear) and module.in_features != width:
            there = f"has {module.in_features}"
        else:
            continue
        raise ValueError(
            f"The adapter `{name}` does not fit `{base}`: its layer `{layer}` has {width} inputs, there it {there}. "
            "Give the model that it was trained on."
        )


def _lora_widths(folder: Path) -> Iterator[tuple[str, int]]:
    """Each layer of a LoRA adapter, and its number of inputs."""
    for path in folder.glob("*.safetensors"):
        with safe_open(path, "pt") as weights:
            for key in weights.keys():  # noqa: SIM118
                layer, is_lora, _ = key.removeprefix("base_model.model.").partition(".lora_A")
                if is_lora:
                    yield layer, weights.get_slice(key).get_shape()[-1]


def _refuse_weights(folder: Path) -> None:
    files = [path for ending in _WEIGHTS for path in folder.glob(ending)]
    if not files:
        raise ValueError(
            f"The model folder `{folder}` has no weights (`.safetensors`). Give the folder that was saved."
        )
    for path in files:
        if path.suffix == ".safetensors":
            try:
                with safe_open(path, "pt"):
                    pass
            except SafetensorError as error:
                raise ValueError(
                    f"The weights `{path}` cannot be read ({error}): the file is damaged or incomplete. Copy it anew."
                ) from error


def _refuse_kind(name: str, config: PretrainedConfig | None) -> None:
    if getattr(config, "is_encoder_decoder", False):
        raise ValueError(
            f"`{name}` is an encoder-decoder model (`{config.model_type}`), whose answers do not follow their prompts "
            "in one sequence. Give a causal language model."
        )
    senses = [part for part in _OTHER_SENSES if getattr(config, part, None) is not None]
    if senses:
        raise ValueError(
            f"`{name}` (`{config.model_type}`) reads more than text (its config has `{senses[0]}`), but only text "
            "models can be unlearned. Give a text model, such as the language model of it saved by itself."
        )


def refuse_model(model: nn.Module, args: BootstrapUnlearnConfig) -> None:
    """Refuse a model whose head cannot be applied in tiles, or whose vocabulary is smaller than its token beliefs."""
    check_head(model)
    vocab_size = model.config.get_text_config().vocab_size
    if args.forget_loss_type == "bs_t" and args.belief_top_k > vocab_size:
        raise ValueError(
            f"`belief_top_k` is {args.belief_top_k}, but the model's vocabulary has {vocab_size} tokens. Lower it."
        )


def warn_of_lost_steps(model: nn.Module, learning_rate: float) -> None:
    """Warn of weights that train in low precision and are too large for a step of the learning rate to change them."""
    weights = lost = 0
    for parameter in model.parameters():
        if parameter.requires_grad:
            weights += parameter.numel()
            # Numbers are at least |w| eps / 2 apart, and less than half of that is rounded away.
            if parameter.dtype in (torch.float16, torch.bfloat16):
                lost += int((parameter.detach().abs() * torch.finfo(parameter.dtype).eps / 4 > learning_rate).sum())
    if lost > _LOST_SHARE * weights:
        logger.warning(
            f"A step of `learning_rate` ({learning_rate:g}) is rounded away in {lost / weights:.0%} of the weights "
            "that train, which are in 16 bits and too large for it. Load the model in float32 (with `bf16` it "
            "computes in bfloat16 all the same), train an adapter, or raise the rate."
        )


def refuse_dropped_rows(args: BootstrapUnlearnConfig, rows: int) -> None:
    """Refuse a forget set of fewer rows than a batch of all processes where incomplete batches are dropped."""
    size = args.per_device_train_batch_size * args.world_size
    if args.dataloader_drop_last and rows < size:
        raise ValueError(
            f"`dataloader_drop_last` is set, and the forget set has {rows} rows, fewer than a batch of all processes "
            f"({size}): no step would be made, and the model would be saved as it came. Leave it out, or lower "
            "`per_device_train_batch_size`."
        )


def refuse_rows(model: nn.Module, padding: int, **sets: Dataset | Mapping[str, Dataset] | None) -> None:
    """Refuse encoded rows and a padding token that a model has no embedding or no position for."""
    embeddings = model.get_input_embeddings()
    # Adapters wrap what they change.
    for name in ("base_layer", "original_module"):
        embeddings = getattr(embeddings, name, embeddings)
    size = embeddings.num_embeddings
    if padding >= size:
        raise ValueError(
            f"The padding token is {padding}, but the model has embeddings of {size} tokens. Set "
            "`tokenizer.pad_token` to one of these that rows do not hold, or resize the embeddings."
        )
    positions = readable_tokens(model.config)
    for name, given in sets.items():
        for part, dataset in (given if isinstance(given, dict) else {name: given}).items():
            if dataset is None:
                continue
            _refuse_tokens(_token_ids(dataset), f"the {part} set", size, positions)
            if "chosen_input_ids" in dataset.column_names:
                refusals = _token_ids(dataset, "chosen_input_ids")
                _refuse_tokens(refusals, f"the {part} set, with a refusal as its answer,", size, positions)


def _refuse_tokens(rows: Iterator[list[int]], name: str, size: int, positions: int | None) -> None:
    for index, ids in enumerate(rows):
        if max(ids) >= size:
            raise ValueError(
                f"Row {index} of {name} has the token {max(ids)}, but the model has embeddings of {size} tokens. Give "
                "the tokenizer of the model, or resize the embeddings and train them."
            )
        if positions is not None and len(ids) > positions:
            raise ValueError(
                f"Row {index} of {name} has {len(ids)} tokens, but the model reads at most {positions} "
                f"(`max_position_embeddings`). Set `max_length` to {positions} or less."
            )


def refuse_sharding(accelerator: Accelerator) -> None:
    """Refuse a launch that asks for FSDP and gets something else, or its first version."""
    kind = accelerator.distributed_type
    if os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true" and kind != DistributedType.FSDP:
        raise ValueError(
            f"FSDP was asked for, but `accelerate` makes `{kind.value}` of it here, where every process has the whole "
            "model: it shards on several accelerators only. Launch with `recipes/accelerate/zero3.yaml`, which shards "
            "on CPUs too, or without FSDP."
        )
    if kind == DistributedType.FSDP and accelerator.state.fsdp_plugin.fsdp_version != 2:
        raise ValueError(
            "This is FSDP's first version, which is not supported. Set `fsdp_version: 2`, as "
            "`recipes/accelerate/fsdp2.yaml` does."
        )


def _refuse_numbers(args: BootstrapUnlearnConfig) -> None:
    for field in dataclasses.fields(args):
        value = getattr(args, field.name)
        # An infinite `max_grad_norm` is a usual way to write no clipping.
        if (
            isinstance(value, float)
            and not math.isfinite(value)
            and (field.name, value) != ("max_grad_norm", math.inf)
        ):
            raise ValueError(f"`{field.name}` is {value}, expected a finite number. Correct it, or leave it out.")
    # Numbers of the parent that would train backwards or not at all, or fail in the middle.
    refuse_below(0, args, "learning_rate", "weight_decay", "warmup_steps", "max_grad_norm", "num_train_epochs")
    refuse_below(0, args, "logging_steps", "save_steps")
    refuse_below(1, args, "per_device_train_batch_size", "gradient_accumulation_steps")
    if args.max_steps <= 0 and args.num_train_epochs == 0:
        raise ValueError(
            "`num_train_epochs` is 0 and `max_steps` is not set: no step would be made, and the model would be saved "
            "as it came. Raise one of them."
        )
    if args.n_gpu > 1:
        raise ValueError(
            f"One process sees {args.n_gpu} GPUs, and would cut each batch into parts, with `DataParallel`, which is "
            f"not supported. Start it with `accelerate launch --num_processes {args.n_gpu}`, or show it one GPU "
            "(`CUDA_VISIBLE_DEVICES=0`)."
        )


def check_output_dir(folder: str | Path) -> None:
    """Make the output folder, and raise `ValueError` if it cannot be written."""
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        # A name of its own: the processes of a launch probe one folder at the same time.
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".write-test-"):
            pass
    except OSError as error:
        raise ValueError(
            f"The output folder `{folder}` cannot be written ({error.strerror}). Choose another `output_dir`."
        ) from error


def _refuse_set(name: str, argument: str, dataset: Dataset | IterableDataset | None) -> None:
    if dataset is None:
        remedy = "Give one, or set `retain_loss_type='none'`." if name == "retain" else "Give one."
        raise ValueError(f"`{argument}` is missing: there is no {name} set. {remedy}")
    if not isinstance(dataset, Dataset | IterableDataset):
        raise TypeError(
            f"`{argument}` must be a `Dataset` or an `IterableDataset`, got `{type(dataset).__name__}`. Convert it, "
            "or pick one split of a `DatasetDict`."
        )
    if next(iter(dataset), None) is None:
        raise ValueError(f"The {name} set (`{argument}`) is empty. Check the split and the config name.")


def warn_of_short_texts(forget: Dataset, prompt_length: int) -> None:
    """Warn of raw texts that are no longer than the prompt of their beliefs, with their count."""
    short = sum(
        labels[0] != -100 and start == len(labels) - 1
        for batch in forget.select_columns(["labels", "prompt_length"]).iter(1000)
        for labels, start in zip(batch["labels"], batch["prompt_length"], strict=True)
    )
    if short:
        logger.warning(
            f"{short} of {len(forget)} forget texts are no longer than `prompt_length` ({prompt_length} tokens): "
            "their beliefs are what follows the whole text, and no other way to say it. Lower `prompt_length`."
        )


def warn_of_overlap(forget: Dataset, retain: Dataset) -> None:
    """Warn of rows in both sets and of repeated forget rows, with counts; refuse sets that share every forget row."""
    # 16 bytes of each row (about 100 with what Python adds) are in memory, never its tokens.
    kept, seen = set(_digests(retain)), set()
    both = repeated = 0
    for row in _digests(forget):
        both += row in kept
        repeated += row in seen
        seen.add(row)
    if both == len(forget):
        raise ValueError(
            f"All {both} forget rows are in the retain set too, so that what one term forgets the other one learns. "
            "Take them out of the retain set, or check that not the same rows are given twice."
        )
    if both:
        logger.warning(
            f"{both} of {len(forget)} forget rows are in the retain set too: their two terms pull against each other. "
            "Take them out of the retain set."
        )
    if repeated:
        logger.warning(
            f"{repeated} of {len(forget)} forget rows repeat another one, and count once more in each epoch. Remove "
            "them if that is not meant."
        )


def _digests(dataset: Dataset) -> Iterator[bytes]:
    """A digest of each row's tokens."""
    for ids in _token_ids(dataset):
        yield hashlib.blake2b(array("q", ids).tobytes(), digest_size=16).digest()


def _token_ids(dataset: Dataset, column: str = "input_ids") -> Iterator[list[int]]:
    for batch in dataset.select_columns(column).iter(1000):
        yield from batch[column]
