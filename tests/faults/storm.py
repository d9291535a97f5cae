"""Faults drawn by seed, done to running jobs; after each the curve is that of a run without any.

    python -m tests.faults.storm [--faults 1000] [--seed 0] [--layouts …] [--kinds …] [--pause 0]

Results are added to output/faults/results.jsonl. A storm that was broken off goes on with the
faults that are missing, as long as neither the program nor the faults have changed.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import sys
import time
import traceback
from pathlib import Path
from typing import Any

from tests.faults.job import LAYOUTS, PATIENCE_SECONDS, Curve, HungError, Job
from tests.faults.kinds import KINDS
from tests.last_change import last_change
from tests.launching import ROOT

OUTPUT = ROOT / "output" / "faults"
RESULTS = OUTPUT / "results.jsonl"
LONGEST_WAIT_SECONDS = 2.0
"""From the last recovery to the next fault, at most."""
STEPS = {1: 600, 2: 400, 3: 300, 4: 300, 8: 150}
"""Of a job, by its processes; then it begins anew."""


class Recovery:
    """What a job's log says of the time since a fault.

    Args:
        before: the lines that it had then.
        now: those that it has.
    """

    def __init__(self, before: list[dict[str, Any]], now: list[dict[str, Any]]) -> None:
        since, run = now[len(before) :], max((line["run"] for line in before), default=0)
        went_back = [
            number
            for number, line in enumerate(since)
            if line["run"] > run or line["kind"] == "rewind"
        ]
        self._has_new_run = any(line["run"] > run for line in since)
        turn = went_back[0] if went_back else 0
        earlier = [*before, *since[:turn]]
        self._reached = max((line["global_step"] for line in _steps(earlier)), default=0)
        self.steps = _steps(since[turn:])

    @property
    def repeated(self) -> int:
        """How many of the steps had been made before."""
        return sum(line["global_step"] <= self._reached for line in self.steps)

    def is_over(self, anew: bool) -> bool:
        """Whether a step has been made that had not been before.

        Args:
            anew: the ranks have formed anew, so that a run of its own must be in the log.
        """
        is_ahead = any(line["global_step"] > self._reached for line in self.steps)
        return is_ahead and (self._has_new_run or not anew)


def _steps(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [line for line in lines if line["kind"] == "step"]


class Storm:
    """The jobs of one layout, one after another, and what they must come to.

    Args:
        pause_seconds: before each fault, at least.
        steps: of a job.
        seconds_before_a_step: that each rank waits, where faults are done.
        spared: the ranks to whose processes no fault is done.
    """

    def __init__(
        self,
        layout: str,
        folder: Path,
        pause_seconds: float,
        steps: int,
        seconds_before_a_step: float = 0.0,
        spared: frozenset[int] = frozenset(),
    ) -> None:
        self.layout = LAYOUTS[layout]
        self.folder = folder
        self.pause_seconds = pause_seconds
        self.steps = steps
        self.seconds_before_a_step = seconds_before_a_step
        self.spared = spared
        self.jobs = 0
        self.job: Job | None = None
        undisturbed = Job(folder / "undisturbed", self.layout, self.steps)
        undisturbed.start()
        try:
            undisturbed.wait_until(
                undisturbed.has_ended,
                "the undisturbed run's end",
                max(PATIENCE_SECONDS, 4.0 * steps),
            )
        finally:
            undisturbed.end()
        self.wanted = Curve.of(undisturbed.output)
        assert len(self.wanted.steps) == self.steps, undisturbed.console.read_text()[-3000:]

    def strike(self, kind: str, seed: int) -> dict[str, Any]:
        """Do one fault, and compare."""
        draw = random.Random(f"{seed} {kind}")
        self._running()
        time.sleep(self.pause_seconds + draw.uniform(0, LONGEST_WAIT_SECONDS))
        job = self._running()  # another one, where those seconds were the last of that job
        newest, lines, formed = job.newest_checkpoint(), job.lines(), job.formations()
        began = time.time()
        problem, recovery = "", Recovery([], lines)
        try:
            KINDS[kind](job, draw)
            job.wait_until(
                lambda: (
                    job.has_ended()
                    or Recovery(lines, job.lines()).is_over(anew=job.formations() > formed)
                ),
                "steps beyond those that were made before the fault",
            )
            recovery = Recovery(lines, job.lines())
            problem = self._problem(job, newest, kind)
        except (HungError, AssertionError) as error:
            problem = str(error) or traceback.format_exc(limit=-1)
        after = [line for line in recovery.steps if line["time"] > began]
        found = {
            "survived": not problem,
            "problem": problem,
            "seconds": after[0]["time"] - began if after else 0.0,
            "repeated": recovery.repeated,
            "launcher": job.launcher_uses(),
            "ranks": job.ranks_use(),
        }
        if problem:
            self.end_job()
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
        self.end_job()
        job = self.job = Job(
            self.folder / f"job-{self.jobs}",
            self.layout,
            self.steps,
            self.seconds_before_a_step,
            self.spared,
        )
        self.jobs += 1
        job.start()
        job.wait_until(lambda: job.newest_checkpoint() > 0, "a first checkpoint")
        return job

    def end_job(self) -> None:
        """End what runs; the next fault is done to a new job."""
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
    """The last commit that changed the package, its operators or the faults."""
    return last_change(
        "llm_pretrain", "external_ops", "tests/faults", "tests/training/flip_bits.py"
    )


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
                    storm.end_job()
                shutil.rmtree(folder / layout, ignore_errors=True)
                steps = STEPS[LAYOUTS[layout].processes]
                storm, of_layout = Storm(layout, folder / layout, pause, steps), layout
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
            storm.end_job()
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
