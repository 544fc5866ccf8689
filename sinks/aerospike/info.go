package aerospike

import (
	"context"

	as "github.com/aerospike/aerospike-client-go/v7"

	"github.com/walproxy/walproxy/sinks"
)

// Info asks one node of the cluster, or all of them, and returns the answers. Errors
// have outcomes as with Forward; Unknown is of a command that may have been done.
func (s *Sink) Info(ctx context.Context, command string, all bool) ([]string, error) {
	ctx, leave, err := s.calls.Enter(ctx)
	if err != nil {
		return nil, err
	}
	defer leave()
	client, err := s.connected(ctx)
	if err != nil {
		return nil, err
	}
	var policy as.BasePolicy
	if err := s.timeouts(ctx, &policy); err != nil {
		return nil, err
	}
	var answers []string
	gone := away(errNoNodes)
	for _, n := range client.GetNodes() {
		if !n.IsActive() {
			continue
		}
		if err := s.reach.away(n); err != nil {
			gone = err
			continue
		}
		said, err := wait(ctx, s, sent, func() (string, error) {
			answers, failed := n.RequestInfo(&as.InfoPolicy{Timeout: policy.SocketTimeout}, command)
			if failed != nil {
				return "", judge(failed, sent)
			}
			return answers[command], nil
		})
		if err != nil {
			s.reach.doubt(n)
			return nil, err
		}
		if answers = append(answers, said); !all {
			break
		}
	}
	if len(answers) == 0 {
		return nil, sinks.WithOutcome(sinks.Retry, gone)
	}
	return answers, nil
}
