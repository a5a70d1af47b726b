"""uv.lock and constraints.txt name the same versions, and the lock is of today's pyproject.toml."""

import re
import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
LOCK = tomllib.loads((ROOT / "uv.lock").read_text(encoding="utf-8"))
OTHERWISE = {"pillow"}
"""trackio, which is in the lock alone, wants an older one"""


def pins() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    found = [re.match(r"([\w.-]+)==([^\s;]+)", line) for line in lines]
    return {canonicalize_name(one[1]): one[2] for one in found if one}


def test_the_lock_has_the_versions_that_the_tests_run_with():
    pinned = pins()
    locked = {canonicalize_name(one["name"]): one.get("version") for one in LOCK["package"]}
    other = {name for name in locked.keys() & pinned.keys() if locked[name] != pinned[name]}
    assert other == OTHERWISE
    assert len(locked.keys() & pinned.keys()) > 100


def test_the_lock_is_of_the_dependencies_that_pyproject_declares():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    declared = {
        (canonicalize_name(wanted.name), str(wanted.specifier), frozenset(wanted.extras), extra)
        for extra, texts in {"": project["dependencies"], **project["optional-dependencies"]}.items()
        for wanted in map(Requirement, texts)
    }
    (own,) = (one for one in LOCK["package"] if one["name"] == project["name"])
    marked = re.compile(r"extra == '([\w-]+)'")
    listed = {
        (
            one["name"],
            str(Requirement(f"{one['name']}{one.get('specifier', '')}").specifier),
            frozenset(one.get("extras", ())),
            found[1] if (found := marked.search(one.get("marker", ""))) else "",
        )
        for one in own["metadata"]["requires-dist"]
    }
    assert listed == declared
