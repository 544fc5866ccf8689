package main

import (
	"net/http"

	"github.com/walproxy/walproxy/api"
	"github.com/walproxy/walproxy/api/admin"
	"github.com/walproxy/walproxy/api/rpc"
	"github.com/walproxy/walproxy/internal/access"
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
	i.adminHandler = admin.New(admin.Options{
		Core: core, Gatherer: i.registry, API: i.adminCalls, Recent: i.recent,
		Limits:        admin.Limits{MaxBytes: int64(i.config.Log.MaxBytes), MinFree: int64(i.config.Log.MinFree)},
		Authenticated: authenticated(i.config.AdminAccess()),
		Calls: map[string]http.Handler{
			"POST /reload":    http.HandlerFunc(i.reloader.serve),
			"GET /log-level":  http.HandlerFunc(i.serveLevel),
			"POST /log-level": http.HandlerFunc(i.serveLevel),
		},
	})
	return nil
}

// authenticated reports whether whoever comes through has shown who it is.
func authenticated(p access.Policy) bool { return len(p.Tokens) > 0 || p.Certificates }

// adminInFlightBytes bounds the bodies that the admin port reads at once.
const adminInFlightBytes = 4 << 20
