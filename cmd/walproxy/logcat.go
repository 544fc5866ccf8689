package main

import (
	"bufio"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"os/signal"
	"path"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	walproxyv1 "github.com/walproxy/walproxy/api/proto/walproxy/v1"
	"github.com/walproxy/walproxy/internal/jsonform"
	"github.com/walproxy/walproxy/mutation"
	"github.com/walproxy/walproxy/wal"
)

func newLogCat() *cobra.Command {
	var flags logFlags
	var c logCat
	cmd := &cobra.Command{
		Use:   "cat",
		Short: "Print the records of the log as JSON lines",
		Long: "cat prints one JSON object per record: lsn, bytes, time, routes, kind, and under the kind's name what\n" +
			"it does; a mutation in the form that the API takes. What cannot be read is a line, too: {\"damage\":\n" +
			"{...}} or {\"gap\": {...}}, and cat goes on behind it. --keys-only prints no values, --raw decodes\n" +
			"nothing. --follow goes on with what becomes durable until it is interrupted.",
		Example: "  walproxy log cat --data-dir /var/lib/walproxy --collection orders --since 2h\n" +
			"  walproxy log cat --data-dir /var/lib/walproxy --from-lsn 1200 --to-lsn 1300 --keys-only\n" +
			"  walproxy log cat --data-dir /var/lib/walproxy --follow",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := c.parse(time.Now()); err != nil {
				return exitWith(exitUsage, err)
			}
			in, err := flags.inspect(cmd)
			if err != nil {
				return err
			}
			ctx, stop := signal.NotifyContext(cmd.Context(), syscall.SIGINT, syscall.SIGTERM)
			defer stop()
			return c.run(ctx, cmd, in)
		},
	}
	flags.register(cmd)
	f := cmd.Flags()
	f.Uint64Var(&c.from, "from-lsn", 0, "begin with this `LSN`")
	f.Uint64Var(&c.to, "to-lsn", 0, "end with this `LSN`")
	f.StringVar(&c.sinceText, "since", "", "accepted at this `time` (RFC 3339) or so long ago (as 2h) or later")
	f.StringVar(&c.untilText, "until", "", "accepted at this `time` (RFC 3339) or so long ago (as 2h) or before")
	f.StringVar(&c.collection, "collection", "", "only collections that match this `pattern`")
	f.StringVar(&c.key, "key", "", "only this `key`: text, a number, or JSON for a composite one")
	f.Uint64Var(&c.limit, "limit", 0, "stop after `n` records")
	f.BoolVar(&c.raw, "raw", false, "payloads as they are, in base64; nothing is decoded that no filter needs")
	f.BoolVar(&c.keysOnly, "keys-only", false, "collections and keys, no values")
	f.BoolVar(&c.follow, "follow", false, "go on with what becomes durable, until interrupted")
	cmd.MarkFlagsMutuallyExclusive("raw", "keys-only")
	exits(cmd, map[int]string{
		exitOK:      "all was printed; or --follow was interrupted",
		exitDamaged: "all that can be read was printed; some of the log is damaged, or records cannot be decoded",
	})
	return cmd
}

type logCat struct {
	from, to, limit       uint64
	sinceText, untilText  string
	since, until          time.Time
	collection, key       string
	raw, keysOnly, follow bool

	line    []byte
	outline mutation.Outline
	printed uint64
	hurt    int // damages, and records that cannot be decoded
}

func (c *logCat) parse(now time.Time) (err error) {
	if c.since, err = parseMoment("--since", c.sinceText, now); err != nil {
		return err
	}
	if c.until, err = parseMoment("--until", c.untilText, now); err != nil {
		return err
	}
	if _, err := path.Match(c.collection, ""); err != nil {
		return fmt.Errorf("--collection %q: %w", c.collection, err)
	}
	return nil
}

// parseMoment reads a time, or how long ago it is. Zero: none.
func parseMoment(flag, text string, now time.Time) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	if ago, err := time.ParseDuration(text); err == nil {
		return now.Add(-ago), nil
	}
	at, err := time.Parse(time.RFC3339Nano, text)
	if err != nil {
		return at, fmt.Errorf("%s %q is neither a time (as 2026-01-31T12:00:00Z) nor a duration (as 90m)", flag, text)
	}
	return at, nil
}

func (c *logCat) run(ctx context.Context, cmd *cobra.Command, in *wal.Inspection) error {
	from := max(wal.LSN(c.from), in.First)
	if !c.since.IsZero() {
		from = max(from, beginOf(in, c.since))
	}
	frames := in.Frames(from)
	if c.follow {
		frames = wal.Follow(ctx, in.Dir, from, wal.InspectOptions{})
	}
	out := bufio.NewWriterSize(cmd.OutOrStdout(), 64<<10)
	err := errors.Join(c.print(ctx, out, frames), out.Flush())
	switch {
	case err != nil && !errors.Is(err, syscall.EPIPE):
		return exitWith(exitFailed, err)
	case ctx.Err() != nil && !c.follow:
		return exitWith(exitFailed, errors.New("interrupted"))
	case c.hurt > 0:
		return exitWith(exitDamaged, fmt.Errorf("%d places could not be read or decoded: see the lines with \"damage\" or \"error\"; "+
			"`walproxy log verify` says all about them", c.hurt))
	}
	return nil
}

// beginOf is a record at or before the first that was accepted at since or later:
// times never go back from one LSN to the next.
func beginOf(in *wal.Inspection, since time.Time) wal.LSN {
	for _, s := range slices.Backward(in.Segments) {
		if at := firstAccepted(s); !at.IsZero() && at.Before(since) {
			return s.First
		}
	}
	return in.First
}

