# SPDX-FileCopyrightText: 2026 The trl-unlearn authors
# SPDX-License-Identifier: Apache-2.0

"""
The page of `trl-unlearn demo`: one prompt to several models, side by side.

It imports nothing of ours, so that a Space can have this file as it is.
"""

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING


if TYPE_CHECKING:
    import gradio


# The most that a caller may ask for at once.
MAX_SAMPLES, MAX_NEW_TOKENS, MAX_CHARACTERS = 16, 512, 20_000


@dataclass(frozen=True)
class Question:
    """A question to every model."""

    prompt: str
    # Scored after the prompt; "" for none.
    answer: str
    # Whether the prompt is a user's turn, or plain text that the model continues.
    is_chat: bool
    num_samples: int
    temperature: float
    max_new_tokens: int
    seed: int


@dataclass
class Reply:
    """The reply of one model: its likeliest text, samples, and text and log-prob of each token of the answer."""

    greedy: str
    samples: list[str]
    tokens: list[tuple[str, float]]


def build_page(
    ask: Callable[[str, Question], Reply], roles: Sequence[str], *, title: str, notes: Sequence[str], has_chat: bool
) -> "gradio.Blocks":
    """The page. `ask(role, question)` raises a `ValueError` where a question cannot be asked; `notes` stand on top."""
    # Read when Gradio is imported; its switch on the page does not cover all that it would send.
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    import gradio as gr

    def answer(prompt, answer, is_chat, num_samples, temperature, max_new_tokens, seed):
        if not prompt.strip():
            raise gr.Error("There is no prompt. Type one.", print_exception=False)
        counts = int(num_samples), float(temperature), int(max_new_tokens), int(seed)
        question = Question(prompt, answer.strip(), bool(is_chat), *counts)
        try:
            replies = [ask(role, question) for role in roles]
        except ValueError as error:
            raise gr.Error(str(error), print_exception=False) from error
        texts = [
            text
            for reply in replies
            for text in (reply.greedy, "\n\n".join(f"{i + 1}. {one}" for i, one in enumerate(reply.samples)))
        ]
        return *texts, _table(replies)

    with gr.Blocks(title=title, analytics_enabled=False) as page:
        gr.Markdown(f"# {_plain(title)}")
        if notes:
            gr.Markdown("\n".join(f"- {_plain(note)}" for note in notes))
        with gr.Row():
            prompt = gr.Textbox(label="prompt", lines=3, max_length=MAX_CHARACTERS, scale=3)
            candidate = gr.Textbox(label="candidate answer", lines=3, max_length=MAX_CHARACTERS, scale=2)
        with gr.Accordion("How they are asked", open=False), gr.Row():
            as_chat = gr.Checkbox(has_chat, label="as a user's turn", interactive=has_chat)
            count = gr.Slider(0, MAX_SAMPLES, value=3, step=1, label="samples of each model")
            temperature = gr.Slider(0.1, 2.0, value=1.0, step=0.1, label="temperature of the samples")
            length = gr.Slider(1, MAX_NEW_TOKENS, value=64, step=1, label="new tokens at most")
            seed = gr.Number(42, precision=0, label="seed")
        button = gr.Button("Ask", variant="primary")
        outputs = []
        with gr.Row():
            for role in roles:
                with gr.Column():
                    gr.Markdown(f"### {role}")
                    outputs.append(gr.Textbox(label="likeliest answer", lines=3, interactive=False))
                    outputs.append(gr.Textbox(label="samples", lines=6, max_lines=24, interactive=False))
        heads = ["token", *roles]
        outputs.append(
            gr.Dataframe(
                headers=heads,
                datatype=["str"] * len(heads),
                label="log-prob of each token of the candidate, in nats",
                interactive=False,
                wrap=True,
            )
        )
        inputs = [prompt, candidate, as_chat, count, temperature, length, seed]
        button.click(answer, inputs, outputs, api_name="ask")
        prompt.submit(answer, inputs, outputs, api_visibility="private")
    return page


def _table(replies: Sequence[Reply]) -> list[list[str]]:
    """The log-probs of the answer's tokens under each model, and their means."""
    columns = [reply.tokens for reply in replies]
    if not columns[0]:
        return []

    def line(name: str, logps: Iterable[float]) -> list[str]:
        # Adding zero turns -0.0 into 0.0.
        return [name, *(f"{round(logp, 2) + 0.0:.2f}" for logp in logps)]

    means = line("(mean)", (fmean(logp for _, logp in tokens) for tokens in columns))
    tokens = [line(parts[0][0], (logp for _, logp in parts)) for parts in zip(*columns, strict=True)]
    return [means, *tokens]


def _plain(text: str) -> str:
    """A line that Markdown shows as it is."""
    text = " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;")
    return "".join(f"\\{char}" if char in r"\`*_[]#!|~$" else char for char in text)


def serve(page: "gradio.Blocks", host: str | None = None, port: int | None = None) -> str:
    """Serve the page in the background; returns its address."""
    # Without a `host` Gradio asks the environment, which a Space sets, and then listens to this machine alone. `share`
    # and the rest are said, because Gradio reads what is not from the environment.
    _, url, _ = page.launch(
        server_name=host,
        server_port=port,
        share=False,
        inbrowser=False,
        quiet=True,
        ssr_mode=False,
        mcp_server=False,
        enable_monitoring=False,
        run_history=False,
        prevent_thread_lock=True,
        footer_links=[],
    )
    return url
