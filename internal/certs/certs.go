// Package certs serves certificates from files, and what the files say once somebody
// has renewed them.
package certs

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
)

// Files of a server, in PEM.
type Files struct {
	Cert, Key string
	ClientCA  string // if set, who shows no certificate of it is turned away
}

// checkEvery is how long a renewed file may go unnoticed.
const checkEvery = 5 * time.Second

// Server is TLS of a server. Calls may be concurrent.
type Server struct {
	protocols []string
	logger    *zap.Logger
	now       func() time.Time
	current   atomic.Pointer[loaded]

	mu      sync.Mutex // one looks at the files
	checked time.Time
	failed  string // what was wrong last: it is logged once
}

// loaded is what the files held.
type loaded struct {
	files  Files
	stamps [3]stamp
	config *tls.Config
}

// stamp tells two versions of a file apart.
type stamp struct {
	modified time.Time
	size     int64
	inode    uint64
}

// Open loads files; protocols are what a client can choose from (ALPN). Renewed files
// are loaded by the first handshake that comes 5 s behind a look at them, or by Reload.
// While they cannot be read, or do not fit, what was loaded is served on.
func Open(files Files, logger *zap.Logger, protocols ...string) (*Server, error) {
	if logger == nil {
		logger = zap.NewNop()
	}
	s := &Server{protocols: protocols, logger: logger, now: time.Now}
	if err := s.Reload(files); err != nil {
		return nil, err
	}
	return s, nil
}

// Config for a listener.
func (s *Server) Config() *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS12, NextProtos: s.protocols,
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
			s.look()
			return s.current.Load().config, nil
		},
	}
}

// Reload loads files now. After an error what was loaded is served on.
func (s *Server) Reload(files Files) error {
	l, err := s.load(files)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.checked, s.failed = s.now(), ""
	s.current.Store(l)
	return nil
}

// look loads the files if they have changed, and it is time to look.
func (s *Server) look() {
	if !s.mu.TryLock() { // somebody looks
		return
	}
	defer s.mu.Unlock()
	if s.now().Sub(s.checked) < checkEvery {
		return
	}
	s.checked = s.now()
	old := s.current.Load()
	stamps, err := stampsOf(old.files)
	if err == nil && stamps == old.stamps {
		return
	}
	var l *loaded
	if err == nil {
		l, err = s.load(old.files)
	}
	if err != nil {
		if s.failed != err.Error() {
			s.failed = err.Error()
			s.logger.Warn("certificates were changed and cannot be used: those from before are served on", zap.Error(err))
		}
		return
	}
	s.failed = ""
	s.current.Store(l)
	s.logger.Info("renewed certificates are served", zap.String("cert", old.files.Cert), zap.Time("until", l.config.Certificates[0].Leaf.NotAfter))
}

func (s *Server) load(files Files) (*loaded, error) {
	l := &loaded{files: files}
	var err error
	if l.stamps, err = stampsOf(files); err != nil { // before they are read: what is changed meanwhile is read again
		return nil, err
	}
	cert, err := tls.LoadX509KeyPair(files.Cert, files.Key)
	if err != nil {
		return nil, err
	}
	l.config = &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12, NextProtos: s.protocols}
	if files.ClientCA != "" {
		if l.config.ClientCAs, err = Pool(files.ClientCA); err != nil {
			return nil, fmt.Errorf("client_ca: %w", err)
		}
		l.config.ClientAuth = tls.RequireAndVerifyClientCert
	}
	return l, nil
}

// Pool of the certificates in a file.
func Pool(name string) (*x509.CertPool, error) {
	pem, err := os.ReadFile(name)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("%s holds no certificate", name)
	}
	return pool, nil
}

func stampsOf(files Files) (stamps [3]stamp, err error) {
	for i, name := range []string{files.Cert, files.Key, files.ClientCA} {
		if name == "" {
			continue
		}
		info, err := os.Stat(name)
		if err != nil {
			return stamps, err
		}
		stamps[i] = stamp{modified: info.ModTime(), size: info.Size(), inode: inode(info)}
	}
	return stamps, nil
}
