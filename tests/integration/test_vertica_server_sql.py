"""The SQL of the server with Vertica's protocol: definitions, catalog, privileges, functions."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from vertica_python import errors

from tests.integration.vertica_kit import ask, connected, fails
from tests.servers.vertica import VerticaServer


@pytest.fixture(scope="module")
def server() -> Iterator[VerticaServer]:
    with VerticaServer() as server:
        server.execute(
            """
            CREATE SCHEMA stage;
            CREATE TABLE stage.orders (
                id INTEGER NOT NULL, customer VARCHAR, amount DECIMAL(18, 2), at TIMESTAMP WITHOUT TIME ZONE,
                note LONG VARCHAR, code CHAR(3) DEFAULT 'abc', hash_id BIGINT,
                CONSTRAINT orders_key PRIMARY KEY (id) DISABLED
            ) ORDER BY id SEGMENTED BY HASH(id) ALL NODES KSAFE 0 PARTITION BY at::DATE;
            INSERT INTO stage.orders VALUES (1, 'Анна', 1.5, '2020-07-14 10:00:00', 'n', 'x', 1);
            INSERT INTO stage.orders (id, customer, at) VALUES (2, 'a_b', '2020-07-15');
            """
        )
        server.create_user("reader", "Secret_1")
        yield server


@pytest.fixture
def one(server: VerticaServer) -> Iterator[Any]:
    with connected(server) as connection:
        yield connection


@pytest.fixture
def reader(server: VerticaServer) -> Iterator[Any]:
    with connected(server, user="reader", password="Secret_1") as connection:
        yield connection


_QUERIES = {
    "SELECT id FROM stage.orders WHERE at >= '2020-07-14 00:00:00' AND at < '2020-07-15 00:00:00'": [[1]],
    "SELECT o.ID AS n, UPPER(o.customer) FROM Stage.Orders o WHERE O.id IN (2, 3)": [[2, "A_B"]],
    "SELECT stage.orders.id FROM stage.orders WHERE stage.orders.id = 1": [[1]],
    "SELECT COUNT(*), MAX(at::DATE)::VARCHAR, COALESCE(MIN(amount), 0)::INT FROM stage.orders": [[2, "2020-07-15", 2]],
    "SELECT customer, COUNT(*) FROM stage.orders GROUP BY 1 HAVING COUNT(*) > 1": [],
    "SELECT a.id FROM stage.orders a JOIN stage.orders b ON a.id = b.id + 1 ORDER BY a.id DESC LIMIT 1": [[2]],
    "SELECT id FROM stage.orders WHERE customer LIKE 'a\\_b'": [[2]],
    "SELECT id FROM stage.orders WHERE customer ILIKE 'A#_B' ESCAPE '#'": [[2]],
    "WITH w AS (SELECT id FROM stage.orders) SELECT SUM(id) FROM w": [[3]],
    "SELECT id FROM stage.orders WHERE id NOT IN (SELECT id FROM stage.orders WHERE amount IS NULL)": [[1]],
    "SELECT code, OCTET_LENGTH(customer), LENGTH(customer) FROM stage.orders WHERE id = 1": [["x  ", 8, 4]],
    "SELECT TO_HEX(255), TO_HEX(HEX_TO_BINARY('0x00ff')), CHR(65), HEX_TO_BINARY('6162')": [["ff", "00ff", "A", b"ab"]],
    "SELECT E'a\\nb\\001', 'it''s', $$a'b$$": [["a\nb\x01", "it's", "a'b"]],
    "SELECT 'Привет'::VARCHAR(3), 1/2, NVL(NULL, 7), 'a' || 'b'": [["П", 0.5, 7, "ab"]],
    "SELECT * FROM (SELECT 1 AS a UNION ALL SELECT 2) q WHERE EXISTS (SELECT 1 FROM dual) ORDER BY a": [[1], [2]],
    "SELECT CURRENT_USER, CURRENT_SCHEMA(), CURRENT_DATABASE() /* x */ -- y": [["dbadmin", "public", "docker"]],
}  # fmt: skip


@pytest.mark.parametrize("sql", _QUERIES)
def test_queries(one: Any, sql: str) -> None:
    assert ask(one, sql) == _QUERIES[sql]


_WRONG = {
    "SELECT nosuch FROM stage.orders": ("42703", 2624),
    "SELECT * FROM stage.nosuch": ("42V01", 4566),
    "SELECT * FROM nosuch.orders": ("3F000", 4650),
    "SELECT nosuch(1)": ("42883", 3457),
    "SELECT FROM WHERE": ("42601", 4856),
    "FOO BAR": ("42601", 4856),
    "SELECT a FROM (SELECT 1 AS a)": ("42601", 4856),
    "SELECT a || a FROM (SELECT CAST('x' AS VARCHAR(40000)) AS a) AS q": ("54000", 4283),
    "SELECT LOWER(CAST('x' AS VARCHAR(32501)))": ("54000", 3460),
    "SELECT TO_HEX(CAST('x' AS VARBINARY(32501)))": ("54000", 3460),
    "INSERT INTO stage.orders (id) VALUES ('x')": ("22V02", 3681),
    "INSERT INTO stage.orders (id) VALUES (NULL)": ("22004", 2501),
    "INSERT INTO stage.orders (id, customer) VALUES (3, REPEAT('я', 41))": ("22001", 8682),
    "INSERT INTO stage.orders (id, nosuch) VALUES (3, 1)": ("42703", 2624),
    "INSERT INTO stage.orders (id) SELECT -9223372036854775808": ("22003", 5411),
    "INSERT INTO stage.orders (id, amount) VALUES (3, 99999999999999999)": ("22003", 5411),
    "INSERT INTO stage.orders (id, at) VALUES (3, '2020-02-30')": ("22008", 2992),
    "CREATE TABLE stage.orders (a INT)": ("42710", 4213),
    "CREATE TABLE nosuch.t (a INT)": ("3F000", 4650),
    "CREATE TABLE t (a NOSUCH)": ("42704", 5108),
    "CREATE TABLE t (a INT) STORED AS ORC": ("42601", 4856),
    "CREATE TABLE t (a VARCHAR(65001))": ("22023", 4800),
    "CREATE SCHEMA stage": ("42710", 4213),
    "DROP TABLE nosuch": ("42V01", 4566),
    "DROP SCHEMA stage": ("2BV01", 3128),
    "SET TIME ZONE TO 'Moon'": ("22023", 5446),
}  # fmt: skip


@pytest.mark.parametrize("sql", _WRONG)
def test_errors_have_their_numbers(one: Any, sql: str) -> None:
    with fails(*_WRONG[sql]):
        ask(one, sql)
    assert ask(one, "SELECT 1") == [[1]]


def test_columns_of_the_catalog(one: Any) -> None:
    found = ask(
        one,
        "SELECT column_name, data_type, data_type_length, numeric_precision, numeric_scale, is_nullable "
        "FROM v_catalog.columns WHERE table_schema = 'stage' AND table_name ILIKE 'ORDERS' ORDER BY ordinal_position",
    )
    assert found == [
        ["id", "int", 8, None, None, False],
        ["customer", "varchar(80)", 80, None, None, True],
        ["amount", "numeric(18,2)", 8, 18, 2, True],
        ["at", "timestamp", 8, None, None, True],
        ["note", "long varchar(1048576)", 1048576, None, None, True],
        ["code", "char(3)", 3, None, None, True],
        ["hash_id", "int", 8, None, None, True],
    ]


def test_other_catalog_tables(server: VerticaServer, one: Any) -> None:
    server.execute("CREATE TABLE stage.keyed (a INT, b INT, PRIMARY KEY (a, b) ENABLED)")
    sql = "SELECT table_name, column_name, is_enabled FROM v_catalog.primary_keys WHERE is_enabled"
    assert sorted(ask(one, sql)) == [["keyed", "a", True], ["keyed", "b", True]]
    sql = "SELECT DISTINCT is_nullable FROM v_catalog.columns WHERE table_name = 'keyed'"
    assert ask(one, sql) == [[False]]
    assert ask(one, "SELECT table_name FROM v_catalog.tables ORDER BY 1") == [["keyed"], ["orders"]]
    assert ["stage"] in ask(one, "SELECT schema_name FROM v_catalog.schemata")
    sql = "SELECT projection_name FROM v_catalog.projections WHERE anchor_table_name = 'orders'"
    assert ask(one, sql) == [["stage.orders_super"]]
    sql = "SELECT c.constraint_name, c.is_enabled FROM v_catalog.table_constraints c WHERE c.table_name = 'orders'"
    assert ask(one, sql) == [["orders_key", False]]
    assert ask(one, "SELECT VERSION()")[0][0].startswith("Vertica Analytic Database")
    server.execute("DROP TABLE stage.keyed")


def test_tables_from_others(server: VerticaServer, one: Any) -> None:
    ask(one, "CREATE TABLE stage.copied LIKE stage.orders INCLUDING PROJECTIONS")
    assert ask(one, "INSERT INTO stage.copied SELECT * FROM stage.orders") == [[2]]
    one.rollback()
    assert ask(one, "SELECT COUNT(*) FROM stage.copied") == [[0]]
    ask(one, "ALTER TABLE stage.copied ADD COLUMN IF NOT EXISTS extra VARCHAR(5) DEFAULT 'new'")
    ask(one, "INSERT INTO stage.copied (id) VALUES (1)")
    assert ask(one, "SELECT extra, code FROM stage.copied") == [["new", "abc"]]
    ask(one, "CREATE TABLE stage.made AS SELECT id, customer FROM stage.orders")
    assert ask(one, "SELECT id FROM stage.made ORDER BY id") == [[1], [2]]
    sql = "SELECT data_type FROM v_catalog.columns WHERE table_name = 'made' ORDER BY ordinal_position"
    assert ask(one, sql) == [["int"], ["varchar(80)"]]
    ask(one, "CREATE OR REPLACE VIEW stage.seen AS SELECT id + 1 AS next FROM stage.orders")
    assert ask(one, "SELECT * FROM stage.seen ORDER BY next") == [[2], [3]]
    ask(one, "DROP VIEW stage.seen")
    ask(one, "DROP TABLE IF EXISTS stage.copied, stage.made CASCADE")
    assert ask(one, "SELECT COUNT(*) FROM v_catalog.tables") == [[1]]


def test_a_text_column_changes_its_width(server: VerticaServer, one: Any) -> None:
    ask(one, "CREATE TABLE stage.cut (id INT PRIMARY KEY, word VARCHAR(4), at TIMESTAMP)")
    ask(one, "INSERT INTO stage.cut VALUES (1, 'abcd', NULL)")
    one.commit()
    ask(one, "ALTER TABLE stage.cut ALTER COLUMN word SET DATA TYPE VARCHAR(6)")
    ask(one, "INSERT INTO stage.cut VALUES (2, 'abcdef', NULL)")
    one.commit()
    sql = "SELECT data_type FROM v_catalog.columns WHERE table_name = 'cut' AND column_name = 'word'"
    assert ask(one, sql) == [["varchar(6)"]]
    with fails("22001", 2378):
        ask(one, "ALTER TABLE stage.cut ALTER COLUMN word SET DATA TYPE VARCHAR(5)")
    for column, kind in (("word", "INT"), ("at", "DATE"), ("id", "NUMERIC(18,0)")):
        with fails("42804", 2377):
            ask(one, f"ALTER TABLE stage.cut ALTER COLUMN {column} SET DATA TYPE {kind}")
    assert ask(one, sql) == [["varchar(6)"]]
    server.execute("DROP TABLE stage.cut")


def test_identity_counts(one: Any) -> None:
    ask(one, "CREATE TABLE counted (id IDENTITY, a INT)")
    ask(one, "INSERT INTO counted (a) SELECT 7 UNION ALL SELECT 8")
    assert ask(one, "SELECT id FROM counted ORDER BY id") == [[1], [2]]
    ask(one, "DROP TABLE counted")


def test_privileges(server: VerticaServer, one: Any, reader: Any) -> None:
    assert ask(reader, "SELECT COUNT(*) FROM v_catalog.tables") == [[0]]
    with fails("42501", 4368):
        ask(reader, "SELECT * FROM stage.orders")
    ask(one, "GRANT USAGE ON SCHEMA stage TO reader")
    with fails("42501", 4367):
        ask(reader, "SELECT * FROM stage.orders")
    ask(one, "GRANT SELECT ON TABLE stage.orders TO reader")
    assert ask(reader, "SELECT COUNT(*) FROM stage.orders") == [[2]]
    for sql in ("DELETE FROM stage.orders", "TRUNCATE TABLE stage.orders", "DROP TABLE stage.orders"):
        with fails("42501", 4367):
            ask(reader, sql)
    with pytest.raises(errors.PermissionDenied):
        reader.cursor().copy("COPY stage.orders FROM STDIN", "")
    with fails("42501", 4368):
        ask(reader, "CREATE TABLE stage.mine (a INT)")
    sql = (
        "SELECT HAS_TABLE_PRIVILEGE('stage.orders', 'SELECT'), HAS_TABLE_PRIVILEGE('stage.orders', 'INSERT')"
    )
    assert ask(reader, sql) == [[True, False]]
    assert ask(one, "SELECT HAS_TABLE_PRIVILEGE('reader', 'stage.orders', 'DELETE')") == [[False]]
    sql = (
        "SELECT privileges_description, object_name FROM v_catalog.grants WHERE grantee = 'reader' ORDER BY 1"
    )
    assert ask(one, sql) == [["SELECT", "orders"], ["USAGE", "stage"]]
    ask(one, "CREATE VIEW stage.seen AS SELECT id FROM stage.orders")
    ask(one, "GRANT SELECT ON stage.seen TO reader")
    ask(one, "REVOKE SELECT ON stage.orders FROM reader")
    # A view reads with the privileges of its owner.
    assert ask(reader, "SELECT COUNT(*) FROM stage.seen") == [[2]]
    ask(one, "DROP VIEW stage.seen")
    with fails("42501", 4367):
        ask(reader, "SELECT * FROM stage.orders")


def test_the_back_doors(server: VerticaServer) -> None:
    server.execute("CREATE TABLE many (a INT, b VARCHAR(10))")
    server.duckdb("INSERT INTO many SELECT range, 'x' || range FROM range(1000)")
    assert server.duckdb("SELECT count(*), max(b) FROM many WHERE a < ?", [10]) == [(10, "x9")]
    assert server.execute("SELECT COUNT(*) FROM many; SELECT MAX(a) FROM many") == [(999,)]
    assert server.containers("many") == 1
    server.execute("DROP TABLE many")


def test_a_name_has_at_most_128_octets(one: Any) -> None:
    ask(one, f'SELECT 1 AS "{"я" * 64}"')
    with fails("42622"):
        ask(one, f'SELECT 1 AS "{"я" * 64}x"')
