"""Airflow: one file per DAG; wiring and a run-book, nothing else."""
