# SPDX-FileCopyrightText: 2026 The trl-unlearn authors
# SPDX-License-Identifier: Apache-2.0

"""Ctrl-C, SIGTERM, a folder that cannot be written and a full disk end in a sentence, and a run that goes on."""

import contextlib
import errno
import json
import os
import random
import re
import runpy
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from safetensors.torch import load_file
from transformers import TrainerState

from trl_unlearn import BootstrapUnlearnConfig
from trl_unlearn.evaluation.callbacks import CannotBeginError
from trl_unlearn.scripts import bs_s
from trl_unlearn.scripts.exits import interruptible
from trl_unlearn.scripts.series import end_series
from trl_unlearn.scripts.unlearn import OutputArguments, OutputFolder
from trl_unlearn.trainer import checks
from trl_unlearn.trainer.checkpointing import CheckpointError, last_checkpoint


INTERRUPTS = int(os.environ.get("TRL_UNLEARN_INTERRUPTS", "5"))
OPTIONS = [
    *("--num_train_epochs", "3", "--per_device_train_batch_size", "1", "--gradient_accumulation_steps", "2"),
    *("--learning_rate", "1e-2", "--warmup_steps", "0", "--lora_r", "4", "--num_beliefs", "2"),
    *("--belief_refresh_epochs", "1", "--max_completion_length", "12", "--max_eval_rows", "1"),
    *("--save_strategy", "steps", "--save_steps", "2", "--save_total_limit", "1", "--panel_prompts", "2"),
    *("--report_to", "none", "--logging_steps", "1", "--gradient_checkpointing", "false"),
]
# Runs in a process of its own. What is named in `HELD` (a class or module, a function, a number of a call) says that
# it is there and then does the same for ever, so that a signal meets it in its midst; or it meets a disk that has no
# more than some pages left (the fourth of `HELD`).
RUN = """
import contextlib, functools, itertools, os, pathlib, signal, time
# Whoever started the tests in the background has it ignored.
signal.signal(signal.SIGINT, signal.default_int_handler)
for stream, name in ((1, "out"), (2, "err")):
    os.dup2(os.open(f"{LOG}.{name}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), stream)
from trl_unlearn.beliefs import BeliefStore
from trl_unlearn.evaluation import tofu
from trl_unlearn.scripts import bs_s, unlearn
from trl_unlearn.trainer.bootstrap_unlearn_trainer import BootstrapUnlearnTrainer
unlearn.evaluate_models = functools.partial(tofu.evaluate_models, max_completion_length=8, num_squeezing_beliefs=1)
def fill(path, pages):
    with path.open("wb", buffering=0) as file:
        with contextlib.suppress(OSError):
            while True:
                file.write(bytes(4096))
        file.truncate(file.tell() - 4096 * pages)
if HELD:
    owners = {"store": BeliefStore, "trainer": BootstrapUnlearnTrainer, "script": unlearn}
    owner, name, number = owners[HELD[0]], *HELD[1:3]
    plain, calls = getattr(owner, name), itertools.count(1)
    def held(*args, **kwargs):
        is_due = next(calls) == number
        if is_due and len(HELD) == 4:
            fill(pathlib.Path(ARGV[-1]).parent / "filling", HELD[3])
        elif is_due:
            pathlib.Path(f"{LOG}.there").touch()
            end = time.time() + 60
            while time.time() < end:
                plain(*args, **kwargs)
        return plain(*args, **kwargs)
    setattr(owner, name, held)
bs_s.main(ARGV, "bs_s.py")
"""


class Program:
    """`bs_s` on two files, in processes that have everything imported."""

    def __init__(self, data, folder, context):
        self.data, self.folder, self.script = data, folder, folder / "run.py"
        self.context = context
        self.script.write_text(RUN, encoding="utf-8")

    def start(self, output, *flags, held=None):
        (self.folder / f"{output}.there").unlink(missing_ok=True)
        argv = [*self.data, *OPTIONS, "--output_dir", str(self.folder / output), *flags]
        names = {"ARGV": argv, "LOG": str(self.folder / output), "HELD": held}
        process = self.context.Process(target=runpy.run_path, args=(str(self.script), names))
        process.start()
        return process

    def run(self, output, *flags):
        process = self.start(output, *flags)
        process.join(120)
        return process.exitcode

    def interrupt(self, output, signum, held, *flags):
        """Send a signal when a call has begun; returns the exit code."""
        process = self.start(output, *flags, held=held)
        deadline = time.time() + 60
        while not (self.folder / f"{output}.there").exists():
            assert process.is_alive() and time.time() < deadline, self.said(output)
            time.sleep(0.01)
        time.sleep(0.05)
        os.kill(process.pid, signum)
        process.join(30)
        assert not process.is_alive(), "the signal did not end it"
        return process.exitcode

    def said(self, output):
        return (self.folder / f"{output}.err").read_text(encoding="utf-8")

    def sentence(self, output):
        """The one sentence that is said of an interrupt, without the folder of the test."""
        said = self.said(output)
        assert "Traceback" not in said and "rror" not in said, said
        assert said.count("interrupted by") == 1
        return said.rstrip("\n").split("\n")[-1].replace(f"{self.folder}/", "")

    def outcome(self, output):
        folder = self.folder / output
        weights = {name: value.tolist() for name, value in load_file(folder / "adapter_model.safetensors").items()}
        results = json.loads((folder / "eval_results.json").read_text())["models"]
        return weights, results, json.loads((folder / "squeezing.json").read_text())


