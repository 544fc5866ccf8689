// Package behind turns a statement that can be written behind into what is logged.
//
// A Plan is made once for a text, the types that its parameters were declared with,
// the catalogue and what of the session decides which table a name means. It writes the statement anew: one
// row, the table with its schema, every value a parameter, what is evaluated at
// the ack (now(), a sequence) among them. So many texts of many drivers are few in
// the log, and none depends on a search path.
//
// Plan.Bind judges the values of one execution. It says one of three things: here is what to log, row by row, with
// the canonical key of each; PostgreSQL would refuse it, in these words; or it
// cannot be said, and the statement has to be passed through.
package behind
