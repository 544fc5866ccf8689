package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	as "github.com/aerospike/aerospike-client-go/v7"

	"github.com/walproxy/walproxy/api/aerowire/codec"
	"github.com/walproxy/walproxy/internal/aerosuite/script"
	"github.com/walproxy/walproxy/internal/aerosuite/transcript"
)

// Of the random cases: always these, and as many records of each kind.
const (
	seed    = 20261121
	records = 100
)

// transcribe writes what o.server answers to every script.
func (o *options) transcribe(ctx context.Context) error {
	if o.server == "" {
		return errors.New("-record needs -server: a transcript of the endpoint itself would prove nothing")
	}
	about, err := o.prepare()
	if err != nil {
		return err
	}
	for name, cases := range map[string][]script.Case{
		"records": script.Records(), "many": script.Many(), "random": script.Random(seed, records),
	} {
		t := &transcript.Transcript{About: about}
		for _, c := range cases {
			if err := t.Play(ctx, o.server, c.Name, c.Requests); err != nil {
				return fmt.Errorf("%s: %w", c.Name, err)
			}
		}
		path := filepath.Join(o.record, name+".transcript.gz")
		if err := t.WriteFile(path); err != nil {
			return err
		}
		fmt.Printf("%s: %d answers of %s\n", path, len(t.Exchanges), about)
	}
	return o.transcribeSuite(ctx, about)
}

// recordedSpecs are those of the client's suite whose requests are kept: what
// clients make of lists, maps, bits, expressions and batches.
const recordedSpecs = "CDT List Test|CDT Map Test|CDT Bitwise|CDT.*Context|Expression Filters|Expression Operations|" +
	"Aerospike Batch Write operations BatchOperate|Aerospike Data operations on native types"

// Of what the suite sends, so much is kept: it repeats itself.
const (
	perRecord = 30
	perSet    = 40
)

// unrecordedSpecs need what there is not, depend on the clock, or on the order of
// what a server does at once.
const unrecordedSpecs = "Index|Geo|GEO|Aggregat|device size|last update|void time|since update|DeviceSize|MemorySize|RecordSize|digest"

// transcribeSuite runs a part of the client's own test suite through a recorder.
func (o *options) transcribeSuite(ctx context.Context, about string) (err error) {
	dir, err := os.MkdirTemp("", "aerosuite")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }() // a temporary directory
	binary, err := build(ctx, dir)
	if err != nil {
		return err
	}
	recorder, err := transcript.Record(o.server)
	if err != nil {
		return err
	}
	recorder.Case("the client's suite")
	err = o.specs(ctx, binary, recorder.Addr(), filepath.Join(dir, "report.json"))
	exchanges, unheard := recorder.Take()
	if err := errors.Join(err, unheard, recorder.Close()); err != nil {
		return err
	}
	t := &transcript.Transcript{About: about, Exchanges: transcript.Thin(exchanges, perRecord, perSet, codec.OpHLLRead, codec.OpHLLModify)}
	path := filepath.Join(o.record, "suite.transcript.gz")
	fmt.Printf("%s: %d answers of %s\n", path, len(t.Exchanges), about)
	return t.WriteFile(path)
}

// prepare empties the namespace and returns what server it is.
func (o *options) prepare() (about string, err error) {
	host, port, err := splitAddress(o.server)
	if err != nil {
		return "", err
	}
	client, aerr := as.NewClient(host, port)
	if aerr != nil {
		return "", aerr
	}
	defer client.Close()
	if err := client.Truncate(nil, namespace, "", nil); err != nil {
		return "", err
	}
	said, aerr := client.Cluster().GetNodes()[0].RequestInfo(as.NewInfoPolicy(), "version", "build")
	if aerr != nil {
		return "", aerr
	}
	if strings.Contains(said["version"], "build") {
		return said["version"], nil
	}
	return said["version"] + " build " + said["build"], nil
}
