package inflight_test

import (
	"context"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mirrord-go/mirrord/internal/session/inflight"
)

func TestWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var c inflight.Count
		if !c.Wait(t.Context()) {
			t.Error("nothing was under way")
		}
		first, second := c.Begin(), c.Begin()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if c.Wait(ctx) {
			t.Error("two were under way")
		}
		var all sync.WaitGroup
		for range 3 {
			all.Go(func() {
				if !c.Wait(t.Context()) {
					t.Error("the wait was given up")
				}
			})
		}
		synctest.Wait()
		first()
		first() // counts once
		third := c.Begin()
		second()
		synctest.Wait()
		third()
		all.Wait()
		if !c.Wait(t.Context()) {
			t.Error("nothing is under way any more")
		}
	})
}
