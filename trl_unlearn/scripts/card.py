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

"""
Write the model card of a finished run anew, from `run.json`, `eval_results.json` and the figures of its output folder.
Results that were measured on other weights than lie there are left out, and the command says so.

```bash
trl-unlearn card unlearned
```
"""

import sys
from pathlib import Path

from trl import TrlParser

from ..hub.folder import CARD_FILE, RunFolder
from .exits import refusing


def main(argv: list[str] | None = None, prog: str = "trl-unlearn card") -> None:
    """
    Run the script.

    Args:
        argv (`list[str]`, *optional*):
            Command line; that of the process if not given.
        prog (`str`, *optional*, defaults to `"trl-unlearn card"`):
            Name of the program in its help and its messages.
    """
    parser = TrlParser(
        prog=prog,
        description="Write the model card (README.md) of a finished run anew, from run.json, eval_results.json and "
        "the figures of its output folder. A card that was edited by hand is lost.",
    )
    parser.add_argument("output_dir", help="Output folder of a run that has ended.")
    with refusing(prog):
        (args,) = parser.parse_args_and_config(args=sys.argv[1:] if argv is None else argv)
        print(write_card(Path(args.output_dir)))


def write_card(folder: Path) -> str:
    """
    Write the card of an output folder.

    Args:
        folder (`Path`):
            Output folder.

    Returns:
        `str`: What was written, for a terminal.

    Raises:
        `ValueError`: If there is no `run.json`, or a record cannot be read.
    """
    own, figures = RunFolder(folder).write_card()
    results = f"no results: {own.missing.rstrip('.')}"
    if own.result is not None:
        results = f"results of {', '.join(own.result.suites)}"
    return f"{folder / CARD_FILE}: {results}; figures: {', '.join(Path(path).stem for path in figures) or 'none'}"


if __name__ == "__main__":
    main()
