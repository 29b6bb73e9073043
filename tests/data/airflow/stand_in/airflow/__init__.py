"""What the export script uses of Airflow 1.10.10, by its airflow/models/connection.py, variable.py and crypto.py."""
