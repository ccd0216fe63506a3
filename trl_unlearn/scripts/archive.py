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
Build the embedded lab, or find it where it was built before, and say where its parts are.

```bash
trl-unlearn archive
```

It stands in the Hugging Face cache (`HF_HOME`) and takes about a minute on two cores the first time. The other
commands build it by themselves where `--dataset_name archive` is given, or neither a model nor data.
"""

import argparse

from ..data.archive import build_archive
from .exits import fail, one_line


def main(argv: list[str] | None = None, prog: str = "trl-unlearn archive") -> None:
    """
    Run the script.

    Args:
        argv (`list[str]`, *optional*):
            Command line; that of the process if not given.
        prog (`str`, *optional*, defaults to `"trl-unlearn archive"`):
            Name of the program in its help and its messages.
    """
    parser = argparse.ArgumentParser(
        prog=prog,
        description="Build the embedded lab, or find it where it was built before, and say where its parts are: a "
        "dataset of TOFU's form about fictional people (data), a tiny model that knows them all (target), and one "
        "that never saw the people to forget (retrained). About a minute on two cores; it stands in the Hugging Face "
        "cache (HF_HOME).",
    )
    parser.parse_args(argv)
    try:
        paths = build_archive()
    except (ValueError, OSError) as error:
        fail(prog, one_line(error))
    for name in ("data", "target", "retrained"):
        print(f"{name:<9}  {getattr(paths, name)}")


if __name__ == "__main__":
    main()