@pytest.fixture
def program(own, imported, tmp_path):
    return Program(own, tmp_path, imported)


# In the order of one run, which is interrupted again and again.
PHASES = [
    (
        *(signal.SIGINT, ("store", "sample", 1)),
        "Ctrl-C, before its first step: there is no checkpoint (none was due yet), and the same command starts anew.",
    ),
    (
        *(signal.SIGTERM, ("store", "sample", 2)),
        "SIGTERM, at step 2 of 6: the last checkpoint is `cut/checkpoint-2`, and the same command resumes from it.",
    ),
    (
        *(signal.SIGINT, ("trainer", "training_step", 3)),
        "Ctrl-C, at step 3 of 6: the last checkpoint is `cut/checkpoint-2`, and the same command resumes from it.",
    ),
    (
        *(signal.SIGTERM, ("trainer", "_save_optimizer_and_scheduler", 1)),
        "SIGTERM, at step 4 of 6: the last checkpoint is `cut/checkpoint-2`, and the same command resumes from it.",
    ),
    (
        *(signal.SIGTERM, ("script", "evaluate_models", 1)),
        "SIGTERM, after the training of 6 steps: the model is saved in `cut`; the same command resumes with the "
        "evaluation.",
    ),
]


def test_an_interrupt_ends_with_one_sentence_and_the_same_command_ends_in_the_same_bits(program):
    assert program.run("whole") == 0, program.said("whole")
    for signum, held, sentence in PHASES:
        assert program.interrupt("cut", signum, held) == 128 + signum
        assert program.sentence("cut") == f"bs_s.py: interrupted by {sentence}"
        assert not (program.folder / "cut/.unfinished").exists()
    assert program.run("cut") == 0, program.said("cut")
    assert program.outcome("cut") == program.outcome("whole")


@pytest.mark.parametrize(
    ("flags", "held", "sentence"),
    [
        (
            ("--save_strategy", "no"),
            ("script", "evaluate_models", 1),
            "after the training of 6 steps: the model is saved in `cut`; `trl-unlearn evaluate "
            "--unlearned_model_name_or_path cut`, with the model and the data of the command, judges it. Otherwise "
            "there is no checkpoint (`save_strategy` is 'no'), and the same command starts anew.",
        ),
        (
            ("--overwrite_output_dir", "true"),
            ("trainer", "training_step", 6),
            "at step 3 of 6: the last checkpoint is `cut/checkpoint-2`, and the same command without "
            "`--overwrite_output_dir` resumes from it.",
        ),
    ],
)
def test_what_is_said_is_what_the_same_command_does(program, flags, held, sentence):
    assert program.interrupt("cut", signal.SIGINT, held, *flags) == 130
    assert program.sentence("cut") == f"bs_s.py: interrupted by Ctrl-C, {sentence}"
    again = [flag for flag in flags if "without" not in sentence]
    assert program.interrupt("cut", signal.SIGINT, ("trainer", "training_step", 1), *again) == 130
    resumed = "Resuming from a checkpoint" in (program.folder / "cut.out").read_text()
    assert resumed == ("resumes from it" in sentence)


