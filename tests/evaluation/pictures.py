# SPDX-FileCopyrightText: 2026 The trl-unlearn authors
# SPDX-License-Identifier: Apache-2.0

"""What a picture shows."""

import numpy as np
from PIL import Image


def coloured_pixels(path, colour: tuple[int, int, int]) -> int:
    """The number of pixels of about a colour."""
    pixels = np.asarray(Image.open(path).convert("RGB")).astype(int)
    return int((np.abs(pixels - colour).sum(axis=-1) < 30).sum())
