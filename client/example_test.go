package client_test

import (
	"context"
	"errors"
	"fmt"

	"github.com/walproxy/walproxy/client"
	"github.com/walproxy/walproxy/mutation"
)

func Example() {
	ctx := context.Background()
	c, err := client.New("http://127.0.0.1:7070", client.Options{})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer c.Close()
	key := mutation.String("42")
	if _, err := c.Put(ctx, "orders", key, map[string]any{"total": 10}); err != nil {
		fmt.Println(err) // of unknown outcome, refused, or nobody there: see Error
		return
	}
	order, err := c.Get(ctx, "orders", key)
	if err != nil {
		fmt.Println(err)
		return
	}
	// Nobody else may have written since.
	_, err = c.Increment(ctx, "orders", key, map[string]any{"total": 5}, mutation.IfVersion(mutation.LSN(order.Version)))
	if errors.Is(err, client.ErrConflict) {
		fmt.Println("somebody was faster")
	}
}

func ExampleStream() {
	ctx := context.Background()
	c, err := client.New("http://127.0.0.1:7070", client.Options{})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer c.Close()
	stream := c.Stream(client.StreamOptions{})
	for i := range 1_000_000 {
		m, err := mutation.Increment("visits", mutation.Int64(int64(i%1000)), map[string]any{"n": 1})
		if err != nil {
			fmt.Println(err)
			return
		}
		// It waits when too many have no answer yet. Pending.Wait has a write's outcome.
		if _, err := stream.Send(ctx, m); err != nil {
			fmt.Println(err)
			return
		}
	}
	if err := stream.Close(ctx); err != nil { // everything has its outcome
		fmt.Println(err)
	}
}
