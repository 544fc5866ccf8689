// Package statement says what SQL text is, without a server: which statements it
// holds, which relations each may touch, and, of a write that names its row by
// values alone, every part of it.
//
// # What it promises
//
// It errs to one side. A text is eligible for write-behind only if every token of
// it was understood; whatever is not is passed through, as reading and writing
// anything if need be. A relation that a statement touches is named in it or is
// reached through something that is named (a view, a function, an operator, a
// trigger): so Statement.Names is a sound answer to which tables it may touch for
// any text, and what lies behind a name is for the catalogue to say.
//
// # How
//
// A lexer that follows PostgreSQL's scan.l token by token, and a parser for the few
// forms of INSERT, UPDATE and DELETE that can be written behind. There is no
// recursion on what the text nests and no C: a text can make neither stack nor
// memory grow beyond a multiple of its own length.
//
// Literals are no part of a text's shape: a driver that writes values into the
// text (psycopg2, pgx in simple mode) finds its statements in the Cache by what is
// left without them.
package statement
