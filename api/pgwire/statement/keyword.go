package statement

// reservedWords cannot name a column or table without quotes: PostgreSQL's kinds
// "reserved" and "reserved (can be function or type)", of all its versions.
var reservedWords = makeSet(
	"all", "analyse", "analyze", "and", "any", "array", "as", "asc", "asymmetric", "both", "case", "cast", "check", "collate",
	"column", "constraint", "create", "current_catalog", "current_date", "current_role", "current_time", "current_timestamp",
	"current_user", "default", "deferrable", "desc", "distinct", "do", "else", "end", "except", "false", "fetch", "for",
	"foreign", "from", "grant", "group", "having", "in", "initially", "intersect", "into", "lateral", "leading", "limit",
	"localtime", "localtimestamp", "not", "null", "offset", "on", "only", "or", "order", "placing", "primary", "references",
	"returning", "select", "session_user", "some", "symmetric", "system_user", "table", "then", "to", "trailing", "true",
	"union", "unique", "user", "using", "variadic", "when", "where", "window", "with",

	"authorization", "binary", "collation", "concurrently", "cross", "current_schema", "freeze", "full", "ilike", "inner",
	"is", "isnull", "join", "left", "like", "natural", "notnull", "outer", "overlaps", "right", "similar", "tablesample",
	"verbose",
)

func makeSet(words ...string) map[string]bool {
	set := make(map[string]bool, len(words))
	for _, w := range words {
		set[w] = true
	}
	return set
}

// reserved: word is in lower case.
func reserved(word string) bool { return reservedWords[word] }

// typeNames are the names of built-in types without modifiers, by what the catalogue calls
// them. char without a length is not there: it cuts.
var typeNames = map[string]string{
	"bool": "bool", "boolean": "bool", "int2": "int2", "smallint": "int2", "int4": "int4", "int": "int4", "integer": "int4",
	"int8": "int8", "bigint": "int8", "float4": "float4", "real": "float4", "float8": "float8", "float": "float8",
	"double precision": "float8", "numeric": "numeric", "decimal": "numeric", "dec": "numeric", "text": "text",
	"varchar": "varchar", "character varying": "varchar", "bytea": "bytea", "uuid": "uuid", "date": "date", "time": "time",
	"time without time zone": "time", "timetz": "timetz", "time with time zone": "timetz", "timestamp": "timestamp",
	"timestamp without time zone": "timestamp", "timestamptz": "timestamptz", "timestamp with time zone": "timestamptz",
	"interval": "interval", "json": "json", "jsonb": "jsonb", "inet": "inet", "cidr": "cidr",
}

// typeName takes a type's name: a built-in one as the catalogue has it, "[]" behind
// it for an array; any other single word as it is.
func (c *cursor) typeName() (string, bool) {
	t := c.peek(0)
	if t.kind != tokenWord {
		return "", false
	}
	name := t.name(c.text)
	words := 1
	switch {
	case name == "double" && c.peek(1).keyword(c.text, "precision"):
		words, name = 2, "double precision"
	case name == "character" && c.peek(1).keyword(c.text, "varying"):
		words, name = 2, "character varying"
	case name == "timestamp" || name == "time":
		for _, with := range []string{"with", "without"} {
			if c.peek(1).keyword(c.text, with) && c.peek(2).keyword(c.text, "time") && c.peek(3).keyword(c.text, "zone") {
				words, name = 4, name+" "+with+" time zone"
			}
		}
	}
	known, ok := typeNames[name]
	if !ok {
		if reserved(name) || notTypes[name] {
			return "", false
		}
		known = name
	}
	if c.peek(words).is(c.text, "[") && c.peek(words+1).is(c.text, "]") {
		words, known = words+2, known+"[]"
	}
	if next := c.peek(words); next.is(c.text, "(") || next.is(c.text, "[") || next.is(c.text, ".") {
		return "", false
	}
	c.next += words
	return known, true
}

// notTypes are words that cannot be a type's name, or mean another type than they say.
var notTypes = makeSet("char", "character", "nchar", "national", "bit", "setof", "between", "coalesce", "exists", "extract",
	"greatest", "grouping", "inout", "least", "none", "normalize", "nullif", "out", "overlay", "position", "precision", "row",
	"substring", "treat", "trim", "values", "xmlattributes", "xmlconcat", "xmlelement", "xmlexists", "xmlforest", "xmlnamespaces",
	"xmlparse", "xmlpi", "xmlroot", "xmlserialize", "xmltable", "json_array", "json_arrayagg", "json_exists", "json_object",
	"json_objectagg", "json_query", "json_scalar", "json_serialize", "json_table", "json_value", "merge_action")
