-- The fingerprint of a slice in DuckDB's words. See fingerprint.py for what each block is, and docs/verify.md.
-- Functions: https://duckdb.org/docs/stable/sql/functions/text (strlen counts octets, md5 gives hex digits),
-- .../dateformat (strftime: %f is microseconds, six digits); a text 0x... is cast as a hexadecimal number.

-- name: form integer
CAST({c} AS VARCHAR)

-- name: form decimal
rtrim(rtrim(CAST({c} AS VARCHAR), '0'), '.')

-- name: form decimal fraction
-- DuckDB writes no zero before the point where the type has no digit there: .50000, and -.50000.
rtrim(rtrim(ltrim(replace(replace(' ' || CAST({c} AS VARCHAR), ' .', ' 0.'), ' -.', ' -0.')), '0'), '.')

-- name: form decimal whole
CAST({c} AS VARCHAR)

-- name: form boolean
CAST(CAST({c} AS INTEGER) AS VARCHAR)

-- name: form text
CAST({c} AS VARCHAR)

-- name: form uuid
lower(CAST({c} AS VARCHAR))

-- name: form binary
lower(hex({c}))

-- name: form date
strftime({c}, '%Y-%m-%d')

-- name: form time
-- DuckDB shows a TIME with as many digits as it has, or none.
CAST({c} AS VARCHAR) || substr('.000000', strlen(CAST({c} AS VARCHAR)) - 7)

-- name: form timestamp
-- No CAST: it would round the nanoseconds of a TIMESTAMP_NS, and %f cuts them.
strftime({c}, '%Y-%m-%d %H:%M:%S.%f')

-- name: form timestamp with time zone
strftime({c} AT TIME ZONE 'UTC', '%Y-%m-%d %H:%M:%S.%f')

-- name: ordered text
{f} || ','

-- name: piece
coalesce(CAST(strlen({f}) AS VARCHAR) || ':' || {f} || ',', ',')

-- name: joint
 || 

-- name: number
CAST('0x' || substr(md5({t}), 2, 15) AS BIGINT)

-- name: sum
CAST(coalesce(sum({n}), 0) AS VARCHAR)

-- name: count
count(*)

-- name: start
substr({t}, 1, {n})

-- name: length
length({t})
