"""Which model is the newest."""

import json
import os
from pathlib import Path

from evershelf.models import finished_models


def test_of_one_day_s_models_the_one_that_was_trained_last_comes_first_whatever_was_changed_in_it_since(home: Path) -> None:
    for place, (name, about) in enumerate(
        {
            "2026-01-08-b": {"trained_at": 200.0},
            "2026-01-08-a": {"trained_at": 300.0},
            "2026-01-08-before": {},  # of before that was written: its folder's time
            "2026-01-09-c": {"trained_at": 100.0},
        }.items()
    ):
        folder = home / "models" / name
        folder.mkdir(parents=True)
        (folder / "evaluation.json").write_text(json.dumps(about))
        os.utime(folder, (250, 250) if not about else (1000 - place, 1000 - place))
    assert finished_models() == ["2026-01-09-c", "2026-01-08-a", "2026-01-08-before", "2026-01-08-b"]
