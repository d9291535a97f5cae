"""Learning rates against those of transformers, step by step."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from llm_pretrain.config import TrainingArguments
from llm_pretrain.config.schedule_arguments import learning_rate_at

pytestmark = pytest.mark.peer_transformers

_SCRIPT = Path(__file__).with_name("transformers_schedules.py")
_STEPS = 120

# Ours, and the function of transformers with its arguments. It has no floor but in its
# warmup_stable_decay, where the warm-up begins at the floor: there is none in that case.
CASES: list[tuple[dict[str, Any], str, dict[str, Any]]] = [
    (
        {"lr_scheduler_type": "cosine_with_restarts", "num_cycles": 3, "warmup_steps": 10},
        "get_cosine_with_hard_restarts_schedule_with_warmup",
        {"num_warmup_steps": 10, "num_training_steps": 100, "num_cycles": 3},
    ),
    (
        {"lr_scheduler_type": "inverse_sqrt", "warmup_steps": 10},
        "get_inverse_sqrt_schedule",
        {"num_warmup_steps": 10},
    ),
    (
        {"lr_scheduler_type": "constant", "warmup_steps": 10},
        "get_constant_schedule_with_warmup",
        {"num_warmup_steps": 10},
    ),
    *(
        (
            {
                "lr_scheduler_type": "warmup_stable_decay",
                "decay_type": shape,
                "decay_ratio": 0.3,
                "min_learning_rate": lowest,
                "warmup_steps": warmup,
            },
            "get_wsd_schedule",
            {
                "num_warmup_steps": warmup,
                "num_stable_steps": 70 - warmup,
                "num_decay_steps": 30,
                "min_lr_ratio": lowest,
                "decay_type": shape,
            },
        )
        for shape in ("linear", "cosine", "1-sqrt")
        for lowest, warmup in ((0.0, 10), (0.1, 0))
    ),
]


def test_every_rate_is_that_of_transformers(transformers_python: Path) -> None:
    asked = json.dumps([(name, arguments, _STEPS) for _, name, arguments in CASES])
    command = [str(transformers_python), str(_SCRIPT), asked]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    for (ours, name, _), theirs in zip(CASES, json.loads(done.stdout), strict=True):
        schedule = TrainingArguments(
            **{
                "output_dir": "out",
                "max_steps": _STEPS,
                "decay_steps": 100,
                "learning_rate": 1.0,
                "min_learning_rate": 0.0,
                **ours,
            }
        )
        rates = [learning_rate_at(step, schedule) for step in range(1, _STEPS + 1)]
        assert rates == pytest.approx(theirs, abs=1e-12), (name, ours)
