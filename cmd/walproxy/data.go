package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os/signal"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	walproxyv1 "github.com/walproxy/walproxy/api/proto/walproxy/v1"
	"github.com/walproxy/walproxy/client"
	"github.com/walproxy/walproxy/internal/jsonform"
	"github.com/walproxy/walproxy/mutation"
)

// dataFlags are what the commands on records have in common.
type dataFlags struct {
	placeFlags
	jsonKey bool
	timeout time.Duration
}

func (f *dataFlags) register(cmd *cobra.Command) {
	f.placeFlags.register(cmd)
	cmd.Flags().DurationVar(&f.timeout, "timeout", 30*time.Second, "give up after this `time`")
}

func (f *dataFlags) registerKey(cmd *cobra.Command) {
	cmd.Flags().BoolVar(&f.jsonKey, "json-key", false, `KEY is JSON: 42, {"$bytes": "AP8="}, or an array for a composite one`)
}

// key is an argument as a key: the proxy reads text as the collection's keys are.
func (f *dataFlags) key(text string) (*walproxyv1.Key, error) {
	if !f.jsonKey {
		return mutation.String(text), nil
	}
	key, err := jsonform.DecodeKey([]byte(text))
	if err != nil {
		return nil, exitWith(exitUsage, fmt.Errorf("KEY %s: %w", text, err))
	}
	return key, nil
}

