"""Fixtures of the integration tests: the host, the mirror, who runs crossroot, and crossroot itself.

    def test_exit_status_is_the_commands(shared_root: Crossroot) -> None:
        assert shared_root.run("run", "riscv64", "--", "sh", "-c", "exit 37").returncode == 37

Every test with `crossroot` or `shared_root` runs twice, as root and as an ordinary user. Every test in
tests/integration fails if it leaves mounts, binfmt_misc entries or processes behind.
"""

import os
import random
import signal
import tempfile
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import hypothesis
import pytest

from crossroot import arch, emulator
from tests.support import debian_archive
from tests.support import host as host_state
from tests.support.figures import Figures
from tests.support.identity import (
    Crossroot,
    Identity,
    new_folder,
    ordinary_user,
    remove_tree,
    root_identity,
)
from tests.support.mirror import Mirror, first_available
from tests.support.workshop import TARGETS, Workshop, new_workshop

INTEGRATION = Path(__file__).parent / "integration"
NEEDS_ROOT = "needs root"
NO_ALPINE = "needs a real Alpine mirror"

# Why a test may be skipped in CI; any other skip there is a failure. Nothing CI can do belongs here.
REASONS_TO_SKIP_IN_CI = (NEEDS_ROOT, NO_ALPINE)

MIRROR = pytest.StashKey[Mirror]()
SEED = pytest.StashKey[str]()

# Without --seed=random the generated inputs are the same each time, and no slow machine fails for being slow.
hypothesis.settings.register_profile("fixed", derandomize=True, database=None, deadline=None)
hypothesis.settings.register_profile("random", database=None, deadline=None, print_blob=True)

# A shell starts what it runs in the background with the first two ignored, nohup(1) with the third.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGQUIT, signal.SIG_DFL)
signal.signal(signal.SIGHUP, signal.SIG_DFL)


def pytest_addoption(parser: pytest.Parser) -> None:
    """--seed: from which random moments and inputs follow."""
    parser.addoption("--seed", default="1", help="a number, or `random` for other moments and inputs each time")


def pytest_configure(config: pytest.Config) -> None:
    """Settle the seed."""
    seed = config.getoption("seed")
    hypothesis.settings.load_profile("random" if seed == "random" else "fixed")
    config.stash[SEED] = str(random.SystemRandom().randrange(10**6)) if seed == "random" else seed


def pytest_report_header(config: pytest.Config) -> str:
    """Say the seed, with which a failure can be had again."""
    return f"seed: {config.stash[SEED]}"


@pytest.fixture
def chance(request: pytest.FixtureRequest, pytestconfig: pytest.Config) -> random.Random:
    """Random numbers, which follow from the seed and the name of the test."""
    return random.Random(f"{pytestconfig.stash[SEED]} {request.node.name}")


@pytest.fixture(scope="session")
def scratch() -> Iterator[Path]:
    """A folder for all that the tests write, which other users can enter; pytest's own tmp_path they can't."""
    folder = Path(tempfile.mkdtemp(prefix="crossroot-test-", dir="/tmp"))
    folder.chmod(0o755)
    yield folder
    remove_tree(folder)


@pytest.fixture(scope="session")
def mirror(scratch: Path, pytestconfig: pytest.Config) -> Iterator[Mirror]:
    """The mirror to bootstrap from; see tests/support/mirror.py for where it is looked for."""
    folder = scratch / "mirror"
    folder.mkdir()
    with first_available(folder) as found:
        pytestconfig.stash[MIRROR] = found
        yield found


@pytest.fixture(scope="session")
def user(scratch: Path) -> Iterator[Identity]:
    """A real ordinary user with subordinate ids, removed at the end; who runs the tests, if that is not root."""
    with ordinary_user(scratch / "user-python") as identity:
        yield identity


@pytest.fixture(scope="session", params=["root", "user"])
def identity(request: pytest.FixtureRequest, scratch: Path) -> Identity:
    """Root, then the ordinary user."""
    if request.param == "user":
        found: Identity = request.getfixturevalue("user")
        return found
    if os.geteuid() != 0:
        pytest.skip(NEEDS_ROOT)
    home = scratch / "root-home"
    home.mkdir()
    return root_identity(home)


@pytest.fixture(scope="session")
def identity_folder(identity: Identity, scratch: Path) -> Path:
    """A folder of the identity's own, with all that it writes in the session."""
    return new_folder(scratch, identity)


@pytest.fixture
def folders_to_remove() -> Iterator[list[Path]]:
    """Folders that a test adds here are removed after `host` has looked whether somebody still uses them."""
    folders: list[Path] = []
    yield folders
    for folder in folders:
        remove_tree(folder)


