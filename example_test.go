package walproxy_test

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/walproxy/walproxy"
	"github.com/walproxy/walproxy/mutation"
	"github.com/walproxy/walproxy/sinks/pebble"
	"github.com/walproxy/walproxy/sinks/sinktest"
)

// A proxy in front of the embedded Pebble store.
func Example() {
	ctx := context.Background()
	dir, err := os.MkdirTemp("", "walproxy-example")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer os.RemoveAll(dir)

	store, err := pebble.Open(dir+"/store", pebble.Options{})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer store.Close(ctx) // after the proxy
	proxy, err := walproxy.Open(ctx, walproxy.Options{
		Dir:   dir + "/data",
		Sinks: []walproxy.SinkOptions{{Name: "main", Sink: store}},
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer proxy.Close(ctx)

	order, err := mutation.Set("orders", mutation.String("42"), map[string]any{"total": 10})
	if err != nil {
		fmt.Println(err)
		return
	}
	result, err := proxy.Append(ctx, order) // on disk when it returns
	fmt.Println(result.LSN, err)

	doc, err := proxy.Read(ctx, "orders", mutation.String("42")) // sees every write before it
	fmt.Println(mutation.FieldsToAny(doc.Fields), doc.Version, err)
	// Output:
	// 1 <nil>
	// map[total:10] 1 <nil>
}

// Several writes on their way at once share an fsync.
func ExampleProxy_AppendAsync() {
	proxy, done := openExample()
	defer done()
	ctx := context.Background()

	var pending []*walproxy.Pending
	for i := range 3 {
		m, err := mutation.Increment("counters", mutation.String("visits"), map[string]any{"n": i})
		if err != nil {
			fmt.Println(err)
			return
		}
		p, err := proxy.AppendAsync(ctx, m) // has an LSN, is not acknowledged
		if err != nil {
			fmt.Println(err)
			return
		}
		pending = append(pending, p)
	}
	for _, p := range pending {
		result, err := p.Wait(ctx) // acknowledged
		fmt.Println(result.LSN, err)
	}
	// Output:
	// 1 <nil>
	// 2 <nil>
	// 3 <nil>
}

// A write that expects a version is decided in one step: of many writers with
// the same expectation exactly one succeeds.
func ExampleProxy_Append_precondition() {
	proxy, done := openExample()
	defer done()
	ctx := context.Background()

	key := mutation.String("42")
	for range 2 {
		m, err := mutation.Set("orders", key, map[string]any{"total": 10}, mutation.IfAbsent())
		if err != nil {
			fmt.Println(err)
			return
		}
		result, err := proxy.Append(ctx, m)
		var conflict *walproxy.ConflictError
		if errors.As(err, &conflict) {
			fmt.Println("there is one of version", conflict.Version)
			return
		}
		fmt.Println("created version", result.LSN)
	}
	// Output:
	// created version 1
	// there is one of version 1
}

// Wait tells when a write has reached the store.
func ExampleProxy_Wait() {
	proxy, done := openExample()
	defer done()
	ctx := context.Background()

	result, err := proxy.Append(ctx, mutation.Delete("orders", mutation.String("42")))
	if err != nil {
		fmt.Println(err)
		return
	}
	if err := proxy.Wait(ctx, result.LSN, walproxy.Applied); err != nil {
		fmt.Println(err)
		return
	}
	state, err := proxy.WriteState(result.LSN)
	fmt.Println(state.State, err)
	// Output: applied <nil>
}

// A read of a record that does not exist is mutation.ErrNotFound, and only that.
func ExampleProxy_Read_notFound() {
	proxy, done := openExample()
	defer done()

	_, err := proxy.Read(context.Background(), "orders", mutation.String("42"))
	fmt.Println(errors.Is(err, mutation.ErrNotFound))
	// Output: true
}

// openExample opens a proxy in front of a store in memory; done ends both.
func openExample() (proxy *walproxy.Proxy, done func()) {
	ctx := context.Background()
	dir, err := os.MkdirTemp("", "walproxy-example")
	if err != nil {
		panic(err)
	}
	store := sinktest.NewMemory()
	proxy, err = walproxy.Open(ctx, walproxy.Options{
		Dir:   dir,
		Sinks: []walproxy.SinkOptions{{Name: "main", Sink: store}},
	})
	if err != nil {
		panic(err)
	}
	return proxy, func() {
		if err := errors.Join(proxy.Close(ctx), store.Close(ctx), os.RemoveAll(dir)); err != nil {
			fmt.Println(err)
		}
	}
}
