# `make demo` and `make test` set up everything they need on Debian and Ubuntu: as root, or with sudo.
# MIRROR=URL names another Alpine mirror for the demo.

# Without the suffix .py the tools don't find it by themselves.
SCRIPTS = scripts/debian-busybox-mirror scripts/guarantees

.PHONY: demo test lint clean

demo:
	@scripts/setup demo
	@MIRROR="$(MIRROR)" scripts/demo

test: lint
	.venv/bin/pytest

lint:
	@scripts/setup test
	.venv/bin/ruff check . $(SCRIPTS)
	.venv/bin/ruff format --check . $(SCRIPTS)
	.venv/bin/mypy --strict crossroot tests $(SCRIPTS)

clean:
	rm -rf .venv build dist .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -prune -exec rm -rf {} +
