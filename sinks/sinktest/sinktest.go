// Package sinktest is for those who write sinks, or code that drives them: the
// suite that every sink passes (Run), a small correct sink in memory (Memory) and
// a wrapper that fails on command (Faulty).
package sinktest
