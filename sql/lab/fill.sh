#!/bin/sh
# Fills the lab's SQL Servers: the cities of mssql_0.txt go to the server mssql_0, and so on, all servers at once.
# A city gets 1,000 to 2,000 orders, told by its name alone. Run again it leaves alone what is there.
set -eu

here=$(dirname "$0")
sqlcmd=${SQLCMD:-/opt/mssql-tools18/bin/sqlcmd}
scripts=$(mktemp -d)
trap 'rm -rf "$scripts"' EXIT

# The cities of a file as one script: the variables, then orders.sql, for each. Not with sqlcmd's own -v, which
# not every version for Linux has.
script_of() {
    while read -r city; do
        sum=$(printf %s "$city" | cksum)
        sum=${sum%% *}
        printf ':setvar CITY "%s"\n:setvar SEED "%s"\n:setvar ORDERS "%s"\n' \
            "$city" "$((sum % 1000000))" "$((1000 + sum % 1001))"
        cat "$here/orders.sql"
    done < "$1"
}

# The password is in SQLCMDPASSWORD. -b: stop at the first error, and say so.
fill() {
    "$sqlcmd" -S "$1" -U sa -C -b -i "$scripts/$1.sql"
    echo "$1 is filled"
}

fillers=""
for cities in "$here"/*.txt; do
    server=$(basename "$cities" .txt)
    script_of "$cities" > "$scripts/$server.sql"
    fill "$server" &
    fillers="$fillers $!"
done

failed=0
for filler in $fillers; do
    wait "$filler" || failed=1
done
exit "$failed"
