package aerospike

import (
	"context"
	"fmt"
	"slices"
	"time"

	as "github.com/aerospike/aerospike-client-go/v7"
	"go.uber.org/zap"

	"github.com/walproxy/walproxy/api/aerowire/codec"
	"github.com/walproxy/walproxy/sinks"
)

// Describe implements sinks.Describer.
func (s *Sink) Describe() sinks.Description {
	o := s.owner
	o.mu.Lock()
	defer o.mu.Unlock()
	d := sinks.Description{Warnings: slices.Clone(o.mu.warnings)}
	if o.mu.state != nil && o.mu.refused == nil {
		d.Owner = o.mu.state.Owner
	}
	if w := unsettledWarning(o.stuckLocked(), s.o.Settle, o.unsettledLocked(), o.mu.rewinds); w != "" {
		d.Warnings = append(d.Warnings, w)
	}
	return d
}

// unsettledWarning is what to do about a log that only grows, because nothing has settled
// for so long.
func unsettledWarning(stuck, settle time.Duration, unsettled sinks.LSN, rewinds int) string {
	if settle = max(settle, time.Second); stuck < max(6*settle, time.Minute) {
		return ""
	}
	why := "not all nodes answer"
	if rewinds > 0 {
		why = fmt.Sprintf("nodes were restarted, left or joined %d times meanwhile", rewinds)
	}
	return fmt.Sprintf("nothing was settled for %v, so the log keeps %d records that are applied, and grows: %s; "+
		"keep the nodes running for more than twice cluster.settle (%v), or make that shorter, but longer than they take to write to their disks (flush-max-ms, max-write-cache)",
		stuck.Round(time.Second), unsettled, why, settle)
}

// advise looks for what in the namespaces' configuration takes away what is promised.
// It is asked at every claim, of a cluster with so many nodes.
func (o *owner) advise(ctx context.Context, members int) {
	var warnings []string
	for _, ns := range o.sink.o.namespaces() {
		config, err := o.sink.namespace(ctx, ns)
		if err != nil {
			o.sink.log.Debug("the configuration of a namespace was not read", zap.String("namespace", ns), zap.Error(err))
			continue
		}
		warnings = append(warnings, adviceFor(ns, config, members)...)
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, w := range warnings {
		if !slices.Contains(o.mu.warnings, w) {
			o.sink.log.Warn(w)
		}
	}
	o.mu.warnings = warnings
}

// adviceFor is what somebody should change in a namespace of so many nodes.
func adviceFor(ns string, config map[string]string, members int) (list []string) {
	if config["strong-consistency"] == "true" {
		list = append(list, fmt.Sprintf("namespace %s has strong consistency, with which walproxy was never tested: what is promised of others is not promised of it", ns))
	}
	if members < 2 {
		return list
	}
	if config["replication-factor"] == "1" {
		list = append(list, fmt.Sprintf("namespace %s has one copy of each record (replication-factor 1): while a node is away its records are, and what is written to them meanwhile is lost when it is back", ns))
	}
	if config["conflict-resolution-policy"] == "generation" {
		list = append(list, fmt.Sprintf("namespace %s keeps the copy with more writes, not the newer one: a node that was away while a record was deleted and made anew brings the old one back; set conflict-resolution-policy last-update-time on every node", ns))
	}
	return list
}

// namespaces that collections are known to be in, and the state record.
func (o *Options) namespaces() []string {
	list := []string{o.Namespace, o.State.Namespace}
	for _, c := range o.Collections {
		if c.Namespace != "" {
			list = append(list, c.Namespace)
		}
	}
	slices.Sort(list)
	return slices.Compact(list)
}

// namespace asks a node for a namespace's configuration and statistics.
func (s *Sink) namespace(ctx context.Context, ns string) (map[string]string, error) {
	client, err := s.client(ctx)
	if err != nil {
		return nil, err
	}
	policy := as.BasePolicy{}
	if err := s.timeouts(ctx, &policy); err != nil {
		return nil, err
	}
	members := client.GetNodes()
	if len(members) == 0 {
		return nil, sinks.WithOutcome(sinks.Retry, errNoNodes)
	}
	command := "namespace/" + ns
	answers, failed := members[0].RequestInfo(&as.InfoPolicy{Timeout: policy.SocketTimeout}, command)
	if failed != nil {
		return nil, judge(failed, notSent)
	}
	return codec.Settings(answers[command], ";"), nil
}

var _ sinks.Describer = (*Sink)(nil)
