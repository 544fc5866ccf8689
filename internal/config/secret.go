package config

import (
	"errors"
	"fmt"
	"os"
	"reflect"
	"regexp"
	"strings"

	"github.com/walproxy/walproxy/internal/vfs"
)

// secretBytesMax bounds what is read of a secret's file.
const secretBytesMax = 64 << 10

// reference is ${NAME}, or $${NAME} for that text itself.
var reference = regexp.MustCompile(`\$?\$\{([A-Za-z_][A-Za-z0-9_]*)\}`)

// isSecret reports whether a key holds what nobody may see, and so may be file:PATH.
func isSecret(key string) bool {
	return strings.HasSuffix(key, ".dsn") || strings.HasSuffix(key, ".password") || strings.HasPrefix(key, "pgwire.users.") || strings.HasPrefix(key, "tracing.headers.")
}

// resolve returns what a value of the file, or of a variable, stands for: ${NAME} is an
// environment variable, in the file alone, and file:PATH what a secret's file holds.
// Errors name the variable or file, never what it holds.
func (d *decoder) resolve(key, text string) (string, error) {
	var missing error
	if d.place == nil {
		text = reference.ReplaceAllStringFunc(text, func(found string) string {
			if strings.HasPrefix(found, "$$") {
				return found[1:]
			}
			name := found[2 : len(found)-1]
			value, ok := d.environment(name)
			if !ok {
				missing = fmt.Errorf("there is no environment variable %s; a text ${%s} is written $${%s}", name, name, name)
			}
			return value
		})
	}
	name, isFile := strings.CutPrefix(text, "file:")
	if missing != nil || !isFile || !isSecret(key) {
		return text, missing
	}
	info, err := os.Stat(name)
	if err != nil {
		return "", err
	}
	if !info.Mode().IsRegular() {
		return "", fmt.Errorf("%s is no file", name)
	}
	held, err := vfs.ReadFile(vfs.OS(), name, secretBytesMax)
	if err != nil {
		return "", err
	}
	secret := strings.TrimRight(string(held), "\r\n")
	if secret == "" {
		return "", errors.New(name + " is empty")
	}
	return secret, nil
}

// environment is a variable's value.
func (d *decoder) environment(name string) (value string, ok bool) {
	for _, entry := range d.environ {
		if value, ok := strings.CutPrefix(entry, name+"="); ok {
			return value, true
		}
	}
	return "", false
}

// set sets v to what text stands for. Of a value that is not what the file says itself,
// errors say nothing.
func (d *decoder) set(v reflect.Value, key, text string) error {
	resolved, err := d.resolve(key, text)
	if err != nil {
		return err
	}
	if err = setScalar(v, resolved); err != nil && resolved != text {
		return fmt.Errorf("what %s stands for is not %s", text, wants(v))
	}
	return err
}
