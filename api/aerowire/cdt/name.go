package cdt

var names = map[int]string{
	listSetType: "list_set_type", listAppend: "list_append", listAppendItems: "list_append_items",
	listInsert: "list_insert", listInsertItems: "list_insert_items", listPop: "list_pop", listPopRange: "list_pop_range",
	listRemove: "list_remove", listRemoveRange: "list_remove_range", listSet: "list_set", listTrim: "list_trim",
	listClear: "list_clear", listIncrement: "list_increment", listSort: "list_sort", listSize: "list_size",
	listGet: "list_get", listGetRange: "list_get_range", listGetByIndex: "list_get_by_index",
	listGetByValue: "list_get_by_value", listGetByRank: "list_get_by_rank", listGetAllByValue: "list_get_all_by_value",
	listGetByValueList: "list_get_by_value_list", listGetByIndexRange: "list_get_by_index_range",
	listGetByInterval: "list_get_by_value_interval", listGetByRankRange: "list_get_by_rank_range",
	listGetByRelRank: "list_get_by_value_rel_rank_range", listRemoveByIndex: "list_remove_by_index",
	listRemoveByValue: "list_remove_by_value", listRemoveByRank: "list_remove_by_rank",
	listRemoveAllByValue: "list_remove_all_by_value", listRemoveByValueList: "list_remove_by_value_list",
	listRemoveByIndexRange: "list_remove_by_index_range", listRemoveByInterval: "list_remove_by_value_interval",
	listRemoveByRankRange: "list_remove_by_rank_range", listRemoveByRelRank: "list_remove_by_value_rel_rank_range",

	mapSetType: "map_set_type", mapAdd: "map_add", mapAddItems: "map_add_items", mapPut: "map_put",
	mapPutItems: "map_put_items", mapReplace: "map_replace", mapReplaceItems: "map_replace_items",
	mapIncrement: "map_increment", mapDecrement: "map_decrement", mapClear: "map_clear",
	mapRemoveByKey: "map_remove_by_key", mapRemoveByIndex: "map_remove_by_index", mapRemoveByValue: "map_remove_by_value",
	mapRemoveByRank: "map_remove_by_rank", mapRemoveByKeyList: "map_remove_by_key_list",
	mapRemoveAllByValue: "map_remove_all_by_value", mapRemoveByValueList: "map_remove_by_value_list",
	mapRemoveByKeys: "map_remove_by_key_interval", mapRemoveByIndexRange: "map_remove_by_index_range",
	mapRemoveByInterval: "map_remove_by_value_interval", mapRemoveByRankRange: "map_remove_by_rank_range",
	mapRemoveByRelIndex: "map_remove_by_key_rel_index_range", mapRemoveByRelRank: "map_remove_by_value_rel_rank_range",
	mapSize: "map_size", mapGetByKey: "map_get_by_key", mapGetByIndex: "map_get_by_index",
	mapGetByValue: "map_get_by_value", mapGetByRank: "map_get_by_rank", mapGetAllByValue: "map_get_all_by_value",
	mapGetByKeys: "map_get_by_key_interval", mapGetByIndexRange: "map_get_by_index_range",
	mapGetByInterval: "map_get_by_value_interval", mapGetByRankRange: "map_get_by_rank_range",
	mapGetByKeyList: "map_get_by_key_list", mapGetByValueList: "map_get_by_value_list",
	mapGetByRelIndex: "map_get_by_key_rel_index_range", mapGetByRelRank: "map_get_by_value_rel_rank_range",
}

// Name is what people call the operation, "" if it has none.
func (o *Op) Name() string { return names[o.Code] }
