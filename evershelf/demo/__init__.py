"""The main job: the whole circle with the real commands, under load, with parts that break; and a report."""
