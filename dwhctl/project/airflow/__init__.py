"""Moving over from Airflow: its exported connections and variables become tables of the configuration."""
