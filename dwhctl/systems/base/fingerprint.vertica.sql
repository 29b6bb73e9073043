-- The fingerprint of a slice in Vertica's words. See fingerprint.py for what each block is, and docs/verify.md.
-- Functions: https://docs.vertica.com/24.4.x/en/sql-reference/functions/ : MD5 (hex digits of a VARCHAR's octets),
-- HEX_TO_INTEGER, OCTET_LENGTH, RTRIM, TO_HEX (lower case), TO_CHAR (a TIME is cast to TIMESTAMP for it; US is
-- microseconds, six digits), SUM (of the type of what it sums; 38 digits do not overflow). Comparisons are binary in the
-- locale en_US@collation=binary, which the session sets.

-- name: form integer
CAST({c} AS VARCHAR(20))

-- name: form decimal
RTRIM(RTRIM(CAST({c} AS VARCHAR(80)), '0'), '.')

-- name: form decimal whole
CAST({c} AS VARCHAR(80))

-- name: form boolean
CASE WHEN {c} THEN '1' WHEN NOT {c} THEN '0' END

-- name: form text
{c}

-- name: form text padded
RTRIM({c})

-- name: form uuid
LOWER(CAST({c} AS VARCHAR(36)))

-- name: form binary
-- TO_HEX writes lower case. LOWER would halve the octets that a column may have: its result may be twice as long.
TO_HEX({c})

-- name: form date
TO_CHAR({c}, 'YYYY-MM-DD')

-- name: form time
TO_CHAR(CAST({c} AS TIMESTAMP), 'HH24:MI:SS.US')

-- name: form timestamp
TO_CHAR({c}, 'YYYY-MM-DD HH24:MI:SS.US')

-- name: form timestamp with time zone
TO_CHAR({c} AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS.US')

-- name: ordered text
{f} || ','

-- name: piece
-- Five digits: Vertica refuses an expression whose declared length may exceed the 65,000 octets of a VARCHAR.
COALESCE(CAST(OCTET_LENGTH({f}) AS VARCHAR(5)) || ':' || {f} || ',', ',')

-- name: joint
 || 

-- name: number
HEX_TO_INTEGER(SUBSTR(MD5({t}), 2, 15))

-- name: sum
CAST(COALESCE(SUM(CAST({n} AS NUMERIC(38, 0))), 0) AS VARCHAR(40))

-- name: count
COUNT(*)

-- name: start
SUBSTR({t}, 1, {n})

-- name: length
LENGTH({t})
