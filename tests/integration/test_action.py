"""The action and the printed jobs, run as the services run them, in copies of the repository and of a project."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from crossroot import ci, paths, profiles
from tests.support import expect, host
from tests.support.identity import Identity, new_folder, remove_tree
from tests.support.mirror import REPOSITORY, Mirror
from tests.support.runner import Annotation, Result, Runner

pytestmark = [pytest.mark.slow, pytest.mark.emulation]

NOT_IN_A_DOWNLOAD = (".git", ".venv", "*_cache", "__pycache__", "build", "dist")


@dataclass(frozen=True)
class Action:
    """The action, and a runner on which it has been used before, so that it need not install itself anew."""

    folder: Path
    runner: Runner

    def use(self, run: str, inputs: Mapping[str, str] | None = None, job: Mapping[str, str] | None = None) -> Result:
        """A job that uses it, for riscv64 and without a cache if `inputs` does not say otherwise. It leaves no root
        behind, however it ends. job: its environment."""
        given = {"profile": "riscv64", "cache": "false", "run": run, **(inputs or {})}
        result = self.runner.use_action(self.folder, given, job)
        expect.roots(self.runner.temp / "crossroot/store")
        return result


@pytest.fixture(scope="session")
def download(scratch: Path) -> Path:
    """The repository as GitHub downloads it for `uses: OWNER/crossroot@REF`."""
    folder = scratch / "actions/crossroot"
    shutil.copytree(REPOSITORY, folder, ignore=shutil.ignore_patterns(*NOT_IN_A_DOWNLOAD))
    return folder


@pytest.fixture(scope="session")
def new_runner(mirror: Mirror) -> Callable[[Identity, Path], Runner]:
    """A function that makes a runner of an identity below a folder, which knows the mirror of the tests."""

    def make(identity: Identity, folder: Path) -> Runner:
        pip = {name: value for name, value in os.environ.items() if name.startswith("PIP_")}
        runner = Runner(identity, folder, pip)
        own = runner.home / ".config/crossroot/profiles/riscv64.toml"
        identity.run(["mkdir", "-p", own.parent], check=True)
        own.write_text(f'mirrors = ["{mirror.url}"]\n')
        identity.run(["sh", "-c", "echo one > readme"], cwd=runner.workspace, check=True)
        return runner

    return make


@pytest.fixture(scope="session")
def action(
    identity: Identity, identity_folder: Path, download: Path, new_runner: Callable[[Identity, Path], Runner]
) -> Action:
    return Action(download, new_runner(identity, identity_folder / "runner"))


def test_the_commands_run_in_the_checkout_on_another_architecture(action: Action) -> None:
    result = action.use("uname -m\npwd\nread word < readme\necho $word-two > made\n")
    assert result.status == 0, result.log
    assert result.groups == ["Install crossroot", "Create the root riscv64"]
    assert result.annotations == []
    assert result.log.splitlines()[-4:-2] == ["riscv64", str(action.runner.workspace)], result.log
    made = action.runner.workspace / "made"
    assert made.read_text() == "one-two\n"
    assert made.stat().st_uid == action.runner.identity.uid
    made.unlink()


def test_the_status_is_that_of_the_first_command_that_fails(action: Action) -> None:
    result = action.use("(exit 37)\necho not this\n")
    assert result.status == 37
    assert "not this" not in result.log
    assert result.annotations == [Annotation("riscv64", "it failed with status 37\nits own output is above")]


def test_an_error_becomes_an_annotation_with_cause_and_cure(action: Action) -> None:
    result = action.use("true", {"profile": "riscv46"})
    assert result.status == 2
    (annotation,) = result.annotations
    assert annotation.title == "crossroot"
    cause, cure = annotation.message.split("\n")
    assert "riscv46" in cause
    assert "riscv64" in cure, annotation


def test_a_root_that_cannot_be_made_is_told_with_cause_and_cure(action: Action) -> None:
    result = action.use("echo not this", {"packages": "no-such-package"})
    assert result.status == 1
    assert "not this" not in result.log
    (annotation,) = result.annotations
    assert annotation.title == "crossroot create riscv64"
    assert "crossroot: error: " + annotation.message.split("\n")[0] in result.log
    assert "  hint: " + annotation.message.split("\n")[1] in result.log


def test_what_cannot_stand_in_a_workflow_command_is_escaped(action: Action) -> None:
    result = action.use("true", {"lock": "no:such,100%0A.lock"})
    assert result.status == 1
    assert result.annotations == [
        Annotation(
            "crossroot",
            "there is no lock file no:such,100%0A.lock\ncrossroot lock riscv64 -o no:such,100%0A.lock",
        )
    ]


def test_the_environment_is_clean_but_for_what_is_asked_for(action: Action) -> None:
    job = {"TOKEN": "secret", "MODE": "release build"}
    result = action.use("env | sort", {"env": "MODE\n\nFLAGS=-O2 -g\n"}, job)
    assert result.status == 0, result.log
    assert "\nMODE=release build\n" in result.log
    assert "\nFLAGS=-O2 -g\n" in result.log
    assert "TOKEN" not in result.log
    assert "GITHUB" not in result.log
    assert "RUNNER" not in result.log


def test_the_files_of_github_are_out_of_reach_and_workflow_commands_have_no_effect(action: Action) -> None:
    commands = f"! ls {action.runner.folder}/commands\necho ::error title=fake::fake\necho ::group::fake\nprintf end"
    result = action.use(commands)
    assert result.status == 0, result.log
    assert "\n::error title=fake::fake\n" in result.log
    assert result.annotations == []
    assert "fake" not in result.groups
    assert json.loads(result.outputs["outputs"]) == {}


def test_the_files_of_github_can_be_written_when_that_is_asked_for(action: Action) -> None:
    commands = """
        echo version=1.2 >> $GITHUB_OUTPUT
        echo MODE=debug >> $GITHUB_ENV
        echo '# built' >> $GITHUB_STEP_SUMMARY
        echo '::error title=test.c::wrong%0Aline'
        printf end
        exit 3
    """
    result = action.use(commands, {"github-files": "true"})
    assert result.status == 3
    assert json.loads(result.outputs["outputs"]) == {"version": "1.2"}
    assert result.environment["MODE"] == "debug"
    assert result.summary == "# built\n"
    assert [annotation.title for annotation in result.annotations] == ["test.c", "riscv64"]
    assert result.annotations[0].message == "wrong\nline"


@pytest.mark.alpine
def test_a_lock_file_says_all_about_the_root_and_is_the_key_of_the_cache(action: Action) -> None:
    """Of a profile `board` that the runner does not know."""
    runner = action.runner
    runner.caches.clear()
    assert action.use("true", {"cache": "true"}).status == 0
    work = runner.temp / "crossroot"
    environment = {
        "HOME": str(runner.home),
        "CROSSROOT_STORE": str(work / "store"),
        "CROSSROOT_CACHE": str(work / "cache"),
    }
    lock = [str(work / "venv/bin/crossroot"), "lock", "riscv64", "-o", "crossroot-board.lock"]
    runner.identity.run(lock, env=environment, cwd=runner.workspace, check=True)
    result = action.use("uname -m\nhostname", {"profile": "board", "cache": "true"})
    assert result.status == 0, result.log
    assert result.log.splitlines()[-4:-2] == ["riscv64", "board"]
    assert len(runner.caches) == 2
    assert "mmdebstrap" not in (work / "prepare.sh").read_text()
    runner.identity.run(["rm", runner.workspace / "crossroot-board.lock"], check=True)


def test_mmdebstrap_is_installed_for_a_lock_of_debian(action: Action) -> None:
    runner = action.runner
    lock = runner.workspace / "crossroot-board.lock"
    runner.identity.run(["tee", lock], 'format = 0\n[profile]\ndistro = "debian"  # the distribution\n', check=True)
    result = action.use("true", {"profile": "board"})
    runner.identity.run(["rm", lock], check=True)
    assert result.status == 2, "the lock is good for nothing else"
    assert "mmdebstrap" in (runner.temp / "crossroot/prepare.sh").read_text()


def test_a_job_that_is_cancelled_leaves_nothing(action: Action) -> None:
    """GitHub sends SIGINT to the step's shell, SIGTERM some seconds later, and kills all at last."""
    begun = action.runner.workspace / "begun"

    def cancel() -> None:
        host.wait_until(begun.exists, timeout=60)
        process = action.runner.process
        assert process
        process.send_signal(signal.SIGINT)
        process.send_signal(signal.SIGTERM)

    with ThreadPoolExecutor(1) as pool:
        cancelled = pool.submit(cancel)
        result = action.use("touch begun; sleep 300")
    assert result.status == -signal.SIGTERM, result.log
    cancelled.result()
    begun.unlink()


