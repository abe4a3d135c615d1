"""PostgreSQL as a Python program uses it: libpq, which connects without blocking."""

import json
import sys

import psycopg2
import psycopg2.extensions

host, port = sys.argv[1].rsplit(":", 1)
conn = psycopg2.connect(host=host, port=port, user="postgres", dbname="postgres", sslmode="disable")
did = []
with conn, conn.cursor() as cursor:
    cursor.execute("select host(inet_client_addr())")
    peer = cursor.fetchone()[0]
    cursor.execute("create temporary table orders (id bigint primary key, item text)")
    cursor.executemany("insert into orders values (%s, %s)", [(i, "x" * i) for i in range(200)])
    cursor.execute("select sum(length(item)) from orders where id < %s", (100,))
    assert cursor.fetchone()[0] == 4950
    did.append("query")
conn.set_isolation_level(psycopg2.extensions.ISOLATION_LEVEL_AUTOCOMMIT)
with conn.cursor() as cursor:
    cursor.execute("listen news")
    cursor.execute("select pg_notify('news', 'hello')")
    conn.poll()
    assert [n.payload for n in conn.notifies] == ["hello"]
    did.append("listen and notify")
conn.close()
print(json.dumps({"peer": peer, "did": did}))