@pytest.fixture
def crossroot(identity: Identity, identity_folder: Path, mirror: Mirror, folders_to_remove: list[Path]) -> Crossroot:
    """crossroot with an empty store, as root and as an ordinary user."""
    tmp = new_folder(identity_folder, identity)
    folders_to_remove.append(tmp)
    return Crossroot(identity, mirror, tmp, tmp / "store", identity_folder / "cache")


@pytest.fixture(scope="session")
def shared_root(identity: Identity, identity_folder: Path, mirror: Mirror) -> Crossroot:
    """crossroot with a root named riscv64, for tests that only run things in it and leave it as it is."""
    tmp = new_folder(identity_folder, identity)
    instance = Crossroot(identity, mirror, tmp, tmp / "store", identity_folder / "cache")
    instance.create("riscv64")
    return instance


@pytest.fixture
def users_folder(user: Identity, scratch: Path) -> Path:
    """A store of the ordinary user that does not exist yet."""
    own = Path(tempfile.mkdtemp(dir=scratch))
    os.chown(own, user.uid, user.gid)
    return own / "store"


@pytest.fixture(scope="session")
def workshop(identity: Identity, identity_folder: Path, mirror: Mirror) -> Workshop:
    """A root of Debian with compilers, which takes minutes to make: riscv64 as root, aarch64 as an ordinary user."""
    tmp = new_folder(identity_folder, identity)
    instance = Crossroot(identity, mirror, tmp, tmp / "store", identity_folder / "cache")
    return new_workshop(instance, arch.find(debian_archive.first_whole(*TARGETS[identity.kind])), tmp / "hare")


@pytest.fixture(scope="session")
def qemu(scratch: Path) -> Callable[[str], Path]:
    """A function that gives the host's static qemu-user for an arch of this name, whatever its user has fetched."""
    return lambda name: emulator.find(arch.find(name), cache=scratch / "no-cache")


@pytest.fixture(autouse=True)
def host(request: pytest.FixtureRequest, folders_to_remove: list[Path]) -> Iterator[None]:  # noqa: ARG001  (order)
    """Fail an integration test that leaves the host other than it was."""
    if not request.path.is_relative_to(INTEGRATION):
        yield
        return
    scratch: Path = request.getfixturevalue("scratch")
    own: Path = request.getfixturevalue("tmp_path_factory").getbasetemp()
    marks = [f"{scratch.name}/", f"{own.parent.name}/{own.name}/"]
    before = host_state.look()
    yield
    changes = host_state.changes_since(before, marks)
    host_state.end_processes_since(before, marks)
    assert not changes, f"the host is not as it was before the test:\n{changes}"


@pytest.fixture
def figures(request: pytest.FixtureRequest) -> Iterator[Figures]:
    """What the test counts for the table of docs/guarantees.md; recorded if the test succeeds."""
    counted, failed = Figures(request.node.nodeid), request.session.testsfailed
    yield counted
    if request.session.testsfailed == failed:
        counted.record()


@pytest.fixture(autouse=True)
def _alpine_only(request: pytest.FixtureRequest) -> None:
    """Skip tests about Alpine itself where only small Debian roots can be had."""
    if request.node.get_closest_marker("alpine"):
        found: Mirror = request.getfixturevalue("mirror")
        if not found.is_alpine:
            pytest.skip(NO_ALPINE)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """In CI, turn a skip for another reason than those listed above into a failure."""
    report = yield
    if report.skipped and not hasattr(report, "wasxfail") and _forbidden_skip(report.longrepr):
        report.outcome, report.longrepr = "failed", f"skipped, which CI must not do: {report.longrepr}"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """The same for whole modules."""
    report = yield
    if report.skipped and _forbidden_skip(report.longrepr):
        report.outcome, report.longrepr = "failed", f"skipped, which CI must not do: {report.longrepr}"
    return report


def _forbidden_skip(longrepr: object) -> bool:
    """longrepr: file, line and "Skipped: REASON"."""
    return bool(os.environ.get("CI")) and not str(longrepr).endswith(
        tuple(f"Skipped: {reason}')" for reason in REASONS_TO_SKIP_IN_CI)
    )


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Say what the roots of this run were made from, and so why tests were skipped."""
    if found := config.stash.get(MIRROR, None):
        kind = "Alpine" if found.is_alpine else "small Debian roots, so tests about Alpine itself were skipped"
        terminalreporter.write_line(f"roots came from {found.origin}: {kind}; {', '.join(found.arches)}")
    for note in debian_archive.NOTES:
        terminalreporter.write_line(note)
