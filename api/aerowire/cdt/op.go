// Package cdt is the operations on lists and maps: what a client sends in an op
// of type CDT_READ or CDT_MODIFY, or within an expression.
//
// Nothing here changes a value: Modify returns what the bin holds afterwards.
// Errors are codec.Result, as the server would answer.
package cdt

import (
	"encoding/binary"
	"math"

	"github.com/walproxy/walproxy/api/aerowire/codec"
	"github.com/walproxy/walproxy/api/aerowire/value"
)

// Op is one operation.
type Op struct {
	Code    int
	Context []Step // from the bin to the list or map meant
	Args    []value.Value

	bad bool // the arguments make no sense, which counts once there is something to work on
}

// codeContext marks an operation behind a context; codeSelect is of newer clients.
const (
	codeContext = 0xff
	codeSelect  = 0xfe
)

// Parse reads an op's value: a code of two bytes and a list of arguments, or one
// list of both, or one list with a context in front.
func Parse(data []byte) (Op, error) {
	if len(data) >= 2 && data[0] == 0 {
		op := Op{Code: int(binary.BigEndian.Uint16(data))}
		if len(data) > 2 {
			args, err := value.Decode(data[2:])
			if err != nil || args.Kind() != value.List {
				return Op{}, codec.Parameter
			}
			op.Args = args.Items()
		}
		return op, op.check()
	}
	list, err := value.Decode(data)
	if err != nil || list.Kind() != value.List {
		return Op{}, codec.Parameter
	}
	return FromList(list.Items())
}

// FromList is Parse for a list that was decoded already.
func FromList(items []value.Value) (Op, error) {
	if len(items) == 0 || !items[0].IsInt() {
		return Op{}, codec.Parameter
	}
	code := int(items[0].Int64())
	if code != codeContext {
		op := Op{Code: code, Args: items[1:]}
		return op, op.check()
	}
	if len(items) != 3 || items[2].Kind() != value.List {
		return Op{}, codec.Parameter
	}
	context, err := parseContext(items[1])
	if err != nil {
		return Op{}, err
	}
	inner := items[2].Items()
	if len(inner) == 0 || !inner[0].IsInt() {
		return Op{}, codec.Parameter
	}
	op := Op{Code: int(inner[0].Int64()), Context: context, Args: inner[1:]}
	return op, op.check()
}

// Kinds of arguments.
const (
	argIndex   = 'i' // signed
	argNumber  = 'n' // a count, flags, a return type
	argPayload = 'p' // a value to compare with
	argStorage = 's' // a value to store
)

// spec of an operation: what it works on, whether it writes, its arguments, how
// many of them may be missing.
type spec struct {
	kind     value.Kind
	modify   bool
	args     string
	optional int
}

