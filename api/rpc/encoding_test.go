package rpc_test

import (
	"bytes"
	"fmt"
	"io"
	"strings"
	"testing"

	"connectrpc.com/connect"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

type flushCloser interface {
	io.WriteCloser
	Flush() error
}

// encoders by the name of their Content-Encoding.
var encoders = map[string]func(io.Writer) flushCloser{
	"gzip": func(w io.Writer) flushCloser { return gzip.NewWriter(w) },
	"zstd": func(w io.Writer) flushCloser {
		encoder, err := zstd.NewWriter(w, zstd.WithEncoderConcurrency(1))
		if err != nil {
			panic(err)
		}
		return encoder
	},
}

func encoded(t *testing.T, name, text string) string {
	t.Helper()
	var out bytes.Buffer
	w := encoders[name](&out)
	if _, err := io.WriteString(w, text); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

// plainOf is what an answer says, without its encoding.
func plainOf(t *testing.T, a answer) string {
	t.Helper()
	var in io.Reader = strings.NewReader(a.raw)
	var err error
	switch a.header.Get("Content-Encoding") {
	case "gzip":
		in, err = gzip.NewReader(in)
	case "zstd":
		var decoder *zstd.Decoder
		decoder, err = zstd.NewReader(in, zstd.WithDecoderConcurrency(1))
		defer decoder.Close()
		in = decoder
	}
	if err != nil {
		t.Fatal(err)
	}
	text, err := io.ReadAll(in)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// TestEncodings: bodies and answers may be compressed, and what is behind a small
// body is bounded as any.
func TestEncodings(t *testing.T) {
	for name := range encoders {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, func(o *rigOptions) { o.rest.MaxItemBytes, o.rest.MaxBodyBytes = 64<<10, 128<<10 })
			head := []string{"Content-Encoding", name, "Accept-Encoding", name}
			pad := strings.Repeat("x", 4000)
			r.want(r.do("PUT", "/v1/orders/1", encoded(t, name, `{"pad":"`+pad+`"}`), head...), 200)
			a := r.do("GET", "/v1/orders/1", "", head...)
			if text := plainOf(t, a); a.header.Get("Content-Encoding") != name || len(a.raw) > 1000 || !strings.Contains(text, pad) || a.header.Get("Vary") != "Accept-Encoding" {
				t.Errorf("%d bytes, %q: %.100s", len(a.raw), a.header, text)
			}
			if a := r.do("GET", "/v1/orders/1", "", "Accept-Encoding", name+";q=0, br"); a.header.Get("Content-Encoding") != "" || len(a.raw) < 4000 {
				t.Errorf("refused, and sent: %q", a.header)
			}
			r.want(r.do("GET", "/v1/orders/none", "", head...), 404, "code", `"not_found"`) // not worth it

			call := append(head, "Content-Type", "application/json")
			body := encoded(t, name, `{"mutation":{"collection":"orders","key":{"string":"3"},"ops":[{"set":{"fields":{"n":{"int64":"1"}}}}]}}`)
			a = r.want(r.do("POST", "/walproxy.v1.WriteService/Write", body, call...), 200)
			if a.header.Get("Content-Encoding") != "" || !strings.Contains(a.raw, "lsn") {
				t.Errorf("a write's answer: %q: %.100q", a.header, a.raw)
			}
			a = r.want(r.do("POST", "/walproxy.v1.ReadService/Get", encoded(t, name, `{"collection":"orders","key":{"string":"1"}}`), call...), 200)
			if text := plainOf(t, a); a.header.Get("Content-Encoding") != name || len(a.raw) > 1000 || !strings.Contains(text, pad) {
				t.Errorf("a record: %d bytes, %q: %.100q", len(a.raw), a.header, text)
			}

			bomb := encoded(t, name, `{"pad":"`+strings.Repeat("x", 10<<20)+`"}`)
			r.want(r.do("PUT", "/v1/orders/2", bomb, head...), 413, "code", `"too_large"`)
			r.want(r.do("PUT", "/v1/orders/2", encoded(t, name, `{"a":1}`)[:8], head...), 400, "code", `"incomplete_body"`)
			lines := append(head, "Content-Type", ndjson)
			var items strings.Builder
			for i := range 100 {
				fmt.Fprintf(&items, `{"collection":"c","key":"%d","set":{"n":1}}`+"\n", i)
			}
			answers := decodeLines(t, strings.NewReader(r.want(r.do("POST", "/v1/mutations", encoded(t, name, items.String()), lines...), 200).raw))
			if len(answers) != 100 || answers[99].Error != nil {
				t.Errorf("%d answers: %+v", len(answers), answers)
			}
			many := encoded(t, name, strings.Repeat("\n", 130<<10)+items.String())
			answers = decodeLines(t, strings.NewReader(r.do("POST", "/v1/mutations", many, lines...).raw))
			if last := answers[len(answers)-1]; last.Error == nil || last.Error.Code != "too_large" {
				t.Errorf("a body beyond the bound ends with %+v", last)
			}
		})
	}
}

// TestEncodedStream: an answer comes as soon as its item can be read.
func TestEncodedStream(t *testing.T) {
	for name, encoder := range encoders {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			in, out := io.Pipe()
			defer out.Close()
			w := encoder(out)
			answers := make(chan string)
			go func() {
				defer close(answers)
				a, err := r.streamed(in, "Content-Encoding", name, "Content-Type", ndjson)
				if err != nil {
					t.Error(err)
					return
				}
				defer a.Close()
				buf := make([]byte, 1000)
				for {
					n, err := a.Read(buf)
					if n > 0 {
						answers <- string(buf[:n])
					}
					if err != nil {
						return
					}
				}
			}()
			for i := range 3 {
				_, err := io.WriteString(w, `{"collection":"c","key":"1","set":{}}`+"\n")
				if err == nil {
					err = w.Flush()
				}
				if err != nil {
					t.Fatal(err)
				}
				if got := <-answers; !strings.HasPrefix(got, fmt.Sprintf(`{"index":%d,"lsn":%d,`, i, i+1)) {
					t.Fatalf("got %q", got)
				}
			}
			if err := w.Close(); err != nil {
				t.Fatal(err)
			}
			_ = out.Close()
			for range answers {
				t.Error("more answers than items")
			}
		})
	}
}

// zstdWire has a client's messages compressed by zstd.
func zstdWire() []connect.ClientOption {
	return []connect.ClientOption{connect.WithGRPC(), connect.WithSendCompression("zstd"),
		connect.WithAcceptCompression("zstd",
			func() connect.Decompressor {
				decoder, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1))
				if err != nil {
					panic(err)
				}
				return resetDecoder{decoder}
			},
			func() connect.Compressor {
				encoder, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1))
				if err != nil {
					panic(err)
				}
				return encoder
			})}
}

type resetDecoder struct{ *zstd.Decoder }

func (d resetDecoder) Close() error { return d.Reset(nil) }
