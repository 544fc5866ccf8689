package postgres

import "strconv"

// pgType is a type of the catalogue.
type pgType struct {
	schema, name string
	kind         string // pg_type.typtype: b base, d domain, e enum, ...
	category     string // pg_type.typcategory: S string, A array, ...
	base         uint32 // of a domain
	modifier     int    // of the domain's base type, numeric(10,2); -1: none
	element      uint32 // of an array
	delimiter    string
	array        uint32 // of which it is the element
}

type pgTypes map[uint32]pgType

func readTypes(rows [][][]byte) pgTypes {
	types := pgTypes{}
	number := func(text string) uint32 {
		n, _ := strconv.ParseUint(text, 10, 32) // the catalogue's own oid
		return uint32(n)
	}
	for _, raw := range rows {
		row := texted(raw)
		modifier, _ := strconv.Atoi(row[6]) // an int4
		types[number(row[0])] = pgType{
			schema: row[1], name: row[2], kind: row[3], category: row[4],
			base: number(row[5]), modifier: modifier, element: number(row[7]), delimiter: row[8], array: number(row[9]),
		}
	}
	return types
}

// describe gives c its codec and casts. modifier is that of the column's type, with
// which the store may round or cut; -1: it has none.
func (types pgTypes) describe(c *column, oid uint32, modifier int) {
	t := types[oid]
	for t.kind == "d" {
		modifier = max(modifier, t.modifier) // one has it at most
		oid, t = t.base, types[t.base]
	}
	c.base, c.modifier = oid, modifier
	own, isBuiltin := builtin[oid]
	switch {
	case isBuiltin:
		c.codec = own
	case t.category == "A" && t.element != 0 && t.delimiter == ",":
		c.codec = arrayCodec(types.elementCodec(t.element))
	default:
		c.codec = otherCodec
	}
	c.exact = c.codec.exact && modifier < 0
	if t.kind == "e" {
		c.enums = t.array
	}
	// Text is cast to the type without its modifier; what is too long is refused
	// when it is assigned to the column. An explicit cast would cut it. Strings
	// are not cast at all, or a domain over varchar(3) would cut.
	if c.codec.element == oidText && t.category != "S" {
		c.cast = "::" + quote(t.schema) + "." + quote(t.name)
	}
	switch {
	case oid == oidInt2, oid == oidInt4, oid == oidInt8, oid == oidText, oid == oidBytea,
		oid == oidUUID, oid == oidDate, oid == oidTimestamptz, oid == oidVarchar, t.kind == "e":
	default:
		c.unsafeKey = "a key of type " + t.name + " can be written in several ways"
	}
}

func (types pgTypes) elementCodec(oid uint32) *codec {
	t := types[oid]
	limited := false
	for t.kind == "d" {
		limited = limited || t.modifier >= 0
		oid, t = t.base, types[t.base]
	}
	c, ok := builtin[oid]
	if !ok {
		c = otherCodec
	}
	if limited && c.exact {
		inexact := *c
		inexact.exact = false
		return &inexact
	}
	return c
}
