"""Run measurements, all or those that are named, and write bench/RESULTS.md.

    python -m bench [NAME...] [--mirror URL|FOLDER] [--rounds N] [--folder FOLDER] [--results FILE]

Exit status 1 if a goal is missed or a measurement failed in an unexpected way.
"""

import argparse
import importlib
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path

from bench import report
from bench.measure import Crossroot, Result, Setting, Unavailable
from bench.mirror import served
from crossroot.distros import alpine

# Each a module with TITLE and measure(Setting) -> Result, in the order of the page.
MEASUREMENTS = ("enter", "create", "packages", "matrix", "scale", "emulators", "accelerate")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench", description="Measure crossroot against its peers.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(MEASUREMENTS)}; all without any")
    parser.add_argument("--mirror", default="", help="of Alpine: URL, or a folder")
    parser.add_argument("--rounds", type=int, default=9, help="how often each way is measured")
    parser.add_argument("--folder", default="/dev/shm", help="where to work; in memory, the disk hides nothing")
    parser.add_argument("--results", type=Path, default=Path(__file__).with_name("RESULTS.md"))
    options = parser.parse_args()
    if unknown := set(options.names) - set(MEASUREMENTS):
        parser.error(f"there is no measurement {', '.join(sorted(unknown))}; there are {', '.join(MEASUREMENTS)}")
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))  # so that what was made is removed
    start = time.monotonic()
    results: dict[str, Result | str] = {}
    with served(options.mirror or alpine.DEFAULT_MIRROR) as mirror:
        for name in options.names or MEASUREMENTS:
            module = importlib.import_module(f"bench.{name}")
            print(f"bench: {name}", file=sys.stderr, flush=True)
            results[module.TITLE] = _measure(module.measure, mirror, options.rounds, options.folder)
            # Each time, so that an interruption loses only what is under way.
            report.write(options.results, results, time.monotonic() - start)
    print(options.results.read_text())
    ratios = [each for result in results.values() if isinstance(result, Result) for each in result.ratios]
    return 0 if all(each.reached for each in ratios) else 1


def _measure(measure: Callable[[Setting], Result], mirror: str, rounds: int, parent: str) -> Result | str:
    """What a measurement found, or why it found nothing: one that fails must not cost the others."""
    folder = Path(tempfile.mkdtemp(prefix="crossroot-bench-", dir=parent))
    setting = Setting(folder, mirror, rounds)
    try:
        return measure(setting)
    except Unavailable as error:
        return str(error)
    except Exception as error:
        traceback.print_exc()
        return f"it failed: {error!r}"
    finally:
        try:
            Crossroot(setting).clear()
            shutil.rmtree(folder)
        except (Unavailable, OSError) as error:
            print(f"bench: {folder} is left over: {error}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
