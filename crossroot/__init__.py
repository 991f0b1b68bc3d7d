"""crossroot: a working userland of another CPU architecture, in one command."""

__version__ = "0.1.0"
