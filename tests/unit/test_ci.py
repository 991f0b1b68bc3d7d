"""What `crossroot ci` prints is right for the service, and hands the commands over as they were given."""

import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from crossroot import ci, paths, profiles
from crossroot.errors import UsageError

REPOSITORY = Path(__file__).parents[2]
SCHEMAS = {"github": "vendor.github-workflows", "gitlab": "vendor.gitlab-ci"}
HARD = "make check\n\n  echo 'it is' \"$HOME\" @PROFILE@ \\\n\t&& echo '@RUN@ ä'  # end"


def job(service: str, *names: str, run: str = "make check", packages: Sequence[str] = ()) -> str:
    loaded = [profiles.load(name, [paths.builtin_profiles()]) for name in names or ("riscv64", "aarch64")]
    return ci.job(service, loaded, run=run, packages=packages)


def check(schema: str, file: Path) -> None:
    """The file is right by a schema that the service published."""
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", schema, str(file)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr


def scripts(service: str, text: str) -> list[str]:
    """The scripts that are run for the first profile, in their order."""
    content: Any = yaml.safe_load(text)
    if service == "github":
        return [step["run"] for step in content["jobs"]["crossroot"]["steps"] if "run" in step]
    if service == "gitlab":
        return [*content[".crossroot"]["before_script"], *content[".crossroot"]["script"]]
    return [script for task in content["tasks"][:2] for script in task.values()]


@pytest.mark.parametrize("service", SCHEMAS)
@pytest.mark.parametrize("names", [["riscv64"], ["riscv64", "hare-aarch64", "debian-riscv64"]])
def test_the_job_is_right_by_the_schema_of_the_service(service: str, names: list[str], tmp_path: Path) -> None:
    file = tmp_path / "job.yml"
    file.write_text(job(service, *names, run=HARD, packages=["gcc>12"]))
    check(SCHEMAS[service], file)


def test_the_action_is_right_by_the_schema_of_github() -> None:
    check("vendor.github-actions", REPOSITORY / "action.yml")


def test_the_manifest_has_what_builds_sr_ht_knows() -> None:
    """By https://man.sr.ht/builds.sr.ht/manifest.md; there is no schema of it in any package."""
    manifest = yaml.safe_load(job("sourcehut", "riscv64", "hare-aarch64", "debian-riscv64"))
    assert manifest.keys() == {"image", "tasks"}
    names = [name for task in manifest["tasks"] for name in task]
    assert names == ["install", "riscv64", "hare-aarch64", "debian-riscv64"]
    assert all(re.fullmatch(r"[a-z0-9_-]{1,128}", name) for name in names)
    assert all(isinstance(script, str) for task in manifest["tasks"] for script in task.values())


def test_a_task_is_named_as_builds_sr_ht_allows(tmp_path: Path) -> None:
    (tmp_path / "Old.Board_1.toml").write_text('extends = "riscv64"\n')
    profile = profiles.load("Old.Board_1", [paths.builtin_profiles(), tmp_path])
    manifest = yaml.safe_load(ci.job("sourcehut", [profile], run="true"))
    assert list(manifest["tasks"][1]) == ["old-board_1"]


def test_github_has_a_job_for_each_profile() -> None:
    workflow = yaml.safe_load(job("github", "riscv64", "hare-aarch64"))
    matrix = workflow["jobs"]["crossroot"]["strategy"]["matrix"]
    assert matrix == {"profile": ["riscv64", "hare-aarch64"]}


def test_gitlab_has_a_job_for_each_profile_with_the_lock_file_as_cache_key() -> None:
    jobs = yaml.safe_load(job("gitlab", "riscv64", "hare-aarch64"))
    assert list(jobs) == [".crossroot", "crossroot-riscv64", "crossroot-hare-aarch64"]
    assert jobs["crossroot-hare-aarch64"]["variables"] == {"PROFILE": "hare-aarch64"}
    key = {"prefix": "crossroot-hare-aarch64", "files": ["crossroot-hare-aarch64.lock"]}
    assert jobs["crossroot-hare-aarch64"]["cache"] == {"key": key}


def test_a_profile_that_yaml_takes_for_a_number_stays_a_name(tmp_path: Path) -> None:
    (tmp_path / "1.0.toml").write_text('extends = "riscv64"\n')
    profile = profiles.load("1.0", [paths.builtin_profiles(), tmp_path])
    workflow = yaml.safe_load(ci.job("github", [profile], run="true"))
    assert workflow["jobs"]["crossroot"]["strategy"]["matrix"]["profile"] == ["1.0"]
    assert yaml.safe_load(ci.job("gitlab", [profile], run="true"))["crossroot-1.0"]["variables"]["PROFILE"] == "1.0"


