package codec

import "strings"

// ParseInfo returns the names that an info request asks for; none means all.
func ParseInfo(body []byte) []string {
	var names []string
	for name := range strings.SplitSeq(string(body), "\n") {
		if name = strings.TrimSpace(name); name != "" {
			names = append(names, name)
		}
	}
	return names
}

// AppendInfo appends one line of an info answer.
func AppendInfo(dst []byte, name, value string) []byte {
	dst = append(dst, name...)
	dst = append(dst, '\t')
	dst = append(dst, value...)
	return append(dst, '\n')
}

// Settings are name=value, separated by sep, as info's answers and arguments have them.
// What is not of that form is left out.
func Settings(text, sep string) map[string]string {
	all := map[string]string{}
	for part := range strings.SplitSeq(text, sep) {
		if name, value, ok := strings.Cut(part, "="); ok {
			all[name] = value
		}
	}
	return all
}
