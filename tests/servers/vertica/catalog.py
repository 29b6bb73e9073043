"""What exists: schemas, tables, views, users and what they may do."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass, field

from tests.servers.vertica.kinds import Kind
from tests.servers.vertica.problems import (
    denied_relation,
    denied_schema,
    duplicate_object,
    missing_column,
    missing_relation,
    missing_schema,
)

#: Schemas whose tables are made up when they are asked for.
SYSTEM_SCHEMAS = ("v_catalog", "v_monitor", "v_internal")
TABLE_PRIVILEGES = ("SELECT", "INSERT", "UPDATE", "DELETE", "TRUNCATE", "REFERENCES")
#: DuckDB's schema for the rows of all tables.
ENGINE_SCHEMA = "storage"


@dataclass
class Column:
    """A column of a table."""

    name: str
    kind: Kind
    nullable: bool = True
    default: str | None = None
    identity: bool = False


@dataclass
class Key:
    """A primary key; the original enforces it only where it is enabled."""

    name: str
    columns: tuple[str, ...]
    enabled: bool = False


@dataclass
class Table:
    """A table. `containers` are its ROS containers by partition value, `delete_vectors` come on top."""

    number: int
    schema: str
    name: str
    columns: list[Column]
    owner: str
    key: Key | None = None
    partition: str | None = None
    projection: str = ""
    containers: dict[str, int] = field(default_factory=dict)
    delete_vectors: int = 0
    next_identity: int = 1

    @property
    def full_name(self) -> str:
        """Schema and name."""
        return f"{self.schema}.{self.name}"

    @property
    def engine_name(self) -> str:
        """The DuckDB table with its rows."""
        return f"{ENGINE_SCHEMA}.t{self.number}"

    def column(self, name: str) -> Column:
        """A column by its name, in any case."""
        for column in self.columns:
            if column.name.casefold() == name.casefold():
                return column
        raise missing_column(name)

    def count_containers(self) -> int:
        """ROS containers and delete vectors, as the limit counts them."""
        return sum(self.containers.values()) + self.delete_vectors


@dataclass
class View:
    """A view and its query."""

    number: int
    schema: str
    name: str
    sql: str
    owner: str

    @property
    def full_name(self) -> str:
        """Schema and name."""
        return f"{self.schema}.{self.name}"


@dataclass
class User:
    """Who may log in."""

    name: str
    password: str
    superuser: bool = False
    #: What the password's hash is made by (docs: "Security Algorithm"); NONE is the server's default, SHA512.
    algorithm: str = "NONE"
    expired: bool = False


@dataclass(frozen=True)
class Grant:
    """A privilege on a relation ("schema.name") or on a schema."""

    grantee: str
    privilege: str
    on: str
    kind: str
    grantor: str


def _low(*parts: str) -> tuple[str, ...]:
    return tuple(part.casefold() for part in parts)


class Catalog:
    """Everything that has a name. `change` is held while it changes."""

    def __init__(self) -> None:
        self.change = threading.RLock()
        self.schemas: dict[str, tuple[str, str]] = {"public": ("public", "")}
        self.users: dict[str, User] = {}
        self.grants: list[Grant] = []
        self._relations: dict[tuple[str, ...], Table | View] = {}
        self._numbers = 45035996273704960

    def next_number(self) -> int:
        """A number that nothing had before (an oid)."""
        with self.change:
            self._numbers += 2
            return self._numbers

    def add_user(self, user: User) -> None:
        """Make a user, or give one a new password."""
        with self.change:
            self.users[user.name.casefold()] = user

    def add_schema(self, name: str, owner: str) -> None:
        """Make a schema."""
        with self.change:
            if self.has_schema(name):
                raise duplicate_object(name)
            self.schemas[name.casefold()] = (name, owner)

    def drop_schema(self, name: str) -> None:
        """Drop an empty schema."""
        with self.change:
            del self.schemas[name.casefold()]

    def has_schema(self, name: str) -> bool:
        """Whether there is such a schema."""
        return name.casefold() in self.schemas or name.casefold() in SYSTEM_SCHEMAS

    def schema_of(self, path: tuple[str, ...]) -> str:
        """The schema that a new object of this name goes to."""
        name = path[0] if len(path) == 2 else "public"
        if name.casefold() not in self.schemas:
            raise missing_schema(name)
        return self.schemas[name.casefold()][0]

    def add(self, relation: Table | View) -> None:
        """Make a table or a view."""
        with self.change:
            key = _low(relation.schema, relation.name)
            if key in self._relations:
                raise duplicate_object(relation.name)
            self._relations[key] = relation

    def drop(self, relation: Table | View) -> None:
        """Drop a table or a view, and what was granted on it."""
        with self.change:
            self._relations.pop(_low(relation.schema, relation.name), None)
            on = relation.full_name.casefold()
            self.grants = [grant for grant in self.grants if grant.on != on]

    def find(self, path: tuple[str, ...]) -> Table | View | None:
        """A table or view by its name, with or without schema."""
        return self._relations.get(_low(*path) if len(path) == 2 else _low("public", *path))

    def relation(self, path: tuple[str, ...]) -> Table | View:
        """A table or view by its name; an error when it does not exist."""
        found = self.find(path)
        if found is None:
            if len(path) == 2 and not self.has_schema(path[0]):
                raise missing_schema(path[0])
            raise missing_relation(".".join(path))
        return found

    def table(self, path: tuple[str, ...]) -> Table:
        """A table by its name; an error when there is none."""
        found = self.relation(path)
        if not isinstance(found, Table):
            raise missing_relation(".".join(path))
        return found

    def tables(self) -> Iterator[Table]:
        """All tables."""
        return (each for each in list(self._relations.values()) if isinstance(each, Table))

    def views(self) -> Iterator[View]:
        """All views."""
        return (each for each in list(self._relations.values()) if isinstance(each, View))

    def may(self, user: User, privilege: str, relation: Table | View) -> bool:
        """Whether a user has a privilege on a table or view (not asking for USAGE of its schema)."""
        if user.superuser or relation.owner.casefold() == user.name.casefold():
            return True
        return self._granted(user, privilege, relation.full_name)

    def may_use(self, user: User, schema: str, privilege: str = "USAGE") -> bool:
        """Whether a user has a privilege on a schema; everyone may use `public`."""
        name, owner = self.schemas.get(schema.casefold(), (schema, ""))
        if user.superuser or owner.casefold() == user.name.casefold():
            return True
        if name == "public" and privilege == "USAGE":
            return True
        return self._granted(user, privilege, name)

    def _granted(self, user: User, privilege: str, on: str) -> bool:
        return any(
            grant.privilege == privilege
            and grant.on == on.casefold()
            and grant.grantee in (user.name.casefold(), "public")
            for grant in self.grants
        )

    def check(self, user: User, privilege: str, relation: Table | View) -> None:
        """Raise 42501 when a user lacks a privilege on a table or view, or USAGE of its schema."""
        if not self.may_use(user, relation.schema):
            raise denied_schema(relation.schema)
        if not self.may(user, privilege, relation):
            raise denied_relation(relation.name)

    def check_create(self, user: User, schema: str) -> None:
        """Raise 42501 when a user may not create in a schema."""
        if not self.may_use(user, schema, "CREATE"):
            raise denied_schema(schema)
