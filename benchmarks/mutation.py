# SPDX-FileCopyrightText: 2026 The trl-unlearn authors
# SPDX-License-Identifier: Apache-2.0

r"""
Mutation check: how many small faults the tests find in the code that decides numbers. Linux and macOS only.

A mutant is a module with one fault: another comparison, operator, constant, slice, branch or returned value. It dies
when a test of its module fails or takes too long. A survivor is a line that no test checks, or a fault that changes
nothing. Messages of errors are not mutated.

```bash
python benchmarks/mutation.py                                  # all modules
python benchmarks/mutation.py trl_unlearn/encoding.py --max-mutants 100 --seed 1
```
"""

import argparse
import ast
import copy
import os
import random
import signal
import sys
import time
from collections.abc import Iterator
from importlib.machinery import SourceFileLoader
from pathlib import Path

from tqdm import tqdm


ROOT = Path(__file__).resolve().parents[1]
# Mutated modules -> the tests that should notice.
TESTS = {
    "trl_unlearn/objectives/*.py": ["tests/objectives"],
    "trl_unlearn/metrics/*.py": ["tests/metrics"],
    "trl_unlearn/encoding.py": ["tests/test_encoding.py"],
    "trl_unlearn/row_forms.py": ["tests/test_encoding.py"],
    "trl_unlearn/hub/leaks.py": ["tests/hub/test_leaks.py"],
}
# Seconds for a mutant; the tests of a module take a few.
TIMEOUT = 120
PYTEST = ["-x", "-q", "-n", "0", "-p", "no:cacheprovider", "--hypothesis-seed", "0"]

_COMPARISONS = {
    ast.Lt: (ast.LtE, ast.GtE),
    ast.LtE: (ast.Lt, ast.Gt),
    ast.Gt: (ast.GtE, ast.LtE),
    ast.GtE: (ast.Gt, ast.Lt),
    ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,),
    ast.Is: (ast.IsNot,),
    ast.IsNot: (ast.Is,),
    ast.In: (ast.NotIn,),
    ast.NotIn: (ast.In,),
}
_OPERATORS = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.Mult,
    ast.Pow: ast.Mult,
    ast.BitOr: ast.BitAnd,
    ast.BitAnd: ast.BitOr,
}


def _changed(node: ast.AST, **fields: object) -> ast.AST:
    other = copy.deepcopy(node)
    for name, value in fields.items():
        setattr(other, name, value)
    return other


def _one_more(node: ast.expr) -> ast.expr:
    return ast.BinOp(copy.deepcopy(node), ast.Add(), ast.Constant(1))


def variants(node: ast.AST) -> Iterator[ast.AST]:
    """Copies of a node with one fault each."""
    match node:
        case ast.Compare(ops=[op], comparators=[other]):
            for kind in _COMPARISONS[type(op)]:
                yield _changed(node, ops=[kind()])
            if isinstance(other, ast.Constant) and isinstance(other.value, str):
                yield _changed(node, comparators=[ast.Constant(f"{other.value}?")])
        case ast.BinOp(op=op) | ast.AugAssign(op=op) if type(op) in _OPERATORS:
            yield _changed(node, op=_OPERATORS[type(op)]())
        case ast.BoolOp(op=op):
            yield _changed(node, op=ast.Or() if isinstance(op, ast.And) else ast.And())
        case ast.UnaryOp(op=ast.Not() | ast.USub() | ast.Invert(), operand=operand):
            yield copy.deepcopy(operand)
        case ast.Constant(value=bool()):
            yield ast.Constant(not node.value)
        case ast.Constant(value=int() | float()):
            yield ast.Constant(node.value + 1)
        case ast.If() | ast.IfExp() | ast.While():
            yield _changed(node, test=ast.Constant(False))
            if not isinstance(node, ast.While):
                yield _changed(node, test=ast.Constant(True))
        case ast.comprehension(ifs=[_, *_]):
            yield _changed(node, ifs=[])
        case ast.Slice(lower=lower, upper=upper):
            # A constant is a node of its own.
            if lower is not None and not isinstance(lower, ast.Constant):
                yield _changed(node, lower=_one_more(lower))
            if upper is not None and not isinstance(upper, ast.Constant):
                yield _changed(node, upper=_one_more(upper))
        case ast.Return(value=ast.expr()) if not (isinstance(node.value, ast.Constant) and node.value.value is None):
            yield _changed(node, value=ast.Constant(None))
        case ast.Continue():
            yield ast.Break()
        case ast.Break():
            yield ast.Continue()