var specs = map[int]spec{
	listSetType:         {value.List, true, "n", 0},
	listAppend:          {value.List, true, "snn", 2},
	listAppendItems:     {value.List, true, "snn", 2},
	listInsert:          {value.List, true, "isn", 1},
	listInsertItems:     {value.List, true, "isn", 1},
	listPop:             {value.List, true, "i", 0},
	listPopRange:        {value.List, true, "in", 1},
	listRemove:          {value.List, true, "i", 0},
	listRemoveRange:     {value.List, true, "in", 1},
	listSet:             {value.List, true, "isn", 1},
	listTrim:            {value.List, true, "in", 0},
	listClear:           {value.List, true, "", 0},
	listIncrement:       {value.List, true, "ipnn", 3},
	listSort:            {value.List, true, "n", 1},
	listSize:            {value.List, false, "", 0},
	listGet:             {value.List, false, "i", 0},
	listGetRange:        {value.List, false, "in", 1},
	listGetByIndex:      {value.List, false, "ni", 0},
	listGetByValue:      {value.List, false, "np", 0},
	listGetByRank:       {value.List, false, "ni", 0},
	listGetAllByValue:   {value.List, false, "np", 0},
	listGetByValueList:  {value.List, false, "np", 0},
	listGetByIndexRange: {value.List, false, "nin", 1},
	listGetByInterval:   {value.List, false, "npp", 1},
	listGetByRankRange:  {value.List, false, "nin", 1},
	listGetByRelRank:    {value.List, false, "npin", 1},

	listRemoveByIndex:      {value.List, true, "ni", 0},
	listRemoveByValue:      {value.List, true, "np", 0},
	listRemoveByRank:       {value.List, true, "ni", 0},
	listRemoveAllByValue:   {value.List, true, "np", 0},
	listRemoveByValueList:  {value.List, true, "np", 0},
	listRemoveByIndexRange: {value.List, true, "nin", 1},
	listRemoveByInterval:   {value.List, true, "npp", 1},
	listRemoveByRankRange:  {value.List, true, "nin", 1},
	listRemoveByRelRank:    {value.List, true, "npin", 1},

	mapSetType:            {value.Map, true, "n", 0},
	mapAdd:                {value.Map, true, "ssn", 1},
	mapAddItems:           {value.Map, true, "sn", 1},
	mapPut:                {value.Map, true, "ssnn", 2},
	mapPutItems:           {value.Map, true, "snn", 2},
	mapReplace:            {value.Map, true, "ss", 0},
	mapReplaceItems:       {value.Map, true, "s", 0},
	mapIncrement:          {value.Map, true, "ppn", 2},
	mapDecrement:          {value.Map, true, "ppn", 2},
	mapClear:              {value.Map, true, "", 0},
	mapRemoveByKey:        {value.Map, true, "np", 0},
	mapRemoveByIndex:      {value.Map, true, "ni", 0},
	mapRemoveByValue:      {value.Map, true, "np", 0},
	mapRemoveByRank:       {value.Map, true, "ni", 0},
	mapRemoveByKeyList:    {value.Map, true, "np", 0},
	mapRemoveAllByValue:   {value.Map, true, "np", 0},
	mapRemoveByValueList:  {value.Map, true, "np", 0},
	mapRemoveByKeys:       {value.Map, true, "npp", 1},
	mapRemoveByIndexRange: {value.Map, true, "nin", 1},
	mapRemoveByInterval:   {value.Map, true, "npp", 1},
	mapRemoveByRankRange:  {value.Map, true, "nin", 1},
	mapRemoveByRelIndex:   {value.Map, true, "npin", 1},
	mapRemoveByRelRank:    {value.Map, true, "npin", 1},

	mapSize:            {value.Map, false, "", 0},
	mapGetByKey:        {value.Map, false, "np", 0},
	mapGetByIndex:      {value.Map, false, "ni", 0},
	mapGetByValue:      {value.Map, false, "np", 0},
	mapGetByRank:       {value.Map, false, "ni", 0},
	mapGetAllByValue:   {value.Map, false, "np", 0},
	mapGetByKeys:       {value.Map, false, "npp", 1},
	mapGetByIndexRange: {value.Map, false, "nin", 1},
	mapGetByInterval:   {value.Map, false, "npp", 1},
	mapGetByRankRange:  {value.Map, false, "nin", 1},
	mapGetByKeyList:    {value.Map, false, "np", 0},
	mapGetByValueList:  {value.Map, false, "np", 0},
	mapGetByRelIndex:   {value.Map, false, "npin", 1},
	mapGetByRelRank:    {value.Map, false, "npin", 1},
}

// check holds the arguments against the operation's spec.
func (o *Op) check() error {
	if o.Code == codeSelect {
		return codec.Unsupported
	}
	s, ok := specs[o.Code]
	if !ok {
		return codec.Parameter
	}
	o.bad = len(o.Args) < len(s.args)-s.optional || len(o.Args) > len(s.args)
	for i, arg := range o.Args {
		if o.bad {
			break
		}
		switch s.args[i] {
		case argIndex, argNumber: // a negative count is one without bound
			o.bad = !arg.IsInt()
		case argStorage:
			o.bad = !arg.Storable()
		}
	}
	return nil
}

// onlyRemoves: the operation makes no list or map where there is none.
func (o *Op) onlyRemoves() bool {
	switch o.Code {
	case listPop, listPopRange, listRemove, listRemoveRange, listTrim, listClear, mapClear:
		return true
	}
	return o.Code >= listRemoveByIndex && o.Code <= listRemoveByRelRank || o.Code >= mapRemoveByKey && o.Code <= mapRemoveByRelRank
}

