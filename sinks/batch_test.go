package sinks

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/uuid"

	walproxyv1 "github.com/walproxy/walproxy/api/proto/walproxy/v1"
)

func at(lsn LSN) Point {
	if lsn == 0 {
		return Point{}
	}
	return Point{Incarnation: uuid.UUID{1}, LSN: lsn}
}

func records(lsns ...LSN) (list []Record) {
	for _, lsn := range lsns {
		list = append(list, Record{LSN: lsn, Body: &walproxyv1.Record{}})
	}
	return list
}

func TestBatchValidate(t *testing.T) {
	move := func(lane int, from, to LSN) Move { return Move{Lane: lane, From: at(from), To: at(to)} }
	for _, c := range []struct {
		name  string
		batch Batch
		field string // "": valid
	}{
		{"records", Batch{Records: records(3, 5, 9), Moves: []Move{move(0, 2, 9)}}, ""},
		{"only moves", Batch{Moves: []Move{move(0, 2, 9), move(1, 0, 9)}}, ""},
		{"a group over lanes", Batch{Records: records(9), Moves: []Move{move(0, 2, 9), move(1, 7, 9)}}, ""},
		{"relane", Batch{Relane: true, Moves: []Move{move(0, 0, 9), move(1, 0, 9)}}, ""},
		{"nothing", Batch{}, "moves"},
		{"records without moves", Batch{Records: records(1)}, "moves"},
		{"backwards", Batch{Moves: []Move{move(0, 9, 2)}}, "moves[0].to"},
		{"nowhere", Batch{Moves: []Move{move(0, 9, 9)}}, "moves[0].to"},
		{"lane twice", Batch{Moves: []Move{move(0, 2, 9), move(0, 2, 9)}}, "moves[1].lane"},
		{"negative lane", Batch{Moves: []Move{move(-1, 2, 9)}}, "moves[0].lane"},
		{"order", Batch{Records: records(5, 3), Moves: []Move{move(0, 2, 9)}}, "records[1].lsn"},
		{"twice", Batch{Records: records(5, 5), Moves: []Move{move(0, 2, 9)}}, "records[1].lsn"},
		{"before the move", Batch{Records: records(2), Moves: []Move{move(0, 2, 9)}}, "records[0].lsn"},
		{"behind the move", Batch{Records: records(9, 10), Moves: []Move{move(0, 2, 9)}}, "records[1].lsn"},
		{"no body", Batch{Records: []Record{{LSN: 3}}, Moves: []Move{move(0, 2, 9)}}, "records[0].body"},
		{"relane with records", Batch{Relane: true, Records: records(9), Moves: []Move{move(0, 0, 9)}}, "records"},
		{"relane without lane 0", Batch{Relane: true, Moves: []Move{move(1, 0, 9)}}, "moves[0].lane"},
	} {
		err := c.batch.Validate()
		if c.field == "" {
			if err != nil {
				t.Errorf("%s: %v", c.name, err)
			}
			continue
		}
		bad, ok := errors.AsType[*BatchError](err)
		if !ok || bad.Field != c.field || OutcomeOf(err) != Halt {
			t.Errorf("%s: %v, outcome %v; want a *BatchError for %s, halt", c.name, err, OutcomeOf(err), c.field)
		}
	}
}