// print writes a line for each frame. A follower sees it at once.
func (c *logCat) print(ctx context.Context, out *bufio.Writer, frames iter.Seq2[wal.Frame, error]) error {
	for f, err := range frames {
		if ctx.Err() != nil {
			return nil
		}
		switch {
		case err != nil:
			c.notRead(err)
		case c.to > 0 && f.LSN > wal.LSN(c.to):
			return nil
		case f.Gap:
			c.line = fmt.Appendf(c.line[:0], `{"gap":{"first_lsn":%d,"last_lsn":%d}}`, f.LSN, f.Last)
		default:
			over, shown := c.record(f)
			if over {
				return nil
			}
			if !shown {
				continue
			}
			c.printed++
		}
		if len(c.line) == 0 {
			continue
		}
		if _, err := out.Write(append(c.line, '\n')); err != nil {
			return err
		}
		if c.follow {
			if err := out.Flush(); err != nil {
				return err
			}
		}
		if c.limit > 0 && c.printed >= c.limit {
			return nil
		}
	}
	return nil
}

// notRead makes the line of what stands in the way. A torn tail is none: no record
// of it was ever acknowledged.
func (c *logCat) notRead(err error) {
	c.line = c.line[:0]
	if _, torn := errors.AsType[*wal.TornTailError](err); torn {
		return
	}
	d := newDamageJSON(err)
	if c.to > 0 && d.First > wal.LSN(c.to) {
		return
	}
	if !errors.Is(err, wal.ErrFreed) {
		c.hurt++
	}
	text, jsonErr := json.Marshal(map[string]damageJSON{"damage": d})
	if jsonErr != nil { // of numbers and texts: not reached
		text = []byte(`{"damage":{}}`)
	}
	c.line = append(c.line, text...)
}

// record makes the line of a record, unless a filter leaves it out. over: no later
// one is wanted.
func (c *logCat) record(f wal.Frame) (over, shown bool) {
	at, timed := mutation.AcceptedAt(f.Payload)
	if timed && !c.until.IsZero() && at.After(c.until) {
		return true, false
	}
	if timed && at.Before(c.since) {
		return false, false
	}
	c.line = fmt.Appendf(c.line[:0], `{"lsn":%d,"bytes":%d,`, f.LSN, len(f.Payload))
	filtered := c.collection != "" || c.key != ""
	if c.raw && !filtered {
		c.line = c.appendRaw(c.line, f)
		return false, true
	}
	if (c.keysOnly || filtered) && c.outline.Read(f.Payload) {
		collection, key, err := mutation.ParseKey(c.outline.Key)
		if err == nil {
			if filtered && !c.matches(collection, key) {
				return false, false
			}
			switch {
			case c.keysOnly:
				c.line = appendKeys(c.line, at, "mutation", []target{{collection, key}})
				return false, true
			case c.raw:
				c.line = c.appendRaw(c.line, f)
				return false, true
			}
		}
	}
	return false, c.decoded(f, at, filtered)
}

type target struct {
	collection string
	key        *walproxyv1.Key
}

// decoded makes the line of a record from all that is in it.
func (c *logCat) decoded(f wal.Frame, at time.Time, filtered bool) (shown bool) {
	rec, err := mutation.Decode(f.Payload)
	if err != nil {
		c.hurt++
		c.line = append(jsonform.AppendString(append(c.line, `"error":`...), err.Error()), ',')
		c.line = c.appendRaw(c.line, f)
		return true
	}
	var targets []target
	matches := !filtered
	mutation.Keys(rec, func(collection string, key *walproxyv1.Key) {
		targets = append(targets, target{collection, key})
		matches = matches || c.matches(collection, key)
	})
	switch {
	case !matches:
		return false
	case c.raw:
		c.line = c.appendRaw(c.line, f)
	case c.keysOnly:
		c.line = appendKeys(c.line, at, jsonform.KindOf(rec), targets)
	default:
		c.line = append(jsonform.AppendRecord(c.line, rec), '}')
	}
	return true
}

func (c *logCat) appendRaw(dst []byte, f wal.Frame) []byte {
	dst = fmt.Appendf(dst, `"segment":"%016x","offset":%d,"payload":"`, f.Segment, f.Offset)
	return append(base64.StdEncoding.AppendEncode(dst, f.Payload), `"}`...)
}

func appendKeys(dst []byte, at time.Time, kind string, targets []target) []byte {
	if !at.IsZero() {
		dst = append(jsonform.AppendTime(append(dst, `"time":"`...), at), `",`...)
	}
	dst = append(jsonform.AppendString(append(dst, `"kind":`...), kind), `,"keys":[`...)
	for i, t := range targets {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = jsonform.AppendString(append(dst, `{"collection":`...), t.collection)
		if t.key != nil {
			dst = jsonform.AppendKey(append(dst, `,"key":`...), t.key)
		}
		dst = append(dst, '}')
	}
	return append(dst, "]}"...)
}

func (c *logCat) matches(collection string, key *walproxyv1.Key) bool {
	if c.collection != "" {
		if ok, _ := path.Match(c.collection, collection); !ok { // it was parsed
			return false
		}
	}
	if c.key == "" {
		return true
	}
	form := string(jsonform.AppendKey(nil, key))
	return form == c.key || form == strconv.Quote(c.key) || form == string(jsonform.AppendString(nil, c.key)) ||
		strings.HasPrefix(c.key, "[") && form == strings.ReplaceAll(c.key, " ", "")
}
