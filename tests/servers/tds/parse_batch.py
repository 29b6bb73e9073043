"""Parse a batch of T-SQL: statements, with or without semicolons between them."""

from __future__ import annotations

from .errors import error
from .lexer import Token
from .options import SWITCHES, VALUES
from .parse_query import QueryParser
from .syntax import Expr, Literal, Name, Parts
from .syntax_statements import (
    Action,
    AlterDatabase,
    ColumnDef,
    Command,
    CreateDatabase,
    CreateTable,
    Delete,
    DropDatabase,
    DropTable,
    Execute,
    If,
    Insert,
    Nothing,
    Print,
    Raise,
    SetOption,
    SetVariable,
    Transaction,
    Truncate,
    Update,
    Use,
    WaitFor,
)


class BatchParser(QueryParser):
    """Statements."""

    def batch(self) -> list[Command]:
        """Every statement to the end."""
        found: list[Command] = []
        while self.next.kind != "end":
            if not self.op(";"):
                found.append(self.command())
        return found

    def command(self) -> Command:
        """One statement."""
        start = self.next.at
        action = self._action()
        end = self.all[self.at - 1]
        self.op(";")
        return Command(action, self.sql[start : end.at + len(end.text)])

    def _action(self) -> Action:
        token = self.next
        if token.kind == "word":
            if token.value in ("SELECT", "WITH"):
                return self.query()
            known = getattr(self, f"_do_{token.value.lower()}", None)
            if known is not None:
                self.at += 1
                action: Action = known()
                return action
        if token.kind == "op" and token.value == "(":
            return self.query()
        if self.at == 0 and token.kind in ("word", "name") and not token.reserved:
            # The first statement of a batch may call a procedure without EXEC.
            return self._do_exec()
        raise token.near()

    def _do_use(self) -> Action:
        return Use(self.identifier())

    def _do_begin(self) -> Action:
        if self.word("TRAN") or self.word("TRANSACTION"):
            self._transaction_name()
            return Transaction("BEGIN")
        commands: list[Command] = []
        while not self.word("END"):
            if not self.op(";"):
                commands.append(self.command())
        return If(_TRUE, tuple(commands))

    def _do_commit(self) -> Action:
        if self.word("TRAN") or self.word("TRANSACTION") or self.word("WORK"):
            self._transaction_name()
        return Transaction("COMMIT")

    def _do_rollback(self) -> Action:
        if self.word("TRAN") or self.word("TRANSACTION") or self.word("WORK"):
            self._transaction_name()
        return Transaction("ROLLBACK")

    def _transaction_name(self) -> None:
        if self.next.kind == "name" or (self.next.kind == "word" and not self.next.reserved):
            self.at += 1

    def _do_if(self) -> Action:
        condition = self.predicate()
        then = self._body()
        return If(condition, then, self._body() if self.word("ELSE") else ())

    def _body(self) -> tuple[Command, ...]:
        command = self.command()
        if isinstance(command.action, If) and command.action.condition is _TRUE:
            return command.action.then
        return (command,)

    def _do_waitfor(self) -> Action:
        self.need_word("DELAY")
        return WaitFor(self.expr())

    def _do_print(self) -> Action:
        return Print(self.expr())

    def _do_raiserror(self) -> Action:
        return Raise(self.in_parentheses(self.expr), "RAISERROR")

    def _do_throw(self) -> Action:
        return Raise(self.listed(self.expr) if self.next.kind in ("number", "variable") else (), "THROW")

    def _do_execute(self) -> Action:
        return self._do_exec()

    def _do_exec(self) -> Action:
        if self.is_op("("):
            text = self.in_parentheses(self.expr)
            return Execute("EXEC", ((None, text[0]),))
        result = None
        if self.next.kind == "variable" and self.ahead().text == "=":
            result = self.take().value
            self.need_op("=")
        procedure = ".".join(self.parts()).lower()
        arguments: list[tuple[str | None, Expr]] = []
        while self.next.kind in ("string", "nstring", "number", "variable", "binary", "name") or (
            # A bare word is a text.
            self.is_word("NULL", "DEFAULT")
            or self.is_op("-")
            or (self.next.kind == "word" and not self.next.reserved)
        ):
            arguments.append(self._argument())
            if not self.op(","):
                break
        return Execute(procedure, tuple(arguments), result)

    def _argument(self) -> tuple[str | None, Expr]:
        if self.next.kind == "variable" and self.ahead().text == "=":
            name = self.take().value
            self.need_op("=")
            return name, self.expr()
        found = self.expr()
        return None, Literal("nstring", found.parts[-1]) if isinstance(found, Name) else found

    def _do_declare(self) -> Action:
        commands = self.listed(self._declared)
        if len(commands) == 1:
            return commands[0].action
        return If(_TRUE, commands)

    def _declared(self) -> Command:
        token = self.take()
        if token.kind != "variable":
            raise token.near()
        self.word("AS")
        kind = self.type_name()
        value = self.expr() if self.op("=") else None
        return Command(SetVariable(token.value, value, kind), "")

    def _do_set(self) -> Action:
        token = self.take()
        if token.kind == "variable":
            self.need_op("=")
            return SetVariable(token.value, self.expr())
        if token.value == "TRANSACTION":
            self.need_word("ISOLATION", "LEVEL")
            return SetOption("TRANSACTION ISOLATION LEVEL", self._isolation())
        if token.value == "IDENTITY_INSERT":
            table = ".".join(self.parts())
            return SetOption("IDENTITY_INSERT", f"{table} {self._on_off()}")
        if token.value == "STATISTICS":
            self.take()
            return SetOption("STATISTICS", self._on_off())
        names = [token.value]
        while self.op(","):
            names.append(self.take().value)
        if token.value in VALUES:
            return SetOption(token.value, self._set_value())
        unknown = next((name for name in names if name not in SWITCHES), None)
        if unknown is not None:
            raise error(195, unknown, "SET option")
        return SetOption(",".join(names), self._on_off())

    def _on_off(self) -> str:
        if self.word("ON"):
            return "ON"
        self.need_word("OFF")
        return "OFF"

    def _set_value(self) -> str:
        sign = "-" if self.op("-") else ""
        token = self.take()
        if token.kind not in ("word", "number", "variable", "string", "nstring", "binary"):
            raise token.near()
        return sign + token.value

    def _isolation(self) -> str:
        for words in (("READ", "UNCOMMITTED"), ("READ", "COMMITTED"), ("REPEATABLE", "READ"), ("SNAPSHOT",),
                      ("SERIALIZABLE",)):  # fmt: skip
            if self.word(*words):
                return " ".join(words)
        raise self.next.near()

    def _do_insert(self) -> Action:
        self.word("INTO")
        table = self.parts()
        if self.word("WITH"):
            self._skip_parentheses()
        columns: tuple[str, ...] = ()
        if self.is_op("(") and not (self.ahead().kind == "word" and self.ahead().value in ("SELECT", "WITH")):
            columns = self.in_parentheses(self.identifier)
        if self.word("DEFAULT", "VALUES"):
            return Insert(table, columns)
        if self.word("VALUES"):
            rows = self.listed(lambda: self.in_parentheses(self._value))
            if len(rows) > 1000:
                raise error(10738)
            return Insert(table, columns, rows)
        return Insert(table, columns, query=self.query())

    def _value(self) -> Expr | None:
        return None if self.word("DEFAULT") else self.expr()

    def _do_update(self) -> Action:
        table = self.parts()
        if self.word("WITH"):
            self._skip_parentheses()
        self.need_word("SET")
        changes = self.listed(self._change)
        source = self._sources() if self.word("FROM") else None
        return Update(table, changes, source, self.predicate() if self.word("WHERE") else None)

    def _change(self) -> tuple[str, Expr]:
        name = self.parts()[-1]
        self.need_op("=")
        return name, self.expr()

    def _do_delete(self) -> Action:
        self.word("FROM")
        table = self.parts()
        if self.word("WITH"):
            self._skip_parentheses()
        return Delete(table, self.predicate() if self.word("WHERE") else None)

    def _do_truncate(self) -> Action:
        self.need_word("TABLE")
        return Truncate(self.parts())

    def _do_drop(self) -> Action:
        kind = self.take()
        if kind.value not in ("TABLE", "DATABASE"):
            raise kind.near()
        if_exists = self.word("IF", "EXISTS")
        if kind.value == "DATABASE":
            return DropDatabase(self.identifier(), if_exists)
        return DropTable(self.listed(self.parts), if_exists)

    def _do_alter(self) -> Action:
        self.need_word("DATABASE")
        name = self.identifier() if not self.word("CURRENT") else ""
        self.need_word("SET")
        option = self.identifier().upper()
        on = self._on_off() == "ON"
        if self.word("WITH", "ROLLBACK"):
            self.take()
        return AlterDatabase(name, option, on)

    def _do_create(self) -> Action:
        kind = self.take()
        if kind.value == "DATABASE":
            name = self.identifier()
            if self.word("COLLATE"):
                self.identifier()
            return CreateDatabase(name)
        if kind.value == "TABLE":
            return self._create_table()
        if kind.value in ("UNIQUE", "CLUSTERED", "NONCLUSTERED", "INDEX"):
            while not self.is_op("("):
                self.take()
            self._skip_parentheses()
            return Nothing("CREATE INDEX")
        if kind.value == "SCHEMA":
            self.identifier()
            return Nothing("CREATE SCHEMA")
        raise kind.near()

    def _create_table(self) -> Action:
        table = self.parts()
        self.need_op("(")
        columns: list[ColumnDef] = []
        key: tuple[str, ...] = ()
        while True:
            if self.is_word("CONSTRAINT", "PRIMARY", "UNIQUE", "CHECK", "FOREIGN"):
                key = self._table_constraint() or key
            else:
                columns.append(self._column(len(columns) + 1))
            # A comma behind the last column is taken (pymssql's test_connection_as_dict).
            if not self.op(",") or self.is_op(")"):
                break
        self.need_op(")")
        if self.word("ON"):
            self.identifier()
        return CreateTable(table, tuple(columns), key or tuple(each.name for each in columns if each.primary))

    def _table_constraint(self) -> tuple[str, ...]:
        if self.word("CONSTRAINT"):
            self.identifier()
        primary = self.word("PRIMARY", "KEY")
        if not primary and not self.word("UNIQUE"):
            raise self.next.near()
        if not self.word("CLUSTERED"):
            self.word("NONCLUSTERED")

        def one() -> str:
            name = self.identifier()
            if not self.word("ASC"):
                self.word("DESC")
            return name

        names = self.in_parentheses(one)
        return names if primary else ()

    def _column(self, ordinal: int) -> ColumnDef:
        name = self.identifier()
        kind = self.type_name(ordinal=ordinal)
        nullable: bool | None = None
        identity = primary = False
        default: Expr | None = None
        while True:
            if self.word("NOT", "NULL"):
                nullable = False
            elif self.word("NULL"):
                nullable = True
            elif self.word("IDENTITY"):
                identity = True
                if self.is_op("("):
                    self._skip_parentheses()
            elif self.word("CONSTRAINT"):
                self.identifier()
            elif self.word("DEFAULT"):
                default = self.expr()
            elif self.word("COLLATE"):
                kind = kind.collated(self.identifier())
            elif self.word("PRIMARY", "KEY"):
                primary = True
                if not self.word("CLUSTERED"):
                    self.word("NONCLUSTERED")
            elif not self.word("UNIQUE"):
                return ColumnDef(name, kind, nullable, identity, primary, default)


#: The condition of a BEGIN ... END that stands alone.
_TRUE = QueryParser("1 = 1").predicate()


def parse(sql: str, *, quoted_identifier: bool = True) -> list[Command]:
    """The statements of a batch. Raises TdsError where SQL Server would not parse it."""
    return BatchParser(sql, quoted_identifier=quoted_identifier).batch()


__all__ = ["Parts", "Token", "parse"]
