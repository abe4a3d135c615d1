package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/redis/go-redis/v9"
)

// redisMessages are published to one subscriber.
const redisMessages = 200

func askRedis(ctx context.Context, addr string) (*report, error) {
	r := &report{}
	client := redis.NewClient(&redis.Options{Addr: addr})
	defer client.Close()
	info, err := client.Do(ctx, "client", "info").Text()
	if err != nil {
		return r, err
	}
	for field := range strings.FieldsSeq(info) {
		if peer, ok := strings.CutPrefix(field, "addr="); ok {
			r.Peer = peer
		}
	}
	large := strings.Repeat("large ", 1<<20)
	if err := client.Set(ctx, "large", large, 0).Err(); err != nil {
		return r, err
	}
	if got, err := client.Get(ctx, "large").Result(); err != nil || got != large {
		return r, fmt.Errorf("set %d bytes, got %d: %w", len(large), len(got), err)
	}
	r.did("set and get")
	counts, err := client.Pipelined(ctx, func(p redis.Pipeliner) error {
		for range 500 {
			p.Incr(ctx, "count")
		}
		return nil
	})
	if err != nil || len(counts) != 500 {
		return r, fmt.Errorf("%d of 500 answers: %w", len(counts), err)
	}
	r.did("pipeline")

	sub := client.Subscribe(ctx, "news")
	defer sub.Close()
	if _, err := sub.Receive(ctx); err != nil { // the subscription's own confirmation
		return r, err
	}
	for i := range redisMessages {
		if err := client.Publish(ctx, "news", fmt.Sprint("news ", i)).Err(); err != nil {
			return r, err
		}
	}
	for i := range redisMessages {
		m, err := sub.ReceiveMessage(ctx)
		if err != nil {
			return r, err
		}
		if want := fmt.Sprint("news ", i); m.Payload != want {
			return r, fmt.Errorf("got %q, want %q", m.Payload, want)
		}
	}
	r.did("publish and subscribe")
	return r, nil
}
