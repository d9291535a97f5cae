"""Faults drawn by seed, done to running jobs; after each the curve is that of a run without any.

    python -m tests.faults.storm [--faults 1000] [--seed 0] [--layouts …] [--kinds …] [--pause 0]

Results are added to output/faults/results.jsonl. A storm that was broken off goes on with the
faults that are missing, as long as the commit is the same.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from tests.faults.job import LAYOUTS, Curve, HungError, Job
from tests.faults.kinds import KINDS
from tests.launching import ROOT

OUTPUT = ROOT / "output" / "faults"
RESULTS = OUTPUT / "results.jsonl"
LONGEST_WAIT_SECONDS = 2.0
"""From the last recovery to the next fault, at most."""
STEPS = {1: 600, 2: 400, 3: 300, 4: 300, 8: 150}
"""Of a job, by its processes; then it begins anew."""


class Storm:
    """The jobs of one layout, one after another, and what they must come to."""

    def __init__(self, layout: str, folder: Path, pause_seconds: float) -> None:
        self.layout = LAYOUTS[layout]
        self.folder = folder
        self.pause_seconds = pause_seconds
        self.steps = STEPS[self.layout.processes]
        self.jobs = 0
        self.job: Job | None = None
        undisturbed = Job(folder / "undisturbed", self.layout, self.steps)
        undisturbed.start()
        undisturbed.wait_until(undisturbed.has_ended, "the undisturbed run's end")
        self.wanted = Curve.of(undisturbed.output)
        assert len(self.wanted.steps) == self.steps, undisturbed.console.read_text()[-3000:]

    def strike(self, kind: str, seed: int) -> dict[str, Any]:
        """Do one fault, and compare."""
        draw = random.Random(f"{seed} {kind}")
        job = self._running()
        if self.pause_seconds:
            time.sleep(self.pause_seconds)
        time.sleep(draw.uniform(0, LONGEST_WAIT_SECONDS))
        newest, reached = job.newest_checkpoint(), job.last_step()
        lines = job.lines()
        before = max(line["run"] for line in lines)
        began = time.time()
        problem = ""
        try:
            KINDS[kind](job, draw)
            job.wait_until(lambda: job.last_step() > reached or job.has_ended(), "the next step")
            steps = [line for line in job.lines()[len(lines) :] if line["kind"] == "step"]
            problem = self._problem(job, newest, kind)
        except (HungError, AssertionError) as error:
            problem, steps = str(error) or "failed", []
        after = [line for line in steps if line["time"] > began]
        # A job that was started again has made steps when it is back, not while it ended.
        after = [line for line in after if line["run"] > before] or after
        found = {
            "survived": not problem,
            "problem": problem,
            "seconds": after[0]["time"] - began if after else 0.0,
            "repeated": sum(line["global_step"] <= reached for line in after),
            "launcher": job.launcher_uses(),
            "ranks": job.ranks_use(),
        }
        if problem:
            self._begin_anew()
        return found

    def _problem(self, job: Job, newest: int, kind: str) -> str:
        """What is wrong after a fault; "" if nothing is."""
        if job.has_ended() and job.process is not None and job.process.returncode:
            return (
                f"it ended with status {job.process.returncode}: {job.console.read_text()[-2000:]}"
            )
        found = Curve.of(job.output).steps
        if found != self.wanted.steps[: len(found)]:
            differing = [
                (one, other)
                for one, other in zip(found, self.wanted.steps, strict=False)
                if one != other
            ]
            return f"{len(differing)} of {len(found)} steps differ, the first as {differing[:1]}"
        is_damage = kind in ("file torn", "bit flipped on disk", "file unreadable")
        if not is_damage and job.newest_checkpoint() < newest:
            return f"the checkpoint of step {newest} is lost"
        return ""

    def _running(self) -> Job:
        """A job that trains, and has steps left."""
        job = self.job
        if job is not None and not job.has_ended() and job.last_step() < self.steps - 20:
            return job
        self._begin_anew()
        job = self.job = Job(self.folder / f"job-{self.jobs}", self.layout, self.steps)
        self.jobs += 1
        job.start()
        job.wait_until(lambda: job.newest_checkpoint() > 0, "a first checkpoint")
        return job

    def _begin_anew(self) -> None:
        if self.job is not None:
            self.job.end()
            self.job = None


def drawn(faults: int, seed: int, layouts: list[str], kinds: list[str]) -> list[tuple[str, str]]:
    """Layout and kind of each fault: every pair as often as every other, give or take one."""
    pairs = [(layout, kind) for layout in layouts for kind in kinds]
    order = [pairs[number % len(pairs)] for number in range(faults)]
    random.Random(seed).shuffle(order)
    # Layout by layout, so that jobs are few.
    return sorted(order, key=lambda pair: layouts.index(pair[0]))


def commit() -> str:
    words = ["git", "describe", "--always", "--abbrev=12", "--dirty", "--exclude=*"]
    return subprocess.run(
        words, cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.strip()


def run(faults: int, seed: int, layouts: list[str], kinds: list[str], pause: float) -> int:
    """Do the faults that are missing; how many were not survived."""
    OUTPUT.mkdir(parents=True, exist_ok=True)
    now = commit()
    known = [line for line in results() if (line["commit"], line["seed"]) == (now, seed)]
    done = {(line["number"], line["layout"], line["kind"]) for line in known}
    plan = [
        (number, layout, kind)
        for number, (layout, kind) in enumerate(drawn(faults, seed, layouts, kinds))
        if (number, layout, kind) not in done
    ]
    failed = 0
    storm, of_layout = None, ""
    folder = OUTPUT / "jobs"
    try:
        for number, layout, kind in plan:
            if storm is None or layout != of_layout:
                if storm is not None:
                    storm._begin_anew()
                shutil.rmtree(folder / layout, ignore_errors=True)
                storm, of_layout = Storm(layout, folder / layout, pause), layout
            found = storm.strike(kind, seed + number)
            failed += not found["survived"]
            entry = {"commit": now, "seed": seed, "number": number, "layout": layout, "kind": kind}
            with RESULTS.open("a") as file:
                file.write(json.dumps({**entry, **found}) + "\n")
            verdict = "" if found["survived"] else f" NOT SURVIVED: {found['problem']}"
            print(
                f"{number + 1} of {faults}: {layout}, {kind}: next step after "
                f"{found['seconds']:.1f} s, {found['repeated']} repeated{verdict}",
                flush=True,
            )
    finally:
        if storm is not None:
            storm._begin_anew()
    return failed


def results() -> list[dict[str, Any]]:
    if not RESULTS.exists():
        return []
    return [json.loads(line) for line in RESULTS.read_text().splitlines()]


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--faults", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--layouts", default=";".join(LAYOUTS), help="separated by semicolons")
    parser.add_argument("--kinds", default=";".join(KINDS), help="separated by semicolons")
    parser.add_argument("--pause", type=float, default=0.0, help="seconds before each fault")
    given = parser.parse_args()
    layouts, kinds = given.layouts.split(";"), given.kinds.split(";")
    failed = run(given.faults, given.seed, layouts, kinds, given.pause)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
