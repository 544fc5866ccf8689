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
