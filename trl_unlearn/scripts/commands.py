# SPDX-FileCopyrightText: 2026 The trl-unlearn authors
# SPDX-License-Identifier: Apache-2.0

"""The small commands `trl-unlearn archive`, `env` and `card`. Nothing heavy is imported before it is needed."""

import argparse
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from .exits import fail, one_line, refusing


REQUIRED = ("trl-unlearn", "torch", "transformers", "trl", "peft", "accelerate", "datasets", "huggingface_hub")
OPTIONAL = ("lm_eval", "deepspeed", "trackio", "gradio", "bitsandbytes")


def archive(argv: list[str] | None = None, prog: str = "trl-unlearn archive") -> None:
    """Build the embedded lab, or find it, and print where its parts are."""
    parser = argparse.ArgumentParser(
        prog=prog,
        description="Build the embedded lab, or find it where it was built before, and say where its parts are: a "
        "dataset of TOFU's form about fictional people (data), a tiny model that knows them all (target), and one "
        "that never saw the people to forget (retrained). About a minute on two cores; it stands in the Hugging Face "
        "cache (HF_HOME).",
    )
    parser.parse_args(argv)
    from ..data.archive import build_archive

    try:
        paths = build_archive()
    except (ValueError, OSError) as error:
        fail(prog, one_line(error))
    for name in ("data", "target", "retrained"):
        print(f"{name:<9}  {getattr(paths, name)}")


def env(argv: list[str] | None = None, prog: str = "trl-unlearn env") -> None:
    """Print versions and hardware as Markdown, without a path, a user's name or a token."""
    parser = argparse.ArgumentParser(
        prog=prog,
        description="Show versions and hardware as Markdown, to paste into an issue. No path, no name of a user and "
        "no token is among them.",
    )
    parser.parse_args(argv)
    print("\n".join(f"- {name}: {value}" for name, value in environment().items()))


def environment() -> dict[str, str]:
    """Name -> version or description of the platform, the packages and the accelerator."""
    described = {"platform": platform.platform(), "python": platform.python_version()}
    described |= {name: _version(name) for name in REQUIRED}
    return described | {"accelerator": _accelerator()} | {name: _version(name) for name in OPTIONAL}


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


def card(argv: list[str] | None = None, prog: str = "trl-unlearn card") -> None:
    """Write the card of a finished run anew; results that were measured on other weights are left out."""
    from trl import TrlParser

    from ..hub.folder import CARD_FILE, RunFolder

    parser = TrlParser(
        prog=prog,
        description="Write the model card (README.md) of a finished run anew, from run.json, eval_results.json and "
        "the figures of its output folder. A card that was edited by hand is lost.",
    )
    parser.add_argument("output_dir", help="Output folder of a run that has ended.")
    with refusing(prog):
        (args,) = parser.parse_args_and_config(args=sys.argv[1:] if argv is None else argv)
        own, figures = RunFolder(args.output_dir).write_card()
    results = f"no results: {own.missing.rstrip('.')}"
    if own.result is not None:
        results = f"results of {', '.join(own.result.suites)}"
    names = ", ".join(Path(path).stem for path in figures) or "none"
    print(f"{Path(args.output_dir, CARD_FILE)}: {results}; figures: {names}")