class _Mutation(ast.NodeTransformer):
    """Changes the place `number` of a module, counted in the order of the code."""

    def __init__(self, number: int = -1):
        self.number, self.count, self.where = number, 0, ""

    def visit(self, node):
        for other in variants(node):
            self.count += 1
            if self.count - 1 == self.number:
                before, after = (ast.unparse(one).splitlines()[0] for one in (node, other))
                line = getattr(node, "lineno", getattr(getattr(node, "target", None), "lineno", 0))
                self.where = f"{line}: {before}  ->  {after}"
                return other
        return super().visit(node)

    def visit_Raise(self, node):
        return node

    def visit_arg(self, node):
        # Annotations change nothing.
        return node

    def visit_AnnAssign(self, node):
        if node.value is not None:
            node.value = self.visit(node.value)
        return node

    def visit_FunctionDef(self, node):
        node.args = self.visit(node.args)
        node.body = [self.visit(statement) for statement in node.body]
        return node


def mutant(path: Path, number: int) -> tuple[ast.Module, str]:
    """A module with the fault `number`, and where it is."""
    mutation = _Mutation(number)
    tree = mutation.visit(ast.parse(path.read_text(encoding="utf-8")))
    return ast.fix_missing_locations(tree), mutation.where


def _run_tests(tests: list[str]) -> int:
    import pytest

    return int(pytest.main([*PYTEST, *tests]))


def _forget_own_modules() -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] in ("trl_unlearn", "tests", "conftest")]:
        del sys.modules[name]


def dies(path: Path, tree: ast.Module, tests: list[str]) -> bool:
    """Whether a test fails with the mutant `tree`, in a forked process that has imported the libraries."""
    pid = os.fork()
    if pid == 0:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(TIMEOUT)
        silent = os.open(os.devnull, os.O_WRONLY)
        os.dup2(silent, 1)
        os.dup2(silent, 2)
        code, plain = compile(tree, str(path), "exec"), SourceFileLoader.get_code
        SourceFileLoader.get_code = lambda self, name: code if self.path == str(path) else plain(self, name)
        try:
            os._exit(_run_tests(tests))
        except BaseException:
            os._exit(1)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if status not in (0, 1, 2, 3, -signal.SIGALRM):
        raise RuntimeError(f"pytest ended with {status} on a mutant of {path}.")
    return status != 0


def main(argv: list[str] | None = None) -> None:
    """Run the script."""
    parser = argparse.ArgumentParser(description=__doc__.strip().splitlines()[0])
    parser.add_argument("modules", nargs="*", help="Modules to mutate, among those with known tests. Default: all.")
    parser.add_argument("--max-mutants", type=int, help="Highest number of mutants, drawn at random. Default: all.")
    parser.add_argument("--seed", type=int, default=0, help="Seed of the draw.")
    args = parser.parse_args(argv)
    os.nice(10)
    os.chdir(ROOT)
    sys.path.insert(0, str(ROOT))
    tests = {path: names for pattern, names in TESTS.items() for path in sorted(ROOT.glob(pattern))}
    named = [Path(name).resolve() for name in args.modules] or list(tests)
    unknown = [str(path) for path in named if path not in tests]
    if unknown:
        parser.error(f"no tests are known for {', '.join(unknown)}. Give some of {', '.join(TESTS)}.")
    counted = []
    for path in named:
        counter = _Mutation()
        counter.visit(ast.parse(path.read_text(encoding="utf-8")))
        counted += [(path, number) for number in range(counter.count)]
    chosen = counted
    if args.max_mutants is not None and args.max_mutants < len(counted):
        chosen = sorted(random.Random(args.seed).sample(counted, args.max_mutants))
    # Unchanged modules must pass. This run also imports the libraries that the forked processes share.
    if _run_tests(list(dict.fromkeys(name for path in named for name in tests[path]))) != 0:
        sys.exit("The tests fail on the modules as they are.")
    _forget_own_modules()
    started, died = time.perf_counter(), dict.fromkeys(named, 0)
    for path, number in tqdm(chosen, desc="Mutants"):
        tree, where = mutant(path, number)
        if dies(path, tree, tests[path]):
            died[path] += 1
        else:
            tqdm.write(f"survived: {path.relative_to(ROOT)}:{where}")
    print(f"\n{len(chosen)} of {len(counted)} mutants in {time.perf_counter() - started:.0f} s\n")
    print("| module | mutants | died |\n|---|--:|--:|")
    for path in named:
        count = sum(one == path for one, _ in chosen)
        if count:
            print(f"| `{path.relative_to(ROOT)}` | {count} | {100 * died[path] / count:.0f} % |")
    print(f"| all | {len(chosen)} | {100 * sum(died.values()) / max(len(chosen), 1):.1f} % |")


if __name__ == "__main__":
    main()
