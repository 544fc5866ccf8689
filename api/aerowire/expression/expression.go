// Package expression evaluates Aerospike's expressions: filters of records, and
// values that are read or written by an operation.
//
// An expression is a MessagePack list of a code and its arguments; everything
// that is no list stands for itself. What a record lacks makes an expression
// unknown, which is neither true nor false. What is not known here is
// codec.Unsupported, what makes no sense codec.Parameter.
package expression

import (
	"errors"
	"regexp"
	"regexp/syntax"
	"time"

	"github.com/walproxy/walproxy/api/aerowire/codec"
	"github.com/walproxy/walproxy/api/aerowire/value"
)

// ErrUnknown: the expression has no value for this record.
var ErrUnknown = errors.New("aerowire: the expression is unknown")

// Codes of expressions (exp_op_code of the server).
const (
	opUnknown   = 0
	opEqual     = 1
	opNotEqual  = 2
	opGreater   = 3
	opAtLeast   = 4
	opLess      = 5
	opAtMost    = 6
	opRegex     = 7
	opGeo       = 8
	opInList    = 9
	opAnd       = 16
	opOr        = 17
	opNot       = 18
	opExclusive = 19
	opAdd       = 20
	opSub       = 21
	opMul       = 22
	opDiv       = 23
	opPow       = 24
	opLog       = 25
	opMod       = 26
	opAbs       = 27
	opFloor     = 28
	opCeil      = 29
	opToInt     = 30
	opToFloat   = 31
	opIntAnd    = 32
	opIntOr     = 33
	opIntXor    = 34
	opIntNot    = 35
	opShiftLeft = 36
	opShiftLog  = 37
	opShiftArit = 38
	opCount     = 39
	opScanLeft  = 40
	opScanRight = 41
	opMin       = 50
	opMax       = 51
	opDigestMod = 64
	opDevice    = 65
	opUpdated   = 66
	opSince     = 67
	opVoidTime  = 68
	opTTL       = 69
	opSetName   = 70
	opKeyExists = 71
	opTombstone = 72
	opMemory    = 73
	opSize      = 74
	opKey       = 80
	opBin       = 81
	opBinType   = 82
	opMapKeys   = 101
	opMapValues = 102
	opCond      = 123
	opVar       = 124
	opLet       = 125
	opQuote     = 126
	opCall      = 127
)

// Types that a bin, a key or a call is declared to have.
const (
	typeNil    = 0
	typeBool   = 1
	typeInt    = 2
	typeString = 3
	typeList   = 4
	typeMap    = 5
	typeBlob   = 6
	typeFloat  = 7
	typeGeo    = 8
	typeHLL    = 9
)

// BytesMax is the largest expression.
const BytesMax = 1 << 20

// Record is what an expression is evaluated on.
type Record struct {
	// Bin returns what a bin holds, and its particle type; ok is false if there is
	// no such bin.
	Bin     func(name string) (v value.Value, particle byte, ok bool)
	Digest  [codec.DigestBytes]byte
	Set     string
	Key     value.Value // the user's, if it is stored
	HasKey  bool
	Updated time.Time
	Expires time.Time // zero: never
	Now     time.Time
	Size    int

	Steps int // that evaluations have taken: they are counted here
}

// Expression is a parsed expression.
type Expression struct {
	root value.Value
	kind int64 // its type
	// patterns are compiled once, by flags and text.
	patterns map[pattern]compiled
	// patternBytes of all of them.
	patternBytes int
}

// compiled is a pattern and how many instructions it has, each of which may be tried at
// every byte.
type compiled struct {
	*regexp.Regexp
	size int
}

// patternMax bounds the patterns of an expression, in bytes: a class of a few takes
// some thousand. instructionsMax bounds what is made of one: a few bytes repeat another
// one a thousand times.
const (
	patternMax      = 16 << 10
	instructionsMax = 10_000
)

type pattern struct {
	flags int64
	text  string
}

// Parse reads a filter: an expression that is true or false.
func Parse(data []byte) (*Expression, error) {
	if len(data) > BytesMax {
		return nil, codec.Parameter
	}
	root, err := value.Decode(data)
	if err != nil {
		return nil, codec.Parameter
	}
	e, err := New(root)
	if err == nil && e.kind != typeBool {
		err = codec.Parameter
	}
	return e, err
}

// New takes an expression of any type.
func New(root value.Value) (*Expression, error) {
	e := &Expression{root: root, patterns: map[pattern]compiled{}}
	err := e.prepare(root)
	if err == nil {
		e.kind, err = new(typing).of(root)
	}
	return e, err
}

// prepare refuses codes that are not known and compiles patterns.
func (e *Expression) prepare(v value.Value) error {
	if v.Kind() != value.List {
		return nil
	}
	code, args, err := split(v)
	if err != nil {
		return err
	}
	s, ok := specs[code]
	switch {
	case code == opGeo:
		return codec.Unsupported
	case !ok:
		return codec.Parameter
	case len(args) < s.least || s.most >= 0 && len(args) > s.most:
		return codec.Parameter
	}
	switch code {
	case opQuote, opVar, opBin, opBinType, opKey:
		return nil
	case opRegex:
		if err := e.compile(args); err != nil {
			return err
		}
		args = args[2:]
	case opLet:
		if len(args)%2 == 0 {
			return codec.Parameter
		}
	case opCond:
		if len(args)%2 == 0 {
			return codec.Parameter
		}
	case opCall:
		if args[2].Kind() != value.List {
			return codec.Parameter
		}
		args = append([]value.Value{args[3]}, callArguments(args[2])...)
	}
	for _, arg := range args {
		if err := e.prepare(arg); err != nil {
			return err
		}
	}
	return nil
}

