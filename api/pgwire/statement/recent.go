package statement

// Recent remembers the text that was read last: a session often sends one again and again,
// with other numbers in it. The zero value remembers none. It is not safe for concurrent use.
type Recent struct {
	text        string
	numbers     []token // its integers
	backslashes bool
	statements  []*Statement
}

// Bounds of what is remembered.
const (
	recentBytes   = 1 << 10
	recentNumbers = 16
	// recentDigits of a number, which then is an integer whatever they are.
	recentDigits = 18
)

// Like returns what Parse has for a text if it differs from the one that is remembered only in
// the values of integers, which no statement depends on; nil: it may differ in more.
func (r *Recent) Like(text []byte, backslashes bool) []*Statement {
	if backslashes != r.backslashes {
		return nil
	}
	at, from := 0, 0
	for _, n := range r.numbers {
		before := r.text[from:n.start]
		if len(text)-at < len(before) || string(text[at:at+len(before)]) != before {
			return nil
		}
		at += len(before)
		first := at
		for at < len(text) && isDigit(text[at]) {
			at++
		}
		if at == first || at-first > recentDigits {
			return nil
		}
		from = int(n.end)
	}
	if string(text[at:]) != r.text[from:] {
		return nil
	}
	return r.statements
}

// keep remembers a text that can be read, by its tokens, or forgets the one before.
func (r *Recent) keep(text string, tokens []token, backslashes bool, statements []*Statement) {
	if r == nil {
		return
	}
	numbers := r.numbers[:0]
	*r = Recent{numbers: numbers}
	if len(text) > recentBytes {
		return
	}
	for _, t := range tokens {
		if t.kind != tokenInteger {
			continue
		}
		if len(numbers) == recentNumbers || !digits(text[t.start:t.end]) {
			return
		}
		numbers = append(numbers, t)
	}
	*r = Recent{text, numbers, backslashes, statements}
}

// digits reports that an integer is written as that and nothing else, with few of them.
func digits(text string) bool {
	for i := range len(text) {
		if !isDigit(text[i]) {
			return false
		}
	}
	return len(text) <= recentDigits
}
