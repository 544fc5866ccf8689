// Package vfs is the seam to the file system.
package vfs

// FS is replaced by the real thing.
type FS interface{}
