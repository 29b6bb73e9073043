"""The examples that `airflow initdb` of Airflow 1.10.10 creates, unless load_default_connections is off."""

from __future__ import annotations

from .export import AirflowConnection, as_connection

_EXAMPLES = {
    "airflow_db": "mysql://root@mysql/airflow",
    "aws_default": "aws://",
    "azure_container_instances_default": "azure_container_instances://?tenantId=%3CTENANT%3E"
    "&subscriptionId=%3CSUBSCRIPTION+ID%3E",
    "azure_cosmos_default": "azure_cosmos://?database_name=%3CDATABASE_NAME%3E"
    "&collection_name=%3CCOLLECTION_NAME%3E",
    "azure_data_lake_default": "azure_data_lake://?tenant=%3CTENANT%3E&account_name=%3CACCOUNTNAME%3E",
    "beeline_default": "beeline://localhost:10000/default?use_beeline=True&auth=",
    "bigquery_default": "google_cloud_platform:///default",
    "cassandra_default": "cassandra://cassandra:9042",
    "databricks_default": "databricks://localhost",
    "dingding_default": "http://",
    "druid_broker_default": "druid://druid-broker:8082?endpoint=druid%2Fv2%2Fsql",
    "druid_ingest_default": "druid://druid-overlord:8081?endpoint=druid%2Findexer%2Fv1%2Ftask",
    "emr_default": "emr://?Name=default_job_flow_name",
    "fs_default": "fs://?path=%2F",
    "google_cloud_default": "google_cloud_platform:///default",
    "hive_cli_default": "hive_cli:///default",
    "hiveserver2_default": "hiveserver2://localhost:10000/default",
    "http_default": "http://https%3A%2F%2Fwww.httpbin.org%2F",
    "local_mysql": "mysql://airflow:airflow@localhost/airflow",
    "metastore_default": "hive_metastore://localhost:9083?authMechanism=PLAIN",
    "mongo_default": "mongo://mongo:27017",
    "mssql_default": "mssql://localhost:1433",
    "mysql_default": "mysql://root@mysql/airflow",
    "opsgenie_default": "http://",
    "pig_cli_default": "pig_cli:///default",
    "postgres_default": "postgres://postgres:airflow@postgres/airflow",
    "presto_default": "presto://localhost:3400/hive",
    "qubole_default": "qubole://localhost",
    "redis_default": "redis://redis:6379?db=0",
    "segment_default": "segment://?write_key=my-segment-write-key",
    "sftp_default": "sftp://airflow@localhost:22?key_file=~%2F.ssh%2Fid_rsa&no_host_key_check=True",
    "spark_default": "spark://yarn?queue=root.default",
    "sqlite_default": "sqlite://%2Ftmp%2Fsqlite_default.db",
    "sqoop_default": "sqoop://rmdbs",
    "ssh_default": "ssh://localhost",
    "vertica_default": "vertica://localhost:5433",
    "wasb_default": "wasb://?sas_token=None",
    "webhdfs_default": "hdfs://localhost:50070",
}


def is_example(given: AirflowConnection) -> bool:
    """Whether the connection is one of the examples, unchanged."""
    if given.name not in _EXAMPLES or given.trouble:
        return False
    example = as_connection(given.name, _EXAMPLES[given.name])
    if _without_extra(given) != _without_extra(example):
        return False
    extra = {key: str(value) for key, value in given.extra.items()}
    return example.extra.items() <= extra.items() if example.extra else not extra


def _without_extra(given: AirflowConnection) -> tuple[str, ...]:
    return (given.type, given.host, given.port, given.schema, given.login, given.password)
