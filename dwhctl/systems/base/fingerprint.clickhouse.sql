-- The fingerprint of a slice in ClickHouse's words. See fingerprint.py for what each block is, and docs/verify.md.
-- Functions: https://clickhouse.com/docs/sql-reference/functions : MD5 (16 octets), hex (upper case), unhex, length (octets),
-- lengthUTF8, toString (a decimal without zeros at its end; a DateTime64(6) with six digits), reinterpretAsUInt64 (the first
-- octet is the least), sum (128 bits hold the sum of 2^67 numbers).

-- name: form integer
toString({c})

-- name: form decimal
toString({c})

-- name: form decimal whole
toString({c})

-- name: form boolean
toString(CAST({c}, 'Nullable(UInt8)'))

-- name: form text
toString({c})

-- name: form uuid
lower(toString({c}))

-- name: form binary
lower(hex({c}))

-- name: form date
toString({c})

-- name: form time
toString(CAST({c}, 'Nullable(Time64(6))'))

-- name: form timestamp
-- The text is filled up or cut to six digits: a CAST rounds nanoseconds before 1970 up.
substring(concat(toString({c}), substring(' 00:00:00.000000', length(toString({c})) - 9)), 1, 26)

-- name: form timestamp with time zone
substring(concat(toString(toTimeZone({c}, 'UTC')), substring('.000000', length(toString(toTimeZone({c}, 'UTC'))) - 18)), 1, 26)

-- name: ordered text
{f} || ','

-- name: piece
coalesce(toString(length({f})) || ':' || {f} || ',', ',')

-- name: joint
 || 

-- name: number
CAST(reinterpretAsUInt64(reverse(unhex('0' || substring(hex(MD5({t})), 2, 15)))), 'Int64')

-- name: sum
toString(coalesce(sum(toInt128({n})), toInt128(0)))

-- name: count
count(*)

-- name: start
substringUTF8({t}, 1, {n})

-- name: length
lengthUTF8({t})
