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

"""What a terminal shows of the training: the log-probs beside the bar, and the beliefs, if that is asked for."""

from collections.abc import Mapping

from rich.console import Console
from rich.table import Table
from rich.text import Text
from tqdm.auto import tqdm
from transformers import PreTrainedTokenizerBase, ProgressCallback, Trainer

from ..beliefs import BeliefStore
from .drift import spread_over


class LogpsProgressCallback(ProgressCallback):
    """
    The usual bar, with the mean log-probs of the last step behind it, in nats per token.

    Args:
        means (`Mapping[str, float]`):
            Means of the last step, which whoever computes them changes in place: `"forget/logps"`, `"beliefs/logps"`
            and `"retain/logps"`.
    """

    def __init__(self, means: Mapping[str, float]):
        super().__init__()
        self.means = means

    def on_step_end(self, args, state, control, **kwargs):
        if self.training_bar is not None:
            shown = {kind: self.means.get(f"{kind}/logps") for kind in ("forget", "beliefs", "retain")}
            logps = " ".join(f"{kind} {value:.2f}" for kind, value in shown.items() if value is not None)
            self.training_bar.set_postfix_str(logps and f"logps: {logps}", refresh=False)
        super().on_step_end(args, state, control, **kwargs)


def show_logps(trainer: Trainer, means: Mapping[str, float]) -> None:
    """
    Put a [`LogpsProgressCallback`] in the place of the usual bar; a notebook's, or no bar, stays as it is.

    Args:
        trainer ([`~transformers.Trainer`]):
            Trainer.
        means (`Mapping[str, float]`):
            Means of the last step, changed in place.
    """
    usual = next((one for one in trainer.callback_handler.callbacks if type(one) is ProgressCallback), None)
    if usual is not None:
        trainer.remove_callback(usual)
        trainer.add_callback(LogpsProgressCallback(means))


def print_beliefs(
    store: BeliefStore,
    tokenizer: PreTrainedTokenizerBase,
    epoch: float,
    count: int | None = None,
    console: Console | None = None,
) -> None:
    """
    Print beliefs beside their prompts. **This shows what is to be forgotten**; it goes to the terminal only.

    Args:
        store ([`~trl_unlearn.beliefs.BeliefStore`]):
            Beliefs, sampled.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            Tokenizer.
        epoch (`float`):
            Epoch of the training, for the title.
        count (`int`, *optional*):
            Most beliefs that are printed: those of forget rows spread evenly over the set. Default: all.
        console (`rich.console.Console`, *optional*):
            Where to print; defaults to standard output.
    """

    def text(ids: list[int]) -> Text:
        # Not as markup, which a square bracket would start.
        return Text(tokenizer.decode(ids, skip_special_tokens=True).strip())

    size, each = len(store.prompts), store.sampling.num_beliefs
    left = size * each if count is None else count
    table = Table(title=f"Beliefs at epoch {epoch:g}", expand=True)
    for name in ("prompt", "answer to forget", "belief"):
        table.add_column(name)
    for index in spread_over(size, -(-left // each)):
        for number, row in enumerate(store.rows([index])[:left]):
            beside = (store.prompts[index], store.targets[index]) if number == 0 else ([], [])
            belief = [label for label in row["labels"] if label >= 0]
            table.add_row(*map(text, (*beside, belief)), end_section=number == min(each, left) - 1)
        left -= each
    with tqdm.external_write_mode():
        (console or Console()).print(table)
