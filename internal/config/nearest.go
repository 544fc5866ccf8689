package config

// nearest is the key most like name; empty: none is like it.
func nearest(keys []string, name string) (best string) {
	least := max(1, len(name)/3) + 1
	for _, key := range keys {
		if d := distance(name, key); d < least {
			best, least = key, d
		}
	}
	return best
}

// distance is how many letters have to be put in, left out, changed or, next to each
// other, swapped to make b of a.
func distance(a, b string) int {
	const most = 64 // no key is longer
	if len(a) > most || len(b) > most {
		return len(a) + len(b)
	}
	var rows [most + 1][most + 1]int
	for i := range len(a) + 1 {
		for j := range len(b) + 1 {
			switch {
			case i == 0 || j == 0:
				rows[i][j] = i + j
				continue
			case a[i-1] == b[j-1]:
				rows[i][j] = rows[i-1][j-1]
			default:
				rows[i][j] = 1 + min(rows[i-1][j-1], rows[i-1][j], rows[i][j-1])
			}
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				rows[i][j] = min(rows[i][j], rows[i-2][j-2]+1)
			}
		}
	}
	return rows[len(a)][len(b)]
}
