"""Generator of `template.toml` from the configuration's dataclasses: `python -m mctrace.cli.template`.

Every key stands at its default, with the first sentence of its field's docstring as comment; every section
below the first paragraph of its class's docstring. A key without a default, or with an empty one, is
commented out and shows the example of its docstring ("e.g. VALUE").
"""

import ast
import inspect
import json
import re
import textwrap
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

from mctrace.cli.configuration import PipelineConfig

TEMPLATE = Path(__file__).with_name("template.toml")

_HEAD = """\
# mctrace configuration. Every key is shown at its default, keys without one as a comment with an example.
# Precedence: flag > --set key=value > --preset > environment (MCTRACE_COLLECT__HORIZON=128) > this file.
"""
_STARTING_VALUES = {"corpus.paths": ("stdlib",)}
"""values that differ from the default, so that a new project runs at once"""
_WIDTH = 120
_COMMENT_COLUMN = 36
_EXAMPLE = re.compile(r"\be\.g\. ([^\s,;:()]+)")


def render_template() -> str:
    """The whole file."""
    return "\n".join([_HEAD, *_sections("", PipelineConfig())])


def _sections(name: str, section: Any) -> Iterator[str]:
    """A section's own keys, then its sub-sections, each a block of lines."""
    nested = [f.name for f in fields(section) if is_dataclass(getattr(section, f.name))]
    keys = [f.name for f in fields(section) if f.name not in nested]
    if keys:
        docs = field_docs(type(section))
        lines = [*_section_doc(type(section)), f"[{name}]"]
        for key in keys:
            dotted = f"{name}.{key}"
            value = _STARTING_VALUES.get(dotted, getattr(section, key))
            lines += _key(dotted, value, docs.get(key, ""))
        yield "\n".join(lines) + "\n"
    for key in nested:
        yield from _sections(f"{name}.{key}".lstrip("."), getattr(section, key))


def _section_doc(section: type) -> list[str]:
    text = " ".join(inspect.cleandoc(section.__doc__ or "").split("\n\n")[0].split())
    return textwrap.wrap(text, _WIDTH, initial_indent="# ", subsequent_indent="# ")


def _key(dotted: str, value: object, doc: str) -> list[str]:
    """Lines of one key: its value, and the comment beside it or, beside a long value, above it."""
    name = dotted.rpartition(".")[2]
    example = _EXAMPLE.search(doc)
    if value is None and example is None:
        raise ValueError(f"{dotted} has no default: its docstring needs an example, e.g. VALUE")
    if value is None or (value == "" and example):
        assert example is not None
        assignment = f"# {name} = {_toml(_literal(example[1]))}"
    else:
        assignment = f"{name} = {_toml(value)}"
    if not doc:
        return [assignment]
    if len(assignment) >= _COMMENT_COLUMN:
        return [*textwrap.wrap(doc, _WIDTH, initial_indent="# ", subsequent_indent="# "), assignment]
    first, *rest = textwrap.wrap(doc, _WIDTH - _COMMENT_COLUMN - 2)
    lines = [f"{assignment:{_COMMENT_COLUMN}}# {first}"]
    return lines + [f"{'':{_COMMENT_COLUMN}}# {line}" for line in rest]


def _literal(example: str) -> object:
    """An example as number where it is one, else as text."""
    return int(example) if example.isdigit() else example


def _toml(value: object) -> str:
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(_toml, value))}]"
    if isinstance(value, float):
        return re.sub(r"e-0*", "e-", repr(value))
    return json.dumps(value, ensure_ascii=False)


def field_docs(config: type) -> dict[str, str]:
    """First sentence of the docstrings of a dataclass's fields, by name: the string literal under each.

    A field that a subclass only gives another default keeps the docstring of its base class.
    """
    docs: dict[str, str] = {}
    for base in reversed([base for base in config.__mro__ if is_dataclass(base)]):
        (tree,) = ast.parse(textwrap.dedent(inspect.getsource(base))).body
        assert isinstance(tree, ast.ClassDef)
        for field, below in zip(tree.body, tree.body[1:], strict=False):
            match field, below:
                case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                    docs[name] = re.split(r"\.\s+(?=[A-Z])", " ".join(text.split()))[0]
    return docs


if __name__ == "__main__":
    TEMPLATE.write_text(render_template(), encoding="utf-8")
