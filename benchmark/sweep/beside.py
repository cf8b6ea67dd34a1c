"""Another commit of this repository, run on this machine beside the working tree."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmark.errors import UserError
from benchmark.record.provenance import ROOT


def has_commit(sha: str) -> bool:
    """Whether the working tree's repository has this commit."""
    top = _git("rev-parse", "--show-toplevel")
    ours = top.returncode == 0 and Path(top.stdout.strip()).resolve() == ROOT
    return ours and _git("cat-file", "-e", f"{sha}^{{commit}}").returncode == 0


def made_by(sha: str, argv: Sequence[str], results: Path) -> Path:
    """Make a run by the code of a commit; returns its folder below ``results``.

    Raises:
        UserError: the commit cannot be checked out, or its code refuses the run or fails.
    """
    with _checked_out(sha) as tree:
        command = [sys.executable, "-m", "benchmark", "run", *argv, "--results", str(results), "--quiet=true"]
        environment = os.environ | {"PYTHONPATH": str(tree)}
        done = subprocess.run(command, cwd=tree, env=environment, capture_output=True, text=True, check=False)
    found = sorted(results.glob("runs/*/*/*/*/run.json"))
    if done.returncode != 0 or not found:
        lines = done.stderr.strip().splitlines() or ["it left no record"]
        raise UserError(f"commit {sha[:12]} cannot make the run here: {lines[-1].removeprefix('error: ')}")
    return found[0].parent


@contextmanager
def _checked_out(sha: str) -> Iterator[Path]:
    """Inside, the commit stands in a git worktree of its own."""
    with TemporaryDirectory(prefix="mbil-beside-") as folder:
        tree = Path(folder) / "tree"
        added = _git("worktree", "add", "--quiet", "--detach", str(tree), sha)
        if added.returncode != 0:
            raise UserError(f"commit {sha[:12]} cannot be checked out: {' '.join(added.stderr.split())}")
        try:
            yield tree
        finally:
            _git("worktree", "remove", "--force", str(tree))


def _git(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = ["git", "-C", str(ROOT), *arguments]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        return subprocess.CompletedProcess(command, 1, "", str(error))
