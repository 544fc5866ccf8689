package replay

import (
	"github.com/google/uuid"

	"github.com/walproxy/walproxy/sinks"
	"github.com/walproxy/walproxy/wal"
)

// PlanView is a Plan for people and scripts: what the API and --json show.
type PlanView struct {
	Sink    string `json:"sink"`
	Refusal string `json:"refusal"`
	// Token names the decision; empty: it has to be said after which LSN.
	Token       string      `json:"token,omitempty"`
	AfterNeeded bool        `json:"after_needed,omitempty"`
	Store       StoreView   `json:"store"`
	Claimed     string      `json:"claimed,omitempty"` // identity
	Target      []wal.Point `json:"target,omitempty"`
	Stream      uuid.UUID   `json:"stream"`
	First       wal.LSN     `json:"first"`
	Last        wal.LSN     `json:"last"`
	Incarnation []wal.Point `json:"incarnations"` // where each begins
	Applied     wal.LSN     `json:"applied_noted"`
	Effects     []string    `json:"effects"`
	Never       []LSNRange  `json:"never_applied,omitempty"`
	Again       []LSNRange  `json:"applied_again,omitempty"`
}

// StoreView is what a store says of itself.
type StoreView struct {
	Identity string        `json:"identity,omitempty"`
	Missing  bool          `json:"checkpoint_missing,omitempty"`
	Stream   *uuid.UUID    `json:"stream,omitempty"`
	Epoch    uint64        `json:"epoch,omitempty"`
	Lanes    []sinks.Point `json:"lanes,omitempty"`
}

// View returns what there is to be seen.
func (p *Plan) View() PlanView {
	v := PlanView{
		Sink: p.Sink, AfterNeeded: !p.Complete(), Claimed: p.Claimed, Target: p.Target.Lanes, Stream: p.Stream,
		First: p.First, Last: p.Last, Incarnation: p.History, Applied: p.NotedApplied, Effects: p.Effects, Never: p.Never, Again: p.Again,
		Store: StoreView{Identity: p.Identity, Missing: p.Missing},
	}
	if p.Refusal != nil {
		v.Refusal = p.Refusal.Error()
	}
	if p.Complete() {
		v.Token = p.Token()
	}
	if !p.Missing {
		v.Store.Stream, v.Store.Epoch, v.Store.Lanes = &p.Found.Stream, p.Found.Epoch, p.Found.Lanes
	}
	return v
}
