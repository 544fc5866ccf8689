package aerowire

import (
	"bytes"
	"cmp"
	"context"
	"encoding/base64"
	"fmt"
	"hash/fnv"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/walproxy/walproxy/api/aerowire/codec"
)

// build is the version of the server whose protocol this is.
const build = "7.2.0.0"

// features are what clients ask about before they use it.
const features = "batch-any;blob-bits;cdt-list;cdt-map;float;geo;pipelining;pquery;pscans;query-show;replicas;" +
	"truncate-namespace"

// nodeName makes 16 hexadecimal digits of an address.
func nodeName(a net.Addr) string {
	h := fnv.New64a()
	h.Write([]byte(a.String()))
	return fmt.Sprintf("%016X", h.Sum64()|1)
}

// infoBytesMax bounds the answer to an info request, which may name the same a million
// times: a function's source is the longest that one name has.
const infoBytesMax = 4 << 20

var errInfoTooLong = fmt.Errorf("%w: an info request whose answer is longer than %d bytes", codec.ErrMalformed, infoBytesMax)

// info answers an info request: a line per name, in the order asked for.
func (c *conn) info(ctx context.Context, body []byte) error {
	began := time.Now()
	if err := c.settle(ctx); err != nil {
		return c.sent(kindInfo, unanswered, began, err)
	}
	names := codec.ParseInfo(body)
	if len(names) == 0 {
		names = []string{"node", "build", "edition", "version", "features", "partition-generation", "service", "statistics"}
	}
	out := codec.AppendProto(nil, codec.TypeInfo, 0)
	for _, name := range names {
		answer, err := c.infoOf(ctx, name)
		if err != nil {
			return c.sent(kindInfo, unanswered, began, err)
		}
		out = codec.AppendInfo(out, name, answer)
		if len(out) > infoBytesMax {
			return c.sent(kindInfo, unanswered, began, errInfoTooLong)
		}
	}
	codec.SetProto(out, codec.TypeInfo)
	return c.sent(kindInfo, codec.OK, began, c.write(out))
}

// infoFail is an error as info tells it.
func infoFail(r codec.Result, text string) string { return fmt.Sprintf("ERROR:%d:%s", byte(r), text) }

// infoOf answers one name. An error ends the connection: a write's outcome is
// unknown.
func (c *conn) infoOf(ctx context.Context, name string) (string, error) {
	s := c.s
	switch name {
	case "node":
		return s.o.Node, nil
	case "build", "build_version":
		return build, nil
	case "edition":
		return "Aerospike Community Edition", nil
	case "version":
		return "Aerospike Community Edition build " + build, nil
	case "features":
		return features, nil
	case "partition-generation", "peers-generation":
		return "1", nil
	case "cluster-name":
		if s.o.ClusterName == "" {
			return "null", nil
		}
		return s.o.ClusterName, nil
	case "replicas", "replicas-all", "replicas-master":
		return s.replicas(name), nil
	case "rack-ids":
		return s.perNamespace(func(ns string) string { return ns + ":0" }), nil
	case "racks:":
		return s.perNamespace(func(ns string) string { return "ns=" + ns + ":rack_0=" + s.o.Node }), nil
	case "namespaces":
		return strings.Join(s.o.Namespaces, ";"), nil
	case "services", "services-alumni", "alumni-clear-std", "alumni-tls-std":
		return "", nil
	case "health-outliers", "health-stats", "roster", "jobs":
		return "", nil
	case "status":
		return "ok", nil
	case "statistics":
		return s.statistics(), nil
	}
	switch {
	case strings.HasPrefix(name, "peers-"):
		return fmt.Sprintf("1,%s,[]", c.port()), nil
	case name == "service" || strings.HasPrefix(name, "service-"):
		return c.net.LocalAddr().String(), nil
	}
	return c.command(ctx, name)
}

func (c *conn) port() string {
	_, port, err := net.SplitHostPort(c.net.LocalAddr().String())
	if err != nil {
		return "3000"
	}
	return port
}

