"""The commit at which something was measured: what came later elsewhere doesn't undo it."""

from __future__ import annotations

import subprocess

from tests.launching import ROOT


def last_change(*rooms: str) -> str:
    """The last commit that changed one of the folders; with a + where the working tree differs
    from it."""

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True
        ).stdout.strip()

    changed = git("status", "--porcelain", "--", *rooms)
    last = git("log", "-1", "--abbrev=12", "--format=%h", "--", *rooms)
    return last + ("+" if changed else "")
