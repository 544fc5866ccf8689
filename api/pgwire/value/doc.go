// Package value judges the values of a write before it is acknowledged, as
// PostgreSQL would when it gets them: is this text, or are these bytes, of the
// type; does the value fit the column.
//
// There are three answers. Good: PostgreSQL takes the value. Bad: it refuses it,
// with this SQLSTATE and message. Unknown, the zero value: this package cannot say,
// so the statement has to be passed through. Unknown is never wrong, so what depends
// on settings (DateStyle), on the moment ('now'), on the server's version or on rules that are not copied here
// is Unknown.
//
// An Error has the message as PostgreSQL writes it in English; its position in the
// text is for the caller to add, who knows where the value stood.
package value
