"""Learning rates against Megatron's, under the names of docs/from_megatron.md, step by step."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from llm_pretrain.config import TrainingArguments
from llm_pretrain.config.schedule_arguments import learning_rate_at

pytestmark = pytest.mark.peer_megatron

_SCRIPT = Path(__file__).with_name("megatron_schedules.py")
_STEPS, _END, _WARMUP = 110, 100, 10

# Ours, and what Megatron calls it.
CASES: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"lr_scheduler_type": "linear"}, {"lr_decay_style": "linear"}),
    ({"lr_scheduler_type": "cosine"}, {"lr_decay_style": "cosine"}),
    ({"lr_scheduler_type": "constant"}, {"lr_decay_style": "constant"}),
    ({"lr_scheduler_type": "inverse_sqrt"}, {"lr_decay_style": "inverse-square-root"}),
    *(
        (
            {
                "lr_scheduler_type": "warmup_stable_decay",
                "decay_type": ours,
                "decay_ratio": 0.3,
            },
            {"lr_decay_style": "WSD", "lr_wsd_decay_style": theirs, "wsd_decay_steps": 30},
        )
        for ours, theirs in (("linear", "linear"), ("cosine", "cosine"), ("1-sqrt", "minus_sqrt"))
    ),
]


def test_what_is_logged_is_megatrons_rate(megatron_python: Path) -> None:
    same = {"max_lr": 1.0, "min_lr": 0.1, "lr_warmup_steps": _WARMUP, "lr_decay_steps": _END}
    asked = json.dumps([(same | theirs, _STEPS) for _, theirs in CASES])
    command = [str(megatron_python), str(_SCRIPT), asked]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if "No module named 'megatron" in done.stderr:
        pytest.skip(f"{megatron_python} has no megatron-core (make peers)")
    assert done.returncode == 0, done.stderr[-4000:]
    results = json.loads(done.stdout.splitlines()[-1])
    for (ours, _), theirs in zip(CASES, results, strict=True):
        schedule = TrainingArguments(
            output_dir="out",
            max_steps=_STEPS,
            decay_steps=_END,
            warmup_steps=_WARMUP,
            learning_rate=1.0,
            min_learning_rate=0.1,
            **ours,
        )
        # After its decay Megatron's inverse square root falls to the floor at once.
        last = _END if ours["lr_scheduler_type"] == "inverse_sqrt" else _STEPS
        rates = [learning_rate_at(step, schedule) for step in range(1, last + 1)]
        # Megatron takes the rate of the step before, and 0 in the first of a warm-up.
        assert theirs[0] == 0
        assert rates == pytest.approx(theirs[1 : last + 1], abs=1e-12), ours
