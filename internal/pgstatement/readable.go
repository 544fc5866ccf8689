package pgstatement

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math"
	"strconv"
	"time"
	"unicode/utf8"

	"github.com/google/uuid"
)

// Types whose binary form people can be shown, by PostgreSQL's pg_type.dat.
const (
	oidBool        = 16
	oidInt8        = 20
	oidInt2        = 21
	oidInt4        = 23
	oidText        = 25
	oidFloat4      = 700
	oidFloat8      = 701
	oidBpchar      = 1042
	oidVarchar     = 1043
	oidDate        = 1082
	oidTimestamp   = 1114
	oidTimestamptz = 1184
	oidUUID        = 2950
)

// epoch is what binary times count from, in microseconds.
var epoch = time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)

// Readable writes a binary value for people; false: its type is not known here, or
// FromReadable would not give back these bytes.
func Readable(oid uint32, raw []byte) (text string, ok bool) {
	if text, ok = readable(oid, raw); !ok {
		return "", false
	}
	again, err := FromReadable(oid, text)
	return text, err == nil && bytes.Equal(again, raw)
}

func readable(oid uint32, raw []byte) (string, bool) {
	switch size := len(raw); {
	case oid == oidBool && size == 1:
		return strconv.FormatBool(raw[0] != 0), true
	case oid == oidInt2 && size == 2:
		return strconv.Itoa(int(int16(binary.BigEndian.Uint16(raw)))), true
	case oid == oidInt4 && size == 4:
		return strconv.Itoa(int(int32(binary.BigEndian.Uint32(raw)))), true
	case oid == oidInt8 && size == 8:
		return strconv.FormatInt(int64(binary.BigEndian.Uint64(raw)), 10), true
	case oid == oidFloat4 && size == 4:
		return strconv.FormatFloat(float64(math.Float32frombits(binary.BigEndian.Uint32(raw))), 'g', -1, 32), true
	case oid == oidFloat8 && size == 8:
		return strconv.FormatFloat(math.Float64frombits(binary.BigEndian.Uint64(raw)), 'g', -1, 64), true
	case oid == oidUUID && size == 16:
		return uuid.UUID(raw).String(), true
	case oid == oidDate && size == 4:
		return epoch.AddDate(0, 0, int(int32(binary.BigEndian.Uint32(raw)))).Format(time.DateOnly), true
	case (oid == oidTimestamp || oid == oidTimestamptz) && size == 8:
		return time.UnixMicro(epoch.UnixMicro() + int64(binary.BigEndian.Uint64(raw))).UTC().Format(layouts[oid]), true
	case oid == oidText, oid == oidVarchar, oid == oidBpchar:
		return string(raw), utf8.Valid(raw)
	}
	return "", false
}

var layouts = map[uint32]string{oidTimestamp: "2006-01-02T15:04:05.999999", oidTimestamptz: "2006-01-02T15:04:05.999999Z07:00"}

// FromReadable is the inverse of Readable.
func FromReadable(oid uint32, text string) (raw []byte, err error) {
	integer := func(size int) (n int64) {
		n, err = strconv.ParseInt(text, 10, 8*size)
		return n
	}
	switch oid {
	case oidBool:
		var b bool
		if b, err = strconv.ParseBool(text); b {
			return []byte{1}, err
		}
		return []byte{0}, err
	case oidInt2:
		return binary.BigEndian.AppendUint16(nil, uint16(integer(2))), err
	case oidInt4:
		return binary.BigEndian.AppendUint32(nil, uint32(integer(4))), err
	case oidInt8:
		return binary.BigEndian.AppendUint64(nil, uint64(integer(8))), err
	case oidFloat4:
		f, err := strconv.ParseFloat(text, 32)
		return binary.BigEndian.AppendUint32(nil, math.Float32bits(float32(f))), err
	case oidFloat8:
		f, err := strconv.ParseFloat(text, 64)
		return binary.BigEndian.AppendUint64(nil, math.Float64bits(f)), err
	case oidUUID:
		id, err := uuid.Parse(text)
		return id[:], err
	case oidDate:
		day, err := time.Parse(time.DateOnly, text)
		return binary.BigEndian.AppendUint32(nil, uint32((day.Unix()-epoch.Unix())/86400)), err
	case oidTimestamp, oidTimestamptz:
		at, err := time.Parse(layouts[oid], text)
		return binary.BigEndian.AppendUint64(nil, uint64(at.UnixMicro()-epoch.UnixMicro())), err
	case oidText, oidVarchar, oidBpchar:
		return []byte(text), nil
	}
	return nil, fmt.Errorf("no readable form is known for type %d: give its bytes", oid)
}
