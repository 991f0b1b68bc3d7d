"""Fuzz one target with libFuzzer, guided by coverage: python -m tests.fuzz TARGET FOLDER [options of libFuzzer]

FOLDER collects inputs that reach new code; what makes the target fail is written to the current folder.
"""

import sys
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["crossroot", "tarfile", "yaml"]):
    from tests.fuzz import targets


def main() -> None:
    name, folder = sys.argv[1], Path(sys.argv[2])
    target = targets.TARGETS[name]
    for number, data in enumerate([*target.seeds, *targets.kept(name)]):
        (folder / f"seed-{number}").write_bytes(data)
    atheris.Setup([sys.argv[0], str(folder), *sys.argv[3:]], target)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