def test_the_downloads_are_cached_by_lock_and_packages(action: Action) -> None:
    runner = action.runner
    downloads = runner.temp / "crossroot/cache"
    runner.caches.clear()
    assert action.use("false", {"cache": "true"}).status != 0
    assert runner.caches == {}  # nothing is saved of a job that failed
    runner.identity.run(["touch", downloads / "mark"], check=True)
    assert action.use("true", {"cache": "true"}).status == 0
    (key,) = runner.caches
    assert key.startswith(f"crossroot-riscv64-{os.uname().machine}-")
    assert list(downloads.glob("blobs/sha512/*"))

    remove_tree(downloads)
    assert action.use("true", {"cache": "true", "packages": "no-such-package"}).status != 0
    assert (downloads / "mark").exists(), "what a key with the same prefix has was not restored"
    assert list(runner.caches) == [key]


# --- printed jobs -----------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def wheel(download: Path, scratch: Path) -> Path:
    """A folder from which pip can install crossroot, as it will from where it is published."""
    folder = scratch / "wheel"
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", folder, str(download)]
    subprocess.run([str(word) for word in command], check=True)
    return folder


@pytest.fixture(scope="session")
def user_runner(user: Identity, scratch: Path, wheel: Path, new_runner: Callable[[Identity, Path], Runner]) -> Runner:
    """The runner of an ordinary user, to whom pip offers crossroot."""
    runner = new_runner(user, new_folder(scratch, user))
    return Runner(user, runner.folder, {**runner.environment, "PIP_FIND_LINKS": _links(wheel)})


