"""The launcher in a root's folder: `enter`, which opens a session there without the start-up of an installed command.

It knows its root by where it lies, so the same text serves a root that is renamed or copied. Python is started without
site, which takes as long as half a session's set-up; where crossroot and its libraries are is written into it.
"""

import os
import sys
from pathlib import Path

from crossroot import __version__

NAME = "enter"

_LONGEST_SHEBANG = 120  # bytes; the kernel's limit is 127 up to Linux 5.0, BINPRM_BUF_SIZE

_TEXT = """\
{start}
# Written by crossroot {version}. Like `crossroot run` and `crossroot shell` for the root in this folder:
#   enter [OPTIONS] CMD...    runs a command
#   enter [OPTIONS]           opens a shell
import os
import sys

folder = os.path.dirname(os.path.realpath(__file__))
sys.path += {path}
try:
    from crossroot import cli
except ImportError as error:
    sys.stderr.write(f"crossroot: error: the crossroot that made this launcher is gone: {{error}}\\n")
    sys.stderr.write(f"  hint: crossroot run {{os.path.basename(folder)}} -- CMD\\n")
    sys.exit(125)
os._exit(cli.enter(folder, sys.argv[1:]))
"""


def write(folder: Path) -> None:
    """Write the launcher into the folder of a root. Raises OSError."""
    file = folder / NAME
    file.unlink(missing_ok=True)
    file.write_text(_TEXT.format(start=_start(sys.executable), version=__version__, path=_search_path()))
    file.chmod(0o755)


def _start(python: str) -> str:
    """The first lines, by which the kernel finds the interpreter."""
    shebang = f"#!{python} -IS"
    if len(os.fsencode(shebang)) <= _LONGEST_SHEBANG and not set(python) & set(" \t\n"):
        return shebang
    import shlex  # hardly ever needed

    # For sh a command, for Python a text that nobody reads.
    return f"#!/bin/sh\n'''exec' {shlex.quote(python)} -IS \"$0\" \"$@\"\n'''"


def _search_path() -> list[str]:
    """Where modules are found, without what Python knows by itself."""
    package = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    library = os.path.dirname(os.__file__)
    others = [
        os.path.abspath(entry)
        for entry in sys.path
        if os.path.isdir(entry) and not (entry == library or entry == os.path.join(library, "lib-dynload"))
    ]
    return list(dict.fromkeys([package, *others]))
