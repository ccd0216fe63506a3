# SPDX-FileCopyrightText: 2026 The trl-unlearn authors
# SPDX-License-Identifier: Apache-2.0

"""`python -m trl_unlearn`, and so `accelerate launch -m trl_unlearn`: the command `trl-unlearn`."""

from .cli import main


if __name__ == "__main__":
    main()
