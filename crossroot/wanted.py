"""Which emulator a caller insists on, as plain data."""

from __future__ import annotations

from crossroot.record import Record


class Wanted(Record):
    """source: path or URL of an emulator, "" for any. sha256: what a URL must give. version: see
    `emulator.satisfies`; it does not hold for a `source`."""

    source: str = ""
    sha256: str = ""
    version: str = ""


ANY = Wanted()
