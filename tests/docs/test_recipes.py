"""The recipes for clusters, as far as they show without one: syntax, flags, and what they name."""

import shlex
import shutil
import subprocess
import tomllib

import pytest
import yaml
from typer.main import get_command

from mctrace.cli.app import app
from tests.docs.pages import ROOT

RECIPES = ROOT / "recipes"


def flags_of(command: str) -> set[str]:
    parameters = get_command(app).commands[command].params  # type: ignore[attr-defined]
    return {name for parameter in parameters for name in parameter.opts}


def unknown_flags(words: list[str]) -> set[str]:
    """Flags of a call of mctrace that its command does not have."""
    command, *rest = words[words.index("mctrace") + 1 :]
    return {word for word in rest if word.startswith("--")} - flags_of(command)


def test_every_recipe_is_described():
    described = (RECIPES / "README.md").read_text()
    assert all(f"`{file.name}`" in described for file in RECIPES.iterdir() if file.name != "README.md")


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_shell_scripts_parse():
    for script in RECIPES.glob("*.sh"):
        found = subprocess.run(["bash", "-n", str(script)], capture_output=True, text=True, check=False)
        assert (found.returncode, found.stderr) == (0, "")


def test_the_slurm_script_calls_mctrace_with_flags_that_exist():
    text = (RECIPES / "slurm.sh").read_text().replace("\\\n", " ")
    (line,) = [line for line in text.splitlines() if line.startswith("mctrace collect")]
    assert unknown_flags(shlex.split(line)) == set()
    assert unknown_flags(shlex.split("mctrace collect --no-such")) == {"--no-such"}


def test_the_kuberay_job_is_a_ray_job_of_this_ray_with_flags_that_exist():
    (job,) = yaml.safe_load_all((RECIPES / "kuberay.yaml").read_text())
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    assert unknown_flags(shlex.split(job["spec"]["entrypoint"])) == set()
    cluster = job["spec"]["rayClusterSpec"]
    pins = (ROOT / "constraints.txt").read_text().splitlines()
    assert f"ray=={cluster['rayVersion']}" in pins
    (workers,) = cluster["workerGroupSpecs"]
    assert workers["minReplicas"] == 0, "it scales from zero"
    (container,) = workers["template"]["spec"]["containers"]
    gpus = int(container["resources"]["limits"]["nvidia.com/gpu"]) * workers["maxReplicas"]
    words = shlex.split(job["spec"]["entrypoint"])
    per_actor = float(words[words.index("--gpus-per-actor") + 1])
    assert int(words[words.index("--actors") + 1]) * per_actor == gpus


def test_the_image_installs_what_the_package_offers():
    text = (RECIPES / "Dockerfile").read_text()
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    named = text.split("'.[")[1].split("]'")[0].split(",")
    assert set(named) <= extras.keys()
    left_out = (ROOT / ".dockerignore").read_text().splitlines()
    assert {".git", ".venv"} <= set(left_out)
    assert not {"recipes", "constraints.txt", "README.md", "mctrace"} & set(left_out)
