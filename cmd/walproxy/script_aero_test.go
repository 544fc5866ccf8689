package main

import (
	"net"
	"strconv"
	"strings"
	"time"

	as "github.com/aerospike/aerospike-client-go/v7"
	"github.com/aerospike/aerospike-client-go/v7/types"
	"github.com/rogpeppe/go-internal/testscript"
)

// aeroCmd does an operation of an Aerospike client at the script's server and wants a
// result code. A get is repeated until it has that, and bin n the value.
func aeroCmd(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) < 4 {
		ts.Fatalf("usage: aero CODE OP SET KEY [VALUE]: put, add or append to bin n, get, delete")
	}
	code, err := strconv.Atoi(args[0])
	ts.Check(err)
	c := aeroClient(ts)
	defer c.Close()
	k, failed := as.NewKey("test", args[2], args[3])
	if failed != nil {
		ts.Fatalf("%v", failed)
	}
	value := any("")
	if len(args) > 4 {
		value = args[4]
		if n, err := strconv.Atoi(args[4]); err == nil {
			value = n
		}
	}
	write := as.NewWritePolicy(0, 0)
	write.MaxRetries, write.TotalTimeout, write.SocketTimeout = 0, time.Minute, time.Minute
	do := func() (ok bool, failed as.Error) {
		switch args[1] {
		case "put":
			return true, c.Put(write, k, as.BinMap{"n": value})
		case "add":
			return true, c.Add(write, k, as.BinMap{"n": value})
		case "append":
			return true, c.Append(write, k, as.BinMap{"n": value})
		case "delete":
			_, failed = c.Delete(write, k)
			return true, failed
		}
		read := as.NewPolicy()
		read.MaxRetries, read.TotalTimeout, read.SocketTimeout = 0, time.Minute, time.Minute
		rec, failed := c.Get(read, k)
		return failed != nil || len(args) < 5 || rec.Bins["n"] == value, failed
	}
	for deadline := time.Now().Add(2 * time.Minute); ; time.Sleep(20 * time.Millisecond) {
		ok, failed := do()
		if ok && (failed == nil && code == 0 || failed != nil && failed.Matches(types.ResultCode(code))) {
			return
		}
		if args[1] != "get" || time.Now().After(deadline) {
			ts.Fatalf("%v: %v", args, failed)
		}
	}
}

func aeroClient(ts *testscript.TestScript) *as.Client {
	addr := ""
	for line := range strings.Lines(ts.ReadFile("serve.err")) {
		if _, rest, ok := strings.Cut(line, " aerowire="); ok {
			addr = strings.Fields(rest)[0]
		}
	}
	host, port, err := net.SplitHostPort(addr)
	ts.Check(err)
	n, err := strconv.Atoi(port)
	ts.Check(err)
	policy := as.NewClientPolicy()
	policy.Timeout = time.Minute
	c, failed := as.NewClientWithPolicy(policy, host, n)
	if failed != nil {
		ts.Fatalf("%v", failed)
	}
	return c
}