func (s *Server) perNamespace(f func(ns string) string) string {
	lines := make([]string, 0, len(s.o.Namespaces))
	for _, ns := range s.o.Namespaces {
		lines = append(lines, f(ns))
	}
	return strings.Join(lines, ";")
}

// replicas says that this node owns all partitions: as a bit for each.
func (s *Server) replicas(name string) string {
	all := base64.StdEncoding.EncodeToString(bytes.Repeat([]byte{0xff}, partitions/8))
	return s.perNamespace(func(ns string) string {
		switch name {
		case "replicas":
			return ns + ":0,1," + all
		case "replicas-all":
			return ns + ":1," + all
		}
		return ns + ":" + all
	})
}

// statistics are about this endpoint; the log's are metrics. As of a cluster, the key
// is a new one after every start: who writes here can tell a restart by it.
func (s *Server) statistics() string {
	return strings.Join([]string{
		"cluster_size=1", "cluster_key=" + strings.ToUpper(strconv.FormatUint(s.run, 16)), "cluster_integrity=true", "cluster_is_member=true",
		"uptime=" + strconv.FormatInt(int64(time.Since(s.started).Seconds()), 10),
		"client_connections=" + strconv.Itoa(s.open()),
		"client_connections_opened=" + strconv.FormatInt(s.stats.opened.Load(), 10),
		"requests_panicked=" + strconv.FormatInt(s.stats.panicked.Load(), 10),
	}, ";")
}

// command answers a name with arguments: what:key=value;key=value, or what/name.
func (c *conn) command(ctx context.Context, name string) (string, error) {
	what, arguments, _ := strings.Cut(name, ":")
	args := codec.Settings(arguments, ";")
	if ns, ok := strings.CutPrefix(name, "namespace/"); ok {
		return c.s.namespaceInfo(ns), nil
	}
	if answer, ok, err := c.s.frontInfo(ctx, name, what, args); ok || err != nil {
		return answer, err
	}
	switch what {
	case "truncate", "truncate-namespace":
		return c.s.truncate(ctx, what, args)
	case "cluster-stable":
		return c.s.o.Node, nil // the cluster's key, as statistics have it
	case "sindex-exists":
		return "false", nil
	case "sindex-stat":
		return infoFail(codec.IndexNotFound, "no index"), nil
	case "roster", "quiesce", "quiesce-undo":
		return infoFail(codec.EnterpriseOnly, "not of this edition"), nil
	case "racks", "sindex", "sindex-list", "query-show", "scan-show", "health-outliers", "udf-list":
		return "", nil
	case "get-config":
		return c.s.config(args), nil
	case "sindex-create", "sindex-delete", "udf-put", "udf-remove", "udf-get", "truncate-undo", "truncate-namespace-undo",
		"query-abort", "scan-abort", "query-abort-all", "scan-abort-all", "jobs", "set-config", "recluster":
		return infoFail(codec.Unsupported, "unsupported"), nil
	}
	switch prefix, _, _ := strings.Cut(name, "/"); prefix {
	case "sets", "sindex", "bins":
		return "", nil
	}
	return infoFail(codec.Parameter, "unrecognized command"), nil
}

func (s *Server) namespaceInfo(ns string) string {
	if !slices.Contains(s.o.Namespaces, ns) {
		return infoFail(codec.NamespaceNotFound, "namespace not found")
	}
	return strings.Join([]string{
		"ns_cluster_size=1", "effective_replication_factor=1", "replication-factor=1", "strong-consistency=false",
		"nsup-period=120", "default-ttl=0", "max-record-size=" + strconv.Itoa(s.o.MaxRecordBytes),
		"stop_writes=false", "storage-engine=device", "migrate_tx_partitions_remaining=0",
	}, ";")
}

func (s *Server) config(args map[string]string) string {
	switch args["context"] {
	case "namespace":
		return s.namespaceInfo(cmp.Or(args["namespace"], args["id"]))
	case "service", "":
		return "batch-max-requests=" + strconv.Itoa(s.o.MaxBatchRows)
	}
	return infoFail(codec.Parameter, "unknown context")
}
