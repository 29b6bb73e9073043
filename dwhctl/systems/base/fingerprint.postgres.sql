-- The fingerprint of a slice in PostgreSQL's words. See fingerprint.py for what each block is, and docs/verify.md.
-- Functions: https://www.postgresql.org/docs/current/functions-string.html , .../functions-binarystring.html (md5 of a
-- bytea, convert_to, encode), .../functions-formatting.html (to_char: a time is cast to interval for it; US is
-- microseconds, six digits), .../datatype-bit.html (x and hexadecimal digits are cast as bits), sum of bigint is numeric.

-- name: form integer
CAST({c} AS text)

-- name: form decimal
rtrim(rtrim(CAST({c} AS text), '0'), '.')

-- name: form decimal whole
CAST({c} AS text)

-- name: form boolean
CAST(CAST({c} AS integer) AS text)

-- name: form text
CAST({c} AS text)

-- name: form text padded
rtrim(CAST({c} AS text))

-- name: form uuid
lower(CAST({c} AS text))

-- name: form binary
encode({c}, 'hex')

-- name: form date
to_char({c}, 'YYYY-MM-DD')

-- name: form time
to_char(CAST({c} AS interval), 'HH24:MI:SS.US')

-- name: form timestamp
to_char(CAST({c} AS timestamp), 'YYYY-MM-DD HH24:MI:SS.US')

-- name: form timestamp with time zone
to_char({c} AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS.US')

-- name: ordered text
({f} || ',') COLLATE "C"

-- name: piece
coalesce(CAST(octet_length(convert_to({f}, 'UTF8')) AS text) || ':' || {f} || ',', ',')

-- name: joint
 || 

-- name: number
CAST(CAST('x' || substr(md5(convert_to({t}, 'UTF8')), 2, 15) AS bit(60)) AS bigint)

-- name: sum
CAST(coalesce(sum({n}), 0) AS text)

-- name: count
COUNT(*)

-- name: start
substr({t}, 1, {n})

-- name: length
length({t})
