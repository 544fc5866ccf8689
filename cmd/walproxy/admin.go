package main

import (
	"github.com/walproxy/walproxy/api"
	"github.com/walproxy/walproxy/api/admin"
	"github.com/walproxy/walproxy/api/rpc"
	"github.com/walproxy/walproxy/internal/audit"
	"github.com/walproxy/walproxy/mutation"
)

// recentEntries is how many warnings and errors the status page shows.
const recentEntries = 50

// openAdmin makes the handler of the admin port. The status page's calls are the API's,
// on a server of their own: who may do what there is the admin port's business.
func (i *instance) openAdmin(core api.Core, keyType func(string) mutation.KeyType) (err error) {
	i.adminCalls, err = rpc.New(rpc.Options{
		Core:             core,
		KeyType:          keyType,
		MaxItemBytes:     int64(i.config.API.MaxItemBytes),
		MaxInFlightBytes: adminInFlightBytes,
		Version:          versionName(),
		Audit:            audit.New(i.config.DataDir, i.logger.Named("audit")),
		Logger:           i.logger.Named("admin"),
	})
	if err != nil {
		return err
	}
	policy := i.config.AdminAccess()
	i.adminHandler = admin.New(admin.Options{
		Core: core, Gatherer: i.registry, API: i.adminCalls, Recent: i.recent,
		Limits:        admin.Limits{MaxBytes: int64(i.config.Log.MaxBytes), MinFree: int64(i.config.Log.MinFree)},
		Authenticated: len(policy.Tokens) > 0 || policy.Certificates,
	})
	return nil
}

// adminInFlightBytes bounds the bodies that the admin port reads at once.
const adminInFlightBytes = 4 << 20
