-- What walproxy keeps to apply every record exactly once.
CREATE TABLE {{schema}}.store (
    one        boolean PRIMARY KEY DEFAULT true CHECK (one),
    stream     uuid,                          -- the log that this schema belongs to
    epoch      bigint      NOT NULL DEFAULT 0, -- raised by every claim
    lanes      integer     NOT NULL DEFAULT 0,
    owner      text        NOT NULL DEFAULT '', -- for people
    claimed_at timestamptz
);
INSERT INTO {{schema}}.store DEFAULT VALUES;

-- One row per lane: everything of the lane up to lsn is in the tables. Updated
-- in place with every batch, hence the room in its pages.
CREATE TABLE {{schema}}.lane (
    lane        integer PRIMARY KEY,
    incarnation uuid   NOT NULL,
    lsn         bigint NOT NULL,
    epoch       bigint NOT NULL -- of the owner that may move it
) WITH (fillfactor = 10, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 500);

-- Ends a transaction whose checkpoints are not where its owner left them,
-- before any of its data.
CREATE FUNCTION {{schema}}.moved(moves bigint, wanted bigint) RETURNS void
    LANGUAGE plpgsql AS $$
BEGIN
    IF moves <> wanted THEN
        RAISE EXCEPTION 'walproxy: % of % checkpoints moved', moves, wanted
            USING ERRCODE = 'WP001', HINT = 'Another owner claimed the stream, or the batch was applied before.';
    END IF;
END
$$;
