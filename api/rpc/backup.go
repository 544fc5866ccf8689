package rpc

import (
	"context"
	"net/http"
	"os"
	"strconv"
	"time"

	"go.uber.org/zap"

	"github.com/walproxy/walproxy/internal/backup"
)

// copyTimeout bounds how long making the copy may hold up what it holds up.
const copyTimeout = time.Minute

// postBackup makes a copy of log, state and embedded stores, and sends it as a tar
// stream that ends with its manifest: without that it is not complete.
func (s *Server) postBackup(w http.ResponseWriter, r *http.Request, _ target) *Error {
	q := parseQuery(r, "rate")
	rate := int64(0)
	if text := q.values.Get("rate"); text != "" {
		var err error
		if rate, err = strconv.ParseInt(text, 10, 64); err != nil || rate < 1 {
			q.fail(invalid("rate", "want bytes per second, from 1"))
		}
	}
	if q.failed != nil {
		return q.failed
	}
	if s.options.BackupDir == "" {
		return &Error{Status: http.StatusNotImplemented, Code: "no_backup", Message: "this server makes no backups"}
	}
	if !s.backup.TryLock() {
		return &Error{Status: http.StatusConflict, Code: "backup_running", Message: "one backup at a time", Retryable: true, after: 30}
	}
	defer s.backup.Unlock()
	ctx, cancel := context.WithCancelCause(r.Context())
	defer cancel(nil)
	defer context.AfterFunc(s.stopping, func() { cancel(errStopping) })()
	if err := os.RemoveAll(s.options.BackupDir); err != nil { // of a crash
		return translate(err, refused)
	}
	making, done := context.WithTimeout(ctx, copyTimeout)
	copied, err := s.core.Backup(making, s.options.BackupDir)
	done()
	if err != nil {
		return backupError(err)
	}
	defer func() {
		if err := os.RemoveAll(s.options.BackupDir); err != nil {
			s.logger.Warn("the copy of a backup stays: remove it", zap.String("dir", s.options.BackupDir), zap.Error(err))
		}
	}()
	m := backup.Manifest{Made: time.Now().UTC(), By: s.options.Version, Stream: copied.Log.Stream, Incarnation: copied.Log.Incarnation,
		First: copied.Log.First, Last: copied.Log.Last, Stores: copied.Stores}
	w.Header().Set("Content-Type", "application/x-tar")
	w.Header().Set("Cache-Control", "no-store")
	sent, err := backup.Send(ctx, w, s.options.BackupDir, m, rate)
	if err != nil { // the stream has no manifest: who reads it knows
		s.logger.Warn("a backup broke off", zap.Error(err))
		return nil
	}
	s.logger.Info("a backup was sent", zap.Uint64("last_lsn", uint64(m.Last)), zap.Int64("bytes", sent.Bytes()), zap.String("to", r.RemoteAddr))
	return nil
}

func backupError(err error) *Error {
	e := translate(err, refused)
	if e.Code == "store_unavailable" {
		e.Code, e.Message = "backup_failed", "no copy could be made: "+err.Error()
	}
	return e
}