// with calls f with a client of the running server, until a signal comes.
func (f *dataFlags) with(cmd *cobra.Command, do func(context.Context, *client.Client) error) error {
	server, err := f.running(cmd)
	if err != nil {
		return err
	}
	c, err := client.New(server.api, client.Options{Token: server.token, TLS: server.tls, RetryFor: f.timeout})
	if err != nil {
		return exitWith(exitUsage, err)
	}
	defer func() { _ = c.Close() }() // never fails
	ctx, stop := signal.NotifyContext(cmd.Context(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	ctx, cancel := context.WithTimeout(ctx, f.timeout)
	defer cancel()
	return dataError(server.api, do(ctx, c))
}

// dataError says what err means to who typed the command, with its exit code.
func dataError(address string, err error) error {
	failed, ok := errors.AsType[*client.Error](err)
	if !ok {
		return err
	}
	text := fmt.Sprintf("the server at %s says %s: %s", address, failed.Code, failed.Message)
	code := exitUsage
	switch {
	case errors.Is(err, client.ErrUnknownOutcome):
		text = fmt.Sprintf("%s does not answer any more (%s): whether the write is done is not known; the same command with --request-id %s tells, and does not write twice",
			address, failed.Message, failed.RequestID)
		code = exitFailed
	case errors.Is(err, client.ErrUntrusted):
		text = fmt.Sprintf("%s: %s: nothing was done; see --ca, --server-name, --client-cert and --client-key", address, failed.Message)
		code = exitFailed
	case failed.Retryable:
		text = fmt.Sprintf("%s: %s: try again", address, failed.Message)
		code = exitFailed
	case errors.Is(err, client.ErrConflict):
		text += fmt.Sprintf(" (version %d, %d events)", failed.Version, failed.EventCount)
	}
	return exitWith(code, errors.New(text))
}

// writeFlags are what writes have in common.
type writeFlags struct {
	dataFlags
	ifVersion uint64
	ifAbsent  bool
	ack, id   string
	json      bool
}

func (f *writeFlags) register(cmd *cobra.Command) {
	f.dataFlags.register(cmd)
	f.registerKey(cmd)
	cmd.Flags().Uint64Var(&f.ifVersion, "if-version", 0, "only if this `version`, the LSN of its last write, is the record's")
	cmd.Flags().StringVar(&f.ack, "ack", "logged", "`level` to wait for: logged or applied")
	cmd.Flags().StringVar(&f.id, "request-id", "", "`id` under which it is done once, however often it is sent")
	cmd.Flags().BoolVar(&f.json, "json", false, "print the answer as JSON")
	exits(cmd, map[int]string{
		exitOK:     "written: on disk in the log",
		exitUsage:  "wrong usage, or refused: nothing was written",
		exitFailed: "no answer: not written, or of unknown outcome, as it says",
		exitStart:  "no server runs for the data directory",
	})
}

func (f *writeFlags) options(cmd *cobra.Command) (options []mutation.Option, err error) {
	if f.ack != "logged" && f.ack != "applied" {
		return nil, exitWith(exitUsage, fmt.Errorf("--ack %q is neither logged nor applied", f.ack))
	}
	if cmd.Flags().Changed("if-version") {
		options = append(options, mutation.IfVersion(mutation.LSN(f.ifVersion)))
	}
	if f.ifAbsent {
		options = append(options, mutation.IfAbsent())
	}
	if f.id != "" {
		options = append(options, mutation.WithRequestID(f.id))
	}
	return options, nil
}

// write sends m and prints what became of it.
func (f *writeFlags) write(cmd *cobra.Command, m *walproxyv1.Mutation) error {
	return f.with(cmd, func(ctx context.Context, c *client.Client) error {
		if f.ack == "applied" {
			c = c.Applied()
		}
		result, err := c.Write(ctx, m)
		if err != nil {
			return err
		}
		out := cmd.OutOrStdout()
		state := map[client.State]string{client.Logged: "logged", client.Applied: "applied", client.Parked: "parked", client.Dead: "dead"}[result.State]
		if f.json {
			fmt.Fprintf(out, `{"lsn":%d,"version":%d,"state":%q`, result.LSN, result.LSN, state)
			if result.Repeat {
				fmt.Fprint(out, `,"repeat":true`)
			}
			fmt.Fprintln(out, "}")
			return nil
		}
		again := ""
		if result.Repeat {
			again = "; it was written before, under this request id"
		}
		fmt.Fprintf(out, "%s %s: %s at LSN %d, its version%s\n", m.GetCollection(), mutation.KeyText(m.GetKey()), state, result.LSN, again)
		switch result.State {
		case client.Dead, client.Parked:
			fmt.Fprintln(out, "its sink refused it, or an earlier write of the key: see `walproxy dlq ls`")
		case client.Logged:
			if f.ack == "applied" {
				fmt.Fprintln(out, "it is not in its sinks yet, and will be")
			}
		}
		return nil
	})
}

// putOps are what --op may be.
var putOps = map[string]func(map[string]*walproxyv1.Value) *walproxyv1.Op{
	"set": mutation.SetOp, "merge": mutation.MergeOp, "increment": mutation.IncrementOp, "append": mutation.AppendOp, "prepend": mutation.PrependOp,
}

func newPut() *cobra.Command {
	var flags writeFlags
	var op string
	var ttl time.Duration
	cmd := &cobra.Command{
		Use:   "put COLLECTION KEY FIELDS",
		Short: "Write a record",
		Long: "put writes a record through a running server, and returns when it is on disk in the log. FIELDS are a JSON\n" +
			"object as PUT takes it (docs/rest.md), or - to read it from standard input. A write of which no answer comes\n" +
			"is sent again under one request id: it is done once.",
		Example: "  walproxy put orders 42 '{\"total\":10}'\n" +
			"  walproxy put orders 42 '{\"total\":5}' --op increment --ack applied",
		Args: cobra.ExactArgs(3),
		RunE: func(cmd *cobra.Command, args []string) error {
			make, ok := putOps[op]
			if !ok {
				return exitWith(exitUsage, fmt.Errorf("--op %q: want set, merge, increment, append or prepend", op))
			}
			fields, err := fieldsOf(cmd.InOrStdin(), args[2])
			if err != nil {
				return err
			}
			key, err := flags.key(args[1])
			if err != nil {
				return err
			}
			options, err := flags.options(cmd)
			if err != nil {
				return err
			}
			if ttl > 0 {
				options = append(options, mutation.ExpiresAt(time.Now().Add(ttl)))
			}
			return flags.write(cmd, mutation.New(args[0], key, []*walproxyv1.Op{make(fields)}, options...))
		},
	}
	flags.register(cmd)
	cmd.Flags().BoolVar(&flags.ifAbsent, "if-absent", false, "only if there is no such record")
	cmd.Flags().StringVar(&op, "op", "set", "`what` to do with the fields: set (the record is these), merge, increment, append or prepend")
	cmd.Flags().DurationVar(&ttl, "ttl", 0, "end the record after this `time`; 0: never")
	return cmd
}

// fieldsBytesMost bounds what is read of standard input.
const fieldsBytesMost = 64 << 20

func fieldsOf(in io.Reader, text string) (map[string]*walproxyv1.Value, error) {
	data := []byte(text)
	if text == "-" {
		var err error
		if data, err = io.ReadAll(io.LimitReader(in, fieldsBytesMost)); err != nil {
			return nil, exitWith(exitUsage, fmt.Errorf("standard input: %w", err))
		}
	}
	fields, err := jsonform.DecodeFields(data)
	if err != nil {
		return nil, exitWith(exitUsage, fmt.Errorf("FIELDS: %w", err))
	}
	return fields, nil
}

func newDelete() *cobra.Command {
	var flags writeFlags
	cmd := &cobra.Command{
		Use:   "delete COLLECTION KEY",
		Short: "Remove a record and its events",
		Long: "delete removes a record and its events through a running server, and returns when that is on disk in the log.\n" +
			"Deleting what is not there is a write as any other, and changes nothing.",
		Example: "  walproxy delete orders 42\n" +
			"  walproxy delete orders 42 --if-version 17",
		Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			key, err := flags.key(args[1])
			if err != nil {
				return err
			}
			options, err := flags.options(cmd)
			if err != nil {
				return err
			}
			return flags.write(cmd, mutation.Delete(args[0], key, options...))
		},
	}
	flags.register(cmd)
	return cmd
}

// readFlags are what reads have in common.
type readFlags struct {
	dataFlags
	consistency string
}

func (f *readFlags) register(cmd *cobra.Command) {
	f.dataFlags.register(cmd)
	cmd.Flags().StringVar(&f.consistency, "consistency", "latest", "`what` is read: latest (with every write that was acknowledged), or applied (what the sink has now)")
	exits(cmd, map[int]string{
		exitOK:     "read",
		exitUsage:  "wrong usage, refused, or there is no such record",
		exitFailed: "no answer",
		exitStart:  "no server runs for the data directory",
	})
}

func (f *readFlags) with(cmd *cobra.Command, do func(context.Context, *client.Client) error) error {
	if f.consistency != "latest" && f.consistency != "applied" {
		return exitWith(exitUsage, fmt.Errorf("--consistency %q is neither latest nor applied", f.consistency))
	}
	return f.dataFlags.with(cmd, func(ctx context.Context, c *client.Client) error {
		if f.consistency == "applied" {
			c = c.AsApplied()
		}
		return do(ctx, c)
	})
}

func newGet() *cobra.Command {
	var flags readFlags
	var events bool
	cmd := &cobra.Command{
		Use:   "get COLLECTION KEY",
		Short: "Read a record, or its events",
		Long: "get prints a record as JSON, with every write to it that was acknowledged before: it waits until these are\n" +
			"applied, or says why they cannot be. With --events it prints the record's events, one a line.",
		Example: "  walproxy get orders 42\n" +
			"  walproxy get carts 7 --events",
		Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			key, err := flags.key(args[1])
			if err != nil {
				return err
			}
			return flags.with(cmd, func(ctx context.Context, c *client.Client) error {
				if events {
					return printEvents(cmd.OutOrStdout(), c.GetEvents(ctx, args[0], key, 1))
				}
				r, err := c.Get(ctx, args[0], key)
				if err != nil {
					return err
				}
				return printRecord(cmd.OutOrStdout(), r)
			})
		},
	}
	flags.register(cmd)
	flags.registerKey(cmd)
	cmd.Flags().BoolVar(&events, "events", false, "print the record's events instead")
	return cmd
}

