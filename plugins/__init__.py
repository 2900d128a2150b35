"""Airflow: operators. Airflow imports every file here, so imports stay light."""
