-- The fingerprint of a slice in SQL Server's words. See fingerprint.py for what each block is, and docs/verify.md.
-- Functions: https://learn.microsoft.com/en-us/sql/t-sql/functions/hashbytes-transact-sql (MD5 is deprecated since 2016
-- and works; before 2016 it takes no more than 8,000 octets), .../cast-and-convert-transact-sql (styles 2, 23, 121;
-- varbinary to bigint takes the octets as they stand), .../datalength-transact-sql, .../switchoffset-transact-sql.
-- {collation} is Latin1_General_100_BIN2_UTF8 (SQL Server 2019) where a text is among the columns, else
-- Latin1_General_BIN2: all pieces of a sum of texts must have one collation, whatever the database's own is, and a
-- binary one tells case and compares octets: https://learn.microsoft.com/en-us/sql/t-sql/statements/
-- collation-precedence-transact-sql, .../relational-databases/collations/collation-and-unicode-support

-- name: form integer
CAST({c} AS varchar(20)) COLLATE {collation}

-- name: form decimal
REPLACE(RTRIM(REPLACE(REPLACE(RTRIM(REPLACE(CAST({c} AS varchar(42)), '0', ' ')), ' ', '0'), '.', ' ')), ' ', '.') COLLATE {collation}

-- name: form decimal whole
CAST({c} AS varchar(42)) COLLATE {collation}

-- name: form boolean
CAST({c} AS varchar(1)) COLLATE {collation}

-- name: form text
-- First the collation, then the CAST: a CAST to varchar takes the code page of what it is given. Not from varchar in one
-- step, which would cut the text to its former number of octets.
CAST(CAST({c} AS nvarchar({length})) COLLATE {collation} AS varchar(max))

-- name: form uuid
LOWER(CAST({c} AS varchar(36))) COLLATE {collation}

-- name: form binary
LOWER(CONVERT(varchar(max), CAST({c} AS varbinary(max)), 2)) COLLATE {collation}

-- name: form date
CONVERT(varchar(10), {c}, 23) COLLATE {collation}

-- name: form time
LEFT(CONVERT(varchar(16), CAST({c} AS time(7)), 121), 15) COLLATE {collation}

-- name: form timestamp
LEFT(CONVERT(varchar(27), CAST({c} AS datetime2(7)), 121), 26) COLLATE {collation}

-- name: form timestamp with time zone
LEFT(CONVERT(varchar(27), CAST(SWITCHOFFSET({c}, '+00:00') AS datetime2(7)), 121), 26) COLLATE {collation}

-- What the driver makes of a type, made here as well.

-- name: read datetime
-- To milliseconds, as SQL Server shows it; datetime2(7) would show the 1/300 s.
CAST({c} AS datetime2(3))

-- name: read money
CAST({c} AS decimal(19, 4))

-- name: read smallmoney
CAST({c} AS decimal(10, 4))

-- name: ordered text
-- No text ends in a blank then: of two texts that differ in blanks at their ends alone each engine finds the same.
{f} + ','

-- name: piece
ISNULL(CAST(DATALENGTH({f}) AS varchar(20)) + ':' + {f} + ',', ',')

-- name: joint
 + 

-- name: wide
-- A sum of texts of which none is of a max type is cut to 8,000 octets without an error:
-- https://learn.microsoft.com/en-us/sql/t-sql/language-elements/string-concatenation-transact-sql
CAST('' AS varchar(max))

-- name: number
CAST(SUBSTRING(HASHBYTES('MD5', {t}), 1, 8) AS bigint) & CAST(1152921504606846975 AS bigint)

-- name: sum
CAST(ISNULL(SUM(CAST({n} AS decimal(38, 0))), 0) AS varchar(40))

-- name: count
COUNT_BIG(*)

-- name: start
LEFT({t}, {n})

-- name: length
-- LEN does not count blanks at the end.
LEN({t} + ',') - 1