def _links(wheel: Path) -> str:
    return f"{os.environ.get('PIP_FIND_LINKS', '')} {wheel}".strip()


@pytest.fixture
def no_roots_left(user_runner: Runner) -> Iterator[None]:
    """Remove the roots that a job leaves in the store of the runner's user; a real runner is thrown away as a whole."""
    yield
    store = user_runner.home / ".local/share/crossroot"
    user_runner.identity.run(
        [user_runner.home / "crossroot/bin/crossroot", "remove", "--force", "riscv64"],
        env={"HOME": str(user_runner.home)},
        check=True,
    )
    expect.roots(store)


def printed(service: str, run: str) -> str:
    return ci.job(service, [profiles.load("riscv64", [paths.builtin_profiles()])], run=run)


def test_an_installed_crossroot_prints_the_same_job(action: Action) -> None:
    runner = action.runner
    assert action.use("true").status == 0
    command = [str(runner.temp / "crossroot/venv/bin/crossroot"), "ci", "github", "riscv64", "--run", "uname -m"]
    assert runner.identity.run(command, check=True).stdout == printed("github", "uname -m")


@pytest.mark.usefixtures("no_roots_left")
def test_the_job_for_github_runs(user_runner: Runner) -> None:
    result = user_runner.run_job(printed("github", "uname -m\ncat readme\npwd"), {"profile": "riscv64"})
    assert result.status == 0, result.log
    assert result.log.splitlines()[-3:] == ["riscv64", "one", str(user_runner.workspace)]
    assert list(user_runner.caches) == ["crossroot-riscv64-X64-"]


@pytest.mark.usefixtures("no_roots_left")
def test_the_job_for_github_fails_with_its_commands(user_runner: Runner) -> None:
    result = user_runner.run_job(printed("github", "(exit 37)\necho not this"), {"profile": "riscv64"})
    assert result.status == 37
    assert "not this" not in result.log


@pytest.mark.usefixtures("no_roots_left")
def test_the_job_for_sourcehut_runs(user_runner: Runner) -> None:
    """Each task is a script of its own, after what ~/.buildenv says, in the home of a user who may use sudo."""
    identity, home = user_runner.identity, user_runner.home
    identity.run(["mkdir", "-p", home / "project/.git"], check=True)
    identity.run(["sh", "-c", "echo one > project/readme; touch .buildenv"], cwd=home, check=True)
    output = ""
    for task in yaml.safe_load(printed("sourcehut", "uname -m\ncat readme\npwd"))["tasks"]:
        for script in task.values():
            output = identity.run(
                ["bash", "-c", f". ~/.buildenv\nset -xe\n{script}"],
                cwd=home,
                env={**user_runner.environment, "HOME": str(home)},
                timeout=300,
                check=True,
            ).stdout
    assert output.splitlines()[-3:] == ["riscv64", "one", str(home / "project")]


def test_the_job_for_gitlab_runs(
    identity: Identity, identity_folder: Path, wheel: Path, new_runner: Callable[[Identity, Path], Runner]
) -> None:
    """before_script and script are one script; as root in an image, as a user with a shell executor."""
    runner = new_runner(identity, new_folder(identity_folder, identity))
    content: dict[str, Any] = yaml.safe_load(printed("gitlab", "uname -m\ncat readme\npwd"))
    template = content[".crossroot"]
    job = content["crossroot-riscv64"]
    variables = {**template["variables"], **job["variables"]}
    environment = {name: value.replace("$CI_PROJECT_DIR", str(runner.workspace)) for name, value in variables.items()}
    result = identity.run(
        ["bash", "-eo", "pipefail", "-c", "\n".join([*template["before_script"], *template["script"]])],
        cwd=runner.workspace,
        env={
            **runner.environment,
            **environment,
            "HOME": str(runner.home),
            "PIP_FIND_LINKS": _links(wheel),
            "CROSSROOT_STORE": str(runner.folder / "store"),
        },
        timeout=300,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stdout.splitlines()[-3:] == ["riscv64", "one", str(runner.workspace)]
    assert list((runner.workspace / template["cache"]["paths"][0]).iterdir())
