"""`import mctrace` is cheap, and every public name is there on first use."""

import ast
import subprocess
import sys
import textwrap
from importlib import import_module
from pathlib import Path

import pytest

import mctrace


def run(code: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", [name for name in mctrace.__all__ if name != "__version__"])
def test_every_public_name_is_what_its_module_defines(name):
    module = import_module(mctrace._MODULE_OF[name])
    assert getattr(mctrace, name) is getattr(module, name)
    assert name in dir(mctrace)


def test_type_checkers_and_the_interpreter_are_given_the_same_imports():
    tree = ast.parse(Path(mctrace.__file__).read_text(encoding="utf-8"))
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    checked = {
        node.module: [alias.name for alias in node.names]
        for node in block.body
        if isinstance(node, ast.ImportFrom)
    }
    assert checked == mctrace._MODULES
    assert sorted(mctrace._MODULE_OF) == sorted(set(mctrace.__all__) - {"__version__"})


def test_importing_the_package_imports_no_library():
    run(
        """
        import sys
        for name in ("torch", "duckdb", "numpy", "pyarrow", "pydantic", "deltalake"):
            sys.modules[name] = None
        import mctrace
        from mctrace import MctraceError
        assert "open_traces" in dir(mctrace)
        assert mctrace.__version__
        """
    )


def test_asking_a_store_needs_no_torch():
    run("import sys; sys.modules['torch'] = None; from mctrace import open_traces")


def test_a_checkout_that_is_not_installed_has_a_version_too():
    run(
        """
        import importlib.metadata as metadata
        def version(name):
            raise metadata.PackageNotFoundError(name)
        metadata.version = version
        import mctrace
        assert mctrace.__version__ == "0+unknown"
        """
    )


def test_a_name_that_is_not_there_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'open_trace'"):
        mctrace.open_trace  # noqa: B018
