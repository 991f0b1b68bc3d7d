"""The cleaning up with which commands that change or list the store begin."""

from crossroot import paths, store, ui


def recover() -> None:
    """Clean up after interrupted commands, and say so."""
    for sentence in store.recover(paths.store()):
        ui.note(sentence)
