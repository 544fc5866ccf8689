-- Collections of which a record had an end: where to look for expired rows after
-- a start.
CREATE TABLE {{schema}}.expiring (
    collection text COLLATE "C" PRIMARY KEY
);