@pytest.mark.parametrize(
    ("options", "checkpoints", "sentence"),
    [
        (
            {"save_strategy": "no"},
            [],
            "at step 3 of 6: there is no checkpoint (`save_strategy` is 'no'), and the same command starts anew.",
        ),
        (
            {"save_only_model": True},
            [],
            "at step 3 of 6: there is no checkpoint (`save_only_model` is set), and the same command starts anew.",
        ),
        (
            {"resume_from_checkpoint": "other/checkpoint-1"},
            ["checkpoint-2"],
            "at step 3 of 6: the last checkpoint is `out/checkpoint-2`, and the command with "
            "`--resume_from_checkpoint out/checkpoint-2` resumes from it.",
        ),
        (
            {"resume_from_checkpoint": "true"},
            ["checkpoint-2"],
            "at step 3 of 6: the last checkpoint is `out/checkpoint-2`, and the same command resumes from it.",
        ),
    ],
)
def test_the_sentence_knows_why_there_is_no_checkpoint_and_where_the_command_goes_on(
    options, checkpoints, sentence, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    for name in checkpoints:
        (tmp_path / "out" / name).mkdir(parents=True)
        (tmp_path / "out" / name / "unlearning_state.safetensors").touch()
    args = BootstrapUnlearnConfig("out", **options)
    trainer = SimpleNamespace(args=args, state=TrainerState(global_step=3, max_steps=6))
    assert OutputFolder(args, OutputArguments(), "digest").progress(trainer) == sentence


@pytest.mark.slow
def test_an_interrupt_at_any_moment_ends_with_one_sentence_and_the_same_bits(program):
    started = time.time()
    assert program.run("whole") == 0
    seconds, whole = time.time() - started, program.outcome("whole")
    moments = random.Random(time.time_ns())
    for number in range(INTERRUPTS):
        output, signum = f"cut-{number}", moments.choice([signal.SIGINT, signal.SIGTERM])
        # The sooner, the more likely: the evaluation takes longer than all the rest.
        moment = seconds * moments.random() ** 2
        process = program.start(output)
        # Before its first line nobody can say anything.
        while not (program.folder / f"{output}.err").exists():
            time.sleep(0.005)
        time.sleep(0.1)
        process.join(moment)
        # One that was faster than expected has finished.
        if process.is_alive():
            os.kill(process.pid, signum)
        process.join(60)
        if process.exitcode != 0:
            assert process.exitcode == 128 + signum, (moment, program.said(output))
            print(f"{number}: after {moment:.2f} of {seconds:.2f} s: {program.sentence(output)}")
            assert not (program.folder / output / ".unfinished").exists()
            assert program.run(output) == 0, program.said(output)
        assert program.outcome(output) == whole


def test_an_interrupt_that_python_drops_comes_again_and_its_echo_does_not(tmp_path):
    code = """
import os, signal, sys, time
from trl_unlearn.scripts.exits import interruptible
class Dropped:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.01)
with interruptible("prog", "in a test."):
    try:
        Dropped()
        time.sleep(10)
    finally:
        os.kill(os.getpid(), signal.SIGINT)
        print("cleaned up")
print("went on")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (143, "cleaned up\n")
    assert done.stderr == "prog: interrupted by SIGTERM, in a test.\n"


def test_what_ignores_ctrl_c_goes_on_ignoring_it_and_the_handlers_are_put_back(monkeypatch):
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with interruptible("prog"):
            os.kill(os.getpid(), signal.SIGINT)
            assert signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_program_runs_in_a_thread_where_no_signal_comes():
    ran = []

    def body():
        with interruptible("prog"):
            ran.append(True)

    thread = threading.Thread(target=body)
    thread.start()
    thread.join()
    assert ran == [True]


OTHERS = """
import importlib, os, signal
signal.signal(signal.SIGINT, signal.default_int_handler)
os.dup2(os.open(f"{LOG}.err", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
script = importlib.import_module(f"trl_unlearn.scripts.{HELD}")
arguments = importlib.import_module("trl_unlearn.scripts.arguments")
arguments.TrlParser = lambda *args, **kwargs: os.kill(os.getpid(), signal.SIGINT)
script.main(["--model_name_or_path", "x"], prog=f"trl-unlearn {HELD}")
"""
LAUNCHED = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.argv, argv = sys.argv[:1], sys.argv[1:]
from trl_unlearn.scripts import bs_s
bs_s.main(argv, "bs_s.py")
"""


@pytest.mark.slow
@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_of_two_processes_one_speaks(program, signum):
    script = program.folder / "launched.py"
    script.write_text(LAUNCHED, encoding="utf-8")
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", str(script)]
    argv = [*program.data, *OPTIONS, "--num_train_epochs", "400", "--output_dir", str(program.folder / "cut")]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen([*launch, *argv], env=env, stderr=subprocess.PIPE, text=True)
    while last_checkpoint(program.folder / "cut") is None:
        assert process.poll() is None
        time.sleep(0.1)
    process.send_signal(signum)
    said = process.communicate(timeout=60)[1]
    assert said.count("bs_s.py: interrupted by") == 1, said
    # The launcher has a traceback of its own.
    assert "KeyboardInterrupt" not in said and "Interrupted" not in said.replace("interrupted", "")
    assert last_checkpoint(program.folder / "cut") is not None


@pytest.mark.parametrize("script", ["compare", "sequence", "evaluate"])
def test_the_other_long_scripts_end_with_one_sentence(program, script):
    program.script.write_text(OTHERS, encoding="utf-8")
    process = program.start("cut", held=script)
    process.join(60)
    assert process.exitcode == 130, program.said("cut")
    assert program.said("cut").startswith(f"trl-unlearn {script}: interrupted by Ctrl-C, before all ")
    assert program.said("cut").count("\n") == 1


# What cannot be written


@pytest.mark.parametrize("is_checkpoint", [False, True], ids=["a result", "a checkpoint"])
def test_a_full_disk_is_one_sentence_in_any_script(capsys, is_checkpoint):
    full = OSError(errno.ENOSPC, "No space left on device")
    with (
        pytest.raises(SystemExit) as ended,
        interruptible("compare.py", "before all runs were done: what is finished is kept."),
    ):
        if is_checkpoint:
            raise CheckpointError("The checkpoint of step 3 could not be written.") from full
        raise full
    assert ended.value.code == 1
    said = capsys.readouterr().err
    assert said.startswith("compare.py: failed: a file could not be written ([Errno 28] No space left on device), ")
    assert said.endswith("before all runs were done: what is finished is kept. Make room before that.\n")
    with pytest.raises(FileNotFoundError), interruptible("compare.py"):
        Path("not/there").read_text()


def test_one_of_several_runs_that_cannot_begin_is_one_sentence(capsys):
    with pytest.raises(SystemExit) as ended:
        end_series("compare.py", CannotBeginError("There is no\npanel."), "method `ga`, seed 1")
    assert ended.value.code == 2
    said = "compare.py: error: method `ga`, seed 1: There is no panel. Runs that are finished are kept.\n"
    assert capsys.readouterr().err == said


def test_a_folder_that_cannot_be_made_is_refused_before_training(program):
    (program.folder / "file").write_text("")
    assert program.run("cut", "--output_dir", str(program.folder / "file/out")) == 2
    said = program.said("cut").replace(f"{program.folder}/", "")
    message = "The output folder `file/out` cannot be written (Not a directory). Choose another `output_dir`."
    assert said.endswith(f"bs_s.py: error: {message}\n") and "Sampling" not in said


def test_a_folder_that_may_not_be_written_is_refused_before_training(program, monkeypatch, capfd):
    # Not the folder of the test, which the user that root becomes may not enter.
    folder = Path(tempfile.mkdtemp())
    plain = checks.check_output_dir

    def check(path):
        # Nothing is refused to root.
        with as_nobody() if os.geteuid() == 0 else contextlib.nullcontext():
            plain(path)

    monkeypatch.setattr(checks, "check_output_dir", check)
    try:
        folder.chmod(0o555)
        with pytest.raises(SystemExit) as refused:
            bs_s.main([*program.data, *OPTIONS, "--output_dir", str(folder)])
        assert not any(folder.iterdir())
    finally:
        folder.rmdir()
    assert refused.value.code == 2
    assert f"The output folder `{folder}` cannot be written (Permission denied)." in capfd.readouterr().err


@contextlib.contextmanager
def as_nobody():
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def small_disk(tmp_path):
    """A folder on a disk of its own, of 4 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("a disk can be mounted by root only")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.slow
def test_a_disk_that_is_full_ends_with_1_and_the_same_command_ends_in_the_same_bits(program, small_disk):
    assert program.run("whole") == 0, program.said("whole")
    room = -(-(program.folder / "whole/adapter_model.safetensors").stat().st_size // 4096) + 3
    on_disk = ("--output_dir", str(small_disk / "out"))
    last = f"{small_disk}/out/checkpoint-"
    for held, said in [
        # Once from each library: the weights, the tokenizer, the optimizer.
        (("trainer", "_save_checkpoint", 2, 0), f"The checkpoint of step 4 could not be written .*`{last}2`"),
        (("trainer", "_save_checkpoint", 1, room), f"The checkpoint of step 4 could not be written .*`{last}2`"),
        (("trainer", "_save_optimizer_and_scheduler", 1, 0), "The checkpoint of step 4 could not be written"),
        (("trainer", "save_model", 3, 0), f"The model could not be written .*, at step 6 of 6: .*`{last}6`"),
        (("trainer", "save_model", 1, room), f"The model could not be written .*, at step 6 of 6: .*`{last}6`"),
        (("script", "write_results", 1, 0), "The evaluation could not be written .* resumes with the evaluation"),
    ]:
        process = program.start("disk-run", *on_disk, held=held)
        process.join(120)
        text = program.said("disk-run")
        assert process.exitcode == 1, (held, text)
        assert "Traceback" not in text and re.search(f"bs_s.py: failed: {said}", text), (held, text)
        assert last_checkpoint(small_disk / "out") is not None
        assert not (small_disk / "out/.unfinished").exists()
        (small_disk / "filling").unlink()
    process = program.start("disk-run", *on_disk)
    process.join(120)
    assert process.exitcode == 0, program.said("disk-run")
    assert program.outcome("disk/out") == program.outcome("whole")
