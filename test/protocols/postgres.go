package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"
)

// postgresRows are copied in, and read back.
const postgresRows = 20_000

// askPostgres uses a table of its own connection, so that several clients don't meet.
func askPostgres(ctx context.Context, addr string) (*report, error) {
	r := &report{}
	conn, err := pgx.Connect(ctx, "postgres://postgres@"+addr+"/postgres?sslmode=disable")
	if err != nil {
		return r, err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	if err := conn.QueryRow(ctx, "select host(inet_client_addr())").Scan(&r.Peer); err != nil {
		return r, err
	}
	if _, err := conn.Exec(ctx, "create temporary table orders (id bigint primary key, item text)"); err != nil {
		return r, err
	}
	n, err := conn.CopyFrom(ctx, pgx.Identifier{"orders"}, []string{"id", "item"}, pgx.CopyFromSlice(postgresRows, func(i int) ([]any, error) {
		return []any{i, strings.Repeat("x", i%100)}, nil
	}))
	if err != nil || n != postgresRows {
		return r, fmt.Errorf("copied %d rows: %w", n, err)
	}
	r.did("copy")
	rows, err := conn.Query(ctx, "select id, item from orders order by id")
	if err != nil {
		return r, err
	}
	read := int64(0)
	for ; rows.Next(); read++ {
		var id int64
		var item string
		if err := rows.Scan(&id, &item); err != nil || id != read || len(item) != int(id%100) {
			rows.Close()
			return r, fmt.Errorf("row %d is %d with %d letters: %w", read, id, len(item), err)
		}
	}
	if err := rows.Err(); err != nil || read != postgresRows {
		return r, fmt.Errorf("%d rows came back: %w", read, err)
	}
	r.did("query")
	if _, err := conn.Exec(ctx, "listen news"); err != nil {
		return r, err
	}
	if _, err := conn.Exec(ctx, "select pg_notify('news', 'hello')"); err != nil {
		return r, err
	}
	if note, err := conn.WaitForNotification(ctx); err != nil || note.Payload != "hello" {
		return r, fmt.Errorf("notified of %v: %w", note, err)
	}
	r.did("listen and notify")
	return r, nil
}
