//go:build !linux

package pgwire

// loop is for Linux.
type loop struct{}

func (*loop) close() {}

func startLoops(*Server) ([]*loop, error) { return nil, nil }

func (*session) carry() carrier { return nil }

func (*backend) tame() error { return nil }

func (*backend) unmoor() {}
