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


"""The inner layer that RMU acts on, and the parameters that it trains."""

import re

from torch import nn

from ..label_states import layer_of


def resolve_layer(model: nn.Module, layer: int | None) -> int:
    """
    The layer whose hidden states count.

    Args:
        model (`torch.nn.Module`):
            Causal language model, not wrapped.
        layer (`int`, *optional*):
            Index of the layer. `None` takes a third of the depth.

    Returns:
        `int`: Index of the layer.

    Raises:
        `ValueError`: If the model has no such layer.
    """
    layer = model.config.get_text_config().num_hidden_layers // 3 if layer is None else layer
    layer_of(model, layer)
    return layer


def train_around_layer(model: nn.Module, layer: int, pattern: str | None) -> None:
    """
    Let only some parameters train, of those that do.

    Args:
        model (`torch.nn.Module`):
            Model, changed in place.
        layer (`int`):
            Without a pattern, its parameters and those of the two layers before it train.
        pattern (`str`, *optional*):
            Regular expression of names.

    Raises:
        `ValueError`: If none is left.
    """
    near = {
        id(parameter)
        for index in range(max(0, layer - 2), layer + 1)
        for parameter in layer_of(model, index).parameters()
    }
    trained = 0
    for name, parameter in model.named_parameters():
        chosen = id(parameter) in near if pattern is None else re.search(pattern, name) is not None
        parameter.requires_grad_(parameter.requires_grad and chosen)
        trained += parameter.requires_grad
    if not trained:
        raise ValueError(
            f"`rmu_parameters={pattern!r}` and `rmu_layer={layer}` leave no parameter to train. Choose names of "
            "parameters that train (with LoRA, those of the adapter)."
        )