// IsModify reports whether o writes.
func (o *Op) IsModify() bool { return specs[o.Code].modify }

func (o *Op) int(i int, missing int64) int64 {
	if i < len(o.Args) {
		return o.Args[i].Int64()
	}
	return missing
}

// count is the i-th argument as a count; a missing one is all there is.
func (o *Op) count(i int) int64 {
	const all = 1<<32 - 1
	if n := o.int(i, all); n >= 0 && n < all {
		return n
	}
	return all
}

// end is the i-th argument as the end of an interval; a missing one has none.
func (o *Op) end(i int) value.Value {
	if i < len(o.Args) {
		return o.Args[i]
	}
	return value.InfinityValue
}

// Read applies o to what a bin holds. ok is false if there is no result.
func (o *Op) Read(bin value.Value) (result value.Value, ok bool, err error) {
	if specs[o.Code].modify {
		return value.Value{}, false, codec.Parameter
	}
	if bin, err = o.dig(bin); err != nil {
		return value.Value{}, false, err
	}
	if bin.Kind() != specs[o.Code].kind {
		return value.Value{}, false, codec.IncompatibleType
	}
	if o.bad {
		return value.Value{}, false, codec.Parameter
	}
	w := work{op: o, v: bin, exists: true}
	if bin.Kind() == value.List {
		err = w.list()
	} else {
		err = w.dict()
	}
	return w.result, w.has, err
}

// Modified is what Modify returns.
type Modified struct {
	Bin       value.Value
	Exists    bool // of the bin afterwards
	Result    value.Value
	HasResult bool
}

// Modify applies o to what a bin holds, if it exists.
func (o *Op) Modify(bin value.Value, exists bool) (Modified, error) {
	if !specs[o.Code].modify {
		return Modified{}, codec.Parameter
	}
	w := work{op: o}
	after, exists, err := w.descend(bin, exists, o.Context)
	if err == nil && exists && o.tooDeep(after) {
		err = codec.Parameter
	}
	return Modified{after, exists, w.result, w.has}, err
}

// tooDeep reports whether after, which o made, nests deeper than can be decoded.
func (o *Op) tooDeep(after value.Value) bool {
	below := 0
	for _, arg := range o.Args {
		_, depth := value.Weigh(arg, math.MaxInt)
		below = max(below, depth)
	}
	if len(o.Context)+1+below <= value.MaxDepth {
		return false // for the bin itself was decoded
	}
	_, depth := value.Weigh(after, math.MaxInt)
	return depth > value.MaxDepth
}

// Padding is how many entries o may have to make in front of the one that it sets, by
// an index beyond the end.
func (o *Op) Padding() int64 {
	index := int64(0)
	for i := range o.Context {
		if s := &o.Context[i]; s.by == byIndex && s.create != 0 {
			index = max(index, s.at.Int64())
		}
	}
	switch o.Code {
	case listInsert, listInsertItems, listSet, listIncrement:
		index = max(index, o.int(0, 0))
	}
	if index > paddingMax {
		return 0 // which is refused
	}
	return index
}

// work is one operation under way on the list or map it is meant for.
type work struct {
	op     *Op
	v      value.Value
	exists bool
	// nothing: there was nothing to do, for which no context is created.
	nothing bool
	values  []value.Value // of v

	result value.Value
	has    bool
}

func (w *work) set(v value.Value) { w.result, w.has = v, true }

func (w *work) setInt(n int) { w.set(value.OfInt(int64(n))) }

// apply is Modify of the list or map itself.
func (w *work) apply(v value.Value, exists bool) (value.Value, bool, error) {
	w.v, w.exists = v, exists
	kind := specs[w.op.Code].kind
	if exists && v.Kind() != kind {
		return v, exists, codec.IncompatibleType
	}
	if w.op.Code == listSort && !exists && len(w.op.Context) > 0 {
		return v, false, nil
	}
	if !exists && w.op.onlyRemoves() {
		return v, false, nil
	}
	if w.op.bad {
		return v, exists, codec.Parameter
	}
	var err error
	if kind == value.List {
		err = w.list()
	} else {
		err = w.dict()
	}
	return w.v, w.exists, err
}