@pytest.mark.parametrize("service", ci.SERVICES)
def test_what_is_printed_is_the_same_each_time_and_filled_in(service: str) -> None:
    text = job(service, packages=["make"])
    assert text == job(service, packages=["make"])
    assert not re.search(r"@[A-Z]+@", text)
    assert text.endswith("\n")
    assert all(line == line.rstrip() and len(line) <= 130 for line in text.splitlines())


@pytest.mark.parametrize("service", ci.SERVICES)
@pytest.mark.parametrize("run", ["make check", HARD, "\n\necho '\n\n'\n"])
def test_the_root_gets_the_commands_and_packages_as_they_were_given(service: str, run: str, tmp_path: Path) -> None:
    """The scripts that create the root and run in it are executed, with a crossroot that prints its words."""
    (tmp_path / "project/.git").mkdir(parents=True)
    packages = ["gcc>12", "it's", "$HOME"]
    texts = scripts(service, job(service, "riscv64", run=run, packages=packages))
    fake = "crossroot() { printf '%s\\0' \"$@\"; }"
    # The first script sets up the runner.
    command = ["bash", "-eo", "pipefail", "-c", "\n".join([fake, *texts[1:]])]
    env = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "PROFILE": "riscv64"}
    output = subprocess.run(command, capture_output=True, text=True, check=True, env=env, cwd=tmp_path).stdout
    create = ["create", "--force", "riscv64", *(word for name in packages for word in ("--package", name))]
    assert output.split("\0")[:-1] == [*create, "run", "riscv64", "--", "sh", "-ec", run.strip("\n")]


@pytest.mark.parametrize("service", ci.SERVICES)
def test_the_root_is_made_from_the_lock_file_if_there_is_one(service: str, tmp_path: Path) -> None:
    project = tmp_path / "project"
    (project / ".git").mkdir(parents=True)
    (project / "crossroot-riscv64.lock").touch()
    texts = scripts(service, job(service, "riscv64", packages=["make"]))
    fake = 'crossroot() { echo "$*"; }'
    command = ["bash", "-eo", "pipefail", "-c", "\n".join([fake, *texts[1:]])]
    env = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "PROFILE": "riscv64"}
    output = subprocess.run(command, capture_output=True, text=True, check=True, env=env, cwd=project).stdout
    assert output.splitlines()[0] == "create --force --locked crossroot-riscv64.lock --name riscv64"


@pytest.mark.parametrize("service", ci.SERVICES)
def test_mmdebstrap_is_installed_only_for_roots_that_need_it(service: str) -> None:
    assert "mmdebstrap" not in job(service, "riscv64", "hare-aarch64")
    assert "mmdebstrap" in job(service, "riscv64", "debian-riscv64")


def crossroot(home: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """Run crossroot with these arguments and the profiles of a user with this home."""
    env = {"PATH": "/usr/bin:/bin", "HOME": str(home), "PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, "-m", "crossroot", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=env)


def test_the_command_prints_the_job_and_names_each_profile_once(tmp_path: Path) -> None:
    result = crossroot(tmp_path, "ci", "github", "arm64", "riscv64", "aarch64", "--run", "make", "--package", "gcc")
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout == job("github", "aarch64", "riscv64", run="make", packages=["gcc"])


def test_the_command_says_so_if_the_runner_lacks_a_profile(tmp_path: Path) -> None:
    folder = tmp_path / ".config/crossroot/profiles"
    folder.mkdir(parents=True)
    (folder / "board.toml").write_text('extends = "riscv64"\n')
    result = crossroot(tmp_path, "ci", "gitlab", "board", "riscv64")
    assert "crossroot-board:" in result.stdout
    assert [line for line in result.stderr.splitlines() if "lacks" in line] == [
        "crossroot: the runner lacks your profile board; lock it: crossroot lock board -o crossroot-board.lock"
    ]


def test_an_unknown_service_is_refused() -> None:
    with pytest.raises(UsageError, match="no jobs for 'jenkins'") as caught:
        job("jenkins")
    assert "sourcehut" in caught.value.hint


@pytest.mark.parametrize("text", ["echo \x1b[1m", "a\0b", "a\x85b", "a\u2028b", "a\rb", "\ud800"])
def test_what_yaml_cannot_hold_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="unprintable"):
        job("github", run=text)
    with pytest.raises(UsageError, match="unprintable"):
        job("github", packages=[text])