func TestCheckpointBegin(t *testing.T) {
	stored := Checkpoint{Epoch: 4, Lanes: []Point{at(10), at(20)}}
	before := slices.Clone(stored.Lanes)
	for _, c := range []struct {
		name   string
		batch  Batch
		want   []LSN // nil: fenced
		done   bool
		reason string
	}{
		{"one lane", Batch{Epoch: 4, Moves: []Move{{0, at(10), at(15)}}}, []LSN{15, 20}, false, ""},
		{"both", Batch{Epoch: 4, Moves: []Move{{0, at(10), at(25)}, {1, at(20), at(25)}}}, []LSN{25, 25}, false, ""},
		{"again", Batch{Epoch: 4, Moves: []Move{{1, at(11), at(20)}}}, []LSN{10, 20}, true, ""},
		{"both again", Batch{Epoch: 4, Moves: []Move{{0, at(9), at(10)}, {1, at(11), at(20)}}}, []LSN{10, 20}, true, ""},
		{"half", Batch{Epoch: 4, Moves: []Move{{0, at(10), at(25)}, {1, at(11), at(20)}}}, nil, false, "already"},
		{"elsewhere", Batch{Epoch: 4, Moves: []Move{{0, at(9), at(15)}}}, nil, false, "lane 0 is at 10"},
		{"another history", Batch{Epoch: 4, Moves: []Move{{0, Point{Incarnation: uuid.UUID{2}, LSN: 10}, at(15)}}}, nil, false, "lane 0"},
		{"no such lane", Batch{Epoch: 4, Moves: []Move{{2, at(0), at(15)}}}, nil, false, "lane 2 of 2"},
		{"older epoch", Batch{Epoch: 3, Moves: []Move{{0, at(10), at(15)}}}, nil, false, "epoch 3"},
		{"older epoch again", Batch{Epoch: 3, Moves: []Move{{1, at(11), at(20)}}}, nil, false, "epoch 3"},
		{"newer epoch", Batch{Epoch: 5, Moves: []Move{{0, at(10), at(15)}}}, nil, false, "epoch 5"},
		{"relane", Batch{Epoch: 4, Relane: true, Moves: []Move{{Lane: 0, To: at(25)}}}, []LSN{25}, false, ""},
		{"relane again", Batch{Epoch: 4, Relane: true, Moves: []Move{{Lane: 0, To: at(10)}, {Lane: 1, To: at(20)}}}, []LSN{10, 20}, true, ""},
		{"relane of another", Batch{Epoch: 3, Relane: true, Moves: []Move{{Lane: 0, To: at(25)}}}, nil, false, "epoch 3"},
	} {
		next, done, err := stored.Begin(&c.batch)
		if !slices.Equal(stored.Lanes, before) {
			t.Fatalf("%s: Begin changed the checkpoint", c.name)
		}
		if c.want == nil {
			if !errors.Is(err, ErrFenced) || OutcomeOf(err) != Halt || !strings.Contains(err.Error(), c.reason) {
				t.Errorf("%s: %v; want ErrFenced that says %q", c.name, err, c.reason)
			}
			continue
		}
		var got []LSN
		for _, p := range next.Lanes {
			got = append(got, p.LSN)
		}
		if err != nil || done != c.done || !slices.Equal(got, c.want) {
			t.Errorf("%s: lanes %v, done %v, %v; want %v, %v", c.name, got, done, err, c.want, c.done)
		}
	}
}

func TestLow(t *testing.T) {
	if low := (Checkpoint{Lanes: []Point{at(7), at(3), at(9)}}).Low(); low != at(3) {
		t.Errorf("low %v, want 3", low)
	}
	if low := (Checkpoint{}).Low(); !low.IsZero() {
		t.Errorf("low without lanes %v, want zero", low)
	}
}

func TestOutcomeOf(t *testing.T) {
	plain := errors.New("plain")
	for _, c := range []struct {
		err  error
		want Outcome
	}{
		{nil, Applied},
		{plain, Unknown},
		{ErrFenced, Halt},
		{ErrClosed, Halt},
		{fmt.Errorf("x: %w", ErrForeignStream), Halt},
		{fmt.Errorf("x: %w", ErrNoCheckpoint), Halt},
		{WithOutcome(Retry, plain), Retry},
		{fmt.Errorf("x: %w", WithOutcome(Rejected, plain)), Rejected},
		{WithOutcome(Retry, ErrFenced), Retry}, // the mark wins
		{errors.Join(plain, WithOutcome(Halt, plain)), Halt},
	} {
		if got := OutcomeOf(c.err); got != c.want {
			t.Errorf("OutcomeOf(%v) = %v, want %v", c.err, got, c.want)
		}
	}
	if WithOutcome(Retry, nil) != nil {
		t.Error("WithOutcome(nil) is an error")
	}
	if !errors.Is(WithOutcome(Retry, plain), plain) {
		t.Error("WithOutcome hides the error")
	}
}
