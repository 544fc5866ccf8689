package cdt

// Codes of operations (as_cdt_optype of the server).
const (
	listSetType         = 0
	listAppend          = 1
	listAppendItems     = 2
	listInsert          = 3
	listInsertItems     = 4
	listPop             = 5
	listPopRange        = 6
	listRemove          = 7
	listRemoveRange     = 8
	listSet             = 9
	listTrim            = 10
	listClear           = 11
	listIncrement       = 12
	listSort            = 13
	listSize            = 16
	listGet             = 17
	listGetRange        = 18
	listGetByIndex      = 19
	listGetByValue      = 20
	listGetByRank       = 21
	listGetAllByValue   = 22
	listGetByValueList  = 23
	listGetByIndexRange = 24
	listGetByInterval   = 25
	listGetByRankRange  = 26
	listGetByRelRank    = 27

	listRemoveByIndex      = 32
	listRemoveByValue      = 33
	listRemoveByRank       = 34
	listRemoveAllByValue   = 35
	listRemoveByValueList  = 36
	listRemoveByIndexRange = 37
	listRemoveByInterval   = 38
	listRemoveByRankRange  = 39
	listRemoveByRelRank    = 40

	mapSetType            = 64
	mapAdd                = 65
	mapAddItems           = 66
	mapPut                = 67
	mapPutItems           = 68
	mapReplace            = 69
	mapReplaceItems       = 70
	mapIncrement          = 73
	mapDecrement          = 74
	mapClear              = 75
	mapRemoveByKey        = 76
	mapRemoveByIndex      = 77
	mapRemoveByValue      = 78
	mapRemoveByRank       = 79
	mapRemoveByKeyList    = 81
	mapRemoveAllByValue   = 82
	mapRemoveByValueList  = 83
	mapRemoveByKeys       = 84
	mapRemoveByIndexRange = 85
	mapRemoveByInterval   = 86
	mapRemoveByRankRange  = 87
	mapRemoveByRelIndex   = 88
	mapRemoveByRelRank    = 89

	mapSize            = 96
	mapGetByKey        = 97
	mapGetByIndex      = 98
	mapGetByValue      = 99
	mapGetByRank       = 100
	mapGetAllByValue   = 102
	mapGetByKeys       = 103
	mapGetByIndexRange = 104
	mapGetByInterval   = 105
	mapGetByRankRange  = 106
	mapGetByKeyList    = 107
	mapGetByValueList  = 108
	mapGetByRelIndex   = 109
	mapGetByRelRank    = 110
)

// Flags of writes to lists.
const (
	listUnique  = 1
	listBounded = 2
	listNoFail  = 4
	listPartial = 8
)

// Flags of sorting a list.
const (
	sortDescending = 1
	sortUnique     = 2
)

// Flags of writes to maps.
const (
	mapNoOverwrite = 1
	mapNoCreate    = 2
	mapNoFail      = 4
	mapPartial     = 8
)

// What an operation returns of the entries it selects.
const (
	returnNone       = 0
	returnIndex      = 1
	returnRevIndex   = 2
	returnRank       = 3
	returnRevRank    = 4
	returnCount      = 5
	returnKey        = 6
	returnValue      = 7
	returnPairs      = 8
	returnIndexRange = 9
	returnRevIndexes = 10
	returnRankRange  = 11
	returnRevRanks   = 12
	returnExists     = 13
	returnUnordered  = 16
	returnOrdered    = 17

	returnMask     = 0xffff
	returnInverted = 0x10000
)
