package builder

import (
	"context"
	"sync"
	"testing"
	"testing/synctest"
)

func TestTurnstile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ts := turnstile{budget: budget{most: 5, share: 3}}
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		for range 3 {
			if !ts.enter(ctx, "a") {
				t.Fatal("refused")
			}
		}
		var wg sync.WaitGroup
		entered := make(chan string, 10)
		enter := func(group string) {
			wg.Go(func() {
				if ts.enter(ctx, group) {
					entered <- group
				}
			})
		}
		for _, group := range []string{"a", "a", "b", "c", "d"} {
			enter(group)
		}
		synctest.Wait()
		if len(entered) != 2 { // two of b, c, d: five in all
			t.Fatalf("%d entered", len(entered))
		}
		ts.leave("a")
		synctest.Wait()
		if len(entered) != 3 {
			t.Errorf("%d entered", len(entered))
		}
		cancel()
		wg.Wait()
		if len(entered) != 3 {
			t.Errorf("%d entered after the end", len(entered))
		}
	})
}
