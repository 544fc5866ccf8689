package aerospike

import as "github.com/aerospike/aerospike-client-go/v7"

// operations are those of the client that change bins, one of each at least.
func operations() [][]*as.Operation {
	lp, mp, bp := as.DefaultListPolicy(), as.DefaultMapPolicy(), as.DefaultBitPolicy()
	none, first := as.ListReturnTypeNone, as.CtxListIndex(4)
	inMap, deep := as.CtxMapKey(as.NewValue("b")), []*as.CDTContext{as.CtxMapKey(as.NewValue("b")), as.CtxMapKey(as.NewValue("l"))}
	var all [][]*as.Operation
	one := func(ops ...*as.Operation) {
		for _, op := range ops {
			all = append(all, []*as.Operation{op})
		}
	}
	one(
		as.PutOp(as.NewBin("n", 6)), as.PutOp(as.NewBin("l", nil)), as.AddOp(as.NewBin("n", 7)), as.AppendOp(as.NewBin("s", "+")),
		as.PrependOp(as.NewBin("s", "-")), as.AddOp(as.NewBin("new", 1)), as.AddOp(as.NewBin("s", 1)), as.TouchOp(),
		as.ListAppendOp("l", 9), as.ListAppendOp("n", 9), as.ListAppendOp("new", 1, 2),
		as.ListClearOp("l"), as.ListSetOrderOp("l", as.ListOrderOrdered), as.ListTrimOp("l", 1, 2),
	)
	for _, ctx := range [][]*as.CDTContext{nil, {first}, {as.CtxListRank(-1)}} {
		one(
			as.ListAppendWithPolicyContextOp(lp, "l", ctx, 9), as.ListAppendWithPolicyContextOp(lp, "l", ctx, 9, 8),
			as.ListInsertWithPolicyContextOp(lp, "l", 1, ctx, 9), as.ListInsertWithPolicyContextOp(lp, "l", 1, ctx, 9, 8),
			as.ListPopOp("l", 0, ctx...), as.ListPopRangeOp("l", 0, 2, ctx...), as.ListPopRangeFromOp("l", 1, ctx...),
			as.ListRemoveOp("l", 0, ctx...), as.ListRemoveRangeOp("l", 0, 2, ctx...), as.ListRemoveRangeFromOp("l", 1, ctx...),
			as.ListSetOp("l", 1, 77, ctx...), as.ListTrimOp("l", 0, 1, ctx...), as.ListClearOp("l", ctx...),
			as.ListIncrementOp("l", 1, 4, ctx...), as.ListIncrementByOneOp("l", 0, ctx...), as.ListSortOp("l", as.ListSortFlagsDefault, ctx...),
			as.ListSetOrderOp("l", as.ListOrderOrdered, ctx...),
			as.ListRemoveByValueOp("l", 1, none, ctx...), as.ListRemoveByValueListOp("l", []any{1, 2}, none, ctx...),
			as.ListRemoveByValueRangeOp("l", none, 1, 3, ctx...), as.ListRemoveByIndexOp("l", 0, none, ctx...),
			as.ListRemoveByIndexRangeOp("l", 1, none, ctx...), as.ListRemoveByIndexRangeCountOp("l", 0, 1, none, ctx...),
			as.ListRemoveByRankOp("l", 0, none, ctx...), as.ListRemoveByRankRangeOp("l", 1, none, ctx...),
			as.ListRemoveByRankRangeCountOp("l", 0, 1, none, ctx...),
			as.ListRemoveByValueRelativeRankRangeOp("l", none, 1, 0, ctx...), as.ListRemoveByValueRelativeRankRangeCountOp("l", none, 1, 0, 1, ctx...),
		)
	}
	for _, ctx := range [][]*as.CDTContext{nil, {inMap}, {as.CtxMapIndex(1)}} {
		none := as.MapReturnType.NONE
		one(
			as.MapSetPolicyOp(as.NewMapPolicy(as.MapOrder.KEY_ORDERED, as.MapWriteMode.UPDATE), "m", ctx...),
			as.MapPutOp(mp, "m", "p", 1, ctx...), as.MapPutItemsOp(mp, "m", map[any]any{"p": 1, "q": 2}, ctx...),
			as.MapIncrementOp(mp, "m", "p", 3, ctx...), as.MapDecrementOp(mp, "m", "p", 3, ctx...), as.MapClearOp("m", ctx...),
			as.MapRemoveByKeyOp("m", "a", none, ctx...), as.MapRemoveByKeyListOp("m", []any{"a", "c"}, none, ctx...),
			as.MapRemoveByKeyRangeOp("m", "a", "d", none, ctx...), as.MapRemoveByValueOp("m", 2, none, ctx...),
			as.MapRemoveByValueListOp("m", []any{1, 2}, none, ctx...), as.MapRemoveByValueRangeOp("m", 0, 5, none, ctx...),
			as.MapRemoveByIndexOp("m", 0, none, ctx...), as.MapRemoveByIndexRangeOp("m", 1, none, ctx...),
			as.MapRemoveByIndexRangeCountOp("m", 0, 1, none, ctx...), as.MapRemoveByRankOp("m", 0, none, ctx...),
			as.MapRemoveByRankRangeOp("m", 1, none, ctx...), as.MapRemoveByRankRangeCountOp("m", 0, 1, none, ctx...),
			as.MapRemoveByKeyRelativeIndexRangeOp("m", "a", 0, none, ctx...), as.MapRemoveByKeyRelativeIndexRangeCountOp("m", "a", 0, 1, none, ctx...),
			as.MapRemoveByValueRelativeRankRangeOp("m", 1, 0, none, ctx...), as.MapRemoveByValueRelativeRankRangeCountOp("m", 1, 0, 1, none, ctx...),
		)
	}
	one(
		as.ListAppendWithPolicyContextOp(lp, "m", deep, 9), as.ListSortOp("m", as.ListSortFlagsDefault, deep...),
		as.ListAppendWithPolicyContextOp(lp, "m", []*as.CDTContext{as.CtxMapKeyCreate(as.NewValue("new"), as.MapOrder.KEY_ORDERED), as.CtxMapKeyCreate(as.NewValue("x"), as.MapOrder.UNORDERED)}, 9),
		as.ListCreateOp("l", as.ListOrderOrdered, true, as.CtxListIndex(5)),
		as.MapCreateOp("m", as.MapOrder.KEY_ORDERED, []*as.CDTContext{as.CtxMapKey(as.NewValue("made"))}),
		as.BitResizeOp(bp, "b", 6, as.BitResizeFlagsDefault), as.BitInsertOp(bp, "b", 1, []byte{9}), as.BitRemoveOp(bp, "b", 1, 2),
		as.BitSetOp(bp, "b", 3, 8, []byte{0xff}), as.BitOrOp(bp, "b", 3, 8, []byte{0xf0}), as.BitXorOp(bp, "b", 3, 8, []byte{0xf0}),
		as.BitAndOp(bp, "b", 3, 8, []byte{0xf0}), as.BitNotOp(bp, "b", 3, 8), as.BitLShiftOp(bp, "b", 3, 20, 2), as.BitRShiftOp(bp, "b", 3, 20, 2),
		as.BitAddOp(bp, "b", 8, 8, 3, false, as.BitOverflowActionWrap), as.BitSubtractOp(bp, "b", 8, 8, 3, false, as.BitOverflowActionWrap),
		as.BitSetIntOp(bp, "b", 8, 8, 200),
		as.ExpWriteOp("n", as.ExpNumAdd(as.ExpIntBin("n"), as.ExpIntVal(1)), as.ExpWriteFlagDefault),
		as.ExpWriteOp("e", as.ExpStringBin("s"), as.ExpWriteFlagCreateOnly),
	)
	return append(all, []*as.Operation{as.AddOp(as.NewBin("n", 1)), as.ListAppendOp("l", 1), as.MapPutOp(mp, "m", "k", 1), as.PutOp(as.NewBin("x", "y")), as.TouchOp()})
}
