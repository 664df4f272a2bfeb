package builder

import (
	"context"
	"fmt"
	"slices"
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

// What becomes free goes to who has least of it, and not to those who ask most; among
// the same it goes by arrival.
func TestTurnstileIsFair(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const each = 2
		greedy := []string{"a", "b", "c"}
		ts := turnstile{budget: budget{most: 3 * each, share: each}}
		ctx, cancel := context.WithCancel(t.Context())
		entered := make(chan string, 100)
		var wg sync.WaitGroup
		enter := func(group, name string) {
			wg.Go(func() {
				if ts.enter(ctx, group) {
					entered <- name
				}
			})
			synctest.Wait()
		}
		for range each {
			for _, group := range greedy {
				enter(group, "")
				<-entered
			}
		}
		for i := range 2 * each {
			for _, group := range greedy {
				enter(group, fmt.Sprint(group, i))
			}
		}
		enter("late", "late0")
		enter("late", "late1")
		enter("later", "later0")
		var order []string
		for _, group := range []string{"a", "b", "c", "a", "late"} {
			ts.leave(group)
			synctest.Wait()
			order = append(order, <-entered)
		}
		if want := []string{"late0", "later0", "a0", "b0", "late1"}; !slices.Equal(order, want) {
			t.Errorf("%v entered, want %v", order, want)
		}
		cancel()
		wg.Wait()
	})
}
