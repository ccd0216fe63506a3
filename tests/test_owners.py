# SPDX-FileCopyrightText: 2026 The trl-unlearn authors
# SPDX-License-Identifier: Apache-2.0

"""Rules that must not drift apart stand in one module each: a test fails where a second one begins."""

import ast
import re

import pytest

from trl_unlearn import results
from trl_unlearn.hub import folder
from trl_unlearn.metrics import _base
from trl_unlearn.records import NO_SETTINGS
from trl_unlearn.results import METRICS

from .test_imports import modules


def trees():
    """Dotted name of a module -> its syntax tree, without docstrings."""
    parsed = {module: ast.parse(source) for module, source in modules().items()}
    for tree in parsed.values():
        for node in ast.walk(tree):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node) is not None:
                node.body[0] = ast.Pass()
    return parsed


TREES = trees()


def strings(tree):
    return [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)]


def names_of(tree):
    """Every name and attribute that a module uses or imports."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            yield node.id
        elif isinstance(node, ast.Attribute):
            yield node.attr
        elif isinstance(node, ast.ImportFrom):
            yield from (alias.name for alias in node.names)


def users(*names):
    """The modules that use one of the names; to define it is not to use it."""
    return {module for module, tree in TREES.items() if not set(names).isdisjoint(names_of(tree))}


def writers(pattern):
    """The modules with a string in which a pattern is found."""
    return {module for module, tree in TREES.items() if any(re.search(pattern, text) for text in strings(tree))}


def items(literal):
    """The strings that a literal lists: keys of a dictionary, items of what is nested or unpacked in it."""
    parts = literal.keys if isinstance(literal, ast.Dict) else getattr(literal, "elts", [])
    for part in parts:
        part = part.value if isinstance(part, ast.Starred) else part
        if isinstance(part, ast.Constant):
            yield part.value
        else:
            yield from items(part)


def lists_of(words, tree):
    """The literals of a module that list at least three of some words."""
    literals = (node for node in ast.walk(tree) if isinstance(node, ast.Tuple | ast.List | ast.Set | ast.Dict))
    return [literal for literal in literals if len(set(words) & set(items(literal))) >= 3]


def test_metrics_which_load_without_the_package_know_the_parities_of_a_record():
    assert _base.PARITIES == results.PARITIES


# What leaves a run's folder


def test_one_module_lists_the_files_that_may_leave_a_folder():
    assert writers(r"adapter_model|tokenizer_config|special_tokens_map") == {"hub.folder"}


def test_one_module_sends_files_to_the_hub():
    sending = {"create_commit", "upload_file", "upload_folder", "upload_large_folder", "preupload_lfs_files"}
    assert users(*sending) == {"hub.push"}


def test_every_push_goes_through_the_allow_list_and_the_search_for_leaks():
    assert users("TextIndex") == {"hub.push"}
    # What a script and the trainer call; neither sees the list or the files.
    assert users("push", "push_output") == {"scripts.push", "trainer.publishing"}
    assert users("push_space") == {"scripts.demo"}
    assert users("is_published", "is_of_run", "RepoContents") == {"hub.folder", "hub.push"}


# Which results a card prints


def test_one_module_renders_the_card_with_the_results_that_it_chose():
    assert users("render_card") == {"hub.folder"}


def test_one_module_decides_whether_results_belong_to_weights():
    assert writers("merged_weights_sha256") == {"hub.folder", "hub.card"}
    assert writers("measured on other weights") == {"hub.folder"}


def test_one_module_knows_the_files_of_a_run():
    assert writers(r"^(run|eval_results|unfinished)\.json$") == {"hub.folder"}


# What is no setting of a run


def test_one_module_lists_the_options_that_are_no_settings():
    # The help lists options of every sort.
    others = {module: tree for module, tree in TREES.items() if module != "scripts.help"}
    assert [module for module, tree in others.items() if lists_of(NO_SETTINGS, tree)] == ["records"]


def test_settings_are_digested_where_arguments_are_parsed():
    assert users("settings_digest") == {"scripts.arguments"}


# Names of metrics


def test_one_module_lists_the_metrics():
    names = {metric.name for metric in METRICS}
    assert [module for module, tree in TREES.items() if lists_of(names, tree)] == ["results"]


@pytest.mark.parametrize(
    ("words", "source", "is_one"),
    [
        (NO_SETTINGS, "KEPT = ['logging_steps', 'run_name', 'output_dir', 'beta']", True),
        (NO_SETTINGS, "KEPT = {'logging_steps': 1, 'run_name': 2, 'beta': 3}", False),
        ({"a/b", "a/c", "a/d"}, "ROWS = (*(('a/b', 1), ('a/c', 2)), ('a/d', 3))", True),
        ({"a/b", "a/c", "a/d"}, "point = {'b': row['a/b'], 'c': row['a/c'], 'd': row['a/d']}", False),
    ],
)
def test_a_second_list_is_found(words, source, is_one):
    assert bool(lists_of(words, ast.parse(source))) == is_one


def test_every_figure_of_an_evaluation_is_one_that_goes_with_its_results():
    drawn = next(
        [key.value for key in node.keys]
        for node in ast.walk(TREES["scripts.results"])
        if isinstance(node, ast.Dict)
        and any(isinstance(key, ast.Constant) and key.value == "verdict" for key in node.keys)
    )
    assert set(drawn) == set(folder._RESULT_FIGURES)
