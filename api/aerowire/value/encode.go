package value

import "encoding/binary"

// Append appends v as MessagePack.
func Append(dst []byte, v Value) []byte {
	switch v.kind {
	case Nil:
		return append(dst, 0xc0)
	case False:
		return append(dst, 0xc2)
	case True:
		return append(dst, 0xc3)
	case NegInt:
		return appendNegative(dst, v.Int64())
	case Int:
		return appendPositive(dst, v.num)
	case Double:
		return binary.BigEndian.AppendUint64(append(dst, 0xcb), v.num)
	case String:
		return append(append(appendTextHead(dst, len(v.text)+1), ParticleString), v.text...)
	case GeoJSON:
		return append(append(appendTextHead(dst, len(v.text)+1), ParticleGeoJSON), v.text...)
	case Bytes:
		if v.sub == 0 && v.text == "" {
			return append(dst, 0xa0)
		}
		return append(append(appendTextHead(dst, len(v.text)+1), v.sub), v.text...)
	case List:
		return appendList(dst, v)
	case Map:
		return appendMap(dst, v)
	case Ext:
		return append(append(appendExtHead(dst, len(v.text)), v.sub), v.text...)
	case Wildcard:
		return append(dst, 0xd4, extCompare, 0)
	case Infinity:
		return append(dst, 0xd4, extCompare, 1)
	}
	panic("aerowire: value of unknown kind")
}

func appendPositive(dst []byte, n uint64) []byte {
	switch {
	case n < 0x80:
		return append(dst, byte(n))
	case n < 1<<8:
		return append(dst, 0xcc, byte(n))
	case n < 1<<16:
		return binary.BigEndian.AppendUint16(append(dst, 0xcd), uint16(n))
	case n < 1<<32:
		return binary.BigEndian.AppendUint32(append(dst, 0xce), uint32(n))
	}
	return binary.BigEndian.AppendUint64(append(dst, 0xcf), n)
}

func appendNegative(dst []byte, n int64) []byte {
	switch {
	case n >= -32:
		return append(dst, byte(n))
	case n >= -1<<7:
		return append(dst, 0xd0, byte(n))
	case n >= -1<<15:
		return binary.BigEndian.AppendUint16(append(dst, 0xd1), uint16(n))
	case n >= -1<<31:
		return binary.BigEndian.AppendUint32(append(dst, 0xd2), uint32(n))
	}
	return binary.BigEndian.AppendUint64(append(dst, 0xd3), uint64(n))
}

func appendTextHead(dst []byte, n int) []byte {
	switch {
	case n < 32:
		return append(dst, 0xa0|byte(n))
	case n < 1<<8:
		return append(dst, 0xd9, byte(n))
	case n < 1<<16:
		return binary.BigEndian.AppendUint16(append(dst, 0xda), uint16(n))
	}
	return binary.BigEndian.AppendUint32(append(dst, 0xdb), uint32(n))
}

func appendExtHead(dst []byte, n int) []byte {
	switch n {
	case 1:
		return append(dst, 0xd4)
	case 2:
		return append(dst, 0xd5)
	case 4:
		return append(dst, 0xd6)
	case 8:
		return append(dst, 0xd7)
	case 16:
		return append(dst, 0xd8)
	}
	switch {
	case n < 1<<8:
		return append(dst, 0xc7, byte(n))
	case n < 1<<16:
		return binary.BigEndian.AppendUint16(append(dst, 0xc8), uint16(n))
	}
	return binary.BigEndian.AppendUint32(append(dst, 0xc9), uint32(n))
}

// appendHead appends the head of a list (small 0x90, large 0xdc) or map (0x80, 0xde).
func appendHead(dst []byte, n int, small, large byte) []byte {
	switch {
	case n < 16:
		return append(dst, small|byte(n))
	case n < 1<<16:
		return binary.BigEndian.AppendUint16(append(dst, large), uint16(n))
	}
	return binary.BigEndian.AppendUint32(append(dst, large+1), uint32(n))
}

// AppendListHead appends the head of a list of n items, which must follow.
func AppendListHead(dst []byte, n int) []byte { return appendHead(dst, n, 0x90, 0xdc) }

func appendList(dst []byte, v Value) []byte {
	items := v.Items()
	if v.sub != 0 {
		dst = append(AppendListHead(dst, len(items)+1), 0xc7, 0, v.sub)
	} else {
		dst = AppendListHead(dst, len(items))
	}
	for i := range items {
		dst = Append(dst, items[i])
	}
	return dst
}

func appendMap(dst []byte, v Value) []byte {
	pairs := v.Pairs()
	if v.sub != 0 {
		dst = append(appendHead(dst, len(pairs)+1, 0x80, 0xde), 0xc7, 0, v.sub, 0xc0)
	} else {
		dst = appendHead(dst, len(pairs), 0x80, 0xde)
	}
	for i := range pairs {
		dst = Append(dst, pairs[i].Key)
		dst = Append(dst, pairs[i].Value)
	}
	return dst
}
