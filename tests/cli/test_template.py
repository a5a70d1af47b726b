"""`template.toml`, which is what the configuration's dataclasses say."""

from dataclasses import dataclass, fields, is_dataclass

import pytest

from mctrace.cli.configuration import PipelineConfig
from mctrace.cli.template import TEMPLATE, _key, field_docs, render_template


def test_the_committed_template_is_the_generated_one():
    assert TEMPLATE.read_text(encoding="utf-8") == render_template(), (
        "run python -m mctrace.cli.template (make template)"
    )


def sections(config: object) -> list[type]:
    nested = [getattr(config, f.name) for f in fields(config)]
    return [type(config), *(one for value in nested if is_dataclass(value) for one in sections(value))]


@pytest.mark.parametrize("section", sections(PipelineConfig())[1:])
def test_every_key_has_a_comment(section):
    nested = {f.name for f in fields(section) if is_dataclass(getattr(section(), f.name))}
    assert {f.name for f in fields(section)} - nested <= field_docs(section).keys()


def test_a_key_without_a_default_is_commented_out_with_its_example():
    (line,) = _key("model.revision", None, "hub revision, e.g. main; or a hash")
    assert line.split("#")[1].strip() == 'revision = "main"'
    assert _key("corpus.limit", None, "most, e.g. 1000; or all")[0].startswith("# limit = 1000 ")
    assert _key("train.where", "", "a condition")[0].startswith('where = "" ')
    with pytest.raises(ValueError, match=r"corpus\.limit has no default: its docstring needs an example"):
        _key("corpus.limit", None, "most documents")


def test_long_comments_go_on_below_and_those_of_long_values_stand_above():
    first, second = _key("collect.seed", 0, "word " * 20)
    assert first.index("#") == second.index("#") == 36
    above, assignment = _key("collect.policies", ("a" * 40,), "names")
    assert above == "# names"
    assert assignment == f'policies = ["{"a" * 40}"]'


@dataclass(frozen=True)
class Base:
    """One field with a docstring."""

    rate: float = 0.1
    """how fast. A second sentence
    is for readers of the code"""
    bare: int = 0


@dataclass(frozen=True)
class Other(Base):
    """Another default for it."""

    rate: float = 0.2


def test_comments_are_first_sentences_and_are_inherited():
    assert field_docs(Base) == field_docs(Other) == {"rate": "how fast"}
