CREATE TABLE items (id int PRIMARY KEY, name text NOT NULL, n smallint, price numeric(8,2), at timestamptz, doc jsonb, data bytea,
	tags text[], ok boolean, big bigint, ratio double precision, day date, token uuid, code varchar(5), note text DEFAULT 'none');
CREATE TABLE assumed (id int PRIMARY KEY, name text NOT NULL, n int);
CREATE TABLE pairs (a text, b int, v text, PRIMARY KEY (a, b));
CREATE TABLE plain (id int PRIMARY KEY, name text NOT NULL UNIQUE)
