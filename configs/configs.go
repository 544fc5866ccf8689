// Package configs holds the sample configuration files.
package configs

import _ "embed"

// Default is the commented file with every default.
//
//go:embed walproxy.yaml
var Default []byte
