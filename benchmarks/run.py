# SPDX-FileCopyrightText: 2026 The trl-unlearn authors
# SPDX-License-Identifier: Apache-2.0


r"""
Time and memory beside public ways of doing the same, in one command. Prints Markdown tables.

```bash
python benchmarks/run.py --benchmarks loss
python benchmarks/run.py --benchmarks step beliefs evaluation \
    --model_name_or_path org/model --dataset_name locuslab/TOFU
```
"""

import platform
import subprocess
import sys
from dataclasses import replace
from importlib.metadata import version

import beliefs
import evaluation
import loss
import step
import torch
from measure import peak_bytes, ratios, spread, table, timed
from settings import Settings
from transformers import HfArgumentParser


MODULES = {"loss": loss, "step": step, "beliefs": beliefs, "evaluation": evaluation}


def _machine(settings: Settings) -> str:
    name = torch.cuda.get_device_name() if settings.device.type == "cuda" else platform.processor() or "CPU"
    libraries = ", ".join(f"{library} {version(library)}" for library in ("torch", "transformers", "trl", "peft"))
    return f"{name}, {torch.get_num_threads()} threads, {libraries}, Python {platform.python_version()}"


def _cases(module) -> dict:
    """The cases whose memory is measured."""
    cases = module.CASES | getattr(module, "MEMORY_CASES", {})
    return {name: case for name, case in cases.items() if name not in getattr(module, "TIME_ONLY", ())}


def _memory(name: str) -> float:
    """Peak memory of a case in MiB, from a fresh process."""
    command = [sys.executable, __file__, *sys.argv[1:], "--memory_of", name]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"Measuring the memory of `{name}` failed:\n{done.stderr[-2000:]}")
    return float(done.stdout.split()[-1])


def _report(name: str, settings: Settings) -> None:
    module = MODULES[name]
    functions = {case: setup(settings) for case, setup in module.CASES.items()}
    seconds, returned = timed(functions, settings.rounds, warm_up=getattr(module, "WARM_UP", True))
    print(table(["", "seconds"], [[case.split("/")[1], spread(values)] for case, values in seconds.items()]))
    pairs = [(case, other) for case, others in module.COMPARED.items() for other in others]
    words = {pair: " / ".join(case.split("/")[1] for case in pair) for pair in pairs}
    # Before memory is measured, which takes as long again: an interruption loses nothing.
    timings = [[words[a, b], spread(ratios(seconds[a], seconds[b]))] for a, b in pairs if a in seconds]
    print("", table(["ratio", "time"], timings), sep="\n", flush=True)
    if settings.memory and name in ("loss", "step"):
        memory = {case: _memory(case) for case in _cases(module)}
        print()
        print(table(["", "peak memory, MiB"], [[case.split("/")[1], f"{mib:.0f}"] for case, mib in memory.items()]))
        sizes = [[words[a, b], f"{memory[a] / memory[b]:.3f}"] for a, b in pairs if {a, b} <= memory.keys()]
        print("", table(["ratio", "memory"], sizes), sep="\n")
    if hasattr(module, "agreement"):
        print(f"\n{module.agreement(*returned.values())}")


def main() -> None:
    (settings,) = HfArgumentParser(Settings, description=__doc__).parse_args_into_dataclasses()
    unknown = sorted(set(settings.benchmarks) - set(MODULES))
    if unknown:
        raise SystemExit(f"Unknown benchmarks {unknown}. Choose from {list(MODULES)}.")
    if settings.benchmarks != ["loss"] and None in (settings.model_name_or_path, settings.dataset_name):
        raise SystemExit("Give `--model_name_or_path` and `--dataset_name`, or `--benchmarks loss`.")
    if settings.memory_of is not None:
        case = _cases(MODULES[settings.memory_of.split("/")[0]])[settings.memory_of]
        # One cold call: a warm-up would hide the memory that libraries keep after it.
        print(peak_bytes(case(replace(settings, memory_of=None)), settings.device) / 2**20)
        return
    print(_machine(settings))
    for name in settings.benchmarks:
        print(f"\n## {name}\n\n{MODULES[name].__doc__.strip()}\n")
        _report(name, settings)


if __name__ == "__main__":
    main()
