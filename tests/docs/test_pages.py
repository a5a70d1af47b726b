"""Pages name what exists: files, modules, make targets, commands with their flags, keys of pipeline.toml."""

import importlib
import re
import subprocess

import pytest
import typer
import yaml

from mctrace.cli.app import app
from mctrace.cli.configuration import known_keys
from tests.docs.pages import PAGES, ROOT, commands_of, name_of

FOLDERS = (
    "analysis", "attribution", "base_model", "benchmarks", "cli", "collect", "context", "datasets", "docs",
    "experiments", "gists", "mctrace", "sharing", "tests", "train",
)  # fmt: skip
PATH = re.compile(rf"(?<![\w./])(?:{'|'.join(FOLDERS)})/[\w./-]*\w/?")
PLACEHOLDER = re.compile(r"\b(?:NAME|PAGE)\b")
MODULE = re.compile(r"\bmctrace(?:\.\w+)+")
MAKE = re.compile(r"^make ([a-z][a-z-]+)", re.MULTILINE)
CODE = re.compile(r"^```\w*\n(.*?)^```$|`([^`\n]+)`", re.MULTILINE | re.DOTALL)

# The store's format names paths inside a store, not of this repository.
HERE = [pytest.param(page, id=name_of(page)) for page in PAGES if page.name != "FORMAT.md"]
EVERY = [pytest.param(page, id=name_of(page)) for page in PAGES]


def code_in(page) -> str:
    """Fenced blocks and code spans, a line each."""
    return "\n".join(a or b for a, b in CODE.findall(page.read_text(encoding="utf-8")))


@pytest.mark.parametrize("page", HERE)
def test_paths_exist(page):
    named = {path for path in PATH.findall(code_in(page)) if not PLACEHOLDER.search(path)}
    assert not [path for path in named if not (ROOT / path).exists()]


@pytest.mark.parametrize("page", HERE)
def test_modules_and_their_names_can_be_imported(page):
    for dotted in set(MODULE.findall(code_in(page))):
        module, _, attribute = dotted.rpartition(".")
        try:
            importlib.import_module(dotted)
        except ModuleNotFoundError:
            assert hasattr(importlib.import_module(module), attribute), dotted


@pytest.mark.parametrize("page", EVERY)
def test_make_targets_exist(page):
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(MAKE.findall(code_in(page))) <= targets


@pytest.mark.parametrize("page", [p for p in EVERY if list(commands_of(p.values[0], "mctrace"))])
def test_commands_take_their_arguments(page):
    main = typer.main.get_command(app)
    for line, arguments in commands_of(page, "mctrace"):
        command, words, parent = main, list(arguments), None
        while hasattr(command, "resolve_command"):
            parent = typer.Context(command, parent=parent)
            _, command, words = command.resolve_command(parent, words)
            assert command is not None, f"{page}:{line}"
        command.make_context(command.name, words, parent=parent)


@pytest.mark.parametrize("page", EVERY)
def test_keys_that_are_set_exist(page):
    keys = re.findall(r"--set '?([\w.]+)=", code_in(page))
    assert set(keys) - {"section.key"} <= set(known_keys())


def test_pre_commit_runs_what_make_check_runs():
    listed = subprocess.run(
        ["make", "--no-print-directory", "--dry-run", "--always-make", "check"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]
    assert [hook["entry"] for hook in hooks] == listed[-len(hooks) :]
    assert {hook["language"] for hook in hooks} == {"system"}, "no hook needs a network"
