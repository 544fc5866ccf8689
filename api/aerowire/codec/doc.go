// Package codec is the Aerospike wire protocol, without sockets: what a client
// sends is parsed into messages, and answers are built as bytes.
//
//	proto    version 2, type, 48-bit length             8 bytes
//	AS_MSG   header 22 bytes, fields, ops               type 3
//	zlib     uint64 length, a compressed proto message  type 4
//	info     names, one per line; answers name\tvalue   type 1
//
// Numbers are big-endian unless said otherwise. Nothing is allocated for what a
// message only claims to hold: every count and length is held against the bytes
// that are there first. What is parsed shares memory with its input.
package codec
