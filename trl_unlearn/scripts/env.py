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
Show versions and hardware as Markdown, to paste into an issue. No path, no name of a user and no token is among them.

```bash
trl-unlearn env
```
"""

import argparse
import platform
from importlib.metadata import PackageNotFoundError, version


REQUIRED = ("trl-unlearn", "torch", "transformers", "trl", "peft", "accelerate", "datasets", "huggingface_hub")
OPTIONAL = ("lm_eval", "deepspeed", "trackio", "bitsandbytes")


def main(argv: list[str] | None = None, prog: str = "trl-unlearn env") -> None:
    """
    Run the script.

    Args:
        argv (`list[str]`, *optional*):
            Command line; that of the process if not given.
        prog (`str`, *optional*, defaults to `"trl-unlearn env"`):
            Name of the program in its help and its messages.
    """
    parser = argparse.ArgumentParser(
        prog=prog,
        description="Show versions and hardware as Markdown, to paste into an issue. No path, no name of a user and "
        "no token is among them.",
    )
    parser.parse_args(argv)
    print("\n".join(f"- {name}: {value}" for name, value in environment().items()))


def environment() -> dict[str, str]:
    """
    Versions of what a run depends on, and what it runs on.

    Returns:
        `dict[str, str]`: Name -> version or description; an optional package that is absent is `"not installed"`.
    """
    found = {"platform": platform.platform(), "python": platform.python_version()}
    found |= {name: _version(name) for name in REQUIRED}
    return found | {"accelerator": _accelerator()} | {name: _version(name) for name in OPTIONAL}


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _accelerator() -> str:
    import torch

    if not torch.accelerator.is_available():
        return "none (CPU)"
    kind, count = torch.accelerator.current_accelerator().type, torch.accelerator.device_count()
    # Not every backend can name its devices.
    name_of = getattr(torch.get_device_module(kind), "get_device_name", lambda _: kind)
    names = [name_of(index) for index in range(count)]
    return ", ".join(f"{names.count(name)} x {name}" for name in dict.fromkeys(names)) + f" ({kind})"


if __name__ == "__main__":
    main()
