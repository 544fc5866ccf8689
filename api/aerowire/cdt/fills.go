package cdt

// Fills reports that an operation, of an op that modifies, leaves a bin that is a
// list or map wherever it is done: it puts something into what the bin itself holds.
func Fills(data []byte) bool {
	op, err := Parse(data)
	if err != nil || len(op.Context) > 0 {
		return false
	}
	switch op.Code {
	case listAppend, listAppendItems, listInsert, listInsertItems, mapAdd, mapAddItems, mapPut, mapPutItems:
		return true
	}
	return false
}
