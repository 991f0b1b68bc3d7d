# `make demo`, `make test` and `make bench` set up everything they need on Debian and Ubuntu: as root, or with sudo.
# MIRROR=URL names another Alpine mirror for the demo and the measurements, for these also a folder with one.
# `make test-long` is what takes minutes or repeats much: kills, fuzzing, full disks, builds in Debian roots; SEED=random,
# or a number, chooses other moments and inputs than CI does. `make test-exhaustive`: blows at every system call, and load.

# Without the suffix .py the tools don't find it by themselves.
SCRIPTS = scripts/debian-busybox-mirror scripts/guarantees

SEED = 1

.PHONY: demo test test-long test-exhaustive bench lint clean

demo:
	@scripts/setup demo
	@MIRROR="$(MIRROR)" scripts/demo

test: lint
	.venv/bin/pytest

test-long: lint
	.venv/bin/pytest -m long --seed=$(SEED)

test-exhaustive: lint
	.venv/bin/pytest -m exhaustive --seed=$(SEED)

bench:
	@scripts/setup bench
	.venv/bin/python -m bench --mirror "$(MIRROR)"

lint:
	@scripts/setup test
	.venv/bin/ruff check . $(SCRIPTS)
	.venv/bin/ruff format --check . $(SCRIPTS)
	.venv/bin/mypy --strict --scripts-are-modules crossroot tests bench $(SCRIPTS)

clean:
	rm -rf .venv build dist .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -prune -exec rm -rf {} +
