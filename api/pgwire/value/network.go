package value

import (
	"net/netip"
	"strings"

	"github.com/walproxy/walproxy/api/pgwire/catalogue"
)

// readInet takes whole addresses; what PostgreSQL fills up (10.1) it may.
func readInet(t *catalogue.Type, text string) (Datum, Verdict, *Error) {
	if strings.ContainsAny(text, "xX") {
		return Datum{}, Unknown, nil // cidr knows 0x0a
	}
	for i := range len(text) {
		if b := text[i]; !isHex(b) && b != '.' && b != ':' && b != '/' {
			return Datum{}, Bad, badSyntax(t.Display, text)
		}
	}
	address, bits, masked := strings.Cut(text, "/")
	if !masked {
		a, err := netip.ParseAddr(address)
		if err != nil || a.Is4In6() {
			return Datum{}, Unknown, nil
		}
		return Datum{Text: text}, Good, nil
	}
	if bits == "" || len(bits) > 1 && bits[0] == '0' {
		return Datum{}, Unknown, nil
	}
	p, err := netip.ParsePrefix(text)
	if err != nil || p.Addr().Is4In6() {
		return Datum{}, Unknown, nil
	}
	if t.Name == "cidr" && p.Masked() != p {
		e := refuse(codeSyntax, `invalid cidr value: "%s"`, text)
		e.Detail = "Value has bits set to right of mask."
		return Datum{}, Bad, e
	}
	return Datum{Text: text}, Good, nil
}

// inetBinary: family, bits, whether it is a cidr, length, address.
func inetBinary(t *catalogue.Type, raw []byte) (Datum, Verdict, *Error) {
	if len(raw) < 4 || len(raw) != 4+int(raw[3]) {
		return Datum{}, Unknown, nil
	}
	var a netip.Addr
	switch {
	case raw[0] == 2 && raw[3] == 4:
		a = netip.AddrFrom4([4]byte(raw[4:]))
	case raw[0] == 3 && raw[3] == 16:
		a = netip.AddrFrom16([16]byte(raw[4:]))
	default:
		return Datum{}, Unknown, nil
	}
	p, err := a.Prefix(int(raw[1]))
	if err != nil || t.Name == "cidr" && p.Addr() != a {
		return Datum{}, Unknown, nil
	}
	return Datum{}, Good, nil
}