func printRecord(out io.Writer, r client.Record) error {
	_, err := out.Write(append(jsonform.AppendDocument(nil, r.Key, r.Document), '\n'))
	return exitWith(exitFailed, err)
}

func printEvents(out io.Writer, events func(func(client.Event, error) bool)) (failed error) {
	events(func(e client.Event, err error) bool {
		var fields map[string]*walproxyv1.Value
		if err == nil {
			fields, err = mutation.FieldsFromAny(e.Fields)
		}
		if err == nil {
			line := jsonform.AppendFields(fmt.Appendf(nil, `{"number":%d,"lsn":%d,"fields":`, e.Number, e.LSN), fields)
			_, err = out.Write(append(line, "}\n"...))
		}
		failed = err
		return err == nil
	})
	return failed
}

func newScan() *cobra.Command {
	var flags readFlags
	var prefix string
	var limit int
	var keys bool
	cmd := &cobra.Command{
		Use:   "scan COLLECTION",
		Short: "List the records of a collection",
		Long: "scan prints the records of a collection in the order of their keys, one a line as JSON. It reads page by page:\n" +
			"what is written meanwhile may be among them or not.",
		Example: "  walproxy scan orders --prefix 2026- --limit 20\n" +
			"  walproxy scan orders --keys",
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return flags.with(cmd, func(ctx context.Context, c *client.Client) error {
				n := 0
				for r, err := range c.Scan(ctx, args[0], prefix) {
					if err == nil && keys {
						_, err = cmd.OutOrStdout().Write(append(jsonform.AppendKey(nil, r.Key), '\n'))
					} else if err == nil {
						err = printRecord(cmd.OutOrStdout(), r)
					}
					if err != nil {
						return err
					}
					if n++; n == limit {
						break
					}
				}
				return nil
			})
		},
	}
	flags.register(cmd)
	cmd.Flags().StringVar(&prefix, "prefix", "", "only string keys that begin with this `text`")
	cmd.Flags().IntVar(&limit, "limit", 0, "at most this `number` of records; 0: all")
	cmd.Flags().BoolVar(&keys, "keys", false, "print the keys alone, as JSON")
	return cmd
}
