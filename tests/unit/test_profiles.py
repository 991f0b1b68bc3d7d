"""Profiles: every rule of the files, of merging them and of what is refused."""

import json
import re
import tomllib
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from crossroot import arch, paths, profiles
from crossroot.cli import profile as cli
from crossroot.distros.alpine import DEFAULT_BRANCH, DEFAULT_MIRROR
from crossroot.errors import EXIT_USAGE, UsageError
from crossroot.profiles import KEYS, Profile

HASH = "cf83e135" * 16
REPOSITORY = Path(__file__).parents[2]


class Folders:
    """Three folders of profiles, lowest priority first, as the built-in, the system's and the user's."""

    def __init__(self, top: Path) -> None:
        self.all = [top / "builtin", top / "etc", top / "user"]
        for folder in self.all:
            folder.mkdir()

    def write(self, name: str, text: str, level: int = 0) -> Path:
        path = self.all[level] / f"{name}.toml"
        path.write_text(text)
        return path

    def load(self, name: str) -> Profile:
        return profiles.load(name, self.all)

    def refused(self, name: str) -> UsageError:
        """The error of loading the profile; its message is checked to be one line."""
        with pytest.raises(UsageError) as caught:
            self.load(name)
        assert "\n" not in caught.value.message
        assert caught.value.exit_code == EXIT_USAGE
        return caught.value


@pytest.fixture
def folders(tmp_path: Path) -> Folders:
    return Folders(tmp_path)


def test_a_profile_needs_only_an_arch_and_the_rest_has_defaults(folders: Folders) -> None:
    path = folders.write("box", 'arch = "riscv64"')
    assert folders.load("box") == Profile(
        name="box",
        arch=arch.ALL["riscv64"],
        description="",
        distro="alpine",
        branch=DEFAULT_BRANCH,
        mirrors=(DEFAULT_MIRROR,),
        suite="",
        components=(),
        variant="",
        sha512="",
        keyring="",
        source="archive",
        repositories=(),
        keys=(),
        packages=(),
        hooks=(),
        user="root",
        shell="",
        binds=(),
        qemu_cpu="",
        qemu_version="",
        binfmt="auto",
        env={},
        sources=(path,),
    )


