"""Imports between the modules of crossroot go down, or stay in their layer, and never in a circle."""

import ast
from pathlib import Path

PACKAGE = Path(__file__).parents[2] / "crossroot"

# The table of the architecture: a new module needs a place here.
LAYERS = {
    0: """
        errors fastjson linux osrelease record
    """,
    1: """
        arch capacity deletion elf fetch guest installed launcher layout namespaces normalise oci oci_image output pace
        pack paths pick seccomp tasks tree ui unpack wanted
    """,
    2: """
        apk apt attend binfmt binfmt_conf binfmt_register binfmt_rule binfmt_status confinement distros distros.alpine
        distros.alpine_tools distros.apk_native distros.deb_repository distros.debian distros.debian_tools emulator
        emulator_fetch handlers job_display jobs junit loader lock locking metadata mounts overlay probe profiles
        snapshots store wrappers
    """,
    3: """
        accelerate archive bootstrap ci clone doctor enter export fill masquerade packages request session toolroot
        verify
    """,
    4: """
        __main__ cli cli.app cli.binfmt cli.ci cli.complete cli.copies cli.create cli.creation cli.doctor cli.emulator
        cli.export cli.lock cli.matrix cli.options cli.packages cli.profile cli.recovery cli.roots cli.session_commands
        cli.sessions cli.snapshots cli.typed cli.verification
    """,
}
LAYER_OF = {module: layer for layer, modules in LAYERS.items() for module in modules.split()}


def sources() -> dict[str, ast.Module]:
    """The syntax tree of each module of the package but the package itself, by its name below crossroot."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        name = ".".join(part for part in parts if part != "__init__")
        if name:
            found[name] = ast.parse(path.read_text(), filename=str(path))
    return found


def imported(tree: ast.Module, modules: set[str]) -> set[str]:
    """The modules of crossroot that a module imports anywhere, inside its functions too."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name.removeprefix("crossroot.") for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: a relative import"
            source = str(node.module).removeprefix("crossroot").removeprefix(".")
            names = (f"{source}.{alias.name}".removeprefix(".") for alias in node.names)
            found |= {name if name in modules else source for name in names}
    return found & modules


def edges() -> dict[str, set[str]]:
    """Who imports whom."""
    trees = sources()
    return {name: imported(tree, set(trees)) - {name} for name, tree in trees.items()}


def find_circle(graph: dict[str, set[str]]) -> list[str]:
    """Modules that import each other in a circle; none if there is no such circle."""
    finished: set[str] = set()

    def visit(module: str, way: list[str]) -> list[str]:
        if module in way:
            return [*way[way.index(module) :], module]
        if module in finished:
            return []
        for below in sorted(graph[module]):
            if circle := visit(below, [*way, module]):
                return circle
        finished.add(module)
        return []

    return next((circle for module in sorted(graph) if (circle := visit(module, []))), [])


def test_every_module_has_a_layer() -> None:
    assert edges().keys() - LAYER_OF.keys() == set()


def test_no_import_goes_up() -> None:
    upward = [
        f"{module} ({LAYER_OF[module]}) imports {below} ({LAYER_OF[below]})"
        for module, belows in edges().items()
        for below in belows
        if LAYER_OF[below] > LAYER_OF[module]
    ]
    assert not upward


def test_no_modules_import_each_other_in_a_circle() -> None:
    assert find_circle(edges()) == []


def test_a_circle_is_found() -> None:
    assert find_circle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c", "b"]


def test_imports_are_read_in_all_their_forms() -> None:
    code = (
        "import crossroot.ui\nfrom crossroot import store\ndef f():\n    from crossroot.distros.alpine import MIRROR\n"
    )
    modules = {"ui", "store", "distros", "distros.alpine"}
    assert imported(ast.parse(code), modules) == {"ui", "store", "distros.alpine"}
