# SPDX-FileCopyrightText: 2026 The trl-unlearn authors
# SPDX-License-Identifier: Apache-2.0


"""Chat templates of public models on a small byte-level tokenizer with each model's own special tokens."""

import json
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import PreTrainedTokenizerFast


CORPUS = [
    "Where was Ada Marlow born? Ada Marlow was born in the harbour town of Veldt.",
    "What did Bo Lindgren write? Bo Lindgren wrote a long novel about winter bees.",
    "You are a helpful assistant. user system assistant model\n\n\n final analysis INST SYS",
    "שלום עולם é ü ß \U0001f600 \U0001f469\u200d\U0001f467  \t two  spaces\n\nand lines\n",
]
# Words, numbers, signs and white space; line breaks stay together, and what is before them goes with them.
_LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)


@dataclass(frozen=True)
class Chat:
    """
    A chat template and the tokens of the model that it belongs to.

    Args:
        closes (`str`):
            Token that closes an answer.
        special (`tuple[str, ...]`):
            The other special tokens.
        bos (`str`, *optional*):
            BOS token.
        base_eos (`str`, *optional*):
            EOS token of the base model, whose checkpoints have the same template. None where the template writes the
            EOS token itself.
        lead (`str`):
            What the template writes between the generation prompt and every answer.
        plain (`tuple[str, ...]`):
            Tokens of their own that are not special.
        words (`str`):
            How text is cut before BPE: as GPT-2 does (`"gpt2"`), as Llama 3 (`"llama3"`), or not at all, with spaces
            as letters (`"sentencepiece"`; `"sentencepiece+"` writes one in front of every piece of text).
        strips (`bool`):
            Whether special tokens swallow the white space around them.
        tools (`bool`):
            Whether the template writes tools.
        shipped (`str`, *optional*):
            Name of the template in TRL. None: it stands in `chat_templates`.
    """

    closes: str
    special: tuple[str, ...] = ()
    bos: str | None = None
    base_eos: str | None = None
    lead: str = ""
    plain: tuple[str, ...] = ()
    words: str = "llama3"
    strips: bool = False
    tools: bool = False
    shipped: str | None = None

    @property
    def added(self) -> tuple[str, ...]:
        """Special tokens, but the padding."""
        return tuple(dict.fromkeys(filter(None, (self.closes, *self.special, self.bos, self.base_eos))))


_CHATML = {"closes": "<|im_end|>", "special": ("<|im_start|>",), "base_eos": "<|endoftext|>"}
_TOOL_CALL, _THINK = ("<tool_call>", "</tool_call>"), ("<think>", "</think>")
_INST = ("[INST]", "[/INST]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]")
CHATS = {
    "llama2": Chat("</s>", bos="<s>", words="sentencepiece+"),
    "llama3": Chat(
        "<|eot_id|>",
        ("<|start_header_id|>", "<|end_header_id|>"),
        **{"bos": "<|begin_of_text|>", "base_eos": "<|end_of_text|>", "shipped": "llama3"},
    ),
    "qwen2.5": Chat(**_CHATML, plain=_TOOL_CALL, tools=True, shipped="qwen2_5"),
    "qwen3": Chat(**_CHATML, plain=_TOOL_CALL + _THINK, lead="<think>\n\n</think>\n\n", tools=True, shipped="qwen3"),
    "gemma3": Chat(
        "<end_of_turn>",
        ("<start_of_turn>",),
        **{"bos": "<bos>", "base_eos": "<eos>", "words": "sentencepiece", "shipped": "gemma3"},
    ),
    "mistral": Chat("</s>", _INST, bos="<s>", words="sentencepiece+", tools=True),
    "phi4": Chat("<|im_end|>", ("<|im_start|>", "<|im_sep|>"), base_eos="<|endoftext|>", strips=True),
    "smollm": Chat(**_CHATML, words="gpt2"),
    "gpt_oss": Chat(
        "<|return|>",
        ("<|start|>", "<|message|>", "<|channel|>", "<|end|>", "<|call|>"),
        base_eos="<|endoftext|>",
        **{"lead": "<|channel|>final<|message|>", "tools": True, "shipped": "gptoss"},
    ),
    "zephyr": Chat("</s>", bos="<s>", words="sentencepiece+"),
}


def template(name: str) -> str:
    """Text of a chat template."""
    shipped = CHATS[name].shipped
    if shipped is None:
        return (Path(__file__).parent / "chat_templates" / f"{name}.jinja").read_text(encoding="utf-8")
    return (files("trl") / "chat_templates" / f"{shipped}.jinja").read_text(encoding="utf-8")


def _trained(backend: Tokenizer, alphabet: list[str]) -> Tokenizer:
    trainer = trainers.BpeTrainer(
        vocab_size=len(alphabet) + 80,
        special_tokens=["<unk>", "<pad>"],
        initial_alphabet=alphabet,
        show_progress=False,
    )
    backend.train_from_iterator(CORPUS, trainer)
    return backend


def _byte_level(words: str) -> Tokenizer:
    backend = Tokenizer(models.BPE())
    cut = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=words == "gpt2")
    if words == "llama3":
        cut = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(_LLAMA3), "isolated"), cut])
    backend.pre_tokenizer, backend.decoder = cut, decoders.ByteLevel()
    return _trained(backend, pre_tokenizers.ByteLevel.alphabet())


def _sentencepiece(words: str) -> Tokenizer:
    backend = Tokenizer(models.BPE(unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never")
    learnt = json.loads(_trained(backend, [chr(i) for i in range(33, 127)]).to_str())["model"]
    vocabulary = learnt["vocab"]
    # What has no token of its own is written as its bytes.
    vocabulary |= {f"<0x{byte:02X}>": len(vocabulary) + byte for byte in range(256)}
    merges = [tuple(pair) for pair in learnt["merges"]]
    backend = Tokenizer(
        models.BPE(vocab=vocabulary, merges=merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    )
    spaces = [normalizers.Replace(" ", "▁")]
    back = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    if words == "sentencepiece+":
        spaces, back = [normalizers.Prepend("▁"), *spaces], [*back, decoders.Strip(" ", 1, 0)]
    backend.normalizer, backend.decoder = normalizers.Sequence(spaces), decoders.Sequence(back)
    return backend


@cache
def chat_tokenizer(name: str, *, base: bool = False, adds_bos: bool = False) -> PreTrainedTokenizerFast:
    """
    Tokenizer of a chat model.

    Args:
        name (`str`):
            Key of `CHATS`.
        base (`bool`):
            Of its base model: the same template, but another EOS token.
        adds_bos (`bool`):
            It puts the BOS token before a text by itself.
    """
    chat = CHATS[name]
    backend = (_sentencepiece if chat.words.startswith("sentencepiece") else _byte_level)(chat.words)
    strips = {"lstrip": chat.strips, "rstrip": chat.strips}
    backend.add_special_tokens([AddedToken(token, normalized=False, **strips) for token in chat.added])
    backend.add_tokens([AddedToken(token, normalized=False) for token in chat.plain])
    if adds_bos:
        backend.post_processor = processors.TemplateProcessing(
            single=f"{chat.bos} $A", special_tokens=[(chat.bos, backend.token_to_id(chat.bos))]
        )
    eos = chat.base_eos if base else chat.closes
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token=chat.bos,
        eos_token=eos,
        pad_token="<pad>",
        additional_special_tokens=[token for token in chat.added if token not in (chat.bos, eos)],
        chat_template=template(name),
    )