def test_every_key_is_read(folders: Folders, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    path = folders.write(
        "full",
        f"""
        arch = "arm64"
        description = "a line"
        distro = "alpine"
        branch = "v3.20"
        mirrors = ["http://127.0.0.1:8080/alpine/", "HTTPS://mirror.example.org"]
        sha512 = "{HASH.upper()}"
        keyring = "~/alpine.gpg"
        source = "packages"
        repositories = ["https://pkgs.example.org/alpine", "@mine /srv/packages"]
        keys = ["~/me.rsa.pub"]
        packages = ["gcc", "make>4", "!bash"]
        hooks = ["adduser -D builder", "echo 'a: b' > /etc/x"]
        user = "builder:users"
        shell = "/bin/ash"
        binds = ["/srv", "~/src:/src", "/data:/data:ro"]
        qemu_cpu = "max,pauth-impdef=on"
        qemu_version = ">=8"
        binfmt = "private"
        env = {{ LANG = "C.UTF-8", EMPTY = "" }}
        """,
    )
    assert folders.load("full") == Profile(
        name="full",
        arch=arch.ALL["aarch64"],
        description="a line",
        distro="alpine",
        branch="v3.20",
        mirrors=("http://127.0.0.1:8080/alpine/", "HTTPS://mirror.example.org"),
        sha512=HASH,
        keyring="/home/me/alpine.gpg",
        source="packages",
        repositories=("https://pkgs.example.org/alpine", "@mine /srv/packages"),
        keys=("/home/me/me.rsa.pub",),
        packages=("gcc", "make>4", "!bash"),
        hooks=("adduser -D builder", "echo 'a: b' > /etc/x"),
        user="builder:users",
        shell="/bin/ash",
        binds=("/srv", "/home/me/src:/src", "/data:/data:ro"),
        qemu_cpu="max,pauth-impdef=on",
        qemu_version=">=8",
        binfmt="private",
        env={"LANG": "C.UTF-8", "EMPTY": ""},
        sources=(path,),
    )


def test_the_keys_of_debian_are_read_and_have_defaults(folders: Folders) -> None:
    path = folders.write("base", 'arch = "armhf"\ndistro = "debian"')
    mine = folders.write(
        "mine",
        'extends = "base"\nsuite = "sid"\ncomponents = ["main", "non-free"]\nvariant = "apt"\nmirrors = ["http://m"]',
    )
    base = folders.load("base")
    assert base == Profile(
        name="base",
        arch=arch.ALL["armhf"],
        distro="debian",
        branch="",
        suite="trixie",
        components=("main",),
        variant="minbase",
        mirrors=(),
        sources=(path,),
    )
    assert folders.load("mine") == base.but(
        name="mine",
        suite="sid",
        components=("main", "non-free"),
        variant="apt",
        mirrors=("http://m",),
        sources=(path, mine),
    )


@pytest.mark.parametrize(
    ("distro", "entry", "owners", "cure"),
    [
        ("alpine", 'suite = "sid"', "debian and ubuntu", "branch, sha512, source, repositories, keys"),
        ("debian", 'branch = "edge"', "alpine", "suite, components, variant"),
        ("ubuntu", f'sha512 = "{HASH}"', "alpine", "suite, components, variant"),
    ],
)
def test_a_key_of_another_distribution_is_refused(
    folders: Folders, distro: str, entry: str, owners: str, cure: str
) -> None:
    path = folders.write("box", f'arch = "x86"\ndistro = "{distro}"\n{entry}')
    error = folders.refused("box")
    assert error.message == f"{path}: '{entry.split()[0]}' is a key for {owners}, and the distro is {distro}"
    assert error.hint == f"leave it out; {distro} has {cure}"


def test_another_branch_of_debian_is_another_suite(folders: Folders) -> None:
    folders.write("debian", 'arch = "x86"\ndistro = "debian"')
    folders.write("alpine", 'arch = "x86"')
    assert profiles.on_branch(folders.load("debian"), "sid").suite == "sid"
    assert profiles.on_branch(folders.load("alpine"), "edge").branch == "edge"
    assert profiles.on_branch(folders.load("alpine"), None) == folders.load("alpine")
    with pytest.raises(UsageError, match="'a b' is not a suite"):
        profiles.on_branch(folders.load("debian"), "a b")


def test_packages_are_added_to_those_of_the_profile(folders: Folders) -> None:
    folders.write("box", 'arch = "x86"\npackages = ["make", "gcc"]')
    assert profiles.with_packages(folders.load("box"), ["gcc", "git"]) == ("make", "gcc", "git")
    with pytest.raises(UsageError, match="'--root' is not a package name"):
        profiles.with_packages(folders.load("box"), ["--root"])


def test_every_key_but_extends_is_a_field_and_the_other_way_round() -> None:
    assert {"extends", *Profile._fields} - {"name", "sources"} == set(KEYS)


# Overriding and extending


def test_a_later_folder_overrides_key_by_key(folders: Folders) -> None:
    low = folders.write("box", 'arch = "riscv64"\nuser = "low"\nshell = "/bin/low"\npackages = ["a", "b"]')
    mid = folders.write("box", 'user = "mid"\nshell = "/bin/mid"', level=1)
    top = folders.write("box", 'user = "top"\npackages = ["c"]', level=2)
    box = folders.load("box")
    assert (box.arch.name, box.user, box.shell, box.packages) == ("riscv64", "top", "/bin/mid", ("c",))
    assert box.sources == (low, mid, top)


def test_env_is_merged_variable_by_variable(folders: Folders) -> None:
    folders.write("box", 'arch = "riscv64"\nenv = { A = "low", B = "low" }')
    folders.write("box", '[env]\nB = "top"\nC = "top"', level=2)
    assert folders.load("box").env == {"A": "low", "B": "top", "C": "top"}


def test_an_empty_value_overrides(folders: Folders) -> None:
    folders.write("base", f'arch = "x86"\nsha512 = "{HASH}"\nkeyring = "/k"\nqemu_cpu = "max"\npackages = ["a"]')
    folders.write("box", 'extends = "base"\nsha512 = ""\nkeyring = ""\nqemu_cpu = ""\nshell = ""\npackages = []')
    box = folders.load("box")
    assert (box.sha512, box.keyring, box.qemu_cpu, box.shell, box.packages) == ("", "", "", "", ())


def test_extends_builds_on_another_profile_with_the_same_merging(folders: Folders) -> None:
    base = folders.write("base", 'arch = "riscv64"\nuser = "base"\nshell = "/bin/base"\nenv = { A = "1", B = "1" }')
    box = folders.write("box", 'extends = "base"\nuser = "box"\nenv = { B = "2" }')
    loaded = folders.load("box")
    assert (loaded.name, loaded.user, loaded.shell, loaded.env) == ("box", "box", "/bin/base", {"A": "1", "B": "2"})
    assert loaded.sources == (base, box)


def test_extends_sees_the_overridden_profile(folders: Folders) -> None:
    folders.write("riscv64", 'arch = "riscv64"')
    folders.write("riscv64", 'branch = "edge"', level=2)
    folders.write("box", 'extends = "riscv64"')
    assert folders.load("box").branch == "edge"


def test_extends_goes_over_several_profiles(folders: Folders) -> None:
    folders.write("a", 'arch = "riscv64"\nuser = "a"\nshell = "/bin/a"\nbranch = "a"')
    folders.write("b", 'extends = "a"\nuser = "b"\nshell = "/bin/b"')
    folders.write("c", 'extends = "b"\nuser = "c"')
    loaded = folders.load("c")
    assert (loaded.user, loaded.shell, loaded.branch) == ("c", "/bin/b", "a")


def test_extends_understands_other_names_of_an_arch(folders: Folders) -> None:
    folders.write("armv7", 'arch = "armv7"')
    folders.write("box", 'extends = "linux/arm/v7"')
    assert folders.load("box").arch.name == "armv7"


def test_extends_of_the_own_name_means_the_lower_folders_profile(folders: Folders) -> None:
    low = folders.write("riscv64", 'arch = "riscv64"\nshell = "/bin/low"')
    top = folders.write("riscv64", 'extends = "riscv64"\nuser = "me"', level=2)
    loaded = folders.load("riscv64")
    assert (loaded.shell, loaded.user, loaded.sources) == ("/bin/low", "me", (low, top))


def test_extends_of_the_own_name_keeps_what_the_lower_one_extends(folders: Folders) -> None:
    folders.write("base", 'arch = "riscv64"\nshell = "/bin/base"')
    folders.write("box", 'extends = "base"')
    folders.write("box", 'extends = "box"', level=2)
    assert folders.load("box").shell == "/bin/base"


def test_a_later_extends_replaces_an_earlier_one(folders: Folders) -> None:
    folders.write("one", 'arch = "x86"\nextends = "box"')
    folders.write("two", 'arch = "s390x"')
    folders.write("box", 'extends = "one"')
    folders.write("box", 'extends = "two"', level=2)
    assert folders.load("box").arch.name == "s390x"


@pytest.mark.parametrize("name", ["a", "b", "c"])
def test_circular_extends_is_refused_with_its_chain(folders: Folders, name: str) -> None:
    for extending, extended in ("ab", "bc", "ca"):
        folders.write(extending, f'arch = "x86"\nextends = "{extended}"')
    turned = "abcab"["abc".index(name) :][:3]
    error = folders.refused(name)
    assert error.message.endswith(f"{turned[2]}.toml:2: circular extends: {' -> '.join(turned + name)}")


def test_a_circle_further_down_is_refused(folders: Folders) -> None:
    for extending, extended in ("ab", "bc", "cb"):
        folders.write(extending, f'extends = "{extended}"')
    assert folders.refused("a").message.endswith("c.toml:1: circular extends: a -> b -> c -> b")


def test_a_profile_that_extends_itself_with_nothing_below_is_refused(folders: Folders) -> None:
    path = folders.write("box", 'extends = "box"', level=2)
    assert folders.refused("box").message == f"{path}:1: circular extends: box -> box"


def test_extends_of_an_unknown_profile_is_refused_with_file_and_line(folders: Folders) -> None:
    folders.write("riscv64", 'arch = "riscv64"')
    path = folders.write("box", 'user = "me"\nextends = "riscv46"')
    error = folders.refused("box")
    assert error.message == f"{path}:2: there is no profile 'riscv46'"
    assert "perhaps you meant 'riscv64'" in error.hint


# Names


@pytest.mark.parametrize(
    ("name", "own"), [("arm64", "aarch64"), ("linux/arm/v7", "armv7"), ("i386", "x86"), ("AMD64", "x86_64")]
)
def test_other_names_of_an_arch_are_understood(folders: Folders, name: str, own: str) -> None:
    folders.write(own, f'arch = "{own}"')
    assert folders.load(name).name == own


def test_a_file_comes_before_the_name_of_an_arch(folders: Folders) -> None:
    folders.write("aarch64", 'arch = "aarch64"')
    folders.write("arm64", 'arch = "x86"', level=2)
    assert folders.load("arm64").arch.name == "x86"


@pytest.mark.parametrize(
    "name", ["", "/etc/passwd", "../etc/box", "..", "a..b", "a/b", ".hidden", "-x", "a b", "a\nb", "linux/foo"]
)
def test_a_bad_name_is_refused(folders: Folders, name: str) -> None:
    (folders.all[0].parent / "etc/box.toml").write_text('arch = "x86"')
    (folders.all[0] / "a..b.toml").write_text('arch = "x86"')
    assert folders.refused(name).message == f"{name!r} cannot be the name of a profile"


def test_an_unknown_name_is_answered_with_a_suggestion(folders: Folders) -> None:
    folders.write("riscv64", 'arch = "riscv64"')
    error = folders.refused("risv64")
    assert error.message == "there is no profile 'risv64'"
    assert error.hint.startswith("perhaps you meant 'riscv64'")


def test_an_arch_without_a_profile_is_refused(folders: Folders) -> None:
    folders.write("riscv64", 'arch = "riscv64"')
    assert folders.refused("linux/mips").message == "there is no profile 'mips'"


def test_names_lists_each_profile_once_with_the_file_that_wins(folders: Folders) -> None:
    folders.write("b", "")
    top = folders.write("b", "", level=2)
    a = folders.write("a", "", level=1)
    for ignored in ("notes.txt", ".hidden.toml", "a b.toml", "c.toml~"):
        (folders.all[0] / ignored).write_text("")
    assert profiles.names([*folders.all, Path("/nonexistent")]) == [("a", a), ("b", top)]


def test_find_gives_the_files_without_reading_them(folders: Folders) -> None:
    low = folders.write("armv7", "not TOML")
    top = folders.write("armv7", "not TOML", level=2)
    assert profiles.find("linux/arm/v7", folders.all) == ("armv7", [low, top])


# What is refused


@pytest.mark.parametrize(
    ("line", "complaint", "hint"),
    [
        ('mirror = "http://x"', "unknown key 'mirror'", "perhaps you meant 'mirrors'"),
        ('[environment]\nA = "b"', "unknown key 'environment'", "known are extends, arch"),
        ('"qemu-cpu" = "max"', "unknown key 'qemu-cpu'", "perhaps you meant 'qemu_cpu'"),
        ('packages = "gcc"', "packages must be a list of strings, not a string", "packages = ["),
        ('packages = ["gcc", 4]', "an entry of packages must be a string, not an integer", "packages = ["),
        ("user = true", "user must be a string, not a boolean", 'user = "'),
        ("branch = 3.20", "branch must be a string, not a float", 'branch = "v3.20"'),
        ("branch = 2024-01-01", "branch must be a string, not a date or time", 'branch = "v3.20"'),
        ('env = ["A=b"]', "env must be a table of strings, not a list", "env = {"),
        ("env = { A = 1 }", "env.A must be a string, not an integer", "env = {"),
        ('env = { "A=B" = "1" }', "'A=B' is not the name of an environment variable", ""),
        ('arch = "risc64"', "arch: unknown architecture 'risc64'", "perhaps you meant riscv64"),
        ('distro = "debain"', "distro: 'debain' is not one of alpine, debian, ubuntu", "perhaps you meant 'debian'"),
        ('suite = "Trixie main"', "suite: 'Trixie main' is not a suite", "suite = "),
        ('components = ["main contrib"]', "components: 'main contrib' is not a component", "components = "),
        ('variant = "minbas"', "variant: 'minbas' is not one of apt", "perhaps you meant 'minbase'"),
        ('qemu_version = "new"', "qemu_version: 'new' is not a version of qemu", ">=8"),
        ('branch = "3.20"', "branch: '3.20' is not a branch", 'branch = "v3.20"'),
        ('branch = "../edge"', "branch: '../edge' is not a branch", 'branch = "v3.20"'),
        ('mirrors = ["ftp://x/alpine"]', "mirrors: 'ftp://x/alpine' is not an http:// or https:// URL", "mirrors = ["),
        ('mirrors = ["/srv/alpine"]', "mirrors: '/srv/alpine' is not an http:// or https:// URL", "mirrors = ["),
        ('mirrors = ["https:///alpine"]', "mirrors: 'https:///alpine' is not an http", "mirrors = ["),
        ('sha512 = "abc"', "sha512: 'abc' is not a SHA-512 hash", "128 hexadecimal digits"),
        (f'sha512 = "{HASH[:-1]}g"', f"sha512: '{HASH[:-1]}g' is not a SHA-512 hash", "128 hexadecimal digits"),
        ('keyring = "alpine.gpg"', "keyring: 'alpine.gpg' is not an absolute path", "start it with / or ~/"),
        ('packages = ["--allow-untrusted"]', "packages: '--allow-untrusted' is not a package name", "packages = ["),
        ('packages = ["a b"]', "packages: 'a b' is not a package name", "packages = ["),
        ('hooks = [" "]', "hooks: ' ' is not a shell command", "hooks = ["),
        ('user = ""', "user: '' is not a USER[:GROUP]", 'user = "'),
        ('user = "a:b:c"', "user: 'a:b:c' is not a USER[:GROUP]", 'user = "'),
        ('shell = "ash"', "shell: 'ash' is not an absolute path", 'shell = "/'),
        ('binds = ["src"]', "binds: 'src' is not an absolute path", "start it with / or ~/"),
        ('binds = [""]', "binds: '' is not an absolute path", "start it with / or ~/"),
        ('binds = ["/a:b"]', "binds: '/a:b' is not a bind", '"/srv/src:/src:ro"'),
        ('binds = ["/a:"]', "binds: '/a:' is not a bind", '"/srv/src:/src:ro"'),
        ('binds = ["/a::ro"]', "binds: '/a::ro' is not a bind", '"/srv/src:/src:ro"'),
        ('binds = ["/a:/b:rw"]', "binds: '/a:/b:rw' is not a bind", '"/srv/src:/src:ro"'),
        ('binds = ["/a:/b:ro:"]', "binds: '/a:/b:ro:' is not a bind", '"/srv/src:/src:ro"'),
        ('qemu_cpu = "max, x"', "qemu_cpu: 'max, x' is not a CPU model", "qemu_cpu = "),
        ('binfmt = "privat"', "binfmt: 'privat' is not one of auto, host, private", "perhaps you meant 'private'"),
        ('hooks = ["a\\u0000b"]', "hooks holds a NUL character", ""),
        ('env = { A = "a\\u0000b" }', "env holds a NUL character", ""),
        ('extends = "../box"', "'../box' cannot be the name of a profile", ""),
    ],
)
def test_a_wrong_entry_is_refused_with_file_line_and_hint(
    folders: Folders, line: str, complaint: str, hint: str
) -> None:
    path = folders.write("box", f'# arch = "x86"\ndescription = "a packages = b"\n\n{line}\n')
    error = folders.refused("box")
    assert error.message.startswith(f"{path}:4: {complaint}")
    assert hint in error.hint


@pytest.mark.parametrize("entry", ["B = 4", "  B=4", '"B" = 4'])
def test_the_line_of_a_wrong_variable_is_that_in_its_table(folders: Folders, entry: str) -> None:
    path = folders.write("box", f'arch = "x86"\n[env]\nA = "1"\n{entry}\nC = "B"')
    assert folders.refused("box").message == f"{path}:4: env.B must be a string, not an integer"


def test_the_line_of_a_wrong_variable_with_a_dotted_key(folders: Folders) -> None:
    path = folders.write("box", 'arch = "x86"\nenv.A = "1"\nenv.B = 4')
    assert folders.refused("box").message == f"{path}:3: env.B must be a string, not an integer"


def test_a_syntax_error_is_refused_with_line_and_column(folders: Folders) -> None:
    path = folders.write("box", 'arch = "x86"\nuser == "me"')
    assert folders.refused("box").message == f"{path}:2:7: not valid TOML: invalid value"


def test_a_syntax_error_at_the_end_is_refused(folders: Folders) -> None:
    path = folders.write("box", 'arch = """x86')
    message = folders.refused("box").message
    assert message.startswith(f"{path}: not valid TOML: ")


def test_a_missing_arch_is_refused(folders: Folders) -> None:
    path = folders.write("box", 'user = "me"')
    error = folders.refused("box")
    assert error.message == f"{path}: the profile has no arch"
    assert 'arch = "' in error.hint


def test_a_profile_without_mirrors_is_refused(folders: Folders) -> None:
    path = folders.write("box", 'arch = "x86"\nmirrors = []')
    error = folders.refused("box")
    assert error.message == f"{path}: the profile has no mirrors"
    assert "mirrors = [" in error.hint


def test_a_file_that_cannot_be_read_is_refused(folders: Folders) -> None:
    path = folders.all[0] / "box.toml"
    path.mkdir()
    assert folders.refused("box").message == f"cannot read {path}: Is a directory"


def test_a_file_that_cannot_be_looked_up_is_refused(folders: Folders) -> None:
    path = folders.all[0] / "box.toml"
    path.symlink_to(path)
    assert folders.refused("box").message == f"cannot read {path}: Too many levels of symbolic links"


def test_a_folder_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    with pytest.raises(UsageError, match=r"cannot read .*/loop: Too many levels of symbolic links"):
        profiles.names([loop])


def test_a_file_that_is_not_text_is_refused(folders: Folders) -> None:
    path = folders.all[0] / "box.toml"
    path.write_bytes(b'arch = "x86"\nuser = "\xff"')
    assert folders.refused("box").message.startswith(f"{path}: not UTF-8 text: ")


# Printing, what is shipped, and what is documented


def test_the_printed_profile_is_the_same_profile(folders: Folders) -> None:
    nasty = 'quote " backslash \\ tab \t newline \n DEL \x7f é 😀'
    folders.write("box", 'arch = "riscv64"\nmirrors = ["http://a", "http://b"]\nbinds = ["/a:/b:ro"]\nuser = "me"')
    box = folders.load("box").but(env={"A": nasty, "B": ""}, hooks=(nasty,), description=nasty)
    printed = folders.write("printed", profiles.to_toml(box))
    assert folders.load("printed") == box.but(name="printed", sources=(printed,))


@pytest.mark.parametrize("distro", profiles.DISTROS)
def test_the_printed_profile_holds_every_key_and_names_its_sources(folders: Folders, distro: str) -> None:
    folders.write("base", 'arch = "riscv64"')
    folders.write("box", f'extends = "base"\ndistro = "{distro}"')
    box = folders.load("box")
    text = profiles.to_toml(box)
    keys = {name: key for name, key in KEYS.items() if name != "extends" and distro in key.distros}
    assert set(tomllib.loads(text)) == set(keys)
    assert all(str(source) in text for source in box.sources)
    assert all(f"# {key.doc}\n" in text for key in keys.values())
    printed = folders.write("printed", text)
    assert folders.load("printed") == box.but(name="printed", sources=(printed,))


OF_ALPINE = ["aarch64", "armhf", "armv7", "loongarch64", "ppc64le", "riscv64", "s390x", "x86", "x86_64"]
OF_DEBIAN = ["amd64", "arm64", "armhf", "i386", "ppc64el", "riscv64", "s390x"]
WITH_HARE = ["debian-hare-arm64", "debian-hare-riscv64", "hare-aarch64", "hare-riscv64"]
SHIPPED = sorted([*OF_ALPINE, *(f"debian-{name}" for name in OF_DEBIAN), *WITH_HARE])


def shipped(name: str) -> Profile:
    return profiles.load(name, [paths.builtin_profiles()])


def test_these_profiles_are_shipped() -> None:
    assert [name for name, _ in profiles.names([paths.builtin_profiles()])] == SHIPPED


@pytest.mark.parametrize("name", OF_ALPINE)
def test_a_shipped_profile_loads_and_is_of_its_arch(name: str) -> None:
    profile = shipped(name)
    assert (profile.distro, profile.arch) == ("alpine", arch.ALL[name])
    assert profile.description


@pytest.mark.parametrize("name", OF_DEBIAN)
def test_a_profile_of_debian_is_of_the_arch_debian_calls_so(name: str) -> None:
    profile = shipped(f"debian-{name}")
    assert (profile.distro, profile.suite, profile.arch.debian) == ("debian", "trixie", name)
    assert "Debian" in profile.description


@pytest.mark.parametrize("name", WITH_HARE)
def test_a_profile_for_hare_has_it_and_an_emulator_that_runs_it(name: str) -> None:
    profile = shipped(name)
    assert profile.arch.name in ("riscv64", "aarch64")
    assert profile.distro == ("debian" if name.startswith("debian") else "alpine")
    assert profile.packages == ("hare",)
    assert profile.qemu_version


@pytest.mark.parametrize("name", [name for name in KEYS if name != "sha512"])
def test_the_example_of_a_key_is_valid(folders: Folders, name: str) -> None:
    folders.write("riscv64", 'arch = "riscv64"')
    folders.write("box", 'arch = "riscv64"')
    folders.write("box", f'distro = "{KEYS[name].distros[0]}"', level=1)
    folders.write("box", KEYS[name].example, level=2)
    value = tomllib.loads(KEYS[name].example)[name]
    assert isinstance(value, KEYS[name].kind)
    folders.load("box")


@pytest.mark.parametrize("name", KEYS)
def test_every_key_is_documented_with_type_default_and_example(name: str) -> None:
    text = (REPOSITORY / "docs/profiles.md").read_text()
    kinds: dict[type, str] = {
        str: "string",
        int: "number",
        bool: "true or false",
        list: "list of strings",
        dict: "table of strings",
    }
    section = text.split(f"### `{name}`\n")[1].split("\n## ")[0].split("\n### ")[0]
    about = re.match(rf"\n{kinds[KEYS[name].kind]}, (required|optional|default `(.*)`)\n", section)
    assert about, f"the section of {name} does not start with its type and default"
    defaults = profiles.to_toml(Profile("x", arch.ALL["x86"]))
    assert about[1] in ("required", "optional") or f"\n{name} = {about[2]}  # " in defaults
    assert re.search(rf"^{name} = |^\[{name}\]", section, re.MULTILINE), "no example"


def test_every_example_in_the_documentation_is_valid(folders: Folders) -> None:
    folders.write("riscv64", 'arch = "riscv64"')
    text = (REPOSITORY / "docs/profiles.md").read_text()
    examples = re.findall(r"^```toml\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    assert len(examples) >= len(KEYS)
    for number, example in enumerate(examples):
        distro = next(KEYS[key].distros[0] for key in tomllib.loads(example))
        folders.write(f"example{number}", f'arch = "riscv64"\ndistro = "{distro}"')
        folders.write(f"example{number}", example, level=2)
        folders.load(f"example{number}")


# The commands


@pytest.fixture
def user_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's folder of profiles, in force and empty."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    folder = tmp_path / "crossroot/profiles"
    folder.mkdir(parents=True)
    return folder


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(cli.app, list(map(str, arguments)))


def test_list_shows_every_profile_on_a_line(user_folder: Path) -> None:
    (user_folder / "mine.toml").write_text('extends = "riscv64"\nbranch = "edge"\ndescription = "my own"')
    lines = run("list").stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["NAME", *sorted([*SHIPPED, "mine"])]
    assert [line.split(maxsplit=3) for line in lines if "mine" in line] == [["mine", "riscv64", "edge", "my own"]]
    assert ["debian-s390x", "s390x", "trixie"] in [line.split()[:3] for line in lines]


def test_list_as_json_tells_the_file_that_wins(user_folder: Path) -> None:
    (user_folder / "riscv64.toml").write_text('branch = "edge"')
    listed = {profile["name"]: profile for profile in json.loads(run("list", "--json").stdout)}
    assert set(listed) == set(SHIPPED)
    assert listed["riscv64"]["branch"] == "edge"
    assert listed["riscv64"]["path"] == str(user_folder / "riscv64.toml")


def test_list_goes_on_after_a_broken_profile_and_fails(user_folder: Path) -> None:
    (user_folder / "armv7.toml").write_text("mirror = 1")
    result = run("list", "--json")
    assert result.exit_code == EXIT_USAGE
    assert {profile["name"] for profile in json.loads(result.stdout)} == set(SHIPPED) - {"armv7"}
    assert f"{user_folder}/armv7.toml:1: unknown key 'mirror'" in result.stderr


def test_show_prints_the_effective_profile(user_folder: Path) -> None:
    (user_folder / "riscv64.toml").write_text('branch = "edge"')
    shown = tomllib.loads(run("show", "linux/riscv64").stdout)
    assert (shown["arch"], shown["branch"]) == ("riscv64", "edge")


def test_path_is_that_of_the_file_that_wins_broken_or_not(user_folder: Path) -> None:
    (user_folder / "aarch64.toml").write_text("not TOML")
    assert run("path", "arm64").stdout == f"{user_folder}/aarch64.toml\n"
    assert run("path", "s390x").stdout == f"{paths.builtin_profiles()}/s390x.toml\n"


@pytest.mark.usefixtures("user_folder")
def test_check_says_ok_for_names_and_files(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text('extends = "arm64"')
    result = run("check", "arm64", file)
    assert (result.exit_code, result.stdout) == (0, f"arm64: ok\n{file}: ok\n")


def test_check_goes_on_after_a_wrong_one_and_fails(user_folder: Path) -> None:
    (user_folder / "wrong.toml").write_text('arch = "x86"\nuser = 1')
    result = run("check", "missing", "wrong", "/nonexistent/riscv64.toml", "armv7")
    assert (result.exit_code, result.stdout) == (EXIT_USAGE, "armv7: ok\n")
    assert "there is no profile 'missing'" in result.stderr
    assert f"{user_folder}/wrong.toml:2: user must be a string" in result.stderr
    assert "there is no file /nonexistent/riscv64.toml" in result.stderr


def test_check_of_a_file_leaves_out_those_that_override_it(user_folder: Path) -> None:
    (user_folder / "riscv64.toml").write_text("not TOML")
    assert run("check", "riscv64").exit_code == EXIT_USAGE
    assert run("check", paths.builtin_profiles() / "riscv64.toml").exit_code == 0