func split(v value.Value) (code int64, args []value.Value, err error) {
	items := v.Items()
	if len(items) == 0 || items[0].Kind() != value.Int {
		return 0, nil, codec.Parameter
	}
	return items[0].Int64(), items[1:], nil
}

// spec says how many arguments a code takes; most -1: any number.
type spec struct{ least, most int }

var specs = map[int64]spec{
	opUnknown: {0, 0},
	opEqual:   {2, 2}, opNotEqual: {2, 2}, opGreater: {2, 2}, opAtLeast: {2, 2}, opLess: {2, 2}, opAtMost: {2, 2},
	opRegex: {3, 3}, opInList: {2, 2},
	opAnd: {1, -1}, opOr: {1, -1}, opNot: {1, 1}, opExclusive: {1, -1},
	opAdd: {1, -1}, opSub: {1, -1}, opMul: {1, -1}, opDiv: {1, -1}, opPow: {2, 2}, opLog: {2, 2}, opMod: {2, 2},
	opAbs: {1, 1}, opFloor: {1, 1}, opCeil: {1, 1}, opToInt: {1, 1}, opToFloat: {1, 1},
	opIntAnd: {1, -1}, opIntOr: {1, -1}, opIntXor: {1, -1}, opIntNot: {1, 1},
	opShiftLeft: {2, 2}, opShiftLog: {2, 2}, opShiftArit: {2, 2},
	opCount: {1, 1}, opScanLeft: {2, 2}, opScanRight: {2, 2}, opMin: {1, -1}, opMax: {1, -1},
	opDigestMod: {1, 1}, opDevice: {0, 0}, opUpdated: {0, 0}, opSince: {0, 0}, opVoidTime: {0, 0}, opTTL: {0, 0},
	opSetName: {0, 0}, opKeyExists: {0, 0}, opTombstone: {0, 0}, opMemory: {0, 0}, opSize: {0, 0},
	opKey: {1, 1}, opBin: {2, 2}, opBinType: {1, 1}, opMapKeys: {1, 1}, opMapValues: {1, 1},
	opCond: {3, -1}, opVar: {1, 1}, opLet: {1, -1}, opQuote: {1, 1}, opCall: {4, 4},
}

// Filter reports whether a record passes e.
func (e *Expression) Filter(r *Record) (bool, error) {
	v, err := e.Eval(r)
	switch {
	case errors.Is(err, ErrUnknown):
		return false, nil
	case err != nil:
		return false, err
	case !v.IsBool():
		return false, codec.Parameter
	}
	return v.Bool(), nil
}

// Eval returns the value of e for a record; ErrUnknown if it has none.
func (e *Expression) Eval(r *Record) (value.Value, error) {
	w := &work{e: e, r: r, left: stepsMax, room: madeMax}
	defer func() { r.Steps += stepsMax - w.left }()
	return w.eval(e.root)
}

// compile makes the pattern of a regex: flags and a text without particle type.
func (e *Expression) compile(args []value.Value) error {
	text, ok := args[1].Raw()
	if !ok || !args[0].IsInt() {
		return codec.Parameter
	}
	flags := args[0].Int64()
	if e.patternBytes += len(text); e.patternBytes > patternMax {
		return codec.Unsupported
	}
	if _, is := e.patterns[pattern{flags, text}]; is {
		return nil
	}
	tree, err := syntax.Parse(translate(text, flags), syntax.Perl)
	if err != nil {
		return codec.Parameter
	}
	program, err := syntax.Compile(tree.Simplify())
	if err != nil {
		return codec.Parameter
	}
	if len(program.Inst) > instructionsMax {
		return codec.Unsupported
	}
	ready, err := regexp.Compile(translate(text, flags))
	if err != nil {
		return codec.Parameter
	}
	e.patterns[pattern{flags, text}] = compiled{ready, len(program.Inst)}
	return nil
}

// Flags of a regex, those of POSIX regcomp.
const (
	regexExtended = 1
	regexFold     = 2
	regexNewline  = 8
)

// translate makes a POSIX pattern one of package regexp.
func translate(text string, flags int64) string {
	if flags&regexExtended == 0 {
		text = basic(text)
	}
	head := "s"
	if flags&regexNewline != 0 {
		head = "m"
	}
	if flags&regexFold != 0 {
		head += "i"
	}
	return "(?" + head + ")" + text
}

// basic makes a basic POSIX pattern an extended one: there a backslash gives
// brackets and the like their meaning, here it takes it.
func basic(text string) string {
	var out []byte
	for i := 0; i < len(text); i++ {
		c := text[i]
		switch {
		case c == '\\' && i+1 < len(text):
			i++
			if next := text[i]; next == '(' || next == ')' || next == '{' || next == '}' || next == '|' || next == '+' || next == '?' {
				out = append(out, next)
			} else {
				out = append(out, '\\', next)
			}
		case c == '[':
			end := i + 1
			for end < len(text) && (text[end] != ']' || end == i+1 || end == i+2 && text[i+1] == '^') {
				end++
			}
			out = append(out, text[i:min(end+1, len(text))]...)
			i = end
		case c == '(' || c == ')' || c == '{' || c == '}' || c == '|' || c == '+' || c == '?':
			out = append(out, '\\', c)
		default:
			out = append(out, c)
		}
	}
	return string(out)
}
